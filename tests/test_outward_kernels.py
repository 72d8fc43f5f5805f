"""Bounds whose rounding is counted in compiled code, held against many digits: never below, or above, the truth."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from expunge.accounting import GaussianPair
from expunge.runs.ridge import LearningLaw, smallest_eigenvalues


def renyi_divergence(excess: float, shift: float, order: float, direction: str) -> mpmath.mpf:
    """Renyi divergence between N(shift, 1 + excess) and N(0, 1), or the other way round."""
    e, s, a = mpmath.mpf(excess), mpmath.mpf(shift), mpmath.mpf(order)
    one, other = (1 + e, mpmath.mpf(1)) if direction == "pq" else (mpmath.mpf(1), 1 + e)
    mixed = a * other + (1 - a) * one
    if mixed <= 0:
        return mpmath.inf
    logs = mpmath.log(mixed) - (1 - a) * mpmath.log(one) - a * mpmath.log(other)
    return a * s * s / (2 * mixed) - logs / (2 * (a - 1))


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_the_renyi_divergence_of_a_pair_is_never_below_the_truth(direction: str) -> None:
    rng = np.random.default_rng(0)
    with mpmath.workdps(60):
        for _ in range(400):
            excess = float(rng.choice([10.0 ** rng.uniform(-9, 3), 10.0 ** rng.uniform(-6, 0) - 1]))
            shift = float(rng.choice([0.0, 10.0 ** rng.uniform(-6, 2)]))
            order = float(1 + 10.0 ** rng.uniform(-3, 2))
            truth = renyi_divergence(excess, shift, order, direction)
            found = GaussianPair([excess], [[shift]]).renyi(order, direction=direction)
            assert found >= truth, (excess, shift, order)
            if truth < mpmath.inf and truth > 1e-12:
                # The logarithms cancel, and so does the distance of the order from the pole.
                size = 1 + order * shift * shift + abs(mpmath.log1p(excess))
                assert found <= truth * (1 + 1e-9) + 1e-9 * size, (excess, shift, order)


def test_a_smallest_eigenvalue_without_a_record_is_never_above_the_truth() -> None:
    rng = np.random.default_rng(1)
    checked = 0
    with mpmath.workdps(40):
        for _ in range(25):
            n, p = int(rng.integers(4, 9)), int(rng.integers(2, 4))
            X = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-1, 1, size=p)
            alpha = float(10.0 ** rng.uniform(-3, 0))
            step_size = 0.9 / (float(np.linalg.norm(X, 2)) ** 2 + alpha)
            law = LearningLaw(X, X[:, 0], alpha=alpha, step_size=step_size, n_steps=20, noise_std=0.1)
            found = smallest_eigenvalues(law, np.arange(n))
            exact = mpmath.matrix(X.tolist())
            whole = exact.T * exact + alpha * mpmath.eye(p)
            for i in range(n):
                row = exact[i, :]
                truth = min(mpmath.eigsy(whole - row.T * row, eigvals_only=True))
                assert found[i] <= truth, (X, alpha, i)
                assert found[i] >= truth - 1e-13 * float(law.eigenvalues[-1])
                checked += 1
    assert checked > 100
