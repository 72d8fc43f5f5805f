"""Power: the difference that an experiment is likely to see, said before it is run."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

from expunge._validate import count, number

__all__ = ["detectable", "detectable_words", "seen_by"]

LEVEL, POWER = 0.05, 0.8
_NODES = 4096


def detectable(n_seeds: int, *, std: float) -> float:
    """Return the mean that a two-sided Student's t-test at 5% tells from 0 with probability 80%.

    Parameters
    ----------
    n_seeds : int
        Independent values, >= 1.
    std : float
        Standard deviation of one of them, > 0: an assumption.

    Returns
    -------
    float
        Infinite for one seed.

    Examples
    --------
    >>> round(detectable(20, std=1.0), 3)
    0.66
    """
    count("n_seeds", n_seeds, low=1)
    number("std", std, low=0.0, open_low=True)
    if n_seeds == 1:
        return math.inf
    return seen_by(std / math.sqrt(n_seeds), n_seeds - 1)


def seen_by(error: float, freedom: int) -> float:
    """Return the mean that the test tells from 0 with probability 80%, from its standard error.

    Parameters
    ----------
    error : float
        Standard error of the mean, >= 0.
    freedom : int
        Degrees of freedom, >= 1.
    """
    edge = float(t.ppf(1 - LEVEL / 2, freedom))
    # Given the standard deviation found, the statistic is normal: an average over its law. SciPy's noncentral t is NaN
    # at some shifts.
    places = (np.arange(_NODES) + 0.5) / _NODES
    edges = edge * np.sqrt(chi2.ppf(places, freedom) / freedom)

    def missing(shift: float) -> float:
        return float((norm.sf(edges - shift) + norm.cdf(-edges - shift)).mean()) - POWER

    high = 1.0
    while missing(high) < 0.0:
        high *= 2.0
    return float(brentq(missing, 0.0, high)) * error


def detectable_words(n_seeds: int, *, std: float, what: str, unit: str, most: float = math.inf) -> str:
    """Return the power of an experiment in words, for before it runs."""
    if n_seeds == 1:
        return f"Power, stated beforehand: one seed has none to see {what} with."
    least = detectable(n_seeds, std=std)
    if least > most:
        return (
            f"Power, stated beforehand: {n_seeds} seeds are too few to see {what} with a probability of 80%, whatever "
            f"it is, at an assumed standard deviation over seeds of {std:.3g}{unit}."
        )
    return (
        f"Power, stated beforehand: {n_seeds} seeds see {what} of {least:.2g}{unit} or more with a probability of 80% "
        f"(two-sided t-test at 5%), at an assumed standard deviation over seeds of {std:.3g}{unit}."
    )
