"""Pictures of experiment (e): passes that two arms give, and what is left of the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.experiments.pictures import on_grid
from expunge.experiments.settings import Settings
from expunge.plotting.style import COLOURS, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_given", "plot_left"]

_NAMES = {"policy": "by privacy loss", "everybody": "as the hardest pilot set"}


def plot_given(given: Sequence[dict[str, Any]], settings: Settings) -> Figure:
    """Return the passes that sets needed, and those that each arm gave them, against privacy loss."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    never = [one for one in given if one["needed"] is None]
    known = [one for one in given if one["needed"] is not None]
    axes.scatter(_at(known), [one["needed"] for one in known], s=22, color=INK, alpha=0.55, linewidths=0,
                 label="needed", zorder=4)  # fmt: skip
    if never:
        axes.scatter(_at(never), [1.06 * settings.unlearn_epochs] * len(never), s=24, marker="^", facecolors="none",
                     edgecolors=INK, label="never arrived", zorder=4)  # fmt: skip
    for (arm, label), colour in zip(_NAMES.items(), COLOURS, strict=False):
        _steps(axes, given, arm, label, colour)
    axes.set_xscale("log")
    axes.set_ylim(bottom=-0.5)
    axes.set_xlabel("mean privacy loss of the set (estimate)")
    axes.set_ylabel("passes over the retained records")
    axes.set_title("Passes given to sets that calibrated nothing", fontsize=11, color=INK)
    axes.legend(frameon=False, fontsize=9)
    on_grid(axes)
    return figure


def _steps(axes: Axes, given: Sequence[dict[str, Any]], arm: str, label: str, colour: str) -> None:
    sets = sorted({one["set"] for one in given})
    lots = [[one for one in given if one["set"] == k] for k in sets]
    at = [lot[0]["privacy_loss"] for lot in lots]
    values = [[one[arm]["passes"] for one in lot] for lot in lots]
    axes.plot(at, [np.median(some) for some in values], color=colour, linewidth=1.8, marker="o", markersize=4,
              label=f"given {label} (median, range over seeds)", zorder=3)  # fmt: skip
    axes.fill_between(at, [min(some) for some in values], [max(some) for some in values], color=colour, alpha=0.15,
                      linewidth=0)  # fmt: skip


def plot_left(given: Sequence[dict[str, Any]], settings: Settings) -> Figure:
    """Return the share of its gap that each set has left in both arms, against privacy loss."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    for k, ((arm, label), colour) in enumerate(zip(_NAMES.items(), COLOURS, strict=False)):
        shift = 1.02 ** (2 * k - 1)  # marks of the arms lie beside each other
        axes.scatter([shift * one for one in _at(given)], [one[arm]["left"] for one in given], s=20, color=colour,
                     alpha=0.6, linewidths=0, label=label, zorder=3)  # fmt: skip
    axes.axhline(1.0 - settings.gap_share, color=INK, linewidth=0.9, linestyle="--", label="asked for")
    axes.axhline(0.0, color=INK, linewidth=0.6)
    axes.set_xscale("log")
    axes.set_xlabel("mean privacy loss of the set (estimate)")
    axes.set_ylabel("share of the gap left")
    axes.set_title(f"Gap of {settings.metric} to retrained models at the end", fontsize=11, color=INK)
    axes.legend(frameon=False, fontsize=9)
    on_grid(axes)
    return figure


def _at(given: Sequence[dict[str, Any]]) -> list[float]:
    return [float(one["privacy_loss"]) for one in given]
