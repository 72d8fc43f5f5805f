"""Model files, part by part: each check of what a file says, at its edge, and what is written back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier, ReleasedRidge
from expunge._files import FileFormatError
from expunge.estimators import _storage, _stored
from expunge.estimators._records import GIVEN, INDEX, ROW_NUMBERS
from expunge.runs.ridge.law import Phase

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-3, "n_steps": 5}
X = np.random.default_rng(8).normal(size=(9, 2))
Y = X @ [1.0, 2.0]
LABELS = np.array(["a", "b", "c"] * 3)


def regressor(**more: Any) -> LangevinRidge:
    return LangevinRidge(**{"n_steps": 20, "noise_std": 0.5, **more}).fit(X, Y, of_program=False)


def classifier(labels: Any = LABELS, **more: Any) -> LangevinRidgeClassifier:
    return LangevinRidgeClassifier(**{"n_steps": 20, "noise_std": 0.5, **more}).fit(X, labels, of_program=False)


def rewritten(model: Any, place: Path, *, header: Any = None, arrays: Any = None) -> Path:
    """Write a model's file with other content, its digest made anew; what is set to None is left out."""
    stored, found = _storage.read(model.save(place, overwrite=True))
    version = stored.pop("version")
    stored |= header or {}
    found |= arrays or {}
    values = {name: value for name, value in stored.items() if value is not None}
    place.write_bytes(
        _storage.sealed_bytes(values, {name: array for name, array in found.items() if array is not None})
    )
    assert version == 2
    return place


def refused(kind: Any, path: Path, said: str) -> None:
    with pytest.raises(FileFormatError, match=said):
        kind.load(path)


# --- the container -------------------------------------------------------------------------------


def test_a_header_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _storage.sealed_bytes({"alpha": float("nan")}, {})


@pytest.mark.parametrize("version", [0, 6, "2", None, True, False])
def test_a_version_that_is_not_read_is_refused_with_those_that_are(version: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(_storage.sealed_bytes({"version": version}, {"theta": np.zeros(1)}))
    refused(LangevinRidge, path, rf"has version {version!r}, this library reads versions 1, 2, 3, 4 and 5$")


def test_a_file_without_a_header_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, theta=np.zeros(3))
    refused(LangevinRidge, path, r"is not a model of this library: it holds no header\.json")


@pytest.mark.parametrize("kind", [LangevinRidgeClassifier, ReleasedRidge])
def test_another_kind_of_model_is_said_with_both_names(kind: Any, tmp_path: Path) -> None:
    path = regressor().save(tmp_path / "model.npz")
    wanted = "released ReleasedRidge" if kind is ReleasedRidge else f"working {kind.__name__}"
    refused(kind, path, f"holds a working LangevinRidge, expected a {wanted}$")


# --- labels and ids ------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [["a", b"b"], [b"a", "b"], [None, "a"], [1.5, 2j]])
def test_labels_that_are_no_text_and_no_number_are_not_saved(values: list[Any]) -> None:
    labels = np.empty(2, dtype=object)
    labels[:] = values
    with pytest.raises(TypeError, match=r"^classes must hold strings or numbers"):
        _storage.pack_labels("classes", labels, {}, {})


@pytest.mark.parametrize("stored", [["a", None], [["a"], "b"], "ab", {"a": 1}, 7])
def test_labels_that_are_no_text_and_no_number_are_not_read(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"^labels must be a list of strings or numbers"):
        _storage.unpack_labels("labels", {}, {"labels": stored})


@pytest.mark.parametrize("values", [["a", "b"], [1, 2.5], ["", "z"], [True, 7]])
def test_labels_of_python_come_back_as_they_were(values: list[Any]) -> None:
    labels = np.empty(2, dtype=object)
    labels[:] = values
    header: dict[str, Any] = {}
    _storage.pack_labels("labels", labels, {}, header)
    again = _storage.unpack_labels("labels", {}, header)
    assert again is not None
    assert again.dtype == object
    assert again.tolist() == values


@pytest.mark.parametrize("classes", [["a", "b", "c", "d"], np.array(["d", "c", "b", "a"]), ("a", "b", "c")])
def test_given_classes_come_back_as_parameters_and_as_classes(classes: Any, tmp_path: Path) -> None:
    model = classifier(classes=classes)
    again = LangevinRidgeClassifier.load(model.save(tmp_path / "model.npz"))
    assert again.classes_.tolist() == model.classes_.tolist() == sorted(classes)
    assert list(again.get_params()["classes"]) == sorted(classes)
    assert again.conditions_ == model.conditions_
    refit = again.fit(X, LABELS)
    assert refit.classes_.tolist() == sorted(classes)


def test_ids_are_read_by_their_origin_and_kind() -> None:
    assert _stored.ids({"origin": ROW_NUMBERS, "kind": "integer"}, 3).values == (0, 1, 2)
    assert _stored.ids({"origin": ROW_NUMBERS, "kind": "integer"}, 3).origin == ROW_NUMBERS
    for origin in (GIVEN, INDEX):
        numbers = _stored.ids({"origin": origin, "kind": "integer", "values": ["7", str(10**30)]}, 2)
        assert (numbers.values, numbers.origin) == ((7, 10**30), origin)
        assert _stored.ids({"origin": origin, "kind": "string", "values": ["7", "x"]}, 2).values == ("7", "x")
    for origin, kind in (("elsewhere", "string"), (GIVEN, "float"), (None, None)):
        with pytest.raises(ValueError, match=r"^ids must be integers or strings from record_ids or an index"):
            _stored.ids({"origin": origin, "kind": kind, "values": ["7"]}, 1)
    with pytest.raises(ValueError, match=r"^ids must be one per row, 3, got 2"):
        _stored.ids({"origin": GIVEN, "kind": "string", "values": ["7", "x"]}, 3)


def test_names_of_features_are_texts_one_for_each() -> None:
    assert _stored.feature_names(None, 2) is None
    names = _stored.feature_names(["a", "b"], 2)
    assert names is not None
    assert names.dtype == object  # as scikit-learn keeps them
    assert names.tolist() == ["a", "b"]
    for bad in (["a"], ["a", "b", "c"], ["a", 1], "ab", {"a": 1, "b": 2}):
        with pytest.raises(ValueError, match=r"^feature_names must be one text per feature, 2"):
            _stored.feature_names(bad, 2)


# --- numbers and words ---------------------------------------------------------------------------


def test_json_values_are_of_exactly_their_type() -> None:
    assert _stored.whole("a", 0) == 0
    assert _stored.whole("a", 1, low=1) == 1
    for bad, low in ((0, 1), (-1, 0), (True, 0), (1.0, 0), ("1", 0), (None, 0)):
        with pytest.raises(ValueError, match=rf"^a must be a whole number >= {low}, got"):
            _stored.whole("a", bad, low=low)
    assert _stored.flag("a", True) is True
    assert _stored.flag("a", False) is False
    for bad in (0, 1, "true", None):
        with pytest.raises(ValueError, match=r"^a must be true or false, got"):
            _stored.flag("a", bad)
    assert _stored.text("a", "") == ""
    assert _stored.texts("a", ["b", "c"]) == ("b", "c")
    for bad in (7, None, ["b"], b"b"):
        with pytest.raises(ValueError, match=r"^a must be text, got"):
            _stored.text("a", bad)
    for bad in ("b", None, ("b",), {"b": 1}):
        with pytest.raises(ValueError, match=r"^a must be a list of texts, got"):
            _stored.texts("a", bad)
    with pytest.raises(ValueError, match=r"^a must be text, got 7"):
        _stored.texts("a", ["b", 7])


def test_the_salt_is_32_bytes() -> None:
    assert _stored.salt("0f" * 32) == bytes([15]) * 32
    for n in (0, 31, 33):
        with pytest.raises(ValueError, match=rf"^salt must be 32 bytes, got {n}$"):
            _stored.salt("00" * n)


def test_a_model_of_a_time_without_salts_gets_one(tmp_path: Path) -> None:
    path = rewritten(regressor(), tmp_path / "model.npz", header={"salt": None})
    salts = {LangevinRidge.load(path).ledger_salt_ for _ in range(2)}
    assert {len(salt) for salt in salts} == {32}
    assert len(salts) == 2


# --- what no fit makes ---------------------------------------------------------------------------


def test_the_first_row_may_be_deleted(tmp_path: Path) -> None:
    after = regressor().unlearn(0, **TARGET).model
    again = LangevinRidge.load(after.save(tmp_path / "model.npz"))
    assert again._history is not None
    assert again._history.removed == (0,)


def test_one_feature_one_step_and_one_output_are_enough(tmp_path: Path) -> None:
    model = LangevinRidge(n_steps=1, noise_std=0.5, fit_intercept=False).fit(X[:, :1], Y, of_program=False)
    again = LangevinRidge.load(model.save(tmp_path / "model.npz"))
    assert (again.n_features_in_, again.n_iter_) == (1, 1)
    assert again.predict(X[:, :1]).tolist() == model.predict(X[:, :1]).tolist()
    for field in ("n_features", "n_iter"):
        refused(LangevinRidge, rewritten(model, tmp_path / "m.npz", header={field: 0}), f"{field} must be a whole")


@pytest.mark.parametrize(
    ("header", "arrays", "said"),
    [
        ({"step_size": "0x0p+0"}, {}, "step_size must be finite and > 0"),
        ({"alpha": "0x0p+0"}, {}, "alpha must be finite and > 0, got 0.0"),
        ({"alpha": "inf"}, {}, "alpha must be finite and > 0"),
        ({}, {"labels": None}, "lacks or misstates a field: no labels$"),
        ({}, {"theta": None}, "lacks or misstates a field: no theta"),
        ({"single_output": True}, {"theta": np.zeros((3, 2))}, "single_output must be false for classes and for"),
        ({}, {"labels": np.zeros((9, 1, 1))}, r"labels must be one per row, 9, got shape \(9, 1, 1\)"),
        ({}, {"labels": np.zeros((9, 1))}, "labels must be float64 of as many dimensions"),
        ({}, {"labels": Y.astype(np.float32)}, "labels must be float64 of as many dimensions"),
        ({}, {"labels": Y[:-1]}, "labels must be one per row"),
        ({}, {"theta": np.zeros((3, 0))}, "theta must have shape 3 x any, got 3 x 0"),
        ({}, {"theta": np.zeros((2, 1))}, "theta must have shape 3 x any, got 2 x 1"),
        ({}, {"theta": np.zeros(3)}, r"theta must be float64 of 2 dimension\(s\), got float64 of 1"),
        ({}, {"theta": np.array([[1.0], [np.nan], [0.0]])}, "theta must be finite"),
        ({}, {"classes": np.array(["a"])}, "classes must be absent for this kind of model"),
    ],
)
def test_a_regressor_that_no_fit_makes_is_refused(header: Any, arrays: Any, said: str, tmp_path: Path) -> None:
    refused(LangevinRidge, rewritten(regressor(), tmp_path / "m.npz", header=header, arrays=arrays), said)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"classes": None}, "classes must be present for this kind of model"),
        ({"classes": np.array([["a"], ["b"], ["c"]])}, r"classes must be one per output, 3, got shape \(3, 1\)"),
        ({"classes": np.array(["a", "b"])}, r"classes must be one per output, 3, got shape \(2,\)"),
        ({"classes": np.array(["a", "b", "b"])}, "classes must be distinct"),
        ({"labels": LABELS[:, None]}, r"labels must be one class per row, got shape \(9, 1\)"),
        ({"labels": np.array(["a", "b", "z"] * 3)}, "labels must be among the classes, got .*'z'"),
    ],
)
def test_a_classifier_that_no_fit_makes_is_refused(arrays: Any, said: str, tmp_path: Path) -> None:
    refused(LangevinRidgeClassifier, rewritten(classifier(), tmp_path / "m.npz", arrays=arrays), said)


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1.001, False), (1.9, False)])
def test_a_step_size_beyond_one_over_l_is_no_fit_s(factor: float, fits: bool, tmp_path: Path) -> None:
    model = regressor(step_size="auto")
    path = rewritten(model, tmp_path / "m.npz", header={"step_size": float(model.step_size_ * factor).hex()})
    if fits:
        assert LangevinRidge.load(path).step_size_ == model.step_size_
    else:
        refused(LangevinRidge, path, "step_size must be > 0 and at most 1/L")


def test_a_constant_column_is_a_column_of_ones(tmp_path: Path) -> None:
    model = regressor()
    assert model._history is not None
    design = model._history.design.copy()
    design[4, -1] = 2.0
    refused(LangevinRidge, rewritten(model, tmp_path / "m.npz", arrays={"design": design}), "end in the constant col")


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([], "phases must hold at least the learning, got none"),
        ([(1, "nan", [])], "noise_std of phase 0 must be finite and >= 0"),
        ([(1, "-0x1p-3", [])], "noise_std of phase 0 must be finite and >= 0"),
        ([(0, "0x1p-3", [])], "n_steps of a phase must be a whole number >= 1"),
        ([(1, "0x1p-3", [2])], "removed of phase 0 must be none while learning"),
        ([(1, "0x1p-3", []), (1, "0x1p-3", [])], "removed of phase 1 must be none while learning and more"),
        ([(1, "0x1p-3", []), (1, "0x1p-3", [1]), (1, "0x1p-3", [1])], "removed of phase 2 must be none while learning"),
        ([(1, "0x1p-3", []), (1, "0x1p-3", [2, 1])], "removed of phase 1 must be sorted rows below 9"),
        ([(1, "0x1p-3", []), (1, "0x1p-3", [9])], "removed of phase 1 must be sorted rows below 9"),
        ([(1, "0x1p-3", []), (1, "0x1p-3", list(range(9)))], "removed of phase 1 must be sorted rows below 9"),
    ],
)
def test_phases_that_no_run_had_are_refused(phases: Any, said: str, tmp_path: Path) -> None:
    stored = [{"n_steps": n, "noise_std": noise, "removed": removed} for n, noise, removed in phases]
    model = regressor()
    refused(LangevinRidge, rewritten(model, tmp_path / "m.npz", header={"phases": stored}), said)


def test_all_rows_but_one_may_be_gone_and_noise_may_be_none() -> None:
    _stored._check_phases((Phase(1, 0.0), Phase(1, 0.0, (0,)), Phase(1, 0.0, tuple(range(8)))), 9)


@pytest.mark.parametrize(
    ("coef", "intercept", "classes", "said"),
    [
        (np.zeros(3), np.zeros(1), None, r"intercept must be float64 of 0 dimension\(s\), got float64 of 1"),
        (np.zeros((2, 3)), np.zeros(3), None, "intercept must have shape 2, got 3"),
        (np.zeros((2, 0)), np.zeros(2), None, "coef must have shape any x any, got 2 x 0"),
        (np.zeros((2, 3), dtype=int), np.zeros(2), None, r"coef must be float64 of 2 dimension\(s\), got int64"),
        (np.array([1.0, np.inf]), np.array(0.0), None, "coef must be finite"),
        (np.zeros(3), np.array(np.nan), None, "intercept must be finite"),
        (np.zeros(3), np.array(0.0), np.array(["a"]), "coef must have one row per class"),
        (np.zeros((2, 3)), np.zeros(2), np.array(["a", "b", "c"]), "classes must be one per output, 2"),
    ],
)
def test_releases_that_no_model_makes_are_refused(coef: Any, intercept: Any, classes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _stored.check_released(coef, intercept, classes, needs_classes=classes is not None)


def test_releases_have_classes_where_they_classify_and_only_there() -> None:
    _stored.check_released(np.zeros((2, 3)), np.zeros(2), np.array(["a", "b"]), needs_classes=True)
    _stored.check_released(np.zeros((2, 3)), np.zeros(2), None, needs_classes=False)
    _stored.check_released(np.zeros(3), np.array(0.0), None, needs_classes=False)
    with pytest.raises(ValueError, match="classes must be present"):
        _stored.check_released(np.zeros((2, 3)), np.zeros(2), None, needs_classes=True)
    with pytest.raises(ValueError, match="classes must be absent"):
        _stored.check_released(np.zeros((2, 3)), np.zeros(2), np.array(["a", "b"]), needs_classes=False)


# --- files of version 1 --------------------------------------------------------------------------


def old_header(step_size: Any, n_phases: int) -> dict[str, Any]:
    return {"params": {"step_size": step_size}, "phases": [{}] * n_phases}


def test_where_constants_of_version_1_come_from_is_taken_for_the_worst() -> None:
    auto = _storage._sources(old_header("auto", 1), classify=False)
    assert (auto.step_size, auto.noise_std, auto.classes) == ("data", "given", "none")
    fixed = _storage._sources(old_header(0.1, 2), classify=True)
    assert (fixed.step_size, fixed.noise_std, fixed.classes) == ("given", "data", "data")


def test_an_old_release_says_that_its_constants_are_unknown(tmp_path: Path) -> None:
    path = rewritten(regressor().release(), tmp_path / "released.npz", header={"conditions": None})
    assert ReleasedRidge.load(path).conditions_ == (_storage._UNKNOWN,)
    forgotten = regressor().forget_history()
    path = rewritten(forgotten, tmp_path / "model.npz", header={"rests_on": None})
    assert LangevinRidge.load(path).conditions_ == (_storage._UNKNOWN,)
