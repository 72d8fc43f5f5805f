"""The p-value of a released model where noise and rounding meet, and the bound on rounding against its recurrence."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from expunge.certificates import model_digest
from expunge.runs import RunError
from expunge.runs.ridge import release as released_model
from expunge.runs.ridge.law import Phase, RidgeDeletion, smoothness
from expunge.runs.ridge.release import p_value

EPS = float(np.finfo(np.float64).eps)


@pytest.fixture
def judged(monkeypatch):
    """Return a function that judges parameters under a law of two parameters and a bound on rounding, both stated."""

    def judge(parameters, covariance, rounding):
        difference = np.array(covariance, dtype=float)
        variance = np.diag(difference).copy()
        np.fill_diagonal(difference, 0.0)
        law = SimpleNamespace(mean_p=np.zeros((2, 1)), variance_q=variance, covariance_difference=difference)
        monkeypatch.setattr(released_model, "_law_and_rounding", lambda deletion, phases: (law, np.array(rounding)))
        deletion = SimpleNamespace(reference=SimpleNamespace(vectors=np.eye(2)))
        return p_value(deletion, (), np.array(parameters, dtype=float)[:, None])

    return judge


def two_sided(total, freedom):
    return 2 * min(stats.chi2(freedom).cdf(total), stats.chi2(freedom).sf(total))


def test_parameters_with_noise_that_move_together_have_a_direction_without_any(judged):
    """Both have variance 1 and their difference has none: it must be where the run ends, to rounding."""
    together, apart = np.array([1.0, 1.0]), np.array([1.0, -1.0])
    law = [[1.0, 1.0], [1.0, 1.0]]
    for size in (0.3, 1.7, 4.0):
        assert judged(size * together, law, [1e-4, 1e-4]) == pytest.approx(two_sided(size**2, 1), rel=1e-6)
        nudged = size * together + 0.9e-4 * apart
        assert judged(nudged, law, [1e-4, 1e-4]) == pytest.approx(two_sided(size**2, 1), rel=1e-3)
    for sign in (-1, 1):
        with pytest.raises(RunError, match="without noise") as caught:
            judged(together + sign * 1.1e-4 * apart, law, [1e-4, 1e-4])
        assert caught.value.field == "model"
    with pytest.raises(RunError, match="than chance allows"):
        judged(8 * together, law, [1e-4, 1e-4])


def test_where_no_direction_is_clear_of_rounding_after_whitening_agreement_decides(judged):
    """Each parameter's noise is 80 times its rounding, and the sum's and the difference's 57 times theirs."""
    law, rounding = [[1.0, 0.01], [0.01, 1.0]], [1 / 80, 1 / 80]
    for parameters in ([0.0, 0.0], [39.0, -39.0 * 0.01], [28.0, 28.0]):
        assert judged(parameters, law, rounding) == 1.0
    with pytest.raises(RunError, match="without noise"):
        judged([29.0, 29.0], law, rounding)


def test_a_parameter_without_noise_does_not_hide_the_noise_of_the_other(judged):
    law = [[0.0, 0.0], [0.0, 4.0]]
    assert judged([0.0, 3.0], law, [1e-9, 1e-9]) == pytest.approx(two_sided(9 / 4, 1), rel=1e-9)
    for parameters, match in (([1.1e-9, 3.0], "without noise"), ([0.0, 20.0], "than chance allows")):
        with pytest.raises(RunError, match=match):
            judged(parameters, law, [1e-9, 1e-9])
    assert judged([0.0, 3.0], [[-1e-30, 0.0], [0.0, 4.0]], [1e-9, 1e-9]) == pytest.approx(two_sided(9 / 4, 1))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_one_spread_or_distance_beyond_float64_is_enough_to_refuse(judged, bad):
    for parameters, law in (([0.0, 0.0], [[1.0, 0.0], [0.0, bad]]), ([bad, 0.0], np.eye(2))):
        with pytest.raises(ValueError, match="leaves the range of float64"):
            judged(parameters, law, [1e-9, 1e-9])


def test_infinitely_far_has_probability_zero(judged):
    with pytest.raises(RunError, match=r"farther from .*p-value 0,"):
        judged([1e200, 0.0], np.eye(2), [1e-9, 1e-9])


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_so_far_that_the_distance_is_no_number_has_probability_zero_too(judged, signs, spread):
    """Distances in standard deviations are infinite, and their differences along correlated directions are NaN."""
    law = spread**2 * np.array([[1.0, 0.5], [0.5, 1.0]])
    with pytest.raises(RunError, match=r"farther from .*p-value 0,"):
        judged(np.array(signs) * np.finfo(float).max, law, [1e-9, 1e-9])


# --- the bound on rounding ------------------------------------------------------------------------

X = np.array([[1.0, 0.2], [-0.5, 1.1], [0.3, -0.4], [2.0, 0.7]])
Y = np.array([[3.0, -1.0], [-2.0, 0.5], [40.0, 1.0], [0.0, -7.0]])


def carried(phases, *, alpha, step, deleted):
    """Follow the bound step by step: p + sqrt(n) roundings of the largest parameter, four times over, in each."""
    n, p = X.shape
    mean, variance, bound, size = np.zeros((p, Y.shape[1])), np.zeros((p, p)), 0.0, 0.0
    largest = []
    for phase in phases:
        keep = np.setdiff1d(np.arange(n), phase.removed)
        contraction = np.eye(p) - step * (X[keep].T @ X[keep] + alpha * np.eye(p))
        for _ in range(phase.n_steps):
            mean = contraction @ mean + step * X[keep].T @ Y[keep]
            variance = contraction @ variance @ contraction + phase.noise_std**2 * np.eye(p)
        kept = np.setdiff1d(np.arange(n), deleted)
        vectors = np.linalg.eigh(X[kept].T @ X[kept])[1]
        spread = np.sqrt(np.max(np.diag(vectors.T @ variance @ vectors)))
        size = max(size, float(np.abs(mean).max()) + 10 * spread)
        largest.append(size)
        for _ in range(phase.n_steps):
            bound = (1 - step * alpha) * bound + 4 * (p + np.sqrt(n)) * EPS * size
    return bound, largest


@pytest.mark.parametrize("alpha", [0.25, 3.0])
@pytest.mark.parametrize(
    "phases",
    [
        (Phase(1, 0.0),),
        (Phase(7, 0.0),),
        (Phase(300, 0.1),),
        (Phase(50, 5.0),),
        (Phase(50, 0.1), Phase(9, 0.0, (2,))),
        (Phase(50, 0.0), Phase(200, 2.0, (2,))),
        (Phase(50, 5.0), Phase(40, 0.1, (2,))),
    ],
)
def test_the_bound_follows_its_recurrence_while_deleted_rows_are_there(phases, alpha):
    """Where another eigenbasis rules, the overall contraction 1 - step alpha carries roundings along."""
    step = 0.9 / smoothness(X, alpha=alpha)
    deletion = RidgeDeletion(X, Y, alpha=alpha, step_size=step, deleted=(1, 2))
    _, bound = released_model._law_and_rounding(deletion, phases)
    expected, _ = carried(phases, alpha=alpha, step=step, deleted=(1, 2))
    assert bound.shape == (2,)
    assert (bound >= expected * (1 - 1e-9)).all()
    assert (bound <= 1.6 * expected).all()  # min(n, 1/(1 - c)) is less than 1.6 times 1 + c + ... + c^(n-1)


def test_once_deleted_rows_are_gone_every_direction_forgets_at_its_own_rate():
    alpha = 0.01
    step = 0.9 / smoothness(X, alpha=alpha)
    deletion = RidgeDeletion(X, Y, alpha=alpha, step_size=step, deleted=(1, 2))
    before = (Phase(400, 0.1), Phase(5, 0.1, (2,)))
    start, _ = carried(before, alpha=alpha, step=step, deleted=(1, 2))
    a = deletion.reference.a
    assert a.min() < 0.5 < 0.9 < a.max()
    for n_steps in (1, 3, 20):
        phases = (*before, Phase(n_steps, 0.1, (1, 2)))
        _, bound = released_model._law_and_rounding(deletion, phases)
        size = carried(phases, alpha=alpha, step=step, deleted=(1, 2))[1][-1]
        expected = np.full(2, start)
        for _ in range(n_steps):
            expected = a * expected + 4 * (2 + np.sqrt(4)) * EPS * size
        assert (bound >= expected * (1 - 1e-9)).all()
        assert (bound <= 2.5 * expected).all()


def test_a_law_of_no_parameters_needs_no_largest():
    assert released_model._memory(np.zeros(0), 3).shape == (0,)


@pytest.mark.parametrize(
    ("a", "n_steps", "bound"),
    [(1.0, 7, 7.0), (0.5, 1, 1.0), (0.5, 100, 2.0), (0.75, 3, 3.0), (0.0, 5, 1.0), (-0.5, 5, 1.0), (-1e-17, 9, 1.0)],
)
def test_what_a_step_leaves_behind_adds_up_to_no_more_than_a_geometric_sum(a, n_steps, bound):
    assert float(released_model._memory(a, n_steps)) == bound
    assert bound >= sum(a**k for k in range(n_steps))


@pytest.mark.parametrize("shape", [(1, 2, 2), ()])
def test_parameters_have_one_or_two_dimensions(shape):
    with pytest.raises(ValueError, match="coefficients must have 1 or 2 dimensions"):
        model_digest(np.zeros(shape))
