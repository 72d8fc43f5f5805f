"""The experiment on telling models apart, at a tiny size: bounds where truth is known, no peeking, resumption."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="experiments need expunge[torch]", exc_type=ImportError)
pytest.importorskip("pyarrow", reason="experiments need expunge[parquet]")
pytest.importorskip("matplotlib", reason="experiments need expunge[plot]")

from click.testing import CliRunner
from scipy.stats import spearmanr

from expunge.accounting import gdp_epsilon
from expunge.cli import main
from expunge.evaluation import audited_epsilon
from expunge.experiments import distinguish_preset, run_experiment, runner
from expunge.experiments.distinguish import CONFIDENCE, DELTA, chosen, findings, parts, power
from expunge.experiments.told import chance_of, largest_shown, least_told, resampled, told_apart

TINY = distinguish_preset(
    "digits", model="mlp", width=4, n_train=40, n_test=20, epochs=2, batch_size=20, n_pilots=1, n_retrained=60,
    n_checkpoints=2, noise_stds=(0.02,),
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def run(folder, **settings):
    return run_experiment("distinguish", TINY, folder, workers=1, progress=False, **settings)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distinguish") / "out"
    return folder, run(folder)


def rows_of(folder):
    pieces = sorted((folder / "pieces").iterdir())
    return [row for piece in pieces for row in json.loads(piece.read_text())["rows"]]


def known_rows(shifts, n=60):
    """Rows of models whose margins are normal, with the record shifted by so much."""
    rng = np.random.default_rng(0)
    rows = [
        {"kind": "record", "point": j, "record": j, "privacy_loss": 1.0 + j, "average_grad_norm": 7.0 - j}
        for j in range(7)
    ]
    for point in (None, *range(7)):
        for k in range(n):
            margins = (rng.normal(size=7) + shifts).tolist() if point is None else [float(rng.normal())]
            rows.append(
                {"kind": "model", "seed": 0, "model": k, "point": point, "margins": margins, "test_accuracy": 0.5,
                 "train_accuracy": 1.0}
            )  # fmt: skip
    return rows


def test_it_writes_findings_pictures_and_a_page(done):
    folder, found = done
    assert json.loads((folder / "findings.json").read_text()) == found
    assert found["status"] == "estimate"
    assert found["models_a_side"] == 60
    assert len(found["told"]) == 7
    losses = [row["privacy_loss"] for row in found["told"]]
    assert losses == sorted(losses)
    assert all(0.0 <= row["epsilon"] <= found["largest_shown"] and row["status"] == "estimate" for row in found["told"])
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(folder.glob("*.png"))) == 2
    assert "Power, stated beforehand: 60 models a side" in page
    models = [row for row in rows_of(folder) if row["kind"] == "model"]
    assert len(models) == 8 * 60
    assert {len(row["margins"]) for row in models if row["point"] is None} == {7}


def test_what_was_stopped_goes_on_to_the_same_findings(done, tmp_path, monkeypatch):
    made, inner = [], runner._work

    def stopping(name, context, piece, workers):
        if len(made) == 3:
            raise KeyboardInterrupt
        inner(name, context, piece, workers)
        made.append(piece.key)

    monkeypatch.setattr(runner, "_work", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    kept = {file: file.read_bytes() for file in (tmp_path / "cut" / "pieces").iterdir()}
    assert len(kept) == 3
    assert not (tmp_path / "cut" / "findings.json").exists()
    monkeypatch.setattr(runner, "_work", inner)
    assert run(tmp_path / "cut") == done[1]
    assert all(file.read_bytes() == before for file, before in kept.items())


# --- statistics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 1.0, 3.0])
def test_bounds_are_below_the_epsilon_of_a_gaussian_mechanism(mu):
    rng, n = np.random.default_rng(1), 400
    truth = float(gdp_epsilon(mu, DELTA)) if mu else 0.0
    told = [
        told_apart(rng.normal(size=n) + mu, rng.normal(size=n), delta=DELTA, confidence=CONFIDENCE).epsilon
        for _ in range(200)
    ]
    # At most 5% in truth; 18 or more of 200 would come about once in a hundred times.
    assert np.count_nonzero(np.array(told) > truth) < 18
    assert max(told) <= largest_shown(n, delta=DELTA, confidence=CONFIDENCE)
    if mu:
        assert np.median(told) > 0.1


def test_both_directions_are_looked_at():
    rng = np.random.default_rng(2)
    # Some models without the record are where none with it are: only one direction shows that.
    absent = np.where(rng.random(400) < 0.3, 9.0, rng.normal(size=400))
    found = told_apart(rng.normal(size=400), absent, delta=DELTA, confidence=CONFIDENCE)
    assert found.direction == "without"
    assert found.epsilon > 1.0


def test_the_judging_half_has_no_part_in_the_threshold():
    rng = np.random.default_rng(3)
    present, absent = rng.normal(size=100) + 2.0, rng.normal(size=100)
    each = {"delta": DELTA, "confidence": 1.0 - (1.0 - CONFIDENCE) / 2.0}  # two directions share the risk
    before = audited_epsilon(present, absent, **each), audited_epsilon(absent, present, **each)
    for other in (present[50:], np.full(50, 99.0), rng.normal(size=50) + 2.5):
        changed = np.r_[present[:50], other]
        after = audited_epsilon(changed, absent, **each), audited_epsilon(absent, changed, **each)
        for one, was in zip(after, before, strict=True):
            assert (one.threshold, one.side) == (was.threshold, was.side)
        found = told_apart(changed, absent, delta=DELTA, confidence=CONFIDENCE)
        assert found.epsilon == max(one.epsilon for one in after)
        assert found.audit == after[found.direction == "without"]
    # A bootstrap sample does not let a model choose and judge.
    marked = np.arange(100.0)
    ((drawn, other),) = resampled([(marked, marked)], np.random.default_rng(0))
    for one in (drawn, other):
        assert one[:50].max() < 50 <= one[50:].min()


def test_the_most_that_can_be_shown_grows_with_the_models():
    shown = [largest_shown(n, delta=DELTA, confidence=CONFIDENCE) for n in (20, 100, 400, 1000)]
    assert shown == sorted(shown)
    assert shown[0] < 1.0 < 3.5 < shown[2] < 4.0
    with pytest.raises(ValueError, match="n must be >= 4, got 3"):
        largest_shown(3, delta=DELTA, confidence=CONFIDENCE)
    assert f"{shown[2]:.2f} at most" in power(distinguish_preset("digits"), 1)
    assert f"{largest_shown(800, delta=DELTA, confidence=CONFIDENCE):.2f}" in power(distinguish_preset("digits"), 2)


def test_chance_is_counted_over_all_orders():
    x = np.arange(7.0)
    assert chance_of(x, x) == pytest.approx(2 / 5040)
    assert chance_of(x, np.ones(7)) is None
    assert least_told(7) == pytest.approx(0.786, abs=1e-3)
    orders = [np.random.default_rng(k).permutation(7) for k in range(200)]
    for order in orders:
        far = abs(spearmanr(x, order).statistic) >= least_told(7) - 1e-9
        assert (chance_of(x, order.astype(float)) <= 0.05) == far


def test_records_are_chosen_at_even_ranks_from_low_to_high():
    losses = np.random.default_rng(0).permutation(61).astype(float)
    assert losses[chosen(losses)].tolist() == [0, 10, 20, 30, 40, 50, 60]


# --- words ------------------------------------------------------------------------------------------


def test_what_is_said_follows_the_numbers():
    found, _ = findings(TINY, known_rows(np.arange(7.0)), n_seeds=1)
    text = " ".join(found["words"])
    assert "epsilon is at least" in text
    ranked = {(row["measure"], row["truth"]): row for row in found["agreement"]}
    assert ranked["privacy loss", "the AUC of margins"]["rank_correlation"] > 0.9
    assert ranked["average gradient norm", "the AUC of margins"]["rank_correlation"] < -0.9
    assert ranked["privacy loss", "the AUC of margins"]["told"]
    nothing, _ = findings(TINY, known_rows(np.zeros(7)), n_seeds=1)
    said = " ".join(nothing["words"])
    assert f"no difference can be told by a threshold, where {nothing['largest_shown']:.2f} is the most to show" in said
    assert "The lower bound on epsilon is the same for all records" in said
    json.dumps(nothing, allow_nan=False)


def test_a_ranking_that_chance_gives_is_said_with_the_one_that_could_have_been_told():
    found, _ = findings(TINY, known_rows(np.array([3.0, 0.0, 2.0, 1.0, 0.5, 2.5, 0.2])), n_seeds=1)
    words = [one for one in found["words"] if "with the AUC of margins" in one]
    assert all("not told from chance, where 0.79 could have been" in one for one in words)
    assert len(words) == 2


# --- arguments --------------------------------------------------------------------------------------


def test_bad_settings_are_refused_by_name(tmp_path):
    few = distinguish_preset("digits", n_retrained=7)
    for call in (lambda: parts(few, 0), lambda: power(few, 1)):
        with pytest.raises(ValueError, match="n_retrained must be >= 8 for distinguish, got 7"):
            call()
    with pytest.raises(ValueError, match="n_train must be >= 8 for distinguish, got 6"):
        parts(distinguish_preset("digits", n_train=6, batch_size=2), 0)
    for options, words in (
        (("--noise", "0.1", "--noise", "0.2"), "noise_stds must hold one level for distinguish, got (0.1, 0.2)"),
        (("--metric", "loss"), "--metric must be omitted for distinguish, which unlearns nothing"),
        (("--unlearn-epochs", "3"), "--unlearn-epochs must be omitted for distinguish, which unlearns nothing"),
        (("--retrained", "5"), "n_retrained must be >= 8 for distinguish, got 5"),
        (("--data", "wine"), "data must be one of 'digits', 'mnist', 'cifar10', got 'wine'"),
        (("--noise", "0"), "noise_stds must hold a level > 0"),
        (("--epsilon", "1"), "--epsilon must be omitted for distinguish"),
    ):
        result = CliRunner().invoke(main, ["experiment", "distinguish", "--out", str(tmp_path / "out"), *options])
        assert result.exit_code == 2, result.output
        assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_says_its_power_first(tmp_path):
    options = ["--model", "mlp", "--epochs", "1", "--retrained", "8", "--workers", "1", "--quiet"]
    result = CliRunner().invoke(main, ["experiment", "distinguish", "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Power, stated beforehand: 8 models a side")
    assert (tmp_path / "out" / "findings.json").exists()
