"""Proofs of bounds by shifted interpolation: they contain 60 digits, bound float64, and pass or fail at their ends."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from itertools import pairwise
from pathlib import Path

import mpmath
import numpy as np
import pytest

from expunge import LangevinRidge
from expunge.certificates import UndecidedError, VerificationError
from expunge.runs.ridge.bounds import shifted_claim
from expunge.runs.ridge.law import Phase, smoothness

pytest.importorskip("flint")
from flint import arb

from expunge.proof import balls, residual_tails, ridge_shifted
from expunge.proof.residual_tails import exceeds, norm_quantiles
from expunge.proof.ridge import prove_bound

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())["ridge"]
MP = mpmath.MPContext()
MP.dps = 60


def mp_tail(size, distance, variance, q):
    """Return P(|N(m, v I_q)| > size) as a Poisson mixture, summed until nothing is left; of one coordinate exactly."""
    if q == 1:
        std = MP.sqrt(variance)
        return sum(MP.erfc((size + sign * distance) / std / MP.sqrt(2)) / 2 for sign in (-1, 1))
    half, x, total, weight, j = distance**2 / (2 * variance), size**2 / (2 * variance), MP.mpf(0), MP.mpf(1), 0
    while j < half or weight > total * MP.exp(half) * MP.mpf(10) ** -55:
        total += MP.exp(-half) * weight * MP.gammainc(MP.mpf(q) / 2 + j, x, regularized=True)
        j += 1
        weight *= half / j
    return total


def mp_quantile(distance, variance, q, tail):
    """Return the size that is exceeded with that probability, by bisection."""
    if variance == 0:
        return distance
    low, high = distance, distance + MP.sqrt(variance) * 40
    for _ in range(90):
        middle = (low + high) / 2
        low, high = (middle, high) if mp_tail(middle, distance, variance, q) > tail else (low, middle)
    return high


def mp_mu(X, Y, *, alpha, step_size, phases, deleted, delta_s):
    """Return the mu of the bound, from laws, quantiles and the convex minorant in many digits."""
    eta, p, q = MP.mpf(step_size), X.shape[1], Y.shape[1]

    def hessian(removed):
        rows = MP.matrix(np.delete(X, list(removed), axis=0).tolist())
        return rows.T * rows + MP.mpf(alpha) * MP.eye(p)

    draws = sum(len(set(deleted) - set(phase.removed)) * phase.n_steps for phase in phases) - len(deleted)
    tail = MP.mpf(delta_s) / max(draws, 1)
    values = MP.eigsy(hessian(deleted), eigvals_only=True)
    rate = max(1 - eta * min(values), eta * max(values) - 1)
    mean, covariance, steps = MP.zeros(p, q), MP.zeros(p), []
    for phase in phases:
        kept = [i for i in range(len(X)) if i not in phase.removed]
        rows, aims = MP.matrix(X[kept].tolist()), MP.matrix(Y[kept].tolist())
        step = MP.eye(p) - eta * hessian(phase.removed)
        for _ in range(phase.n_steps):
            shift = MP.mpf(0)
            for i in sorted(set(deleted) - set(phase.removed)):
                x = MP.matrix(X[i : i + 1].tolist())
                apart = x * mean - MP.matrix(Y[i : i + 1].tolist())
                size = mp_quantile(MP.norm(apart), (x * covariance * x.T)[0], q, tail)
                shift += eta * MP.norm(x) * size
            steps.append((shift, MP.mpf(phase.noise_std) ** 2))
            mean = step * mean + eta * (rows.T * aims)
            covariance = step * covariance * step + MP.mpf(phase.noise_std) ** 2 * MP.eye(p)
    points, hull = [(MP.mpf(0), MP.mpf(0))], []
    for k, (shift, variance) in enumerate(steps):
        weight = rate ** (len(steps) - 1 - k)
        points.append((points[-1][0] + weight**2 * variance, points[-1][1] + weight * shift))
    for point in points:
        while len(hull) >= 2 and (hull[-1][0] - hull[-2][0]) * (point[1] - hull[-2][1]) <= (point[0] - hull[-2][0]) * (
            hull[-1][1] - hull[-2][1]
        ):
            hull.pop()
        hull.append(point)
    return MP.sqrt(sum((b[1] - a[1]) ** 2 / (b[0] - a[0]) for a, b in pairwise(hull)))


def problem(seed, *, p=2, q=1, phases, deleted=(0,), fraction=0.9, alpha=0.5):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(7, p)), rng.normal(size=(7, q))
    step_size = fraction / smoothness(X, alpha=alpha)
    return X, Y, {"alpha": alpha, "step_size": step_size, "phases": phases, "deleted": list(deleted)}


CASES = [
    problem(0, phases=[Phase(5, 0.2), Phase(3, 0.4, (0,))]),
    problem(1, q=2, phases=[Phase(2, 0.3), Phase(2, 0.1, (0,))]),
    problem(2, deleted=(0, 1), phases=[Phase(3, 0.2), Phase(2, 0.5, (1,)), Phase(40, 0.3, (0, 1))]),
    problem(3, p=1, fraction=1.0, phases=[Phase(4, 0.2), Phase(1, 0.4, (0,))]),
    problem(4, deleted=(0, 2), phases=[Phase(3, 0.0), Phase(2, 0.7), Phase(1, 0.4, (0, 2))]),
    problem(5, alpha=1e-9, phases=[Phase(4, 2.0), Phase(2, 1.0, (0,))]),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_mu_of_a_bound_contains_60_digits_and_bounds_float64(case):
    X, Y, run = case
    found = prove_bound(X, Y, **run, epsilon=1.0, delta_s=1e-4, claim=0.9999)
    mu = found.enclosures["mu"]
    truth = mp_mu(X, Y, **run, delta_s=1e-4)
    assert MP.mpf(mu.lower_text) <= truth <= MP.mpf(mu.upper_text)
    assert mu.upper <= mu.lower * (1 + 1e-9)
    claim = shifted_claim(X, Y, **run, epsilon=1.0, delta_s=1e-4)
    assert claim.mu >= mu.lower
    assert claim.delta_pq >= found.delta_pq.lower
    assert claim.delta_qp >= found.delta_qp.lower
    assert math.isclose(claim.mu, mu.upper, rel_tol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_claims_pass_above_the_proved_ends_and_fail_below_them(case):
    X, Y, run = case

    def prove(claim):
        return prove_bound(X, Y, **run, epsilon=0.5, delta_s=1e-3, claim=claim)

    found = prove(0.5)
    upper, lower = (max(getattr(one, end) for one in (found.delta_pq, found.delta_qp)) for end in ("upper", "lower"))
    assert prove(upper * (1 + 1e-12)).outcome == "proved"
    below = prove(lower * (1 - 1e-12))
    assert below.outcome == "refuted"
    assert "is at least" in below.reason


@pytest.mark.parametrize("one", REFERENCE, ids=range(len(REFERENCE)))
def test_bounds_of_the_reference_are_no_smaller_than_what_is_proved(one):
    """The reference bounds quantiles by the triangle inequality, and its noise is the library's."""
    X, Y, record = np.array(one["X"]), np.array(one["Y"]), one["records"][0]
    gone = (record["index"],)
    phases = [Phase(one["learn_steps"], one["learn_noise_std"])]
    phases.append(Phase(one["unlearn_steps"], one["unlearn_noise_std"], gone))
    run = {"alpha": one["alpha"], "step_size": one["step_size"], "phases": phases, "deleted": list(gone)}
    found = prove_bound(X, Y, **run, epsilon=1.0, delta_s=one["delta_sensitivity"], claim=0.9999)
    mu = found.enclosures["mu"].upper
    assert 0.7 * record["shifted_mu"] <= mu <= record["shifted_mu"] * (1 + 1e-9)
    contraction = max(1 - one["step_size"] * record["m_without"], 0.0)
    if record["m_without"] > 0 and one["step_size"] * smoothness(X, alpha=one["alpha"]) <= 1:
        assert math.isclose(found.enclosures["contraction"].upper, contraction, rel_tol=1e-9)


@pytest.mark.parametrize("q", [1, 2, 3, 10])
@pytest.mark.parametrize(
    ("distance", "variance", "size"),
    [(1.0, 0.5, 3.0), (0.0, 1.0, 4.0), (6.0, 1.0, 9.0), (2.0, 1e-2, 2.4), (3.0, 9.0, 0.5)],
)
def test_tails_contain_60_digits(q, distance, variance, size):
    with balls.precision(192):
        found = exceeds(arb(size), arb(distance), arb(variance), q)
        low, high = balls.decimal_ends(found)
    truth = mp_tail(MP.mpf(size), MP.mpf(distance), MP.mpf(variance), q)
    assert MP.mpf(low) <= truth <= MP.mpf(high)
    assert MP.mpf(high) <= MP.mpf(low) * (1 + MP.mpf(10) ** -15)


@pytest.mark.parametrize("q", [1, 2, 10])
@pytest.mark.parametrize("tail", [0.3, 1e-5, 1e-200])
def test_quantiles_are_proved_near_and_far(q, tail):
    distances = [0.0, 1e-3, 1.0, 30.0, 400.0, 1e6]
    with balls.precision(192):
        ones = [arb(1)] * len(distances)
        ends = norm_quantiles([arb(d) for d in distances], ones, q, arb(tail))
        for distance, (low, high) in zip(distances, ends, strict=True):
            assert low <= high
            assert high <= low + 30  # no wider than a normal vector is long
            for end, wrong in ((low, 1), (high, -1)):
                chance = exceeds(end, arb(distance), arb(1), q)
                if chance is not None:
                    assert not (chance - arb(tail)) * wrong < 0
        (same,) = norm_quantiles([arb(2)], [arb(0)], q, arb(tail))
        assert same == (arb(2), arb(2))


@pytest.mark.parametrize("q", [1, 3])
@pytest.mark.parametrize("distance", [1.0, 1e4])
def test_a_quantile_of_float64_that_is_too_small_is_noticed(monkeypatch, q, distance):
    real = residual_tails.residual_norm_quantile
    monkeypatch.setattr(residual_tails, "residual_norm_quantile", lambda *given: real(*given) * (1 - 1e-3))
    with balls.precision(192), pytest.raises(ArithmeticError, match="could not be proved"):
        norm_quantiles([arb(distance)], [arb(1)], q, arb(1e-5))


def test_what_cannot_be_proved_is_undecided_and_says_why(monkeypatch):
    X, Y, run = CASES[0]
    given = {**run, "epsilon": 1.0, "delta_s": 1e-4, "claim": 0.5}
    monkeypatch.setattr(ridge_shifted, "_MOST_STEPS", 4)
    found = prove_bound(X, Y, **given)
    assert found.outcome == "undecided"
    assert "must be at most 4 for a proof of this method, got 5" in found.reason
    assert "certify by the method 'exact'" in found.reason
    monkeypatch.undo()
    fast = prove_bound(X, Y, **{**given, "step_size": 2.1 / smoothness(X, alpha=0.5)})
    assert "step_size could not be proved to be at most 2/L" in fast.reason
    last = prove_bound(X, Y, **{**given, "phases": [Phase(2, 0.1), Phase(1, 0.0)]})
    assert "a shift outlives all noise" in last.reason
    with pytest.raises(ValueError, match="noise_std must be > 0"):
        prove_bound(X, Y, **{**given, "phases": [Phase(2, 0.0), Phase(1, 0.0, (0,))]})


@pytest.mark.parametrize("method", ["shifted", "uniform"])
def test_certificates_by_bounds_are_proved(method, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=30)
    model = LangevinRidge(step_size=0.01, noise_std=0.05, n_steps=60, random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small data, and noise that shows in the model
        result = model.unlearn(rows=[4], epsilon=1.0, delta=1e-5, n_steps=10, method=method)
    certificate = result.certificate
    report = certificate.verify(X, y, result.model.release(), proof=True)
    proof = report.proof
    assert proof.proved
    assert proof.delta_pq.lower <= certificate.delta_pq
    assert proof.delta_qp.upper <= 1e-5
    if method == "shifted":
        assert math.isclose(proof.delta_qp.upper, certificate.delta_qp, rel_tol=1e-6)
    assert proof.enclosures["mu"].upper < 0.3
    # A claim that float64 would let pass is refuted.
    lower = dataclasses.replace(certificate, delta=proof.delta_qp.lower * (1 - 1e-12))
    if method == "shifted":
        monkeypatch.setattr("expunge.certificates.verification.CLAIM_SLACK", 1.0)
        with pytest.raises(VerificationError, match="refuted in ball arithmetic"):
            lower.verify(X, y, proof=True)
    monkeypatch.setattr(ridge_shifted, "_MOST_STEPS", 4)
    with pytest.raises(UndecidedError, match="must be at most 4"):
        certificate.verify(X, y, proof=True)
