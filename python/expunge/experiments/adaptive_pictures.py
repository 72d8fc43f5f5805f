"""Pictures of experiment (e): passes that each arm gives, and how far sets are from retrained models then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.experiments.pictures import on_grid
from expunge.experiments.settings import Settings
from expunge.experiments.yardsticks import told_yardstick
from expunge.plotting.style import COLOURS, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_given", "plot_left"]

_NAMES = {"line": "by the line", "envelope": "by the envelope", "everybody": "as the hardest pilot set"}
Given = Mapping[str, Sequence[dict[str, Any]]]  # sets that were judged, by yardstick


def plot_given(given: Given, settings: Settings) -> Figure:
    """Return the passes that sets needed, and those that each arm gave them, against privacy loss."""
    figure = new_figure(1.0 + 3.3 * len(given), 4.3)
    for k, (what, some) in enumerate(given.items()):
        axes = figure.add_subplot(1, len(given), k + 1)
        known = [one for one in some if one["needed"] is not None]
        never = [one for one in some if one["needed"] is None]
        axes.scatter(_at(known), [one["needed"] for one in known], s=20, color=INK, alpha=0.5, linewidths=0,
                     label="needed (a mark a seed)", zorder=4)  # fmt: skip
        axes.scatter(_at(never), [1.06 * settings.unlearn_epochs] * len(never), s=22, marker="^", facecolors="none",
                     edgecolors=INK, label="never arrived", zorder=4)  # fmt: skip
        for (arm, label), colour in zip(_NAMES.items(), COLOURS, strict=False):
            _steps(axes, some, arm, f"given {label}", colour)
        axes.axhline(settings.epochs, color=INK, linewidth=0.9, linestyle="--", label="retraining")
        axes.set_xscale("log")
        axes.set_ylim(-3.0, 1.12 * settings.unlearn_epochs)
        axes.set_title(fill(told_yardstick(what, settings), 30), fontsize=9.5, color=INK)
        axes.set_xlabel("mean privacy loss of the set", fontsize=9)
        if k == 0:
            axes.set_ylabel("passes over the retained records", fontsize=9)
        on_grid(axes)
    _finish(figure, "Passes given to sets that calibrated nothing (estimates; lines: medians, ranges over seeds)")
    return figure


def _steps(axes: Axes, given: Sequence[dict[str, Any]], arm: str, label: str, colour: str) -> None:
    sets = sorted({one["set"] for one in given})
    lots = [[one for one in given if one["set"] == k] for k in sets]
    at = [lot[0]["privacy_loss"] for lot in lots]
    values = [[one[arm]["passes"] for one in lot] for lot in lots]
    axes.plot(at, [np.median(some) for some in values], color=colour, linewidth=1.8, marker="o", markersize=4,
              label=label, zorder=3)  # fmt: skip
    axes.fill_between(at, [min(some) for some in values], [max(some) for some in values], color=colour, alpha=0.15,
                      linewidth=0)  # fmt: skip


def plot_left(given: Given, settings: Settings) -> Figure:
    """Return how far each set is from the mean of retrained models in each arm, against privacy loss."""
    figure = new_figure(1.0 + 3.3 * len(given), 4.3)
    for k, (what, some) in enumerate(given.items()):
        axes = figure.add_subplot(1, len(given), k + 1)
        for j, ((arm, label), colour) in enumerate(zip(_NAMES.items(), COLOURS, strict=False)):
            shift = 1.08 ** (j - 1)  # marks of the arms lie beside each other
            axes.scatter([shift * one for one in _at(some)], [one[arm]["distance"] for one in some], s=18, color=colour,
                         alpha=0.6, linewidths=0, label=label, zorder=3)  # fmt: skip
        axes.set_xscale("log")
        axes.set_title(fill(told_yardstick(what, settings), 30), fontsize=9.5, color=INK)
        axes.set_xlabel("mean privacy loss of the set", fontsize=9)
        if k == 0:
            axes.set_ylabel(f"{settings.metric}: distance to the retrained mean", fontsize=9)
        on_grid(axes)
    _finish(figure, "How far from retrained models sets end (estimates; a mark a set and seed; retrained sets at 0)")
    return figure


def _finish(figure: Figure, title: str) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11, color=INK)


def _at(given: Sequence[dict[str, Any]]) -> list[float]:
    return [float(one["privacy_loss"]) for one in given]
