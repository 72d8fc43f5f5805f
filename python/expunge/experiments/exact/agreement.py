"""Statistics of agreement: rank correlations with intervals, tops in common, and laws on held-out records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import hypergeom

from expunge._types import Float64

__all__ = ["LAWS", "Held", "Overlap", "held_out", "overlap", "rank_correlations"]

_FOLDS = 10
_LEVEL = [0.025, 0.975]


def rank_correlations(columns: Float64, truth: Float64, *, n_resamples: int, seed: int = 0) -> tuple[Float64, Float64]:
    """Return Spearman's rank correlation of each column with the truth, and the same of bootstrap samples of records.

    Parameters
    ----------
    columns : ndarray of float64, shape (n, m)
        Measures; may be infinite.
    truth : ndarray of float64, shape (n,)
        May be infinite.
    n_resamples : int
        Samples of n records with replacement.
    seed : int
        Of the samples.

    Returns
    -------
    correlations : ndarray of float64, shape (m,)
        NaN where a side is constant, or there are fewer than three records.
    resampled : ndarray of float64, shape (n_resamples, m)

    Examples
    --------
    >>> found, samples = rank_correlations(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 9.0]), n_resamples=5)
    >>> found.tolist(), samples.shape
    ([1.0], (5, 1))
    """
    if len(truth) < 3:
        return np.full(columns.shape[1], np.nan), np.full((n_resamples, columns.shape[1]), np.nan)
    ranks = _WeightedRanks(np.column_stack([truth, columns]))
    rng = np.random.default_rng(seed)
    n = len(truth)
    samples = (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(n_resamples))
    return ranks.correlations(np.ones(n)), np.array([ranks.correlations(np.asarray(one, float)) for one in samples])


class _WeightedRanks:
    """Mean ranks of columns where each record counts so often: sorted once, whatever the weights."""

    def __init__(self, table: Float64) -> None:
        n, m = table.shape
        self.order = np.argsort(table.T, axis=1, kind="stable")
        # Of each record, in each column: how many sorted places precede its value, and how many do not exceed it.
        self.first, self.last = np.empty((m, n), dtype=np.int64), np.empty((m, n), dtype=np.int64)
        for j, order in enumerate(self.order):
            values = table[order, j]
            self.first[j] = np.searchsorted(values, table[:, j], side="left")
            self.last[j] = np.searchsorted(values, table[:, j], side="right")

    def correlations(self, weights: Float64) -> Float64:
        """Return Spearman's correlation of every other column with the first."""
        counts = np.zeros((len(self.order), len(weights) + 1))
        np.cumsum(weights[self.order], axis=1, out=counts[:, 1:])
        ranks = np.take_along_axis(counts, self.first, axis=1) + np.take_along_axis(counts, self.last, axis=1)
        ranks -= (ranks @ weights / weights.sum())[:, np.newaxis]
        weighed = ranks * weights
        squares = np.einsum("ij,ij->i", ranks, weighed)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = weighed[1:] @ ranks[0] / np.sqrt(squares[0] * squares[1:])
        # What is left of a constant column is rounding.
        least = 1e-18 * float(weights.sum()) ** 3
        return np.asarray(np.where((squares[1:] > least) & (squares[0] > least), found, np.nan))


@dataclass(frozen=True)
class Overlap:
    """Records that two tops have in common.

    Attributes
    ----------
    common, size : int
        Records in both, and in each.
    by_chance : float
        Expected of two random sets.
    chance_high : int
        At most so many in 97.5% of pairs of random sets.
    """

    common: int
    size: int
    by_chance: float
    chance_high: int


def overlap(measure: Float64, truth: Float64, *, size: int) -> Overlap:
    """Return how many of the top records of the truth are among those of a measure; ties go to the lower number.

    Examples
    --------
    >>> overlap(np.array([3.0, 1.0, 2.0]), np.array([9.0, 8.0, 1.0]), size=2).common
    1
    """
    n = len(truth)
    tops = [set(np.argsort(-values, kind="stable")[:size].tolist()) for values in (measure, truth)]
    chance = hypergeom(n, size, size)
    return Overlap(len(tops[0] & tops[1]), size, size * size / n, int(chance.ppf(0.975)))


# --- laws ---------------------------------------------------------------------------------------------


def _thresholded(x: Float64, y: Float64) -> Callable[[Float64], Float64]:
    """Fit ``max(0, a x + b)`` by least squares, from the line through the costs above 0."""
    centre, width = float(x.mean()), float(x.std()) or 1.0
    scaled, seen = (x - centre) / width, y > 0.0
    start = np.polyfit(scaled[seen], y[seen], 1)

    def line(theta: Float64, at: Float64) -> Float64:
        return np.asarray(np.maximum(theta[0] * at + theta[1], 0.0))

    found = least_squares(lambda theta: line(theta, scaled) - y, start, x_scale=max(float(y.std()), 1e-300)).x
    return lambda at: line(found, (at - centre) / width)


def _logarithmic(x: Float64, y: Float64) -> Callable[[Float64], Float64]:
    fitted = _thresholded(np.log(x), y)
    return lambda at: fitted(np.log(at))


def _power(x: Float64, y: Float64) -> Callable[[Float64], Float64]:
    """Fit ``c x^a`` by least squares of y itself, like the others, from the line in logarithms."""
    logs, seen = np.log(x), y > 0.0
    centre = float(logs.mean())
    slope, base = np.polyfit(logs[seen] - centre, np.log(y[seen]), 1)

    def curve(theta: Float64, at: Float64) -> Float64:
        return np.asarray(np.exp(np.minimum(theta[0] * (at - centre) + theta[1], 700.0)))

    with np.errstate(over="ignore"):
        found = least_squares(lambda theta: curve(theta, logs) - y, [slope, base], max_nfev=200).x
    return lambda at: curve(found, np.log(at))


LAWS: dict[str, Callable[[Float64, Float64], Callable[[Float64], Float64]]] = {
    "linear": _thresholded,
    "log": _logarithmic,
    "power": _power,
}


@dataclass(frozen=True)
class Held:
    """Shares of a cost's variance that laws explain on records they were not fitted to.

    Attributes
    ----------
    r_squared : dict of str to float
        By law: one minus the squared error on held-out records over their variance; below 0 if the mean does better.
    best, second : str
        The laws with the largest and the second largest.
    margin : float
        Their difference.
    margin_interval : tuple of float
        95%, over bootstrap samples of the held-out errors.
    n : int
        Records with a positive measure and a finite cost.
    """

    r_squared: dict[str, float]
    best: str
    second: str
    margin: float
    margin_interval: tuple[float, float]
    n: int


def held_out(measure: Float64, cost: Float64, *, n_resamples: int, seed: int = 0) -> Held | None:
    """Return how well each law predicts the cost of records it was not fitted to, over ten folds.

    The laws are ``max(0, a m + b)``, ``max(0, a log m + b)`` and ``c m^a`` in the measure m, fitted by least squares of
    the cost itself.

    Parameters
    ----------
    measure : ndarray of float64, shape (n,)
        Records whose measure is not above 0 or not finite are left out: two of the laws do not know them.
    cost : ndarray of float64, shape (n,)
        At least 0; records with an infinite one are left out.
    n_resamples : int
        For the interval.
    seed : int
        Of folds and samples.

    Returns
    -------
    Held, or None
        None with fewer than 30 records, or where all costs, or all measures, are alike.

    Examples
    --------
    >>> x = np.geomspace(1.0, 100.0, 60)
    >>> found = held_out(x, np.log(x), n_resamples=100)
    >>> found.best, round(found.r_squared["log"], 6), found.r_squared["linear"] < 0.95
    ('log', 1.0, True)
    """
    good = np.isfinite(measure) & (measure > 0.0) & np.isfinite(cost)
    x, y = measure[good], cost[good]
    if len(x) < 3 * _FOLDS or np.ptp(y) == 0.0 or np.ptp(x) == 0.0 or np.count_nonzero(y) < 3 * _FOLDS:
        return None
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(x)) % _FOLDS
    errors = {name: _errors(fit, x, y, fold) for name, fit in LAWS.items()}
    spread = np.square(y - y.mean())
    scores = {name: 1.0 - float(error.sum() / spread.sum()) for name, error in errors.items()}
    best, second = sorted(scores, key=lambda name: -scores[name])[:2]
    gain = errors[second] - errors[best]
    margins = [float(gain[pick].sum() / spread[pick].sum()) for pick in _picks(rng, len(x), n_resamples)]
    low, high = np.quantile(margins, _LEVEL)
    return Held(scores, best, second, scores[best] - scores[second], (float(low), float(high)), len(x))


def _errors(
    fit: Callable[[Float64, Float64], Callable[[Float64], Float64]], x: Float64, y: Float64, fold: NDArray[np.int64]
) -> Float64:
    errors = np.empty(len(x))
    for k in range(_FOLDS):
        out = fold == k
        errors[out] = np.square(fit(x[~out], y[~out])(x[out]) - y[out])
    return errors


def _picks(rng: np.random.Generator, n: int, n_resamples: int) -> Sequence[NDArray[np.int64]]:
    return [rng.integers(n, size=n) for _ in range(n_resamples)]
