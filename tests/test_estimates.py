"""The label of estimates: on every number that comes from them, on nothing else."""

import copy
import operator
import pickle

import numpy as np
import pytest

from expunge.accounting import Estimate

VALUES = np.array([3.0, 1.0, 2.0])
LOSS = Estimate.of(VALUES)
TABLE = Estimate.of(np.arange(6.0).reshape(2, 3))

KEPT = {
    "arithmetic": lambda x: 2 * x + 1,
    "reflected": lambda x: VALUES - x,
    "power": lambda x: x**2,
    "function": np.log1p,
    "slice": lambda x: x[1:],
    "entry": lambda x: x[0],
    "mask": lambda x: x[x > 1.5],
    "fancy": lambda x: x[[2, 0]],
    "iteration": lambda x: next(iter(x)),
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "std": lambda x: x.std(),
    "max": lambda x: x.max(),
    "np.max": np.max,
    "round": lambda x: x.round(1),
    "concatenate": lambda x: np.concatenate([x, VALUES]),
    "concatenate second": lambda x: np.concatenate([VALUES, x]),
    "stack": lambda x: np.stack([VALUES, x]),
    "where": lambda x: np.where(VALUES > 1.5, x, 0.0),
    "quantile": lambda x: np.quantile(x, 0.5),
    "quantiles": lambda x: np.quantile(x, [0.1, 0.5]),
    "median": np.median,
    "sort": np.sort,
    "unique": np.unique,
    "clip": lambda x: np.clip(x, 1.5, 2.5),
    "interp": lambda x: np.interp([0.5], [0.0, 1.0], x[:2]),
    "dot": lambda x: x @ VALUES,
    "maximum": lambda x: np.maximum(x, 2.0),
    "reduce": np.add.reduce,
    "copy": copy.copy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "float32": lambda x: x.astype(np.float32),
    "reshape": lambda x: x.reshape(3, 1),
}
DROPPED = {
    "np.argsort": np.argsort,
    "argsort": lambda x: x.argsort(),
    "argmax": lambda x: x.argmax(),
    "np.argmin": np.argmin,
    "argmin": lambda x: x.argmin(),
    "argpartition": lambda x: x.argpartition(1),
    "searchsorted": lambda x: x.searchsorted([1.0]),
    "comparison": lambda x: x > 1.5,
    "equality": lambda x: x == VALUES,
    "isfinite": np.isfinite,
    "allclose": lambda x: np.allclose(x, VALUES),
    "nonzero": lambda x: np.nonzero(x)[0],
    "integers": lambda x: x.astype(np.int64),
    "sign bits": np.signbit,
    "asarray": np.asarray,
    "tolist": lambda x: x.tolist(),
    "float": lambda x: float(x[0]),
    "item": lambda x: x[0].item(),
    "shape": np.shape,
}


@pytest.mark.parametrize("name", KEPT)
def test_numbers_computed_from_estimates_keep_the_label(name):
    found, plain = KEPT[name](LOSS), KEPT[name](VALUES)
    assert isinstance(found, Estimate)
    assert found.status == "estimate"
    np.testing.assert_array_equal(np.asarray(found), plain)


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_no_quantity_has_no_label(name):
    found = DROPPED[name](LOSS)
    assert not hasattr(found, "status")
    np.testing.assert_array_equal(found, DROPPED[name](VALUES))


def test_several_results_and_places_given_for_them():
    whole, part = np.divmod(LOSS, 2.0)
    assert isinstance(whole, Estimate)
    assert isinstance(part, Estimate)
    values, counts = np.unique(LOSS, return_counts=True)
    assert isinstance(values, Estimate)
    assert not isinstance(counts, Estimate)
    out = Estimate.of(np.empty(3))
    assert np.add(VALUES, 1.0, out=out) is out
    assert out.tolist() == [4.0, 2.0, 3.0]
    total = LOSS.copy()
    total += 1.0
    assert isinstance(total, Estimate)
    assert total.tolist() == [4.0, 2.0, 3.0]
    entries = LOSS.copy()
    entries[0] = LOSS[1]
    assert entries.tolist() == [1.0, 1.0, 2.0]


def test_entries_behave_as_numbers():
    entry = TABLE[1, 2]
    assert entry.shape == ()
    assert f"{entry:.2f}" == "5.00"
    assert entry > 4.5
    assert bool(entry == 5.0)
    assert [row.shape for row in TABLE] == [(3,), (3,)]


def test_an_entry_rounds_as_a_number_does():
    entry = Estimate.of(np.array([1.234, 2.0]))[0]
    rounded = round(entry, 1)
    assert rounded == 1.2
    assert rounded.status == "estimate"
    assert round(entry) == 1
    assert isinstance(round(entry), int)
    with pytest.raises(TypeError, match="single number"):
        round(Estimate.of(np.ones(2)))


def test_an_entry_is_a_key_and_whole_as_a_number_is():
    entry = LOSS[1]
    assert hash(entry) == hash(1.0) == hash(np.float64(1.0))
    assert {entry: "a"}[1.0] == {1.0: "a"}[entry] == "a"
    assert {float(one) for one in set(LOSS)} == {3.0, 1.0, 2.0}
    assert entry.is_integer()
    assert entry.is_integer() is np.float64(1.0).is_integer()
    assert not (entry / 2).is_integer()
    for call in (hash, Estimate.is_integer):
        with pytest.raises(TypeError, match=r"got shape \(3,\)"):
            call(LOSS)


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"])
def test_an_entry_that_is_a_key_never_changes(name):
    entry = Estimate.of(np.array([3.0]))[0]
    kept = {entry: "a"}
    found = getattr(operator, name)(entry, 2.0)
    assert found == getattr(operator, name)(np.float64(3.0), 2.0)
    assert found.status == "estimate"
    assert kept[3.0] == "a"
    assert float(entry) == 3.0
    several = Estimate.of(np.array([3.0, 4.0]))
    assert getattr(operator, name)(several, 2.0) is several
