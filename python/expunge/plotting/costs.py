"""Pictures of what forgetting costs: the noise of a quote, and privacy profiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import number, real_array
from expunge.plotting.style import FAINT, INK, new_figure, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_noise", "plot_profile"]

Array = NDArray[np.float64]

# Okabe and Ito's palette: told apart with every kind of colour vision, and in grey.
_STYLE = {
    "uniform": ("#D55E00", "worst case over all records", "s"),
    "shifted": ("#B07AA1", "each record, by a bound", "D"),
    "exact": ("#0072B2", "each record, exactly", "o"),
}
_DECADES = 3.5  # what is smaller than the largest noise by more than this shares the place of zero


class _QuoteLike(Protocol):
    """Attributes of a quote that `plot_noise` reads."""

    @property
    def method(self) -> str: ...
    @property
    def noise_std(self) -> Array: ...
    @property
    def status(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def target_epsilon(self) -> float: ...
    @property
    def target_delta(self) -> float: ...


class _ProfileLike(Protocol):
    """Method of a `GaussianPair` that `plot_profile` calls."""

    def delta(self, epsilon: Any, direction: str = "both") -> Any: ...


def plot_noise(
    quotes: Sequence[_QuoteLike],
    *,
    accuracy: tuple[ArrayLike, ArrayLike] | None = None,
    accuracy_before: float | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Figure:
    """Return the picture of the noise each record's deletion needs, and of the accuracy that noise leaves.

    Parameters
    ----------
    quotes : sequence of Quote
        At most one per method, for the same target: what `LangevinRidge.quote` returned. Noise 0 has a place of its own
        at the left; records that no noise can hide are counted in the label.
    accuracy : pair of arrays (noise_std, accuracy), optional
        Test accuracy measured after unlearning with that noise, at least two points with increasing ``noise_std``
        >= 0. Adds the lower panel.
    accuracy_before : float, optional
        Test accuracy before the deletion, in [0, 1].
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
        If there is no quote, a method comes twice, the targets differ, or a number is out of range.
    ImportError
        Without matplotlib.
    FileExistsError
        If ``path`` exists and ``overwrite`` is false.

    Notes
    -----
    A method whose quote is an estimate is labelled *estimate*.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> quote = SimpleNamespace(method="exact", noise_std=np.array([0.0, 0.1, 0.2]), status="estimate", unit="record",
    ...                         target_epsilon=1.0, target_delta=1e-5)
    >>> figure = plot_noise([quote])  # doctest: +SKIP
    """
    quotes = list(quotes)
    names = [quote.method for quote in quotes]
    if not quotes:
        raise ValueError("quotes must hold at least one quote, got none")
    if len(set(names)) < len(names) or not set(names) <= set(_STYLE):
        raise ValueError(f"quotes must be of different methods among {', '.join(_STYLE)}, got {', '.join(names)}")
    if len({(quote.target_epsilon, quote.target_delta, quote.unit) for quote in quotes}) > 1:
        raise ValueError("quotes must be for one target (epsilon, delta) and one unit, got several")
    noise = [real_array("noise_std", quote.noise_std, ndim=1, low=0, allow_infinite=True) for quote in quotes]
    if any(values.size == 0 for values in noise):
        raise ValueError("quotes must hold at least one record each, got an empty one")
    curve = None if accuracy is None else _curve(accuracy)
    before = None if accuracy_before is None else number("accuracy_before", accuracy_before, low=0, high=1)
    order = sorted(range(len(quotes)), key=lambda i: list(_STYLE).index(names[i]))
    quotes, noise = [quotes[i] for i in order], [noise[i] for i in order]

    axis = _NoiseAxis(noise)
    n = len(quotes)
    # In inches, so that strips look alike whatever their number.
    title, strips, panel, foot = 0.85, 0.78 * n, 2.0 if curve is not None else 0.0, 0.62
    height = title + strips + panel + foot
    figure = new_figure(9.0, height, constrained=False)
    top = figure.add_axes((0.3, (foot + panel) / height, 0.665, strips / height))
    _title(figure, quotes[0])
    for row, (quote, values) in enumerate(zip(quotes, noise, strict=True)):
        _strip(top, axis, quote, values, base=n - 1 - row)
    _bare(top)
    top.set_ylim(-0.09, n)
    top.set_yticks([])
    axis.apply(top, labelled=curve is None)
    if curve is not None:
        bottom = figure.add_axes((0.3, foot / height, 0.665, (panel - 0.12) / height))
        top.spines["bottom"].set_visible(False)
        _accuracy_panel(bottom, axis, quotes, noise, curve, before)
        axis.apply(bottom, labelled=True)
    written(figure, path, overwrite=overwrite)
    return figure


def plot_profile(
    pair: _ProfileLike,
    epsilon: ArrayLike,
    *,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Figure:
    """Return the picture of a deletion's privacy profile: delta against epsilon, in both directions.

    Parameters
    ----------
    pair : GaussianPair
        What `LangevinRidge.privacy_profile` returned.
    epsilon : array-like of shape (m,)
        Increasing values >= 0, at least two.
    path : path-like, optional
        Also write the picture there, whole or not at all.
    overwrite : bool, default False
        Replace an existing file.

    Returns
    -------
    matplotlib.figure.Figure
        Drawn without a display. Where delta is 0 nothing is drawn.

    Raises
    ------
    ValueError
        If ``epsilon`` is not increasing, negative or not finite.
    ImportError
        Without matplotlib.
    FileExistsError
        If ``path`` exists and ``overwrite`` is false.

    Examples
    --------
    >>> from expunge.accounting import GaussianPair  # doctest: +SKIP
    >>> figure = plot_profile(GaussianPair([0.1], [[0.5]]), [0.0, 1.0, 2.0])  # doctest: +SKIP
    """
    grid = real_array("epsilon", epsilon, ndim=1, low=0)
    if grid.size < 2 or not (np.diff(grid) > 0).all():
        raise ValueError("epsilon must hold at least two increasing values")
    figure = new_figure(7.0, 4.4, constrained=False)
    axes = figure.add_axes((0.13, 0.14, 0.83, 0.66))
    drawn = []
    for direction, colour, style, text in (
        ("pq", "#0072B2", "-", "after the deletion, against never learned"),
        ("qp", "#D55E00", "--", "never learned, against after the deletion"),
    ):
        delta = np.asarray(pair.delta(grid, direction=direction), dtype=np.float64)
        visible = np.where(delta > 0, delta, np.nan)
        drawn.append(visible)
        if np.isfinite(visible).any():
            axes.plot(grid, visible, color=colour, linestyle=style, linewidth=2.2, label=text)
    _bare(axes)
    axes.spines["left"].set_visible(True)
    if np.isfinite(drawn).any():
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "delta is 0 at every epsilon drawn", ha="center", transform=axes.transAxes, color=INK)
    axes.set_xlim(grid[0], grid[-1])
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_xlabel("epsilon", fontsize=11, color=INK)
    axes.set_ylabel("delta", fontsize=11, color=INK)
    figure.text(0.03, 0.955, "Privacy profile of the deletion", fontsize=14, fontweight="bold", color=INK, va="top")
    figure.text(0.03, 0.885, "the claim at each epsilon is the larger delta", fontsize=10.5, color=INK, va="top")
    written(figure, path, overwrite=overwrite)
    return figure


class _NoiseAxis:
    """A logarithmic axis of noise with a place of its own for zero at the left."""

    def __init__(self, noise: Sequence[Array]) -> None:
        every = np.concatenate(noise)
        positive = every[(every > 0) & np.isfinite(every)]
        high = float(np.log10(positive.max())) if positive.size else 0.0
        low = max(float(np.log10(positive.min())), high - _DECADES) if positive.size else -1.0
        self.low, self.high = low - 0.06, max(high, low + 0.5) + 0.12
        self.zero = self.low - 0.3
        small = every[every < 10**self.low]
        self._has_zero = small.size > 0
        self.zero_name = "about 0" if small.any() else "none"
        self._any_positive = positive.size > 0

    def __call__(self, noise: ArrayLike) -> Array:
        values = np.asarray(noise, dtype=np.float64)
        with np.errstate(divide="ignore"):
            logs = np.log10(values)
        return np.where(logs < self.low, self.zero, logs)

    def apply(self, axes: Axes, *, labelled: bool) -> None:
        ticks = [
            (float(np.log10(m * 10.0**k)), f"{m * 10.0**k:g}")
            for k in range(int(np.floor(self.low)), int(np.ceil(self.high)) + 1)
            for m in (1, 3)
            if self._any_positive and self.low <= np.log10(m * 10.0**k) <= self.high
        ]
        if self._has_zero:
            ticks.insert(0, (self.zero, self.zero_name))
        axes.set_xlim(self.zero - 0.12 if self._has_zero else self.low, self.high)
        axes.set_xticks([place for place, _ in ticks] if labelled else [])
        axes.set_xticks([], minor=True)
        axes.tick_params(axis="x", length=4 if labelled else 0, labelsize=10.5, labelcolor=INK, color=FAINT)
        if labelled:
            axes.set_xticklabels([text for _, text in ticks])
            axes.set_xlabel("noise added in each unlearning step (log scale)", fontsize=11, color=INK)


def _curve(accuracy: tuple[ArrayLike, ArrayLike]) -> tuple[Array, Array]:
    at = real_array("accuracy[0]", accuracy[0], ndim=1, low=0)
    values = real_array("accuracy[1]", accuracy[1], ndim=1, low=0, high=1)
    if at.size != values.size or at.size < 2 or not (np.diff(at) > 0).all():
        raise ValueError("accuracy must be two arrays of one length >= 2, the first (noise_std) increasing")
    return at, values


def _strip(axes: Axes, axis: _NoiseAxis, quote: _QuoteLike, values: Array, *, base: float) -> None:
    """Draw one method: how its records spread over the noise, with the median marked."""
    colour, text, marker = _STYLE[quote.method]
    finite = values[np.isfinite(values)]
    places = axis(finite)
    inner = places[places >= axis.low]
    edges = np.linspace(axis.low, axis.high, 90)
    counts = np.histogram(inner, edges)[0]
    n_none = int((places < axis.low).sum())
    tallest = max(int(counts.max(initial=0)), 1)
    width = edges[1] - edges[0]
    if inner.size and (finite == finite[0]).all():  # one noise: its bar stands on its value, not on a bin
        axes.bar(places[0], 0.62, width, bottom=base, color=colour, linewidth=0)
    else:
        axes.bar(edges[:-1], 0.62 * counts / tallest, width, bottom=base, align="edge", color=colour, linewidth=0)
    axes.axhline(base, color="#dddddd", linewidth=0.8, zorder=0)
    if n_none:
        axes.bar(axis.zero, 0.4, 0.1, bottom=base, color=colour, linewidth=0)
        axes.text(
            axis.zero, base + 0.44, _share(n_none, values.size), ha="center", va="bottom", fontsize=9.5, color=colour
        )
    if finite.size > values.size / 2:
        middle = float(np.median(values))
        place = float(axis(middle))
        axes.plot([place, place], [-0.09, base], color=colour, linewidth=1, alpha=0.55, zorder=0)
        axes.plot([place], [base], marker=marker, markersize=7, color=colour, markeredgecolor="white", zorder=3)
        word = "" if quote.method == "uniform" else "median "
        near_edge = place > axis.high - 0.15 * (axis.high - axis.low)
        said = f"{word}{middle:.2g}" if place >= axis.low else axis.zero_name
        axes.text(
            place + (0.02 if near_edge else 0), base + 0.66, said,
            ha="right" if near_edge else "center", va="bottom", fontsize=10.5, color=colour,
        )  # fmt: skip
    if not finite.size:
        axes.text(
            0.5, base + 0.3, "no noise hides any of them", ha="center", va="center", fontsize=10.5, color=colour,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    status = "" if quote.status == "certified" else f" ({quote.status})"
    lost = values.size - finite.size
    note = f"{lost} of {values.size} cannot be hidden" if lost else {
        "uniform": "one noise for everybody", "shifted": "shifted interpolation", "exact": "the exact law",
    }[quote.method]  # fmt: skip
    left = axes.get_yaxis_transform()
    axes.text(-0.025, base + 0.34, text, transform=left, ha="right", fontsize=11.5, color=colour, fontweight="bold")
    axes.text(-0.025, base + 0.07, note + status, transform=left, ha="right", fontsize=9.5, color=INK)


def _accuracy_panel(
    axes: Axes,
    axis: _NoiseAxis,
    quotes: Sequence[_QuoteLike],
    noise: Sequence[Array],
    curve: tuple[Array, Array],
    before: float | None,
) -> None:
    at, values = curve
    places = axis(at)
    keep = places >= axis.low
    axes.plot(places[keep], 100 * values[keep], color=FAINT, linewidth=2, zorder=1)
    if before is not None:
        axes.axhline(100 * before, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        axes.text(
            0.008, 100 * before + 2, f"before the deletion: {100 * before:.0f}%", ha="left", va="bottom", fontsize=9.5,
            color=INK, transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    for quote, needed in zip(quotes, noise, strict=True):
        middle = float(np.median(needed))
        if not np.isfinite(middle):
            continue
        colour, _, marker = _STYLE[quote.method]
        place, value = float(axis(middle)), 100 * float(np.interp(middle, at, values))
        axes.plot([place, place], [value, 125], color=colour, linewidth=1, alpha=0.55, clip_on=False, zorder=0)
        axes.plot([place], [value], marker=marker, markersize=9, color=colour, markeredgecolor="white", zorder=3)
        axes.annotate(
            f"{value:.0f}%", (place, value), xytext=(-9, -5), textcoords="offset points", ha="right", va="top",
            fontsize=13, fontweight="bold", color=colour,
        )  # fmt: skip
    _bare(axes)
    axes.set_ylim(0, 125)
    axes.set_yticks([0, 50, 100], ["0%", "50%", "100%"])
    axes.tick_params(axis="y", length=0, labelsize=10.5, labelcolor=INK)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.text(
        -0.09, 0.5, "test accuracy left\nafter the deletion", transform=axes.transAxes, ha="right", va="center",
        fontsize=11.5, fontweight="bold", color=INK,
    )  # fmt: skip


def _title(figure: Figure, quote: _QuoteLike) -> None:
    height = figure.get_size_inches()[1]
    claim = f"guarantee: epsilon = {quote.target_epsilon:g}, delta = {quote.target_delta:g}"
    what = {"record": "record", "id": "person"}.get(quote.unit, "group of records")
    figure.text(
        0.02, 1 - 0.16 / height, f"How much noise does it take to forget one {what}?", fontsize=15,
        fontweight="bold", color=INK, va="top",
    )  # fmt: skip
    figure.text(
        0.02, 1 - 0.47 / height, f"Bars: how many {quote.unit}s need that noise ({claim}).", fontsize=10.5,
        color=INK, va="top",
    )  # fmt: skip


def _share(part: int, whole: int) -> str:
    """Return a share in percent: 0% only for nothing, 100% only for all."""
    percent = 100 * part / whole
    if 0 < percent < 0.5:
        return "<1%"
    return ">99%" if 99.5 <= percent < 100 else f"{percent:.0f}%"


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(labelsize=10.5, labelcolor=INK, color=FAINT)
