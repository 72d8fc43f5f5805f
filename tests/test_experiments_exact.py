"""The experiment on exact costs, at a tiny size: its costs, its measures, its statistics, and what it says."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("torch", reason="experiments need expunge[torch]", exc_type=ImportError)
pytest.importorskip("pyarrow", reason="experiments need expunge[parquet]")
pytest.importorskip("matplotlib", reason="experiments need expunge[plot]")

import pyarrow.parquet as pq
from click.testing import CliRunner
from scipy.stats import spearmanr

from expunge import LangevinRidge
from expunge.accounting import gdp_mu
from expunge.cli import main
from expunge.experiments import ExactSettings, Settings, exact_preset, run_experiment, runner
from expunge.experiments.exact.agreement import LAWS, held_out, overlap, rank_correlations
from expunge.experiments.exact.experiment import findings, load, parts
from expunge.experiments.exact.measures import NAMES, OF_RUN, leverages, run_measures
from expunge.experiments.exact.subjects import random_convolutions
from expunge.experiments.exact.truth import head_rows, record_rows, refit_rows, set_rows
from expunge.experiments.exact.words import all_words

TINY = exact_preset(
    "wine", n_train=178, n_steps=60, unlearn_steps=5, noise_stds=(0.002, 0.02), set_sizes=(6,), n_sets=4, n_refits=5,
    n_resamples=100,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact") / "out"
    return folder, run_experiment("exact", TINY, folder, workers=1, progress=False)


def test_it_writes_rows_pictures_and_one_self_contained_page(done):
    folder, found = done
    assert found["status"] == "estimate"
    assert json.loads((folder / "findings.json").read_text()) == found
    table = pq.read_table(folder / "results.parquet")
    kinds = table.column("kind").to_pylist()
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "record": 178, "measures": 178, "set": 8, "head": 178, "refit": 5
    }  # fmt: skip
    assert set(OF_RUN) | {"noise", "strict_noise", "steps", "influence", "leverage"} <= set(table.column_names)
    assert table.schema.metadata[b"status"] == b"estimate"
    page = (folder / "index.html").read_text()
    assert {file.name for file in folder.glob("*.png")} == {
        "records.png", "agreement.png", "steps.png", "sets.png", "head.png"
    }  # fmt: skip
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", page), "the page needs another file"
    for words in ("quick look", "estimate", "Laws, judged on records left out", "Sets that leave together"):
        assert words in page
    assert "band of" not in page, "limits of another experiment"
    assert not (folder / "trained").exists() or not any((folder / "trained").iterdir())


def test_more_seeds_add_measures_alone(done, monkeypatch):
    folder, found = done
    assert parts(TINY, 1) == ["measures"]
    made, inner = [], runner._work

    def counted(name, context, piece, workers):
        made.append(piece.key)
        inner(name, context, piece, workers)

    monkeypatch.setattr(runner, "_work", counted)
    more = run_experiment("exact", TINY, folder, seeds=2, workers=1, progress=False)
    assert made == ["seed1-noise0.01-measures"]
    for before, after in zip(found["measures"], more["measures"], strict=True):
        if before["measure"] in OF_RUN:
            assert after["per_seed"][0] == before["per_seed"][0]
            assert len(after["per_seed"]) == 2
            assert after["rank_correlation"] == pytest.approx(np.mean(after["per_seed"]))
        else:
            assert after["rank_correlation"] == before["rank_correlation"]
    assert more["costs"] == found["costs"]


def test_regressions_have_no_head(tmp_path):
    settings = ExactSettings(**{**TINY.to_dict(), "data": "diabetes", "set_sizes": (), "n_train": 60})
    assert parts(settings, 0) == ["records0", "measures"]
    found = run_experiment("exact", settings, tmp_path / "out", workers=1, progress=False)
    assert not {"head", "sets", "set_ratios"} & set(found)
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


# --- costs and measures -----------------------------------------------------------------------------


def test_costs_are_those_that_the_estimator_quotes():
    subject, goal = load(TINY), {"epsilon": TINY.epsilon, "delta": TINY.delta}
    rows = record_rows(subject, TINY, np.arange(10, 16))
    model = LangevinRidge(
        alpha=TINY.alpha, n_steps=TINY.n_steps, noise_std=TINY.noise_std, fit_intercept=False, random_state=0,
        step_size=subject.step_size,
    ).fit(subject.X, subject.targets)  # fmt: skip
    chosen = np.arange(10, 16)
    noise = model.quote(**goal, n_steps=5, indices=chosen)
    strict = model.quote(epsilon=TINY.strict_epsilon, delta=TINY.delta, n_steps=5, indices=chosen)
    np.testing.assert_allclose([row["noise"] for row in rows], noise.noise_std, rtol=1e-6)
    np.testing.assert_allclose([row["strict_noise"] for row in rows], strict.noise_std, rtol=1e-6)
    for k, level in enumerate(TINY.noise_stds):
        steps = model.quote(**goal, noise_std=level, indices=chosen).n_steps
        assert [row["steps"][k] for row in rows] == steps.tolist()
    shifted = model.quote(**goal, n_steps=5, indices=chosen, method="shifted").noise_std
    np.testing.assert_allclose([row["shifted_noise"] for row in rows], shifted, rtol=1e-9)
    assert all(row["noise"] <= row["shifted_noise"] for row in rows)
    first = set_rows(subject, TINY, 6)[0]
    assert first["noise"] <= first["shifted_noise"]
    assert first["sum_noise"] >= first["max_noise"]


def test_measures_of_a_run_are_those_of_plain_steps():
    subject = load(TINY)
    found = run_measures(subject, TINY, seed=3)
    quiet = ExactSettings(**{**TINY.to_dict(), "noise_std": 1e-12})
    still = run_measures(subject, quiet, seed=3)
    X, Y, eta = subject.X, subject.targets, subject.step_size
    theta, norms, residuals = np.zeros((X.shape[1], Y.shape[1])), [], []
    for _ in range(TINY.n_steps + 1):
        residuals.append(np.linalg.norm(X @ theta - Y, axis=1))
        norms.append(residuals[-1] * np.linalg.norm(X, axis=1))
        theta = theta - eta * (X.T @ (X @ theta - Y) + TINY.alpha * theta)
    np.testing.assert_allclose(still["average_grad_norm"], np.mean(norms[:-1], axis=0), rtol=1e-8)
    np.testing.assert_allclose(still["final_grad_norm"], norms[-1], rtol=1e-8)
    np.testing.assert_allclose(still["grand"], norms[6], rtol=1e-8)
    np.testing.assert_allclose(still["el2n"], residuals[6], rtol=1e-8)
    # Full batches: the divergence of two Gaussians at order 2, summed over steps.
    loss = np.square(norms[:-1]).sum(axis=0) * (eta / 1e-12) ** 2
    np.testing.assert_allclose(still["privacy_loss"], loss, rtol=1e-8)
    assert not np.allclose(found["final_grad_norm"], still["final_grad_norm"], rtol=1e-4)
    hat = X @ np.linalg.solve(X.T @ X + TINY.alpha * np.eye(X.shape[1]), X.T)
    np.testing.assert_allclose(leverages(X, alpha=TINY.alpha), np.diag(hat), rtol=1e-10)


def test_heads_are_deleted_from_and_fitted_again():
    subject = load(TINY)
    quotes, refits = head_rows(subject, TINY), refit_rows(subject, TINY)
    assert len(quotes) == 178
    mu = float(gdp_mu(TINY.epsilon, TINY.delta))
    for row in refits:
        quote = quotes[row["record"]]
        assert row["distance"] == pytest.approx(quote["influence"], rel=0.1)
        assert row["distance"] <= quote["sensitivity_bound"]
        assert row["one_step_noise"] <= quote["one_step_noise_bound"]
        assert row["one_step_noise"] * mu < row["distance"]
        assert row["passes"] >= 1


def test_random_convolutions_are_those_of_plain_loops():
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 9, 9))
    found = random_convolutions(images, n_features=16)
    filters = np.random.default_rng(0).standard_normal((108, 2))
    filters /= np.linalg.norm(filters, axis=0)
    answers = np.empty((2, 4, 4, 4))
    for n, i, j in np.ndindex(2, 4, 4):
        patch = images[n, :, i : i + 6, j : j + 6].ravel() / 255
        patch = patch - patch.mean()
        patch /= np.sqrt(np.mean(patch**2) + 0.01)
        answers[n, :, i, j] = np.maximum(np.concatenate([patch @ filters, -patch @ filters]) - 0.5, 0)
    cells = [answers[:, :, a : a + 2, b : b + 2].mean(axis=(2, 3)) for a in (0, 2) for b in (0, 2)]
    np.testing.assert_allclose(found.reshape(2, 4, 4), 0.4 * (np.stack(cells, axis=2) - 0.2), atol=1e-5)
    with pytest.raises(ValueError, match="n_features must be a multiple of 8, got 12"):
        random_convolutions(images, n_features=12)


# --- statistics -------------------------------------------------------------------------------------


def test_rank_correlations_are_spearmans_ties_and_infinities_included():
    rng = np.random.default_rng(1)
    truth = np.round(rng.normal(size=50), 1)
    truth[:5] = np.inf
    columns = np.column_stack([truth + rng.normal(size=50), np.round(rng.normal(size=50)), np.ones(50)])
    columns[:5, 0] = 9.0
    found, samples = rank_correlations(columns, truth, n_resamples=200)
    for k in range(2):
        assert found[k] == pytest.approx(spearmanr(columns[:, k], truth).statistic)
    assert np.isnan(found[2])
    assert samples.shape == (200, 3)
    # Of unrelated columns the bootstrap's spread is that of the statistic, 1 / sqrt(n).
    assert np.nanstd(samples[:, 1]) == pytest.approx(1 / np.sqrt(50), rel=0.3)


def test_tops_in_common_are_counted_and_put_beside_chance():
    measure, truth = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), np.array([0.0, 9.0, 9.0, 9.0, 1.0, 1.0])
    found = overlap(measure, truth, size=3)
    assert (found.common, found.size, found.by_chance) == (2, 3, 1.5)
    rng = np.random.default_rng(0)
    common = [overlap(rng.random(200), rng.random(200), size=20).common for _ in range(400)]
    known = overlap(rng.random(200), rng.random(200), size=20)
    assert np.mean(common) == pytest.approx(known.by_chance, abs=0.2)
    assert np.mean(np.array(common) > known.chance_high) <= 0.05


@pytest.mark.parametrize("law", LAWS)
def test_each_law_is_found_where_it_holds_and_records_below_its_threshold_do_not_hide_it(law):
    rng = np.random.default_rng(0)
    x = rng.lognormal(size=400)
    curve = {"linear": 3 * x - 1, "log": np.log(x) + 0.5, "power": 2 * x**0.4}[law]
    cost = np.maximum(curve, 0.0) * (1 + 0.01 * rng.normal(size=400))
    found = held_out(x, np.maximum(cost, 0.0), n_resamples=200)
    assert found.best == law
    assert found.r_squared[law] > 0.99
    assert found.margin_interval[0] > 0.0
    assert found.n == 400


def test_laws_are_judged_on_records_left_out():
    rng = np.random.default_rng(0)
    nothing = held_out(rng.lognormal(size=300), rng.random(300), n_resamples=200)
    assert max(nothing.r_squared.values()) < 0.02, "no law predicts what does not depend on the measure"
    assert nothing.margin_interval[0] <= 0.0
    x = rng.lognormal(size=60)
    assert held_out(x, np.ones(60), n_resamples=100) is None
    assert held_out(np.ones(60), x, n_resamples=100) is None
    assert held_out(x[:20], x[:20], n_resamples=100) is None
    cost = np.where(np.arange(60) < 3, np.inf, x)
    assert held_out(np.where(np.arange(60) == 9, 0.0, x), cost, n_resamples=100).n == 56


def rows_of(noise, **measures):
    n = len(noise)
    records = [
        {
            "kind": "record", "record": i, "noise": noise[i], "strict_noise": noise[i], "steps": [noise[i], noise[i]],
            "shifted_noise": 1.0 + i, "influence": measures["influence"][i], "leverage": 1.0, "error": 0.0,
        }
        for i in range(n)
    ]  # fmt: skip
    runs = [{"kind": "measures", "seed": 0, "record": i, **dict.fromkeys(OF_RUN, float(i % 7))} for i in range(n)]
    return [*records, *runs]


def test_what_is_said_follows_the_intervals():
    noise = np.arange(1.0, 201.0)
    found, figures = findings(TINY, rows_of(noise.tolist(), influence=noise.tolist()), n_seeds=1)
    text = " ".join(found["words"])
    assert "influence 1.000 (1.000 to 1.000)" in text
    assert "it agrees better than privacy loss" in text
    assert "cannot be told from shifted bound" in text
    assert set(figures) == {"records.png", "agreement.png", "steps.png"}
    constant = [row for row in found["measures"] if row["measure"] == "leverage"]
    assert all(row["rank_correlation"] is None and row["interval"] == [None, None] for row in constant)
    assert "above 0" not in text
    half = np.where(noise > 100, noise, 0.0)
    found, _ = findings(TINY, rows_of(half.tolist(), influence=noise.tolist()), n_seeds=1)
    (apart,) = (words for words in found["words"] if words.startswith("Among the 100 records with exact noise above 0"))
    assert "influence 1.000 (1.000 to 1.000)" in apart
    worse, _ = findings(TINY, rows_of(noise.tolist(), influence=noise[::-1].tolist()), n_seeds=1)
    assert "agrees worse than privacy loss" in " ".join(worse["words"])
    nothing, _ = findings(TINY, rows_of([0.0] * 200, influence=noise.tolist()), n_seeds=1)
    assert any("all records cost the same" in words for words in nothing["words"])
    endless, _ = findings(TINY, rows_of([None] * 100 + noise[100:].tolist(), influence=noise.tolist()), n_seeds=1)
    json.dumps(endless, allow_nan=False)


def test_laws_that_cannot_be_told_apart_are_said_to_be():
    row = {
        "truth": "noise", "measure": "influence", "label": "influence", "records": "all", "r_squared_linear": 0.9,
        "r_squared_log": 0.89, "r_squared_power": 0.1, "best": "linear", "second": "log", "margin": 0.01,
        "margin_interval": [-0.01, 0.03], "n": 99,
    }  # fmt: skip
    costs = {
        "n": 99, "need_no_noise": 0, "need_no_noise_strict": 0, "largest_error": None,
        "quantiles_5_50_95_100": {"noise": [0.1, 0.2, 0.3, None]},
    }  # fmt: skip
    words = all_words(TINY, {"costs": costs, "measures": [], "laws": [row]}, n_seeds=1)
    assert "the linear and the log law cannot be told apart" in words[1]
    words = all_words(TINY, {"costs": costs, "measures": [], "laws": [{**row, "margin_interval": [0.001, 0.02]}]},
                      n_seeds=2)  # fmt: skip
    assert "the linear law predicts best" in words[1]
    assert "the mean of 2 runs" in words[0]
    assert "unknown for the costliest" in words[0]


# --- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "iris"}, "data must be one of"),
        ({"data_folder": "/somewhere"}, "data_folder must be given for mnist and cifar10 alone"),
        ({"data": "mnist"}, "data_folder must be given for mnist and cifar10 alone, got None"),
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"noise_stds": ()}, "noise_stds must hold at least one level"),
        ({"noise_stds": (0.0,)}, "noise_stds must be > 0"),
        ({"set_sizes": (1,)}, "set_sizes must be >= 2"),
        ({"delta": 1.0}, "delta must be > 0 and < 1"),
    ],
)
def test_settings_are_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        ExactSettings(**{"data": "wine", "n_train": 178, **changes})


def test_settings_of_another_experiment_and_gpus_are_refused(tmp_path):
    with pytest.raises(TypeError, match="settings must be ExactSettings for exact, got Settings"):
        run_experiment("exact", Settings(), tmp_path / "out")
    with pytest.raises(TypeError, match="settings must be Settings for predict, got ExactSettings"):
        run_experiment("predict", TINY, tmp_path / "out")
    with pytest.raises(ValueError, match="device must be 'cpu' for exact"):
        run_experiment("exact", TINY, tmp_path / "out", device="cuda")
    with pytest.raises(ValueError, match="n_train must be at most 178, the records of wine, got 200"):
        run_experiment("exact", exact_preset("wine", n_train=200), tmp_path / "out")
    assert not (tmp_path / "out" / "pieces").exists() or not any((tmp_path / "out" / "pieces").iterdir())


def test_the_command_refuses_what_belongs_to_networks(tmp_path):
    for option, value in (("--model", "mlp"), ("--epochs", "3"), ("--metric", "loss")):
        result = CliRunner().invoke(main, ["experiment", "exact", "--out", str(tmp_path / "out"), option, value])
        assert result.exit_code == 2
        assert f"{option} must be omitted for exact, which trains no network" in result.stderr
    result = CliRunner().invoke(main, ["experiment", "predict", "--data", "wine", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "data must be one of 'digits', 'mnist', 'cifar10', got 'wine'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_measure_is_compared():
    assert set(NAMES) == {*OF_RUN, "leverage", "shifted_noise", "influence"}
