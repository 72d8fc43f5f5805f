"""The ledger: an append-only, hash-chained JSON-lines file of the deletions done to one model.

The first line says what the file is; every further line is one deletion. Each line carries the SHA-256 of its own
canonical JSON and the hash of the line before, so that a line that was edited, removed, moved or cut short is found and
named. Two things no chain can see by itself: lines missing from the end, and a chain made anew by somebody who rewrote
the whole file. Keep `Ledger.head` elsewhere, or hold the released model against the last line, and `Ledger.check` sees
those as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from expunge._files import FileFormatError, parse_json, write_atomic
from expunge.certificates import Certificate
from expunge.certificates.schema import CertificateError, check

try:
    import fcntl
except ImportError:  # not a POSIX system: renames are still atomic, but two writers are not kept apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["Ledger", "LedgerEntry", "LedgerError", "LedgerTotal"]

_TAG = b"expunge-ledger-v1\0"
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TIME = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"}
_HEADER: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["format", "version", "ledger", "created", "hash"],
    "properties": {
        "format": {"const": "expunge-ledger"},
        "version": {"const": 1},
        "ledger": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "created": _TIME,
        "hash": _HASH,
    },
}
_ENTRY: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "entry", "time", "record", "n_deleted", "epsilon", "delta", "method", "status", "certificate", "model_before",
        "model_after", "previous", "hash",
    ],
    "properties": {
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
    },
}  # fmt: skip


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


@dataclass(frozen=True)
class LedgerTotal:
    """All deletions of a ledger together.

    Attributes
    ----------
    n_entries, n_deleted : int
        Deletions entered, and records gone after the last.
    epsilon, delta : float
        Sums over the entries (delta at most 1): bookkeeping of what was claimed, not a guarantee about several
        released models together. A model released before a record was deleted was computed with that record.
    last_epsilon, last_delta : float or None
        Claim of the last entry. Deletions in sequence need no sum: the last certificate is about all records deleted
        so far, for the last model alone.
    status : str
        The weakest of the entries: "estimate", then "conditional", then "certified" (also when there are none).
    """

    n_entries: int
    n_deleted: int
    epsilon: float
    delta: float
    last_epsilon: float | None
    last_delta: float | None
    status: str

    def summary(self) -> str:
        """Return a few lines for a person."""
        if self.last_epsilon is None:
            return "no deletions"
        return "\n".join(
            [
                f"{self.n_entries} deletion(s), {self.n_deleted} record(s) gone ({self.status})",
                f"  last certificate, all records so far: epsilon = {self.last_epsilon:g}, delta = {self.last_delta:g}",
                f"  sum of all claims (bookkeeping only): epsilon = {self.epsilon:g}, delta = {self.delta:g}",
            ]
        )


class Ledger:
    """An append-only, hash-chained file of the deletions done to one model.

    Parameters
    ----------
    path : path-like
        The file. `append` makes it if it is not there.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ledger = Ledger.create(pathlib.Path(folder) / "model.ledger")
    ...     ledger.check()
    ...     ledger.total().n_entries
    0
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Ledger:
        """Return a new, empty ledger.

        Raises
        ------
        FileExistsError
            If ``path`` exists.
        """
        header: dict[str, Any] = {
            "format": "expunge-ledger",
            "version": 1,
            "ledger": secrets.token_hex(16),
            "created": _now(),
        }
        write_atomic(path, _line({**header, "hash": _hash(header)}))
        return cls(path)

    def append(self, certificate: Certificate, *, model_before: str) -> LedgerEntry:
        """Enter a deletion, whole or not at all; a second writer waits.

        Parameters
        ----------
        certificate : Certificate
            The deletion's certificate. Its digest, claim and salted record digest are entered, its salt is not.
        model_before : str
            `expunge.certificates.model_digest` of the model before the deletion; from the second entry on it must be
            the last entry's ``model_after``, as a ledger follows one model.

        Returns
        -------
        LedgerEntry

        Raises
        ------
        LedgerError
            If the ledger is broken, is about another model, or holds this certificate already. Nothing is written.
        TypeError
            If ``certificate`` is not a Certificate.
        """
        if not isinstance(certificate, Certificate):
            raise TypeError(f"certificate must be a Certificate, got {type(certificate).__name__}")
        if not isinstance(model_before, str) or not re.fullmatch("[0-9a-f]{64}", model_before):
            raise ValueError(f"model_before must be 64 hexadecimal characters, got {model_before!r}")
        if not self.path.exists():
            with contextlib.suppress(FileExistsError):
                self.create(self.path)
        with self._locked():
            data = self.path.read_bytes()
            previous, entries = _read(data)
            if entries and entries[-1].model_after != model_before:
                raise LedgerError(
                    f"model_before must be {entries[-1].model_after}, the model of the last entry, got {model_before}"
                )
            digest = certificate.digest()
            if any(entry.certificate == digest for entry in entries):
                raise LedgerError(f"certificate {digest} has been entered already")
            values: dict[str, Any] = {
                "entry": len(entries) + 1,
                "time": _now(),
                "record": certificate.digests.record,
                "n_deleted": len(certificate.run.deleted),
                "epsilon": certificate.epsilon,
                "delta": certificate.delta,
                "method": certificate.method,
                "status": certificate.status,
                "certificate": digest,
                "model_before": model_before,
                "model_after": certificate.digests.model,
                "previous": previous,
            }
            values["hash"] = _hash(values)
            permissions = stat.S_IMODE(self.path.stat().st_mode)
            write_atomic(self.path, data + _line(values), overwrite=True, mode=permissions)
        return LedgerEntry(**values)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return all entries, oldest first, after checking the chain.

        Raises
        ------
        LedgerError
            As `check`.
        FileNotFoundError
            If there is no such file.
        """
        return _read(self._bytes())[1]

    def head(self) -> str:
        """Return the hash of the last line: kept elsewhere, it shows later whether lines went missing from the end.

        Raises
        ------
        LedgerError, FileNotFoundError
            As `check`.
        """
        return _read(self._bytes())[0]

    def total(self) -> LedgerTotal:
        """Return the sum over all entries and the claim of the last one.

        Raises
        ------
        LedgerError, FileNotFoundError
            As `check`.
        """
        entries = self.entries()
        order = ("certified", "conditional", "estimate")
        return LedgerTotal(
            n_entries=len(entries),
            n_deleted=entries[-1].n_deleted if entries else 0,
            epsilon=sum(entry.epsilon for entry in entries),
            delta=min(1.0, sum(entry.delta for entry in entries)),
            last_epsilon=entries[-1].epsilon if entries else None,
            last_delta=entries[-1].delta if entries else None,
            status=max((entry.status for entry in entries), key=order.index, default="certified"),
        )

    def check(self, *, head: str | None = None, model: str | None = None) -> None:
        """Check the chain, and the end of it if something is known about that.

        Parameters
        ----------
        head : str, optional
            What `head` returned at some time; a line with this hash must still be there.
        model : str, optional
            `expunge.certificates.model_digest` of the model as it is now; the last entry must be about it.

        Raises
        ------
        LedgerError
            Whose ``line`` is the first that was edited, moved or cut short, or stands where one was removed.
        FileNotFoundError
            If there is no such file.
        """
        data = self._bytes()
        last, entries = _read(data)
        if head is not None:
            known = {last, *(entry.previous for entry in entries)}
            if head not in known:
                raise LedgerError(f"head {head} must be in the chain; lines after it or it itself were removed")
        if model is not None and (not entries or entries[-1].model_after != model):
            got = entries[-1].model_after if entries else "no entry"
            raise LedgerError(f"the last entry must be about model {model}, got {got}")

    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"path: there is no ledger at {self.path}") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if fcntl is None:
            yield
            return
        while True:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Whoever held the lock before has put a new file in its place; then this lock guards nothing.
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    yield
                    return
            finally:
                os.close(descriptor)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(_TAG + _canonical(values)).hexdigest()


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _read(data: bytes) -> tuple[str, tuple[LedgerEntry, ...]]:
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
        values = _parsed(text, _ENTRY, number)
        if values["entry"] != number - 1 or values["previous"] != previous:
            raise LedgerError(
                f"does not follow the line before it (entry {values['entry']}, needed {number - 1}): "
                "a line was removed, added or moved",
                line=number,
            )
        entry = LedgerEntry(**{**values, "epsilon": float(values["epsilon"]), "delta": float(values["delta"])})
        if entries and entry.model_before != entries[-1].model_after:
            raise LedgerError("is about another model than the line before it", line=number)
        entries.append(entry)
        previous = values["hash"]
    return previous, tuple(entries)


def _parsed(text: bytes, schema: dict[str, Any], number: int) -> dict[str, Any]:
    try:
        values = parse_json(text.decode("ascii"), what="line", allow_nan=True)
        check(values, schema, field="")
    except (UnicodeDecodeError, FileFormatError, CertificateError) as error:
        raise LedgerError(f"is not an entry of this ledger: {error}", line=number) from None
    result: dict[str, Any] = values
    if _hash({key: value for key, value in result.items() if key != "hash"}) != result["hash"]:
        raise LedgerError("was edited: its hash does not match its content", line=number)
    if _line(result) != text + b"\n":
        raise LedgerError("was edited: it is not written as this library writes it", line=number)
    return result
