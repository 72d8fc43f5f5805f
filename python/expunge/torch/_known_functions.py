"""Autograd functions of other libraries, which no torch function shows, that treat every entry by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

__all__ = ["checkpointed", "input_of_known"]

_TIMM = "timm.layers.activations_me"
# Forward and backward pass were read: entry by entry, of one tensor, which is saved first.
_ENTRY_BY_ENTRY = frozenset(
    {
        ("transformers.models.bloom.modeling_bloom", "GeLUFunction"),
        ("transformers.models.recurrent_gemma.modeling_recurrent_gemma", "SqrtBoundDerivative"),
        *((_TIMM, f"{name}AutoFn") for name in ("Swish", "Mish", "HardSigmoid", "HardSwish", "HardMish")),
    }
)


def input_of_known(output: Tensor) -> Tensor | None:
    """Return the tensor that a known function, entry by entry, made ``output`` of; None if it was made otherwise."""
    node = output.grad_fn
    function = getattr(type(node), "_forward_cls", None)
    if function is None or (function.__module__, function.__qualname__) not in _ENTRY_BY_ENTRY:
        return None
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return None  # a look at what was saved would make a checkpoint run again
    saved: tuple[Tensor, ...] = node.saved_tensors  # type: ignore[union-attr]
    edges = node.next_functions  # type: ignore[union-attr]
    if not saved or len(edges) != 1 or saved[0].grad_fn is not edges[0][0] or saved[0].shape != output.shape:
        return None
    return saved[0]


def checkpointed(node: Any) -> bool:
    """Whether a node is that of a checkpoint with re-entry: its calls are seen, without gradients and once more."""
    return getattr(type(node), "_forward_cls", None) is CheckpointFunction
