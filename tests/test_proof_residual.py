"""Proofs of claims by residual: the gradient contains 60 digits, and a claim passes or fails at the proved ends."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from click.testing import CliRunner

from expunge.accounting import gdp_delta
from expunge.certificates import UndecidedError, VerificationError
from expunge.certificates.residual import verification, verify
from expunge.cli import main
from expunge.data import ArrayRecords
from expunge.runs.methods import METHODS
from expunge.runs.residual import Rows, gradient_sums

pytest.importorskip("flint")
from flint import arb

from expunge.proof import balls
from expunge.proof.claims import prove_claim, refuse_unproved
from expunge.proof.residual import _outcome, gradient_norm, prove_residual
from given_runs import ridge_run
from residual_truth import KINDS, problem

GOLDEN = json.loads((Path(__file__).parent / "golden" / "residual_reference.json").read_text())
REFERENCES = [*GOLDEN["logistic"], *GOLDEN["softmax"]]
MP = mpmath.MPContext()
MP.dps = 60
CLAIM = {"noise_std": 0.01, "epsilon": 1.0, "delta": 1e-5, "releases": 100, "reference": "optimum"}


def mp_gradient_norm(rows, theta, *, loss, alpha):
    """Return the norm of the gradient, term by term."""
    q, p = theta.shape
    total = [[MP.mpf(alpha) * MP.mpf(float(theta[c, k])) for k in range(p)] for c in range(q)]
    for i, x in enumerate(rows.X.tolist()):
        u = [MP.fsum(MP.mpf(float(theta[c, k])) * MP.mpf(x[k]) for k in range(p)) for c in range(q)]
        if loss == "squared":
            r = [u[c] - MP.mpf(float(rows.targets[i, c])) for c in range(q)]
        elif loss == "softmax":
            grown = [MP.exp(one) for one in u]
            r = [g / MP.fsum(grown) - int(rows.labels[i] == c) for c, g in enumerate(grown)]
        else:
            wanted = [rows.labels[i]] if q == 1 else [rows.labels[i] == c for c in range(q)]
            r = [1 / (1 + MP.exp(-one)) - int(t) for one, t in zip(u, wanted, strict=True)]
        w = 1 if rows.weights is None else MP.mpf(float(rows.weights[i]))
        for c in range(q):
            for k in range(p):
                total[c][k] += w * r[c] * MP.mpf(x[k])
    return MP.sqrt(MP.fsum(one * one for row in total for one in row))


def rows_of(case):
    """Return the rows of a case as its model sees them."""
    c = case.certificate
    answers = verification.answers_of(case.y, loss=c.loss, classes=c.model.classes, n_outputs=c.model.n_outputs)
    (one,) = verification._parts(c, case.X, answers, case.weights)
    return one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["optimum", "anywhere", "far"])
def test_the_gradient_contains_60_digits_and_bounds_float64(kind, place):
    weights = np.random.default_rng(3).uniform(0, 2, 12) if place == "anywhere" else None
    case = problem(kind, n=12, weights=weights)
    rows, loss = rows_of(case), case.certificate.loss
    theta = case.theta
    if place != "optimum":
        size = 1.0 if place == "anywhere" else 500.0
        theta = np.ascontiguousarray(size * np.random.default_rng(0).normal(size=theta.shape))
    with balls.precision(192):
        found = balls.enclosure(gradient_norm([rows], theta, loss=loss, alpha=1.0))
    truth = mp_gradient_norm(rows, theta, loss=loss, alpha=1.0)
    assert MP.mpf(found.lower_text) <= truth <= MP.mpf(found.upper_text)
    assert found.upper <= found.lower * (1 + 1e-15)
    given = {"targets": rows.targets} if loss == "squared" else {"labels": rows.labels}
    sums = gradient_sums(rows.X, theta, loss=loss, weights=rows.weights, **given)
    assert sums.norm_bound(theta, alpha=1.0) >= found.lower


@pytest.mark.parametrize("case", REFERENCES, ids=lambda case: case["name"])
def test_gradients_of_the_reference_are_enclosed(case):
    """The reference took decimal rows and parameters, of which floats are 1e-16 off."""
    kept = np.delete(np.arange(len(case["X"])), case["delete"])
    X, y, q = np.array(case["X"])[kept], np.array(case["y"])[kept], case.get("classes", 1)
    rows = Rows(X, (y > 0).astype(np.int64) if q == 1 else y)
    for name, residual in (("newton1", "residual1"), ("chord2", "residual2")):
        if name in case:
            theta = np.array(case[name], dtype=float).reshape(q, -1)
            with balls.precision(192):
                loss = "logistic" if q == 1 else "softmax"
                found = balls.enclosure(gradient_norm([rows], theta, loss=loss, alpha=case["alpha"]))
            assert abs(MP.mpf(found.lower_text) - MP.mpf(case[residual])) < 1e-14
            assert found.upper <= found.lower * (1 + 1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_certificate_is_proved_on_arrays_and_tables(kind):
    weights = np.random.default_rng(3).uniform(0, 2, 40)
    case = problem(kind, weights=weights)
    report = verify(case.certificate, **case.data(), evidence=case.evidence, released=case.released, proof=True)
    proof = report.proof
    assert proof.proved
    assert proof.enclosures["gradient"].lower <= report.residual_bound
    assert proof.enclosures["gradient"].upper <= report.residual_allowed
    assert proof.enclosures["gradient allowed"].lower == report.residual_allowed
    assert proof.delta_pq == proof.delta_qp
    assert proof.delta_pq.upper <= 1e-5
    assert "proved in ball arithmetic" in report.summary()
    assert verify(case.certificate, **case.data(), evidence=case.evidence).proof is None
    table = ArrayRecords(case.X, case.y, ids=case.ids)
    of_table = verify(case.certificate, table, evidence=case.evidence, sample_weight=weights, proof=True).proof
    assert of_table.enclosures["gradient"][:4] == proof.enclosures["gradient"][:4]


@pytest.mark.parametrize("reference", ["optimum", "same rule"])
@pytest.mark.parametrize("kind", KINDS)
def test_claims_pass_above_the_proved_ends_and_fail_below_them(kind, reference):
    """By 1e-12 relative, the gradient by mu and the budget by delta."""
    case = problem(kind, n=12)
    rows, theta = rows_of(case), case.theta + 0.01
    claim = {**CLAIM, "loss": case.certificate.loss, "alpha": 2.0, "reference": reference, "delta": 0.5, "mu": 0.02}

    def prove(**changes):
        return prove_residual(lambda: [rows], theta, **{**claim, **changes})

    size = prove(noise_std=1.0).enclosures["gradient"]
    assert prove(noise_std=size.upper / 0.04 * (1 + 1e-12)).outcome == "proved"
    below = prove(noise_std=size.lower / 0.04 * (1 - 1e-12))
    assert below.outcome == "refuted"
    assert below.reason.startswith("the norm of the gradient is at least")
    enough = {"noise_std": size.upper * 100}
    budget = prove(**enough).delta_pq
    assert prove(**enough, delta=budget.upper * (1 + 1e-12)).outcome == "proved"
    below = prove(**enough, delta=budget.lower * (1 - 1e-12))
    assert below.outcome == "refuted"
    assert below.reason.startswith("delta of all releases is at least")
    times = {"optimum": 1, "same rule": 2}[reference]
    assert math.isclose(budget.lower, gdp_delta(0.02 * times * 10, 1.0), rel_tol=1e-12)


def test_a_bound_of_float64_that_lies_is_refuted(monkeypatch):
    case = problem("logistic", theta=np.full((1, 5), 0.1))
    monkeypatch.setattr(verification, "_residual_bound", lambda *_: 0.0)
    assert verify(case.certificate, **case.data(), evidence=case.evidence).residual_bound == 0.0
    with pytest.raises(VerificationError, match="refuted in ball arithmetic: the norm of the gradient") as caught:
        verify(case.certificate, **case.data(), evidence=case.evidence, proof=True)
    assert caught.value.field == "claim.mu"


def test_a_budget_that_is_too_small_is_refuted(monkeypatch):
    case = problem("ridge")
    monkeypatch.setattr(type(case.certificate), "check_claim", lambda _: None)
    large = dataclasses.replace(case.certificate, mu=10 * case.certificate.mu)
    evidence = dataclasses.replace(case.evidence, certificate=large.digest())
    with pytest.raises(VerificationError, match="refuted in ball arithmetic: delta of all releases") as caught:
        verify(large, **case.data(), evidence=evidence, proof=True)
    assert caught.value.field == "claim.delta"


def test_what_precision_cannot_decide_is_undecided_and_never_passed(monkeypatch):
    monkeypatch.setattr("expunge.proof.residual.ATTEMPTS", (8,))
    case = problem("softmax")
    with pytest.raises(UndecidedError, match="undecided with 8 bits: the norm of the gradient may exceed") as caught:
        verify(case.certificate, **case.data(), evidence=case.evidence, proof=True)
    assert caught.value.proof.outcome == "undecided"


def test_a_ball_on_both_sides_of_what_is_allowed_is_undecided():
    half, wide = arb(1), arb(1, 0.1)
    assert _outcome(wide, arb(1.05), half / 4, 0.5)[0] == "undecided"
    assert _outcome(wide, arb(1.2), wide / 2, 0.52)[0] == "undecided"
    assert _outcome(wide, arb(1.2), wide / 2, 0.6) == ("proved", "")
    assert _outcome(wide, arb(0.8), half / 4, 0.5)[0] == "refuted"
    assert _outcome(wide, arb(1.2), wide / 2, 0.4)[0] == "refuted"


def test_infinite_or_missing_numbers_are_never_proved():
    rows = Rows(np.array([[np.nan, 1.0], [1.0, 2.0]]), np.array([0, 1]))
    claim = {**CLAIM, "loss": "logistic", "alpha": 1.0, "mu": 0.02}
    assert prove_residual(lambda: [rows], np.zeros((1, 2)), **claim).outcome == "undecided"


def test_the_command_line_proves_a_deletion_and_says_what_it_cannot(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = np.random.default_rng(1).normal(size=(40, 3)), np.arange(40) % 2
    np.savez("data.npz", X=X, y=y)
    np.savez("now.npz", X=np.delete(X, 3, axis=0), y=np.delete(y, 3))
    runner = CliRunner()
    made = ["-o", "m.npz", "--model", "logistic", "--task", "classify", "--classes", "0,1"]
    found = runner.invoke(main, ["fit", "data.npz", *made])
    assert found.exit_code == 0, found.output
    change = ["3", "-o", "m1.npz", "-c", "c.json", "--evidence", "e.npz", "--released", "r.npz"]
    found = runner.invoke(main, ["unlearn", "m.npz", *change])
    assert found.exit_code == 0, found.output
    check = ["verify", "c.json", "now.npz", "--evidence", "e.npz", "--prove"]
    found = runner.invoke(main, check)
    assert found.exit_code == 0, found.output
    assert "proved in ball arithmetic" in found.output
    monkeypatch.setattr("expunge.proof.residual.ATTEMPTS", (8,))
    found = runner.invoke(main, check)
    assert found.exit_code == 3
    assert "UNDECIDED" in found.output


def test_the_readme_says_what_is_proved():
    """Every kind of claim that certificates make; a kind of run that nobody proves is refused by name."""
    text = " ".join((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").split())
    assert (
        "Every certificate - of ridge runs by any method (by shifted interpolation up to 100,000 steps), and of "
        "deletions by computed residual - can be proved in ball arithmetic, without tolerance (`expunge verify "
        "--prove`)."
    ) in text
    for method in METHODS:
        run = ridge_run()
        beside = run.check(np.eye(3), np.ones(3), conditions=None)
        given = {"epsilon": 1.0, "delta": 0.5, "delta_s": None if method == "exact" else 0.01}
        assert prove_claim(run, beside, method=method, **given).proved

    class OtherRun:
        kind = "other"

    with pytest.raises(ValueError, match="runs of kind 'other'"):
        refuse_unproved(OtherRun())
