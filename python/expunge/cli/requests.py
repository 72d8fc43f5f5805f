"""Whom a deletion is about: ids and rows as they are typed, and files of requests."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge._files import FileFormatError, read_text
from expunge.cli.files import parse_indices
from expunge.cli.identifiers import parse_id
from expunge.estimators._records import selected_rows
from expunge.ledger import DeletionRequest

__all__ = ["Whom", "read_requests", "read_whom"]

_ID_NAMES = ("id", "record_id", "customer_id")


@dataclass(frozen=True)
class Whom:
    """Whom a deletion is about.

    Attributes
    ----------
    named : dict
        The argument of `unlearn` that names them: ids, rows or indices.
    rows : list of int
        Their rows of the first fit.
    requests : list of DeletionRequest
        What the ledger tells of it.
    """

    named: dict[str, Any]
    rows: list[int]
    requests: list[DeletionRequest]


def read_whom(
    history: Any,
    *,
    indices: str | None,
    rows: str | None,
    ids: Sequence[str],
    requests: str | None,
    id_column: str | None,
    number: str | None,
    date: str | None,
) -> Whom:
    """Return whom the options of a command mean."""
    if requests is not None and (number is not None or date is not None):
        raise ValueError("--request and --request-date go with --id or --rows: a file of requests has columns for them")
    known = history.ids
    asked = [DeletionRequest(parse_id(known, one), number, date) for one in ids]
    if requests is not None:
        asked += read_requests(requests, known=known, id_column=id_column)
    named: dict[str, Any] = {"ids": [one.record_id for one in asked]} if asked else {}
    named |= {name: parse_indices(text) for name, text in (("indices", indices), ("rows", rows)) if text is not None}
    if len(named) != 1:
        raise ValueError("say whom to delete by one of --id (or --requests), --rows and INDICES")
    found = selected_rows(known, n=len(history.design), removed=history.removed, **named).tolist()
    if not asked:
        asked = [DeletionRequest(one, number, date) for one in _people_of_rows(known, found, history.removed)]
        if not asked and (number or date):
            asked = [DeletionRequest(None, number, date)]
    return Whom(named, found, asked)


def read_requests(
    path: str, *, known: Any, id_column: str | None, number_column: str = "request", date_column: str = "date"
) -> list[DeletionRequest]:
    """Return the requests of a text table with a header.

    Parameters
    ----------
    path : str
        The file: separated by commas, semicolons, tabs or bars.
    known : RecordIds or None
        The model's ids.
    id_column : str or None
        The column of ids; id, record_id or customer_id when not given.
    number_column, date_column : str
        Columns that may be there.
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
    wanted = _ID_NAMES if id_column is None else (id_column,)
    found = [name for name in names if name in wanted or (id_column is None and name.lower() in wanted)]
    numbers, dates = ([name for name in names if name.lower() == column] for column in (number_column, date_column))
    for column, columns in ((number_column, numbers), (date_column, dates)):
        if len(columns) > 1:
            raise FileFormatError(f"path: {path}: one column may be {column}, got the columns {', '.join(columns)}")
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
        if asked != asked.strip():  # to guess could delete somebody else
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
