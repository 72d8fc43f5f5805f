"""Balls: working precision, numbers into ball arithmetic, and out of it with every end rounded outward.

A ball of Arb (`flint.arb`) is a midpoint and a radius that provably contain the true value; every operation on balls
yields a ball that contains the result for every choice of values within the arguments.
"""

from __future__ import annotations

import decimal
import importlib.metadata
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import flint
from flint import acb, arb, ctx

from expunge.runs.enclosures import Enclosure

__all__ = [
    "LEAST_BITS",
    "MOST_BITS",
    "ball",
    "certain",
    "decimal_ends",
    "enclosure",
    "float_ends",
    "infinite",
    "precision",
    "relative_bits",
    "sharpened",
    "upper_size",
    "versions",
    "zero",
]

LEAST_BITS, MOST_BITS = 128, 8192
# Bits that an enclosure of a single number has, unless precision runs out.
_WANTED = 70
_DIGITS = 30
# The precision of FLINT is one for the whole process.
_LOCK = threading.RLock()


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Work with ``bits`` bits; other threads wait, and the precision before comes back."""
    with _LOCK:
        before = ctx.prec
        ctx.prec = bits
        try:
            yield
        finally:
            ctx.prec = before


def versions() -> dict[str, str]:
    """Return the versions of python-flint and FLINT."""
    return {"python-flint": importlib.metadata.version("python-flint"), "FLINT": str(flint.__FLINT_VERSION__)}


def ball(value: float) -> arb:
    """Return the exact value of a float or an integer."""
    return arb(value)


def zero() -> arb:
    """Return 0."""
    return arb(0)


def certain(condition: object) -> bool:
    """Return whether a comparison of balls holds for all their values (comparisons of `arb` say so themselves)."""
    return bool(condition)


def relative_bits(value: arb) -> int:
    """Return how many bits of a ball are known; many for an exact one, none for one that contains 0 and more."""
    if not value.is_finite():
        return -1
    return 10**6 if value.is_exact() else int(value.rel_accuracy_bits())


def infinite(value: arb) -> bool:
    """Return whether a ball is exactly +infinity."""
    return bool(not value.is_finite() and not value.is_nan() and value > 0)


def _parts(end: arb) -> tuple[int, int]:
    """Return integers m, e with the exact value m 2^e."""
    man, exp = end.man_exp()
    return int(man), int(exp)


def _float_of(man: int, exp: int, *, up: bool) -> float:
    """Return the float nearest to m 2^e from above or from below."""
    if man == 0:
        return 0.0
    if man < 0:
        return -_float_of(-man, exp, up=not up)
    top = exp + man.bit_length()
    if top > 1024:
        return math.inf if up else math.nextafter(math.inf, 0.0)
    quantum = max(top - 53, -1074)
    if top < quantum - 1:  # far below the smallest number
        return math.ldexp(1.0, -1074) if up else 0.0
    shift = exp - quantum
    if shift >= 0:
        digits = man << shift
    else:
        digits, rest = man >> -shift, man & ((1 << -shift) - 1)
        digits += 1 if up and rest else 0
    try:
        return math.ldexp(digits, quantum)
    except OverflowError:
        return math.inf  # rounded up beyond the largest number


def float_ends(value: arb) -> tuple[float, float]:
    """Return the ends of a ball as floats, rounded outward; infinite where it is not finite."""
    if not value.is_finite():
        return (math.inf if infinite(value) else -math.inf), math.inf
    return _float_of(*_parts(value.lower()), up=False), _float_of(*_parts(value.upper()), up=True)


def upper_size(value: arb | acb) -> float:
    """Return a float that no element of a ball exceeds in modulus; `float` of a ball rounds subnormal ones down."""
    return float_ends(abs(value))[1]


def _text_of(man: int, exp: int, *, up: bool) -> str:
    """Return m 2^e in decimal, rounded up or down."""
    rounding = decimal.ROUND_CEILING if up else decimal.ROUND_FLOOR
    context = decimal.Context(
        prec=_DIGITS, rounding=rounding, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[decimal.InvalidOperation]
    )
    top = exp + man.bit_length()
    if man and abs(top) > 200_000:  # too far from 1 to be written out: a power of ten beyond it
        outward = up == (man > 0)
        power = math.floor(abs(top) * 0.30103) + 2 if (top > 0) == outward else math.floor(abs(top) * 0.301) - 2
        return f"{'-' if man < 0 else ''}1e{'' if top > 0 else '-'}{power}"
    if exp >= 0:
        return str(context.plus(decimal.Decimal(man << exp)))
    return str(context.divide(decimal.Decimal(man), decimal.Decimal(1 << -exp)))


def decimal_ends(value: arb) -> tuple[str, str]:
    """Return the ends of a ball in decimal, rounded outward to 30 digits."""
    if not value.is_finite():
        return ("inf" if infinite(value) else "-inf"), "inf"
    return _text_of(*_parts(value.lower()), up=False), _text_of(*_parts(value.upper()), up=True)


def enclosure(value: arb, *, low: float = -math.inf, high: float = math.inf) -> Enclosure:
    """Return a ball as an enclosure; ``low`` and ``high`` are known to bound the number."""
    lower, upper = float_ends(value)
    lower_text, upper_text = decimal_ends(value)
    if lower < low:
        lower, lower_text = low, repr(low)
    if upper > high:
        upper, upper_text = high, repr(high)
    return Enclosure(lower, upper, lower_text, upper_text, int(ctx.prec))


def sharpened(
    compute: Callable[[], arb], *, low: float = -math.inf, high: float = math.inf, most: int = MOST_BITS
) -> Enclosure:
    """Return the enclosure of what ``compute`` encloses, with the bits it takes to know 70 of it, or with ``most``."""
    bits = LEAST_BITS
    while True:
        with precision(bits):
            found = compute()
            if infinite(found) or relative_bits(found) >= _WANTED or bits >= most:
                return enclosure(found, low=low, high=high)
        bits *= 2
