"""The arithmetic of a claim by residual is exact, and rounded so that no claim grows."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expunge.accounting import gdp_delta, gdp_mu
from expunge.runs.residual import (
    REFERENCES,
    answers_of,
    before_after,
    check_outputs,
    class_numbers,
    mu_fits,
    release_mu,
    release_p_value,
    residual_allowance,
)

EPSILON = st.floats(0, 50)
DELTA = st.floats(1e-300, 0.999)
RELEASES = st.integers(1, 10**9)
POSITIVE = st.floats(1e-150, 1e150)


@given(epsilon=EPSILON, delta=DELTA, releases=RELEASES, reference=st.sampled_from(sorted(REFERENCES)))
def test_a_release_takes_its_share_and_nothing_more(epsilon, delta, releases, reference):
    mu = release_mu(epsilon=epsilon, delta=delta, releases=releases, reference=reference)
    whole = Fraction(gdp_mu(epsilon, delta))
    spent = Fraction(mu) * REFERENCES[reference]
    assert spent**2 * releases <= whole**2
    wider = Fraction(mu * (1 + 2**-50)) * REFERENCES[reference]
    assert wider**2 * releases > whole**2  # nothing is wasted either
    fits = {"epsilon": epsilon, "delta": delta, "releases": releases, "reference": reference}
    assert mu_fits(mu, **fits)
    assert not mu_fits(mu * (1 + 2**-50), **fits)


def test_one_release_takes_everything():
    assert release_mu(epsilon=1.0, delta=1e-5, releases=1) == gdp_mu(1.0, 1e-5)
    release_mu(epsilon=1.0, delta=1e-5, releases=2**48)
    with pytest.raises(ValueError, match="releases must be at most"):
        release_mu(epsilon=1.0, delta=1e-5, releases=2**48 + 1)


def test_a_budget_too_small_for_float64_is_refused():
    with pytest.raises(ValueError, match="delta must leave something"):
        release_mu(epsilon=0.0, delta=5e-324, releases=2**48)


def test_many_releases_are_jointly_as_private_as_claimed():
    mu = release_mu(epsilon=1.0, delta=1e-5, releases=400)
    assert gdp_delta(mu * 20 * (1 - 1e-15), 1.0) <= 1e-5
    assert gdp_delta(mu * 20.001, 1.0) > 1e-5


def test_no_releases_are_no_budget():
    with pytest.raises(ValueError, match="releases must be >= 1"):
        mu_fits(0.1, epsilon=1.0, delta=0.1, releases=0)
    with pytest.raises(ValueError, match="epsilon must be >= 0"):
        mu_fits(0.1, epsilon=-1.0, delta=0.1, releases=1)


@pytest.mark.parametrize("mu", [0.0, -0.1, math.nan, math.inf, -math.inf])
def test_a_mu_that_is_none_fits_nothing(mu):
    assert not mu_fits(mu, epsilon=1.0, delta=0.1, releases=1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epsilon": -1.0}, "epsilon must be >= 0"),
        ({"epsilon": math.nan}, "epsilon must be finite"),
        ({"delta": 0.0}, "delta must be > 0"),
        ({"delta": 1.0}, "delta must be > 0"),
        ({"delta": math.nan}, "delta must be finite"),
        ({"releases": 0}, "releases must be >= 1"),
        ({"releases": 2**60}, "releases must be at most"),
        ({"releases": 1.5}, "releases must be an integer"),
        ({"reference": "another"}, "reference must be one of"),
    ],
)
def test_a_budget_that_is_none_is_refused_by_name(change, match):
    with pytest.raises((TypeError, ValueError), match=match):
        release_mu(**{"epsilon": 1.0, "delta": 1e-5, "releases": 10, **change})


@given(alpha=POSITIVE, noise_std=POSITIVE, mu=st.floats(1e-20, 1e3))
def test_the_allowed_residual_is_rounded_down_by_less_than_a_unit(alpha, noise_std, mu):
    exact = Fraction(alpha) * Fraction(noise_std) * Fraction(mu)
    allowed = residual_allowance(alpha=alpha, noise_std=noise_std, mu=mu)
    assert Fraction(allowed) <= exact
    above = math.nextafter(allowed, math.inf)
    assert math.isinf(above) or Fraction(above) > exact


def test_allowed_residuals_of_common_size_are_rounded_down():
    up = 0
    for alpha, noise_std, mu in np.exp(np.random.default_rng(0).uniform(-9, 3, size=(300, 3))).tolist():
        exact = Fraction(alpha) * Fraction(noise_std) * Fraction(mu)
        allowed = residual_allowance(alpha=alpha, noise_std=noise_std, mu=mu)
        assert Fraction(allowed) <= exact < Fraction(math.nextafter(allowed, math.inf))
        up += Fraction(float(exact)) > exact
    assert up > 100  # that many would have been rounded up


@pytest.mark.parametrize("name", ["alpha", "noise_std", "mu"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_factors_that_are_not_positive_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        residual_allowance(**{"alpha": 1.0, "noise_std": 1.0, "mu": 1.0, name: value})


def test_an_allowance_that_overflows_stays_finite():
    assert residual_allowance(alpha=1e200, noise_std=1e200, mu=1.0) == np.finfo(float).max


# --- plausibility of a release -----------------------------------------------------------------


def test_p_values_are_those_of_the_chi_squared_law():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 5), (3, 40)):
        theta = rng.normal(size=size)
        released = theta + 0.3 * rng.normal(size=size)
        law = stats.chi2(theta.size)
        length = np.square((released - theta) / 0.3).sum()
        needed = 2 * min(law.cdf(length), law.sf(length))
        assert release_p_value(released, theta, noise_std=0.3) == pytest.approx(needed, rel=1e-9)


def test_p_values_of_honest_releases_are_uniform():
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(2, 7))
    found = [release_p_value(theta + 0.01 * rng.normal(size=theta.shape), theta, noise_std=0.01) for _ in range(2000)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("scale", [0.0, 0.01, 100.0, 1e300])
def test_too_little_noise_and_too_much_are_as_good_as_impossible(scale):
    rng = np.random.default_rng(2)
    theta = rng.normal(size=(1, 30))
    assert release_p_value(theta + scale * rng.normal(size=theta.shape), theta, noise_std=1.0) < 1e-12


def test_a_release_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape of theta"):
        release_p_value([[1.0, 2.0]], [[1.0], [2.0]], noise_std=1.0)


# --- before and after --------------------------------------------------------------------------


@given(distance=st.floats(0, 1e6), noise_std=st.floats(1e-6, 1e6), mu=st.floats(0, 10), delta=st.floats(1e-12, 0.5))
def test_the_joint_guarantee_is_rounded_up(distance, noise_std, mu, delta):
    found = before_after(distance=distance, noise_std=noise_std, mu=mu, delta=delta)
    with mpmath.workdps(50):
        exact = mpmath.hypot(mpmath.mpf(distance) / mpmath.mpf(noise_std), mpmath.mpf(mu))
        assert exact <= found.mu <= exact * (1 + mpmath.mpf(2) ** -48) + mpmath.mpf(2) ** -1000
    assert gdp_delta(found.mu, found.epsilon) <= delta


def test_a_joint_guarantee_that_nearly_vanishes_is_rounded_up():
    assert before_after(distance=5e-324, noise_std=2.0, mu=5e-324, delta=0.5).mu >= 1e-323
    assert before_after(distance=0.0, noise_std=1.0, mu=0.0, delta=0.5) == (0.0, 0.0)
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="delta"):
            before_after(distance=0.0, noise_std=1.0, mu=0.1, delta=delta)


@pytest.mark.parametrize(
    "change", [{"distance": -1.0}, {"distance": math.nan}, {"noise_std": 0.0}, {"mu": -0.1}, {"mu": math.nan}], ids=str
)
def test_what_makes_no_joint_guarantee_is_refused_by_name(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        before_after(**{"distance": 1.0, "noise_std": 1.0, "mu": 0.1, "delta": 1e-5, **change})


def test_an_unbounded_distance_guarantees_nothing():
    assert before_after(distance=math.inf, noise_std=1.0, mu=0.1, delta=1e-5) == (math.inf, math.inf)


# --- answers -----------------------------------------------------------------------------------


def test_labels_are_told_apart_as_digests_tell_them():
    assert class_numbers(np.array([1.0, 0.0]), classes=(0, 1)).tolist() == [1, 0]
    with pytest.raises(ValueError, match="got '1' at index 0"):
        class_numbers(["1"], classes=(0, 1))
    with pytest.raises(ValueError, match="got 1 at index 1"):
        class_numbers([0, 1], classes=("0", "1", 0))
    with pytest.raises(ValueError, match="one label for each record"):
        class_numbers([["a", "b"]], classes=("a", "b"))


@pytest.mark.parametrize(
    ("loss", "classes", "n_outputs", "field"),
    [
        ("logistic", None, 1, "classes"),
        ("softmax", (0, 1), 1, "n_outputs"),
        ("logistic", (0, 1, 2), 1, "n_outputs"),
        ("squared", (0, 1), 1, "n_outputs"),
        ("squared", (0,), 1, "classes"),
        ("softmax", (0, 0), 2, "classes"),
        ("hinge", (0, 1), 2, "loss"),
        ("squared", None, 0, "n_outputs"),
    ],
)
def test_losses_classes_and_outputs_that_do_not_belong_together_are_refused(loss, classes, n_outputs, field):
    with pytest.raises(ValueError, match=f"^{field} must"):
        check_outputs(loss=loss, classes=classes, n_outputs=n_outputs)


def test_targets_are_columns():
    assert answers_of([1, 2], loss="squared", classes=None, n_outputs=1).targets.tolist() == [[1.0], [2.0]]
    with pytest.raises(ValueError, match="2 targets for each record"):
        answers_of([1, 2], loss="squared", classes=None, n_outputs=2)
