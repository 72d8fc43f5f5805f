"""Evidence by residual: a file without pickles, for its owner only, every array of it checked by name."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import stat
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge._files import FileFormatError
from expunge._files.sealed import sealed
from expunge.certificates import CertificateError
from expunge.certificates.residual import RecordTree, ResidualEvidence
from expunge.runs.residual import BeforeAfter
from residual_truth import problem


def evidence(ids=(7, 8, 9), **changes):
    tree = RecordTree.of(np.eye(3), [1.0, 2.0, 3.0], ids=list(ids))
    settings = {
        "theta": np.array([[1.0, -2.0, 0.5]]),
        "residual_bound": 1e-9,
        "passes": 4,
        "refreshes": 1,
        "action": "unlearn",
        "n_changed": 1,
        "certificate": "ab" * 32,
        "before_after": BeforeAfter(1.5, 7.0),
    }
    return ResidualEvidence.of(tree, **{**settings, **changes})


def same(one, other):
    for field in dataclasses.fields(ResidualEvidence):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert a.tolist() == b.tolist()
        else:
            assert a == b


@pytest.mark.parametrize("ids", [(7, 8, 9), ("7", "8", "9"), (2**70, -1, 0), (7, 7, 7)], ids=str)
@pytest.mark.parametrize("both", [None, BeforeAfter(1.5, 7.0), BeforeAfter(math.inf, math.inf)], ids=str)
def test_evidence_comes_back_from_its_file(ids, both, tmp_path):
    path = tmp_path / "evidence.npz"
    one = evidence(ids, before_after=both)
    one.save(path)
    same(one, ResidualEvidence.load(path))
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with pytest.raises(FileExistsError):
        one.save(path)
    one.save(path, overwrite=True)


def test_a_guarantee_of_zero_is_one():
    assert evidence(before_after=(0.0, 0.0)).before_after == BeforeAfter(0.0, 0.0)


def test_arrays_are_its_own():
    theta = np.array([[1.0, 2.0, 3.0]])
    one = evidence(theta=theta)
    theta[0, 0] = 9.0
    assert one.theta[0, 0] == 1.0


def test_evidence_proves_what_its_tree_proves():
    case = problem()
    assert case.evidence.tree.root == case.certificate.digests.data
    name = int(case.ids[3])
    proof = case.evidence.tree.membership(name)
    assert proof.holds(case.X[3], case.y[3], classes=(0, 1))


def test_nothing_is_pickled(tmp_path):
    path = tmp_path / "evidence.npz"
    evidence((2**70, 1, 2)).save(path)
    with np.load(path, allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} <= set("Ufui")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"theta": [[math.nan, 1.0, 2.0]]}, "theta"),
        ({"theta": [1.0, 2.0]}, "theta"),
        ({"residual_bound": math.nan}, "residual_bound"),
        ({"residual_bound": -1.0}, "residual_bound"),
        ({"residual_bound": math.inf}, "residual_bound"),
        ({"passes": -1}, "passes"),
        ({"passes": 1.5}, "passes"),
        ({"refreshes": True}, "refreshes"),
        ({"n_changed": -1}, "n_changed"),
        ({"action": "forget"}, "action"),
        ({"certificate": "ab"}, "certificate"),
        ({"before_after": (math.nan, 1.0)}, "before_after"),
        ({"before_after": (1.0, -1.0)}, "before_after"),
    ],
    ids=str,
)
def test_evidence_that_is_none_is_refused_by_name(change, field):
    with pytest.raises(CertificateError) as caught:
        evidence(**change)
    assert caught.value.field == field


def test_arrays_of_another_shape_are_refused_by_name():
    one = evidence()
    for change, field in (
        ({"salts": one.salts[:2]}, "salts"),
        ({"salts": one.salts.astype(np.int64)}, "salts"),
        ({"contents": one.contents[:, :31]}, "contents"),
        ({"tree_key": bytes(31)}, "tree_key"),
        ({"ids": [1, 2]}, "salts"),
        ({"ids": [1.5, 2, 3]}, "ids"),
        ({"ids": [], "salts": np.empty((0, 16), np.uint8), "contents": np.empty((0, 32), np.uint8)}, "ids"),
    ):
        with pytest.raises(CertificateError) as caught:
            dataclasses.replace(one, **change)
        assert caught.value.field == field, change


def rewritten(changes=(), *, drop=(), facts=None):
    """Return the bytes of a file with other arrays or facts, under a digest of its own."""
    data = evidence().to_bytes()
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in drop}
    if facts is not None:
        values = json.loads(str(arrays["facts"]))
        values.update(facts)
        arrays["facts"] = np.array(json.dumps({name: value for name, value in values.items() if value != "drop"}))
    arrays.update(changes)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return sealed(buffer.getvalue())


@pytest.mark.parametrize("name", ["facts", "theta", "residual_bound", "tree_key", "salts", "contents", "ids"])
def test_a_missing_array_and_one_of_another_kind_are_named(name, tmp_path):
    path = tmp_path / "evidence.npz"
    for data in (
        rewritten(drop=[name]),
        rewritten({name: np.array([True, False])}),
    ):
        path.write_bytes(data)
        with pytest.raises(CertificateError) as caught:
            ResidualEvidence.load(path)
        assert caught.value.field == name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"extra": np.zeros(3)}, "extra"),
        ({"facts": np.array("{")}, "facts"),
        ({"facts": np.array(["{}"])}, "facts"),
        ({"residual_bound": np.zeros(2)}, "residual_bound"),
        ({"theta": np.array([[np.nan, 0.0, 0.0]])}, "theta"),
        ({"ids": np.array(["a", "b", "c"])}, "ids"),
    ],
    ids=str,
)
def test_a_changed_array_is_named(changes, field, tmp_path):
    path = tmp_path / "evidence.npz"
    path.write_bytes(rewritten(changes))
    with pytest.raises(CertificateError) as caught:
        ResidualEvidence.load(path)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"format": "another"}, "format"),
        ({"version": 2}, "version"),
        ({"passes": "drop"}, "passes"),
        ({"passes": 1.5}, "passes"),
        ({"another": 1}, "another"),
        ({"before_after": {"mu": 1.0}}, "before_after.epsilon"),
        ({"ids_are": "text"}, "ids"),
        ({"certificate": "AB" * 32}, "certificate"),
    ],
    ids=str,
)
def test_a_changed_fact_is_named(facts, field, tmp_path):
    path = tmp_path / "evidence.npz"
    path.write_bytes(rewritten(facts=facts))
    with pytest.raises(CertificateError) as caught:
        ResidualEvidence.load(path)
    assert caught.value.field == field


WHOLE = evidence().to_bytes()


@given(place=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(tmp_path_factory, place, bit):
    data = bytearray(WHOLE)
    data[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("evidence") / "evidence.npz"
    path.write_bytes(data)
    with pytest.raises((FileFormatError, CertificateError)):
        ResidualEvidence.load(path)


@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short_is_found(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("evidence") / "evidence.npz"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(FileFormatError):
        ResidualEvidence.load(path)


def test_an_archive_without_a_digest_is_none_of_ours(tmp_path):
    path = tmp_path / "evidence.npz"
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(FileFormatError, match="carries no digest"):
        ResidualEvidence.load(path)
    with pytest.raises(FileNotFoundError):
        ResidualEvidence.load(tmp_path / "none.npz")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    import os

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        evidence().save(tmp_path / "evidence.npz")
    assert list(tmp_path.iterdir()) == []


def test_evidence_holds_nothing_of_records_that_left():
    case = problem()
    gone = case.tree.salts[3].tobytes()
    smaller = case.tree.without([3])
    one = ResidualEvidence.of(
        smaller, theta=case.theta, residual_bound=1e-9, passes=1, refreshes=0, action="unlearn", n_changed=1,
        certificate="ab" * 32,
    )  # fmt: skip
    assert gone in case.evidence.to_bytes()
    assert gone not in one.to_bytes()
    assert case.ids[3] not in one.ids
