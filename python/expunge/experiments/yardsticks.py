"""Yardsticks of unlearning: when a metric has come near enough to retrained models, said in three ways."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from expunge.evaluation import Band, reference_band, time_to_unlearn
from expunge.experiments.settings import Settings

__all__ = ["YARDSTICKS", "arrivals", "share_left", "targets", "told_yardstick"]

YARDSTICKS = ("share", "tolerance", "band")


def told_yardstick(name: str, settings: Settings) -> str:
    """Return what a yardstick asks for, in words."""
    return {
        "gap": "gap between trained and retrained",
        "left": f"share of the gap left after {settings.early_passes} passes",
        "share": f"passes to close {100 * settings.gap_share:g}% of the set's own gap",
        "tolerance": f"passes to within {settings.near:g} of the retrained mean",
        "band": "passes into the band of retrained models",
    }[name]


def targets(settings: Settings, before: float, retrained: ArrayLike) -> dict[str, Band]:
    """Return where the metric has to come to by each yardstick.

    Parameters
    ----------
    settings : Settings
    before : float
        The metric of the trained model.
    retrained : array_like of float, shape (n_retrained,)
        The metric of models that never saw the set.
    """
    values = np.asarray(retrained, dtype=np.float64)
    mean, n = float(values.mean()), int(values.size)
    limits = (0.0, math.inf if settings.metric == "loss" else 1.0)
    left = mean + (1.0 - settings.gap_share) * (before - mean)
    # One side only: a metric that goes past the retrained mean has closed its gap.
    low, high = (-math.inf, left) if before >= mean else (left, math.inf)
    near = settings.near
    return {
        "share": Band(low, high, mean, n, f"{settings.gap_share:g} of the gap closed"),
        "tolerance": Band(mean - near, mean + near, mean, n, f"mean of {n} retrained models +- {near:g}"),
        "band": reference_band(
            values.tolist(), method="std", k=2.0, tolerance=settings.least_half_width, limits=limits
        ),
    }  # fmt: skip


def arrivals(
    settings: Settings, passes: Sequence[int], curve: Sequence[float], bands: dict[str, Band]
) -> dict[str, int | None]:
    """Return the first look from which each yardstick was met `patience` times in a row; None where it never was."""
    return {
        name: time_to_unlearn(passes, curve, band, metric=settings.metric, patience=settings.patience).step
        for name, band in bands.items()
    }


def share_left(before: float, now: float, retrained_mean: float) -> float | None:
    """Return the share of the gap that is left, negative behind the retrained mean; None where there was no gap."""
    gap = before - retrained_mean
    return None if gap == 0.0 else (now - retrained_mean) / gap
