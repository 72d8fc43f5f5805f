"""What a certificate says about its constants: conditional by name unless they were given, in every version."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

import oracles
from expunge.accounting.noise_floor import RESOLUTION
from expunge.certificates import (
    CONDITIONS,
    GRID_NOTE,
    UNKNOWN_SOURCES,
    Certificate,
    CertificateError,
    RidgeRun,
    Sources,
    VerificationError,
    certificate_schema,
)
from expunge.runs.ridge.law import Phase, phase_floors, smoothness

GOLDEN = Path(__file__).parent / "golden"


def problem(*, classifier=False, sources=None, step_size=None, noise=(0.1, 0.12), deleted=(4,)):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(14, 3))
    y = np.array(["no", "yes"])[np.arange(14) % 2] if classifier else rng.normal(size=(14, 1))
    classes = ("no", "yes") if classifier else None
    targets = (y[:, None] == np.array(classes)[None, :]).astype(float) if classifier else y
    named = {} if sources is None else {"sources": sources}
    run = RidgeRun(
        estimator="LangevinRidgeClassifier" if classifier else "LangevinRidge",
        alpha=1.5,
        fit_intercept=False,
        step_size=1 / smoothness(X, alpha=1.5) if step_size is None else step_size,
        classes=classes,
        n_records=14,
        n_features=3,
        n_outputs=targets.shape[1],
        phases=(Phase(6, noise[0]), Phase(3, noise[1], tuple(deleted))),
        deleted=tuple(deleted),
        **named,
    )
    return X, y, targets, run


def issue(X, y, targets, run, **changes):
    model = oracles.ridge_run(X, targets, run, np.random.default_rng(1))
    return Certificate.create(X=X, y=y, model=model, run=run, **{"epsilon": 2.0, "delta": 0.5, **changes})


@given(
    step_size=st.sampled_from(["given", "bounded", "data"]),
    noise_std=st.sampled_from(["given", "grid", "data"]),
    classes=st.sampled_from(["given", "data"]),
)
def test_every_constant_from_the_data_is_named_and_only_none_is_certified(step_size, noise_std, classes):
    bounds = {"norm_bound": 4.0, "n_bound": 20} if step_size == "bounded" else {}
    sources = Sources(step_size=step_size, noise_std=noise_std, classes=classes, **bounds)
    X, y, targets, run = problem(classifier=True, sources=sources, step_size=1 / (20 * 16 + 1.5))
    certificate = issue(X, y, targets, run)
    report = certificate.verify(X, y)
    expected = {
        CONDITIONS[name]
        for name, source in (("step_size", step_size), ("noise_std", noise_std), ("classes", classes))
        if source == "data"
    }
    for seen in (certificate, report):
        assert set(seen.conditions) == expected
        assert seen.status == ("conditional" if expected else "certified")
        assert (GRID_NOTE in seen.notes) == (noise_std == "grid")
        assert all(sentence in seen.summary() for sentence in (*expected, *seen.notes))
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_without_a_word_everything_comes_from_the_data():
    assert issue(*problem(classifier=True)).conditions == tuple(
        CONDITIONS[name] for name in ("step_size", "noise_std", "classes")
    )
    assert issue(*problem()).conditions == (CONDITIONS["step_size"], CONDITIONS["noise_std"])  # no class list to tell


def test_a_condition_of_the_sources_cannot_be_left_out():
    X, y, targets, run = problem()
    certificate = issue(X, y, targets, run, conditions=("the seed is unknown", CONDITIONS["step_size"]))
    assert certificate.conditions == (CONDITIONS["step_size"], CONDITIONS["noise_std"], "the seed is unknown")
    for changes in ({"status": "certified", "conditions": ()}, {"conditions": ("the seed is unknown",)}):
        with pytest.raises(VerificationError) as caught:
            dataclasses.replace(certificate, **changes).verify(X, y)
        assert caught.value.field == "conditions"
    with pytest.raises(VerificationError) as caught:
        issue(X, y, targets, run, status="certified")
    assert caught.value.field == "conditions"
    given_run = dataclasses.replace(run, sources=Sources(step_size="given", noise_std="grid", classes="none"))
    with pytest.raises(VerificationError) as caught:
        dataclasses.replace(issue(X, y, targets, given_run), notes=()).verify(X, y)
    assert caught.value.field == "notes"


def test_asserted_bounds_are_checked_against_the_data():
    X = problem()[0]
    longest = float(np.linalg.norm(X, axis=1).max())

    def attempt(norm_bound, n_bound, step_size):
        sources = Sources(step_size="bounded", noise_std="given", norm_bound=norm_bound, n_bound=n_bound)
        return issue(*problem(sources=sources, step_size=step_size))

    assert attempt(longest, 14, 1 / (14 * longest**2 + 1.5)).status == "certified"
    for norm_bound, n_bound, factor, field in (
        (longest * (1 - 1e-9), 14, 1.0, "run.sources.norm_bound"),
        (longest, 13, 1.0, "run.sources.n_bound"),
        (longest, 14, 1 + 1e-6, "run.step_size"),
        (longest, 14, 1 - 1e-12, "run.step_size"),  # whoever may choose a smaller step can let the data choose it
        (longest, 14, 0.5, "run.step_size"),
    ):
        with pytest.raises(VerificationError) as caught:
            attempt(norm_bound, n_bound, factor / (n_bound * norm_bound**2 + 1.5))
        assert caught.value.field == field


@pytest.mark.parametrize(
    "values",
    [
        {"step_size": "auto"},
        {"step_size": "bounded"},
        {"step_size": "bounded", "norm_bound": 1.0},
        {"norm_bound": 1.0, "n_bound": 3},
        {"step_size": "given", "n_bound": 3},
        {"step_size": "bounded", "norm_bound": float("nan"), "n_bound": 3},
        {"step_size": "bounded", "norm_bound": 1.0, "n_bound": 2.5},
        {"step_size": "bounded", "norm_bound": 0.0, "n_bound": 3},
        {"step_size": "bounded", "norm_bound": -1.0, "n_bound": 3},
        {"step_size": "bounded", "norm_bound": 1.0, "n_bound": 0},
        {"step_size": "bounded", "norm_bound": 1.0, "n_bound": 2**53},
    ],
)
def test_sources_that_say_nothing_sensible_cannot_be_made(values):
    with pytest.raises((TypeError, ValueError), match=r"sources|n_bound|norm_bound"):
        Sources(**values)


def test_bounds_of_a_step_size_are_kept_as_plain_numbers_up_to_what_float64_counts():
    for norm_bound, n_bound in ((5e-324, 1), (0.5, 107), (1e300, 2**53 - 1), (np.float64(2.0), np.int64(3))):
        kept = Sources(step_size="bounded", norm_bound=norm_bound, n_bound=n_bound)
        assert (type(kept.norm_bound), type(kept.n_bound)) == (float, int)
        assert Sources(**json.loads(json.dumps(kept.to_dict()))) == kept
        assert (kept.norm_bound, kept.n_bound) == (norm_bound, n_bound)


def test_the_source_of_the_classes_fits_the_run():
    for classifier, classes in ((True, "none"), (False, "given")):
        with pytest.raises(VerificationError) as caught:
            issue(*problem(classifier=classifier, sources=Sources(classes=classes)))
        assert caught.value.field == "run.sources.classes"


def test_the_last_record_of_a_class_is_refused_unless_its_class_was_given_or_a_condition_says_so():
    X, y, _, run = problem(classifier=True, deleted=(4,))
    y = np.where(np.arange(14) == 4, "yes", "no")
    targets = (y[:, None] == np.array(run.classes)[None, :]).astype(float)
    with pytest.raises(VerificationError, match="'yes'") as caught:
        issue(X, y, targets, run, epsilon=9.0)
    assert caught.value.field == "run.classes"
    conditional = issue(X, y, targets, run, epsilon=9.0, conditions=(CONDITIONS["last_of_class"],))
    assert CONDITIONS["last_of_class"] in conditional.verify(X, y).conditions
    kept = tuple(c for c in conditional.conditions if c != CONDITIONS["last_of_class"])
    with pytest.raises(VerificationError) as caught:
        dataclasses.replace(conditional, conditions=kept).verify(X, y)
    assert caught.value.field == "run.classes"
    known = dataclasses.replace(run, sources=Sources(step_size="given", noise_std="given", classes="given"))
    assert issue(X, y, targets, known, epsilon=9.0).status == "certified"


# --- the floor for noise -----------------------------------------------------------------------


def test_the_floor_is_the_resolution_at_the_size_of_the_noise_free_parameters():
    X, _, targets, run = problem()
    named = {"alpha": run.alpha, "step_size": run.step_size, "phases": run.phases, "deleted": run.deleted}
    floors = phase_floors(X, targets, **named)

    def steps(theta, rows, n_steps):
        for _ in range(n_steps):
            theta = theta - run.step_size * (X[rows].T @ (X[rows] @ theta - targets[rows]) + run.alpha * theta)
        return theta

    everything, kept = np.arange(14), np.delete(np.arange(14), 4)
    learned, never = steps(np.zeros((3, 1)), everything, 6), steps(np.zeros((3, 1)), kept, 6)
    after, reference = steps(learned, kept, 3), steps(never, kept, 3)
    sizes = [max(np.abs(learned).max(), np.abs(never).max())]
    sizes.append(max(sizes[0], np.abs(after).max(), np.abs(reference).max()))
    np.testing.assert_allclose(floors, RESOLUTION * np.array(sizes), rtol=1e-12)


@pytest.mark.parametrize("phase", [0, 1])
def test_noise_below_the_floor_is_refused_by_phase_value_and_floor(phase):
    X, y, targets, run = problem()
    named = {"alpha": run.alpha, "step_size": run.step_size, "phases": run.phases, "deleted": run.deleted}
    floor = phase_floors(X, targets, **named)[phase]
    for noise, fine in ((floor * 1.01, True), (floor * 0.99, False), (5e-324, False)):
        phases = tuple(dataclasses.replace(p, noise_std=noise) if i == phase else p for i, p in enumerate(run.phases))
        changed = dataclasses.replace(run, phases=phases)
        if fine:
            issue(X, y, targets, changed, epsilon=500.0, delta=0.999)
        else:
            with pytest.raises(VerificationError, match=repr(noise)) as caught:
                issue(X, y, targets, changed, epsilon=500.0, delta=0.999)
            assert caught.value.field == f"run.phases[{phase}].noise_std"
            assert repr(floor) in str(caught.value)


def test_noise_of_exactly_zero_stays_legal_where_other_noise_carries_the_claim():
    X, y, targets, run = problem(noise=(0.0, 2.0))
    assert issue(X, y, targets, run, epsilon=5.0).verify(X, y).status == "conditional"


# --- versions ----------------------------------------------------------------------------------


def golden(version):
    data = json.loads((GOLDEN / f"certificate-v{version}-data.json").read_text())
    return Certificate.load(GOLDEN / f"certificate-v{version}.json"), data


def test_a_version_1_file_keeps_its_bytes_its_digest_and_its_signature():
    certificate, data = golden(1)
    assert certificate.to_json() == (GOLDEN / "certificate-v1.json").read_text()
    assert certificate.digest() == data["digest"]
    certificate.verify_signature(Ed25519PublicKey.from_public_bytes(bytes.fromhex(data["public_key"])))
    assert certificate_schema(version=1)["properties"]["version"] == {"const": 1}


def test_a_version_1_certificate_is_conditional_because_its_constants_have_no_source():
    certificate, data = golden(1)
    assert certificate.status == "certified"  # as issued
    report = certificate.verify(data["X"], data["y"], data["model"])
    for seen in (report, certificate.standing()):
        assert seen.status == "conditional"
        assert seen.conditions == (UNKNOWN_SOURCES,)
    assert not report.certified
    assert UNKNOWN_SOURCES in certificate.summary()
    assert certificate.summary().startswith("conditional")


def test_a_version_1_certificate_cannot_take_what_came_later():
    certificate = golden(1)[0]
    known = dataclasses.replace(certificate.run, sources=Sources(step_size="given", noise_std="given"))
    for changes in ({"notes": ("a note",)}, {"run": known}):
        with pytest.raises(CertificateError) as caught:
            dataclasses.replace(certificate, **changes)
        assert caught.value.field == "version"


def test_the_direction_that_binds_is_the_larger_delta():
    certificate = issue(*problem())
    bigger = "Q|P" if certificate.delta_qp > certificate.delta_pq else "P|Q"
    assert certificate.direction == bigger
    assert certificate.to_dict()["claim"]["direction"] == bigger
    assert f"({bigger} binds)" in certificate.summary()
    report = certificate.verify(*problem()[:2])
    assert report.direction == bigger


@pytest.mark.parametrize("version", [1, 2])
def test_every_version_ever_written_loads_and_verifies(version):
    certificate, data = golden(version)
    assert certificate.version == version
    assert certificate.kind == "ridge"
    assert certificate.to_json() == (GOLDEN / f"certificate-v{version}.json").read_text()
    assert certificate.digest() == data["digest"]
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(data["public_key"]))
    report = certificate.verify(data["X"], data["y"], data["model"], public_key=key)
    assert report.signature == "trusted key"
    assert report.p_value > 1e-6
    assert report.status == {1: "conditional", 2: "certified"}[version]
    assert report.notes == {1: (), 2: (GRID_NOTE,)}[version]
    assert report.direction == "Q|P"
