"""Commands on Langevin models of tables that stay where they lie: what arrays give, from the sums over a table."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from command_calls import refused, run
from expunge.certificates import CONDITIONS, Certificate
from expunge.cli.files import load_model
from expunge.data import blocks
from expunge.ledger import Ledger

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 100
RNG = np.random.default_rng(3)
X = (RNG.integers(-255, 256, size=(N, 3)) / 256).astype(np.float32)  # the same numbers in text
NUMBER = (X @ [1.0, 2.0, -1.0] + 0.1 * RNG.normal(size=N)).round(3)
WORD = np.where(NUMBER > 0, "yes", "no")
RARE = np.where(np.arange(N) == 7, "rare", WORD)
CODE = (NUMBER > 0).astype(np.int64)
WHO = np.array([f"C-{i // 2}" for i in range(N)])  # two rows each
TABLE = {"who": WHO, "a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "word": WORD, "rare": RARE, "code": CODE,
         "number": NUMBER}  # fmt: skip
EVERY = np.arange(N)
READ = ["--id-column", "who", "--features", "a,b,c"]
RUN = ["--model", "langevin-ridge", "--step-size", "1e-3", "--n-steps", "2000", "--noise-std", "1e-4"]
KINDS = {
    "classes": ["--target-column", "word", "--classes", "no,yes"],
    "taken": ["--target-column", "word"],
    "codes": ["--target-column", "code", "--task", "classify"],
    "number": ["--target-column", "number", "--task", "regress"],
}


def write(folder: str, rows: np.ndarray = EVERY, *, n: int = 3) -> None:
    """Write a folder of shards with some rows of the table."""
    Path(folder).mkdir()
    for i, part in enumerate(np.array_split(np.asarray(rows), n)):
        columns = {name: values[part] for name, values in TABLE.items()}
        parquet.write_table(pa.table(columns), f"{folder}/part-{i}.parquet", row_group_size=20)


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    """Blocks of 32 rows, for what is made once too: digests depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCK_BYTES", 32 * 8 * 3)
        patch.setattr(blocks, "_LEAST", 8)
        patch.setattr(os, "fsync", lambda descriptor: None)  # nothing of a test needs to outlive the machine
        yield


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def made(_small_blocks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table, a model of it, and a deletion with everything that a deletion writes."""
    folder, before = tmp_path_factory.mktemp("made"), os.getcwd()
    os.chdir(folder)
    try:
        write("all")
        run("fit", "all", *READ, *KINDS["classes"], *RUN, "-o", "m0.npz", "--released", "r0.npz")
        run("unlearn", "m0.npz", "--data", "all", "--id", "C-3", "--request", "R-1", "--ledger", "l", "-o", "m1.npz",
            "-c", "c1.json", "--released", "r1.npz")  # fmt: skip
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def scene(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("kind", "method"), [*((kind, "exact") for kind in KINDS), ("taken", "shifted"), ("number", "uniform")]
)
def test_a_table_gives_what_its_rows_in_memory_give(kind, method):
    write("all")
    options = [*READ, *KINDS[kind], *RUN, "--random-state", "0"]
    found = run("fit", "all", *options, "-o", "m.npz", "--released", "r.npz").output
    memory = run("fit", "all", "--in-memory", *options, "-o", "o.npz").output
    assert "learned from 100 records about 50 ids of 3 features in 2,000 steps" in found
    same = ("training", "certificates will be conditional")
    assert [line for line in found.splitlines() if line.startswith(same)] == [
        line for line in memory.splitlines() if line.startswith(same)
    ]
    assert "the program that ran: --random-state, the table is read in blocks\n" in found
    assert "the program that ran: --random-state\n" in memory
    assert (CONDITIONS["classes"] in found) == (kind in ("taken", "codes"))
    assert "it holds sums over the records, and no row" in found
    mine, theirs = load_model("m.npz"), load_model("o.npz")
    np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-9, atol=1e-9)
    assert mine.reading_ == theirs.reading_
    assert mine.conditions_ == theirs.conditions_
    noise, unit = [], "record" if method == "uniform" else "id"
    people = ["--by-id"] if unit == "id" else []
    for model, data in (("m", ["--data", "all"]), ("o", [])):
        run("quote", f"{model}.npz", *data, "--method", method, *people, "-o", f"{model}.parquet")
        run("unlearn", f"{model}.npz", *data, "--id", "C-3", "--method", method, "-o", f"{model}1.npz", "-c",
            f"{model}.json")  # fmt: skip
        proof = Certificate.load(f"{model}.json")
        noise.append((proof.run.phases[-1].noise_std, proof.run.deleted, proof.conditions))
        for source in ("all", ["all", "--in-memory"]):
            run("verify", f"{model}.json", *([source] if isinstance(source, str) else source), "--model",
                f"{model}1.npz")  # fmt: skip
    assert noise[0][0] == pytest.approx(noise[1][0], rel=1e-6)
    assert noise[0][1:] == noise[1][1:]
    assert noise[0][1] == (6, 7)
    mine, theirs = (parquet.read_table(f"{model}.parquet") for model in "mo")
    assert mine.column(unit).to_pylist() == theirs.column(unit).to_pylist()
    np.testing.assert_allclose(mine.column("noise_std"), theirs.column("noise_std"), rtol=1e-6)


def test_later_commands_take_the_table_with_or_without_deleted_rows(scene):
    shown = run("purge", "m1.npz", "--data", "all", "--rewrite", "first", "--id", "C-3").output
    assert "left out  2 rows: C-3 (all/part-0.parquet, row 6); C-3 (all/part-0.parquet, row 7)" in shown
    assert "certificates of deletions are verified on it" in shown
    later = ["--ledger", "l", "-o", "m2.npz", "-c", "c2.json"]
    shown = run("unlearn", "m1.npz", "--data", "first", "--id", "C-9", "--id", "C-0", *later).output
    assert "still in the table: C-0 (first/part-0.parquet, row 0); C-0 (first/part-0.parquet, row 1); C-9" in shown
    # Of the second model: the table of the fit, the one written after the first deletion, and the last.
    shown = run("purge", "m2.npz", "--data", "first", "--rewrite", "second", "--others").output
    assert "left out  4 rows: C-0 (first/part-0.parquet, row 0)" in shown
    assert parquet.read_table("second").column("who").to_pylist() == [
        one for one in WHO.tolist() if one not in ("C-0", "C-3", "C-9")
    ]
    quotes = []
    for data in ("all", "first", "second"):
        run("quote", "m2.npz", "--data", data, "--id", "C-5", "-o", f"{data}.json")
        quotes.append(Path(f"{data}.json").read_text())
    assert len(set(quotes)) == 1
    run("verify", "c2.json", "all", "--model", "m2.npz")
    refused("verify", "c2.json", "second", "--model", "m2.npz", code=1, match="verified on the data of its fit")
    write("short", EVERY[1:])
    refused("quote", "m2.npz", "--data", "short", match=r"100 records of the fit, or the 94 that are left of them "
            r"\(or 98 of before\), got 99")  # fmt: skip
    entries = Ledger("l").entries()
    assert [len(entry.requests) for entry in entries] == [1, 2]
    assert entries[0].requests[0].number == "R-1"


def test_another_table_is_refused(scene):
    write("swapped", np.r_[1, 0, 2:N])
    refused("quote", "m0.npz", "--data", "swapped", "--id", "C-1", match="in their order, got others")
    refused("unlearn", "m0.npz", "--data", "swapped", "--id", "C-1", "-o", "x.npz", "-c", "x.json", match="got others")
    refused("purge", "m1.npz", "--data", "swapped", "--rewrite", "x", "--others", match="got others")


def test_several_tables_are_one_in_the_order_in_which_they_are_named(scene):
    write("head", EVERY[:50])
    write("tail", EVERY[50:], n=1)
    parts = ["--data", "head", "--data", "tail"]
    run("quote", "m0.npz", "--data", "all", "-o", "one.json")
    run("quote", "m0.npz", *parts, "-o", "parts.json")
    assert Path("one.json").read_bytes() == Path("parts.json").read_bytes()
    shown = run("unlearn", "m0.npz", *parts, "--rows", "49,50", "-o", "x.npz", "-c", "x.json").output
    assert "C-24 (head/part-2.parquet, row 15); C-25 (tail/part-0.parquet, row 0)" in shown
    refused("quote", "m0.npz", "--data", "tail", "--data", "head", match="in their order, got others")


def test_people_are_named_by_id_row_and_request(scene):
    Path("r.csv").write_text("who,request,date\nC-9,R-2,2026-03-01\nC-4,R-3,2026-03-02\n")
    deleted = []
    for name, whom in {
        "ids": ["--id", "C-9", "--id", "C-4", "--request", "R"],
        "rows": ["--rows", "8,9,18,19"],
        "file": ["--requests", "r.csv"],
    }.items():
        again = ["unlearn", "m0.npz", "--data", "all", *whom, "-o", f"{name}.npz", "-c", f"{name}.json"]
        run(*again, "--ledger", f"{name}.ledger")
        written = Path(f"{name}.npz").read_bytes()
        assert "done already" in run(*again, "--ledger", f"{name}.ledger").output
        assert Path(f"{name}.npz").read_bytes() == written
        deleted.append(Certificate.load(f"{name}.json").run.deleted)
        (entry,) = Ledger(f"{name}.ledger").entries()
        assert len(entry.requests) == 2
    assert deleted == [(8, 9, 18, 19)] * 3
    other = ["-o", "ids.npz", "-c", "ids.json", "--ledger", "ids.ledger"]
    refused("unlearn", "m0.npz", "--data", "all", "--id", "C-9", *other, match="exist")
    more = ["-o", "x.npz", "-c", "x.json"]
    Path("r.csv").write_text("who\nC-9000\n")
    refused("unlearn", "m0.npz", "--data", "all", "--requests", "r.csv", *more, match="line 2: ids must .*'C-9000'")
    refused("unlearn", "m1.npz", "--data", "all", "--id", "C-3", *more, match="'C-3', which no record in use has")
    refused("unlearn", "m1.npz", "--data", "all", "--rows", "6", *more, match="got 6, which was deleted before")
    refused("unlearn", "m0.npz", "--data", "all", "6", *more, match="indices are ambiguous")
    refused("quote", "m0.npz", "--data", "all", "--indices", "6", match="--indices is for models without ids")


def test_the_last_record_of_a_class_that_the_data_named_is_not_deleted_silently():
    write("all")
    options = ["fit", "all", *READ, "--target-column", "rare", *RUN, "-o", "m.npz"]
    assert f"certificates will be conditional: {CONDITIONS['classes']}" in run(*options).output
    delete = ["unlearn", "m.npz", "--data", "all", "--id", "C-3", "-o", "m1.npz", "-c", "c.json"]
    refused(*delete, match="leaves no record of class 'rare'")
    run(*delete, "--last-of-class", "conditional")
    assert CONDITIONS["last_of_class"] in Certificate.load("c.json").conditions
    run("verify", "c.json", "all", "--model", "m1.npz")
    run(*options, "--classes", "no,rare,yes", "--overwrite")
    run(*delete, "--overwrite")
    assert CONDITIONS["last_of_class"] not in Certificate.load("c.json").conditions


def test_what_such_models_do_not_do_is_said(scene):
    names = ["-o", "x.npz", "-c", "x.json"]
    refused("unlearn", "m0.npz", "--id", "C-1", *names, match="file holds none of the records: name the table")
    refused("quote", "m0.npz", match="file holds none of the records: name the table")
    refused("fit", "all", *READ, *KINDS["number"], *RUN, "--weight-column", "code", "-o", "x.npz", match="weigh")
    refused("amend", "m0.npz", "all/part-0.parquet", "--data", "all", *names, match="can only forget: fit with")
    refused("add", "m0.npz", "all/part-0.parquet", "--data", "all", *names, match="can only forget: fit with")
    refused("report", "c1.json", "-o", "x.html", match="of a Langevin run, of which there is no page")
    refused("verify", "c1.json", "all", "--model", "m1.npz", "--prove", match="pass --in-memory")
    refused("unlearn", "m0.npz", "--data", "all", "--id", "C-1", "--evidence", "e.npz", *names, match="--evidence is")
    run("fit", "all", "--in-memory", *READ, *KINDS["number"], *RUN, "-o", "rows.npz")
    refused("quote", "rows.npz", "--data", "all", match="--data is for models of tables")
    refused("unlearn", "rows.npz", "--data", "all", "--id", "C-1", *names, match="--data is for models of tables")


def test_models_of_tables_are_shown_used_and_purged(scene):
    assert "nothing to do" in run("purge", "m1.npz").output
    assert "1 deletion" in run("ledger", "show", "l").output
    run("release", "m1.npz", "--released", "again.npz")
    assert Path("again.npz").read_bytes() == Path("r1.npz").read_bytes()
    for model in ("m1.npz", "r1.npz"):
        run("predict", model, "all", "-o", f"{model}.csv")
    assert Path("m1.npz.csv").read_bytes() == Path("r1.npz.csv").read_bytes()
    assert "on 100 records" in run("evaluate", "r1.npz", "all").output
    assert "REMOVE_GROUP" in run("show", "c1.json").output
    assert "destroyed" in run("purge", "m0.npz", "--successor", "m1.npz").output


def test_patterns_name_some_files_and_several_tables_are_verified_as_one(scene):
    run("quote", "m0.npz", "--data", "all", "-o", "one.json")
    run("quote", "m0.npz", "--data", "all/part-*.parquet", "-o", "pattern.json")
    assert Path("one.json").read_bytes() == Path("pattern.json").read_bytes()
    parts = ["all/part-[01].parquet", "all/part-2.parquet"]
    run("verify", "c1.json", *parts, "--model", "r1.npz")
    refused("verify", "c1.json", *parts[::-1], "--model", "r1.npz", code=1, match="digests.X: ")
    refused("verify", "c1.json", *parts, parts[1], "--model", "r1.npz", code=1, match="run.n_records: must be")
    refused("quote", "m0.npz", "--data", "all/part-?.csv", match="there is no file all/part-")
