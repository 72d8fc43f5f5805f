"""Records of data sets larger than memory, part by part, in blocks of bounded size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.data.addresses import File
from expunge.data.arrow import Batches, feature_rows, is_list, list_rows, numbers
from expunge.data.blocks import Records
from expunge.data.plain_pages import Leaf, NotPlainError, PlainFeatures, leaves_of
from expunge.scoring.buffers import Buffers
from expunge.scoring.shards import Columns, Layout, Part, kind_of, npy_column, open_shard

__all__ = ["BadRowError", "Block", "batch_blocks", "read_blocks", "record_blocks"]

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
    part: Part,
    columns: Columns,
    layout: Layout,
    *,
    n_features: int,
    loss: str,
    n_outputs: int,
    block_rows: int,
    buffers: Buffers,
) -> Iterator[Block]:
    """Yield the rows of a part in order, ``block_rows`` at a time, whose memory may come from ``buffers``.

    ``problems`` of a block lists wrong lengths, labels and ids; features that are not finite are left to whoever
    scores.
    """
    several = loss == "squared" and n_outputs > 1
    if kind_of(part.file) == ".npy":
        rows = _npy_rows(part, several, block_rows, buffers)
    else:
        stored = n_features - columns.append_one
        rows = _parquet_rows(part, columns, layout, stored, n_outputs if several else 0, block_rows, buffers)
    for one in rows:
        yield _block(one, layout.dtype, columns.append_one, loss, n_outputs)


def batch_blocks(
    batches: Iterator[Any], columns: Columns, layout: Layout, *, n_features: int, loss: str, n_outputs: int
) -> Iterator[Block]:
    """Yield Arrow batches as blocks, whose ``start`` counts from the first batch."""
    width = n_outputs if loss == "squared" and n_outputs > 1 else 0
    start = 0
    for batch in batches:
        one = _batch_rows(batch, columns, layout, n_features - columns.append_one, width, start)
        yield _block(one, layout.dtype, columns.append_one, loss, n_outputs)
        start += batch.num_rows


def record_blocks(records: Records, *, append_one: bool, loss: str, n_outputs: int) -> Iterator[Block]:
    """Yield the blocks of a table of records, which has targets."""
    import pyarrow as pa

    several = loss == "squared" and n_outputs > 1
    for found in records.blocks():
        y = np.asarray(found.y)
        width = int(np.prod(y.shape[1:], dtype=np.int64))
        if y.dtype.kind not in "if" or width != (n_outputs if several else 1):
            needed = f"{n_outputs} numbers" if several else "one number"
            raise TypeError(
                f"table must have targets of {needed} a row for the {loss} loss, got {y.dtype} of shape {y.shape}: "
                "write classes as 0, 1, 2, ..."
            )
        ids = None if found.ids is None else pa.array(found.ids.tolist())
        rows: _Rows = (found.start, found.X, y if several else y.reshape(len(y)), ids, {})
        yield _block(rows, records.dtype, append_one, loss, n_outputs)


def _block(rows: _Rows, dtype: np.dtype[Any], append_one: bool, loss: str, n_outputs: int) -> Block:
    start, raw, labels, ids, problems = rows
    X = raw  # as it was read where that will do: a copy costs as much as the scores
    if append_one or raw.dtype != dtype or not raw.flags.c_contiguous or not raw.flags.aligned:
        X = np.empty((raw.shape[0], raw.shape[1] + append_one), dtype=dtype)
        with np.errstate(over="ignore"):  # what does not fit is infinite, and said to be
            X[:, : raw.shape[1]] = raw
        X[:, raw.shape[1] :] = 1.0
    return Block(X, _checked_labels(labels, loss, n_outputs, dtype, problems), ids, start, problems)


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


def _npy_rows(part: Part, several: bool, block_rows: int, buffers: Buffers) -> Iterator[_Rows]:
    assert part.labels is not None
    features, targets = npy_column(part.file, "source"), npy_column(part.labels, "labels")
    for done in range(0, part.rows, block_rows):
        rows = min(block_rows, part.rows - done)
        at, first = part.start + done, part.labels_start + done
        labels = targets.rows(first, first + rows)
        labels = labels if several else labels.reshape(rows)
        labels = labels.astype(np.int64) if labels.dtype.kind == "b" else labels
        yield at, features.rows(at, at + rows, empty=buffers.empty), labels, None, {}


def _parquet_rows(
    part: Part, columns: Columns, layout: Layout, stored: int, label_width: int, block_rows: int, buffers: Buffers
) -> Iterator[_Rows]:
    import pyarrow as pa

    others = list(dict.fromkeys([columns.label, *([columns.record_id] if columns.record_id else [])]))
    state = part.file.stat()
    done = 0

    def batches(names: Sequence[str]) -> Batches:
        opened = open_shard(part.file, metadata=metadata)
        return Batches(opened.iter_batches(batch_size=block_rows, row_groups=[part.group], columns=list(names)))

    try:
        metadata, leaves = _footer(part.file, state.st_size, state.st_mtime_ns)
        features = PlainFeatures.of(
            File(str(part.file), state.st_size, state.st_mtime_ns),
            metadata,
            part.group,
            leaves,
            columns.features,
            width=stored,
            dtype=layout.dtype,
        )
        if features is not None:
            with contextlib.suppress(NotPlainError):
                rest = batches(others)
                for X in features.rows(0, part.rows, size=block_rows, empty=buffers.empty):
                    yield _batch_rows(rest.take(len(X)), columns, layout, stored, label_width, part.start + done, X)
                    done += len(X)
                return
        everything = batches(list(dict.fromkeys([*columns.features, *others])))
        if done:
            everything.take(done)
        while done < part.rows:
            batch = everything.take(min(block_rows, part.rows - done))
            yield _batch_rows(batch, columns, layout, stored, label_width, part.start + done)
            done += batch.num_rows
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        row, problem = part.start + done, " ".join(str(error).split())
        raise ValueError(f"{part.file} cannot be read from row {row} on: {problem}") from None


@lru_cache(maxsize=4)
def _footer(file: Path, size: int, changed: int) -> tuple[Any, dict[str, Leaf]]:
    """Return the metadata of a file of this size and time of change, and the columns that may be plain."""
    metadata = open_shard(file).metadata
    return metadata, leaves_of(metadata)


def _batch_rows(
    batch: Any,
    columns: Columns,
    layout: Layout,
    stored: int,
    label_width: int,
    start: int,
    raw: NDArray[Any] | None = None,
) -> _Rows:
    """Return a batch's labels and ids, and its features unless they are given."""
    problems: dict[int, str] = {}
    if raw is None:
        features = [batch.column(name) for name in columns.features]
        raw = feature_rows(features, width=stored, dtype=layout.dtype, problems=problems)
    labels = _label_values(batch.column(columns.label), label_width)
    ids = None
    if columns.record_id is not None:
        ids = batch.column(columns.record_id).cast(layout.id_type)
        for row in np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False)):
            problems[int(row)] = "its record id is missing"
    return start, raw, labels, ids, problems


def _label_values(label: Any, width: int) -> NDArray[Any]:
    if not is_list(label.type):
        return numbers(label)
    lengths, values = list_rows(label, width or 1)
    result = np.full((len(lengths), width or 1), np.nan)
    result[lengths == (width or 1)] = values
    return result if width else result[:, 0]
