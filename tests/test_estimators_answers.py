"""What estimators answer when little is said, and small files that say too little or the wrong thing."""

from __future__ import annotations

import stat
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from expunge import LangevinRidge, LangevinRidgeClassifier, NoiseWarning, ReleasedRidge
from expunge._files import FileFormatError
from expunge.accounting.noise_floor import RESOLUTION
from expunge.certificates import CONDITIONS
from expunge.estimators import _storage, quotes
from expunge.estimators._classes import class_list
from expunge.estimators.noise_warning import TrainingData, _Rehearsal
from expunge.runs.ridge.cost import DeletionCost
from expunge.runs.ridge.dynamics import NormalEquations

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 2}
X = np.random.default_rng(29).normal(size=(8, 1))
MODEL = LangevinRidge(noise_std=0.1, n_steps=5, fit_intercept=False).fit(X, X[:, 0])


def test_a_profile_without_steps_is_that_of_the_end_of_learning_whatever_noise_is_said() -> None:
    at_end = float(MODEL.privacy_profile(3).delta(1.0))
    assert float(MODEL.privacy_profile(3, noise_std=1.0).delta(1.0)) == at_end
    assert float(MODEL.privacy_profile(3, n_steps=1, noise_std=1.0).delta(1.0)) < at_end


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_a_certificate_names_the_method_that_set_its_noise(method: str) -> None:
    assert MODEL.unlearn(3, **TARGET, method=method).certificate.method == method


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step_size": 0.0}, r"^step_size must be > 0, got 0"),
        ({"step_size": "bounded", "norm_bound": 0.0}, r"^norm_bound must be > 0, got 0"),
        ({"alpha": 0.0}, r"^alpha must be > 0, got 0"),
    ],
)
def test_sizes_that_must_be_positive_are_not_zero(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LangevinRidge(**settings).fit(X, X[:, 0])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"epsilon": -1e-9}, r"^epsilon must be >= 0"),
        ({"delta": 0.0}, r"^delta must be > 0 and < 1"),
        ({"delta": -1e-9}, r"^delta must be > 0 and < 1"),
        ({"delta": 1.0}, r"^delta must be > 0 and < 1"),
        ({"method": "best"}, r"^method must be one of 'exact', 'shifted', 'uniform'"),
        ({"method": "shifted", "delta": 1e-271}, r"^delta must be at least 1e-270 for method 'shifted'"),
        ({"method": "uniform", "delta": 1e-271}, r"^delta must be at least 1e-270 for method 'uniform'"),
        ({"n_steps": 0}, r"^n_steps must be >= 1"),
    ],
)
def test_targets_out_of_range_are_refused_by_a_quote_and_by_a_deletion(asked: dict[str, Any], said: str) -> None:
    later = MODEL.unlearn(0, **TARGET).model
    for model in (MODEL, later):
        with pytest.raises(ValueError, match=said):
            model.quote(**{**TARGET, **asked}, rows=[3])
    with pytest.raises(ValueError, match=said):
        MODEL.unlearn(3, **{**TARGET, **asked})


# --- quotes --------------------------------------------------------------------------------------


def test_noise_is_suspected_of_being_lost_by_bounds_on_the_parameters() -> None:
    """Two rows, e_1 and e_2, targets 3 and 4, alpha = 1e-4: the optimum is (3, 4), of length 5.

    Without a row its coordinate is gone; the bound is 5 plus that coordinate, and the parameters of the deletion are
    within 5 + 2 (5 + 3) = 21 or 5 + 2 (5 + 4) = 23. Of groups, 3 |y| / (2 sqrt(alpha)) = 750 is all that is known.
    """
    fit = LangevinRidge(alpha=1e-4, noise_std=0.0, fit_intercept=False).fit(np.eye(2), [3.0, 4.0])
    history = fit._require_history()
    rows = np.array([0, 1])

    def suspected(noise: list[float], *, learning: float = 0.0, single: bool = True) -> list[bool]:
        law: Any = SimpleNamespace(noise_std=learning * RESOLUTION, eigenvalues=np.array([1.0001, 1.0001]))
        return quotes.may_be_lost(history, law, np.array(noise) * RESOLUTION, rows if single else None).tolist()

    for noise, wanted in ((20.9, [True, True]), (22.0, [False, True]), (23.1, [False, False]), (1e4, [False, False])):
        assert suspected([noise, noise]) == wanted
        assert suspected([np.inf, np.inf], learning=noise) == wanted
        assert suspected([noise, 1e6]) == [wanted[0], False]  # whatever the others need
        assert suspected([1e6, noise]) == [False, wanted[1]]
    assert suspected([0.0, 0.0]) == [False, False]
    for noise in (0.1, 22.0, 749.0):
        assert suspected([noise, noise], single=False) == [True, True]
    assert suspected([751.0, 751.0], single=False) == [False, False]


def test_a_quote_is_certified_only_where_no_direction_was_left_out() -> None:
    wide = np.random.default_rng(1).normal(size=(60, 50))
    for features, certified in ((wide, False), (wide[:, :2], True)):
        model = LangevinRidge(noise_std=0.1, n_steps=5).fit(features, features[:, 0])
        quote = model.quote(**TARGET, rows=[3, 4])
        assert quote.certified.tolist() == [certified] * 2
        assert quote.status == ("certified" if certified else "estimate")


def test_groups_near_the_floor_are_quoted_by_the_certificate_s_algebra() -> None:
    features = np.array([[1.0], [1.0], [1e-6], [1e-6], [1.0], [-1.0]])
    model = LangevinRidge(noise_std=0.0, fit_intercept=False).fit(
        features, [1.0, 2.0, 0.0, 0.0, 1.0, 1.0], of_program=False
    )
    quote = model.quote(**TARGET, groups=[7, 7, 8, 8, 9, 9])
    for i, rows in enumerate(([0, 1], [2, 3], [4, 5])):
        cost = DeletionCost(model._require_history(), rows, method="exact", epsilon=1.0, delta=1e-5)
        assert quote.noise_std[i] == pytest.approx(cost.smallest_noise(2, start=1e-3), rel=1e-6)
        assert quote.noise_std[i] >= cost.floor(2)


def test_directions_of_a_first_deletion_are_those_of_its_certificate() -> None:
    quote = MODEL.quote(**TARGET)
    costly = np.flatnonzero(quote.noise_std > 0).tolist()
    assert costly
    for row in costly[:3]:
        assert quote.direction[row] == MODEL.unlearn(row, **TARGET).certificate.direction


def test_where_no_noise_is_needed_no_steps_are() -> None:
    features = np.vstack([X, [[0.0]]])
    model = LangevinRidge(noise_std=0.1, n_steps=5, fit_intercept=False).fit(features, features[:, 0])
    cost = DeletionCost(model._require_history(), [8], method="exact", epsilon=1.0, delta=1e-5)
    assert quotes._with_fewest_steps(cost, 1.0) == (0.0, 0)
    later = model.unlearn(0, **TARGET).model.quote(epsilon=5.0, delta=0.1, noise_std=1.0, rows=[8])
    assert (later.noise_std.tolist(), later.n_steps.tolist()) == ([0.0], [0])


# --- releases ------------------------------------------------------------------------------------


def test_a_release_is_fitted_and_a_bare_one_is_not() -> None:
    check_is_fitted(MODEL.release())
    with pytest.raises(NotFittedError):
        check_is_fitted(ReleasedRidge())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_released_classifier_decides_as_the_model_does(n_classes: int) -> None:
    model = LangevinRidgeClassifier(noise_std=0.01, n_steps=50).fit(X, np.arange(8) % n_classes)
    scores = model.release().decision_function(X)
    assert scores.tolist() == model.decision_function(X).tolist()
    assert scores.shape == ((8,) if n_classes == 2 else (8, 3))
    labels = (scores > 0).astype(int) if n_classes == 2 else scores.argmax(axis=1)
    assert model.release().predict(X).tolist() == model.predict(X).tolist() == labels.tolist()


def test_several_targets_are_announced_to_scikit_learn() -> None:
    assert LangevinRidge().__sklearn_tags__().target_tags.multi_output
    assert not LangevinRidgeClassifier().__sklearn_tags__().target_tags.multi_output


# --- the warning ---------------------------------------------------------------------------------


def warned(features: Any, targets: Any, **settings: Any) -> NoiseWarning:
    with pytest.warns(NoiseWarning) as caught:
        LangevinRidge(random_state=0, **settings).fit(features, targets)
    (found,) = (one.message for one in caught)
    assert isinstance(found, NoiseWarning)
    return found


def test_where_scaling_would_not_help_many_more_steps_are_proposed() -> None:
    """What is learned is the small difference of two large features: brought to [-1, 1], alpha would drown it."""
    generator = np.random.default_rng(2)
    common, small = generator.uniform(-1000, 1000, size=300), generator.uniform(-1, 1, size=300)
    features = np.column_stack([common, common + 30 * small])
    found = warned(features, small, n_steps=300, noise_std=0.0)
    assert found.bounds is None
    assert set(found.settings) == {"n_steps"}
    assert found.settings["n_steps"] > 10 * 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        better = LangevinRidge(noise_std=0.0, **found.settings).fit(features, small)
    assert better.score(features, small) > 0.98


def test_a_rehearsal_underflows_in_silence_whatever_numpy_is_told() -> None:
    data = TrainingData(np.eye(2), np.ones((2, 1)), False, False)
    law = _Rehearsal(data, NormalEquations.of(data.design, data.targets, alpha=1.0), 0.4)
    with np.errstate(under="raise"):
        assert law.worst(10_000, 0.0) == law.worst(10_001, 0.0)


def test_one_record_more_than_are_rehearsed_halves_them() -> None:
    many = np.zeros((10_001, 1))
    assert len(TrainingData(many, many, False, False).sample().design) == 5_001


# --- files ---------------------------------------------------------------------------------------

WORKING = {"LangevinRidge": LangevinRidge}
RELEASED = {"ReleasedRidge": ReleasedRidge}


def written(place: Path, model: Any, **header: Any) -> Path:
    """Write a model's file with other words in its header; None leaves one out."""
    stored, arrays = _storage.read(model.save(place, overwrite=True))
    place.write_bytes(_storage.sealed_bytes({k: v for k, v in {**stored, **header}.items() if v is not None}, arrays))
    return place


def test_a_model_of_any_known_kind_is_read_and_no_other(tmp_path: Path) -> None:
    place = tmp_path / "m.npz"
    read = {"working": WORKING, "released": RELEASED}
    assert type(_storage.load_any(MODEL.save(place), **read)) is LangevinRidge
    assert type(_storage.load_any(MODEL.release().save(place, overwrite=True), **read)) is ReleasedRidge
    with pytest.raises(FileFormatError, match="holds a released model, which has no history: give the working model"):
        _storage.load_any(place, working=WORKING, released={})
    for one in (MODEL, MODEL.release()):
        for header in ({"form": "odd"}, {"kind": "Odd"}, {"kind": 7}, {"kind": ["LangevinRidge"]}):
            form, kind = (
                {"form": (one is MODEL and "working") or "released", "kind": type(one).__name__} | header
            ).values()
            with pytest.raises(FileFormatError, match="which is not known here") as refusal:
                _storage.load_any(written(place, one, **header), **read)
            assert f"holds a {form} {kind}, " in str(refusal.value)
    with pytest.raises(FileFormatError, match="holds a released LangevinRidge, which is not known here"):
        _storage.load_any(written(place, MODEL, form="released"), **read)
    with pytest.raises(FileFormatError, match="holds a working ReleasedRidge, which is not known here"):
        _storage.load_any(written(place, MODEL.release(), form="working"), **read)


def test_a_release_may_be_read_by_others_and_a_working_model_may_not(tmp_path: Path) -> None:
    released = MODEL.release().save(tmp_path / "released.npz")
    working = MODEL.save(tmp_path / "working.npz")
    assert stat.S_IMODE(released.stat().st_mode) & 0o044
    assert stat.S_IMODE(working.stat().st_mode) == 0o600


def test_old_files_of_classifiers_name_their_classes_as_data_and_those_of_regressors_none(tmp_path: Path) -> None:
    old = {"sources": None, "rests_on": None}
    classifier = LangevinRidgeClassifier(noise_std=0.1, step_size=0.01, classes=[0, 1]).fit(X, np.arange(8) % 2)
    assert LangevinRidgeClassifier.load(written(tmp_path / "m.npz", classifier, **old)).conditions_ == (
        CONDITIONS["classes"],
    )
    regressor = LangevinRidge(noise_std=0.1, step_size=0.01).fit(X, X[:, 0])
    assert LangevinRidge.load(written(tmp_path / "m.npz", regressor, **old)).conditions_ == ()


@pytest.mark.parametrize("name", ["targets", "design", "theta"])
def test_arrays_of_a_model_are_float64_also_where_float32_would_hold_them(name: str, tmp_path: Path) -> None:
    model = LangevinRidge(noise_std=0.0, n_steps=1, fit_intercept=False).fit(np.eye(4), [1.0, 2.0, 3.0, 4.0])
    header, arrays = _storage.read(model.save(tmp_path / "m.npz"))
    arrays[name] = arrays[name].astype(np.float32)
    (tmp_path / "m.npz").write_bytes(_storage.sealed_bytes(header, arrays))
    with pytest.raises(FileFormatError, match=rf"{name} must be float64 of 2 dimension\(s\), got float32"):
        LangevinRidge.load(tmp_path / "m.npz")


# --- classes -------------------------------------------------------------------------------------


def test_given_classes_and_labels_are_of_one_kind_also_as_python_objects() -> None:
    texts = np.array(["b", "a", "b"], dtype=object)
    for labels in (texts, texts.astype(str)):
        classes, source = class_list(labels, ["b", "a", "c"])
        assert (classes.tolist(), source) == (["a", "b", "c"], "given")
    assert class_list(np.array([1, 0], dtype=object), [0, 1])[0].tolist() == [0, 1]
    for labels, given in (
        (texts, [0, 1]),
        (np.array([0, 1]), ["a", "b"]),
        (np.array([0, 1], dtype=object), ["a", "b"]),
    ):
        with pytest.raises(ValueError, match=r"^y must hold the labels given as classes, got labels of another kind"):
            class_list(labels, given)
    with pytest.raises(TypeError, match=r"^classes must be all strings or all numbers, got both"):
        class_list(texts, ["a", 1])
    with pytest.raises(ValueError, match=r"^y must hold at least 2 classes, got one class: 7$"):
        class_list(np.array([7, 7]), None)
