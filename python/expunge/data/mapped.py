"""Tables whose features are scaled or mapped as they are read: blocks of the mapped array, which is never made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge._types import AnyArray
from expunge.data.blocks import Block, Records
from expunge.data.reading import Constants, Reading
from expunge.data.wrapped import WrappedRecords

__all__ = ["MappedRecords"]


class MappedRecords(WrappedRecords):
    """A table of records, its features mapped as a model takes them.

    Parameters
    ----------
    records : Records
        The table.
    reading : Reading
        Constants that features are divided by or scaled with, and the random cosines that take their place.
    constants : Constants, optional
        Constants of the fit, where ``reading`` does not keep them.
    targets : {"labels", "numbers"}, optional
        What targets are read as: whole numbers written with a point as integers, or numbers of any kind as float64.
        As they are by default.

    Raises
    ------
    TypeError, ValueError
        If the reading is of another number of features, or needs constants; while reading, if a value lies outside its
        bounds or a target is no label: named with its place.

    Notes
    -----
    Blocks are those of the mapped array: their rows depend on the number of mapped features. A mapping is a function of
    one row, bit by bit. An instance can be pickled if ``records`` can.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.data import Constants, MappedRecords, Reading, open_records
    >>> reading = Reading(n_features=2, constants=Constants("divide_by", ((4.0,),)))
    >>> records = MappedRecords(open_records(np.ones((3, 2), dtype=np.float32)), reading)
    >>> records.dtype.name, next(records.blocks()).X[0].tolist()
    ('float64', [0.25, 0.25])
    """

    def __init__(
        self,
        records: Records,
        reading: Reading,
        *,
        constants: Constants | None = None,
        targets: str | None = None,
    ) -> None:
        if not isinstance(records, Records):
            raise TypeError(f"records must be a table, as open_records returns it, got {type(records).__name__}")
        if targets is not None:
            _validate.choice("targets", targets, ("labels", "numbers"))
        if records.n_features != reading.n_features:
            raise ValueError(f"records must have {reading.n_features} features, got {records.n_features}")
        super().__init__(records)
        self._reading, self._constants, self._targets = reading, constants, targets
        self._plain = reading.constants is None and reading.cosines is None
        used = reading.used(constants)
        if used is not None:
            used.rows(n_features=reading.n_features)  # refuses those that are not kept

    @property
    def reading(self) -> Reading:
        """Constants and map."""
        return self._reading

    @property
    def constants(self) -> Constants | None:
        """Constants that features are mapped with."""
        return self._reading.used(self._constants)

    def of(self, records: Records) -> MappedRecords:
        """Return another table, mapped as this one."""
        return MappedRecords(records, self._reading, constants=self._constants, targets=self._targets)

    @property
    def n_features(self) -> int:
        """Number of features after the map."""
        return self._reading.width

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the features in all blocks: float64, but for a table that is not mapped."""
        return self._records.dtype if self._plain else np.dtype(np.float64)

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features; None where random cosines have taken their place."""
        return self._records.feature_names if self._reading.cosines is None else None

    def _read(self, numbers: range, threads: int | None) -> Iterator[Block]:
        mine, theirs = self.block_rows, self._records.block_rows  # powers of two: one divides the other
        first, last = numbers.start * mine, min(numbers.stop * mine, self.n_records)
        if first >= last:
            return
        blocks = self._records.blocks(start=first // theirs, stop=-(-last // theirs), threads=threads)
        waiting: list[Block] = []
        for block in blocks:
            for begin in range(0, len(block), mine):
                if first <= block.start + begin < last:
                    waiting.append(self._mapped(block, slice(begin, begin + mine)))
                if sum(map(len, waiting)) == mine:
                    yield _joined(waiting)
                    waiting = []
        if waiting:
            yield _joined(waiting)

    def _mapped(self, block: Block, part: slice) -> Block:
        whole = part.start == 0 and part.stop >= len(block)
        X = block.X if whole else block.X[part]
        y, ids = (None if one is None else one if whole else one[part] for one in (block.y, block.ids))
        start = block.start + part.start
        if not self._plain:
            try:
                X = self._reading.mapped(X, constants=self._constants)
            except ValueError:
                self._refuse_outside(X, start)
                raise
        return Block(start, X, None if y is None else self._answers(y, start), ids)

    def _answers(self, y: AnyArray, start: int) -> AnyArray:
        if self._targets == "numbers":
            if y.dtype.kind == "U":
                raise ValueError(f"{self.place(start)} must hold a number as target, got {y.tolist()[0]!r}")
            return np.asarray(y, dtype=np.float64)
        if self._targets is None or y.dtype.kind != "f":
            return y
        odd = np.flatnonzero(~((y == np.floor(y)) & (np.abs(y) <= 2**53)).reshape(len(y), -1).all(axis=1))
        if y.ndim != 1 or len(odd):
            row = int(odd[0]) if len(odd) else 0
            raise ValueError(
                f"{self.place(start + row)} must hold a class, a whole number (as a float up to 2^53) or text, got "
                f"{y[row]}"
            )
        return y.astype(np.int64)

    def _refuse_outside(self, X: NDArray[np.floating], start: int) -> None:
        """Refuse the first value outside its bounds by its place; return where there is none."""
        constants = self.constants
        if constants is None or constants.kind != "bounds" or self._reading.clip:
            return
        low, high = constants.rows(n_features=X.shape[1]).T
        outside = np.argwhere((low > X) | (high < X))
        if len(outside):
            i, j = map(int, outside[0])
            names = self._records.feature_names
            raise ValueError(
                f"{self.place(start + i)} must lie within its bounds, got {X[i, j]:g}, outside [{low[j]:g}, "
                f"{high[j]:g}] of feature {j if names is None else names[j]}: widen the bounds, or clip "
                "(clip=True, --clip)"
            )


def _joined(blocks: list[Block]) -> Block:
    """Return neighbours as one block."""
    if len(blocks) == 1:
        return blocks[0]
    X = np.concatenate([one.X for one in blocks])
    y, ids = (_column([getattr(one, name) for one in blocks]) for name in ("y", "ids"))
    return replace(blocks[0], X=X, y=y, ids=ids)


def _column(parts: list[AnyArray | None]) -> AnyArray | None:
    given = [part for part in parts if part is not None]
    if not given:
        return None
    if any(part.dtype == object for part in given):  # NumPy would make floats of integers beyond 64 bits
        given = [part.astype(object) for part in given]
    return np.concatenate(given)
