"""Outputs that get a gradient of their own, whatever they are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["anchored"]

_ANCHOR = torch.zeros((), requires_grad=True)


class _Anchored(torch.autograd.Function):
    """Makes an output of frozen layers require grad, so that its gradient is computed."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, box: list[Tensor]) -> Tensor:
        return box[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None


def anchored(tensor: Tensor, *, fresh: bool = True) -> Tensor:
    """Return a result that is not a view, so that its gradient is computed and not moved elsewhere.

    Where it may share memory with others (``fresh`` is False) it is a copy.
    """
    if not tensor.is_floating_point() and not tensor.is_complex():
        return tensor
    if not fresh:
        tensor = tensor.clone()
    elif tensor._is_view():
        tensor = torch.ops.aten._unsafe_view.default(tensor, tensor.shape)
    if tensor.requires_grad:
        return tensor
    return _Anchored.apply(_ANCHOR, [tensor])  # type: ignore[no-any-return]
