"""Privacy losses from stored norms: each record's own steps, assumed noise, composition against exact divergences."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.accounting import (
    assumed_noise_privacy_loss,
    composition_rdp,
    noise_sensitivity,
    privacy_loss,
    quadrature_weights,
)

STEP = {"order": 3.0, "step_size": 0.1, "batch_size": 2.0, "sampling_probability": 0.2}


# --- each record's own steps -----------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 30), min_size=6, max_size=6).map(sorted), min_size=1, max_size=5))
def test_rows_are_the_sums_of_their_interpolants(rows):
    weights = quadrature_weights(np.array(rows), n_steps=31)
    for row, steps in zip(weights, rows, strict=True):
        seen = sorted(set(steps))
        alone = quadrature_weights(seen, n_steps=31)
        # The first of equal steps has the weight, the rest none.
        first = [steps.index(step) for step in seen]
        np.testing.assert_allclose(row[first], alone, rtol=1e-14)
        assert np.delete(row, first).tolist() == [0.0] * (6 - len(seen))
        assert row.sum() == pytest.approx(31)


@given(st.integers(0, 1000))
def test_own_steps_agree_with_one_record_at_a_time(seed):
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.integers(0, 40, (5, 7)), axis=1)
    # A carried column repeats its norm as well as its step.
    by_step = rng.uniform(0, 3, (5, 40))
    norms = np.take_along_axis(by_step, steps, axis=1)
    noise = rng.uniform(0.1, 1.0, 40)
    together = privacy_loss(norms, steps=steps, n_steps=40, noise_std=noise[steps], **STEP)
    for i in range(5):
        seen = np.unique(steps[i])
        alone = privacy_loss(by_step[i : i + 1, seen], steps=seen, n_steps=40, noise_std=noise[seen], **STEP)
        assert float(together[i]) == pytest.approx(float(alone[0]), rel=1e-12)


def test_the_same_steps_for_all_may_be_given_once_or_in_every_row():
    norms, steps = np.random.default_rng(0).uniform(0, 2, (4, 3)), [1, 5, 8]
    once = privacy_loss(norms, steps=steps, n_steps=10, noise_std=0.3, **STEP)
    rows = privacy_loss(norms, steps=np.tile(steps, (4, 1)), n_steps=10, noise_std=0.3, **STEP)
    np.testing.assert_allclose(once, rows, rtol=1e-14)
    assert rows.status == "estimate"


def test_an_infinite_norm_that_is_carried_does_not_break_the_sum():
    setting = {**STEP, "n_steps": 5, "noise_std": 0.3}
    loss = privacy_loss([[1.0, math.inf, math.inf], [1.0, 1.0, 2.0]], steps=[[0, 2, 2], [0, 0, 4]], **setting)
    assert loss[0] == math.inf
    assert math.isfinite(loss[1])


def test_steps_of_records_that_cannot_be():
    setting = {**STEP, "n_steps": 5, "noise_std": 0.3}
    norms = [[1.0, 2.0], [1.0, 2.0]]
    with pytest.raises(ValueError, match=r"steps must be increasing .* row 1"):
        privacy_loss(norms, steps=[[0, 1], [2, 1]], **setting)
    with pytest.raises(ValueError, match="steps"):
        privacy_loss(norms, steps=[[0, 1], [2, 5]], **setting)
    with pytest.raises(ValueError, match="steps"):
        privacy_loss(norms, steps=[[-1, 1], [2, 3]], **setting)
    with pytest.raises(ValueError, match="one column per step"):
        privacy_loss(norms, steps=[[0, 1]], **setting)
    with pytest.raises(ValueError, match=r"repeat where steps do, got 1.0 and 2.0 in row 1, column 1"):
        privacy_loss(norms, steps=[[0, 1], [2, 2]], **setting)
    with pytest.raises(ValueError, match="noise_std"):
        privacy_loss(norms, steps=[0, 1], **{**setting, "noise_std": [[1.0, 1.0]]})


# --- assumed noise ---------------------------------------------------------------------------------------------------


def test_assumed_noise_is_labelled_and_otherwise_the_privacy_loss():
    norms = np.random.default_rng(1).uniform(0, 2, (5, 3))
    setting = {**STEP, "steps": [0, 3, 6], "n_steps": 8}
    found = assumed_noise_privacy_loss(norms, assumed_noise_std=0.2, **setting)
    assert np.array_equal(found.loss, privacy_loss(norms, noise_std=0.2, **setting))
    assert found.assumed_noise_std == 0.2
    assert found.status == "estimate under an assumed noise"
    with pytest.raises(ValueError, match="assumed_noise_std"):
        assumed_noise_privacy_loss(norms, assumed_noise_std=0.0, **setting)
    with pytest.raises(TypeError, match="noise_std"):
        assumed_noise_privacy_loss(norms, assumed_noise_std=0.1, noise_std=0.1, **setting)


def test_full_batch_rankings_do_not_depend_on_the_noise():
    norms = np.random.default_rng(2).uniform(0, 2, (40, 3))
    setting = {**STEP, "sampling_probability": 1.0, "steps": [0, 3, 6], "n_steps": 8}
    found = noise_sensitivity(norms, noise_levels=[1e-3, 1.0, 30.0], top=[0.05, 0.5], **setting)
    np.testing.assert_allclose(found.spearman, 1.0, rtol=1e-12)
    assert (found.top_overlap == 1.0).all()
    assert found.top_overlap.shape == (2, 3, 3)
    assert "at least 1.000" in found.summary()


def test_sampled_rankings_may_depend_on_the_noise():
    # One large gradient against many middling ones: little noise makes the large one costly beyond its square.
    norms = np.array([[4.0, 0.0, 0.0, 0.0], [2.2, 2.2, 2.2, 2.2], [1.0, 1.0, 1.0, 1.0]])
    setting = {**STEP, "sampling_probability": 0.01, "batch_size": 1.0, "steps": np.arange(4), "n_steps": 4}
    found = noise_sensitivity(norms, noise_levels=[0.05, 5.0], top=[0.34], **setting)
    assert found.loss[0].argmax() == 0
    assert found.loss[1].argmax() == 1
    assert found.spearman[0, 1] == pytest.approx(0.5)
    assert found.top_overlap[0, 0, 1] == 0.0
    assert "at least 0.000" in found.summary()
    flat = noise_sensitivity(np.ones((3, 4)), noise_levels=[0.05, 5.0], **setting)
    assert "no ranking" in flat.summary()
    with pytest.raises(ValueError, match="two levels"):
        noise_sensitivity(norms, noise_levels=[1.0], **setting)
    with pytest.raises(ValueError, match="two records"):
        noise_sensitivity(norms[:1], noise_levels=[1.0, 2.0], **setting)


# --- composition -----------------------------------------------------------------------------------------------------

RUN = {"order": 2.0, "noise_std": 1.0, "step_size": 0.1, "batch_size": 1.0, "l2_bound": 2.0, "p": 12.0}


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_composition_of_norms_at_some_steps_fills_in_the_others(rate):
    rng = np.random.default_rng(3)
    nodes, steps = rng.uniform(0, 2, (4, 3, 5)), np.array([1, 2, 6, 9, 11])
    every = np.array([[np.interp(np.arange(14), steps, row) for row in run] for run in nodes])
    whole = composition_rdp(every, sampling_probability=rate, **RUN)
    some = composition_rdp(nodes, sampling_probability=rate, steps=steps, n_steps=14, **RUN)
    np.testing.assert_allclose(some.rdp, whole.rdp, rtol=1e-13)
    own = composition_rdp(
        nodes, sampling_probability=rate, steps=np.broadcast_to(steps, nodes.shape), n_steps=14, **RUN
    )
    np.testing.assert_allclose(own.rdp, whole.rdp, rtol=1e-13)
    alone = composition_rdp(nodes[:, 1], sampling_probability=rate, steps=steps, n_steps=14, **RUN)
    assert float(alone.rdp) == pytest.approx(float(whole.rdp[1]), rel=1e-13)
    assert some.status == "estimate"


def test_composition_steps_that_do_not_fit():
    norms = np.ones((4, 3))
    with pytest.raises(ValueError, match="n_steps"):
        composition_rdp(norms, sampling_probability=1.0, steps=[0, 1, 2], **RUN)
    with pytest.raises(ValueError, match="n_steps"):
        composition_rdp(norms, sampling_probability=1.0, n_steps=3, **RUN)
    with pytest.raises(ValueError, match="steps"):
        composition_rdp(norms, sampling_probability=1.0, steps=[0, 1], n_steps=3, **RUN)
    with pytest.raises(ValueError, match="steps"):
        composition_rdp(norms, sampling_probability=1.0, steps=[0, 2, 1], n_steps=3, **RUN)


class ClippedRidge:
    """Least squares in one dimension with clipped gradients and Poisson batches: small enough to be integrated."""

    X, Y = np.array([1.0, 0.7, -1.2, 0.5]), np.array([1.5, 0.2, -0.4, -1.0])
    clip, alpha, step_size, start = 1.0, 0.2, 0.15, 0.0

    def __init__(self, *, rate, noise_std, n_steps, record):
        self.rate, self.noise_std, self.n_steps, self.record = rate, noise_std, n_steps, record

    def gradients(self, theta):
        theta = np.asarray(theta)[..., None]
        return np.clip((theta * self.X - self.Y) * self.X, -self.clip, self.clip)

    def norms_of_runs(self, n_runs, seed):
        """Norms of the record along runs on the data that hold it, shape (n_runs, n_steps)."""
        rng = np.random.default_rng(seed)
        theta, norms = np.full(n_runs, self.start), np.empty((n_runs, self.n_steps))
        for t in range(self.n_steps):
            gradients = self.gradients(theta)
            norms[:, t] = np.abs(gradients[:, self.record])
            batch = rng.random(gradients.shape) < self.rate
            drift = (gradients * batch).sum(axis=1) + self.alpha * theta
            theta = theta - self.step_size * drift + self.noise_std * rng.standard_normal(n_runs)
        return norms

    def exact(self, order, direction):
        """Renyi divergence of whole trajectories, from transition densities on a grid, backwards in time."""
        grid = np.linspace(-6.0, 6.0, 1201)
        kernels = {}
        for name, members in (("with", range(4)), ("without", [i for i in range(4) if i != self.record])):
            density = np.zeros((grid.size, grid.size))
            for chosen in itertools.product([0, 1], repeat=len(members)):
                chance = math.prod(self.rate if one else 1 - self.rate for one in chosen)
                if chance == 0:
                    continue
                batch = [i for i, one in zip(members, chosen, strict=True) if one]
                drift = self.gradients(grid)[:, batch].sum(axis=1) + self.alpha * grid
                gap = (grid[None, :] - (grid - self.step_size * drift)[:, None]) / self.noise_std
                density += chance * np.exp(-0.5 * gap**2)
            kernels[name] = density / (self.noise_std * math.sqrt(2 * math.pi))
        p, q = (kernels[k] for k in (("with", "without") if direction == "pq" else ("without", "with")))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(p > 1e-200, q * np.exp(order * (np.log(p) - np.log(np.maximum(q, 1e-300)))), 0.0)
        # Clipping has kinks, so that the trapezoidal rule is off by about 1e-4: far less than what is compared.
        step = ratio * (grid[1] - grid[0])
        moment = np.ones(grid.size)
        for _ in range(self.n_steps):
            moment = step @ moment
        return math.log(np.interp(self.start, grid, moment)) / (order - 1)


@pytest.mark.parametrize("direction", ["pq", "qp"])
@pytest.mark.parametrize(
    ("rate", "noise_std", "n_steps", "record", "order"),
    [(1.0, 0.3, 12, 0, 2.0), (1.0, 0.5, 12, 2, 2.0), (0.5, 0.4, 12, 2, 2.0), (0.3, 0.3, 15, 0, 3.0)],
)
def test_composition_is_not_below_the_exact_divergence_of_trajectories(
    rate, noise_std, n_steps, record, order, direction
):
    problem = ClippedRidge(rate=rate, noise_std=noise_std, n_steps=n_steps, record=record)
    exact = problem.exact(order, direction)
    setting = {
        "order": order,
        "noise_std": noise_std,
        "step_size": problem.step_size,
        "sampling_probability": rate,
        "batch_size": 1.0,
        "l2_bound": problem.clip,
        "direction": direction,
        "p": 1.0 + n_steps,
    }
    norms = problem.norms_of_runs(3000, seed=7)
    bound = float(composition_rdp(norms, **setting).rdp)
    # Standard error from 10 disjoint groups of runs.
    parts = [float(composition_rdp(norms[k::10], **setting).rdp) for k in range(10)]
    error = np.std(parts, ddof=1) / math.sqrt(10)
    assert error < 0.05 * bound
    assert bound >= exact - 3 * error
    # Not below, and of use.
    assert exact > 0.05
    assert bound <= 4 * exact
