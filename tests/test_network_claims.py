"""The claim of a backbone and a head together: never below either, exact for full batches, sound for groups."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from expunge.accounting import PrivateTraining, dp_sgd_epsilon, dp_sgd_mu, gdp_epsilon, sampled_gaussian_rdp
from expunge.accounting.rdp.sampled_groups import sampled_group_rdp
from expunge.runs.network import joint_claim, whole_mu
from oracles import gdp_delta_mpmath as delta_of_mu

FULL = PrivateTraining(
    clip=1.0, noise_multiplier=20.0, sampling_probability=1.0, n_steps=100, accountant="gdp", room=1e-3, seeded=False
)
POISSON = PrivateTraining(
    clip=1.0, noise_multiplier=2.0, sampling_probability=0.05, n_steps=200, accountant="rdp", room=1e-3, seeded=False
)
HEAD = {"head_epsilon": 1.0, "delta": 1e-5, "mu": 0.268}


def moments(order: float, s: float, q: float, k: int) -> tuple[float, float]:
    """Return both divergences of a group's sampled Gaussian whose gradients are parallel, by integration."""
    with mp.workdps(20):
        weights = [mp.binomial(k, j) * mp.mpf(q) ** j * (1 - mp.mpf(q)) ** (k - j) for j in range(k + 1)]

        def normal(x, mean):
            return mp.exp(-((x - mean) ** 2) / (2 * mp.mpf(s) ** 2)) / (s * mp.sqrt(2 * mp.pi))

        def mixed(x):
            return mp.fsum(w * normal(x, j) for j, w in enumerate(weights))

        places = [-40 * s, -10 * s, 0, k * order / 2, k * order, k * order + 40 * s]
        forward = mp.quad(lambda x: mixed(x) ** order * normal(x, 0) ** (1 - order), places)
        backward = mp.quad(lambda x: normal(x, 0) ** order * mixed(x) ** (1 - order), places)
        return float(mp.log(forward) / (order - 1)), float(mp.log(backward) / (order - 1))


@pytest.mark.parametrize(("order", "s", "q", "k"), [(2, 0.7, 0.5, 2), (3, 2.0, 0.05, 3), (8, 4.0, 0.01, 3)])
def test_a_groups_divergence_is_that_of_parallel_gradients_at_whole_orders(order, s, q, k):
    found = sampled_group_rdp(np.array([float(order)]), noise_multiplier=s, sampling_probability=q, group_size=k)[0]
    forward, backward = moments(order, s, q, k)
    assert max(forward, backward) <= found
    assert found == pytest.approx(forward, rel=1e-7)


@pytest.mark.parametrize(("order", "s", "q", "k"), [(1.1, 1.5, 0.2, 2), (2.5, 0.8, 0.6, 3), (70.0, 30.0, 0.1, 2)])
def test_a_groups_divergence_is_never_below_the_truth(order, s, q, k):
    found = sampled_group_rdp(np.array([order]), noise_multiplier=s, sampling_probability=q, group_size=k)[0]
    assert max(moments(order, s, q, k)) <= found * (1 + 1e-12)
    assert found <= 0.5 * order * (k / s) ** 2


@settings(max_examples=12, deadline=None)
@given(st.floats(0.5, 8.0), st.floats(0.001, 0.9), st.integers(2, 4), st.integers(0, 2**31))
def test_gradients_in_any_directions_cost_a_group_no_more(s, q, k, seed):
    """The moment at order 2 in closed form, of any gradients within the bound: at most that of parallel ones."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(k, 3))
    gradients *= rng.uniform(0, 1, size=(k, 1)) ** 0.2 / np.linalg.norm(gradients, axis=1, keepdims=True)
    chosen = np.array([[(i >> j) & 1 for j in range(k)] for i in range(2**k)])
    chance = np.prod(np.where(chosen == 1, q, 1 - q), axis=1)
    shifts = chosen @ gradients
    moment = chance @ np.exp(shifts @ shifts.T / s**2) @ chance
    found = sampled_group_rdp(np.array([2.0]), noise_multiplier=s, sampling_probability=q, group_size=k)[0]
    assert math.log(moment) <= found * (1 + 1e-12)


@pytest.mark.parametrize("k", [65, 200, 3000])
def test_large_groups_are_rounded_up_to_steps(k):
    """Members counted in steps cost at least as much as the next smaller group that is counted one by one."""
    orders = np.array([1.5, 2.0, 5.0, 100.0])
    given = {"noise_multiplier": 200.0, "sampling_probability": 0.01}
    found = sampled_group_rdp(orders, group_size=k, **given)
    assert (found > sampled_group_rdp(orders, group_size=64, **given)).all()
    assert (found <= 0.5 * orders * (k / 200) ** 2).all()
    chances = binom.pmf(range(k + 1), k, 0.01)
    exact = math.log(chances @ np.exp(np.multiply.outer(range(k + 1), range(k + 1)) / 200**2) @ chances)
    assert exact <= found[1] * (1 + 1e-9)


def test_a_group_of_one_is_a_record():
    given = {"noise_multiplier": 1.3, "sampling_probability": 0.02}
    one = sampled_group_rdp(np.array([3.0]), group_size=1, **given)
    assert one[0] == sampled_gaussian_rdp(3.0, 1.3, 0.02)
    epsilon = {**given, "delta": 1e-5, "n_steps": 50}
    assert dp_sgd_epsilon(**epsilon, group_size=1) == dp_sgd_epsilon(**epsilon)


def test_epsilons_of_groups_grow_and_end_at_those_of_full_batches():
    given = {"noise_multiplier": 5.0, "delta": 1e-5, "sampling_probability": 0.2, "n_steps": 60, "mu": 0.2}
    found = [dp_sgd_epsilon(**given, group_size=k) for k in (1, 2, 3, 8, 40)]
    assert found == sorted(found)
    for k, epsilon in zip((1, 2, 3, 8, 40), found, strict=True):
        assert epsilon <= dp_sgd_epsilon(**{**given, "sampling_probability": 1.0}, group_size=k)
    with pytest.raises(ValueError, match="group_size must be >= 1, got 0"):
        dp_sgd_epsilon(**given, group_size=0)
    with pytest.raises(TypeError, match="group_size must be an integer"):
        dp_sgd_mu(noise_multiplier=1.0, n_steps=3, group_size=2.0)


def test_loss_distributions_of_groups_are_those_of_dp_accounting():
    """With a record and with a group, the backbone's epsilon is that of dp-accounting, composed with the head's."""
    pytest.importorskip("dp_accounting", reason='accountant="pld" needs expunge[dp]', exc_type=ImportError)
    import dp_accounting
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
    from dp_accounting.pld import PLDAccountant

    given = {"noise_multiplier": 4.0, "delta": 1e-5, "sampling_probability": 0.05, "n_steps": 30}
    pld = PrivateTraining(**{**vars(POISSON), "noise_multiplier": 4.0, "n_steps": 30, "accountant": "pld"})
    for k in (1, 2):
        accountant = PLDAccountant()
        accountant.compose(MixtureOfGaussiansDpEvent(4.0, range(k + 1), binom.pmf(range(k + 1), k, 0.05)), 30)
        accountant.compose(dp_accounting.GaussianDpEvent(1 / HEAD["mu"]))
        theirs = accountant.get_epsilon(1e-5)
        claim = joint_claim(pld, n_deleted=k, **HEAD)
        assert claim == (None, pytest.approx(theirs, rel=1e-6))
        assert claim.epsilon < dp_sgd_epsilon(**given, mu=HEAD["mu"], group_size=k)


# --- joint claims ------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.floats(0.5, 1e3), st.integers(1, 10**5), st.integers(0, 30), st.floats(1e-3, 3.0), st.floats(1e-9, 0.1))
def test_full_batches_compose_exactly(multiplier, steps, k, mu, delta):
    training = PrivateTraining(**{**vars(FULL), "noise_multiplier": multiplier, "n_steps": steps})
    own = float(gdp_epsilon(mu, delta))
    claim = joint_claim(training, head_epsilon=own, delta=delta, mu=mu, n_deleted=k)
    with mp.workdps(40):
        exact = mp.sqrt(mp.mpf(k) ** 2 * steps / mp.mpf(multiplier) ** 2 + mp.mpf(mu) ** 2)
        assert exact <= claim.mu <= exact * (1 + mp.mpf("1e-13"))
    assert claim.epsilon >= own
    if exact < 30:
        assert delta_of_mu(float(exact), claim.epsilon) <= delta * (1 + 1e-9)
        assert (
            delta_of_mu(float(exact), claim.epsilon * (1 - 1e-6) - 1e-9) >= delta * (1 - 1e-7) or claim.epsilon == own
        )


@pytest.mark.parametrize("training", [FULL, POISSON])
def test_joint_claims_are_above_both_and_grow_with_the_records_that_left(training):
    claims = [joint_claim(training, n_deleted=k, **HEAD) for k in range(5)]
    assert claims[0] == (HEAD["mu"], 1.0)  # the head's
    epsilons = [claim.epsilon for claim in claims]
    assert epsilons == sorted(set(epsilons))
    for k in range(1, 5):
        assert epsilons[k] > training.epsilon(delta=1e-5, group_size=k)
        more = joint_claim(training, n_deleted=k, **{**HEAD, "mu": 0.3})
        assert more.epsilon > epsilons[k]


def test_a_backbone_without_records_adds_nothing():
    assert joint_claim(None, n_deleted=0, **HEAD) == (HEAD["mu"], 1.0)
    assert joint_claim(None, n_deleted=9, **HEAD) == (HEAD["mu"], 1.0)


def test_all_releases_of_a_head_count():
    with mp.workdps(40):
        assert mp.mpf(0.003) * 100 <= whole_mu(mu=0.003, releases=10_000) <= mp.mpf(0.3) * (1 + mp.mpf("1e-14"))
        doubled = whole_mu(mu=0.003, releases=10_000, reference="same rule")
        assert mp.mpf(0.003) * 200 <= doubled <= mp.mpf(0.6) * (1 + mp.mpf("1e-14"))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier must be > 0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier must"),
        ({"clip": -1.0}, "clip must be > 0"),
        ({"sampling_probability": 0.0}, "sampling_probability must be > 0"),
        ({"sampling_probability": 0.5}, "accountant must be 'rdp' or 'pld' for Poisson batches, got 'gdp'"),
        ({"accountant": "rdp"}, "accountant must be 'gdp' or 'filter' for full batches, got 'rdp'"),
        ({"accountant": "best"}, "accountant must be one of"),
        ({"n_steps": 0}, "n_steps must be >= 1"),
        ({"room": -1e-3}, "room must be >= 0"),
    ],
)
def test_constants_of_a_training_are_refused_by_name(changed, match):
    with pytest.raises(ValueError, match=match):
        PrivateTraining(**{**vars(FULL), **changed})


def test_what_has_no_finite_claim_is_refused():
    with pytest.raises(ValueError, match="mu needs full batches, got Poisson"):
        POISSON.mu()
    with pytest.raises(TypeError, match="seeded must be True or False"):
        PrivateTraining(**{**vars(FULL), "seeded": 1})
    with pytest.raises(ValueError, match="delta"):
        joint_claim(FULL, n_deleted=1, **{**HEAD, "delta": 0.0})
    with pytest.raises(ValueError, match="n_deleted must be >= 0"):
        joint_claim(FULL, n_deleted=-1, **HEAD)
