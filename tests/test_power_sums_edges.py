"""Powers, sums of powers and their divided differences, held against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from expunge.runs.ridge.power_sums import divided_powers, powers

POINTS = [0.0, 1e-4, 0.3, 0.5, 0.97, 1.0 - 2.0**-30, 1.0]
COUNTS = [0, 1, 2, 3, 4, 5, 6, 7, 11, 32, 45]


def near(found, true, n_steps):
    """Within a few roundings for each doubling, which the powers multiply; zeros are zeros."""
    return abs(Fraction(float(found)) - true) <= true * Fraction(8 * (n_steps + 1)) * Fraction(2) ** -53


@pytest.mark.parametrize("n_steps", COUNTS)
def test_powers_and_their_sums_keep_their_digits(n_steps):
    power, total = powers(np.array(POINTS), n_steps)
    assert power.shape == total.shape == (len(POINTS),)
    for i, x in enumerate(map(Fraction, POINTS)):
        assert near(power[i], x**n_steps, n_steps)
        assert near(total[i], sum((x**j for j in range(n_steps)), Fraction(0)), n_steps)


@pytest.mark.parametrize("n_steps", COUNTS)
def test_divided_differences_of_powers_and_sums_keep_their_digits_at_points_that_meet(n_steps):
    a, b = np.array(POINTS)[:, None], np.array(POINTS)[None, :]
    of_power, of_sum = divided_powers(a, b, n_steps)
    assert of_power.shape == of_sum.shape == (len(POINTS), len(POINTS))

    def slope(x, y, n):
        return sum((x**i * y ** (n - 1 - i) for i in range(n)), Fraction(0))

    for i, x in enumerate(map(Fraction, POINTS)):
        for j, y in enumerate(map(Fraction, POINTS)):
            assert near(of_power[i, j], slope(x, y, n_steps), n_steps)
            assert near(of_sum[i, j], sum((slope(x, y, k) for k in range(n_steps)), Fraction(0)), n_steps)
