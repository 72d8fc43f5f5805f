"""What a model keeps of deleted records, byte for byte, and files from which they are destroyed."""

from __future__ import annotations

import copy
import os
import pickle
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge._files import FileFormatError, write_atomic
from expunge._files.destroying import destroy, overwriting
from expunge.cli import main
from expunge.cli.files import model_digests
from expunge.estimators import NewtonRidge, _storage
from expunge.estimators._storage import working_bytes
from expunge.ledger import Ledger

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 5}
N, GONE = 30, (3, 4, 11)
RNG = np.random.default_rng(17)
X = RNG.normal(size=(N, 4))
Y = X @ [1.0, -1.0, 0.5, 0.0] + RNG.normal(size=N)
IDS = [f"person-{i // 2:04d}-{RNG.integers(1 << 40):x}" if i % 2 else "" for i in range(N)]
IDS = [IDS[i] or IDS[i + 1] for i in range(N)]  # two rows each: 2-3, 4-5, 10-11


def fitted(kind: str) -> LangevinRidge | LangevinRidgeClassifier:
    names = [f"p{i}-{one.rpartition('-')[2]}" for i, one in enumerate(IDS)]
    if kind == "regressor":
        return LangevinRidge(noise_std=0.05, n_steps=60).fit(X, Y, record_ids=names, of_program=False)
    labels = np.where(Y > 0, "yes", "no").astype(object)
    classifier = LangevinRidgeClassifier(noise_std=0.05, n_steps=60, classes=["no", "yes"])
    return classifier.fit(X, labels, record_ids=names, of_program=False)


def spelled(value: float) -> Iterator[bytes]:
    """Yield every way in which a file may hold a number."""
    for dtype in ("<f8", ">f8", "<f4", ">f4"):
        yield np.array(value, dtype=dtype).tobytes()
    yield float(value).hex().encode()
    for text in (repr(float(value)), f"{value:.17e}", f"{value:.8g}", repr(float(np.float32(value)))):
        yield text.encode()


def traces(model: Any, rows: tuple[int, ...]) -> dict[str, bytes]:
    """Return what must not be found of rows: numbers of their own, and numbers computed from them alone."""
    history = model._history
    design, targets = history.design, history.targets
    inverse = np.linalg.inv(design.T @ design + history.alpha * np.eye(design.shape[1]))
    kept = np.delete(design, rows, axis=0)
    downdated = np.linalg.inv(kept.T @ kept + history.alpha * np.eye(design.shape[1]))
    found: dict[str, bytes] = {}
    for row in rows:
        x, y = design[row], targets[row]
        numbers = {
            "feature": x[:4],
            "target": y[np.abs(y) % 1 > 0],
            "k": inverse @ x,
            "k of the rest": downdated @ x,
            "norm": [np.linalg.norm(x), x @ x],
            "square": np.outer(x, x)[np.triu_indices(4, k=1)],
            "moment": np.outer(x[:4], y)[:, np.abs(y) % 1 > 0].ravel(),
        }
        for name, values in numbers.items():
            for i, value in enumerate(values):
                found |= {f"{name} {i} of row {row}, way {k}": one for k, one in enumerate(spelled(value))}
    for row in rows:
        found[f"id of row {row}"] = str(history.ids.values[row]).encode()
        found[f"row {row}"] = design[row].tobytes()
    return found


def in_any(needles: dict[str, bytes], blobs: dict[str, bytes]) -> list[str]:
    return [f"{name} in {place}" for name, needle in needles.items() for place, blob in blobs.items() if needle in blob]


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_nothing_of_the_deleted_stays(kind: str, tmp_path: Path) -> None:
    """Features, targets, ids, k = H^-1 x, products: not in file, pickle, certificate, ledger and release."""
    model = fitted(kind)
    needles = traces(model, GONE)
    ledger, before, later = Ledger(tmp_path / "l"), model_digests(model)[0], model
    results = []
    for rows in (GONE[:2], GONE[2:]):
        results.append(later.unlearn(rows=rows, **TARGET))
        later = results[-1].model
        before = ledger.append(results[-1].certificate, model_before=before).model_after
    blobs = {
        "file": later.save(tmp_path / "m.npz").read_bytes(),
        "file of the first": results[0].model.save(tmp_path / "m1.npz").read_bytes(),
        "pickle": pickle.dumps(later),
        "old pickle": pickle.dumps(later, protocol=0),
        "copy": pickle.dumps(copy.deepcopy(later)),
        "loaded": pickle.dumps(type(later).load(tmp_path / "m.npz")),
        "certificate": results[1].certificate.to_json().encode(),
        "first certificate": results[0].certificate.to_json().encode(),
        "ledger": (tmp_path / "l").read_bytes(),
        "release": later.release().save(tmp_path / "r.npz").read_bytes(),
        "text": repr(vars(later._history)).encode() + repr(later).encode(),
    }
    assert in_any({name: one for name, one in needles.items() if "row 11" not in name}, blobs) == []
    del blobs["file of the first"]
    assert in_any(needles, blobs) == []


def test_the_search_finds_what_is_there() -> None:
    """The same numbers are found in the model from before the deletion, and of those that stay afterwards too."""
    model = fitted("regressor")
    blobs = {"file": working_bytes(model), "pickle": pickle.dumps(model)}
    for row in GONE:
        for place, blob in blobs.items():
            found = in_any(traces(model, (row,)), {place: blob})
            for name in ("feature 0", "feature 3", "target 0", "id"):
                assert any(one.startswith(name) for one in found), (name, place)
            assert f"row {row} in {place}" in found
    stays = traces(model, (7,))
    later = model.unlearn(rows=GONE, **TARGET).model
    assert any(one.startswith("feature 0 of row 7") for one in in_any(stays, {"file": working_bytes(later)}))
    expected = [struct.pack("<d", -0.25), struct.pack(">d", -0.25), struct.pack("<f", -0.25), struct.pack(">f", -0.25)]
    assert list(spelled(-0.25))[:6] == [*expected, b"-0x1.0000000000000p-2", b"-0.25"]


def test_what_stands_for_the_deleted_is_zeros_and_a_label_of_the_rest() -> None:
    for kind in ("regressor", "classifier"):
        model = fitted(kind)
        history = model.unlearn(rows=GONE, **TARGET).model._require_history()
        gone = list(GONE)
        assert not history.design[gone].any()
        assert not history.targets[gone].any()
        labels = set(history.labels[gone].tolist())
        assert labels <= ({0.0} if kind == "regressor" else {history.labels[0]})
        assert history.ids is not None
        assert [i for i, one in enumerate(history.ids.values) if one is None] == gone
        stays = np.setdiff1d(np.arange(N), gone)
        assert np.array_equal(history.design[stays], model._require_history().design[stays])
        assert np.array_equal(history.labels[stays], model._require_history().labels[stays])
        assert not np.shares_memory(history.design, model._require_history().design)


def test_the_model_that_was_asked_keeps_its_rows() -> None:
    model = fitted("regressor")
    before = working_bytes(model)
    model.unlearn(rows=GONE, **TARGET)
    assert working_bytes(model) == before


# --- files ---------------------------------------------------------------------------------------


def holding(model: Any, later: Any) -> Any:
    """Return a model as version 2 wrote it after a deletion, with its deleted rows."""
    old = copy.copy(later)
    history, now = model._history, later._history
    old._history = replace(history, phases=now.phases, sources=now.sources, conditions=now.conditions)
    return old


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_purge_makes_of_an_old_model_what_a_deletion_now_leaves(kind: str, tmp_path: Path) -> None:
    model = fitted(kind)
    later = model.unlearn(rows=GONE[:2], **TARGET).model.unlearn(rows=GONE[2:], **TARGET).model
    path = holding(model, later).save(tmp_path / "old.npz")
    old = type(model).load(path)
    assert old._require_history().law is None
    needles = traces(model, GONE)
    assert in_any(needles, {"file": path.read_bytes()})
    assert old.purge() is old
    assert in_any(needles, {"file": working_bytes(old), "pickle": pickle.dumps(old)}) == []
    law, expected = old._require_history().law, later._require_history().law
    assert law is not None
    assert expected is not None
    np.testing.assert_allclose(law.mean, expected.mean, rtol=0, atol=1e-12 * np.abs(expected.mean).max())
    np.testing.assert_allclose(law.covariance, expected.covariance, rtol=0, atol=1e-12 * expected.covariance.max())
    needed, quoted = (one.quote(**TARGET, rows=[20]).noise_std[0] for one in (later, old))
    assert quoted == pytest.approx(needed, rel=1e-6)
    labels = Y if kind == "regressor" else np.where(Y > 0, "yes", "no").astype(object)
    old.unlearn(rows=20, **TARGET).certificate.verify(X, labels)


def test_purge_leaves_alone_what_holds_nothing_deleted() -> None:
    model = fitted("regressor")
    before = working_bytes(model)
    assert working_bytes(model.purge()) == before
    later = model.unlearn(rows=3, **TARGET).model
    before = working_bytes(later)
    assert working_bytes(later.purge()) == before
    with pytest.raises(RuntimeError, match="holds no history"):
        later.forget_history().purge()


def test_models_without_deletions_are_files_of_version_2_and_others_of_version_3(tmp_path: Path) -> None:
    model = fitted("regressor")
    later = model.unlearn(rows=3, **TARGET).model
    for one, version in ((model, 2), (holding(model, later), 2), (later, 3)):
        header, _ = _storage.read(one.save(tmp_path / "m.npz", overwrite=True))
        assert header["version"] == version


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_a_file_gives_the_law_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    later = fitted(kind).unlearn(rows=GONE, **TARGET).model
    again = type(later).load(later.save(tmp_path / "m.npz"))
    ours, theirs = later._require_history(), again._require_history()
    assert ours.law is not None
    assert theirs.law is not None
    for name in ("mean", "covariance", "mean_error"):
        assert np.array_equal(getattr(ours.law, name), getattr(theirs.law, name))
    assert theirs.law.covariance_error == ours.law.covariance_error
    assert (theirs.digests, theirs.ids) == (ours.digests, ours.ids)
    assert again.unlearn(rows=5, **TARGET).certificate.run == later.unlearn(rows=5, **TARGET).certificate.run
    (header, arrays), (same, others) = (
        _storage.read(one.save(tmp_path / "m.npz", overwrite=True)) for one in (later, again)
    )
    assert header == same
    assert all(np.array_equal(arrays[name], others[name]) for name in {*arrays, *others})


def changed(index: Any, value: float) -> Any:
    def change(array: Any) -> Any:
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("arrays", "header", "said"),
    [
        ({"law_mean": changed((0, 0), np.nan)}, {}, "law_mean must be finite"),
        ({"law_mean": lambda a: a[:-1]}, {}, "law_mean must have shape"),
        ({"law_covariance": changed((0, 1), 7.0)}, {}, "law_covariance must be symmetric"),
        ({"law_covariance": changed((1, 1), -1.0)}, {}, "law_covariance must be symmetric, with no negative variance"),
        ({"law_covariance": lambda a: a.astype(np.float32)}, {}, "law_covariance must be float64"),
        ({"law_mean_error": changed(0, -1.0)}, {}, "law_mean_error must be 1 float64 bounds >= 0"),
        ({"law_mean_error": changed(0, np.nan)}, {}, "law_mean_error must be 1 float64 bounds >= 0"),
        ({"law_mean_error": lambda a: a[:0]}, {}, "law_mean_error must be 1 float64 bounds >= 0"),
        ({"design": changed((3, 0), 1.0)}, {}, "design and targets must be zeros where a law stands"),
        ({"targets": changed((3, 0), 1.0)}, {}, "design and targets must be zeros where a law stands"),
        ({}, {"law": None}, "no law"),
        ({}, {"law": {"covariance_error": "nan", "digests": ["0" * 64] * 2}}, "covariance_error must be >= 0"),
        ({}, {"law": {"covariance_error": "0x0p+0", "digests": ["0" * 64]}}, "digests must be two of 64"),
        ({}, {"law": {"covariance_error": "0x0p+0", "digests": ["0" * 64, "G" * 64]}}, "digests must be two of 64"),
        ({}, {"ids": {"origin": "record_ids", "kind": "string", "values": ["a"] * N}}, "ids must be null where a law"),
        ({}, {"phases": [{"n_steps": 60, "noise_std": "0x1p-3", "removed": []}]}, "law must be absent before a del"),
    ],
)
def test_a_law_that_no_deletion_left_is_refused(arrays: Any, header: Any, said: str, tmp_path: Path) -> None:
    later = fitted("regressor").unlearn(rows=GONE, **TARGET).model
    values, stored = _storage.read(later.save(tmp_path / "m.npz"))
    values = {key: value for key, value in {**values, **header}.items() if value is not None}
    stored.update({name: change(stored[name]) for name, change in arrays.items()})
    (tmp_path / "m.npz").write_bytes(_storage.sealed_bytes(values, stored))
    with pytest.raises(FileFormatError, match=re.escape(said)):
        LangevinRidge.load(tmp_path / "m.npz")


def test_ids_of_the_deleted_are_unknown_and_said_to_be() -> None:
    model = fitted("regressor")
    known = model._require_history().ids
    assert known is not None
    later = model.unlearn(ids=known.values[3], **TARGET).model
    for one in (known.values[3], "nobody"):
        with pytest.raises(ValueError, match=rf"'{one}', deleted before or never among them"):
            later.unlearn(ids=one, **TARGET)
    with pytest.raises(ValueError, match="'nobody', which no record has"):
        model.unlearn(ids="nobody", **TARGET)
    quote = later.quote(**TARGET, by_id=True)
    assert len(quote) == N - 1
    assert known.values[3] not in quote.indices.tolist()
    assert later.unlearn(ids=known.values[5], **TARGET).certificate.run.deleted == (3, 5)


# --- overwriting ---------------------------------------------------------------------------------


def test_old_bytes_are_overwritten_where_they_were(tmp_path: Path) -> None:
    """The old file stays open: what can still be read of it is not what it was."""
    real = os.ftruncate
    for size in (0, 1, 3 * (1 << 20) + 5):
        place = tmp_path / "a"
        secret = RNG.bytes(size)
        place.write_bytes(secret)
        written: list[bytes] = []
        with place.open("rb") as old, pytest.MonkeyPatch.context() as patch:

            def seen(descriptor: int, length: int, old: Any = old, written: list[bytes] = written) -> None:
                old.seek(0)
                written.append(old.read())
                real(descriptor, length)

            patch.setattr(os, "ftruncate", seen)
            with overwriting(place):
                write_atomic(place, b"new", overwrite=True)
            old.seek(0)
            assert old.read() == b""
        assert [len(one) for one in written] == [size]
        assert size < 16 or not any(secret[i : i + 16] in written[0] for i in range(0, size - 16, 4099))
        assert place.read_bytes() == b"new"
        destroy(place)
        assert not place.exists()


def test_a_file_is_not_overwritten_unless_it_was_replaced(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(b"precious")
    with pytest.raises(ValueError, match="must have been replaced before"), overwriting(place):
        pass
    with pytest.raises(ZeroDivisionError), overwriting(place):
        raise ZeroDivisionError
    assert place.read_bytes() == b"precious"
    with overwriting(place):
        place.unlink()
    assert not place.exists()


def test_files_with_other_names_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(b"precious")
    os.link(place, tmp_path / "b")
    (tmp_path / "c").symlink_to(place)
    (tmp_path / "d").mkdir()
    for name, error, said in (
        ("a", ValueError, "the only name of its file, got 2 names"),
        ("c", ValueError, "is a symbolic link"),
        ("d", ValueError, "must be the name of a file"),
        ("e", FileNotFoundError, "e"),
    ):
        with pytest.raises(error, match=said):
            destroy(tmp_path / name)
        with pytest.raises(error, match=said), overwriting(tmp_path / name):
            pass
    assert place.read_bytes() == (tmp_path / "b").read_bytes() == b"precious"


# --- the command ---------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def test_the_command_rewrites_an_old_file_and_overwrites_it(tmp_path: Path) -> None:
    model = fitted("regressor")
    later = model.unlearn(rows=GONE, **TARGET).model
    path = holding(model, later).save(tmp_path / "old.npz")
    needles = traces(model, GONE)
    with path.open("rb") as old:
        output = run("purge", path).output
        assert old.read() == b""
    assert "3 deleted rows gone" in output
    assert "backups" in output
    assert in_any(needles, {"file": path.read_bytes()}) == []
    assert path.stat().st_mode & 0o077 == 0
    assert sorted(os.listdir(tmp_path)) == ["old.npz"]
    again = LangevinRidge.load(path)
    assert again.ledger_salt_ == model.ledger_salt_
    again.unlearn(rows=20, **TARGET).certificate.verify(X, Y)
    before = path.read_bytes()
    assert "nothing to do" in run("purge", path).output
    assert path.read_bytes() == before


def test_the_command_destroys_a_model_from_before_a_deletion(tmp_path: Path) -> None:
    model = fitted("regressor")
    result = model.unlearn(rows=GONE, **TARGET)
    first, second = model.save(tmp_path / "m0.npz"), result.model.save(tmp_path / "m1.npz")
    third = result.model.unlearn(rows=20, **TARGET).model.save(tmp_path / "m2.npz")
    other = fitted("regressor").unlearn(rows=GONE, **TARGET).model.save(tmp_path / "other.npz")
    held = holding(model, result.model).save(tmp_path / "held.npz")
    released = result.model.release().save(tmp_path / "r.npz")
    kept = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    for successor, said in (
        (first, "must not be MODEL itself"),
        (other, "must be a model of the same run"),
        (held, f"must not hold deleted rows itself: expunge purge {held} first"),
        (released, "released model"),
        (tmp_path / "absent.npz", "absent.npz"),
    ):
        assert said in run("purge", first, "--successor", successor, code=2).output
    assert "later in it" in run("purge", third, "--successor", second, code=2).output
    copied = tmp_path / "copy.npz"
    copied.write_bytes(second.read_bytes())
    assert "got no later one" in run("purge", second, "--successor", copied, code=2).output
    copied.unlink()
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == kept
    assert "nothing to do" in run("purge", first).output
    with first.open("rb") as old:
        assert "goes on" in run("purge", first, "--successor", second).output
        assert old.read() == b""
    assert not first.exists()
    assert "beyond this command" in run("purge", second, "--successor", third).output
    assert sorted(os.listdir(tmp_path)) == ["held.npz", "m2.npz", "other.npz", "r.npz"]


def test_models_by_computed_residual_hold_nothing_deleted_and_are_destroyed_alike(tmp_path: Path) -> None:
    model = NewtonRidge().fit(X, Y)
    later = model.unlearn(rows=[3]).model
    first, second = model.save(tmp_path / "m0.npz"), later.save(tmp_path / "m1.npz")
    langevin = fitted("regressor").save(tmp_path / "l.npz")
    kept = first.read_bytes()
    assert "a NewtonRidge holds the data as they now stand" in run("purge", first).output
    for old, new, said in (
        (first, langevin, "another run"),
        (langevin, first, "another run"),
        (second, first, "got no later one"),
        (first, NewtonRidge().fit(X, Y).save(tmp_path / "o.npz"), "another run"),
    ):
        assert said in run("purge", old, "--successor", new, code=2).output
    assert first.read_bytes() == kept
    with first.open("rb") as old:
        run("purge", first, "--successor", second)
        assert old.read() == b""
    assert sorted(os.listdir(tmp_path)) == ["l.npz", "m1.npz", "o.npz"]


def test_the_command_leaves_a_file_whole_if_it_cannot_write(tmp_path: Path) -> None:
    model = fitted("regressor")
    path = holding(model, model.unlearn(rows=GONE, **TARGET).model).save(tmp_path / "old.npz")
    before = path.read_bytes()

    def full(path: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge._files.transaction._write", full)
        assert "no space left" in run("purge", path, code=2).output
    assert path.read_bytes() == before
    forgotten = fitted("regressor").forget_history().save(tmp_path / "f.npz")
    assert "holds no history" in run("purge", forgotten, code=2).output


def test_a_kept_law_gives_a_deleted_row_away_to_whoever_holds_the_others() -> None:
    """So docs/guarantees.md says: no byte of a row is in the model, but the law was computed from it.

    Undoing the steps since, and the sum of the noise of learning, leaves the Hessian of all rows.
    """
    model = LangevinRidge(noise_std=0.05, n_steps=20, step_size=0.01).fit(X, Y)
    history = model.unlearn(rows=3, **{**TARGET, "n_steps": 3}).model._require_history()
    assert history.law is not None
    learning, last = history.phases
    stays = history.design.T @ history.design + np.eye(5)
    values, vectors = np.linalg.eigh(stays)
    a = 1 - 0.01 * values
    since = last.noise_std**2 * np.diag(sum(a ** (2 * j) for j in range(last.n_steps)))
    undone = (vectors.T @ history.law.covariance @ vectors - since) / np.outer(a**last.n_steps, a**last.n_steps)
    spread, frame = np.linalg.eigh(vectors @ undone @ vectors.T)
    grid = np.linspace(0, 1, 1_000_001)[:-1]
    sums = 0.05**2 * (1 - grid ** (2 * learning.n_steps)) / (1 - grid**2)
    hessian = (np.eye(5) - frame @ np.diag(np.interp(spread, sums, grid)) @ frame.T) / 0.01
    size, direction = np.linalg.eigh(hessian - stays)
    row = np.append(X[3], 1.0)
    assert size[-1] == pytest.approx(row @ row, rel=0.01)
    assert abs(direction[:, -1] @ row) > 0.999 * np.linalg.norm(row)
