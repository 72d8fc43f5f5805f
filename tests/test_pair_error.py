"""A pair whose law P is known only within errors: what it says holds for every law within them, in 40 digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
import ridge_truth
from expunge.accounting import GaussianPair
from expunge.accounting.pair_error import Nearness

DIRECTIONS = ("pq", "qp")


def laws_within(excess, shift, h, t, *, seed, count):
    """Excess variances and squared shifts of laws at the edge of the errors: outward, inward and turned any way."""
    rng = np.random.default_rng(seed)
    p = len(excess)
    for k in range(count):
        turn = np.diag(np.sign(excess)) if k == 0 else rng.normal(size=(p, p))
        turn = turn + turn.T
        push = shift if k == 0 else rng.normal(size=shift.shape)
        E = mpmath.diag([mpmath.mpf(e) for e in excess]) + h * mpmath.matrix(turn.tolist()) / float(
            np.linalg.norm(turn)
        )
        d = mpmath.matrix(shift.tolist()) + t * mpmath.matrix(push.tolist()) / float(np.linalg.norm(push))
        # A hair inside, for the rounding of the normalisation.
        values, vectors = mpmath.eigsy(E)
        turned = vectors.T * d
        yield list(values), [mpmath.fsum(turned[j, c] ** 2 for c in range(d.cols)) for j in range(p)]


@pytest.mark.parametrize(
    ("excess", "error"),
    [
        ([0.3, -0.2], (1e-3, 0.0)),
        ([1e-3, -1e-9], (0.0, 1e-3)),
        ([-0.6, 0.9], (1e-2, 1e-2)),
        ([0.3, -0.2], (1e-12, 1e-12)),
        ([1e-3, -1e-9], (1e-5, 1e-7)),
    ],
)
def test_delta_holds_for_every_law_within_the_errors(excess, error):
    shift = np.array([[0.4], [-0.1]])
    h, t = error
    pair, bare = GaussianPair(excess, shift, h * (1 + 1e-14), t * (1 + 1e-14)), GaussianPair(excess, shift)
    with mpmath.workdps(30):
        for e, s in laws_within(excess, shift, h, t, seed=len(excess), count=2):
            for epsilon in (0.0, 0.3, 2.0):
                for direction, true in zip(DIRECTIONS, ((e, s), ridge_truth.exchanged(e, s)), strict=True):
                    exact = ridge_truth.exact_delta(*true, 1, epsilon, digits=16)
                    found = mpmath.mpf(float(pair.delta(epsilon, direction=direction)))
                    assert found >= exact * (1 - mpmath.mpf(10) ** -16)
    for epsilon in (0.0, 0.3, 2.0):
        assert bare.delta(epsilon) <= pair.delta(epsilon) <= 1.0
        if max(error) <= 1e-11:
            assert pair.delta(epsilon) <= bare.delta(epsilon) * (1 + 1e4 * max(error))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_deltas_far_below_one_hold_too(direction):
    """On a line, where the truth is known in closed form: P moved outward by its errors."""
    for excess, shift, h, t in ((0.0, 0.3, 0.0, 1e-4), (1e-3, 0.2, 1e-6, 1e-6), (-0.1, 0.05, 1e-8, 1e-10)):
        pair = GaussianPair([excess], [[shift]], h, t)
        for epsilon in (0.5, 1.5, 4.0, 9.0):
            with mpmath.workdps(200):
                e, d = mpmath.mpf(excess) + mpmath.sign(excess) * mpmath.mpf(h) * 0.999, mpmath.mpf(shift) + 0.999 * t
                if direction == "qp":
                    e, d = -e / (1 + e), d / mpmath.sqrt(1 + e)
                exact = oracles.hockey_stick_line(e, d, mpmath.mpf(epsilon))
                assert mpmath.mpf(float(pair.delta(epsilon, direction=direction))) >= exact


@given(
    st.lists(st.floats(-0.9, 5), min_size=1, max_size=3),
    st.floats(0, 3),
    st.floats(-20, -1),
    st.floats(-20, 0),
    st.floats(1e-300, 1),
)
def test_epsilon_is_one_at_which_delta_suffices(excess, size, log_h, log_t, delta):
    room = 1 + min(excess)
    pair = GaussianPair(excess, np.full((len(excess), 1), size), room * 10.0**log_h / 4, 10.0**log_t)
    for direction in DIRECTIONS:
        epsilon = pair.epsilon(delta, direction=direction)
        assert epsilon >= GaussianPair(pair.excess_variance, pair.shift).epsilon(delta, direction=direction)
        if np.isfinite(epsilon):
            assert pair.delta(epsilon, direction=direction) <= delta
    epsilons = np.array([0.0, 1e-9, 1e-3, 0.1, 1.0, 30.0])
    deltas = pair.delta(epsilons)
    assert np.all((deltas > 0) & (deltas <= 1))
    assert np.all(np.diff(deltas) <= 1e-12 * deltas[:-1])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergences_hold_for_laws_within_the_errors(direction):
    rng = np.random.default_rng(0)
    with mpmath.workdps(60):
        for _ in range(200):
            excess, shift = float(rng.uniform(-0.5, 1)), float(rng.uniform(0, 2))
            h, t = 10.0 ** rng.uniform(-16, -2), 10.0 ** rng.uniform(-16, -1)
            e = mpmath.mpf(excess) + rng.choice([-1, 1]) * mpmath.mpf(h)
            d2 = (mpmath.mpf(shift) + mpmath.mpf(t)) ** 2
            if direction == "qp":
                e, d2 = -e / (1 + e), d2 / (1 + e)
            order = 1.0 + 10.0 ** rng.uniform(-6, 0.7)
            w, v = mpmath.mpf(order) - 1, 1 - (mpmath.mpf(order) - 1) * e
            found = GaussianPair([excess], [[shift]], h, t).renyi(order, direction=direction)
            if v > 0:
                exact = (w * (1 + w) * d2 / (2 * v) - (mpmath.log(v) + w * mpmath.log1p(e)) / 2) / w
                assert exact <= found
                if max(h, t) < 1e-10 and shift > 0.1 and v > 0.1:
                    assert found <= exact * (1 + 1e-5)
            else:
                assert found == np.inf


def test_exchanged_laws_stay_within_their_errors():
    rng = np.random.default_rng(1)
    for _ in range(100):
        excess, shift = rng.uniform(-0.6, 1.0, 3), rng.normal(size=(3, 2))
        h = 10.0 ** rng.uniform(-8, -2)
        pair = GaussianPair(excess, shift, h, h)
        turn = rng.normal(size=(3, 3))
        turn = (turn + turn.T) / np.linalg.norm(turn + turn.T) * h
        push = rng.normal(size=(3, 2))
        d = shift + push / np.linalg.norm(push) * h
        other = pair.swap()
        # Whitened by P as it is meant, but turned as `swap` turns: the square root next to it.
        root = np.diag(1 / np.sqrt(1 + excess))
        values, vectors = np.linalg.eigh(np.eye(3) + root @ turn @ root)
        whiten = (vectors / np.sqrt(values)) @ vectors.T @ root
        moved = whiten @ whiten.T - np.eye(3) - np.diag(other.excess_variance)
        assert np.linalg.norm(moved) <= other.excess_error
        assert np.linalg.norm(-whiten @ d - other.shift) <= other.shift_error


@given(st.floats(-12, -0.5), st.floats(-12, 0), st.floats(1, 700))
def test_the_loss_of_near_laws_is_rounded_up(log_h, log_t, level):
    """delta of the two laws at that loss is at most exp(-level): a line again, moved by all of its errors."""
    h, t = 10.0**log_h, 10.0**log_t
    near = Nearness.of(h, t, 1.0)
    loss = float(near.loss(np.array(level)))
    with mpmath.workdps(60):
        for sign in (-1, 1):
            e, d = sign * mpmath.mpf(h), mpmath.mpf(t)
            for a, b in ((e, d), (-e / (1 + e), d / mpmath.sqrt(1 + e))):
                assert oracles.hockey_stick_line(a, b, mpmath.mpf(loss)) <= mpmath.exp(-mpmath.mpf(level))


@pytest.mark.parametrize(
    "errors", [(np.nan, 0.0), (-1.0, 0.0), (0.0, np.nan), (0.0, -1e-300), (0.31, 0.0), (0.0, np.inf)]
)
def test_errors_that_are_no_bounds_are_refused(errors):
    with pytest.raises(ValueError, match=r"^(excess|shift)_error must"):
        GaussianPair([-0.1, 0.4], [[1.0], [0.0]], *errors)


def test_a_pair_without_errors_is_the_pair_itself():
    plain, zero = GaussianPair([0.2], [[0.5]]), GaussianPair([0.2], [[0.5]], 0.0, 0.0)
    assert plain.profile(0.3) == zero.profile(0.3)
    assert plain.epsilon(1e-5) == zero.epsilon(1e-5)
    assert plain.renyi(2.0) == zero.renyi(2.0)


@pytest.mark.parametrize("errors", [(1e-12, 1e-12), (1e-3, 0.0), (0.0, 1e-3), (0.3, 5.0)])
def test_delta_never_grows_with_epsilon_however_large(errors):
    pair = GaussianPair([0.1, -0.05], [[0.3], [0.2]], *errors)
    epsilons = [0.0, 1.0, 10.0, 700.0, 1e3, 1e6, 1e12, 1e15, 1e16, 1e17, 1e18, 1e30, 1e100, 1e300, 1e308]
    for direction in DIRECTIONS:
        deltas = np.maximum(pair.delta(epsilons, direction=direction), 1e-280)  # the least that is told apart
        assert np.all(np.diff(deltas) <= 0), direction
