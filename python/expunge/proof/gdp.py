"""Gaussian differential privacy in ball arithmetic: delta, epsilon and mu from one another, enclosed."""

from __future__ import annotations

import math

from flint import arb, ctx

from expunge._validate import number
from expunge.accounting import gdp as approximate
from expunge.proof.balls import ball, relative_bits, sharpened, zero
from expunge.proof.roots import enclosed_least, enclosed_root
from expunge.runs.enclosures import Enclosure

__all__ = ["delta_ball", "gdp_delta", "gdp_epsilon", "gdp_mu"]

_GUARD = 4096


def _upper_tail(x: arb) -> arb:
    """Return P(N(0, 1) > x)."""
    return (x / arb(2).sqrt()).erfc() / 2


def delta_ball(mu: arb, epsilon: arb) -> arb:
    """Return delta of mu-GDP at epsilon, for a mu that is exactly 0 or above it: [BW18, arXiv 1805.06530], theorem 8.

    Small mu lose digits to the difference of two tails: precision is raised until no more than the arguments' own are.
    """
    if mu.is_zero():
        return zero()
    before, wanted = ctx.prec, ctx.prec - 16
    exact = mu.is_exact() and epsilon.is_exact()
    try:
        while True:
            ratio, half = epsilon / mu, mu / 2
            found = _upper_tail(ratio - half) - epsilon.exp() * _upper_tail(ratio + half)
            if relative_bits(found) >= wanted or not exact or ctx.prec >= before + _GUARD:
                return found
            ctx.prec = 2 * ctx.prec
    finally:
        ctx.prec = before


def gdp_delta(*, mu: float, epsilon: float) -> Enclosure:
    """Return an enclosure of the delta at which a mu-GDP mechanism is (epsilon, delta)-DP.

    Parameters
    ----------
    mu, epsilon : float
        Finite and >= 0; their exact values count.

    Returns
    -------
    Enclosure
        `expunge.accounting.gdp_delta` is never below it.

    Examples
    --------
    >>> from expunge import accounting, proof
    >>> found = proof.gdp_delta(mu=1.0, epsilon=1.0)
    >>> found.lower_text
    '0.126936737506643945800829624757'
    >>> found.lower <= accounting.gdp_delta(1.0, 1.0)
    True
    """
    mu = number("mu", mu, low=0.0)
    epsilon = number("epsilon", epsilon, low=0.0)
    return sharpened(lambda: delta_ball(ball(mu), ball(epsilon)), low=0.0, high=1.0)


def _log_excess(mu: arb, epsilon: arb, delta: arb) -> arb:
    return delta_ball(mu, epsilon).log() - delta.log()


def gdp_epsilon(*, mu: float, delta: float) -> Enclosure:
    """Return an enclosure of the smallest epsilon at which a mu-GDP mechanism is (epsilon, delta)-DP.

    Parameters
    ----------
    mu : float
        Finite and >= 0.
    delta : float
        Within [0, 1].

    Returns
    -------
    Enclosure
        Of 0 where ``delta`` is at least the delta at epsilon 0; infinite for ``delta = 0`` unless ``mu = 0``.

    Examples
    --------
    >>> from expunge import proof
    >>> proof.gdp_epsilon(mu=1.0, delta=1e-5).upper_text[:20]
    '4.377178095681224608'
    """
    mu = number("mu", mu, low=0.0)
    delta = number("delta", delta, low=0.0, high=1.0)
    if mu == 0.0 or delta == 1.0:
        return _exactly(0.0)
    if delta == 0.0:
        return _exactly(math.inf)

    guess = float(approximate.gdp_epsilon(mu, delta))
    return sharpened(lambda: enclosed_least(lambda x: _log_excess(ball(mu), x, ball(delta)), guess), low=0.0)


def gdp_mu(*, epsilon: float, delta: float) -> Enclosure:
    """Return an enclosure of the largest mu whose mu-GDP mechanisms are (epsilon, delta)-DP.

    Parameters
    ----------
    epsilon : float
        Finite and >= 0.
    delta : float
        Within [0, 1].

    Returns
    -------
    Enclosure
        0 for ``delta = 0``, infinite for ``delta = 1``.

    Examples
    --------
    >>> from expunge import proof
    >>> proof.gdp_mu(epsilon=1.0, delta=1e-5).lower_text[:20]
    '0.268051123211294219'
    """
    epsilon = number("epsilon", epsilon, low=0.0)
    delta = number("delta", delta, low=0.0, high=1.0)
    if delta in (0.0, 1.0):
        return _exactly(0.0 if delta == 0.0 else math.inf)
    guess = float(approximate.gdp_mu(epsilon, delta))

    def excess(mu: arb) -> arb:
        return _log_excess(mu, ball(epsilon), ball(delta))

    return sharpened(lambda: enclosed_root(excess, guess, increasing=True), low=0.0)


def _exactly(value: float) -> Enclosure:
    return Enclosure(value, value, repr(value), repr(value), 53)
