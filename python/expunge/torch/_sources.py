"""Sources of tensors used as parameters: a strided view of a parameter, or a computation from some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Derived",
    "Made",
    "ParameterView",
    "RefusalError",
    "Views",
    "layout_overlaps",
    "map_tensors",
    "tensors_in",
]


class RefusalError(Exception):
    """Reason why the norm of a parameter cannot be given; becomes an `UnsupportedLayerError` that names it."""


def tensors_in(*containers: Any) -> list[Tensor]:
    """Return the tensors in arguments or results, looking into lists, tuples and dicts."""
    found: list[Tensor] = []
    _collect(containers, found)
    return found


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            if type(value) is not torch.Size:
                _collect(value, found)
        elif isinstance(value, dict):
            _collect(value.values(), found)


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Return ``value`` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)) and type(value) is not torch.Size:
        found = [map_tensors(change, v) for v in value]
        make = getattr(value, "_make", type(value))  # of a named tuple
        return make(found)
    if isinstance(value, dict):
        return {k: map_tensors(change, v) for k, v in value.items()}
    return value


def layout_overlaps(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two entries may share a place in memory (sufficient, not necessary)."""
    reach = 1
    for step, length in sorted((s, n) for s, n in zip(stride, size, strict=True) if n > 1):
        if step < reach:
            return True
        reach = step * (length - 1) + reach
    return False


Leaves = Sequence[Tensor] | dict[int, Tensor]  # by the number of the parameter


class ParameterView(NamedTuple):
    """A strided view that covers places in a parameter's memory, counted from the parameter's first entry."""

    key: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    span: int  # places that the whole parameter spans

    @property
    def roots(self) -> tuple[int, ...]:
        """Return the parameters it comes from."""
        return (self.key,)

    def at(self, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> ParameterView:
        """Return another view of the same parameter."""
        return self._replace(size=size, stride=stride, offset=offset)

    def apart(self, other: ParameterView) -> bool:
        """Whether the views lie in separate stretches of memory (sufficient, not necessary)."""
        ends = [v.offset + sum(s * (n - 1) for s, n in zip(v.stride, v.size, strict=True)) for v in (self, other)]
        return ends[0] < other.offset or ends[1] < self.offset

    def build(self, leaves: Leaves) -> Tensor:
        """Return the view of the leaf that stands for the parameter."""
        leaf = leaves[self.key]
        if self.size == tuple(leaf.shape) and self.stride == leaf.stride() and self.offset == 0:
            return leaf
        return leaf.as_strided(self.size, self.stride, leaf.storage_offset() + self.offset)


class Views(dict[int, ParameterView]):
    """The whole of every parameter, by key, as asked for."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.parameters = parameters

    def __missing__(self, key: int) -> ParameterView:
        size, stride = tuple(self.parameters[key].shape), self.parameters[key].stride()
        span = 1 + sum(s * (n - 1) for s, n in zip(stride, size, strict=True))
        self[key] = ParameterView(key, size, stride, 0, max(span, 0))
        return self[key]


Made = dict[int, tuple[Any, list[Tensor]]]  # the results of calls, by the id of the call, which is kept


class Derived:
    """A tensor computed from parameters by a call that involves no example.

    ``writes`` says that the call writes into an argument made of parameters.
    """

    def __init__(
        self,
        call: tuple[Any, tuple[Any, ...], dict[str, Any]],
        inputs: Mapping[int, ParameterView | Derived],
        which: int,
        value: Tensor,
        views: Mapping[int, ParameterView],
        leaves: Callable[[], dict[int, Tensor]],
        *,
        writes: bool = False,
    ) -> None:
        self.call, self.inputs, self.which, self.writes = call, inputs, which, writes
        self.value, self.version = value.detach(), value._version
        self.size = tuple(value.shape)
        self.roots: tuple[int, ...] = tuple(sorted({root for source in inputs.values() for root in source.roots}))
        self.views = views
        self.leaves = leaves
        self.looked_up: tuple[ParameterView, Tensor, int | None] | None = None  # a table, rows of it, padding
        self.rebuilt: tuple[dict[int, Tensor], Tensor] | None = None

    def build(self, leaves: Leaves, made: Made | None = None) -> Tensor:
        """Return the tensor computed again from the leaves that stand for the parameters.

        Calls already in ``made`` are not made again, and others are entered there.
        """
        made = {} if made is None else made
        waiting = [self]
        while waiting:
            node = waiting[-1]
            if id(node.call) in made:
                waiting.pop()
                continue
            first = [d for d in node.inputs.values() if isinstance(d, Derived) and id(d.call) not in made]
            if first:
                waiting.extend(first)
                continue
            made[id(node.call)] = (node.call, node._called(leaves, made))
            waiting.pop()
        return made[id(self.call)][1][self.which]

    def _called(self, leaves: Leaves, made: Made) -> list[Tensor]:
        function, args, kwargs = self.call

        def stand_in(tensor: Tensor) -> Tensor:
            source = self.inputs.get(id(tensor))
            if source is None:
                return tensor
            built = made[id(source.call)][1][source.which] if isinstance(source, Derived) else source.build(leaves)
            return built.clone() if self.writes else built

        found = function(*map_tensors(stand_in, args), **map_tensors(stand_in, kwargs))
        return tensors_in(found)

    def pull(self, view: ParameterView, grads: Tensor) -> Tensor:
        """Return per-example gradients with respect to a whole parameter from those with respect to this tensor."""
        if self.rebuilt is None:
            with torch.enable_grad():
                leaves = self.leaves()
                self.rebuilt = (leaves, self.build(leaves))
        leaves, value = self.rebuilt
        if not torch.equal(value.detach(), self.value):
            raise RefusalError(
                "computing again what was made of it outside any example gave another value (dropout, or a change in "
                "place)"
            )
        leaf = leaves[view.key]
        out = torch.empty(grads.shape[0], *view.size, dtype=torch.float64, device=grads.device)
        for i in range(grads.shape[0]):
            found = torch.autograd.grad(value, leaf, grads[i].to(value.dtype), retain_graph=True, allow_unused=True)[0]
            out[i] = 0.0 if found is None else found.to_dense() if found.is_sparse else found
        return out
