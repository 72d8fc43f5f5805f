"""Outward rounding of the bounds on a ridge deletion, as laws against 40-digit arithmetic."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

import oracles
import ridge_truth
from expunge.accounting.noise_floor import RESOLUTION
from expunge.runs.ridge import LearningLaw, exact, shifted
from expunge.runs.ridge.bounds import UniformBound, residual_norm_quantile, sensitivities
from expunge.runs.ridge.clipping import least_epsilon
from expunge.runs.ridge.law import Phase, RidgeDeletion, phase_floors
from expunge.runs.ridge.secular import smallest_eigenvalues


def normal_quantile(tail):
    """The two-sided quantile of a standard normal: P(|N| > z) = tail."""
    return mpmath.sqrt(2) * mpmath.erfinv(1 - mpmath.mpf(tail))


def test_probabilities_from_logarithms_are_rounded_up():
    logs = np.random.default_rng(0).uniform(-700, 0, 2000)
    with mpmath.workdps(40):
        for log, found in zip(logs, exact._exp_up(logs), strict=True):
            true = mpmath.exp(mpmath.mpf(float(log)))
            assert true <= mpmath.mpf(float(found)) <= true * (1 + mpmath.mpf("2e-15"))


@pytest.mark.parametrize("seed", range(8))
def test_slow_directions_of_long_runs_count_the_rounding_of_their_contraction(seed):
    """With targets of 0 a residual is noise alone: a sum of powers of 1 - eta h, which float64 rounds."""
    rng = np.random.default_rng(seed)
    X, Y, tail = rng.normal(size=(3, 1)), np.zeros((3, 1)), 1e-6
    n_steps, noise, alpha = 400_000, 0.3, 0.1
    step_size = float(rng.uniform(1, 2)) * 1e-6
    phase, run = Phase(n_steps, noise), {"alpha": alpha, "step_size": step_size}
    share = tail * (n_steps - 1)
    own = sensitivities(RidgeDeletion(X, Y, **run, deleted=[0]), [phase], delta_s=share)[0]
    worst = UniformBound(X, Y, **run, learning=phase, delta_s=share)._steps
    with mpmath.workdps(40):
        rows = [mpmath.mpf(float(x)) for x in X[:, 0]]
        a = 1 - mpmath.mpf(step_size) * (sum(x * x for x in rows) + mpmath.mpf(alpha))
        largest = max(abs(x) for x in rows)
        for steps, x in ((own, abs(rows[0])), (worst, largest)):
            ends = np.cumsum(steps.length)
            for i in range(2000, len(ends), 5):
                variance = mpmath.mpf(noise) ** 2 * (1 - a ** (2 * int(ends[i] - 1))) / (1 - a * a)
                true = mpmath.mpf(step_size) * x * x * mpmath.sqrt(variance) * normal_quantile(tail)
                assert true <= mpmath.mpf(float(steps.bound[i])) <= true * (1 + mpmath.mpf("1e-7"))


def test_quantiles_of_residual_norms_are_rounded_up():
    rng = np.random.default_rng(1)
    for tail in (1e-3, 1e-8, 1e-13):
        distance, variance = 10.0 ** rng.uniform(-3, 3, 60), 10.0 ** rng.uniform(-3, 1, 60)
        found = residual_norm_quantile(distance, variance, 1, tail)
        with mpmath.workdps(40):
            for m, v, b in zip(distance, variance, found, strict=True):
                s, m, b = mpmath.sqrt(mpmath.mpf(float(v))), mpmath.mpf(float(m)), mpmath.mpf(float(b))
                beyond = (mpmath.erfc((b - m) / s / mpmath.sqrt(2)) + mpmath.erfc((b + m) / s / mpmath.sqrt(2))) / 2
                assert beyond <= tail
    # Without noise the quantile is the distance itself.
    assert np.all(residual_norm_quantile(distance, np.zeros(60), 1, 1e-8) >= distance)


def test_smallest_eigenvalues_without_a_row_are_rounded_down():
    rng = np.random.default_rng(2)
    for _ in range(300):
        values = np.sort(10.0 ** rng.uniform(-2, 2, 2))
        x = rng.normal(size=2) * np.sqrt(values) * rng.uniform(0, 0.7)
        found = float(smallest_eigenvalues(values, x[None, :], floor=1e-9, square=float(x @ x))[0])
        with mpmath.workdps(40):
            h, g = ([mpmath.mpf(float(value)) for value in part] for part in (values, x * x))
            total = h[0] - g[0] + h[1] - g[1]
            determinant = (h[0] - g[0]) * (h[1] - g[1]) - g[0] * g[1]
            true = total / 2 - mpmath.sqrt(total**2 / 4 - determinant)
            assert mpmath.mpf(found) <= true or found == 1e-9


def test_contractions_of_quotes_are_rounded_up():
    rng = np.random.default_rng(3)
    for seed in range(40):
        X = rng.normal(size=(5, 2)) * 10.0 ** rng.uniform(-3, 3)
        top = float(np.linalg.eigvalsh(X.T @ X)[-1])
        law = LearningLaw(X, X[:, 0], alpha=0.3, step_size=10.0 ** -(seed % 5) / (top + 0.3), n_steps=2, noise_std=0.1)
        lowest = 0.3 + rng.random(50) * 1e-3
        eta = Fraction(law.step_size)
        for one, found in zip(lowest, shifted._contractions(law, lowest), strict=True):
            assert 1 - eta * Fraction(float(one)) <= Fraction(float(found))


def test_a_step_a_hair_above_the_largest_contracts_no_better_than_it_reflects():
    X = 1e-9 * np.random.default_rng(4).normal(size=(5, 2))
    law = LearningLaw(X, X[:, 0], alpha=1.0, step_size=1.0 + 9e-10, n_steps=2, noise_std=0.1)
    assert np.all(shifted._contractions(law, np.array([1.0])) >= Fraction(1.0 + 9e-10) - 1)


def test_what_reflects_is_rounded_up_too():
    rng = np.random.default_rng(5)
    for _ in range(40):
        X = rng.normal(size=(2000, 1)) * 10.0 ** rng.uniform(-3, 3)
        true = sum(Fraction(float(x)) ** 2 for x in X[:, 0]) + Fraction(0.3)
        law = LearningLaw(X, X[:, 0], alpha=0.3, step_size=(1.0 + 9e-10) / float(true), n_steps=2, noise_std=0.1)
        (found,) = shifted._contractions(law, np.array([float(true)]))
        assert Fraction(law.step_size) * true - 1 <= Fraction(float(found))


@pytest.mark.parametrize("n_outputs", [1, 2, 3, 10, 300])
def test_quantiles_of_residuals_are_rounded_up(n_outputs):
    with mpmath.workdps(60):
        half = mpmath.mpf(n_outputs) / 2
        for failure in 10.0 ** np.random.default_rng(n_outputs).uniform(-200, -2, 60):
            found = mpmath.mpf(shifted._chi_quantile(failure, n_outputs))
            beyond = mpmath.gammainc(half, found**2 / 2, mpmath.inf, regularized=True)
            assert beyond <= mpmath.mpf(float(failure))
            assert beyond >= mpmath.mpf(float(failure)) * (1 - mpmath.mpf("3e-11") * found**2)


@pytest.mark.parametrize("seed", range(6))
def test_smallest_eigenvalues_of_quotes_are_rounded_down(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(6, 2)) * (1.0, 10.0 ** (seed - 3))
    law = LearningLaw(X, X[:, 0], alpha=1e-3, step_size=1e-9, n_steps=2, noise_std=0.1)
    found = shifted.smallest_eigenvalues(law, range(6))
    with mpmath.workdps(40):
        for i in range(6):
            rest = [[mpmath.mpf(float(x)) for x in row] for j, row in enumerate(X) if j != i]
            a, b, c = (sum(r[u] * r[v] for r in rest) for u, v in ((0, 0), (0, 1), (1, 1)))
            true = (a + c) / 2 - mpmath.sqrt(((a - c) / 2) ** 2 + b * b) + mpmath.mpf(1e-3)
            assert mpmath.mpf(float(found[i])) <= true


def test_sensitivities_of_quotes_exceed_the_true_quantile():
    rng = np.random.default_rng(5)
    X, Y, n_steps = rng.normal(size=(3, 1)), np.zeros((3, 1)), 300
    law = LearningLaw(X, Y, alpha=0.1, step_size=1e-3, n_steps=n_steps, noise_std=0.3)
    for failure in 10.0 ** rng.uniform(-14, -1, 20):
        found = shifted._sensitivities(law, np.arange(3), law.projected(np.arange(3)), failure)
        with mpmath.workdps(40):
            rows, quantile = [mpmath.mpf(float(x)) for x in X[:, 0]], normal_quantile(float(failure))
            a = 1 - mpmath.mpf(1e-3) * (sum(x * x for x in rows) + mpmath.mpf(0.1))
            for k in (1, 2, 50, n_steps - 1):
                spread = mpmath.mpf(0.3) * mpmath.sqrt((1 - a ** (2 * k)) / (1 - a * a))
                for i, x in enumerate(rows):
                    true = mpmath.mpf(1e-3) * x * x * spread * quantile
                    assert true <= mpmath.mpf(float(found[i, k])) <= true * (1 + mpmath.mpf("1e-9"))


@pytest.mark.parametrize("seed", range(4))
def test_sensitivities_of_quotes_count_what_the_eigenvectors_are_off_by(seed):
    """Along a weak direction, over many steps: the noise-free residual of a record fitted to be next to none."""
    rng = np.random.default_rng(seed)
    n_steps, axes = 100_000, np.linalg.qr(rng.normal(size=(4, 4)))[0]
    X = (rng.normal(size=(12, 4)) * (1e-3, 1.0, 1.0, 1.0)) @ axes.T
    X[0], Y = axes[:, 0] * 1e-3, X @ rng.normal(size=(4, 1))
    step_size = 0.99 / float(np.linalg.eigvalsh(X.T @ X)[-1])

    def residual():
        rows = mpmath.matrix(X.tolist())
        hessian = rows.T * rows + mpmath.mpf(1e-9) * mpmath.eye(4)
        _, total, _ = ridge_truth.powers(mpmath.eye(4) - mpmath.mpf(step_size) * hessian, n_steps - 1)
        return (rows[0, :] * (total * (rows.T * mpmath.matrix(Y.tolist()))))[0] * mpmath.mpf(step_size) - Y[0, 0]

    with mpmath.workdps(50):
        for _ in range(4):
            Y[0] += float(residual())
        true = step_size * mpmath.norm(mpmath.matrix(X[0].tolist())) * abs(residual())
    law = LearningLaw(X, Y, alpha=1e-9, step_size=step_size, n_steps=n_steps, noise_std=1e-18)
    found = shifted._sensitivities(law, np.array([0]), law.projected([0]), 1e-6)[0, -1]
    assert true <= mpmath.mpf(float(found))


@pytest.mark.parametrize("large", [16, 32, 64])
def test_smallest_eigenvalues_of_quotes_count_what_the_gram_matrix_is_off_by(large):
    """One feature: beside large squares each of many small ones is rounded up."""
    X = np.full((20_000, 1), 1.1)
    X[:large] = 1e8
    law = LearningLaw(X, X[:, 0], alpha=1e-12, step_size=1e-20, n_steps=2, noise_std=0.1)
    found = shifted.smallest_eigenvalues(law, [large])[0]
    assert Fraction(float(found)) <= sum((Fraction(x) ** 2 for x in X[1:, 0].tolist()), Fraction(1e8) ** 2) - (
        Fraction(1.1) ** 2
    )


def test_an_epsilon_reached_by_shifts_pays_for_the_failure_of_their_bounds():
    rng = np.random.default_rng(6)
    for delta in 10.0 ** rng.uniform(-12, -1, 30):
        for mu in rng.uniform(0.01, 1.0, 3):
            epsilon = float(least_epsilon(mu, float(delta), at_most=2.3))
            if epsilon < 2.3:
                with mpmath.workdps(40):
                    paid = oracles.gdp_delta_mpmath(mu, epsilon) + mpmath.exp(epsilon) * mpmath.mpf(float(delta)) / 10
                    assert paid <= delta
                if epsilon > 0:
                    below = oracles.gdp_delta_mpmath(mu, 0.99 * epsilon) + math.exp(0.99 * epsilon) * delta / 10
                    assert below > delta


def test_the_floor_of_a_phase_is_at_the_size_its_parameters_start_from():
    """A record that made the parameters large is deleted: the first step still adds its noise to large ones."""
    X, Y = np.vstack([np.eye(3), [[1000.0, 0.0, 0.0]]]), np.array([[0.0], [1.0], [1.0], [1e9]])
    run = {"alpha": 1.0, "step_size": 0.9e-6}
    phases = [Phase(100, 1.0), Phase(10**8, 1.0, (3,))]
    learned, after = phase_floors(X, Y, **run, phases=phases, deleted=[3])
    assert learned == after > RESOLUTION * 0.9e6
