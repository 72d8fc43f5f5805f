"""Geometry of a convolution: index maps of the padding, offsets of positions and kernel entries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge._kernels.backend import DevicePlace, Place

__all__ = ["ConvGeometry", "conv_geometry", "offsets_at", "padded_images"]

_MODES = ("zeros", "circular", "reflect", "replicate")

Int32 = NDArray[np.int32]


class ConvGeometry(NamedTuple):
    """A convolution's geometry in three dimensions; missing leading axes have length 1."""

    output_shape: tuple[int, ...]
    source: tuple[int, int, int]
    padded: NDArray[np.int64]
    pad_maps: Int32 | None  # those of the three axes, one after another
    position_offsets: Int32
    feature_offsets: Int32


def _per_axis(name: str, value: Any, axes: int, low: int) -> tuple[int, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != axes:
            raise ValueError(f"{name} must be one int or {axes} of them, got {value!r}")
        return tuple(_validate.count(name, v, low=low) for v in value)
    return (_validate.count(name, value, low=low),) * axes


def _paddings(padding: Any, stride: tuple[int, ...], reach: tuple[int, ...]) -> list[tuple[int, int]]:
    """(before, after) for each axis; an odd total of "same" puts the extra entry after, as PyTorch does."""
    if isinstance(padding, str):
        _validate.choice("padding", padding, ("valid", "same"))
        if padding == "valid":
            return [(0, 0)] * len(reach)
        if any(s != 1 for s in stride):
            raise ValueError(f"padding 'same' needs stride 1, got stride {stride}")
        return [(r // 2, r - r // 2) for r in reach]
    return [(p, p) for p in _per_axis("padding", padding, len(reach), 0)]


def _pad_map(length: int, before: int, after: int, mode: str) -> Int32:
    """Source index of every padded entry; -1 where it is zero."""
    index = np.arange(-before, length + after)
    if mode == "zeros":
        index[(index < 0) | (index >= length)] = -1
    elif mode == "replicate":
        if length == 0 and max(before, after) > 0:
            raise ValueError(f"padding must be 0 for a length of 0 and padding_mode='replicate', got {before}")
        index = np.clip(index, 0, length - 1)
    elif mode == "circular":
        if max(before, after) > length:
            raise ValueError(f"padding must be at most the length {length} for padding_mode='circular', got {before}")
        index %= length
    else:
        if max(before, after) >= length:
            raise ValueError(f"padding must be below the length {length} for padding_mode='reflect', got {before}")
        index = np.abs(index)
        index = np.where(index >= length, 2 * (length - 1) - index, index)
    return np.ascontiguousarray(index, dtype=np.int32)


def _grid(counts: Sequence[int], steps: Sequence[int], plane: Sequence[int]) -> NDArray[np.int64]:
    """Offsets of the points of a 3-d grid in C order."""
    axes = [np.arange(c) * s for c, s in zip(counts, steps, strict=True)]
    grid = axes[0][:, None, None] * (plane[1] * plane[2]) + axes[1][:, None] * plane[2] + axes[2]
    return np.asarray(grid.ravel(), dtype=np.int64)


def conv_geometry(
    lengths: Sequence[int],
    channels: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    padding_mode: str,
    dilation: Any,
    groups: Any,
) -> ConvGeometry:
    """Return the geometry for images of spatial shape ``lengths``, or raise ValueError naming what does not fit."""
    axes = len(lengths)
    kernel = _per_axis("kernel_size", kernel_size, axes, 1)
    step = _per_axis("stride", stride, axes, 1)
    spread = _per_axis("dilation", dilation, axes, 1)
    _validate.choice("padding_mode", padding_mode, _MODES)
    n_groups = _validate.count("groups", groups, low=1)
    if channels % n_groups:
        raise ValueError(f"groups must divide the {channels} channels of activations, got {n_groups}")
    reach = tuple(d * (k - 1) for d, k in zip(spread, kernel, strict=True))
    pads = tuple(_paddings(padding, step, reach))
    return _geometry(tuple(lengths), channels // n_groups, kernel, step, spread, pads, padding_mode)


def padded_images(
    images: NDArray[Any],
    *,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    padding_mode: str = "zeros",
    dilation: Any = 1,
) -> tuple[NDArray[Any], int, int]:
    """Return images (B, C, ...) with their padding, and the stride and the reach of a window along the first axis."""
    axes = images.ndim - 2
    kernel, step = _per_axis("kernel_size", kernel_size, axes, 1), _per_axis("stride", stride, axes, 1)
    reach = tuple(d * (k - 1) for d, k in zip(_per_axis("dilation", dilation, axes, 1), kernel, strict=True))
    for axis, (before, after) in enumerate(_paddings(padding, step, reach), 2):
        if before or after:
            places = _pad_map(images.shape[axis], before, after, padding_mode)
            images = np.insert(images, images.shape[axis], 0.0, axis=axis)  # which the place -1 takes
            images = np.take(images, places, axis=axis)
    return images, step[0], reach[0]


@lru_cache(maxsize=64)
def _geometry(
    lengths: tuple[int, ...],
    group_channels: int,
    kernel: tuple[int, ...],
    step: tuple[int, ...],
    spread: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    mode: str,
) -> ConvGeometry:
    output = []
    for length, k, s, d, (before, after) in zip(lengths, kernel, step, spread, pads, strict=True):
        free = length + before + after - d * (k - 1) - 1
        if free < 0:
            raise ValueError(f"kernel_size {k} with dilation {d} must fit the padded length {length + before + after}")
        output.append(free // s + 1)
    missing = 3 - len(lengths)
    ones, none = (1,) * missing, ((0, 0),) * missing
    source = ones + lengths
    all_pads = none + pads
    padded = [n + before + after for n, (before, after) in zip(source, all_pads, strict=True)]
    plane = padded[0] * padded[1] * padded[2]
    if group_channels * plane >= 2**31:
        raise ValueError(f"activations must have fewer than 2**31 padded entries a group, got {group_channels * plane}")
    pad_maps: Int32 | None = None
    if any(before or after for before, after in pads):
        maps = [_pad_map(n, before, after, mode) for n, (before, after) in zip(source, all_pads, strict=True)]
        pad_maps = np.concatenate(maps)
    positions = _grid(ones + tuple(output), ones + step, padded)
    entries = _grid(ones + kernel, ones + spread, padded)
    features = np.arange(group_channels)[:, None] * plane + entries
    return ConvGeometry(
        tuple(output),
        (source[0], source[1], source[2]),
        np.array(padded, dtype=np.int64),
        pad_maps,
        positions.astype(np.int32),
        np.ascontiguousarray(features.ravel(), dtype=np.int32),
    )


# Copies on devices: kept with their geometry, so that its id stays taken.
_GEOMETRIES: dict[tuple[int, str, str, int], tuple[ConvGeometry, tuple[Any, Any, Any]]] = {}


def offsets_at(geometry: ConvGeometry, where: Place) -> tuple[Any, Any, Any]:
    """Return the maps and offsets where the kernel runs; copies on a device are kept for the next call."""
    host = geometry.pad_maps, geometry.position_offsets, geometry.feature_offsets
    if not isinstance(where, DevicePlace):
        return host
    library = where.library
    key = (id(geometry), library.name, str(library.device), library.stream())
    found = _GEOMETRIES.get(key)
    if found is None:
        there = tuple(None if array is None else library.asarray(array) for array in host)
        while len(_GEOMETRIES) >= 64:
            _GEOMETRIES.pop(next(iter(_GEOMETRIES)))
        found = _GEOMETRIES[key] = geometry, (there[0], there[1], there[2])
    return found[1]
