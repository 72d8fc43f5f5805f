"""Noise of fits, quotes and deletions: one floor for all, answers in every corner, and steps on what remains alone."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge import LangevinRidge, LangevinRidgeClassifier
from expunge.accounting.noise_floor import RESOLUTION
from expunge.cli.quote import quote_json
from expunge.runs.ridge.law import phase_floors

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")

TARGET = {"epsilon": 1.0, "delta": 1e-5}
GENERATOR = np.random.default_rng(7)
N, D = 30, 3
X = GENERATOR.normal(size=(N, D))
Y = X @ np.arange(1.0, 4.0) + GENERATOR.normal(size=N)


@pytest.fixture(scope="module")
def model():
    return LangevinRidge(noise_std=0.05, random_state=0).fit(X, Y)


def last_noise(result):
    return result.certificate.run.phases[-1].noise_std


def floor_of(model, result):
    """Return the floor of the last deletion from all rows of the first fit."""
    history, fit = result.model._history, model._history
    return phase_floors(
        fit.design,
        fit.targets,
        alpha=history.alpha,
        step_size=history.step_size,
        phases=history.phases,
        deleted=history.removed,
    )[-1]


# --- the right rows ------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.sets(st.integers(0, N - 1), min_size=1, max_size=10), st.sampled_from(["regressor", "classifier"]))
def test_without_noise_many_steps_are_the_optimum_of_what_remains(rows, kind):
    """Stepping on all rows would lead to another optimum: the deletion would have deleted nothing.

    Deleted one after the other, or some of them first: none of the rows comes back.
    """
    estimator = LangevinRidge if kind == "regressor" else LangevinRidgeClassifier
    more = {} if kind == "regressor" else {"classes": [0, 1]}
    targets = Y if kind == "regressor" else (Y > 0).astype(int)
    model = estimator(noise_std=0.05, random_state=1, **more).fit(X, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge.estimators._deleting.os_normals", lambda step, shape: np.zeros(shape))
        # No certificate is issued for a model without the noise it claims.
        patch.setattr("expunge.estimators._deleting.DeletingRidge._certificate", lambda *_, **__: None)
        asked = {**TARGET, "n_steps": 500, "noise_std": 100.0}
        first, *others = sorted(rows)
        results = [model.unlearn(sorted(rows), **asked)]
        if others:
            before = model.unlearn(first, **asked).model
            results.append(before.unlearn(others, **asked))
            assert np.array_equal(before.downdate(others).coef_, model.downdate(sorted(rows)).coef_)
    optimum = model.downdate(sorted(rows))
    expected = np.column_stack([np.atleast_2d(optimum.coef_), np.atleast_1d(optimum.intercept_)])
    for result in results:
        assert result.model._history.phases[-1].noise_std == 100  # silenced, not absent
        found = np.column_stack([np.atleast_2d(result.model.coef_), np.atleast_1d(result.model.intercept_)])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


# --- one floor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [200, 1000, 2000, 20_000])
@pytest.mark.parametrize("method", ["exact", "shifted"])
def test_a_quote_never_promises_less_than_a_deletion_takes(model, n_steps, method):
    result = model.unlearn(4, **TARGET, n_steps=n_steps, method=method)
    quote = model.quote(**TARGET, n_steps=n_steps, method=method, indices=[4])
    floor = floor_of(model, result)
    assert last_noise(result) >= floor > 0
    assert quote.noise_std[0] == pytest.approx(last_noise(result), rel=1e-5)
    assert quote.epsilon[0] <= 1.0
    if n_steps > 200:  # no more than float64 keeps is needed
        assert quote.noise_std[0] == floor
    result.certificate.verify(X, Y, result.model)


def test_no_quote_lies_below_the_floor(model):
    quote = model.quote(**TARGET, n_steps=200)
    parameters = float(np.abs(np.r_[model.coef_, model.intercept_]).max())
    assert np.all((quote.noise_std == 0) | (quote.noise_std > 0.5 * RESOLUTION * parameters))


def test_the_floor_has_the_size_of_the_parameters():
    """No absolute size: data in other units need noise in other units."""
    noise = []
    for unit in (1.0, 1e-6, 1e6):
        model = LangevinRidge(noise_std=0.05 * unit, random_state=0).fit(X, Y * unit)
        noise.append(last_noise(model.unlearn(4, **TARGET, n_steps=2000)) / unit)
    np.testing.assert_allclose(noise, noise[0], rtol=1e-9)


def test_learning_noise_below_the_floor_is_refused_or_none(model):
    floor = RESOLUTION * float(np.abs(np.r_[model.coef_, model.intercept_]).max())
    for lost in (1e-3 * floor, 1e-18, 5e-324):
        with pytest.raises(ValueError, match="noise_std must be 0"):
            LangevinRidge(noise_std=lost).fit(X, Y)
    LangevinRidge(noise_std=0.0).fit(X, Y)
    LangevinRidge(noise_std=1.1 * floor).fit(X, Y)


def test_noise_is_lost_where_the_record_kept_parameters_small():
    """The floor is that of both runs: without a record that cancelled the others, parameters swallow the noise."""
    model = LangevinRidge(noise_std=1e-12, fit_intercept=False, n_steps=50)
    model.fit(np.ones((4, 1)), np.array([1.0, -1.0, 1e-8, 0.0]))
    with pytest.raises(ValueError, match="of learning is lost in the rounding of float64"):
        model.unlearn(1, **TARGET, n_steps=5)
    quote = model.quote(**TARGET, n_steps=5, indices=[1, 3])
    assert (quote.noise_std[0], quote.direction[0], bool(quote.certified[0])) == (np.inf, "", False)
    assert 0 <= quote.noise_std[1] < np.inf
    assert model.quote(**TARGET, noise_std=1.0, indices=[1]).n_steps.tolist() == [-1]


def test_too_much_noise_is_refused_by_name(model):
    for noise in (1e308, 1e200, np.inf):
        for call in (
            lambda noise=noise: LangevinRidge(noise_std=noise).fit(X, Y),
            lambda noise=noise: model.quote(**TARGET, noise_std=noise),
            lambda noise=noise: model.unlearn(0, **TARGET, n_steps=5, noise_std=noise),
        ):
            with pytest.raises(ValueError, match="noise_std must be"):
                call()


def test_quoted_noise_that_is_lost_is_refused(model):
    with pytest.raises(ValueError, match="noise_std must be between"):
        model.quote(**TARGET, noise_std=1e-12)


def test_given_noise_below_the_floor_is_refused_where_none_is_needed():
    model = LangevinRidge(noise_std=0.5, random_state=0).fit(X, Y)
    free = int(np.flatnonzero(model.quote(**TARGET, n_steps=10).noise_std == 0)[0])
    with pytest.raises(ValueError, match="noise_std must be 0 or at least"):
        model.unlearn(free, **TARGET, n_steps=10, noise_std=1e-12)
    assert last_noise(model.unlearn(free, **TARGET, n_steps=10, noise_std=0.0)) == 0
    assert last_noise(model.unlearn(free, **TARGET, n_steps=10, noise_grid=[1e-12, 0.25])) == 0.25


# --- corners -------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 700.0, 710.0, 1e300])
@pytest.mark.parametrize("method", ["exact", "shifted", "uniform"])
@pytest.mark.parametrize("n_steps", [1, 30, 5000])
def test_every_target_has_an_answer_or_a_plain_refusal(model, epsilon, method, n_steps):
    target = {"epsilon": epsilon, "delta": 1e-5, "n_steps": n_steps, "method": method}
    if method != "exact" and epsilon > np.log(10):
        with pytest.raises(ValueError, match=r"cannot be reached by any noise: method .* needs e\^epsilon < 10"):
            model.unlearn(3, **target)
        assert model.quote(**target, indices=[3]).noise_std.tolist() == [np.inf]
        return
    result = model.unlearn(3, **target)
    certificate = result.certificate
    assert 0 < certificate.delta_pq <= 1e-5
    assert 0 < certificate.delta_qp <= 1e-5
    certificate.verify(X, Y, result.model)


def test_many_steps_end_with_a_bound(model):
    certificate = model.unlearn(3, **TARGET, n_steps=10**5).certificate
    assert 0 < max(certificate.delta_pq, certificate.delta_qp) <= 1e-5


@pytest.mark.parametrize(
    ("scale", "unit", "name"), [(1.0, 1e307, "y is finite"), (1.0, 1e160, "y is finite"), (1e160, 1.0, "X is finite")]
)
def test_data_that_overflow_are_refused_for_that_reason(scale, unit, name):
    with pytest.raises(ValueError, match=f"{name}, but its squares or products overflow float64"):
        LangevinRidge().fit(scale * X, unit * Y)
    with pytest.raises(ValueError, match="overflow float64"):
        LangevinRidge(fit_intercept=False).fit(scale * X, unit * Y)


@settings(max_examples=40)
@given(st.integers(-150, 150), st.integers(-150, 150), st.booleans())
def test_no_scale_of_data_gives_a_model_that_is_not_finite(features, targets, intercept):
    scaled, wanted = X * 10.0**features, Y * 10.0**targets
    try:
        model = LangevinRidge(fit_intercept=intercept, noise_std=0.0).fit(scaled, wanted)
    except ValueError as refusal:
        assert "overflow" in str(refusal)  # noqa: PT017 - either outcome is right, but only this reason
        return
    assert np.isfinite(model.release().coef_).all()
    assert np.isfinite(model.predict(scaled)).all()


def test_a_prediction_that_overflows_is_refused():
    model = LangevinRidge(noise_std=0.0).fit(X, 1e100 * Y)
    for one in (model, model.release()):
        with pytest.raises(ValueError, match="row 1 overflows"):
            one.predict([[1.0, 1.0, 1.0], [1e250, -1e250, 1e250]])


# --- the direction that binds --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "shifted"])
def test_a_quote_names_the_direction_that_binds(model, method):
    quote = model.quote(**TARGET, n_steps=10, method=method)
    assert set(quote.direction) <= {"P|Q", "Q|P"}
    for row in (0, 5, 9):
        if quote.noise_std[row] > 0:
            certificate = model.unlearn(row, **TARGET, n_steps=10, method=method).certificate
            assert quote.direction[row] == certificate.direction
    assert quote.direction.tolist() == quote._columns()["direction"].tolist()
    assert [row["direction"] for row in json.loads(quote_json(quote))["records"]] == quote.direction.tolist()


def test_no_direction_binds_where_no_noise_does(model):
    assert model.quote(epsilon=3.0, delta=1e-5, n_steps=5, method="shifted", indices=[0]).direction.tolist() == [""]


def test_directions_of_groups_and_after_a_deletion(model):
    groups = model.quote(**TARGET, n_steps=10, groups=np.arange(N) // 3)
    assert groups.direction[2] == model.unlearn([6, 7, 8], **TARGET, n_steps=10).certificate.direction
    later = model.unlearn(0, **TARGET, n_steps=10).model
    quote = later.quote(**TARGET, n_steps=10, indices=[4])
    if quote.noise_std[0] > 0:
        assert quote.direction[0] == later.unlearn(4, **TARGET, n_steps=10).certificate.direction


def test_a_quote_is_printed_as_a_person_would(model):
    text = repr(model.quote(**TARGET, n_steps=10))
    assert text.startswith("<Quote of 30 records for epsilon = 1, delta = 1e-05: median noise_std 0.0")
    assert "median steps" in repr(model.quote(**TARGET, noise_std=0.01))


def test_noise_never_grows_with_epsilon_however_large(model):
    quoted, taken = [], []
    for epsilon in (0.1, 1.0, 1e3, 1e15, 1e16, 1e100, 1e308):
        asked = {"epsilon": epsilon, "delta": 1e-5, "n_steps": 10}
        quoted.append(model.quote(**asked, indices=[4]).noise_std[0])
        taken.append(model.unlearn(4, **asked).certificate.run.phases[-1].noise_std)
    assert np.all(np.diff(quoted) <= 0)
    assert np.all(np.diff(taken) <= 0)


@pytest.mark.parametrize("delta", [5e-324, 1e-300])
@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_a_delta_too_small_to_be_shared_among_steps_is_refused_by_name(method, delta):
    X = np.random.default_rng(0).normal(size=(20, 2))
    model = LangevinRidge(step_size=0.01).fit(X, X[:, 0], of_program=False)
    asked = {"epsilon": 1.0, "n_steps": 20, "method": method}
    for ask in (partial(model.unlearn, 0), model.quote):
        with pytest.raises(ValueError, match="delta must be at least 1e-270 for method"):
            ask(**asked, delta=delta)
        ask(**asked, delta=1e-269)
