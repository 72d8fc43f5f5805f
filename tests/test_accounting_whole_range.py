"""Accounting over the whole range of float64: an answer or a refusal by name, never NaN; and bounds that fall."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.accounting import (
    GaussianPair,
    compare_unlearning_steps,
    contraction_rdp,
    contraction_steps,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    langevin_steps,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
    shifted_mu,
    weak_triangle_rdp,
)
from expunge.accounting.noise_floor import noise_floor
from expunge.runs.ridge.bounds import shifted_claim
from expunge.runs.ridge.law import Phase, deletion_pair

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
# Floats of every size: drawn by exponent, since half of all floats drawn at random are beyond any use.
SIZES = st.one_of(
    st.sampled_from([0.0, 5e-324, 2.3e-308, 1e-300, 1.0, 1.0 + 2.0**-52, 1e300, 1.79e308]),
    st.builds(lambda e, m: min(m * 10.0**e, 1.79e308), st.floats(-323, 307), st.floats(1, 10)),
)
MIDDLING = st.floats(-60, 60).map(lambda e: 10.0**e)
SHARES = st.one_of(st.sampled_from([0.0, 5e-324, 1e-300, 0.5, 1.0 - 2.0**-53, 1.0]), st.floats(0, 1))
ORDERS = SIZES.map(lambda x: 1.0 + x if x < 1e308 else x)
# More than rounding, and far less than any privacy claim.
HAIR = 1.0 + 1e-9


def answer(function, *arguments, name=None, **settings):
    """What a function says, None where it refuses in plain words that begin with an argument's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.asarray(function(*arguments, **settings), dtype=float)
        except (ValueError, TypeError) as error:
            words = str(error)
            assert words.split()[0].isidentifier() or words.startswith("the "), words
            assert any(
                word in words for word in (" must ", "singular", "too small", "too large", "cannot be reached")
            ), words
            return None


def is_bound(values, *, most=np.inf):
    return values is None or bool(np.all((values >= 0) & (values <= most)))  # NaN is neither


def falls(low, high):
    """Whether a bound that may only fall did, where both are known."""
    return low is None or high is None or bool(np.all(high <= low * HAIR + 1e-300))


@given(SIZES, SIZES, SIZES, SHARES)
def test_gaussian_dp(mu, epsilon, factor, delta):
    more = min(max(mu, mu * (1 + factor)), 1.79e308)
    assert is_bound(answer(gdp_delta, mu, epsilon), most=1.0)
    assert falls(answer(gdp_delta, more, epsilon), answer(gdp_delta, mu, epsilon))
    assert falls(answer(gdp_delta, mu, epsilon), answer(gdp_delta, mu, min(epsilon * 2, 1.79e308)))
    assert is_bound(answer(gdp_epsilon, mu, delta))
    assert falls(answer(gdp_epsilon, more, delta), answer(gdp_epsilon, mu, delta))
    found = answer(gdp_mu, epsilon, delta)
    assert is_bound(found)
    if found is not None and np.isfinite(found):
        assert gdp_delta(float(found), epsilon) <= delta


@given(st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=5))
def test_shifted_interpolation(steps):
    sensitivity, contraction, noise = (np.array(part) for part in zip(*steps, strict=True))
    found = answer(shifted_mu, sensitivity, contraction, noise)
    assert is_bound(found)
    assert falls(found, answer(shifted_mu, 0.5 * sensitivity, contraction, noise))
    with np.errstate(over="ignore"):
        louder = np.minimum(2.0 * noise, 1.79e308)
    assert falls(found, answer(shifted_mu, sensitivity, contraction, louder))
    if not sensitivity.any():
        assert found == 0.0


@given(
    st.lists(st.one_of(SIZES, st.floats(-1, 0, exclude_min=True)), min_size=1, max_size=3),
    st.lists(SIZES, min_size=3, max_size=3),
    st.tuples(SIZES, SHARES, ORDERS),
    st.tuples(SIZES, SIZES),
)
def test_gaussian_pairs(excess, sizes, at, errors):
    epsilon, delta, order = at
    shift = np.array(sizes[: len(excess)])[:, None]
    for error in ((0.0, 0.0), (min(errors[0], (1 + min([*excess, 0.0])) / 4), errors[1])):
        pair = GaussianPair(excess, shift, *error)
        for direction in ("pq", "qp"):
            deltas = answer(pair.delta, [epsilon, min(2 * epsilon, 1.79e308)], direction=direction)
            assert is_bound(deltas, most=1.0)
            if deltas is not None:
                assert deltas[1] <= deltas[0] * HAIR + 1e-300
            found = answer(pair.epsilon, delta, direction=direction)
            assert is_bound(found)
            if found is not None and np.isfinite(found):
                assert pair.delta(float(found), direction=direction) <= delta
            assert is_bound(answer(pair.renyi, order, direction=direction))
            if (shift.any() or np.any(excess)) and deltas is not None and error[1] > 0:
                assert deltas[0] > 0


@given(SIZES, ORDERS, SHARES)
def test_renyi_conversion(rdp, order, delta):
    found = answer(rdp_to_epsilon, rdp, order, delta)
    assert is_bound(found)
    assert falls(found, answer(rdp_to_epsilon, 0.5 * rdp, order, delta))
    assert falls(found, answer(rdp_to_epsilon, rdp, order, min(2 * delta, 1.0)))


@given(ORDERS, SIZES, SHARES)
def test_sampled_gaussians(order, multiplier, rate):
    found = answer(sampled_gaussian_rdp, order, multiplier, rate)
    assert is_bound(found)
    assert is_bound(answer(sampled_gaussian_rdp, order, min(2 * multiplier, 1.79e308), rate))


@given(SIZES, ORDERS, SIZES, SIZES, SIZES, SIZES)
def test_contractions(rdp, order, constant, slope, noise, target):
    setting = {"order": order, "log_sobolev": constant, "contraction": slope, "noise_std": noise}
    found = answer(contraction_rdp, rdp, n_steps=3, **setting)
    assert is_bound(found)
    if found is not None:
        assert np.all(np.diff(found) <= 0)
    assert is_bound(answer(contraction_steps, rdp, target_rdp=target, **setting))
    assert is_bound(answer(weak_triangle_rdp, rdp, target, order=order))


@given(MIDDLING, SHARES, MIDDLING, st.floats(1e-12, 1), MIDDLING, MIDDLING, st.integers(1, 10**12), st.floats(1e-12, 1))
def test_langevin_unlearning(epsilon, delta, smoothness, share, lipschitz, sigma, n_records, step):
    convexity = smoothness * share
    setting = {
        "epsilon": epsilon,
        "delta": delta,
        "smoothness": smoothness,
        "strong_convexity": convexity,
        "lipschitz": lipschitz,
        "sigma": sigma,
        "n_records": n_records,
        "step_size": step / smoothness,
    }
    assert is_bound(answer(langevin_steps, **setting))

    def most(**given):
        found = compare_unlearning_steps(**given)
        return [found.closed_form, found.contraction, found.shifted]

    assert is_bound(answer(most, **setting))


@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 2**40), st.integers(0, 2**40), SIZES)
def test_ridge_deletions(scale, alpha, noise, again, n_steps, after, epsilon):
    scale, alpha = min(max(scale, 1e-160), 1e150), max(alpha, 1e-300)
    X = scale * np.array([[1.0, 0.5], [0.3, -1.0], [-0.7, 0.2]])
    limit = 1.0 / (3.0 * scale * scale + alpha)
    run = {
        "alpha": alpha,
        "step_size": limit,
        "phases": [Phase(n_steps, noise), Phase(after, again, (0,))],
        "deleted": [0],
    }
    targets = np.array([[1.0], [2.0], [-1.0]])
    found = answer(lambda: deletion_pair(X, targets, **run).delta([epsilon, 0.0]))
    assert is_bound(found, most=1.0)
    if found is not None and X[0].any():
        assert found[1] > 0


@given(SIZES, SIZES, SIZES, st.integers(0, 3000), st.integers(0, 10**6), SIZES, SHARES, st.booleans())
def test_shifted_claims(scale, noise, again, n_steps, after, epsilon, failure, uniform):
    scale = min(max(scale, 1e-70), 1e70)
    X = scale * np.array([[1.0, 0.5], [0.3, -1.0], [-0.7, 0.2]])
    run = {
        "alpha": scale * scale,
        "step_size": 0.1 / scale / scale,
        "phases": [Phase(n_steps, noise), Phase(after, again, (0,))],
        "deleted": [0],
    }

    def claim():
        found = shifted_claim(
            X, np.ones((3, 1)), epsilon=min(epsilon, 1e300), delta_s=max(failure, 1e-300), uniform=uniform, **run
        )
        return [found.delta_pq, found.delta_qp]

    assert is_bound(answer(claim), most=1.0)


@given(st.lists(SIZES, min_size=1, max_size=4))
def test_floors_of_noise(values):
    assert is_bound(answer(noise_floor, np.array(values)))


@given(FLOATS)
@pytest.mark.parametrize("function", [gdp_delta, gdp_epsilon, gdp_mu])
def test_what_is_no_number_never_passes(function, value):
    for arguments in ((value, 0.5), (0.5, value)):
        found = answer(function, *arguments)
        assert is_bound(found)
        if np.isnan(value):
            assert found is None
