"""Polished parameters: right whatever they start from, and brought up to date record by record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from expunge.accounting import gdp_mu
from expunge.runs.residual import (
    InverseHessian,
    NoiseFloorError,
    Objective,
    Rows,
    StalledError,
    blocks_of,
    gradient_sums,
    newton,
    objective,
    polish,
)

REFERENCE = json.loads((Path(__file__).parent / "golden" / "residual_reference.json").read_text())
LOSSES = [("squared", 1), ("squared", 3), ("logistic", 1), ("logistic", 3), ("softmax", 2), ("softmax", 4)]
on_every_loss = pytest.mark.parametrize(("loss", "q"), LOSSES)


def rows_of(loss: str, q: int, n: int, p: int, *, seed: int = 0, weighted: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) / np.sqrt(p)
    weights = rng.uniform(0.1, 2.0, n) if weighted else None
    if loss == "squared":
        return Rows(X, targets=rng.standard_normal((n, q)), weights=weights)
    return Rows(X, labels=rng.integers(0, max(q, 2), n), weights=weights)


def problem(loss: str, q: int, n: int = 60, p: int = 5, *, alpha: float = 0.5, **more: Any) -> Objective:
    return Objective(blocks_of(rows_of(loss, q, n, p, **more)), loss, p, q, alpha)


def together(this: Objective) -> Rows:
    return this.take(np.arange(len(this)))


# --- numbers of 60 digits ----------------------------------------------------------------------


def reference_problems() -> list[Any]:
    found = []
    for kind in ("logistic", "softmax"):
        for case in REFERENCE[kind]:
            X, y = np.array(case["X"]), np.array(case["y"])
            q = case.get("classes", 1)
            labels = y.astype(np.int64) if kind == "softmax" else (y > 0).astype(np.int64)
            this = Objective(blocks_of(Rows(X, labels=labels)), kind, X.shape[1], q, case["alpha"])
            found.append(pytest.param(this, case, id=f"{kind}: {case['name']}"))
    return found


@pytest.mark.parametrize(("this", "case"), reference_problems())
def test_optima_steps_and_residuals_are_those_of_60_digits(this, case):
    shape = (this.n_outputs, this.n_features)
    wanted = {
        name: np.array(case[name], dtype=float).reshape(shape) for name in ("optimum", "optimum_without", "newton1")
    }
    target = 1e-13
    found = polish(this, np.zeros(shape), target=target)
    # The optimum is within target / alpha of what has that gradient.
    assert_allclose(found.theta, wanted["optimum"], rtol=0, atol=2 * target / this.alpha)

    gone = np.array(case["delete"])
    left = this.without(gone)
    inverse = InverseHessian.of(this, found.theta)
    inverse = inverse.without(this.take(gone)) or InverseHessian.of(left, found.theta)
    step = inverse.step(left.gradient(found.theta, left.sums(found.theta)))
    condition = float(np.linalg.norm(inverse.matrices[0], 2) * (this.alpha + np.square(this.blocks[0].X).sum()))
    assert_allclose(found.theta - step, wanted["newton1"], rtol=0, atol=100 * target / this.alpha * condition)

    # At the reference's own step: its residual is exact, ours never below.
    bound = left.residual_bound(wanted["newton1"])
    assert float(case["residual1"]) * (1 - 1e-15) <= bound <= float(case["residual1"]) + 1e-12
    mu = float(REFERENCE["gdp_mu"][0]["mu"])
    assert gdp_mu(1.0, 1e-5) == pytest.approx(mu, rel=1e-13)
    # sigma1 is the noise for that many epsilon and delta if nothing more is done.
    assert bound / (this.alpha * mu) == pytest.approx(float(case["sigma1"]), rel=1e-10)

    again = polish(left, found.theta, target=target, inverse=inverse)
    assert_allclose(again.theta, wanted["optimum_without"], rtol=0, atol=2 * target / this.alpha)


@pytest.mark.parametrize("p", [1, 256, 768, 5000])
def test_blocks_have_work_for_several_threads_before_and_after_deletions(p):
    for gone in (0, 1, 200):
        assert (objective.block_rows(p) - gone) // 512 >= 4  # ranges of the kernel
    assert objective.block_rows(p) // 512 == max(4, 2**22 // (8 * p) // 512)


# --- the same records, however they came -------------------------------------------------------


@on_every_loss
@settings(max_examples=40)
@given(data=st.data())
def test_changed_objectives_are_those_of_the_changed_records(loss, q, data):
    n, p = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    weighted, more = data.draw(st.booleans()), data.draw(st.integers(1, 30))
    size = data.draw(st.sampled_from([1, 10, 10**4]))
    rows, added = (rows_of(loss, q, k, p, seed=k, weighted=weighted) for k in (n, more))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "block_rows", lambda n_features: size)
        starts = range(0, n, 7)
        blocks = tuple(rows.take(np.arange(start, min(start + 7, n))) for start in starts)
        this = Objective(blocks, loss, p, q, 1.0)
        gone = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n))))
        other = rows_of(loss, q, len(gone), p, seed=99, weighted=weighted)
        longer = this.with_rows(added)
        assert_array_equal(together(longer).X, np.concatenate([rows.X, added.X]))
        replaced = this.replacing(gone, other)
        expected = rows.X.copy()
        expected[gone] = other.X
        assert_array_equal(together(replaced).X, expected)
        if len(gone) < n:
            left = this.without(gone)
            assert len(left) == n - len(gone)
            assert_array_equal(together(left).X, np.delete(rows.X, gone, axis=0))
            for mine, theirs in ((together(left), rows.without(gone)), (together(longer), rows.then(added))):
                for name in ("labels", "targets", "weights"):
                    a, b = getattr(mine, name), getattr(theirs, name)
                    assert (a is None) == (b is None)
                    if a is not None:
                        assert_array_equal(a, b)


def test_what_was_removed_cannot_be_reached_through_memory_that_is_shared():
    this = problem("logistic", 1, n=3000, p=500)
    assert len(this.blocks) > 1
    assert all(block.X.base is None for block in this.blocks)
    left = this.without(np.array([700]))
    shared = [any(mine is theirs for theirs in this.blocks) for mine in left.blocks]
    assert shared.count(False) == 1
    (changed,) = [block for block, same in zip(left.blocks, shared, strict=True) if not same]
    assert changed.X.base is None
    assert not any(np.shares_memory(changed.X, block.X) for block in this.blocks)


@on_every_loss
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), n_gone=st.integers(1, 5), weighted=st.booleans())
def test_an_inverse_follows_its_records(loss, q, seed, n_gone, weighted):
    """Woodbury's identity gives what the Hessian of the changed records gives, away and back."""
    p = 24
    this = problem(loss, q, n=80, p=p, seed=seed, weighted=weighted)
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((q, p))
    gone = np.sort(rng.choice(80, n_gone, replace=False))
    inverse = InverseHessian.of(this, theta)
    less = inverse.without(this.take(gone))
    assert less is not None
    fresh = InverseHessian.of(this.without(gone), theta)
    # The condition is at most (alpha + |X|^2) / alpha, and the identity's own pivots at least 1e-3.
    tolerance = 1e-13 * (1 + np.square(together(this).X).sum()) * 1e3
    assert_allclose(less.matrices, fresh.matrices, rtol=0, atol=tolerance)
    assert_allclose(less.with_rows(this.take(gone)).matrices, inverse.matrices, rtol=0, atol=tolerance)


@on_every_loss
def test_a_step_is_the_inverse_times_the_gradient(loss, q):
    p = 4
    this = problem(loss, q, n=30, p=p)
    theta = np.random.default_rng(1).standard_normal((q, p))
    step = InverseHessian.of(this, theta).step(this.gradient(theta, this.sums(theta)))
    # A difference quotient of the gradient along the step gives the gradient back.
    size = 1e-6
    ahead, behind = theta + size * step, theta - size * step
    along = (this.gradient(ahead, this.sums(ahead)) - this.gradient(behind, this.sums(behind))) / (2 * size)
    assert_allclose(along, this.gradient(theta, this.sums(theta)), rtol=1e-7, atol=1e-8)


# --- the search --------------------------------------------------------------------------------


@on_every_loss
@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.01, 1.0, 30.0]), alpha=st.sampled_from([1e-3, 1.0, 50.0]))
def test_any_start_and_any_inverse_lead_to_the_target(loss, q, seed, scale, alpha):
    rng = np.random.default_rng(seed)
    rows = rows_of(loss, q, 40, 3, seed=seed)
    this = Objective(blocks_of(Rows(rows.X * scale, rows.labels, rows.targets)), loss, 3, q, alpha)
    start = rng.standard_normal((q, 3)) * 10.0 ** rng.integers(-2, 3)
    right = InverseHessian.of(this, start)
    for matrices in (right.matrices, right.matrices * 1e-3, right.matrices * 50.0, -right.matrices):
        found = polish(this, start, target=1e-8, inverse=InverseHessian(matrices, start, loss))
        assert found.bound <= 1e-8
        assert found.bound == this.residual_bound(found.theta)


@pytest.mark.parametrize("share", [1, 100])
def test_a_sequence_of_deletions_takes_few_passes_from_releases(share):
    """300 deletions with the inverse of the fit, each from a release: at most 4 passes, and one more for mu / 100."""
    noise, mu = 0.01, float(gdp_mu(1.0, 1e-5)) / share
    this = problem("logistic", 1, n=1600, p=32, alpha=1.0)
    rng = np.random.default_rng(5)
    found = polish(this, np.zeros((1, 32)), target=noise * mu)
    passes = []
    for _ in range(300):
        gone = rng.integers(0, len(this), 1)
        inverse = found.inverse.without(this.take(gone))
        this = this.without(gone)
        found = polish(this, found.theta + noise * rng.standard_normal((1, 32)), target=noise * mu, inverse=inverse)
        passes.append(found.passes)
        assert found.refreshes == 0
    assert max(passes) <= (4 if share == 1 else 5)
    assert np.mean(passes) <= (3.3 if share == 1 else 4.3)


def test_noise_below_the_floor_names_the_floor():
    this = problem("logistic", 1, n=400, p=8)
    with pytest.raises(NoiseFloorError, match=r"rounding alone .* 1e-16 is needed") as caught:
        polish(this, np.zeros((1, 8)), target=1e-16)
    assert polish(this, np.zeros((1, 8)), target=2 * caught.value.floor).bound <= 2 * caught.value.floor


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_data_whose_squares_vanish_have_no_floor_of_their_own(loss):
    """Gradients of 1e-170 are far above what rounds in them, though their squares are 0."""
    rows = rows_of(loss, 1, 30, 4)
    rows = Rows(rows.X * 1e-170, rows.labels, rows.targets)
    this = Objective(blocks_of(rows), loss, 4, 1, 1e-3)
    start = np.zeros((1, 4))
    assert this.residual_bound(start) > 1e-171
    found = polish(this, start, target=1e-173)
    assert 0.0 < found.bound <= 1e-173
    assert found.theta.any()
    with pytest.raises(NoiseFloorError) as caught:
        polish(this, start, target=1e-300)
    assert caught.value.floor < 1e-173  # what the bound adds, and not what the gradient is


def test_steps_are_halved_by_a_slope_whose_products_vanish():
    """Of a gradient and a step of 1e-170 each the slope is 0 as a sum of products, and no step would be halved."""
    sums = gradient_sums(np.zeros((1, 2)), np.zeros((1, 2)), targets=np.zeros((1, 1)), loss="squared")
    for scale in (1e-170, 1e-320, 1.0, 1e170):
        gradient = np.array([[-scale, scale / 2]])
        point = newton._Point(np.zeros((1, 2)), gradient, scale, scale, sums)
        assert point.slope(-gradient) < 0.0 < point.slope(gradient)
    assert np.isnan(newton._Point(sums.gradient, np.full((1, 2), np.nan), 1.0, 1.0, sums).slope(gradient))


def test_a_search_that_stalls_names_records_and_remedy(monkeypatch):
    monkeypatch.setattr(newton, "_MOST_PASSES", 3)
    rows = rows_of("logistic", 1, 50, 4)
    rows.X[17] *= 1e4
    this = Objective(blocks_of(rows), "logistic", 4, 1, 1e-4)
    with pytest.raises(StalledError, match=r"positions 17.*scale the features by a constant") as caught:
        polish(this, np.zeros((1, 4)), target=1e-6)
    assert caught.value.rows[0] == 17


@pytest.mark.parametrize("wanted", [0.0, -1.0, float("nan")])
def test_targets_must_be_above_0(wanted):
    with pytest.raises(ValueError, match="target must be above 0"):
        polish(problem("logistic", 1), np.zeros((1, 5)), target=wanted)


def test_starts_and_data_must_be_finite():
    this = problem("squared", 1)
    with pytest.raises(ValueError, match="start must be finite"):
        polish(this, np.full((1, 5), np.nan), target=1.0)
    rows = rows_of("squared", 1, 10, 5)
    rows.X[3, 2] = np.inf
    with pytest.raises(ValueError, match="gradient is not finite"):
        polish(Objective(blocks_of(rows), "squared", 5, 1, 1.0), np.zeros((1, 5)), target=1.0)


def test_alpha_too_small_for_float64_is_refused():
    X = np.ones((5, 3)) * 1e8
    this = Objective(blocks_of(Rows(X, targets=np.ones((5, 1)))), "squared", 3, 1, 1e-9)
    with pytest.raises(ValueError, match="alpha is too small"):
        InverseHessian.of(this, np.zeros((1, 3)))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_above_0(alpha):
    with pytest.raises(ValueError, match="alpha"):
        problem("logistic", 1, alpha=alpha)
