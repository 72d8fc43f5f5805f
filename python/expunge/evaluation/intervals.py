"""Score intervals of areas under the curve and of balanced accuracies, usable for few samples and near 1."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Placements", "accuracy_interval", "auc_interval", "difference_interval", "placements", "warn_unused"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Placements:
    """Share of the other kind that each sample lies above or below, ties one half; their means are both the AUC.

    Attributes
    ----------
    positive : ndarray of float64, shape (n,)
        Share of negatives below each positive.
    negative : ndarray of float64, shape (m,)
        Share of positives above each negative.
    spread : float
        Variance of a pair's outcome over value (1 - value), in [0, 1]: 1 if every pair is won or lost outright, less
        with ties and where an outcome is itself an average.
    """

    positive: Array
    negative: Array
    spread: float

    @property
    def value(self) -> float:
        """Area under the curve."""
        return float(self.positive.mean())


def placements(positive: Array, negative: Array) -> Placements:
    """Return each score's placement among the scores of the other kind."""
    up, down = np.sort(negative), np.sort(positive)
    below, to = np.searchsorted(up, positive, "left"), np.searchsorted(up, positive, "right")
    above = positive.size - (np.searchsorted(down, negative, "left") + np.searchsorted(down, negative, "right")) / 2
    of_positive = (below + to) / (2 * negative.size)
    value = float(of_positive.mean())
    square = float((below + (to - below) / 4).mean()) / negative.size
    return Placements(of_positive, above / positive.size, _share(square - value**2, value))


def _share(variance: float, value: float) -> float:
    most = value * (1 - value)
    return min(1.0, max(variance / most, 0.0)) if most > 0 else 1.0


def auc_interval(found: Placements, *, confidence: float) -> tuple[float, float]:
    """Return Newcombe's score interval [NEW]_ of an AUC, its variance raised to DeLong's [DDC]_ where that is larger.

    The interval holds every x with |value - x| <= q s(x). s(x)^2 is the variance of an AUC of x by the formula of
    Hanley and McNeil for exponential scores, times ``spread``, and q the normal quantile; or that variance scaled to
    DeLong's at the value, and q Student's quantile with Welch's degrees of freedom, if that is wider. It is never wider
    than Student's quantile makes it of x (1 - x) / min(n, m), the largest variance there is. Its width is not 0 at AUC
    0 or 1. Where perfect separation of equal laws has a chance above 1 - confidence (3 against 3 samples, say, for 95%)
    q is Student's always, and with one sample of a kind the interval is (0, 1).

    References
    ----------
    .. [NEW] Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
       Statistics in Medicine 25 (2006), method 5.
    .. [DDC] DeLong, DeLong, Clarke-Pearson, Comparing the areas under two or more correlated ROC curves,
       Biometrics 44 (1988).
    """
    n, m = found.positive.size, found.negative.size
    pairs = (n + m) / 2 - 1

    def model(x: float) -> float:
        return found.spread * x * (1 - x) * (1 + pairs * (1 - x) / (2 - x) + pairs * x / (1 + x)) / (n * m)

    return _score_interval(found.value, found.positive, found.negative, 1.0, model, 1 / min(n, m), confidence)


def accuracy_interval(hits: Array, passes: Array, *, spread: float, confidence: float) -> tuple[float, float]:
    """Return the score interval of (mean of hits + mean of passes) / 2, both within [0, 1]; (0, 1) from one sample.

    As `auc_interval`, with the variance of two shares: ``spread`` x (1 - x) (1/n + 1/m) / 4 at least.
    """
    sizes = (1 / hits.size + 1 / passes.size) / 4

    def model(x: float) -> float:
        return spread * x * (1 - x) * sizes

    value = float((hits.mean() + passes.mean()) / 2)
    return _score_interval(value, hits, passes, 0.25, model, 1 / (2 * min(hits.size, passes.size)), confidence)


def _score_interval(
    value: float, a: Array, b: Array, weight: float, model: Callable[[float], float], most: float, confidence: float
) -> tuple[float, float]:
    n, m = a.size, b.size
    if min(n, m) < 2:
        return 0.0, 1.0
    of_a, of_b = (weight * float(part.var(ddof=1)) / part.size for part in (a, b))
    variance = of_a + of_b
    df = variance**2 / (of_a**2 / (n - 1) + of_b**2 / (m - 1)) if variance > 1e-150 else min(n, m) - 1
    tail = (1 + confidence) / 2
    student, normal = float(stats.t.ppf(tail, df)), float(stats.norm.ppf(tail))
    # The formula's variance is not estimated, but so few samples say nothing even if they separate perfectly.
    log_orders = math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    few = 2 * math.exp(-log_orders) > 1 - confidence
    squared, at_value = (student if few else normal) ** 2, model(value)
    if at_value > 0:
        squared = max(squared, student**2 * variance / at_value)
    most *= student**2

    def holds(x: float) -> bool:
        return (value - x) ** 2 <= min(squared * model(x), most * x * (1 - x))

    return _edge(holds, value, 0.0), _edge(holds, value, 1.0)


def _edge(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the last x from ``inside`` towards ``outside`` that the interval holds, by bisection, rounded outward."""
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return outside


def difference_interval(one: Placements, other: Placements, *, confidence: float) -> tuple[float, float]:
    """Return the interval of the difference of two AUCs on the same samples, from their own intervals (MOVER) [ZOU]_.

    References
    ----------
    .. [ZOU] Zou, Donner, Construction of confidence limits about effect measures: a general approach, Statistics in
       Medicine 27 (2008); their correlation by DeLong.
    """
    value, reference = one.value, other.value
    (low, high), (low_r, high_r) = (auc_interval(found, confidence=confidence) for found in (one, other))
    n, m = one.positive.size, one.negative.size
    correlation = 0.0
    if min(n, m) > 1:
        covariance = np.cov(one.positive, other.positive) / n + np.cov(one.negative, other.negative) / m
        scale = math.sqrt(covariance[0, 0] * covariance[1, 1])
        correlation = min(1.0, max(-1.0, float(covariance[0, 1]) / scale)) if scale > 0 else 0.0

    def together(a: float, b: float) -> float:
        return math.sqrt(max(a * a + b * b - 2 * correlation * a * b, 0.0))

    difference = value - reference
    return (
        max(-1.0, difference - together(value - low, high_r - reference)),
        min(1.0, difference + together(high - value, reference - low_r)),
    )


def warn_unused(*, n_resamples: int | None, seed: int | None) -> None:
    """Warn the caller's caller that it gave a setting of the bootstrap that these intervals replaced."""
    for name, value in (("n_resamples", n_resamples), ("seed", seed)):
        if value is not None:
            message = f"{name} changes nothing, since intervals need no resampling, and will be removed: leave it out"
            warnings.warn(message, FutureWarning, stacklevel=3)
