"""Labels as Python objects: what digests and class lists are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate

__all__ = ["labels"]


def labels(y: ArrayLike) -> tuple[Any, NDArray[np.float64] | None]:
    """Return the values of ``y`` as Python objects and, unless they are strings or huge integers, as float64.

    Integers beyond 2**53 in size come without the array, because float64 would merge neighbours. A single column counts
    as one dimension.

    Raises
    ------
    TypeError
        If ``y`` holds neither real numbers nor strings.
    ValueError
        If a number in ``y`` is not finite.

    Examples
    --------
    >>> labels(["cat", "dog"])
    (['cat', 'dog'], None)
    """
    array = _validate.unmasked("y", y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "U" or (array.dtype.kind == "O" and all(isinstance(value, str) for value in array.ravel())):
        return array.tolist(), None
    if array.dtype.kind == "O":
        raise TypeError("y must hold real numbers or strings, got an object array with something else in it")
    values = _validate.real_array("y", array)
    if array.dtype.kind in "iu" and array.size and not (-(2**53) <= int(array.min()) <= int(array.max()) <= 2**53):
        return array.tolist(), None
    return values.tolist() if array.dtype.kind == "f" else array.tolist(), values
