"""Hessians of losses, summed over rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from expunge._kernels.backend import default_threads, one_blas_thread

__all__ = ["PIECE", "add_hessian", "hessian_of"]

Float64 = NDArray[np.float64]

PIECE = 2048  # rows added by one product


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
    p, k = X.shape[1], curvatures.shape[1]
    if k == 1:
        total += _share(X, curvatures)
        return
    for c in range(k):
        _add_output(total, X, curvatures, c, p)


def _share(X: Float64, curvatures: Float64) -> Float64:
    A = X * np.sqrt(curvatures[:, 0])
    return np.asarray(A.T @ A)


def _add_output(total: Float64, X: Float64, curvatures: Float64, c: int, p: int) -> None:
    """Add the share of one output with all up to it, which is one product; no other output writes there."""
    factors = (curvatures[:, c, : c + 1, np.newaxis] * X[:, np.newaxis, :]).reshape(len(X), -1)
    share = X.T @ factors
    total[c * p : (c + 1) * p, : (c + 1) * p] += share
    total[: c * p, c * p : (c + 1) * p] += share[:, : c * p].T


def hessian_of(X: Float64, curvatures: Float64, *, threads: int | None) -> Float64:
    """Return what `add_hessian` adds for a block of a table, piece by piece: the same bits for any number of threads.

    BLAS takes one thread, as the bits of its products may depend on how many there are; pieces or outputs are shared.
    """
    p, k = X.shape[1], curvatures.shape[1]
    total = np.zeros((k * p, k * p))
    workers = default_threads() if threads is None else threads

    def share(start: int) -> Float64:
        with np.errstate(all="ignore"):  # which threads have of their own
            return _share(X[start : start + PIECE], curvatures[start : start + PIECE])

    def add(c: int, start: int) -> None:
        with np.errstate(all="ignore"):
            _add_output(total, X[start : start + PIECE], curvatures[start : start + PIECE], c, p)

    with one_blas_thread(), ThreadPoolExecutor(workers) as pool, np.errstate(all="ignore"):
        run = pool.map if workers > 1 else map
        for start in range(0, len(X), PIECE * workers if k == 1 else PIECE):
            if k > 1:
                list(run(partial(add, start=start), range(k)))
                continue
            for one in run(share, range(start, min(start + PIECE * workers, len(X)), PIECE)):
                total += one
    return total
