"""Several tables as one: blocks, digests and statistics are those of one table with all rows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data import RidgeStatistics, blocks, open_records
from expunge.data.joined import JoinedRecords

X = np.random.default_rng(0).normal(size=(60, 2))
Y = X @ [1.0, 2.0]
IDS = np.array([f"C-{i}" for i in range(60)])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 8 * 8 * 2)
    monkeypatch.setattr(blocks, "_LEAST", 8)


def parts(edges):
    edges = [0, *sorted(edges), 60]
    return [open_records(X[a:b], target=Y[a:b], ids=IDS[a:b]) for a, b in pairwise(edges)]


@given(st.sets(st.integers(1, 59), max_size=6), st.integers(0, 8), st.integers(0, 8))
def test_blocks_are_those_of_one_table(edges, one, other):
    start, stop = sorted((one, other))
    joined, whole = JoinedRecords(parts(edges)), open_records(X, target=Y, ids=IDS)
    assert joined.n_records == 60
    assert joined.place(59).endswith("row " + str(59 - max([0, *edges])))
    mine, theirs = (list(table.blocks(start=start, stop=stop)) for table in (joined, whole))
    assert [block.start for block in mine] == [block.start for block in theirs]
    for a, b in zip(mine, theirs, strict=True):
        for name in ("X", "y", "ids"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    assert RidgeStatistics.of(joined).digest == RidgeStatistics.of(whole).digest


def test_types_hold_the_numbers_of_all():
    both = JoinedRecords([open_records(X[:9].astype(np.float32), target=Y[:9]), open_records(X[9:], target=Y[9:])])
    assert both.dtype == np.float64
    assert {block.X.dtype for block in both.blocks()} == {np.dtype(np.float64)}


def test_tables_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        JoinedRecords([])
    with pytest.raises(TypeError, match="tables must be Records, as open_records returns them, got ndarray"):
        JoinedRecords([X])
    table = open_records(X, target=Y)
    with pytest.raises(ValueError, match=r"the same columns, got n_features 2 .* and 1 "):
        JoinedRecords([table, open_records(X[:, :1], target=Y)])
    with pytest.raises(ValueError, match=r"got has_targets True .* and False "):
        JoinedRecords([table, open_records(X)])
    with pytest.raises(ValueError, match=r"got has_ids False .* and True "):
        JoinedRecords([table, open_records(X, target=Y, ids=IDS)])
    odd = JoinedRecords([table, open_records(X, target=IDS)])
    with pytest.raises(TypeError, match=r"targets of tables must be of one kind: text from .*, numbers from "):
        list(odd.blocks())
