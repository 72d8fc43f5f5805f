"""The dense law of a ridge deletion: against explicit recursions, reference values, and the laws it must obey."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import oracles
from expunge.accounting import gdp_delta
from expunge.runs.ridge import bounds
from expunge.runs.ridge.bounds import UniformBound, sensitivities, shifted_claim, tracked_mu
from expunge.runs.ridge.law import Phase, RidgeDeletion, deletion_pair, smoothness
from expunge.runs.ridge.power_sums import divided_powers
from expunge.runs.ridge.secular import smallest_eigenvalues

EPSILONS = np.array([0.0, 0.1, 0.5, 1.0, 2.0])
# delta carries a few units of outward rounding on each side of a comparison.
ROUNDING = 1 + 1e-9


@st.composite
def problems(draw, *, max_records=12, max_width=6):
    """A random ridge problem with a deletion: well and badly scaled records, one or several outputs."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, p, q = draw(st.integers(3, max_records)), draw(st.integers(1, max_width)), draw(st.integers(1, 3))
    X = rng.standard_normal((n, p)) * np.exp(draw(st.floats(-1, 1)) * rng.standard_normal((n, 1)))
    Y = rng.standard_normal((n, q))
    alpha = draw(st.sampled_from([0.05, 0.5, 3.0]))
    fraction = draw(st.sampled_from([1.0, 0.9, 0.3]))
    run = {
        "alpha": alpha,
        "step_size": fraction / smoothness(X, alpha=alpha),
        "learn": Phase(draw(st.integers(1, 40)), draw(st.sampled_from([0.05, 0.3, 1.0]))),
        "n_steps": draw(st.integers(1, 12)),
        "noise_std": draw(st.sampled_from([0.05, 0.3, 1.0])),
    }
    return X, Y, run


def pair_of(X, Y, run, rows=(0,), **changes):
    run = {**run, **changes}
    phases = [run["learn"], Phase(run["n_steps"], run["noise_std"], tuple(rows))]
    return deletion_pair(X, Y, alpha=run["alpha"], step_size=run["step_size"], phases=phases, deleted=rows)


def same_profile(left, right, rtol):
    for direction in ("pq", "qp"):
        a, b = left.delta(EPSILONS, direction=direction), right.delta(EPSILONS, direction=direction)
        # Far in the tail log delta, not delta, carries the relative accuracy of the moments.
        depth = np.maximum(1.0, np.abs(np.log(np.maximum(np.maximum(a, b), 1e-280))))
        assert np.all((np.abs(a - b) <= rtol * depth * np.maximum(a, b)) | (np.maximum(a, b) < 1e-280)), (a, b)


# --- against reference values and explicit recursions ------------------------------------------


def test_reference_profiles(reference):
    for problem in reference["ridge"]:
        X, Y = np.array(problem["X"]), np.array(problem["Y"])
        for record in problem["records"]:
            i = record["index"]
            phases = [
                Phase(problem["learn_steps"], problem["learn_noise_std"]),
                Phase(problem["unlearn_steps"], problem["unlearn_noise_std"], (i,)),
            ]
            pair = deletion_pair(
                X, Y, alpha=problem["alpha"], step_size=problem["step_size"], phases=phases, deleted=[i]
            )
            for direction in ("pq", "qp"):
                for epsilon, expected in record[f"delta_{direction}"].items():
                    got = pair.delta(float(epsilon), direction=direction)
                    if expected == 0.0:
                        assert got < 1e-280
                    else:
                        assert got == pytest.approx(expected, rel=1e-8)
            assert pair.renyi(2.0, direction="pq") == pytest.approx(record["renyi_2_pq"], rel=1e-8)


def test_reference_shifted_bounds(reference):
    for problem in reference["ridge"]:
        X, Y = np.array(problem["X"]), np.array(problem["Y"])
        for record in problem["records"]:
            i, delta_s = record["index"], problem["delta_sensitivity"]
            phases = [
                Phase(problem["learn_steps"], problem["learn_noise_std"]),
                Phase(problem["unlearn_steps"], problem["unlearn_noise_std"], (i,)),
            ]
            deletion = RidgeDeletion(X, Y, alpha=problem["alpha"], step_size=problem["step_size"], deleted=[i])
            steps = sensitivities(deletion, phases, delta_s=delta_s)[0].bound
            expected = np.array(record["residual_sensitivity_bound"])
            np.testing.assert_allclose(steps, expected, rtol=1e-11)
            assert np.all(steps >= expected * (1 - 1e-12))
            assert tracked_mu(deletion, phases, delta_s=delta_s) == pytest.approx(record["shifted_mu"], rel=1e-11)
            assert deletion.contraction == pytest.approx(1 - problem["step_size"] * record["m_without"], rel=1e-12)


@given(problems(), st.data())
def test_pair_equals_explicit_recursion(problem, data):
    X, Y, run = problem
    rows = tuple(data.draw(st.lists(st.integers(0, len(X) - 1), min_size=1, max_size=2, unique=True)))
    pair = pair_of(X, Y, run, rows)
    phases = [(run["learn"].n_steps, run["learn"].noise_std, ()), (run["n_steps"], run["noise_std"], rows)]
    law_p, law_q = oracles.ridge_run_laws(
        X, Y, alpha=run["alpha"], step_size=run["step_size"], phases=phases, deleted=rows
    )
    for order in (1.05, 1.5):
        expected = oracles.gaussian_renyi(law_p, law_q, order)
        # The explicit recursion subtracts nearly equal covariances; that is where its digits go.
        slack = 1e-9 * max(1.0, np.linalg.cond(law_q[1])) ** 0.5
        if math.isfinite(expected):
            assert pair.renyi(order, direction="pq") == pytest.approx(expected, rel=1e-6, abs=slack * 1e-3)


@given(problems(), st.data())
def test_sequential_pair_equals_explicit_recursion(problem, data):
    X, Y, run = problem
    between = data.draw(st.integers(1, 6))
    phases = [
        (run["learn"].n_steps, run["learn"].noise_std, ()),
        (between, 0.4, (1,)),
        (run["n_steps"], run["noise_std"], (0, 1)),
    ]
    assume(len(X) >= 4)
    pair = deletion_pair(
        X, Y, alpha=run["alpha"], step_size=run["step_size"], phases=[Phase(*phase) for phase in phases], deleted=[0, 1]
    )
    law_p, law_q = oracles.ridge_run_laws(
        X, Y, alpha=run["alpha"], step_size=run["step_size"], phases=phases, deleted=(0, 1)
    )
    expected = oracles.gaussian_renyi(law_p, law_q, 1.05)
    if math.isfinite(expected):
        slack = 1e-12 * max(1.0, np.linalg.cond(law_q[1])) ** 0.5
        assert pair.renyi(1.05, direction="pq") == pytest.approx(expected, rel=1e-6, abs=slack)


def exact_shift(X, Y, *, alpha, step_size, phases, deleted):
    """Length of the whitened shift, step by step in 50 digits."""
    matrix, p = mpmath.matrix, X.shape[1]

    def law(dropped_in):
        mean, covariance = mpmath.zeros(p, Y.shape[1]), mpmath.zeros(p, p)
        for phase in phases:
            keep = [i for i in range(len(X)) if i not in dropped_in(phase.removed)]
            rows, aims = matrix(X[keep].tolist()), matrix(Y[keep].tolist())
            step = mpmath.eye(p) - mpmath.mpf(step_size) * (rows.T * rows + mpmath.mpf(alpha) * mpmath.eye(p))
            push = mpmath.mpf(step_size) * (rows.T * aims)
            for _ in range(phase.n_steps):
                mean = step * mean + push
                covariance = step * covariance * step + mpmath.mpf(phase.noise_std) ** 2 * mpmath.eye(p)
        return mean, covariance

    (mean_p, _), (mean_q, covariance_q) = law(set), law(lambda removed: set(deleted))
    return mpmath.norm(mpmath.cholesky(covariance_q) ** -1 * (mean_p - mean_q))


@pytest.mark.parametrize("seed", range(12))
def test_the_shift_is_known_within_its_error(seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((9, 2)), rng.standard_normal((9, 2))
    alpha, deleted = 0.3, ((0,), (0, 3))[seed % 2]
    run = {
        "alpha": alpha,
        "step_size": (1.0, 0.3, 0.01)[seed % 3] / smoothness(X, alpha=alpha),
        "phases": [Phase(80, 0.1), Phase(5, 0.2, deleted[:1]), Phase(20, 0.05, deleted)],
        "deleted": deleted,
    }
    with mpmath.workdps(50):
        length = exact_shift(X, Y, **run)
        pair = deletion_pair(X, Y, **run)
        found = mpmath.norm(mpmath.matrix(pair.shift.tolist()))
        assert abs(length - found) <= pair.shift_error <= length * mpmath.mpf("1e-9")


# --- laws ---------------------------------------------------------------------------------------


@given(problems())
def test_exact_never_exceeds_shifted_nor_shifted_uniform(problem):
    X, Y, run = problem
    delta_s = 1e-7
    phases = [run["learn"], Phase(run["n_steps"], run["noise_std"], (0,))]
    pair = pair_of(X, Y, run)
    fixed = {"alpha": run["alpha"], "step_size": run["step_size"], "phases": phases, "deleted": [0]}
    for epsilon in EPSILONS:
        shifted = shifted_claim(X, Y, **fixed, epsilon=epsilon, delta_s=delta_s)
        uniform = shifted_claim(X, Y, **fixed, epsilon=epsilon, delta_s=delta_s, uniform=True)
        assert pair.delta(epsilon, direction="pq") <= shifted.delta_pq * ROUNDING <= uniform.delta_pq * ROUNDING**2
        assert pair.delta(epsilon, direction="qp") <= shifted.delta_qp * ROUNDING <= uniform.delta_qp * ROUNDING**2


@given(problems())
def test_delta_falls_in_epsilon_noise_and_steps(problem):
    X, Y, run = problem
    base = pair_of(X, Y, run).delta(EPSILONS)
    assert np.all(np.diff(base) <= 0)
    for better in ({"noise_std": 2 * run["noise_std"]}, {"n_steps": run["n_steps"] + 3}):
        assert np.all(pair_of(X, Y, run, **better).delta(EPSILONS) <= base * ROUNDING + 1e-290)


@given(problems())
def test_no_unlearning_is_the_pair_at_the_end_of_learning(problem):
    X, Y, run = problem
    learned = pair_of(X, Y, run, n_steps=0)
    same_profile(pair_of(X, Y, run, noise_std=0.0), learned, 0.0)
    assert np.all(pair_of(X, Y, run).delta(EPSILONS) <= learned.delta(EPSILONS) * ROUNDING + 1e-290)


@given(problems(), st.sampled_from([0.25, 4.0]))
def test_scaling_leaves_the_profile_unchanged(problem, factor):
    X, Y, run = problem
    base = pair_of(X, Y, run)
    learn = run["learn"]
    # y -> f y makes theta -> f theta, if the noise follows.
    wider = {"learn": Phase(learn.n_steps, factor * learn.noise_std), "noise_std": factor * run["noise_std"]}
    same_profile(pair_of(X, factor * Y, run, **wider), base, 1e-8)
    # X -> f X makes theta -> theta / f, if penalty and step size follow.
    narrower = {
        "learn": Phase(learn.n_steps, learn.noise_std / factor),
        "noise_std": run["noise_std"] / factor,
        "alpha": run["alpha"] * factor**2,
        "step_size": run["step_size"] / factor**2,
    }
    same_profile(pair_of(factor * X, Y, run, **narrower), base, 1e-8)


@given(problems())
def test_group_equals_its_members_in_phases_without_steps_between(problem):
    X, Y, run = problem
    assume(len(X) >= 4)
    fixed = {"alpha": run["alpha"], "step_size": run["step_size"], "deleted": [0, 2]}
    last = Phase(run["n_steps"], run["noise_std"], (0, 2))
    together = deletion_pair(X, Y, phases=[run["learn"], last], **fixed)
    one_by_one = deletion_pair(X, Y, phases=[run["learn"], Phase(0, 0.3, (0,)), last], **fixed)
    same_profile(together, one_by_one, 0.0)


@given(problems())
def test_order_of_rows_and_outputs_does_not_matter(problem):
    X, Y, run = problem
    order = np.r_[0, np.arange(1, len(X))[::-1]]
    same_profile(pair_of(X[order], Y[order][:, ::-1], run), pair_of(X, Y, run), 1e-7)


def test_many_steps_are_a_closed_form_not_a_loop():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 1))
    run = {"alpha": 1.0, "step_size": 1 / smoothness(X, alpha=1.0), "learn": Phase(50, 0.1)}
    pair = pair_of(X, Y, run, n_steps=10**9, noise_std=1e-3)
    assert 0 < pair.delta(0.0) < 1e-130  # both chains have nearly, never quite, reached the same stationary law


# --- pieces -------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 48))
def test_divided_powers_match_exact_sums(a, b, n_steps):
    fa, fb = Fraction(a), Fraction(b)
    power = sum((fa**j * fb ** (n_steps - 1 - j) for j in range(n_steps)), Fraction(0))
    got_power, got_sum = divided_powers(np.array(a), np.array(b), n_steps)
    # Each doubling rounds a handful of times.
    tolerance = 16 * (n_steps + 8) * np.finfo(float).eps
    assert float(got_power) == pytest.approx(float(power), rel=tolerance, abs=1e-300)
    total = sum((fa**i * fb ** (j - 1 - i) for j in range(n_steps) for i in range(j)), Fraction(0))
    assert float(got_sum) == pytest.approx(float(total), rel=tolerance, abs=1e-300)


@given(st.integers(1, 5), st.floats(0, 50), st.floats(1e-3, 10), st.sampled_from([1e-3, 1e-9, 1e-14]))
def test_residual_quantile_is_between_its_elementary_bounds(q, distance, variance, tail):
    from scipy import stats

    got = float(bounds.residual_norm_quantile(np.array([distance]), np.array([variance]), q, tail)[0])
    spread = math.sqrt(variance)
    slack = 1 + 1e-12
    assert got <= (distance + spread * stats.chi.isf(tail, q)) * slack
    assert got * slack >= distance + spread * stats.norm.isf(tail)
    assert stats.ncx2.sf(got**2 / variance, q, distance**2 / variance) <= tail * (1 + 1e-6)


@given(problems())
def test_smallest_eigenvalues_are_lower_bounds(problem):
    X, _, run = problem
    hessian = X.T @ X + run["alpha"] * np.eye(X.shape[1])
    values, vectors = np.linalg.eigh(hessian)
    square = float((X**2).sum(axis=1).max())
    found = smallest_eigenvalues(values, X @ vectors, floor=run["alpha"], square=square * (1 + 1e-9))
    for x, low in zip(X, found, strict=True):
        true = np.linalg.eigvalsh(hessian - np.outer(x, x))[0]
        assert low <= true + 1e-9 * values[-1]
        assert low >= true - 1e-7 * values[-1]


# --- refusals -----------------------------------------------------------------------------------


def small():
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((6, 2)), rng.standard_normal((6, 1))
    return X, Y, 1 / smoothness(X, alpha=1.0)


def test_step_size_exactly_one_over_l_works_and_above_is_refused():
    X, Y, eta = small()
    RidgeDeletion(X, Y, alpha=1.0, step_size=eta * (1 + 0.9e-9), deleted=[0])
    with pytest.raises(ValueError, match="step_size"):
        RidgeDeletion(X, Y, alpha=1.0, step_size=eta * (1 + 1e-7), deleted=[0])


def test_no_noise_is_refused():
    X, Y, eta = small()
    phases = [Phase(5, 0.0), Phase(3, 0.0, (0,))]
    with pytest.raises(ValueError, match="noise_std"):
        deletion_pair(X, Y, alpha=1.0, step_size=eta, phases=phases, deleted=[0])


def test_noise_in_the_last_phase_alone_is_gaussian_dp():
    X, Y, eta = small()
    phases = [Phase(5, 0.0), Phase(1, 0.7, (0,))]
    pair = deletion_pair(X, Y, alpha=1.0, step_size=eta, phases=phases, deleted=[0])
    mu = float(np.linalg.norm(pair.shift))
    np.testing.assert_allclose(pair.excess_variance, 0, atol=1e-15)
    np.testing.assert_allclose(pair.delta(EPSILONS), gdp_delta(mu, EPSILONS), rtol=1e-9)


def test_deleting_everything_and_foreign_removals_are_refused():
    X, Y, eta = small()
    with pytest.raises(ValueError, match="deleted"):
        RidgeDeletion(X, Y, alpha=1.0, step_size=eta, deleted=range(6))
    with pytest.raises(ValueError, match="row 3"):
        deletion_pair(X, Y, alpha=1.0, step_size=eta, phases=[Phase(5, 0.1), Phase(2, 0.1, (0, 3))], deleted=[0])


def test_uniform_bound_covers_every_record_and_only_a_first_deletion():
    X, Y, eta = small()
    learn = Phase(12, 0.2)
    bound = UniformBound(X, Y, alpha=1.0, step_size=eta, learning=learn, delta_s=1e-6)
    for i in range(len(X)):
        phases = [learn, Phase(4, 0.3, (i,))]
        deletion = RidgeDeletion(X, Y, alpha=1.0, step_size=eta, deleted=[i])
        assert tracked_mu(deletion, phases, delta_s=1e-6) <= bound.mu(phases) * (1 + 1e-9)
    with pytest.raises(ValueError, match="uniform"):
        bound.mu([learn, Phase(1, 0.1, (0,)), Phase(1, 0.1, (0, 1))])


@pytest.mark.parametrize("seed", range(12))
def test_the_contraction_is_rounded_up(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((7, 3)) * np.array([1.0, 1.0, (1.0, 1e-5)[seed % 2]])
    alpha = (1e-9, 0.3)[seed % 3 == 0]
    eta = (1.0, 0.1)[seed % 2] / smoothness(X, alpha=alpha)
    deletion = RidgeDeletion(X, np.zeros((7, 1)), alpha=alpha, step_size=eta, deleted=[0])
    with mpmath.workdps(50):
        rows = mpmath.matrix(X[1:].tolist())
        values = mpmath.eigsy(rows.T * rows + mpmath.mpf(alpha) * mpmath.eye(3), eigvals_only=True)
        smallest = min(values[i] for i in range(3))
        true = 1 - mpmath.mpf(eta) * smallest
        assert true <= bounds._outward(deletion.contraction, deletion.reference) <= true + mpmath.mpf("1e-13")


def test_no_eigenvalue_falls_below_the_penalty_and_no_step_expands():
    """A Gram matrix of rank 1 has computed eigenvalues of either sign; true ones are at least alpha."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = np.outer(rng.standard_normal(6), rng.standard_normal(5)) * 30.0
        eta = (1 + 0.9e-9) / smoothness(X, alpha=1e-13)
        deletion = RidgeDeletion(X, np.ones((6, 1)), alpha=1e-13, step_size=eta, deleted=[0])
        assert deletion.reference.values.min() >= 1e-13
        for basis in (deletion.reference, deletion.basis(())):
            assert np.all(basis.a <= 1.0)
            assert np.all(basis.a >= -1e-8)
        assert bounds._outward(deletion.contraction, deletion.reference) <= 1.0
