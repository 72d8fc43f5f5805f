"""Sums over a table that a ridge model is made of, in place of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import Gram
from expunge.data.statistics import Moment, RidgeStatistics

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
