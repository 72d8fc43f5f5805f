"""Checks of meaning for public arguments. Every error names the argument, what came and what was needed."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["choice", "count", "number", "plain_array", "real_array", "refuse_masks", "row_indices", "unmasked"]

_MANY = 4096  # numbers from which a sum is cheaper than a test of each


def _bounds_text(low: float | None, high: float | None, open_low: bool, open_high: bool) -> str:
    parts = []
    if low is not None:
        parts.append(f"{'>' if open_low else '>='} {low:g}")
    if high is not None:
        parts.append(f"{'<' if open_high else '<='} {high:g}")
    return " and ".join(parts)


def plain_array(name: str, value: Any) -> NDArray[Any]:
    """Return ``value`` as an array of numbers; masked and sparse arrays and objects are refused by name."""
    array = unmasked(name, value)
    if array.dtype.kind == "O" and _has_plain_columns(value):
        return np.asarray(value.to_numpy(dtype=np.float64))
    if array.dtype.kind == "O":
        odd = next((one for one in array.reshape(-1) if not isinstance(one, (int, float, np.number))), None)
        seen = f", such as {odd!r}" if odd is not None else ""
        raise TypeError(f"{name} must hold numbers, got dtype object{seen}: fill or drop what is missing, then convert")
    return array


def _has_plain_columns(value: Any) -> bool:
    """Return whether all columns of a table are booleans and numbers, which NumPy may only combine as objects."""
    dtypes = list(getattr(value, "dtypes", ())) if hasattr(value, "columns") else []
    return bool(dtypes) and all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in dtypes)


def unmasked(name: str, value: Any) -> NDArray[Any]:
    """Return ``value`` as an array of any dtype, or raise if it is masked, sparse or ragged."""
    refuse_masks(name, value)
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise TypeError(f"{name} must be dense, got a sparse {type(value).__name__}: use .toarray()")
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name} must be an array, got {type(value).__name__}: {error}") from None


def refuse_masks(name: str, value: Any) -> None:
    """Refuse masked arrays, also inside lists: NumPy would read the masked values."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: use .compressed() or .filled(value)")
    if isinstance(value, (list, tuple)):
        for one in value:
            if isinstance(one, (list, tuple, np.ma.MaskedArray)):
                refuse_masks(name, one)


def real_array(
    name: str,
    value: object,
    *,
    ndim: int | None = None,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    allow_infinite: bool = False,
) -> NDArray[np.float64]:
    """Return ``value`` as a C-contiguous float64 array of finite numbers within the bounds, or raise."""
    array = plain_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float64) if array.ndim else np.asarray(array, dtype=np.float64)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {array.shape}")
    if low is None and high is None and array.size >= _MANY and _sum_is_finite(array):
        return array
    # Written so that NaN fails every comparison.
    good = np.isfinite(array) if not allow_infinite else ~np.isnan(array)
    if not good.all():
        raise ValueError(f"{name} must be {'free of NaN' if allow_infinite else 'finite'}, got {_first(array, ~good)}")
    if low is not None:
        good &= (array > low) if open_low else (array >= low)
    if high is not None:
        good &= (array < high) if open_high else (array <= high)
    if not good.all():
        raise ValueError(f"{name} must be {_bounds_text(low, high, open_low, open_high)}, got {_first(array, ~good)}")
    return array


def _sum_is_finite(array: NDArray[np.float64]) -> bool:
    """Return True only if all numbers are finite: infinity and NaN stay in a sum. One reading, nothing is written."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(float(array.sum()))


def _first(array: NDArray[Any], bad: NDArray[np.bool_]) -> str:
    if array.ndim == 0:
        return str(array)
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{array[where]} at index {where[0] if len(where) == 1 else where}"


def number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    allow_infinite: bool = False,
) -> float:
    """Return ``value`` as a float within the bounds, or raise."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)  # NumPy has no type for integers of 64 bits and more
        except OverflowError:
            raise ValueError(f"{name} must be within the range of float64, got an integer that is not") from None
    array = real_array(
        name, value, low=low, high=high, open_low=open_low, open_high=open_high, allow_infinite=allow_infinite
    )
    if array.ndim:
        raise ValueError(f"{name} must be a single number, got an array of shape {array.shape}")
    return float(array)


def count(name: str, value: Any, *, low: int = 0) -> int:
    """Return ``value`` as an int of at least ``low``, or raise; floats and booleans are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if result < low:
        raise ValueError(f"{name} must be >= {low}, got {result}")
    return result


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``options``, or raise."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def row_indices(name: str, value: Any, n_rows: int) -> NDArray[np.int64]:
    """Return ``value`` (an int or a sequence of ints) as distinct row numbers in [0, n_rows), in the order given."""
    for one in value if isinstance(value, (list, tuple)) else ():
        if isinstance(one, (bool, np.bool_)):  # NumPy would read a boolean among integers as 0 or 1
            raise TypeError(f"{name} must hold integers, got {one!r}")
    array = np.atleast_1d(plain_array(name, value))
    if array.size == 0:
        raise ValueError(f"{name} must name at least one row, got none")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    outside = (array < 0) | (array >= n_rows)
    if outside.any():
        raise ValueError(f"{name} must be within [0, {n_rows}), got {array[outside][0]}")
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} must not repeat a row, got {values[counts > 1][0]} more than once")
    return array.astype(np.int64)
