"""A regularised objective on records in blocks: its gradient, and the same objective on other records.

Blocks are arrays of their own. An objective without some records shares every block that held none of them, and copies
the others, so that nothing of what was removed stays reachable from it.
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge.runs.residual.gradients import LOSSES, GradientSums, gradient_sums

__all__ = ["GradientWork", "Objective", "RowWork", "Rows", "block_rows", "blocks_of", "sums_of"]

Float64 = NDArray[np.float64]
Result = TypeVar("Result")

_BLOCK_BYTES = 2**22  # of features; a deletion copies one block
_RANGE_ROWS = 512  # of the kernel's ranges, each of which is one thread's at a time
_LEAST_RANGES = 4  # of a block, however wide its rows are


@dataclass(frozen=True, eq=False)
class Rows:
    """Records: features, and what the loss needs besides.

    Attributes
    ----------
    X : ndarray of float64, shape (n, p)
        Features, C-contiguous; a constant column for the intercept is the last.
    labels : ndarray of int64, shape (n,), or None
        0 or 1 for one output, else the number of a class; None for the squared loss.
    targets : ndarray of float64, shape (n, q), or None
        For the squared loss.
    weights : ndarray of float64, shape (n,), or None
        Weight of each loss; None for 1.
    """

    X: Float64
    labels: NDArray[np.int64] | None = None
    targets: Float64 | None = None
    weights: Float64 | None = None

    def __len__(self) -> int:
        return len(self.X)

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """Return a copy of some rows, in the order given."""
        return Rows(
            self.X.take(positions, axis=0),  # whole rows: twice as fast as an index
            None if self.labels is None else self.labels[positions],
            None if self.targets is None else self.targets[positions],
            None if self.weights is None else self.weights[positions],
        )

    def without(self, positions: NDArray[np.int64]) -> Rows:
        """Return a copy of the other rows."""
        kept = np.ones(len(self), dtype=bool)
        kept[positions] = False
        return self.take(np.flatnonzero(kept))

    def then(self, other: Rows) -> Rows:
        """Return a copy of these rows, followed by others of the same kind."""
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = np.concatenate([self.weighed(), other.weighed()])
        labels = targets = None
        if self.labels is not None and other.labels is not None:
            labels = np.concatenate([self.labels, other.labels])
        if self.targets is not None and other.targets is not None:
            targets = np.concatenate([self.targets, other.targets])
        return Rows(np.concatenate([self.X, other.X]), labels, targets, weights)

    def weighed(self) -> Float64:
        """Return the weights as an array."""
        return np.ones(len(self)) if self.weights is None else self.weights


def block_rows(n_features: int) -> int:
    """Return how many rows a block has: about 4 MB of features, but at least enough ranges for a few threads.

    Half a range more keeps their number where records leave.
    """
    ranges = max(_LEAST_RANGES, _BLOCK_BYTES // (8 * max(1, n_features)) // _RANGE_ROWS)
    return ranges * _RANGE_ROWS + _RANGE_ROWS // 2


def blocks_of(rows: Rows) -> tuple[Rows, ...]:
    """Return copies of rows in blocks, none of them a view of another."""
    size = block_rows(rows.X.shape[1])
    starts = range(0, len(rows), size)
    return tuple(rows.take(np.arange(start, min(start + size, len(rows)))) for start in starts)


class RowWork(ABC, Generic[Result]):
    """Work on records, a block at a time, whose results add up; it can be pickled."""

    @abstractmethod
    def of(self, rows: Rows, *, threads: int | None = None) -> Result:
        """Return the result of a block, whose bits do not depend on ``threads``."""

    @abstractmethod
    def both(self, one: Result, two: Result) -> Result:
        """Return the result of neighbours, the first of which comes first."""

    def onto(self, result: Result | None, rows: Rows) -> Result:
        """Return a result with that of the next block, which lies in memory."""
        found = self.of(rows)
        return found if result is None else self.both(result, found)


@dataclass(frozen=True, eq=False)
class GradientWork(RowWork[tuple[GradientSums, tuple[Float64, ...]]]):
    """Sums of gradients, and residuals of each block if they are wanted."""

    theta: Float64
    loss: str
    residuals: bool = False

    def of(self, rows: Rows, *, threads: int | None = None) -> tuple[GradientSums, tuple[Float64, ...]]:
        """Return the sums of a block."""
        kept = np.empty((len(rows), len(self.theta))) if self.residuals else None
        sums = sums_of(rows, self.theta, loss=self.loss, residuals=kept, threads=threads)
        return sums, () if kept is None else (kept,)

    def both(
        self, one: tuple[GradientSums, tuple[Float64, ...]], two: tuple[GradientSums, tuple[Float64, ...]]
    ) -> tuple[GradientSums, tuple[Float64, ...]]:
        """Return sums added, and residuals side by side."""
        return one[0] + two[0], one[1] + two[1]


def sums_of(
    rows: Rows, theta: Float64, *, loss: str, residuals: Float64 | None = None, threads: int | None = None
) -> GradientSums:
    """Return the sums of gradients over some records."""
    return gradient_sums(
        rows.X,
        theta,
        loss=loss,
        targets=rows.targets,
        labels=rows.labels,
        weights=rows.weights,
        residuals=residuals,
        threads=threads,
    )


@dataclass(frozen=True, eq=False)
class Objective:
    """Sum over records of weight times loss, plus ``alpha/2 |theta|^2``: alpha-strongly convex in theta.

    Attributes
    ----------
    blocks : tuple of Rows
        The records; `blocks_of` makes them.
    loss : {"squared", "logistic", "softmax"}
        As for `gradient_sums`.
    n_features, n_outputs : int
        Shape of theta: ``(n_outputs, n_features)``.
    alpha : float
        Strength of the penalty, > 0, on every parameter, an intercept's too.

    Raises
    ------
    ValueError
        If alpha is not a number above 0, the loss is unknown, or blocks have other shapes.
    """

    blocks: tuple[Rows, ...]
    loss: str
    n_features: int
    n_outputs: int
    alpha: float

    def __post_init__(self) -> None:
        _validate.choice("loss", self.loss, LOSSES)
        _validate.number("alpha", self.alpha, low=0.0, open_low=True)
        for block in self.blocks:
            if block.X.shape[1] != self.n_features:
                raise ValueError(f"blocks must have {self.n_features} features, got {block.X.shape[1]}")

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def numbers(self) -> str:
        """The numbers of the records that make gradients large: what errors advise to scale."""
        return "features and targets" if self.loss == "squared" else "features"

    # --- what is minimised ---------------------------------------------------------------------

    def sums(self, theta: Float64, *, residuals: Float64 | None = None) -> GradientSums:
        """Return the sums over all records, one pass over the data, the same bits for any number of threads."""
        parts, start = [], 0
        for block in self.blocks or (self._none(),):
            kept = None if residuals is None else residuals[start : start + len(block)]
            start += len(block)
            parts.append(self.sums_of(block, theta, residuals=kept))
        return functools.reduce(operator.add, parts)

    def sums_of(self, rows: Rows, theta: Float64, *, residuals: Float64 | None = None) -> GradientSums:
        """Return the sums over some records, which need not be among those of the objective."""
        return sums_of(rows, theta, loss=self.loss, residuals=residuals)

    def folded(self, work: RowWork[Result]) -> Result:
        """Return what work on all records adds up to."""
        first, *others = self.blocks or (self._none(),)
        result = work.onto(None, first)
        for block in others:
            result = work.onto(result, block)
        return result

    def gradient(self, theta: Float64, sums: GradientSums) -> Float64:
        """Return the gradient at theta, penalty included, from the sums there."""
        with np.errstate(over="ignore", invalid="ignore"):
            return sums.gradient + self.alpha * theta

    def residual_bound(self, theta: Float64) -> float:
        """Return a proved upper bound on the norm of the exact gradient at theta: the claim's one pass."""
        return self.sums(theta).norm_bound(theta, alpha=self.alpha)

    # --- other records -------------------------------------------------------------------------

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """Return copies of the records at sorted positions, counted through all blocks; at least one."""
        taken = [block.take(local) for block, local in self._shares(positions) if len(local)]
        return functools.reduce(Rows.then, taken)

    def without(self, positions: NDArray[np.int64]) -> Objective:
        """Return the objective on the other records; blocks that held none of these are shared."""
        kept = [block.without(local) if len(local) else block for block, local in self._shares(positions)]
        return replace(self, blocks=tuple(block for block in kept if len(block)))

    def replacing(self, positions: NDArray[np.int64], rows: Rows) -> Objective:
        """Return the objective with ``rows`` in place of the records at sorted positions."""
        changed, start = [], 0
        for block, local in self._shares(positions):
            if len(local):
                order = np.arange(len(block))
                order[local] = len(block) + np.arange(len(local))
                block = block.then(rows.take(np.arange(start, start + len(local)))).take(order)
                start += len(local)
            changed.append(block)
        return replace(self, blocks=tuple(changed))

    def with_rows(self, rows: Rows) -> Objective:
        """Return the objective with records added at the end."""
        blocks = self.blocks
        if blocks and len(blocks[-1]) + len(rows) <= block_rows(self.n_features):
            return replace(self, blocks=(*blocks[:-1], blocks[-1].then(rows)))
        return replace(self, blocks=(*blocks, *blocks_of(rows)))

    def _shares(self, positions: NDArray[np.int64]) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Yield every block with the positions within it."""
        start = 0
        for block in self.blocks:
            low, high = np.searchsorted(positions, [start, start + len(block)])
            yield block, positions[low:high] - start
            start += len(block)

    def _none(self) -> Rows:
        squared = self.loss == "squared"
        return Rows(
            np.empty((0, self.n_features)),
            None if squared else np.empty(0, dtype=np.int64),
            np.empty((0, self.n_outputs)) if squared else None,
        )
