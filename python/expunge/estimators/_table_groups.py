"""Rows of a table that are quoted together, gathered in passes that hold few of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.estimators._records import Id, as_array, exact_ids, given_groups, selected_rows
from expunge.estimators._table_pass import Part, TablePass, gathered, kind_of

__all__ = ["TableGroups", "Together", "complete_groups", "groups_of"]

_HELD_BYTES = 1 << 30  # of rows that wait for others of their group


@dataclass(frozen=True)
class TableGroups:
    """Groups of rows in use, one after the other.

    Attributes
    ----------
    unit : str
        "id" or "group".
    names : ndarray
        Of the groups.
    codes : ndarray of int64, shape (n,)
        Number of the group of each row of the first fit; -1 for rows that are in none.
    """

    unit: str
    names: NDArray[Any]
    codes: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each group."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


def groups_of(table: TablePass, *, by_id: bool, groups: Any, indices: Any, ids: Any, rows: Any) -> TableGroups:
    """Return what is quoted together; ids of the table are read in a pass.

    Raises
    ------
    TypeError, ValueError
        As for models in memory, and if the table has no ids.
    """
    history = table.history
    n, removed = len(history.design), history.removed
    if groups is not None:
        unit, known = "group", given_groups(groups, n=n, by_id=by_id)
        codes, names = known.codes, known.names
    if ids is not None or groups is None:
        if not table.records.has_ids:
            raise ValueError("table must have ids to quote people, got none: name its column of ids, or say rows=")
        of_rows, people = _ids_of(table)
    if groups is None:
        unit, codes, names = "id", of_rows, people
    if ids is not None:
        chosen = _rows_of_ids(of_rows, people, exact_ids("ids", ids))
    elif indices is not None or rows is not None:
        chosen = selected_rows(None, n=n, removed=removed, indices=indices, rows=rows)
    else:
        chosen = history.remaining
    wanted = np.array(list(dict.fromkeys(codes[chosen].tolist())), dtype=np.int64)
    number = np.full(len(names) + 1, -1, dtype=np.int64)  # the last for rows that are gone, whose code is -1
    number[wanted] = np.arange(len(wanted))
    own = number[codes]
    own[list(removed)] = -1
    found = TableGroups(unit, as_array([names[code] for code in wanted.tolist()]), own)
    if found.sizes.max() >= history.n_remaining:
        raise ValueError(f"{unit}s must leave at least one record, got one that is all of them")
    return found


def _ids_of(table: TablePass) -> tuple[NDArray[np.int64], list[Id]]:
    """Return the number of the id of each row in use, by first appearance, -1 for all others, and the ids."""
    codes = np.full(len(table.history.design), -1, dtype=np.int64)
    numbers: dict[Id, int] = {}
    for part in table:
        assert part.ids is not None
        codes[part.numbers] = [numbers.setdefault(one, len(numbers)) for one in part.ids.tolist()]
    return codes, list(numbers)


def _rows_of_ids(codes: NDArray[np.int64], people: list[Id], wanted: list[Id]) -> NDArray[np.int64]:
    """Return the rows of some ids, sorted."""
    kind_of(people[0], wanted[0])
    numbers = {one: number for number, one in enumerate(people)}
    for one in wanted:
        if one not in numbers:
            raise ValueError(f"ids must be ids of the table, got {one!r}, which no record in use has")
    return np.flatnonzero(np.isin(codes, [numbers[one] for one in wanted]))


@dataclass(frozen=True)
class Together:
    """Groups all of whose rows are at hand.

    Attributes
    ----------
    groups : list of int
        Their numbers.
    rows : Part
        The rows of all.
    members : list of ndarray of int64
        Places of each group's rows among these.
    """

    groups: list[int]
    rows: Part
    members: list[NDArray[np.int64]]


class _Waiting:
    """Rows of groups that are not complete yet."""

    def __init__(self, codes: NDArray[np.int64], sizes: NDArray[np.int64], room: int) -> None:
        self._codes, self._missing, self._room = codes, sizes.copy(), room
        self._sizes, self._parts = sizes, list[Part]()
        self._held, self._promised, self._ready = 0, 0, 0
        self.todo = sizes > 0
        self._let_in = np.zeros(len(sizes), dtype=bool)
        self._late = np.zeros(len(sizes), dtype=bool)

    def begin(self) -> None:
        """Begin another pass: groups that found no room get another chance."""
        self._let_in[:], self._late[:] = False, False

    def add(self, part: Part) -> None:
        """Take in those rows whose groups have room, from their first row on."""
        codes = self._codes[part.numbers]
        inside = codes >= 0
        inside[inside] = self.todo[codes[inside]]
        for code in dict.fromkeys(codes[inside].tolist()):
            if not (self._let_in[code] or self._late[code]):
                fits = not self._promised or self._promised + self._sizes[code] <= self._room
                (self._let_in if fits else self._late)[code] = True
                self._promised += int(self._sizes[code]) if fits else 0
        inside[inside] = self._let_in[codes[inside]]
        if not inside.any():
            return
        self._parts.append(part.chosen(inside))
        self._held += int(inside.sum())
        np.subtract.at(self._missing, codes[inside], 1)
        done = np.unique(codes[inside])
        self._ready += int(self._sizes[done[self._missing[done] == 0]].sum())

    def taken(self, *, last: bool) -> Together | None:
        """Return the groups that are complete, once these make up half of what is held, or at the end of a pass."""
        if not self._ready or (2 * self._ready < self._held and not last):
            return None
        rows = gathered(self._parts)
        codes = self._codes[rows.numbers]
        ready = self._missing[codes] == 0
        complete, rest = rows.chosen(ready), rows.chosen(~ready)
        codes = codes[ready]
        groups = np.unique(codes)
        order = np.argsort(codes, kind="stable")
        members = np.split(order, np.searchsorted(codes[order], groups[1:]))
        self.todo[groups] = False
        self._parts, self._held = ([rest] if len(rest) else []), len(rest)
        self._promised, self._ready = self._promised - len(complete), 0
        return Together(groups.tolist(), complete, members)


def complete_groups(table: TablePass, found: TableGroups) -> Iterator[Together]:
    """Yield groups as their last rows come, in one pass; in more where rows that wait would take too much memory."""
    history = table.history
    columns = history.design.shape[1] + history.targets.shape[1]
    waiting = _Waiting(found.codes, found.sizes, max(_HELD_BYTES // (8 * columns), 1))
    while left := int(waiting.todo.sum()):
        waiting.begin()
        for part in table:
            waiting.add(part)
            if (complete := waiting.taken(last=False)) is not None:
                yield complete
        if (complete := waiting.taken(last=True)) is not None:
            yield complete
        assert waiting.todo.sum() < left  # the first group of a pass is let in, and every pass sees all rows
