"""Sums over a table that a ridge model is made of, in place of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import MARGIN, UNIT, Gram, Moment, columns, gram, moment, norm
from expunge.data.statistics import RidgeStatistics
from expunge.runs.ridge.eigenvalues import largest_eigenvalue

__all__ = ["TableSums"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TableSums:
    """Sums over the rows of a table as a model sees them, with the constant column if it has one.

    Attributes
    ----------
    n_records : int
        Number of rows.
    gram : Gram
        X^T X with bounds on its error.
    moment : Moment
        X^T Y with bounds on its error.
    target_sums, target_squares : ndarray of shape (q,)
        Sums of the targets and of their squares.
    longest : (int, float)
        The longest row and its norm.
    digest : str
        That of `RidgeStatistics`.
    """

    n_records: int
    gram: Gram
    moment: Moment
    target_sums: Array
    target_squares: Array
    longest: tuple[int, float]
    digest: str

    @classmethod
    def of(cls, statistics: RidgeStatistics, *, fit_intercept: bool) -> TableSums:
        """Return the sums of statistics of a whole table.

        Raises
        ------
        ValueError
            If blocks are missing.
        """
        return cls(
            statistics.n_records,
            statistics.gram(fit_intercept=fit_intercept),
            statistics.moment(fit_intercept=fit_intercept),
            statistics.target_sums,
            statistics.target_squares,
            statistics.longest_row(fit_intercept=fit_intercept),
            statistics.digest,
        )

    @cached_property
    def largest(self) -> float:
        """Largest eigenvalue of X^T X, at least 0; not part of what is stored."""
        return largest_eigenvalue(self.gram.value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "largest"}

    def require_parts(self, left: TableSums, design: Array, targets: Array) -> None:
        """Refuse these sums if they are not those over some rows and those over all others, within proved bounds.

        Parameters
        ----------
        left : TableSums
            Over the others.
        design, targets : ndarray of shape (m, p) and (m, q)
            The rows.

        Raises
        ------
        ValueError
            If X^T X or X^T Y differ by more than the errors of both sides.
        """
        theirs = gram(design)
        both = left.gram.value + theirs.value
        off = self.gram.off + left.gram.off + theirs.off + 2.0 * UNIT * (norm(self.gram.value) + norm(both))
        apart = norm(self.gram.value - both)
        if not apart <= MARGIN * off:
            raise ValueError(_changed("X^T X", apart, off))
        sought = moment(design, targets)
        products = left.moment.value + sought.value
        rounded = 2.0 * UNIT * (columns(self.moment.value) + columns(products))
        offs = self.moment.off + left.moment.off + sought.off + rounded
        aparts = columns(self.moment.value - products)
        if not (aparts <= MARGIN * offs).all():
            at = int(np.argmax(aparts - MARGIN * offs))
            raise ValueError(_changed("X^T Y", float(aparts[at]), float(offs[at])))


def _changed(what: str, apart: float, off: float) -> str:
    return (
        f"statistics of the model must be those of the table, got {what} that is {apart:.3g} from that of its records, "
        f"where rounding explains {off:.3g}: make the model again by fit_statistics"
    )
