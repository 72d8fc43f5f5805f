"""Certificates of networks hold on the features as they were kept, and every change is refused by name."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from command_calls import run
from expunge import CertifiedHead, NewtonLogisticRegression, NewtonRidge
from expunge._files import FileFormatError
from expunge.accounting import PrivateTraining
from expunge.certificates import CertificateError, Policy, VerificationError, load
from expunge.certificates.network import (
    Backbone,
    NetworkCertificate,
    NetworkEvidence,
    network_schema,
    page_of,
    verify,
    weights_digest,
    write_page,
)
from expunge.certificates.residual import ResidualCertificate

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 2
FULL = PrivateTraining(
    clip=1.0, noise_multiplier=20.0, sampling_probability=1.0, n_steps=100, accountant="gdp", room=1e-3, seeded=False
)
POISSON = PrivateTraining(
    clip=1.0, noise_multiplier=1.0, sampling_probability=0.1, n_steps=20, accountant="rdp", room=1e-3, seeded=True
)
GOLDEN = Path(__file__).parent / "golden" / "network-v1"


class Cosines:
    """A backbone of fixed random numbers, with weights that can be told from others."""

    def __init__(self, seed: int = 0) -> None:
        self.drawn = np.random.default_rng(seed).normal(size=(4, 5))

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"drawn": self.drawn}

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.cos(rows @ self.drawn)


@cache
def unlearned(source):
    """Return the results of two deletions of two and one records."""
    head = NewtonLogisticRegression(classes=[0, 1])
    model = CertifiedHead(Cosines(), head, backbone=source, name="cosines").fit(X, Y)
    one = model.unlearn([3, 14])
    return model, one, one.model.unlearn(rows=[0])


def data(result):
    ids = result.model.ids_
    return {"X": result.model.features_, "y": Y[ids], "ids": ids, "evidence": result.evidence}


def refused(call, field):
    with pytest.raises(VerificationError) as caught:
        call()
    assert caught.value.field == field, caught.value
    return str(caught.value)


SOURCES = ["data-independent", "public", FULL, POISSON]


@pytest.mark.parametrize("source", SOURCES, ids=["independent", "public", "full", "poisson"])
def test_an_honest_certificate_holds_and_counts_what_left(source, tmp_path):
    model, one, two = unlearned(source)
    private = isinstance(source, PrivateTraining)
    assert [c.n_deleted for c in (model.certificate_, one.certificate, two.certificate)] == (
        [0, 2, 3] if private else [0] * 3
    )
    for result in (one, two):
        c = result.certificate
        report = verify(c, **data(result), backbone=Cosines(), released=result.model.release())
        assert report.status == c.status == ("conditional" if private else "certified")
        assert (report.epsilon, report.n_deleted, report.weights_checked) == (c.epsilon, c.n_deleted, True)
        assert report.head.n_records == len(result.model.ids_)
        assert "weights of the backbone: as certified" in report.summary()
        assert not verify(c, **data(result)).weights_checked
    assert model.certificate_.epsilon == 1.0
    if private:
        assert 1.0 < two.certificate.one.epsilon < one.certificate.epsilon < two.certificate.epsilon
        assert one.certificate.one == two.certificate.one
        assert set(source.conditions) <= set(two.certificate.conditions)
        assert (two.certificate.mu is None) == (source is POISSON)
    else:
        assert (two.certificate.epsilon, two.certificate.one.epsilon) == (1.0, 1.0)
        assert two.certificate.conditions == ()
    two.certificate.save(tmp_path / "c.json")
    assert load(tmp_path / "c.json") == two.certificate
    assert two.certificate.metrics()["epsilon"] == two.certificate.epsilon
    two.evidence.save(tmp_path / "e.npz")
    again = NetworkEvidence.load(tmp_path / "e.npz")
    assert verify(load(tmp_path / "c.json"), **{**data(two), "evidence": again}).n_deleted == two.certificate.n_deleted


def test_full_batches_are_the_root_of_the_sum_of_squares():
    c = unlearned(FULL)[2].certificate
    whole = c.head.mu * 100  # 10,000 releases
    assert c.mu == pytest.approx(np.hypot(3 * 0.5, whole), rel=1e-9)
    assert c.one.mu == pytest.approx(np.hypot(0.5, whole), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n_deleted": 2}, "evidence.certificate"),  # lowered, its epsilon kept
        ({"n_deleted": 4}, "claim.epsilon"),  # more records for the same epsilon
        ({"epsilon": 1.0}, "claim.epsilon"),
        ({"mu": 0.1}, "claim.mu"),
        ({"mu": None}, "claim.mu"),
        ({"conditions": (), "status": "certified"}, "conditions"),
        ({"status": "certified"}, "conditions"),
        ({"backbone": Backbone("private", "cosines", 64 * "0", 1, FULL)}, "evidence.certificate"),
        ({"backbone": Backbone("private", "cosines", None, 1, dataclasses.replace(FULL, noise_multiplier=10.0))},
         "claim.epsilon"),
    ],
)  # fmt: skip
def test_what_was_changed_is_refused(change, field):
    result = unlearned(FULL)[2]
    changed = dataclasses.replace(result.certificate, **change)
    refused(lambda: verify(changed, **data(result)), field)


def test_a_lowered_count_is_refused_even_with_evidence_made_for_it():
    """Fewer records and the smaller epsilon that belongs to them: what the evidence counts is another number."""
    result = unlearned(FULL)[2]
    lower = NetworkCertificate.create(head=result.certificate.head, backbone=result.certificate.backbone, n_deleted=1)
    forged = dataclasses.replace(result.evidence, certificate=lower.digest())
    assert "must be 3, as the evidence counts, got 1" in refused(
        lambda: verify(lower, **{**data(result), "evidence": forged}), "claim.n_deleted"
    )
    independent = NetworkCertificate.create(
        head=result.certificate.head, backbone=Backbone("data-independent", "cosines", None, 1)
    )
    refused(lambda: verify(independent, **data(result)), "evidence.certificate")


def test_other_weights_and_other_features_are_refused():
    result = unlearned(FULL)[2]
    c = result.certificate
    refused(lambda: verify(c, **data(result), backbone=Cosines(1)), "backbone.weights")
    moved = data(result)["X"].copy()
    moved[5, 2] = np.nextafter(moved[5, 2], 9.0)  # the last bit
    refused(lambda: verify(c, **{**data(result), "X": moved}), "head.digests.data")
    released = unlearned(FULL)[1].model.release()
    refused(lambda: verify(c, **data(result), released=released), "head.digests.released")
    no_weights = NetworkCertificate.create(
        head=c.head, backbone=dataclasses.replace(c.backbone, weights=None), n_deleted=3
    )
    evidence = dataclasses.replace(result.evidence, certificate=no_weights.digest())
    refused(
        lambda: verify(no_weights, **{**data(result), "evidence": evidence}, backbone=Cosines()), "backbone.weights"
    )


def test_signatures_cover_everything_and_stand_for_no_other_document():
    result = unlearned(FULL)[1]
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signed = result.certificate.sign(key)
    assert signed.digest() == result.certificate.digest()
    assert verify(signed, **data(result), public_key=key.public_key()).signature == "trusted key"
    assert verify(signed, **data(result)).signature == "unknown key"
    refused(lambda: signed.verify_signature(other.public_key()), "signature")
    refused(lambda: dataclasses.replace(signed, notes=("more",)).check_claim(), "signature")
    text = signed.to_json().replace("expunge-network-certificate", "expunge-residual-certificate")
    with pytest.raises(CertificateError):
        ResidualCertificate.from_json(text)


def test_policies_read_the_joint_claim():
    independent, private = unlearned("data-independent")[1].certificate, unlearned(FULL)[1].certificate
    Policy(max_epsilon=1.0, max_delta=1e-5, of_program=True).check(independent)
    refused(lambda: Policy(max_epsilon=1.0, allow_conditional=True).check(private), "policy.max_epsilon")
    refused(lambda: Policy().check(private), "policy.allow_conditional")
    refused(lambda: Policy(allow_conditional=True, of_program=True).check(private), "policy.of_program")
    Policy(max_epsilon=private.epsilon, allow_conditional=True).check(private)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v.update(kind="residual"), "kind"),
        (lambda v: v.update(version=2), "version"),
        (lambda v: v.update(more=1), "more"),
        (lambda v: v["claim"].update(epsilon=float("nan")), "claim.epsilon"),
        (lambda v: v["claim"].update(n_deleted=-1), "claim.n_deleted"),
        (lambda v: v["claim"].update(n_deleted=True), "claim.n_deleted"),
        (lambda v: v["claim"].update(delta=1e-6), "claim.delta"),
        (lambda v: v["claim"].update(meaning="nothing"), "claim.meaning"),
        (lambda v: v["claim"].update(accountant="rdp"), "claim.accountant"),
        (lambda v: v["backbone"].update(source="public"), "backbone.training"),
        (lambda v: v["backbone"].update(source="trained"), "backbone.source"),
        (lambda v: v["backbone"].update(training=None), "backbone.training"),
        (lambda v: v["backbone"].update(name="a\nb"), "backbone.name"),
        (lambda v: v["backbone"].update(weights="0"), "backbone.weights"),
        (lambda v: v["backbone"]["training"].update(sampling_probability=0.5), "backbone.training.accountant"),
        (lambda v: v["head"].update(version=9), "head.version"),
        (lambda v: v["head"]["claim"].update(mu=-1.0), "head.claim.mu"),
        (lambda v: v.update(issued_at="2026-02-30T00:00:00Z"), "issued_at"),
    ],
)
def test_a_text_that_breaks_the_format_is_refused_by_its_field(change, field):
    values = json.loads(unlearned(FULL)[1].certificate.to_json())
    change(values)
    with pytest.raises(CertificateError) as caught:
        NetworkCertificate.from_json(json.dumps(values))
    assert caught.value.field == field


def test_a_schema_is_a_copy_and_names_every_field():
    values = json.loads(unlearned(FULL)[1].certificate.to_json())
    schema = network_schema()
    assert list(values) == list(schema["properties"]) == schema["required"]
    schema.clear()
    assert network_schema()


def test_evidence_that_is_wrong_is_refused(tmp_path):
    evidence = unlearned(FULL)[1].evidence
    for change, field in (
        ({"in_backbone": evidence.in_backbone[1:]}, "in_backbone"),
        ({"in_backbone": evidence.in_backbone.astype(int)}, "in_backbone"),
        ({"n_trained": 27}, "n_trained"),
        ({"n_trained": -1}, "n_trained"),
        ({"certificate": "0"}, "certificate"),
        ({"head": None}, "head"),
    ):
        with pytest.raises(CertificateError) as caught:
            dataclasses.replace(evidence, **change)
        assert caught.value.field == field
    evidence.save(tmp_path / "e.npz")
    damaged = bytearray((tmp_path / "e.npz").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "d.npz").write_bytes(damaged)
    with pytest.raises(FileFormatError):
        NetworkEvidence.load(tmp_path / "d.npz")
    with pytest.raises(TypeError, match="evidence must be a NetworkEvidence"):
        verify(unlearned(FULL)[1].certificate, **{**data(unlearned(FULL)[1]), "evidence": evidence.head})


def test_digests_of_weights_tell_names_kinds_shapes_and_values_apart():
    plain = {"a": np.zeros((2, 3)), "b": np.arange(4)}
    found = {
        weights_digest(state)
        for state in (
            plain,
            {**plain, "a": np.zeros((3, 2))},
            {**plain, "a": np.zeros((2, 3), np.float32)},
            {**plain, "b": np.arange(4) + 1},
            {"a": plain["a"], "c": plain["b"]},
            {"a": plain["a"]},
            {**plain, "a": -plain["a"]},  # minus zero
        )
    }
    assert len(found) == 7
    assert weights_digest({**plain, "a": np.zeros((3, 2)).T}) in found  # layout does not count
    with pytest.raises(TypeError, match="network: a must be a tensor of numbers, got str"):
        weights_digest({"a": "text"})
    with pytest.raises(TypeError, match="network must have a state_dict"):
        weights_digest(3)


def test_pages_say_what_holds_of_both(tmp_path):
    model, one, two = unlearned(FULL)
    report = verify(two.certificate, **data(two), backbone=Cosines())
    page = page_of([model.certificate_, one.certificate, two.certificate], report=report)
    for text in (
        "trained with 3 records that have left",
        f"epsilon = {two.certificate.epsilon:g}",
        "The head by itself",
        "About any single record",
        "yes, the same",
        "verified on the data",
        two.certificate.digest(),
    ):
        assert text in page
    assert "No record had a part in the backbone" in page_of([unlearned("public")[1].certificate])
    assert "none of them has left" in page_of([model.certificate_])
    assert "each with chance 0.1" in page_of([unlearned(POISSON)[1].certificate])
    write_page(tmp_path / "page.html", [one.certificate])
    with pytest.raises(ValueError, match="report must be about the last certificate"):
        page_of([one.certificate], report=report)
    with pytest.raises(ValueError, match="in the order of releases"):
        page_of([two.certificate, one.certificate])
    with pytest.raises(ValueError, match="different backbones"):
        page_of([unlearned(POISSON)[0].certificate_, one.certificate])


def test_commands_understand_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = unlearned(FULL)[2]
    result.certificate.save("certificate.json")
    result.evidence.save("evidence.npz")
    result.model.save("model.npz")
    result.model.release().save("released.npz")
    names = [f"f{i}" for i in range(5)]
    rows = [",".join(["id", *names, "label"])]
    for name, row in zip(result.model.ids_.tolist(), result.model.features_, strict=True):
        rows.append(",".join([str(name), *map(repr, row.tolist()), str(Y[name])]))
    Path("features.csv").write_text("\n".join(rows) + "\n")
    table = ("features.csv", "--target-column", "label", "--id-column", "id")
    for source in ("evidence.npz", "model.npz"):
        said = run("verify", "certificate.json", *table, "--evidence", source, "--model", "released.npz").output
        assert "VERIFIED" in said
        assert "3 records of the backbone's training left" in said
        assert "evidence of the network's certificate" in run("show", source).output
    limits = ("--max-epsilon", "2", "--allow-conditional")
    assert (
        "policy.max_epsilon"
        in run("verify", "certificate.json", *table, "--evidence", "evidence.npz", *limits, code=1).stderr
    )
    Path("features.csv").write_text("\n".join(rows[:-1]) + "\n")
    assert "head.digests.data" in run("verify", "certificate.json", *table, "--evidence", "evidence.npz", code=1).stderr
    assert "features of a private backbone" in run("show", "certificate.json").output
    run("report", "certificate.json", "-o", "page.html")
    assert "Backbone and head together" in Path("page.html").read_text()
    unlearned(FULL)[1].certificate.head.save("head.json")
    assert (
        "of a network and some of a head"
        in run("report", "head.json", "certificate.json", "-o", "p.html", code=2).stderr
    )


def test_certificates_of_version_1_hold_for_ever():
    """Files of the first version, as they were written."""
    certificate = load(GOLDEN / "certificate.json")
    table = np.load(GOLDEN / "features.npz")
    report = verify(
        certificate,
        table["X"],
        table["y"],
        evidence=NetworkEvidence.load(GOLDEN / "evidence.npz"),
        backbone={"drawn": table["drawn"]},
        ids=table["ids"],
    )
    assert (report.n_deleted, report.signature) == (3, "unknown key")
    assert CertifiedHead.load(GOLDEN / "model.npz").certificate_.digest() == certificate.digest()


def test_what_is_no_head_is_refused():
    backbone = Backbone("data-independent", "cosines", None, 1)
    with pytest.raises(TypeError, match="head must be a ResidualCertificate"):
        NetworkCertificate.create(head=unlearned(FULL)[1].certificate, backbone=backbone)
    with pytest.raises(TypeError, match="backbone must be a Backbone"):
        NetworkCertificate.create(head=unlearned(FULL)[1].certificate.head, backbone="public")
    with pytest.raises(CertificateError, match="n_deleted: must be 0"):
        NetworkCertificate.create(head=NewtonRidge().fit(X, Y).certificate_, backbone=backbone, n_deleted=1)
    for change, match in (({"source": "mine"}, "source must be one of"), ({"training": FULL}, "training must be None")):
        with pytest.raises(ValueError, match=match):
            dataclasses.replace(backbone, **change)
