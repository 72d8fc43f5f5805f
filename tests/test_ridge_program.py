"""Langevin steps with a bound on their error, held against 100 digits, and what it makes of releases."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from expunge.data.close_products import UNIT
from expunge.data.exact_products import Pair, exact_gram, exact_moment, relative_error, thirds, two_product, two_sum
from expunge.runs.exact_noise import exact_normals, grid_exponent
from expunge.runs.ridge.chain import ExactEquations, zeros
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.program import Program, error_bound, largest_bound, release_noise, step_error

mpmath.mp.dps = 100
REGIMES = ("plain", "scaled", "nearly singular", "huge target", "tiny", "large parts")


def exact(values):
    """Return float64 values, or pairs of them, as 100-digit numbers."""
    if isinstance(values, Pair):
        return exact(values.hi) + exact(values.lo)
    return mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in np.atleast_2d(values)])


def length(matrix):
    return float(mpmath.sqrt(sum(x * x for x in matrix)))


def problem(regime, seed):
    rng = np.random.default_rng(seed)
    n, p, q = int(rng.integers(2, 9)), int(rng.integers(1, 5)), int(rng.integers(1, 3))
    X, Y, alpha = rng.normal(size=(n, p)), rng.normal(size=(n, q)), float(10.0 ** rng.uniform(-3, 1))
    if regime == "scaled":
        X *= 10.0 ** rng.uniform(-6, 6, size=p)
    elif regime == "nearly singular":
        X = X[:, :1] + 1e-9 * X
    elif regime == "huge target":
        Y *= 1e9
    elif regime == "tiny":
        X, Y = X * 1e-7, Y * 1e-5
    elif regime == "large parts":
        X[0], Y[0] = 1e8 * X[0], -1e8 * Y[0]
    return X, Y, alpha


def ideal(X, Y, *, alpha, step_size, phases, draws):
    """Return the chain over the reals, its parts removed phase by phase, in 100 digits."""
    theta, at = mpmath.zeros(X.shape[1], Y.shape[1]), 0
    for phase in phases:
        keep = np.setdiff1d(np.arange(len(X)), phase.removed)
        A, B = exact(X[keep]), exact(Y[keep])
        H, b = A.T * A + mpmath.mpf(alpha) * mpmath.eye(X.shape[1]), A.T * B
        for _ in range(phase.n_steps):
            noise = mpmath.mpf(phase.noise_std) * exact(draws[at])
            theta, at = theta - mpmath.mpf(step_size) * (H * theta - b) + noise, at + 1
    return theta


def pairs(count, shape, *, seed):
    source = np.random.default_rng(seed)
    hi, lo = exact_normals(count * shape[0] * shape[1], words=lambda n: source.integers(2**32, size=n, dtype=np.uint32))
    return [Pair(a, b) for a, b in zip(hi.reshape(count, *shape), lo.reshape(count, *shape), strict=True)]


def largest(X, alpha):
    return float(np.linalg.eigvalsh(X.T @ X).max()) + alpha


@given(st.floats(-1e100, 1e100), st.floats(-1e100, 1e100))
def test_sums_and_products_lose_nothing(a, b):
    total = two_sum(np.array([a]), np.array([b]))
    assert Fraction(total.hi.item()) + Fraction(total.lo.item()) == Fraction(a) + Fraction(b)
    if abs(a * b) > 1e-250 or a * b == 0 == min(abs(a), abs(b)):
        product = two_product(a, np.array([b]))
        assert Fraction(product.hi.item()) + Fraction(product.lo.item()) == Fraction(a) * Fraction(b)


def test_three_parts_are_the_whole_and_fall():
    values = np.random.default_rng(0).normal(size=(40, 3)) * [1.0, 1e-9, 1e9]
    high, middle, low = thirds(values, 0, 20)
    assert (high + middle + low == values).all()
    assert ((values - high) - middle == low).all()
    assert (np.abs(low) <= 4.0**-20 * np.abs(values).max(axis=0)).all()


@pytest.mark.parametrize("regime", REGIMES)
def test_products_of_data_are_within_their_bound(regime):
    for seed in range(6):
        X, Y, _ = problem(regime, seed)
        size, bound = np.linalg.norm(X), relative_error(*X.shape) * (1 + 1e-12)
        A, B = exact(X), exact(Y)
        assert length(A.T * A - exact(exact_gram(X))) <= bound * size * size
        assert length(A.T * B - exact(exact_moment(X, Y))) <= bound * size * np.linalg.norm(Y)


def test_products_of_many_rows_are_within_their_bound():
    X = np.random.default_rng(3).normal(size=(2000, 2)) * 10.0 ** np.random.default_rng(4).uniform(-4, 4, (2000, 1))
    found, A = exact_gram(X), exact(X)
    assert length(A.T * A - exact(found)) <= relative_error(2000, 2) * np.linalg.norm(X) ** 2
    # One rounding of the result would be far beyond it.
    assert length(exact(found.lo)) > 1e3 * relative_error(2000, 2) * np.linalg.norm(X) ** 2


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 7))
def test_the_bound_on_the_largest_eigenvalue_is_none_below(seed, p):
    X = np.random.default_rng(seed).normal(size=(p, p)) * 10.0 ** np.random.default_rng(seed).uniform(-8, 8, p)
    matrix = X.T @ X
    values = np.linalg.eigvalsh(matrix)
    assert values[-1] * (1 - 1e-12) <= largest_bound(matrix) <= p ** (1 / 32) * values[-1] * 1.01


@pytest.mark.parametrize("regime", REGIMES)
def test_the_chain_is_within_its_bound(regime):
    for seed in range(8):
        X, Y, alpha = problem(regime, seed)
        (n, p), q = X.shape, Y.shape[1]
        eta = (1.9 if seed % 2 else 0.999) / largest(X, alpha)  # no error grows up to 2
        phase = Phase(25, 0.3 * 10.0 ** np.random.default_rng(seed).uniform(-3, 1))
        draws = pairs(25, (p, q), seed=seed)
        truth = ideal(X, Y, alpha=alpha, step_size=eta, phases=[phase], draws=draws)
        equations = ExactEquations.of(X, Y, alpha=alpha)
        run = {"step_size": eta, "phase": phase, "draw": lambda k, shape, draws=draws: draws[k]}
        found = equations.steps(zeros((p, q)), **run)
        sizes = {"alpha": alpha, "n": n, "p": p, "q": q, "targets": Program.bound_on(Y)}
        each, size = step_error([phase], step_size=eta, **sizes)
        assert length(truth) <= size
        assert length(truth - exact(found)) <= 25 * each
        # What float64 loses in a step is far more: a low part that is dropped anywhere is found.
        assert 25 * each < 1e-3 * UNIT * size
        assert length(truth - exact(found)) <= error_bound([phase], step_size=eta, **sizes)


def test_the_bound_holds_after_deletions_too():
    for seed in range(6):
        X, Y, alpha = problem("plain", seed + 50)
        (n, p), q = X.shape, Y.shape[1]
        eta = 1.0 / largest(X, alpha)
        phases = [Phase(12, 0.1), Phase(6, 0.3, (0,)), Phase(4, 0.0, (0, 1))][: max(n - 1, 1)]
        draws = pairs(22, (p, q), seed=seed)
        theta, at = zeros((p, q)), 0
        for phase in phases:
            keep = np.setdiff1d(np.arange(n), phase.removed)
            equations = ExactEquations.of(X[keep], Y[keep], alpha=alpha)
            run = {"step_size": eta, "phase": phase, "draw": lambda k, shape, at=at, draws=draws: draws[at + k]}
            theta, at = equations.steps(theta, **run), at + phase.n_steps
        truth = ideal(X, Y, alpha=alpha, step_size=eta, phases=phases, draws=draws)
        sizes = {"alpha": alpha, "n": n, "p": p, "q": q, "targets": Program.bound_on(Y)}
        each, _ = step_error(phases, step_size=eta, **sizes)
        assert length(truth - exact(theta)) <= at * each  # nothing is rounded between the phases
        rounded = UNIT * 2.0 ** grid_exponent(release_noise(phases)) * math.sqrt(p * q)  # as a release does
        assert error_bound(phases, step_size=eta, **sizes) >= sum(p.n_steps for p in phases) * each + rounded


def test_steps_leave_the_chain_of_float64_far_behind():
    X, Y, alpha = problem("plain", 1)
    eta, draws = 1.0 / largest(X, alpha), pairs(60, (X.shape[1], Y.shape[1]), seed=2)
    truth = ideal(X, Y, alpha=alpha, step_size=eta, phases=[Phase(60, 0.3)], draws=draws)
    run = {"step_size": eta, "phase": Phase(60, 0.3), "draw": lambda k, shape: draws[k]}
    found = ExactEquations.of(X, Y, alpha=alpha).steps(zeros((X.shape[1], Y.shape[1])), **run)
    plain = np.zeros((X.shape[1], Y.shape[1]))
    for draw in draws:
        plain = plain - eta * ((X.T @ X + alpha * np.eye(X.shape[1])) @ plain - X.T @ Y) + 0.3 * draw.hi
    assert 1e6 * length(truth - exact(found)) < length(truth - exact(plain))


def test_the_distance_is_no_smaller_than_that_of_two_releases():
    """Two programs that end ``error`` apart, in one number: the laws of their releases, cell by cell."""
    program = Program.of([Phase(40, 0.01)], step_size=0.5, alpha=1.0, n=5, p=1, q=1, targets=1e17)
    noise, grid, error = program.release_noise, program.grid, program.error
    assert error > 1e-7 * noise  # or nothing would be seen of it in float64
    cells = np.arange(-6 * 4096, 6 * 4096) * grid
    for start in (0.0, 0.31 * grid, 0.5 * grid):
        one, other = (
            special.ndtr((cells + 0.5 * grid - at) / noise) - special.ndtr((cells - 0.5 * grid - at) / noise)
            for at in (start, start + error)
        )
        apart = 0.5 * np.abs(one - other).sum()
        assert 0.5 * apart <= error / (noise * math.sqrt(2 * math.pi)) <= program.distance
        assert apart <= program.distance * (1 + 1e-6)


def test_norms_leave_their_region_as_rarely_as_said():
    # The tail that the bound takes, at a chance that a simulation can see.
    beta, size = 1e-2, 12
    radius = math.sqrt(size) + math.sqrt(-2.0 * math.log(beta))
    assert stats.chi(size).sf(radius) <= beta


def test_noise_and_grid_follow_from_the_phases_alone():
    program = Program.of([Phase(30, 0.01), Phase(3, 0.05)], step_size=0.1, alpha=1.0, n=9, p=2, q=1, targets=4.0)
    assert program.release_noise == 2.0**-9
    assert program.grid == 2.0**-21
    assert (
        release_noise([Phase(30, 0.01), Phase(3, 0.0)]) == release_noise([Phase(30, 0.01), Phase(3, 1e-9)]) == 2.0**-11
    )
    assert program.holds(np.array([0.0, 2.0**-21, -3.0 * 2.0**-20]))
    assert not program.holds(np.array([2.0**-22]))
    assert not program.holds(np.array([2.0**40]))
    assert not program.holds(np.array([np.nan]))
    with pytest.raises(ValueError, match="phases must have noise"):
        release_noise([Phase(30, 0.0)])


def test_records_that_say_too_little_are_found():
    run = {"step_size": 0.1, "alpha": 1.0, "n": 9, "p": 2, "q": 1}
    phases = [Phase(30, 0.01), Phase(3, 0.05)]
    needed = Program.of(phases, targets=4.0, **run)
    assert needed.failure(needed) is None
    assert Program.of(phases, targets=8.0, **run).failure(needed) is None
    for name in ("release_noise", "grid", "targets", "error", "distance"):
        smaller = Program(**{**needed.to_dict(), name: 0.99 * getattr(needed, name)})
        assert name in str(smaller.failure(needed))
        assert name in str(Program(**{**needed.to_dict(), name: math.nan}).failure(needed))
    # More than is needed, but of each other's size.
    assert "distance" in str(Program(**{**needed.to_dict(), "error": 1e300}).failure(needed))


def test_what_cannot_be_bounded_is_refused():
    run = {"step_size": 0.1, "alpha": 1.0, "n": 9, "q": 1, "targets": 1.0}
    with pytest.raises(ValueError, match="fewer columns"):
        error_bound([Phase(3, 0.1)], p=10**6, **run)
    with pytest.raises(ValueError, match="must be bounded"):
        error_bound([Phase(10**33, 1e-3)], p=2, **run)
    equations = ExactEquations.of(np.eye(2), np.ones((2, 1)), alpha=1.0)
    with pytest.raises(ValueError, match="overflow"):
        equations.steps(zeros((2, 1)), step_size=1e200, phase=Phase(9, 1.0))
    with pytest.raises(ValueError, match="X must have products"):
        ExactEquations.of(np.full((2, 1), 1e200), np.ones((2, 1)), alpha=1.0)


@pytest.mark.parametrize("exponent", [-400, -560, 400])
def test_bounds_grow_and_shrink_with_noise_and_targets_however_small(exponent):
    # Squares of such noise vanish, or nearly.
    def bound(scale: float) -> float:
        phases = [Phase(30, 0.01 * scale), Phase(5, 0.0), Phase(7, 0.03 * scale)]
        return error_bound(phases, step_size=1e-3, alpha=1.0, n=50, p=4, q=2, targets=scale)

    assert bound(2.0**exponent) >= 2.0**exponent * bound(1.0) * (1.0 - 1e-12)


def test_noise_beyond_float64_is_refused():
    with pytest.raises(ValueError, match="must be bounded by float64"):
        error_bound([Phase(30, 1e308)], step_size=1e-3, alpha=1.0, n=50, p=4, q=2, targets=1.0)
