"""Whom a deletion is about: ids are exact, and a number that could be an id is never read as a position."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.model_selection import train_test_split

from expunge import (
    LangevinRidge,
    LangevinRidgeClassifier,
    NewtonLogisticRegression,
    NewtonRidge,
    NewtonRidgeClassifier,
)
from expunge.estimators._records import RecordIds, as_array, exact_ids

# Whose rows go, not how well what is left predicts.
pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET = {"epsilon": 1.0, "delta": 1e-3, "n_steps": 5}
N = 24
RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(N, 3)), RNG.normal(size=N)


def learned(record_ids=None, data=X, targets=Y):
    return LangevinRidge(n_steps=20, noise_std=0.5).fit(data, targets, record_ids=record_ids)


def deleted(model, **whom):
    return model.unlearn(**whom, **TARGET).certificate.run.deleted


IDS = st.one_of(
    st.lists(st.integers(-(10**25), 10**25) | st.integers(2**53 - 2, 2**53 + 2), min_size=N, max_size=N),
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), min_size=N, max_size=N),
)


# --- the right person ---------------------------------------------------------------------------


@settings(max_examples=25)
@given(IDS, st.integers(0, N - 1), st.sampled_from([list, tuple, as_array]))
def test_all_rows_of_an_id_go_and_no_others(ids, row, container):
    model = learned(container(ids))
    mine = tuple(i for i in range(N) if ids[i] == ids[row])
    if len(mine) < N:
        assert deleted(model, ids=ids[row]) == mine
        assert deleted(model, ids=[ids[row]]) == mine
        assert deleted(model, rows=row) == (row,)


@pytest.mark.parametrize(
    "ids",
    [
        [2**53 + i for i in range(N)],
        np.arange(N, dtype=np.uint64) + np.uint64(2**64 - N),
        np.arange(N) + np.iinfo(np.int64).min,
        [10**40 + i for i in range(N)],
        [f"{'x' * 300}{i}" for i in range(N)],
        [f"{i}" + "\0" * (i % 2) for i in range(N)],
    ],
)
def test_neighbouring_ids_are_never_one_person(ids, tmp_path):
    model = learned(ids)
    again = LangevinRidge.load(model.save(tmp_path / "model.npz"))
    for source in (model, again, pickle.loads(pickle.dumps(model))):
        assert source.quote(**TARGET, by_id=True).indices.tolist() == list(ids)
        for i in (0, 1, N - 1):
            assert deleted(source, ids=ids[i]) == (i,)


def test_a_table_that_was_split_is_deleted_from_by_label():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    train, _, y, _ = train_test_split(frame, pd.Series(Y), random_state=0)
    model = learned(data=train, targets=y)
    label = train.index[5]
    for indices in (train.index[[5]], [7], 7, np.array([7])):
        with pytest.raises(ValueError, match=r"could mean the id or the position; say ids= .* or rows="):
            model.unlearn(indices, **TARGET)
        for ask in (model.privacy_profile, model.downdate):
            with pytest.raises(ValueError, match="could mean the id or the position"):
                ask(indices)
        with pytest.raises(ValueError, match="could mean the id or the position"):
            model.quote(**TARGET, indices=indices)
    assert deleted(model, ids=label) == deleted(model, ids=train.index[[5]]) == deleted(model, rows=5) == (5,)
    assert model.quote(**TARGET, ids=label).indices.tolist() == [label]


def test_a_table_numbered_from_0_knows_its_rows_by_number():
    pd = pytest.importorskip("pandas")
    for index in (None, list(range(N))):
        model = learned(data=pd.DataFrame(X, index=index))
        assert deleted(model, indices=7) == deleted(model, ids=7) == deleted(model, rows=7) == (7,)
        assert deleted(model, indices=pd.Index([7])) == (7,)


def test_labels_of_the_targets_are_kept_where_the_features_have_none():
    pd = pytest.importorskip("pandas")
    y = pd.Series(Y, index=np.arange(N) + 3).sample(frac=1, random_state=0)
    for data in (X, pd.DataFrame(X)):  # an array, as a scaler makes of a table; a table numbered anew
        model = learned(data=data, targets=y)
        with pytest.raises(ValueError, match="could mean the id or the position"):
            model.unlearn(y.index[5], **TARGET)
        assert deleted(model, ids=y.index[5]) == deleted(model, rows=5) == (5,)
    classifier = LangevinRidgeClassifier(n_steps=20, noise_std=0.5).fit(X, (y > 0).astype(int))
    assert deleted(classifier, ids=y.index[5]) == (5,)
    assert deleted(learned(data=X, targets=pd.Series(Y)), indices=5) == (5,)
    days = pd.Series(Y, index=pd.date_range("2020", periods=N))  # nobody takes a day for a position
    assert deleted(learned(data=X, targets=days), indices=5) == (5,)


def test_labels_are_not_positions_of_an_array():
    pd = pytest.importorskip("pandas")
    model = learned()
    with pytest.raises(ValueError, match="must be positions, got the labels"):
        model.unlearn(pd.Index([7]), **TARGET)
    assert deleted(model, indices=7) == deleted(model, rows=[7]) == (7,)
    with pytest.raises(ValueError, match="fit with record_ids="):
        model.unlearn(ids=7, **TARGET)
    with pytest.raises(ValueError, match="fit with record_ids="):
        model.quote(**TARGET, by_id=True)


def test_given_ids_come_before_an_index():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, index=np.linspace(0, 1, N))
    with pytest.raises(TypeError, match=r"the index of X must hold integers or strings.*record_ids=.*reset_index"):
        learned(data=frame)
    assert deleted(learned([f"p{i}" for i in range(N)], data=frame), ids="p3") == (3,)
    strings = learned(data=pd.DataFrame(X, index=[f"C{i}" for i in range(N)]))
    assert deleted(strings, ids=["C3", "C1"]) == (1, 3)


def test_targets_in_another_order_are_refused():
    pd = pytest.importorskip("pandas")
    frame, y = pd.DataFrame(X).sample(frac=1, random_state=0), pd.Series(Y)
    with pytest.raises(ValueError, match="must be in the order of X"):
        learned(data=frame, targets=y)
    learned(data=frame, targets=y.loc[frame.index])
    learned(data=frame, targets=y.to_numpy())


@pytest.mark.parametrize("kind", ["ridge", "ridge classifier", "logistic", "langevin"])
def test_ids_and_weights_in_another_order_are_refused(kind):
    """A column of the table's own labels, turned round, would give everybody the id or the weight of somebody else."""
    pd = pytest.importorskip("pandas")
    labels = [f"p{i}" for i in range(N)]
    frame, column = pd.DataFrame(X, index=labels), pd.Series(np.arange(1.0, N + 1), index=labels)
    y = Y if kind in ("ridge", "langevin") else np.arange(N) % 2
    model = {
        "ridge": NewtonRidge(),
        "ridge classifier": NewtonRidgeClassifier(classes=[0, 1]),
        "logistic": NewtonLogisticRegression(classes=[0, 1]),
        "langevin": LangevinRidge(n_steps=20, noise_std=0.5),
    }[kind]
    ids = pd.Series(labels, index=labels)
    with pytest.raises(ValueError, match="record_ids must be in the order of X"):
        model.fit(frame, y, record_ids=ids[::-1])
    with pytest.raises(ValueError, match="record_ids must be in the order of X"):
        model.fit(X, pd.Series(y, index=labels), record_ids=ids[::-1])
    model.fit(frame, y, record_ids=ids)
    if kind != "langevin":
        with pytest.raises(ValueError, match="sample_weight must be in the order of X"):
            model.fit(frame, y, sample_weight=column[::-1])
        assert_array_equal(model.fit(frame, y, sample_weight=column)._state.objective.blocks[0].weights, column)
        model.fit(frame, y, sample_weight=column[::-1].to_numpy())


# --- exact or refused ---------------------------------------------------------------------------

NOT_IDS = [
    np.linspace(0, 1, N),
    [float(i) for i in range(N)],
    [True] * N,
    np.ones(N, dtype=bool),
    [None, *range(N - 1)],
    [float("nan"), *range(N - 1)],
    [*range(N - 1), "7"],
    [*"abc", *range(N - 3)],
    np.ma.array(range(N), mask=[1] + [0] * (N - 1)),
    np.ma.array(range(N)),
    [b"a"] * N,
    np.array(["2020-01-01"] * N, dtype="M8[D]"),
    [(1, 2)] * N,
    [True, *range(N - 1)],
    [*range(N - 1), np.float64(3)],
    {"a": 1},
    set(range(N)),
]


@pytest.mark.parametrize("bad", NOT_IDS, ids=lambda value: str(value)[:30])
def test_what_is_no_id_is_refused_by_name(bad):
    with pytest.raises((TypeError, ValueError), match="record_ids"):
        learned(bad)
    with pytest.raises((TypeError, ValueError), match="groups"):
        learned().quote(**TARGET, groups=bad)
    with pytest.raises((TypeError, ValueError), match="ids"):
        learned(range(N)).unlearn(ids=bad, **TARGET)


def test_missing_ids_of_a_table_are_refused_by_name():
    pd = pytest.importorskip("pandas")
    for column in (
        pd.Series([None, *map(str, range(N - 1))]),
        pd.Series([None, *range(N - 1)], dtype="Int64"),
        pd.Series([None, *map(str, range(N - 1))], dtype="string"),
        pd.Series(pd.date_range("2020", periods=N)),
        pd.Series(np.linspace(0, 1, N)),
    ):
        with pytest.raises(TypeError, match="record_ids"):
            learned(column)
    for column in (pd.Series(range(N), dtype="Int64"), pd.Series(map(str, range(N)), dtype="string")):
        assert deleted(learned(column), ids=column.iloc[3]) == (3,)
        assert deleted(learned(pd.Categorical(column)), ids=column[[3, 4]]) == (3, 4)


@pytest.mark.parametrize("bad", ["\ud800", 10**4000, -(10**4000)])
def test_ids_that_no_file_could_hold_are_refused_by_name(bad):
    with pytest.raises(ValueError, match="record_ids must hold"):
        learned([bad] * N)
    with pytest.raises(ValueError, match="ids must hold"):
        learned(["a"] * N if isinstance(bad, str) else range(N)).unlearn(ids=bad, **TARGET)


@pytest.mark.parametrize("bad", [[""] * N, range(N - 1), range(N + 1), np.zeros((N, 1), dtype=int), []])
def test_ids_of_the_wrong_shape_and_empty_ones_are_refused(bad):
    with pytest.raises(ValueError, match="record_ids"):
        learned(bad)
    with pytest.raises(ValueError, match="groups"):
        learned().quote(**TARGET, groups=bad)


@pytest.mark.parametrize("bad", [np.ma.array([3]), [True], True, [True, 2], 3.0, [3.0], None, "3", [np.ma.masked]])
def test_what_is_no_position_is_refused_by_name(bad):
    for model in (learned(), learned(range(N))):
        with pytest.raises((TypeError, ValueError), match="rows"):
            model.unlearn(rows=bad, **TARGET)
        if bad is not None:
            with pytest.raises((TypeError, ValueError), match="rows"):
                model.quote(**TARGET, rows=bad)


def test_a_number_is_not_its_text():
    with pytest.raises(TypeError, match=r"integers, as the ids of this model are, got '7'"):
        learned(range(N)).unlearn(ids="7", **TARGET)
    with pytest.raises(TypeError, match=r"strings, as the ids of this model are, got 7"):
        learned([str(i) for i in range(N)]).unlearn(ids=7, **TARGET)


@given(st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=5))
def test_ids_come_out_as_they_went_in(ids):
    assert as_array(exact_ids("ids", ids)).tolist() == ids
    assert exact_ids("ids", as_array(ids)) == ids
    assert exact_ids("ids", np.array(ids, dtype=object)) == ids
    assert exact_ids("ids", ids[0]) == ids[:1]


@pytest.mark.parametrize("one", [7, np.int64(7), np.uint8(7), np.array(7)])
def test_a_single_number_may_be_of_any_integer_type(one):
    assert deleted(learned(range(N)), ids=one) == deleted(learned(range(N)), rows=one) == (7,)


@pytest.mark.parametrize("one", ["7", np.str_("7"), np.array("7")])
def test_a_single_name_may_be_of_any_text_type(one):
    assert deleted(learned([str(i) for i in range(N)]), ids=one) == (7,)


# --- once ---------------------------------------------------------------------------------------


def test_an_id_is_deleted_once_and_unknown_ones_are_named():
    model = learned([f"p{i // 2}" for i in range(N)])
    after = model.unlearn(ids="p3", **TARGET).model
    with pytest.raises(ValueError, match="'p3', deleted before"):
        after.unlearn(ids=["p4", "p3"], **TARGET)
    with pytest.raises(ValueError, match="'p3', deleted before"):
        after.quote(**TARGET, ids="p3")
    with pytest.raises(ValueError, match="got 'p99', which no record has"):
        model.unlearn(ids=["p1", "p99"], **TARGET)
    with pytest.raises(ValueError, match="leave at least one record"):
        model.unlearn(ids=[f"p{i}" for i in range(N // 2)], **TARGET)
    assert deleted(model, ids=["p3", "p3"]) == (6, 7)
    assert deleted(after, ids="p4") == (6, 7, 8, 9)
    assert "p3" not in after.quote(**TARGET, by_id=True).indices.tolist()


def test_a_person_of_whom_one_row_went_has_the_others_left():
    model = learned([f"p{i // 2}" for i in range(N)]).unlearn(rows=6, **TARGET).model
    assert deleted(model, ids="p3") == (6, 7)


@pytest.mark.parametrize("whom", [{}, {"ids": 1, "rows": 1}, {"indices": 1, "rows": 1}])
def test_records_are_named_in_one_way(whom):
    with pytest.raises(TypeError, match="one of ids and rows"):
        learned(range(N)).unlearn(**whom, **TARGET)


# --- every question takes ids -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_a_quote_by_id_is_the_quote_of_its_rows(method):
    ids = [f"p{i // 2}" for i in range(N)]
    model = learned(ids)
    people = model.quote(**TARGET, method=method, by_id=True)
    groups = learned_like(model, None).quote(**TARGET, method=method, groups=np.arange(N) // 2)
    assert people.unit == "id"
    assert people.indices.tolist() == list(dict.fromkeys(ids))
    np.testing.assert_array_equal(people.noise_std, groups.noise_std)
    some = model.quote(**TARGET, method=method, ids=["p5", "p2"])
    assert some.indices.tolist() == ["p5", "p2"]
    np.testing.assert_allclose(some.noise_std, people.noise_std[[5, 2]], rtol=1e-6)


def learned_like(model, ids):
    """Return the same model as if it had been fitted with other ids."""
    import copy
    import dataclasses

    result = copy.copy(model)
    result._history = dataclasses.replace(model._history, ids=ids)
    return result


def test_profiles_and_optima_take_ids():
    model = learned([f"p{i // 2}" for i in range(N)])
    for ask in (lambda **whom: model.privacy_profile(**whom).delta(1.0), lambda **whom: model.downdate(**whom).coef_):
        np.testing.assert_array_equal(ask(ids="p3"), ask(rows=[6, 7]))


# Long ids: two bytes are soon found among random ones.
@pytest.mark.parametrize("ids", [[f"person-{i:08}" for i in range(N)], [10**30 + i for i in range(N)]])
def test_ids_stay_in_the_working_model(ids, tmp_path):
    labels = np.arange(N) % 2
    model = LangevinRidgeClassifier(n_steps=20, noise_std=0.5).fit(X, labels, record_ids=ids)
    result = model.unlearn(ids=ids[3], **TARGET)
    path = result.model.save(tmp_path / "model.npz")
    assert deleted(LangevinRidgeClassifier.load(path), ids=ids[5]) == (3, 5)
    public = result.model.release().save(tmp_path / "released.npz").read_bytes()
    for i, one in enumerate(map(str, ids[:6])):
        assert (one.encode() in path.read_bytes()) == (i != 3)
        assert one.encode() not in public
        assert one not in result.certificate.to_json()
        assert one.encode() not in pickle.dumps(model.release())
        assert one.encode() not in pickle.dumps(pickle.loads(pickle.dumps(model)).forget_history())


def test_quotes_of_huge_ids_are_written_exactly(tmp_path):
    from expunge.cli.quote import quote_json

    for ids in ([10**30 + i for i in range(N)], [2**53 + i for i in range(N)], [f"C{i}" for i in range(N)]):
        quote = learned(ids).quote(**TARGET, by_id=True)
        assert [record["id"] for record in json.loads(quote_json(quote))["ids"]] == [str(one) for one in ids]
        pytest.importorskip("pandas")
        assert quote.to_frame()["id"].tolist() == ids
        parquet = pytest.importorskip("pyarrow.parquet")
        path = quote.to_parquet(tmp_path / "quote.parquet", overwrite=True)
        assert path.stat().st_mode & 0o077 == 0
        assert [str(one) for one in parquet.read_table(path)["id"].to_pylist()] == [str(one) for one in ids]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (None, "a missing value"),
        (float("nan"), "a missing value"),
        (1.5, "1.5"),
        (b"C1", "b'C1'"),
    ],
)
def test_what_is_no_id_is_said_with_its_place(bad, said):
    with pytest.raises(TypeError, match=re.escape(f"got {said} (")) as alone:
        exact_ids("record_ids", [bad])
    assert "position" not in str(alone.value)
    with pytest.raises(TypeError, match=re.escape(f"got {said} (")) as second:
        exact_ids("record_ids", ["C1", bad])
    assert "at position 1" in str(second.value)


def test_ids_of_both_kinds_are_refused_with_the_first_odd_one():
    with pytest.raises(TypeError, match="got 7 and, at position 2, 'seven'"):
        exact_ids("record_ids", [7, 8, "seven", "eight"])
    with pytest.raises(ValueError, match="at least one id"):
        exact_ids("record_ids", [])
    with pytest.raises(TypeError, match="dtype float64"):
        exact_ids("record_ids", np.array([1.0, 2.0]))


@pytest.mark.parametrize("half", [chr(0xD800), chr(0xDFFF), "a" + chr(0xDC00), "\u00e9" + chr(0xDFFF)])
def test_text_that_no_file_can_hold_is_no_id(half):
    with pytest.raises(ValueError, match="UTF-8"):
        exact_ids("record_ids", [half])


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        ([-(2**63), 2**63 - 1], np.int64),
        ([0, 2**63], np.uint64),
        ([0, 2**64 - 1], np.uint64),
        ([-1, 2**63], object),
        ([0, 2**64], object),
        ([3, 4], np.int64),
    ],
)
def test_arrays_of_ids_are_the_narrowest_exact_ones(numbers, dtype):
    found = as_array(numbers)
    assert found.dtype == dtype
    assert [int(one) for one in found] == numbers


def test_a_model_of_one_record_id_says_its_kind():
    assert RecordIds((7,), "record_ids").kind == "integer"
    assert RecordIds(("7",), "record_ids").kind == "string"


def test_a_deleted_record_is_gone_by_position_too():
    model = learned(list(range(100, 100 + N))).unlearn(ids=103, **TARGET).model
    with pytest.raises(ValueError, match="rows must name records still in use, got 3, which was deleted before"):
        model.unlearn(rows=[2, 3], **TARGET)
    for index, source in ((range(100, 100 + N), "the index of X or y"), (None, "record_ids")):
        table = pytest.importorskip("pandas").DataFrame(X, index=index)
        ids = None if index is not None else [f"C{i}" for i in range(N)]
        with pytest.raises(ValueError, match=f"from {source}"):
            learned(ids, data=table).unlearn(3, **TARGET)
