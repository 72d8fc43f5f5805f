"""Broadcasting of checked arrays to what the kernels take, and results back to what the caller gave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Float64", "broadcast", "restore"]

Float64 = NDArray[np.float64]


def broadcast(**arrays: Float64) -> tuple[list[Float64], tuple[int, ...]]:
    """Return the arrays broadcast together as C-contiguous 1-D arrays, and their common shape."""
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{' and '.join(arrays)} must broadcast together, got shapes {shapes}") from None
    return [np.ascontiguousarray(np.broadcast_to(array, shape)).reshape(-1) for array in arrays.values()], shape


def restore(values: Float64, shape: tuple[int, ...]) -> float | Float64:
    """Return 1-D ``values`` in ``shape``; a float where the shape is that of a scalar."""
    return values.reshape(shape) if shape else float(values[0])
