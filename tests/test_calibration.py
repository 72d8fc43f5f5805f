"""Searches: the answer passes, a little less does not, and NaN never does."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.accounting import gdp_delta
from expunge.calibration import HEADROOM, smallest_noise, smallest_steps


@given(st.floats(0, 4), st.floats(1e-12, 0.2), st.floats(1e-4, 1e3), st.floats(1e-3, 1e3))
def test_smallest_noise_passes_and_a_little_less_does_not(epsilon, delta, sensitivity, start):
    def delta_at(noise):
        return float(gdp_delta(sensitivity / noise, epsilon))

    noise = smallest_noise(delta_at, delta=delta, start=start)
    assert delta_at(noise) <= delta * (1 - HEADROOM)
    assert delta_at(noise * (1 - 1e-7)) > delta * (1 - 2 * HEADROOM)


@given(st.floats(1e-6, 0.999), st.floats(1e-30, 0.5))
def test_smallest_steps_is_the_smallest(rate, delta):
    steps = smallest_steps(lambda k: rate**k, delta=delta)
    assert rate**steps <= delta
    assert steps == 0 or rate ** (steps - 1) > delta * (1 - 2 * HEADROOM)


def test_noise_that_never_suffices_is_infinite():
    assert smallest_noise(lambda noise: 0.5, delta=0.1) == math.inf


def test_steps_that_never_suffice_are_refused():
    with pytest.raises(ValueError, match="noise_std"):
        smallest_steps(lambda k: 0.5, delta=0.1)


@pytest.mark.parametrize("search", [lambda f: smallest_noise(f, delta=0.1), lambda f: smallest_steps(f, delta=0.1)])
def test_nan_never_passes(search):
    with pytest.raises(ArithmeticError, match="NaN"):
        search(lambda value: math.nan)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan, math.inf])
def test_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        smallest_noise(lambda noise: 0.0, delta=delta)


def test_underflowing_delta_is_bracketed():
    noise = smallest_noise(lambda s: 0.0 if s > 3.0 else 1.0, delta=1e-5, start=1e-4)
    assert noise == pytest.approx(3.0, rel=1e-6)
    assert noise > 3.0


@given(st.floats(0, 2 * math.pi), st.sampled_from([0.01, 1.0, 100.0]))
def test_a_delta_that_jitters_costs_no_more_noise_than_its_jitter(phase, start):
    """As rounding has it where delta is steep: many a candidate beside the root fails that lies above it."""

    def delta_at(noise):
        x = math.log(noise)
        return min(1e-5 * math.exp(min(1e-3 * math.sin(1e12 * x + phase) - 1e3 * x, 20.0)), 1.0)

    noise = smallest_noise(delta_at, delta=1e-5, start=start)
    assert delta_at(noise) <= 1e-5 * (1 - HEADROOM)
    assert 1 - 1e-5 < noise < 1 + 1e-5
