import copy
import dataclasses
import json
import os
import stat

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from expunge import _files
from expunge.certificates import (
    Certificate,
    CertificateError,
    RidgeRun,
    Sources,
    VerificationError,
    certificate_schema,
    coefficients_of,
    features_digest,
    generate_key_pair,
    load_private_key,
    load_public_key,
    model_digest,
    record_digest,
    targets_digest,
)
from expunge.certificates.schema import check
from expunge.runs.ridge.bounds import shifted_claim
from expunge.runs.ridge.inputs import design_of, targets_of
from expunge.runs.ridge.law import Phase, RidgeDeletion, deletion_pair, smoothness
from expunge.runs.ridge.run import RidgeProblem

EPSILON = 0.5


def problem(*, classifier=False, fit_intercept=True, deleted=(4,), n_steps=6, unlearning=None):
    rng = np.random.default_rng(7)
    X = rng.normal(size=(14, 3))
    y = np.array(["no", "yes", "perhaps"])[np.arange(14) % 3] if classifier else rng.normal(size=(14, 2))
    design = np.column_stack([X, np.ones(14)]) if fit_intercept else X
    phases = (Phase(n_steps, 0.1), *(unlearning or (Phase(3, 0.12, tuple(deleted)),)))
    run = RidgeRun(
        estimator="LangevinRidgeClassifier" if classifier else "LangevinRidge",
        alpha=1.5,
        fit_intercept=fit_intercept,
        step_size=1.0 / smoothness(design, alpha=1.5),
        classes=("no", "perhaps", "yes") if classifier else None,
        n_records=14,
        n_features=3,
        n_outputs=3 if classifier else 2,
        phases=phases,
        deleted=tuple(deleted),
        sources=Sources(step_size="given", noise_std="given", classes="given" if classifier else "none"),
    )
    targets = (y[:, None] == np.array(run.classes)[None, :]).astype(float) if classifier else y
    return X, y, design, targets, oracles.ridge_run(design, targets, run, rng), run


def law(design, targets, run):
    return {
        "design": design,
        "targets": targets,
        "alpha": run.alpha,
        "step_size": run.step_size,
        "phases": run.phases,
        "deleted": run.deleted,
    }


def exact_delta(design, targets, run, epsilon=EPSILON):
    named = law(design, targets, run)
    return deletion_pair(named.pop("design"), named.pop("targets"), **named).delta(epsilon, direction="both")


def issue(X, y, design, targets, coefficients, run, **changes):
    given = {"epsilon": EPSILON, "delta": 1.01 * float(exact_delta(design, targets, run)), **changes}
    return Certificate.create(X=X, y=y, model=coefficients, run=run, **given)


@pytest.fixture(scope="module")
def case():
    X, y, design, targets, coefficients, run = problem()
    return X, y, coefficients, issue(X, y, design, targets, coefficients, run)


@pytest.fixture(scope="module")
def key():
    return Ed25519PrivateKey.generate()


# --- what holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_a_true_certificate_verifies(classifier, fit_intercept):
    X, y, design, targets, coefficients, run = problem(classifier=classifier, fit_intercept=fit_intercept)
    certificate = issue(X, y, design, targets, coefficients, run)
    report = certificate.verify(X, y, coefficients)
    pair = deletion_pair(
        design, targets, alpha=run.alpha, step_size=run.step_size, phases=run.phases, deleted=run.deleted
    )
    assert report.certified
    assert report.model_checked
    assert report.signature == "none"
    assert report.delta_pq == pytest.approx(float(pair.delta(EPSILON, direction="pq")), rel=1e-9)
    assert report.delta_qp == pytest.approx(float(pair.delta(EPSILON, direction="qp")), rel=1e-9)
    assert max(report.delta_pq, report.delta_qp) <= certificate.delta
    assert "confidential" in certificate.summary().lower()
    assert "certified" in repr(certificate)
    assert "holds" in report.summary()


def test_a_group_and_sequential_deletions_verify():
    for unlearning, deleted in (
        ((Phase(3, 0.2, (2, 4)),), (2, 4)),
        ((Phase(3, 0.2, (4,)), Phase(2, 0.2, (2, 4))), (2, 4)),
        ((Phase(3, 0.12, (4,)), Phase(2, 0.0, (4,))), (4,)),
    ):
        X, y, design, targets, coefficients, run = problem(unlearning=unlearning, deleted=deleted)
        certificate = issue(X, y, design, targets, coefficients, run)
        assert certificate.neighbouring_relation == ("REMOVE_ONE" if len(deleted) == 1 else "REMOVE_GROUP")
        assert certificate.verify(X, y).certified


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_shifted_methods_verify_and_never_claim_less_than_the_exact_law(method):
    X, y, design, targets, coefficients, run = problem()
    named = law(design, targets, run)
    claim = shifted_claim(
        named.pop("design"), named.pop("targets"), **named, epsilon=EPSILON, delta_s=1e-6, uniform=method == "uniform"
    )
    delta = 1.01 * max(claim.delta_pq, claim.delta_qp)
    certificate = Certificate.create(
        X=X, y=y, model=coefficients, run=run, epsilon=EPSILON, delta=delta, method=method, delta_s=1e-6
    )
    report = certificate.verify(X, y, coefficients)
    assert report.method == method
    assert exact_delta(design, targets, run) <= max(report.delta_pq, report.delta_qp)


def test_the_forms_of_data_that_mean_the_same_verify(case):
    X, y, coefficients, certificate = case
    certificate.verify(X.tolist(), y.tolist(), coefficients.tolist())
    certificate.verify(np.asfortranarray(X), np.repeat(y, 2, axis=0)[::2], np.asfortranarray(coefficients))
    certificate.verify(X.astype(">f8"), y)


def test_labels_may_come_as_a_column():
    X, y, design, targets, coefficients, run = problem(classifier=True)
    issue(X, y[:, None], design, targets, coefficients, run).verify(X, y.astype(object))
    with pytest.raises(VerificationError) as caught:
        issue(X, y, design, targets, coefficients, run).verify(X, np.column_stack([y, y]))
    assert caught.value.field == "digests.y"


def test_an_estimator_is_read_in_either_shape(case):
    X, y, coefficients, certificate = case

    class Model:
        coef_ = coefficients[:-1].T
        intercept_ = coefficients[-1]

    certificate.verify(X, y, Model())
    single = coefficients_of(
        type("Flat", (), {"coef_": np.arange(3.0), "intercept_": 4.0})(), fit_intercept=True, n_features=3, n_outputs=1
    )
    np.testing.assert_array_equal(single, [[0.0], [1.0], [2.0], [4.0]])
    Model.intercept_ = coefficients[-1] + np.array([0.0, 1e-15])
    with pytest.raises(VerificationError) as caught:
        certificate.verify(X, y, Model())
    assert caught.value.field == "digests.model"


def model_of(coef, **parts):
    return type("Model", (), {"coef_": np.asarray(coef), **parts})()


def test_parameters_of_another_shape_are_refused_and_an_intercept_where_none_was_fitted():
    matrix = np.arange(6.0).reshape(2, 3)
    fitted = {"n_features": 3, "n_outputs": 2}
    for intercept in ({}, {"intercept_": 0.0}, {"intercept_": np.zeros(2)}):
        read = coefficients_of(model_of(matrix, **intercept), fit_intercept=False, **fitted)
        np.testing.assert_array_equal(read, matrix.T)
        assert read.flags.c_contiguous
    for wrong in (matrix.T, matrix.ravel(), matrix[:, :2], matrix[np.newaxis], matrix.ravel()[:3]):
        with pytest.raises(ValueError, match="coef_ must have shape"):
            coefficients_of(model_of(wrong), fit_intercept=False, **fitted)
    with pytest.raises(ValueError, match="must be 0"):
        coefficients_of(model_of(matrix, intercept_=np.array([0.0, 1e-300])), fit_intercept=False, **fitted)
    for entries in (1, 3):
        with pytest.raises(ValueError, match="must have 2 entries"):
            coefficients_of(model_of(matrix, intercept_=np.zeros(entries)), fit_intercept=True, **fitted)
    for wrong in (np.zeros(8), np.zeros((3, 2)), np.zeros((4, 1)), np.zeros((1, 4, 2))):
        with pytest.raises(ValueError, match="model must have shape"):
            coefficients_of(wrong, fit_intercept=True, **fitted)
    np.testing.assert_array_equal(
        coefficients_of(np.arange(4.0), fit_intercept=True, n_features=3, n_outputs=1), np.arange(4.0)[:, None]
    )


def test_a_model_with_other_labels_is_refused():
    X, y, design, targets, coefficients, run = problem(classifier=True)
    certificate = issue(X, y, design, targets, coefficients, run)
    parts = {"coef_": coefficients[:-1].T, "intercept_": coefficients[-1]}
    certificate.verify(X, y, type("Model", (), {**parts, "classes_": np.array(run.classes)})())
    with pytest.raises(VerificationError) as caught:
        certificate.verify(X, y, type("Model", (), {**parts, "classes_": np.array(run.classes)[::-1]})())
    assert caught.value.field == "run.classes"


# --- JSON --------------------------------------------------------------------------------------


def test_json_round_trip_and_canonical_form_are_stable(case, key):
    certificate = case[3]
    for original in (certificate, certificate.sign(key)):
        again = Certificate.from_json(original.to_json())
        assert again == original
        assert again.to_json() == original.to_json()
        assert again.canonical_json() == original.canonical_json()
        assert again.digest() == certificate.digest()
    shuffled = json.dumps(dict(reversed(json.loads(certificate.to_json()).items())))
    assert Certificate.from_json(shuffled) == certificate
    assert json.loads(certificate.canonical_json()) == {
        name: value for name, value in certificate.to_dict().items() if name != "signature"
    }


def test_a_number_written_without_its_point_is_the_same_number():
    X, y, design, targets, coefficients, run = problem()
    certificate = issue(X, y, design, targets, coefficients, run, epsilon=1.0)
    text = certificate.to_json().replace('"epsilon": 1.0', '"epsilon": 1')
    assert text != certificate.to_json()
    assert Certificate.from_json(text).canonical_json() == certificate.canonical_json()


def test_the_schema_is_one_its_own_check_understands(case):
    schema = certificate_schema()
    check(case[3].to_dict(), schema)
    assert set(case[3].to_dict()) == set(schema["properties"]) == set(schema["required"])


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list) and value:
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))
    else:
        yield path


def name_of(path):
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def replaced(certificate, path, value):
    values = copy.deepcopy(certificate.to_dict())
    target = values
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return json.dumps(values)


def at(certificate, path):
    value = certificate.to_dict()
    for part in path:
        value = value[part]
    return value


def other_values(path, value):
    """Values of the same kind that the field could have been changed to."""
    name = name_of(path)
    fixed = {
        "claim.delta_s": [0.001],
        "claim.neighbouring_relation": ["REMOVE_GROUP"],
        "method": ["shifted", "uniform"],
        "status": ["conditional", "estimate"],
        "conditions": [["learning seed known to whoever set it"]],
        "notes": [["the noise is fine"]],
        "claim.direction": ["P|Q" if value == "Q|P" else "Q|P"],
        "run.sources.step_size": ["data"],
        "run.sources.noise_std": ["data", "grid"],
        "run.sources.classes": ["data", "given"],
        "run.sources.norm_bound": [1.0],
        "run.sources.n_bound": [20],
        "run.estimator": ["LangevinRidgeClassifier"],
        "run.classes": [["a", "b"]],
        "run.phases[0].removed": [[4], [3, 4]],
        "issued_at": ["2020-01-01T00:00:00Z"],
        "claim.delta": [value, 0.5 * value] if name == "claim.delta" else [],
        "signature": [],
    }
    if name in fixed:
        return [new for new in fixed[name] if new != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 7]
    if isinstance(value, float):
        return [value * 0.5, value * 1.5]
    first = "0" if value[0] != "0" else "1"
    return [first + value[1:], value[:-1] + ("0" if value[-1] != "0" else "1")]


COMPUTED = {"claim.delta", "claim.delta_pq", "claim.delta_qp"}
BLAMED = {
    "claim.epsilon": COMPUTED,
    "claim.delta_pq": {"claim.delta_pq", "claim.direction"},
    "claim.delta_qp": {"claim.delta_qp", "claim.direction"},
    "method": {"claim.delta_s"},
    "status": {"conditions", "status"},
    "run.sources.step_size": {"conditions"},
    "run.sources.noise_std": {"conditions", "notes"},
    "run.sources.norm_bound": {"run.sources"},
    "run.sources.n_bound": {"run.sources"},
    "run.estimator": {"run.classes"},
    "run.alpha": COMPUTED | {"run.step_size"},
    "run.fit_intercept": COMPUTED | {"run.step_size"},
    "run.step_size": COMPUTED | {"run.step_size"},
    "run.phases[0].n_steps": COMPUTED,
    "run.phases[0].noise_std": COMPUTED,
    "run.phases[1].n_steps": COMPUTED,
    "run.phases[1].noise_std": COMPUTED,
    "run.phases[1].removed[0]": {"run.deleted"},
    "run.deleted[0]": {"run.deleted"},
    "salt": {"digests.record"},
}
ONLY_SIGNED = {"library_version", "issued_at"}


def blamed(path):
    name = name_of(path)
    constant = name.startswith("cannot_show[")
    return {"cannot_show"} if constant else BLAMED.get(name, {name})


def test_changing_any_field_is_refused_and_the_right_field_named(case, key):
    X, y, coefficients, certificate = case
    signed = certificate.sign(key)
    seen = set()
    for path in leaves(certificate.to_dict()):
        for value in other_values(path, at(certificate, path)):
            seen.add(name_of(path))
            if name_of(path) not in ONLY_SIGNED:
                with pytest.raises(CertificateError) as caught:
                    Certificate.from_json(replaced(certificate, path, value)).verify(X, y, coefficients)
                assert caught.value.field in blamed(path), (path, value)
            with pytest.raises(CertificateError) as caught:
                Certificate.from_json(replaced(signed, path, value)).verify(X, y, coefficients)
            assert caught.value.field in blamed(path) | {"signature"}, (path, value)
    assert seen == {name_of(path) for path in leaves(certificate.to_dict())} - {"signature"}


def test_a_weaker_claim_is_only_seen_by_the_signature(case, key):
    X, y, _, certificate = case
    weaker = dataclasses.replace(certificate, delta=2 * certificate.delta)
    assert weaker.verify(X, y).delta == 2 * certificate.delta
    with pytest.raises(VerificationError) as caught:
        dataclasses.replace(certificate.sign(key), delta=2 * certificate.delta).verify(X, y)
    assert caught.value.field == "signature"


@pytest.mark.parametrize("wrong", [None, "text", [], {}, True, float("nan"), float("inf"), -float("inf"), -1, 10**400])
def test_a_field_of_the_wrong_kind_is_refused_by_name(case, wrong):
    certificate = case[3]
    for path in leaves(certificate.to_dict()):
        name = name_of(path)
        value = at(certificate, path)
        allowed = {
            "claim.delta_s": wrong is None,
            "conditions": wrong == [],
            "notes": wrong == [],
            "run.sources.norm_bound": wrong is None,
            "run.sources.n_bound": wrong is None,
            "run.classes": wrong is None,
            "run.phases[0].removed": wrong == [],
            "run.fit_intercept": wrong is True,
            "library_version": isinstance(wrong, str),
            "signature": wrong is None or wrong == {},
        }
        if allowed.get(name, False) or (type(wrong) is type(value) and wrong == value):
            continue
        with pytest.raises(CertificateError) as caught:
            Certificate.from_json(replaced(certificate, path, wrong))
        assert caught.value.field == (f"{name.split('[')[0]}" if name.startswith("cannot_show") else name)


def test_missing_and_extra_fields_are_refused_by_name(case, key):
    signed = case[3].sign(key)
    for path in (("claim",), ("run",), ("digests",), ("signature",), ("run", "phases", 0), ()):
        values = json.loads(signed.to_json())
        target = values
        for part in path:
            target = target[part]
        for name in list(target):
            kept = target.pop(name)
            with pytest.raises(CertificateError) as caught:
                Certificate.from_json(json.dumps(values))
            assert caught.value.field == name_of((*path, name))
            target[name] = kept
        target["surplus"] = 1
        with pytest.raises(CertificateError) as caught:
            Certificate.from_json(json.dumps(values))
        assert caught.value.field == name_of((*path, "surplus"))


@pytest.mark.parametrize("version", [0, 3, 1.0, "1", None, True])
def test_an_unknown_version_is_refused(case, version):
    with pytest.raises(CertificateError, match="version") as caught:
        Certificate.from_json(replaced(case[3], ("version",), version))
    assert caught.value.field == "version"


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '"x"', "{", "{}", "NaN", "[" * 100_000, '{"format": 1, "format": 1}', "9" * 10_000]
)
def test_a_text_that_is_no_certificate_is_refused(text):
    with pytest.raises(CertificateError):
        Certificate.from_json(text)


@settings(deadline=None)
@given(data=st.data())
def test_no_changed_byte_of_a_signed_file_passes(case, key, data):
    X, y, coefficients, certificate = case
    signed = certificate.sign(key)
    original = signed.to_json().encode()
    position = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = original[:position] + bytes([byte]) + original[position + 1 :]
    try:
        text = changed.decode()
    except UnicodeDecodeError:
        return
    try:
        got = Certificate.from_json(text)
    except CertificateError:
        return
    if got != signed:  # equal after a change of white space, or of a digit that rounds to the same number
        with pytest.raises(VerificationError):
            got.verify(X, y, coefficients, public_key=key.public_key())


# --- data, model and assumptions ---------------------------------------------------------------


def test_other_data_are_refused(case):
    X, y, coefficients, certificate = case
    order = np.roll(np.arange(len(X)), 1)
    nudged = X.copy()
    nudged[3, 1] = np.nextafter(nudged[3, 1], 9)
    missing = X.copy()
    missing[0, 0] = np.nan
    for other, field in (
        ((X[order], y[order]), "digests.X"),
        ((np.delete(X, 4, axis=0), np.delete(y, 4, axis=0)), "digests.X"),
        ((nudged, y), "digests.X"),
        ((missing, y), "digests.X"),
        ((X.astype(np.float32), y), "digests.X"),
        ((X.T, y), "digests.X"),
        ((X.ravel(), y), "digests.X"),
        ((X.astype(complex), y), "digests.X"),
        ((X.astype(object), y), "digests.X"),
        ((X, y[order]), "digests.y"),
        ((X, y[:, ::-1]), "digests.y"),
        ((X, y.astype(str)), "digests.y"),
        ((X, np.full_like(y, np.nan)), "digests.y"),
    ):
        with pytest.raises(VerificationError) as caught:
            certificate.verify(*other)
        assert caught.value.field == field
    for model in (coefficients.T, -coefficients, np.full_like(coefficients, np.nan), coefficients[:-1], "model"):
        with pytest.raises(VerificationError) as caught:
            certificate.verify(X, y, model)
        assert caught.value.field == "digests.model"


def changed_run(**changes):
    return lambda certificate: dataclasses.replace(certificate, run=dataclasses.replace(certificate.run, **changes))


BROKEN = {
    "run.phases[1].removed": changed_run(phases=(Phase(6, 0.1), Phase(3, 0.12, (4, 2)))),
    "run.phases[2].removed": changed_run(phases=(Phase(6, 0.1), Phase(3, 0.12, (2,)), Phase(3, 0.12, (4,)))),
    "run.phases[0].removed": changed_run(phases=(Phase(6, 0.1, (4,)), Phase(3, 0.12, (4,)))),
    "run.deleted": changed_run(phases=(Phase(6, 0.1), Phase(3, 0.12, (3,)))),
    "run.phases": changed_run(phases=(Phase(30, 0.0), Phase(8, 0.0, (4,)))),
    "run.step_size": changed_run(step_size=1.0),
    "run.classes": changed_run(classes=("a", "b")),
    "claim.neighbouring_relation": lambda certificate: dataclasses.replace(
        certificate, neighbouring_relation="REMOVE_GROUP"
    ),
}


@pytest.mark.parametrize("field", BROKEN)
def test_a_run_that_breaks_an_assumption_is_refused(case, field):
    X, y, _, certificate = case
    with pytest.raises(VerificationError) as caught:
        BROKEN[field](certificate).verify(X, y)
    assert caught.value.field == field


def test_the_step_size_may_be_one_over_L_however_rounded(case):
    X, y, design, targets, coefficients, run = problem()
    limit = 1 / smoothness(design, alpha=run.alpha)
    for step_size in (limit, limit * (1 + 9e-10), 1 / (np.linalg.norm(design, 2) ** 2 + run.alpha)):
        changed = dataclasses.replace(run, step_size=step_size)
        assert issue(X, y, design, targets, coefficients, changed).verify(X, y).certified
    with pytest.raises(VerificationError) as caught:
        dataclasses.replace(case[3], run=dataclasses.replace(run, step_size=limit * (1 + 2e-9))).verify(X, y)
    assert caught.value.field == "run.step_size"


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": float("nan")},
        {"alpha": 0.0},
        {"step_size": float("inf")},
        {"n_records": 1},
        {"estimator": "Ridge"},
        {"theta0": "ones"},
        {"phases": (Phase(0, 0.4), Phase(3, 0.12, (4,)))},
        {"phases": (Phase(30, float("nan")), Phase(3, 0.12, (4,)))},
        {"fit_intercept": 1},
    ],
)
def test_a_run_out_of_range_cannot_be_made(changes):
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(problem()[-1], **changes)


@pytest.mark.parametrize("field", ["epsilon", "delta", "delta_pq", "delta_qp", "delta_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_claim_out_of_range_cannot_be_made(case, field, value):
    with pytest.raises(CertificateError) as caught:
        dataclasses.replace(case[3], **{field: value})
    assert caught.value.field == f"claim.{field}"


@pytest.mark.parametrize("direction", ["delta_pq", "delta_qp"])
def test_the_recomputed_number_decides_and_nan_never_passes(case, monkeypatch, direction):
    X, y, _, certificate = case

    class Broken:
        def delta(self, epsilon, direction="both"):
            return {"pq": values[0], "qp": values[1]}[direction]

    for bad in (float("nan"), 1.0, -1e-9, certificate.delta * (1 + 1e-8)):
        values = (bad, 0.0) if direction == "delta_pq" else (0.0, bad)
        monkeypatch.setattr(RidgeDeletion, "pair", lambda *args: Broken())
        with pytest.raises(VerificationError) as caught:
            certificate.verify(X, y)
        assert caught.value.field == "claim.delta"


def test_no_certificate_is_issued_for_a_claim_that_does_not_hold():
    X, y, design, targets, coefficients, run = problem()
    delta = float(exact_delta(design, targets, run))
    for changes, field in (
        ({"delta": 0.99 * delta}, "claim.delta"),
        ({"epsilon": 0.9 * EPSILON}, "claim.delta"),
        ({"method": "shifted"}, "claim.delta"),
        ({"method": "shifted", "delta_s": 2 * delta}, "claim.delta_s"),
        ({"method": "shifted", "delta_s": 0.9 * delta}, "claim.delta"),
        ({"delta_s": 1e-9}, "claim.delta_s"),
        ({"status": "certified", "conditions": ["something"]}, "conditions"),
        ({"status": "conditional"}, "conditions"),
    ):
        named = {"model": coefficients, "epsilon": EPSILON, "delta": 1.001 * delta, **changes}
        with pytest.raises(VerificationError) as caught:
            Certificate.create(X=X, y=y, run=run, **named)
        assert caught.value.field == field
    with pytest.raises(ValueError, match="model"):
        Certificate.create(X=X, y=y, run=run, model=coefficients.T, epsilon=EPSILON, delta=2 * delta)


def test_conditions_are_told_and_an_estimate_certifies_nothing():
    X, y, design, targets, coefficients, run = problem()
    condition = "learning seed known to whoever set it"
    conditional = issue(X, y, design, targets, coefficients, run, conditions=[condition])
    report = conditional.verify(X, y)
    assert not report.certified
    assert report.conditions == (condition,)
    assert condition in conditional.summary()
    assert condition in report.summary()
    with pytest.raises(VerificationError) as caught:
        issue(X, y, design, targets, coefficients, run, status="estimate").verify(X, y)
    assert caught.value.field == "status"


def test_records_are_salted():
    X, y, design, targets, coefficients, run = problem()
    first, second = (issue(X, y, design, targets, coefficients, run) for _ in range(2))
    assert first.salt != second.salt
    assert first.digests.record != second.digests.record
    assert first.digests.record == record_digest(X[[4]], y[[4]], salt=bytes.fromhex(first.salt))


def test_recorded_deltas_far_below_the_claim_need_not_be_held_to_six_digits(case):
    X, y, _, certificate = case
    assert dataclasses.replace(certificate, delta_pq=certificate.delta_pq * (1 + 5e-7)).verify(X, y).certified
    with pytest.raises(VerificationError):
        dataclasses.replace(certificate, delta_pq=certificate.delta_pq * (1 + 5e-6)).verify(X, y)
    wide = issue(*problem(), epsilon=12.0, delta=0.5)
    assert max(wide.delta_pq, wide.delta_qp) < 1e-13
    assert dataclasses.replace(wide, delta_pq=0.0, delta_qp=3e-13).verify(X, y).certified
    with pytest.raises(VerificationError):
        dataclasses.replace(wide, delta_qp=1e-11).verify(X, y)


# --- digests -----------------------------------------------------------------------------------


def test_digests_keep_shapes_kinds_and_values_apart():
    values = np.arange(6.0)
    digests = [
        features_digest(values.reshape(2, 3)),
        features_digest(values.reshape(3, 2)),
        targets_digest(values.reshape(2, 3)),
        model_digest(values.reshape(2, 3)),
        targets_digest(values),
        targets_digest(values.astype(str)),
        targets_digest([2**60, 2**60 + 1]),
        targets_digest([2**60, 2**60]),
        targets_digest([0.0, 0.0]),
        targets_digest([0.0, -0.0]),
        targets_digest(["a\0", "a"]),
        targets_digest(np.array(["ab", "\ud800"], dtype=object)),
    ]
    assert len(set(digests)) == len(digests)
    assert targets_digest([1, 2]) == targets_digest([True, 2.0]) == targets_digest(np.array([1, 2], dtype=np.float32))
    for bad in ([b"a"], [None], [1 + 2j], [np.inf]):
        with pytest.raises((TypeError, ValueError)):
            targets_digest(np.array(bad))


# --- signatures and keys -----------------------------------------------------------------------


def test_signature_laws(case, key):
    X, y, _, certificate = case
    other = Ed25519PrivateKey.generate()
    signed = certificate.sign(key)
    assert certificate.signature is None
    signed.verify_signature(key.public_key())
    assert signed.sign(key) == signed  # Ed25519 is deterministic, and a signature does not cover itself
    assert signed.verify(X, y).signature == "unknown key"
    assert signed.verify(X, y, public_key=key.public_key()).signature == "trusted key"
    twice = signed.sign(other)
    twice.verify_signature(other.public_key())
    for candidate, public in ((signed, other), (twice, key), (certificate, key)):
        with pytest.raises(VerificationError) as caught:
            candidate.verify(X, y, public_key=public.public_key())
        assert caught.value.field == "signature"
    claimed = dataclasses.replace(signed.signature, public_key=other.public_key().public_bytes_raw().hex())
    with pytest.raises(VerificationError) as caught:
        dataclasses.replace(signed, signature=claimed).verify(X, y, public_key=other.public_key())
    assert caught.value.field == "signature"
    with pytest.raises(TypeError, match="private_key"):
        certificate.sign(key.public_key())
    with pytest.raises(TypeError, match="public_key"):
        signed.verify_signature(key)


def test_keys_round_trip_and_keep_to_their_owner(tmp_path):
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    first, _ = generate_key_pair(private, public)
    assert load_private_key(private).public_key() == load_public_key(public) == first.public_key()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    with pytest.raises(FileExistsError, match="private_path"):
        generate_key_pair(private, tmp_path / "new.pem")
    with pytest.raises(FileExistsError, match="public_path"):
        generate_key_pair(tmp_path / "new.pem", public)
    with pytest.raises(ValueError, match="public_path"):
        generate_key_pair(private, private, overwrite=True)
    assert private.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"key.pem", "key.pub.pem"}
    generate_key_pair(private, public, overwrite=True, password=b"open")
    assert load_private_key(private, password=b"open").public_key() == load_public_key(public)
    for password in (None, b"shut"):
        with pytest.raises(ValueError, match="private key"):
            load_private_key(private, password=password)
    for text in (public.read_bytes(), before[: len(before) // 2]):
        private.write_bytes(text)
        with pytest.raises(ValueError, match="path"):
            load_private_key(private)
    with pytest.raises(ValueError, match="path"):
        load_public_key(private)


# --- files -------------------------------------------------------------------------------------


def test_save_and_load(case, tmp_path):
    certificate = case[3]
    path = tmp_path / "certificate.json"
    certificate.save(path)
    assert Certificate.load(path) == certificate
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError, match="overwrite"):
        certificate.save(path)
    certificate.save(path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["certificate.json"]
    with pytest.raises(FileNotFoundError, match="no certificate"):
        Certificate.load(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="folder"):
        certificate.save(tmp_path / "missing" / "certificate.json")


def test_a_file_cut_short_anywhere_is_refused(case, tmp_path):
    whole = case[3].to_json().encode()
    path = tmp_path / "certificate.json"
    for length in range(len(whole) - 1):  # only the last newline may go
        with pytest.raises(CertificateError, match="truncated") as caught:
            Certificate.from_json(whole[:length].decode())
        assert caught.value.field == "json"
    for length in (*range(0, len(whole), 97), len(whole) - 2):
        path.write_bytes(whole[:length])
        with pytest.raises(CertificateError, match=r"truncated|empty") as caught:
            Certificate.load(path)
        assert caught.value.field == "json"
    path.write_bytes(b"\xff\xfe" + whole)
    with pytest.raises(CertificateError, match="UTF-8"):
        Certificate.load(path)


@pytest.mark.parametrize(
    ("existing", "failing"),
    [(None, ("fsync",)), (None, ("link", "replace")), (b"before", ("fsync",)), (b"before", ("replace",))],
)
def test_a_failed_write_leaves_nothing_behind(case, tmp_path, monkeypatch, existing, failing):
    path = tmp_path / "certificate.json"
    if existing is not None:
        path.write_bytes(existing)

    def fail(*args, **named):
        raise OSError("no space left on device")

    for name in failing:
        monkeypatch.setattr(_files.os, name, fail)
    with pytest.raises(OSError, match="no space"):
        case[3].save(path, overwrite=existing is not None)
    monkeypatch.undo()
    assert (path.read_bytes() if path.exists() else None) == existing
    assert len(list(tmp_path.iterdir())) == (existing is not None)


def test_a_file_system_without_links_still_refuses_an_existing_file(tmp_path, monkeypatch):
    def fail(*args):
        raise PermissionError("no links here")

    monkeypatch.setattr(_files.os, "link", fail)
    _files.write_atomic(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        _files.write_atomic(tmp_path / "a", b"2")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"1")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_is_neither_replaced_nor_written_through(tmp_path, overwrite):
    (tmp_path / "file").write_bytes(b"1")
    for target in ("file", "nowhere"):
        link = tmp_path / f"link to {target}"
        link.symlink_to(tmp_path / target)
        with pytest.raises((FileExistsError, ValueError), match=link.name):
            _files.write_atomic(link, b"2", overwrite=overwrite)
        assert link.is_symlink()
    assert (tmp_path / "file").read_bytes() == b"1"
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises((FileExistsError, ValueError), match=tmp_path.name):
        _files.write_atomic(tmp_path, b"2", overwrite=overwrite)


def test_a_replaced_file_is_for_its_owner_alone_whatever_it_was_before(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "file").chmod(0o644)
    _files.write_atomic(tmp_path / "file", b"2", overwrite=True)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_name_taken_during_the_write_is_not_overwritten(tmp_path, monkeypatch):
    path = tmp_path / "a"
    real = os.fsync

    def slow(descriptor):
        path.write_bytes(b"somebody else's")
        real(descriptor)

    monkeypatch.setattr(_files.os, "fsync", slow)
    with pytest.raises(FileExistsError):
        _files.write_atomic(path, b"mine")
    assert path.read_bytes() == b"somebody else's"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_json_is_read_strictly(tmp_path):
    for text, message in (
        ('{"a": 1, "a": 1}', "twice"),
        ('{"a": NaN}', "finite"),
        ('{"a": 1e999}', "finite"),
        ("{} {}", "Extra data"),
    ):
        with pytest.raises(_files.FileFormatError, match=message):
            _files.parse_json(text, what="file")


# --- what a run may be, and how exact a claim must be --------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"step_size": 0.0},
        {"step_size": -0.1},
        {"n_records": 1},
        {"n_features": 0},
        {"n_outputs": 0},
        {"phases": (Phase(0, 0.1), Phase(1, 0.1, (0,)))},
        {"phases": (Phase(1, -0.1), Phase(1, 0.1, (0,)))},
        {"sources": "data"},
        {"classes": (None, "a")},
        {"classes": (1j,)},
    ],
)
def test_a_run_below_the_smallest_cannot_be_made(values):
    with pytest.raises((TypeError, ValueError), match=next(iter(values))):
        dataclasses.replace(smallest_run(), **values)


def smallest_run():
    return RidgeRun(
        estimator="LangevinRidge",
        alpha=np.float64(5e-324),
        fit_intercept=np.bool_(False),
        step_size=np.float64(5e-324),
        classes=None,
        n_records=np.int64(2),
        n_features=np.int64(1),
        n_outputs=np.int64(1),
        phases=(Phase(1, 0.0), Phase(np.int64(1), np.float64(0.0), (np.int64(0),))),
        deleted=(np.int64(0),),
    )


def test_the_smallest_run_is_kept_as_plain_values():
    run = smallest_run()
    assert type(run.fit_intercept) is bool
    assert RidgeRun.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_data_of_other_kinds_or_dimensions_are_no_problem_of_least_squares():
    for X in (np.ones(3), np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match="2 dimension"):
            design_of(X, fit_intercept=True)
    for y, classes, match in (
        (np.ones((2, 2, 2)), None, "1 or 2 dimensions"),
        (3.0, None, "1 or 2 dimensions"),
        (["a", "b"], None, "real numbers"),
        ([["a", "b"], ["b", "a"]], ("a", "b"), "one label for each record"),
        (["a", "c"], ("a", "b"), "'c' at index 1"),
    ):
        with pytest.raises(ValueError, match=match):
            targets_of(y, classes=classes)


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_a_claim_by_clipping_is_recomputed_by_its_own_method(method):
    _, _, design, targets, _, run = problem()
    deletion = RidgeDeletion(design, targets, alpha=run.alpha, step_size=run.step_size, deleted=run.deleted)
    problem_of_run = RidgeProblem(deletion)
    given = {"method": method, "epsilon": 2.0}
    claim = shifted_claim(**law(design, targets, run), epsilon=2.0, delta_s=0.01, uniform=method == "uniform")
    assert run.deltas(problem_of_run, delta_s=0.01, **given) == (claim.delta_pq, claim.delta_qp)
    with pytest.raises(ValueError, match="delta_s must be given"):
        run.deltas(problem_of_run, delta_s=None, **given)


def test_a_claim_may_be_missed_by_rounding_and_by_no_more(case):
    X, y, _, certificate = case
    largest = max(certificate.delta_pq, certificate.delta_qp)
    dataclasses.replace(certificate, delta=largest * (1 - 0.9e-9)).verify(X, y)
    with pytest.raises(VerificationError) as caught:
        dataclasses.replace(certificate, delta=largest * (1 - 1.1e-9)).verify(X, y)
    assert caught.value.field == "claim.delta"


@pytest.mark.parametrize("name", ["delta_pq", "delta_qp"])
def test_recorded_deltas_agree_to_a_millionth_or_lie_far_below_the_claim(case, name):
    X, y, coefficients, certificate = case
    smaller = min(("delta_pq", "delta_qp"), key=lambda one: getattr(certificate, one))
    value = getattr(certificate, name)
    for factor, accepted in ((1 - 0.9e-6, True), (1 + 0.9e-6, True), (1 - 1.1e-6, False), (1 + 1.1e-6, False)):
        changed = dataclasses.replace(certificate, **{name: value * factor})
        other = "delta_qp" if name == "delta_pq" else "delta_pq"
        if name == smaller or factor > 1 or value * factor > getattr(certificate, other):
            outcome(changed, X, y, accepted=accepted, field=f"claim.{name}")
    run = certificate.run
    far = Certificate.create(X=X, y=y, model=coefficients, run=run, epsilon=60.0, delta=0.5)
    assert max(far.delta_pq, far.delta_qp) < 1e-14
    for share, accepted in ((0.9e-12, True), (1.1e-12, False)):
        changed = dataclasses.replace(far, **{name: share * 0.5})
        outcome(changed, X, y, accepted=accepted, field=f"claim.{name}")


def outcome(certificate, X, y, *, accepted, field):
    """The binding direction is recorded too; it follows the recorded deltas."""
    if accepted:
        certificate.verify(X, y)
        return
    with pytest.raises(VerificationError) as caught:
        certificate.verify(X, y)
    assert caught.value.field == field


def test_a_record_that_did_nothing_has_a_delta_of_zero_and_is_certified():
    X, y, _, _, _, run = problem(fit_intercept=False)
    X[4], y[4] = 0.0, 0.0
    coefficients = oracles.ridge_run(X, y, run, np.random.default_rng(1))
    certificate = Certificate.create(X=X, y=y, model=coefficients, run=run, epsilon=0.5, delta=1e-9)
    report = certificate.verify(X, y)
    assert (report.delta_pq, report.delta_qp) == (0.0, 0.0)
