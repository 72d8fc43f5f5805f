"""The integral of the privacy profile of two Gaussian laws, enclosed in ball arithmetic.

Q = N(0, I) and P = N(d, I + diag e) on p coordinates and q columns. With M(w) = E_P[(P/Q)^w] and any c > 0 for which
M(c) is finite, the delta of P against Q is the integral of e^(-w epsilon) M(w) / (2 pi i w (1 + w)) over a contour
through c; all singularities are real. The contour here is c + t (C + i): upright, or bent to the side on which the
integrand falls where laws of few coordinates would need a long way. `acb.integral` encloses it up to t = T, and from
there on it goes upright: the modulus of every factor falls, and what is left is bounded.
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
from flint import acb, acb_poly, arb

from expunge.proof.balls import ball, upper_size, zero
from expunge.proof.coordinates import Coordinates

__all__ = ["EVALUATIONS", "Contour"]

# Tangents of the contour's lean; those that lean are no ways where the integrand grows again by so much.
_LEANS, _MOUNTAIN = (0.0, -0.5, 0.5), 2.0**10
# Up to the first size rho z goes by power series, three bits a term; beyond the second it is written around infinity.
_SMALL, _SMALL_BITS, _LARGE = 0.125, 3, 4.0
# An exponent below which delta is not computed but bounded.
_FAINT = 2.0**50
EVALUATIONS = 100_000
_DOUBLINGS = 1200


class Contour:
    """The integral of a pair's profile at one epsilon, along w = c + z with z = t (C + i).

    Everything is written around c, where the exponent hardly changes, so that wide balls stay narrow. With
    rho = e / (1 - c e), a coordinate contributes to the exponent its value and slope at c and z^2 G / (1 - rho z), and
    the factor (1 - rho z)^(-q/2).
    """

    def __init__(self, pair: Coordinates, epsilon: arb) -> None:
        self.q = pair.columns
        c = self.c = _saddle(pair, epsilon)
        ratio = [e / (1 - c * e) for e in pair.excess]
        sizes = [upper_size(one) for one in ratio]
        # Those with large rho first, by what bounds them: for which rho z is not small are a prefix.
        order = sorted(range(len(ratio)), key=lambda i: -sizes[i])
        self.rho = [ratio[i] for i in order]
        self.sizes = [sizes[i] for i in order]
        value, slope = zero(), zero()
        self.g: list[arb] = []
        for i in order:
            e, h, a = pair.excess[i], pair.square[i] / 2, 1 - c * pair.excess[i]
            value += h * c * (1 + c) / a - self.q * (a.log() + c * e.log1p()) / 2
            slope += h * (1 + 2 * c + c * (1 + c) * e / a) / a - self.q * e.log1p() / 2
            self.g.append(h * (1 + e) / a**3)
        self.value, self.slope = value - c * epsilon, slope - epsilon
        bend = sum((2 * one for one in self.g), zero()) + sum((self.q * one * one / 2 for one in self.rho), zero())
        self.width = 1 / (bend + 1 / c**2 + 1 / (1 + c) ** 2).sqrt()
        self.scale = (self.value.exp() / (c * (1 + c)) * self.width).mid()  # about the size of the integral

    def tail(self, far: arb, lean: float) -> arb:
        """Return a bound on what is left beyond t = T, where the contour goes on upright from z = x + i T, x = C T.

        With u = 1 - rho z, nothing but Re 1/u and |u| depends on the height: |u| grows with it, and Re 1/u falls where
        1 - rho x > 0, and is below 0 otherwise.
        """
        x, square = ball(lean) * far, 1 + ball(lean) ** 2
        exponent, product = self.value + self.slope * x, arb(1)
        for rho, g in zip(self.rho, self.g, strict=True):
            level, s = 1 - rho * x, rho * far
            size = level * level + s * s
            product = product * size
            if level > 0:
                exponent -= g * (far * far - x * x + rho * x * square * far * far) / size
            elif not g.is_zero():
                exponent -= g / rho * (1 / rho + x)
                if not level <= 0:
                    exponent += g / (rho * rho) * level.nonnegative_part() / (s * s)
        return exponent.exp() / product.sqrt().sqrt() ** self.q / (arb.pi() * far)

    def _far(self, lean: float, wanted: arb, most: arb | None) -> arb | None:
        """Return a T beyond which little is left, or None if there is none up to ``most``, or a mountain before it."""
        far, least = self.width.mid(), arb("inf")
        for _ in range(_DOUBLINGS):
            if most is not None and far > most:
                return None
            rest = self.tail(far, lean)
            if rest <= wanted:
                return far
            least = least.min(rest)
            if lean and not rest <= least * _MOUNTAIN:
                return None
            far = far * 2
        return None

    def _way(self, wanted: arb) -> tuple[float, arb] | None:
        """Return the lean of the contour and where it ends, the nearest; None where no end was found."""
        best: tuple[float, arb] | None = None
        for lean in _LEANS:
            far = self._far(lean, wanted, None if best is None else best[1] / 2)
            if far is not None:
                best = lean, far
        return best

    def integral(self, bits: int) -> arb:
        """Return delta; not finite where the integral does not converge."""
        if self.value < -_FAINT:  # Chernoff's bound: e^(-w x) (1 - e^-x) is at most 1 / (1 + w)
            return zero().union(self.value.exp() / (1 + self.c))
        wanted = self.scale * arb(2) ** (-bits)
        way = self._way(wanted)
        if way is None:
            return arb(0, "inf")
        lean, far = way
        line = _Line(self, lean, bits)
        # No finer than the integrand is known.
        known = max(int(line.integrand(acb(0), False).rel_accuracy_bits()) - 8, 4)
        bits, tolerance = min(bits, known), wanted.max(self.scale * arb(2) ** -known)
        found = acb.integral(
            line.integrand,
            acb(0),
            acb(far),
            rel_tol=arb(2) ** (-bits),
            abs_tol=tolerance,
            eval_limit=EVALUATIONS,
            depth_limit=4000,
        )
        # Below the axis lies the mirror image: what is left of both is the imaginary part.
        return found.imag / arb.pi() + _around(self.tail(far, lean))


class _Line:
    """The integrand of a contour as a function of t, z = t (C + i), with its sums over coordinates prepared.

    Coordinates with small rho z are summed up by power series, their remainder included; those with large rho z are
    written around infinity, where their exponents cancel; those between as they are.
    """

    def __init__(self, contour: Contour, lean: float, bits: int) -> None:
        self.q, self.c = contour.q, contour.c
        self.turn = acb(lean, 1)
        self.stretch = (1 + ball(lean) ** 2).sqrt()
        self.rho = [one * self.turn for one in contour.rho]
        self.sizes = [upper_size(one * self.stretch) for one in contour.rho]
        self.bent = [one * self.turn * self.turn for one in contour.g]
        self.terms = (bits + 48) // _SMALL_BITS
        known = [not (rho.is_zero() or g.is_zero()) for rho, g in zip(contour.rho, contour.g, strict=True)]
        far = [g / rho if k else zero() for rho, g, k in zip(contour.rho, contour.g, known, strict=True)]
        self.residue = [f / rho if k else zero() for rho, f, k in zip(contour.rho, far, known, strict=True)]
        # Of the prefix before each cut: its share of the slope and the value, once written around infinity.
        self.slopes = [one * self.turn for one in accumulate(far, lambda total, f: total - f, initial=contour.slope)]
        self.values = list(accumulate(self.residue, lambda total, r: total - r, initial=contour.value))
        linear = accumulate(reversed(self.rho), lambda total, r: total + self.q * r / 2, initial=acb(0))
        self.linear = list(linear)[::-1]
        self._sum_series(contour)

    def _sum_series(self, contour: Contour) -> None:
        """Prepare, of the suffix from each cut on, the power series, and sums without signs for its remainder."""
        series = [zero()] * self.terms
        weighted = [zero()] * self.terms
        squares, weights = zero(), zero()
        powers = [self.turn * self.turn]
        for _ in range(self.terms - 1):
            powers.append(powers[-1] * self.turn)
        self.series = [acb_poly([])]
        self.remainder: list[arb] = [zero()]
        for rho, g in zip(reversed(contour.rho), reversed(contour.g), strict=True):
            power = arb(1)
            for k in range(self.terms):
                weighted[k] = weighted[k] + g * power
                power = power * rho
                series[k] = series[k] + power * rho
            squares, weights = squares + rho * rho, weights + g
            both = [w + self.q * s / (2 * (k + 2)) for k, (w, s) in enumerate(zip(weighted, series, strict=True))]
            self.series.append(acb_poly([one * two for one, two in zip(both, powers, strict=True)]))
            self.remainder.append((weights + self.q * squares / (2 * (self.terms + 2))) * self.stretch**2)
        self.series.reverse()
        self.remainder.reverse()

    def integrand(self, t: acb, analytic: bool) -> acb:
        """Return e^(-w epsilon) M(w) / (w (1 + w)) dw/dt, or nothing finite where it is not analytic."""
        if not t.is_finite():
            return acb("nan")
        size = upper_size(t)
        cut, product, beyond, between = 0, acb(1), acb(0), acb(0)
        far, odd = 0, self.q % 2 == 1
        while cut < len(self.sizes) and not self.sizes[cut] * size <= _SMALL:
            u = 1 - self.rho[cut] * t
            product = product * (u.sqrt(analytic=analytic) if odd else u)
            if self.sizes[cut] * size > _LARGE:
                far = cut + 1
                if not self.residue[cut].is_zero():
                    beyond = beyond + self.residue[cut] / u
            else:
                between = between + self.bent[cut] / u
            cut += 1
        product = product**self.q if odd else product ** (self.q // 2)
        w = self.c + t * self.turn
        exponent = self.values[far] + beyond
        exponent = exponent + t * (self.slopes[far] + self.linear[cut] + t * (between + self._small(t, cut)))
        return exponent.exp() * self.turn / (product * w * (1 + w))

    def _small(self, t: acb, cut: int) -> acb:
        """Return what the coordinates from ``cut`` on contribute, divided by t^2 and without their slope."""
        if cut == len(self.sizes):
            return acb(0)
        total = self.series[cut](t)
        x = abs(t) * ball(self.sizes[cut])
        rest = _around(self.remainder[cut] * x**self.terms / (1 - x))
        return total + acb(rest, rest)


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
