"""Searches at their edges: goals met to the bit, ends of the range, bad arguments, and how far they look."""

import math

import numpy as np
import pytest

from expunge.accounting import gdp_delta
from expunge.calibration import HEADROOM, smallest_noise, smallest_steps

DELTA = 1e-5
GOAL = DELTA * (1 - HEADROOM)


def gaussian(noise):
    return float(gdp_delta(1 / noise, 1.0))


ANSWER = smallest_noise(gaussian, delta=DELTA)


class Counted:
    def __init__(self, inner):
        self.inner, self.at = inner, []

    def __call__(self, value):
        self.at.append(value)
        return self.inner(value)


def step(at, *, below=1.0, from_there=GOAL):
    """Return a delta that falls at one noise level from one value to another."""
    return lambda noise: from_there if noise >= at else below


@pytest.mark.parametrize("start", [1e-3, 0.9, 1.0, 1.1, 30.0, 1e6])
@pytest.mark.parametrize("at", [1e-3, 1.0, 37.0])
def test_a_value_that_meets_the_goal_to_the_bit_passes_and_the_smallest_is_found(at, start):
    noise = smallest_noise(step(at), delta=DELTA, start=start)
    assert at <= noise <= at * (1 + 2e-9)


@pytest.mark.parametrize("above", [np.nextafter(GOAL, 1), DELTA, 1.5 * DELTA, 2.9 * DELTA])
@pytest.mark.parametrize("start", [0.5, 1.0, 2.0])
def test_a_value_just_above_the_goal_does_not_pass(above, start):
    noise = smallest_noise(step(1.9, below=above, from_there=0.5 * GOAL), delta=DELTA, start=start)
    assert 1.9 <= noise <= 1.9 * (1 + 2e-9)


@pytest.mark.parametrize("factor", [1 - 1e-3, 1 - 1e-8, 1.0, 1 + 1e-8, 1 + 1e-3])
def test_a_start_next_to_the_answer_is_no_trap(factor):
    assert smallest_noise(gaussian, delta=DELTA, start=ANSWER * factor) == pytest.approx(ANSWER, rel=2e-9)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_answer_was_evaluated_and_lies_within_the_tolerance_above_the_smallest(tolerance):
    seen = Counted(gaussian)
    noise = smallest_noise(seen, delta=DELTA, tolerance=tolerance)
    assert noise in seen.at
    assert gaussian(noise) <= GOAL
    assert gaussian(noise * (1 - 1.3 * tolerance)) > GOAL


@pytest.mark.parametrize(
    ("start", "most_calls"), [(ANSWER, 12), (ANSWER / 2, 15), (ANSWER * 2, 15), (1e-6, 28), (1e6, 28)]
)
def test_a_smooth_delta_is_inverted_in_few_evaluations(start, most_calls):
    seen = Counted(gaussian)
    smallest_noise(seen, delta=DELTA, start=start)
    assert len(seen.at) <= most_calls


def test_a_flat_function_is_searched_to_the_end_in_strides_that_grow():
    seen = Counted(lambda noise: 0.5)
    assert smallest_noise(seen, delta=0.1) == math.inf
    assert seen.at[-1] == 1e299
    assert 30 < len(seen.at) < 60  # strides double up to 20 in log noise
    ratios = np.diff(np.log(seen.at))
    assert ratios.max() == pytest.approx(20.0)
    assert ratios[0] == pytest.approx(0.05)


@pytest.mark.parametrize("start", [1e-9, 0.03, 0.5, 1e9])
def test_only_noise_between_the_ends_is_tried_and_the_ends_are_met_to_the_bit(start):
    least, most = 0.0123, 4.567
    seen = Counted(gaussian)
    assert smallest_noise(seen, delta=DELTA, start=start, least=least, most=most) == pytest.approx(ANSWER, rel=2e-9)
    assert least <= min(seen.at)
    assert max(seen.at) <= most
    seen = Counted(lambda noise: 0.0)
    assert smallest_noise(seen, delta=DELTA, start=start, least=least, most=most) == least
    assert least in seen.at
    seen = Counted(lambda noise: 0.5)
    assert smallest_noise(seen, delta=DELTA, start=start, least=least, most=most) == math.inf
    assert most in seen.at
    assert smallest_noise(step(most), delta=DELTA, start=start, least=least, most=most) == most


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"start": 0.0}, "start"),
        ({"start": -1.0}, "start"),
        ({"start": math.nan}, "start"),
        ({"least": 0.0}, "least"),
        ({"least": -1.0}, "least"),
        ({"least": 2.0, "most": 1.0}, "most"),
    ],
)
def test_bad_arguments_are_named(bad, name):
    with pytest.raises(ValueError, match=f"^{name} "):
        smallest_noise(gaussian, delta=DELTA, **bad)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, 2.0, math.nan, math.inf])
def test_steps_refuse_a_delta_out_of_range(delta):
    with pytest.raises(ValueError, match=r"^delta "):
        smallest_steps(lambda steps: 0.0, delta=delta)


@pytest.mark.parametrize("wanted", [0, 1, 2, 3, 7, 8, 9, 1000, (1 << 40) - 1, 1 << 40])
@pytest.mark.parametrize("below", [np.nextafter(GOAL, 1), DELTA * (1 - 0.4 * HEADROOM), DELTA, 1.0])
def test_the_fewest_steps_are_the_first_that_meet_the_goal(wanted, below):
    steps = smallest_steps(lambda k: GOAL if k >= wanted else below, delta=DELTA)
    assert steps == wanted
    assert isinstance(steps, int)


def test_more_steps_than_2_to_the_40_are_not_tried():
    seen = Counted(lambda k: 0.5)
    with pytest.raises(ValueError, match=f"{1 << 40} steps"):
        smallest_steps(seen, delta=0.1)
    assert max(seen.at) == 1 << 40


def test_a_delta_of_zero_is_inverted_as_any_other():
    """Where delta underflows the search still sees which side it is on."""
    noise = smallest_noise(lambda s: 0.0 if s > 3.0 else 1.0, delta=DELTA, start=1e4)
    assert 3.0 < noise <= 3.0 * (1 + 2e-9)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_returned_passed_when_it_was_evaluated(seed):
    """Also where rounding makes delta jitter: nothing is inferred from a point next to it."""
    rng, seen = np.random.default_rng(seed), {}

    def jittering(noise):
        return seen.setdefault(noise, gaussian(noise) * (1 + 1e-4 * rng.normal()))

    noise = smallest_noise(jittering, delta=DELTA)
    assert seen[noise] <= GOAL
