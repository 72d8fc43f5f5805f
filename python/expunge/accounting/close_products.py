"""Matrix products in float64 whose rounding is that of a sum or two, with proved bounds.

Matrices are split in a high part of so few bits that the products of two high parts are exact, whatever the order of
summation, and a low part, whose products are small and so are their roundings. Bounds are themselves sums of
nonnegative numbers in float64: a factor `MARGIN` makes up for their rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MARGIN", "TINY", "UNIT", "Gram", "columns", "gram", "norm", "product", "sum_error"]

Array = NDArray[np.float64]
UNIT = 0.5 * float(np.finfo(np.float64).eps)  # of one rounding
MARGIN = 1.0 + 1e-3
TINY = float(np.finfo(np.float64).tiny)  # what a product may lose to underflow, also where subnormals are flushed
_BITS = 53
_ROWS = 4096  # of a block, so that the parts of a long matrix take little memory


def sum_error(count: int) -> float:
    """Return the error of a plain sum of ``count`` products, relative to the sum of their sizes."""
    return MARGIN * UNIT * (count + 2.0)


def columns(values: Array) -> Array:
    """Return bounds on the norms of the columns, however small their squares are."""
    largest = np.abs(values).max(initial=0.0)
    if not 0.0 < largest < np.inf:
        return np.full(values.shape[1], largest)
    scaled = values / largest
    # What underflows when squared is below 1e-150 of the largest.
    return np.asarray((np.sqrt(np.einsum("ij,ij->j", scaled, scaled)) * MARGIN + 1e-150 * len(values)) * largest)


def norm(values: Array) -> float:
    """Return a bound on the Frobenius norm, however small the squares are; NaN and infinity stay."""
    return float(columns(values.reshape(-1, 1))[0])


def _split(values: Array, axis: int, bits: int) -> tuple[Array, Array]:
    """Return the multiples of 2^-bits of the power of 2 above the largest along ``axis``, and what is left: exact."""
    _, exponent = np.frexp(np.abs(values).max(axis=axis, keepdims=True, initial=0.0))
    anchor = np.ldexp(1.5, np.asarray(exponent) + (_BITS - 1 - bits))
    high = (values + anchor) - anchor
    return high, values - high


def _bits(count: int) -> int:
    return (_BITS - max(count - 1, 1).bit_length()) // 2


def product(left: Array, right: Array) -> tuple[Array, float]:
    """Return a product and a bound on the norm of each column of its error, beside one rounding of the result."""
    count = left.shape[1]
    bits = _bits(count)
    (high, low), (right_high, right_low) = _split(left, 1, bits), _split(right, 0, bits)
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
        Of the sums: the error is at most ``roundings * norm(value) + rest`` in the Frobenius norm. Where ``X`` has no
        more rows than a block, that holds column by column too.
    rest : float
        What the low parts' own rounding may be.
    """

    value: Array
    roundings: float
    rest: float

    @property
    def off(self) -> float:
        """Bound on the Frobenius norm of the error."""
        return self.roundings * norm(self.value) + self.rest


def gram(rows: Array, *, block: int = _ROWS) -> Gram:
    """Return rows^T rows."""
    total, rest = np.zeros((rows.shape[1], rows.shape[1])), 0.0
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        high, low = _split(part, 0, _bits(len(part)))
        half = high + 0.5 * low
        across = half.T @ low
        total += high.T @ high + (across + across.T)
        rest += 2.0 * (sum_error(len(part)) + 2.0 * UNIT) * norm(half) * norm(low)
        rest += 4.0 * float(part.size) * rows.shape[1] * TINY
    # Each block is added to a sum that only grows (Gram matrices are positive semidefinite).
    return Gram(total, MARGIN * UNIT * (len(rows) // block + 2), rest)
