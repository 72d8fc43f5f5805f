"""The pass over a table that a deletion takes: the records to delete, and sums over all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.certificates.digest import DataDigests
from expunge.data.statistics import StatisticsBuilder
from expunge.estimators._records import exact_ids, selected_rows
from expunge.estimators._table_pass import Part, TablePass, gathered, kind_of
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["TableDeletion", "are", "read_deletion", "read_rows"]


@dataclass(frozen=True)
class TableDeletion:
    """Records to delete and sums over the others, read from a table.

    Attributes
    ----------
    records : Part
        The records to delete, in the order of the table.
    left : TableSums
        Sums over those that remain.
    digests : (str, str)
        Of the features and targets of the first fit.
    """

    records: Part
    left: TableSums
    digests: tuple[str, str]


def are(part: Part, wanted: list[Any]) -> NDArray[np.bool_]:
    """Return which records are of one of these ids.

    Raises
    ------
    TypeError
        If the ids of the table are of another kind: 7 is not "7".
    """
    assert part.ids is not None
    ids = part.ids.tolist()
    kind_of(ids[0], wanted[0])
    known = set(wanted)
    return np.fromiter((one in known for one in ids), dtype=bool, count=len(ids))


def read_deletion(table: TablePass, *, indices: Any, ids: Any, rows: Any) -> TableDeletion:
    """Read a table once.

    Raises
    ------
    TypeError, ValueError
        If records are not named in exactly one way, do not exist or were deleted before, or all would go; or the table
        is not that of the model, or the sums of the model are not those of the table.
    """
    history, records = table.history, table.records
    n, features, outputs = len(history.design), records.n_features, history.targets.shape[1]
    chosen = Chosen(table, indices=indices, ids=ids, rows=rows)
    digests = DataDigests((n, features)) if history.digests is None else None
    with StatisticsBuilder(n_features=features, n_outputs=outputs, classes=table.classes) as builder:
        for part in table:
            if digests is not None:
                digests.add(part.design[:, :features], part.y)
            left = chosen.left_of(part)
            builder.add(left.design[:, :features], left.labels)
        held = chosen.rows()
        sums = TableSums.of(builder.result(), fit_intercept=table.intercept)
    assert history.sums is not None
    history.sums.require_parts(sums, held.design, held.targets)
    known_digests = history.digests if digests is None else digests.result()
    assert known_digests is not None
    return TableDeletion(held, sums, known_digests)


def read_rows(table: TablePass, *, indices: Any, ids: Any, rows: Any) -> Part:
    """Return some records, read in one pass.

    Raises
    ------
    TypeError, ValueError
        As `read_deletion`.
    """
    chosen = Chosen(table, indices=indices, ids=ids, rows=rows)
    for part in table:
        chosen.left_of(part)
    return chosen.rows()


class Chosen:
    """Records of a table that are named, by id or by number, and gathered on the way."""

    def __init__(self, table: TablePass, *, indices: Any, ids: Any, rows: Any) -> None:
        history = table.history
        self._name = "ids" if ids is not None else "indices" if indices is not None else "rows"
        self._most, self._found, self._wanted = history.n_remaining - 1, list[Part](), list[Any]()
        self._marked: NDArray[np.bool_] | None = None
        if ids is None or indices is not None or rows is not None:
            named = {"indices": indices, "ids": ids, "rows": rows}
            n = len(history.design)
            numbers = selected_rows(None, n=n, removed=history.removed, **named)
            self._marked = np.zeros(n, dtype=bool)
            self._marked[numbers] = True
            return
        if not table.records.has_ids:
            raise ValueError("table must have ids to delete ids=, got none: name its column of ids, or say rows=")
        self._wanted = exact_ids("ids", ids)

    def left_of(self, part: Part) -> Part:
        """Return the other records of a part."""
        gone = are(part, self._wanted) if self._marked is None else self._marked[part.numbers]
        if not gone.any():
            return part
        self._found.append(part.chosen(gone))
        return part.chosen(~gone)

    def rows(self) -> Part:
        """Return the records, once all parts have been seen.

        Raises
        ------
        ValueError
            If an id is none of the table, or no record would be left.
        """
        known = {one for part in self._found if part.ids is not None for one in part.ids.tolist()}
        for one in self._wanted:
            if one not in known:
                raise ValueError(f"ids must be ids of the table, got {one!r}, which no record in use has")
        held = gathered(self._found)
        if len(held) > self._most:
            raise ValueError(f"{self._name} must leave at least one record, got all that remain")
        return held
