"""Shards of a table: Parquet, Arrow IPC and .npy files, read as ranges of rows, in any order and by any process.

A shard keeps what its header says, and no open file: it can be sent to a worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.data.addresses import File
from expunge.data.array_records import exact_float
from expunge.data.arrays import npy_header
from expunge.data.arrow import Batches, answers_of, feature_rows, field_of, ids_of, is_list, plain
from expunge.data.assembly import Chunk
from expunge.data.identifiers import exact_ids, whole_id
from expunge.data.layout import Field, Layout
from expunge.data.numbers import checked_answers
from expunge.data.parquet import index_columns, open_parquet
from expunge.data.plain_pages import NotPlainError, PlainFeatures, leaves_of

__all__ = ["ArrowShard", "NpyColumn", "NpyShard", "ParquetShard", "Shard", "npy_layout"]


class Shard(ABC):
    """A file of a table.

    Attributes
    ----------
    file : File
        Where it lies, and how it was when it was opened.
    groups : tuple of int
        Rows of each part that is read by itself, in order.
    digest : str
        SHA-256 of what its header or footer says.
    """

    divides: ClassVar[bool] = False  # whether a group is read from any row on at no cost

    def __init__(self, file: File, groups: tuple[int, ...], digest: str) -> None:
        self.file, self.groups, self.digest = file, groups, digest

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)

    @abstractmethod
    def fields(self) -> Mapping[str, Field]:
        """Return the columns by name."""

    def require_same(self) -> None:
        """Refuse a file that is missing, or is not what it was when it was opened.

        Raises
        ------
        FileNotFoundError, ValueError
            Naming the file.
        """
        self.file.require_unchanged()
        if _footer_digest(self.file) != self.digest:
            raise ValueError(f"{self.file.name} has changed since the table was opened; open it again")

    def hidden(self) -> tuple[str, ...]:
        """Return columns that are no features unless they are named: a frame's row index, and keys of folders."""
        return ()

    def scan(self, features: tuple[str, ...], target: str | None, ids: str | None) -> None:
        """Look at the rows where headers do not say enough about the columns that are read; else do nothing."""
        return

    def list_width(self, column: str) -> int:
        """Return the length of the first list of a column, whose type does not say it."""
        raise ValueError(f"{self.file.name}: column {column!r} holds no lists")

    @abstractmethod
    def read(self, group: int, start: int, stop: int, *, size: int, layout: Layout, threads: int) -> Iterator[Chunk]:
        """Yield rows ``start`` to ``stop`` of a group in chunks of at most ``size`` rows, or what lies together.

        Raises
        ------
        ValueError
            If the file is not what it was, is damaged, or misses a value: named with its row.
        """


class _Tabular(Shard):
    """A file of Arrow's columns."""

    def __init__(self, file: File, groups: tuple[int, ...], digest: str, schema: Any) -> None:
        super().__init__(file, groups, digest)
        self._schema = schema
        names = [*schema.names, *(key for key, _ in file.keys)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{file.name}: columns must have different names, got {name!r} more than once")

    def fields(self) -> Mapping[str, Field]:
        """Return the columns by name, those of folders last."""
        import pyarrow as pa

        found = {field.name: field_of(field.type) for field in self._schema}
        return {**found, **{key: field_of(pa.array([_key(value)]).type) for key, value in self.file.keys}}

    def hidden(self) -> tuple[str, ...]:
        """Return a frame's row index, and keys of folders."""
        names = tuple(self._schema.names)
        index = index_columns(self._schema.metadata, names)
        return (*(names[j] for j in index), *(key for key, _ in self.file.keys))

    def list_width(self, column: str) -> int:
        """Return the length of the first list of a column, whose type does not say it."""
        group = next(i for i, rows in enumerate(self.groups) if rows)
        first = next(iter(self._tables(group, [column], 1, True, 1))).column(column)[0]
        return len(first) if first.is_valid else 0

    @abstractmethod
    def _tables(self, group: int, columns: list[str], size: int, large: bool, threads: int) -> Iterator[Any]: ...

    def read(self, group: int, start: int, stop: int, *, size: int, layout: Layout, threads: int) -> Iterator[Chunk]:
        """Yield rows of a group: a small one whole, a large one page by page."""
        import pyarrow as pa

        base, at = sum(self.groups[:group]), 0
        keys = dict(self.file.keys)
        stored = [name for name in layout.columns if name not in keys]
        large = self.groups[group] > 4 * size
        try:
            for table in self._tables(group, stored, size, large, threads):
                first, last = max(start, at), min(stop, at + table.num_rows)
                if first < last:
                    part = table.slice(first - at, last - first)
                    columns = {name: plain(part.column(name)) for name in stored}
                    for name in set(layout.columns) & set(keys):
                        columns[name] = pa.array([_key(keys[name])] * part.num_rows)
                    yield self._chunk(columns, layout, base + first)
                at += table.num_rows
                if at >= stop:
                    break
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            problem = " ".join(str(error).split())
            raise ValueError(f"{self.file.name} cannot be read from row {base + at} on: {problem}") from None
        if at < stop:
            raise ValueError(
                f"{self.file.name} gave {at} rows of group {group} where {self.groups[group]} were promised"
            )
        self.file.require_unchanged()

    def _chunk(
        self, columns: Mapping[str, Any], layout: Layout, first: int, X: NDArray[np.floating] | None = None
    ) -> Chunk:
        if X is None:
            problems: dict[int, str] = {}
            chosen = [columns[name] for name in layout.features]
            found = feature_rows(chosen, width=layout.width, dtype=layout.dtype, problems=problems)
            if problems:
                row = min(problems)
                raise ValueError(f"{self.file.name}, row {first + row}: {problems[row]}")
            with np.errstate(over="ignore"):
                X = np.require(found, dtype=layout.dtype, requirements=["C", "A"])
        place = f"{self.file.name}, column"
        y = ids = None
        if layout.target is not None:
            y = answers_of(columns[layout.target], kind=layout.answer, place=f"{place} {layout.target!r}", first=first)
        if layout.ids is not None:
            ids = ids_of(columns[layout.ids], place=f"{place} {layout.ids!r}", first=first)
        return X, y, ids


def _key(value: str) -> int | str:
    """Return what a folder's name says: a whole number if it is written as one."""
    number = whole_id(value)
    return value if number is None or not -(2**63) <= number < 2**63 else number


class ParquetShard(_Tabular):
    """A Parquet file; its row groups are read by themselves, pages of large ones one after the other."""

    def __init__(self, file: File) -> None:
        with _opened(file):
            digest = _footer_digest(file)
            with file.arrow() as stream:
                self._metadata = open_parquet(stream).metadata
        groups = tuple(self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups))
        self._leaves = leaves_of(self._metadata)
        super().__init__(file, groups, digest, self._metadata.schema.to_arrow_schema())

    def read(self, group: int, start: int, stop: int, *, size: int, layout: Layout, threads: int) -> Iterator[Chunk]:
        """Yield rows of a group: features as they lie where their pages are plain, else decoded."""
        keys = dict(self.file.keys)
        others = [name for name in (layout.target, layout.ids) if name is not None]
        features = None
        if not set(others) & set(keys):
            features = PlainFeatures.of(
                self.file,
                self._metadata,
                group,
                self._leaves,
                layout.features,
                width=layout.width,
                dtype=layout.dtype,
            )
        if features is not None:
            try:
                for X, columns in self._beside(features, group, start, stop, list(dict.fromkeys(others)), size):
                    yield self._chunk(columns, layout, sum(self.groups[:group]) + start, X)
                    start += len(X)
            except NotPlainError:
                pass
            else:
                self.file.require_unchanged()
                return
        yield from super().read(group, start, stop, size=size, layout=layout, threads=threads)

    def _beside(
        self, features: PlainFeatures, group: int, start: int, stop: int, others: list[str], size: int
    ) -> Iterator[tuple[NDArray[np.floating], Mapping[str, Any]]]:
        """Yield features and the other columns of their rows."""
        import pyarrow as pa

        place = sum(self.groups[:group])
        rest = Batches(self._tables(group, others, size, True, 1)) if others else None
        at = start
        try:
            if rest is not None and start:
                rest.take(start)
            for X in features.rows(start, stop, size=size):
                batch = None if rest is None else rest.take(len(X))
                yield X, {} if batch is None else {name: batch.column(name) for name in others}
                at += len(X)
        except (pa.ArrowException, EOFError, OSError) as error:
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            problem = " ".join(str(error).split())
            raise ValueError(f"{self.file.name} cannot be read from row {place + at} on: {problem}") from None

    def _tables(self, group: int, columns: list[str], size: int, large: bool, threads: int) -> Iterator[Any]:
        with self.file.arrow() as stream:
            opened = open_parquet(stream, metadata=self._metadata)
            several = threads > 1 and len(columns) > 3
            if large:
                yield from opened.iter_batches(
                    batch_size=size, row_groups=[group], columns=columns, use_threads=several
                )
            else:  # nearly twice as fast
                yield opened.read_row_group(group, columns=columns, use_threads=several)


class ArrowShard(_Tabular):
    """An Arrow IPC file (Feather of version 2); its record batches are read by themselves."""

    def __init__(self, file: File) -> None:
        import pyarrow as pa

        with _opened(file):
            digest = _footer_digest(file)
            with file.arrow() as stream:
                schema = pa.ipc.open_file(stream).schema
            # Local files are mapped, and no column is read; of others the narrowest one.
            narrow = next((j for j, field in enumerate(schema) if not is_list(field.type)), 0)
            options = pa.ipc.IpcReadOptions(included_fields=[narrow])
            with file.arrow() if file.filesystem is not None else pa.memory_map(file.name) as stream:
                bare = pa.ipc.open_file(stream, options=options)
                groups = tuple(bare.get_batch(i).num_rows for i in range(bare.num_record_batches))
        super().__init__(file, groups, digest, schema)

    def _tables(self, group: int, columns: list[str], size: int, large: bool, threads: int) -> Iterator[Any]:
        import pyarrow as pa

        with self.file.arrow() as stream:
            wanted = [self._schema.names.index(name) for name in columns]
            options = pa.ipc.IpcReadOptions(included_fields=sorted(wanted), use_threads=threads > 1)
            yield pa.ipc.open_file(stream, options=options).get_batch(group)


class NpyColumn:
    """Rows of a .npy file from one on: features, targets or ids."""

    def __init__(self, file: File, start: int = 0) -> None:
        self.file, self.start = file, start
        with file.open() as stream:
            self.shape, self._offset, self.dtype = npy_layout(stream, file.name, file.size)
        self.width = int(np.prod(self.shape[1:], dtype=np.int64))
        self.digest = self._header_digest()

    def _header_digest(self) -> str:
        with self.file.open() as stream:
            return hashlib.sha256(stream.read(self._offset)).hexdigest()

    def require_same(self) -> None:
        """Refuse a file that is not what it was."""
        self.file.require_unchanged()
        if self._header_digest() != self.digest:
            raise ValueError(f"{self.file.name} has changed since the table was opened; open it again")

    def rows(
        self, start: int, stop: int, *, empty: Callable[[tuple[int, ...], Any], NDArray[Any]] = np.empty
    ) -> NDArray[Any]:
        """Return rows in an array that ``empty`` makes, read rather than mapped.

        Pages of a mapping count as this process's memory.
        """
        count = (stop - start) * self.width
        offset = self._offset + (self.start + start) * self.width * self.dtype.itemsize
        if self.file.filesystem is None:
            values = empty((count,), self.dtype)
            with open(self.file.name, "rb", buffering=0) as stream:
                stream.seek(offset)
                done, left = 0, values.view(np.uint8)
                while done < len(left) and (read := stream.readinto(left[done:].data)):
                    done += read
            values = values[: done // self.dtype.itemsize]
        else:
            with self.file.open() as stream:
                stream.seek(offset)
                data = stream.read(count * self.dtype.itemsize)
            values = np.frombuffer(data, dtype=self.dtype, count=len(data) // self.dtype.itemsize)
        if len(values) < count:
            raise ValueError(
                f"{self.file.name} ends in row {self.start + start + len(values) // self.width}, and has changed since "
                "the table was opened; open it again"
            )
        return values.reshape(stop - start, *self.shape[1:])


class NpyShard(Shard):
    """A .npy file of features, with the files of its targets and ids."""

    divides = True

    def __init__(self, file: File, *, target: NpyColumn | None = None, ids: NpyColumn | None = None) -> None:
        self._features, self._target, self._ids = NpyColumn(file), target, ids
        shape, dtype = self._features.shape, self._features.dtype
        if len(shape) != 2:
            raise ValueError(f"{file.name} must have 2 dimensions, got shape {shape}")
        if dtype.kind not in "fiub":
            raise TypeError(f"{file.name} must hold real numbers, got dtype {dtype}")
        super().__init__(file, (shape[0],), self._features.digest)

    def fields(self) -> Mapping[str, Field]:
        """Return what stand for columns: X, y and ids."""
        dtype = self._features.dtype
        found = {"X": Field(str(dtype), exact_float(dtype), lists=True, width=self._features.width)}
        for name, column, needed in (("y", self._target, "iubfU"), ("ids", self._ids, "iuU")):
            if column is not None:
                kind = column.dtype.kind
                if kind not in needed or len(column.shape) > 2 or (name == "ids" and len(column.shape) > 1):
                    raise TypeError(
                        f"{column.file.name} must hold one column of {name}, got {kind!r} of {column.shape}"
                    )
                answer = {"u": "i", "b": "i"}.get(kind, kind)
                found[name] = Field(str(column.dtype), None, answer=answer, name=answer)
        return found

    def require_same(self) -> None:
        """Refuse any of the files that is not what it was."""
        for column in (self._features, self._target, self._ids):
            if column is not None:
                column.require_same()

    def read(self, group: int, start: int, stop: int, *, size: int, layout: Layout, threads: int) -> Iterator[Chunk]:
        """Yield rows in chunks of ``size``."""
        for first in range(start, stop, size):
            last = min(first + size, stop)
            with np.errstate(over="ignore"):
                X = np.require(self._features.rows(first, last), dtype=layout.dtype, requirements=["C", "A"])
            y = ids = None
            if self._target is not None:
                where = self._target.file.name, self._target.start + first
                y = checked_answers(self._target.rows(first, last), layout.answer, *where)
            if self._ids is not None:
                ids = exact_ids(self._ids.rows(first, last))
            yield X, y, ids
        for column in (self._features, self._target, self._ids):
            if column is not None:
                column.file.require_unchanged()


def npy_layout(stream: BinaryIO, name: str, size: int) -> tuple[tuple[int, ...], int, np.dtype[Any]]:
    """Return shape, where the values start, and dtype of a .npy file of so many bytes.

    Raises
    ------
    ValueError
        If it is truncated, of Python objects, in Fortran order, or no such file.
    """
    try:
        shape, fortran, dtype = npy_header(stream)
        offset = stream.tell()
    except (ValueError, EOFError) as error:
        raise ValueError(f"{name} is not a .npy file ({error})") from None
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError(f"{name} must hold numbers in C order, got dtype {dtype}, fortran_order={fortran}")
    needed = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size < needed:
        raise ValueError(f"{name} is truncated: {size} bytes, its header promises {needed}")
    return shape, offset, dtype


@contextlib.contextmanager
def _opened(file: File) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        raise ValueError(text if text.startswith(file.name) else f"{file.name} {text}") from None


def _footer_digest(file: File) -> str:
    """Return the digest of the footer of a Parquet or Arrow file: its length stands before the last magic word."""
    with file.open() as stream:
        tail = {".parquet": 8, ".pq": 8}.get(file.suffix, 10)
        if file.size < tail + 4:
            raise ValueError(f"{file.name} is truncated: {file.size} bytes")
        stream.seek(file.size - tail)
        (length,) = struct.unpack("<i", stream.read(4))
        stream.seek(max(0, file.size - tail - max(0, length)))
        return hashlib.sha256(stream.read(file.size)).hexdigest()
