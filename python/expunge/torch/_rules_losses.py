"""Rules of loss functions, and of sums over examples, which losses are."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, State, Total
from expunge.torch._rule import LINEAR, Call, rule
from expunge.torch._rules_elementwise import broadcast
from expunge.torch._sources import tensors_in

__all__ = ["of_totals"]


def _reduced(call: Call, axis: State, default: str = "mean") -> State:
    """Return the state of a loss whose entries, unreduced, have examples along ``axis``."""
    if not isinstance(axis, Axis):
        return axis
    by_place = [a for a in call.args if isinstance(a, bool)]
    if by_place or call.kwargs.get("size_average") is not None or call.kwargs.get("reduce") is not None:
        return call.lost("is reduced by size_average or reduce: say reduction=")
    reduction = next((a for a in call.args if isinstance(a, str)), call.kwargs.get("reduction", default))
    if reduction == "none":
        return axis
    return Total({"sum": "sum", "mean": "mean", "batchmean": "mean"}[reduction])


def _wide(call: Call, *tensors: Tensor) -> Tensor:
    return torch.empty(torch.broadcast_shapes(*(t.shape for t in tensors)), device="meta")


@rule(
    "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div "
    "poisson_nll_loss soft_margin_loss hinge_embedding_loss",
    homes=(F,),
)
def _entry_losses(call: Call) -> State:
    tensors = tensors_in(call.args[:2], {k: v for k, v in call.kwargs.items() if k in ("input", "target")})
    wide = _wide(call, *tensors)
    axis = broadcast(call, wide)
    if any(t.shape != wide.shape for t, _ in call.states if t.is_floating_point()):
        return call.lost(f"is enlarged to {tuple(wide.shape)}, so that rows meet the targets of others")
    if (
        "batchmean" in (*call.args[2:], call.kwargs.get("reduction"))
        and isinstance(axis, Axis)
        and (axis.dim or not axis.plain)
    ):
        return call.lost("divides by the length of a dimension other than the batch's")
    loss = _reduced(call, axis)
    if call.name in ("mse_loss", "l1_loss") and call.argument(5, "weight") is not None and loss == Total("mean"):
        return Total("unclear")  # divides by the sum of the weights
    return loss


@rule("cross_entropy nll_loss", homes=(F,))
def _classes(call: Call) -> State:
    scores, target = call.argument(0, "input"), call.argument(1, "target")
    classes = 1 if scores.ndim > 1 else 0
    axis = call.state(scores)
    if axis is None or axis.dim == classes or call.state(call.argument(2, "weight")) is not None:
        return call.lost("takes the batch dimension for classes, or examples for a target alone")
    spread = scores.ndim == target.ndim  # probabilities of classes
    entry = axis if axis.dim == 0 else axis.at(axis.dim - 1)
    other = call.state(target)
    if other is not None and other != (axis if spread else entry):
        return call.lost("combines batch dimensions at different places")
    loss = _reduced(call, entry)
    if isinstance(loss, Total) and loss.kind == "mean" and not spread:
        ignored = int(call.argument(4, "ignore_index", -100))
        if call.argument(2, "weight") is not None or bool((target == ignored).any()):
            return Total("unclear")  # divides by a number that each example has a share of its own in
    return loss


@rule("multilabel_soft_margin_loss", homes=(F,))
def _margins(call: Call) -> State:
    axis = broadcast(call, _wide(call, call.argument(0, "input"), call.argument(1, "target")))
    if isinstance(axis, Axis) and axis.dim == call.argument(0, "input").ndim - 1:
        return call.lost("takes the batch dimension for classes")
    return _reduced(call, axis)


@rule("multi_margin_loss multilabel_margin_loss", homes=(F,))
def _rows(call: Call) -> State:
    if call.argument(0, "input").ndim != 2:
        return call.lost("takes examples in the leading dimension of two alone")
    return _reduced(call, call.rows)


@rule("margin_ranking_loss", homes=(F,))
def _ranking(call: Call) -> State:
    tensors = tensors_in(call.args[:3], {k: v for k, v in call.kwargs.items() if k in ("input1", "input2", "target")})
    return _reduced(call, broadcast(call, _wide(call, *tensors)))


@rule("triplet_margin_loss cosine_embedding_loss", homes=(F,))
def _pairs(call: Call) -> State:
    labels = call.argument(2, "target") if call.name == "cosine_embedding_loss" else None
    if any(t.ndim != (1 if t is labels else 2) for t, _ in call.states):
        return call.lost("takes examples in the leading dimension of two alone")
    return _reduced(call, call.rows)


@rule("gaussian_nll_loss", homes=(F,))
def _gaussian(call: Call) -> State:
    mean = call.argument(0, "input")
    if any(t.shape != mean.shape for t, _ in call.states):
        return call.lost("broadcasts its arguments")
    return _reduced(call, broadcast(call, mean))


@rule("ctc_loss", homes=(F,))
def _ctc(call: Call) -> State:
    scores, targets = call.argument(0, "log_probs"), call.argument(1, "targets")
    axis = call.state(scores)
    if (
        axis is None
        or axis.dim != 1
        or targets.ndim != 2
        or any(s != axis.at(0) for t, s in call.states if t is not scores)
    ):
        return call.lost("takes examples in dimension 1 of scores and in front of targets alone")
    return _reduced(call, axis.at(0))


_TIMES = {"mul", "multiply", "rmul", "imul", "mul_", "multiply_"}
_OVER = {"div", "divide", "true_divide", "truediv", "itruediv", "div_", "divide_", "true_divide_"}


def of_totals(call: Call) -> State:
    """Return the state of a call that takes sums over examples: it must be linear in them."""
    totals = [(t, s) for t, s in call.states if isinstance(s, Total)]
    if call.function not in LINEAR:
        return call.lost("of a sum over examples is not linear, so that examples interact")
    if len(totals) != len(call.states):
        return call.lost("combines a sum over examples with examples")
    kind, scaled, divided = totals[0][1]
    for _, other in totals[1:]:
        kind = kind if kind == other.kind else "mixed"
        scaled, divided = scaled or other.scaled, divided or other.divided
    values = (*call.args, *call.kwargs.values())
    numbers = [a for a in values if not any(a is t for t, _ in totals)]
    times, over = call.name in _TIMES, call.name in _OVER
    if not times and not over:
        if call.name == "where" and any(t is call.first for t, _ in totals):
            return call.lost("chooses by a sum over examples")
        return Total(kind, scaled, divided)
    several = len(values) - len(numbers) > 1  # a sum times itself is given twice
    if several or call.kwargs.get("rounding_mode") or (over and totals[0][0] is not call.first):
        return call.lost("of sums over examples is not linear, so that examples interact")
    number = next((n for n in numbers if isinstance(n, (int, float, Tensor))), 1)
    return _scaled(call, Total(kind, scaled, divided), number, over=over)


def _scaled(call: Call, total: Total, number: float | Tensor, *, over: bool) -> State:
    """Return the state of a sum over examples times, or over, a number: a mean times B may be a sum again."""
    kind = total.kind
    if isinstance(number, Tensor):
        return Total("unclear") if over else Total(kind, True)
    batch = call.batch
    divisor = number if over else 1 / number if number else 0.0
    if kind == "sum" and divisor >= batch and abs(divisor / batch - round(divisor / batch)) < 1e-9:
        return Total("mean", True)
    if kind == "mean" and not over and number and number % batch == 0:
        return Total("sum", True)
    return total._replace(divided=total.divided or divisor > 1)
