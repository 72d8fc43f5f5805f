"""Scaling by constants: a function of each record alone, within its range, and never silently outside the bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from expunge import LangevinRidge
from expunge.certificates import CONDITIONS
from expunge.data import ConstantScaler

CONTRACT = [
    pytest.param(scaler, check, id=getattr(check, "func", check).__name__)
    for scaler, check in estimator_checks_generator(ConstantScaler(-1e3, 1e3, outside="clip"))
]


@pytest.mark.parametrize(("scaler", "check"), CONTRACT)
def test_scikit_learn_contract(scaler, check):
    check(scaler)


BOUNDED = st.floats(-1e6, 1e6)


@given(
    arrays.arrays(np.float64, (5, 3), elements=st.floats(0, 1)),
    arrays.arrays(np.float64, 3, elements=BOUNDED),
    arrays.arrays(np.float64, 3, elements=st.floats(1e-3, 1e6)),
)
def test_scaled_values_lie_in_the_range_and_come_back(share, low, width):
    high = low + width
    X = np.clip(low + share * width, low, high)
    scaler = ConstantScaler(low, high).fit(X)
    scaled = scaler.transform(X)
    assert np.abs(scaled).max() <= 1
    back = scaler.inverse_transform(scaled)
    np.testing.assert_allclose(back, X, rtol=0, atol=1e-15 * 16 * float(np.abs([low, high]).max()))
    assert np.linalg.norm(scaled, axis=1).max() <= np.sqrt(3)


def test_the_bounds_themselves_go_to_the_ends_of_the_range():
    scaler = ConstantScaler([0, 10], [1, 30], feature_range=(0, 1))
    assert scaler.fit_transform([[0, 30], [1, 10]]).tolist() == [[0, 1], [1, 0]]


def test_scaling_a_record_depends_on_no_other_record():
    rng = np.random.default_rng(0)
    X = rng.uniform(-3, 3, (20, 4))
    scaler = ConstantScaler(-3, 3)
    assert np.array_equal(scaler.fit(X).transform(X[:5]), clone(scaler).fit(X[:5]).transform(X[:5]))


def test_a_value_outside_is_refused_by_name_or_clipped():
    pandas = pytest.importorskip("pandas", reason="names of columns need pandas")
    frame = pandas.DataFrame({"age": [20.0, 130.0], "income": [1.0, 2.0]})
    scaler = ConstantScaler([0, 0], [120, 10]).fit(frame)
    with pytest.raises(ValueError, match=r"130 in row 1, outside \[0, 120\] of feature age"):
        scaler.transform(frame)
    clipped = ConstantScaler([0, 0], [120, 10], outside="clip").fit_transform(frame)
    assert clipped[1, 0] == 1
    with pytest.raises(ValueError, match="feature names"):
        scaler.transform(frame[["income", "age"]])


def test_bounds_from_data_warn_and_later_values_are_clipped():
    with pytest.warns(UserWarning, match="depend on every record"):
        scaler = ConstantScaler.from_data([[1.0, 7.0], [3.0, 7.0]])
    assert scaler.fit([[1.0, 7.0]]).transform([[9.0, 7.0]]).tolist() == [[1.0, 0.0]]
    assert clone(scaler).fit([[1.0, 7.0]]).conditions_ == (CONDITIONS["scale"],)
    assert ConstantScaler(0, 9).fit([[1.0, 7.0]]).conditions_ == ()


def test_scaling_by_the_data_makes_certificates_conditional_by_name():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    with pytest.warns(UserWarning, match="conditions=scaler.conditions_"):
        measured = ConstantScaler.from_data(X)
    for scaler, status in ((measured, "conditional"), (ConstantScaler(-9, 9), "certified")):
        scaled = scaler.fit_transform(X)
        model = LangevinRidge(step_size=1e-3, noise_std=0.1).fit(scaled, y, conditions=scaler.conditions_)
        certificate = model.unlearn(3, epsilon=1.0, delta=1e-5, n_steps=10, noise_std=1.0).certificate
        assert certificate.status == status
        assert certificate.conditions == scaler.conditions_


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"low": 1, "high": 1}, "low"),
        ({"low": [0, 2], "high": [1, 1]}, "feature 1"),
        ({"low": np.nan, "high": 1}, "low"),
        ({"low": 0, "high": np.inf}, "high"),
        ({"low": -1e308, "high": 1e308}, "low"),
        ({"low": [0, 0, 0], "high": 1}, "low"),
        ({"low": 0, "high": 1, "outside": "drop"}, "outside"),
        ({"low": 0, "high": 1, "source": "known"}, "source"),
        ({"low": 0, "high": 1, "feature_range": (1, -1)}, "feature_range"),
    ],
)
def test_bad_bounds_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        ConstantScaler(**arguments).fit(np.zeros((2, 2)))
