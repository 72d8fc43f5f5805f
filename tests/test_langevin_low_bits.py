"""The last bits of Langevin models: their noise is exact, the float64 sums that it enters are not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from scipy import stats

from expunge import LangevinRidge
from expunge.runs.exact_noise import with_exact_noise
from expunge.runs.noise import Normals, os_normals, seeded_normals
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase
from test_noise_low_bits import explained

ROW, NOISE_STD, GAMES = 7, 0.1, 30


@dataclass(frozen=True)
class Hypotheses:
    """A model that learned a record without noise and one that never saw it, before the one step of a deletion."""

    model: LangevinRidge
    never: np.ndarray
    rest: NormalEquations

    def released(self, *, learned: bool, noise_std: float, normals: Normals = os_normals) -> np.ndarray:
        """Return the parameters of the deletion's step, (p,), from what had learned the record or from what had not."""
        start = self.model._theta if learned else self.never
        phase = Phase(1, noise_std)
        return self.rest.steps(start, step_size=self.model.step_size_, phase=phase, normals=normals)[:, 0]


@pytest.fixture(scope="module")
def hypotheses() -> Hypotheses:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 240))
    features /= np.linalg.norm(features, axis=1).max()
    targets = 0.002 * rng.standard_normal(300)
    estimator = partial(LangevinRidge, noise_std=0, alpha=1.0, fit_intercept=False)
    model = estimator().fit(features, targets)
    rest = estimator(step_size=model.step_size_, n_steps=model.n_iter_)
    never = rest.fit(np.delete(features, ROW, axis=0), np.delete(targets, ROW))
    found = Hypotheses(model, never._theta, NormalEquations.remaining(model._history.products, [ROW], alpha=1.0))
    apart = found.released(learned=True, noise_std=0.0) - found.released(learned=False, noise_std=0.0)
    # By the theorem nobody is right in more than 51 of 100 games.
    assert 0 < np.linalg.norm(apart) < 0.02 * NOISE_STD
    return found


def guess(hypotheses: Hypotheses, released: np.ndarray, rng: np.random.Generator) -> bool:
    """Return whether the record had been learned, by the hypothesis that explains more numbers to the last bit."""
    scores = [
        explained(hypotheses.released(learned=learned, noise_std=0.0), released, NOISE_STD) for learned in (False, True)
    ]
    return bool(rng.integers(2)) if scores[0] == scores[1] else scores[1] > scores[0]


@pytest.mark.parametrize("exact", [False, True])
def test_last_bits_of_the_steps_tell_what_was_learned(hypotheses: Hypotheses, exact: bool) -> None:
    """Noise of a seed or exact: the float64 sum of a model and its noise tells the model in every game."""
    rng = np.random.default_rng(1)
    right = 0
    for seed in range(GAMES):
        learned = bool(rng.integers(2))
        normals = os_normals if exact else seeded_normals(seed)
        released = hypotheses.released(learned=learned, noise_std=NOISE_STD, normals=normals)
        right += guess(hypotheses, released, rng) == learned
    assert right == GAMES


def test_estimators_release_such_sums(hypotheses: Hypotheses) -> None:
    """What `docs/guarantees.md` says is not covered: a delta of less than 1e-300 by the theorem, and no game lost."""
    rng = np.random.default_rng(2)
    for _ in range(2):
        result = hypotheses.model.unlearn(ROW, n_steps=1, noise_std=NOISE_STD, epsilon=1.0, delta=0.01)
        assert result.certificate.delta_pq < 1e-100
        assert guess(hypotheses, result.model.coef_, rng)


def test_exact_noise_on_a_grid_hides_them(hypotheses: Hypotheses) -> None:
    """As much as a thousandth of the step's noise on top, rounded exactly: the same attacker is right by chance."""
    rng = np.random.default_rng(3)
    right, games = 0, 400
    for _ in range(games):
        learned = bool(rng.integers(2))
        steps = hypotheses.released(learned=learned, noise_std=NOISE_STD)
        right += guess(hypotheses, with_exact_noise(steps, noise_std=1e-3 * NOISE_STD), rng) == learned
    assert stats.binomtest(right, games, 0.51).pvalue > 1e-6
