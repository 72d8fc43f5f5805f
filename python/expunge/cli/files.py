"""Where commands read from and write to."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from expunge.certificates import model_digest
from expunge.estimators import LangevinRidge, LangevinRidgeClassifier, ReleasedRidge, ReleasedRidgeClassifier
from expunge.estimators._storage import load_any

__all__ = [
    "load_model",
    "model_digests",
    "overwrite_option",
    "parse_indices",
    "ready",
    "staged",
]

_WORKING = {"LangevinRidge": LangevinRidge, "LangevinRidgeClassifier": LangevinRidgeClassifier}
_RELEASED = {"ReleasedRidge": ReleasedRidge, "ReleasedRidgeClassifier": ReleasedRidgeClassifier}


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


def load_model(path: str, *, released: bool = False) -> Any:
    """Return the model of a file; one that was released only if asked for."""
    return load_any(path, working=_WORKING, released=_RELEASED if released else {})


def model_digests(model: Any) -> list[str]:
    """Return the digest of a model's parameters; two for a released model that may or may not fit an intercept."""
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


def ready(paths: Sequence[str | os.PathLike[str] | None], *, overwrite: bool) -> None:
    """Refuse outputs that cannot be written, before any work is done."""
    places = [Path(path) for path in paths if path is not None]
    for place in places:
        if not place.parent.is_dir():
            raise FileNotFoundError(f"the folder {place.parent} does not exist")
        if place.is_dir():
            raise IsADirectoryError(f"{place} is a folder, needed the name of a file")
        if os.path.lexists(place) and not overwrite:
            raise FileExistsError(f"{place} exists already; pass --overwrite to replace it")
        if not os.access(place.parent, os.W_OK):
            raise PermissionError(f"the folder {place.parent} cannot be written to")
    absolute = [os.path.abspath(place) for place in places]
    if len(set(absolute)) < len(absolute):
        raise ValueError(f"outputs must be different files, got {', '.join(map(str, places))}")


@contextlib.contextmanager
def staged(paths: Sequence[str | None], *, overwrite: bool) -> Iterator[list[Path | None]]:
    """Give temporary names to write to; all take their real names at the end, or none does if anything fails."""
    ready(paths, overwrite=overwrite)
    temporary = [
        None if path is None else Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(8)}.tmp")
        for path in paths
    ]
    try:
        yield temporary
        ready(paths, overwrite=overwrite)
        for path, made in zip(paths, temporary, strict=True):
            if path is not None and made is not None:
                os.replace(made, path)
    finally:
        for made in temporary:
            if made is not None:
                made.unlink(missing_ok=True)
