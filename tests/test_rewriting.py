"""Tables written without some of their rows: what is left is as it was, and is there whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data import FileRecords, blocks, open_records
from expunge.data.rewriting import write_without

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 40
IDS = np.array([f"C-{i}" for i in range(N)])
COLUMNS = {"who": IDS, "x": np.arange(N) / 8, "spare": [None if i % 3 else f"note {i}" for i in range(N)]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 8 * 8)
    monkeypatch.setattr(blocks, "_LEAST", 8)


def shards(kind: str, cuts: tuple[int, ...] = (11, 12, 30), folder: str = "table") -> FileRecords:
    """Write a folder of four shards, in row groups of 5, and return it."""
    Path(folder).mkdir()
    table = pa.table(COLUMNS)
    for i, (start, stop) in enumerate(zip((0, *cuts), (*cuts, N), strict=True)):
        part = table.slice(start, stop - start)
        place = f"{folder}/{i}.{kind}"
        if kind == "parquet":
            parquet.write_table(part, place, row_group_size=5, compression=("gzip", "none", "snappy", "zstd")[i])
        elif kind == "arrow":
            with pa.OSFile(place, "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(part, max_chunksize=5)
        else:
            rows = [
                f'{who},{x},"{note}\n, ""quoted"""' for who, x, note in zip(*part.to_pydict().values(), strict=True)
            ]
            Path(place).write_text("\n".join(["who,x,spare", *rows, ""]))
    return open_records(folder, id_column="who", features=["x"])


def read(kind: str, place: Path | str) -> list[dict[str, object]]:
    if kind == "parquet":
        return parquet.read_table(place).to_pylist()
    with pa.OSFile(str(place)) as file:
        return pa.ipc.open_file(file).read_all().to_pylist()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@given(data=st.data())
def test_what_is_left_is_as_it_was(kind, data, tmp_path_factory):
    os.chdir(tmp_path_factory.mktemp("case"))
    records = shards(kind)
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=N, max_size=N)))
    gone[11:12] = data.draw(st.booleans())  # the whole of a shard
    gone[data.draw(st.integers(0, N - 1))] = False
    before = {place.name: place.read_bytes() for place in Path("table").iterdir()}
    names = write_without(records, gone, "new")
    assert {place.name: place.read_bytes() for place in Path("table").iterdir()} == before
    found = [row for name in names for row in read(kind, f"new/{name}")]
    whole = [row for i in range(4) for row in read(kind, f"table/{i}.{kind}")]
    assert found == [row for row, left in zip(whole, ~gone, strict=True) if left]
    assert sorted(names) == sorted(place.name for place in Path("new").iterdir())
    again = open_records("new", id_column="who", features=["x"])
    assert [one for block in again.blocks() for one in block.ids.tolist()] == IDS[~gone].tolist()
    assert sorted(place.name for place in Path().iterdir()) == ["new", "table"]


def test_parquet_keeps_schema_metadata_and_compression():
    Path("table").mkdir()
    table = pa.table(COLUMNS).replace_schema_metadata({"owner": "shop"})
    table = table.set_column(0, "who", table["who"].dictionary_encode())
    parquet.write_table(table, "table/a.parquet", row_group_size=7, compression="zstd")
    write_without(open_records("table", id_column="who", features=["x"]), np.arange(N) < 8, "new")
    with parquet.ParquetFile("new/a.parquet") as found, parquet.ParquetFile("table/a.parquet") as known:
        assert found.schema_arrow.equals(known.schema_arrow, check_metadata=True)
        assert found.metadata.row_group(0).column(0).compression == "ZSTD"
        assert [found.metadata.row_group(i).num_rows for i in range(found.metadata.num_row_groups)] == [6, 7, 7, 7, 5]


TEXTS = {
    "plain": "who,x\nann,1\nbob,2\ncyd,3\n",
    "last line": "who,x\nann,1\nbob,2\ncyd,3",
    "windows": "\ufeffwho;x\r\nann;1\r\nbob;2\r\ncyd;3\r\n",
    "announced": "sep=;\nwho;x\nann;1\nbob;2\ncyd;3\n",
    "blank lines": "\nwho,x\n\nann,1\n\nbob,2\n\n\ncyd,3\n\n",
    "quotes": 'who,x,y\nann,1,"a\nb"\nbob,2,"""\n"\ncyd,3,"x,y"\n',
    "no header": "ann,7\nbob,8\ncyd,9\n",
}


@pytest.mark.parametrize("way", TEXTS)
@pytest.mark.parametrize("piece", [1 << 24, 16])
def test_text_is_written_byte_by_byte_but_for_the_lines_left_out(way, piece, monkeypatch):
    import expunge.data.text_shard as text_shard

    monkeypatch.setattr(text_shard, "_PIECE", piece)
    text = TEXTS[way]
    Path("a.csv").write_bytes(text.encode())
    records = FileRecords("a.csv", id_column=0, features=[1], header=way != "no header")
    lines = {"ann": 'ann,1,"a\nb"\n', "bob": 'bob,2,"""\n"\n', "cyd": 'cyd,3,"x,y"\n'}
    if way != "quotes":
        kept = text.splitlines(keepends=True)
        lines = {line[:3]: line for line in kept}
    for i, name in enumerate(("ann", "bob", "cyd")):
        for names in ({name}, {"ann", "bob", "cyd"} - {name}):
            gone = np.array([one in names for one in ("ann", "bob", "cyd")])
            place = f"{i}-{len(names)}.csv"
            assert write_without(records, gone, place) == (place,)
            wanted = text
            for one in names:
                wanted = wanted.replace(lines[one], "")
            blank = [line for line in wanted.splitlines() if line]
            found = Path(place).read_bytes().decode()
            assert [line for line in found.splitlines() if line] == blank
            assert found == wanted or (piece == 16 and way == "blank lines")
            again = FileRecords(place, id_column=0, features=[1], header=way != "no header")
            assert next(again.blocks()).ids.tolist() == [one for one in ("ann", "bob", "cyd") if one not in names]


def test_hive_folders_keep_their_names():
    for year in (2024, 2025):
        Path(f"table/year={year}/country=FR").mkdir(parents=True)
        parquet.write_table(pa.table(COLUMNS), f"table/year={year}/country=FR/x.parquet")
    records = open_records("table", id_column="who", features=["x", "year"])
    gone = np.arange(2 * N) == 3
    assert write_without(records, gone, "new") == ("year=2024/country=FR/x.parquet", "year=2025/country=FR/x.parquet")
    found = open_records("new", id_column="who", features=["x", "year"])
    assert found.n_records == 2 * N - 1
    assert next(found.blocks()).X[:, 1].tolist() == [2024.0] * 8
    one = open_records("table/year=2025", id_column="who", features=["x"])
    assert write_without(one, gone[:N], "one") == ("country=FR/x.parquet",)


def test_permissions_are_those_of_the_old_files():
    records = shards("parquet")
    os.chmod("table/0.parquet", 0o640)
    write_without(records, np.arange(N) == 3, "new")
    assert stat.S_IMODE(os.stat("new/0.parquet").st_mode) == 0o640
    os.chmod("table", 0o750)
    write_without(records, np.arange(N) == 3, "other")
    assert stat.S_IMODE(os.stat("other").st_mode) == 0o750


def test_what_cannot_be_written_is_refused_and_leaves_nothing():
    records = shards("parquet")
    gone = np.arange(N) == 3
    one = open_records("table/0.parquet", id_column="who", features=["x"])
    np.save("x.npy", np.eye(3))
    Path("there").mkdir()
    Path("link").symlink_to("table")
    for call, error, words in (
        (lambda: write_without(records, gone[1:], "new"), ValueError, "one entry for each of 40 rows"),
        (lambda: write_without(records, gone | True, "new"), ValueError, "gone must leave a row"),
        (lambda: write_without(records, np.arange(N), "new"), TypeError, "gone must say of each row .* dtype int64"),
        (lambda: write_without(records, np.ma.array(gone, mask=gone), "new"), TypeError, "gone must not be a masked"),
        (lambda: write_without(records, gone, "table/new"), ValueError, r"must not lie in the table \(.*table\)"),
        (lambda: write_without(records, gone, "link/new"), ValueError, r"must not lie in the table \(.*table\)"),
        (lambda: write_without(records, gone, "link"), ValueError, "must not be a symbolic link"),
        (lambda: write_without(one, gone[:11], "new.csv"), ValueError, r"must end in \.parquet"),
        (lambda: write_without(records, gone, "there"), FileExistsError, "there already exists"),
        (lambda: write_without(records, gone, "no/new"), FileNotFoundError, "there is no folder .*no"),
        (lambda: write_without(open_records("x.npy"), gone[:3], "y.npy"), ValueError, "write them with NumPy"),
    ):
        with pytest.raises(error, match=words):
            call()
    state = os.stat("table/2.parquet")
    Path("table/2.parquet").write_bytes(Path("table/2.parquet").read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"2\.parquet has (been written to|changed) since"):
        write_without(records, gone, "new")
    os.utime("table/2.parquet", ns=(state.st_atime_ns, state.st_mtime_ns))

    def check(place: Path) -> None:
        assert sorted(one.name for one in place.iterdir()) == ["0.parquet"]
        raise ValueError("not so")

    with pytest.raises(ValueError, match="not so"):
        write_without(one_folder(), np.arange(N) == 3, "new", check=check)
    assert sorted(place.name for place in Path().iterdir()) == ["link", "one", "table", "there", "x.npy"]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_file_that_is_written_to_meanwhile_is_named(kind, monkeypatch):
    import expunge.data.rewriting as rewriting

    records = shards(kind)
    real = getattr(rewriting, f"_{kind}")

    def written(shard, gone, path):
        real(shard, gone, path)
        if path.name.startswith("1."):
            os.utime(f"table/1.{kind}", ns=(1, 1))

    monkeypatch.setattr(rewriting, f"_{kind}", written)
    with pytest.raises(ValueError, match=rf"1\.{kind} has (been written to|changed) since"):
        write_without(records, np.arange(N) == 3, "new")
    assert sorted(place.name for place in Path().iterdir()) == ["table"]


def one_folder() -> FileRecords:
    Path("one").mkdir()
    parquet.write_table(pa.table(COLUMNS), "one/0.parquet")
    return open_records("one", id_column="who", features=["x"])


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
def test_a_full_disk_leaves_nothing(kind, monkeypatch):
    import expunge.data.rewriting as rewriting

    records = shards(kind)
    real = rewriting._sync

    def full(path: Path) -> None:
        if path.name.startswith("2."):
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(rewriting, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        write_without(records, np.arange(N) == 3, "new")
    assert sorted(place.name for place in Path().iterdir()) == ["table"]


def test_what_a_kill_left_is_removed_by_the_next_call():
    records = shards("parquet")
    Path(".new.unfinished").mkdir()
    Path(".new.unfinished/9.parquet").write_bytes(b"half")
    write_without(records, np.arange(N) == 3, "new")
    assert sorted(place.name for place in Path("new").iterdir()) == [f"{i}.parquet" for i in range(4)]
    assert sorted(place.name for place in Path().iterdir()) == ["new", "table"]


def test_lines_that_are_no_records_of_their_own_are_refused():
    Path("a.csv").write_bytes(b"who,x\nann,1\rbob,2\ncyd,3\n")  # an end of line that only some readers see
    records = FileRecords("a.csv", id_column="who", features=["x"])
    assert records.n_records == 3
    with pytest.raises(ValueError, match=r"a\.csv: from line 1 on, 3 records are not lines of their own"):
        write_without(records, np.array([True, False, False]), "b.csv")
    assert sorted(place.name for place in Path().iterdir()) == ["a.csv"]
