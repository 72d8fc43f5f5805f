"""Step sizes of ridge runs: the largest allowed, and one made of bounds that the user asserts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expunge.runs.ridge.products import within_range

__all__ = ["STEP_SIZE_SLACK", "bounded_step_size", "if_beyond", "require_step_size", "row_beyond", "smoothness"]

Array = NDArray[np.float64]

STEP_SIZE_SLACK = 1e-9
# The norm of a row is rounded a few times; a bound that equals it must be accepted.
_NORM_SLACK = 1e-12
_EPS = float(np.finfo(np.float64).eps)


def smoothness(design: Array, *, alpha: float) -> float:
    """Return L, the largest eigenvalue of X^T X + alpha I.

    Parameters
    ----------
    design : ndarray of shape (n, p), float64
        Rows as the model sees them (constant column included, if there is one).
    alpha : float
        L2 penalty.

    Returns
    -------
    float
        Smoothness constant of the sum-form ridge loss.

    Examples
    --------
    >>> import numpy as np
    >>> smoothness(np.eye(3), alpha=0.5)
    1.5
    """
    n, p = design.shape
    with np.errstate(over="ignore", invalid="ignore"):
        gram = design @ design.T if n < p else design.T @ design
    within_range("design", gram)
    size = gram.shape[0]
    top = linalg.eigvalsh(gram, subset_by_index=[size - 1, size - 1])[0]
    return max(float(top), 0.0) + alpha


def require_step_size(step_size: float, *, largest: float, n_columns: int) -> float:
    """Return 1/L, or refuse a step size above it.

    A step of exactly 1/L is accepted however L was rounded: up to ``1 + 1e-9`` times that, and one unit for each column
    of which L is an eigenvalue.

    Parameters
    ----------
    step_size : float
        Step size of a run.
    largest : float
        L, the largest eigenvalue of X^T X + alpha I.
    n_columns : int
        Columns of X.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Naming ``step_size``.

    Examples
    --------
    >>> require_step_size(0.25, largest=2.0, n_columns=3)
    0.5
    """
    limit = 1.0 / largest
    if not (step_size > 0 and step_size * largest <= 1.0 + STEP_SIZE_SLACK + n_columns * _EPS):
        raise ValueError(f"step_size must be > 0 and at most 1/L = {limit!r}, got {step_size!r}")
    return limit


def row_beyond(design: Array, *, norm_bound: float) -> tuple[int, float] | None:
    """Return the longest row and its norm if ``norm_bound`` does not bound it, else None.

    Parameters
    ----------
    design : ndarray of shape (n, p), float64
        Rows as the model sees them (constant column included, if there is one); n > 0.
    norm_bound : float
        Bound on the Euclidean norm of every row; a norm may exceed it by its own rounding.

    Returns
    -------
    (int, float) or None

    Examples
    --------
    >>> import numpy as np
    >>> row_beyond(np.array([[3.0, 4.0], [0.0, 1.0]]), norm_bound=2.0)
    (0, 5.0)
    """
    norms = np.linalg.norm(design, axis=1)
    longest = int(np.argmax(norms))
    return if_beyond((longest, float(norms[longest])), norm_bound=norm_bound)


def if_beyond(longest: tuple[int, float], *, norm_bound: float) -> tuple[int, float] | None:
    """Return the longest row, as number and norm, if ``norm_bound`` does not bound it, else None."""
    return None if longest[1] <= norm_bound * (1 + _NORM_SLACK) else longest


def bounded_step_size(*, norm_bound: float, n_bound: int, alpha: float) -> float:
    """Return 1/(n_bound norm_bound^2 + alpha), at most 1/L of any data within the bounds.

    Parameters
    ----------
    norm_bound : float
        Bound on the norm of every row.
    n_bound : int
        Bound on the number of rows.
    alpha : float
        L2 penalty.

    Returns
    -------
    float
        0 where the square of ``norm_bound`` overflows.

    Examples
    --------
    >>> bounded_step_size(norm_bound=2.0, n_bound=3, alpha=4.0)
    0.0625
    """
    return 1.0 / (n_bound * (norm_bound * norm_bound) + alpha)
