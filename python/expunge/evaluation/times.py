"""Time to unlearn: when a metric enters the band of retrained models, and stays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from expunge._validate import count, plain_array, real_array
from expunge.evaluation.bands import Band
from expunge.evaluation.metrics import METRICS, Measured

__all__ = ["UnlearningTime", "time_to_unlearn"]


@dataclass(frozen=True)
class UnlearningTime:
    """The time at which a recorded curve entered the band and stayed. An *estimate*. Prints in plain words.

    Attributes
    ----------
    step : int or None
        The first recorded step of the stay; None if the metric never came to stay.
    previous : int or None
        The recorded step before it: the true time lies in (previous, step].
    first_entry : int or None
        The first recorded step inside, whether it stayed or not.
    last_step : int
        The last recorded step.
    last_value : float
        The metric there.
    band : Band
    metric : str
    patience : int or None
        How many recordings in a row counted as a stay; None if all up to the last had to.
    left : int or None
        The first recorded step outside the band after ``step``: a stay that ended. Always None without ``patience``.
    """

    step: int | None
    previous: int | None
    first_entry: int | None
    last_step: int
    last_value: float
    band: Band
    metric: str
    patience: int | None = None
    left: int | None = None
    status: str = field(default="estimate", init=False)

    @property
    def reached(self) -> bool:
        """Whether the metric entered the band and stayed, for ``patience`` recordings or to the end."""
        return self.step is not None

    def __str__(self) -> str:
        where = f"the band of retrained models {self.band}"
        end = f"at the last recorded step, {self.last_step}, it is {self.last_value:.4g}"
        side = "above" if self.last_value > self.band.high else "below"
        gap = max(self.last_value - self.band.high, self.band.low - self.last_value)
        end += f", {gap:.4g} {side} the band" if gap > 0 else ", inside"
        if self.step is None:
            if self.first_entry is None:
                return f"never reached: {self.metric} does not enter {where}; {end}"
            entered = f"never reached: {self.metric} enters {where} at step {self.first_entry}"
            return f"{entered} but does not stay; {end}" if gap > 0 else f"{entered}; {end}, but for too few recordings"
        before = "the first recorded one" if self.previous is None else f"outside at step {self.previous}"
        if self.left is not None:
            recordings = "one recording" if self.patience == 1 else f"{self.patience} recordings in a row"
            return (
                f"{self.metric} comes inside {where} at step {self.step} ({before}) for the {recordings} that patience "
                f"asks for, but does not stay: it left at step {self.left}; {end}"
            )
        if self.previous is None:
            return (
                f"{self.metric} is inside {where} from the first recorded step, {self.step}: by this metric there "
                "is nothing to forget"
            )
        return f"{self.metric} is inside {where} from step {self.step} on ({before})"

    def measured(self) -> Measured:
        """Return the time as a `Measured`, infinite if never reached."""
        interval = None
        if self.step is not None:
            interval = (float(self.step if self.previous is None else self.previous), float(self.step))
        return Measured(
            METRICS["time to unlearn"], math.inf if self.step is None else float(self.step), interval, note=str(self)
        )


def time_to_unlearn(
    steps: ArrayLike, values: ArrayLike, band: Band, *, metric: str = "the metric", patience: int | None = None
) -> UnlearningTime:
    """Return the first recorded step from which a metric is inside the band and stays there.

    A stay lasts up to the last recording, or, with ``patience``, for that many recordings in a row at least. A stay of
    the second kind may end: then ``left`` says when, and so do the words.

    Parameters
    ----------
    steps : array-like of int, shape (n,)
        Recorded steps, increasing, >= 0.
    values : array-like of float, shape (n,)
        The metric at each of them, finite.
    band : Band
        Of retrained models (`reference_band`).
    metric : str
        Its name, for the words.
    patience : int, optional
        How many recordings in a row count as staying, >= 1. By default all up to the last: a noisy metric that leaves
        at the end was not reached.

    Returns
    -------
    UnlearningTime

    Raises
    ------
    TypeError, ValueError
        If the curve is empty, of two lengths, not finite, or its steps do not increase.

    Examples
    --------
    >>> from expunge.evaluation import reference_band
    >>> band = reference_band([0.80, 0.84], method="range")
    >>> time_to_unlearn([0, 10, 20, 30], [1.0, 0.90, 0.83, 0.82], band).step
    20
    >>> print(time_to_unlearn([0, 10], [1.0, 0.90], band, metric="UA").step)
    None
    >>> brief = time_to_unlearn([0, 10, 20], [1.0, 0.82, 0.95], band, patience=1)
    >>> brief.step, brief.left
    (10, 20)
    """
    if not isinstance(band, Band):
        raise TypeError(f"band must be a Band (see reference_band), got {type(band).__name__}")
    at = plain_array("steps", steps)
    if at.dtype.kind not in "iu":
        raise TypeError(f"steps must hold integers, got dtype {at.dtype}")
    curve = real_array("values", values, ndim=1)
    if at.ndim != 1 or at.size != curve.size or at.size == 0:
        raise ValueError(f"steps and values must have one length >= 1, got shapes {at.shape} and {curve.shape}")
    if at[0] < 0 or not (np.diff(at.astype(np.int64)) > 0).all():
        raise ValueError("steps must be >= 0 and increase")
    if patience is not None:
        patience = count("patience", patience, low=1)
    inside = band.holds(curve)
    first = int(np.argmax(inside)) if inside.any() else None
    start = _stays(inside, patience)
    outside_again = at[:0] if start is None else at[start:][~inside[start:]]
    return UnlearningTime(
        step=None if start is None else int(at[start]),
        previous=None if not start else int(at[start - 1]),
        first_entry=None if first is None else int(at[first]),
        last_step=int(at[-1]),
        last_value=float(curve[-1]),
        band=band,
        metric=metric,
        patience=patience,
        left=int(outside_again[0]) if outside_again.size else None,
    )


def _stays(inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], patience: int | None) -> int | None:
    if patience is None:
        out = np.flatnonzero(~inside)
        start = 0 if out.size == 0 else int(out[-1]) + 1
        return start if start < inside.size else None
    run = 0
    for k, one in enumerate(inside):
        run = run + 1 if one else 0
        if run == patience:
            return k - patience + 1
    return None
