"""Roots of monotone functions, enclosed: between two numbers at which the signs are proved."""

from __future__ import annotations

from collections.abc import Callable

from flint import arb, ctx

__all__ = ["enclosed_least", "enclosed_root"]

# Relative width that is tried at once around the secant's guess.
_FINE = 76


def _power(exponent: int) -> arb:
    return arb(2) ** exponent


def enclosed_least(function: Callable[[arb], arb], guess: float) -> arb:
    """Return a ball that contains the least number >= 0 at which a falling function is not above 0.

    Of the whole line where it is not found, as by `enclosed_root`.
    """
    at_zero = function(arb(0))
    if at_zero <= 0:
        return arb(0)
    return enclosed_root(function, guess, increasing=False) if at_zero > 0 else arb(0, "inf")


def enclosed_root(function: Callable[[arb], arb], guess: float, *, increasing: bool) -> arb:
    """Return a ball that contains the root > 0 of a monotone function.

    Parameters
    ----------
    function : callable
        Maps an exact positive number to a ball that contains the value there; strictly monotone.
    guess : float
        Near the root, >= 0.
    increasing : bool
        Whether the function increases.

    Returns
    -------
    arb
        The whole line (not finite) where no bracket is found with the present precision.
    """

    def sign(x: arb) -> int:
        value = function(x)
        found = 1 if value > 0 else -1 if value < 0 else 0
        return found if increasing else -found

    centre = arb(min(max(guess, 1e-300), 1e300))
    width = _power(-46)
    for _ in range(40):
        low = (centre / (1 + width)).mid()
        high = (centre * (1 + width)).mid()
        below, above = sign(low), sign(high)
        if below < 0 < above:
            break
        if below > 0:
            centre = low
        elif above < 0:
            centre = high
        width = width * 16
    else:
        return arb(0, "inf")
    for step in range(3):
        f_low, f_high = function(low).mid(), function(high).mid()
        slope = f_high - f_low
        guess_here = (low - f_low * (high - low) / slope).mid() if not slope.contains(0) else ((low + high) / 2).mid()
        fine = _power(-min(_FINE, int(ctx.prec) - 50) + 12 * step)
        tight_low, tight_high = (guess_here * (1 - fine)).mid(), (guess_here * (1 + fine)).mid()
        if tight_low > low and sign(tight_low) < 0:
            low = tight_low
        if tight_high < high and sign(tight_high) > 0:
            high = tight_high
    for _ in range(60):
        if (high - low) < high * _power(-min(_FINE, int(ctx.prec) - 50)):
            break
        middle = ((low + high) / 2).mid()
        found = sign(middle)
        if found == 0:
            break
        low, high = (middle, high) if found < 0 else (low, middle)
    return low.union(high)
