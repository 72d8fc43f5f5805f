"""What a verification accepts, how much it works, what it says about other data, and how it bears hostile input."""

import dataclasses
import json
import time

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

import oracles
from expunge.certificates import (
    CONDITIONS,
    Certificate,
    CertificateError,
    Policy,
    Sources,
    VerificationError,
    work,
)
from expunge.certificates import signed as certificate_module
from expunge.certificates.work import DEFAULT_BUDGET
from expunge.runs.ridge.law import Phase, RidgeDeletion, deletion_pair, smoothness
from expunge.runs.ridge.work import estimated_work
from given_runs import GIVEN, run_on

PHASES = (Phase(6, 0.3), Phase(3, 0.3, (4,)))


def problem(*, phases=PHASES, deleted=(4,), sources=GIVEN, width=3, n=14):
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(n, width)), rng.normal(size=n)
    return X, y, run_on(X, alpha=1.5, step=0.9, phases=phases, deleted=deleted, sources=sources)


def issue(X, y, run, **changes):
    if "model" not in changes:
        changes["model"] = oracles.ridge_run(X, y[:, None], run, np.random.default_rng(1))
    return Certificate.create(X=X, y=y, run=run, **{"epsilon": 2.0, "delta": 0.5, **changes})


def outcome(call):
    """The report, or the refusal by name; any other error is one of the library."""
    try:
        return call()
    except CertificateError as error:
        return error


# --- policy ------------------------------------------------------------------------------------


def test_a_policy_refuses_by_name_what_it_does_not_allow():
    X, y, run = problem()
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    certificate = issue(X, y, run).sign(key)
    conditional = issue(X, y, dataclasses.replace(run, sources=Sources(step_size="given")))
    public = key.public_key()
    assert certificate.verify(X, y, policy=Policy()).certified
    exact = Policy(max_epsilon=2.0, max_delta=0.5, public_key=public)
    assert certificate.verify(X, y, policy=exact).signature == "trusted key"
    assert conditional.verify(X, y, policy=Policy(allow_conditional=True)).conditions == (CONDITIONS["noise_std"],)
    for proof, policy, field in (
        (certificate, Policy(max_epsilon=np.nextafter(2.0, 0)), "policy.max_epsilon"),
        (certificate, Policy(max_delta=np.nextafter(0.5, 0)), "policy.max_delta"),
        (certificate, Policy(public_key=other.public_key()), "policy.public_key"),
        (conditional, Policy(public_key=public, allow_conditional=True), "policy.public_key"),
        (conditional, Policy(), "policy.allow_conditional"),
        (dataclasses.replace(certificate, delta=0.6), Policy(public_key=public), "policy.public_key"),
    ):
        with pytest.raises(VerificationError) as caught:
            proof.verify(X, y, policy=policy)
        assert caught.value.field == field
    with pytest.raises(VerificationError, match=CONDITIONS["noise_std"]):
        conditional.verify(X, y, policy=Policy())


@pytest.mark.parametrize(
    "values",
    [
        {"max_epsilon": -1.0},
        {"max_epsilon": float("nan")},
        {"max_delta": 1.5},
        {"max_delta": "small"},
        {"public_key": "key"},
        {"allow_conditional": 1},
    ],
)
def test_a_policy_that_means_nothing_cannot_be_made(values):
    with pytest.raises((TypeError, ValueError), match=next(iter(values))):
        Policy(**values)
    with pytest.raises(TypeError, match="policy"):
        issue(*problem()).verify(*problem()[:2], policy="strict")


# --- work --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_ten_million_learning_steps_verify_in_seconds(method):
    X, y, run = problem(phases=(Phase(10**7, 0.3), Phase(300, 0.3, (4,))))
    deletion = RidgeDeletion(X, y[:, None], alpha=run.alpha, step_size=run.step_size, deleted=(4,))
    law = deletion.run(run.phases)
    covariance = np.diag(law.variance_q) + law.covariance_difference
    noise = deletion.reference.vectors @ np.linalg.cholesky(covariance) @ np.random.default_rng(0).normal(size=(3, 1))
    start = time.perf_counter()
    certificate = issue(X, y, run, model=law.mean_p + noise, method=method, delta=0.9)
    certificate.verify(X, y, law.mean_p + noise)
    assert time.perf_counter() - start < 10
    assert estimated_work(run, method=method) < DEFAULT_BUDGET / 10


def test_more_work_than_the_budget_is_refused_before_it_starts(monkeypatch):
    X, y, run = problem()
    certificate = issue(X, y, run)
    work = estimated_work(run, method="exact")
    certificate.verify(X, y, budget=work)
    certificate.verify(X, y, budget=float("inf"))

    def never(*args, **named):
        raise AssertionError("work was done")

    monkeypatch.setattr(RidgeDeletion, "__init__", never)
    with pytest.raises(VerificationError, match="larger budget") as caught:
        certificate.verify(X, y, budget=work * 0.99)
    assert caught.value.field == "budget"
    many = tuple(Phase(1, 0.3, (4,)) for _ in range(20_000))
    long = dataclasses.replace(certificate, run=dataclasses.replace(run, phases=(run.phases[0], *many)))
    with pytest.raises(VerificationError) as caught:
        long.verify(X, y, budget=1e11)
    assert caught.value.field == "budget"
    wide = dataclasses.replace(certificate, run=dataclasses.replace(run, n_features=10_000))
    with pytest.raises(VerificationError) as caught:
        wide.verify(X, y)
    assert caught.value.field == "budget"
    for bad in (-1.0, float("nan"), "much"):
        with pytest.raises((TypeError, ValueError), match="budget"):
            certificate.verify(X, y, budget=bad)


def test_the_default_budget_admits_large_problems_and_no_flood_of_phases():
    run = problem()[2]
    large = dataclasses.replace(run, n_records=100_000, n_features=1000, n_outputs=10)
    assert estimated_work(large, method="exact") < DEFAULT_BUDGET
    flood = dataclasses.replace(run, phases=(run.phases[0], *[run.phases[1]] * 100_000))
    assert estimated_work(flood, method="exact") > DEFAULT_BUDGET


@pytest.mark.parametrize("growth", ["n_records", "n_features", "n_outputs", "phases"])
def test_estimated_work_grows_with_what_makes_work(growth):
    run = problem()[2]
    larger = {"phases": (*run.phases, run.phases[-1])} if growth == "phases" else {growth: 10 * getattr(run, growth)}
    for method in ("exact", "shifted", "uniform"):
        assert estimated_work(dataclasses.replace(run, **larger), method=method) > estimated_work(run, method=method)


def test_a_text_larger_than_any_certificate_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(certificate_module, "parse_json", None)
    with pytest.raises(CertificateError, match="at most") as caught:
        Certificate.from_json(" " * (certificate_module.MAX_BYTES + 1))
    assert caught.value.field == "json"
    path = tmp_path / "certificate.json"
    with open(path, "wb") as file:
        file.truncate(certificate_module.MAX_BYTES + 1)
    monkeypatch.setattr(certificate_module, "read_text", None)
    with pytest.raises(CertificateError, match="at most") as caught:
        Certificate.load(path)
    assert caught.value.field == "json"


# --- hostile input -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
@pytest.mark.parametrize(
    "changes",
    [
        {"run.alpha": 2**64},
        {"run.alpha": 10**308},
        {"run.alpha": 5e-324},
        {"run.alpha": 1e308},
        {"run.step_size": 5e-324},
        {"run.step_size": 1e308},
        {"claim.epsilon": 709.9},
        {"claim.epsilon": 2**70},
        {"claim.epsilon": 1.7e308},
        {"claim.epsilon": 5e-324},
        {"claim.delta": 5e-324},
        {"claim.delta": 0},
        {"run.phases.0.noise_std": 1e200},
        {"run.phases.1.noise_std": 1.7e308},
        {"run.phases.0.noise_std": 5e-324},
        {"run.phases.1.noise_std": 1e-160},
        {"run.phases.0.n_steps": 9007199254740991},
        {"run.phases.1.n_steps": 9007199254740991},
        {"run.n_records": 9007199254740991},
        {"run.n_features": 9007199254740991},
        {"run.n_outputs": 9007199254740991},
        {"run.sources.step_size": "bounded", "run.sources.norm_bound": 1e200, "run.sources.n_bound": 10**15},
        {"run.sources.step_size": "bounded", "run.sources.norm_bound": 2**70, "run.sources.n_bound": 20},
    ],
    ids=str,
)
def test_absurd_numbers_are_judged_or_refused_by_field(changes, method):
    X, y, run = problem()
    values = issue(X, y, run, method=method, delta=0.9, **({} if method == "exact" else {"delta_s": 0.01})).to_dict()
    for path, value in changes.items():
        *parts, last = path.split(".")
        target = values
        for part in parts:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value
    found = outcome(lambda: Certificate.from_json(json.dumps(values)).verify(X, y))
    assert found.field != "json" if isinstance(found, CertificateError) else found.delta_pq > 0


def test_data_that_do_not_belong_together_are_refused_by_name():
    X, y, run = problem()
    certificate = issue(X, y, run)
    for other_X, other_y in ((X, y[:4]), (X[:4], y), (X, y[:0]), (X[:0], y[:0]), (X, 1.0), (X, y[None, None])):
        with pytest.raises((CertificateError, ValueError)):
            Certificate.create(X=other_X, y=other_y, model=np.zeros((3, 1)), run=run, epsilon=2.0, delta=0.5)
        with pytest.raises(VerificationError) as caught:
            certificate.verify(other_X, other_y)
        assert caught.value.field in ("digests.X", "digests.y")


@pytest.mark.parametrize("scale", [1e160, 1e-160, 1e300, 1e-300])
@pytest.mark.parametrize("which", ["X", "y"])
def test_data_of_absurd_size_are_judged_or_refused_by_field(scale, which):
    X, y, run = problem()
    X, y = (X * scale, y) if which == "X" else (X, y * scale)
    with np.errstate(all="ignore"):
        top = float(np.linalg.norm(X / np.abs(X).max(), 2)) ** 2 * np.abs(X).max() ** 2
    run = dataclasses.replace(run, step_size=max(0.9 / (top + 1.5), 1e-300))
    found = outcome(
        lambda: Certificate.create(X=X, y=y, model=np.zeros((3, 1)), run=run, epsilon=2.0, delta=0.5).verify(X, y)
    )
    assert found.field if isinstance(found, VerificationError) else found.delta_pq > 0


# --- never nothing -----------------------------------------------------------------------------


@given(
    st.sampled_from([1, 10, 1000, 2000, 20_000, 10**6, 10**9]),
    st.sampled_from([0.0, 1e-300, 0.5, 5.0, 1000.0]),
    st.integers(0, 100),
)
def test_delta_is_never_zero_for_a_record_that_did_something(n_steps, epsilon, seed):
    """The laws come ever nearer to one another, and are never the same."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 1))
    phases = [Phase(50, 0.1), Phase(n_steps, 0.1, (0,))]
    pair = deletion_pair(X, y, alpha=1.0, step_size=1 / smoothness(X, alpha=1.0), phases=phases, deleted=[0])
    for direction in ("pq", "qp"):
        assert 0 < pair.delta(epsilon, direction=direction) < 1


def test_zero_is_claimed_only_for_a_record_that_did_nothing():
    X, y, run = problem(phases=(Phase(6, 0.3), Phase(10**6, 0.3, (4,))))
    model = RidgeDeletion(X, y[:, None], alpha=1.5, step_size=run.step_size, deleted=(4,)).run(run.phases).mean_p
    model = model + 0.2
    with pytest.raises(VerificationError, match="is") as caught:
        issue(X, y, run, model=model, epsilon=0.0, delta=0.0)
    assert caught.value.field == "claim.delta"
    certificate = issue(X, y, run, model=model, epsilon=0.0, delta=1e-100)
    assert certificate.delta_pq > 0
    assert certificate.delta_qp > 0
    X[4] = 0.0
    assert "e-324" not in issue(*problem(phases=run.phases), model=model, epsilon=1.0, delta=1e-9).summary()
    nothing = issue(X, y, run, model=model, epsilon=0.0, delta=0.0)
    assert nothing.verify(X, y).delta == nothing.delta_pq == nothing.delta_qp == 0.0


# --- hints -------------------------------------------------------------------------------------


def test_other_data_are_told_apart_where_that_is_cheap():
    X, y, run = problem()
    certificate = issue(X, y, run)
    order = np.random.default_rng(0).permutation(len(X))
    for other_X, other_y, words in (
        (X[:, ::-1], y, "columns reversed"),
        (X[:, [1, 2, 0]], y, "columns in the order [2, 0, 1]"),
        (X[::-1], y[::-1], "rows reversed"),
        (X * 16, y, "--divide-by"),
        (X / 255, y, "multiplying by 255"),
        (X * 7.5, y, "y is as certified"),
        (X[order], y[order], "same order"),
        (np.delete(X, 4, axis=0), np.delete(y, 4), "deleted rows included"),
        (X[:-2], y[:-2], "12 rows, but 14 were certified"),
        (X[:, :2], y, "2 columns, but 3 were certified"),
        (X, y[::-1], "rows reversed"),
        (X, y * 2, "X is as certified"),
    ):
        with pytest.raises(VerificationError) as caught:
            certificate.verify(other_X, other_y)
        assert words in str(caught.value), str(caught.value)


def test_rounded_or_sorted_data_are_told():
    X, y, run = problem()
    rounded = X.astype(np.float32).astype(float)
    with pytest.raises(VerificationError, match="float32"):
        issue(rounded, y, run).verify(X, y)
    order = np.lexsort(X.T[::-1])
    changed = dataclasses.replace(run, phases=(run.phases[0], Phase(3, 0.3, (4,))))
    with pytest.raises(VerificationError, match="rows sorted"):
        issue(X[order], y[order], changed).verify(X, y)


def test_labels_read_as_another_kind_are_told():
    X, _, run = problem()
    y = np.arange(14) % 2
    named = {"estimator": "LangevinRidgeClassifier", "n_outputs": 2}
    given_sources = Sources(step_size="given", noise_std="given", classes="given")
    for labels, other, words in ((y.astype(str), y, "as text"), (y, y.astype(str), "as numbers")):
        classes = ("0", "1") if labels.dtype.kind == "U" else (0, 1)
        changed = dataclasses.replace(run, **named, classes=classes, sources=given_sources)
        targets = (y[:, None] == np.arange(2)).astype(float)
        model = oracles.ridge_run(X, targets, changed, np.random.default_rng(0))
        certificate = Certificate.create(X=X, y=labels, model=model, run=changed, epsilon=2.0, delta=0.9)
        with pytest.raises(VerificationError, match=words):
            certificate.verify(X, other)


def test_long_verifications_show_where_they_are(monkeypatch):
    seen = []

    class Bar(work.tqdm):
        def __init__(self, *args, **named):
            seen.append("hidden" if named["disable"] else "shown")
            super().__init__(*args, **{**named, "disable": True})

        def set_description(self, desc=None, refresh=True):
            assert refresh
            seen.append(desc)

    monkeypatch.setattr(work, "tqdm", Bar)
    X, y, run = problem()
    model = oracles.ridge_run(X, y[:, None], run, np.random.default_rng(1))
    certificate = issue(X, y, run, model=model)
    assert seen[0] == "hidden"
    stages = seen[1:]
    assert stages == [f"verify: {one}" for one in ("data", "assumptions", "claim", "model")]
    seen.clear()
    monkeypatch.setattr(work, "_SHOWN", estimated_work(run, method=certificate.method))
    certificate.verify(X, y, model)
    assert seen == ["shown", *stages]
    # On this size of problem seconds pass.
    large = dataclasses.replace(run, n_records=100_000, n_features=300)
    monkeypatch.undo()
    assert estimated_work(large, method="exact") > work._SHOWN > estimated_work(run, method="exact")
