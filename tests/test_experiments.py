"""Experiments at a tiny size: what they write, going on, and what they say in plain words."""

import html
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="experiments need expunge[torch]", exc_type=ImportError)
pytest.importorskip("pyarrow", reason="experiments need expunge[parquet]")
pytest.importorskip("matplotlib", reason="experiments need expunge[plot]")

import pyarrow.parquet as pq
import torch
from click.testing import CliRunner

from expunge import __version__
from expunge.cli import main
from expunge.experiments import EXPERIMENTS, barrier, compare, predict, preset, run_experiment, runner
from expunge.experiments.page import _table
from expunge.experiments.pictures import plot_prediction
from expunge.experiments.settings import Settings
from expunge.experiments.subjects import build, load
from expunge.experiments.tables import mean_interval, rank_correlation, spread_words

TINY = Settings(
    model="mlp", width=8, n_train=160, n_test=40, epochs=3, batch_size=32, noise_stds=(0.02,), n_sets=3, set_share=0.05,
    top_share=0.05, n_retrained=2, unlearn_epochs=2, n_checkpoints=4,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def run(name, folder, **settings):
    return run_experiment(name, TINY, folder, workers=1, progress=False, **settings)


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - {"exact"}))
def test_an_experiment_writes_rows_pictures_and_one_self_contained_page(tmp_path, name):
    found = run(name, tmp_path / "out")
    assert found["status"] == "estimate"
    assert found["words"]
    assert json.loads((tmp_path / "out" / "findings.json").read_text()) == found
    table = pq.read_table(tmp_path / "out" / "results.parquet")
    assert table.num_rows >= 2
    assert table.schema.metadata[b"status"] == b"estimate"
    page = (tmp_path / "out" / "index.html").read_text()
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) == 2
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", page), "the page needs another file"
    assert "quick look" in page
    assert "estimate" in page
    assert not list(tmp_path.rglob("*.tmp"))
    # All of it tells something of single records.
    for place in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert place.stat().st_mode & 0o077 == 0, place


def test_a_second_call_goes_on_piece_by_piece(tmp_path, monkeypatch):
    done, inner = [], runner._work

    def stopping(name, context, piece, workers):
        if len(done) == 2:
            raise KeyboardInterrupt
        inner(name, context, piece, workers)
        done.append(piece.key)

    monkeypatch.setattr(runner, "_work", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("compare", tmp_path / "cut")
    kept = {file.name: file.read_bytes() for file in (tmp_path / "cut" / "pieces").iterdir()}
    assert len(kept) == 2
    assert not (tmp_path / "cut" / "index.html").exists()

    monkeypatch.setattr(runner, "_work", inner)
    found = run("compare", tmp_path / "cut")
    for name, content in kept.items():
        assert (tmp_path / "cut" / "pieces" / name).read_bytes() == content
    whole = run("compare", tmp_path / "whole")
    assert found["measures"] == whole["measures"]  # interrupted or not, the same numbers

    # More seeds go on as well, and the page is no quick look any more.
    more = run("compare", tmp_path / "cut", seeds=2)
    assert more["measures"][0]["steps_per_seed"][0] == found["measures"][0]["steps_per_seed"][0]
    assert "quick look" not in (tmp_path / "cut" / "index.html").read_text()
    for name, content in kept.items():
        assert (tmp_path / "cut" / "pieces" / name).read_bytes() == content


def test_workers_change_no_result_and_are_noted(tmp_path):
    torch.set_num_threads(2)  # a caller's own setting neither matters nor is lost
    one = run_experiment("compare", TINY, tmp_path / "one", workers=1, progress=False)
    assert torch.get_num_threads() == 2
    two = run_experiment("compare", TINY, tmp_path / "two", workers=2, progress=False)
    assert one["measures"] == two["measures"]
    assert (one["workers"], two["workers"]) == ([1], [2])
    for piece in (tmp_path / "one" / "pieces").iterdir():
        other = json.loads((tmp_path / "two" / "pieces" / piece.name).read_text())
        assert json.loads(piece.read_text()) == {**other, "workers": 1}


def test_tables_have_no_cells_of_dashes_and_no_column_of_nothing(tmp_path):
    run("compare", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "–" not in page
    assert "<th>interval</th>" not in page  # one seed has none
    rows = [{"a": [None, None], "b": [0.5, None], "c": 1}, {"a": [None, None], "b": [0.25, 0.75], "c": None}]
    found = "".join(_table(rows))
    assert "<th>a</th>" not in found
    assert "<td>0.5, none</td><td>1</td>" in found
    assert "<td>0.25, 0.75</td><td>none</td>" in found


def test_noise_levels_without_a_place_on_the_axis_have_no_panel():
    settings = replace(TINY, noise_stds=(0.002, 0.02))
    rows = [
        {"noise_std": noise, "privacy_loss": loss, "reached": True, "steps_to_unlearn": 3, "most_steps": 10}
        for noise, loss in ((0.002, math.inf), (0.02, 0.5), (0.02, 0.0), (0.02, 2.0))
    ]
    figure = plot_prediction(rows, settings, {0.002: None, 0.02: None})
    assert [axes.get_title() for axes in figure.axes] == ["noise 0.02 per step"]
    assert "2 of 4 sets: privacy loss 0 or infinite, not drawn" in figure.get_suptitle()


def test_results_of_two_machines_do_not_mix(tmp_path, monkeypatch):
    found = run("compare", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    for value in found["environment"].values():
        assert html.escape(str(value)) in page
    assert html.escape(found["command"]) in page
    assert {"processor", "instruction_set", "threads_per_worker", "torch"} <= found["environment"].keys()
    before = (tmp_path / "out" / "findings.json").read_bytes()
    monkeypatch.setattr(runner, "processor", lambda: "another")
    with pytest.raises(
        ValueError, match=r"environment, processor: the experiment in .* got 'another'; they do not mix"
    ):
        run("compare", tmp_path / "out", seeds=2)
    monkeypatch.undo()
    monkeypatch.setattr(runner, "THREADS", 2)
    with pytest.raises(ValueError, match=r"environment, threads_per_worker: the experiment in .* has 1, got 2"):
        run("compare", tmp_path / "out", seeds=2)
    assert (tmp_path / "out" / "findings.json").read_bytes() == before
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    del settings["environment"]  # as earlier versions wrote it
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"environment, processor: the experiment in .* has None"):
        run("compare", tmp_path / "out")
    settings["environment"] = found["environment"]
    del settings["retrained"]  # as it was when retrained models came one by one
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"retrained: the experiment in .* has None, got 'together'; they do not mix"):
        run("compare", tmp_path / "out", seeds=2)


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="not an experiment's"):
        run("predict", tmp_path / "mine", overwrite=True)
    (tmp_path / "out").mkdir()
    settings = {"experiment": "predict", "version": __version__, **TINY.to_dict(), "epochs": 99}
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"epochs: the experiment in .* has 99, got 3"):
        run("predict", tmp_path / "out")
    with pytest.raises(ValueError, match=r"experiment: the experiment in .* has 'predict', got 'compare'"):
        run("compare", tmp_path / "out")
    (tmp_path / "out" / "settings.json").write_text(json.dumps({**settings, "version": "0.0.9"}))
    with pytest.raises(ValueError, match=r"version: the experiment in .* has '0.0.9', got"):
        run("predict", tmp_path / "out")


def test_the_command(tmp_path):
    arguments = ["experiment", "predict", "--model", "mlp", "--epochs", "1", "--noise", "0.05", "--out"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path), "--data", "mnist"])
    assert result.exit_code == 2
    assert "data_folder must be given for mnist" in result.stderr
    result = CliRunner().invoke(main, [*arguments, str(tmp_path), "--data", "mnist", "--data-folder", "/nowhere"])
    assert result.exit_code == 2
    assert "there is no folder /nowhere" in result.stderr


# --- words ------------------------------------------------------------------------------------------


def prediction(**changes):
    row = {
        "seed": 0, "noise_std": 0.02, "set": 0, "privacy_loss": 1.0, "run_privacy_loss_q05": 0.1,
        "run_privacy_loss_q95": 10.0, "n_forget": 5, "steps_to_unlearn": 10, "reached": True, "most_steps": 100,
        "metric_before": 1.0, "metric_after": 0.5, "metric_retrained": 0.5, "band_low": 0.4, "band_high": 0.6,
        "curve_steps": [0, 10], "curve": [1.0, 0.5],
    }  # fmt: skip
    row |= changes
    if row["reached"]:
        row["curve_steps"] = [0, row["steps_to_unlearn"] or 1]
    return row


def test_what_never_reaches_the_band_is_said_and_ranks_last():
    rows = [
        prediction(privacy_loss=p, steps_to_unlearn=s, set=k) for k, (p, s) in enumerate([(1, 0), (2, 10), (4, 10)])
    ]
    missed = prediction(privacy_loss=8, steps_to_unlearn=None, reached=False, metric_after=0.9, set=3)
    found, _ = predict.findings(TINY, [*rows, missed], n_seeds=1)
    (level,) = found["levels"]
    assert level["never_reached"] == 1
    assert level["rank_correlation_pooled"] == pytest.approx(rank_correlation([1, 2, 4, 8], [0, 10, 10, 101]))
    assert level["log_fit"]["n"] == 3
    assert any("1 of 4 runs never settled in the band" in text for text in found["words"])
    assert not any("flat" in text for text in found["words"])
    every = [prediction(privacy_loss=p, steps_to_unlearn=None, reached=False, set=p) for p in (1, 2, 3)]
    found, _ = predict.findings(TINY, every, n_seeds=1)
    assert found["levels"][0]["log_fit"] is None
    assert any("no set reached its band" in text for text in found["words"])


def test_flat_privacy_losses_are_said():
    assert spread_words(np.linspace(1.0, 1.5, 100)) is not None
    assert spread_words(np.geomspace(1e-3, 10.0, 100)) is None
    rows = [
        prediction(privacy_loss=1 + k / 10, set=k, run_privacy_loss_q05=1.0, run_privacy_loss_q95=1.2) for k in range(4)
    ]
    found, _ = predict.findings(TINY, rows, n_seeds=1)
    assert any("privacy losses are flat" in text for text in found["words"])


def barrier_rows(before, after, between):
    t = np.linspace(0.0, 1.0, 25)
    rows = []
    for seed in range(3):
        for part in ("easy", "hard"):
            for where in ("test", "forget"):
                for kind, step, height in (
                    ("retrained", -1, between), ("unlearned", 0, before), ("unlearned", 10, after)
                ):  # fmt: skip
                    peak = height * (1 + 0.01 * seed)
                    losses = (0.1 + peak * np.sin(math.pi * t)).tolist()
                    rows.append(
                        {
                            "seed": seed, "noise_std": 0.02, "set": part, "kind": kind, "where": where, "step": step,
                            "pair": 0, "barrier": peak, "at": 0.5, "t": t.tolist(), "losses": losses,
                        }
                    )  # fmt: skip
    return rows


def test_a_barrier_that_stays_high_is_said():
    found, _ = barrier.findings(TINY, barrier_rows(1.0, 0.9, 0.3), n_seeds=3)
    assert all("stays higher than between retrained models" in text for text in found["words"])
    found, _ = barrier.findings(TINY, barrier_rows(1.0, 0.1, 0.3), n_seeds=3)
    assert all("lower than between retrained models" in text for text in found["words"])


def test_a_difference_that_cannot_be_told_says_which_could_have_been():
    rows = barrier_rows(1.0, 0.3, 0.3)
    for row in rows:
        if row["kind"] == "unlearned" and row["step"] == 10:
            row["barrier"] += 0.1 * (row["seed"] - 1)
    found, _ = barrier.findings(TINY, rows, n_seeds=3)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert all(f"No difference can be detected; one of {half:.2g} could have been" in text for text in found["words"])
    found, _ = barrier.findings(TINY, [row for row in rows if row["seed"] == 0], n_seeds=1)
    assert all("One seed says nothing about chance" in text for text in found["words"])

    rows = [
        prediction(seed=seed, measure=name, steps_to_unlearn=steps, shared_with_privacy_loss=1)
        for name in compare.NAMES
        for seed, steps in enumerate([5, 10, 15] if name == "privacy_loss" else [10, 10, 10])
    ]
    found, _ = compare.findings(TINY, rows, n_seeds=3)
    assert any("no difference can be detected; one of 12 steps could have been" in text for text in found["words"])
    assert "The measures cannot be put in order." in found["words"]

    rows = [
        prediction(seed=seed, set=k, privacy_loss=1.0 + k, steps_to_unlearn=10 * (k if seed else 3 - k))
        for seed in range(3)
        for k in range(3)
    ]
    found, _ = predict.findings(TINY, rows, n_seeds=3)
    assert "no ranking can be detected; a mean of" in found["words"][0]


def test_a_seed_without_a_ranking_is_not_left_out():
    rows = [
        prediction(seed=seed, set=k, privacy_loss=1.0 + k, steps_to_unlearn=10 * k if seed else 0)
        for seed in range(4)
        for k in range(3)
    ]
    found, _ = predict.findings(TINY, rows, n_seeds=4)
    assert found["levels"][0]["rank_correlation_per_seed"] == [None, 1.0, 1.0, 1.0]
    assert found["levels"][0]["rank_correlation_mean"] == pytest.approx(0.75)
    assert "in 1 of them all sets took equally long, which counts as 0" in found["words"][0]


def test_measures_are_ordered_and_compared_over_seeds():
    rows = [
        prediction(
            seed=seed, measure=name, steps_to_unlearn=10 * place + seed, shared_with_privacy_loss=1,
        )
        for place, name in enumerate(["random", "el2n", "c_proxy", "average_grad_norm", "privacy_loss"])
        for seed in range(5)
    ]  # fmt: skip
    found, _ = compare.findings(TINY, rows, n_seeds=5)
    assert found["words"][0].startswith("Mean steps to forget: privacy loss 42, average gradient norm 32")
    assert "With 4 intervals, up to one such table in 5 shows a difference where there is none." in found["words"]
    assert any("Privacy loss against random records: +40 steps" in text and "longer" in text for text in found["words"])


def test_intervals_are_students():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == (
        2.0,
        pytest.approx(2 - 4.302653 / math.sqrt(3)),
        pytest.approx(2 + 4.302653 / math.sqrt(3)),
    )
    assert mean_interval([1.0])[1] == -math.inf


@pytest.mark.parametrize("model", ["cnn", "mlp", "vit", "resnet18"])
def test_every_model_fits_the_digits(model):
    settings = preset("digits", model=model)
    subject = load(settings)
    assert len(subject.y) == settings.n_train
    assert build(settings, 0)(subject.x[:2]).shape == (2, 10)


def test_mnist_and_cifar_are_found_in_their_folder(shared_data):
    for data, shape in (("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        subject = load(preset(data, data_folder=str(shared_data)))
        assert subject.x.shape[1:] == shape
        assert float(subject.x.max()) <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "luck"}, "metric must be one of"),
        ({"n_retrained": 1}, "n_retrained must be >= 2"),
        ({"noise_stds": ()}, "noise_stds must hold"),
        ({"noise_stds": (0.0,)}, "noise_stds must be > 0"),
        ({"n_sets": 60}, r"n_sets \* set_share"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        preset("digits", **change)
