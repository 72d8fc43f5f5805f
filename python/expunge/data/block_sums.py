"""Products of a block of rows, summed almost exactly, and their sums over ranges of blocks by one fixed binary tree.

Node (level, index) of the tree holds the blocks index 2^level and so on up to (index + 1) 2^level. What it holds is a
function of these rows alone: whoever forms it, and whatever else was formed before, has the same bits. Every number is
a pair (sum, what the additions left), so that an error remains of the order of one rounding of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import MARGIN, TINY, UNIT, split, split_bits, sum_error
from expunge.data.row_digests import block_digest, digest_of_both

__all__ = ["MOST_LEVELS", "BlockSums", "Pair", "folded", "formed", "joined", "sums_lost", "unpacked"]

Array = NDArray[np.float64]
Pair = tuple[Array, Array]

_SUBROWS = 2048
MOST_LEVELS = 64
_SQUARES = 1e15  # room for the numbers that split squares exactly


@dataclass(frozen=True)
class BlockSums:
    """Sums over the blocks of one node of the tree.

    Attributes
    ----------
    level, index : int
        The node.
    n_records : int
        Rows in it; fewer than its blocks hold only at the end of a table.
    gram : pair of ndarray of shape ((p + 1) (p + 2) / 2,)
        Upper triangle of Z^T Z by rows, with Z = [X, 1].
    moment : pair of ndarray of shape (p + 1, q)
        Z^T Y.
    squares : pair of ndarray of shape (q,)
        Sums of squares of each target, plainly summed within a block.
    gram_rest : float
        Bound on the Frobenius norm of the error of ``gram``, beside what sums of pairs lose.
    moment_rest : ndarray of shape (q,)
        The same for each column of ``moment``.
    longest : (float, int)
        Largest squared norm of a row of X as computed, and the first row that has it.
    digest : bytes
        SHA-256 over the rows and targets, by the same tree.
    """

    level: int
    index: int
    n_records: int
    gram: Pair
    moment: Pair
    squares: Pair
    gram_rest: float
    moment_rest: Array
    longest: tuple[float, int]
    digest: bytes

    @property
    def first(self) -> int:
        """Number of the first block."""
        return self.index << self.level

    @property
    def stop(self) -> int:
        """Number of the block after the last."""
        return (self.index + 1) << self.level


def _add(total: Array, left: Array, term: Array) -> None:
    """Add ``term`` to ``total`` in place, and to ``left`` what the addition lost (Knuth: exact)."""
    summed = total + term
    other = summed - total
    left += total - (summed - other)
    left += term - other
    total[...] = summed


def _pair_sum(one: Pair, two: Pair) -> Pair:
    total, left = one[0].copy(), one[1] + two[1]
    _add(total, left, two[0])
    return total, left


def _length(values: Array) -> float:
    """Return a bound on the Frobenius norm."""
    return math.sqrt(float(np.einsum("ij,ij->", values, values)) + values.size * TINY) * MARGIN


def _lengths(values: Array) -> Array:
    """Return bounds on the norms of the columns."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->j", values, values) + len(values) * TINY) * MARGIN)


def _upper(size: int) -> NDArray[np.bool_]:
    return np.tri(size, dtype=bool).T


def unpacked(packed: Array, size: int) -> Array:
    """Return the symmetric matrix of an upper triangle."""
    result, upper = np.zeros((size, size)), _upper(size)
    result[upper] = packed
    result.T[upper] = packed
    return result


def _additions(rows: int) -> int:
    """Return a bound on how many additions anything in a block of this many rows goes through on its way to the end."""
    return -(-rows // _SUBROWS) + 2 * MOST_LEVELS + 4


@np.errstate(under="ignore", over="ignore", invalid="ignore")
def formed(
    index: int, X: NDArray[np.floating], targets: NDArray[np.generic], *, start: int, n_classes: int
) -> BlockSums:
    """Return the sums of one block.

    Parameters
    ----------
    index : int
        Number of the block.
    X : ndarray of shape (m, p), float32 or float64
        Its rows.
    targets : ndarray of shape (m, q), float64, or (m,), int64
        Targets, or the number of the class of each row.
    start : int
        Number of its first row in the table.
    n_classes : int
        Number of classes; 0 where targets are given as they are.

    Raises
    ------
    ValueError
        Naming the first row that is not finite, or saying that squares overflow.
    """
    rows, p = X.shape
    q = n_classes or targets.shape[1]
    z, steps = p + 1, _additions(rows)
    total, left, across = np.zeros((z, z)), np.zeros((z, z)), np.zeros((z, z))
    moment, moment_left, moment_across = np.zeros((z, q)), np.zeros((z, q)), np.zeros((z, q))
    squares, moment_rest, gram_rest, longest = np.zeros(q), np.zeros(q), 0.0, (-1.0, start)
    for begin in range(0, rows, _SUBROWS):
        part = np.empty((min(_SUBROWS, rows - begin), z))
        given = np.ascontiguousarray(X[begin : begin + len(part)], dtype="<f8")
        part[:, :p], part[:, p] = given, 1.0
        lengths = np.einsum("ij,ij->i", given, given)
        if not np.isfinite(lengths).all():
            _refuse("X", given, start + begin)
        at = int(np.argmax(lengths))
        if lengths[at] > longest[0]:
            longest = float(lengths[at]), start + begin + at
        wanted = np.ascontiguousarray(targets[begin : begin + len(part)])
        if n_classes:
            codes, wanted = wanted, np.zeros((len(part), q))
            wanted[np.arange(len(part)), codes] = 1.0
        squares += np.einsum("ij,ij->j", wanted, wanted)
        if not np.isfinite(squares).all():
            _refuse("y", wanted, start + begin)
        bits, sums = split_bits(len(part)), sum_error(len(part) + steps) + 2.0 * UNIT
        (high, low), (wanted_high, wanted_low) = split(part, 0, bits), split(wanted, 0, bits)
        size, small = _length(high), _length(low)
        gram_rest += 2.0 * sums * (size + small) * small
        # high^T high: every product and every sum of them is a multiple of one unit of at most 53 bits.
        _add(total, left, high.T @ high)
        _add(moment, moment_left, high.T @ wanted_high)
        if wanted_low.any():
            moment_across += high.T @ wanted_low
            moment_rest += sums * size * _lengths(wanted_low)
        moment_across += low.T @ wanted
        moment_rest += sums * small * _lengths(wanted)
        high += 0.5 * low
        across += high.T @ low
    if not (np.isfinite(total * _SQUARES).all() and np.isfinite(moment * _SQUARES).all()):
        name = "X" if not np.isfinite(total * _SQUARES).all() else "y"
        raise ValueError(
            f"{name} must have squares and products within the range of float64, got values that overflow in rows "
            f"{start} to {start + rows - 1}: divide by a constant"
        )
    left += across + across.T
    moment_left += moment_across
    upper = _upper(z)
    return BlockSums(
        0,
        index,
        rows,
        (total[upper], left[upper]),
        (moment, moment_left),
        (squares, np.zeros(q)),
        MARGIN * gram_rest,  # at least the constant column times the least `_length`: far above what underflow costs
        MARGIN * moment_rest + 4.0 * float(rows) * z * TINY,
        longest,
        block_digest(X, targets, start=start, n_classes=n_classes),
    )


def _refuse(name: str, values: Array, start: int) -> None:
    """Raise for the first row that is not finite, or else for the overflow of a square."""
    good = np.isfinite(values).all(axis=1)
    if not good.all():
        at = int(np.argmin(good))
        column = int(np.argmin(np.isfinite(values[at])))
        raise ValueError(f"{name} must be finite, got {values[at, column]} in row {start + at}, column {column}")
    at = int(np.argmax(np.abs(values).max(axis=1)))
    raise ValueError(
        f"{name} must have squares within the range of float64, got {np.abs(values[at]).max():.3g} in row "
        f"{start + at}: divide by a constant"
    )


@np.errstate(over="ignore", invalid="ignore")
def _both(one: BlockSums, two: BlockSums, *, level: int, index: int) -> BlockSums:
    """Return the sums of two neighbours, the first of which comes first."""
    return BlockSums(
        level,
        index,
        one.n_records + two.n_records,
        _pair_sum(one.gram, two.gram),
        _pair_sum(one.moment, two.moment),
        _pair_sum(one.squares, two.squares),
        one.gram_rest + two.gram_rest,
        one.moment_rest + two.moment_rest,
        max(one.longest, two.longest, key=lambda found: (found[0], -found[1])),
        digest_of_both(one.digest, two.digest),
    )


def joined(nodes: Iterable[BlockSums]) -> tuple[BlockSums, ...]:
    """Return nodes in the order of their blocks, with siblings in the tree replaced by their parent, time and again.

    What is left is the fewest nodes that hold these blocks: it depends on the blocks alone.
    """
    stack: list[BlockSums] = []
    for node in sorted(nodes, key=lambda node: node.first):
        stack.append(node)
        while len(stack) > 1 and _siblings(stack[-2], stack[-1]):
            two, one = stack.pop(), stack.pop()
            stack.append(_both(one, two, level=one.level + 1, index=one.index >> 1))
    return tuple(stack)


def _siblings(one: BlockSums, two: BlockSums) -> bool:
    return one.level == two.level and one.index + 1 == two.index and one.index % 2 == 0


def folded(nodes: Iterable[BlockSums]) -> BlockSums:
    """Return the sums over all nodes, which hold the blocks from 0 on: smaller nodes, which come last, first."""
    *others, result = nodes
    for node in reversed(others):
        result = _both(node, result, level=MOST_LEVELS, index=0)
    return result


def sums_lost(rows: int) -> float:
    """Return a bound on the rounding of the second numbers of pairs, relative to the sizes that are summed.

    What additions leave is at most one rounding of each partial sum, of which anything goes through `_additions`; the
    sum of that is rounded as often again. Partial sums of a level of the tree are together no larger than the trace
    (of a Gram matrix), or than the product of the norms (by Cauchy and Schwarz).
    """
    return 2.0 * MARGIN * (_additions(rows) * UNIT) ** 2
