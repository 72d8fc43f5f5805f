"""The list of classes of a classifier: given beforehand, or taken from the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import refuse_masks

__all__ = ["class_list"]


def class_list(y: NDArray[Any], given: ArrayLike | None) -> tuple[NDArray[Any], str]:
    """Return the classes, sorted, and where they come from."""
    if given is None:
        classes: NDArray[Any] = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least 2 classes, got one class: {classes.tolist()[0]!r}")
        return classes, "data"
    refuse_masks("classes", given)
    values = list(given) if not isinstance(given, np.ndarray) else given.tolist()  # type: ignore[arg-type]
    texts = {isinstance(value, str) for value in values}
    if len(texts) > 1:
        raise TypeError("classes must be all strings or all numbers, got both")
    classes = np.unique(np.asarray(given))
    if classes.ndim != 1 or len(classes) != len(values) or len(classes) < 2:
        raise ValueError(f"classes must be at least 2 distinct labels, got {given!r}")
    if texts != {y.dtype.kind == "U" or (y.dtype.kind == "O" and all(isinstance(label, str) for label in y))}:
        raise ValueError(f"y must hold the labels given as classes, got labels of another kind: {y.tolist()[0]!r}")
    foreign = ~np.isin(y, classes)
    if foreign.any():
        raise ValueError(
            f"y must hold only the classes given, got {y[foreign].tolist()[0]!r} at index {np.argmax(foreign)}"
        )
    return classes.astype(y.dtype if y.dtype.kind == "O" else classes.dtype), "given"
