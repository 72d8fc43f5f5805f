"""Quotes of deletions: bounds against models trained again without the record, in floats and in many digits."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import oracles
from expunge.accounting import gdp_epsilon
from expunge.runs.residual import Objective, Rows, gradient_sums, prove_inverse, record_quotes
from expunge.runs.residual.derivatives import derivatives
from expunge.runs.residual.one_step import quote_part, remainder
from expunge.runs.residual.products import products
from expunge.runs.residual.proved_inverse import proved
from expunge.runs.residual.quotes import objective_quotes

EPS = float(np.finfo(np.float64).eps)
REFERENCE = json.loads((Path(__file__).parent / "golden" / "residual_quotes.json").read_text())
LOSSES = [("squared", 1), ("squared", 3), ("logistic", 1), ("logistic", 3), ("softmax", 2), ("softmax", 4)]
on_every_loss = pytest.mark.parametrize(("loss", "q"), LOSSES)
RELEASE = {"noise_std": 0.01, "mu": 0.1}
PER_ROW = ("targets", "labels", "weights")


def problem(loss: str, q: int, n: int, p: int, *, seed: int, weighted: bool = False) -> tuple[Any, dict[str, Any]]:
    """Return rows and what else a quote needs."""
    rng = np.random.default_rng(seed)
    given: dict[str, Any] = {"loss": loss, "alpha": float(10.0 ** rng.uniform(-1.5, 1.0))}
    if loss == "squared":
        given["targets"] = rng.standard_normal((n, q))
    else:
        given["labels"] = rng.integers(0, max(q, 2), size=n)
    if weighted:
        given["weights"] = rng.uniform(0.0, 2.0, size=n)
    return rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-1.5, 0.7), given


def objective_of(X: Any, given: dict[str, Any], q: int, *, block: int | None = None) -> Objective:
    """Return the objective of a problem, its rows in blocks of a size."""
    size = block or len(X)
    blocks = []
    for start in range(0, len(X), size):
        cut = {name: given[name][start : start + size] for name in PER_ROW if name in given}
        blocks.append(Rows(X[start : start + size], cut.get("labels"), cut.get("targets"), cut.get("weights")))
    return Objective(tuple(blocks), given["loss"], X.shape[1], q, given["alpha"])


def small_problem(loss: str, q: int, seed: int, number: int) -> tuple[np.random.Generator, Any, Any, dict[str, Any]]:
    """Return a generator, and the rows, parameters and answers of one of many small problems.

    Every third has weights; the parameters of every fourth are a released model's, those of others the optimum.
    """
    rng = np.random.default_rng((seed, number))
    n, p = int(rng.integers(2, 10)), int(rng.integers(1, 4))
    X, given = problem(loss, q, n, p, seed=int(rng.integers(1 << 30)), weighted=number % 3 == 0)
    theta = oracles.penalised_optimum(X, np.zeros((q, p)), **given)
    if number % 4 == 1:
        theta = theta + 10.0 ** rng.uniform(-9, 0) * rng.standard_normal((q, p))
    return rng, X, theta, given


def without(given: dict[str, Any], rows: Any) -> dict[str, Any]:
    """Return the same without a row, or several."""
    per_row = ("targets", "labels", "weights")
    return {name: np.delete(value, rows, axis=0) if name in per_row else value for name, value in given.items()}


def deletion_step(X: Any, theta: Any, rows: Any, given: dict[str, Any]) -> Any:
    """Return theta after the Newton step that deletes a row, or several, and leaves the gradient that theta has."""
    gradient, _ = oracles.penalised_derivatives(X, theta, **given)
    less, hessian = oracles.penalised_derivatives(np.delete(X, rows, axis=0), theta, **without(given, rows))
    return theta - np.linalg.solve(hessian, less - gradient).reshape(theta.shape)


def violations(X: Any, theta: Any, given: dict[str, Any], **more: Any) -> int:
    """Return how many bounds of how many rows lie below the truth, found by training without each row."""
    quotes = record_quotes(X, theta, **given, **RELEASE, **more)
    best = oracles.penalised_optimum(X, theta, **given)
    found = 0
    for row in range(len(X)):
        best_without = oracles.penalised_optimum(np.delete(X, row, axis=0), best, **without(given, row))
        truth = {
            "sensitivity_bound": best - best_without,
            "shift_bound": theta - best_without,
            "one_step_distance_bound": deletion_step(X, theta, row, given) - best_without,
        }
        for name, apart in truth.items():
            # What training to the end leaves by rounding.
            slack = 1e-12 * (1.0 + np.abs(best_without).max())
            found += not np.linalg.norm(apart) <= getattr(quotes, name)[row] + slack
    return found


# --- numbers to 60 digits -------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFERENCE["logistic"], ids=lambda case: case["name"])
def test_formulas_are_those_of_the_reference(case):
    X, labels = np.array(case["X"]), (np.array(case["y"]) > 0).astype(int)
    theta, alpha, row = np.array([[float(t) for t in case["optimum"]]]), case["alpha"], case["delete"][0]
    found = derivatives(X, theta, loss="logistic", targets=None, labels=labels, weights=None, alpha=alpha, threads=None)
    inverse = proved(found, alpha=alpha, inverse=None)
    quotes = quote_part(
        found.parts[0], products(X, inverse.matrices[0]), found.norms,
        loss="logistic", alpha=alpha, defect=inverse.defects[0], norm=inverse.norms[0],
    )  # fmt: skip
    expected = {name: float(case[name]) for name in case if isinstance(case[name], str) and name != "name"}
    weighted = quotes.leverage[row] * found.parts[0].curvatures[row, 0, 0]
    assert weighted == pytest.approx(expected["leverage"], rel=1e-8)
    assert quotes.reach[row] == pytest.approx(expected["quote_delta_max"], rel=1e-9)
    assert quotes.decrement[row] == pytest.approx(expected["quote_decrement"], rel=1e-6)
    assert quotes.decrement[row] >= expected["true_decrement_at_optimum_H"]
    # The reference knows the largest norm of a row by the inverse without the record; here it is bounded.
    assert quotes.local_distance[row] >= expected["quote_distance_H"] * (1.0 - 1e-9)
    assert quotes.local_distance[row] <= expected["quote_distance_H"] * 1.001
    assert quotes.local_distance[row] >= expected["true_distance_H0"]
    assert quotes.after_step[row] >= expected["distance1"]
    assert quotes.shift[row] >= expected["distance_no_step"]


@pytest.mark.parametrize("case", REFERENCE["softmax"], ids=lambda case: case["name"])
def test_softmax_bounds_hold_at_the_reference(case):
    X, labels, row = np.array(case["X"]), np.array(case["y"]), case["delete"][0]
    shape = (case["classes"], X.shape[1])
    theta, after = (np.reshape([float(t) for t in case[name]], shape) for name in ("optimum", "optimum_without"))
    quotes = record_quotes(X, theta, loss="softmax", labels=labels, alpha=case["alpha"], rows=[row], **RELEASE)
    assert float(case["distance1"]) <= quotes.one_step_distance_bound[0]
    apart = np.linalg.norm(theta - after)
    assert apart <= quotes.sensitivity_bound[0] <= 2.0 * apart
    assert quotes.sensitivity_estimate[0] == pytest.approx(apart, rel=0.05)


def test_formulas_of_softmax_are_those_of_the_theory():
    """Every quantity again from dense Hessians: logits move against one another, by sqrt 2 times a norm at most."""
    q, p, alpha = 3, 4, 0.7
    X, given = problem("softmax", q, 25, p, seed=12)
    X, given["alpha"] = X / np.linalg.norm(X, axis=1).max(), alpha
    theta = oracles.penalised_optimum(X, np.zeros((q, p)), **given)
    found = derivatives(
        X, theta, loss="softmax", targets=None, labels=given["labels"], weights=None, alpha=alpha, threads=None
    )
    inverse = proved(found, alpha=alpha, inverse=None)
    quotes = quote_part(
        found.parts[0], products(X, inverse.matrices[0]), found.norms,
        loss="softmax", alpha=alpha, defect=inverse.defects[0], norm=inverse.norms[0],
    )  # fmt: skip
    gradient, hessian = oracles.penalised_derivatives(X, theta, **given)
    places = [np.kron(np.eye(q), x[:, None]) for x in X]
    against = np.eye(q) - 1.0 / q
    largest = max(np.linalg.norm(against @ U.T @ np.linalg.solve(hessian, U) @ against) for U in places)
    for row in range(len(X)):
        less, after = oracles.penalised_derivatives(np.delete(X, row, axis=0), theta, **without(given, row))
        step = np.linalg.solve(after, gradient - less)
        whole, local = np.sqrt(step @ hessian @ step), np.sqrt(step @ after @ step)
        reach = np.sqrt(2.0) * min(np.linalg.norm(X, axis=1).max() * np.linalg.norm(step), np.sqrt(largest) * whole)
        decrement = (np.exp(reach) - 1.0 - reach) / reach * np.sqrt(local**2 - alpha * step @ step)
        assert quotes.reach[row] == pytest.approx(reach, rel=1e-7)
        assert quotes.decrement[row] == pytest.approx(decrement, rel=1e-5)
        share = np.linalg.solve(hessian, hessian - after)
        kept = 1.0 - np.sqrt(np.trace(share @ share))
        scale = np.sqrt(2.0 * min(largest / kept, (X**2).sum(axis=1).max() * min(1.0 / alpha, inverse.norms[0] / kept)))
        distance = -np.log1p(-scale * decrement * np.exp(reach)) / scale
        assert quotes.local_distance[row] == pytest.approx(distance, rel=1e-5)


# --- against training again -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@on_every_loss
def test_no_bound_is_below_the_truth(loss, q, seed):
    """Twenty problems a call, each with up to nine deletions: 1,200 problems, about 7,000 deletions in all."""
    for number in range(20):
        _, X, theta, given = small_problem(loss, q, seed, number)
        assert violations(X, theta, given) == 0, (seed, number)


@settings(max_examples=60)
@given(
    st.sampled_from(LOSSES),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1e-12, 1e-3, 0.3, 30.0]),
    st.booleans(),
)
def test_bounds_hold_with_old_and_wrong_inverses(which, seed, wrong, weighted):
    loss, q = which
    X, given = problem(loss, q, 7, 3, seed=seed, weighted=weighted)
    theta = oracles.penalised_optimum(X, np.zeros((q, 3)), **given)
    matrices = prove_inverse(X, theta, **given).matrices
    noise = np.random.default_rng(seed).standard_normal(matrices.shape)
    assert violations(X, theta, given, inverse=matrices * (1.0 + wrong * noise)) == 0


@st.composite
def extreme(draw: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return a small problem whose rows, penalty and parameters have scales of their own."""
    loss, q = draw(st.sampled_from([("squared", 1), ("squared", 2), ("logistic", 1), ("logistic", 2), ("softmax", 3)]))
    n, p, seed = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(0, 10**6))
    X, given = problem(loss, q, n, p, seed=seed, weighted=draw(st.booleans()))
    scales = [-170, -20, -8, -3, 0, 0, 0, 1, 2, 3, *([8, 12, 60, 150] if loss == "squared" else [])]
    X = X * 10.0 ** np.array(draw(st.lists(st.sampled_from(scales), min_size=n, max_size=n)))[:, None]
    given["alpha"] *= 10.0 ** draw(st.sampled_from([-6, -2, 0, 0, 0, 5, *([-24, 24] if loss == "squared" else [])]))
    if draw(st.booleans()):
        theta = oracles.penalised_optimum(X, np.zeros((q, p)), **given) if abs(X).max() < 1e6 else np.zeros((q, p))
    else:
        theta = 10.0 ** draw(st.sampled_from([-150, -3, 0, 1])) * np.random.default_rng(seed).standard_normal((q, p))
    return X, theta, given


@settings(max_examples=300)
@given(extreme())
def test_no_bound_is_below_the_truth_to_many_digits(case):
    X, theta, given = case
    quotes = record_quotes(X, theta, **given, **RELEASE)
    with mpmath.workdps(60 if abs(X).max() < 1e5 and 1e-10 < given["alpha"] < 1e10 else 400):
        here = mpmath.matrix([mpmath.mpf(float(t)) for t in theta.ravel()])
        row = len(X) - 1
        fewer, rest = np.delete(X, row, axis=0), without(given, row)
        best = oracles.penalised_optimum_mpmath(X, here, **given)
        best_without = oracles.penalised_optimum_mpmath(fewer, here, **rest)
        gradient, _ = oracles.penalised_derivatives_mpmath(X, here, **given)
        less, hessian = oracles.penalised_derivatives_mpmath(fewer, here, **rest)
        stepped = here - mpmath.lu_solve(hessian, less - gradient)
        assert mpmath.norm(best - best_without) <= quotes.sensitivity_bound[row]
        assert mpmath.norm(here - best_without) <= quotes.shift_bound[row]
        assert mpmath.norm(stepped - best_without) <= quotes.one_step_distance_bound[row]


# --- the inverse ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.sampled_from([("squared", 1), ("logistic", 1), ("logistic", 2), ("softmax", 2)]),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.0, 1e-10, 1e-2]),
    st.sampled_from([1e-3, 1.0, 1e3, 3e4]),
)
def test_defects_and_norms_are_never_below_the_truth(which, seed, wrong, scale):
    loss, q = which
    X, given = problem(loss, q, 6, 3, seed=seed, weighted=seed % 2 == 0)
    X, theta = X * scale, np.random.default_rng(seed).standard_normal((q, 3)) / scale
    matrices = prove_inverse(X, theta, **given).matrices
    noise = np.random.default_rng(seed).standard_normal(matrices.shape)
    found = prove_inverse(X, theta, **given, inverse=matrices * (1.0 + wrong * noise))
    with mpmath.workdps(60):
        here = mpmath.matrix([mpmath.mpf(float(t)) for t in theta.ravel()])
        _, hessian = oracles.penalised_derivatives_mpmath(X, here, **given)
        order = len(found.matrices[0])
        for number, matrix in enumerate(found.matrices):
            exact = hessian[number * order : (number + 1) * order, number * order : (number + 1) * order]
            defect = mpmath.eye(order) - mpmath.matrix(matrix.tolist()) * exact
            assert mpmath.svd_r(defect, compute_uv=False)[0] <= found.defects[number]
            assert 1 / mpmath.eigsy(exact, eigvals_only=True)[0] <= found.norms[number]


def test_a_defect_is_of_the_size_of_rounding():
    X, given = problem("softmax", 3, 400, 9, seed=1)
    given["alpha"] = 1.0
    found = prove_inverse(X / 3.0, np.zeros((3, 9)), **given)
    assert found.defects[0] <= 1e-10
    assert found.norms[0] <= 1.0 + 1e-12


def test_the_norm_is_not_only_that_of_the_penalty():
    X, given = problem("squared", 1, 400, 4, seed=1)
    found = prove_inverse(X, np.zeros((1, 4)), **given)
    _, hessian = oracles.penalised_derivatives(X, np.zeros((1, 4)), **given)
    exact = 1.0 / np.linalg.eigvalsh(hessian)[0]
    assert exact <= found.norms[0] <= 1.2 * exact
    assert found.norms[0] < 0.5 / given["alpha"]


def test_products_are_counted_with_their_rounding():
    rng = np.random.default_rng(0)
    X, P = rng.standard_normal((700, 37)), rng.standard_normal((37, 37))
    P = P + P.T
    found = products(X, P, threads=2)
    exact = X @ P
    assert_allclose(found.leverages[:, 0, 0], np.einsum("np,np->n", X, exact), rtol=1e-11, atol=1e-11)
    assert_allclose(found.squares[:, 0, 0], np.einsum("np,np->n", exact, exact), rtol=1e-12)
    assert_allclose(found.norms, np.einsum("np,np->n", X, X), rtol=1e-13)
    assert (found.error > 37 * EPS / 2 * np.linalg.norm(P) * np.linalg.norm(X, axis=1)).all()


def test_products_of_several_outputs_are_those_of_the_blocks():
    rng = np.random.default_rng(0)
    X, P = rng.standard_normal((150, 5)), rng.standard_normal((15, 15))
    P = P + P.T
    found = products(X, P)
    for row in (0, 63, 64, 149):
        U = np.kron(np.eye(3), X[row][:, None])
        assert_allclose(found.leverages[row], U.T @ P @ U, rtol=1e-12, atol=1e-12)
        assert_allclose(found.squares[row], U.T @ P @ P @ U, rtol=1e-12, atol=1e-12)


# --- what the numbers mean --------------------------------------------------------------------------


@on_every_loss
def test_quotes_are_near_the_truth_for_ordinary_rows(loss, q):
    """Rows of norm 1/2 among 300: the first-order estimate is within some percent, the bound not far above."""
    rng = np.random.default_rng(2)
    X, given = problem(loss, q, 300, 5, seed=2)
    X = 0.5 * X / np.linalg.norm(X, axis=1)[:, None]
    given["alpha"] = 1.0
    theta = oracles.penalised_optimum(X, np.zeros((q, 5)), **given)
    quotes = record_quotes(X, theta, **given, **RELEASE)
    for row in rng.choice(300, 5, replace=False):
        best = oracles.penalised_optimum(np.delete(X, row, axis=0), theta, **without(given, row))
        apart = np.linalg.norm(theta - best)
        assert quotes.sensitivity_estimate[row] == pytest.approx(apart, rel=0.03)
        assert apart <= quotes.sensitivity_bound[row] <= 1.1 * apart
        stepped = np.linalg.norm(deletion_step(X, theta, row, given) - best)
        assert stepped <= quotes.one_step_distance_bound[row] + 1e-14
        assert quotes.one_step_distance_bound[row] <= max(1e-12, 0.1 * apart)


def test_passes_are_those_that_polishing_takes():
    X, given = problem("logistic", 1, 500, 8, seed=4)
    X, given["alpha"] = X / np.linalg.norm(X, axis=1)[:, None], 1.0
    theta = oracles.penalised_optimum(X, np.zeros((1, 8)), **given)
    target = 1e-9
    quotes = record_quotes(X, theta, **given, noise_std=target, mu=1.0)
    inverse = prove_inverse(X, theta, **given).matrices[0]
    taken = []
    for row in range(0, 500, 25):
        fewer, rest = np.delete(X, row, axis=0), without(given, row)
        point, count = deletion_step(X, theta, row, given), 1
        while np.linalg.norm(gradient := oracles.penalised_derivatives(fewer, point, **rest)[0]) > target:
            point, count = point - (inverse @ gradient).reshape(1, -1), count + 1
        taken.append(count)
    said = quotes.passes_estimate[::25]
    assert max(taken) >= 3
    assert (np.abs(said - taken) <= 1).all()


def test_noise_and_before_after_follow_from_distances():
    X, given = problem("logistic", 1, 40, 3, seed=3)
    theta = oracles.penalised_optimum(X, np.zeros((1, 3)), **given)
    quotes = record_quotes(X, theta, **given, noise_std=0.3, mu=0.25, delta=1e-6)
    assert_allclose(quotes.one_step_noise_bound, quotes.one_step_distance_bound / 0.25, rtol=1e-10)
    mu = np.hypot(quotes.shift_bound / 0.3, 0.25)
    assert_allclose(quotes.before_after_mu_bound, mu, rtol=1e-10)
    assert (quotes.before_after_mu_bound >= mu).all()
    assert_allclose(quotes.before_after_epsilon_bound, gdp_epsilon(mu, 1e-6), rtol=1e-9)
    assert quotes.status == "certified"


@on_every_loss
def test_rows_are_quoted_as_among_all(loss, q):
    X, given = problem(loss, q, 30, 4, seed=5, weighted=True)
    theta = oracles.penalised_optimum(X, np.zeros((q, 4)), **given)
    inverse = prove_inverse(X, theta, **given)
    every = record_quotes(X, theta, **given, **RELEASE, inverse=inverse)
    some = record_quotes(X, theta, **given, **RELEASE, rows=[7, 0, 29], threads=2)
    assert some.rows.tolist() == [7, 0, 29]
    for name in ("sensitivity_bound", "one_step_distance_bound", "leverage_bound", "before_after_epsilon_bound"):
        assert_allclose(getattr(some, name), getattr(every, name)[[7, 0, 29]], rtol=1e-9)
    assert some.passes_estimate.tolist() == every.passes_estimate[[7, 0, 29]].tolist()


@on_every_loss
def test_blocks_that_are_read_twice_give_the_quotes_of_an_array(loss, q):
    X, given = problem(loss, q, 40, 3, seed=14, weighted=True)
    X, given["alpha"] = X / np.abs(X).max(), 0.5
    theta = oracles.penalised_optimum(X, np.zeros((q, 3)), **given)
    rows, release = np.array([3, 0, 39]), {"noise_std": 0.03, "mu": 0.4, "delta": 1e-3}
    objective = objective_of(X, given, q, block=17)
    read = objective_quotes(objective, theta, rows=rows, **release)
    held = record_quotes(X, theta, rows=rows, **given, **release)
    assert read.rows.tolist() == held.rows.tolist() == [3, 0, 39]
    assert read.delta == held.delta == 1e-3
    for name in (field.name for field in fields(held) if field.name.endswith(("bound", "estimate"))):
        assert_allclose(getattr(read, name), getattr(held, name), rtol=1e-6, atol=1e-9, err_msg=name)


def test_quotes_of_a_penalty_that_nothing_is_certified_for_are_refused():
    objective = objective_of(np.ones((2, 1)), {"loss": "logistic", "labels": np.array([0, 1]), "alpha": 1e-40}, 1)
    with pytest.raises(ValueError, match="alpha must be"):
        objective_quotes(objective, np.zeros((1, 1)), rows=np.arange(2), **RELEASE, delta=1e-5)


def test_passes_follow_a_given_rate():
    X, given = problem("logistic", 1, 30, 3, seed=2)
    theta = oracles.penalised_optimum(X, np.zeros((1, 3)), **given)
    slow, fast = (record_quotes(X, theta, **given, **RELEASE, rate=rate).passes_estimate for rate in (0.9, 1e-6))
    assert (slow >= fast).all()
    assert slow.max() > 2 * fast.max()


def test_a_record_of_no_weight_costs_nothing():
    X, given = problem("softmax", 3, 20, 4, seed=6, weighted=True)
    given["weights"][[3, 11]] = 0.0
    theta = oracles.penalised_optimum(X, np.zeros((3, 4)), **given)
    quotes = record_quotes(X, theta, **given, **RELEASE, rows=[3, 11])
    assert (quotes.sensitivity_bound < 1e-11).all()
    assert (quotes.sensitivity_estimate == 0.0).all()
    assert quotes.passes_estimate.tolist() == [1, 1]


def test_remainders_are_bounds_wherever_the_difference_cancels():
    reach = np.concatenate([10.0 ** np.linspace(-300, 2, 400), np.linspace(0.04, 0.06, 50), [0.0]])
    found = remainder(reach)
    with mpmath.workdps(700):
        for value, bound in zip(reach, found, strict=True):
            exact = (mpmath.exp(mpmath.mpf(value)) - 1 - value) / value if value else mpmath.mpf(0)
            assert exact <= bound <= exact * (1 + mpmath.mpf(1e-4)) + mpmath.mpf(1e-300), value


# --- bad input ----------------------------------------------------------------------------------------


@on_every_loss
def test_where_nothing_is_known_bounds_are_those_of_the_penalty(loss, q):
    """Features so large, and two of them equal, that no inverse can be proved: what is left is the gradient."""
    X, given = problem(loss, q, 6, 3, seed=7)
    given["alpha"] = 1e-3
    X = X[:, [0, 1, 1]] * 1e9
    theta = np.zeros((q, 3))
    quotes = record_quotes(X, theta, **given, **RELEASE)
    assert np.isinf(prove_inverse(X, theta, **given).defects).all()
    whole = gradient_sums(X, theta, **{k: v for k, v in given.items() if k != "alpha"})
    limit = np.sqrt(q) * 2.0 * (np.linalg.norm(X, axis=1) * 10.0 + whole.norm_bound(theta, alpha=1e-3)) / 1e-3
    assert np.isfinite(quotes.sensitivity_bound).all()
    assert (quotes.sensitivity_bound <= 3.0 * limit).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"alpha": 0.0}, ValueError, "alpha must be >= 1e-30"),
        ({"alpha": math.nan}, ValueError, "alpha must be finite"),
        ({"alpha": 1e60}, ValueError, r"alpha must be >= 1e-30 and <= 1e\+30"),
        ({"noise_std": 0.0}, ValueError, "noise_std must be > 0"),
        ({"mu": -1.0}, ValueError, "mu must be > 0"),
        ({"delta": 1.0}, ValueError, "delta must be"),
        ({"delta": 0.0}, ValueError, "delta must be"),
        ({"rate": 1.0}, ValueError, "rate must be"),
        ({"rate": 0.0}, ValueError, "rate must be"),
        ({"rows": [5]}, ValueError, r"rows must be within \[0, 5\)"),
        ({"rows": [1, 1]}, ValueError, "rows must not repeat a row"),
        ({"X": np.full((5, 2), np.nan)}, ValueError, "X must be finite"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"labels": None}, ValueError, "labels, and no targets"),
        ({"theta": np.zeros((1, 3))}, ValueError, r"theta must have shape \(q, 2\)"),
        ({"inverse": np.eye(3)}, ValueError, r"inverse must have shape \(1, 2, 2\), got \(3, 3\)"),
        ({"inverse": np.full((2, 2), np.inf)}, ValueError, "inverse must be finite"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changes, error, message):
    arguments = {
        "X": np.ones((5, 2)), "theta": np.zeros((1, 2)), "labels": [0, 1, 1, 0, 1],
        "loss": "logistic", "alpha": 1.0, **RELEASE,
    }  # fmt: skip
    arguments |= changes
    with pytest.raises(error, match=message):
        record_quotes(arguments.pop("X"), arguments.pop("theta"), **arguments)


@pytest.mark.parametrize("change", ["theta", "alpha", "rows", "loss"])
def test_an_inverse_proved_elsewhere_is_refused(change):
    X, given = problem("logistic", 1, 8, 2, seed=8)
    theta = np.zeros((1, 2))
    inverse = prove_inverse(X, theta, **given)
    if change == "theta":
        theta = theta + 1e-9
    elif change == "alpha":
        given["alpha"] *= 2.0
    elif change == "rows":
        X, given = X[1:], without(given, 0)
    else:
        theta, given["loss"] = np.zeros((2, 2)), "softmax"
        given["labels"] = given["labels"] % 2
    with pytest.raises(ValueError, match="inverse must have been proved for this loss at these parameters"):
        record_quotes(X, theta, **given, **RELEASE, inverse=inverse)


def test_labels_out_of_range_are_refused_before_any_work():
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\)"):
        prove_inverse(np.ones((2, 2)), np.zeros((3, 2)), loss="softmax", labels=[0, 3], alpha=1.0)
