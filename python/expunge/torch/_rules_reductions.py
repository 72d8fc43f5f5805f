"""Rules of calls along dimensions: those that reduce them, and those that work along them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, State, Total
from expunge.torch._rule import LINEAR, RULES, Call, functions, rule
from expunge.torch._rules_elementwise import broadcast

__all__: list[str] = []

_ALL = object()


def _dims(call: Call, place: int, default: Any, ndim: int) -> set[int]:
    """Return the dimensions that a call names; all if it names none and has no default."""
    dim = default
    for name in ("dim", "axis", "dims"):
        if call.given(name):
            dim = call.kwargs[name]
            break
    else:
        if len(call.args) > place:
            dim = call.args[place]
    if dim is None or dim is _ALL or isinstance(dim, bool):
        return set(range(ndim))
    if isinstance(dim, Tensor):
        dim = dim.tolist()
    if isinstance(dim, (tuple, list)) and not dim:
        return set(range(ndim))
    return {int(d) % ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,))} if ndim else set()


def _reduced(call: Call, dims: set[int], kind: str | None) -> State:
    axis, output = call.axis, call.outputs[0]
    if axis.dim in dims:
        return Total(kind) if kind else call.lost("works over the batch dimension")
    if output.ndim == call.first.ndim:  # dimensions kept
        return axis
    return axis.at(axis.dim - sum(d < axis.dim for d in dims))


def _reduces(names: str, place: int, default: Any = _ALL, kind: str | None = None) -> None:
    def reduce(call: Call) -> State:
        return _reduced(call, _dims(call, place, default, call.first.ndim), kind)

    rule(names)(reduce)


_reduces("sum", 1, kind="sum")
_reduces("mean", 1, kind="mean")
LINEAR.update(functions("sum mean"))
_reduces(
    "prod amax amin all any var std var_mean std_mean logsumexp special_logsumexp nansum nanmean count_nonzero argmax "
    "argmin nanmedian aminmax",
    1,
)
_reduces("norm linalg_vector_norm", 2)
_reduces("mode", 1, -1)
_reduces("kthvalue", 2, -1)


@rule("quantile nanquantile")
def _quantile(call: Call) -> State:
    if isinstance(call.argument(1, "q"), Tensor) and call.argument(1, "q").ndim:
        return call.lost("gives several quantiles at once")
    return _reduced(call, _dims(call, 2, _ALL, call.first.ndim), None)


@rule("max min median")
def _extreme(call: Call) -> State:
    if isinstance(call.argument(1, "other"), Tensor):
        return broadcast(call, call.outputs[0])
    return _reduced(call, _dims(call, 1, _ALL, call.first.ndim), None)


def _vector_norm(call: Call) -> State:
    return _reduced(call, _dims(call, 2, _ALL, call.first.ndim), None)


RULES[torch.linalg.vector_norm] = RULES[torch.linalg.norm] = _vector_norm


def _matrix_norm(call: Call) -> State:
    return _reduced(call, _dims(call, 2, (-2, -1), call.first.ndim), None)


RULES[torch.linalg.matrix_norm] = _matrix_norm


def _along(names: str, place: int, default: Any = _ALL, homes: Any = None) -> None:
    def work(call: Call) -> State:
        axis = call.axis
        if axis.dim in _dims(call, place, default, call.first.ndim):
            return call.lost("works along the batch dimension")
        return axis

    rule(names, **({"homes": homes} if homes else {}))(work)


_along("softmax log_softmax softmin cumsum cumprod cummax cummin logcumsumexp", 1)
_along("sort argsort msort glu", 1, -1)
_along("topk normalize", 2, -1)
_along("normalize", 2, 1, (F,))
_along("roll", 2)
_along("fliplr", 99, 1)
_along("flipud msort", 99, 0)
_along("rot90", 2, (0, 1))
_along("gumbel_softmax", 4, -1)
_along("fft ifft rfft irfft hfft ihfft", 2, -1, (torch.fft,))
_along("fft2 ifft2 rfft2 irfft2", 2, (-2, -1), (torch.fft,))
_along("fftn ifftn rfftn irfftn", 2, _ALL, (torch.fft,))
_along("fftshift ifftshift", 1, _ALL, (torch.fft,))


@rule("flip")
def _flip(call: Call) -> State:
    dims = call.kwargs.get("dims", call.args[1:])
    dims = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    ndim = call.first.ndim
    if call.axis.dim in {int(d) % ndim for d in dims}:
        return call.lost("reverses the batch dimension")
    return call.axis


@rule("diff")
def _diff(call: Call) -> State:
    tensors = [call.first, call.argument(3, "prepend"), call.argument(4, "append")]
    given = [t for t in tensors if isinstance(t, Tensor)]
    axes = {state for _, state in call.states}
    axis = axes.pop()
    if axes or not isinstance(axis, Axis) or any(t.ndim != call.first.ndim for t in given):
        return call.lost("combines batch dimensions at different places")
    if int(call.argument(2, "dim", -1)) % call.first.ndim == axis.dim:
        return call.lost("works along the batch dimension")
    return axis


@rule("cosine_similarity")
def _cosine(call: Call) -> State:
    first, second = call.argument(0, "x1"), call.argument(1, "x2")
    wide = torch.empty(torch.broadcast_shapes(first.shape, second.shape), device="meta")
    axis = broadcast(call, wide)
    if not isinstance(axis, Axis):
        return axis
    dim = int(call.argument(2, "dim", 1)) % wide.ndim
    return call.lost("works over the batch dimension") if axis.dim == dim else axis.at(axis.dim - (dim < axis.dim))


@rule("pairwise_distance")
def _distance(call: Call) -> State:
    first, second = call.argument(0, "x1"), call.argument(1, "x2")
    wide = torch.empty(torch.broadcast_shapes(first.shape, second.shape), device="meta")
    axis = broadcast(call, wide)
    return call.lost("works over the batch dimension") if axis and axis[0] == wide.ndim - 1 else axis
