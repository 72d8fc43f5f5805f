"""The last bits of Langevin models: their noise is exact, the float64 sums that it enters are not.

Steps with a proved bound on their rounding, and their releases, tell nothing by their last bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from scipy import stats

from expunge import LangevinRidge
from expunge.data.exact_products import Pair, two_product, two_sum
from expunge.estimators._programs import release_of, steps_of
from expunge.runs.exact_noise import with_exact_noise
from expunge.runs.noise import Normals, os_normals, seeded_normals
from expunge.runs.ridge.chain import Draw, ExactEquations, os_pairs
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.program import release_noise
from test_noise_low_bits import explained

ROW, NOISE_STD, GAMES = 7, 0.1, 30


@dataclass(frozen=True)
class Hypotheses:
    """A model that learned a record without noise and one that never saw it, before the one step of a deletion."""

    model: LangevinRidge
    never: np.ndarray
    rest: NormalEquations
    bounded: ExactEquations

    def released(self, *, learned: bool, noise_std: float, normals: Normals = os_normals) -> np.ndarray:
        """Return the parameters of the deletion's step, (p, 1), of what had learned the record or of what had not."""
        start = self.model._theta if learned else self.never
        phase = Phase(1, noise_std)
        return self.rest.steps(start, step_size=self.model.step_size_, phase=phase, normals=normals)


@pytest.fixture(scope="module")
def hypotheses() -> Hypotheses:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 240))
    features /= np.linalg.norm(features, axis=1).max()
    targets = 0.002 * rng.standard_normal(300)
    estimator = partial(LangevinRidge, noise_std=0, alpha=1.0, fit_intercept=False)
    model = estimator().fit(features, targets, of_program=False)
    rest = estimator(step_size=model.step_size_, n_steps=model.n_iter_)
    never = rest.fit(np.delete(features, ROW, axis=0), np.delete(targets, ROW), of_program=False)
    found = Hypotheses(
        model,
        never._theta,
        NormalEquations.remaining(model._history.products, [ROW], alpha=1.0),
        ExactEquations.of(np.delete(features, ROW, axis=0), np.delete(targets, ROW)[:, None], alpha=1.0),
    )
    apart = found.released(learned=True, noise_std=0.0) - found.released(learned=False, noise_std=0.0)
    # By the theorem nobody is right in more than 51 of 100 games.
    assert 0 < np.linalg.norm(apart) < 0.02 * NOISE_STD
    return found


def guess(scores: list[int], rng: np.random.Generator) -> bool:
    """Return whether the record had been learned, by the hypothesis that explains more numbers to the last bit."""
    return bool(rng.integers(2)) if scores[0] == scores[1] else scores[1] > scores[0]


def by_sums(hypotheses: Hypotheses, released: np.ndarray) -> list[int]:
    """Return how many numbers each hypothesis explains as float64 sums with a multiple of the noise."""
    means = [hypotheses.released(learned=learned, noise_std=0.0) for learned in (False, True)]
    return [explained(mean, released, NOISE_STD) for mean in means]


@pytest.mark.parametrize("exact", [False, True])
def test_last_bits_of_the_steps_tell_what_was_learned(hypotheses: Hypotheses, exact: bool) -> None:
    """Noise of a seed or exact: the float64 sum of a model and its noise tells the model in every game."""
    rng = np.random.default_rng(1)
    right = 0
    for seed in range(GAMES):
        learned = bool(rng.integers(2))
        normals = os_normals if exact else seeded_normals(seed)
        released = hypotheses.released(learned=learned, noise_std=NOISE_STD, normals=normals)
        right += guess(by_sums(hypotheses, released), rng) == learned
    assert right == GAMES


def test_estimators_release_such_sums(hypotheses: Hypotheses) -> None:
    """What `docs/guarantees.md` says is not covered: a delta of less than 1e-100 by the theorem, and no game lost."""
    rng = np.random.default_rng(2)
    for _ in range(2):
        result = hypotheses.model.unlearn(ROW, n_steps=1, noise_std=NOISE_STD, epsilon=1.0, delta=0.01)
        assert result.certificate.delta_pq < 1e-100
        assert guess(by_sums(hypotheses, result.model.coef_[:, None]), rng)


# --- steps with a proved bound on their rounding -----------------------------------------------


def as_pair(theta: np.ndarray, rest: np.ndarray | None = None) -> Pair:
    return Pair(theta, np.zeros_like(theta) if rest is None else rest)


def bounded(hypotheses: Hypotheses, *, learned: bool, noise_std: float, draw: Draw = os_pairs) -> Pair:
    """Return what the bounded step leads to, before it is rounded, (p, 1)."""
    start = as_pair(hypotheses.model._theta if learned else hypotheses.never)
    phase = Phase(1, noise_std)
    return hypotheses.bounded.steps(start, step_size=hypotheses.model.step_size_, phase=phase, draw=draw)


def by_bounded_sums(hypotheses: Hypotheses, released: np.ndarray) -> list[int]:
    """Return how many numbers each hypothesis explains by the bounded step with a normal that is one float64."""
    scores = []
    for learned in (False, True):
        mean = bounded(hypotheses, learned=learned, noise_std=0.0)
        found, normal = np.zeros(released.shape, dtype=bool), (released - mean.hi - mean.lo) / NOISE_STD
        for i in range(-4, 5):
            noise = two_product(NOISE_STD, normal + i * np.spacing(normal))
            total = two_sum(mean.hi, noise.hi)
            found |= two_sum(total.hi, total.lo + noise.lo + mean.lo).hi == released
        scores.append(int(found.sum()))
    return scores


def test_one_float64_for_a_normal_would_not_do(hypotheses: Hypotheses) -> None:
    """The bounded step with the nearest float64 in place of both numbers: the attack is right in every game."""
    rng = np.random.default_rng(3)
    right = 0
    for _ in range(GAMES):
        learned = bool(rng.integers(2))
        draw = lambda step, shape: Pair(os_normals(step, shape), np.zeros(shape))  # noqa: E731
        released = bounded(hypotheses, learned=learned, noise_std=NOISE_STD, draw=draw).hi
        right += guess(by_bounded_sums(hypotheses, released), rng) == learned
    assert right == GAMES


@pytest.mark.parametrize("on_grid", [False, True])
def test_last_bits_of_bounded_steps_tell_nothing(hypotheses: Hypotheses, on_grid: bool) -> None:
    """As they come, whose rounding is bounded by a distance of its own, and released as the theorem says."""
    rng = np.random.default_rng(4)
    noise_std, games = release_noise([Phase(1, NOISE_STD)]), 200
    right = {by_sums: 0, by_bounded_sums: 0}
    for _ in range(games):
        learned = bool(rng.integers(2))
        released = bounded(hypotheses, learned=learned, noise_std=NOISE_STD).hi
        if on_grid:
            released = with_exact_noise(released, noise_std=noise_std)
        for attack in right:
            right[attack] += guess(attack(hypotheses, released), rng) == learned
    for number in right.values():
        assert stats.binomtest(number, games, 0.51).pvalue > 1e-6


def test_models_of_a_program_tell_nothing(hypotheses: Hypotheses) -> None:
    """The same games with a model as `fit` makes it by default, played on what `unlearn` releases."""
    rng = np.random.default_rng(5)
    features, targets = hypotheses.model._history.rows("a game")
    estimator = partial(LangevinRidge, noise_std=0, alpha=1.0, fit_intercept=False)
    model = estimator().fit(features, targets[:, 0])
    found = model.unlearn(ROW, n_steps=1, noise_std=NOISE_STD, epsilon=1.0, delta=0.01)
    program, phase = found.certificate.run.program, Phase(1, NOISE_STD, (ROW,))
    assert found.certificate.delta_pq < 1e-9  # nearly all of it the program's share
    games, right = 100, {by_sums: 0, by_bounded_sums: 0}
    for _ in range(games):
        learned = bool(rng.integers(2))
        start = as_pair(model._theta, model._theta_rest) if learned else as_pair(hypotheses.never)
        released = release_of(steps_of(model._history, start, phase), program)
        for attack in right:
            right[attack] += guess(attack(hypotheses, released), rng) == learned
    for number in right.values():
        assert stats.binomtest(number, games, 0.51).pvalue > 1e-6
