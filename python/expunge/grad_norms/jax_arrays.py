"""Arrays of JAX on the CPU: read where they lie, and results given back as arrays of JAX on the same device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from expunge._kernels.backend import on_device

__all__ = ["results_in_jax"]

P = ParamSpec("P")
R = TypeVar("R")


def _of_jax(value: object) -> bool:
    return type(value).__module__.partition(".")[0] in ("jax", "jaxlib") and hasattr(value, "dtype")


def _on_host(value: Any) -> Any:
    if not _of_jax(value):
        return value
    array = np.asarray(value)
    return np.ascontiguousarray(array.astype(np.float32) if array.dtype.name == "bfloat16" else array)


def results_in_jax(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function of arrays that gives JAX's arrays on the CPU what it gives NumPy's.

    bfloat16 is read as float32, which holds it exactly. Results are float64 where JAX has it, and float32 elsewhere.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        ours = [value for value in (*args, *kwargs.values()) if _of_jax(value)]
        if not ours:
            return function(*args, **kwargs)
        jax: Any = sys.modules["jax"]
        if any(isinstance(value, jax.core.Tracer) for value in ours):
            raise TypeError(
                f"{function.__name__} is compiled code that JAX cannot trace: call it outside of jax.jit, or take "
                "norms of a loss function by expunge.jax.grad_norms"
            )
        if any(on_device(value) for value in ours):
            return function(*args, **kwargs)
        plain: Any = function
        found = plain(*map(_on_host, args), **{name: _on_host(value) for name, value in kwargs.items()})
        device = next(iter(ours[0].devices()))  # type: ignore[attr-defined]
        return jax.device_put(jax.numpy.asarray(found), device)  # type: ignore[no-any-return]

    return called
