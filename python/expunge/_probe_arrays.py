"""What a linear probe's kernel is given: checked targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._gradient_arrays import Floating, floating

__all__ = ["probe_targets"]


def probe_targets(y: ArrayLike, loss: str, x: Floating, classes: int) -> NDArray[Any]:
    """Return labels as int64, or real targets (n, C), or raise."""
    n = x.shape[0]
    if loss == "squared":
        targets = floating("y", y, like=("X", x))
        if targets.shape != (n, classes) and (classes != 1 or targets.shape != (n,)):
            raise ValueError(f"y must have shape {(n, classes)} to suit X and weights, got {targets.shape}")
        return targets.reshape(n, classes)
    labels = np.asarray(y)
    if labels.dtype.kind not in "iub":
        raise TypeError(f"y must hold integers for loss={loss!r}, got dtype {labels.dtype}")
    if labels.shape != (n,):
        raise ValueError(f"y must have shape {(n,)} to suit X, got {labels.shape}")
    if loss == "logistic" and classes != 1:
        raise ValueError(f"weights must have C = 1 for loss='logistic', got C = {classes}")
    if loss == "softmax" and classes < 2:
        raise ValueError(f"weights must have C >= 2 for loss='softmax', got C = {classes}")
    limit = 2 if loss == "logistic" else classes
    if n and (labels.min() < 0 or labels.max() >= limit):
        wrong = labels[(labels < 0) | (labels >= limit)][0]
        raise ValueError(f"y must be within [0, {limit}) for loss={loss!r}, got {wrong}")
    return np.ascontiguousarray(labels, dtype=np.int64)
