"""Answers at the edges of the accounting: ties and shares, blocks of work, shapes, devices, labels."""

import math

import numpy as np
import pytest
import scipy.stats

from emulated import DEVICES, host, put
from expunge.accounting import (
    StepCost,
    assumed_noise_privacy_loss,
    composition_rdp,
    contraction_rdp,
    contraction_steps,
    gdp_delta,
    noise_sensitivity,
    rdp_to_epsilon,
    weak_triangle_rdp,
)
from expunge.accounting.rdp import composition, privacy_loss

STEP = {"step_size": 0.1, "sampling_probability": 0.5, "batch_size": 2.0}
RARE = {**STEP, "sampling_probability": 0.01}
LEVELS = [0.05, 0.4, 20.0]


def sensitivity(norms, **given):
    steps = np.arange(norms.shape[1])
    setting = {"order": 8.0, **RARE, "steps": steps, "n_steps": steps.size, "noise_levels": LEVELS, **given}
    return noise_sensitivity(norms, **setting)


# --- assumed noise ---------------------------------------------------------------------------------------------------


def test_rankings_at_levels_of_noise_are_those_of_the_losses_there():
    # A few large norms against many small ones: which of them costs more depends on the noise.
    rng = np.random.default_rng(0)
    once = np.where(np.arange(6) == 2, rng.uniform(8, 10, (25, 1)), 0.0)
    norms = np.where(np.arange(25)[:, None] % 2, once, rng.uniform(3.5, 4.2, (25, 6)))
    found = sensitivity(norms, top=[0.1, 0.3])
    losses = np.array([
        privacy_loss(norms, order=8.0, noise_std=level, steps=np.arange(6), n_steps=6, **RARE) for level in LEVELS
    ])  # fmt: skip
    np.testing.assert_array_equal(found.loss, losses)
    truth = scipy.stats.spearmanr(losses, axis=1).statistic
    assert truth.min() < 0.99
    np.testing.assert_allclose(found.spearman, truth, rtol=1e-12)
    # Half a record counts as one: 0.1 of 25 are three, 0.3 of 25 eight.
    for overlap, size in zip(found.top_overlap, (3, 8), strict=True):
        heads = [set(np.argsort(-row)[:size]) for row in losses]
        expected = [[len(one & other) / size for other in heads] for one in heads]
        np.testing.assert_allclose(overlap, expected, rtol=1e-12)
    assert found.top_overlap.min() < 1.0
    assert found.top == (0.1, 0.3)
    assert found.noise_levels.tolist() == LEVELS
    assert found.loss.status == "estimate"
    assert f"at least {truth.min():.3f}." in found.summary()
    assert f"Of the top 0.1 at one level, at least {found.top_overlap[0].min():.3f}" in found.summary()
    assert "from 0.05 to 20." in found.summary()


def test_the_top_are_a_hundredth_and_a_tenth_unless_others_are_asked_for():
    found = sensitivity(np.random.default_rng(1).uniform(0, 2, (40, 2)))
    assert found.top == (0.01, 0.1)
    # At least one record: a hundredth of 40 is none.
    assert np.diag(found.top_overlap[0]).tolist() == [1.0, 1.0, 1.0]


def test_ties_at_one_level_leave_no_ranking_to_compare():
    # So much noise that all losses underflow to 0; at the other level they differ.
    norms = np.array([[1.0], [2.0]])
    found = sensitivity(norms, sampling_probability=1.0, noise_levels=[1.0, 1e300], top=0.5)
    assert found.loss[1].tolist() == [0.0, 0.0]
    assert found.spearman[0, 0] == pytest.approx(1.0)
    assert np.isnan(found.spearman[1]).all()
    assert "all records tie" in found.summary()
    assert "Rank correlation" not in found.summary()
    assert "Rank correlation" in sensitivity(norms, top=0.5).summary()


def test_a_noise_is_assumed_or_given_but_not_both():
    norms, setting = [[1.0]], {"order": 2.0, **STEP, "steps": [0], "n_steps": 1}
    with pytest.raises(TypeError, match=r"^noise_std must not be given"):
        assumed_noise_privacy_loss(norms, assumed_noise_std=1.0, noise_std=1.0, **setting)
    found = assumed_noise_privacy_loss(norms, assumed_noise_std=0.5, **setting)
    assert found.assumed_noise_std == 0.5
    assert found.status == "estimate under an assumed noise"
    assert found.loss == privacy_loss(norms, noise_std=0.5, **setting)


# --- composition -----------------------------------------------------------------------------------------------------


def runs(seed=3, size=(5, 4, 3)):
    return np.random.default_rng(seed).uniform(0, 2, size)


RUN = {"order": 2.0, "noise_std": 1.0, "l2_bound": 2.0, **STEP}


def test_the_work_of_a_composition_is_done_in_blocks_that_change_nothing(monkeypatch):
    norms, setting = runs(), {**RUN, "steps": [0, 2, 5], "n_steps": 7}
    whole = composition_rdp(norms, **setting)
    for size in (1, 5 * 7 * 2, 5 * 7 * 3):
        monkeypatch.setattr(composition, "_BLOCK", size)
        parts = composition_rdp(norms, **setting)
        np.testing.assert_allclose(parts.rdp, whole.rdp, rtol=1e-13)
        np.testing.assert_array_equal(parts.p, whole.p)


@pytest.mark.parametrize("own", [False, True])
def test_norms_between_the_steps_taken_are_on_the_line_between_them(own):
    norms = runs(size=(5, 2, 3))
    steps = np.array([[0, 2, 5], [1, 4, 6]]) if own else np.array([[0, 2, 5]] * 2)
    every = np.array([[np.interp(np.arange(7), at, row) for at, row in zip(steps, run, strict=True)] for run in norms])
    expected = composition_rdp(every, **RUN)
    given = np.broadcast_to(steps, norms.shape) if own else steps[0]
    found = composition_rdp(norms, steps=given, n_steps=7, **RUN)
    np.testing.assert_allclose(found.rdp, expected.rdp, rtol=1e-13)
    one = composition_rdp(norms[:, 0], steps=steps[0], n_steps=7, **RUN)
    assert float(one.rdp) == pytest.approx(float(expected.rdp[0]), rel=1e-13)


@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_the_exponent_reported_is_the_one_that_gave_the_bound(direction):
    norms = runs(size=(6, 5, 8)) * np.geomspace(0.05, 1.0, 5)[:, None]
    found = composition_rdp(norms, direction=direction, **{**RUN, "noise_std": 0.1})
    assert len(set(found.p)) > 1
    for i, p in enumerate(found.p):
        alone = composition_rdp(norms[:, i], direction=direction, p=float(p), **{**RUN, "noise_std": 0.1})
        assert float(alone.rdp) == pytest.approx(float(found.rdp[i]), rel=1e-13)
    both = composition_rdp(norms, **{**RUN, "noise_std": 0.1})
    assert (both.rdp >= found.rdp * (1 - 1e-13)).all()
    assert (both.n_runs, both.order, both.direction) == (6, 2.0, "both")


def test_the_larger_direction_gives_the_exponent_of_both():
    norms = runs(size=(6, 5, 8)) * np.geomspace(0.05, 1.0, 5)[:, None]
    pq, qp, both = (composition_rdp(norms, direction=d, **{**RUN, "noise_std": 0.1}) for d in ("pq", "qp", "both"))
    np.testing.assert_array_equal(both.rdp, np.maximum(pq.rdp, qp.rdp))
    np.testing.assert_array_equal(both.p, np.where(qp.rdp >= pq.rdp, qp.p, pq.p))
    assert len({tuple(pq.p), tuple(qp.p)}) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_steps": 7}, "^n_steps must be given with steps only"),
        ({"steps": [0, 2, 5]}, "^n_steps must be given with steps, got None"),
        ({"steps": [0, 2], "n_steps": 7}, r"^steps must have shape \(3,\) or that of grad_norms \(5, 4, 3\)"),
        ({"steps": [0, 2, 7], "n_steps": 7}, r"^steps must be strictly increasing within \[0, 7\)"),
        ({"steps": np.full((5, 4, 3), 9), "n_steps": 7}, r"^steps must be increasing along each row"),
    ],
)
def test_steps_of_runs_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        composition_rdp(runs(), **RUN, **given)


def test_orders_beyond_float64_bound_nothing():
    # Each step multiplies the order by p / (p - 1): close to exponent 1 it overflows, and the bound with it.
    found = composition_rdp(np.ones((3, 40)), p=1.0 + 1e-9, **{**RUN, "sampling_probability": 1.0})
    assert float(found.rdp) == math.inf


# --- shapes and devices ----------------------------------------------------------------------------------------------


def test_shapes_that_do_not_broadcast_are_named():
    two, three = [2.0, 2.0], [2.0, 2.0, 2.0]
    setting = {"contraction": 0.9, "noise_std": 0.3, "target_rdp": 0.1}
    for function, arguments, message in [
        (weak_triangle_rdp, {"rdp_pr": two, "rdp_rq": three, "order": 2.0}, "rdp_pr, rdp_rq and order"),
        (gdp_delta, {"mu": two, "epsilon": three}, "mu and epsilon"),
        (rdp_to_epsilon, {"rdp": two, "order": three, "delta": 0.1}, "rdp, order and delta"),
        (contraction_steps, {"rdp": two, "order": three, "log_sobolev": 1.0, **setting}, "rdp, order, log_sobolev and"),
    ]:
        with pytest.raises(ValueError, match=rf"^{message}.* must broadcast together, got"):
            function(**arguments)


@pytest.mark.parametrize("device", [device for device in DEVICES if device != "cpu"])
def test_a_device_takes_float64_and_numbers_beside_it(device):
    mu = np.array([0.5, 1.0])
    np.testing.assert_allclose(host(gdp_delta(put(mu, device), 1)), gdp_delta(mu, 1.0), rtol=1e-12)
    with pytest.raises(TypeError, match=r"^mu must have dtype float64 on a device, got float32"):
        gdp_delta(put(mu, device, np.float32), 1.0)


# --- the scale of costs ----------------------------------------------------------------------------------------------


def test_a_table_of_costs_is_the_cost_itself():
    norms = np.geomspace(1e-9, 1e9, 400)
    plain = StepCost(order=4.0, sampling_probability=0.1)(norms, noise_per_norm=1.0)
    table = StepCost(order=4.0, sampling_probability=0.1).tabulate()(norms, noise_per_norm=1.0)
    np.testing.assert_allclose(table, plain, rtol=1e-8)
    assert (table != plain).any()


def test_constants_before_each_step_are_used_as_they_are():
    setting = {"order": 2.0, "contraction": 1.0, "noise_std": 1.0}
    found = contraction_rdp(1.0, log_sobolev=[1.0, 3.0], **setting)
    # 1 + 1/1, then 1 + 1/3.
    np.testing.assert_allclose(found, [1.0, 2**-0.5, (2 * 4 / 3) ** -0.5], rtol=1e-14)
