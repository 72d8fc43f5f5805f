"""The usual calls, quickly: linear layers of whole parameters and entrywise functions, examples in front.

What `Tracker` and `_handlers` do for any call costs more than a small layer's arithmetic; most calls of most models are
these. Whatever is not quite usual is left to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.torch import _kernels
from expunge.torch._anchored import anchored
from expunge.torch._axis import LEADING, Total
from expunge.torch._contributions import BroadcastUse, MatrixUse
from expunge.torch._stand_ins import mark
from expunge.torch._tracker import Tracker

__all__ = ["plain_classes", "plain_entries", "plain_linear", "plain_sum", "plain_total"]


def plain_entries(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Make a call that treats every entry by itself; None, and nothing done, unless examples lead its one tensor."""
    if not args or not isinstance(args[0], Tensor) or tracker.axes.get(args[0]) != LEADING:
        return None
    if kwargs.get("out") is not None or not torch.is_grad_enabled() or tracker.source_of(args[0]) is not None:
        return None
    result: Tensor = function(*args, **kwargs)
    tracker.axes.set(result, LEADING)
    return result


def plain_linear(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Make the call and wait for its gradient; None, and nothing done, if it is not the usual layer."""
    if kwargs or len(args) != 3 or not torch.is_grad_enabled():
        return None
    x, weight, bias = args
    matrix, vector = tracker.keys.get(id(weight)), tracker.keys.get(id(bias))
    if matrix is None or vector is None or not isinstance(x, Tensor) or tracker.axes.get(x) != LEADING:
        return None
    if not (weight.requires_grad and bias.requires_grad):  # one may have been frozen since the block began
        return None
    if x.ndim < 2 or weight.ndim != 2 or bias.ndim != 1 or tracker.source_of(x) is not None:
        return None
    watched = True
    if tracker.param_grads:
        aliases = tracker.aliases
        w, b = aliases.unwatched(matrix), aliases.unwatched(vector)
        output = function(x, w, b)
        watched = matrix not in aliases.bare or vector not in aliases.bare
    else:
        output = function(x, weight.detach(), bias.detach())
    node = output.grad_fn
    if node is not None and node.name() == "ViewBackward0":  # of a product of two dimensions, whose node stays
        node = node.next_functions[0][0]
    if node is None or node.name() != "AddmmBackward0":
        output = anchored(output)
        node = output.grad_fn
        watched = True
    if tracker.param_grads and (watched or not _straight(node, w, b)):
        watched = True
        for key in (matrix, vector):
            aliases[key]
    tracker.axes.set(output, LEADING)
    tracker.wait_at(node, 0, (matrix, vector), _Arrival(tracker, matrix, vector, x, watched=watched))
    return output


def _straight(node: Any, weight: Tensor, bias: Tensor) -> bool:
    """Whether the node of an affine map gives its gradients to these as they are, that of the weight transposed."""
    (to_bias, _), _, (to_weight, _) = node.next_functions
    if to_bias is not bias.grad_fn or to_weight is None or to_weight.name() != "TBackward0":
        return False
    return to_weight.next_functions[0][0] is weight.grad_fn


def plain_sum(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Add tensors of one shape whose examples lead; None, and nothing done, if they are others."""
    if kwargs or len(args) != 2 or not torch.is_grad_enabled():
        return None
    for tensor in args:
        if not isinstance(tensor, Tensor) or tracker.axes.get(tensor) != LEADING or tensor.shape != args[0].shape:
            return None
        if tracker.source_of(tensor) is not None:  # an input of the model that was made of parameters
            return None
    result: Tensor = function(*args)
    tracker.axes.set(result, LEADING)
    return result


def plain_classes(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Make the call of a loss whose scores have examples in front, of classes that are no scores; else None."""
    if len(args) != 2 or not torch.is_grad_enabled() or not all(isinstance(t, Tensor) for t in args):
        return None
    if any(kwargs.get(name) is not None for name in ("weight", "size_average", "reduce")):
        return None
    scores, target = args
    reduction = kwargs.get("reduction", "mean")
    if reduction not in ("none", "sum") or scores.ndim != 2 or target.ndim != 1 or scores.is_complex():
        return None
    if tracker.axes.get(scores) != LEADING or tracker.axes.get(target) not in (None, LEADING):
        return None
    if target.requires_grad or tracker.source_of(scores) is not None or tracker.axes.batch == 1:
        return None
    result: Tensor = function(scores, target, **kwargs)
    tracker.axes.set(result, LEADING if reduction == "none" else Total("sum"))
    return result


def plain_total(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Add up a vector with one entry for each example; None, and nothing done, if it is not one."""
    if kwargs or len(args) != 1 or not torch.is_grad_enabled():
        return None
    vector = args[0]
    if vector.ndim != 1 or tracker.axes.get(vector) != LEADING or tracker.source_of(vector) is not None:
        return None
    if tracker.axes.batch == 1:  # all of it belongs to the example, whatever is done with it
        return None
    result: Tensor = function(vector)
    tracker.axes.set(result, Total("sum"))
    return result


class _Arrival:
    """Called with the gradient of the output."""

    __slots__ = ("input", "matrix", "tracker", "vector", "version", "watched")

    def __init__(self, tracker: Tracker, matrix: int, vector: int, x: Tensor, *, watched: bool) -> None:
        self.tracker, self.matrix, self.vector, self.watched = tracker, matrix, vector, watched
        self.input: Tensor | None = x.detach()
        self.version = x._version

    def at_node(self, grad: Tensor, inputs: Sequence[Tensor | None]) -> None:
        """Take the gradients of the output and, if no hook of an alias does, note those of bias and weight."""
        if not self.watched:
            bare, through = self.tracker.aliases.bare, self.tracker.through
            for key, passed in ((self.vector, inputs[0]), (self.matrix, inputs[2])):
                if passed is not None and key in bare:  # else it was used again, and its alias is watched
                    through[key] = mark(passed)
        self(grad)

    def __call__(self, grad: Tensor) -> None:
        tracker = self.tracker
        x, self.input = self.input, None
        if not tracker.takes((self.matrix, self.vector), () if x is None else ((x, self.version),), again=x is None):
            return
        assert x is not None
        grad = grad.detach()
        if grad.ndim != x.ndim:  # that of the product below a view
            grad = grad.view(*x.shape[:-1], grad.shape[-1])
        x = x if x.dtype == grad.dtype else x.to(grad.dtype)
        alone = tracker.axes.batch and tracker.grouping is None
        if alone and tracker.unsettled(self.matrix) and tracker.unsettled(self.vector):
            if not tracker.written_by_hooks and tracker.small.take(self.matrix, self.vector, x, grad):
                return
            settled = tracker.settled
            settled[self.matrix], settled[self.vector] = _kernels.linear_squares(
                x, grad, bias=True, threads=tracker.threads
            )
            return
        weight = MatrixUse(tracker.views[self.matrix], tracker.threads, grad, x)
        weight.shift = BroadcastUse(tracker.views[self.vector], tracker.threads, grad)
        tracker.add([weight, weight.shift])
