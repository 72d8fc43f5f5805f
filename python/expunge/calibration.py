"""Inversion of accounting: the smallest noise, or the fewest steps, that reach a delta.

Both searches evaluate a caller's ``delta_at`` and return only points at which it was evaluated and found small enough,
so the answer is as certified as ``delta_at`` is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

from expunge._validate import number

__all__ = ["HEADROOM", "smallest_noise", "smallest_steps"]

# Relative room left below the target delta: covers the rounding error of dense float64 algebra when a certificate is
# recomputed with another BLAS or another order of summation.
HEADROOM = 1e-9

_MAX_STEPS = 1 << 40


def _log_ratio(value: float, goal: float) -> float:
    """Return log(value / goal), positive exactly when value > goal and negative otherwise; NaN raises."""
    if math.isnan(value):
        raise ArithmeticError("delta_at returned NaN: nothing can be certified")
    if not value > 0:
        return -1e3  # finite, for the root finder; log delta never falls below -745
    ratio = math.log(value) - math.log(goal)
    # Never 0: the root finder would stop there, also where delta meets the goal long after it first does.
    return max(ratio, 5e-324) if value > goal else min(ratio, -5e-324)


def smallest_noise(
    delta_at: Callable[[float], float],
    *,
    delta: float,
    start: float = 1.0,
    tolerance: float = 1e-9,
    least: float = 1e-299,
    most: float = 1e299,
) -> float:
    """Return the smallest noise standard deviation at which ``delta_at`` is at most ``delta``, rounded up.

    Parameters
    ----------
    delta_at : callable
        Maps a noise standard deviation > 0 to delta; must not increase.
    delta : float
        Target, in (0, 1).
    start : float
        First guess, > 0.
    tolerance : float
        Relative width at which the search stops.
    least, most : float
        Only noise between these is tried, 0 < least <= most.

    Returns
    -------
    float
        A value at which ``delta_at`` was evaluated and found <= delta (1 - 1e-9), within ``tolerance`` (relative) of
        the smallest, or ``least`` if that suffices; ``inf`` if no noise up to ``most`` does. Where rounding makes
        ``delta_at`` jitter, it may be as far above the smallest as the jitter reaches.

    Raises
    ------
    ArithmeticError
        If ``delta_at`` returns NaN.

    Examples
    --------
    >>> from expunge.accounting import gdp_delta
    >>> noise = smallest_noise(lambda std: float(gdp_delta(1 / std, 1.0)), delta=1e-5)
    >>> bool(gdp_delta(1 / noise, 1.0) <= 1e-5 < gdp_delta(1 / (noise * (1 - 1e-6)), 1.0))
    True
    """
    delta = number("delta", delta, low=0, high=1, open_low=True, open_high=True)
    start = number("start", start, low=0, open_low=True)
    least = number("least", least, low=0, open_low=True)
    most = number("most", most, low=least)
    goal = delta * (1 - HEADROOM)

    def gap(log_noise: float) -> float:
        return _log_ratio(delta_at(noise_at(log_noise)), goal)

    bottom, top = math.log(least), math.log(most)

    def noise_at(log_noise: float) -> float:
        # The ends are met to the bit, whatever exp and log round to.
        return least if log_noise <= bottom else most if log_noise >= top else math.exp(log_noise)

    high = min(max(math.log(start), bottom), top)
    at_high = gap(high)
    low, at_low = high, at_high
    stride = 0.05
    while not at_high <= 0 < at_low:
        if at_high > 0:
            if high >= top:
                return math.inf
            low, at_low = high, at_high
            high = min(high + stride, top)
            at_high = gap(high)
        else:
            if low <= bottom:
                return least
            high, at_high = low, at_low
            low = max(low - stride, bottom)
            at_low = gap(low)
        stride = min(2 * stride, 20.0)
    # Near its root log delta is nearly straight in log noise; the answer then steps outward until it passes.
    root = float(brentq(gap, low, high, xtol=0.25 * tolerance, rtol=1e-15)) if high - low > tolerance else high
    outward = 0.25 * tolerance
    # Rounding makes a steep delta jitter, and candidates beside the root fail that lie above it.
    while (candidate := root + outward) < high:
        if gap(candidate) <= 0:
            return noise_at(candidate)
        outward *= 2
    return noise_at(high)


def smallest_steps(delta_at: Callable[[int], float], *, delta: float) -> int:
    """Return the fewest steps at which ``delta_at`` is at most ``delta``.

    Parameters
    ----------
    delta_at : callable
        Maps a number of steps >= 0 to delta; must not increase.
    delta : float
        Target, in (0, 1).

    Returns
    -------
    int
        The smallest count at which ``delta_at`` is <= delta (1 - 1e-9).

    Raises
    ------
    ValueError
        If 2^40 steps do not suffice.
    ArithmeticError
        If ``delta_at`` returns NaN.

    Examples
    --------
    >>> smallest_steps(lambda steps: 0.5 ** steps, delta=1e-3)
    10
    """
    goal = number("delta", delta, low=0, high=1, open_low=True, open_high=True) * (1 - HEADROOM)

    def enough(steps: int) -> bool:
        return _log_ratio(delta_at(steps), goal) <= 0

    if enough(0):
        return 0
    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if high > _MAX_STEPS:
            raise ValueError(f"noise_std is too small: {_MAX_STEPS} steps do not reach delta = {delta}")
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
