"""Block Krylov spaces of groups, and the rounding of sensitivities that cancel, against exact arithmetic."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from expunge.runs import ridge
from expunge.runs.ridge import groups, shifted

EPS = np.finfo(float).eps
TARGET = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 6}


def wide(seed=0, n=70, p=60, **changes):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, p)) * np.geomspace(1.0, 0.05, p), rng.normal(size=(n, 2))
    largest = float(np.linalg.eigvalsh(X.T @ X + 0.5 * np.eye(p))[-1])
    run = {"alpha": 0.5, "step_size": 1 / largest, "n_steps": 30, "noise_std": 0.05, **changes}
    return ridge.LearningLaw(X, Y, **run)


def test_a_basis_is_orthonormal_and_spans_the_powers_of_the_matrix_on_the_rows():
    law = wide()
    projected = law.projected([3, 8])
    for steps in (1, 2, 5):
        basis = groups.krylov_basis(law, projected, steps)
        assert basis.shape == (60, 2 * steps)
        np.testing.assert_allclose(basis.T @ basis, np.eye(2 * steps), atol=1e-13)
        block = projected.T
        for _ in range(steps):
            unit = block / np.linalg.norm(block, axis=0)
            np.testing.assert_allclose(basis @ (basis.T @ unit), unit, atol=1e-10)
            block = law.eigenvalues[:, None] * block
        # The next power is not in it yet.
        unit = block / np.linalg.norm(block, axis=0)
        assert np.linalg.norm(unit - basis @ (basis.T @ unit)) > 1e-6


def test_a_basis_stops_where_the_space_is_closed_or_the_whole():
    law = wide()
    projected = law.projected([3, 8])
    assert groups.krylov_basis(law, projected, 29).shape == (60, 58)
    assert groups.krylov_basis(law, projected, 30) is None
    # Twice the same row has one direction; a row along two eigenvectors has two, however many steps.
    assert groups.krylov_basis(law, projected[[0, 0]], 4).shape == (60, 4)
    two = np.zeros((1, 60))
    two[0, [5, 50]] = 1.0, -2.0
    basis = groups.krylov_basis(law, two, 9)
    assert basis.shape == (60, 2)
    assert np.abs(np.delete(basis, [5, 50], axis=0)).max() < 1e-10
    assert groups.krylov_basis(law, 0.0 * two, 3).shape == (60, 0)


@pytest.mark.parametrize("rows", [[4], [3, 8], [0, 1, 2]])
def test_quotes_of_a_basis_are_those_of_the_whole_space_within_their_error(rows):
    law = wide()
    whole = ridge.exact_group_quotes(law, [rows], rank=60, **TARGET)
    chosen = ridge.exact_group_quotes(law, [rows], **TARGET)
    assert whole.rank.tolist() == [60]
    assert chosen.rank[0] < 60
    assert chosen.rank[0] % len(rows) == 0
    assert chosen.error[0] <= 1e-6
    np.testing.assert_allclose(chosen.noise_std, whole.noise_std, rtol=1e-6)
    np.testing.assert_allclose(chosen.delta_pq, whole.delta_pq, rtol=1e-4)
    # A rank that is given is kept, and its error told: a small one resolves nothing.
    small = ridge.exact_group_quotes(law, [rows], rank=2 * len(rows), **TARGET)
    assert small.rank.tolist() == [2 * len(rows)]
    assert small.error[0] > chosen.error[0]
    gap = abs(small.noise_std[0] / whole.noise_std[0] - 1)
    assert small.error[0] >= gap or small.error[0] == math.inf


def test_a_smaller_tolerance_asks_for_a_larger_rank():
    law = wide(n_steps=200)
    ranks = [
        int(ridge.exact_group_quotes(law, [[3]], tolerance=tolerance, **TARGET).rank[0]) for tolerance in (0.5, 1e-13)
    ]
    assert ranks[0] < ranks[1]
    # The first try, 8 and 0.85 of the root of the steps, is enough for a loose one.
    assert ranks[0] == 8 + 12


def test_a_group_without_features_costs_nothing():
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(9, 3)), rng.normal(size=(9, 1))
    X[[2, 5]] = 0.0
    law = ridge.LearningLaw(X, Y, alpha=1.0, step_size=0.01, n_steps=5, noise_std=0.1)
    found = ridge.exact_group_quotes(law, [[2, 5]], **TARGET)
    values = (found.noise_std, found.epsilon, found.delta_pq, found.delta_qp, found.mu, found.error)
    assert [float(value[0]) for value in values] == [0.0] * 6


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_a_basis_does_not_depend_on_the_scale_of_the_records(scale):
    rng = np.random.default_rng(2)
    X = scale * rng.normal(size=(70, 60)) * np.geomspace(1.0, 0.05, 60)
    law = ridge.LearningLaw(
        X, np.ones((70, 1)), alpha=0.5 * scale**2, step_size=1e-4 / scale**2, n_steps=30, noise_std=0.05
    )  # fmt: skip
    assert groups.krylov_basis(law, law.projected([3, 8]), 5).shape == (60, 10)
    two = np.zeros((1, 60))
    two[0, [5, 50]] = scale, -2.0 * scale
    assert groups.krylov_basis(law, two, 9).shape == (60, 2)


# --- rounding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-13, 1e-10, 1e-3])
def test_residuals_that_cancel_are_bounded_from_above(alpha):
    # One record, one feature, no noise: theta_k = (1 - (1 - h)^k) x y / lambda, h = step_size lambda.
    for seed in range(80):
        rng = np.random.default_rng(seed)
        x, y = float(rng.normal()), float(rng.normal())
        law = ridge.LearningLaw(
            [[x]], [[y]], alpha=alpha, step_size=0.9 / (x * x + alpha), n_steps=40, noise_std=0.0
        )  # fmt: skip
        found = shifted._sensitivities(law, np.array([0]), law.projected([0]), 1e-6)[0]
        with mpmath.workdps(50):
            a, b, eta = mpmath.mpf(x), mpmath.mpf(y), mpmath.mpf(law.step_size)
            value = a * a + mpmath.mpf(alpha)
            for k, bound in enumerate(found):
                truth = eta * abs(a) * abs(a * (1 - (1 - eta * value) ** k) * a * b / value - b)
                assert truth <= bound


def test_residuals_of_records_across_the_mean_are_bounded_from_above():
    # Records at right angles to the mean iterate, whose residuals are nothing but rounding.
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X, Y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
        last = np.linalg.solve(X.T @ X + 0.5 * np.eye(3), X.T @ Y)[:, 0]
        across = np.array([[last[1], -last[0], 0.0], [0.0, last[2], -last[1]], [last[2], 0.0, -last[0]]])
        X, Y = np.vstack([X, 1e-12 * across]), np.vstack([Y, np.zeros((3, 1))])
        law = ridge.LearningLaw(X, Y, alpha=0.5, step_size=0.03, n_steps=300, noise_std=0.0)
        rows = np.array([8, 9, 10])
        found = shifted._sensitivities(law, rows, law.projected(rows), 1e-6)
        with mpmath.workdps(40):
            A, b = mpmath.matrix(X.tolist()), mpmath.matrix(Y.tolist())
            H, c, eta = A.T * A + mpmath.mpf(0.5) * mpmath.eye(3), A.T * b, mpmath.mpf(0.03)
            theta = mpmath.matrix(3, 1)
            for step in range(300):
                if step % 25 == 24:
                    for row, bounds in zip(rows, found, strict=True):
                        truth = eta * mpmath.norm(A[int(row), :]) * abs((A[int(row), :] * theta)[0])
                        assert truth <= bounds[step]
                theta = theta - eta * (H * theta - c)


def test_smallest_eigenvalues_are_lowered_by_the_rounding_of_the_others():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(5, 4)) * np.geomspace(1e4, 1.0, 4)
        X[0] = 0.0
        law = ridge.LearningLaw(
            X, np.ones((5, 1)), alpha=1e-3, step_size=1e-12, n_steps=2, noise_std=0.1
        )  # fmt: skip
        with mpmath.workdps(50):
            A = mpmath.matrix(X.tolist())
            exact = min(mpmath.eigsy(A.T * A, eigvals_only=True)) + mpmath.mpf(1e-3)
        found = float(ridge.smallest_eigenvalues(law, [0])[0])
        assert found <= exact
        assert found >= exact - 128 * EPS * law.eigenvalues[-1]
        # However the eigenvalue at hand was rounded, it is lowered by more than one such rounding.
        assert law.eigenvalues[0] - found >= 4 * EPS * law.eigenvalues[-1]


@pytest.mark.parametrize("size", [2, 3, 7, 40])
def test_sensitivities_of_a_group_are_summed_up(monkeypatch, size):
    law, seen = wide(3), []

    def solve(law, goal, sensitivity, contraction, threads):
        seen.append(sensitivity)
        return np.ones(1), np.ones(1)

    monkeypatch.setattr(shifted, "_solve_shifted", solve)
    rows = np.arange(size)
    ridge.shifted_group_quotes(law, [rows], **TARGET)
    each = shifted._sensitivities(law, rows, law.projected(rows), 1e-6 / (29 * size))
    for column, found in zip(each.T, seen[0][0], strict=True):
        assert sum(Fraction(float(one)) for one in column) <= Fraction(float(found))


def test_the_room_beside_failures_is_rounded_down(monkeypatch):
    law, seen, plain = wide(4, n=8, p=3), [], shifted.gdp_mu

    def limit(epsilon, delta):
        seen.append(delta)
        return plain(epsilon, delta)

    monkeypatch.setattr(shifted, "gdp_mu", limit)
    for epsilon, exponent in np.random.default_rng(5).uniform((0.0, -30.0), (2.3, -0.5), (60, 2)):
        delta = 10.0 ** float(exponent)
        ridge.shifted_quotes(law, [0], epsilon=float(epsilon), delta=delta, n_steps=1)
        with mpmath.workdps(50):
            exact = mpmath.mpf(delta) * (1 - mpmath.exp(mpmath.mpf(float(epsilon))) / 10)
            assert exact - 16 * EPS * delta <= seen[-1] <= exact


def test_records_that_need_no_noise_keep_their_epsilon_beside_those_that_do():
    rng = np.random.default_rng(6)
    X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    X[:10] *= 1e-3
    law = ridge.LearningLaw(X, Y, alpha=1.0, step_size=0.01, n_steps=20, noise_std=0.05)
    found = ridge.shifted_quotes(law, range(20), **TARGET)
    free = found.noise_std == 0.0
    assert 0 < free.sum() < 20
    assert (found.epsilon[free] < 1.0).all()
    assert (found.epsilon[~free] == 1.0).all()
    np.testing.assert_array_equal(
        found.epsilon[free], ridge.shifted_quotes(law, np.flatnonzero(free), **TARGET).epsilon
    )


def test_steps_too_small_to_move_float64_are_no_error():
    law = ridge.LearningLaw([[1.0], [2.0]], [1.0, 1.0], alpha=1.0, step_size=1e-20, n_steps=4, noise_std=0.1)
    with np.errstate(all="raise"):
        found = ridge.shifted_quotes(law, [0], **TARGET)
    assert np.isfinite(found.mu).all()
    assert (law._mean_errors >= 0.0).all()
