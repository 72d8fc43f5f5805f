"""Handlers of normalisations: over the last axes, over groups of channels, and by the statistics of training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from expunge.torch._axis import Axis, Rows
from expunge.torch._contributions import BroadcastUse, ScaleUse, Use
from expunge.torch._derived import derive
from expunge.torch._errors import UnsupportedLayerError
from expunge.torch._handler import Args, Kwargs, bound, leading_wanted, pair
from expunge.torch._images import channels_next
from expunge.torch._replay import replay
from expunge.torch._sources import tensors_in
from expunge.torch._tracker import Tracker

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def _normalising(
    tracker: Tracker,
    function: Any,
    args: Args,
    kwargs: Kwargs,
    given: dict[str, Any],
    settings: dict[str, Any] | None,
    standardise: Callable[[Tensor], Tensor],
    *,
    channels: bool,
) -> Any:
    """Record weight and bias of a normalising layer; ``standardise`` gives what the weight multiplies.

    Without ``settings`` no kernel knows how to standardise.
    """
    x = given["input"]
    scale, shift = tracker.source_of(given.get("weight")), tracker.source_of(given.get("bias"))
    axis, arrange = tracker.axes.get(x), tracker.arrangement(x)
    if tracker.source_of(x) is not None or isinstance(arrange, str) or not isinstance(axis, (Axis, Rows)):
        reason = arrange if isinstance(arrange, str) else "it was used as the input of a normalisation"
        return tracker.unfollowed(function, args, kwargs, reason)
    if channels and axis.dim == 1:
        return tracker.unfollowed(function, args, kwargs, leading_wanted(tracker, x))
    last = 0 if channels or settings is None else settings["normalized_ndim"]
    if axis.dim >= x.ndim - last:
        return tracker.unfollowed(function, args, kwargs, "it normalises over the batch dimension")
    before = settings is None or (channels and not tracker.leads(x))  # standardised here, every image by itself
    how = {"kind": "group", "num_groups": 1, "normalized": True} if settings is None or before else settings
    if before:
        arrange = partial(channels_next, axis=axis, batch=tracker.axes.batch or 0)
    output = tracker.run(function, args, kwargs)
    held = x.detach()

    def products(some: Tensor, grads: Tensor) -> Tensor:
        total = grads * (some if before else standardise(some))
        if channels:
            return total.sum(tuple(range(2, total.ndim))) if total.ndim > 2 else total
        return total.reshape(total.shape[0], -1, *total.shape[total.ndim - last :]).sum(1)

    def finish(grad: Tensor) -> list[Use]:
        g = arrange(grad)
        uses: list[Use] = []
        if scale is not None:
            inputs = held if held.dtype == g.dtype else held.to(g.dtype)
            if before:
                inputs = standardise(inputs if inputs.dtype == torch.float64 else inputs.float())
            uses.append(ScaleUse(scale, tracker.threads, arrange(inputs), g, how, products))
        if shift is not None:
            uses.append(BroadcastUse(shift, tracker.threads, g, channels=channels))
            pair(uses)
        return uses

    tracker.record(output, [s for s in (scale, shift) if s is not None], finish, [x] if scale is not None else [])
    return output


def layer_norm(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("input normalized_shape weight bias eps cudnn_enable", args, kwargs)
    return _last_axes_norm(tracker, function, args, kwargs, given, "layer", given.get("eps", 1e-5))


def rms_norm(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("input normalized_shape weight eps", args, kwargs)
    x, eps = given["input"], given.get("eps")
    if eps is None:
        if x.dtype not in (torch.float32, torch.float64):
            return replay(tracker, function, args, kwargs)
        eps = torch.finfo(x.dtype).eps
    return _last_axes_norm(tracker, function, args, kwargs, given, "rms", eps)


def _last_axes_norm(
    tracker: Tracker, function: Any, args: Args, kwargs: Kwargs, given: dict[str, Any], kind: str, eps: float
) -> Any:
    last = len(tuple(given["normalized_shape"]))
    dims = tuple(range(-last, 0))

    def standardise(x: Tensor) -> Tensor:
        centred = x - x.mean(dims, keepdim=True) if kind == "layer" else x
        return centred / torch.sqrt(centred.square().mean(dims, keepdim=True) + eps)

    settings = {"kind": kind, "normalized_ndim": last, "eps": eps}
    return _normalising(tracker, function, args, kwargs, given, settings, standardise, channels=False)


def group_norm(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("input num_groups weight bias eps cudnn_enabled", args, kwargs)
    return _groups(tracker, function, args, kwargs, given, int(given["num_groups"]))


def instance_norm(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("input running_mean running_var weight bias use_input_stats momentum eps cudnn_enabled", args, kwargs)
    if not given.get("use_input_stats", True) or given["input"].ndim < 3:
        return replay(tracker, function, args, kwargs)
    return _groups(tracker, function, args, kwargs, given, given["input"].shape[1])


def _groups(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs, given: dict[str, Any], groups: int) -> Any:
    eps = given.get("eps", 1e-5)

    def standardise(x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], groups, -1)
        centred = grouped - grouped.mean(-1, keepdim=True)
        return (centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)).reshape(x.shape)

    settings = {"kind": "group", "num_groups": groups, "eps": eps}
    return _normalising(tracker, function, args, kwargs, given, settings, standardise, channels=True)


def batch_norm(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    given = bound("input running_mean running_var weight bias training momentum eps cudnn_enabled", args, kwargs)
    mean, variance = given.get("running_mean"), given.get("running_var")
    scale = tracker.source_of(given.get("weight"))
    if torch.is_grad_enabled() and not tracker.tracked(tensors_in(args, kwargs)) and tracker.sources_in(args, kwargs):
        return derive(tracker, function, args, kwargs)  # of weights, whatever their dimensions are
    if not tracker.tracked(tensors_in(args, kwargs)):
        return function(*args, **kwargs)
    if given.get("training") or mean is None or variance is None:
        name = tracker.names[scale.roots[0]] if scale is not None else "a batch normalisation without parameters"
        raise UnsupportedLayerError(
            f"{name}: batch normalisation in training mode mixes the examples, so that no gradient belongs to one of "
            "them: use eval mode or another normalisation"
        )
    if not torch.is_grad_enabled() or not tracker.sources_in(args, kwargs):
        return function(*args, **kwargs)
    eps = given.get("eps", 1e-5)

    def standardise(x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return (x - mean.to(x.dtype).view(shape)) / torch.sqrt(variance.to(x.dtype) + eps).view(shape)

    return _normalising(tracker, function, args, kwargs, given, None, standardise, channels=True)
