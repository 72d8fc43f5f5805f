"""Tables that are mapped as they are read: bit by bit the blocks of the mapped array, wherever rows lie."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data import Constants, Cosines, MappedRecords, Reading, blocks, open_records, random_cosine_features

N, D = 300, 3
RNG = np.random.default_rng(0)
X = RNG.uniform(-0.9, 0.9, (N, D)).astype(np.float32)
Y = RNG.integers(0, 3, N)
IDS = np.array([f"C-{i // 2}" for i in range(N)])
BOUNDS = Constants("bounds", ((-1.0, 1.0), (-2.0, 2.0), (-0.9, 3.0)))
READINGS = {
    "plain": Reading(D),
    "divided": Reading(D, constants=Constants("divide_by", ((3.0,), (7.0,), (0.1,)))),
    "by one": Reading(D, constants=Constants("divide_by", ((255.0,),))),
    "bounds": Reading(D, constants=BOUNDS),
    "clipped": Reading(D, constants=Constants("bounds", ((-0.1, 0.1),)), clip=True),
    "cosines": Reading(D, cosines=Cosines(5, 0.7, 3)),
    "fewer": Reading(D, cosines=Cosines(1, 0.7, 3)),
    "wide": Reading(D, constants=BOUNDS, cosines=Cosines(64, 0.7, 3)),
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blocks have from 4 to 64 rows."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 64 * 8)
    monkeypatch.setattr(blocks, "_LEAST", 4)


def in_shards(folder: Path) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    for i, (start, stop) in enumerate([(0, 7), (7, 150), (150, 151), (151, N)]):
        part = slice(start, stop)
        columns = {"id": IDS[part], "a": X[part, 0], "b": X[part, 1], "c": X[part, 2], "y": Y[part]}
        parquet.write_table(pa.table(columns), folder / f"{i}.parquet", row_group_size=50)
    return folder


@pytest.mark.parametrize("way", READINGS)
def test_blocks_are_those_of_the_mapped_array(tmp_path, way):
    reading = READINGS[way]
    whole = open_records(X if way == "plain" else reading.mapped(X), target=Y, ids=IDS)
    tables = [
        open_records(X, target=Y, ids=IDS),
        open_records(in_shards(tmp_path / "shards"), target_column="y", id_column="id"),
    ]
    for table in tables:
        mapped = MappedRecords(table, reading)
        assert (mapped.n_records, mapped.n_features, mapped.n_blocks) == (N, reading.width, whole.n_blocks)
        assert mapped.dtype == whole.dtype
        for records in (mapped, pickle.loads(pickle.dumps(mapped))):
            for found, wanted in zip(records.blocks(), whole.blocks(), strict=True):
                assert found.start == wanted.start
                assert found.X.dtype == wanted.X.dtype
                assert np.array_equal(found.X, wanted.X)
                assert np.array_equal(found.y, wanted.y)
                assert np.array_equal(found.ids, wanted.ids)
        assert mapped.targets().tolist() == Y.tolist()
    assert mapped.feature_names == (None if reading.cosines else ("a", "b", "c"))
    assert MappedRecords(tables[0], reading).feature_names is None
    assert (mapped.records, mapped.reading) == (tables[1], reading)


@given(st.sampled_from(sorted(READINGS)), st.data())
def test_any_range_of_blocks_is_read_alone(way, data):
    reading = READINGS[way]
    mapped = MappedRecords(open_records(X, target=Y), reading)
    values = X if way == "plain" else reading.mapped(X)
    start = data.draw(st.integers(0, mapped.n_blocks))
    stop = data.draw(st.integers(start, mapped.n_blocks))
    found = list(mapped.blocks(start=start, stop=stop))
    assert [block.start for block in found] == [number * mapped.block_rows for number in range(start, stop)]
    for block in found:
        assert np.array_equal(block.X, values[block.start : block.start + len(block)])
        assert len(block) == min(mapped.block_rows, N - block.start)


@given(st.integers(1, 40), st.integers(1, 300), st.data())
def test_cosines_of_a_row_have_the_same_bits_in_any_company(d, m, data):
    rows = np.random.default_rng(d).normal(size=(600, d))
    whole = random_cosine_features(rows, n_features=m, scale=0.3, seed=1)
    start = data.draw(st.integers(0, 599))
    stop = data.draw(st.integers(start + 1, 600))
    assert np.array_equal(random_cosine_features(rows[start:stop], n_features=m, scale=0.3, seed=1), whole[start:stop])


@pytest.mark.parametrize(("d", "m"), [(15, 290), (40, 193), (40, 211), (100, 301), (5, 1025), (3, 2)])
def test_they_have_them_at_any_place_where_columns_are_left_over(d, m):
    rows = np.random.default_rng(d).normal(size=(300, d))
    whole = random_cosine_features(rows, n_features=m, scale=0.3, seed=1)
    for turn in (1, 3, 100):
        turned = random_cosine_features(np.roll(rows, turn, 0), n_features=m, scale=0.3, seed=1)
        assert np.array_equal(turned, np.roll(whole, turn, 0))


def test_targets_are_read_as_asked():
    floats = Y.astype(np.float64)
    table = open_records(X, target=floats)
    assert MappedRecords(table, Reading(D)).targets().dtype == np.float64
    labels = MappedRecords(table, Reading(D), targets="labels").targets()
    assert (labels.dtype, labels.tolist()) == (np.int64, Y.tolist())
    numbers = MappedRecords(open_records(X, target=Y), Reading(D), targets="numbers").targets()
    assert (numbers.dtype, numbers.tolist()) == (np.float64, Y.tolist())
    words = open_records(X, target=IDS)
    assert MappedRecords(words, Reading(D), targets="labels").targets().tolist() == IDS.tolist()
    with pytest.raises(ValueError, match=r"row 0 must hold a number as target, got 'C-0'"):
        MappedRecords(words, Reading(D), targets="numbers").targets()
    floats[77] = 0.5
    with pytest.raises(ValueError, match=r"row 77 must hold a class, a whole number .* got 0\.5"):
        MappedRecords(table, Reading(D), targets="labels").targets()
    floats[77] = 2.0**53
    assert MappedRecords(table, Reading(D), targets="labels").targets()[77] == 2**53
    floats[77] = 2.0**54
    with pytest.raises(ValueError, match=r"row 77 must hold a class, a whole number .* got 1\.80"):
        MappedRecords(table, Reading(D), targets="labels").targets()
    two = open_records(X, target=np.column_stack([floats, floats]))
    with pytest.raises(ValueError, match="row 0 must hold a class"):
        MappedRecords(two, Reading(D), targets="labels").targets()


def test_a_value_outside_its_bounds_is_named_by_its_place(tmp_path):
    reading = Reading(D, constants=Constants("bounds", ((-1.0, 1.0), (-0.85, 0.85), (-1.0, 1.0))))
    row = int(np.argmax(np.abs(X[:, 1]) > 0.85))
    table = open_records(in_shards(tmp_path / "shards"), target_column="y", id_column="id")
    with pytest.raises(ValueError, match=rf"{table.place(row)} must lie within its bounds, .* of feature b: widen"):
        list(MappedRecords(table, reading).blocks())
    with pytest.raises(ValueError, match=rf"row {row} must lie within its bounds, .* of feature 1: widen"):
        list(MappedRecords(open_records(X), reading).blocks())


def test_what_does_not_fit_is_refused_before_a_row_is_read():
    table = open_records(X)
    with pytest.raises(ValueError, match="records must have 4 features, got 3"):
        MappedRecords(table, Reading(4))
    with pytest.raises(TypeError, match=r"records must be a table, .* got ndarray"):
        MappedRecords(X, Reading(D))
    with pytest.raises(ValueError, match="targets must be one of"):
        MappedRecords(table, Reading(D), targets="words")
    kept_apart = Reading(D, constants=BOUNDS.sealed(n_features=D))
    with pytest.raises(ValueError, match="bounds was computed from the data of fit and is not kept"):
        MappedRecords(table, kept_apart)
    other = Constants("bounds", ((-1.0, 1.5), (-2.0, 2.0), (-0.9, 3.0)))
    with pytest.raises(ValueError, match="bounds must be that of the fit"):
        MappedRecords(table, kept_apart, constants=other)
    found = next(MappedRecords(table, kept_apart, constants=BOUNDS).blocks()).X
    assert np.array_equal(found, READINGS["bounds"].mapped(X)[: len(found)])
