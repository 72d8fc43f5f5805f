"""Models of tables at the command line: --data names the table, whose rows are compared with the model's hashes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge._errors import counted
from expunge.cli.newton import Wanted, holds_no_rows
from expunge.cli.options import given_options
from expunge.cli.reading import known_from
from expunge.cli.streaming import as_table, can_be_streamed, read_data_or_table

if TYPE_CHECKING:
    from expunge.cli.files import Newton, Working
    from expunge.data import Records as Table
    from expunge.estimators.newton.tables import TablePart

__all__ = [
    "attach",
    "attach_data",
    "data_option",
    "listed_rows",
    "no_data",
    "open_tables",
    "places_of",
    "row_of",
    "say_rows_left",
    "wanted_of_table",
]

_NAMED = 5

data_option = click.option(
    "--data",
    multiple=True,
    help="Of a model of a table: that table as it now stands, deleted rows or not; repeat for several.",
)


def attach_data(
    model: Newton,
    path: str,
    data: Sequence[str],
    reading: dict[str, Any],
    *,
    by_position: bool = False,
    another: bool = False,
) -> None:
    """Find the records of a model in its tables, if it is one of tables.

    Parameters
    ----------
    model : Newton
        As it was read from its file.
    path : str
        The file.
    data : sequence of str
        Tables, as typed.
    reading : dict
        Options that say how data are read.
    by_position : bool
        Whether records are named by their positions, which another order of the table would change.
    another : bool
        Whether the options are those of another table besides.

    Raises
    ------
    ValueError
        If the model is none of tables and options are given, or it is one and none is named; as reading and `attach`.
    """
    if no_data(model, path, data, {} if another else reading):
        return
    ids = model.ids_
    attach(model, data, reading)
    if by_position and ids.tolist() != model.ids_.tolist():
        raise ValueError(
            f"{', '.join(data)}: holds the records in another order than at fit, so that rows are not those of the "
            "fit: name records by --id"
        )


def no_data(model: Working, path: str, data: Sequence[str], reading: dict[str, Any]) -> bool:
    """Return whether a model needs no table, as its file holds its data.

    Raises
    ------
    ValueError
        If it needs none and is given one or options of one, or needs one and is given none.
    """
    kind = type(model).__name__
    if not holds_no_rows(model):
        for option in given_options(("data", *reading)):
            raise ValueError(f"{option} is for models of tables: the file of this {kind} holds its data")
        return True
    if not data:
        raise ValueError(
            f"{path}: this {kind} is one of a table and its file holds none of the records: name the table as it now "
            "stands by --data"
        )
    return False


def open_tables(
    model: Working, data: Sequence[str], reading: dict[str, Any], *, with_weights: bool
) -> tuple[list[Table], list[NDArray[np.float64] | None]]:
    """Return tables that are read as that of a model's fit, and the weights of their rows."""
    tables, weights = [], []
    asked = {name: value for name, value in reading.items() if name != "stream"}
    for source in data:
        stream = reading["stream"]
        records, task = read_data_or_table(
            source,
            stream=can_be_streamed(source) or None if stream is None else stream,
            task="classify" if hasattr(model, "classes_") else "regress",
            told=True,
            with_weights=with_weights,
            **known_from(model),
            **asked,
        )
        for condition in records.conditions:
            if condition not in model.conditions_:
                raise ValueError(f"{source}: must be read as the data of fit were, not so that {condition}")
        tables.append(as_table(records, task.y))
        weights.append(records.weights)
    _require_once(data, tables)
    return tables, weights


def attach(
    model: Newton, data: Sequence[str], reading: dict[str, Any], *, quiet: bool = False
) -> tuple[list[Table], list[NDArray[np.bool_]]]:
    """Find the records of a model of tables in these, and say what else is there, unless ``quiet``.

    Returns
    -------
    tuple of two lists
        The tables, and which rows of each are records of the model.
    """
    tables, weights = open_tables(model, data, reading, with_weights=True)
    model.attach(*tables, others="omit")
    parts = _parts(model)
    every = []
    for table, given in zip(tables, weights, strict=True):
        part = next((one for one in parts if one.records is table), None)
        if given is not None and part is not None:
            _check_weights(part, given)
        every.append(np.zeros(table.n_records, dtype=bool) if part is None else part.kept)
    n = sum(int((~kept).sum()) for kept in every)
    if n and not quiet:
        rows = [row for table, kept in zip(tables, every, strict=True) for row in _rows(table, ~kept)]
        click.echo(
            f"{counted(n, 'row')} passed over, of which the model has no record (deleted, or never learned): "
            f"{_listed(rows, n)}",
            err=True,
        )
    return tables, every


def _require_once(data: Sequence[str], tables: Sequence[Table]) -> None:
    """Refuse tables that share a file: rows of deleted records would be listed in one of them only."""
    from expunge.data import FileRecords, MappedRecords

    named: dict[str, tuple[str, str]] = {}
    for source, table in zip(data, tables, strict=True):
        files = table.records if isinstance(table, MappedRecords) else table
        for file in files.files if isinstance(files, FileRecords) else (source,):
            known = named.setdefault(os.path.realpath(file) if "://" not in file else file, (file, source))
            if known != (file, source) or data.count(source) > 1:
                raise ValueError(f"--data: {known[0]} is named by {known[1]} and by {source}: name each table once")


def _parts(model: Newton) -> Sequence[TablePart]:
    from expunge.estimators.newton.tables import TableObjective

    objective = model._state.objective
    assert isinstance(objective, TableObjective)
    return objective.blocks.parts


def _check_weights(part: TablePart, given: NDArray[np.float64]) -> None:
    known = np.ones(len(given)) if part.weights is None else part.weights
    wrong = np.flatnonzero(part.kept & (known != given))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{part.records.place(row)}: the weight must be {known[row]:g}, as it was when the record was learned, got "
            f"{given[row]:g}"
        )


def listed_rows(table: Table, some: NDArray[np.bool_]) -> str:
    """Return the first few rows of a table with their ids, as text."""
    return _listed(_rows(table, some), int(some.sum()))


def _rows(table: Table, some: NDArray[np.bool_]) -> list[str]:
    return [row_of(table, row) for row in np.flatnonzero(some)[:_NAMED].tolist()]


def row_of(table: Table, row: int) -> str:
    """Return where a row lies, with its id."""
    if not table.has_ids:
        return str(table.place(row))
    (block,) = table.blocks(start=row // table.block_rows, stop=row // table.block_rows + 1)
    assert block.ids is not None  # as the table has some
    name = block.ids[row - block.start : row - block.start + 1].tolist()[0]
    return f"{name} ({table.place(row)})"


def _listed(places: Sequence[str], n: int) -> str:
    more = "" if n <= _NAMED else f"; and {n - _NAMED:,} more"
    return "; ".join(places[:_NAMED]) + more


# --- changes -------------------------------------------------------------------------------------


def places_of(model: Newton, positions: NDArray[np.int64]) -> list[str]:
    """Return where records of a model lie in its tables, with their ids: the first few, by position."""
    found: list[str] = []
    first = 0
    for part in _parts(model):
        rows = np.flatnonzero(part.kept)
        mine = positions[(positions >= first) & (positions < first + len(rows))] - first
        found += [row_of(part.records, row) for row in rows[mine[: _NAMED - len(found)]].tolist()]
        first += len(rows)
    return found


def say_rows_left(places: Sequence[str], n: int) -> None:
    """Print that rows of records that the model forgot are still in their table."""
    click.echo(f"still in the table: {_listed(places, n)}")
    click.echo(
        f"  the certificate is verified on the table without {'this row' if n == 1 else f'these {n:,} rows'}; "
        "expunge purge --rewrite writes it"
    )


def wanted_of_table(
    before: Newton,
    action: str,
    make: Callable[[], Any],
    *,
    gone: NDArray[np.int64] | None = None,
    new: tuple[NDArray[np.float64], NDArray[Any], NDArray[Any], NDArray[np.float64] | None] | None = None,
    requests: Sequence[Any] = (),
) -> Wanted:
    """Return a change of a model of tables, which is recognised by hashes.

    Parameters
    ----------
    before : Newton
        The model, its table attached.
    action, make, requests
        As of `Wanted`.
    gone : ndarray of int64, optional
        Positions of the records that leave.
    new : tuple, optional
        Features, answers, ids and weights of records that come, after all others.
    """
    from expunge.certificates.residual import RecordTree

    tree = before._state.tree
    left = tree if gone is None or not len(gone) else tree.without(gone)

    def are_of(model: Newton) -> bool:
        if not holds_no_rows(model):
            return False
        theirs, k = model._state.tree, 0 if new is None else len(new[0])
        if theirs.n_records != left.n_records + k:
            return False
        if new is None:
            return theirs.root == left.root
        last = np.arange(left.n_records, theirs.n_records)
        X, answers, ids, weights = new
        again = RecordTree.of(
            X, answers, ids=ids, classes=theirs.classes, weights=weights, salts=theirs.salts[last], key=theirs.key
        )
        same = np.array_equal(again.leaves.values, theirs.leaves.values[last])
        return same and theirs.without(last).root == left.root

    return Wanted(action, make, are_of, requests)
