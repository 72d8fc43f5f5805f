"""Bands in which retrained models lie, to compare an unlearned model with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from expunge._validate import choice, number, real_array, unmasked

__all__ = ["Band", "reference_band"]


@dataclass(frozen=True)
class Band:
    """A closed interval of a metric's values on retrained models. An *estimate*.

    Attributes
    ----------
    low, high : float
    mean : float
        Of the retrained models.
    n_models : int
        How many there were.
    rule : str
        How the band was made, in words.
    """

    low: float
    high: float
    mean: float
    n_models: int
    rule: str
    status: str = field(default="estimate", init=False)

    def holds(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each value is inside; NaN is not."""
        found = unmasked("values", values).astype(np.float64)
        return np.asarray((self.low <= found) & (found <= self.high))

    def __str__(self) -> str:
        return f"[{self.low:.4g}, {self.high:.4g}] ({self.rule})"


def reference_band(
    values: ArrayLike,
    *,
    method: str = "std",
    k: float = 2.0,
    confidence: float = 0.95,
    tolerance: float = 0.0,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Band:
    """Return the band of a metric from its values on retrained models.

    Parameters
    ----------
    values : array-like of float, shape (n_models,)
        The metric on each retrained model, finite.
    method : {"std", "range", "prediction"}
        Mean +- ``k`` standard deviations (n - 1 in the denominator; two models at least); the smallest and largest; or
        where one more retrained model lies with probability ``confidence`` if their values are normal (Student's t).
        With few models the first two are narrower than that: 2 standard deviations of three hold a fourth in 77% of
        cases.
    k : float, default 2
        > 0; for "std".
    confidence : float, default 0.95
        In (0, 1); for "prediction".
    tolerance : float, default 0
        Least half width, >= 0. A single retrained model has a band only through it, with any method.
    limits : (float, float)
        Smallest and largest value the metric can have, such as (0, 1) of an accuracy: the band ends there.

    Returns
    -------
    Band

    Raises
    ------
    ValueError
        If there is no value, one that is not finite or outside ``limits``, or a single one without tolerance.

    Examples
    --------
    >>> print(reference_band([0.80, 0.84, 0.82]))
    [0.78, 0.86] (mean +- 2 std of 3 retrained models)
    >>> print(reference_band([0.80, 0.84, 0.82], method="range"))
    [0.8, 0.84] (range of 3 retrained models)
    >>> print(reference_band([0.82], tolerance=0.01))
    [0.81, 0.83] (one retrained model +- 0.01)
    >>> print(reference_band([0.97, 0.99], limits=(0, 1)))
    [0.9517, 1] (mean +- 2 std of 2 retrained models)
    """
    found = np.atleast_1d(real_array("values", values))
    if found.ndim != 1 or found.size == 0:
        raise ValueError(f"values must hold one number per retrained model, got shape {found.shape}")
    method = choice("method", method, ("std", "range", "prediction"))
    k = number("k", k, low=0, open_low=True)
    confidence = number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)
    tolerance = number("tolerance", tolerance, low=0)
    least, most = (float(end) for end in limits)
    if not least < most:
        raise ValueError(f"limits must be (smallest, largest), got {limits}")
    if not ((least <= found) & (found <= most)).all():
        raise ValueError(f"values must be within limits, [{least:g}, {most:g}], got {found.min():g} to {found.max():g}")
    n, mean = int(found.size), float(found.mean())
    if n == 1:
        if not tolerance > 0:
            raise ValueError("values must hold at least 2 retrained models unless tolerance is > 0, got 1")
        low, high, rule = mean - tolerance, mean + tolerance, f"one retrained model +- {tolerance:g}"
        return Band(max(low, least), min(high, most), mean, 1, rule)
    if method == "std":
        half = k * float(found.std(ddof=1))
        low, high, rule = mean - half, mean + half, f"mean +- {k:g} std of {n} retrained models"
    elif method == "prediction":
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * found.std(ddof=1) * np.sqrt(1 + 1 / n))
        low, high, rule = mean - half, mean + half, f"{100 * confidence:g}% prediction from {n} retrained models"
    else:
        low, high, rule = float(found.min()), float(found.max()), f"range of {n} retrained models"
    if tolerance > 0:
        low, high = min(low, mean - tolerance), max(high, mean + tolerance)
        rule += f", at least +- {tolerance:g}"
    return Band(max(low, least), min(high, most), mean, n, rule)
