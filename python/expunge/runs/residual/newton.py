"""Parameters whose gradient is provably small: chord steps with any older inverse, Newton steps where these stall."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.runs.residual.gradients import GradientSums
from expunge.runs.residual.inverse import InverseHessian
from expunge.runs.residual.objective import Objective

__all__ = ["NoiseFloorError", "Polished", "StalledError", "polish"]

Float64 = NDArray[np.float64]

_ENOUGH = 3.0  # a step that divides the gradient by less asks for a new inverse
_MOST_PASSES = 500
_SHORTEST = 2.0**-40  # of a Newton step


class NoiseFloorError(ValueError):
    """Rounding alone exceeds the wanted bound: no float64 parameters can be certified with so little noise.

    Attributes
    ----------
    floor : float
        About the smallest bound that these data allow.
    """

    def __init__(self, message: str, *, floor: float) -> None:
        super().__init__(message)
        self.floor = floor


class StalledError(RuntimeError):
    """The gradient did not become small enough; no parameters are returned and nothing is certified.

    Attributes
    ----------
    rows : tuple of int
        Records with the largest share of the gradient, as positions.
    """

    def __init__(self, message: str, *, rows: tuple[int, ...]) -> None:
        super().__init__(message)
        self.rows = rows


@dataclass(frozen=True, eq=False)
class Polished:
    """Parameters with a proved bound on their gradient, and the work they took.

    Attributes
    ----------
    theta, gradient : ndarray of float64, shape (q, p)
        The parameters, to be kept private, and the gradient there as computed.
    bound : float
        At least the norm of the exact gradient at theta.
    passes : int
        Passes over the data that computed a gradient; the last proved the bound.
    refreshes : int
        Times that the inverse Hessian was computed anew.
    inverse : InverseHessian
        As it stands at the end.
    """

    theta: Float64
    gradient: Float64
    bound: float
    passes: int
    refreshes: int
    inverse: InverseHessian


def polish(objective: Objective, start: Float64, *, target: float, inverse: InverseHessian | None = None) -> Polished:
    """Return parameters at which the norm of the objective's gradient is at most ``target``.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    start : ndarray of float64, shape (q, p)
        Any finite parameters.
    target : float
        Wanted bound on the norm, > 0: ``alpha noise_std mu`` for a release.
    inverse : InverseHessian, optional
        Any one, of other records and other parameters; a bad one costs time only. Computed at ``start`` if omitted.

    Returns
    -------
    Polished
        With ``bound <= target``.

    Raises
    ------
    NoiseFloorError
        If rounding errors alone exceed the target.
    StalledError
        If 500 passes are not enough, or no step makes progress.
    ValueError
        If ``start`` or the bound on the gradient there is not finite, the target is not above 0, or alpha is too small
        for an inverse.

    Notes
    -----
    A chord step is ``theta - P g`` with the inverse P at hand; if it divides ``|g|`` by less than 3, P is computed
    anew; a step with a fresh P that does not is a Newton step whose length is halved until the slope along it is no
    longer positive. The bound is that of `GradientSums.norm_bound`: nothing is assumed about P or the path.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.runs.residual import Objective, Rows, blocks_of, polish
    >>> rows = Rows(np.array([[1.0], [-1.0]]), labels=np.array([1, 1]))
    >>> found = polish(Objective(blocks_of(rows), "logistic", 1, 1, 1.0), np.zeros((1, 1)), target=1e-9)
    >>> found.theta.tolist(), found.bound <= 1e-9
    ([[0.0]], True)
    """
    if not target > 0.0:
        raise ValueError(f"target must be above 0, got {target!r}")
    if not np.isfinite(start).all():
        raise ValueError("start must be finite, got NaN or infinity")
    point = _Point.at(objective, np.array(start, dtype=np.float64))
    if not math.isfinite(point.bound):  # also where only what bounds the rounding overflows
        raise _beyond_float64(objective)
    passes, refreshes, fresh = 1, 0, False
    while not point.bound <= target:
        _refuse_floor(objective, point, target)
        if passes >= _MOST_PASSES:
            raise _stalled(objective, point, target, passes)
        if inverse is None:
            inverse, refreshes, fresh = InverseHessian.of(objective, point.theta), refreshes + 1, True
        step = inverse.step(point.gradient)
        trial = _Point.at(objective, point.theta - step)
        passes += 1
        if trial.bound <= target or _ENOUGH * trial.norm <= point.norm:  # NaN fails both
            point, fresh = trial, False
            continue
        if not fresh:
            # The better of the two points is where the new inverse is taken.
            point = trial if trial.norm < point.norm else point
            inverse = None
            continue
        length = 1.0
        while not trial.slope(step) >= 0.0 and not _ENOUGH * trial.norm <= point.norm:
            # The slope of the objective along -step is -<gradient, step>: negative while it still falls.
            length *= 0.5
            if length < _SHORTEST or passes >= _MOST_PASSES:
                raise _stalled(objective, point, target, passes)
            trial = _Point.at(objective, point.theta - length * step)
            passes += 1
        if not trial.norm < math.inf or (trial.theta == point.theta).all():
            raise _stalled(objective, point, target, passes)
        point, inverse = trial, None
    if inverse is None:
        inverse, refreshes = InverseHessian.of(objective, point.theta), refreshes + 1
    return Polished(point.theta, point.gradient, point.bound, passes, refreshes, inverse)


@dataclass(frozen=True, eq=False)
class _Point:
    """Parameters and their gradient."""

    theta: Float64
    gradient: Float64
    norm: float
    bound: float
    sums: GradientSums

    @classmethod
    def at(cls, objective: Objective, theta: Float64) -> _Point:
        if not np.isfinite(theta).all():
            gradient = np.full_like(theta, np.nan)
            return cls(theta, gradient, math.inf, math.inf, GradientSums(gradient, 0.0, 0.0, 0.0, None, 0, 0))
        sums = objective.sums(theta)
        gradient = objective.gradient(theta, sums)
        return cls(theta, gradient, _length(gradient), sums.norm_bound(theta, alpha=objective.alpha), sums)

    def slope(self, step: Float64) -> float:
        """Return a number with the sign of the product of gradient and step, NaN where one is not finite."""
        return float(np.vdot(_direction(self.gradient), _direction(step)))


def _direction(values: Float64) -> Float64:
    """Return values divided by the largest, so that products of the faintest do not vanish and none overflows."""
    largest = float(np.abs(values).max(initial=0.0))
    if not largest < math.inf:
        return np.full_like(values, np.nan)
    return values / largest if largest > 0.0 else values


def _length(values: Float64) -> float:
    """Return the norm, also where squares vanish or overflow."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.linalg.norm(_direction(values))) if 0.0 < largest < math.inf else largest


def _refuse_floor(objective: Objective, point: _Point, target: float) -> None:
    """Refuse where what the bound adds for rounding exceeds the target, so that no smaller gradient would help."""
    floor = point.bound - point.norm
    if not math.isfinite(floor):
        raise _beyond_float64(objective)
    if floor >= target and point.norm <= floor:
        raise NoiseFloorError(
            f"rounding alone bounds the gradient of these data by {floor:.3g} only, and {target:.3g} is needed",
            floor=floor,
        )


def _beyond_float64(objective: Objective) -> ValueError:
    return ValueError(
        "the gradient is not finite, or too large for a bound in float64: scale the "
        f"{objective.numbers} by a constant, or give smaller weights"
    )


def _stalled(objective: Objective, point: _Point, target: float, passes: int) -> StalledError:
    residuals = np.empty((len(objective), objective.n_outputs))
    with np.errstate(over="ignore", invalid="ignore"):
        objective.sums(point.theta, residuals=residuals)
        norms = np.concatenate([np.linalg.norm(block.X, axis=1) for block in objective.blocks])
        shares = norms * np.linalg.norm(residuals, axis=1)
    largest = tuple(int(row) for row in np.argsort(-shares, kind="stable")[:5])
    return StalledError(
        f"the norm of the gradient is {point.norm:.3g} after {passes} passes over the data, {target:.3g} is needed; "
        f"the records at positions {', '.join(map(str, largest))} have the largest share of it, with features of norm "
        f"{norms.max():.3g}: scale the {objective.numbers} by a constant so that norms are about 1, or give a larger "
        "alpha or noise_std",
        rows=largest,
    )
