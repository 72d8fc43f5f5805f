"""An attacker's lower bound on epsilon from many runs of both worlds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from expunge._validate import number, real_array

__all__ = ["Audit", "audited_epsilon"]


@dataclass(frozen=True)
class Audit:
    """A lower bound on epsilon that holds at a confidence, from runs. An *estimate*: no theorem about the mechanism.

    Attributes
    ----------
    epsilon : float
        0 if nothing was found, which does not show that there is nothing.
    threshold : float
        Of the event, chosen on the first half of the runs.
    side : {"above", "below"}
        The event: statistic above or below the threshold.
    hits, false_alarms : int
        Runs of P and of Q in the event, in the second halves.
    n_p, n_q : int
        Runs in the second halves.
    delta, confidence : float
    """

    epsilon: float
    threshold: float
    side: str
    hits: int
    false_alarms: int
    n_p: int
    n_q: int
    delta: float
    confidence: float
    status: str = field(default="estimate", init=False)


def audited_epsilon(runs_p: ArrayLike, runs_q: ArrayLike, *, delta: float, confidence: float = 0.95) -> Audit:
    """Return a lower bound on every epsilon with P(S) <= e^epsilon Q(S) + delta, from runs of P and Q.

    The best threshold event is chosen on the first half of the runs; Clopper-Pearson bounds of its two probabilities
    come from the second half, each at half the risk. For the other direction exchange the arguments.

    Parameters
    ----------
    runs_p, runs_q : array-like of float, shapes (n,) and (m,)
        A scalar statistic of independent runs in random order; n, m >= 4, free of NaN.
    delta : float
        In [0, 1).
    confidence : float, default 0.95
        With which the bound holds.

    Returns
    -------
    Audit

    Raises
    ------
    TypeError, ValueError
        If there are too few runs, a NaN, or a setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = audited_epsilon(rng.standard_normal(20_000) + 1.0, rng.standard_normal(20_000), delta=1e-3)
    >>> 1.0 < found.epsilon <= 3.14, found.side  # mu = 1: epsilon(1e-3) is 3.139
    (True, 'above')
    """
    p, q = (real_array(n, v, ndim=1, allow_infinite=True) for n, v in (("runs_p", runs_p), ("runs_q", runs_q)))
    if p.size < 4 or q.size < 4:
        raise ValueError(f"runs_p and runs_q must hold at least 4 runs each, got {p.size} and {q.size}")
    delta = number("delta", delta, low=0, high=1, open_high=True)
    confidence = number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)
    risk = (1 - confidence) / 2
    (choose_p, test_p), (choose_q, test_q) = (np.split(runs, [runs.size // 2]) for runs in (p, q))
    grid = np.unique(np.quantile(np.concatenate([choose_p, choose_q]), np.linspace(0.01, 0.99, 99), method="nearest"))
    best = (-math.inf, float(grid[0]), "above")
    for side in ("above", "below"):
        hits, false = _events(choose_p, grid, side), _events(choose_q, grid, side)
        found = _epsilons(hits, choose_p.size, false, choose_q.size, delta, risk)
        k = int(np.argmax(found))
        best = max(best, (float(found[k]), float(grid[k]), side))
    _, threshold, side = best
    at = np.array([threshold])
    hits, false = _events(test_p, at, side), _events(test_q, at, side)
    epsilon = max(0.0, float(_epsilons(hits, test_p.size, false, test_q.size, delta, risk)[0]))
    return Audit(
        epsilon, threshold, side, int(hits[0]), int(false[0]), int(test_p.size), int(test_q.size), delta, confidence
    )


Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def _events(
    runs: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    thresholds: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    side: str,
) -> Counts:
    ordered = np.sort(runs)
    if side == "above":
        return np.asarray(runs.size - np.searchsorted(ordered, thresholds, "right"), dtype=np.int64)
    return np.asarray(np.searchsorted(ordered, thresholds, "left"), dtype=np.int64)


def _epsilons(
    hits: Counts, n: int, false: Counts, m: int, delta: float, risk: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Clopper-Pearson lower bounds on epsilon; -inf where the event's probability may be below delta."""
    low = np.where(hits == 0, 0.0, beta.ppf(risk, np.maximum(hits, 1), n - hits + 1))
    high = np.where(false == m, 1.0, beta.ppf(1 - risk, false + 1, np.maximum(m - false, 1)))
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(low - delta, 0.0)) - np.log(high), dtype=np.float64)
