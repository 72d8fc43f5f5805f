"""A release is made from a model file once: a second under the same number is refused, also without a ledger."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from command_calls import listing
from expunge import NewtonRidge
from expunge.cli import main, newton
from expunge.cli.files import load_model

CHANGES = {
    "unlearn": ["unlearn", "m.npz", "--id", "P-3"],
    "amend": ["amend", "m.npz", "fix.csv", "--id-column", "who"],
    "add": ["add", "m.npz", "new.csv", "--id-column", "who"],
    "release": ["release", "m.npz", "--again"],
}


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def change(name: str, file: str, *more: object, code: int = 0) -> Result:
    return run(*CHANGES[name], "-o", f"{file}.npz", "-c", f"{file}.json", *more, code=code)


def refused(*arguments: object, match: str, **named: object) -> None:
    before = listing()
    last = change(*arguments, code=2, **named).stderr.splitlines()[-1]
    assert re.search(match, last), last
    assert listing() == before


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    model(np.random.default_rng(0)).save("m.npz")
    Path("fix.csv").write_text("who,a,b,y\nP-5,1,0.5,2\n")
    Path("new.csv").write_text("who,a,b,y\nN-1,1,0.5,2\n")


def model(random: np.random.Generator) -> NewtonRidge:
    X = random.uniform(-1, 1, size=(12, 2))
    return NewtonRidge().fit(X, X.sum(axis=1), record_ids=[f"P-{i}" for i in range(12)])


@pytest.mark.parametrize("second", CHANGES)
@pytest.mark.parametrize("first", CHANGES)
def test_no_change_is_made_from_a_model_that_has_a_successor(first, second):
    change(first, "one")
    assert "done already" in change(first, "one").output
    note = json.loads(Path("m.npz.next").read_text())
    before, after = load_model("m.npz").certificate_, load_model("one.npz").certificate_
    assert note == {
        "format": "expunge-successor",
        "version": 1,
        "model": before.digests.released,
        "release": 2,
        "successor": after.digests.released,
    }
    words = f"m.npz: release 2 was made from this model already, by its successor {after.digests.released[:12]}"
    refused(second, "two", match=words)
    refused(second, "one", "--overwrite", match=words)
    Path("one.npz").rename("m.npz.kept")  # the successor need not be there
    refused(second, "two", match=words)
    change(second, "two", "--branch")
    assert (
        json.loads(Path("m.npz.next").read_text())["successor"] == load_model("two.npz").certificate_.digests.released
    )


def test_a_chain_goes_on_and_each_model_has_its_note():
    change("unlearn", "one")
    run("release", "one.npz", "--again", "-o", "two.npz", "-c", "two.json")
    assert {file.name for file in Path().glob("*.next")} == {"m.npz.next", "one.npz.next"}
    run("purge", "one.npz", "--successor", "two.npz")
    assert {file.name for file in Path().glob("*.next")} == {"m.npz.next"}


def test_a_note_about_an_earlier_file_of_that_name_means_nothing():
    change("unlearn", "one")
    model(np.random.default_rng(1)).save("m.npz", overwrite=True)
    change("unlearn", "two")
    refused("unlearn", "three", match="made from this model already")


def test_the_note_lies_beside_the_file_and_not_beside_a_link():
    Path("models").mkdir()
    Path("m.npz").rename("models/m.npz")
    Path("m.npz").symlink_to("models/m.npz")
    change("unlearn", "one")
    assert Path("models/m.npz.next").is_file()
    Path("m.npz").unlink()
    Path("m.npz").symlink_to(Path("models/m.npz").resolve())
    refused("amend", "two", match="made from this model already")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": "expunge-ledger"}', '{"format": "expunge-successor"}']
)
def test_a_note_that_cannot_be_read_is_refused_by_name(content):
    Path("m.npz.next").write_text(content)
    refused("unlearn", "one", match=r"m.npz.next: is no note about the successor of m.npz")
    change("unlearn", "one", "--branch")


def test_a_folder_that_cannot_be_written_to_needs_a_ledger(monkeypatch):
    Path("models").mkdir()
    Path("m.npz").rename("models/m.npz")
    real = os.access
    monkeypatch.setattr(newton.os, "access", lambda place, mode: Path(place).name != "models" and real(place, mode))
    call = ["unlearn", "models/m.npz", "--id", "P-3", "-o", "one.npz", "-c", "one.json"]
    before = listing()
    assert "or enter the release in a --ledger" in run(*call, code=2).stderr
    assert listing() == before
    run(*call, "--ledger", "l")
    assert not list(Path("models").glob("*.next"))
    two = ["unlearn", "models/m.npz", "--id", "P-4", "-o", "two.npz", "-c", "two.json", "--ledger", "l"]
    assert "must be the model of the last entry" in run(*two, code=2).stderr


def test_of_two_calls_at_once_one_is_refused(monkeypatch):
    """The first has found the way free and done its work; then the second comes and goes, and the first writes."""
    real = newton.write_release

    def late(*args, **named):
        monkeypatch.setattr(newton, "write_release", real)
        change("amend", "two")
        return real(*args, **named)

    monkeypatch.setattr(newton, "write_release", late)
    assert "made from this model already" in change("unlearn", "one", code=2).stderr
    assert [file.name for file in Path().glob("*.json")] == ["two.json"]
    assert (
        json.loads(Path("m.npz.next").read_text())["successor"] == load_model("two.npz").certificate_.digests.released
    )


def test_langevin_models_and_releases_at_no_charge_leave_no_note():
    run("release", "m.npz", "--released", "r.npz")
    run("fit", "diabetes", "--model", "langevin-ridge", "-o", "k.npz")
    run("unlearn", "k.npz", "3", "--noise-std", "99", "-o", "k1.npz", "-c", "k1.json")
    assert not list(Path().glob("*.next"))
    two = ["unlearn", "k.npz", "4", "--noise-std", "99", "-o", "k2.npz", "-c", "k2.json"]
    assert "--branch is not for a LangevinRidge" in run(*two, "--branch", code=2).stderr
    assert "--branch goes with --again" in run("release", "m.npz", "--branch", "--released", "s.npz", code=2).stderr
