"""Edges of the ridge quotes: ranges of arguments, failures named, rounding, blocks of records, threads."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
import scipy.stats

import oracles
from emulated import DEVICES, put
from expunge.accounting import gdp_delta
from expunge.runs import ridge
from expunge.runs.ridge import exact, shifted, spectral, target

EPS = np.finfo(float).eps
NAN, INF = math.nan, math.inf
EXACT = {"exact": ridge.exact_quotes, "shifted": ridge.shifted_quotes}
GROUPS = {"exact groups": ridge.exact_group_quotes, "shifted groups": ridge.shifted_group_quotes}
TARGET = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 6}


def data(seed=0, n=12, p=4, q=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) * np.geomspace(1.0, 0.2, p), rng.normal(size=(n, q))


def learned(X=None, Y=None, **changes):
    A, B = data()
    X, Y = (A if X is None else X), (B if Y is None else Y)
    run = {"alpha": 0.5, "step_size": 0.05, "n_steps": 9, "noise_std": 0.1, **changes}
    return ridge.LearningLaw(X, Y, **run)


# --- ranges ----------------------------------------------------------------------------------------------------------

X, Y = data()
LARGEST = float(np.linalg.eigvalsh(X.T @ X + 0.5 * np.eye(4))[-1])
LAW_RANGES = {
    "alpha": ([0.0, -1.0, NAN, INF], [1e-6, 0.5]),
    "step_size": (
        [0.0, -0.1, NAN, INF, (1 + 2e-9) / LARGEST],
        [1e-3, 1 / LARGEST, (1 + 1e-9) / LARGEST],
    ),
    "n_steps": ([0, -1], [1, 2]),
    "noise_std": ([-0.1, NAN, INF, 1e-101, 5e-324], [0.0, 1e-100, 0.5]),
    "X": ([X[0], X[None], X[:, :0], X * NAN], []),
    "Y": ([Y[:5], Y[None], Y[:, :0], Y * NAN, np.ones(())], [Y[:, 0], Y[:, :1]]),
}  # fmt: skip
NAMES = {"X": "design( and targets)?", "Y": "(targets|design and targets)"}


@pytest.mark.parametrize("argument", LAW_RANGES)
def test_a_range_of_the_law_ends_where_it_is_said_to(argument):
    refused, taken = LAW_RANGES[argument]
    for value in refused:
        with pytest.raises(ValueError, match=rf"^{NAMES.get(argument, argument)} must"):
            learned(**{argument: value})
    for value in taken:
        learned(**{argument: value})


def test_data_whose_products_overflow_are_refused():
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^design must"):
        learned(X=np.diag([1e200, 1.0]), Y=np.ones((2, 1)))
    # Products that overflow although each number and X^T X are finite.
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^design must be small enough"):
        learned(X=np.full((4, 1), 2.0), Y=np.full((4, 1), 1e308))


def test_a_step_size_may_exceed_its_limit_by_rounding_alone():
    wide = np.eye(40)
    largest = 1.5
    for factor in (1.0, 1 + 1e-9, 1 + 1e-9 + 30 * EPS):
        learned(X=wide, Y=np.ones((40, 1)), step_size=factor / largest)
    with pytest.raises(ValueError, match=r"^step_size must be > 0 and at most 1/L"):
        learned(X=wide, Y=np.ones((40, 1)), step_size=(1 + 1e-9 + 50 * EPS) / largest)


QUOTE_RANGES = {
    "epsilon": ([-1e-3, NAN, INF], [0.0, 0.5, 1.0, 800.0]),
    "delta": ([0.0, 1.0, -0.1, NAN], [1e-12, 0.5]),
    "n_steps": ([-1], [0, 1]),
}


@pytest.mark.parametrize("argument", QUOTE_RANGES)
@pytest.mark.parametrize("name", [*EXACT, *GROUPS])
def test_a_range_of_a_target_ends_where_it_is_said_to(argument, name):
    function = partial({**EXACT, **GROUPS}[name], learned(), [0] if name in EXACT else [[0]])
    refused, taken = QUOTE_RANGES[argument]
    for value in refused:
        with pytest.raises(ValueError, match=rf"^{argument} must"):
            function(**{**TARGET, argument: value})
    for value in taken:
        function(**{**TARGET, argument: value})
    for noise_std in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match=r"^noise_std must be"):
            function(epsilon=1.0, delta=1e-5, noise_std=noise_std)
    for both in ({}, {"n_steps": 3, "noise_std": 0.1}):
        with pytest.raises(ValueError, match=r"^exactly one of n_steps and noise_std must be given"):
            function(epsilon=1.0, delta=1e-5, **both)


@pytest.mark.parametrize("function", [ridge.exact_quotes, ridge.exact_group_quotes])
def test_rank_and_tolerance_end_where_they_are_said_to(function):
    rows = [0] if function is ridge.exact_quotes else [[0]]
    for argument, refused, taken in [("rank", [0, -1, 5], [1, 4]), ("tolerance", [0.0, -1.0, NAN], [1e-9, 2.0])]:
        for value in refused:
            with pytest.raises(ValueError, match=rf"^{argument} must"):
                function(learned(), rows, **TARGET, **{argument: value})
        for value in taken:
            function(learned(), rows, **TARGET, **{argument: value})


@pytest.mark.parametrize("function", GROUPS.values())
def test_groups_are_named_and_at_least_one(function):
    with pytest.raises(ValueError, match=r"^groups must name at least one group"):
        function(learned(), [], **TARGET)
    with pytest.raises(ValueError, match=r"^groups\[1\] must"):
        function(learned(), [[0], [12]], **TARGET)


def test_no_quote_can_be_called_what_it_is_not():
    arrays = [np.ones(1)] * 8
    assert ridge.ExactQuotes(*arrays).status == "estimate"
    assert ridge.ShiftedQuotes(*arrays[:6]).status == "certified"
    with pytest.raises(TypeError, match="status"):
        ridge.ExactQuotes(*arrays, status="certified")
    with pytest.raises(TypeError, match="status"):
        ridge.ShiftedQuotes(*arrays[:6], status="exact")


@pytest.mark.skipif(DEVICES == ["cpu"], reason="build with -C cmake.define.EXPUNGE_CUDA_EMUL=ON")
@pytest.mark.parametrize("name", ["design", "targets"])
def test_numbers_on_a_device_that_are_not_finite_are_those_of_the_argument_named(name):
    values = {"design": X.copy(), "targets": Y.copy()}
    values[name][3, 1] = NAN
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=rf"^{name} must be finite"):
        learned(put(values["design"], DEVICES[-1]), put(values["targets"], DEVICES[-1]))


# --- failures and the ends of answers --------------------------------------------------------------------------------


def goal(**changes):
    return target.Goal.of(**{"epsilon": 1.0, "delta": 1e-5, "n_steps": None, "noise_std": 0.3, **changes})


def test_a_kernel_that_fails_is_named_by_its_entry():
    place = learned()._place
    out = exact._ExactOutput(3)
    out.value[:] = [1.0, NAN, 1.0]
    with pytest.raises(ValueError, match=r"laws can be computed, got a failure at entry 1"):
        out.quotes(goal(), place)
    value = np.array([1.0, 1.0, NAN])
    with pytest.raises(ValueError, match=r"laws are finite, got a failure at entry 2"):
        shifted._shifted_result(goal(), value, np.ones(3), place)


def test_an_exact_answer_reports_the_larger_direction():
    out = exact._ExactOutput(4)
    out.value[:], out.epsilon[:], out.error[:] = 1.0, 0.7, 0.0
    out.log_pq[:] = [-3.0, -9.0, 0.0, -INF]
    out.log_qp[:] = [-5.0, -2.0, -1.0, -INF]
    found = out.quotes(goal(), learned()._place)
    np.testing.assert_allclose(found.delta_pq, np.exp(out.log_pq), rtol=1e-14)
    np.testing.assert_allclose(found.delta_qp, np.exp(out.log_qp), rtol=1e-14)
    np.testing.assert_allclose(gdp_delta(found.mu[:2], 0.7), np.exp([-3.0, -2.0]), rtol=1e-9)
    assert found.mu[2:].tolist() == [INF, 0.0]


def test_deltas_of_exact_answers_are_rounded_up_and_never_nothing():
    logs = np.concatenate([-(10.0 ** np.random.default_rng(0).uniform(-12, 2.8, 300)), [-750.0, -1e4, 0.0]])
    with mpmath.workdps(50):
        for log, found in zip(logs, exact._exp_up(logs), strict=True):
            truth = mpmath.exp(mpmath.mpf(float(log)))
            assert truth <= found <= max(min(truth * (1 + 8 * EPS), 1), 2.3e-308)
    assert exact._exp_up(np.array([-INF])).tolist() == [0.0]


def test_answers_beyond_what_can_be_counted_are_never():
    found = goal().answers(np.array([0.0, 3.0, 2.0**61, 2.0**62, INF]))
    assert found[0].tolist() == [0.0, 0.3, 0.3, INF, INF]
    assert found[1].tolist() == [0, 3, 2**61, -1, -1]
    noise, steps = goal(n_steps=7, noise_std=None).answers(np.array([0.0, INF]))
    assert noise.tolist() == [0.0, INF]
    assert steps.tolist() == [7, 7]
    assert steps.dtype == np.int64


# --- certified parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [1, 2, 10, 300])
def test_quantiles_of_norms_are_rounded_up(n_outputs):
    with mpmath.workdps(60):
        for failure in 10.0 ** np.linspace(-300, -0.1, 40):
            quantile = shifted._chi_quantile(float(failure), n_outputs)
            half = mpmath.mpf(n_outputs) / 2
            beyond, inside = (
                mpmath.gammainc(half, (mpmath.mpf(size)) ** 2 / 2, mpmath.inf, regularized=True)
                for size in (quantile, quantile * (1 - 1e-10))
            )
            assert beyond <= mpmath.mpf(float(failure)) < inside


@pytest.mark.parametrize("step_size", [0.3, 1e-2, 1e-5])
def test_the_rounding_of_means_is_within_its_bound(step_size):
    run = learned(*data(3, 30, 5, 2), alpha=1e-3, step_size=step_size * 0.1, n_steps=400)
    moments = run.eigenvectors.T @ (run.design.T @ run.targets)
    means = run._means.reshape(5, 400, 2)
    with mpmath.workdps(40):
        for k in (1, 2, 3, 10, 100, 399):
            off = mpmath.mpf(0)
            for j, value in enumerate(run.eigenvalues):
                grown = 1 - (1 - mpmath.mpf(run.step_size) * mpmath.mpf(float(value))) ** k
                for output in range(2):
                    exact_mean = grown * mpmath.mpf(float(moments[j, output])) / mpmath.mpf(float(value))
                    off += (mpmath.mpf(float(means[j, k, output])) - exact_mean) ** 2
            assert mpmath.sqrt(off) <= run._mean_errors[k]
            assert run._mean_errors[k] <= 1e-12 * max(np.abs(means[:, k]).max(), 1e-300) * 400


def by_hand(run, rows, failure):
    """Sensitivities and contraction of one record's learning steps, by dense algebra."""
    A = run.design.T @ run.design + run.alpha * np.eye(run.n_features)
    start = np.zeros((run.n_features, run.n_outputs)), np.zeros((run.n_features, run.n_features))
    quantile = scipy.stats.chi.isf(failure, run.n_outputs)
    bounds, contractions = [], []
    for i in rows:
        x, y = run.design[i], run.targets[i]
        sizes = []
        for k in range(run.n_steps):
            M, S = oracles.ridge_moments(
                run.design, run.design.T @ run.targets, run.alpha, run.step_size, k, run.noise_std, *start
            )
            sizes.append(np.linalg.norm(x @ M - y) + quantile * math.sqrt(max(x @ S @ x, 0.0)))
        bounds.append(run.step_size * np.linalg.norm(x) * np.array(sizes))
        values = np.linalg.eigvalsh(A - np.outer(x, x))
        contractions.append(max(1 - run.step_size * values[0], run.step_size * values[-1] - 1))
    return np.array(bounds), np.array(contractions)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 9])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_bound_of_learning_is_the_minorant_of_sensitivities_by_hand(n_steps, outputs):
    run = learned(*data(4, 14, 4, outputs), n_steps=n_steps, noise_std=3.0, step_size=0.001)
    setting = {"epsilon": 1.5, "delta": 1e-3, "n_steps": 0}
    bounds, contractions = by_hand(run, range(14), 1e-4 / max(n_steps - 1, 1))
    expected = [
        oracles.shifted_mu(b, np.full(n_steps, c), np.full(n_steps, 3.0))
        for b, c in zip(bounds, contractions, strict=True)
    ]
    found = ridge.shifted_quotes(run, range(14), **setting)
    assert (found.noise_std == 0.0).all()
    np.testing.assert_allclose(found.mu, expected, rtol=1e-9)
    assert (found.mu >= np.array(expected) * (1 - 1e-14)).all()
    worst = oracles.shifted_mu(bounds.max(axis=0), np.full(n_steps, contractions.max()), np.full(n_steps, 3.0))
    np.testing.assert_allclose(ridge.shifted_quotes(run, [2, 5], uniform=True, **setting).mu, worst, rtol=1e-9)
    # Members of a group share the failure probability, and each counts.
    shared, _ = by_hand(run, [1, 6, 7], 1e-4 / (max(n_steps - 1, 1) * 3))
    together = oracles.shifted_mu(
        shared.sum(axis=0), np.full(n_steps, 1 - run.step_size * run.alpha), np.full(n_steps, 3.0)
    )
    groups = ridge.shifted_group_quotes(run, [[1, 6, 7], [3]], **setting)
    np.testing.assert_allclose(groups.mu, [together, found.mu[3]], rtol=1e-9)
    # Epsilon is the least at which both parts keep within delta.
    for epsilon, mu in zip(found.epsilon, found.mu, strict=True):

        def spent(epsilon, mu=mu):
            return gdp_delta(float(mu), float(epsilon)) + math.exp(epsilon) * 1e-4

        assert spent(epsilon) <= 1e-3
        assert epsilon == 0.0 or spent(epsilon * (1 - 1e-9)) > 1e-3 * (1 - 1e-8)


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-9])
def test_a_step_size_beyond_one_over_l_contracts_by_its_overshoot(factor):
    run = learned(np.eye(3), np.ones((3, 1)), alpha=1.0, step_size=factor / 2.0)
    # Without a record the smallest eigenvalue is alpha: 1 - 1/2; the largest overshoots by 1e-9 at most.
    assert shifted._contractions(run, np.array([1.0]))[0] == pytest.approx(0.5, rel=1e-8)
    assert 0.0 <= shifted._contractions(run, np.array([2.0]))[0] <= 1.1e-9
    assert shifted._contractions(run, np.array([2.0]))[0] >= factor - 1.0


@pytest.mark.parametrize("seed", range(3))
def test_contractions_are_rounded_up(seed):
    rng = np.random.default_rng(seed)
    run = learned(alpha=1e-3, step_size=0.05 * rng.random())
    lowest = rng.uniform(0.0, run.eigenvalues[-1], 200)
    for value, found in zip(lowest, shifted._contractions(run, lowest), strict=True):
        truth = 1 - mpmath.mpf(run.step_size) * mpmath.mpf(float(value))
        assert truth <= found <= truth + 8 * EPS


def test_sensitivities_are_never_below_those_of_exact_arithmetic():
    # One record, one feature, no noise: theta_k = (1 - (1 - h)^k) x y / lambda, h = step_size lambda.
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = float(rng.normal()), float(rng.normal())
        run = learned(np.array([[x]]), np.array([[y]]), alpha=0.5, step_size=0.9 / (x * x + 0.5), noise_std=0.0)
        found = shifted._sensitivities(run, np.array([0]), run.projected([0]), 1e-6)[0]
        with mpmath.workdps(50):
            a, b, eta = mpmath.mpf(x), mpmath.mpf(y), mpmath.mpf(run.step_size)
            value = a * a + mpmath.mpf(0.5)
            for k, bound in enumerate(found):
                truth = eta * abs(a) * abs(a * (1 - (1 - eta * value) ** k) * a * b / value - b)
                assert truth <= bound <= truth * (1 + 1e-12) + 1e-13


# --- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_blocks_of_records_change_nothing(monkeypatch, name):
    X, Y = data(5, 50)
    run, counts = learned(X, Y, step_size=0.01), []
    whole = EXACT[name](run, range(50), **TARGET)
    eigenvalues = ridge.smallest_eigenvalues(run, range(50))
    monkeypatch.setattr(spectral, "_TABLE_BYTES", 1)
    parts = EXACT[name](run, range(50), progress=counts.append, **TARGET)
    assert counts == [16, 16, 16, 2]
    for field in ("noise_std", "epsilon", "mu", "delta_pq", "delta_qp"):
        np.testing.assert_allclose(getattr(parts, field), getattr(whole, field), rtol=1e-12)
    np.testing.assert_array_equal(ridge.smallest_eigenvalues(run, range(50)), eigenvalues)
    if name == "shifted":
        uniform = ridge.shifted_quotes(run, [0], uniform=True, **TARGET)
        assert uniform.noise_std[0] >= whole.noise_std.max() * (1 - 1e-12)


@pytest.mark.parametrize(
    ("kernel", "call"),
    [
        ("ridge_exact_quotes", lambda run: ridge.exact_quotes(run, [0], threads=3, **TARGET)),
        ("ridge_shifted_quotes", lambda run: ridge.shifted_quotes(run, [0], threads=3, **TARGET)),
        ("ridge_shifted_quotes", lambda run: ridge.shifted_group_quotes(run, [[0]], threads=3, **TARGET)),
        ("ridge_smallest_eigenvalues", lambda run: ridge.smallest_eigenvalues(run, [0], threads=3)),
        ("ridge_smallest_eigenvalues", lambda run: ridge.shifted_quotes(run, [0], threads=3, **TARGET)),
    ],
)
def test_the_threads_asked_for_reach_the_kernel(threads_of_kernel, kernel, call):
    assert threads_of_kernel(kernel, lambda: call(learned())) == [3]


@pytest.mark.parametrize("name", [*EXACT, *GROUPS])
def test_quotes_do_not_depend_on_how_the_caller_treats_floating_point_errors(name):
    rows = [0, 1] if name in EXACT else [[0, 1], [2]]
    for changes in ({}, {"noise_std": 0.0}, {"step_size": 1 / LARGEST}, {"n_steps": 1}):
        for asked in ({"n_steps": 6}, {"n_steps": 0}, {"noise_std": 0.2}):
            usual = {**EXACT, **GROUPS}[name](learned(**changes), rows, epsilon=1.0, delta=1e-5, **asked)
            with np.errstate(all="raise"):
                found = {**EXACT, **GROUPS}[name](learned(**changes), rows, epsilon=1.0, delta=1e-5, **asked)
            np.testing.assert_array_equal(found.noise_std, usual.noise_std)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_are_counted_one_by_one_and_one_record_is_a_group(name):
    counts, run = [], learned()
    function = {**EXACT, **GROUPS}[name.removesuffix(" groups")]
    groups = GROUPS[name](run, [[4], [0, 1], [7]], progress=counts.append, **TARGET)
    alone = function(run, [4, 7], **TARGET)
    assert counts == [1, 1, 1]
    np.testing.assert_allclose(groups.noise_std[[0, 2]], alone.noise_std, rtol=1e-6)
    assert groups.noise_std[1] > 0.0
