"""Rows of results as Parquet, and statistics over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr, t

from expunge._files import write_atomic
from expunge.data.writing import parquet_bytes

__all__ = ["finite", "mean_interval", "rank_correlation", "spread_words", "write_parquet"]


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows, whole or not at all; a column that a row lacks is null there."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    written = parquet_bytes(columns, metadata={"status": "estimate"}, what="a table of results")
    write_atomic(path, written, overwrite=True)


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Return the mean and its 95% interval by Student's t; infinitely wide for a single value."""
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if found.size < 2:
        return mean, -math.inf, math.inf
    half = float(t.ppf(0.975, found.size - 1) * found.std(ddof=1) / math.sqrt(found.size))
    return mean, mean - half, mean + half


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation, NaN where a side is constant."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.size < 3 or (x == x[0]).all() or (y == y[0]).all():
        return math.nan
    return float(spearmanr(x, y).statistic)


def finite(value: float) -> float | None:
    """Return the value, None where JSON has none."""
    return float(value) if math.isfinite(value) else None


def spread_words(losses: ArrayLike) -> str | None:
    """Return in words that a distribution of privacy losses is flat, or None."""
    low, high = np.quantile(np.asarray(losses, dtype=np.float64), [0.05, 0.95])
    if low > 0.0 and high < 2.0 * low:
        return (
            f"The privacy losses are flat: 95% of the records have at most {high:.3g}, 95% at least {low:.3g}. They "
            "hardly tell records apart, so nothing can be predicted from them."
        )
    return None
