"""Checking a certificate: digests, assumptions, the claim recomputed from the data, the model and the signature."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._wording import counted
from expunge.accounting.ridge_law import RidgeDeletion
from expunge.certificates import hints
from expunge.certificates.assumptions import check_classes, check_noise, check_run, lost_classes
from expunge.certificates.constants import CONDITIONS
from expunge.certificates.digest import features_digest, model_digest, record_digest, targets_digest
from expunge.certificates.model import coefficients_of, p_value
from expunge.certificates.policy import Policy
from expunge.certificates.report import VerificationReport, standing
from expunge.certificates.run import Deltas, design_of, recompute, targets_of
from expunge.certificates.schema import CertificateError, VerificationError, certificate_schema, check
from expunge.certificates.work import DEFAULT_BUDGET, check_budget, stages

if TYPE_CHECKING:
    from expunge.certificates.certificate import Certificate

__all__ = ["Recomputed", "check_model", "check_status", "recomputed", "verify"]

# Slack of the comparison "recomputed <= claimed", for rounding between machines.
CLAIM_SLACK = 1e-9
# Recorded and recomputed deltas agree to this; this far below the claim they need not (tails are steep, or end).
AGREEMENT = 1e-6
FAR_BELOW = 1e-12
# A step size this close to 1/L of the data was hardly chosen without them.
SAME_STEP_SIZE = 1e-12


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
            f"must be {relation} for {counted(len(c.run.deleted), 'deleted record')}, got {c.neighbouring_relation}",
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


class Recomputed(NamedTuple):
    """What a verification recomputes: both deltas, the problem they belong to, and what looks wrong about it."""

    deltas: Deltas
    deletion: RidgeDeletion
    warnings: tuple[str, ...]


def recomputed(certificate: Certificate, X: ArrayLike, y: ArrayLike, *, begin: Callable[[str], None]) -> Recomputed:
    """Check the data and the run's assumptions and return both deltas, each within the claim.

    ``begin`` is told of every stage.

    Raises
    ------
    VerificationError
        Naming the field that is refuted.
    """
    c, run = certificate, certificate.run
    check_classes(run)
    begin("data")
    _check_data(c, X, y)
    begin("assumptions")
    design = design_of(X, fit_intercept=run.fit_intercept)
    try:
        targets = targets_of(y, classes=run.classes)
    except ValueError as error:
        raise VerificationError("run.classes", str(error)) from None
    limit = check_run(run, design, targets)
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
        lambda: record_digest(_validate.plain_array("X", X)[rows], np.asarray(y)[rows], salt=salt),
    )
    begin("law of the run")
    try:
        deletion = RidgeDeletion(design, targets, alpha=run.alpha, step_size=run.step_size, deleted=run.deleted)
        check_noise(run, deletion)
        begin("claim")
        deltas = recompute(run, deletion, method=c.method, epsilon=c.epsilon, delta_s=c.delta_s)
    except VerificationError:
        raise
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise VerificationError("run.phases", f"the claim cannot be computed: {error}") from None
    most = c.delta * (1 + CLAIM_SLACK)
    for direction, value in (("delta(P|Q)", deltas.pq), ("delta(Q|P)", deltas.qp)):
        if not 0 <= value <= most:  # NaN lands here
            raise VerificationError(
                "claim.delta", f"recomputed {direction} at epsilon = {c.epsilon!r} is {value!r}, claimed {c.delta!r}"
            )
    return Recomputed(deltas, deletion, _warnings(c, design, targets, limit))


def _check_data(certificate: Certificate, X: ArrayLike, y: ArrayLike) -> None:
    c = certificate

    def features() -> str:
        return hints.features_hint(X, c.digests.X, c.run, targets_match=_matches(c.digests.y, y))

    _same_digest("digests.X", "X", c.digests.X, lambda: features_digest(X), features)
    _same_digest(
        "digests.y", "y", c.digests.y, lambda: targets_digest(y), lambda: hints.targets_hint(y, c.digests.y, c.run)
    )


def _matches(needed: str, y: ArrayLike) -> bool:
    try:
        return targets_digest(y) == needed
    except (TypeError, ValueError):
        return False


def _warnings(
    certificate: Certificate, design: NDArray[np.float64], targets: NDArray[np.float64], limit: float
) -> tuple[str, ...]:
    """Return what looks wrong about a run without refuting it."""
    run = certificate.run
    result = []
    whole = np.ascontiguousarray(np.column_stack([design, targets]) + 0.0)  # -0.0 becomes 0.0
    gone = {whole[row].tobytes(): row for row in run.deleted}
    deleted = set(run.deleted)
    stays = ((i, row.tobytes()) for i, row in enumerate(whole) if i not in deleted)
    copies = [(i, gone[values]) for i, values in stays if values in gone]
    if copies:
        more = f" ({len(copies)} such rows in all)" if len(copies) > 1 else ""
        result.append(
            f"row {copies[0][0]}, which stays, is an exact copy of the deleted row {copies[0][1]}{more}: whose is it?"
        )
    if run.sources.step_size == "given" and abs(run.step_size - limit) <= SAME_STEP_SIZE * limit:
        result.append("the step size is said to be given, but equals 1/L of the data: was it not computed from them?")
    return tuple(result)


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
        labels = np.asarray(classes).tolist()
        raise VerificationError("run.classes", f"must be the model's {labels!r}, got {list(run.classes)!r}")


def plausible(certificate: Certificate, found: Recomputed, model: Any) -> float:
    """Return the p-value of the model's parameters under P.

    Raises
    ------
    VerificationError
        With ``field == "model"``, if they cannot have come from the run.
    """
    run = certificate.run
    parameters = coefficients_of(
        model, fit_intercept=run.fit_intercept, n_features=run.n_features, n_outputs=run.n_outputs
    )
    try:
        return p_value(found.deletion, run.phases, parameters)
    except VerificationError:
        raise
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise VerificationError("model", f"its law under the run cannot be computed: {error}") from None


def _same_digest(
    field: str, what: str, needed: str, compute: Callable[[], str], hint: Callable[[], str] = lambda: ""
) -> None:
    try:
        got = compute()
    except (TypeError, ValueError) as error:
        raise VerificationError(field, f"{what} is not what was certified: {error}") from None
    if not hmac.compare_digest(got, needed):
        guess = hint()
        raise VerificationError(
            field,
            f"{what} is not what was certified: its digest is {got}, needed {needed}" + (f"; {guess}" if guess else ""),
        )


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
    policy: Policy | None = None,
    budget: float = DEFAULT_BUDGET,
) -> VerificationReport:
    """Verify a certificate; `Certificate.verify` describes it.

    Raises
    ------
    VerificationError
        Naming the field that is refuted.
    """
    c = certificate
    most = _validate.number("budget", budget, low=0, allow_infinite=True)
    if policy is not None and not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, got {type(policy).__name__}")
    try:
        check(c.to_dict(), certificate_schema(version=c.version))
    except CertificateError as error:
        raise VerificationError(error.field, str(error).removeprefix(f"{error.field}: ")) from None
    check_status(c)
    if policy is not None:
        policy.check(c)
    if public_key is not None:
        c.verify_signature(public_key)
    check_budget(c.run, method=c.method, budget=most)
    with stages(c.run, method=c.method) as begin:
        found = recomputed(c, X, y, begin=begin)
        deltas = found.deltas
        for name, recorded, value in (("delta_pq", c.delta_pq, deltas.pq), ("delta_qp", c.delta_qp, deltas.qp)):
            if not _agree(recorded, value, c.delta):
                raise VerificationError(f"claim.{name}", f"recorded {recorded!r}, recomputed {value!r}: it was changed")
        chance = None
        if model is not None:
            begin("model")
            check_model(c, model)
            chance = plausible(c, found, model)
    c._check_own_signature()
    trusted = public_key is not None or (policy is not None and policy.public_key is not None)
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
        p_value=chance,
        warnings=found.warnings,
        signature="trusted key" if trusted else "none" if c.signature is None else "unknown key",
    )
