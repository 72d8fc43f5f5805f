"""Files of a data set: finding them, checking that they belong together, and dividing them into parts.

Everything that names, headers and schemas reveal is checked here, before any record is read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from expunge.data.addresses import File, find_files
from expunge.data.arrow import id_type, is_list
from expunge.data.parquet import open_parquet
from expunge.data.shards import NpyColumn

__all__ = [
    "Columns",
    "Layout",
    "Part",
    "check_schema",
    "label_files",
    "list_files",
    "list_parts",
    "npy_column",
    "open_shard",
]

_KINDS = (".parquet", ".npy")


@dataclass(frozen=True)
class Columns:
    """Columns to read from a file: the feature columns (one list column or many scalar ones), label and record id."""

    features: tuple[str, ...] = ("features",)
    label: str = "label"
    record_id: str | None = None
    labels_path: Path | None = None  # for .npy data
    append_one: bool = False  # a constant feature 1 after the others


@dataclass(frozen=True)
class Part:
    """Rows [start, start + rows) of a file; for Parquet a whole row group."""

    file: Path
    start: int
    rows: int
    first_record: int  # number of the first row within the whole dataset
    group: int = 0
    labels: Path | None = None  # for .npy data: the file of the labels, and where those of the first row are
    labels_start: int = 0


@dataclass(frozen=True)
class Layout:
    """Layout that all shards share: the dtype that is scored, and the Arrow type of the record ids."""

    dtype: np.dtype[Any]
    id_type: Any = None


def kind_of(file: Path) -> str:
    """Return the ending of a file, in small letters."""
    return file.suffix.lower()


def list_files(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a dataset, as `find_files` finds them: one, or all shards of a folder (one kind), by name."""
    return [Path(file.name) for file in find_files(source, kinds=_KINDS)]


# --- labels of .npy data -------------------------------------------------------------------------


def label_files(files: Sequence[Path], columns: Columns) -> list[Path]:
    """Return the files that hold the labels of ``.npy`` shards; none for Parquet.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are none, or one is missing.
    """
    if not files or kind_of(files[0]) != ".npy":
        if columns.labels_path is not None:
            raise ValueError(f"labels are a column of Parquet files, got a file of labels: {columns.labels_path}")
        return []
    path = columns.labels_path
    if path is None:
        raise ValueError(f"labels must name a .npy file (or a folder of them) for {files[0]}")
    found = [path / file.name for file in files] if path.is_dir() else [path]
    for one in found:
        if not one.is_file():
            raise FileNotFoundError(f"labels {one} does not exist")
    if path.is_dir():
        _refuse_more(path, found)
    return found


def _refuse_more(folder: Path, found: list[Path]) -> None:
    """Refuse labels that belong to no shard: the shard may be what is missing."""
    kept = {file.name for file in folder.iterdir() if not file.name.startswith((".", "_")) and kind_of(file) == ".npy"}
    if more := sorted(kept - {one.name for one in found}):
        raise ValueError(
            f"labels {folder} holds {', '.join(more[:5])}, but the source has no shard of that name; move it away, or "
            "begin its name with an underscore to leave it out"
        )


def _check_labels(path: Path, rows: int, of: str, *, loss: str, n_outputs: int) -> None:
    column = npy_column(path, "labels")
    shape, dtype = column.shape, column.dtype
    if dtype.kind not in "biuf":
        raise TypeError(f"labels {path} must hold numbers, got dtype {dtype}: write classes as 0, 1, 2, ...")
    if not shape or shape[0] != rows:
        raise ValueError(f"labels {path} must have {rows} rows, as {of}, got shape {shape}")
    width = int(np.prod(shape[1:], dtype=np.int64))
    needed = n_outputs if loss == "squared" else 1
    if len(shape) > 2 or width != needed:
        raise ValueError(f"labels {path} must hold {needed} number(s) a row for the {loss} loss, got shape {shape}")


# --- parts ---------------------------------------------------------------------------------------


def list_parts(
    files: Sequence[Path], columns: Columns, *, rows_per_part: int, n_features: int, loss: str, n_outputs: int
) -> tuple[list[Part], Layout]:
    """Return the parts in order and the layout that all shards share: by files and ``rows_per_part`` alone.

    Raises
    ------
    TypeError, ValueError
        Naming the shard that does not fit the model, the labels or the other shards.
    """
    if kind_of(files[0]) == ".npy":
        return _npy_parts(files, columns, rows_per_part, n_features - columns.append_one, loss, n_outputs)
    return _parquet_parts(files, columns, n_features - columns.append_one, loss, n_outputs)


def _npy_parts(
    files: Sequence[Path], columns: Columns, rows_per_part: int, stored: int, loss: str, n_outputs: int
) -> tuple[list[Part], Layout]:
    if columns.record_id is not None:
        raise ValueError("record_id names a column of Parquet files, and these are .npy: row numbers are the ids")
    parts: list[Part] = []
    dtypes: dict[np.dtype[Any], Path] = {}
    labels = label_files(files, columns)
    rows_of = []
    for file in files:
        column = npy_column(file, "source")
        shape, dtype = column.shape, column.dtype
        if dtype.kind not in "fiu":
            raise TypeError(f"source {file} must hold real numbers, got dtype {dtype}")
        if len(shape) != 2 or shape[1] != stored:
            raise ValueError(f"source {file} must have {stored} features a row, shape (rows, {stored}), got {shape}")
        dtypes.setdefault(np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize == 8 else np.float32), file)
        rows_of.append(shape[0])
    one_for_all = len(labels) == 1 and len(files) > 1
    if one_for_all:
        _check_labels(labels[0], sum(rows_of), f"the {len(files)} shards together", loss=loss, n_outputs=n_outputs)
    record = 0
    for i, (file, n) in enumerate(zip(files, rows_of, strict=True)):
        path = labels[0 if one_for_all else i]
        if not one_for_all:
            _check_labels(path, n, str(file), loss=loss, n_outputs=n_outputs)
        for start in range(0, n, rows_per_part):
            rows = min(rows_per_part, n - start)
            at = (record if one_for_all else 0) + start
            parts.append(Part(file, start, rows, record + start, labels=path, labels_start=at))
        record += n
    return parts, Layout(_one_dtype(dtypes))


def _one_dtype(dtypes: dict[np.dtype[Any], Path]) -> np.dtype[Any]:
    if len(dtypes) > 1:
        (one, first), (other, second) = list(dtypes.items())[:2]
        raise ValueError(
            f"source must have one dtype in all shards: {first} is scored in {one}, {second} in {other}; "
            "store both as float64, or both as float32"
        )
    return next(iter(dtypes))


def _parquet_parts(
    files: Sequence[Path], columns: Columns, stored: int, loss: str, n_outputs: int
) -> tuple[list[Part], Layout]:
    label_files(files, columns)
    parts: list[Part] = []
    dtypes: dict[np.dtype[Any], Path] = {}
    ids: dict[Any, Path] = {}
    record = 0
    for file in files:
        opened = open_shard(file)
        schema = opened.schema_arrow
        one = check_schema(f"source {file}", schema, columns, n_features=stored, loss=loss, n_outputs=n_outputs)
        dtypes.setdefault(one.dtype, file)
        if columns.record_id is not None:
            ids.setdefault(one.id_type, file)
        start = 0
        for group in range(opened.metadata.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if rows:
                parts.append(Part(file, start, rows, record + start, group))
            start += rows
        record += start
    layout = Layout(_one_dtype(dtypes))
    if len(ids) > 1:
        (one, first), (other, second) = list(ids.items())[:2]
        raise TypeError(
            f"record ids in column {columns.record_id} must be of one kind in all shards: {first} has {one}, "
            f"{second} has {other}"
        )
    return parts, replace(layout, id_type=next(iter(ids), None))


def check_schema(place: str, schema: Any, columns: Columns, *, n_features: int, loss: str, n_outputs: int) -> Layout:
    """Return the layout of a table's columns, of so many stored features; refuse what cannot be scored.

    Raises
    ------
    TypeError, ValueError
        Naming the place and the column.
    """
    import pyarrow as pa

    wanted = [*columns.features, columns.label, *([columns.record_id] if columns.record_id else [])]
    for name in wanted:
        if (n := schema.names.count(name)) != 1:
            problem = "must have the column" if n == 0 else f"has {n} columns of the name"
            known = f", got {', '.join(schema.names[:20])}" if n == 0 else ": give them different names"
            raise ValueError(f"{place} {problem} {name}{known}")
    types = [schema.field(name).type for name in columns.features]
    lists = [one for one in types if is_list(one)]
    if lists and len(types) > 1:
        raise ValueError(
            f"features must be one list column or many scalar ones, got {list(map(str, types))} in {place}"
        )
    if not lists and len(types) != n_features:
        raise ValueError(f"features must name {n_features} columns, got {len(types)}")
    if lists and pa.types.is_fixed_size_list(types[0]) and types[0].list_size != n_features:
        raise ValueError(f"{place} must have {n_features} features a row, got {types[0].list_size}")
    values = [one.value_type if is_list(one) else one for one in types]
    if not all(pa.types.is_floating(one) or pa.types.is_integer(one) for one in values):
        raise TypeError(f"features of {place} must hold real numbers, got {', '.join(sorted(set(map(str, values))))}")
    _check_label_type(place, schema.field(columns.label).type, columns.label, loss, n_outputs)
    dtype = np.dtype(np.float64 if any(pa.types.is_float64(one) for one in values) else np.float32)
    return Layout(dtype, None if columns.record_id is None else _id_type(place, schema.field(columns.record_id).type))


def _check_label_type(place: str, kind: Any, name: str, loss: str, n_outputs: int) -> None:
    import pyarrow as pa

    several = is_list(kind)
    value = kind.value_type if several else kind
    if not (pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_boolean(value)):
        hint = "" if loss == "squared" else ": write classes as 0, 1, 2, ..."
        raise TypeError(f"column {name} of {place} must hold numbers, got {kind}{hint}")
    if several != (loss == "squared" and n_outputs > 1) and not (several and loss == "squared"):
        needed = f"lists of {n_outputs} numbers" if loss == "squared" else "one number a row"
        raise TypeError(f"column {name} of {place} must hold {needed} for the {loss} loss, got {kind}")


def _id_type(place: str, kind: Any) -> Any:
    """Return the type in which ids are written: all signed integers as int64, all text as string."""
    found = id_type(kind)
    if found is None:
        raise TypeError(f"record ids of {place} must be whole numbers or text, got {kind}")
    return found


# --- opening -------------------------------------------------------------------------------------


def npy_column(file: Path, what: str) -> NpyColumn:
    """Return the rows of a .npy file, or raise an error that says what it is."""
    found = file.stat()
    try:
        return NpyColumn(File(str(file), found.st_size, found.st_mtime_ns))
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def open_shard(file: Path, *, metadata: Any = None) -> Any:
    """Return an open Parquet file, or raise an error that names it."""
    try:
        return open_parquet(file, metadata=metadata)
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except ValueError as error:
        raise ValueError(f"{file} {error}") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read as Parquet: {' '.join(str(error).split())}") from None
