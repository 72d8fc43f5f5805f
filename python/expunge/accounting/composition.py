"""Renyi divergence of whole training runs from expectations over runs, in both directions. *Estimates*.

The Renyi counterpart of a composition theorem in which later steps enter by expectations over the training run with
the record, not by suprema ([T24, arXiv 2307.00310] and [S25, arXiv 2505.18786] for one direction; Hoelder's inequality
at each step, exponents p and p/(p-1), for both).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from expunge._validate import choice, number, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting.estimate import Estimate
from expunge.accounting.privacy_loss import StepCost

__all__ = ["CompositionRDP", "composition_rdp"]


@dataclass(frozen=True)
class CompositionRDP:
    """Divergence of a training run, with what it came from.

    Attributes
    ----------
    rdp : Estimate
        Divergence per record, shape of the records given; 0-d for one record.
    p : ndarray of float64
        The exponent that gave it, same shape.
    order : float
        Renyi order.
    direction : str
        ``"pq"``, ``"qp"`` or ``"both"`` (the larger of the two).
    n_runs : int
        Runs averaged over.
    status : str
        ``"estimate"``: an average over finitely many runs stands for an expectation, and is biased low.
    """

    rdp: Estimate
    p: Float64
    order: float
    direction: str
    n_runs: int
    status: str = "estimate"


def composition_rdp(
    grad_norms: ArrayLike,
    *,
    order: float,
    noise_std: float,
    step_size: float,
    sampling_probability: float,
    batch_size: float,
    l2_bound: float,
    direction: str = "both",
    p: ArrayLike | None = None,
) -> CompositionRDP:
    """Return the Renyi divergence between training with and without a record, from R runs with it.

    Parameters
    ----------
    grad_norms : array_like of float, shape (R, T) or (R, n, T)
        Norm of the record's clipped gradient (or of n records') at every step 0 .. T-1 of R independent runs on the
        data that hold it, all from the same start.
    order : float
        Renyi order of the result, > 1.
    noise_std, step_size, sampling_probability, batch_size : float
        As in `privacy_loss`.
    l2_bound : float
        What gradients were clipped to. Without an almost-sure bound the expectations can be infinite while every
        average over runs is finite, so unclipped training is refused.
    direction : {"both", "pq", "qp"}
        ``"pq"`` bounds the divergence of the law with the record from the law without it; ``"both"`` the larger.
    p : float or array_like of float, optional
        Exponents > 1 to choose the best of, per record. By default around the number of steps, which keeps all orders
        within a small factor of ``order``.

    Returns
    -------
    CompositionRDP
        ``.rdp``, ``.p`` and ``.status == "estimate"``.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, a norm is above ``l2_bound (1 + 1e-6)``, or a shape does not fit.

    Notes
    -----
    P|Q: ``a_0 = a, a_{j+1} - 1 = (a_j - 1) p/(p-1)`` and ``D <= sum over j of log E exp(p (a_j - 1) rho(theta_{T-1-j};
    a_j)) / (p (a_j - 1))``. Q|P: ``b_{j+1} = b_j p/(p-1)`` and ``D <= 1/(a-1) sum over j of ((p-1)/p)^j log E
    exp(p (b_j - 1) rho(theta_{T-1-j}; b_j))/p``, whose last term needs no exponent p since the start is fixed.
    Expectations are over runs with the record in both directions.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import composition_rdp
    >>> result = composition_rdp(np.ones((4, 10)), order=2.0, noise_std=1.0, step_size=0.1, sampling_probability=1.0,
    ...                          batch_size=1.0, l2_bound=1.0, direction="pq", p=1e9)
    >>> print(f"{float(result.rdp):.6f} {result.status}")
    0.100000 estimate
    """
    norms = real_array("grad_norms", grad_norms, low=0.0)
    if norms.ndim not in (2, 3) or 0 in norms.shape:
        raise ValueError(f"grad_norms must have shape (R, T) or (R, n, T), none of them 0, got shape {norms.shape}")
    alpha = number("order", order, low=1.0, open_low=True)
    bound = number("l2_bound", l2_bound, low=0.0, open_low=True)
    if norms.max() > bound * (1.0 + 1e-6):
        raise ValueError(f"grad_norms must be at most l2_bound = {bound:g} (clip the gradients), got {norms.max():g}")
    tau = number("noise_std", noise_std, low=0.0, open_low=True)
    eta = number("step_size", step_size, low=0.0, open_low=True)
    batch = number("batch_size", batch_size, low=0.0, open_low=True)
    rate = number("sampling_probability", sampling_probability, low=0.0, high=1.0)
    sides = {"pq": ("pq",), "qp": ("qp",), "both": ("pq", "qp")}[choice("direction", direction, ("both", "pq", "qp"))]
    runs = norms if norms.ndim == 3 else norms[:, np.newaxis, :]
    n_steps = runs.shape[2]
    exponents = (
        1.0 + n_steps * np.array([0.5, 1.0, 2.0, 4.0, 8.0, 32.0])
        if p is None
        else np.atleast_1d(real_array("p", p, low=1.0, open_low=True))
    )
    if exponents.ndim != 1 or exponents.size == 0:
        raise ValueError(f"p must be a number or one-dimensional and not empty, got shape {exponents.shape}")
    values, chosen = np.zeros(runs.shape[1]), np.full(runs.shape[1], exponents[0])
    for side in sides:
        table = np.stack([_one_side(runs, side, alpha, float(one), rate, tau * batch / eta) for one in exponents])
        best = table.argmin(axis=0)
        lowest = table[best, np.arange(best.size)]
        chosen = np.where(lowest >= values, exponents[best], chosen)
        values = np.maximum(values, lowest)
    shape = norms.shape[1:-1]
    return CompositionRDP(
        rdp=Estimate.of(values.reshape(shape)),
        p=chosen.reshape(shape),
        order=alpha,
        direction=direction,
        n_runs=norms.shape[0],
    )


def _one_side(runs: Float64, side: str, order: float, p: float, rate: float, noise_per_norm: float) -> Float64:
    """Return the bound of one direction at one exponent, shape (n,)."""
    n_runs, n_records, n_steps = runs.shape
    total = np.zeros(n_records)
    current, discount = order, 1.0
    for j in range(n_steps):
        if not np.isfinite(current):
            return np.full(n_records, np.inf)
        cost = StepCost(order=current, sampling_probability=rate, direction=side)(
            np.ascontiguousarray(runs[:, :, n_steps - 1 - j]), noise_per_norm=noise_per_norm
        )
        last = j == n_steps - 1  # the start is fixed: its cost is a constant, the same in every run
        with np.errstate(over="ignore"):
            moment = logsumexp(p * (current - 1.0) * cost, axis=0) - np.log(n_runs)
            if side == "pq":
                total += moment / (p * (current - 1.0))
                current = 1.0 + (current - 1.0) * p / (p - 1.0)
            else:
                total += discount * (((current - 1.0) * cost).max(axis=0) if last else moment / p) / (order - 1.0)
                current *= p / (p - 1.0)
                discount *= (p - 1.0) / p
    return total
