"""Tables whose passes are made on workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from expunge.data.blocks import Block, Engine, Records
from expunge.data.file_records import FileRecords
from expunge.data.mapped import MappedRecords

__all__ = ["OnWorkers", "require_files"]


class OnWorkers(Records):
    """A table in files, with an engine for passes that add up. What is read block by block is read in this process.

    Pickled, it is the table alone: workers, and whoever loads it later, read it themselves.
    """

    def __init__(self, records: Records, engine: Engine) -> None:
        require_files(records)
        self._records, self._engine = records, engine

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._records,)

    @property
    def records(self) -> Records:
        """The table itself."""
        return self._records

    @property
    def engine(self) -> Engine:
        """Who works on its blocks."""
        return self._engine

    @property
    def n_records(self) -> int:
        """Number of records."""
        return self._records.n_records

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._records.n_features

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the features in all blocks."""
        return self._records.dtype

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, where there are any."""
        return self._records.feature_names

    @property
    def has_targets(self) -> bool:
        """Whether blocks have labels or targets."""
        return self._records.has_targets

    @property
    def has_ids(self) -> bool:
        """Whether blocks have ids."""
        return self._records.has_ids

    def place(self, index: int) -> str:
        """Return where a record lies, for messages."""
        return self._records.place(index)

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
    while isinstance(records, (MappedRecords, OnWorkers)):
        records = records.records
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
