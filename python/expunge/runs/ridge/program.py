"""Langevin ridge runs as the program that ran: its distance from the run of the theorem, and noise that covers it.

`expunge.runs.ridge.chain` makes the steps. docs/guarantees.md has the theorem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import JsonObject
from expunge.data.close_products import MARGIN, TINY, UNIT, norm, split_bits, sum_error
from expunge.data.exact_products import relative_error
from expunge.runs.exact_noise import MOST_CELLS, grid_exponent
from expunge.runs.ridge.law import Phase

__all__ = ["LARGEST_PRODUCT", "Program", "error_bound", "largest_bound", "release_noise", "step_error"]

Array = NDArray[np.float64]

LARGEST_PRODUCT = 2.0 * (1.0 - 1e-9)  # of the step size and the largest eigenvalue of H: no error grows then
_FINER = 4  # binary digits of the release's noise below the largest of the steps'
_FAILS = 2.0**-80  # how often a run may leave the region in which its rounding is bounded
_NORMAL = 2.0**-97  # error of a pair that stands for a normal
_SQUARINGS = 4
_SHORT = 2.0**-900  # parameters count as this long at least, beside which underflow is nothing
_NEAR = 1.0 + 1e-9  # for functions that round differently elsewhere


def release_noise(phases: Sequence[Phase]) -> float:
    """Return the noise of a release: the power of two between a 32nd and a 16th of the largest noise of a step.

    Raises
    ------
    ValueError
        If no phase had noise.

    Examples
    --------
    >>> release_noise([Phase(300, 0.01), Phase(30, 0.05)])
    0.001953125
    """
    largest = max((phase.noise_std for phase in phases), default=0.0)
    if not largest > 0:
        raise ValueError("phases must have noise for a release that is private as a program, got none")
    return 2.0 ** (math.frexp(largest)[1] - 1 - _FINER)


def largest_bound(matrix: Array) -> float:
    """Return a proved bound on the largest eigenvalue of a symmetric matrix, at most p^(1/32) times it, and a little.

    The norm of the 16th power is at least the 16th power of the eigenvalue. ``matrix`` may be rounded once.

    Examples
    --------
    >>> 3.0 <= largest_bound(np.diag([3.0, 1.0])) <= 3.1
    True
    """
    size = norm(matrix)
    if size == 0.0:
        return 0.0
    each = sum_error(len(matrix))
    power, off = matrix / size, 4.0 * UNIT
    for _ in range(_SQUARINGS):
        length = norm(power)
        power = power @ power
        off = MARGIN * (2.0 * off * length + off * off + each * length * length) + TINY * len(matrix) ** 2
    return MARGIN * size * float((norm(power) + off) ** (0.5**_SQUARINGS))


def error_bound(
    phases: Sequence[Phase], *, step_size: float, alpha: float, n: int, p: int, q: int, targets: float
) -> float:
    """Return a bound on how far a program's parameters, as released, are from the theorem's, with the same normals.

    Parameters
    ----------
    phases : sequence of Phase
        Steps and noise, from theta = 0; whatever rows each leaves out.
    step_size, alpha : float
        eta and the L2 penalty, with ``eta (L + alpha) <= 2`` for the largest eigenvalue L of X^T X of all rows.
    n, p, q : int
        Largest number of rows, columns and outputs.
    targets : float
        Bound on the Frobenius norm of the targets of all rows.

    Returns
    -------
    float
        In the Frobenius norm, for every data set of at most these sizes; exceeded with a probability of at most 2^-80.

    Raises
    ------
    ValueError
        If there are so many columns, or so large parameters, that nothing is bounded.

    Notes
    -----
    ``|I - eta H| <= 1`` carries the error of a step along and never makes it larger, and eta tr H <= 2 p. The mean is
    within ``|Y| / sqrt(alpha)`` for each phase: the optimum is no longer than half of that, and a step moves every
    component towards it, or beyond it by no more than it was away. The noise's norm is at most
    ``sqrt(pq) + sqrt(2 log(1/beta))`` times the root of its variances but for a chance beta (Gaussian concentration).

    Examples
    --------
    >>> error = error_bound([Phase(330, 0.05)], step_size=1e-4, alpha=1.0, n=8000, p=256, q=10, targets=128.0)
    >>> error < 1e-13
    True
    """
    run: dict[str, Any] = {"step_size": step_size, "alpha": alpha, "n": n, "p": p, "q": q, "targets": targets}
    each, size = step_error(phases, **run)
    steps = sum(phase.n_steps for phase in phases)
    result = float(MARGIN * (steps * each + _rounded(phases) * math.sqrt(p * q)))
    if not result <= 0.01 * size < math.inf:
        raise ValueError(f"the run must be bounded by float64 to be private as a program, got an error of {result!r}")
    return result


def _rounded(phases: Sequence[Phase]) -> float:
    """Return what `expunge.runs.exact_noise.with_exact_noise` may take a parameter for, less the parameter."""
    if not any(phase.noise_std > 0.0 for phase in phases):
        return 0.0  # no release yet
    return UNIT * 2.0 ** grid_exponent(release_noise(phases)) + 2.0 * TINY


def step_error(
    phases: Sequence[Phase], *, step_size: float, alpha: float, n: int, p: int, q: int, targets: float
) -> tuple[float, float]:
    """Return bounds on what a step adds to the error, and on the norm of the parameters.

    Raises
    ------
    ValueError
        If there are so many columns that nothing is bounded.
    """
    steps = sum(phase.n_steps for phase in phases)
    bits = split_bits(p)
    if not p * 2.0**-bits <= 0.1:
        raise ValueError(f"design must have fewer columns for its program to be bounded, got {p}")
    tail = math.sqrt(2.0 * (-math.log(_FAILS) + math.log(2.0 * max(steps, 1))))
    radius = math.sqrt(p * q) + tail
    loudest = max((phase.noise_std for phase in phases), default=0.0)
    # Squares of the noise itself may underflow.
    shares = (phase.n_steps * (phase.noise_std / loudest) ** 2 for phase in phases if phase.noise_std > 0.0)
    spread = loudest * math.sqrt(sum(shares))
    size = max(1.01 * (len(phases) * targets / math.sqrt(alpha) + spread * radius), _SHORT)

    push, square = math.sqrt(2.0 * step_size) * targets, UNIT * UNIT
    entries = relative_error(n, p)
    third = math.sqrt(p) * 4.0**-bits + 2.0 * UNIT
    sums = 1.5 * size + push + 1.01 * loudest * radius
    plain = 2.2 * math.sqrt(p) * third * size  # norm of what is rounded
    each = (sum_error(p) + 8.0 * UNIT) * plain + 9.0 * UNIT * (8.0 * UNIT * sums + plain)
    each += ((entries + 4.0 * square) * 2.0 * p + 24.0 * square * math.sqrt(p)) * size
    each += (entries * math.sqrt(p) + 8.0 * square) * push
    each += loudest * (_NORMAL * math.sqrt(p * q) + 6.0 * square * radius)
    # Products may lose a smallest normal number each, which is multiplied by no more than this.
    each += 64.0 * TINY * (n + p) * p * (1.0 + q) * (1.0 + step_size) * (1.0 + size + targets)
    return float(MARGIN * each), float(size)


@dataclass(frozen=True)
class Program:
    """Noise, grid and bounds that make the release of a run private as the program that ran.

    A release is R(theta + s Z): theta what the program computed, s the noise, Z exact normals, R the rounding to the
    grid. Its law is within ``distance`` of that of the theorem's run with the same noise and rounding.

    Attributes
    ----------
    release_noise : float
        s, a power of two that follows from the noise of the phases.
    grid : float
        Power of two that released parameters are multiples of.
    targets : float
        Bound on the norm of the targets, a power of two.
    error : float
        Bound on the distance of the program's parameters from those of the theorem, but for a chance of 2^-80.
    distance : float
        Bound on the total variation between the laws of the releases, that chance included.
    """

    release_noise: float
    grid: float
    targets: float
    error: float
    distance: float

    @classmethod
    def of(
        cls, phases: Sequence[Phase], *, step_size: float, alpha: float, n: int, p: int, q: int, targets: float
    ) -> Program:
        """Return what follows from a run and a bound on its targets; see `error_bound`.

        Raises
        ------
        ValueError
            If no phase had noise, or nothing is bounded.

        Examples
        --------
        >>> phases = [Phase(300, 0.01), Phase(30, 0.05)]
        >>> program = Program.of(phases, step_size=1e-4, alpha=1.0, n=8000, p=256, q=10, targets=128.0)
        >>> f"{program.distance:.1e}"
        '1.9e-15'
        """
        noise = release_noise(phases)
        run: dict[str, Any] = {"step_size": step_size, "alpha": alpha, "n": n, "p": p, "q": q, "targets": targets}
        error = _NEAR * error_bound(phases, **run)
        return cls(noise, 2.0 ** grid_exponent(noise), targets, error, _distance(error, noise))

    def share(self, *, epsilon: float) -> float:
        """Return what the program's rounding adds to each delta at ``epsilon``: (1 + e^epsilon) ``distance``."""
        return MARGIN * (1.0 + math.exp(min(epsilon, 700.0))) * self.distance

    def failure(self, needed: Program) -> str | None:
        """Return how this record contradicts what follows from the run and the data, or None if it does not.

        Larger bounds than needed do not.
        """
        for name in ("release_noise", "grid"):
            if getattr(self, name) != getattr(needed, name):
                return f"{name} must be {getattr(needed, name)!r}, as the phases say, got {getattr(self, name)!r}"
        if not self.distance >= _distance(self.error, self.release_noise) / _NEAR**2:
            return f"distance must be what an error of {self.error!r} makes of it, got {self.distance!r}"
        for name in ("targets", "error", "distance"):
            least = getattr(needed, name) / _NEAR
            if not getattr(self, name) >= least:
                return f"{name} must be at least {least!r}, got {getattr(self, name)!r}"
        return None

    def holds(self, parameters: Array) -> bool:
        """Return whether parameters lie on the grid, near enough to 0 for float64 to have every multiple."""
        with np.errstate(over="ignore"):  # what overflows is too far
            cells = np.ldexp(parameters, 1 - math.frexp(self.grid)[1])
        return bool((np.abs(cells) <= MOST_CELLS).all()) and bool((np.rint(cells) == cells).all())

    def to_dict(self) -> JsonObject:
        """Return the record as JSON values."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @staticmethod
    def bound_on(targets: Array) -> float:
        """Return the power of two next above the Frobenius norm of targets, which says little about any of them."""
        size = norm(targets)
        return 0.0 if size == 0.0 else 2.0 ** math.frexp(size)[1]


def _distance(error: float, noise: float) -> float:
    return _NEAR * (error / (noise * math.sqrt(2.0 * math.pi)) + _FAILS)
