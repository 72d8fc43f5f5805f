"""Laws by which a time may follow from privacy loss, judged by sets left out of the fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from expunge.experiments.tables import finite, mean_interval

__all__ = ["LAWS", "held_out"]

Array = NDArray[np.float64]
LAWS = ("log", "linear", "power", "constant")
_FEWEST = 4  # sets, so that three are left to fit two constants to


def _line(x: Array, y: Array) -> Callable[[Array], Array]:
    slope, start = np.polyfit(x, y, 1)
    return lambda at: start + slope * at


def _power(x: Array, y: Array) -> Callable[[Array], Array]:
    """Fit y = a x^b by least squares in y, as the other laws are fitted."""
    scaled = np.log(x) - np.log(x).mean()

    def factor(b: float) -> float:  # the best one for this power
        powers = np.exp(b * scaled)
        return float(powers @ y / (powers @ powers))

    def missed(b: float) -> float:
        return float(np.square(y - factor(b) * np.exp(b * scaled)).sum())

    grid = np.linspace(-8.0, 8.0, 161)  # the sum has several minima: from the best of a grid to the lowest beside it
    start = min(grid, key=missed)
    b = float(minimize_scalar(missed, bounds=(start - 0.1, start + 0.1), method="bounded").x)
    a, middle = factor(b), float(np.log(x).mean())
    return lambda at: np.asarray(a * np.exp(b * (np.log(at) - middle)))


def _fit(law: str, x: Array, y: Array) -> Callable[[Array], Array]:
    if law == "constant":
        return lambda at: np.full_like(at, y.mean())
    if law == "power":
        return _power(x, y)
    if law == "linear":
        return _line(x, y)
    of_logs = _line(np.log(x), y)
    return lambda at: of_logs(np.log(at))


def held_out(losses: Array, times: Array) -> dict[str, Any] | None:
    """Return the error of each law on sets it was not fitted to.

    Parameters
    ----------
    losses : ndarray of float64, shape (n_sets,)
        Privacy losses, > 0.
    times : ndarray of float64, shape (n_seeds, n_sets)
        NaN where a set never arrived: left out.

    Returns
    -------
    dict or None
        Per law the mean absolute error over sets and seeds, each set predicted from the others; the two best, and their
        difference with its interval over seeds. None with fewer than four sets that arrived, where fewer than half of
        the runs did, or where all took equally long.
    """
    arrived = np.isfinite(times)
    held = np.flatnonzero(arrived.any(axis=0) & (losses > 0.0))
    if held.size < _FEWEST or arrived.mean() < 0.5 or np.ptp(times[arrived]) == 0.0:
        return None
    errors = {law: np.full(times.shape, np.nan) for law in LAWS}
    for left_out in held:
        rest = held[held != left_out]
        seed, place = np.nonzero(arrived[:, rest])
        x, y = losses[rest][place], times[:, rest][seed, place]
        for law in LAWS:
            predicted = float(_fit(law, x, y)(losses[[left_out]])[0])
            errors[law][:, left_out] = times[:, left_out] - predicted
    seeds = arrived[:, held].any(axis=1)
    by_seed = {law: np.nanmean(np.abs(one[seeds][:, held]), axis=1) for law, one in errors.items()}
    means = {law: float(one.mean()) for law, one in by_seed.items()}
    first, second = sorted(means, key=lambda law: means[law])[:2]
    margin, low, high = mean_interval(by_seed[second] - by_seed[first])
    return {
        **means,
        "best": first,
        "second": second,
        "margin": margin,
        "interval": [finite(low), finite(high)],
        "left_out": int((~arrived).sum()),
        "told": bool(math.isfinite(low) and low > 0.0),
    }
