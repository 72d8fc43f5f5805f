"""Ids of the records of the first fit, exact integers or strings, and the rows that they name."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._validate import row_indices

__all__ = [
    "Id",
    "RecordIds",
    "as_array",
    "exact_ids",
    "given_groups",
    "ids_of_fit",
    "refuse_other_order",
    "refuse_other_people",
    "selected_rows",
]

Id = int | str

# Where ids come from; for rows numbered 0..n-1 by their table an id and a position are the same.
GIVEN, INDEX, ROW_NUMBERS = "record_ids", "index", "row numbers"


def _exact(name: str, value: Any, place: str) -> Id:
    """Return one id as a Python int or str, or raise."""
    if isinstance(value, str):
        if not value:
            raise ValueError(f"{name} must not hold an empty id, got one{place}")
        if not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
            raise ValueError(f"{name} must hold text that UTF-8 can encode, got {value!r}{place}")
        return str.__str__(value)
    if isinstance(value, Integral) and not isinstance(value, (bool, np.bool_)):
        number = operator.index(value)
        if number.bit_length() > 13_000:  # Python writes and reads 4,300 digits
            raise ValueError(f"{name} must hold integers of at most 3,900 digits, got a longer one{place}")
        return number
    missing = value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType")
    got = "a missing value" if missing or (isinstance(value, float) and value != value) else repr(value)
    raise TypeError(f"{name} must hold integers or strings, got {got} ({type(value).__name__}){place}")


def exact_ids(name: str, value: Any) -> list[Id]:
    """Return ids as Python integers or strings, all of one kind, from any container; nothing passes through float64.

    Raises
    ------
    TypeError
        If one is neither an integer nor a string (booleans, floats, dates, None and NaN included), if both kinds
        occur, or if the array is masked.
    ValueError
        If there is none, one is empty text, no UTF-8 or an integer of more than 3,900 digits, or the array has more
        than one dimension.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: say which ids are meant without a mask")
    if isinstance(value, (str, bytes, np.generic)) or np.ndim(_shape_only(value)) == 0:
        value = [value[()] if isinstance(value, np.ndarray) else value]
    if not isinstance(value, (list, tuple, range)):
        # Tables and their columns: of numbers as they are, of anything else as Python objects.
        array = np.asarray(value)
        if array.ndim != 1:
            raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
        if array.dtype.kind not in "iuUO":
            raise TypeError(f"{name} must hold integers or strings, got dtype {array.dtype}")
        value = array.tolist()
    if not len(value):
        raise ValueError(f"{name} must hold at least one id, got none")
    found = [_exact(name, one, f" at position {i}" if len(value) > 1 else "") for i, one in enumerate(value)]
    kinds = {isinstance(one, str) for one in found}
    if len(kinds) > 1:
        odd = next(i for i, one in enumerate(found) if isinstance(one, str) != isinstance(found[0], str))
        raise TypeError(
            f"{name} must be all integers or all strings, got {found[0]!r} and, at position {odd}, {found[odd]!r}"
        )
    return found


def _shape_only(value: Any) -> Any:
    """Stand in for a value when asking for its number of dimensions, so that no list is converted for it."""
    return [None] if isinstance(value, (list, tuple, range)) else value


def as_array(ids: Sequence[Id]) -> NDArray[Any]:
    """Return ids as the narrowest exact array: int64, uint64, or Python objects."""
    numbers = [one for one in ids if not isinstance(one, str)]
    for dtype in (np.int64, np.uint64) if numbers else ():
        if np.iinfo(dtype).min <= min(numbers) and max(numbers) <= np.iinfo(dtype).max:
            return np.array(numbers, dtype=dtype)
    result = np.empty(len(ids), dtype=object)
    result[:] = ids
    return result


@dataclass(frozen=True)
class RecordIds:
    """One id per row of the first fit; all rows of one id are one person.

    Attributes
    ----------
    values : tuple of int or tuple of str, length n
        Exact, in the order of the rows; None for a row that was deleted and is gone.
    origin : str
        "record_ids", "index" (of a table) or "row numbers" (a table numbered 0..n-1: an id is a position).
    """

    values: tuple[Any, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.values)

    @property
    def kind(self) -> str:
        """``"string"`` or ``"integer"``."""
        return "string" if isinstance(self.names[0], str) else "integer"

    @cached_property
    def _numbers(self) -> dict[Id, int]:
        """Number of each distinct id, by first appearance."""
        known = dict.fromkeys(one for one in self.values if one is not None)
        return {one: number for number, one in enumerate(known)}

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """Number of each row's id, shape (n,); -1 for rows whose id is gone."""
        numbers = (-1 if one is None else self._numbers[one] for one in self.values)
        return np.fromiter(numbers, dtype=np.int64, count=len(self.values))

    @cached_property
    def names(self) -> list[Id]:
        """Distinct ids, by number."""
        return list(self._numbers)

    def find(self, name: str, ids: Any) -> list[int]:
        """Return the numbers of ids, each once, in the order given.

        Raises
        ------
        TypeError
            If they are not of this model's kind: 7 is not "7".
        ValueError
            Naming the first that no row has.
        """
        wanted = exact_ids(name, ids)
        if isinstance(wanted[0], str) != (self.kind == "string"):
            raise TypeError(f"{name} must hold {self.kind}s, as the ids of this model are, got {wanted[0]!r}")
        for one in wanted:
            if one not in self._numbers:
                if None in self.values:
                    raise ValueError(
                        f"{name} must name records still in use, got {one!r}, deleted before or never among them: ids "
                        "of deleted records are not kept"
                    )
                raise ValueError(f"{name} must be ids of records in the model, got {one!r}, which no record has")
        return list(dict.fromkeys(self._numbers[one] for one in wanted))

    def without(self, rows: Sequence[int]) -> RecordIds:
        """Return the ids without those of rows that are gone; numbers of rows name nobody and stay."""
        if self.origin == ROW_NUMBERS:
            return self
        gone = set(rows)
        return RecordIds(tuple(None if i in gone else one for i, one in enumerate(self.values)), self.origin)

    def rows(self, name: str, ids: Any, *, removed: Sequence[int]) -> NDArray[np.int64]:
        """Return the rows still in use of ids, sorted.

        Raises
        ------
        TypeError, ValueError
            As `find`; also for an id all of whose rows were deleted before.
        """
        wanted = self.find(name, ids)
        left = np.ones(len(self.values), dtype=bool)
        left[list(removed)] = False
        rows = np.flatnonzero(np.isin(self.codes, wanted) & left)
        for number in sorted(set(wanted) - set(self.codes[rows].tolist()), key=wanted.index):
            raise ValueError(f"{name} must name records still in use, got {self.names[number]!r}, deleted before")
        return rows


def ids_of_fit(X: Any, y: Any, record_ids: Any, n: int) -> RecordIds | None:
    """Return the ids of the rows of a fit: those given, else the index of X, else that of y, else None.

    Where X has no index of its own (an array that a scaler made of a table, say), labels are still what the caller has
    in the index of y: a position must not be taken for one of them.

    Raises
    ------
    TypeError, ValueError
        As `exact_ids`; if there is not one id per row; or if ``y`` or ``record_ids`` is a table of the same labels in
        another order.
    """
    index = _index(X)
    labels = None if index is None else index.tolist()
    refuse_other_order("y", y, X)
    refuse_other_order("record_ids", record_ids, X if index is not None else y)
    if record_ids is not None:
        given = tuple(exact_ids("record_ids", record_ids))
        if len(given) != n:
            raise ValueError(f"record_ids must hold one id per row of X, {n}, got {len(given)}")
        for name, table in (("X", X), ("y", y)):
            refuse_other_people(name, table, given, of="record_ids", strict=False)
        return RecordIds(given, GIVEN)
    if labels is None or _counts(labels):
        theirs = _index(y)
        if theirs is not None and len(theirs) == n and not _counts(theirs.tolist()):
            with contextlib.suppress(TypeError, ValueError):  # labels that nobody takes for a position
                return RecordIds(tuple(exact_ids("the index of y", theirs)), INDEX)
        return None if labels is None else RecordIds(tuple(labels), ROW_NUMBERS)
    try:
        return RecordIds(tuple(exact_ids("the index of X", index)), INDEX)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{error}; pass record_ids=, or X.reset_index(drop=True) to name records by position"
        ) from None


def given_groups(groups: Any, *, n: int, by_id: bool) -> RecordIds:
    """Return the groups that a quote is asked for: one for each row of the first fit.

    Raises
    ------
    TypeError, ValueError
        If people are asked for as well, groups are no ids, or they are not one for each row.
    """
    if by_id:
        raise TypeError("quote takes one of by_id and groups, got both")
    values = tuple(exact_ids("groups", groups))
    if len(values) != n:
        raise ValueError(f"groups must hold one id per row of the first fit, {n}, got {len(values)}")
    return RecordIds(values, "groups")


def refuse_other_order(name: str, values: Any, table: Any) -> None:
    """Refuse a table or column whose index has the labels of another table in another order.

    Raises
    ------
    ValueError
        Naming the argument: row by row, somebody would get the values of somebody else.
    """
    index, other = _index(table), _index(values)
    if index is None or other is None:
        return
    labels, theirs = index.tolist(), other.tolist()
    if theirs != labels and len(theirs) == len(labels) and _same_labels(theirs, labels):
        raise ValueError(
            f"{name} must be in the order of X, got an index with the same labels in another order: pass "
            f"{name}.loc[X.index], or {name}.to_numpy() if the rows do belong together as they stand"
        )


def refuse_other_people(name: str, values: Any, ids: Sequence[Id], *, of: str, strict: bool = True) -> None:
    """Refuse a table or column whose index names other records than those it is taken for.

    Parameters
    ----------
    name : str
        The argument.
    values : object
        What was given for it; without an index of pandas it is taken as it stands.
    ids : sequence of int or str
        Ids of the records, in order.
    of : str
        The argument that says which records they are.
    strict : bool, default True
        Refuse labels that are no ids at all, unless they count from 0.

    Raises
    ------
    ValueError
        Naming the argument: row by row, somebody would get the values of somebody else.
    """
    index = _index(values)
    labels, wanted = [] if index is None else index.tolist(), list(ids)
    if index is None or labels == wanted:
        return
    remedy = f"give it their ids for its index ({name}.set_axis) if its rows are in the order of {of} as they stand"
    if _same_labels(labels, wanted):
        raise ValueError(
            f"{name} must be in the order of {of}, got an index with the same ids in another order: {remedy}"
        )
    if strict and not _counts(labels):
        raise ValueError(
            f"{name} must have the records of {of} for its index, got other labels, {labels[0]!r}: {remedy}"
        )


def _counts(labels: list[Any]) -> bool:
    """Return whether labels are 0, 1, 2, ..."""
    return labels == list(range(len(labels))) and not any(isinstance(one, bool) for one in labels[:2])


def _index(table: Any) -> Any:
    """Return the index of a pandas table or column, or None."""
    return table.index if hasattr(table, "iloc") and hasattr(table, "index") else None


def _same_labels(one: list[Any], other: list[Any]) -> bool:
    try:
        return sorted(one) == sorted(other)
    except TypeError:  # labels that have no order
        return False


def selected_rows(
    known: RecordIds | None, *, n: int, removed: Sequence[int], indices: Any = None, ids: Any = None, rows: Any = None
) -> NDArray[np.int64]:
    """Return the rows that are named in one of three ways.

    Parameters
    ----------
    known : RecordIds or None
        Ids of the first fit.
    n : int
        Rows of the first fit.
    removed : sequence of int
        Rows deleted before.
    indices : int or sequence of int, optional
        Positions, where positions are the only numbers a record has.
    ids, rows : optional
        Ids of the first fit; positions.

    Raises
    ------
    TypeError, ValueError
        On none or several of the three, on ids or positions that do not exist or were deleted before, and on
        ``indices`` that could mean an id.
    """
    given = [name for name, value in (("indices", indices), ("ids", ids), ("rows", rows)) if value is not None]
    if len(given) != 1:
        raise TypeError(f"records must be named by one of ids and rows, got {' and '.join(given) or 'neither'}")
    if ids is not None:
        if known is None:
            raise ValueError(
                "ids must be known from fit, but this model has none: fit with record_ids=, or say rows= for positions"
            )
        return known.rows("ids", ids, removed=removed)
    name, value = ("rows", rows) if indices is None else ("indices", indices)
    if indices is not None:
        _refuse_ambiguous(known, indices)
    found = row_indices(name, value, n)
    gone = np.intersect1d(found, np.array(removed, dtype=np.int64))
    if gone.size:
        raise ValueError(f"{name} must name records still in use, got {gone[0]}, which was deleted before")
    return found


def _refuse_ambiguous(known: RecordIds | None, indices: Any) -> None:
    if known is not None and known.origin != ROW_NUMBERS:
        first = np.ravel(np.asarray(indices, dtype=object))[:1].tolist()
        what = repr(first[0]) if first else "a number"
        source = "the index of X or y" if known.origin == INDEX else "record_ids"
        raise ValueError(
            f"indices are ambiguous, because this model has ids (from {source}): {what} could mean the id or the "
            f"position; say ids= for ids or rows= for positions in the first fit"
        )
    if known is None and hasattr(indices, "get_indexer"):
        raise ValueError(
            "indices must be positions, got the labels of a table's index, and this model was fitted without one: "
            "fit with record_ids= and say ids=, or say rows= with positions in the first fit"
        )
