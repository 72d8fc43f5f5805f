"""The bound by shifted interpolation on deleting records from a Langevin ridge run.

Only the reference run has to contract; a step separates the two runs by at most step_size ||x|| ||x^T theta - y||,
bounded with high probability along the true run, whose law is known (shifted interpolation: Bok, Su, Altschuler,
[BSA24] arXiv 2403.00278; individual sensitivities: [BAC26] arXiv 2602.15602, section 3, with the conditioning on the
good event replaced by a clipped step, which costs delta_s in one direction and e^epsilon delta_s in the other).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from expunge.accounting.close_products import norm, sum_error
from expunge.accounting.gdp import gdp_delta
from expunge.accounting.power_sums import powers
from expunge.accounting.ridge_law import LawPair, Phase, RidgeDeletion, require_squares
from expunge.accounting.ridge_rounding import Basis
from expunge.accounting.shifted import shifted_mu

__all__ = [
    "FrameErrors",
    "ShiftedClaim",
    "Steps",
    "UniformBound",
    "n_blocks",
    "residual_norm_quantile",
    "sensitivities",
    "shifted_claim",
    "smallest_eigenvalues",
    "tracked_mu",
]

Array = NDArray[np.float64]

# Steps of a phase that are bounded one by one; later ones in blocks that make 32 to a doubling of the time.
_SINGLE_STEPS = 2048
_BLOCKS_PER_DOUBLING = 32
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


class _Block(NamedTuple):
    """One block of steps of a run in its eigenbasis: the state at its first step and how much it still changes."""

    length: int
    mean: Array  # (p, q), noise-free parameters before the first step
    error: Array  # (p, q), bound on their rounding
    change: Array  # (p, q), absolute change up to the last step
    power: Array  # (p,), a^k before the first step
    drop: Array  # (p,), fall of that power up to the last step
    geometric: Array  # (p,), sum of a^(2j) before the last step


def _blocks(basis: Basis, mean: Array, n_steps: int, step_size: float) -> Iterator[_Block]:
    """Yield the blocks of a phase that starts at ``mean``; the early steps one by one."""
    push = step_size * basis.moment
    a, still = basis.a, np.zeros_like(mean)
    power, geometric, none = np.ones_like(a), np.zeros_like(a), np.zeros_like(a)
    current, largest = mean, np.abs(mean)
    with np.errstate(divide="ignore"):
        memory = 1.0 / (1.0 - a)[:, None]  # steps over which a rounding is felt

    def rounding(k: int) -> Array:
        return 4.0 * _EPS * np.minimum(memory, k + 1.0) * largest

    for k in range(min(n_steps, _SINGLE_STEPS)):
        largest = np.maximum(largest, np.abs(current))
        yield _Block(1, current, rounding(k), still, power, none, geometric)
        current = a[:, None] * current + push
        geometric = geometric + power * power
        power = power * a
    done = _SINGLE_STEPS
    while done < n_steps:
        length = min(max(done // _BLOCKS_PER_DOUBLING, 1), n_steps - done)
        last_power, last_total = powers(a, done + length - 1)
        last = last_power[:, None] * mean + last_total[:, None] * push
        largest = np.maximum(largest, np.abs(last))
        yield _Block(
            length, current, rounding(done + length), np.abs(last - current), power, np.abs(power - last_power),
            powers(a * a, done + length - 1)[1],
        )  # fmt: skip
        power, current = last_power * a, a[:, None] * last + push
        done += length


class FrameErrors:
    """What the rounding of an eigenbasis does to a run in it: bounds on the residuals' means and standard deviations.

    With A = diag(a) + F in the frame, the true means differ from those computed by sum of A^(k-1-m) (F M_m + eta d) and
    A^k (what the start is off by), d being the error of V^T X^T Y; with r = |F| times the sum of |A|^k, the true
    standard deviation of the noise in any direction is at most 1/(1 - r) of that computed.
    """

    def __init__(self, basis: Basis, phase_steps: int, step_size: float, start_off: float) -> None:
        p, frame = basis.a.size, basis.frame
        self.norm = frame.norm
        rate = float(np.abs(basis.a).max()) + frame.norm
        self.memory = phase_steps if rate >= 1.0 else min(phase_steps, 1.0 / (1.0 - rate))
        if rate > 1.0:
            self.memory *= math.exp(min(phase_steps * (rate - 1.0), 700.0))
        self.share = frame.norm * self.memory
        if not self.share < 0.1:
            raise ValueError(
                f"the run is numerically singular: rounding may move its parameters by {self.share:.2g} of their size. "
                "Fewer steps, a larger alpha, or features divided by constants that make them alike help"
            )
        self._push = step_size * norm(basis.moment_error)
        self.turned = frame.apart + 2.0 * math.sqrt(p) * sum_error(p)
        self._start, self._largest, self._done = start_off, 0.0, 0

    def mean_off(self, block: _Block) -> float:
        """Return a bound on the norm of what the mean is off by in a block; blocks come in order."""
        self._largest = max(self._largest, norm(block.mean) + norm(block.change))
        self._done += block.length
        return float(self.means_off(np.array(self._largest), np.array(self._done - 1.0)))

    def means_off(self, largest: Array, done: Array) -> Array:
        """Return the same after ``done`` steps, of means whose norms were at most ``largest`` so far."""
        moved = np.minimum(self.memory, done) * (self.norm * largest + self._push) + self._start
        return np.asarray(moved + self.turned * largest)

    def deviation(self, variance: Array, lengths: Array, noise_std: float) -> Array:
        """Return bounds on the standard deviations from computed variances of rows of these lengths."""
        added, factor = self.deviation_off(noise_std)
        return np.asarray((np.sqrt(variance) + added * lengths) * factor)

    def deviation_off(self, noise_std: float) -> tuple[float, float]:
        """Return what is added to a computed standard deviation per length of the row, and the factor after that."""
        return self.turned * noise_std * math.sqrt(self.memory), (1.0 + 1e-12) / (1.0 - self.share)


def n_blocks(n_steps: int) -> int:
    """Return how many blocks a phase of ``n_steps`` has: its cost, which grows like the logarithm of long phases."""
    if n_steps <= _SINGLE_STEPS:
        return n_steps
    return _SINGLE_STEPS + math.ceil(math.log(n_steps / _SINGLE_STEPS) / math.log1p(1 / (_BLOCKS_PER_DOUBLING + 1))) + 1


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
    errors = state.errors
    if errors is None:
        raise ValueError("state must come from advance(..., proved=True), got laws without bounds on their errors")
    frame = FrameErrors(own, phase.n_steps, deletion.step_size, norm(errors.mean_p))
    norms = np.linalg.norm(deletion.design[present], axis=1) * (1.0 + 1e-12)
    # Of the start's own standard deviations: what it was off by, and what this phase's frame does to it.
    off = math.sqrt(norm(errors.covariance_q) + norm(errors.covariance_difference))
    off += (frame.share + 3.0 * frame.turned) * math.sqrt(norm(covariance))
    lengths, distance, variance = [], [], []
    for block in _blocks(own, own.vectors.T @ state.mean_p, phase.n_steps, deletion.step_size):
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


def _distance(rows: Array, targets: Array, block: _Block) -> Array:
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

    ``known`` sensitivities, of a prefix of ``phases`` after which every deleted row is gone, save forming them again.
    """
    kept = deletion.effective_phases(phases)
    steps = list((sensitivities(deletion, kept, delta_s=delta_s) if known is None else known)[: len(kept)])
    steps += [_no_shift(phase) for phase in kept[len(steps) :]]
    return _mu_of_path(kept, steps, _outward(deletion.contraction, deletion))


def _outward(contraction: float, deletion: RidgeDeletion) -> float:
    """Round a contraction factor up by the error of the eigenvalue it comes from, to at most 1: no step expands."""
    return min(contraction + 1.01 * deletion.reference.frame.norm + 4.0 * _EPS, 1.0)


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
    # e^epsilon within one unit in the last place; past 700 it is beyond any delta_s that float64 knows.
    grown = math.exp(epsilon) * (1.0 + 4.0 * np.finfo(float).eps) * delta_s if epsilon < 700.0 else 1.0
    return ShiftedClaim(mu, _sum_up(base, delta_s), _sum_up(base, grown))


def _sum_up(base: float, failure: float) -> float:
    """Return the sum rounded up, at most 1."""
    return min(1.0, math.nextafter(base + failure, math.inf))


class UniformBound:
    """The worst case over all records: what a calibration blind to the record has to assume (an oracle baseline).

    ``group_size`` records deleted together are each as bad as the worst, and share delta_s.
    """

    @np.errstate(over="ignore")
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
        require_squares(learning)
        if learning.n_steps < 1:
            raise ValueError(f"n_steps of learning must be at least 1, got {learning.n_steps}")
        basis = self._problem.reference
        rows = design @ basis.vectors
        norms = np.linalg.norm(design, axis=1) * (1.0 + 1e-12)
        tail = delta_s / max(group_size * (learning.n_steps - 1), 1)
        q = targets.shape[1]
        squares = rows**2
        slack = 8 * (learning.n_steps + basis.a.size) * np.finfo(float).eps
        frame = FrameErrors(basis, learning.n_steps, step_size, 0.0)
        most, least = float(stats.chi.isf(tail, q)), float(stats.norm.isf(tail))
        lengths: list[int] = []
        worst: list[Array] = []
        pending: list[tuple[Array, Array, Array]] = []
        waiting = 0

        def settle() -> None:
            # One call for many blocks: the quantile's own cost is small beside that of a call.
            norm, distance, variance = (np.concatenate(parts) for parts in zip(*pending, strict=True))
            reached = norm * residual_norm_quantile(distance, variance, q, tail) * (1 + slack)
            starts = np.cumsum([0, *(len(part[0]) for part in pending[:-1])])
            worst.append(np.maximum.reduceat(reached, starts))
            pending.clear()

        for block in _blocks(basis, np.zeros_like(basis.moment), learning.n_steps, step_size):
            distance = _distance(rows, targets, block) + norms * frame.mean_off(block)
            variance = learning.noise_std * learning.noise_std * (squares @ block.geometric)
            # The cheap bound is enough to leave out records that cannot be the worst.
            spread = frame.deviation(variance, norms, learning.noise_std)
            variance = spread * spread
            close = norms * (distance + spread * most) >= (norms * (distance + spread * least)).max()
            lengths.append(block.length)
            pending.append((norms[close], distance[close], variance[close]))
            waiting += int(close.sum())
            if waiting > _SETTLED:
                settle()
                waiting = 0
        if pending:
            settle()
        bound = step_size * group_size * np.concatenate(worst)
        self._steps = Steps(np.array(lengths, dtype=np.int64), bound)
        top = float(basis.values[-1])
        smallest = smallest_eigenvalues(basis.values, squares, floor=alpha).min()
        # A row in the frame is off by its turn, and its square by twice that.
        smallest = max(float(smallest) - 3.0 * frame.turned * float(norms.max()) ** 2, alpha)
        lowest = smallest if group_size == 1 else alpha
        self._contraction = _outward(max(1.0 - step_size * lowest, step_size * top - 1.0), self._problem)

    def mu(self, phases: Sequence[Phase]) -> float:
        """Return the GDP parameter of learning followed by at most one unlearning phase."""
        if len(phases) > 2 or phases[0] != self._learning:
            raise ValueError("method 'uniform' is defined for a first deletion: learning and one unlearning phase")
        kept = [phase for phase in phases if phase.n_steps and (phase.noise_std or phase is phases[0])]
        steps = [self._steps] + [_no_shift(phase) for phase in kept[1:]]
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
