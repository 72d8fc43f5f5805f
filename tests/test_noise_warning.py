"""A model worse than its data allow says so, with settings under which it would not be; a good one says nothing."""

import re
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import r2_score

from expunge import LangevinRidge, LangevinRidgeClassifier, NoiseWarning
from expunge.data import ConstantScaler
from expunge.estimators import _deleting
from expunge.estimators.noise_warning import TrainingData
from expunge.runs.ridge.dynamics import NormalEquations

TARGET = {"epsilon": 1.0, "delta": 1e-5}
LOADERS = [load_wine, load_breast_cancer, load_iris, load_digits, load_diabetes]


def estimator(loader):
    return LangevinRidge if loader is load_diabetes else LangevinRidgeClassifier


def fitted(kind, X, y, **settings):
    """Return a model and the warning that its fit gave, or None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = kind(**settings).fit(X, y)
    assert len(caught) <= 1
    return model, caught[0].message if caught else None


@pytest.mark.parametrize("step_size", ["auto", "given", "bounded"])
@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
def test_what_a_warning_says_brings_the_model_to_its_optimum(loader, step_size):
    X, y = loader(return_X_y=True)
    kind = estimator(loader)
    wanted = (Ridge if kind is LangevinRidge else RidgeClassifier)().fit(X, y).score(X, y)
    settings = {}
    if step_size == "given":
        settings = {"step_size": 0.9 * fitted(kind, X, y)[0].step_size_}
    elif step_size == "bounded":
        largest = float(np.linalg.norm(np.column_stack([X, np.ones(len(X))]), axis=1).max())
        settings = {"step_size": "bounded", "norm_bound": 1.01 * largest, "n_bound": 2 * len(X)}
    model, warning = fitted(kind, X, y, random_state=0, **settings)
    if warning is None:
        assert model.score(X, y) >= wanted - 0.03
        return
    assert isinstance(warning, NoiseWarning)
    assert warning.settings or warning.bounds
    if warning.bounds is not None:
        X = ConstantScaler(*warning.bounds).fit_transform(X)
    for seed in (1, 2, 3):
        better, again = fitted(kind, X, y, **{**settings, **warning.settings, "random_state": seed})
        assert again is None
        assert better.score(X, y) >= wanted - 0.03


@pytest.mark.parametrize("settings", [{"noise_std": 1.0}, {"noise_std": 0.3}, {"n_steps": 3}], ids=str)
def test_what_a_warning_says_holds_for_most_of_many_fits(settings):
    """Where noise is worst: of three rehearsals all can be lucky."""
    X, y = load_breast_cancer(return_X_y=True)
    wanted = RidgeClassifier().fit(X, y).score(X, y)
    _, warning = fitted(LangevinRidgeClassifier, X, y, random_state=0, **settings)
    X = ConstantScaler(*warning.bounds).fit_transform(X)
    for seed in range(1, 21):
        better, again = fitted(LangevinRidgeClassifier, X, y, **{**settings, **warning.settings, "random_state": seed})
        assert again is None
        assert better.score(X, y) >= wanted - 0.03


def test_the_words_are_the_settings():
    X, y = load_digits(return_X_y=True)
    _, warning = fitted(LangevinRidgeClassifier, X, y, random_state=0)
    said = re.search(r"noise_std = 0.01 costs the difference; with noise_std=([\d.e-]+) it would not", str(warning))
    assert said, str(warning)
    assert warning.settings == {"noise_std": float(said.group(1))}
    X, y = load_diabetes(return_X_y=True)
    _, warning = fitted(LangevinRidge, X, y, random_state=0)
    assert "n_steps = 300 do not reach the optimum; with n_steps=1000 they would" in str(warning)
    assert warning.settings == {"n_steps": 1000}
    X, y = load_wine(return_X_y=True)
    _, warning = fitted(LangevinRidgeClassifier, X, y, random_state=0)
    assert "features differ in size by a factor of 2,500" in str(warning)
    said = re.search(r"ConstantScaler\(\[(.*?)\], \[(.*?)\]\)", str(warning))
    low, high = ([float(value) for value in part.split(", ")] for part in said.groups())
    np.testing.assert_allclose((low, high), warning.bounds, rtol=1e-5)
    assert np.all(np.array(low) <= X.min(axis=0))
    assert np.all(np.array(high) >= X.max(axis=0))
    assert "put those that you know in their place" in str(warning)


def regression(n, d, noise, seed=0):
    generator = np.random.default_rng(seed)
    X = generator.uniform(-1, 1, size=(n, d))
    return X, X @ np.ones(d) + noise * generator.normal(size=n)


@pytest.mark.parametrize(("n", "d"), [(24, 3), (60, 11), (400, 5), (400, 40), (1000, 10)])
@pytest.mark.parametrize("classes", [0, 2, 3, 10])
def test_what_luck_gains_is_no_gain(n, d, classes):
    generator = np.random.default_rng(1)
    for _ in range(50):
        design = np.column_stack([generator.normal(size=(n, d)), np.ones(n)])
        targets = np.eye(classes)[generator.permutation(n) % classes] if classes else generator.normal(size=(n, 1))
        data = TrainingData(design, targets, bool(classes), True)
        best = data.score(NormalEquations.of(design, targets, alpha=1.0).optimum())
        assert not data.speaks(best)


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_no_reason_to_warn(seed):
    """Few records, or targets of pure noise: what the optimum gains is luck, and losing it no loss."""
    generator = np.random.default_rng(seed)
    for n, d in ((10, 2), (24, 3), (60, 11), (400, 5)):
        X = generator.normal(size=(n, d))
        for settings in ({"random_state": 0}, {"random_state": 0, "noise_std": 0.5, "n_steps": 20}):
            assert fitted(LangevinRidge, X, generator.normal(size=n), **settings)[1] is None
            assert fitted(LangevinRidgeClassifier, X, generator.permutation(n) % 3, **settings)[1] is None


def test_a_good_model_is_not_warned_of():
    X, y = regression(200, 4, 0.1)
    for kind, targets in ((LangevinRidge, y), (LangevinRidgeClassifier, y > 0)):
        assert fitted(kind, X, targets, random_state=0)[1] is None


def test_a_constant_answer_is_named():
    X, y = regression(400, 4, 0.1)
    y = (y > 1.0).astype(int)
    _, warning = fitted(LangevinRidgeClassifier, X, y, n_steps=1, noise_std=0.0)
    share = max(np.mean(y), 1 - np.mean(y))
    assert f"({share:.3f} for always the most frequent class)" in str(warning)


def test_the_warning_points_at_the_call():
    X, y = load_diabetes(return_X_y=True)
    model, _, _ = cheap()
    for call in (
        lambda: LangevinRidge().fit(X, y),
        lambda: LangevinRidgeClassifier(n_steps=1).fit(X, y > 150),
        lambda: model.unlearn(3, **TARGET, n_steps=30, noise_std=2.0),
    ):
        with pytest.warns(NoiseWarning) as caught:
            call()
        assert [one.filename for one in caught] == [__file__]


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-150, 1.0, 1e150])
def test_scores_are_those_of_scikit_learn(unit):
    generator = np.random.default_rng(0)
    design, theta = generator.normal(size=(50, 3)), generator.normal(size=(3, 4))
    targets = design @ theta[:, :2] + generator.normal(size=(50, 2))
    targets[:, 1] = 0.0  # a constant output
    data = TrainingData(design, targets * unit, False, False)
    found = data.scores(theta * unit)
    expected = [r2_score(targets, design @ theta[:, half]) for half in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_accuracy_is_the_share_of_right_labels():
    X, y = load_iris(return_X_y=True)
    model, _ = fitted(LangevinRidgeClassifier, X, y)
    history = model._history
    data = TrainingData(history.design, history.targets, True, True)
    assert data.score(model._theta) == model.score(X, y)


# --- deletions -----------------------------------------------------------------------------------


def cheap():
    X, y = regression(300, 3, 0.1)
    return LangevinRidge(step_size=0.003, noise_std=0.01).fit(X, y), X, y


def test_a_deletion_says_what_it_cost():
    model, X, y = cheap()
    result = model.unlearn([3, 4], **TARGET, n_steps=30, noise_std=0.02)
    keep = np.setdiff1d(np.arange(300), [3, 4])
    assert result.before == pytest.approx(model.score(X[keep], y[keep]), rel=1e-12)
    assert result.after == pytest.approx(result.model.score(X[keep], y[keep]), rel=1e-12)
    assert result.noise_free == pytest.approx(model.downdate([3, 4]).score(X[keep], y[keep]), rel=1e-12)
    # The optimum is that of the loss with its penalty: by as much may others fit better.
    penalty = np.square(result.model._theta).sum() / np.square(y[keep] - y[keep].mean()).sum()
    assert result.noise_free >= max(result.before, result.after) - 2 * penalty


def test_a_deletion_that_ruins_the_model_warns():
    model, _, _ = cheap()
    with pytest.warns(NoiseWarning, match=r"training R\^2 on what remains .*30 steps with noise_std = 2 cost"):
        result = model.unlearn(3, **TARGET, n_steps=30, noise_std=2.0)
    assert result.after < result.noise_free - 0.05 < result.before


def test_more_loss_than_allowed_is_refused_and_nothing_changes():
    model, _, _ = cheap()
    theta, phases = model._theta.copy(), model._history.phases
    with pytest.raises(ValueError, match=r"max_loss = 0\.05 would be exceeded"):
        model.unlearn(3, **TARGET, n_steps=30, noise_std=2.0, max_loss=0.05)
    assert np.array_equal(model._theta, theta)
    assert model._history.phases == phases
    result = model.unlearn(3, **TARGET, n_steps=30, noise_std=0.02, max_loss=0.05)
    assert result.noise_free - result.after <= 0.05
    for bad in (-0.1, np.nan):
        with pytest.raises(ValueError, match="max_loss"):
            model.unlearn(3, **TARGET, n_steps=30, max_loss=bad)


def test_a_refusal_is_decided_before_the_real_noise_is_drawn(monkeypatch):
    """Choosing among real draws would release another law than the one that is certified."""
    _, X, y = cheap()
    model = LangevinRidge(step_size=0.003, noise_std=0.01).fit(X, y, of_program=False)
    drawn = []
    real = _deleting.os_normals
    monkeypatch.setattr(_deleting, "os_normals", lambda step, shape: drawn.append(shape) or real(step, shape))
    with pytest.raises(ValueError, match="max_loss"):
        model.unlearn(3, **TARGET, n_steps=30, noise_std=2.0, max_loss=0.05)
    assert (4, 1) not in drawn  # rehearsals are side by side; the real noise has the shape of one model
    drawn.clear()
    model.unlearn(3, **TARGET, n_steps=30, noise_std=0.02, max_loss=0.05)
    assert drawn[-30:] == [(4, 1)] * 30


def test_a_refusal_is_decided_before_the_steps_of_a_program(monkeypatch):
    model, _, _ = cheap()
    made = []
    real = _deleting.steps_of
    monkeypatch.setattr(_deleting, "steps_of", lambda *run: made.append(run) or real(*run))
    with pytest.raises(ValueError, match="max_loss"):
        model.unlearn(3, **TARGET, n_steps=30, noise_std=2.0, max_loss=0.05)
    assert made == []
    model.unlearn(3, **TARGET, n_steps=30, noise_std=0.02, max_loss=0.05)
    assert len(made) == 1


@pytest.mark.parametrize("spoiled", ["noise", "scale"])
def test_wide_data_are_told_settings_that_help_as_well(spoiled):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (1800, 1030))
    y = X @ rng.normal(size=1030)
    if spoiled == "scale":
        X[:, 0] *= 1e3
    noise = 0.3 if spoiled == "noise" else 1e-4
    _, warning = fitted(LangevinRidge, X, y, noise_std=noise, fit_intercept=False)
    assert re.search(rf"noise_std = {noise:g} costs" if spoiled == "noise" else "differ in size by", str(warning))
    assert (warning.bounds is None) == (spoiled == "noise")
    if warning.bounds is not None:
        X = ConstantScaler(*warning.bounds).fit_transform(X)
    settings = {"noise_std": noise, "fit_intercept": False, **warning.settings}
    model, again = fitted(LangevinRidge, X, y, **settings)
    assert again is None
    assert model.score(X, y) > 0.95


def test_an_intercept_that_the_penalty_ruins_is_warned_of():
    X = np.random.default_rng(0).normal(size=(300, 4))
    y = X @ [1.0, 2.0, 3.0, 4.0] + 1e5
    with pytest.warns(NoiseWarning, match=r"worse than 0 for the mean: alpha = 1 shrinks the intercept too; subtract"):
        LangevinRidge(random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LangevinRidge(random_state=0).fit(X, y - 1e5).score(X, y - 1e5) > 0.99
