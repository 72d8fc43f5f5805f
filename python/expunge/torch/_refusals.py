"""Refusals before anything is computed: of models, inputs and calls that cannot be followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.torch._batch_axes import BatchAxes
from expunge.torch._errors import UnsupportedLayerError

__all__ = ["look_at_inputs", "look_at_saving", "not_followed", "transformed_of_examples"]

_saved_tensor_hooks = torch._C._autograd._top_saved_tensors_default_hooks


def not_followed(model: nn.Module, keys: Mapping[int, int]) -> str | None:
    """Return what is wrong with a parameter that requires grad and is none of those the block began with."""
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        for parameter in module._parameters.values():
            if parameter is None or id(parameter) in keys or not parameter.requires_grad:
                continue
            if isinstance(parameter, nn.Parameter):  # else torch.func.functional_call put it there
                name = next(name for name, p in model.named_parameters() if p is parameter)
                return (
                    f"{name}: it did not require grad when the block began, or was put in place of another "
                    "(requires_grad_(), a new Parameter, load_state_dict(assign=True)): do so before the block"
                )
        if module._modules:
            waiting.extend(module._modules.values())
    return None


def look_at_inputs(values: Iterable[Any], tensors: Iterable[Tensor]) -> None:
    """Refuse packed sequences among the arguments of the model, and tensors in them that are not dense."""
    for value in values:
        if isinstance(value, nn.utils.rnn.PackedSequence):
            raise UnsupportedLayerError(
                "the model's input is a PackedSequence, whose rows are not those of examples: call the model "
                "on padded sequences with the batch in front"
            )
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_nested:
            raise UnsupportedLayerError(
                f"the model's input of shape {tuple(tensor.shape) if not tensor.is_nested else '?'} is not "
                "dense: call the model on dense tensors with the batch in front"
            )


def look_at_saving() -> None:
    """Refuse hooks on tensors saved for backward, except torch's own, which return what they were given."""
    hooks = _saved_tensor_hooks(True)
    if hooks is not None and not str(getattr(hooks[0], "__module__", "")).startswith("torch."):
        raise UnsupportedLayerError(
            "tensors saved for the backward pass go through hooks (saved_tensors_hooks), which may change them: "
            "leave the hooks out in the block"
        )


def transformed_of_examples(given: Iterable[Tensor], axes: BatchAxes) -> str | None:
    """Return what is wrong where what depends on examples is in a transform of torch.func, and no gradient shows it."""
    for tensor in given:
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        if not tensor.requires_grad and axes.get(tensor) is not None and axes.batch != 1:
            return (
                f"a tensor of shape {tuple(tensor.shape)} that depends on examples went into a transform of "
                "torch.func (vmap, jvp), in which rows are not followed: write it without"
            )
    return None
