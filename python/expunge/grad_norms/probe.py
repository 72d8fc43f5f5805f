"""Norms of the per-example gradients of a linear probe, from features, weights and labels alone."""

from __future__ import annotations

from typing import Any, overload

from numpy.typing import ArrayLike

from expunge import _validate
from expunge._kernels.backend import place
from expunge._kernels.losses import LOSSES
from expunge._types import DeviceArray, DeviceT, Float64, HostArray, HostFloats
from expunge.grad_norms.arrays import (
    floating,
)
from expunge.grad_norms.jax_arrays import results_in_jax
from expunge.grad_norms.probe_arrays import probe_on_device, probe_targets

__all__ = ["probe_grad_norms"]


@overload
def probe_grad_norms(
    X: HostFloats,
    weights: HostFloats,
    y: HostArray,
    *,
    loss: str = ...,
    alpha: float = ...,
    checkpoint_weights: ArrayLike | None = ...,
    squared: bool = ...,
    threads: int | None = ...,
) -> Float64: ...


@overload
def probe_grad_norms(
    X: DeviceT,
    weights: DeviceT,
    y: DeviceT,
    *,
    loss: str = ...,
    alpha: float = ...,
    checkpoint_weights: ArrayLike | None = ...,
    squared: bool = ...,
    threads: int | None = ...,
) -> Float64 | DeviceT: ...


@results_in_jax
def probe_grad_norms(
    X: HostFloats | DeviceArray,
    weights: HostFloats | DeviceArray,
    y: HostArray | DeviceArray,
    *,
    loss: str = "softmax",
    alpha: float = 0,
    checkpoint_weights: ArrayLike | None = None,
    squared: bool = False,
    threads: int | None = None,
) -> Float64 | DeviceArray:
    """Return the gradient norm of a linear model for every record, at one or many checkpoints, in one pass over ``X``.

    Parameters
    ----------
    X : array of shape (n, d)
        Records; append a column of ones for an intercept.
    weights : array of shape (N, d, C) or (d, C)
        A stack of checkpoints, or one, of the dtype of ``X``.
    y : array
        Class numbers (n,) for softmax, 0 or 1 (n,) for logistic (C = 1), real targets (n, C) - or (n,) if C = 1 - of
        the dtype of ``X`` for squared.
    loss : {"softmax", "logistic", "squared"}
        Cross-entropy, logistic loss, or half the squared error.
    alpha : float
        Adds ``alpha * weights`` to the gradient of each record. Privacy losses need 0.
    checkpoint_weights : array of shape (N,), optional
        Return the sum over checkpoints of these times the squared norms, and store nothing of size n x N.
    squared : bool
        Return squared norms; implied by ``checkpoint_weights``.
    threads : int, optional
        Threads to use; all cores by default.

    Returns
    -------
    ndarray, float64
        Shape (n, N) for a stack, (n,) for one checkpoint or with ``checkpoint_weights``.

    Raises
    ------
    TypeError
        If a dtype is not float32 or float64, dtypes differ, or labels are not integers.
    ValueError
        If shapes do not match, a label is out of range, ``alpha`` is negative or a name is unknown.

    Notes
    -----
    Without ``alpha`` the gradient is x r^T, r the residual, and its norm ||x|| ||r||. For softmax 1 - p_y is summed
    from the other classes, so a record of probability 1 - 1e-30 keeps all digits of its norm. Logits that are not
    finite give NaN for softmax and logistic.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[3.0, 4.0]]), np.array([1])
    >>> probe_grad_norms(X, np.zeros((2, 2)), y, squared=True)
    array([12.5])
    """
    where = place(X=X, weights=weights, y=y)
    x = floating("X", X)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"X must have shape (n, d) with d >= 1, got {tuple(x.shape)}")
    w = floating("weights", weights, like=("X", x))
    if w.ndim not in (2, 3) or w.shape[-2] != x.shape[1] or w.shape[-1] == 0:
        raise ValueError(
            f"weights must have shape (N, {x.shape[1]}, C) or ({x.shape[1]}, C) to suit X, got {tuple(w.shape)}"
        )
    stack = w if w.ndim == 3 else w[None]
    _validate.choice("loss", loss, LOSSES)
    targets = probe_targets(y, loss, x, stack.shape[2])
    decay = _validate.number("alpha", alpha, low=0.0)
    factors = None
    if checkpoint_weights is not None:
        factors = _validate.real_array("checkpoint_weights", checkpoint_weights, ndim=1)
        if factors.shape[0] != stack.shape[0]:
            raise ValueError(f"checkpoint_weights must have length {stack.shape[0]}, got {factors.shape[0]}")
    n = x.shape[0]
    out: Any = where.empty((n,) if factors is not None else (n, stack.shape[0]), "float64")
    settings: list[Any] = [loss, decay, factors, bool(squared)]
    if not where.on_host:
        probe_on_device(where, x, stack, targets, settings, out)
    else:
        where.run("probe_grad_norms", x, stack, targets, *settings, out, threads=threads)
    result: DeviceArray = out[:, 0] if factors is None and w.ndim == 2 else out
    return result
