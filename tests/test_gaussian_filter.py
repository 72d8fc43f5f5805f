"""Per-record GDP budgets: sums in many digits, decisions, what is barred, and training by brute force."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.accounting import GaussianFilter, RenyiFilter, gdp_delta, gdp_epsilon

# Six records, nine steps; clip 1, noise multiplier 3, budget 0.6: from 60-digit arithmetic.
NORMS = np.array(
    [
        [0.333, 0.718, 1.168, 0.806, 0.605, 0.405, 0.208, 1.199, 0.917],
        [0.338, 0.734, 0.865, 1.093, 0.372, 0.41, 0.265, 0.728, 1.11],
        [0.895, 0.211, 0.478, 0.138, 0.235, 0.617, 0.226, 0.361, 0.33],
        [0.536, 1.034, 0.321, 0.755, 0.51, 0.385, 0.393, 0.946, 1.019],
        [0.892, 1.072, 0.888, 0.393, 0.319, 0.702, 0.751, 0.953, 1.092],
        [0.967, 1.172, 0.825, 0.835, 0.969, 0.621, 0.968, 1.057, 0.639],
    ]
)
BARRED = [7, 7, 9, 7, 5, 3]  # the first step that a record does not take part in
SPENT = [
    "0.56266854265090108100020337696581",
    "0.55557117755813755510049493155874",
    "0.44960291122030980214142938329216",
    "0.52947940889960488143501832343251",
    "0.56178465625184175191906249927048",
    "0.53910563796800427163021541452974",
]
LEAST = 5e-324


def keeper(budget, *, n_records=1, noise_std=1.0, step_size=1.0, batch_size=1.0):
    return GaussianFilter(budget, n_records=n_records, noise_std=noise_std, step_size=step_size, batch_size=batch_size)


def test_budgets_spends_and_bars_are_those_of_many_digits():
    clipped = np.minimum(NORMS, 1.0)
    filter_ = keeper(0.6, n_records=6, noise_std=3.0)
    barred = [9] * 6
    for t in range(9):
        allowed = filter_.charge(clipped[:, t])
        for i in np.flatnonzero(~allowed):
            barred[i] = min(barred[i], t)
    assert barred == BARRED
    for found, wanted in zip(filter_.spent, SPENT, strict=True):
        assert mpmath.mpf(float(found)) >= mpmath.mpf(wanted)
        assert float(found) == pytest.approx(float(wanted), rel=2e-9)
    assert filter_.n_steps == 9
    assert (filter_.remaining[~filter_.active] == 0.0).all()
    assert filter_.remaining[2] == pytest.approx(np.sqrt(0.36 - float(SPENT[2]) ** 2), rel=1e-8)


@given(
    norms=st.lists(st.floats(0.0, 1e3), min_size=1, max_size=30),
    scale=st.floats(1e-3, 1e3),
    budget=st.floats(1e-3, 10.0),
)
def test_what_is_spent_is_never_below_the_exact_sum_and_never_above_the_budget(norms, scale, budget):
    filter_ = keeper(budget, noise_std=scale, step_size=0.3, batch_size=7.0)
    exact, alive = Fraction(0), True
    for norm in norms:
        cost = (Fraction(norm) * Fraction(0.3) / (Fraction(scale) * 7)) ** 2
        took = bool(filter_.charge([norm])[0])
        if not alive:
            assert not took, "a barred record came back"
            continue
        alive = took
        if took:
            exact += cost
            left = Fraction(budget) ** 2 - exact
            assert Fraction(float(filter_.remaining[0])) ** 2 <= left
        else:
            raised = cost * Fraction(1 + 4e-9) + exact * Fraction(1 + 4e-9)
            assert raised > Fraction(budget) ** 2 * (1 - Fraction(1e-9)), "barred with budget to spare"
        assert exact <= Fraction(float(filter_.spent[0])) ** 2 <= Fraction(budget) ** 2 * (1 + Fraction(1e-15))


@pytest.mark.parametrize("noise", [1e-300, 1e-160, LEAST, 1e160, 1e300])
@pytest.mark.parametrize("norm", [LEAST, 1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_nothing_vanishes_at_the_ends_of_the_range(noise, norm):
    filter_ = keeper(np.inf, noise_std=noise)
    filter_.charge([norm])
    with np.errstate(all="ignore"):
        exact = Fraction(norm) / Fraction(noise)
    assert filter_.spent[0] == np.inf or Fraction(float(filter_.spent[0])) >= exact
    least = keeper(LEAST, noise_std=noise)
    assert least.charge([0.0])[0]
    assert not least.charge([norm])[0] or exact <= Fraction(LEAST)


def test_nan_and_infinity_bar_and_zero_costs_nothing():
    filter_ = keeper([1.0, 1.0, 1.0, np.inf, np.inf], n_records=5, noise_std=0.0)
    assert filter_.charge([0.0, np.nan, np.inf, np.inf, np.nan]).tolist() == [True, False, False, True, False]
    assert filter_.spent.tolist() == [0.0, 0.0, 0.0, np.inf, 0.0]
    # Entries of barred records are ignored.
    assert filter_.charge([0.0, -1.0, np.nan, 0.0, 0.0]).tolist() == [True, False, False, True, False]
    assert filter_.charge([1e-300, 0, 0, 0, 0]).tolist() == [False, False, False, True, False]


def test_norms_of_float32_are_raised_by_what_they_may_lack():
    one, other = keeper(9.0), keeper(9.0)
    one.charge(np.array([0.5], dtype=np.float32))
    other.charge(np.array([0.5]))
    assert one.spent[0] == pytest.approx(0.5 * 1.001, rel=1e-12)
    assert other.spent[0] == pytest.approx(0.5 * (1 + 1e-9), rel=1e-12)
    with pytest.raises(TypeError, match="grad_norms must be float64, float32 or integers, got dtype float16"):
        other.charge(np.array([0.5], dtype=np.float16))
    assert other.n_steps == 1


def test_settings_of_a_step_count_for_it():
    filter_ = keeper(9.0, noise_std=2.0, step_size=0.5, batch_size=4.0)
    filter_.charge([8.0])
    filter_.charge([8.0], noise_std=1.0, step_size=1.0)
    assert filter_.spent[0] == pytest.approx(np.hypot(0.5, 2.0), rel=1e-8)


def trained(norm_of, records, *, budget, noise, steps=40):
    """Return the path of noisy descent on a squared loss with clipped gradients, and who took part when."""
    filter_ = keeper(budget, n_records=len(records), noise_std=0.1 * 2.0, step_size=0.1)
    theta, path, active = 0.0, [], []
    for t in range(steps):
        gradients = np.clip(theta - records, -1.0, 1.0)
        allowed = filter_.charge(norm_of(gradients))
        theta = theta - 0.1 * float(gradients[allowed].sum()) + 0.2 * noise[t]
        path.append(theta)
        active.append(allowed)
    return np.array(path), np.array(active), filter_


def test_an_exhausted_record_contributes_nothing_to_what_follows():
    rng = np.random.default_rng(0)
    records, noise = rng.normal(size=6), rng.normal(size=40)
    records[0] = 50.0
    path, active, filter_ = trained(np.abs, records, budget=1.5, noise=noise)
    gone = int(np.argmin(active[:, 0]))
    assert 0 < gone < 40
    assert not active[gone:, 0].any()
    # From there on the steps are those of the records without it, to the bit.
    theta = path[gone - 1]
    for t in range(gone, 40):
        gradients = np.clip(theta - records[1:], -1.0, 1.0)
        theta = theta - 0.1 * float(gradients[active[t, 1:]].sum()) + 0.2 * noise[t]
        assert theta == path[t]
    assert (filter_.spent <= 1.5).all()


def test_paths_with_and_without_a_record_are_as_close_as_its_budget_says():
    rng, budget, epsilon = np.random.default_rng(1), 0.9, 0.7
    records, gains, spent = np.array([0.1, -0.2, 3.0]), [], []
    for _ in range(500):
        noise = rng.normal(size=40)
        path, active, filter_ = trained(np.abs, records, budget=budget, noise=noise)
        before = np.concatenate([[0.0], path[:-1]])
        # The step moves by so many standard deviations more than without the last record.
        moved = np.where(active[:, 2], -0.1 * np.clip(before - 3.0, -1.0, 1.0) / 0.2, 0.0)
        loss = float((moved * noise + 0.5 * moved**2).sum())  # log of the ratio of the two densities
        gains.append(max(0.0, 1.0 - np.exp(epsilon - loss)))
        spent.append(float(filter_.spent[2]))
    assert max(spent) <= budget
    assert np.mean(spent) > 0.8, "the budget is used"
    error = np.std(gains) / np.sqrt(len(gains))
    assert np.mean(gains) <= float(gdp_delta(budget, epsilon)) + 4 * error
    assert np.mean(gains) >= 0.5 * float(gdp_delta(budget, epsilon)), "the comparison says something"


def test_it_is_tighter_than_renyi_budgets_for_the_same_claim():
    epsilon = float(gdp_epsilon(0.6, 1e-5))
    gaussian, order = keeper(0.6, noise_std=3.0), 12.0
    step = {"noise_std": 3.0, "step_size": 1.0, "batch_size": 1.0, "sampling_probability": 1.0}
    budget = 0.5 * order * 0.36
    while RenyiFilter(order, budget, n_records=1, **step).epsilon(delta=1e-5) > epsilon:
        budget *= 0.99
    renyi = RenyiFilter(order, budget, n_records=1, **step)
    steps = [sum(bool(one.charge([0.5])[0]) for _ in range(40)) for one in (gaussian, renyi)]
    assert steps[0] > steps[1] > 0


def test_the_claim_is_about_budgets_fixed_beforehand():
    filter_ = keeper([0.5, 1.0], n_records=2)
    assert filter_.status == "certified"
    assert filter_.epsilon(delta=1e-5) == float(gdp_epsilon(1.0, 1e-5))
    assert filter_.epsilon(delta=1e-5, within=0.25) == float(gdp_epsilon(0.25, 1e-5))
    assert filter_.epsilon(delta=1e-5, within=7.0) == filter_.epsilon(delta=1e-5)
    before = filter_.epsilon(delta=1e-5)
    filter_.charge([0.1, 0.2])
    assert filter_.epsilon(delta=1e-5) == before, "what was spent may not enter"
    assert keeper(np.inf).epsilon(delta=1e-5) == np.inf
    assert any("fixed before training" in text for text in filter_.may_be_claimed)
    assert any("spent" in text and "epsilon" in text for text in filter_.may_not_be_claimed)
    with pytest.raises(ValueError, match="read-only"):
        filter_.budget[0] = 9.0
    filter_.spent[:] = 0.0
    filter_.active[:] = False
    assert filter_.spent[0] > 0.0
    assert filter_.active.all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": np.nan}, "budget must be free of NaN"),
        ({"budget": -1.0}, "budget must be >= 0"),
        ({"budget": [1.0, 1.0]}, r"budget must be a number or have shape \(1,\), got shape \(2,\)"),
        ({"budget": 1.0, "n_records": 0}, "n_records must be >= 1"),
        ({"budget": 1.0, "noise_std": np.nan}, "noise_std must be finite"),
        ({"budget": 1.0, "step_size": 0.0}, "step_size must be > 0"),
        ({"budget": 1.0, "batch_size": -1.0}, "batch_size must be > 0"),
    ],
)
def test_arguments_are_refused_by_name(arguments, words):
    with pytest.raises(ValueError, match=words):
        keeper(arguments.pop("budget"), **arguments)


def test_bad_norms_charge_nothing():
    filter_ = keeper(1.0, n_records=2)
    with pytest.raises(ValueError, match="grad_norms must be >= 0, got -1"):
        filter_.charge([0.5, -1.0])
    with pytest.raises(ValueError, match=r"grad_norms must have shape \(2,\), got \(3,\)"):
        filter_.charge([0.5, 0.5, 0.5])
    with pytest.raises(TypeError, match="grad_norms must not be a masked array"):
        filter_.charge(np.ma.array([0.5, 0.5], mask=[0, 1]))
    assert filter_.n_steps == 0
    assert filter_.spent.tolist() == [0.0, 0.0]
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="delta must be"):
            filter_.epsilon(delta=bad)
    with pytest.raises(ValueError, match="within must be"):
        filter_.epsilon(delta=0.1, within=np.nan)


@given(cut=st.integers(0, 9), budget=st.floats(0.1, 1.0))
def test_a_filter_goes_on_where_its_state_was_taken(cut, budget):
    clipped = np.minimum(NORMS, 1.0)
    whole, half = (keeper(budget, n_records=6, noise_std=3.0) for _ in range(2))
    for t in range(9):
        whole.charge(clipped[:, t])
    for t in range(cut):
        half.charge(clipped[:, t])
    state = half.state()
    resumed = keeper(budget, n_records=6, noise_std=3.0)
    resumed.restore(state)
    state["squares"][:] = 0.0  # a copy
    for t in range(cut, 9):
        resumed.charge(clipped[:, t])
    np.testing.assert_array_equal(resumed.spent, whole.spent)
    np.testing.assert_array_equal(resumed.active, whole.active)
    assert resumed.n_steps == 9


def test_states_of_other_filters_are_refused():
    full = keeper(0.6, n_records=6, noise_std=3.0)
    full.charge(np.ones(6))
    with pytest.raises(ValueError, match="state must be of 5 records, got 6"):
        keeper(0.6, n_records=5).restore(full.state())
    small = keeper(0.1, n_records=6)
    with pytest.raises(ValueError, match="no record above its budget"):
        small.restore(full.state())
    with pytest.raises(ValueError, match="no record above its budget"):
        small.restore({**full.state(), "squares": np.full(6, np.nan)})
    assert small.n_steps == 0
