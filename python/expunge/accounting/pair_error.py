"""Bounds on a privacy profile when one law of a pair is only known to lie near a Gaussian.

The true law P' is a Gaussian near P. For every set, the triangle inequality of the hockey-stick divergence

    P'(S) - e^eps Q(S) <= e^s (P(S) - e^(eps - s) Q(S)) + delta_{P'|P}(s)
    Q(S) - e^eps P'(S) <= Q(S) - e^(eps - s) P(S) + e^(eps - s) delta_{P|P'}(s)

holds for every s, and near laws have a delta at s that falls like exp(-s^2): s is chosen so that it is negligible. The
Renyi divergence bounds it: with G = P^(-1/2) P' P^(-1/2) - I, its Frobenius norm h, and t the whitened distance of the
means, D_a(P'|P) <= a (t^2 + q h^2 / 2) as long as (a - 1) h <= 1/2, since -log(1 - x) <= x + x^2 for |x| <= 1/2 and
log(1 + h) >= h - h^2; and delta(s) <= exp((a - 1) (D_a - s)). docs/theory.md has the whole argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.accounting._float_mode import ieee_arithmetic

__all__ = ["Nearness", "near_delta", "near_epsilon", "near_renyi"]

Array = NDArray[np.float64]

_OUT = 1.0 + 1e-12
_EPS = float(np.finfo(np.float64).eps)
_LEAST = 1e-140  # its square is still a number
_LEAST_DELTA = 1e-290  # 1e-16 of it, which is added for what lies beyond the loss, is a normal number

Deltas = Callable[[Array], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Nearness:
    """How far two Gaussians N(m, S) and N(m', S') with ``columns`` independent columns can be from one another.

    Attributes
    ----------
    spread : float
        Bound on the Frobenius norm of S^(-1/2) S' S^(-1/2) - I, with either as S.
    length : float
        Bound on the norm of S^(-1/2) (m - m').
    columns : float
        Columns that share a covariance.
    """

    spread: float
    length: float
    columns: float

    @classmethod
    def of(cls, spread: float, length: float, columns: float) -> Nearness:
        """Return the nearness with bounds that were whitened by one of the laws made good for the other too."""
        room = 1.0 - spread
        return cls(
            max(spread / room * _OUT, _LEAST) if spread > 0.0 else 0.0,
            max(length / math.sqrt(room) * _OUT, _LEAST) if length > 0.0 else 0.0,
            columns,
        )

    @property
    def slope(self) -> float:
        """The r for which the Renyi divergence of order a is at most a r, while (a - 1) spread <= 1/2."""
        return (self.length * self.length + 0.5 * self.columns * self.spread * self.spread) * _OUT

    @property
    def total_variation(self) -> float:
        """Bound on the total variation, by Pinsker's inequality from the divergence of order 1."""
        return min(math.sqrt(0.5 * self.slope) * _OUT, 1.0)

    def loss(self, level: Array) -> Array:
        """Return an s at which delta is at most exp(-level), in both directions."""
        r = self.slope
        with np.errstate(divide="ignore", over="ignore"):
            order = np.minimum(np.sqrt(level / r), np.inf if self.spread == 0.0 else 0.5 / self.spread)
            return np.asarray((level / order + (order + 1.0) * r) * _OUT)

    @property
    def last(self) -> float:
        """An epsilon of at least 700 up to which losses stay small; beyond it, what is known there is as good.

        With r the slope and c the largest order, the loss of a level l is at most 2 max(sqrt(l r), l/c) + r.
        """
        with np.errstate(over="ignore"):
            largest = 0.5 / self.spread if self.spread > 0.0 else math.inf
            level = min(0.3 * 0.3 / self.slope, 0.3 * largest)
        return max(level - 708.0, 700.0)  # 40, and the logarithm of any delta

    def renyi(self, order: Array) -> Array:
        """Return a bound on the Renyi divergence of the given order, infinite where none is known."""
        with np.errstate(over="ignore"):
            return np.where((order - 1.0) * self.spread <= 0.5, order * self.slope * _OUT, np.inf)


@ieee_arithmetic
@np.errstate(under="ignore")
def near_delta(near: Nearness, delta: Deltas, epsilon: Array) -> tuple[Array, Array, Array]:
    """Return delta of any law that the true one may be, its relative error and whether it converged.

    ``delta`` gives the same of P itself in one direction, at finite epsilons >= 0.
    """
    epsilon = np.minimum(epsilon, near.last)  # delta only falls beyond it
    base, error, converged = delta(epsilon)
    if epsilon.size == 0:
        return base, error, converged
    floor = np.maximum(base, _LEAST_DELTA)
    loss = near.loss(40.0 + epsilon - np.log(floor))  # delta there, times e^epsilon, is at most e^-40 of the floor
    inside = loss <= np.minimum(epsilon, 700.0)  # beyond it e^loss overflows
    closer = np.where(inside, np.nextafter(epsilon - loss, 0.0), 0.0)
    moved, error, converged = delta(np.append(closer, 0.0))
    with np.errstate(over="ignore"):
        shifted = np.where(inside, moved[:-1] * np.exp(np.where(inside, loss, 0.0)) + 1e-16 * floor, 1.0)
    result = np.minimum(np.minimum(shifted, moved[-1] + near.total_variation) * (1.0 + 16.0 * _EPS), 1.0)
    result = np.maximum(result, base)
    added = (result - base) / np.maximum(result, _LEAST_DELTA)
    return result, np.minimum(error[:-1] + added, 1.0), converged[:-1]


@ieee_arithmetic
@np.errstate(under="ignore")
def near_epsilon(near: Nearness, delta: Deltas, epsilon: Callable[[Array], Array], target: Array) -> Array:
    """Return epsilons at which `near_delta` is at most each target in [0, 1]; ``epsilon`` gives that of P itself."""
    out = np.where(target > 0.0, epsilon(target), np.inf)
    if target.size == 0:
        return out
    some = np.isfinite(out)
    with np.errstate(over="ignore", invalid="ignore"):
        loss = near.loss(44.0 + out[some] - np.log(target[some]))
        lower = target[some] * np.exp(-loss) * (1.0 - 1e-14)
        out[some] = np.where(lower > 0.0, (epsilon(lower) + loss) * (1.0 + 4.0 * _EPS), np.inf)
    out[target >= near_delta(near, delta, np.zeros(1))[0][0]] = 0.0
    step = np.zeros_like(out)
    step[some] = loss
    for _ in range(64):  # where the loss grew with epsilon
        left = np.flatnonzero(np.isfinite(out))
        left = left[~(near_delta(near, delta, out[left])[0] <= target[left])]
        if left.size == 0:
            return out
        out[left] += step[left]
        step[left] *= 2.0
    out[left] = np.inf
    return out


@ieee_arithmetic
@np.errstate(under="ignore")
def near_renyi(near: Nearness, renyi: Callable[[Array], Array], order: Array, swapped: bool) -> Array:
    """Return the divergence of whatever law may be meant, by Hoelder's inequality with P between it and Q.

    With 1/u + 1/v = 1, D_a(A|C) <= (a - 1/u)/(a - 1) D_(u a)(A|B) + D_(v (a - 1/u))(B|C), where v (a - 1/u) is
    a + (a - 1)/(u - 1); u is near the one at which least is added. ``renyi`` gives that of P itself; ``swapped`` says
    whether P comes second.
    """
    base, above = renyi(order), order - 1.0
    with np.errstate(all="ignore"):
        if swapped:
            more = np.clip(above * np.sqrt(near.slope / np.maximum(base, near.slope)), 1e-150, 1.0)  # u - 1
            if near.spread > 0.0:  # the order of the second term is one up to which it is known
                more = np.maximum(more, 1.001 * above / np.maximum(0.5 / near.spread - above, 1e-300))
            inner = renyi(np.minimum(order * (1.0 + more), 1e300))
            total = inner * (1.0 + more / (1.0 + more) / above) + near.renyi(order + above / more)
        else:
            more = np.clip(above / order * np.sqrt(base / (order * near.slope)), 1e-150, 1e150)
            if near.spread > 0.0:  # no more than the order up to which the divergence is known
                more = np.minimum(more, np.maximum((1.0 + 0.5 / near.spread) / order - 1.0, 1e-150) / 2.0)
            inner = renyi(np.minimum(order + above / more, 1e300))
            total = inner + near.renyi(order * (1.0 + more)) * (order * (1.0 + more) - 1.0) / (1.0 + more) / above
    return np.maximum(base, np.where(np.isnan(total), np.inf, total * (1.0 + 16.0 * _EPS)))
