"""Ids of records and of persons: whole numbers and text, exactly as they were written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._types import AnyArray

__all__ = ["exact_ids", "ids_of_text", "whole_id"]

# No more digits than Python converts; -0 is text, and not the 0.
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,3899}")


def exact_ids(ids: ArrayLike) -> AnyArray:
    """Return ids exactly: 64-bit integers, Python integers where one is larger, or text; distinct ids stay distinct.

    Parameters
    ----------
    ids : array-like of shape (n,)
        Integers of any size (NumPy's or Python's) or strings.

    Returns
    -------
    ndarray of shape (n,), int64, object (Python integers) or str

    Raises
    ------
    TypeError
        For floating-point numbers (large ids may have been merged in them), booleans, missing values and mixtures.
    ValueError
        If there is more than one dimension, an empty string, or one with the character NUL.

    Examples
    --------
    >>> exact_ids([9007199254740992, 9007199254740993]).tolist()
    [9007199254740992, 9007199254740993]
    >>> exact_ids([2**64, 1]).tolist()
    [18446744073709551616, 1]
    """
    if isinstance(ids, np.ma.MaskedArray) and np.ma.is_masked(ids):
        raise TypeError("ids must be whole numbers or text, got a masked entry")
    # NumPy would make floats of integers on both sides of 2^63.
    array: NDArray[Any] = ids if isinstance(ids, np.ndarray) else np.array(ids, dtype=object)
    if array.ndim != 1:
        raise ValueError(f"ids must have one dimension, got shape {array.shape}")
    if array.dtype.kind == "O":
        values = array.tolist()
        if all(isinstance(value, str) for value in values):
            _refuse_nul(values)  # NumPy drops it at the end: two ids would become one
            array = np.array(values, dtype=np.str_)
        elif all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values):
            return _whole([int(value) for value in values])
        else:
            kinds = sorted({type(value).__name__ for value in values})
            raise TypeError(f"ids must be all whole numbers or all text, got {', '.join(kinds)}")
    if array.dtype.kind in "iu":
        big = array.dtype == np.uint64 and bool((array >= 2**63).any())
        return array.astype(object) if big else array.astype(np.int64)
    if array.dtype.kind != "U":
        hint = ", which merge large ids: store whole numbers or text" if array.dtype.kind == "f" else ""
        raise TypeError(f"ids must be whole numbers or text, got dtype {array.dtype}{hint}")
    if (array == "").any():
        raise ValueError(f"ids must not be empty, got '' at index {int((array == '').argmax())}")
    return array


def whole_id(text: str) -> int | None:
    """Return the whole number of at most 3,900 digits that a text is, written as Python writes it; else None."""
    return int(text) if _WHOLE.fullmatch(text) else None


def _refuse_nul(values: Sequence[str]) -> None:
    for i, value in enumerate(values):
        if "\0" in value:
            raise ValueError(f"ids must not hold the character NUL, got {value!r} at index {i}")


def _whole(values: list[int]) -> NDArray[Any]:
    fits = all(-(2**63) <= value < 2**63 for value in values)
    return np.array(values, dtype=np.int64 if fits else object)


def ids_of_text(cells: Sequence[str]) -> NDArray[Any]:
    """Return the ids that text cells hold: integers if all are written as such, else the text ("007" is not "7").

    Raises
    ------
    ValueError
        If all are numbers and some have a point or an exponent: whoever wrote them may have rounded.
    """
    if all(_WHOLE.fullmatch(cell) for cell in cells):
        return _whole([int(cell) for cell in cells])
    numbers = [_is_float(cell) for cell in cells]
    if all(numbers) and any(not cell.lstrip("+-").isdigit() for cell in cells):
        odd = next(cell for cell in cells if not cell.lstrip("+-").isdigit())
        raise ValueError(f"holds {odd!r}, a number that may have been rounded; write ids as whole numbers or as text")
    return np.array(cells, dtype=np.str_)


def _is_float(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
