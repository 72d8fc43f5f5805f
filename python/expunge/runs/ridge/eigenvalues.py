"""Eigenvalues of dense symmetric matrices, on as many threads as help."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expunge._kernels.backend import one_blas_thread

__all__ = ["largest_eigenvalue", "steady_blas"]

_ONE_THREAD_WIDTH = 512


def steady_blas(width: int) -> AbstractContextManager[Any]:
    """Keep small eigenproblems on one thread: more threads only wait for one another, and long on a busy machine."""
    return one_blas_thread() if width <= _ONE_THREAD_WIDTH else nullcontext()


def largest_eigenvalue(gram: NDArray[np.float64]) -> float:
    """Return the largest eigenvalue of a Gram matrix, at least 0."""
    p = len(gram)
    with steady_blas(p):
        top = linalg.eigvalsh(gram, subset_by_index=[p - 1, p - 1])[0]
    return max(float(top), 0.0)
