"""Text tables as shards: divided at ends of lines into pieces that are read by themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import AnyArray
from expunge.data.addresses import File
from expunge.data.assembly import Chunk
from expunge.data.delimited import TextLayout, decoded, read_piece, text_layout
from expunge.data.layout import Field, Layout
from expunge.data.numbers import checked_answers
from expunge.data.shards import Shard
from expunge.data.tables import Table, stacked

__all__ = ["TextShard"]

_PIECE = 1 << 24  # bytes of a piece, more where one record is longer
_HEAD = 1 << 18  # bytes that show how the text is laid out
_MARK = b"\xef\xbb\xbf"  # of the order of bytes, where there is one


@dataclass(frozen=True)
class _Piece:
    """Lines of a text table."""

    start: int  # its first byte
    length: int
    line: int  # number of its first line, from 1
    begins: bool  # whether the header is in it, if there is one
    digest: bytes


class TextShard(Shard):
    """A text table (.csv, .tsv, .txt, .tab). It is read once when it is opened: how many records it holds is not said.

    Parameters
    ----------
    file : File
        Where it lies.
    header, decimal_comma
        As for `expunge.data.load`.
    """

    def __init__(self, file: File, *, header: bool | None = None, decimal_comma: bool = False) -> None:
        self._decimal_comma = decimal_comma
        head, whole = _head(file)
        cut = len(head) if whole else _last_end(head, 0)[0] or len(head)
        try:
            text, skipped = decoded(head[:cut])
            self._layout: TextLayout = text_layout(text, header=header)
        except ValueError as error:
            raise ValueError(f"{file.name} {error}") from None
        self._skipped = skipped + self._layout.skipped
        self._names = self._layout.names or tuple(f"{j}" for j in range(self._layout.width))
        self._pieces: list[_Piece] = []
        self._answer: str | None = "f"
        self.ids_kind = "i"
        super().__init__(file, (), "")

    def fields(self) -> Mapping[str, Field]:
        """Return the columns, all of which may hold numbers: cells are judged when they are read."""
        number = np.dtype(np.float64)
        return {name: Field("text of a table", number, answer=self._answer, name=self.ids_kind) for name in self._names}

    def hidden(self) -> tuple[str, ...]:
        """Return the row index that pandas writes."""
        return tuple(self._names[j] for j in self._layout.index)

    @property
    def named(self) -> bool:
        """Whether the first line names the columns."""
        return self._layout.names is not None

    def scan(self, features: tuple[str, ...], target: str | None, ids: str | None) -> None:
        """Read the file once: where its pieces are, how many records each holds, and what its targets and ids are.

        Raises
        ------
        ValueError
            Naming the line, if the lines do not make a table, a target or id is missing, or a feature of the first
            piece is no number.
        """
        groups, kinds, digest = [], set(), hashlib.sha256()
        for piece, data in self._cut():
            table = self._table(piece, data)
            digest.update(piece.digest)
            try:
                missing = [name for name in (*features, target, ids) if name is not None and name not in self._names]
                if not self._pieces and not missing:
                    for name in features:
                        table.columns[self._names.index(name)].numbers()
                groups.append(len(table.columns[0]))
                if target is not None and target in self._names:
                    kinds.add(table.columns[self._names.index(target)].labels().dtype.kind)
                if ids is not None and ids in self._names:
                    names = table.columns[self._names.index(ids)].ids()
                    self.ids_kind = "U" if names.dtype.kind == "U" else self.ids_kind
            except ValueError as error:
                raise self._named_error(error) from None
            self._pieces.append(piece)
        if "U" in kinds and len(kinds) > 1:
            raise TypeError(f"{self.file.name}: column {target!r} must hold text or numbers, got both")
        if kinds:
            self._answer = "U" if "U" in kinds else "f" if "f" in kinds else "i"
        self.groups, self.digest = tuple(groups), digest.hexdigest()
        self.file.require_unchanged()

    def require_same(self) -> None:
        """Refuse a file that is missing or was written to; each piece is compared with its digest when it is read."""
        self.file.require_unchanged()

    def _cut(self) -> Iterator[tuple[_Piece, bytes]]:
        """Yield pieces that end where a record ends: at the end of a line outside quotes."""
        with self.file.open() as stream:
            stream.seek(self._skipped)
            start, line, left, quotes = self._skipped, 1, b"", 0
            first = True
            while True:
                more = stream.read(_PIECE)
                data = left + more
                end, _ = _last_end(data, quotes) if more else (len(data), 0)
                if not data:
                    return
                if more and not end:
                    left = data
                    continue
                piece = data[:end]
                if piece.strip(b"\r\n"):
                    if more and first and self.named and not _beyond_first_line(piece):
                        left = data
                        continue
                    yield _Piece(start, end, line, first, hashlib.sha256(piece).digest()), piece
                    first = False
                start, line, left = start + end, line + piece.count(b"\n"), data[end:]
                if not more:
                    return

    def _table(self, piece: _Piece, data: bytes) -> Table:
        try:
            text, _ = decoded(data, line=piece.line)
            found = read_piece(
                data, text, self._layout, Path(self.file.name), line=piece.line, begins=piece.begins,
                decimal_comma=self._decimal_comma,
            )  # fmt: skip
            len(found.columns[0])
        except ValueError as error:
            raise self._named_error(error) from None
        return found

    def _named_error(self, error: ValueError) -> ValueError:
        text = str(error)
        return ValueError(text if text.startswith(self.file.name) else f"{self.file.name}: {text}")

    def without(self, gone: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield the file without some of its records, byte by byte as it stands but for them.

        Parameters
        ----------
        gone : ndarray of bool, shape (n_rows,)
            Records to leave out.

        Raises
        ------
        ValueError
            If the file is not what it was, or its records are not lines of their own.
        """
        with self.file.open() as stream:
            yield stream.read(self._skipped)
        first = 0
        for group, rows in enumerate(self.groups):
            data = self._bytes(group)
            ends = _ends(data)
            starts = np.concatenate([[0], ends[:-1]])
            lines = [data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
            records = [place for place, line in enumerate(lines) if line.strip(b"\r\n")]
            if self.named and group == 0:
                records = records[1:]
            if len(records) != rows:
                raise ValueError(
                    f"{self.file.name}: from line {self._pieces[group].line} on, {rows} records are not lines of their "
                    f"own, of which there are {len(records)}: it cannot be written without some of them"
                )
            for place in np.flatnonzero(gone[first : first + rows]).tolist():
                lines[records[place]] = b""
            first += rows
            yield b"".join(lines)
        self.file.require_unchanged()

    def _bytes(self, group: int) -> bytes:
        """Return the bytes of a piece, which must be what they were."""
        piece = self._pieces[group]
        with self.file.open() as stream:
            stream.seek(piece.start)
            data = stream.read(piece.length)
        if hashlib.sha256(data).digest() != piece.digest:
            raise ValueError(
                f"{self.file.name} has changed since the table was opened, from line {piece.line} on; open it again"
            )
        return data

    def read(self, group: int, start: int, stop: int, *, size: int, layout: Layout, threads: int) -> Iterator[Chunk]:
        """Yield rows of a piece."""
        table = self._table(self._pieces[group], self._bytes(group))
        place, first = f"{self.file.name}, column {layout.target!r}", sum(self.groups[:group])
        try:
            columns = [table.columns[self._names.index(name)].numbers()[start:stop] for name in layout.features]
            y: AnyArray | None = None
            ids: AnyArray | None = None
            if layout.target is not None:
                labels = table.columns[self._names.index(layout.target)].labels()[start:stop]
                y = checked_answers(labels, layout.answer, place, first + start)
            if layout.ids is not None:
                ids = _as_kind(table.columns[self._names.index(layout.ids)].ids()[start:stop], self.ids_kind)
        except ValueError as error:
            raise self._named_error(error) from None
        yield stacked(columns), y, ids


def _as_kind(ids: NDArray[Any], kind: str) -> NDArray[Any]:
    """Return ids as text where others of the table are: whole numbers were written just so."""
    if kind == "U" and ids.dtype.kind != "U":
        return np.array([str(one) for one in ids.tolist()], dtype=np.str_)
    return ids


def _head(file: File) -> tuple[bytes, bool]:
    """Return bytes of a file that show its layout, blank lines before it as one, and whether they reach its end."""
    with file.open() as stream:
        first = stream.read(_HEAD)
        read = len(first)
        mark = _MARK if first.startswith(_MARK) else b""
        text = first[len(mark) :].lstrip(b"\r\n")
        blank = len(mark) + len(text) < len(first)
        while blank and len(text) < _HEAD and (more := stream.read(_HEAD)):
            text, read = (text + more).lstrip(b"\r\n"), read + len(more)
    return mark + b"\n" * blank + text, read == file.size


def _last_end(data: bytes, quotes: int) -> tuple[int, int]:
    """Return where the last line ends that does so outside quotes, 0 if none, and the quotes up to there."""
    values = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(values == ord("\n"))
    marks = np.flatnonzero(values == ord('"'))
    before = np.searchsorted(marks, ends)
    good = ends[(before + quotes) % 2 == 0]
    if not len(good):
        return 0, quotes
    return int(good[-1]) + 1, quotes + int(np.searchsorted(marks, good[-1]))


def _beyond_first_line(piece: bytes) -> bool:
    """Return whether a record follows the header."""
    piece = piece.lstrip(b"\r\n")
    return bool(piece[int(_ends(piece)[0]) :].strip(b"\r\n"))


def _ends(data: bytes) -> NDArray[np.int64]:
    """Return where lines end that do so outside quotes; the last one ends with the data."""
    values = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(values == ord("\n"))
    marks = np.flatnonzero(values == ord('"'))
    good = ends[np.searchsorted(marks, ends) % 2 == 0] + 1
    return good if len(good) and good[-1] == len(data) else np.append(good, len(data))
