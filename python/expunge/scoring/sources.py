"""Records of data sets larger than memory, part by part, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.scoring.shards import Columns, Layout, Part, is_list, kind_of, npy_layout, open_shard

__all__ = ["BadRowError", "Block", "read_blocks"]

_Rows = tuple[int, NDArray[Any], NDArray[Any], Any, dict[int, str]]


class BadRowError(ValueError):
    """A row that cannot be scored, named by its file and its number in that file (from 0)."""


@dataclass
class Block:
    """Consecutive rows of a part. ``problems`` names what is wrong with a row, by its number within the block."""

    X: NDArray[Any]
    y: NDArray[Any]
    ids: Any  # a pyarrow array, or None for row numbers
    start: int  # row number within the file
    problems: dict[int, str]


def read_blocks(
    part: Part, columns: Columns, layout: Layout, *, n_features: int, loss: str, n_outputs: int, block_rows: int
) -> Iterator[Block]:
    """Yield the rows of a part in order, ``block_rows`` at a time.

    ``problems`` of a block lists wrong lengths, labels and ids; features that are not finite are left to whoever
    scores.
    """
    dtype = layout.dtype
    stored = n_features - columns.append_one
    several = loss == "squared" and n_outputs > 1
    if kind_of(part.file) == ".npy":
        rows = _npy_rows(part, several, block_rows)
    else:
        rows = _parquet_rows(part, columns, layout, stored, n_outputs if several else 0, block_rows)
    for start, raw, labels, ids, problems in rows:
        X = raw  # as it was read where that will do: a copy costs as much as the scores
        if columns.append_one or raw.dtype != dtype or not raw.flags.c_contiguous or not raw.flags.aligned:
            X = np.empty((raw.shape[0], n_features), dtype=dtype)
            with np.errstate(over="ignore"):  # what does not fit is infinite, and said to be
                X[:, :stored] = raw
            X[:, stored:] = 1.0
        y = _checked_labels(labels, loss, n_outputs, dtype, problems)
        yield Block(X, y, ids, start, problems)


def _checked_labels(
    labels: NDArray[Any], loss: str, n_outputs: int, dtype: np.dtype[Any], problems: dict[int, str]
) -> NDArray[Any]:
    if loss == "squared":
        with np.errstate(over="ignore"):
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
        missing = labels[row] != labels[row]
        what = "the label is missing" if missing else f"label {labels[row]:g} is not a class number below {classes}"
        problems.setdefault(int(row), what)
    return np.asarray(np.where(good, labels, 0), dtype=np.int64)


def _npy_slice(file: Path, start: int, rows: int) -> NDArray[Any]:
    # Read, not mapped: pages of a mapping count as this process's memory.
    shape, offset, dtype, _ = npy_layout(file, "source")
    width = int(np.prod(shape[1:], dtype=np.int64))
    values = np.fromfile(file, dtype=dtype, count=rows * width, offset=offset + start * width * dtype.itemsize)
    return values.reshape(rows, *shape[1:])


def _npy_rows(part: Part, several: bool, block_rows: int) -> Iterator[_Rows]:
    assert part.labels is not None
    for done in range(0, part.rows, block_rows):
        rows = min(block_rows, part.rows - done)
        labels = _npy_slice(part.labels, part.labels_start + done, rows)
        labels = labels if several else labels.reshape(rows)
        labels = labels.astype(np.int64) if labels.dtype.kind == "b" else labels
        yield part.start + done, _npy_slice(part.file, part.start + done, rows), labels, None, {}


def _numbers(array: Any) -> NDArray[Any]:
    """Return an arrow array of numbers; missing values become NaN."""
    import pyarrow as pa

    if array.null_count or pa.types.is_boolean(array.type):
        array = array.cast(pa.float64(), safe=False)  # a number beyond 2^53 is rounded, not refused
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _parquet_rows(
    part: Part, columns: Columns, layout: Layout, stored: int, label_width: int, block_rows: int
) -> Iterator[_Rows]:
    import pyarrow as pa

    names = [*columns.features, columns.label]
    if columns.record_id is not None and columns.record_id not in names:
        names.append(columns.record_id)
    start = part.start
    try:
        batches = open_shard(part.file).iter_batches(batch_size=block_rows, row_groups=[part.group], columns=names)
        for batch in batches:
            problems: dict[int, str] = {}
            raw = _features(batch, columns, stored, layout.dtype, problems)
            labels = _label_values(batch.column(columns.label), label_width)
            ids = None
            if columns.record_id is not None:
                ids = batch.column(columns.record_id).cast(layout.id_type)
                for row in np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False)):
                    problems[int(row)] = "its record id is missing"
            yield start, raw, labels, ids, problems
            start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        raise ValueError(f"{part.file} cannot be read from row {start} on: {' '.join(str(error).split())}") from None


def _features(
    batch: Any, columns: Columns, stored: int, dtype: np.dtype[Any], problems: dict[int, str]
) -> NDArray[Any]:
    first = batch.column(columns.features[0])
    if not is_list(first.type):
        raw = np.empty((batch.num_rows, stored), dtype=dtype)
        with np.errstate(over="ignore"):
            for column, name in enumerate(columns.features):
                raw[:, column] = _numbers(batch.column(name))
        return raw
    lengths, values = _lists(first, stored)
    fits = lengths == stored
    if fits.all():
        return values
    raw = np.zeros((batch.num_rows, stored), dtype=dtype)
    with np.errstate(over="ignore"):
        raw[fits] = values
    for row in np.flatnonzero(~fits):
        got = "no list" if lengths[row] < 0 else f"{lengths[row]} features"
        problems[int(row)] = f"{got} where {stored} features are needed"
    return raw


def _lists(array: Any, width: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the length of each list (-1 for none), and the values of those of the width that is needed."""
    import pyarrow.compute as pc

    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    fits = lengths == width
    good = array if fits.all() else array.filter(fits)
    return lengths, _numbers(pc.list_flatten(good)).reshape(-1, width)


def _label_values(label: Any, width: int) -> NDArray[Any]:
    if not is_list(label.type):
        return _numbers(label)
    lengths, values = _lists(label, width or 1)
    result = np.full((len(lengths), width or 1), np.nan)
    result[lengths == (width or 1)] = values
    return result if width else result[:, 0]
