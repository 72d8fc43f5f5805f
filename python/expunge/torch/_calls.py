"""Kinds of calls in a block: those that read, write or only query, and those that a backward pass repeats."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["ABOUT", "READERS", "WRITERS", "in_backward", "recomputing", "with_weight"]

WRITERS = frozenset({Tensor.__setitem__, Tensor.data.__set__})  # type: ignore[attr-defined]  # give no result
READERS = frozenset(
    getattr(Tensor, name) for name in ("item", "tolist", "numpy", "__float__", "__int__", "__bool__", "__array__")
)
# Calls that tell something about a tensor and return none: not a use of it.
ABOUT = frozenset(
    {
        *(
            getattr(Tensor, name).__get__
            for name in (
                *("device", "dtype", "grad_fn", "is_cpu", "is_cuda", "is_leaf", "is_meta", "is_mkldnn", "is_nested"),
                *("is_quantized", "is_sparse", "is_sparse_csr", "itemsize", "layout", "nbytes", "ndim", "output_nr"),
                *("requires_grad", "retains_grad", "shape", "_version"),
            )
        ),
        *(Tensor.dim, Tensor.ndimension, Tensor.element_size, Tensor.get_device, Tensor.is_contiguous),
        *(Tensor.is_floating_point, Tensor.nelement, Tensor.numel, Tensor.size, Tensor.storage_offset, Tensor.stride),
        *(Tensor.__len__, torch.is_floating_point, torch.numel),
        Tensor.requires_grad.__set__,  # type: ignore[attr-defined]  # a flag, no values
    }
)


def with_weight(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of F.l1_loss with its weight, which torch leaves out where calls are followed."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code is not F.l1_loss.__code__:
        frame = frame.f_back
    weight = None if frame is None else frame.f_locals.get("weight")
    return kwargs if weight is None else {**kwargs, "weight": weight}


def in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def recomputing() -> bool:
    """Whether a backward pass repeats calls that were made, and followed, in the forward pass."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and "_recomputation_hook" in getattr(hooks[0], "__qualname__", "")
