"""Pictures of the experiments. Matplotlib's global state is never touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.accounting import LogFit
from expunge.experiments.settings import Settings
from expunge.plotting.style import BAND, COLOURS, FAINT, INK, bare, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "on_grid",
    "plot_barrier_paths",
    "plot_barriers_over_steps",
    "plot_comparison",
    "plot_curves",
    "plot_prediction",
]


def on_grid(axes: Axes) -> None:
    """Bare axes on a faint grid."""
    bare(axes)
    axes.grid(color=FAINT, alpha=0.2)
    axes.set_axisbelow(True)


def plot_prediction(rows: Sequence[dict[str, Any]], settings: Settings, fits: Mapping[float, LogFit | None]) -> Figure:
    """Return time to unlearn against average privacy loss, one panel per noise level."""
    from matplotlib.ticker import LogLocator

    drawn = [row for row in rows if row["privacy_loss"] > 0.0 and np.isfinite(row["privacy_loss"])]
    # No panel for a noise level at which no set has a place on a logarithmic axis.
    levels = [noise for noise in settings.noise_stds if any(row["noise_std"] == noise for row in drawn)]
    figure = new_figure(1.2 + 3.4 * max(len(levels), 1), 4.0)
    top = max(row["most_steps"] for row in rows)
    first = None
    for k, noise in enumerate(levels):
        axes = figure.add_subplot(1, len(levels), k + 1, sharey=first)
        first = first or axes
        some = [row for row in drawn if row["noise_std"] == noise]
        reached = [row for row in some if row["reached"]]
        missed = [row for row in some if not row["reached"]]
        colour = COLOURS[k % len(COLOURS)]
        axes.scatter(
            [r["privacy_loss"] for r in reached], [r["steps_to_unlearn"] for r in reached], s=30, color=colour,
            alpha=0.75, linewidths=0.5, edgecolors="white", label=f"in the band ({len(reached)})", zorder=3,
        )  # fmt: skip
        if missed:
            axes.scatter(
                [r["privacy_loss"] for r in missed], [1.04 * top] * len(missed), s=34, marker="^", facecolors="none",
                edgecolors=colour, label=f"never ({len(missed)})", zorder=3,
            )  # fmt: skip
        fit = fits[noise]
        if fit is not None:
            ends = np.array([r["privacy_loss"] for r in reached if r["privacy_loss"] > 0.0])
            at = np.geomspace(ends.min(), ends.max(), 100)
            axes.plot(at, fit.predict(at), color=INK, linewidth=1.4, label=f"log fit, R² {fit.r_squared:.2f}")
            low, high = fit.prediction_interval(at)
            axes.fill_between(at, low, np.minimum(high, top), color=INK, alpha=0.07, linewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(-0.04 * top, 1.1 * top)
        axes.set_xlabel(f"mean privacy loss of the set, order {settings.order:g}")
        axes.set_title(f"noise {noise:g} per step", fontsize=10, color=INK)
        if k == 0:
            axes.set_ylabel("steps until in the retrained band")
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, 0.95))
        on_grid(axes)
    left = len(rows) - len(drawn)
    note = f"\n{left} of {len(rows)} sets: privacy loss 0 or infinite, not drawn" if left else ""
    figure.suptitle(f"Time to unlearn against privacy loss (estimates){note}", fontsize=11, color=INK)
    return figure


def plot_curves(
    rows: Sequence[dict[str, Any]], settings: Settings, *, name: Callable[[dict[str, Any]], str], title: str
) -> Figure:
    """Return the metric of each set over unlearning steps, each beside its own band of retrained models."""
    from matplotlib.ticker import MaxNLocator

    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = new_figure(2.9 * columns, 0.5 + 2.4 * lines)
    first = None
    for k, row in enumerate(rows):
        axes = figure.add_subplot(lines, columns, k + 1, sharey=first)
        first = first or axes
        axes.axhspan(row["band_low"], row["band_high"], color=BAND, alpha=0.6, linewidth=0)
        axes.axhline(row["metric_retrained"], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.plot(row["curve_steps"], row["curve"], color=COLOURS[0], linewidth=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if row["reached"]:
            at = row["curve"][row["curve_steps"].index(row["steps_to_unlearn"])]
            axes.plot([row["steps_to_unlearn"]], [at], marker="o", color=COLOURS[1], markeredgecolor="white", zorder=3)
        ending = f"step {row['steps_to_unlearn']}" if row["reached"] else "never"
        axes.set_title(f"{name(row)}: {ending}", fontsize=9, color=INK)
        if k % columns == 0:
            axes.set_ylabel(f"{settings.metric} on the set", fontsize=9)
        if k // columns == lines - 1:
            axes.set_xlabel("unlearning step", fontsize=9)
        on_grid(axes)
    figure.suptitle(f"{title}; grey: retrained models", fontsize=10.5, color=INK)
    return figure


def plot_comparison(order: Sequence[dict[str, Any]], settings: Settings, *, n_seeds: int) -> Figure:
    """Return the time to unlearn the top records of each measure, longest first."""
    figure = new_figure(7.2, 1.3 + 0.5 * len(order))
    axes = figure.add_subplot()
    for k, one in enumerate(order):
        place = len(order) - 1 - k
        special = one["measure"] == "privacy_loss"
        colour = COLOURS[1] if special else (FAINT if one["measure"] == "random" else COLOURS[0])
        low, high = one["interval"]
        if low is not None:
            axes.plot([max(low, 0.0), high], [place, place], color=colour, linewidth=3, alpha=0.45, zorder=2)
        spread = np.linspace(-0.16, 0.16, len(one["steps_per_seed"])) if n_seeds > 1 else [0.0]
        axes.scatter(one["steps_per_seed"], place + np.asarray(spread), s=14, color=colour, alpha=0.6, linewidths=0)
        axes.plot([one["mean_steps"]], [place], marker="D" if special else "o", markersize=8, color=colour,
                  markeredgecolor="white", zorder=3)  # fmt: skip
    labels = [
        one["label"] + (f"\n(never: {one['never_reached']} of {n_seeds})" if one["never_reached"] else "")
        for one in order
    ]
    axes.set_yticks(range(len(order))[::-1], labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(left=-0.02 * max(1.0, max(max(one["steps_per_seed"]) for one in order)))
    axes.set_xlabel("steps until in the retrained band" + (", mean and 95% interval over seeds" if n_seeds > 1 else ""))
    axes.set_title(f"Top {100 * settings.top_share:g}% of each measure, longest first (estimates)", fontsize=10.5)
    on_grid(axes)
    return figure


def plot_barriers_over_steps(table: Sequence[dict[str, Any]], where: Mapping[str, str]) -> Figure:
    """Return barriers to retrained models along unlearning, beside those between retrained models."""
    figure = new_figure(8.6, 3.8)
    for k, (place, label) in enumerate(where.items()):
        axes = figure.add_subplot(1, len(where), k + 1)
        for j, one in enumerate(entry for entry in table if entry["where"] == place):
            colour = COLOURS[j]
            steps = [point["step"] for point in one["along"]]
            means = [point["mean"] for point in one["along"]]
            axes.plot(steps, means, marker="o", color=colour, markeredgecolor="white", label=f"{one['set']} set")
            if one["along"][0]["interval"][0] is not None:
                low, high = zip(*(point["interval"] for point in one["along"]), strict=True)
                axes.fill_between(steps, np.maximum(low, 0.0), high, color=colour, alpha=0.15, linewidth=0)
            between = one["retrained"]
            axes.axhline(between["mean"], color=colour, linewidth=1.2, linestyle=(0, (4, 2)),
                         label="between models retrained without it")  # fmt: skip
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("unlearning step")
        if k == 0:
            axes.set_ylabel("loss barrier, matched")
        axes.set_title(f"loss on the {label}", fontsize=10, color=INK)
        on_grid(axes)
    # One for both: beside each other, two would be wider than their axes.
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    figure.suptitle("Loss barriers to retrained models while unlearning (estimates)", fontsize=11, color=INK)
    return figure


def plot_barrier_paths(rows: Sequence[dict[str, Any]]) -> Figure:
    """Return the excess loss along linear paths before and after, of one seed."""
    figure = new_figure(8.6, 3.6)
    first = None
    for k, part in enumerate(("easy", "hard")):
        axes = figure.add_subplot(1, 2, k + 1, sharey=first)
        first = first or axes
        some = [row for row in rows if row["set"] == part]
        last = max(row["step"] for row in some)
        kinds = (
            ("between retrained", FAINT, [r for r in some if r["kind"] == "retrained"]),
            ("before unlearning to retrained", COLOURS[1], [r for r in some if r["step"] == 0]),
            ("after unlearning to retrained", COLOURS[0], [r for r in some if r["step"] == last]),
        )
        for label, colour, paths in kinds:
            for i, row in enumerate(paths):
                t, losses = np.array(row["t"]), np.array(row["losses"])
                excess = losses - ((1 - t) * losses[0] + t * losses[-1])
                axes.plot(t, excess, color=colour, linewidth=1.3, alpha=0.8, label=label if i == 0 else None)
        axes.set_title(f"{part} set", fontsize=10, color=INK)
        axes.set_xlabel("from the first model (0) to the second (1)")
        if k == 0:
            axes.set_ylabel("excess loss")
        on_grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    figure.suptitle("Loss of the forget set along linear paths (seed 0; estimates)", fontsize=11, color=INK)
    return figure
