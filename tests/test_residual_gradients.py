"""Gradients with proved bounds: one pass over rows, against textbook formulas, 60 digits, and any number of threads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import oracles
from expunge._kernels import backend
from expunge.runs.residual import gradient_sums

EPS = float(np.finfo(np.float64).eps)
LOSSES = [("squared", 1), ("squared", 3), ("logistic", 1), ("logistic", 4), ("softmax", 2), ("softmax", 11)]
on_every_loss = pytest.mark.parametrize(("loss", "q"), LOSSES)


def problem(
    loss: str, q: int, n: int, p: int, *, seed: int = 0, weighted: bool = False
) -> tuple[Any, Any, dict[str, Any]]:
    """Return X, theta and what else a pass needs."""
    rng = np.random.default_rng(seed)
    given: dict[str, Any] = {"loss": loss}
    if loss == "squared":
        given["targets"] = rng.standard_normal((n, q))
    else:
        given["labels"] = rng.integers(0, max(q, 2), size=n)
    if weighted:
        given["weights"] = rng.uniform(0.0, 3.0, size=n)
    return rng.standard_normal((n, p)), rng.standard_normal((q, p)), given


@on_every_loss
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 63, 64, 65, 200, 1500])
@pytest.mark.parametrize("p", [1, 3, 8, 29])
def test_sums_are_those_of_the_textbook(loss, q, n, p):
    X, theta, given = problem(loss, q, n, p, seed=n + p, weighted=n % 2 == 1)
    residuals = np.full((n, q), np.nan)
    sums = gradient_sums(X, theta, residuals=residuals, **given)
    gradient, expected, value, correct = oracles.residual_sums(X, theta, **given)
    # Roundings of a sum of n rows of p products, beside the sizes of what is added.
    assert_allclose(residuals, expected, rtol=0, atol=40 * (p + q) * EPS * (1.0 + np.abs(X).max(initial=0.0) * p * 9))
    assert_allclose(sums.gradient, gradient, rtol=0, atol=sums.error + 2 * (n + p) * EPS * (sums.magnitude + 1.0))
    assert sums.loss == pytest.approx(value, rel=(n + p + 50) * EPS * 10)
    assert sums.correct == (None if loss == "squared" else correct)
    assert sums.n_rows == n


@pytest.mark.parametrize("p", [1, 9, 1025, 2050])  # rows are taken 16, 8 and 4 at a time
def test_with_one_output_every_row_counts_once(p):
    for n in [*range(1, 36), 63, 64, 65, 79, 81, 129]:
        X, theta, given = problem("squared", 1, n, p, seed=n, weighted=True)
        residuals = np.full((n, 1), np.nan)
        sums = gradient_sums(X, theta, residuals=residuals, **given)
        gradient, expected, _, _ = oracles.residual_sums(X, theta, **given)
        assert_allclose(residuals, expected, rtol=0, atol=sums.error)  # X has norms of about 1 and more
        assert_allclose(sums.gradient, gradient, rtol=0, atol=sums.error + 2 * (n + p) * EPS * (sums.magnitude + 1.0))


def test_no_features_and_no_rows_are_a_gradient_of_nothing():
    sums = gradient_sums(np.zeros((3, 0)), np.zeros((2, 0)), labels=[0, 1, 1], loss="softmax")
    assert sums.gradient.shape == (2, 0)
    assert sums.loss == pytest.approx(3 * np.log(2))
    assert sums.norm_bound(np.zeros((2, 0)), alpha=1.0) < 1e-15
    empty = gradient_sums(np.zeros((0, 4)), np.zeros((1, 4)), labels=np.zeros(0, dtype=int), loss="logistic")
    assert empty.norm_bound(np.ones((1, 4)), alpha=2.0) == pytest.approx(4.0, rel=1e-14)


@st.composite
def extreme(draw: Any) -> tuple[Any, Any, dict[str, Any], float]:
    """Return a problem whose rows and parameters have scales of their own, from the faintest to the largest."""
    loss, q = draw(st.sampled_from(LOSSES[:5]))
    n, p, seed = draw(st.integers(1, 9)), draw(st.integers(1, 10)), draw(st.integers(0, 10**6))
    X, theta, given = problem(loss, q, n, p, seed=seed, weighted=draw(st.booleans()))
    exponents = st.sampled_from([-320, -300, -160, -80, -10, -3, 0, 0, 0, 1, 2, 3, 8, 60, 140])
    X = X * 10.0 ** np.array(draw(st.lists(exponents, min_size=n, max_size=n)))[:, None]
    theta = theta * 10.0 ** draw(st.sampled_from([-320, -150, -8, 0, 0, 1, 2, 60, 150]))
    if draw(st.booleans()):
        X[draw(st.integers(0, n - 1))] = 0.0
    return X, theta, given, draw(st.sampled_from([0.0, 1e-300, 1e-6, 1.0, 1e3]))


@settings(max_examples=300)
@given(extreme())
def test_the_bound_is_never_below_the_exact_norm(case):
    X, theta, given, alpha = case
    bound = gradient_sums(X, theta, **given).norm_bound(theta, alpha=alpha)
    exact = oracles.residual_gradient_mpmath(X, theta, alpha=alpha, digits=700, **given)
    assert mpmath.mpf(bound) >= exact


@on_every_loss
def test_the_bound_holds_where_the_gradient_all_but_vanishes(loss, q):
    """At the optimum rounding is all there is: what the bound adds must cover it, and be of its size."""
    X, theta, given = problem(loss, q, 40, 5, seed=3)
    for _ in range(3000):
        sums = gradient_sums(X, theta, **given)
        theta = theta - (sums.gradient + theta) / 60.0
    sums = gradient_sums(X, theta, **given)
    bound = sums.norm_bound(theta, alpha=1.0)
    exact = float(oracles.residual_gradient_mpmath(X, theta, alpha=1.0, **given))
    assert exact <= bound
    assert bound <= float(np.linalg.norm(sums.gradient + theta)) + 300 * EPS * (sums.magnitude + np.linalg.norm(theta))


def lost(case: tuple[Any, Any, dict[str, Any]]) -> tuple[float, Any]:
    """Return the bound and the exact norm of a gradient that rounds to exactly 0."""
    X, theta, given = case
    sums = gradient_sums(X, theta, **given)
    assert not sums.gradient.any()
    exact = oracles.residual_gradient_mpmath(X, theta, digits=400, **given)
    assert exact > 0
    return sums.norm_bound(theta, alpha=0.0), exact


def test_the_bound_covers_what_logits_lose():
    """Every small part of the logit is lost beside the first, and the residual is exactly 0."""
    theta = np.zeros((1, 400))
    theta[0, ::16] = 2.0**-55  # one lane, whatever the width of vectors
    theta[0, 0] = 1.0
    bound, exact = lost((np.ones((3, 400)), theta, {"loss": "squared", "targets": np.ones((3, 1))}))
    assert bound >= exact


def test_the_bound_covers_what_the_sum_over_rows_loses():
    """Forty rows are lost between one and its opposite: more than the residuals' own roundings could explain."""
    targets = np.full((64, 1), 2.0**-54)
    targets[:8], targets[-8:] = 0.0, 0.0
    targets[[0, 1], 0], targets[[-2, -1], 0] = 1.0, -1.0
    bound, exact = lost((np.ones((64, 1)), np.zeros((1, 1)), {"loss": "squared", "targets": targets}))
    assert exact > 20 * 2.0**-54
    assert bound >= exact


@on_every_loss
def test_the_errors_of_residuals_are_those_of_section_3(loss, q):
    """|x| (L gamma_p |x| |theta| + units of rounding), L the largest slope of the residuals."""
    X, theta, given = problem(loss, q, 50, 23, weighted=True)
    residuals = np.empty((50, q))
    sums = gradient_sums(X, theta, residuals=residuals, **given)
    norms, u = np.linalg.norm(X, axis=1), EPS / 2
    slope = {"squared": 1.0, "logistic": 0.25, "softmax": 0.5}[loss]
    sizes = np.linalg.norm(residuals, axis=1)
    own = {"squared": 2 * u * sizes, "logistic": 8 * u * sizes, "softmax": (q + 12) * u * given["weights"]}[loss]
    least = norms @ (slope * 23 * u * norms * np.linalg.norm(theta) * given["weights"] + own)
    assert least <= sums.error <= 1.3 * least
    assert norms @ sizes <= sums.magnitude <= norms @ sizes * (1.0 + 1e-12)


@pytest.mark.parametrize(("x", "wanted"), [(1e-200, 1e-200), (1e-310, 1e-310), (1e-320, 1.0)])
def test_the_bound_covers_what_underflows(x, wanted):
    X, targets = np.full((1, 1), x), np.full((1, 1), wanted)
    sums = gradient_sums(X, np.zeros((1, 1)), targets=targets, loss="squared")
    assert mpmath.mpf(sums.norm_bound(np.zeros((1, 1)), alpha=0.0)) >= mpmath.mpf(x) * mpmath.mpf(wanted)


def test_rows_with_the_faintest_residuals_count():
    """Squares of residuals underflow, their products with features do not."""
    targets = np.full((64, 1), 2.0**-54)
    targets[:8], targets[-8:] = 0.0, 0.0
    targets[[0, 1], 0], targets[[-2, -1], 0] = 1.0, -1.0
    given = {"loss": "squared", "targets": targets * 2.0**-600}
    bound, exact = lost((np.full((64, 1), 2.0**-100), np.zeros((1, 1)), given))
    assert bound >= exact


@pytest.mark.parametrize("label", [0, 1])
def test_sigmoid_is_within_two_units_in_the_last_place(label):
    u = np.concatenate([np.linspace(-700, 700, 4001), np.linspace(-3, 3, 4001), 10.0 ** np.arange(-300, 2), [0.0]])
    residuals = np.empty((len(u), 1))
    gradient_sums(u[:, None], np.ones((1, 1)), labels=np.full(len(u), label), loss="logistic", residuals=residuals)
    with mpmath.workdps(40):
        for logit, found in zip(u, residuals[:, 0], strict=True):
            z = mpmath.mpf(float(logit))
            exact = -1 / (1 + mpmath.exp(z)) if label else 1 / (1 + mpmath.exp(-z))
            assert abs(mpmath.mpf(float(found)) - exact) <= 2 * np.spacing(abs(float(exact))), logit


def test_log_of_one_plus_exp_is_within_four_units_in_the_last_place():
    u = np.concatenate([np.linspace(-700, 700, 801), np.linspace(-2, 2, 801)])
    with mpmath.workdps(40):
        for logit in u:
            found = gradient_sums([[logit]], np.ones((1, 1)), labels=[0], loss="logistic").loss
            exact = mpmath.log1p(mpmath.exp(mpmath.mpf(float(logit))))
            assert abs(mpmath.mpf(found) - exact) <= 4 * np.spacing(float(exact)), logit


@pytest.mark.parametrize("scale", [1.0, 30.0, 700.0])
def test_softmax_is_within_its_bound(scale):
    rng = np.random.default_rng(1)
    q = 7
    logits, labels = scale * rng.standard_normal((60, q)), rng.integers(0, q, size=60)
    for row, label in zip(logits, labels, strict=True):
        residuals = np.empty((1, q))
        gradient_sums([[1.0]], row[:, None], labels=[label], loss="softmax", residuals=residuals)
        with mpmath.workdps(40):
            powers = [mpmath.exp(mpmath.mpf(float(u)) - float(row.max())) for u in row]
            exact = [e / mpmath.fsum(powers) - (c == label) for c, e in enumerate(powers)]
            apart = mpmath.sqrt(
                mpmath.fsum((mpmath.mpf(float(f)) - e) ** 2 for f, e in zip(residuals[0], exact, strict=True))
            )
        assert apart <= (q + 12) * EPS / 2


@on_every_loss
def test_every_number_of_threads_gives_the_same_bits(loss, q):
    X, theta, given = problem(loss, q, 5000, 19, weighted=True)
    first = gradient_sums(X, theta, threads=1, **given)
    for threads in (2, 3, 7, None):
        again = gradient_sums(X, theta, threads=threads, **given)
        assert again.gradient.tobytes() == first.gradient.tobytes()
        assert (again.error, again.magnitude, again.loss) == (first.error, first.magnitude, first.loss)


@on_every_loss
def test_shards_add_up(loss, q):
    X, theta, given = problem(loss, q, 900, 6, weighted=True)
    whole = gradient_sums(X, theta, **given)
    cuts, parts = [0, 1, 130, 131, 700, 900], []
    for begin, end in pairwise(cuts):
        rows = {name: value[begin:end] if name != "loss" else value for name, value in given.items()}
        parts.append(gradient_sums(X[begin:end], theta, **rows))
    joined = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    assert joined.n_rows == 900
    assert joined.correct == whole.correct
    assert joined.depth > max(part.depth for part in parts)
    tolerance = (whole.depth + joined.depth) * EPS * whole.magnitude
    assert_allclose(joined.gradient, whole.gradient, rtol=0, atol=tolerance)
    assert joined.magnitude == pytest.approx(whole.magnitude, rel=1e-12)
    assert joined.norm_bound(theta, alpha=1.0) == pytest.approx(whole.norm_bound(theta, alpha=1.0), abs=2 * tolerance)


def test_sums_of_different_models_do_not_add_up():
    one = gradient_sums([[1.0, 2.0]], np.zeros((1, 2)), labels=[1], loss="logistic")
    with pytest.raises(ValueError, match=r"one shape to be added, got \(1, 2\) and \(2, 2\)"):
        one + gradient_sums([[1.0, 2.0]], np.zeros((2, 2)), labels=[1], loss="softmax")
    with pytest.raises(ValueError, match="squared loss cannot be added"):
        one + gradient_sums([[1.0, 2.0]], np.zeros((1, 2)), targets=[[1.0]], loss="squared")


def test_weights_are_repetitions_of_rows():
    X, theta, given = problem("softmax", 3, 30, 4)
    counts = np.arange(30) % 4
    weighted = gradient_sums(X, theta, weights=counts.astype(float), **given)
    repeated = gradient_sums(X.repeat(counts, axis=0), theta, labels=given["labels"].repeat(counts), loss="softmax")
    assert_allclose(weighted.gradient, repeated.gradient, rtol=0, atol=200 * EPS * repeated.magnitude)
    assert weighted.loss == pytest.approx(repeated.loss)


@on_every_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_not_finite_has_no_finite_bound(loss, q, bad):
    X, theta, given = problem(loss, q, 100, 3)
    X[57, 1] = bad
    sums = gradient_sums(X, theta * (1e150 if bad == 1e200 else 1.0), **given)
    assert sums.norm_bound(theta, alpha=1.0) == np.inf


def test_a_bound_does_not_vanish_where_subnormal_numbers_do():
    X, theta = np.full((4, 2), 1e-300), np.full((1, 2), 1e-300)
    before = backend.exchange_float_mode(backend.IEEE_MODE | backend.FLUSHING)
    try:
        bound = gradient_sums(X, theta, targets=np.zeros((4, 1)), loss="squared").norm_bound(theta, alpha=0.0)
        positive = bound > 0.0
    finally:
        backend.exchange_float_mode(before)
    assert positive


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"labels": None}, ValueError, "labels, and no targets, must be given for the logistic loss"),
        ({"targets": np.zeros((5, 1))}, ValueError, "labels, and no targets"),
        ({"labels": [0, 1, 2, 0, 1]}, ValueError, r"labels must be in \[0, 2\), got 0 to 2"),
        ({"labels": [0, 1, -1, 0, 1]}, ValueError, r"labels must be in \[0, 2\), got -1 to 1"),
        ({"labels": [0.0, 1.0, 1.0, 0.0, 1.0]}, TypeError, "labels must be integers"),
        ({"labels": [0, 1]}, ValueError, r"labels must have shape \(5,\), got \(2,\)"),
        ({"weights": [1.0, 1.0, -1.0, 1.0, 1.0]}, ValueError, "weights must be"),
        ({"weights": [1.0, 1.0]}, ValueError, "weights must have length 5, got 2"),
        ({"theta": np.zeros((1, 3))}, ValueError, r"theta must have shape \(q, 2\)"),
        ({"theta": np.zeros((0, 2))}, ValueError, r"theta must have shape \(q, 2\) with q >= 1"),
        ({"theta": np.full((1, 2), np.nan)}, ValueError, "theta must be finite"),
        ({"X": np.zeros(5)}, ValueError, "X must have 2 dimensions"),
        ({"X": np.array([["a", "b"]] * 5)}, TypeError, "X must hold real numbers"),
        ({"residuals": np.zeros((5, 2))}, ValueError, "residuals must have length 1 along axis 1"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changes, error, message):
    arguments = {"X": np.zeros((5, 2)), "theta": np.zeros((1, 2)), "labels": [0, 1, 1, 0, 1], "loss": "logistic"}
    arguments |= changes
    with pytest.raises(error, match=message):
        gradient_sums(arguments.pop("X"), arguments.pop("theta"), **arguments)


def test_a_bound_is_asked_for_the_parameters_of_the_sums():
    sums = gradient_sums(np.zeros((5, 2)), np.zeros((1, 2)), labels=[0, 1, 1, 0, 1], loss="logistic")
    with pytest.raises(ValueError, match=r"theta must have shape \(1, 2\), got \(2, 2\)"):
        sums.norm_bound(np.zeros((2, 2)), alpha=1.0)
    with pytest.raises(ValueError, match="alpha must be"):
        sums.norm_bound(np.zeros((1, 2)), alpha=-1.0)


@pytest.mark.parametrize("n", [0, 1, 64, 65, 1023, 1024, 5000, 10**6])
def test_no_more_additions_than_said(n):
    """Blocks of 64 rows, blocks of a range one after the other, ranges in a tree."""
    depth = backend.residual_depth(n, 10, 3)
    ranges = max(1, min(256, n // 512))
    assert depth >= 64 + np.ceil(np.ceil(n / 64) / ranges) + np.ceil(np.log2(ranges))
    assert depth <= 64 + np.ceil(np.ceil(n / 64) / ranges) + np.ceil(np.log2(ranges)) + 1


@on_every_loss
@pytest.mark.parametrize("seed", range(6))
def test_what_the_smallest_weights_take_from_a_product_is_in_the_bound(loss, q, seed):
    """A weight times a residual is subnormal, where rounding is absolute; the features are as large as they can be."""
    rng = np.random.default_rng(seed)
    X, theta, given = problem(loss, q, 3, 2, seed=seed)
    X *= 10.0 ** rng.uniform(100, 150, size=X.shape)
    weights = rng.uniform(1.0, 2.0, size=3) * 10.0 ** rng.uniform(-322, -305, size=3)
    theta[:] = 0.0
    bound = gradient_sums(X, theta, weights=weights, **given).norm_bound(theta, alpha=1.0)
    exact = oracles.residual_gradient_mpmath(X, theta, alpha=1.0, weights=weights, digits=700, **given)
    assert mpmath.mpf(bound) >= exact
    assert bound < 1e-140
