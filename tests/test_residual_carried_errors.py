"""Errors that quotes of deletions carry along: each as large as it is said to be, against exact steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from expunge.runs.residual.derivatives import Part
from expunge.runs.residual.one_step import PartQuotes, quote_part
from expunge.runs.residual.products import Products

KINDS = ["products", "defect", "curvature", "residual"]


@dataclass(frozen=True)
class Quadratic:
    """Quadratic losses of rows around theta: all that quotes say of them is linear algebra.

    Attributes
    ----------
    X : ndarray, shape (n, p)
        Rows.
    W, r : ndarray, shapes (n, k, k) and (n, k)
        Second and first derivatives of each row's loss by its logits.
    alpha : float
        Penalty.
    gradient : ndarray, shape (k p,)
        Of the penalised loss at theta.
    """

    X: Any
    W: Any
    r: Any
    alpha: float
    gradient: Any

    @property
    def places(self) -> Any:
        """U of each row, (n, k p, k)."""
        return np.stack([np.kron(np.eye(self.r.shape[1]), x[:, None]) for x in self.X])

    @property
    def hessian(self) -> Any:
        U = self.places
        return np.einsum("nia,nab,njb->ij", U, self.W, U) + self.alpha * np.eye(U.shape[1])

    def truth(self, *, spread: float) -> dict[str, Any]:
        """Return what each bound must reach, for every row."""
        U, H, n = self.places, self.hessian, len(self.X)
        inverse = np.linalg.inv(H)
        names = ("leverage", "reach", "decrement", "after_step", "shift")
        found: dict[str, Any] = {name: np.zeros(n) for name in names}
        found["leverage"] = np.array([np.linalg.norm(u.T @ inverse @ u, 2) for u in U])
        x_max = np.linalg.norm(self.X, axis=1).max()
        for row, u in enumerate(U):
            after = H - u @ self.W[row] @ u.T
            step = np.linalg.solve(after, u @ self.r[row])
            start = math.sqrt(self.gradient @ np.linalg.solve(after, self.gradient))
            whole, local = math.sqrt(step @ H @ step), math.sqrt(step @ after @ step)
            reach = spread * min(x_max * np.linalg.norm(step), math.sqrt(found["leverage"].max()) * whole)
            curved = math.sqrt(max(local**2 - self.alpha * step @ step, 0.0))
            found["reach"][row] = reach
            # Beyond 700 nothing is said.
            found["decrement"][row] = (math.expm1(reach) - reach) / reach * curved + start if reach < 700.0 else start
            found["after_step"][row] = np.linalg.norm(np.linalg.solve(after, self.gradient))
            found["shift"][row] = np.linalg.norm(step - np.linalg.solve(after, self.gradient))
        return found


@dataclass(frozen=True)
class Computed:
    """What quotes are computed from, and how far each may be off."""

    part: Part
    products: Products
    defect: float
    norm: float
    norms: Any

    def quotes(self, alpha: float, loss: str) -> PartQuotes:
        return quote_part(
            self.part, self.products, self.norms, loss=loss, alpha=alpha, defect=self.defect, norm=self.norm
        )

    def silent(self, kind: str) -> Computed:
        """Return the same, saying nothing of one kind of error."""
        nothing = np.zeros(len(self.norms))
        if kind == "products":
            return replace(self, products=replace(self.products, error=nothing))
        if kind == "defect":
            return replace(self, defect=0.0)
        if kind == "residual":
            return replace(self, part=replace(self.part, residual_error=nothing))
        sizes = np.linalg.norm(self.part.curvatures, 2, axis=(1, 2))
        return replace(self, part=replace(self.part, curvature_error=nothing, curvature_bound=sizes))


def problem(rng: np.random.Generator, k: int) -> Quadratic:
    """Return rows one of which has most of the curvature, so that little is left where it leaves."""
    n, p = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    X = rng.standard_normal((n, p))
    roots = rng.standard_normal((n, k, k)) / math.sqrt(k)
    W = roots @ roots.transpose(0, 2, 1) * (10.0 ** rng.uniform(-3.0, 1.5, size=n))[:, None, None]
    r = rng.standard_normal((n, k)) * (10.0 ** rng.uniform(-2.0, 0.5, size=n))[:, None]
    gradient = rng.standard_normal(k * p) * rng.choice([0.0, 1e-3])
    return Quadratic(X, W, r, float(10.0 ** rng.uniform(-2.0, 0.5)), gradient)


def off(rng: np.random.Generator, exact: Any, size: Any) -> Any:
    """Return matrices (n, a, b) off by ``size`` in the operator norm: towards 0, away from it, or anywhere."""
    way = rng.choice(["less", "more", "anywhere"])
    error = rng.standard_normal(exact.shape) if way == "anywhere" else exact * (1.0 if way == "more" else -1.0)
    lengths = np.linalg.norm(error, 2, axis=(1, 2))
    return exact + error * (size / np.where(lengths > 0.0, lengths, 1.0))[:, None, None]


def computed(rng: np.random.Generator, this: Quadratic, kind: str) -> Computed:
    """Return what a computation with one large error could have come to."""
    U, H, k = this.places, this.hessian, this.r.shape[1]
    inverse = np.linalg.inv(H)
    size = float(10.0 ** rng.uniform(-3.0, -0.7))
    P, W, r, nothing = inverse, this.W, this.r, np.zeros(len(U))
    defect, product_error, W_error, r_error = 0.0, nothing, nothing, nothing
    if kind == "defect":
        noise = rng.standard_normal(P.shape)
        P = P * (1.0 + size * rng.choice([-1.0, 1.0])) if rng.random() < 0.6 else P + size * (noise + noise.T) * P
        defect = float(np.linalg.norm(np.eye(len(P)) - P @ H, 2)) * (1.0 + 1e-12)
    K = P @ U
    if kind == "products":
        product_error = size * np.linalg.norm(K, 2, axis=(1, 2))
        K = off(rng, K, product_error)
    if kind == "curvature":
        W_error = size * np.linalg.norm(W, 2, axis=(1, 2))
        W = off(rng, W, W_error)
        W = (W + W.transpose(0, 2, 1)) / 2.0
    if kind == "residual":
        r_error = size * np.linalg.norm(r, axis=1)
        r = off(rng, r[:, :, None], r_error)[:, :, 0]
    part = Part(
        outputs=slice(0, k),
        residuals=r,
        residual_error=r_error,
        curvatures=W,
        curvature_error=W_error,
        curvature_bound=np.linalg.norm(W, 2, axis=(1, 2)) + W_error,
        probabilities=None,
        gradient_bound=float(np.linalg.norm(this.gradient)),
    )
    squares = np.linalg.norm(this.X, axis=1) ** 2
    products = Products(U.transpose(0, 2, 1) @ K, K.transpose(0, 2, 1) @ K, squares, product_error, U.shape[1])
    return Computed(part, products, defect, float(np.linalg.norm(inverse, 2)), np.sqrt(squares))


def below(found: PartQuotes, truth: dict[str, Any]) -> Iterator[str]:
    """Yield the bounds that lie below what they bound, for any row."""
    for name, exact in truth.items():
        # What the truth itself is off by: it comes from well-conditioned systems.
        if not (getattr(found, name) >= exact * (1.0 - 1e-9) - 1e-13).all():
            yield name


@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_as_large_as_it_is_said_to_be_moves_no_bound_below_the_truth(kind, k, loss):
    """And where nothing is said of it, some are: the errors are large enough to matter."""
    rng = np.random.default_rng([KINDS.index(kind), k, len(loss)])
    missed = set()
    for _ in range(80):
        this = problem(rng, k)
        found = computed(rng, this, kind)
        truth = this.truth(spread=math.sqrt(2.0) if loss == "softmax" else 1.0)
        if loss == "squared":  # whose step leaves the gradient that was there, and moves no curvature
            truth = {name: truth[name] for name in ("leverage", "after_step", "shift")}
        assert not list(below(found.quotes(this.alpha, loss), truth))
        missed |= set(below(found.silent(kind).quotes(this.alpha, loss), truth))
    assert "shift" in missed
    assert loss == "squared" or {"reach", "decrement"} <= missed
