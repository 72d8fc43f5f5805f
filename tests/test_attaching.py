"""Tables that a model's records are found in again: in any order, among other rows, in several files, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import expunge.data.blocks
import expunge.estimators.newton.attaching as attaching
from expunge import NewtonLogisticRegression, NewtonRidge
from expunge.certificates.residual import RecordTree, verify
from expunge.data import open_records

RNG = np.random.default_rng(0)
N, P, B = 100, 3, 16
X = RNG.normal(size=(N, P)).astype(np.float32)
TWO = (X[:, 0] + 0.3 * RNG.normal(size=N) > 0).astype(np.int64)
Y = X @ RNG.normal(size=P) + 0.1 * RNG.normal(size=N)
WEIGHTS = RNG.uniform(0.5, 2, N)
PEOPLE = np.array([f"C-{i // 2}" for i in range(N)])  # two rows each
NUMBERS = np.arange(N) + 1000


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(expunge.data.blocks, "rows_per_block", lambda *, n_features: B)
    monkeypatch.setattr(attaching, "_RUN", 4)


def table(rows, *, ids=PEOPLE, y=TWO, features=X):
    return open_records(features[rows], target=y[rows], ids=None if ids is None else ids[rows])


def fitted(*, ids=PEOPLE, weights=WEIGHTS, gone=(4, 40, 41)):
    """Return a model after a deletion, without its table, and the rows that it has."""
    model = NewtonLogisticRegression(classes=[0, 1]).fit(table(np.arange(N), ids=ids), sample_weight=weights)
    if len(gone):
        model = model.unlearn(rows=list(gone)).model
    return model, np.delete(np.arange(N), gone)


MODELS = {name: fitted(ids=ids) for name, ids in (("people", PEOPLE), ("numbers", NUMBERS), ("none", None))}
IDS = {"people": PEOPLE, "numbers": NUMBERS, "none": None}


def check(model, rows):
    """Check that a model has the rows of a table as its records, in their order, and can go on."""
    state = model._state
    assert len(state.objective) == len(rows)
    assert state.tree.root == model.certificate_.digests.data
    found = [(block.X[:, :P], block.labels, block.weights) for block in state.objective.blocks]
    for mine, theirs in zip(zip(*found, strict=True), (X[rows], TWO[rows], WEIGHTS[rows]), strict=True):
        assert np.array_equal(np.concatenate(mine), theirs)


@given(st.sampled_from(["people", "numbers"]), st.data())
def test_records_are_found_in_any_order_among_rows_that_are_none(kind, data):
    model, rows = MODELS[kind]
    ids = IDS[kind]
    left = [4, 40, 41]
    more = data.draw(st.lists(st.sampled_from(left), unique=True))
    if data.draw(st.booleans()):
        order = np.array(data.draw(st.permutations([*rows, *more])))
    else:
        order = np.array(sorted([*rows, *more]))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(order) - 1), max_size=2, unique=True)))
    tables = [table(part, ids=ids) for part in np.split(order, cuts)]
    if more:
        with pytest.raises(ValueError, match=f"must be the 97 of the model, in their order, got {97 + len(more)}; a"):
            model.attach(*tables)
    attached = model.attach(*tables, others="omit" if more else "refuse")
    assert attached is model
    found = order[np.isin(order, rows)]
    assert model.ids_.tolist() == ids[found].tolist()
    check(model, found)


def test_a_model_that_was_attached_goes_on_and_is_verified_on_what_its_owner_has():
    model, _ = fitted()
    order = RNG.permutation(N)
    result = model.attach(table(order), others="omit").unlearn("C-7")
    left = np.delete(np.arange(N), [4, 14, 15, 40, 41])
    report = verify(
        result.certificate,
        table(left),
        evidence=result.evidence,
        released=result.model.release(),
        sample_weight=WEIGHTS[left],
    )
    assert report.certified
    again = result.model.attach(table(left[::-1]))
    check(again, left[::-1])
    assert again.quote().ids.tolist() == PEOPLE[left[::-1]].tolist()


def test_rows_without_ids_stand_in_order_or_are_all_that_were_numbered():
    model, rows = MODELS["none"]
    check(model.attach(table(rows, ids=None)), rows)
    check(model.attach(table(np.arange(N), ids=None), others="omit"), rows)
    check(model.attach(table(np.arange(30), ids=None), table(np.arange(30, N), ids=None), others="omit"), rows)
    assert model.ids_.tolist() == rows.tolist()
    some = np.delete(np.arange(N), [4, 50])  # 40 and 41 still there, and 50 gone that is a record
    with pytest.raises(ValueError, match=r"got none for 50 records of it: .*, which should come behind row 48;"):
        model.attach(table(some, ids=None), others="omit")
    with pytest.raises(ValueError, match=r"row 3: the record 3 of the model is not what it was"):
        model.attach(table(np.array([0, 1, 2, 5, 3, *rows[5:]]), ids=None))
    named, _ = MODELS["people"]
    with pytest.raises(ValueError, match=r"of the model, in their order, got 100 rows without ids: name their ids"):
        named.attach(table(np.arange(N), ids=None), others="omit")
    with pytest.raises(ValueError, match="records must all have ids, or none"):
        named.attach(table(rows[:5]), table(rows[5:], ids=None))


@given(st.data())
def test_rows_without_ids_are_found_by_their_hashes(data):
    """Among any rows: the records stay in their order, and rows that are alike may stand for one another."""
    alike = X[np.arange(N) // 3]  # three rows each have the same features, and some of these the same class
    gone = data.draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=30, unique=True))
    model = NewtonLogisticRegression(classes=[0, 1]).fit(table(np.arange(N), ids=None, features=alike))
    rows = np.delete(np.arange(N), gone)
    model = model.unlearn(rows=gone).model
    strangers = data.draw(st.lists(st.sampled_from(sorted(gone)), max_size=len(gone) - 1, unique=True))
    order = np.array(sorted([*rows, *strangers]))
    cut = data.draw(st.integers(1, len(order) - 1))
    tables = [table(part, ids=None, features=alike) for part in np.split(order, [cut])]
    model.attach(*tables, others="omit")
    read = list(model._state.objective.blocks)
    assert np.array_equal(np.concatenate([block.X for block in read])[:, : alike.shape[1]], alike[rows])
    assert np.array_equal(np.concatenate([block.labels for block in read]), TWO[rows])
    assert model.ids_.tolist() == rows.tolist()
    assert model.unlearn(rows=[0]).model.attach(*tables, others="omit").ids_.tolist() == rows[1:].tolist()


@pytest.mark.parametrize("what", ["X", "y", "word"])
@pytest.mark.parametrize("others", ["refuse", "omit"])
def test_a_record_that_changed_is_named_with_its_place(what, others):
    model, rows = MODELS["people"]
    every = rows if others == "refuse" else np.arange(N)
    features, y = X.copy(), TWO.copy()
    if what == "X":
        features[60, 1] += 1
    else:
        y[60] = 1 - y[60] if what == "y" else 7
    place = np.flatnonzero(every == 60)[0]
    with pytest.raises(ValueError, match=rf"^row {place}: the record 'C-30' of the model is not what it was"):
        model.attach(table(every, features=features, y=y), others=others)


def test_a_deleted_row_may_have_become_anything():
    model, rows = MODELS["people"]
    features, y = X.copy(), TWO.copy()
    features[40] = 7.0
    y[41] = 99
    check(model.attach(table(np.arange(N), features=features, y=y), others="omit"), rows)


@pytest.mark.parametrize("others", ["refuse", "omit"])
def test_a_record_that_is_missing_is_named(others):
    model, rows = MODELS["people"]
    with pytest.raises(ValueError, match="must be the 97 of the model"):
        model.attach(table(rows[1:]), others=others)
    swapped = np.where(rows == 60, 40, rows)  # a deleted row in its place
    with pytest.raises(ValueError, match=r"got none for 1 record of it: 'C-30' \(row 57, of 'C-20', is none of them\)"):
        model.attach(table(swapped), others=others)
    twice = np.where(rows == 60, 50, rows)
    with pytest.raises(ValueError, match=r"got none for 1 record of it: 'C-30' \(row 57, of 'C-25', is none of them\)"):
        model.attach(table(twice), others=others)


def test_what_is_no_table_of_this_model_is_refused():
    model, rows = MODELS["numbers"]
    with pytest.raises(ValueError, match="row 0: ids must be whole numbers, as those of the model: 7 is not '7'"):
        model.attach(open_records(X[rows], target=TWO[rows], ids=NUMBERS[rows].astype(str)))
    with pytest.raises(TypeError, match="attach needs the table of this model's records, got none"):
        model.attach()
    with pytest.raises(TypeError, match="records must be a table"):
        model.attach(table(rows, ids=NUMBERS), X)
    with pytest.raises(ValueError, match="others must be one of"):
        model.attach(table(rows, ids=NUMBERS), others="pass")
    with pytest.raises(TypeError, match="fitted on arrays and holds its records"):
        NewtonRidge().fit(X, Y).attach(table(rows))


def test_a_refused_table_leaves_the_model_as_it_was():
    model, rows = fitted()
    model.attach(table(rows))
    before = model._state
    with pytest.raises(ValueError, match="got none for"):
        model.attach(table(np.where(rows == 60, 50, rows)))
    assert model._state is before
    model._state = replace(before, theta=before.theta + 1.0)
    with pytest.raises(ValueError, match="this is not the model of these records"):
        model.attach(table(rows))


def test_large_ids_are_found_too():
    ids = np.array([2**70 + i for i in range(N)], dtype=object)
    model, rows = fitted(ids=ids)
    check(model.attach(table(np.arange(N)[::-1], ids=ids), others="omit"), rows[::-1])


def test_a_tree_in_another_order_has_the_same_root():
    tree = RecordTree.of(X, Y, ids=PEOPLE)
    order = RNG.permutation(N)
    other = tree.reordered(order)
    assert other.root == tree.root
    assert other.ids.tolist() == PEOPLE[order].tolist()
    assert np.array_equal(other.salts, tree.salts[order])
    assert np.array_equal(other.contents, tree.contents[order])
    assert other.without([3]).root == tree.without([order[3]]).root
    with pytest.raises(ValueError, match="positions must name each of 100 records once, got 99"):
        tree.reordered(order[1:])
    with pytest.raises(ValueError, match="must not repeat a row"):
        tree.reordered([*order[1:], order[1]])
