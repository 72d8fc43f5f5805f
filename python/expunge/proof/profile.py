"""The privacy profile of two Gaussian laws in ball arithmetic.

Q = N(0, I) and P = N(d, I + diag e) on p coordinates and q columns. With M(w) = E_P[(P/Q)^w] and any c > 0 for which
M(c) is finite, the delta of P against Q is the integral of e^(-w epsilon) M(w) / (2 pi i w (1 + w)) over a contour
through c. The contour here is c + t (C + i): upright, or bent to the side on which the integrand falls where laws of
few coordinates would need a long way. `acb.integral` encloses it up to t = T; what lies beyond is bounded, coordinate
by coordinate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flint import acb, arb, ctx

from expunge._validate import choice, number
from expunge.accounting.gaussian_pair import GaussianPair
from expunge.proof.balls import ball, sharpened, zero
from expunge.proof.roots import enclosed_root
from expunge.runs.enclosures import Enclosure

__all__ = ["Coordinates", "delta_ball", "pair_delta", "pair_epsilon", "pair_renyi"]

# Tangent of the contour's lean; it stands upright where that ends within so many widths of the integrand.
_LEAN, _UPRIGHT = 0.5, 512
# Up to this size rho z goes by power series, three bits a term.
_SMALL, _SMALL_BITS = 0.125, 3
# An exponent below which delta is not computed but bounded.
_FAINT = 2.0**50
_EVALUATIONS = 30_000
_MOST_BITS = 1024


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


def delta_ball(pair: Coordinates, epsilon: arb, *, bits: int) -> arb:
    """Return a ball that contains E_Q[(P/Q - e^epsilon)_+], known to about ``bits`` bits.

    ``epsilon`` may be a ball: the result then contains the delta of each of its values.
    """
    if not pair.excess:
        return (1 - epsilon.exp()).nonnegative_part() if not epsilon >= 0 else zero()
    largest = pair.largest_loss
    if largest is not None and epsilon >= largest:
        return zero()
    return _Contour(pair, epsilon).integral(bits)


class _Contour:
    """The integral of a pair's profile at one epsilon, along w = c + z with z = t (C + i).

    Everything is written around c, where the exponent hardly changes, so that wide balls stay narrow. With
    rho = e / (1 - c e), a coordinate contributes to the exponent its value and slope at c and z^2 G / (1 - rho z), and
    the factor (1 - rho z)^(-q/2). Coordinates with small rho z are summed up by power series, their remainder included.
    """

    def __init__(self, pair: Coordinates, epsilon: arb) -> None:
        self.q, self.epsilon = pair.columns, epsilon
        c = self.c = _saddle(pair, epsilon)
        # Those with large rho first: for which rho z is not small are a prefix.
        ratio = [e / (1 - c * e) for e in pair.excess]
        order = sorted(range(len(ratio)), key=lambda i: -abs(float(ratio[i].mid())))
        self.rho = [ratio[i] for i in order]
        self.sizes = [float(abs(one).upper()) * (1 + 1e-9) for one in self.rho]
        value, slope = zero(), zero()
        self.g: list[arb] = []
        for i in order:
            e, h, a = pair.excess[i], pair.square[i] / 2, 1 - c * pair.excess[i]
            value += h * c * (1 + c) / a - self.q * (a.log() + c * e.log1p()) / 2
            slope += h * (1 + 2 * c + c * (1 + c) * e / a) / a - self.q * e.log1p() / 2
            self.g.append(h * (1 + e) / a**3)
        self.value, slope = value - c * epsilon, slope - epsilon
        count, self.terms = len(order), int(ctx.prec) // _SMALL_BITS + 3
        # Of the prefix before each cut: its share of the slope and the value, once written around infinity.
        slopes, values, self.residue = [slope], [self.value], []
        for rho, g in zip(self.rho, self.g, strict=True):
            far = zero() if rho.is_zero() or g.is_zero() else g / rho
            slopes.append(slopes[-1] - far)
            values.append(values[-1] - (zero() if far.is_zero() else far / rho))
            self.residue.append(zero() if far.is_zero() else far / rho)
        # Of the suffix from each cut on: power sums of rho, alone and weighted by G, without signs for the remainder.
        series = [zero()] * self.terms
        weighted = [zero()] * self.terms
        self.series, self.weighted, self.bounds = [series], [weighted], [(zero(), zero())]
        for rho, g in zip(reversed(self.rho), reversed(self.g), strict=True):
            power = arb(1)
            series, weighted = list(series), list(weighted)
            for k in range(self.terms):
                weighted[k] = weighted[k] + g * power
                series[k] = series[k] + power * rho * rho
                power = power * rho
            last = self.bounds[-1]
            self.bounds.append((last[0] + rho * rho, last[1] + g))
            self.series.append(series)
            self.weighted.append(weighted)
        for name in ("series", "weighted", "bounds"):
            getattr(self, name).reverse()
        total = zero()
        linear = [zero()]
        for rho in reversed(self.rho):
            total = total + self.q * rho / 2
            linear.append(total)
        self.slopes = [one + two for one, two in zip(slopes, reversed(linear), strict=True)]
        self.values, self.last_slope = values, slopes[-1]
        self.count = count
        bend = sum((2 * one for one in self.g), zero()) + sum((self.q * one * one / 2 for one in self.rho), zero())
        width = self.width = 1 / (bend + 1 / c**2 + 1 / (1 + c) ** 2).sqrt()
        self.scale = (self.value.exp() / (c * (1 + c)) * width).mid()  # about the size of the integral

    def integrand(self, z: acb, analytic: bool) -> acb:
        """Return e^(-w epsilon) M(w) / (w (1 + w)) at w = c + z, or nothing finite where it is not analytic."""
        if not z.is_finite():
            return acb("nan")
        size = float(abs(z).upper()) * (1 + 1e-9)
        cut, product, beyond = 0, acb(1), acb(0)
        odd = self.q % 2 == 1
        while cut < self.count and self.sizes[cut] * size > _SMALL:
            u = 1 - self.rho[cut] * z
            product = product * (u.sqrt(analytic=analytic) if odd else u)
            if not self.residue[cut].is_zero():
                beyond = beyond + self.residue[cut] / u
            cut += 1
        product = product**self.q if odd else product ** (self.q // 2)
        w = self.c + z
        exponent = self.values[cut] + beyond + z * (self.slopes[cut] + z * self._small(z, cut))
        return exponent.exp() / (product * w * (1 + w))

    def _small(self, z: acb, cut: int) -> acb:
        """Return what the coordinates from ``cut`` on contribute, divided by z^2 and without their slope."""
        if cut == self.count:
            return acb(0)
        series, weighted = self.series[cut], self.weighted[cut]
        total = acb(0)
        for k in reversed(range(self.terms)):
            total = total * z + (weighted[k] + self.q * series[k] / (2 * (k + 2)))
        x = abs(z) * ball(self.sizes[cut])
        squares, weights = self.bounds[cut]
        left = (weights + self.q * squares / (2 * (self.terms + 2))) * x**self.terms / (1 - x)
        rest = _around(left)
        return total + acb(rest, rest)

    def tail(self, far: arb, lean: float) -> arb:
        """Return a bound on what the integral over t >= T comes to; infinite where there is none."""
        C = ball(lean)
        if not lean:  # the modulus itself, which falls from coordinate to coordinate
            exponent, product = self.value, arb(1)
            for rho, g in zip(self.rho, self.g, strict=True):
                size = 1 + (rho * far) * (rho * far)
                exponent -= g * far * far / size
                product = product * size
            return exponent.exp() / product.sqrt().sqrt() ** self.q / (arb.pi() * far)
        if not C * self.last_slope <= 0:
            return arb("inf")
        exponent, product = self.value_at_infinity + self.last_slope * C * far, arb(1)
        for rho, g, rest in zip(self.rho, self.g, self.residue, strict=True):
            if rho.is_zero():
                exponent += g * (C * C - 1) * far * far
                continue
            if C * rho <= 0 or abs(rho) * far * (1 + C * C) >= abs(C):  # |1 - rho z| grows from here on
                size = ((1 - rho * C * far) ** 2 + (rho * far) ** 2).sqrt()
            else:
                size = 1 / (1 + C * C).sqrt()
            exponent += rest / size
            product = product * size
        return exponent.exp() / product.sqrt() ** self.q * (1 + C * C).sqrt() / (arb.pi() * far)

    def _far(self, lean: float, wanted: arb, most: arb | None) -> arb | None:
        """Return a T beyond which little is left, or None if there is none up to ``most``."""
        far = self.c * arb(2) ** -30
        for _ in range(2000):
            if most is not None and far > most:
                return None
            if self.tail(far, lean) <= wanted:
                return far
            far = far * 4
        return None

    @property
    def value_at_infinity(self) -> arb:
        """Value of the exponent with every coordinate written around infinity."""
        return self.values[-1]

    def integral(self, bits: int) -> arb:
        """Return delta."""
        if self.value < -_FAINT:  # Chernoff's bound: e^(-w x) (1 - e^-x) is at most 1 / (1 + w)
            return zero().union(self.value.exp() / (1 + self.c))
        kappa = self.last_slope
        lean, wanted = 0.0, self.scale * arb(2) ** (-bits)
        far = self._far(lean, wanted, self.width * _UPRIGHT)
        if far is None and not kappa.contains(0):
            lean = -_LEAN if kappa > 0 else _LEAN
        if far is None:
            far = self._far(lean, wanted, None)
        if far is None:
            return arb(0, "inf")
        rest = self.tail(far, lean)
        # No finer than the integrand is known.
        known = max(int(self.integrand(acb(0), False).rel_accuracy_bits()) - 8, 4)
        bits, wanted = min(bits, known), wanted.max(self.scale * arb(2) ** -known)
        found = acb.integral(
            self.integrand,
            acb(0),
            acb(lean, 1) * far,
            rel_tol=arb(2) ** (-bits),
            abs_tol=wanted,
            eval_limit=_EVALUATIONS,
            depth_limit=4000,
        )
        # Below the axis lies the mirror image: what is left of both is the imaginary part.
        return found.imag / arb.pi() + _around(rest)


def _saddle(pair: Coordinates, epsilon: arb) -> arb:
    """Return an exact c > 0 near the least of the integrand on the positive axis."""
    e = np.array([float(one.mid()) for one in pair.excess])
    h = np.array([float(one.mid()) for one in pair.square]) / 2
    level = float((epsilon + sum((one.log1p() for one in pair.excess), zero()) * pair.columns / 2).mid())
    top = float(e.max(initial=0.0))

    def slope(c: float) -> float:
        rest = 1.0 - c * e
        parts = h * ((1.0 + 2.0 * c) / rest + c * (1.0 + c) * e / rest**2) + 0.5 * pair.columns * e / rest
        return float(parts.sum()) - level - 1.0 / c - 1.0 / (1.0 + c)

    low, high = -700.0, 700.0
    if top > 0.0:
        high = min(high, -math.log(top))
    with np.errstate(all="ignore"):
        for _ in range(200):
            middle = 0.5 * (low + high)
            c = math.exp(middle)
            if c * top < 1.0 and slope(c) < 0.0:
                low = middle
            else:
                high = middle
    c = math.exp(low)
    while top > 0.0 and not all(1 - ball(c) * one > 0 for one in pair.excess):
        c *= 1.0 - 1e-9
    return ball(c)


def _around(size: arb) -> arb:
    """Return the ball of everything up to ``size`` from 0."""
    return size.union(-size)


def _goal() -> int:
    return int(ctx.prec) - 40


def pair_delta(pair: GaussianPair, *, epsilon: float, direction: str) -> Enclosure:
    """Return an enclosure of delta of a Gaussian pair in one direction.

    Parameters
    ----------
    pair : GaussianPair
        Its exact numbers count; `excess_error` and `shift_error` are left out.
    epsilon : float
        Finite and >= 0.
    direction : {"pq", "qp"}
        P against Q, or the reverse.

    Examples
    --------
    >>> from expunge import proof
    >>> from expunge.accounting import GaussianPair
    >>> pair = GaussianPair([0.1, -0.05], [[0.3], [0.2]])
    >>> proof.pair_delta(pair, epsilon=0.5, direction="pq").lower_text[:20]
    '0.024876101426029270'
    """
    epsilon = number("epsilon", epsilon, low=0.0)
    choice("direction", direction, ("pq", "qp"))

    def compute() -> arb:
        return delta_ball(Coordinates.of(pair).in_direction(direction), ball(epsilon), bits=min(_goal(), 90))

    return sharpened(compute, low=0.0, high=1.0, most=_MOST_BITS)


def pair_epsilon(pair: GaussianPair, *, delta: float, direction: str) -> Enclosure:
    """Return an enclosure of the smallest epsilon at which a Gaussian pair has a delta of at most the given one.

    Parameters
    ----------
    pair, direction
        As for `pair_delta`.
    delta : float
        Within [0, 1]; for 0 the largest privacy loss, infinite if there is none.

    Examples
    --------
    >>> from expunge import proof
    >>> from expunge.accounting import GaussianPair
    >>> pair = GaussianPair([0.1], [[0.3]])
    >>> found = proof.pair_epsilon(pair, delta=1e-5, direction="pq")
    >>> found.lower <= pair.epsilon(1e-5, direction="pq")
    True
    """
    delta = number("delta", delta, low=0.0, high=1.0)
    choice("direction", direction, ("pq", "qp"))

    def compute() -> arb:
        coordinates = Coordinates.of(pair).in_direction(direction)
        if not coordinates.excess or delta == 1.0:
            return zero()
        if delta == 0.0:
            largest = coordinates.largest_loss
            return arb("inf") if largest is None else largest

        def excess(epsilon: arb) -> arb:
            return delta_ball(coordinates, epsilon, bits=min(_goal(), 90)).log() - ball(delta).log()

        at_zero = excess(zero())
        if at_zero <= 0:
            return zero()
        if not at_zero > 0:
            return arb(0, "inf")
        guess = min(max(float(pair.epsilon(delta, direction=direction)), 1e-300), 1e300)
        return enclosed_root(excess, guess, increasing=False)

    return sharpened(compute, low=0.0, most=_MOST_BITS)


def pair_renyi(pair: GaussianPair, *, order: float, direction: str) -> Enclosure:
    """Return an enclosure of the Renyi divergence of a Gaussian pair.

    Parameters
    ----------
    pair, direction
        As for `pair_delta`.
    order : float
        Finite and > 1.

    Examples
    --------
    >>> from expunge import proof
    >>> from expunge.accounting import GaussianPair
    >>> proof.pair_renyi(GaussianPair([0.0], [[2.0]]), order=3.0, direction="pq").upper
    6.0
    """
    order = number("order", order, low=1.0, open_low=True)
    choice("direction", direction, ("pq", "qp"))

    def compute() -> arb:
        above = ball(order) - 1
        return Coordinates.of(pair).in_direction(direction).log_moment(above) / above

    return sharpened(compute, low=0.0, most=_MOST_BITS)
