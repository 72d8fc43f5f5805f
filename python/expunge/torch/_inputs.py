"""Tensors in a model's arguments: in lists, mappings, named tuples and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from expunge.torch._sources import map_tensors, tensors_in

__all__ = ["inputs_in", "map_inputs"]


def _opened(value: Any) -> Any:
    """Return a value as the dicts and lists it is made of."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {k: _opened(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_opened(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [_opened(getattr(value, f.name)) for f in dataclasses.fields(value)]
    return value


def inputs_in(*containers: Any) -> list[Tensor]:
    """Return the tensors in arguments of a model, in their order."""
    found: list[Tensor] = []
    for container in containers:
        if isinstance(container, Tensor):
            found.append(container)
        else:
            found.extend(tensors_in([_opened(container)]))
    return found


def map_inputs(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Return the arguments of a model with every tensor in them changed."""
    if isinstance(value, Mapping) and type(value) is not dict:
        made: Any = copy.copy(value)
        for k, v in value.items():
            made[k] = map_inputs(change, v)
        return made
    if isinstance(value, dict):
        return {k: map_inputs(change, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [map_inputs(change, v) for v in value]
        return getattr(value, "_make", type(value))(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        other = copy.copy(value)
        for f in dataclasses.fields(value):
            object.__setattr__(other, f.name, map_inputs(change, getattr(value, f.name)))
        return other
    return map_tensors(change, value)
