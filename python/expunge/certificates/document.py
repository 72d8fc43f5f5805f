"""The certificate as a document: a claim, the run it is about and digests of the data, read and written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from expunge._errors import counted
from expunge._types import JsonObject
from expunge.certificates import report
from expunge.certificates.report import Standing
from expunge.certificates.schema import VERSIONS, CertificateError, certificate_schema, check, check_one_line
from expunge.certificates.signed import MAX_BYTES, Signature, SignedDocument, json_values
from expunge.data.constants import UNKNOWN_SOURCES
from expunge.runs.base import Run, RunError
from expunge.runs.registry import FIRST_KIND, run_class

__all__ = ["MAX_BYTES", "Digests", "Document", "Signature", "check_kind"]

Self = TypeVar("Self", bound="Document")

_FIXED: Any = certificate_schema()["properties"]
_FORMAT = _FIXED["format"]["const"]
_CANNOT_SHOW = _FIXED["cannot_show"]["const"]
_CONFIDENTIALITY = _FIXED["confidentiality"]["const"]


@dataclass(frozen=True)
class Digests:
    """SHA-256 digests, as hexadecimal text, of the first fit's data, the deleted records and the released model."""

    X: str
    y: str
    record: str
    model: str


@dataclass(frozen=True, repr=False)
class Document(SignedDocument):
    """Fields of a certificate, their JSON, digest and signature; `expunge.certificates.Certificate` describes them.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format; NaN and infinity always do.
    """

    epsilon: float
    delta: float
    delta_pq: float
    delta_qp: float
    delta_s: float | None
    neighbouring_relation: str
    method: str
    status: str
    conditions: tuple[str, ...]
    run: Run[Any]
    digests: Digests
    salt: str
    library_version: str
    issued_at: str
    notes: tuple[str, ...] = ()
    version: int = VERSIONS[-1]

    _signature_tag = b"expunge-certificate-signature-v1\0"
    _digest_tag = b"expunge-certificate-digest-v1\0"

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta", "delta_pq", "delta_qp", "delta_s"):
            value = getattr(self, name)
            if isinstance(value, (int, np.integer, np.floating)) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))  # one JSON text for one number
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "notes", tuple(self.notes))
        check_kind(self.run)
        if self.version == 1 and self.kind != FIRST_KIND:
            raise CertificateError("version", f"must be 2 for a run of kind {self.kind!r}, got 1")
        values: dict[str, Any] = self.to_dict()
        _check_format(values)
        if self.version == 1 and (self.notes or type(self.run).from_dict(values["run"]) != self.run):
            raise CertificateError("version", "must be 2 for a certificate with notes or sources, got 1")

    @property
    def kind(self) -> str:
        """Kind of the certified run: ``"ridge"``, or another of `expunge.runs`."""
        return self.run.kind

    @property
    def direction(self) -> str:
        """Direction of the larger of the two computed deltas, which binds: ``"P|Q"`` or ``"Q|P"``."""
        return report.binding(self.delta_pq, self.delta_qp)

    def standing(self) -> Standing:
        """Return status, conditions and notes as they must be read now.

        The certificate's own, except for version 1: that does not say where its constants come from, so it is
        conditional whatever its status says.
        """
        if self.version > 1:
            return Standing(self.status, self.conditions, self.notes)
        status = "conditional" if self.status == "certified" else self.status
        return Standing(status, (*self.conditions, UNKNOWN_SOURCES), self.notes)

    # --- JSON ----------------------------------------------------------------------------------

    def to_dict(self) -> JsonObject:
        """Return the certificate as JSON values, in the order of the schema."""
        signature = self.signature
        values: dict[str, Any] = {
            "format": _FORMAT,
            "version": self.version,
            "kind": self.kind,
            "claim": {
                "epsilon": self.epsilon,
                "delta": self.delta,
                "delta_pq": self.delta_pq,
                "delta_qp": self.delta_qp,
                "direction": self.direction,
                "delta_s": self.delta_s,
                "neighbouring_relation": self.neighbouring_relation,
                "reference": self.run.reference,
            },
            "method": self.method,
            "status": self.status,
            "conditions": list(self.conditions),
            "notes": list(self.notes),
            "run": self.run.to_dict(),
            "digests": {
                "X": self.digests.X,
                "y": self.digests.y,
                "record": self.digests.record,
                "model": self.digests.model,
            },
            "salt": self.salt,
            "cannot_show": list(_CANNOT_SHOW),
            "confidentiality": _CONFIDENTIALITY,
            "library_version": self.library_version,
            "issued_at": self.issued_at,
            "signature": None if signature is None else signature.to_dict(),
        }
        if self.version == 1:  # byte for byte what was issued and signed then
            return _only(values, _schema(1, type(self.run)))
        return values

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Return the certificate in a JSON text, which must follow the schema to the letter.

        Raises
        ------
        CertificateError
            Naming the field that is missing, unknown, of the wrong kind or out of range; ``"json"`` for a text that
            is truncated or not JSON. An unknown version is refused as ``"version"``, an unknown kind of run as
            ``"kind"``.

        Examples
        --------
        >>> from expunge.certificates import Certificate
        >>> Certificate.from_json('{"format": "expunge-certificate", "version": 3}')
        Traceback (most recent call last):
        ...
        expunge.certificates.schema.CertificateError: version: must be 1 or 2, the versions this library reads, got 3
        """
        values = json_values(text)
        _check_format(values)
        claim, signature = values["claim"], values["signature"]
        result = cls(
            epsilon=claim["epsilon"],
            delta=claim["delta"],
            delta_pq=claim["delta_pq"],
            delta_qp=claim["delta_qp"],
            delta_s=claim["delta_s"],
            neighbouring_relation=claim["neighbouring_relation"],
            method=values["method"],
            status=values["status"],
            conditions=tuple(values["conditions"]),
            run=_run_of(values),
            digests=Digests(**values["digests"]),
            salt=values["salt"],
            library_version=values["library_version"],
            issued_at=values["issued_at"],
            signature=None if signature is None else Signature(**signature),
            notes=tuple(values.get("notes", ())),
            version=values["version"],
        )
        if claim.get("direction", result.direction) != result.direction:
            raise CertificateError(
                "claim.direction", f"must be {result.direction!r}, as the deltas say, got {claim['direction']!r}"
            )
        return result

    # --- reading -------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return a few lines for a person."""
        rows = ", ".join(map(str, self.run.deleted[:8])) + (", ..." if len(self.run.deleted) > 8 else "")
        gone = len(self.run.deleted)
        kind = "row" if gone == 1 else "rows"
        now = self.standing()
        lines = [
            f"{now.status}: {gone:,} of {counted(self.run.n_records, 'record')} deleted ({kind} {rows})",
            f"  claim    epsilon = {self.epsilon:g}, delta = {self.delta:g}, {self.neighbouring_relation}",
            f"  computed delta(P|Q) = {report.shown(self.delta_pq)}, delta(Q|P) = {report.shown(self.delta_qp)} "
            f"({self.direction} binds), method {self.method}",
            f"  run      {self.run.summary()}",
            *(f"  {label}  {condition}" for label, condition in report.reading(now)),
            f"  issued   {self.issued_at} by expunge {self.library_version}, "
            + ("unsigned" if self.signature is None else f"signed by {self.signature.public_key[:16]}..."),
            f"  {_CONFIDENTIALITY}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Certificate\n{self.summary()}>"


def _run_of(values: dict[str, Any]) -> Run[Any]:
    try:
        return run_class(values.get("kind", FIRST_KIND)).from_dict(values["run"])
    except RunError as error:
        raise CertificateError(error.field, error.message) from None


def check_kind(run: Any) -> None:
    """Refuse anything but a run of a registered kind.

    Raises
    ------
    TypeError
        If it does not follow the protocol, or is not of the class registered for its kind.
    CertificateError
        If its kind is not registered.
    """
    kind = getattr(run, "kind", None)
    if not isinstance(kind, str):
        raise TypeError(f"run must follow the protocol expunge.runs.Run, got {type(run).__name__}")
    if not isinstance(run, _known(kind)):
        raise TypeError(f"run must be of the class registered for {kind!r}, got {type(run).__name__}")


def _known(kind: str) -> type[Run[Any]]:
    try:
        return run_class(kind)
    except ValueError as error:
        raise CertificateError("kind", str(error)) from None


@lru_cache(maxsize=64)
def _schema(version: int, run: type[Run[Any]]) -> dict[str, Any]:
    return certificate_schema(version=version, kind=run.kind)


def _only(values: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a schema allows, inside objects too."""
    known = schema.get("properties", {})
    return {
        name: _only(value, known[name]) if isinstance(value, dict) else value
        for name, value in values.items()
        if name in known
    }


def _check_format(values: Any) -> None:
    version, kind = VERSIONS[-1], FIRST_KIND
    if isinstance(values, dict):
        if values.get("format") != _FORMAT:
            raise CertificateError("format", f"must be {_FORMAT!r}, got {values.get('format')!r}")
        version = values.get("version", 0)
        if type(version) is not int or version not in VERSIONS:
            known = " or ".join(map(str, VERSIONS))
            raise CertificateError(
                "version", f"must be {known}, the versions this library reads, got {values.get('version')!r}"
            )
        if version > 1 and isinstance(values.get("kind"), str):
            kind = values["kind"]
    check(values, _schema(version, _known(kind)))
    check_one_line(values, "conditions", "library_version", *(("notes",) if version > 1 else ()))
    try:
        datetime.strptime(values["issued_at"], "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise CertificateError("issued_at", f"must be a valid time, got {values['issued_at']!r}") from None
