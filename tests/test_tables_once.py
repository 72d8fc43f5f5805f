"""Tables are read and written, and proxies of privacy losses defined, in one place each."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from expunge.data import load
from expunge.data.writing import csv_bytes, parquet_bytes
from expunge.grad_norms.proxies import PROXY_TITLES, early_checkpoint, proxies_of
from test_surface import SOURCES

CELLS = st.one_of(
    st.integers(-(10**6), 10**6), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
)


def files_with(pattern: str) -> set[str]:
    return {
        str(path.relative_to(SOURCES).as_posix())
        for path in SOURCES.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }


def test_tables_have_one_writer_and_one_reader() -> None:
    # A scoring run, and who leaves rows out of a table, write block by block: their tables need not fit in memory.
    writers = {"data/writing.py", "data/rewriting.py", "scoring/parts.py"}
    assert files_with(r"csv\.writer|\.write_table\(|ParquetWriter\(") == writers
    assert files_with(r"ParquetFile\(") == {"data/parquet.py"}
    assert files_with(r"ipc\.open_file\(|\.fromfile\(") == {"data/shards.py", "data/rewriting.py"}
    assert files_with(r"list_flatten\(") == {"data/arrow.py"}
    # Archives of the library's own are held to more: a version, a size, a digest.
    assert files_with("read_array_header") == {"data/arrays.py", "_files/archive.py"}


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=5))
def test_what_is_written_as_csv_is_read_as_it_was(rows: list[list[int | str]]) -> None:
    text = csv_bytes(["a", "b, c"], rows).decode()
    found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert found == [["a", "b, c"], *([str(cell) for cell in row] for row in rows)]


def test_what_is_written_as_parquet_is_read_as_it_was(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"x": np.array([0.5, 2.0]), "name": np.array(["a", "b"]), "y": [3, 4]}
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes(columns, metadata={"status": "estimate"}, what="this"))
    data = load(path, id_column="name")
    assert data.feature_names == ("x",)
    assert data.X[:, 0].tolist() == [0.5, 2.0]
    assert np.asarray(data.y).tolist() == [3, 4]
    assert np.asarray(data.y).dtype == np.int64
    assert np.asarray(data.ids).tolist() == ["a", "b"]
    assert parquet.read_schema(path).metadata == {b"status": b"estimate"}


@given(arrays(np.float64, (4, 3), elements=st.floats(0, 1e6)), st.integers(0, 2), st.data())
def test_proxies_are_what_their_papers_say(norms: np.ndarray, early: int, data: st.DataObject) -> None:
    own = data.draw(arrays(np.float32, (4, 3), elements=st.floats(0, 1, width=32)))
    residuals = data.draw(arrays(np.float32, (4,), elements=st.floats(0, 2, width=32)))
    found = proxies_of(norms, early=early, residual_norms=residuals, own_probabilities=own, losses=own[:, 0])
    assert list(found) == list(PROXY_TITLES)
    for i in range(4):
        assert found["average_grad_norm"][i] == pytest.approx(sum(norms[i]) / 3, rel=1e-12)
        assert found["grand"][i] == norms[i, early]
        assert found["el2n"][i] == residuals[i]
        assert found["c_proxy"][i] == pytest.approx(sum(map(float, own[i])) / 3, rel=1e-12)
        assert found["loss"][i] == own[i, 0]
    assert all(value.dtype == np.float64 for value in found.values())
    mean = proxies_of(norms, early=early, own_probabilities=own.mean(axis=1, dtype=np.float64))
    assert list(mean) == ["average_grad_norm", "c_proxy", "grand"]
    np.testing.assert_array_equal(mean["c_proxy"], found["c_proxy"])


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8, unique=True))
def test_the_early_checkpoint_is_the_one_nearest_a_tenth(steps: list[int]) -> None:
    distances = [abs(step - 100.0) for step in steps]
    assert early_checkpoint(steps, n_steps=1000) == distances.index(min(distances))
