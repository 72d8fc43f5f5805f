"""Two parties agree on the noise of a release from the command line, and an auditor draws it again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from command_calls import refused, run
from expunge.certificates.residual import ResidualCertificate, ResidualEvidence


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def commitment(name: str) -> str:
    found = re.search("[0-9a-f]{64}", run("noise", "seed", name).output)
    assert found is not None
    return found[0]


def agreed(model: str, *, to: str = "a.json") -> list[str]:
    run("noise", "agree", model, commitment(f"{to}-ours"), commitment(f"{to}-theirs"), "-o", to)
    return ["--agreement", to, "--seed", f"{to}-ours", "--seed", f"{to}-theirs"]


OUT = ["-o", "m1.npz", "-c", "c1.json", "--evidence", "e1.npz", "--released", "r1.npz"]


def test_a_deletion_with_agreed_noise_is_verified_with_its_evidence():
    run("fit", "diabetes", "-o", "m.npz")
    noise = agreed("m.npz")
    run("unlearn", "m.npz", "--rows", "3", *noise, *OUT, "--ledger", "l")
    certificate = ResidualCertificate.load("c1.json")
    assert certificate.noise.sampler == "agreed"
    assert ResidualEvidence.load("e1.npz").seeds is not None
    X, y = load_diabetes(return_X_y=True)
    np.savez("now.npz", X=np.delete(X, 3, 0), y=np.delete(y, 3))
    # An interrupted call is repeated unchanged, and finds everything done.
    again = run("unlearn", "m.npz", "--rows", "3", *noise, *OUT, "--ledger", "l").output
    assert "done already" in again
    evidence = ["--evidence", "e1.npz", "--model", "r1.npz"]
    output = run("verify", "c1.json", "now.npz", *evidence, "--of-program", "--allow-conditional").output
    assert "seeds of two parties" in output
    refused("verify", "c1.json", "now.npz", *evidence, "--of-program", match="policy.allow_conditional", code=1)
    refused("verify", "c1.json", "now.npz", "--evidence", "m1.npz", match="evidence.seeds", code=1)
    run("unlearn", "m1.npz", "--rows", "5", "-o", "m2.npz", "-c", "c2.json", "--ledger", "l")
    assert ResidualCertificate.load("c2.json").noise.sampler == "exact"


def test_a_further_release_and_other_changes_take_it_too():
    Path("t.csv").write_text("".join(["a,target\n", *(f"{i},{i % 3}\n" for i in range(9))]))
    run("fit", "t.csv", "--target-column", "target", "--task", "regress", "-o", "m.npz")
    again = agreed("m.npz", to="b.json")
    run("release", "m.npz", "--again", *again, *OUT)
    assert ResidualCertificate.load("c1.json").noise.sampler == "agreed"
    Path("new.csv").write_text("a,target\n5,1\n")
    added = agreed("m1.npz", to="c.json")
    run(
        "add",
        "m1.npz",
        "new.csv",
        "--target-column",
        "target",
        *added,
        "-o",
        "m2.npz",
        "-c",
        "c2.json",
        "--evidence",
        "e2.npz",
    )
    assert ResidualCertificate.load("c2.json").noise.agreement.release == 3


def test_what_cannot_be_verified_later_is_refused():
    run("fit", "diabetes", "-o", "m.npz")
    noise = agreed("m.npz")
    call = ["unlearn", "m.npz", "--rows", "3"]
    refused(*call, *noise, *OUT[:4], match="--evidence must be given with --agreement")
    refused(*call, *noise[:4], *OUT, match="--agreement goes with two --seed, got 1")
    refused(*call, *noise[2:], *OUT, match="--agreement goes with two --seed, got 2 and no agreement")
    refused(*call, *noise[:4], "--seed", "a.json-ours", *OUT, match="seeds must be the two that were committed to")
    refused(*call, *noise, "-o", "m1.npz", "-c", "a.json", "--evidence", "e1.npz", "--overwrite", match="a.json")
    refused("noise", "seed", "a.json-ours", match="already exists")
    refused("noise", "agree", "m.npz", "0", "1", "-o", "x.json", match="commitments must be 64 hexadecimal digits")
    refused("release", "m.npz", *noise, "--released", "r.npz", match="--agreement goes with --again")
    run("fit", "diabetes", "--model", "langevin-ridge", "-o", "l.npz")
    refused("noise", "agree", "l.npz", "0" * 64, "1" * 64, "-o", "x.json", match="cannot be agreed on")
    refused(
        "unlearn", "l.npz", "3", *noise, "-o", "k.npz", "-c", "k.json", match="--agreement is not for a LangevinRidge"
    )
    assert not list(Path().glob("*1.*"))
