"""A fit changes a model as a whole or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["whole"]

P = ParamSpec("P")
T = TypeVar("T")


def whole(fit: Callable[P, T]) -> Callable[P, T]:
    """Return a method that leaves its object as it was where it raises.

    scikit-learn notes the features of new data before anything else is checked: a model fitted earlier would then read
    its own parameters by the columns of data that were refused.
    """

    @functools.wraps(fit)
    def fitted(*args: P.args, **kwargs: P.kwargs) -> T:
        attributes = vars(args[0])
        before = attributes.copy()
        try:
            return fit(*args, **kwargs)
        except BaseException:
            attributes.clear()
            attributes.update(before)
            raise

    return fitted
