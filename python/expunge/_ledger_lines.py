"""Lines of a ledger: their fields, their hashes, and how a whole ledger is read.

A ledger of version 2 says with every entry which data the run learned from, how many phases it had, and on whose
request it was made. Entries of version 1 are read, and may be followed by those of version 2, not the other way round.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from expunge._files import FileFormatError, parse_json
from expunge.certificates.schema import CertificateError, check

__all__ = [
    "HEX_64",
    "EnteredRequest",
    "LedgerEntry",
    "LedgerError",
    "hash_of",
    "header_line",
    "line_of",
    "now",
    "phases_digest",
    "read",
    "record_id_digest",
]

HEX_64 = re.compile("[0-9a-f]{64}")
_TAG = b"expunge-ledger-v1\0"
_HASH: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_MAYBE_HASH: dict[str, Any] = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"], "minLength": 1}
_TIME = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"}
_HEADER: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["format", "version", "ledger", "created", "hash"],
    "properties": {
        "format": {"const": "expunge-ledger"},
        "version": {"enum": [1, 2]},
        "ledger": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "created": _TIME,
        "hash": _HASH,
    },
}
_FIELDS_1: dict[str, Any] = {
    "entry": {"type": "integer", "minimum": 1},
    "time": _TIME,
    "record": _HASH,
    "n_deleted": {"type": "integer", "minimum": 1},
    "epsilon": {"type": "number", "minimum": 0},
    "delta": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "method": {"enum": ["exact", "shifted", "uniform"]},
    "status": {"enum": ["certified", "conditional", "estimate"]},
    "certificate": _HASH,
    "model_before": _HASH,
    "model_after": _HASH,
    "previous": _HASH,
    "hash": _HASH,
}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["number", "date", "id"],
    "properties": {"number": _MAYBE_TEXT, "date": _MAYBE_TEXT, "id": _MAYBE_HASH},
}
_FIELDS_2: dict[str, Any] = {
    **_FIELDS_1,
    "data": _HASH,
    "n_phases": {"type": "integer", "minimum": 2},
    "phases": _MAYBE_HASH,
    "requests": {"type": "array", "items": _REQUEST},
}
_ENTRY_1, _ENTRY_2 = (
    {"type": "object", "additionalProperties": False, "required": list(fields), "properties": fields}
    for fields in (_FIELDS_1, _FIELDS_2)
)


class LedgerError(ValueError):
    """A ledger is broken or may not be extended so.

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
    """A request as its entry tells of it.

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
        On whose request.
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


def now() -> str:
    """Return the time as ledgers write it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def hash_of(values: dict[str, Any]) -> str:
    """Return the hash of a line's fields, without the field of that name."""
    return hashlib.sha256(_TAG + _canonical(values)).hexdigest()


def line_of(values: dict[str, Any]) -> bytes:
    """Return a line as it is written."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def header_line(name: str) -> bytes:
    """Return the first line of a new ledger."""
    header: dict[str, Any] = {"format": "expunge-ledger", "version": 2, "ledger": name, "created": now()}
    return line_of({**header, "hash": hash_of(header)})


def _keyed(salt: bytes, tag: bytes, content: bytes) -> str:
    if not isinstance(salt, bytes) or len(salt) != 32:
        raise ValueError(f"salt must be 32 bytes, got {len(salt) if isinstance(salt, bytes) else type(salt).__name__}")
    return hmac.new(salt, tag + b"\0" + content, hashlib.sha256).hexdigest()


def record_id_digest(record_id: int | str, *, salt: bytes) -> str:
    """Return the digest by which a ledger tells of a record id: HMAC-SHA256 under a salt that is not in the ledger.

    Ids are few and can be tried one by one, so that a digest without a secret would give them away.

    Parameters
    ----------
    record_id : int or str
        7 and "7" are different ids.
    salt : bytes
        The 32 bytes of ``ledger_salt_`` of the working model.

    Examples
    --------
    >>> record_id_digest(7, salt=bytes(32)) == record_id_digest("7", salt=bytes(32))
    False
    """
    if isinstance(record_id, bool) or not isinstance(record_id, (int, str)):
        raise TypeError(f"record_id must be an integer or a string, got {record_id!r}")
    kind = b"string" if isinstance(record_id, str) else b"integer"
    return _keyed(salt, b"expunge-ledger-id", kind + b"\0" + str(record_id).encode("utf-8", "surrogatepass"))


def phases_digest(phases: list[dict[str, Any]], *, salt: bytes) -> str:
    """Return the digest of a run's phases; they name rows, and so it is made with the salt."""
    return _keyed(salt, b"expunge-ledger-phases", _canonical(phases))


def read(data: bytes) -> tuple[str, tuple[LedgerEntry, ...]]:
    """Return the last line's hash and the entries of a whole, unbroken ledger, or raise `LedgerError`."""
    if not data:
        raise LedgerError("must say what the file is, got an empty file", line=1)
    lines = data.split(b"\n")
    if lines[-1]:
        raise LedgerError("is cut short: it does not end with a newline", line=len(lines))
    lines.pop()
    previous = _parsed(lines[0], _HEADER, 1)["hash"]
    entries: list[LedgerEntry] = []
    for number, text in enumerate(lines[1:], start=2):
        values = _parsed(text, _ENTRY_2 if b'"data":' in text else _ENTRY_1, number)
        if values["entry"] != number - 1 or values["previous"] != previous:
            raise LedgerError(
                f"does not follow the line before it (entry {values['entry']}, needed {number - 1}): "
                "a line was removed, added or moved",
                line=number,
            )
        values["requests"] = tuple(EnteredRequest(**request) for request in values.get("requests", ()))
        entry = LedgerEntry(**{**values, "epsilon": float(values["epsilon"]), "delta": float(values["delta"])})
        if entries:
            _check_order(entries[-1], entry, number)
        entries.append(entry)
        previous = values["hash"]
    return previous, tuple(entries)


def _check_order(last: LedgerEntry, entry: LedgerEntry, line: int) -> None:
    if entry.model_before != last.model_after:
        raise LedgerError("is about another model than the line before it", line=line)
    if entry.data is None:
        if last.data is not None:
            raise LedgerError("is of version 1 after a line of version 2", line=line)
        return
    if not entry.n_deleted > last.n_deleted:
        raise LedgerError(f"counts {entry.n_deleted} deleted records after {last.n_deleted}", line=line)
    if last.data is not None and (entry.data, entry.n_phases) != (last.data, (last.n_phases or 0) + 1):
        raise LedgerError("is about other data or another run than the line before it", line=line)


def _parsed(text: bytes, schema: dict[str, Any], number: int) -> dict[str, Any]:
    try:
        values = parse_json(text.decode("ascii"), what="line", allow_nan=True)
        check(values, schema)
    except (UnicodeDecodeError, FileFormatError, CertificateError) as error:
        raise LedgerError(f"is not an entry of this ledger: {error}", line=number) from None
    result: dict[str, Any] = values
    if hash_of({key: value for key, value in result.items() if key != "hash"}) != result["hash"]:
        raise LedgerError("was edited: its hash does not match its content", line=number)
    if line_of(result) != text + b"\n":
        raise LedgerError("was edited: it is not written as this library writes it", line=number)
    return result
