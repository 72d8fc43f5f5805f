"""The bound by shifted interpolation on deleting records from a Langevin ridge run.

Only the reference run has to contract; a step separates the two runs by at most step_size ||x|| ||x^T theta - y||,
bounded with high probability along the true run, whose law is known (shifted interpolation: Bok, Su, Altschuler,
[BSA24] arXiv 2403.00278; individual sensitivities: [BAC26] arXiv 2602.15602, section 3, with the conditioning on the
good event replaced by a clipped step, which costs delta_s in one direction and e^epsilon delta_s in the other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from expunge.accounting.gdp import gdp_delta
from expunge.accounting.ridge_law import LawPair, Phase, RidgeDeletion
from expunge.accounting.shifted import shifted_mu

__all__ = [
    "ShiftedClaim",
    "UniformBound",
    "residual_norm_quantile",
    "sensitivities",
    "shifted_claim",
    "smallest_eigenvalues",
    "tracked_mu",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ShiftedClaim:
    """A bound by shifted interpolation: GDP parameter and the two deltas, failure probability included."""

    mu: float
    delta_pq: float
    delta_qp: float

    @property
    def delta(self) -> float:
        """The larger of the two directions."""
        return max(self.delta_pq, self.delta_qp)


def sensitivities(deletion: RidgeDeletion, phases: Sequence[Phase], *, delta_s: float) -> list[Array]:
    """Return, per phase and step, a bound on how far the step can separate the two runs (0 once the rows are gone).

    All bounds hold at once with probability at least 1 - delta_s along the true run (a union over rows and steps;
    theta_0 is known).
    """
    draws = sum(len(deletion.present(phase)) * phase.n_steps for phase in phases)
    first = next((phase for phase in phases if phase.n_steps), None)
    draws -= len(deletion.present(first)) if first is not None else 0
    tail = delta_s / max(draws, 1)
    result, state = [], deletion.start
    for phase in phases:
        norms = np.linalg.norm(deletion.design[deletion.present(phase)], axis=1)
        result.append(deletion.step_size * (norms @ _residual_bounds(deletion, state, phase, tail)))
        state = deletion.advance(state, phase)
    return result


def _residual_bounds(deletion: RidgeDeletion, state: LawPair, phase: Phase, tail: float) -> Array:
    """Return bounds (n_present, n_steps) on the residual norms of the deleted rows during one phase of the true run."""
    present = deletion.present(phase)
    distance = np.zeros((present.size, phase.n_steps))
    variance = np.zeros_like(distance)
    if not distance.size:
        return distance
    own = deletion.basis(phase.removed)
    rows = deletion.design[present] @ own.vectors
    rotation = deletion.reference.vectors.T @ own.vectors
    covariance = rotation.T @ (np.diag(state.variance_q) + state.covariance_difference) @ rotation
    started = bool(np.any(covariance))
    mean, push = own.vectors.T @ state.mean_p, deletion.step_size * own.moment
    power, geometric = np.ones_like(own.a), np.zeros_like(own.a)
    for k in range(phase.n_steps):
        distance[:, k] = np.linalg.norm(rows @ mean - deletion.targets[present], axis=1)
        variance[:, k] = phase.noise_std**2 * (rows**2 @ geometric)
        if started:
            scaled = rows * power
            variance[:, k] += np.einsum("ij,ij->i", scaled @ covariance, scaled)
        mean = own.a[:, None] * mean + push
        geometric = geometric + power * power
        power = power * own.a
    # Rounding of the recursion: a few units per step and per term of the products.
    slack = 8 * (phase.n_steps + own.a.size) * np.finfo(float).eps
    return residual_norm_quantile(distance, variance, deletion.targets.shape[1], tail) * (1 + slack)


def tracked_mu(
    deletion: RidgeDeletion, phases: Sequence[Phase], *, delta_s: float, known: Sequence[Array] | None = None
) -> float:
    """Return the GDP parameter of shifted interpolation with the deleted rows' own sensitivities.

    ``known`` sensitivities, of a prefix of ``phases`` after which every deleted row is gone, save forming them again.
    """
    kept = deletion.effective_phases(phases)
    steps = list((sensitivities(deletion, kept, delta_s=delta_s) if known is None else known)[: len(kept)])
    steps += [np.zeros(phase.n_steps) for phase in kept[len(steps) :]]
    return _mu_of_path(kept, steps, _outward(deletion.contraction, deletion))


def _outward(contraction: float, deletion: RidgeDeletion) -> float:
    """Round a contraction factor up by the error of the eigenvalue it comes from."""
    return contraction + 8.0 * int(deletion.design.shape[1]) * float(np.finfo(float).eps)


def _mu_of_path(phases: Sequence[Phase], steps: Sequence[Array], contraction: float) -> float:
    noise = np.concatenate([np.full(phase.n_steps, phase.noise_std) for phase in phases])
    return float(shifted_mu(np.concatenate(steps), np.full(noise.size, contraction), noise))


def residual_norm_quantile(distance: Array, variance: Array, q: int, tail: float) -> Array:
    """Return an upper bound on the (1 - tail) quantile of ||N(m, v I_q)|| with ||m|| = ``distance``.

    The noncentral chi-square quantile, kept between its two elementary bounds distance + sqrt(v) z and
    distance + sqrt(v) chi_q, and rounded outward; where the library value cannot be trusted, the upper one.
    """
    spread = np.sqrt(variance)
    upper = distance + spread * float(stats.chi.isf(tail, q))
    lower = distance + spread * float(stats.norm.isf(tail))
    result = upper.copy()
    with np.errstate(all="ignore"):
        noncentrality = np.where(variance > 0, distance**2 / np.where(variance > 0, variance, 1.0), np.inf)
        usable = noncentrality < 1e4
        if usable.any():
            center = noncentrality[usable]
            exact = stats.ncx2.isf(tail, q, center) * (1 + 1e-13)
            value = upper[usable]
            for outward in (1e-9, 1e-11, 0.0):  # the tightest whose tail the library confirms
                candidate = exact * (1 + outward)
                confirmed = np.isfinite(candidate) & (stats.ncx2.sf(candidate, q, center) <= tail)
                value = np.where(confirmed, np.sqrt(candidate) * spread[usable], value)
            result[usable] = np.clip(value, lower[usable], upper[usable])
    return np.asarray(result * (1 + 4 * np.finfo(float).eps))


def shifted_claim(
    design: Array,
    targets: Array,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    epsilon: float,
    delta_s: float,
    uniform: bool = False,
) -> ShiftedClaim:
    """Return the bound by shifted interpolation on deleting rows from a run.

    The sensitivities hold with probability 1 - delta_s along P; by the clip argument the two directions then cost
    delta_s and e^epsilon delta_s more.

    Parameters
    ----------
    design, targets, alpha, step_size, phases, deleted
        As in `deletion_pair`.
    epsilon : float
        At which the deltas are wanted.
    delta_s : float
        Failure probability given to the residual bounds, in (0, 1).
    uniform : bool
        Use the worst case over all records of the first fit instead of the deleted ones' own sensitivities
        (learning plus one unlearning phase only).

    Returns
    -------
    ShiftedClaim
        With ``mu``, ``delta_pq`` and ``delta_qp`` (at most 1 each).

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3), np.ones((3, 1))
    >>> run = [Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,))]
    >>> problem = dict(alpha=1.0, step_size=0.5, phases=run, deleted=[0])
    >>> claim = shifted_claim(X, y, **problem, epsilon=1.0, delta_s=1e-7)
    >>> from expunge.accounting.ridge_law import deletion_pair
    >>> bool(deletion_pair(X, y, **problem).delta(1.0) <= claim.delta)
    True
    """
    deletion = RidgeDeletion(design, targets, alpha=alpha, step_size=step_size, deleted=deleted)
    if uniform:
        mu = UniformBound(
            design,
            targets,
            alpha=alpha,
            step_size=step_size,
            learning=phases[0],
            delta_s=delta_s,
            group_size=len(deletion.deleted),
        ).mu(phases)
    else:
        mu = tracked_mu(deletion, phases, delta_s=delta_s)
    base = float(gdp_delta(mu, epsilon)) if np.isfinite(mu) else 1.0
    return ShiftedClaim(mu, min(1.0, base + delta_s), min(1.0, base + float(np.exp(epsilon)) * delta_s))


class UniformBound:
    """The worst case over all records: what a calibration blind to the record has to assume (an oracle baseline).

    ``group_size`` records deleted together are each as bad as the worst, and share delta_s.
    """

    def __init__(
        self,
        design: Array,
        targets: Array,
        *,
        alpha: float,
        step_size: float,
        learning: Phase,
        delta_s: float,
        group_size: int = 1,
    ) -> None:
        self._problem = RidgeDeletion(design, targets, alpha=alpha, step_size=step_size, deleted=())
        self._learning = learning
        basis = self._problem.reference
        rows = design @ basis.vectors
        norms = np.linalg.norm(design, axis=1)
        tail = delta_s / max(group_size * (learning.n_steps - 1), 1)
        q = targets.shape[1]
        worst = np.zeros(learning.n_steps)
        mean, push = np.zeros_like(basis.moment), step_size * basis.moment
        power, geometric = np.ones_like(basis.a), np.zeros_like(basis.a)
        squares = rows**2
        for k in range(learning.n_steps):
            distance = np.linalg.norm(rows @ mean - targets, axis=1)
            variance = learning.noise_std**2 * (squares @ geometric)
            # The cheap bound is enough to leave out records that cannot be the worst.
            spread = np.sqrt(variance)
            high = norms * (distance + spread * float(stats.chi.isf(tail, q)))
            low = norms * (distance + spread * float(stats.norm.isf(tail)))
            close = high >= low.max()
            quantile = residual_norm_quantile(distance[close], variance[close], q, tail)
            worst[k] = step_size * float(np.max(norms[close] * quantile))
            mean = basis.a[:, None] * mean + push
            geometric = geometric + power * power
            power = power * basis.a
        self._sensitivity = group_size * worst
        top = float(basis.values[-1])
        smallest = smallest_eigenvalues(basis.values, squares, floor=alpha).min()
        lowest = float(smallest) if group_size == 1 else alpha
        self._contraction = _outward(max(1.0 - step_size * lowest, step_size * top - 1.0), self._problem)

    def mu(self, phases: Sequence[Phase]) -> float:
        """Return the GDP parameter of learning followed by at most one unlearning phase."""
        if len(phases) > 2 or phases[0] != self._learning:
            raise ValueError("method 'uniform' is defined for a first deletion: learning and one unlearning phase")
        kept = [phase for phase in phases if phase.n_steps and (phase.noise_std or phase is phases[0])]
        steps = [self._sensitivity] + [np.zeros(phase.n_steps) for phase in kept[1:]]
        return _mu_of_path(kept, steps, self._contraction)


def smallest_eigenvalues(values: Array, squares: Array, *, floor: float) -> Array:
    """Return a lower bound on the smallest eigenvalue of diag(values) - x x^T for every row of ``squares`` = x**2.

    Bisection on the secular equation 1 = sum_j x_j^2 / (h_j - lambda) below the smallest h; the lower end is kept.
    """
    low = np.maximum(values[0] - squares.sum(axis=1), floor)
    high = np.full(len(squares), values[0])
    for _ in range(60):
        middle = 0.5 * (low + high)
        with np.errstate(divide="ignore"):
            above = np.einsum("ij,ij->i", squares, 1.0 / (values[None, :] - middle[:, None])) < 1.0
        low = np.where(above, middle, low)
        high = np.where(above, high, middle)
    lower: Array = np.maximum(low * (1 - 1e-12), floor)
    return lower
