"""Quotes of groups of records: bounds against models trained again without them, in floats and in many digits."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import oracles
from expunge.runs.residual import group_quotes, record_quotes
from expunge.runs.residual import groups as room
from test_residual_quotes import deletion_step, extreme, objective_of, on_every_loss, problem, small_problem, without

RELEASE = {"noise_std": 0.01, "mu": 0.1, "delta": 1e-5}


def truths(X: Any, theta: Any, rows: Any, given: dict[str, Any]) -> dict[str, float]:
    best = oracles.penalised_optimum(X, theta, **given)
    rest = oracles.penalised_optimum(np.delete(X, rows, axis=0), best, **without(given, rows))
    return {
        "sensitivity_bound": float(np.linalg.norm(best - rest)),
        "shift_bound": float(np.linalg.norm(theta - rest)),
        "one_step_distance_bound": float(np.linalg.norm(deletion_step(X, theta, rows, given) - rest)),
    }


def some_groups(rng: np.random.Generator, n: int) -> list[Any]:
    """Return groups of all sizes, which may overlap, the whole among them."""
    found = [np.sort(rng.choice(n, size=int(rng.integers(1, n + 1)), replace=False)) for _ in range(5)]
    return [*found, np.arange(n), np.array([n - 1])]


def violations(X: Any, theta: Any, groups: list[Any], quotes: Any, given: dict[str, Any]) -> list[Any]:
    found = []
    for number, rows in enumerate(groups):
        if len(rows) == len(X):
            continue  # nothing to train on; that the whole is finite is tested on its own
        for name, truth in truths(X, theta, rows, given).items():
            if not truth <= getattr(quotes, name)[number] + 1e-12 * (1.0 + np.abs(theta).max()):
                found.append((rows, name, truth, getattr(quotes, name)[number]))
    return found


@pytest.mark.parametrize("seed", range(6))
@on_every_loss
def test_no_bound_is_below_the_truth(loss, q, seed):
    for number in range(8):
        rng, X, theta, given = small_problem(loss, q, seed, number)
        groups = some_groups(rng, len(X))
        quotes = group_quotes(objective_of(X, given, q, block=3), theta, groups, **RELEASE)
        assert violations(X, theta, groups, quotes, given) == []


@settings(max_examples=100)
@given(extreme(), st.integers(1, 3))
def test_no_bound_is_below_the_truth_to_many_digits(case, gone):
    X, theta, given = case
    rows = np.arange(max(0, len(X) - gone), len(X))
    quotes = group_quotes(objective_of(X, given, len(theta)), theta, [rows], **RELEASE)
    with mpmath.workdps(60 if abs(X).max() < 1e5 and 1e-10 < given["alpha"] < 1e10 else 400):
        here = mpmath.matrix([mpmath.mpf(float(t)) for t in theta.ravel()])
        fewer, rest = np.delete(X, rows, axis=0), without(given, rows)
        best = oracles.penalised_optimum_mpmath(X, here, **given)
        best_without = oracles.penalised_optimum_mpmath(fewer, here, **rest)
        gradient, _ = oracles.penalised_derivatives_mpmath(X, here, **given)
        less, hessian = oracles.penalised_derivatives_mpmath(fewer, here, **rest)
        after = here - mpmath.lu_solve(hessian, less - gradient)
        assert mpmath.norm(best - best_without) <= quotes.sensitivity_bound[0]
        assert mpmath.norm(here - best_without) <= quotes.shift_bound[0]
        assert mpmath.norm(after - best_without) <= quotes.one_step_distance_bound[0]


@on_every_loss
def test_a_group_of_one_is_its_record(loss, q):
    X, given = problem(loss, q, 30, 3, seed=5)
    theta = oracles.penalised_optimum(X, np.zeros((q, 3)), **given)
    alone = record_quotes(X, theta, **given, **RELEASE)
    groups = group_quotes(objective_of(X, given, q), theta, [np.array([i]) for i in range(30)], **RELEASE)
    assert_array_equal(groups.rows, alone.rows)
    for field in fields(alone):
        if field.name.endswith(("bound", "estimate")):
            # For the squared loss with several outputs, each of them carries the rounding of all.
            assert_allclose(
                getattr(groups, field.name), getattr(alone, field.name), rtol=1e-9, atol=1e-12, err_msg=field.name
            )


@on_every_loss
def test_groups_of_ordinary_rows_are_quoted_near_the_truth(loss, q):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((400, 4))
    given = {"loss": loss, "alpha": 1.0}
    given |= (
        {"targets": rng.standard_normal((400, q))} if loss == "squared" else {"labels": rng.integers(0, max(q, 2), 400)}
    )
    theta = oracles.penalised_optimum(X, np.zeros((q, 4)), **given)
    groups = [
        np.sort(rng.choice(400, size=m, replace=False)) for m in ((2, 3, 5) if loss == "softmax" else (2, 3, 5, 10, 20))
    ]
    quotes = group_quotes(objective_of(X, given, q, block=64), theta, groups, **RELEASE)
    for number, rows in enumerate(groups):
        truth = truths(X, theta, rows, given)
        assert quotes.sensitivity_bound[number] <= 4.0 * truth["sensitivity_bound"]
        assert quotes.sensitivity_estimate[number] == pytest.approx(truth["sensitivity_bound"], rel=0.1)
        if loss == "squared":
            assert quotes.one_step_distance_bound[number] <= 1e-10


def test_rows_that_pull_apart_cost_less_together_than_alone():
    X = np.vstack([np.random.default_rng(1).standard_normal((50, 2)), [[3.0, 0.0], [3.0, 0.0]]])
    given = {"loss": "squared", "alpha": 1.0, "targets": np.zeros((52, 1))}
    given["targets"][50:, 0] = [5.0, -5.0]
    theta = oracles.penalised_optimum(X, np.zeros((1, 2)), **given)
    quotes = group_quotes(objective_of(X, given, 1), theta, [np.array([50]), np.array([50, 51])], **RELEASE)
    assert quotes.sensitivity_bound[1] < 0.1 * quotes.sensitivity_bound[0]


@pytest.mark.parametrize("columns", [1, 3])
@on_every_loss
def test_large_groups_are_bounded_by_the_penalty(loss, q, columns, monkeypatch):
    monkeypatch.setattr(room, "_COLUMNS", columns)
    monkeypatch.setattr(room, "_SOLUTIONS", 40)  # several reads each
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X, given = problem(loss, q, 9, 2, seed=seed, weighted=seed % 2 == 0)
        theta = oracles.penalised_optimum(X, np.zeros((q, 2)), **given)
        groups = some_groups(rng, 9)
        quotes = group_quotes(objective_of(X, given, q, block=4), theta, groups, **RELEASE)
        assert violations(X, theta, groups, quotes, given) == []
        for number, rows in enumerate(groups):
            assert np.isfinite(quotes.sensitivity_bound[number])
            assert quotes.passes_estimate[number] >= 1
            if len(rows) < 9:
                _, hessian = oracles.penalised_derivatives(X, theta, **given)
                less, _ = oracles.penalised_derivatives(np.delete(X, rows, axis=0), theta, **without(given, rows))
                gone = np.linalg.norm(np.linalg.solve(hessian, np.asarray(less).ravel()))
                if len(rows) * (q if loss == "softmax" else 1) > columns:
                    assert quotes.sensitivity_estimate[number] == pytest.approx(gone, rel=1e-6, abs=1e-9)


@on_every_loss
def test_blocks_chunks_and_order_change_nothing(loss, q, monkeypatch):
    X, given = problem(loss, q, 40, 3, seed=11, weighted=True)
    X, given["alpha"] = X / np.abs(X).max(), 1.0  # so that the order of sums hardly matters
    theta = oracles.penalised_optimum(X, np.zeros((q, 3)), **given)
    groups = [
        rows for rows in some_groups(np.random.default_rng(2), 40) if len(rows) < 40
    ]  # all: next to nothing is kept
    whole = group_quotes(objective_of(X, given, q), theta, groups, **RELEASE)
    monkeypatch.setattr(room, "_SOLUTIONS", 300)
    monkeypatch.setattr(room, "_MATRICES", 1)
    done = []
    parts = group_quotes(objective_of(X, given, q, block=7), theta, groups[::-1], **RELEASE, progress=done.append)
    assert sum(done) == len(groups)
    for field in fields(whole):
        if field.name.endswith(("bound", "estimate")):
            assert_allclose(getattr(parts, field.name)[::-1], getattr(whole, field.name), rtol=1e-6, atol=1e-9)


def test_all_records_as_a_group_have_finite_bounds():
    X, given = problem("logistic", 1, 8, 2, seed=0)
    theta = oracles.penalised_optimum(X, np.zeros((1, 2)), **given)
    quotes = group_quotes(objective_of(X, given, 1), theta, [np.arange(8)], **RELEASE)
    assert np.linalg.norm(theta) <= quotes.shift_bound[0] < np.inf  # the optimum of the penalty alone is 0
