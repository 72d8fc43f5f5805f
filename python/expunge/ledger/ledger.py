"""The ledger: an append-only, hash-chained JSON-lines file of the deletions done to one model.

The first line says what the file is; every further line is one deletion. Each line carries the SHA-256 of its own
canonical JSON and the hash of the line before, so that a line that was edited, removed, moved or cut short is found and
named. No chain can detect two things by itself: lines missing from the end, and a chain made anew by somebody who
rewrote the whole file. Keep `Ledger.head` elsewhere, or compare the released model with the last line, and
`Ledger.check` detects those as well.

An entry names a person by the digest of the record id under a salt that only the working model holds. Whoever has that
model finds the person's entries (`Ledger.find`); the ledger alone does not allow trying ids. The digest of the data has
no secret: anybody who knows all records of a run can tell that it was made from them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from expunge._errors import counted
from expunge._files.transaction import Change, exclusive
from expunge.certificates import Certificate
from expunge.certificates.residual import ResidualCertificate
from expunge.certificates.residual.evidence import ACTIONS
from expunge.ledger.entries import HEX_64, EnteredRequest, LedgerEntry, LedgerError
from expunge.ledger.lineage import check_lineage, deletion_values
from expunge.ledger.lines import Entry, hash_of, header_line, line_of, now, read, record_id_digest
from expunge.ledger.residual import ResidualEntry, ResidualTotal, residual_total, residual_values

__all__ = ["DeletionRequest", "Ledger", "LedgerTotal"]


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
            raise ValueError("number of a request must not be the record id: it is written into the ledger unchanged")
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
        certificate: Certificate | ResidualCertificate,
        *,
        model_before: str | None,
        requests: Sequence[DeletionRequest] = (),
        salt: bytes | None = None,
        action: str | None = None,
    ) -> Entry:
        """Enter a deletion or a release, whole or not at all; a second writer waits.

        Parameters
        ----------
        certificate : Certificate or ResidualCertificate
            The deletion's certificate. Its digest, claim and salted record digest are entered, its salt is not. Of one
            by residual every release is entered, with its number and the roots of the data.
        model_before : str or None
            `expunge.certificates.model_digest` of the model before; from the second entry on it must be the last
            entry's ``model_after``, as a ledger follows one model. None before the first release by residual.
        requests : sequence of DeletionRequest
            On whose request. Record ids are entered as digests, which needs the salt.
        salt : bytes, optional
            ``ledger_salt_`` of the working model. With it an entry also holds a digest of the run's phases, and the
            next is held against it.
        action : {"fit", "unlearn", "amend", "add", "release"}, optional
            What was done; needed for a certificate by residual, and for no other.

        Returns
        -------
        LedgerEntry or ResidualEntry

        Raises
        ------
        LedgerError
            If the ledger is broken, holds this certificate already, or the certificate does not continue the run of the
            last entry: another model, other data, no more deleted records than before, phases that are not the last
            one's and one more, or an estimate; by residual, a release that is not the next one or exceeds the budget,
            or other constants. Nothing is written.
        TypeError
            If ``certificate`` is not a certificate.
        """
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"path: the folder {self.path.parent} does not exist")
        with exclusive([self.path]) as session:
            content, entry = self.extended(
                certificate, model_before=model_before, requests=requests, salt=salt, action=action
            )
            session.commit([Change(self.path, content, replace=True)])
        return entry

    def extended(
        self,
        certificate: Certificate | ResidualCertificate,
        *,
        model_before: str | None,
        requests: Sequence[DeletionRequest] = (),
        salt: bytes | None = None,
        action: str | None = None,
    ) -> tuple[bytes, Entry]:
        """Return the file's content with one more entry, and the entry; `append` without writing.

        Raises
        ------
        LedgerError, TypeError
            As `append`.
        """
        _check_kinds(certificate, model_before=model_before, action=action)
        data = self.path.read_bytes() if os.path.lexists(self.path) else header_line(secrets.token_hex(16))
        previous, entries = read(data)
        about: dict[str, Any]
        if isinstance(certificate, ResidualCertificate):
            about = residual_values(certificate, action=str(action), model_before=model_before)
        else:
            about = deletion_values(certificate, model_before=str(model_before), salt=salt)
        values: dict[str, Any] = {
            "entry": len(entries) + 1,
            "time": now(),
            **about,
            "requests": [asdict(request) for request in _entered(requests, salt)],
            "previous": previous,
        }
        if entries and isinstance(certificate, Certificate):
            check_lineage(entries, values, certificate.run.history(), salt)
        values["hash"] = hash_of(values)
        content = data + line_of(values)
        try:
            return content, read(content)[1][-1]
        except LedgerError as error:  # no line to blame: none is written
            raise LedgerError(str(error).removeprefix(f"line {error.line}: ")) from None

    def find(self, record_id: int | str, *, salt: bytes) -> tuple[Entry, ...]:
        """Return the entries about the deletion of a record id.

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

    def entries(self) -> tuple[Entry, ...]:
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

    def total(self) -> LedgerTotal | ResidualTotal:
        """Return the sum over all entries and the claim of the last one; of releases by residual, the budget left.

        Raises
        ------
        LedgerError, FileNotFoundError
            As `check`.
        """
        found = self.entries()
        by_residual = tuple(entry for entry in found if isinstance(entry, ResidualEntry))
        if by_residual:
            return residual_total(by_residual)
        entries = [entry for entry in found if isinstance(entry, LedgerEntry)]
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
        """Check the chain, and its end if the head or the model is known.

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


def _check_kinds(certificate: object, *, model_before: str | None, action: str | None) -> None:
    if not isinstance(certificate, (Certificate, ResidualCertificate)):
        raise TypeError(f"certificate must be a Certificate, got {type(certificate).__name__}")
    by_residual = isinstance(certificate, ResidualCertificate)
    if by_residual and action not in ACTIONS:
        raise ValueError(f"action must be one of {', '.join(map(repr, ACTIONS))}, got {action!r}")
    if not by_residual and action is not None:
        raise ValueError(
            f"action must not be given for a certificate of a {type(certificate).__name__}, got {action!r}"
        )
    if by_residual and model_before is None:
        return
    if not isinstance(model_before, str) or not HEX_64.fullmatch(model_before):
        raise ValueError(f"model_before must be 64 hexadecimal characters, got {model_before!r}")
