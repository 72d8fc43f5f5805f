"""Gaussian pairs: the exact privacy profile against closed forms, integration and its own laws."""

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import oracles
from emulated import at, on_every_device
from expunge.accounting import GaussianPair, gdp_delta, gdp_epsilon, rdp_to_epsilon

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())

excesses = (
    st.floats(-0.95, 3.0) | st.floats(-15, 5).map(lambda x: 10.0**x) | st.floats(-15, -0.1).map(lambda x: -(10.0**x))
)
shifts = st.floats(-3.0, 3.0).map(lambda x: x if abs(x) > 1e-12 else 0.0)


@st.composite
def pairs(draw, max_p=4, max_q=3):
    p, q = draw(st.integers(1, max_p)), draw(st.integers(1, max_q))
    excess = draw(st.lists(excesses, min_size=p, max_size=p))
    shift = draw(st.lists(st.lists(shifts, min_size=q, max_size=q), min_size=p, max_size=p))
    return GaussianPair(excess, shift)


@on_every_device
@pytest.mark.parametrize("row", REFERENCE["gaussian_pair"])
def test_matches_the_reference(device, row):
    pair = GaussianPair(row["excess_variance"], row["shift"])
    for direction in ("pq", "qp"):
        delta = row[f"delta_{direction}"]
        assert at(device, pair.delta)(row["epsilon"], direction=direction) == pytest.approx(delta, rel=1e-9, abs=1e-280)
    if row["renyi_pq"] is not None:
        assert at(device, pair.renyi)(row["order"], direction="pq") == pytest.approx(float(row["renyi_pq"]), rel=1e-9)


@on_every_device
@given(
    st.floats(-15, 5).map(lambda x: 10.0**x) | st.floats(-15, -0.01).map(lambda x: -(10.0**x)),
    st.floats(-15, 1.3).map(lambda x: 10.0**x) | st.just(0.0),
    st.floats(-3, 0.7).map(lambda x: 10.0**x) | st.just(0.0),
    st.booleans(),
)
def test_one_dimension_has_a_closed_form(device, excess, shift, epsilon, scaled):
    if scaled:
        epsilon *= min(max(abs(excess), shift), 10.0)
    truth = oracles.hockey_stick_line(excess, shift, epsilon)
    profile = at(device, GaussianPair([excess], [[shift]]).profile)(epsilon, direction="pq")
    assert profile.delta >= truth
    # Close to the largest loss a narrower P allows, epsilon cancels against it.
    ceiling = shift**2 / (-2 * excess) - math.log1p(excess) / 2 if excess < 0 else math.inf
    room = min(max(1 - epsilon / ceiling - 8 * np.finfo(float).eps, 1e-300), 1.0)
    if truth > 1e-290 and room > 1e-9:
        assert profile.converged
        assert profile.relative_error < 1e-11 / room
        assert profile.delta <= truth * (1 + 3 * profile.relative_error)


def hockey_stick(excess, shift, epsilon, direction):
    """delta of a one-dimensional pair in either direction, to 50 digits and more."""
    e, d = mpmath.mpf(excess), mpmath.mpf(shift)
    if direction == "qp":
        with mpmath.workdps(80):
            e, d = -e / (1 + e), -d / mpmath.sqrt(1 + e)
    return oracles.hockey_stick_line(e, d, epsilon)


@on_every_device
@pytest.mark.parametrize("size", ["tiny", "moderate", "huge", "narrow", "nearly equal"])
@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_delta_is_never_below_the_closed_form_of_a_line(device, size, direction):
    rng = np.random.default_rng(["tiny", "moderate", "huge", "narrow", "nearly equal"].index(size))
    for _ in range(200 if device == "cpu" else 20):
        excess = {
            "tiny": 10.0 ** rng.uniform(-15, -4) * rng.choice([-1, 1]),
            "moderate": 10.0 ** rng.uniform(-4, 2),
            "huge": 10.0 ** rng.uniform(2, 8),
            "narrow": 10.0 ** rng.uniform(-8, 0) - 1,
            "nearly equal": rng.uniform(-3e-12, 3e-12),
        }[size]
        shift = rng.choice([0.0, 10.0 ** rng.uniform(-6, 3), 10.0 ** rng.uniform(-13, -8), rng.uniform(0, 12)])
        epsilon = rng.choice([0.0, rng.uniform(0, 50), 10.0 ** rng.uniform(-6, 1)])
        truth = hockey_stick(excess, shift, epsilon, direction)
        profile = at(device, GaussianPair([excess], [[shift]]).profile)(epsilon, direction=direction)
        assert mpmath.mpf(float(profile.delta)) >= truth, (excess, shift, epsilon)
        if truth > 1e-290:
            assert profile.converged
            assert profile.delta <= truth * (1 + 1e-10), (excess, shift, epsilon)


@on_every_device
@pytest.mark.parametrize("excess", [13280.64, 1396704.75, 45113708.36, 98124198.18])
def test_a_wide_law_costs_no_digits_when_the_roles_are_exchanged(device, excess):
    for shift, epsilon in ((9.0547, 4.7499), (4.095, 6.3019), (3.4e-6, 3.5855), (9.939, 8.2316)):
        truth = hockey_stick(excess, shift, epsilon, "qp")
        delta = at(device, GaussianPair([excess], [[shift]]).delta)(epsilon, direction="qp")
        assert truth <= delta <= truth * (1 + 1e-10)


sizes = st.floats(-323, 308).map(lambda x: 10.0**x) | st.sampled_from([0.0, 5e-324, 1.7e308])


@given(
    sizes | sizes.map(lambda x: -min(x, 1 - 1e-16)) | st.floats(-16, 0).map(lambda x: 10.0**x - 1),
    sizes,
    sizes,
    st.sampled_from(["pq", "qp"]),
)
def test_every_finite_pair_has_a_sound_bound(excess, shift, epsilon, direction):
    assume(excess > -1)
    pair = GaussianPair([excess], [[shift]])
    delta = pair.delta(epsilon, direction=direction)
    assert 0.0 <= delta <= 1.0
    if max(shift, epsilon) < 1e30 and abs(excess) > 1e-60:  # the closed form needs normal tails at finite points
        with mpmath.workdps(400):
            e, d = mpmath.mpf(excess), mpmath.mpf(shift)
            if direction == "qp":
                e, d = -e / (1 + e), -d / mpmath.sqrt(1 + e)
            assert delta >= oracles.hockey_stick_line(e, d, epsilon, digits=400)
    assert pair.epsilon(1e-5, direction=direction) >= 0.0
    assert pair.renyi(2.0, direction=direction) >= 0.0
    if excess != 0.0 or shift != 0.0:
        assert pair.delta(0.0, direction=direction) > 0.0


def test_shifts_that_leave_the_floats_are_taken_outward():
    # Too small for its square: more than the truth, which is shift / sqrt(2 pi).
    assert 1e-200 / math.sqrt(2 * math.pi) <= GaussianPair([0.0], [[1e-200]]).delta(0.0) <= 1e-139
    assert GaussianPair([0.0], [[5e-324]]).delta(0.0) > 0.0
    huge = GaussianPair([0.0], [[1e200]])
    assert huge.delta(1e300) == 1.0
    assert huge.epsilon(1e-5) == math.inf
    assert huge.renyi(2.0) == math.inf
    assert GaussianPair([0.0], [[1e140]]).epsilon(0.1) >= 5e279


def test_squares_of_the_shift_are_rounded_up():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shift = rng.normal(size=(3, 5)) * 10.0 ** rng.uniform(-100, 100)
        _, squared, _ = GaussianPair(np.zeros(3), shift)._kernel_arguments()
        for row, square in zip(shift, squared[0], strict=True):
            exact = sum(Fraction(float(x)) ** 2 for x in row)
            assert exact <= Fraction(float(square)) <= exact * (1 + Fraction(1, 10**14))


@pytest.mark.parametrize("excess", [13280.64, -0.9999, 0.3, 1e-9])
def test_exchanged_roles_round_the_shift_up(excess):
    # Far out in the tail delta moves thousands of times as fast as the shift.
    for shift in np.linspace(0.5, 0.6, 40):
        truth = hockey_stick(excess, shift, 16.0, "qp")
        assert GaussianPair([excess], [[shift]]).delta(16.0, direction="qp") >= truth


@on_every_device
@pytest.mark.parametrize("seed", range(6))
def test_several_dimensions_agree_with_integration(device, seed):
    rng = np.random.default_rng(seed)
    p, q = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    excess = rng.uniform(-0.7, 1.5, p) * 10.0 ** rng.uniform(-3, 0, p)
    shift = rng.normal(size=(p, q)) * 10.0 ** rng.uniform(-2, 0, (p, 1))
    epsilon = float(rng.uniform(0.05, 2.0))
    truth = oracles.pair_profile(excess, shift, epsilon)
    profile = at(device, GaussianPair(excess, shift).profile)(epsilon, direction="pq")
    assert profile.converged
    assert float(profile.delta) == pytest.approx(float(truth), rel=3e-12)


@on_every_device
def test_columns_are_independent_coordinates(device):
    excess, shift = [0.3, -0.2], np.array([[0.5, -0.4, 0.1], [0.2, 0.3, 0.9]])
    wide = GaussianPair(excess, shift)
    long = GaussianPair(np.repeat(excess, 3), shift.reshape(-1, 1))
    for epsilon in (0.0, 0.4, 2.0):
        assert at(device, wide.delta)(epsilon) == pytest.approx(at(device, long.delta)(epsilon), rel=1e-11)
    assert at(device, wide.renyi)(1.7) == pytest.approx(at(device, long.renyi)(1.7), rel=1e-13)


@on_every_device
@given(st.floats(-14, 1.3).map(lambda x: 10.0**x), st.floats(-4, 30))
def test_pure_shift_is_gaussian_dp(device, mu, tail):
    epsilon = max(mu * mu / 2 + mu * tail, 0.0)
    pair = GaussianPair([0.0, 0.0], [[0.6 * mu], [0.8 * mu]])
    delta = gdp_delta(mu, epsilon)
    assert at(device, pair.delta)(epsilon) == pytest.approx(delta, rel=1e-11 * (1 + tail**2), abs=1e-300)


@on_every_device
def test_pure_shift_epsilon_and_renyi(device):
    pair = GaussianPair([0.0], [[1.5]])
    assert at(device, pair.epsilon)(1e-6) == pytest.approx(gdp_epsilon(1.5, 1e-6), rel=1e-11)
    assert at(device, pair.renyi)(4.0) == pytest.approx(4.0 * 1.5**2 / 2, rel=1e-13)


@on_every_device
@given(pairs(), st.floats(0.0, 5.0))
def test_both_is_the_larger_direction_and_swap_exchanges_them(device, pair, epsilon):
    pq, qp = at(device, pair.delta)(epsilon, direction="pq"), at(device, pair.delta)(epsilon, direction="qp")
    assert at(device, pair.delta)(epsilon) == max(pq, qp)
    swapped = pair.swap()
    if (
        at(device, pair.profile)(epsilon, direction="qp").converged
        and qp > 1e-250
        and pair.excess_variance.min() > -0.99
    ):
        assert at(device, swapped.delta)(epsilon, direction="pq") == pytest.approx(qp, rel=1e-9)


@given(pairs())
def test_swapping_twice_is_the_identity(pair):
    again = pair.swap().swap()
    # 1 + e rounds: a large excess leaves the other side's close to -1.
    unit = 8 * np.finfo(float).eps
    size = 1 + np.abs(pair.excess_variance)
    assert np.all(
        np.abs(again.excess_variance - pair.excess_variance) <= unit * size * np.abs(pair.excess_variance) + 1e-30
    )
    assert np.all(np.abs(again.shift - pair.shift) <= unit * size[:, None] * np.abs(pair.shift) + 1e-30)


@on_every_device
@given(pairs(), st.floats(0.0, 3.0), st.floats(0.01, 2.0))
def test_delta_falls_in_epsilon(device, pair, epsilon, more):
    for direction in ("pq", "qp"):
        first, second = at(device, pair.profile)([epsilon, epsilon + more], direction=direction).delta
        assert second <= first * (1 + 1e-9)


@on_every_device
@given(pairs(), st.floats(0.0, 3.0), st.floats(0.05, 0.9))
def test_the_renyi_bound_is_above_the_exact_profile(device, pair, epsilon, share):
    top = float(max(pair.excess_variance.max(), 0.0))
    order = 1 + share * min(1 / top if top else 50.0, 50.0)
    delta = at(device, pair.delta)(epsilon, direction="pq")
    if 1e-290 < delta < 1:
        assert rdp_to_epsilon(at(device, pair.renyi)(order, direction="pq"), order, delta) >= epsilon - 1e-8 * (
            1 + epsilon
        )


@on_every_device
@given(pairs(max_p=3, max_q=2), st.floats(-100, -0.5).map(lambda x: 10.0**x))
def test_epsilon_is_proved_by_the_rounded_up_delta(device, pair, delta):
    for direction in ("pq", "qp", "both"):
        epsilon = at(device, pair.epsilon)(delta, direction=direction)
        assert at(device, pair.delta)(epsilon, direction=direction) <= delta
        profile = at(device, pair.profile)(epsilon * (1 - 1e-6), direction=direction)
        if epsilon > 1e-12 and profile.converged and profile.relative_error < 1e-10 and delta > 1e-60:
            assert profile.delta > delta * (1 - 1e-9)


@on_every_device
def test_identical_laws_and_bounded_losses(device):
    same = GaussianPair([0.0, 0.0], np.zeros((2, 3)))
    assert at(device, same.delta)([0.0, 1.0]).tolist() == [0.0, 0.0]
    assert at(device, same.epsilon)(0.0) == 0.0
    assert at(device, same.renyi)(3.0) == 0.0
    # P narrower than Q: log P/Q is at most -log(1 + e)/2, and delta is exactly 0 beyond it.
    narrow = GaussianPair([-0.5], [[0.0]])
    top = -0.5 * math.log(0.5)
    assert at(device, narrow.delta)(top * 1.001, direction="pq") == 0.0
    assert at(device, narrow.delta)(top * 0.999, direction="pq") > 0.0
    assert at(device, narrow.epsilon)(0.0, direction="pq") == pytest.approx(top, rel=1e-13)
    assert at(device, narrow.epsilon)(0.0, direction="qp") == math.inf
    assert at(device, narrow.epsilon)(1.0) == 0.0


@on_every_device
def test_far_tails_are_bounds_and_say_so(device):
    profile = at(device, GaussianPair([0.1], [[0.1]]).profile)([1.0, 5000.0], direction="pq")
    assert profile.converged.tolist() == [True, False]
    assert 0.0 < profile.delta[1] < 1e-280
    assert profile.relative_error[1] == 1.0


@on_every_device
@pytest.mark.parametrize("excess", [[2.7e-139], [1e-160], [7.3e-251, -1.6e-108]])
def test_excesses_whose_squares_leave_the_floats_are_no_risk(device, excess):
    pair = GaussianPair(excess, np.full((len(excess), 1), 1e-9))
    assert at(device, pair.delta)(0.75, direction="pq") < 1e-300
    pair = GaussianPair(excess, np.zeros((len(excess), 1)))
    assert at(device, pair.delta)([0.0, 0.75]).max() < 1e-60


@on_every_device
def test_renyi_diverges_at_the_pole(device):
    pair = GaussianPair([0.5], [[0.1]])
    assert math.isfinite(at(device, pair.renyi)(2.9, direction="pq"))
    assert at(device, pair.renyi)(3.0, direction="pq") == math.inf
    assert math.isfinite(at(device, pair.renyi)(3.0, direction="qp"))
    assert at(device, pair.renyi)([2.0, 3.5]).tolist()[1] == math.inf


@on_every_device
def test_renyi_of_a_tiny_excess_keeps_its_digits(device):
    e = 1e-12
    assert at(device, GaussianPair([e], [[0.0]]).renyi)(2.0) == pytest.approx(2.0 * e * e / 4, rel=1e-9)


@on_every_device
@pytest.mark.parametrize("p", [60, 300])
def test_many_tiny_excesses_are_lumped_without_loss(device, p):
    rng = np.random.default_rng(p)
    excess = np.r_[0.4, -0.2, rng.normal(size=p) * 1e-7]
    shift = np.r_[0.7, -0.3, rng.normal(size=p) * 1e-3][:, None]
    pair = GaussianPair(excess, shift)
    # Merging the tiny ones into pure shift moves delta by no more than their own total.
    rough = GaussianPair(np.r_[excess[:2], 0.0], np.r_[shift[:2], [[np.sqrt(np.sum(shift[2:] ** 2))]]])
    assert at(device, pair.delta)(0.7) == pytest.approx(at(device, rough.delta)(0.7), rel=1e-5)
    order = rng.permutation(p + 2)
    assert at(device, GaussianPair(excess[order], shift[order]).delta)(0.7) == pytest.approx(
        at(device, pair.delta)(0.7), rel=1e-11
    )


def test_frozen_with_its_own_copy():
    excess, shift = np.array([0.1]), np.array([[0.2]])
    pair = GaussianPair(excess, shift)
    excess[0] = 5.0
    assert pair.excess_variance.tolist() == [0.1]
    with pytest.raises(ValueError, match="read-only"):
        pair.shift[0, 0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.shift = shift


def test_shapes_and_threads():
    pair = GaussianPair([0.1, -0.1], [[0.2], [0.3]])
    epsilons = np.linspace(0, 3, 40).reshape(4, 10)
    assert pair.delta(epsilons).shape == (4, 10)
    assert pair.delta(epsilons)[2, 3] == pair.delta(epsilons[2, 3])
    assert isinstance(pair.delta(1.0), float)
    assert isinstance(pair.profile(1.0).converged, bool)
    np.testing.assert_array_equal(pair.delta(epsilons, threads=1), pair.delta(epsilons, threads=2))
    deltas = np.geomspace(1e-9, 0.1, 11)
    np.testing.assert_array_equal(pair.epsilon(deltas, threads=1), pair.epsilon(deltas, threads=2))


@pytest.mark.parametrize(
    ("excess", "shift", "name"),
    [
        ([-1.0], [[0.0]], "excess_variance"),
        ([math.nan], [[0.0]], "excess_variance"),
        ([math.inf], [[0.0]], "excess_variance"),
        ([0.1], [[math.nan]], "shift"),
        ([0.1], [0.2], "shift"),
        ([0.1], [[0.2], [0.3]], "shift"),
        ([0.1], np.empty((1, 0)), "shift"),
        ([[0.1]], [[0.2]], "excess_variance"),
    ],
)
def test_bad_pairs_are_refused_by_name(excess, shift, name):
    with pytest.raises(ValueError, match=name):
        GaussianPair(excess, shift)


def test_bad_questions_are_refused_by_name():
    pair = GaussianPair([0.1], [[0.2]])
    for bad in (math.nan, math.inf, -0.1):
        with pytest.raises(ValueError, match="epsilon"):
            pair.delta(bad)
        with pytest.raises(ValueError, match="delta"):
            pair.epsilon(bad)
        with pytest.raises(ValueError, match="order"):
            pair.renyi(bad)
    for question in (pair.delta, pair.epsilon, pair.renyi):
        with pytest.raises(ValueError, match="direction"):
            question(1.5 if question == pair.renyi else 0.5, direction="qq")
    with pytest.raises(ValueError, match="order"):
        pair.renyi(1.0)
