"""Rules of calls that give a tensor another shape, or put tensors together and apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.torch._axis import Axis, State, merged
from expunge.torch._rule import LIKE, LINEAR, RULES, Call, functions, rule
from expunge.torch._rules_elementwise import broadcast

__all__: list[str] = []

LIKE.update(functions("expand_as view_as reshape_as"))
LINEAR.update(functions("reshape view flatten unflatten squeeze unsqueeze stack"))


@rule("reshape view flatten unflatten ravel reshape_as view_as")
def _reshape(call: Call) -> State:
    if isinstance(call.argument(1, "dtype"), torch.dtype):
        before = call.first
        same = call.outputs[0].shape[:-1] == before.shape[:-1] and call.axis.dim < before.ndim - 1
        return call.axis if same or call.outputs[0].shape == before.shape else call.lost("views other numbers")
    axis = merged(call.first.shape, call.axis, call.batch, call.outputs[0].shape)
    return axis or call.lost(f"splits the batch dimension, to shape {tuple(call.outputs[0].shape)}")


@rule("squeeze")
def _squeeze(call: Call) -> State:
    shape, axis = call.first.shape, call.axis
    dim = call.argument(1, "dim")
    dims = range(len(shape)) if dim is None else (dim,) if isinstance(dim, int) else dim
    if dim is not None and axis.dim in {int(d) % len(shape) for d in dims}:
        return call.lost("drops the batch dimension of a single example: name the dimension that is to go")
    gone = {int(d) % len(shape) for d in dims if shape[int(d)] == 1}
    return axis.at(axis.dim - sum(d < axis.dim for d in gone))


def _squeezed_in_place(call: Call) -> State:
    return call.lost("drops dimensions in place, so that its shape before is not known: use squeeze")


RULES[Tensor.squeeze_] = _squeezed_in_place


@rule("unsqueeze")
def _unsqueeze(call: Call) -> State:
    dim = int(call.argument(1, "dim")) % call.outputs[0].ndim
    return call.axis.at(call.axis.dim + (dim <= call.axis.dim))


@rule("transpose swapaxes swapdims")
def _transpose(call: Call) -> State:
    ndim, index = call.first.ndim, call.axis.dim
    names = ("dim0", "dim1", "axis0", "axis1")
    pair = [int(d) % ndim for d in (*call.args[1:], *(call.kwargs[k] for k in names if k in call.kwargs))]
    return call.axis.at(pair[1] if index == pair[0] else pair[0] if index == pair[1] else index)


@rule("permute")
def _permute(call: Call) -> State:
    dims = call.kwargs.get("dims", call.args[1:])
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return call.axis.at([int(d) % call.first.ndim for d in order].index(call.axis.dim))


@rule("movedim moveaxis")
def _movedim(call: Call) -> State:
    ndim = call.first.ndim
    source, target = call.argument(1, "source"), call.argument(2, "destination")
    sources = [int(d) % ndim for d in ((source,) if isinstance(source, int) else source)]
    targets = [int(d) % ndim for d in ((target,) if isinstance(target, int) else target)]
    order: list[int | None] = [None] * ndim
    for s, t in zip(sources, targets, strict=True):
        order[t] = s
    rest = iter(d for d in range(ndim) if d not in sources)
    return call.axis.at([next(rest) if d is None else d for d in order].index(call.axis.dim))


def _turned(call: Call) -> State:
    return call.axis.at(call.first.ndim - 1 - call.axis.dim)


def _matrix_turned(call: Call) -> State:
    ndim, index = call.first.ndim, call.axis.dim
    return call.axis.at(2 * ndim - 3 - index if index >= ndim - 2 else index)


RULES[Tensor.T.__get__] = _turned  # type: ignore[attr-defined]
for _name in ("H", "mT", "mH"):
    RULES[getattr(Tensor, _name).__get__] = _matrix_turned
rule("t")(_turned)
rule("adjoint")(_matrix_turned)


@rule("expand expand_as broadcast_to")
def _expand(call: Call) -> State:
    before, after = call.first, call.outputs[0]
    index = call.axis.dim + after.ndim - before.ndim
    if after.shape[index] != before.shape[call.axis.dim]:
        return call.lost("expands the batch dimension, of length one")
    return call.axis.at(index)


@rule("repeat tile")
def _repeat(call: Call) -> State:
    before, after, axis = call.first, call.outputs[0], call.axis
    index = axis.dim + after.ndim - before.ndim
    length = before.shape[axis.dim]
    return Axis(index, axis.before * (after.shape[index] // max(length, 1)), axis.after)


@rule("repeat_interleave")
def _interleave(call: Call) -> State:
    times, dim, axis = call.argument(1, "repeats"), call.argument(2, "dim"), call.axis
    if dim is None and call.first.ndim == 1:
        dim = 0
    if not isinstance(times, int) or dim is None:
        return call.lost("repeats rows unequally")
    if int(dim) % call.first.ndim != axis.dim:
        return axis
    return Axis(axis.dim, axis.before, axis.after * times)


def _common(call: Call, tensors: Sequence[Tensor]) -> Axis | None:
    """Return where examples are in all of some tensors, those without any left out; None if they disagree."""
    axes = {state for t in tensors if (state := call.state(t)) is not None}
    return axes.pop() if len(axes) == 1 else None


@rule("stack")
def _stack(call: Call) -> State:
    axis = _common(call, call.first if call.args else call.kwargs["tensors"])
    if axis is None:
        return call.lost("combines batch dimensions at different places")
    dim = int(call.argument(1, "dim", 0)) % call.outputs[0].ndim
    return axis.at(axis.dim + (dim <= axis.dim))


@rule("cat concat concatenate")
def _cat(call: Call) -> State:
    return _together(call, call.argument(1, "dim", call.kwargs.get("axis", 0)))


@rule("hstack")
def _hstack(call: Call) -> State:
    return _together(call, 0 if call.outputs[0].ndim == 1 else 1)


def _together(call: Call, dim: int) -> State:
    tensors = call.first if call.args else call.kwargs["tensors"]
    axis = _common(call, tensors)
    if axis is None:
        return call.lost("combines batch dimensions at different places")
    if int(dim) % call.outputs[0].ndim != axis.dim:
        return axis
    if any(call.state(t) is None for t in tensors):
        return call.lost("adds rows that are not of examples")
    return Axis(axis.dim, axis.before * len(tensors), axis.after)


@rule("chunk split tensor_split split_with_sizes unsafe_chunk unsafe_split unsafe_split_with_sizes")
def _split(call: Call) -> State | list[State]:
    axis = call.axis
    dim = int(call.argument(2, "dim", call.kwargs.get("axis", 0))) % call.first.ndim
    if dim != axis.dim:
        return axis
    return _pieces(call, [t.shape[dim] for t in call.outputs])


def _pieces(call: Call, lengths: Sequence[int]) -> State | list[State]:
    """Return the states of stretches of the batch dimension: whole rounds of all examples, or lost."""
    axis = call.axis
    round_ = call.batch * axis.after
    if round_ and all(length and length % round_ == 0 for length in lengths):
        return [Axis(axis.dim, length // round_, axis.after) for length in lengths]
    return call.lost("takes the batch dimension apart")


@rule("unbind")
def _unbind(call: Call) -> State:
    dim = int(call.argument(1, "dim", 0)) % call.first.ndim
    if dim == call.axis.dim:
        return call.lost("takes the batch dimension apart")
    return call.axis.at(call.axis.dim - (dim < call.axis.dim))


@rule("select")
def _select(call: Call) -> State:
    dim = int(call.argument(1, "dim")) % call.first.ndim
    if dim == call.axis.dim:
        return call.lost("takes the batch dimension apart")
    return call.axis.at(call.axis.dim - (dim < call.axis.dim))


@rule("narrow")
def _narrow(call: Call) -> State | list[State]:
    dim = int(call.argument(1, "dim")) % call.first.ndim
    if dim != call.axis.dim:
        return call.axis
    start, length = call.argument(2, "start"), int(call.argument(3, "length"))
    if int(start) % max(call.batch * call.axis.after, 1):
        return call.lost("takes the batch dimension apart")
    return _pieces(call, [length])


def _windows(call: Call) -> State:
    if int(call.argument(1, "dimension", call.kwargs.get("dim", 0))) % call.first.ndim == call.axis.dim:
        return call.lost("works along the batch dimension")
    return call.axis


RULES[Tensor.unfold] = _windows


def _last_added(call: Call) -> State:
    return call.axis


def _last_gone(call: Call) -> State:
    return call.axis if call.axis.dim < call.first.ndim - 1 else call.lost("takes the batch dimension for parts")


rule("view_as_real")(_last_added)
rule("view_as_complex")(_last_gone)


@rule("broadcast_tensors")
def _broadcast_tensors(call: Call) -> State:
    return broadcast(call, call.outputs[0])
