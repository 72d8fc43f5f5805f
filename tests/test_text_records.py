"""Text tables as records: pieces of a file give what the whole of it gives, and a wrong cell is named by its line."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import expunge.data.blocks
import expunge.data.text_shard
from expunge.data import FileRecords, load, open_records
from expunge.data.rewriting import write_without

RNG = np.random.default_rng(0)
N, B = 60, 16


@pytest.fixture(autouse=True)
def small_blocks_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunge.data.blocks, "rows_per_block", lambda *, n_features: B)
    monkeypatch.setattr(expunge.data.text_shard, "_PIECE", 97)


def joined(records: Any) -> tuple[np.ndarray, Any, Any]:
    blocks = list(records.blocks())
    assert [one.start for one in blocks] == list(range(0, records.n_records, B))
    whole = [
        None if getattr(blocks[0], name) is None else np.concatenate([getattr(one, name) for one in blocks])
        for name in ("X", "y", "ids")
    ]
    return whole[0], whole[1], whole[2]


def written(path: Path, lines: list[str], *, end: str = "\n") -> Path:
    path.write_bytes((end.join(lines) + end).encode())
    return path


ROWS = [f"c-{i},{i / 7:.6f},{RNG.normal()!r},{'yes' if i % 3 else 'no'}" for i in range(N)]
HEADER = "who,a,b,bought"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_pieces_give_what_load_gives(tmp_path: Path, end: str, last: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes((end.join([HEADER, *ROWS]) + last).encode())
    expected = load(path, target_column="bought", id_column="who")
    records = pickle.loads(pickle.dumps(open_records(path, target_column="bought", id_column="who")))
    X, y, ids = joined(records)
    np.testing.assert_array_equal(X, expected.X)
    assert X.dtype == np.float64
    assert y.tolist() == list(expected.y)
    assert ids.tolist() == list(expected.ids)
    assert records.feature_names == expected.feature_names == ("a", "b")
    (some,) = records.blocks(start=2, stop=3, threads=3)
    np.testing.assert_array_equal(some.X, expected.X[32:48])


@pytest.mark.parametrize("cuts", [[], [20], [1, 2, 30, 31, 59]])
def test_shards_give_the_same_blocks(tmp_path: Path, cuts: list[int]) -> None:
    for i, part in enumerate(np.split(np.arange(N), cuts)):
        written(tmp_path / f"{i}.csv", [HEADER, *(ROWS[row] for row in part)])
    whole = tmp_path.parent / f"{tmp_path.name}.csv"
    expected = load(written(whole, [HEADER, *ROWS]), target_column="bought", id_column="who")
    X, y, ids = joined(open_records(tmp_path, target_column=-1, id_column=0))
    np.testing.assert_array_equal(X, expected.X)
    assert y.tolist() == list(expected.y)
    assert ids.tolist() == list(expected.ids)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", [1, 60, 95, 96, 97, 98, 400])
def test_blank_lines_before_the_header_are_no_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank: int, end: str, mark: bytes
) -> None:
    monkeypatch.setattr(expunge.data.text_shard, "_HEAD", 128)
    path = tmp_path / "t.csv"
    path.write_bytes(mark + (end * blank + end.join([HEADER, *ROWS]) + end).encode())
    records = open_records(path, target_column="bought", id_column="who")
    assert records.n_records == N
    X, y, ids = joined(records)
    expected = load(path, target_column="bought", id_column="who")
    np.testing.assert_array_equal(X, expected.X)
    assert y.tolist() == list(expected.y)
    assert ids.tolist() == list(expected.ids)
    write_without(records, np.arange(N) == 3, tmp_path / "u.csv")
    lines = (tmp_path / "u.csv").read_bytes().removeprefix(mark).decode().split(end)
    assert [line for line in lines if line] == [HEADER, *ROWS[:3], *ROWS[4:]]


def test_lines_that_end_in_carriage_returns_are_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(("\r".join([HEADER, *ROWS]) + "\r").encode())
    records = open_records(path, target_column="bought", id_column="who")
    X, _, ids = joined(records)
    expected = load(path, target_column="bought", id_column="who")
    np.testing.assert_array_equal(X, expected.X)
    assert ids.tolist() == list(expected.ids)
    with pytest.raises(ValueError, match="60 records are not lines of their own"):
        write_without(records, np.arange(N) == 3, tmp_path / "u.csv")
    assert sorted(one.name for one in tmp_path.iterdir() if not one.name.endswith(".lock")) == ["t.csv"]


def test_a_text_that_changes_while_it_is_looked_through_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "t.csv", [HEADER, *ROWS])
    real = expunge.data.text_shard.TextShard._cut

    def cut(self: Any) -> Any:
        yield from real(self)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(expunge.data.text_shard.TextShard, "_cut", cut)
    with pytest.raises(ValueError, match=r"t\.csv has (been written to|changed) since"):
        open_records(path, target_column="bought", id_column="who")


def test_a_file_of_blank_lines_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expunge.data.text_shard, "_HEAD", 128)
    (tmp_path / "t.csv").write_bytes(b"\n" * 1000)
    with pytest.raises(ValueError, match=r"t\.csv is empty"):
        open_records(tmp_path / "t.csv")


CELL = st.text(st.sampled_from('ab ,"\n;'), min_size=1, max_size=6).filter(lambda text: text.strip() == text)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, st.integers(-999, 999)), min_size=2, max_size=30), st.sampled_from(["\n", "\r\n"]))
def test_quotes_and_lines_within_cells_are_cut_nowhere(tmp_path: Path, rows: list[tuple[str, int]], end: str) -> None:
    quoted = ['"' + name.replace('"', '""') + f'",{number},{number / 4}' for name, number in rows]
    path = written(tmp_path / "t.csv", ["who,a,b", *quoted], end=end)
    X, _, ids = joined(open_records(path, id_column="who"))
    assert ids.tolist() == [name for name, _ in rows]
    assert X.tolist() == [[number, number / 4] for _, number in rows]


def test_a_table_may_announce_its_delimiter_and_have_no_header(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfsep=;\n" + b"\n".join(b"%d;1,5;%d" % (i, i % 2) for i in range(N)))
    records = open_records(path, target_column=2, decimal_comma=True, header=False)
    X, y, _ = joined(records)
    assert X.tolist() == [[i, 1.5] for i in range(N)]
    assert y.tolist() == [i % 2 for i in range(N)]
    assert y.dtype == np.int64
    assert records.feature_names is None
    tabs = written(tmp_path / "t.tsv", ["\t".join(["1", "2"])] * 3)
    assert joined(open_records(tabs, header=False))[0].shape == (3, 2)
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"a": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="header and decimal_comma are for text tables"):
        open_records(tmp_path / "t.parquet", header=True)


def test_kinds_of_targets_and_ids_are_those_of_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{i},{i}.5,{i if i < 50 else i + 0.5}" for i in range(N)]
    _, y, ids = joined(open_records(written(tmp_path / "a.csv", ["i,x,y", *rows]), target_column="y", id_column="i"))
    assert y.dtype == np.float64
    assert y[49:51].tolist() == [49.0, 50.5]
    assert ids.tolist() == list(range(N))
    mixed = [f"{i if i < 50 else f'p{i}'},1,{i % 2}" for i in range(N)]
    records = open_records(written(tmp_path / "b.csv", ["i,x,y", *mixed]), target_column="y", id_column="i")
    assert joined(records)[2].tolist() == [row.split(",")[0] for row in mixed]
    (tmp_path / "c").mkdir()
    written(tmp_path / "c" / "0.csv", ["i,x,y", *mixed[:20]])
    written(tmp_path / "c" / "1.csv", ["i,x,y", *mixed[20:]])
    assert joined(open_records(tmp_path / "c", target_column="y", id_column="i"))[2].tolist()[:2] == ["0", "1"]
    labels = [f"{i},1,{'a' if i > 50 else 1}" for i in range(N)]
    monkeypatch.setattr(expunge.data.text_shard, "_PIECE", 1)  # a line each
    with pytest.raises(TypeError, match=r"d\.csv: column 'y' must hold text or numbers, got both"):
        open_records(written(tmp_path / "d.csv", ["i,x,y", *labels]), target_column="y")


@pytest.mark.parametrize(
    ("row", "words", "late"),
    [
        ("c-9,1", r"line 42 has 2 cells, the first line has 4", False),
        ("c-9,nan,1,no", r"line 42, column 2 \('a'\) must be finite, got nan", True),
        ("c-9,,1,no", r"line 42, column 2 \('a'\) must hold a number, got nothing", True),
        ("c-9,x,1,no", r"line 42, column 2 \('a'\) must hold a number, got 'x'", True),
        ("c-9,1,2,", r"line 42, column 4 \('bought'\) must hold a label, got nothing", False),
        (",1,2,no", r"line 42, column 1 \('who'\) must hold an id, got nothing", False),
    ],
)
def test_a_wrong_cell_is_named_by_its_line(tmp_path: Path, row: str, words: str, late: bool) -> None:
    path = written(tmp_path / "t.csv", [HEADER, *ROWS[:40], row, *ROWS[40:]])
    columns: dict[str, Any] = {"target_column": "bought", "id_column": "who"}
    if late:
        records = open_records(path, **columns)
    with pytest.raises(ValueError, match=rf"t\.csv: {words}"):
        list(records.blocks()) if late else open_records(path, **columns)


def test_features_that_are_text_are_refused_when_the_table_is_opened(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", [HEADER, *ROWS])
    with pytest.raises(ValueError, match=r"t\.csv: line 2, column 1 \('who'\) must hold a number, got 'c-0'"):
        open_records(path, target_column="bought")
    (tmp_path / "s").mkdir()
    written(tmp_path / "s" / "0.csv", ["a,b", "1,2", "3,4"])
    written(tmp_path / "s" / "1.csv", ["a,c", "1,2", "3,4"])
    with pytest.raises(ValueError, match=r"1\.csv must have the column 'b'"):
        open_records(tmp_path / "s")
    written(tmp_path / "s" / "1.csv", ["a,b,c", "1,2,3", "3,4,5"])
    with pytest.raises(ValueError, match=r"1\.csv must have the columns of .*0\.csv: it has c"):
        open_records(tmp_path / "s")
    for name, data in (("e.csv", b""), ("h.csv", b"a,b\n"), ("u.csv", b"a,b\n1,\xff\n")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            open_records(tmp_path / name)


def test_a_text_that_changed_between_passes_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["a,b", *(f"{i},2" for i in range(N))])
    records = FileRecords(path)
    state, data = path.stat(), path.read_bytes()
    path.write_bytes(data.replace(b"\n40,2", b"\n40,3"))
    with pytest.raises(ValueError, match=r"t\.csv has been written to"):
        list(records.blocks())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ValueError, match=r"t\.csv has changed since the table was opened, from line \d+ on"):
        list(records.blocks())
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert joined(records)[0][:, 0].tolist() == list(range(N))
