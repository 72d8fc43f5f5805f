"""Arrays on a device that does not exist: NumPy's, behind DLPack, claiming to lie on an extension device.

Public functions send them to the emulated CUDA kernels. They refuse what would be a silent copy to the host.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import compiled

__all__ = ["DEVICES", "Array", "asarray", "at", "host", "on_every_device", "put"]

# Where a public function can be tried.
DEVICES = [name for name in ("cpu", "cuda_emul", "cuda") if name in compiled.AVAILABLE]
on_every_device = pytest.mark.parametrize("device", DEVICES)
_KIND = 12  # kDLExtDev
EXTENSION = (_KIND, 0)


class Array:
    """A NumPy array that only DLPack and the operations below can reach."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    shape = property(lambda self: self._values.shape)
    ndim = property(lambda self: self._values.ndim)
    dtype = property(lambda self: self._values.dtype)
    size = property(lambda self: self._values.size)
    device = property(lambda self: EXTENSION)

    def __dlpack_device__(self) -> tuple[int, int]:
        return EXTENSION

    def __dlpack__(self, **options: Any) -> Any:
        return self._values.__dlpack__(**options)

    def __array_namespace__(self) -> Any:
        return sys.modules[__name__]

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError("an array on a device may not become a host array silently")

    def __len__(self) -> int:
        return len(self._values)

    def __bool__(self) -> bool:
        raise TypeError("reading a value of an array on a device would wait for it")

    __hash__ = None  # type: ignore[assignment]
    __float__ = __int__ = __index__ = __bool__

    def astype(self, dtype: Any) -> Array:
        return Array(self._values.astype(dtype))

    def reshape(self, *shape: Any) -> Array:
        return Array(self._values.reshape(*shape))

    def transpose(self, *axes: Any) -> Array:
        return Array(self._values.transpose(*axes))

    def sum(self, axis: int) -> Array:
        return Array(self._values.sum(axis))

    def __pow__(self, exponent: float) -> Array:
        return Array(self._values**exponent)

    def __getitem__(self, key: Any) -> Array:
        return Array(self._values[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[key] = bare(value)


def bare(value: Any) -> Any:
    return value._values if isinstance(value, Array) else value


def _operator(name: str) -> Any:
    def apply(self: Array, other: Any) -> Array:
        return Array(getattr(self._values, name)(bare(other)))

    return apply


for _name in ("add", "sub", "mul", "truediv", "eq", "ne", "gt", "lt", "ge", "le", "or", "and"):
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))


def _function(name: str) -> Any:
    def apply(*args: Any, **options: Any) -> Array:
        return Array(getattr(np, name)(*(bare(a) for a in args), **options))

    return apply


# No ``@``: a library may round its factors there, and does not where it is asked for a product.
asarray, ascontiguousarray, broadcast_to, where, matmul = (
    _function(name) for name in ("array", "ascontiguousarray", "broadcast_to", "where", "matmul")
)


def stack(arrays: list[Array]) -> Array:
    return Array(np.stack([bare(array) for array in arrays]))


def concatenate(arrays: list[Array], axis: int) -> Array:
    return Array(np.concatenate([bare(array) for array in arrays], axis=axis))


def asnumpy(array: Array) -> Any:
    """Return a copy on the host, asked for by name as CuPy has it."""
    return array._values.copy()


def empty(shape: Any, dtype: Any) -> Array:
    """Return memory full of garbage, as a device's is."""
    values = np.empty(shape, dtype=dtype)
    values.reshape(-1).view(np.uint8)[...] = 0xA5
    return Array(values)


def put(values: Any, device: str, dtype: Any = None) -> Any:
    """Return a host array as one of the device under test."""
    values = np.array(values, dtype=dtype, order="C")
    if device == "cpu":
        return values
    if device == "cuda":
        import torch

        return torch.from_numpy(values).cuda()
    assert device == "cuda_emul"
    return Array(values)


def host(values: Any) -> Any:
    """Return a result as a NumPy array."""
    if hasattr(values, "cpu"):
        return values.cpu().numpy()
    return np.asarray(bare(values))


def at(device: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function on arrays of that device: what has no name in a call goes there, results come from there."""
    if device == "cpu":
        return function
    kind = type(put(0.0, device))

    def back(result: Any) -> Any:
        assert type(result) is kind, "a device's result is an array of the device"
        return host(result)[()]

    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*(put(argument, device) for argument in arguments), **options)
        return type(result)(*map(back, result)) if isinstance(result, tuple) else back(result)

    return call
