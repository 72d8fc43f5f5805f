"""Langevin models of tables at the command line: --data names the table, in the order of the fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from expunge.cli.attaching import no_data, open_tables, row_of
from expunge.data.joined import JoinedRecords

if TYPE_CHECKING:
    from expunge.cli.files import Langevin
    from expunge.cli.requests import Whom
    from expunge.data import Records
    from expunge.estimators._records import RecordIds

__all__ = ["holding", "ids_of_fit", "kind_of_ids", "say_rows_stay", "table_of", "whom_of_table"]

_NAMED = 5


def table_of(model: Langevin, path: str, data: Sequence[str], reading: dict[str, Any]) -> Records | None:
    """Return the table of a model that holds no rows, read as at its fit; None for a model that holds its data.

    Several tables are one, in the order in which they are named.

    Raises
    ------
    ValueError
        If a table is missing, or given where none is needed, or has as many records as no table of the model; as
        reading.
    """
    if no_data(model, path, data, reading):
        return None
    tables, _ = open_tables(model, data, reading, with_weights=False)
    table = tables[0] if len(tables) == 1 else JoinedRecords(tables)
    model._table_pass(table, model._require_history())  # refused unless it has as many rows as it can have
    return table


def holding(model: Langevin) -> str:
    """Return what the file of a model holds, for a person."""
    history = model._history
    of_sums = history is not None and history.sums is not None
    return "it holds sums over the records, and no row" if of_sums else "it holds the data"


def ids_of_fit(model: Langevin, table: Records) -> RecordIds | None:
    """Return the ids of the rows of the first fit, read in one pass; None where a row was deleted.

    None in their place where the table has no ids.
    """
    if not table.has_ids:
        return None
    history = model._require_history()
    found = model._table_pass(table, history)
    names = [one for block in table.blocks() if block.ids is not None for one in block.ids.tolist()]
    values: list[Any] = [None] * len(history.design)
    for row, name, used in zip(found.numbers.tolist(), names, found.in_use.tolist(), strict=True):
        values[row] = name if used else None
    from expunge.estimators._records import GIVEN, RecordIds

    return RecordIds(tuple(values), GIVEN)


def kind_of_ids(table: Records) -> RecordIds | None:
    """Return the first id of a table, which says what kind ids are; None where it has none."""
    if not table.has_ids:
        return None
    first = next(iter(table.blocks(stop=1)))
    assert first.ids is not None  # as the table has some
    from expunge.estimators._records import GIVEN, RecordIds

    return RecordIds(tuple(first.ids[:1].tolist()), GIVEN)


def whom_of_table(model: Langevin, table: Records, *, find: bool, **asked: Any) -> Whom:
    """Return the people that the options of a command name.

    Rows of ids are looked for, in a pass over the table, where ``find`` asks for it and where requests or rows are
    named.
    """
    from expunge.cli.requests import read_ids, read_whom

    if find or not asked["ids"] or any(asked[name] is not None for name in ("indices", "rows", "requests")):
        return read_whom(model, known=ids_of_fit(model, table), **asked)
    return read_ids(kind_of_ids(table), asked["ids"], number=asked["number"], date=asked["date"])


def say_rows_stay(before: Langevin, after: Langevin, table: Records) -> None:
    """Print that rows of records that a model forgot are still in the table, and what that is good for."""
    found, gone = before._table_pass(table, before._require_history()), after._require_history().removed
    places = np.flatnonzero(found.in_use & np.isin(found.numbers, gone))
    named = "; ".join(row_of(table, place) for place in places[:_NAMED].tolist())
    more = "" if len(places) <= _NAMED else f"; and {len(places) - _NAMED:,} more"
    these = "this row" if len(places) == 1 else f"these {len(places):,} rows"
    click.echo(f"still in the table: {named}{more}")
    click.echo(
        f"  further commands take the table with {these} or without, in its order; expunge purge --rewrite writes it"
    )
    click.echo("  the certificate is verified on the table of fit, deleted rows included")
