"""Deletions from a table: one pass, the claim of arrays, and certificates that either side verifies."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge.certificates import Certificate, VerificationError
from expunge.certificates.digest import DataDigests, features_digest, targets_digest
from expunge.data import RidgeStatistics, blocks, open_records
from expunge.data.statistics import StatisticsBuilder
from expunge.runs.ridge.held_rows import HeldRows

SETTINGS = {"n_steps": 300, "noise_std": 1e-4, "step_size": 0.0005}
TARGET = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 10}
N = 400


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 64 rows of 5 features."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 64 * 8 * 5)


def data(n=N, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    return X, X @ rng.normal(size=5) + 0.3 * rng.normal(size=n) + 1.0


NAMES = [f"C-{i % 150}" for i in range(N)]


def both(X, y, *, kind=LangevinRidge, classes=None, **more):
    """Return the model of a table, the table, and the model of the same records in memory."""
    settings = {**SETTINGS, **more}
    table = open_records(X, target=y, ids=NAMES)
    given = {} if classes is None else {"classes": classes}
    model = kind(**settings).fit_statistics(RidgeStatistics.of(table, classes=classes))
    return model, table, kind(**settings, **given).fit(X, y, record_ids=NAMES, of_program=False)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
@pytest.mark.parametrize("named", [{"rows": 77}, {"rows": [77, 3, 399]}, {"ids": "C-12"}, {"ids": ["C-1", "C-149"]}])
def test_a_deletion_is_certified_as_that_of_arrays(method, named):
    X, y = data()
    model, table, other = both(X, y, random_state=0)
    found = model.unlearn(table=table, method=method, **named, **TARGET)
    wanted = other.unlearn(method=method, **named, **TARGET)
    run, known = found.certificate.run, wanted.certificate.run
    assert run.deleted == known.deleted
    assert run.phases[-1].noise_std == pytest.approx(known.phases[-1].noise_std, rel=1e-7)
    assert found.certificate.delta_pq == pytest.approx(wanted.certificate.delta_pq, rel=1e-5)
    assert found.certificate.delta_qp == pytest.approx(wanted.certificate.delta_qp, rel=1e-5)
    assert found.certificate.conditions == wanted.certificate.conditions
    assert features_digest(X) == found.certificate.digests.X
    assert found.certificate.digests.y == targets_digest(y)
    assert found.noise_free == pytest.approx(wanted.noise_free, abs=1e-9)
    assert found.before == pytest.approx(wanted.before, abs=1e-4)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_certificates_of_either_kind_are_verified_on_tables_and_on_arrays(method):
    X, y = data()
    model, table, other = both(X, y)
    of_table = model.unlearn(table=table, ids="C-7", method=method, **TARGET)
    of_arrays = other.unlearn(ids="C-7", method=method, **TARGET)
    for result in (of_table, of_arrays):
        certificate = Certificate.from_json(result.certificate.to_json())
        one, two = certificate.verify(table, model=result.model), certificate.verify(X, y, result.model)
        assert one.delta_pq == pytest.approx(two.delta_pq, rel=1e-6)
        assert one.delta_qp == pytest.approx(two.delta_qp, rel=1e-6)
        assert one.p_value == pytest.approx(two.p_value, rel=1e-4)
        assert one.status == two.status


def test_classes_are_deleted_and_verified_too():
    X, y = data()
    y = np.array(["low", "mid", "top"])[np.digitize(y, [0.0, 2.0])]
    model, table, other = both(X, y, kind=LangevinRidgeClassifier, classes=["low", "mid", "top"])
    found, wanted = model.unlearn(table=table, rows=5, **TARGET), other.unlearn(rows=5, **TARGET)
    assert found.certificate.run.phases[-1].noise_std == pytest.approx(
        wanted.certificate.run.phases[-1].noise_std, rel=1e-7
    )
    assert found.certificate.digests.y == targets_digest(y)
    assert found.certificate.run.classes == ("low", "mid", "top")
    assert found.certificate.verify(table, model=found.model).p_value > 1e-6
    assert wanted.certificate.verify(table).delta_pq <= 1e-5
    assert found.certificate.verify(X, y).delta_pq <= 1e-5


def test_the_last_of_a_class_is_found_in_a_table():
    """Its certificate holds only under a condition, whichever side the data come from."""
    X, y = data()
    y = np.where(np.arange(N) == 9, "rare", np.where(y > 0, "high", "low"))
    other = LangevinRidgeClassifier(**SETTINGS).fit(X, y, of_program=False)
    certificate = other.unlearn(rows=9, last_of_class="conditional", **TARGET).certificate
    table = open_records(X, target=y)
    assert certificate.verify(table).status == certificate.verify(X, y).status == "conditional"
    silent = replace(
        certificate, conditions=tuple(c for c in certificate.conditions if "no record of some class" not in c)
    )
    assert len(silent.conditions) == len(certificate.conditions) - 1
    for records in ((X, y), (table,)):
        with pytest.raises(VerificationError, match=r"run\.classes: holds 'rare'"):
            silent.verify(*records)


def test_the_digest_of_deleted_records_is_compared():
    X, y = data()
    model, table, _ = both(X, y)
    certificate = model.unlearn(table=table, rows=[5, 300], **TARGET).certificate
    certificate.verify(table)
    other = replace(certificate, digests=replace(certificate.digests, record="0" * 64))
    with pytest.raises(VerificationError, match=r"digests\.record"):
        other.verify(table)


def test_later_deletions_take_the_table_as_it_was_or_as_it_is():
    X, y = data()
    model, table, other = both(X, y)
    first = model.unlearn(table=table, ids=["C-7", "C-0"], **TARGET).model
    assert first.conditions_ == other.unlearn(ids=["C-7", "C-0"], **TARGET).model.conditions_
    gone = np.isin(NAMES, ["C-7", "C-0"])
    rest = open_records(X[~gone], target=y[~gone], ids=np.array(NAMES)[~gone])
    noise, deleted = [], []
    for now in (table, rest):
        second = first.unlearn(table=now, ids="C-9", **TARGET)
        noise.append(second.certificate.run.phases[-1].noise_std)
        deleted.append(second.certificate.run.deleted)
        assert second.certificate.verify(table, model=second.model).delta_pq <= 1e-5
        assert second.certificate.verify(X, y, second.model).delta_qp <= 1e-5
        quote = first.quote(now, ids="C-9", **TARGET)
        assert quote.noise_std[0] == pytest.approx(noise[-1], rel=1e-6)
        rows = first.quote(now, rows=np.flatnonzero(np.array(NAMES) == "C-9")[:1], **TARGET)
        assert 0 < rows.noise_std[0] < noise[-1]
    assert noise[0] == pytest.approx(noise[1], rel=1e-9)
    assert deleted[0] == deleted[1] == tuple(np.flatnonzero(np.isin(NAMES, ["C-0", "C-7", "C-9"])))
    with pytest.raises(ValueError, match="'C-7', which no record in use has"):
        first.unlearn(table=table, ids="C-7", **TARGET)
    with pytest.raises(ValueError, match="got 7, which was deleted before"):
        first.unlearn(table=rest, rows=7, **TARGET)
    with pytest.raises(ValueError, match="must be 'exact' after a deletion"):
        first.unlearn(table=rest, rows=1, method="shifted", **TARGET)
    with pytest.raises(ValueError, match=f"or the {len(rest)} that are left"):
        first.unlearn(table=open_records(X[1:], target=y[1:]), rows=1, **TARGET)
    # A table that was written anew after the first deletion does for the model of the second.
    last = first.unlearn(table=rest, ids="C-9", **TARGET).model
    left = ~np.isin(NAMES, ["C-7", "C-0", "C-9"])
    least = open_records(X[left], target=y[left], ids=np.array(NAMES)[left])
    found = [last.quote(now, ids="C-5", **TARGET).noise_std.tolist() for now in (table, rest, least)]
    assert found[0] == found[1] == found[2]
    with pytest.raises(ValueError, match=f"or the {len(least)} that are left of them .or {len(rest)} of before"):
        last.quote(open_records(X[1:], target=y[1:]), **TARGET)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("written_anew", [False, True])
def test_three_deletions_are_certified_as_those_of_arrays(written_anew):
    """Each from the table as it was, or as its owner wrote it without the rows deleted before."""
    X, y = data()
    model, table, other = both(X, y)
    kept, now = np.ones(N, dtype=bool), table
    for i, people in enumerate((["C-3", "C-149"], ["C-80"], ["C-11", "C-12", "C-13"])):
        found, wanted = model.unlearn(table=now, ids=people, **TARGET), other.unlearn(ids=people, **TARGET)
        run, known = found.certificate.run, wanted.certificate.run
        assert run.deleted == known.deleted
        assert run.phases[-1].noise_std == pytest.approx(known.phases[-1].noise_std, rel=1e-8)
        assert found.certificate.delta_pq == pytest.approx(wanted.certificate.delta_pq, rel=1e-7)
        assert found.certificate.status == wanted.certificate.status
        assert found.certificate.verify(table, model=found.model).delta_qp <= TARGET["delta"]
        assert found.certificate.verify(X, y, found.model).delta_qp <= TARGET["delta"]
        assert wanted.certificate.verify(table, model=wanted.model).delta_qp <= TARGET["delta"]
        model, other = found.model, wanted.model
        kept &= ~np.isin(NAMES, people)
        assert len(run.phases) == i + 2
        if written_anew:
            now = open_records(X[kept], target=y[kept], ids=np.array(NAMES)[kept])
    sums = RidgeStatistics.of(X[kept], y[kept])
    assert np.array_equal(model._history.sums.gram.value, sums.gram().value)
    assert model._history.sums.digest == sums.digest


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("n_features", [3, 20])
def test_tables_and_arrays_prove_the_same_whatever_the_number_of_rows(n_features):
    """The error of both their sums is that of one rounding: the noise agrees to the tolerance of its search."""
    rng = np.random.default_rng(n_features)
    X = rng.normal(size=(30_000, n_features))
    y = X @ rng.normal(size=n_features) + rng.normal(size=len(X))
    settings = {"n_steps": 100, "noise_std": 1e-7, "step_size": 1e-5}
    model = LangevinRidge(**settings).fit_statistics(RidgeStatistics.of(X, y))
    other = LangevinRidge(**settings).fit(X, y, of_program=False)
    table = open_records(X, target=y)
    noise = [
        one.unlearn(rows=5, **more, **TARGET).certificate.run.phases[-1].noise_std
        for one, more in ((model, {"table": table}), (other, {}))
    ]
    assert 0 < noise[0] == pytest.approx(noise[1], rel=3e-9)
    ours, theirs = model._history.sums, other._history.products
    assert theirs.gram.off <= 1.5 * ours.gram.off
    assert np.all(theirs.moment.off <= 1.5 * ours.moment.off)


def test_the_new_model_is_that_of_the_records_that_remain():
    """Nothing is subtracted: its sums are those of the table without the rows, bit by bit."""
    X, y = data()
    model, table, _ = both(X, y)
    later = model.unlearn(table=table, rows=[0, 63, 64, 399], **TARGET).model
    kept = np.setdiff1d(np.arange(N), [0, 63, 64, 399])
    sums = RidgeStatistics.of(X[kept], y[kept])
    assert np.array_equal(later._history.sums.gram.value, sums.gram().value)
    assert np.array_equal(later._history.sums.moment.value, sums.moment().value)
    assert later._history.sums.digest == sums.digest
    assert isinstance(later._history.design, HeldRows)
    assert not later._history.design[[0, 63, 64, 399]].any()
    with pytest.raises(LookupError, match="row 1 is not held"):
        later._history.design[[1]]


@pytest.mark.parametrize("change", ["value", "target", "deleted"])
def test_a_changed_table_is_refused_by_both_sides(change):
    X, y = data()
    model, table, _ = both(X, y)
    result = model.unlearn(table=table, rows=5, **TARGET)
    X, y = X.copy(), y.copy()
    if change == "target":
        y[200] += 1e-9
    else:
        X[5 if change == "deleted" else 200, 0] += 1e-3
    other = open_records(X, target=y)
    with pytest.raises(ValueError, match="the digests differ"):
        model.unlearn(table=other, rows=5, **TARGET)
    with pytest.raises(VerificationError, match=r"digests\.y" if change == "target" else r"digests\.X"):
        result.certificate.verify(other)


def test_a_certificate_of_another_run_is_refused():
    X, y = data()
    model, table, _ = both(X, y)
    certificate = model.unlearn(table=table, rows=5, **TARGET).certificate
    text = certificate.to_json()
    noise = certificate.run.phases[-1].noise_std
    weaker = Certificate.from_json(text.replace(repr(noise), repr(noise / 2)))
    with pytest.raises(VerificationError, match=r"claim\.delta"):
        weaker.verify(table)
    larger = Certificate.from_json(
        text.replace('"step_size":0.0005', '"step_size":0.5').replace('"step_size": 0.0005', '"step_size": 0.5')
    )
    with pytest.raises(VerificationError, match=r"run\.step_size"):
        larger.verify(table)
    with pytest.raises(VerificationError, match="model"):
        certificate.verify(table, model=np.zeros((6, 1)))
    with pytest.raises(VerificationError, match=r"run\.n_records"):
        certificate.verify(open_records(X[1:], target=y[1:]))
    with pytest.raises(VerificationError, match=r"run\.n_features"):
        certificate.verify(open_records(X[:, 1:], target=y))
    with pytest.raises(VerificationError, match="no targets"):
        certificate.verify(open_records(X))
    with pytest.raises(TypeError, match="y must be omitted"):
        certificate.verify(table, y)
    with pytest.raises(TypeError, match="y must be given"):
        certificate.verify(X)


def test_arguments_are_refused_by_name():
    X, y = data()
    model, table, other = both(X, y)
    with pytest.raises(TypeError, match="table must be given"):
        model.unlearn(rows=5, **TARGET)
    with pytest.raises(TypeError, match="table must be omitted"):
        other.unlearn(rows=5, table=table, **TARGET)
    with pytest.raises(TypeError, match="named by one of ids and rows"):
        model.unlearn(table=table, **TARGET)
    with pytest.raises(TypeError, match="ids and rows"):
        model.unlearn(table=table, rows=5, ids="C-1", **TARGET)
    with pytest.raises(TypeError, match="ids must hold strings"):
        model.unlearn(table=table, ids=7, **TARGET)
    with pytest.raises(ValueError, match="'C-500', which no record in use has"):
        model.unlearn(table=table, ids=["C-1", "C-500"], **TARGET)
    with pytest.raises(ValueError, match="table must have ids"):
        model.unlearn(table=open_records(X, target=y), ids="C-1", **TARGET)
    with pytest.raises(ValueError, match="rows must leave at least one record"):
        model.unlearn(table=table, rows=np.arange(N), **TARGET)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
def test_bounds_of_rows_are_verified_from_the_longest():
    X, y = data()
    X[123] = [3.0, 4.0, 0.0, 12.0, 0.0]
    bounds = {"step_size": "bounded", "norm_bound": 13.5, "n_bound": 512}
    model, table, _ = both(X, y, **bounds)
    certificate = model.unlearn(table=table, rows=3, noise_std=0.1, **TARGET).certificate
    assert certificate.status == "certified"
    assert certificate.verify(table).certified
    smaller = Certificate.from_json(certificate.to_json().replace("13.5", "13.0"))
    with pytest.raises(VerificationError, match=r"norm_bound: must be at least the norm of every row.*row 123"):
        smaller.verify(table)


@pytest.mark.parametrize("labels", ["text", "whole", "floats", "columns"])
def test_digests_of_parts_are_those_of_arrays(labels):
    X, y = data(50)
    values = {"text": np.where(y > 0, 'a "b', "é"), "whole": np.rint(y).astype(np.int64), "floats": y}
    y = values.get(labels, np.column_stack([y, y]))
    for cuts in ([0, 50], [0, 1, 30, 50]):
        digests = DataDigests(X.shape)
        for start, stop in pairwise(cuts):
            digests.add(X[start:stop], y[start:stop])
        assert digests.result() == (features_digest(X), targets_digest(y))
    with pytest.raises(ValueError, match="rows must be 60 in all"):
        DataDigests((60, 5)).result()
    with pytest.raises(ValueError, match="numbers below"):
        digests.add(X[:1], np.array([2**60]))


def test_parts_of_any_size_make_the_statistics_of_one_table():
    X, y = data()
    whole = RidgeStatistics.of(X, y)
    for cuts in ([0, 400], [0, 1, 64, 65, 300, 400], list(range(0, 401, 40))):
        with StatisticsBuilder(n_features=5, n_outputs=1, classes=None, threads=2) as builder:
            for start, stop in pairwise(cuts):
                builder.add(X[start:stop], y[start:stop, None])
            found = builder.result()
        assert found.digest == whole.digest
        assert np.array_equal(found.gram().value, whole.gram().value)
        assert np.array_equal(found.moment().value, whole.moment().value)
