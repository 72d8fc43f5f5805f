"""How the torch functions that layers are made of use their parameters.

Each handler makes the call with stand-ins, and says what the parameters' per-example gradients are made of once the
gradient of the output is known. What a handler does not understand it passes on unfollowed, which refuses the norm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import WHOLE, Axis, Rows
from expunge.torch._bags import bag_of_rows
from expunge.torch._contributions import BroadcastUse, ConvUse, MatrixUse, RowsUse, Use
from expunge.torch._derived import derive
from expunge.torch._handler import Args, Handler, Kwargs, bound, leading_wanted, pair
from expunge.torch._images import images_of, side_by_side
from expunge.torch._in_place import data_set
from expunge.torch._normalisations import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from expunge.torch._passes import backward, gradient_of, post_accumulate_hook, tensor_hook
from expunge.torch._plain import plain_classes, plain_entries, plain_linear, plain_sum, plain_total
from expunge.torch._recurrent import one_step, recurrent
from expunge.torch._replay import replay
from expunge.torch._sources import Derived, ParameterView
from expunge.torch._tracker import Tracker
from expunge.torch._unchecked import unchecked

__all__ = ["HANDLERS"]


def _linear(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("input weight bias", args, kwargs)
    return _affine(tracker, function, args, kwargs, given["input"], given["weight"], given.get("bias"), rows_out=True)


def _matmul(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    if len(args) != 2 or kwargs:
        return replay(tracker, function, args, kwargs)
    left, right = args if getattr(function, "__name__", "") != "__rmatmul__" else args[::-1]
    return _affine(tracker, function, args, kwargs, left, right, None, rows_out=False)


def _addmm(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    if len(args) != 3 or kwargs:
        return replay(tracker, function, args, kwargs)
    return _affine(tracker, function, args, kwargs, args[1], args[2], args[0], rows_out=False)


def _affine(
    tracker: Tracker, function: Any, args: Args, kwargs: Kwargs, x: Any, weight: Any, bias: Any, *, rows_out: bool
) -> Any:
    matrix, vector = tracker.source_of(weight), tracker.source_of(bias)
    plain_bias = bias is None or (isinstance(bias, Tensor) and bias.ndim == 1)
    if tracker.source_of(x) is not None or not isinstance(x, Tensor) or not plain_bias or weight.ndim > 2:
        return replay(tracker, function, args, kwargs)
    arrange = tracker.arrangement(x)
    if not isinstance(arrange, str) and (getattr(tracker.axes.get(x), "dim", -1) == x.ndim - 1):
        arrange = f"it adds up over the batch dimension of its input, of shape {tuple(x.shape)}"
    if isinstance(arrange, str):
        return tracker.unfollowed(function, args, kwargs, arrange)
    output = tracker.run(function, args, kwargs)
    held = x.detach()

    def finish(grad: Tensor) -> list[Use]:
        g = arrange(grad if weight.ndim == 2 else grad[..., None])
        uses: list[Use] = []
        if matrix is not None:
            inputs = arrange(held)
            inputs = inputs if inputs.dtype == g.dtype else inputs.to(g.dtype)
            uses.append(
                MatrixUse(matrix, tracker.threads, *((g, inputs) if rows_out and weight.ndim == 2 else (inputs, g)))
            )
        if vector is not None:
            uses.append(BroadcastUse(vector, tracker.threads, g))
            if rows_out and weight.ndim == 2:
                pair(uses)
        return uses

    tracker.record(output, [s for s in (matrix, vector) if s is not None], finish, [x] if matrix is not None else [])
    return output


def _convolution(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("input weight bias stride padding dilation groups", args, kwargs)
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    kernel, vector = tracker.source_of(weight), tracker.source_of(bias)
    if tracker.source_of(x) is not None or x.ndim != weight.ndim:
        return replay(tracker, function, args, kwargs)
    axis, refusal = tracker.axes.get(x), tracker.arrangement(x)
    if isinstance(refusal, str) or not isinstance(axis, (Axis, Rows)) or axis.dim > 0:
        reason = refusal if isinstance(refusal, str) else leading_wanted(tracker, x)
        return tracker.unfollowed(function, args, kwargs, reason)
    arrange = partial(images_of, axis=axis, batch=tracker.axes.batch or 0)
    axes = x.ndim - 2
    settings: dict[str, Any] = {}
    for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)):
        value = given.get(name, default)
        several = isinstance(value, (tuple, list))
        settings[name] = (
            value if isinstance(value, (int, str)) else tuple(value) * (axes if several and len(value) == 1 else 1)
        )
    settings["groups"] = given.get("groups", 1)
    output = tracker.run(function, args, kwargs)
    held = x.detach()

    def finish(grad: Tensor) -> list[Use]:
        images, g, how = side_by_side(arrange(held), arrange(grad), tuple(weight.shape[2:]), settings)
        uses: list[Use] = []
        if kernel is not None:
            uses.append(ConvUse(kernel, tracker.threads, images, g, how))
        if vector is not None:
            uses.append(BroadcastUse(vector, tracker.threads, g, channels=True))
            pair(uses)
        return uses

    tracker.record(output, [s for s in (kernel, vector) if s is not None], finish, [x] if kernel is not None else [])
    return output


def _embedding(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    if function is F.embedding:
        names = "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse"
    else:
        names = "weight input padding_idx scale_grad_by_freq sparse"
    given = bound(names, args, kwargs)
    indices, weight, padding = given["input"], given["weight"], given.get("padding_idx")
    table = tracker.source_of(weight)
    if table is None:
        return tracker.unfollowed(function, args, kwargs, "it was used as the indices of an embedding")
    if given.get("scale_grad_by_freq"):
        reason = "scale_grad_by_freq=True makes the gradient of one example depend on the others"
        return tracker.unfollowed(function, args, kwargs, reason)
    if padding is not None and padding < 0:
        padding = weight.shape[0] + padding if function is F.embedding else None
    if not tracker.tracked([indices, weight]):  # positions, say: rows that do not depend on examples
        rows = derive(tracker, function, args, kwargs)
        derived = tracker.source_of(rows)
        if isinstance(derived, Derived) and isinstance(table, ParameterView):
            derived.looked_up = (table, indices, padding)
        return rows
    if tracker.axes.get(indices) is None:
        return replay(tracker, function, args, kwargs)
    arrange = tracker.arrangement(indices)
    if isinstance(arrange, str) or indices.ndim < 1:
        return tracker.unfollowed(function, args, kwargs, arrange if isinstance(arrange, str) else "one index")
    output = tracker.run(function, args, kwargs)
    held = indices.detach()

    def finish(grad: Tensor) -> list[Use]:
        rows, g = arrange(held), arrange(grad)
        return [RowsUse(table, tracker.threads, rows, g, padding)]

    tracker.record(output, [table], finish, [indices])
    return output


def _broadcast(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    """Addition to, or product with, every example."""
    if len(args) != 2 or kwargs or not all(isinstance(a, Tensor) for a in args):
        return replay(tracker, function, args, kwargs)
    sources = [tracker.source_of(a) for a in args]
    if all(s is not None for s in sources) or all(tracker.axes.get(a) is None for a in args):
        return replay(tracker, function, args, kwargs)
    which = 0 if sources[0] is not None else 1
    source, x = sources[which], args[1 - which]
    assert source is not None
    product = "mul" in function.__name__
    size = source.size
    axis, arrange = tracker.axes.get(x), tracker.arrangement(x)
    if isinstance(arrange, str) or not isinstance(axis, Axis) or axis.dim > 0:
        return replay(tracker, function, args, kwargs)
    if isinstance(source, Derived) and source.looked_up is not None and not product and x.ndim > 1:
        if size[-1] != x.shape[-1] or torch.broadcast_shapes(size, x.shape) != x.shape:
            return replay(tracker, function, args, kwargs)
        return _rows_added(tracker, function, args, x, source, arrange)
    if axis == WHOLE:
        arrange = _in_front
    spans = len(size) < x.ndim or (len(size) == x.ndim and (axis == WHOLE or (size[0] == 1 and axis.plain)))
    if not spans or torch.broadcast_shapes(size, x.shape) != x.shape:
        return replay(tracker, function, args, kwargs)
    output = tracker.run(function, args, kwargs)
    held = x.detach() if product else None

    def finish(grad: Tensor) -> list[Use]:
        factor = None if held is None else arrange(held)
        return [BroadcastUse(source, tracker.threads, arrange(grad), factor=factor)]

    tracker.record(output, [source], finish, [x] if product else [])
    return output


def _rows_added(
    tracker: Tracker, function: Any, args: Args, x: Tensor, source: Derived, arrange: Callable[[Tensor], Tensor]
) -> Any:
    """Add rows of a table that do not depend on examples: a look-up of its own for every example."""
    assert source.looked_up is not None
    table, indices, padding = source.looked_up
    output = tracker.run(function, args, {})
    held, shape = indices.detach(), x.shape[:-1]

    def finish(grad: Tensor) -> list[Use]:
        return [RowsUse(table, tracker.threads, arrange(held.expand(shape)), arrange(grad), padding)]

    tracker.record(output, [table], finish, [indices])
    return output


def _in_front(tensor: Tensor) -> Tensor:
    return tensor[None]


_attention_inside = unchecked(F.multi_head_attention_forward)


def _attention(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("query key value", args, kwargs)
    three = [given[name] for name in ("query", "key", "value")]
    axis = next((found for t in three if (found := tracker.axes.get(t)) is not None), None)
    if (
        not isinstance(axis, Axis)
        or axis.dim not in (1, WHOLE.dim)
        or any(t.ndim != 3 or tracker.axes.get(t) not in (axis, None) for t in three)
    ):
        reason = "its attention layer does not have the batch in the leading dimension: use batch_first=True"
        return tracker.unfollowed(function, args, kwargs, reason)
    # Learned queries, say, repeated for every example: dimension 1 is the batch's here, whatever it is elsewhere.
    met: dict[int, Tensor] = {}
    for tensor in three:
        if tracker.axes.get(tensor) is None:
            met.setdefault(id(tensor), tracker.joined(tensor, axis))
    query, key, value = (met.get(id(t), t) for t in three)
    rest = {k: v for k, v in kwargs.items() if k not in ("query", "key", "value")}
    with tracker.mode:
        return _attention_inside(query, key, value, *args[3:], **rest)


_BROADCASTS = [
    torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__,
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__,
    torch.multiply, Tensor.multiply,
]  # fmt: skip
_MATMULS = [torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.mm, Tensor.mm]

_ENTRY_BY_ENTRY = (
    F.relu, torch.relu, F.gelu, F.silu, F.elu, F.leaky_relu, F.dropout, torch.tanh, torch.sigmoid
)  # fmt: skip


def _of_parameters(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    embeds = function in (F.embedding, torch.embedding)
    return (_embedding if embeds else derive)(tracker, function, args, kwargs)


HANDLERS: dict[Any, Any] = {
    "replay": replay,
    "derive": _of_parameters,
    Tensor.backward: Handler(backward, always=True),
    torch.autograd.backward: Handler(backward, always=True),
    torch.autograd.grad: Handler(gradient_of, always=True),
    Tensor.register_hook: Handler(tensor_hook, always=True),
    Tensor.data.__set__: Handler(data_set, always=True),  # type: ignore[attr-defined]
    Tensor.register_post_accumulate_grad_hook: Handler(post_accumulate_hook, always=True),
    **dict.fromkeys(_ENTRY_BY_ENTRY, Handler(replay, quick=plain_entries)),
    F.cross_entropy: Handler(replay, quick=plain_classes),
    torch.sum: Handler(replay, quick=plain_total),
    Tensor.sum: Handler(replay, quick=plain_total),
    F.linear: Handler(_linear, quick=plain_linear),
    **dict.fromkeys(_MATMULS, Handler(_matmul)),
    torch.addmm: Handler(_addmm),
    F.conv1d: Handler(_convolution),
    F.conv2d: Handler(_convolution),
    F.conv3d: Handler(_convolution),
    F.embedding: Handler(_embedding),
    F.embedding_bag: Handler(bag_of_rows),
    torch.embedding: Handler(_embedding),
    F.layer_norm: Handler(layer_norm),
    torch.layer_norm: Handler(layer_norm),
    F.rms_norm: Handler(rms_norm),
    torch.rms_norm: Handler(rms_norm),
    F.group_norm: Handler(group_norm),
    torch.group_norm: Handler(group_norm),
    F.instance_norm: Handler(instance_norm),
    F.batch_norm: Handler(batch_norm, always=True),
    torch.batch_norm: Handler(batch_norm, always=True),
    **dict.fromkeys(_BROADCASTS, Handler(_broadcast)),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__), Handler(_broadcast, quick=plain_sum)),
    F.multi_head_attention_forward: Handler(_attention),
    torch.lstm: Handler(recurrent, always=True),
    torch.gru: Handler(recurrent, always=True),
    torch.rnn_tanh: Handler(recurrent, always=True),
    torch.rnn_relu: Handler(recurrent, always=True),
    **dict.fromkeys((torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell), Handler(one_step)),
}
