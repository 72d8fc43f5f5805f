"""Buckets of leaves and the branches over them, changed leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from expunge.certificates.residual import hashing
from expunge.certificates.residual.hashing import LEAF

__all__ = ["Buckets", "split"]

Bytes = NDArray[np.uint8]


class Buckets:
    """Buckets and branches over leaves, without the records."""

    def __init__(self, leaves: Bytes) -> None:
        self.n_records = len(leaves)
        self.depth = hashing.depth_of(self.n_records)
        self.buckets = _buckets(leaves, self.depth)
        first = 1 << self.depth
        self.nodes = [b""] * first + [hashing.bucket_hash(bucket) for bucket in self.buckets]
        for i in range(first - 1, 0, -1):
            self.nodes[i] = hashing.node_hash(self.nodes[2 * i], self.nodes[2 * i + 1])

    def root(self, commitment: bytes) -> str:
        """Return the root as 64 hexadecimal characters."""
        return hashing.root_hash(self.nodes[1], n_records=self.n_records, commitment=commitment).hex()

    def changed(self, *, gone: Iterable[bytes], new: Iterable[bytes], leaves: Bytes) -> Buckets:
        """Return the buckets without some leaves and with others; ``leaves`` are all of them afterwards."""
        if hashing.depth_of(len(leaves)) != self.depth:
            return Buckets(leaves)
        result = Buckets.__new__(Buckets)
        result.n_records, result.depth = len(leaves), self.depth
        result.buckets, result.nodes = self.buckets.copy(), self.nodes.copy()
        changes: dict[int, tuple[list[bytes], list[bytes]]] = {}
        for side, some in enumerate((gone, new)):
            for leaf in some:
                changes.setdefault(hashing.bucket_of(leaf, depth=self.depth), ([], []))[side].append(leaf)
        touched = set()
        for number, (lost, found) in changes.items():
            kept = split(result.buckets[number])
            for leaf in lost:
                kept.remove(leaf)
            bucket = b"".join(sorted(kept + found))
            place = (1 << self.depth) + number
            result.buckets[number], result.nodes[place] = bucket, hashing.bucket_hash(bucket)
            touched.add(place >> 1)
        while touched and 0 not in touched:
            for place in touched:
                result.nodes[place] = hashing.node_hash(result.nodes[2 * place], result.nodes[2 * place + 1])
            touched = {place >> 1 for place in touched}
        return result

    def path(self, number: int) -> tuple[bytes, ...]:
        """Return the siblings of a bucket on the way to the top, lowest first."""
        place = (1 << self.depth) + number
        return tuple(self.nodes[(place >> level) ^ 1] for level in range(self.depth))


def split(bucket: bytes) -> list[bytes]:
    """Return the leaves of a bucket."""
    return [bucket[i : i + LEAF] for i in range(0, len(bucket), LEAF)]


def _buckets(leaves: Bytes, depth: int) -> list[bytes]:
    """Return the sorted leaves of each bucket, joined."""
    prefixes = np.ascontiguousarray(leaves[:, :8]).view(">u8").ravel().astype(np.uint64)
    numbers = prefixes >> np.uint64(64 - depth) if depth else np.zeros(len(leaves), dtype=np.uint64)
    order = np.argsort(numbers, kind="stable")
    joined = leaves[order].tobytes()
    ends = LEAF * np.searchsorted(numbers[order], np.arange(1 << depth, dtype=np.uint64), side="right")
    starts = [0, *ends[:-1].tolist()]
    return [b"".join(sorted(split(joined[a:b]))) for a, b in zip(starts, ends.tolist(), strict=True)]
