"""Smallest eigenvalue of a diagonal matrix less a record: a root of the secular equation, from below."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._kernels.backend import HOST, Place

__all__ = ["smallest_eigenvalues"]

_EPS = float(np.finfo(np.float64).eps)


def smallest_eigenvalues(
    values: Any,
    rows: Any,
    *,
    floor: float,
    square: float,
    off: float = 0.0,
    place: Place = HOST,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return a lower bound on the smallest eigenvalue of ``diag(values) - x x^T`` for every row x, never below a floor.

    Parameters
    ----------
    values : ndarray of float64, shape (p,)
        Ascending.
    rows : ndarray of float64, shape (m, p)
        Records in the eigenbasis that the values belong to, in C order.
    floor : float
        A known lower bound.
    square : float
        Bound on the squared norm of every row: the equation is resolved to a few units of it per column.
    off : float
        Bound on how far the eigenvalue moves because values and rows are themselves rounded.
    place : Place
        Holds the arrays; the result is on the host.
    threads : int, optional
        Cores used.

    Returns
    -------
    ndarray of float64, shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> smallest_eigenvalues(np.array([2.0, 5.0]), np.array([[1.0, 0.0]]), floor=0.5, square=1.0).round(12)
    array([1.])
    """
    slack = 4.0 * rows.shape[1] * _EPS * square + off
    out: Any = place.empty((rows.shape[0],), "float64")
    place.run("ridge_smallest_eigenvalues", values, rows, floor, slack, out, threads=threads)
    result: NDArray[np.float64] = place.host(out)
    return result
