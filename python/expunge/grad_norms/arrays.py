"""Checks and views of the arrays that per-example gradients are made of, on the CPU or on a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from expunge import _validate
from expunge._kernels.backend import on_device
from expunge._kernels.libraries import library_of
from expunge._validate import unmasked

__all__ = [
    "Float64",
    "Floating",
    "by_position",
    "dimensions",
    "floating",
    "integers_on_device",
    "matching",
    "padding_token",
    "token_indices",
]

Float64 = Any  # NDArray of float64, or an array of the caller's library on its device
Floating = Any  # NDArray of float32 or float64, or an array of that dtype on a device


def _dtype(array: Any) -> str:
    return library_of(array).dtype(array) if on_device(array) else str(array.dtype)


def _floating_on_device(name: str, array: Any, like: tuple[str, Any] | None, half: bool) -> Any:
    dtypes = ("float32", "float64", "bfloat16") if half else ("float32", "float64")
    dtype = _dtype(array)
    if dtype not in dtypes:
        raise TypeError(f"{name} must have dtype {' or '.join(dtypes)} on a device, got {dtype}")
    if like is not None and dtype != _dtype(like[1]):
        raise TypeError(f"{name} must have the dtype of {like[0]}, {_dtype(like[1])}, got {dtype}")
    flags = getattr(array, "flags", None)
    asked = getattr(array, "is_contiguous", None)
    if not (asked() if asked is not None else getattr(flags, "c_contiguous", True)):
        raise ValueError(f"{name} must be C-contiguous")
    return array


def floating(name: str, value: Any, *, like: tuple[str, Floating] | None = None, half: bool = False) -> Floating:
    """Return ``value`` as it is, a C-contiguous float32 or float64 array (of the dtype of ``like``), or raise.

    ``half`` admits bfloat16 on a device.
    """
    if on_device(value):
        return _floating_on_device(name, value, like, half)
    array = unmasked(name, value)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must have dtype float32 or float64, got {array.dtype}")
    if like is not None and array.dtype != like[1].dtype:
        raise TypeError(f"{name} must have the dtype of {like[0]}, {like[1].dtype}, got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous: pass numpy.ascontiguousarray({name})")
    return array


def dimensions(name: str, array: Any, low: int, what: str) -> None:
    """Raise unless ``array`` has at least ``low`` axes."""
    if array.ndim < low:
        raise ValueError(f"{name} must have shape {what}, got {tuple(array.shape)}")


def matching(name: str, got: tuple[int, ...], needed: tuple[int, ...], other: str) -> None:
    """Raise unless the leading shape ``got`` is that of the array named ``other``."""
    got, needed = tuple(got), tuple(needed)  # a torch.Size says its own name
    if got != needed:
        raise ValueError(f"{name} must have leading shape {needed} like {other}, got {got}")


def by_position(array: Floating) -> Floating:
    """View (B, ..., d) as (B, T, d)."""
    if array.ndim == 3:
        return array
    return array.reshape(array.shape[0], math.prod(array.shape[1:-1]), array.shape[-1])


def integers_on_device(name: str, array: Any) -> Any:
    """Return an integer array on a device as int64; the kernel checks its values."""
    library = library_of(array)
    dtype = library.dtype(array)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(f"{name} must hold integers, got dtype {dtype}")
    array = array if dtype == "int64" else library.cast(array, "int64")
    return library.contiguous(array, tuple(array.shape))


def token_indices(name: str, value: Any, limit: int | None = None) -> Any:
    """Return non-negative integers below ``limit`` as an int64 array of shape (B, T), or raise.

    On a device values are not validated: an example with any other integer gets NaN from the kernel.
    """
    if on_device(value):
        tokens_there = integers_on_device(name, value)
        dimensions(name, tokens_there, 1, "(B, ...)")
        count = math.prod(tokens_there.shape[1:])
        return tokens_there.reshape(tokens_there.shape[0], count)
    array = unmasked(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    dimensions(name, array, 1, "(B, ...)")
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0:
            raise ValueError(f"{name} must be >= 0, got {low}")
        if limit is not None and high >= limit:
            raise ValueError(f"{name} must be below {limit}, got {high}")
    return np.ascontiguousarray(array, dtype=np.int64).reshape(array.shape[0], math.prod(array.shape[1:]))


def padding_token(padding_idx: int | None) -> int:
    """Return what the kernels take: -1 for none."""
    return -1 if padding_idx is None else _validate.count("padding_idx", padding_idx)
