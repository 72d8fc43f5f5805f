"""Bounds by shifted interpolation at their edges: what blocks and frames must cover, and what is refused."""

from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from scipy import stats

from expunge.runs.ridge import bounds, step_blocks
from expunge.runs.ridge.bounds import (
    ShiftedClaim,
    UniformBound,
    n_blocks,
    residual_norm_quantile,
    sensitivities,
    shifted_claim,
    tracked_mu,
)
from expunge.runs.ridge.law import Phase, RidgeDeletion, smoothness
from expunge.runs.ridge.rounding import Basis, Frame

X, Y = np.random.default_rng(0).normal(size=(9, 3)), np.random.default_rng(1).normal(size=(9, 2))
RUN = {"alpha": 0.05, "step_size": 0.7 / smoothness(X, alpha=0.05)}
LEARN = Phase(20, 0.2)


def basis(a, *, moment=0.0, off=0.0, apart=0.0, moment_error=0.0):
    """A basis of given contractions, with one target column."""
    a = np.asarray(a, dtype=float)
    full = np.full((a.size, 1), float(moment))
    return Basis(1.0 - a, np.eye(a.size), a, full, Frame(off, off, apart, apart), np.array([moment_error]))


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("single", [1, 2048])
def test_blocks_bound_the_rounding_of_the_mean_in_their_steps(monkeypatch, start, single):
    """Started at 1 the rounded recursion stands still while the exact one moves by almost half a unit a step."""
    monkeypatch.setattr(step_blocks, "_SINGLE_STEPS", single)
    push = 2.0**-30 + 0.9 * 2.0**-53 if start else 1.0 / 3.0
    contraction = 1.0 - 2.0**-30 if start else 0.9
    chosen, done, n_steps = basis([contraction], moment=push), 0, 2048
    with mpmath.workdps(60):
        a = mpmath.mpf(contraction)
        for block in step_blocks.blocks(chosen, np.array([[start]]), n_steps, 1.0):
            assert np.all(block.error >= 0.0)
            for k in {done, done + block.length - 1}:
                mean = a**k * start + mpmath.mpf(push) * (1 - a**k) / (1 - a)
                off = abs(mean - mpmath.mpf(float(block.mean[0, 0])))
                assert off <= mpmath.mpf(float(block.change[0, 0])) + mpmath.mpf(float(block.error[0, 0]))
            fall = a**done - a ** (done + block.length - 1)
            assert float(block.drop[0]) == pytest.approx(float(fall), rel=1e-9, abs=1e-12)
            done += block.length
    assert done == n_steps


def test_the_number_of_blocks_is_known_without_forming_them():
    for n_steps in (0, 1, 2047, 2048, 2049, 2200, 10_000, 10**9):
        found = sum(1 for _ in step_blocks.blocks(basis([0.5]), np.zeros((1, 1)), n_steps, 1.0))
        assert found <= n_blocks(n_steps) <= max(found, 1.1 * found - 100.0)
        assert n_steps > 2048 or n_blocks(n_steps) == n_steps


# --- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "off", "n_steps"),
    [((0.1, 0.99), 1e-6, 1000), ((0.5, 0.2), 0.01, 10), ((0.3, 1.0), 1e-3, 50), ((0.999, 0.1), 1e-4, 30)],
)
def test_a_frame_remembers_no_less_than_the_powers_of_its_rate(a, off, n_steps):
    frame = step_blocks.FrameErrors(basis(a, off=off), n_steps, 0.5, 0.0)
    with mpmath.workdps(40):
        rate = mpmath.mpf(max(a)) + mpmath.mpf(off)
        kept = sum(rate**k for k in range(n_steps))
        assert kept * (1 - mpmath.mpf("1e-12")) <= frame.memory <= 1.1 * n_steps
        assert frame.share >= mpmath.mpf(off) * kept * (1 - mpmath.mpf("1e-12"))
        # Deviations grow by 1/(1 - share), and by what the turn sees of the noise of every step.
        grown = frame.deviation(np.array([4.0]), np.array([0.0]), 0.3)[0]
        assert grown >= 2.0 / (1 - off * kept)
    turned = step_blocks.FrameErrors(basis(a, off=off, apart=1e-3), n_steps, 0.5, 0.0)
    noise = 0.3 * float(mpmath.sqrt(sum(mpmath.mpf(max(a)) ** (2 * k) for k in range(n_steps))))
    assert turned.deviation(np.array([0.0]), np.array([2.0]), 0.3)[0] >= 1e-3 * 2.0 * noise * (1 - 1e-12)


@pytest.mark.parametrize("p", [1, 4, 16])
def test_the_turn_of_a_frame_covers_the_product_of_a_row_with_its_vectors(p):
    """A sum of p products is off by p units of the product of the norms, in each of p coordinates."""
    unit = 2.0**-53
    turned = step_blocks.FrameErrors(basis(np.full(p, 0.5), apart=1e-9), 3, 0.5, 0.0).turned
    assert turned - 1e-9 >= np.sqrt(p) * p * unit
    assert turned <= 1e-9 + 10.0 * np.sqrt(p) * (p + 2.0) * unit


def test_a_frame_that_may_move_parameters_by_a_tenth_is_refused_with_the_remedy():
    step_blocks.FrameErrors(basis([0.0], off=0.09), 1, 0.5, 0.0)
    for off in (0.101, 0.15, 0.5, np.nan):
        with pytest.raises(ValueError, match=r"numerically singular.*Fewer steps, a larger alpha"):
            step_blocks.FrameErrors(basis([0.0], off=off), 1, 0.5, 0.0)


def test_a_mean_is_off_by_its_start_first_and_by_the_turn_of_the_largest_mean_after():
    chosen = basis([0.5], moment=1.0, apart=1e-6, moment_error=1e-3)
    frame = step_blocks.FrameErrors(chosen, 50, 0.5, 0.25)
    largest = 0.0
    for k, block in enumerate(step_blocks.blocks(chosen, np.zeros((1, 1)), 50, 0.5)):
        off = frame.mean_off(block)
        largest = max(largest, float(np.abs(block.mean).max()))
        if k == 0:
            assert off == 0.25  # no step was taken yet
        pushed = 0.5 * 1e-3 * sum(0.5**j for j in range(k))  # each step adds the error of the moment
        assert off >= 0.25 + pushed + 1e-6 * largest


# --- sensitivities --------------------------------------------------------------------------------


def law_of_axis(values, alpha, step_size, phases):
    """Mean and variance, before each step of the last phase, of a parameter on an axis of its own; 40 digits."""
    (x, y), (z, w) = values
    mean, variance, found = mpmath.mpf(0), mpmath.mpf(0), []
    for phase in phases:
        h = mpmath.mpf(z) ** 2 + mpmath.mpf(alpha) + mpmath.mpf(x) ** 2
        b = mpmath.mpf(z) * mpmath.mpf(w) + mpmath.mpf(x) * mpmath.mpf(y)
        a = 1 - mpmath.mpf(step_size) * h
        for _ in range(phase.n_steps):
            if phase is phases[-1]:
                found.append((mean, variance))
            mean = a * mean + mpmath.mpf(step_size) * b
            variance = a * a * variance + mpmath.mpf(phase.noise_std) ** 2
    return found


def test_a_second_phase_starts_from_the_spread_of_the_first():
    """On features without overlap every parameter is alone, and the bound is the quantile itself, on both sides."""
    x, y, z, w, tail = 1.5, 0.3, 0.4, -0.2, 1e-6
    design, targets = np.array([[x, 0.0], [z, 0.0], [0.0, 0.7], [0.0, 0.9]]), np.array([[y], [w], [1.0], [0.5]])
    run = {"alpha": 0.1, "step_size": 0.3}
    phases = [Phase(6, 0.3), Phase(5, 0.1, (2,))]
    deletion = RidgeDeletion(design, targets, **run, deleted=[0, 2])
    bounds = sensitivities(deletion, phases, delta_s=tail * (2 * 6 + 5 - 2))[1].bound
    with mpmath.workdps(40):
        laws = law_of_axis([(x, y), (z, w)], **run, phases=phases)
        for bound, (mean, variance) in zip(bounds, laws, strict=True):
            b = mpmath.mpf(float(bound)) / (mpmath.mpf(run["step_size"]) * mpmath.mpf(x))
            m, s = mpmath.mpf(x) * mean - mpmath.mpf(y), mpmath.mpf(x) * mpmath.sqrt(variance)

            def beyond(b, m=m, s=s):
                return sum(mpmath.erfc((b - sign * m) / s / mpmath.sqrt(2)) for sign in (-1, 1)) / 2

            assert beyond(b) <= mpmath.mpf(tail) <= beyond(b * (1 - mpmath.mpf("1e-6")))


def test_blocks_of_a_later_phase_stay_close_to_its_steps(monkeypatch):
    phases = [Phase(30, 1e-4), Phase(60, 1e-4, (3,))]
    deletion = RidgeDeletion(X, Y * 1e-3, **RUN, deleted=[0, 3])
    every = sensitivities(deletion, phases, delta_s=1e-6)[1]
    monkeypatch.setattr(step_blocks, "_SINGLE_STEPS", 1)
    some = sensitivities(deletion, phases, delta_s=1e-6)[1]
    spread = np.repeat(some.bound, some.length)
    assert np.all(spread >= every.bound * (1.0 - 1e-12))
    assert np.all(spread <= 2.0 * every.bound)


def test_a_phase_without_deleted_rows_is_one_block_that_separates_nothing():
    deletion = RidgeDeletion(X, Y, **RUN, deleted=[0])
    learned, after = sensitivities(deletion, [LEARN, Phase(7, 0.1, (0,))], delta_s=1e-6)
    assert learned.length.sum() == 20
    assert after.length.tolist() == [7]
    assert after.bound.tolist() == [0.0]


def test_sensitivities_refuse_laws_without_errors_and_noise_beyond_the_range():
    deletion = RidgeDeletion(X, Y, **RUN, deleted=[0])
    state = deletion.advance(deletion.start, LEARN, proved=False)
    with pytest.raises(ValueError, match="proved=True"):
        bounds._residual_bounds(deletion, state, Phase(5, 0.1), 1e-6)
    with pytest.raises(ValueError, match="noise_std must be at most"):
        sensitivities(deletion, [Phase(0, 1e200), LEARN], delta_s=1e-6)
    worst = UniformBound(X, Y, **RUN, learning=LEARN, delta_s=1e-6)
    with pytest.raises(ValueError, match="noise_std must be at most"):
        worst.mu([LEARN, Phase(5, 1e200, (0,))])
    with pytest.raises(ValueError, match="noise_std must be at most"):
        UniformBound(X, Y, **RUN, learning=Phase(20, 1e200), delta_s=1e-6)


def test_targets_of_zero_and_cancelling_ones_have_finite_distances_rounded_up():
    rng = np.random.default_rng(3)
    rows, mean = rng.normal(size=(5, 3)), rng.normal(size=(3, 1)) * 1e6
    targets = rows @ mean
    targets[0] = 0.0
    zeros = np.zeros_like(mean)
    block = step_blocks.Block(1, mean, zeros, zeros, np.ones(3), np.zeros(3), np.zeros(3))
    found = bounds._distance(rows, targets, block)
    with mpmath.workdps(40):
        for row, target, bound in zip(rows.tolist(), targets[:, 0].tolist(), found.tolist(), strict=True):
            each = [mpmath.mpf(v) * mpmath.mpf(float(m)) for v, m in zip(row, mean[:, 0], strict=True)]
            true = abs(sum(each) - mpmath.mpf(target))
            assert true <= bound <= true + 1e-13 * (sum(abs(part) for part in each) + abs(target))


def test_the_path_contracts_no_better_than_the_error_of_its_eigenvalue_allows(monkeypatch):
    used, given = [], bounds._mu_of_path

    def noted(phases, steps, contraction):
        used.append(contraction)
        return given(phases, steps, contraction)

    monkeypatch.setattr(bounds, "_mu_of_path", noted)
    deletion = RidgeDeletion(X, Y, **RUN, deleted=[0])
    tracked_mu(deletion, [LEARN], delta_s=1e-6)
    assert deletion.contraction + deletion.reference.frame.norm <= used[0] <= 1.0


def test_merged_steps_never_expand():
    for length in (2.0, 1e3, 1e9):
        contraction = 1.0 - 2.0**-53
        power = bounds._merged(np.ones(1), np.ones(1), contraction, np.array([length]))[1]
        assert contraction**length <= power[0] <= 1.0


# --- quantiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "tail"), [(5.0, 0.3), (1.0, 1e-3), (0.2, 1e-8)])
def test_quantiles_are_tight_on_both_sides(distance, tail):
    bound = float(residual_norm_quantile(np.array([distance]), np.ones(1), 1, tail)[0])
    with mpmath.workdps(40):

        def beyond(b):
            return sum(mpmath.erfc((b - sign * distance) / mpmath.sqrt(2)) for sign in (-1, 1)) / 2

        assert beyond(mpmath.mpf(bound)) <= mpmath.mpf(tail) <= beyond(mpmath.mpf(bound) * (1 - mpmath.mpf("1e-8")))


def test_a_distance_whose_square_overflows_is_its_own_quantile():
    found = residual_norm_quantile(np.array([1e200, 1.0]), np.array([1e-200, 1e-320]), 2, 1e-6)
    assert found == pytest.approx([1e200, 1.0], rel=1e-12)


@pytest.mark.parametrize("factor", [0.5, np.nan, np.inf])
def test_a_library_quantile_that_its_own_tail_does_not_confirm_is_not_used(monkeypatch, factor):
    true = stats.ncx2
    wrong = SimpleNamespace(isf=lambda *args: factor * true.isf(*args), sf=true.sf)
    monkeypatch.setattr(bounds, "stats", SimpleNamespace(ncx2=wrong, chi=stats.chi, norm=stats.norm))
    found = float(residual_norm_quantile(np.array([1.0]), np.array([4.0]), 3, 1e-4)[0])
    elementary = 1.0 + 2.0 * float(stats.chi.isf(1e-4, 3))
    assert found == pytest.approx(elementary, rel=1e-14)


# --- claims ---------------------------------------------------------------------------------------


def test_a_claim_tells_the_larger_direction_and_is_certified_by_itself_alone():
    assert ShiftedClaim(1.0, 0.1, 0.2).delta == ShiftedClaim(1.0, 0.2, 0.1).delta == 0.2
    assert ShiftedClaim(1.0, 0.1, 0.2).status == "certified"
    with pytest.raises(TypeError, match="status"):
        ShiftedClaim(1.0, 0.1, 0.2, status="estimate")


def test_records_deleted_together_are_each_as_bad_as_the_worst():
    phases, named = [LEARN, Phase(10, 0.2, (0, 3))], {**RUN, "delta_s": 1e-6}
    claim = shifted_claim(X, Y, **named, phases=phases, deleted=[0, 3], epsilon=1.0, uniform=True)
    both = UniformBound(X, Y, **named, learning=LEARN, group_size=2).mu(phases)
    assert claim.mu == both > 1.9 * UniformBound(X, Y, **named, learning=LEARN).mu(phases)


def test_the_worst_case_shares_its_failure_among_the_steps_as_the_own_bounds_do():
    worst = UniformBound(X, Y, **RUN, learning=LEARN, delta_s=1e-6)._steps.bound
    for row in range(len(X)):
        own = sensitivities(RidgeDeletion(X, Y, **RUN, deleted=[row]), [LEARN], delta_s=1e-6)[0].bound
        assert np.all(own <= worst * (1.0 + 1e-12))


def test_learning_of_one_step_has_a_worst_case_and_learning_of_none_is_refused():
    one = UniformBound(X, Y, **RUN, learning=Phase(1, 0.5), delta_s=1e-6)
    largest = (np.linalg.norm(X, axis=1) * np.linalg.norm(Y, axis=1)).max()  # theta_0 = 0 is known
    assert one._steps.bound == pytest.approx([RUN["step_size"] * largest], rel=1e-9)
    assert one.mu([Phase(1, 0.5)]) == pytest.approx(RUN["step_size"] * largest / 0.5, rel=1e-9)
    with pytest.raises(ValueError, match="n_steps of learning must be at least 1, got 0"):
        UniformBound(X, Y, **RUN, learning=Phase(0, 0.5), delta_s=1e-6)


def test_one_feature_has_a_worst_case_too():
    narrow = X[:, :1]
    run = {"alpha": 0.05, "step_size": 0.5 / smoothness(narrow, alpha=0.05)}
    worst = UniformBound(narrow, Y, **run, learning=LEARN, delta_s=1e-6)
    squares = np.sort(narrow[:, 0] ** 2)
    slowest = 1.0 - run["step_size"] * (squares[:-1].sum() + 0.05)  # without the largest row
    assert worst._contraction == pytest.approx(slowest, rel=1e-9)
    assert worst._contraction >= slowest


@pytest.mark.parametrize("last", [Phase(5, 0.0, (0,)), Phase(0, 0.3, (0,)), Phase(0, 0.0, (0,))])
def test_unlearning_without_noise_or_without_steps_leaves_the_worst_case_as_it_is(last):
    worst = UniformBound(X, Y, **RUN, learning=LEARN, delta_s=1e-6)
    assert worst.mu([LEARN, last]) == worst.mu([LEARN])
