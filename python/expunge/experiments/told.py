"""Statistics of telling models apart: lower bounds on epsilon from held-out halves, and rankings of few records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.stats import rankdata

from expunge._types import Float64
from expunge._validate import count
from expunge.evaluation import Audit, audited_epsilon
from expunge.experiments.tables import rank_correlation

__all__ = ["Told", "chance_of", "largest_shown", "least_told", "resampled", "told_apart"]


@dataclass(frozen=True)
class Told:
    """How well models with and without a record were told apart: an *estimate*, as its audit says.

    Attributes
    ----------
    epsilon : float
        Lower bound; 0 if nothing was found.
    direction : {"with", "without"}
        Whose runs the event holds more of.
    audit : Audit
        Of that direction: threshold, hits and false alarms.
    """

    epsilon: float
    direction: str
    audit: Audit


def told_apart(present: Float64, absent: Float64, *, delta: float, confidence: float) -> Told:
    """Return the larger of the lower bounds of both directions, each at half the risk.

    The threshold of each is chosen on the first halves and judged on the second ones, by Clopper-Pearson bounds.

    Parameters
    ----------
    present, absent : ndarray of float64, shapes (n,) and (m,)
        A statistic of independent models with and without the record; n, m >= 4.
    delta, confidence : float
        As of `expunge.evaluation.audited_epsilon`.

    Returns
    -------
    Told

    Raises
    ------
    ValueError
        If there are too few models, a NaN, or a setting is out of range.

    Examples
    --------
    >>> told_apart(np.ones(100), np.zeros(100), delta=1e-5, confidence=0.95).direction
    'with'
    """
    each = 1.0 - (1.0 - confidence) / 2.0
    there = audited_epsilon(present, absent, delta=delta, confidence=each)
    gone = audited_epsilon(absent, present, delta=delta, confidence=each)
    if gone.epsilon > there.epsilon:
        return Told(gone.epsilon, "without", gone)
    return Told(there.epsilon, "with", there)


def largest_shown(n: int, *, delta: float, confidence: float) -> float:
    """Return the largest epsilon that so many models a side can show: that of sides without an error.

    Parameters
    ----------
    n : int
        Models with, and as many without; >= 4.
    delta, confidence : float
        As of `told_apart`.

    Examples
    --------
    >>> round(largest_shown(400, delta=1e-5, confidence=0.95), 2)
    3.81
    """
    count("n", n, low=4)
    return told_apart(np.ones(n), np.zeros(n), delta=delta, confidence=confidence).epsilon


def resampled(sides: Sequence[tuple[Float64, Float64]], rng: np.random.Generator) -> list[tuple[Float64, Float64]]:
    """Return a bootstrap sample of models, each half from itself: none is chosen by and judged by.

    The first side of all records is that of the same models, which are drawn together.
    """
    shared = _halves(len(sides[0][0]), rng)
    return [(present[shared], absent[_halves(len(absent), rng)]) for present, absent in sides]


def _halves(n: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    half = n // 2
    return np.concatenate([rng.integers(half, size=half), half + rng.integers(n - half, size=n - half)])


def chance_of(a: Float64, b: Float64) -> float | None:
    """Return the share of all orders of few records whose rank correlation is as far from 0, or farther.

    Parameters
    ----------
    a, b : ndarray of float64, shape (n,)
        At most 8 records.

    Returns
    -------
    float or None
        None where a side is constant.

    Examples
    --------
    >>> round(chance_of(np.arange(4.0), np.arange(4.0)), 4)  # 2 of 24 orders
    0.0833
    """
    if math.isnan(rank_correlation(a, b)):
        return None
    found = _all_correlations(a, b)
    return float(np.mean(np.abs(found) >= abs(found[0]) - 1e-12))


def least_told(n: int, *, level: float = 0.05) -> float:
    """Return the least rank correlation of n records without ties that chance exceeds in at most that share of cases.

    Examples
    --------
    >>> round(least_told(7), 3)
    0.786
    """
    found = np.unique(np.round(np.abs(_all_correlations(np.arange(float(n)), np.arange(float(n)))), 12))
    every = np.abs(_all_correlations(np.arange(float(n)), np.arange(float(n))))
    told = [one for one in found if np.mean(every >= one - 1e-9) <= level]
    return float(min(told)) if told else math.inf


def _all_correlations(a: Float64, b: Float64) -> Float64:
    """Return the rank correlations of all orders of the second column, the one as given first."""
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    orders = np.array(list(permutations(range(len(y)))))
    return np.asarray(y[orders] @ x / np.sqrt((x @ x) * (y @ y)))
