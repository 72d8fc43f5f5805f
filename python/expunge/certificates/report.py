"""Results of a verification: how a certificate must be read, and what was recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from expunge.certificates.statement import ProofStatement
from expunge.runs.enclosures import Proof

__all__ = ["Standing", "VerificationReport", "binding", "reading", "shown"]


class Standing(NamedTuple):
    """Status, conditions and notes of a certificate as they must be read now."""

    status: str
    conditions: tuple[str, ...]
    notes: tuple[str, ...]


def reading(now: Standing) -> list[tuple[str, str]]:
    """Return every condition and note with the word that introduces it, for a summary."""
    return [("but    ", text) for text in now.conditions] + [("note   ", text) for text in now.notes]


def shown(delta: float) -> str:
    """Return a delta as a person would write it; one that float64 can hardly hold is shown as a bound."""
    return f"{delta:.3g}" if delta == 0.0 or delta >= 1e-300 else "below 1e-300"


def binding(delta_pq: float, delta_qp: float) -> str:
    """Return the direction whose delta is the larger."""
    return "Q|P" if delta_qp > delta_pq else "P|Q"


@dataclass(frozen=True)
class VerificationReport:
    """Findings of a verification.

    Attributes
    ----------
    epsilon, delta : float
        The claim that holds.
    delta_pq, delta_qp : float
        Recomputed from the data.
    method, status : str
        As in the certificate; a version 1 certificate is ``"conditional"`` at best.
    conditions : tuple of str
        What a conditional certificate rests on, every constant taken from the data by name.
    model_checked : bool
        Whether a model was compared with the certificate.
    p_value : float or None
        Two-sided p-value of the released parameters under P, the law that the data and the run give them; None without
        a model. Uniform on (0, 1) for an honest run; below 1e-12 a model is refused.
    signature : str
        ``"none"``, ``"unknown key"`` (nothing was changed since somebody signed) or ``"trusted key"``.
    notes : tuple of str
        What a reader must know besides the conditions.
    warnings : tuple of str
        What looks wrong without refuting anything: a copy of a deleted row that stays in the data, a step size that is
        said to be given but is the one that the data would give.
    proof : Proof or None
        Enclosures of both deltas in ball arithmetic, where a proof was asked for.
    statement : ProofStatement or None
        A statement about the certificate that was given: it says that the claim was proved, and who says so. Only
        ``proof`` is a proof; where there is one too, the statement agrees with it.
    certificate : str or None
        Digest of the certificate.
    """

    epsilon: float
    delta: float
    delta_pq: float
    delta_qp: float
    method: str
    status: str
    conditions: tuple[str, ...]
    model_checked: bool
    signature: str
    notes: tuple[str, ...] = ()
    p_value: float | None = None
    warnings: tuple[str, ...] = ()
    proof: Proof | None = None
    statement: ProofStatement | None = None
    certificate: str | None = None

    @property
    def certified(self) -> bool:
        """True if the claim holds without conditions."""
        return self.status == "certified"

    @property
    def direction(self) -> str:
        """Direction of the larger of the two recomputed deltas, which binds: ``"P|Q"`` or ``"Q|P"``."""
        return binding(self.delta_pq, self.delta_qp)

    def summary(self) -> str:
        """Return a few lines for a person."""
        now = Standing(self.status, self.conditions, self.notes)
        model = "not compared" if self.p_value is None else f"as certified (p-value {self.p_value:.3g} under P)"
        lines = [
            f"holds ({self.status}, {self.method}): epsilon = {self.epsilon:g}, delta = {self.delta:g}",
            f"  recomputed delta(P|Q) = {shown(self.delta_pq)}, delta(Q|P) = {shown(self.delta_qp)} "
            f"({self.direction} binds)",
            *(f"  {label.strip()}: {text}" for label, text in reading(now)),
            f"  data as certified; model {model}; signature: {self.signature}",
            *([] if self.proof is None else [f"  {self.proof.summary()}"]),
            *([] if self.statement is None else [f"  {self.statement.line(self.proof)}"]),
            *(f"  warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)
