"""IEEE arithmetic for bounds, whatever the floating-point mode of the calling thread.

A thread may flush subnormal numbers to zero (``torch.set_flush_denormal(True)``) or round another way. A bound that is
flushed to 0 is no bound, so certified functions work in the standard mode, and where the caller could not see a
subnormal result it gets the smallest normal number instead. Compiled kernels do the same by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from expunge._kernels.backend import FLUSHING, IEEE_MODE, exchange_float_mode

__all__ = ["ieee_arithmetic"]

P = ParamSpec("P")
R = TypeVar("R")

_SMALLEST = float(np.finfo(np.float64).tiny)


def ieee_arithmetic(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function whose floats and float arrays are upper bounds in IEEE arithmetic."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = exchange_float_mode(IEEE_MODE)
        try:
            result = function(*args, **kwargs)
            return result if not before & FLUSHING else _visible(result)
        finally:
            exchange_float_mode(before)

    return run


def _visible(result: Any) -> Any:
    """Return a bound with positive subnormal numbers raised to the smallest normal one."""
    if isinstance(result, float):
        return _SMALLEST if 0.0 < result < _SMALLEST else result
    if isinstance(result, np.ndarray) and result.dtype == np.float64:
        return np.where((result > 0.0) & (result < _SMALLEST), _SMALLEST, result).view(type(result))
    return result
