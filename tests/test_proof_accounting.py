"""Enclosures of privacy arithmetic contain what 60 digits give, get narrower with more bits, and bound float64."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from expunge import accounting
from expunge.accounting import GaussianPair

pytest.importorskip("flint")
from flint import arb

from expunge import proof
from expunge.proof import balls, profile
from expunge.proof.coordinates import Coordinates
from expunge.proof.gdp import delta_ball as gdp_delta_ball
from expunge.proof.roots import enclosed_root

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())
RESIDUAL = json.loads((Path(__file__).parent / "golden" / "residual_reference.json").read_text())
MP = mpmath.MPContext()
MP.dps = 60


def holds(found, truth, *, slack=0):
    """Return whether an enclosure contains a number of 60 digits, by its decimal ends; its floats lie around those."""
    low, high = MP.mpf(found.lower_text), MP.mpf(found.upper_text)
    assert MP.mpf(found.lower) <= low
    assert high <= MP.mpf(found.upper)
    room = abs(truth) * MP.mpf(slack)
    return low - room <= truth <= high + room


def tail(x):
    return MP.erfc(x / MP.sqrt(2)) / 2


def mp_gdp_delta(mu, epsilon):
    MP.dps = 60 + max(0, int(-4 * math.log10(mu)))
    m, e = MP.mpf(mu), MP.mpf(epsilon)
    found = tail(e / m - m / 2) - MP.exp(e) * tail(e / m + m / 2)
    MP.dps = 60
    return +found


def mp_pair_delta(e, d, epsilon):
    """Return delta of N(d, 1 + e) against N(0, 1): the loss exceeds epsilon within or beyond two roots."""
    MP.dps = 140
    e, d, epsilon = MP.mpf(e), MP.mpf(d), MP.mpf(epsilon)
    v = 1 + e
    # log P/Q = -log(v)/2 - (x - d)^2/(2 v) + x^2/2 > epsilon
    a, b, c = (1 - 1 / v) / 2, d / v, -d * d / (2 * v) - MP.log(v) / 2 - epsilon
    if a == 0:
        x = -c / b
        under = (lambda m, s: tail((x - m) / s)) if b > 0 else (lambda m, s: tail((m - x) / s))
    else:
        root = MP.sqrt(max(b * b - 4 * a * c, 0))
        if b * b - 4 * a * c <= 0:
            MP.dps = 60
            return MP.mpf(0) if a < 0 else 1 - MP.exp(epsilon)
        x, y = sorted(((-b - root) / (2 * a), (-b + root) / (2 * a)))
        if a > 0:
            under = lambda m, s: tail((m - x) / s) + tail((y - m) / s)  # noqa: E731
        else:
            under = lambda m, s: tail((x - m) / s) - tail((y - m) / s)  # noqa: E731
    found = under(d, MP.sqrt(v)) - MP.exp(epsilon) * under(0, 1)
    MP.dps = 60
    return +found


def mp_shifted_mu(sensitivity, contraction, noise_std):
    """Return mu from the greatest convex minorant in rational numbers."""
    points, weight, steps = [(Fraction(0), Fraction(0))], Fraction(1), []
    for s, c, t in reversed(list(zip(sensitivity, contraction, noise_std, strict=True))):
        steps.append((weight * Fraction(s), (weight * Fraction(t)) ** 2))
        weight *= Fraction(c)
    for s, v in reversed(steps):
        points.append((points[-1][0] + v, points[-1][1] + s))
    hull = []
    for point in points:
        while len(hull) >= 2 and (hull[-1][0] - hull[-2][0]) * (point[1] - hull[-2][1]) <= (point[0] - hull[-2][0]) * (
            hull[-1][1] - hull[-2][1]
        ):
            hull.pop()
        hull.append(point)
    square = sum((b[1] - a[1]) ** 2 / (b[0] - a[0]) for a, b in pairwise(hull))
    return MP.sqrt(MP.mpf(square.numerator) / MP.mpf(square.denominator))


@pytest.mark.parametrize("case", REFERENCE["gdp_delta"], ids=str)
def test_gdp_delta_contains_60_digits_and_bounds_float64(case):
    found = proof.gdp_delta(mu=case["mu"], epsilon=case["epsilon"])
    assert holds(found, mp_gdp_delta(case["mu"], case["epsilon"]))
    assert holds(found, MP.mpf(case["delta"]), slack=1e-13)  # the reference took decimal arguments
    assert found.upper <= found.lower * (1 + 2**-51)
    assert accounting.gdp_delta(case["mu"], case["epsilon"]) >= found.lower


@pytest.mark.parametrize("case", REFERENCE["gdp_epsilon"], ids=str)
def test_gdp_epsilon_contains_the_root_and_bounds_float64(case):
    found = proof.gdp_epsilon(mu=case["mu"], delta=case["delta"])
    assert holds(found, MP.mpf(case["epsilon"]), slack=1e-13)
    assert accounting.gdp_epsilon(case["mu"], case["delta"]) >= found.lower
    if found.upper == 0:
        assert mp_gdp_delta(case["mu"], 0) <= MP.mpf(case["delta"])
        return
    below, above = (mp_gdp_delta(case["mu"], MP.mpf(end)) for end in (found.lower_text, found.upper_text))
    assert above <= MP.mpf(case["delta"]) <= below


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 8.0, 50.0])
@pytest.mark.parametrize("delta", [1e-300, 1e-12, 1e-5, 0.3, 1 - 2**-53])
def test_gdp_mu_contains_the_root_and_bounds_float64(epsilon, delta):
    found = proof.gdp_mu(epsilon=epsilon, delta=delta)
    below, above = (mp_gdp_delta(MP.mpf(end), epsilon) for end in (found.lower_text, found.upper_text))
    assert below <= MP.mpf(delta) <= above
    assert accounting.gdp_mu(epsilon, delta) <= found.upper


@pytest.mark.parametrize("case", RESIDUAL["gdp_mu"], ids=str)
def test_gdp_mu_agrees_with_the_reference(case):
    found = proof.gdp_mu(epsilon=float(case["epsilon"]), delta=float(case["delta"]))
    assert holds(found, MP.mpf(case["mu"]), slack=1e-15)  # the reference took decimal arguments
    assert found.upper <= found.lower * (1 + 2**-51)


@pytest.mark.parametrize("case", REFERENCE["shifted_mu"], ids=lambda case: str(case["mu"]))
def test_shifted_mu_contains_the_rational_minorant(case):
    steps = case["sensitivity"], case["contraction"], case["noise_std"]
    found = proof.shifted_mu(*steps)
    assert holds(found, mp_shifted_mu(*steps))
    assert abs(found.lower / case["mu"] - 1) < 1e-14
    assert accounting.shifted_mu(*steps) >= found.lower


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 1.0, 3.0]),
            st.sampled_from([0.5, 1.0, 0.75]),
            st.sampled_from([0.5, 1.0, 1e-3, 1e3]),
        ),
        min_size=1,
        max_size=12,
    )
)
@example([(1.0, 1.0, 1.0)] * 9)  # all points on one line
@example([(1e-3, 1.0, 1e-3), (1.0, 1.0, 1e3)])
def test_shifted_mu_needs_no_decision_about_points_on_a_line(steps):
    s, c, tau = (list(part) for part in zip(*steps, strict=True))
    found = proof.shifted_mu(s, c, tau)
    assert holds(found, mp_shifted_mu(s, c, tau))
    assert found.upper <= found.lower * (1 + 1e-15)
    assert accounting.shifted_mu(s, c, tau) >= found.lower


def test_shifts_after_the_last_noise_are_infinite_and_forgotten_ones_nothing():
    assert proof.shifted_mu([0.0, 1.0], 1.0, [1.0, 0.0])[:2] == (math.inf, math.inf)
    assert proof.shifted_mu([1.0, 0.0], [1.0, 0.0], 0.0)[:2] == (0.0, 0.0)
    assert proof.shifted_mu([0.0, 0.0], 1.0, 0.0)[:2] == (0.0, 0.0)
    with pytest.raises(ValueError, match="one axis of steps"):
        proof.shifted_mu(1.0, 1.0, 1.0)


@pytest.mark.parametrize("case", REFERENCE["gaussian_pair"], ids=lambda case: str(case["excess_variance"])[:40])
@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_pair_delta_agrees_with_the_reference_and_bounds_float64(case, direction):
    pair = GaussianPair(case["excess_variance"], case["shift"])
    found = proof.pair_delta(pair, epsilon=case["epsilon"], direction=direction)
    assert holds(found, MP.mpf(case[f"delta_{direction}"]), slack=2e-13)
    assert pair.delta(case["epsilon"], direction=direction) >= found.lower
    assert found.upper <= found.lower * (1 + 1e-15)
    if case["renyi_pq"] is not None:
        divergence = proof.pair_renyi(pair, order=case["order"], direction="pq")
        truth = MP.mpf(case["renyi_pq"])
        assert divergence.lower == math.inf if MP.isinf(truth) else holds(divergence, truth, slack=2e-13)


PAIRS_OF_ONE = [
    (-2e-12, 1e-3, 0.0),
    (0.0, 0.5, 1.0),
    (1e-9, 0.3, 0.5),
    (0.5, 0.0, 0.25),
    (0.5, 1.0, 1.0),
    (-0.6, 0.2, 0.3),
    (-0.6, 0.2, 2.0),  # beyond the largest loss of P against Q
    (100.0, 3.0, 1.0),
    (13280.64, 9.0547, 4.7499),
    (1e8, 5.0, 2.0),
    (-1 + 1e-9, 0.1, 3.0),
    (1e-300, 1e-3, 1e-4),
]


@pytest.mark.parametrize(("e", "d", "epsilon"), PAIRS_OF_ONE)
def test_pairs_of_one_coordinate_contain_60_digits(e, d, epsilon):
    pair = GaussianPair([e], [[d]])
    found = proof.pair_delta(pair, epsilon=epsilon, direction="pq")
    assert holds(found, mp_pair_delta(e, d, epsilon))
    assert found.upper <= found.lower * (1 + 1e-15)
    assert pair.delta(epsilon, direction="pq") >= found.lower
    scale = 1 + MP.mpf(e)
    MP.dps = 140
    other = mp_pair_delta(-MP.mpf(e) / scale, -MP.mpf(d) / MP.sqrt(scale), epsilon)
    back = proof.pair_delta(pair, epsilon=epsilon, direction="qp")
    assert holds(back, other)
    assert back.upper <= back.lower * (1 + 1e-15)
    assert pair.delta(epsilon, direction="qp") >= back.lower


# Sizes for which mpmath's own tails are quick.
sizes = st.sampled_from([0.0, 1e-3, 0.02, 0.3, 1.0, 5.0])


@given(st.one_of(st.floats(0.01, 20.0), st.floats(-0.9, -0.01), st.just(0.0)), sizes, sizes)
def test_any_pair_of_one_coordinate_contains_60_digits(e, d, epsilon):
    found = proof.pair_delta(GaussianPair([e], [[d]]), epsilon=epsilon, direction="pq")
    assert holds(found, mp_pair_delta(e, d, epsilon) if e or d else MP.mpf(0))
    assert MP.mpf(found.upper_text) <= MP.mpf(found.lower_text) * (1 + MP.mpf(10) ** -15)


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_equal_covariances_are_gaussian_dp(direction):
    pair = GaussianPair([0.0, 0.0], [[0.3, 0.0], [0.0, 0.4]])
    found = proof.pair_delta(pair, epsilon=0.7, direction=direction)
    mu = MP.sqrt(MP.mpf(0.3) ** 2 + MP.mpf(0.4) ** 2)
    assert holds(found, mp_gdp_delta(mu, 0.7))


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_pair_epsilon_is_where_the_profile_has_that_delta(direction):
    pair = GaussianPair([0.1, -0.3, 0.0], [[0.3], [0.2], [0.05]])
    for delta in (0.5, 1e-2, 1e-9):
        found = proof.pair_epsilon(pair, delta=delta, direction=direction)
        assert pair.epsilon(delta, direction=direction) >= found.lower
        if found.upper == 0.0:
            assert proof.pair_delta(pair, epsilon=0.0, direction=direction).lower <= delta
            continue
        assert proof.pair_delta(pair, epsilon=found.lower, direction=direction).upper >= delta
        assert proof.pair_delta(pair, epsilon=found.upper, direction=direction).lower <= delta
    assert proof.pair_epsilon(pair, delta=0.0, direction=direction).lower == math.inf
    assert proof.pair_epsilon(GaussianPair([-0.5], [[0.1]]), delta=0.0, direction="pq").upper < 1.0


def test_renyi_divergences_contain_60_digits():
    for e, d, order in ((0.5, 1.0, 2.5), (-0.5, 0.3, 7.0), (1e-9, 1e-3, 1.5), (0.0, 2.0, 3.0)):
        found = proof.pair_renyi(GaussianPair([e], [[d]]), order=order, direction="pq")
        a, v, s = MP.mpf(order), 1 + MP.mpf(e), MP.mpf(d) ** 2
        mixed = a + (1 - a) * v
        truth = a * s / (2 * mixed) - (MP.log(mixed) - (1 - a) * MP.log(v)) / (2 * (a - 1))
        assert holds(found, truth)
        assert GaussianPair([e], [[d]]).renyi(order, direction="pq") >= found.lower
    assert proof.pair_renyi(GaussianPair([1.0], [[0.0]]), order=2.0, direction="pq")[:2] == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("order", "noise", "probability"),
    [(r["order"], r["noise_multiplier"], r["sampling_probability"]) for r in REFERENCE["sampled_gaussian_rdp"]]
    + [(118.99, 2.771, 3.47e-4), (1.001, 1e3, 1e-6), (64.5, 0.3, 0.5), (2.5, 0.05, 0.1)],
)
@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_sampled_gaussian_contains_high_precision_quadrature(order, noise, probability, direction):
    found = proof.sampled_gaussian_rdp(
        order=order, noise_multiplier=noise, sampling_probability=probability, direction=direction
    )
    MP.dps = 40
    s, q = MP.mpf(noise), MP.mpf(probability)
    power = MP.mpf(order) if direction == "pq" else 1 - MP.mpf(order)

    def density(t):
        ratio = (1 - q) + q * MP.exp((2 * s * t - 1) / (2 * s * s))
        return MP.exp(-t * t / 2) / MP.sqrt(2 * MP.pi) * MP.expm1(power * MP.log(ratio))

    centres = sorted({0.0, float(order / noise) if direction == "pq" else 0.0, float(1 / noise)})
    ends = [centres[0] - 24, *sorted({c + k for c in centres for k in range(-12, 13, 4)}), centres[-1] + 24]
    truth = MP.log1p(MP.quad(density, ends, maxdegree=8)) / (MP.mpf(order) - 1)
    MP.dps = 60
    if probability == 1.0:
        truth = MP.mpf(order) / (2 * s * s)
    assert holds(found, truth, slack=1e-20)
    assert found.upper <= found.lower * (1 + 1e-15)
    known = [r["rdp"] for r in REFERENCE["sampled_gaussian_rdp"] if r["order"] == order]
    if known and direction == "pq":
        assert holds(found, MP.mpf(known[0]), slack=1e-13)
    value = accounting.sampled_gaussian_rdp(order, noise, probability, direction=direction)
    assert value >= found.lower


@pytest.mark.parametrize(
    ("rdp", "order", "delta"),
    [(0.5, 10.0, 1e-5), (1e-6, 1.1, 0.01), ([0.1, 0.5], [2.0, 10.0], 1e-5), (3.0, 1.5, 1e-9), (0.02, 64.0, 0.3)],
)
def test_rdp_to_epsilon_contains_60_digits_and_bounds_float64(rdp, order, delta):
    found = proof.rdp_to_epsilon(rdp, order, delta=delta)
    d = MP.mpf(delta)
    truth = MP.inf
    for one, a in zip(np.atleast_1d(rdp).tolist(), np.atleast_1d(order).tolist(), strict=True):
        r, a = MP.mpf(one), MP.mpf(a)
        value = r + MP.log(1 - 1 / a) - (MP.log(d) + MP.log(a)) / (a - 1)
        truth = min(truth, MP.mpf(0) if r <= max(2 * d * d, -MP.log(1 - d * d)) else max(value, MP.mpf(0)))
    assert holds(found, truth)
    assert accounting.rdp_to_epsilon(rdp, order, delta) >= found.lower


def test_edges_are_those_of_float64():
    assert proof.gdp_delta(mu=0.0, epsilon=0.0)[:2] == (0.0, 0.0)
    assert proof.gdp_epsilon(mu=1.0, delta=0.0).lower == math.inf
    assert proof.gdp_epsilon(mu=1.0, delta=1.0).upper == 0.0
    assert proof.gdp_mu(epsilon=1.0, delta=1.0).lower == math.inf
    assert proof.rdp_to_epsilon(0.1, 2.0, delta=0.0).lower == math.inf
    assert proof.rdp_to_epsilon(0.0, 2.0, delta=0.0).upper == 0.0
    assert proof.sampled_gaussian_rdp(order=2.0, noise_multiplier=math.inf, sampling_probability=0.5).upper == 0.0
    assert proof.sampled_gaussian_rdp(order=2.0, noise_multiplier=0.0, sampling_probability=0.5).lower == math.inf
    for call in (
        lambda: proof.gdp_delta(mu=-1.0, epsilon=0.0),
        lambda: proof.gdp_mu(epsilon=1.0, delta=math.nan),
        lambda: proof.pair_delta(GaussianPair([0.0], [[1.0]]), epsilon=1.0, direction="both"),
        lambda: proof.rdp_to_epsilon([0.1], [1.0], delta=0.1),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


@given(st.integers(-(2**200), 2**200), st.integers(-1300, 1300))
@example(2**53 + 1, 0)
@example(-(2**53 + 1), 971)
@example(2**54 - 1, 970)  # rounded up it overflows
@example(1, -1075)
@example(3, -1075)
@example(2**200, 1000)
@example(1, -5000)
def test_leaving_ball_arithmetic_rounds_outward_and_no_farther_than_a_float(man, exp):
    """Against exact rationals: the ends are the floats next to the number."""
    with balls.precision(4096):
        low, high = balls.float_ends(arb(man) * arb(2) ** exp)
        texts = balls.decimal_ends(arb(man) * arb(2) ** exp)
    truth = Fraction(man) * Fraction(2) ** exp
    assert (low == -math.inf) or Fraction(low) <= truth
    assert (high == math.inf) or Fraction(high) >= truth
    if low != high:
        assert math.nextafter(low, math.inf) == high
    else:
        assert Fraction(low) == truth
    mp = mpmath.MPContext()
    mp.prec = 20000
    below, above = (mp.mpf(text) for text in texts)
    exact = mp.mpf(man) * mp.mpf(2) ** exp
    assert below <= exact <= above
    assert above - below <= abs(exact) * mp.mpf(10) ** -28


def test_balls_that_are_not_finite_become_the_whole_line():
    assert balls.float_ends(arb(0, "inf")) == (-math.inf, math.inf)
    assert balls.float_ends(arb("inf")) == (math.inf, math.inf)
    assert balls.float_ends(arb("nan")) == (-math.inf, math.inf)
    assert balls.decimal_ends(arb("nan")) == ("-inf", "inf")


def test_more_bits_give_narrower_enclosures_within_the_earlier_ones():
    pair = GaussianPair([0.1, -0.2], [[0.3], [0.1]])

    def third() -> arb:
        return arb(1) / 3

    computed = {
        "gdp": lambda: gdp_delta_ball(third(), third()),
        "pair": lambda: profile.delta_ball(Coordinates.of(pair), third(), bits=balls.ctx.prec - 40),
        "root": lambda: enclosed_root(lambda x: x * x - third(), 0.577, increasing=True),
    }
    for name, compute in computed.items():
        before = None
        for bits in (96, 128) if name == "root" else (96, 128, 192):  # a root is known to 76 bits at most
            with balls.precision(bits):
                found = compute()
                low, high = found.lower(), found.upper()
            if before is not None:
                with balls.precision(512):
                    assert before[0] <= low, (name, bits)
                    assert high <= before[1], (name, bits)
                    assert high - low < before[1] - before[0], (name, bits)
            before = low, high


def test_precision_comes_back_after_errors():
    before = balls.ctx.prec

    def fail():
        with balls.precision(777):
            assert balls.ctx.prec == 777
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert balls.ctx.prec == before


def test_a_wrong_number_is_noticed():
    """A float64 delta that is lowered by 1e-14 lies below its enclosure."""
    found = proof.gdp_delta(mu=1.0, epsilon=1.0)
    assert accounting.gdp_delta(1.0, 1.0) >= found.lower
    assert not found.upper * (1 - 1e-14) >= found.lower
