"""Differentially private training by noisy clipped descent: what noise a claim needs, and what claim noise gives.

Every step adds up gradients whose norms are at most ``clip``, and noise of standard deviation ``noise_multiplier *
clip``, then does what it likes with the noisy sum. Neighbours differ by one record that is there or not. Certified for
the mechanism over the real numbers; who runs it in floating point says so (`expunge.torch.Privacy`).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from expunge._errors import how_to_install
from expunge._validate import choice, count, number
from expunge.accounting._broadcast import Float64
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.accounting.gdp import gdp_epsilon, gdp_mu
from expunge.accounting.rdp.conversion import rdp_to_epsilon
from expunge.accounting.rdp.sampled_groups import sampled_group_rdp

__all__ = ["dp_sgd_epsilon", "dp_sgd_mu", "dp_sgd_noise_multiplier"]

_UP = 1.0 + 8.0 * float(np.finfo(np.float64).eps)
_TOLERANCE = 1e-7  # relative, of the noise multiplier that is searched for
_MOST = 1e12


@ieee_arithmetic
def dp_sgd_mu(*, noise_multiplier: float, n_steps: int, mu: float = 0.0, group_size: int = 1) -> float:
    """Return the GDP parameter of training by full batches, rounded up: ``sqrt(n_steps) / noise_multiplier``.

    Parameters
    ----------
    noise_multiplier : float
        Noise standard deviation of a step over the bound on a record's gradient, > 0.
    n_steps : int
        >= 1.
    mu : float
        Of what else is released, and depends on the same records: ``sqrt(n_steps / noise_multiplier^2 + mu^2)``.
    group_size : int
        Records that are there or not together, >= 1; they move a step by at most as many times as far. ``mu`` is then
        that of the group.

    Returns
    -------
    float
        ``sqrt(group_size^2 n_steps / noise_multiplier^2 + mu^2)``.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range.

    Notes
    -----
    Composition of Gaussian mechanisms, adaptively: Dong, Roth, Su, *Gaussian differential privacy* (1905.02383),
    corollary 3.3.

    Examples
    --------
    >>> from expunge.accounting import dp_sgd_mu
    >>> round(dp_sgd_mu(noise_multiplier=20.0, n_steps=100), 12)
    0.5
    >>> round(dp_sgd_mu(noise_multiplier=20.0, n_steps=36, mu=0.4), 12)
    0.5
    """
    multiplier = number("noise_multiplier", noise_multiplier, low=0.0, open_low=True)
    size = count("group_size", group_size, low=1)
    of_training = math.sqrt(count("n_steps", n_steps, low=1)) / multiplier * _UP
    if size > 1:
        of_training *= size * _UP
    beside = number("mu", mu, low=0.0)
    found = math.hypot(of_training, beside) * _UP if beside else of_training
    if math.isinf(found):
        raise ValueError(f"noise_multiplier must be large enough for mu to be a number, got {multiplier:g}")
    return found


@ieee_arithmetic
def dp_sgd_epsilon(
    *,
    noise_multiplier: float,
    delta: float,
    sampling_probability: float,
    n_steps: int,
    mu: float = 0.0,
    accountant: str = "rdp",
    group_size: int = 1,
) -> float:
    """Return the epsilon that training gives at ``delta``, rounded up.

    Parameters
    ----------
    noise_multiplier : float
        Noise standard deviation of a step over the bound on a record's gradient, > 0.
    delta : float
        Within [0, 1].
    sampling_probability : float
        Poisson rate, within [0, 1]; 1 is full batch.
    n_steps : int
        >= 1.
    mu : float
        GDP parameter of what else is released and depends on the same records, such as a head's release on the
        features of a backbone trained so.
    accountant : {"rdp", "pld"}
        For Poisson batches: Renyi divergences, or the privacy loss distribution of the package dp-accounting (extra
        ``dp``), which is tighter. Its discretization is pessimistic; how it rounds is that package's.
    group_size : int
        Records that are there or not together, >= 1; ``mu`` is then that of the group. Poisson batches hold a binomial
        number of them.

    Returns
    -------
    float
        Exact (but for outward rounding) with full batches; otherwise by Renyi divergences, at the best order of a
        continuum, and never above that of full batches. Infinite for ``delta = 0``, unless nothing was sampled and
        ``mu`` is 0.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range.
    ImportError
        With "pld", if dp-accounting is not installed.

    See Also
    --------
    dp_sgd_noise_multiplier : The same, solved for the noise.
    RenyiFilter : Budgets for each record.

    Notes
    -----
    Full batches: GDP composition (1905.02383). Poisson batches: the sampled Gaussian's Renyi divergences
    ([MTZ19, arXiv 1908.10530]) add up over steps, and with ``order mu^2 / 2``; conversion by [CKS20, arXiv 2004.00010].
    Groups in Poisson batches: a mixture of Gaussians, one for each number of sampled members, whose divergence is
    bounded or whose loss distribution is dp-accounting's (Charles et al., arXiv 2407.07737).

    Examples
    --------
    >>> from expunge.accounting import dp_sgd_epsilon
    >>> round(dp_sgd_epsilon(noise_multiplier=40.0, delta=1e-5, sampling_probability=1.0, n_steps=100), 6)
    0.926342
    >>> round(dp_sgd_epsilon(noise_multiplier=1.0, delta=1e-5, sampling_probability=0.01, n_steps=1000), 3)
    2.101
    """
    multiplier = number("noise_multiplier", noise_multiplier, low=0.0, open_low=True)
    goal = number("delta", delta, low=0.0, high=1.0)
    rate = number("sampling_probability", sampling_probability, low=0.0, high=1.0)
    steps = count("n_steps", n_steps, low=1)
    beside = number("mu", mu, low=0.0)
    how = choice("accountant", accountant, ("rdp", "pld"))
    size = count("group_size", group_size, low=1)
    if rate == 1.0:
        whole = dp_sgd_mu(noise_multiplier=multiplier, n_steps=steps, mu=beside, group_size=size)
        return float(gdp_epsilon(whole, goal))
    if rate == 0.0:
        return float(gdp_epsilon(beside, goal))
    if how == "pld":
        return _by_loss_distribution(multiplier, rate, steps, beside, goal, size)

    def divergence(orders: Float64) -> Float64:
        step = sampled_group_rdp(orders, noise_multiplier=multiplier, sampling_probability=rate, group_size=size)
        with np.errstate(over="ignore"):
            of_training = steps * step
            return (of_training + 0.5 * orders * beside**2) * _UP

    # A sampled step is a mixture of a full one and of none: full batches dominate it, and are exact.
    whole = dp_sgd_mu(noise_multiplier=multiplier, n_steps=steps, mu=beside, group_size=size)
    of_full_batches = float(gdp_epsilon(whole, goal))
    return min(float(rdp_to_epsilon(divergence, None, goal)), of_full_batches)


def _by_loss_distribution(multiplier: float, rate: float, steps: int, mu: float, delta: float, size: int) -> float:
    try:
        import dp_accounting
        from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
        from dp_accounting.pld import PLDAccountant
    except ImportError as error:
        raise ImportError(f'accountant="pld" needs dp-accounting: {how_to_install("dp")}') from error
    accountant = PLDAccountant()
    if size == 1:
        step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    else:
        sampled = np.arange(size + 1)
        step = MixtureOfGaussiansDpEvent(multiplier, sampled, stats.binom.pmf(sampled, size, rate))
    accountant.compose(step, steps)
    if mu:
        accountant.compose(dp_accounting.GaussianDpEvent(1.0 / mu))
    return float(accountant.get_epsilon(delta))


@ieee_arithmetic
def dp_sgd_noise_multiplier(
    *, epsilon: float, delta: float, sampling_probability: float, n_steps: int, accountant: str = "rdp"
) -> float:
    """Return the smallest noise multiplier that keeps training within (epsilon, delta), rounded up.

    Parameters
    ----------
    epsilon : float
        > 0, finite.
    delta : float
        Within (0, 1).
    sampling_probability : float
        Poisson rate, within (0, 1]; 1 is full batch.
    n_steps : int
        >= 1.
    accountant : {"rdp", "pld"}
        As in `dp_sgd_epsilon`.

    Returns
    -------
    float
        ``dp_sgd_epsilon`` of it is at most ``epsilon``; within a relative 1e-7 (1e-4 with "pld") of the least such
        number.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range.

    Examples
    --------
    >>> from expunge.accounting import dp_sgd_noise_multiplier
    >>> round(dp_sgd_noise_multiplier(epsilon=1.0, delta=1e-5, sampling_probability=1.0, n_steps=100), 4)
    37.3063
    >>> round(dp_sgd_noise_multiplier(epsilon=2.0, delta=1e-5, sampling_probability=0.01, n_steps=1000), 3)
    1.022
    """
    target = number("epsilon", epsilon, low=0.0, open_low=True)
    goal = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    rate = number("sampling_probability", sampling_probability, low=0.0, high=1.0, open_low=True)
    steps = count("n_steps", n_steps, low=1)

    def within(multiplier: float) -> bool:
        found = dp_sgd_epsilon(
            noise_multiplier=multiplier, delta=goal, sampling_probability=rate, n_steps=steps, accountant=accountant
        )
        return found <= target

    tolerance = _TOLERANCE if rate == 1.0 or accountant == "rdp" else 1e-4

    # Full batches need the most: the search starts there, which for them is also where it ends.
    mu = float(gdp_mu(target, goal))
    high = min(max(math.sqrt(steps) / mu * _UP, 1e-3) if mu > 0.0 else _MOST, _MOST)
    step = 1e-7
    while not within(high):
        if high >= _MOST:
            raise ValueError(f"epsilon must be reachable with a noise multiplier of {_MOST:g}, got {target:g}")
        high, step = high * (1.0 + step), 2.0 * step
    low = high / (1.0 + tolerance)
    while within(low):
        high, low = low, low / 2.0
    while high / low > 1.0 + tolerance:
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (low, middle) if within(middle) else (middle, high)
    return high
