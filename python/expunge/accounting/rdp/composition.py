"""Renyi divergence of whole training runs from expectations over runs, in both directions. *Estimates*.

The Renyi counterpart of a composition theorem in which later steps enter by expectations over the training run with
the record, not by suprema ([T24, arXiv 2307.00310] and [S25, arXiv 2505.18786] for one direction; Hoelder's inequality
at each step, exponents p and p/(p-1), for both).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from expunge._validate import choice, count, number, plain_array, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting.estimate import Estimate
from expunge.accounting.rdp.privacy_loss import StepCost, quadrature_weights

__all__ = ["CompositionRDP", "composition_rdp"]

_BLOCK = 1 << 22  # norms filled in at a time


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
    bound_source : str
        Where ``l2_bound`` comes from: ``"given"`` or ``"sample"``.
    status : str
        ``"estimate"``: an average over finitely many runs stands for an expectation, and is biased low. With a bound
        read off the sample ``"estimate without a proved bound"``: the expectations may then be infinite.
    """

    rdp: Estimate
    p: Float64
    order: float
    direction: str
    n_runs: int
    bound_source: str = "given"
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
    bound_source: str = "given",
    direction: str = "both",
    p: ArrayLike | None = None,
    steps: ArrayLike | None = None,
    n_steps: int | None = None,
) -> CompositionRDP:
    """Return the Renyi divergence between training with and without a record, from R runs with it.

    Parameters
    ----------
    grad_norms : array_like of float, shape (R, T) or (R, n, T)
        Norm of the record's clipped gradient (or of n records') at every step 0 .. T-1 of R independent runs on the
        data that hold it, all from the same start; or at N of the steps.
    order : float
        Renyi order of the result, > 1.
    noise_std, step_size, sampling_probability, batch_size : float
        As in `privacy_loss`.
    l2_bound : float
        What gradients were clipped to. Without an almost-sure bound the expectations can be infinite while every
        average over runs is finite, so unclipped training is refused.
    bound_source : {"given", "sample"}
        ``"given"`` asserts that training clipped to ``l2_bound``, whatever the norms would have been. Say ``"sample"``
        if the number was read off observed norms (their maximum, say), which bounds no other run: it cannot be told
        from the norms themselves, and the result carries it.
    direction : {"both", "pq", "qp"}
        ``"pq"`` bounds the divergence of the law with the record from the law without it; ``"both"`` the larger.
    p : float or array_like of float, optional
        Exponents > 1 to choose the best of, per record. By default around the number of steps, which keeps all orders
        within a small factor of ``order``.
    steps : array_like of int, shape (N,), or that of ``grad_norms``, optional
        Where norms are those at some steps only: these steps, increasing within [0, n_steps); in the second form each
        run's (and record's) own, which may repeat where a norm was carried on. Between them norms are taken as linear,
        before and after as constant: a second reason why the result is an *estimate*.
    n_steps : int, optional
        T; needed with ``steps``.

    Returns
    -------
    CompositionRDP
        ``.rdp``, ``.p``, ``.bound_source`` and ``.status``, which begins with ``"estimate"``.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, a norm is above ``l2_bound (1 + 1e-6)``, or a shape does not fit; if one
        of ``steps`` and ``n_steps`` is given without the other.

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
    alpha = number("order", order)  # its range, and that of the sampling probability, are those of the step's cost
    bound = number("l2_bound", l2_bound, low=0.0, open_low=True)
    source = choice("bound_source", bound_source, ("given", "sample"))
    if norms.max() > bound * (1.0 + 1e-6):
        raise ValueError(f"grad_norms must be at most l2_bound = {bound:g} (clip the gradients), got {norms.max():g}")
    tau = number("noise_std", noise_std, low=0.0, open_low=True)
    eta = number("step_size", step_size, low=0.0, open_low=True)
    batch = number("batch_size", batch_size, low=0.0, open_low=True)
    rate = number("sampling_probability", sampling_probability)
    sides = {"pq": ("pq",), "qp": ("qp",), "both": ("pq", "qp")}[choice("direction", direction, ("both", "pq", "qp"))]
    runs = norms if norms.ndim == 3 else norms[:, np.newaxis, :]
    sampled = _sampled(steps, n_steps, norms.shape)
    total = runs.shape[2] if sampled is None else count("n_steps", n_steps, low=1)
    exponents = (
        1.0 + total * np.array([0.5, 1.0, 2.0, 4.0, 8.0, 32.0])
        if p is None
        else np.atleast_1d(real_array("p", p, low=1.0, open_low=True))
    )
    if exponents.ndim != 1 or exponents.size == 0:
        raise ValueError(f"p must be a number or one-dimensional and not empty, got shape {exponents.shape}")
    values, chosen = np.zeros(runs.shape[1]), np.full(runs.shape[1], exponents[0])
    rows = runs.shape[1] if sampled is None else max(1, _BLOCK // (runs.shape[0] * total))
    for start in range(0, runs.shape[1], rows):
        block = slice(start, start + rows)
        filled = runs if sampled is None else _fill_in(runs[:, block], sampled[:, block], total)
        for side in sides:
            table = np.stack([_one_side(filled, side, alpha, float(one), rate, tau * batch / eta) for one in exponents])
            best = table.argmin(axis=0)
            lowest = table[best, np.arange(best.size)]
            chosen[block] = np.where(lowest >= values[block], exponents[best], chosen[block])
            values[block] = np.maximum(values[block], lowest)
    shape = norms.shape[1:-1]
    return CompositionRDP(
        rdp=Estimate.of(values.reshape(shape)),
        p=chosen.reshape(shape),
        order=alpha,
        direction=direction,
        n_runs=norms.shape[0],
        bound_source=source,
        status="estimate" if source == "given" else "estimate without a proved bound",
    )


def _sampled(steps: ArrayLike | None, n_steps: int | None, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Return the steps at which norms were taken, broadcast to (R, n, N); None where it was at every step."""
    if steps is None:
        if n_steps is not None:
            raise ValueError("n_steps must be given with steps only: without them norms are those of every step")
        return None
    if n_steps is None:
        raise ValueError("n_steps must be given with steps, got None")
    given = plain_array("steps", steps)
    if given.shape not in (shape[-1:], shape):
        raise ValueError(f"steps must have shape {shape[-1:]} or that of grad_norms {shape}, got {given.shape}")
    quadrature_weights(given if given.ndim == 1 else given.reshape(-1, shape[-1]), n_steps=n_steps)  # checks them
    whole = np.broadcast_to(given.astype(np.int64), shape)
    return whole if len(shape) == 3 else whole[:, np.newaxis, :]


def _fill_in(runs: Float64, steps: NDArray[np.int64], n_steps: int) -> Float64:
    """Return norms at every step, linear between those taken, shape (R, n, n_steps)."""
    every = np.arange(n_steps)
    filled = np.empty((*runs.shape[:2], n_steps))
    for run, record in np.ndindex(*runs.shape[:2]):
        filled[run, record] = np.interp(every, steps[run, record], runs[run, record])
    return filled


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
        with np.errstate(over="ignore", under="ignore"):
            moment = logsumexp(p * (current - 1.0) * cost, axis=0) - np.log(n_runs)
            if side == "pq":
                total += moment / (p * (current - 1.0))
                current = 1.0 + (current - 1.0) * p / (p - 1.0)
            else:
                total += discount * (((current - 1.0) * cost).max(axis=0) if last else moment / p) / (order - 1.0)
                current *= p / (p - 1.0)
                discount *= (p - 1.0) / p
    return total
