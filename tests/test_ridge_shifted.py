"""The shifted bound of a ridge deletion over long phases: blocks of steps, merged steps, the price of its events."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.accounting import gdp_delta, shifted_mu
from expunge.runs.ridge import bounds, step_blocks
from expunge.runs.ridge.bounds import UniformBound, n_blocks, sensitivities, shifted_claim, tracked_mu
from expunge.runs.ridge.law import Phase, RidgeDeletion, smoothness

PHASES = (Phase(300, 0.2), Phase(40, 0.1, (0,)), Phase(5, 0.3, (0, 3)))


def problem(seed=0, fraction=0.7):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(12, 4)), rng.normal(size=(12, 2))
    return X, Y, {"alpha": 0.05, "step_size": fraction / smoothness(X, alpha=0.05)}


@pytest.mark.parametrize("single", [1, 7, 64])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_steps_bound_every_step_in_them(monkeypatch, single, seed):
    X, Y, run = problem(seed)
    deletion = RidgeDeletion(X, Y, **run, deleted=[0, 3])
    exact = sensitivities(deletion, PHASES, delta_s=1e-6)
    one_by_one = tracked_mu(deletion, PHASES, delta_s=1e-6)
    monkeypatch.setattr(step_blocks, "_SINGLE_STEPS", single)
    blocks = sensitivities(deletion, PHASES, delta_s=1e-6)
    for phase, every, some in zip(PHASES, exact, blocks, strict=True):
        assert some.length.sum() == phase.n_steps
        assert len(some.length) <= len(every.length)
        spread_out = np.repeat(some.bound, some.length)
        assert np.all(spread_out >= np.repeat(every.bound, every.length) * (1 - 1e-12))
    assert len(blocks[0].length) < 300
    assert one_by_one * (1 - 1e-12) <= tracked_mu(deletion, PHASES, delta_s=1e-6) <= 1.5 * one_by_one


@pytest.mark.parametrize("single", [1, 7, 64])
def test_blocks_bound_the_worst_case_too_and_the_own_bound_stays_below_it(monkeypatch, single):
    X, Y, run = problem()
    learn = PHASES[0]
    exact = UniformBound(X, Y, **run, learning=learn, delta_s=1e-6).mu([learn])
    monkeypatch.setattr(step_blocks, "_SINGLE_STEPS", single)
    blocked = UniformBound(X, Y, **run, learning=learn, delta_s=1e-6)
    assert exact * (1 - 1e-12) <= blocked.mu([learn]) <= 1.5 * exact
    for i in range(len(X)):
        deletion = RidgeDeletion(X, Y, **run, deleted=[i])
        assert tracked_mu(deletion, [learn], delta_s=1e-6) <= blocked.mu([learn]) * (1 + 1e-12)


def test_settling_in_pieces_gives_the_same_worst_case(monkeypatch):
    X, Y, run = problem()
    learn = PHASES[0]
    whole = UniformBound(X, Y, **run, learning=learn, delta_s=1e-6).mu([learn])
    monkeypatch.setattr(bounds, "_SETTLED", 5)
    assert UniformBound(X, Y, **run, learning=learn, delta_s=1e-6).mu([learn]) == pytest.approx(whole, rel=1e-13)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 3), st.floats(0.1, 3)), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e-12, 0.3, 0.9, 1 - 1e-6, 1.0]),
)
def test_equal_steps_merged_into_one_give_the_mu_of_all_of_them(blocks, contraction):
    length = np.array([block[0] for block in blocks], dtype=float)
    bound, noise = np.array([block[1] for block in blocks]), np.array([block[2] for block in blocks])
    every = shifted_mu(
        *(np.repeat(values, length.astype(int)) for values in (bound, np.full(5, contraction)[: len(blocks)], noise))
    )
    merged = shifted_mu(*bounds._merged(bound, noise, contraction, length))
    assert merged == pytest.approx(every, rel=1e-11, abs=1e-150)


@given(st.integers(2, 10**9), st.floats(1e-9, 1.0), st.floats(1e-3, 10.0), st.floats(1e-3, 10.0))
def test_a_merged_step_is_rounded_outward(n_steps, gap, bound, noise):
    contraction = 1.0 - gap
    merged = bounds._merged(np.array([bound]), np.array([noise]), contraction, np.array([float(n_steps)]))
    got = [mpmath.mpf(float(values[0])) for values in merged]
    with mpmath.workdps(60):
        c = mpmath.mpf(contraction)
        power = c**n_steps
        once, twice = (1 - power) / (1 - c), (1 - power**2) / (1 - c**2)
        assert got[0] >= bound * once
        assert got[1] >= power
        assert got[2] <= noise * mpmath.sqrt(twice)
        assert got[0] <= bound * once * (1 + mpmath.mpf("1e-11"))
        assert got[2] >= noise * mpmath.sqrt(twice) * (1 - mpmath.mpf("1e-11"))


def test_the_number_of_blocks_is_told_beforehand_and_grows_slowly():
    X, Y, run = problem()
    deletion = RidgeDeletion(X, Y, **run, deleted=[0])
    for n_steps in (1, 2048, 2049, 5000, 10**6, 10**9):
        found = len(sensitivities(deletion, [Phase(n_steps, 0.1)], delta_s=1e-6)[0].length)
        assert found <= n_blocks(n_steps) <= 1.1 * found + 2
    assert n_blocks(10**15) < 4000


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0, 8.0])
def test_the_event_costs_delta_s_one_way_and_e_to_the_epsilon_as_much_the_other(uniform, epsilon):
    X, Y, run = problem()
    phases, delta_s = [Phase(20, 0.5), Phase(10, 0.5, (0,))], 1e-5
    claim = shifted_claim(X, Y, **run, phases=phases, deleted=[0], epsilon=epsilon, delta_s=delta_s, uniform=uniform)
    base = float(gdp_delta(claim.mu, epsilon))
    with mpmath.workdps(50):
        assert mpmath.mpf(claim.delta_pq) >= mpmath.mpf(base) + mpmath.mpf(delta_s)
        assert mpmath.mpf(claim.delta_qp) >= mpmath.mpf(base) + mpmath.exp(epsilon) * mpmath.mpf(delta_s)
    assert claim.delta_pq == pytest.approx(base + delta_s, rel=1e-12)
    assert claim.delta_qp == pytest.approx(base + math.exp(epsilon) * delta_s, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_without_noise_the_bound_is_the_true_distance_rounded_up(seed):
    """Then nothing is left to chance, and the bound cannot hide in the slack of a quantile."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(8, 2))
    Y = X @ rng.normal(size=(2, 2)) + (1.0, 1e-7)[seed % 2] * rng.normal(size=(8, 2))  # residuals large, or cancelling
    run = {"alpha": (0.2, 1e-6)[seed % 2], "step_size": 0.8 / smoothness(X, alpha=0.2)}
    phase = Phase(150, 0.0)
    own = sensitivities(RidgeDeletion(X, Y, **run, deleted=[0]), [phase], delta_s=1e-6)[0].bound
    worst = UniformBound(X, Y, **run, learning=phase, delta_s=1e-6)._steps.bound
    with mpmath.workdps(40):
        rows, aims, eta = mpmath.matrix(X.tolist()), mpmath.matrix(Y.tolist()), mpmath.mpf(run["step_size"])
        mean = mpmath.zeros(2, 2)
        for k in range(phase.n_steps):
            residual = rows * mean - aims
            steps = [eta * mpmath.norm(rows[i, :]) * mpmath.norm(residual[i, :]) for i in range(8)]
            for bound, true in ((own[k], steps[0]), (worst[k], max(steps))):
                assert true <= mpmath.mpf(bound) <= true * (1 + mpmath.mpf("1e-11")) + mpmath.mpf("1e-13")
            mean = mean - eta * (rows.T * residual + mpmath.mpf(run["alpha"]) * mean)


def test_an_epsilon_beyond_the_exponential_is_no_overflow():
    X, Y, run = problem()
    named = {**run, "phases": [Phase(20, 0.5), Phase(10, 0.5, (0,))], "deleted": [0], "delta_s": 1e-300}
    for epsilon in (699.9, 700.0, 709.9, 1e6, 1.7e308):
        claim = shifted_claim(X, Y, **named, epsilon=epsilon)
        assert 0 < claim.delta_pq < 1e-290
        assert claim.delta_qp == 1.0 or math.exp(epsilon) * 1e-300 <= claim.delta_qp


def test_a_mu_lost_to_underflow_is_no_claim_of_zero():
    X, Y, run = problem()
    deletion = RidgeDeletion(X, Y, **run, deleted=[0])
    mu = tracked_mu(deletion, [Phase(20, 0.5), Phase(10**9, 0.5, (0,))], delta_s=1e-6)
    assert 0 < mu < 1e-100
    X[0] = 0.0
    nothing = RidgeDeletion(X, Y, **run, deleted=[0])
    assert tracked_mu(nothing, [Phase(20, 0.5), Phase(10, 0.5, (0,))], delta_s=1e-6) == 0.0
