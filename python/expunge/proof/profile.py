"""The privacy profile of two Gaussian laws in ball arithmetic: deltas, epsilons and Renyi divergences, enclosed."""

from __future__ import annotations

from flint import arb, ctx

from expunge._validate import choice, number
from expunge.accounting.gaussian_pair import GaussianPair
from expunge.proof.balls import ball, sharpened, zero
from expunge.proof.contour import Contour
from expunge.proof.coordinates import Coordinates
from expunge.proof.roots import enclosed_least
from expunge.runs.enclosures import Enclosure

__all__ = ["delta_ball", "pair_delta", "pair_epsilon", "pair_renyi"]

_MOST_BITS = 1024


def delta_ball(pair: Coordinates, epsilon: arb, *, bits: int) -> arb:
    """Return a ball that contains E_Q[(P/Q - e^epsilon)_+], known to about ``bits`` bits.

    ``epsilon`` may be a ball: the result then contains the delta of each of its values.
    """
    if not pair.excess:
        return (1 - epsilon.exp()).nonnegative_part() if not epsilon >= 0 else zero()
    largest = pair.largest_loss
    if largest is not None and epsilon >= largest:
        return zero()
    return Contour(pair, epsilon).integral(bits)


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

        return enclosed_least(excess, float(pair.epsilon(delta, direction=direction)))

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
