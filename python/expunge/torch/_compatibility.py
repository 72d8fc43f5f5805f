"""The versions of PyTorch that are tested, and the parts in use that it does not promise to keep."""

from __future__ import annotations

import importlib.util
import re
import warnings
from typing import Any

import torch
import torch.utils.checkpoint

__all__ = ["PRIVATE", "TESTED", "UntestedVersionWarning", "look_at_version", "missing"]

TESTED = ((2, 13), (2, 14))

# Name, from torch on; a module of this package that uses it. Attributes of objects stand after the colon.
PRIVATE = {
    "torch._C._autograd._get_sequence_nr": "_batch_axes",
    "torch._C._autograd._top_saved_tensors_default_hooks": "_tracker",
    "torch._C._current_autograd_node": "_tracker",
    "torch._C._current_graph_task_id": "_calls",
    "torch._C._functorch.get_unwrapped": "_refusals",
    "torch._C._functorch.is_functorch_wrapped_tensor": "_refusals",
    "torch._C._functorch.maybe_current_level": "_tracker",
    "torch._C._nn": "_rule",
    "torch._C.DisableTorchFunction": "_tracker",
    "torch._dynamo": "_followed_parameters",
    "torch._foreach_add_": "training.step",
    "torch._foreach_mul_": "training.step",
    "torch._pack_padded_sequence": "_rules_packed",
    "torch._pad_packed_sequence": "_rules_packed",
    "torch.autograd._make_grads": "_passes",
    "torch.nn.modules.batchnorm._BatchNorm": "_followed_parameters",
    "torch.nn.modules.module._global_backward_hooks": "_passes",
    "torch.nn.modules.module._global_backward_pre_hooks": "_passes",
    "torch.ops.aten._unsafe_view": "_anchored",
    "torch.utils.checkpoint._recomputation_hook": "_calls",
    "Function:_forward_cls": "_known_functions",
    "Module:_backward_hooks": "_passes",
    "Module:_backward_pre_hooks": "_passes",
    "Module:_buffers": "_check",
    "Module:_compiled_call_impl": "_followed_parameters",
    "Module:_modules": "_followed_parameters",
    "Module:_parameters": "_followed_parameters",
    "Node:_sequence_nr": "_batch_axes",
    "Replicas:_active_ddp_module": "_distributed",
    "Tensor:_backward_hooks": "_passes",
    "Tensor:_base": "_tracker",
    "Tensor:_is_view": "_anchored",
    "Tensor:_post_accumulate_grad_hooks": "_passes",
    "Tensor:_version": "_tracker",
}


class _Function(torch.autograd.Function):
    """An autograd function of any kind, to inspect."""


_TENSOR = torch.zeros(1, requires_grad=True)
_OWNERS: dict[str, Any] = {
    "Function": getattr(_Function, "_backward_cls", None),
    "Module": torch.nn.Linear(1, 1),
    "Node": _TENSOR.view_as(_TENSOR).grad_fn,
    "Tensor": _TENSOR,
}
if torch.distributed.is_available():
    _OWNERS["Replicas"] = torch.nn.parallel.DistributedDataParallel


class UntestedVersionWarning(UserWarning):
    """The version of PyTorch is not among those that the norms were tested with."""


def _found(name: str) -> bool:
    kind, _, attribute = name.partition(":")
    if attribute:
        return kind not in _OWNERS or hasattr(_OWNERS[kind], attribute)
    if name == "torch._dynamo":  # not imported before it is needed
        return importlib.util.find_spec(name) is not None
    value: Any = torch
    for part in name.split(".")[1:]:
        value = getattr(value, part, None)
    return value is not None


def missing() -> dict[str, str]:
    """Return what this version of PyTorch lacks, and the module that uses it."""
    return {name: module for name, module in PRIVATE.items() if not _found(name)}


def _look() -> None:
    lacks = missing()
    if lacks:
        listed = ", ".join(f"{name} (used in expunge.torch.{module})" for name, module in lacks.items())
        raise ImportError(f"torch {torch.__version__} lacks {listed}: install torch {_range()}")


def _range() -> str:
    (first, low), (last, high) = TESTED[0], TESTED[-1]
    return f">={first}.{low},<{last}.{high + 1}"


_warned = False


def look_at_version() -> None:
    """Warn once if the version of PyTorch is not a tested one."""
    global _warned
    if _warned:
        return
    _warned = True
    numbers = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if numbers is None or (int(numbers[1]), int(numbers[2])) not in TESTED:
        warnings.warn(
            f"norms were not tested with torch {torch.__version__}, only with {_range()}: compare them with autograd "
            "by GradNorms(..., check=True)",
            UntestedVersionWarning,
            stacklevel=3,
        )


_look()
