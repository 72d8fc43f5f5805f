"""Lines of a ledger: how they are hashed and written, and how a whole ledger is read."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime, timezone
from typing import Any

from expunge._files import FileFormatError, parse_json
from expunge.certificates.schema import CertificateError, check, check_one_line
from expunge.ledger.entries import (
    ENTRY_1,
    ENTRY_2,
    HASH,
    TIME,
    EnteredRequest,
    LedgerEntry,
    LedgerError,
    closed,
    order_broken,
)
from expunge.ledger.residual import ENTRY_RESIDUAL, ResidualEntry, beginning_broken, residual_order_broken

__all__ = ["Entry", "hash_of", "header_line", "line_of", "now", "phases_digest", "read", "record_id_digest"]

Entry = LedgerEntry | ResidualEntry

_TAG = b"expunge-ledger-v1\0"
_HEADER = closed(
    {
        "format": {"const": "expunge-ledger"},
        "version": {"enum": [1, 2]},
        "ledger": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "created": TIME,
        "hash": HASH,
    }
)


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
    """Return the digest that stands for a record id in a ledger: HMAC-SHA256 under a salt that is not in the ledger.

    Ids are few and can be tried one by one, so a digest without a secret would give them away.

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
    """Return the digest of a run's phases; since they name rows, it uses the salt."""
    return _keyed(salt, b"expunge-ledger-phases", _canonical(phases))


def read(data: bytes) -> tuple[str, tuple[Entry, ...]]:
    """Return the last line's hash and the entries of a whole, unbroken ledger, or raise `LedgerError`."""
    if not data:
        raise LedgerError("must say what the file is, got an empty file", line=1)
    lines = data.split(b"\n")
    if lines[-1]:
        raise LedgerError("is cut short: it does not end with a newline", line=len(lines))
    lines.pop()
    previous = _parsed(lines[0], _HEADER, 1)["hash"]
    entries: list[Entry] = []
    for number, text in enumerate(lines[1:], start=2):
        values = _parsed(text, _schema_of(text), number)
        if values["entry"] != number - 1 or values["previous"] != previous:
            raise LedgerError(
                f"does not follow the line before it (entry {values['entry']}, needed {number - 1}): "
                "a line was removed, added or moved",
                line=number,
            )
        previous = values["hash"]
        entry = _entry_of(values)
        broken = _broken(entries[-1] if entries else None, entry)
        if broken is not None:
            raise LedgerError(broken, line=number)
        entries.append(entry)
    return previous, tuple(entries)


def _schema_of(text: bytes) -> dict[str, Any]:
    if b'"kind":' in text:  # quotes are escaped inside a string
        return ENTRY_RESIDUAL
    return ENTRY_2 if b'"data":' in text else ENTRY_1


def _entry_of(values: dict[str, Any]) -> Entry:
    values["requests"] = tuple(EnteredRequest(**request) for request in values.get("requests", ()))
    kind = values.pop("kind", None)
    numbers = [name for name in ("epsilon", "delta", "mu", "noise_std", "alpha") if name in values]
    values.update({name: float(values[name]) for name in numbers})
    return LedgerEntry(**values) if kind is None else ResidualEntry(**values)


def _broken(last: Entry | None, entry: Entry) -> str | None:
    if last is None:
        return beginning_broken(entry) if isinstance(entry, ResidualEntry) else None
    if isinstance(last, LedgerEntry) and isinstance(entry, LedgerEntry):
        return order_broken(last, entry)
    if isinstance(last, ResidualEntry) and isinstance(entry, ResidualEntry):
        return residual_order_broken(last, entry)
    return "is of another kind than the line before it: a ledger follows one model"


def _parsed(text: bytes, schema: dict[str, Any], number: int) -> dict[str, Any]:
    try:
        values = parse_json(text.decode("ascii"), what="line", allow_nan=True)
        check(values, schema, what="line")
        for request in values.get("requests", ()):
            check_one_line(request, *(name for name in ("number", "date") if request[name] is not None))
        if "method" in values:
            check_one_line(values, "method")
    except (UnicodeDecodeError, FileFormatError, CertificateError) as error:
        raise LedgerError(f"is not an entry of this ledger: {error}", line=number) from None
    result: dict[str, Any] = values
    if hash_of({key: value for key, value in result.items() if key != "hash"}) != result["hash"]:
        raise LedgerError("was edited: its hash does not match its content", line=number)
    if line_of(result) != text + b"\n":
        raise LedgerError("was edited: it is not written as this library writes it", line=number)
    return result
