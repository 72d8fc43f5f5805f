"""The ledger: an append-only, hash-chained JSON-lines file of the deletions done to one model.

The first line says what the file is; every further line is one deletion. Each line carries the SHA-256 of its own
canonical JSON and the hash of the line before, so that a line that was edited, removed, moved or cut short is found and
named. Two things no chain can see by itself: lines missing from the end, and a chain made anew by somebody who rewrote
the whole file. Keep `Ledger.head` elsewhere, or hold the released model against the last line, and `Ledger.check` sees
those as well.

An entry tells of a person by the digest of the record id under a salt that is in the working model alone. Who has that
model finds the person's entries (`Ledger.find`); who has the ledger alone cannot try ids. The digest of the data is
made without a secret: who knows all records of a run can tell that it was made from them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from expunge._ledger_lines import (
    HEX_64,
    EnteredRequest,
    LedgerEntry,
    LedgerError,
    hash_of,
    header_line,
    line_of,
    now,
    phases_digest,
    read,
    record_id_digest,
)
from expunge._transaction import Change, exclusive
from expunge._wording import counted
from expunge.certificates import Certificate

__all__ = [
    "DeletionRequest",
    "EnteredRequest",
    "Ledger",
    "LedgerEntry",
    "LedgerError",
    "LedgerTotal",
    "record_id_digest",
]


@dataclass(frozen=True)
class DeletionRequest:
    """Somebody's request to be forgotten.

    Attributes
    ----------
    record_id : int, str or None
        Whose; the ledger tells of it by its salted digest.
    number : str or None
        Under which number the request is filed. It goes into the ledger as it is, so it must not name the person.
    date : str or None
        When it was made, as ISO 8601: 2026-03-01 or 2026-03-01T12:00:00.

    Raises
    ------
    ValueError
        If number or date is empty text, the date is no date, or the number is the record id.
    """

    record_id: int | str | None = None
    number: str | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("number", self.number), ("date", self.date)):
            if value is not None and (not isinstance(value, str) or not value.strip() or not value.isprintable()):
                raise ValueError(f"{name} of a request must be printable text, got {value!r}")
        named = None if self.record_id is None else str(self.record_id).strip()
        if self.number is not None and self.number.strip() == named:
            raise ValueError("number of a request must not be the record id: it goes into the ledger as it is")
        if self.date is not None:
            try:
                datetime.fromisoformat(self.date)
            except ValueError:
                raise ValueError(f"date of a request must look like 2026-03-01, got {self.date!r}") from None


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
                f"{counted(self.n_entries, 'deletion')}, {counted(self.n_deleted, 'record')} gone ({self.status})",
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
        with exclusive([path]) as session:
            session.commit([Change(path, header_line(secrets.token_hex(16)))])
        return cls(path)

    def append(
        self,
        certificate: Certificate,
        *,
        model_before: str,
        requests: Sequence[DeletionRequest] = (),
        salt: bytes | None = None,
    ) -> LedgerEntry:
        """Enter a deletion, whole or not at all; a second writer waits.

        Parameters
        ----------
        certificate : Certificate
            The deletion's certificate. Its digest, claim and salted record digest are entered, its salt is not.
        model_before : str
            `expunge.certificates.model_digest` of the model before the deletion; from the second entry on it must be
            the last entry's ``model_after``, as a ledger follows one model.
        requests : sequence of DeletionRequest
            On whose request. Record ids are entered as digests, which needs the salt.
        salt : bytes, optional
            ``ledger_salt_`` of the working model. With it an entry also holds a digest of the run's phases, and the
            next is held against it.

        Returns
        -------
        LedgerEntry

        Raises
        ------
        LedgerError
            If the ledger is broken, holds this certificate already, or the certificate does not continue the run of the
            last entry: another model, other data, no more deleted records than before, phases that are not the last
            one's and one more, or an estimate. Nothing is written.
        TypeError
            If ``certificate`` is not a Certificate.
        """
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"path: the folder {self.path.parent} does not exist")
        with exclusive([self.path]) as session:
            content, entry = self.extended(certificate, model_before=model_before, requests=requests, salt=salt)
            session.commit([Change(self.path, content, replace=True)])
        return entry

    def extended(
        self,
        certificate: Certificate,
        *,
        model_before: str,
        requests: Sequence[DeletionRequest] = (),
        salt: bytes | None = None,
    ) -> tuple[bytes, LedgerEntry]:
        """Return the file's content with one more entry, and the entry; `append` without writing.

        Raises
        ------
        LedgerError, TypeError
            As `append`.
        """
        if not isinstance(certificate, Certificate):
            raise TypeError(f"certificate must be a Certificate, got {type(certificate).__name__}")
        if not isinstance(model_before, str) or not HEX_64.fullmatch(model_before):
            raise ValueError(f"model_before must be 64 hexadecimal characters, got {model_before!r}")
        data = self.path.read_bytes() if os.path.lexists(self.path) else header_line(secrets.token_hex(16))
        previous, entries = read(data)
        phases = certificate.run.to_dict()["phases"]
        values: dict[str, Any] = {
            "entry": len(entries) + 1,
            "time": now(),
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
            "requests": [asdict(request) for request in _entered(requests, salt)],
            "previous": previous,
        }
        if values["status"] == "estimate":
            raise LedgerError("an estimate proves no deletion, and a ledger holds none")
        if entries:
            _check_lineage(entries, values, phases, salt)
        values["hash"] = hash_of(values)
        content = data + line_of(values)
        return content, read(content)[1][-1]

    def find(self, record_id: int | str, *, salt: bytes) -> tuple[LedgerEntry, ...]:
        """Return the entries that tell of the deletion of a record id.

        Parameters
        ----------
        record_id : int or str
            Whose.
        salt : bytes
            ``ledger_salt_`` of the working model.

        Raises
        ------
        LedgerError, FileNotFoundError
            As `check`.
        """
        digest = record_id_digest(record_id, salt=salt)
        return tuple(entry for entry in self.entries() if any(one.id == digest for one in entry.requests))

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return all entries, oldest first, after checking the chain.

        Raises
        ------
        LedgerError
            As `check`.
        FileNotFoundError
            If there is no such file.
        """
        return read(self._bytes())[1]

    def head(self) -> str:
        """Return the hash of the last line: kept elsewhere, it shows later whether lines went missing from the end.

        Raises
        ------
        LedgerError, FileNotFoundError
            As `check`.
        """
        return read(self._bytes())[0]

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
        last, entries = read(data)
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


def _data_digest(certificate: Certificate) -> str:
    """Return one digest of what the run learned from."""
    digests = certificate.digests
    return hashlib.sha256(b"expunge-ledger-data\0" + f"{digests.X} {digests.y}".encode("ascii")).hexdigest()


def _entered(requests: Sequence[DeletionRequest], salt: bytes | None) -> list[EnteredRequest]:
    result = []
    for request in requests:
        if not isinstance(request, DeletionRequest):
            raise TypeError(f"requests must hold DeletionRequest, got {type(request).__name__}")
        digest = None
        if request.record_id is not None:
            if salt is None:
                raise ValueError("salt must be given (ledger_salt_ of the working model): a ledger holds no plain ids")
            digest = record_id_digest(request.record_id, salt=salt)
        result.append(EnteredRequest(request.number, request.date, digest))
    return result


def _check_lineage(
    entries: Sequence[LedgerEntry], values: dict[str, Any], phases: list[dict[str, Any]], salt: bytes | None
) -> None:
    """Check that an entry goes on where the last one ended."""
    last = entries[-1]
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
