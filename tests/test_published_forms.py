"""Published closed forms: every kind of published number is reproduced, and what is certified beside it holds."""

import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.accounting import (
    clipped,
    compare_unlearning_steps,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    published,
    shifted_mu,
)

PAIRS = json.loads((Path(__file__).parent / "golden" / "published_forms.json").read_text())["pairs"]


def of_kind(start):
    found = [pair for pair in PAIRS if pair["quantity"].startswith(start)]
    assert found, start
    return found


def losses(config):
    return {
        "smoothness": config["L"],
        "strong_convexity": config["m"],
        "lipschitz": config["M"],
        "n_records": config["n"],
        "step_size": config["eta"],
    }


def langevin(config):
    return losses(config) | {"delta": config["delta"]}


def orders(config):
    return {"orders": tuple(config.get("alpha_bounds", (1.0, 1e4)))}


def steps_of(config, **change):
    given_ = {"epsilon": config.get("eps"), "sigma": config.get("sigma"), "group_size": config.get("S")} | change
    return published.langevin_steps(**langevin(config), **orders(config), step_grid=config["K_step"], **given_)


@pytest.mark.parametrize("pair", of_kind("K"), ids=lambda pair: pair["quantity"])
def test_published_langevin_steps(pair):
    config, value = pair["config"], pair["value"]
    if pair["quantity"].startswith("K(S)"):
        assert [steps_of(config, group_size=size).value for size in config["S"]] == value
    elif pair["quantity"].startswith("K(eps)"):
        assert [steps_of(config, epsilon=epsilon).value for epsilon in config["eps"]] == value
    else:
        assert steps_of(config).value == value


@pytest.mark.parametrize("pair", of_kind("alpha*"))
def test_published_orders(pair):
    assert steps_of(pair["config"]).order == pytest.approx(pair["value"], rel=1e-6)


def test_published_epsilon_of_learning_alone():
    for pair in of_kind("eps0 as"):
        config = pair["config"]
        found = [
            published.langevin_epsilon(**langevin(config), sigma=sigma, group_size=config["S"]).value
            for sigma in config["sigma"]
        ]
        assert found == pytest.approx(pair["value"], rel=1e-12)


def test_published_divergence_at_the_best_order():
    for pair in of_kind("eps0 = RDP"):
        config = pair["config"]
        for sigma, value in zip(config["sigma"], pair["value"], strict=True):
            best = published.langevin_steps(
                **langevin(config), epsilon=config["eps"], sigma=sigma, group_size=config["S"], step_grid=10
            )
            found = published.langevin_divergence(
                **losses(config), order=best.order, sigma=sigma, group_size=config["S"]
            )
            assert found.value == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("pair", of_kind("sequential K (index"), ids=lambda pair: pair["config"]["dataset"])
def test_published_sequences_of_langevin_steps(pair):
    config = pair["config"]
    found = published.langevin_sequence(
        **langevin(config),
        **orders(config),
        n_requests=len(pair["value"]) - 1,
        epsilon=config["eps"],
        sigma=config["sigma"],
        group_size=config["S_per_request"],
    )
    assert [0, *found.value] == pair["value"]


@pytest.mark.parametrize("pair", of_kind("sequential K in epochs"))
def test_published_sequences_of_epochs(pair):
    config = pair["config"]
    found = published.sgd_epochs(
        **langevin(config),
        n_requests=len(pair["value"]) - 1,
        epsilon=config["eps"],
        sigma=config["sigma"],
        batch_size=config["b"],
        variant={"checked-in": "published", "legacy": "tight"}[config["variant"]],
    )
    assert [0, *found.value] == pair["value"]
    assert all(ours <= theirs for ours, theirs in zip(found.certified[:1], found.value[:1], strict=True))


@pytest.mark.parametrize("pair", of_kind("sigma for k=1"))
def test_published_noise_of_one_epoch(pair):
    config = pair["config"]
    n, m = config["n"], 1e-6 * config["n"]
    found = published.sgd_sigma(
        epsilon=config["eps"],
        delta=1 / n,
        smoothness=0.25 + m,
        strong_convexity=m,
        lipschitz=1.0,
        n_records=n,
        batch_size=config["b"],
        step_size=1 / (0.25 + m),
    )
    for value in pair["value"].values():
        assert found.value == pytest.approx(value, rel=1e-6)  # their search ends there
    assert found.certified < found.value


def descent(config):
    return {"smoothness": config["L"], "strong_convexity": config["m"], "delta": config["delta"]}


def test_published_noise_of_descent_to_delete():
    for pair in of_kind("D2D output sigma"):
        config = pair["config"]
        found = published.descent_to_delete_sigma(
            **descent(config),
            n_steps=config["I"],
            epsilon=config["eps"],
            lipschitz=config["M"],
            n_records=config["n"],
        )
        assert found.value == pytest.approx(pair["value"], rel=1e-12)
        assert found.certified < found.value


def test_published_steps_of_descent_to_delete():
    for pair in of_kind("D2D steps"):
        config = pair["config"]
        found = published.descent_to_delete_steps(
            **descent(config),
            n_requests=len(pair["value"]),
            epsilon=config["eps"],
            n_parameters=config["d"],
            factor=config["I_factor"],
        )
        assert list(found.value) == pair["value"]


def test_published_epsilon_of_clipped_fine_tuning():
    for pair in of_kind("(eps,1e-5) printed"):
        config, value = pair["config"], pair["value"]
        found = published.noisy_clipping_epsilon(renyi_target=config["eps_renyi"], delta=config["delta"])
        assert found.value == pytest.approx(value["code"], rel=1e-12)
        assert found.certified == pytest.approx(value["exact_gaussian_with_weight_decay"], rel=1e-12)
        without = published.noisy_clipping_epsilon(
            renyi_target=config["eps_renyi"], delta=config["delta"], weight_decay=False
        )
        assert without.value == found.value
        assert without.certified == pytest.approx(value["exact_gaussian_without"], rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_printed_epsilon_needs_more_noise(decay):
    run = {"initial_bound": 1.0, "clip": 0.1, "step_size": 0.1, "weight_decay": decay, "n_steps": 40}
    found = published.noisy_clipping_sigma(renyi_target=1.0, delta=1e-5, **run)
    assert found.certified > 4 * found.value
    mu = clipped.mu(**run, noise_std=found.value)
    assert mu == pytest.approx(math.sqrt(4.0 if decay == 0.0 else 2.0), rel=1e-12)
    true = published.noisy_clipping_epsilon(renyi_target=1.0, delta=1e-5, weight_decay=decay > 0.0)
    assert gdp_epsilon(mu, 1e-5) == pytest.approx(true.certified, rel=1e-9)


def test_published_budget_of_removal():
    for pair in of_kind("residual budget"):
        config = pair["config"]
        found = published.removal_budget(sigma=config["sigma"], epsilon=config["eps"], delta=config["delta"])
        assert found.value == pytest.approx(pair["value"], rel=1e-12)
        assert gdp_delta(found.certified / config["sigma"], config["eps"]) <= config["delta"]
        assert gdp_delta(found.certified / config["sigma"] * (1 + 1e-9), config["eps"]) > config["delta"]


# --- what is certified beside them -----------------------------------------------------------------------------------


def powers(low, high):
    return st.floats(low, high).map(lambda e: 10.0**e)


@st.composite
def settings_of_losses(draw):
    smooth = draw(powers(-2, 2))
    return {
        "smoothness": smooth,
        "strong_convexity": smooth * draw(powers(-3, -0.05)),
        "lipschitz": draw(powers(-1, 1)),
        "n_records": draw(st.integers(2, 10**5)),
        "step_size": draw(st.floats(0.05, 1.0)) / smooth,
    }


@given(settings_of_losses(), powers(-3, 1), powers(-9, -0.5), st.integers(0, 2000))
def test_certified_epsilon_of_langevin_is_that_of_shifted_interpolation(setting, sigma, delta, steps):
    found = published.langevin_epsilon(**setting, sigma=sigma, delta=delta, n_steps=steps)
    with mpmath.workdps(50):
        m, eta, n = (mpmath.mpf(setting[name]) for name in ("strong_convexity", "step_size", "n_records"))
        c = 1 - m * eta
        shift = 2 * eta * mpmath.mpf(setting["lipschitz"]) / n
        noise = mpmath.sqrt(2 * eta) * mpmath.mpf(sigma)
        start = shift / noise * mpmath.sqrt((1 + c) / (1 - c))
        low, high = float(start * c**steps), float(start * mpmath.exp(-steps * (1 - c)))
    assert found.certified >= gdp_epsilon(low * (1 - 1e-15), delta)
    assert found.certified <= gdp_epsilon(high * (1 + 1e-12), delta)
    assert found.certified <= found.value * (1 + 1e-12)


@given(settings_of_losses(), powers(-3, 1), powers(-9, -0.5), powers(-2, 1), st.integers(1, 5), st.data())
def test_certified_epochs_suffice_and_one_less_does_not(setting, sigma, delta, epsilon, requests, data):
    batch = data.draw(st.integers(1, setting["n_records"]))
    found = published.sgd_epochs(
        **setting, sigma=sigma, delta=delta, epsilon=epsilon, batch_size=batch, n_requests=requests
    )
    batches = setting["n_records"] // batch
    with mpmath.workdps(50):
        m, eta = mpmath.mpf(setting["strong_convexity"]), mpmath.mpf(setting["step_size"])
        c = 1 - m * eta
        first = 2 * eta * mpmath.mpf(setting["lipschitz"]) / (batch * (1 - c**batches))
        spread = 2 * eta * mpmath.mpf(sigma) ** 2

        def mu_after(distance, epochs):
            return mpmath.sqrt(distance**2 / spread * (1 - c**2) / (c ** (-2 * epochs * batches) - 1))

        distance = mpmath.mpf(0)
        for index, epochs in enumerate(found.certified):
            carried = c ** (found.certified[index - 1] * batches) if index else 0
            distance = distance * carried + first
            assert gdp_delta(float(mu_after(distance, epochs)), epsilon) <= delta * (1 + 1e-9)
            if epochs > 1:
                assert gdp_delta(float(mu_after(distance, epochs - 1)) * (1 + 1e-9), epsilon) >= delta * (1 - 1e-6)
    assert found.certified[0] <= found.value[0]


def test_certified_noise_is_rounded_up_where_a_step_leaves_next_to_nothing():
    """Where step_size m is nearly 1 its rounding decides; where decay leaves less than float64 holds, it is not 0."""
    base = {"epsilon": 1.0, "delta": 1e-5, "smoothness": 3.0, "lipschitz": 1.0, "n_records": 10}
    for convex, epochs in ((3.0 * (1 - 1e-13), 2), (3.0 * (1 - 3e-15), 1), (2.9, 1000), (1.0, 50)):
        given_ = {**base, "strong_convexity": convex, "step_size": 1 / 3.0}
        found = published.sgd_sigma(**given_, batch_size=5, epochs=epochs)
        released = published.descent_to_delete_sigma(**base, strong_convexity=convex, n_steps=epochs)
        mu = gdp_mu(1.0, 1e-5)
        with mpmath.workdps(2000):
            m, eta = mpmath.mpf(convex), mpmath.mpf(1 / 3.0)
            c, gamma = 1 - m * eta, (3 - m) / (3 + m)
            apart = 2 * eta / (5 * (1 - c**2))
            true = apart / mpmath.sqrt(2 * eta) * mpmath.sqrt((1 - c**2) / (c ** (-4 * epochs) - 1)) / mu
            assert found.certified >= true
            assert released.certified >= 8 * gamma**epochs / (m * 10 * (1 - gamma**epochs)) / mu
        assert 0.0 < found.certified < 1.0
        assert 0.0 < released.certified < 10.0


def test_certified_epochs_by_brute_force():
    """Both runs step by step in one dimension, gradients apart as far as they may: the exact law keeps the claim."""
    n, batch, eta, m, bound, sigma = 12, 4, 0.5, 0.2, 1.0, 1.5
    found = published.sgd_epochs(
        epsilon=0.5,
        delta=1e-3,
        smoothness=1.0,
        strong_convexity=m,
        lipschitz=bound,
        sigma=sigma,
        n_records=n,
        batch_size=batch,
        step_size=eta,
    )
    c, noise = 1 - eta * m, math.sqrt(2 * eta) * sigma
    apart = 0.0
    for step in range(3000):
        apart = c * apart + (2 * eta * bound / batch if step % (n // batch) == n // batch - 1 else 0.0)
    steps = found.certified[0] * n // batch
    shifts = np.r_[apart, np.zeros(steps)]
    mu = shifted_mu(shifts, np.r_[1.0, np.full(steps, c)], np.r_[0.0, np.full(steps, noise)])
    assert gdp_delta(float(mu), 0.5) <= 1e-3
    assert found.certified[0] <= found.value[0]


def test_measured_gains_of_exact_gaussian_dp():
    n, m = 11264, 1e-6 * 11264
    base = {
        "delta": 1 / n,
        "smoothness": 0.25 + m,
        "strong_convexity": m,
        "lipschitz": 1.0,
        "n_records": n,
        "step_size": 1 / (0.25 + m),
    }
    for sigma, theirs, ours in ((0.01, 133, 77), (0.1, 81, 26), (0.5, 45, 4)):
        found = published.sgd_epochs(**base, epsilon=0.01, sigma=sigma, batch_size=n)
        assert (found.value, found.certified) == ((theirs,), (ours,))


def test_langevin_steps_agree_with_the_certified_closed_form():
    n, m = 11982, 1e-6 * 11982
    setting = {
        "epsilon": 1.0,
        "delta": 1 / n,
        "smoothness": 0.25 + m,
        "strong_convexity": m,
        "lipschitz": 1.0,
        "sigma": 0.05,
        "n_records": n,
        "group_size": 100,
        "step_size": 1 / (0.25 + m),
    }
    known = compare_unlearning_steps(**setting)
    found = published.langevin_steps(**setting, orders=(1.0, math.inf))
    assert (found.value, found.certified) == (known.closed_form, known.shifted)
    assert published.langevin_epsilon(
        **{k: v for k, v in setting.items() if k != "epsilon"}
    ).certified == pytest.approx(gdp_epsilon(known.shifted_mu, 1 / n), rel=1e-12)


# --- arguments -------------------------------------------------------------------------------------------------------

GOOD = {
    "epsilon": 1.0,
    "delta": 1e-4,
    "smoothness": 1.0,
    "strong_convexity": 0.1,
    "lipschitz": 1.0,
    "sigma": 0.1,
    "n_records": 100,
    "step_size": 0.5,
}


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("call", [published.langevin_steps, published.langevin_sequence, published.sgd_epochs])
@pytest.mark.parametrize("bad", [math.nan, 0, -1])
def test_bad_arguments_are_named(call, name, bad):
    more = {published.langevin_sequence: {"n_requests": 2}, published.sgd_epochs: {"batch_size": 10}}.get(call, {})
    with pytest.raises((ValueError, TypeError), match=name):
        call(**{**GOOD, name: bad}, **more)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="group_size must be at most"):
        published.langevin_steps(**GOOD, group_size=101)
    with pytest.raises(ValueError, match="batch_size must be at most"):
        published.sgd_epochs(**GOOD, batch_size=101)
    with pytest.raises(ValueError, match="strong_convexity must be at most"):
        published.langevin_steps(**{**GOOD, "strong_convexity": 2.0})
    with pytest.raises(ValueError, match="step_size must be at most"):
        published.langevin_steps(**{**GOOD, "step_size": 1.5})
    with pytest.raises(ValueError, match="one step would forget everything"):
        published.sgd_epochs(**{**GOOD, "strong_convexity": 1.0, "step_size": 1.0}, batch_size=10)
    with pytest.raises(TypeError, match="orders must be a pair"):
        published.langevin_steps(**GOOD, orders=3.0)
    with pytest.raises(ValueError, match="orders"):
        published.langevin_steps(**GOOD, orders=(5.0, 2.0))
    with pytest.raises(ValueError, match="more than 2\\^53"):
        # No order up to 2 reaches an epsilon below log(1/delta).
        published.langevin_steps(**GOOD, orders=(1.0, 2.0))
    with pytest.raises(ValueError, match="variant"):
        published.sgd_epochs(**GOOD, batch_size=10, variant="other")
    with pytest.raises(ValueError, match="strong_convexity must be below"):
        published.descent_to_delete_sigma(
            n_steps=1, epsilon=1.0, delta=0.1, smoothness=1.0, strong_convexity=1.0, lipschitz=1.0, n_records=3
        )


def test_a_published_number_says_that_it_is_no_guarantee():
    found = published.removal_residual(n_removed=1, removed_norm=1.0, data_norm=2.0)
    assert found.status == "published"
    assert found.certified is None
    assert found.caveat
    assert found.source
    assert found.adjacency
