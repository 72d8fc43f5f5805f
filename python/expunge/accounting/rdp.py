"""Renyi differential privacy turned into (epsilon, delta), certified. [CKS20, arXiv 2004.00010], proposition 12."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from expunge._validate import real_array
from expunge.accounting._broadcast import Float64

__all__ = ["rdp_to_epsilon"]


@overload
def rdp_to_epsilon(rdp: float, order: float, delta: float) -> float: ...
@overload
def rdp_to_epsilon(rdp: ArrayLike, order: ArrayLike, delta: ArrayLike) -> float | Float64: ...
def rdp_to_epsilon(rdp: ArrayLike, order: ArrayLike, delta: ArrayLike) -> float | Float64:
    """Return the epsilon implied at ``delta`` by Renyi divergences, rounded up: the best over the orders given.

    Parameters
    ----------
    rdp : array_like of float
        Renyi divergence at each order, >= 0, infinite where it diverges. Broadcasts with ``order``.
    order : array_like of float
        Renyi order, finite and > 1. If an array, its last axis holds the alternatives to choose from.
    delta : array_like of float
        Within [0, 1]; broadcasts with what remains once the orders are chosen from.

    Returns
    -------
    float or ndarray of float64
        epsilon >= 0. Infinite where ``delta = 0`` (unless a divergence is 0) or no divergence is finite; 0 where
        ``delta = 1``. For fixed orders only: choosing the order after seeing data is not covered.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    [CKS20], proposition 12: ``epsilon = rdp + log(1 - 1/order) - (log delta + log order)/(order - 1)``. One direction
    of divergence gives one direction of (epsilon, delta). Certified, and never tighter than the exact profile.

    Examples
    --------
    >>> from expunge.accounting import rdp_to_epsilon
    >>> print(f"{rdp_to_epsilon(0.5, 10.0, 1e-5):.6f}")
    1.418017
    >>> print(f"{rdp_to_epsilon([0.1, 0.5], [2.0, 10.0], 1e-5):.6f}")
    1.418017
    """
    divergences = real_array("rdp", rdp, low=0.0, allow_infinite=True)
    orders = real_array("order", order, low=1.0, open_low=True)
    deltas = real_array("delta", delta, low=0.0, high=1.0)
    choose = orders.ndim > 0
    if choose and orders.shape[-1] == 0:
        raise ValueError(f"order must hold at least one order, got shape {orders.shape}")
    try:
        targets = deltas[..., np.newaxis] if choose else deltas
        divergences, orders, targets = np.broadcast_arrays(divergences, orders, targets)
    except ValueError:
        raise ValueError(
            f"rdp, order and delta must broadcast together, got shapes {divergences.shape}, {orders.shape}, {deltas.shape}"
        ) from None
    with np.errstate(divide="ignore", invalid="ignore"):
        # log(1 - 1/order): near 1 the difference order - 1 is exact, far from it log1p is.
        thin = np.where(orders < 2.0, np.log(orders - 1.0) - np.log(orders), np.log1p(-1.0 / orders))
        gain = (np.log(targets) + np.log(orders)) / (orders - 1.0)
        size = divergences + np.abs(np.log(orders - 1.0)) + np.abs(np.log(orders))
        size += (np.abs(np.log(targets)) + np.abs(np.log(orders))) / (orders - 1.0)
        epsilons = divergences + thin - gain
        epsilons = np.maximum(epsilons + 4.0 * np.finfo(np.float64).eps * size, 0.0)
    epsilons = np.where(np.isinf(divergences) | (targets == 0.0), np.inf, epsilons)
    epsilons = np.where((divergences == 0.0) | (targets == 1.0), 0.0, epsilons)
    best = epsilons.min(axis=-1) if choose else epsilons
    return best if best.ndim else float(best)
