"""``expunge release``: the last release written out, free of charge, and further ones, charged and entered."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from command_calls import listing, run
from expunge import LangevinRidge, NewtonRidge
from expunge.certificates import generate_key_pair
from expunge.certificates.residual import ResidualCertificate
from expunge.cli.files import load_evidence, load_model, model_digests
from expunge.ledger import Ledger

FILES = ["-o", "m1.npz", "-c", "c1.json", "--evidence", "e1.npz", "--released", "r1.npz"]


def refused(*arguments: object, match: str) -> None:
    before = listing()
    last = run(*arguments, code=2).stderr.splitlines()[-1]
    assert re.search(match, last), last
    assert listing() == before


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, size=(12, 2)).round(3)
    lines = ["who,a,b,y", *(f"P-{i},{a},{b},{a + b}" for i, (a, b) in enumerate(X.tolist()))]
    Path("all.csv").write_text("\n".join(lines) + "\n")
    generate_key_pair("key.pem", "key.pub")
    run("fit", "all.csv", "--id-column", "who", "--task", "regress", "--releases", "3", "--noise-std", "0.1",
        "-o", "m0.npz", "-c", "c0.json", "--ledger", "l")  # fmt: skip


def test_a_further_release_is_charged_entered_signed_and_verified():
    run("release", "m0.npz", "--again", *FILES, "--ledger", "l", "--key", "key.pem")
    before, after = load_model("m0.npz"), load_model("m1.npz")
    proof = ResidualCertificate.load("c1.json")
    assert (proof.release, after.releases_left_) == (2, 1)
    assert not np.array_equal(before.coef_, after.coef_)
    np.testing.assert_array_equal(before.evidence_.theta, after.evidence_.theta)
    assert after.reading_ == before.reading_
    assert after.feature_names_in_.tolist() == ["a", "b"]
    assert [(one.action, one.release) for one in Ledger("l").entries()] == [("fit", 1), ("release", 2)]
    verify = ["verify", "all.csv", "--evidence", "e1.npz", "--model", "r1.npz", "--public-key", "key.pub"]
    run(verify[0], "c1.json", *verify[1:])
    assert load_evidence("e1.npz").action == "release"
    run("unlearn", "m1.npz", "--id", "P-3", "-o", "m2.npz", "-c", "c2.json", "--ledger", "l")
    refused("release", "m2.npz", "--again", "-o", "m3.npz", "-c", "c3.json", match="budget of 3 releases is spent")
    refused("release", "m0.npz", "--again", "-o", "m3.npz", "-c", "c3.json", "--ledger", "l",
            match="must be the model of the last entry")  # fmt: skip


def test_a_call_that_is_repeated_is_neither_done_nor_charged_twice():
    call = ["release", "m0.npz", "--again", *FILES, "--ledger", "l"]
    run(*call)
    before = listing()
    assert "done already" in run(*call).output
    assert listing() == before
    refused("unlearn", "m0.npz", "--id", "P-3", *FILES, match="already exists")


def test_the_last_release_is_written_out_free_of_charge():
    before = listing()
    run("release", "m0.npz", "-c", "c.json", "--evidence", "e.npz", "--released", "r.npz")
    assert Path("c.json").read_bytes() == Path("c0.json").read_bytes()
    model, released = load_model("m0.npz"), load_model("r.npz", released=True)
    assert set(model_digests(model)) <= set(model_digests(released))
    assert load_evidence("e.npz").certificate == model.certificate_.digest()
    assert {name: content for name, content in listing().items() if name in before} == before
    refused("release", "m0.npz", "--released", "r.npz", match="already exists")
    LangevinRidge(random_state=0).fit(np.eye(3), np.ones(3)).save("langevin.npz")
    run("release", "langevin.npz", "--released", "k.npz")
    assert load_model("k.npz", released=True).coef_.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["m0.npz"], "say what to write"),
        (["m0.npz", "--again"], "--again needs --output and --certificate"),
        (["m0.npz", "--again", "-o", "x.npz"], "--again needs --output and --certificate"),
        (["m0.npz", "-o", "x.npz"], "--output goes with --again"),
        (["m0.npz", "-c", "x.json", "--key", "key.pem"], "--key goes with --again"),
        (["m0.npz", "-c", "x.json", "--ledger", "l"], "--ledger goes with --again"),
        (["m0.npz", "-c", "x.npz"], "must end in .json"),
        (["langevin.npz", "-c", "x.json"], "can only write --released"),
        (["langevin.npz", "--again", "-o", "x.npz", "-c", "x.json"], "can only write --released"),
        (["none.npz", "--released", "x.npz"], "none.npz"),
        (["m0.npz", "--again", "-o", "m0.npz", "-c", "x.json", "--overwrite"], "MODEL"),
    ],
)
def test_release_refuses(arguments, match):
    LangevinRidge(random_state=0).fit(np.eye(3), np.ones(3)).save("langevin.npz")
    refused("release", *arguments, match=match)


def test_a_change_to_the_same_content_is_no_further_release():
    NewtonRidge().fit(np.eye(3), [1.0, 2.0, 3.0], record_ids=["a", "b", "c"]).save("n.npz")
    run("release", "n.npz", "--again", "-o", "k.npz", "-c", "k.json")
    Path("same.csv").write_text("who,x,y,z,t\na,1,0,0,1\n")
    refused("amend", "n.npz", "same.csv", "--id-column", "who", "-o", "k.npz", "-c", "k.json", match="already exists")
