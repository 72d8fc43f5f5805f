"""Deletions from the command line: the right person, and whole whenever the process was killed."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_calls import listing, run
from expunge.certificates import Certificate, model_digest
from expunge.cli.files import load_model, model_digests
from expunge.estimators import LangevinRidge
from expunge.ledger import Ledger
from killing import MOMENTS, Killed, killed_at

TARGET = ["--epsilon", "1", "--delta", "1e-3", "--n-steps", "5"]
N = 20


def refused(*arguments: object, match: str) -> None:
    before = listing()
    result = run(*arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1, result.stderr
    assert re.search(match, lines[0]), lines[0]
    assert listing() == before


def table(ids: list[object]) -> str:
    random = np.random.default_rng(0)
    X = random.normal(size=(N, 2))
    y = X @ [1.0, 2.0] + 0.1 * random.normal(size=N)
    lines = [f"{ids[i]},{X[i, 0]!r},{X[i, 1]!r},{y[i]!r}" for i in range(N)]
    return "\n".join(["customer_id,a,b,target", *lines]).replace("np.float64(", "").replace(")", "") + "\n"


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing of a test needs to outlive the machine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models whose ids are text and whole numbers: two rows of each person."""
    folder = tmp_path_factory.mktemp("made")
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _in(folder):
        for name, ids in (
            ("text", [f"CUST-{i // 2}" for i in range(N)]),
            ("whole", [2**53 + i // 2 for i in range(N)]),
        ):
            Path(f"{name}.csv").write_text(table(ids))
            run("fit", f"{name}.csv", "--id-column", "customer_id", "--n-steps", "20", "--noise-std", "0.3",
                "-o", f"{name}.npz")  # fmt: skip
        Path("none.csv").write_text(re.sub("(?m)^[^,]*,", "", table(list(range(N)))))
        run("fit", "none.csv", "--n-steps", "20", "--noise-std", "0.3", "-o", "none.npz")
    return folder


@contextlib.contextmanager
def _in(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def unlearn(model: Path, *whom: object, more: tuple[object, ...] = ()) -> Certificate:
    run("unlearn", model, *whom, "-o", "m1.npz", "-c", "c1.json", *TARGET, "--overwrite", *more)
    return Certificate.load("c1.json")


# --- the right person ---------------------------------------------------------------------------


def test_ids_rows_and_requests_name_the_same_people(made):
    assert unlearn(made / "text.npz", "--id", "CUST-3", "--id", "CUST-1").run.deleted == (2, 3, 6, 7)
    assert unlearn(made / "text.npz", "--rows", "6,2-3").run.deleted == (2, 3, 6)
    assert unlearn(made / "whole.npz", "--id", 2**53 + 1).run.deleted == (2, 3)
    assert unlearn(made / "none.npz", "6,7").run.deleted == (6, 7)
    assert unlearn(made / "none.npz", "--rows", "6,7").run.deleted == (6, 7)
    Path("requests.csv").write_text("request,customer_id,date\nR-1,CUST-3,2026-03-01\nR-2,CUST-1,\n")
    assert unlearn(made / "text.npz", "--requests", "requests.csv").run.deleted == (2, 3, 6, 7)


@pytest.mark.parametrize(
    "text",
    [
        "customer_id\nCUST-3\nCUST-1\n",
        "id;note\nCUST-3;x\nCUST-1;y\n",
        "\ufeffrecord_id\trequest\r\nCUST-3\tR-1\r\n\r\nCUST-1\tR-2\r\n",
        'request,id\n"R,1","CUST-3"\n R-2 ,CUST-1\n',
        "id\nCUST-3\nCUST-1\nCUST-3\n",
        "\n\nID,Request\nCUST-3,R-1\nCUST-1,R-2\n",
    ],
)
def test_requests_are_read_as_people_write_them(made, text):
    Path("requests.csv").write_text(text, newline="")
    assert unlearn(made / "text.npz", "--requests", "requests.csv").run.deleted == (2, 3, 6, 7)


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\x0b", "\x85", "\u2028", ",", '""'])
def test_an_id_of_a_request_may_hold_what_cells_may_hold(separator):
    written = [f"a{separator}{i}" for i in range(N)]
    Path("d.csv").write_text(table([f'"{one}"' for one in written]), newline="")
    run("fit", "d.csv", "--id-column", "customer_id", "--n-steps", "5", "--noise-std", "0.3", "-o", "m0.npz")
    Path("requests.csv").write_text(f'request,id\nR-1,"{written[7]}"\n', newline="")
    assert unlearn("m0.npz", "--requests", "requests.csv", more=("--ledger", "l")).run.deleted == (7,)
    (entry,) = Ledger("l").find(written[7].replace('""', '"'), salt=load_model("m0.npz").ledger_salt_)
    assert entry.requests[0].number == "R-1"


def test_numbers_of_requests_are_found_however_their_column_is_written(made):
    Path("requests.csv").write_text("ID,Request,Date\nCUST-3,R-1,2026-03-01\n")
    unlearn(made / "text.npz", "--requests", "requests.csv", more=("--ledger", "l"))
    (request,) = Ledger("l").entries()[0].requests
    assert (request.number, request.date) == ("R-1", "2026-03-01")


def test_any_column_of_requests_can_be_named(made):
    Path("requests.csv").write_text("id,who\n1,CUST-3\n")
    assert unlearn(made / "text.npz", "--requests", "requests.csv", "--request-id-column", "who").run.deleted == (6, 7)


@pytest.mark.parametrize(
    ("model", "arguments", "match"),
    [
        ("text", ["7"], r"7 could mean the id or the position"),
        ("text", ["--id", "CUST-99"], "got 'CUST-99', which no record has"),
        ("text", ["--id", ""], "empty"),
        ("text", ["--id", "7"], "got '7', which no record has"),
        ("whole", ["7"], "could mean the id or the position"),
        ("whole", ["--id", "7"], "got 7, which no record has"),
        ("whole", ["--id", "CUST-1"], "must be whole numbers.* got 'CUST-1'"),
        ("whole", ["--id", "9007199254740992.0"], "must be whole numbers"),
        ("whole", ["--id", "9007199254740_993"], "must be whole numbers"),
        ("whole", ["--id", " 9007199254740993"], "must be whole numbers"),
        ("whole", ["--id", "09007199254740993"], "must be whole numbers"),
        ("whole", ["--id", "9007199254740993", "--rows", "3"], "by one of"),
        ("whole", [], "by one of"),
        ("none", ["--id", "7"], "fit with --id-column"),
        ("none", ["7", "--rows", "7"], "by one of"),
        ("none", ["--rows", "3.5"], "must look like"),
        ("none", ["--rows", "20"], "rows must be within"),
        ("text", ["--requests", "none.csv"], "no file of requests"),
        ("text", ["--requests", "empty.csv"], "empty"),
        ("text", ["--requests", "header.csv"], "holds no request"),
        ("text", ["--requests", "other.csv"], "one column must be id or record_id or customer_id"),
        ("text", ["--requests", "two.csv"], "one column must be"),
        ("text", ["--requests", "blank.csv"], "line 3 names no id"),
        ("text", ["--requests", "spaced.csv"], "line 3: ids must have no spaces around them, got ' CUST-2'"),
        ("text", ["--requests", "wide.csv"], "line 2 has 3 columns, the header 2"),
        ("text", ["--requests", "day.csv"], "line 2: date of a request must look like"),
        ("text", ["--requests", "unknown.csv"], "line 3: .* got 'CUST-99', which no record has"),
        ("text", ["--requests", "lines.csv"], "is empty"),
        ("text", ["--requests", "case.csv"], "only one column may be request, got the columns request, Request"),
        ("text", ["--requests", "itself.csv"], "line 2: number of a request must not be the record id"),
        ("whole", ["--id", "9" * 5000], "must be whole numbers"),
        ("whole", ["--requests", "header2.csv"], "got 'x7' in line 2 of header2.csv"),
        ("text", ["--requests", "good.csv", "--request", "R-1"], "a file of requests has columns"),
        ("text", ["--id", "CUST-1", "--request", ""], "number of a request"),
        ("text", ["--id", "CUST-1", "--request-date", "yesterday"], "date of a request"),
    ],
)
def test_whom_is_said_exactly_or_refused(made, model, arguments, match):
    for name, text in {
        "empty": "",
        "header": "id\n",
        "other": "name\nCUST-1\n",
        "two": "id,record_id\nCUST-1,CUST-2\n",
        "blank": "id,request\nCUST-1,R\n ,R-2\n",
        "spaced": "id,request\nCUST-1,R\n CUST-2,R-2\n",
        "wide": "id,request\nCUST-1,R,x\n",
        "day": "id,date\nCUST-1,01.03.2026\n",
        "unknown": "id\nCUST-1\nCUST-99\n",
        "header2": "id\nx7\n",
        "lines": "\n\n",
        "case": "id,request,Request\nCUST-1,R,S\n",
        "itself": "id,request\nCUST-1,CUST-1\n",
        "good": "id\nCUST-1\n",
    }.items():
        Path(f"{name}.csv").write_text(text)
    refused("unlearn", made / f"{model}.npz", *arguments, "-o", "m.npz", "-c", "c.json", *TARGET, match=match)


def test_who_is_gone_is_gone(made):
    unlearn(made / "text.npz", "--id", "CUST-3")
    refused("unlearn", "m1.npz", "--id", "CUST-3", "-o", "m2.npz", "-c", "c2.json", *TARGET,
            match="'CUST-3', deleted before")  # fmt: skip


def test_the_ledger_tells_of_requests_and_of_no_id(made):
    Path("requests.csv").write_text("request,customer_id,date\nR-1,CUST-3,2026-03-01\nR-2,CUST-1,\n")
    unlearn(made / "text.npz", "--requests", "requests.csv", more=("--ledger", "l"))
    run("unlearn", "m1.npz", "--id", "CUST-5", "--request", "R-9", "-o", "m2.npz", "-c", "c2.json", *TARGET,
        "--ledger", "l")  # fmt: skip
    run("unlearn", "m2.npz", "--rows", "0,1,4", "-o", "m3.npz", "-c", "c3.json", *TARGET, "--ledger", "l")
    text = Path("l").read_text()
    assert "CUST" not in text
    ledger = Ledger("l")
    salt = load_model("m3.npz").ledger_salt_
    assert salt == load_model(str(made / "text.npz")).ledger_salt_
    assert salt.hex() not in text
    assert [[one.number for one in entry.requests] for entry in ledger.entries()] == [["R-1", "R-2"], ["R-9"], [None]]
    assert ledger.entries()[0].requests[0].date == "2026-03-01"
    # Of the person of row 4 one row is left.
    for person, entries in (("CUST-3", [1]), ("CUST-1", [1]), ("CUST-5", [2]), ("CUST-0", [3]), ("CUST-2", [])):
        assert [entry.entry for entry in ledger.find(person, salt=salt)] == entries
    assert "CUST" not in Path("c3.json").read_text()
    shown = run("ledger", "show", "l").output
    assert "R-1" in shown
    assert "R-9" in shown


def test_constants_of_the_noise_reach_the_deletion(made):
    free = unlearn(made / "none.npz", "3", more=("--noise-std", "5")).run
    assert free.phases[-1].noise_std == 5.0
    grid = unlearn(made / "none.npz", "3", more=("--noise-grid", "0.0001,4,8")).run
    assert grid.phases[-1].noise_std in (0.0001, 4.0)
    power = unlearn(made / "none.npz", "3", more=("--noise-grid", "powers")).run.phases[-1].noise_std
    assert power == 0 or abs(np.log2(power) * 4 - round(np.log2(power) * 4)) < 1e-9
    for options, match in (
        (["--noise-grid", "a,b"], "noise_grid must be powers, or numbers"),
        (["--noise-std", "5", "--noise-grid", "powers"], "at most one of"),
        (["--noise-std", "5", "--max-loss", "0"], "max_loss|costs|loss"),
    ):
        refused("unlearn", made / "none.npz", "3", "-o", "m.npz", "-c", "c.json", *TARGET, *options, match=match)
    output = run("unlearn", made / "none.npz", "3", "-o", "m.npz", "-c", "c.json", *TARGET).output
    assert re.search(r"before \d\.\d+, after -?\d+\.\d+, without noise \d\.\d+", output)
    for condition in Certificate.load("c.json").conditions:
        assert condition in output


def test_quotes_by_id_and_by_row(made):
    run("quote", made / "whole.npz", *TARGET, "--by-id", "-o", "q.json")
    assert [one["id"] for one in json.loads(Path("q.json").read_text())["ids"]] == [
        str(2**53 + i) for i in range(N // 2)
    ]
    run("quote", made / "text.npz", *TARGET, "--id", "CUST-3", "-o", "q.json", "--overwrite")
    assert [one["id"] for one in json.loads(Path("q.json").read_text())["ids"]] == ["CUST-3"]
    run("quote", made / "text.npz", *TARGET, "--rows", "3", "-o", "q.json", "--overwrite")
    refused("quote", made / "text.npz", *TARGET, "--indices", "3", match="could mean the id or the position")
    refused("quote", made / "whole.npz", *TARGET, "--id", "9007199254740_993", match="whole numbers")
    assert stat.S_IMODE(Path("q.json").stat().st_mode) == 0o600


# --- whole, whenever it was killed --------------------------------------------------------------

CALL = ["unlearn", "m0.npz", "--id", "CUST-3", "--request", "R-1", "-o", "m1.npz", "-c", "c1.json",
        "--released", "out/r1.npz", "--ledger", "book/l", *TARGET]  # fmt: skip
FILES = ["book/l", "c1.json", "m0.npz", "m1.npz", "out/r1.npz"]


def scene(made: Path, place: Path, *, entered: bool = False) -> None:
    """Lay out a folder as a command finds it; with a ledger that holds an earlier deletion, or without one."""
    for folder in (place, place / "out", place / "book"):
        folder.mkdir()
    os.chdir(place)
    Path("m0.npz").write_bytes((made / "text.npz").read_bytes())
    if entered:
        run("unlearn", "m0.npz", "--id", "CUST-0", "-o", "a.npz", "-c", "a.json", *TARGET, "--ledger", "book/l")
        Path("a.npz").replace("m0.npz")
        Path("a.json").unlink()


def check_whole(entries: int) -> None:
    """Check that model, certificate, release and ledger are those of one deletion, and nothing else is there."""
    assert sorted(str(file) for file in Path().rglob("*") if file.is_file()) == FILES
    proof, model = Certificate.load("c1.json"), load_model("m1.npz")
    before = load_model("m0.npz")
    assert set(proof.run.deleted) >= {6, 7}
    assert proof.digests.model in model_digests(model)
    assert proof.run.phases == model._history.phases
    data = np.loadtxt(io.StringIO(table(list(range(N)))), delimiter=",", skiprows=1, usecols=(1, 2, 3))
    proof.verify(data[:, :2], data[:, 2], load_model("out/r1.npz", released=True))
    ledger = Ledger("book/l")
    ledger.check(model=proof.digests.model)
    found = ledger.entries()
    assert len(found) == entries
    assert found[-1].certificate == proof.digest()
    assert found[-1].model_before in model_digests(before)
    assert ledger.find("CUST-3", salt=model.ledger_salt_) == found[-1:]
    for name in ("book/l", "c1.json", "m1.npz"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600


@pytest.mark.parametrize(("moment", "entered"), [("before", False), ("halfway", False), ("after", True)])
def test_killed_at_any_call_the_same_command_ends_or_begins_anew(made, tmp_path, moment, entered):
    saw, skipped = [], set()
    if moment == "halfway":  # the other calls have no half
        scene(made, tmp_path / "dry")
        with killed_at(10**6, moment) as calls:
            run(*CALL)
        skipped = {i for i, name in enumerate(calls, start=1) if name != "write"}
    scene(made, tmp_path / "first", entered=entered)
    model, ledger = Path("m0.npz").read_bytes(), listing().get("book/l")
    for number in itertools.count(1):
        if number in skipped:
            continue
        place = tmp_path / str(number)
        for folder in (place, place / "out", place / "book"):
            folder.mkdir()
        os.chdir(place)
        Path("m0.npz").write_bytes(model)
        if ledger is not None:
            Path("book/l").write_bytes(ledger)
        try:
            with killed_at(number, moment) as calls:
                run(*CALL)
        except Killed:
            pass
        else:
            break
        left = listing()
        proofs = [data for data in left.values() if data.startswith(b"{") and b"cannot_show" in data]
        output = run(*CALL).output
        check_whole(1 + entered)
        if "finished" in output or "done already" in output:
            assert Path("c1.json").read_bytes() in proofs  # the deletion that was decided, not another one
        saw.append((calls[-1], re.match("finished|done|[a-z]*", output).group()))
    outcomes = [said for _, said in saw]
    if moment != "halfway":
        assert {"open", "write", "fsync", "replace", "chmod", "unlink", "flock"} <= {name for name, _ in saw}
        assert {"finished", "conditional"} <= set(outcomes)
    assert len(saw) > 5
    assert set(outcomes) <= {"finished", "conditional", "done", "certified"}
    assert sorted(outcomes, key=["conditional", "certified", "finished", "done"].index) == outcomes
    check_whole(1 + entered)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_process_that_is_really_killed(made, tmp_path):
    scene(made, tmp_path / "place")
    code = f"""
import os, signal, sys
real, count = os.replace, 0
def last(*args, **named):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **named)
os.replace = last
from expunge.cli import main
main({CALL!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [name for name in os.listdir() if name.startswith(".expunge-")]
    run(*CALL)
    check_whole(1)


@pytest.mark.parametrize("command", ["fit", "quote"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_fits_and_quotes_are_whole_too(made, tmp_path, command, moment):
    arguments = {
        "fit": ["fit", made / "text.csv", "--id-column", "customer_id", "--n-steps", "5", "--noise-std", "0.3",
                "-o", "a.npz", "--released", "b.npz"],
        "quote": ["quote", made / "text.npz", *TARGET, "--by-id", "-o", "a.json", "-o", "b.json"],
    }[command]  # fmt: skip
    for number in itertools.count(1):
        (tmp_path / str(number)).mkdir()
        os.chdir(tmp_path / str(number))
        try:
            with killed_at(number, moment) as calls:
                run(*arguments)
        except Killed:
            pass
        else:
            break
        if len(listing()) == 2 and not any(name.startswith(".") for name in listing()):
            continue  # killed when all was done
        run(*arguments)
        assert len(listing()) == 2
        if command == "fit":
            np.testing.assert_array_equal(load_model("a.npz").coef_, load_model("b.npz", released=True).coef_)
        else:
            assert Path("a.json").read_text() == Path("b.json").read_text()
    assert number > 10
    assert calls


def test_another_command_ends_what_was_begun(made, tmp_path):
    scene(made, tmp_path / "place")
    with killed_at(10**6, "before") as calls:
        run(*CALL)
    renames = [i for i, name in enumerate(calls, start=1) if name == "replace"]
    scene(made, tmp_path / "again")
    with pytest.raises(Killed), killed_at(renames[-2], "before"):  # model or so is there, the ledger is not
        run(*CALL)
    run("unlearn", "m0.npz", "--id", "CUST-1", "-o", "other.npz", "-c", "other.json", *TARGET)
    assert Certificate.load("other.json").run.deleted == (2, 3)
    for name in ("other.npz", "other.json"):
        Path(name).unlink()
    assert "done already" in run(*CALL).output
    check_whole(1)


def test_a_repeated_deletion_is_neither_doubled_nor_refused(made, tmp_path):
    scene(made, tmp_path / "place")
    run(*CALL)
    before = listing()
    assert "done already" in run(*CALL).output
    assert "done already" in run(*CALL, "--overwrite").output
    assert listing() == before
    refused(*[one if one != "CUST-3" else "CUST-4" for one in CALL], match="already exists")
    refused(*[one if one != "1e-3" else "1e-4" for one in CALL], match="already exists")


@pytest.mark.parametrize("ledger", [False, True])
@pytest.mark.parametrize(
    "other", [["--noise-std", "50"], ["--noise-grid", "powers"], ["--key", "key.pem"], ["--request", "9"]]
)
def test_a_deletion_done_in_another_way_is_not_taken_for_done(made, tmp_path, other, ledger):
    scene(made, tmp_path / "place")
    run("keygen", "key.pem", "key.pub.pem")
    call = ["unlearn", "m0.npz", "--id", "CUST-3", *TARGET, "-o", "m1.npz", "-c", "c1.json"]
    call += ["--ledger", "l"] if ledger else []
    run(*call)
    if other[0] == "--request" and not ledger:  # a number is for the ledger alone
        assert "done already" in run(*call, *other).output
    else:
        refused(*call, *other, match="already exists")
    run(*[one.replace("1.", "2.") for one in call if one not in ("--ledger", "l")], *other)
    assert (
        "done already" in run(*[one.replace("1.", "2.") for one in call if one not in ("--ledger", "l")], *other).output
    )


def test_a_deletion_from_another_model_is_not_taken_for_done(made, tmp_path):
    scene(made, tmp_path / "place")
    call = [*CALL[: CALL.index("--ledger")], *TARGET]
    run(*call)
    assert "done already" in run(*call).output
    for steps in (20, 21):  # learned anew, with the same settings or with others
        run("fit", made / "text.csv", "--id-column", "customer_id", "--n-steps", steps, "--noise-std", "0.3",
            "-o", "m0.npz", "--overwrite")  # fmt: skip
        refused(*call, match="already exists")


# --- where files may go -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"-o": "m0.npz"}, r"--output \(m0.npz\) must not be MODEL"),
        ({"-o": "out/../m0.npz"}, "must not be MODEL"),
        ({"-o": "hard.npz"}, "must not be MODEL"),
        ({"-o": "soft.npz"}, "symbolic link"),
        ({"-c": "soft.json"}, "symbolic link"),
        ({"--ledger": "soft.json"}, "symbolic link"),
        ({"--ledger": "c1.json"}, r"--certificate \(c1.json\) must not be --ledger"),
        ({"--ledger": "m0.npz"}, "must not be MODEL"),
        ({"--released": "m1.npz"}, r"must not be --released"),
        ({"--ledger": "no/l"}, "the folder no does not exist"),
        ({"--ledger": "out"}, "is a folder"),
    ],
)
def test_outputs_inputs_and_ledger_are_different_files(made, tmp_path, changes, match):
    scene(made, tmp_path / "place")
    os.link("m0.npz", "hard.npz")
    Path("soft.npz").symlink_to("m0.npz")
    Path("soft.json").symlink_to("nowhere")
    call = list(CALL)
    for option, value in changes.items():
        call[call.index(option) + 1] = value
    refused(*call, "--overwrite", match=match)
    assert Path("soft.json").is_symlink()


def test_a_key_and_requests_are_inputs_too(made, tmp_path):
    scene(made, tmp_path / "place")
    run("keygen", "key.json", "pub.pem")
    refused("unlearn", "m0.npz", "--id", "CUST-1", "-o", "m1.npz", "-c", "key.json", "--key", "key.json", *TARGET,
            "--overwrite", match="must not be --key")  # fmt: skip
    Path("requests.json").write_text("id\nCUST-1\n")
    refused("unlearn", "m0.npz", "--requests", "requests.json", "-o", "m1.npz", "-c", "requests.json", *TARGET,
            "--overwrite", match="must not be --requests")  # fmt: skip
    refused("keygen", "key.pem", "key.pem", match="must differ")


def test_loose_permissions_are_tightened(made, tmp_path):
    scene(made, tmp_path / "place")
    for name in ("m1.npz", "c1.json"):
        Path(name).write_bytes(b"")
        Path(name).chmod(0o644)
    run(*CALL, "--overwrite")
    check_whole(1)


def test_models_made_in_python_have_no_less(made):
    """The same file formats: a model saved by the library is deleted from at the command line."""
    model = LangevinRidge(n_steps=20, noise_std=0.5).fit(np.eye(6), np.ones(6), record_ids=list("abcdef"))
    model.save("m.npz")
    assert unlearn(Path("m.npz"), "--id", "c").run.deleted == (2,)
    assert model_digest(np.zeros(2)) != Certificate.load("c1.json").digests.model
