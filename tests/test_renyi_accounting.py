"""Laws of Renyi accounting: one step, runs, budgets and the way to (epsilon, delta)."""

import itertools
import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

import oracles
from emulated import at, on_every_device
from expunge.accounting import gdp_delta, gdp_epsilon
from expunge.accounting.rdp import (
    Estimate,
    RenyiFilter,
    StepCost,
    composition_rdp,
    privacy_loss,
    quadrature_weights,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
)

CLOSE = 2e-13  # outward factor 1 + 2^-44 and a few units
orders = st.floats(-2.0, 2.7).map(lambda e: 1.0 + 10.0**e)
multipliers = st.floats(math.log10(0.3), 3.0).map(lambda e: 10.0**e)
rates = st.floats(-4.0, 0.0).map(lambda e: 10.0**e)
STEP = {"noise_std": 0.5, "step_size": 0.1, "batch_size": 2.0}

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())["sampled_gaussian_rdp"]


@on_every_device
@pytest.mark.parametrize("case", REFERENCE)
def test_reference_numbers(device, case):
    value = at(device, sampled_gaussian_rdp)(case["order"], case["noise_multiplier"], case["sampling_probability"])
    assert value == pytest.approx(float(case["rdp"]), rel=1e-12)


# Corners and a spread of the middle; each is integrated to 40 digits.
CASES = [
    (1e-4, 0.3, 1.01),
    (1e-4, 1000.0, 1.01),
    (1e-4, 1000.0, 500.0),
    (1e-4, 0.7, 3.7),
    (0.003, 1.0, 8.25),
    (0.01, 0.3, 1.3),
    (0.02, 20.0, 500.0),
    (0.2, 0.8, 6.5),
    (0.5, 0.3, 2.0),
    (0.5, 1.1, 1.9),
    (0.97, 0.4, 6.0),
    (1.0 - 1e-6, 2.5, 11.0),
    (1.0 - 1e-9, 1000.0, 1.5),
]


@on_every_device
@pytest.mark.parametrize("direction", ["pq", "qp"])
@pytest.mark.parametrize(("rate", "multiplier", "order"), CASES)
def test_upper_bound_within_rounding_of_the_integral(device, rate, multiplier, order, direction):
    truth = oracles.sampled_gaussian_rdp(order, multiplier, rate, direction)
    value = at(device, sampled_gaussian_rdp)(order, multiplier, rate, direction=direction)
    assert value >= truth
    assert float(value / truth - 1) <= CLOSE


@on_every_device
@given(st.floats(0.001, 0.9), st.floats(1.0, 5.0), st.floats(1.05, 9.0), st.sampled_from(["pq", "qp"]))
def test_agrees_with_quad(device, rate, multiplier, order, direction):
    power = order if direction == "pq" else 1.0 - order

    def excess(z):
        u = rate * math.expm1(z / multiplier - 0.5 / multiplier**2)
        return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * (math.expm1(power * math.log1p(u)) - power * u)

    high = 14.0 + order / multiplier if direction == "pq" else 14.0
    points = np.linspace(-14.0 - (0 if direction == "pq" else order / multiplier), high, 30)
    total = sum(quad(excess, a, b, epsabs=1e-18, epsrel=1e-10)[0] for a, b in itertools.pairwise(points))
    # The plain difference loses digits in proportion to the size of u.
    expected = math.log1p(total) / (order - 1)
    assert at(device, sampled_gaussian_rdp)(order, multiplier, rate, direction=direction) == pytest.approx(
        expected, rel=1e-6, abs=1e-14
    )


@on_every_device
@given(orders, multipliers, rates, st.floats(1.0001, 3.0), st.sampled_from(["pq", "qp"]))
def test_monotone_in_order_rate_and_noise(device, order, multiplier, rate, factor, direction):
    value = at(device, sampled_gaussian_rdp)(order, multiplier, rate, direction=direction)
    assert value >= 0
    assert at(device, sampled_gaussian_rdp)(order * factor, multiplier, rate, direction=direction) >= value * (
        1 - CLOSE
    )
    assert at(device, sampled_gaussian_rdp)(
        order, multiplier, min(rate * factor, 1.0), direction=direction
    ) >= value * (1 - CLOSE)
    assert at(device, sampled_gaussian_rdp)(order, multiplier * factor, rate, direction=direction) <= value * (
        1 + CLOSE
    )


@on_every_device
@given(orders, multipliers, rates)
def test_both_is_the_larger_direction(device, order, multiplier, rate):
    both, pq, qp = (
        at(device, sampled_gaussian_rdp)(order, multiplier, rate, direction=d) for d in ("both", "pq", "qp")
    )
    assert both == pq
    assert both >= qp * (1 - CLOSE)


@on_every_device
@given(orders, multipliers, rates)
def test_never_above_the_gaussian_nor_the_ratio_bound(device, order, multiplier, rate):
    gaussian = at(device, sampled_gaussian_rdp)(order, multiplier, 1.0)
    assert gaussian == pytest.approx(order / (2 * multiplier**2), rel=1e-14)
    assert at(device, sampled_gaussian_rdp)(order, multiplier, rate) <= gaussian
    if rate < 1:
        assert at(device, sampled_gaussian_rdp)(order, multiplier, rate, direction="qp") <= -math.log1p(-rate) * (
            1 + 1e-14
        )


@on_every_device
@given(orders, multipliers)
def test_rate_to_one_is_the_gaussian(device, order, multiplier):
    near = at(device, sampled_gaussian_rdp)(order, multiplier, 1.0 - 1e-12, direction="pq")
    assert near == pytest.approx(order / (2 * multiplier**2), rel=1e-9 + 4e-12 * order)


@on_every_device
@given(rates, st.floats(1.0, 1e3))
def test_small_sensitivity_is_quadratic(device, rate, multiplier):
    wide = 1e4 * multiplier
    assert at(device, sampled_gaussian_rdp)(2.5, wide, rate) == pytest.approx(2.5 * rate**2 / (2 * wide**2), rel=1e-3)


@on_every_device
def test_continuous_where_the_formula_changes(device):
    below, above = np.nextafter(0.02, 0), 0.02
    for direction in ("pq", "qp"):
        for order in (1.001, 1.5, 7.0, 60.0):
            values = [at(device, sampled_gaussian_rdp)(order, s, 0.3, direction=direction) for s in (below, above)]
            assert values[0] == pytest.approx(values[1], rel=CLOSE + 1e-15 * (order / above) ** 2)


def test_edges_and_shapes():
    assert sampled_gaussian_rdp(2.0, np.inf, 0.5) == 0.0
    assert sampled_gaussian_rdp(2.0, 1.0, 0.0) == 0.0
    assert sampled_gaussian_rdp(2.0, 0.0, 0.5) == np.inf
    assert sampled_gaussian_rdp(2.0, 0.0, 0.5, direction="qp") == pytest.approx(math.log(2.0))
    assert sampled_gaussian_rdp([2.0, 3.0], np.ones((4, 1)), 0.1).shape == (4, 2)
    assert sampled_gaussian_rdp(np.empty(0), 1.0, 0.1).shape == (0,)
    assert isinstance(sampled_gaussian_rdp(2.0, 1.0, 0.1), float)
    assert sampled_gaussian_rdp(2.0, 1e200, 0.1) <= 1e-290


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((np.nan, 1.0, 0.1), "order"),
        ((1.0, 1.0, 0.1), "order"),
        ((np.inf, 1.0, 0.1), "order"),
        ((2.0, np.nan, 0.1), "noise_multiplier"),
        ((2.0, -1.0, 0.1), "noise_multiplier"),
        ((2.0, 1.0, np.nan), "sampling_probability"),
        ((2.0, 1.0, 1.1), "sampling_probability"),
        (([2.0, 3.0], [1.0, 1.0, 1.0], 0.1), "broadcast"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        sampled_gaussian_rdp(*arguments)
    with pytest.raises(ValueError, match="direction"):
        sampled_gaussian_rdp(2.0, 1.0, 0.1, direction="up")


def test_same_bits_for_every_thread_count():
    rng = np.random.default_rng(0)
    s = rng.uniform(0.4, 30.0, 500)
    one = sampled_gaussian_rdp(3.3, s, 0.05, threads=1)
    assert np.array_equal(one, sampled_gaussian_rdp(3.3, s, 0.05, threads=2))
    assert np.array_equal(one, [sampled_gaussian_rdp(3.3, value, 0.05) for value in s])


def test_hostile_range_stays_a_finite_upper_bound():
    rng = np.random.default_rng(1)
    n = 300
    q = np.concatenate([10 ** rng.uniform(-300, 0, n), 1 - 10 ** rng.uniform(-15, -1, n)])
    s, a = 10 ** rng.uniform(-2.5, 6, 2 * n), 1 + 10 ** rng.uniform(-6, 4, 2 * n)
    for direction in ("pq", "qp"):
        value = sampled_gaussian_rdp(a, s, q, direction=direction)
        assert np.isfinite(value).all()
        assert (value > 0).all()
        assert (value <= a / (2 * s * s) * (1 + 1e-14)).all()


# --- epsilon ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [1e-4, 0.01, 0.3, 2.0, 30.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.01])
def test_continuous_order_finds_the_best(mu, delta):
    def curve(order):
        return order * mu**2 / 2

    epsilon = rdp_to_epsilon(curve, None, delta)
    scan = oracles.rdp_to_epsilon_scan(curve, delta)
    assert scan * (1 - 1e-7) <= epsilon <= scan * (1 + 1e-5) + 1e-12
    assert epsilon >= gdp_epsilon(mu, delta) * (1 - 1e-12)
    assert rdp_to_epsilon(curve, (1.5, 1e8), delta) >= epsilon * (1 - 1e-5)


@given(st.floats(-8, 1.5).map(lambda x: 10.0**x), st.floats(-6, 3).map(lambda x: 1 + 10.0**x), st.floats(-12, -1e-3))
def test_no_order_claims_less_than_the_exact_gaussian(mu, order, log_delta):
    # Deltas around the total variation distance, where epsilon turns 0, and others.
    distance = float(gdp_delta(mu, 0.0))
    for delta in (10.0**log_delta, distance * (1 - 1e-9), min(distance * 1.01, 1.0), min(distance * 1.7, 1.0)):
        epsilon = rdp_to_epsilon(order * mu**2 / 2, order, delta)
        assert epsilon >= 0.0
        assert oracles.gdp_delta_mpmath(mu, epsilon) <= mpmath.mpf(delta) * (1 + mpmath.mpf(10) ** -30)


@given(st.floats(-15, 1).map(lambda x: 10.0**x), st.floats(-6, 3).map(lambda x: 1 + 10.0**x))
def test_epsilon_is_zero_from_the_total_variation_distance_on(rdp, order):
    with mpmath.workdps(40):
        distance = mpmath.sqrt(min(-mpmath.expm1(-mpmath.mpf(rdp)), mpmath.mpf(rdp) / 2))
        assert rdp_to_epsilon(rdp, order, float(distance * (1 + mpmath.mpf(10) ** -14))) == 0.0
        below = float(distance * (1 - mpmath.mpf(10) ** -14))
        plain = rdp + math.log1p(-1 / order) - (math.log(below) + math.log(order)) / (order - 1)
        assert rdp_to_epsilon(rdp, order, below) == pytest.approx(max(plain, 0.0), abs=1e-9 * (1 + abs(plain)))


def test_small_divergences_at_orders_near_one():
    assert rdp_to_epsilon(1e-6, 1.1, 0.01) == 0.0
    assert rdp_to_epsilon(1e-6, 1.1, 1e-4) > 30.0
    assert rdp_to_epsilon(5e-324, 1.1, 1e-200) > 0.0  # the square of delta is below every positive number


def test_continuous_order_on_the_sampled_gaussian():
    def curve(order):
        return 100 * np.asarray(sampled_gaussian_rdp(order, 2.0, 0.01))

    fine = rdp_to_epsilon(curve(np.linspace(1.5, 60, 4000)), np.linspace(1.5, 60, 4000), 1e-5)
    assert rdp_to_epsilon(curve, None, 1e-5) <= fine * (1 + 1e-5)


def test_continuous_order_edges():
    assert rdp_to_epsilon(lambda a: 0 * a, None, 1e-5) == 0.0
    assert rdp_to_epsilon(lambda a: np.where(a > 3, np.inf, a), None, 1e-5) < 15
    assert rdp_to_epsilon(lambda a: np.inf * a, None, 1e-5) == np.inf
    with pytest.raises(ValueError, match="order"):
        rdp_to_epsilon(0.1, None, 1e-5)
    with pytest.raises(ValueError, match="order"):
        rdp_to_epsilon(lambda a: a, (3.0, 2.0), 1e-5)
    with pytest.raises(ValueError, match="rdp"):
        rdp_to_epsilon(lambda a: np.nan * a, None, 1e-5)
    with pytest.raises(ValueError, match="rdp"):
        rdp_to_epsilon(lambda a: 1.0, None, 1e-5)


@pytest.mark.parametrize(
    ("order", "sigma", "q"),
    [(118.99, 2.771, 3.47e-4), (30.0, 1.0, 1e-3)],
)
def test_the_promised_slack_is_kept_at_large_orders(order, sigma, q):
    truth = oracles.sampled_gaussian_rdp(order, sigma, q, "pq")
    found = sampled_gaussian_rdp(order, sigma, q, direction="pq")
    assert truth <= found <= truth * (1 + 1e-13 + 4e-15 * (order / sigma) ** 2)


# --- privacy loss ----------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 40), min_size=1, max_size=8).map(sorted))
def test_quadrature_is_the_sum_of_the_interpolant(steps):
    weights = quadrature_weights(steps, n_steps=41)
    values = np.cos(np.arange(len(steps)) * 1.7) + 2
    assert weights.sum() == pytest.approx(41)
    assert weights @ values == pytest.approx(sum(np.interp(t, steps, values) for t in range(41)))


def test_full_batch_is_the_closed_form():
    rng = np.random.default_rng(2)
    norms, steps = rng.uniform(0, 3, (7, 4)), [0, 3, 10, 19]
    loss = privacy_loss(norms, order=3.0, **STEP, sampling_probability=1.0, steps=steps, n_steps=20)
    truth = oracles.privacy_loss_step_by_step(norms, order=3.0, **STEP, steps=steps, n_steps=20)
    np.testing.assert_allclose(loss, truth, rtol=1e-13)
    assert isinstance(loss, Estimate)
    assert loss.status == "estimate"
    assert (loss + 1)[:2].status == "estimate"


def test_all_steps_seen_is_the_sum_of_step_costs():
    rng = np.random.default_rng(3)
    norms = rng.uniform(0, 8, (5, 6))
    loss = privacy_loss(norms, order=[1.5, 4.0], **STEP, sampling_probability=0.1, steps=np.arange(6), n_steps=6)
    cost = sampled_gaussian_rdp([1.5, 4.0], 0.5 * 2 / (0.1 * norms[:, :, np.newaxis]), 0.1)
    assert loss.shape == (5, 2)
    np.testing.assert_allclose(loss, cost.sum(axis=1), rtol=1e-12)


def test_large_inputs_agree_with_the_kernel_to_1e_8():
    rng = np.random.default_rng(4)
    norms = np.concatenate([10 ** rng.uniform(-3, 2.5, 39_996), [0.0, np.inf, 1e9, 1e-9]])
    for order, direction in ((1.3, "both"), (9.0, "qp")):
        cost = StepCost(order=order, sampling_probability=0.02, direction=direction)(norms, noise_per_norm=10.0)
        some = np.r_[0:2000, 39_990:40_000]
        with np.errstate(divide="ignore"):
            truth = sampled_gaussian_rdp(order, 10.0 / norms[some], 0.02, direction=direction)
        np.testing.assert_allclose(cost[some], truth, rtol=1e-8)


@given(st.floats(0.01, 10.0), st.floats(1.01, 3.0))
def test_privacy_loss_grows_with_the_norm_and_falls_in_the_noise(norm, factor):
    arguments = {
        "order": 4.0,
        "step_size": 0.2,
        "sampling_probability": 0.3,
        "batch_size": 1.0,
        "steps": [1],
        "n_steps": 9,
    }
    small, large = privacy_loss(np.array([[norm], [norm * factor]]), noise_std=1.0, **arguments)
    noisier = privacy_loss(np.array([[norm]]), noise_std=factor, **arguments)[0]
    assert noisier <= small <= large


def test_privacy_loss_edges():
    arguments = {"order": 2.0, **STEP, "sampling_probability": 0.1, "steps": [0, 4], "n_steps": 5}
    assert privacy_loss(np.zeros((2, 2)), **arguments).tolist() == [0.0, 0.0]
    assert privacy_loss(np.array([[1.0, np.inf]]), **arguments)[0] == np.inf
    assert privacy_loss(np.empty((0, 2)), **arguments).shape == (0,)
    with pytest.raises(ValueError, match="grad_norms"):
        privacy_loss(np.array([[1.0, np.nan]]), **arguments)
    with pytest.raises(ValueError, match="grad_norms"):
        privacy_loss(np.ones((3, 3)), **arguments)
    with pytest.raises(ValueError, match="steps"):
        privacy_loss(np.ones((3, 2)), **{**arguments, "steps": [4, 0]})
    with pytest.raises(TypeError, match="steps"):
        privacy_loss(np.ones((3, 2)), **{**arguments, "steps": [0.0, 4.0]})
    with pytest.raises(ValueError, match="noise_std"):
        privacy_loss(np.ones((3, 2)), **{**arguments, "noise_std": [1.0, 1.0, 1.0]})


# --- composition over runs -------------------------------------------------------------------------------------------

RUN = {"noise_std": 1.0, "step_size": 0.1, "batch_size": 1.0, "l2_bound": 2.0}


@pytest.mark.parametrize("direction", ["pq", "qp"])
@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_constant_costs_add_up(direction, rate):
    # The same norm in every run and step: as p grows the bound tends to T rho(a), from above.
    norms = np.full((3, 12), 1.5)
    step = sampled_gaussian_rdp(2.5, 10.0 / 1.5, rate, direction=direction)
    values = [
        float(composition_rdp(norms, order=2.5, sampling_probability=rate, direction=direction, p=p, **RUN).rdp)
        for p in (30.0, 300.0, 1e7)
    ]
    assert values[0] > values[1] > values[2] >= 12 * step * (1 - 1e-12)
    assert values[2] == pytest.approx(12 * step, rel=1e-4)


def test_composition_is_additive_over_runs_without_randomness():
    rng = np.random.default_rng(5)
    one = np.broadcast_to(rng.uniform(0, 2, 8), (4, 8))
    whole = composition_rdp(one, order=2.0, sampling_probability=1.0, p=1e8, direction="pq", **RUN).rdp
    parts = [
        composition_rdp(half, order=2.0, sampling_probability=1.0, p=1e8, direction="pq", **RUN).rdp
        for half in (one[:, :4], one[:, 4:])
    ]
    assert float(whole) == pytest.approx(float(parts[0] + parts[1]), rel=1e-5)


def test_composition_against_the_formulas_written_out():
    rng = np.random.default_rng(6)
    norms, a, p = rng.uniform(0, 2, (5, 3)), 2.0, 4.0
    r = p / (p - 1)

    def cost(t, order):
        return order * norms[:, t] ** 2 * 0.01 / 2

    orders_pq = [a, 1 + (a - 1) * r, 1 + (a - 1) * r * r]
    pq = sum(np.log(np.mean(np.exp(p * (b - 1) * cost(2 - j, b)))) / (p * (b - 1)) for j, b in enumerate(orders_pq))
    orders_qp = [a, a * r, a * r * r]
    qp = sum(np.log(np.mean(np.exp(p * (b - 1) * cost(2 - j, b)))) / p / r**j for j, b in enumerate(orders_qp[:2]))
    norms[:, 0] = 1.0  # the start is fixed
    pq_fixed = pq * 0
    for j, b in enumerate(orders_pq):
        pq_fixed += np.log(np.mean(np.exp(p * (b - 1) * cost(2 - j, b)))) / (p * (b - 1))
    qp = (qp + (orders_qp[2] - 1) * cost(0, orders_qp[2])[0] / r**2) / (a - 1)
    common = {"order": a, "sampling_probability": 1.0, "p": p, **RUN}
    got = {d: composition_rdp(norms, direction=d, **common) for d in ("pq", "qp", "both")}
    assert float(got["pq"].rdp) == pytest.approx(pq_fixed, rel=1e-12)
    assert float(got["qp"].rdp) == pytest.approx(qp, rel=1e-12)
    assert float(got["both"].rdp) == max(float(got["pq"].rdp), float(got["qp"].rdp))
    assert {one.status for one in got.values()} == {"estimate"}


def test_composition_per_record_and_best_exponent():
    rng = np.random.default_rng(7)
    norms = rng.uniform(0, 2, (6, 3, 10))
    common = {"order": 3.0, "sampling_probability": 0.5, **RUN}
    together = composition_rdp(norms, **common)
    assert together.rdp.shape == together.p.shape == (3,)
    for i in range(3):
        alone = composition_rdp(norms[:, i], **common)
        assert float(alone.rdp) == pytest.approx(float(together.rdp[i]), rel=1e-12)
    fixed = [composition_rdp(norms, p=p, **common).rdp for p in (6.0, 11.0, 21.0)]
    assert all((together.rdp <= one * (1 + 1e-12)).all() for one in fixed)


def test_composition_carries_where_its_bound_comes_from():
    norms = np.random.default_rng(8).uniform(0, 2, (3, 4))
    common = {**RUN, "order": 2.0, "sampling_probability": 1.0}
    assert composition_rdp(norms, **common).bound_source == "given"
    read_off = composition_rdp(norms, **{**common, "l2_bound": norms.max()}, bound_source="sample")
    assert read_off.bound_source == "sample"
    assert read_off.status == "estimate without a proved bound"
    assert read_off.rdp == composition_rdp(norms, **common).rdp
    with pytest.raises(ValueError, match="bound_source must be one of 'given', 'sample', got 'max'"):
        composition_rdp(norms, **common, bound_source="max")


def test_composition_refuses_unclipped_norms():
    with pytest.raises(ValueError, match="l2_bound"):
        composition_rdp(np.full((2, 3), 2.1), order=2.0, sampling_probability=1.0, **RUN)
    with pytest.raises(ValueError, match="grad_norms"):
        composition_rdp(np.full((2, 3), np.nan), order=2.0, sampling_probability=1.0, **RUN)
    with pytest.raises(ValueError, match="p must"):
        composition_rdp(np.ones((2, 3)), order=2.0, sampling_probability=1.0, p=1.0, **RUN)


# --- filter ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.3, 0.01]))
def test_filter_never_overspends_and_bars_for_good(seed, rate):
    rng = np.random.default_rng(seed)
    orders_fixed, budgets = np.array([1.5, 8.0]), rng.uniform(0.0, 0.05, 2)
    keeper = RenyiFilter(orders_fixed, budgets, n_records=6, sampling_probability=rate, **STEP)
    before = keeper.active
    spent = np.zeros((6, 2))
    for _ in range(8):
        norms = rng.uniform(0, 3, 6) * (rng.random(6) < 0.8)
        active = keeper.charge(norms)
        with np.errstate(divide="ignore"):
            cost = sampled_gaussian_rdp(orders_fixed, (0.5 * 2 / (0.1 * norms))[:, np.newaxis], rate)
        spent[active] += cost[active]
        assert not (active & ~before).any()
        # A record is barred only if it had to be, and those that stay keep within every budget.
        assert ((spent[before & ~active] + cost[before & ~active]) > budgets * (1 - 1e-12)).any(axis=1).all()
        assert (keeper.spent <= budgets).all()
        assert (keeper.spent >= spent * (1 - 1e-12)).all()
        before = active
    assert keeper.n_steps == 8
    assert keeper.epsilon(delta=1e-5) == rdp_to_epsilon(budgets, orders_fixed, 1e-5)


def test_filter_edges():
    step = {**STEP, "sampling_probability": 0.5}
    keeper = RenyiFilter(2.0, 0.0, n_records=2, **step)
    assert keeper.charge([0.0, 1e-9]).tolist() == [True, False]
    assert keeper.charge([0.0, np.nan]).tolist() == [True, False]
    with pytest.raises(ValueError, match="grad_norms"):
        keeper.charge([np.nan, 0.0])
    assert keeper.n_steps == 2
    assert RenyiFilter(2.0, 1.0, n_records=1, **step).charge([np.inf]).tolist() == [False]
    assert RenyiFilter(2.0, np.inf, n_records=1, **step).charge([np.inf]).tolist() == [True]
    noiseless = RenyiFilter(2.0, 1.0, n_records=2, **{**step, "noise_std": 0.0})
    assert noiseless.charge([0.0, 1.0]).tolist() == [True, False]
    assert keeper.status == "certified"
    assert "certified" in repr(keeper)
    with pytest.raises(ValueError, match="budget"):
        RenyiFilter([2.0, 3.0], 1.0, n_records=1, **step)
    with pytest.raises(ValueError, match="grad_norms"):
        keeper.charge([1.0])
    with pytest.raises(ValueError, match="read-only"):
        keeper.budget[0] = 5.0


@on_every_device
@pytest.mark.parametrize("order", [1.0000001, 2.0, 1e5, 1e250])
@pytest.mark.parametrize("noise", [1e153, 1e155, 1e200, 1e308])
def test_no_finite_noise_costs_exactly_nothing(device, order, noise):
    truth = mpmath.mpf(order) / (2 * mpmath.mpf(noise) ** 2)
    sampled = at(device, sampled_gaussian_rdp)(order, [noise, noise], [1.0, 1e-3], direction="both")
    assert np.all(np.asarray(sampled) > 0.0)
    found = at(device, sampled_gaussian_rdp)(order, [noise, np.inf], 1.0)
    assert found[1] == 0.0
    assert found[0] > 0.0
    assert truth <= mpmath.mpf(float(found[0]))
    keeper = RenyiFilter(2.0, 0.0, n_records=1, noise_std=1.0, step_size=1.0, sampling_probability=1.0, batch_size=1.0)
    assert not keeper.charge(np.array([1.0 / noise])).any()
