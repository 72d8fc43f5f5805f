"""Proved bounds on what rounding can have done to the two laws of a ridge deletion.

An eigenbasis that was computed is exact for a matrix nearby: in the orthonormal frame nearest to it the true
A = I - eta H is diag(a) + F, with a bound on F from the residual. The laws are polynomials, with coefficients of one
sign, in F, in the deleted rows and in what the phase starts from. Their first-order terms are bounded entry by entry
(`advance_errors`): a difference that a deleted row makes in a slowly contracting direction may be far smaller than the
roundings of the row's other parts. What is of second order and higher is bounded by norms alone (`Jet`): nonnegative
coefficients make the polynomial in the norms a majorant. docs/theory.md has the argument in whole.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import MARGIN, TINY, UNIT, columns, gram, norm, product, sum_error
from expunge.runs.ridge.power_sums import divided_powers, powers

__all__ = [
    "Basis",
    "Frame",
    "LawErrors",
    "Norms",
    "Rows",
    "Step",
    "advance_errors",
    "pair_error",
    "rotation",
]

Array = NDArray[np.float64]


class Frame(NamedTuple):
    """Distance of computed eigenvectors from an orthonormal frame, and of A from a diagonal matrix in that frame.

    Attributes
    ----------
    column : float
        Bound on the norm of each column of F, and so on each entry.
    norm : float
        Bound on the Frobenius norm of F, or on its spectral norm if only that of the matrix's own error is known.
    turn : float
        Bound on the norm of the difference between the frame and a computed eigenvector.
    apart : float
        The same for all of them: spectral norm.
    """

    column: float
    norm: float
    turn: float
    apart: float


def _largest(values: Array) -> float:
    return float(columns(values).max(initial=0.0))


@np.errstate(under="ignore")
def rotation(matrix: Array, vectors: Array, values: Array, *, scale: float, off: float) -> Frame:
    """Return the frame of computed eigenvectors of ``scale`` times a matrix; ``values`` are those of the product.

    With U the vectors, U = V K its polar decomposition and R = B U - U diag(b), V^T B V - diag(b) is
    ((K - I) b - b (K - I) + V^T R) K^-1. ``off`` is a bound on the norm of the error of ``matrix`` itself.
    """
    p = len(values)
    image, low = product(matrix, vectors)
    residual = scale * image - vectors * values
    squares, roundings, rest = gram(vectors)
    squares[np.diag_indices_from(squares)] -= 1.0
    span = float(values.max() - values.min())
    most = max(abs(float(values.max())), abs(float(values.min())))
    # The sum of the product, its scaling, the values, their products and the difference: one rounding of each.
    each = MARGIN * scale * low + 2.0 * UNIT * scale * _largest(image) + 4.0 * UNIT * most
    column = _largest(residual) + each
    whole = norm(residual) + each * math.sqrt(p)
    near = 2.0 * (roundings + UNIT) + rest  # of squares, whose columns have norms below 2
    wide = norm(squares) + math.sqrt(p) * near
    if not wide < 1e-3:
        return Frame(math.inf, math.inf, math.inf, math.inf)
    turned = _largest(squares) + near
    off *= scale
    return Frame(
        MARGIN * (column + span * (0.5 * turned + wide * wide) + 2.0 * (whole + span * wide) * wide + off),
        MARGIN * ((whole + span * wide) * (1.0 + 2.0 * wide) + off),
        MARGIN * (0.5 * turned + wide * wide),
        wide,
    )


class Jet(NamedTuple):
    """Bounds on a polynomial in the perturbations: its value without them, its linear part, and all the rest."""

    value: float
    linear: float
    rest: float

    def __mul__(self, other: Jet) -> Jet:  # type: ignore[override]
        a, b = self, other
        rest = a.value * b.rest + a.linear * (b.linear + b.rest) + a.rest * (b.value + b.linear + b.rest)
        return Jet(a.value * b.value, a.value * b.linear + a.linear * b.value, rest)

    def __add__(self, other: Jet) -> Jet:  # type: ignore[override]
        return Jet(self.value + other.value, self.linear + other.linear, self.rest + other.rest)

    def times(self, factor: float) -> Jet:
        """Return the jet of a multiple."""
        return Jet(factor * self.value, factor * self.linear, factor * self.rest)


class Norms(NamedTuple):
    """Bounds on further errors of the differences of which only norms are known, and what later steps made of them.

    Attributes
    ----------
    mean : ndarray of shape (q,)
        Norms of the columns of the error of the mean.
    covariance : float
        Frobenius norm of that of the covariance.
    factor : ndarray of shape (p,)
        What every direction has been multiplied by since.
    """

    mean: Array
    covariance: float
    factor: Array

    def scaled(self, scale: Array | float) -> tuple[float, float]:
        """Return bounds on the norms of the errors of mean and covariance, each direction in its own units."""
        most = float((scale * self.factor).max())
        return most * norm(self.mean), most * most * self.covariance


class LawErrors(NamedTuple):
    """Bounds on the rounding of both laws, entry by entry in the reference frame."""

    mean_p: Array  # (q,), norms of the columns
    mean_difference: Array  # (p, q)
    covariance_q: Array  # (p, p)
    covariance_difference: Array  # (p, p)
    further: Norms | None = None  # of laws that do not start from zero

    @classmethod
    def none(cls, p: int, q: int) -> LawErrors:
        """Return the errors of the start, which is exact."""
        zero = np.zeros((p, p))
        return cls(np.zeros(q), np.zeros((p, q)), zero, zero)


class Basis(NamedTuple):
    """Eigenbasis of H on one version of the data: eigenvalues, eigenvectors, contraction per eigenvalue, V^T X^T Y.

    Their errors come with them: the frame, and bounds (q,) on the norms of the errors of the last.
    """

    values: Array
    vectors: Array
    a: Array
    moment: Array
    frame: Frame
    moment_error: Array


class Rows(NamedTuple):
    """The deleted rows of a phase: as they are, in both frames, and their targets."""

    given: Array
    own: Array
    reference: Array
    targets: Array


class Step(NamedTuple):
    """A phase: number of steps, squared noise, step size."""

    n_steps: int
    variance: float
    step_size: float


class _Slopes(NamedTuple):
    """L and c >= |a| with |g[a_i, a_j]| <= L_ij (g(c_i) + g(c_j)) for every g with coefficients >= 0.

    Away from the diagonal a divided difference is at most the larger value over the gap; near it, at most the slope at
    the larger point m, and g(m + s) >= s g'(m).
    """

    table: Array
    c: Array

    @classmethod
    def of(cls, a: Array, largest: float, n_steps: int) -> _Slopes:
        a = np.abs(a)
        step = np.maximum(a, largest) / (2.0 * n_steps)
        gap = np.abs(a[:, None] - a[None, :]) - 2.0 * UNIT
        return cls(MARGIN / np.maximum(gap, np.minimum(step[:, None], step[None, :])), a + step)

    def between(self, values: Array) -> Array:
        """Return the bound from the values of g at c."""
        return np.asarray(self.table * (values[:, None] + values[None, :]))


def _spread(left: Array, right: Array) -> Array:
    """Return roots of the sums of squares of what a product sums up: times the norm of a row of F, a bound (Cauchy)."""
    a, b = float(left.max()), float(right.max())
    if not (a > 0.0 and b > 0.0):
        return left @ right  # zeros, or NaN
    squares = np.square(left / a) @ np.square(right / b)
    return np.asarray((np.sqrt(squares) * MARGIN + 1e-150 * len(right)) * (a * b))  # the last for what underflows


class _Moved(NamedTuple):
    """How g(A) moves in one frame: by F's linear part, F_ij table_ij, and by roundings on the diagonal."""

    column: float
    table: Array
    roundings: Array

    def on(self, size: Array) -> Array:
        """Return a bound on the product with a matrix of at most these entries."""
        return np.asarray(self.column * _spread(self.table, size) + self.roundings[:, None] * size)

    def on_diagonal(self, size: Array | float) -> Array:
        """Return a bound on the product with a diagonal matrix."""
        result = self.column * self.table * size
        result[np.diag_indices_from(result)] += self.roundings * size
        return np.asarray(result)


class _Tables(NamedTuple):
    """Errors of A^N, of the sum of powers and of that of even powers in one frame."""

    power: _Moved
    total: _Moved
    even: _Moved

    @classmethod
    def of(cls, a: Array, slopes: _Slopes, column: float, rounds: float, n_steps: int) -> _Tables:
        at, beyond = ((*powers(x, n_steps), powers(x * x, n_steps)[1]) for x in (np.abs(a), slopes.c))
        return cls(*(_Moved(column, slopes.between(c), rounds * x) for x, c in zip(at, beyond, strict=True)))


def _jets(largest: float, norm: float, rounds: float, n_steps: int) -> tuple[Jet, Jet, Jet, Jet]:
    """Return the norms of A^N, of its derivative, of the sum of powers (even ones too) and of its derivative.

    With coefficients >= 0, g(x + s) is at least s^k g^(k)(x) / k!: so the Taylor terms of g at x are at most those of
    a geometric series in norm / s.
    """

    def pair(value: float, reach: float) -> tuple[Jet, Jet]:
        share = norm / reach + rounds
        if not share < 0.1:
            return Jet(math.inf, math.inf, math.inf), Jet(math.inf, math.inf, math.inf)
        slope = value / reach
        return (
            Jet(value, share * value, 1.2 * share * share * value),
            Jet(slope, 2.0 * share * slope, 4.0 * share * share * slope),
        )

    x = max(largest, 1e-3)
    wide = (x * (1.0 + 1.0 / n_steps)) ** n_steps * MARGIN
    sums = (2.0 / (1.0 - x), 0.5 * (1.0 - x)) if n_steps * (1.0 - x) >= 2.0 else (7.4 * n_steps, 1.0 / n_steps)
    return (*pair(wide, x / n_steps), *pair(*sums))


def advance_errors(
    last: LawErrors,
    step: Step,
    reference: Basis,
    own: Basis,
    *,
    mean_p: Array,
    mean: Array,
    end: Array,
    mean_difference: Array,
    variance_q: Array,
    covariance_difference: Array,
    rows: Rows | None,
    overlap: Array | None,
) -> LawErrors:
    """Return the errors after one more phase: each term of the law's recursion with one factor replaced by its error.

    ``mean_p`` to ``covariance_difference`` are what the phase started from, ``mean`` and ``end`` the mean of P before
    and after it in its own frame.
    """
    n_steps, tau2, eta = step
    p = len(variance_q)
    count = 0 if rows is None else len(rows.given)
    rounds = 8.0 * UNIT * (n_steps + 8.0 + p + count)
    sums = sum_error(p)
    contraction = float(max(np.abs(own.a).max(), np.abs(reference.a).max()))
    right = _Slopes.of(reference.a, contraction, n_steps)
    tables = _Tables.of(reference.a, right, reference.frame.column, rounds, n_steps)
    left, own_tables = right, tables
    if own is not reference:
        left = _Slopes.of(own.a, contraction, n_steps)
        own_tables = _Tables.of(own.a, left, own.frame.column, rounds, n_steps)
    power_q, total_q = powers(np.abs(reference.a), n_steps)

    def carried(size: Array, error: Array) -> Array:
        moved = (tables.power.on_diagonal(size) if size.ndim == 1 else tables.power.on(size)) * power_q
        return power_q[:, None] * error * power_q + moved + moved.T

    covariance_q = carried(variance_q, last.covariance_q) + tables.even.on_diagonal(tau2)
    difference = carried(np.abs(covariance_difference), last.covariance_difference)
    shift = power_q[:, None] * last.mean_difference + tables.power.on(np.abs(mean_difference))

    turned = own.frame.apart + 2.0 * math.sqrt(p) * sums
    mean_off = last.mean_p + turned * columns(mean_p)
    power_p, total_p = powers(np.abs(own.a), n_steps)
    off = own_tables.power.on(np.abs(mean)) + eta * own_tables.total.on(np.abs(own.moment))
    end_off = columns(off) + power_p.max() * mean_off + eta * total_p.max() * own.moment_error
    end_off += turned * columns(end)

    power, power_slope, total, total_slope = _jets(
        contraction, max(own.frame.norm, reference.frame.norm), rounds, n_steps
    )
    turn = Jet(MARGIN, turned, 0.0)
    of_mean = Jet(norm(mean_p), norm(last.mean_p), 0.0) * turn
    mean_more, covariance_more = (0.0, 0.0) if last.further is None else last.further.scaled(1.0)
    of_shift = Jet(norm(mean_difference), norm(last.mean_difference) + mean_more, 0.0)
    of_q = Jet(float(variance_q.max()), norm(last.covariance_q), 0.0)
    of_difference = Jet(norm(covariance_difference), norm(last.covariance_difference) + covariance_more, 0.0)
    moment = Jet(norm(own.moment), norm(own.moment_error), 0.0)
    next_mean = (power * of_mean + (total * moment).times(eta)) * turn
    next_shift, next_q = power * of_shift, power * of_q * power + total.times(tau2)
    next_difference = power * of_difference * power

    further = last.further
    if further is not None:
        if rows is not None:
            raise ValueError("rows must be gone from every phase after those whose law is kept")
        further = further._replace(factor=MARGIN * further.factor * power_q)

    if rows is not None and overlap is not None:
        length = columns(rows.given.T)[:, None]
        lengths = (max(own.frame.turn, reference.frame.turn) + sums) * length * np.ones(p)
        rows_p, rows_q, targets = np.abs(rows.own), np.abs(rows.reference), np.abs(rows.targets)
        pairs = (eta * rows_p).T @ rows_q  # eta first: their own products may underflow
        pairs_off = (eta * (rows_p + lengths)).T @ lengths + (eta * lengths).T @ rows_q
        through_left, through_right = _spread(left.table, pairs), _spread(pairs, right.table)
        a, b = left.c[:, None], right.c[None, :]

        def of(table: Array) -> tuple[Array, Array]:
            size = pairs * table
            moved = own.frame.column * (table * through_left + _spread(left.table, size))
            moved += reference.frame.column * (table * through_right + _spread(size, right.table))
            return size, moved + table * pairs_off + rounds * size

        overlap = np.abs(overlap)
        overlap_off = MARGIN * (own.frame.turn + reference.frame.turn + sums)

        def brought(size: Array, error: Array) -> tuple[Array, Array]:
            whole = overlap.T @ size
            return whole, overlap.T @ error + overlap_off * size.sum(axis=0) + 4.0 * sums * whole

        of_power, of_total = divided_powers(a, b, n_steps)
        powered, powered_off = of(of_power)
        summed, summed_off = of(of_total)
        jump, jump_off = brought(powered, powered_off)
        noise_off = brought(*of((a + b) * divided_powers(a * a, b * b, n_steps)[1]))[1]
        covariance = np.abs(covariance_difference)
        covariance[np.diag_indices_from(covariance)] += variance_q
        if np.any(covariance):
            covariance_off = last.covariance_q + last.covariance_difference
            ahead = jump @ covariance
            moved = (jump_off @ covariance + jump @ covariance_off) * power_q + tables.power.on(ahead.T).T
            squared = ahead @ jump_off.T
            difference = difference + moved + moved.T + squared + squared.T + jump @ covariance_off @ jump.T
        difference = difference + 0.5 * tau2 * (noise_off + noise_off.T)
        pulled = powered_off.T @ np.abs(mean) + columns(powered)[:, None] * mean_off
        pulled += eta * (summed_off.T @ np.abs(own.moment) + columns(summed)[:, None] * own.moment_error)
        pulled += eta * (tables.total.on(rows_q.T @ targets) + total_q[:, None] * (lengths.T @ targets))
        shift = shift + pulled

        root = math.sqrt(eta) * MARGIN
        size = norm(rows.given) * root
        row = Jet(size, size * (max(own.frame.apart, reference.frame.apart) + math.sqrt(p) * sums), 0.0)
        both = row * row
        apart = own.frame.apart + reference.frame.apart + 8.0 * p * sums
        across = Jet(MARGIN, apart, apart * apart)
        leap, start = across * both * power_slope, of_q + of_difference
        next_shift = next_shift + both * (power_slope * of_mean + (total_slope * moment).times(eta))
        next_shift = next_shift + (total * row).times(root * norm(targets))
        next_difference = next_difference + (leap * start * power).times(2.0) + leap * start * leap
        next_difference = next_difference + (across * both * total_slope).times(tau2)

    # Every product may lose a smallest normal number, and what follows makes up to (number of steps)^2 of it, times the
    # sizes that it meets.
    lost = 1e3 * p * p * TINY * (1.0 + n_steps) ** 2
    largest = 1.0 + max(float(variance_q.max()), float(np.abs(covariance_difference).max()), tau2 * n_steps)
    sizes = [np.abs(part).max(initial=0.0) for part in (mean, end, eta * n_steps * own.moment, mean_difference)]
    most = 1.0 + max(sizes) + (0.0 if rows is None else float(np.abs(rows.targets).max()))
    # What the norms say of the rest holds of every entry; the next phase takes it as what its start is off by.
    return LawErrors(
        end_off + next_mean.rest + lost * most,
        shift + next_shift.rest + lost * most * (1.0 + n_steps),
        covariance_q + next_q.rest,
        difference + next_difference.rest + lost * largest,
        further,
    )


class WhitenedErrors(NamedTuple):
    """Error bounds of a whitened pair: Frobenius norms of the excess covariance and of the shift."""

    excess: float
    shift: float
    whitening: float


def pair_error(errors: LawErrors, scale: Array, whitened: Array, shift: Array, frame: Frame) -> WhitenedErrors:
    """Return bounds on the error of the pair of a whitened difference and shift, up to a common rotation.

    ``scale`` is one over the standard deviations of Q, ``frame`` that of the eigenvectors of ``whitened``. With D the
    whitened error of the covariance of Q, (I + D)^(-1/2) whitens it once more, which differs from I by at most 0.56 |D|
    for |D| <= 0.1.
    """
    p, top = len(scale), float(scale.max())
    sums = sum_error(p)
    off = norm(scale[:, None] * errors.covariance_q * scale) + 8.0 * UNIT
    size = norm(whitened)
    mean_more, covariance_more = (0.0, 0.0) if errors.further is None else errors.further.scaled(scale)
    excess = norm(scale[:, None] * errors.covariance_difference * scale) + covariance_more
    excess += 8.0 * UNIT * size + 4.0 * p * TINY * (1.0 + top)
    length = norm(shift)
    moved = norm(scale[:, None] * errors.mean_difference) + mean_more
    moved += (8.0 * UNIT + frame.apart + 2.0 * math.sqrt(p) * sums) * length + 4.0 * shift.size * TINY * (1.0 + top)
    return WhitenedErrors(
        MARGIN * (excess + 1.2 * off * (size + excess) + frame.norm),
        MARGIN * (moved + 0.56 * off * (length + moved)),
        off,
    )
