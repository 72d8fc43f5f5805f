"""Arrow columns as arrays: numbers, lists of numbers, labels and ids, for tables in memory and for files alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._kernels.backend import HOST
from expunge._types import AnyArray
from expunge.data.identifiers import exact_ids
from expunge.data.layout import Field
from expunge.data.numbers import checked_answers

__all__ = [
    "ArrowFeatures",
    "Batches",
    "answers_of",
    "feature_rows",
    "field_of",
    "id_type",
    "ids_of",
    "is_list",
    "is_text",
    "list_rows",
    "number_dtype",
    "numbers",
    "plain",
]


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is one of lists."""
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_text(kind: Any) -> bool:
    """Return whether an Arrow type is one of text."""
    return str(kind) in ("string", "large_string", "string_view")


def number_dtype(kind: Any) -> np.dtype[np.floating] | None:
    """Return float32 where it holds all numbers of an Arrow type exactly, else float64; None for what is no number."""
    import pyarrow as pa

    if pa.types.is_decimal(kind) or pa.types.is_float64(kind):
        return np.dtype(np.float64)
    if pa.types.is_integer(kind):
        return np.dtype(np.float32 if kind.bit_width <= 16 else np.float64)
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.dtype(np.float32)
    return None


def field_of(kind: Any) -> Field:
    """Return what a column of an Arrow type may be used for."""
    import pyarrow as pa

    lists = is_list(kind)
    width = int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None
    one = kind.value_type if lists or pa.types.is_dictionary(kind) else kind
    number = None if pa.types.is_dictionary(kind) else number_dtype(one)
    whole = pa.types.is_integer(one) or pa.types.is_boolean(one)
    answer = "U" if is_text(one) and not lists else None
    if number_dtype(one) is not None:
        answer = "i" if whole and not lists else "f"
    names = id_type(kind)
    return Field(str(kind), number, lists, width, answer, None if names is None else "U" if is_text(names) else "i")


def plain(column: Any) -> Any:
    """Return a column as one array."""
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


class Batches:
    """Rows of a stream of batches, as many at a time as are asked for.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch or Table
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._left, self._held, self._rows = iter(batches), deque[Any](), 0

    def take(self, n: int) -> Any:
        """Return the next ``n`` rows as one batch.

        Raises
        ------
        EOFError
            If there are fewer.
        """
        import pyarrow as pa

        while self._rows < n or not self._held:
            batch = next(self._left, None)
            if batch is None:
                raise EOFError(f"{self._rows} rows where {n} were promised")
            self._held.append(batch)
            self._rows += batch.num_rows
        parts: list[Any] = []
        while n:
            batch = self._held.popleft()
            parts.append(batch.slice(0, n))
            self._rows -= parts[-1].num_rows
            n -= parts[-1].num_rows
            if batch.num_rows > parts[-1].num_rows:
                self._held.appendleft(batch.slice(parts[-1].num_rows))
        if len(parts) == 1 and isinstance(parts[0], pa.RecordBatch):
            return parts[0]
        tables = [one if isinstance(one, pa.Table) else pa.Table.from_batches([one]) for one in parts]
        return pa.concat_tables(tables).combine_chunks().to_batches()[0]


def answers_of(column: Any, *, kind: str | None, place: str, first: int) -> AnyArray:
    """Return targets of a kind, "i", "f" or "U", or refuse one that is missing by its row, counted from ``first``."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    _refuse_nulls(column, place, first, "a label or target")
    if is_text(column.type):
        return checked_answers(np.array(column.to_pylist(), dtype=np.str_), kind, place, first)
    if is_list(column.type):
        lengths, values = list_rows(
            column, int(column.type.list_size) if hasattr(column.type, "list_size") else len(column[0])
        )
        short = np.flatnonzero(lengths != values.shape[1])
        if len(short):
            raise ValueError(f"{place}, row {first + int(short[0])} must hold {values.shape[1]} targets")
        return checked_answers(values, kind, place, first)
    found = (
        np.asarray(column.to_numpy(zero_copy_only=False)) if not pa.types.is_decimal(column.type) else numbers(column)
    )
    return checked_answers(found, kind, place, first)


def ids_of(column: Any, *, place: str, first: int) -> AnyArray:
    """Return ids exactly; one that is missing or empty is refused with its row, counted from ``first``."""
    _refuse_nulls(column, place, first, "an id")
    column = column.cast(id_type(column.type))
    values = column.to_pylist() if is_text(column.type) else np.asarray(column.to_numpy(zero_copy_only=False))
    try:
        return exact_ids(values)
    except ValueError as error:
        raise ValueError(f"{place}, from row {first} on: {error}") from None


def _refuse_nulls(column: Any, place: str, first: int, what: str) -> None:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{place}, row {first + row} must hold {what}, got nothing")


def id_type(kind: Any) -> Any:
    """Return the type in which ids are read, so that shards agree: int64, uint64 or text; None for what is no id."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return kind if pa.types.is_uint64(kind) else pa.int64()
    return pa.string() if is_text(kind) else None


def numbers(array: Any) -> NDArray[Any]:
    """Return an Arrow array of numbers; missing values become NaN."""
    import pyarrow as pa

    if array.null_count or pa.types.is_boolean(array.type) or pa.types.is_decimal(array.type):
        array = array.cast(pa.float64(), safe=False)  # a number beyond 2^53 is rounded, not refused
    return np.asarray(array.to_numpy(zero_copy_only=False))


def list_rows(array: Any, width: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the length of each list (-1 for none), and the values of those of the width that is needed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(array.type) and array.type.list_size == width and not array.null_count:
        return np.full(len(array), width), numbers(array.flatten()).reshape(-1, width)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    fits = lengths == width
    good = array if fits.all() else array.filter(fits)
    return lengths, numbers(pc.list_flatten(good)).reshape(-1, width)


def feature_rows(
    columns: Sequence[Any], *, width: int, dtype: np.dtype[np.floating], problems: dict[int, str]
) -> NDArray[Any]:
    """Return one list column, or many scalar ones, of a batch as rows; ``problems`` receives rows of another width.

    Lists are returned as they lie, in their own type; scalar columns are written side by side in ``dtype``.
    """
    if not is_list(columns[0].type):
        return side_by_side(columns, dtype)
    lengths, values = list_rows(columns[0], width)
    fits = lengths == width
    if fits.all():
        return values
    rows = np.zeros((len(lengths), width), dtype=dtype)
    with np.errstate(over="ignore"):
        rows[fits] = values
    for row in np.flatnonzero(~fits).tolist():
        got = "no list" if lengths[row] < 0 else f"{lengths[row]} features"
        problems[row] = f"{got} where {width} features are needed"
    return rows


_PANEL = 1 << 21  # bytes of columns that are turned into rows at a time, so that they stay in the cache
_PAD = 16  # values behind each column, so that columns do not all fall on the same lines of the cache


def side_by_side(columns: Sequence[Any], dtype: np.dtype[np.floating]) -> NDArray[Any]:
    """Return columns of numbers as rows."""
    values = [numbers(column) for column in columns]
    rows = np.empty((len(values[0]), len(values)), dtype=dtype)
    most = max(256, _PANEL // (dtype.itemsize * len(values)))
    panel = np.zeros((len(values), min(most, len(rows)) + _PAD), dtype=dtype)
    with np.errstate(over="ignore"):
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            for place, column in zip(panel, values, strict=True):
                place[: len(part)] = column[start : start + most]
            HOST.run("rows_of_columns", panel, part, threads=1)
    return rows


class ArrowFeatures:
    """Features of a table in memory: all its columns, one list column or many scalar ones.

    Parameters
    ----------
    table : pyarrow.Table or RecordBatch
        Columns of numbers, or one column of lists of numbers of one length.
    """

    def __init__(self, table: Any) -> None:
        import pyarrow as pa

        self._table = table if isinstance(table, pa.Table) else pa.Table.from_batches([table])
        schema = self._table.schema
        lists = [field for field in schema if is_list(field.type)]
        kinds = [field.type.value_type if is_list(field.type) else field.type for field in schema]
        if lists and len(schema) > 1:
            raise ValueError(f"X must hold one list column or many scalar ones, got {', '.join(map(str, schema))}")
        found = [number_dtype(kind) for kind in kinds]
        for field, one in zip(schema, found, strict=True):
            if one is None:
                raise TypeError(f"X must hold real numbers, got column {field.name!r} of {field.type}: drop it")
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64 if np.dtype(np.float64) in found else np.float32)
        self.names = None if lists else tuple(schema.names)
        self.width = self._list_width(lists[0]) if lists else len(schema)

    def _list_width(self, field: Any) -> int:
        import pyarrow as pa

        if pa.types.is_fixed_size_list(field.type):
            return int(field.type.list_size)
        first = next((one for one in self._table.column(0) if one.is_valid), None)
        return 0 if first is None else len(first)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def rows(self, start: int, stop: int) -> NDArray[np.floating]:
        """Return rows, C-contiguous and in ``dtype``; missing numbers are NaN."""
        columns = [plain(column) for column in self._table.slice(start, stop - start).columns]
        problems: dict[int, str] = {}
        found = feature_rows(columns, width=self.width, dtype=self.dtype, problems=problems)
        if problems:
            row = min(problems)
            raise ValueError(f"X, row {start + row}: {problems[row]}")
        with np.errstate(over="ignore"):
            return np.require(found, dtype=self.dtype, requirements=["C", "A"])
