"""Influence against models fitted again without the records, and against one Newton step in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from expunge.evaluation import influence
from expunge.forget_sets import top_forget_set
from expunge.runs.residual import record_quotes

Float64 = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


def problem(n: int = 60, p: int = 5, q: int = 3, seed: int = 0) -> tuple[Float64, Float64, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X[0] *= 20.0  # one record with a leverage near 1
    return X, rng.normal(size=(n, q)), rng.integers(q, size=n)


def ridge(X: Float64, Y: Float64, alpha: float) -> Float64:
    return np.asarray(np.linalg.solve(X.T @ X + alpha * np.eye(X.shape[1]), X.T @ Y))


def newton_step(X: Float64, y: NDArray[np.int64], alpha: float, q: int, theta: Float64) -> Float64:
    """Return the Newton step of softmax regression at theta, and of logistic regression where q is 1."""
    p = X.shape[1]
    if q == 1:
        chance = 1.0 / (1.0 + np.exp(-X @ theta[0]))
        gradient = X.T @ (chance - y) + alpha * theta[0]
        hessian = X.T @ ((chance * (1 - chance))[:, None] * X) + alpha * np.eye(p)
        return np.asarray(np.linalg.solve(hessian, gradient)[None])
    chance = softmax(X @ theta.T, axis=1)
    gradient = (chance - np.eye(q)[y]).T @ X + alpha * theta
    hessian = alpha * np.eye(p * q)
    for x, c in zip(X, chance, strict=True):
        hessian += np.kron(np.diag(c) - np.outer(c, c), np.outer(x, x))
    return np.asarray(np.linalg.solve(hessian, gradient.ravel()).reshape(q, p))


def optimum(X: Float64, y: NDArray[np.int64], alpha: float, q: int) -> Float64:
    theta = np.zeros((q, X.shape[1]))
    for _ in range(60):
        theta = theta - newton_step(X, y, alpha, q, theta)
    return theta


@pytest.mark.parametrize("alpha", [1e-6, 1.0, 100.0])
def test_ridge_is_the_distance_to_the_model_fitted_without_the_record(alpha: float) -> None:
    X, Y, _ = problem()
    whole, every = ridge(X, Y, alpha), np.arange(len(X))
    truth = [np.linalg.norm(whole - ridge(X[every != i], Y[every != i], alpha)) for i in every]
    accuracy = 100 * EPS * np.linalg.cond(X.T @ X + alpha * np.eye(X.shape[1]))
    close = {"rtol": accuracy, "atol": accuracy * np.linalg.norm(whole)}  # the difference of two models cancels
    found = influence(X, Y, loss="squared", alpha=alpha)
    assert found.status == "estimate"
    np.testing.assert_allclose(found, truth, **close)
    one = influence(X, Y[:, 0], loss="squared", alpha=alpha)
    truth = [np.linalg.norm((whole - ridge(X[every != i], Y[every != i], alpha))[:, 0]) for i in every]
    np.testing.assert_allclose(one, truth, **close)


def test_ridge_of_groups_is_that_of_their_rows_together() -> None:
    X, Y, _ = problem()
    groups = [[3], [0, 7, 5], list(range(10, 50)), list(range(1, 60))]
    every = np.arange(len(X))
    truth = [np.linalg.norm(ridge(X, Y, 0.3) - ridge(X[k], Y[k], 0.3)) for k in (~np.isin(every, g) for g in groups)]
    found = influence(X, Y, loss="squared", alpha=0.3, groups=groups)
    np.testing.assert_allclose(found, truth, rtol=1e-10)
    assert found[0] == pytest.approx(influence(X, Y, loss="squared", alpha=0.3)[3], rel=1e-12)
    assert found[1] != pytest.approx(float(influence(X, Y, loss="squared", alpha=0.3)[[0, 7, 5]].sum()), rel=0.01)


@pytest.mark.parametrize(("loss", "q"), [("logistic", 1), ("softmax", 3)])
def test_other_losses_are_one_newton_step_and_near_the_refitted_model(loss: str, q: int) -> None:
    X, _, y = problem(q=max(q, 2))
    theta, every = optimum(X, y, 1.0, q), np.arange(len(X))
    steps, truth = [], []
    for i in every:
        kept = every != i
        steps.append(np.linalg.norm(newton_step(X[kept], y[kept], 1.0, q, theta)))
        truth.append(np.linalg.norm(theta - optimum(X[kept], y[kept], 1.0, q)))
    found = influence(X, y, loss=loss, alpha=1.0)
    np.testing.assert_allclose(found, steps, rtol=1e-6)
    np.testing.assert_allclose(found[1:], truth[1:], rtol=0.2)
    together = influence(X, y, loss=loss, alpha=1.0, groups=[[4, 2], [9]])
    kept = ~np.isin(every, [2, 4])
    assert together[0] == pytest.approx(np.linalg.norm(newton_step(X[kept], y[kept], 1.0, q, theta)), rel=1e-6)
    assert together[1] == pytest.approx(float(found[9]), rel=1e-9)


def test_one_against_the_rest_is_every_class_by_itself() -> None:
    X, _, y = problem()
    parts = [influence(X, (y == k).astype(int), loss="logistic", alpha=1.0) for k in range(3)]
    np.testing.assert_allclose(
        influence(X, y, loss="logistic", alpha=1.0), np.sqrt(np.square(parts).sum(axis=0)), rtol=1e-6
    )


def test_proved_bounds_on_the_distance_are_not_below_it() -> None:
    X, Y, _ = problem()
    theta = ridge(X, Y, 1.0).T
    bound = record_quotes(X, theta, loss="squared", targets=Y, alpha=1.0, noise_std=1.0, mu=1.0).sensitivity_bound
    found = influence(X, Y, loss="squared", alpha=1.0)
    assert (np.asarray(found) <= bound * (1 + 1e-12)).all()


def test_a_class_without_records_and_constant_targets_are_fine() -> None:
    X, _, y = problem()
    wider = influence(X, y, loss="softmax", alpha=1.0, n_classes=5)
    assert wider.shape == (60,)
    assert np.isfinite(wider).all()
    assert influence(X, np.zeros(60), loss="squared", alpha=1.0).tolist() == [0.0] * 60
    assert len(top_forget_set(wider, size=3, score_name="influence")) == 3


def test_rows_whose_rounding_hides_the_optimum_still_have_an_influence() -> None:
    X, _, _ = problem()
    y = (X[:, 1] > 0).astype(int)
    found = influence(np.hstack([X, 1e3 * np.ones((60, 1))]), y, loss="logistic", alpha=1.0)
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"X": np.ones(5)}, ValueError, "X must have 2 dimension"),
        ({"X": np.full((6, 2), np.nan)}, ValueError, "X must be finite"),
        ({"X": np.ones((1, 2)), "y": [0]}, ValueError, "X must have at least two rows"),
        ({"y": [0, 1]}, ValueError, "y must have one answer for each of 6 rows"),
        ({"y": [0, 1, 2, -1, 0, 1]}, ValueError, "y must be >= 0"),
        ({"y": [0, 1, 2, 3, 0, 1], "n_classes": 3}, ValueError, "y must hold the classes"),
        ({"n_classes": 1}, ValueError, "n_classes must be >= 2"),
        ({"loss": "squared", "n_classes": 3}, ValueError, "n_classes must be omitted for the squared loss"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"alpha": 0.0}, ValueError, "alpha must be > 0"),
        ({"alpha": np.nan}, ValueError, "alpha must be finite"),
        ({"groups": []}, ValueError, "groups must hold at least one group"),
        ({"groups": [[0], [1, 1]]}, ValueError, r"groups\[1\] must not repeat a row"),
        ({"groups": [[0, 6]]}, ValueError, r"groups\[0\] must be within \[0, 6\)"),
        ({"groups": [list(range(6))]}, ValueError, "groups must leave at least one record"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"X": np.eye(6), "y": [0, 1, 2, 0, 1, 2], "loss": "softmax", "alpha": 1.0, **changes}
    with pytest.raises(error, match=words):
        influence(arguments.pop("X"), arguments.pop("y"), **arguments)  # type: ignore[arg-type]


def test_where_rounding_decides_the_distance_there_is_none() -> None:
    """A ridge with more columns than rows and hardly a penalty: 1 less the leverage is nothing but rounding."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10, 30)), rng.normal(size=10)
    for alpha in (1e-9, 1e-6):
        with pytest.raises(RuntimeError, match=r"alpha must be larger .* row 0 .* leverage cannot be told from 1"):
            influence(X, y, loss="squared", alpha=alpha)
    # In the dual form nothing cancels: the model of all rows less that of the others.
    found, kept = influence(X, y, loss="squared", alpha=1e-3), np.arange(10)
    models = [X[rows].T @ np.linalg.solve(X[rows] @ X[rows].T + 1e-3 * np.eye(len(rows)), y[rows])
              for rows in (kept, *(kept[kept != i] for i in kept))]  # fmt: skip
    np.testing.assert_allclose(found, [np.linalg.norm(models[0] - one) for one in models[1:]], rtol=1e-5)


@pytest.mark.parametrize("alpha", [1e-9, 1e-6])
@pytest.mark.parametrize("rows", [[0], [0, 1], [2, 5, 7]])
def test_groups_that_rounding_decides_are_refused_as_their_rows_are(alpha, rows):
    random = np.random.default_rng(3)
    X, y = random.normal(size=(10, 30)), random.normal(size=10)
    with pytest.raises(RuntimeError, match=r"alpha must be larger .* groups\[1\] .* leverage cannot be told from 1"):
        influence(np.vstack([X, 0 * X]), np.append(y, 0 * y), loss="squared", alpha=alpha, groups=[[12], rows])
    small = influence(X, y, loss="squared", alpha=1.0, groups=[rows])
    kept = np.delete(np.arange(10), rows)
    optimum = [np.linalg.solve(X[k].T @ X[k] + np.eye(30), X[k].T @ y[k]) for k in (np.arange(10), kept)]
    assert small[0] == pytest.approx(np.linalg.norm(optimum[0] - optimum[1]), rel=1e-9)
