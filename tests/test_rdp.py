"""Renyi divergence to (epsilon, delta)."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.accounting import gdp_epsilon, rdp_to_epsilon


def exact(rdp, order, delta):
    """Return proposition 12, or 0 where total variation is within delta (Pinsker, Bretagnolle and Huber)."""
    with mpmath.workdps(50):
        rdp, order, delta = mpmath.mpf(rdp), mpmath.mpf(order), mpmath.mpf(delta)
        if rdp <= max(2 * delta**2, -mpmath.log1p(-(delta**2)) if delta < 1 else mpmath.inf):
            return mpmath.mpf(0)
        return rdp + mpmath.log(1 - 1 / order) - (mpmath.log(delta) + mpmath.log(order)) / (order - 1)


@given(
    st.floats(-9, 3).map(lambda x: 10.0**x),
    st.floats(-9, 6).map(lambda x: 1.0 + 10.0**x),
    st.floats(-300, -0.01).map(lambda x: 10.0**x),
)
def test_is_proposition_12_or_total_variation_rounded_up(rdp, order, delta):
    value, truth = rdp_to_epsilon(rdp, order, delta), exact(rdp, order, delta)
    assert value >= max(truth, 0)
    size = rdp + abs(math.log(order - 1)) + math.log(order) + (abs(math.log(delta)) + math.log(order)) / (order - 1)
    assert value <= max(truth, 0) + 10 * np.finfo(float).eps * size


@given(st.floats(0.05, 4.0), st.floats(-12, -2).map(lambda x: 10.0**x))
def test_never_beats_the_exact_conversion_of_a_gaussian(mu, delta):
    orders = 1 + np.geomspace(1e-3, 1e4, 400)
    epsilon = rdp_to_epsilon(orders * mu**2 / 2, orders, delta)
    assert epsilon >= gdp_epsilon(mu, delta) * (1 - 1e-12)
    assert epsilon <= 2 * gdp_epsilon(mu, delta) + mu


def test_the_best_order_is_chosen_on_the_last_axis():
    orders = np.array([2.0, 10.0, 50.0])
    rdp = np.array([[0.1, 0.5, 2.5], [1.0, 5.0, 25.0]])
    best = rdp_to_epsilon(rdp, orders, [1e-5, 1e-6])
    assert best.shape == (2,)
    for i, delta in enumerate([1e-5, 1e-6]):
        assert best[i] == min(rdp_to_epsilon(rdp[i, j], orders[j], delta) for j in range(3))
    assert rdp_to_epsilon(rdp, 2.0, 1e-5).shape == (2, 3)
    assert isinstance(rdp_to_epsilon([0.1, 0.5], [2.0, 10.0], 1e-5), float)


def test_edges():
    assert rdp_to_epsilon(0.0, 2.0, 1e-5) == 0.0
    assert rdp_to_epsilon(0.0, 2.0, 0.0) == 0.0
    assert rdp_to_epsilon(0.5, 2.0, 0.0) == math.inf
    assert rdp_to_epsilon(0.5, 2.0, 1.0) == 0.0
    assert rdp_to_epsilon(math.inf, 2.0, 1e-5) == math.inf
    assert rdp_to_epsilon([math.inf, 0.5], [50.0, 10.0], 1e-5) == rdp_to_epsilon(0.5, 10.0, 1e-5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-0.1, 2.0, 0.1), "rdp"),
        ((math.nan, 2.0, 0.1), "rdp"),
        ((0.1, 1.0, 0.1), "order"),
        ((0.1, math.inf, 0.1), "order"),
        ((0.1, [], 0.1), "order"),
        ((0.1, 2.0, 1.1), "delta"),
        ((0.1, 2.0, math.nan), "delta"),
        (([0.1, 0.2, 0.3], [2.0, 3.0], 0.1), "broadcast"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=name):
        rdp_to_epsilon(*arguments)
