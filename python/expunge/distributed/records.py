"""Tables whose passes are made on workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from expunge.data.blocks import Block, Engine, Records
from expunge.data.file_records import FileRecords
from expunge.data.joined import JoinedRecords
from expunge.data.wrapped import WrappedRecords

__all__ = ["OnWorkers", "require_files"]


class OnWorkers(WrappedRecords):
    """A table in files, with an engine for passes that add up. What is read block by block is read in this process.

    Pickled, it is the table alone: workers, and whoever loads it later, read it themselves.
    """

    def __init__(self, records: Records, engine: Engine) -> None:
        require_files(records)
        super().__init__(records)
        self._engine = engine

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._records,)

    @property
    def engine(self) -> Engine:
        """Who works on its blocks."""
        return self._engine

    def _read(self, numbers: range, threads: int | None) -> Iterator[Block]:
        return self._records.blocks(start=numbers.start, stop=numbers.stop, threads=threads)


def _itself(records: Records) -> Records:
    return records


def require_files(records: Records) -> None:
    """Refuse a table that workers cannot read: rows in memory, and names that depend on where a process runs.

    Raises
    ------
    TypeError, ValueError
        With the remedy.
    """
    while isinstance(records, WrappedRecords):
        records = records.records
    if isinstance(records, JoinedRecords):
        for one in records.tables:
            require_files(one)
        return
    if not isinstance(records, FileRecords):
        raise TypeError(
            "records must lie in files that the workers can read, got rows in this process's memory, which are sent to "
            "nobody: write them to Parquet or .npy files, and open these"
        )
    for name in records.files if records.is_local else ():
        if not os.path.isabs(name):
            raise ValueError(
                f"records must be opened by an absolute path, as workers run elsewhere, got {name!r}: pass "
                "os.path.abspath(...) as source, target and ids"
            )
