"""Directions that a record hardly sees: fewer records than features leave many, with weights of rounding alone."""

import numpy as np
import pytest

import compiled
from emulated import on_every_device
from expunge._kernels.backend import core

EPS = np.finfo(float).eps


@on_every_device
@pytest.mark.parametrize("size", [1e-60, 1e-152, 1e-154, 1e-156, 1e-160, 1e-162])
def test_directions_that_a_record_hardly_sees_change_nothing(device, size):
    # Squares of what rounding leaves of them sink to subnormal numbers, one weight after the other.
    rng = np.random.default_rng(0)
    unseen, seen = 60, 12
    eigenvalues = np.concatenate([1 + np.sort(rng.integers(-9, 9, unseen)) * EPS, rng.uniform(1.3, 9.0, seen)])
    projected = 0.15 * rng.normal(size=(4, unseen + seen))
    residuals = rng.normal(size=(4, 30, 2))
    setting = core.RidgeSetting(
        step_size=0.1, noise_std=0.01, unlearn_steps=20.0, unlearn_noise_std=0.0, solve_steps=False, epsilon=1.0,
        log_delta=float(np.log(1e-5)), mu=0.27, tolerance=1e-7,
    )  # fmt: skip

    def noise(factor):
        rows = projected.copy()
        rows[:, :unseen] *= factor
        names = ("value", "epsilon_out", "log_delta_pq", "log_delta_qp", "error")
        out = {name: np.full(4, np.nan) for name in names}
        arguments = {"eigenvalues": np.sort(eigenvalues), "projected": rows, "residuals": residuals}
        out["rank_out"] = np.zeros(4, dtype=np.int64)
        compiled.AVAILABLE[device].run("ridge_exact_quotes", {**arguments, "setting": setting, "rank": 10, **out})
        return out["value"]

    np.testing.assert_allclose(noise(size), noise(0.0), rtol=1e-9)
