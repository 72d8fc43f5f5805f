"""Scaling by constants at its edges: data that bound nothing, a range without width, a scaler that was not fitted."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from expunge.data import ConstantScaler


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.zeros((0, 3)), r"at least one row and one column, got shape \(0, 3\)"),
        (np.zeros((3, 0)), r"at least one row and one column, got shape \(3, 0\)"),
        (np.zeros(3), r"X must have 2 dimension"),
        (np.zeros((2, 2, 2)), r"X must have 2 dimension"),
    ],
)
def test_bounds_come_from_a_table_of_records_alone(X, match):
    with pytest.raises(ValueError, match=match):
        ConstantScaler.from_data(X)


def test_a_feature_of_one_value_gets_its_size_or_1_on_either_side():
    with pytest.warns(UserWarning, match="taken from the data"):
        scaler = ConstantScaler.from_data([[0.25, -8.0, 1.0]])
    assert scaler.low.tolist() == [-0.75, -16.0, 0.0]
    assert scaler.high.tolist() == [1.25, 0.0, 2.0]


def test_a_scaler_from_data_keeps_the_range_and_the_rule_it_is_given():
    with pytest.warns(UserWarning, match="taken from the data"):
        scaler = ConstantScaler.from_data([[0.0], [4.0]], feature_range=(0, 1), outside="refuse").fit([[0.0]])
    assert scaler.transform([[3.0]]).tolist() == [[0.75]]
    with pytest.raises(ValueError, match=r"outside \[0, 4\]"):
        scaler.transform([[5.0]])


@pytest.mark.parametrize(
    "ends", [(0.5, 0.5), (1.0, -1.0), (-1e308, 1e308), (0.0, 1.0, 2.0), (1.0,), ((0.0, 1.0),), 1.0]
)
def test_a_range_is_two_numbers_that_rise_by_a_finite_width(ends):
    with pytest.raises(ValueError, match="feature_range must"):
        ConstantScaler(0, 1, feature_range=ends).fit([[0.5]])


def test_a_scaler_that_was_not_fitted_says_so():
    for act in (ConstantScaler(0, 1).transform, ConstantScaler(0, 1).inverse_transform):
        with pytest.raises(NotFittedError, match="ConstantScaler"):
            act([[0.5]])


def test_what_comes_back_has_one_column_per_feature():
    scaler = ConstantScaler([0, 0], [1, 10]).fit([[0.5, 5.0]])
    assert scaler.inverse_transform([[0.0, 1.0]]).tolist() == [[0.5, 10.0]]
    for X in ([[0.0]], [[0.0, 0.0, 0.0]], [0.0, 0.0], [[[0.0, 0.0]]]):
        with pytest.raises(ValueError, match="X must have"):
            scaler.inverse_transform(X)


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble, np.int8, object, "U3"])
def test_whatever_holds_numbers_is_scaled_in_float64_and_left_as_it_was(dtype):
    X = np.array([[3, 9]]).astype(dtype)
    before = X.copy()
    scaled = ConstantScaler(0, 12).fit_transform(X)
    assert scaled.dtype == np.float64
    assert scaled.tolist() == [[-0.5, 0.5]]
    assert np.array_equal(X, before)


def test_what_a_mask_hides_is_not_scaled():
    masked = np.ma.masked_greater(np.array([[3.0], [9.0]]), 5)
    scaler = ConstantScaler(0, 12).fit([[3.0]])
    for act in (ConstantScaler(0, 12).fit, scaler.transform, scaler.inverse_transform):
        with pytest.raises(TypeError, match="X must not be a masked array"):
            act(masked)
