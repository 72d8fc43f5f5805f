"""Tables of records in files: the same blocks from any number of shards, and every shard that changed is named."""

from __future__ import annotations

import os
import pickle
import re
import sys
import threading
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import expunge.data.blocks
from expunge.data import FileRecords, open_records
from expunge.data.ahead import streams_ahead
from expunge.data.shards import ParquetShard

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)
N, P, B = 100, 3, 16
X = RNG.normal(size=(N, P)).astype(np.float32)
Y = RNG.integers(0, 3, N)
IDS = RNG.permutation(N) + 2**40
SPLITS = {1: [], 2: [37], 7: [1, 9, 20, 52, 53, 90]}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunge.data.blocks, "rows_per_block", lambda *, n_features: B)


def table(part: slice, kind: str) -> Any:
    rows = X[part]
    if kind == "scalar":
        features = {f"f{j}": rows[:, j] for j in range(P)}
    elif kind == "fixed":
        features = {"x": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), P)}
    else:
        features = {"x": pa.array(list(rows), pa.list_(pa.float32()))}
    return pa.table({**features, "label": Y[part], "who": IDS[part]})


def write_parquet(path: Path, part: slice, kind: str = "fixed", group: int = 23) -> None:
    pq.write_table(table(part, kind), path, row_group_size=group)


def write_arrow(path: Path, part: slice, kind: str = "fixed") -> None:
    made = table(part, kind)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, made.schema) as writer:
        writer.write_table(made, max_chunksize=11)


def parts(n: int) -> list[slice]:
    edges = [0, *SPLITS[n], N]
    return [slice(a, b) for a, b in pairwise(edges)]


NAMED = {"target_column": "label", "id_column": "who"}


def written(folder: Path, n: int, form: str) -> FileRecords:
    """Return the records written as so many shards of a form."""
    name, _, kind = form.partition(" ")
    if name == "npy":
        for one in ("x", "y", "ids"):
            (folder / one).mkdir()
        for i, part in enumerate(parts(n)):
            for one, values in (("x", X), ("y", Y), ("ids", IDS)):
                np.save(folder / one / f"{i}.npy", values[part])
        if kind == "whole":
            np.save(folder / "all_y.npy", Y)
            np.save(folder / "all_ids.npy", IDS)
            return FileRecords(folder / "x", target=folder / "all_y.npy", ids=folder / "all_ids.npy")
        return FileRecords(folder / "x", target=folder / "y", ids=folder / "ids")
    for i, part in enumerate(parts(n)):
        if name == "arrow":
            write_arrow(folder / f"{i}.arrow", part, kind)
        elif kind == "large":
            write_parquet(folder / f"{i}.parquet", part, "scalar", group=N)
        else:
            write_parquet(folder / f"{i}.parquet", part, kind)
    return FileRecords(folder, **NAMED)


FORMS = [
    "parquet fixed",
    "parquet list",
    "parquet scalar",
    "parquet large",
    "arrow fixed",
    "arrow list",
    "npy",
    "npy whole",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", SPLITS)
def test_blocks_are_the_same_for_any_number_of_shards(tmp_path: Path, form: str, n: int) -> None:
    records = written(tmp_path, n, form)
    assert (records.n_records, records.n_features, records.dtype) == (N, P, np.float32)
    assert records.has_targets
    assert records.has_ids
    assert records.feature_names == (("f0", "f1", "f2") if form in ("parquet scalar", "parquet large") else None)
    assert len(records.files) == n
    records = pickle.loads(pickle.dumps(records))
    for threads in (None, 1, 5):
        found = list(records.blocks(threads=threads))
        assert [(one.start, len(one)) for one in found] == [(a, min(B, N - a)) for a in range(0, N, B)]
        for one in found:
            rows = slice(one.start, one.start + len(one))
            assert one.X.dtype == np.float32
            assert one.X.flags.c_contiguous
            np.testing.assert_array_equal(one.X, X[rows])
            np.testing.assert_array_equal(one.y, Y[rows])
            np.testing.assert_array_equal(one.ids, IDS[rows])
            assert (one.y.dtype, one.ids.dtype) == (np.int64, np.int64)
    some = list(records.blocks(start=2, stop=5, threads=2))
    assert [one.start for one in some] == [32, 48, 64]
    np.testing.assert_array_equal(np.concatenate([one.X for one in some]), X[32:80])
    assert [one.start for one in records.blocks(start=6)] == [96]


def test_a_reader_that_stops_early_ends_its_threads(tmp_path: Path) -> None:
    records = written(tmp_path, 7, "parquet fixed")
    before = threading.active_count()
    for one in records.blocks(threads=4):
        assert one.start == 0
        break
    blocks = records.blocks(threads=4)
    next(blocks)
    blocks.close()
    assert threading.active_count() == before


def test_streams_ahead_are_bounded_and_raise_in_their_place() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def stream(i: int) -> Callable[[], Any]:
        def run() -> Any:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            for j in range(4):
                yield i, j
            if i == 5:
                raise OSError("broken")
            with lock:
                running[0] -= 1

        return run

    found = []

    def collect() -> None:
        for one in streams_ahead([stream(i) for i in range(9)], threads=3):
            found.extend(one)

    with pytest.raises(OSError, match="broken"):
        collect()
    assert found == [(i, j) for i in range(6) for j in range(4)]
    assert most[0] <= 3
    # What a reader leaves unread does not hold up the next stream.
    assert [next(iter(one)) for one in streams_ahead([stream(i) for i in range(3)], threads=1)] == [
        (0, 0),
        (1, 0),
        (2, 0),
    ]


# --- columns -----------------------------------------------------------------------------------------


def shard(folder: Path, name: str, **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def test_integers_of_all_widths_are_promoted(tmp_path: Path) -> None:
    shard(tmp_path, "a", x=np.array([1, 2], np.int16), y=np.array([1, 0], np.int8), i=np.array([5, 6], np.int32))
    shard(tmp_path, "b", x=np.array([0.5], np.float32), y=np.array([7], np.int64), i=np.array([2**63 + 5], np.uint64))
    (block,) = open_records(tmp_path, target_column="y", id_column="i").blocks()
    assert (block.X.dtype, block.y.dtype) == (np.float32, np.int64)
    assert block.X[:, 0].tolist() == [1, 2, 0.5]
    assert block.ids.tolist() == [5, 6, 2**63 + 5]
    shard(tmp_path, "c", x=np.array([2**30], np.int32), y=np.array([0.5]), i=np.array([1]))
    records = open_records(tmp_path, target_column="y", id_column="i")
    (block,) = records.blocks()
    assert (records.dtype, block.y.dtype) == (np.float64, np.float64)
    assert block.X[:, 0].tolist() == [1, 2, 0.5, 2**30]
    assert block.y.tolist() == [1, 0, 7, 0.5]


def test_text_labels_ids_categories_and_booleans(tmp_path: Path) -> None:
    shard(tmp_path, "a", x=[True, False], y=pa.array(["no", "yes"]).dictionary_encode(), i=["ann", "bob"])
    shard(tmp_path, "b", x=[True], y=["perhaps"], i=pa.array(["cyd"], pa.large_string()))
    (block,) = open_records(tmp_path, target_column="y", id_column=-1).blocks()
    assert block.X[:, 0].tolist() == [1, 0, 1]
    assert block.y.tolist() == ["no", "yes", "perhaps"]
    assert block.ids.tolist() == ["ann", "bob", "cyd"]


def test_several_targets_a_row(tmp_path: Path) -> None:
    shard(tmp_path, "a", x=[1.0, 2.0], y=pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2)))
    (block,) = open_records(tmp_path, target_column="y").blocks()
    assert block.y.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_columns_may_lie_in_another_order_and_are_chosen_as_for_load(tmp_path: Path) -> None:
    shard(tmp_path, "a", a=[1.0], b=[2.0], y=[0])
    shard(tmp_path, "b", y=[1], b=[4.0], a=[3.0])
    records = open_records(tmp_path, target_column="y")
    assert records.feature_names == ("a", "b")
    assert next(records.blocks()).X.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert next(open_records(tmp_path, features=["b", "a"]).blocks()).X.tolist() == [[2.0, 1.0], [4.0, 3.0]]
    assert open_records(tmp_path, drop=["y", "a"]).feature_names == ("b",)
    assert not open_records(tmp_path, drop=["y"]).has_targets


def test_the_index_of_pandas_is_no_feature(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.0, 2.0]}, index=pandas.Index([7, 9], name="who"))
    frame.to_parquet(tmp_path / "a.parquet")
    assert open_records(tmp_path / "a.parquet").feature_names == ("x",)
    assert next(open_records(tmp_path / "a.parquet", id_column="who").blocks()).ids.tolist() == [7, 9]


def test_hive_folders_name_columns(tmp_path: Path) -> None:
    for year, rows in (("2025", [1.0, 2.0]), ("2026", [3.0])):
        shard(tmp_path / f"year={year}", "part", x=rows)
    records = open_records(tmp_path)
    assert records.feature_names == ("x",)
    (block,) = open_records(tmp_path, features=["x"], target_column="year").blocks()
    assert block.X[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert block.y.tolist() == [2025, 2025, 2026]
    assert next(open_records(tmp_path, features=["year", "x"]).blocks()).X.tolist() == [[2025, 1], [2025, 2], [2026, 3]]
    shard(tmp_path / "year=__HIVE_DEFAULT_PARTITION__", "part", x=[1.0])
    with pytest.raises(ValueError, match="its folder names no value"):
        open_records(tmp_path)


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"x": [1.0], "z": [1.0], "y": [1], "i": [3]}, ValueError, r"b\.parquet must have the columns of .*: it has z"),
        ({"y": [1], "i": [3]}, ValueError, r"b\.parquet must have the column 'x'"),
        ({"x": ["s"], "y": [1], "i": [3]}, TypeError, r"b\.parquet: column 'x' must hold real numbers, got string"),
        ({"x": [1.0], "y": ["s"], "i": [3]}, TypeError, r"column 'y' must hold text or numbers in all.* in .*b\.pa"),
        ({"x": [1.0], "y": [1], "i": ["s"]}, TypeError, r"ids in column 'i' must be of one kind in all shards"),
        ({"x": [1.0], "y": [1], "i": [0.5]}, TypeError, r"b\.parquet: column 'i' must hold ids"),
        ({"x": [[1.0]], "y": [1], "i": [3]}, ValueError, r"b\.parquet: column 'x' is of list"),
        ({"x": [1.0], "y": [[1.0], ], "i": [[3]]}, TypeError, r"column 'i' must hold ids"),
    ],
)  # fmt: skip
def test_a_shard_that_does_not_fit_is_named_before_work_starts(
    tmp_path: Path, columns: Any, error: type[Exception], words: str
) -> None:
    shard(tmp_path, "a", x=[1.0], y=[1], i=[3])
    shard(tmp_path, "b", **columns)
    with pytest.raises(error, match=words):
        open_records(tmp_path, target_column="y", id_column="i")


def test_lists_of_other_lengths_are_named(tmp_path: Path) -> None:
    shard(tmp_path, "a", x=pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2)))
    shard(tmp_path, "b", x=pa.array([[1.0]], pa.list_(pa.float64(), 1)))
    with pytest.raises(ValueError, match=r"b\.parquet must have 2 features a row, as .*a\.parquet has, got 1"):
        open_records(tmp_path)
    shard(tmp_path, "b", x=[[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match=r"b\.parquet, row 1: 1 features where 2 features are needed"):
        list(open_records(tmp_path).blocks())
    with pytest.raises(ValueError, match="one list column or many scalar ones"):
        open_records(shard(tmp_path / "c", "a", x=[[1.0]], z=[1.0]))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1.0, None]}, r"b\.parquet, row 1, feature 0 \('x'\) must be a finite number.*missing"),
        ({"x": [np.inf, 1.0]}, r"b\.parquet, row 0, feature 0"),
        ({"y": [1, None]}, r"b\.parquet, column 'y', row 1 must hold a label or target, got nothing"),
        ({"i": [None, 4]}, r"b\.parquet, column 'i', row 0 must hold an id, got nothing"),
    ],
)
def test_what_is_missing_is_named_by_file_and_row(tmp_path: Path, columns: Any, words: str) -> None:
    whole = {"x": [1.0, 2.0], "y": [1, 2], "i": [3, 4]}
    shard(tmp_path, "a", **whole)
    shard(tmp_path, "b", **{**whole, **columns})
    records = open_records(tmp_path, target_column="y", id_column="i")
    with pytest.raises(ValueError, match=words):
        list(records.blocks())


def test_targets_that_are_not_finite_or_empty_are_named(tmp_path: Path) -> None:
    shard(tmp_path, "a", x=[1.0, 2.0], y=[1.0, np.nan])
    with pytest.raises(ValueError, match=r"a\.parquet, column 'y', row 1 must hold finite targets"):
        list(open_records(tmp_path, target_column="y").blocks())
    shard(tmp_path, "a", x=[1.0, 2.0], y=["a", " "])
    with pytest.raises(ValueError, match=r"a\.parquet, column 'y', row 1 must hold a label, got empty"):
        list(open_records(tmp_path, target_column="y").blocks())


# --- files that change -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet fixed", "arrow fixed", "npy"])
def test_a_shard_that_changed_between_passes_is_named(tmp_path: Path, form: str) -> None:
    records = written(tmp_path, 2, form)
    list(records.blocks())
    path = Path(records.files[1])
    data, times = path.read_bytes(), path.stat()

    def refused(words: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=f"{path.name}.*{words}"):
            list(records.blocks())

    path.write_bytes(data + b"?")
    refused("has changed since the table was opened")
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    refused("has been written to since the table was opened")
    # The same size and time, other words in the header or footer.
    at = 9 if form == "npy" else len(data) - 12
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    refused("")
    path.unlink()
    refused("is missing")
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sum(len(one) for one in records.blocks()) == N


@pytest.mark.parametrize("form", ["parquet large", "npy"])
def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path, form: str) -> None:
    records = written(tmp_path, 1, form)
    blocks = records.blocks(threads=1)
    next(blocks)
    path = Path(records.files[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ValueError, match=path.name):
        list(blocks)


def test_a_group_that_gives_fewer_rows_than_its_footer_promises_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = written(tmp_path, 1, "parquet fixed")
    whole = ParquetShard._tables

    def fewer(self: ParquetShard, *arguments: Any) -> Any:
        for one in whole(self, *arguments):
            yield one.slice(0, one.num_rows - 1)

    monkeypatch.setattr(ParquetShard, "_tables", fewer)
    with pytest.raises(ValueError, match=r"0\.parquet gave 22 rows of group 0 where 23 were promised"):
        list(records.blocks())


@pytest.mark.parametrize("form", ["parquet fixed", "arrow fixed", "npy"])
def test_truncated_shards_are_named_when_the_table_is_opened(tmp_path: Path, form: str) -> None:
    records = written(tmp_path, 2, form)
    path = Path(records.files[1])
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=path.name):
            written_again(tmp_path, form)


def written_again(folder: Path, form: str) -> FileRecords:
    return FileRecords(folder / "x") if form == "npy" else FileRecords(folder, **NAMED)


def test_folders_and_names_that_are_no_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_records(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="none of these"):
        open_records(tmp_path)
    shard(tmp_path, "a", x=[1.0])
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part.parquet.crc").touch()
    assert len(open_records(tmp_path)) == 1
    (tmp_path / "more").mkdir()
    with pytest.raises(ValueError, match=r"not a \.parquet shard: more; move it away"):
        open_records(tmp_path)
    (tmp_path / "more").rmdir()
    np.save(tmp_path / "b.npy", X)
    with pytest.raises(ValueError, match=r"files of \.npy and of \.parquet"):
        open_records(tmp_path)
    with pytest.raises(ValueError, match="must be a file or a folder of"):
        open_records(tmp_path / "_SUCCESS")
    with pytest.raises(ValueError, match="holds no records"):
        open_records(shard(tmp_path / "empty", "a", x=pa.array([], pa.float64())))


def test_labels_of_npy_files_must_be_theirs(tmp_path: Path) -> None:
    written(tmp_path, 2, "npy")
    np.save(tmp_path / "short.npy", Y[:5])
    with pytest.raises(ValueError, match=r"short\.npy must have 100 rows, as the features have, got shape \(5,\)"):
        open_records(tmp_path / "x", target=tmp_path / "short.npy")
    (tmp_path / "y" / "1.npy").rename(tmp_path / "y" / "2.npy")
    with pytest.raises(ValueError, match="one file of the same name for each shard"):
        open_records(tmp_path / "x", target=tmp_path / "y")
    np.save(tmp_path / "f.npy", np.full(N, 0.5))
    with pytest.raises(TypeError, match=r"f\.npy must hold one column of ids"):
        open_records(tmp_path / "x", ids=tmp_path / "f.npy")
    with pytest.raises(ValueError, match="has no named columns"):
        open_records(tmp_path / "x", target_column="y")
    np.save(tmp_path / "flat.npy", Y)
    with pytest.raises(ValueError, match="2 dimensions"):
        open_records(tmp_path / "flat.npy")


def test_arguments_of_the_one_door(tmp_path: Path) -> None:
    shard(tmp_path, "a", x=[1.0], y=[1])
    with pytest.raises(ValueError, match="has columns: name them"):
        open_records(tmp_path, target=tmp_path / "y.npy")
    with pytest.raises(TypeError, match=r"target of files must be the name of a \.npy file, or a column"):
        open_records(tmp_path, target=[1])
    with pytest.raises(TypeError, match="are for files"):
        open_records(X, target_column="y")
    with pytest.raises(ValueError, match=r"a\.parquet: target_column: there is no column 'z'"):
        open_records(tmp_path, target_column="z")


# --- file systems ----------------------------------------------------------------------------------


def remote(tmp_path: Path, form: str) -> tuple[Any, FileRecords]:
    """Return a file system of pyarrow that is not the local one, with shards in its folder ``t``."""
    fs = pytest.importorskip("pyarrow.fs")
    written(tmp_path, 7, form)
    system = fs._MockFileSystem()
    system.create_dir("t")
    for path in sorted((tmp_path / "x" if form == "npy" else tmp_path).iterdir()):
        with system.open_output_stream(f"t/{path.name}") as out:
            out.write(path.read_bytes())
    return system, FileRecords("t", filesystem=system, **({} if form == "npy" else NAMED))


@pytest.mark.parametrize("form", ["parquet fixed", "arrow fixed", "npy"])
def test_any_file_system_of_pyarrow_is_read(tmp_path: Path, form: str) -> None:
    system, records = remote(tmp_path, form)
    np.testing.assert_array_equal(np.concatenate([one.X for one in records.blocks()]), X)
    system.delete_file(records.files[3])
    with pytest.raises(FileNotFoundError, match="is missing"):
        list(records.blocks())


def test_addresses_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, 2, "parquet fixed")
    records = open_records(tmp_path.as_uri(), **NAMED)
    np.testing.assert_array_equal(np.concatenate([one.X for one in records.blocks()]), X)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ImportError, match="needs fsspec"):
        open_records("other://bucket/folder")
    # fsspec as far as pyarrow uses it.
    asked = []

    class Local:
        protocol = "other"

        def info(self, path: str) -> dict[str, Any]:
            place = Path(path)
            if not place.exists():
                raise FileNotFoundError(path)
            kind = "directory" if place.is_dir() else "file"
            return {"name": path, "size": place.stat().st_size, "type": kind, "mtime": place.stat().st_mtime}

        def isdir(self, path: str) -> bool:
            return Path(path).is_dir()

        def isfile(self, path: str) -> bool:
            return Path(path).is_file()

        def exists(self, path: str) -> bool:
            return Path(path).exists()

        def find(self, path: str, **_: Any) -> dict[str, Any]:
            return {str(one): self.info(str(one)) for one in sorted(Path(path).rglob("*"))}

        def open(self, path: str, mode: str = "rb") -> Any:
            asked.append(path)
            return open(path, mode)

    def url_to_fs(url: str) -> tuple[Any, str]:
        return Local(), url.removeprefix("other://")

    core = types.ModuleType("fsspec.core")
    core.url_to_fs = url_to_fs  # type: ignore[attr-defined]
    whole = types.ModuleType("fsspec")
    whole.core = core  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fsspec", whole)
    monkeypatch.setitem(sys.modules, "fsspec.core", core)
    records = open_records(f"other://{tmp_path}", **NAMED)
    np.testing.assert_array_equal(np.concatenate([one.X for one in records.blocks()]), X)
    assert asked


def test_a_pattern_is_the_files_that_it_matches_in_order(tmp_path: Path) -> None:
    X = np.arange(12.0).reshape(6, 2)
    for year in (2025, 2026):
        folder = tmp_path / f"year={year}"
        folder.mkdir()
        for shard in range(2):
            start = 3 * (year - 2025) + 2 * shard
            rows = X[start : start + (2 if shard == 0 else 1)]
            table = pa.table({"a": rows[:, 0], "b": rows[:, 1]})
            pq.write_table(table, folder / f"part-{shard}.parquet")
    some = FileRecords(f"{tmp_path}/year=*/part-*.parquet", features=["a", "year"])
    found = np.concatenate([block.X for block in some.blocks()])
    assert found.tolist() == [[x, 2025.0 if i < 3 else 2026.0] for i, x in enumerate(X[:, 0].tolist())]
    assert some.in_folder
    last = FileRecords(f"{tmp_path}/year=2026/part-[1].parquet")
    assert [Path(name).name for name in last.files] == ["part-1.parquet"]
    with pytest.raises(FileNotFoundError, match=r"there is no file .*part-\*\.csv"):
        FileRecords(f"{tmp_path}/year=2026/part-*.csv")
    with pytest.raises(ValueError, match=r"must be a pattern of files, got .*year=\*, which the folder .* matches"):
        FileRecords(f"{tmp_path}/year=*")
    (tmp_path / "odd[1].parquet").write_bytes((tmp_path / "year=2025" / "part-1.parquet").read_bytes())
    assert FileRecords(tmp_path / "odd[1].parquet").n_records == 1  # a name is a name


@pytest.mark.parametrize("kind", ["fixed_size_binary[8]", "binary"])
def test_bytes_are_no_features_as_they_do_not_say_which_numbers_they_are(tmp_path: Path, kind: str) -> None:
    rows = [np.float32([1, 2]).tobytes()] * 3
    column = pa.array(rows, type=pa.binary(8) if "8" in kind else pa.binary())
    pq.write_table(pa.table({"features": column, "y": [1, 2, 3]}), tmp_path / "x.parquet")
    with pytest.raises(TypeError, match=rf"'features' must hold real numbers, got {re.escape(kind)}: bytes do not say"):
        FileRecords(tmp_path / "x.parquet", target_column="y")
