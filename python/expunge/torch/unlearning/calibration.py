"""Steps that fine-tuning is given, from privacy losses: calibrated on pilot sets. *Estimates*."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._types import JsonObject
from expunge._validate import choice, count, number, real_array
from expunge.accounting.unlearning import LogFit, fit_log_steps

__all__ = ["StepCalibration", "calibrate_steps"]


@dataclass(frozen=True)
class StepCalibration:
    """Steps for a forget set by its mean privacy loss. Made by `calibrate_steps`.

    Attributes
    ----------
    rule : {"line", "envelope"}
    fit : LogFit or None
        Steps against the logarithm of privacy loss; None if the privacy losses are all alike, so that all sets get
        the same, and for an envelope.
    margin : float
        Steps above the line: the ``coverage`` quantile of what pilot sets needed above lines fitted without them; 0 for
        an envelope.
    coverage : float or None
        Share of sets that are to get as many steps as they need, if they are like the pilot sets; None for an
        envelope, which is calibrated for none.
    knots, heights : tuple of float
        Of an envelope: privacy losses of the pilot sets, ascending, and the most steps that any set up to there needed.
    most_steps : int
        Most steps that are given: what the hardest pilot set needed.
    n_pilots, n_never : int
        Pilot sets, and those of them that never arrived, which count as ``most_steps`` of the pilot runs.
    status : str
        ``"estimate"``: no number of steps certifies anything.
    """

    rule: str
    fit: LogFit | None
    margin: float
    coverage: float | None
    most_steps: int
    n_pilots: int
    n_never: int
    knots: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()
    status: str = "estimate"

    def steps(self, privacy_loss: ArrayLike) -> NDArray[np.int64]:
        """Return the steps for sets of these mean privacy losses, whole and at most ``most_steps``.

        Parameters
        ----------
        privacy_loss : array_like of float
            > 0, possibly infinite.
        """
        losses = real_array("privacy_loss", privacy_loss, low=0.0, open_low=True, allow_infinite=True)
        if self.rule == "envelope":
            # Up to the next pilot set above; beyond the last, that of the hardest.
            at = np.minimum(np.searchsorted(self.knots, losses), len(self.knots) - 1)
            return np.asarray(np.ceil(np.asarray(self.heights)[at]), dtype=np.int64)
        line = np.zeros(losses.shape) if self.fit is None else _line(self.fit, losses)
        found = np.clip(np.ceil(line + self.margin - 1e-9), 0.0, self.most_steps)
        return np.asarray(found, dtype=np.int64)

    def to_dict(self) -> JsonObject:
        """Return the calibration as JSON values."""
        line = None if self.fit is None else {"slope": self.fit.slope, "intercept": self.fit.intercept}
        return {
            "status": self.status, "rule": self.rule, "knots": list(self.knots), "heights": list(self.heights),
            "line": line, "margin": self.margin, "coverage": self.coverage,
            "most_steps": self.most_steps, "n_pilots": self.n_pilots, "n_never": self.n_never,
        }  # fmt: skip


def calibrate_steps(
    privacy_loss: ArrayLike, steps: ArrayLike, *, most_steps: int, coverage: float = 0.9, rule: str = "line"
) -> StepCalibration:
    """Calibrate the steps of fine-tuning on pilot sets that were unlearned with their steps counted.

    Parameters
    ----------
    privacy_loss : array_like of float, shape (n_pilots,)
        Mean privacy loss of each pilot set, > 0.
    steps : array_like of float, shape (n_pilots,)
        Steps until each was where retrained models are (`UnlearningRun.time`); infinite for those that never were.
    most_steps : int
        Steps after which pilot runs ended.
    coverage : float
        Within (0, 1); of a line alone.
    rule : {"line", "envelope"}
        A line in the logarithm of privacy loss and a margin above it, the same for all; or, for each privacy loss, the
        most steps that any pilot set needed up to the next one above, which follows where easy sets need none.

    Returns
    -------
    StepCalibration

    Raises
    ------
    TypeError, ValueError
        If there are fewer than four pilot sets, or too few for the coverage, or an argument is NaN or out of range.

    Notes
    -----
    Of a line: residuals of lines fitted without the set itself, and their ``ceil((n + 1) coverage)``-th smallest: the
    jackknife of Barber et al., *Predictive inference with the jackknife+* (1905.02928), one-sided. For sets that are
    exchangeable with the pilots it has about that coverage, which only its relatives have with proof.

    Examples
    --------
    >>> found = calibrate_steps([1.0, 2.0, 4.0, 8.0, 16.0], [1, 3, 4, 8, 9], most_steps=50, coverage=0.8)
    >>> found.steps([1.0, 16.0]).tolist(), found.status
    ([3, 9], 'estimate')
    """
    losses = real_array("privacy_loss", privacy_loss, ndim=1, low=0.0, open_low=True)
    times = real_array("steps", steps, ndim=1, low=0.0, allow_infinite=True)
    most = count("most_steps", most_steps, low=1)
    share = number("coverage", coverage, low=0.0, high=1.0, open_low=True, open_high=True)
    how = choice("rule", rule, ("line", "envelope"))
    n = losses.size
    if times.size != n:
        raise ValueError(f"steps must hold one per pilot set ({n}), got {times.size}")
    rank = math.ceil((n + 1) * share - 1e-9)
    if n < 4 or (how == "line" and rank > n):
        needed = max(4, math.ceil(share / (1.0 - share) - 1e-9))
        raise ValueError(f"privacy_loss must hold at least {needed} pilot sets for a coverage of {share:g}, got {n}")
    if (times[np.isfinite(times)] > most).any():
        raise ValueError(
            f"steps must be at most most_steps = {most}, or infinite, got {times[np.isfinite(times)].max():g}"
        )
    never = int(np.isinf(times).sum())
    needed_steps = np.minimum(times, most)
    if how == "envelope":
        order = np.argsort(losses, kind="stable")
        return StepCalibration(
            rule=how, fit=None, margin=0.0, coverage=None, most_steps=int(np.ceil(needed_steps.max())), n_pilots=n,
            n_never=never, knots=tuple(losses[order].tolist()),
            heights=tuple(np.maximum.accumulate(needed_steps[order]).tolist()),
        )  # fmt: skip
    residuals = np.array([needed_steps[i] - _left_out(losses, needed_steps, i) for i in range(n)])
    return StepCalibration(
        rule=how,
        fit=_fit(losses, needed_steps),
        margin=float(np.sort(residuals)[rank - 1]),
        coverage=share,
        most_steps=int(np.ceil(needed_steps.max())),
        n_pilots=n,
        n_never=never,
    )


def _fit(losses: NDArray[np.float64], times: NDArray[np.float64]) -> LogFit | None:
    logs = np.log(losses)
    flat = not float(logs.std()) > 2e-9 * (1.0 + abs(float(logs.mean())))
    return None if flat else fit_log_steps(losses, times)


def _line(fit: LogFit, losses: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(fit.predict(losses), dtype=np.float64)


def _left_out(losses: NDArray[np.float64], times: NDArray[np.float64], i: int) -> float:
    """Return the steps that the other pilot sets foretell for one."""
    fit = _fit(np.delete(losses, i), np.delete(times, i))
    return 0.0 if fit is None else float(_line(fit, losses[i : i + 1])[0])
