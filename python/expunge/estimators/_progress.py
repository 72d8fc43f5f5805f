"""The bar of work between a run's steps: which part of it is being done, where that can take seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

__all__ = ["dense_work", "parts"]

# Operations that may take a second or two show their part from the beginning on.
_SHOWN = 1e10


def dense_work(n: int, p: int, *, decompositions: int) -> float:
    """Return about how many operations products of n records of p columns and that many eigenbases take."""
    return 10.0 * n * p * p + 25.0 * decompositions * float(p) ** 3


@contextmanager
def parts(name: str, *, work: float) -> Iterator[Callable[[str], None]]:
    """Yield what is called with the part that begins: a bar at once for much work, and after a second for any.

    Examples
    --------
    >>> with parts("fit", work=1e3) as begin:  # too quick for a bar
    ...     begin("optimum")
    """
    long = work >= _SHOWN
    with tqdm(
        desc=name, unit="part", delay=0 if long else 1, miniters=1, mininterval=0.1, disable=None, leave=False
    ) as bar:

        def begin(part: str) -> None:
            bar.set_description_str(f"{name}: {part}", refresh=long)  # drawn at once
            bar.update()

        yield begin
