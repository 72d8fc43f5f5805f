"""Picture of what deletions leave for whoever saw the model before and after, record by record."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._errors import counted
from expunge._validate import number, real_array
from expunge.plotting.style import BAND, COLOURS, FAINT, INK, bare, new_figure, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_deletions"]

Array = NDArray[np.float64]

_LEAST = 1e-3  # epsilons below this share a bar: nobody tells such models apart


def plot_deletions(
    epsilon: ArrayLike,
    *,
    noise_std: float,
    marked: float | None = None,
    name: str = "record",
    choices: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Figure:
    """Return the picture of the before/after epsilon of every record, and of what other noise would have meant.

    Parameters
    ----------
    epsilon : array-like of shape (n,)
        Before/after epsilon of each record's deletion, >= 0; infinite ones are counted in the title.
    noise_std : float
        Noise of the releases, > 0.
    marked : float, optional
        Measured before/after epsilon of the record that was deleted, which is pointed out.
    name : str, default "record"
        Word for a record.
    choices : tuple of three arrays (noise_std, share, accuracy), optional
        For increasing noise > 0, at least two: the share of records whose epsilon is at most 1, and the test accuracy,
        both in [0, 1]. Adds the right panel.
    path : path-like, optional
        Also write the picture there (``.png``, ``.svg`` or ``.pdf``), whole or not at all.
    overwrite : bool, default False
        Replace an existing file.

    Returns
    -------
    matplotlib.figure.Figure
        Drawn without a display.

    Raises
    ------
    ValueError
        If there is no epsilon, or a number is out of range.
    ImportError
        Without matplotlib.
    FileExistsError
        If ``path`` exists and ``overwrite`` is false.

    Examples
    --------
    >>> figure = plot_deletions([0.1, 0.5, 2.0], noise_std=0.1)  # doctest: +SKIP
    """
    values = real_array("epsilon", epsilon, ndim=1, low=0, allow_infinite=True)
    if not values.size:
        raise ValueError("epsilon must hold at least one record's, got none")
    noise = number("noise_std", noise_std, low=0.0, open_low=True)
    own = None if marked is None else number("marked", marked, low=0.0, allow_infinite=True)
    curves = None if choices is None else _choices(choices)
    figure = new_figure(10.5 if curves is not None else 6.6, 4.3, constrained=False)
    width = 0.4 if curves is not None else 0.86
    left = figure.add_axes((0.06 if curves is not None else 0.1, 0.16, width, 0.56))
    _spread(left, values, own, name)
    if curves is not None:
        _trade(figure.add_axes((0.56, 0.16, 0.41, 0.56)), curves, noise, name)
    title = "What is left for whoever saw the model before and after?"
    figure.text(0.03, 0.955, title, fontsize=14, fontweight="bold", color=INK, va="top")
    lost = int((~np.isfinite(values)).sum())
    more = f"; {counted(lost, name)} beyond any number" if lost else ""
    said = f"Everybody else is covered by the certificate. Bars: {name}s with that epsilon, at noise {noise:g}{more}."
    figure.text(0.03, 0.875, said, fontsize=10.5, color=INK, va="top")
    written(figure, path, overwrite=overwrite)
    return figure


def _choices(choices: tuple[ArrayLike, ArrayLike, ArrayLike]) -> tuple[Array, Array, Array]:
    noise = real_array("choices[0]", choices[0], ndim=1, low=0)
    share, accuracy = (real_array(f"choices[{i}]", choices[i], ndim=1, low=0, high=1) for i in (1, 2))
    if not len(noise) == len(share) == len(accuracy) >= 2 or not (np.diff(noise) > 0).all() or not noise[0] > 0:
        raise ValueError(
            "choices must be three arrays of one length >= 2, the first (noise_std) increasing from above 0"
        )
    return noise, share, accuracy


def _spread(axes: Axes, values: Array, own: float | None, name: str) -> None:
    """Draw how many records have which epsilon."""
    finite = np.log10(np.maximum(values[np.isfinite(values)], _LEAST))
    low = min(float(finite.min(initial=0.0)), -1.0)
    high = max(float(finite.max(initial=0.0)), 0.5)
    step = (high - low) / 44  # 1 is an edge: nobody is on both sides
    axes.hist(finite[finite <= 0], [-step * i for i in range(int(-low / step) + 2, -1, -1)], color=COLOURS[0])
    axes.hist(finite[finite > 0], [step * i for i in range(int(high / step) + 2)], color=COLOURS[1])
    bare(axes)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    top = axes.get_ylim()[1] * 1.28
    axes.set_ylim(0, top)
    axes.axvline(0.0, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    share = float((values <= 1.0).mean())
    axes.text(
        -0.03, top, f"{share:.0%} at most 1", ha="right", va="top", fontsize=10, color=COLOURS[0], fontweight="bold"
    )
    axes.text(
        0.03, top, f"{1 - share:.0%} above", ha="left", va="top", fontsize=10, color=COLOURS[1], fontweight="bold"
    )
    if own is not None and np.isfinite(own):
        place = float(np.log10(max(own, _LEAST)))
        axes.annotate(
            f"the one deleted: {own:.2g}", (place, 0), (place, 0.8 * top), ha="center", fontsize=10, color=INK,
            arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    ticks = [tick for tick in range(-3, 9) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{10.0**tick:g}" for tick in ticks])
    axes.set_xlabel(f"before/after epsilon of each {name} (log scale)", fontsize=10.5, color=INK)


def _trade(axes: Axes, curves: tuple[Array, Array, Array], noise: float, name: str) -> None:
    """Draw accuracy and the share of records with a small epsilon against the noise."""
    at, share, accuracy = curves
    axes.plot(at, 100 * accuracy, color=COLOURS[2], linewidth=2.2)
    axes.plot(at, 100 * share, color=COLOURS[0], linewidth=2.2)
    axes.set_xscale("log")
    axes.set_ylim(0, 108)
    axes.set_yticks([0, 50, 100], ["0%", "50%", "100%"])
    axes.axvline(noise, color=BAND, linewidth=1.2, zorder=0)
    axes.text(noise, 108, f" noise {noise:g}", fontsize=9.5, color=INK, va="top")
    bold: dict[str, Any] = {"fontsize": 10, "fontweight": "bold"}
    axes.text(at[0], 100 * accuracy[0] + 3, "test accuracy", color=COLOURS[2], va="bottom", **bold)
    low = np.flatnonzero(share >= 0.2)
    place = int(low[0]) if low.size else len(at) // 2  # beside the curve where it is low and steep
    axes.annotate(
        f"{name}s whose before/after\nepsilon is at most 1", (at[place], 100 * share[place]), xytext=(12, -12),
        textcoords="offset points", color=COLOURS[0], va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, **bold,
    )  # fmt: skip
    bare(axes)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("noise of every released parameter (log scale)", fontsize=10.5, color=INK)
