"""Records in memory as blocks: NumPy arrays as they lie, and frames of pandas, polars and Arrow a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._types import AnyArray
from expunge.data.blocks import Block, Records, refuse_unfit
from expunge.data.identifiers import exact_ids
from expunge.data.numbers import checked_targets

__all__ = ["ArrayRecords", "Frame", "exact_float"]


@runtime_checkable
class Frame(Protocol):
    """A table with named columns: a DataFrame of pandas or polars, or a table of Arrow."""

    @property
    def columns(self) -> object:
        """Columns or their names."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""


def exact_float(dtype: np.dtype[np.generic]) -> np.dtype[np.floating]:
    """Return float32 where it holds every number of a type, else float64."""
    small = dtype.itemsize <= {"f": 4, "i": 2, "u": 2, "b": 1}.get(dtype.kind, 0)
    return np.dtype(np.float32 if small else np.float64)


class ArrayRecords(Records):
    """Records in memory.

    Parameters
    ----------
    X : array-like or frame of shape (n, n_features)
        Features. Arrays of float32 or float64 in C order are not copied; others are converted a block at a time.
    y : array-like of shape (n,) or (n, n_outputs), optional
        Labels or targets.
    ids : array-like of shape (n,), optional
        Ids, whole numbers or text.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or length, a target or id is missing, or a frame's index names its rows or
        is not that of ``y``.

    Examples
    --------
    >>> import numpy as np
    >>> records = ArrayRecords(np.eye(3), [0, 1, 0], ids=["a", "b", "c"])
    >>> block = next(records.blocks())
    >>> block.X.shape, block.y.tolist(), block.ids.tolist()
    ((3, 3), [0, 1, 0], ['a', 'b', 'c'])
    """

    def __init__(self, X: ArrayLike | Frame, y: ArrayLike | None = None, ids: ArrayLike | None = None) -> None:
        index = _named_rows(X)
        if index is not None and ids is None:
            raise ValueError(
                "X has an index that names its rows: pass ids=X.index.to_numpy(), or X.reset_index(drop=True) to "
                "number them"
            )
        other = getattr(y, "index", None) if hasattr(y, "iloc") else None
        if other is not None and hasattr(X, "iloc") and not other.equals(getattr(X, "index", None)):
            raise ValueError("y must have the index of X: pass y.loc[X.index], or y.to_numpy() if the orders agree")
        self._features = _features(X)
        n = len(self._features)
        if n == 0 or self._features.width == 0:
            raise ValueError(f"X must hold at least one record of one feature, got shape {(n, self._features.width)}")
        self._y = None if y is None else _targets(y)
        self._ids = None if ids is None else exact_ids(_listed("ids", ids))
        for name, given in (("y", self._y), ("ids", self._ids)):
            if given is not None and len(given) != n:
                raise ValueError(f"{name} must have one entry for each of {n} records, got {len(given)}")

    @property
    def n_records(self) -> int:
        """Number of records."""
        return len(self._features)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._features.width

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the features in all blocks."""
        return self._features.dtype

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of a frame's columns, if all are text."""
        return self._features.names

    @property
    def has_targets(self) -> bool:
        """Whether there are labels or targets."""
        return self._y is not None

    @property
    def has_ids(self) -> bool:
        """Whether there are ids."""
        return self._ids is not None

    def place(self, index: int) -> str:
        """Return the number of a record as text."""
        return f"row {index}"

    def _read(self, numbers: range, threads: int | None) -> Iterator[Block]:
        size = self.block_rows
        for number in numbers:
            part = slice(number * size, min((number + 1) * size, self.n_records))
            X = self._features.rows(part.start, part.stop)
            block = Block(part.start, X, _part(self._y, part), _part(self._ids, part))
            refuse_unfit(self, block)
            yield block


def _part(values: AnyArray | None, part: slice) -> AnyArray | None:
    return None if values is None else values[part]


def _named_rows(X: object) -> object:
    """Return the index of a pandas table unless it only counts rows."""
    index = getattr(X, "index", None) if hasattr(X, "iloc") else None
    if index is None or (getattr(index, "start", None) == 0 and getattr(index, "step", None) == 1):
        return None
    if index.dtype.kind in "iu" and np.array_equal(index.to_numpy(), np.arange(len(index))):
        return None
    return index


class _Features(Protocol):
    width: int
    dtype: np.dtype[np.floating]
    names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> NDArray[np.floating]: ...


def _features(X: object) -> _Features:
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        return _Pandas(X)
    if hasattr(X, "to_arrow") and hasattr(X, "columns"):  # polars
        X = X.to_arrow()
    if hasattr(X, "schema") and hasattr(X, "to_batches"):
        from expunge.data.arrow import ArrowFeatures

        return ArrowFeatures(X)
    return _Array(_validate.unmasked("X", X))


class _Array:
    def __init__(self, values: NDArray[np.generic]) -> None:
        if values.ndim != 2:
            raise ValueError(f"X must have 2 dimensions, got shape {values.shape}")
        if values.dtype.kind not in "fiub":
            raise TypeError(f"X must hold real numbers, got dtype {values.dtype}")
        self._values, self.width = values, values.shape[1]
        self.dtype = exact_float(values.dtype)
        self.names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._values)

    def rows(self, start: int, stop: int) -> NDArray[np.floating]:
        part = self._values[start:stop].view()
        part.flags.writeable = False
        with np.errstate(over="ignore"):  # what does not fit is infinite, and refused
            return np.require(part, dtype=self.dtype.newbyteorder("="), requirements=["C", "A"])


class _Pandas:
    def __init__(self, frame: object) -> None:
        self._frame = frame
        names = list(frame.columns)  # type: ignore[attr-defined]
        kinds = [getattr(one, "numpy_dtype", one) for one in frame.dtypes]  # type: ignore[attr-defined]
        for name, kind in zip(names, kinds, strict=True):
            if getattr(kind, "kind", "O") not in "fiub":
                raise TypeError(
                    f"X must hold real numbers, got column {name!r} of {kind}: drop it, or name it as target"
                )
        self.width = len(names)
        wide = any(exact_float(kind) == np.float64 for kind in kinds)
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64 if wide else np.float32)
        self.names = tuple(names) if all(isinstance(name, str) for name in names) else None

    def __len__(self) -> int:
        return len(self._frame)  # type: ignore[arg-type]

    def rows(self, start: int, stop: int) -> NDArray[np.floating]:
        part = self._frame.iloc[start:stop]  # type: ignore[attr-defined]
        return np.ascontiguousarray(part.to_numpy(dtype=self.dtype, na_value=np.nan))


def _listed(name: str, values: object) -> Any:
    """Return a column of any library as an array, or as Python's objects where it holds text or large integers."""
    _validate.refuse_masks(name, values)
    if isinstance(values, np.ndarray):
        return values
    for method in ("to_pylist", "to_list", "tolist"):  # of Arrow, polars and pandas
        if hasattr(values, method):
            return list(getattr(values, method)())
    return list(values)  # type: ignore[call-overload]


def _targets(y: object) -> AnyArray:
    """Return labels or targets, not copied where they are of the right type already."""
    plain = not isinstance(y, np.ndarray) and (hasattr(y, "to_pylist") or hasattr(y, "to_numpy"))
    found = _validate.unmasked("y", y.to_numpy() if plain else y)  # type: ignore[attr-defined]
    if found.dtype.kind == "O" or (found.dtype.kind not in "fiubU"):
        values = found.tolist()
        if not all(isinstance(one, str) for one in values):
            raise TypeError(f"y must hold numbers, or text and nothing else, got dtype {found.dtype}")
        found = np.array(values, dtype=np.str_)
    if found.ndim not in (1, 2):
        raise ValueError(f"y must have 1 or 2 dimensions, got shape {found.shape}")
    right = found.dtype in (np.dtype(np.float64), np.dtype(np.int64)) and found.flags.c_contiguous
    if right and not (found.ndim == 2 and found.shape[1] == 1) and bool(np.isfinite(found).all()):
        return found
    return checked_targets(found, "y")
