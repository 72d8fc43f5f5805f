"""Sums over records that come from files, and what no table's are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expunge._files.values import floats
from expunge._kernels.backend import one_blas_thread
from expunge.data.close_products import MARGIN, TINY, UNIT, Gram, Moment, norm

__all__ = ["Sums", "check_sums"]

Array = NDArray[np.float64]

# Rounding of sums that are compared with one another, far above that of blocks and far below any other number.
_CLOSE = 1e-6


class Sums(NamedTuple):
    """Sums over records: X^T X and X^T Y with their errors, the targets and their squares, and the longest row."""

    n_records: int
    gram: Gram
    moment: Moment
    target_sums: Array
    target_squares: Array
    longest: tuple[int, float]


def check_sums(sums: Sums, *, columns: int, outputs: int, intercept: bool, classify: bool) -> None:
    """Check sums as read.

    Parameters
    ----------
    sums : Sums
        As read.
    columns, outputs : int
        Columns of X, the constant one included if there is one, and of Y.
    intercept, classify : bool
        Whether the last column is constant, and whether targets are classes.

    Raises
    ------
    ValueError
        Naming what no table has.
    """
    n_records, gram, moment = sums.n_records, sums.gram, sums.moment
    floats("gram", gram.value, (columns, columns))
    floats("moment", moment.value, (columns, outputs))
    for name, values in (("moment_rest", moment.rest), ("target_sums", sums.target_sums)):
        floats(name, values, (outputs,))
    floats("target_squares", sums.target_squares, (outputs,))
    _check_errors(sums)
    if not np.array_equal(gram.value, gram.value.T):
        raise ValueError("gram must be symmetric")
    squares, off = gram.value.diagonal(), gram.off
    if not (squares >= 0).all() or not _has_root(gram.value, 2.0 * off):
        raise ValueError("gram must be a sum of squares, got a negative eigenvalue")
    if intercept and gram.value[-1, -1] != n_records:
        raise ValueError(f"gram must end in the number of records, {n_records}, got {gram.value[-1, -1]!r}")
    if intercept and not np.array_equal(moment.value[-1], sums.target_sums):
        raise ValueError("target_sums must be those of the moment's constant column")
    if not (sums.target_squares >= 0).all():
        raise ValueError("target_squares must be sums of squares, got a negative number")
    _check_products(sums, squares + off)
    counts = sums.target_sums
    if classify and not (np.array_equal(counts, sums.target_squares) and counts.sum() == n_records):
        raise ValueError(f"target_sums must be the records of each class, {n_records} in all, got {counts.tolist()}")
    if classify and (counts % 1).any():
        raise ValueError(f"target_sums must be whole numbers of records, got {counts.tolist()}")
    _check_longest(sums, float(squares.sum()), off * np.sqrt(columns))


def _check_products(sums: Sums, squares: Array) -> None:
    """Refuse products with targets that are too large for the squares of these, by Cauchy and Schwarz."""
    n, moment, room = sums.n_records, sums.moment, 1.0 + _CLOSE
    with np.errstate(under="ignore", over="ignore"):
        lengths = np.sqrt(room * sums.target_squares + 2.0 * n * TINY)
        if not (np.abs(moment.value) <= room * np.sqrt(squares)[:, None] * lengths + moment.off).all():
            raise ValueError("moment must be of the targets whose squares are target_squares, got larger products")
        if not (np.abs(sums.target_sums) <= room * np.sqrt(n) * lengths + moment.off).all():
            raise ValueError("target_sums must be of the targets whose squares are target_squares, got larger sums")


def _check_errors(sums: Sums) -> None:
    """Refuse bounds on errors that no sums have: none of these is less than one rounding."""
    gram, rest = sums.gram, sums.moment.rest
    if not MARGIN * UNIT <= gram.roundings < np.inf:
        raise ValueError(f"gram_roundings must be at least {MARGIN * UNIT:.4g} and finite, got {gram.roundings!r}")
    if not 0 < gram.rest < np.inf:
        raise ValueError(f"gram_rest must be > 0 and finite, got {gram.rest!r}")
    if not (rest > 0).all():
        raise ValueError("moment_rest must be bounds > 0")


def _has_root(gram: Array, off: float) -> bool:
    """Return whether a matrix is a Gram matrix, within ``off`` and the rounding of finding out."""
    p = len(gram)
    room = off + 4.0 * (p + 2.0) * p * UNIT * norm(gram.diagonal()[:, None]) + p * TINY
    try:
        with one_blas_thread():  # a third of p^3 operations: an eigenproblem takes far longer
            linalg.cholesky(gram + room * np.eye(p), check_finite=False, overwrite_a=True)
    except linalg.LinAlgError:
        return False
    return True


def _check_longest(sums: Sums, trace: float, off: float) -> None:
    """Refuse a longest row that is longer than all rows together, or shorter than their mean."""
    row, length = sums.longest
    if row >= sums.n_records:
        raise ValueError(f"longest row must be one of {sums.n_records}, got {row}")
    if not 0 <= length < np.inf:
        raise ValueError(f"longest row must have a finite norm >= 0, got {length!r}")
    square, room = length * length, _CLOSE * trace + off + sums.n_records * TINY
    if not square <= trace + room or not square * sums.n_records >= trace - room:
        raise ValueError(
            f"longest row must be as long as rows whose squares add up to {trace:.6g} can be, got {length:.6g}"
        )
