"""The pair of laws that a deletion is priced by: with noise, without, and before anything is unlearned."""

from __future__ import annotations

import numpy as np
import pytest

from expunge import LangevinRidge
from expunge.runs.ridge.cost import DeletionCost
from expunge.runs.ridge.law import Phase, deletion_pair

pytestmark = pytest.mark.filterwarnings("ignore::expunge.NoiseWarning")


@pytest.fixture(scope="module")
def run():
    random = np.random.default_rng(3)
    X = random.normal(size=(12, 2))
    y = X @ [1.0, -1.0] + random.normal(size=12)
    return LangevinRidge(noise_std=0.1, n_steps=3, fit_intercept=False, step_size=0.02).fit(X, y)._history


@pytest.mark.parametrize(("n_steps", "noise_std"), [(0, 0.0), (4, 0.0), (4, 0.2)])
def test_a_deletion_is_priced_by_the_whole_run_with_what_is_added(run, n_steps, noise_std):
    cost = DeletionCost(run, [5], method="exact", epsilon=1.0, delta=1e-5)
    added = (Phase(n_steps, noise_std, (5,)),) if noise_std else ()
    whole = deletion_pair(
        run.design,
        run.targets,
        alpha=run.alpha,
        step_size=run.step_size,
        phases=(*run.phases, *added),
        deleted=[5],
    )
    for epsilon in (0.0, 0.3, 1.0):
        assert cost.pair(n_steps, noise_std).delta(epsilon) == pytest.approx(whole.delta(epsilon), rel=1e-9)
