"""Pictures of the experiment on exact costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge._types import Float64
from expunge.experiments.exact.agreement import LAWS
from expunge.experiments.exact.measures import NAMES
from expunge.experiments.pictures import on_grid
from expunge.plotting.style import COLOURS, FAINT, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_agreement", "plot_head", "plot_records", "plot_sets", "plot_steps"]

_SHOWN = ("privacy_loss", "final_grad_norm", "el2n", "leverage", "shifted_noise", "influence")
_DOTS: dict[str, Any] = {"s": 6, "alpha": 0.3, "linewidths": 0, "rasterized": True}


def _positive(x: Float64, y: Float64) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray((x > 0.0) & (y > 0.0) & np.isfinite(x) & np.isfinite(y))


def _logarithmic(axes: Axes, which: str) -> None:
    """Make axes logarithmic, with few labels: those of all minor ticks would overlap."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    for one in which:
        getattr(axes, f"set_{one}scale")("log")
        axis = getattr(axes, f"{one}axis")
        low, high = axis.get_view_interval()
        decades = np.log10(high / low)
        steps = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 2.5 else (1.0,)
        powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        axis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 7]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def plot_records(noise: Float64, measured: Mapping[str, Float64]) -> Figure:
    """Return the exact noise of every record against each measure, on logarithmic axes."""
    figure = new_figure(9.4, 6.0)
    first = None
    least = 1e-4 * float(noise[np.isfinite(noise)].max(initial=0.0))
    for k, name in enumerate(_SHOWN):
        axes = figure.add_subplot(2, 3, k + 1, sharey=first)
        first = first or axes
        x = measured[name]
        drawn = _positive(x, noise) & (noise >= least)
        axes.scatter(x[drawn], noise[drawn], color=COLOURS[1] if name == "influence" else COLOURS[0], **_DOTS)
        _logarithmic(axes, "xy" if drawn.any() else "")
        axes.set_xlabel(NAMES[name], fontsize=9.5)
        if k % 3 == 0:
            axes.set_ylabel("exact noise per step", fontsize=9.5)
        on_grid(axes)
    left = int(np.count_nonzero(~((noise > 0.0) & (noise >= least))))
    note = f"; {left} of {len(noise)} need (almost) none and are not drawn" if left else ""
    figure.suptitle(f"Exact noise of each deletion against measures{note}", fontsize=11, color=INK)
    return figure


def plot_agreement(table: Sequence[dict[str, Any]], truths: Sequence[str]) -> Figure:
    """Return the rank correlation of each measure with exact costs, with intervals."""
    order = [row for row in table if row["truth"] == truths[0]]
    order.sort(key=lambda row: row["rank_correlation"] if row["rank_correlation"] is not None else -2.0)
    names = [row["measure"] for row in order]
    figure = new_figure(3.6 * len(truths) + 1.6, 1.2 + 0.38 * len(names))
    first = None
    for j, truth in enumerate(truths):
        axes = figure.add_subplot(1, len(truths), j + 1, sharey=first)
        first = first or axes
        for place, name in enumerate(names):
            (row,) = (one for one in table if one["truth"] == truth and one["measure"] == name)
            if row["rank_correlation"] is None:
                continue
            special = name == "influence"
            colour = COLOURS[1] if special else (FAINT if name == "random" else COLOURS[0])
            axes.barh([place], [row["rank_correlation"]], height=0.6, color=colour, alpha=0.75)
            axes.plot(row["interval"], [place, place], color=INK, linewidth=1.6, solid_capstyle="butt")
            end = max(row["rank_correlation"], row["interval"][1], 0.0)
            text = f"{row['rank_correlation']:.3f}"
            axes.text(end + 0.015, place, text, va="center", fontsize=8.5, color=INK)
        axes.set_yticks(range(len(names)), [NAMES[name] for name in names])
        axes.tick_params(axis="y", length=0, labelleft=j == 0)
        axes.set_xlim(right=1.16)
        axes.axvline(0.0, color=FAINT, linewidth=0.8)
        axes.set_title(f"exact {truth}", fontsize=10, color=INK)
        axes.set_xlabel("rank correlation", fontsize=9.5)
        on_grid(axes)
    figure.suptitle(
        "Which measure ranks records as the exact cost does (estimates; 95% intervals over records)",
        fontsize=11,
        color=INK,
    )
    return figure


def plot_steps(
    steps: Float64, measured: Mapping[str, Float64], laws: Sequence[dict[str, Any]], *, noise_std: float
) -> Figure:
    """Return the exact steps of every record against two measures, with the laws fitted to all of them."""
    figure = new_figure(8.8, 4.0)
    first = None
    for k, name in enumerate(("privacy_loss", "influence")):
        axes = figure.add_subplot(1, 2, k + 1, sharey=first)
        first = first or axes
        x = measured[name]
        drawn = (x > 0.0) & np.isfinite(x) & np.isfinite(steps)
        axes.scatter(x[drawn], steps[drawn], color=FAINT, **_DOTS)
        own = [
            row
            for row in laws
            if (row["measure"], row["truth"], row["records"]) == (name, f"steps at noise {noise_std:g}", "all")
        ]
        if own:
            at = np.geomspace(x[drawn].min(), x[drawn].max(), 200)
            for colour, (law, fit) in zip(COLOURS, LAWS.items(), strict=False):
                line = fit(x[drawn], steps[drawn])(at)
                label = f"{law}: held-out R² {own[0][f'r_squared_{law}']:.2f}"
                axes.plot(at, np.where(line <= 1.1 * steps[drawn].max(), line, np.nan), color=colour, label=label)
            axes.legend(frameon=False, fontsize=8.5, loc="upper left")
        _logarithmic(axes, "x" if drawn.any() else "")
        axes.set_xlabel(NAMES[name])
        if k == 0:
            axes.set_ylabel("exact steps")
        on_grid(axes)
    figure.suptitle(f"Exact steps at noise {noise_std:g} per step, and three laws", fontsize=11, color=INK)
    return figure


def plot_sets(rows: Sequence[dict[str, Any]]) -> Figure:
    """Return the exact noise of sets against what is known of their records."""
    figure = new_figure(9.4, 3.6)
    panels = (
        ("influence", "influence of the set"),
        ("sum_noise", "sum of the records' exact noises"),
        ("max_noise", "largest of the records' exact noises"),
    )
    first = None
    for k, (name, label) in enumerate(panels):
        axes = figure.add_subplot(1, 3, k + 1, sharey=first)
        first = first or axes
        for j, size in enumerate(dict.fromkeys(row["size"] for row in rows)):
            for how, marker in (("ranked", "o"), ("random", "^")):
                own = [r for r in rows if r["size"] == size and r["chosen"] == how and r["noise"] and r[name]]
                axes.scatter(
                    [r[name] for r in own], [r["noise"] for r in own], s=22, marker=marker, color=COLOURS[j],
                    alpha=0.7, linewidths=0, label=f"{size} records, {how}",
                )  # fmt: skip
        drawn = [row for row in rows if row["noise"] and row[name]]
        _logarithmic(axes, "xy" if drawn else "")
        if drawn and name != "influence":  # the line on which the set costs what its records do
            least, most = axes.get_ylim()
            axes.plot([least, most], [least, most], color=INK, linewidth=0.8, linestyle=(0, (3, 2)), scalex=False)
            axes.set_ylim(least, most)
        axes.set_xlabel(label, fontsize=9.5)
        if k == 0:
            axes.set_ylabel("exact noise of the set", fontsize=9.5)
        on_grid(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside lower center", ncols=4)
    figure.suptitle("Sets that leave together: from low to high privacy loss, and random ones", fontsize=11, color=INK)
    return figure


def plot_head(rows: Sequence[dict[str, Any]], refits: Sequence[dict[str, Any]]) -> Figure:
    """Return what deletions from the softmax head took against two measures, for the records refitted."""
    from matplotlib.ticker import MaxNLocator

    by_record = {row["record"]: row for row in rows}
    own = [by_record[row["record"]] for row in refits]
    figure = new_figure(8.8, 6.4)
    truths = (("distance", "distance of optima"), ("passes", "passes over the data"))
    measures = (("influence", "influence (one Newton step)"), ("grad_norm", "gradient norm"))
    for j, (truth, label) in enumerate(truths):
        for k, (name, words) in enumerate(measures):
            axes = figure.add_subplot(2, 2, 2 * j + k + 1)
            x, y = np.array([row[name] for row in own]), np.array([row[truth] for row in refits], dtype=np.float64)
            drawn = _positive(x, y)
            axes.scatter(x[drawn], y[drawn], s=14, alpha=0.6, linewidths=0, color=COLOURS[1 - k])
            _logarithmic(axes, ("xy" if truth == "distance" else "x") if drawn.any() else "")
            if drawn.any() and (truth, name) == ("distance", "influence"):
                ends = [x[drawn].min(), x[drawn].max()]
                axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
            if truth == "passes":
                axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel(words, fontsize=9.5)
            if k == 0:
                axes.set_ylabel(label, fontsize=9.5)
            on_grid(axes)
    figure.suptitle(f"Softmax head: {len(refits)} records deleted and refitted", fontsize=11, color=INK)
    return figure
