"""Every source of rounding alone, of size 1e-6 where the other sources are 0: its bound against the first-order effect.

Two steps at contractions 1/2 and 1/4: a^2 = 1/4, 1/16 and 1 + a = 3/2, 5/4. Then s = 1/8 and c = 5/8, 3/8, and the
slopes |g[a_i, a_j]| <= L_ij (g(c_i) + g(c_j)) have L = 8 on the diagonal, 1/gap = 4 beside it.
"""

import math

import numpy as np
import pytest

from expunge.data.close_products import TINY, UNIT
from expunge.runs.ridge.rounding import (
    Basis,
    Frame,
    Jet,
    LawErrors,
    Rows,
    Step,
    _jets,
    _spread,
    advance_errors,
    pair_error,
    rotation,
)

OFF = 1e-6
POWER = np.array([[6.25, 2.125], [2.125, 2.25]])  # L (c_i^2 + c_j^2)
TOTAL = np.array([[26.0, 12.0], [12.0, 22.0]])  # L (1 + c_i + 1 + c_j)
EVEN = np.array([[22.25, 10.125], [10.125, 18.25]])  # L (1 + c_i^2 + 1 + c_j^2)
ROUNDS = 8 * UNIT * (2 + 8 + 2)


def about(found, true, room=0.01):
    """At least the effect, and at most the margins beyond it."""
    found, true = np.asarray(found), np.asarray(true)
    assert np.all(found >= true * (1 - 1e-9))
    assert np.all(found <= true * (1 + room) + 1e-10 * np.max(true))


def basis(a=(0.5, 0.25), *, moment=(0.0, 0.0), moment_error=0.0, column=0.0, norm=0.0, turn=0.0, apart=0.0):
    frame = Frame(column, norm, turn, apart)
    return Basis(np.ones(2), np.eye(2), np.array(a), np.array([moment]).T, frame, np.array([moment_error]))


def advance(reference, own=None, *, last=None, n_steps=2, tau2=0.0, eta=0.5, rows=None, variance=(0.0, 0.0), **start):
    state = {name: np.zeros((2, 1)) for name in ("mean_p", "mean", "end", "mean_difference")}
    for name, value in start.items():
        state[name] = np.array([value]).T if np.ndim(value) == 1 else np.array(value)
    difference = state.pop("covariance_difference", np.zeros((2, 2)))
    return advance_errors(
        LawErrors.none(2, 1)._replace(**(last or {})),
        Step(n_steps, tau2, eta),
        reference,
        reference if own is None else own,
        variance_q=np.array(variance),
        covariance_difference=difference,
        rows=rows,
        overlap=None if rows is None else np.eye(2),
        **state,
    )


ONE = [[1.0, 0.0], [0.0, 0.0]]


def test_variances_are_off_by_the_slopes_of_powers_and_even_sums():
    carried = OFF * np.array([[2 * 6.25 / 4, 2.125 / 4], [2.125 / 4, 0.0]])
    about(advance(basis(column=OFF), variance=(1.0, 0.0)).covariance_q, carried)
    about(advance(basis(column=OFF), covariance_difference=ONE).covariance_difference, carried)
    about(advance(basis(column=OFF), tau2=1.0).covariance_q, OFF * EVEN)


def test_exact_frames_leave_the_roundings_of_each_entry():
    found = advance(basis(), variance=(1.0, 1.0), tau2=1.0).covariance_q
    about(found, ROUNDS * np.diag([2 / 16 + 5 / 4, 2 / 256 + 17 / 16]))
    found = advance(basis(), covariance_difference=ONE).covariance_difference
    about(found, ROUNDS * np.diag([2 / 16, 0.0]))
    about(advance(basis(), mean_p=(3.0, 4.0)).mean_p, 5 / 4 * 2 * math.sqrt(2) * 4 * UNIT)
    about(advance(basis(), end=(3.0, 4.0)).mean_p, 5 * 2 * math.sqrt(2) * 4 * UNIT)


def test_what_a_phase_starts_from_is_carried_by_the_powers():
    full, shift = np.full((2, 2), OFF), np.full((2, 1), OFF)
    squares = OFF * np.array([[1 / 16, 1 / 64], [1 / 64, 1 / 256]])
    about(advance(basis(), last={"covariance_q": full}).covariance_q, squares)
    about(advance(basis(), last={"covariance_difference": full}).covariance_difference, squares)
    about(advance(basis(), last={"mean_difference": shift}).mean_difference, OFF * np.array([[1 / 4], [1 / 16]]))
    about(advance(basis(), last={"mean_p": np.array([OFF])}).mean_p, OFF / 4)


def test_means_are_off_by_the_frame_of_their_own_run():
    about(advance(basis(column=OFF), mean_difference=(1.0, 0.0)).mean_difference, OFF * POWER[:, :1])
    apart = basis(column=OFF)
    about(advance(basis(), apart, mean=(1.0, 0.0)).mean_p, OFF * math.hypot(6.25, 2.125))
    both = advance(basis(), basis(column=OFF, moment=(1.0, 0.0)), mean=(1.0, 0.0)).mean_p
    about(both, OFF * (math.hypot(6.25, 2.125) + 0.5 * math.hypot(26.0, 12.0)))
    about(advance(basis(), basis(moment_error=OFF)).mean_p, OFF * 0.5 * 1.5)
    about(advance(basis(), basis(apart=OFF), mean_p=(3.0, 4.0)).mean_p, OFF * 5 / 4)
    about(advance(basis(), basis(apart=OFF), end=(3.0, 4.0)).mean_p, OFF * 5)


def test_underflow_costs_a_number_that_grows_with_what_it_meets():
    """Zeros, and sizes that roundings leave no trace of."""
    lost = 1e3 * 4 * TINY * 100
    nothing = advance(basis(), n_steps=9)
    about(nothing.mean_p, lost)
    about(nothing.mean_difference, lost * 10)
    about(nothing.covariance_difference, lost)
    about(advance(basis(), n_steps=9, variance=(1e10, 0.0)).covariance_difference, lost * (1 + 1e10))
    about(advance(basis(), n_steps=9, mean=(1e10, 0.0)).mean_difference, lost * 10 * (1 + 1e10))


def rest(*factors):
    """A product of jets: all of it beyond value and first order."""
    values, linear = [v for v, _, _ in factors], sum(m * math.prod(v for v, _, _ in factors) / v for v, m, _ in factors)
    return math.prod(sum(f) for f in factors) - math.prod(values) - linear


def test_jets_are_geometric_series_of_the_perturbation():
    """Of a^N at N = 2, reach a/N, and of sums of powers: at most 2/(1 - a), or e^2 N while N (1 - a) < 2."""
    power, slope, total, total_slope = _jets(0.5, 1e-3, 0.0, 2)
    about(power, (0.5625, 0.00225, 1.2 * 0.004**2 * 0.5625))
    about(slope, (2.25, 2 * 0.004 * 2.25, 4 * 0.004**2 * 2.25))
    about(total, (14.8, 0.002 * 14.8, 1.2 * 0.002**2 * 14.8))
    about(total_slope, (29.6, 0.004 * 29.6, 4 * 0.002**2 * 29.6))
    _, _, total, total_slope = _jets(0.5, 1e-3, 0.0, 10)
    about(total, (4.0, 4 * 0.004, 1.2 * 4 * 0.004**2))
    about(total_slope, (16.0, 2 * 16 * 0.004, 4 * 16 * 0.004**2))
    assert _jets(0.0, 0.0, 0.0, 2)[0].value == pytest.approx(1.5e-3**2, rel=0.01)
    for jet in _jets(0.5, 0.1, 0.0, 2):
        assert jet == (math.inf, math.inf, math.inf)
    assert Jet(0.0, 0.0, 1.0) * Jet(0.0, 1.0, 0.0) == (0.0, 0.0, 1.0)
    assert Jet(0.0, 0.0, 1.0) * Jet(0.0, 0.0, 1.0) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("which", ["own", "reference"])
def test_higher_orders_follow_from_the_larger_frame_and_the_larger_contraction(which):
    power = (0.5625, 0.00225, 1.2 * 0.004**2 * 0.5625)
    far = {"own": {}, "reference": {}, which: {"norm": 1e-3}}
    found = advance(basis((0.2, 0.1), **far["reference"]), basis((0.5, 0.1), **far["own"]), variance=(1.0, 0.0))
    about(found.covariance_q, np.full((2, 2), rest(power, power)))
    assert np.all(found.covariance_difference < 1e-300)


# One deleted row (1, 0) with step size 1/2, own contractions (1/4, 1/2) beside (1/2, 1/2): c = 3/8 and 5/8 there, so
# that all divided differences are 1. What the row puts in is 1/2; the frames turn it by 4 + 4 each.
REFERENCE = (0.5, 0.5)
OWN = (0.25, 0.5)
GONE = 8 * UNIT * (2 + 8 + 2 + 1)


def deleted(own=None, reference=None, *, target=0.0, **start):
    row = np.array([[1.0, 0.0]])
    rows = Rows(row, row, row, np.array([[target]]))
    return advance(basis(REFERENCE, **(reference or {})), basis(OWN, **(own or {})), rows=rows, **start)


def first(values):
    return float(values[0, 0])


@pytest.mark.parametrize("which", ["own", "reference"])
def test_deleted_rows_are_turned_by_both_frames(which):
    def found(**start):
        return deleted(**{which: {"column": OFF}}, **start)

    # At equal contractions L c^2 doubles to 6.25 on all entries.
    about(first(found(tau2=1.0).covariance_difference), 8 * OFF)
    moved, squared = 8 * OFF / 4 + (6.25 * OFF / 2 if which == "reference" else 0.0), 8 * OFF / 2
    for start in ({"variance": (1.0, 0.0)}, {"covariance_difference": ONE}):
        carried = 2 * 6.25 * OFF / 4 if which == "reference" and "variance" not in start else 0.0
        about(first(found(**start).covariance_difference), 2 * moved + 2 * squared + carried)
    about(first(found(mean=(1.0, 0.0)).mean_difference), 8 * OFF)
    frames = {"own": {}, "reference": {}}
    frames[which]["column"] = OFF
    frames["own"]["moment"] = (1.0, 0.0)
    about(first(deleted(**frames).mean_difference), 8 * OFF / 2)
    if which == "reference":
        about(first(found(target=1.0).mean_difference), 26 * OFF / 2)


def test_errors_before_a_row_is_deleted_pass_through_it():
    full = {"covariance_difference": OFF * np.array(ONE)}
    about(first(deleted(last=full, variance=(1e-9, 0.0)).covariance_difference), OFF * (1 / 16 + 2 / 8 + 1 / 4))
    full = {"covariance_q": OFF * np.array(ONE)}
    about(first(deleted(last=full, variance=(1e-9, 0.0)).covariance_difference), OFF * (2 / 8 + 1 / 4))
    about(first(deleted({"moment_error": OFF}).mean_difference), OFF / 4)
    about(first(deleted(last={"mean_p": np.array([OFF])}).mean_difference), OFF / 2)


@pytest.mark.parametrize("which", ["own", "reference"])
def test_rows_and_overlaps_are_off_by_how_far_vectors_are_turned(which):
    """Both of the row's two places, and the product of the frames."""
    turned = {which: {"turn": OFF}}
    about(first(deleted(**turned, tau2=1.0).covariance_difference), OFF + OFF / 2)
    about(first(deleted(**turned, target=1.0).mean_difference), OFF * 0.5 * 1.5)
    about(first(deleted(**turned, mean=(1.0, 0.0)).mean_difference), OFF)


def test_rows_in_exact_frames_are_off_by_roundings():
    sums = 4 * UNIT
    about(first(deleted(tau2=1.0).covariance_difference), GONE / 2 + sums + sums / 2 + 4 * sums / 2)
    about(first(deleted(target=1.0).mean_difference), 0.5 * 1.5 * (GONE + sums))


def test_frames_of_both_runs_matter_for_the_rest():
    """Of (frames) (row)^2 (slope of the sums), the row with the larger turn, the frames with both."""
    apart, larger = 0.013, 0.01
    turned = deleted({"apart": 0.01}, {"apart": 0.003}, tau2=1.0)
    other = deleted({"apart": 0.003}, {"apart": 0.01}, tau2=1.0)
    row = (1.0, larger, 0.0)
    for found in (turned, other):
        about(found.covariance_difference, np.full((2, 2), 0.5 * 29.6 * rest((1.0, apart, apart**2), row, row)))


def test_sums_of_squares_are_bounded_however_small():
    about(_spread(np.array([[1.0, 1.0]]), np.array([[3.0, 0.0], [4.0, 0.0]])), [[5.0, 0.0]])
    assert _spread(np.array([[1.0], [1e-200]]), np.array([[1.0]]))[1, 0] >= 1e-200


def test_frames_count_roundings_and_what_vectors_lack_of_orthonormality():
    matrix, values = np.diag([1.0, 0.0]), np.array([1.0, 0.0])
    exact = rotation(matrix, np.eye(2), values, scale=1.0, off=0.0)
    # Image, scaling and values: 6 roundings; the squares' 4, of which half turn the frame.
    about(exact, (8 * UNIT, math.sqrt(2) * 10 * UNIT, 2 * UNIT, math.sqrt(2) * 4 * UNIT))
    longer = rotation(matrix, np.diag([1.0 + 1e-5, 1.0]), values, scale=1.0, off=0.0)
    about(longer, (1e-5, 2e-5, 1e-5, 2e-5))
    other = rotation(-matrix, np.diag([1.0 + 1e-5, 1.0]), -values, scale=1.0, off=OFF)
    about(other, (1e-5 + OFF, 2e-5 + OFF, 1e-5, 2e-5))
    assert rotation(matrix, np.diag([1.00075, 1.0]), values, scale=1.0, off=0.0) == (math.inf,) * 4
    assert rotation(matrix, np.diag([1.00045, 1.0]), values, scale=1.0, off=0.0).apart < 1e-3


def whitened_error(*, scale=(1.0, 1.0), last=None, whitened=((0.0, 0.0), (0.0, 0.0)), shift=(0.0, 0.0), frame=None):
    errors = LawErrors.none(2, 1)._replace(**(last or {}))
    frame = frame or Frame(0.0, 0.0, 0.0, 0.0)
    return pair_error(errors, np.array(scale), np.array(whitened), np.array([shift]).T, frame)


def test_whitened_pairs_are_off_by_both_laws_and_the_frame():
    """(I + D)^(-1/2) on both sides moves E by at most 1.2 |D| |E|, and d by 0.56 |D| |d|."""
    one = np.array(ONE)
    exact = whitened_error(scale=(1e10, 1.0))
    about(exact.excess, 8 * TINY * 1e10)
    about(exact.shift, 8 * TINY * 1e10)
    about(exact.whitening, 8 * UNIT)
    about(whitened_error(scale=(2.0, 1.0), last={"covariance_q": 0.01 * one}).whitening, 0.04)
    about(whitened_error(scale=(2.0, 1.0), last={"covariance_difference": OFF * one}).excess, 4 * OFF)
    about(whitened_error(scale=(2.0, 1.0), last={"mean_difference": np.array([[OFF], [0.0]])}).shift, 2 * OFF)
    wide = {"covariance_q": 0.05 * one, "mean_difference": np.array([[0.3], [0.0]])}
    found = whitened_error(last=wide, whitened=ONE)
    about(found.excess, 1.2 * 0.05)
    about(found.shift, 0.3 * (1 + 0.56 * 0.05))
    about(whitened_error(whitened=ONE).excess, 8 * UNIT + 1.2 * 8 * UNIT)
    about(whitened_error(shift=(3.0, 4.0)).shift, 5 * UNIT * (8 + 8 * math.sqrt(2) + 0.56 * 8))
    turned = Frame(0.0, 2 * OFF, 0.0, OFF)
    about(whitened_error(shift=(3.0, 4.0), frame=turned).shift, 5 * OFF)
    about(whitened_error(frame=turned).excess, 2 * OFF)


def test_sums_of_even_powers_change_by_a_plus_b_and_by_squares():
    """Three steps: c = 1/3 and 7/12, (c + c') (1 + c^2 + c'^2) = 11/12 * 209/144."""
    about(first(deleted({"turn": OFF}, tau2=1.0, n_steps=3).covariance_difference), 1.5 * OFF * 11 / 12 * 209 / 144)
