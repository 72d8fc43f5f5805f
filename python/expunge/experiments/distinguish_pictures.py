"""Pictures of the experiment on telling models apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge._types import Float64
from expunge.experiments.pictures import on_grid
from expunge.plotting.style import COLOURS, FAINT, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_margins", "plot_told"]

_ALONG = {"privacy_loss": "mean privacy loss of pilots", "average_grad_norm": "average gradient norm of pilots"}


def plot_told(table: Sequence[dict[str, Any]], most: float) -> Figure:
    """Return lower bounds on epsilon, and AUCs, against privacy loss and gradient norm."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = new_figure(8.6, 6.0)
    for k, (name, label) in enumerate(_ALONG.items()):
        x = np.array([row[name] for row in table])
        above = figure.add_subplot(2, 2, k + 1)
        above.plot(x, [row["epsilon"] for row in table], "o", color=COLOURS[0])
        above.axhline(most, color=FAINT, linestyle=(0, (4, 2)))
        above.annotate("most that so many models can show", (0.02, most), (0, 3), xycoords=("axes fraction", "data"),
                       textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
        above.set_ylim(-0.05 * most, 1.15 * most)
        below = figure.add_subplot(2, 2, k + 3)
        for at, row in zip(x, table, strict=True):
            below.plot([at, at], row["auc_interval"], color=COLOURS[1], linewidth=2, alpha=0.5)
        below.plot(x, [row["auc"] for row in table], "o", color=COLOURS[1])
        below.axhline(0.5, color=FAINT, linestyle=(0, (4, 2)))
        below.set_xlabel(label, fontsize=9.5)
        if k == 0:
            above.set_ylabel("lower bound on epsilon")
            below.set_ylabel("AUC of margins")
        for axes in (above, below):
            if name == "privacy_loss" and x.min() > 0.0:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axes.xaxis.set_major_formatter("{x:.3g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
            else:
                axes.xaxis.set_major_locator(MaxNLocator(5))
            on_grid(axes)
    figure.suptitle("Telling models with a record from models without (estimates; 95%)", fontsize=11, color=INK)
    return figure


def plot_margins(sides: Sequence[tuple[Float64, Float64]], table: Sequence[dict[str, Any]]) -> Figure:
    """Return the margins of each record in models with and without it, from low to high privacy loss."""
    figure = new_figure(9.4, 3.6)
    axes = figure.add_subplot(1, 1, 1)
    for k, ends in enumerate(sides):
        for shift, values, colour, label in (
            (-0.17, ends[0], COLOURS[0], "with"),
            (0.17, ends[1], COLOURS[1], "without"),
        ):
            at = k + shift + np.linspace(-0.12, 0.12, len(values))
            axes.scatter(at, values, s=4, color=colour, alpha=0.4, linewidths=0, rasterized=True,
                         label=label if k == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(sides)), [f"privacy loss\n{row['privacy_loss']:.3g}" for row in table], fontsize=8.5)
    axes.set_ylabel("margin of the record")
    on_grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside right center",
                  markerscale=3)  # fmt: skip
    figure.suptitle("Margins of each record in models with it and without it", fontsize=11, color=INK)
    return figure
