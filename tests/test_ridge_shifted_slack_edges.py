"""Rounding that only the slack of a shifted bound covers: long sums of powers of a contraction that is exact."""

import mpmath
import numpy as np
import pytest

from expunge.runs.ridge import step_blocks
from expunge.runs.ridge.bounds import UniformBound, sensitivities, shifted_claim
from expunge.runs.ridge.law import Phase, RidgeDeletion, smoothness
from expunge.runs.ridge.rounding import Basis, Frame


@pytest.mark.parametrize("seed", range(6))
def test_contractions_without_a_rounding_of_their_own_leave_that_of_their_powers(seed):
    """1 - h is a number of float64 here and the frame exact: what a long sum of its powers loses is counted alone."""
    alpha = float(np.random.default_rng(seed).integers(2**29, 2**31)) * 2.0**-53
    design, targets, tail, n_steps = np.full((3, 1), 2.0**-12), np.zeros((3, 1)), 1e-6, 1_000_000
    run, phase, share = {"alpha": alpha, "step_size": 1.0}, Phase(n_steps, 0.5), tail * (n_steps - 1)
    own = sensitivities(RidgeDeletion(design, targets, **run, deleted=[0]), [phase], delta_s=share)[0]
    worst = UniformBound(design, targets, **run, learning=phase, delta_s=share)._steps
    with mpmath.workdps(40):
        quantile = mpmath.sqrt(2) * mpmath.erfinv(1 - mpmath.mpf(tail))
        a = 1 - 3 * mpmath.mpf(2) ** -24 - mpmath.mpf(alpha)
        for steps in (own, worst):
            ends = np.cumsum(steps.length)
            for i in range(2048, len(ends), 7):
                deviation = mpmath.sqrt((1 - a ** (2 * int(ends[i] - 1))) / (1 - a * a)) / 2
                assert mpmath.mpf(2) ** -24 * deviation * quantile <= mpmath.mpf(float(steps.bound[i]))


def test_a_direction_that_does_not_contract_remembers_every_rounding():
    a = np.array([1.0])
    still = Basis(1.0 - a, np.eye(1), a, np.array([[0.1]]), Frame(0.0, 0.0, 0.0, 0.0), np.zeros(1))
    errors = [block.error[0, 0] for block in step_blocks.blocks(still, np.ones((1, 1)), 50, 1.0)]
    with mpmath.workdps(40):
        mean, rounded = mpmath.mpf(1), 1.0
        for error in errors:
            assert abs(mean - mpmath.mpf(rounded)) <= error
            mean, rounded = mean + mpmath.mpf(0.1), rounded + 0.1


def test_a_turn_moves_the_largest_mean_so_far():
    a, turn = np.array([0.5]), 1e-3
    turned = Basis(1.0 - a, np.eye(1), a, np.zeros((1, 1)), Frame(0.0, 0.0, turn, turn), np.zeros(1))
    frame = step_blocks.FrameErrors(turned, 20, 1.0, 0.0)
    found = [frame.mean_off(block) for block in step_blocks.blocks(turned, np.full((1, 1), 8.0), 20, 1.0)]
    assert min(found) >= turn * 8.0
    assert max(found) <= turn * 8.1


@pytest.mark.parametrize("noise", [1e-4, 1.0])
def test_long_blocks_of_a_later_phase_stay_close_to_its_steps(monkeypatch, noise):
    rng = np.random.default_rng(0)
    design, targets = rng.normal(size=(9, 3)), rng.normal(size=(9, 2)) * noise
    run = {"alpha": 0.05, "step_size": 0.05 / smoothness(design, alpha=0.05)}
    deletion = RidgeDeletion(design, targets, **run, deleted=[0, 3])
    phases = [Phase(100, noise), Phase(100, noise, (3,))]
    every = sensitivities(deletion, phases, delta_s=1e-6)[1].bound
    monkeypatch.setattr(step_blocks, "_SINGLE_STEPS", 4)
    monkeypatch.setattr(step_blocks, "_BLOCKS_PER_DOUBLING", 4)
    some = sensitivities(deletion, phases, delta_s=1e-6)[1]
    spread = np.repeat(some.bound, some.length)
    assert some.length.max() > 5
    assert np.all(every * (1.0 - 1e-12) <= spread)
    assert np.all(spread <= 2.0 * every)


# Chosen so that exp(epsilon) and its product with delta_s both round down, by more than one unit together.
@pytest.mark.parametrize(
    ("epsilon", "delta_s"),
    [
        (4.172373149261151, 2.7628203517103486e-08),
        (2.1034414578823037, 6.978352710470298e-09),
        (2.8085499916613452, 1.7658225755237172e-06),
    ],
)
def test_the_failure_s_share_is_rounded_up_where_nothing_is_added_to_it(epsilon, delta_s):
    """A row of zeros separates no runs: delta(Q||P) is e^epsilon delta_s alone, whose two roundings are covered."""
    design, targets = np.array([[0.0], [1.0], [1.0]]), np.zeros((3, 1))
    run = {"alpha": 1.0, "step_size": 0.25, "phases": [Phase(3, 0.5), Phase(2, 0.5, (0,))], "deleted": [0]}
    claim = shifted_claim(design, targets, **run, epsilon=epsilon, delta_s=delta_s)
    assert claim.mu == 0.0
    with mpmath.workdps(40):
        true = mpmath.exp(mpmath.mpf(epsilon)) * mpmath.mpf(delta_s)
        assert true <= mpmath.mpf(claim.delta_qp) <= true * (1 + mpmath.mpf("2e-15"))
