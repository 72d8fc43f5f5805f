"""The judge of the library: random and adversarial problems, none of whose certified numbers is provably wrong."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("flint")

BENCH = Path(__file__).resolve().parent.parent / "bench"
PROBLEMS = 60


@pytest.fixture
def prove(monkeypatch, tmp_path):
    """Return a function that runs the command, with its state in a folder of the test."""
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("prove")
    monkeypatch.setattr(importlib.import_module("timing"), "RESULTS", tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["prove.py", "--state", str(tmp_path / "state.jsonl"), *arguments])
        return int(module.main())

    return run


def outcomes(folder: Path):
    return [json.loads(line) for line in (folder / "state.jsonl").read_text().splitlines()]


def test_no_certified_number_is_provably_wrong(prove, tmp_path, capsys):
    assert prove("--problems", str(PROBLEMS), "--seed", "7", "--write") == 0
    assert f"0 of {PROBLEMS} problems" in capsys.readouterr().out
    written = json.loads((tmp_path / "prove.json").read_text())
    assert written["problems"] == PROBLEMS
    assert written["failures"] == []
    rows = written["rows"]
    assert sum(row["problems"] for row in rows) == PROBLEMS
    assert len(rows) == len(importlib.import_module("proof_problems").KINDS)  # every kind was drawn
    assert sum(row["numbers"] for row in rows) > PROBLEMS
    # Enclosures that say nothing would judge nothing.
    assert sum(row["enclosed to 1e-6"] for row in rows) > 0.9 * sum(row["numbers"] for row in rows)


def test_an_interrupted_run_goes_on(prove, tmp_path):
    assert prove("--problems", "4") == 0
    state = tmp_path / "state.jsonl"
    before = state.read_text()
    state.write_text(before.splitlines(keepends=True)[0] + before.splitlines()[1][:20] + "\n")
    assert prove("--problems", "4") == 0
    found = [json.loads(line) for line in state.read_text().splitlines() if line.endswith("}")]
    assert [one["number"] for one in found] == [0, 1, 2, 3]
    assert found[0]["seconds"] == json.loads(before.splitlines()[0])["seconds"]  # was not run again


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gdp_delta", "gdp"),
        ("gdp_epsilon", "gdp"),
        ("gdp_mu", "gdp"),
        ("shifted_mu", "steps"),
        ("rdp_to_epsilon", "renyi"),
    ],
)
def test_a_number_that_is_off_by_1e_11_is_noticed(prove, monkeypatch, name, kind):
    problems = importlib.import_module("proof_problems")
    real = getattr(problems.accounting, name)
    factor = 1 + 1e-11 if name == "gdp_mu" else 1 - 1e-11
    monkeypatch.setattr(problems.accounting, name, lambda *given: real(*given) * factor)
    monkeypatch.setattr(problems, "KINDS", {kind: (getattr(problems, kind), 1)})
    assert prove("--problems", "6") == 1


def test_a_pair_whose_error_is_left_out_is_noticed(prove, monkeypatch):
    problems = importlib.import_module("proof_problems")
    real = problems.deletion_pair

    class Less:
        def __init__(self, pair):
            self.pair = pair

        def delta(self, *given, **more):
            return self.pair.delta(*given, **more) * (1 - 1e-8)

    monkeypatch.setattr(problems, "deletion_pair", lambda *given, **more: Less(real(*given, **more)))
    monkeypatch.setattr(problems, "KINDS", {"ridge": (problems.ridge, 1)})
    assert prove("--problems", "12") == 1
