"""Gaussian DP: the numbers of the reference, the law of outward rounding, and the edges."""

import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import oracles
from emulated import at, on_every_device
from expunge import accounting
from expunge.accounting import gdp_delta, gdp_epsilon, gdp_mu

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())

mus = st.floats(-12, 1.5).map(lambda x: 10.0**x)
deltas = st.floats(-290, -0.01).map(lambda x: 10.0**x)
tails = st.floats(-5, 36)


@on_every_device
@pytest.mark.parametrize("row", REFERENCE["gdp_delta"])
def test_delta_matches_the_reference(device, row):
    tolerance = 1e-6 if row["mu"] <= 1e-8 else 1e-10
    assert at(device, gdp_delta)(row["mu"], row["epsilon"]) == pytest.approx(
        float(row["delta"]), rel=tolerance, abs=1e-280
    )


@on_every_device
@pytest.mark.parametrize("row", REFERENCE["gdp_epsilon"])
def test_epsilon_matches_the_reference(device, row):
    tolerance = 1e-6 if row["mu"] <= 1e-8 else 1e-10
    epsilon = at(device, gdp_epsilon)(row["mu"], row["delta"])
    assert epsilon == pytest.approx(float(row["epsilon"]), rel=tolerance, abs=0)
    if epsilon > 0:
        # mu -> delta -> mu comes back, where the pair (epsilon, delta) is on the curve.
        assert at(device, gdp_mu)(epsilon, row["delta"]) == pytest.approx(row["mu"], rel=1e-9)


@on_every_device
@given(mus, tails)
def test_delta_is_rounded_up_by_the_error_of_its_computation(device, mu, tail):
    epsilon = max(mu * mu / 2 + mu * tail, 0.0)
    exact = oracles.gdp_delta_mpmath(mu, epsilon)
    delta = at(device, gdp_delta)(mu, epsilon)
    assert delta >= exact
    size = (epsilon / mu) ** 2 + (1 + epsilon / mu) / min(mu, 1.0) * (epsilon >= 2) + mu**2 + 60
    assert delta <= min(1.0, exact * (1 + 10 * np.finfo(float).eps * size) + mpmath_tiny())


@on_every_device
@given(st.floats(-323, -290), st.floats(0, 30))
def test_delta_of_the_smallest_mus_is_rounded_up_by_the_error_of_its_logarithm(device, power, tail):
    mu = max(10.0**power, 5e-324)
    epsilon = mu * tail
    exact = mills_slope_mpmath(mu, epsilon)
    delta = at(device, gdp_delta)(mu, epsilon)
    assert exact <= delta <= exact * (1 + 2e-12) + mpmath_tiny()


def mills_slope_mpmath(mu, epsilon):
    """delta of a mu whose square is nothing beside 1: mu (phi(m) - m Phi(-m)) at m = epsilon / mu."""
    with mpmath.workdps(50):
        m = mpmath.mpf(epsilon) / mpmath.mpf(mu)
        return mpmath.mpf(mu) * (mpmath.npdf(m) - m * mpmath.ncdf(-m))


def mpmath_tiny():
    """One subnormal: the unit of outward rounding where delta leaves the normal range."""
    return 5e-320


@on_every_device
@given(mus, deltas)
def test_epsilon_is_proved_by_the_rounded_up_delta(device, mu, delta):
    epsilon = at(device, gdp_epsilon)(mu, delta)
    assert at(device, gdp_delta)(mu, epsilon) <= delta
    if epsilon == 0.0:
        assert at(device, gdp_delta)(mu, 0.0) <= delta
    else:
        # Not by much: a slightly smaller epsilon is refused by the exact delta.
        assert oracles.gdp_delta_mpmath(mu, epsilon * (1 - 1e-9)) > delta


@on_every_device
@example(1e100, 1e-5)
@example(1.7e308, 1e-5)  # twice that is infinite
@given(st.floats(-6, 308).map(lambda x: 10.0**x) | st.just(0.0), deltas)
def test_mu_is_proved_by_the_rounded_up_delta(device, epsilon, delta):
    mu = at(device, gdp_mu)(epsilon, delta)
    assert mu > 0
    assert at(device, gdp_delta)(mu, epsilon) <= delta
    assert oracles.gdp_delta_mpmath(mu * (1 + 1e-9), epsilon) > delta


@on_every_device
@given(mus, tails, st.floats(1e-6, 3.0))
def test_delta_falls_in_epsilon_and_grows_in_mu(device, mu, tail, more):
    epsilon = max(mu * mu / 2 + mu * tail, 0.0)
    delta = at(device, gdp_delta)(mu, epsilon)
    assert at(device, gdp_delta)(mu, epsilon * (1 + more) + mu * more) <= delta * (1 + 1e-12)
    assert at(device, gdp_delta)(mu * (1 + more), epsilon) >= delta * (1 - 1e-12)


@on_every_device
def test_epsilon_agrees_with_bisection_where_the_plain_formula_holds(device):
    rng = np.random.default_rng(3)
    mu = rng.uniform(0.05, 5.0, 2000)
    delta = 10.0 ** rng.uniform(-12, -1.5, 2000)
    np.testing.assert_allclose(
        at(device, gdp_epsilon)(mu, delta), oracles.gdp_epsilon(mu, delta), rtol=1e-9, atol=1e-12
    )


@on_every_device
def test_zero_mu_is_perfectly_private(device):
    assert at(device, gdp_delta)(0.0, 0.0) == 0.0
    assert at(device, gdp_delta)(0.0, 3.0) == 0.0
    assert at(device, gdp_epsilon)(0.0, 0.0) == 0.0
    assert at(device, gdp_epsilon)(0.0, 1e-9) == 0.0


@on_every_device
def test_ends_of_delta(device):
    assert at(device, gdp_epsilon)(1.0, 0.0) == math.inf
    assert at(device, gdp_epsilon)(1.0, 1.0) == 0.0
    assert at(device, gdp_mu)(1.0, 1.0) == math.inf
    assert at(device, gdp_mu)(1.0, 0.0) == 0.0
    assert at(device, gdp_mu)(0.0, 0.0) == 0.0


@on_every_device
@pytest.mark.parametrize("mu", [5e-324, 1e-310, 1e-200, 1e200, 1.7e308])
@pytest.mark.parametrize("epsilon", [0.0, 1e-300, 1.0, 1e300])
def test_extreme_arguments_stay_certified(device, mu, epsilon):
    delta = at(device, gdp_delta)(mu, epsilon)
    assert 0.0 < delta <= 1.0
    if mu > 1e100 and epsilon <= 1.0:
        assert delta == 1.0
    if mu < 1e-100 and epsilon >= 1.0:
        assert delta < 1e-300
    if mu < 1e-100 and epsilon == 0.0:
        assert delta == pytest.approx(mu / math.sqrt(2 * math.pi), rel=1e-10, abs=5e-324)
    top = at(device, gdp_epsilon)(mu, 1e-5)
    assert top == math.inf or at(device, gdp_delta)(mu, top) <= 1e-5
    assert at(device, gdp_delta)(at(device, gdp_mu)(epsilon, 1e-5), epsilon) <= 1e-5


@on_every_device
@pytest.mark.parametrize("mu", [1e149, 1e150, 1e152, 1.3e154, 1.8e154])
@pytest.mark.parametrize("delta", [1e-300, 1e-5, 0.1, 0.9])
def test_a_large_epsilon_is_finite_while_floats_last(device, mu, delta):
    epsilon = at(device, gdp_epsilon)(mu, delta)
    with mpmath.workdps(200):
        # The quantile is nothing beside mu: epsilon = mu^2/2 to 100 digits.
        square = mpmath.mpf(mu) ** 2 / 2
        assert square * (1 - mpmath.mpf(10) ** -100) <= epsilon <= square * (1 + mpmath.mpf(10) ** -12)
    assert at(device, gdp_delta)(mu, epsilon) <= delta


@on_every_device
@pytest.mark.parametrize("mu", [1e3, 1e7, 1e10, 1e13, 1e16, 1e30, 1e100])
def test_delta_around_one_half_is_never_below_the_truth(device, mu):
    # epsilon / mu - mu / 2 cancels: what is left of it is the rounding of epsilon / mu.
    rng = np.random.default_rng(0)
    for _ in range(60):
        epsilon = mu * mu / 2 * (1 + rng.integers(-4, 5) * 2.0**-53) + mu * rng.normal()
        with mpmath.workdps(260):
            half, ratio = mpmath.mpf(mu) / 2, mpmath.mpf(epsilon) / mpmath.mpf(mu)
            exact = mpmath.ncdf(half - ratio) if abs(half - ratio) < 100 else mpmath.mpf(int(half > ratio))
            # e^epsilon Phi(-b), less than exp(-a^2/2) / (b sqrt(2 pi)): nothing beside it unless mu is small
            exact -= mpmath.exp(-((half - ratio) ** 2) / 2) / ((half + ratio) * mpmath.sqrt(2 * mpmath.pi))
        assert at(device, gdp_delta)(mu, epsilon) >= exact


@on_every_device
def test_epsilons_beyond_the_floats_are_infinite(device):
    assert at(device, gdp_epsilon)(2e154, 0.1) == math.inf
    assert at(device, gdp_epsilon)(1e300, 1e-5) == math.inf
    assert at(device, gdp_epsilon)(1e300, 1.0) == 0.0


def test_shapes_broadcast_and_scalars_are_floats():
    assert isinstance(gdp_delta(1.0, 1.0), float)
    assert isinstance(gdp_epsilon(np.float64(1.0), 1e-5), float)
    assert gdp_delta(np.ones((3, 1)), np.ones(4)).shape == (3, 4)
    assert gdp_mu(np.empty((0, 2)), 0.1).shape == (0, 2)
    one_by_one = [gdp_delta(m, e) for m in (0.1, 1.0) for e in (0.0, 1.0, 2.0)]
    together = gdp_delta(np.array([[0.1], [1.0]]), [0.0, 1.0, 2.0])
    assert together.ravel().tolist() == one_by_one


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_give_the_same_bits(threads):
    rng = np.random.default_rng(4)
    mu = 10.0 ** rng.uniform(-3, 1, 3001)
    delta = 10.0 ** rng.uniform(-20, -1, 3001)
    np.testing.assert_array_equal(gdp_epsilon(mu, delta, threads=threads), gdp_epsilon(mu, delta))
    np.testing.assert_array_equal(gdp_mu(mu, delta, threads=threads), gdp_mu(mu, delta))


@pytest.mark.parametrize("function", ["gdp_delta", "gdp_epsilon", "gdp_mu"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-300])
@pytest.mark.parametrize("place", [0, 1])
def test_bad_numbers_are_refused_by_name(function, bad, place):
    names = {"gdp_delta": ("mu", "epsilon"), "gdp_epsilon": ("mu", "delta"), "gdp_mu": ("epsilon", "delta")}
    arguments = [0.5, 0.5]
    arguments[place] = bad
    with pytest.raises(ValueError, match=names[function][place]):
        getattr(accounting, function)(*arguments)


def test_a_delta_above_one_and_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="delta"):
        gdp_epsilon(1.0, 1.0 + 1e-12)
    with pytest.raises(ValueError, match="delta"):
        gdp_mu(1.0, 1.5)
    with pytest.raises(ValueError, match="mu and epsilon must broadcast"):
        gdp_delta(np.ones(3), np.ones(4))
