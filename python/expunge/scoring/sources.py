"""Datasets that need not fit in memory, as a list of parts, each read in blocks of bounded size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._extras import how_to_install

__all__ = ["BadRowError", "Block", "Columns", "Part", "list_files", "list_parts", "read_blocks"]


class BadRowError(ValueError):
    """A row that cannot be scored, named by its file and its number in that file (from 0)."""


@dataclass(frozen=True)
class Columns:
    """What to read from a file: the feature columns (one list column or many scalar ones), label and record id."""

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


@dataclass
class Block:
    """Consecutive rows of a part. ``problems`` names what is wrong with a row, by its number within the block."""

    X: NDArray[Any]
    y: NDArray[Any]
    ids: Any  # a pyarrow array, or None for row numbers
    start: int  # row number within the file
    problems: dict[int, str]


def list_files(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a dataset: the file itself, or all shards of a folder (one kind), by name."""
    path = Path(source)
    if path.is_dir():
        found = {kind: sorted(path.glob(f"*{kind}")) for kind in (".parquet", ".npy")}
        kinds = [kind for kind, files in found.items() if files]
        if len(kinds) != 1:
            raise ValueError(
                f"source must be a folder of .parquet or of .npy shards, got {path} with {kinds or 'none'}"
            )
        return found[kinds[0]]
    if path.suffix not in (".parquet", ".npy"):
        raise ValueError(f"source must be a .parquet or .npy file or a folder of them, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"source {path} does not exist")
    return [path]


def list_parts(files: Sequence[Path], columns: Columns, *, rows_per_part: int) -> list[Part]:
    """Return the parts in order. They depend on the files and ``rows_per_part`` only."""
    parts: list[Part] = []
    record = 0
    for file in files:
        if file.suffix == ".npy":
            shape, _, _ = _npy_layout(file)
            if len(shape) != 2:
                raise ValueError(f"source {file} must hold a two-dimensional array, got shape {shape}")
            labels = _npy_layout(_labels_of(file, columns))[0]
            if labels[:1] != shape[:1]:
                raise ValueError(f"labels of {file} must have {shape[0]} rows, got shape {labels}")
            for start in range(0, shape[0], rows_per_part):
                rows = min(rows_per_part, shape[0] - start)
                parts.append(Part(file, start, rows, record + start))
            record += shape[0]
        else:
            metadata = _parquet(file).metadata
            start = 0
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                if rows:
                    parts.append(Part(file, start, rows, record + start, group))
                start += rows
            record += start
    return parts


def feature_dtype(file: Path, columns: Columns) -> np.dtype[Any]:
    """Return float64 for float64 features and float32 for all others."""
    if file.suffix == ".npy":
        stored = _npy_layout(file)[1]
        if stored.kind not in "fiu":
            raise TypeError(f"source {file} must hold real numbers, got dtype {stored}")
        wide = stored.kind == "f" and stored.itemsize == 8
    else:
        import pyarrow as pa

        schema = _parquet(file).schema_arrow
        wanted = [*columns.features, columns.label, *([columns.record_id] if columns.record_id else [])]
        missing = [name for name in wanted if name not in schema.names]
        if missing:
            raise ValueError(f"source {file} must have the column(s) {missing}, got {schema.names}")
        types = [schema.field(name).type for name in columns.features]
        lists = [one for one in types if _is_list(one)]
        if lists and len(types) > 1:
            raise ValueError(f"features must be one list column or many scalar ones, got {list(map(str, types))}")
        values = [one.value_type if _is_list(one) else one for one in types]
        if not all(pa.types.is_floating(one) or pa.types.is_integer(one) for one in values):
            raise TypeError(f"features of {file} must hold real numbers, got {sorted(set(map(str, values)))}")
        wide = any(pa.types.is_float64(one) for one in values)
    return np.dtype(np.float64 if wide else np.float32)


def read_blocks(
    part: Part, columns: Columns, *, n_features: int, loss: str, n_outputs: int, block_rows: int
) -> Iterator[Block]:
    """Yield the rows of a part in order, ``block_rows`` at a time.

    ``problems`` of a block lists wrong lengths and labels; features that are not finite are left to whoever scores.
    """
    dtype = feature_dtype(part.file, columns)
    stored = n_features - columns.append_one
    reader = _npy_rows if part.file.suffix == ".npy" else _parquet_rows
    for start, raw, labels, ids, problems in reader(part, columns, dtype, stored, block_rows):
        X = raw  # as it was read where that will do: a copy costs as much as the scores
        if columns.append_one or raw.dtype != dtype or not raw.flags.c_contiguous or not raw.flags.aligned:
            X = np.empty((raw.shape[0], n_features), dtype=dtype)
            X[:, :stored] = raw
            X[:, stored:] = 1.0
        y = _checked_labels(labels, loss, n_outputs, dtype, problems)
        yield Block(X, y, ids, start, problems)


def _checked_labels(
    labels: NDArray[Any], loss: str, n_outputs: int, dtype: np.dtype[Any], problems: dict[int, str]
) -> NDArray[Any]:
    if loss == "squared":
        targets = labels.astype(dtype)
        good = np.isfinite(targets.reshape(targets.shape[0], -1)).all(axis=1)
        for row in np.flatnonzero(~good):
            problems.setdefault(int(row), "the target is missing, NaN or infinite")
            targets[row] = 0.0
        return targets
    classes = 2 if loss == "logistic" else n_outputs
    with np.errstate(invalid="ignore"):
        good = (labels >= 0) & (labels < classes) & (labels == np.floor(labels))
    for row in np.flatnonzero(~good):
        problems.setdefault(int(row), f"label {labels[row]} is not a class number below {classes}")
    return np.asarray(np.where(good, labels, 0), dtype=np.int64)


def _labels_of(file: Path, columns: Columns) -> Path:
    if columns.labels_path is None:
        raise ValueError(f"labels must name a .npy file (or a folder of them) for {file}")
    path = columns.labels_path / file.name if columns.labels_path.is_dir() else columns.labels_path
    if not path.is_file():
        raise FileNotFoundError(f"labels {path} does not exist")
    return path


def _npy_layout(file: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, dtype and where the values start."""
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            offset = stream.tell()
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a .npy file ({error})") from None
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError(f"{file} must hold numbers in C order, got dtype {dtype}, fortran_order={fortran}")
    size = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if file.stat().st_size < size:
        raise ValueError(f"{file} is truncated: {file.stat().st_size} bytes, its header promises {size}")
    return shape, dtype, offset


def _npy_slice(file: Path, start: int, rows: int) -> NDArray[Any]:
    # Read, not mapped: pages of a mapping count as this process's memory.
    shape, dtype, offset = _npy_layout(file)
    width = int(np.prod(shape[1:], dtype=np.int64))
    values = np.fromfile(file, dtype=dtype, count=rows * width, offset=offset + start * width * dtype.itemsize)
    return values.reshape(rows, *shape[1:])


def _npy_rows(
    part: Part, columns: Columns, dtype: np.dtype[Any], stored: int, block_rows: int
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any], Any, dict[int, str]]]:
    labels = _labels_of(part.file, columns)
    for start in range(part.start, part.start + part.rows, block_rows):
        rows = min(block_rows, part.start + part.rows - start)
        raw = _npy_slice(part.file, start, rows)
        if raw.shape[1] != stored:
            raise ValueError(f"source {part.file} must have {stored} features a row, got {raw.shape[1]}")
        yield start, raw, _npy_slice(labels, start, rows), None, {}


def _parquet(file: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(f"Parquet files need pyarrow: {how_to_install('parquet')}") from None
    try:
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a whole Parquet file ({error})") from None


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _numbers(array: Any) -> NDArray[Any]:
    """Return an arrow array of numbers; missing values become NaN."""
    if array.null_count:
        import pyarrow as pa

        array = array.cast(pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _parquet_rows(
    part: Part, columns: Columns, dtype: np.dtype[Any], stored: int, block_rows: int
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any], Any, dict[int, str]]]:
    import pyarrow.compute as pc

    names = [*columns.features, columns.label]
    if columns.record_id is not None and columns.record_id not in names:
        names.append(columns.record_id)
    start = part.start
    batches = _parquet(part.file).iter_batches(batch_size=block_rows, row_groups=[part.group], columns=names)
    for batch in batches:
        rows = batch.num_rows
        problems: dict[int, str] = {}
        first = batch.column(columns.features[0])
        if _is_list(first.type):
            lengths = pc.fill_null(pc.list_value_length(first), -1).to_numpy(zero_copy_only=False)
            fits = lengths == stored
            good = first if fits.all() else first.filter(fits)
            values = _numbers(pc.list_flatten(good)).reshape(-1, stored)
            raw = values if fits.all() else np.zeros((rows, stored), dtype=dtype)
            if not fits.all():
                raw[fits] = values
            for row in np.flatnonzero(~fits):
                got = "no list" if lengths[row] < 0 else f"{lengths[row]} features"
                problems[int(row)] = f"{got} where {stored} features are needed"
        else:
            if len(columns.features) != stored:
                raise ValueError(f"features must name {stored} columns, got {len(columns.features)}")
            raw = np.empty((rows, stored), dtype=dtype)
            for column, name in enumerate(columns.features):
                raw[:, column] = _numbers(batch.column(name))
        label = batch.column(columns.label)
        labels = _label_values(label, rows, columns.label, part.file)
        ids = batch.column(columns.record_id) if columns.record_id is not None else None
        yield start, raw, labels, ids, problems
        start += rows


def _label_values(label: Any, rows: int, name: str, file: Path) -> NDArray[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if _is_list(label.type):
        lengths = pc.fill_null(pc.list_value_length(label), -1).to_numpy(zero_copy_only=False)
        width = int(lengths.max(initial=0))
        result = np.full((rows, width), np.nan)
        fits = lengths == width
        result[fits] = _numbers(pc.list_flatten(label.filter(fits))).reshape(-1, width)
        return result
    if not (pa.types.is_integer(label.type) or pa.types.is_floating(label.type)):
        raise TypeError(f"column {name} of {file} must hold numbers, got {label.type}")
    return _numbers(label)
