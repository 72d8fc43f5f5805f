"""Pictures of privacy losses: how they spread, and how far the usual proxies agree with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from expunge._validate import real_array
from expunge.grad_norms.proxies import PROXY_TITLES
from expunge.plotting.style import COLOURS, FAINT, INK, new_figure, written

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["plot_loss_against_proxies", "plot_loss_distribution"]


def _label_few(axis: Axis, ratio: float) -> None:
    """Label powers of ten on a logarithmic axis, and twos and fives if it spans few of them: more would overlap."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axis.set_minor_formatter(NullFormatter())
    if ratio < 200.0:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FormatStrFormatter("%g"))


def _losses(value: ArrayLike) -> NDArray[np.float64]:
    return real_array("privacy_loss", value, ndim=1, low=0.0, allow_infinite=True)


def plot_loss_distribution(
    privacy_loss: ArrayLike, *, order: float | None = None, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Return the histogram of privacy losses on a logarithmic axis, with median and 99th percentile of those drawn.

    Parameters
    ----------
    privacy_loss : array_like of float, shape (n,)
        Losses >= 0; zeros and infinite ones are counted in the title, not drawn. Some must be positive and finite.
    order : float, optional
        Their Renyi order, for the label.
    path : path-like, optional
        Also write the picture there (.png, .svg or .pdf), over what is there.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a loss is NaN or negative, or none is positive and finite.

    Examples
    --------
    >>> import numpy as np
    >>> figure = plot_loss_distribution(np.geomspace(1e-3, 1.0, 100), order=2.0)
    >>> len(figure.axes)
    1
    """
    losses = _losses(privacy_loss)
    drawn = losses[(losses > 0.0) & np.isfinite(losses)]
    if drawn.size == 0:
        raise ValueError(f"privacy_loss must hold a positive finite value, got {losses.size} without")
    figure = new_figure(7.0, 3.8)
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    low, high = drawn.min(), drawn.max()
    edges = np.geomspace(low * 0.98, high * 1.02, min(80, max(10, drawn.size // 20)) + 1)
    axes.hist(drawn, bins=list(edges), color=COLOURS[0], alpha=0.85)
    axes.set_xscale("log")
    left_out = losses.size - drawn.size
    of_these = " of those drawn" if left_out else ""
    for share, style in ((50, "-"), (99, "--")):
        value = float(np.percentile(drawn, share))
        text = f"{share}th percentile{of_these}: {value:.3g}"
        axes.axvline(value, color=INK, linestyle=style, linewidth=1.2, label=text)
    axes.legend(edgecolor="none", framealpha=0.9)  # a percentile may pass behind it
    axes.set_xlabel("privacy loss" + ("" if order is None else f" at order {order:g}") + " (estimate)")
    axes.set_ylabel("records")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(
        f"{losses.size:,} records" + (f", {left_out:,} of them 0 or infinite (not drawn)" if left_out else "")
    )
    axes.spines[["top", "right"]].set_visible(False)
    return written(figure, path, overwrite=True)


def plot_loss_against_proxies(
    privacy_loss: ArrayLike,
    proxies: Mapping[str, ArrayLike],
    *,
    order: float | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Return one panel per proxy: it against the privacy loss, with Spearman's rank correlation over all records.

    Parameters
    ----------
    privacy_loss : array_like of float, shape (n,)
        Losses >= 0.
    proxies : mapping of str to array_like of float, shape (n,)
        By column name, such as ``average_grad_norm`` or ``el2n``.
    order : float, optional
        Renyi order of the losses, for the label.
    path : path-like, optional
        Also write the picture there (.png, .svg or .pdf), over what is there.

    Returns
    -------
    matplotlib.figure.Figure
        Above 20,000 records the points are an even sample; correlations use all. The title counts points that have no
        place: infinite ones, and zeros where the axis is logarithmic.

    Raises
    ------
    ValueError
        If an array has another length or NaN, or there is no record or no proxy.

    Examples
    --------
    >>> import numpy as np
    >>> losses = np.geomspace(1e-3, 1.0, 100)
    >>> figure = plot_loss_against_proxies(losses, {"el2n": np.sqrt(losses)})
    >>> figure.axes[0].get_title()
    'EL2N: rank correlation 1.00'
    """
    losses = _losses(privacy_loss)
    if losses.size == 0:
        raise ValueError("privacy_loss must hold at least one loss, got none")
    if not proxies:
        raise ValueError("proxies must hold at least one proxy, got none")
    columns = min(3, len(proxies))
    rows = -(-len(proxies) // columns)
    figure = new_figure(3.6 * columns, 3.2 * rows)
    from matplotlib.ticker import NullLocator

    some = np.linspace(0, losses.size - 1, min(losses.size, 20_000)).astype(np.int64)
    for place, (name, given) in enumerate(proxies.items()):
        values = real_array(name, given, ndim=1, allow_infinite=True)
        if values.size != losses.size:
            raise ValueError(f"{name} must hold one value per loss ({losses.size}), got {values.size}")
        constant = values.size < 2 or (values == values[0]).all() or (losses == losses[0]).all()
        text = "undefined" if constant else f"{spearmanr(values, losses).statistic:.2f}"
        axes = figure.add_subplot(rows, columns, place + 1)
        x, y = values[some], losses[some]
        axes.scatter(x, y, s=5 if some.size < 3000 else 2, color=COLOURS[0], alpha=0.35, linewidths=0, rasterized=True)
        if (y > 0).any():
            axes.set_yscale("log")
        log_y = axes.get_yscale() == "log"
        left_out = int((~(np.isfinite(x) & np.isfinite(y)) | ((y <= 0) & log_y)).sum())
        if name != "c_proxy" and (x > 0).all() and np.isfinite(x).all() and x.max() > 30 * x.min():
            axes.set_xscale("log")
            _label_few(axes.xaxis, x.max() / x.min())
        if left_out == x.size:
            axes.text(0.5, 0.5, "no record has a place here", ha="center", transform=axes.transAxes)
            for axis in (axes.xaxis, axes.yaxis):  # a logarithmic axis has minor ticks, too
                axis.set_major_locator(NullLocator())
                axis.set_minor_locator(NullLocator())
        note = f" ({left_out:,} not drawn)" if left_out else ""
        axes.set_title(f"{PROXY_TITLES.get(name, name)}: rank correlation {text}{note}", fontsize=10, color=INK)
        if place % columns == 0:
            axes.set_ylabel("privacy loss" + ("" if order is None else f" at order {order:g}") + " (estimate)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=FAINT, alpha=0.2)
    return written(figure, path, overwrite=True)
