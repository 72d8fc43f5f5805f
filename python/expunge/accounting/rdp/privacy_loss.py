"""Privacy loss of each record from gradient norms along training. *Estimates*; [S25, arXiv 2505.18786].

Noisy SGD with Poisson rate q and a constant batch size B moves by ``step_size * ||g_i|| / B`` more when record i is in
the batch, so the step costs the record the divergence of a sampled Gaussian with noise multiplier
``noise_std * B / (step_size * ||g_i||)``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from expunge._validate import choice, count, number, plain_array, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting.estimate import Estimate
from expunge.accounting.rdp.sampled_gaussian import sampled_gaussian_rdp

__all__ = ["StepCost", "privacy_loss", "quadrature_weights"]

_BLOCK = 1 << 18  # norms worked on at a time
_TABLE_FROM = 1 << 15  # norms from which a table of the divergence pays for itself
_TABLE_ERROR = 1e-9
_TABLE_LOW, _TABLE_HIGH = 0.05, 1e6  # noise multipliers; outside them the kernel itself


def quadrature_weights(steps: ArrayLike, *, n_steps: int) -> Float64:
    """Return how many training steps each sampled step stands for: the weights of the sum over all steps.

    The quantity is taken as linear between sampled steps and as constant before the first and after the last.

    Parameters
    ----------
    steps : array_like of int, shape (N,) or (n, N)
        Sampled steps within [0, n_steps), strictly increasing; or those of each record in a row of its own, which may
        repeat a step: a measurement that was carried on where there was no new one.
    n_steps : int
        Number of training steps.

    Returns
    -------
    ndarray of float64, shape of ``steps``
        Weights that sum to ``n_steps`` in each row, all ones where every step was sampled; positive but for repeated
        steps, where the first has the weight and the others have 0.

    Raises
    ------
    TypeError
        If the steps are not integers.
    ValueError
        If they are not increasing within [0, n_steps).

    Notes
    -----
    ==================================================  ==========
    Edge case                                           Value
    ==================================================  ==========
    ``quadrature_weights([3], n_steps=10).tolist()``    [10.0]
    ``quadrature_weights([0, 1], n_steps=2).tolist()``  [1.0, 1.0]
    ``quadrature_weights([4, 4], n_steps=6).tolist()``  ValueError
    ==================================================  ==========

    Examples
    --------
    >>> from expunge.accounting import quadrature_weights
    >>> quadrature_weights([0, 4], n_steps=6).tolist()
    [2.5, 3.5]
    >>> quadrature_weights([[0, 4, 4], [1, 2, 5]], n_steps=6).tolist()
    [[2.5, 3.5, 0.0], [2.0, 2.0, 2.0]]
    """
    total = count("n_steps", n_steps, low=1)
    array = plain_array("steps", steps)
    if array.dtype.kind not in "iu":
        raise TypeError(f"steps must hold integers, got dtype {array.dtype}")
    if array.ndim not in (1, 2) or array.shape[-1] == 0:
        raise ValueError(f"steps must have shape (N,) or (n, N) with N >= 1, got shape {array.shape}")
    at = np.atleast_2d(array.astype(np.int64))
    gaps = np.diff(at, axis=1)
    bad = (at[:, 0] < 0) | (at[:, -1] >= total) | (gaps < (1 if array.ndim == 1 else 0)).any(axis=1)
    if bad.any():
        kind = "strictly increasing" if array.ndim == 1 else "increasing along each row"
        where = "" if array.ndim == 1 else f" in row {int(bad.argmax())}"
        raise ValueError(f"steps must be {kind} within [0, {total}), got {at[bad.argmax()]}{where}")
    n = at.shape[1]
    fresh = np.ones(at.shape, dtype=np.bool_)
    fresh[:, 1:] = gaps > 0
    # The step after a run of equal ones: that of the next fresh column, or none.
    following = np.full(at.shape, n)
    following[:, :-1] = np.minimum.accumulate(np.where(fresh, np.arange(n), n)[:, :0:-1], axis=1)[:, ::-1]
    after = np.take_along_axis(at, np.minimum(following, n - 1), axis=1)
    # A gap of g steps: the inner steps t = 1 .. g-1 give t/g to its right end, which sums to (g-1)/2; same on the left.
    weights = np.where(following < n, (after - at - 1.0) / 2.0, total - 1.0 - at)
    weights[:, 1:] += (gaps - 1.0) / 2.0
    weights[:, 0] += at[:, 0]
    weights = np.where(fresh, 1.0 + weights, 0.0)
    return weights[0] if array.ndim == 1 else weights


@lru_cache(maxsize=32)  # a tenth of a second each
def _table(order: float, sampling_probability: float, direction: str) -> CubicSpline:
    """Return log divergence as a spline in the log of the noise multiplier."""

    def exact(logs: Float64) -> Float64:
        found = sampled_gaussian_rdp(order, np.exp(logs), sampling_probability, direction=direction)
        return np.log(np.asarray(found, dtype=np.float64))

    nodes = np.linspace(math.log(_TABLE_LOW), math.log(_TABLE_HIGH), 257)
    values = exact(nodes)
    for _ in range(16):
        table = CubicSpline(nodes, values)
        middles = 0.5 * (nodes[1:] + nodes[:-1])
        truth = exact(middles)
        rough = np.abs(table(middles) - truth) > _TABLE_ERROR
        if not rough.any():
            break
        # The neighbours too: a spline's error leaks to the next interval.
        rough[1:] |= rough[:-1].copy()
        rough[:-1] |= rough[1:].copy()
        at = np.flatnonzero(rough) + 1
        nodes, values = np.insert(nodes, at, middles[rough]), np.insert(values, at, truth[rough])
    return table


class StepCost:
    """Cost of one training step as a function of the gradient norm, fast on many norms: an *estimate*.

    Parameters
    ----------
    order : float
        Renyi order, finite and > 1.
    sampling_probability : float
        Within [0, 1].
    direction : {"both", "pq", "qp"}
        As in `sampled_gaussian_rdp`.

    Notes
    -----
    Below probability 1 and on large arrays the logarithm of the divergence is read off a cubic spline in the
    logarithm of the noise multiplier, refined until it agrees at all midpoints to 1e-9 relative; outside 0.05 .. 1e6 it
    is computed. Not certified: certified sums use `sampled_gaussian_rdp`.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import StepCost
    >>> StepCost(order=2.0, sampling_probability=1.0)(np.array([0.0, 1.0]), noise_per_norm=2.0).tolist()
    [0.0, 0.25]
    """

    def __init__(self, *, order: float, sampling_probability: float, direction: str = "both") -> None:
        self.order = number("order", order, low=1.0, open_low=True)
        self.sampling_probability = number("sampling_probability", sampling_probability, low=0.0, high=1.0)
        self.direction = choice("direction", direction, ("both", "pq", "qp"))
        self._table: CubicSpline | None = None

    def _exact(self, multiplier: Float64) -> Float64:
        return np.asarray(
            sampled_gaussian_rdp(self.order, multiplier, self.sampling_probability, direction=self.direction),
            dtype=np.float64,
        )

    def tabulate(self) -> StepCost:
        """Build the table now, so that calls with few norms use it too; return self."""
        if self._table is None and 0.0 < self.sampling_probability < 1.0:
            self._table = _table(self.order, self.sampling_probability, self.direction)
        return self

    def __call__(self, grad_norms: Float64, *, noise_per_norm: ArrayLike) -> Float64:
        """Return the cost of each norm; the noise multiplier is ``noise_per_norm / grad_norms`` (they broadcast)."""
        scale = np.asarray(noise_per_norm, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.sampling_probability == 1.0:
                cost = np.where(grad_norms == 0.0, 0.0, 0.5 * self.order * np.square(grad_norms / scale))
                return np.asarray(cost, dtype=np.float64)
            multiplier = np.where(grad_norms == 0.0, np.inf, scale / grad_norms)
        inside = (multiplier >= _TABLE_LOW) & (multiplier <= _TABLE_HIGH)
        few = self._table is None and multiplier.size < _TABLE_FROM
        if self.sampling_probability == 0.0 or few or not inside.any():
            return self._exact(multiplier)
        logs = np.log(np.where(inside, multiplier, 1.0))
        if self._table is None:
            self._table = _table(self.order, self.sampling_probability, self.direction)
        cost = np.exp(self._table(logs))
        if not inside.all():
            cost[~inside] = self._exact(multiplier[~inside])
        return np.asarray(cost, dtype=np.float64)


def privacy_loss(
    grad_norms: ArrayLike,
    *,
    order: ArrayLike,
    noise_std: ArrayLike,
    step_size: ArrayLike,
    sampling_probability: float,
    batch_size: float,
    steps: ArrayLike,
    n_steps: int,
    direction: str = "both",
) -> Estimate:
    """Return the per-instance Renyi privacy loss of training, estimated from norms at some of its steps.

    Parameters
    ----------
    grad_norms : array_like of float, shape (n, N)
        Norm of each record's gradient (without the L2 term) at the N sampled steps, >= 0, possibly infinite.
    order : float or array_like of float, shape (n_orders,)
        Renyi orders, > 1.
    noise_std, step_size : float or array_like of float, shape (N,) or (n, N)
        Noise standard deviation per step, >= 0, and step size, > 0, at the sampled steps.
    sampling_probability : float
        Poisson rate, within [0, 1]; 1 is full batch.
    batch_size : float
        The constant the gradient sum is divided by (1 for the sum form), > 0.
    steps : array_like of int, shape (N,) or (n, N)
        The sampled steps, strictly increasing within [0, n_steps); or each record's own, where a repeated step says
        that there was no new norm and the last one was carried on (it must be the same number).
    n_steps : int
        Number of training steps.
    direction : {"both", "pq", "qp"}
        As in `sampled_gaussian_rdp`.

    Returns
    -------
    Estimate
        ``P_i(a) = sum over t of rho_i(theta_t; a)``: shape (n,) for a single order, else (n, n_orders). Never below 0;
        0 for a record whose norms are all 0, or at sampling probability 0; otherwise infinite where a norm is
        infinite, or where the noise is 0 and the norm is not.

    Raises
    ------
    TypeError
        If an array does not hold numbers, or the steps are not integers.
    ValueError
        If a value is NaN or out of range, or a shape does not fit.

    See Also
    --------
    assumed_noise_privacy_loss : For training without noise, under an assumption.
    composition_rdp : Expectations over several training runs.
    RenyiFilter : Certified budgets, kept during training.

    Notes
    -----
    The privacy loss of a trajectory [S25, arXiv 2505.18786]. An *estimate*, for two reasons: one trajectory stands for
    its law, and the unseen steps are filled in by the piecewise linear rule of `quadrature_weights`. On large inputs
    the divergence is interpolated to 1e-9 relative (`StepCost`).

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import privacy_loss
    >>> loss = privacy_loss(np.array([[1.0, 0.5]]), order=2.0, noise_std=1.0, step_size=0.1, sampling_probability=1.0,
    ...                     batch_size=1.0, steps=[0, 99], n_steps=100)
    >>> loss.shape, loss.status, round(float(loss[0]), 9)
    ((1,), 'estimate', 0.625)
    """
    norms = real_array("grad_norms", grad_norms, ndim=2, low=0.0, allow_infinite=True)
    orders = real_array("order", order)
    if orders.ndim > 1:
        raise ValueError(f"order must be a number or one-dimensional, got shape {orders.shape}")
    weights = quadrature_weights(steps, n_steps=n_steps)
    if weights.shape not in (norms.shape, norms.shape[1:]):
        raise ValueError(f"grad_norms must have one column per step, got shape {norms.shape}, steps {weights.shape}")
    if weights.ndim == 2:
        _check_carried(norms, weights)
    noise = per_step("noise_std", real_array("noise_std", noise_std, low=0.0), norms.shape)
    width = per_step("step_size", real_array("step_size", step_size, low=0.0, open_low=True), norms.shape)
    batch = number("batch_size", batch_size, low=0.0, open_low=True)
    noise_per_norm = noise * batch / width
    costs = [
        StepCost(order=float(one), sampling_probability=sampling_probability, direction=direction)
        for one in np.atleast_1d(orders)
    ]
    losses = np.empty((norms.shape[0], len(costs)))
    rows = max(1, _BLOCK // norms.shape[1])
    for start in range(0, norms.shape[0], rows):
        block = slice(start, start + rows)
        scale, share = (a[block] if a.ndim == 2 else a for a in (noise_per_norm, weights))
        seen = norms[block] if weights.ndim == 1 else np.where(share > 0.0, norms[block], 0.0)
        for column, cost in enumerate(costs):
            losses[block, column] = weighted_sum(cost(seen, noise_per_norm=scale), share)
    return Estimate.of(losses[:, 0] if orders.ndim == 0 else losses)


def weighted_sum(costs: Float64, weights: Float64) -> Float64:
    """Return the sum over the last axis; an infinite cost makes it infinite. Rows never see one another."""
    pattern = "ij,j->i" if weights.ndim == 1 else "ij,ij->i"
    return np.asarray(np.einsum(pattern, costs, weights), dtype=np.float64)


def _check_carried(norms: Float64, weights: Float64) -> None:
    """Refuse two norms at one step: a carried column repeats what it carries."""
    differs = np.zeros(norms.shape, dtype=np.bool_)
    differs[:, 1:] = (weights[:, 1:] == 0.0) & (norms[:, 1:] != norms[:, :-1])
    if differs.any():
        row, column = (int(k) for k in np.argwhere(differs)[0])
        was, now = norms[row, column - 1], norms[row, column]
        raise ValueError(f"grad_norms must repeat where steps do, got {was} and {now} in row {row}, column {column}")


def per_step(name: str, value: Float64, shape: tuple[int, ...]) -> Float64:
    if value.shape not in ((), (1,), shape[1:], shape):
        raise ValueError(f"{name} must be a number or hold one per step {shape[1:]}, got shape {value.shape}")
    return value if value.shape == shape else np.broadcast_to(value, shape[1:])
