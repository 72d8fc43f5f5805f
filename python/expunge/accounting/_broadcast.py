"""Broadcasting of checked arrays to what the kernels take, and results back to what the caller gave."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from expunge._kernels import backend
from expunge._validate import real_array

__all__ = ["Argument", "Float64", "broadcast", "device_arrays", "elementwise", "restore"]

Float64 = NDArray[np.float64]


class Argument(NamedTuple):
    """A public argument and its bounds."""

    value: Any
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    allow_infinite: bool = False


def broadcast(**arrays: Float64) -> tuple[list[Float64], tuple[int, ...]]:
    """Return the arrays broadcast together as C-contiguous 1-D arrays, and their common shape."""
    shape = _common_shape({name: array.shape for name, array in arrays.items()})
    return [np.ascontiguousarray(np.broadcast_to(array, shape)).reshape(-1) for array in arrays.values()], shape


def _common_shape(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        text = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{' and '.join(shapes)} must broadcast together, got shapes {text}") from None


def restore(values: Float64, shape: tuple[int, ...]) -> float | Float64:
    """Return 1-D ``values`` in ``shape``; a float where the shape is that of a scalar."""
    return values.reshape(shape) if shape else float(values[0])


def device_arrays(place: backend.DevicePlace, **values: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Return float64 device arrays broadcast together and C-contiguous, and their common shape; numbers are put there.

    Values are not validated on the device, to avoid a synchronisation: out of range they come out as NaN.
    """
    library = place.library
    found = {
        name: value if backend.on_device(value) else library.asarray(np.array(value, dtype=np.float64))
        for name, value in values.items()
    }
    for name, array in found.items():
        if library.dtype(array) != "float64":
            raise TypeError(f"{name} must have dtype float64 on a device, got {library.dtype(array)}")
    shape = _common_shape({name: tuple(array.shape) for name, array in found.items()})
    return [library.contiguous(array, shape) for array in found.values()], shape


def elementwise(
    kernel: str, *, threads: int | None, settings: dict[str, Any] | None = None, **arguments: Argument
) -> float | Float64:
    """Return what a kernel makes of its arguments item by item, in their common shape, where the arguments lie."""
    place = backend.place(**{name: argument.value for name, argument in arguments.items()})
    if not place.on_host:
        arrays, shape = device_arrays(place, **{name: argument.value for name, argument in arguments.items()})
        flat = [array.reshape(-1) for array in arrays]
        out = place.empty((math.prod(shape),), "float64")
        place.run(kernel, *flat, **(settings or {}), out=out)
        return cast(Float64, out.reshape(shape))
    checked = {
        name: real_array(
            name,
            argument.value,
            low=argument.low,
            high=argument.high,
            open_low=argument.open_low,
            allow_infinite=argument.allow_infinite,
        )
        for name, argument in arguments.items()
    }
    flat, shape = broadcast(**checked)
    values = place.empty(flat[0].shape, "float64")
    place.run(kernel, *flat, **(settings or {}), out=values, threads=threads)
    return restore(values, shape)
