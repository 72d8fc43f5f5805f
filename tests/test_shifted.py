"""Shifted interpolation: the optimum, its rounding, and long or degenerate runs."""

import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from emulated import at, on_every_device
from expunge.accounting import shifted_mu

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())

levels = st.sampled_from([0.0, 0.3, 1.0]) | st.floats(0.01, 3.0)
wide = st.sampled_from([0.0, 5e-324, 1e-310, 1.0]) | st.floats(-300.0, 300.0).map(lambda power: 10.0**power)


@st.composite
def runs(draw, max_steps=12, noise=levels):
    steps = draw(st.integers(1, max_steps))
    row = st.lists(levels, min_size=steps, max_size=steps)
    return draw(row), draw(row), draw(st.lists(noise, min_size=steps, max_size=steps))


@on_every_device
@pytest.mark.parametrize("row", REFERENCE["shifted_mu"])
def test_matches_the_reference(device, row):
    mu = at(device, shifted_mu)(row["sensitivity"], row["contraction"], row["noise_std"])
    assert mu == pytest.approx(row["mu"], rel=1e-10)


@on_every_device
@given(runs())
def test_is_the_greatest_convex_minorant_rounded_up(device, run):
    mu, slow = at(device, shifted_mu)(*run), oracles.shifted_mu(*run)
    assert mu == pytest.approx(slow, rel=1e-12)
    assert mu >= slow * (1 - 1e-14)


@on_every_device
@given(runs(), st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12))
def test_no_feasible_path_beats_the_optimum(device, run, fractions):
    assert at(device, shifted_mu)(*run) <= oracles.path_mu(*run, fractions) * (1 + 1e-13)


@on_every_device
@given(runs(noise=st.floats(0.01, 3.0)), st.floats(0.1, 10.0))
def test_scales_as_sensitivity_over_noise(device, run, factor):
    s, c, tau = (np.array(a) for a in run)
    mu = at(device, shifted_mu)(s, c, tau)
    assert at(device, shifted_mu)(s * factor, c, tau) == pytest.approx(mu * factor, rel=1e-12)
    assert at(device, shifted_mu)(s, c, tau * factor) == pytest.approx(mu / factor, rel=1e-12)


@on_every_device
@given(runs(), st.integers(0, 11))
def test_grows_with_sensitivity_and_falls_with_noise(device, run, where):
    s, c, tau = (np.array(a) for a in run)
    k = where % len(s)
    more_shift, more_noise = s.copy(), tau.copy()
    more_shift[k] += 0.5
    more_noise[k] += 0.5
    mu = at(device, shifted_mu)(s, c, tau)
    assert at(device, shifted_mu)(more_shift, c, tau) >= mu * (1 - 1e-13)
    assert at(device, shifted_mu)(s, c, more_noise) <= mu * (1 + 1e-13)


@on_every_device
@pytest.mark.parametrize(("c", "steps"), [(0.5, 1), (0.9, 30), (0.999, 2000), (1.0, 500), (1.01, 300), (0.5, 5000)])
def test_constant_steps_have_a_closed_form(device, c, steps):
    # From c = 1 on waiting does not shrink a shift: give each up at once.
    expected = math.sqrt(steps) if c >= 1.0 else math.sqrt((1 - c**steps) / (1 + c**steps) * (1 + c) / (1 - c))
    mu = at(device, shifted_mu)(np.full(steps, 0.7), c, 0.35)
    assert mu == pytest.approx(2 * expected, rel=1e-11)
    assert mu >= 2 * expected * (1 - 1e-13)


@on_every_device
def test_learning_then_unlearning_survives_cancellation(device):
    # Unlearning noise 1e-9 of the learning noise: cumulative sums would lose its share altogether.
    s = np.r_[np.full(50, 1e-3), np.zeros(20)]
    tau = np.r_[np.full(50, 1.0), np.full(20, 1e-9)]
    c = np.full(70, 0.9)
    assert at(device, shifted_mu)(s, c, tau) == pytest.approx(oracles.shifted_mu(s, c, tau), rel=1e-12)


@on_every_device
def test_noiseless_steps(device):
    assert at(device, shifted_mu)([1.0], [1.0], [0.0]) == math.inf
    assert at(device, shifted_mu)([1.0, 1.0], [1.0, 1.0], [1.0, 0.0]) == math.inf
    assert at(device, shifted_mu)([1.0, 0.0], [1.0, 0.5], [1.0, 0.0]) == pytest.approx(1.0)
    assert at(device, shifted_mu)([1.0, 0.0], [1.0, 0.5], [0.0, 2.0]) == pytest.approx(0.25)
    assert at(device, shifted_mu)([0.0, 0.0], [1.0, 1.0], [0.0, 0.0]) == 0.0


@on_every_device
def test_a_contraction_of_zero_forgets_everything_before_it(device):
    assert at(device, shifted_mu)([5.0, 1.0], [0.9, 0.0], [0.0, 2.0]) == pytest.approx(0.5)
    assert at(device, shifted_mu)([5.0, 0.0], [0.9, 0.0], [0.0, 0.0]) == 0.0


def exact_mu(sensitivity, contraction, noise_std):
    """The greatest convex minorant by gift wrapping, in numbers of any size."""
    with mpmath.workdps(60):
        s, c, tau = ([mpmath.mpf(float(x)) for x in part] for part in (sensitivity, contraction, noise_std))
        weight, points = mpmath.mpf(1), []
        for k in reversed(range(len(s))):
            points.append((weight * s[k], (weight * tau[k]) ** 2))
            weight *= c[k]
        points.reverse()
        total, here = mpmath.mpf(0), 0
        while here < len(points):
            best, rise, run = None, mpmath.mpf(0), mpmath.mpf(0)
            for k in range(here, len(points)):
                rise, run = rise + points[k][0], run + points[k][1]
                slope = rise / run if run > 0 else mpmath.inf if rise > 0 else mpmath.mpf(0)
                if best is None or slope <= best[0]:
                    best = (slope, rise, run, k)
            _, rise, run, last = best
            here = last + 1
            if rise > 0:
                if run == 0:
                    return mpmath.inf
                total += rise**2 / run
        return mpmath.sqrt(total)


@on_every_device
@pytest.mark.parametrize(
    ("run", "mu"),
    [
        (([6.0, 1.5e-323], [0.0, 0.0], [0.0, 0.0]), math.inf),
        (([1.0, 0.0], [0.0, 0.0], [5e-324, 0.0]), 0.0),
        (([1e250, 1e-80], [0.0, 0.0], [1.0, 1e-80]), 1.0),
        (([1e-250, 1e-80], [0.0, 0.0], [1e200, 1e-80]), 1.0),
        (([1e-200], [1.0], [1e200]), 2.2250738585072014e-308),
    ],
)
def test_what_is_forgotten_does_not_hide_what_is_left(device, run, mu):
    assert at(device, shifted_mu)(*run) == pytest.approx(mu, rel=1e-13)


@on_every_device
@given(st.lists(st.tuples(wide, wide, wide), min_size=1, max_size=5))
def test_bounds_the_optimum_over_the_whole_range(device, steps):
    found, truth = float(at(device, shifted_mu)(*zip(*steps, strict=True))), exact_mu(*zip(*steps, strict=True))
    with mpmath.workdps(60):
        assert mpmath.mpf(found) >= truth * (1 - mpmath.mpf(1e-14))
    if truth == 0:
        assert found == 0.0


@on_every_device
@pytest.mark.parametrize(("c", "expected"), [(1e-30, 1.0), (1e30, math.sqrt(200))])
def test_products_beyond_the_range_of_floats(device, c, expected):
    # Strong contraction leaves the last step; expansion has every step give its shift up at once.
    assert at(device, shifted_mu)(np.ones(200), c, np.ones(200)) == pytest.approx(expected, rel=1e-12)


@on_every_device
def test_magnitudes_do_not_matter(device):
    s, c, tau = [1.0, 2.0, 0.5], [0.5, 0.9, 0.8], [0.3, 0.2, 0.7]
    mu = at(device, shifted_mu)(s, c, tau)
    assert at(device, shifted_mu)(np.multiply(s, 1e-200), c, np.multiply(tau, 1e-200)) == pytest.approx(mu, rel=1e-12)
    assert at(device, shifted_mu)(np.multiply(s, 1e200), c, np.multiply(tau, 1e200)) == pytest.approx(mu, rel=1e-12)


def test_leading_axes_broadcast():
    rng = np.random.default_rng(5)
    s, tau = rng.random((3, 1, 7)), rng.random((4, 1))
    mu = shifted_mu(s, 0.9, tau)
    assert mu.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert mu[i, j] == shifted_mu(s[i, 0], 0.9, np.full(7, tau[j, 0]))
    assert isinstance(shifted_mu([1.0], 1.0, 1.0), float)
    assert shifted_mu(np.empty((2, 0)), 1.0, 1.0).tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(shifted_mu(s, 0.9, tau, threads=1), mu)


@pytest.mark.parametrize("name", ["sensitivity", "contraction", "noise_std"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_bad_numbers_are_refused_by_name(name, bad):
    arguments = {"sensitivity": [1.0, 1.0], "contraction": [1.0, 1.0], "noise_std": [1.0, 1.0]}
    arguments[name] = [1.0, bad]
    with pytest.raises(ValueError, match=name):
        shifted_mu(*arguments.values())


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="axis of steps"):
        shifted_mu(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="broadcast"):
        shifted_mu(np.ones(3), np.ones(4), 1.0)
