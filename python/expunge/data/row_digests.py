"""Digests of the rows of a table, block by block, combined by the tree that sums are combined by."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["DigestTree", "block_digest", "digest_of_both", "table_digest"]

_TAG = b"expunge-digest-v1:block"
_CHUNK = 2048  # rows converted at once


def block_digest(X: NDArray[np.floating], targets: NDArray[np.generic], *, start: int, n_classes: int) -> bytes:
    """Return SHA-256 over the float64 values of a block's rows and targets, or the numbers of their classes.

    Parameters
    ----------
    X : ndarray of shape (m, p), float32 or float64
        Rows.
    targets : ndarray of shape (m, q), float64, or (m,), int64
        Targets, or the number of the class of each row.
    start : int
        Number of the first row in the table.
    n_classes : int
        Number of classes; 0 where targets are given as they are.
    """
    outputs = n_classes or targets.shape[1]
    result = hashlib.sha256(_TAG + b"\0" + struct.pack("<5Q", start, *X.shape, outputs, n_classes))
    for begin in range(0, len(X), _CHUNK):
        result.update(np.ascontiguousarray(X[begin : begin + _CHUNK], dtype="<f8").data)
    result.update(np.ascontiguousarray(targets, dtype="<i8" if n_classes else "<f8").data)
    return result.digest()


def digest_of_both(one: bytes, two: bytes) -> bytes:
    """Return the digest of two neighbours in the tree, the first of which comes first."""
    return hashlib.sha256(_TAG + b"s\0" + one + two).digest()


def table_digest(
    root: bytes, *, n_records: int, n_features: int, n_outputs: int, block_rows: int, classes: tuple[object, ...] | None
) -> str:
    """Return the digest of a whole table, 64 hexadecimal characters, from that of its rows and what they mean."""
    shape = {"rows": n_records, "features": n_features, "outputs": n_outputs, "block": block_rows, "classes": classes}
    head = json.dumps(shape, separators=(",", ":")).encode("ascii")
    return hashlib.sha256(_TAG + b"s\0" + head + b"\0" + root).hexdigest()


class DigestTree:
    """The digest of consecutive blocks from the first one on, as they come.

    Examples
    --------
    >>> tree = DigestTree()
    >>> for leaf in (b"a", b"b", b"c"):
    ...     tree.add(leaf)
    >>> tree.root == digest_of_both(digest_of_both(b"a", b"b"), b"c")
    True
    """

    def __init__(self) -> None:
        self._nodes: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        """Add the digest of the next block."""
        level = 0
        while self._nodes and self._nodes[-1][0] == level:
            leaf = digest_of_both(self._nodes.pop()[1], leaf)
            level += 1
        self._nodes.append((level, leaf))

    @property
    def root(self) -> bytes:
        """Digest of all blocks so far, of which there must be one."""
        *others, (_, result) = self._nodes
        for _, node in reversed(others):
            result = digest_of_both(node, result)
        return result
