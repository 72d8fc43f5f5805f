"""How many noisy steps forget: Renyi contraction, certified. [C24, arXiv 2401.10371], [S25, arXiv 2505.18786].

A step ``theta -> phi(theta) + noise_std N(0, I)`` that two runs share brings their laws together. How fast depends on
the map's Lipschitz constant (`contraction`) and on the log-Sobolev constant of the second law: KL <= C/2 times the
relative Fisher information, for a Gaussian the largest eigenvalue of its covariance. `contraction_rdp` bounds the
divergence step by step, `contraction_steps` inverts it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from expunge._validate import count, number, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.accounting.rdp.conversion import divergence_within_distance

__all__ = ["contraction_rdp", "contraction_steps", "weak_triangle_rdp"]

_EPS = float(np.finfo(np.float64).eps)
_MAX_STEPS = 2.0**53  # beyond it a float64 skips integers
_LEAST = 5e-324  # the smallest positive number
_TINY = float(np.finfo(np.float64).tiny)


@ieee_arithmetic
def contraction_rdp(
    rdp: ArrayLike,
    *,
    order: float,
    log_sobolev: ArrayLike,
    contraction: ArrayLike,
    noise_std: ArrayLike,
    n_steps: int | None = None,
) -> Float64:
    """Return the Renyi divergence before and after each of K noisy steps that both runs share, rounded up.

    Parameters
    ----------
    rdp : array_like of float, shape (...)
        Divergence D(P | Q) at ``order`` before the first step, >= 0 and possibly infinite.
    order : float
        Renyi order, finite and > 1; the same before and after.
    log_sobolev : float or array_like of float, shape (K,)
        Log-Sobolev constant of Q, > 0. A number is that before the first step, and later ones follow from it:
        ``C -> contraction^2 C + noise_std^2``. An array holds the constant before each step and is used as it is.
    contraction : float or array_like of float, shape (K,)
        Lipschitz constant of each step's map, >= 0, possibly above 1: ``1 - step_size m`` for an m-strongly convex,
        L-smooth loss with ``step_size <= 2/(m + L)``; 1 for a convex one with ``step_size <= 2/L``;
        ``1 + step_size L`` in general.
    noise_std : float or array_like of float, shape (K,)
        Noise standard deviation of each step, >= 0.
    n_steps : int, optional
        K; needed where no argument has an axis of steps.

    Returns
    -------
    ndarray of float64, shape (..., K + 1)
        Divergence after 0 .. K steps; never increasing.

    Raises
    ------
    TypeError
        If an argument does not hold numbers.
    ValueError
        If an argument is NaN or out of range, or the numbers of steps disagree.

    See Also
    --------
    contraction_steps : The fewest steps to a target.
    weak_triangle_rdp : A start that is known through a third law.

    Notes
    -----
    ``D(k+1) <= D(k) (1 + noise_std^2 / (contraction^2 C_k))^(-1/order)`` [C24, arXiv 2401.10371; S25, arXiv
    2505.18786]. Certified, under assumptions that cannot be checked here: both runs take the *same* maps in the same
    order (full batch, or a batch order fixed in advance), and the constants hold. **False for Poisson or random
    batches**: their laws are mixtures, for which neither the map nor the log-Sobolev constant is that of one batch. A
    starting divergence from Poisson training may enter only with a separately proved ``log_sobolev``. It bounds D(P |
    Q); for D(Q | P) give the constant of P.

    Examples
    --------
    >>> from expunge.accounting import contraction_rdp
    >>> contraction_rdp(1.0, order=2.0, log_sobolev=1.0, contraction=0.5, noise_std=1.0, n_steps=2).round(6).tolist()
    [1.0, 0.447214, 0.218218]
    """
    start = real_array("rdp", rdp, low=0.0, allow_infinite=True)
    alpha = number("order", order, low=1.0, open_low=True)
    constant = real_array("log_sobolev", log_sobolev, low=0.0, open_low=True)
    lipschitz = real_array("contraction", contraction, low=0.0)
    noise = real_array("noise_std", noise_std, low=0.0)
    lengths = {
        name: value.size
        for name, value in (("log_sobolev", constant), ("contraction", lipschitz), ("noise_std", noise))
        if value.ndim == 1
    }
    if any(value.ndim > 1 for value in (constant, lipschitz, noise)):
        raise ValueError("log_sobolev, contraction and noise_std must be numbers or hold one value per step")
    if n_steps is not None:
        lengths["n_steps"] = count("n_steps", n_steps)
    if not lengths:
        raise ValueError("n_steps must be given where no argument has an axis of steps, got three numbers")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arguments must agree on the number of steps, got {lengths}")
    steps = next(iter(lengths.values()))
    maps, noises = (np.broadcast_to(value, (steps,)) for value in (lipschitz, noise))
    before = start[..., np.newaxis]
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        shrink = _log_shrink(constant, maps, noises)
        # Logarithms may underflow to no shrinking, never to more of it than there is.
        total = np.cumsum(shrink) * (1.0 - (steps + 8.0) * _EPS) / alpha
        logs = np.log(before)
        size = 1.0 + np.abs(np.where(np.isfinite(logs), logs, 0.0))
        # Subnormal numbers round by a whole one of the smallest, twice.
        values = np.exp(logs - total) * (1.0 + 8.0 * _EPS * size) + 2.0 * _LEAST
    values = np.where(before == 0.0, 0.0, values)
    # A constant map (Lipschitz constant 0) makes the laws equal, whatever they were.
    values = np.where(np.logical_or.accumulate(maps == 0.0), 0.0, values)
    return np.asarray(np.minimum.accumulate(np.concatenate([before, values], axis=-1), axis=-1), dtype=np.float64)


def _log_shrink(constant: Float64, maps: Float64, noises: Float64) -> Float64:
    """Return log(1 + noise^2 / (map^2 C_k)) for each step, rounded down."""
    if constant.ndim == 1:
        before = constant
    else:
        before = np.empty(maps.size)
        now = float(constant)
        for k, (slope, noise) in enumerate(zip(maps.tolist(), noises.tolist(), strict=True)):
            before[k] = now
            # A larger constant shrinks less: rounded up, and to a normal number where digits are lost to underflow. The
            # square of a slope may vanish where its product with the constant does not.
            now = max((slope * (slope * now) + noise * noise) * (1.0 + 4.0 * _EPS), _TINY)
    live = (noises > 0.0) & (maps > 0.0)
    shrink = np.zeros(maps.size)
    # In logarithms, so that no square overflows to a shrinking that is not there.
    logs = np.log(noises[live]), np.log(maps[live]), np.log(before[live])
    size = 1.0 + 2.0 * np.abs(logs[0]) + 2.0 * np.abs(logs[1]) + np.abs(np.where(np.isinf(logs[2]), 0.0, logs[2]))
    shrink[live] = np.logaddexp(0.0, 2.0 * (logs[0] - logs[1]) - logs[2] - 4.0 * _EPS * size)
    return shrink


@ieee_arithmetic
def contraction_steps(
    rdp: ArrayLike,
    *,
    order: ArrayLike,
    log_sobolev: ArrayLike,
    contraction: float,
    noise_std: float,
    target_rdp: ArrayLike | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
) -> int | float | Float64:
    """Return the fewest equal noisy steps after which the bound of `contraction_rdp` reaches a target.

    Parameters
    ----------
    rdp, order, log_sobolev : array_like of float
        As in `contraction_rdp`, with the constant before the first step; the three broadcast together with
        ``target_rdp``, one answer each. With several orders of one pair of laws every answer is valid: take the least.
    contraction, noise_std : float
        Lipschitz constant of the step's map, >= 0, and noise standard deviation per step, >= 0.
    target_rdp : array_like of float, optional
        Divergence to reach at the same order, >= 0. Give either this, or both ``epsilon`` and ``delta``.
    epsilon, delta : float, optional
        Target of `rdp_to_epsilon` at that order; epsilon finite and >= 0, delta within (0, 1).

    Returns
    -------
    int, float or ndarray of float64
        The fewest steps, rounded outward; ``inf`` where no number of steps suffices (no noise, a map that expands so
        fast that noise does not catch up, a starting divergence that is not known). For scalars an int,
        or the float ``inf``.

    Raises
    ------
    TypeError
        If an argument does not hold numbers.
    ValueError
        If an argument is NaN or out of range, the shapes do not broadcast, or not exactly one target is given.

    See Also
    --------
    contraction_rdp : The divergence after every step.
    predict_steps : The same from estimated privacy losses.

    Notes
    -----
    With constant steps the factors telescope: ``prod (1 + noise_std^2 / (contraction^2 C_k)) = 1 + (noise_std^2 / C_0)
    sum of contraction^(-2j), j = 1 .. K``, so that K has a closed form, about ``order log(rdp / target) / log(1 +
    noise_std^2 / (contraction^2 C))``. Certified under the assumptions of `contraction_rdp`.

    =============================================================================  =====
    Edge case                                                                      Value
    =============================================================================  =====
    ``contraction_steps(0.1, target_rdp=0.2, **setting)``                          0
    ``contraction_steps(inf, target_rdp=0.2, **setting)``                          inf
    ``contraction_steps(1.0, target_rdp=0.0, **setting)``                          inf
    ``contraction_steps(1.0, target_rdp=0.2, **{**setting, "noise_std": 0.0})``    inf
    ``contraction_steps(1.0, target_rdp=0.2, **{**setting, "contraction": 0.0})``  1
    ``contraction_steps(1.0, target_rdp=0.2, **{**setting, "contraction": 2.0})``  inf
    =============================================================================  =====

    Examples
    --------
    >>> from expunge.accounting import contraction_steps
    >>> setting = dict(order=2.0, log_sobolev=1.0, contraction=0.5, noise_std=1.0)
    >>> contraction_steps(1.0, target_rdp=0.2, **setting), contraction_steps([1.0, 0.1], target_rdp=0.2, **setting)
    (3, array([3., 0.]))
    """
    orders = real_array("order", order, low=1.0, open_low=True)
    start = real_array("rdp", rdp, low=0.0, allow_infinite=True)
    constant = real_array("log_sobolev", log_sobolev, low=0.0, open_low=True)
    slope = number("contraction", contraction, low=0.0)
    noise = number("noise_std", noise_std, low=0.0)
    if target_rdp is not None and (epsilon is not None or delta is not None):
        raise ValueError("target_rdp must not be given together with epsilon or delta")
    if target_rdp is not None:
        target = real_array("target_rdp", target_rdp, low=0.0)
    elif epsilon is not None and delta is not None:
        target = rdp_within(
            orders,
            epsilon=number("epsilon", epsilon, low=0.0),
            delta=number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True),
        )
    else:
        raise ValueError("target_rdp, or both of epsilon and delta, must be given")
    try:
        start, orders, constant, target = np.broadcast_arrays(start, orders, constant, target)
    except ValueError:
        shapes = f"{start.shape}, {orders.shape}, {constant.shape}, {target.shape}"
        raise ValueError(f"rdp, order, log_sobolev and target_rdp must broadcast together, got {shapes}") from None
    steps = _fewest(start, orders, constant, target, slope, noise)
    if steps.ndim:
        return steps
    return int(steps) if np.isfinite(steps) else math.inf


def _fewest(start: Float64, orders: Float64, constant: Float64, target: Float64, slope: float, noise: float) -> Float64:
    reached = start <= target
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_start, log_target = np.log(start), np.log(target)
        need = orders * (log_start - log_target)
        need = need + 4.0 * _EPS * orders * (1.0 + np.abs(log_start) + np.abs(log_target))
    possible = ~reached & np.isfinite(need) & (target >= 0.0)
    steps = np.where(reached, 0.0, np.inf)
    if slope == 0.0:
        return np.where(reached, 0.0, np.where(np.isnan(target) | (target < 0.0), np.inf, 1.0))
    if noise == 0.0 or not possible.any():
        return steps
    need, log_noise, log_constant = need[possible], math.log(noise), np.log(constant[possible])
    log_ratio = 2.0 * log_noise - log_constant
    size = 1.0 + 2.0 * abs(log_noise) + np.abs(log_constant)  # what the rounding of the ratio is proportional to
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        log_sum = need + np.log(-np.expm1(-need)) - log_ratio  # log of the sum of contraction^(-2j) that is needed
        rate = -2.0 * math.log(slope)
        if rate == 0.0:
            guess = np.exp(log_sum)
        else:
            gap = log_sum + _log_gap(rate)
            guess = (np.logaddexp(0.0, gap) if rate > 0.0 else np.log1p(-np.exp(gap))) / rate
        guess = np.where(np.isfinite(guess) & (guess < _MAX_STEPS), np.ceil(guess), np.inf)
        found = np.full(guess.shape, np.inf)
        # The guess may be off by its rounding: the first of its neighbours that really passes.
        for shift in (-1.0, 0.0, 1.0, 2.0):
            candidate = np.maximum(guess + shift, 1.0)
            passes = _log_product(candidate, log_ratio, rate, size) >= need
            found = np.where(np.isinf(found) & passes, candidate, found)
        wide = np.isfinite(guess) & np.isinf(found)
        candidate = np.ceil(np.where(wide, guess, 1.0) * (1.0 + 1e-9)) + 3.0
        found = np.where(wide & (_log_product(candidate, log_ratio, rate, size) >= need), candidate, found)
    steps[possible] = found
    return steps


def _log_gap(rate: float) -> float:
    """Return log |1 - e^-rate|, also where the power overflows."""
    return -rate if rate < -700.0 else math.log(abs(math.expm1(-rate)))


def _log_product(steps: Float64, log_ratio: Float64, rate: float, size: Float64) -> Float64:
    """Return log(1 + ratio * sum of e^(rate j), j = 1 .. steps), rounded down; ``size`` is that of the ratio."""
    if rate == 0.0:
        exponent = log_ratio + np.log(steps)
    else:
        grown = rate * steps
        log_gap = _log_gap(rate)
        # sum of e^(rate j) = (e^(rate K) - 1) / (1 - e^(-rate))
        exponent = np.maximum(grown, 0.0) + np.log(-np.expm1(-np.abs(grown))) + log_ratio - log_gap
        size = size + abs(log_gap)
    return np.asarray(np.logaddexp(0.0, exponent - 16.0 * _EPS * (size + np.abs(exponent))), dtype=np.float64)


def rdp_within(order: Float64, *, epsilon: float, delta: float) -> Float64:
    """Return the largest divergence at each order that `rdp_to_epsilon` turns into epsilon, rounded down."""
    thin = np.where(order < 2.0, np.log(order - 1.0) - np.log(order), np.log1p(-1.0 / order))
    gain = (math.log(delta) + np.log(order)) / (order - 1.0)
    size = epsilon + np.abs(np.log(order - 1.0)) + np.log(order) + (abs(math.log(delta)) + np.log(order)) / (order - 1)
    largest = epsilon - thin + gain - 8.0 * _EPS * size
    # Epsilon 0 is within, too, where the total variation distance is at most delta.
    return np.asarray(np.maximum(largest, divergence_within_distance(np.asarray(delta))), dtype=np.float64)


@ieee_arithmetic
def weak_triangle_rdp(rdp_pr: ArrayLike, rdp_rq: ArrayLike, *, order: ArrayLike) -> float | Float64:
    """Return a bound of D(P | Q) through a third law R, rounded up.

    Parameters
    ----------
    rdp_pr : array_like of float
        Renyi divergence of P from R at order ``2 order``, >= 0, possibly infinite.
    rdp_rq : array_like of float
        Renyi divergence of R from Q at order ``2 order - 1``, >= 0, possibly infinite.
    order : array_like of float
        Finite and > 1. The three broadcast together.

    Returns
    -------
    float or ndarray of float64
        ``(order - 1/2) / (order - 1) rdp_pr + rdp_rq``.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    The weak triangle inequality of Renyi divergence ([C24, arXiv 2401.10371], from Mironov 2017, arXiv 1702.07476,
    proposition 11). Certified.

    ==========================================  =====
    Edge case                                   Value
    ==========================================  =====
    ``weak_triangle_rdp(0.0, 0.0, order=2.0)``  0.0
    ``weak_triangle_rdp(inf, 0.0, order=2.0)``  inf
    ==========================================  =====

    Examples
    --------
    >>> from expunge.accounting import weak_triangle_rdp
    >>> print(f"{weak_triangle_rdp(0.2, 0.1, order=2.0):.6f}")
    0.400000
    """
    first = real_array("rdp_pr", rdp_pr, low=0.0, allow_infinite=True)
    second = real_array("rdp_rq", rdp_rq, low=0.0, allow_infinite=True)
    orders = real_array("order", order, low=1.0, open_low=True)
    try:
        first, second, orders = np.broadcast_arrays(first, second, orders)
    except ValueError:
        shapes = f"{first.shape}, {second.shape}, {orders.shape}"
        raise ValueError(f"rdp_pr, rdp_rq and order must broadcast together, got shapes {shapes}") from None
    with np.errstate(over="ignore", under="ignore"):
        # order - 1 and order - 1/2 are exact or rounded once; four more roundings, of which one may be of a subnormal.
        bound = ((orders - 0.5) / (orders - 1.0) * first + second) * (1.0 + 8.0 * _EPS)
        bound = np.where(bound > 0.0, np.nextafter(bound, np.inf), 0.0)
    return bound if bound.ndim else float(bound)
