"""Entries of a ledger as the auditor's page reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Line", "Request"]


class Request(Protocol):
    """A request that an entry answers."""

    @property
    def number(self) -> str | None:
        """Number of the request."""

    @property
    def date(self) -> str | None:
        """Date of the request."""

    @property
    def id(self) -> str | None:
        """Salted digest of the record id."""


class Line(Protocol):
    """An entry of a ledger of releases, `expunge.ledger.ResidualEntry` for instance."""

    @property
    def entry(self) -> int:
        """Number of the entry."""

    @property
    def time(self) -> str:
        """Time of the entry."""

    @property
    def action(self) -> str:
        """Action that was taken."""

    @property
    def n_records(self) -> int:
        """Records since."""

    @property
    def release(self) -> int:
        """Number of the release."""

    @property
    def certificate(self) -> str:
        """Digest of the certificate."""

    @property
    def status(self) -> str:
        """Status of the claim."""

    @property
    def requests(self) -> Sequence[Request]:
        """Requests that it answers."""

    @property
    def hash(self) -> str:
        """Hash of the line."""
