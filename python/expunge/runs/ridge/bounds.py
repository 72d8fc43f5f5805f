"""The bound by shifted interpolation on deleting records from a Langevin ridge run.

Only the reference run has to contract; a step separates the two runs by at most step_size ||x|| ||x^T theta - y||,
bounded with high probability along the true run, whose law is known (shifted interpolation: Bok, Su, Altschuler,
[BSA24] arXiv 2403.00278; individual sensitivities: [BAC26] arXiv 2602.15602, section 3, with the conditioning on the
good event replaced by a clipped step, which costs delta_s in one direction and e^epsilon delta_s in the other).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from expunge.accounting.shifted import shifted_mu
from expunge.data.close_products import norm
from expunge.runs.ridge.clipping import clipped_deltas
from expunge.runs.ridge.held_rows import RowTable
from expunge.runs.ridge.law import LawPair, Phase, RidgeDeletion, require_squares
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.rounding import Basis
from expunge.runs.ridge.secular import smallest_eigenvalues
from expunge.runs.ridge.step_blocks import Block, FrameErrors, blocks, n_blocks

__all__ = [
    "FrameErrors",
    "ShiftedClaim",
    "Steps",
    "UniformBound",
    "claim_of",
    "n_blocks",
    "residual_norm_quantile",
    "sensitivities",
    "shifted_claim",
    "tracked_mu",
]

Array = NDArray[np.float64]

# Records whose quantiles are formed together.
_SETTLED = 1 << 16
_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
_LEAST_MU = 1e-140


@dataclass(frozen=True)
class ShiftedClaim:
    """A certified bound by shifted interpolation: GDP parameter and the two deltas, failure probability included."""

    mu: float
    delta_pq: float
    delta_qp: float
    status: str = field(default="certified", init=False)

    @property
    def delta(self) -> float:
        """The larger of the two directions."""
        return max(self.delta_pq, self.delta_qp)


class Steps(NamedTuple):
    """Bounds on how far steps can separate the two runs, over blocks of consecutive steps.

    Attributes
    ----------
    length : ndarray of int64, shape (n_blocks,)
        Steps of each block: 1 early in a phase, growing later on, when little changes any more.
    bound : ndarray of float64, shape (n_blocks,)
        Bound that holds at every step of the block.
    """

    length: NDArray[np.int64]
    bound: Array


def sensitivities(deletion: RidgeDeletion, phases: Sequence[Phase], *, delta_s: float) -> list[Steps]:
    """Return, per phase, bounds on how far each step can separate the two runs (0 once the rows are gone).

    All bounds hold at once with probability at least 1 - delta_s along the true run (a union over rows and steps;
    theta_0 is known).
    """
    draws = sum(len(deletion.present(phase)) * phase.n_steps for phase in phases)
    first = next((phase for phase in phases if phase.n_steps), None)
    draws -= len(deletion.present(first)) if first is not None else 0
    tail = delta_s / max(draws, 1)
    result, state = [], deletion.start
    for phase in phases:
        require_squares(phase)
        present = deletion.present(phase)
        if present.size and phase.n_steps:
            norms = np.linalg.norm(deletion.design[present], axis=1)
            length, bounds = _residual_bounds(deletion, state, phase, tail)
            result.append(Steps(length, deletion.step_size * (norms @ bounds)))
        else:
            result.append(_no_shift(phase))
        state = deletion.advance(state, phase)
    return result


def _no_shift(phase: Phase) -> Steps:
    """Return the steps of a phase that is the same on both sides: one block, if there are any."""
    some = min(phase.n_steps, 1)
    return Steps(np.full(some, phase.n_steps, dtype=np.int64), np.zeros(some))


@np.errstate(over="ignore")  # an infinite bound is one, and no claim
def _residual_bounds(
    deletion: RidgeDeletion, state: LawPair, phase: Phase, tail: float
) -> tuple[NDArray[np.int64], Array]:
    """Return block lengths and bounds (n_present, n_blocks) on the deleted rows' residual norms along the true run."""
    present = deletion.present(phase)
    own = deletion.basis(phase.removed)
    rows, targets = deletion.design[present] @ own.vectors, deletion.targets[present]
    rotation = deletion.reference.vectors.T @ own.vectors
    covariance = rotation.T @ (np.diag(state.variance_q) + state.covariance_difference) @ rotation
    started = bool(np.any(covariance))
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    errors = state.proved_errors()
    frame = FrameErrors(own, phase.n_steps, deletion.step_size, norm(errors.mean_p))
    norms = np.linalg.norm(deletion.design[present], axis=1) * (1.0 + 1e-12)
    # Of the start's own standard deviations: what it was off by, and what this phase's frame does to it.
    off = math.sqrt(norm(errors.covariance_q) + norm(errors.covariance_difference))
    off += (frame.share + 3.0 * frame.turned) * math.sqrt(norm(covariance))
    lengths, distance, variance = [], [], []
    for block in blocks(own, own.vectors.T @ state.mean_p, phase.n_steps, deletion.step_size):
        lengths.append(block.length)
        distance.append(_distance(rows, targets, block) + norms * frame.mean_off(block))
        now = phase.noise_std * phase.noise_std * (rows**2 @ block.geometric)
        now = frame.deviation(now, norms, phase.noise_std) ** 2
        if started:
            scaled = rows * block.power
            first = np.maximum(np.einsum("ij,ij->i", scaled @ covariance, scaled), 0.0)
            # The covariance is a seminorm: what the block changes adds at most its parts, one by one.
            now = now + (np.sqrt(first) + (np.abs(rows) * block.drop) @ spread + norms * off) ** 2
        variance.append(now)
    # Rounding of the recursion: a few units per step and per term of the products.
    slack = 8 * (phase.n_steps + own.a.size) * np.finfo(float).eps
    away, around = np.stack(distance, axis=1), np.stack(variance, axis=1)
    bounds = residual_norm_quantile(away, around, deletion.targets.shape[1], tail) * (1 + slack)
    return np.array(lengths, dtype=np.int64), bounds


def _distance(rows: Array, targets: Array, block: Block) -> Array:
    """Return a bound on the norm of each row's noise-free residual in every step of a block."""
    sizes = np.abs(rows)
    # What the residual may be off by: its own products, and the parameters'. It may be far smaller than they are.
    each = 4.0 * _EPS * (rows.shape[1] + 2.0)
    off = sizes @ (block.change + block.error + each * np.abs(block.mean)) + each * np.abs(targets)
    return np.asarray(np.linalg.norm(rows @ block.mean - targets, axis=1) + np.linalg.norm(off, axis=1))


def tracked_mu(
    deletion: RidgeDeletion, phases: Sequence[Phase], *, delta_s: float, known: Sequence[Steps] | None = None
) -> float:
    """Return the GDP parameter of shifted interpolation with the deleted rows' own sensitivities.

    ``known`` sensitivities, of a prefix of ``phases`` after which every deleted row is gone, avoid forming them again.
    """
    kept = deletion.effective_phases(phases)
    steps = list((sensitivities(deletion, kept, delta_s=delta_s) if known is None else known)[: len(kept)])
    steps += [_no_shift(phase) for phase in kept[len(steps) :]]
    return _mu_of_path(kept, steps, _outward(deletion.contraction, deletion.reference))


def _outward(contraction: float, basis: Basis) -> float:
    """Round a contraction factor up by the error of the eigenvalue it comes from, to at most 1: no step expands."""
    return min(contraction + 1.01 * basis.frame.norm + 4.0 * _EPS, 1.0)


def _mu_of_path(phases: Sequence[Phase], steps: Sequence[Steps], contraction: float) -> float:
    for phase in phases:
        require_squares(phase)
    length = np.concatenate([part.length for part in steps]).astype(np.float64)
    bound = np.concatenate([part.bound for part in steps])
    noise = np.concatenate(
        [np.full(part.length.size, phase.noise_std) for phase, part in zip(phases, steps, strict=True)]
    )
    mu = float(shifted_mu(*_merged(bound, noise, contraction, length)))
    # Bounds of it that underflow are no claim of 0.
    return max(mu, _LEAST_MU) if bound.any() else mu


def _merged(bound: Array, noise: Array, contraction: float, length: Array) -> tuple[Array, Array, Array]:
    """Return sensitivity, contraction and noise of blocks of equal steps, each as one step, rounded outward.

    Within a block of a contraction c <= 1 the points (V, S) of the path are concave, so that only its two ends can be
    on the greatest convex minorant: sum of c^j, c^length and the root of the sum of c^(2j) say it all.
    """
    if contraction == 0.0:
        return bound, np.zeros_like(bound), noise
    if contraction == 1.0:
        once, power, twice = length, np.ones_like(length), length
    else:
        slope = math.log(contraction)
        power = np.maximum(np.exp(length * slope), _TINY)
        once = np.expm1(length * slope) / (contraction - 1.0)
        twice = np.expm1(2.0 * length * slope) / math.expm1(2.0 * slope)
    error = np.where(length > 1, 8.0 * np.finfo(float).eps * (1.0 + np.abs(np.log(power))), 0.0)
    single = length == 1
    return (
        np.where(single, bound, bound * once * (1.0 + error)),
        np.where(single, contraction, np.minimum(power * (1.0 + error), 1.0)),
        np.where(single, noise, noise * np.sqrt(twice) * (1.0 - error)),
    )


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
        Epsilon at which the deltas are wanted.
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
    >>> from expunge.runs.ridge.law import deletion_pair
    >>> bool(deletion_pair(X, y, **problem).delta(1.0) <= claim.delta)
    True
    """
    deletion = RidgeDeletion(design, targets, alpha=alpha, step_size=step_size, deleted=deleted)
    return claim_of(deletion, phases, epsilon=epsilon, delta_s=delta_s, uniform=uniform)


def claim_of(
    deletion: RidgeDeletion, phases: Sequence[Phase], *, epsilon: float, delta_s: float, uniform: bool = False
) -> ShiftedClaim:
    """Return the claim of `shifted_claim` from a deletion that has been made."""
    if uniform:
        mu = UniformBound.of(deletion, learning=phases[0], delta_s=delta_s).mu(phases)
    else:
        mu = tracked_mu(deletion, phases, delta_s=delta_s)
    forth, back = clipped_deltas(mu, epsilon, failure=delta_s)
    return ShiftedClaim(mu, float(forth), float(back))


class UniformBound:
    """The worst case over all records: what a calibration blind to the record has to assume (an oracle baseline).

    ``group_size`` records deleted together are each as bad as the worst, and share delta_s. Records may come some at a
    time, in one pass: the worst of all is the worst of the worst.
    """

    def __init__(
        self,
        design: RowTable,
        targets: RowTable,
        *,
        alpha: float,
        step_size: float,
        learning: Phase,
        delta_s: float,
        group_size: int = 1,
        products: Products | None = None,
    ) -> None:
        run: dict[str, Any] = {"alpha": alpha, "step_size": step_size, "products": products}
        self._begin(RidgeDeletion(design, targets, **run, deleted=()), learning, delta_s, group_size)
        self._see_all()

    @classmethod
    def of(cls, deletion: RidgeDeletion, *, learning: Phase, delta_s: float) -> UniformBound:
        """Return the bound for as many records as ``deletion`` deletes, computed once."""
        key = "uniform", learning, delta_s
        if key not in deletion.known:
            (deletion.known[key],) = cls.of_sizes(deletion, [len(deletion.deleted)], learning=learning, delta_s=delta_s)
        found = deletion.known[key]
        assert isinstance(found, UniformBound)
        return found

    @classmethod
    def of_sizes(
        cls, deletion: RidgeDeletion, sizes: Sequence[int], *, learning: Phase, delta_s: float
    ) -> list[UniformBound]:
        """Return the bounds for several numbers of records deleted together, in one pass over all records."""
        found = [cls.__new__(cls) for _ in sizes]
        for one, size in zip(found, sizes, strict=True):
            one._begin(deletion, learning, delta_s, size)
        for design, targets in deletion.products.parts(what="method 'uniform'"):
            for one in found:
                one._see(design, targets)
        for one in found:
            one._finish()
        return found

    def _begin(self, problem: RidgeDeletion, learning: Phase, delta_s: float, group_size: int) -> None:
        require_squares(learning)
        if learning.n_steps < 1:
            raise ValueError(f"n_steps of learning must be at least 1, got {learning.n_steps}")
        self._problem, self._basis = problem, problem.basis(())
        self._learning, self._group_size = learning, group_size
        self._tail = delta_s / max(group_size * (learning.n_steps - 1), 1)
        self._lengths: list[int] = []
        self._least: list[float] = []
        self._worst: list[float] = []
        self._lowest = math.inf

    def _see_all(self) -> None:
        for design, targets in self._problem.products.parts(what="method 'uniform'"):
            self._see(design, targets)
        self._finish()

    @np.errstate(over="ignore")
    def _see(self, design: Array, targets: Array) -> None:
        """Take some records in."""
        basis, learning, step_size, q = self._basis, self._learning, self._problem.step_size, targets.shape[1]
        rows = design @ basis.vectors
        norms = np.linalg.norm(design, axis=1) * (1.0 + 1e-12)
        squares = rows**2
        slack = 8 * (learning.n_steps + basis.a.size) * np.finfo(float).eps
        frame = FrameErrors(basis, learning.n_steps, step_size, 0.0)
        most, least = float(stats.chi.isf(self._tail, q)), float(stats.norm.isf(self._tail))
        pending: list[tuple[int, Array, Array, Array]] = []
        waiting = 0

        def settle() -> None:
            # One call for many blocks: the quantile's own cost is small beside that of a call.
            numbers = [one[0] for one in pending]
            norm, distance, variance = (np.concatenate([one[k] for one in pending]) for k in (1, 2, 3))
            reached = norm * residual_norm_quantile(distance, variance, q, self._tail) * (1 + slack)
            starts = np.cumsum([0, *(len(one[1]) for one in pending[:-1])])
            for number, value in zip(numbers, np.maximum.reduceat(reached, starts), strict=True):
                self._worst[number] = float(np.maximum(self._worst[number], value))  # NaN stays
            pending.clear()

        self._lengths = []
        for i, block in enumerate(blocks(basis, np.zeros_like(basis.moment), learning.n_steps, step_size)):
            distance = _distance(rows, targets, block) + norms * frame.mean_off(block)
            variance = learning.noise_std * learning.noise_std * (squares @ block.geometric)
            # The cheap bound is enough to leave out records that cannot be the worst.
            spread = frame.deviation(variance, norms, learning.noise_std)
            variance = spread * spread
            if i == len(self._worst):
                self._least.append(0.0)
                self._worst.append(0.0)
            self._least[i] = float(np.maximum(self._least[i], (norms * (distance + spread * least)).max()))
            close = ~(norms * (distance + spread * most) < self._least[i])
            self._lengths.append(block.length)
            if close.any():
                pending.append((i, norms[close], distance[close], variance[close]))
                waiting += int(close.sum())
            if waiting > _SETTLED:
                settle()
                waiting = 0
        if pending:
            settle()
        if self._group_size == 1:
            square = float(norms.max()) ** 2
            # A row in the frame is off by its turn, and its square by twice that.
            off = 3.0 * frame.turned * square
            found = smallest_eigenvalues(basis.values, rows, floor=self._problem.alpha, square=square, off=off)
            self._lowest = min(self._lowest, float(found.min()))

    def _finish(self) -> None:
        step_size, basis = self._problem.step_size, self._basis
        bound = step_size * self._group_size * np.array(self._worst)
        self._steps = Steps(np.array(self._lengths, dtype=np.int64), bound)
        lowest = self._lowest if self._group_size == 1 else self._problem.alpha
        rate = max(1.0 - step_size * lowest, step_size * float(basis.values[-1]) - 1.0)
        self._contraction = _outward(rate, basis)

    def mu(self, phases: Sequence[Phase]) -> float:
        """Return the GDP parameter of learning followed by at most one unlearning phase."""
        if len(phases) > 2 or phases[0] != self._learning:
            raise ValueError("method 'uniform' is defined for a first deletion: learning and one unlearning phase")
        kept = [phase for phase in phases if phase.n_steps and (phase.noise_std or phase is phases[0])]
        steps = [self._steps] + [_no_shift(phase) for phase in kept[1:]]
        return _mu_of_path(kept, steps, self._contraction)
