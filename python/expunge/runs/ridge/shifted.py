"""Quotes by the shifted-interpolation bound, per record and for the worst record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from expunge import _validate
from expunge.accounting.gdp import gdp_mu
from expunge.data.close_products import sum_error
from expunge.runs.ridge import secular
from expunge.runs.ridge.clipping import clipped_deltas, least_epsilon, left_of_delta, residual_failure
from expunge.runs.ridge.spectral import EPS, Float64, Int64, LearningLaw
from expunge.runs.ridge.target import Goal, Place, checked_groups, there


@dataclass(frozen=True)
class ShiftedQuotes:
    """Noise or steps that each record's deletion needs, by the shifted bound ([BAC26], [BSA24]). *Certified*.

    Arrays are NumPy's, or of the library and on the device of the law's design.

    Attributes
    ----------
    noise_std : ndarray of float64, shape (m,)
        Noise of each unlearning step: 0 where the learning noise suffices, infinite where no noise would.
    n_steps : ndarray of int64, shape (m,)
        Unlearning steps.
    epsilon : ndarray of float64, shape (m,)
        Epsilon certified at the requested delta: the requested epsilon; smaller only if no noise is needed.
    mu : ndarray of float64, shape (m,)
        Certified Gaussian-DP parameter of the clipped run.
    delta_pq, delta_qp : ndarray of float64, shape (m,)
        Certified deltas at ``epsilon``, including the probability that clipping acts.
    """

    noise_std: Float64
    n_steps: Int64
    epsilon: Float64
    mu: Float64
    delta_pq: Float64
    delta_qp: Float64
    status: str = field(default="certified", init=False)


def smallest_eigenvalues(law: LearningLaw, records: ArrayLike, *, threads: int | None = None) -> Float64:
    """Return a lower bound on the smallest eigenvalue of ``H - x x^T`` for each record ``x``.

    The root of the secular equation, lowered by the rounding errors of ``H`` and of its eigenbasis; never below
    ``alpha``, which bounds it too.

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
    >>> from expunge.runs.ridge import LearningLaw, smallest_eigenvalues
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> law = LearningLaw(X, X[:, 0], alpha=1.0, step_size=0.1, n_steps=20, noise_std=0.1)
    >>> np.round(smallest_eigenvalues(law, [0, 2]), 6)
    array([1.763932, 2.      ])
    """
    rows = _validate.row_indices("records", records, law.n_records)
    lowest = np.concatenate([_lowest(law, projected, threads) for _, _, projected in law._blocks(rows)])
    out: Float64 = there(law._place, lowest)[0]
    return out


def _lowest(law: LearningLaw, projected: Float64, threads: int | None) -> Float64:
    frame, largest = law._frame, float(law.eigenvalues[-1])
    # The square of a record is at most the largest eigenvalue; in the frame it is off by less than 2.01 turns of that.
    turned = frame.apart + math.sqrt(law.n_features) * sum_error(law.n_features)
    off = frame.norm + 2.01 * turned * (largest + frame.norm)
    return secular.smallest_eigenvalues(
        law._spectrum_there, projected, floor=law.alpha, square=largest, off=off, place=law._place, threads=threads
    )


def _contractions(law: LearningLaw, lowest: Float64) -> Float64:
    """Return contraction factors max(1 - eta m, eta L - 1) of the steps without the record, rounded up."""
    down = (1.0 - law.step_size * lowest * (1.0 - 2.0 * EPS)) * (1.0 + 2.0 * EPS)
    # L(H') <= L(H), itself an eigenvalue with a rounding error
    over = law.step_size * float(law.eigenvalues[-1]) * (1.0 + 4.0 * EPS) + law._frame_errors.norm - 1.0
    return np.maximum(np.maximum(down, over), 0.0)


def _sensitivities(law: LearningLaw, rows: Int64, projected: Float64, failure: float) -> Float64:
    """Return bounds on eta |x| |x^T theta_k - y| for all learning steps, each failing with probability at most that."""
    norms, target_norms, means, spread = _sizes(law, rows, projected)
    quantile = _chi_quantile(failure, law.n_outputs)
    # A residual may be far smaller than what it is the difference of: its own products are rounded, and the means are.
    each = 4.0 * EPS * (law.n_features + 2.0)
    sizes = np.sqrt(np.einsum("jkc,jkc->k", *(2 * [law._means.reshape(law.n_features, law.n_steps, law.n_outputs)])))
    frame = law._frame_errors
    off = law._mean_errors + each * sizes
    off = off + frame.means_off(np.maximum.accumulate(sizes) * (1.0 + each), np.arange(float(law.n_steps)))
    added, factor = frame.deviation_off(law.noise_std)
    off = law._place.asarray(off)
    rounding = 8.0 * (law.n_steps + law.n_features + 4.0) * EPS
    bound = means + norms[:, None] * off[None, :] + (target_norms * each)[:, None]
    spread = (spread + (norms * added)[:, None]) * factor
    bound = (bound + spread * quantile) * (1.0 + rounding)
    bounds: Float64 = norms[:, None] * law.step_size * bound
    return bounds


def _chi_quantile(failure: float, n_outputs: int) -> float:
    """Return a size that the norm of a standard normal vector exceeds with probability ``failure``, rounded up."""
    return float(scipy.stats.chi.isf(failure, n_outputs)) * (1.0 + 1e-11)


def _sizes(law: LearningLaw, rows: Int64, projected: Float64) -> tuple[Float64, Float64, Float64, Float64]:
    """Return norms of records, targets and mean residuals, and standard deviations of residuals, where they lie."""
    residuals, variances = law._residual_means(rows, projected), law._residual_variances(projected)
    if not law._place.on_host:
        norms = law._place.library.norms
        return norms(law.design[rows]), norms(law.targets[rows]), norms(residuals), variances**0.5
    return (
        np.linalg.norm(law.design[rows], axis=1),
        np.linalg.norm(law.targets[rows], axis=1),
        np.sqrt(np.einsum("ikq,ikq->ik", residuals, residuals)),
        np.sqrt(np.maximum(variances, 0.0)),
    )


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

    Per-step sensitivities hold with probability ``1 - delta_s`` along learning; the run is compared with one whose
    steps are clipped there ([BAC26], section 3, repaired), and the best interpolation is the greatest convex minorant
    of [BSA24]. The noise solves ``delta(mu, epsilon) + e^epsilon delta_s <= delta`` with ``delta_s`` a tenth of delta.

    Parameters
    ----------
    law, records, epsilon, delta, n_steps, noise_std, threads, progress
        As in :func:`exact_quotes`.
    uniform : bool, default False
        Quote the worst case over *all* training records (the maxima of sensitivities and contraction) for every record.

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
    >>> from expunge.runs.ridge import LearningLaw, exact_quotes, shifted_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> target = dict(epsilon=1.0, delta=1e-5, n_steps=10)
    >>> bound, exact = shifted_quotes(law, [0], **target), exact_quotes(law, [0], **target)
    >>> bool(exact.noise_std[0] <= bound.noise_std[0])
    True
    """
    rows = _validate.row_indices("records", records, law.n_records)
    goal = Goal.of(epsilon, delta, n_steps, noise_std)
    failure = residual_failure(goal.delta) / max(law.n_steps - 1, 1)
    if uniform:
        worst = WorstRecord(law, epsilon=epsilon, delta=delta, n_steps=n_steps, noise_std=noise_std, threads=threads)
        worst.see(law)
        found = worst.quotes(rows.size)
        if progress is not None:
            progress(rows.size)
        return found
    value, mu = np.empty(rows.size), np.empty(rows.size)
    for part, block, projected in law._blocks(rows):
        sensitivity = _sensitivities(law, block, projected, failure)
        contraction = _contractions(law, _lowest(law, projected, threads))
        value[part], mu[part] = _solve_shifted(law, goal, sensitivity, contraction, threads)
        if progress is not None:
            progress(block.size)
    return _shifted_result(goal, value, mu, law._place)


class WorstRecord:
    """The worst case over all training records, which may come a few at a time.

    Parameters
    ----------
    law : LearningLaw
        The learning run.
    epsilon, delta, n_steps, noise_std, threads
        As in :func:`shifted_quotes`.
    """

    def __init__(
        self,
        law: LearningLaw,
        *,
        epsilon: float,
        delta: float,
        n_steps: int | None = None,
        noise_std: float | None = None,
        threads: int | None = None,
    ) -> None:
        self._law, self._threads = law, threads
        self._goal = Goal.of(epsilon, delta, n_steps, noise_std)
        self._failure = residual_failure(self._goal.delta) / max(law.n_steps - 1, 1)
        self._sensitivity, self._contraction = np.zeros((1, law.n_steps)), np.zeros(1)

    def see(self, law: LearningLaw) -> None:
        """Take the records in that ``law`` has, which is the same beside other rows."""
        for _, block, projected in law._blocks(np.arange(law.n_records)):
            found = law._place.host(_sensitivities(law, block, projected, self._failure))
            np.maximum(self._sensitivity, found.max(axis=0), out=self._sensitivity)
            lowest = _contractions(law, _lowest(law, projected, self._threads))
            np.maximum(self._contraction, lowest.max(), out=self._contraction)

    def quotes(self, count: int) -> ShiftedQuotes:
        """Return the quote of the worst record seen, ``count`` times."""
        law = self._law
        sensitivity = there(law._place, self._sensitivity)[0]
        value, mu = _solve_shifted(law, self._goal, sensitivity, self._contraction, self._threads)
        return _shifted_result(self._goal, np.repeat(value, count), np.repeat(mu, count), law._place)


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
    >>> from expunge.runs.ridge import LearningLaw, shifted_group_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> shifted_group_quotes(law, [[0, 1], [2]], epsilon=1.0, delta=1e-5, n_steps=10).noise_std.shape
    (2,)
    """
    members = checked_groups(law, groups)
    goal = Goal.of(epsilon, delta, n_steps, noise_std)
    value, mu = np.empty(len(members)), np.empty(len(members))
    for i, rows in enumerate(members):
        projected = law.projected(rows)
        failure = residual_failure(goal.delta) / (max(law.n_steps - 1, 1) * rows.size)
        sensitivity = _sensitivities(law, rows, projected, failure).sum(axis=0, keepdims=True)
        sensitivity *= 1.0 + rows.size * EPS
        lowest = np.array([law.alpha])
        if rows.size == 1:
            lowest = _lowest(law, projected, threads)
        contraction = _contractions(law, lowest)
        value[i : i + 1], mu[i : i + 1] = _solve_shifted(law, goal, sensitivity, contraction, threads)
        if progress is not None:
            progress(1)
    return _shifted_result(goal, value, mu, law._place)


def _solve_shifted(
    law: LearningLaw, goal: Goal, sensitivity: Float64, contraction: Float64, threads: int | None
) -> tuple[Float64, Float64]:
    room = float(left_of_delta(goal.delta, goal.epsilon))
    if not room > 0.0:
        return np.full(contraction.shape, np.inf), np.full(contraction.shape, np.inf)
    place = law._place
    outs = [place.empty(contraction.shape, "float64") for _ in range(2)]
    place.run(
        "ridge_shifted_quotes",
        np.ascontiguousarray(sensitivity) if place.on_host else sensitivity,
        *there(place, contraction),
        law.noise_std,
        goal.steps,
        goal.noise,
        goal.solve_steps,
        gdp_mu(goal.epsilon, room),
        *outs,
        threads=threads,
    )
    return place.host(outs[0]), place.host(outs[1])


def _shifted_result(goal: Goal, value: Float64, mu: Float64, place: Place) -> ShiftedQuotes:
    if np.isnan(value).any():
        first = int(np.flatnonzero(np.isnan(value))[0])
        raise ValueError(f"records must be scaled so that their laws are finite, got a failure at entry {first}")
    noise, steps = goal.answers(value)
    reached = np.full(mu.size, goal.epsilon)
    reached[~(value < np.inf)] = np.inf
    free = value == 0.0
    if free.any():
        reached[free] = least_epsilon(mu[free], goal.delta, at_most=goal.epsilon)
    pq, qp = clipped_deltas(mu, reached, failure=residual_failure(goal.delta))
    return ShiftedQuotes(*there(place, noise, steps, reached, mu, pq, qp))
