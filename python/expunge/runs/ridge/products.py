"""X^T X and X^T Y of a first fit, formed once, with bounds on their rounding, and what is left of them without rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import UNIT, Gram, Moment, columns, gram, moment, norm
from expunge.runs.ridge.eigenvalues import largest_eigenvalue
from expunge.runs.ridge.held_rows import HeldRows, RowTable, all_rows
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["Products", "Remaining", "RowParts", "within_range"]

Array = NDArray[np.float64]
Kept = TypeVar("Kept")
RowParts = Callable[[], Iterable[tuple[Array, Array]]]  # all rows with their targets, some at a time, in one pass

_MOST_KEPT = 3  # of p^2 numbers each: the run's, that without the deleted rows, and one on the way


def within_range(what: str, squares: Array) -> None:
    """Refuse data whose products left the range of float64."""
    if not np.isfinite(squares).all():
        raise ValueError(
            f"{what} must have squares within the range of float64, got values that overflow: divide by a constant"
        )


class Remaining(NamedTuple):
    """H = X^T X + alpha I and X^T Y without some rows.

    Attributes
    ----------
    matrix : ndarray of shape (p, p)
        H as computed.
    off : float
        Bound on the Frobenius norm of its error.
    moment : ndarray of shape (p, q)
        X^T Y.
    moment_off : ndarray of shape (q,)
        Bounds on the norms of the errors of its columns.
    """

    matrix: Array
    off: float
    moment: Array
    moment_off: Array


class Products:
    """The products of a first fit's data that every law of its runs is made of.

    Parameters
    ----------
    design : ndarray of shape (n, p), float64
        Rows as the model sees them.
    targets : ndarray of shape (n, q), float64
        Their targets.

    Raises
    ------
    ValueError
        If products of the data leave the range of float64.

    Examples
    --------
    >>> import numpy as np
    >>> products = Products(np.eye(3), np.ones((3, 1)))
    >>> products.largest
    1.0
    >>> products.without([0], alpha=0.5).matrix.diagonal()
    array([0.5, 1.5, 1.5])
    """

    design: RowTable
    targets: RowTable
    gram: Gram
    moment: Moment
    longest: tuple[int, float] | None = None  # where it is known without the rows
    _parts: RowParts | None = None
    _sums: TableSums | None = None
    _kept: dict[object, Any]
    _lock: Lock

    def __init__(self, design: Array, targets: Array) -> None:
        self.design, self.targets, self._kept, self._lock = design, targets, {}, Lock()
        with np.errstate(over="ignore", invalid="ignore"):
            self.gram, self.moment = gram(design), moment(design, targets)
            squares = self.gram.value * 1e15  # room for the numbers that split them exactly
        within_range("design", squares)
        within_range("targets", self.moment.value)

    @classmethod
    def of_sums(
        cls, sums: TableSums, *, design: HeldRows, targets: HeldRows, parts: RowParts | None = None
    ) -> Products:
        """Return the products of a table whose sums have been formed; of its rows only some are held.

        ``parts`` reads the table once more, for what looks at every row.
        """
        result = cls.__new__(cls)
        result._parts, result._sums, result._kept, result._lock = parts, sums, {}, Lock()
        result.design, result.targets = design, targets
        result.gram, result.moment = sums.gram, sums.moment
        result.longest = sums.longest
        return result

    def kept(self, key: object, make: Callable[[], Kept]) -> Kept:
        """Return what was made of these products under a key, or make it; the last few are kept.

        Eigenbases take p^3 operations each: the laws before and after a deletion, and those of one deletion and the
        next record's, share them.
        """
        with self._lock:
            known: list[Kept] = self._kept.pop(key, [])
        found = known or [make()]
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return found[0]

    def parts(self, *, what: str) -> Iterable[tuple[Array, Array]]:
        """Return all rows with their targets, some at a time: at once where they are held.

        Raises
        ------
        ValueError
            If they lie in a table that is not given, naming ``what`` needs them.
        """
        if self._parts is not None:
            return self._parts()
        return [(all_rows(self.design, what=what), all_rows(self.targets, what=what))]

    @cached_property
    def largest(self) -> float:
        """Largest eigenvalue of X^T X, at least 0."""
        return largest_eigenvalue(self.gram.value) if self._sums is None else self._sums.largest

    def without(self, removed: Sequence[int], *, alpha: float) -> Remaining:
        """Return the products of the rows that remain, by subtracting those of the others."""
        gone, targets = self.design[list(removed)], self.targets[list(removed)]
        theirs = gram(gone)
        matrix = self.gram.value - theirs.value
        matrix[np.diag_indices_from(matrix)] += alpha
        size = UNIT * norm(matrix)  # of a rounding: the difference and alpha
        off = self.gram.off + theirs.off + 3.0 * size
        their_moment = moment(gone, targets)
        left = self.moment.value - their_moment.value
        lost = their_moment.off + UNIT * columns(left)
        return Remaining(matrix, off, left, self.moment.off + lost)
