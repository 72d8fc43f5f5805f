"""Which axis of every tensor counts examples, followed through the calls of a forward pass.

A tensor without an entry does not depend on the examples. Where the axis can no longer be told, the entry is LOST, and
a parameter used with such a tensor is refused: rows of another kind are never taken for examples. A LOST axis may still
be in the leading one merged with others, all rows of one example before those of the next: such blocks are followed
through reshapes, which keep the order, and through calls that treat rows separately.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.torch._sources import tensors_in
from expunge.torch._tensor_map import TensorMap

__all__ = ["LOST", "BatchAxes"]

LOST = -1

_REDUCTIONS = {
    "all", "amax", "amin", "any", "argmax", "argmin", "cumprod", "cumsum", "logsumexp", "max", "mean", "median", "min",
    "norm", "prod", "softmax", "log_softmax", "std", "sum", "var", "sort", "argsort", "topk", "kthvalue", "diff",
    "cummax", "cummin", "logcumsumexp", "nansum", "nanmean", "mode", "aminmax", "count_nonzero", "cosine_similarity",
}  # fmt: skip
# Where the axis of such a call is said, unless second, and which it is if nothing is said and not all are.
_DIM_PLACE = {"roll": 2, "normalize": 2, "topk": 2, "kthvalue": 2, "diff": 2, "cosine_similarity": 2}
_DIM_DEFAULT = {"normalize": 1, "sort": -1, "argsort": -1, "topk": -1, "kthvalue": -1, "diff": -1, "mode": -1,
                "cosine_similarity": 1}  # fmt: skip
_OVER_ALL = {"cov", "corrcoef", "outer", "ger", "tensordot", "kron", "inner", "dot", "vdot"}
_RESHAPES = {"reshape", "view", "flatten", "unflatten", "reshape_as", "view_as"}
_ROW_BY_ROW = {
    "linear", "matmul", "__matmul__", "mm", "addmm", "embedding", "layer_norm", "rms_norm", "softmax", "log_softmax",
    "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "mul", "__mul__", "__rmul__", "div", "__truediv__",
    "add_", "__iadd__", "mul_", "__imul__", "relu", "relu_", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu",
    "softplus", "hardtanh", "mish", "exp", "log", "sin", "cos", "sqrt", "square", "abs", "neg", "__neg__", "pow",
    "__pow__", "clamp", "dropout", "clone", "contiguous", "detach", "to", "float", "double", "bfloat16", "half",
    "type_as", "masked_fill",
}  # fmt: skip
_MATRIX = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm"}
_BROADCASTING = {
    "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "mul", "__mul__", "__rmul__", "multiply", "subtract",
    "div", "__truediv__", "__rtruediv__", "divide", "true_divide", "pow", "__pow__", "__rpow__", "maximum", "minimum",
    "where", "lerp", "addcmul", "addcdiv", "eq", "ne", "lt", "le", "gt", "ge", "atan2", "hypot", "masked_fill",
}  # fmt: skip
_KEEPING = _ROW_BY_ROW - _REDUCTIONS
_NOT_OF_EXAMPLES = {"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"}


class BatchAxes:
    """Axis of the examples for the tensors of one block."""

    def __init__(self) -> None:
        self._axes: TensorMap[int] = TensorMap()
        self._blocks: TensorMap[int] = TensorMap()
        self.batch: int | None = None

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._axes

    def get(self, tensor: Tensor) -> int | None:
        """Return the axis of the examples, LOST, or None for a tensor that does not depend on them."""
        return self._axes.get(tensor)

    def block(self, tensor: Tensor) -> int:
        """Return how many leading rows in a row every example has, 0 unless the axis of examples is merged so."""
        return self._blocks.get(tensor) or 0

    def set(self, tensor: Tensor, axis: int) -> None:
        """Say which axis counts examples."""
        self._axes[tensor] = axis

    def begin(self, inputs: list[Tensor]) -> None:
        """Take the inputs of the model: the leading axis counts examples."""
        shaped = [t for t in inputs if t.ndim and t not in self._axes]
        if not shaped:
            return
        if self.batch is None:
            self.batch = shaped[0].shape[0]
        for tensor in shaped:
            if tensor.shape[0] == self.batch:
                self._axes[tensor] = 0
            elif tensor is shaped[0]:
                self._axes[tensor] = LOST

    def follow(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], result: Any
    ) -> None:
        """Enter the results of a call, whose arguments hold the tensors ``given``."""
        inputs = [(t, axis) for t in given if (axis := self._axes.get(t)) is not None]
        if not inputs:
            return
        name = getattr(function, "__name__", "")
        if name in _NOT_OF_EXAMPLES:
            return
        if name in ("__setitem__", "__set__") and args and isinstance(args[0], Tensor):
            # Values were written into a tensor: it depends on the examples from now on.
            axes = {axis for _, axis in inputs}
            target = args[0]
            axis = axes.pop() if len(axes) == 1 else LOST
            known = axis != LOST and target.ndim > axis and target.shape[axis] == self.batch
            self._axes[target] = axis if known else LOST
            return
        for tensor in (result,) if isinstance(result, Tensor) else tensors_in(result):
            if tensor in self._axes and not any(tensor is t for t, _ in inputs):
                continue  # said by the call's own rule
            axis = self._axis_after(name, args, kwargs, *inputs[0], tensor)
            if any(self._axis_after(name, args, kwargs, *other, tensor) != axis for other in inputs[1:]):
                axis = LOST
            self._axes[tensor] = axis
            if axis == LOST:
                block = self._block_after(name, args, kwargs, inputs, tensor)
                if block == 1:
                    self._axes[tensor] = 0
                elif block:
                    self._blocks[tensor] = block

    def _axis_after(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], before: Tensor, axis: int, after: Tensor
    ) -> int:
        if after is before or axis == LOST:
            return axis
        if name in _MATRIX and self._contracts(name, args, before, axis):
            return LOST
        if name in _OVER_ALL or (name == "cdist" and before.ndim == 2 and before is args[1]):
            return LOST
        if name == "einsum":
            return self._axis_of_letter(args, before, axis)
        if axis == 0 and name in _KEEPING and after.ndim == before.ndim and after.shape[0] == self.batch:
            return 0  # the usual case, quickly
        if name in ("transpose", "swapaxes", "swapdims") and before is args[0]:
            pair = [
                int(d) % before.ndim
                for d in (*args[1:], *(kwargs[k] for k in ("dim0", "dim1", "axis0", "axis1") if k in kwargs))
            ]
            return pair[1] if axis == pair[0] else pair[0] if axis == pair[1] else axis
        if name == "permute" and before is args[0]:
            dims = kwargs.get("dims", args[1:])
            order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
            return [int(d) % before.ndim for d in order].index(axis)
        if name in ("stack", "unsqueeze"):
            place = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % after.ndim
            return axis + (place <= axis)
        mixes = name in _REDUCTIONS or name in ("flip", "roll", "normalize") or "dim" in kwargs or "axis" in kwargs
        if mixes and self._reduces(name, args, kwargs, before, axis):
            return LOST
        picks = name in ("index_select", "gather", "take_along_dim") or (name == "__getitem__" and before is args[0])
        if picks and self._reorders(name, args, kwargs, axis):
            return LOST
        if after.untyped_storage().data_ptr() == before.untyped_storage().data_ptr() and after.ndim:
            # A view: the axis of the same length and step in memory.
            same = [
                k for k in range(after.ndim) if (after.shape[k], after.stride(k)) == (self.batch, before.stride(axis))
            ]
            if len(same) == 1:
                return same[0]
            return axis if after.shape == before.shape and after.stride() == before.stride() else LOST
        shifted = axis + after.ndim - before.ndim
        if shifted > axis and name in _BROADCASTING:  # which adds axes in front
            return shifted if after.shape[shifted] == self.batch else LOST
        if axis == 0 and after.ndim and after.shape[0] == self.batch:
            return 0
        if after.ndim == before.ndim and after.shape[axis] == self.batch:
            return axis if axis == 0 or name not in ("reshape", "flatten", "unflatten") else LOST
        return LOST

    def _block_after(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[tuple[Tensor, int]],
        after: Tensor,
    ) -> int:
        """Return how many leading rows of a result every example has, one example after the other; 0 if not so."""
        if not self.batch or not after.ndim or after.shape[0] % self.batch:
            return 0
        rows = after.shape[0] // self.batch
        if name in _RESHAPES:
            before, axis = inputs[0]
            return rows if before is args[0] and (axis == 0 or self.block(before)) else 0
        if name not in _ROW_BY_ROW:
            return 0
        for before, _ in inputs:
            if self.block(before) != rows or before.shape[0] != after.shape[0]:
                return 0
            if name == "embedding":
                continue
            first = 1 if name == "addmm" else 0
            if before.ndim != after.ndim or (name in _MATRIX and (before.ndim < 2 or before is not args[first])):
                return 0
            if name in ("softmax", "log_softmax") and self._reduces(name, args, kwargs, before, 0):
                return 0
            if name in ("layer_norm", "rms_norm"):
                shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else before.shape)
                if len(tuple(shape)) >= before.ndim:
                    return 0
        return rows

    @staticmethod
    def _axis_of_letter(args: tuple[Any, ...], before: Tensor, axis: int) -> int:
        """Return where an einsum puts the axis of the examples."""
        operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
        taken, arrow, given = str(args[0]).replace(" ", "").partition("->")
        places = {
            given.find(letters[axis]) if axis < len(letters) else LOST
            for letters, operand in zip(taken.split(","), operands, strict=False)
            if operand is before
        }
        return places.pop() if arrow and "." not in taken and len(places) == 1 else LOST

    @staticmethod
    def _contracts(name: str, args: tuple[Any, ...], before: Tensor, axis: int) -> bool:
        """Whether a matrix product adds up over the axis of the examples, or has them for its weight."""
        factors = args[1:3] if name == "addmm" else args[:2]
        left, right = factors[::-1] if name == "__rmatmul__" else factors if len(factors) == 2 else (before, None)
        if before is right:
            return name == "linear" or axis == max(before.ndim - 2, 0)
        return before is left and axis == before.ndim - 1

    @staticmethod
    def _reduces(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], before: Tensor, axis: int) -> bool:
        """Whether a call works along the axis of the examples."""
        place, default = _DIM_PLACE.get(name, 1), _DIM_DEFAULT.get(name)
        given = args[place:] if name == "flip" else args[place] if len(args) > place else default
        dim = kwargs.get("dim", kwargs.get("axis", kwargs.get("dims", given)))
        if dim is None:
            return True
        if isinstance(dim, bool) or not isinstance(dim, (int, tuple, list)):
            return False
        dims = [dim] if isinstance(dim, int) else dim[0] if dim and isinstance(dim[0], (tuple, list)) else dim
        return axis in {int(d) % before.ndim for d in dims}

    def _reorders(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], axis: int) -> bool:
        """Whether a call picks examples by an index that is not 0, 1, ..., B - 1."""
        if name != "__getitem__":
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return dim is None or int(dim) in (axis, axis - (args[0].ndim if isinstance(args[0], Tensor) else 0))
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if len(index) <= axis or any(i is None or i is Ellipsis for i in index[: axis + 1]):
            return False
        chosen = index[axis]
        if isinstance(chosen, Tensor) and chosen.dtype != torch.bool and chosen.ndim == 1:
            return chosen.tolist() != list(range(self.batch or 0))
        return isinstance(chosen, (Tensor, list))
