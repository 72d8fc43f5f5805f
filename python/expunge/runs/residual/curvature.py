"""Hessians of losses, summed over rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["add_hessian"]

Float64 = NDArray[np.float64]


def add_hessian(total: Float64, X: Float64, curvatures: Float64) -> None:
    """Add ``sum_i U_i^T W_i U_i`` to ``total``, where U_i has row i in the place of each of k outputs.

    Parameters
    ----------
    total : ndarray of float64, shape (k p, k p)
        Changed in place.
    X : ndarray of float64, shape (n, p)
        Rows.
    curvatures : ndarray of float64, shape (n, k, k)
        W: symmetric, and not negative where k is 1.

    Notes
    -----
    Every entry is a sum of n products of three factors, two of which may be roots of one: in any order.
    """
    n, p = X.shape
    if curvatures.shape[1] == 1:
        A = X * np.sqrt(curvatures[:, 0])
        total += A.T @ A
        return
    for c in range(curvatures.shape[1]):
        # One product: an output against all up to it.
        factors = (curvatures[:, c, : c + 1, np.newaxis] * X[:, np.newaxis, :]).reshape(n, -1)
        share = X.T @ factors
        total[c * p : (c + 1) * p, : (c + 1) * p] += share
        total[: c * p, c * p : (c + 1) * p] += share[:, : c * p].T
