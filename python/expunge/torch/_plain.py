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

__all__ = ["plain_entries", "plain_linear"]


def plain_entries(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Make a call that treats every entry by itself; None, and nothing done, unless examples lead its one tensor."""
    if not args or not isinstance(args[0], Tensor) or tracker.axes.get(args[0]) != LEADING:
        return None
    if kwargs.get("out") is not None or not torch.is_grad_enabled():
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
    if x.ndim < 2 or weight.ndim != 2 or bias.ndim != 1 or tracker.source_of(x) is not None:
        return None
    if tracker.param_grads:
        output = tracker.anchored(function(x, tracker.aliases[matrix], tracker.aliases[vector]))
    else:
        output = tracker.anchored(function(x, weight.detach(), bias.detach()))
    tracker.axes.set(output, LEADING)
    tracker.wait(output, (matrix, vector), _Arrival(tracker, matrix, vector, x))
    return output


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
