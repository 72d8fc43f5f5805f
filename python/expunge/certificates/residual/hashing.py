"""Hashes of records: what names one, what it holds, and how they join in a tree.

The key of a record is HMAC-SHA256 of its id under the tree's secret key, and its content the SHA-256 of a salt of its
own, its row, its answer and its weight, so that neither can be found by trying. A leaf is key and content. Leaves lie
in buckets by the first bits of their keys, and buckets are the leaves of a binary hash tree. How many bits follows from
the number of records alone, so a tree tells nothing of records it once had.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from expunge._kernels import backend
from expunge.certificates.digest import targets_digest

__all__ = [
    "CONTENT",
    "KEY",
    "LEAF",
    "SALT",
    "ZERO",
    "answer_bytes",
    "bucket_hash",
    "bucket_of",
    "contents_of",
    "depth_of",
    "key_commitment",
    "keys_of",
    "node_hash",
    "root_hash",
]

Bytes = NDArray[np.uint8]
Label = str | int | float | bool

# Bytes of a key, a content, a leaf and a salt.
KEY, CONTENT, LEAF, SALT = 32, 32, 64, 16
ZERO = bytes(32)  # of a bucket or a branch without leaves
_FULL_BUCKET = 64  # a bucket has half as many leaves to as many, on average
_BLOCK = 2**20
_LOCKED = 2047  # bytes that hashlib hashes without giving up the interpreter's lock
_RECORD = {
    labelled: tag.ljust(40, b"\0")  # of one length
    for labelled, tag in ((False, b"expunge-residual-record-v1:targets"), (True, b"expunge-residual-record-v1:label"))
}
_BUCKET, _NODE = b"expunge-residual-bucket-v1\0", b"expunge-residual-node-v1\0"
_ROOT, _COMMITMENT = b"expunge-residual-root-v1\0", b"expunge-residual-key-v1\0"
_ID = b"expunge-residual-id-v1\0"


def keys_of(ids: Iterable[int | str], *, key: bytes) -> Bytes:
    """Return the keys (n, 32) of record ids under a tree's secret key; 7 and "7" are different ids."""
    # HMAC (RFC 2104) from the two states that all ids share; `hmac.digest` sets both up for each.
    block = (key if len(key) <= 64 else hashlib.sha256(key).digest()).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(one ^ 0x36 for one in block) + _ID)
    outer = hashlib.sha256(bytes(one ^ 0x5C for one in block))
    found = []
    for one in ids:
        within, around = inner.copy(), outer.copy()
        within.update(b"string\0" if isinstance(one, str) else b"integer\0")
        within.update(str(one).encode("utf-8", "surrogatepass"))
        around.update(within.digest())
        found.append(around.digest())
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, KEY)


def answer_bytes(
    targets: NDArray[np.float64] | None, numbers: NDArray[np.int64] | None, *, classes: Sequence[Label] | None
) -> Bytes:
    """Return each record's answer as bytes (n, w): its targets as float64, or the digest of its label.

    The digest is that of `expunge.certificates.targets_digest`, which tells ``"1"`` from 1.
    """
    if targets is not None:
        return np.ascontiguousarray(targets, dtype="<f8").view(np.uint8)
    known = [bytes.fromhex(targets_digest([label])) for label in classes or ()]
    table = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, 32)
    return table[numbers]


def contents_of(
    rows: NDArray[np.float64], answers: Bytes, weights: NDArray[np.float64], salts: Bytes, *, labelled: bool
) -> Bytes:
    """Return the content hashes (n, 32) of records, whose answers are labels or targets."""
    n, p = rows.shape
    found = np.empty((n, CONTENT), dtype=np.uint8)
    width = len(_RECORD[labelled]) + SALT + 8 + 8 * p + 8 + answers.shape[1] + 8

    def hash_part(start: int, stop: int) -> None:
        part = slice(start, stop)
        found[part] = _contents(rows[part], answers[part], weights[part], salts[part], labelled=labelled)

    # hashlib lets go of the interpreter's lock for long messages only: threads would wait for one another at others.
    workers = backend.default_threads() if width > _LOCKED and n * width > _BLOCK else 1
    if workers == 1:
        hash_part(0, n)
        return found
    ends = [n * number // workers for number in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(hash_part, ends[:-1], ends[1:]))
    return found


def _contents(
    rows: NDArray[np.float64], answers: Bytes, weights: NDArray[np.float64], salts: Bytes, *, labelled: bool
) -> Bytes:
    n, p = rows.shape
    width = answers.shape[1]
    tag = _RECORD[labelled]
    ends = np.cumsum([len(tag), SALT, 8, 8 * p, 8, width, 8])
    message = np.empty((max(1, min(n, _BLOCK // int(ends[-1]))), int(ends[-1])), dtype=np.uint8)
    message[:, : ends[0]] = np.frombuffer(tag, dtype=np.uint8)
    message[:, ends[1] : ends[2]] = np.frombuffer(struct.pack("<Q", p), dtype=np.uint8)
    message[:, ends[3] : ends[4]] = np.frombuffer(struct.pack("<Q", width), dtype=np.uint8)
    row_numbers = message.view("<f8")[:, ends[2] // 8 : ends[3] // 8]  # every part is of whole words
    weight_bytes = np.ascontiguousarray(weights[:, np.newaxis], dtype="<f8").view(np.uint8)
    found = []
    sha256 = hashlib.sha256
    for start in range(0, n, len(message)):
        block = slice(start, min(start + len(message), n))
        part = message[: block.stop - start]
        part[:, ends[0] : ends[1]] = salts[block]
        row_numbers[: len(part)] = rows[block]
        part[:, ends[4] : ends[5]] = answers[block]
        part[:, ends[5] :] = weight_bytes[block]
        found += [sha256(one).digest() for one in part]
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(n, CONTENT)


def depth_of(n_records: int) -> int:
    """Return how many bits of a key choose its bucket, from the number of records alone."""
    return (max(n_records - 1, 0) // _FULL_BUCKET).bit_length()


def bucket_of(key: bytes, *, depth: int) -> int:
    """Return the number of a key's bucket."""
    return int.from_bytes(key[:8], "big") >> (64 - depth)


def bucket_hash(leaves: bytes) -> bytes:
    """Return the hash of a bucket, sorted leaves joined; zeros for an empty one."""
    return hashlib.sha256(_BUCKET + leaves).digest() if leaves else ZERO


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a branch; zeros where both halves are empty."""
    return ZERO if left == ZERO == right else hashlib.sha256(_NODE + left + right).digest()


def key_commitment(key: bytes) -> bytes:
    """Return what a root holds of the tree's secret key: whoever is shown the key sees that it is the one."""
    return hashlib.sha256(_COMMITMENT + key).digest()


def root_hash(top: bytes, *, n_records: int, commitment: bytes) -> bytes:
    """Return the root of a tree of ``n_records`` records whose topmost branch has the hash ``top``."""
    head = struct.pack("<QQ", depth_of(n_records), n_records)
    return hashlib.sha256(_ROOT + head + commitment + top).digest()
