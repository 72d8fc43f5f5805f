"""The certificate: a claim about a deletion, the inputs to recompute it, and the digests that tie it to the data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import ArrayLike

from expunge import _validate
from expunge._files import FileFormatError, parse_json, read_text, write_atomic
from expunge._version import __version__
from expunge._wording import counted
from expunge.certificates import report, verification
from expunge.certificates.constants import Sources
from expunge.certificates.digest import features_digest, model_digest, record_digest, targets_digest
from expunge.certificates.model import coefficients_of
from expunge.certificates.policy import Policy
from expunge.certificates.report import Standing, VerificationReport
from expunge.certificates.run import RidgeRun
from expunge.certificates.schema import VERSIONS, CertificateError, VerificationError, certificate_schema, check
from expunge.certificates.work import DEFAULT_BUDGET, stages

__all__ = ["Certificate", "Digests", "Signature"]

_SCHEMAS = {version: certificate_schema(version=version) for version in VERSIONS}
_SCHEMA = _SCHEMAS[VERSIONS[-1]]
_FORMAT = _SCHEMA["properties"]["format"]["const"]
_KIND = _SCHEMA["properties"]["kind"]["const"]
_REFERENCE = _SCHEMA["properties"]["claim"]["properties"]["reference"]["const"]
_CANNOT_SHOW = _SCHEMA["properties"]["cannot_show"]["const"]
_CONFIDENTIALITY = _SCHEMA["properties"]["confidentiality"]["const"]
# Far more than any run needs that can be verified; nothing larger is read.
MAX_BYTES = 2**24
_SIGNATURE_TAG = b"expunge-certificate-signature-v1\0"
_DIGEST_TAG = b"expunge-certificate-digest-v1\0"


@dataclass(frozen=True)
class Digests:
    """SHA-256 digests, as hexadecimal text, of the first fit's data, the deleted records and the released model."""

    X: str
    y: str
    record: str
    model: str


@dataclass(frozen=True)
class Signature:
    """An Ed25519 signature and the public key that checks it, as hexadecimal text."""

    public_key: str
    value: str
    algorithm: str = "Ed25519"


@dataclass(frozen=True, repr=False)
class Certificate:
    """A claim that records were deleted from a ridge run, and all that is needed to recompute it.

    P is the law of the released parameters, Q that of the same run on data that never held the deleted rows. The claim
    is P(S) <= e^epsilon Q(S) + delta and Q(S) <= e^epsilon P(S) + delta for every S. It is confidential: the noise
    depends on the deleted record, and so does this record. Make one with `create`, read one with `load`.

    Attributes
    ----------
    epsilon, delta : float
        The claim.
    delta_pq, delta_qp : float
        delta(P|Q) and delta(Q|P) as computed at ``epsilon``; neither exceeds ``delta``.
    delta_s : float or None
        Failure probability of the residual bounds, for the methods "shifted" and "uniform".
    neighbouring_relation : str
        ``"REMOVE_ONE"`` or ``"REMOVE_GROUP"``.
    method : str
        ``"exact"``, ``"shifted"`` or ``"uniform"``.
    status : str
        ``"certified"``, ``"conditional"`` (it rests on ``conditions``) or ``"estimate"`` (no certificate). That of a
        version 1 certificate is as it was issued; `standing` says what it is worth.
    conditions : tuple of str
        What a conditional certificate rests on: among them every constant of the run that was taken from the data.
    notes : tuple of str
        What a reader must know besides.
    run : RidgeRun
        The inputs of the run.
    digests : Digests
        Of X, y, the deleted records (salted) and the released parameters.
    salt : str
        64 hexadecimal characters; without it the record's digest cannot be guessed.
    library_version, issued_at : str
        Who issued it, and when (UTC, ISO 8601).
    signature : Signature or None
        Over the canonical JSON of everything else.
    version : int
        Version of the format: 2, or 1 for a certificate issued before constants had sources.

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
    run: RidgeRun
    digests: Digests
    salt: str
    library_version: str
    issued_at: str
    signature: Signature | None = None
    notes: tuple[str, ...] = ()
    version: int = VERSIONS[-1]

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta", "delta_pq", "delta_qp", "delta_s"):
            value = getattr(self, name)
            if isinstance(value, (int, np.integer, np.floating)) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))  # one JSON text for one number
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "notes", tuple(self.notes))
        _check_format(self.to_dict())
        if self.version == 1 and (self.notes or self.run.sources not in (Sources(), Sources(classes="none"))):
            raise CertificateError("version", "must be 2 for a certificate with notes or sources, got 1")

    @property
    def kind(self) -> str:
        """What kind of run is certified: ``"ridge"``."""
        return str(_KIND)

    @property
    def direction(self) -> str:
        """Which of the two computed deltas is the larger, and binds: ``"P|Q"`` or ``"Q|P"``."""
        return report.binding(self.delta_pq, self.delta_qp)

    def standing(self) -> Standing:
        """Return status, conditions and notes as they have to be read now.

        Those of the certificate itself, but for version 1: it does not say where its constants come from, so that it is
        conditional whatever it says.
        """
        return report.standing(self)

    # --- making one ----------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        *,
        X: ArrayLike,
        y: ArrayLike,
        model: object,
        run: RidgeRun,
        epsilon: float,
        delta: float,
        method: str = "exact",
        delta_s: float | None = None,
        status: str | None = None,
        conditions: Sequence[str] = (),
    ) -> Certificate:
        """Return a certificate whose claim has been computed from the data, or refuse.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features of the first fit, deleted rows included.
        y : array-like of shape (n_records,) or (n_records, n_outputs)
            Targets or labels of the first fit.
        model : fitted estimator or array-like of shape (n_columns, n_outputs)
            What is released: an estimator with ``coef_`` and ``intercept_``, or its parameters in the layout of
            `expunge.certificates.model_digest`.
        run : RidgeRun
            Inputs of the run.
        epsilon, delta : float
            What is claimed.
        method : {"exact", "shifted", "uniform"}, default="exact"
            How the deltas are computed.
        delta_s : float, optional
            For the methods "shifted" and "uniform", in (0, delta); ``delta / 10`` if not given.
        status : {"certified", "conditional", "estimate"}, optional
            "certified" has no conditions, "conditional" at least one; if not given, whichever fits.
        conditions : sequence of str
            What the claim rests on, besides the constants that ``run.sources`` says were taken from the data: those
            are always added.

        Returns
        -------
        Certificate
            Unsigned. Its claim has passed the checks of `verify`.

        Raises
        ------
        VerificationError
            If an assumption fails, a computed delta exceeds the claimed one (by more than a relative 1e-9), or the
            model cannot have come from the run (``field == "model"``, see `verify`).
        TypeError, ValueError
            If an argument is of the wrong kind or out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge.certificates import Certificate, Phase, RidgeRun, Sources
        >>> phases = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
        >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
        ...                n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,),
        ...                sources=Sources(step_size="given", noise_std="given", classes="none"))
        >>> certificate = Certificate.create(X=np.eye(3), y=np.ones(3), model=np.zeros((3, 1)), run=run,
        ...                                  epsilon=1.0, delta=1e-3)
        >>> certificate.verify(np.eye(3), np.ones(3)).certified
        True
        """
        rows = list(run.deleted)
        salt = secrets.token_bytes(32)
        features, targets = features_digest(X), targets_digest(y)
        if np.shape(y)[:1] != np.shape(X)[:1]:
            raise VerificationError("run.n_records", f"X has shape {np.shape(X)} but y {np.shape(y)}: one row for each")
        parameters = coefficients_of(
            model, fit_intercept=run.fit_intercept, n_features=run.n_features, n_outputs=run.n_outputs
        )
        matrix = _validate.plain_array("X", X)
        if rows and not 0 <= min(rows) <= max(rows) < len(matrix):
            raise VerificationError("run.deleted", f"must be within [0, {len(matrix)}), got {run.deleted!r}")
        record = record_digest(matrix[rows], np.asarray(y)[rows], salt=salt)
        rests_on = (*run.sources.conditions(), *(c for c in conditions if c not in run.sources.conditions()))
        draft = cls(
            epsilon=epsilon,
            delta=delta,
            delta_pq=0.0,
            delta_qp=0.0,
            delta_s=delta / 10 if delta_s is None and method != "exact" else delta_s,
            neighbouring_relation="REMOVE_ONE" if len(rows) == 1 else "REMOVE_GROUP",
            method=method,
            status=("conditional" if rests_on else "certified") if status is None else status,
            conditions=rests_on,
            notes=run.sources.notes(),
            run=run,
            digests=Digests(X=features, y=targets, record=record, model=model_digest(parameters)),
            salt=salt.hex(),
            library_version=__version__,
            issued_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        verification.check_status(draft, allow_estimate=True)
        with stages(run, method=method) as begin:
            found = verification.recomputed(draft, X, y, begin=begin)
            result = replace(draft, delta_pq=found.deltas.pq, delta_qp=found.deltas.qp)
            begin("model")
            verification.check_model(result, model)
            verification.plausible(result, found, model)
        return result

    # --- JSON ----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
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
                "reference": _REFERENCE,
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
            "signature": None
            if signature is None
            else {"algorithm": signature.algorithm, "public_key": signature.public_key, "value": signature.value},
        }
        if self.version == 1:  # to the byte what was issued and signed then
            del values["kind"], values["notes"], values["claim"]["direction"], values["run"]["sources"]
        return values

    def canonical_json(self) -> bytes:
        """Return what is signed: compact ASCII JSON with sorted keys of everything but the signature."""
        values = self.to_dict()
        del values["signature"]
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")

    def digest(self) -> str:
        """Return the SHA-256 digest of the canonical JSON; signing does not change it."""
        return hashlib.sha256(_DIGEST_TAG + self.canonical_json()).hexdigest()

    def to_json(self) -> str:
        """Return the certificate as JSON text, indented for a reader; equal certificates give equal texts."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Return the certificate of a JSON text, which must keep the schema to the letter.

        Raises
        ------
        CertificateError
            Naming the field that is missing, unknown, of the wrong kind or out of range; ``"json"`` for a text that
            is truncated or no JSON. An unknown version is refused as ``"version"``.

        Examples
        --------
        >>> Certificate.from_json('{"format": "expunge-certificate", "version": 3}')
        Traceback (most recent call last):
        ...
        expunge.certificates.schema.CertificateError: version: must be 1 or 2, the versions this library reads, got 3
        """
        if len(text) > MAX_BYTES:
            raise CertificateError("json", f"must have at most {MAX_BYTES} characters, got {len(text)}")
        try:
            values = parse_json(text, what="certificate", allow_nan=True)
        except FileFormatError as error:
            raise CertificateError("json", str(error)) from None
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
            run=_run_of(values["run"]),
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

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the certificate as JSON, whole or not at all, readable by its owner only (it is confidential).

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is False.
        """
        write_atomic(path, self.to_json().encode("ascii"), overwrite=overwrite, mode=0o600)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Return the certificate of a file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CertificateError
            As `from_json`; ``"json"`` also for a file that is empty, not text, or larger than 16 MiB.
        """
        try:
            with contextlib.suppress(FileNotFoundError):  # said better by read_text
                if os.stat(path).st_size > MAX_BYTES:
                    raise CertificateError("json", f"path: the file at {path} must have at most {MAX_BYTES} bytes")
            text = read_text(path, what="certificate")
        except FileFormatError as error:
            raise CertificateError("json", str(error)) from None
        return cls.from_json(text)

    # --- signing -------------------------------------------------------------------------------

    def sign(self, private_key: Ed25519PrivateKey) -> Certificate:
        """Return a copy signed with ``private_key``; a signature it had is replaced.

        Raises
        ------
        TypeError
            If the key is not an Ed25519 private key.
        """
        if not isinstance(private_key, Ed25519PrivateKey):
            raise TypeError(f"private_key must be an Ed25519PrivateKey, got {type(private_key).__name__}")
        value = private_key.sign(_SIGNATURE_TAG + self.canonical_json())
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
            raise VerificationError("signature", "must be there, to be checked with the public key; got none")
        needed = public_key.public_bytes_raw().hex()
        if self.signature.public_key != needed:
            raise VerificationError("signature", f"must be by key {needed}, got one by {self.signature.public_key}")
        self._check_own_signature()

    def _check_own_signature(self) -> None:
        if self.signature is None:
            return
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signature.public_key))
            key.verify(bytes.fromhex(self.signature.value), _SIGNATURE_TAG + self.canonical_json())
        except (InvalidSignature, ValueError):
            raise VerificationError(
                "signature", "must cover this certificate; got one that does not: something was changed after signing"
            ) from None

    # --- verifying -----------------------------------------------------------------------------

    def verify(
        self,
        X: ArrayLike,
        y: ArrayLike,
        model: object = None,
        *,
        public_key: Ed25519PublicKey | None = None,
        policy: Policy | None = None,
        budget: float = DEFAULT_BUDGET,
    ) -> VerificationReport:
        """Recompute the claim from the data and check everything else that can be checked.

        The recomputed deltas decide, not the recorded ones. Without a signature, fields that nothing can be recomputed
        from (status, conditions, time, version) and changes that only weaken the claim stay undetected; with one, no
        change does.

        Parameters
        ----------
        X, y : array-like
            As given to the first fit, deleted rows included, in the same order.
        model : fitted estimator or array-like, optional
            The released model - with ``coef_`` and ``intercept_``, or its parameters in the layout of
            `expunge.certificates.model_digest` - to be compared with the certificate, and with P, the law of what the
            run releases: below a two-sided p-value of 1e-12 it cannot have come from the run and is refused.
        public_key : Ed25519PublicKey, optional
            Whose signature is required. Without it a signature, if there is one, is checked against the key it brings
            along, which shows that nothing was changed since but not who signed.
        policy : Policy, optional
            What the certificate must be to be accepted; without one every true claim is.
        budget : float, default=1e12
            Most work to do, in estimated floating-point operations (about a minute of one core); more is refused, as
            ``field == "budget"``, before any is done.

        Returns
        -------
        VerificationReport
            With the recomputed deltas; ``certified`` is True only for status "certified".

        Raises
        ------
        VerificationError
            With ``field`` naming what refutes the certificate.
        """
        return verification.verify(self, X, y, model, public_key=public_key, policy=policy, budget=budget)

    def summary(self) -> str:
        """Return a few lines for a person."""
        rows = ", ".join(map(str, self.run.deleted[:8])) + (", ..." if len(self.run.deleted) > 8 else "")
        gone = len(self.run.deleted)
        kind = "row" if gone == 1 else "rows"
        last = self.run.phases[-1]
        now = self.standing()
        lines = [
            f"{now.status}: {gone:,} of {counted(self.run.n_records, 'record')} deleted ({kind} {rows})",
            f"  claim    epsilon = {self.epsilon:g}, delta = {self.delta:g}, {self.neighbouring_relation}",
            f"  computed delta(P|Q) = {report.shown(self.delta_pq)}, delta(Q|P) = {report.shown(self.delta_qp)} "
            f"({self.direction} binds), method {self.method}",
            f"  run      {self.run.estimator}, {len(self.run.phases)} phases; last: {last.n_steps} steps with "
            f"noise_std = {last.noise_std:g}",
            *(f"  {label}  {condition}" for label, condition in report.reading(now)),
            f"  issued   {self.issued_at} by expunge {self.library_version}, "
            + ("unsigned" if self.signature is None else f"signed by {self.signature.public_key[:16]}..."),
            f"  {_CONFIDENTIALITY}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Certificate\n{self.summary()}>"


def _run_of(values: dict[str, Any]) -> RidgeRun:
    try:
        run = RidgeRun.from_dict(values)
    except ValueError as error:
        raise CertificateError("run.sources" if "sources" in str(error) else "run", str(error)) from None
    if values.get("sources", run.sources.to_dict()) != run.sources.to_dict():
        raise CertificateError("run.sources.classes", "must be 'none' for a run without classes")
    return run


def _check_format(values: Any) -> None:
    if isinstance(values, dict):
        if values.get("format") != _FORMAT:
            raise CertificateError("format", f"must be {_FORMAT!r}, got {values.get('format')!r}")
        version = values.get("version")
        if type(version) is not int or version not in VERSIONS:
            known = " or ".join(map(str, VERSIONS))
            raise CertificateError("version", f"must be {known}, the versions this library reads, got {version!r}")
    check(values, _SCHEMAS.get(values["version"], _SCHEMA) if isinstance(values, dict) else _SCHEMA)
    try:
        datetime.strptime(values["issued_at"], "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise CertificateError("issued_at", f"must be a time that exists, got {values['issued_at']!r}") from None
