"""Text tables as people have them: comma, semicolon, tab or bar between cells, quotes, headers, booleans, labels.

Where pyarrow is installed, it reads large tables, but only what it reads exactly as Python would: misplaced quotes,
cells that are not plain numbers, and all errors are left to Python's reader, which knows line numbers.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge.data.identifiers import ids_of_text
from expunge.data.tables import Table

__all__ = ["TextLayout", "decoded", "read_delimited", "read_piece", "text_layout"]

_MARK = b"\xef\xbb\xbf"
_DELIMITERS = ("\t", ";", "|", ",")  # in this order where several would do: 1,5;2,5 is a table of decimal commas
_NAMES = {"\t": "a tab", ";": "a semicolon", "|": "a bar", ",": "a comma"}
_MISSING = {"", "na", "n/a", "nan", "null", "none", "<na>", "#n/a", "?"}
_BOOLEANS = {"true": 1, "false": 0}
# Bytes from which on pyarrow pays; a process that ends right after it, as one that refuses does, may be aborted by it.
_SMALL = 1 << 18
_LARGE = 1 << 22  # bytes from which on reading may take a second


def read_delimited(data: bytes, path: Path, *, header: bool | None = None, decimal_comma: bool = False) -> Table:
    """Return the table of a text file's bytes.

    Parameters
    ----------
    data : bytes
        UTF-8, with or without byte-order mark.
    path : Path
        Where they come from.
    header : bool or None
        Whether the first line names the columns; None looks at it.
    decimal_comma : bool
        Whether numbers are written 1,5.

    Raises
    ------
    ValueError
        Naming the line and the column.
    """
    text, mark = decoded(data)
    layout = text_layout(text, header=header)
    return read_piece(
        data[mark + layout.skipped :], text[layout.skipped_characters :], layout, path, decimal_comma=decimal_comma
    )


@dataclass(frozen=True)
class TextLayout:
    """Layout of a text table, as its first lines show it.

    Attributes
    ----------
    delimiter : str
        Character between cells.
    width : int
        Cells of a line.
    names : tuple of str, or None
        Names of the columns, where the first line holds them.
    index : tuple of int
        Columns that are a row index.
    skipped, skipped_characters : int
        Bytes and characters that announce the delimiter at the beginning; the end of their line stays, and lines keep
        their numbers.
    """

    delimiter: str
    width: int
    names: tuple[str, ...] | None
    index: tuple[int, ...]
    skipped: int
    skipped_characters: int


def decoded(data: bytes, *, line: int = 1) -> tuple[str, int]:
    """Return the text of bytes in UTF-8 whose first line has a number, and the length of their byte-order mark.

    Raises
    ------
    ValueError
        If they are no such text.
    """
    mark = len(_MARK) if data.startswith(_MARK) else 0
    if data[mark : mark + 2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        raise ValueError("is not UTF-8 text: save the table as CSV in UTF-8")
    try:
        return (data[mark:] if mark else data).decode("utf-8"), mark
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, mark + error.start) + line
        raise ValueError(f"line {number} is not UTF-8 text: save the table as CSV in UTF-8") from None


def text_layout(text: str, *, header: bool | None) -> TextLayout:
    """Return the layout of a table whose text begins so; ``header=None`` looks whether the first line names columns.

    Raises
    ------
    ValueError
        If it is empty, or its first line is neither names nor numbers.
    """
    if not text.strip():
        raise ValueError("is empty")
    announced = re.match(r"sep=(.)\r?\n", text)  # as Excel writes and reads it
    skipped = 0
    if announced is not None:
        skipped = len(text[:5].encode())
        text = text[5:]
    delimiter = _delimiter(text) if announced is None else announced[1]
    first = _first_rows(text, delimiter)
    if header is None:
        header = _is_header(first[0])
    names, index = _names(first[0]) if header else (None, ())
    if header and len(first) == 1:
        one_word = len(first[0]) == 1
        raise ValueError("is in no readable format: one line of text" if one_word else "holds a header and no records")
    return TextLayout(delimiter, len(first[0]), names, index, skipped, 0 if announced is None else 5)


def read_piece(
    data: bytes,
    text: str,
    layout: TextLayout,
    path: Path,
    *,
    line: int = 1,
    begins: bool = True,
    decimal_comma: bool = False,
) -> Table:
    """Return the table of whole lines of a text table: all of them, or a piece.

    Parameters
    ----------
    data, text : bytes, str
        The same lines twice.
    layout : TextLayout
        That of the whole table.
    path : Path
        Where they come from.
    line : int
        Number of the first one within the file.
    begins : bool
        Whether these are the first lines, the header among them if there is one.
    decimal_comma : bool
        Whether numbers are written 1,5.
    """
    header = layout.names is not None and begins
    cells = _Cells(data, text, layout.delimiter, header, decimal_comma, path.name, line)
    names = layout.names
    columns = [_TextColumn(cells, j, None if names is None else names[j]) for j in range(layout.width)]
    cells.width = layout.width
    return Table(columns, names, layout.index, large=len(data) > _LARGE)


def _delimiter(text: str) -> str:
    """Return what separates cells: what splits all of the first lines into the same number of them, at least two."""
    blank = len(text) - len(text.lstrip("\r\n"))
    sample = text[blank : blank + (1 << 16)]
    lines = sample.splitlines()
    if blank + len(sample) < len(text):
        lines = lines[:-1] or lines
    widths = {}
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):
            rows = [row for row in csv.reader(lines[:50], delimiter=delimiter, skipinitialspace=True) if row]
            if len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
                return delimiter
            widths[delimiter] = len(rows[0])
    return max(widths, key=lambda delimiter: widths[delimiter]) if max(widths.values(), default=1) > 1 else ","


def _reader(text: str, delimiter: str) -> Any:
    # Spaces before quotes show that spaces after a delimiter belong to it; without them a space belongs to its cell.
    spaced = re.search(f'(^|[{re.escape(delimiter)}\\r\\n]) +"', text) is not None
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaced)


def _first_rows(text: str, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for row in _reader(text, delimiter):
        if row:
            rows.append([cell.strip() for cell in row])
        if len(rows) == 2:
            break
    return rows


def _number(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _is_header(cells: list[str]) -> bool:
    """Return whether the first line names columns; what could be either is refused."""
    is_name = [cell != "" and _number(cell) is None and cell.lower() not in _BOOLEANS for cell in cells]
    counted = [str(j) for j in range(len(cells) - 1)]
    if not any(is_name):
        if len(cells) > 1 and cells[0] == "" and cells[1:] == counted:
            return True
        if "" in cells:
            raise ValueError(f"line 1, column {cells.index('') + 1} is empty")
        return False
    # pandas leaves its row index without a name; tables written from unnamed columns count them: 0,1,2,target.
    unnamed = int(cells[0] == "")
    rest = list(zip(is_name, cells, strict=True))[unnamed:]
    if all(named or cell == str(j) for j, (named, cell) in enumerate(rest)):
        return True
    if "" in cells[1:]:
        raise ValueError(f"line 1, column {cells.index('', 1) + 1} is empty")
    j = is_name.index(True)
    raise ValueError(
        f"line 1 is neither a header nor numbers: column {j + 1} holds {cells[j]!r} "
        "(--no-header, header=False, if it is a record)"
    )


def _names(cells: list[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names and the positions of row indices, which pandas writes first and without a name."""
    if "" in cells[1:]:
        raise ValueError(f"line 1, column {cells.index('', 1) + 1} has no name")
    if cells[0] in ("", "Unnamed: 0") and len(cells) > 1:
        return ("Unnamed: 0", *cells[1:]), (0,)
    return tuple(cells), ()


class _Cells:
    """The cells of a text, by column: from pyarrow if it splits the text as Python does, else from Python's reader."""

    def __init__(
        self, data: bytes, text: str, delimiter: str, header: bool, decimal_comma: bool, name: str, line: int
    ) -> None:
        self._before = line - 1
        self.text, self.delimiter, self.header, self.name = text, delimiter, header, name
        self.decimal_comma = decimal_comma
        self.width = 0
        self._data = data
        self._arrow: Any = None
        self._rows: tuple[list[Sequence[str]], list[int]] | None = None

    def arrow(self, column: int) -> Any:
        """Return a column as pyarrow strings, or None where Python's reader must decide."""
        if self._rows is not None or self.width < 2 or len(self._data) < _SMALL or find_spec("pyarrow") is None:
            return None
        if self._arrow is None:
            self._arrow = self._split()
        return None if self._arrow is False else self._arrow.column(column)

    def _split(self) -> Any:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if b'"' in self._data and not _well_quoted(self._data, self.delimiter):
            return False
        names = [str(j) for j in range(self.width)]
        try:
            table = arrow_csv.read_csv(
                io.BytesIO(self._data),
                read_options=arrow_csv.ReadOptions(column_names=names),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=b'"' in self._data, ignore_empty_lines=True
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowException:
            return False
        return table.slice(1) if self.header else table

    def python(self, column: int) -> tuple[Sequence[str], list[int]]:
        """Return a column's cells, stripped of spaces only where they are used, and the line of each."""
        if self._rows is None:
            rows, lines = [], []
            reader = _reader(self.text, self.delimiter)
            blank = 0
            large = len(self.text) > _LARGE
            # Bytes are counted by the row: the cells and what separates them.
            with tqdm(
                total=len(self.text), unit="B", unit_scale=True, desc=f"read {self.name}", leave=False,
                disable=None if large else True,
            ) as bar:  # fmt: skip
                for row in reader:
                    if not row:
                        blank = blank or reader.line_num + self._before
                        continue
                    if blank and self.width == 1:
                        raise ValueError(f"line {blank} is empty where a value is needed")
                    if len(row) != self.width:
                        line = reader.line_num + self._before
                        raise ValueError(
                            f"line {line} has {len(row)} cells, the first line has {self.width} "
                            f"({_NAMES.get(self.delimiter, self.delimiter)} between them)"
                        )
                    rows.append(row)
                    lines.append(reader.line_num + self._before)
                    if large:
                        bar.update(sum(map(len, row)) + len(row))
            if self.header:
                rows, lines = rows[1:], lines[1:]
            self._rows = list(zip(*rows, strict=True)) or [()] * self.width, lines
        return self._rows[0][column], self._rows[1]


def _well_quoted(data: bytes, delimiter: str) -> bool:
    """Return whether every quote opens or closes a whole cell, so that all readers agree on the cells."""
    # A quote within quotes is written twice: it closes and opens again.
    text = np.frombuffer(b"\n" + data + b"\n", dtype=np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    opening, closing = quotes[0::2], quotes[1::2]
    ends = np.frombuffer(f'{delimiter}\r\n"'.encode(), dtype=np.uint8)
    return bool(
        len(opening) == len(closing)
        and np.isin(text[opening - 1], ends).all()
        and np.isin(text[closing + 1], ends).all()
    )


class _TextColumn:
    def __init__(self, cells: _Cells, position: int, name: str | None) -> None:
        self._cells, self._position = cells, position
        self._name = str(position) if name is None else name
        self._place = f"column {position + 1}" + ("" if name is None else f" ({name!r})")

    def __len__(self) -> int:
        return len(self._written())

    def numbers(self) -> NDArray[Any]:
        values = self._numbers_or_none()
        return self._refuse_number() if values is None else values

    def labels(self) -> NDArray[Any]:
        values = self._numbers_or_none()
        if values is not None:
            return values
        cells = self._stripped()
        if any(_number(cell) is not None for cell in cells):
            self._refuse_number()  # a text among numbers, or a number among texts: rather a mistake than a class
        self._refuse_missing(cells, "a label")
        return np.array(cells, dtype=np.str_)

    def ids(self) -> NDArray[Any]:
        cells = self._written()
        if any(cell != cell.strip() for cell in cells):  # "C-1 " may be a person of its own, or a slip: never both
            self._refuse_spaces()
            cells = self._stripped()
        self._refuse_missing(cells, "an id")
        try:
            return ids_of_text(cells)
        except ValueError as error:
            raise ValueError(f"{self._place} {error}") from None

    def _numbers_or_none(self) -> NDArray[Any] | None:
        array = self._cells.arrow(self._position)
        found = None if array is None or self._cells.decimal_comma else _fast_numbers(array)
        return _numbers(self._plain(self._stripped())) if found is None else found

    def _written(self) -> Sequence[str]:
        array = self._cells.arrow(self._position)
        cells: Sequence[str] = self._cells.python(self._position)[0] if array is None else array.to_pylist()
        return cells

    def _stripped(self) -> list[str]:
        return [cell.strip() for cell in self._written()]

    def _plain(self, cells: list[str]) -> list[str]:
        """Return the cells with decimal points for decimal commas, if the caller announced those."""
        if not self._cells.decimal_comma:
            return cells
        return [cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell for cell in cells]

    def _with_lines(self) -> Iterator[tuple[str, int]]:
        cells, lines = self._cells.python(self._position)
        return zip([cell.strip() for cell in cells], lines, strict=True)

    def _refuse_missing(self, cells: Sequence[str], what: str) -> None:
        if any(cell.lower() in _MISSING for cell in cells):
            cell, line = next((cell, line) for cell, line in self._with_lines() if cell.lower() in _MISSING)
            raise ValueError(f"line {line}, {self._place} must hold {what}, got {_shown(cell)}: it is missing")

    def _refuse_spaces(self) -> None:
        """Name the first id with spaces around it, except those that the table puts after its delimiters."""
        for cell, line in zip(*self._cells.python(self._position), strict=True):
            if cell != cell.strip() and cell.strip():
                raise ValueError(
                    f"line {line}, {self._place} must hold an id without spaces around it, got {cell!r}: remove them"
                )

    def _refuse_number(self) -> NoReturn:
        """Name the first cell that is not a finite number."""
        found = list(self._with_lines())
        numbers = [_number(cell) for cell in self._plain([cell for cell, _ in found])]
        for (cell, line), value in zip(found, numbers, strict=True):
            place = f"line {line}, {self._place}"
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{place} must be finite, got {cell}")
            if cell.lower() in _MISSING:
                raise ValueError(f"{place} must hold a number, got {_shown(cell)}: it is missing")
            if value is None:
                hint = ""
                if re.fullmatch(r"[+-]?\d+,\d+", cell):
                    hint = " (a decimal comma? --decimal-comma, decimal_comma=True)"
                elif not any(other is not None for other in numbers):
                    hint = f" (drop the column, or name it as target or id: --drop {self._name})"
                raise ValueError(f"{place} must hold a number, got {cell!r}{hint}")
        raise ValueError(f"{self._place} must hold finite numbers")


def _shown(cell: str) -> str:
    return repr(cell) if cell else "nothing"


def _fast_numbers(array: Any) -> NDArray[Any] | None:
    """Return pyarrow strings as numbers where all are plain ones, None otherwise."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with contextlib.suppress(pa.ArrowException):
        if pc.all(pc.match_substring_regex(array, r"^-?[0-9]{1,18}$")).as_py():
            return np.asarray(array.cast(pa.int64()).to_numpy(), dtype=np.int64)
        if pc.all(pc.match_substring_regex(array, r"^-?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$")).as_py():
            values = np.asarray(array.cast(pa.float64()).to_numpy(), dtype=np.float64)
            return values if np.isfinite(values).all() else None
    return None


def _numbers(cells: Sequence[str]) -> NDArray[Any] | None:
    """Return cells as int64 (booleans count as 0 and 1) or finite float64; None if one is something else."""
    if not any("_" in cell for cell in cells):
        with contextlib.suppress(ValueError, OverflowError):
            return np.array([int(cell) for cell in cells], dtype=np.int64)
        with contextlib.suppress(ValueError):
            values = np.array([float(cell) for cell in cells])
            return values if np.isfinite(values).all() else None
    if all(cell.lower() in _BOOLEANS for cell in cells):
        return np.array([_BOOLEANS[cell.lower()] for cell in cells], dtype=np.int64)
    return None
