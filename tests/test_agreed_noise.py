"""Noise from two parties' seeds: nobody chose it, whoever has both draws it again, and nobody else can."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expunge._files import FileFormatError
from expunge.certificates import CertificateError, Policy, VerificationError
from expunge.certificates.residual import (
    AgreedNoise,
    NoiseAgreement,
    NoiseSeed,
    ResidualCertificate,
    ResidualEvidence,
    verify,
)
from expunge.certificates.residual.agreed_noise import AGREED_CONDITION
from expunge.estimators import NewtonRidge
from expunge.runs.drbg import MOST_BYTES, HmacDrbg
from expunge.runs.exact_noise import with_exact_noise

OURS, THEIRS = NoiseSeed(bytes(range(32))), NoiseSeed(bytes(range(32, 64)))
X, Y = np.random.default_rng(5).normal(size=(2, 30, 4))
Y = Y[:, 0]


def agreement_on(model: NewtonRidge, ours: NoiseSeed = OURS, theirs: NoiseSeed = THEIRS) -> NoiseAgreement:
    number = model.certificate_.release + 1
    return NoiseAgreement((ours.commitment, theirs.commitment), model.certificate_.digest(), number)


@pytest.fixture(scope="module")
def model() -> NewtonRidge:
    return NewtonRidge().fit(X, Y)


@pytest.fixture(scope="module")
def result(model):
    return model.with_agreed_noise(agreement_on(model).noise(OURS, THEIRS)).unlearn(3)


def checked(result, *, certificate=None, evidence=None, released=None):
    kept = np.delete(np.arange(len(X)), 3)
    return verify(
        certificate or result.certificate,
        X[kept],
        Y[kept],
        evidence=evidence or result.evidence,
        released=result.model if released is None else released,
    )


# --- the generator -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "order", "private", "expected"),
    [
        (
            "sha256",
            0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
            0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721,
            0xA6E3C57DD01ABE90086538398355DD4C3B17AA873382B0F24D6129493D8AAD60,
        ),
        (
            "sha512",
            2**521 - 657877501894328237357444332315020117536923257219387276263472201219398408051703,
            0x0FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89EC0C08B0E996B83538,
            0x1DAE2EA071F8110DC26882D4D5EAE0621A3256FC8847FB9022E2B7D28E6F10198B1574FDD03A9053C08A1854A168AA5A57470EC97DD5CE090124EF52A2F7ECBFFD3,
        ),
    ],
)
def test_known_answers(algorithm, order, private, expected):
    """RFC 6979, appendix A.2: the nonces of its signatures of "sample" are first outputs of HMAC_DRBG."""
    bits = order.bit_length()
    size = -(-bits // 8)
    digest = hashlib.new(algorithm, b"sample").digest()
    message = int.from_bytes(digest, "big") >> max(0, 8 * len(digest) - bits)
    entropy = private.to_bytes(size, "big") + (message % order).to_bytes(size, "big")
    found = HmacDrbg(entropy, b"", algorithm=algorithm).generate(size)
    assert int.from_bytes(found, "big") >> (8 * size - bits) == expected


def test_requests_differ_and_are_no_longer_than_the_standard_allows():
    source = HmacDrbg(b"entropy", b"")
    first, second = source.generate(MOST_BYTES), source.generate(MOST_BYTES)
    assert first != second
    assert len(first) == MOST_BYTES
    with pytest.raises(ValueError, match="n must be at most 65536, got 65537"):
        source.generate(MOST_BYTES + 1)


@given(st.lists(st.integers(0, 40_000), max_size=4))
def test_words_are_the_same_in_any_portions(portions):
    agreed = NoiseAgreement((OURS.commitment, THEIRS.commitment), "0" * 64, 2).noise(OURS, THEIRS)
    words = agreed.words()
    parts = [words(n) for n in portions]
    assert np.array_equal(np.concatenate([np.empty(0, np.uint32), *parts]), agreed.words()(sum(portions)))


def test_words_follow_from_every_part_of_the_agreement():
    third = NoiseSeed(b"\x07" * 32)
    plain = NoiseAgreement((OURS.commitment, THEIRS.commitment), "0" * 64, 2)
    seen = {tuple(plain.noise(OURS, THEIRS).words()(4).tolist())}
    assert tuple(plain.noise(THEIRS, OURS).words()(4).tolist()) in seen
    for changed, seeds in (
        (dataclasses.replace(plain, release=3), (OURS, THEIRS)),
        (dataclasses.replace(plain, certificate="1" * 64), (OURS, THEIRS)),
        (dataclasses.replace(plain, commitments=plain.commitments[::-1]), (OURS, THEIRS)),
        (dataclasses.replace(plain, commitments=(OURS.commitment, third.commitment)), (OURS, third)),
    ):
        seen.add(tuple(changed.noise(*seeds).words()(4).tolist()))
    assert len(seen) == 5


def test_the_words_pass_for_uniform_and_the_noise_for_normal():
    agreed = NoiseAgreement((OURS.commitment, THEIRS.commitment), "0" * 64, 2).noise(OURS, THEIRS)
    counts = np.bincount(agreed.words()(2**18) >> np.uint32(24), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6
    noise = with_exact_noise(np.zeros(20_000), noise_std=1.0, words=agreed.words())
    assert stats.kstest(noise + 2.0**-13, "norm").pvalue > 1e-6


# --- releases ------------------------------------------------------------------------------------


def test_a_release_of_agreed_noise_is_what_both_seeds_make_of_its_parameters(model, result):
    certificate, evidence = result.certificate, result.evidence
    assert certificate.noise.sampler == "agreed"
    assert certificate.noise.of_program
    assert certificate.status == "conditional"
    assert certificate.conditions == (AGREED_CONDITION,)
    assert certificate.noise.agreement == agreement_on(model)
    again = with_exact_noise(
        evidence.theta, noise_std=0.01, words=AgreedNoise(agreement_on(model), evidence.seeds).words()
    )
    assert np.array_equal(again.ravel(), [*result.model.coef_, result.model.intercept_])
    report = checked(result)
    assert report.noise == certificate.noise
    assert ResidualCertificate.from_json(certificate.to_json()) == certificate
    Policy(of_program=True, allow_conditional=True).check(certificate)
    assert "the seeds of two parties" in report.summary()


def test_every_change_takes_it_and_the_next_release_does_not(model):
    agreed = agreement_on(model)
    new = np.ones((1, 4))
    for change in (
        lambda one: one.unlearn(rows=[1, 2]),
        lambda one: one.amend(3, y=[0.5]),
        lambda one: one.add(new, [1.0]),
        lambda one: one.release_again(),
    ):
        result = change(model.with_agreed_noise(agreed.noise(OURS, THEIRS)))
        assert result.certificate.noise.agreement == agreed
        assert result.evidence.seeds is not None
        following = result.model.unlearn(rows=0)
        assert following.certificate.noise.sampler == "exact"
        assert following.status == "certified"
        assert following.evidence.seeds is None
    assert model.unlearn(3).certificate.noise.sampler == "exact"  # which is as it was


def test_noise_is_used_once(model):
    one = model.with_agreed_noise(agreement_on(model).noise(OURS, THEIRS))
    one.unlearn(3)
    for again in (one, copy.copy(one)):
        with pytest.raises(RuntimeError, match="agreed noise is for one release, and was used for one"):
            again.with_agreed_noise(one._state.agreed).unlearn(4)


def test_no_file_or_pickle_of_a_model_has_the_seeds(result, model, tmp_path):
    result.model.save(tmp_path / "m.npz")
    waiting = model.with_agreed_noise(agreement_on(model).noise(OURS, THEIRS))
    waiting.save(tmp_path / "w.npz")
    for content in (
        (tmp_path / "m.npz").read_bytes(),
        (tmp_path / "w.npz").read_bytes(),
        pickle.dumps(result.model),
        pickle.dumps(waiting),
        result.certificate.to_json().encode(),
    ):
        for seed in (OURS, THEIRS):
            assert seed.value not in content
            assert seed.value.hex().encode() not in content
    loaded = NewtonRidge.load(tmp_path / "m.npz")
    assert loaded.certificate_ == result.certificate
    with pytest.raises(VerificationError, match=r"^evidence\.seeds: must be there"):
        checked(result, evidence=loaded.evidence_)
    # which is not found out where no release is compared, but then nothing is said of noise either
    with pytest.raises(VerificationError, match=r"^evidence\.seeds"):
        verify(result.certificate, np.delete(X, 3, 0), np.delete(Y, 3), evidence=loaded.evidence_)


def test_evidence_keeps_the_seeds(result, tmp_path):
    result.evidence.save(tmp_path / "e.npz")
    loaded = ResidualEvidence.load(tmp_path / "e.npz")
    assert loaded.seeds == result.evidence.seeds == (OURS, THEIRS)
    checked(result, evidence=loaded)


# --- what is refuted -----------------------------------------------------------------------------


def test_chosen_noise_is_refuted(result, model):
    """Whoever draws until the noise suits, or writes another agreement, is found out by the seeds."""
    chosen = model.with_agreed_noise(agreement_on(model).noise(OURS, THEIRS)).unlearn(3)
    released = np.append(chosen.model.coef_, chosen.model.intercept_)[None]
    other = released + chosen.certificate.noise.grid
    certificate = dataclasses.replace(
        chosen.certificate,
        digests=dataclasses.replace(chosen.certificate.digests, released=_digest_of(other)),
    )
    evidence = dataclasses.replace(chosen.evidence, certificate=certificate.digest())
    with pytest.raises(VerificationError, match="is not what the two seeds make of the evidence's parameters"):
        checked(chosen, certificate=certificate, evidence=evidence, released=other)


def _digest_of(parameters):
    from expunge.certificates import model_digest

    return model_digest(parameters.T)


def test_other_seeds_than_those_committed_to_are_refuted(result):
    for seeds in ((OURS, NoiseSeed(bytes(32))), (THEIRS, NoiseSeed(bytes(32)))):
        with pytest.raises(VerificationError, match=r"^evidence\.seeds: must be the two that were committed to"):
            checked(result, evidence=dataclasses.replace(result.evidence, seeds=seeds))


def test_a_certificate_that_misstates_its_agreement_is_refused(result):
    def changed(**changes):
        values = json.loads(result.certificate.to_json())
        values["noise"] |= changes
        return values

    without = changed()
    del without["noise"]["agreement"]
    exact = changed(sampler="exact")
    same = changed()
    same["noise"]["agreement"]["commitments"] = [OURS.commitment] * 2
    for values, field in ((without, "noise.agreement"), (exact, "noise.agreement"), (same, "noise.agreement")):
        with pytest.raises(CertificateError) as caught:
            ResidualCertificate.from_json(json.dumps(values))
        assert caught.value.field == field
    moved = dataclasses.replace(result.certificate.noise.agreement, release=5)
    noise = dataclasses.replace(result.certificate.noise, agreement=moved)
    with pytest.raises(VerificationError, match=r"^noise\.agreement: must be on release 2, got one on release 5"):
        dataclasses.replace(result.certificate, noise=noise).check_claim()
    for conditions, status in (((), "certified"), (("something else",), "conditional")):
        silent = dataclasses.replace(result.certificate, conditions=conditions, status=status)
        with pytest.raises(VerificationError, match=r"^conditions: must say that whoever sees the release lacks one"):
            silent.check_claim()


def test_agreements_on_another_release_are_refused(model, result):
    later = agreement_on(result.model).noise(OURS, THEIRS)
    with pytest.raises(ValueError, match="agreed must be on release 2 after certificate"):
        model.with_agreed_noise(later)
    with pytest.raises(TypeError, match="agreed must be an AgreedNoise, got NoiseAgreement"):
        model.with_agreed_noise(agreement_on(model))


def test_bad_input(tmp_path: Path):
    for bad in (b"short", "text" * 8):
        with pytest.raises(ValueError, match="value must be 32 bytes"):
            NoiseSeed(bad)
    plain = {"commitments": (OURS.commitment, THEIRS.commitment), "certificate": "0" * 64, "release": 2}
    for change, message in (
        ({"commitments": (OURS.commitment,)}, "commitments must be two, got 1"),
        ({"commitments": (OURS.commitment, OURS.commitment)}, "commitments must be of two seeds"),
        ({"commitments": (OURS.commitment, "x" * 64)}, "commitments must be 64 hexadecimal digits"),
        ({"certificate": "0"}, "certificate must be 64 hexadecimal digits"),
        ({"release": 1}, "release must be a whole number of at least 2, got 1"),
        ({"release": True}, "release must be a whole number of at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            NoiseAgreement(**{**plain, **change})
    with pytest.raises(ValueError, match=r"seeds must be the two that were committed to: none has the commitment"):
        NoiseAgreement(**plain).noise(OURS, OURS)
    with pytest.raises(TypeError, match="agreement must be a NoiseAgreement, got dict"):
        AgreedNoise(plain, (OURS, THEIRS))


def test_files_of_seeds_and_agreements(tmp_path: Path):
    OURS.save(tmp_path / "s.json")
    assert (tmp_path / "s.json").stat().st_mode & 0o777 == 0o600
    assert NoiseSeed.load(tmp_path / "s.json") == OURS
    assert OURS.value.hex() not in repr(OURS)
    with pytest.raises(FileExistsError):
        OURS.save(tmp_path / "s.json")
    agreement = NoiseAgreement((OURS.commitment, THEIRS.commitment), "0" * 64, 2)
    agreement.save(tmp_path / "a.json")
    assert NoiseAgreement.load(tmp_path / "a.json") == agreement
    with pytest.raises(FileFormatError, match="is no seed of noise"):
        NoiseSeed.load(tmp_path / "a.json")
    values = json.loads((tmp_path / "a.json").read_text())
    for change, message in (
        ({"more": 1}, "of another version, or damaged"),
        ({"version": 2}, "of another version, or damaged"),
        ({"release": 0}, "damaged: release must be"),
        ({"commitments": 5}, "damaged"),
    ):
        (tmp_path / "b.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(FileFormatError, match=message):
            NoiseAgreement.load(tmp_path / "b.json")
    (tmp_path / "s.json").write_text(json.dumps({"format": "expunge-noise-seed", "version": 1, "seed": "00"}))
    with pytest.raises(FileFormatError, match=r"seed of noise at .* is damaged: seed must be 64 hexadecimal digits"):
        NoiseSeed.load(tmp_path / "s.json")
