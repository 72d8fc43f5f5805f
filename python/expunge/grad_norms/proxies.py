"""Scores that people use in place of a privacy loss, each defined once: EL2N, GraNd, the C-proxy and the like."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PROXY_TITLES", "early_checkpoint", "proxies_of"]

Float64 = NDArray[np.float64]

# By the name of their column, in the order of columns.
PROXY_TITLES = {
    "average_grad_norm": "average gradient norm",
    "el2n": "EL2N",
    "c_proxy": "C-proxy",
    "grand": "GraNd",
    "loss": "loss",
}


def early_checkpoint(steps: ArrayLike, *, n_steps: int) -> int:
    """Return the index of the checkpoint nearest a tenth of training, where EL2N and GraNd are taken.

    Examples
    --------
    >>> early_checkpoint([0, 40, 80, 120], n_steps=1000)
    2
    """
    return int(np.abs(np.asarray(steps) - 0.1 * n_steps).argmin())


def proxies_of(
    grad_norms: Float64,
    *,
    early: int,
    residual_norms: ArrayLike | None = None,
    own_probabilities: ArrayLike | None = None,
    losses: ArrayLike | None = None,
) -> dict[str, Float64]:
    """Return the proxies of records, by the name of their column.

    Parameters
    ----------
    grad_norms : ndarray of float64, shape (n, N)
        Norm of each record's gradient at each checkpoint.
    early : int
        Column of the early checkpoint.
    residual_norms : array_like, shape (n,), optional
        Norm of each record's residual (predicted probabilities minus the true ones) at the early checkpoint.
    own_probabilities : array_like, shape (n,) or (n, N), optional
        Probability of the true class at each checkpoint, or its mean over them.
    losses : array_like, shape (n,), optional
        Loss at the last checkpoint.

    Returns
    -------
    dict of str to ndarray of float64, shape (n,)
        ``average_grad_norm`` over checkpoints, ``el2n`` (norm of the residual, early), ``c_proxy`` (mean probability of
        the true class), ``grand`` (norm of the gradient, early) and ``loss``; those without inputs are omitted.

    Examples
    --------
    >>> import numpy as np
    >>> found = proxies_of(np.array([[3.0, 1.0]]), early=0, own_probabilities=[[0.5, 1.0]])
    >>> {name: value.tolist() for name, value in found.items()}
    {'average_grad_norm': [2.0], 'c_proxy': [0.75], 'grand': [3.0]}
    """
    found = {"average_grad_norm": grad_norms.mean(axis=1)}
    if residual_norms is not None:
        found["el2n"] = np.asarray(residual_norms, dtype=np.float64)
    if own_probabilities is not None:
        own = np.asarray(own_probabilities)
        found["c_proxy"] = own.mean(axis=1, dtype=np.float64) if own.ndim == 2 else np.asarray(own, dtype=np.float64)
    found["grand"] = grad_norms[:, early].copy()
    if losses is not None:
        found["loss"] = np.asarray(losses, dtype=np.float64)
    return found
