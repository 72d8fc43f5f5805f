"""Tables of records as row blocks: the same blocks wherever the rows lie, in memory or in files of any number.

Block k holds the rows ``k B`` to ``(k + 1) B``, where B depends on the number of features alone. What is summed block
by block has therefore the same bits for any number of files, threads and workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge._types import AnyArray

__all__ = ["Block", "BlockWork", "Engine", "Records", "refuse_unfit", "rows_per_block"]

Given = TypeVar("Given")
Result = TypeVar("Result")

_BLOCK_BYTES = 2**25  # of float64 features
_LEAST, _MOST = 64, 2**18  # rows: of the widest, and of the narrowest records, whose ids and targets count too


def rows_per_block(*, n_features: int) -> int:
    """Return how many rows a block has: the power of two nearest to 32 MiB of float64 features, within [64, 2^18].

    Raises
    ------
    TypeError, ValueError
        If ``n_features`` is not an integer of at least 1.

    Examples
    --------
    >>> [rows_per_block(n_features=p) for p in (1, 256, 768)]
    [262144, 16384, 4096]
    """
    n_features = _validate.count("n_features", n_features, low=1)
    rows = _BLOCK_BYTES / (8 * n_features)
    power = 1 << max(0, int(rows).bit_length() - 1)
    nearest = 2 * power if 2 * rows > 3 * power else power
    return min(max(nearest, _LEAST), _MOST)


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive records of a table.

    Attributes
    ----------
    start : int
        Number of the first one within the table.
    X : ndarray of float32 or float64, shape (rows, n_features)
        Finite, C-contiguous, not to be written to: it may be the caller's own.
    y : ndarray of int64, float64 or str, shape (rows,) or (rows, n_outputs), or None
        Labels or targets, none missing.
    ids : ndarray of int64, object (Python integers) or str, shape (rows,), or None
        Whom the records are about, exactly.
    """

    start: int
    X: NDArray[np.floating]
    y: AnyArray | None = None
    ids: AnyArray | None = None

    def __len__(self) -> int:
        return len(self.X)


class Records(ABC):
    """A table of records that is read block by block, as often as needed. `open_records` makes one.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.data import open_records
    >>> records = open_records(np.eye(3), target=[1, 2, 3])
    >>> isinstance(records, Records), [(block.start, len(block)) for block in records.blocks()]
    (True, [(0, 3)])
    """

    @property
    @abstractmethod
    def n_records(self) -> int:
        """Number of records."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of features."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the features in all blocks, float32 or float64: what holds the numbers of the source exactly."""

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, or None where the source does not name them one by one."""

    @property
    @abstractmethod
    def has_targets(self) -> bool:
        """Whether blocks have labels or targets."""

    @property
    @abstractmethod
    def has_ids(self) -> bool:
        """Whether blocks have ids."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Return where a record lies, for messages: its number, and its file where there is one."""

    @abstractmethod
    def _read(self, numbers: range, threads: int | None) -> Iterator[Block]:
        """Yield the blocks of these numbers, which exist, in order."""

    @property
    def engine(self) -> Engine | None:
        """Who works on the blocks of passes that add up; None for the threads of this process."""
        return None

    @property
    def block_rows(self) -> int:
        """Rows of each block but the last."""
        return rows_per_block(n_features=self.n_features)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_records // self.block_rows)

    def blocks(self, *, start: int = 0, stop: int | None = None, threads: int | None = None) -> Iterator[Block]:
        """Yield blocks ``start`` to ``stop`` (without it), in order; numbers count blocks, so workers can share them.

        Parameters
        ----------
        start, stop : int
            Within [0, n_blocks]; all blocks by default.
        threads : int, optional
            Most cores that read ahead; all by default. The blocks are the same for every number.

        Raises
        ------
        ValueError
            If a range is not within the table; while reading, if a row holds what is no number or is missing, or a
            file has changed since the table was opened: named with its place.
        """
        first, last = self.block_range(start=start, stop=stop)
        if threads is not None:
            threads = _validate.count("threads", threads, low=1)
        return self._read(range(first, last), threads)

    def block_range(self, *, start: int = 0, stop: int | None = None) -> tuple[int, int]:
        """Return the first block of a range and the one after its last, which is that after all blocks by default.

        Raises
        ------
        ValueError
            If the range is not within the table.
        """
        first = _validate.count("start", start)
        last = self.n_blocks if stop is None else _validate.count("stop", stop)
        if not first <= last <= self.n_blocks:
            raise ValueError(f"start and stop must be within [0, {self.n_blocks}] blocks, got {first} to {last}")
        return first, last

    def targets(self) -> AnyArray:
        """Return the labels or targets of all records, in memory, shape (n,) or (n, n_outputs).

        Raises
        ------
        ValueError
            If there are none, or as `blocks`.
        """
        if not self.has_targets:
            raise ValueError("this table has no targets: open it with target= or target_column=")
        return np.concatenate([block.y for block in self.blocks() if block.y is not None])

    def __len__(self) -> int:
        return self.n_records


class BlockWork(ABC, Generic[Given, Result]):
    """Work on a block at a time whose results add up. It can be pickled, and finds all it needs in itself.

    Attributes
    ----------
    side_by_side : bool
        Whether threads take a block each; otherwise they share one.
    """

    side_by_side: ClassVar[bool] = False

    @abstractmethod
    def of(self, records: Records, block: Block, given: Given, *, threads: int | None) -> Result:
        """Return the result of a block, whose bits do not depend on ``threads``; ``given`` is about its rows."""

    @abstractmethod
    def both(self, one: Result, two: Result) -> Result:
        """Return the result of neighbours, the first of which comes first."""


class Engine(Protocol):
    """Somebody who works on the blocks of a table: threads of this process, or workers of a cluster."""

    def fold(
        self,
        records: Records,
        work: BlockWork[Any, Result],
        numbers: Sequence[int],
        given: Callable[[int], Any] | None,
        *,
        threads: int | None,
    ) -> Result:
        """Return the results of blocks of these numbers, which rise, combined as `expunge.data.folding.Fold` does."""


def refuse_unfit(records: Records, block: Block) -> None:
    """Refuse features that are not finite, by the place of the first one."""
    # Extremes are NaN where one number is: no second array is made of a block that is as it should be.
    if np.isfinite(block.X.max(initial=0.0)) and np.isfinite(block.X.min(initial=0.0)):
        return
    row, feature = (int(place[0]) for place in np.nonzero(~np.isfinite(block.X)))
    name = "" if records.feature_names is None else f" ({records.feature_names[feature]!r})"
    raise ValueError(
        f"{records.place(block.start + row)}, feature {feature}{name} must be a finite number, got "
        f"{block.X[row, feature]}: it is missing, NaN or infinite"
    )
