"""The experiment on noise and accuracy, at a tiny size: order of routes, laws of releases, resumption, arguments."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="experiments need expunge[torch]", exc_type=ImportError)
pytest.importorskip("pyarrow", reason="experiments need expunge[parquet]")
pytest.importorskip("matplotlib", reason="experiments need expunge[plot]")

from click.testing import CliRunner

from expunge import LangevinRidge, NewtonRidge
from expunge.cli import main
from expunge.experiments import CertifySettings, Settings, certify_preset, run_experiment, runner
from expunge.experiments.certify.accuracy import Learned, expected_accuracy
from expunge.experiments.certify.experiment import findings, load, noises
from expunge.langevin import langevin_chains
from expunge.runs.ridge import LearningLaw

TINY = certify_preset(
    "digits", n_train=150, n_test=60, n_features=16, n_steps=60, unlearn_steps=8, epsilons=(0.2, 1.0, 3.0), n_points=3
)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def run(folder, seeds=1):
    return run_experiment("certify", TINY, folder, seeds=seeds, workers=1, progress=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certify") / "out"
    return folder, run(folder, seeds=2)


def problem():
    subject = load(TINY)
    X, Y = np.ascontiguousarray(subject.X[:150]), np.ascontiguousarray(subject.targets[:150])
    step_size = 1.0 / (float(np.linalg.eigvalsh(X.T @ X)[-1]) + TINY.alpha)
    return X, Y, {"alpha": TINY.alpha, "step_size": step_size, "n_steps": TINY.n_steps, "noise_std": TINY.noise_std}


def rows_of(folder):
    pieces = sorted((folder / "pieces").iterdir())
    return [row for piece in pieces for row in json.loads(piece.read_text())["rows"]]


def test_it_writes_findings_pictures_and_a_page(done):
    folder, found = done
    assert json.loads((folder / "findings.json").read_text()) == found
    assert found["status"] == "estimate"
    assert {row["route"]: row["status"] for row in found["routes"]} == {
        "uniform": "certified", "shifted": "certified", "exact": "estimate", "residual": "certified"
    }  # fmt: skip
    assert found["power"].startswith("Power, stated beforehand")
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(folder.glob("*.png"))) == 2
    assert "Noise by route" in page


def test_exact_noise_is_at_most_shifted_and_that_at_most_uniform(done):
    records = [row for row in rows_of(done[0]) if row["kind"] == "record"]
    assert len(records) == 2 * TINY.n_train
    assert all(row["exact"] * (1 - 1e-6) <= row["shifted"] <= row["uniform"] for row in records)
    for seed in range(2):
        own = sorted((row for row in records if row["seed"] == seed), key=lambda row: row["rank"])
        assert len({row["uniform"] for row in own}) == 1
        exact = [row["exact"] for row in own]
        assert exact == sorted(exact)
        assert exact[0] < exact[-1]


def test_accuracy_falls_with_noise_and_rises_with_epsilon(done):
    answers = [row for row in rows_of(done[0]) if row["kind"] == "accuracy"]
    for row in answers:
        if row["epsilon"] < np.log(10):
            assert row["accuracy_exact"] >= row["accuracy_uniform"] - 0.01
        else:  # the bounds by interpolation certify nothing there
            assert row["uniform"] is row["accuracy_uniform"] is None
            assert row["accuracy_exact"] is not None
    for seed, point in {(row["seed"], row["point"]) for row in answers}:
        own = [row for row in answers if (row["seed"], row["point"]) == (seed, point)]
        noise = [row["exact"] for row in sorted(own, key=lambda row: row["epsilon"])]
        assert noise == sorted(noise, reverse=True)
    assert any("accuracies cannot be compared" in words for words in done[1]["words"])


def test_noises_are_those_that_the_estimators_quote():
    X, Y, settings = problem()
    rows = np.array([3, 77])
    found = noises(TINY, LearningLaw(X, Y, **settings), rows, epsilon=1.0)
    model = LangevinRidge(fit_intercept=False, random_state=0, **settings).fit(X, Y)
    for method in ("uniform", "shifted", "exact"):
        quote = model.quote(epsilon=1.0, delta=TINY.delta, n_steps=TINY.unlearn_steps, method=method, indices=rows)
        np.testing.assert_allclose(found[method], quote.noise_std, rtol=1e-6)
    newton = NewtonRidge(alpha=TINY.alpha, epsilon=1.0, delta=TINY.delta, fit_intercept=False).fit(X, Y)
    # Both are rounding alone: the step is exact for the squared loss.
    assert np.all(found["residual"] < 1e-6)
    assert np.all(newton.quote(rows=rows).one_step_noise < 1e-6)


def test_the_law_of_a_release_is_that_of_simulated_steps():
    X, Y, settings = problem()
    left, noise = np.delete(np.arange(150), 7), 0.05
    step = {"alpha": TINY.alpha, "step_size": settings["step_size"]}
    theta = np.stack([
        langevin_chains(X, Y, **step, noise_std=0.01, n_steps=60, seed=k, record=np.array([60]), threads=1)[0, 0]
        for k in range(300)
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    H, moment = X[left].T @ X[left] + TINY.alpha * np.eye(16), X[left].T @ Y[left]
    for _ in range(TINY.unlearn_steps):
        theta = theta - step["step_size"] * (H @ theta - moment) + noise * rng.standard_normal(theta.shape)
    scores = X[:20] @ theta
    means, spread = Learned.of(X, Y, **settings).without(7, n_steps=8).scores(X[:20], noise_std=noise)
    off = (scores.mean(axis=0) - means) / (spread[:, None] / np.sqrt(300))
    assert np.abs(off).max() < 4.5
    np.testing.assert_allclose(scores.std(axis=0).mean(axis=1), spread, rtol=0.06)


def test_expected_accuracy_is_that_of_draws():
    rng = np.random.default_rng(0)
    means, spread, labels = rng.normal(size=(40, 5)), rng.uniform(0.1, 2.0, 40), rng.integers(5, size=40)
    drawn = means + spread[:, None] * rng.standard_normal((20_000, 40, 5))
    assert expected_accuracy(means, spread, labels) == pytest.approx((drawn.argmax(axis=2) == labels).mean(), abs=3e-3)
    assert expected_accuracy(means, np.full(40, 1e-9), labels) == np.mean(means.argmax(axis=1) == labels)
    assert expected_accuracy(means, np.full(40, 1e9), labels) == pytest.approx(0.2)


def test_what_was_stopped_goes_on_to_the_same_findings(done, tmp_path, monkeypatch):
    made, inner = [], runner._work

    def stopping(name, context, piece, workers):
        if made:
            raise KeyboardInterrupt
        inner(name, context, piece, workers)
        made.append(piece.key)

    monkeypatch.setattr(runner, "_work", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", seeds=2)
    assert len(list((tmp_path / "cut" / "pieces").iterdir())) == 1
    assert not (tmp_path / "cut" / "findings.json").exists()
    monkeypatch.setattr(runner, "_work", inner)
    assert run(tmp_path / "cut", seeds=2) == done[1]


def test_no_difference_is_said_with_the_one_that_could_have_been_seen(done):
    rows = [dict(row) for row in rows_of(done[0])]
    for row in rows:
        if row["kind"] == "accuracy" and row["accuracy_uniform"] is not None:
            row["accuracy_exact"] = row["accuracy_uniform"] + (0.01 if row["seed"] else -0.01)
    told = [words for words in findings(TINY, rows, n_seeds=2)[0]["words"] if "no difference can be told" in words]
    assert len(told) == 4
    assert all("could have been seen with a probability of 80%" in words for words in told)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "wine"}, "data must be one of"),
        ({"data": "mnist"}, "data_folder must be given for mnist and cifar10 alone, got None"),
        ({"epsilons": ()}, "epsilons must hold at least one target, got none"),
        ({"epsilons": (0.0,)}, "epsilons must be > 0"),
        ({"epsilon": float("nan")}, "epsilon must be"),
        ({"n_points": 2}, "n_points must be >= 3"),
        ({"delta": 0.0}, "delta must be > 0 and < 1"),
        ({"noise_std": 0.0}, "noise_std must be > 0"),
    ],
)
def test_settings_are_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        CertifySettings(**changes)


def test_the_command_runs_and_refuses_by_name(tmp_path):
    def call(*options):
        return CliRunner().invoke(main, ["experiment", *options, "--out", str(tmp_path / "out")])

    for options, words in (
        (("certify", "--model", "mlp"), "--model must be omitted for certify, which trains no network"),
        (("certify", "--noise", "0.1", "--noise", "0.2"), "--noise must be given once for certify, got 2 levels"),
        (("exact", "--epsilon", "1"), "--epsilon must be omitted for exact"),
        (("certify", "--data", "wine"), "data must be one of 'digits', 'mnist', 'cifar10', got 'wine'"),
        (("certify", "--epsilon", "-1"), "epsilons must be > 0"),
    ):
        result = call(*options)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(TypeError, match="settings must be CertifySettings for certify, got Settings"):
        run_experiment("certify", Settings(), tmp_path / "out")
    with pytest.raises(ValueError, match="n_train must be at most 1797, the records of digits, got 1800"):
        run_experiment("certify", certify_preset("digits", n_train=1700, n_test=100), tmp_path / "out")
    result = call("certify", "--epsilon", "1", "--quiet", "--workers", "1", "--overwrite")
    assert result.exit_code == 0, result.output
    assert "Power, stated beforehand: one seed has none" in result.stdout
    assert "quick look, estimate" in result.stdout
