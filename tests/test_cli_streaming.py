"""Commands on tables that stay where they lie: what arrays give, and no row in the model or in memory."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from command_calls import listing, refused, run
from expunge import NewtonLogisticRegression
from expunge.certificates.residual import ResidualCertificate
from expunge.cli.files import load_evidence, load_model
from expunge.data import blocks, open_records
from expunge.ledger import Ledger
from killing import Killed, killed_at

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 60
RNG = np.random.default_rng(0)
X = (RNG.integers(-255, 256, size=(N, 2)) / 256).astype(np.float32)  # the same numbers in text
NUMBER = (X @ [1.0, 2.0] + 0.1 * RNG.normal(size=N)).round(3)
WORD = np.where(NUMBER > 0, "yes", "no")
WHO = np.array([f"C-{i // 2}" for i in range(N)])  # two rows each
WEIGHTS = RNG.uniform(0.5, 2, N).round(2)
EVERY = np.arange(N)
TABLE = {"who": WHO, "a": X[:, 0], "b": X[:, 1], "w": WEIGHTS, "number": NUMBER, "word": WORD}
READ = ["--id-column", "who", "--features", "a,b", "--target-column", "word", "--classes", "no,yes"]
QUIET = ["--noise-std", "0.1"]
WRITES = ["-o", "m.npz", "-c", "c.json", "--evidence", "e.npz", "--released", "r.npz"]


def write(folder: str, rows: np.ndarray = EVERY, *, kind: str = "parquet", n: int = 4, **changed: np.ndarray) -> None:
    """Write a folder of shards with some rows of the table."""
    Path(folder).mkdir()
    for i, part in enumerate(np.array_split(np.asarray(rows), n)):
        columns = {name: values[part] for name, values in (TABLE | changed).items()}
        if kind == "parquet":
            parquet.write_table(pa.table(columns), f"{folder}/part-{i}.parquet", row_group_size=7)
        elif kind == "arrow":
            with pa.OSFile(f"{folder}/part-{i}.arrow", "wb") as sink:
                table = pa.table(columns)
                with pa.ipc.new_file(sink, table.schema) as file:
                    file.write_table(table)
        else:
            lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
            Path(f"{folder}/part-{i}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing of a test needs to outlive the machine
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 16 * 8 * 2)  # blocks of 16 rows
    monkeypatch.setattr(blocks, "_LEAST", 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table, a model of it, and a deletion with everything that a deletion writes."""
    folder, before = tmp_path_factory.mktemp("made"), os.getcwd()
    os.chdir(folder)
    try:
        write("all")
        write("now", np.delete(EVERY, [6, 7]))
        run("fit", "all", *READ, *QUIET, "-o", "m0.npz", "-c", "c0.json", "--evidence", "e0.npz", "--released",
            "r0.npz", "--ledger", "l")  # fmt: skip
        run("unlearn", "m0.npz", "--data", "all", "--id", "C-3", "--request", "R-1", "-o", "m1.npz", "-c", "c1.json",
            "--evidence", "e1.npz", "--released", "r1.npz", "--ledger", "l")  # fmt: skip
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def scene(made: Path, tmp_path: Path) -> None:
    """Copy what was made, without notes that a release was made of a model."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.next"))


# --- fit -----------------------------------------------------------------------------------------

BOUNDS = "feature,low,high\na,-1,1\nb,-2,2\n"
WAYS: dict[str, tuple[list[str], str]] = {
    "plain": ([], "parquet"),
    "arrow": ([], "arrow"),
    "text": ([], "csv"),
    "divisor": (["--divide-by", "3"], "parquet"),
    "divisors": (["--divide-by", "divisors.csv"], "csv"),
    "bounds": (["--bounds", "bounds.csv"], "parquet"),
    "clipped": (["--bounds", "tight.csv", "--clip"], "parquet"),
    "cosines": (["--cosine-features", "5", "--cosine-scale", "0.5"], "parquet"),
    "weights": (["--weight-column", "w"], "parquet"),
    "weighted text": (["--weight-column", "w", "--divide-by", "3"], "csv"),
    "number": (["--target-column", "number", "--task", "regress"], "parquet"),
    "classes": (["--model", "ridge"], "parquet"),
}


def ways_of(way: str) -> tuple[list[str], str]:
    for name, text in (
        ("bounds", BOUNDS),
        ("tight", BOUNDS.replace("1", "0.1")),
        ("divisors", "feature,divide_by\nb,8\na,2\n"),
    ):
        Path(f"{name}.csv").write_text(text)
    options, kind = WAYS[way]
    read = READ if "--target-column" not in options else READ[:4]
    return [*read, *options, *QUIET], kind


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_is_read_as_the_same_file_in_memory(way):
    options, kind = ways_of(way)
    write("folder", kind=kind)
    write("one", kind=kind, n=1)
    file = next(Path("one").iterdir())
    found = run("fit", "folder", *options, "-o", "m.npz", "-c", "c.json", "--evidence", "e.npz", "--released", "r.npz")
    assert "reading folder in row blocks: 60 records in 4 files" in found.stderr
    assert "it holds hashes and ids of the records, and no row" in found.output
    arrays = "one" if kind == "arrow" else file
    memory = run("fit", arrays, *options, "--in-memory", "-o", "o.npz", "-c", "d.json", "--evidence", "f.npz")
    assert "it holds the data" in memory.output
    mine, theirs = load_model("m.npz"), load_model("o.npz")
    assert mine.reading_ == theirs.reading_
    assert mine.conditions_ == theirs.conditions_
    assert mine.ids_.tolist() == theirs.ids_.tolist() == WHO.tolist()
    np.testing.assert_allclose(mine._state.theta, theirs._state.theta, atol=1e-3)
    for certificate, evidence, model in (("c.json", "e.npz", "m.npz"), ("d.json", "f.npz", "o.npz")):
        for source, stream in (("folder", []), ("folder", ["--in-memory"]), (file, ["--stream"]), (arrays, [])):
            run("verify", certificate, source, "--evidence", evidence, "--model", model, *stream)
    for command in (["evaluate"], ["predict", "-o", "p.csv", "--overwrite"]):
        said = []
        for source, stream in (("folder", []), ("folder", ["--in-memory"]), (file, ["--stream"])):
            said.append(run(command[0], "r.npz", source, *command[1:], *stream).stdout)
            if command[0] == "predict":
                said[-1] += Path("p.csv").read_text()
        assert len(set(said)) == 1
    assert re.search(r"accuracy 0\.\d+ on 60|R\^2 0\.\d+ on 60|60 predictions", said[0])


def test_targets_are_the_last_column_unless_another_is_named():
    write("folder")
    found = run(
        "fit", "folder", "--id-column", "who", "--drop", "w,number", "--classes", "no,yes", *QUIET, "-o", "m.npz"
    )
    assert "reading y as 2 classes: no, yes" in found.output
    reading = load_model("m.npz").reading_
    assert (reading.target, reading.features, reading.id_column, reading.n_columns) == ("word", ("a", "b"), "who", 6)


def test_folders_of_hive_and_row_indices_are_no_features_and_a_note_says_so():
    for i, part in enumerate(np.array_split(EVERY, 3)):
        folder = Path(f"hive/year={2020 + i}")
        folder.mkdir(parents=True)
        parquet.write_table(pa.table({name: values[part] for name, values in TABLE.items()}), folder / "x.parquet")
    found = run("fit", "hive", "--id-column", "who", "--drop", "w,number", "--classes", "no,yes", *QUIET, "-o", "m.npz")
    assert "column 'year' is a row index or names folders, not read as a feature" in found.output
    assert load_model("m.npz").reading_.features == ("a", "b")
    run("fit", "hive", "--id-column", "who", "--features", "year,a", "--target-column", "word", *QUIET, "-o", "n.npz")
    assert load_model("n.npz").reading_.features == ("year", "a")
    assert "60 records" in run("evaluate", "n.npz", "hive").output


def test_an_address_is_read_in_blocks():
    write("folder")
    address = Path("folder").absolute().as_uri()
    found = run("fit", address, *READ, *QUIET, *WRITES)
    assert f"reading {address} in row blocks: 60 records in 4 files" in found.stderr
    run("verify", "c.json", address, "--evidence", "e.npz", "--model", "m.npz")
    run("unlearn", "m.npz", "--data", address, "--id", "C-3", "-o", "n.npz", "-c", "d.json")
    refused("fit", "nowhere://folder", *READ, "-o", "x.npz", match="nowhere")


def test_arrays_of_numpy_are_streamed_with_their_targets():
    Path("x").mkdir()
    Path("y").mkdir()
    for i, part in enumerate(np.array_split(EVERY, 3)):
        np.save(f"x/{i}.npy", X[part])
        np.save(f"y/{i}.npy", (NUMBER[part] > 0).astype(np.int64))
    run("fit", "x", "--target", "y", "--classes", "0,1", *QUIET, *WRITES)
    assert load_model("m.npz").ids_.tolist() == EVERY.tolist()
    run("verify", "c.json", "x", "--target", "y", "--evidence", "e.npz", "--model", "m.npz")
    run("unlearn", "m.npz", "--data", "x", "--target", "y", "--rows", "3,4", "-o", "n.npz", "-c", "d.json",
        "--evidence", "f.npz")  # fmt: skip
    found = run("unlearn", "n.npz", "--data", "x", "--target", "y", "--rows", "50", "-o", "o.npz", "-c", "g.json",
                "--evidence", "h.npz")  # fmt: skip
    assert "2 rows passed over" in found.stderr
    assert load_model("o.npz").ids_.tolist() == np.delete(EVERY, [3, 4, 50]).tolist()
    for name, values in (("x", X), ("y", (NUMBER > 0).astype(np.int64))):
        np.save(f"{name}-now.npy", values[np.delete(EVERY, [3, 4, 50])])
    run("verify", "g.json", "x-now.npy", "--target", "y-now.npy", "--evidence", "h.npz")
    refused("fit", "x", "-o", "z.npz", match="holds no targets; give --target or --target-column")
    refused("fit", "x", "--target", "y", "--weight-column", "w", "-o", "z.npz", match="leave --weight-column out")


def bytes_of(path):
    """The bytes of a file and, unpacked, of every array in it."""
    if path.suffix != ".npz":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return path.read_bytes() + b"".join(archive.read(name) for name in archive.namelist())


def of_rows():
    """Bytes that only a copy of rows has: rows, and two records' numbers of one column (four bytes come by chance)."""
    yield from (np.float64(value).tobytes() for value in X[:20].ravel())
    yield from (row.tobytes() for row in X[:20])
    yield from (pair.tobytes() for column in X[:20].T for pair in np.lib.stride_tricks.sliding_window_view(column, 2))


def test_the_model_holds_no_row(made, tmp_path):
    for name in ("m0.npz", "e0.npz", "c0.json", "l", "m1.npz"):
        content = bytes_of(made / name)
        assert not [needle for needle in of_rows() if needle in content]
    np.savez_compressed(tmp_path / "rows.npz", X=X)
    for order in "CF":
        np.save(tmp_path / f"{order}.npy", np.asarray(X, order=order))
    assert all(any(n in bytes_of(tmp_path / f) for n in of_rows()) for f in ("rows.npz", "C.npy", "F.npy"))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nowhere", "--stream"], "there is no file nowhere, which --stream needs"),
        (["iris", "--stream"], "there is no file iris, which --stream needs"),
        (["a.npz", "--stream"], r"--stream reads files and folders of \.parquet, .*, got a\.npz: omit it"),
        (["a.csv.gz", "--stream"], r"--stream reads .*, unpacked, got a\.csv\.gz: omit it"),
        (["empty"], "must be a folder of shards of one kind .* with files of none of these"),
        (["all", "--target-column", "x"], "target_column: there is no column 'x', got the columns who, a, b"),
        (["all", "--id-column", "x"], "id_column: there is no column 'x'"),
        (["all", "--features", "a,x"], "features: there is no column 'x'"),
        (["all", "--weight-column", "x"], "there is no column 'x'"),
        (["all", "--weight-column", "a", "--features", "b"], r"part-\d.parquet, row \d+: weights must be >= 0, got -"),
        (["all", "--features", "a,word", "--target-column", "number"], "column 'word' must hold real numbers"),
        (["all", "--target", "y.npy"], "has columns: name them with --target-column and --id-column, without"),
        (["all", "--features", "a,b", "--no-header"], "header and decimal_comma are for text tables"),
        (["all", "--features", "a,b", "--bounds", "tight.csv"], r"part-\d.parquet, row \d+ must lie within its bounds"),
        (["all", "--features", "a,b", "--bounds", "other.csv"], "other.csv: says nothing about the feature 'b'"),
        (["all", "--features", "a,b", "--clip"], "--clip needs --bounds"),
        (["all", "--features", "a,b", "--target-column", "number", "--task", "classify"], "y must hold classes"),
        (["all", "--features", "a,b", "--task", "regress"], "must hold a number as target, got '(yes|no)'"),
        (["all", "--features", "a,b", "--classes", "no,maybe"], "class"),
    ],
)
def test_fit_refuses(made, arguments, match):
    shutil.copytree(made / "all", "all")
    Path("empty").mkdir()
    Path("tight.csv").write_text(BOUNDS.replace("1", "0.1"))
    Path("other.csv").write_text("feature,low,high\na,-1,1\n")
    np.savez("a.npz", X=X, y=NUMBER)
    Path("a.csv.gz").write_bytes(b"")
    refused("fit", *arguments, "-o", "m.npz", "-c", "c.json", match=match)


def test_langevin_models_learn_from_rows_in_memory_too(made):
    shutil.copytree(made / "all", "all")
    settings = ["--model", "langevin-ridge", "--n-steps", "20"]
    assert "reading all into memory: 60 records in 4 files" in run(
        "fit", "all", "--in-memory", *READ, *settings, "-o", "m.npz"
    ).stderr  # fmt: skip
    assert load_model("m.npz").reading_.features == ("a", "b")


def test_a_certificate_is_verified_on_several_tables(scene):
    """A corrected row has a table of its own: no table with all rows needs to be written."""
    row = "who,a,b,word\nC-4,0.5,0.25,yes\nC-4,-0.5,0.25,no\n"
    Path("corrected.csv").write_text(row)
    later = ["-o", "m2.npz", "-c", "c2.json", "--evidence", "e2.npz"]
    run("amend", "m1.npz", "corrected.csv", "--data", "now", *later)
    write("rest", np.delete(EVERY, [6, 7, 8, 9]))
    run("verify", "c2.json", "rest", "corrected.csv", "--evidence", "e2.npz", "--model", "m2.npz")
    run("verify", "c2.json", "corrected.csv", "rest/*.parquet", "--evidence", "e2.npz", "--model", "m2.npz")
    with_model = ["--evidence", "e2.npz", "--model", "m2.npz"]
    refused("verify", "c2.json", "rest", *with_model, code=1, match="missing 'C-4', 'C-4'")
    refused("verify", "c2.json", "now", "corrected.csv", *with_model, code=1, match="additional 'C-4', 'C-4'")


def test_without_dask_the_extra_that_is_missing_is_named(made, monkeypatch):
    shutil.copytree(made / "all", "all")
    monkeypatch.setitem(sys.modules, "expunge.distributed", None)
    words = r"--scheduler needs Dask: pip install .*\[distributed\]"
    refused("fit", "all", *READ, *QUIET, "--scheduler", "local:1", "-o", "m.npz", "-c", "c.json", match=words)


def test_labels_that_are_written_as_floats_are_classes():
    labels = (NUMBER > 0).astype(np.float64)
    write("all", number=labels)
    options = [*READ[:4], "--target-column", "number", *QUIET]
    found = run("fit", "all", *options, "--classes", "0,1", *WRITES)
    assert "reading y as 2 classes: 0, 1" in found.output
    assert load_model("m.npz").classes_.tolist() == [0, 1]
    assert all(type(one) is int for one in load_model("m.npz").classes_.tolist())
    for stream in ("--stream", "--in-memory"):
        run("verify", "c.json", "all", stream, "--evidence", "e.npz", "--model", "r.npz")
        assert "  0 " in run("evaluate", "r.npz", "all", stream).output
    labels[40] = 0.5
    write("odd", number=labels)
    words = r"odd/part-2\.parquet, row 10 must hold a class|y must hold classes"
    refused("unlearn", "m.npz", "--data", "odd", "--id", "C-1", "-o", "n.npz", "-c", "d.json", match=words)


@pytest.mark.parametrize("what", ["missing", "column", "type", "kind", "damaged"])
def test_shards_that_do_not_belong_together_are_named(what):
    write("folder")
    if what == "missing":
        write("targets", **{})
    place = Path("folder/part-2.parquet")
    columns = {name: values[:5] for name, values in TABLE.items()}
    if what in ("missing", "column"):
        del columns["b"]
    if what == "type":
        columns["a"] = columns["who"]
    parquet.write_table(pa.table(columns), place)
    if what == "kind":
        Path("folder/part-9.csv").write_text("who,a\n1,2\n")
    if what == "damaged":
        place.write_bytes(place.read_bytes()[:-30])
    words = {
        "missing": r"part-2\.parquet must have the column 'b'",
        "column": r"part-2\.parquet must have the column 'b'",
        "type": r"part-2\.parquet: column 'a' must hold real numbers, got string",
        "kind": r"must be a folder of shards of one kind .* with files of \.csv and of \.parquet",
        "damaged": r"part-2\.parquet",
    }
    refused("fit", "folder", *READ, "-o", "m.npz", match=words[what])


# --- changes -------------------------------------------------------------------------------------


def test_a_deletion_says_what_is_still_in_the_table(made, scene):
    assert len(load_model("m1.npz").ids_) == N - 2
    run("verify", "c1.json", "now", "--evidence", "e1.npz", "--model", "r1.npz")
    run("verify", "c1.json", "now", "--evidence", "m1.npz", "--model", "m1.npz", "--in-memory")
    refused(
        "verify", "c1.json", "all", "--evidence", "e1.npz", "--model", "r1.npz", match="additional 'C-3', 'C-3'", code=1
    )
    found = run("unlearn", "m1.npz", "--data", "all", "--id", "C-20", "--id", "C-1", *WRITES, "--ledger", "l")
    assert "2 rows passed over" in found.stderr
    assert re.search(r"C-3 \(all/part-0\.parquet, row 6\); C-3 \(all/part-0\.parquet, row 7\)", found.stderr)
    assert (
        "still in the table: C-1 (all/part-0.parquet, row 2); C-1 (all/part-0.parquet, row 3); C-20 (all/part-2"
        in found.output
    )
    left = [i for i in range(N) if WHO[i] not in ("C-1", "C-3", "C-20")]
    write("left", np.array(left), kind="csv")
    run("verify", "c.json", "left", "--evidence", "e.npz", "--model", "r.npz")
    assert [entry.action for entry in Ledger("l").entries()] == ["fit", "unlearn", "unlearn"]
    shown = run("show", "m.npz").output
    assert "data     in a table of their own: hashes and ids of the records are here, and no row" in shown
    assert "release 3 of 10,000" in shown


def test_a_table_may_be_in_another_order_and_in_other_files(scene):
    order = np.random.default_rng(1).permutation(np.delete(EVERY, [6, 7]))
    write("first", order[:20])
    write("second", order[20:], kind="csv", n=1)
    found = run("unlearn", "m1.npz", "--data", "first", "--data", "second", "--id", "C-9", *WRITES)
    assert "passed over" not in found.stderr
    gone = [i for i in order if WHO[i] == "C-9"]
    assert load_model("m.npz").ids_.tolist() == WHO[[i for i in order if i not in gone]].tolist()
    assert "still in the table: C-9 (" in found.output
    write("turned", order)
    refused("unlearn", "m0.npz", "--data", "turned", "--rows", "3", *WRITES, match="must be the 60 of the model")
    write("whole", np.random.default_rng(2).permutation(N))
    refused("unlearn", "m0.npz", "--data", "whole", "--rows", "3", *WRITES, match="name records by --id")
    refused("quote", "m0.npz", "--data", "whole", "--rows", "3", match="name records by --id")


def test_quotes_are_those_of_arrays(scene):
    whole = run("quote", "m0.npz", "--data", "all", "-o", "q.json").output
    assert "60 records, each deleted by itself" in whole
    one = run("quote", "m0.npz", "--data", "all", "--id", "C-3", "-o", "one.json").output
    assert "2 records" in one
    write("one", n=1)
    run("fit", "one/part-0.parquet", *READ, *QUIET, "-o", "o.npz")
    run("quote", "o.npz", "--id", "C-3", "-o", "other.json")
    mine, theirs = (json.loads(Path(name).read_text())["records"] for name in ("one.json", "other.json"))
    for name in ("sensitivity_bound", "before_after_epsilon_bound"):
        np.testing.assert_allclose([row[name] for row in mine], [row[name] for row in theirs], rtol=0.02)
    assert [row["id"] for row in mine] == ["C-3", "C-3"]


def test_corrections_and_additions_go_on_with_both_tables(scene):
    fix = {name: values[[8, 9]] for name, values in TABLE.items()}
    fix["a"] = np.array([0.25, -0.25], dtype=np.float32)
    parquet.write_table(pa.table(fix), "fix.parquet")
    found = run("amend", "m1.npz", "fix.parquet", "--data", "all", *WRITES, "--ledger", "l")
    assert "still in the table: C-4 (all/part-0.parquet, row 8); C-4 (all/part-0.parquet, row 9)" in found.output
    assert "the rows of fix.parquet are records of the model now" in found.output
    assert load_model("m.npz").ids_[-2:].tolist() == ["C-4", "C-4"]
    Path("new.csv").write_text("who,a,b,w,number,word\nN-1,0.5,0.5,1,1.5,yes\nN-2,-0.5,0.25,1,0,no\n")
    found = run("add", "m.npz", "new.csv", "--data", "all", "--data", "fix.parquet", "-o", "n.npz", "-c", "d.json",
                "--evidence", "f.npz", "--ledger", "l")  # fmt: skip
    assert "4 rows passed over" in found.stderr
    refused("unlearn", "n.npz", "--data", "all", "--id", "C-9", "-o", "x.npz", "-c", "x.json",
            match="got none for 4 records of it: 'C-4', 'C-4', 'N-1', 'N-2'|is not what it was")  # fmt: skip
    values = {name: one.copy() for name, one in TABLE.items()}
    values["a"][[8, 9]] = [0.25, -0.25]  # corrected where they lay
    write("corrected", np.delete(EVERY, [6, 7]), **values)
    found = run("unlearn", "n.npz", "--data", "corrected", "--data", "new.csv", "--id", "C-9", "--id", "N-1",
                "-o", "o.npz", "-c", "g.json", "--evidence", "h.npz", "--ledger", "l")  # fmt: skip
    assert "passed over" not in found.stderr
    rows = [i for i in range(N) if WHO[i] not in ("C-3", "C-9")]
    write("last", np.array(rows), kind="csv", **values)
    Path("last/part-4.csv").write_text("who,a,b,w,number,word\nN-2,-0.5,0.25,1,0,no\n")
    run("verify", "g.json", "last", "--evidence", "h.npz", "--model", "o.npz")
    assert [entry.action for entry in Ledger("l").entries()] == ["fit", "unlearn", "amend", "add", "unlearn"]


def test_weights_are_read_kept_and_compared():
    write("all")
    run("fit", "all", *READ, "--weight-column", "w", *QUIET, *WRITES)
    run("fit", "all", "--id-column", "who", "--drop", "number", "--weight-column", "w", *QUIET, "-o", "d.npz")
    assert load_model("d.npz").reading_.features == ("a", "b")  # weights are none
    model = load_model("m.npz")
    np.testing.assert_array_equal(model._state.objective.blocks.weights(), WEIGHTS)
    fix = {name: values[[8, 9]] for name, values in TABLE.items()}
    fix["a"] = np.array([0.25, -0.25], dtype=np.float32)
    parquet.write_table(pa.table(fix), "fix.parquet")
    run("amend", "m.npz", "fix.parquet", "--data", "all", "-o", "n.npz", "-c", "d.json", "--evidence", "f.npz")
    after = load_model("n.npz")._state.objective.blocks.weights()
    np.testing.assert_array_equal(after, np.append(np.delete(WEIGHTS, [8, 9]), WEIGHTS[[8, 9]]))
    write("other", w=np.where(EVERY == 40, 9.0, WEIGHTS))
    words = r"other/part-2\.parquet, row 10: the weight must be .*, as it was when the record was learned, got 9"
    refused("unlearn", "m.npz", "--data", "other", "--id", "C-3", "-o", "x.npz", "-c", "x.json", match=words)
    refused("verify", "c.json", "other", "--evidence", "e.npz", "--model", "m.npz", match="'C-20'", code=1)


def test_a_further_release_needs_the_table(scene):
    refused("release", "m1.npz", "--again", *WRITES, match="name the table as it now stands by --data")
    run("release", "m1.npz", "--again", "--data", "now", *WRITES, "--ledger", "l")
    assert load_model("m.npz").certificate_.release == 3
    run("verify", "c.json", "now", "--evidence", "e.npz", "--model", "r.npz")
    run("release", "m1.npz", "--released", "s.npz")
    refused("release", "m1.npz", "--released", "t.npz", "--data", "now", match="--data goes with --again")


CHANGES: dict[str, list[str]] = {
    "unlearn": ["unlearn", "m0.npz", "--data", "all", "--id", "C-3"],
    "amend": ["amend", "m0.npz", "fix.parquet", "--data", "all"],
    "add": ["add", "m0.npz", "new.csv", "--data", "all"],
    "release": ["release", "m0.npz", "--again", "--data", "all"],
}


@pytest.fixture
def ready(scene) -> None:
    """Bring the scene to where only the fit was made, with what changes need."""
    write("source")
    shutil.rmtree("all")
    os.rename("source", "all")
    fix = {name: values[[8, 9]] for name, values in TABLE.items()}
    fix["a"] = np.array([0.25, -0.25], dtype=np.float32)
    parquet.write_table(pa.table(fix), "fix.parquet")
    Path("new.csv").write_text("who,a,b,w,number,word\nN-1,0.5,0.5,1,1.5,yes\n")
    content = Path("l").read_text().splitlines(keepends=True)
    Path("l").write_text("".join(content[:-1]))  # the entry of the fit
    assert len(Ledger("l").entries()) == 1


@pytest.mark.parametrize("action", CHANGES)
def test_a_repeated_change_is_made_and_charged_once(ready, action):
    call = [*CHANGES[action], *WRITES, "--ledger", "l"]
    run(*call)
    before = listing()
    assert "done already: the files are those of this change" in run(*call).output
    assert listing() == before
    if action == "unlearn":  # another change to the same files is not done
        call[call.index("C-3")] = "C-9"
        refused(*call[:-2], match="already exists")
    other = {"unlearn": ["--id", "C-9"], "amend": ["--request", "R-2"], "add": ["--branch"], "release": ["--branch"]}
    refused(*CHANGES[action], *other[action], "-o", "x.npz", "-c", "x.json", "--ledger", "l", match="m0.npz|l: ")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_call_the_same_command_ends_or_begins_anew(ready, moment):
    call = [*CHANGES["unlearn"], *WRITES, "--ledger", "l"]
    start = listing()
    finished = 0
    for number in itertools.count(1):
        for name in listing():
            if name not in start:
                Path(name).unlink()
        Path("l").write_bytes(start["l"])
        try:
            with killed_at(number, moment):
                run(*call)
        except Killed:
            finished += "finished what an earlier call had begun" in run(*call).output
        else:
            break
        assert load_evidence("e.npz").certificate == ResidualCertificate.load("c.json").digest()
        assert len(load_model("m.npz").ids_) == N - 2
        assert len(Ledger("l").entries()) == 2
        assert not [name for name in listing() if ".expunge-" in name]
    assert number > 5
    assert finished > 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            "value",
            r"bad/part-2\.parquet, row 10: the record 'C-20' of the model is not what it was when it was learned",
        ),
        ("answer", r"bad/part-2\.parquet, row 10: the record 'C-20' of the model is not what it was"),
        ("missing", r"got none for 1 record of it: 'C-20' \(bad/part-0\.parquet, row 6, of 'C-3', is none of them\)"),
        (
            "fewer",
            "records must be the 58 of the model, in their order, got 57: name every table .* added or corrected",
        ),
        ("names", "there is no column 'a', got the columns who, x, b, .*; the model was fitted with it"),
        ("kind of ids", r"part-0\.parquet: ids must be text|ids must be text, as those of the model"),
        ("nothing", "name the table as it now stands by --data"),
    ],
)
@pytest.mark.parametrize("command", ["unlearn", "quote", "release"])
def test_a_table_that_is_not_the_models_is_refused(scene, command, change, match):
    rows = {"missing": np.delete(EVERY, 40), "fewer": np.delete(EVERY, [6, 7, 40])}.get(change, EVERY)
    changed = {}
    if change == "value":
        changed["b"] = np.where(EVERY == 40, np.float32(0.5), X[:, 1])
    elif change == "answer":
        changed["word"] = np.where(EVERY == 40, np.where(WORD == "yes", "no", "yes"), WORD)
    elif change == "kind of ids":
        changed["who"] = EVERY
    write("bad", rows, **changed)
    if change == "names":
        for place in Path("bad").iterdir():
            table = parquet.read_table(place)
            parquet.write_table(table.rename_columns(["x" if one == "a" else one for one in table.column_names]), place)
    data = [] if change == "nothing" else ["--data", "bad"]
    calls = {
        "unlearn": ["unlearn", "m1.npz", *data, "--id", "C-9", *WRITES],
        "quote": ["quote", "m1.npz", *data, "-o", "q.json"],
        "release": ["release", "m1.npz", "--again", *data, *WRITES],
    }
    refused(*calls[command], match=match)


def test_options_of_tables_are_refused_for_models_with_rows(scene):
    write("one", n=1)
    run("fit", "one/part-0.parquet", *READ, *QUIET, "-o", "o.npz")
    run("fit", "one/part-0.parquet", *READ, "--n-steps", "20", "-o", "langevin.npz")
    for model, kind in (("o", "NewtonLogisticRegression"), ("langevin", "LangevinRidgeClassifier")):
        for options in (["--data", "all"], ["--divide-by", "3"]):
            words = rf"{options[0]} is for models of tables: (the file of this|a) {kind} holds its data"
            refused("unlearn", f"{model}.npz", *options, "--id", "C-3", "-o", "x.npz", "-c", "x.json", match=words)
            refused("quote", f"{model}.npz", *options, match=words)
    refused(
        "amend", "o.npz", "new.csv", "--data", "all", "-o", "x.npz", "-c", "x.json", match="--data is for models of"
    )
    refused("unlearn", "m1.npz", "--data", "all", "--divide-by", "3", "--id", "C-9", *WRITES,
            match="--divide-by must be omitted: the model was fitted without")  # fmt: skip
    refused("unlearn", "m1.npz", "--data", "all", "--id", "C-3", *WRITES, match="ids must be ids of .*'C-3'|C-3")


def test_constants_of_the_table_are_no_constants_of_the_model(scene):
    table = open_records(X, target=WORD, ids=WHO)
    NewtonLogisticRegression(classes=["no", "yes"]).fit(table).save("python.npz")
    run("bounds", "all", *READ[:4], "--target-column", "word", "-o", "computed.csv")
    refused("unlearn", "python.npz", "--data", "all", *READ[:6], "--bounds", "computed.csv", "--id", "C-3", *WRITES,
            match="all: must be read as the data of fit were, not so that .*computed")  # fmt: skip


def test_outputs_may_not_be_the_table(scene):
    table = "all/part-0.parquet"
    run("fit", table, "--stream", *READ, *QUIET, "-o", "s.npz")
    refused("unlearn", "s.npz", "--data", table, "--id", "C-3", "-o", "x.npz", "-c", "x.json", "--ledger", table,
            match="must not be")  # fmt: skip


# --- the table without the rows ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
def test_the_table_is_written_without_the_deleted_rows(kind):
    write("all", kind=kind)
    before = listing()
    run("fit", "all", *READ, *QUIET, "-o", "m0.npz")
    run("unlearn", "m0.npz", "--data", "all", "--id", "C-3", "--id", "C-20", *WRITES)
    words = "additional 'C-3'.*; if they were deleted, verify the table without them .* --rewrite"
    refused("verify", "c.json", "all", "--evidence", "e.npz", "--model", "r.npz", match=words, code=1)
    found = run("purge", "m.npz", "--data", "all", "--rewrite", "now", "--id", "C-20", "--id", "C-3").output
    assert "written  now  (56 rows in 4 files)" in found
    assert re.search(
        rf"left out  4 rows: C-3 \(all/part-0\.{kind}, row 6\); .*C-20 \(all/part-2\.{kind}, row 11\)", found
    )
    assert "note  all still holds them: destroy it" in found
    run("verify", "c.json", "now", "--evidence", "e.npz", "--model", "r.npz")
    assert {name: content for name, content in listing().items() if name.startswith("all/")} == before
    run("unlearn", "m.npz", "--data", "now", "--id", "C-4", "-o", "n.npz", "-c", "d.json", "--evidence", "f.npz")
    run("purge", "n.npz", "--data", "now", "--rewrite", "later", "--others")
    run("verify", "d.json", "later", "--evidence", "f.npz", "--model", "n.npz")
    assert not any("unfinished" in name for name in listing())


@pytest.mark.parametrize("other", ["all", "./all/../all", "all/part-2.parquet", "link.parquet"])
def test_a_table_that_is_named_twice_is_refused(scene, other):
    os.symlink("all/part-2.parquet", "link.parquet")
    words = rf"--data: all/part-.\.parquet is named by all and by {re.escape(other)}: name each table once"
    outputs = ["-o", "x.npz", "-c", "x.json"]
    refused("unlearn", "m1.npz", "--data", "all", "--data", other, "--id", "C-4", *outputs, match=words)


def test_a_table_without_ids_goes_on_after_it_was_rewritten():
    alike = X.copy()
    alike[[21, 40]] = alike[20]  # of the same person or not: neighbours, and one far behind
    rows = pa.table({"a": alike[:, 0], "b": alike[:, 1], "word": WORD.tolist()})
    parquet.write_table(rows, "all.parquet", row_group_size=7)
    reading = ["--target-column", "word", "--classes", "no,yes"]
    run("fit", "all.parquet", "--stream", *reading, *QUIET, "-o", "m0.npz")
    names = ["-c", "c.json", "--evidence", "e.npz", "--released", "r.npz", "--overwrite"]
    run("unlearn", "m0.npz", "--data", "all.parquet", "--rows", "3,21", *names, "-o", "m1.npz")
    run("purge", "m1.npz", "--data", "all.parquet", "--rewrite", "first.parquet", "--others")
    run("unlearn", "m1.npz", "--data", "first.parquet", "--rows", "40,52", *names, "-o", "m2.npz")
    found = run("purge", "m2.npz", "--data", "first.parquet", "--rewrite", "second.parquet", "--others").output
    assert "left out  2 rows: first.parquet, row 38; first.parquet, row 50" in found
    run("verify", "c.json", "second.parquet", "--evidence", "e.npz", "--model", "r.npz")
    left = parquet.read_table("all.parquet").take(np.delete(EVERY, [3, 21, 40, 52]))
    assert parquet.read_table("second.parquet").equals(left)
    run("unlearn", "m2.npz", "--data", "first.parquet", "--rows", "0", *names, "-o", "m3.npz")  # not yet written anew


def test_rows_that_are_alike_are_not_chosen_between_where_they_may_differ():
    def rows(file, **more):
        changed = X.copy()
        changed[21] = changed[20]
        words = np.where(EVERY == 21, WORD[20], WORD)
        parquet.write_table(pa.table({"a": changed[:, 0], "b": changed[:, 1], "word": words, **more}), file)

    def twice_deleted(name, *options):
        reading = ["--features", "a,b", "--target-column", "word", "--classes", "no,yes", *options]
        run("fit", name, "--stream", *reading, *QUIET, "-o", "m0.npz", "--overwrite")
        out = ["-c", "c.json", "--evidence", "e.npz", "--released", "r.npz", "--overwrite"]
        run("unlearn", "m0.npz", "--data", name, "--rows", "3", *out, "-o", "m1.npz")
        run("purge", "m1.npz", "--data", name, "--rewrite", f"now-{name}", "--others")
        run("unlearn", "m1.npz", "--data", f"now-{name}", "--rows", "21", *out, "-o", "m2.npz")  # like 20
        return ["purge", "m2.npz", "--data", f"now-{name}", "--rewrite", f"new-{name}", "--others"]

    rows("whole.parquet")
    assert "left out  1 row: now-whole.parquet, row 20" in run(*twice_deleted("whole.parquet")).output
    rows("names.parquet", name=WHO)
    refused(*twice_deleted("names.parquet"),
            match=r"names.parquet, row 19 and now-names.parquet, row 20 have the same features and target")  # fmt: skip


def test_rows_that_were_never_learned_stay_unless_all_others_go(scene):
    more = {name: values[[0, 1]] for name, values in TABLE.items()}
    more["who"] = np.array(["N-1", "N-2"])
    parquet.write_table(pa.table(more), "all/part-9.parquet")
    found = run("purge", "m1.npz", "--data", "all", "--rewrite", "most", "--id", "C-3").output
    assert "kept  2 rows of other ids, of which the model has no record (--others)" in found
    assert "written  most  (60 rows in 5 files)" in found
    run("purge", "m1.npz", "--data", "all", "--rewrite", "less", "--others")
    run("verify", "c1.json", "less", "--evidence", "e1.npz", "--model", "r1.npz")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--data", "all"], "--data and --rewrite go together"),
        (["--rewrite", "new"], "--data and --rewrite go together"),
        (["--id", "C-3"], "--id goes with --data and --rewrite"),
        (["--divide-by", "3"], "--divide-by goes with --data and --rewrite"),
        (["--data", "all", "--rewrite", "new"], "say which rows to leave out: --id, or --others"),
        (["--data", "all", "--rewrite", "new", "--id", "C-3", "--others"], "say which rows to leave out"),
        (
            ["--data", "all", "--rewrite", "new", "--id", "C-9"],
            "got 'C-9', of whom the model has records: unlearn them",
        ),
        (["--data", "all", "--rewrite", "new", "--id", "X"], "--id must name ids of rows in the table, got 'X'"),
        (["--data", "now", "--rewrite", "new", "--others"], "now: holds no row that is no record of m1.npz"),
        (["--data", "all", "--rewrite", "now", "--others"], "destination: now already exists"),
        (["--data", "all", "--rewrite", "no/new", "--others"], "there is no folder"),
        (
            ["--data", "all", "--rewrite", "new", "--others", "--in-memory"],
            "--rewrite writes Parquet, Arrow and unpacked",
        ),
        (["--data", "all", "--rewrite", "new", "--others", "--successor", "m0.npz"], "--rewrite first"),
        (["--data", "bad", "--rewrite", "new", "--others"], "'C-20' of the model is not what it was"),
    ],
)
def test_a_purge_of_the_table_refuses(scene, arguments, match):
    write("bad", b=np.where(EVERY == 40, np.float32(0.5), X[:, 1]))
    refused("purge", "m1.npz", *arguments, match=match)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (
            lambda t: t.set_column(2, "b", pa.array([0.5] * len(t), pa.float32())),
            "of the model is not what it was when",
        ),
        (lambda t: t.slice(0, len(t) - 1), "got none for 1 record of it: 'C-"),
        (lambda t: t.filter(pa.compute.not_equal(t["who"], "N-1")), "new: must have 60 rows, got 59"),
    ],
)
def test_a_copy_that_is_not_the_table_is_taken_away(scene, monkeypatch, damage, match):
    import expunge.data.rewriting as rewriting

    more = {name: values[[0, 1]] for name, values in TABLE.items()}
    more["who"] = np.array(["N-1", "N-2"])
    parquet.write_table(pa.table(TABLE).slice(0, 0), "all/part-8.parquet")
    parquet.write_table(pa.table(more), "all/part-9.parquet")
    real = rewriting._parquet

    def written(shard, gone, path):
        real(shard, gone, path)
        if path.name in ("part-1.parquet", "part-9.parquet"):
            parquet.write_table(damage(parquet.read_table(path)), path)

    monkeypatch.setattr(rewriting, "_parquet", written)
    refused("purge", "m1.npz", "--data", "all", "--rewrite", "new", "--id", "C-3", match=match)


def test_a_model_with_rows_has_no_table_to_rewrite(scene):
    write("one", n=1)
    run("fit", "one/part-0.parquet", *READ, *QUIET, "-o", "o.npz")
    words = "--data is for models of tables: a NewtonLogisticRegression of rows holds its data"
    refused("purge", "o.npz", "--data", "all", "--rewrite", "new", "--others", match=words)


# --- memory --------------------------------------------------------------------------------------

STORY = """
import resource, sys
from expunge.cli import main
from expunge.data import blocks, open_records
import expunge.estimators, pyarrow.parquet, sklearn.metrics, expunge.certificates.residual

blocks._BLOCK_BYTES = 2**19  # of 32 MiB: a small table is much larger than the blocks that wait

def run(*arguments):
    main([*map(str, arguments)], standalone_mode=False)

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def story(table):
    read = ["--target", f"{table}-y"]
    run("fit", table, *read, "--classes", "0,1", "--noise-std", "1", "-o", f"{table}.npz", "-c", f"{table}.json")
    new = ["-o", f"{table}-1.npz", "-c", f"{table}-1.json"]
    run("unlearn", f"{table}.npz", "--data", table, *read, "--rows", "3", *new)
    run("verify", f"{table}.json", table, *read, "--evidence", f"{table}.npz", "--model", f"{table}.npz")

story("small")  # what libraries take once
before = used()
story("big")
print(used() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in KiB on Linux")
def test_a_table_larger_than_the_memory_that_is_used_is_fitted_unlearned_and_verified():
    n, d, shards = 24_000, 320, 6
    rng = np.random.default_rng(0)
    for name, rows in (("small", 600), ("big", n)):
        Path(name).mkdir()
        Path(f"{name}-y").mkdir()
        for i in range(shards):
            values = rng.uniform(-0.1, 0.1, size=(rows // shards, d))
            np.save(f"{name}/{i}.npy", values)
            np.save(f"{name}-y/{i}.npy", (values[:, 0] > 0).astype(np.int64))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", STORY], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    used = int(done.stdout.splitlines()[-1])
    assert used < n * d * 8 // 2, used
