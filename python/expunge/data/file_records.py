"""Records in files as blocks: row blocks span the borders of shards, so that the same rows give the same blocks."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from expunge.data.addresses import File, find_files
from expunge.data.ahead import streams_ahead
from expunge.data.assembly import Assembly, Chunk
from expunge.data.blocks import Block, Records, refuse_unfit
from expunge.data.layout import Layout, agreed, chosen_columns
from expunge.data.shards import ArrowShard, NpyColumn, NpyShard, ParquetShard, Shard
from expunge.data.tables import Columns
from expunge.data.text_shard import TextShard

__all__ = ["KINDS", "FileRecords"]

_TEXT = (".csv", ".tsv", ".txt", ".tab")
KINDS = (".parquet", ".pq", ".arrow", ".feather", ".ipc", ".npy", *_TEXT)
_MOST_STREAMS = 8  # each holds a few blocks

Address = str | os.PathLike[str]


_Columns = tuple[tuple[str, ...], str | None, str | None]


class _Unit(NamedTuple):
    """Rows of a shard's group that one stream reads."""

    shard: int
    group: int
    start: int
    stop: int
    first: int  # number of its first row within the table
    opens: bool  # whether it is the first one of its shard in this pass


class FileRecords(Records):
    """Records in one file or a folder of shards: Parquet, Arrow IPC, .npy or text tables.

    Parameters
    ----------
    source : path-like
        A file; a folder of shards of one kind, in the order of their names, also in hive folders (``year=2026``, whose
        names are columns); a pattern of such files, ``folder/*.parquet``; or an address of any file system of pyarrow
        or fsspec, such as ``s3://bucket/folder``.
    target_column, id_column : str or int, optional
        Columns of the labels or targets and of the ids, by name or position.
    features, drop : sequence of str or int, optional
        Feature columns, one list column or scalar ones, in this order; columns to leave out. Without ``features`` all
        that are nothing else, but for a row index of pandas and the names of hive folders.
    target, ids : path-like, optional
        For .npy: the file of the targets, or of the ids; a folder with a file of the same name for each shard, or one
        file for all rows in the order of the shards.
    header, decimal_comma : bool, optional
        For text tables: whether the first line names the columns (told from its cells when omitted), and whether
        numbers are written 1,5.
    filesystem : file system of pyarrow or fsspec, optional
        Where ``source``, ``target`` and ``ids`` lie.
    with_target : bool, default False
        Whether the last column that is nothing else holds the targets, where ``target_column`` names none.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        Naming the shard that is missing, damaged, or of another schema than the first, before any record is read.
    ImportError
        Without pyarrow, where it is needed.

    Notes
    -----
    Shards are known by size, time of change and the digest of their footer or header. Each pass verifies them, and is
    refused where one is not what it was when the table was opened. Text tables are read once when they are opened, to
    count their records and to see what their targets and ids are; their features are float64. An instance can be
    pickled and holds no open file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(pathlib.Path(folder) / "x.npy", np.eye(3, dtype=np.float32))
    ...     records = FileRecords(pathlib.Path(folder) / "x.npy")
    ...     records.n_records, records.dtype.name, [len(block) for block in records.blocks()]
    (3, 'float32', [3])
    """

    def __init__(
        self,
        source: Address,
        *,
        target_column: str | int | None = None,
        id_column: str | int | None = None,
        features: Sequence[str | int] | None = None,
        drop: Sequence[str | int] = (),
        target: Address | None = None,
        ids: Address | None = None,
        header: bool | None = None,
        decimal_comma: bool = False,
        filesystem: object = None,
        with_target: bool = False,
    ) -> None:
        self._options: dict[str, Any] = {
            "target_column": target_column,
            "id_column": id_column,
            "features": features,
            "drop": drop,
            "header": header,
            "decimal_comma": decimal_comma,
            "with_target": with_target,
        }
        files = find_files(source, kinds=KINDS, filesystem=filesystem)
        named = PurePosixPath(os.fspath(source).replace(os.sep, "/")).name
        self._in_folder = len(files) > 1 or PurePosixPath(files[0].name.replace(os.sep, "/")).name != named
        if files[0].suffix == ".npy":
            if (target_column, id_column, features, tuple(drop)) != (None, None, None, ()):
                raise ValueError(
                    f"{files[0].name} has no named columns: give target= and ids= as .npy files, and no target_column, "
                    "id_column, features or drop"
                )
            self._shards: list[Shard] = _npy_shards(files, target, ids, filesystem)
            chosen: _Columns = ("X",), None if target is None else "y", None if ids is None else "ids"
            whole = False
        else:
            if target is not None or ids is not None:
                raise ValueError(
                    f"{files[0].name} has columns: name them with target_column= and id_column=, without "
                    "target= and ids="
                )
            text = files[0].suffix in _TEXT
            if not text and (header is not None or decimal_comma):
                raise ValueError("header and decimal_comma are for text tables")
            if text:
                self._shards = [TextShard(file, header=header, decimal_comma=decimal_comma) for file in files]
            else:
                kind = ParquetShard if files[0].suffix in (".parquet", ".pq") else ArrowShard
                self._shards = [kind(file) for file in files]
            first = self._shards[0]
            try:
                chosen = chosen_columns(
                    list(first.fields()),
                    hidden=first.hidden(),
                    features=features,
                    drop=drop,
                    target_column=target_column,
                    id_column=id_column,
                    with_target=with_target,
                )
            except ValueError as error:
                raise ValueError(f"{first.file.name}: {error}") from None
            whole = features is None
            for shard in self._shards:
                shard.scan(*chosen)
            texts = [shard for shard in self._shards if isinstance(shard, TextShard)]
            for one in texts:  # whole numbers in one shard and text in another are text in all, as within one file
                one.ids_kind = "U" if any(other.ids_kind == "U" for other in texts) else "i"
        self._starts = list(accumulate((shard.n_rows for shard in self._shards), initial=0))
        if not self._starts[-1]:
            raise ValueError(f"{files[0].name}: holds no records")
        self._layout = self._agreed(chosen, whole, set(map(str, drop)))
        if self._layout.lists and self._shards[0].file.suffix == ".npy":
            self._names = None
        else:
            self._names = self._layout.names if getattr(self._shards[0], "named", True) else None

    def _agreed(self, chosen: _Columns, whole: bool, drop: set[str]) -> Layout:
        features, target, ids = chosen
        described = [(shard.file.name, shard.fields()) for shard in self._shards]
        field = described[0][1][features[0]]
        width = None
        if field.lists and field.width is None:
            shard = next(one for one in self._shards if one.n_rows)
            width = shard.list_width(features[0])
        # Columns that one shard has and another lacks would be features of some rows only.
        others = frozenset(described[0][1]) - drop if whole else None
        kept = [(name, {key: one for key, one in fields.items() if key not in drop}) for name, fields in described]
        return agreed(
            kept if whole else described, features=features, target=target, ids=ids, others=others, width=width
        )

    @property
    def n_records(self) -> int:
        """Number of records."""
        return self._starts[-1]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._layout.width

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the features in all blocks."""
        return self._layout.dtype

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the feature columns, where they are scalar ones."""
        return self._names

    @property
    def has_targets(self) -> bool:
        """Whether there are labels or targets."""
        return self._layout.target is not None

    @property
    def has_ids(self) -> bool:
        """Whether there are ids."""
        return self._layout.ids is not None

    @property
    def columns(self) -> Columns | None:
        """All columns of the table, and which of them are read; None for .npy files, which have none."""
        first = self._shards[0]
        if first.file.suffix == ".npy":
            return None
        names, layout = tuple(first.fields()), self._layout

        def position(name: str | None) -> int | None:
            return None if name is None else names.index(name)

        return Columns(
            len(names),
            names if getattr(first, "named", True) else None,
            tuple(map(names.index, layout.features)),
            position(layout.target),
            position(layout.ids),
        )

    @property
    def unread(self) -> tuple[str, ...]:
        """Columns that are no features because nobody named them: a frame's row index, and names of hive folders."""
        return tuple(name for name in self._shards[0].hidden() if name not in self._layout.columns)

    def elsewhere(self, source: Address) -> FileRecords:
        """Return the table that lies at another place, its columns chosen as those of this one."""
        return FileRecords(source, **self._options)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Shards, in order."""
        return tuple(self._shards)

    @property
    def in_folder(self) -> bool:
        """Whether the source is a folder of shards rather than one file."""
        return self._in_folder

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the shards, in order."""
        return tuple(shard.file.name for shard in self._shards)

    @property
    def is_local(self) -> bool:
        """Whether the shards are files of this machine, or of a file system that it has mounted."""
        return self._shards[0].file.filesystem is None

    def place(self, index: int) -> str:
        """Return the shard of a record, and its row there."""
        shard = bisect.bisect_right(self._starts, index) - 1
        return f"{self._shards[shard].file.name}, row {index - self._starts[shard]}"

    # --- reading -------------------------------------------------------------------------------

    def _read(self, numbers: range, threads: int | None) -> Iterator[Block]:
        size = self.block_rows
        first, last = numbers.start * size, min(numbers.stop * size, self.n_records)
        streams = min(threads or os.cpu_count() or 1, _MOST_STREAMS)
        makers = [partial(self._stream, unit, size, streams) for unit in self._units(first, last, size)]
        blocks = Assembly(first, size, self.n_features, self.dtype)
        with contextlib.closing(streams_ahead(makers, threads=streams)) as ahead:
            for stream in ahead:
                for chunk in stream:
                    yield from blocks.take(chunk)
        yield from blocks.rest()

    def _units(self, first: int, last: int, size: int) -> Iterator[_Unit]:
        """Yield what is read of rows ``first`` to ``last``; what can be divided is divided as blocks are."""
        opened = -1
        for number, shard in enumerate(self._shards):
            at = self._starts[number]
            for group, rows in enumerate(shard.groups):
                begin, end = max(first, at), min(last, at + rows)
                step = size if shard.divides else max(1, rows)
                edges = [begin, *range((begin // step + 1) * step, end, step), end] if shard.divides else [begin, end]
                if begin < end:
                    for one, other in pairwise(edges):
                        yield _Unit(number, group, one - at, other - at, one, number != opened)
                        opened = number
                at += rows

    def _stream(self, unit: _Unit, size: int, threads: int) -> Iterator[Chunk]:
        shard = self._shards[unit.shard]
        if unit.opens:
            shard.require_same()
        at = unit.first
        for chunk in shard.read(unit.group, unit.start, unit.stop, size=size, layout=self._layout, threads=threads):
            refuse_unfit(self, Block(at, chunk[0]))
            at += len(chunk[0])
            yield chunk


def _npy_shards(files: Sequence[File], target: Address | None, ids: Address | None, filesystem: object) -> list[Shard]:
    features = [NpyColumn(file) for file in files]
    rows = [one.shape[0] if one.shape else 0 for one in features]
    makers = [_npy_columns(name, place, files, rows, filesystem) for name, place in (("target", target), ("ids", ids))]
    return [NpyShard(file, target=makers[0](i), ids=makers[1](i)) for i, file in enumerate(files)]


def _npy_columns(
    name: str, place: Address | None, files: Sequence[File], rows: Sequence[int], filesystem: object
) -> Callable[[int], NpyColumn | None]:
    """Return the targets or ids of each shard, from a file of the same name or from one file for all."""
    if place is None:
        return lambda i: None
    found = find_files(place, kinds=(".npy",), filesystem=filesystem, argument=name)
    stems = [os.path.basename(file.name) for file in found]
    if len(found) == 1 and (len(files) == 1 or stems[0] not in {os.path.basename(file.name) for file in files}):
        columns, starts = [NpyColumn(found[0])], list(accumulate(rows, initial=0))
        lengths = [(columns[0], sum(rows))]
    else:
        wanted = [os.path.basename(file.name) for file in files]
        if stems != wanted:
            odd = sorted(set(stems) ^ set(wanted))
            raise ValueError(
                f"{name} {place} must hold one file of the same name for each shard, got a difference in {odd[0]}"
            )
        columns, starts = [NpyColumn(file) for file in found], [0] * len(files)
        lengths = list(zip(columns, rows, strict=True))
    for column, needed in lengths:
        if not column.shape or column.shape[0] != needed:
            raise ValueError(
                f"{column.file.name} must have {needed} rows, as the features have, got shape {column.shape}"
            )
    return lambda i: NpyColumn(columns[i % len(columns)].file, starts[i])
