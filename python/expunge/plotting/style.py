"""Style of all pictures: colours, bare axes, figures without pyplot, and writing them to files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from expunge._errors import how_to_install
from expunge._files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BAND", "COLOURS", "FAINT", "INK", "bare", "new_figure", "written"]

# Okabe and Ito's palette: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT, BAND = "#222222", "#8a8a8a", "#BBBBBB"


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """Return an empty figure of a size in inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"pictures need matplotlib: {how_to_install('plot')}") from None
    # Not pyplot: no display, no registry of figures, nothing of the caller's changed.
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def bare(axes: Axes) -> None:
    """Remove all sides of axes but the bottom and the left, drawn faintly."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(FAINT)
    axes.tick_params(labelsize=9, labelcolor=INK, color=FAINT)


def written(figure: Figure, path: str | os.PathLike[str] | None, *, overwrite: bool) -> Figure:
    """Return the figure, after writing it to a .png, .svg or .pdf file if a path is given."""
    if path is not None:
        ending = Path(path).suffix.lower().lstrip(".")
        if ending not in ("png", "svg", "pdf"):
            raise ValueError(f"path must end in .png, .svg or .pdf, got {str(path)!r}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending)
        write_atomic(path, buffer.getvalue(), overwrite=overwrite)
    return figure
