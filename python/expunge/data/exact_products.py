"""X^T X and X^T Y as unevaluated sums of two float64, with a bound on their error that no data enter.

Columns are split into three parts of so few bits that the products of the first two are exact in whatever order they
are summed; only products with the third, some 2^-44 of the first, are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import UNIT, split, split_bits, sum_error

__all__ = ["Pair", "exact_gram", "exact_moment", "relative_error", "thirds", "two_product", "two_sum"]

Array = NDArray[np.float64]
_NUMBERS, _LEAST = 1 << 16, 512  # numbers in a block of rows, for its parts to take little memory, and its rows
_SPLITTER = 2.0**27 + 1.0


class Pair(NamedTuple):
    """A number for each entry as an unevaluated sum: ``hi`` is the float64 nearest to it."""

    hi: Array
    lo: Array


def two_sum(a: Array, b: Array) -> Pair:
    """Return a + b, without an error (D. Knuth, *The Art of Computer Programming* 2, 4.2.2)."""
    total = a + b
    other = total - a
    return Pair(total, (a - (total - other)) + (b - other))


def two_product(factor: float, values: Array) -> Pair:
    """Return factor times values, without an error but for underflow (T. Dekker, *Numer. Math.* 18, 1971).

    Both must be below 2^995, so that neither is lost when it is split.
    """
    result = factor * values
    wide = _SPLITTER * factor
    high = wide - (wide - factor)
    low = factor - high
    wides = _SPLITTER * values
    highs = wides - (wides - values)
    lows = values - highs
    return Pair(result, low * lows - (((result - high * highs) - low * highs) - high * lows))


def thirds(values: Array, axis: int, bits: int) -> tuple[Array, Array, Array]:
    """Return three parts whose sum is ``values``, exactly: the first two of ``bits`` bits, the third what is left.

    Entries of the third are at most 4^-bits of the largest along ``axis``.
    """
    high, rest = split(values, axis, bits)
    middle, low = split(rest, axis, bits)
    return high, middle, low


class _Sum:
    """A sum of matrices: what every addition leaves is summed up beside it."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.total, self.left = np.zeros(shape), np.zeros(shape)

    def add(self, part: Array) -> None:
        self.total, lost = two_sum(self.total, part)
        self.left += lost

    def pair(self, rest: Array) -> Pair:
        return two_sum(self.total, self.left + rest)


def _block(p: int) -> int:
    return max(_NUMBERS // max(p, 1), _LEAST)


def _blocks(n: int, p: int) -> Iterator[slice]:
    """Yield the rows of each block."""
    from tqdm.auto import tqdm  # runs are read and checked without progress bars

    size = _block(p)
    for start in tqdm(range(0, n, size), desc="products", unit="block", delay=1, disable=None, leave=False):
        yield slice(start, start + size)


@np.errstate(under="ignore")
def exact_gram(rows: Array) -> Pair:
    """Return rows^T rows (p, p) with an error of at most `relative_error` times the squared norm of ``rows``.

    Parameters
    ----------
    rows : ndarray of shape (n, p), float64

    Examples
    --------
    >>> hi, lo = exact_gram(np.array([[1.0], [2.0**-40]]))
    >>> hi.item(), lo.item() == 2.0**-80
    (1.0, True)
    """
    n, p = rows.shape
    result, across = _Sum((p, p)), np.zeros((p, p))
    for block in _blocks(n, p):
        part = rows[block]
        high, middle, low = thirds(part, 0, split_bits(len(part)))
        result.add(high.T @ high)
        if middle.any():
            both = high.T @ middle
            result.add(both)
            result.add(both.T)
            result.add(middle.T @ middle)
        if low.any():
            across += (part - 0.5 * low).T @ low
    return result.pair(across + across.T)


@np.errstate(under="ignore")
def exact_moment(rows: Array, targets: Array) -> Pair:
    """Return rows^T targets (p, q), formed as `exact_gram` forms rows^T rows.

    The norm of the error is at most `relative_error` times the norms of ``rows`` and ``targets``.

    Examples
    --------
    >>> exact_moment(np.array([[1.0], [2.0]]), np.array([[3.0], [0.5]])).hi.item()
    4.0
    """
    (n, p), q = rows.shape, targets.shape[1]
    result, across = _Sum((p, q)), np.zeros((p, q))
    for block in _blocks(n, p):
        part, wanted = rows[block], targets[block]
        bits = split_bits(len(part))
        (high, middle, low), (first, second, third) = thirds(part, 0, bits), thirds(wanted, 0, bits)
        for left in (high, middle):
            for right in (first, second):
                if left.any() and right.any():
                    result.add(left.T @ right)
        if third.any():
            across += part.T @ third
        if low.any():
            across += low.T @ (first + second)
    return result.pair(across)


def relative_error(n: int, p: int) -> float:
    """Return a bound on the errors of `exact_gram` and `exact_moment`, in Frobenius norms: grows with n.

    Of ``exact_gram(X)`` relative to ``|X|^2``, of ``exact_moment(X, Y)`` to ``|X| |Y|``. Products below the smallest
    normal number may be lost besides, ``16 n TINY`` an entry.

    Parameters
    ----------
    n, p : int
        Largest number of rows, and number of columns.

    Notes
    -----
    With m rows in a block and B blocks, an entry of the third parts is at most 4^-bits of the largest in its column and
    block: their norm is at most sqrt(m) 4^-bits of that of the columns, and by Cauchy and Schwarz so are the sums that
    are rounded. At most N = 4 B + 2 exact products are added to sums no larger than 1.1 |x_i| |x_j|; what is left of
    these additions is at most N roundings, and their own sum N^2 squared roundings.

    Examples
    --------
    >>> relative_error(8000, 256) < 1e-23
    True
    """
    size = min(_block(p), max(n, 1))
    blocks = -(-max(n, 1) // size)
    third = math.sqrt(size) * 4.0 ** -split_bits(size)
    added = 4.0 * blocks + 2.0
    plain = 2.0 * (sum_error(size + 2 * blocks + 8) + 6.0 * UNIT) * third
    return 1.25 * (UNIT * UNIT * (added * added + 4.0 * added) + plain)
