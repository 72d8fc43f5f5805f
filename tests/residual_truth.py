"""Models at the optimum by plain Newton steps, and certificates about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.certificates.residual import RecordTree, ResidualCertificate, ResidualEvidence, ResidualModel
from expunge.runs.residual import answers_of, gradient_sums

Float64 = NDArray[np.float64]


def optimum(X: Float64, *, loss: str, alpha: float, n_outputs: int, weights: Float64, **answers: Any) -> Float64:
    """Return the minimiser (q, p) of the penalised loss, constant column included in X."""
    theta = np.zeros((n_outputs, X.shape[1]))
    size = theta.size
    for _ in range(60):
        logits = X @ theta.T
        curvature = np.zeros((len(X), n_outputs, n_outputs))
        if loss == "softmax":
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            residuals = odds - np.eye(n_outputs)[answers["labels"]]
            curvature = np.einsum("ni,ij->nij", odds, np.eye(n_outputs)) - np.einsum("ni,nj->nij", odds, odds)
        elif loss == "logistic":
            labels = answers["labels"]
            wanted = labels[:, None] if n_outputs == 1 else np.eye(n_outputs)[labels]
            odds = 1 / (1 + np.exp(-logits))
            residuals = odds - wanted
            curvature[:, range(n_outputs), range(n_outputs)] = odds * (1 - odds)
        else:
            residuals = logits - answers["targets"]
            curvature[:, range(n_outputs), range(n_outputs)] = 1.0
        gradient = alpha * theta + (weights[:, None] * residuals).T @ X
        hessian = np.einsum("n,nij,na,nb->iajb", weights, curvature, X, X).reshape(size, size) + alpha * np.eye(size)
        step = np.linalg.solve(hessian, gradient.ravel()).reshape(theta.shape)
        theta = theta - step
        if np.abs(step).max() < 1e-13:
            break
    return theta


@dataclasses.dataclass
class Case:
    """A certificate beside everything that it is about."""

    X: Float64
    y: Any
    ids: Any
    weights: Float64 | None
    tree: RecordTree
    theta: Float64
    released: Float64
    certificate: ResidualCertificate
    evidence: ResidualEvidence

    def data(self, rows: Any = slice(None)) -> dict[str, Any]:
        """Return the arguments of `verify` for some rows, in their order."""
        return {
            "X": self.X[rows],
            "y": np.asarray(self.y)[rows],
            "ids": np.asarray(self.ids)[rows],
            "sample_weight": None if self.weights is None else self.weights[rows],
        }


def certified(
    X: ArrayLike,
    y: ArrayLike,
    *,
    loss: str,
    classes: Sequence[Any] | None = None,
    n_outputs: int = 1,
    fit_intercept: bool = True,
    alpha: float = 1.0,
    noise_std: float = 0.01,
    ids: ArrayLike | None = None,
    weights: Float64 | None = None,
    theta: Float64 | None = None,
    tree: RecordTree | None = None,
    seed: int = 0,
    action: str = "fit",
    **changes: Any,
) -> Case:
    """Return a certificate of a model at its optimum, or at ``theta``."""
    rows = np.asarray(X, dtype=float)
    model = ResidualModel(
        "Newton", rows.shape[1], n_outputs, fit_intercept, None if classes is None else tuple(classes)
    )
    answers = answers_of(y, loss=loss, classes=classes, n_outputs=n_outputs)
    whole = np.hstack([rows, np.ones((len(rows), 1))]) if fit_intercept else rows
    given = {"labels": answers.labels} if answers.targets is None else {"targets": answers.targets}
    factors = np.ones(len(rows)) if weights is None else weights
    if theta is None:
        theta = optimum(whole, loss=loss, alpha=alpha, n_outputs=n_outputs, weights=factors, **given)
    names = np.arange(len(rows)) if ids is None else ids
    if tree is None:
        tree = RecordTree.of(rows, y, ids=names, classes=classes, weights=weights)
    released = theta + noise_std * np.random.default_rng(seed).normal(size=theta.shape)
    settings: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "releases": 100, "release": 1, **changes}
    certificate = ResidualCertificate.create(
        tree=tree, released=released, model=model, loss=loss, alpha=alpha, noise_std=noise_std, **settings
    )
    bound = gradient_sums(whole, theta, loss=loss, weights=weights, **given).norm_bound(theta, alpha=alpha)
    evidence = ResidualEvidence.of(
        tree,
        theta=theta,
        residual_bound=bound,
        passes=3,
        refreshes=1,
        action=action,
        n_changed=len(rows),
        certificate=certificate.digest(),
    )
    return Case(rows, y, names, weights, tree, theta, released, certificate, evidence)


def problem(kind: str = "logistic", *, n: int = 40, p: int = 4, seed: int = 0, **changes: Any) -> Case:
    """Return a small certified model of each kind: ridge, ridge classes, logistic, one against the rest, softmax."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) / np.sqrt(p)
    three = np.array(["a", "b", "c"])[np.arange(n) % 3]
    settings: dict[str, Any] = {
        "ridge": {"loss": "squared", "y": X @ rng.normal(size=(p, 2)), "n_outputs": 2},
        "ridge classes": {"loss": "squared", "y": three, "classes": ["a", "b", "c"], "n_outputs": 3},
        "logistic": {"loss": "logistic", "y": np.arange(n) % 2, "classes": [0, 1]},
        "one against the rest": {"loss": "logistic", "y": three, "classes": ["a", "b", "c"], "n_outputs": 3},
        "softmax": {"loss": "softmax", "y": three, "classes": ["a", "b", "c"], "n_outputs": 3},
    }[kind]
    return certified(X, **{**settings, "ids": 1000 + rng.permutation(n), **changes})


KINDS = ("ridge", "ridge classes", "logistic", "one against the rest", "softmax")
