"""The residual route on tables of records: one pass over blocks, the same bits for any number of files."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import expunge.data.blocks
from expunge import NewtonLogisticRegression, NewtonRidge
from expunge.certificates import VerificationError
from expunge.certificates.residual import verify
from expunge.data import ArrayRecords, FileRecords, Records, open_records
from expunge.data.folding import Fold
from expunge.runs.residual import gradient_sums

RNG = np.random.default_rng(0)
N, P, B = 100, 4, 16
X = RNG.normal(size=(N, P)).astype(np.float32)
LABELS = RNG.integers(0, 3, N)
TARGETS = RNG.normal(size=N)
IDS = RNG.permutation(N) + 1000
SPLITS = {1: [], 2: [37], 7: [1, 9, 20, 52, 53, 90]}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunge.data.blocks, "rows_per_block", lambda *, n_features: B)


def in_files(folder: Path, n: int, y: np.ndarray, order: np.ndarray | None = None) -> FileRecords:
    rows = np.arange(N) if order is None else order
    for name, values in (("x", X), ("y", y), ("ids", IDS)):
        (folder / name).mkdir(parents=True)
        for i, part in enumerate(np.split(values[rows], SPLITS[n])):
            np.save(folder / name / f"{i}.npy", part)
    return FileRecords(folder / "x", target=folder / "y", ids=folder / "ids")


def same(one: Any, other: Any) -> bool:
    return (
        one.gradient.tobytes() == other.gradient.tobytes()
        and one.__dict__.keys() == other.__dict__.keys()
        and all(getattr(one, name) == getattr(other, name) for name in one.__dict__ if name != "gradient")
    )


@pytest.mark.parametrize(("loss", "q"), [("squared", 1), ("logistic", 3), ("softmax", 3)])
def test_sums_have_the_same_bits_for_any_number_of_files(tmp_path: Path, loss: str, q: int) -> None:
    y = TARGETS if loss == "squared" else LABELS
    theta, weights = RNG.normal(size=(q, P)), RNG.uniform(0, 2, N)
    arguments: dict[str, Any] = {"loss": loss, "weights": weights}
    expected = gradient_sums(ArrayRecords(X, y), theta, **arguments)
    for n in SPLITS:
        records = in_files(tmp_path / str(n), n, y)
        for threads in (1, 3):
            residuals = np.empty((N, q))
            found = gradient_sums(records, theta, residuals=residuals, threads=threads, **arguments)
            assert same(found, expected)
    answers = {"targets": y[:, np.newaxis]} if loss == "squared" else {"labels": y}
    plain_residuals = np.empty((N, q))
    plain = gradient_sums(X, theta, **answers, residuals=plain_residuals, **arguments)
    np.testing.assert_array_equal(residuals, plain_residuals)
    assert plain.n_rows == expected.n_rows == N
    assert plain.correct == expected.correct
    room = sum(one.error + 2.0**-53 * (one.depth + 3) * one.magnitude for one in (plain, expected))
    assert np.linalg.norm(plain.gradient - expected.gradient) <= room * (1 + 1e-9)
    assert expected.norm_bound(theta, alpha=0.5) >= np.linalg.norm(plain.gradient + 0.5 * theta) * (1 - 1e-12)


def test_the_tree_adds_neighbours_and_counts_its_depth() -> None:
    theta = np.zeros((1, P))
    parts = [
        gradient_sums(X[a : a + 10], theta, loss="squared", targets=TARGETS[a : a + 10, None]) for a in range(0, 70, 10)
    ]
    tree = Fold(operator.add)
    for part in parts:
        tree.add(part)
    a, b, c, d, e, f, g = parts
    expected = ((a + b) + (c + d)) + ((e + f) + g)
    assert same(tree.total(), expected)
    assert tree.total().depth == a.depth + 3
    one = Fold(operator.add)
    one.add(a)
    assert same(one.total(), a)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"targets": TARGETS[:, None]}, TypeError, "targets and labels must be omitted for a table"),
        ({"weights": np.ones(3)}, ValueError, "weights must have length 100, got 3"),
        ({"loss": "softmax"}, TypeError, "labels must be integers, got dtype float64"),
    ],
)
def test_arguments_that_do_not_go_with_a_table(change: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gradient_sums(ArrayRecords(X, TARGETS), np.zeros((1, P)), **{"loss": "squared", **change})
    with pytest.raises(ValueError, match="must be a table with targets"):
        gradient_sums(ArrayRecords(X), np.zeros((1, P)), loss="squared")


# --- verification ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deleted() -> Any:
    """Return what is left of a softmax fit after a deletion: certificate, evidence, model, rows that remain."""
    model = NewtonLogisticRegression(classes=[0, 1, 2], noise_std=0.1).fit(X, LABELS, record_ids=IDS)
    result = model.unlearn(IDS[[3, 50]].tolist())
    return result, np.delete(np.arange(N), [3, 50])


def table(rows: np.ndarray, *, ids: bool = True, X: np.ndarray = X, y: np.ndarray = LABELS) -> Records:
    return open_records(X[rows], target=y[rows], ids=IDS[rows] if ids else None)


def test_a_table_verifies_in_any_order_and_from_files(deleted: Any, tmp_path: Path) -> None:
    result, rows = deleted
    expected = verify(result.certificate, X[rows], LABELS[rows], evidence=result.evidence, ids=IDS[rows])
    for order in (rows, rows[::-1], RNG.permutation(rows)):
        found = verify(result.certificate, table(order), evidence=result.evidence, released=result.model.release())
        assert found.certified
        assert found.n_records == 98
        assert found.residual_bound == pytest.approx(expected.residual_bound, rel=1e-3)
        assert found.p_value is not None
    assert verify(result.certificate, table(rows, ids=False), evidence=result.evidence).certified
    bounds = set()
    for n, cuts in (("one", []), ("seven", [1, 9, 20, 52, 53, 90])):
        for name, values in (("x", X), ("y", LABELS), ("ids", IDS)):
            (tmp_path / n / name).mkdir(parents=True)
            for i, part in enumerate(np.split(values[rows], cuts)):
                np.save(tmp_path / n / name / f"{i}.npy", part)
        records = FileRecords(tmp_path / n / "x", target=tmp_path / n / "y", ids=tmp_path / n / "ids")
        bounds.add(verify(result.certificate, records, evidence=result.evidence).residual_bound)
    assert len(bounds) == 1


def test_a_table_that_is_not_what_was_certified_is_refused_by_ids(deleted: Any) -> None:
    result, rows = deleted

    def refused(records: Records, words: str, **more: Any) -> None:
        with pytest.raises(VerificationError, match=words) as error:
            verify(result.certificate, records, evidence=result.evidence, **more)
        assert error.value.field in ("digests.data", "model.n_features")

    changed = X.copy()
    changed[60, 1] += 1e-3
    refused(table(rows, X=changed), f"1 record of the 98 must be as certified.*for id {IDS[60]}$")
    refused(table(rows[::-1], X=changed), f"1 record of the 98 must be as certified.*for id {IDS[60]}$")
    other = LABELS.copy()
    other[[7, 8]] = (other[[7, 8]] + 1) % 3
    refused(table(rows, y=other), f"2 records of the 98 must be.*for ids {IDS[7]}, {IDS[8]}$")
    refused(table(rows[1:]), f"must be those certified: missing {IDS[0]}$")
    refused(table(np.arange(N)), f"additional {IDS[3]}, {IDS[50]}$")
    refused(table(np.append(rows[1:], rows[1])), f"missing {IDS[0]}; additional {IDS[1]}$")
    # A record found out of its place counts no second time there.
    twice = np.concatenate([rows[[1, 1]], rows[2:], rows[:1]])
    refused(table(twice), f"must be those certified: additional {IDS[1]}$")
    refused(table(rows[::-1], ids=False), r"the order is another: give the table's ids")
    refused(table(rows[1:], ids=False), "the data must have 98 records, got 97")
    refused(open_records(X[rows], target=LABELS[rows], ids=list(map(str, IDS[rows]))), "ids must be whole numbers")
    refused(open_records(X[rows, :2], target=LABELS[rows]), "must be that of the table, 2, got 4")
    refused(open_records(X[rows], target=LABELS[rows] + 5), "the data from row 0 on are not what was certified")
    refused(table(rows), "1 record|98 records", sample_weight=np.where(rows == 9, 2.0, 1.0))
    with pytest.raises(ValueError, match="sample_weight must have one entry for each of 98 records, got 3"):
        verify(result.certificate, table(rows), evidence=result.evidence, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="must be a table with targets"):
        verify(result.certificate, open_records(X[rows]), evidence=result.evidence)
    with pytest.raises(TypeError, match="y and ids must be omitted"):
        verify(result.certificate, table(rows), LABELS[rows], evidence=result.evidence)
    with pytest.raises(TypeError, match="y must be given"):
        verify(result.certificate, X[rows], evidence=result.evidence)


def test_rows_of_one_id_may_come_in_any_order_and_none_counts_twice() -> None:
    names = np.repeat(np.arange(25), 4)
    rows = X.copy()
    rows[4:6] = rows[4]  # equal records of one id
    y = TARGETS.copy()
    y[4:6] = y[4]
    result = NewtonRidge(noise_std=0.1).fit(rows, y, record_ids=names).unlearn(3)
    kept = np.flatnonzero(names != 3)

    def given(order: np.ndarray) -> Records:
        return open_records(rows[order], target=y[order], ids=names[order])

    for order in (kept, kept[::-1], RNG.permutation(kept)):
        assert verify(result.certificate, given(order), evidence=result.evidence).certified
    with pytest.raises(VerificationError, match=r"1 record of the 96 must be as certified.*for id 1"):
        verify(result.certificate, given(np.where(kept == 6, 5, kept)), evidence=result.evidence)
    with pytest.raises(VerificationError, match="missing 2; additional 1"):
        verify(result.certificate, given(np.where(kept == 8, 7, kept)), evidence=result.evidence)


def test_weights_and_an_intercept_count() -> None:
    weights = RNG.uniform(0.5, 2, N)
    model = NewtonRidge(noise_std=0.1).fit(X, TARGETS, sample_weight=weights)
    records = open_records(X, target=TARGETS)
    found = verify(model.certificate_, records, evidence=model.evidence_, sample_weight=weights)
    assert found.certified
    with pytest.raises(VerificationError, match="100 records"):
        verify(model.certificate_, records, evidence=model.evidence_)


def test_a_gradient_that_is_too_large_is_refused(deleted: Any) -> None:
    from dataclasses import replace

    result, rows = deleted
    far = replace(result.evidence, theta=result.evidence.theta + 1.0)
    with pytest.raises(VerificationError, match="the gradient must be at most") as error:
        verify(result.certificate, table(rows), evidence=far)
    assert error.value.field == "claim.mu"


def test_a_shard_that_changes_before_verification_is_named(deleted: Any, tmp_path: Path) -> None:
    result, rows = deleted
    np.save(tmp_path / "x.npy", X[rows])
    np.save(tmp_path / "y.npy", LABELS[rows])
    records = open_records(tmp_path / "x.npy", target=tmp_path / "y.npy")
    state = (tmp_path / "x.npy").stat()
    data = bytearray((tmp_path / "x.npy").read_bytes())
    data[-1] ^= 64
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npy has been written to"):
        verify(result.certificate, records, evidence=result.evidence)
    # Nobody sees it by size and time, but the hash of the row does.
    os.utime(tmp_path / "x.npy", ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(VerificationError, match=f"1 record of the 98.*for id {IDS[rows[-1]]}"):
        verify(result.certificate, records, evidence=result.evidence)
