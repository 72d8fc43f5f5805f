"""Newton estimators on tables of records: what arrays give, from any number of files, and no row in the model."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import expunge.data.blocks
from expunge import NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier
from expunge.certificates.residual import verify
from expunge.data import FileRecords, Records, open_records

RNG = np.random.default_rng(0)
N, P, B = 100, 3, 16
X = RNG.normal(size=(N, P)).astype(np.float32)
THREE = RNG.integers(0, 3, N)
TWO = (X[:, 0] + 0.3 * RNG.normal(size=N) > 0).astype(np.int64)
Y = X @ RNG.normal(size=P) + 0.1 * RNG.normal(size=N)
IDS = RNG.permutation(N) + 1000
SPLITS = {1: [], 2: [37], 7: [1, 9, 20, 52, 53, 90]}

Make = Callable[..., Any]
KINDS: dict[str, tuple[Make, np.ndarray]] = {
    "logistic": (lambda **more: NewtonLogisticRegression(classes=[0, 1], **more), TWO),
    "softmax": (lambda **more: NewtonLogisticRegression(classes=[0, 1, 2], **more), THREE),
    "rest": (lambda **more: NewtonLogisticRegression(classes=[0, 1, 2], multi_class="ovr", **more), THREE),
    "ridge": (NewtonRidge, Y),
    "outputs": (NewtonRidge, np.column_stack([Y, -2 * Y])),
    "classes": (lambda **more: NewtonRidgeClassifier(classes=[0, 1, 2], fit_intercept=False, **more), THREE),
}
QUIET = {"noise_std": 1e-3}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunge.data.blocks, "rows_per_block", lambda *, n_features: B)


def in_files(folder: Path, y: np.ndarray, n: int = 2, rows: np.ndarray | None = None, ids: bool = True) -> FileRecords:
    kept = np.arange(N) if rows is None else rows
    for name, values in (("x", X), ("y", y), ("ids", IDS)):
        (folder / name).mkdir(parents=True)
        for i, part in enumerate(np.split(values[kept], SPLITS[n])):
            np.save(folder / name / f"{i}.npy", part)
    return FileRecords(folder / "x", target=folder / "y", ids=folder / "ids" if ids else None)


def table(rows: Any, y: np.ndarray, *, ids: bool = True) -> Records:
    return open_records(X[rows], target=y[rows], ids=IDS[rows] if ids else None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_fitted_and_forgets_as_arrays_do(tmp_path: Path, kind: str) -> None:
    make, y = KINDS[kind]
    records = in_files(tmp_path, y)
    model, other = make(**QUIET).fit(records), make(**QUIET).fit(X, y, record_ids=IDS)
    near = 8 * 1e-3 * 6  # both releases have noise
    np.testing.assert_allclose(model.coef_, other.coef_, atol=near)
    np.testing.assert_allclose(model._state.theta, other._state.theta, atol=1e-5)
    assert model.ids_.tolist() == IDS.tolist()
    assert model.certificate_.n_records == N
    assert model.n_features_in_ == P
    pairs: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((records,), {}), ((X, y), {"ids": IDS})]
    for given, ids in pairs:
        report = verify(model.certificate_, *given, evidence=model.evidence_, released=model.release(), **ids)
        assert report.status == "certified"
    gone = [3, 40, 41, 99]
    result = model.unlearn(IDS[gone].tolist())
    kept = np.delete(np.arange(N), gone)
    theirs = other.unlearn(IDS[gone].tolist())
    np.testing.assert_allclose(result.model._state.theta, theirs.model._state.theta, atol=1e-5)
    assert result.model.ids_.tolist() == IDS[kept].tolist()
    assert result.evidence.passes <= 6
    assert result.before_after.mu == pytest.approx(theirs.before_after.mu, rel=0.05)
    report = verify(result.certificate, table(kept, y), evidence=result.evidence, released=result.model.release())
    assert report.certified
    again = result.model.unlearn(rows=[0])
    assert again.model.ids_.tolist() == IDS[kept[1:]].tolist()
    assert verify(again.certificate, table(kept[1:], y), evidence=again.evidence).certified


@pytest.mark.parametrize("kind", ["softmax", "ridge"])
def test_the_same_bits_come_from_any_number_of_files(tmp_path: Path, kind: str) -> None:
    make, y = KINDS[kind]
    thetas = set()
    for n in SPLITS:
        model = make(random_state=0).fit(in_files(tmp_path / str(n), y, n))
        thetas.add(model._state.theta.tobytes() + model.coef_.tobytes())
        assert model.certificate_.status == "conditional"
    assert len(thetas) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_quotes_of_a_table_are_those_of_arrays(tmp_path: Path, kind: str) -> None:
    make, y = KINDS[kind]
    weights = RNG.uniform(0.5, 2, N)
    model = make(**QUIET).fit(in_files(tmp_path, y), sample_weight=weights)
    other = make(**QUIET).fit(X, y, record_ids=IDS, sample_weight=weights)
    found, theirs = model.quote(), other.quote()
    assert found.ids.tolist() == theirs.ids.tolist()
    for name in ("leverage_bound", "sensitivity_estimate", "sensitivity_bound", "one_step_noise_bound"):
        np.testing.assert_allclose(getattr(found.costs, name), getattr(theirs.costs, name), rtol=0.02, atol=1e-4)
    some = model.quote(IDS[[5, 77]].tolist())
    np.testing.assert_array_equal(some.sensitivity, found.sensitivity[[5, 77]])
    # A deletion moves the optimum by no more than was quoted.
    gone = model.unlearn(IDS[[5]].tolist()).model
    moved = np.linalg.norm(gone._state.theta - model._state.theta)
    slack = (gone._state.bound + model._state.bound) / model.alpha
    assert moved <= found.sensitivity[5] + slack


@pytest.mark.parametrize("kind", KINDS)
def test_quotes_by_id_of_a_table_are_those_of_arrays(tmp_path: Path, kind: str) -> None:
    make, y = KINDS[kind]
    people = np.array([f"p{i % 17}" for i in range(N)])  # whose rows lie in many blocks and files
    records = open_records(X, target=y, ids=people)
    model, other = make(**QUIET).fit(records), make(**QUIET).fit(X, y, record_ids=people)
    found, theirs = model.quote(by_id=True), other.quote(by_id=True)
    assert found.ids.tolist() == theirs.ids.tolist() == [f"p{i}" for i in range(17)]
    assert found.n_records.tolist() == theirs.n_records.tolist()
    for name in ("sensitivity_estimate", "sensitivity_bound"):
        np.testing.assert_allclose(getattr(found.costs, name), getattr(theirs.costs, name), rtol=0.05, atol=1e-4)


def test_the_model_holds_no_row_and_reads_them_again(tmp_path: Path) -> None:
    records = in_files(tmp_path, TWO)
    model = NewtonLogisticRegression(classes=[0, 1]).fit(records)
    data = pickle.dumps(model)
    assert all(row.tobytes() not in data and row.astype(float).tobytes() not in data for row in X)
    path = model.save(tmp_path / "model.npz")
    saved = path.read_bytes()
    assert all(row.astype(float).tobytes() not in saved for row in X)
    assert np.load(path)["salts"].shape == (N, 16)
    thawed = pickle.loads(data)
    assert thawed.unlearn(rows=[1]).certificate.n_records == N - 1


@pytest.mark.parametrize("what", ["x", "y", "ids"])
def test_a_row_that_changed_behind_the_model_is_named(tmp_path: Path, what: str) -> None:
    records = in_files(tmp_path, TWO)
    model = NewtonLogisticRegression(classes=[0, 1]).fit(records)
    place = tmp_path / what / "1.npy"
    state = place.stat()
    values = np.load(place)
    values[4] = values[4] + 1 if what != "y" else 1 - values[4]
    np.save(place, values)
    with pytest.raises(ValueError, match=r"1\.npy has been written to since"):
        model.unlearn(rows=[50])
    os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))
    words = rf"x.1\.npy, row 4: the record {IDS[41]} of the model is not what it was when it was learned"
    for action in (lambda: model.unlearn(rows=[50]), model.quote):
        with pytest.raises(ValueError, match=words):
            action()
    if what == "ids":  # the row of another id
        row = rf"x.1\.npy, row 4, of {IDS[41] + 1}, is none of them"
        words = rf"got none for 1 record of it: {IDS[41]} \(.*{row}\); restore the table"
    with pytest.raises(ValueError, match=words):
        model.attach(records)
    assert model.predict(X).shape == (N,)


def test_a_deleted_record_is_passed_over_whatever_becomes_of_its_row(tmp_path: Path) -> None:
    records = in_files(tmp_path, TWO)
    model = NewtonLogisticRegression(classes=[0, 1]).fit(records).unlearn(rows=[41]).model
    place = tmp_path / "x" / "1.npy"
    state = place.stat()
    values = np.load(place)
    values[4] = 7.0
    np.save(place, values)
    os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert model.unlearn(rows=[0]).certificate.n_records == N - 2


# --- adding and amending ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax", "ridge"])
@pytest.mark.parametrize("on_tables", [True, False])
def test_records_of_a_table_are_added_and_amended(kind: str, on_tables: bool) -> None:
    make, y = KINDS[kind]
    first, more = np.arange(60), np.arange(60, N)
    model = make(**QUIET)
    model = model.fit(table(first, y)) if on_tables else model.fit(X[first], y[first], record_ids=IDS[first])
    result = model.add(table(more, y))
    np.testing.assert_allclose(result.model._state.theta, make(**QUIET).fit(X, y)._state.theta, atol=1e-5)
    assert result.model.ids_.tolist() == IDS.tolist()
    assert verify(result.certificate, table(np.arange(N), y), evidence=result.evidence).certified
    # Some of both tables, with other features, by the ids of the new table.
    changed, values = np.array([70, 3, 15]), X.copy()
    values[changed] += 0.5
    corrected = open_records(values[changed], target=y[changed], ids=IDS[changed])
    amended = result.model.amend(X=corrected)
    np.testing.assert_allclose(amended.model._state.theta, make(**QUIET).fit(values, y)._state.theta, atol=1e-5)
    assert sorted(amended.model.ids_.tolist()) == sorted(IDS.tolist())
    whole = open_records(values, target=y, ids=IDS)
    assert verify(amended.certificate, whole, evidence=amended.evidence).certified
    assert amended.evidence.n_changed == 3
    after = amended.model.unlearn(IDS[[70, 0]].tolist())
    left = np.delete(np.arange(N), [70, 0])
    remaining = open_records(values[left], target=y[left], ids=IDS[left])
    assert verify(after.certificate, remaining, evidence=after.evidence).certified
    # The same by positions, of a table without ids.
    plain = open_records(values[changed], target=y[changed])
    by_rows = result.model.amend(rows=changed.tolist(), X=plain)
    np.testing.assert_allclose(by_rows.model._state.theta, amended.model._state.theta, atol=1e-5)


def test_records_without_ids_are_numbered_and_weights_count() -> None:
    weights = RNG.uniform(0.5, 2, N)
    first, more = np.arange(60), np.arange(60, N)
    model = NewtonRidge(**QUIET).fit(table(first, Y, ids=False), sample_weight=weights[first])
    result = model.add(table(more, Y, ids=False), sample_weight=weights[more])
    assert result.model.ids_.tolist() == list(range(N))
    expected = NewtonRidge(**QUIET).fit(X, Y, sample_weight=weights)._state.theta
    np.testing.assert_allclose(result.model._state.theta, expected, atol=1e-5)
    whole = table(np.arange(N), Y, ids=False)
    assert verify(result.certificate, whole, evidence=result.evidence, sample_weight=weights).certified
    assert result.model.unlearn([0, 99]).model.ids_.tolist() == list(range(1, 99))


@pytest.mark.parametrize("of", ["tables", "arrays"])
def test_corrected_records_keep_their_weights(of: str) -> None:
    weights, rows = RNG.uniform(0.5, 2, N), [41, 3, 77]
    given = (table(np.arange(N), Y),) if of == "tables" else (X, Y, IDS)
    model = NewtonRidge(**QUIET).fit(*given, sample_weight=weights)
    new = table(rows, -Y)
    for result in (model.amend(X=new), model.amend(X=new, sample_weight=weights[rows])):
        state = result.model._state
        found = np.concatenate([block.weights for block in state.objective.blocks])
        where = np.argsort(IDS)[np.searchsorted(np.sort(IDS), result.model.ids_)]
        np.testing.assert_array_equal(found, weights[where])
        values = np.where(np.isin(np.arange(N), rows), -Y, Y)[where]
        whole = open_records(X[where], target=values, ids=IDS[where])
        assert verify(result.certificate, whole, evidence=result.evidence, sample_weight=weights[where]).certified


# --- files of models ------------------------------------------------------------------------------


def test_a_saved_model_takes_its_table_again(tmp_path: Path) -> None:
    weights = RNG.uniform(0.5, 2, N)
    records = in_files(tmp_path / "all", THREE)
    model = NewtonLogisticRegression(classes=[0, 1, 2]).fit(records, sample_weight=weights)
    model = model.unlearn(rows=[10, 80]).model
    model.save(tmp_path / "m.npz")
    loaded = NewtonLogisticRegression.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(loaded.coef_, model.coef_)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.ids_.tolist() == model.ids_.tolist()
    assert loaded.certificate_ == model.certificate_
    assert "98 records" in repr(loaded)
    for action in (lambda: loaded.unlearn(rows=[0]), loaded.quote, loaded.release_again):
        with pytest.raises(RuntimeError, match=r"holds none of its records: call attach\(records\)"):
            action()
    loaded.save(tmp_path / "again.npz")
    assert NewtonLogisticRegression.load(tmp_path / "again.npz").ids_.tolist() == model.ids_.tolist()
    kept = np.delete(np.arange(N), [10, 80])
    with pytest.raises(ValueError, match="records must be the 98 of the model, in their order, got 100"):
        loaded.attach(records)
    attached = loaded.attach(in_files(tmp_path / "kept", THREE, rows=kept))
    assert attached is loaded
    result = loaded.unlearn(rows=[0])
    np.testing.assert_allclose(result.model._state.theta, model.unlearn(rows=[0]).model._state.theta, atol=1e-4)
    left = verify(result.certificate, table(kept[1:], THREE), evidence=result.evidence, sample_weight=weights[kept[1:]])
    assert left.certified
    assert loaded.release_again().certificate.release == 3
    with pytest.raises(TypeError, match="was fitted on arrays and holds its records"):
        NewtonRidge().fit(X, Y).attach(records)
    with pytest.raises(TypeError, match="records must be a table"):
        loaded.attach(X)  # type: ignore[arg-type]


def test_parameters_that_are_not_those_of_the_records_are_refused_when_these_are_attached() -> None:
    from dataclasses import replace

    model = NewtonRidge().fit(table(np.arange(N), Y))
    model._state = replace(model._state, theta=model._state.theta + 1.0)
    with pytest.raises(ValueError, match="this is not the model of these records"):
        model.attach(table(np.arange(N), Y))


# --- predictions and arguments --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_predicted_and_scored_block_by_block(tmp_path: Path, kind: str) -> None:
    make, y = KINDS[kind]
    records = in_files(tmp_path, y)
    fitted = make().fit(records)
    for model in (fitted, fitted.release()):
        np.testing.assert_array_equal(model.predict(records), model.predict(X))
        assert model.score(records) == pytest.approx(model.score(X, y), rel=1e-12)
        for name in ("decision_function", "predict_proba"):
            if hasattr(model, name):
                np.testing.assert_allclose(getattr(model, name)(records), getattr(model, name)(X), rtol=1e-12)
        with pytest.raises(ValueError, match="X must have 3 features, as those of the fit, got 2"):
            model.predict(open_records(X[:, :2]))
        with pytest.raises(TypeError, match="y must be omitted for a table"):
            model.score(records, y)
        with pytest.raises(ValueError, match="has no targets"):
            model.score(open_records(X))


def test_names_of_features_must_be_those_of_the_fit() -> None:
    pa = pytest.importorskip("pyarrow")
    frame = pa.table({name: X[:, j] for j, name in enumerate("abc")})
    model = NewtonRidge().fit(open_records(frame, target=Y))
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.predict(open_records(frame)).shape == (N,)
    with pytest.raises(ValueError, match="X must have the features of the fit in their order, a, b, c, got c, a, b"):
        model.predict(open_records(frame.select(["c", "a", "b"])))
    assert not hasattr(model.fit(table(np.arange(N), Y)), "feature_names_in_")


def test_classes_and_their_weights_may_come_from_the_table() -> None:
    texts = np.array(["no", "yes"])[TWO]
    weights = {"no": 2.0, "yes": 0.5}
    model = NewtonLogisticRegression(class_weight=weights, **QUIET).fit(table(np.arange(N), texts))
    other = NewtonLogisticRegression(class_weight=weights, **QUIET).fit(X, texts)
    np.testing.assert_allclose(model._state.theta, other._state.theta, atol=1e-5)
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.certificate_.status == other.certificate_.status == "conditional"
    one = np.zeros(N, dtype=np.int64)
    one[70] = 1
    alone = NewtonLogisticRegression(noise_std=0.01).fit(table(np.arange(N), one))
    with pytest.raises(ValueError, match="this leaves no record of class 1"):
        alone.unlearn(rows=[70])
    with pytest.raises(ValueError, match="from row 64 on: y must hold the classes"):
        NewtonLogisticRegression(classes=[0, 1]).fit(table(np.arange(N), np.where(np.arange(N) == 70, 5, TWO)))


def test_what_does_not_go_with_a_table_is_refused() -> None:
    records = table(np.arange(N), Y)
    with pytest.raises(TypeError, match="y and record_ids must be omitted"):
        NewtonRidge().fit(records, Y)
    with pytest.raises(TypeError, match="y and record_ids must be omitted"):
        NewtonLogisticRegression().fit(table(np.arange(N), TWO), record_ids=IDS)
    with pytest.raises(ValueError, match="must be a table with targets"):
        NewtonRidge().fit(open_records(X))
    with pytest.raises(ValueError, match="got text: is NewtonRidgeClassifier meant"):
        NewtonRidge().fit(open_records(X, target=np.full(N, "a")))
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(100,\), got \(3,\)"):
        NewtonRidge().fit(records, sample_weight=np.ones(3))
    model = NewtonRidge().fit(records)
    with pytest.raises(TypeError, match="X must be a table of records, as this model's are"):
        model.add(X[:1], Y[:1], [1])
    with pytest.raises(TypeError, match="X must be a table of records, as this model's are"):
        model.amend(rows=[0], y=[1.0])
    with pytest.raises(TypeError, match="y and ids must be omitted"):
        model.add(records, Y)
    with pytest.raises(ValueError, match="must be a table with targets"):
        model.add(open_records(X))
    with pytest.raises(ValueError, match="record_ids must be given"):
        model.add(open_records(X, target=Y))
    with pytest.raises(ValueError, match="X must have a row for each of 2 records, got 100"):
        model.amend(rows=[0, 1], X=records)
    with pytest.raises(ValueError, match="X must have the ids of the records that are amended"):
        model.amend(rows=[0, 1], X=table(np.array([1, 0]), Y))
    with pytest.raises(ValueError, match="fit a new model on data that are all new"):
        model.amend(X=records)
    with pytest.raises(TypeError, match="y must be given, unless X is a table"):
        NewtonRidge().fit(X, Y).add(X[:1])
