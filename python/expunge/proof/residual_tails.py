"""Tails of the norm of a normal vector, in ball arithmetic: which sizes it exceeds with no more than a probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flint import arb
from scipy import stats

from expunge.proof.balls import ball, float_ends, zero
from expunge.runs.ridge.bounds import residual_norm_quantile

__all__ = ["exceeds", "norm_quantiles"]

# Half the noncentrality up to which the series of the tail is summed; it takes about as many terms.
_LONGEST = 5_000
_OUTWARD = (1e-14, 1e-11, 1e-9)


def _normal_tail(x: arb) -> arb:
    return (x / arb(2).sqrt()).erfc() / 2


def _central_tail(x: arb, q: int) -> arb:
    """Return the probability that the square of a standard normal vector of q coordinates exceeds 2 x."""
    return x.gamma_upper(arb(q) / 2, regularized=1)


def exceeds(size: arb, distance: arb, variance: arb, q: int) -> arb | None:
    """Return a ball that contains the tail beyond ``size`` of the norm of N(m, v I_q), m of length ``distance``.

    None where the mean is so far off that the series is long.

    A noncentral chi-square tail is a Poisson mixture of central ones, which grow by a recurrence of positive terms;
    what is left of the mixture is a geometric series at most.
    """
    if q == 1:
        std = variance.sqrt()
        return _normal_tail((size - distance) / std) + _normal_tail((size + distance) / std)
    half, x = distance * distance / (2 * variance), size * size / (2 * variance)
    if not half < _LONGEST:
        return None
    weight, tail, a = (-half).exp(), _central_tail(x, q), arb(q) / 2
    step = (a * x.log() - x - (a + 1).lgamma()).exp()
    total, j = zero(), 0
    while True:
        total += weight * tail
        j += 1
        weight = weight * half / j
        tail, step, a = tail + step, step * x / (a + 1), a + 1
        if half < j + 1:
            rest = weight / (1 - half / (j + 1))
            if rest < total * arb(2) ** -64:
                return total + zero().union(rest)


def norm_quantiles(distance: Sequence[arb], variance: Sequence[arb], q: int, tail: arb) -> list[tuple[arb, arb]]:
    """Return, for each of several normal vectors, sizes around that which its norm exceeds with a probability.

    Parameters
    ----------
    distance, variance : sequences of arb
        Norms of means, and variances of every coordinate, each exactly 0 or above it.
    q : int
        Coordinates.
    tail : arb
        The probability, at most 1/2.

    Returns
    -------
    list of tuple of arb
        Exact numbers: the size is at least the first, and the second is proved to be exceeded with no more than the
        probability, by the tail itself or, far from 0, by the triangle inequality.
    """
    guesses = residual_norm_quantile(
        np.array([float_ends(one)[1] for one in distance]),
        np.array([float_ends(one)[1] for one in variance]),
        q,
        max(float(tail.mid()), 5e-324),
    )
    return [_around(float(guess), d, v, q, tail) for guess, d, v in zip(guesses, distance, variance, strict=True)]


def _around(guess: float, distance: arb, variance: arb, q: int, tail: arb) -> tuple[arb, arb]:
    if variance.is_zero():
        return distance.lower(), distance.upper()
    if not np.isfinite(guess):
        raise ArithmeticError("a bound on a residual leaves the range of float64")
    std = variance.sqrt()

    def enough(size: arb) -> bool:
        room = (size - distance) / std
        if room > 0 and _central_tail(room * room / 2, q) <= tail:
            return True
        chance = exceeds(size, distance, variance, q)
        return chance is not None and bool(chance <= tail)

    def needed(size: arb) -> bool:
        if _normal_tail((size - distance) / std) >= tail:  # of the coordinate along the mean
            return True
        chance = exceeds(size, distance, variance, q)
        return chance is not None and bool(chance >= tail)

    upper = next((one for one in (ball(guess * (1 + out)) for out in _OUTWARD) if enough(one)), None)
    if upper is None:
        raise ArithmeticError(f"a quantile of a residual's norm near {guess!r} could not be proved")
    # The coordinate along the mean alone, where the triangle inequality gave the guess.
    along = (distance + std * ball(float(stats.norm.isf(float(tail.mid()))) * (1 - 1e-13))).lower()
    inward = (*(ball(guess * (1 - out)) for out in _OUTWARD), along)
    lower = next((one for one in inward if needed(one)), distance.lower().max(zero()).lower())
    return lower, upper
