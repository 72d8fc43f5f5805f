"""The parameters of a model that are followed, and the models refused because their uses cannot be."""

from __future__ import annotations

from functools import cache
from typing import NoReturn

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from expunge.torch._errors import UnsupportedLayerError

__all__ = ["followed_parameters", "name_of"]


@cache
def _kind_of(kind: type) -> tuple[bool, bool, bool]:
    """Return the kind of a type of modules: one of torch.compile, of torch.jit, a batch normalisation."""
    compiled = kind.__module__.startswith("torch._dynamo")
    return compiled, issubclass(kind, torch.jit.ScriptModule), issubclass(kind, _BatchNorm)


def followed_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """Return parameters that require grad in the order of their names, and all modules, except what is refused.

    Once a step: names are for messages, and made when one is needed.
    """
    found: dict[int, nn.Parameter] = {}
    seen: set[int] = set()
    modules: list[nn.Module] = []
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        modules.append(module)
        dynamo, scripted, normalises = _kind_of(type(module))  # type: ignore[arg-type]
        if module._compiled_call_impl is not None or dynamo:
            raise UnsupportedLayerError(
                f"{name_of(model, module)}: it is compiled, so that uses of its parameters cannot be followed: pass "
                "and call the original module"
            )
        if scripted:
            raise UnsupportedLayerError(
                f"{name_of(model, module)}: it is compiled by torch.jit, so that uses of its parameters cannot be "
                "followed: pass and call the module that was scripted or traced"
            )
        if normalises and (module.training or module.running_mean is None):
            raise UnsupportedLayerError(
                f"{name_of(model, module)}: batch normalisation in training mode mixes the examples, so that no "
                "gradient belongs to one of them: use eval mode or another normalisation"
            )
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad and id(parameter) not in found:
                plain = type(parameter) is nn.Parameter and parameter.is_floating_point()
                if not plain or parameter.device.type not in ("cpu", "cuda"):
                    _refuse(model, module, key, parameter)
                found[id(parameter)] = parameter
        waiting.extend(child for child in reversed(module._modules.values()) if child is not None)
    return list(found.values()), modules


def name_of(model: nn.Module, module: nn.Module) -> str:
    """Return the name of a module of the model, for messages."""
    return next(name for name, other in model.named_modules() if other is module) or "the model"


def _refuse(model: nn.Module, module: nn.Module, key: str, parameter: nn.Parameter) -> NoReturn:
    name = f"{name_of(model, module)}.{key}" if module is not model else key
    if parameter.device.type not in ("cpu", "cuda"):
        raise UnsupportedLayerError(f"{name}: it is on {parameter.device}; kernels run on the CPU and on CUDA")
    if not parameter.is_floating_point():
        raise UnsupportedLayerError(f"{name}: its dtype is {parameter.dtype}, which is not real")
    raise UnsupportedLayerError(f"{name}: it is a {type(parameter).__name__}, not a plain parameter")
