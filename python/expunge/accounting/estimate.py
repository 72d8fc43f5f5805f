"""Array type of results that no theorem certifies."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate"]


class Estimate(np.ndarray[Any, np.dtype[np.float64]]):
    """A float64 array whose values are *estimates*: useful to rank and to plan with, never to certify.

    An ordinary array otherwise. Numbers computed from it with NumPy keep the label: entries, slices, arithmetic,
    reductions, ``concatenate``, ``where``, ``quantile`` and the like, as arrays of this type (a single number as one of
    no dimensions, with the hash of its float). Results that are not estimated quantities do not carry it: indices
    (``argsort``), comparisons, integers. ``float(x)``, ``x.item()``, ``x.tolist()`` and ``np.asarray(x)`` give plain
    numbers: the code then says that the label is dropped.

    Attributes
    ----------
    status : str
        Always ``"estimate"``.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import Estimate
    >>> loss = Estimate.of(np.array([0.5, 1.0]))
    >>> (2 * loss).status, loss[0].status, np.quantile(loss, 0.9).status
    ('estimate', 'estimate', 'estimate')
    >>> type(loss > 0.7).__name__, type(np.argsort(loss)).__name__
    ('ndarray', 'ndarray')
    """

    status: ClassVar[str] = "estimate"

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Estimate:
        """Return a view of ``values`` that carries the label."""
        return np.asarray(values, dtype=np.float64).view(cls)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        """Compute on plain arrays, then label results that are numbers."""
        if out is not None:
            kwargs["out"] = tuple(_plain(array) for array in out)
        result = getattr(ufunc, method)(*map(_plain, inputs), **_plain(kwargs))
        if out is None:
            return _labelled(result)
        return out if len(out) > 1 else out[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Do the same for every other function of NumPy."""
        del types
        result = func(*_plain(args), **_plain(kwargs))
        given = kwargs.get("out")
        return given if given is not None else _labelled(result)

    def __getitem__(self, key: Any) -> Any:
        """Return an entry or a slice, labelled."""
        return _labelled(self.view(np.ndarray)[key])

    def __iter__(self) -> Iterator[Any]:
        """Iterate over labelled entries."""
        return (self[i] for i in range(len(self)))

    # Methods that NumPy does not route through the two protocols above.
    def argsort(self, *args: Any, **kwargs: Any) -> Any:
        """Return the indices that sort, without the label."""
        return self.view(np.ndarray).argsort(*args, **kwargs)

    def argpartition(self, *args: Any, **kwargs: Any) -> Any:
        """Return the indices that partition, without the label."""
        return self.view(np.ndarray).argpartition(*args, **kwargs)

    def argmax(self, *args: Any, **kwargs: Any) -> Any:
        """Return the index of the largest, without the label."""
        return self.view(np.ndarray).argmax(*args, **kwargs)

    def argmin(self, *args: Any, **kwargs: Any) -> Any:
        """Return the index of the smallest, without the label."""
        return self.view(np.ndarray).argmin(*args, **kwargs)

    def searchsorted(self, *args: Any, **kwargs: Any) -> Any:
        """Return insertion points, without the label."""
        return self.view(np.ndarray).searchsorted(*_plain(args), **_plain(kwargs))

    def round(self, *args: Any, **kwargs: Any) -> Any:
        """Return rounded values, labelled."""
        return _labelled(self.view(np.ndarray).round(*args, **_plain(kwargs)))

    def __round__(self, ndigits: int | None = None) -> Any:
        """Return what Python's ``round`` gives of a NumPy number: labelled, or an int without ``ndigits``."""
        if self.ndim:
            raise TypeError(f"round takes a single number, got shape {self.shape}: use .round()")
        return round(float(self)) if ndigits is None else self.round(ndigits)

    def is_integer(self) -> bool:
        """Say whether a single number is whole, as NumPy's numbers do."""
        if self.ndim:
            raise TypeError(f"is_integer takes a single number, got shape {self.shape}")
        return float(self).is_integer()

    def __hash__(self) -> int:  # type: ignore[override]
        """Return the hash of a single number, which equals that of its float."""
        if self.ndim:
            raise TypeError(f"an array of estimates has no hash, got shape {self.shape}: use .tobytes() or .tolist()")
        return hash(float(self))

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """Return the values in another dtype, labelled if that holds fractions."""
        return _labelled(self.view(np.ndarray).astype(*args, **kwargs))


def _rebinding(name: str) -> Callable[[Any, Any], Any]:
    """Return an in-place operation that gives a new single number, as for NumPy's: the old one may be a key."""

    def operate(self: Estimate, other: Any) -> Any:
        if self.ndim == 0:
            return getattr(operator, name)(self, other)
        return getattr(np.ndarray, f"__i{name}__")(self, other)

    return operate


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Estimate, f"__i{_name}__", _rebinding(_name))


def _plain(value: Any) -> Any:
    """Return the arguments of a call with plain arrays in the place of labelled ones."""
    if isinstance(value, Estimate):
        return value.view(np.ndarray)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _labelled(result: Any) -> Any:
    """Return the results of a call with the label on what holds fractions."""
    if isinstance(result, np.ndarray) and result.dtype.kind == "f":
        return result.view(Estimate)
    if isinstance(result, np.floating):
        return np.asarray(result).view(Estimate)
    if isinstance(result, (list, tuple)) and type(result) in (list, tuple):
        return type(result)(map(_labelled, result))
    return result
