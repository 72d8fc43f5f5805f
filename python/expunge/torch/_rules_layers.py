"""Rules of the functions that layers are made of: convolutions, pooling, normalisation, tables, recurrent cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, State
from expunge.torch._rule import RULES, Call, rule

__all__: list[str] = []


def _leading(names: str, last: int | Callable[[Call], int], homes: Any = None) -> None:
    """Enter calls that work on the last dimensions and treat everything in front separately."""

    def work(call: Call) -> State:
        axis = call.axis
        count = last if isinstance(last, int) else last(call)
        if axis.dim >= call.first.ndim - count:
            return call.lost("works over the batch dimension")
        return axis

    rule(names, **({"homes": homes} if homes else {}))(work)


for _n in (1, 2, 3):
    _leading(
        " ".join(
            f"{kind}_pool{_n}d{more}"
            for kind in ("avg", "max", "lp", "adaptive_avg", "adaptive_max", "fractional_max")
            for more in ("", "_with_indices")
        ),
        _n,
    )
_leading("tril triu det logdet slogdet inverse cholesky matrix_exp", 2)
_leading("inv det slogdet cholesky qr svd svdvals eigh eigvalsh eig matrix_exp pinv", 2, (torch.linalg,))
_leading("pixel_shuffle pixel_unshuffle", 3)
_leading("layer_norm rms_norm", lambda call: len(tuple(call.argument(1, "normalized_shape"))))


@rule("pad constant_pad_nd")
def _pad(call: Call) -> State:
    widths, axis = call.argument(1, "pad"), call.axis
    place = 2 * (call.first.ndim - 1 - axis.dim)  # pairs go from the last dimension backwards
    if any(width != 0 for width in widths[place : place + 2]):
        return call.lost("works over the batch dimension")
    return axis


def _in_front(names: str, ndims: tuple[int, ...] | None = None, homes: Any = None) -> None:
    """Enter calls that take examples in the leading dimension of their first argument, and nowhere else."""

    def work(call: Call) -> State:
        axis = call.axis
        if axis.dim != 0 or (ndims is not None and call.first.ndim not in ndims):
            return call.lost("takes examples only in the leading dimension")
        return axis

    rule(names, **({"homes": homes} if homes else {}))(work)


_in_front("group_norm", None)
_in_front("instance_norm local_response_norm channel_shuffle native_channel_shuffle")
_in_front("unfold", (4,), (F, torch._C._nn))
_in_front("im2col", (4,))
_in_front("fold col2im", (3,))


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _convolution(call: Call) -> State:
    x, weight = call.first, call.argument(1, "weight")
    axis = call.state(x)
    if axis is not None and axis.dim == 1 and x.ndim == weight.ndim and "transpose" not in call.name:
        return _in_groups(call, axis, weight)
    if call.axis.dim != 0 or x.ndim != weight.ndim:
        return call.lost("takes examples only in the leading dimension")
    return call.axis


def _in_groups(call: Call, axis: Axis, weight: Tensor) -> State:
    """Follow examples among the channels: no group of channels spans two, and each has kernels of its own example."""
    seen, made = weight.shape[1], weight.shape[0]  # channels a kernel sees, channels that all groups make
    if axis.after % seen:
        return call.lost("has a group of channels that spans several examples")
    behind = made // (axis.before * call.batch)
    own = Axis(0, axis.before, behind)
    bias = call.argument(2, "bias")
    if call.state(weight) != own or (bias is not None and call.state(bias) != own):
        return call.lost("has kernels that are not those of each channel's example")
    return Axis(1, axis.before, behind)


@rule("interpolate upsample upsample_nearest upsample_bilinear")
def _interpolate(call: Call) -> State:
    return call.axis if call.axis.dim < 2 else call.lost("works over the batch dimension")


@rule("grid_sample affine_grid")
def _grid(call: Call) -> State:
    return call.rows


@rule("batch_norm")
def _batch_norm(call: Call) -> State:
    training = call.kwargs.get("training", call.args[5] if len(call.args) > 5 else False)
    if training or call.argument(1, "running_mean") is None:
        return call.lost("normalises over the batch")
    return call.axis if call.axis.dim != 1 else call.lost("has constants for every example")


@rule("one_hot")
def _one_hot(call: Call) -> State:
    if int(call.argument(1, "num_classes", -1)) < 0:
        return call.lost("counts classes over the batch: give num_classes")
    return call.axis


def _table(call: Call, indices: Any) -> State:
    if len(call.states) != 1 or call.states[0][0] is not indices:
        return call.lost("took examples for the rows of its table")
    return call.states[0][1]


RULES[F.embedding] = lambda call: _table(call, call.argument(0, "input"))
RULES[torch.embedding] = lambda call: _table(call, call.argument(1, "indices"))
RULES[torch.bucketize] = lambda call: _table(call, call.argument(0, "input"))


def _bag(call: Call) -> State:
    indices, offsets = call.argument(0, "input"), call.argument(2, "offsets")
    if offsets is not None or indices.ndim != 2:
        return call.lost("takes examples in the leading dimension of two alone")
    weights = call.kwargs.get("per_sample_weights")
    if any(t is not indices and t is not weights for t, _ in call.states):
        return call.lost("took examples for the rows of its table")
    return call.rows


RULES[F.embedding_bag] = _bag


@rule("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", homes=(torch,))
def _cell(call: Call) -> State:
    if any(t is w for t, _ in call.states for w in call.args[2:]):
        return call.lost("took examples for its weights")
    return call.rows if all(t.ndim == 2 for t in call.outputs) else call.lost("takes two dimensions")


def _recurrent(call: Call) -> State | list[State]:
    """Follow a whole layer: sequences with the batch as batch_first says, states with the batch in dimension 1."""
    args = call.args
    if len(args) != 9 or call.kwargs or not isinstance(args[3], bool):
        return call.lost("on packed sequences is not understood")
    place = 0 if args[8] else 1
    states = list(args[1]) if isinstance(args[1], (tuple, list)) else [args[1]]
    axes = set()
    for tensor, state in call.states:
        wanted = place if tensor is args[0] else 1 if any(tensor is s for s in states) else None
        if not isinstance(state, Axis) or state.dim != wanted or tensor.ndim != 3:
            return call.lost("takes the batch in another dimension: use batch_first=True")
        axes.add(state.at(0))
    axis = axes.pop()
    if axes:
        return call.lost("combines batch dimensions at different places")
    return [axis.at(place), *[axis.at(1)] * (len(call.outputs) - 1)]


for _name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    RULES[getattr(torch, _name)] = _recurrent
