"""Single values of model files: of exactly the type and shape that was written, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["digest", "digests", "flag", "floats", "salt", "text", "texts", "whole"]


def whole(name: str, value: Any, *, low: int = 0) -> int:
    """Return a JSON integer of at least ``low``."""
    if type(value) is not int or value < low:
        raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """Return a JSON boolean."""
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """Return a JSON string."""
    if type(value) is not str:
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Return a JSON list of strings."""
    if type(value) is not list:
        raise ValueError(f"{name} must be a list of texts, got {value!r}")
    return tuple(text(name, one) for one in value)


def salt(stored: Any) -> bytes:
    """Return the salt of ledgers."""
    found = bytes.fromhex(text("salt", stored))
    if len(found) != 32:
        raise ValueError(f"salt must be 32 bytes, got {len(found)}")
    return found


def digests(stored: Any) -> tuple[str, str]:
    """Return the digests of the features and the targets of the first fit."""
    found = texts("digests", stored)
    if len(found) != 2 or not all(map(_is_digest, found)):
        raise ValueError(f"digests must be two of 64 hexadecimal digits, got {list(found)}")
    return found[0], found[1]


def digest(name: str, value: Any) -> str:
    """Return a digest."""
    if not _is_digest(text(name, value)):
        raise ValueError(f"{name} must be 64 hexadecimal digits, got {value!r}")
    return str(value)


def _is_digest(value: str) -> bool:
    return len(value) == 64 and not set(value) - set("0123456789abcdef")


def floats(name: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    """Refuse an array that is not of finite float64 numbers in this shape, None being any length."""
    wanted = " x ".join("any" if length is None else str(length) for length in shape)
    if array.dtype != np.float64 or array.ndim != len(shape):
        raise ValueError(f"{name} must be float64 of {len(shape)} dimension(s), got {array.dtype} of {array.ndim}")
    if any(length not in (None, got) for length, got in zip(shape, array.shape, strict=True)) or 0 in array.shape:
        raise ValueError(f"{name} must have shape {wanted}, got {' x '.join(map(str, array.shape))}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
