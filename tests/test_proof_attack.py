"""Enclosures under attack: adversarial inputs of every size, against 60 digits; each holds the truth and is narrow."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from expunge.accounting import GaussianPair

pytest.importorskip("flint")
from expunge import proof
from ridge_truth import exact_delta, exchanged
from test_proof_accounting import MP, holds, mp_gdp_delta

exponents = st.floats(-12.0, 1.5)
epsilons = st.one_of(st.just(0.0), st.floats(-12.0, 1.5).map(lambda x: 10.0**x))
deltas = st.one_of(
    st.floats(-290.0, -1.0).map(lambda x: 10.0**x),
    st.floats(0.01, 0.99),
    st.floats(-15.0, -2.0).map(lambda x: 1 - 10.0**x),
)


def narrow(found):
    low, high = MP.mpf(found.lower_text), MP.mpf(found.upper_text)
    return high <= low * (1 + MP.mpf(10) ** -15) or high < MP.mpf(10) ** -4000


@given(exponents, epsilons, deltas)
@example(1.5, 0.0, 1 - 2.0**-52)
@example(-12.0, 1e-9, 1e-290)
def test_gaussian_dp(exponent, epsilon, delta):
    mu = 10.0**exponent
    assume(epsilon / mu < 1e4)
    found = proof.gdp_delta(mu=mu, epsilon=epsilon)
    assert holds(found, mp_gdp_delta(mu, epsilon))
    assert narrow(found)
    found = proof.gdp_epsilon(mu=mu, delta=delta)
    if found.upper == 0:
        assert mp_gdp_delta(mu, 0) <= MP.mpf(delta)
    else:
        at_low, at_high = (mp_gdp_delta(mu, MP.mpf(end)) for end in (found.lower_text, found.upper_text))
        assert at_high <= MP.mpf(delta) <= at_low
        assert narrow(found)
    found = proof.gdp_mu(epsilon=epsilon, delta=delta)
    if found.lower > 1e-12 and epsilon / found.lower < 1e4:
        at_low, at_high = (mp_gdp_delta(MP.mpf(end), epsilon) for end in (found.lower_text, found.upper_text))
        assert at_low <= MP.mpf(delta) <= at_high
        assert narrow(found)


@given(
    st.one_of(exponents.map(lambda x: 10.0**x), exponents.map(lambda x: -min(10.0**x, 0.999999))),
    st.floats(-6.0, 1.0),
    st.floats(-3.0, 2.0),
)
def test_renyi_divergences(excess, exponent, above):
    d, order = 10.0**exponent, 1 + 10.0**above
    found = proof.pair_renyi(GaussianPair([excess], [[d]]), order=order, direction="pq")
    a, v, s = MP.mpf(order), 1 + MP.mpf(excess), MP.mpf(d) ** 2
    mixed = a + (1 - a) * v
    if mixed <= 0:
        assert found.lower == math.inf
        return
    truth = a * s / (2 * mixed) - (MP.log(mixed) - (1 - a) * MP.log(v)) / (2 * (a - 1))
    assert holds(found, truth, slack=1e-35)
    assert narrow(found)


@given(st.lists(st.tuples(st.floats(-8.0, 3.0), st.floats(-3.0, 3.0)), min_size=1, max_size=4), st.floats(-30.0, -1e-3))
def test_epsilons_of_divergences(orders, exponent):
    rdp, order = (10.0 ** np.array(part) for part in zip(*orders, strict=True))
    order = 1 + order
    delta = 10.0**exponent
    found = proof.rdp_to_epsilon(rdp, order, delta=delta)
    d, truth = MP.mpf(delta), MP.inf
    for one, a in zip(rdp.tolist(), order.tolist(), strict=True):
        r, a = MP.mpf(one), MP.mpf(a)
        value = r + MP.log(1 - 1 / a) - (MP.log(d) + MP.log(a)) / (a - 1)
        truth = min(truth, MP.mpf(0) if r <= max(2 * d * d, -MP.log(1 - d * d)) else max(value, MP.mpf(0)))
    assert holds(found, truth, slack=1e-45)


@settings(max_examples=12)
@given(st.integers(0, 2**31), st.integers(2, 4), st.sampled_from([1, 2, 5]), st.sampled_from([0.0, 0.1, 1.0]))
def test_pairs_of_several_coordinates(seed, p, columns, epsilon):
    rng = np.random.default_rng(seed)
    excess = 10.0 ** rng.uniform(-4, 0, p) * rng.choice([-0.9, 1], p)
    shift = 10.0 ** rng.uniform(-2, 0, (p, columns))
    with mpmath.workdps(40):
        pair = (
            [mpmath.mpf(e) for e in excess.tolist()],
            [mpmath.fsum(mpmath.mpf(d) ** 2 for d in row) for row in shift.tolist()],
        )
        for direction in ("pq", "qp"):
            found = proof.pair_delta(GaussianPair(excess, shift), epsilon=epsilon, direction=direction)
            assert narrow(found)
            truth = exact_delta(*(pair if direction == "pq" else exchanged(*pair)), columns, epsilon, digits=24)
            room = mpmath.mpf(10) ** -16
            assert mpmath.mpf(found.lower_text) * (1 - room) <= truth <= mpmath.mpf(found.upper_text) * (1 + room)
