"""Exponents of a composition, threads of kernels, and slack that is neither missing nor more than was promised."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from expunge.accounting import (
    RenyiFilter,
    composition_rdp,
    contraction_rdp,
    contraction_steps,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
    weak_triangle_rdp,
)
from expunge.accounting.noise_floor import noise_floor
from expunge.accounting.rdp import renyi_filter
from expunge.accounting.unlearning.contraction import rdp_within

EPS = float(np.finfo(float).eps)
RUN = {
    "order": 2.0, "noise_std": 0.3, "l2_bound": 2.0, "step_size": 0.1, "sampling_probability": 1.0, "batch_size": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_exponents_of_half_to_thirty_two_times_the_steps_are_tried(direction):
    scales = np.geomspace(0.01, 1.0, 40)[:, None]
    norms = np.abs(np.random.default_rng(0).normal(1, 0.3, (6, 40, 8))).clip(0, 2) * scales
    found = composition_rdp(norms, direction=direction, **RUN)
    for multiple in (0.5, 1.0, 2.0, 4.0, 8.0, 32.0):
        alone = composition_rdp(norms, direction=direction, p=1.0 + multiple * 8, **RUN)
        assert (found.rdp <= alone.rdp * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("kernel", "call"),
    [
        ("gdp_delta", lambda: gdp_delta(1.0, 1.0, threads=3)),
        ("gdp_epsilon", lambda: gdp_epsilon(1.0, 0.1, threads=3)),
        ("gdp_mu", lambda: gdp_mu(1.0, 0.1, threads=3)),
        ("sampled_gaussian_rdp", lambda: sampled_gaussian_rdp(2.0, 1.0, 0.1, threads=3)),
        (
            "sampled_gaussian_rdp",
            lambda: RenyiFilter(
                2.0, 1.0, n_records=1, noise_std=1.0, step_size=1.0, sampling_probability=0.1, batch_size=1.0
            ).charge([1.0], threads=3),
        ),
    ],
)
def test_the_threads_asked_for_reach_the_kernel(threads_of_kernel, kernel, call):
    assert threads_of_kernel(kernel, call) == [3]


def test_the_slack_of_the_weak_triangle_is_eight_units():
    for first, second, excess in np.random.default_rng(0).uniform(0.1, 4.0, (400, 3)):
        order = 1.0 + float(excess)
        alpha = Fraction(order)
        exact = (alpha - Fraction(1, 2)) / (alpha - 1) * Fraction(float(first)) + Fraction(float(second))
        found = Fraction(weak_triangle_rdp(float(first), float(second), order=order))
        assert exact <= found <= exact * (1 + 12 * Fraction(EPS))


def test_the_slack_of_a_filter_is_a_few_units(monkeypatch):
    seen = []

    def cost(order, multiplier, rate, **_):
        seen.append(np.array(multiplier[:, 0]))
        return np.zeros((multiplier.shape[0], order.size))

    monkeypatch.setattr(renyi_filter, "sampled_gaussian_rdp", cost)
    norms = np.random.default_rng(1).uniform(0.1, 4.0, 300)
    step = {"noise_std": 0.37, "step_size": 0.11, "batch_size": 7.3, "sampling_probability": 0.1}
    RenyiFilter(2.0, 1.0, n_records=300, **step).charge(norms)
    tau, eta, batch = (Fraction(step[name]) for name in ("noise_std", "step_size", "batch_size"))
    for found, norm in zip(seen[0], norms, strict=True):
        exact = tau * batch / (eta * Fraction(float(norm)))
        assert exact * (1 - 8 * Fraction(EPS)) <= Fraction(float(found)) <= exact


def test_an_epsilon_exceeds_the_proposition_by_rounding_alone():
    with mpmath.workdps(50):
        for rdp, excess, delta in np.random.default_rng(2).uniform(0.05, 0.9, (300, 3)):
            order, a, d = 1.0 + float(excess), 1 + mpmath.mpf(float(excess)), mpmath.mpf(float(delta))
            a = mpmath.mpf(order)
            exact = mpmath.mpf(float(rdp)) + mpmath.log(1 - 1 / a) - (mpmath.log(d) + mpmath.log(a)) / (a - 1)
            size = rdp + abs(np.log(excess)) + np.log(order) + (abs(np.log(delta)) + np.log(order)) / excess
            found = rdp_to_epsilon(float(rdp), order, float(delta))
            assert found == 0.0 or max(exact, 0) <= found <= max(exact, 0) + 8 * EPS * size


def test_a_contraction_exceeds_its_product_by_rounding_alone():
    setting = {"order": 1.5, "log_sobolev": 1.0, "contraction": 1.0, "n_steps": 1}
    with mpmath.workdps(50):
        for noise in 10.0 ** np.random.default_rng(3).uniform(20, 60, 200):
            found = contraction_rdp(1.0, noise_std=float(noise), **setting)[1]
            total = mpmath.log1p(mpmath.mpf(float(noise)) ** 2) / mpmath.mpf(1.5)
            exact = mpmath.exp(-total)
            assert exact <= found <= exact * (1 + (17 * float(total) + 24) * EPS)


@pytest.mark.parametrize("slope", [1 - 2.0**-53, 1 - 1e-15, 1 - 1e-12, 1 + 1e-15, 1 + 1e-12, 0.03, 30.0])
@pytest.mark.parametrize("order", [1.001, 1.3])
def test_the_fewest_contractions_suffice_where_slopes_are_next_to_one_or_far_from_it(slope, order):
    with mpmath.workdps(50):
        for noise in np.random.default_rng(4).uniform(0.3, 1.5, 12):
            total, reached = mpmath.mpf(0), [mpmath.mpf(1)]
            for k in range(1, 25):
                total += mpmath.mpf(slope) ** (-2 * k)
                reached.append((1 + total * mpmath.mpf(float(noise)) ** 2) ** (-1 / mpmath.mpf(order)))
            exact = np.array([float(value) for value in reached[1:23]])
            targets = np.concatenate([np.nextafter(exact, 0.0), exact, np.nextafter(exact, 1.0)])
            found = contraction_steps(
                1.0, order=order, log_sobolev=1.0, contraction=slope, noise_std=float(noise), target_rdp=targets
            )
            for target, steps in zip(targets, found, strict=True):
                assert steps >= len(reached) or reached[int(steps)] <= mpmath.mpf(float(target))


def test_the_divergence_within_epsilon_is_below_it_by_rounding_alone():
    with mpmath.workdps(50):
        for epsilon, excess, delta in np.random.default_rng(5).uniform(0.05, 0.9, (300, 3)) * (4.0, 40.0, 1.0):
            order, d = 1.0 + float(excess), mpmath.mpf(float(delta)) / 1000
            a = mpmath.mpf(order)
            delta = float(d)
            exact = mpmath.mpf(float(epsilon)) - mpmath.log(1 - 1 / a) + (mpmath.log(delta) + mpmath.log(a)) / (a - 1)
            size = epsilon + abs(np.log(order - 1)) + np.log(order) + (abs(np.log(delta)) + np.log(order)) / excess
            found = float(rdp_within(np.array(order), epsilon=float(epsilon), delta=delta))
            distance = max(2 * mpmath.mpf(delta) ** 2, -mpmath.log1p(-(mpmath.mpf(delta) ** 2)))
            assert found <= max(exact, distance)
            assert found >= exact - 12 * EPS * size


def test_what_underflows_or_overflows_is_no_error_for_those_who_made_it_one():
    setting = {"log_sobolev": 1.0, "contraction": 1e-3}
    with np.errstate(all="raise"):
        assert 0.0 < contraction_rdp(1e-300, order=2.0, noise_std=1e9, n_steps=3, **setting)[-1] <= 1e-300
        assert weak_triangle_rdp(1.7e308, 1.7e308, order=1.5) == np.inf
        assert contraction_steps(10.0, target_rdp=0.1, order=1e308, noise_std=1.0, **setting) == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_parameters_that_are_not_finite_have_no_floor_wherever_they_stand(bad, place):
    blocks = [np.ones(2), np.full(3, 2.0), np.empty(0)]
    assert noise_floor(*blocks) == 2.0**-29
    blocks[place] = np.array([1.0, bad])
    with pytest.raises(ValueError, match=r"^parameters must be finite, got"):
        noise_floor(*blocks)


def test_a_divergence_too_large_for_logarithms_stays_what_it_was():
    largest = float(np.finfo(float).max)
    setting = {"order": 2.0, "log_sobolev": 1.0, "contraction": 1.0}
    assert contraction_rdp(largest, noise_std=0.0, n_steps=2, **setting).tolist() == [largest] * 3
    assert contraction_rdp(largest, noise_std=1e-9, n_steps=2, **setting)[-1] <= largest
    assert contraction_steps(largest, noise_std=0.5, target_rdp=largest, **setting) == 0
