"""Constants that the closed forms share, and the search for the smallest integer that will do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from expunge._validate import count, number

_MOST = 2**53


@dataclass(frozen=True)
class Losses:
    """Checked constants of losses that are averaged over records."""

    smoothness: float
    strong_convexity: float
    lipschitz: float
    n_records: int
    step_size: float

    @classmethod
    def of(
        cls, smoothness: object, strong_convexity: object, lipschitz: object, n_records: object, step_size: object
    ) -> Losses:
        """Return the constants, or raise by name."""
        smooth = number("smoothness", smoothness, low=0.0, open_low=True)
        convex = number("strong_convexity", strong_convexity, low=0.0, open_low=True)
        eta = number("step_size", step_size, low=0.0, open_low=True)
        if convex > smooth:
            raise ValueError(f"strong_convexity must be at most smoothness = {smooth:g}, got {convex:g}")
        if eta * smooth > 1.0 + 1e-15:  # 1/L itself may round up
            raise ValueError(f"step_size must be at most 1/smoothness = {1.0 / smooth:g}, got {eta:g}")
        return cls(
            smooth,
            convex,
            number("lipschitz", lipschitz, low=0.0, open_low=True),
            count("n_records", n_records, low=1),
            eta,
        )


def order_range(orders: object) -> tuple[float, float]:
    """Return the least and the largest order, checked."""
    if not isinstance(orders, (tuple, list)) or len(orders) != 2:
        raise TypeError(f"orders must be a pair (lowest, highest), got {orders!r}")
    low = number("orders[0]", orders[0], low=1.0)
    high = number("orders[1]", orders[1], low=low, open_low=True, allow_infinite=True)
    return low, high


def smallest(enough: Callable[[int], bool], *, first: int) -> int:
    """Return the smallest integer from ``first`` on for which ``enough`` holds, which must hold for all after it."""
    if enough(first):
        return first
    low, width = first, 1
    while not enough(low + width):
        low, width = low + width, 2 * width
        if low > _MOST:
            raise ValueError("sigma is too small for this target: it needs more than 2^53 steps")
    high = low + width
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def decayed(exponent: float) -> float:
    """Return ``exp(-exponent)``, never below it: what decay leaves is not nothing where float64 cannot hold it."""
    return math.exp(-min(exponent, 740.0))


def gaussian_renyi_cost(epsilon: float, delta: float) -> float:
    """Return the largest A with ``min over a of a A + log(1/delta) / (a - 1) <= epsilon``."""
    tail = -math.log(delta)
    root = epsilon / (math.sqrt(tail + epsilon) + math.sqrt(tail))
    return root * root
