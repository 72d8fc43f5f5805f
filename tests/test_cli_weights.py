"""Records with weights at the command line: fitted, corrected, added, verified, and never weighed otherwise."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from expunge import NewtonRidge
from expunge.cli import main
from expunge.cli.files import load_model
from expunge.data import load

NAMES = "who,a,w,b,y"
WAYS = ["--id-column", "who", "--weight-column", "w", "--task", "regress"]
OUT = ["-o", "m1.npz", "-c", "c1.json", "--evidence", "e1.npz", "--released", "r1.npz"]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def refused(*arguments: object, match: str, code: int = 2) -> None:
    last = run(*arguments, code=code).stderr.splitlines()[-1]
    assert re.search(match, last), last


def people() -> list[str]:
    X = np.random.default_rng(0).uniform(-1, 1, size=(12, 2)).round(3).tolist()
    return [f"P-{i},{a},{i % 3 / 2},{b},{a + i * b}" for i, (a, b) in enumerate(X)]


def write(name: str, rows: list[str], *, names: str = NAMES) -> None:
    Path(name).write_text("\n".join([names, *rows]) + "\n")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    write("all.csv", people())
    run("fit", "all.csv", *WAYS, "-o", "m0.npz", "-c", "c0.json", "--evidence", "e0.npz", "--released", "r0.npz")


def weights(model: str) -> list[float]:
    state = load_model(model)._state
    return state.objective.take(np.arange(len(state.objective))).weighed().tolist()


def test_weights_are_those_of_python():
    table = load("all.csv", id_column="who", weight_column="w")
    assert table.feature_names == ("a", "b")
    assert table.weights.tolist() == [i % 3 / 2 for i in range(12)]
    model = NewtonRidge().fit(table.X, table.y, record_ids=table.ids, sample_weight=table.weights)
    found = load_model("m0.npz")
    np.testing.assert_allclose(found.evidence_.theta, model.evidence_.theta, atol=1e-9)
    plain = NewtonRidge().fit(table.X, table.y)
    assert np.abs(found.evidence_.theta - plain.evidence_.theta).max() > 1e-2


def test_a_weighted_model_is_verified_with_the_weights_and_with_no_others():
    given = ["--evidence", "e0.npz", "--model", "r0.npz"]
    shown = run("verify", "c0.json", "all.csv", *given)
    assert shown.stderr == "read as for fit: ids in column who; weights in column w\n"
    run("verify", "c0.json", "all.csv", *WAYS[:4], "--evidence", "e0.npz")  # where no model says it
    changed = people()
    changed[4] = changed[4].replace(",0.5,", ",1.0,")
    write("other.csv", changed)
    refused("verify", "c0.json", "other.csv", *given, match="digests.data.*'P-4'", code=1)
    refused("verify", "c0.json", "all.csv", "--id-column", "who", "--drop", "w", "--evidence", "e0.npz",
            match="digests.data", code=1)  # fmt: skip
    write("none.csv", [re.sub(r"^(\S+?,\S+?),\S+?,", r"\1,", row) for row in people()], names="who,a,b,y")
    refused("verify", "c0.json", "none.csv", *given, match="there is no column 'w', .*; the model was fitted with it")
    run("report", "c0.json", "--data", "all.csv", *given, "-o", "page.html")
    # Predictions need none.
    run("predict", "r0.npz", "none.csv", "-o", "p.csv")
    assert run("evaluate", "m0.npz", "none.csv").stdout == run("evaluate", "m0.npz", "all.csv").stdout


def test_deletions_corrections_and_additions_keep_to_the_weights():
    run("unlearn", "m0.npz", "--id", "P-4", *OUT)
    rows = [row for row in people() if not row.startswith("P-4,")]
    write("now.csv", rows)
    run("verify", "c1.json", "now.csv", "--evidence", "e1.npz", "--model", "r1.npz")
    write("fix.csv", ["P-7,0.5,2.25,0.5,1"])
    run("amend", "m1.npz", "fix.csv", "-o", "m2.npz", "-c", "c2.json")
    assert weights("m2.npz")[6] == 2.25
    write("new.csv", ["N-1,0.5,3,0.5,1", "N-2,0.25,0,0.5,1"])
    run("add", "m2.npz", "new.csv", "-o", "m3.npz", "-c", "c3.json", "--released", "r3.npz")
    assert weights("m3.npz")[-2:] == [3.0, 0.0]
    left = [row for row in rows if not row.startswith("P-7,")]
    write("now.csv", [*left, "N-2,0.25,0,0.5,1", "P-7,0.5,2.25,0.5,1", "N-1,0.5,3,0.5,1"])
    run("verify", "c3.json", "now.csv", "--evidence", "m3.npz", "--model", "r3.npz")
    for call in (["amend", "m1.npz", "fix.csv", "-o", "m2.npz", "-c", "c2.json"],
                 ["add", "m2.npz", "new.csv", "-o", "m3.npz", "-c", "c3.json", "--released", "r3.npz"]):  # fmt: skip
        assert "done already" in run(*call).output


def test_a_model_that_python_weighed_is_asked_for_weights():
    table = load("all.csv", id_column="who", weight_column="w")
    model = NewtonRidge().fit(table.X, table.y, record_ids=table.ids, sample_weight=table.weights)
    model.save("p.npz")
    given = ["--id-column", "who", "--features", "a,b", "--target-column", "y", "-o", "q.npz", "-c", "q.json"]
    write("new.csv", ["N-1,0.5,3,0.5,1"])
    refused("add", "p.npz", "new.csv", *given, match="--weight-column must be given")
    run("add", "p.npz", "new.csv", *given, "--weight-column", "w")
    assert weights("q.npz")[-1] == 3.0
    write("fix.csv", ["P-4,0.5,3,0.5,1"])
    call = ["amend", "p.npz", "fix.csv", *given[:-4], "-o", "s.npz", "-c", "s.json", "--branch"]
    run(*call)
    assert weights("s.npz")[4] == 0.5  # kept, as nobody said another
    assert "done already" in run(*call).output


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["fit", "all.csv", "--weight-column", "w", "--model", "langevin-ridge"], "is not for --model langevin-ridge"),
        (["fit", "all.csv", "--weight-column", "none", "--drop", "who"], "weight_column: there is no column 'none'"),
        (["fit", "all.csv", "--weight-column", "a", "--features", "a,b"], "column 'a' is named by features already"),
        (["fit", "bad.csv", "--weight-column", "w", "--id-column", "who"], "weights must be >= 0, got -1 for record 1"),
        (["fit", "text.csv", "--weight-column", "w", "--id-column", "who"], "must hold a number, got 'x'"),
        (["add", "m0.npz", "new.csv", "--weight-column", "b"], "named by|--weight-column must be 'w'"),
        (["add", "m0.npz", "new.csv", "--weight-column", "z"], "--weight-column must be 'w', as at fit, got 'z'"),
        (
            ["add", "plain.npz", "new.csv", "--weight-column", "w"],
            "--weight-column must be omitted: .* without weights",
        ),
        (["amend", "plain.npz", "new.csv", "--weight-column", "w"], "--weight-column must be omitted"),
    ],
)
def test_weights_that_are_not_those_of_the_fit_are_refused(arguments, match):
    write("bad.csv", ["P-0,1,1,1,1", "P-1,1,-1,1,2"])
    write("text.csv", ["P-0,1,1,1,1", "P-1,1,x,1,2"])
    write("new.csv", ["P-1,1,1,1,1,1"], names=f"{NAMES},z")
    run("fit", "all.csv", "--id-column", "who", "--drop", "w", "--task", "regress", "-o", "plain.npz")
    refused(*arguments, "-o", "x.npz", *([] if arguments[0] == "fit" else ["-c", "x.json"]), match=match)


def test_weights_go_by_name_in_arrays_and_by_place_in_tables_without_names():
    table = load("all.csv", id_column="who", weight_column="w")
    np.savez("a.npz", X=table.X, y=table.y, w=table.weights)
    run("fit", "a.npz", "--weight-column", "w", "--task", "regress", "-o", "m.npz", "-c", "c.json")
    run("verify", "c.json", "a.npz", "--evidence", "m.npz")
    Path("bare.csv").write_text("\n".join(people()) + "\n")
    ways = ["--no-header", "--id-column", "0", "--weight-column", "2", "--task", "regress"]
    run("fit", "bare.csv", *ways, "-o", "n.npz", "-c", "d.json")
    assert weights("n.npz") == weights("m.npz") == weights("m0.npz")
    run("verify", "d.json", "bare.csv", "--evidence", "n.npz")
    refused("evaluate", "n.npz", "bare.csv", "--weight-column", "2", match="every record counts once")
    np.save("X.npy", table.X)
    refused("fit", "X.npy", "--weight-column", "w", "-o", "x.npz", match="leave weight_column out")
    np.savez("b.npz", X=table.X, y=table.y, w=np.ones(3))
    refused("fit", "b.npz", "--weight-column", "w", "-o", "x.npz", match="one weight for each of the 12 records")
    np.savez("b.npz", X=table.X, y=table.y, w=np.full(12, np.nan))
    refused("fit", "b.npz", "--weight-column", "w", "-o", "x.npz", match="the weight of record 0 must be finite")


def test_weights_of_langevin_certificates_are_refused():
    ways = ["--id-column", "who", "--drop", "w", "--task", "regress"]
    run("fit", "all.csv", *ways, "--n-steps", "5", "--noise-std", "1", "-o", "k.npz")
    run("unlearn", "k.npz", "--id", "P-1", "--noise-std", "99", "-o", "k1.npz", "-c", "k.json")
    refused(
        "verify", "k.json", "all.csv", "--weight-column", "w", match="--weight-column is for certificates by residual"
    )
