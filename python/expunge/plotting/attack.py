"""A picture of what somebody learns who sees a model before and after a deletion, against the noise of both."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import number, real_array
from expunge.plotting.style import COLOURS, FAINT, INK, bare, new_figure, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_attack"]

Array = NDArray[np.float64]


def plot_attack(
    noise_std: ArrayLike,
    *,
    cosine: ArrayLike,
    epsilon: ArrayLike,
    chance: ArrayLike,
    delta: float,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Figure:
    """Return two panels over the noise: how well an attack finds the deleted record, and the before/after epsilon.

    Parameters
    ----------
    noise_std : array-like of shape (k,)
        Standard deviations of the noise, > 0 and increasing.
    cosine : array-like of shape (k, m)
        Size of the cosine between the attacked difference and the deleted record, for each of m deletions.
    epsilon : array-like of shape (k, m)
        Before/after epsilon of the same deletions.
    chance : array-like of shape (k,)
        Mean size of the cosine with records that were not deleted.
    delta : float
        The delta that the epsilon is for.
    path : path-like, optional
        Also write the picture there (.png, .svg or .pdf).
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    matplotlib.figure.Figure
        Lines are medians over the deletions; bands hold 80% of them.

    Raises
    ------
    ValueError
        If shapes disagree, noise is not increasing, or a number is out of range.
    FileExistsError
        If ``path`` exists and ``overwrite`` is false.

    Examples
    --------
    >>> figure = plot_attack(
    ...     [1e-4, 1.0], cosine=[[1.0], [0.1]], epsilon=[[900.0], [0.1]], chance=[0.1, 0.1], delta=1e-5
    ... )  # doctest: +SKIP
    """
    noise = real_array("noise_std", noise_std, ndim=1, low=0)
    if noise.size < 2 or not noise[0] > 0 or not (np.diff(noise) > 0).all():
        raise ValueError("noise_std must hold at least two increasing values above 0")
    cosines = real_array("cosine", cosine, ndim=2, low=0, high=1)
    epsilons = real_array("epsilon", epsilon, ndim=2, low=0)
    for name, values in (("cosine", cosines), ("epsilon", epsilons)):
        if len(values) != noise.size or not values.size:
            raise ValueError(f"{name} must have a row for each of {noise.size} noises, got shape {values.shape}")
    level = real_array("chance", chance, ndim=1, low=0, high=1)
    if level.size != noise.size:
        raise ValueError(f"chance must have one value for each of {noise.size} noises, got {level.size}")
    number("delta", delta, low=0, high=1)
    figure = new_figure(7.0, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True)
    _band(top, noise, cosines, colour=COLOURS[1])
    top.plot(noise, level, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
    top.annotate(
        "chance: the same with\nrecords that stay", (noise[0], level[0]), xytext=(6, 6), textcoords="offset points",
        ha="left", va="bottom", fontsize=10, color=INK, bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
    )  # fmt: skip
    top.set_ylim(0, 1.06)
    top.set_ylabel("|cosine| with\nthe deleted record", fontsize=11, color=INK)
    _band(bottom, noise, np.maximum(epsilons, np.finfo(float).tiny), colour=COLOURS[0])
    bottom.set_yscale("log")
    bottom.axhline(1.0, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    bottom.annotate(
        "epsilon = 1", (noise[0], 1.0), xytext=(6, -4), textcoords="offset points", ha="left", va="top", fontsize=10,
        color=INK,
    )  # fmt: skip
    low, high = bottom.get_ylim()
    bottom.set_ylim(min(low, 0.03), high)
    bottom.set_ylabel(f"before/after epsilon\n(delta = {delta:g})", fontsize=11, color=INK)
    bottom.set_xlabel("noise_std of both releases", fontsize=11, color=INK)
    bottom.set_xscale("log")
    bottom.set_xlim(noise[0], noise[-1])
    figure.suptitle(
        "What the models before and after tell about the record between them\n"
        f"line: median of {cosines.shape[1]} deletions, band: 80% of them",
        fontsize=11, color=INK, x=0.01, ha="left",
    )  # fmt: skip
    return written(figure, path, overwrite=overwrite)


def _band(axes: Axes, noise: Array, values: Array, *, colour: str) -> None:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9], axis=1)
    axes.fill_between(noise, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(noise, middle, color=colour, linewidth=2.2, marker="o", markersize=4)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    bare(axes)
    axes.tick_params(color=FAINT)
