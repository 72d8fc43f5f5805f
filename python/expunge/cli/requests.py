"""The people that a deletion is about: ids and rows as they are typed, and files of requests."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expunge._files import FileFormatError, read_text
from expunge.cli.files import parse_indices
from expunge.cli.identifiers import parse_id
from expunge.estimators._records import GIVEN, RecordIds, selected_rows
from expunge.ledger import DeletionRequest

if TYPE_CHECKING:
    from expunge.cli.files import Newton

__all__ = ["Whom", "read_ids", "read_requests", "read_whom", "read_whom_now", "rows_of_first_fit"]

_ID_NAMES = ("id", "record_id", "customer_id")


@dataclass(frozen=True)
class Whom:
    """The people that a deletion is about.

    Attributes
    ----------
    named : dict
        The argument of `unlearn` that names them: ids, rows or indices.
    rows : list of int
        Their rows of the first fit.
    requests : list of DeletionRequest
        What the ledger records of it.
    """

    named: dict[str, Any]
    rows: list[int]
    requests: list[DeletionRequest]


def read_whom(
    model: Any,
    *,
    indices: str | None,
    rows: str | None,
    ids: Sequence[str],
    requests: str | None,
    id_column: str | None,
    number: str | None,
    date: str | None,
    known: RecordIds | None = None,
) -> Whom:
    """Return the people that the options of a command name; ``known`` are ids that the model itself does not know."""
    history, usual = model._require_history(), _usual(model)
    known = history.ids if known is None else known
    asked = _asked(known, usual, ids=ids, requests=requests, id_column=id_column, number=number, date=date)
    named = _named(asked, indices=indices, rows=rows)
    found = selected_rows(known, n=len(history.design), removed=history.removed, **named).tolist()
    people = _people_of_rows(known, found, history.removed)
    return Whom(named, found, _with_people(asked, people, number=number, date=date))


def read_ids(known: RecordIds | None, ids: Sequence[str], *, number: str | None, date: str | None) -> Whom:
    """Return people that are named by id alone, whose rows are not looked for; ``known`` says what kind ids are."""
    asked = [DeletionRequest(parse_id(known, one), number, date) for one in ids]
    return Whom({"ids": [one.record_id for one in asked]}, [], asked)


def read_whom_now(
    model: Newton,
    *,
    indices: str | None,
    rows: str | None,
    ids: Sequence[str],
    requests: str | None,
    id_column: str | None,
    number: str | None,
    date: str | None,
) -> Whom:
    """Return the people that the options of a command name, of a model that knows no record but those it has.

    ``rows`` are positions among these. Rows of the first fit are known as long as nothing has changed, and for good
    where they are the ids.
    """
    known = RecordIds(tuple(model.ids_.tolist()), GIVEN)
    asked = _asked(known, _usual(model), ids=ids, requests=requests, id_column=id_column, number=number, date=date)
    named = _named(asked, indices=indices, rows=rows)
    if asked:
        found = known.rows("ids", named["ids"], removed=())
    else:
        how, text = ("rows", rows) if rows is not None else ("indices", indices)
        found = rows_of_first_fit(model, how, str(text))
    people = _people_of_rows(known, found.tolist(), ())
    return Whom(named, found.tolist(), _with_people(asked, people, number=number, date=date))


def rows_of_first_fit(model: Newton, how: str, text: str) -> NDArray[np.int64]:
    """Return the positions among the records now in a model of rows of its first fit, as they are typed.

    Parameters
    ----------
    model : working Newton model
        A model that numbers its records has these numbers for good; of others, rows are known until something changes.
    how : {"rows", "indices"}
        How they are named.
    text : str
        As in 3,7,10-12.
    """
    wanted = parse_indices(text) or []
    ids = model.ids_
    if model._next_number < 0:
        if how == "rows" and model.certificate_.release > 1:
            raise ValueError(
                "rows of the first fit are not known any more, as this model has changed since: name records by --id"
            )
        return selected_rows(RecordIds(tuple(ids.tolist()), GIVEN), n=len(ids), removed=(), **{how: wanted})
    places = {one: place for place, one in enumerate(ids.tolist())}
    for row in wanted:
        if row not in places:
            raise ValueError(f"{how} must be within the records of this model, got {row}, which is none of them")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"{how} must be distinct, got {next(row for row in wanted if wanted.count(row) > 1)} twice")
    return np.array(sorted(places[row] for row in wanted), dtype=np.int64)


def _usual(model: Any) -> str | None:
    """Return the column of ids of the table that a model was fitted on, where it had a name."""
    column = None if model.reading_ is None else model.reading_.id_column
    return column if isinstance(column, str) else None


def _asked(
    known: Any,
    usual: str | None,
    *,
    ids: Sequence[str],
    requests: str | None,
    id_column: str | None,
    number: str | None,
    date: str | None,
) -> list[DeletionRequest]:
    """Return the requests that name ids, by options or in a file."""
    if requests is not None and (number is not None or date is not None):
        raise ValueError("--request and --request-date go with --id or --rows: a file of requests has columns for them")
    asked = [DeletionRequest(parse_id(known, one), number, date) for one in ids]
    if requests is not None:
        asked += read_requests(requests, known=known, id_column=id_column, usual=usual)
    return asked


def _named(asked: Sequence[DeletionRequest], *, indices: str | None, rows: str | None) -> dict[str, Any]:
    """Return the one way in which records are named."""
    named: dict[str, Any] = {"ids": [one.record_id for one in asked]} if asked else {}
    named |= {name: parse_indices(text) for name, text in (("indices", indices), ("rows", rows)) if text is not None}
    if len(named) != 1:
        raise ValueError("say whom to delete by one of --id (or --requests), --rows and INDICES")
    return named


def _with_people(
    asked: list[DeletionRequest], people: Sequence[int | str], *, number: str | None, date: str | None
) -> list[DeletionRequest]:
    """Return the requests that name ids; where rows were named, those of the people who are gone with them."""
    if not asked:
        asked = [DeletionRequest(one, number, date) for one in people]
        if not asked and (number or date):
            asked = [DeletionRequest(None, number, date)]
    return asked


def read_requests(
    path: str,
    *,
    known: Any,
    id_column: str | None,
    usual: str | None = None,
    number_column: str = "request",
    date_column: str = "date",
) -> list[DeletionRequest]:
    """Return the requests of a text table with a header.

    Parameters
    ----------
    path : str
        The file, with commas, semicolons, tabs or bars between columns.
    known : RecordIds or None
        The model's ids.
    id_column : str or None
        The column of ids; when not given, the usual one, or else id, record_id or customer_id.
    usual : str or None
        The column of ids of the table that the model was fitted on.
    number_column, date_column : str
        Optional columns.
    """
    text = read_text(path, what="file of requests").removeprefix("\ufeff")
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(table.line_num, row) for row in table if any(map(str.strip, row))]
    except csv.Error as error:
        raise FileFormatError(f"path: {path}: line {table.line_num}: {error}") from None
    if not lines:
        raise FileFormatError(f"path: {path}: is empty")
    names = [name.strip() for name in lines[0][1]]
    if len(set(names)) < len(names):
        raise FileFormatError(f"path: {path}: columns must have different names, got {', '.join(names)}")
    column = usual if id_column is None and usual in names else id_column
    wanted = _ID_NAMES if column is None else (column,)
    found = [name for name in names if name in wanted or (column is None and name.lower() in wanted)]
    numbers, dates = ([name for name in names if name.lower() == column] for column in (number_column, date_column))
    for column, columns in ((number_column, numbers), (date_column, dates)):
        if len(columns) > 1:
            raise FileFormatError(
                f"path: {path}: only one column may be {column}, got the columns {', '.join(columns)}"
            )
    if len(found) != 1:
        raise FileFormatError(
            f"path: {path}: one column must be {' or '.join(wanted)}, got the columns {', '.join(names)}"
            + (": name it with --request-id-column" if id_column is None else "")
        )
    if len(lines) < 2:
        raise FileFormatError(f"path: {path}: holds no request")
    result = []
    for line, cells in lines[1:]:
        if len(cells) != len(names):
            raise FileFormatError(f"path: {path}: line {line} has {len(cells)} columns, the header {len(names)}")
        row = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
        if not row[found[0]]:
            raise FileFormatError(f"path: {path}: line {line} names no id")
        asked = cells[names.index(found[0])]
        if asked != asked.strip():  # a guess could delete somebody else
            raise FileFormatError(
                f"path: {path}: line {line}: ids must have no spaces around them, got {asked!r}: remove them, or name "
                "the record with --id, which takes an id as it is typed"
            )
        one = parse_id(known, asked, place=f" in line {line} of {path}")
        try:
            known.find("ids", [one])
            number, date = (row[columns[0]] or None if columns else None for columns in (numbers, dates))
            result.append(DeletionRequest(one, number, date))
        except ValueError as error:
            raise FileFormatError(f"path: {path}: line {line}: {error}") from None
    return result


def _people_of_rows(known: Any, rows: Sequence[int], removed: Sequence[int]) -> list[int | str]:
    """Return the ids all of whose rows are gone once ``rows`` are."""
    if known is None:
        return []
    touched = np.unique(known.codes[list(rows)])
    gone = np.zeros(len(known.codes), dtype=bool)
    gone[[*rows, *removed]] = True
    left = np.bincount(known.codes[~gone], minlength=len(known.names))
    return [known.names[code] for code in touched.tolist() if left[code] == 0]
