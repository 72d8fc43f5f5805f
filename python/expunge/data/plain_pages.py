"""Features of Parquet files whose pages are plain numbers: read as they lie, without a decoder between.

A page that is uncompressed, plainly encoded and misses no value is a header, levels and the numbers themselves. Where
all pages of a row group are, values go from the file to where they are wanted; anything else is left to pyarrow, which
says what is wrong, if anything is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._kernels.backend import HOST
from expunge.data.addresses import File

__all__ = ["Leaf", "NotPlainError", "PlainFeatures", "leaves_of"]

_TYPES: dict[str, np.dtype[np.floating]] = {"FLOAT": np.dtype(np.float32), "DOUBLE": np.dtype(np.float64)}
_LEAST, _HEAD = 1 << 8, 1 << 12  # bytes of a page that are read first: its header and, mostly, its levels
_PLAIN, _UNREAD = 0, 2  # kinds of pages, as the kernel calls them
_plain_page = HOST.kernel("plain_page")
_PAD = 16  # values behind each column of a panel, so that columns do not all fall on the same lines of the cache
_PANEL = 1 << 24  # bytes of columns that are turned into rows at a time


class NotPlainError(Exception):
    """A page is of another form, or is damaged."""


@dataclass(frozen=True)
class Leaf:
    """Column of numbers as Parquet stores it.

    Attributes
    ----------
    index : int
        Its number among the columns of a row group.
    dtype : dtype
    max_definition, max_repetition : int
        Highest levels; of repetition 1 for lists.
    """

    index: int
    dtype: np.dtype[np.floating]
    max_definition: int
    max_repetition: int


def leaves_of(metadata: Any) -> dict[str, Leaf]:
    """Return the columns of a file that may be plain floats or lists of them, by the name of the whole column."""
    found: dict[str, Leaf] = {}
    several: set[str] = set()
    for i in range(metadata.num_columns):
        column = metadata.schema.column(i)
        name = column.path.split(".")[0]
        if name in found or name in several:  # a structure
            found.pop(name, None)
            several.add(name)
        elif column.physical_type in _TYPES and column.max_repetition_level <= 1 and "." not in column.name:
            levels = column.max_definition_level, column.max_repetition_level
            found[name] = Leaf(i, _TYPES[column.physical_type], *levels)
        else:
            several.add(name)
    return found


class PlainFeatures:
    """Features of a row group, as far as its metadata tell in plain pages.

    Parameters
    ----------
    file : File
        A local one.
    group : row group of pyarrow's metadata
    leaves : sequence of Leaf
        One column of lists, or scalar ones.
    width : int
        Numbers of a row.
    """

    def __init__(self, file: File, group: Any, leaves: Sequence[Leaf], width: int) -> None:
        self._file, self._leaves, self._width, self._rows = file, leaves, width, int(group.num_rows)
        self._chunks = [group.column(leaf.index) for leaf in leaves]
        self._starts = [chunk.data_page_offset for chunk in self._chunks]

    @classmethod
    def of(
        cls,
        file: File,
        metadata: Any,
        number: int,
        leaves: Mapping[str, Leaf],
        names: Sequence[str],
        *,
        width: int,
        dtype: np.dtype[np.floating],
    ) -> PlainFeatures | None:
        """Return the features of a row group by its number, or None where they are not plain or of another dtype."""
        chosen = [leaves.get(name) for name in names]
        found = [leaf for leaf in chosen if leaf is not None and leaf.dtype == dtype]
        if file.filesystem is not None or not found or len(found) < len(names):
            return None
        lists = found[0].max_repetition == 1
        if any(leaf.max_repetition != lists for leaf in found) or len(found) != (1 if lists else width):
            return None
        group = metadata.row_group(number)
        features = cls(file, group, found, width)
        return features if all(map(features._may_be_plain, features._chunks)) else None

    def _may_be_plain(self, chunk: Any) -> bool:
        values = self._rows * (self._width if self._leaves[0].max_repetition else 1)
        return bool(
            chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page and chunk.num_values == values
        )

    def rows(
        self, start: int, stop: int, *, size: int, empty: Callable[[tuple[int, ...], Any], NDArray[Any]] = np.empty
    ) -> Iterator[NDArray[np.floating]]:
        """Yield rows ``start`` to ``stop``, at most ``size`` at a time, in arrays that ``empty`` makes.

        Raises
        ------
        NotPlainError
            If a page is not plain, misses a value, holds a list of another length, or is damaged.
        """
        dtype, lists = self._leaves[0].dtype, self._leaves[0].max_repetition == 1
        head = np.empty(_HEAD, dtype=np.uint8)
        with contextlib.ExitStack() as stack:
            descriptor = os.open(self._file.name, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            columns = [
                _Values(descriptor, at, int(chunk.total_compressed_size), leaf, self._width if lists else 1, head)
                for at, chunk, leaf in zip(self._starts, self._chunks, self._leaves, strict=True)
            ]
            for column in columns:
                column.skip(start * (self._width if lists else 1))
            most = min(size, max(64, _PANEL // (dtype.itemsize * self._width)), max(1, stop - start))
            panel = None if lists else np.empty((self._width, most + _PAD), dtype=dtype)
            places = [] if panel is None else [place.data.cast("B") for place in panel]
            for first in range(start, stop, size):
                X = empty((min(size, stop - first), self._width), dtype)
                if panel is None:
                    columns[0].read(X.data.cast("B"))
                else:
                    for at in range(0, len(X), most):
                        part = X[at : at + most]
                        length = len(part) * dtype.itemsize
                        for column, place in zip(columns, places, strict=True):
                            column.read(place[:length])
                        HOST.run("rows_of_columns", panel, part, threads=1)
                yield X


class _Values:
    """The values of a column chunk, page after page."""

    def __init__(self, descriptor: int, start: int, size: int, leaf: Leaf, width: int, head: NDArray[np.uint8]) -> None:
        self._descriptor, self._next, self._end = descriptor, start, start + size
        self._leaf, self._width, self._head = leaf, width, head
        self._passed = 0  # values in pages that were opened
        self._at = self._left = 0  # in the open page: where the next value lies, and bytes that are left
        self._ahead = _LEAST  # bytes to read of the next page: as many as of the last
        self._found = np.empty(4, dtype=np.int64)

    def skip(self, values: int) -> None:
        """Go on without reading."""
        count = values * self._leaf.dtype.itemsize
        while count:
            if not self._left:
                self._open()
            here = min(count, self._left)
            self._at, self._left, count = self._at + here, self._left - here, count - here

    def read(self, into: memoryview) -> None:
        """Read as many of the next bytes as there is room for."""
        done = 0
        while done < len(into):
            if not self._left:
                self._open()
            here = min(len(into) - done, self._left)
            if os.preadv(self._descriptor, [into[done : done + here]], self._at) != here:
                raise NotPlainError
            self._at, self._left, done = self._at + here, self._left - here, done + here

    def _open(self) -> None:
        """Look at the next page."""
        leaf = self._leaf
        size = min(self._ahead, self._end - self._next)
        while True:
            if size <= 0:
                raise NotPlainError
            head = self._head[:size] if size <= len(self._head) else np.empty(size, dtype=np.uint8)
            if os.preadv(self._descriptor, [head.data], self._next) != size:
                raise NotPlainError
            _plain_page(
                head,
                self._found,
                item_bytes=leaf.dtype.itemsize,
                max_definition=leaf.max_definition,
                max_repetition=leaf.max_repetition,
                width=self._width,
                phase=self._passed % self._width,
                threads=1,
            )
            kind, values_at, values, next_at = self._found.tolist()
            if kind != _UNREAD or size == self._end - self._next:
                break
            size = min(4 * size, self._end - self._next)
        if kind != _PLAIN or self._next + next_at > self._end:
            raise NotPlainError
        self._ahead = max(_LEAST, values_at + 64)
        self._at, self._left = self._next + values_at, values * leaf.dtype.itemsize
        self._passed += values
        self._next += next_at
