"""``expunge purge --rewrite``: the table of a model, written without rows that the model forgot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge._errors import counted
from expunge.cli.attaching import attach, listed_rows
from expunge.cli.files import load_model
from expunge.cli.identifiers import parse_id
from expunge.cli.langevin_tables import ids_of_fit, table_of
from expunge.data import FileRecords, MappedRecords, Records

if TYPE_CHECKING:
    from expunge.cli.files import Langevin, Newton

__all__ = ["rewrite_table"]


def rewrite_table(
    model: Newton | Langevin,
    path: str,
    data: str,
    place: str,
    *,
    ids: Sequence[str],
    others: bool,
    reading: dict[str, Any],
) -> None:
    """Write a table without rows that are no records of its model, read it again, and say so.

    Parameters
    ----------
    model, path : working model of a table, str
        The model as it was read from its file.
    data, place : str
        The table, and where the new one goes.
    ids : sequence of str
        Ids whose rows are left out, as typed.
    others : bool
        Whether all rows are left out that are no records of the model.
    reading : dict
        Options that say how data are read.

    Raises
    ------
    ValueError, OSError
        If a record of the model is missing or changed, an id is that of a record, or has no row, or nothing is left to
        do; as `write_without`.
    """
    from expunge.data.rewriting import write_without
    from expunge.estimators.newton.base import NewtonModel

    if bool(ids) == others:
        raise ValueError("say which rows to leave out: --id, or --others for all that are no records of the model")
    if isinstance(model, NewtonModel):
        (table,), (kept,) = attach(model, [data], reading, quiet=True)
    else:
        table, kept = _compared(model, path, data, reading)
    files = table.records if isinstance(table, MappedRecords) else table
    if not isinstance(table, MappedRecords) or not isinstance(files, FileRecords):
        raise ValueError(f"{data}: --rewrite writes Parquet, Arrow and unpacked text tables, and is read in blocks")
    gone = ~kept if others else _rows_of(model, table, kept, ids)
    n = int(gone.sum())
    if not n:
        raise ValueError(f"{data}: holds no row that is no record of {path}: there is nothing to leave out")
    if isinstance(model, NewtonModel) and not table.has_ids and table.n_records != model._next_number:
        _require_told_apart(table, files, gone)
    named = listed_rows(table, gone)

    def check(hidden: Path) -> None:
        new, again = table.of(files.elsewhere(hidden)), load_model(path)
        if isinstance(again, NewtonModel):
            again.attach(new, others="omit")
        else:
            _compare(again, new)
        if new.n_records != table.n_records - n:
            raise ValueError(f"{place}: must have {table.n_records - n} rows, got {new.n_records}")

    names = write_without(files, gone, place, check=check)
    left = table.n_records - n
    click.echo(f"written  {place}  ({counted(left, 'row')} in {counted(len(names), 'file')})")
    click.echo(f"left out  {counted(n, 'row')}: {named}")
    if more := int((~kept & ~gone).sum()):
        click.echo(f"kept  {counted(more, 'row')} of other ids, of which the model has no record (--others)")


def _require_told_apart(table: Records, files: FileRecords, gone: NDArray[np.bool_]) -> None:
    """Refuse rows that may be records as well as the one before, and differ from it in columns that are not read.

    Records are found by their hashes, each in the first row that fits: it may be another row up to the next record.
    """
    columns = files.columns
    assert columns is not None  # as .npy files are not written anew
    all_read = columns.n_columns == len(columns.features) + (columns.target is not None)
    last: tuple[int, NDArray[Any], NDArray[Any]] | None = None
    for block in table.blocks():
        X, y = block.X, np.asarray(block.y)
        for row in range(len(block)):
            here = block.start + row
            if not gone[here]:
                last = here, X[row], y[row : row + 1]
                continue
            if last is None or not (np.array_equal(X[row], last[1]) and np.array_equal(y[row : row + 1], last[2])):
                continue
            if not (all_read and np.array_equal(_features(files, last[0]), _features(files, here))):
                raise ValueError(
                    f"{table.place(last[0])} and {table.place(here)} have the same features and target for the model, "
                    "which has a record of one of them, and may differ otherwise: write the table without the row that "
                    "was deleted"
                )


def _features(files: FileRecords, row: int) -> NDArray[np.floating]:
    """Return the features of a row as they are written."""
    number = row // files.block_rows
    (block,) = files.blocks(start=number, stop=number + 1)
    return np.asarray(block.X[row - block.start])


def _compared(model: Langevin, path: str, data: str, reading: dict[str, Any]) -> tuple[Records, NDArray[np.bool_]]:
    """Return the table of a Langevin model, all rows of which were compared with it, and which are in use."""
    table = table_of(model, path, [data], reading)
    assert table is not None  # as the model holds no rows
    _compare(model, table)
    return table, model._table_pass(table, model._require_history()).in_use


def _compare(model: Langevin, table: Records) -> None:
    """Read all rows in use, which must be those of the model."""
    for _ in model._table_pass(table, model._require_history()):
        pass


def _rows_of(
    model: Newton | Langevin, table: Records, kept: NDArray[np.bool_], ids: Sequence[str]
) -> NDArray[np.bool_]:
    """Return which rows of ids are no records of the model; an id that still has records is refused."""
    from expunge.estimators._records import GIVEN, RecordIds
    from expunge.estimators.newton.base import NewtonModel

    if not table.has_ids:
        raise ValueError("--id needs a table with ids: pass --others for all rows that are no records of the model")
    known: list[Any]
    if isinstance(model, NewtonModel):
        known = model.ids_.tolist()
    else:
        of_fit = ids_of_fit(model, table)
        assert of_fit is not None  # as the table has ids
        known = [one for one in of_fit.values if one is not None]
    wanted = [parse_id(RecordIds(tuple(known[:1]), GIVEN), one) for one in ids]
    there = set(known)
    for one in wanted:
        if one in there:
            raise ValueError(
                f"--id must name who was deleted, got {one!r}, of whom the model has records: unlearn them"
            )
    gone = np.zeros(len(kept), dtype=bool)
    found = set()
    size = table.block_rows
    for number in np.unique(np.flatnonzero(~kept) // size).tolist():
        (block,) = table.blocks(start=number, stop=number + 1)
        assert block.ids is not None  # as the table has some
        for row in np.flatnonzero(~kept[block.start : block.start + len(block)]).tolist():
            name = block.ids[row : row + 1].tolist()[0]
            if name in wanted:
                gone[block.start + row] = True
                found.add(name)
    for one in wanted:
        if one not in found:
            raise ValueError(f"--id must name ids of rows in the table, got {one!r}, which none has")
    return gone
