"""The usual calls, quickly: linear layers of whole parameters and entrywise functions, examples in front.

What `Tracker` and `_handlers` do for any call costs more than a small layer's arithmetic; most calls of most models are
these. Whatever is not quite usual is left to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.torch import _kernels
from expunge.torch._axis import LEADING
from expunge.torch._contributions import BroadcastUse, MatrixUse
from expunge.torch._tracker import Tracker

__all__ = ["plain_entries", "plain_linear", "plain_sum"]


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
    """Make the call and wait for its gradient; None, and nothing done, where it is not the usual layer."""
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
    if tracker.param_grads:
        output = function(x, tracker.aliases[matrix], tracker.aliases[vector])
    else:
        output = function(x, weight.detach(), bias.detach())
    node = output.grad_fn
    if node is not None and node.name() == "ViewBackward0":  # of a product of two dimensions, whose node stays
        node = node.next_functions[0][0]
    if node is None or node.name() != "AddmmBackward0":
        output = tracker.anchored(output)
        node = output.grad_fn
    tracker.axes.set(output, LEADING)
    tracker.wait_at(node, 0, (matrix, vector), _Arrival(tracker, matrix, vector, x))
    return output


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


class _Arrival:
    """Called with the gradient of the output."""

    __slots__ = ("input", "matrix", "tracker", "vector", "version")

    def __init__(self, tracker: Tracker, matrix: int, vector: int, x: Tensor) -> None:
        self.tracker, self.matrix, self.vector = tracker, matrix, vector
        self.input: Tensor | None = x.detach()
        self.version = x._version

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
        if tracker.axes.batch and tracker.unsettled(self.matrix) and tracker.unsettled(self.vector):
            settled = tracker.settled
            settled[self.matrix], settled[self.vector] = _kernels.linear_squares(
                x, grad, bias=True, threads=tracker.threads
            )
            return
        weight = MatrixUse(tracker.views[self.matrix], tracker.threads, grad, x)
        weight.shift = BroadcastUse(tracker.views[self.vector], tracker.threads, grad)
        tracker.add([weight, weight.shift])
