"""Statements that a claim was proved: bound to one certificate, never taken for a proof, and held against new ones."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from expunge.certificates import (
    Certificate,
    CertificateError,
    ProofStatement,
    StatedEnclosure,
    VerificationError,
    generate_key_pair,
)
from expunge.certificates.residual import page_of, verify
from expunge.cli import main
from given_runs import ridge_run
from residual_truth import problem

pytest.importorskip("flint")

X, Y = np.eye(3), np.ones(3)
GOLDEN = Path(__file__).parent / "golden" / "proof-statement-v1.json"


def certificate(**changes) -> Certificate:
    values = {"epsilon": 1.0, "delta": 0.05, "method": "exact", **changes}
    return Certificate.create(X=X, y=Y, model=np.zeros((3, 1)), run=ridge_run(), **values)


def stated(one: Certificate) -> ProofStatement:
    return ProofStatement.of(one, one.verify(X, Y, proof=True))


def changed(statement: ProofStatement, *path, value) -> str:
    """Return the JSON of a statement with one value changed."""
    values = json.loads(statement.to_json())
    place = values
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(values)


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_a_statement_is_kept_beside_the_certificate_and_is_no_proof(method, tmp_path):
    one = certificate(method=method)
    before = one.to_json()
    statement = stated(one)
    path = tmp_path / "statement.json"
    statement.save(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert ProofStatement.load(path) == statement
    assert one.to_json() == before
    report = one.verify(X, Y, statement=statement)
    assert report.proof is None
    assert report.statement == statement
    assert "said to be proved in ball arithmetic, not proved here (192 bits" in report.summary()
    assert one.verify(X, Y).statement is None
    again = one.verify(X, Y, proof=True, statement=statement)
    assert again.proof.proved
    assert "agrees with the statement that it was proved before" in again.summary()


def test_a_statement_by_residual_holds_the_gradient_and_the_page_says_who_states_it():
    case = problem("logistic", n=12)
    proved = verify(case.certificate, **case.data(), evidence=case.evidence, proof=True)
    statement = ProofStatement.of(case.certificate, proved)
    assert statement.method == "residual"
    assert set(statement.enclosures) == {"gradient", "gradient allowed", "mu of all releases"}
    report = verify(case.certificate, **case.data(), evidence=case.evidence, statement=statement)
    assert report.proof is None
    page = page_of([case.certificate], report=report)
    assert "for this page it was not proved: the statement is worth what its maker is worth" in page
    assert "Nobody signed that" in page
    assert "proved in ball arithmetic for this page" not in page
    key, _ = keys()
    both = verify(case.certificate, **case.data(), evidence=case.evidence, proof=True, statement=statement.sign(key))
    page = page_of([case.certificate], report=both)
    assert "proved in ball arithmetic for this page, without tolerance, 192 bits" in page
    assert "its enclosures agree with those found for this page" in page
    assert "That is signed by" in page
    assert "ball arithmetic" not in page_of([case.certificate])
    large = statement.enclosures["gradient allowed"]._replace(lower="2E+10", upper="2E+10")
    with pytest.raises(CertificateError, match=r"proved\.gradient: must be at most"):
        dataclasses.replace(statement, enclosures={**statement.enclosures, "gradient": large})
    with pytest.raises(CertificateError, match="must hold the gradient"):
        dataclasses.replace(statement, enclosures={})
    wrong = statement.enclosures["gradient"]._replace(lower="1E-40", upper="1E-40")
    forged = dataclasses.replace(statement, enclosures={**statement.enclosures, "gradient": wrong})
    with pytest.raises(VerificationError, match="statement is wrong") as caught:
        verify(case.certificate, **case.data(), evidence=case.evidence, proof=True, statement=forged)
    assert caught.value.field == "statement.gradient"


def keys():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    return key, key.public_key()


def test_signatures_of_certificate_and_statement_stand_apart():
    key, public = keys()
    other, other_public = keys()
    one = certificate().sign(key)
    statement = ProofStatement.of(one, one.verify(X, Y, proof=True)).sign(other)
    one.verify(X, Y, public_key=public, statement=statement)
    statement.verify_signature(other_public)
    with pytest.raises(VerificationError, match="signature"):
        statement.verify_signature(public)
    # The same bytes signed as a certificate's would not do.
    moved = dataclasses.replace(statement, signature=one.signature)
    with pytest.raises(VerificationError, match="does not") as caught:
        moved.check(one)
    assert caught.value.field == "statement.signature"
    # A statement belongs to the claim, whoever signed the certificate.
    dataclasses.replace(one, signature=None).verify(X, Y, statement=statement)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("bits",), 4096),
        (("stated_at",), "2020-01-01T00:00:00Z"),
        (("library_version",), "9"),
        (("libraries", "FLINT"), "1.0"),
        (("claim", "epsilon"), 0.5),
        (("claim", "method"), "uniform"),
        (("certificate", "digest"), "0" * 64),
        (("certificate", "format"), "expunge-residual-certificate"),
        (("proved", "delta_pq", "lower"), "0"),
        (("proved", "delta_qp", "upper"), "0.049"),
    ],
    ids=str,
)
def test_whatever_is_changed_in_a_signed_statement_is_noticed(path, value):
    key, _ = keys()
    one = certificate()
    statement = stated(one).sign(key)
    forged = ProofStatement.from_json(changed(statement, *path, value=value))
    with pytest.raises(VerificationError) as caught:
        one.verify(X, Y, statement=forged)
    assert caught.value.field.startswith("statement.")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("proved", "delta_pq", "upper"), "0.0500000000000000100", "at most the delta that is claimed"),
        (("proved", "delta_qp", "lower"), "-1E-9", "must be >= 0"),
        (("proved", "delta_qp", "upper"), "0", "ends in order"),
        (("proved", "delta_qp", "upper"), "NaN", "must match"),
        (("proved", "delta_qp", "upper"), 0.01, "must be of type string"),
        (("proved", "enclosures"), [{"name": "x", "lower": "2", "upper": "1"}], "ends in order"),
        (("proved", "enclosures"), [{"name": "x", "lower": "1", "upper": "1"}] * 2, "every number once"),
        (("claim", "delta"), float("nan"), "must be finite"),
        (("bits",), True, "must be of type integer"),
        (("version",), 2, "must be 1"),
        (("format",), "expunge-certificate", "must be 'expunge-proof-statement'"),
        (("meaning",), "This proves the claim.", "must be"),
        (("outcome",), "proved", "is not a field"),
        (("libraries", "FLINT"), "3\nproved", "printable text on one line"),
        (("stated_at",), "2020-13-01T00:00:00Z", "valid time"),
    ],
    ids=str,
)
def test_what_no_proof_can_have_found_is_not_read(path, value, match):
    with pytest.raises(CertificateError, match=match):
        ProofStatement.from_json(changed(stated(certificate()), *path, value=value))


def test_a_statement_about_another_certificate_is_refused():
    one, two = certificate(), certificate()  # salts differ
    with pytest.raises(VerificationError, match=r"statement\.certificate: must be the digest of this certificate"):
        two.verify(X, Y, statement=stated(one))
    case = problem("logistic", n=12)
    with pytest.raises(VerificationError, match=r"statement\.certificate"):
        verify(case.certificate, **case.data(), evidence=case.evidence, statement=stated(one))
    with pytest.raises(TypeError, match="statement must be a ProofStatement"):
        one.verify(X, Y, statement={"delta_pq": 0.0})
    report = one.verify(X, Y, proof=True)
    with pytest.raises(ValueError, match="report must be about this certificate"):
        ProofStatement.of(two, report)
    with pytest.raises(ValueError, match="report must hold a proof that passed"):
        ProofStatement.of(one, one.verify(X, Y))
    failed = dataclasses.replace(report.proof, outcome="undecided")
    with pytest.raises(ValueError, match="report must hold a proof that passed"):
        ProofStatement.of(one, dataclasses.replace(report, proof=failed))


def test_wrong_enclosures_are_found_by_the_next_proof_alone():
    one = certificate()
    statement = stated(one)
    wrong = dataclasses.replace(statement, delta_pq=StatedEnclosure("1E-9", "1.000001E-9"))
    assert one.verify(X, Y, statement=wrong).proof is None  # said, and nothing else
    with pytest.raises(VerificationError, match="the statement is wrong") as caught:
        one.verify(X, Y, proof=True, statement=wrong)
    assert caught.value.field == "statement.delta_pq"
    wider = dataclasses.replace(statement, delta_pq=StatedEnclosure("0", "0.05"))
    assert one.verify(X, Y, proof=True, statement=wider).proof.proved
    more = dataclasses.replace(statement, enclosures={"mu": StatedEnclosure("1", "2")})
    with pytest.raises(VerificationError, match=r"statement\.proved: must enclose"):
        one.verify(X, Y, proof=True, statement=more)


def test_statements_of_the_first_version_are_read_for_ever():
    statement = ProofStatement.load(GOLDEN)
    assert json.loads(statement.to_json()) == json.loads(GOLDEN.read_text())
    statement._check_own_signature()
    assert statement.digest() == "47e6c750b2a6a1bf7bdfcffdf590f01823639fb27e607c1737acc37014f1eebb"


def test_numbers_too_small_for_floats_are_compared_as_decimals():
    tiny = StatedEnclosure("1E-400", "2E-400")
    one = dataclasses.replace(stated(certificate()), delta_pq=tiny)
    assert ProofStatement.from_json(one.to_json()) == one
    with pytest.raises(CertificateError, match="ends in order"):
        dataclasses.replace(one, delta_pq=StatedEnclosure("2E-400", "1E-400"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, y = np.random.default_rng(1).normal(size=(40, 3)), np.arange(40) % 2
    np.savez("data.npz", X=rows, y=y)
    np.savez("now.npz", X=np.delete(rows, 3, axis=0), y=np.delete(y, 3))
    generate_key_pair("key", "key.pub")
    return tmp_path


def run(*arguments, code=0):
    found = CliRunner().invoke(main, [str(one) for one in arguments])
    assert found.exit_code == code, found.output
    return found.output


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
def test_the_command_line_keeps_shows_and_checks_statements(folder):
    fixed = ["--step-size", "0.005", "--classes", "0,1", "--n-steps", "60", "--noise-std", "0.1", "--task", "classify"]
    run("fit", "data.npz", *fixed, "-o", "m.npz", "--model", "langevin-ridge")
    run("unlearn", "m.npz", "3", "-o", "m1.npz", "-c", "c.json")
    said = run("verify", "c.json", "data.npz", "--prove", "--keep", "s.json", "--key", "key")
    assert "it proves nothing by itself" in said
    assert stat.S_IMODE(os.stat("s.json").st_mode) == 0o600
    shown = run("show", "s.json")
    assert "was proved in ball arithmetic, 192 bits" in shown
    assert "It proves nothing by itself" in shown
    assert "signature  holds" in shown
    run("show", "s.json", "--public-key", "key.pub")
    said = run("verify", "c.json", "data.npz", "--stated", "s.json")
    assert "said to be proved in ball arithmetic, not proved here" in said
    assert "  proved in ball arithmetic" not in said
    assert "agrees with the statement" in run("verify", "c.json", "data.npz", "--stated", "s.json", "--prove")
    assert "already exists" in run("verify", "c.json", "data.npz", "--prove", "--keep", "s.json", code=2)
    run("unlearn", "m.npz", "4", "-o", "m2.npz", "-c", "c2.json")
    assert "statement.certificate" in run("verify", "c2.json", "data.npz", "--stated", "s.json", code=1)
    values = json.loads(Path("s.json").read_text())
    values["proved"]["delta_pq"] = {"lower": "1E-30", "upper": "1E-30"}
    Path("forged.json").write_text(json.dumps(values))
    assert "statement.signature" in run("verify", "c.json", "data.npz", "--stated", "forged.json", code=1)
    run("show", "forged.json", code=1)
    values["signature"] = None
    Path("forged.json").write_text(json.dumps(values))
    run("verify", "c.json", "data.npz", "--stated", "forged.json")
    assert "statement.delta_pq" in run("verify", "c.json", "data.npz", "--stated", "forged.json", "--prove", code=1)
    for option in ("--keep", "--state"):
        assert f"{option} goes with --prove" in run("verify", "c.json", "data.npz", option, "x.json", code=2)
    assert "--key goes with --keep" in run("verify", "c.json", "data.npz", "--prove", "--key", "key", code=2)


def test_the_page_and_the_command_line_say_the_same_of_a_certificate_by_residual(folder):
    run("fit", "data.npz", "-o", "m.npz", "--model", "logistic", "--task", "classify", "--classes", "0,1")
    run("unlearn", "m.npz", "3", "-o", "m1.npz", "-c", "c.json", "--evidence", "e.npz", "--released", "r.npz")
    check = ["verify", "c.json", "now.npz", "--evidence", "e.npz"]
    run(*check, "--prove", "--keep", "s.json")
    assert "not proved here" in run(*check, "--stated", "s.json")
    page = ["report", "c.json", "-o", "page.html"]
    assert "--stated goes with --data" in run(*page, "--stated", "s.json", code=2)
    run(*page, "--data", "now.npz", "--evidence", "e.npz", "--stated", "s.json")
    assert "for this page it was not proved" in Path("page.html").read_text()
    assert "--state is for Langevin runs" in run(*check, "--prove", "--state", "x", code=2)
