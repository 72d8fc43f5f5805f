"""Renyi differential privacy turned into (epsilon, delta), certified. [CKS20, arXiv 2004.00010], proposition 12."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from expunge._validate import number, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting._float_mode import ieee_arithmetic

__all__ = ["rdp_to_epsilon"]


Curve = Callable[[Float64], ArrayLike]


@overload
def rdp_to_epsilon(rdp: Curve, order: tuple[float, float] | None, delta: float) -> float: ...
@overload
def rdp_to_epsilon(rdp: float, order: float, delta: float) -> float: ...
@overload
def rdp_to_epsilon(rdp: ArrayLike, order: ArrayLike, delta: ArrayLike) -> float | Float64: ...
@ieee_arithmetic
def rdp_to_epsilon(rdp: ArrayLike | Curve, order: ArrayLike | None, delta: ArrayLike) -> float | Float64:
    """Return the epsilon implied at ``delta`` by Renyi divergences, rounded up: the best of the orders given.

    Parameters
    ----------
    rdp : array_like of float, or callable
        Renyi divergence at each order, >= 0, infinite where it diverges. Broadcasts with ``order``. Or a function
        that takes orders (m,) and returns their divergences (m,): the order is then chosen on a continuum.
    order : array_like of float, or None
        Renyi order, finite and > 1. If an array, its last axis holds the alternatives to choose from. For a callable:
        None, or the pair (lowest, highest) to stay within.
    delta : array_like of float
        Within [0, 1]; broadcasts with what remains once the orders are chosen from.

    Returns
    -------
    float or ndarray of float64
        epsilon >= 0. Infinite where ``delta = 0`` (unless a divergence is 0) or no divergence is finite; 0 where
        ``delta`` is at least the total variation distance that the divergence allows, which 1 always is. For fixed
        orders only: choosing the order after seeing data is not covered.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    See Also
    --------
    sampled_gaussian_rdp : Divergences of a step of noisy SGD.
    GaussianPair.epsilon : Exact, where both laws are Gaussian.

    Notes
    -----
    [CKS20, arXiv 2004.00010], proposition 12: ``epsilon = rdp + log(1 - 1/order) - (log delta + log order)/(order -
    1)``. Epsilon 0 needs a delta of at least the total variation distance, which is at most ``sqrt(rdp / 2)`` (Pinsker)
    and ``sqrt(1 - exp(-rdp))`` (Bretagnolle and Huber), as the Kullback-Leibler divergence is at most the Renyi
    divergence of any order above 1. One direction of divergence gives one direction of (epsilon, delta). Certified (if
    the divergences are), and never tighter than the exact profile. For a callable, powers of two of ``order - 1`` are
    searched, outward until the best is inside, then refined: the scale of the best order grows like ``1/mu``, and a
    fixed grid can be 39 times too large. Any order gives a valid epsilon, so the search cannot break the guarantee.

    ==================================  =====
    Edge case                           Value
    ==================================  =====
    ``rdp_to_epsilon(0.0, 2.0, 0.0)``   0.0
    ``rdp_to_epsilon(0.1, 2.0, 0.0)``   inf
    ``rdp_to_epsilon(inf, 2.0, 1e-5)``  inf
    ``rdp_to_epsilon(inf, 2.0, 1.0)``   0.0
    ==================================  =====

    Examples
    --------
    >>> from expunge.accounting import rdp_to_epsilon
    >>> print(f"{rdp_to_epsilon(0.5, 10.0, 1e-5):.6f}")
    1.418011
    >>> print(f"{rdp_to_epsilon([0.1, 0.5], [2.0, 10.0], 1e-5):.6f}")
    1.418011
    >>> print(f"{rdp_to_epsilon(lambda orders: 0.05 * orders, None, 1e-5):.6f}")
    1.308118
    """
    if callable(rdp):
        return _continuous(rdp, order, number("delta", delta, low=0.0, high=1.0))
    if order is None:
        raise ValueError("order must be given unless rdp is a callable, got None")
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
        shapes = f"{divergences.shape}, {orders.shape}, {deltas.shape}"
        raise ValueError(f"rdp, order and delta must broadcast together, got shapes {shapes}") from None
    with np.errstate(divide="ignore"):
        # log(1 - 1/order): near 1 the difference order - 1 is exact, far from it log1p is.
        thin = np.where(orders < 2.0, np.log(orders - 1.0) - np.log(orders), np.log1p(-1.0 / orders))
        gain = (np.log(targets) + np.log(orders)) / (orders - 1.0)
        # Where epsilon is positive, the terms of ``thin`` but log(order - 1) are at most the others together.
        size = divergences + np.abs(np.log(orders - 1.0))
        size += (np.abs(np.log(targets)) + np.abs(np.log(orders))) / (orders - 1.0)
        epsilons = divergences + thin - gain
        epsilons = np.maximum(epsilons + 4.0 * np.finfo(np.float64).eps * size, 0.0)
    epsilons = np.where(divergences <= divergence_within_distance(targets), 0.0, epsilons)
    best = epsilons.min(axis=-1) if choose else epsilons
    return best if best.ndim else float(best)


def divergence_within_distance(distance: Float64) -> Float64:
    """Return the largest Renyi divergence that bounds total variation by ``distance``, rounded down; infinite at 1."""
    with np.errstate(divide="ignore", under="ignore"):
        square = np.square(distance)
        # Near 1 the square is rounded by much of what it leaves of 1; 1 - distance is exact there.
        bretagnolle = -np.where(distance < 0.9, np.log1p(-square), np.log((1.0 - distance) * (1.0 + distance)))
        largest = np.maximum(2.0 * square, bretagnolle) * (1.0 - 8.0 * np.finfo(np.float64).eps)
    # Where the square underflows its rounding is absolute: leave out a few of the smallest numbers.
    return np.asarray(np.where(square < 1e-300, np.maximum(largest - 2e-323, 0.0), largest), dtype=np.float64)


def _powers(first: int, last: int) -> Float64:
    return np.asarray(np.exp2(np.arange(first, last, dtype=np.float64)), dtype=np.float64)


def _continuous(curve: Curve, order: ArrayLike | None, delta: float) -> float:
    low, high = -64, 64  # powers of two of order - 1
    ends = (2.0**low, 2.0**high)
    if order is not None:
        pair = real_array("order", order, ndim=1, low=1.0, open_low=True)
        if pair.size != 2 or not pair[0] < pair[1]:
            raise ValueError(f"order must be None or a pair (lowest, highest) for a callable rdp, got {order!r}")
        ends = (float(pair[0]) - 1.0, float(pair[1]) - 1.0)

    def evaluate(excess: Float64) -> tuple[Float64, Float64]:
        orders = np.unique(1.0 + np.clip(excess, *ends))
        orders = orders[orders > 1.0]
        values = real_array("rdp(order)", curve(orders), low=0.0, allow_infinite=True)
        if values.shape != orders.shape:
            raise ValueError(f"rdp(order) must have the shape of its argument {orders.shape}, got {values.shape}")
        return orders - 1.0, np.array(
            [rdp_to_epsilon(float(v), float(a), delta) for v, a in zip(values, orders, strict=True)]
        )

    first, last = (-8, 9) if order is None else (int(np.floor(np.log2(ends[0]))), int(np.ceil(np.log2(ends[1]))) + 1)
    excess, epsilons = evaluate(_powers(first, last))
    while order is None:
        best = int(epsilons.argmin())
        if best == 0 and first > low and epsilons[0] > 0.0:
            more = evaluate(_powers(max(first - 8, low), first))
            first = max(first - 8, low)
        elif best == epsilons.size - 1 and last <= high:
            more = evaluate(_powers(last, min(last + 8, high + 1)))
            last = min(last + 8, high + 1)
        else:
            break
        excess, epsilons = np.concatenate([excess, more[0]]), np.concatenate([epsilons, more[1]])
        at = np.argsort(excess)
        excess, epsilons = excess[at], epsilons[at]
    result = float(epsilons.min())
    for _ in range(4):
        best = int(epsilons.argmin())
        around = excess[max(best - 1, 0)], excess[min(best + 1, excess.size - 1)]
        if not np.isfinite(result) or around[0] == around[1]:
            break
        excess, epsilons = evaluate(np.geomspace(*around, 17, dtype=np.float64))
        result = min(result, float(epsilons.min()))
    return result
