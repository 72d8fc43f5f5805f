"""Errors that quotes of deletions carry along: each as large as it is said to be, against exact steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

from expunge.runs.residual.derivatives import UNIT, Derivatives, Part, derivatives, rounding
from expunge.runs.residual.one_step import PartQuotes, _kept, quote_part
from expunge.runs.residual.products import Products, products

KINDS = ["products", "defect", "both", "terms", "curvature", "residual"]


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
        k = self.r.shape[1]
        against = np.eye(k) - (1.0 / k if spread > 1.0 and k > 1 else 0.0)  # softmax does not see the mean
        found["against"] = np.array([np.linalg.norm(against @ u.T @ inverse @ u @ against, 2) for u in U])
        for row, u in enumerate(U):
            after = H - u @ self.W[row] @ u.T
            step = np.linalg.solve(after, u @ self.r[row])
            start = math.sqrt(self.gradient @ np.linalg.solve(after, self.gradient))
            whole, local = math.sqrt(step @ H @ step), math.sqrt(step @ after @ step)
            reach = spread * min(x_max * np.linalg.norm(step), math.sqrt(found["against"].max()) * whole)
            curved = math.sqrt(max(local**2 - self.alpha * step @ step, 0.0))
            found["reach"][row] = reach
            # Beyond 700 nothing is said.
            found["decrement"][row] = (
                (math.expm1(reach) - reach) / reach * curved + start if 0.0 < reach < 700.0 else start
            )
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
        if kind in ("products", "both"):
            return replace(self, products=replace(self.products, error=nothing))
        if kind == "terms":
            return replace(self, products=replace(self.products, terms=1))
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
    if rng.random() < 0.5:
        roots[:, :, 1:] = 0.0  # one eigenvalue alone, which the norm of all of them is then
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
    if kind in ("defect", "both"):
        noise = rng.standard_normal(P.shape)
        P = P * (1.0 + size * rng.choice([-1.0, 1.0])) if rng.random() < 0.6 else P + size * (noise + noise.T) * P
        defect = float(np.linalg.norm(np.eye(len(P)) - P @ H, 2)) * (1.0 + 1e-12)
    K = P @ U
    if kind in ("products", "both"):
        product_error = size * np.linalg.norm(K, 2, axis=(1, 2))
        K = off(rng, K, product_error)
    G, S, terms = U.transpose(0, 2, 1) @ K, K.transpose(0, 2, 1) @ K, U.shape[1]
    if kind == "terms":  # so many that what rounding takes from a sum of them can be seen
        terms = int(rng.integers(2**40, 2**47))
        S = S / (1.0 + rounding(terms))
        lengths = np.sqrt(np.einsum("naa->n", S))
        G = off(rng, G, rounding(terms) * lengths * np.linalg.norm(this.X, axis=1))
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
    products = Products(G, S, squares, product_error, terms)
    return Computed(part, products, defect, float(np.linalg.norm(inverse, 2)), np.sqrt(squares))


def below(found: PartQuotes, truth: dict[str, Any]) -> Iterator[str]:
    """Yield the bounds that lie below what they bound, for any row."""
    for name, exact in truth.items():
        # What the truth itself is off by: it comes from well-conditioned systems.
        if not (getattr(found, name) >= exact * (1.0 - 1e-8)).all():
            yield name


@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_as_large_as_it_is_said_to_be_moves_no_bound_below_the_truth(kind, k, loss):
    """And where nothing is said of it, some are: the errors are large enough to matter."""
    rng = np.random.default_rng([KINDS.index(kind), k, len(loss)])
    missed = set()
    for number in range(150):
        this = problem(rng, k)
        if number % 4 == 0:  # so stiff that squares of solutions vanish
            this = replace(this, W=this.W * 1e170, alpha=this.alpha * 1e170)
        found = computed(rng, this, kind)
        truth = this.truth(spread=math.sqrt(2.0) if loss == "softmax" else 1.0)
        if loss == "squared":  # whose step leaves the gradient that was there, and moves no curvature
            truth = {name: truth[name] for name in ("leverage", "against", "after_step", "shift")}
        assert not list(below(found.quotes(this.alpha, loss), truth))
        missed |= set(below(found.silent(kind).quotes(this.alpha, loss), truth))
    assert ({"shift"} if loss == "squared" else {"reach", "decrement"}) <= missed


def exact_solution(W: Any, G: Any, r: Any) -> list[Fraction]:
    """Return G (I - W G)^-1 r without any rounding, for one or two outputs."""
    k = len(r)
    W, G = ([[Fraction(float(one)) for one in row] for row in matrix] for matrix in (W, G))
    right = [Fraction(float(one)) for one in r]
    A = [[(i == j) - sum(W[i][m] * G[m][j] for m in range(k)) for j in range(k)] for i in range(k)]
    if k == 1:
        c = [right[0] / A[0][0]]
    else:
        determinant = A[0][0] * A[1][1] - A[0][1] * A[1][0]
        c = [
            (A[1][1] * right[0] - A[0][1] * right[1]) / determinant,
            (A[0][0] * right[1] - A[1][0] * right[0]) / determinant,
        ]
    return [sum((G[i][j] * c[j] for j in range(k)), Fraction(0)) for i in range(k)]


@pytest.mark.parametrize("k", [1, 2])
def test_what_cancellation_takes_from_a_step_is_in_its_length(k):
    """Rows that leave next to nothing of the curvature: the last bits of products are the first of the step."""
    rng = np.random.default_rng(k)
    n, alpha = 1500, 1e-14
    root = rng.standard_normal((k, k)) + 2.0 * np.eye(k)
    P = root @ root.T
    P = (P + P.T) / 2.0
    way = rng.standard_normal((n, k))
    left = 10.0 ** rng.uniform(-9.0, -2.0, size=n)
    size = (1.0 - left) / np.einsum("na,ab,nb->n", way, P, way)
    W = size[:, None, None] * way[:, :, None] * way[:, None, :]
    r = rng.standard_normal((n, k))
    part = Part(
        outputs=slice(0, k),
        residuals=r,
        residual_error=np.zeros(n),
        curvatures=W,
        curvature_error=np.zeros(n),
        curvature_bound=np.linalg.norm(W, 2, axis=(1, 2)) * (1.0 + 1e-14),
        probabilities=None,
        gradient_bound=0.0,
    )
    found = quote_part(
        part,
        Products(np.tile(P, (n, 1, 1)), np.tile(P @ P, (n, 1, 1)), np.ones(n), np.zeros(n), k),
        np.ones(n),
        loss="squared",
        alpha=alpha,
        defect=0.0,
        norm=float(np.linalg.norm(P, 2)) * (1.0 + 1e-14),
    )
    for row in range(n):
        square = sum((one * one for one in exact_solution(W[row], P, r[row])), Fraction(0))
        assert Fraction(float(found.shift[row])) ** 2 >= square, row


@pytest.mark.parametrize("k", [1, 2])
def test_a_system_without_a_solution_leaves_the_penalty_to_bound_the_step(k):
    """The computed W G is exactly the identity, the exact one falls short of it by the penalty alone."""
    alpha, r = 1e-9, np.ones((1, k))
    exact = 1.0 / (0.5 + alpha)
    nothing, identity = np.zeros(1), np.eye(k)[np.newaxis]
    part = Part(
        outputs=slice(0, k),
        residuals=r,
        residual_error=nothing,
        curvatures=0.5 * identity,
        curvature_error=nothing,
        curvature_bound=np.full(1, 0.5),
        probabilities=None,
        gradient_bound=0.0,
    )
    products = Products(2.0 * identity, 4.0 * identity, np.ones(1), np.full(1, 2.0 - exact), k)
    found = quote_part(part, products, np.ones(1), loss="squared", alpha=alpha, defect=0.0, norm=exact * (1.0 + 1e-12))
    assert found.leverage[0] >= exact
    assert found.shift[0] >= math.sqrt(k) / alpha
    assert found.shift[0] <= 1.001 * math.sqrt(k) / alpha


# --- what derivatives and products say of their own errors ------------------------------------------


def at(X: Any, theta: Any, loss: str, **given: Any) -> Derivatives:
    labels = {} if loss == "squared" else {"labels": np.zeros(len(X), dtype=np.int64)}
    known: dict[str, Any] = {"targets": None, "labels": None, "weights": None, **labels, **given}
    return derivatives(X, theta, loss=loss, alpha=1.0, threads=None, **known)


def exact_derivatives(x: Any, theta: Any, loss: str, label: int, weight: float) -> tuple[Any, Any]:
    """Return a row's residuals and curvatures in many digits; theta of one output, or of all of a softmax."""
    logits = [mpmath.fdot(zip(map(float, x), map(float, one), strict=True)) for one in theta]
    weight = mpmath.mpf(weight)
    if loss == "logistic":
        chance = 1 / (1 + mpmath.exp(-logits[0]))
        return [weight * (chance - label)], mpmath.matrix([[weight * chance * (1 - chance)]])
    powers = [mpmath.exp(one - max(logits)) for one in logits]
    chances = [one / mpmath.fsum(powers) for one in powers]
    curvature = mpmath.matrix(len(chances))
    for i, one in enumerate(chances):
        for j, other in enumerate(chances):
            curvature[i, j] = weight * ((one if i == j else 0) - one * other)
    return [weight * (one - (c == label)) for c, one in enumerate(chances)], curvature


@pytest.mark.parametrize("lost", [True, False], ids=["by logits", "by themselves"])
@pytest.mark.parametrize(("loss", "q"), [("logistic", 1), ("softmax", 2), ("softmax", 4)])
def test_residuals_and_curvatures_are_as_far_off_as_they_say(loss, q, lost):
    """Where large features cancel, logits lose most; where a logit is exact, exp and what follows lose."""
    rng = np.random.default_rng(q)
    n = 60
    if lost:
        X = np.ones((n, 3)) * [1e7, -1e7, 1.0] * rng.uniform(1.0, 2.0, size=(n, 1))
        theta = np.array([1.0, 1.0, 0.0]) * rng.uniform(1.0, 2.0, size=(q, 1)) + 1e-8 * rng.standard_normal((q, 3))
    else:
        X, theta = rng.uniform(-0.01, 0.01, size=(n, 1)), np.linspace(1.0, 2.0, q)[:, None].round()
    labels, weights = rng.integers(0, max(q, 2), size=n), rng.uniform(0.5, 2.0, size=n)
    (part,) = at(X, theta, loss, labels=labels, weights=weights).parts
    worst_residual = worst_curvature = 0.0
    with mpmath.workdps(50):
        for row in range(n):
            r, W = exact_derivatives(X[row], theta, loss, int(labels[row]), float(weights[row]))
            r_off = mpmath.norm([float(one) - exact for one, exact in zip(part.residuals[row], r, strict=True)])
            W_off = mpmath.svd_r(mpmath.matrix(part.curvatures[row].tolist()) - W, compute_uv=False)[0]
            assert r_off <= part.residual_error[row]
            assert W_off <= part.curvature_error[row]
            assert mpmath.svd_r(W, compute_uv=False)[0] <= part.curvature_bound[row]
            worst_residual = max(worst_residual, float(r_off / weights[row]))
            worst_curvature = max(worst_curvature, float(W_off / weights[row]))
    # Far more than the other source of errors explains.
    if lost:
        own = (q + 30) * UNIT
        assert worst_residual > own
        assert worst_curvature > 32 * (q + 4) * UNIT
    else:
        by_logits = rounding(1) * 0.01 * np.linalg.norm(theta)
        assert worst_residual > 0.5 * by_logits
        assert worst_curvature > 0.1 * by_logits


@pytest.mark.parametrize("q", [1, 3])
def test_residuals_of_squared_losses_are_as_far_off_as_they_say(q):
    rng = np.random.default_rng(q)
    n, p = 200, 5
    X, theta = rng.standard_normal((n, p)), rng.standard_normal((q, p))
    targets = X @ theta.T + rng.choice([0.0, 1e-14, 1.0, 1e20], size=(n, 1)) * rng.standard_normal((n, q))
    weights = rng.uniform(0.5, 2.0, size=n)
    (part,) = at(X, theta, "squared", targets=targets, weights=weights).parts
    with mpmath.workdps(60):
        for row in range(n):
            logits = [mpmath.fdot(zip(map(float, X[row]), map(float, one), strict=True)) for one in theta]
            exact = mpmath.norm(
                [float(weights[row]) * (u - float(t)) for u, t in zip(logits, targets[row], strict=True)]
            )
            assert abs(float(part.residuals[row, 0]) - exact) <= part.residual_error[row]


@pytest.mark.parametrize("weight", [1e-322, 1e-315, 1.0, 1e200])
@pytest.mark.parametrize(
    ("loss", "x", "theta"),
    [("squared", 1e-200, 1e-200), ("squared", 5e-324, 1e-200), ("squared", 0.3, 0.7), ("logistic", 0.3, 0.7)],
)
def test_what_underflows_is_said_to_be_off(loss, x, theta, weight):
    """In a logit, whatever the weight makes of it, and in the product with the weight."""
    given = {"targets": np.zeros((1, 1))} if loss == "squared" else {}
    (part,) = at(np.full((1, 1), x), np.full((1, 1), theta), loss, weights=np.array([weight]), **given).parts
    with mpmath.workdps(1200):
        exact = mpmath.mpf(x) * mpmath.mpf(theta) * mpmath.mpf(weight)
        if loss == "logistic":
            (exact,), curvature = exact_derivatives([x], [[theta]], loss, 0, weight)
            off = abs(mpmath.mpf(float(part.curvatures[0, 0, 0])) - curvature[0, 0])
            assert off <= mpmath.mpf(float(part.curvature_error[0]))
        assert abs(mpmath.mpf(float(part.residuals[0, 0])) - exact) <= mpmath.mpf(float(part.residual_error[0]))


@pytest.mark.parametrize("x", [5e-324, 1e-310, 1e-170, 1e-100, 1.0, 1e100, 1e170, 1e300])
def test_norms_are_not_below_the_rows(x):
    """Squares that vanish or overflow included."""
    rows = np.array([[x, x, x]])
    norms = at(rows, np.zeros((1, 3)), "squared", targets=np.zeros((1, 1))).norms
    with mpmath.workdps(800):
        exact = mpmath.sqrt(3) * mpmath.mpf(x)
        assert exact <= mpmath.mpf(float(norms[0])) <= exact * (1 + mpmath.mpf(1e-12)) + mpmath.mpf(1e-300)


@pytest.mark.parametrize(
    ("x", "scale"), [(1e-200, 1e-200), (1e-170, 1.0), (5e-324, 0.3), (1.0, 1e-320), (1e150, 1e-170), (1.0, 1.0)]
)
def test_products_are_as_far_off_as_they_say(x, scale):
    rng = np.random.default_rng(0)
    X, P = x * rng.uniform(1.0, 2.0, size=(20, 6)), scale * rng.standard_normal((6, 6))
    P = P + P.T
    found, K = products(X, P), X @ P
    with mpmath.workdps(800):
        right = mpmath.matrix(P.tolist())
        for row in range(len(X)):
            exact = mpmath.matrix([X[row].tolist()]) * right
            apart = mpmath.norm([float(K[row, j]) - exact[j] for j in range(6)])
            assert 0 < apart <= mpmath.mpf(float(found.error[row]))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("of", ["W", "G"])
def test_no_more_is_kept_of_a_hessian_than_there_is(of, k):
    """One row's curvature off by as much as is said, or its products with the inverse."""
    rng = np.random.default_rng(k)
    n = 300
    root, way = rng.standard_normal((n, k, k)), rng.standard_normal((n, k))
    G = root @ root.transpose(0, 2, 1)
    W = way[:, :, None] * way[:, None, :]
    W *= (rng.uniform(0.1, 0.7, size=n) / np.einsum("na,nab,nb->n", way, G, way))[:, None, None]
    exact = 1.0 - np.einsum("nab,nba->n", W, G)
    errors = {"W": np.zeros(n), "G": np.zeros(n)}
    errors[of] = 0.05 * np.linalg.norm(W if of == "W" else G, 2, axis=(1, 2))
    W_found = W * 0.95 if of == "W" else W
    G_found = G * 0.95 if of == "G" else G

    def kept(W_error: Any, G_error: Any) -> Any:
        sizes = np.linalg.norm(W_found, 2, axis=(1, 2)) + W_error
        lengths = np.sqrt(np.einsum("nab,nab->n", G_found, G_found))
        return _kept(lengths, G_error, W_found, G_found, sizes, W_error, np.ones(n), 1e-300)

    assert (kept(errors["W"], errors["G"]) <= exact).all()
    assert not (kept(np.zeros(n), np.zeros(n)) <= exact).any()
