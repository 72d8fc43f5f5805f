"""Rules of calls of linear algebra that batch over leading dimensions, of diagonals, and of windows of signals."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.torch._axis import Axis, State
from expunge.torch._rule import RULES, Call, rule
from expunge.torch._rules_elementwise import broadcast

__all__: list[str] = []

_OVER = "adds products up over the batch dimension"


def _pair(call: Call, first: int, second: int) -> tuple[int, int]:
    """Return the two dimensions of a diagonal, counted in the tensor that has both."""
    ndim = max(call.first.ndim, call.outputs[0].ndim)
    return int(call.argument(2, "dim1", first)) % ndim, int(call.argument(3, "dim2", second)) % ndim


@rule("diagonal")
def _diagonal(call: Call) -> State:
    one, two = _pair(call, 0, 1)
    axis = call.axis
    if axis.dim in (one, two):
        return call.lost("takes a diagonal over the batch dimension")
    return axis.at(axis.dim - (one < axis.dim) - (two < axis.dim))


@rule("diag_embed")
def _diag_embed(call: Call) -> State:
    one, two = _pair(call, -2, -1)
    axis = call.axis
    if axis.dim == call.first.ndim - 1:
        return call.lost("puts the batch dimension on a diagonal")
    places = [d for d in range(call.outputs[0].ndim) if d not in (one, two)]
    return axis.at(places[axis.dim])


@rule("tensordot")
def _tensordot(call: Call) -> State:
    left, right, dims = call.argument(0, "a"), call.argument(1, "b"), call.argument(2, "dims", 2)
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    over: list[list[int]]
    if isinstance(dims, int):
        over = [list(range(left.ndim - dims, left.ndim)), list(range(dims))]
    else:
        given = [[d] if isinstance(d, int) else list(d) for d in dims]
        over = [[d % t.ndim for d in part] for part, t in zip(given, (left, right), strict=True)]
    found = []
    for which, tensor in enumerate((left, right)):
        axis = call.state(tensor)
        if axis is None:
            continue
        if axis.dim in over[which]:
            return call.lost(_OVER)
        kept = [d for d in range(tensor.ndim) if d not in over[which]]
        found.append(axis.at(kept.index(axis.dim) + (left.ndim - len(over[0]) if which else 0)))
    if len(found) != 1:
        return call.lost("combines batch dimensions at different places")
    return found[0]  # type: ignore[no-any-return]


@rule("inner")
def _inner(call: Call) -> State:
    left, right = call.first, call.argument(1, "other")
    if not left.ndim or not right.ndim:  # a product with a number
        return broadcast(call, call.outputs[0])
    found = []
    for which, tensor in enumerate((left, right)):
        axis = call.state(tensor)
        if axis is None:
            continue
        if axis.dim == tensor.ndim - 1:
            return call.lost(_OVER)
        found.append(axis.at(axis.dim + (left.ndim - 1 if which else 0)))
    return found[0] if len(found) == 1 else call.lost("combines batch dimensions at different places")


def _solve(call: Call) -> State:
    """Solve systems (..., n, n) X = (..., n, k): batched over leading dimensions, columns apart."""
    system, right = call.argument(0, "A"), call.argument(1, "B")
    if call.kwargs.get("left") is False or right.ndim < 2 or system.ndim < 2:
        return call.lost("solves systems in a way that is not understood")
    if right.ndim == system.ndim - 1 and right.shape == system.shape[:-1]:
        return call.lost("may take a batch of vectors for a matrix: give it a last dimension of one")
    output, found = call.outputs[0], set()
    for tensor, axis in call.states:
        assert isinstance(axis, Axis)
        if axis.dim == tensor.ndim - 2 or (axis.dim == tensor.ndim - 1 and tensor is system):
            return call.lost("solves systems over the batch dimension")
        index = axis.dim + output.ndim - tensor.ndim
        if output.shape[index] != tensor.shape[axis.dim]:
            return call.lost("broadcasts the batch dimension, of length one, to another")
        found.add(axis.at(index))
    return found.pop() if len(found) == 1 else call.lost("combines batch dimensions at different places")


RULES[torch.linalg.solve] = _solve


@rule("stft")
def _stft(call: Call) -> State:
    axis = call.axis
    if call.first.ndim != 2 or axis.dim != 0:
        return call.lost("works along the batch dimension")
    return axis


@rule("searchsorted")
def _searchsorted(call: Call) -> State:
    edges, values = call.argument(0, "sorted_sequence"), call.argument(1, "self", call.kwargs.get("input"))
    if len(call.states) != 1 or call.states[0][0] is not values or edges.ndim != 1:
        return call.lost("takes examples for the edges, or edges of different rows")
    return call.states[0][1]
