"""Statistics of a table of which a ridge model can be made without the rows."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._files import CONFIDENTIAL, write_atomic
from expunge._kernels.backend import one_blas_thread
from expunge._validate import count, refuse_masks
from expunge.data.array_records import Frame
from expunge.data.block_sums import BlockSums, folded, formed, joined, sums_lost, unpacked
from expunge.data.blocks import Block, BlockWork, Records, rows_per_block
from expunge.data.close_products import MARGIN, UNIT, Gram, Moment
from expunge.data.folding import fold
from expunge.data.labels import labels
from expunge.data.row_digests import table_digest
from expunge.data.stored_statistics import Stored, read_statistics, statistics_bytes

__all__ = ["ClassCodes", "RidgeStatistics", "StatisticsBuilder"]

Array = NDArray[np.float64]
Label = str | int | float | bool


class RidgeStatistics:
    """Sums over the rows of a table, or of a range of its blocks, that a ridge model is made of.

    X^T X and X^T Y with a constant column beside X, the number of records, the longest row and a digest, formed in one
    pass by `RidgeStatistics.of`. Statistics of different ranges of blocks add up: ``a + b`` has the same bits, digest
    included, as one pass over both, however the blocks were shared out.

    Attributes
    ----------
    n_features, n_outputs : int
        Columns of X and of Y.
    classes : tuple of (str, int, float or bool), or None
        Labels in the order of the columns of Y, which is one-hot then; None where targets are numbers as they are.
    single_output : bool
        Whether targets came as one column without a dimension of its own.
    feature_names : tuple of str, or None
        Names of the columns of X, where the table has them.

    See Also
    --------
    expunge.LangevinRidge.fit_statistics : The model made of them.

    Notes
    -----
    Rows are split into a high part, whose products and sums are exact, and a small low part; blocks are summed in pairs
    of float64 numbers by one binary tree over the numbers of the blocks. `gram` and `moment` come with proved bounds on
    what is left of rounding, hardly more than that of the last addition, whatever the number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3), np.ones(3)
    >>> statistics = RidgeStatistics.of(X, y)
    >>> statistics.n_records, statistics.feature_sums.tolist()
    (3, [1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        nodes: Sequence[BlockSums],
        *,
        n_features: int,
        classes: tuple[Label, ...] | None,
        single_output: bool,
        feature_names: tuple[str, ...] | None,
    ) -> None:
        self._nodes = joined(nodes)
        self.n_features, self.classes, self.single_output = n_features, classes, single_output
        self.feature_names = feature_names
        self.n_outputs = self._nodes[0].moment[0].shape[1]

    @classmethod
    def of(
        cls,
        table: Records | ArrayLike | Frame,
        y: ArrayLike | None = None,
        *,
        classes: ArrayLike | None = None,
        start: int = 0,
        stop: int | None = None,
        threads: int | None = None,
    ) -> RidgeStatistics:
        """Return the statistics of a table, or of a range of its blocks, in one pass.

        Parameters
        ----------
        table : Records, or array-like or frame of shape (n, p)
            What `expunge.data.open_records` returns, with targets; or features, beside ``y``.
        y : array-like of shape (n,) or (n, q), optional
            Targets or labels of features given as an array.
        classes : array-like of str or numbers, optional
            All labels there can be: targets are labels, for `expunge.LangevinRidgeClassifier`. They must be known
            beforehand: labels taken from the data could be there for the sake of one record.
        start, stop : int, optional
            Range of blocks; by default all.
        threads : int, optional
            Blocks worked on at once; by default as many as there are cores. Bits do not depend on it.

        Returns
        -------
        RidgeStatistics

        Raises
        ------
        ValueError
            If a row is not finite or a label is no class, named with its row, or squares overflow; if there are no
            targets or no rows, or ``y`` is given beside a table.
        """
        from expunge.data.opening import open_records  # readers of files, which models and certificates do without

        for name, given in (("table", table), ("y", y), ("classes", classes)):
            refuse_masks(name, given)
        if isinstance(table, Records) and y is not None:
            raise TypeError("y must be omitted for a table of records, which has its own targets")
        records = open_records(table, target=y)
        if not records.has_targets:
            raise ValueError("table must have targets, got none: name the target column, or pass y beside features")
        known = None if classes is None else ClassCodes(classes)
        workers = None if threads is None else count("threads", threads, low=1)
        first, last = records.block_range(start=start, stop=stop)
        if first == last:
            raise ValueError(f"table must have at least one row in blocks {first} to {last}, got none")
        nodes, shapes = fold(records, _Forming(known), numbers=range(first, last), threads=workers)
        if len(shapes) > 1:
            raise ValueError(f"targets must have one shape in all rows, got {sorted(shapes)}")
        return cls(
            nodes,
            n_features=records.n_features,
            classes=None if known is None else known.values,
            single_output=known is None and shapes == {()},
            feature_names=records.feature_names,
        )

    def __add__(self, other: RidgeStatistics) -> RidgeStatistics:
        """Return the statistics of the blocks of both.

        Raises
        ------
        ValueError
            If both hold the same block, or are of different tables: other numbers of columns, names or classes.
        """
        if not isinstance(other, RidgeStatistics):
            return NotImplemented
        for name in ("n_features", "feature_names", "classes", "n_outputs", "single_output"):
            one, two = getattr(self, name), getattr(other, name)
            if one != two:
                raise ValueError(f"statistics must be of one table, got {name} = {one!r} and {two!r}")
        nodes = sorted((*self._nodes, *other._nodes), key=lambda node: node.first)
        for node, later in pairwise(nodes):
            if later.first < node.stop:
                raise ValueError(
                    f"statistics must be of different blocks of one table, got block {later.first} twice: make one "
                    "table of several files"
                )
        for node in nodes[:-1]:
            if node.n_records < (node.stop - node.first) * self._block_rows:
                raise ValueError(
                    f"statistics must be of different blocks of one table, got one that ends before block {node.stop} "
                    "and another that goes on behind it: make one table of several files"
                )
        return RidgeStatistics(
            nodes,
            n_features=self.n_features,
            classes=self.classes,
            single_output=self.single_output,
            feature_names=self.feature_names,
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the statistics to one ``.npz`` file (arrays and JSON, no pickle), whole or not at all, for its owner.

        Statistics of shards, computed on different machines, are added once they are in one place. The file is as
        confidential as the records: the sums of a block with a single row are products of that row.

        Parameters
        ----------
        path : str or Path
            Where to.
        overwrite : bool
            Replace an existing file.

        Returns
        -------
        Path

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> statistics = RidgeStatistics.of(np.eye(3), np.ones(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = statistics.save(pathlib.Path(folder) / "shard-0.npz")
        ...     RidgeStatistics.load(path).digest == statistics.digest
        True
        """
        stored = Stored(self._nodes, self.n_features, self.classes, self.single_output, self.feature_names)
        write_atomic(path, statistics_bytes(stored), overwrite=overwrite, mode=CONFIDENTIAL)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> RidgeStatistics:
        """Read statistics written by `save`, to the bit.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        RidgeStatistics

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, of an unknown version, or holds sums that no table has.

        Notes
        -----
        What is read is self-consistent, and carries the digest of its rows; that its sums are those of these rows is
        found out by a pass over the table: the first deletion compares them.
        """
        found = read_statistics(path)
        return cls(
            found.nodes,
            n_features=found.n_features,
            classes=found.classes,
            single_output=found.single_output,
            feature_names=found.feature_names,
        )

    def __repr__(self) -> str:
        blocks = ", ".join(f"{start} to {stop - 1}" for start, stop in self.ranges)
        return (
            f"<RidgeStatistics of {self.n_records:,} records, {self.n_features} features, {self.n_outputs} outputs: "
            f"blocks {blocks}>"
        )

    @property
    def _block_rows(self) -> int:
        return rows_per_block(n_features=self.n_features)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Ranges of blocks that are held, ``(start, stop)`` each, without gaps inside."""
        found: list[tuple[int, int]] = []
        for node in self._nodes:
            if found and found[-1][1] == node.first:
                found[-1] = found[-1][0], node.stop
            else:
                found.append((node.first, node.stop))
        last = self._nodes[-1]
        return (*found[:-1], (found[-1][0], last.first + -(-last.n_records // self._block_rows)))

    @property
    def n_records(self) -> int:
        """Number of rows."""
        return sum(node.n_records for node in self._nodes)

    @cached_property
    def _whole(self) -> BlockSums:
        """Return the sums over the whole table, which must be held from its first block on without a gap."""
        ranges = self.ranges
        if len(ranges) > 1 or ranges[0][0] != 0:
            held = ", ".join(f"{start} to {stop - 1}" for start, stop in ranges)
            raise ValueError(f"statistics must hold all blocks of a table, got blocks {held}: add the others first")
        return folded(self._nodes)

    def gram(self, *, fit_intercept: bool = True) -> Gram:
        """Return X^T X, with a constant column beside X if asked for, and bounds on its error.

        Raises
        ------
        ValueError
            If blocks are missing.
        """
        return self._gram_of(self._whole, fit_intercept)

    def _gram_of(self, sums: BlockSums, fit_intercept: bool) -> Gram:
        size = self.n_features + 1
        whole = unpacked(sums.gram[0] + sums.gram[1], size)
        value = whole if fit_intercept else np.ascontiguousarray(whole[:-1, :-1])
        # Partial sums are no larger than the trace, that of the constant column included.
        lost = sums_lost(self._block_rows) * MARGIN * float(np.trace(whole))
        return Gram(value, MARGIN * UNIT, MARGIN * (sums.gram_rest + lost))

    def moment(self, *, fit_intercept: bool = True) -> Moment:
        """Return X^T Y, with a constant column beside X if asked for, and bounds on its error.

        Raises
        ------
        ValueError
            If blocks are missing.
        """
        sums = self._whole
        whole = sums.moment[0] + sums.moment[1]
        value = whole if fit_intercept else np.ascontiguousarray(whole[:-1])
        trace = float(np.trace(self._gram_of(sums, True).value))
        sizes = math.sqrt(MARGIN * trace) * np.sqrt(MARGIN * self.target_squares)
        return Moment(value, MARGIN * (sums.moment_rest + sums_lost(self._block_rows) * sizes))

    @property
    def feature_sums(self) -> Array:
        """Sums of the features, shape (n_features,)."""
        return np.array(self.gram().value[-1, :-1])

    @property
    def target_sums(self) -> Array:
        """Sums of the targets, shape (n_outputs,): the number of records of each class, where there are classes."""
        return np.array(self.moment().value[-1])

    @property
    def target_squares(self) -> Array:
        """Sums of the squares of the targets, shape (n_outputs,)."""
        sums = self._whole
        return np.asarray(sums.squares[0] + sums.squares[1])

    def longest_row(self, *, fit_intercept: bool = True) -> tuple[int, float]:
        """Return the longest row and its norm, that of the constant column included if asked for."""
        square, row = self._whole.longest
        return row, math.sqrt(square + (1.0 if fit_intercept else 0.0))

    @property
    def digest(self) -> str:
        """Digest of rows and targets, 64 hexadecimal characters: the same for any shards, threads and order of sums.

        SHA-256 over each block's float64 values, combined by the tree; float32 data and the same data stored as float64
        have one digest.
        """
        sums = self._whole
        return table_digest(
            sums.digest,
            n_records=sums.n_records,
            n_features=self.n_features,
            n_outputs=self.n_outputs,
            block_rows=self._block_rows,
            classes=self.classes,
        )


class StatisticsBuilder:
    """Statistics of rows that come in parts of any size, as those of a table that holds these rows and no others.

    Parameters
    ----------
    n_features, n_outputs : int
        Columns of X and of Y.
    classes : tuple of (str, int, float or bool), or None
        Labels in the order of the columns of Y; None where targets are numbers.
    single_output : bool
        As `RidgeStatistics.single_output`.
    threads : int, optional
        Blocks worked on at once; by default as many as there are cores.
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_outputs: int,
        classes: tuple[Label, ...] | None,
        single_output: bool = False,
        threads: int | None = None,
    ) -> None:
        self._rows, self._start, self._waiting = rows_per_block(n_features=n_features), 0, 0
        self._n_features, self._classes, self._single_output = n_features, classes, single_output
        self._n_classes = 0 if classes is None else n_outputs
        self._pending: list[tuple[NDArray[np.floating], NDArray[np.generic]]] = []
        self._nodes: tuple[BlockSums, ...] = ()
        self._workers = count("threads", (os.cpu_count() or 1) if threads is None else threads, low=1)
        self._pool = ThreadPoolExecutor(self._workers)
        self._running: deque[Future[BlockSums]] = deque()

    def __enter__(self) -> StatisticsBuilder:
        self._blas = one_blas_thread()
        self._blas.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._blas.__exit__(None, None, None)

    def add(self, X: NDArray[np.floating], targets: NDArray[np.generic]) -> None:
        """Add rows (m, n_features) with targets (m, n_outputs), or with the numbers of their classes (m,)."""
        while len(X):
            room = self._rows - self._waiting
            self._pending.append((X[:room], targets[:room]))
            self._waiting += min(room, len(X))
            X, targets = X[room:], targets[room:]
            if self._waiting == self._rows:
                self._form()

    def _form(self) -> None:
        if len(self._running) >= self._workers:
            self._nodes = joined((*self._nodes, self._running.popleft().result()))
        X, targets = self._pending[0]
        if len(self._pending) > 1:
            X, targets = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        start, self._start = self._start, self._start + self._waiting
        self._pending, self._waiting = [], 0
        job = partial(formed, start // self._rows, X, targets, start=start, n_classes=self._n_classes)
        self._running.append(self._pool.submit(job))

    def result(self, feature_names: tuple[str, ...] | None = None) -> RidgeStatistics:
        """Return the statistics of all rows so far, of which there must be one."""
        if self._waiting:
            self._form()
        nodes = joined((*self._nodes, *(job.result() for job in self._running)))
        return RidgeStatistics(
            nodes,
            n_features=self._n_features,
            classes=self._classes,
            single_output=self._single_output,
            feature_names=feature_names,
        )


class ClassCodes:
    """Labels in sorted order, and the numbers of the labels of rows among them."""

    def __init__(self, given: ArrayLike) -> None:
        found, numbers = labels(given)
        values = found if isinstance(found, list) else [found]
        if len(set(values)) != len(values) or len(values) < 2:
            raise ValueError(f"classes must be at least 2 distinct labels, got {given!r}")
        self.values: tuple[Label, ...] = tuple(sorted(values))
        self._texts = numbers is None and isinstance(values[0], str)
        self._sorted = np.array(self.values, dtype=object if numbers is None and not self._texts else None)

    def codes(self, y: NDArray[np.generic], start: int) -> NDArray[np.int64]:
        """Return the number of the class of each row, or raise for the first label that is none."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            raise ValueError(f"targets must be one label a row, got shape {y.shape}")
        texts = y.dtype.kind == "U" or (y.dtype.kind == "O" and all(isinstance(one, str) for one in y.tolist()))
        if texts != self._texts:
            raise ValueError(f"targets must be labels of the kind of classes, got {y.tolist()[0]!r} in row {start}")
        y = y.astype(str) if y.dtype.kind == "O" and texts else y
        found = np.minimum(np.searchsorted(self._sorted, y), len(self._sorted) - 1)
        wrong = self._sorted[found] != y
        if np.any(wrong):
            at = int(np.argmax(wrong))
            raise ValueError(f"targets must be among the classes, got {y.tolist()[at]!r} in row {start + at}")
        return found.astype(np.int64)


@dataclass(frozen=True)
class _Forming(BlockWork[None, "_Formed"]):
    """Sums of blocks, and the shapes of their targets beyond the rows."""

    classes: ClassCodes | None
    side_by_side = True

    def of(self, records: Records, block: Block, given: None, *, threads: int | None) -> _Formed:
        with one_blas_thread():
            node, shape = _sums_of(block, self.classes, records.block_rows)
        return _Formed((node,), frozenset([shape]))

    def both(self, one: _Formed, two: _Formed) -> _Formed:
        return _Formed(joined((*one.nodes, *two.nodes)), one.shapes | two.shapes)


class _Formed(NamedTuple):
    nodes: tuple[BlockSums, ...]
    shapes: frozenset[tuple[int, ...]]


def _sums_of(block: Block, classes: ClassCodes | None, rows: int) -> tuple[BlockSums, tuple[int, ...]]:
    index, y = block.start // rows, np.asarray(block.y)
    if classes is not None:
        codes = classes.codes(y, block.start)
        return formed(index, block.X, codes, start=block.start, n_classes=len(classes.values)), ()
    if y.dtype.kind not in "fiub":
        raise TypeError(f"targets must be real numbers without classes=, got dtype {y.dtype} in row {block.start}")
    targets = np.ascontiguousarray(y, dtype=np.float64).reshape(len(y), -1)
    return formed(index, block.X, targets, start=block.start, n_classes=0), y.shape[1:]
