"""Noise that nobody chose: drawn from the seeds of two parties who committed to them before either knew the other's."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expunge._files import CONFIDENTIAL, FileFormatError, parse_json, read_text, write_atomic
from expunge._files import values as _values
from expunge._types import JsonObject
from expunge.runs.drbg import MOST_BYTES, HmacDrbg
from expunge.runs.exact_noise import Words

__all__ = ["AGREED_CONDITION", "AgreedNoise", "NoiseAgreement", "NoiseSeed"]

AGREED_CONDITION = "whoever sees the release lacks one of the two seeds of its noise, and HMAC is pseudo-random"
SEED_BYTES = 32
_COMMITMENT_TAG, _AGREEMENT_TAG = b"expunge noise seed 1\x00", b"expunge noise agreement 1\x00"
_SEED_FORMAT, _AGREEMENT_FORMAT, _VERSION = "expunge-noise-seed", "expunge-noise-agreement", 1


@dataclass(frozen=True)
class NoiseSeed:
    """One party's secret part of a release's noise, for one release only.

    Attributes
    ----------
    value : bytes
        32 bytes that nobody else knows yet.

    Raises
    ------
    ValueError
        On construction, if there are not 32 bytes.

    Examples
    --------
    >>> seed = NoiseSeed.new()
    >>> len(seed.value), len(seed.commitment)
    (32, 64)
    """

    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.value, bytes) or len(self.value) != SEED_BYTES:
            raise ValueError(f"value must be {SEED_BYTES} bytes, got {type(self.value).__name__}")

    @classmethod
    def new(cls) -> NoiseSeed:
        """Return a seed of the operating system's randomness."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @property
    def commitment(self) -> str:
        """SHA-256 of the seed, 64 hexadecimal digits: binds to it without telling it. Safe to publish."""
        return hashlib.sha256(_COMMITMENT_TAG + self.value).hexdigest()

    def __repr__(self) -> str:
        return f"<NoiseSeed of commitment {self.commitment[:16]}...>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the seed, readable by its owner only; an existing file is never replaced.

        Raises
        ------
        FileExistsError
            If there is a file.
        """
        values = {"format": _SEED_FORMAT, "version": _VERSION, "seed": self.value.hex()}
        write_atomic(path, (json.dumps(values) + "\n").encode("ascii"), overwrite=False, mode=CONFIDENTIAL)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoiseSeed:
        """Return the seed in a file.

        Raises
        ------
        FileNotFoundError, FileFormatError
            If there is no such file, or it is no seed.
        """
        values = _read(path, _SEED_FORMAT, ("seed",), what="seed of noise")
        try:
            return cls(bytes.fromhex(_values.digest("seed", values["seed"])))
        except ValueError as error:
            raise FileFormatError(f"path: the seed of noise at {path} is damaged: {error}") from None


@dataclass(frozen=True)
class NoiseAgreement:
    """Public record of what two parties committed to, and for which release.

    Attributes
    ----------
    commitments : tuple of two str
        `NoiseSeed.commitment` of each party.
    certificate : str
        Digest of the certificate of the model's release before.
    release : int
        Number of the release that the noise is for, at least 2.

    Raises
    ------
    ValueError
        On construction, if a digest is none, both commitments are one, or the number is too small.

    See Also
    --------
    AgreedNoise : The noise, once both seeds are known.

    Examples
    --------
    >>> ours, theirs = NoiseSeed.new(), NoiseSeed.new()
    >>> agreement = NoiseAgreement((ours.commitment, theirs.commitment), certificate="0" * 64, release=2)
    >>> agreement.noise(ours, theirs)
    <AgreedNoise for release 2>
    """

    commitments: tuple[str, str]
    certificate: str
    release: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "commitments", tuple(self.commitments))
        if len(self.commitments) != 2:
            raise ValueError(f"commitments must be two, got {len(self.commitments)}")
        for one in self.commitments:
            _values.digest("commitments", one)
        _values.digest("certificate", self.certificate)
        if self.commitments[0] == self.commitments[1]:
            raise ValueError("commitments must be of two seeds, got the same one twice")
        if type(self.release) is not int or self.release < 2:
            raise ValueError(f"release must be a whole number of at least 2, got {self.release!r}")

    def noise(self, one: NoiseSeed, other: NoiseSeed) -> AgreedNoise:
        """Return the noise of two seeds, given in any order.

        Raises
        ------
        ValueError
            If they are not the seeds that were committed to.
        """
        return AgreedNoise(self, (one, other))

    def to_dict(self) -> JsonObject:
        """Return JSON values."""
        return {"commitments": list(self.commitments), "certificate": self.certificate, "release": self.release}

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the agreement as JSON; safe to publish.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is False.
        """
        text = json.dumps({"format": _AGREEMENT_FORMAT, "version": _VERSION, **self.to_dict()}, indent=1) + "\n"
        write_atomic(path, text.encode("ascii"), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoiseAgreement:
        """Return the agreement in a file.

        Raises
        ------
        FileNotFoundError, FileFormatError
            If there is no such file, or it is no agreement.
        """
        what = "agreement on noise"
        values = _read(path, _AGREEMENT_FORMAT, ("commitments", "certificate", "release"), what=what)
        try:
            return cls(tuple(values["commitments"]), values["certificate"], values["release"])
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"path: the {what} at {path} is damaged: {error}") from None


class AgreedNoise:
    """Random words for one release, which follow from two seeds and the agreement on them.

    Parameters
    ----------
    agreement : NoiseAgreement
        What was committed to.
    seeds : sequence of two NoiseSeed
        In any order.

    Raises
    ------
    TypeError, ValueError
        If these are not the seeds that were committed to.

    Notes
    -----
    The words are those of HMAC_DRBG with SHA-512, whose entropy is both seeds in the order of the commitments, and
    whose personalization is the agreement: neither party can bring about other words than these, and without both
    seeds they cannot be told from random ones.

    Examples
    --------
    >>> ours, theirs = NoiseSeed.new(), NoiseSeed.new()
    >>> agreement = NoiseAgreement((ours.commitment, theirs.commitment), certificate="0" * 64, release=2)
    >>> agreement.noise(ours, theirs).words()(4).tolist() == agreement.noise(theirs, ours).words()(4).tolist()
    True
    """

    def __init__(self, agreement: NoiseAgreement, seeds: Sequence[NoiseSeed]) -> None:
        if not isinstance(agreement, NoiseAgreement):
            raise TypeError(f"agreement must be a NoiseAgreement, got {type(agreement).__name__}")
        by_commitment = {seed.commitment: seed for seed in seeds}
        missing = [one for one in agreement.commitments if one not in by_commitment]
        if missing or len(by_commitment) != 2:
            raise ValueError(
                "seeds must be the two that were committed to: "
                + (f"none has the commitment {missing[0][:16]}..." if missing else f"got {len(by_commitment)}")
            )
        self.agreement = agreement
        first, second = agreement.commitments
        self.seeds = (by_commitment[first], by_commitment[second])
        self._taken = False

    def take(self) -> Callable[[int], Words]:
        """Return the words for a release, once: the same noise on two models would show how they differ.

        Raises
        ------
        RuntimeError
            If they were taken before.
        """
        if self._taken:
            raise RuntimeError("agreed noise is for one release, and was used for one: agree on new seeds")
        self._taken = True
        return self.words()

    def words(self) -> Callable[[int], Words]:
        """Return a function that returns the next so many words of 32 bits from the first on, to verify a release."""
        text = json.dumps(self.agreement.to_dict(), sort_keys=True, separators=(",", ":"))
        entropy = b"".join(seed.value for seed in self.seeds)
        source, ready = HmacDrbg(entropy, _AGREEMENT_TAG + text.encode("ascii")), bytearray()

        def more(n: int) -> Words:
            while len(ready) < 4 * n:
                ready.extend(source.generate(MOST_BYTES))  # whole requests: the words are the same in any portions
            taken = bytes(ready[: 4 * n])
            del ready[: 4 * n]
            return np.frombuffer(taken, dtype="<u4").astype(np.uint32)

        return more

    def __repr__(self) -> str:
        return f"<AgreedNoise for release {self.agreement.release}>"


def _read(path: str | os.PathLike[str], form: str, names: Sequence[str], *, what: str) -> dict[str, Any]:
    values = parse_json(read_text(path, what=what), what=what)
    if not isinstance(values, dict) or values.get("format") != form:
        raise FileFormatError(f"path: {path} is no {what}")
    if values.get("version") != _VERSION or set(values) != {"format", "version", *names}:
        raise FileFormatError(f"path: the {what} at {path} is of another version, or damaged")
    return values
