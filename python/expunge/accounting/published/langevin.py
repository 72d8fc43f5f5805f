"""Langevin unlearning in closed form [C24, arXiv 2401.10371]: one request, its epsilon, and a sequence of requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from expunge._validate import count, number
from expunge.accounting._broadcast import Float64
from expunge.accounting.gdp import gdp_epsilon
from expunge.accounting.published.constants import Losses, order_range, smallest
from expunge.accounting.published.form import PublishedForm
from expunge.accounting.unlearning.langevin import compare_unlearning_steps

__all__ = ["langevin_divergence", "langevin_epsilon", "langevin_sequence", "langevin_steps"]

_SOURCE = "[C24, arXiv 2401.10371], Chien et al. 2024"
_ADJACENCY = "replacement of group_size of n records"
_EPS = 2.0**-52
_LOOSE = "The Gaussian term is twice what it need be: a step's noise has variance 2 step_size sigma^2."


def _start(losses: Losses, sigma: float, group_size: int) -> float:
    """Return eps_0(a) / a, the divergence of what was learned to convergence."""
    shift = group_size * losses.lipschitz / (sigma * losses.n_records)
    return 4.0 * shift * shift / losses.strong_convexity


def _group(group_size: object, losses: Losses) -> int:
    group = count("group_size", group_size, low=1)
    if group > losses.n_records:
        raise ValueError(f"group_size must be at most n_records = {losses.n_records}, got {group}")
    return group


def _shifted_mu(losses: Losses, sigma: float, group_size: int, steps: int) -> float:
    """Return mu after learning to convergence and some steps by shifted interpolation, as `compare_unlearning_steps`.

    ``c^steps (shift / noise) sqrt((1 + c) / (1 - c))``, rounded up; ``c^steps`` is at most ``exp(-steps (1 - c))``.
    """
    product = losses.strong_convexity * losses.step_size * (1.0 - 4.0 * _EPS)
    shift = 2.0 * losses.step_size * group_size * losses.lipschitz / losses.n_records
    noise = math.sqrt(2.0 * losses.step_size) * sigma
    kept = math.exp(-steps * product * (1.0 - 4.0 * _EPS))
    return math.nextafter(shift / noise * math.sqrt((2.0 - product) / product) * kept * (1.0 + 32.0 * _EPS), math.inf)


def _best_order(scale: float, decay: float, tail: float, low: float, high: float) -> tuple[float, float]:
    """Return the least of ``scale a exp(-decay / a) + tail / (a - 1)`` over orders a, and its order.

    Both terms are convex in a: bisect on the derivative, in log(a - 1).
    """

    def slope(order: float) -> float:
        rising = scale * math.exp(-decay / order) * (1.0 + decay / order)
        return rising - tail / (order - 1.0) ** 2

    left, right = math.log(max(low - 1.0, 1e-12)), math.log(min(high, 1e12) - 1.0)
    if slope(1.0 + math.exp(left)) >= 0.0:
        right = left
    elif slope(1.0 + math.exp(right)) <= 0.0:
        left = right
    for _ in range(200):
        middle = 0.5 * (left + right)
        left, right = (left, middle) if slope(1.0 + math.exp(middle)) > 0.0 else (middle, right)
    order = 1.0 + math.exp(0.5 * (left + right))
    return scale * order * math.exp(-decay / order) + tail / (order - 1.0), order


def langevin_steps(
    *,
    epsilon: float,
    delta: float,
    smoothness: float,
    strong_convexity: float,
    lipschitz: float,
    sigma: float,
    n_records: int,
    group_size: int = 1,
    step_size: float,
    orders: tuple[float, float] = (1.0, 1e4),
    step_grid: int = 1,
) -> PublishedForm:
    """Return the published number of Langevin unlearning steps of one request.

    Parameters
    ----------
    epsilon, delta, smoothness, strong_convexity, lipschitz, sigma, n_records, group_size, step_size
        As in `expunge.accounting.langevin_steps`.
    orders : pair of float, default (1.0, 1e4)
        Renyi orders that are searched, at least 1 and above.
    step_grid : int, default 1
        Steps that are tried: 1, 1 + step_grid, 1 + 2 step_grid, ...

    Returns
    -------
    PublishedForm
        ``value``: the first number of steps on the grid that reaches the target; ``order``: the best order there;
        ``certified``: the fewest steps by shifted interpolation.

    Raises
    ------
    TypeError
        If a count is not an integer or another argument not a number.
    ValueError
        If an argument is NaN or out of range, or more than 2^53 steps are needed.

    Notes
    -----
    [C24, arXiv 2401.10371]: the smallest K with ``exp(-K m step_size / a) eps_0(a) + log(1/delta) / (a - 1) <=
    epsilon`` at some order, ``eps_0(a) = 4 a S^2 M^2 / (m sigma^2 n^2)``.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> n, m = 11982, 1e-6 * 11982
    >>> found = published.langevin_steps(epsilon=1.0, delta=1 / n, smoothness=0.25 + m, strong_convexity=m,
    ...     lipschitz=1.0, sigma=0.05, n_records=n, group_size=100, step_size=1 / (0.25 + m), step_grid=10)
    >>> found.value, found.certified
    (1741, 49)
    """
    losses = Losses.of(smoothness, strong_convexity, lipschitz, n_records, step_size)
    low, high = order_range(orders)
    grid = count("step_grid", step_grid, low=1)
    exact = compare_unlearning_steps(
        epsilon=epsilon,
        delta=delta,
        smoothness=smoothness,
        strong_convexity=strong_convexity,
        lipschitz=lipschitz,
        sigma=sigma,
        n_records=n_records,
        group_size=group_size,
        step_size=step_size,
    )
    scale, tail = _start(losses, float(sigma), group_size), -math.log(delta)

    def found(place: int) -> tuple[float, float]:
        steps = 1 + place * grid
        return _best_order(scale, steps * losses.strong_convexity * losses.step_size, tail, low, high)

    place = smallest(lambda tried: found(tried)[0] <= epsilon, first=0)
    return PublishedForm(
        value=1 + place * grid,
        certified=exact.shifted,
        order=found(place)[1],
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat=_LOOSE,
    )


def langevin_epsilon(
    *,
    n_steps: int = 0,
    delta: float,
    smoothness: float,
    strong_convexity: float,
    lipschitz: float,
    sigma: float,
    n_records: int,
    group_size: int = 1,
    step_size: float,
    orders: tuple[float, float] = (1.0, 1e4),
) -> PublishedForm:
    """Return the published epsilon of Langevin learning, or of learning and some unlearning steps.

    Parameters
    ----------
    n_steps : int, default 0
        Unlearning steps; 0 for what learning alone gives.
    delta, smoothness, strong_convexity, lipschitz, sigma, n_records, group_size, step_size
        As in `expunge.accounting.langevin_steps`.
    orders : pair of float, default (1.0, 1e4)
        Renyi orders that are searched.

    Returns
    -------
    PublishedForm
        ``value``: epsilon at delta; ``order``: the best order, at which the divergence is ``value - log(1/delta) /
        (order - 1)``; ``certified``: epsilon by shifted interpolation.

    Raises
    ------
    TypeError, ValueError
        As `langevin_steps`.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> n, m = 11982, 1e-6 * 11982
    >>> found = published.langevin_epsilon(delta=1 / n, smoothness=0.25 + m, strong_convexity=m, lipschitz=1.0,
    ...     sigma=0.5, n_records=n, group_size=100, step_size=1 / (0.25 + m))
    >>> round(found.value, 6), round(found.certified, 6)
    (1.96221, 0.97067)
    """
    losses = Losses.of(smoothness, strong_convexity, lipschitz, n_records, step_size)
    low, high = order_range(orders)
    steps = count("n_steps", n_steps)
    share = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    noise = number("sigma", sigma, low=0.0, open_low=True)
    group = _group(group_size, losses)
    decay = steps * losses.strong_convexity * losses.step_size
    value, order = _best_order(_start(losses, noise, group), decay, -math.log(share), low, high)
    return PublishedForm(
        value=value,
        certified=float(gdp_epsilon(_shifted_mu(losses, noise, group, steps), share)),
        order=order,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat=_LOOSE,
    )


def langevin_divergence(
    *,
    order: float,
    n_steps: int = 0,
    smoothness: float,
    strong_convexity: float,
    lipschitz: float,
    sigma: float,
    n_records: int,
    group_size: int = 1,
    step_size: float,
) -> PublishedForm:
    """Return the published Renyi divergence of Langevin learning and some unlearning steps at an order.

    Parameters
    ----------
    order : float
        Renyi order a, above 1.
    n_steps : int, default 0
        Unlearning steps K; 0 for what learning alone gives.
    smoothness, strong_convexity, lipschitz, sigma, n_records, group_size, step_size
        As in `expunge.accounting.langevin_steps`.

    Returns
    -------
    PublishedForm
        ``value``: ``exp(-K m step_size / a) 4 a S^2 M^2 / (m sigma^2 n^2)``; ``certified``: that of shifted
        interpolation.

    Raises
    ------
    TypeError, ValueError
        As `langevin_steps`.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> m = 1e-6 * 10000
    >>> found = published.langevin_divergence(order=12.0, smoothness=0.173109442 + m, strong_convexity=m,
    ...     lipschitz=1.0, sigma=0.2, n_records=10000, group_size=100, step_size=1 / (0.173109442 + m))
    >>> round(found.value, 6), round(found.certified, 6)
    (12.0, 5.836164)
    """
    losses = Losses.of(smoothness, strong_convexity, lipschitz, n_records, step_size)
    alpha = number("order", order, low=1.0, open_low=True)
    steps = count("n_steps", n_steps)
    noise = number("sigma", sigma, low=0.0, open_low=True)
    group = _group(group_size, losses)
    mu = _shifted_mu(losses, noise, group, steps)
    kept = math.exp(-steps * losses.strong_convexity * losses.step_size / alpha)
    return PublishedForm(
        value=_start(losses, noise, group) * alpha * kept,
        certified=math.nextafter(0.5 * alpha * mu * mu * (1.0 + 4.0 * _EPS), math.inf),
        order=alpha,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat=_LOOSE,
    )


def langevin_sequence(
    *,
    n_requests: int,
    epsilon: float,
    delta: float,
    smoothness: float,
    strong_convexity: float,
    lipschitz: float,
    sigma: float,
    n_records: int,
    group_size: int = 1,
    step_size: float,
    orders: tuple[float, float] = (2.0, 1e5),
) -> PublishedForm:
    """Return the published numbers of Langevin unlearning steps of a sequence of requests.

    Parameters
    ----------
    n_requests : int
        Requests, each of ``group_size`` records, at least 1.
    epsilon, delta, smoothness, strong_convexity, lipschitz, sigma, n_records, group_size, step_size
        As in `expunge.accounting.langevin_steps`.
    orders : pair of float, default (2.0, 1e5)
        Renyi orders that are searched.

    Returns
    -------
    PublishedForm
        ``value``: steps of every request, shape (n_requests,); ``certified`` is None.

    Raises
    ------
    TypeError, ValueError
        As `langevin_steps`.

    Notes
    -----
    [C24, arXiv 2401.10371], by the weak triangle inequality: ``e_s(a) = exp(-m step_size K_s / a) (a - 1/2) / (a - 1)
    (eps_0(2 a) + e_(s-1)(2 a))``, ``e_1(a) = exp(-m step_size K_1 / a) eps_0(a)``, K_s the smallest integer with
    ``e_s(a) + log(1/delta) / (a - 1) <= epsilon`` at some order.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> m = 1e-6 * 10000
    >>> published.langevin_sequence(n_requests=3, epsilon=1.0, delta=1e-4, smoothness=0.173109442 + m,
    ...     strong_convexity=m, lipschitz=1.0, sigma=0.03, n_records=10000, group_size=10,
    ...     step_size=1 / (0.173109442 + m)).value
    (762, 965, 990)
    """
    losses = Losses.of(smoothness, strong_convexity, lipschitz, n_records, step_size)
    low, high = order_range(orders)
    requests = count("n_requests", n_requests, low=1)
    goal = number("epsilon", epsilon, low=0.0, open_low=True)
    tail = -math.log(number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True))
    noise = number("sigma", sigma, low=0.0, open_low=True)
    scale = _start(losses, noise, _group(group_size, losses))
    per_step = losses.strong_convexity * losses.step_size
    steps: list[int] = []

    def before(order: Float64, request: int) -> Float64:
        """Return the divergence before the steps of a request (from 0), by order."""
        if request == 0:
            return scale * order
        doubled = 2.0 * order
        earlier = np.exp(-per_step * steps[request - 1] / doubled) * before(doubled, request - 1)
        return (order - 0.5) / (order - 1.0) * (scale * doubled + earlier)

    for request in range(requests):
        least = _least_over_orders(partial(before, request=request), per_step, tail, low, high)
        steps.append(_fewest(least, goal))
    return PublishedForm(
        value=tuple(steps),
        certified=None,
        order=None,
        source=_SOURCE,
        adjacency=f"{_ADJACENCY} in every request",
        caveat="The code doubles the order in both terms, where the weak triangle inequality needs 2a and 2a - 1. "
        + _LOOSE,
    )


def _fewest(least: Callable[[int], float], goal: float) -> int:
    return smallest(lambda steps: least(steps) <= goal, first=1)


def _least_over_orders(
    before: Callable[[Float64], Float64], per_step: float, tail: float, low: float, high: float
) -> Callable[[int], float]:
    """Return the least epsilon over orders as a function of the steps: the best of a grid, refined around it."""
    logs = np.linspace(math.log(max(low - 1.0, 1e-9)), math.log(high - 1.0), 513)

    def least(steps: int) -> float:
        found, places = math.inf, logs
        for _ in range(4):
            order = 1.0 + np.exp(places)
            values = np.exp(-per_step * steps / order) * before(order) + tail / (order - 1.0)
            at = int(values.argmin())
            found = min(found, float(values[at]))
            places = np.linspace(places[max(at - 1, 0)], places[min(at + 1, places.size - 1)], 65)
        return found

    return least
