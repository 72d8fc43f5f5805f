"""Entries of a ledger about deletions from Langevin runs, and what entries of every kind have in common.

Every entry of a version 2 ledger says which data the run learned from, how many phases it had, and on whose request
it was made. Entries of version 1 are still read and may be followed by those of version 2, but not the other way round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from expunge.certificates.schema import certificate_schema

__all__ = [
    "ENTRY_1",
    "ENTRY_2",
    "HASH",
    "HEX_64",
    "MAYBE_HASH",
    "REQUESTS",
    "TIME",
    "EnteredRequest",
    "LedgerEntry",
    "LedgerError",
    "closed",
    "order_broken",
]

HEX_64 = re.compile("[0-9a-f]{64}")
_CERTIFICATE: Any = certificate_schema()["properties"]
HASH: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
MAYBE_HASH: dict[str, Any] = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"], "minLength": 1}
TIME: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"}


def closed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly these fields."""
    return {"type": "object", "additionalProperties": False, "required": list(fields), "properties": fields}


_FIELDS_1: dict[str, Any] = {
    "entry": {"type": "integer", "minimum": 1},
    "time": TIME,
    "record": HASH,
    "n_deleted": {"type": "integer", "minimum": 1},
    "epsilon": {"type": "number", "minimum": 0},
    "delta": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "method": {"type": "string", "minLength": 1},  # a ledger is read where the kind of a run is not known, too
    "status": _CERTIFICATE["status"],
    "certificate": HASH,
    "model_before": HASH,
    "model_after": HASH,
    "previous": HASH,
    "hash": HASH,
}
REQUESTS: dict[str, Any] = {
    "type": "array", "items": closed({"number": _MAYBE_TEXT, "date": _MAYBE_TEXT, "id": MAYBE_HASH}),
}  # fmt: skip
_FIELDS_2: dict[str, Any] = {
    **_FIELDS_1,
    "data": HASH,
    "n_phases": {"type": "integer", "minimum": 2},
    "phases": MAYBE_HASH,
    "requests": REQUESTS,
}
ENTRY_1, ENTRY_2 = closed(_FIELDS_1), closed(_FIELDS_2)


class LedgerError(ValueError):
    """A ledger is broken, or may not be extended in this way.

    Attributes
    ----------
    line : int or None
        The line of the file, counted from 1, that breaks the chain; None if no line is to blame.
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True)
class EnteredRequest:
    """A request as its entry records it.

    Attributes
    ----------
    number, date : str or None
        As they were given.
    id : str or None
        `record_id_digest` of the record id, never the id.
    """

    number: str | None
    date: str | None
    id: str | None


@dataclass(frozen=True)
class LedgerEntry:
    """One deletion.

    Attributes
    ----------
    entry : int
        Number of the entry, from 1.
    time : str
        When it was entered (UTC, ISO 8601).
    record : str
        Salted digest of all records deleted up to then; the salt is in the certificate, not here.
    n_deleted : int
        How many records that is.
    epsilon, delta, method, status : float, float, str, str
        The claim.
    certificate : str
        `Certificate.digest` of the certificate.
    model_before, model_after : str
        `expunge.certificates.model_digest` of the models.
    previous, hash : str
        Hash of the line before and of this one.
    data : str or None
        Digest of the data the run learned from, the same in all entries; None in entries of version 1.
    n_phases : int or None
        Phases of the run: learning, and one for each deletion.
    phases : str or None
        Digest of these phases under the salt of the working model; None where the salt was not given.
    requests : tuple of EnteredRequest
        The requests that the deletion answers.
    """

    entry: int
    time: str
    record: str
    n_deleted: int
    epsilon: float
    delta: float
    method: str
    status: str
    certificate: str
    model_before: str
    model_after: str
    previous: str
    hash: str
    data: str | None = None
    n_phases: int | None = None
    phases: str | None = None
    requests: tuple[EnteredRequest, ...] = ()

    def summary(self) -> str:
        """Return one line for a person."""
        return (
            f"{self.entry:4d}  {self.time}  record {self.record[:12]}  gone {self.n_deleted}  "
            f"epsilon {self.epsilon:g}  delta {self.delta:g}  {self.method}, {self.status}"
        )


def order_broken(last: LedgerEntry, entry: LedgerEntry) -> str | None:
    """Return why an entry cannot follow another, or None."""
    if entry.model_before != last.model_after:
        return "is about another model than the line before it"
    if entry.data is None:
        return "is of version 1 after a line of version 2" if last.data is not None else None
    if not entry.n_deleted > last.n_deleted:
        return f"counts {entry.n_deleted} deleted records after {last.n_deleted}"
    if last.data is not None and (entry.data, entry.n_phases) != (last.data, (last.n_phases or 0) + 1):
        return "is about other data or another run than the line before it"
    return None
