"""Rows of a table that lies elsewhere, of which only a few are held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeldRows", "RowTable", "all_rows"]

Array = NDArray[np.float64]


class HeldRows:
    """A matrix of which some rows are known by number: those asked about, and zeros for those deleted before.

    Parameters
    ----------
    shape : (int, int)
        Shape of the whole matrix.
    numbers : sequence of int
        Numbers of the rows held, each once.
    values : ndarray of shape (len(numbers), shape[1]), float64
        The rows.
    gone : iterable of int
        Rows that count as zeros.

    Examples
    --------
    >>> import numpy as np
    >>> rows = HeldRows((9, 2), [7, 3], np.array([[1.0, 2.0], [3.0, 4.0]]), gone=[0])
    >>> rows[[3, 0]].tolist()
    [[3.0, 4.0], [0.0, 0.0]]
    >>> rows[[1]]
    Traceback (most recent call last):
        ...
    LookupError: row 1 is not held: the table it lies in must be given
    """

    def __init__(
        self,
        shape: tuple[int, int],
        numbers: Sequence[int] | NDArray[np.int64] = (),
        values: Array | None = None,
        *,
        gone: Iterable[int] = (),
    ) -> None:
        self.shape = shape
        given = np.asarray(numbers, dtype=np.int64)
        order = np.argsort(given, kind="stable")
        self._numbers = given[order]
        self._values = np.zeros((0, shape[1])) if values is None else values[order]
        self._gone = np.array(sorted(gone), dtype=np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | NDArray[np.int64]) -> Array:
        wanted = np.asarray(rows, dtype=np.int64)
        result = np.zeros((len(wanted), self.shape[1]))
        at = np.searchsorted(self._numbers, wanted)
        held = np.zeros(len(wanted), dtype=bool)
        inside = at < len(self._numbers)
        held[inside] = self._numbers[at[inside]] == wanted[inside]
        result[held] = self._values[at[held]]
        missing = ~held & ~np.isin(wanted, self._gone)
        if missing.any():
            raise LookupError(f"row {wanted[missing][0]} is not held: the table it lies in must be given")
        return result


RowTable = Array | HeldRows


def all_rows(table: RowTable, *, what: str) -> Array:
    """Return a matrix that is held as a whole, or refuse ``what``, which needs it.

    Raises
    ------
    ValueError
        If only some rows are held.
    """
    if isinstance(table, HeldRows):
        raise ValueError(f"{what} needs all records at hand, and these lie in a table: fit on arrays of them")
    return table
