"""Models by computed residual from the command line: fit, forget, correct, add, verify, prove absence, quote."""

from __future__ import annotations

import itertools
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from command_calls import listing, refused, run
from expunge import LangevinRidge, NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier
from expunge.certificates import CONDITIONS, load
from expunge.certificates.residual import AbsenceProof, ResidualCertificate, ResidualEvidence
from expunge.cli.files import load_evidence, load_model
from expunge.data import open_records
from expunge.ledger import Ledger
from killing import Killed, killed_at

N = 24
NAMES = ["customer_id", "a", "b", "target", "buys"]
WAYS = ["--id-column", "customer_id", "--features", "a,b"]


def people() -> list[list[str]]:
    """Return a table of twelve people with two rows each, a number and a class."""
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, size=(N, 2)).round(4)
    y = (X @ [1.0, 2.0] + 0.1 * random.normal(size=N)).round(4)
    classes = np.where(y > 0, "yes", "no").tolist()
    return [[f"CUST-{i // 2}", *map(str, X[i].tolist()), str(y[i]), classes[i]] for i in range(N)]


def write(name: str, rows: list[list[str]], *, names: list[str] | None = None) -> None:
    Path(name).write_text("\n".join(",".join(row) for row in [names or NAMES, *rows]) + "\n")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    for note in made.glob("*.next"):  # that another test made a release from a model
        note.unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing of a test needs to outlive the machine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the table, models of it, and one deletion with everything that a deletion writes."""
    folder, before = tmp_path_factory.mktemp("made"), os.getcwd()
    os.chdir(folder)
    try:
        rows = people()
        write("all.csv", rows)
        write("now.csv", [row for row in rows if row[0] != "CUST-3"])
        run("fit", "all.csv", *WAYS, "--target-column", "buys", "--classes", "no,yes", "-o", "m0.npz", "-c", "c0.json",
            "--evidence", "e0.npz", "--released", "r0.npz", "--ledger", "l")  # fmt: skip
        run("unlearn", "m0.npz", "--id", "CUST-3", "--request", "R-1", "-o", "m1.npz", "-c", "c1.json",
            "--evidence", "e1.npz", "--released", "r1.npz", "--ledger", "l")  # fmt: skip
        run("fit", "all.csv", *WAYS, "--target-column", "target", "--task", "regress", "-o", "ridge.npz")
        run("fit", "all.csv", "--features", "a,b", "--target-column", "target", "--task", "regress",
            "-o", "numbered.npz")  # fmt: skip
        run("fit", "all.csv", *WAYS, "--target-column", "target", "--task", "regress", "--n-steps", "20",
            "-o", "langevin.npz")  # fmt: skip
        X, who = np.array([row[1:3] for row in rows], dtype=float), [row[0] for row in rows]
        arrays = NewtonLogisticRegression(classes=["no", "yes"]).fit(X, [row[4] for row in rows], record_ids=who)
        arrays.save("arrays.npz")
    finally:
        os.chdir(before)
    return folder


READ = [*WAYS, "--target-column", "buys"]
OUT = ["-o", "m.npz", "-c", "c.json", "--evidence", "e.npz", "--released", "r.npz"]


# --- what is fitted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "options", "kind", "loss"),
    [
        ("breast_cancer", ["--divide-by", "1000"], NewtonLogisticRegression, "logistic"),
        ("iris", [], NewtonLogisticRegression, "softmax"),
        ("iris", ["--model", "logistic"], NewtonLogisticRegression, "logistic"),
        ("iris", ["--model", "softmax"], NewtonLogisticRegression, "softmax"),
        ("iris", ["--model", "ridge"], NewtonRidgeClassifier, "squared"),
        ("diabetes", ["--task", "regress"], NewtonRidge, "squared"),
        ("iris", ["--model", "ridge", "--task", "regress"], NewtonRidge, "squared"),
    ],
)
def test_fit_takes_the_model_that_the_answers_or_the_option_name(data, options, kind, loss):
    output = run("fit", data, *options, "-o", "m.npz", "-c", "c.json").output
    assert f"as {kind.__name__}, {loss} loss" in output
    model = load_model("m.npz")
    assert type(model) is kind
    assert ResidualCertificate.load("c.json") == model.certificate_
    assert model.certificate_.loss == loss


def test_settings_of_fit_reach_the_claim():
    run("fit", "iris", "-o", "m.npz", "--alpha", "2.5", "--noise-std", "0.25", "--epsilon", "0.5", "--delta", "1e-6",
        "--releases", "7", "--no-intercept", "--classes", "0,1,2")  # fmt: skip
    claim = load_model("m.npz").certificate_
    assert (claim.alpha, claim.noise_std, claim.epsilon, claim.delta, claim.releases) == (2.5, 0.25, 0.5, 1e-6, 7)
    assert not claim.model.fit_intercept
    assert claim.certified


def test_an_option_of_langevin_dynamics_alone_keeps_its_old_meaning():
    output = run("fit", "iris", "--n-steps", "20", "-o", "m.npz").output
    assert "model langevin-ridge, as --n-steps is given" in output
    run("fit", "diabetes", "--model", "langevin-ridge", "-o", "d.npz")
    assert type(load_model("d.npz")) is LangevinRidge


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        (["--target-column", "buys"], "classes"),
        (["--target-column", "buys"], "task"),
        (["--target-column", "buys", "--model", "logistic"], "classes"),
        (["--target-column", "target"], "task"),
        (["--target-column", "target", "--task", "regress", "--divide-by", "scale.csv"], "scale"),
    ],
)
def test_what_was_read_from_the_data_is_a_condition(made, options, condition):
    Path("scale.csv").write_text("feature,divide_by,source\na,2,data\nb,2,data\n")
    assert CONDITIONS[condition] in run("fit", made / "all.csv", *WAYS, *options, "-o", "m.npz").output
    assert CONDITIONS[condition] in load_model("m.npz").conditions_


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["iris", "--model", "logistic", "--n-steps", "3"], "--n-steps is for --model langevin-ridge"),
        (["iris", "--model", "langevin-ridge", "--releases", "3"], "--releases is not for --model langevin-ridge"),
        (["iris", "--model", "langevin-ridge", "--ledger", "l"], "--ledger is not for --model langevin-ridge"),
        (["iris", "--n-steps", "3", "--epsilon", "1"], "--n-steps is for --model langevin-ridge, --epsilon for"),
        (["iris", "--model", "softmax", "--task", "regress"], "--task must be classify for --model softmax"),
        (["numbers.csv", "--model", "softmax"], "--model softmax needs classes, but y was read as a number"),
        (["iris", "--alpha", "0"], "alpha must be >= 1e-30"),
        (["iris", "--alpha", "1e-31"], "alpha must be >= 1e-30"),
        (["iris", "--alpha", "1e31"], "alpha must be >= 1e-30 and <= 1e.30"),
        (["iris", "--alpha", "nan"], "alpha must be"),
        (["iris", "--noise-std", "0"], "noise_std must be > 0"),
        (["iris", "--noise-std", "1e-14"], "noise_std must be at least"),
        (["iris", "--epsilon", "-1"], "epsilon must be"),
        (["iris", "--delta", "1"], "delta must be"),
        (["iris", "--releases", "0"], "releases must be"),
        (["iris", "--classes", "0,1"], "class"),
        (["iris", "--classes", "a,b"], "must be whole numbers"),
        (["iris", "-c", "c.txt"], "must end in .json"),
        (["iris", "--evidence", "e.json"], "must end in .npz"),
        (["iris", "--evidence", "m.npz"], "must not be --evidence"),
        (["iris", "--key", "no.pem"], "no.pem"),
        (["iris", "--ledger", "no/l"], "folder no does not exist"),
    ],
)
def test_fit_refuses(arguments, match):
    Path("numbers.csv").write_text("x,y\n" + "\n".join(f"{i / 7},{i / 3}" for i in range(40)) + "\n")
    refused("fit", *arguments, "-o", "m.npz", match=match)


def test_a_fit_begins_a_ledger_and_never_goes_on_with_one(made):
    Path("l").write_bytes((made / "l").read_bytes())
    refused("fit", "iris", "-o", "m.npz", "--ledger", "l", match="holds 2 entries already")


# --- a deletion ----------------------------------------------------------------------------------


def test_a_deletion_is_verified_on_the_data_without_the_record(made):
    given = ["--evidence", made / "e1.npz", "--model", made / "r1.npz"]
    output = run("verify", made / "c1.json", made / "now.csv", *READ, *given).output
    assert output.startswith("VERIFIED  holds (certified): epsilon = 1, delta = 1e-05")
    assert f"{N - 2} records as certified; model as certified" in output
    run("verify", made / "c1.json", made / "now.csv", *READ, "--model", made / "m1.npz")  # which has the evidence
    run("verify", made / "c1.json", made / "now.csv", *READ, "--evidence", made / "m1.npz")
    run("verify", made / "c0.json", made / "all.csv", *READ, "--evidence", made / "e0.npz", "--model", made / "r0.npz")


def test_columns_and_rows_may_come_in_any_order(made):
    rows = [[row[i] for i in (4, 2, 0, 3, 1)] for row in reversed(people()) if row[0] != "CUST-3"]
    write("turned.csv", rows, names=[NAMES[i] for i in (4, 2, 0, 3, 1)])
    given = ["--evidence", made / "e1.npz", "--model", made / "r1.npz"]
    run("verify", made / "c1.json", "turned.csv", "--id-column", "customer_id", "--target-column", "buys", *given)


def test_nothing_of_the_deleted_rows_is_in_what_a_deletion_writes(made):
    gone = [row for row in people() if row[0] == "CUST-3"]
    assert gone
    cells = [np.float64(cell).tobytes() for row in gone for cell in row[1:3]]
    written = {name: (made / name).read_bytes() for name in ("m1.npz", "c1.json", "e1.npz", "r1.npz", "l")}
    for name, content in written.items():
        assert b"CUST-3" not in content, name
        assert "CUST-3".encode("utf-32-le") not in content, name
        assert not any(cell in content for cell in cells), name
    assert all(cell in (made / "m0.npz").read_bytes() for cell in cells)  # as they would be found


def test_who_may_read_what(made):
    umask = os.umask(0)
    os.umask(umask)
    public, private = 0o666 & ~umask, 0o600
    for name, mode in (
        ("c1.json", public),
        ("r1.npz", public),
        ("m1.npz", private),
        ("e1.npz", private),
        ("l", private),
    ):
        assert stat.S_IMODE((made / name).stat().st_mode) == mode, name


def test_the_ledger_counts_releases_and_tells_of_no_id(made):
    text = (made / "l").read_text()
    assert "CUST" not in text
    model = load_model(str(made / "m1.npz"))
    assert model.ledger_salt_ == load_model(str(made / "m0.npz")).ledger_salt_
    assert model.ledger_salt_.hex() not in text
    assert model.ledger_salt_ not in (made / "e1.npz").read_bytes()
    entries = Ledger(made / "l").entries()
    assert [(one.action, one.release) for one in entries] == [("fit", 1), ("unlearn", 2)]
    assert Ledger(made / "l").find("CUST-3", salt=model.ledger_salt_) == entries[1:]
    assert "R-1" in run("ledger", "show", made / "l").output
    assert "UNBROKEN  2 releases" in run("ledger", "check", made / "l", "--model", made / "r1.npz").output
    run("ledger", "check", made / "l", "--model", made / "r0.npz", code=1)


def test_requests_come_in_a_file(made):
    Path("requests.csv").write_text("request,customer_id,date\nR-1,CUST-3,2026-03-01\nR-2,CUST-1,\n")
    run("unlearn", made / "m0.npz", "--requests", "requests.csv", *OUT)
    assert load_model("m.npz").ids_.tolist() == [row[0] for row in people() if row[0] not in ("CUST-1", "CUST-3")]
    assert load_evidence("e.npz").n_changed == 4


def test_numbers_of_rows_stay_what_they_were(made):
    run("unlearn", made / "numbered.npz", "3,7", "-o", "a.npz", "-c", "a.json")
    run("unlearn", "a.npz", "--rows", "5,8-9", "-o", "b.npz", "-c", "b.json")
    run("unlearn", "b.npz", "--id", "10", "-o", "c.npz", "-c", "c.json")
    assert load_model("c.npz").ids_.tolist() == [i for i in range(N) if i not in (3, 5, 7, 8, 9, 10)]
    refused("unlearn", "a.npz", "--rows", "3", "-o", "m.npz", "-c", "d.json", match="got 3, which is none of them")
    refused("unlearn", "a.npz", "4,4", "-o", "m.npz", "-c", "d.json", match="got 4 twice")


def test_single_rows_of_people_are_named_while_their_place_is_known(made):
    run("unlearn", made / "m0.npz", "--rows", "6", "-o", "m.npz", "-c", "c.json")
    assert load_model("m.npz").ids_.tolist().count("CUST-3") == 1
    refused("unlearn", "m.npz", "--rows", "6", "-o", "n.npz", "-c", "d.json", match="name records by --id")
    refused("unlearn", "m.npz", "6", "-o", "n.npz", "-c", "d.json", match="could mean the id or the position")


@pytest.mark.parametrize(
    ("model", "arguments", "match"),
    [
        ("m0", ["--id", "CUST-99"], "got 'CUST-99', which no record has"),
        ("m1", ["--id", "CUST-3"], "got 'CUST-3', which no record has"),
        ("m0", ["--id", ""], "empty"),
        ("m0", [], "by one of"),
        ("m0", ["--id", "CUST-1", "--rows", "3"], "by one of"),
        ("m0", ["--rows", "24"], "rows must be within"),
        ("m0", ["--rows", "x"], "must look like"),
        ("numbered", ["--id", "x"], "must be whole numbers"),
        ("numbered", ["--rows", "24"], "got 24, which is none of them"),
        ("m0", ["--rows", "0-23"], "at least one record"),
        ("m0", ["--id", "CUST-1", "--epsilon", "1"], "--epsilon is for Langevin models: .* fixed by fit"),
        ("m0", ["--id", "CUST-1", "--n-steps", "3"], "--n-steps is for Langevin models"),
        ("m0", ["--id", "CUST-1", "--noise-std", "3"], "--noise-std is for Langevin models"),
        ("m0", ["--id", "CUST-1", "--evidence", "e.json"], "must end in .npz"),
        ("m0", ["--id", "CUST-1", "--requests", "no.csv"], "no.csv"),
        ("langevin", ["--id", "CUST-1", "--evidence", "e.npz"], "--evidence is not for a LangevinRidge"),
        ("r0", ["--id", "CUST-1"], "released model"),
        ("e0", ["--id", "CUST-1"], "not a model"),
    ],
)
def test_unlearn_refuses(made, model, arguments, match):
    refused("unlearn", made / f"{model}.npz", *arguments, "-o", "m.npz", "-c", "c.json", match=match)


def test_a_spent_budget_is_said_and_leaves_nothing():
    run("fit", "iris", "--classes", "0,1,2", "--releases", "2", "-o", "m0.npz", "--ledger", "l")
    run("unlearn", "m0.npz", "3", "-o", "m1.npz", "-c", "c1.json", "--ledger", "l")
    refused("unlearn", "m1.npz", "4", "-o", "m2.npz", "-c", "c2.json", "--ledger", "l", match="budget of 2 releases")


def test_a_second_release_of_one_number_is_not_entered(made):
    for name in ("m0.npz", "l"):
        Path(name).write_bytes((made / name).read_bytes())
    refused("unlearn", "m0.npz", "--id", "CUST-5", *OUT, "--ledger", "l", match="must be the model of the last entry")


# --- corrections and additions -------------------------------------------------------------------


def test_corrected_rows_take_the_place_of_the_old(made):
    write("fix.csv", [["CUST-5", "0.5", "0.25", "1", "yes"], ["CUST-5", "-0.5", "0.125", "0", "no"]])
    Path("l").write_bytes((made / "l").read_bytes())
    output = run("amend", made / "m1.npz", "fix.csv", *READ, *OUT, "--ledger", "l", "--request", "R-2").output
    assert "2 records changed" in output
    rows = [row for row in people() if row[0] not in ("CUST-3", "CUST-5")]
    write("now.csv", [*rows, ["CUST-5", "0.5", "0.25", "1", "yes"], ["CUST-5", "-0.5", "0.125", "0", "no"]])
    run("verify", "c.json", "now.csv", *READ, "--evidence", "e.npz", "--model", "r.npz")
    run("verify", "c.json", made / "now.csv", *READ, "--evidence", "e.npz", code=1)
    entry = Ledger("l").entries()[-1]
    assert (entry.action, entry.release, entry.requests[0].number) == ("amend", 3, "R-2")
    model = load_model("m.npz")
    assert model.feature_names_in_.tolist() == ["a", "b"]
    assert Ledger("l").find("CUST-5", salt=model.ledger_salt_) == (entry,)


def test_rows_of_an_id_are_corrected_in_their_order(made):
    write("fix.csv", [["CUST-7", "0.1", "0.1", "1", "yes"], ["CUST-0", "0.2", "0.2", "1", "yes"],
                      ["CUST-7", "0.3", "0.3", "1", "yes"], ["CUST-0", "0.4", "0.4", "1", "yes"]])  # fmt: skip
    run("amend", made / "m0.npz", "fix.csv", *READ, *OUT)
    X = load_model("m.npz")._state.objective.take(np.arange(N)).X
    assert X[[0, 1, 14, 15], 0].tolist() == [0.2, 0.4, 0.1, 0.3]


def test_numbers_and_records_without_ids_are_corrected_too(made):
    write("fix.csv", [["7", "0.5", "0.25", "1.5", "x"]], names=["row", *NAMES[1:]])
    options = ["--id-column", "row", "--features", "a,b", "--target-column", "target"]
    run("amend", made / "numbered.npz", "fix.csv", *options, *OUT)
    rows = [[*row] for row in people()]
    rows[7][1:4] = ["0.5", "0.25", "1.5"]
    write("now.csv", rows)
    run("verify", "c.json", "now.csv", "--features", "a,b", "--target-column", "target", "--evidence", "e.npz",
        "--model", "r.npz")  # fmt: skip


def test_records_are_added(made):
    new = [["N-1", "0.5", "0.25", "1", "yes"], ["CUST-3", "0.75", "0.5", "1", "no"]]
    write("new.csv", new)
    run("add", made / "m1.npz", "new.csv", *READ, *OUT)
    write("now.csv", [*(row for row in people() if row[0] != "CUST-3"), *new])
    run("verify", "c.json", "now.csv", *READ, "--evidence", "e.npz", "--model", "r.npz")
    write("more.csv", [row[1:] for row in new], names=NAMES[1:])
    options = ["--features", "a,b", "--target-column", "target"]
    run("add", made / "numbered.npz", "more.csv", *options, *OUT, "--overwrite")
    assert load_model("m.npz").ids_.tolist() == list(range(N + 2))


@pytest.mark.parametrize(
    ("command", "model", "table", "options", "match"),
    [
        ("amend", "m0", "CUST-99,1,1,1,yes", READ, "got 'CUST-99', which none has"),
        ("amend", "m0", "CUST-5,1,1,1,yes", READ, "got 1 of the 2 rows of 'CUST-5'"),
        ("amend", "m0", "CUST-5,1,1,1,yes\nCUST-5,1,1,1,perhaps", READ, "perhaps"),
        ("amend", "m0", "CUST-5,1,,1,yes\nCUST-5,1,1,1,yes", READ, "t.csv"),
        ("amend", "m0", "5,1,1,1,yes\n5,1,1,1,yes", READ, "ids must be text"),
        (
            "amend",
            "arrays",
            "CUST-5,1,1,1,yes",
            ["--target-column", "buys", "--features", "a,b"],
            "--id-column must name",
        ),
        ("amend", "m0", "CUST-5,1,1,1,yes\nCUST-5,1,1,1,yes", [*READ[:3], "a", *READ[4:]], "takes 2 features, got 1"),
        ("amend", "m0", "CUST-5,1,1,1,yes\nCUST-5,1,1,1,yes", [*READ, "--request", "CUST-5"], "must not be the record"),
        ("amend", "langevin", "CUST-5,1,1,1,yes", READ, "LangevinRidge can only forget"),
        ("amend", "r0", "CUST-5,1,1,1,yes", READ, "released model"),
        ("add", "m0", "N-1,1,1,1,perhaps", READ, "perhaps"),
        ("add", "m0", "7,1,1,1,yes", READ, "ids must be text"),
        (
            "add",
            "arrays",
            "N-1,1,1,1,yes",
            ["--target-column", "buys", "--features", "a,b"],
            "--id-column must be given",
        ),
        ("add", "numbered", "7,1,1,1,yes", [*WAYS, "--target-column", "target"], "--id-column must be omitted"),
        ("add", "ridge", "N-1,1,1,x,yes", [*WAYS, "--target-column", "target"], "text"),
        ("add", "langevin", "N-1,1,1,1,yes", READ, "LangevinRidge can only forget"),
        ("add", "arrays", "N-1,1,1,1,yes", [*READ, "--bounds", "b.csv"], "must be read as the data of fit were"),
        ("add", "m0", "N-1,1,1,1,yes", [*READ, "--bounds", "b.csv"], "--bounds must be omitted: .* fitted without"),
    ],
)
def test_amend_and_add_refuse(made, command, model, table, options, match):
    Path("t.csv").write_text(",".join(NAMES) + "\n" + table + "\n")
    Path("b.csv").write_text("feature,low,high,source\na,-2,2,data\nb,-2,2,data\n")
    refused(command, made / f"{model}.npz", "t.csv", *options, *OUT, match=match)


def test_tables_to_read_and_models_are_not_overwritten(made):
    for name in ("m0.npz", "all.csv"):
        Path(name).write_bytes((made / name).read_bytes())
    refused("amend", "m0.npz", "all.csv", *READ, "-o", "m0.npz", "-c", "c.json", "--overwrite", match="MODEL")
    refused("add", "m0.npz", "all.csv", *READ, "-o", "m.npz", "-c", "no/c.json", match="folder no does not exist")
    Path("c.json").write_text("kept")
    refused("add", "m0.npz", "all.csv", *READ, "-o", "m.npz", "-c", "c.json", match="already exists")


# --- certificates --------------------------------------------------------------------------------


def test_what_is_not_as_certified_is_refused_with_exit_code_1(made):
    given = ["--evidence", made / "e1.npz"]
    certificate, now = made / "c1.json", made / "now.csv"
    refused(
        "verify", certificate, made / "all.csv", *READ, *given, match="additional 'CUST-3'.*give the model by", code=1
    )
    known = ("--model", made / "m1.npz")  # which says how the table was read
    refused("verify", certificate, made / "all.csv", *given, *known, match="additional 'CUST-3'[^;]*$", code=1)
    rows = [row for row in people() if row[0] != "CUST-3"]
    write("less.csv", rows[:-1])
    refused("verify", certificate, "less.csv", *READ, *given, match="missing 'CUST-11'", code=1)
    rows[4][1] = "0.123"
    write("other.csv", rows)
    refused("verify", certificate, "other.csv", *READ, *given, match="another row.*'CUST-2'", code=1)
    refused("verify", certificate, now, *READ, *given, "--model", made / "r0.npz", match="digests.released", code=1)
    refused("verify", certificate, now, *READ, "--evidence", made / "e0.npz", match="evidence.certificate", code=1)
    refused("verify", made / "c0.json", now, *READ, "--evidence", made / "e0.npz", match="missing 'CUST-3'", code=1)
    text = certificate.read_text()
    Path("better.json").write_text(text.replace('"epsilon": 1.0', '"epsilon": 0.5'))
    refused("verify", "better.json", now, *READ, *given, match="claim.mu", code=1)


def test_verify_says_what_it_needs(made):
    certificate, now = made / "c1.json", made / "now.csv"
    refused("verify", certificate, now, *READ, match="--evidence must be given")
    refused("verify", certificate, now, *READ, "--model", made / "r1.npz", match="--evidence must be given")
    refused("verify", certificate, now, *READ, "--evidence", made / "e1.npz", "--budget", "1e9", match="Langevin")
    refused("verify", certificate, now, *READ, "--evidence", made / "all.csv", match="all.csv")
    refused("verify", certificate, now, *READ, "--evidence", made / "langevin.npz", match="has no evidence")
    refused("verify", certificate, now, *READ, "--evidence", made / "r1.npz", match="neither evidence nor a working")


def test_limits_and_signatures_of_an_auditor(made):
    run("keygen", "key.pem", "key.pub")
    run("keygen", "other.pem", "other.pub")
    run("unlearn", made / "m0.npz", "--id", "CUST-3", *OUT, "--key", "key.pem")
    given = [*READ, "--evidence", "e.npz", "--model", "r.npz"]
    output = run("verify", "c.json", made / "now.csv", *given, "--public-key", "key.pub", "--max-epsilon", "1").output
    assert "signature: trusted key" in output
    assert load_model("m.npz").certificate_ == load("c.json")
    for options, match in (
        (["--public-key", "other.pub"], "signature"),
        (["--max-epsilon", "0.5"], "policy.max_epsilon"),
        (["--max-delta", "1e-6"], "policy.max_delta"),
    ):
        refused("verify", "c.json", made / "now.csv", *given, *options, match=match, code=1)
    refused("verify", made / "c1.json", made / "now.csv", *READ, "--evidence", made / "e1.npz", "--public-key",
            "key.pub", match="signature", code=1)  # fmt: skip
    assert "signature  holds" in run("show", "c.json", "--public-key", "key.pub").output
    run("show", "c.json", "--public-key", "other.pub", code=1)
    run("fit", "iris", "-o", "i.npz", "-c", "i.json")
    iris = ["verify", "i.json", "iris", "--evidence", "i.npz"]
    assert "holds (conditional)" in run(*iris).output
    refused(*iris, "--no-conditional", match="policy.allow_conditional", code=1)
    run("verify", "c.json", made / "now.csv", *given, "--of-program", "--allow-conditional")
    run("fit", made / "now.csv", *READ, "--random-state", "7", "-o", "s.npz", "-c", "s.json")
    refused("verify", "s.json", made / "now.csv", *READ, "--evidence", "s.npz", "--of-program", "--allow-conditional",
            match="policy.of_program", code=1)  # fmt: skip


def test_everything_can_be_shown(made):
    assert "signature  none" in run("show", made / "c1.json").output
    for name in ("e1.npz", "m1.npz"):
        output = run("show", made / name).output
        assert "unlearn, 2 records concerned, 22 records now" in output
        assert "before/after epsilon" in output
    run("absence", made / "c1.json", made / "e1.npz", "--id", "CUST-3", "-o", "p.json")
    assert "AbsenceProof about 'CUST-3'" in run("show", "p.json").output
    load_evidence(str(made / "e1.npz")).tree.membership("CUST-4").save("q.json")
    assert "MembershipProof about 'CUST-4'" in run("show", "q.json").output
    refused("show", made / "e1.npz", "--public-key", made / "c1.json", match="c1.json")
    refused("show", made / "r1.npz", match="neither evidence nor a working model")
    refused("show", made / "all.csv", match="JSON")


# --- absence -------------------------------------------------------------------------------------


def test_absence_is_proved_to_whoever_has_proof_and_certificate(made):
    certificate = made / "c1.json"
    for source in ("e1.npz", "m1.npz"):
        output = run("absence", certificate, made / source, "--id", "CUST-3", "-o", "p.json", "--overwrite").output
        assert output.startswith("ABSENT  'CUST-3' is the id of none of the 22 records certified")
    assert stat.S_IMODE(Path("p.json").stat().st_mode) == 0o600
    AbsenceProof.load("p.json").check(ResidualCertificate.load(certificate))
    run("absence", certificate, "p.json")
    run("absence", certificate, "p.json", "--id", "CUST-3")
    refused("absence", certificate, "p.json", "--id", "CUST-4", match="record_id", code=1)
    refused("absence", made / "c0.json", "p.json", match="root", code=1)
    run("keygen", "key.pem", "key.pub")
    refused("absence", certificate, "p.json", "--public-key", "key.pub", match="signature", code=1)
    Path("better.json").write_text(certificate.read_text().replace('"epsilon": 1.0', '"epsilon": 0.5'))
    refused("absence", "better.json", "p.json", match="claim.mu", code=1)
    refused("absence", certificate, made / "e1.npz", "--id", "CUST-4", match="the id of 2 records", code=1)
    refused("absence", certificate, made / "e0.npz", "--id", "CUST-3", match="evidence.certificate", code=1)
    text = Path("p.json").read_text()
    Path("p.json").write_text(text.replace('"CUST-3"', '"CUST-4"'))
    run("absence", certificate, "p.json", code=2)


def test_absence_says_what_it_needs(made):
    certificate = made / "c1.json"
    refused("absence", certificate, made / "e1.npz", match="--id must say")
    refused("absence", certificate, made / "e1.npz", "--id", "CUST-3", "-o", "p.txt", match="must end in .json")
    refused("absence", certificate, certificate, match="format")
    refused("absence", certificate, certificate, "-o", "p.json", match="--output goes with evidence")
    refused("absence", made / "e1.npz", made / "e1.npz", "--id", "CUST-3", match="json")
    run("fit", "iris", "-o", "i.npz", "-c", "i.json")
    refused("absence", "i.json", "i.npz", "--id", "x", match="must be whole numbers")
    assert "ABSENT  150" in run("absence", "i.json", "i.npz", "--id", "150").output


# --- the auditor's page --------------------------------------------------------------------------


def test_the_page_of_an_auditor_holds_what_was_asked_done_and_verified(made):
    proofs = [made / "c0.json", made / "c1.json"]
    given = ["--data", made / "now.csv", *READ, "--evidence", made / "e1.npz", "--model", made / "r1.npz"]
    run("report", *proofs, "-o", "page.html", "--ledger", made / "l", *given)
    page = Path("page.html").read_text()
    for words in ("R-1", "verified on the data", "release 2 of 10,000", "not signed"):
        assert words in page
    assert "CUST" not in page
    assert stat.S_IMODE(Path("page.html").stat().st_mode) == 0o600
    run("report", proofs[1], "-o", "alone.html")
    assert "verified on the data" not in Path("alone.html").read_text()


def test_a_page_is_written_of_what_holds_alone(made):
    proofs, out = [made / "c0.json", made / "c1.json"], ["-o", "page.html"]
    all_data = ["--data", made / "all.csv", *READ, "--evidence", made / "e1.npz"]
    refused("report", *proofs, *out, *all_data, match="additional 'CUST-3'", code=1)
    refused("report", *proofs[::-1], *out, match="certificates")
    refused("report", *proofs, "-o", "page.pdf", match="must end in .html")
    refused("report", *proofs, *out, "--evidence", made / "e1.npz", match="--evidence goes with --data")
    refused("report", *proofs, *out, *READ, match="--.* goes with --data")
    refused("report", *proofs, *out, "--data", made / "now.csv", *READ, match="--evidence must be given")
    refused("report", made / "e1.npz", *out, match="json")
    run("fit", "iris", "-o", "i.npz", "-c", "i.json")
    refused("report", "i.json", *out, "--ledger", made / "l", match="without it")
    Path("l").write_bytes((made / "l").read_bytes().replace(b"R-1", b"R-2"))
    refused("report", *proofs, *out, "--ledger", "l", match="edited", code=1)
    run("keygen", "key.pem", "key.pub")
    refused("report", *proofs, *out, "--public-key", "key.pub", match="signature", code=1)


# --- quotes and predictions ----------------------------------------------------------------------


def test_a_quote_writes_what_it_prints(made):
    output = run("quote", made / "m0.npz", "-o", "q.json").output
    assert output.startswith("24 records, each deleted by itself")
    quote = json.loads(Path("q.json").read_text())
    assert [one["id"] for one in quote["records"]] == [row[0] for row in people()]
    model = load_model(str(made / "m0.npz")).quote()
    assert [one["before_after_epsilon_bound"] for one in quote["records"]] == model.before_after_epsilon.tolist()
    of_one = run("quote", made / "m0.npz", "--id", "CUST-3").output
    assert "2 records" in of_one
    assert "rows of one id are quoted each by itself; --by-id quotes" in of_one
    assert "rows of one id are" in output
    together = run("quote", made / "m0.npz", "--id", "CUST-3", "--by-id").output
    assert together.startswith("1 id, deleted by itself with all its rows (2 records)")
    assert "note" not in together
    run("quote", made / "m0.npz", "--by-id", "-o", "by.json")
    by = json.loads(Path("by.json").read_text())["records"]
    assert [one["id"] for one in by] == list(dict.fromkeys(row[0] for row in people()))
    assert sum(one["n_records"] for one in by) == 24
    single = run("quote", made / "m0.npz", "--rows", "3").output.splitlines()
    assert single[0] == "1 record, deleted by itself"
    assert len(single[1].removeprefix("  passes over the data (estimate)").split()) == 1
    assert "1 record," in run("quote", made / "m0.npz", "--rows", "3").output
    assert "2 records" in run("quote", made / "numbered.npz", "--indices", "3,5").output
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    run("quote", made / "m0.npz", "-o", "q.parquet")
    assert parquet.read_table("q.parquet").column_names == list(quote["records"][0])
    pytest.importorskip("matplotlib")
    run("quote", made / "m0.npz", "-o", "q.png")
    assert Path("q.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--epsilon", "1"], "--epsilon is for Langevin models"),
        (["--n-steps", "3"], "--n-steps is for Langevin models"),
        (["--groups", "g.csv"], "--groups is for Langevin models: .* go together by id"),
        (["--id", "CUST-99"], "got 'CUST-99', which none has"),
        (["--id", "CUST-3", "--rows", "3"], "by one of"),
        (["--indices", "3"], "could mean the id or the position"),
        (["--rows", "24"], "rows must be within"),
        (["-o", "q.csv"], "must end in"),
    ],
)
def test_quote_refuses(made, arguments, match):
    refused("quote", made / "m0.npz", *arguments, match=match)


def test_a_released_model_predicts_as_the_working_one(made):
    for name in ("m1", "r1"):
        run("predict", made / f"{name}.npz", made / "all.csv", "--id-column", "customer_id", "-o", f"{name}.csv")
    assert Path("m1.csv").read_text() == Path("r1.csv").read_text()
    assert "accuracy" in run("evaluate", made / "r1.npz", made / "all.csv", *READ).output
    ridge = ["--id-column", "customer_id", "--target-column", "target"]
    assert "R^2" in run("evaluate", made / "ridge.npz", made / "all.csv", *ridge).output


# --- whole, whenever it was killed ---------------------------------------------------------------

CHANGES = {
    "unlearn": ["unlearn", "m0.npz", "--id", "CUST-3", "--request", "R-1"],
    "amend": ["amend", "m0.npz", "t.csv", *READ],
    "add": ["add", "m0.npz", "t.csv", *READ],
    "release": ["release", "m0.npz", "--again"],
}
FILES = ["c1.json", "e1.npz", "l", "m0.npz", "m0.npz.next", "m1.npz", "out/r1.npz", "t.csv"]
WRITES = ["-o", "m1.npz", "-c", "c1.json", "--evidence", "e1.npz", "--released", "out/r1.npz", "--ledger", "l"]


def scene(made: Path, place: Path) -> None:
    for folder in (place, place / "out"):
        folder.mkdir()
    os.chdir(place)
    Path("m0.npz").write_bytes((made / "m0.npz").read_bytes())
    Path("l").write_bytes(b"".join((made / "l").read_bytes().splitlines(keepends=True)[:2]))  # the fit
    write("t.csv", [["CUST-5", "0.5", "0.25", "1", "yes"], ["CUST-5", "-0.5", "0.125", "0", "no"]])


def check_whole(action: str) -> None:
    """Check that all files are those of one change, entered once, and that nothing else is there."""
    assert sorted(str(file) for file in Path().rglob("*") if file.is_file()) == FILES
    model, claim = load_model("m1.npz"), ResidualCertificate.load("c1.json")
    assert model.certificate_ == claim
    assert ResidualEvidence.load("e1.npz").certificate == claim.digest()
    assert load_model("out/r1.npz", released=True).coef_.tolist() == model.coef_.tolist()
    entries = Ledger("l").entries()
    assert [one.action for one in entries] == ["fit", action]
    assert entries[-1].certificate == claim.digest()


@pytest.mark.parametrize(
    ("action", "moment"), [("unlearn", "before"), ("amend", "after"), ("add", "halfway"), ("release", "after")]
)
def test_killed_at_any_call_the_same_command_ends_or_begins_anew(made, tmp_path, action, moment):
    call, skipped = [*CHANGES[action], *WRITES], set()
    if moment == "halfway":  # the other calls have no half
        scene(made, tmp_path / "dry")
        with killed_at(10**6, moment) as calls:
            run(*call)
        skipped = {i for i, name in enumerate(calls, start=1) if name != "write"}
    finished = 0
    for number in itertools.count(1):
        if number in skipped:
            continue
        scene(made, tmp_path / str(number))
        model = Path("m0.npz").read_bytes()
        try:
            with killed_at(number, moment):
                run(*call)
        except Killed:
            finished += "finished what an earlier call had begun" in run(*call).output
            check_whole(action)
            assert Path("m0.npz").read_bytes() == model
            continue
        check_whole(action)
        break
    assert number > 5
    assert finished > 0 or moment == "halfway"  # a half-written journal decides nothing


@pytest.mark.parametrize("action", CHANGES)
def test_a_repeated_change_is_made_and_charged_once(made, tmp_path, action):
    scene(made, tmp_path / "scene")
    call = [*CHANGES[action], *WRITES]
    run(*call)
    before = listing()
    assert "done already" in run(*call).output
    assert "done already" in run(*call, "--overwrite").output
    assert listing() == before
    for other in CHANGES:
        if other != action:
            assert "already exists" in run(*CHANGES[other], *WRITES, code=2).stderr
    assert listing() == before
    check_whole(action)


def test_a_change_of_other_records_is_not_taken_for_done(made, tmp_path):
    scene(made, tmp_path / "scene")
    run(*CHANGES["amend"], *WRITES)
    write("t.csv", [["CUST-5", "0.5", "0.25", "1", "yes"], ["CUST-5", "-0.5", "0.126", "0", "no"]])
    assert "already exists" in run(*CHANGES["amend"], *WRITES, code=2).stderr
    assert "must be the model of the last entry" in run(*CHANGES["amend"], *WRITES, "--overwrite", code=2).stderr


def test_the_same_records_reached_in_another_way_are_not_taken_for_done(made, tmp_path):
    scene(made, tmp_path / "scene")
    call = ["unlearn", "--id", "CUST-5", "-o", "m.npz", "-c", "c.json", "--branch"]
    first = load_model("m0.npz")
    first.release_again().model.save("again.npz")  # another number
    run("amend", "m0.npz", "t.csv", *READ, "-o", "amended.npz", "-c", "a.json")  # other data before
    for name in ("m0.npz", "again.npz", "amended.npz"):
        run(*call, name, "--overwrite")
        assert "done already" in run(*call, name).output
        for other in {"m0.npz", "again.npz", "amended.npz"} - {name}:
            assert "already exists" in run(*call, other, code=2).stderr


def test_another_signature_or_request_is_not_taken_for_done(made, tmp_path):
    scene(made, tmp_path / "scene")
    run("keygen", "key.pem", "key.pub")
    call = ["unlearn", "m0.npz", "--id", "CUST-3", "-o", "m.npz", "-c", "c.json"]
    run(*call)
    assert "already exists" in run(*call, "--key", "key.pem", code=2).stderr
    run(*call, "--key", "key.pem", "--overwrite", "--ledger", "l", "--request", "R-1", "--branch")
    assert "done already" in run(*call, "--key", "key.pem", "--ledger", "l", "--request", "R-1").output
    assert "already exists" in run(*call, "--key", "key.pem", "--ledger", "l", "--request", "R-2", code=2).stderr
    assert "already exists" in run(*call, "--ledger", "l", "--request", "R-1", code=2).stderr


def test_data_scaled_by_themselves_need_a_certificate_that_says_so(made):
    for name, header, source in (("known.csv", "", ""), ("draft.csv", ",source", ",data")):
        rows = [f"{feature},-2,2{source}" for feature in "ab"]
        Path(name).write_text("\n".join([f"feature,low,high{header}", *rows]) + "\n")
    data = [made / "all.csv", *READ]
    run("fit", *data, "--bounds", "known.csv", "--classes", "no,yes", "-o", "m.npz", "-c", "c.json")
    run("verify", "c.json", *data, "--bounds", "known.csv", "--evidence", "m.npz")
    refused("verify", "c.json", *data, "--bounds", "draft.csv", "--evidence", "m.npz", match="must say that", code=1)


@pytest.mark.parametrize("kind", ["residual", "langevin"])
def test_show_reads_ledgers_of_either_kind(made, kind):
    Path("l").write_bytes((made / "l").read_bytes())
    if kind == "langevin":
        Path("l").unlink()
        run("unlearn", made / "langevin.npz", "--id", "CUST-3", "--request", "R-1", "--noise-std", "9", "-o", "m.npz",
            "-c", "c.json", "--ledger", "l")  # fmt: skip
    output = run("show", "l").output
    assert output == run("ledger", "show", "l").output
    left = "release 2 of 10,000, 9,998 left" if kind == "residual" else "1 deletion, 2 records gone"
    assert left in output
    assert "request R-1" in output
    refused("show", "l", "--public-key", made / "c1.json", match="c1.json")
    whole = Path("l").read_text()
    Path("l").write_text(whole.replace('"n_deleted":2' if kind == "langevin" else '"release":2', '"release":1'))
    refused("show", "l", match="REFUSED  line", code=1)
    Path("l").write_text(whole[:-1])
    refused("show", "l", match="cut short", code=1)
    Ledger.create("empty")
    assert run("show", "empty").output == "no deletions\n"


def test_show_says_how_many_releases_a_working_model_has_left(made):
    assert "budget   release 2 of 10,000, 9,998 left" in run("show", made / "m1.npz").output
    assert "budget" not in run("show", made / "e1.npz").output


def test_models_of_tables_are_refused_where_rows_are_needed_and_serve_elsewhere(made):
    table = people()
    X, y = (np.array([row[a:b] for row in table], dtype=float) for a, b in ((1, 3), (3, 4)))
    records = open_records(X, target=y[:, 0], ids=[row[0] for row in table])
    NewtonRidge(noise_std=0.1).fit(records).save("t.npz")
    write("fix.csv", table[:2])
    columns = [*WAYS, "--target-column", "target"]
    for call in (
        ["unlearn", "t.npz", "--id", "CUST-1"],
        ["amend", "t.npz", "fix.csv", *columns],
        ["add", "t.npz", "fix.csv", *columns],
        ["release", "t.npz", "--again"],
    ):
        refused(
            *call,
            "-o",
            "m.npz",
            "-c",
            "c.json",
            match="holds none of the records: name the table as it now stands by --data",
        )
    refused("quote", "t.npz", match="holds none of the records")
    run("release", "t.npz", "-c", "c.json", "--evidence", "e.npz", "--released", "r.npz")
    run("verify", "c.json", made / "all.csv", *columns, "--evidence", "t.npz", "--model", "r.npz")
    assert "holds hashes of the data as they now stand, and no row" in run("purge", "t.npz").output
    assert "R^2" in run("evaluate", "t.npz", made / "all.csv", *columns).output
