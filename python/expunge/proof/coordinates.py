"""The numbers of two Gaussian laws that their privacy profile depends on, as balls."""

from __future__ import annotations

from dataclasses import dataclass

from flint import arb

from expunge.accounting.gaussian_pair import GaussianPair
from expunge.proof.balls import ball, zero

__all__ = ["Coordinates"]


@dataclass(frozen=True)
class Coordinates:
    """The numbers of a pair that its profile depends on, as balls: Q = N(0, I), P = N(d, I + diag excess).

    Attributes
    ----------
    excess : list of arb
        Excess variances, each exactly 0 or away from it, > -1.
    square : list of arb
        Squared lengths of the shifts, all columns together, each exactly 0 or above it.
    columns : int
        Columns that share a covariance.
    """

    excess: list[arb]
    square: list[arb]
    columns: int

    @classmethod
    def of(cls, pair: GaussianPair) -> Coordinates:
        """Return the coordinates of a pair, without those in which the laws are the same; its errors are left out."""
        excess, square = [], []
        for e, row in zip(pair.excess_variance.tolist(), pair.shift.tolist(), strict=True):
            if e or any(row):
                excess.append(ball(e))
                square.append(sum((ball(d) * ball(d) for d in row), zero()))
        return cls(excess, square, pair.shift.shape[1])

    def swapped(self) -> Coordinates:
        """Return the pair with its roles exchanged, whitened by the old P."""
        scale = [1 + e for e in self.excess]
        excess = [zero() if e.is_zero() else -e / s for e, s in zip(self.excess, scale, strict=True)]
        square = [zero() if d.is_zero() else d / s for d, s in zip(self.square, scale, strict=True)]
        return Coordinates(excess, square, self.columns)

    def in_direction(self, direction: str) -> Coordinates:
        """Return the pair, or the swapped one for ``"qp"``."""
        return self.swapped() if direction == "qp" else self

    def log_moment(self, w: arb) -> arb:
        """Return log E_P[(P/Q)^w] of a real w > 0; not finite where it is infinite, or may be."""
        total = zero()
        for e, d in zip(self.excess, self.square, strict=True):
            rest = 1 - w * e
            if not rest > 0:
                return arb("inf") if rest <= 0 else arb(0, "inf")
            total += w * (1 + w) * d / (2 * rest) - self.columns * (rest.log() + w * e.log1p()) / 2
        return total

    @property
    def largest_loss(self) -> arb | None:
        """Return the largest privacy loss, or None where it is unbounded."""
        total = zero()
        for e, d in zip(self.excess, self.square, strict=True):
            if e > 0 or e.is_zero():
                return None  # with e = 0 there is a shift, or the coordinate would have been left out
            total -= d / (2 * e) + self.columns * e.log1p() / 2
        return total
