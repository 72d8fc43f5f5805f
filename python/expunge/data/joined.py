"""Several tables of records, one after the other, as one."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from expunge.data.assembly import Assembly
from expunge.data.blocks import Block, Engine, Records

__all__ = ["JoinedRecords"]


class JoinedRecords(Records):
    """Several tables of records, one after the other: blocks are those of one table with all rows.

    Parameters
    ----------
    tables : sequence of Records
        At least one, of the same features.

    Raises
    ------
    TypeError
        If a table is none, or ids are text in one and whole numbers in another.
    ValueError
        If there is no table, or one has other features than the first, or has targets or ids where that has none.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.data import open_records
    >>> parts = [open_records(np.eye(3), target=[1, 2, 3]), open_records(np.ones((2, 3)), target=[4, 5])]
    >>> records = JoinedRecords(parts)
    >>> records.n_records, records.targets().tolist()
    (5, [1, 2, 3, 4, 5])
    """

    def __init__(self, tables: Sequence[Records]) -> None:
        if not tables:
            raise ValueError("tables must be at least one, got none")
        for one in tables:
            if not isinstance(one, Records):
                raise TypeError(f"tables must be Records, as open_records returns them, got {type(one).__name__}")
        self._tables = tuple(tables)
        first = self._tables[0]
        for one in self._tables[1:]:
            for name in ("n_features", "feature_names", "has_targets", "has_ids"):
                mine, theirs = getattr(first, name), getattr(one, name)
                if mine != theirs:
                    raise ValueError(
                        f"tables must have the same columns, got {name} {mine!r} ({first.place(0)}) and {theirs!r} "
                        f"({one.place(0)})"
                    )
        self._starts = list(accumulate((one.n_records for one in self._tables), initial=0))

    @property
    def tables(self) -> tuple[Records, ...]:
        """The tables, in order."""
        return self._tables

    @property
    def n_records(self) -> int:
        """Number of records."""
        return self._starts[-1]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._tables[0].n_features

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the features in all blocks."""
        return np.dtype(np.result_type(*(one.dtype for one in self._tables)))

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, where there are any."""
        return self._tables[0].feature_names

    @property
    def has_targets(self) -> bool:
        """Whether there are labels or targets."""
        return self._tables[0].has_targets

    @property
    def has_ids(self) -> bool:
        """Whether there are ids."""
        return self._tables[0].has_ids

    @property
    def engine(self) -> Engine | None:
        """Who works on the blocks: whoever does on those of every table; the threads of this process otherwise."""
        engines = {id(one.engine) for one in self._tables}
        return self._tables[0].engine if len(engines) == 1 else None

    def place(self, index: int) -> str:
        """Return where a record lies, for messages."""
        table = bisect.bisect_right(self._starts, index) - 1
        return self._tables[table].place(index - self._starts[table])

    def _read(self, numbers: range, threads: int | None) -> Iterator[Block]:
        size = self.block_rows
        first, last = numbers.start * size, min(numbers.stop * size, self.n_records)
        blocks, kinds = Assembly(first, size, self.n_features, self.dtype), dict[tuple[str, str], str]()
        for at, table in zip(self._starts, self._tables, strict=False):
            begin, end = max(first, at) - at, min(last, at + table.n_records) - at
            if begin >= end:
                continue
            for block in table.blocks(start=begin // size, stop=-(-end // size), threads=threads):
                part = slice(max(begin - block.start, 0), end - block.start)
                X = block.X[part].astype(self.dtype, copy=False)
                for name, column in (("targets", block.y), ("ids", block.ids)):
                    if column is not None:
                        kinds.setdefault((name, "text" if column.dtype.kind == "U" else "numbers"), table.place(0))
                _refuse_two_kinds(kinds)
                y, ids = (None if one is None else one[part] for one in (block.y, block.ids))
                yield from blocks.take((np.ascontiguousarray(X), y, ids))
        yield from blocks.rest()


def _refuse_two_kinds(kinds: dict[tuple[str, str], str]) -> None:
    for name in ("targets", "ids"):
        text, numbers = kinds.get((name, "text")), kinds.get((name, "numbers"))
        if text is not None and numbers is not None:
            raise TypeError(f"{name} of tables must be of one kind: text from {text} on, numbers from {numbers} on")
