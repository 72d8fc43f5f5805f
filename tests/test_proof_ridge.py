"""Proofs of exact certificates: they contain the reference deltas, bound float64, and refute what is too small."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from expunge import LangevinRidge
from expunge.certificates import Certificate, Phase, RidgeRun, Sources, UndecidedError, VerificationError
from expunge.cli import main
from expunge.data import RidgeStatistics, blocks, open_records
from expunge.runs.ridge.law import deletion_pair

pytest.importorskip("flint")
from expunge.proof.ridge import prove_deltas

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())["ridge"]


def id_of(one, epsilon):
    return f"{REFERENCE.index(one)}-{epsilon}"


def problems():
    for one in REFERENCE:
        record = one["records"][0]
        for epsilon in record["delta_pq"]:
            yield pytest.param(one, record, epsilon, id=id_of(one, epsilon))


@pytest.mark.parametrize(("one", "record", "epsilon"), list(problems()))
def test_enclosures_contain_the_reference_and_bound_float64(one, record, epsilon):
    X, Y = np.array(one["X"]), np.array(one["Y"])
    phases = [
        Phase(one["learn_steps"], one["learn_noise_std"]),
        Phase(one["unlearn_steps"], one["unlearn_noise_std"], (record["index"],)),
    ]
    run = {"alpha": one["alpha"], "step_size": one["step_size"], "phases": phases, "deleted": [record["index"]]}
    pair = deletion_pair(X, Y, **run)
    value = {name: pair.delta(float(epsilon), direction=name) for name in ("pq", "qp")}
    claim = max(*value.values(), 1e-290) * (1 + 1e-9)
    found = prove_deltas(X, Y, **run, epsilon=float(epsilon), claim=claim)
    assert found.outcome == "proved", found.reason
    for name, enclosed in (("pq", found.delta_pq), ("qp", found.delta_qp)):
        truth = record[f"delta_{name}"][epsilon]  # 0 stands for less than 1e-280
        assert enclosed.lower * (1 - 1e-10) - 1e-250 <= truth <= enclosed.upper * (1 + 1e-10) + 1e-250
        assert enclosed.upper <= claim
        assert value[name] >= enclosed.lower
    largest = max(found.delta_pq.lower, found.delta_qp.lower)
    if largest > 1e-200:
        lower = prove_deltas(X, Y, **run, epsilon=float(epsilon), claim=largest * (1 - 1e-9))
        assert lower.outcome == "refuted"


def certificate(delta=1e-3):
    phases = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
    run = RidgeRun(
        estimator="LangevinRidge",
        alpha=1.0,
        fit_intercept=False,
        step_size=0.25,
        classes=None,
        n_records=3,
        n_features=3,
        n_outputs=1,
        phases=phases,
        deleted=(0,),
        sources=Sources(step_size="given", noise_std="given", classes="none"),
    )
    return Certificate.create(X=np.eye(3), y=np.ones(3), model=np.zeros((3, 1)), run=run, epsilon=1.0, delta=delta)


def test_a_certificate_is_proved_and_the_report_says_so():
    report = certificate().verify(np.eye(3), np.ones(3), proof=True)
    proof = report.proof
    assert proof.proved
    assert proof.delta_pq.upper <= 1e-3
    assert proof.delta_qp.upper <= 1e-3
    assert proof.delta_pq.lower <= report.delta_pq
    assert math.isclose(proof.delta_qp.upper, report.delta_qp, rel_tol=1e-9)
    assert {"whitening", "off_diagonal", "shift"} <= set(proof.defects)
    assert {"python-flint", "FLINT"} == set(proof.versions)
    assert "proved in ball arithmetic" in report.summary()
    assert certificate().verify(np.eye(3), np.ones(3)).proof is None
    assert json.loads(json.dumps(proof.to_dict()))["outcome"] == "proved"


def test_what_precision_cannot_decide_is_never_passed(monkeypatch):
    monkeypatch.setattr("expunge.proof.ridge.ATTEMPTS", ((192, 1),))
    monkeypatch.setattr("expunge.proof.ridge._outcome", lambda *_: ("undecided", "for a test"))
    with pytest.raises(UndecidedError, match="undecided with 192 bits: for a test") as error:
        certificate().verify(np.eye(3), np.ones(3), proof=True)
    assert error.value.field == "proof"
    assert error.value.proof.outcome == "undecided"


def test_a_refuted_claim_is_refused(monkeypatch):
    monkeypatch.setattr("expunge.proof.ridge._outcome", lambda *_: ("refuted", "for a test"))
    with pytest.raises(VerificationError, match=r"claim\.delta: refuted in ball arithmetic"):
        certificate().verify(np.eye(3), np.ones(3), proof=True)


def test_runs_without_noise_have_no_proof():
    phases = (Phase(n_steps=10, noise_std=0.0), Phase(n_steps=5, noise_std=0.0, removed=(0,)))
    with pytest.raises(ValueError, match="noise_std must be > 0"):
        prove_deltas(
            np.eye(3), np.ones((3, 1)), alpha=1.0, step_size=0.25, phases=phases, deleted=[0], epsilon=1.0, claim=0.1
        )


def test_groups_and_sequences_of_deletions_are_proved():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4))
    y = X @ [1.0, 2.0, 3.0, 4.0] + rng.normal(size=30)
    result = LangevinRidge(step_size=0.01, noise_std=0.05, n_steps=100, random_state=0).fit(X, y)
    for rows in ([1, 2], [5], [7, 8, 9], [11]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small data, and noise that shows in the model
            result = (getattr(result, "model", result)).unlearn(rows=rows, epsilon=1.0, delta=1e-5, n_steps=10)
        proof = result.certificate.verify(X, y, result.model.release(), proof=True).proof
        assert proof.outcome == "proved"
        for name in ("pq", "qp"):
            enclosed, certified = getattr(proof, f"delta_{name}"), getattr(result.certificate, f"delta_{name}")
            assert enclosed.lower <= certified
            assert math.isclose(enclosed.upper, certified, rel_tol=1e-6)


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_claims_on_tables_are_proved_as_those_on_arrays(method, monkeypatch):
    """The table comes in blocks, whose rows are read again for the proof; the deleted ones are held."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 16 * 8 * 3)
    rng = np.random.default_rng(2)
    X = rng.normal(size=(90, 3)).astype(np.float32)
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=90)
    table = open_records(X, target=y)
    settings = {"step_size": 0.004, "noise_std": 0.05, "n_steps": 50, "random_state": 0}
    model = LangevinRidge(**settings).fit_statistics(RidgeStatistics.of(table))
    result = model.unlearn(table=table, rows=[3, 77], method=method, epsilon=1.0, delta=1e-5, n_steps=10)
    certificate = result.certificate
    of_table, of_arrays = (certificate.verify(*data, proof=True).proof for data in ((table,), (X, y)))
    assert of_table.proved
    assert of_arrays.proved
    for name in ("delta_pq", "delta_qp"):
        assert getattr(of_table, name).lower <= getattr(certificate, name)
        for end in ("lower", "upper"):
            one, two = (getattr(getattr(proof, name), end) for proof in (of_table, of_arrays))
            assert math.isclose(one, two, rel_tol=1e-12)


def test_the_command_line_proves_and_says_what_it_cannot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = np.random.default_rng(1).normal(size=(40, 3)), np.arange(40) % 2
    np.savez("data.npz", X=X, y=y)
    runner = CliRunner()
    fixed = ["--step-size", "0.005", "--classes", "0,1", "--n-steps", "60", "--noise-std", "0.1"]
    made = ["-o", "m.npz", "--model", "langevin-ridge", "--task", "classify", "--overwrite"]
    assert runner.invoke(main, ["fit", "data.npz", *fixed, *made]).exit_code == 0
    for method in ("exact", "shifted"):
        change = ["3", "--method", method, "-o", "m1.npz", "-c", "c.json", "--overwrite"]
        found = runner.invoke(main, ["unlearn", "m.npz", *change])
        assert found.exit_code == 0, found.output
        found = runner.invoke(main, ["verify", "c.json", "data.npz", "--prove"])
        assert found.exit_code == 0, found.output
        assert "proved in ball arithmetic" in found.output
    monkeypatch.setattr("expunge.proof.ridge._outcome", lambda *_: ("undecided", "for a test"))
    found = runner.invoke(main, ["verify", "c.json", "data.npz", "--prove"])
    assert found.exit_code == 3
    assert "UNDECIDED" in found.output
