"""Exact quotes: the noise or the steps each deletion needs, from the privacy profile of two known Gaussian laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from expunge import _validate
from expunge._kernels.backend import HOST, RidgeSetting, one_blas_thread
from expunge.accounting.gdp import gdp_mu
from expunge.runs.ridge.groups import group_reduction, krylov_basis
from expunge.runs.ridge.spectral import EPS, Float64, Int64, LearningLaw
from expunge.runs.ridge.target import Goal, Place, checked_groups, there


@dataclass(frozen=True)
class ExactQuotes:
    """Noise or steps that each record's deletion needs, from the exact privacy profile. An *estimate* with its error.

    Arrays are NumPy's, or of the library and on the device of the law's design.

    Attributes
    ----------
    noise_std : ndarray of float64, shape (m,)
        Noise of each unlearning step: 0 where the learning noise suffices, infinite where nothing would.
    n_steps : ndarray of int64, shape (m,)
        Unlearning steps.
    epsilon : ndarray of float64, shape (m,)
        Epsilon reached at the requested delta: the requested epsilon; smaller only if no noise is needed.
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
    status: str = field(default="estimate", init=False)


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

    def quotes(self, goal: Goal, place: Place) -> ExactQuotes:
        if np.isnan(self.value).any():
            first = int(np.flatnonzero(np.isnan(self.value))[0])
            raise ValueError(
                f"records must be scaled so that their laws can be computed, got a failure at entry {first}"
            )
        noise, steps = goal.answers(self.value)
        pq, qp = _exp_up(self.log_pq), _exp_up(self.log_qp)
        delta = np.maximum(pq, qp)
        # Where no noise suffices epsilon is infinite, and so is mu.
        mu = np.where((delta >= 1.0) | ~np.isfinite(self.epsilon), np.inf, 0.0)
        solved = (delta > 0.0) & np.isfinite(mu)
        mu[solved] = gdp_mu(self.epsilon[solved], delta[solved])
        return ExactQuotes(*there(place, noise, steps, self.epsilon, mu, pq, qp, self.error, self.rank))

    def answered(self, place: Place, at: slice, kernel: Callable[[Sequence[Any]], None]) -> None:
        """Let a kernel fill a part of the arrays, by way of arrays on the device if that is where it runs."""
        parts = self.part(at)
        if place.on_host:
            kernel(parts)
            return
        outs = [place.empty(part.shape, str(part.dtype)) for part in parts]
        kernel(outs)
        for part, out in zip(parts, outs, strict=True):
            part[...] = place.host(out)


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
    record differ only in the Krylov space of the record, so a few dimensions suffice. A truncated space understates
    delta, so the answer is an *estimate* and comes with its error, unless ``rank`` is the number of features.

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
    >>> from expunge.runs.ridge import LearningLaw, exact_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> quotes = exact_quotes(law, [0, 1], epsilon=1.0, delta=1e-5, n_steps=10)
    >>> bool(np.all(np.maximum(quotes.delta_pq, quotes.delta_qp) <= 1e-5))
    True
    """
    rows = _validate.row_indices("records", records, law.n_records)
    goal = Goal.of(epsilon, delta, n_steps, noise_std)
    setting = goal.setting(law, _validate.number("tolerance", tolerance, low=0.0, open_low=True))
    fixed = _checked_rank(law, rank)
    out = _ExactOutput(rows.size)
    for part, block, projected in law._blocks(rows):
        given = law._spectrum_there, projected, law._residual_means(block, projected), setting, fixed
        run = partial(law._place.run, "ridge_exact_quotes", *given, threads=threads)
        out.answered(law._place, part, lambda outputs, run=run: run(*outputs))  # type: ignore[misc]
        if progress is not None:
            progress(block.size)
    return out.quotes(goal, law._place)


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
    >>> from expunge.runs.ridge import LearningLaw, exact_group_quotes
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    >>> law = LearningLaw(X, Y, alpha=1.0, step_size=0.005, n_steps=50, noise_std=0.05)
    >>> exact_group_quotes(law, [[0, 1], [2]], epsilon=1.0, delta=1e-5, n_steps=10).noise_std.shape
    (2,)
    """
    members = checked_groups(law, groups)
    goal = Goal.of(epsilon, delta, n_steps, noise_std)
    tolerance = _validate.number("tolerance", tolerance, low=0.0, open_low=True)
    setting = goal.setting(law, tolerance)
    limit = _checked_rank(law, rank)
    out = _ExactOutput(len(members))
    for i, rows in enumerate(members):
        with one_blas_thread():
            _answer_group(law, rows, setting, limit, tolerance, out, i)
        if progress is not None:
            progress(1)
    return out.quotes(goal, law._place)


def _answer_group(
    law: LearningLaw, rows: Int64, setting: RidgeSetting, limit: int, tolerance: float, out: _ExactOutput, i: int
) -> None:
    """Solve for one group, raising the rank until two ranks agree to the tolerance."""
    projected = np.ascontiguousarray(law.design[rows] @ law.eigenvectors)
    if not projected.any():
        out.value[i] = out.epsilon[i] = out.error[i] = 0.0
        out.log_pq[i] = out.log_qp[i] = -np.inf
        return
    residuals = law._residual_means(rows, projected)
    width = min(projected.shape)

    def solve(basis: Float64 | None) -> float:
        eigenvalues, difference, shift = group_reduction(law, rows, projected, residuals, basis)
        outputs = out.part(slice(i, i + 1))
        HOST.run("ridge_solve_reduced", eigenvalues, difference, shift, setting, law.n_steps, *outputs)
        value, reached = outputs[:2]
        return float(value[0]) or float(reached[0])

    steps = max(2, limit // width) if limit else 8 + int(0.85 * math.sqrt(law.n_steps))
    while True:
        basis = krylov_basis(law, projected, steps)
        if basis is None:
            solve(None)
            return
        shorter = solve(np.ascontiguousarray(basis[:, : max(1, basis.shape[1] * 5 // 6)]))
        answer = solve(basis)
        if not math.isfinite(answer):
            return
        error = abs(answer - shorter) / max(abs(answer), abs(shorter), 1e-300)
        out.error[i] += error if error < 0.03 else math.inf  # two ranks that disagree so much resolve nothing
        if limit or error <= tolerance:
            return
        steps += steps // 2
