"""Gradient norms of a linear probe and the usual proxies for them, from one pass over the records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._kernels.backend import HOST
from expunge._kernels.losses import LOSSES
from expunge.grad_norms.arrays import floating
from expunge.grad_norms.probe_arrays import probe_targets

__all__ = ["ProbeMeasures", "probe_measures"]

Float64 = NDArray[np.float64]


class ProbeMeasures(NamedTuple):
    """Result of `probe_measures`; everything float64."""

    grad_norms: Float64
    """Shape (n, N): norm of each record's gradient at each checkpoint."""
    early_residuals: Float64
    """Shape (n,): norm of the residual at the early checkpoint."""
    own_probabilities: Float64
    """Shape (n,): mean over checkpoints of the probability of the true class; NaN for the squared loss."""
    losses: Float64
    """Shape (n,): loss at the last checkpoint."""


def probe_measures(
    X: ArrayLike,
    weights: ArrayLike,
    y: ArrayLike,
    *,
    loss: str = "softmax",
    early: int = 0,
    threads: int | None = None,
) -> ProbeMeasures:
    """Return gradient norms of a linear model and the usual proxies for them, from one pass over ``X``.

    Parameters
    ----------
    X : array of shape (n, d)
        Records; append a column of ones for an intercept.
    weights : array of shape (N, d, C)
        A stack of N >= 1 checkpoints, of the dtype of ``X``.
    y, loss, threads
        As in `expunge.grad_norms.probe_grad_norms`.
    early : int
        The checkpoint whose residual norm (EL2N) is wanted.

    Returns
    -------
    ProbeMeasures
        Not finite, in every field but the probabilities, for a record with a feature that is not finite.

    Raises
    ------
    TypeError, ValueError
        As `expunge.grad_norms.probe_grad_norms`; if there is no checkpoint, or ``early`` is not one.

    Examples
    --------
    >>> import numpy as np
    >>> found = probe_measures(np.array([[3.0, 4.0]]), np.zeros((1, 2, 2)), np.array([1]))
    >>> [round(float(value[0]), 4) for value in (found.early_residuals, found.own_probabilities, found.losses)]
    [0.7071, 0.5, 0.6931]
    """
    x = floating("X", X)
    stack = floating("weights", weights, like=("X", x))
    _validate.choice("loss", loss, LOSSES)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"X must have shape (n, d) with d >= 1, got {x.shape}")
    if stack.ndim != 3 or stack.shape[1] != x.shape[1] or 0 in stack.shape:
        raise ValueError(f"weights must have shape (N, {x.shape[1]}, C) to suit X, N and C >= 1, got {stack.shape}")
    targets = probe_targets(y, loss, x, stack.shape[2])
    at = _validate.count("early", early)
    if at >= stack.shape[0]:
        raise ValueError(f"early must be below the number of checkpoints, {stack.shape[0]}, got {at}")
    norms, proxies = np.empty((x.shape[0], stack.shape[0])), np.empty((x.shape[0], 3))
    HOST.run(
        "probe_grad_norms",
        x,
        stack,
        targets,
        loss,
        0.0,
        None,
        False,
        norms,
        threads=threads,
        proxies=proxies,
        early=at,
    )
    own = proxies[:, 1] / stack.shape[0] if loss != "squared" else np.full(x.shape[0], np.nan)
    return ProbeMeasures(norms, proxies[:, 0].copy(), own, proxies[:, 2].copy())
