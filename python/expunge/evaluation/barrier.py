"""Loss barriers from losses along the linear path, and verdicts on them in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import number, real_array
from expunge.evaluation.bands import reference_band
from expunge.evaluation.metrics import METRICS, Measured

__all__ = ["LossBarrier", "barrier_from_losses", "barrier_verdict"]

Array = NDArray[np.float64]
_CHANCE = 0.05  # up to which a barrier is called high


@dataclass(frozen=True)
class LossBarrier:
    """Losses along (1-t) A + t B, and the barrier. An *estimate* of what the best matching would leave.

    Attributes
    ----------
    t : ndarray of float64, shape (n,)
        From 0 to 1.
    losses : ndarray of float64, shape (n,)
    excess : ndarray of float64, shape (n,)
        loss(t) - ((1-t) loss(A) + t loss(B)).
    barrier : float
        The largest excess; never negative, since both ends have excess 0.
    at : float
        The t where it is.
    matched : bool
        Whether B was permuted by weight matching first.
    """

    t: Array
    losses: Array
    excess: Array
    barrier: float
    at: float
    matched: bool
    status: str = field(default="estimate", init=False)

    def measured(self, *, baseline: Sequence[LossBarrier] = ()) -> Measured:
        """Return the barrier as a `Measured`, beside those of ``baseline``: pairs of retrained models."""
        values = [one.barrier for one in baseline]
        band = None
        if len(values) > 1:
            rule = f"range of {len(values)} pairs of retrained models"
            band = replace(reference_band(values, method="range", limits=(0.0, math.inf)), rule=rule)
        return Measured(
            METRICS["loss barrier"], self.barrier, reference=float(np.mean(values)) if values else None, band=band,
            note=barrier_verdict(self, baseline=baseline) if values else "no pair of retrained models to compare with",
        )  # fmt: skip


def barrier_from_losses(t: ArrayLike, losses: ArrayLike, *, matched: bool = False) -> LossBarrier:
    """Return the loss barrier from the losses along a linear path.

    Parameters
    ----------
    t : array-like of float, shape (n,)
        Increasing from 0 to 1, n >= 3.
    losses : array-like of float, shape (n,)
        loss((1-t) A + t B), finite.
    matched : bool
        Whether B was permuted to match A.

    Returns
    -------
    LossBarrier

    Raises
    ------
    TypeError, ValueError
        If the path does not run from 0 to 1, or a loss is not finite.

    Examples
    --------
    >>> found = barrier_from_losses([0.0, 0.5, 1.0], [0.1, 0.9, 0.3])
    >>> round(found.barrier, 12), found.at
    (0.7, 0.5)
    """
    at, values = real_array("t", t, ndim=1), real_array("losses", losses, ndim=1)
    if at.size != values.size or at.size < 3:
        raise ValueError(f"t and losses must have one length >= 3, got {at.size} and {values.size}")
    if at[0] != 0 or at[-1] != 1 or not (np.diff(at) > 0).all():
        raise ValueError(f"t must increase from 0 to 1, got {at[0]:g} to {at[-1]:g}")
    excess = values - ((1 - at) * values[0] + at * values[-1])
    excess[[0, -1]] = 0.0
    top = int(np.argmax(excess))
    return LossBarrier(at, values, excess, float(excess[top]), float(at[top]), bool(matched))


def barrier_verdict(barrier: LossBarrier, *, baseline: Sequence[LossBarrier], tolerance: float = 0.0) -> str:
    """Return in plain words how a barrier to a retrained model compares with those between retrained models.

    The words hold the chance that a barrier of a retrained model comes so high among K others: (1 + how many of them
    are as high) / (K + 1), the p-value of a permutation test of K + 1 exchangeable barriers. "Stays high" is said only
    if it is 5% at most, which takes at least 19 pairs. Pairs that share a model are not independent: for them the true
    chance is larger.

    Parameters
    ----------
    barrier : LossBarrier
        Between the model under test and a retrained one.
    baseline : sequence of LossBarrier
        Between pairs of retrained models; at least one.
    tolerance : float, default 0
        How far below the barrier one of them still counts as equally high, >= 0.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is no baseline, or some barriers are matched and some are not.

    Examples
    --------
    >>> high = barrier_from_losses([0, 0.5, 1], [0.1, 0.9, 0.1])
    >>> low = barrier_from_losses([0, 0.5, 1], [0.1, 0.2, 0.1])
    >>> print(barrier_verdict(high, baseline=[low] * 19))
    the barrier stays high: 0.8, above all 19 between pairs of retrained models (up to 0.1); by chance in 5% of cases
    >>> print(barrier_verdict(high, baseline=[low]))
    the barrier is 0.8, above the only one between retrained models (0.1), as by chance in 50% of cases: not enough to call it high
    >>> print(barrier_verdict(low, baseline=[high]))
    the barrier is 0.1, no higher than between retrained models (up to 0.8, 1 pair)
    """  # noqa: E501
    if not baseline:
        raise ValueError("baseline must hold at least one barrier between retrained models, got none")
    tolerance = number("tolerance", tolerance, low=0)
    if any(one.matched != barrier.matched for one in baseline):
        raise ValueError("baseline must be matched as the barrier is: all by weight matching, or none")
    n, value, highest = len(baseline), barrier.barrier, max(one.barrier for one in baseline)
    as_high = sum(one.barrier + tolerance >= value for one in baseline)
    chance = (1 + as_high) / (n + 1)
    if as_high == 0:
        where = f"above all {n} between pairs of" if n > 1 else "above the only one between"
        of_these = f"{where} retrained models ({'up to ' if n > 1 else ''}{highest:.3g})"
    else:
        of_these = f"above {n - as_high} of {n} between pairs of retrained models (up to {highest:.3g})"
    if chance <= _CHANCE:
        kind = " after matching" if barrier.matched else ""
        return f"the barrier stays high{kind}: {value:.3g}, {of_these}; by chance in {_percent(chance)} of cases"
    if value > highest + tolerance:
        return (
            f"the barrier is {value:.3g}, {of_these}, as by chance in {_percent(chance)} of cases: not enough to call "
            "it high"
        )
    pairs = f"{n} pair{'s' if n > 1 else ''}"
    return f"the barrier is {value:.3g}, no higher than between retrained models (up to {highest:.3g}, {pairs})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"
