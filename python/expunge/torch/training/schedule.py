"""Points along a run at which values are collected."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["checkpoint_steps", "window_ends"]


def window_ends(*, n_steps: int, n_windows: int, spacing: str) -> NDArray[np.int64]:
    """Return the (exclusive) ends of the windows a run is cut into, the last of them ``n_steps``.

    Even windows are equal up to one step, geometric ones grow by a constant factor where that is at least one step.
    """
    n = min(n_windows, n_steps)
    at = np.arange(1, n + 1) / n
    ends = n_steps * at if spacing == "even" else np.exp(np.log(n_steps) * at)
    return _increasing(np.rint(ends).astype(np.int64), first=1, last=n_steps)


def checkpoint_steps(*, n_steps: int, n_checkpoints: int, spacing: str) -> NDArray[np.int64]:
    """Return the steps before which all records are measured: the first, the last and those spread between them."""
    n = min(n_checkpoints, n_steps)
    if n == 1:
        return np.array([(n_steps - 1) // 2])
    at = np.arange(n) / (n - 1)
    steps = (n_steps - 1) * at if spacing == "even" else np.expm1(np.log(n_steps) * at)
    return _increasing(np.rint(steps).astype(np.int64), first=0, last=n_steps - 1)


def _increasing(steps: NDArray[np.int64], *, first: int, last: int) -> NDArray[np.int64]:
    """Return the steps moved up where they would repeat, and down where that exceeds ``last``."""
    places = np.arange(steps.size)
    steps = np.maximum.accumulate(np.maximum(steps, first) - places) + places
    return np.minimum(steps, last - places[::-1])
