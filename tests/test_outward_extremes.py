"""Outward rounding at the ends of float64: numbers whose squares underflow, subnormal bounds, distances next to 1."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

import oracles
from expunge.accounting import (
    RenyiFilter,
    compare_unlearning_steps,
    contraction_rdp,
    contraction_steps,
    gdp_mu,
    rdp_to_epsilon,
    weak_triangle_rdp,
)
from expunge.accounting.rdp import renyi_filter
from expunge.accounting.rdp.conversion import divergence_within_distance

LEAST = 5e-324
TINY, EPS = float(np.finfo(float).tiny), float(np.finfo(float).eps)


def after_steps(start, order, ratio, slope, count):
    """Return the divergences after 0 .. count - 1 equal steps, to the digits at work."""
    total, found = mpmath.mpf(0), []
    for k in range(count):
        total += mpmath.mpf(slope) ** (-2 * k) if k else 0
        found.append(mpmath.mpf(start) * (1 + total * ratio) ** (-1 / mpmath.mpf(order)))
    return found


@pytest.mark.parametrize("slope", [1.0, 1 - 1e-6, 0.9, 0.3, 1.1])
@pytest.mark.parametrize("seed", range(5))
def test_the_fewest_contractions_suffice_whatever_the_scale_of_the_noise(seed, slope):
    rng = np.random.default_rng(seed)
    for _ in range(6):
        noise, start = 10.0 ** rng.uniform(-140, 140), 10.0 ** rng.uniform(-1, 1)
        order, constant = 1.0 + 10.0 ** rng.uniform(-3, 0), noise * noise * 10.0 ** rng.uniform(-1, 3)
        with mpmath.workdps(50):
            reached = after_steps(start, order, mpmath.mpf(noise) ** 2 / mpmath.mpf(constant), slope, 42)
            exact = np.array([float(value) for value in reached[1:40]])
            targets = np.concatenate([np.nextafter(exact, 0.0), exact, np.nextafter(exact, np.inf)])
            targets = targets[targets > 1e-300]
            found = contraction_steps(
                start, order=order, log_sobolev=constant, contraction=slope, noise_std=noise, target_rdp=targets
            )
            for target, steps in zip(targets, found, strict=True):
                if steps < len(reached):
                    assert reached[int(steps)] <= mpmath.mpf(float(target))


@pytest.mark.parametrize("scale", [1e-170, 1e-160, 1e-150, 1.0, 1e150])
@pytest.mark.parametrize("constant", [1e300, 1e-10, 1e-300])
def test_log_sobolev_constants_that_underflow_do_not_shrink_more(scale, constant):
    noises = scale * np.array([1.0, 0.3, 2.0, 1.0])
    maps = np.array([1e-170, 1e-5, 0.5, 1e-170])
    found = contraction_rdp(1.0, order=300.0, log_sobolev=constant, contraction=maps, noise_std=noises)
    with mpmath.workdps(50):
        exact = oracles.contraction_rdp(1.0, 300.0, constant, maps, noises)
        assert all(mpmath.mpf(float(bound)) >= truth for bound, truth in zip(found, exact, strict=True))


def test_subnormal_divergences_are_rounded_up():
    setting = {"order": 1.25, "contraction": 1.0, "log_sobolev": 1.0, "noise_std": 0.4}
    with mpmath.workdps(50):
        for multiple in range(1, 60):
            start = multiple * LEAST
            found = contraction_rdp(start, n_steps=3, **setting)
            exact = oracles.contraction_rdp(start, 1.25, 1.0, [1.0] * 3, [0.4] * 3)
            assert all(mpmath.mpf(float(bound)) >= truth for bound, truth in zip(found, exact, strict=True))
            assert found[-1] <= start


def test_the_weak_triangle_of_subnormal_divergences_is_rounded_up():
    for first in range(30):
        for second in (0, 1, 7):
            for order in (1.25, 2.0, 2.5, 17.0):
                a, alpha = Fraction(first * LEAST), Fraction(order)
                exact = (alpha - Fraction(1, 2)) / (alpha - 1) * a + Fraction(second * LEAST)
                found = Fraction(weak_triangle_rdp(first * LEAST, second * LEAST, order=order))
                assert exact <= found <= exact + 2 * Fraction(LEAST)
                assert (found == 0) == (exact == 0)


@pytest.mark.parametrize("below", [2.0**-53, 3 * 2.0**-53, 2.0**-50, 1e-14, 1e-9, 1e-3, 0.1, 0.1 + EPS, 0.3])
def test_a_divergence_within_a_distance_next_to_one_is_rounded_down(below):
    distance = 1.0 - below
    with mpmath.workdps(50):
        square = mpmath.mpf(distance) ** 2
        exact = max(2 * square, -mpmath.log1p(-square))
        found = float(divergence_within_distance(np.array(distance)))
        assert exact * (1 - 1e-13) <= found <= exact
        assert rdp_to_epsilon(found, 2.0, distance) == 0.0


NUMBERS = [1e-320, 1e-300, 1e-200, 1e-120, 1e-3, 1.0, 1e120, 1e200, 1e300]


@pytest.mark.parametrize("noise_std", NUMBERS)
@pytest.mark.parametrize("batch_size", [1e-300, 1e-3, 2.9e-3, 7.0, 1e300])
def test_a_filter_never_charges_for_more_noise_than_there_is(monkeypatch, noise_std, batch_size):
    seen = []

    def cost(order, multiplier, rate, **_):
        seen.append(np.array(multiplier[:, 0]))
        return np.zeros((multiplier.shape[0], order.size))

    monkeypatch.setattr(renyi_filter, "sampled_gaussian_rdp", cost)
    for step_size in NUMBERS:
        step = {"noise_std": noise_std, "step_size": step_size, "batch_size": batch_size, "sampling_probability": 0.1}
        RenyiFilter(2.0, 1.0, n_records=len(NUMBERS), **step).charge(NUMBERS)
        for found, norm in zip(seen[-1], NUMBERS, strict=True):
            exact = Fraction(noise_std) * Fraction(batch_size) / (Fraction(step_size) * Fraction(norm))
            assert math.isfinite(found)
            assert Fraction(float(found)) <= exact


def test_what_a_filter_charges_is_never_nothing_for_a_gradient():
    step = {"noise_std": 1e-200, "batch_size": 1.0, "step_size": 1e-200, "sampling_probability": 1.0}
    keeper = RenyiFilter(2.0, 1.0, n_records=3, **step)
    assert keeper.charge([0.0, 1e-150, 1e-200]).all()
    # The product of step size and norm is below every positive number: the noise over it is not infinite.
    assert keeper.spent[0, 0] == 0.0
    assert (keeper.spent[1:, 0] > 0.0).all()


# --- unlearning steps of convex chains -------------------------------------------------------------------------------

SCALES = [1.0, 1e-40, 1e-90]


def chain(scale, group_size=3):
    """Constants whose logarithms are large and cancel."""
    smooth = 2.0
    return {
        "delta": 1e-4, "smoothness": smooth, "strong_convexity": 0.01, "lipschitz": 1.7 * scale, "sigma": 0.3 * scale,
        "n_records": 700, "group_size": group_size, "step_size": 0.9 / smooth,
    }  # fmt: skip


def exact_epsilon(setting, steps, order):
    """Return epsilon of the published closed form to the digits at work."""
    m, eta, M = (mpmath.mpf(setting[name]) for name in ("strong_convexity", "step_size", "lipschitz"))
    sigma, ratio = mpmath.mpf(setting["sigma"]), mpmath.mpf(setting["group_size"]) / setting["n_records"]
    start = 4 * order * (ratio * M) ** 2 / (m * sigma**2)
    return mpmath.exp(-steps * m * eta / order) * start - mpmath.log(mpmath.mpf(setting["delta"])) / (order - 1)


@pytest.mark.parametrize("scale", SCALES)
def test_the_closed_form_suffices_at_its_order_to_fifty_digits(scale):
    setting = chain(scale)
    with mpmath.workdps(50):
        for steps in range(300, 2000, 200):
            # Targets next to what so many steps reach at their best order.
            best = min((exact_epsilon(setting, steps, 1 + mpmath.mpf(x)), x) for x in np.geomspace(3, 40, 200))
            epsilon = float(best[0]) * 0.9999
            for _ in range(4):
                found = compare_unlearning_steps(epsilon=epsilon, **setting)
                order = mpmath.mpf(found.closed_form_order)
                assert exact_epsilon(setting, found.closed_form, order) <= epsilon * (1 + 4 * mpmath.mpf(EPS))
                assert steps - 2 <= found.closed_form <= steps + 10
                # What that order gives after one step less, whose place the rounding decides.
                epsilon = float(exact_epsilon(setting, found.closed_form - 1, order))


@pytest.mark.parametrize("scale", SCALES)
def test_shifted_interpolation_of_a_chain_suffices_to_fifty_digits(scale):
    setting = chain(scale)
    with mpmath.workdps(50):
        m, eta, M, sigma = (
            mpmath.mpf(setting[k]) for k in ("strong_convexity", "step_size", "lipschitz", "sigma")
        )  # fmt: skip
        c = 1 - m * eta
        shift = 2 * eta * setting["group_size"] * M / setting["n_records"]
        mu = shift / (mpmath.sqrt(2 * eta) * sigma) * mpmath.sqrt((1 + c) / (1 - c))
        for epsilon in np.geomspace(0.05, 4.0, 25):
            found = compare_unlearning_steps(epsilon=float(epsilon), **setting)
            assert mu <= found.shifted_mu <= mu * (1 + 64 * EPS)
            goal = mpmath.mpf(gdp_mu(float(epsilon), setting["delta"]))
            assert c**found.shifted * mu <= goal or found.shifted == 1
            assert found.shifted == 1 or c ** (found.shifted - 1) * mu > goal * (1 - mpmath.mpf(10) ** -12)


@pytest.mark.parametrize("scale", SCALES[:2])
def test_contraction_of_a_chain_suffices_at_its_order_to_fifty_digits(scale):
    setting = chain(scale)
    with mpmath.workdps(50):
        m, eta, M, sigma = (
            mpmath.mpf(setting[k]) for k in ("strong_convexity", "step_size", "lipschitz", "sigma")
        )  # fmt: skip
        c, noise = 1 - m * eta, 2 * eta * sigma**2
        ratio = mpmath.mpf(setting["group_size"]) / setting["n_records"]

        def reached(steps, order):
            start = 4 * order * (ratio * M) ** 2 / (m * sigma**2)
            constant = noise / (1 - c**2)
            growth = 1 + noise / constant * (c ** (-2 * steps) - 1) / (1 - c**2)
            rdp = start * growth ** (-1 / order)
            delta = mpmath.mpf(setting["delta"])
            # Pinsker: the total variation distance is within delta.
            if rdp <= 2 * delta**2:
                return mpmath.mpf(0)
            return rdp + mpmath.log(1 - 1 / order) - (mpmath.log(delta) + mpmath.log(order)) / (order - 1)

        for epsilon in np.geomspace(0.05, 2.0, 6):
            found = compare_unlearning_steps(epsilon=float(epsilon), **setting)
            assert reached(found.contraction, mpmath.mpf(found.contraction_order)) <= epsilon
