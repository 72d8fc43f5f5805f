"""Data that stay where they lie: folders of shards, addresses and large files, read in row blocks by commands.

What `expunge.cli.reading` does to an array is done to each block as it is read. Folders and addresses are read so,
unless --in-memory asks for arrays; files are where --stream asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge._errors import counted
from expunge.cli.cluster import absolute, connected, require_streamed
from expunge.cli.columns import Found, columns_asked, with_columns
from expunge.cli.reading import Records, how_read, read_data, read_records
from expunge.data import FileRecords, MappedRecords, Reading, Task, open_records, read_task
from expunge.data import Records as Table
from expunge.data.addresses import find_files, is_pattern
from expunge.data.file_records import KINDS
from expunge.data.joined import JoinedRecords

__all__ = ["Streamed", "as_table", "can_be_streamed", "read_data_or_table", "read_records_or_table", "read_together"]

_ONLY_STREAMED = (".arrow", ".feather", ".ipc")
_CIFAR = "data_batch_1"  # of a folder that is one data set rather than shards
_KEYWORD = re.compile(r"\b(target_column|id_column|features|drop|target|ids)=")


@dataclass(frozen=True)
class Streamed:
    """Data that stay where they lie, as an estimator takes them.

    Attributes
    ----------
    table : Records of expunge.data
        Features, mapped; targets and ids.
    names, notes, conditions, reading, weights
        As of `expunge.cli.reading.Records`.
    """

    table: Table
    names: tuple[str, ...] | None
    notes: tuple[str, ...]
    conditions: tuple[str, ...]
    reading: Reading
    weights: NDArray[np.float64] | None = None


def read_records_or_table(source: str, *, stream: bool | None, **options: Any) -> Records | Streamed:
    """Return the records of a source in memory or as a table; ``options`` are those of `read_records`."""
    if not _streams(source, stream):
        return read_records(source, **options)
    found = _opened(source, stream=stream is not False, **options)
    return found if stream is not False else _gathered(found)


def read_data_or_table(
    source: str,
    *,
    stream: bool | None,
    task: str = "auto",
    told: bool = False,
    scheduler: str | None = None,
    **options: Any,
) -> tuple[Records | Streamed, Task]:
    """Return the records of a source, with targets, and how these are read.

    Of a table the task has the classes alone; none, and no sentence, where the model has ``told`` what targets are:
    that saves a pass. With a ``scheduler`` passes over the table are made on the workers of its cluster.
    """
    if scheduler is not None:
        require_streamed(source, stream, readable=can_be_streamed(source))
        stream = True
    if not _streams(source, stream):
        return read_data(source, task=task, **options)
    found = _opened(source, stream=stream is not False, scheduler=scheduler, **options)
    if not found.table.has_targets:
        raise ValueError(f"{source}: holds no targets; give --target or --target-column")
    if stream is False:
        records = _gathered(found)
        assert records.y is not None  # as the table
        return records, read_task(records.y, task=task)
    table = found.table
    assert isinstance(table, MappedRecords)
    if task == "regress":
        how = Task(np.zeros(0), False, "reading y as a number: regression")
    elif told:
        how = Task(np.zeros(0, dtype=np.int64), True, "")
    else:
        how = read_task(table.records.targets(), task=task)
        how = replace(how, y=np.unique(how.y) if how.classify else how.y[:0])
    kind = "labels" if how.classify else "numbers"
    mapped = MappedRecords(table.records, table.reading, constants=table.constants, targets=kind)
    return replace(found, table=mapped), how


def read_together(sources: Sequence[str], **options: Any) -> tuple[Records | Streamed, Task]:
    """Return the records of one source, or those of several, one after the other, as a table.

    Parameters
    ----------
    sources : sequence of str
        At least one.
    **options
        As for `read_data_or_table`.
    """
    if len(sources) == 1:
        return read_data_or_table(sources[0], **options)
    stream = options.pop("stream")
    found = [
        read_data_or_table(one, stream=can_be_streamed(one) or None if stream is None else stream, **options)
        for one in sources
    ]
    first, task = found[0]
    weights = None
    if any(records.weights is not None for records, _ in found):
        if any(records.weights is None for records, _ in found):
            raise ValueError(f"{', '.join(sources)}: weights must be in all tables or in none")
        weights = np.concatenate([records.weights for records, _ in found if records.weights is not None])
    table = JoinedRecords([as_table(records, how.y) for records, how in found])
    conditions = tuple(dict.fromkeys(one for records, _ in found for one in records.conditions))
    return Streamed(table, first.names, first.notes, conditions, first.reading, weights), task


def as_table(records: Records | Streamed, y: NDArray[Any] | None) -> Table:
    """Return records as a table, in memory or not; ``y`` are the targets of those in memory."""
    if isinstance(records, Streamed):
        return records.table
    return open_records(records.X, target=y, ids=records.ids)


def can_be_streamed(source: str) -> bool:
    """Return whether a source is one that the reader of tables knows."""
    path = Path(source)
    return _streams(source, None) or (path.is_file() and path.suffix.lower() in KINDS)


def _streams(source: str, asked: bool | None) -> bool:
    """Return whether a source is read by the reader of tables.

    Raises
    ------
    ValueError
        If that is asked for and the file is of no such kind.
    """
    path = Path(source)
    if "://" in source or path.suffix.lower() in _ONLY_STREAMED or is_pattern(source):
        return True
    if path.is_dir():
        return not (path / _CIFAR).exists()
    if asked and path.exists() and path.suffix.lower() not in KINDS:
        packed = ", unpacked" if path.suffix.lower() == ".gz" else ""
        raise ValueError(f"--stream reads files and folders of {', '.join(KINDS)}{packed}, got {source}: omit it")
    if asked and not path.exists():
        raise FileNotFoundError(f"source: there is no file {source}, which --stream needs")
    return bool(asked)


def _opened(
    source: str,
    *,
    known: Reading | None = None,
    names: Sequence[str] | None = None,
    with_target: bool = True,
    needs_ids: bool = False,
    with_weights: bool = False,
    stream: bool = True,
    scheduler: str | None = None,
    **given: Any,
) -> Streamed:
    place = source
    if scheduler is not None:
        place = absolute(source)
        given = {**given, "target": None if given["target"] is None else absolute(given["target"])}
    try:
        table = find_files(place, kinds=KINDS)[0].suffix != ".npy"
        asked = columns_asked(
            source, known, names, given, table=table, with_target=with_target, with_weights=with_weights
        )
        files, weights = with_columns(
            lambda options: _files(place, table, **options), asked, known, names, needs_ids=needs_ids
        )
    except (TypeError, ValueError) as error:
        raise type(error)(_KEYWORD.sub(_as_option, str(error))) from None
    columns = files.columns
    if columns is not None and weights is not None:
        columns = replace(columns, weights=weights[0])
    found = Found(files.n_features, files.feature_names, columns, files.has_ids, weights is not None)
    reading, constants, conditions = how_read(source, found, known, given, with_target=with_target)
    shared = files if scheduler is None else connected(scheduler).open_records(files)
    mapped = MappedRecords(shared, reading, constants=constants)
    notes = tuple(
        f"column {name!r} is a row index or names folders, not read as a feature: --features names those that are"
        for name in files.unread
    )
    size = f"{counted(files.n_records, 'record')} in {counted(len(files.files), 'file')}"
    click.echo(f"reading {source} {'in row blocks' if stream else 'into memory'}: {size}", err=True)
    return Streamed(mapped, mapped.feature_names, notes, conditions, reading, None if weights is None else weights[1])


def _files(
    source: str,
    table: bool,
    *,
    target: str | None,
    target_column: str | None,
    features: list[str | int] | None,
    drop: Sequence[str],
    id_column: str | int | None,
    weight_column: str | int | None,
    with_target: bool,
    header: bool | None,
    decimal_comma: bool,
) -> tuple[FileRecords, tuple[int, NDArray[np.float64]] | None]:
    """Return the table in files, and the position of its column of weights with what it holds."""
    if not table:
        if weight_column is not None:
            raise ValueError(f"{source}: has no columns to choose weights from: leave --weight-column out")
        return FileRecords(source, target=target, target_column=target_column, features=features, drop=drop,
                           id_column=id_column), None  # fmt: skip
    text = {} if header is None and not decimal_comma else {"header": header, "decimal_comma": decimal_comma}
    weighted = () if weight_column is None else (weight_column,)
    files = FileRecords(
        source,
        target=target,
        target_column=target_column,
        features=features,
        drop=(*drop, *weighted),
        id_column=id_column,
        with_target=with_target and target is None,
        **text,  # type: ignore[arg-type]
    )
    if weight_column is None:
        return files, None
    column = FileRecords(source, features=[weight_column], **text)  # type: ignore[arg-type]
    weights = np.concatenate([np.asarray(block.X[:, 0], dtype=np.float64) for block in column.blocks()])
    if (weights < 0).any():
        row = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(f"{column.place(row)}: weights must be >= 0, got {weights[row]:g}")
    assert column.columns is not None
    return files, (column.columns.features[0], weights)


def _as_option(keyword: re.Match[str]) -> str:
    return f"--{keyword[1].replace('_', '-')}"


def _gathered(found: Streamed) -> Records:
    """Return the records of a table in memory."""
    blocks = list(found.table.blocks())
    X = np.concatenate([np.asarray(block.X, dtype=np.float64) for block in blocks])
    y, ids = (
        None if getattr(blocks[0], name) is None else np.concatenate([getattr(block, name) for block in blocks])
        for name in ("y", "ids")
    )
    return Records(X, y, found.names, ids, found.notes, found.conditions, found.reading, found.weights)
