"""Lineage of deletions from a Langevin run: an entry continues where the last one ended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from expunge._errors import counted
from expunge.certificates import Certificate
from expunge.ledger.entries import LedgerEntry, LedgerError
from expunge.ledger.lines import Entry, phases_digest

__all__ = ["check_lineage", "deletion_values"]


def deletion_values(certificate: Certificate, *, model_before: str, salt: bytes | None) -> dict[str, Any]:
    """Return the fields of an entry that come from a certificate.

    Raises
    ------
    LedgerError
        If it is an estimate.
    """
    phases = certificate.run.history()
    values: dict[str, Any] = {
        "record": certificate.digests.record,
        "n_deleted": len(certificate.run.deleted),
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "method": certificate.method,
        "status": certificate.standing().status,
        "certificate": certificate.digest(),
        "model_before": model_before,
        "model_after": certificate.digests.model,
        "data": _data_digest(certificate),
        "n_phases": len(phases),
        "phases": None if salt is None else phases_digest(phases, salt=salt),
    }
    if values["status"] == "estimate":
        raise LedgerError("an estimate proves no deletion, and a ledger holds none")
    return values


def _data_digest(certificate: Certificate) -> str:
    """Return one digest of what the run learned from."""
    digests = certificate.digests
    return hashlib.sha256(b"expunge-ledger-data\0" + f"{digests.X} {digests.y}".encode("ascii")).hexdigest()


def check_lineage(
    entries: Sequence[Entry], values: dict[str, Any], phases: list[dict[str, Any]], salt: bytes | None
) -> None:
    """Check that an entry continues where the last one ended.

    Raises
    ------
    LedgerError
        Saying what must continue.
    """
    last = entries[-1]
    if not isinstance(last, LedgerEntry):
        raise LedgerError("the certificate must be by residual, as the last entry is: a ledger follows one model")
    if last.model_after != values["model_before"]:
        raise LedgerError(
            f"model_before must be {last.model_after}, the model of the last entry, got {values['model_before']}"
        )
    if any(entry.certificate == values["certificate"] for entry in entries):
        raise LedgerError(f"certificate {values['certificate']} has been entered already")
    if last.data is not None and last.data != values["data"]:
        raise LedgerError("the certificate must be about the data of the last entry, got one about other data")
    if not values["n_deleted"] > last.n_deleted:
        raise LedgerError(
            f"the certificate must be about more than the {counted(last.n_deleted, 'record')} deleted before, got "
            f"{values['n_deleted']}: a deletion is entered once, and deletions add up"
        )
    before = len(phases[-2]["removed"]) if len(phases) > 1 else 0
    if before != last.n_deleted or last.n_phases not in (None, len(phases) - 1):
        raise LedgerError(
            "the certificate's run must be the last entry's with one more deletion, got one of "
            f"{counted(len(phases), 'phase')} that had deleted {counted(before, 'record')} before its last, needed "
            f"{last.n_deleted}"
        )
    if salt is not None and last.phases is not None and last.phases != phases_digest(phases[:-1], salt=salt):
        raise LedgerError("the certificate's run must be the last entry's with one more deletion, got another run")
