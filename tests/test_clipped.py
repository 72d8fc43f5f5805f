"""Laws of noisy fine-tuning with clipping: the exact mu, its inverse, and the contraction of clipped models."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

import oracles
from expunge.accounting import clipped, gdp_delta, gdp_epsilon, shifted_mu

EPS = np.finfo(float).eps


def powers(low, high):
    return st.floats(low, high).map(lambda e: 10.0**e)


@st.composite
def runs(draw):
    step = draw(powers(-6, 1))
    return {
        "initial_bound": draw(powers(-6, 4) | st.just(0.0)),
        "clip": draw(powers(-6, 4) | st.just(0.0)),
        "step_size": step,
        "weight_decay": draw(st.just(0.0) | powers(-12, 0).map(lambda share: share / step * (1 - 1e-15))),
        "n_steps": draw(st.integers(1, 300) | st.integers(1, 10**9)),
    }


def steps_of(run):
    """Return shifts, contractions and noises of the run, the start as a step of its own without noise."""
    shifts = np.r_[2 * run["initial_bound"], np.full(run["n_steps"], 2 * run["step_size"] * run["clip"])]
    contraction = np.r_[1.0, np.full(run["n_steps"], 1 - run["step_size"] * run["weight_decay"])]
    return shifts, contraction, np.r_[0.0, np.ones(run["n_steps"])]


@given(runs(), powers(-3, 3))
def test_mu_is_never_below_the_closed_form_and_hardly_above(run, noise):
    found = clipped.mu(**run, noise_std=noise)
    with mpmath.workdps(60):
        true = oracles.clipped_mu(**run, noise_std=noise)
        assert found >= true
        # One rounding of step_size * weight_decay moves log c by the inverse of what is left of 1.
        left = max(1 - run["step_size"] * run["weight_decay"], EPS)
        assert found <= true * (1 + 100 * EPS * (1 + 1 / left)) + 1e-300


@given(powers(0, 300), st.floats(0.001, 0.99), st.floats(1.0, 690.0), powers(-3, 3))
def test_what_is_left_of_a_start_is_rounded_up(start, decay, exponent, noise):
    """After long decay the rounding of the exponent is larger than that of everything else."""
    run = {"initial_bound": start, "clip": 0.0, "step_size": 1.0, "weight_decay": decay}
    run["n_steps"] = max(int(exponent / -math.log1p(-decay)), 1)
    with mpmath.workdps(60):
        true = oracles.clipped_mu(**run, noise_std=noise)
        assert clipped.mu(**run, noise_std=noise) >= true
        assert clipped.mu(**run, noise_std=noise) <= true * (1 + EPS * (100 + 20 * exponent / (1 - decay)))


@given(runs(), powers(-2, 2))
def test_mu_is_that_of_the_best_path(run, noise):
    run["n_steps"] = min(run["n_steps"], 200)
    shifts, contraction, noises = steps_of(run)
    best = float(shifted_mu(shifts, contraction, noise * noises))
    left = max(1 - run["step_size"] * run["weight_decay"], EPS)  # as above
    least = 1e-289 * shifts.max() / noise  # steps count shifts as 1e-290 of the largest at least
    assert clipped.mu(**run, noise_std=noise) == pytest.approx(best, rel=1e-9 + 100 * EPS / left, abs=least)


@given(runs(), powers(-2, 2), powers(-12, -0.5))
def test_noise_inverts_mu(run, epsilon, delta):
    noise = clipped.noise_std(**run, epsilon=epsilon, delta=delta)
    if noise == 0.0:
        assert run["initial_bound"] == run["clip"] == 0.0
        assert clipped.mu(**run, noise_std=1.0) == 0.0
        return
    assert gdp_delta(clipped.mu(**run, noise_std=noise), epsilon) <= delta * (1 + 1e-9)
    assert gdp_delta(clipped.mu(**run, noise_std=noise * (1 - 1e-6)), epsilon) > delta


def test_the_linear_worst_case_attains_mu():
    """Gradients that always push apart: the two laws are Gaussians of one variance, exactly mu apart."""
    start, clip, step, decay, steps, noise = 1.5, 0.3, 0.2, 0.4, 25, 0.7
    means, variance = np.array([start, -start]), 0.0
    for _ in range(steps):
        means = (1 - step * decay) * means + step * clip * np.array([1.0, -1.0])
        variance = (1 - step * decay) ** 2 * variance + noise**2
    found = clipped.mu(
        initial_bound=start, clip=clip, step_size=step, weight_decay=decay, n_steps=steps, noise_std=noise
    )
    assert found == pytest.approx((means[0] - means[1]) / math.sqrt(variance), rel=1e-13)


@pytest.mark.parametrize("decay", [0.0, 1e-300, 1e-8, 0.5, 1.0 - EPS, 1.0])
def test_edges_of_weight_decay(decay):
    found = clipped.mu(initial_bound=2.0, clip=3.0, step_size=1.0, weight_decay=decay, n_steps=4, noise_std=1.0)
    if decay in (0.0, 1e-300, 1e-8):
        assert found == pytest.approx((4.0 + 24.0) / 2.0, rel=1e-6)
    if decay >= 1.0 - EPS:
        assert found == pytest.approx(6.0, rel=1e-12)
    with mpmath.workdps(700):
        assert found >= oracles.clipped_mu(2.0, 3.0, 1.0, decay, 4, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_decay": 2.0}, "step_size \\* weight_decay must be 0 or between"),
        ({"weight_decay": 1e-310}, "step_size \\* weight_decay must be 0 or between"),
        ({"weight_decay": math.nan}, "weight_decay"),
        ({"clip": -1.0}, "clip"),
        ({"clip": math.inf}, "clip"),
        ({"initial_bound": math.nan}, "initial_bound"),
        ({"step_size": 0.0}, "step_size"),
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": 2**54}, "n_steps must be at most"),
        ({"noise_std": 0.0}, "noise_std"),
    ],
)
def test_bad_arguments_are_named(change, message):
    given_ = {
        "initial_bound": 1.0,
        "clip": 1.0,
        "step_size": 1.0,
        "weight_decay": 0.1,
        "n_steps": 3,
        "noise_std": 1.0,
    } | change
    with pytest.raises(ValueError, match=message):
        clipped.mu(**given_)


def test_numbers_out_of_float64_are_infinite_never_small():
    huge = {"initial_bound": 1e308, "clip": 1e308, "step_size": 1e3, "n_steps": 10**6}
    assert clipped.mu(**huge, noise_std=1e-300) == math.inf
    assert clipped.mu(initial_bound=1e-300, clip=0.0, step_size=1.0, n_steps=1, noise_std=1e300) > 0.0
    assert clipped.noise_std(**huge, epsilon=1.0, delta=1e-5) == math.inf
    # What the decay leaves of the start is no number any more, but it is not nothing.
    faded = {"initial_bound": 1e300, "clip": 0.0, "step_size": 1.0, "weight_decay": 0.9, "n_steps": 10_000}
    assert clipped.mu(**faded, noise_std=1.0) > 0.0


# --- parameters clipped to a ball -------------------------------------------------------------------------------------


@given(powers(-2, 1), st.integers(1, 10**6), powers(-2, 1), powers(-12, -0.5))
def test_model_clipping_noise_inverts_delta(radius, steps, epsilon, delta):
    noise = clipped.model_clipping_noise_std(radius=radius, n_steps=steps, epsilon=epsilon, delta=delta)
    setting = {"radius": radius, "n_steps": steps, "epsilon": epsilon}
    assert clipped.model_clipping_delta(**setting, noise_std=noise) <= delta * (1 + 1e-9 * steps)
    assert clipped.model_clipping_delta(**setting, noise_std=noise * (1 - 1e-4)) > delta


@given(powers(-2, 1), powers(-1, 1), st.integers(1, 40), powers(-2, 1))
def test_model_clipping_delta_is_a_power_rounded_up(radius, noise, steps, epsilon):
    found = clipped.model_clipping_delta(radius=radius, noise_std=noise, n_steps=steps, epsilon=epsilon)
    with mpmath.workdps(60):
        true = oracles.gdp_delta_mpmath(2 * mpmath.mpf(radius) / mpmath.mpf(noise), epsilon) ** steps
        assert found >= true
        if found > 1e-300:
            assert found <= true * (1 + 1e-10 * steps)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("radius", [0.4, 1.0, 2.0])
def test_clipped_models_contract_as_claimed(radius, epsilon):
    """Worst starts in one dimension, integrated on a grid: each step's divergence is at most the claim."""
    grid = np.linspace(-radius - 9.0, radius + 9.0, 6001)
    width = grid[1] - grid[0]
    kernel = np.exp(-0.5 * (grid[:, None] - np.clip(grid, -radius, radius)[None, :]) ** 2) / math.sqrt(2 * math.pi)
    p, q = (np.exp(-0.5 * (grid - at) ** 2) / math.sqrt(2 * math.pi) for at in (radius, -radius))
    for steps in (1, 2, 3):
        delta = np.maximum(p - math.exp(epsilon) * q, 0.0).sum() * width
        claim = clipped.model_clipping_delta(radius=radius, noise_std=1.0, n_steps=steps, epsilon=epsilon)
        assert delta <= claim * (1 + 1e-6)
        if steps == 1:
            assert delta == pytest.approx(claim, rel=1e-4)
        p, q = (kernel @ law * width for law in (p, q))


def test_model_clipping_edges():
    assert clipped.model_clipping_delta(radius=0.0, noise_std=1.0, n_steps=3, epsilon=1.0) == 0.0
    assert clipped.model_clipping_noise_std(radius=0.0, n_steps=3, epsilon=1.0, delta=0.1) == 0.0
    assert clipped.model_clipping_delta(radius=1e308, noise_std=1e-300, n_steps=3, epsilon=1.0) == 1.0
    assert clipped.model_clipping_delta(radius=1.0, noise_std=1e3, n_steps=10**6, epsilon=1.0) > 0.0
    one = clipped.model_clipping_delta(radius=1.0, noise_std=1.0, n_steps=1, epsilon=0.5)
    assert one == pytest.approx(ndtr(0.75) - math.exp(0.5) * ndtr(-1.25), rel=1e-12)
    for name in ("radius", "noise_std", "epsilon"):
        with pytest.raises(ValueError, match=name):
            clipped.model_clipping_delta(**{"radius": 1.0, "noise_std": 1.0, "n_steps": 1, "epsilon": 1.0, name: -1.0})
    assert gdp_epsilon(clipped.mu(initial_bound=1.0, clip=0.0, step_size=1.0, n_steps=1, noise_std=2.0), 1e-5) > 0.0
