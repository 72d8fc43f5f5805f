"""The released model of a ridge run: its parameters, and whether they can have come from the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from expunge import _validate
from expunge.runs.base import LEAST_P_VALUE, RunError
from expunge.runs.ridge.eigenvalues import steady_blas
from expunge.runs.ridge.law import LawPair, Phase, RidgeDeletion
from expunge.runs.ridge.program import Program

__all__ = ["ReleaseLaw", "coefficients_of", "p_value"]

# A direction is compared by its standard deviation only where that is this many times the bound on rounding.
_RESOLVED = 64.0
# Standard deviations that a direction without resolved noise may be off besides its rounding.
_NOISE = 40.0


def coefficients_of(model: object, *, fit_intercept: bool, n_features: int, n_outputs: int) -> NDArray[np.float64]:
    """Return the parameters (n_columns, n_outputs) of a fitted linear model, or of an array already in that layout.

    Parameters
    ----------
    model : fitted estimator or array-like
        An estimator has ``coef_`` of shape (n_outputs, n_features), or (n_features,) for one output, and, if
        ``fit_intercept``, ``intercept_``. An array has shape (n_columns, n_outputs), or (n_columns,) for one output.
    fit_intercept : bool
        Whether the last row is the intercept.
    n_features, n_outputs : int
        Shape of the run.

    Returns
    -------
    ndarray of shape (n_columns, n_outputs), float64

    Raises
    ------
    ValueError
        If the shapes do not fit, a value is not finite, or there is an intercept where none was fitted.

    Examples
    --------
    >>> coefficients_of([[1.0], [2.0]], fit_intercept=True, n_features=1, n_outputs=1)
    array([[1.],
           [2.]])
    """
    n_columns = n_features + int(fit_intercept)
    if hasattr(model, "coef_"):
        coefficients = _validate.real_array("model.coef_", model.coef_)
        if coefficients.shape not in ((n_outputs, n_features), (n_features,) if n_outputs == 1 else None):
            raise ValueError(f"model.coef_ must have shape {(n_outputs, n_features)}, got {coefficients.shape}")
        result = coefficients.reshape(n_outputs, n_features).T
        intercept = _validate.real_array("model.intercept_", getattr(model, "intercept_", 0.0)).ravel()
        if not fit_intercept:
            if np.any(intercept != 0):
                raise ValueError("model.intercept_ must be 0, because the run fitted none")
            return np.ascontiguousarray(result)
        if intercept.size != n_outputs:
            raise ValueError(f"model.intercept_ must have {n_outputs} entries, got {intercept.size}")
        return np.vstack([result, intercept[np.newaxis, :]])
    array = _validate.real_array("model", model)
    if array.ndim == 1 and n_outputs == 1:
        array = array[:, np.newaxis]
    if array.shape != (n_columns, n_outputs):
        raise ValueError(f"model must have shape {(n_columns, n_outputs)}, got {array.shape}")
    return array


@dataclass(frozen=True)
class ReleaseLaw:
    """P, the exact law of the parameters that a ridge run releases.

    Attributes
    ----------
    deletion : RidgeDeletion
        The problem.
    phases : tuple of Phase
        What happened, learning first.
    program : Program or None
        Noise and grid of the release, where it has some of its own.
    """

    deletion: RidgeDeletion
    phases: tuple[Phase, ...]
    program: Program | None = None

    def p_value(self, parameters: NDArray[np.float64]) -> float:
        """Return the p-value of ``parameters`` (n_columns, n_outputs), see `p_value`.

        Raises
        ------
        RunError
            With ``field == "model"``, as `p_value`, and if the law leaves the range of float64.
        """
        try:
            return p_value(self.deletion, self.phases, parameters, program=self.program)
        except RunError:
            raise
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            raise RunError("model", f"its law under the run cannot be computed: {error}") from None


def p_value(
    deletion: RidgeDeletion,
    phases: Sequence[Phase],
    parameters: NDArray[np.float64],
    *,
    program: Program | None = None,
) -> float:
    """Return the two-sided p-value of ``parameters`` (p, q) under P, the exact law of the run's result.

    With r the distance from the mean of P, r^T S^-1 r summed over the outputs is chi-square with p q degrees of freedom
    for an honest run; p = 2 min(cdf, sf) is then uniform on (0, 1). A direction in which the standard deviation of P is
    not 64 times above a bound on the rounding of the run itself - p + sqrt(n) roundings of the largest parameter in
    each step, carried along by the contractions - says nothing about noise: it is left out of the sum, and must agree
    within that bound and 40 standard deviations. ``program`` adds the variance of its release's noise.

    Raises
    ------
    RunError
        With ``field == "model"``: the parameters are off the grid of ``program``, in a direction without noise they are
        not those of the run, or the p-value is below 1e-12.
    ValueError
        If the law leaves the range of float64.
    """
    if program is not None and not program.holds(parameters):
        raise RunError(
            "model", f"must be multiples of {program.grid!r}, the grid of its release: it is not what was released"
        )
    state, rounding = _law_and_rounding(deletion, phases)
    with np.errstate(over="ignore", invalid="ignore"):
        residual = deletion.reference.vectors.T @ (parameters - state.mean_p)
    covariance = np.diag(state.variance_q) + state.covariance_difference
    if program is not None:
        covariance[np.diag_indices_from(covariance)] += program.release_noise**2
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    if not np.isfinite(spread).all() or not np.isfinite(residual).all():
        raise ValueError("the law of the released parameters leaves the range of float64")
    blind = ~(spread > _RESOLVED * rounding)
    _must_agree(residual[blind], rounding[blind], spread[blind])
    seen = ~blind
    if not seen.any():
        return 1.0
    scale = 1.0 / spread[seen]
    with steady_blas(len(scale)):
        values, vectors = linalg.eigh(scale[:, None] * covariance[np.ix_(seen, seen)] * scale, driver="evd")
    with np.errstate(over="ignore", invalid="ignore"):
        whitened = vectors.T @ (scale[:, None] * residual[seen])
    within = np.abs(vectors.T) @ (scale * rounding[seen])
    deviation = np.sqrt(np.maximum(values, 0.0))
    flat = ~(deviation > _RESOLVED * within)
    _must_agree(whitened[flat], within[flat], deviation[flat])
    if flat.all():
        return 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.sum((whitened[~flat] / deviation[~flat, None]) ** 2))
    if not math.isfinite(total):  # differences that overflow, also to NaN, are infinitely far
        total = math.inf
    freedom = int(np.sum(~flat)) * parameters.shape[1]
    lower, upper = float(stats.chi2.cdf(total, freedom)), float(stats.chi2.sf(total, freedom))
    result = min(1.0, 2.0 * min(lower, upper))
    if not result >= LEAST_P_VALUE:
        where = "farther from" if upper < lower else "nearer to"
        raise RunError(
            "model",
            f"cannot have come from this run: it lies {where} the mean of its law than chance allows (chi-square "
            f"{total:.6g} with {freedom} degrees of freedom, p-value {result:.3g}, refused below {LEAST_P_VALUE:g})",
        )
    return result


def _must_agree(residual: NDArray[np.float64], rounding: NDArray[np.float64], deviation: NDArray[np.float64]) -> None:
    allowed = (rounding + _NOISE * deviation)[:, None]
    if not np.all(np.abs(residual) <= allowed):
        worst = float(np.max(np.abs(residual) - allowed))
        raise RunError(
            "model",
            "cannot have come from this run: in a direction without noise it is not where the run ends "
            f"(off by {worst:.3g} more than rounding explains)",
        )


def _law_and_rounding(deletion: RidgeDeletion, phases: Sequence[Phase]) -> tuple[LawPair, NDArray[np.float64]]:
    """Return the laws at the end, and a bound on the rounding of the run in each eigendirection of the reference."""
    (state, done), (n, p) = deletion.begin(phases), deletion.design.shape
    contraction = 1.0 - deletion.step_size * deletion.alpha
    a = deletion.reference.a
    size = _size(state)
    # Of phases whose law is known, that law is all there is: their steps were about as large as where they ended.
    steps = sum(phase.n_steps for phase in phases[:done])
    rounding = 4.0 * (p + np.sqrt(n)) * np.finfo(np.float64).eps * size * float(_memory(contraction, steps))
    result = np.full(p, rounding)
    for phase, state in zip(phases[done:], deletion.along(phases), strict=True):
        size = max(size, _size(state))
        each = 4.0 * (p + np.sqrt(n)) * np.finfo(np.float64).eps * size
        if deletion.present(phase).size:  # another eigenbasis: only the overall contraction is known
            rounding = contraction**phase.n_steps * rounding + each * float(_memory(contraction, phase.n_steps))
            result = np.full(p, rounding)
        else:
            result = a**phase.n_steps * result + each * _memory(a, phase.n_steps)
    return state, result


def _size(state: LawPair) -> float:
    """Return a size that parameters of P hardly exceed."""
    spread = float(np.sqrt(max(np.max(state.variance_q + np.diag(state.covariance_difference)), 0.0)))
    return float(np.abs(state.mean_p).max(initial=0.0)) + 10.0 * spread


def _memory(a: NDArray[np.float64] | float, n_steps: int) -> NDArray[np.float64]:
    """Return a bound on 1 + a + ... + a^(n_steps - 1) for a at most 1."""
    with np.errstate(divide="ignore"):
        return np.minimum(float(n_steps), 1.0 / (1.0 - np.maximum(a, 0.0)))
