"""Checks and views of the arrays that per-example gradients are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate

__all__ = [
    "Floating",
    "by_position",
    "dimensions",
    "floating",
    "matching",
    "padding_token",
    "thread_count",
    "token_indices",
]

Floating = NDArray[Any]


def floating(name: str, value: ArrayLike, *, like: tuple[str, Floating] | None = None) -> Floating:
    """Return ``value`` as it is, a C-contiguous float32 or float64 array (of the dtype of ``like``), or raise."""
    array = np.asarray(value)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must have dtype float32 or float64, got {array.dtype}")
    if like is not None and array.dtype != like[1].dtype:
        raise TypeError(f"{name} must have the dtype of {like[0]}, {like[1].dtype}, got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous: pass numpy.ascontiguousarray({name})")
    return array


def dimensions(name: str, array: NDArray[Any], low: int, what: str) -> None:
    """Raise unless ``array`` has at least ``low`` axes."""
    if array.ndim < low:
        raise ValueError(f"{name} must have shape {what}, got {array.shape}")


def matching(name: str, got: tuple[int, ...], needed: tuple[int, ...], other: str) -> None:
    """Raise unless the leading shape ``got`` is that of the array named ``other``."""
    if got != needed:
        raise ValueError(f"{name} must have leading shape {needed} like {other}, got {got}")


def thread_count(threads: int | None) -> int:
    """Return what the kernels take: 0 for all cores."""
    return 0 if threads is None else _validate.count("threads", threads, low=1)


def by_position(array: Floating) -> Floating:
    """View (B, ..., d) as (B, T, d)."""
    positions = int(np.prod(array.shape[1:-1], dtype=np.int64))
    return array.reshape(array.shape[0], positions, array.shape[-1])


def token_indices(name: str, value: ArrayLike, limit: int | None = None) -> NDArray[np.int64]:
    """Return non-negative integers below ``limit`` as an int64 array of shape (B, T), or raise."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    dimensions(name, array, 1, "(B, ...)")
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0:
            raise ValueError(f"{name} must be >= 0, got {low}")
        if limit is not None and high >= limit:
            raise ValueError(f"{name} must be below {limit}, got {high}")
    tokens = int(np.prod(array.shape[1:], dtype=np.int64))
    return np.ascontiguousarray(array, dtype=np.int64).reshape(array.shape[0], tokens)


def padding_token(padding_idx: int | None) -> int:
    """Return what the kernels take: -1 for none."""
    return -1 if padding_idx is None else _validate.count("padding_idx", padding_idx)
