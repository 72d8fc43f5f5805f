"""Shifted interpolation in ball arithmetic: the mu of the last iterate of a run of noisy contractions, enclosed.

mu^2 sums (change of S)^2 / (change of V) over the edges of the greatest convex minorant of the points (V_k, S_k)
[BSA24, arXiv 2403.00278], section 3. Which points are its corners need not be decided where some are nearly on a line:
leaving out points that are proved to be no corners leaves all corners, and more edges never sum to less (Cauchy and
Schwarz); and a chain through some of the points that is proved to be convex lies on or above the minorant, and of two
convex chains with the same ends the upper one sums to no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from flint import arb
from numpy.typing import ArrayLike

from expunge._validate import real_array
from expunge.proof.balls import ball, sharpened, zero
from expunge.runs.enclosures import Enclosure

__all__ = ["mu_of_steps", "shifted_mu"]

Point = tuple[arb, arb]


def mu_of_steps(sensitivity: Sequence[arb], contraction: Sequence[arb], noise_variance: Sequence[arb]) -> arb:
    """Return a ball that contains the mu of steps, first step first; not finite where a shift outlives all noise.

    A sensitivity, contraction or variance that is 0 must be exactly 0.
    """
    last = len(sensitivity)
    first = next((k for k in reversed(range(last)) if contraction[k].is_zero()), 0)
    shifts: list[arb] = []
    variances: list[arb] = []
    weight = arb(1)
    for k in reversed(range(first, last)):
        shifts.append(weight * sensitivity[k])
        variances.append(weight * weight * noise_variance[k])
        weight = weight * contraction[k]
    points = _points(shifts[::-1], variances[::-1])
    if points is None:
        return arb("inf")
    if points[-1][1].is_zero():
        return zero()
    # Popped only where it is proved that a point is no corner; popped unless it is proved that it is one of this chain.
    most = _energy(_chain(points, lambda turn: bool(turn <= 0)))
    least = _energy(_chain(points, lambda turn: not turn > 0))
    return least.union(most).nonnegative_part().sqrt()


def _points(shifts: Sequence[arb], variances: Sequence[arb]) -> list[Point] | None:
    """Return the points that bound the path, of each variance the first; None where a shift comes after all noise."""
    variance, shift = zero(), zero()
    points = [(variance, shift)]
    late = False
    for s, v in zip(shifts, variances, strict=True):
        shift = shift + s
        if v.is_zero():
            late = late or not s.is_zero()
            continue
        late = False
        variance = variance + v
        points.append((variance, shift))
    if late:
        return None
    return points


def _turn(a: Point, b: Point, c: Point) -> arb:
    """Return something positive where b lies below the chord from a to c, negative where above."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])


def _chain(points: Sequence[Point], drop: Callable[[arb], bool]) -> list[Point]:
    chain: list[Point] = []
    for point in points:
        while len(chain) >= 2 and drop(_turn(chain[-2], chain[-1], point)):
            chain.pop()
        chain.append(point)
    return chain


def _energy(chain: Sequence[Point]) -> arb:
    total = zero()
    for a, b in pairwise(chain):
        rise = b[1] - a[1]
        total += rise * rise / (b[0] - a[0])
    return total


def shifted_mu(sensitivity: ArrayLike, contraction: ArrayLike, noise_std: ArrayLike) -> Enclosure:
    """Return an enclosure of the mu for which the last iterate of two coupled noisy runs is mu-GDP.

    Parameters
    ----------
    sensitivity, contraction, noise_std : array_like of float, shape (steps,)
        As `expunge.accounting.shifted_mu` takes them, for one run; they broadcast, and their exact values count.

    Returns
    -------
    Enclosure
        Infinite where a shift after the last noise remains.

    Examples
    --------
    >>> from expunge import proof
    >>> proof.shifted_mu([1.0, 1.0, 1.0, 1.0], 1.0, 1.0).upper
    2.0
    """
    given = {"sensitivity": sensitivity, "contraction": contraction, "noise_std": noise_std}
    arrays = {name: real_array(name, value, low=0.0) for name, value in given.items()}
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"sensitivity, contraction, noise_std must broadcast together, got {shapes}") from None
    if len(shape) != 1:
        raise ValueError(f"sensitivity, contraction and noise_std must have one axis of steps, got shape {shape}")
    s, c, tau = (np.broadcast_to(array, shape).tolist() for array in arrays.values())

    def compute() -> arb:
        squares = [ball(one) * ball(one) for one in tau]
        return mu_of_steps([ball(one) for one in s], [ball(one) for one in c], squares)

    return sharpened(compute, low=0.0)
