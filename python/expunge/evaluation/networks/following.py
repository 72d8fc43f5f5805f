"""Units of a network followed through its layers, functions and methods, one rule for each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from expunge.evaluation.networks.groups import Groups, Label

__all__ = ["FIXED", "Follower"]

_ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.Identity,
    _DropoutNd,
)  # fmt: skip
_POOLING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_ELEMENTWISE = {
    "relu", "relu_", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh", "sigmoid", "softplus", "hardswish",
    "hardtanh", "dropout", "dropout2d", "clone", "contiguous", "detach", "neg", "abs", "exp", "square",
    "float", "double",
}  # fmt: skip
_POOLING = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "interpolate",
}  # fmt: skip
_PAIRWISE = {"add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv", "div"}

_SPATIAL = (
    *(((getattr(nn, f"Conv{d}d"), getattr(nn, f"ConvTranspose{d}d"), getattr(nn, f"InstanceNorm{d}d")), d)
      for d in (1, 2, 3)),
)  # fmt: skip
_TORCH = ("torch", "torch.functional", "torch.nn.functional", "torch._C", "torch._C._nn", "_operator", "operator")

FIXED = "inputs and outputs stay"


class Follower(fx.Interpreter):
    """Runs the traced model on an example and follows its groups of units from layer to layer.

    An operation without a rule of its own, or with a setting that its rule does not know, pins the units it touches:
    they stay in their places, which is always right.
    """

    def __init__(self, traced: fx.GraphModule, known: set[int]) -> None:
        super().__init__(traced)
        self.known = known  # ids of the model's parameters and buffers
        self.groups = Groups()
        self.labels: dict[fx.Node, Label | None] = {}
        self.axes: dict[int, list[tuple[int, int] | None]] = {}  # by id of a parameter or buffer
        self.raw: set[int] = set()  # tensors used outside the layers that are understood

    def run_node(self, node: fx.Node) -> Any:
        """Run an operation, and note which units its result holds."""
        result = super().run_node(node)
        self.labels[node] = self._label(node, result)
        return result

    # Labels of what an operation reads.
    def _read(self, node: fx.Node) -> list[Label]:
        return [label for one in node.all_input_nodes if (label := self.labels.get(one)) is not None]

    def _pin(self, node: fx.Node, reason: str) -> None:
        for label in self._read(node):
            self.groups.pin(label.group, f"{reason} ({node.name})")

    def _pinned(self, node: fx.Node, reason: str) -> Label | None:
        self._pin(node, reason)
        return None

    def _shape(self, node: Any) -> torch.Size:
        value = self.env[node]
        return value.shape if isinstance(value, Tensor) else torch.Size()

    def _bind(self, tensor: Tensor | None, axis: int, group: int, width: int) -> None:
        """Record that ``axis`` of a parameter holds the units of ``group``."""
        if tensor is None:
            return
        axes = self.axes.setdefault(id(tensor), [None] * tensor.ndim)
        before = axes[axis]
        if before is None:
            axes[axis] = (group, width)
        elif before[1] == width:
            self.groups.unite(before[0], group)
        else:
            self.groups.pin(before[0], "one parameter used in two ways")
            self.groups.pin(group, "one parameter used in two ways")

    def _label(self, node: fx.Node, result: Any) -> Label | None:
        if node.op == "placeholder":
            return None
        if node.op == "get_attr":
            if isinstance(result, Tensor):
                self.raw.add(id(result))
            return None
        if node.op == "output":
            return self._pinned(node, FIXED)
        if not isinstance(result, Tensor):
            touched = any(isinstance(self.env.get(one), Tensor) for one in node.all_input_nodes)
            if node.op == "call_module":
                return self._unknown(node, self.fetch_attr(str(node.target)))
            if touched and _name(node) not in ("size", "dim", "getattr", "ndimension"):
                self._pin(node, "not understood")
            return None
        if node.op == "call_module":
            return self._module(node, self.fetch_attr(str(node.target)), result)
        return self._function(node, _name(node), result)

    # Layers.
    def _module(self, node: fx.Node, module: Any, result: Tensor) -> Label | None:
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        own = [getattr(module, name, None) for name in ("weight", "bias")]
        computed = any(isinstance(tensor, Tensor) and id(tensor) not in self.known for tensor in own)
        if source is None or len(node.all_input_nodes) != 1 or computed:  # a weight may be computed from others
            return self._unknown(node, module)
        label, ndim = self.labels.get(source), len(self._shape(source))
        spatial = next((d for kind, d in _SPATIAL if isinstance(module, kind)), None)
        if spatial is not None and ndim != spatial + 2:  # without a batch axis the axes have other meanings
            return self._unknown(node, module)
        if isinstance(module, nn.Linear):
            return self._weighted(node, module, label, ndim - 1, result, into=1, out=0)
        if isinstance(module, _ConvTransposeNd):
            if module.groups > 1:
                return self._unknown(node, module)
            return self._weighted(node, module, label, 1, result, into=0, out=1)
        if isinstance(module, _ConvNd):
            return self._convolution(node, module, label, result)
        if isinstance(module, (_BatchNorm, _InstanceNorm)):
            return self._per_channel(node, module, label)
        if isinstance(module, nn.GroupNorm):
            return self._group_norm(node, module, label)
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            return self._layer_norm(module, label, ndim)
        if isinstance(module, nn.PReLU):
            return label if module.num_parameters == 1 else self._per_channel(node, module, label)
        if isinstance(module, _ELEMENTWISE_MODULES):
            return label
        if isinstance(module, _POOLING_MODULES):
            return self._pool(node, type(module).__name__, label, ndim)
        if isinstance(module, nn.Flatten):
            return self._flatten(node, label, self._shape(source), module.start_dim, module.end_dim)
        return self._unknown(node, module)

    def _unknown(self, node: fx.Node, module: Any) -> Label | None:
        self.raw.update(id(t) for t in [*module.parameters(), *module.buffers()])
        return self._pinned(node, f"{type(module).__name__} is not understood")

    def _weighted(
        self, node: fx.Node, module: Any, label: Label | None, dim: int, result: Tensor, *, into: int, out: int
    ) -> Label | None:
        if label is not None and (label.dim != dim or (label.width > 1 and not isinstance(module, nn.Linear))):
            return self._unknown(node, module)
        if label is None:  # what comes in stays, on every visit of this layer
            label = Label(dim, self.groups.new(module.weight.shape[into]))
            self.groups.pin(label.group, FIXED)
        self._bind(module.weight, into, label.group, label.width)
        at = result.ndim - 1 if isinstance(module, nn.Linear) else 1
        group = self.groups.new(result.shape[at])
        self._bind(module.weight, out, group, 1)
        self._bind(module.bias, 0, group, 1)
        return Label(at, group)

    def _convolution(self, node: fx.Node, module: Any, label: Label | None, result: Tensor) -> Label | None:
        if module.groups == 1:
            return self._weighted(node, module, label, 1, result, into=1, out=0)
        if module.groups == module.in_channels == module.out_channels:  # depthwise: its units are its input's
            return self._per_channel(node, module, label)
        return self._unknown(node, module)

    def _per_channel(self, node: fx.Node, module: Any, label: Label | None) -> Label | None:
        tensors = [t for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)] if t.ndim]
        if label is None:
            self.raw.update(map(id, tensors))
            return None
        if label.dim != 1 or (label.width > 1 and not isinstance(module, (_BatchNorm, nn.PReLU))):
            return self._unknown(node, module)
        for tensor in tensors:
            self._bind(tensor, 0, label.group, label.width)
        return label

    def _group_norm(self, node: fx.Node, module: nn.GroupNorm, label: Label | None) -> Label | None:
        found = self._per_channel(node, module, label)
        if found is not None and 1 < module.num_groups < module.num_channels:
            root = self.groups.root(found.group)
            self.groups.blocks[root].add(module.num_groups)
        return found

    def _layer_norm(self, module: Any, label: Label | None, ndim: int) -> Label | None:
        tensors = list(module.parameters(recurse=False))
        if label is None:
            self.raw.update(map(id, tensors))
            return None
        axis = label.dim - (ndim - len(module.normalized_shape))
        if axis < 0:  # every unit is normalised by itself
            self.raw.update(map(id, tensors))
            return label
        for tensor in tensors:
            self._bind(tensor, axis, label.group, label.width)
        return label

    def _pool(self, node: fx.Node, name: str, label: Label | None, ndim: int) -> Label | None:
        spatial = int(name[-2]) if name.endswith("d") else ndim - 2  # a missing batch axis would shift the others
        if label is None or (label.dim == 1 and label.width == 1 and ndim == spatial + 2 > 2):
            return label
        self._pin(node, "pooled over units")
        return None

    def _flatten(self, node: fx.Node, label: Label | None, shape: torch.Size, start: int, end: int) -> Label | None:
        if label is None:
            return None
        start, end = start % len(shape), end % len(shape)
        if label.dim < start:
            return label
        if label.dim == start:
            return replace(label, width=label.width * math.prod(shape[start + 1 : end + 1]))
        if label.dim > end:
            return replace(label, dim=label.dim - (end - start))
        self._pin(node, "flattened behind another axis")
        return None

    # Functions and methods.
    def _function(self, node: fx.Node, name: str, result: Tensor) -> Label | None:
        labels = self._read(node)
        if not labels:
            return None
        source = node.args[0] if node.args else None
        label = self.labels.get(source) if isinstance(source, fx.Node) else None
        shape = self._shape(source) if isinstance(source, fx.Node) else torch.Size()
        if not _known(node):
            return self._pinned(node, f"{name} is not understood")
        if name in _PAIRWISE:
            return self._pair(node, result)
        alone = sum(isinstance(self.env[one], Tensor) for one in node.all_input_nodes) == 1  # the others are sizes
        if alone and label is not None:
            if name in _ELEMENTWISE:
                return label
            if name in _POOLING:
                return self._pool(node, name, label, len(shape))
            if name == "flatten":
                rest: dict[str, Any] = {
                    **dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)),
                    **node.kwargs,
                }
                return self._flatten(node, label, shape, int(rest.get("start_dim", 0)), int(rest.get("end_dim", -1)))
            flat = result.ndim == 2 and result.shape[0] == shape[0] and result.numel() == shape.numel()
            if name in ("view", "reshape") and label.dim == 1 and flat:
                return self._flatten(node, label, shape, 1, -1)
            if name in ("transpose", "permute"):
                return self._reordered(node, name, label, len(shape))
            if name in ("mean", "sum"):
                return self._reduced(node, label, len(shape))
        self._pin(node, f"{name} is not understood")
        return None

    def _pair(self, node: fx.Node, result: Tensor) -> Label | None:
        """Sum or product: both sides' units move together."""
        if node.kwargs:
            return self._pinned(node, "a sum or product with settings is not understood")
        tensors = [one for one in node.args[:2] if isinstance(one, fx.Node) and isinstance(self.env[one], Tensor)]
        sides = [(self.labels.get(one), self._shape(one)) for one in tensors]
        # An axis counts from the right, as broadcasting has it.
        found = [(label.dim - len(shape), label) for label, shape in sides if label is not None]
        place, label = found[0]
        for other, shape in sides:
            if other is None:
                size = shape[place] if -place <= len(shape) else 1
                if size != 1:
                    return self._pinned(node, "met something whose units stay")
            elif (other.dim - len(shape), other.width) != (place, label.width):
                return self._pinned(node, "met units on another axis")
            else:
                self.groups.unite(label.group, other.group)
        return replace(label, dim=result.ndim + place)

    def _reordered(self, node: fx.Node, name: str, label: Label, ndim: int) -> Label | None:
        args = node.args[1:]
        if node.kwargs or not all(isinstance(a, (int, tuple, list)) for a in args):
            return self._pinned(node, f"{name} is not understood")
        order = list(range(ndim))
        if name == "transpose":
            a, b = (int(x) % ndim for x in args)  # type: ignore[arg-type]
            order[a], order[b] = order[b], order[a]
        else:
            given = args[0] if isinstance(args[0], (tuple, list)) else args
            order = [int(x) % ndim for x in given]  # type: ignore[arg-type]
        return replace(label, dim=order.index(label.dim))

    def _reduced(self, node: fx.Node, label: Label, ndim: int) -> Label | None:
        """Mean or sum: over all units nothing is left to move, over other axes the units stay apart."""
        names = {"dim": "dim", "axis": "dim", "keepdim": "keepdim", "keepdims": "keepdim"}
        given = list(zip(("dim", "keepdim"), node.args[1:], strict=False)) + list(node.kwargs.items())
        rest = {names[key]: value for key, value in given if key in names}
        dims, keep = rest.get("dim"), rest.get("keepdim", False)
        dims = tuple(dims) if isinstance(dims, (tuple, list)) else dims if dims is None else (dims,)
        if len(rest) < len(given) or len(node.args) > 3 or not isinstance(keep, bool):
            return self._pinned(node, f"{_name(node)} with settings that are not understood")
        if dims is None:
            return None  # over everything
        if not dims or not all(isinstance(d, int) for d in dims):
            return self._pinned(node, "reduced over axes that are not fixed")
        gone = {d % ndim for d in dims if isinstance(d, int)}
        if label.dim in gone:
            return None  # a sum over all units is the same in any order
        return label if keep else replace(label, dim=label.dim - sum(d < label.dim for d in gone))


def _name(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _known(node: fx.Node) -> bool:
    """Whether a function is torch's or Python's, not a caller's of the same name."""
    return isinstance(node.target, str) or (getattr(node.target, "__module__", None) or "torch") in _TORCH
