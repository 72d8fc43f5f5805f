"""Images, and other things with channels, of which each example may have several: merged with the batch dimension."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import LEADING, Axis, Rows, rows_of

__all__ = ["channels_next", "images_of", "side_by_side"]


def images_of(tensor: Tensor, axis: Axis | Rows, batch: int) -> Tensor:
    """Return (B, n, C, ...) from n images of every example in the leading axis; (B, C, ...) if that counts examples."""
    if axis == LEADING:
        return tensor
    rows = rows_of(tensor, axis, batch)
    return rows.flatten(1, rows.ndim - tensor.ndim)


def channels_next(tensor: Tensor, axis: Axis | Rows, batch: int) -> Tensor:
    """Return (B, C, ...) from a tensor with channels in axis 1, and examples merged with others, or behind channels."""
    behind = axis.at(axis.dim - 1) if axis.dim > 1 else axis
    return rows_of(tensor.movedim(1, -1), behind, batch).movedim(-1, 1)


def side_by_side(
    images: Tensor, grads: Tensor, kernel: tuple[int, ...], settings: dict[str, Any]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return one image for every example where there are several: put together along the first axis of positions.

    Each is padded as the convolution would, and to a multiple of the stride; the gradients of positions where a kernel
    would span two images are zero, so that the sum over positions is the sum over the images.
    """
    if images.ndim == len(kernel) + 2:
        return images, grads, settings
    stride, dilation = (_each(settings[name], kernel) for name in ("stride", "dilation"))
    named = settings["padding"] if isinstance(settings["padding"], str) else None
    padding = (0,) * len(kernel) if named else _each(settings["padding"], kernel)
    if named == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        images = F.pad(images, [p for t in reversed(total) for p in (t // 2, t - t // 2)])
    images = F.pad(images, (0, 0) * (len(kernel) - 1) + (padding[0], padding[0]))
    steps = -(-images.shape[3] // stride[0])  # of one image, which with zeros behind it ends where a step does
    images = _joined(images, steps * stride[0])
    grads = _joined(grads, steps)
    reach = (images.shape[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    return images, grads.narrow(2, 0, reach), {**settings, "padding": (0, *padding[1:])}


def _joined(images: Tensor, length: int) -> Tensor:
    """Return (B, C, n length, ...) from (B, n, C, L, ...), with zeros behind each image."""
    behind = length - images.shape[3]
    return F.pad(images, (0, 0) * (images.ndim - 4) + (0, behind)).transpose(1, 2).flatten(2, 3)


def _each(value: int | tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return one number for every axis."""
    return (value,) * len(kernel) if isinstance(value, int) else value
