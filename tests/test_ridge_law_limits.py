"""Limits of the law of a ridge deletion: sizes refused by name, units that change nothing, errors that add up."""

from dataclasses import replace

import numpy as np
import pytest

from expunge.data.close_products import TINY, UNIT
from expunge.runs.ridge.law import LawPair, Phase, RidgeDeletion, require_squares, smoothness
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.rounding import LawErrors

ONES = np.ones((3, 1))


def deletion(X=None, Y=None, *, alpha=1.0, step_size=0.1, deleted=(0,)):
    X = np.array([[1.0, 0.5], [0.3, -1.0], [0.2, 0.7]]) if X is None else X
    return RidgeDeletion(X, ONES if Y is None else Y, alpha=alpha, step_size=step_size, deleted=deleted)


def state(variance, *, difference=(0.0, 0.0), shift=0.0, errors=True):
    none = LawErrors.none(2, 1) if errors else None
    zero = np.zeros((2, 1))
    return LawPair(zero, np.full((2, 1), shift), np.array(variance), np.diag(difference), 1, none)


def test_noise_whose_square_is_out_of_range_is_refused():
    require_squares(Phase(1, 1e100))
    for noise_std in (1.1e100, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"^noise_std must be at most 1e\+100"):
            require_squares(Phase(1, noise_std))
        case = deletion()
        with pytest.raises(ValueError, match=r"^noise_std must be at most 1e\+100"):
            case.advance(case.start, Phase(1, noise_std))


def test_a_penalty_whose_square_is_out_of_range_is_refused():
    for alpha in (1.1e200, 1e250, np.inf):
        with pytest.raises(ValueError, match=r"^alpha must be at most 1e\+200"):
            deletion(alpha=alpha, step_size=1e-260)
    assert deletion(alpha=1e200, step_size=1e-200).alpha == 1e200


@pytest.mark.parametrize("size", [1e147, 1e153])
def test_squares_that_leave_no_room_to_be_split_are_refused(size):
    with pytest.raises(ValueError, match=r"^design must have squares"):
        deletion(np.diag([size, 1.0, 1.0]), step_size=1e-310)


@pytest.mark.parametrize("design", [[[1e200, 1e200], [1e200, -1e200], [1.0, 1.0]], [[1e200, 1e200, 1.0]]])
def test_overflow_is_refused_without_a_warning(design):
    for X in (np.array(design), np.array(design).T):
        with np.errstate(all="raise"), pytest.raises(ValueError, match=r"^design must have squares"):
            smoothness(X, alpha=1.0)


@pytest.mark.parametrize("exponent", [-40, -3, 20])
def test_units_do_not_change_the_frame(exponent):
    """Features times 2^k, penalty times 4^k, step size over 4^k: every product scales exactly, and the frame stays."""
    X = np.random.default_rng(0).normal(size=(5, 2))
    one = deletion(X, np.ones((5, 1)), step_size=0.05).reference
    scale = 2.0**exponent
    other = deletion(X * scale, np.ones((5, 1)), alpha=scale**2, step_size=0.05 / scale**2).reference
    np.testing.assert_allclose(other.frame, one.frame, rtol=1e-6)
    assert one.frame.norm < 1e-13


def test_products_with_targets_are_off_by_sums_of_both_parts_and_underflow():
    """A deleted row that holds all of the moment: the sum over 2 rows is off by a rounding, its own by another."""
    X, Y = np.array([[1e3, 0.0], [0.0, 1e-3]]), np.array([[1.0], [0.0]])
    found = deletion(X, Y, step_size=1e-7).reference.moment_error[0]
    assert 2e3 * UNIT <= found <= 2e3 * UNIT * 1.01
    kept = np.array([[1e3, 0.0], [0.0, 1e-3], [1e3, 0.0]])  # and what is left of it is rounded once more
    found = Products(kept, Y[[0, 1, 0]]).without([0], alpha=1.0).moment_off[0]
    assert 4e3 * UNIT <= found <= 4e3 * UNIT * 1.01
    found = deletion(Y=np.zeros((3, 1))).reference.moment_error[0]
    assert 32 * TINY <= found <= 33 * TINY  # four for each number of each row, of all and of the deleted one


def test_a_feature_that_is_always_zero_adds_a_coordinate_without_difference():
    """Two phases with the deleted row: what the first left is carried, though its covariance is diagonal."""
    X, phases = np.array([[1.0], [0.5], [0.7]]), [Phase(2, 0.5), Phase(2, 0.3, (1,)), Phase(3, 0.2, (0, 1))]
    bare = RidgeDeletion(X, ONES, alpha=1.0, step_size=0.2, deleted=[0, 1])
    wide = RidgeDeletion(np.column_stack([X, np.zeros(3)]), ONES, alpha=1.0, step_size=0.2, deleted=[0, 1])
    one, two = bare.pair(bare.run(phases)), wide.pair(wide.run(phases))
    assert abs(one.excess_variance[0]) > 1e-3
    np.testing.assert_allclose(np.sort(np.abs(two.excess_variance)), [0.0, abs(one.excess_variance[0])], atol=1e-13)


def test_laws_without_bounds_on_their_errors_are_an_estimate_only():
    with pytest.raises(ValueError, match=r"^state must come from advance\(\.\.\., proved=True\)"):
        deletion().pair(state([1.0, 1.0], errors=False))
    found = deletion().estimated_pair(state([4.0, 1.0], difference=(2.0, -0.25), shift=1.0, errors=False))
    assert found.excess_variance.tolist() == [-0.25, 0.5]
    assert np.abs(found.shift).tolist() == [[1.0], [0.5]]
    assert found.excess_error == found.shift_error == 0.0


@pytest.mark.parametrize("excess", [-1.0, -1.5, -3.0])
def test_an_estimate_of_a_singular_pair_is_refused(excess):
    with pytest.raises(ValueError, match=r"^the pair is numerically singular"):
        deletion().estimated_pair(state([1.0, 1.0], difference=(0.0, excess)))


def test_differences_that_underflow_when_whitened_raise_nothing():
    case = state([1e200, 1e200], difference=(1e-200, 0.0), shift=1e-250)
    with np.errstate(under="raise"):
        assert not deletion().estimated_pair(case).shift.any()


def test_laws_beyond_float64_are_refused_without_a_warning():
    case = deletion(Y=ONES * 1e200)
    with pytest.raises(ValueError, match="singular"):
        case.pair(case.run([Phase(1, 1e-60), Phase(3, 1e-60, (0,))]))


def test_differences_of_infinities_are_refused_without_a_warning():
    """Sums of products that overflow to both signs, in whichever order a library takes them."""
    X = np.array([[1e200, 1e200], [1e200, -1e200]] * 800)
    for rows in (X, X[np.arange(1600) // 384 % 2], X[np.argsort(X[:, 1])]):
        for design in (rows, rows.T.copy()):
            with pytest.raises(ValueError, match=r"^design must have squares"):
                smoothness(design, alpha=1.0)
    X = X[:16]
    with pytest.raises(ValueError, match=r"^targets must have squares"):
        deletion(np.sign(X), np.array([[1e308], [-1e308]] * 8), step_size=0.01)


def test_bounds_beyond_float64_are_refused_without_a_warning():
    vast = state([1e-200, 1e-200])
    vast = replace(vast, errors=vast.errors._replace(covariance_difference=np.full((2, 2), 1e200)))
    with pytest.raises(ValueError, match="numerically singular"):
        deletion().pair(vast)
    case = deletion(np.array([[1.0, 0.0], [0.3, 0.0], [0.2, 0.0]]))
    infinite = replace(state([1.0, 1.0]), errors=vast.errors._replace(covariance_difference=np.full((2, 2), np.inf)))
    with pytest.raises(ValueError, match="numerically singular"):
        case.pair(case.advance(infinite, Phase(3, 0.5)))
