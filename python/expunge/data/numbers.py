"""Numbers and labels of a data set, checked: what every source must satisfy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import AnyArray

__all__ = ["checked_answers", "checked_targets", "real_numbers"]


def checked_answers(values: NDArray[Any], kind: str | None, place: str, first: int) -> AnyArray:
    """Return targets of some rows as int64 ("i"), float64 ("f") or str ("U"), or refuse one by its row.

    Rows count from ``first``; the kind is that of the whole table, of which these rows may need less.
    """
    if kind == "U":
        empty = np.flatnonzero(np.char.strip(values) == "")
        if len(empty):
            raise ValueError(f"{place}, row {first + int(empty[0])} must hold a label, got empty text")
        return np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if kind == "i":
        if values.dtype == np.uint64 and len(values) and values.max() >= 2**63:
            row = int(np.argmax(values >= 2**63))
            raise ValueError(f"{place}, row {first + row}: targets must be below 2^63, got {values[row]}")
        return np.ascontiguousarray(values, dtype=np.int64)
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(values, dtype=np.float64)
    odd = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(axis=1))
    if len(odd):
        raise ValueError(f"{place}, row {first + int(odd[0])} must hold finite targets, got {found[odd[0]]}")
    return found


def checked_targets(y: NDArray[Any], name: str) -> AnyArray:
    """Return targets as int64, float64 or str, finite and of one or two dimensions; ``name`` is their source."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "U":
        if y.ndim != 1:
            raise ValueError(f"{name}: labels of text must be one column, got shape {y.shape}")
        if (np.char.strip(y) == "").any():
            raise ValueError(f"{name}: target {int((np.char.strip(y) == '').argmax())} is empty")
        return np.array(y)
    if y.dtype.kind in "iub":
        if y.dtype == np.uint64 and (y >= 2**63).any():
            raise ValueError(f"{name}: targets must be below 2^63, got {int(y.max())}: write them as text or as floats")
        return np.array(y, dtype=np.int64, order="C")
    return real_numbers(y, name, "y", "target")


def real_numbers(
    array: NDArray[Any], name: str, argument: str, what: str, names: tuple[str, ...] | None = None
) -> NDArray[np.float64]:
    """Return an array as finite float64 in C order, copied; what is not finite is named by its row and column."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: {argument} must hold real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        values = np.array(array, dtype=np.float64, order="C")
    bad = ~np.isfinite(values)
    if bad.any():
        where = np.argwhere(bad)[0]
        place = f"{what} {where[0]}" + (f", feature {where[1]}" if len(where) > 1 else "")
        place += "" if names is None else f" ({names[where[1]]!r})"
        raise ValueError(f"{name}: {place} must be finite, got {values[tuple(where)]}")
    return values
