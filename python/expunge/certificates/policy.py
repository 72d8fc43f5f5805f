"""Policies: which certificates a reader accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from expunge import _validate
from expunge.certificates.report import Standing
from expunge.certificates.schema import VerificationError

__all__ = ["Policy"]


class Claim(Protocol):
    """A certificate of any kind, as a policy reads it."""

    @property
    def epsilon(self) -> float:
        """Claimed epsilon."""

    @property
    def delta(self) -> float:
        """Claimed delta."""

    def standing(self) -> Standing:
        """Return status, conditions and notes as they must be read now."""

    def verify_signature(self, public_key: Ed25519PublicKey) -> None:
        """Check the signature."""


@dataclass(frozen=True)
class Policy:
    """Demands on a certificate over and above being true; what is not given is not demanded.

    Attributes
    ----------
    max_epsilon, max_delta : float or None
        Largest claim.
    public_key : Ed25519PublicKey or None
        Whose signature is required.
    allow_conditional : bool
        Whether a claim that rests on conditions will do. By default it will not.
    of_program : bool
        Whether the claim must be about the program that ran, not about noise of real numbers that it stands for:
        releases by residual whose noise was drawn exactly, and Langevin runs whose steps are bounded, as they are by
        default (``of_program_`` of the model). By default it need not.

    Raises
    ------
    TypeError, ValueError
        On construction, if a value is of the wrong kind or out of range.

    Examples
    --------
    >>> Policy(max_epsilon=1.0, max_delta=1e-5).allow_conditional
    False
    """

    max_epsilon: float | None = None
    max_delta: float | None = None
    public_key: Ed25519PublicKey | None = None
    allow_conditional: bool = False
    of_program: bool = False

    def __post_init__(self) -> None:
        if self.max_epsilon is not None:
            object.__setattr__(self, "max_epsilon", _validate.number("max_epsilon", self.max_epsilon, low=0))
        if self.max_delta is not None:
            object.__setattr__(self, "max_delta", _validate.number("max_delta", self.max_delta, low=0, high=1))
        if self.public_key is not None and not isinstance(self.public_key, Ed25519PublicKey):
            raise TypeError(f"public_key must be an Ed25519PublicKey, got {type(self.public_key).__name__}")
        for name in ("allow_conditional", "of_program"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def check(self, certificate: Claim) -> None:
        """Refuse a certificate that asks for more than this policy allows; nothing is recomputed.

        Raises
        ------
        VerificationError
            With a field ``"policy.<what was violated>"``.
        """
        for name, value, most in (
            ("max_epsilon", certificate.epsilon, self.max_epsilon),
            ("max_delta", certificate.delta, self.max_delta),
        ):
            if most is not None and not value <= most:
                raise VerificationError(f"policy.{name}", f"the claim must be at most {most!r}, got {value!r}")
        now = certificate.standing()
        if not self.allow_conditional and now.status != "certified":
            reasons = "; ".join(now.conditions) or "an estimate certifies nothing"
            raise VerificationError("policy.allow_conditional", f"must be certified, got {now.status}: {reasons}")
        noise, run = getattr(certificate, "noise", None), getattr(certificate, "run", None)
        of_program = getattr(run, "program", None) is not None or (noise is not None and noise.of_program)
        if self.of_program and not of_program:
            raise VerificationError(
                "policy.of_program", "the claim must be about the program that ran, got one about real numbers"
            )
        if self.public_key is not None:
            try:
                certificate.verify_signature(self.public_key)
            except VerificationError as error:
                raise VerificationError("policy.public_key", str(error)) from None
