"""Entries of a ledger about releases by computed residual: every one is counted, and the budget is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from expunge.certificates.residual import ResidualCertificate, residual_schema
from expunge.certificates.residual.evidence import ACTIONS
from expunge.certificates.schema import VerificationError
from expunge.ledger.entries import HASH, MAYBE_HASH, REQUESTS, TIME, EnteredRequest, LedgerError, closed

__all__ = [
    "ENTRY_RESIDUAL",
    "ResidualEntry",
    "ResidualTotal",
    "beginning_broken",
    "residual_order_broken",
    "residual_total",
    "residual_values",
]

_SCHEMA: Any = residual_schema()["properties"]
_CLAIM, _BUDGET = _SCHEMA["claim"]["properties"], _SCHEMA["budget"]["properties"]
ENTRY_RESIDUAL = closed(
    {
        "entry": {"type": "integer", "minimum": 1},
        "time": TIME,
        "kind": {"const": "residual"},
        "action": {"enum": list(ACTIONS)},
        "n_records": _SCHEMA["n_records"],
        **{name: _CLAIM[name] for name in ("epsilon", "delta", "mu", "noise_std", "alpha", "reference")},
        "status": _SCHEMA["status"],
        "certificate": HASH,
        "model_before": MAYBE_HASH,
        "model_after": HASH,
        "data_before": MAYBE_HASH,
        "data": HASH,
        **_BUDGET,
        "requests": REQUESTS,
        "previous": HASH,
        "hash": HASH,
    }
)
# Constants of a model: chosen beforehand, and the same in every entry.
_CONSTANTS = ("epsilon", "delta", "noise_std", "alpha", "reference", "releases")


@dataclass(frozen=True)
class ResidualEntry:
    """One release of a model that is certified by residual.

    Attributes
    ----------
    entry : int
        Number of the entry, from 1.
    time : str
        When it was entered (UTC, ISO 8601).
    action : {"fit", "unlearn", "amend", "add", "release"}
        What was done to the data before the release; nothing for the last.
    n_records : int
        Records of the data since.
    epsilon, delta, mu, noise_std, alpha, reference, status : float or str
        The claim.
    certificate : str
        Digest of the certificate.
    model_before, model_after : str or None, str
        `expunge.certificates.model_digest` of the released parameters; None before the first release.
    data_before, data : str or None, str
        Roots of the trees of salted record hashes.
    releases, release : int
        Most releases in the life of the model, and the number of this one.
    requests : tuple of EnteredRequest
        The requests that it answers.
    previous, hash : str
        Hash of the line before and of this one.
    """

    entry: int
    time: str
    action: str
    n_records: int
    epsilon: float
    delta: float
    mu: float
    noise_std: float
    alpha: float
    reference: str
    status: str
    certificate: str
    model_before: str | None
    model_after: str
    data_before: str | None
    data: str
    releases: int
    release: int
    requests: tuple[EnteredRequest, ...]
    previous: str
    hash: str

    def summary(self) -> str:
        """Return one line for a person."""
        return (
            f"{self.entry:4d}  {self.time}  {self.action}, {self.n_records} records since  release {self.release} of "
            f"{self.releases}  epsilon {self.epsilon:g}  delta {self.delta:g}  {self.status}"
        )


@dataclass(frozen=True)
class ResidualTotal:
    """All releases of a ledger together.

    Attributes
    ----------
    n_entries : int
        Releases entered.
    release, releases : int
        Number of the last release, and how many there may be.
    epsilon, delta : float
        Claim about all releases together.
    status : str
        The weaker of the entries: "conditional" or "certified".
    """

    n_entries: int
    release: int
    releases: int
    epsilon: float
    delta: float
    status: str

    @property
    def left(self) -> int:
        """Releases that may still be made."""
        return self.releases - self.release

    def summary(self) -> str:
        """Return a few lines for a person."""
        return "\n".join(
            [
                f"release {self.release:,} of {self.releases:,}, {self.left:,} left ({self.status})",
                f"  all releases together: epsilon = {self.epsilon:g}, delta = {self.delta:g}",
            ]
        )


def residual_total(entries: tuple[ResidualEntry, ...]) -> ResidualTotal:
    """Return what the entries, at least one, add up to."""
    last = entries[-1]
    order = ("certified", "conditional")
    return ResidualTotal(
        n_entries=len(entries),
        release=last.release,
        releases=last.releases,
        epsilon=last.epsilon,
        delta=last.delta,
        status=max((entry.status for entry in entries), key=order.index),
    )


def residual_values(certificate: ResidualCertificate, *, action: str, model_before: str | None) -> dict[str, Any]:
    """Return the fields of an entry that come from a certificate, after checking what it says of itself.

    Raises
    ------
    LedgerError
        If its claim does not hold.
    """
    c = certificate
    try:
        c.check_claim()
    except VerificationError as error:
        raise LedgerError(f"the certificate does not hold: {error}") from None
    return {
        "kind": "residual",
        "action": action,
        "n_records": c.n_records,
        **{name: getattr(c, name) for name in ("epsilon", "delta", "mu", "noise_std", "alpha", "reference", "status")},
        "certificate": c.digest(),
        "model_before": model_before,
        "model_after": c.digests.released,
        "data_before": c.digests.data_before,
        "data": c.digests.data,
        "releases": c.releases,
        "release": c.release,
    }


def beginning_broken(entry: ResidualEntry) -> str | None:
    """Return why a ledger cannot begin with an entry, or None; one may begin with a model that has releases behind."""
    first = entry.release == 1
    if first != (entry.action == "fit"):
        return f"must be of action 'fit' for the first release and for no other, got {entry.action!r}"
    if first != (entry.model_before is None) or (first and entry.data_before is not None):
        return "must name a model and data before it, but for the first release"
    return _overdrawn(entry)


def residual_order_broken(last: ResidualEntry, entry: ResidualEntry) -> str | None:
    """Return why an entry cannot follow another, or None."""
    if entry.certificate == last.certificate:
        return f"certificate {entry.certificate} has been entered already"
    if entry.model_before != last.model_after:
        return f"model_before must be {last.model_after}, the model of the last entry, got {entry.model_before}"
    for name in _CONSTANTS:
        before, now = getattr(last, name), getattr(entry, name)
        if now != before:
            return f"{name} is a constant of the model and must be {before!r}, as in the last entry, got {now!r}"
    if entry.release != last.release + 1:
        return (
            f"release must be {last.release + 1}, the one after the last entry, got {entry.release}: every release is "
            "entered, and no number is used twice"
        )
    if entry.action == "fit":
        return "a model is fitted once; a fit begins another ledger"
    if entry.action == "release":
        if entry.data != last.data:
            return f"data must be {last.data}, as in the last entry, for a release of the same model, got {entry.data}"
    elif entry.data_before != last.data or entry.data == last.data:
        return (
            f"data_before must be {last.data}, the data of the last entry, and data others, got {entry.data_before} "
            f"and {entry.data}"
        )
    return _miscounted(last, entry) or _overdrawn(entry)


def _miscounted(last: ResidualEntry, entry: ResidualEntry) -> str | None:
    """Return why so many records cannot follow the last entry's, or None: an action that was not done is no entry."""
    more = entry.n_records - last.n_records
    needed = {"unlearn": (more < 0, "less than"), "add": (more > 0, "more than")}
    fits, words = needed.get(entry.action, (more == 0, "still"))
    if not fits:
        return f"n_records must be {words} {last.n_records} after {entry.action!r}, got {entry.n_records}"
    return None


def _overdrawn(entry: ResidualEntry) -> str | None:
    if entry.release > entry.releases:
        return f"budget spent: release {entry.release} of {entry.releases}; fit a new model"
    return None
