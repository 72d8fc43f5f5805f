"""Norm samplers for Opacus' registry: norms from a layer, its input and the gradients of its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from torch import Tensor, nn

from expunge.torch import ops

__all__ = ["register", "unregister"]

Norms = dict[Any, Tensor]
Sampler = Callable[[Any, list[Tensor], Tensor], Norms]

_HALF = (torch.float16, torch.bfloat16)


def _operands(layer: nn.Module, activations: list[Tensor], backprops: Tensor) -> tuple[Tensor, Tensor]:
    """Return a layer's input and its output's gradients in one dtype."""
    inputs = activations[0]
    if inputs.shape[:1] != backprops.shape[:1]:
        raise NotImplementedError(
            f"{layer}: inputs of shape {tuple(inputs.shape)} must have as many examples as gradients of shape "
            f"{tuple(backprops.shape)}"
        )
    grads = backprops.float() if backprops.dtype in _HALF else backprops
    return (inputs.to(grads.dtype) if inputs.is_floating_point() else inputs), grads


def _by_parameter(layer: Any, norms: Tensor, dtype: torch.dtype) -> Norms:
    """Return the rows of a result by the parameters they belong to."""
    rows = zip((layer.weight, layer.bias), norms.to(dtype), strict=True)
    return {parameter: row for parameter, row in rows if _counts(parameter)}


def _counts(parameter: Any) -> bool:
    return parameter is not None and bool(parameter.requires_grad)


def _linear(layer: Any, activations: list[Tensor], backprops: Tensor) -> Norms:
    inputs, grads = _operands(layer, activations, backprops)
    if not layer.weight.requires_grad:  # the bias alone: no product
        return {layer.bias: grads.reshape(*grads.shape[:1], -1, grads.shape[-1]).sum(1).norm(dim=1)}
    norms = ops.linear_grad_norms(inputs, grads, bias=_counts(layer.bias), per_parameter=True)
    return _by_parameter(layer, norms, grads.dtype)


def _conv(layer: Any, activations: list[Tensor], backprops: Tensor) -> Norms:
    inputs, grads = _operands(layer, activations, backprops)
    if not layer.weight.requires_grad:
        return {layer.bias: grads.flatten(2).sum(2).norm(dim=1)}
    padding, mode = layer.padding, layer.padding_mode
    if isinstance(padding, str):  # "same" may need one more on one side
        kind = "constant" if mode == "zeros" else mode
        inputs, padding, mode = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=kind), (0,), "zeros"
    norms = ops.conv_grad_norms(
        inputs,
        grads,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=padding,
        padding_mode=mode,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=_counts(layer.bias),
        per_parameter=True,
    )
    return _by_parameter(layer, norms, grads.dtype)


def _embedding(layer: Any, activations: list[Tensor], backprops: Tensor) -> Norms:
    if layer.scale_grad_by_freq:
        raise NotImplementedError(
            f"{layer}: scale_grad_by_freq=True makes the gradient of one example depend on the others"
        )
    indices, grads = _operands(layer, activations, backprops)
    norms = ops.embedding_grad_norms(indices, grads, padding_idx=layer.padding_idx)
    return {layer.weight: norms.to(grads.dtype)}


def _normalising(layer: Any, activations: list[Tensor], backprops: Tensor, **settings: Any) -> Norms:
    inputs, grads = _operands(layer, activations, backprops)
    norms = ops.norm_layer_grad_norms(
        inputs,
        grads,
        weight=_counts(layer.weight),
        bias=_counts(layer.bias),
        per_parameter=True,
        **settings,
    )
    return _by_parameter(layer, norms, grads.dtype)


def _layer_norm(layer: Any, activations: list[Tensor], backprops: Tensor) -> Norms:
    return _normalising(layer, activations, backprops, normalized_ndim=len(layer.normalized_shape), eps=layer.eps)


def _rms_norm(layer: Any, activations: list[Tensor], backprops: Tensor) -> Norms:
    inputs, grads = _operands(layer, activations, backprops)
    eps = torch.finfo(activations[0].dtype).eps if layer.eps is None else layer.eps
    axes = len(layer.normalized_shape)
    norms = ops.norm_layer_grad_norms(inputs, grads, kind="rms", normalized_ndim=axes, eps=eps)
    return {layer.weight: norms.to(grads.dtype)}


def _group_norm(layer: Any, activations: list[Tensor], backprops: Tensor) -> Norms:
    return _normalising(layer, activations, backprops, kind="group", num_groups=layer.num_groups, eps=layer.eps)


def _instance_norm(layer: Any, activations: list[Tensor], backprops: Tensor) -> Norms:
    return _normalising(layer, activations, backprops, kind="group", num_groups=layer.num_features, eps=layer.eps)


_SAMPLERS: dict[type[nn.Module], Sampler] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm,
    nn.InstanceNorm3d: _instance_norm,
}

# Samplers registered before, by type; None where there was none.
_BEFORE: dict[type[nn.Module], Sampler | None] = {}


def register(*layers: type[nn.Module]) -> None:
    """Let Opacus' ghost clipping take the norms of layers from Expunge's kernels, until `unregister`.

    Training steps are the same up to rounding, and right where Opacus' own norms are not: embeddings with
    ``padding_idx``, convolutions with ``padding_mode`` other than zeros, linear layers on inputs of more than three
    axes, layer norms without bias.

    Parameters
    ----------
    *layers : types of torch.nn.Module
        ``Linear``, ``Conv1d`` to ``Conv3d``, ``Embedding``, ``LayerNorm``, ``RMSNorm``, ``GroupNorm``,
        ``InstanceNorm1d`` to ``InstanceNorm3d``; all of them by default. A subclass keeps Opacus' own sampler.

    Raises
    ------
    TypeError
        If there is no kernel for a type.

    Notes
    -----
    Models in ``grad_sample_mode="ghost"`` that were wrapped before take the new norms too: Opacus consults its registry
    in every step. A layer with a norm sampler that is called twice in one forward pass is refused by Opacus ("Parameter
    tying is not supported"); leave its type out to go on with per-sample gradients for it.

    Opacus sees only layers: a parameter that is also used outside its layer, ``F.linear(h, embedding.weight)`` say, is
    not in its norms, with these kernels or without. `check` compares one batch with exact norms.

    Examples
    --------
    >>> from expunge.integrations import opacus
    >>> opacus.register()  # then privacy_engine.make_private(..., grad_sample_mode="ghost")
    >>> opacus.unregister()
    """
    unknown = [str(getattr(layer, "__name__", layer)) for layer in layers if layer not in _SAMPLERS]
    if unknown:
        known = ", ".join(layer.__name__ for layer in _SAMPLERS)
        raise TypeError(f"layers must be of {known}, got {', '.join(unknown)}")
    registry = GradSampleHooksFastGradientClipping.NORM_SAMPLERS
    for layer in layers or _SAMPLERS:
        if registry.get(layer) is not _SAMPLERS[layer]:
            _BEFORE[layer] = registry.get(layer)
            registry[layer] = _SAMPLERS[layer]


def unregister() -> None:
    """Give Opacus back what `register` replaced; a sampler that was registered later stays.

    Examples
    --------
    >>> from expunge.integrations import opacus
    >>> opacus.unregister()  # nothing to give back: nothing happens
    """
    registry = GradSampleHooksFastGradientClipping.NORM_SAMPLERS
    for layer, before in _BEFORE.items():
        if registry.get(layer) is _SAMPLERS[layer]:
            if before is None:
                del registry[layer]
            else:
                registry[layer] = before
    _BEFORE.clear()
