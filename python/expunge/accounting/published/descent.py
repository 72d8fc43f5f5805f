"""Descent to delete [N21, arXiv 2007.02923]: gradient steps and output noise, as a code base of the field has them."""

from __future__ import annotations

import math

from expunge._validate import count, number
from expunge.accounting.gdp import gdp_mu
from expunge.accounting.published.constants import decayed
from expunge.accounting.published.form import PublishedForm

__all__ = ["descent_to_delete_sigma", "descent_to_delete_steps"]

_SOURCE = "[N21, arXiv 2007.02923], Neel et al. 2021"
_ADJACENCY = "addition or removal of one record"
_EPS = 2.0**-52


def _rate(smoothness: object, strong_convexity: object) -> tuple[float, float, float]:
    """Return m, the contraction (L - m)/(L + m) of a step 2/(L + m), and minus its logarithm."""
    smooth = number("smoothness", smoothness, low=0.0, open_low=True)
    convex = number("strong_convexity", strong_convexity, low=0.0, open_low=True)
    if not convex < smooth:
        raise ValueError(f"strong_convexity must be below smoothness = {smooth:g}, got {convex:g}")
    return convex, (smooth - convex) / (smooth + convex), -math.log1p(-2.0 * convex / (smooth + convex))


def _target(epsilon: object, delta: object) -> tuple[float, float]:
    return (
        number("epsilon", epsilon, low=0.0, open_low=True),
        number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True),
    )


def descent_to_delete_sigma(
    *,
    n_steps: int,
    epsilon: float,
    delta: float,
    smoothness: float,
    strong_convexity: float,
    lipschitz: float,
    n_records: int,
) -> PublishedForm:
    """Return the published noise of a release after some gradient steps for every deletion.

    Parameters
    ----------
    n_steps : int
        Steps I of size ``2 / (L + m)`` for every request, at least 1.
    epsilon, delta : float
        Target, > 0 and within (0, 1).
    smoothness, strong_convexity, lipschitz : float
        Constants L, m and M of each record's loss, > 0, m < L.
    n_records : int
        Records n that the loss is averaged over.

    Returns
    -------
    PublishedForm
        ``value``: noise standard deviation of the release; ``certified``: what exact Gaussian DP needs with the same
        distance.

    Raises
    ------
    TypeError
        If a count is not an integer or another argument not a number.
    ValueError
        If an argument is NaN or out of range.

    Notes
    -----
    [N21, arXiv 2007.02923] as coded in the comparison of [C24, arXiv 2401.10371]: ``sigma = 4 sqrt2 M gamma^I / (m n
    (1 - gamma^I) (sqrt(log(1/delta) + epsilon) - sqrt(log(1/delta))))``, ``gamma = (L - m) / (L + m)``: the distance
    ``8 M gamma^I / (m n (1 - gamma^I))`` by zero-concentrated DP.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> n, m = 10000, 0.01
    >>> found = published.descent_to_delete_sigma(n_steps=5, epsilon=0.5, delta=1 / n, smoothness=0.25 + m,
    ...     strong_convexity=m, lipschitz=1.0, n_records=n)
    >>> round(found.value, 5), round(found.certified, 5)
    (1.48277, 1.00463)
    """
    convex, _, rate = _rate(smoothness, strong_convexity)
    goal, share = _target(epsilon, delta)
    bound = number("lipschitz", lipschitz, low=0.0, open_low=True)
    n, steps = count("n_records", n_records, low=1), count("n_steps", n_steps, low=1)
    slow = -math.log1p(-2.0 * convex / (smoothness + convex) * (1.0 - 4.0 * _EPS)) * (1.0 - 4.0 * _EPS)
    distance, certain = (
        8.0 * bound / (convex * n) * decayed(one * steps) / -math.expm1(-one * steps) for one in (rate, slow)
    )
    tail = -math.log(share)
    root = goal / (math.sqrt(tail + goal) + math.sqrt(tail))
    return PublishedForm(
        value=distance / (math.sqrt(2.0) * root),
        certified=math.nextafter(certain / float(gdp_mu(goal, share)) * (1.0 + 4096.0 * _EPS), math.inf),
        order=None,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat="Requests must not react to releases, and what is not released (the steps' own state) is not covered.",
    )


def descent_to_delete_steps(
    *,
    n_requests: int,
    epsilon: float,
    delta: float,
    smoothness: float,
    strong_convexity: float,
    n_parameters: int,
    factor: float = 1.0,
) -> PublishedForm:
    """Return the published numbers of gradient steps of a sequence of deletions.

    Parameters
    ----------
    n_requests : int
        Requests, at least 1.
    epsilon, delta : float
        Target, > 0 and within (0, 1).
    smoothness, strong_convexity : float
        Constants L and m of each record's loss, > 0, m < L.
    n_parameters : int
        Dimension d of the model.
    factor : float, default 1.0
        Multiple of the least number of steps that is taken.

    Returns
    -------
    PublishedForm
        ``value``: steps of every request, shape (n_requests,); ``certified`` is None.

    Raises
    ------
    TypeError, ValueError
        As `descent_to_delete_sigma`.

    Notes
    -----
    [N21, arXiv 2007.02923] as coded in the comparison of [C24, arXiv 2401.10371]: ``int(factor I_0) +
    ceil(log(log(4 d i / delta)) / log(1 / gamma))`` for request i, ``I_0 = ceil(log(sqrt(2 d) / ((1 - gamma) (sqrt(2
    log(2/delta) + epsilon) - sqrt(2 log(2/delta))))) / log(1 / gamma))``.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> published.descent_to_delete_steps(n_requests=3, epsilon=1.0, delta=1e-4, smoothness=0.183109442,
    ...     strong_convexity=0.01, n_parameters=512, factor=1.5).value
    (135, 136, 136)
    """
    _, contraction, rate = _rate(smoothness, strong_convexity)
    goal, share = _target(epsilon, delta)
    requests = count("n_requests", n_requests, low=1)
    size = count("n_parameters", n_parameters, low=1)
    multiple = number("factor", factor, low=0.0, open_low=True)
    twice = 2.0 * math.log(2.0 / share)
    root = goal / (math.sqrt(twice + goal) + math.sqrt(twice))
    least = math.ceil(math.log(math.sqrt(2.0 * size) / ((1.0 - contraction) * root)) / rate)
    growth = [math.ceil(math.log(math.log(4.0 * size * i / share)) / rate) for i in range(1, requests + 1)]
    return PublishedForm(
        value=tuple(max(int(multiple * least) + more, 1) for more in growth),
        certified=None,
        order=None,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat="Requests must not react to releases, and what is not released (the steps' own state) is not covered.",
    )
