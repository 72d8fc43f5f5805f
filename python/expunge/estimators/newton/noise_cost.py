"""Noise of a release that costs the model more than it should, as a warning."""

from __future__ import annotations

import math
import warnings

import numpy as np

from expunge.estimators.newton.working import Working
from expunge.estimators.noise_warning import NoiseWarning, TrainingData

__all__ = ["warn_of_noise"]

# What noise may cost without a word, in accuracy or R^2: as of Langevin models.
_TOLERATED = 0.05
_MOST_ROWS, _ENOUGH_ROWS = 10_000, 1_000
_MOST_NUMBERS = 2**20  # of rows that are wide: a table may be much larger than memory


def warn_of_noise(state: Working) -> None:
    """Warn, in the name of the caller of ``fit``, if a release is clearly worse than the parameters without noise.

    Both are scored on the records, at most 10,000 of them (fewer of more than 100 columns), evenly spaced; it is for
    their keeper alone.
    """
    data = _training_data(state)
    with np.errstate(over="ignore", invalid="ignore"):  # noise as large as float64 allows
        got, best = (data.score(_columns(state, theta)) for theta in (state.released, state.theta))
    if not data.falls_short(got, best, by=_TOLERATED):
        return
    features = data.design[:, : state.layout.n_features]
    norm = math.sqrt(float(np.square(features).sum(axis=1).max()))
    # The score without noise is computed from secret parameters: published, it would be another release.
    text = f"for you alone: {data.name} {got:.3f}, {best:.3f} without the noise of the release"
    if data.classify:
        text += f" ({data.constant_score:.3f} for always the most frequent class)"
    warnings.warn(
        NoiseWarning(
            f"{text}: noise_std = {state.claim.noise_std:g} on every parameter costs the difference, where rows have a "
            f"norm of up to {norm:.3g}; divide features by a constant so that norms are about 1, or take less "
            "noise_std, both chosen without these data"
        ),
        stacklevel=4,
    )


def _training_data(state: Working) -> TrainingData:
    """Return records evenly spaced, with a column of targets for each class or output."""
    blocks, layout = state.objective.blocks, state.layout
    most = min(_MOST_ROWS, max(_ENOUGH_ROWS, _MOST_NUMBERS // layout.shape[1]))
    stride = -(-len(state.objective) // most)
    taken = [block.take(np.arange(0, len(block), stride)) for block in blocks]
    design = np.concatenate([rows.X for rows in taken])
    if state.objective.loss == "squared":
        targets = np.concatenate([rows.targets for rows in taken if rows.targets is not None])
    else:
        labels = np.concatenate([rows.labels for rows in taken if rows.labels is not None])
        targets = np.eye(len(layout.classes or ()))[labels]
    return TrainingData(design, targets, layout.classes is not None, layout.fit_intercept)


def _columns(state: Working, theta: np.ndarray) -> np.ndarray:
    """Return parameters (p, q) with a column for each class, also where one output stands for two."""
    both = state.objective.loss == "logistic" and len(theta) == 1
    return np.asarray((np.vstack([np.zeros_like(theta), theta]) if both else theta).T)
