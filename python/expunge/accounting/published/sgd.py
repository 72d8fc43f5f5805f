"""Unlearning by noisy stochastic gradient descent in closed form [C24b, arXiv 2403.17105]: epochs and noise."""

from __future__ import annotations

import math
from collections.abc import Callable

from expunge._validate import choice, count, number
from expunge.accounting.gdp import gdp_mu
from expunge.accounting.published.constants import Losses, decayed, gaussian_renyi_cost, smallest
from expunge.accounting.published.form import PublishedForm

__all__ = ["sgd_epochs", "sgd_sigma"]

_SOURCE = "[C24b, arXiv 2403.17105], Chien et al. 2024"
_ADJACENCY = "replacement of one record"
_VARIANTS = ("published", "tight")
_EPS = 2.0**-52


def _rates(losses: Losses) -> tuple[float, float]:
    """Return minus the logarithm of a step's contraction, and a number that is no larger."""
    product = losses.step_size * losses.strong_convexity
    if not product < 1.0:
        raise ValueError("step_size must be below 1/strong_convexity: one step would forget everything")
    # Near 1 the rounding of the product decides what a step leaves.
    return -math.log1p(-product), -math.log1p(-math.nextafter(product, 0.0)) * (1.0 - 4.0 * _EPS)


def _tight(rate: float, steps: int) -> float:
    """Return ``sqrt((1 - c^2) / (c^(-2 steps) - 1))`` with ``c = exp(-rate)``, which falls in the rate."""
    power = 2.0 * rate * steps
    return math.sqrt(-math.expm1(-2.0 * rate) / -math.expm1(-power)) * decayed(0.5 * power)


def _cut(n_records: int, batch_size: object) -> tuple[int, int]:
    """Return the records that fill whole batches, and the batches of an epoch."""
    batch = count("batch_size", batch_size, low=1)
    if batch > n_records:
        raise ValueError(f"batch_size must be at most n_records = {n_records}, got {batch}")
    return batch, n_records // batch


def sgd_epochs(
    *,
    n_requests: int = 1,
    epsilon: float,
    delta: float,
    smoothness: float,
    strong_convexity: float,
    lipschitz: float,
    sigma: float,
    n_records: int,
    batch_size: int,
    step_size: float,
    variant: str = "published",
) -> PublishedForm:
    """Return the published numbers of unlearning epochs of a sequence of requests, each of one record.

    Parameters
    ----------
    n_requests : int, default 1
        Requests, at least 1.
    epsilon, delta : float
        Target, > 0 and within (0, 1).
    smoothness, strong_convexity, lipschitz : float
        Constants L, m and M of each record's loss, > 0, m <= L.
    sigma : float
        Langevin temperature, > 0: the noise standard deviation per step is ``sqrt(2 step_size) sigma``.
    n_records : int
        Records; those that do not fill a batch are left out.
    batch_size : int
        Records of a batch b; batches come in one fixed order.
    step_size : float
        > 0 and at most 1/L.
    variant : {"published", "tight"}, default "published"
        ``"published"``: ``Z = 2 step_size M / (b (1 - c^(n/b)))``, and the first request by the crude form.
        ``"tight"``, of some stored lists: ``Z = 2 step_size M / (b (1 - c))``, and the tight form from the first
        request on.

    Returns
    -------
    PublishedForm
        ``value``: epochs of every request, shape (n_requests,); ``certified``: those that exact Gaussian DP needs
        with the same Z.

    Raises
    ------
    TypeError
        If a count is not an integer or another argument not a number.
    ValueError
        If an argument is NaN or out of range, or more than 2^53 epochs are needed.

    Notes
    -----
    [C24b, arXiv 2403.17105], learned to convergence, ``c = 1 - step_size m``. Stationary laws of two data sets lie
    within Z of each other, and before request s ``Z_s = Z_(s-1) c^(K_(s-1) n/b) + Z``. First request: ``a Z^2 / (2
    step_size sigma^2) c^(2 K n/b)``; later ones: ``a Z_s^2 / (2 step_size sigma^2) (1 - c^2) / (c^(-2 K n/b) - 1)``;
    K is the smallest with ``that + log(1/delta) / (a - 1) <= epsilon`` at some order a. The tight form's factor of a is
    the squared mu of shifted interpolation [BSA24, arXiv 2403.00278] itself, where ``a mu^2 / 2`` would do; the
    certified epochs are the smallest at which ``gdp_mu(epsilon, delta)`` suffices.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> n, m = 11264, 1e-6 * 11264
    >>> found = published.sgd_epochs(epsilon=0.01, delta=1 / n, smoothness=0.25 + m, strong_convexity=m, lipschitz=1.0,
    ...     sigma=0.01, n_records=n, batch_size=n, step_size=1 / (0.25 + m))
    >>> found.value, found.certified
    ((133,), (77,))
    """
    losses = Losses.of(smoothness, strong_convexity, lipschitz, n_records, step_size)
    requests = count("n_requests", n_requests, low=1)
    kind = choice("variant", variant, _VARIANTS)
    goal = number("epsilon", epsilon, low=0.0, open_low=True)
    share = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    noise = number("sigma", sigma, low=0.0, open_low=True)
    batch, batches = _cut(losses.n_records, batch_size)
    rate, slow = _rates(losses)
    steps_apart = 1 if kind == "tight" else batches
    spread = math.sqrt(2.0 * losses.step_size) * noise

    def crude(ratio: float, rate: float, epochs: int) -> float:
        return ratio * decayed(rate * epochs * batches)

    def tight(ratio: float, rate: float, epochs: int) -> float:
        return ratio * _tight(rate, epochs * batches)

    def fewest(form: Callable[[float, float, int], float], ratio: float, rate: float, limit: float) -> int:
        return smallest(lambda epochs: form(ratio, rate, epochs) <= limit, first=1)

    def sequence(
        limit: float, first_form: Callable[[float, float, int], float], rate: float, slack: float
    ) -> tuple[int, ...]:
        first = 2.0 * losses.step_size * losses.lipschitz / (batch * -math.expm1(-rate * steps_apart))
        found: list[int] = []
        distance = 0.0
        for _ in range(requests):
            carried = distance * decayed(rate * found[-1] * batches) if found else 0.0
            distance = (carried + first) * (1.0 + slack)
            found.append(fewest(tight if found else first_form, distance / spread, rate, limit / (1.0 + slack)))
        return tuple(found)

    # Every quantity above is a product of a few factors whose logarithms are at most about 1,500.
    slack = 4096.0 * _EPS
    cost = math.sqrt(gaussian_renyi_cost(goal, share))
    mu = float(gdp_mu(goal, share))
    return PublishedForm(
        value=sequence(cost, tight if kind == "tight" else crude, rate, 0.0),
        certified=sequence(mu, tight, slow, slack),
        order=None,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat="The Gaussian term is twice what it need be: a step's noise has variance 2 step_size sigma^2.",
    )


def sgd_sigma(
    *,
    epochs: int = 1,
    epsilon: float,
    delta: float,
    smoothness: float,
    strong_convexity: float,
    lipschitz: float,
    n_records: int,
    batch_size: int,
    step_size: float,
) -> PublishedForm:
    """Return the published noise at which some unlearning epochs suffice after learning for a finite time.

    Parameters
    ----------
    epochs : int, default 1
        Unlearning epochs, at least 1.
    epsilon, delta, smoothness, strong_convexity, lipschitz, n_records, batch_size, step_size
        As in `sgd_epochs`.

    Returns
    -------
    PublishedForm
        ``value``: sigma; ``certified``: the sigma that exact Gaussian DP needs with the same Z, learned to convergence.

    Raises
    ------
    TypeError, ValueError
        As `sgd_epochs`.

    Notes
    -----
    [C24b, arXiv 2403.17105] for learning that has not converged: the weak triangle inequality through the stationary
    law, ``(a - 1/2) / (a - 1) 2 a Z^2 / (2 step_size sigma^2) c^(2 K n/b) + log(1/delta) / (a - 1) <= epsilon``. The
    term of the starts, which decays with the epochs of learning, is left out: it vanishes in all published settings.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> n, m = 11264, 1e-6 * 11264
    >>> found = published.sgd_sigma(epsilon=0.5, delta=1 / n, smoothness=0.25 + m, strong_convexity=m, lipschitz=1.0,
    ...     n_records=n, batch_size=n, step_size=1 / (0.25 + m))
    >>> round(found.value, 5), round(found.certified, 5)
    (0.09607, 0.03247)
    """
    losses = Losses.of(smoothness, strong_convexity, lipschitz, n_records, step_size)
    goal = number("epsilon", epsilon, low=0.0, open_low=True)
    share = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    batch, batches = _cut(losses.n_records, batch_size)
    passes = count("epochs", epochs, low=1)
    rate, slow = _rates(losses)
    first = 2.0 * losses.step_size * losses.lipschitz / (batch * -math.expm1(-rate * batches))
    tail = -math.log(share)

    def least(cost: float) -> float:
        """Return the least over x = a - 1 of ``(2 x + 1)(x + 1) / x cost + tail / x``."""
        return 3.0 * cost + 2.0 * math.sqrt(2.0 * cost * (tail + cost))

    low, high = -750.0, math.log(goal)
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if least(math.exp(middle)) <= goal else (low, middle)
    spread = 2.0 * losses.step_size
    kept = math.exp(-rate * passes * batches)
    # mu = Z / (sqrt(spread) sigma) times what the tight form leaves.
    apart = 2.0 * losses.step_size * losses.lipschitz / (batch * -math.expm1(-slow * batches))
    exact = apart / math.sqrt(spread) * _tight(slow, passes * batches) / float(gdp_mu(goal, share))
    return PublishedForm(
        value=first * kept / math.sqrt(spread * math.exp(low)),
        certified=math.nextafter(exact * (1.0 + 4096.0 * _EPS), math.inf),
        order=None,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat="Learning for a finite time costs a factor of about sqrt 2 by the weak triangle inequality.",
    )
