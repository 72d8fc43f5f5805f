"""Renyi accounting in ball arithmetic: the sampled Gaussian mechanism, and epsilon from divergences."""

from __future__ import annotations

import numpy as np
from flint import acb, arb, ctx
from numpy.typing import ArrayLike

from expunge._validate import choice, number, real_array
from expunge.proof.balls import ball, sharpened, zero
from expunge.runs.enclosures import Enclosure

__all__ = ["rdp_to_epsilon", "sampled_gaussian_rdp"]

# Bits of a moment to which its integral is enclosed, beyond those that its difference from 1 takes.
_BITS = 84


def _tail(x: arb) -> arb:
    return (x / arb(2).sqrt()).erfc() / 2


def _moment(power: arb, s: arb, q: arb, bits: int) -> arb:
    """Return E[(1 - q + q e^((2 s t - 1)/(2 s^2)))^power] over a standard normal t, to 2^-bits."""
    stay, growth = 1 - q, 1 / s
    shift = -1 / (2 * s * s)
    root = (2 * arb.pi()).sqrt()

    def integrand(t: acb, analytic: bool) -> acb:
        base = q * (t * growth + shift).exp() + stay
        return (base.log(analytic=analytic) * power - t * t / 2).exp() / root

    grown = (power * shift + power * power * growth * growth / 2).exp()
    scale = (q**power * grown).max(arb(1)).mid() if power > 0 else arb(1)
    reach = (2 * arb(2).log() * (bits + 8 + power.max(zero()))).sqrt().mid() + 2
    low, high = -reach, reach
    if power > 0:
        high = (reach + power * growth).mid()
    if power < 0 and stay.is_zero():
        low = (power * growth - reach).mid()
    found = acb.integral(
        integrand, acb(low), acb(high), abs_tol=scale * arb(2) ** -bits, rel_tol=arb(2) ** -bits, eval_limit=10**6,
        depth_limit=2000,
    ).real  # fmt: skip
    if power > 0:  # convexity: (a + b)^power <= 2^(power - 1) (a^power + b^power)
        part, grown = stay**power if not stay.is_zero() else zero(), q**power * grown
        left = part * _tail(-low) + grown * _tail(power * growth - low)
        right = part * _tail(high) + grown * _tail(high - power * growth)
        rest = arb(2) ** (power - 1) * (left + right)
    elif stay.is_zero():
        rest = grown * (_tail(power * growth - low) + _tail(high - power * growth))
    else:
        rest = stay**power * (_tail(-low) + _tail(high))
    return found + zero().union(rest)


def sampled_gaussian_rdp(
    *, order: float, noise_multiplier: float, sampling_probability: float, direction: str = "pq"
) -> Enclosure:
    """Return an enclosure of the Renyi divergence that one step of the sampled Gaussian mechanism costs.

    Parameters
    ----------
    order : float
        Renyi order, finite and > 1.
    noise_multiplier : float
        Noise standard deviation over sensitivity, >= 0.
    sampling_probability : float
        Within [0, 1].
    direction : {"pq", "qp"}, default "pq"
        The mixture from the Gaussian, or the reverse.

    Examples
    --------
    >>> from expunge import proof
    >>> found = proof.sampled_gaussian_rdp(order=3.0, noise_multiplier=2.0, sampling_probability=1.0)
    >>> found.lower, found.upper
    (0.375, 0.375)
    """
    order = number("order", order, low=1.0, open_low=True)
    noise = number("noise_multiplier", noise_multiplier, low=0.0, allow_infinite=True)
    probability = number("sampling_probability", sampling_probability, low=0.0, high=1.0)
    choice("direction", direction, ("pq", "qp"))

    def compute() -> arb:
        a, q = ball(order), ball(probability)
        if probability == 0.0 or noise == float("inf"):
            return zero()
        if noise == 0.0:
            if direction == "pq" or probability == 1.0:
                return arb("inf")
            return -(1 - q).log()
        s = ball(noise)
        if probability == 1.0:
            return a / (2 * s * s)
        bits = _BITS
        while True:
            moment = _moment(a if direction == "pq" else 1 - a, s, q, bits)
            found = moment.log() / (a - 1)
            if not found.is_finite() or found.rel_accuracy_bits() >= _BITS - 8 or bits > int(ctx.prec) - 24:
                return found
            bits *= 2

    return sharpened(compute, low=0.0)


def rdp_to_epsilon(rdp: ArrayLike, order: ArrayLike, *, delta: float) -> Enclosure:
    """Return an enclosure of the epsilon implied at ``delta`` by Renyi divergences: the best of the orders given.

    Parameters
    ----------
    rdp, order : array_like of float, shape () or (m,)
        Divergences >= 0 and their orders > 1; exact values count.
    delta : float
        Within [0, 1].

    Returns
    -------
    Enclosure
        Of the formula of `expunge.accounting.rdp_to_epsilon`.

    Examples
    --------
    >>> from expunge import proof
    >>> proof.rdp_to_epsilon(0.5, 10.0, delta=1e-5).upper_text[:20]
    '1.418010636783971771'
    """
    divergences = np.atleast_1d(real_array("rdp", rdp, low=0.0, allow_infinite=True))
    orders = np.atleast_1d(real_array("order", order, low=1.0, open_low=True))
    delta = number("delta", delta, low=0.0, high=1.0)
    try:
        divergences, orders = np.broadcast_arrays(divergences, orders)
    except ValueError:
        raise ValueError(f"rdp and order must broadcast, got {divergences.shape} and {orders.shape}") from None
    if divergences.ndim != 1 or not divergences.size:
        raise ValueError(f"rdp and order must have one axis of at least one order, got shape {divergences.shape}")
    pairs = list(zip(divergences.tolist(), orders.tolist(), strict=True))

    def compute() -> arb:
        best = arb("inf")
        for one, a in pairs:
            best = best.min(_epsilon_of(one, ball(a), delta))
        return best

    return sharpened(compute, low=0.0)


def _epsilon_of(divergence: float, order: arb, delta: float) -> arb:
    if divergence == 0.0 or delta == 1.0:
        return zero()
    if delta == 0.0 or divergence == float("inf"):
        return arb("inf")
    rdp, d = ball(divergence), ball(delta)
    enough = (2 * d * d).max(-(1 - d * d).log())
    if rdp <= enough:
        return zero()
    found = rdp + (1 - 1 / order).log() - (d.log() + order.log()) / (order - 1)
    found = found.max(zero())
    return found if rdp > enough else found.union(zero())
