"""Layers of a small network as the kernel for many of them takes them, or why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["NotUnderstoodError", "Plan", "plan_of"]

CONVOLUTION, MATRIX, NORM, RELU, MAX_POOL, FLATTEN = range(6)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NotUnderstoodError(Exception):
    """A model is no chain of layers that the kernel knows. The message completes 'the models train one by one: '."""


@dataclass(frozen=True)
class Plan:
    """A network's layers in their order.

    Attributes
    ----------
    lines : ndarray of int64, shape (n_layers, 14)
        Kind, the input's height, width and channels, size, stride and padding of windows (down, across), output
        channels, groups, and the places of weight and bias among the parameters.
    eps : ndarray of float64, shape (n_layers,)
    image : bool
        Whether inputs are images, channels first.
    tensors : tuple of (str, shape, dtype)
        Of the parameters, in their order.
    """

    lines: NDArray[np.int64]
    eps: NDArray[np.float64]
    image: bool
    tensors: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Plan)
            and np.array_equal(self.lines, other.lines)
            and np.array_equal(self.eps, other.eps)
            and (self.image, self.tensors) == (other.image, other.tensors)
        )

    __hash__ = None  # type: ignore[assignment]


def plan_of(model: nn.Module, shape: tuple[int, ...]) -> Plan:
    """Return the plan of a model for inputs of a shape: (channels, height, width), or (features,).

    Raises
    ------
    NotUnderstoodError
        Naming the layer or what else the kernel does not know.
    """
    if len(shape) not in (1, 3):
        raise NotUnderstoodError(f"inputs have shape {shape}, and are neither images nor vectors")
    parameters = _parameters(model)
    builder = _Builder(parameters, shape)
    root = model if list(model.children()) else nn.Sequential(model)
    try:
        traced = fx.Tracer().trace(root)
    except Exception as error:  # a model's own code may raise anything
        raise NotUnderstoodError(f"the forward pass of {type(model).__name__} cannot be traced ({error})") from error
    _follow(traced, root, builder)
    if builder.image or not builder.lines:
        raise NotUnderstoodError("the model's output is not a vector of logits")
    if any(entry > 1 << 20 for line in builder.lines for entry in line[:12]):
        raise NotUnderstoodError("a layer is too large for small networks")
    return Plan(
        lines=np.array(builder.lines, dtype=np.int64),
        eps=np.array(builder.eps, dtype=np.float64),
        image=len(shape) == 3,
        tensors=tuple((name, tuple(p.shape), p.dtype) for name, p in model.named_parameters()),
    )


def _parameters(model: nn.Module) -> dict[int, int]:
    """Return where each parameter's entries begin, by identity."""
    places: dict[int, int] = {}
    end = 0
    for name, module in model.named_modules():
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            raise NotUnderstoodError(f"{name or 'the model'} has hooks")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise NotUnderstoodError(f"parameter {name} is frozen")
        if parameter._backward_hooks:
            raise NotUnderstoodError(f"parameter {name} has hooks")
        if parameter.device.type != "cpu":
            raise NotUnderstoodError(f"parameter {name} is on {parameter.device}, and the kernel is the CPU's")
        if parameter.dtype not in (torch.float32, torch.float64):
            raise NotUnderstoodError(f"parameter {name} has dtype {parameter.dtype}")
        places[id(parameter)] = end
        end += parameter.numel()
    if len({p.dtype for p in model.parameters()}) != 1:
        raise NotUnderstoodError("the parameters have several dtypes, or there are none")
    return places


def _follow(graph: fx.Graph, model: nn.Module, builder: _Builder) -> None:
    """Add the layers of a traced model: each takes the output of the one before."""
    last: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and last is None:
            last = node
            continue
        named = f"{node.target}" if isinstance(node.target, str) else getattr(node.target, "__name__", "a function")
        if node.op == "output":
            if node.args != (last,):
                raise NotUnderstoodError("the model returns other things than its last layer's output")
            continue
        if len(node.users) != 1 or not node.args or node.args[0] is not last:
            raise NotUnderstoodError(f"its layers are no chain (at {named})")
        if node.op == "call_module":
            builder.module(named, model.get_submodule(str(node.target)))
            if len(node.args) != 1 or node.kwargs:
                raise NotUnderstoodError(f"{named} takes more than the output before it")
        else:
            builder.function(named, node)
        last = node


def _flattens(node: fx.Node) -> bool:
    given = {**dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)), **node.kwargs}
    return given in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1})


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@dataclass
class _Builder:
    """Layers added so far, and the shape that the last one makes."""

    places: dict[int, int]
    shape: tuple[int, ...]
    lines: list[list[int]] = field(default_factory=list)
    eps: list[float] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.image = len(self.shape) == 3
        self.channels, self.height, self.width = self.shape if self.image else (self.shape[0], 1, 1)

    def function(self, named: str, node: fx.Node) -> None:
        """Add a call of a function or a method."""
        relus: tuple[Any, ...] = ("relu",) if node.op == "call_method" else (F.relu, torch.relu)
        flattens: tuple[Any, ...] = ("flatten",) if node.op == "call_method" else (torch.flatten,)
        if node.target in relus and not node.args[1:] and set(node.kwargs) <= {"inplace"}:
            self.relu()
        elif node.target in flattens and _flattens(node):
            self.flatten()
        else:
            raise NotUnderstoodError(f"the function {named} is not among the layers that train together")

    def module(self, named: str, module: nn.Module) -> None:
        """Add a layer of PyTorch's: these, and no classes derived from them."""
        add: Callable[[str, Any], None] | None = {
            nn.Conv2d: self.convolution,
            nn.Linear: self.matrix,
            nn.GroupNorm: self.group_norm,
            nn.LayerNorm: self.layer_norm,
            nn.MaxPool2d: self.pool,
        }.get(type(module))
        if add is not None:
            add(named, module)
        elif type(module) is nn.ReLU:
            self.relu()
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            self.flatten()
        elif not (type(module) is nn.Identity or (type(module) is nn.Dropout and not (module.training and module.p))):
            raise NotUnderstoodError(f"{named} is a {type(module).__name__}, not among the layers that train together")

    def _add(self, kind: int, *, windows: tuple[int, ...] = (0,) * 6, out: int = 0, groups: int = 0, weight: int = -1,
             bias: int = -1, eps: float = 0.0) -> None:  # fmt: skip
        self.lines.append([kind, self.height, self.width, self.channels, *windows, out, groups, weight, bias])
        self.eps.append(eps)

    def _place(self, named: str, parameter: Tensor | None) -> int:
        if parameter is None:
            return -1
        if id(parameter) in self.used:
            raise NotUnderstoodError(f"{named} shares a parameter with another layer")
        self.used.add(id(parameter))
        try:
            return self.places[id(parameter)]
        except KeyError:
            raise NotUnderstoodError(f"{named} computes its parameters") from None

    def _windows(self, named: str, module: Any) -> tuple[int, ...]:
        if not self.image:
            raise NotUnderstoodError(f"{named} takes images, and gets vectors")
        if isinstance(module.padding, str) or _pair(module.dilation) != (1, 1):
            raise NotUnderstoodError(f"{named} has dilation {module.dilation} and padding {module.padding!r}")
        size, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
        return (*size, *stride, *padding)

    def _shrink(self, windows: tuple[int, ...]) -> None:
        self.height = (self.height + 2 * windows[4] - windows[0]) // windows[2] + 1
        self.width = (self.width + 2 * windows[5] - windows[1]) // windows[3] + 1

    def convolution(self, named: str, module: nn.Conv2d) -> None:
        """Add a convolution."""
        if module.groups != 1 or module.padding_mode != "zeros" or module.in_channels != self.channels:
            raise NotUnderstoodError(f"{named} has groups {module.groups}, padding mode {module.padding_mode!r} and "
                                     f"{module.in_channels} input channels")  # fmt: skip
        windows = self._windows(named, module)
        weight, bias = self._place(named, module.weight), self._place(named, module.bias)
        self._add(CONVOLUTION, windows=windows, out=module.out_channels, weight=weight, bias=bias)
        self._shrink(windows)
        self.channels = module.out_channels

    def pool(self, named: str, module: nn.MaxPool2d) -> None:
        """Add max pooling."""
        if module.ceil_mode or module.return_indices:
            raise NotUnderstoodError(f"{named} has ceil_mode or return_indices")
        windows = self._windows(named, module)
        self._add(MAX_POOL, windows=windows)
        self._shrink(windows)

    def matrix(self, named: str, module: nn.Linear) -> None:
        """Add a linear layer."""
        if self.image or module.in_features != self.channels:
            raise NotUnderstoodError(f"{named} is a linear layer of something else than vectors of its length")
        weight, bias = self._place(named, module.weight), self._place(named, module.bias)
        self._add(MATRIX, out=module.out_features, weight=weight, bias=bias)
        self.channels = module.out_features

    def group_norm(self, named: str, module: nn.GroupNorm) -> None:
        """Add group normalisation."""
        self._norm(named, module, module.num_channels == self.channels, module.num_groups)

    def layer_norm(self, named: str, module: nn.LayerNorm) -> None:
        """Add layer normalisation of vectors."""
        self._norm(named, module, not self.image and tuple(module.normalized_shape) == (self.channels,), 1)

    def _norm(self, named: str, module: Any, fits: bool, groups: int) -> None:
        if not fits or not module.eps > 0.0:
            raise NotUnderstoodError(f"{named} normalises something else than its input's channels")
        weight, bias = self._place(named, module.weight), self._place(named, module.bias)
        self._add(NORM, groups=groups, weight=weight, bias=bias, eps=float(module.eps))

    def relu(self) -> None:
        """Add a ReLU."""
        self._add(RELU)

    def flatten(self) -> None:
        """Add what makes vectors of images."""
        if self.image:
            self._add(FLATTEN)
            self.channels, self.height, self.width, self.image = self.channels * self.height * self.width, 1, 1, False
