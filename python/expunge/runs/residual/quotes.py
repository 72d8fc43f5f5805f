"""Quotes: what deleting each record would cost, for all records at once, before anybody asks.

Everything comes from the model at hand, the inverse of its Hessian and each row's products with it. What is called a
bound is proved, the rounding of the inverse and of all products included; what is called an estimate is of first order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.accounting import gdp_epsilon
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.runs.residual.derivatives import Derivatives, derivatives, derivatives_of
from expunge.runs.residual.gradients import validated_problem
from expunge.runs.residual.objective import Objective
from expunge.runs.residual.one_step import PartQuotes, quote_part
from expunge.runs.residual.products import Products, products, products_of
from expunge.runs.residual.proved_inverse import LARGEST_ALPHA, LEAST_ALPHA, ProvedInverse, proved

__all__ = ["RecordQuotes", "objective_quotes", "quotes_of", "record_quotes"]

Float64 = NDArray[np.float64]

_SLACK = 1.0 + 2.0**-40


@dataclass(frozen=True)
class RecordQuotes:
    """Costs of deleting each of some records, one at a time. Bounds are proved; estimates are named so.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Numbers of the rows quoted.
    leverage_bound : ndarray of float64, shape (m,)
        Bound: at least ``x^T H^-1 x``, the largest over the outputs.
    sensitivity_estimate : ndarray of float64, shape (m,)
        Estimate: the distance between the optima with and without the record, to first order.
    sensitivity_bound : ndarray of float64, shape (m,)
        Bound: at least the distance between the optima with and without the record.
    shift_bound : ndarray of float64, shape (m,)
        Bound: at least the distance of theta from the optimum without the record.
    one_step_distance_bound : ndarray of float64, shape (m,)
        Bound: at least the distance to the optimum without the record after the exact Newton step that deletes it, from
        theta along ``H'^-1 l' x`` with the Hessian H' of the remaining records.
    one_step_noise_bound : ndarray of float64, shape (m,)
        Bound: standard deviation of noise that makes a release after that step mu-GDP.
    passes_estimate : ndarray of int64, shape (m,)
        Estimate: passes over the data that polishing takes to reach ``alpha noise_std mu``, at least 1.
    before_after_mu_bound : ndarray of float64, shape (m,)
        Bound: mu of whoever sees both releases, theta before and the polished model after, each with noise of
        ``noise_std``, against the same two releases around the optimum without the record.
    delta : float
        The delta of `before_after_epsilon_bound`.
    """

    rows: NDArray[np.int64]
    leverage_bound: Float64
    sensitivity_estimate: Float64
    sensitivity_bound: Float64
    shift_bound: Float64
    one_step_distance_bound: Float64
    one_step_noise_bound: Float64
    passes_estimate: NDArray[np.int64]
    before_after_mu_bound: Float64
    delta: float
    _threads: int | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """``"certified"``, of the bounds: that an array is one, or an estimate, is in its name."""
        return "certified"

    @cached_property
    def before_after_epsilon_bound(self) -> Float64:
        """Bound: epsilon at `delta` of whoever sees the releases before and after, computed when first asked for."""
        mu = self.before_after_mu_bound
        found = np.full(len(mu), math.inf)
        finite = np.isfinite(mu)
        found[finite] = gdp_epsilon(mu[finite], self.delta, threads=self._threads)
        return found


@ieee_arithmetic
def record_quotes(
    X: ArrayLike,
    theta: ArrayLike,
    *,
    loss: str,
    alpha: float,
    noise_std: float,
    mu: float,
    delta: float = 1e-5,
    targets: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    rows: ArrayLike | None = None,
    inverse: ProvedInverse | ArrayLike | None = None,
    rate: float | None = None,
    threads: int | None = None,
) -> RecordQuotes:
    """Return what deleting each record would cost: noise after one step, sensitivity, passes, before/after epsilon.

    Parameters
    ----------
    X : array_like of float64, shape (n, p)
        All rows behind the model; an intercept is a constant column.
    theta : array_like of float64, shape (q, p)
        Parameters of the model, without noise. They need not be the optimum: how far they are from it is counted.
    loss : {"squared", "logistic", "softmax"}
        As in `gradient_sums`.
    alpha : float
        Strength of the penalty ``alpha/2 |theta|^2`` on all parameters, within [1e-30, 1e30].
    noise_std : float
        Standard deviation of a release's noise, > 0.
    mu : float
        Budget of one release, > 0.
    delta : float, default 1e-5
        Within (0, 1), for the before/after epsilon.
    targets, labels, weights : array_like, optional
        As in `gradient_sums`.
    rows : array_like of int, optional
        Rows to quote, distinct; all if omitted. The work is that of all: each bound needs the largest leverage.
    inverse : ProvedInverse or array_like, optional
        The inverse Hessian at theta, from `prove_inverse`: the bounds on its error are taken from there, and quotes
        take one product of matrices. A plain array is proved here. Computed here if omitted.
    rate : float, optional
        Factor, within (0, 1), by which a step of polishing is taken to shrink the gradient; only estimates use it. By
        default each record's: its leverage, and how far its deletion moves logits.
    threads : int, optional
        Most cores of the passes over rows. Products of matrices use the threads of BLAS.

    Returns
    -------
    RecordQuotes
        One number of each kind for every row, in the order of `rows`. A bound that proves nothing is infinite, or, for
        distances, the gradient's norm over alpha.

    Raises
    ------
    ValueError
        If an argument is out of range or of a wrong shape, X is not finite, or the inverse was proved at another theta,
        alpha or number of rows.

    See Also
    --------
    prove_inverse : Inverse Hessians with bounds on their errors.
    gradient_sums : The gradient and the bound that polishing stops by.

    Notes
    -----
    Bounds are certified. Let H' be the Hessian without the row, ``s = H'^-1 l' x`` the step that deletes it, D at least
    the most that s moves a logit, and h the largest norm of a row by ``H'^-1`` (sqrt 2 times that for softmax). Because
    ``|l'''| <= l''``, the gradient after the step has
    ``|g|_{H'^-1} <= L = (e^D - 1 - D)/D sqrt(|s|_H'^2 - alpha |s|^2)``, and ``-log(1 - h L e^D)/h`` bounds the distance
    left in the norm of H'. For the squared loss the step is exact. The gradient that theta itself has is added to L.
    The proof, and how rounding is carried along, is in ``docs/theory.md``.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.runs.residual import record_quotes
    >>> X, y = np.eye(3)[[0, 1, 2, 0, 1]], np.array([[1.0], [2.0], [3.0], [1.0], [2.0]])
    >>> theta = np.array([[2 / 3, 4 / 3, 3 / 2]])  # the optimum
    >>> quotes = record_quotes(X, theta, loss="squared", targets=y, alpha=1.0, noise_std=0.1, mu=0.2)
    >>> quotes.sensitivity_bound.round(6).tolist()
    [0.166667, 0.333333, 1.5, 0.166667, 0.333333]
    >>> quotes.passes_estimate.tolist()
    [1, 1, 1, 1, 1]
    """
    alpha = _validate.number("alpha", alpha, low=LEAST_ALPHA, high=LARGEST_ALPHA)
    noise_std = _validate.number("noise_std", noise_std, low=0.0, open_low=True)
    mu = _validate.number("mu", mu, low=0.0, open_low=True)
    delta = _validate.number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    if rate is not None:
        rate = _validate.number("rate", rate, low=0.0, high=1.0, open_low=True, open_high=True)
    features, parameters = validated_problem(X, theta, loss)
    n = len(features)
    chosen = np.arange(n) if rows is None else _validate.row_indices("rows", rows, n)
    first: list[Products] = []
    if isinstance(inverse, ProvedInverse):
        _require_same(inverse, features, parameters, alpha, loss)
        first = [products(features, matrix, threads=threads) for matrix in inverse.matrices]
    found = derivatives(
        features,
        parameters,
        loss=loss,
        targets=targets,
        labels=labels,
        weights=weights,
        alpha=alpha,
        threads=threads,
        squares=first[0].norms if first else None,
    )
    if not isinstance(inverse, ProvedInverse):
        inverse = proved(found, alpha=alpha, inverse=inverse)
        first = [products(features, matrix, threads=threads) for matrix in inverse.matrices]
    parts = [
        quote_part(part, one, found.norms, loss=loss, alpha=alpha, defect=float(defect), norm=float(norm))
        for part, one, defect, norm in zip(found.parts, first, inverse.defects, inverse.norms, strict=True)
    ]
    return quotes_of(
        found, parts, chosen, alpha=alpha, noise_std=noise_std, mu=mu, delta=delta, rate=rate, threads=threads
    )


@ieee_arithmetic
def objective_quotes(
    objective: Objective,
    theta: Float64,
    *,
    noise_std: float,
    mu: float,
    delta: float,
    rows: NDArray[np.int64],
) -> RecordQuotes:
    """Return what `record_quotes` returns for some records of an objective, whose blocks are read, none of them kept.

    One pass finds the derivatives and the Hessian of each part of the loss, another the products with the inverses.
    """
    _validate.number("alpha", objective.alpha, low=LEAST_ALPHA, high=LARGEST_ALPHA)
    found = derivatives_of(objective, theta)
    inverse = proved(found, alpha=objective.alpha, inverse=None)
    parts = [
        quote_part(
            part, one, found.norms, loss=objective.loss, alpha=objective.alpha, defect=float(defect), norm=float(norm)
        )
        for part, one, defect, norm in zip(
            found.parts, products_of(objective, inverse.matrices), inverse.defects, inverse.norms, strict=True
        )
    ]
    return quotes_of(found, parts, rows, alpha=objective.alpha, noise_std=noise_std, mu=mu, delta=delta)


def _require_same(inverse: ProvedInverse, rows: Float64, theta: Float64, alpha: float, loss: str) -> None:
    (n, p), q = rows.shape, len(theta)
    shape = {"squared": (1, p, p), "logistic": (q, p, p), "softmax": (1, q * p, q * p)}[loss]
    same = inverse.matrices.shape == shape and inverse.n_rows == n and inverse.alpha == alpha
    if not (same and np.array_equal(inverse.theta, theta)):
        raise ValueError(
            "inverse must have been proved for this loss at these parameters, got one of shape "
            f"{inverse.matrices.shape} for {inverse.n_rows} rows and alpha {inverse.alpha:g}, needed {shape} for {n} "
            f"rows and alpha {alpha:g} at this theta: call prove_inverse again"
        )


def quotes_of(
    found: Derivatives,
    parts: list[PartQuotes],
    chosen: NDArray[np.int64],
    *,
    alpha: float,
    noise_std: float,
    mu: float,
    delta: float,
    rate: float | None = None,
    threads: int | None = None,
) -> RecordQuotes:
    """Return the quotes of the chosen rows, parts together: their distances are those of different coordinates."""
    total = found.sums.norm_bound(found.theta, alpha=alpha)
    with np.errstate(all="ignore"):
        after = _together([part.after_step for part in parts], chosen)
        shift = _together([part.shift for part in parts], chosen)
        # The optimum with the record is no farther from theta than the gradient there says.
        sensitivity = (shift + total / alpha) * _SLACK
        estimate = np.sqrt(np.sum([part.step[chosen] ** 2 for part in parts], axis=0))
        gradient = np.sqrt(np.sum([part.gradient[chosen] ** 2 for part in parts], axis=0))
        shrinks = np.max([part.rate[chosen] for part in parts], axis=0) if rate is None else np.full(len(chosen), rate)
        passes = 1.0 + np.ceil(np.maximum(np.log(gradient / (alpha * noise_std * mu)) / -np.log(shrinks), 0.0))
        passes = np.where(np.isfinite(passes), np.minimum(passes, 1e6), np.where(gradient == 0.0, 1.0, 1e6))
        apart = np.sqrt((shift / noise_std) ** 2 + mu**2) * _SLACK
        return RecordQuotes(
            rows=chosen,
            leverage_bound=_bound(np.max([part.leverage[chosen] for part in parts], axis=0)),
            sensitivity_estimate=estimate,
            sensitivity_bound=_bound(sensitivity),
            shift_bound=_bound(shift),
            one_step_distance_bound=_bound(after),
            one_step_noise_bound=_bound(after / mu * _SLACK),
            passes_estimate=passes.astype(np.int64),
            before_after_mu_bound=_bound(apart),
            delta=delta,
            _threads=threads,
        )


def _together(bounds: list[Float64], chosen: NDArray[np.int64]) -> Float64:
    """Return the root of the sum of squares; one bound alone is not squared, so that nothing vanishes."""
    if len(bounds) == 1:
        return bounds[0][chosen]
    largest = np.max([bound[chosen] for bound in bounds], axis=0)
    scale = np.where((largest > 0.0) & (largest < math.inf), largest, 1.0)
    return np.asarray(scale * np.sqrt(np.sum([(bound[chosen] / scale) ** 2 for bound in bounds], axis=0)) * _SLACK)


def _bound(values: Float64) -> Float64:
    """Return the bounds, infinite where nothing is known."""
    return np.asarray(np.where(np.isnan(values), math.inf, values))
