"""Arguments of a linear probe's kernel: checked targets, and on a device the logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge._kernels.backend import DevicePlace, on_device
from expunge._validate import unmasked
from expunge.grad_norms.arrays import Floating, floating, integers_on_device

__all__ = ["probe_on_device", "probe_targets"]

# Most entries of logits in memory at once: 256 MB in float32.
_LOGITS = 1 << 26


def probe_on_device(where: DevicePlace, x: Any, stack: Any, targets: Any, settings: list[Any], out: Any) -> None:
    """Write norms into ``out``: the library's matrix product gives logits, the kernel norms, some records at a time."""
    n, (checkpoints, d, classes) = x.shape[0], stack.shape
    library = where.library
    if settings[2] is not None:
        settings[2] = library.asarray(settings[2])
    columns = library.transposed(stack, (1, 0, 2)).reshape(d, checkpoints * classes)
    step = n if library.waits else max(1, _LOGITS // max(1, checkpoints * classes))  # JAX's slices are copies
    for low in range(0, n, max(1, step)):
        rows = slice(low, low + step) if step < n else slice(None)
        logits = library.product(x[rows], columns).reshape(min(step, n - low), checkpoints, classes)
        where.run(
            "probe_grad_norms",
            x[rows],
            stack,
            targets[rows],
            *settings,
            out[rows],
            logits=logits,
        )


def probe_targets(y: Any, loss: str, x: Floating, classes: int) -> Any:
    """Return labels as int64, or real targets (n, C), or raise. Labels on a device are the kernel's to check."""
    n = x.shape[0]
    if loss == "squared":
        targets = floating("y", y, like=("X", x))
        if tuple(targets.shape) != (n, classes) and (classes != 1 or tuple(targets.shape) != (n,)):
            raise ValueError(f"y must have shape {(n, classes)} to suit X and weights, got {tuple(targets.shape)}")
        return targets.reshape(n, classes)
    labels: Any = integers_on_device("y", y) if on_device(y) else unmasked("y", y)
    if not on_device(y) and labels.dtype.kind not in "iub":
        raise TypeError(f"y must hold integers for loss={loss!r}, got dtype {labels.dtype}")
    if tuple(labels.shape) != (n,):
        raise ValueError(f"y must have shape {(n,)} to suit X, got {tuple(labels.shape)}")
    if loss == "logistic" and classes != 1:
        raise ValueError(f"weights must have C = 1 for loss='logistic', got C = {classes}")
    if loss == "softmax" and classes < 2:
        raise ValueError(f"weights must have C >= 2 for loss='softmax', got C = {classes}")
    if on_device(y):
        return labels
    limit = 2 if loss == "logistic" else classes
    if n and (labels.min() < 0 or labels.max() >= limit):
        wrong = labels[(labels < 0) | (labels >= limit)][0]
        raise ValueError(f"y must be within [0, {limit}) for loss={loss!r}, got {wrong}")
    return np.ascontiguousarray(labels, dtype=np.int64)
