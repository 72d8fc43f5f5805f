"""Functions written in Python that make their inner calls without first asking for overrides."""

from __future__ import annotations

from types import FunctionType
from typing import Any

__all__ = ["unchecked"]


def unchecked(function: Any, **others: Any) -> Any:
    """Return a copy of a function of torch that hands its inner calls over to an active mode, but not itself.

    ``others`` are called instead of what has their names.
    """
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    scope = {**function.__globals__, **dict.fromkeys(names, lambda *_: False), **others}
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
