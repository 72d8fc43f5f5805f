"""Whoever saw the model before and after a deletion finds the record, unless the noise hides it: as epsilon says.

A Newton step is H^-1 times a multiple of the deleted record, so H (after - before) is parallel to it (Bertran et al.,
arXiv 2405.20272). The certificate does not cover that observer; the before/after epsilon does.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, norm

from expunge import NewtonLogisticRegression
from expunge.estimators.newton import working
from expunge.runs.noise import seeded_normals, with_noise

RNG = np.random.default_rng(0)
N, P = 600, 64
X = RNG.standard_normal((N, P)) / np.sqrt(P)
Y = (RNG.random(N) < 1 / (1 + np.exp(-2 * X @ RNG.standard_normal(P)))).astype(int)
# Mean |cosine| of directions without any relation.
CHANCE = np.sqrt(2 / (np.pi * P))


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the noise of releases after deletions a sequence that is the same in every run."""
    numbers = iter(range(10_000))

    def normals(chain: int, shape: tuple[int, int]) -> np.ndarray:
        return seeded_normals(next(numbers))(chain, shape)

    monkeypatch.setattr(working, "os_normals", normals)
    monkeypatch.setattr(
        working, "with_exact_noise", lambda theta, noise_std: with_noise(theta, noise_std=noise_std, normals=normals)
    )


def fitted(noise: float, seed: int = 0, **more: float) -> NewtonLogisticRegression:
    settings = {"classes": [0, 1], "fit_intercept": False, "releases": 2, **more}
    return NewtonLogisticRegression(noise_std=noise, random_state=seed, **settings).fit(X, Y)


def hessian(theta: np.ndarray, rows: np.ndarray) -> np.ndarray:
    odds = 1 / (1 + np.exp(-X[rows] @ theta))
    return (X[rows].T * (odds * (1 - odds))) @ X[rows] + np.eye(P)


def cosines(noise: float, deletions: range) -> tuple[np.ndarray, np.ndarray]:
    """Return |cosine| of the attacked difference with each deleted record, and the before/after epsilons."""
    model = fitted(noise)
    before, found, epsilons = model.coef_[0], [], []
    for row in deletions:
        result = model.unlearn(row)
        after = result.model.coef_[0]
        direction = hessian(after, np.delete(np.arange(N), row)) @ (after - before)
        found.append(abs(X[row] @ direction) / np.linalg.norm(X[row]) / np.linalg.norm(direction))
        epsilons.append(result.before_after.epsilon)
    return np.array(found), np.array(epsilons)


@pytest.mark.usefixtures("seeded")
def test_without_noise_the_difference_is_the_record_and_with_noise_it_is_not() -> None:
    deletions = range(30)
    hardly, epsilon = cosines(1e-8, deletions)
    # The step is not exactly Newton's: the curvature moves with theta.
    assert hardly.min() > 0.999
    assert epsilon.min() > 1e6
    much, epsilon = cosines(1.0, deletions)
    assert much.mean() < 2 * CHANCE
    assert epsilon.max() < 3
    some, between = cosines(1e-3, deletions)
    assert much.mean() < some.mean() < hardly.mean()
    assert epsilon.max() < np.median(between) < 1e6


@pytest.mark.usefixtures("seeded")
def test_nobody_tells_two_deletions_apart_better_than_the_before_after_mu_allows() -> None:
    """A guess which of two records went is right at most with Phi((mu1 + mu2)/2), which the best guess nears."""
    pair, rounds = (3, 11), 400
    for noise in (0.02, 0.1, 0.4):
        right, mus = 0, {}
        optimum = {row: fitted(1e-7).unlearn(row).evidence.theta[0] for row in pair}
        shift = optimum[pair[0]] - optimum[pair[1]]
        middle = (optimum[pair[0]] + optimum[pair[1]]) / 2
        for number in range(rounds // 20):
            model = fitted(noise, seed=number)
            for turn in range(20):
                row = pair[turn % 2]
                result = model.unlearn(row)
                mus[row] = result.before_after.mu
                # The model before says nothing about which record will go; the likelihood ratio is of the one after.
                guess = pair[0] if (result.model.coef_[0] - middle) @ shift > 0 else pair[1]
                right += guess == row
        allowed = norm.cdf(sum(mus.values()) / 2)
        best = norm.cdf(np.linalg.norm(shift) / noise / 2)
        assert beta.ppf(1e-6, right, rounds - right + 1) <= allowed
        assert best <= allowed
        assert beta.ppf(1 - 1e-6, min(right + 1, rounds), max(rounds - right, 1)) >= best - 0.02


def test_the_before_after_epsilon_covers_the_distance_of_the_optima_and_shrinks_with_noise() -> None:
    exact = fitted(1e-7)
    for row in (0, 5, 100):
        without = exact.unlearn(row).evidence.theta
        distance = float(np.linalg.norm(without - exact.evidence_.theta))
        mus = [fitted(noise).unlearn(row).before_after.mu for noise in (1e-4, 1e-2, 1.0)]
        assert mus[0] > mus[1] > mus[2]
        for mu, noise in zip(mus, (1e-4, 1e-2, 1.0), strict=True):
            assert mu >= distance / noise
            assert mu <= 1.1 * distance / noise + 3 * exact.certificate_.mu
