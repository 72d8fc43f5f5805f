"""What forgetting a record costs under ridge Langevin dynamics: exact and shifted quotes for all records at once.

The run is ``theta <- theta - step_size (X^T (X theta - Y) + alpha theta) + noise_std xi`` for ``n_steps`` steps from
zero, then unlearning steps on the remaining records. Sources: [BAC26] Benarroch, Atif and Cappe, "Certified
Per-Instance Unlearning Using Individual Sensitivity Bounds", arXiv 2602.15602; [BSA24] Bok, Su and Altschuler,
"Shifted Interpolation for Differential Privacy", arXiv 2403.00278; Gragg and Harwood, "The numerically stable
reconstruction of Jacobi matrices from spectral data", Numerische Mathematik 44 (1984), for the Krylov reduction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._backend import core
from expunge._ridge_groups import group_reduction
from expunge._ridge_law import EPS, Float64, Int64, LearningLaw, one_blas_thread

__all__ = [
    "ExactQuotes",
    "LearningLaw",
    "ShiftedQuotes",
    "exact_group_quotes",
    "exact_quotes",
    "shifted_group_quotes",
    "shifted_quotes",
    "smallest_eigenvalues",
]


@dataclass(frozen=True)
class ExactQuotes:
    """What each record's deletion needs, from the exact privacy profile. An *estimate* with its error.

    Attributes
    ----------
    noise_std : ndarray of float64, shape (m,)
        Noise of each unlearning step: 0 where the learning noise suffices, infinite where nothing would.
    n_steps : ndarray of int64, shape (m,)
        Unlearning steps.
    epsilon : ndarray of float64, shape (m,)
        Epsilon reached at the asked delta: the asked one, or a smaller where no noise is needed.
    mu : ndarray of float64, shape (m,)
        Gaussian-DP parameter with the same delta at that epsilon.
    delta_pq, delta_qp : ndarray of float64, shape (m,)
        The two directions at ``epsilon``: deletion against the run without the record, and the reverse.
    error : ndarray of float64, shape (m,)
        Estimated relative error of what was solved for (of ``epsilon`` where no noise is needed), infinite where a
        given ``rank`` is too small to tell.
    rank : ndarray of int64, shape (m,)
        Dimension of the Krylov space used; ``n_features`` leaves rounding as the only error.
    """

    noise_std: Float64
    n_steps: Int64
    epsilon: Float64
    mu: Float64
    delta_pq: Float64
    delta_qp: Float64
    error: Float64
    rank: Int64


@dataclass(frozen=True)
class ShiftedQuotes:
    """What each record's deletion needs by the shifted-interpolation bound ([BAC26], [BSA24]). *Certified*.

    Attributes
    ----------
    noise_std : ndarray of float64, shape (m,)
        Noise of each unlearning step: 0 where the learning noise suffices, infinite where no noise would.
    n_steps : ndarray of int64, shape (m,)
        Unlearning steps.
    epsilon : ndarray of float64, shape (m,)
        Epsilon certified at the asked delta: the asked one, or a smaller where no noise is needed.
    mu : ndarray of float64, shape (m,)
        Certified Gaussian-DP parameter of the clipped run.
    delta_pq, delta_qp : ndarray of float64, shape (m,)
        Certified deltas at ``epsilon``, the probability that clipping acts included.
    """

    noise_std: Float64
    n_steps: Int64
    epsilon: Float64
    mu: Float64
    delta_pq: Float64
    delta_qp: Float64


@dataclass(frozen=True)
class _Goal:
    """A validated target: (epsilon, delta) and either a number of steps or a noise."""

    epsilon: float
    delta: float
    steps: float
    noise: float
    solve_steps: bool

    @classmethod
    def of(cls, epsilon: float, delta: float, n_steps: int | None, noise_std: float | None) -> _Goal:
        epsilon = _validate.number("epsilon", epsilon, low=0.0)
        delta = _validate.number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
        if (n_steps is None) == (noise_std is None):
            raise ValueError("exactly one of n_steps and noise_std must be given")
        if noise_std is not None:
            return cls(epsilon, delta, 0.0, _validate.number("noise_std", noise_std, low=0.0, open_low=True), True)
        return cls(epsilon, delta, float(_validate.count("n_steps", n_steps)), 0.0, False)

    def setting(self, law: LearningLaw, tolerance: float) -> Any:
        return core.RidgeSetting(
            step_size=law.step_size,
            noise_std=law.noise_std,
            unlearn_steps=self.steps,
            unlearn_noise_std=self.noise,
            solve_steps=self.solve_steps,
            epsilon=self.epsilon,
            log_delta=math.log(self.delta),
            mu=float(_gaussian_mu(self.epsilon, np.array([self.delta]))[0]),
            tolerance=tolerance,
        )

    def answers(self, value: Float64) -> tuple[Float64, Int64]:
        """Return (noise_std, n_steps) for the solved ``value``."""
        if not self.solve_steps:
            return value, np.full(value.size, int(self.steps), dtype=np.int64)
        endless = ~(value < 2.0**62)
        steps = np.where(endless, -1.0, value).astype(np.int64)
        noise = np.where(value > 0.0, self.noise, 0.0)
        noise[endless] = np.inf
        return noise, steps


def _log_gdp_delta(mu: Float64, epsilon: Float64 | float) -> Float64:
    """Return the log of delta(mu, epsilon) of the Gaussian mechanism, -inf at mu = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a = scipy.special.log_ndtr(-epsilon / mu + mu / 2)
        b = epsilon + scipy.special.log_ndtr(-epsilon / mu - mu / 2)
        out = np.where(mu > 0.0, a + np.log(-np.expm1(np.minimum(b - a, 0.0))), -np.inf)
    # epsilon = 0: 2 Phi(mu / 2) - 1 without the subtraction
    at_zero = np.broadcast_to(np.asarray(epsilon) == 0.0, out.shape)
    with np.errstate(divide="ignore"):
        return np.where(at_zero, np.log(scipy.special.erf(np.maximum(mu, 0.0) / math.sqrt(8.0))), out)


def _bisect(excess: Callable[[Float64], NDArray[np.bool_]], low: Float64, high: Float64) -> tuple[Float64, Float64]:
    """Shrink [low, high] around the change of ``excess`` from false to true, both in [0, inf)."""
    for _ in range(200):
        middle = np.where(low > 0.0, np.sqrt(low) * np.sqrt(high), 0.5 * (low + high))
        middle = np.where(high <= 4.0 * low, 0.5 * (low + high), middle)
        above = excess(middle)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
        if np.all(high - low <= 2e-16 * high):
            break
    return low, high


def _gaussian_mu(epsilon: Float64 | float, delta: Float64) -> Float64:
    """Return the largest mu whose Gaussian mechanism keeps delta at epsilon, rounded down."""
    log_delta = np.log(delta)
    low, _ = _bisect(
        lambda mu: _log_gdp_delta(mu, epsilon) > log_delta, np.full(delta.shape, 1e-16), np.full(delta.shape, 1e4)
    )
    return low * (1.0 - 1e-13)


def _exp_up(log_value: Float64) -> Float64:
    with np.errstate(under="ignore"):
        out = np.minimum(np.exp(log_value) * (1.0 + 4.0 * EPS), 1.0)
    # below the range of a double, the smallest normal number still bounds
    return np.where((out < 2.3e-308) & (log_value > -np.inf), 2.3e-308, out)


class _ExactOutput:
    """Arrays the kernels fill, and what is read from them."""

    def __init__(self, size: int) -> None:
        self.value, self.epsilon, self.log_pq, self.log_qp, self.error = np.full((5, size), np.nan)
        self.rank = np.zeros(size, dtype=np.int64)

    def part(self, at: slice) -> tuple[Float64, Float64, Float64, Float64, Float64, Int64]:
        floats = self.value[at], self.epsilon[at], self.log_pq[at], self.log_qp[at], self.error[at]
        return (*floats, self.rank[at])

    def quotes(self, goal: _Goal) -> ExactQuotes:
        if np.isnan(self.value).any():
            first = int(np.flatnonzero(np.isnan(self.value))[0])
            raise ValueError(
                f"records must be scaled so that their laws can be computed, got a failure at entry {first}"
            )
        noise, steps = goal.answers(self.value)
        pq, qp = _exp_up(self.log_pq), _exp_up(self.log_qp)
        delta = np.maximum(pq, qp)
        mu = np.zeros(delta.size)
        solved = (delta > 0.0) & (delta < 1.0)
        found = np.empty(int(solved.sum()))
        core.gdp_mu(self.epsilon[solved], delta[solved], found, threads=1)
        mu[solved] = found
        mu[delta >= 1.0] = np.inf
        return ExactQuotes(noise, steps, self.epsilon, mu, pq, qp, self.error, self.rank)


def exact_quotes(
    law: LearningLaw,
    records: ArrayLike,
    *,
    epsilon: float,
    delta: float,
    n_steps: int | None = None,
    noise_std: float | None = None,
    rank: int | None = None,
    tolerance: float = 1e-7,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> ExactQuotes:
    """Return the unlearning noise, or the number of steps, that each record's deletion needs exactly.

    Both laws are Gaussian and known, so the privacy profile is solved for (epsilon, delta) itself; the two laws of one
    record differ only in the Krylov space of the record, so a few dimensions do. A truncated space understates delta,
    so the answer is an *estimate* and comes with its error, unless ``rank`` is the number of features.

    Parameters
    ----------
    law : LearningLaw
        The learning run.
    records : array_like of int, shape (m,)
        Row numbers of the records, each to be deleted on its own.
    epsilon, delta : float
        Target, epsilon >= 0 and 0 < delta < 1; both directions meet it.
    n_steps : int, optional
        Unlearning steps: the smallest noise is solved for. 0 asks whether the learning noise suffices.
    noise_std : float, optional
        Noise of each unlearning step, > 0: the smallest number of steps is solved for.
    rank : int, optional
        Dimension of the Krylov space, by default chosen per record so that ``error <= tolerance``.
    tolerance : float, default 1e-7
        Accepted relative truncation error, > 0.
    threads : int, optional
        Cores used; results do not depend on it.
    progress : callable, optional
        Called with the number of records done since the last call.

    Returns
    -------
    ExactQuotes
        Arrays in the order of ``records``. ``n_steps`` is -1 where no number of steps suffices.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or not exactly one of ``n_steps`` and ``noise_std`` is given.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.ridge import LearningLaw, exact_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> quotes = exact_quotes(law, [0, 1], epsilon=1.0, delta=1e-5, n_steps=10)
    >>> bool(np.all(np.maximum(quotes.delta_pq, quotes.delta_qp) <= 1e-5))
    True
    """
    rows = _validate.row_indices("records", records, law.n_records)
    goal = _Goal.of(epsilon, delta, n_steps, noise_std)
    setting = goal.setting(law, _validate.number("tolerance", tolerance, low=0.0, open_low=True))
    fixed = _checked_rank(law, rank)
    out = _ExactOutput(rows.size)
    for part, block, projected in law._blocks(rows):
        residuals = law._residual_means(block, projected)
        value, reached, log_pq, log_qp, error, used = out.part(part)
        core.ridge_exact_quotes(
            law.eigenvalues, projected, residuals, setting, fixed, value, reached, log_pq, log_qp, error, used,
            threads=threads or 0,
        )  # fmt: skip
        if progress is not None:
            progress(block.size)
    return out.quotes(goal)


def _checked_rank(law: LearningLaw, rank: int | None) -> int:
    if rank is None:
        return 0
    value = _validate.count("rank", rank, low=1)
    if value > law.n_features:
        raise ValueError(f"rank must be <= n_features = {law.n_features}, got {value}")
    return value


def exact_group_quotes(
    law: LearningLaw,
    groups: Sequence[ArrayLike],
    *,
    epsilon: float,
    delta: float,
    n_steps: int | None = None,
    noise_std: float | None = None,
    rank: int | None = None,
    tolerance: float = 1e-7,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> ExactQuotes:
    """Return what the deletion of each group of records needs, its rows forgotten together.

    The same laws as :func:`exact_quotes` with ``H' = H - X_G^T X_G`` and a block Krylov space of the group's rows.

    Parameters
    ----------
    law : LearningLaw
        The learning run.
    groups : sequence of array_like of int
        Row numbers of each group, distinct within a group.
    epsilon, delta, n_steps, noise_std, tolerance, threads, progress
        As in :func:`exact_quotes`.
    rank : int, optional
        Largest dimension of the block Krylov space, by default chosen per group.

    Returns
    -------
    ExactQuotes
        One entry per group.

    Raises
    ------
    TypeError, ValueError
        As :func:`exact_quotes`; and if ``groups`` is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.ridge import LearningLaw, exact_group_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> exact_group_quotes(law, [[0, 1], [2]], epsilon=1.0, delta=1e-5, n_steps=10).noise_std.shape
    (2,)
    """
    members = _checked_groups(law, groups)
    goal = _Goal.of(epsilon, delta, n_steps, noise_std)
    tolerance = _validate.number("tolerance", tolerance, low=0.0, open_low=True)
    setting = goal.setting(law, tolerance)
    limit = _checked_rank(law, rank)
    out = _ExactOutput(len(members))
    for i, rows in enumerate(members):
        with one_blas_thread():
            _answer_group(law, rows, setting, limit, tolerance, out, i)
        if progress is not None:
            progress(1)
    return out.quotes(goal)


def _checked_groups(law: LearningLaw, groups: Sequence[ArrayLike]) -> list[Int64]:
    members = [_validate.row_indices(f"groups[{i}]", rows, law.n_records) for i, rows in enumerate(groups)]
    if not members:
        raise ValueError("groups must name at least one group, got none")
    return members


def _answer_group(
    law: LearningLaw, rows: Int64, setting: Any, limit: int, tolerance: float, out: _ExactOutput, i: int
) -> None:
    """Solve for one group, raising the rank until two ranks agree to the tolerance."""
    p = law.n_features
    projected = np.ascontiguousarray(law.design[rows] @ law.eigenvectors)
    if not projected.any():
        out.value[i] = out.epsilon[i] = out.error[i] = 0.0
        out.log_pq[i] = out.log_qp[i] = -np.inf
        return
    residuals = law._residual_means(rows, projected)
    width = min(rows.size, p)

    def solve(steps: int) -> tuple[float, int]:
        eigenvalues, difference, shift = group_reduction(law, rows, projected, residuals, steps)
        value, reached, log_pq, log_qp, error, used = out.part(slice(i, i + 1))
        core.ridge_solve_reduced(
            eigenvalues, difference, shift, setting, law.n_steps, value, reached, log_pq, log_qp, error, used
        )
        return float(value[0]) or float(reached[0]), eigenvalues.size

    steps = max(2, limit // width) if limit else 8 + int(1.3 * math.sqrt(law.n_steps))
    previous = None if steps * width >= p else solve(max(1, 3 * steps // 4))[0]
    while True:
        answer, size = solve(steps)
        if size >= p or previous is None or not math.isfinite(answer):
            return
        error = abs(answer - previous) / max(abs(answer), abs(previous), 1e-300)
        out.error[i] += error if error < 0.03 else math.inf  # two ranks that disagree so much resolve nothing
        if limit or error <= tolerance:
            return
        previous, steps = answer, steps + steps // 2


def smallest_eigenvalues(law: LearningLaw, records: ArrayLike, *, threads: int | None = None) -> Float64:
    """Return a lower bound on the smallest eigenvalue of ``H - x x^T`` for each record ``x``.

    The root of the secular equation, lowered by the rounding error of the eigenvalues of ``H``; never below ``alpha``,
    which bounds it too.

    Parameters
    ----------
    law : LearningLaw
        The learning run.
    records : array_like of int, shape (m,)
        Row numbers.
    threads : int, optional
        Cores used.

    Returns
    -------
    ndarray of float64, shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.ridge import LearningLaw, smallest_eigenvalues
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> law = LearningLaw(X, X[:, 0], alpha=1.0, step_size=0.1, n_steps=20, noise_std=0.1)
    >>> np.round(smallest_eigenvalues(law, [0, 2]), 6)
    array([1.763932, 2.      ])
    """
    rows = _validate.row_indices("records", records, law.n_records)
    return np.concatenate([_lowest(law, projected, threads) for _, _, projected in law._blocks(rows)])


def _lowest(law: LearningLaw, projected: Float64, threads: int | None) -> Float64:
    out = np.empty(projected.shape[0])
    slack = 4.0 * law.n_features * EPS * float(law.eigenvalues[-1])
    core.ridge_smallest_eigenvalues(law.eigenvalues, projected, law.alpha, slack, out, threads=threads or 0)
    return out


def _contractions(law: LearningLaw, lowest: Float64) -> Float64:
    """Return contraction factors max(1 - eta m, eta L - 1) of the steps without the record, rounded up."""
    down = (1.0 - law.step_size * lowest * (1.0 - 2.0 * EPS)) * (1.0 + 2.0 * EPS)
    # L(H') <= L(H), itself an eigenvalue with a rounding error
    over = law.step_size * float(law.eigenvalues[-1]) * (1.0 + 4.0 * law.n_features * EPS) - 1.0
    return np.maximum(np.maximum(down, over), 0.0)


def _sensitivities(law: LearningLaw, rows: Int64, projected: Float64, failure: float) -> Float64:
    """Return bounds on eta |x| |x^T theta_k - y| for all learning steps, each failing with probability at most that."""
    norms = np.linalg.norm(law.design[rows], axis=1)
    means = np.sqrt(np.einsum("ikq,ikq->ik", *(2 * [law._residual_means(rows, projected)])))
    spread = np.sqrt(np.maximum(law._residual_variances(projected), 0.0))
    quantile = float(scipy.stats.chi.isf(failure, law.n_outputs)) * (1.0 + 1e-11)
    largest = float(np.sqrt(np.einsum("jc,jc->c", *(2 * [law._means]))).max(initial=0.0)) * math.sqrt(law.n_outputs)
    rounding = 4.0 * law.n_features * EPS
    slack = rounding * (norms * largest + np.linalg.norm(law.targets[rows], axis=1))
    bound = means * (1.0 + rounding) + slack[:, None] + spread * (quantile * (1.0 + rounding))
    bounds: Float64 = (law.step_size * (1.0 + 16.0 * EPS)) * norms[:, None] * bound
    return bounds


def shifted_quotes(
    law: LearningLaw,
    records: ArrayLike,
    *,
    epsilon: float,
    delta: float,
    n_steps: int | None = None,
    noise_std: float | None = None,
    uniform: bool = False,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> ShiftedQuotes:
    """Return what each record's deletion needs by the shifted-interpolation bound, *certified*.

    Per-step sensitivities hold with probability ``1 - delta / 10`` along learning; the run is compared with one whose
    steps are clipped there ([BAC26], section 3, repaired), and the best interpolation is the greatest convex minorant
    of [BSA24]. The noise solves ``delta(mu, epsilon) + e^epsilon delta / 10 <= delta``.

    Parameters
    ----------
    law, records, epsilon, delta, n_steps, noise_std, threads, progress
        As in :func:`exact_quotes`.
    uniform : bool, default False
        Quote the worst case over *all* training records (the maxima of sensitivities and contraction) for everybody.

    Returns
    -------
    ShiftedQuotes
        Arrays in the order of ``records``; infinite noise and ``n_steps`` -1 where the bound cannot be met, which is
        always so for ``epsilon >= log 10``.

    Raises
    ------
    TypeError, ValueError
        As :func:`exact_quotes`.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.ridge import LearningLaw, exact_quotes, shifted_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> target = dict(epsilon=1.0, delta=1e-5, n_steps=10)
    >>> bound, exact = shifted_quotes(law, [0], **target), exact_quotes(law, [0], **target)
    >>> bool(exact.noise_std[0] <= bound.noise_std[0])
    True
    """
    rows = _validate.row_indices("records", records, law.n_records)
    goal = _Goal.of(epsilon, delta, n_steps, noise_std)
    failure = goal.delta / 10.0 / max(law.n_steps - 1, 1)
    if uniform:
        sensitivity, contraction = np.zeros((1, law.n_steps)), np.zeros(1)
        for _, block, projected in law._blocks(np.arange(law.n_records)):
            np.maximum(sensitivity, _sensitivities(law, block, projected, failure).max(axis=0), out=sensitivity)
            np.maximum(contraction, _contractions(law, _lowest(law, projected, threads)).max(), out=contraction)
        value, mu = _solve_shifted(law, goal, sensitivity, contraction, threads)
        if progress is not None:
            progress(rows.size)
        return _shifted_result(goal, np.repeat(value, rows.size), np.repeat(mu, rows.size))
    value, mu = np.empty(rows.size), np.empty(rows.size)
    for part, block, projected in law._blocks(rows):
        sensitivity = _sensitivities(law, block, projected, failure)
        contraction = _contractions(law, _lowest(law, projected, threads))
        value[part], mu[part] = _solve_shifted(law, goal, sensitivity, contraction, threads)
        if progress is not None:
            progress(block.size)
    return _shifted_result(goal, value, mu)


def shifted_group_quotes(
    law: LearningLaw,
    groups: Sequence[ArrayLike],
    *,
    epsilon: float,
    delta: float,
    n_steps: int | None = None,
    noise_std: float | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> ShiftedQuotes:
    """Return what the deletion of each group needs by the shifted-interpolation bound, *certified*.

    The sensitivities of a group are the sums of its members', and the failure probability is shared among them.

    Parameters
    ----------
    law, groups, epsilon, delta, n_steps, noise_std, threads, progress
        As in :func:`exact_group_quotes`.

    Returns
    -------
    ShiftedQuotes
        One entry per group.

    Raises
    ------
    TypeError, ValueError
        As :func:`exact_group_quotes`.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.ridge import LearningLaw, shifted_group_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> shifted_group_quotes(law, [[0, 1], [2]], epsilon=1.0, delta=1e-5, n_steps=10).noise_std.shape
    (2,)
    """
    members = _checked_groups(law, groups)
    goal = _Goal.of(epsilon, delta, n_steps, noise_std)
    value, mu = np.empty(len(members)), np.empty(len(members))
    for i, rows in enumerate(members):
        projected = law.projected(rows)
        failure = goal.delta / 10.0 / (max(law.n_steps - 1, 1) * rows.size)
        sensitivity = _sensitivities(law, rows, projected, failure).sum(axis=0, keepdims=True)
        sensitivity *= 1.0 + rows.size * EPS
        lowest = np.array([law.alpha])
        if rows.size == 1:
            lowest = _lowest(law, projected, threads)
        contraction = _contractions(law, lowest)
        value[i : i + 1], mu[i : i + 1] = _solve_shifted(law, goal, sensitivity, contraction, threads)
        if progress is not None:
            progress(1)
    return _shifted_result(goal, value, mu)


def _solve_shifted(
    law: LearningLaw, goal: _Goal, sensitivity: Float64, contraction: Float64, threads: int | None
) -> tuple[Float64, Float64]:
    value, mu = np.empty(contraction.size), np.empty(contraction.size)
    room = goal.delta - math.exp(goal.epsilon) * (goal.delta / 10.0) * (1.0 + 8.0 * EPS) if goal.epsilon < 700 else 0.0
    if not room > 0.0:
        return np.full(value.shape, np.inf), np.full(mu.shape, np.inf)
    core.ridge_shifted_quotes(
        np.ascontiguousarray(sensitivity),
        contraction,
        law.noise_std,
        goal.steps,
        goal.noise,
        goal.solve_steps,
        float(_gaussian_mu(goal.epsilon, np.array([room]))[0]),
        value,
        mu,
        threads=threads or 0,
    )
    return value, mu


def _shifted_result(goal: _Goal, value: Float64, mu: Float64) -> ShiftedQuotes:
    if np.isnan(value).any():
        first = int(np.flatnonzero(np.isnan(value))[0])
        raise ValueError(f"records must be scaled so that their laws are finite, got a failure at entry {first}")
    noise, steps = goal.answers(value)
    failure = goal.delta / 10.0
    reached = np.full(mu.size, goal.epsilon)
    reached[~(value < np.inf)] = np.inf
    free = value == 0.0
    if free.any():
        # the least epsilon with delta(mu, epsilon) + e^epsilon failure <= delta: the left side falls, then grows
        bound, log_delta = mu[free], math.log(goal.delta)

        def meets(eps: Float64) -> NDArray[np.bool_]:
            return np.logaddexp(_log_gdp_delta(bound, eps), eps + math.log(failure)) <= log_delta - 8.0 * EPS

        _, high = _bisect(meets, np.zeros(bound.size), np.full(bound.size, goal.epsilon))
        reached[free] = np.where(meets(np.zeros(bound.size)), 0.0, high)
    with np.errstate(invalid="ignore"):
        base = np.where(np.isfinite(mu), np.exp(_log_gdp_delta(np.where(np.isfinite(mu), mu, 1.0), reached)), 1.0)
        base = base * (1.0 + 1e-13)
        pq = np.minimum(base + failure, 1.0)
        qp = np.where(np.isfinite(reached), np.minimum(base + np.exp(np.minimum(reached, 700.0)) * failure, 1.0), 1.0)
    return ShiftedQuotes(noise, steps, reached, mu, pq, qp)
