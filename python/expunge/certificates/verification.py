"""Checking a certificate: digests, assumptions, the claim recomputed from the data, the model and the signature."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.certificates.constants import CONDITIONS, UNKNOWN_SOURCES
from expunge.certificates.digest import features_digest, model_digest, record_digest, targets_digest
from expunge.certificates.run import Deltas, check_classes, check_run, design_of, lost_classes, recompute, targets_of
from expunge.certificates.schema import CertificateError, VerificationError, certificate_schema, check

if TYPE_CHECKING:
    from expunge.certificates.certificate import Certificate

__all__ = ["VerificationReport", "check_model", "check_status", "coefficients_of", "recomputed", "verify"]

# Slack of the comparison "recomputed <= claimed", for rounding between machines.
CLAIM_SLACK = 1e-9
# Recorded and recomputed deltas agree to this; this far below the claim they need not (tails are steep, or end).
AGREEMENT = 1e-6
FAR_BELOW = 1e-12


class Standing(NamedTuple):
    """Status, conditions and notes of a certificate as they have to be read now."""

    status: str
    conditions: tuple[str, ...]
    notes: tuple[str, ...]


def standing(certificate: Certificate) -> Standing:
    """Return how a certificate has to be read now; version 1 never says where its constants come from."""
    c = certificate
    if c.version > 1:
        return Standing(c.status, c.conditions, c.notes)
    return Standing("conditional" if c.status == "certified" else c.status, (*c.conditions, UNKNOWN_SOURCES), c.notes)


def reading(now: Standing) -> list[tuple[str, str]]:
    """Return every condition and note with the word it is introduced by, for a summary."""
    return [("but    ", text) for text in now.conditions] + [("note   ", text) for text in now.notes]


def binding(delta_pq: float, delta_qp: float) -> str:
    """Return the direction whose delta is the larger."""
    return "Q|P" if delta_qp > delta_pq else "P|Q"


@dataclass(frozen=True)
class VerificationReport:
    """What a verification has shown.

    Attributes
    ----------
    epsilon, delta : float
        The claim that holds.
    delta_pq, delta_qp : float
        Recomputed from the data.
    method, status : str
        As in the certificate; a version 1 certificate is ``"conditional"`` at best.
    conditions : tuple of str
        What a conditional certificate rests on, every constant taken from the data by name.
    model_checked : bool
        Whether a model was compared with the certificate.
    signature : str
        ``"none"``, ``"unknown key"`` (nothing was changed since somebody signed) or ``"trusted key"``.
    notes : tuple of str
        What a reader must know besides the conditions.
    """

    epsilon: float
    delta: float
    delta_pq: float
    delta_qp: float
    method: str
    status: str
    conditions: tuple[str, ...]
    model_checked: bool
    signature: str
    notes: tuple[str, ...] = ()

    @property
    def certified(self) -> bool:
        """True if the claim holds without conditions."""
        return self.status == "certified"

    @property
    def direction(self) -> str:
        """Which of the two recomputed deltas is the larger, and binds: ``"P|Q"`` or ``"Q|P"``."""
        return binding(self.delta_pq, self.delta_qp)

    def summary(self) -> str:
        """Return a few lines for a person."""
        now = Standing(self.status, self.conditions, self.notes)
        lines = [
            f"holds ({self.status}, {self.method}): epsilon = {self.epsilon:g}, delta = {self.delta:g}",
            f"  recomputed delta(P|Q) = {self.delta_pq:.3g}, delta(Q|P) = {self.delta_qp:.3g} ({self.direction} binds)",
            *(f"  {label.strip()}: {text}" for label, text in reading(now)),
            f"  data as certified; model {'as certified' if self.model_checked else 'not compared'}; "
            f"signature: {self.signature}",
        ]
        return "\n".join(lines)


def coefficients_of(model: Any, *, fit_intercept: bool, n_features: int, n_outputs: int) -> NDArray[np.float64]:
    """Return the parameters (n_columns, n_outputs) of a fitted linear model, or of an array already in that layout.

    Parameters
    ----------
    model : fitted estimator or array-like
        An estimator has ``coef_`` of shape (n_features,) or (n_outputs, n_features) and, if ``fit_intercept``,
        ``intercept_``. An array has shape (n_columns, n_outputs), or (n_columns,) for one output.
    fit_intercept : bool
        Whether the last row is the intercept.
    n_features, n_outputs : int
        Shape of the run.

    Returns
    -------
    ndarray of shape (n_columns, n_outputs), float64

    Raises
    ------
    ValueError
        If the shapes do not fit, a value is not finite, or there is an intercept where none was fitted.

    Examples
    --------
    >>> coefficients_of([[1.0], [2.0]], fit_intercept=True, n_features=1, n_outputs=1)
    array([[1.],
           [2.]])
    """
    n_columns = n_features + int(fit_intercept)
    if hasattr(model, "coef_"):
        coefficients = _validate.real_array("model.coef_", model.coef_)
        if coefficients.size != n_features * n_outputs or coefficients.ndim not in (1, 2):
            raise ValueError(f"model.coef_ must have shape {(n_outputs, n_features)}, got {coefficients.shape}")
        if coefficients.ndim == 2 and coefficients.shape != (n_outputs, n_features):
            raise ValueError(f"model.coef_ must have shape {(n_outputs, n_features)}, got {coefficients.shape}")
        result = coefficients.reshape(n_outputs, n_features).T
        intercept = _validate.real_array("model.intercept_", getattr(model, "intercept_", 0.0)).ravel()
        if not fit_intercept:
            if np.any(intercept != 0):
                raise ValueError("model.intercept_ must be 0, because the run fitted none")
            return np.ascontiguousarray(result)
        if intercept.size != n_outputs:
            raise ValueError(f"model.intercept_ must have {n_outputs} entries, got {intercept.size}")
        return np.vstack([result, intercept[np.newaxis, :]])
    array = _validate.real_array("model", model)
    if array.ndim == 1 and n_outputs == 1:
        array = array[:, np.newaxis]
    if array.shape != (n_columns, n_outputs):
        raise ValueError(f"model must have shape {(n_columns, n_outputs)}, got {array.shape}")
    return array


def check_status(certificate: Certificate, *, allow_estimate: bool = False) -> None:
    """Check that status, conditions, method and delta_s belong together.

    Raises
    ------
    VerificationError
        Naming the field.
    """
    c = certificate
    if c.status == "estimate" and not allow_estimate:
        raise VerificationError("status", "must be 'certified' or 'conditional'; an estimate certifies nothing")
    if c.status == "certified" and c.conditions:
        raise VerificationError("conditions", f"must be empty when certified, got {list(c.conditions)}")
    if c.status == "conditional" and not c.conditions:
        raise VerificationError("conditions", "must name at least one when conditional, got none")
    if c.version > 1:
        _names_its_sources(c)
    if c.method == "exact" and c.delta_s is not None:
        raise VerificationError("claim.delta_s", f"must be null for method 'exact', got {c.delta_s}")
    if c.method != "exact" and (c.delta_s is None or not 0 < c.delta_s < c.delta):
        raise VerificationError("claim.delta_s", f"must be in (0, delta) for method {c.method!r}, got {c.delta_s}")
    relation = "REMOVE_ONE" if len(c.run.deleted) == 1 else "REMOVE_GROUP"
    if c.neighbouring_relation != relation:
        raise VerificationError(
            "claim.neighbouring_relation",
            f"must be {relation} for {len(c.run.deleted)} deleted record(s), got {c.neighbouring_relation}",
        )


def _names_its_sources(certificate: Certificate) -> None:
    c = certificate
    for condition in c.run.sources.conditions():
        if condition not in c.conditions:
            raise VerificationError("conditions", f"must say that {condition}, because run.sources does; it is missing")
    if c.notes != c.run.sources.notes():
        raise VerificationError(
            "notes", f"must be {list(c.run.sources.notes())}, as run.sources says, got {list(c.notes)}"
        )


def recomputed(certificate: Certificate, X: ArrayLike, y: ArrayLike) -> Deltas:
    """Check the data and the run's assumptions and return both deltas, each within the claim.

    Raises
    ------
    VerificationError
        Naming the field that is refuted.
    """
    c, run = certificate, certificate.run
    _same_digest("digests.X", "X", c.digests.X, lambda: features_digest(X))
    _same_digest("digests.y", "y", c.digests.y, lambda: targets_digest(y))
    check_classes(run)
    design = design_of(X, fit_intercept=run.fit_intercept)
    try:
        targets = targets_of(y, classes=run.classes)
    except ValueError as error:
        raise VerificationError("run.classes", str(error)) from None
    check_run(run, design, targets)
    lost = lost_classes(run, targets)
    if c.version > 1 and run.sources.classes == "data" and lost and CONDITIONS["last_of_class"] not in c.conditions:
        raise VerificationError(
            "run.classes",
            f"holds {lost[0]!r}, of which the deletion leaves no record: the class list would give the record away. "
            f"Give the classes beforehand, or accept the condition {CONDITIONS['last_of_class']!r}",
        )
    rows = list(run.deleted)
    salt = bytes.fromhex(c.salt)
    _same_digest(
        "digests.record",
        "the deleted rows",
        c.digests.record,
        lambda: record_digest(np.asarray(X)[rows], np.asarray(y)[rows], salt=salt),
    )
    try:
        deltas = recompute(run, design, targets, method=c.method, epsilon=c.epsilon, delta_s=c.delta_s)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise VerificationError("run.phases", f"the claim cannot be computed: {error}") from None
    limit = c.delta * (1 + CLAIM_SLACK)
    for direction, value in (("delta(P|Q)", deltas.pq), ("delta(Q|P)", deltas.qp)):
        if not 0 <= value <= limit:  # NaN lands here
            raise VerificationError(
                "claim.delta", f"recomputed {direction} at epsilon = {c.epsilon!r} is {value!r}, claimed {c.delta!r}"
            )
    return deltas


def check_model(certificate: Certificate, model: Any) -> None:
    """Check that ``model`` holds the certified parameters.

    Raises
    ------
    VerificationError
        Naming ``digests.model``, or ``run.classes`` if the model's labels are others.
    """
    run = certificate.run

    def digest() -> str:
        coefficients = coefficients_of(
            model, fit_intercept=run.fit_intercept, n_features=run.n_features, n_outputs=run.n_outputs
        )
        return model_digest(coefficients)

    _same_digest("digests.model", "model", certificate.digests.model, digest)
    classes = getattr(model, "classes_", None)
    if run.classes is not None and classes is not None and list(classes) != list(run.classes):
        raise VerificationError("run.classes", f"must be the model's {list(classes)!r}, got {list(run.classes)!r}")


def _same_digest(field: str, what: str, needed: str, compute: Any) -> None:
    try:
        got = compute()
    except (TypeError, ValueError) as error:
        raise VerificationError(field, f"{what} is not what was certified: {error}") from None
    if not hmac.compare_digest(got, needed):
        raise VerificationError(field, f"{what} is not what was certified: its digest is {got}, needed {needed}")


def _agree(recorded: float, value: float, claimed: float) -> bool:
    larger = max(recorded, value)
    return abs(recorded - value) <= AGREEMENT * larger or larger <= FAR_BELOW * claimed


def verify(
    certificate: Certificate,
    X: ArrayLike,
    y: ArrayLike,
    model: object = None,
    *,
    public_key: Ed25519PublicKey | None = None,
) -> VerificationReport:
    """Verify a certificate; `Certificate.verify` describes it.

    Raises
    ------
    VerificationError
        Naming the field that is refuted.
    """
    c = certificate
    try:
        check(c.to_dict(), certificate_schema(version=c.version))
    except CertificateError as error:
        raise VerificationError(error.field, str(error).removeprefix(f"{error.field}: ")) from None
    check_status(c)
    deltas = recomputed(c, X, y)
    for name, recorded, value in (("delta_pq", c.delta_pq, deltas.pq), ("delta_qp", c.delta_qp, deltas.qp)):
        if not _agree(recorded, value, c.delta):
            raise VerificationError(f"claim.{name}", f"recorded {recorded!r}, recomputed {value!r}: it was changed")
    if model is not None:
        check_model(c, model)
    if public_key is not None:
        c.verify_signature(public_key)
    else:
        c._check_own_signature()
    now = standing(c)
    return VerificationReport(
        epsilon=c.epsilon,
        delta=c.delta,
        delta_pq=deltas.pq,
        delta_qp=deltas.qp,
        method=c.method,
        status=now.status,
        conditions=now.conditions,
        notes=now.notes,
        model_checked=model is not None,
        signature="trusted key" if public_key is not None else "none" if c.signature is None else "unknown key",
    )
