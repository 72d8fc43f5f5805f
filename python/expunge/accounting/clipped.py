"""Noisy fine-tuning with clipping: how well it hides where training started. Certified for any model.

Two runs start from parameters trained with and without a record, and take the same number of noisy steps on what
remains. Clipping bounds how far they can drift apart, whatever the loss, so no convexity is needed; the price is noise
that grows with the distance of the starts. It is retraining from a blurred start rather than forgetting a record.

Gradients clipped to norm C, with weight decay (`mu`, `noise_std`), or parameters clipped to a ball
(`model_clipping_delta`, `model_clipping_noise_std`): the two algorithms of [K25] Koloskova et al., *Certified
unlearning for neural networks*, ICML 2025, accounted exactly. `expunge.accounting.published` has what [K25] prints.
"""

from __future__ import annotations

import math

from expunge._validate import count, number
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.accounting.gdp import gdp_delta, gdp_mu

__all__ = ["model_clipping_delta", "model_clipping_noise_std", "mu", "noise_std"]

_EPS = 2.0**-52
_MAX_STEPS = 2**53


def _up(value: float, roundings: int = 32) -> float:
    """Return at least the number that ``value`` was computed for, with at most so many roundings."""
    return math.nextafter(value * (1.0 + roundings * _EPS), math.inf)


def _steps(n_steps: object) -> int:
    steps = count("n_steps", n_steps, low=1)
    if steps > _MAX_STEPS:
        raise ValueError(f"n_steps must be at most 2^53, got {steps}")
    return steps


def _distance_and_spread(
    initial_bound: float, clip: float, step_size: float, weight_decay: float, n_steps: int
) -> tuple[float, float]:
    """Return S and sqrt(V) in units of a step's noise; their quotient is right to less than 32 roundings from below.

    Exactly 0.0 and something positive where both bounds are 0.
    """
    start = number("initial_bound", initial_bound, low=0.0)
    bound = number("clip", clip, low=0.0)
    eta = number("step_size", step_size, low=0.0, open_low=True)
    decay = number("weight_decay", weight_decay, low=0.0)
    steps = _steps(n_steps)
    if start + bound == 0.0:
        return 0.0, 1.0
    if decay == 0.0:
        return 2.0 * start + 2.0 * eta * bound * steps, math.sqrt(steps)
    product = eta * decay
    if not 1e-300 <= product <= 1.0:
        raise ValueError(
            "step_size * weight_decay must be 0 or between 1e-300 and 1 (a step multiplies parameters by one less it), "
            f"got {product:g}"
        )
    # Near 1 the rounding of the product decides what a step leaves: take the neighbour that leaves more, or less.
    low, high = math.nextafter(product, 0.0), min(math.nextafter(product, 2.0), 1.0)
    slow = -math.log1p(-low)
    fast = -math.log1p(-high) if high < 1.0 else math.inf
    kept = math.nextafter(math.exp(-steps * slow * (1.0 - 4.0 * _EPS)), 1.0)  # a large exponent's rounding is large
    filled = -math.expm1(-steps * fast)
    spread = -math.expm1(-2.0 * steps * slow) / (high * (2.0 - high))
    return 2.0 * start * kept + 2.0 * bound / decay * filled, math.sqrt(spread)


@ieee_arithmetic
def mu(
    *,
    initial_bound: float,
    clip: float,
    step_size: float,
    weight_decay: float = 0.0,
    n_steps: int,
    noise_std: float,
) -> float:
    """Return the Gaussian-DP parameter of noisy fine-tuning with clipped gradients, rounded up.

    Parameters
    ----------
    initial_bound : float
        Norm C_0 that the starting parameters of both runs are clipped to, finite and >= 0.
    clip : float
        Norm C that every step's gradient is clipped to, weight decay left out, finite and >= 0.
    step_size : float
        eta, > 0.
    weight_decay : float, default 0.0
        lambda, >= 0, with ``step_size * weight_decay`` at most 1.
    n_steps : int
        Steps T, at least 1.
    noise_std : float
        Noise standard deviation of each step, > 0: a step is ``theta - step_size (clip(gradient) + weight_decay theta)
        + noise_std N(0, I)``.

    Returns
    -------
    float
        mu, for which the result is mu-GDP in both directions against the same fine-tuning from any other start;
        infinite where float64 cannot hold it.

    Raises
    ------
    TypeError
        If ``n_steps`` is not an integer or another argument not a number.
    ValueError
        If an argument is NaN or out of range.

    See Also
    --------
    noise_std : The noise that a target needs.
    shifted_mu : The same argument for steps of unequal sizes.

    Notes
    -----
    Shifted interpolation [BSA24, arXiv 2403.00278]: with ``c = 1 - step_size weight_decay``, both runs' steps are a
    contraction by c plus a vector of norm at most ``step_size C``, and a shift z_k may be taken off by the noise,
    ``z_k = c z_(k-1) + 2 step_size C - a_k`` with ``z_0 = 2 C_0`` and ``z_T = 0``. This holds pathwise for any clipped
    vectors, so that no smoothness is used. The straight path gives ``mu = S / (noise_std sqrt(V))``, ``S = 2 C_0 c^T +
    2 step_size C (1 - c^T) / (1 - c)``, ``V = (1 - c^(2T)) / (1 - c^2)``, attained in one dimension. Batches may be
    random if they are drawn alike in both runs. Certified.

    ======================================  =================================
    Edge case                               Value
    ======================================  =================================
    ``initial_bound = 0`` and ``clip = 0``  exactly 0.0
    ``weight_decay = 0``                    S = 2 C_0 + 2 step_size C T, V = T
    ``step_size * weight_decay = 1``        S = 2 step_size C, V = 1
    ======================================  =================================

    Examples
    --------
    >>> from expunge.accounting import clipped, gdp_epsilon
    >>> mu = clipped.mu(initial_bound=1.0, clip=0.1, step_size=0.1, weight_decay=0.5, n_steps=40, noise_std=0.1)
    >>> round(mu, 3), round(gdp_epsilon(mu, 1e-5), 2)
    (1.907, 9.43)
    """
    distance, spread = _distance_and_spread(initial_bound, clip, step_size, weight_decay, n_steps)
    noise = number("noise_std", noise_std, low=0.0, open_low=True)
    return _up(distance / noise / spread) if distance > 0.0 else 0.0


@ieee_arithmetic
def noise_std(
    *,
    initial_bound: float,
    clip: float,
    step_size: float,
    weight_decay: float = 0.0,
    n_steps: int,
    epsilon: float,
    delta: float,
) -> float:
    """Return the noise per step at which fine-tuning with clipped gradients hides its start, rounded up.

    Parameters
    ----------
    initial_bound, clip, step_size, weight_decay, n_steps
        As in `mu`.
    epsilon, delta : float
        Target, >= 0 and within (0, 1).

    Returns
    -------
    float
        Noise standard deviation per step for which the result is (epsilon, delta)-indistinguishable from the same
        fine-tuning from any other start, in both directions.

    Raises
    ------
    TypeError, ValueError
        As `mu`.

    See Also
    --------
    mu : What a noise gives.

    Notes
    -----
    Inverts `mu`, at ``gdp_mu(epsilon, delta)``. Certified.

    Examples
    --------
    >>> from expunge.accounting import clipped
    >>> found = clipped.noise_std(initial_bound=1.0, clip=0.1, step_size=0.1, weight_decay=0.5, n_steps=40,
    ...                           epsilon=1.0, delta=1e-5)
    >>> round(found, 3)
    0.711
    """
    distance, spread = _distance_and_spread(initial_bound, clip, step_size, weight_decay, n_steps)
    goal = _goal(epsilon, delta)
    return _up(distance / goal / spread) if distance > 0.0 else 0.0


def _goal(epsilon: float, delta: float) -> float:
    eps = number("epsilon", epsilon, low=0.0)
    share = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    return float(gdp_mu(eps, share))


@ieee_arithmetic
def model_clipping_delta(*, radius: float, noise_std: float, n_steps: int, epsilon: float) -> float:
    """Return the delta of noisy fine-tuning whose parameters are clipped to a ball in every step, rounded up.

    Parameters
    ----------
    radius : float
        Norm that parameters are clipped to before each step's noise, finite and >= 0.
    noise_std : float
        Noise standard deviation of each step, > 0.
    n_steps : int
        Steps T, at least 1.
    epsilon : float
        >= 0.

    Returns
    -------
    float
        delta, for which the result is (epsilon, delta)-indistinguishable from the same fine-tuning from any other
        start, in both directions.

    Raises
    ------
    TypeError
        If ``n_steps`` is not an integer or another argument not a number.
    ValueError
        If an argument is NaN or out of range.

    See Also
    --------
    model_clipping_noise_std : The noise that a target needs.

    Notes
    -----
    A step that ends in ``clip(theta) + noise_std N(0, I)`` is a kernel any two of whose laws are Gaussians at most
    ``2 radius`` apart. Hockey-stick divergence contracts by its largest value between two of them [ADC20, Asoodeh et
    al., arXiv 2012.11035]: the positive part of ``P - e^epsilon Q`` has a mass p, the negative one ``q = p + e^epsilon
    - 1 >= e^epsilon p``, so that a step leaves at most ``p sup_y K_y(A) - q inf_y K_y(A) <= p sup (K_y(A) - e^epsilon
    K_y'(A))`` to any set A. Hence ``delta <= gdp_delta(2 radius / noise_std, epsilon)^T``. No smoothness, convexity or
    clipped gradient is used. Certified.

    ===============  ========================================
    Edge case        Value
    ===============  ========================================
    ``radius = 0``   exactly 0.0
    ``n_steps = 1``  gdp_delta(2 radius / noise_std, epsilon)
    ===============  ========================================

    Examples
    --------
    >>> from expunge.accounting import clipped
    >>> print(f"{clipped.model_clipping_delta(radius=1.0, noise_std=1.0, n_steps=12, epsilon=1.0):.1e}")
    3.1e-04
    """
    ball = number("radius", radius, low=0.0)
    noise = number("noise_std", noise_std, low=0.0, open_low=True)
    steps = _steps(n_steps)
    ratio = _up(2.0 * ball / noise) if ball > 0.0 else 0.0
    eps = number("epsilon", epsilon, low=0.0)
    one = float(gdp_delta(ratio, eps)) if ratio < math.inf else 1.0
    if one in (0.0, 1.0):
        return one
    power = steps * math.log(one)
    return min(_up(math.exp(power * (1.0 - 4.0 * _EPS))), 1.0)


@ieee_arithmetic
def model_clipping_noise_std(*, radius: float, n_steps: int, epsilon: float, delta: float) -> float:
    """Return the noise per step at which fine-tuning with clipped parameters hides its start, rounded up.

    Parameters
    ----------
    radius, n_steps
        As in `model_clipping_delta`.
    epsilon, delta : float
        Target, >= 0 and within (0, 1).

    Returns
    -------
    float
        Noise standard deviation per step; 0.0 for ``radius = 0``.

    Raises
    ------
    TypeError, ValueError
        As `model_clipping_delta`.

    See Also
    --------
    model_clipping_delta : What a noise gives.

    Notes
    -----
    Inverts `model_clipping_delta`: each step may keep ``delta^(1/T)``. Certified.

    Examples
    --------
    >>> from expunge.accounting import clipped
    >>> round(clipped.model_clipping_noise_std(radius=1.0, n_steps=12, epsilon=1.0, delta=1e-5), 3)
    1.205
    """
    ball = number("radius", radius, low=0.0)
    steps = _steps(n_steps)
    share = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    root = math.exp(math.log(share) / steps * (1.0 + 4.0 * _EPS)) * (1.0 - 4.0 * _EPS)
    return _up(2.0 * ball / _goal(epsilon, root)) if ball > 0.0 else 0.0
