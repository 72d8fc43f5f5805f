"""Edges of Renyi accounting: orders next to 1 and far from it, ends of their range, blocks and tables of costs."""

import math
import sys

import numpy as np
import pytest

from expunge.accounting import RenyiFilter, StepCost, gdp_epsilon, privacy_loss, rdp_to_epsilon

COSTS = sys.modules["expunge.accounting.rdp.privacy_loss"]  # the function of this name hides its module
STEP = {"step_size": 0.1, "sampling_probability": 0.2, "batch_size": 2.0}


@pytest.mark.parametrize("mu", [1e-12, 1e-9, 1e-7, 1e4, 1e7, 1e12])
def test_the_best_order_is_found_however_far_from_the_first_ones(mu):
    def curve(order):
        return order * mu**2 / 2

    scale = math.sqrt(2 * math.log(1e5)) / mu
    orders = 1.0 + np.geomspace(0.01 * scale, 100 * scale, 4001)
    found = rdp_to_epsilon(curve, None, 1e-5)
    assert gdp_epsilon(mu, 1e-5) * (1 - 1e-12) <= found <= rdp_to_epsilon(curve(orders), orders, 1e-5) * (1 + 1e-5)


def test_orders_that_float64_cannot_tell_from_one_are_not_tried():
    # The best order is nearer to 1 than any number above it.
    found = rdp_to_epsilon(lambda order: 1e40 * (order - 1.0), None, 0.5)
    assert found == rdp_to_epsilon(1e40 * 2.0**-52, 1.0 + 2.0**-52, 0.5)


def test_a_divergence_that_never_grows_is_taken_at_the_largest_order():
    assert rdp_to_epsilon(lambda order: 0.5 + 0.0 * order, None, 1e-300) == pytest.approx(0.5, rel=1e-12)


def test_a_divergence_finite_next_to_one_alone_is_found():
    found = rdp_to_epsilon(lambda order: np.where(order < 1.0 + 2.0**-20, 1.0, np.inf), None, 1e-5)
    assert found < 2.0**21 * math.log(1e5) + 20.0


@pytest.mark.parametrize(("low", "high"), [(1.3, 5.0), (1.3, 1.35), (2.0, 3.0), (1.0 + 1e-12, 1.5), (40.0, 47.0)])
def test_a_range_of_orders_holds_its_ends(low, high):
    # Rising steeply, a divergence is best at the lowest order; not rising at all, at the highest.
    assert rdp_to_epsilon(lambda a: 1e30 * (a - 1.0), (low, high), 0.5) == pytest.approx(
        rdp_to_epsilon(1e30 * (low - 1.0), low, 0.5), rel=1e-9
    )
    assert rdp_to_epsilon(lambda a: 3.0 + 0.0 * a, (low, high), 1e-9) == pytest.approx(
        rdp_to_epsilon(3.0, high, 1e-9), rel=1e-9
    )
    tried = []
    rdp_to_epsilon(lambda a: tried.append(a) or 0.3 * a, (low, high), 1e-5)
    assert min(map(min, tried)) >= low
    assert max(map(max, tried)) <= high


@pytest.mark.parametrize("pair", [(3.0, 2.0), (2.0, 2.0), (2.0, 3.0, 4.0), (2.0,)])
def test_a_range_of_orders_is_a_pair_that_rises(pair):
    with pytest.raises(ValueError, match=r"^order must be None or a pair \(lowest, highest\)"):
        rdp_to_epsilon(lambda a: a, pair, 0.1)


def test_a_delta_whose_square_underflows_is_no_error():
    with np.errstate(all="raise"):
        assert rdp_to_epsilon(5e-324, 1.1, 1e-200) > 0.0
        assert rdp_to_epsilon(0.5, 2.0, [0.0, 1e-320, 1.0]).tolist()[::2] == [math.inf, 0.0]


def test_a_filter_refuses_deltas_out_of_range():
    keeper = RenyiFilter(2.0, 1.0, n_records=1, noise_std=1.0, **STEP)
    for delta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"^delta must be"):
            keeper.epsilon(delta=delta)
    assert keeper.epsilon(delta=1.0) == 0.0


def test_no_gradient_costs_nothing_even_without_noise():
    for rate in (1.0, 0.2, 0.0):
        with np.errstate(all="raise"):
            loss = privacy_loss(
                [[0.0, 0.0], [0.0, 1.0]], order=2.0, noise_std=0.0, steps=[0, 1], n_steps=2,
                **{**STEP, "sampling_probability": rate},
            )  # fmt: skip
        assert loss.tolist() == [0.0, math.inf if rate else 0.0]


@pytest.mark.parametrize("own", [False, True])
def test_blocks_of_norms_change_nothing(monkeypatch, own):
    rng = np.random.default_rng(0)
    norms, noise, width = rng.uniform(0, 3, (9, 4)), rng.uniform(0.1, 1, (9, 4)), rng.uniform(0.1, 1, (9, 4))
    steps = np.sort(rng.permuted(np.tile(np.arange(20), (9, 1)), axis=1)[:, :4], axis=1)
    setting = {"steps": steps, "noise_std": noise, "step_size": width}
    if not own:
        setting = {name: value[0] for name, value in setting.items()}
    arguments = {**STEP, **setting, "order": [2.0, 5.0], "n_steps": 20}
    whole = privacy_loss(norms, **arguments)
    for size in (1, 8, 12):
        monkeypatch.setattr(COSTS, "_BLOCK", size)
        np.testing.assert_array_equal(privacy_loss(norms, **arguments), whole)


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_a_table_stands_in_for_the_kernel_where_it_reaches_and_nowhere_else(direction):
    cost = StepCost(order=3.0, sampling_probability=0.1, direction=direction)
    norms = np.geomspace(1e-8, 1e4, 300)
    plain, table = cost(norms, noise_per_norm=1.0), cost.tabulate()(norms, noise_per_norm=1.0)
    inside = (1.0 / norms >= 0.05) & (1.0 / norms <= 1e6)
    np.testing.assert_allclose(table, plain, rtol=1e-8)
    np.testing.assert_array_equal(table[~inside], plain[~inside])
    assert (table != plain)[inside].mean() > 0.5


def test_many_norms_are_tabulated_without_being_told(monkeypatch):
    monkeypatch.setattr(COSTS, "_TABLE_FROM", 100)
    norms = np.geomspace(0.01, 10.0, 100)
    few, many = (StepCost(order=3.0, sampling_probability=0.1) for _ in range(2))
    plain, table = few(norms[:99], noise_per_norm=1.0), many(norms, noise_per_norm=1.0)
    assert (few._table is None, many._table is None) == (True, False)
    np.testing.assert_allclose(table[:99], plain, rtol=1e-8)
    np.testing.assert_array_equal(many(norms, noise_per_norm=1.0), table)
