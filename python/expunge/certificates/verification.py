"""Verification: status, data, assumptions, the claim recomputed from the data, the model and the signature."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._errors import counted
from expunge.certificates.digest import DataDigests
from expunge.certificates.document import Document
from expunge.certificates.evidence import check_data, check_digests, check_model, check_records, requested
from expunge.certificates.policy import Policy
from expunge.certificates.report import VerificationReport
from expunge.certificates.schema import CertificateError, VerificationError, certificate_schema, check, refuting
from expunge.certificates.signed import SignedDocument
from expunge.certificates.statement import ProofStatement
from expunge.certificates.work import DEFAULT_BUDGET, check_budget, stages
from expunge.data.blocks import Records
from expunge.runs.base import LEAST_P_VALUE, Deltas, Problem
from expunge.runs.enclosures import Proof

__all__ = ["Recomputed", "UndecidedError", "check_statement", "check_status", "plausible", "recomputed", "verify"]

# Slack of the comparison "recomputed <= claimed", for rounding between machines.
CLAIM_SLACK = 1e-9
# Recorded and recomputed deltas agree to this; this far below the claim they need not (tails are steep, or end).
AGREEMENT = 1e-6
FAR_BELOW = 1e-12


def check_status(certificate: Document, *, allow_estimate: bool = False) -> None:
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
    fails = c.run.failure_probability(method=c.method, delta=c.delta) is not None
    if not fails and c.delta_s is not None:
        raise VerificationError("claim.delta_s", f"must be null for method {c.method!r}, got {c.delta_s}")
    if fails and (c.delta_s is None or not 0 < c.delta_s < c.delta):
        raise VerificationError("claim.delta_s", f"must be in (0, delta) for method {c.method!r}, got {c.delta_s}")
    relation = "REMOVE_ONE" if len(c.run.deleted) == 1 else "REMOVE_GROUP"
    if c.neighbouring_relation != relation:
        raise VerificationError(
            "claim.neighbouring_relation",
            f"must be {relation} for {counted(len(c.run.deleted), 'deleted record')}, got {c.neighbouring_relation}",
        )


def _names_its_sources(certificate: Document) -> None:
    c = certificate
    for condition in c.run.conditions():
        if condition not in c.conditions:
            raise VerificationError("conditions", f"must say that {condition}, because the run does; it is missing")
    if c.notes != c.run.notes():
        raise VerificationError("notes", f"must be {list(c.run.notes())}, as the run says, got {list(c.notes)}")


class UndecidedError(VerificationError):
    """A proof in ball arithmetic neither proves nor refutes a claim.

    Attributes
    ----------
    proof : Proof
        How far it came.
    """

    def __init__(self, proof: Proof) -> None:
        super().__init__("proof", f"undecided with {proof.bits} bits: {proof.reason}")
        self.proof = proof


class Recomputed(NamedTuple):
    """Recomputed values of a claim: both deltas, and the run beside its data that they belong to."""

    deltas: Deltas
    problem: Problem


def recomputed(certificate: Document, X: ArrayLike, y: ArrayLike, *, begin: Callable[[str], None]) -> Recomputed:
    """Check the data and the run's assumptions and return both deltas, each within the claim.

    ``begin`` is called with every stage.

    Raises
    ------
    VerificationError
        Naming the field that is refuted.
    """
    c, run = certificate, certificate.run
    begin("data")
    check_data(c, X, y)
    begin("assumptions")
    with refuting():
        problem = run.check(X, y, conditions=c.conditions if c.version > 1 else None)
    check_records(c, X, y)
    begin("claim")
    return Recomputed(claimed(c, problem), problem)


def recomputed_from_table(certificate: Document, records: Records, *, begin: Callable[[str], None]) -> Recomputed:
    """Check a table and the run's assumptions in one pass, and return both deltas, each within the claim.

    Raises
    ------
    VerificationError
        Naming the field that is refuted.
    TypeError
        If runs of this kind are not checked on tables.
    """
    c, run = certificate, certificate.run
    if not hasattr(run, "table_check"):
        raise TypeError(f"a run of kind {run.kind!r} must be verified on arrays, got a table")
    for field, got, needed in (
        ("run.n_records", run.n_records, records.n_records),
        ("run.n_features", run.n_features, records.n_features),
    ):
        if got != needed:
            raise VerificationError(field, f"must be {needed}, as in the data, got {got}")
    if not records.has_targets:
        raise VerificationError("digests.y", "y is not what was certified: the table has no targets")
    begin("data")
    digests, deleted = DataDigests((records.n_records, records.n_features)), np.array(run.deleted, dtype=np.int64)
    X: list[NDArray[np.floating]] = []
    y: list[NDArray[np.generic]] = []
    with refuting(), run.table_check() as check_of_run:
        for block in records.blocks():
            labels = np.asarray(block.y)
            digests.add(block.X, labels)
            check_of_run.see(block)
            gone = deleted[(deleted >= block.start) & (deleted < block.start + len(labels))] - block.start
            X.append(block.X[gone])
            y.append(labels[gone])
        check_digests(c, digests.result())
        begin("assumptions")
        problem = check_of_run.problem(conditions=c.conditions if c.version > 1 else None, blocks=records.blocks)
    check_records(c, np.concatenate(X), np.concatenate(y), rows=run.deleted)
    begin("claim")
    return Recomputed(claimed(c, problem), problem)


def claimed(certificate: Document, problem: Problem) -> Deltas:
    """Return both deltas of a run beside its data, each within the claim.

    Raises
    ------
    VerificationError
        With ``field == "claim.delta"``, if one is larger.
    """
    c = certificate
    with refuting():
        deltas = c.run.deltas(problem, method=c.method, epsilon=c.epsilon, delta_s=c.delta_s)
    most = c.delta * (1 + CLAIM_SLACK)
    for direction, value in (("delta(P|Q)", deltas.pq), ("delta(Q|P)", deltas.qp)):
        if not 0 <= value <= most:  # NaN lands here
            raise VerificationError(
                "claim.delta", f"recomputed {direction} at epsilon = {c.epsilon!r} is {value!r}, claimed {c.delta!r}"
            )
    return deltas


def plausible(certificate: Document, problem: Problem, parameters: NDArray[np.float64]) -> float:
    """Return the p-value of released parameters under P.

    Raises
    ------
    VerificationError
        With ``field == "model"``, if they cannot have come from the run.
    """
    with refuting():
        result = certificate.run.law_of_release(problem).p_value(parameters)
    if not result >= LEAST_P_VALUE:
        raise VerificationError(
            "model",
            f"cannot have come from this run: its p-value is {result:.3g}, refused below {LEAST_P_VALUE:g}",
        )
    return result


def _agree(recorded: float, value: float, claimed: float, *, earlier: bool = False) -> bool:
    # Who no longer holds the rows deleted earlier proves a larger delta, by roundings that count in full.
    if earlier and value <= recorded <= claimed:
        return True
    larger = max(recorded, value)
    return abs(recorded - value) <= AGREEMENT * larger or larger <= FAR_BELOW * claimed


def _recomputed(
    certificate: Document, X: ArrayLike | Records, y: ArrayLike | None, *, begin: Callable[[str], None]
) -> Recomputed:
    if isinstance(X, Records):
        if y is not None:
            raise TypeError("y must be omitted for a table of records, which has its own targets")
        return recomputed_from_table(certificate, X, begin=begin)
    if y is None:
        raise TypeError("y must be given beside features")
    return recomputed(certificate, X, y, begin=begin)


def check_statement(statement: ProofStatement | None, certificate: SignedDocument) -> None:
    """Check that a statement, if there is one, is about a certificate.

    Raises
    ------
    VerificationError
        With a ``field`` that begins with ``"statement"``.
    TypeError
        If it is no statement.
    """
    if statement is None:
        return
    if not isinstance(statement, ProofStatement):
        raise TypeError(f"statement must be a ProofStatement, got {type(statement).__name__}")
    statement.check(certificate)


def _check_provable(certificate: Document, *, state: str | os.PathLike[str] | None) -> None:
    """Refuse a proof that cannot be had, before any work is done."""
    from expunge.proof.claims import refuse_unproved

    refuse_unproved(certificate.run)
    if state is not None and certificate.method != "exact":
        raise ValueError(f"state must be omitted for method {certificate.method!r}: it keeps the laws of 'exact'")


def _proved(certificate: Document, problem: Problem, state: str | os.PathLike[str] | None) -> Proof:
    """Return the proof of a claim, or refuse the claim."""
    from expunge.proof.claims import prove_claim

    c = certificate
    with refuting():
        claim: dict[str, Any] = {"epsilon": c.epsilon, "delta": c.delta, "method": c.method, "delta_s": c.delta_s}
        found = prove_claim(c.run, problem, **claim, state=state)
    if found.outcome == "refuted":
        raise VerificationError("claim.delta", f"refuted in ball arithmetic: {found.reason}")
    if found.outcome != "proved":
        raise UndecidedError(found)
    return found


def verify(
    certificate: Document,
    X: ArrayLike | Records,
    y: ArrayLike | None = None,
    model: object = None,
    *,
    public_key: Ed25519PublicKey | None = None,
    policy: Policy | None = None,
    budget: float = DEFAULT_BUDGET,
    proof: bool = False,
    state: str | os.PathLike[str] | None = None,
    statement: ProofStatement | None = None,
) -> VerificationReport:
    """Verify a certificate; `Certificate.verify` describes it.

    Raises
    ------
    VerificationError
        Naming the field that is refuted.
    """
    c = certificate
    if state is not None and not proof:
        raise ValueError("state must be omitted without proof=True: it keeps the stages of a proof")
    if proof:
        _check_provable(c, state=state)
    check_statement(statement, c)
    most = _validate.number("budget", budget, low=0, allow_infinite=True)
    if policy is not None and not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, got {type(policy).__name__}")
    try:
        check(c.to_dict(), certificate_schema(version=c.version, kind=c.kind))
    except CertificateError as error:
        raise VerificationError(error.field, str(error).removeprefix(f"{error.field}: ")) from None
    check_status(c)
    if policy is not None:
        policy.check(c)
    if public_key is not None:
        c.verify_signature(public_key)
    check_budget(c.run, method=c.method, budget=most)
    with stages(c.run, method=c.method) as begin:
        found = _recomputed(c, X, y, begin=begin)
        deltas = found.deltas
        for name, recorded, value in (("delta_pq", c.delta_pq, deltas.pq), ("delta_qp", c.delta_qp, deltas.qp)):
            if not _agree(recorded, value, c.delta, earlier=requested(c.run) != tuple(c.run.deleted)):
                raise VerificationError(f"claim.{name}", f"recorded {recorded!r}, recomputed {value!r}: it was changed")
        chance = None
        if model is not None:
            begin("model")
            chance = plausible(c, found.problem, check_model(c, model))
    c._check_own_signature()
    found_proof = _proved(c, found.problem, state) if proof else None
    if statement is not None and found_proof is not None:
        statement.compare(found_proof)
    trusted = public_key is not None or (policy is not None and policy.public_key is not None)
    now = c.standing()
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
        warnings=found.problem.warnings,
        proof=found_proof,
        statement=statement,
        certificate=c.digest(),
        signature="trusted key" if trusted else "none" if c.signature is None else "unknown key",
    )
