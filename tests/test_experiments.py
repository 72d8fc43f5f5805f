"""Experiments at a tiny size: what they write, going on, and what they say in plain words."""

import html
import json
import math
import re

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
from expunge.experiments import EXPERIMENTS, preset, run_experiment, runner
from expunge.experiments.page import _table
from expunge.experiments.settings import Settings
from expunge.experiments.subjects import build, load
from expunge.experiments.tables import mean_interval, spread_words

TINY = Settings(
    model="mlp", width=8, n_train=160, n_test=40, epochs=3, batch_size=32, noise_stds=(0.0, 0.02), n_sets=4,
    set_share=0.05,
    top_share=0.05, n_pilots=2, n_retrained=3, unlearn_epochs=2, early_passes=1, patience=1, n_checkpoints=4,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def run(name, folder, **settings):
    return run_experiment(name, TINY, folder, workers=1, progress=False, **settings)


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - {"exact", "certify", "distinguish"}))
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
        if len(done) == 1:
            raise KeyboardInterrupt
        inner(name, context, piece, workers)
        done.append(piece.key)

    monkeypatch.setattr(runner, "_work", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("predict", tmp_path / "cut")

    def held():
        return {
            file: file.read_bytes() for part in ("pieces", "shared") for file in (tmp_path / "cut" / part).iterdir()
        }

    kept = held()
    assert len(kept) == 1 + TINY.n_pilots + TINY.n_sets * len(TINY.noise_stds)
    assert not (tmp_path / "cut" / "index.html").exists()

    monkeypatch.setattr(runner, "_work", inner)
    found = run("predict", tmp_path / "cut")
    assert kept.items() <= held().items()
    whole = run("predict", tmp_path / "whole")
    assert found["levels"] == whole["levels"]  # interrupted or not, the same numbers
    assert found["forget_sets"] == whole["forget_sets"]

    # More seeds go on as well, with the same sets and retrained models, and the page is no quick look any more.
    kept = held()
    more = run("predict", tmp_path / "cut", seeds=2)
    first, second = (one["rank_correlation_per_seed"] for one in (found["levels"][0], more["levels"][0]))
    assert second[:1] == first
    assert len(second) == 2
    assert "quick look" not in (tmp_path / "cut" / "index.html").read_text()
    assert kept.items() <= held().items()
    assert len(held()) == len(kept) + len(TINY.noise_stds)


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
    del settings["design"]  # as it was when every seed had forget sets of its own
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"design: the experiment in .* has None, got 'sets and retrained models sh"):
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


def test_flat_privacy_losses_are_said():
    assert spread_words(np.linspace(1.0, 1.5, 100)) is not None
    assert spread_words(np.geomspace(1e-3, 10.0, 100)) is None


def test_intervals_are_students():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == (
        2.0,
        pytest.approx(2 - 4.302653 / math.sqrt(3)),
        pytest.approx(2 + 4.302653 / math.sqrt(3)),
    )
    assert mean_interval([1.0])[1] == -math.inf


@pytest.mark.parametrize("model", ["strided", "cnn", "mlp", "vit", "resnet18"])
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
        ({"noise_stds": ()}, "noise_stds must hold a level > 0"),
        ({"noise_stds": (0.0,)}, "noise_stds must hold a level > 0"),
        ({"noise_stds": (-0.1, 0.1)}, "noise_stds must be >= 0"),
        ({"gap_share": 1.0}, "gap_share must be"),
        ({"early_passes": 3, "evaluate_every": 2}, "early_passes must be a multiple of evaluate_every"),
        ({"early_passes": 30, "unlearn_epochs": 20}, "at most unlearn_epochs"),
        ({"n_sets": 60}, r"n_sets \* set_share"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        preset("digits", **change)
