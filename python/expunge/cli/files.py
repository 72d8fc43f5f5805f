"""Where commands read from and write to."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

__all__ = [
    "load_model",
    "model_digests",
    "overwrite_option",
    "parse_indices",
]

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


def load_model(path: str, *, released: bool = False) -> Any:
    """Return the model of a file; one that was released only if asked for."""
    from expunge.estimators import LangevinRidge, LangevinRidgeClassifier, ReleasedRidge, ReleasedRidgeClassifier
    from expunge.estimators._storage import load_any

    working: dict[str, Any] = {one.__name__: one for one in (LangevinRidge, LangevinRidgeClassifier)}
    public: dict[str, Any] = {one.__name__: one for one in (ReleasedRidge, ReleasedRidgeClassifier)}
    return load_any(path, working=working, released=public if released else {})


def model_digests(model: Any) -> list[str]:
    """Return the digest of a model's parameters; two for a released model that may or may not fit an intercept."""
    from expunge.certificates import model_digest

    rows = np.atleast_2d(model.coef_).T
    intercept = np.atleast_1d(model.intercept_)[np.newaxis, :]
    fits_intercept = getattr(model, "fit_intercept", None)
    layouts = [] if fits_intercept is False else [np.vstack([rows, intercept])]
    if not fits_intercept and not intercept.any():
        layouts.append(rows)
    return [model_digest(layout) for layout in layouts]


def parse_indices(text: str | None) -> list[int] | None:
    """Return the rows named by ``3,7,10-12``."""
    if text is None:
        return None
    rows: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"indices must look like 3,7,10-12, got {text!r}")
        low, high = int(first), int(last or first)
        if high < low or high - low >= 10**8:
            raise ValueError(f"indices must look like 3,7,10-12, got {text!r}")
        rows.extend(range(low, high + 1))
    return rows
