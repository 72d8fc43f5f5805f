"""Edges of the accounting that changed constants and dropped bounds must not slip past."""

import numpy as np
import pytest

from expunge.accounting import GaussianPair, contraction_rdp, contraction_steps
from expunge.accounting.noise_floor import noise_floor
from expunge.runs.ridge.secular import smallest_eigenvalues


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [0.0, 1e-3, 0.5, 1.0])
def test_a_smallest_eigenvalue_is_bounded_from_below_and_closely(seed, size):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.uniform(1.0, 50.0, 6))
    x = rng.normal(size=(4, 6)) * size
    lower = smallest_eigenvalues(values, x, floor=0.25, square=float((x**2).sum(axis=1).max()))
    for bound, row in zip(lower, x, strict=True):
        truth = max(np.linalg.eigvalsh(np.diag(values) - np.outer(row, row))[0], 0.25)
        assert bound <= truth * (1 + 1e-13)
        assert bound >= truth * (1 - 1e-10)


def test_no_steps_leave_a_divergence_as_it_is():
    settings = {"order": 2.0, "log_sobolev": 1.0, "contraction": 0.9, "noise_std": 0.1}
    assert contraction_rdp(3.0, n_steps=0, **settings).tolist() == [3.0]
    assert contraction_rdp(3.0, n_steps=1, **settings)[-1] < 3.0
    assert contraction_rdp(3.0, n_steps=1, **{**settings, "contraction": 0.0})[-1] == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, np.nan])
def test_steps_to_a_target_refuse_a_delta_out_of_range(delta):
    with pytest.raises(ValueError, match=r"^delta "):
        contraction_steps(
            1.0, order=2.0, log_sobolev=1.0, contraction=0.9, noise_std=0.1, epsilon=1.0, delta=delta
        )  # fmt: skip


def test_no_parameters_have_no_floor():
    assert noise_floor() == 0.0
    assert noise_floor(np.zeros(3), np.empty(0)) == 0.0


def test_swapping_a_pair_changes_the_sign_of_its_shift():
    pair = GaussianPair([0.5, -0.2], [[0.3], [-1.0]])
    swapped = pair.swap()
    np.testing.assert_allclose(swapped.shift, -pair.shift / np.sqrt(1 + pair.excess_variance)[:, None], rtol=1e-15)
    np.testing.assert_allclose(swapped.swap().shift, pair.shift, rtol=1e-14)
