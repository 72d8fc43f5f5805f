"""Privacy loss of groups of records that leave together, from gradient norms along training. *Estimates*."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from expunge._validate import number, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting.estimate import Estimate
from expunge.accounting.rdp.privacy_loss import StepCost, per_step, quadrature_weights, weighted_sum

__all__ = ["group_privacy_loss"]


def group_privacy_loss(
    grad_norms: ArrayLike,
    *,
    order: ArrayLike,
    noise_std: ArrayLike,
    step_size: ArrayLike,
    sampling_probability: float,
    batch_size: float,
    steps: ArrayLike,
    n_steps: int,
    group_norms: ArrayLike | None = None,
    direction: str = "both",
) -> Estimate:
    """Return the Renyi privacy loss of one group of records together, estimated from norms at some steps of training.

    Parameters
    ----------
    grad_norms : array_like of float, shape (k, N)
        Norm of the gradient of each of the group's k records at the N sampled steps, >= 0, possibly infinite.
    order : float or array_like of float, shape (n_orders,)
        Renyi orders, > 1.
    noise_std, step_size : float or array_like of float, shape (N,)
        Noise standard deviation per step, >= 0, and step size, > 0, at the sampled steps.
    sampling_probability : float
        Poisson rate of each record, within [0, 1]; 1 is full batch.
    batch_size : float
        The constant the gradient sum is divided by (1 for the sum form), > 0.
    steps : array_like of int, shape (N,)
        The sampled steps, strictly increasing within [0, n_steps).
    n_steps : int
        Number of training steps.
    group_norms : array_like of float, shape (N,), optional
        Norm of the sum of the group's gradients at these steps (`expunge.torch.GradNorms` with ``groups=``): with full
        batches the exact shift of a step, and refused below probability 1, whose bounds have no use for it. The sum of
        the records' norms, which is never less, stands in where it is omitted.
    direction : {"both", "pq", "qp"}
        As in `sampled_gaussian_rdp`; P is training with the group, Q without it.

    Returns
    -------
    Estimate
        Sum over the steps of a bound on each step's divergence: scalar-shaped ``()`` for a single order, else
        ``(n_orders,)``. For a group of one record it is that of `privacy_loss`. 0 if all norms are 0.

    Raises
    ------
    TypeError
        If an array does not hold numbers, or the steps are not integers.
    ValueError
        If a value is NaN or out of range, a shape does not fit, there is no record, a group's norm is above the sum of
        its records', or group norms come with a probability below 1.

    See Also
    --------
    privacy_loss : Single records.

    Notes
    -----
    Full batches shift a step by ``step_size * |sum of the g_i| / batch_size``, and its divergence is that of two
    Gaussians so far apart. With Poisson sampling each record is in the batch on its own, and the smaller of two bounds
    is taken, s being the noise times the batch size over the step size and S the sum of the norms:

    - *Noise divided among the records.* The step is the sum of k independent parts, ``b_i g_i`` with its own noise of
      variance ``s^2 |g_i|/S``: post-processing of k sampled Gaussians, whose divergences add up. Their noise
      multipliers are ``s / sqrt(|g_i| S)``.
    - *The group as one record.* With probability ``1 - (1-q)^k`` some record is in the batch, and the shift is at most
      S. The moments behind the divergence are convex in the law of that shift, hence largest where it is always S.

    An *estimate* for the reasons that `privacy_loss` gives: one trajectory stands for its law, and unseen steps are
    filled in.

    Examples
    --------
    >>> from expunge.accounting import group_privacy_loss
    >>> training = dict(order=2.0, noise_std=1.0, step_size=0.1, batch_size=1.0, steps=[0], n_steps=100)
    >>> whole = group_privacy_loss([[3.0], [4.0]], group_norms=[5.0], sampling_probability=1.0, **training)
    >>> parts = group_privacy_loss([[3.0], [4.0]], sampling_probability=1.0, **training)
    >>> round(float(whole), 9), round(float(parts), 9)
    (25.0, 49.0)
    >>> round(float(group_privacy_loss([[3.0], [4.0]], sampling_probability=0.01, **training)), 4)
    0.0056
    """
    norms = real_array("grad_norms", grad_norms, ndim=2, low=0.0, allow_infinite=True)
    if not len(norms):
        raise ValueError("grad_norms must have a row for each record of the group, got none")
    orders = real_array("order", order)
    if orders.ndim > 1:
        raise ValueError(f"order must be a number or one-dimensional, got shape {orders.shape}")
    weights = quadrature_weights(steps, n_steps=n_steps)
    if weights.shape != norms.shape[1:]:
        raise ValueError(f"grad_norms must have one column per step, got shape {norms.shape}, steps {weights.shape}")
    noise = per_step("noise_std", real_array("noise_std", noise_std, low=0.0), weights.shape)
    width = per_step("step_size", real_array("step_size", step_size, low=0.0, open_low=True), weights.shape)
    noise_per_norm = noise * number("batch_size", batch_size, low=0.0, open_low=True) / width
    probability = number("sampling_probability", sampling_probability, low=0.0, high=1.0)
    if group_norms is not None and probability < 1.0:
        raise ValueError(
            f"group_norms must be omitted with sampling_probability {probability:g}: they are the shift of full batches"
        )
    total = norms.sum(axis=0)
    shifts = _shifts(group_norms, total, len(norms))
    losses = np.empty(orders.size)
    for place, one in enumerate(np.atleast_1d(orders).tolist()):
        if probability == 1.0:
            costs = StepCost(order=one, sampling_probability=1.0, direction=direction)(
                shifts, noise_per_norm=noise_per_norm
            )
        else:
            costs = _sampled(norms, total, noise_per_norm, one, probability, direction)
        losses[place] = float(weighted_sum(costs[np.newaxis], weights)[0])
    return Estimate.of(losses[0] if orders.ndim == 0 else losses)


def _shifts(group_norms: ArrayLike | None, total: Float64, n_records: int) -> Float64:
    """Return the norms of the group's summed gradients, which are at most the sum of its records'."""
    if group_norms is None:
        return total
    shifts = real_array("group_norms", group_norms, ndim=1, low=0.0, allow_infinite=True)
    if shifts.shape != total.shape:
        raise ValueError(f"group_norms must hold one per step {total.shape}, got shape {shifts.shape}")
    # float32 norms of up to k records, each rounded.
    above = shifts > total * (1.0 + 1e-3)
    if above.any():
        at = int(above.argmax())
        raise ValueError(
            f"group_norms must be at most the sum of the {n_records} records' norms, got {shifts[at]:g} above "
            f"{total[at]:g} at sampled step {at}"
        )
    return shifts


def _sampled(
    norms: Float64, total: Float64, noise_per_norm: Float64, order: float, probability: float, direction: str
) -> Float64:
    """Return the smaller of the two bounds on each step."""
    one = StepCost(order=order, sampling_probability=probability, direction=direction)
    with np.errstate(invalid="ignore"):
        parts = np.where(norms > 0.0, np.sqrt(norms) * np.sqrt(total), 0.0)
    divided = one(parts, noise_per_norm=noise_per_norm).sum(axis=0)
    some = -np.expm1(len(norms) * np.log1p(-probability))
    whole = StepCost(order=order, sampling_probability=float(some), direction=direction)
    return np.asarray(np.minimum(divided, whole(total, noise_per_norm=noise_per_norm)), dtype=np.float64)
