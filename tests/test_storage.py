"""Model files: what is read is what was written, or it is refused by name before memory is taken for it."""

from __future__ import annotations

import io
import json
import stat
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier, ReleasedRidge, ReleasedRidgeClassifier
from expunge._files import FileFormatError
from expunge._files import archive as archives
from expunge._files.archive import read_arrays
from expunge.data import load
from expunge.data.constants import Sources
from expunge.estimators import _storage
from expunge.estimators._history import History
from expunge.scoring import ProbeCheckpoints

GOLDEN = Path(__file__).parent / "golden" / "models-v1"
KINDS = {kind.__name__: kind for kind in (LangevinRidge, LangevinRidgeClassifier)}
TARGET = {"epsilon": 1.0, "delta": 1e-3, "n_steps": 5}
RNG = np.random.default_rng(2)
X = RNG.normal(size=(12, 2))
NAMES = [f"p{i // 2}" for i in range(12)]


def learned(kind):
    if kind == "regressor":
        model = LangevinRidge(n_steps=20, noise_std=0.5).fit(X, X @ [1.0, 2.0], record_ids=NAMES)
    elif kind == "two outputs":
        model = LangevinRidge(n_steps=20, noise_std=0.5, fit_intercept=False).fit(X, X[:, ::-1])
    else:
        labels = np.array(["a", "b", "c"] * 4, dtype=object if kind == "objects" else None)
        model = LangevinRidgeClassifier(n_steps=20, noise_std=0.5).fit(X, labels, record_ids=range(12))
    return model.unlearn(rows=[2, 3], **TARGET).model.unlearn(rows=5, **TARGET).model


SOURCES = ("regressor", "two outputs", "strings", "objects")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a working and a released model file of every kind."""
    folder = tmp_path_factory.mktemp("models")
    result = {}
    for name in SOURCES:
        model = learned(name)
        result[name] = (model, model.save(folder / f"{name}.npz"), model.release().save(folder / f"{name}-r.npz"))
    return result


# --- whole and for the right eyes ---------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_a_model_comes_back_as_it_was(files, name):
    model, working, released = files[name]
    again = type(model).load(working)
    assert again._history.phases == model._history.phases
    assert again._history.ids == model._history.ids
    assert again.ledger_salt_ == model.ledger_salt_
    for field in ("design", "targets", "labels"):
        np.testing.assert_array_equal(getattr(again._history, field), getattr(model._history, field))
    np.testing.assert_array_equal(again._theta, model._theta)
    assert again.get_params() == model.get_params()
    public = model.release()
    np.testing.assert_array_equal(type(public).load(released).predict(X), public.predict(X))


def test_a_working_model_is_for_its_owner_alone_and_a_released_one_is_not(files, tmp_path):
    model, working, released = files["regressor"]
    assert stat.S_IMODE(working.stat().st_mode) == 0o600
    assert stat.S_IMODE(released.stat().st_mode) & 0o044
    loose = tmp_path / "model.npz"
    loose.write_bytes(b"")
    loose.chmod(0o644)
    model.save(loose, overwrite=True)
    assert stat.S_IMODE(loose.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", sorted(json.loads((GOLDEN / "expected.json").read_text())["models"]))
def test_files_of_version_1_are_read(name, tmp_path):
    golden = json.loads((GOLDEN / "expected.json").read_text())
    expected, data = golden["models"][name], np.array(golden["X"])
    model = KINDS[expected["kind"]].load(GOLDEN / f"{name}.npz")
    np.testing.assert_array_equal(model.coef_, expected["coef"])
    np.testing.assert_array_equal(model.intercept_, expected["intercept"])
    np.testing.assert_array_equal(model.predict(data), expected["predictions"])
    public = model._released.load(GOLDEN / f"{name}-released.npz")
    np.testing.assert_array_equal(public.predict(data), expected["predictions"])
    if expected["removed"] is not None:
        assert list(model._history.removed) == expected["removed"]
        assert len(model._history.phases) == expected["phases"]
        assert list(model._history.conditions) == expected["conditions"]
        again = type(model).load(model.save(tmp_path / "again.npz"))
        assert again._history.phases == model._history.phases
        again.unlearn(7, **TARGET)


# --- damage -------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found(files, tmp_path):
    for path, kind in ((files["strings"][1], LangevinRidgeClassifier), (files["regressor"][2], ReleasedRidge)):
        whole = bytearray(path.read_bytes())
        for position in range(0, len(whole), 7):
            for bit in (0, 7):
                whole[position] ^= 1 << bit
                (tmp_path / "m.npz").write_bytes(whole)
                with pytest.raises(FileFormatError, match=r"m\.npz"):
                    kind.load(tmp_path / "m.npz")
                whole[position] ^= 1 << bit


def test_a_file_without_its_digest_is_no_file_of_this_version(files, tmp_path):
    with zipfile.ZipFile(files["regressor"][1]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(FileFormatError, match="carries no digest"):
        LangevinRidge.load(tmp_path / "m.npz")


def rewritten(path, place, *, header=None, arrays=None):
    """Write a model file with other content, its digest made anew."""
    values, stored = _storage.read(path)
    for keys, value in (header or {}).items():
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
    stored.update({name: change(stored[name]) for name, change in (arrays or {}).items()})
    place.write_bytes(_storage.sealed_bytes(values, stored))
    return place


def changed(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"theta": changed((0, 0), np.nan)}, "theta"),
        ({"theta": changed((0, 0), np.inf)}, "theta"),
        ({"theta": lambda a: a[:-1]}, "theta"),
        ({"theta": lambda a: a.astype(np.float32)}, "theta"),
        ({"theta": lambda a: a[:, 0]}, "theta"),
        ({"theta": lambda a: a[:, :0]}, "theta"),
        ({"design": changed((4, 1), np.nan)}, "design"),
        ({"design": changed((4, 2), 2.0)}, "constant column"),
        ({"design": lambda a: a[:-1]}, "ids must be one per row"),
        ({"design": lambda a: a[:, 1:]}, "design"),
        ({"design": lambda a: a[:0]}, "ids must be one per row"),
        ({"targets": changed((4, 0), 7.0)}, "targets"),
        ({"targets": changed((4, 0), -np.inf)}, "targets"),
        ({"labels": lambda a: a[:-1]}, "labels"),
        ({"labels": lambda a: a.astype(np.float32)}, "labels"),
    ],
)
def test_arrays_that_no_fit_could_have_made_are_refused_by_name(files, tmp_path, arrays, named):
    path = rewritten(files["regressor"][1], tmp_path / "m.npz", arrays=arrays)
    with pytest.raises(FileFormatError, match=rf"m\.npz .*{named}"):
        LangevinRidge.load(path)


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("phases",), [], "phases"),
        (("phases",), {}, "phases"),
        (("phases", 1, "removed"), [99], "removed"),
        (("phases", 1, "removed"), [3, 2], "removed"),
        (("phases", 1, "removed"), [2, 2], "removed"),
        (("phases", 1, "removed"), [-1], "removed"),
        (("phases", 1, "removed"), [2.0], "removed"),
        (("phases", 1, "removed"), [True], "removed"),
        (("phases", 1, "removed"), [], "removed"),
        (("phases", 2, "removed"), [2, 5], "removed"),
        (("phases", 2, "removed"), [2, 3], "removed"),
        (("phases", 2, "removed"), list(range(12)), "removed"),
        (("phases", 0, "removed"), [2], "removed"),
        (("phases", 0, "n_steps"), 0, "n_steps"),
        (("phases", 0, "n_steps"), 1.5, "n_steps"),
        (("phases", 0, "n_steps"), True, "n_steps"),
        (("phases", 0, "noise_std"), "nan", "noise_std"),
        (("phases", 0, "noise_std"), "inf", "noise_std"),
        (("phases", 0, "noise_std"), "-0x1p-3", "noise_std"),
        (("step_size",), "0x0p+0", "step_size"),
        (("step_size",), "nan", "step_size"),
        (("step_size",), "0x1p-1", "step_size must be > 0 and at most 1/L"),
        (("step_size",), "0x1p+99999", "."),
        (("step_size",), 0.1, "."),
        (("alpha",), "-0x1p-3", "alpha"),
        (("n_features",), 3, "theta"),
        (("n_features",), "2", "n_features"),
        (("single_output",), False, "labels"),
        (("single_output",), 1, "single_output"),
        (("has_history",), "yes", "has_history"),
        (("conditions",), [1], "conditions"),
        (("conditions",), {}, "conditions"),
        (("conditions",), "x", "conditions"),
        (("rests_on",), [], "rests_on must be what the history rests on"),
        (("rests_on",), {}, "rests_on"),
        (("rests_on",), ["it rests on nothing"], "rests_on must be what the history rests on"),
        (("params", "colour"), "red", "colour"),
        (("params", "alpha"), 2.0, "params: alpha must be that of the history"),
        (("params", "n_steps"), 21, "params: n_steps must be that of the history"),
        (("params", "noise_std"), 0.25, "params: noise_std must be that of the history"),
        (("params", "step_size"), 1e-9, "params: step_size must be that of the history"),
        (("params", "step_size"), "bounded", "norm_bound must be given"),
        (("alpha",), "0x1p-1", "params: alpha must be that of the history"),
        (("phases", 0, "n_steps"), 21, "params: n_steps must be that of the history"),
        (("phases", 0, "noise_std"), "0x1p-2", "params: noise_std must be that of the history"),
        (("n_iter",), 21, "n_iter must be that of the history"),
        (("ids", "values"), NAMES[:-1], "ids must be one per row"),
        (("ids", "values"), [*NAMES[:-1], 7], "an id"),
        (("ids", "values"), [*NAMES[:-1], ""], "empty"),
        (("ids", "kind"), "integer", "."),
        (("ids", "origin"), "somewhere", "ids"),
        (("feature_names",), ["a"], "feature_names"),
        (("salt",), "00" * 31, "salt"),
        (("salt",), "zz", "."),
        (("salt",), 7, "salt"),
    ],
)
def test_headers_that_no_fit_could_have_made_are_refused_by_name(files, tmp_path, keys, value, named):
    path = rewritten(files["regressor"][1], tmp_path / "m.npz", header={keys: value})
    with pytest.raises(FileFormatError, match=rf"m\.npz .*{named}"):
        LangevinRidge.load(path)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (LangevinRidge, {}),
        (LangevinRidge, {"step_size": 1e-3}),
        (LangevinRidge, {"step_size": "bounded", "norm_bound": 9.0}),
        (LangevinRidge, {"step_size": "bounded", "norm_bound": 9.0, "n_bound": 20}),
        (LangevinRidgeClassifier, {}),
        (LangevinRidgeClassifier, {"classes": ["b", "a", "c"]}),
    ],
)
def test_a_file_cannot_say_that_constants_came_from_elsewhere(tmp_path, kind, params):
    labels = X[:, 0] if kind is LangevinRidge else np.array(["a", "b", "c"] * 4)
    model = kind(n_steps=20, noise_std=0.5, **params).fit(X, labels)
    path = model.save(tmp_path / "model.npz")
    assert kind.load(path).conditions_ == model.conditions_
    told = model._history.sources.to_dict()
    others = [{"step_size": word, "norm_bound": None, "n_bound": None} for word in ("given", "data")]
    others += [{"step_size": "bounded", "norm_bound": 9.5, "n_bound": 20}]
    others += [{"classes": word} for word in ("given", "none", "data")]
    for other in others:
        if (changed_to := {**told, **other}) == told:
            continue
        rests_on = list(History(**{**vars(model._history), "sources": Sources(**changed_to)}).rests_on)
        lied = rewritten(path, tmp_path / "m.npz", header={("sources",): changed_to, ("rests_on",): rests_on})
        with pytest.raises(FileFormatError, match=r"sources: |params: norm_bound"):
            kind.load(lied)


@pytest.mark.parametrize(
    ("header", "arrays", "named"),
    [
        ({}, {"classes": lambda a: a[:2]}, "classes"),
        ({}, {"classes": changed(1, "a")}, "distinct"),
        ({}, {"labels": changed(4, "a")}, "targets"),
        ({}, {"labels": changed(4, "z")}, "labels must be among the classes"),
        ({}, {"targets": changed((4, 1), 0.5)}, "targets"),
        ({("single_output",): True}, {}, "single_output"),
    ],
)
def test_classes_agree_with_labels_and_targets(files, tmp_path, header, arrays, named):
    path = rewritten(files["strings"][1], tmp_path / "m.npz", header=header, arrays=arrays)
    with pytest.raises(FileFormatError, match=rf"m\.npz .*{named}"):
        LangevinRidgeClassifier.load(path)


@pytest.mark.parametrize(
    ("name", "kind", "arrays", "named"),
    [
        ("regressor", ReleasedRidge, {"coef": changed(0, np.nan)}, "coef"),
        ("regressor", ReleasedRidge, {"coef": lambda a: a[:0]}, "coef"),
        ("regressor", ReleasedRidge, {"coef": lambda a: a.astype(int)}, "coef"),
        ("regressor", ReleasedRidge, {"intercept": lambda a: a + np.inf}, "intercept"),
        ("regressor", ReleasedRidge, {"intercept": lambda a: np.zeros(1)}, "intercept"),
        ("two outputs", ReleasedRidge, {"intercept": lambda a: a[:1]}, "intercept"),
        ("strings", ReleasedRidgeClassifier, {"classes": lambda a: a[:2]}, "classes"),
        ("strings", ReleasedRidgeClassifier, {"classes": changed(0, "b")}, "distinct"),
        ("strings", ReleasedRidgeClassifier, {"coef": lambda a: a[0]}, "coef"),
    ],
)
def test_released_models_are_checked_too(files, tmp_path, name, kind, arrays, named):
    path = rewritten(files[name][2], tmp_path / "m.npz", arrays=arrays)
    with pytest.raises(FileFormatError, match=rf"m\.npz .*{named}"):
        kind.load(path)


# --- what a file declares -----------------------------------------------------------------------


def archive(place, members, *, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(place, "w", compression) as target:
        for name, content in members:
            target.writestr(name, content)
    return place


def npy(array=None, *, shape=None, dtype="<f8", body=b""):
    """Return an array as ``.npy``, or one whose header lies."""
    buffer = io.BytesIO()
    if array is not None:
        np.save(buffer, array)
        return buffer.getvalue()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + body


def peak_while_refused(path, match):
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=match):
            LangevinRidge.load(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_small_file_takes_no_large_memory(tmp_path):
    place = tmp_path / "m.npz"
    huge = npy(np.zeros(20_000_000))
    path = archive(place, [("theta.npy", huge)], compression=zipfile.ZIP_DEFLATED)
    assert peak_while_refused(path, "more than its own") < 2**20
    for shape in ((10**12,), (2**40, 2**40), (-1,), (0, 2**70), (3, -5), (2**64,)):
        path = archive(place, [("theta.npy", npy(shape=shape, body=bytes(24)))])
        assert peak_while_refused(path, r"declares shape|damaged|theta") < 2**20
    many = [(f"{i}.npy", npy(np.zeros(1))) for i in range(5000)]
    assert peak_while_refused(archive(place, many), "5000 arrays") < 2**24


def test_a_declared_size_is_held_against_the_file(tmp_path):
    """The directory of an archive may declare what it likes."""
    path = archive(tmp_path / "m.npz", [("theta.npy", npy(np.zeros(3)))])
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    for size in (2**32 - 2, 10**6):
        data[entry + 20 : entry + 28] = struct.pack("<II", size, size)
        path.write_bytes(data)
        assert peak_while_refused(path, "declares .* more than its own") < 2**20


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("theta.npy", npy(np.zeros(3))), ("theta.npy", npy(np.ones(3)))], "twice"),
        ([("theta.npy", npy(np.zeros(3))), ("theta", npy(np.ones(3)))], "twice"),
        ([("theta.npy", npy(shape=(3,), body=bytes(25)))], "declares shape"),
        ([("theta.npy", npy(shape=(3,), body=bytes(23)))], "declares shape"),
        ([("theta.npy", npy(shape=(1,), dtype="|O", body=bytes(8)))], "dtype object"),
        ([("theta.npy", npy(shape=(1,), dtype=[("a", "<f8")], body=bytes(8)))], "dtype"),
        ([("theta.npy", b"\x93NUMPY\x09\x00" + bytes(100))], "version"),
        ([("theta.npy", b"hello")], "damaged"),
        ([("theta.npy", npy(np.zeros(3)))], "no header.json"),
        ([("header.json", npy(np.zeros(3)))], "header"),
        ([("header.json", npy(np.frombuffer(b"[" * 100_000, dtype=np.uint8)))], "header"),
        ([("header.json", npy(np.frombuffer(b"{}", dtype=np.uint8)))], "version None"),
        ([("header.json", npy(np.frombuffer(b'{"version": 6}', dtype=np.uint8)))], "version 6"),
        ([], "no header.json"),
    ],
)
def test_archives_that_are_no_models_are_refused(tmp_path, members, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name given twice
        path = archive(tmp_path / "m.npz", members)
    with pytest.raises(FileFormatError, match=match):
        LangevinRidge.load(path)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="not a regular file"):
        LangevinRidge.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model"):
        LangevinRidge.load(tmp_path / "none.npz")


def test_a_cap_holds_also_for_honest_files(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(1000))
    assert read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14)["a"].shape == (1000,)
    with pytest.raises(FileFormatError, match="more than the 1024 that are read"):
        read_arrays(tmp_path / "a.npz", what="table", max_bytes=1024)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1000))
    with pytest.raises(FileFormatError, match="more than its own"):
        read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14)
    assert read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14, max_ratio=100)["a"].shape == (1000,)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", ">i8", "|b1", "<U3", ">U3", "|u1"])
def test_arrays_come_out_as_they_went_in(tmp_path, order, dtype):
    for shape in ((2, 3), (0, 3), (4,), ()):
        array = np.asarray(np.arange(int(np.prod(shape))).reshape(shape).astype(dtype), order=order)
        np.savez(tmp_path / "a.npz", a=array)
        found = read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14)["a"]
        np.testing.assert_array_equal(found, array)
        assert found.dtype.isnative
        assert found.shape == array.shape


def test_data_and_checkpoints_that_inflate_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, X=np.zeros((2000, 50)), y=np.zeros(2000))
    assert load(path).X.shape == (2000, 50)
    monkeypatch.setattr(archives, "_LARGE", 2**16)
    with pytest.raises(ValueError, match="'X' would take 800,128 bytes"):
        load(path)
    np.savez(path, X=np.zeros((2000, 50)), y=np.zeros(2000))
    assert load(path).X.shape == (2000, 50)
    np.savez_compressed(path, weights=np.zeros((200, 50, 10)))
    with pytest.raises(FileFormatError, match="more than its own"):
        ProbeCheckpoints.load(path)
