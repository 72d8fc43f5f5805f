"""Certificates say whether their claim is about the program that ran; what is released lies on the grid they name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from expunge.certificates import Certificate, CertificateError, Policy, VerificationError
from expunge.certificates.residual import (
    ResidualCertificate,
    ResidualEvidence,
    ResidualNoise,
    page_of,
    residual_schema,
    verify,
)
from expunge.estimators import NewtonLogisticRegression, NewtonRidge
from expunge.runs.exact_noise import with_exact_noise
from residual_truth import problem

GOLDEN = Path(__file__).parent / "golden" / "residual-v2"
NOISE_STD = 0.01
EXACT = ResidualNoise.of(NOISE_STD, sampler="exact")
CASE = problem("softmax")
RELEASED = with_exact_noise(CASE.theta, noise_std=NOISE_STD)


def certified(released: np.ndarray = RELEASED, noise: ResidualNoise | None = EXACT, **changes) -> ResidualCertificate:
    settings = {"epsilon": 1.0, "delta": 1e-5, "releases": 100, "release": 1, **changes}
    return ResidualCertificate.create(
        tree=CASE.tree, released=released, model=CASE.certificate.model, loss="softmax", alpha=1.0,
        noise_std=NOISE_STD, noise=noise, **settings,
    )  # fmt: skip


def verified(certificate: ResidualCertificate, released: np.ndarray | None = RELEASED):
    evidence = dataclasses.replace(CASE.evidence, certificate=certificate.digest())
    return verify(certificate, CASE.X, CASE.y, evidence=evidence, released=released, ids=CASE.ids)


def test_an_exact_release_is_certified_as_a_program_wherever_it_is_read() -> None:
    certificate = certified()
    report = verified(certificate)
    assert report.certified
    assert report.noise == EXACT
    assert EXACT.of_program
    assert EXACT.grid == 2.0**-19
    assert ResidualCertificate.from_json(certificate.to_json()) == certificate
    for text in (certificate.summary(), report.summary(), page_of([certificate])):
        assert "the claim is about the program that ran" in text


def test_where_it_is_not_said_how_noise_was_drawn_the_claim_is_about_no_program() -> None:
    certificate = certified(CASE.released, None)
    report = verified(certificate, CASE.released)
    assert report.noise is None
    for text in (certificate.summary(), report.summary(), page_of([certificate])):
        assert "not about a program" in text
    assert certificate.to_dict()["noise"] is None


@pytest.mark.parametrize("off", [2.0**-20, 2.0**-48, -(2.0**-19) / 3])
def test_a_release_off_its_grid_is_refuted(off: float) -> None:
    moved = RELEASED.copy()
    moved[1, 2] += off
    with pytest.raises(VerificationError, match=r"noise\.grid: released parameters must be multiples of 1\.9"):
        certified(moved)
    # Whoever signs it all the same is found out by a verification.
    lying = dataclasses.replace(certified(moved, None), noise=EXACT)
    with pytest.raises(VerificationError, match=r"^noise\.grid"):
        verified(lying, moved)
    assert verified(lying, None).p_value is None  # which nothing says where no model is given


def test_numbers_beyond_those_that_float64_counts_are_off_the_grid() -> None:
    assert EXACT.holds(np.array([2.0**53 * EXACT.grid, -(2.0**53) * EXACT.grid, 0.0]))
    assert not EXACT.holds(np.array([2.0**53 * EXACT.grid + 4 * EXACT.grid]))
    least = ResidualNoise.of(2.0**-1062, sampler="exact")
    assert least.grid == 2.0**-1074
    assert least.holds(np.array([5e-324]))
    assert not least.holds(np.array([1.0]))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"grid": 2.0**-18}, "noise.grid"),
        ({"grid": 2.0**-20}, "noise.grid"),
        ({"grid": 0.0}, "noise.grid"),
        ({"sampler": "float32"}, "noise.sampler"),
        ({"sampler": "float64"}, "noise.meaning"),
        ({"meaning": "It is safe."}, "noise.meaning"),
        ({"more": 1}, "noise.more"),
    ],
)
def test_a_certificate_that_misstates_its_noise_is_refused(change: dict[str, object], field: str) -> None:
    values = certified().to_dict()
    values["noise"] |= change
    with pytest.raises(CertificateError) as caught:
        ResidualCertificate.from_json(json.dumps(values))
    assert caught.value.field == field


def test_noise_of_float64_is_never_plainly_certified() -> None:
    seeded = ResidualNoise.of(NOISE_STD, sampler="float64")
    assert not seeded.of_program
    with pytest.raises(VerificationError, match=r"^noise\.sampler"):
        certified(noise=seeded)
    conditional = certified(noise=seeded, conditions=["learning seed known to whoever set it"])
    assert conditional.status == "conditional"
    assert "Gaussian noise that it stands for" in verified(conditional).summary()


def test_a_policy_can_demand_a_claim_about_the_program() -> None:
    policy = Policy(of_program=True, allow_conditional=True)
    policy.check(certified())
    seeded = ResidualNoise.of(NOISE_STD, sampler="float64")
    ridge = Certificate.load(GOLDEN.parent / "certificate-v2.json")
    for other in (certified(CASE.released, None), certified(noise=seeded, conditions=["a seed"]), ridge):
        Policy(allow_conditional=True).check(other)
        with pytest.raises(VerificationError, match=r"^policy\.of_program: the claim must be about the program"):
            policy.check(other)
    with pytest.raises(TypeError, match="of_program must be True or False, got 1"):
        Policy(of_program=1)


def test_version_1_says_nothing_of_noise() -> None:
    with pytest.raises(CertificateError, match=r"^version: must be 2"):
        dataclasses.replace(certified(), version=1)
    old = dataclasses.replace(certified(noise=None), version=1)
    assert "noise" not in old.to_dict()
    assert ResidualCertificate.from_json(old.to_json()) == old
    assert verified(old).noise is None


def test_least_noise_that_float64_has_a_grid_for() -> None:
    values = certified().to_dict()
    values["claim"]["noise_std"] = 1e-322
    with pytest.raises(CertificateError, match=r"^claim\.noise_std: must be at least"):
        ResidualCertificate.from_json(json.dumps(values))


@pytest.mark.parametrize("name", ["delta", "mu", "noise_std", "alpha"])
def test_whole_numbers_of_any_size_are_numbers(name: str) -> None:
    """JSON writes 1.0 as 1 too, and NumPy takes no whole number beyond 64 bits."""
    for value in (2**63, 2**70, 10**300):
        values = certified().to_dict()
        values["claim"][name] = value
        with pytest.raises((CertificateError, VerificationError)):
            verified(ResidualCertificate.from_json(json.dumps(values)))


def test_working_models_keep_how_their_noise_was_drawn(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 3))
    for seed, sampler in ((None, "exact"), (0, "float64")):
        model = NewtonRidge(random_state=seed).fit(rows, rows.sum(axis=1))
        model.save(tmp_path / f"{sampler}.npz")
        back = NewtonRidge.load(tmp_path / f"{sampler}.npz")
        assert back.certificate_ == model.certificate_
        assert back._state.noise == model._state.noise == ResidualNoise.of(0.01, sampler=sampler)


def test_models_of_older_files_release_exactly() -> None:
    model = NewtonLogisticRegression.load(GOLDEN.parent / "newton-1" / "binary.npz")
    assert (model.certificate_.version, model.certificate_.noise) == (1, None)
    result = model.release_again()
    assert result.certificate.version == 2
    assert result.certificate.noise.of_program


def test_version_2_loads_and_verifies_for_ever() -> None:
    certificate = ResidualCertificate.load(GOLDEN / "certificate.json")
    evidence = ResidualEvidence.load(GOLDEN / "evidence.npz")
    data = json.loads((GOLDEN / "data.json").read_text())
    assert certificate.to_json() == (GOLDEN / "certificate.json").read_text()
    assert certificate.digest() == data["digest"]
    assert residual_schema(version=2) == json.loads((GOLDEN / "schema.json").read_text())
    report = verify(
        certificate,
        np.array(data["X"]),
        np.array(data["y"]),
        evidence=evidence,
        released=data["released"],
        ids=np.array(data["ids"]),
        public_key=Ed25519PublicKey.from_public_bytes(bytes.fromhex(data["public_key"])),
    )
    assert report.certified
    assert report.noise is not None
    assert report.noise.of_program
