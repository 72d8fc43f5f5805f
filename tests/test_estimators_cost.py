"""What one deletion costs: the target is met and not overshot, and a target out of reach is said to be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from expunge import LangevinRidge
from expunge.accounting import gdp_delta
from expunge.calibration import HEADROOM
from expunge.estimators._history import History
from expunge.runs.ridge.bounds import tracked_mu
from expunge.runs.ridge.cost import (
    LARGEST_NOISE,
    LEAST_NOISE,
    DeletionCost,
    LostNoiseError,
    check_delta,
    chosen_noise,
)
from expunge.runs.ridge.law import Phase, SingularPairError, deletion_pair

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

EPSILON, DELTA, STEPS = 1.0, 1e-5, 4
GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(12, 2))
Y = X @ [1.0, -1.0] + GENERATOR.normal(size=12)


def history(noise_std: float = 0.1, *, data: Any = X, targets: Any = Y, **more: Any) -> History:
    model = LangevinRidge(noise_std=noise_std, fit_intercept=False, **more)
    found = model.fit(data, targets, of_program=False)._history
    assert found is not None
    return found


def cost_of(run: History, rows: list[int], method: str = "exact", **target: float) -> DeletionCost:
    return DeletionCost(run, rows, method=method, **{"epsilon": EPSILON, "delta": DELTA, **target})


RUN = history()


# --- the target ----------------------------------------------------------------------------------


def exact_delta(run: History, noise: float, steps: int = STEPS, rows: tuple[int, ...] = (3,)) -> float:
    pair = deletion_pair(
        run.design,
        run.targets,
        alpha=run.alpha,
        step_size=run.step_size,
        phases=(*run.phases, Phase(steps, noise, rows)),
        deleted=rows,
    )
    return float(pair.delta(EPSILON))


@pytest.mark.parametrize("factor", [0.95, 0.99, 0.9999, 1.0, 1.0001, 1.05])
def test_enough_is_a_delta_of_at_most_the_target_less_its_headroom(factor: float) -> None:
    cost = cost_of(RUN, [3])
    noise = factor * cost.smallest_noise(STEPS, start=1e-3)
    delta = exact_delta(RUN, noise)
    assert cost.enough(STEPS, noise) == (delta <= DELTA * (1 - HEADROOM)) == (factor >= 1)
    assert cost.ratio(STEPS, noise) * (DELTA * (1 - HEADROOM)) == pytest.approx(delta, rel=1e-10)


def test_the_headroom_is_below_the_target_not_above() -> None:
    cost = cost_of(RUN, [3])
    delta = exact_delta(RUN, 0.1)
    assert cost.ratio(STEPS, 0.1) == pytest.approx(delta / DELTA * (1 + HEADROOM), rel=1e-11)


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_a_bound_pays_for_its_clipping_and_uses_up_the_target(method: str) -> None:
    cost = cost_of(RUN, [3], method)
    noise = cost.smallest_noise(STEPS, start=1e-3)

    def both(std: float) -> float:
        return float(gdp_delta(cost.mu(STEPS, std), EPSILON)) + math.exp(EPSILON) * DELTA / 10

    assert both(noise) <= DELTA
    assert both(0.9999 * noise) > DELTA
    assert both(noise) == pytest.approx(DELTA, rel=1e-5)
    assert not cost.enough(STEPS, 0.99 * noise)


def test_a_bound_by_mu_is_that_of_the_whole_run() -> None:
    """Sensitivities known from before stand for those computed anew."""
    cost = cost_of(RUN, [3], "shifted")
    phases = (*RUN.phases, Phase(STEPS, 0.3, (3,)))
    assert cost.mu(STEPS, 0.3) == pytest.approx(tracked_mu(cost.deletion, phases, delta_s=DELTA / 10), rel=1e-12)


@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
def test_the_fewest_steps_suffice_and_one_less_does_not(method: str) -> None:
    cost = cost_of(RUN, [3], method)
    steps = cost.smallest_steps(0.05)
    assert steps > 1
    assert cost.enough(steps, 0.05)
    assert not cost.enough(steps - 1, 0.05)


def test_a_worst_case_bound_is_for_a_first_deletion() -> None:
    later = replace(RUN, phases=(*RUN.phases, Phase(3, 1.0, (0,))))
    with pytest.raises(ValueError, match=r"^method='uniform' is defined for a first deletion only"):
        cost_of(later, [3], "uniform")
    assert cost_of(later, [3], "shifted").deleted == cost_of(later, [3]).deleted == (0, 3)


# --- nothing to hide, and nothing to hide it -----------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "shifted"])
def test_without_any_noise_there_is_no_guarantee(method: str) -> None:
    cost = cost_of(history(0.0), [3], method)
    for steps, noise in ((0, 0.0), (0, 1.0), (5, 0.0)):
        assert cost.ratio(steps, noise) == math.inf
        assert not cost.enough(steps, noise)
    needed = cost.smallest_noise(STEPS, start=1e-3)
    assert 0 < needed < math.inf
    assert cost.enough(STEPS, needed)


@pytest.mark.parametrize("method", ["exact", "shifted"])
def test_a_row_without_influence_costs_nothing(method: str) -> None:
    data, targets = X.copy(), Y.copy()
    data[3], targets[3] = 0.0, 0.0
    cost = cost_of(history(data=data, targets=targets), [3], method)
    assert cost.ratio(0, 0.0) == cost.ratio(STEPS, 0.2) == 0.0
    assert cost.smallest_noise(STEPS, start=1e-3) == 0.0
    assert cost.smallest_steps(0.2) == 0
    reached = cost.reached(STEPS, 0.2)
    assert reached.epsilon == 0.0
    if method == "shifted":  # for exact laws mu stands for the target's delta
        assert reached.mu == 0.0


def test_where_learning_noise_suffices_any_way_to_ask_says_none() -> None:
    data = np.random.default_rng(4).normal(size=(300, 2))
    cost = cost_of(history(1.0, data=data, targets=data[:, 0]), [3])
    assert cost.smallest_noise(STEPS, start=1e-3) == 0.0
    assert cost.smallest_steps(1.0) == 0
    for grid in ("powers", None):
        assert chosen_noise(cost, STEPS, start=1e-3, noise_std=None, noise_grid=grid).noise_std == 0.0
    given_none = chosen_noise(cost, STEPS, start=1e-3, noise_std=0.0, noise_grid=None)
    assert given_none == (0.0, "given")


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_a_target_that_no_noise_reaches_is_said_to_be(method: str) -> None:
    cost = cost_of(RUN, [3], method, epsilon=3.0)  # e^3 delta/10 is more than delta
    assert cost.smallest_noise(STEPS, start=1e-3) == math.inf
    assert cost.smallest_steps(1e6) is None
    assert cost.reached(STEPS, math.inf) == (math.inf, math.inf, "")
    with pytest.raises(ValueError, match=r"^epsilon = 3, .* cannot be reached by any noise: method .* needs e\^eps"):
        chosen_noise(cost, STEPS, start=1e-3, noise_std=None, noise_grid=None)
    with pytest.raises(ValueError, match=r"^noise_std must be larger than any that can be for epsilon = 3"):
        chosen_noise(cost, STEPS, start=1e-3, noise_std=1.0, noise_grid=None)


# --- the range of float64 ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_a_law_that_overflows_is_refused_for_that_reason() -> None:
    run = history(data=X * 1e150, targets=Y * 1e150)
    for ask in (DeletionCost.pair, DeletionCost.ratio):
        with pytest.raises(ValueError, match=r"overflow: divide by a constant$"):
            ask(cost_of(run, [3]), STEPS, 0.1)


@pytest.mark.parametrize("noise", [1e-121, 5e-324, 2e90])
def test_noise_whose_squares_leave_float64_is_refused_by_fit(noise: float) -> None:
    with pytest.raises(ValueError, match=r"^noise_std must be 0 or between 1e-120 and 1e\+90"):
        LangevinRidge(noise_std=noise).fit(X, 0 * Y)


def test_the_floor_is_the_resolution_of_the_largest_parameter() -> None:
    """Of eye(3) and ones, alpha 1 leaves parameters of 1/2; the resolution is 2^-30."""
    run = history(0.1, data=np.eye(3), targets=np.ones(3), step_size=0.5, n_steps=1000)
    assert cost_of(run, [0]).floor(5) == 2.0**-31
    nothing = history(0.1, data=np.eye(3), targets=np.zeros(3), step_size=0.5)
    assert cost_of(nothing, [0]).floor(5) == LEAST_NOISE


@pytest.mark.parametrize(
    ("phases", "who"),
    [
        ((Phase(50, 1e-12),), "learning"),
        ((Phase(50, 0.0), Phase(5, 1e-12, (3,))), "deletion 1"),
        ((Phase(50, 0.0), Phase(5, 1.0, (3,)), Phase(5, 1e-12, (2, 3))), "deletion 2"),
    ],
)
def test_the_phase_whose_noise_is_lost_is_named(phases: tuple[Phase, ...], who: str) -> None:
    """Without the row that cancels another, parameters are so large that rounding swallows 1e-12."""
    base = history(0.0, data=np.ones((5, 1)), targets=np.array([1.0, -1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(LostNoiseError, match=rf"^noise_std = 1e-12 of {who} is lost"):
        cost_of(replace(base, phases=phases), [1]).floor(5)
    for noise in (0.0, 1.0):
        kept = tuple(replace(phase, noise_std=noise) for phase in phases)
        assert cost_of(replace(base, phases=kept), [1]).floor(5) > 0


@pytest.mark.parametrize("size", [1e96, 1e140])
def test_noise_beyond_the_range_reaches_no_target(size: float) -> None:
    run = history(0.0, targets=Y * size)
    cost = cost_of(run, [3])
    assert cost.smallest_noise(STEPS, start=1e-3) == math.inf
    for grid in (None, "powers", [1e80, 1e90]):
        with pytest.raises(ValueError, match=r"^epsilon = 1, .* in 4 steps .* by any noise: it would .* exceed 1e\+90"):
            chosen_noise(cost, STEPS, start=1e-3, noise_std=None, noise_grid=grid)
    with pytest.raises(ValueError, match=r"^noise_std must be larger than any that can be"):
        chosen_noise(cost, STEPS, start=1e-3, noise_std=LARGEST_NOISE, noise_grid=None)


@pytest.mark.parametrize("asked", [{"n_steps": STEPS}, {"noise_std": 0.5}])
def test_a_record_without_a_proof_does_not_end_the_quote_of_the_others(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LangevinRidge(noise_std=0.1, fit_intercept=False).fit(X, Y)
    model = model.unlearn(0, epsilon=EPSILON, delta=DELTA, n_steps=STEPS).model
    before = model.quote(epsilon=EPSILON, delta=DELTA, **asked)
    for search in ("smallest_noise", "smallest_steps"):
        found = getattr(DeletionCost, search)

        def unproved(self: DeletionCost, *given: Any, found: Any = found, **more: Any) -> Any:
            if 3 in self.deleted:
                raise SingularPairError("the pair is numerically singular")
            return found(self, *given, **more)

        monkeypatch.setattr(DeletionCost, search, unproved)
    quote = model.quote(epsilon=EPSILON, delta=DELTA, **asked)
    at = quote.indices.tolist().index(3)
    assert quote.noise_std[at] == math.inf
    assert not quote.certified[at]
    others = np.arange(len(quote.indices)) != at
    np.testing.assert_allclose(quote.noise_std[others], before.noise_std[others], rtol=1e-6)
    assert quote.certified[others].all()


# --- mu of a bound -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["shifted", "uniform"])
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 2.3])
def test_the_mu_that_bounds_aim_at_leaves_the_headroom(method: str, epsilon: float) -> None:
    mu = cost_of(RUN, [3], method, epsilon=epsilon)._mu_target
    spent = float(gdp_delta(mu, epsilon)) + math.exp(epsilon) * DELTA / 10
    assert DELTA * (1 - 1.1 * HEADROOM) <= spent <= DELTA * (1 - 0.9 * HEADROOM)


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_a_delta_that_cannot_be_shared_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"^delta must be at least 1e-270 for method"):
        check_delta(method, 9e-271)
    with pytest.raises(ValueError, match=r"^delta must be at least 1e-270 for method"):
        cost_of(RUN, [3], method, delta=9e-271)
    check_delta(method, 1e-270)
    check_delta("exact", 1e-300)


def test_a_delta_that_rounding_alone_may_cost_is_refused_by_name() -> None:
    for ask in (lambda: check_delta("exact", 9e-301), lambda: cost_of(RUN, [3], "exact", delta=5e-324)):
        with pytest.raises(ValueError, match=r"^delta must be at least 1e-300, below which rounding"):
            ask()
