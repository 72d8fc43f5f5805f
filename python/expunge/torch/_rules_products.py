"""Rules of matrix products, attention and everything else that adds products up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, Lost, State
from expunge.torch._rule import RULES, Call, rule

__all__: list[str] = []

_OVER = "adds products up over the batch dimension"


def _factor(call: Call, tensor: Tensor, other: Tensor, output: Tensor, *, left: bool) -> State | None:
    """Return where the examples of one factor of a matrix product are in the product."""
    axis = call.state(tensor)
    if axis is None:
        return None
    contracted = max(tensor.ndim - 1 if left else tensor.ndim - 2, 0)
    if axis.dim == contracted:
        return call.lost(_OVER)
    matrix = tensor.ndim - 2
    if axis.dim < matrix:  # one of the leading axes, which are broadcast together
        leading = max(tensor.ndim, other.ndim) - 2
        index = leading - matrix + axis.dim
        if output.shape[index] != tensor.shape[axis.dim]:
            return call.lost("broadcasts the batch dimension, of length one, to another")
        return axis.at(index)
    if left:
        return axis.at(output.ndim - (1 if other.ndim == 1 else 2))
    return axis.at(output.ndim - 1)


def _product(call: Call, left: Any, right: Any, added: Any = None) -> State:
    output = call.outputs[0]
    found = [_factor(call, left, right, output, left=True)]
    if right is not left:
        found.append(_factor(call, right, left, output, left=False))
    else:
        found.append(_factor(call, right, left, output, left=False))
    if added is not None and (axis := call.state(added)) is not None:
        index = axis.dim + output.ndim - added.ndim
        same = output.shape[index] == added.shape[axis.dim]
        found.append(axis.at(index) if same else call.lost("broadcasts the batch dimension, of length one, to another"))
    states = [state for state in found if state is not None]
    lost = next((state for state in states if isinstance(state, Lost)), None)
    if lost is not None:
        return lost
    if any(state != states[0] for state in states):
        return call.lost("combines batch dimensions at different places")
    return states[0]


@rule("matmul bmm mm mv __matmul__ linalg_matmul")
def _matmul(call: Call) -> State:
    return _product(call, call.first, call.args[1] if len(call.args) > 1 else _second(call))


def _second(call: Call) -> Any:
    return next(call.kwargs[name] for name in ("other", "mat2", "vec") if name in call.kwargs)


RULES[torch.linalg.matmul] = _matmul


def _swapped(call: Call) -> State:
    return _product(call, call.args[1], call.args[0])


RULES[Tensor.__rmatmul__] = _swapped


@rule("addmm baddbmm addmv")
def _added(call: Call) -> State:
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}
    first, second = names[call.name.rstrip("_")]
    return _product(call, call.argument(1, first), call.argument(2, second), call.first)


@rule("linear")
def _linear(call: Call) -> State:
    axis = call.axis
    return call.lost(_OVER) if axis.dim == call.first.ndim - 1 else axis


@rule("bilinear")
def _bilinear(call: Call) -> State:
    pair = (call.argument(0, "input1"), call.argument(1, "input2"))
    if any(not any(t is one for one in pair) for t, _ in call.states):
        return call.lost("took examples for its weight")
    axes = {state for _, state in call.states}
    axis = axes.pop()
    if axes or not isinstance(axis, Axis) or axis.dim == pair[0].ndim - 1:
        return call.lost(_OVER)
    return axis


@rule("einsum")
def _einsum(call: Call) -> State:
    equation = call.argument(0, "equation")
    operands: Any = call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = operands[0]
    if not isinstance(equation, str):
        return call.lost("is written without letters")
    taken, arrow, given = equation.replace(" ", "").partition("->")
    terms = taken.split(",")
    if len(terms) != len(operands) or ("." in equation and not arrow):
        return call.lost("is written without an arrow")
    if "." in equation:  # dimensions without a name, broadcast together: letters from the last backwards
        counts = [t.ndim - len(letters.replace(".", "")) for letters, t in zip(terms, operands, strict=True)]
        most = max((n for n, letters in zip(counts, terms, strict=True) if "." in letters), default=0)
        extra = "".join(chr(0x3B1 + k) for k in range(most))
        terms = [letters.replace("...", extra[most - n :]) for n, letters in zip(counts, terms, strict=True)]
        given = given.replace("...", extra)
    if not arrow:
        letters = taken.replace(",", "")
        given = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    found = set()
    for letters, operand in zip(terms, operands, strict=True):
        axis = call.state(operand)
        if axis is None:
            continue
        letter = letters[axis.dim]
        if letters.count(letter) != 1:
            return call.lost("takes a diagonal over the batch dimension")
        if given.count(letter) != 1:
            return call.lost(_OVER)
        if call.outputs[0].shape[given.index(letter)] != operand.shape[axis.dim]:
            return call.lost("broadcasts the batch dimension, of length one, to another")
        found.add(axis.at(given.index(letter)))
    if len(found) == 1:
        return found.pop()
    return call.lost("combines batch dimensions at different places")


@rule("cdist")
def _cdist(call: Call) -> State:
    first, second = call.argument(0, "x1"), call.argument(1, "x2")
    if first is second:
        return _both(call, first)
    return _product(call, first, second.transpose(-1, -2)) if call.state(second) is None else _cdist_of_both(call)


def _both(call: Call, tensor: Tensor) -> State:
    axis = call.axis
    return axis if axis.dim < tensor.ndim - 2 else call.lost("takes distances between examples")


def _cdist_of_both(call: Call) -> State:
    output = call.outputs[0]
    found = set()
    for which, tensor in enumerate((call.argument(0, "x1"), call.argument(1, "x2"))):
        axis = call.state(tensor)
        if axis is None:
            continue
        if axis.dim == tensor.ndim - 1:
            return call.lost(_OVER)
        row = axis.dim == tensor.ndim - 2
        index = output.ndim - 2 + which if row else axis.dim + output.ndim - tensor.ndim
        if output.shape[index] != tensor.shape[axis.dim]:
            return call.lost("broadcasts the batch dimension, of length one, to another")
        found.add(axis.at(index))
    return found.pop() if len(found) == 1 else call.lost("takes distances between examples")


def _attention(call: Call) -> State:
    output = call.outputs[0]
    found = set()
    for tensor, axis in call.states:
        assert isinstance(axis, Axis)
        if axis.dim >= tensor.ndim - 2:
            return call.lost("attends over the batch dimension")
        index = axis.dim + output.ndim - tensor.ndim
        if index < 0 or output.shape[index] != tensor.shape[axis.dim]:
            return call.lost("broadcasts the batch dimension, of length one, to another")
        found.add(axis.at(index))
    return found.pop() if len(found) == 1 else call.lost("combines batch dimensions at different places")


RULES[F.scaled_dot_product_attention] = _attention


def _multi_head(call: Call) -> Sequence[State]:
    """Attention as the layer calls it: (positions, examples, width), weights with the examples in front.

    A mask of its own for every head has heads merged behind the examples.
    """
    names = ("query", "key", "value")
    query = call.argument(0, "query")
    three = [call.argument(k, name) for k, name in enumerate(names)]
    axis = next((state for t in three if (state := call.state(t)) is not None), None)
    heads = call.argument(4, "num_heads")
    lost = [call.lost("attends over the batch dimension: use batch_first=True")] * len(call.outputs)
    if axis is None or axis.dim != 1 or query.ndim != 3:
        return lost
    places = {
        **dict.fromkeys((id(t) for t in three), axis),
        id(call.argument(14, "key_padding_mask")): axis.at(0),
        id(call.argument(16, "attn_mask")): Axis(0, axis.before, axis.after * heads),
    }
    if any(places.get(id(tensor)) != state for tensor, state in call.states):
        return lost
    return [axis, *[axis.at(0)] * (len(call.outputs) - 1)]


RULES[F.multi_head_attention_forward] = _multi_head
