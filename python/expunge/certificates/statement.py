"""Statements that a certificate's claim was proved, kept beside it: who made one says what a proof enclosed.

A document of its own that names the certificate's digest, and no field of the certificate: a signature covers all of a
certificate, which would break with every proof that is added, or would have to leave the proof out; readers of the
format refuse fields that they do not know; and enclosures of gradients are confidential where a certificate is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from expunge._types import JsonObject
from expunge._version import __version__
from expunge.certificates.schema import CertificateError, VerificationError, check, check_one_line
from expunge.certificates.signed import Signature, SignedDocument, json_values
from expunge.runs.enclosures import Enclosure, Proof
from expunge.runs.registry import FIRST_KIND, run_class

__all__ = ["ProofStatement", "StatedEnclosure"]

Self = TypeVar("Self", bound="ProofStatement")

MEANING = (
    "Whoever made this says that the claim of the certificate with this digest, under its conditions, was proved from "
    "the data in ball arithmetic, and that the numbers lie between these ends. It proves nothing by itself, signed or "
    "not: verifying the certificate with a proof computes the enclosures anew and holds these against them."
)
CONFIDENTIALITY = "Confidential: enclosures depend on deleted records more finely than the claim does."
_NUMBER = r"^(-?inf|-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,9})?)$"
_ENDS: dict[str, Any] = {
    "lower": {"type": "string", "pattern": _NUMBER},
    "upper": {"type": "string", "pattern": _NUMBER},
}
_DELTAS = ("delta_pq", "delta_qp")
_RESIDUAL = "residual"  # the method of claims by residual, whose certificates name none


class StatedEnclosure(NamedTuple):
    """Ends between which a number is said to lie, as decimal text."""

    lower: str
    upper: str

    def meets(self, found: Enclosure) -> bool:
        """Return whether some number lies in both; two enclosures of one number always meet."""
        return Decimal(self.lower) <= Decimal(found.upper_text) and Decimal(found.lower_text) <= Decimal(self.upper)


class _Report(Protocol):
    """The part of a verification's report that a statement is made of."""

    @property
    def proof(self) -> Proof | None:
        """The proof, where one was asked for."""

    @property
    def certificate(self) -> str | None:
        """Digest of the certificate."""


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


@dataclass(frozen=True, repr=False)
class ProofStatement(SignedDocument):
    """A statement that the claim of a certificate was proved, with the enclosures; `of` makes one of a verification.

    It is worth what its maker is: nothing is proved again when it is read. Held against a certificate (``statement`` of
    `expunge.certificates.Certificate.verify` and `expunge.certificates.residual.verify`) it must be about that
    certificate and no other; with ``proof=True`` its enclosures must also meet those that are computed anew.

    Attributes
    ----------
    certificate : str
        Digest of the certificate, 64 hexadecimal characters.
    certificate_format : str
        ``"expunge-certificate"`` or ``"expunge-residual-certificate"``.
    epsilon, delta : float
        The claim that was proved.
    method : str
        Of the certificate; ``"residual"`` for one by residual.
    delta_pq, delta_qp : StatedEnclosure
        Both directions; neither upper end exceeds ``delta``.
    enclosures : mapping of str to StatedEnclosure
        What else was proved on the way.
    bits : int
        Working precision.
    libraries : mapping of str to str
        Versions of python-flint and FLINT.
    library_version, stated_at : str
        Version of expunge that made the statement, and when (UTC, ISO 8601).
    signature : Signature or None
        Of whoever states it, over the canonical JSON of everything else.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format, or says what no proof can have found.
    """

    certificate: str
    certificate_format: str
    epsilon: float
    delta: float
    method: str
    delta_pq: StatedEnclosure
    delta_qp: StatedEnclosure
    enclosures: Mapping[str, StatedEnclosure]
    bits: int
    libraries: Mapping[str, str]
    library_version: str
    stated_at: str

    format: ClassVar[str] = "expunge-proof-statement"
    _signature_tag = b"expunge-proof-statement-signature-v1\0"
    _digest_tag = b"expunge-proof-statement-digest-v1\0"

    def __post_init__(self) -> None:
        values: dict[str, Any] = self.to_dict()
        check(values, self.schema(), what="statement")
        check_one_line(values, "library_version", "libraries.python-flint", "libraries.FLINT")
        try:
            datetime.strptime(self.stated_at, "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            raise CertificateError("stated_at", f"must be a valid time, got {self.stated_at!r}") from None
        for name, one in self._all().items():
            if not Decimal(one.lower) <= Decimal(one.upper):
                raise CertificateError(f"proved.{name}", f"must have ends in order, got {one.lower} and {one.upper}")
        for name in _DELTAS:
            one = getattr(self, name)
            if not Decimal(one.lower) >= 0:
                raise CertificateError(f"proved.{name}.lower", f"must be >= 0, got {one.lower}")
            if not Decimal(one.upper) <= Decimal(self.delta):
                raise CertificateError(
                    f"proved.{name}.upper",
                    f"must be at most the delta that is claimed, {self.delta!r}, got {one.upper}",
                )
        if self.method == _RESIDUAL:
            self._check_gradient()

    def _check_gradient(self) -> None:
        """Refuse a statement by residual without a gradient within what is allowed of it."""
        size, allowed = (self.enclosures.get(name) for name in ("gradient", "gradient allowed"))
        if size is None or allowed is None:
            raise CertificateError("proved.enclosures", "must hold the gradient and what is allowed of it")
        if not Decimal(size.upper) <= Decimal(allowed.upper):
            raise CertificateError(
                "proved.gradient", f"must be at most the {allowed.upper} that the claim allows, got {size.upper}"
            )

    def _all(self) -> dict[str, StatedEnclosure]:
        return {**{name: getattr(self, name) for name in _DELTAS}, **self.enclosures}

    @classmethod
    def of(cls: type[Self], certificate: SignedDocument, report: _Report) -> Self:
        """Return the statement of what a verification has proved.

        Parameters
        ----------
        certificate : Certificate or ResidualCertificate
            The certificate that was verified.
        report : VerificationReport or ResidualReport
            Of its verification with ``proof=True``.

        Raises
        ------
        ValueError
            If the report holds no proof, or is about another certificate.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge.certificates import Certificate, Phase, ProofStatement, RidgeRun, Sources
        >>> phases = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
        >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
        ...                n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,),
        ...                sources=Sources(step_size="given", noise_std="given", classes="none"))
        >>> X, y = np.eye(3), np.ones(3)
        >>> certificate = Certificate.create(X=X, y=y, model=np.zeros((3, 1)), run=run, epsilon=1.0, delta=1e-3)
        >>> ProofStatement.of(certificate, certificate.verify(X, y))  # with proof=True it is a statement
        Traceback (most recent call last):
        ...
        ValueError: report must hold a proof that passed: verify with proof=True, got none
        """
        proof = report.proof
        if proof is None or not proof.proved:
            raise ValueError("report must hold a proof that passed: verify with proof=True, got none")
        if report.certificate != certificate.digest():
            raise ValueError(f"report must be about this certificate, {certificate.digest()}, got {report.certificate}")
        values: dict[str, Any] = certificate.to_dict()
        return cls(
            certificate=certificate.digest(),
            certificate_format=values["format"],
            epsilon=values["claim"]["epsilon"],
            delta=values["claim"]["delta"],
            method=values.get("method", _RESIDUAL),
            delta_pq=_stated(proof.delta_pq),
            delta_qp=_stated(proof.delta_qp),
            enclosures={name: _stated(one) for name, one in proof.enclosures.items()},
            bits=proof.bits,
            libraries=dict(proof.versions),
            library_version=__version__,
            stated_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def check(self, certificate: SignedDocument) -> None:
        """Check that the statement is about a certificate, and, where it is signed, unchanged since.

        Raises
        ------
        VerificationError
            With a ``field`` that begins with ``"statement"``.
        """
        digest = certificate.digest()
        if self.certificate != digest:
            raise VerificationError(
                "statement.certificate", f"must be the digest of this certificate, {digest}, got {self.certificate}"
            )
        values: dict[str, Any] = certificate.to_dict()
        claim = values["claim"]
        needed = (values["format"], claim["epsilon"], claim["delta"], values.get("method", _RESIDUAL))
        found = (self.certificate_format, self.epsilon, self.delta, self.method)
        if found != needed:
            raise VerificationError("statement.claim", f"must be the certificate's {needed}, got {found}")
        try:
            self._check_own_signature()
        except VerificationError as error:
            raise VerificationError("statement.signature", str(error).removeprefix("signature: ")) from None

    def compare(self, proof: Proof) -> None:
        """Hold the stated enclosures against those of a proof of the same claim, whatever its precision.

        Raises
        ------
        VerificationError
            Naming the number whose enclosures have nothing in common: one of the two is wrong.
        """
        found = {"delta_pq": proof.delta_pq, "delta_qp": proof.delta_qp, **proof.enclosures}
        stated = self._all()
        if set(stated) != set(found):
            raise VerificationError("statement.proved", f"must enclose {sorted(found)}, got {sorted(stated)}")
        for name, one in stated.items():
            if not one.meets(found[name]):
                raise VerificationError(
                    f"statement.{name}",
                    f"stated between {one.lower} and {one.upper}, proved anew between {found[name].lower_text} and "
                    f"{found[name].upper_text}: the statement is wrong",
                )

    # --- JSON ----------------------------------------------------------------------------------

    @classmethod
    def schema(cls) -> JsonObject:
        """Return the JSON schema (draft 2020-12) of `to_dict`, as a new dictionary."""
        hexes = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
        number = {"type": "number", "minimum": 0}
        named = {"name": {"type": "string", "pattern": "^[a-z ]{1,40}$"}, **_ENDS}
        signature = _object(
            {
                "algorithm": {"const": "Ed25519"},
                "public_key": hexes,
                "value": {"type": "string", "pattern": "^[0-9a-f]{128}$"},
            }
        )
        properties: dict[str, Any] = {
            "format": {"const": cls.format},
            "version": {"const": 1},
            "certificate": _object(
                {"format": {"enum": ["expunge-certificate", "expunge-residual-certificate"]}, "digest": hexes}
            ),
            "claim": _object(
                {
                    "epsilon": number,
                    "delta": {**number, "maximum": 1},
                    "method": {"enum": [*run_class(FIRST_KIND).methods, _RESIDUAL]},
                }
            ),
            "proved": _object(
                {
                    **{name: _object(dict(_ENDS)) for name in _DELTAS},
                    "enclosures": {"type": "array", "items": _object(named)},
                }
            ),
            "bits": {"type": "integer", "minimum": 1, "maximum": 2**20},
            "libraries": _object({name: {"type": "string", "minLength": 1} for name in ("python-flint", "FLINT")}),
            "meaning": {"const": MEANING},
            "confidentiality": {"const": CONFIDENTIALITY},
            "library_version": {"type": "string", "minLength": 1},
            "stated_at": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"},
            "signature": {**signature, "type": ["object", "null"]},
        }
        return _object(properties)

    def to_dict(self) -> JsonObject:
        """Return the statement as JSON values, in the order of the schema."""
        return {
            "format": self.format,
            "version": 1,
            "certificate": {"format": self.certificate_format, "digest": self.certificate},
            "claim": {"epsilon": self.epsilon, "delta": self.delta, "method": self.method},
            "proved": {
                "delta_pq": self.delta_pq._asdict(),
                "delta_qp": self.delta_qp._asdict(),
                "enclosures": [{"name": name, **one._asdict()} for name, one in self.enclosures.items()],
            },
            "bits": self.bits,
            "libraries": dict(self.libraries),
            "meaning": MEANING,
            "confidentiality": CONFIDENTIALITY,
            "library_version": self.library_version,
            "stated_at": self.stated_at,
            "signature": None if self.signature is None else self.signature.to_dict(),
        }

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Return the statement in a JSON text, which must follow the schema to the letter.

        Raises
        ------
        CertificateError
            Naming the field that is missing, unknown, of the wrong kind or out of range; ``"json"`` for a text that is
            truncated or not JSON.
        """
        values = json_values(text)
        if isinstance(values, dict) and values.get("format") != cls.format:
            raise CertificateError("format", f"must be {cls.format!r}, got {values.get('format')!r}")
        check(values, cls.schema(), what="statement")
        proved, names = values["proved"], [one["name"] for one in values["proved"]["enclosures"]]
        if len(set(names)) < len(names):
            raise CertificateError("proved.enclosures", f"must name every number once, got {names}")
        signature = values["signature"]
        return cls(
            certificate=values["certificate"]["digest"],
            certificate_format=values["certificate"]["format"],
            **{name: values["claim"][name] for name in ("epsilon", "delta", "method")},
            delta_pq=StatedEnclosure(**proved["delta_pq"]),
            delta_qp=StatedEnclosure(**proved["delta_qp"]),
            enclosures={one["name"]: StatedEnclosure(one["lower"], one["upper"]) for one in proved["enclosures"]},
            **{name: values[name] for name in ("bits", "libraries", "library_version", "stated_at")},
            signature=None if signature is None else Signature(**signature),
        )

    # --- reading -------------------------------------------------------------------------------

    @property
    def by(self) -> str:
        """Who states it, as far as the statement says."""
        return "unsigned" if self.signature is None else f"signed by {self.signature.public_key[:16]}..."

    def summary(self) -> str:
        """Return a few lines for a person."""
        lines = [
            f"statement about certificate {self.certificate}",
            f"  says     its claim (epsilon = {self.epsilon:g}, delta = {self.delta:g}, {self.method}) was proved in "
            f"ball arithmetic, {self.bits} bits",
            *(f"  {name:8s} between {one.lower} and {one.upper}" for name, one in self._all().items()),
            f"  made     {self.stated_at} by expunge {self.library_version}, {self.by}; "
            + ", ".join(f"{name} {version}" for name, version in self.libraries.items()),
            f"  {MEANING}",
            f"  {CONFIDENTIALITY}",
        ]
        return "\n".join(lines)

    def line(self, proof: Proof | None) -> str:
        """Return a line for the report of a verification, with or without a proof that it has been held against."""
        said = f"{self.bits} bits, {self.stated_at}, {self.by}"
        if proof is None:
            return f"said to be proved in ball arithmetic, not proved here ({said})"
        return f"agrees with the statement that it was proved before ({said})"

    def __repr__(self) -> str:
        return f"<ProofStatement\n{self.summary()}>"


def _stated(one: Enclosure) -> StatedEnclosure:
    return StatedEnclosure(one.lower_text, one.upper_text)
