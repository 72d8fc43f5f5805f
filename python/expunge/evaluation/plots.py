"""Pictures of unlearning: metrics beside the band of retrained models, curves over steps, and loss barriers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from expunge._validate import real_array
from expunge.evaluation.bands import Band
from expunge.evaluation.barrier import LossBarrier
from expunge.evaluation.metrics import Measured, Report
from expunge.evaluation.times import time_to_unlearn
from expunge.plotting.style import BAND, COLOURS, FAINT, INK, bare, new_figure, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_barriers", "plot_reports", "plot_unlearning"]

_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))


def plot_reports(
    reports: Mapping[str, Report],
    *,
    metrics: Sequence[str] = ("UA", "MIA loss"),
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Figure:
    """Return one panel per metric: each model's value with its interval, beside the band of retrained models.

    Parameters
    ----------
    reports : mapping of str to Report
        By the name of the model or method.
    metrics : sequence of str
        Names of the metrics to show; every report must have them.
    path : path-like, optional
        Also write the picture there (.png, .svg or .pdf).
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, KeyError
        If there is no report, or one lacks a metric.

    Examples
    --------
    >>> from expunge.evaluation import METRICS, Measured, Report, reference_band
    >>> band = reference_band([0.80, 0.84])
    >>> report = Report((Measured(METRICS["UA"], 0.95, (0.9, 0.98), 0.95, 0.82, band),))
    >>> len(plot_reports({"fine-tuned": report}, metrics=["UA"]).axes)
    1
    """
    if not reports or not metrics:
        raise ValueError("reports and metrics must not be empty")
    rows = [[report[name] for report in reports.values()] for name in metrics]
    figure = new_figure(max(6.8, 1.6 + 3.4 * len(metrics)), 1.5 + 0.42 * len(reports))  # as wide as its title
    for k, (name, found) in enumerate(zip(metrics, rows, strict=True)):
        axes = figure.add_subplot(1, len(metrics), k + 1)
        _one_metric(axes, name, found, list(reports) if k == 0 else None)
    figure.suptitle(
        "Each model beside retrained ones (estimates); a diamond is outside their band", fontsize=11, color=INK
    )
    return written(figure, path, overwrite=overwrite)


def _one_metric(axes: Axes, name: str, found: Sequence[Measured], labels: Sequence[str] | None) -> None:
    places = np.arange(len(found))[::-1]
    drawn = False
    for place, one in zip(places, found, strict=True):  # each has its own band: they may come from other models
        if one.band is not None:
            text = f"{one.band.n_models} retrained models: {one.band.low:.3g} to {one.band.high:.3g}"
            axes.fill_betweenx([place - 0.5, place + 0.5], one.band.low, one.band.high, color=BAND, alpha=0.55,
                               linewidth=0, label=None if drawn else text)  # fmt: skip
            drawn = True
    if found[0].reference is not None:
        axes.axvline(found[0].reference, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    for place, one in zip(places, found, strict=True):
        if not np.isfinite(one.value):
            axes.text(0.5, place, "never", ha="center", va="center", transform=axes.get_yaxis_transform())
            continue
        outside = one.in_band is False
        if one.interval is not None:
            axes.plot(one.interval, [place, place], color=COLOURS[1 if outside else 0], linewidth=2.5, alpha=0.6)
        marker, colour = ("D", COLOURS[1]) if outside else ("o", COLOURS[0])
        axes.plot([one.value], [place], marker=marker, markersize=7, color=colour, markeredgecolor="white")
    if not any(np.isfinite(one.value) for one in found):
        axes.set_xticks([])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_yticks(places, labels if labels is not None else [""] * len(found))
    axes.tick_params(axis="y", length=0)
    confidence = found[0].confidence
    interval = "" if confidence is None else f", bars: {100 * confidence:g}% interval"
    axes.set_title(f"{name}{interval}", fontsize=9.5, color=INK)
    if drawn:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8.5)
    bare(axes)
    axes.grid(axis="x", color=FAINT, alpha=0.2)


def plot_unlearning(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    band: Band,
    *,
    metric: str = "UA",
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Figure:
    """Return a metric over unlearning steps beside the band of retrained models, with each time to unlearn.

    Parameters
    ----------
    curves : mapping of str to (steps, values)
        By the name of the method or forget set, as `time_to_unlearn` takes them.
    band : Band
    metric : str
        Its name, for the axis.
    path : path-like, optional
        Also write the picture there (.png, .svg or .pdf).
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from expunge.evaluation import reference_band
    >>> figure = plot_unlearning({"easy": ([0, 1, 2], [1.0, 0.9, 0.82])}, reference_band([0.80, 0.84]))
    >>> figure.axes[0].get_ylabel()
    'UA'
    """
    if not curves:
        raise ValueError("curves must hold at least one curve, got none")
    figure = new_figure(7.2, 4.0)
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    axes.axhspan(band.low, band.high, color=BAND, alpha=0.55, linewidth=0, label=f"retrained: {band.rule}")
    for k, (name, (steps, values)) in enumerate(curves.items()):
        found = time_to_unlearn(steps, values, band, metric=metric)
        colour = COLOURS[k % len(COLOURS)]
        ending = "never reached" if found.step is None else f"from step {found.step}"
        axes.plot(
            np.asarray(steps), real_array("values", values), color=colour, linestyle=_STYLES[k % len(_STYLES)],
            linewidth=1.8, label=f"{name}: {ending}",
        )  # fmt: skip
        if found.step is not None:
            at = float(real_array("values", values)[np.asarray(steps) == found.step][0])
            axes.plot([found.step], [at], marker="o", markersize=8, color=colour, markeredgecolor="white", zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("unlearning step")
    axes.set_ylabel(metric)
    axes.set_title("Time to unlearn: first step inside the band that stays (estimates)", fontsize=10.5, color=INK)
    _legend_below(axes)
    bare(axes)
    axes.grid(color=FAINT, alpha=0.2)
    return written(figure, path, overwrite=overwrite)


def plot_barriers(
    barriers: Mapping[str, LossBarrier],
    *,
    baseline: Sequence[LossBarrier] = (),
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Figure:
    """Return the excess loss along each linear path, beside those between retrained models.

    Parameters
    ----------
    barriers : mapping of str to LossBarrier
        By what is connected.
    baseline : sequence of LossBarrier
        Between pairs of retrained models; drawn in grey.
    path : path-like, optional
        Also write the picture there (.png, .svg or .pdf).
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from expunge.evaluation import barrier_from_losses
    >>> figure = plot_barriers({"unlearned to retrained": barrier_from_losses([0, 0.5, 1], [0.1, 0.4, 0.2])})
    >>> len(figure.axes[0].lines)
    2
    """
    if not barriers:
        raise ValueError("barriers must hold at least one barrier, got none")
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    for k, one in enumerate(baseline):
        label = None
        if k == 0:
            label = f"between retrained models: up to {max(b.barrier for b in baseline):.3g}"
        axes.plot(one.t, one.excess, color=FAINT, linewidth=1.2, alpha=0.8, label=label, zorder=1)
    for k, (name, one) in enumerate(barriers.items()):
        colour = COLOURS[k % len(COLOURS)]
        text = f"{name}{' (matched)' if one.matched else ''}: {one.barrier:.3g}"
        axes.plot(one.t, one.excess, color=colour, linestyle=_STYLES[k % len(_STYLES)], linewidth=2, label=text)
        axes.plot([one.at], [one.barrier], marker="o", markersize=7, color=colour, markeredgecolor="white", zorder=3)
    axes.set_xlabel("t: from the first model (0) to the second (1)")
    axes.set_ylabel("loss above the line between the ends")
    axes.set_title("Loss barriers on the linear path (estimates)", fontsize=10.5, color=INK)
    _legend_below(axes)
    bare(axes)
    axes.grid(color=FAINT, alpha=0.2)
    return written(figure, path, overwrite=overwrite)


def _legend_below(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=8.5)
