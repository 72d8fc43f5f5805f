"""Blocks put together from rows that come in pieces of any length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from expunge._types import AnyArray
from expunge.data.blocks import Block

__all__ = ["Assembly", "Chunk"]

Chunk = tuple[NDArray[np.floating], AnyArray | None, AnyArray | None]


class Assembly:
    """Blocks from chunks of any length; a chunk that is a block is not copied."""

    def __init__(self, first: int, size: int, width: int, dtype: np.dtype[np.floating]) -> None:
        self._at, self._size, self._width, self._dtype = first, size, width, dtype
        self._X: NDArray[np.floating] | None = None
        self._filled = 0
        self._others: list[tuple[AnyArray | None, AnyArray | None]] = []

    def take(self, chunk: Chunk) -> Iterator[Block]:
        """Take further rows, and yield the blocks that are whole then."""
        X, y, ids = chunk
        done = 0
        while done < len(X):
            take = min(self._size - self._filled, len(X) - done)
            part = slice(done, done + take)
            done += take
            others = (None if y is None else y[part], None if ids is None else ids[part])
            if take == self._size:
                yield Block(self._at, X[part], *others)
                self._at += take
                continue
            if self._X is None:
                self._X = np.empty((self._size, self._width), dtype=self._dtype)
            self._X[self._filled : self._filled + take] = X[part]
            self._filled += take
            self._others.append(others)
            if self._filled == self._size:
                yield from self.rest()

    def rest(self) -> Iterator[Block]:
        """Yield the block that is begun, if there is one."""
        if self._X is None:
            return
        y, ids = (_joined(list(parts)) for parts in zip(*self._others, strict=True))
        block = Block(self._at, self._X[: self._filled], y, ids)
        self._at += self._filled
        self._X, self._filled, self._others = None, 0, []
        yield block


def _joined(parts: list[AnyArray | None]) -> AnyArray | None:
    given = [part for part in parts if part is not None]
    if not given:
        return None
    if any(part.dtype == object for part in given):  # NumPy would make floats of integers beyond 64 bits
        given = [part.astype(object) for part in given]
    return given[0] if len(given) == 1 else np.concatenate(given)
