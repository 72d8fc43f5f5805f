"""Langevin unlearning of a strongly convex loss: how many steps, by three arguments side by side. Certified.

The setting of [C24, arXiv 2401.10371]: the *mean* of n losses that are m-strongly convex, L-smooth and M-Lipschitz is
learned to convergence by full-batch steps ``theta - step_size grad + sqrt(2 step_size) sigma N(0, I)``; then up to S
records are replaced and K more steps are taken on the new data. The reference learned on the new data from the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from expunge._validate import count, number
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.accounting.gdp import gdp_mu
from expunge.accounting.unlearning.contraction import contraction_steps

__all__ = ["UnlearningSteps", "compare_unlearning_steps", "langevin_steps"]

_EPS = float(np.finfo(np.float64).eps)
_MAX_STEPS = 2.0**53


@dataclass(frozen=True)
class UnlearningSteps:
    """Unlearning steps that three arguments need, all certified, for the same constants.

    Attributes
    ----------
    closed_form : int
        By the published closed forms [C24], at the best real order.
    closed_form_order : float
        The order that gave it.
    contraction : int or float
        By `contraction_steps` from the same starting divergence, with the log-Sobolev constant of the chain itself and
        the conversion of `rdp_to_epsilon`; ``inf`` where it does not get there.
    contraction_order : float
        The order that gave it.
    shifted : int
        By shifted interpolation [BSA24, arXiv 2403.00278].
    shifted_mu : float
        Gaussian-DP parameter before the first unlearning step.
    epsilon, delta : float
        The target.
    status : str
        ``"certified"``.
    """

    closed_form: int
    closed_form_order: float
    contraction: int | float
    contraction_order: float
    shifted: int
    shifted_mu: float
    epsilon: float
    delta: float
    status: str = "certified"


@dataclass(frozen=True)
class _Setting:
    """Checked constants."""

    epsilon: float
    delta: float
    smoothness: float
    strong_convexity: float
    lipschitz: float
    sigma: float
    n_records: int
    group_size: int
    step_size: float

    @classmethod
    def of(cls, **given: object) -> _Setting:
        def positive(name: str) -> float:
            return number(name, given[name], low=0.0, open_low=True)

        n = count("n_records", given["n_records"], low=1)
        group = count("group_size", given["group_size"], low=1)
        if group > n:
            raise ValueError(f"group_size must be at most n_records = {n}, got {group}")
        smooth, convex, eta = positive("smoothness"), positive("strong_convexity"), positive("step_size")
        if convex > smooth:
            raise ValueError(f"strong_convexity must be at most smoothness = {smooth:g}, got {convex:g}")
        if eta * smooth > 1.0 + 4.0 * _EPS:  # 1/L itself may round up
            raise ValueError(f"step_size must be at most 1/smoothness = {1.0 / smooth:g}, got {eta:g}")
        return cls(
            epsilon=positive("epsilon"),
            delta=number("delta", given["delta"], low=0.0, high=1.0, open_low=True, open_high=True),
            smoothness=smooth,
            strong_convexity=convex,
            lipschitz=positive("lipschitz"),
            sigma=positive("sigma"),
            n_records=n,
            group_size=group,
            step_size=eta,
        )

    @property
    def product(self) -> float:
        """One less the contraction of a step, m step_size, rounded down; below 1."""
        return self.strong_convexity * self.step_size * (1.0 - 4.0 * _EPS)

    @property
    def stationary(self) -> float:
        """Log-Sobolev constant of the chain in units of its squared noise, 1 / (1 - contraction^2), rounded up.

        Of the chain started at a point, at any time: 0 -> contraction^2 C + noise^2 grows towards this.
        """
        return 1.0 / (self.product * (2.0 - self.product)) * (1.0 + 8.0 * _EPS)

    @property
    def log_scale(self) -> float:
        """Log of eps_0(order) / order: 4 S^2 M^2 / (m sigma^2 n^2)."""
        return (
            math.log(4.0)
            + 2.0
            * (math.log(self.group_size) + math.log(self.lipschitz) - math.log(self.sigma) - math.log(self.n_records))
            - math.log(self.strong_convexity)
        )

    @property
    def log_size(self) -> float:
        """Sum of the sizes of the terms of `log_scale`: what its rounding error is proportional to."""
        terms = (self.group_size, self.lipschitz, self.sigma, self.n_records)
        return 2.0 + 2.0 * sum(abs(math.log(term)) for term in terms) + abs(math.log(self.strong_convexity))


@ieee_arithmetic
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
) -> int:
    """Return the fewest Langevin steps, at least one, that unlearn by the published closed forms.

    Parameters
    ----------
    epsilon, delta : float
        Target, > 0 and within (0, 1).
    smoothness, strong_convexity, lipschitz : float
        Constants L, m and M of each record's loss (regulariser included in L and m), > 0, m <= L.
    sigma : float
        Langevin temperature, > 0: the noise standard deviation per step is ``sqrt(2 step_size) sigma``.
    n_records : int
        Number of records n the loss is averaged over.
    group_size : int, default 1
        Records replaced at once, S, at most n.
    step_size : float
        > 0 and at most 1/L.

    Returns
    -------
    int
        The smallest K >= 1 with ``exp(-K m step_size / a) eps_0(a) + log(1/delta) / (a - 1) <= epsilon`` at some real
        order a > 1, ``eps_0(a) = 4 a S^2 M^2 / (m sigma^2 n^2)``, rounded outward.

    Raises
    ------
    TypeError
        If a count is not an integer or another argument not a number.
    ValueError
        If an argument is NaN or out of range, or more than 2^53 steps are needed.

    See Also
    --------
    compare_unlearning_steps : The same question, answered by two sharper arguments too.

    Notes
    -----
    [C24, arXiv 2401.10371], learned to convergence, replace-S adjacency. At a fixed order the smallest real K is ``a
    log(eps_0(a) / (epsilon - log(1/delta)/(a - 1))) / (m step_size)``, convex in a, so the best order is where its
    derivative changes sign. Certified for full-batch training; see `compare_unlearning_steps` for sharper arguments.

    Examples
    --------
    >>> from expunge.accounting import langevin_steps
    >>> n, m = 11982, 1e-6 * 11982
    >>> langevin_steps(epsilon=1.0, delta=1 / n, smoothness=0.25 + m, strong_convexity=m, lipschitz=1.0, sigma=0.05,
    ...                n_records=n, group_size=100, step_size=1 / (0.25 + m))
    1738
    """
    setting = _Setting.of(
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
    return _closed_form(setting)[0]


def _closed_form(setting: _Setting) -> tuple[int, float]:
    """Return the smallest K and its order."""
    tail = -math.log(setting.delta)
    least = tail / setting.epsilon  # order - 1 must be larger
    scale, per_step = setting.log_scale, setting.strong_convexity * setting.step_size

    def slope(beyond: float) -> float:
        """Return the derivative of the smallest real K, times m step_size, at order 1 + least + beyond; increasing."""
        excess = least + beyond
        logs = scale + math.log1p(excess) + math.log(excess) - math.log(setting.epsilon) - math.log(beyond)
        return logs + 1.0 + (1.0 + excess) / excess - (1.0 + excess) / beyond

    low, high = -700.0, 700.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if slope(math.exp(middle)) > 0.0 else (middle, high)
    excess = least + math.exp(high)

    def epsilon_at(steps: float) -> float:
        """Return epsilon after so many steps, rounded up."""
        power = scale + math.log1p(excess) - steps * per_step / (1.0 + excess)
        slack = 8.0 * _EPS * (setting.log_size + math.log1p(excess) + steps * per_step / (1.0 + excess))
        first = math.exp(min(power + slack, 709.0)) if power + slack < 709.0 else math.inf
        return (first + tail / excess) * (1.0 + 16.0 * _EPS)

    room = setting.epsilon - tail / excess
    steps = (1.0 + excess) * (scale + math.log1p(excess) - math.log(room)) / per_step if room > 0.0 else math.inf
    if not steps < _MAX_STEPS:
        raise ValueError(f"sigma is too small for this target: it needs more than 2^53 steps, got {setting.sigma:g}")
    fewest = max(math.ceil(max(steps, 1.0)) - 1, 1)
    while not epsilon_at(float(fewest)) <= setting.epsilon:
        # One or two steps where rounding decides; many only where the best order leaves no room for it.
        fewest += max(1, int(fewest * 1e-12))
        if fewest > 2.0 * max(steps, 1.0) + 4.0:
            raise ValueError("epsilon is too small to be distinguished from the rounding of the closed form")
    return fewest, 1.0 + excess


@ieee_arithmetic
def compare_unlearning_steps(
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
) -> UnlearningSteps:
    """Return the unlearning steps needed by the closed forms, by Renyi contraction and by shifted interpolation.

    Parameters
    ----------
    epsilon, delta, smoothness, strong_convexity, lipschitz, sigma, n_records, group_size, step_size
        As in `langevin_steps`.

    Returns
    -------
    UnlearningSteps
        Three certified answers to one question; the smallest may be used.

    Raises
    ------
    TypeError, ValueError
        As `langevin_steps`.

    See Also
    --------
    langevin_steps : The closed forms alone.
    contraction_steps : Renyi contraction with constants of your own.
    shifted_mu : Shifted interpolation with constants of your own.

    Notes
    -----
    All three take learning to convergence, replacement of S of n records, and the same constants. Shifted
    interpolation: the maps on both data differ by at most ``2 step_size S M / n`` and contract by ``c = 1 - step_size
    m``; over T learning and K unlearning steps the best path is a straight line, and for T to infinity ``mu =
    c^K (2 step_size S M / n) sqrt((1 + c)/(1 - c)) / noise_std``. Weak limits keep a privacy profile, so the bound
    holds for the stationary laws.

    Examples
    --------
    >>> from expunge.accounting import compare_unlearning_steps
    >>> n, m = 11982, 1e-6 * 11982
    >>> found = compare_unlearning_steps(epsilon=1.0, delta=1 / n, smoothness=0.25 + m, strong_convexity=m,
    ...     lipschitz=1.0, sigma=0.05, n_records=n, group_size=100, step_size=1 / (0.25 + m))
    >>> found.closed_form, found.contraction, found.shifted
    (1738, 218, 49)
    """
    setting = _Setting.of(
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
    closed, closed_order = _closed_form(setting)
    contracted, contracted_order = _contraction(setting)
    shifted, mu = _shifted(setting)
    return UnlearningSteps(
        closed_form=closed,
        closed_form_order=closed_order,
        contraction=contracted,
        contraction_order=contracted_order,
        shifted=shifted,
        shifted_mu=mu,
        epsilon=setting.epsilon,
        delta=setting.delta,
    )


def _contraction(setting: _Setting) -> tuple[int | float, float]:
    """Return the fewest steps by contraction over a search of orders, and the order. Any order is valid."""
    product = setting.product
    slope = 1.0 - product + _EPS
    slack = 8.0 * _EPS * setting.log_size

    def fewest(excess: np.ndarray) -> np.ndarray:
        orders = 1.0 + excess
        with np.errstate(over="ignore"):
            start = np.exp(setting.log_scale + np.log(orders) + slack * (1.0 + np.log(orders)))
        return np.asarray(
            contraction_steps(
                start,
                order=orders,
                log_sobolev=setting.stationary,
                contraction=slope,
                noise_std=1.0,
                epsilon=setting.epsilon,
                delta=setting.delta,
            )
        )

    excess = np.geomspace(1e-9, 1e9, 721)
    best, at = math.inf, 1.0
    for _ in range(3):
        steps = fewest(excess)
        where = int(steps.argmin())
        if steps[where] < best:
            best, at = float(steps[where]), float(excess[where])
        if not math.isfinite(best):
            break
        excess = np.geomspace(excess[max(where - 1, 0)], excess[min(where + 1, excess.size - 1)], 721)
    steps_needed = max(int(best), 1) if math.isfinite(best) else math.inf
    return steps_needed, 1.0 + at


def _shifted(setting: _Setting) -> tuple[int, float]:
    """Return the fewest steps by shifted interpolation after learning to convergence, and mu at their start."""
    product = setting.product
    shift = 2.0 * setting.step_size * setting.group_size * setting.lipschitz / setting.n_records
    noise = math.sqrt(2.0 * setting.step_size) * setting.sigma
    mu = shift / noise * math.sqrt((2.0 - product) / product) * (1.0 + 16.0 * _EPS)
    goal = float(gdp_mu(setting.epsilon, setting.delta))
    if mu <= goal:
        return 1, mu
    rate = -math.log1p(-product) * (1.0 - 8.0 * _EPS)
    need = (math.log(mu) - math.log(goal)) + 8.0 * _EPS * (1.0 + abs(math.log(mu)) + abs(math.log(goal)))
    return max(math.ceil(need / rate * (1.0 + 4.0 * _EPS)), 1), mu
