"""Counts of unlearning steps at their edges: none, one, too many to count, and neighbours that rounding decides."""

import math
from fractions import Fraction

import numpy as np
import pytest

import oracles
from expunge.accounting import (
    compare_unlearning_steps,
    contraction_rdp,
    contraction_steps,
    fit_log_steps,
    langevin_steps,
    predict_steps,
)
from expunge.accounting.unlearning import langevin

CHAIN = {
    "delta": 1e-4, "smoothness": 2.0, "strong_convexity": 0.01, "lipschitz": 1.7, "sigma": 0.3, "n_records": 700,
    "group_size": 3, "step_size": 0.45,
}  # fmt: skip
STEPS = {"order": 2.0, "log_sobolev": 1.0, "contraction": 1.0}


def test_more_steps_than_float64_counts_are_infinitely_many():
    # At contraction 1 the steps are (100^2 - 1) / noise^2: 1e12, and 1e20, beyond 2^53.
    assert contraction_steps(10.0, target_rdp=0.1, noise_std=1e-4, **STEPS) == pytest.approx(9999e8, rel=1e-11)
    assert contraction_steps(10.0, target_rdp=0.1, noise_std=1e-8, **STEPS) == math.inf
    for sigma in (1e-7, 1e-9):
        with pytest.raises(ValueError, match=r"^sigma is too small for this target: it needs more than 2\^53 steps"):
            langevin_steps(epsilon=1e-9, **{**CHAIN, "sigma": sigma, "strong_convexity": 1e-9})


def test_rounding_that_leaves_no_room_is_refused(monkeypatch):
    monkeypatch.setattr(langevin, "_EPS", 0.1)
    with pytest.raises(ValueError, match=r"^epsilon is too small to be distinguished from the rounding"):
        langevin_steps(epsilon=1.0, **{**CHAIN, "step_size": 0.1})


def test_an_array_of_counts_holds_what_cannot_be_reached_beside_what_can():
    # An expanding map: the divergence has the limit 10 (1 + 1/1.25)^(-1/2).
    limit = 10 * 1.8**-0.5
    setting = {**STEPS, "contraction": 1.5, "noise_std": 1.0}
    found = contraction_steps(10.0, target_rdp=[0.99 * limit, 1.01 * limit, 0.0, 10.0, 20.0], **setting)
    assert found[[0, 2, 3, 4]].tolist() == [math.inf, math.inf, 0.0, 0.0]
    assert 1 <= found[1] < 20
    assert contraction_steps([math.inf, 0.0], target_rdp=0.0, **setting).tolist() == [math.inf, 0.0]
    assert contraction_rdp([math.inf, 0.0], n_steps=2, noise_std=1.0, **STEPS).tolist() == [[math.inf] * 3, [0.0] * 3]


def test_arrays_count_what_single_numbers_do():
    rng = np.random.default_rng(0)
    for slope in (1.3, 1.0, 0.999, 0.5):
        setting = {"log_sobolev": 0.5, "contraction": slope, "noise_std": 0.2}
        start, target, order = 10.0 ** rng.uniform(-2, 3, (3, 40))
        together = contraction_steps(start, target_rdp=target, order=1.0 + order, **setting)
        alone = [
            contraction_steps(float(s), target_rdp=float(t), order=1.0 + float(a), **setting)
            for s, t, a in zip(start, target, order, strict=True)
        ]
        assert together.tolist() == alone


def test_one_record_is_replaced_unless_more_are_named():
    setting = {name: value for name, value in CHAIN.items() if name != "group_size"}
    one, two = ({**setting, "group_size": size} for size in (1, 2))
    assert langevin_steps(epsilon=1.0, **setting) == langevin_steps(epsilon=1.0, **one)
    assert langevin_steps(epsilon=1.0, **setting) < langevin_steps(epsilon=1.0, **two)
    assert compare_unlearning_steps(epsilon=1.0, **setting) == compare_unlearning_steps(epsilon=1.0, **one)
    assert compare_unlearning_steps(epsilon=1.0, **setting) != compare_unlearning_steps(epsilon=1.0, **two)


@pytest.mark.parametrize("sigma", [0.3, 0.01])
@pytest.mark.parametrize("step_size", [0.45, 0.1])
def test_the_closed_form_loses_no_step_to_its_rounding(sigma, step_size):
    setting = {**CHAIN, "sigma": sigma, "step_size": step_size}
    plain = {name: value for name, value in setting.items() if name != "smoothness"}
    for steps in (3, 500, 4000, 100_000):
        epsilon = oracles.langevin_best_epsilon(steps, **plain) * (1 + 1e-10)
        if oracles.langevin_best_epsilon(steps - 1, **plain) > epsilon * (1 + 1e-10):
            assert langevin_steps(epsilon=epsilon, **setting) == steps


def test_the_comparison_repeats_its_target_and_says_that_it_is_certified():
    found = compare_unlearning_steps(epsilon=0.7, **CHAIN)
    assert (found.epsilon, found.delta, found.status) == (0.7, 1e-4, "certified")


def test_a_target_met_before_any_step_still_takes_one():
    found = compare_unlearning_steps(epsilon=50.0, **{**CHAIN, "sigma": 30.0})
    assert found.closed_form == found.contraction == found.shifted == 1
    c = 1 - CHAIN["strong_convexity"] * CHAIN["step_size"]
    shift = 2 * CHAIN["step_size"] * 3 * 1.7 / 700
    mu = shift / (math.sqrt(2 * CHAIN["step_size"]) * 30.0) * math.sqrt((1 + c) / (1 - c))
    assert found.shifted_mu == pytest.approx(mu, rel=1e-12)


def test_the_constant_of_a_chain_is_rounded_up():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        smooth = 10.0 ** rng.uniform(-3, 3)
        convex = smooth * min(10.0 ** rng.uniform(-6, 0.5), 1.0)
        changes = {"smoothness": smooth, "strong_convexity": convex, "step_size": min(1.0, 2 * rng.random()) / smooth}
        setting = langevin._Setting.of(epsilon=1.0, **{**CHAIN, **changes})
        contracted = 1 - Fraction(convex) * Fraction(changes["step_size"])
        exact = 1 / (1 - contracted**2)
        assert exact <= Fraction(setting.stationary) <= exact * (1 + 16 * Fraction(2.0**-52))


def test_contraction_of_a_chain_searches_its_order_closely():
    setting = {**CHAIN, "strong_convexity": 1e-7, "sigma": 2.0}
    found = compare_unlearning_steps(epsilon=10.0, **setting)
    assert found.contraction_order > 1.5
    assert 1e5 < found.contraction < math.inf
    product = Fraction(setting["strong_convexity"]) * Fraction(setting["step_size"])
    orders = 1.0 + (found.contraction_order - 1.0) * np.geomspace(0.9, 1.1, 4001)
    scale = 4 * (3 * 1.7 / 2.0 / 700) ** 2 / 1e-7
    steps = contraction_steps(
        scale * orders,
        order=orders,
        log_sobolev=float(1 / (1 - (1 - product) ** 2)),
        contraction=float(1 - product),
        noise_std=1.0,
        epsilon=10.0,
        delta=CHAIN["delta"],
    )
    assert found.contraction <= steps.min() * (1 + 1e-7)


def test_a_start_beyond_float64_is_not_contracted():
    with np.errstate(all="raise"):
        found = compare_unlearning_steps(epsilon=1.0, **{**CHAIN, "sigma": 1e-165})
    assert found.contraction == math.inf
    assert found.shifted < found.closed_form < math.inf


# --- a line through measured steps -----------------------------------------------------------------------------------


def test_intervals_of_a_fit_against_the_textbook():
    losses, taken = np.exp([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 4.0, 4.0, 9.0])
    fit = fit_log_steps(losses, taken, confidence=0.9)
    # By hand: mean 1.5, spread 5, slope 12/5, residual sum of squares 33 - 144/5; t(0.95, 2) = 2.919986.
    std, t = math.sqrt((33 - 144 / 5 + 0.0) / 2), 2.9199855803537
    half, centre = t * std / math.sqrt(5), t * std * math.sqrt(1 / 4 + 1.5**2 / 5)
    assert (fit.slope, fit.intercept) == (pytest.approx(2.4), pytest.approx(4.5 - 2.4 * 1.5))
    assert fit.slope_interval == (pytest.approx(2.4 - half), pytest.approx(2.4 + half))
    assert fit.intercept_interval == (pytest.approx(0.9 - centre), pytest.approx(0.9 + centre))
    assert (fit.residual_std, fit.n) == (pytest.approx(std), 4)
    assert (fit.mean_log, fit.spread_log) == (pytest.approx(1.5), pytest.approx(5.0))
    assert (fit.confidence, fit.r_squared) == (0.9, pytest.approx(1 - (33 - 144 / 5) / 33))
    low, high = fit.prediction_interval(math.exp(4.0))
    wide = t * std * math.sqrt(1 + 1 / 4 + 2.5**2 / 5)
    assert (low, high) == (pytest.approx(0.9 + 9.6 - wide), pytest.approx(0.9 + 9.6 + wide))
    # Steps are never fewer than none.
    assert [float(end) for end in fit.prediction_interval(math.exp(-40.0))] == [0.0, 0.0]
    assert fit.predict([math.exp(-40.0), math.inf]).tolist() == [0.0, math.inf]
    assert fit.status == low.status == high.status == "estimate"


def test_a_fit_in_words_names_slope_points_and_interval():
    fit = fit_log_steps(np.exp([0.0, 1.0, 2.0, 3.0]), [1.0, 4.0, 4.0, 9.0], confidence=0.5)
    low, high = fit.slope_interval
    assert low > 0.0
    assert fit.summary() == (
        f"steps = 2.4 log(privacy loss) + 0.9 from 4 points (slope {low:.4g} to {high:.4g} at 50%, R^2 0.873); estimate"
    )
    falling = fit_log_steps(np.exp([0.0, 1.0, 2.0, 3.0]), [9.0, 4.0, 4.0, 1.0], confidence=0.5).summary()
    assert "no dependence" not in falling
    assert fit.to_dict()["slope"] == fit.slope


def test_privacy_losses_that_differ_by_rounding_are_flat():
    with pytest.raises(ValueError, match=r"^privacy_loss is flat"):
        fit_log_steps([2.0, 2.0 * (1 + 1e-10), 2.0], [1.0, 2.0, 3.0])
    assert fit_log_steps([2.0, 2.0 * (1 + 1e-6), 2.0], [1.0, 2.0, 3.0]).n == 3
    assert fit_log_steps([1.0, 1 + 3.2e-9, 1.0], [1.0, 2.0, 3.0]).n == 3
    assert "+ 0 from 3 points" in fit_log_steps([1.0, 2.0, 4.0], [0.0, 0.0, 0.0]).summary()


def test_predictions_of_a_target_in_epsilon_and_delta_are_the_contraction_steps():
    setting = {**STEPS, "noise_std": 0.3, "epsilon": 2.0, "delta": 1e-3}
    losses = [0.01, 5.0, 400.0]
    assert predict_steps(losses, **setting).tolist() == contraction_steps(losses, **setting).tolist()
