"""Powers and sums of powers, and their divided differences, with every digit float64 can keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["divided_powers", "powers"]

Array = NDArray[np.float64]


def powers(a: Array, n_steps: int) -> tuple[Array, Array]:
    """Return a^N and sum_{j<N} a^j, by doubling: every term of the sum keeps its digits."""
    power, total = np.ones_like(a), np.zeros_like(a)
    for bit in format(n_steps, "b"):
        total = total * (1.0 + power)
        power = power * power
        if bit == "1":
            total = total + power
            power = power * a
    return power, total


def divided_powers(a: Array, b: Array, n_steps: int) -> tuple[Array, Array]:
    """Return the divided differences at (a, b) of x^N and of sum_{j<N} x^j, by doubling (sums of equal signs)."""
    power_a, power_b = np.ones_like(a), np.ones_like(b)
    sum_b = np.zeros_like(b)
    of_power, of_sum = np.zeros(np.broadcast(a, b).shape), np.zeros(np.broadcast(a, b).shape)
    for bit in format(n_steps, "b"):
        of_sum = of_sum * (1.0 + power_a) + sum_b * of_power
        sum_b = sum_b * (1.0 + power_b)
        of_power = of_power * (power_a + power_b)
        power_a, power_b = power_a * power_a, power_b * power_b
        if bit == "1":
            of_sum = of_sum + of_power
            sum_b = sum_b + power_b
            of_power = of_power * a + power_b
            power_a, power_b = power_a * a, power_b * b
    return of_power, of_sum
