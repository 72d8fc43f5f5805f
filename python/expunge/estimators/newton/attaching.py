"""Records of a model found again in its tables, by their salted hashes and in one pass.

A table may hold rows that are no records of the model: those that were deleted from it and that its owner has not
written out yet. Where there are ids the order may be another; without, rows stand in the order of the records. Those of
all rows that the model ever numbered are known by their number, others by their hashes: each record is the first row
behind that of the record before it that has its hash. If any choice of rows has the hashes, this one does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge._errors import counted
from expunge._types import AnyArray
from expunge.certificates.residual import RecordTree
from expunge.certificates.residual.records import contents_found, listed
from expunge.data.blocks import Block, Records
from expunge.estimators.newton.tables import Form
from expunge.runs.residual import Rows
from expunge.runs.residual.answers import Answers, answers_of

__all__ = ["Found", "Search"]

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_RUN = 64  # ids that are compared at once after the order was broken
_NONE = -1


class Found(NamedTuple):
    """Records of a model, found in tables.

    Attributes
    ----------
    kept : tuple of ndarray of bool, shape (n,)
        Which rows of each table are records of the model.
    places : ndarray of int64, shape (n_records,)
        Place in the tree of each record, in the order of the tables.
    """

    kept: tuple[NDArray[np.bool_], ...]
    places: Int64


class Search:
    """A search for the records of a model among the rows of tables.

    Parameters
    ----------
    tables : sequence of Records
        With targets.
    tree : RecordTree
        Hashes, salts and ids of the records.
    form : Form
        How rows and answers are read.
    weights : ndarray of float64, shape (n_records,), or None
        Weight of each record, in the order of the tree.
    next_number : int
        Number of the next record of a model that numbers its records, else -1.
    others : bool
        Whether rows that are no records are passed over.

    Raises
    ------
    ValueError
        If there are fewer rows than records, or more and others are not to be passed over, or they have no ids and the
        records of the model do.
    """

    def __init__(
        self,
        tables: Sequence[Records],
        tree: RecordTree,
        form: Form,
        *,
        weights: Float64 | None,
        next_number: int,
        others: bool,
    ) -> None:
        self._tables, self._form, self._weights = tuple(tables), form, weights
        self._ids, self._contents, self._salts = tree.ids, tree.contents, tree.salts
        n, total = tree.n_records, sum(one.n_records for one in tables)
        with_ids = {one.has_ids for one in tables}
        if len(with_ids) > 1:
            raise ValueError("records must all have ids, or none: got tables of both kinds")
        self._by_number = self._by_hash = False
        if total < n or (total > n and not others):
            more = (
                "; a table where deleted rows still lie is taken with others='omit'"
                if total > n
                else ": name every table that holds some, also those of records that were added or corrected"
            )
            raise ValueError(f"records must be the {n} of the model, in their order, got {total}{more}")
        if not with_ids.pop() and total > n:
            if next_number < 0:
                raise ValueError(
                    f"records must be the {n} of the model, in their order, got {total} rows without ids: name their "
                    "ids, or write the table without the deleted rows"
                )
            self._by_number = total == next_number
            self._by_hash = not self._by_number
        self._free = np.ones(n, dtype=bool)
        self._next = 0  # place that the next row has where the order is that of the tree
        self._at: dict[int | str, list[int]] | None = None
        self._odd: list[tuple[int | str, str]] = []  # rows of known ids that are none of their records
        self._stray = ""  # the first row that is no record, or the last that is one by its hash, for messages
        self._kept = [np.zeros(one.n_records, dtype=bool) for one in tables]
        self._places: list[Int64] = []

    def __iter__(self) -> Iterator[Rows]:
        """Yield the records of each block, as they are found.

        Raises
        ------
        ValueError
            If a record is missing, or is not what it was: named by its id and place.
        """
        starts = accumulate((one.n_records for one in self._tables), initial=0)
        for records, kept, first in zip(self._tables, self._kept, starts, strict=False):
            for block in records.blocks():
                y = np.asarray(block.y)
                X = np.asarray(block.X, dtype=np.float64)
                if self._by_hash:
                    places = self._in_order(records, block, X, y)
                else:
                    places = self._likely(records, block, first)
                    self._compare(records, block, X, y, places)
                local = np.flatnonzero(places != _NONE)
                if not len(local):
                    continue
                kept[block.start + local] = True
                self._places.append(places[local])
                rows = np.ones((len(local), X.shape[1] + self._form.fit_intercept))
                rows[:, : X.shape[1]] = X[local]
                answers = self._answers(y[local])
                weights = None if self._weights is None else self._weights[places[local]]
                yield Rows(rows, answers.labels, answers.targets, weights)
        self._finish()

    def found(self) -> Found:
        """Return where the records are, once all blocks were read."""
        return Found(tuple(self._kept), np.concatenate(self._places))

    # --- rows and places -----------------------------------------------------------------------

    def _likely(self, records: Records, block: Block, first: int) -> Int64:
        """Return the place of each row by its id or number, -1 for rows that are no records; places are then taken."""
        if block.ids is None:
            numbers = np.arange(first + block.start, first + block.start + len(block))
            if not self._by_number:
                places = numbers
            else:
                ids = np.asarray(self._ids, dtype=np.int64)
                order = np.argsort(ids, kind="stable")
                where = np.minimum(np.searchsorted(ids[order], numbers), len(ids) - 1)
                places = np.where(ids[order[where]] == numbers, order[where], _NONE)
            self._free[places[places != _NONE]] = False
            return np.asarray(places, dtype=np.int64)
        ids = np.asarray(block.ids)
        if (ids.dtype.kind == "U") != (self._ids.dtype.kind == "U"):
            kind = "text" if self._ids.dtype.kind == "U" else "whole numbers"
            raise ValueError(f"{records.place(block.start)}: ids must be {kind}, as those of the model: 7 is not '7'")
        places = np.full(len(ids), _NONE, dtype=np.int64)
        row, length = 0, len(ids)
        while row < len(ids):
            stop = min(row + length, len(ids), row + len(self._ids) - self._next)
            run = slice(self._next, self._next + stop - row)
            same = np.asarray(ids[row:stop] == self._ids[run]) & self._free[run]
            good = int(same.argmin()) if not same.all() else len(same)
            places[row : row + good] = np.arange(self._next, self._next + good)
            self._free[self._next : self._next + good] = False
            self._next, row = self._next + good, row + good
            length = max(_RUN, 2 * length if same.all() and good else _RUN)
            if row < len(ids) and (good < len(same) or not len(same)):
                place = self._place_of(ids[row : row + 1].tolist()[0])
                if place is not None:
                    places[row], self._next = place, place + 1
                    self._free[place] = False
                row += 1
        return places

    def _in_order(self, records: Records, block: Block, X: Float64, y: AnyArray) -> Int64:
        """Return the place of each row whose hash is that of the next record, -1 for all others."""
        places = np.full(len(X), _NONE, dtype=np.int64)
        row, length = 0, len(X)
        while row < len(X) and self._next < len(self._ids):
            stop = min(row + length, len(X), row + len(self._ids) - self._next)
            rows = np.arange(row, stop)
            same = self._same(X, y, rows, rows + (self._next - row))
            good = len(same) if same.all() else int(same.argmin())
            places[row : row + good] = np.arange(self._next, self._next + good)
            self._free[self._next : self._next + good] = False
            self._next, row = self._next + good, row + good
            if good:
                self._stray = f", which should come behind {records.place(block.start + row - 1)}"
            if good < len(same):  # a row that is no record
                row += 1
            length = max(_RUN, 2 * length if good == len(same) else _RUN)
        return places

    def _place_of(self, name: int | str) -> int | None:
        """Return the first free place of an id."""
        return next((place for place in self._all_of(name) if self._free[place]), None)

    def _all_of(self, name: int | str) -> list[int]:
        if self._at is None:
            self._at = defaultdict(list)
            for place, one in enumerate(self._ids.tolist()):
                self._at[one].append(place)
        return self._at.get(name, [])

    def _compare(self, records: Records, block: Block, X: Float64, y: AnyArray, places: Int64) -> None:
        """Compare rows with the hashes of their places; what differs is looked for at the other places of its id."""
        some = np.flatnonzero(places != _NONE)
        good = self._same(X, y, some, places[some])
        wrong = some[~good].tolist()
        if block.ids is None:
            if wrong:
                name = self._ids[places[wrong[:1]]].tolist()[0]
                raise _changed(records.place(block.start + wrong[0]), name)
            return
        self._free[places[wrong]] = True
        places[wrong] = _NONE
        if len(some) == len(X) and not wrong:
            return
        names = block.ids.tolist()
        for row in np.flatnonzero(places == _NONE).tolist():
            known = self._all_of(names[row])
            free = [place for place in known if self._free[place]]
            fits = self._same(X, y, np.full(len(free), row), np.array(free, dtype=np.int64))
            if fits.any():
                places[row] = free[int(fits.argmax())]
                self._free[places[row]] = False
                continue
            place = records.place(block.start + row)
            if known:
                self._odd.append((names[row], place))
            self._stray = self._stray or f" ({place}, of {names[row]!r}, is none of them)"

    def _same(self, X: Float64, y: AnyArray, rows: Int64, places: Int64) -> NDArray[np.bool_]:
        """Return which rows, with the salts of some places, have the hashes that stand there."""
        if not len(rows):
            return np.zeros(0, dtype=bool)
        try:
            answers = self._answers(y[rows])
        except (TypeError, ValueError):  # of a row that is no record, or not what it was
            if len(rows) == 1:
                return np.zeros(1, dtype=bool)
            half = len(rows) // 2
            parts = [self._same(X, y, rows[part], places[part]) for part in (slice(half), slice(half, None))]
            return np.concatenate(parts)
        weights = np.ones(len(rows)) if self._weights is None else self._weights[places]
        found = contents_found(X[rows], answers, y[rows], weights, self._salts[places], classes=self._form.classes)
        return np.asarray((found == self._contents[places]).all(axis=1))

    def _answers(self, y: AnyArray) -> Answers:
        return answers_of(y, loss=self._form.loss, classes=self._form.classes, n_outputs=self._form.n_outputs)

    def _finish(self) -> None:
        """Refuse records that were not found."""
        missing = self._ids[self._free].tolist()
        if not missing:
            return
        wanted = set(missing)
        for name, place in self._odd:
            if name in wanted:
                raise _changed(place, name)
        raise ValueError(
            f"records must be those of the model, got none for {counted(len(missing), 'record')} of it: "
            f"{listed(missing)}{self._stray}; restore the table: a row may leave it once its record was deleted "
            "from the model"
        )


def _changed(place: str, name: object) -> ValueError:
    return ValueError(
        f"{place}: the record {name!r} of the model is not what it was when it was learned; restore the table, or fit "
        "a new model"
    )
