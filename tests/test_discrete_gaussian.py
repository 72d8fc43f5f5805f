"""The discrete Gaussian's own guarantee: never below the truth, and hardly above it."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.accounting import DiscreteGaussian, gdp_delta, gdp_epsilon, rdp_to_epsilon


def chances(noise_std: float, centre: int = 0) -> dict[int, mpmath.mpf]:
    """Return the law of a discrete Gaussian around a whole number, to 40 digits."""
    with mpmath.workdps(40):
        reach = int(45 * noise_std) + 5
        std = mpmath.mpf(noise_std)
        weights = {x: mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * std**2)) for x in range(-reach, reach + 1)}
        total = mpmath.fsum(weights.values())
        return {x + centre: weight / total for x, weight in weights.items()}


def profile(noise_std: float, shift: int, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(40):
        one, other = chances(noise_std), chances(noise_std, shift)
        factor = mpmath.exp(mpmath.mpf(epsilon))
        return mpmath.fsum(max(chance - factor * other.get(x, 0), 0) for x, chance in one.items())


@settings(deadline=None, max_examples=25)
@given(noise_std=st.floats(0.05, 12.0), shift=st.integers(-20, 20), epsilon=st.floats(0.0, 9.0))
def test_the_profile_is_the_exact_one_rounded_up(noise_std, shift, epsilon):
    found, truth = DiscreteGaussian(noise_std).delta(shift=shift, epsilon=epsilon), profile(noise_std, shift, epsilon)
    assert found >= truth
    assert found <= truth * (1 + 1e-11) + 1e-300


@pytest.mark.parametrize(("noise_std", "shift"), [(0.3, 1), (1.0, 1), (4.0, 3), (7.5, 1)])
def test_the_border_of_the_profile_lies_between_whole_numbers(noise_std, shift):
    """Epsilons at which one more number begins to count, where a border that is off by one would be below the truth."""
    for x in range(-2, 4):
        at = shift * (2 * x + shift) / (2 * noise_std**2)
        for epsilon in (at * (1 - 1e-12), at, at * (1 + 1e-12)):
            if epsilon >= 0:
                assert DiscreteGaussian(noise_std).delta(shift=shift, epsilon=epsilon) >= profile(
                    noise_std, shift, epsilon
                )


@settings(deadline=None, max_examples=25)
@given(noise_std=st.floats(0.2, 40.0), shift=st.integers(1, 30), exponent=st.floats(-12, -0.1))
def test_epsilon_is_the_least_that_keeps_delta(noise_std, shift, exponent):
    noise, delta = DiscreteGaussian(noise_std), 10.0**exponent
    epsilon = noise.epsilon(shift=shift, delta=delta)
    assert noise.delta(shift=shift, epsilon=epsilon) <= delta
    if epsilon > 0:
        assert noise.delta(shift=shift, epsilon=epsilon * (1 - 1e-9)) > delta * (1 - 1e-9)


@settings(deadline=None, max_examples=25)
@given(noise_std=st.floats(0.3, 6.0), shift=st.integers(1, 8), order=st.floats(1.01, 30.0))
def test_renyi_divergences_are_not_below_the_truth(noise_std, shift, order):
    with mpmath.workdps(40):
        # P^a Q^(1 - a) goes on where the laws are cut off: summed in closed form around its own centre.
        a, variance = mpmath.mpf(order), mpmath.mpf(noise_std) ** 2
        centre = shift * (1 - a)
        reach = range(int(centre) - 400, int(centre) + 400)
        over = mpmath.fsum(mpmath.exp(-((x - centre) ** 2) / (2 * variance)) for x in reach)
        under = mpmath.fsum(mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * variance)) for x in range(-400, 400))
        truth = a * shift**2 / (2 * variance) + mpmath.log(over / under) / (a - 1)
    found = DiscreteGaussian(noise_std).rdp(shift, order)
    assert found >= truth
    if order == int(order) or noise_std > 2:
        assert found <= float(truth) * (1 + 1e-9) + 1e-9 / (order - 1)


def test_vectors_are_bounded_by_their_length():
    """Two numbers that move at once: the profile of the pair by all its values, below what the divergences allow."""
    noise_std, shifts = 1.5, (1, 2)
    noise = DiscreteGaussian(noise_std)
    laws = [(chances(noise_std), chances(noise_std, shift)) for shift in shifts]
    length = math.hypot(*shifts)
    for delta in (1e-3, 1e-5):
        epsilon = rdp_to_epsilon(lambda orders: noise.rdp(length, orders), None, delta)
        near = range(-16, 19)
        truth = sum(
            max(float(laws[0][0][x] * laws[1][0][y]) - math.exp(epsilon) * float(laws[0][1][x] * laws[1][1][y]), 0.0)
            for x, y in itertools.product(near, near)
        )
        assert 0.01 * delta < truth <= delta
    # And divergences of one number are no better than its profile.
    assert noise.epsilon(shift=2, delta=1e-5) < rdp_to_epsilon(lambda orders: noise.rdp(2.0, orders), None, 1e-5)


def test_with_much_noise_it_is_the_gaussian():
    noise = DiscreteGaussian(3000.0)
    assert noise.delta(shift=3000, epsilon=1.0) == pytest.approx(gdp_delta(1.0, 1.0), rel=1e-7)
    assert noise.epsilon(shift=3000, delta=1e-5) == pytest.approx(gdp_epsilon(1.0, 1e-5), rel=1e-7)


def test_edges():
    noise = DiscreteGaussian(2.0)
    assert noise.delta(shift=0, epsilon=0.0) == 0.0
    assert noise.epsilon(shift=0, delta=0.0) == 0.0
    assert noise.epsilon(shift=1, delta=0.0) == math.inf
    assert noise.epsilon(shift=1, delta=1.0) == 0.0
    assert noise.delta(shift=1, epsilon=1e300) > 0.0
    assert noise.delta(shift=2**40, epsilon=0.0) == 1.0
    assert (
        noise.delta(shift=3, epsilon=0.7)
        == noise.delta(shift=-3, epsilon=0.7)
        == noise.delta(shift=np.int64(3), epsilon=0.7)
    )
    assert noise.rdp(0.0, 2.0) == 0.0
    assert noise.rdp(5e-324, 2.0) > 0.0
    assert noise.rdp(1e200, 2.0) == math.inf
    assert noise.rdp([1.0, 2.0], [[2.0], [3.0]]).shape == (2, 2)
    assert DiscreteGaussian(0.01).delta(shift=1, epsilon=0.0) == 1.0
    assert 0 < noise.epsilon(shift=1, delta=1e-320) < math.inf


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: DiscreteGaussian(math.nan), ValueError, "noise_std must be"),
        (lambda: DiscreteGaussian(1e6), ValueError, "noise_std must be"),
        (lambda: DiscreteGaussian(0.0), ValueError, "noise_std must be"),
        (lambda: DiscreteGaussian(1.0).delta(shift=0.5, epsilon=1.0), TypeError, "shift must be an integer"),
        (lambda: DiscreteGaussian(1.0).delta(shift=True, epsilon=1.0), TypeError, "shift must be an integer"),
        (lambda: DiscreteGaussian(1.0).delta(shift=2**41, epsilon=1.0), ValueError, "shift must be at most"),
        (lambda: DiscreteGaussian(1.0).delta(shift=1, epsilon=-1.0), ValueError, "epsilon must be"),
        (lambda: DiscreteGaussian(1.0).delta(shift=1, epsilon=math.nan), ValueError, "epsilon must be"),
        (lambda: DiscreteGaussian(1.0).epsilon(shift=1, delta=2.0), ValueError, "delta must be"),
        (lambda: DiscreteGaussian(1.0).rdp(-1.0, 2.0), ValueError, "sensitivity must be"),
        (lambda: DiscreteGaussian(1.0).rdp(1.0, 1.0), ValueError, "order must be"),
        (lambda: DiscreteGaussian(1.0).rdp([1.0, 2.0], [2.0, 3.0, 4.0]), ValueError, "must broadcast together"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
