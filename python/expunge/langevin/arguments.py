"""Checks of the arguments that normals and chains share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from expunge import _validate

__all__ = ["MAX_CHAIN", "MAX_STEP", "below", "float_dtype", "seed_number"]

MAX_CHAIN = 2**56  # the counter holds 56 bits of chain and 32 of step
MAX_STEP = 2**32


def seed_number(seed: Any) -> int:
    """Return a seed in [0, 2**64), or raise."""
    value = _validate.count("seed", seed)
    if value >= 2**64:
        raise ValueError(f"seed must be < 2**64, got {value}")
    return value


def below(name: str, value: Any, bound: int, bound_text: str) -> int:
    """Return an integer in [0, bound), or raise."""
    number = _validate.count(name, value)
    if number >= bound:
        raise ValueError(f"{name} must be < {bound_text}, got {number}")
    return number


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return float64 or float32, or raise."""
    result = np.dtype(dtype)
    if result not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise TypeError(f"dtype must be float64 or float32, got {result}")
    return result
