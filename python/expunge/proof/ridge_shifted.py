"""The proof of a bound by shifted interpolation on a ridge deletion, in ball arithmetic.

As `expunge.runs.ridge.bounds`, step by step: the residuals of the deleted rows along the true run have known means and
variances, their norms quantiles that are proved from the tails, and the reference run contracts by a factor between
proved eigenvalues. The mu of a path grows with sensitivities and contraction, so that ends lead to ends.

Parameters are carried from step to step as exact numbers, with a bound on how far off they are: a step is no longer
than what it is applied to, so that errors add up and do not grow, whatever the number of features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from flint import arb, arb_mat
from numpy.typing import NDArray

from expunge.proof.balls import ball, zero
from expunge.proof.gdp import delta_ball
from expunge.proof.matrices import diagonal_pair, exact_matrix, frobenius, identity
from expunge.proof.minorant import mu_of_steps
from expunge.proof.residual_tails import norm_quantiles
from expunge.proof.ridge_law import Steps, Versions
from expunge.proof.state import Stages
from expunge.runs.ridge.held_rows import RowTable
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.products import RowParts

__all__ = ["ShiftedBound", "shifted_bound"]

Array = NDArray[np.float64]
_MOST_STEPS = 100_000
_REFINEMENTS = 2


class ShiftedBound(NamedTuple):
    """Balls that contain the deltas of a bound by shifted interpolation, its mu, and the contraction it rests on."""

    delta_pq: arb
    delta_qp: arb
    mu: arb
    contraction: arb


class _Step(NamedTuple):
    """Sensitivity of a step, or of several alike that separate nothing, from below and above; contraction, noise."""

    low: arb
    high: arb
    steps: int
    variance: arb


def _eigenvalues(matrix: arb_mat) -> tuple[arb, arb]:
    """Return balls that contain the least and the largest eigenvalue of a symmetric matrix, by Rayleigh quotients."""
    pair = diagonal_pair(identity(matrix.nrows()), matrix, refinements=_REFINEMENTS)
    off = zero().union(pair.off_diagonal).union(-pair.off_diagonal)
    spread = 1 + zero().union(pair.whitening).union(-pair.whitening)
    ends = [(one + off) / spread for one in pair.values]
    least, largest = ends[0], ends[0]
    for one in ends[1:]:
        least, largest = least.min(one), largest.max(one)
    return least, largest


def _apart(ball_matrix: arb_mat) -> tuple[arb_mat, arb]:
    """Return midpoints, and how far the true matrix may be from them, in the Frobenius norm."""
    middle = ball_matrix.mid()
    return middle, frobenius(ball_matrix - middle).upper()


def _around(value: arb, off: arb) -> arb:
    """Return what is within ``off`` of a number >= 0, and >= 0."""
    return (value + zero().union(off).union(-off)).nonnegative_part()


def _residuals(
    rows: Array, targets: Array, steps: Steps, mean: arb_mat, covariance: arb_mat | None, phase: Phase
) -> Iterator[tuple[list[arb], list[arb]]]:
    """Yield, before every step of a phase, norms of the rows' mean residuals, and variances of their coordinates."""
    design, aims, step = exact_matrix(rows), exact_matrix(targets), steps.step
    lengths = [frobenius(exact_matrix(row[None, :])) for row in rows]
    tau2 = ball(phase.noise_std) ** 2
    centre, off = _apart(mean)
    carried, turned = _apart(design.transpose())
    added = [zero()] * len(rows)
    count, q = len(rows), targets.shape[1]
    for _ in range(phase.n_steps):
        apart = design * centre - aims
        distance, variance = [], []
        start = None if covariance is None else carried.transpose() * covariance * carried
        for i, length in enumerate(lengths):
            norm = frobenius(arb_mat(1, q, [apart[i, c] for c in range(q)]))
            distance.append(_around(norm, length * off))
            now = tau2 * added[i]
            if covariance is not None and start is not None:
                # A seminorm: the carried row is off by a little, the covariance's own largest eigenvalue at most.
                first = _around(start[i, i].nonnegative_part().sqrt(), turned * frobenius(covariance).sqrt())
                now = now + first * first
            variance.append(now)
            column = frobenius(arb_mat(carried.nrows(), 1, [carried[k, i] for k in range(carried.nrows())]))
            whole = _around(column, turned)
            added[i] = added[i] + whole * whole
        yield distance, variance
        centre, more = _apart(step * centre + steps.pull)
        off = (off + more).upper()
        carried, more = _apart(step * carried)
        turned = (turned + more).upper()
    assert len(added) == count


def _sensitivities(
    versions: Versions, phases: Sequence[Phase], deleted: Sequence[int], delta_s: float, begin: Callable[[str], object]
) -> list[_Step]:
    present = [sorted(set(deleted) - set(phase.removed)) for phase in phases]
    lasting = [len(rows) * phase.n_steps for rows, phase in zip(present, phases, strict=True)]
    if sum(lasting) > _MOST_STEPS:
        raise ArithmeticError(
            f"steps with deleted rows must be at most {_MOST_STEPS} for a proof of this method, got {sum(lasting)}: "
            "each is taken by itself; certify by the method 'exact', whose proof takes any number of steps by squaring"
        )
    # theta_0 is known, and so are the residuals of the first step.
    draws = max(sum(lasting) - len(present[0]), 1)
    tail = ball(delta_s) / draws
    eta, q = ball(versions.step_size), versions.shape[1]
    result = []
    mean, covariance = arb_mat(*versions.shape), None
    for number, (phase, rows) in enumerate(zip(phases, present, strict=True)):
        begin(f"sensitivities of phase {number}")
        steps, variance = versions.of(phase.removed), ball(phase.noise_std) ** 2
        if rows:
            design, targets = versions.design[rows], versions.targets[rows]
            along = list(_residuals(design, targets, steps, mean, covariance, phase))
            norms = [frobenius(exact_matrix(row[None, :])) for row in design]
            sums = [[zero(), zero()] for _ in along]
            for i, norm in enumerate(norms):
                ends = norm_quantiles([one[0][i] for one in along], [one[1][i] for one in along], q, tail)
                for pair, (low, high) in zip(sums, ends, strict=True):
                    pair[0], pair[1] = pair[0] + eta * norm * low, pair[1] + eta * norm * high
            result += [_Step(low.lower(), high.upper(), 1, variance) for low, high in sums]
        else:
            result.append(_Step(zero(), zero(), phase.n_steps, variance))
        mean, covariance = steps.mean_after(mean, phase), steps.covariance_after(covariance, phase)
    return result


def _mu(steps: Sequence[_Step], contraction: arb, *, upper: bool) -> arb:
    """Return the mu of a path; steps alike that separate nothing are one, with all their noise."""
    sensitivity, factors, variances = [], [], []
    for one in steps:
        sensitivity.append(one.high if upper else one.low)
        power, total = _geometric(contraction, one.steps)
        squares = total if one.steps == 1 else _geometric(contraction * contraction, one.steps)[1]
        factors.append(power)
        variances.append(one.variance * squares)
    return mu_of_steps(sensitivity, factors, variances)


def _geometric(ratio: arb, count: int) -> tuple[arb, arb]:
    """Return r^n and 1 + r + ... + r^(n-1), by doubling."""
    power, total = arb(1), zero()
    for bit in format(count, "b"):
        power, total = power * power, total + power * total
        if bit == "1":
            power, total = power * ratio, total + power
    return power, total


def shifted_bound(
    design: RowTable,
    targets: RowTable,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    epsilon: float,
    delta_s: float,
    parts: RowParts | None = None,
    begin: Callable[[str], object],
) -> ShiftedBound:
    """Return balls that contain both deltas of the bound by the deleted rows' own sensitivities.

    Parameters
    ----------
    design, targets, alpha, step_size, phases, deleted
        The run, as `expunge.runs.ridge.bounds.shifted_claim` takes it, without trailing phases that are the same map.
    epsilon, delta_s : float
        Of the claim.
    parts : callable, optional
        Reads all rows in one pass, where they lie in a table.
    begin : callable
        Hears of every stage.

    Raises
    ------
    ArithmeticError
        If a step is not proved to contract, or a quantile could not be proved.
    """
    known = [(), *(phase.removed for phase in phases), deleted]
    stages = Stages(begin)
    versions = Versions(design, targets, alpha=alpha, step_size=step_size, known=known, parts=parts, stages=stages)
    eta = ball(step_size)
    begin("eigenvalues")
    if not eta * _eigenvalues(versions.of(()).hessian)[1] <= 2:
        raise ArithmeticError("step_size could not be proved to be at most 2/L")
    least, largest = _eigenvalues(versions.of(deleted).hessian)
    factor = (1 - eta * least.max(ball(alpha))).max(eta * largest - 1).nonnegative_part()
    steps = _sensitivities(versions, phases, deleted, delta_s, begin)
    begin("minorant")
    high = _mu(steps, factor.upper(), upper=True)
    if not high.is_finite():
        raise ArithmeticError("the mu of the path is not finite: a shift outlives all noise")
    low = _mu(steps, factor.lower().max(zero()).lower(), upper=False)
    mu = low.lower().max(zero()).lower().union(high.upper())
    ends = [delta_ball(one, ball(epsilon)) for one in (mu.lower(), mu.upper())]
    base = ends[0].lower().union(ends[1].upper())
    failure = ball(delta_s)
    forth, back = base + failure, base + ball(epsilon).exp() * failure
    return ShiftedBound(forth.min(arb(1)), back.min(arb(1)), mu, factor)
