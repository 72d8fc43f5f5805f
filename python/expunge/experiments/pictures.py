"""Pictures of the experiments. Matplotlib's global state is never touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.experiments.settings import Settings
from expunge.experiments.yardsticks import YARDSTICKS, told_yardstick
from expunge.plotting.style import BAND, COLOURS, FAINT, INK, bare, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "on_grid",
    "plot_barrier_paths",
    "plot_barriers_over_passes",
    "plot_comparison",
    "plot_curves",
    "plot_prediction",
]


def on_grid(axes: Axes) -> None:
    """Bare axes on a faint grid."""
    bare(axes)
    axes.grid(color=FAINT, alpha=0.2)
    axes.set_axisbelow(True)


def plot_prediction(rows: Sequence[dict[str, Any]], settings: Settings) -> Figure:
    """Return times to unlearn against average privacy loss: a line per yardstick, a panel per noise level."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    levels = settings.noise_stds
    figure = new_figure(1.2 + 2.6 * len(levels), 1.0 + 2.3 * len(YARDSTICKS))
    top = settings.unlearn_epochs
    found = [row[f"passes_{what}"] for row in rows for what in YARDSTICKS]
    low = min((one for one in found if one is not None), default=0)
    bottom = -0.3 if low < 2 else 0.6 * low  # no room for times that nothing took
    seeds = sorted({row["seed"] for row in rows})
    for i, what in enumerate(YARDSTICKS):
        for k, noise in enumerate(levels):
            axes = figure.add_subplot(len(YARDSTICKS), len(levels), i * len(levels) + k + 1)
            some = [row for row in rows if row["noise_std"] == noise]
            # Marks of seeds lie beside each other, or they would cover one another.
            at = np.array([row["privacy_loss"] * 1.03 ** (row["seed"] - np.mean(seeds)) for row in some])
            times = np.array([row["most_passes"] if (t := row[f"passes_{what}"]) is None else t for row in some])
            missed = np.array([row[f"passes_{what}"] is None for row in some])
            colour = COLOURS[i % len(COLOURS)]
            axes.scatter(at[~missed], times[~missed], s=16, color=colour, alpha=0.7, linewidths=0, zorder=3)
            axes.scatter(at[missed], [1.25 * top] * int(missed.sum()), s=22, marker="^", facecolors="none",
                         edgecolors=colour, zorder=3)  # fmt: skip
            sets = sorted({row["set"] for row in some})
            centres = [next(row["privacy_loss"] for row in some if row["set"] == one) for one in sets]
            medians = [np.median(times[[row["set"] == one for row in some]]) for one in sets]
            axes.plot(centres, medians, color=colour, linewidth=1.0, alpha=0.5)
            axes.set_xscale("log")
            axes.set_yscale("symlog", linthresh=1.0)
            axes.set_ylim(bottom, 1.7 * top)
            axes.set_yticks([one for one in (0, 1, 3, 10, 30, 100, 200, 400, 1000) if bottom <= one <= top])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if max(at) < 50 * min(at) else (1.0,)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
            axes.tick_params(labelsize=8)
            if i == 0:
                axes.set_title(f"noise {noise:g} per step", fontsize=10, color=INK)
            if i == len(YARDSTICKS) - 1:
                axes.set_xlabel("mean privacy loss of the set", fontsize=9)
            if k == 0:
                asks = told_yardstick(what, settings).removeprefix("passes ")
                axes.set_ylabel("passes\n" + fill(asks, 22), fontsize=8.5)
            on_grid(axes)
    title = "Time to unlearn against privacy loss (estimates)\nlines: medians over seeds; triangles: never"
    figure.suptitle(title, fontsize=11, color=INK)
    return figure


def plot_curves(
    rows: Sequence[dict[str, Any]], settings: Settings, *, name: Callable[[dict[str, Any]], str], title: str
) -> Figure:
    """Return the metric of each set over unlearning, each beside its own band of retrained models."""
    from matplotlib.ticker import MaxNLocator

    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = new_figure(2.9 * columns, 0.5 + 2.4 * lines)
    first = None
    for k, row in enumerate(rows):
        axes = figure.add_subplot(lines, columns, k + 1, sharey=first)
        first = first or axes
        axes.axhspan(row["band_low"], row["band_high"], color=BAND, alpha=0.6, linewidth=0)
        axes.axhline(row["retrained"], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        curve = row[f"curve_{settings.metric}"]
        axes.plot(row["passes"], curve, color=COLOURS[0], linewidth=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        found = row["passes_share"]
        if found is not None:
            at = curve[row["passes"].index(found)]
            axes.plot([found], [at], marker="o", color=COLOURS[1], markeredgecolor="white", zorder=3)
        axes.set_title(f"{name(row)}: {'never' if found is None else f'pass {found}'}", fontsize=9, color=INK)
        if k % columns == 0:
            axes.set_ylabel(f"{settings.metric} on the set", fontsize=9)
        if k // columns == lines - 1:
            axes.set_xlabel("passes of unlearning", fontsize=9)
        on_grid(axes)
    closed = f"dot: {100 * settings.gap_share:g}% of the gap closed"
    figure.suptitle(f"{title}\ngrey: retrained models; {closed}", fontsize=10.5, color=INK)
    return figure


def plot_comparison(order: Sequence[dict[str, Any]], settings: Settings, *, n_seeds: int) -> Figure:
    """Return the time to unlearn the top records of each measure, a panel per yardstick."""
    figure = new_figure(2.0 + 3.2 * len(YARDSTICKS), 1.6 + 0.5 * len(order))
    for i, what in enumerate(YARDSTICKS):
        axes = figure.add_subplot(1, len(YARDSTICKS), i + 1)
        for k, one in enumerate(order):
            place, found = len(order) - 1 - k, one[what]
            special = one["measure"] == "privacy_loss"
            colour = COLOURS[1] if special else (FAINT if one["measure"] == "random" else COLOURS[0])
            low, high = found["interval"]
            if low is not None:
                axes.plot([max(low, 0.0), high], [place, place], color=colour, linewidth=3, alpha=0.45, zorder=2)
            spread = np.linspace(-0.16, 0.16, len(found["per_seed"])) if n_seeds > 1 else [0.0]
            axes.scatter(found["per_seed"], place + np.asarray(spread), s=14, color=colour, alpha=0.6, linewidths=0)
            axes.plot([found["mean"]], [place], marker="D" if special else "o", markersize=8, color=colour,
                      markeredgecolor="white", zorder=3)  # fmt: skip
            if found["never"]:
                axes.annotate(f"never: {found['never']}", (found["mean"], place), (0, 8), fontsize=7.5, ha="center",
                              textcoords="offset points", color=INK)  # fmt: skip
        labels = [one["label"] for one in order] if i == 0 else [""] * len(order)
        axes.set_yticks(range(len(order))[::-1], labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.set_xlim(left=-0.02 * max(1.0, max(max(one[what]["per_seed"]) for one in order)))
        axes.set_xlabel(fill(told_yardstick(what, settings), 34), fontsize=9)
        on_grid(axes)
    means = "; means and 95% intervals over seeds" if n_seeds > 1 else ""
    title = f"Top {100 * settings.top_share:g}% of each measure (estimates){means}"
    figure.suptitle(title, fontsize=10.5, color=INK)
    return figure


def plot_barriers_over_passes(table: Sequence[dict[str, Any]], where: Mapping[str, str]) -> Figure:
    """Return barriers to retrained models along unlearning, beside those between retrained models."""
    figure = new_figure(8.6, 3.8)
    for k, (place, label) in enumerate(where.items()):
        axes = figure.add_subplot(1, len(where), k + 1)
        for j, one in enumerate(entry for entry in table if entry["where"] == place):
            colour = COLOURS[j]
            passes = [point["passes"] for point in one["along"]]
            means = [point["mean"] for point in one["along"]]
            axes.plot(passes, means, marker="o", color=colour, markeredgecolor="white", label=f"{one['set']} set")
            if one["along"][0]["interval"][0] is not None:
                low, high = zip(*(point["interval"] for point in one["along"]), strict=True)
                axes.fill_between(passes, np.maximum(low, 0.0), high, color=colour, alpha=0.15, linewidth=0)
            between = one["retrained"]
            axes.axhline(between["mean"], color=colour, linewidth=1.2, linestyle=(0, (4, 2)),
                         label="between models retrained without it")  # fmt: skip
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("passes of unlearning")
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
        last = max(row["passes"] for row in some)
        kinds = (
            ("between retrained", FAINT, [r for r in some if r["kind"] == "retrained"]),
            ("before unlearning to retrained", COLOURS[1], [r for r in some if r["passes"] == 0]),
            ("after unlearning to retrained", COLOURS[0], [r for r in some if r["passes"] == last]),
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
