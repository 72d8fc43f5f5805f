"""Parquet files as tables: numbers, booleans, text, categories and fixed-size lists of numbers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from expunge._errors import how_to_install
from expunge.data.arrow import is_text
from expunge.data.identifiers import exact_ids
from expunge.data.tables import Table, check_names

__all__ = ["index_columns", "open_parquet", "read_parquet"]

_LARGE = 1 << 22  # cells from which on converting them may take a second


def read_parquet(path: Path) -> Table:
    """Return the table of a Parquet file.

    Raises
    ------
    ImportError
        Without pyarrow.
    ValueError
        If the file is truncated, empty or no Parquet.
    """
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with path.open("rb") as file, _whole():
        opened = open_parquet(file)
        check_names(opened.schema_arrow.names)
        table = opened.read()
    names = tuple(table.column_names)
    if not names:
        raise ValueError("holds no columns")
    if table.num_rows == 0:
        raise ValueError("holds no records")
    columns = [_ParquetColumn(table.column(j), names[j]) for j in range(len(names))]
    large = table.num_rows * len(names) > _LARGE
    return Table(columns, names, index_columns(table.schema.metadata, names), large=large)


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    try:
        import pyarrow as pa
    except ImportError:
        raise ImportError(f"reading Parquet needs pyarrow: {how_to_install('parquet')}") from None
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(f"is truncated or not a Parquet file: {' '.join(str(error).split())}") from None


def open_parquet(file: Path | BinaryIO, *, metadata: Any = None, verify: bool = False) -> Any:
    """Return an open Parquet file, of which columns and row groups are read when they are asked for.

    Its ``metadata`` are not read again where they are given. With ``verify``, checksums of pages are held against what
    is read.

    Raises
    ------
    ImportError
        Without pyarrow.
    ValueError
        If the file is truncated or no Parquet.
    """
    with _whole():
        from pyarrow import parquet

        return parquet.ParquetFile(
            file, metadata=metadata, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=verify
        )


def index_columns(metadata: Any, names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the columns in which pandas keeps a frame's index."""
    try:
        kept = json.loads((metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError):
        return ()
    return tuple(names.index(name) for name in kept if isinstance(name, str) and name in names)


class _ParquetColumn:
    def __init__(self, column: Any, name: str) -> None:
        self._column, self._name = column, name

    def __len__(self) -> int:
        return len(self._column)

    def _array(self, wanted: str) -> Any:
        import pyarrow as pa

        column = self._column
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if column.null_count:
            row = next(i for i, value in enumerate(column) if not value.is_valid)
            raise ValueError(f"column {self._name!r}, row {row} must hold {wanted}, got nothing")
        array = column.combine_chunks()
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    def numbers(self) -> NDArray[Any]:
        import pyarrow as pa

        array = self._array("a number")
        width = None
        if pa.types.is_fixed_size_list(array.type):
            width = array.type.list_size
            array = array.flatten()
            if array.null_count:
                raise ValueError(f"column {self._name!r} must hold a number in every place of its lists, got nothing")
        kind = array.type
        if pa.types.is_decimal(kind):
            array = array.cast(pa.float64())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            hint = f" (--drop {self._name})" if is_text(kind) else ""
            raise ValueError(
                f"column {self._name!r} must hold numbers or fixed-size lists of numbers, got {self._column.type}{hint}"
            )
        values = np.asarray(array.to_numpy(zero_copy_only=False))
        values = values.astype(np.int64) if values.dtype.kind == "b" else values
        return values if width is None else values.reshape(len(self._column), width)

    def labels(self) -> NDArray[Any]:
        array = self._array("a value")
        return np.array(array.to_pylist(), dtype=np.str_) if is_text(array.type) else self.numbers()

    def ids(self) -> NDArray[Any]:
        import pyarrow as pa

        array = self._array("an id")
        if not (is_text(array.type) or pa.types.is_integer(array.type)):
            raise ValueError(f"column {self._name!r} must hold ids, whole numbers or text, got {self._column.type}")
        try:
            return exact_ids(array.to_pylist())
        except ValueError as error:
            raise ValueError(f"column {self._name!r}: {error}") from None
