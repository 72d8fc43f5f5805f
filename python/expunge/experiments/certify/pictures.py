"""Pictures of the experiment on noise and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.experiments.certify.settings import CertifySettings
from expunge.experiments.pictures import on_grid
from expunge.plotting.style import COLOURS, FAINT, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LEAST_DRAWN", "plot_accuracy", "plot_noise"]

LEAST_DRAWN = 1e-10  # exact noise of some records is 1e-100 and less, which would leave an axis no room for the others
_DRAWN = {"uniform": COLOURS[1], "shifted": COLOURS[0], "exact": COLOURS[2], "residual": COLOURS[3]}


def plot_noise(records: Sequence[dict[str, Any]], settings: CertifySettings) -> Figure:
    """Return the noise of every route against the rank of difficulty, on a logarithmic axis; of the first split."""
    figure = new_figure(8.0, 4.4)
    axes = figure.add_subplot(1, 1, 1)
    share = np.array([row["rank"] for row in records]) / max(1, len(records) - 1)
    for route, colour in _DRAWN.items():
        noise = np.array([np.nan if row[route] is None else row[route] for row in records], dtype=np.float64)
        drawn = noise >= LEAST_DRAWN
        none = int(np.count_nonzero(noise < LEAST_DRAWN))
        label = f"{route} ({none} need none, or next to none)" if none else route
        axes.scatter(share[drawn], noise[drawn], s=5, color=colour, linewidths=0, label=label, rasterized=True)
    axes.set_yscale("log")
    axes.set_xlabel("rank by exact noise, from easiest (0) to hardest (1)")
    axes.set_ylabel("noise (per step; residual: on parameters)")
    on_grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=4,
                  markerscale=3)  # fmt: skip
    figure.suptitle(
        f"Noise for ({settings.epsilon:g}, {settings.delta:g}) by each route, {settings.data}", fontsize=11, color=INK
    )
    return figure


def plot_accuracy(
    points: Sequence[dict[str, Any]], uniform: Sequence[dict[str, Any]], before: float, settings: CertifySettings
) -> Figure:
    """Return accuracy against epsilon: exact noise of each record that is followed, and the worst case's."""
    from matplotlib import colormaps
    from matplotlib.ticker import NullFormatter

    figure = new_figure(8.0, 4.4)
    axes = figure.add_subplot(1, 1, 1)
    shades = colormaps["viridis"](np.linspace(0.0, 0.9, settings.n_points))
    for k in range(settings.n_points):
        own = [row for row in points if row["point"] == k]
        label = f"rank {own[0]['rank']:.2f}"
        axes.plot([row["epsilon"] for row in own], [row["accuracy_exact"] for row in own], marker="o", markersize=4,
                  color=shades[k], label=label)  # fmt: skip
    known = [row for row in uniform if row["accuracy"] is not None]
    axes.plot([row["epsilon"] for row in known], [row["accuracy"] for row in known], marker="s", color=COLOURS[1],
              linewidth=2, label="uniform")  # fmt: skip
    axes.axhline(before, color=FAINT, linestyle=(0, (4, 2)), label="before any deletion")
    axes.set_xscale("log")
    axes.set_xticks(settings.epsilons, [f"{one:g}" for one in settings.epsilons])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epsilon")
    axes.set_ylabel("expected test accuracy")
    on_grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside right center")
    figure.suptitle(f"Accuracy left by exact noise, record by record, {settings.data}", fontsize=11, color=INK)
    return figure
