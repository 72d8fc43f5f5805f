"""Signed JSON documents: canonical bytes, digest, file and Ed25519 signature, whatever the document is about."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from expunge._files import CONFIDENTIAL, FileFormatError, parse_json, read_text, write_atomic
from expunge._types import JsonObject
from expunge.certificates.schema import CertificateError, VerificationError

__all__ = ["MAX_BYTES", "Signature", "SignedDocument", "json_values", "text_of"]

Self = TypeVar("Self", bound="SignedDocument")

# Far more than any verifiable certificate needs; nothing larger is read.
MAX_BYTES = 2**24


@dataclass(frozen=True)
class Signature:
    """An Ed25519 signature and the public key that checks it, as hexadecimal text."""

    public_key: str
    value: str
    algorithm: str = "Ed25519"

    def to_dict(self) -> JsonObject:
        """Return the signature as JSON values."""
        return {"algorithm": self.algorithm, "public_key": self.public_key, "value": self.value}


def json_values(text: str) -> Any:
    """Return the values of a certificate's JSON text, which no schema has checked yet.

    Raises
    ------
    CertificateError
        With ``field == "json"``: too long, truncated or not JSON.
    """
    if len(text) > MAX_BYTES:
        raise CertificateError("json", f"must have at most {MAX_BYTES} characters, got {len(text)}")
    try:
        return parse_json(text, what="certificate", allow_nan=True)
    except FileFormatError as error:
        raise CertificateError("json", str(error)) from None


def text_of(path: str | os.PathLike[str]) -> str:
    """Return the text of a certificate's file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CertificateError
        With ``field == "json"``: empty, not text, or larger than 16 MiB.
    """
    try:
        with contextlib.suppress(FileNotFoundError):  # said better by read_text
            if os.stat(path).st_size > MAX_BYTES:
                raise CertificateError("json", f"path: the file at {path} must have at most {MAX_BYTES} bytes")
        return read_text(path, what="certificate")
    except FileFormatError as error:
        raise CertificateError("json", str(error)) from None


@dataclass(frozen=True, repr=False)
class SignedDocument:
    """A document of JSON values with a digest and, once signed, a signature over everything else.

    A subclass is a frozen dataclass that gives `to_dict` and `from_json`, and tags so that neither its signature nor
    its digest can stand for another document's.
    """

    _signature_tag: ClassVar[bytes]
    _digest_tag: ClassVar[bytes]
    _mode: ClassVar[int] = CONFIDENTIAL

    signature: Signature | None = field(default=None, kw_only=True)

    def to_dict(self) -> JsonObject:
        """Return the document as JSON values, in the order of its schema."""
        raise NotImplementedError

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Return the document in a JSON text."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Return the numbers of the claim by name, as trackers of experiments log them: ``mlflow.log_metrics(...)``."""
        claim = self.to_dict()["claim"]
        assert isinstance(claim, dict)  # of every certificate
        return {name: float(value) for name, value in claim.items() if isinstance(value, (int, float))}

    def canonical_json(self) -> bytes:
        """Return what is signed: compact ASCII JSON with sorted keys of everything but the signature."""
        values = self.to_dict()
        del values["signature"]
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")

    def digest(self) -> str:
        """Return the SHA-256 digest of the canonical JSON; signing does not change it."""
        return hashlib.sha256(self._digest_tag + self.canonical_json()).hexdigest()

    def to_json(self) -> str:
        """Return the certificate as JSON text, indented for a reader; equal certificates give equal texts."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the certificate as JSON, whole or not at all; a confidential one is readable by its owner only.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is False.
        """
        write_atomic(path, self.to_json().encode("ascii"), overwrite=overwrite, mode=self._mode)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Return the certificate in a file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CertificateError
            As `from_json`; ``"json"`` also for a file that is empty, not text, or larger than 16 MiB.
        """
        return cls.from_json(text_of(path))

    def sign(self: Self, private_key: Ed25519PrivateKey) -> Self:
        """Return a copy signed with ``private_key``; an existing signature is replaced.

        Raises
        ------
        TypeError
            If the key is not an Ed25519 private key.
        """
        if not isinstance(private_key, Ed25519PrivateKey):
            raise TypeError(f"private_key must be an Ed25519PrivateKey, got {type(private_key).__name__}")
        value = private_key.sign(self._signature_tag + self.canonical_json())
        public_key = private_key.public_key().public_bytes_raw()
        return replace(self, signature=Signature(public_key=public_key.hex(), value=value.hex()))

    def verify_signature(self, public_key: Ed25519PublicKey) -> None:
        """Check that the holder of ``public_key``'s private half signed exactly this certificate.

        Raises
        ------
        VerificationError
            With ``field == "signature"``: unsigned, signed by another key, or changed since.
        TypeError
            If the key is not an Ed25519 public key.
        """
        if not isinstance(public_key, Ed25519PublicKey):
            raise TypeError(f"public_key must be an Ed25519PublicKey, got {type(public_key).__name__}")
        if self.signature is None:
            raise VerificationError("signature", "must be present to be checked with the public key, got none")
        needed = public_key.public_bytes_raw().hex()
        if self.signature.public_key != needed:
            raise VerificationError("signature", f"must be by key {needed}, got one by {self.signature.public_key}")
        self._check_own_signature()

    def _check_own_signature(self) -> None:
        if self.signature is None:
            return
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signature.public_key))
            key.verify(bytes.fromhex(self.signature.value), self._signature_tag + self.canonical_json())
        except (InvalidSignature, ValueError):
            raise VerificationError(
                "signature", "must cover this certificate; got one that does not: something was changed after signing"
            ) from None
