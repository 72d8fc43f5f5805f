"""Pictures of unlearning: what is drawn is what was measured."""

import math

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="pictures need expunge[plot]")

from expunge.evaluation import (
    METRICS,
    Measured,
    Report,
    barrier_from_losses,
    predictions_from_logits,
    reference_band,
    unlearning_report,
)
from expunge.evaluation.plots import plot_barriers, plot_reports, plot_unlearning

BAND = reference_band([0.80, 0.84], method="range")


def report(value):
    return Report((Measured(METRICS["UA"], value, (value - 0.02, value + 0.02), 0.95, 0.82, BAND),))


def test_reports_show_value_interval_and_band(tmp_path):
    path = tmp_path / "a.png"
    figure = plot_reports({"inside": report(0.83), "outside": report(0.95)}, metrics=["UA"], path=path)
    axes = figure.axes[0]
    drawn = [tuple(map(float, line.get_xdata())) for line in axes.lines]
    assert {(0.83,), (0.95,), (0.81, 0.85)} <= {tuple(round(v, 12) for v in d) for d in drawn}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["inside", "outside"]
    markers = {tuple(line.get_xdata()): line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1}
    assert (markers[(0.83,)], markers[(0.95,)]) == ("o", "D")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError):
        plot_reports({"inside": report(0.83)}, metrics=["UA"], path=path)
    with pytest.raises(KeyError, match="there is no 'TA'"):
        plot_reports({"inside": report(0.83)}, metrics=["TA"])
    with pytest.raises(ValueError, match="must not be empty"):
        plot_reports({})


def test_the_title_of_one_panel_is_within_the_picture():
    figure = plot_reports({"a": report(0.83)}, metrics=["UA"])
    figure.canvas.draw()
    (title,) = figure.texts
    box = title.get_window_extent()
    assert 0.0 <= box.x0 < box.x1 <= figure.bbox.width


def test_a_time_never_reached_is_written_out():
    never = Report((Measured(METRICS["time to unlearn"], math.inf),))
    axes = plot_reports({"a": never}, metrics=["time to unlearn"]).axes[0]
    assert [t.get_text() for t in axes.texts] == ["never"]
    assert list(axes.get_xticks()) == []


def test_bands_of_accuracies_end_at_0_and_1():
    band = reference_band([0.02, 0.3], limits=(0, 1))
    assert (band.low, band.high < 1) == (0.0, True)
    assert reference_band([0.9, 1.0], limits=(0, 1)).high == 1.0
    assert reference_band([1.0], tolerance=0.1, limits=(0, 1)).high == 1.0
    with pytest.raises(ValueError, match=r"values must be within limits, \[0, 1\], got 0.5 to 1.1"):
        reference_band([0.5, 1.1], limits=(0, 1))
    with pytest.raises(ValueError, match="limits must be"):
        reference_band([0.5, 0.6], limits=(1, 0))
    records = {
        name: predictions_from_logits(np.eye(3)[[0, 1, 2, 0]], [0, 1, 2, k])
        for k, name in enumerate(("forget", "retain", "test"))
    }
    other = {name: predictions_from_logits(np.eye(3)[[0, 1, 2, 0]], [0, 1, 2, 0]) for name in records}
    for row in unlearning_report(records, retrained=[records, other]):
        assert 0 <= row.band.low <= row.band.high <= 1


def test_steps_are_whole_numbers_on_the_axis():
    axes = plot_unlearning({"easy": ([0, 1, 2], [1.0, 0.9, 0.82])}, BAND).axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_curves_say_when_they_arrive():
    steps = np.array([0, 10, 20])
    figure = plot_unlearning({"easy": (steps, [1.0, 0.9, 0.82]), "hard": (steps, [1.0, 0.97, 0.95])}, BAND)
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert "easy: from step 20" in labels
    assert "hard: never reached" in labels
    with pytest.raises(ValueError, match="at least one curve"):
        plot_unlearning({}, BAND)


def test_barriers_are_drawn_beside_their_baseline(tmp_path):
    t = np.linspace(0, 1, 25)
    high, low = barrier_from_losses(t, t * (1 - t)), barrier_from_losses(t, 0.1 * t * (1 - t))
    figure = plot_barriers({"unlearned": high}, baseline=[low], path=tmp_path / "b.svg")
    texts = [x.get_text() for x in figure.axes[0].get_legend().get_texts()]
    assert texts == ["between retrained models: up to 0.025", "unlearned: 0.25"]
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        plot_barriers({"unlearned": high}, path=tmp_path / "b.txt")
