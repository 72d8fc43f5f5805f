"""The pass over a table that a deletion takes: the records to delete, and sums over all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.certificates.digest import DataDigests
from expunge.data.statistics import StatisticsBuilder
from expunge.estimators._records import exact_ids, selected_rows
from expunge.estimators._table_pass import Part, TablePass, gathered
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["TableDeletion", "are", "read_deletion"]


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
    if isinstance(ids[0], str) != isinstance(wanted[0], str):
        kind = "strings" if isinstance(ids[0], str) else "integers"
        raise TypeError(f"ids must hold {kind}, as the ids of the table are, got {wanted[0]!r}")
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
    chosen, wanted = _chooser(table, indices=indices, ids=ids, rows=rows)
    digests = DataDigests((n, features)) if history.digests is None else None
    found: list[Part] = []
    with StatisticsBuilder(n_features=features, n_outputs=outputs, classes=table.classes) as builder:
        for part in table:
            if digests is not None:
                digests.add(part.design[:, :features], part.y)
            gone = chosen(part)
            if not gone.any():
                builder.add(part.design[:, :features], part.labels)
                continue
            found.append(part.chosen(gone))
            left = part.chosen(~gone)
            builder.add(left.design[:, :features], left.labels)
        if not found:
            raise ValueError(f"ids must be ids of the table, got {wanted[0]!r}, which no record in use has")
        held = gathered(found)
        if ids is not None:
            assert held.ids is not None
            known = set(held.ids.tolist())
            for one in wanted:
                if one not in known:
                    raise ValueError(f"ids must be ids of the table, got {one!r}, which no record in use has")
        if len(held) >= len(history.remaining):
            raise ValueError(
                f"{'ids' if ids is not None else 'rows'} must leave at least one record, got all that remain"
            )
        sums = TableSums.of(builder.result(), fit_intercept=table.intercept)
    assert history.sums is not None
    history.sums.require_parts(sums, held.design, held.targets)
    known_digests = history.digests if digests is None else digests.result()
    assert known_digests is not None
    return TableDeletion(held, sums, known_digests)


def _chooser(
    table: TablePass, *, indices: Any, ids: Any, rows: Any
) -> tuple[Callable[[Part], NDArray[np.bool_]], list[Any]]:
    """Return what tells the records to delete, and the ids asked for."""
    history = table.history
    if ids is None or indices is not None or rows is not None:
        named = {"indices": indices, "ids": ids, "rows": rows}
        n = len(history.design)
        numbers = selected_rows(None, n=n, removed=history.removed, **named)
        marked = np.zeros(n, dtype=bool)
        marked[numbers] = True
        return lambda part: marked[part.numbers], []
    if not table.records.has_ids:
        raise ValueError("table must have ids to delete ids=, got none: name its column of ids, or say rows=")
    wanted = exact_ids("ids", ids)
    return lambda part: are(part, wanted), wanted
