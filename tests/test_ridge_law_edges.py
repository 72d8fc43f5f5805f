"""Edges of the law of a ridge deletion: refusals at the ends of ranges, constants on one side of them, what is lost."""

import numpy as np
import pytest

from expunge.accounting.noise_floor import noise_floor
from expunge.runs.ridge.law import LawPair, Phase, RidgeDeletion, phase_floors, require_step_size, smoothness
from expunge.runs.ridge.rounding import LawErrors

HUGE = np.array([[1e200, 1e200], [1e200, -1e200], [1.0, 1.0]])
TALL = np.arange(6.0).reshape(3, 2)


def problem(seed=0, n=6, p=3):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, p)), rng.normal(size=(n, 2))
    return X, Y, {"alpha": 0.5, "step_size": 0.7 / smoothness(X, alpha=0.5)}


def law(variance, *, difference=0.0, shift=0.0):
    """A deletion of a row with a zero in it, and a made state of both laws of one output."""
    p = len(variance)
    X = np.zeros((3, p))
    X[0, 0] = 1.0
    deletion = RidgeDeletion(X, np.ones((3, 1)), alpha=1.0, step_size=0.5, deleted=[0])
    excess = np.broadcast_to(np.asarray(difference, dtype=float), p)
    state = LawPair(
        np.zeros((p, 1)), np.full((p, 1), shift), np.array(variance), np.diag(excess), 1, LawErrors.none(p, 1)
    )
    return deletion, state


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 3)])
@pytest.mark.parametrize("size", [1e-3, 0.3, 5.0])
def test_smoothness_is_the_largest_eigenvalue_whichever_side_is_longer(shape, size):
    X = size * np.random.default_rng(0).normal(size=shape)
    expected = np.linalg.norm(X, 2) ** 2 + 0.25
    assert smoothness(X, alpha=0.25) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("design", [HUGE, HUGE.T, np.diag([1e200, 1.0])], ids=["tall", "wide", "one entry"])
def test_squares_beyond_float64_are_refused_by_name(design):
    with pytest.raises(ValueError, match=r"^design must have squares"):
        smoothness(design, alpha=1.0)
    with pytest.raises(ValueError, match=r"^design must have squares"):
        RidgeDeletion(design, np.ones((len(design), 1)), alpha=1.0, step_size=1e-3, deleted=[0])


def test_targets_whose_products_overflow_are_refused_by_name():
    targets = np.array([[1e308, 1e308, 0.0], [1e308, -1e308, 0.0], [1e308, 1e308, 1.0]])
    with pytest.raises(ValueError, match=r"^targets must have squares"):
        RidgeDeletion(TALL, targets, alpha=1.0, step_size=1e-3, deleted=[0])


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan])
def test_a_penalty_that_is_not_above_zero_is_refused(alpha):
    with pytest.raises(ValueError, match=r"^alpha must be > 0"):
        RidgeDeletion(TALL, np.ones((3, 1)), alpha=alpha, step_size=1e-3, deleted=[0])


@pytest.mark.parametrize("step_size", [0.0, -0.1, np.nan, 1.0 + 2e-9])
def test_a_step_size_is_above_zero_and_at_most_its_limit(step_size):
    nothing = np.zeros((3, 2))
    RidgeDeletion(nothing, np.ones((3, 1)), alpha=1.0, step_size=1.0 + 1e-9, deleted=[0])  # the limit itself
    with pytest.raises(ValueError, match=r"^step_size must be > 0"):
        RidgeDeletion(nothing, np.ones((3, 1)), alpha=1.0, step_size=step_size, deleted=[0])


def test_one_over_l_has_room_for_the_rounding_of_as_many_columns():
    eps = float(np.finfo(np.float64).eps)
    assert require_step_size(0.5, largest=2.0, n_columns=1) == 0.5
    for columns in (1, 100):
        require_step_size(1.0 + 1e-9 + 0.5 * columns * eps, largest=1.0, n_columns=columns)
        with pytest.raises(ValueError, match=r"^step_size must be > 0 and at most 1/L = 1\.0, got 1\.0"):
            require_step_size(1.0 + 1e-9 + 2 * columns * eps, largest=1.0, n_columns=columns)
    # A product that underflows is no step size of 0.
    require_step_size(1e-300, largest=1e-100, n_columns=1)


def test_a_step_size_within_the_slack_is_taken_as_it_is():
    X = np.array([[1.0], [0.0]])
    step_size = 0.5 * (1 + 0.9e-9)
    deletion = RidgeDeletion(X, np.ones((2, 1)), alpha=1.0, step_size=step_size, deleted=[1])
    assert deletion.reference.a.tolist() == [1.0 - 2.0 * step_size]
    assert deletion.contraction == 2.0 * step_size - 1.0 > 0


def test_steps_are_counted_and_a_basis_is_formed_once():
    X, Y, run = problem()
    deletion = RidgeDeletion(X, Y, **run, deleted=[0])
    phases = [Phase(7, 0.1), Phase(4, 0.2, (0,))]
    assert deletion.run([]).n_steps == 0
    assert deletion.run(phases).n_steps == 11
    assert deletion.basis(()) is deletion.basis(())
    assert deletion.present(phases[1]).dtype == np.int64


def test_floors_are_those_of_the_noise_free_parameters_step_by_step():
    X, Y, run = problem()
    phases = [Phase(2, 0.1), Phase(3, 0.2, (1,)), Phase(0, 0.3, (0, 1)), Phase(2, 0.2, (0, 1))]

    def step(mean, gone):
        rows, aims = np.delete(X, gone, axis=0), np.delete(Y, gone, axis=0)
        return mean - run["step_size"] * (rows.T @ (rows @ mean - aims) + run["alpha"] * mean)

    p, q, expected = np.zeros((3, 2)), np.zeros((3, 2)), []
    for phase in phases:
        ends = p, q
        for _ in range(phase.n_steps):
            ends = step(ends[0], list(phase.removed)), step(ends[1], [0, 1])
        expected.append(noise_floor(p, q, *ends))
        p, q = ends
    found = phase_floors(X, Y, **run, phases=phases, deleted=[0, 1])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("variance", [[1e-250, 1.0], [1.0, 1e200], [1e-250, 1e200]])
def test_variances_at_the_ends_of_their_range_are_admitted(variance):
    variance[-1] = min(variance[-1], 1e100**2)
    deletion, state = law(variance)
    assert deletion.pair(state).shift.shape == (2, 1)


@pytest.mark.parametrize("variance", [[0.99e-250, 1.0], [0.0, 1.0], [1.0, 1.5e200], [1.0, np.nan]])
def test_a_variance_out_of_range_in_one_direction_is_refused(variance):
    deletion, state = law(variance)
    with pytest.raises(ValueError, match=r"^noise_std must leave variances between 1e-250 and 1e\+200"):
        deletion.pair(state)


@pytest.mark.parametrize("excess", [-1.0, -1.5])
def test_a_singular_pair_is_refused(excess):
    deletion, state = law([1.0, 1.0], difference=[0.0, excess])
    with pytest.raises(ValueError, match="numerically singular"):
        deletion.pair(state)


def test_a_deletion_lost_to_underflow_is_no_claim_of_equal_laws():
    deletion, state = law([4.0, 1.0])
    pair = deletion.pair(state)
    assert pair.shift_error >= 2e-308
    assert pair.excess_error >= 2e-308
    for epsilon in (0.0, 1.0):
        assert all(pair.delta(epsilon, direction=direction) > 0 for direction in ("pq", "qp"))
    assert pair.epsilon(0.0) == np.inf
    nothing = RidgeDeletion(np.zeros((3, 2)), np.ones((3, 1)), alpha=1.0, step_size=0.5, deleted=[0])
    equal = nothing.pair(state)
    assert equal.delta(0.0) == equal.excess_error == equal.shift_error == 0.0
    assert not equal.shift.any()
    assert not equal.excess_variance.any()


def test_a_step_so_long_that_squares_underflow_is_refused():
    X = np.full((3, 1), 1e-130)
    with pytest.raises(ValueError, match="step_size must be at most 1e\\+250"):
        RidgeDeletion(X, np.ones((3, 1)), alpha=1e-260, step_size=1e255, deleted=[0])
    RidgeDeletion(X, np.ones((3, 1)), alpha=1e-260, step_size=1e250, deleted=[0])


def test_both_laws_are_those_of_the_steps_one_by_one():
    X, Y, run = problem(3)
    phases = [Phase(3, 0.5), Phase(2, 0.3, (1,)), Phase(4, 0.2, (0, 1))]
    deletion = RidgeDeletion(X, Y, **run, deleted=[0, 1])
    state = deletion.run(phases)
    (mean_p, cov_p), (mean_q, cov_q) = ((np.zeros((3, 2)), np.zeros((3, 3))) for _ in range(2))
    for phase in phases:
        keep_p, keep_q = np.delete(np.arange(6), list(phase.removed)), np.arange(2, 6)
        for _ in range(phase.n_steps):
            mean_p, cov_p = one_step(X[keep_p], Y[keep_p], mean_p, cov_p, phase.noise_std, run)
            mean_q, cov_q = one_step(X[keep_q], Y[keep_q], mean_q, cov_q, phase.noise_std, run)
    U = deletion.reference.vectors
    np.testing.assert_allclose(state.mean_p, mean_p, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(U @ state.mean_difference, mean_p - mean_q, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(U @ np.diag(state.variance_q) @ U.T, cov_q, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(U @ state.covariance_difference @ U.T, cov_p - cov_q, rtol=1e-11, atol=1e-14)


def one_step(rows, aims, mean, covariance, noise_std, run):
    step = np.eye(rows.shape[1]) - run["step_size"] * (rows.T @ rows + run["alpha"] * np.eye(rows.shape[1]))
    mean = step @ mean + run["step_size"] * rows.T @ aims
    return mean, step @ covariance @ step + noise_std**2 * np.eye(len(step))


def test_trailing_phases_common_to_both_runs_are_dropped_and_no_others():
    X, Y, run = problem()
    deletion = RidgeDeletion(X, Y, **run, deleted=[0])
    learn, noisy, silent, empty = Phase(5, 0.1), Phase(2, 0.1, (0,)), Phase(2, 0.0, (0,)), Phase(0, 0.1, (0,))
    assert deletion.effective_phases([learn, noisy, silent, empty]) == (learn, noisy)
    assert deletion.effective_phases([learn, silent, noisy]) == (learn, silent, noisy)
    assert deletion.effective_phases([learn, Phase(2, 0.0)]) == (learn, Phase(2, 0.0))
    for without in ([Phase(5, 0.0)], [Phase(0, 0.1)], [Phase(5, 0.0), empty], []):
        with pytest.raises(ValueError, match=r"^noise_std must be > 0 in at least one phase"):
            deletion.effective_phases(without)
