"""Work of a verification: its limit, checked before any of it is done, and its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from expunge.certificates.schema import VerificationError
from expunge.runs.base import Run

__all__ = ["DEFAULT_BUDGET", "check_budget", "stages"]

# About a minute or two of one core that does dense algebra at 10 per nanosecond.
DEFAULT_BUDGET = 1e12
# Work that may take a second or two shows where it is.
_SHOWN = 1e10
_STAGES = ("data", "assumptions", "claim", "model")


def check_budget(run: Run[Any], *, method: str, budget: float) -> None:
    """Refuse a verification that takes more than ``budget`` operations.

    Raises
    ------
    VerificationError
        With ``field == "budget"``.
    """
    work = run.work(method=method)
    if not work <= budget:
        raise VerificationError(
            "budget",
            f"verification takes about {work:.2g} operations ({run.n_records} records, {run.n_features} features; "
            f"{run.summary()}), more than {budget:.2g}; pass a larger budget to do it anyway",
        )


@contextmanager
def stages(run: Run[Any], *, method: str) -> Iterator[Callable[[str], None]]:
    """Yield a function to call with each stage as it begins: a progress bar, if the verification can take seconds.

    Examples
    --------
    >>> from expunge.runs.ridge import Phase, RidgeRun
    >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
    ...                n_records=3, n_features=3, n_outputs=1, phases=(Phase(n_steps=9, noise_std=0.5),), deleted=(0,))
    >>> with stages(run, method="exact") as begin:  # too little work for a bar
    ...     begin("data")
    """
    long = run.work(method=method) >= _SHOWN
    with tqdm(total=len(_STAGES), unit="stage", desc="verify", disable=None if long else True, leave=False) as bar:

        def begin(stage: str) -> None:
            bar.update(_STAGES.index(stage) - bar.n)
            bar.set_description(f"verify: {stage}")  # drawn at once

        yield begin
