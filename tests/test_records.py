"""Tables of records in row blocks: the same blocks from every source, and nothing read that is no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data import ArrayRecords, Records, open_records, rows_per_block

pa = pytest.importorskip("pyarrow")
RNG = np.random.default_rng(0)
N, P = 150, 2**16  # three blocks of 64 rows, the last one not full


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    return RNG.normal(size=(N, P)).astype(np.float32)


@given(st.integers(1, 10**7))
def test_blocks_have_the_power_of_two_nearest_to_32_mib(p: int) -> None:
    rows = rows_per_block(n_features=p)
    assert rows.bit_count() == 1
    assert 64 <= rows <= 2**18
    if 64 < rows < 2**18:
        assert all(abs(rows * p * 8 - 2**25) <= abs(other * p * 8 - 2**25) for other in (rows // 2, rows * 2))


def test_blocks_lie_at_fixed_places_and_are_not_copied(wide: np.ndarray) -> None:
    y = np.arange(N)
    records = ArrayRecords(wide, y, ids=[str(i) for i in range(N)])
    found = list(records.blocks())
    assert [(one.start, len(one)) for one in found] == [(0, 64), (64, 64), (128, 22)]
    assert records.n_blocks == 3
    assert len(records) == N
    for one in found:
        assert np.shares_memory(one.X, wide)
        assert np.shares_memory(one.y, y)
        assert not one.X.flags.writeable
        np.testing.assert_array_equal(one.X, wide[one.start : one.start + len(one)])
        assert one.ids.tolist() == [str(i) for i in range(one.start, one.start + len(one))]
    assert wide.flags.writeable
    (last,) = records.blocks(start=2)
    assert last.start == 128
    assert [one.start for one in records.blocks(stop=2)] == [0, 64]
    assert list(records.blocks(start=3)) == []


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (2, 1), (4, None)])
def test_blocks_that_do_not_exist_are_refused(wide: np.ndarray, start: int, stop: int | None) -> None:
    with pytest.raises(ValueError, match=r"within \[0, 3\] blocks"):
        ArrayRecords(wide).blocks(start=start, stop=stop)


SMALL = np.array([[1.5, -2.0], [0.25, 4.0], [3.0, 0.0]])


def frames(values: np.ndarray) -> dict[str, Any]:
    names = ["a", "b"]
    made = {
        "numpy": values,
        "fortran": np.asfortranarray(values),
        "swapped": values.astype(values.dtype.newbyteorder()),
        "strided": np.repeat(values, 2, axis=1)[:, ::2],
        "pandas": pd.DataFrame(values, columns=names),
        "pandas nullable": pd.DataFrame(values, columns=names).astype(f"Float{8 * values.itemsize}"),
        "arrow": pa.table({"a": values[:, 0], "b": values[:, 1]}),
        "arrow chunks": pa.concat_tables(
            [pa.table(dict(zip(names, part.T, strict=True))) for part in (values[:1], values[1:])]
        ),
        "arrow lists": pa.table({"x": pa.array(list(values), pa.list_(pa.from_numpy_dtype(values.dtype), 2))}),
        "arrow lists of any length": pa.table(
            {"x": pa.array(list(values), pa.list_(pa.from_numpy_dtype(values.dtype)))}
        ),
    }
    try:
        import polars
    except ImportError:
        return made
    return {**made, "polars": polars.DataFrame({"a": values[:, 0], "b": values[:, 1]})}


@pytest.mark.parametrize("name", sorted(frames(SMALL)))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_library_gives_the_same_blocks(name: str, dtype: Any) -> None:
    values = SMALL.astype(dtype)
    records = open_records(frames(values)[name], target=[1, 0, 1], ids=["u", "v", "w"])
    (block,) = records.blocks()
    assert block.X.dtype == records.dtype == dtype
    assert block.X.flags.c_contiguous
    np.testing.assert_array_equal(block.X, values)
    assert block.y.tolist() == [1, 0, 1]
    assert block.y.dtype == np.int64
    assert block.ids.tolist() == ["u", "v", "w"]
    tabular = name.startswith(("pandas", "polars", "arrow")) and "lists" not in name
    assert records.feature_names == (("a", "b") if tabular else None)


@pytest.mark.parametrize(
    ("kind", "needed"),
    [("float16", "float32"), ("int16", "float32"), ("bool", "float32"), ("int32", "float64"), ("uint64", "float64")],
)
def test_numbers_are_read_in_a_type_that_holds_them(kind: str, needed: str) -> None:
    values = np.array([[1, 0], [0, 1]]).astype(kind)
    for source in (values, pd.DataFrame(values), pa.table({"a": values[:, 0], "b": values[:, 1]})):
        records = open_records(source)
        assert records.dtype == needed
        np.testing.assert_array_equal(next(records.blocks()).X, values.astype(needed))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", sorted(frames(SMALL)))
def test_what_is_not_finite_is_named_by_its_row(name: str, bad: float) -> None:
    values = SMALL.copy()
    values[1, 1] = bad
    records = open_records(frames(values)[name])
    with pytest.raises(ValueError, match=r"row 1, feature 1.*must be a finite number"):
        list(records.blocks())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_whose_sum_is_too_large_are_finite(dtype: Any) -> None:
    huge = np.full((2, 3), np.finfo(dtype).max, dtype=dtype)
    huge[1] = [np.finfo(dtype).max, -np.finfo(dtype).max, 1]
    np.testing.assert_array_equal(next(open_records(huge).blocks()).X, huge)


def test_missing_numbers_and_short_lists_are_named() -> None:
    with pytest.raises(ValueError, match=r"row 1, feature 0 \('a'\) must be a finite number.*missing"):
        list(open_records(pa.table({"a": [1.0, None]})).blocks())
    with pytest.raises(ValueError, match="row 1: 1 features where 2 features are needed"):
        list(open_records(pa.table({"a": [[1.0, 2.0], [3.0]]})).blocks())
    with pytest.raises(ValueError, match="row 1: no list where 2 features are needed"):
        list(open_records(pa.table({"a": [[1.0, 2.0], None]})).blocks())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"source": np.eye(2), "target": [1]}, ValueError, "y must have one entry for each of 2 records, got 1"),
        ({"source": np.eye(2), "ids": [1]}, ValueError, "ids must have one entry for each of 2 records, got 1"),
        ({"source": np.eye(2), "ids": [1.0, 2.0]}, TypeError, "ids must be"),
        ({"source": np.eye(2), "target": [1.0, np.nan]}, ValueError, "y: target 1 must be finite"),
        ({"source": np.eye(2), "target": ["a", None]}, TypeError, "y must hold numbers, or text and nothing else"),
        ({"source": np.empty((0, 2))}, ValueError, "at least one record"),
        ({"source": np.ones(3)}, ValueError, "2 dimensions"),
        ({"source": np.array([["a"]])}, TypeError, "X must hold real numbers"),
        ({"source": pd.DataFrame({"a": ["x"]})}, TypeError, "column 'a'"),
        ({"source": pa.table({"a": ["x"]})}, TypeError, "column 'a' of string"),
        ({"source": pd.DataFrame({"a": [1.0]}, index=["ann"])}, ValueError, r"pass ids=X.index.to_numpy\(\)"),
        (
            {"source": pd.DataFrame({"a": [1.0, 2.0]}), "target": pd.Series([1, 2], index=[1, 0])},
            ValueError,
            "y must have the index of X",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_records(**arguments)


def test_large_ids_and_texts_stay_as_they_are() -> None:
    big = [2**63 + 1, 2**53 + 1]
    assert next(open_records(np.eye(2), ids=big).blocks()).ids.tolist() == big
    assert next(open_records(np.eye(2), ids=pd.Series(["a", "b"])).blocks()).ids.tolist() == ["a", "b"]
    assert next(open_records(np.eye(2), ids=pa.array([7, 8])).blocks()).ids.tolist() == [7, 8]
    labels = next(open_records(np.eye(2), target=pd.Series(["yes", "no"])).blocks()).y
    assert labels.tolist() == ["yes", "no"]


def test_a_table_of_records_is_its_own() -> None:
    records = open_records(np.eye(2))
    assert open_records(records) is records
    assert isinstance(records, Records)
    with pytest.raises(TypeError, match="which has its own"):
        open_records(records, target=[1, 2])
