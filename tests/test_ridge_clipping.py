"""Cost of clipping: what is set aside, what is left, and the epsilon that pays for both."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.accounting import gdp_delta
from expunge.certificates import certificate_schema
from expunge.cli.options import method_option
from expunge.plotting import costs
from expunge.runs.methods import METHODS
from expunge.runs.ridge.clipping import clipped_deltas, least_epsilon, left_of_delta, residual_failure

EPS = float(np.finfo(np.float64).eps)


def test_everything_that_names_methods_names_the_same() -> None:
    for version in (1, 2):
        assert tuple(certificate_schema(version=version)["properties"]["method"]["enum"]) == METHODS
    assert set(costs._STYLE) == set(METHODS)
    option = method_option(lambda: None).__click_params__[0]
    assert tuple(option.type.choices) == METHODS
    assert option.default == METHODS[0] == "exact"


@given(st.floats(0, 5), st.floats(1e-300, 0.5))
def test_the_two_parts_of_a_claim_are_added_upward(mu: float, failure: float) -> None:
    forth, back = (Fraction(float(part)) for part in clipped_deltas(mu, 0.0, failure=failure))
    base = Fraction(float(gdp_delta(mu, 0.0)))
    assert min(Fraction(1), base + Fraction(failure)) <= forth <= back <= 1


@given(st.floats(0, 800), st.floats(1e-300, 1e-3))
def test_the_event_costs_e_to_the_epsilon_as_much_in_the_other_direction(epsilon: float, failure: float) -> None:
    forth, back = clipped_deltas(0.0, epsilon, failure=failure)
    with mpmath.workdps(40):
        truth = min(mpmath.exp(mpmath.mpf(epsilon)) * mpmath.mpf(failure), 1)
        assert truth <= mpmath.mpf(float(back)) <= truth * (1 + 16 * EPS)
    assert failure <= forth <= failure * (1 + 4 * EPS)


def test_where_there_is_no_bound_both_deltas_are_one() -> None:
    forth, back = clipped_deltas([np.inf, 0.1, 0.1], [1.0, np.inf, 1.0], failure=1e-6)
    assert forth.tolist()[:2] == back.tolist()[:2] == [1.0, 1.0]
    assert forth[2] < back[2] < 1e-5


@pytest.mark.parametrize("epsilon", [0.0, 1.0, math.log(10) - 1e-9, math.log(10) + 1e-9, 700.0, 1e300])
@pytest.mark.parametrize("delta", [1e-300, 1e-5, 0.9])
def test_what_is_left_of_delta_is_rounded_down(epsilon: float, delta: float) -> None:
    left = float(left_of_delta(delta, epsilon))
    with mpmath.workdps(50):
        share = 1 - mpmath.exp(mpmath.mpf(min(epsilon, 1e3))) / 10
        assert (left > 0) == (share > 1e-12)
        if left > 0:
            assert mpmath.mpf(delta) * (share - 16 * EPS) <= left <= mpmath.mpf(delta) * share
    assert float(left_of_delta(delta, epsilon, headroom=1e-3)) <= left
    assert residual_failure(delta) == delta / 10


@settings(max_examples=50)
@given(st.floats(1e-6, 1.2), st.floats(1e-12, 1e-2))
def test_the_epsilon_of_a_bound_is_the_least_that_pays_for_its_clipping(mu: float, delta: float) -> None:
    def spent(epsilon: float) -> float:
        return float(gdp_delta(mu, epsilon)) + math.exp(epsilon) * delta / 10

    highest = math.log(5)
    found = float(least_epsilon(mu, delta, at_most=highest))
    assert 0 <= found <= highest
    if found < highest:
        assert spent(found) <= delta
        assert max(map(float, clipped_deltas(mu, found, failure=delta / 10))) <= delta
    if found > 0:
        assert spent(found * (1 - 1e-6)) > delta * (1 - 1e-9)


def test_a_bound_of_zero_is_epsilon_zero() -> None:
    found = least_epsilon([0.0, 1e-9, 0.1], 1e-5, at_most=1.0)
    assert found[:2].tolist() == [0.0, 0.0]
    assert 0 < found[2] < 1
