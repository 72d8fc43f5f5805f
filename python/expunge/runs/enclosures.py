"""Results of a proof: enclosures that contain a true value, and the proof of a claim that they are part of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from expunge._types import JsonObject

__all__ = ["Enclosure", "Proof"]


class Enclosure(NamedTuple):
    """An interval that is proved to contain a number.

    Attributes
    ----------
    lower, upper : float
        Its ends, rounded outward to float64.
    lower_text, upper_text : str
        Its ends in decimal, rounded outward to 30 significant digits.
    bits : int
        Working precision at which it was found.
    """

    lower: float
    upper: float
    lower_text: str
    upper_text: str
    bits: int

    def __contains__(self, value: object) -> bool:
        """Return whether a float lies between the ends, ends included."""
        return isinstance(value, (int, float)) and self.lower <= value <= self.upper

    def to_dict(self) -> JsonObject:
        """Return the ends as JSON values: decimal text, rounded outward."""
        return {"lower": self.lower_text, "upper": self.upper_text}


@dataclass(frozen=True)
class Proof:
    """The proof of a claim in ball arithmetic, or how far it came.

    Attributes
    ----------
    delta_pq, delta_qp : Enclosure
        Both directions at the claim's epsilon: of the true deltas for the method "exact", of the method's bound for
        others, and of the budget's delta for a certificate by residual.
    claim : float
        The delta that is claimed.
    outcome : {"proved", "refuted", "undecided"}
        "proved": the upper ends, and everything else that the claim needs, are within the claim, without tolerance.
        "refuted": something is proved to exceed it. "undecided": neither, with the largest number of bits tried.
    reason : str
        What is refuted or could not be decided; empty where proved.
    bits : int
        Working precision of the last attempt.
    seconds : float
        Time that it took.
    defects : mapping of str to float
        Bounds on what separates the true laws from those whose deltas were enclosed, and other sizes of the proof.
    enclosures : mapping of str to Enclosure
        What else was proved on the way: mu, contraction, the norm of a gradient, a p-value.
    versions : mapping of str to str
        Of python-flint and FLINT.
    """

    delta_pq: Enclosure
    delta_qp: Enclosure
    claim: float
    outcome: str
    reason: str
    bits: int
    seconds: float
    defects: Mapping[str, float] = field(default_factory=dict)
    enclosures: Mapping[str, Enclosure] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def proved(self) -> bool:
        """True if the claim is proved."""
        return self.outcome == "proved"

    def to_dict(self) -> JsonObject:
        """Return the proof as JSON values."""
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "claim": self.claim,
            "delta_pq": self.delta_pq.to_dict(),
            "delta_qp": self.delta_qp.to_dict(),
            "enclosures": {name: value.to_dict() for name, value in self.enclosures.items()},
            "defects": dict(self.defects),
            "bits": self.bits,
            "seconds": self.seconds,
            "versions": dict(self.versions),
        }

    def summary(self) -> str:
        """Return a line for a person."""
        return (
            f"{self.outcome} in ball arithmetic ({self.bits} bits, {self.seconds:.1f} s): delta(P|Q) <= "
            f"{shown_up(self.delta_pq)}, delta(Q|P) <= {shown_up(self.delta_qp)}, claimed {self.claim!r}"
            + (f": {self.reason}" if self.reason else "")
        )


def shown_up(enclosure: Enclosure) -> str:
    """Return the upper end to 17 digits, rounded up."""
    return f"{enclosure.upper!r}"
