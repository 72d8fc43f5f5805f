"""How many unlearning steps a record needs, before any is taken: by Renyi contraction or by a fit. *Estimates*."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from expunge._types import JsonObject
from expunge._validate import number, real_array
from expunge.accounting.estimate import Estimate
from expunge.accounting.unlearning.contraction import contraction_steps

__all__ = ["LogFit", "fit_log_steps", "predict_steps"]


def predict_steps(
    privacy_loss: ArrayLike,
    *,
    order: float,
    log_sobolev: float,
    contraction: float,
    noise_std: float,
    target_rdp: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
) -> Estimate:
    """Return the number of noisy steps that the Renyi contraction bound needs, from each record's privacy loss.

    Parameters
    ----------
    privacy_loss : array_like of float, shape (n,)
        Of each record at ``order``, >= 0, possibly infinite.
    order, log_sobolev, contraction, noise_std, target_rdp, epsilon, delta
        As in `expunge.accounting.contraction_steps`.

    Returns
    -------
    Estimate of shape (n,)
        Whole steps; infinite where no number suffices.

    Raises
    ------
    TypeError, ValueError
        As `contraction_steps`.

    See Also
    --------
    contraction_steps : Certified, where its assumptions hold.
    fit_log_steps : Predictions from measured times.

    Notes
    -----
    An *estimate* for three reasons: the privacy loss is one, the constants of a deep network are unproved, and the
    bound does not hold for random batches. For certified answers use `contraction_steps` where its assumptions hold.

    =============================================================  =====
    Edge case                                                      Value
    =============================================================  =====
    ``predict_steps([0.0], target_rdp=0.05, **setting).tolist()``  [0.0]
    ``predict_steps([inf], target_rdp=0.05, **setting).tolist()``  [inf]
    =============================================================  =====

    Examples
    --------
    >>> from expunge.accounting import predict_steps
    >>> predict_steps([0.1, 1.0, 10.0], order=2.0, log_sobolev=1.0, contraction=0.9, noise_std=0.5,
    ...               target_rdp=0.05).tolist()
    [6.0, 28.0, 49.0]
    """
    losses = real_array("privacy_loss", privacy_loss, ndim=1, low=0.0, allow_infinite=True)
    steps = contraction_steps(
        losses,
        order=number("order", order),
        log_sobolev=log_sobolev,
        contraction=contraction,
        noise_std=noise_std,
        target_rdp=target_rdp,
        epsilon=epsilon,
        delta=delta,
    )
    return Estimate.of(np.asarray(steps, dtype=np.float64))


@dataclass(frozen=True)
class LogFit:
    """The line ``steps = slope log(privacy loss) + intercept``, by least squares. An *estimate*.

    Attributes
    ----------
    slope, intercept : float
    slope_interval, intercept_interval : tuple of float
        Confidence intervals, from Student's t; they take deviations as normal and alike.
    confidence : float
    r_squared : float
        Share of the variance of the steps that the line explains; NaN if the steps are all alike.
    residual_std : float
        Standard deviation of the steps about the line.
    n : int
        Number of points.
    mean_log, spread_log : float
        Mean of log(privacy loss), and the sum of squares about it.
    status : str
        ``"estimate"``.
    """

    slope: float
    intercept: float
    slope_interval: tuple[float, float]
    intercept_interval: tuple[float, float]
    confidence: float
    r_squared: float
    residual_std: float
    n: int
    mean_log: float
    spread_log: float
    status: str = "estimate"

    def predict(self, privacy_loss: ArrayLike) -> Estimate:
        """Return the steps on the line at each privacy loss, never below 0.

        Parameters
        ----------
        privacy_loss : array_like of float
            > 0, possibly infinite.

        Returns
        -------
        Estimate
            Of the same shape.
        """
        logs = np.log(real_array("privacy_loss", privacy_loss, low=0.0, open_low=True, allow_infinite=True))
        line = self.intercept + (self.slope * logs if self.slope else 0.0 * np.where(np.isinf(logs), 0.0, logs))
        return Estimate.of(np.maximum(line, 0.0))

    def prediction_interval(self, privacy_loss: ArrayLike) -> tuple[Estimate, Estimate]:
        """Return where one new measurement is expected at each privacy loss, at the fit's confidence.

        Parameters
        ----------
        privacy_loss : array_like of float
            > 0 and finite.

        Returns
        -------
        tuple of Estimate
            Lower (never below 0) and upper ends.
        """
        logs = np.log(real_array("privacy_loss", privacy_loss, low=0.0, open_low=True))
        line = self.intercept + self.slope * logs
        wide = self.residual_std * np.sqrt(1.0 + 1.0 / self.n + np.square(logs - self.mean_log) / self.spread_log)
        half = float(student.ppf(0.5 + 0.5 * self.confidence, self.n - 2)) * wide
        return Estimate.of(np.maximum(line - half, 0.0)), Estimate.of(np.maximum(line + half, 0.0))

    def summary(self) -> str:
        """Return the fit in plain words."""
        low, high = self.slope_interval
        sign = "-" if self.intercept < 0 else "+"
        text = (
            f"steps = {self.slope:.4g} log(privacy loss) {sign} {abs(self.intercept):.4g} from {self.n} points "
            f"(slope {low:.4g} to {high:.4g} at {self.confidence:.0%}, R^2 {self.r_squared:.3f}); estimate"
        )
        if low <= 0.0 <= high:
            text += "; the interval holds 0: no dependence on the privacy loss can be detected"
        return text

    def to_dict(self) -> JsonObject:
        """Return the fit as JSON values; what is not a number is None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def fit_log_steps(privacy_loss: ArrayLike, steps: ArrayLike, *, confidence: float = 0.95) -> LogFit:
    """Fit ``steps = slope log(privacy loss) + intercept`` to measured times to unlearn.

    Parameters
    ----------
    privacy_loss : array_like of float, shape (n,)
        Mean privacy loss of each forget set, > 0, not all alike; n >= 3.
    steps : array_like of float, shape (n,)
        Measured steps, >= 0 and finite: leave out, and report, runs that never reached their band.
    confidence : float
        Of the intervals, within (0, 1).

    Returns
    -------
    LogFit

    Raises
    ------
    TypeError
        If an argument does not hold numbers.
    ValueError
        If the lengths differ, there are fewer than three points, or the privacy losses are all alike.

    Notes
    -----
    The form follows from the contraction bound: steps grow like ``order log(P / target) / log(1 + noise^2 / (l^2 C))``.

    Examples
    --------
    >>> from expunge.accounting import fit_log_steps
    >>> fit = fit_log_steps([1.0, 10.0, 100.0], [5.0, 10.0, 15.0])
    >>> round(fit.slope, 4), round(fit.intercept, 4), fit.predict([1000.0]).round(6).tolist()
    (2.1715, 5.0, [20.0])
    """
    losses = real_array("privacy_loss", privacy_loss, ndim=1, low=0.0, open_low=True)
    taken = real_array("steps", steps, ndim=1, low=0.0)
    level = number("confidence", confidence, low=0.0, high=1.0, open_low=True, open_high=True)
    if losses.shape != taken.shape:
        raise ValueError(f"steps must hold one per privacy loss ({losses.size}), got {taken.size}")
    if losses.size < 3:
        raise ValueError(f"privacy_loss must hold at least three points, got {losses.size}")
    logs = np.log(losses)
    mean_log = float(logs.mean())
    spread = float(np.square(logs - mean_log).sum())
    if not math.sqrt(spread / losses.size) > 1e-9 * (1.0 + abs(mean_log)):
        raise ValueError("privacy_loss is flat: all forget sets cost the same, and there is nothing to fit")
    n, centred = losses.size, taken - taken.mean()
    slope = float((logs - mean_log) @ centred / spread)
    intercept = float(taken.mean()) - slope * mean_log
    residual = float(np.square(centred - slope * (logs - mean_log)).sum())
    total = float(np.square(centred).sum())
    std = math.sqrt(residual / (n - 2))
    quantile = float(student.ppf(0.5 + 0.5 * level, n - 2))
    half = quantile * std / math.sqrt(spread)
    half_intercept = quantile * std * math.sqrt(1.0 / n + mean_log**2 / spread)
    return LogFit(
        slope=slope,
        intercept=intercept,
        slope_interval=(slope - half, slope + half),
        intercept_interval=(intercept - half_intercept, intercept + half_intercept),
        confidence=level,
        r_squared=1.0 - residual / total if total > 0.0 else math.nan,
        residual_std=std,
        n=n,
        mean_log=mean_log,
        spread_log=spread,
    )
