"""Renyi divergences of a sampled Gaussian step for a group of records that are all there or all absent, certified.

Of a group of k, a Poisson sample holds J ~ Binomial(k, q) members, which together shift the Gaussian by at most J
sensitivities. P is the law with the group, a mixture of the shifted Gaussians, and Q = N(0, s^2) the law without it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from expunge.accounting._broadcast import Float64
from expunge.accounting.rdp.sampled_gaussian import sampled_gaussian_rdp

__all__ = ["sampled_group_rdp"]

_MOST_SHIFTS = 64  # numbers of sampled members that are told apart
_LARGEST_ORDER = 64  # up to which moments are summed term by term
_EPS = float(np.finfo(np.float64).eps)


def sampled_group_rdp(
    orders: Float64, *, noise_multiplier: float, sampling_probability: float, group_size: int
) -> Float64:
    """Return the Renyi divergence that a step costs a group, in the worse direction, rounded up.

    Parameters
    ----------
    orders : ndarray of float64, shape (m,)
        Renyi orders, > 1.
    noise_multiplier : float
        Noise standard deviation s over the sensitivity to one record, > 0.
    sampling_probability : float
        Poisson rate q, within (0, 1).
    group_size : int
        k >= 1.

    Returns
    -------
    ndarray of float64, shape (m,)
        For k = 1 exactly `sampled_gaussian_rdp`. Above order 64 looser, still an upper bound.

    Notes
    -----
    Members are sampled apart and their gradients clipped apart: with w_S the chance that the members S are sampled,
    ``P = sum_S w_S N(v_S, s^2)`` with ``|v_S| <= |S|``.

    - P from Q, whole orders: ``int P^a Q^(1-a) = E exp(sum_{i<l} <v_i, v_l> / s^2)`` over a independent draws, largest
      when all gradients are parallel: ``sum_m A_m exp(m^2 / (2 s^2))`` with A the coefficients of
      ``(sum_j P(J = j) exp(-j^2 / (2 s^2)) t^j)^a``, all positive. Between whole orders ``(a - 1) D_a`` is convex.
    - Q from P, and large orders: P is the mean of ``(1 - q_k) N(0) + q_k N(v_S)`` over S under the weights ``w_S /
      q_k``, S not empty, ``q_k = 1 - (1-q)^k``. Moments are convex in P, so that each is at most the mean of those of
      single sampled Gaussians, which grow with ``|v_S|`` ([MTZ19, arXiv 1908.10530], section 3).

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import sampled_gaussian_rdp
    >>> given = {"noise_multiplier": 2.0, "sampling_probability": 0.01}
    >>> one = sampled_group_rdp(np.array([4.0]), group_size=1, **given)
    >>> bool(one[0] == sampled_gaussian_rdp(4.0, 2.0, 0.01))
    True
    >>> two = sampled_group_rdp(np.array([4.0]), group_size=2, **given)
    >>> bool(2 * one[0] < two[0] < 5 * one[0])
    True
    """
    s, q, k = noise_multiplier, sampling_probability, group_size
    if k == 1:
        return np.asarray(sampled_gaussian_rdp(orders, s, q), dtype=np.float64)
    width = -(-k // _MOST_SHIFTS)  # numbers of members are rounded up to its multiples
    whole = np.ceil(np.minimum(orders, _LARGEST_ORDER)).astype(np.int64)
    known = {int(a): _log_moment(int(a), s, q, k, width) for a in np.unique([*whole, *np.maximum(whole - 1, 1)])}
    high = np.array([known[int(a)] for a in whole])
    low = np.array([known[max(int(a) - 1, 1)] for a in whole])
    share = orders - (whole - 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        between = np.where(share == 1.0, high, low + share * (high - low)) / (orders - 1.0) * (1.0 + 16.0 * _EPS)
    forward = np.where((orders <= _LARGEST_ORDER) & ~np.isnan(between), between, np.inf)
    forward = np.minimum(forward, _mean_rdp(orders, s, q, k, width, "pq"))
    return np.asarray(np.maximum(forward, _mean_rdp(orders, s, q, k, width, "qp")), dtype=np.float64)


@lru_cache(maxsize=4096)
def _log_moment(order: int, s: float, q: float, k: int, width: int) -> float:
    """Return the logarithm of ``int P^order Q^(1 - order)`` with all gradients parallel, rounded up; 0 at order 1."""
    if order == 1:
        return 0.0
    shifts, chances = _binned(q, k, width)
    shifts = np.concatenate([[0.0], shifts])
    none = k * math.log1p(-q) * (1.0 - 8.0 * _EPS)
    with np.errstate(over="ignore"):
        factor = np.concatenate([[none], chances]) - np.square(shifts / s) / 2.0 * (1.0 - 8.0 * _EPS)
        power = factor
        for _ in range(order - 1):
            longer = np.full(len(power) + len(factor) - 1, -np.inf)
            for j, one in enumerate(factor):
                at = slice(j, j + len(power))
                longer[at] = np.logaddexp(longer[at], power + one)
            power = longer
        total = np.square(width * np.arange(len(power)) / s) / 2.0
        terms = power + total * (1.0 + 8.0 * _EPS)
        found = float(special.logsumexp(terms))
        largest = float(np.abs(power).max() + total.max())
    # Every sum in logarithms rounds by a few units of the largest exponent it meets.
    return max(found, 0.0) + 8.0 * _EPS * (order * len(factor) + len(power)) * (1.0 + largest)


def _mean_rdp(orders: Float64, s: float, q: float, k: int, width: int, direction: str) -> Float64:
    """Return a divergence by the mean of the moments of single sampled Gaussians, rounded up."""
    reached = min(-math.expm1(k * math.log1p(-q)) * (1.0 + 16.0 * _EPS), 1.0)
    shifts, chances = _binned(q, k, width)
    weights = chances - math.log(reached) + 32.0 * _EPS
    noise = s / shifts * (1.0 - 2.0 * _EPS)
    each = np.asarray(sampled_gaussian_rdp(orders[:, None], noise, reached, direction=direction), dtype=np.float64)
    # The weights sum to 1, so the mean moment is 1 + their sum of (moment - 1): no digit is lost to the 1.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        exponents = (orders[:, None] - 1.0) * each
        terms = weights + np.where(exponents > 30.0, exponents, np.log(np.expm1(np.minimum(exponents, 30.0))))
        excess = special.logsumexp(terms, axis=1) + (len(shifts) + 16.0) * _EPS * (1.0 + np.abs(terms).max(axis=1))
        mean = np.logaddexp(0.0, excess) / (orders - 1.0) * (1.0 + 16.0 * _EPS)
    largest = each.max(axis=1)
    return np.asarray(np.where(np.isfinite(mean), np.minimum(mean, largest), largest), dtype=np.float64)


def _binned(q: float, k: int, width: int) -> tuple[Float64, Float64]:
    """Return numbers of sampled members from 1 on, rounded up to multiples, and the logarithms of their chances."""
    j: NDArray[np.float64] = np.arange(1, k + 1, dtype=np.float64)
    parts = (
        special.gammaln(k + 1.0), -special.gammaln(j + 1.0), -special.gammaln(k - j + 1.0), j * math.log(q),
        (k - j) * math.log1p(-q),
    )  # fmt: skip
    chances = sum(parts) + 16.0 * _EPS * (1.0 + sum(np.abs(part) for part in parts))
    bins = (np.arange(k) // width).astype(np.int64)
    found = np.full(int(bins[-1]) + 1, -np.inf)
    np.logaddexp.at(found, bins, chances)
    return width * np.arange(1.0, len(found) + 1.0), found + 8.0 * _EPS * (1.0 + np.abs(found)) * width
