"""Matrix products in float64 whose rounding is that of a sum or two, with proved bounds.

Matrices are split into a high part of so few bits that the products of two high parts are exact, whatever the order of
summation, and a low part, whose products are small and so are their roundings. Bounds are themselves sums of
nonnegative numbers in float64: a factor `MARGIN` makes up for their rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MARGIN",
    "TINY",
    "UNIT",
    "Gram",
    "Moment",
    "columns",
    "gram",
    "moment",
    "norm",
    "product",
    "split",
    "split_bits",
    "sum_error",
]

Array = NDArray[np.float64]
UNIT = 0.5 * float(np.finfo(np.float64).eps)  # of one rounding
MARGIN = 1.0 + 1e-3
TINY = float(np.finfo(np.float64).tiny)  # what a product may lose to underflow, also where subnormals are flushed
_BITS = 53
_NUMBERS = 1 << 16  # in a block of rows, so that the parts of a long matrix take little memory


def sum_error(count: int) -> float:
    """Return the error of a plain sum of ``count`` products, relative to the sum of their sizes."""
    return MARGIN * UNIT * (count + 2.0)


@np.errstate(under="ignore")
def columns(values: Array) -> Array:
    """Return bounds on the norms of the columns, however small their squares are."""
    largest = np.abs(values).max(initial=0.0)
    if not 0.0 < largest < np.inf:
        return np.full(values.shape[1], largest)
    scaled = values / largest
    # What underflows when squared is below 1e-150 of the largest.
    return np.asarray((np.sqrt(np.einsum("ij,ij->j", scaled, scaled)) * MARGIN + 1e-150 * len(values)) * largest)


@np.errstate(under="ignore")
def norm(values: Array) -> float:
    """Return a bound on the Frobenius norm, however small the squares are; NaN and infinity stay."""
    return float(columns(values.reshape(-1, 1))[0])


def split(values: Array, axis: int, bits: int) -> tuple[Array, Array]:
    """Return the multiples of 2^-bits of the power of 2 above the largest along ``axis``, and what is left: exact."""
    _, exponent = np.frexp(np.abs(values).max(axis=axis, keepdims=True, initial=0.0))
    anchor = np.ldexp(1.5, np.asarray(exponent) + (_BITS - 1 - bits))
    high = values + anchor
    high -= anchor
    return high, values - high


def split_bits(count: int) -> int:
    """Return how many bits a high part may have so that sums of ``count`` products of two are exact."""
    return (_BITS - max(count - 1, 1).bit_length()) // 2


@np.errstate(under="ignore")
def product(left: Array, right: Array) -> tuple[Array, float]:
    """Return a product and a bound on the norm of each column of its error, beside one rounding of the result."""
    count = left.shape[1]
    bits = split_bits(count)
    (high, low), (right_high, right_low) = split(left, 1, bits), split(right, 0, bits)
    result = high @ right_high + (high @ right_low + low @ right)
    small = norm(high) * float(columns(right_low).max(initial=0.0)) + norm(low) * float(columns(right).max(initial=0.0))
    lost = 4.0 * count * math.sqrt(len(left)) * TINY
    return result, (sum_error(count) + 2.0 * UNIT) * small + lost


class Gram(NamedTuple):
    """X^T X with bounds on its error.

    Attributes
    ----------
    value : ndarray
        As computed.
    roundings : float
        Of the sums: the error is at most ``roundings * norm(value) + rest`` in the Frobenius norm, and so it is column
        by column.
    rest : float
        Bound on the low parts' own rounding.
    """

    value: Array
    roundings: float
    rest: float

    @property
    def off(self) -> float:
        """Bound on the Frobenius norm of the error."""
        return self.roundings * norm(self.value) + self.rest


@np.errstate(under="ignore")
def gram(rows: Array, *, block: int | None = None) -> Gram:
    """Return rows^T rows. Products of high parts are exact, and so are their sums with what each addition leaves."""
    count, p = rows.shape
    size = min(max(_NUMBERS // max(p, 1), 64) if block is None else block, max(count, 1))
    blocks = -(-count // size)
    total, left, across, rest = np.zeros((p, p)), np.zeros((p, p)), np.zeros((p, p)), 0.0
    for start in range(0, count, size):
        part = rows[start : start + size]
        high, low = split(part, 0, split_bits(len(part)))
        rest += 2.0 * (sum_error(len(part) + blocks) + 2.0 * UNIT) * (norm(high) + norm(low)) * norm(low)
        exact = high.T @ high
        high += 0.5 * low
        across += high.T @ low
        summed = total + exact
        other = summed - total
        left += (total - (summed - other)) + (exact - other)
        total = summed
    rest += 4.0 * float(rows.size) * p * TINY
    # One rounding of the last sum; those of what was left are small again.
    return Gram(total + (left + (across + across.T)), MARGIN * UNIT * (1.0 + 4.0 * UNIT * blocks * blocks), rest)


class Moment(NamedTuple):
    """X^T Y with its error.

    Attributes
    ----------
    value : ndarray of shape (p, q), float64
        As computed.
    rest : ndarray of shape (q,), float64
        Bounds on the norms of the errors of its columns, beside the rounding of the result.
    """

    value: Array
    rest: Array

    @property
    def off(self) -> Array:
        """Bounds on the norms of the errors of the columns, shape (q,)."""
        return MARGIN * (UNIT * columns(self.value) + self.rest)


@np.errstate(under="ignore")
def moment(rows: Array, targets: Array, *, block: int | None = None) -> Moment:
    """Return rows^T targets, formed as `gram` forms rows^T rows."""
    (count, p), q = rows.shape, targets.shape[1]
    size = min(max(_NUMBERS // max(p, 1), 64) if block is None else block, max(count, 1))
    blocks = -(-count // size)
    total, left, across, rest = np.zeros((p, q)), np.zeros((p, q)), np.zeros((p, q)), np.zeros(q)
    for start in range(0, count, size):
        part, wanted = rows[start : start + size], targets[start : start + size]
        bits = split_bits(len(part))
        (high, low), (wanted_high, wanted_low) = split(part, 0, bits), split(wanted, 0, bits)
        sums = sum_error(len(part) + blocks) + 2.0 * UNIT
        rest += sums * (norm(high) * columns(wanted_low) + norm(low) * columns(wanted))
        across += high.T @ wanted_low + low.T @ wanted
        exact = high.T @ wanted_high
        summed = total + exact
        other = summed - total
        left += (total - (summed - other)) + (exact - other)
        total = summed
    # Partial sums are no larger than the product of the norms (Cauchy and Schwarz).
    rest += 4.0 * (UNIT * (blocks + 1.0)) ** 2 * norm(rows) * columns(targets) + 4.0 * count * p * TINY
    return Moment(total + (left + across), MARGIN * rest)
