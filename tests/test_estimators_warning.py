"""The parts of the warning: scores, when they say anything, rehearsals, and the numbers that are proposed."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier, NoiseWarning
from expunge.estimators import noise_warning
from expunge.estimators.noise_warning import TrainingData, check_loss, warn_of_forgetting
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase

PHASE = Phase(30, 0.25, (0,))


def regression(n: int, p: int = 1) -> TrainingData:
    design = np.random.default_rng(n).normal(size=(n, p))
    return TrainingData(design, design[:, :1].copy(), False, False)


def classes(n: int, k: int = 2, p: int = 1) -> TrainingData:
    """Return n records, equally many of each of k classes."""
    return TrainingData(np.ones((n, p)), np.eye(k)[np.arange(n) % k], True, False)


# --- scores --------------------------------------------------------------------------------------


def test_models_beyond_any_size_score_minus_infinity_without_a_word() -> None:
    data = regression(30)
    assert data.score(np.array([[1e200]])) == -math.inf
    assert data.scores(np.array([[1.0, 1e200, 0.0]])).tolist()[:2] == [1.0, -math.inf]


def test_r2_is_one_minus_the_share_that_is_missed() -> None:
    data = TrainingData(np.eye(4), np.array([[1.0], [2.0], [3.0], [4.0]]), False, False)  # squares of 5 around 2.5
    assert data.score(np.array([[1.0], [2.0], [3.0], [5.0]])) == pytest.approx(1 - 1 / 5, rel=1e-14)
    assert data.score(np.full((4, 1), 2.5)) == pytest.approx(0.0, abs=1e-14)
    assert data.constant_score == 0.0
    constant = TrainingData(np.eye(2), np.array([[3.0], [3.0]]), False, False)
    assert constant.scores(np.array([[3.0, 3.0], [3.0, 4.0]])).tolist() == [1.0, 0.0]


def test_accuracy_counts_the_largest_output_and_the_constant_answer_the_largest_class() -> None:
    data = TrainingData(np.eye(4), np.eye(3)[[0, 0, 0, 2]], True, False)
    theta = np.eye(3)[[0, 0, 1, 2]]
    assert data.score(theta) == 0.75
    assert data.scores(np.hstack([theta, np.eye(3)[[0, 0, 0, 2]], np.eye(3)[[1, 1, 1, 1]]])).tolist() == [
        0.75,
        1.0,
        0.0,
    ]
    assert data.constant_score == 0.75


# --- when a score speaks -------------------------------------------------------------------------


def test_of_fewer_than_20_records_a_score_says_nothing() -> None:
    assert regression(20).speaks(1.0)
    assert not regression(19).speaks(1.0)


def test_what_ten_parameters_gain_from_200_records_by_chance() -> None:
    """1.25 (10 + 3 sqrt(20)) / 200 = 0.146 of R^2; half the root of it, a quarter more for two classes: 0.239."""
    assert regression(200, 10).speaks(0.15)
    assert not regression(200, 10).speaks(0.14)
    assert classes(200, 2, 10).speaks(0.5 + 0.245)
    assert not classes(200, 2, 10).speaks(0.5 + 0.235)
    # Four classes: the constant answer is worth 1/4, and half more is allowed for luck: 0.287.
    assert classes(200, 4, 10).speaks(0.25 + 0.29)
    assert not classes(200, 4, 10).speaks(0.25 + 0.28)


def test_a_model_falls_short_of_the_optimum_or_of_a_constant_answer() -> None:
    data = regression(100)
    assert not data.falls_short(0.9, 0.94, by=0.05)
    assert data.falls_short(0.9, 0.96, by=0.05)
    assert not data.falls_short(0.001, 0.01, by=0.05)  # nothing was there to learn
    labels = classes(400)
    assert labels.falls_short(0.5, 0.6, by=0.2)  # no better than always the same
    assert not labels.falls_short(0.51, 0.6, by=0.2)


def test_rehearsals_look_at_evenly_spaced_records_from_the_first_on() -> None:
    few = regression(50)
    assert np.array_equal(few.sample().design, few.design)
    many = TrainingData(np.arange(25_000.0)[:, None], np.arange(25_000.0)[:, None], False, True)
    sample = many.sample()
    assert sample.design[:3, 0].tolist() == [0.0, 3.0, 6.0]
    assert len(sample.design) == len(sample.targets) == 8334
    assert (sample.classify, sample.intercept) == (False, True)
    exact = TrainingData(np.zeros((10_000, 1)), np.zeros((10_000, 1)), True, False).sample()
    assert len(exact.design) == 10_000


# --- deletions -----------------------------------------------------------------------------------


def told(data: TrainingData, **scores: float) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_forgetting(data, **scores, phase=PHASE)
    assert len(caught) <= 1
    return str(caught[0].message) if caught else ""


def test_a_deletion_may_cost_five_points() -> None:
    data = regression(100)
    assert told(data, before=0.9, after=0.86, noise_free=0.9) == ""
    said = told(data, before=0.9, after=0.84, noise_free=0.9)
    assert said.startswith(
        "training R^2 on what remains 0.840, 0.900 before, 0.900 at the noise-free optimum; 30 steps "
    )
    assert "noise_std = 0.25 cost the difference" in said
    assert "it was hardly better before" in told(data, before=0.84, after=0.84, noise_free=0.9)
    assert "30 steps with" in told(data, before=0.86, after=0.84, noise_free=0.9)
    assert told(classes(400), before=0.9, after=0.8, noise_free=0.9).startswith("training accuracy on what remains")


@pytest.mark.parametrize("before", [0.8, 0.2])
def test_what_the_deletion_cost_is_not_blamed_on_the_model_before(before: float) -> None:
    """A model that fell short before may lose far more by a deletion, and both are said with their remedies."""
    said = told(regression(100), before=before, after=before - 0.7, noise_free=0.9)
    assert "30 steps with noise_std = 0.25 cost 0.700 of it: take more unlearning steps" in said
    assert "the rest was missing before: learn with more n_steps" in said
    assert "better before" not in said


def test_the_worst_rehearsal_decides_and_the_loss_allowed_is_allowed() -> None:
    data = TrainingData(np.eye(4), np.eye(2)[[0, 0, 1, 1]], True, False)
    good, half = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 0, 0, 0]]
    check_loss(data, np.hstack([good, half, good]), 1.0, max_loss=0.5, phase=PHASE)
    with pytest.raises(ValueError, match=r"^max_loss = 0\.4 would be exceeded: .* remains 0\.500, 1\.000 at the noise"):
        check_loss(data, np.hstack([good, half, good]), 1.0, max_loss=0.4, phase=PHASE)
    check_loss(data, np.hstack([good, good, good]), 1.0, max_loss=0.0, phase=PHASE)


# --- rehearsals ----------------------------------------------------------------------------------


def rehearsal(step_share: float = 1.0) -> tuple[Any, NormalEquations, float, TrainingData]:
    data = regression(40, 2)
    equations = NormalEquations.of(data.design, data.targets, alpha=1.0)
    step_size = step_share / float(np.linalg.eigvalsh(equations.hessian)[-1])
    return noise_warning._Rehearsal(data, equations, step_size), equations, step_size, data


@pytest.mark.parametrize("n_steps", [1, 2, 7, 2000])
def test_a_rehearsal_without_noise_is_the_run_without_noise(n_steps: int) -> None:
    law, equations, step_size, data = rehearsal(0.3)
    silent = Phase(n_steps, 0.0)
    zero = np.zeros((2, 1))
    theta = equations.steps(zero, step_size=step_size, phase=silent, normals=lambda step, shape: np.zeros(shape))
    assert law.worst(n_steps, 0.0) == pytest.approx(data.score(theta), rel=1e-12)


def test_a_rehearsal_with_noise_spreads_as_the_run_does() -> None:
    """In one dimension with H = 2, eta = 1/4: variance tau^2 (1 - 4^-K)/(1 - 1/4) after K steps."""
    data = TrainingData(np.array([[1.0]]), np.array([[1.0]]), False, False)
    law = noise_warning._Rehearsal(data, NormalEquations.of(data.design, data.targets, alpha=1.0), 0.25)
    seen = []
    draws = np.abs(law._draws.ravel())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingData, "scores", lambda self, theta: seen.append(theta.copy()) or np.zeros(1))
        for n_steps in (1, 3, 50):
            law.worst(n_steps, 0.5)
    for theta, n_steps in zip(seen, (1, 3, 50), strict=True):
        mean = 0.5 * (1 - 0.5**n_steps)
        spread = 0.5 * math.sqrt((1 - 0.25**n_steps) / 0.75)
        np.testing.assert_allclose(np.abs(theta.ravel() - mean), spread * draws, rtol=1e-12)


def test_the_worst_of_the_rehearsals_is_the_lowest() -> None:
    law, _, _, _ = rehearsal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingData, "scores", lambda self, theta: np.array([0.5, 0.25, 0.75]))
        assert law.worst(3, 0.1) == 0.25


def test_steps_as_long_as_the_slack_allows_are_rehearsed() -> None:
    law, _, _, _ = rehearsal(1 + 9e-10)  # 1 - eta L is a little below 0
    assert math.isfinite(law.worst(1, 0.1))
    assert law.worst(100, 0.0) > 0.9


def test_the_noise_of_a_goal_is_the_largest_that_keeps_it() -> None:
    law, _, _, _ = rehearsal()
    found = law.noise_for(2000, 100.0, 0.9)
    assert found is not None
    assert law.worst(2000, found) >= 0.9
    larger = [value for value in noise_warning._falling(100.0) if value > found]
    assert larger
    assert all(law.worst(2000, value) < 0.9 or not law.confirmed(2000, value, 0.9) for value in larger)
    assert law.noise_for(2000, 1e-6, 0.9) == 1e-6
    assert law.noise_for(2000, 100.0, 1.1) is None
    assert law.noise_for(2000, 0.0, 0.9) == 0.0


# --- the numbers proposed ------------------------------------------------------------------------


def test_noise_proposed_holds_in_draws_that_were_not_rehearsed() -> None:
    law, _, _, _ = rehearsal()
    draws = np.random.default_rng(2).standard_normal((*law._moment.shape, 400))
    for goal in (0.5, 0.9, 0.98):
        found = law.noise_for(2000, 100.0, goal)
        assert found is not None
        below = sum(law._lowest(2000, found, draws[:, :, i : i + 1]) < goal for i in range(400))
        assert below <= 80  # all of 19 draws hold with a chance of 1.5% where a fifth do not


def test_trials_propose_noise_twice_of_which_would_do() -> None:
    _, equations, step_size, data = rehearsal()
    trials = noise_warning._Trials(data, equations, step_size)
    found = trials.noise_for(200, 100.0, 0.9)
    assert found is not None
    assert trials.worst(200, 2 * found) >= 0.9


def test_noise_falls_in_round_numbers_over_thirteen_decades() -> None:
    found = list(noise_warning._falling(0.03))
    assert found[:7] == [0.03, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005]
    assert found[-1] == 1e-14
    assert len(found) == 1 + 2 + 12 * 3
    assert list(noise_warning._falling(0.0)) == [0.0]
    assert list(noise_warning._falling(0.5))[:3] == [0.5, 0.2, 0.1]
    assert list(noise_warning._falling(2.0))[:3] == [2.0, 1.0, 0.5]


def test_steps_rise_in_round_numbers() -> None:
    assert list(noise_warning._rising(300, 5000)) == [300, 500, 1000, 2000, 5000]
    assert list(noise_warning._rising(1, 20)) == [1, 2, 5, 10, 20]
    assert list(noise_warning._rising(200, 100)) == [200]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([1.0, 2500.0], " (features differ in size by a factor of 2,500)"),
        ([0.001, 2.5], " (features differ in size by a factor of 2,500)"),
        ([1.0, 10.0], ""),
        ([1.0, 10.1], " (features differ in size by a factor of 10)"),
        ([1.0, 0.0, 30.0], " (features differ in size by a factor of 30)"),
        ([0.0, 0.0], ""),
        ([1.0, 1e9], " (features differ in size by a factor of 1.0e+09)"),
        ([1.0, 9e8], " (features differ in size by a factor of 900,000,000)"),
    ],
)
def test_sizes_of_features_are_said_where_they_differ(sizes: list[float], said: str) -> None:
    features = np.array([sizes, [-0.5 * size for size in sizes]])
    for intercept in (False, True):
        design = np.column_stack([features, np.ones(2)]) if intercept else features
        assert noise_warning._sizes(TrainingData(design, np.zeros((2, 1)), False, intercept)) == said


def test_bounds_read_off_the_data_have_two_digits_and_hold() -> None:
    features = np.array([[0.12, -3.0, 5.0, 0.0], [7.94, 981.0, 5.0, 0.0], [4.0, 100.0, 5.0, 0.0]])
    data = TrainingData(np.column_stack([features, np.ones(3)]), np.zeros((3, 1)), False, True)
    scaled, (low, high) = noise_warning._scaled(data)
    np.testing.assert_allclose(low, [0.1, -10.0, 5.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(high, [8.0, 990.0, 5.1, 0.1], rtol=1e-12)
    expected = 2 * (features - np.array(low)) / (np.array(high) - np.array(low)) - 1
    np.testing.assert_allclose(scaled.design, np.column_stack([expected, np.ones(3)]), rtol=1e-12, atol=1e-12)
    assert np.abs(scaled.design).max() <= 1
    bare = TrainingData(features, np.zeros((3, 1)), False, False)
    np.testing.assert_allclose(noise_warning._scaled(bare)[0].design, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_features", [1, 32, 33])
def test_bounds_are_written_out_as_long_as_they_can_be_read(n_features: int) -> None:
    bounds = ([0.0] * n_features, [1.5] * n_features)
    warning = noise_warning._proposal("worse", "noise_std = 1 costs the difference", {"n_steps": 5}, {}, bounds)
    lists = f"ConstantScaler([{', '.join(['0'] * n_features)}], [{', '.join(['1.5'] * n_features)}])"
    assert (lists in str(warning)) == (n_features <= 32)
    assert ("ConstantScaler(*warning.bounds)" in str(warning)) == (n_features > 32)
    assert warning.bounds == bounds
    assert str(warning).endswith("the bounds were read off the data: put those that you know in their place")


def test_only_settings_that_change_are_proposed() -> None:
    now = {"n_steps": 300, "noise_std": 0.1}
    noise = noise_warning._proposal("worse", "noise_std = 0.1 costs it", {"n_steps": 300, "noise_std": 0.01}, now, None)
    assert noise.settings == {"noise_std": 0.01}
    assert str(noise) == "worse: noise_std = 0.1 costs it; with noise_std=0.01 it would not"
    steps = noise_warning._proposal("worse", "n_steps = 300 do not", {"n_steps": 900, "noise_std": 0.1}, now, None)
    assert str(steps) == "worse: n_steps = 300 do not; with n_steps=900 they would"
    alone = noise_warning._proposal("worse", "n_steps = 300 do not", now, now, ([0.0], [1.0]))
    assert alone.settings == {}
    assert "scaled by ConstantScaler([0], [1]) they would" in str(alone)
    assert (NoiseWarning("text").settings, NoiseWarning("text").bounds, str(NoiseWarning("text"))) == ({}, None, "text")


@pytest.mark.parametrize(
    ("score", "said"), [(0.9, "0.900"), (-999.9, "-999.900"), (1000.0, "1e+03"), (-2345.6, "-2.35e+03")]
)
def test_scores_are_short(score: float, said: str) -> None:
    assert noise_warning._shown(score) == said


# --- learning ------------------------------------------------------------------------------------


def warned(kind: Any, X: Any, y: Any, **settings: Any) -> NoiseWarning | None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kind(random_state=0, **settings).fit(X, y)
    message = caught[0].message if caught else None
    assert message is None or isinstance(message, NoiseWarning)
    return message


@pytest.mark.parametrize(("n", "bound"), [(255, 256), (256, 256), (257, 512)])
def test_a_bounded_proposal_counts_records_in_powers_of_two(n: int, bound: int) -> None:
    """Features of different sizes, steps bounded: the proposal is a run that depends on the bounds alone."""
    X = np.random.default_rng(0).uniform(-1, 1, size=(n, 2)) * [1.0, 1000.0]
    found = warned(LangevinRidge, X, X[:, 0], step_size="bounded", norm_bound=1500.0, n_steps=50)
    assert found is not None
    assert found.bounds is not None
    assert found.settings["n_bound"] == bound
    assert found.settings["norm_bound"] == 1.8  # sqrt(3), rounded up: each entry is within [-1, 1], and a constant 1
    low, high = (np.array(part) for part in found.bounds)
    scaled = 2 * (X - low) / (high - low) - 1
    assert warned(LangevinRidge, scaled, X[:, 0], **{"step_size": "bounded", **found.settings}) is None
    given = warned(LangevinRidge, X, X[:, 0], step_size="bounded", norm_bound=1500.0, n_bound=700, n_steps=50)
    assert given is not None
    assert "n_bound" not in given.settings  # it is as it was


def test_a_proposal_aims_at_a_hundredth_below_the_optimum() -> None:
    X = np.random.default_rng(0).uniform(-1, 1, size=(300, 3))
    y = X @ np.ones(3)
    goals = []
    with pytest.MonkeyPatch.context() as patch:
        real = noise_warning._with_remedy
        patch.setattr(
            noise_warning, "_with_remedy", lambda *a, goal, **k: goals.append(goal) or real(*a, goal=goal, **k)
        )
        found = warned(LangevinRidge, X, y, noise_std=1.0, n_steps=500)
    assert found is not None
    design = np.column_stack([X, np.ones(300)])
    data = TrainingData(design, y[:, None], False, True)
    best = data.score(NormalEquations.of(design, y[:, None], alpha=1.0).optimum())
    assert goals == [pytest.approx(best - 0.01, rel=1e-12)]
    assert set(found.settings) == {"noise_std"}
    assert "noise_std = 1 costs the difference; with noise_std=" in str(found)


def test_few_steps_are_not_blamed_on_noise_nor_noise_on_them() -> None:
    X = np.random.default_rng(0).uniform(-1, 1, size=(300, 3))
    few = warned(LangevinRidge, X, X @ np.ones(3), noise_std=0.0, n_steps=1)
    assert few is not None
    assert "n_steps = 1 do not reach the optimum; with n_steps=" in str(few)
    assert set(few.settings) == {"n_steps"}
    assert 1 < few.settings["n_steps"] <= 10
    labels = warned(LangevinRidgeClassifier, X, X[:, 0] > 0, noise_std=5.0)
    assert labels is not None
    assert "for always the most frequent class): noise_std = 5 costs the difference" in str(labels)


def test_wide_models_are_rehearsed_by_the_steps_themselves_as_many_as_the_fit_made() -> None:
    data = regression(40, 2)
    equations = NormalEquations.of(data.design, data.targets, alpha=1.0)
    step_size = 0.3 / float(np.linalg.eigvalsh(equations.hessian)[-1])
    law = noise_warning._rehearsal(data, equations, step_size)
    assert type(law) is noise_warning._Rehearsal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_warning, "_DECOMPOSED_COLUMNS", 2)
        assert type(noise_warning._rehearsal(data, equations, step_size)) is noise_warning._Rehearsal
        patch.setattr(noise_warning, "_DECOMPOSED_COLUMNS", 1)
        trials = noise_warning._rehearsal(data, equations, step_size)
    assert type(trials) is noise_warning._Trials
    for n_steps in (1, 5, 40):
        assert trials.worst(n_steps, 0.0) == pytest.approx(law.worst(n_steps, 0.0), rel=1e-12)
    assert trials.worst(40, 0.5) < trials.worst(40, 0.25) < trials.worst(40, 0.0)
    assert trials.worst(40, 0.25) == trials.worst(40, 0.25)
    assert trials.most(40, 400) == 40
    assert law.most(40, 400) == 400
    assert law.most(40, 10**6) == 100_000


def test_the_noise_of_trials_spreads_as_the_run_s_does() -> None:
    """In one dimension with H = 2, eta = 1/4: noise of one step stays as it is, and is added to half of what was."""
    data = TrainingData(np.array([[1.0]]), np.array([[1.0]]), False, False)
    equations = NormalEquations.of(data.design, data.targets, alpha=1.0)
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TrainingData, "scores", lambda self, theta: seen.append(theta.ravel()) or np.array([2.0, 1.0, 3.0])
        )
        trials = noise_warning._Trials(data, equations, 0.25)
        assert trials.worst(2, 0.5) == 1.0
    draws = np.random.default_rng(0).standard_normal((2, noise_warning.REHEARSALS))
    np.testing.assert_allclose(seen[0], 0.375 + 0.5 * (0.5 * draws[0] + draws[1]), rtol=1e-12)


def test_underflow_is_nobody_s_business() -> None:
    X = np.random.default_rng(0).uniform(-1, 1, size=(300, 3))
    with np.errstate(under="raise"):
        found = warned(LangevinRidge, X, X @ np.ones(3), noise_std=1.0, n_steps=5000)
    assert found is not None
    assert set(found.settings) == {"noise_std"}
