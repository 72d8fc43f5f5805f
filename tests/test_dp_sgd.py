"""Accounts of noisy clipped training: against the laws of full batches, and what dp-accounting says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.accounting import dp_sgd_epsilon, dp_sgd_mu, dp_sgd_noise_multiplier, gdp_delta, sampled_gaussian_rdp

# Noise multiplier, rate, steps, delta; epsilons of dp-accounting 0.6.0: Renyi (of orders 1.1 .. 512) and its
# privacy loss distribution.
PUBLISHED = [
    ((40.0, 1.0, 100, 1e-5), 1.0125506277526433, 0.9263415237343752),
    ((20.0, 1.0, 50, 1e-6), 1.660619199257741, 1.5436304659798379),
    ((1.0, 0.01, 1000, 1e-5), 2.101366525420273, 1.8282436455855091),
    ((0.8, 0.02, 500, 1e-6), 6.164547278809124, 5.440307848454933),
    ((2.0, 0.1, 300, 1e-5), 4.5643015637536575, 4.183304660257017),
    ((5.0, 0.5, 50, 1e-4), 2.887331534488256, 2.6069590551344453),
]


@pytest.mark.parametrize(("setting", "renyi", "distribution"), PUBLISHED)
def test_epsilons_are_those_of_dp_accounting(setting, renyi, distribution):
    multiplier, rate, steps, delta = setting
    found = dp_sgd_epsilon(noise_multiplier=multiplier, delta=delta, sampling_probability=rate, n_steps=steps)
    if rate == 1.0:
        assert found == pytest.approx(distribution, rel=1e-6)
    else:
        assert distribution < found <= renyi  # a continuum of orders
        assert found == pytest.approx(renyi, rel=1e-3)


@pytest.mark.parametrize(("setting", "renyi", "distribution"), PUBLISHED)
def test_loss_distributions_are_those_of_dp_accounting(setting, renyi, distribution):
    pytest.importorskip("dp_accounting", reason='accountant="pld" needs expunge[dp]', exc_type=ImportError)
    multiplier, rate, steps, delta = setting
    given = {"delta": delta, "sampling_probability": rate, "n_steps": steps, "accountant": "pld"}
    assert dp_sgd_epsilon(noise_multiplier=multiplier, **given) == pytest.approx(distribution, rel=1e-6)
    joint = dp_sgd_epsilon(noise_multiplier=multiplier, mu=0.3, **given)
    assert distribution < joint <= dp_sgd_epsilon(noise_multiplier=multiplier, mu=0.3, **{**given, "accountant": "rdp"})


def test_the_noise_of_loss_distributions_is_less():
    pytest.importorskip("dp_accounting", reason='accountant="pld" needs expunge[dp]', exc_type=ImportError)
    given = {"sampling_probability": 0.05, "n_steps": 60}
    least = dp_sgd_noise_multiplier(epsilon=2.0, delta=1e-5, accountant="pld", **given)
    assert 0.8 < least / dp_sgd_noise_multiplier(epsilon=2.0, delta=1e-5, **given) < 0.99
    epsilon = dp_sgd_epsilon(noise_multiplier=least, delta=1e-5, accountant="pld", **given)
    assert 2.0 * (1 - 1e-3) <= epsilon <= 2.0


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 1e4), st.integers(1, 10**6), st.floats(0.0, 5.0))
def test_full_batches_have_the_mu_of_all_their_steps(multiplier, steps, mu):
    found = dp_sgd_mu(noise_multiplier=multiplier, n_steps=steps, mu=mu)
    exact = np.sqrt(np.longdouble(steps) / np.longdouble(multiplier) ** 2 + np.longdouble(mu) ** 2)
    assert exact <= found <= exact * (1 + 1e-14)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 20.0), st.floats(1e-9, 0.1), st.sampled_from([1e-3, 0.02, 0.4, 1.0]), st.integers(1, 5000))
def test_the_least_noise_keeps_the_claim_and_less_does_not(epsilon, delta, rate, steps):
    found = dp_sgd_noise_multiplier(epsilon=epsilon, delta=delta, sampling_probability=rate, n_steps=steps)
    given = {"delta": delta, "sampling_probability": rate, "n_steps": steps}
    assert dp_sgd_epsilon(noise_multiplier=found, **given) <= epsilon
    assert dp_sgd_epsilon(noise_multiplier=found * (1 - 1e-6), **given) > epsilon


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 5.0), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 300), st.floats(0.0, 2.0))
def test_what_else_is_released_costs_more(multiplier, rate, steps, mu):
    given = {"delta": 1e-6, "sampling_probability": rate, "n_steps": steps}
    alone, joint = (
        dp_sgd_epsilon(noise_multiplier=multiplier, **given),
        dp_sgd_epsilon(noise_multiplier=multiplier, mu=mu, **given),
    )
    assert joint >= alone
    if rate < 1.0 and mu > 0.0:
        # At any order the divergences add up, and no choice of the order is below.
        order = 8.0
        both = steps * sampled_gaussian_rdp(order, multiplier, rate) + order * mu**2 / 2
        assert joint <= both + np.log(1 - 1 / order) - (np.log(1e-6) + np.log(order)) / (order - 1) + 1e-9 or (
            joint
            <= dp_sgd_epsilon(noise_multiplier=multiplier, delta=1e-6, sampling_probability=1.0, n_steps=steps, mu=mu)
        )


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 5.0), st.floats(0.0, 1.0), st.integers(1, 50), st.floats(0.0, 1.0))
def test_sampling_never_costs_more_than_full_batches(multiplier, rate, steps, mu):
    given = {"delta": 1e-3, "n_steps": steps, "mu": mu}
    sampled = dp_sgd_epsilon(noise_multiplier=multiplier, sampling_probability=rate, **given)
    assert sampled <= dp_sgd_epsilon(noise_multiplier=multiplier, sampling_probability=1.0, **given)


def test_edges():
    given = {"sampling_probability": 1.0, "n_steps": 4}
    assert dp_sgd_epsilon(noise_multiplier=1.0, delta=0.0, **given) == np.inf
    assert dp_sgd_epsilon(noise_multiplier=1.0, delta=1.0, **given) == 0.0
    assert gdp_delta(2.0, dp_sgd_epsilon(noise_multiplier=1.0, delta=1e-3, **given)) <= 1e-3
    assert dp_sgd_epsilon(noise_multiplier=1.0, delta=1e-3, sampling_probability=0.0, n_steps=4) == 0.0
    # A part that is never sampled leaves the other.
    alone = dp_sgd_epsilon(noise_multiplier=1.0, delta=1e-3, sampling_probability=0.0, n_steps=4, mu=1.0)
    assert gdp_delta(1.0, alone) <= 1e-3
    for call, message in (
        (lambda: dp_sgd_epsilon(noise_multiplier=0.0, delta=1e-3, **given), "noise_multiplier must be > 0"),
        (lambda: dp_sgd_epsilon(noise_multiplier=np.nan, delta=1e-3, **given), "noise_multiplier"),
        (
            lambda: dp_sgd_epsilon(noise_multiplier=1.0, delta=1e-3, sampling_probability=1.0, n_steps=0),
            "n_steps must be >= 1",
        ),
        (lambda: dp_sgd_epsilon(noise_multiplier=1.0, delta=1e-3, mu=-1.0, **given), "mu must be"),
        (lambda: dp_sgd_epsilon(noise_multiplier=1.0, delta=1e-3, accountant="moments", **given), "accountant must be"),
        (lambda: dp_sgd_mu(noise_multiplier=1e-308, n_steps=10**9), "noise_multiplier must be large enough"),
        (lambda: dp_sgd_noise_multiplier(epsilon=0.0, delta=1e-5, **given), "epsilon must be"),
        (lambda: dp_sgd_noise_multiplier(epsilon=1.0, delta=0.0, **given), "delta must be"),
        (
            lambda: dp_sgd_noise_multiplier(epsilon=1.0, delta=1e-5, sampling_probability=0.0, n_steps=4),
            "sampling_probability",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(("epsilon", "rate"), [(40.0, 0.5), (30.0, 0.999), (0.05, 1.0 - 1e-12)])
def test_noise_is_found_where_divergences_ask_for_more_than_full_batches(epsilon, rate, monkeypatch):
    asked = []

    def counted(**given):
        asked.append(given["noise_multiplier"])
        return dp_sgd_epsilon(**given)

    monkeypatch.setattr("expunge.accounting.dp_sgd.dp_sgd_epsilon", counted)
    given = {"delta": 1e-3, "sampling_probability": rate, "n_steps": 1}
    noise = dp_sgd_noise_multiplier(epsilon=epsilon, **given)
    assert dp_sgd_epsilon(noise_multiplier=noise, **given) <= epsilon
    assert dp_sgd_epsilon(noise_multiplier=noise * (1 - 3e-7), **given) > epsilon
    assert len(asked) < 80  # steps of 1e-7 took hours
