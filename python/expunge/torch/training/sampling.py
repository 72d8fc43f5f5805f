"""Batches as a function of (seed, step), so that a run resumes at any step without a sampler's state."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batches", "stream_seed"]

_CACHED = 1 << 22  # rows of a window's batches that are kept


def stream_seed(seed: int, purpose: str, step: int) -> int:
    """Return a 63-bit seed of its own for every (seed, purpose, step)."""
    digest = hashlib.blake2b(f"{seed}:{purpose}:{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Batches:
    """The rows of every batch.

    Parameters
    ----------
    n : int
        Number of records.
    batch_size : int
        Expected (Poisson) or usual (shuffled) number of rows.
    sampling : {"poisson", "shuffle"}
        Every record with probability batch_size / n, or each once per pass in a new order.
    seed : int
        Of all batches.
    """

    def __init__(self, n: int, *, batch_size: int, sampling: str, seed: int) -> None:
        self.n, self.batch_size, self.sampling, self.seed = n, batch_size, sampling, seed
        self.per_epoch = -(-n // batch_size)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._window: tuple[int, list[NDArray[np.int64]]] = (0, [])

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Return the rows of the batch at ``step``; in increasing order, perhaps none, for Poisson sampling."""
        start, kept = self._window
        if start <= step < start + len(kept):
            return kept[step - start]
        if self.sampling == "shuffle":
            epoch, place = divmod(step, self.per_epoch)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self._generator("order", epoch).permutation(self.n)
            return self._order[place * self.batch_size : (place + 1) * self.batch_size]
        if self.batch_size == self.n:
            return np.arange(self.n)
        generator = self._generator("batch", step)
        # A Poisson sample is a uniform subset of binomial size.
        size = int(generator.binomial(self.n, self.batch_size / self.n))
        return np.sort(generator.choice(self.n, size, replace=False, shuffle=False))

    def last_visits(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the last step in [start, end) that has each record in its batch, or -1."""
        last = np.full(self.n, -1, dtype=np.int64)
        batches = []
        for step in range(start, end):
            rows = self(step)
            last[rows] = step
            batches.append(rows)
        if sum(map(len, batches)) <= _CACHED:
            self._window = (start, batches)
        return last

    def _generator(self, purpose: str, step: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(stream_seed(self.seed, purpose, step)))
