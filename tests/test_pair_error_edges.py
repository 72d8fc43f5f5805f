"""Nearness of two laws at its edges: rounded up, tight, and infinite where nothing is known."""

from fractions import Fraction
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

from expunge.accounting import GaussianPair
from expunge.accounting.pair_error import Nearness, near_delta, near_epsilon


def constant(value, error=0.0):
    """A profile that is the same at every epsilon."""
    return lambda epsilon: (np.full(epsilon.shape, value), np.full(epsilon.shape, error), np.ones(epsilon.shape))


@pytest.mark.parametrize(("spread", "length", "columns"), [(0.25, 0.3, 3.0), (1e-9, 0.0, 1.0), (0.0, 1e-3, 2.0)])
def test_nearness_is_rounded_up_and_tight(spread, length, columns):
    near = Nearness.of(spread, length, columns)
    with mpmath.workdps(40):
        most, close = 1 + mpmath.mpf("1e-11"), mpmath.mpf(1)
        h = mpmath.mpf(spread) / (1 - mpmath.mpf(spread))
        t = mpmath.mpf(length) / mpmath.sqrt(1 - mpmath.mpf(spread))
        slope = t * t + columns * h * h / 2
        for found, true in ((near.spread, h), (near.length, t), (near.slope, slope)):
            assert true * close <= mpmath.mpf(found) <= true * most
        for order in (1.0, 1.5):
            assert order * slope <= mpmath.mpf(float(near.renyi(np.array(order)))) <= order * slope * most
        variation = mpmath.mpf(near.total_variation)
        assert mpmath.sqrt(slope / 2) <= variation <= mpmath.sqrt(slope / 2) * most
    assert Nearness.of(0.9, 100.0, 1.0).total_variation == 1.0


def test_near_laws_have_no_divergence_of_orders_beyond_those_known_and_none_that_overflows():
    near = Nearness.of(0.1, 0.2, 1.0)
    known = 1.0 + 0.5 / near.spread
    assert np.isfinite(near.renyi(np.array(known * (1.0 - 1e-12))))
    assert near.renyi(np.array(known * (1.0 + 1e-12))) == np.inf
    assert Nearness.of(0.0, 1e6, 1.0).renyi(np.array([2.0, 1e300])).tolist()[1] == np.inf
    assert Nearness.of(0.0, 1e-140, 1.0).loss(np.array(1e300)) == np.inf


def test_the_profile_of_a_near_law_is_taken_below_epsilon_and_rounded_up():
    rng, asked = np.random.default_rng(0), []
    near = SimpleNamespace(loss=lambda level: np.full(level.shape, 0.1), total_variation=1.0, last=np.inf)

    def profile(epsilon):
        asked.append(epsilon)
        return constant(1e-3, 1e-9)(epsilon)

    epsilon = rng.uniform(0.1, 5.0, 200)
    found, error, _ = near_delta(near, profile, epsilon)
    for given, closer in zip(epsilon, asked[1][:-1], strict=True):
        assert Fraction(float(closer)) + Fraction(0.1) <= Fraction(float(given))
        assert closer == pytest.approx(given - 0.1, abs=1e-14)
    with mpmath.workdps(40):
        true = mpmath.mpf(1e-3) * mpmath.exp(mpmath.mpf(0.1))
        assert all(true <= mpmath.mpf(float(value)) <= true * (1 + mpmath.mpf("1e-14")) for value in found)
    # What is added on top of P's own delta counts as error, in parts of the result.
    assert error == pytest.approx(1e-9 + 1.0 - np.exp(-0.1), rel=1e-9)


def test_no_targets_have_no_epsilons_and_no_epsilons_no_deltas():
    pair = GaussianPair([0.2], [[0.5]], 1e-6, 1e-6)
    assert pair.epsilon(np.array([])).shape == (0,)
    assert pair.delta(np.array([])).shape == (0,)


def test_an_epsilon_is_moved_up_until_its_delta_suffices():
    """Where the loss grows with epsilon the first step falls short; a profile that never falls has no epsilon."""
    near = Nearness.of(1e-3, 1e-2, 1.0)

    def falls(epsilon):
        return np.exp(-1.0 - 0.5 * epsilon), np.zeros(epsilon.shape), np.ones(epsilon.shape)

    def reached(delta):
        return np.maximum(2.0 * (-np.log(np.maximum(delta, 1e-300)) - 1.0), 0.0)

    target = np.array([0.0, 1e-9, 1e-3, 0.1, 0.9])
    found = near_epsilon(near, falls, reached, target)
    assert found[0] == np.inf
    assert found[-1] == 0.0
    assert np.all(near_delta(near, falls, found[1:])[0] <= target[1:])
    assert np.all(np.isfinite(found[1:]))
    stuck = near_epsilon(near, constant(0.5), lambda delta: np.zeros(delta.shape), np.array([0.1]))
    assert stuck[0] == np.inf


@pytest.mark.parametrize("direction", ["pq", "qp"])
@pytest.mark.parametrize("order", [1.0 + 1e-6, 1.1, 1.5, 2.0, 7.0, 1e200])
def test_laws_that_coincide_but_for_their_errors_diverge_by_as_much(direction, order):
    """P = Q as computed: all of the divergence is that of the error, and no order overflows."""
    t = 1e-3
    found = float(GaussianPair([0.0], [[0.0]], 0.0, t).renyi(order, direction=direction))
    assert found >= 0.5 * order * t * t
    assert found <= 10.0 * order * t * t or direction == "qp" or order > 1e100
