"""Outward rounding as a law: bounds against exact or 50-digit arithmetic, close enough to see one lost slack."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from expunge.accounting import (
    GaussianPair,
    RenyiFilter,
    contraction_rdp,
    contraction_steps,
    rdp_to_epsilon,
    shifted_mu,
    weak_triangle_rdp,
)
from expunge.accounting.rdp import renyi_filter
from expunge.accounting.unlearning.contraction import rdp_within

STEP = {"noise_std": 0.37, "step_size": 0.11, "batch_size": 7.3}


def numbers(seed, count, low=-6, high=6):
    return 10.0 ** np.random.default_rng(seed).uniform(low, high, count)


def test_the_weak_triangle_is_rounded_up():
    for first, second, excess in zip(numbers(0, 400), numbers(1, 400), numbers(2, 400, -3, 3), strict=True):
        order = 1.0 + float(excess)
        a, b, alpha = Fraction(float(first)), Fraction(float(second)), Fraction(order)
        exact = (alpha - Fraction(1, 2)) / (alpha - 1) * a + b
        assert exact <= Fraction(weak_triangle_rdp(float(first), float(second), order=order)) <= exact * (1 + 2**-48)


def cks(rdp, order, delta):
    """Proposition 12 of [CKS20] to 50 digits."""
    a = mpmath.mpf(order)
    return mpmath.mpf(rdp) + mpmath.log(1 - 1 / a) - (mpmath.log(mpmath.mpf(delta)) + mpmath.log(a)) / (a - 1)


def test_epsilon_from_a_divergence_is_rounded_up():
    with mpmath.workdps(50):
        for rdp, excess, delta in zip(
            numbers(3, 600), numbers(4, 600, -8, 8), numbers(5, 600, -300, -0.01), strict=True
        ):
            epsilon, order = rdp_to_epsilon(float(rdp), 1.0 + float(excess), float(delta)), 1.0 + float(excess)
            exact = max(cks(rdp, order, delta), 0)
            if delta**2 < rdp / 2 * (1 - 1e-9) and -np.expm1(-rdp) > delta**2 * (1 + 1e-9):
                assert exact <= epsilon <= exact + 1e-13 * (1 + exact + abs(np.log(delta)) / excess + rdp)


def test_the_divergence_within_epsilon_is_rounded_down():
    with mpmath.workdps(50):
        for epsilon, excess, delta in zip(
            numbers(6, 600, -3, 2), numbers(7, 600, -4, 6), numbers(8, 600, -30, -0.1), strict=True
        ):
            order = 1.0 + float(excess)
            largest = float(rdp_within(np.array(order), epsilon=float(epsilon), delta=float(delta)))
            square = mpmath.mpf(float(delta)) ** 2
            distance = max(2 * square, -mpmath.log1p(-square))
            assert largest <= max(distance, mpmath.mpf(float(epsilon)) - cks(0, order, delta))


@pytest.mark.parametrize("seed", range(4))
def test_the_noise_multiplier_of_a_filter_is_rounded_down(monkeypatch, seed):
    seen = []

    def cost(order, multiplier, rate, **_):
        seen.append(np.array(multiplier))
        return np.zeros((multiplier.shape[0], order.size))

    monkeypatch.setattr(renyi_filter, "sampled_gaussian_rdp", cost)
    norms = numbers(seed, 300)
    RenyiFilter(2.0, 1.0, n_records=300, sampling_probability=0.1, **STEP).charge(norms)
    tau, eta, batch = (Fraction(STEP[name]) for name in ("noise_std", "step_size", "batch_size"))
    for found, norm in zip(seen[0][:, 0], norms, strict=True):
        exact = tau * batch / (eta * Fraction(float(norm)))
        assert exact * (1 - 2**-48) <= Fraction(float(found)) <= exact


@pytest.mark.parametrize("cost", [0.1, 1 / 3, 1e-9, 0.7])
def test_what_a_filter_has_spent_is_summed_up(monkeypatch, cost):
    monkeypatch.setattr(
        renyi_filter,
        "sampled_gaussian_rdp",
        lambda order, multiplier, rate, **_: np.full((multiplier.shape[0], 1), cost),
    )
    keeper = RenyiFilter(2.0, 1e9, n_records=1, sampling_probability=0.1, **STEP)
    for step in range(1, 200):
        keeper.charge([1.0])
        assert Fraction(float(keeper.spent[0, 0])) >= step * Fraction(cost)


def test_contraction_is_rounded_up_where_logarithms_are_large():
    setting = {"order": 1.5, "contraction": 1.0}
    for start in numbers(11, 300, -300, 300):
        # Without noise nothing shrinks.
        still = contraction_rdp(float(start), log_sobolev=1.0, noise_std=0.0, n_steps=1, **setting)
        assert still[1] >= start
    with mpmath.workdps(50):
        for noise, ratio in zip(numbers(12, 300, -150, 150), numbers(13, 300, -1, 1), strict=True):
            constant = np.array([float(noise) * float(noise) * float(ratio)])
            found = contraction_rdp(1.0, log_sobolev=constant, noise_std=np.array([float(noise)]), **setting)
            shrink = mpmath.log1p(mpmath.mpf(float(noise)) ** 2 / mpmath.mpf(constant[0]))
            exact = mpmath.exp(-shrink / mpmath.mpf(1.5))
            assert exact <= found[1] <= exact * (1 + mpmath.mpf(10) ** -11)


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
def test_many_contractions_are_rounded_up(noise):
    steps = 3000
    found = contraction_rdp(
        1.0, order=1.001, log_sobolev=np.full(steps, 1.0), contraction=1.0, noise_std=noise / 2, n_steps=steps
    )
    with mpmath.workdps(50):
        shrink = mpmath.log1p(mpmath.mpf(noise / 2) ** 2) / mpmath.mpf(1.001)
        for k in range(0, steps, 50):
            assert found[k] >= mpmath.exp(-k * shrink)


def test_shifted_interpolation_is_rounded_up():
    rng = np.random.default_rng(9)
    for _ in range(200):
        # One shift at the start: the best path is a straight line, mu = S / sqrt(V).
        steps = int(rng.integers(1, 12))
        shift, maps, noises = rng.random() + 0.1, rng.random(steps) + 0.3, rng.random(steps) + 0.1
        weight, variance = Fraction(1), Fraction(0)
        for c, tau in zip(maps[::-1], noises[::-1], strict=True):
            variance += (weight * Fraction(float(tau))) ** 2
            last, weight = weight, weight * Fraction(float(c))
        square = (last * Fraction(shift)) ** 2 / variance
        found = Fraction(shifted_mu(np.r_[shift, np.zeros(steps - 1)], maps, noises)) ** 2
        assert square <= found <= square * (1 + 2**-40)


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_renyi_divergences_of_a_pair_are_rounded_up(direction):
    rng = np.random.default_rng(10)
    with mpmath.workdps(60):
        for _ in range(300):
            excess = float(rng.choice([10.0 ** rng.uniform(-12, 3), -rng.random(), -(10.0 ** rng.uniform(-12, -1))]))
            shift, share = 10.0 ** rng.uniform(-8, 2), rng.random()
            e, d2 = mpmath.mpf(excess), mpmath.mpf(shift) ** 2
            if direction == "qp":
                e, d2 = -e / (1 + e), d2 / (1 + e)
            order = 1.0 + float(share * min(1 / e if e > 0 else 50, 50))
            w = mpmath.mpf(order) - 1
            v = 1 - w * e
            exact = (w * (1 + w) * d2 / (2 * v) - (mpmath.log(v) + w * mpmath.log1p(e)) / 2) / w
            found = GaussianPair([excess], [[shift]]).renyi(order, direction=direction)
            assert exact <= found
            if share < 0.9:
                assert found <= exact * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("scale", [0, 40, 150])
@pytest.mark.parametrize("start", [1.0, 1e-280, 1e300])
def test_the_fewest_contractions_are_rounded_up(scale, start):
    """Targets next to what K steps reach exactly: where K falls short by a rounding, it takes K + 1."""
    noise, order = 10.0**scale, 1.5
    constant = noise * noise * 0.7
    with mpmath.workdps(60):
        ratio = mpmath.mpf(noise) ** 2 / mpmath.mpf(constant)
        reached = [mpmath.mpf(start) * (1 + k * ratio) ** (-1 / mpmath.mpf(order)) for k in range(300)]
        targets = np.array([float(value) for value in reached[1:-1]])
        found = contraction_steps(
            start, order=order, log_sobolev=constant, contraction=1.0, noise_std=noise, target_rdp=targets
        )
        for k, (target, steps) in enumerate(zip(targets, found, strict=True), start=1):
            assert reached[int(steps)] <= mpmath.mpf(float(target))
            assert steps <= k + 1
