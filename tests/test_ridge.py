"""Laws of the ridge quotes, against dense algebra written out step by step."""

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import compiled
import oracles
from emulated import DEVICES, host, on_every_device, put
from expunge import DeviceError
from expunge._kernels.backend import core
from expunge.accounting import gdp_delta
from expunge.runs import ridge
from expunge.runs.ridge import groups, shifted, target

REFERENCE = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())["ridge"]
EPS = np.finfo(float).eps


def learned(device, X, Y, **run):
    """The law of records on the device under test."""
    return ridge.LearningLaw(put(X, device), put(Y, device), **run)


def asked(function, law, records, **settings):
    """Quotes as host arrays."""
    quotes = function(law, records, **settings)
    assert all(type(value) is type(law.design) for value in vars(quotes).values())
    return dataclasses.replace(quotes, **{name: host(value) for name, value in vars(quotes).items()})


def run_kernel(device, kernel, **arguments):
    compiled.AVAILABLE[device].run(kernel, arguments)


def make(seed, n, p, q, alpha, n_steps, noise_std, *, spread=1.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.geomspace(1.0, spread, p)
    Y = rng.normal(size=(n, q))
    largest = np.linalg.eigvalsh(X.T @ X + alpha * np.eye(p))[-1]
    return X, Y, {"alpha": alpha, "step_size": 1 / largest, "n_steps": n_steps, "noise_std": noise_std}


def both_log_deltas(X, Y, rows, run, steps, noise, epsilon):
    e, d = oracles.ridge_law_pair(
        X, Y, rows, run["alpha"], run["step_size"], run["n_steps"], run["noise_std"], steps, noise
    )
    back = -e / (1 + e), -d / np.sqrt(1 + e)[:, None]
    return oracles.gaussian_pair_log_delta(e, d, epsilon), oracles.gaussian_pair_log_delta(*back, epsilon)


def pairs(device, law, records, steps, noise, rank):
    """Excess variances and squared shifts of the kernel's reduction at one unlearning noise."""
    rows = np.asarray(records)
    e, d2 = np.zeros((2, rows.size, rank))
    rest, count = np.zeros(rows.size), np.zeros(rows.size, dtype=np.int64)
    goal = target.Goal(1.0, 1e-5, float(steps), 0.0, False)
    setting = core.RidgeSetting(
        step_size=law.step_size, noise_std=law.noise_std, unlearn_steps=float(steps), unlearn_noise_std=noise,
        solve_steps=goal.solve_steps, epsilon=1.0, log_delta=-11.0, mu=0.3, tolerance=1e-7,
    )  # fmt: skip
    run_kernel(
        device, "ridge_gaussian_pairs", eigenvalues=law.eigenvalues, projected=host(law.projected(rows)),
        residuals=host(law.residual_means(rows)), setting=setting, rank=rank, excess_variance=e, squared_shift=d2,
        rest=rest, count=count,
    )  # fmt: skip
    return e, d2, rest, count


def solve_shifted(device, sensitivity, contraction, noise_std, steps, noise, solve_steps, limit, value, mu):
    """Fill value and mu for one record with the kernel of the device under test."""
    run_kernel(
        device, "ridge_shifted_quotes", sensitivity=sensitivity, contraction=np.array([contraction]),
        noise_std=noise_std, unlearn_steps=steps, unlearn_noise_std=noise, solve_steps=solve_steps, mu_limit=limit,
        value=value, mu=mu,
    )  # fmt: skip


problems = st.tuples(
    st.integers(0, 10**6),
    st.integers(2, 40),
    st.integers(1, 14),
    st.integers(1, 3),
    st.sampled_from([1e-6, 0.01, 1.0, 30.0]),
    st.integers(1, 60),
    st.sampled_from([0.02, 0.3]),
)


class TestReduction:
    @on_every_device
    @given(problems, st.integers(0, 12), st.sampled_from([0.0, 0.01, 0.5]))
    @settings(max_examples=80)
    def test_full_krylov_space_is_the_dense_pair(self, device, problem, steps, noise):
        X, Y, run = make(*problem)
        law = learned(device, X, Y, **run)
        e, d2, rest, count = pairs(device, law, [0], steps, noise, X.shape[1])
        assert count[0] >= 0
        e_dense, d_dense = oracles.ridge_law_pair(
            X, Y, [0], run["alpha"], run["step_size"], run["n_steps"], run["noise_std"], steps, noise
        )
        # dense algebra inverts the reference covariance, whose condition limits what it can say
        scale = max(np.abs(e_dense).max(), 1e-30)
        tolerance = 1e-7 * scale + 1e-11
        ours = np.sort(np.concatenate([e[0, : count[0]], np.zeros(X.shape[1] - count[0])]))
        np.testing.assert_allclose(ours, np.sort(e_dense), rtol=0, atol=tolerance)
        total = np.sum(d_dense**2)
        np.testing.assert_allclose(d2[0].sum() + rest[0], total, rtol=1e-7, atol=1e-16)
        # shifts sit on the right excesses: compare second moments of the pairing
        np.testing.assert_allclose(
            np.sum(d2[0] * e[0]), np.sum(np.sum(d_dense**2, axis=1) * e_dense), rtol=0, atol=tolerance * (total + 1e-30)
        )

    @on_every_device
    def test_rank_beyond_the_data_changes_nothing(self, device):
        # 3 records in 12 dimensions: the Krylov space closes after 4 steps, the rest must stay silent
        X, Y, run = make(1, 3, 12, 2, 0.5, 30, 0.1)
        law = learned(device, X, Y, **run)
        target = {"epsilon": 0.7, "delta": 1e-4, "n_steps": 4}
        small = asked(ridge.exact_quotes, law, [0, 1, 2], rank=5, **target).noise_std
        full = asked(ridge.exact_quotes, law, [0, 1, 2], rank=12, **target).noise_std
        np.testing.assert_allclose(small, full, rtol=1e-7)

    @on_every_device
    def test_residual_law_follows_the_recursion(self, device):
        X, Y, run = make(2, 20, 5, 2, 0.1, 9, 0.2)
        law = learned(device, X, Y, **run)
        means, variances = host(law.residual_means([3, 0])), host(law.residual_variances([3, 0]))
        start = np.zeros((5, 2)), np.zeros((5, 5))
        for k in range(9):
            M, S = oracles.ridge_moments(X, X.T @ Y, run["alpha"], run["step_size"], k, run["noise_std"], *start)
            np.testing.assert_allclose(means[:, k], X[[3, 0]] @ M - Y[[3, 0]], rtol=0, atol=1e-12)
            np.testing.assert_allclose(variances[:, k], [x @ S @ x for x in X[[3, 0]]], rtol=1e-11, atol=1e-18)

    @given(st.lists(st.floats(0.0, 1.0 + 1e-9), min_size=2, max_size=6), st.integers(1, 400))
    def test_group_divided_differences_are_sums_of_powers(self, rates, n):
        rate = np.array(rates)
        a = 1 - rate
        j = np.arange(n)
        # F[u, v] = -(a + b) sum over i + k <= n - 2 of a^{2i} b^{2k}, every term positive up to the common factor
        ours = groups._covariance_differences(rate, rate[::-1].copy(), n)
        for i, x in enumerate(a):
            for k, y in enumerate(a[::-1]):
                sums = np.cumsum((x * x) ** j)[::-1][1:] if n > 1 else np.zeros(0)
                expected = -(x + y) * np.sum(((y * y) ** j)[: n - 1] * sums)
                assert abs(ours[i, k] - expected) <= 1e-10 * n * abs(expected) + 1e-12


class TestReference:
    @on_every_device
    @pytest.mark.parametrize("case", range(len(REFERENCE)))
    def test_deltas_sensitivities_and_secular_root(self, device, case):
        c = REFERENCE[case]
        X, Y = np.array(c["X"]), np.array(c["Y"])
        law = learned(
            device,
            X,
            Y,
            alpha=c["alpha"],
            step_size=c["step_size"],
            n_steps=c["learn_steps"],
            noise_std=c["learn_noise_std"],
        )
        checked = 0
        for record in c["records"]:
            i = [record["index"]]
            root = host(ridge.smallest_eigenvalues(law, i))[0]
            assert root <= record["m_without"] * (1 + 1e-14)
            assert root == pytest.approx(record["m_without"], rel=1e-11)
            exact = np.array(record["residual_sensitivity_bound"])
            failure = c["delta_sensitivity"] / (c["learn_steps"] - 1)
            ours = host(shifted._sensitivities(law, np.array(i), law.projected(i), failure))[0]
            assert np.all(ours >= exact * (1 - 1e-12))
            assert np.all(ours <= 1.2 * exact)
            contraction = 1 - c["step_size"] * record["m_without"]
            n = c["learn_steps"] + c["unlearn_steps"]
            noise = np.repeat([c["learn_noise_std"], c["unlearn_noise_std"]], [c["learn_steps"], c["unlearn_steps"]])
            s = np.concatenate([exact, np.zeros(c["unlearn_steps"])])
            mu = oracles.shifted_mu(s, np.full(n, contraction), noise)
            assert mu == pytest.approx(record["shifted_mu"], rel=1e-9)
            if c["unlearn_steps"]:
                # the solve inverts the bound: asked for this mu it gives back this noise
                value, got = np.empty(1), np.empty(1)
                solve_shifted(
                    device, exact[None], contraction, c["learn_noise_std"], float(c["unlearn_steps"]), 0.0, False,
                    record["shifted_mu"], value, got,
                )  # fmt: skip
                if value[0] > 0:
                    assert value[0] == pytest.approx(c["unlearn_noise_std"], rel=1e-6)
                    assert got[0] <= record["shifted_mu"]
            for epsilon, pq in record["delta_pq"].items():
                delta = max(pq, record["delta_qp"][epsilon])
                if not 1e-250 < delta < 0.9:
                    continue
                # at a delta a hair above the exact one the quoted noise is at most the noise the reference was run with
                quote = asked(
                    ridge.exact_quotes, law, i, epsilon=float(epsilon), delta=delta * (1 + 1e-7),
                    n_steps=c["unlearn_steps"],
                    rank=X.shape[1], tolerance=1e-9,
                )  # fmt: skip
                below = asked(
                    ridge.exact_quotes, law, i, epsilon=float(epsilon), delta=delta * (1 - 1e-7),
                    n_steps=c["unlearn_steps"],
                    rank=X.shape[1], tolerance=1e-9,
                )  # fmt: skip
                if c["unlearn_steps"]:
                    assert quote.noise_std[0] <= c["unlearn_noise_std"] <= below.noise_std[0]
                else:
                    assert quote.noise_std[0] == 0.0
                    assert below.noise_std[0] == np.inf
                    assert max(below.delta_pq[0], below.delta_qp[0]) == pytest.approx(delta, rel=1e-8)
                    assert below.delta_pq[0] == pytest.approx(pq, rel=1e-8, abs=1e-280)
                checked += 1
        assert checked > 0


class TestExactQuotes:
    @on_every_device
    @pytest.mark.parametrize(
        ("problem", "steps"),
        [
            ((1, 30, 5, 1, 1.0, 20, 0.1), 5),
            ((2, 40, 12, 3, 0.01, 60, 0.05), 3),
            ((3, 12, 20, 2, 0.3, 40, 0.1), 10),
            ((4, 9, 1, 2, 0.5, 3, 0.05), 1),
            ((5, 40, 6, 2, 1.0, 120, 0.01), 30),
        ],
    )
    def test_quoted_noise_just_meets_delta_by_dense_algebra(self, device, problem, steps):
        X, Y, run = make(*problem)
        law = learned(device, X, Y, **run)
        quote = asked(ridge.exact_quotes, law, [0, 3], epsilon=0.8, delta=1e-4, n_steps=steps)
        for i, row in enumerate([0, 3]):
            logs = both_log_deltas(X, Y, [row], run, steps, quote.noise_std[i], 0.8)
            assert quote.noise_std[i] > 0
            assert max(logs) <= np.log(1e-4) + 1e-9
            assert max(logs) == pytest.approx(np.log(1e-4), abs=2e-6)
            ours = np.log([quote.delta_pq[i], quote.delta_qp[i]])
            np.testing.assert_allclose(ours, np.maximum(logs, np.log(2.3e-308)), rtol=0, atol=1e-5)

    @on_every_device
    def test_noise_is_what_bisection_on_dense_algebra_finds(self, device):
        X, Y, run = make(21, 12, 3, 2, 1.0, 8, 0.1)
        law = learned(device, X, Y, **run)
        quote = asked(ridge.exact_quotes, law, [1], epsilon=0.5, delta=1e-4, n_steps=2)
        setting = run["alpha"], run["step_size"], run["n_steps"], run["noise_std"]
        noise = oracles.ridge_noise(X, Y, [1], *setting, 2, 0.5, 1e-4, iterations=26)
        assert noise > 0
        assert quote.noise_std[0] == pytest.approx(noise, rel=1e-6)

    def test_group_quote_just_meets_delta_by_dense_algebra(self):
        for problem, steps in [((1, 30, 5, 1, 1.0, 20, 0.1), 5), ((5, 40, 12, 2, 0.1, 50, 0.05), 8)]:
            X, Y, run = make(*problem)
            law = ridge.LearningLaw(X, Y, **run)
            quote = ridge.exact_group_quotes(law, [[0, 2, 5], [7]], epsilon=0.8, delta=1e-4, n_steps=steps)
            single = ridge.exact_quotes(law, [7], epsilon=0.8, delta=1e-4, n_steps=steps)
            np.testing.assert_allclose(quote.noise_std[1], single.noise_std[0], rtol=1e-7)
            logs = both_log_deltas(X, Y, [0, 2, 5], run, steps, quote.noise_std[0], 0.8)
            assert max(logs) == pytest.approx(np.log(1e-4), abs=2e-6)

    @on_every_device
    def test_truncation_error_stays_below_the_reported_error(self, device):
        X, Y, run = make(7, 300, 64, 2, 0.1, 120, 0.02, spread=30.0)
        law = learned(device, X, Y, **run)
        rows = np.arange(24 if device == "cpu" else 4)
        target = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 4}
        full = asked(ridge.exact_quotes, law, rows, rank=64, **target)
        assert np.all(full.noise_std > 0)
        seen = 0.0
        for rank in (6, 10, 16, 20, 24, 28, 32):
            part = asked(ridge.exact_quotes, law, rows, rank=rank, **target)
            true = np.abs(part.noise_std / full.noise_std - 1)
            assert np.all(true <= part.error + full.error)
            seen = max(seen, true[np.isfinite(part.error)].max(initial=0.0))
        assert seen > 1e-4  # truncation did act
        adaptive = asked(ridge.exact_quotes, law, rows, **target)
        assert adaptive.error.max() <= 1e-7
        np.testing.assert_allclose(adaptive.noise_std, full.noise_std, rtol=2e-7)

    def test_noise_falls_in_epsilon_delta_and_steps(self):
        X, Y, run = make(8, 50, 8, 2, 0.5, 40, 0.05)
        law = ridge.LearningLaw(X, Y, **run)

        def noise(epsilon, delta, steps):
            return ridge.exact_quotes(law, range(50), epsilon=epsilon, delta=delta, n_steps=steps).noise_std

        base = noise(0.5, 1e-5, 5)
        assert np.all(base > 0)
        for easier in (noise(1.0, 1e-5, 5), noise(0.5, 1e-3, 5), noise(0.5, 1e-5, 8)):
            assert np.all(easier < base)

    @on_every_device
    def test_exact_noise_never_exceeds_shifted_nor_that_uniform(self, device):
        X, Y, run = make(9, 40, 6, 2, 1.0, 30, 0.1)
        law = learned(device, X, Y, **run)
        for epsilon, delta, steps in [(0.3, 1e-4, 3), (1.0, 1e-6, 10), (2.0, 1e-5, 1)]:
            target = {"epsilon": epsilon, "delta": delta, "n_steps": steps}
            exact = asked(ridge.exact_quotes, law, range(40), **target).noise_std
            shifted = asked(ridge.shifted_quotes, law, range(40), **target).noise_std
            uniform = asked(ridge.shifted_quotes, law, [1], uniform=True, **target).noise_std
            assert np.all(exact <= shifted)
            assert np.all(shifted <= uniform[0] * (1 + 1e-12))
            assert np.isfinite(uniform[0])
            assert uniform[0] > 0

    @on_every_device
    @given(problems, st.sampled_from([0.01, 0.2]))
    @settings(max_examples=25)
    def test_quoted_steps_are_the_fewest(self, device, problem, noise):
        X, Y, run = make(*problem)
        law = learned(device, X, Y, **run)
        target = {"epsilon": 0.5, "delta": 1e-4}
        steps = int(asked(ridge.exact_quotes, law, [0], noise_std=noise, **target).n_steps[0])
        # that many steps need at most this noise, one fewer needs more
        assert asked(ridge.exact_quotes, law, [0], n_steps=steps, **target).noise_std[0] <= noise * (1 + 1e-7)
        if steps:
            assert asked(ridge.exact_quotes, law, [0], n_steps=steps - 1, **target).noise_std[0] > noise * (1 - 1e-7)

    @on_every_device
    def test_many_records_are_answered_as_each_alone(self, device):
        """On a device in several batches and several rounds of ranks; one is zero, one is not a number."""
        n, p, q, steps, rank = 13, 14, 1, 10, 6
        rng = np.random.default_rng(17)
        h = np.sort(rng.uniform(1.0, 900.0, p))
        x, residuals = 0.2 * rng.standard_normal((n, p)), 0.3 * rng.standard_normal((n, steps, q))
        x[7], x[8] = 0.0, np.nan
        setting = core.RidgeSetting(
            step_size=1.0 / h[-1], noise_std=0.01, unlearn_steps=9.0, unlearn_noise_std=0.0, solve_steps=False,
            epsilon=1.0, log_delta=-11.0, mu=0.25, tolerance=1e-10,
        )  # fmt: skip

        def answers(rows):
            few = {"eigenvalues": h, "projected": x[rows], "residuals": residuals[rows], "setting": setting}
            size = len(few["projected"])
            names = "value", "epsilon_out", "log_delta_pq", "log_delta_qp", "error"
            quotes = {**{name: np.empty(size) for name in names}, "rank_out": np.empty(size, dtype=np.int64)}
            run_kernel(device, "ridge_exact_quotes", **few, rank=0, **quotes)
            pair = {name: np.empty((size, rank)) for name in ("excess_variance", "squared_shift")}
            pair |= {"rest": np.empty(size), "count": np.empty(size, dtype=np.int64)}
            run_kernel(device, "ridge_gaussian_pairs", **few, rank=rank, **pair)
            return quotes | pair

        together = answers(slice(None))
        assert np.count_nonzero(together["rank_out"] == p) > 5  # a second round
        assert (together["value"][7], together["rank_out"][7], together["count"][7]) == (0.0, 0, 0)
        assert np.isnan(together["value"][8])
        assert together["count"][8] == -1
        for row in (0, 7, 8, 10, n - 1):
            for name, values in answers(slice(row, row + 1)).items():
                np.testing.assert_array_equal(together[name][row], values[0])

    @on_every_device
    def test_nothing_to_forget_costs_nothing(self, device):
        X, Y, run = make(10, 20, 4, 1, 1.0, 10, 0.1)
        X[0] = 0.0
        law = learned(device, X, Y, **run)
        quote = asked(ridge.exact_quotes, law, [0, 1], epsilon=0.1, delta=1e-6, n_steps=3)
        assert quote.noise_std[0] == quote.epsilon[0] == quote.mu[0] == quote.delta_pq[0] == quote.delta_qp[0] == 0.0
        assert quote.noise_std[1] > 0
        law = ridge.LearningLaw(X, Y, **run)
        group = ridge.exact_group_quotes(law, [[0]], epsilon=0.1, delta=1e-6, n_steps=3)
        assert group.noise_std[0] == group.epsilon[0] == 0.0

    @on_every_device
    def test_enough_learning_noise_quotes_zero_and_the_epsilon_it_gives(self, device):
        X, Y, run = make(11, 60, 4, 1, 1.0, 30, 2.0)
        law = learned(device, X, Y, **run)
        quote = asked(ridge.exact_quotes, law, [0, 1, 2], epsilon=3.0, delta=1e-3, n_steps=0)
        np.testing.assert_array_equal(quote.noise_std, 0.0)
        assert np.all(quote.epsilon < 3.0)
        for i in range(3):
            if quote.epsilon[i] > 0:
                logs = both_log_deltas(X, Y, [i], run, 0, 0.0, quote.epsilon[i])
                assert max(logs) == pytest.approx(np.log(1e-3), abs=1e-6)
                assert max(logs) <= np.log(1e-3) + 1e-12
        assert quote.epsilon.max() > 0

    @on_every_device
    def test_no_learning_noise_is_plain_gaussian_dp(self, device):
        X, Y, run = make(12, 20, 4, 2, 1.0, 10, 0.0)
        law = learned(device, X, Y, **run)
        hopeless = asked(ridge.exact_quotes, law, [0], epsilon=1.0, delta=1e-5, n_steps=0)
        assert hopeless.noise_std[0] == hopeless.epsilon[0] == hopeless.mu[0] == np.inf
        quote = asked(ridge.exact_quotes, law, [0], epsilon=1.0, delta=1e-5, n_steps=3)
        e, d2, rest, _count = pairs(device, law, [0], 3, quote.noise_std[0], 4)
        mu = np.sqrt(d2.sum() + rest[0])
        z = 1.0 / mu
        delta = scipy.stats.norm.cdf(-z + mu / 2) - np.e * scipy.stats.norm.cdf(-z - mu / 2)
        assert delta == pytest.approx(1e-5, rel=1e-5)
        assert np.abs(e).max() < 1e-12

    @on_every_device
    def test_epsilon_zero_is_total_variation(self, device):
        X, Y, run = make(13, 30, 3, 1, 1.0, 20, 0.1)
        law = learned(device, X, Y, **run)
        quote = asked(ridge.exact_quotes, law, [0], epsilon=0.0, delta=0.05, n_steps=3)
        assert quote.noise_std[0] > 0
        assert quote.delta_pq[0] == pytest.approx(0.05, rel=1e-6)
        assert quote.delta_qp[0] == pytest.approx(0.05, rel=1e-6)

    @on_every_device
    def test_step_size_at_and_a_hair_above_one_over_l(self, device):
        X, Y, run = make(14, 30, 6, 2, 0.2, 40, 0.05)
        quotes = []
        for factor in (1.0 - 1e-12, 1.0, 1.0 + 1e-9):
            law = learned(device, X, Y, **{**run, "step_size": run["step_size"] * factor})
            target = {"epsilon": 0.5, "delta": 1e-5, "n_steps": 3}
            quotes.append(asked(ridge.exact_quotes, law, range(5), **target).noise_std)
            assert np.all(np.isfinite(asked(ridge.shifted_quotes, law, range(5), **target).noise_std))
        np.testing.assert_allclose(quotes[0], quotes[1], rtol=1e-7)
        np.testing.assert_allclose(quotes[2], quotes[1], rtol=1e-7)

    def test_same_bits_for_every_thread_count_and_grouping_of_calls(self):
        X, Y, run = make(15, 70, 10, 2, 0.3, 50, 0.05)
        law = ridge.LearningLaw(X, Y, **run)
        target = {"epsilon": 0.5, "delta": 1e-5, "n_steps": 3}
        for function in (ridge.exact_quotes, ridge.shifted_quotes):
            one, many = function(law, range(70), threads=1, **target), function(law, range(70), threads=4, **target)
            for name in vars(one):
                np.testing.assert_array_equal(getattr(one, name), getattr(many, name))

    def test_progress_counts_every_record_once(self):
        X, Y, run = make(16, 40, 4, 1, 1.0, 10, 0.1)
        law = ridge.LearningLaw(X, Y, **run)
        done = []
        target = {"epsilon": 0.5, "delta": 1e-5, "n_steps": 3, "progress": done.append}
        ridge.exact_quotes(law, range(40), **target)
        assert sum(done) == 40
        ridge.exact_group_quotes(law, [[0, 1], [2]], **target)
        assert sum(done) == 42
        ridge.shifted_quotes(law, [5], uniform=True, **target)
        assert sum(done) == 43


class TestShiftedQuotes:
    @on_every_device
    @pytest.mark.parametrize("seed", range(4))
    def test_sensitivities_count_the_rounding_of_residuals_that_cancel(self, device, seed):
        """Without noise a sensitivity is a distance: here of a target that many slow steps come ever closer to."""
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(3, 1)) * 10.0 ** rng.uniform(-1, 2)
        Y, n_steps = X * rng.normal(), 1500
        run = {"alpha": 1e-9, "step_size": 0.004 / (float(np.sum(X * X)) + 1e-9)}
        law = learned(device, X, Y, **run, n_steps=n_steps, noise_std=0.0)
        found = host(shifted._sensitivities(law, np.arange(3), law.projected(np.arange(3)), 1e-6))
        with mpmath.workdps(40):
            eta, mean = mpmath.mpf(run["step_size"]), mpmath.mpf(0)
            rows, aims = ([mpmath.mpf(float(value)) for value in column[:, 0]] for column in (X, Y))
            for k in range(n_steps):
                residuals = [x * mean - y for x, y in zip(rows, aims, strict=True)]
                for i, (x, residual) in enumerate(zip(rows, residuals, strict=True)):
                    exact = eta * abs(x) * abs(residual)
                    assert exact <= mpmath.mpf(float(found[i, k])) <= exact * (1 + mpmath.mpf("1e-6"))
                gradient = sum(x * r for x, r in zip(rows, residuals, strict=True)) + mpmath.mpf(run["alpha"]) * mean
                mean -= eta * gradient

    @on_every_device
    def test_deltas_of_shifted_quotes_are_added_upward(self, device):
        X, Y, run = make(9, 30, 4, 1, 1.0, 30, 0.1)
        law = learned(device, X, Y, **run)
        for epsilon in (0.0, 0.3, 1.0, 2.2):
            for delta in (1e-3, 1e-5, 3e-9):
                quote = asked(ridge.shifted_quotes, law, range(30), epsilon=epsilon, delta=delta, n_steps=6)
                base = gdp_delta(quote.mu, quote.epsilon)
                for i in range(30):
                    failure = Fraction(delta / 10.0)
                    assert Fraction(quote.delta_pq[i]) >= Fraction(base[i]) + failure
                    assert (
                        Fraction(quote.delta_qp[i])
                        >= Fraction(base[i]) + Fraction(math.exp(quote.epsilon[i])) * failure
                    )
                    assert quote.delta_qp[i] <= delta

    # Smaller contractions need noises whose squares are zero in the oracle's float64.
    @on_every_device
    @given(st.integers(0, 10**6), st.integers(1, 30), st.floats(1e-9, 1.0), st.integers(1, 6), st.floats(0.1, 3.0))
    @settings(max_examples=100)
    def test_solved_noise_meets_mu_by_the_plain_minorant(self, device, seed, n, contraction, steps, mu):
        rng = np.random.default_rng(seed)
        s = rng.exponential(size=n) * (rng.random(n) < 0.8)
        value, got = np.empty(1), np.empty(1)
        solve_shifted(device, s[None], contraction, 0.3, float(steps), 0.0, False, mu, value, got)
        c = np.full(n + steps, contraction)

        def bound(noise):
            return oracles.shifted_mu(np.append(s, np.zeros(steps)), c, np.repeat([0.3, noise], [n, steps]))

        if value[0] == 0.0:
            assert oracles.shifted_mu(s, c[:n], np.full(n, 0.3)) <= mu
            return
        assert got[0] <= mu
        if value[0] > 1e-150:  # the square of a smaller one is lost to the oracle
            assert bound(value[0]) <= mu * (1 + 1e-12)
            assert bound(value[0]) == pytest.approx(mu, rel=1e-9)

    @on_every_device
    @given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0.0, 1.0), st.floats(0.01, 2.0), st.floats(0.1, 3.0))
    @settings(max_examples=60)
    def test_solved_steps_are_the_fewest(self, device, seed, n, contraction, noise, mu):
        s = np.random.default_rng(seed).exponential(size=n)
        args = (device, s[None], contraction, 0.3)
        steps, got, needed = np.empty(1), np.empty(1), np.empty(1)
        solve_shifted(*args, 0.0, noise, True, mu, steps, got)
        assert got[0] <= mu
        if steps[0] > 0:
            solve_shifted(*args, steps[0], 0.0, False, mu, needed, got)
            assert needed[0] <= noise * (1 + 1e-9)
        if steps[0] > 1:
            solve_shifted(*args, steps[0] - 1, 0.0, False, mu, needed, got)
            assert needed[0] >= noise * (1 - 1e-9)

    @on_every_device
    def test_large_epsilon_leaves_no_room_for_the_failure_probability(self, device):
        X, Y, run = make(17, 20, 4, 1, 1.0, 10, 0.1)
        law = learned(device, X, Y, **run)
        quote = asked(ridge.shifted_quotes, law, [0], epsilon=2.4, delta=1e-5, n_steps=3)
        assert quote.noise_std[0] == np.inf
        assert quote.delta_qp[0] == 1.0

    @on_every_device
    def test_both_directions_meet_delta(self, device):
        X, Y, run = make(18, 20, 4, 2, 1.0, 10, 0.1)
        law = learned(device, X, Y, **run)
        for steps in (0, 3):
            quote = asked(ridge.shifted_quotes, law, range(20), epsilon=1.0, delta=1e-5, n_steps=steps)
            good = np.isfinite(quote.noise_std)
            assert np.all(np.maximum(quote.delta_pq, quote.delta_qp)[good] <= 1e-5 * (1 + 1e-12))
        assert good.all()

    def test_group_bound_covers_the_exact_group(self):
        X, Y, run = make(19, 30, 4, 2, 1.0, 20, 0.1)
        law = ridge.LearningLaw(X, Y, **run)
        target = {"epsilon": 0.5, "delta": 1e-4, "n_steps": 3}
        exact = ridge.exact_group_quotes(law, [[0, 1, 2], [3]], **target)
        bound = ridge.shifted_group_quotes(law, [[0, 1, 2], [3]], **target)
        assert np.all(exact.noise_std <= bound.noise_std)
        np.testing.assert_allclose(
            bound.noise_std[1], ridge.shifted_quotes(law, [3], **target).noise_std[0], rtol=1e-12
        )

    @on_every_device
    @given(problems)
    @settings(max_examples=60)
    def test_smallest_eigenvalue_is_a_tight_lower_bound(self, device, problem):
        X, Y, run = make(*problem)
        law = learned(device, X, Y, **run)
        for i in (0, X.shape[0] - 1):
            keep = np.delete(X, i, axis=0)
            exact = np.linalg.eigvalsh(keep.T @ keep + run["alpha"] * np.eye(X.shape[1]))[0]
            bound = host(ridge.smallest_eigenvalues(law, [i]))[0]
            room = 100 * X.shape[1] * EPS * law.eigenvalues[-1]
            assert run["alpha"] <= bound <= max(exact, run["alpha"]) + room
            assert bound >= exact - room


class TestArguments:
    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"alpha": 0.0}, "alpha"),
            ({"alpha": np.nan}, "alpha"),
            ({"step_size": 1.0}, "step_size"),
            ({"n_steps": 0}, "n_steps"),
            ({"noise_std": -1.0}, "noise_std"),
        ],
    )
    def test_law_names_the_argument(self, changes, name):
        X, Y, run = make(20, 10, 3, 1, 1.0, 5, 0.1)
        with pytest.raises((ValueError, TypeError), match=name):
            ridge.LearningLaw(X, Y, **{**run, **changes})

    def test_law_refuses_targets_of_another_length_and_not_finite_data(self):
        X, Y, run = make(20, 10, 3, 1, 1.0, 5, 0.1)
        with pytest.raises(ValueError, match="targets"):
            ridge.LearningLaw(X, Y[:5], **run)
        X[0, 0] = np.nan
        with pytest.raises(ValueError, match="design"):
            ridge.LearningLaw(X, Y, **run)

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"epsilon": -1.0}, "epsilon"),
            ({"delta": 0.0}, "delta"),
            ({"delta": 1.0}, "delta"),
            ({"n_steps": None}, "n_steps"),
            ({"noise_std": 0.1}, "n_steps"),
            ({"n_steps": None, "noise_std": 0.0}, "noise_std"),
            ({"n_steps": 1.5}, "n_steps"),
        ],
    )
    def test_quotes_name_the_argument(self, changes, name):
        X, Y, run = make(20, 10, 3, 1, 1.0, 5, 0.1)
        law = ridge.LearningLaw(X, Y, **run)
        for function in (ridge.exact_quotes, ridge.shifted_quotes):
            with pytest.raises((ValueError, TypeError), match=name):
                function(law, [0], **{**{"epsilon": 1.0, "delta": 1e-5, "n_steps": 3}, **changes})

    def test_quotes_refuse_rows_outside_the_data(self):
        X, Y, run = make(20, 10, 3, 1, 1.0, 5, 0.1)
        law = ridge.LearningLaw(X, Y, **run)
        target = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 3}
        with pytest.raises(ValueError, match="records"):
            ridge.exact_quotes(law, [10], **target)
        with pytest.raises(ValueError, match="groups"):
            ridge.exact_group_quotes(law, [[0, 0]], **target)
        with pytest.raises(ValueError, match="rank"):
            ridge.exact_quotes(law, [0], rank=4, **target)

    @pytest.mark.skipif(DEVICES == ["cpu"], reason="build with -C cmake.define.EXPUNGE_CUDA_EMUL=ON")
    def test_records_on_a_device_are_checked_and_groups_refused_there(self):
        X, Y, run = make(20, 10, 3, 1, 1.0, 5, 0.1)
        device = DEVICES[-1]
        with pytest.raises(DeviceError, match="targets"):
            ridge.LearningLaw(put(X, device), Y, **run)
        with pytest.raises(TypeError, match="design must have dtype float64"):
            ridge.LearningLaw(put(X, device, np.float32), put(Y, device), **run)
        with pytest.raises(ValueError, match="design must have 2 dimensions"):
            ridge.LearningLaw(put(X[0], device), put(Y, device), **run)
        with pytest.raises(ValueError, match="targets"):
            ridge.LearningLaw(put(X, device), put(Y[:5], device), **run)
        for bad in (X, Y):
            bad = bad.copy()
            bad[0, 0] = np.nan
            with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="must be finite"):
                ridge.LearningLaw(put(bad if bad.shape == X.shape else X, device),
                                  put(bad if bad.shape == Y.shape else Y, device), **run)  # fmt: skip
        law = learned(device, X, Y, **run)
        for function in (ridge.exact_group_quotes, ridge.shifted_group_quotes):
            with pytest.raises(DeviceError, match="groups"):
                function(law, [[0, 1]], epsilon=1.0, delta=1e-5, n_steps=3)
