"""A tree of salted record hashes: one root for the data, changed record by record, with proofs about single ids."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._types import AnyArray
from expunge.certificates.residual import hashing
from expunge.certificates.residual.buckets import Buckets, split
from expunge.certificates.residual.hashing import CONTENT, KEY, LEAF, SALT
from expunge.certificates.residual.proofs import AbsenceProof, MembershipProof, other_form
from expunge.data.identifiers import exact_ids
from expunge.runs.residual.answers import Label, class_numbers

__all__ = ["Leaves", "RecordTree", "shows_removal"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Leaves:
    """Hashes of all records of a tree: enough for its root, and nothing of the records to anybody without their salts.

    Attributes
    ----------
    values : ndarray of uint8, shape (n_records, 64)
        Key and content hash of each record, in any order.
    commitment : bytes
        Commitment to the tree's secret key, 32 bytes.
    """

    values: Bytes
    commitment: bytes

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype != np.uint8 or values.ndim != 2 or values.shape[1] != LEAF:
            raise ValueError(f"values must be uint8 of shape (n, {LEAF}), got {values.dtype} of shape {values.shape}")
        if not isinstance(self.commitment, bytes) or len(self.commitment) != 32:
            raise ValueError("commitment must be 32 bytes")

    @property
    def root(self) -> str:
        """Root of the tree with these leaves, as 64 hexadecimal characters."""
        return Buckets(self.values).root(self.commitment)


class RecordTree:
    """A tree of salted record hashes; it holds hashes, salts and ids, and no record.

    Make one with `of`. A tree does not change: `without`, `with_` and `replaced` return another one, whose root is that
    of a tree made of the same records from scratch.

    Attributes
    ----------
    root : str
        64 hexadecimal characters. To anybody without the salts it is as good as random.
    n_records, depth : int
        Records, and bits of a key that choose its bucket: a function of the number of records alone.
    ids : ndarray of shape (n_records,)
        Ids of the records in their order, 64-bit integers, Python integers or text.
    salts, contents, leaves : ndarray of uint8, shapes (n_records, 16), (n_records, 32), (n_records, 64)
        Salt, content hash, and key with content hash of each record.
    key : bytes
        The secret that ids are hashed with, 32 bytes.
    classes : tuple or None
        Classes of the labels.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.certificates.residual import RecordTree
    >>> tree = RecordTree.of(np.eye(3), [1.0, 2.0, 3.0], ids=["ann", "bob", "cyd"])
    >>> smaller = tree.without([1])
    >>> smaller.ids.tolist(), smaller.root == tree.root
    (['ann', 'cyd'], False)
    >>> smaller.with_(np.eye(3)[1:2], [2.0], ids=["bob"], salts=tree.salts[1:2]).root == tree.root
    True
    """

    def __init__(self, *, hashes: Bytes, ids: AnyArray, key: bytes, classes: tuple[Label, ...] | None, over: Buckets):
        self._hashes, self._over = hashes, over
        self.ids, self.key, self.classes = ids, key, classes
        self.root = over.root(hashing.key_commitment(key))
        self._grows = True

    @classmethod
    def of(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        classes: Sequence[Label] | None = None,
        weights: ArrayLike | None = None,
        salts: Bytes | None = None,
        key: bytes | None = None,
    ) -> RecordTree:
        """Return the tree of the records ``X`` with their answers ``y``.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows as they were given, without a constant column.
        y : array-like of shape (n,) or (n, n_outputs)
            Labels where there are classes, else targets.
        ids : array-like of shape (n,), optional
            Ids, which may repeat; row numbers if omitted.
        classes : sequence, optional
            The list of classes.
        weights : array-like of shape (n,), optional
            Weight of each record; 1 if omitted.
        salts : ndarray of uint8, shape (n, 16), optional
            Salts of an earlier tree; fresh ones of the operating system if omitted.
        key : bytes, optional
            Secret key of an earlier tree, 32 bytes; a fresh one if omitted.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or a number is not finite.
        """
        known = None if classes is None else tuple(classes)
        secret = secrets.token_bytes(32) if key is None else key
        if not isinstance(secret, bytes) or len(secret) != 32:
            raise ValueError("key must be 32 bytes")
        if ids is None:
            ids = np.arange(len(_validate.plain_array("X", X)))
        hashes, names = _hashed(X, y, ids=ids, classes=known, weights=weights, salts=salts, key=secret)
        return cls(hashes=hashes, ids=names, key=secret, classes=known, over=Buckets(hashes[:, :LEAF]))

    @classmethod
    def of_hashes(
        cls,
        *,
        ids: ArrayLike,
        key: bytes,
        contents: Bytes,
        salts: Bytes,
        classes: Sequence[Label] | None = None,
        takes_records: bool = False,
    ) -> RecordTree:
        """Return the tree of records of which only ids, content hashes and salts are known.

        It proves, and takes further records only where ``takes_records`` says that ``classes`` are known, or that there
        are none.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape.
        """
        names = exact_ids(ids)
        if not len(names):
            raise ValueError("ids must name at least one record, got none")
        for name, array, width in (("contents", contents, CONTENT), ("salts", salts, SALT)):
            if array.dtype != np.uint8 or array.shape != (len(names), width):
                needed = (len(names), width)
                raise ValueError(f"{name} must be uint8 of shape {needed}, got {array.dtype} of shape {array.shape}")
        hashes = np.hstack([hashing.keys_of(names.tolist(), key=key), contents, salts])
        known = None if classes is None else tuple(classes)
        result = cls(hashes=hashes, ids=names, key=key, classes=known, over=Buckets(hashes[:, :LEAF]))
        result._grows = takes_records
        return result

    @property
    def n_records(self) -> int:
        """Number of records."""
        return len(self._hashes)

    @property
    def depth(self) -> int:
        """Bits of a key that choose its bucket."""
        return self._over.depth

    @property
    def salts(self) -> Bytes:
        """Salts of the records, (n_records, 16)."""
        return self._hashes[:, LEAF:].copy()

    @property
    def contents(self) -> Bytes:
        """Content hashes of the records, (n_records, 32)."""
        return self._hashes[:, KEY:LEAF].copy()

    @property
    def leaves(self) -> Leaves:
        """Leaves of all records."""
        return Leaves(self._hashes[:, :LEAF].copy(), hashing.key_commitment(self.key))

    def without(self, positions: ArrayLike) -> RecordTree:
        """Return the tree without the records at some positions; their salts are not in it.

        Raises
        ------
        TypeError, ValueError
            If positions repeat or are out of range, or no record would remain.
        """
        rows = _validate.row_indices("positions", positions, self.n_records)
        if len(rows) == self.n_records:
            raise ValueError(f"positions must leave a record, got all {self.n_records}")
        where = int(rows[0]) if len(rows) == 1 else rows
        hashes = np.delete(self._hashes, where, axis=0)
        gone = [self._hashes[row, :LEAF].tobytes() for row in rows]
        return self._changed(hashes, np.delete(self.ids, where), gone=gone)

    def with_(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        ids: ArrayLike,
        weights: ArrayLike | None = None,
        salts: Bytes | None = None,
    ) -> RecordTree:
        """Return the tree with further records after the others; the arguments are those of `of`.

        Raises
        ------
        TypeError, ValueError
            As `of`; also if the ids are text and those of the tree numbers, or the other way round.
        """
        new, names = _hashed(X, y, ids=ids, classes=self.classes, weights=weights, salts=salts, key=self.key)
        if (names.dtype.kind == "U") != (self.ids.dtype.kind == "U"):
            kinds = ("numbers", "text") if self.ids.dtype.kind == "U" else ("text", "numbers")
            raise TypeError(f"ids must be {kinds[1]}, as those of the tree, got {kinds[0]}")
        hashes = np.concatenate([self._hashes, new])
        return self._changed(hashes, np.concatenate([self.ids, names]), new=[one[:LEAF].tobytes() for one in new])

    def replaced(
        self, positions: ArrayLike, X: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None
    ) -> RecordTree:
        """Return the tree with other content, under fresh salts, for the records at some positions.

        Raises
        ------
        TypeError, ValueError
            As `of`, or if positions repeat, are out of range, or are not as many as the rows.
        """
        rows = _validate.row_indices("positions", positions, self.n_records)
        ids = self.ids[rows]
        new, _ = _hashed(X, y, ids=ids, classes=self.classes, weights=weights, salts=None, key=self.key)
        hashes = self._hashes.copy()
        hashes[rows] = new
        gone = [self._hashes[row, :LEAF].tobytes() for row in rows]
        return self._changed(hashes, self.ids, gone=gone, new=[one[:LEAF].tobytes() for one in new])

    def reordered(self, positions: ArrayLike) -> RecordTree:
        """Return the tree with the same records in another order; its root is the same.

        Parameters
        ----------
        positions : array-like of int, shape (n_records,)
            Every position once, in the new order.

        Raises
        ------
        TypeError, ValueError
            If a position is missing, repeated or out of range.
        """
        _validate.row_indices("positions", positions, self.n_records)
        order = np.asarray(positions)
        if len(order) != self.n_records:
            raise ValueError(f"positions must name each of {self.n_records} records once, got {len(order)}")
        return self._changed(self._hashes[order], self.ids[order])

    def absence(self, record_id: int | str) -> AbsenceProof:
        """Return a proof that no record of this tree has an id.

        Raises
        ------
        ValueError
            If one has.
        """
        proof = self._proof(record_id)
        other = other_form(proof["record_id"])
        if other is None:
            return AbsenceProof(**proof)
        bucket, siblings = self._path(other)
        return AbsenceProof(**proof, twin_bucket=bucket, twin_siblings=siblings)

    def membership(self, record_id: int | str) -> MembershipProof:
        """Return a proof that records of this tree have an id, with their salts.

        Raises
        ------
        ValueError
            If none has.
        """
        values = self._proof(record_id)
        mine = hashing.keys_of([values["record_id"]], key=self.key)[0]
        rows = np.flatnonzero((self._hashes[:, :KEY] == mine).all(axis=1))
        salts = tuple(self._hashes[row, LEAF:].tobytes().hex() for row in rows)
        return MembershipProof(**values, salts=salts)

    def _changed(
        self, hashes: Bytes, ids: AnyArray, *, gone: Sequence[bytes] = (), new: Sequence[bytes] = ()
    ) -> RecordTree:
        if new and not self._grows:
            raise ValueError("a tree made of hashes takes no records; make one of the records with RecordTree.of")
        over = self._over.changed(gone=gone, new=new, leaves=hashes[:, :LEAF])
        result = RecordTree(hashes=hashes, ids=ids, key=self.key, classes=self.classes, over=over)
        result._grows = self._grows
        return result

    def _proof(self, record_id: int | str) -> dict[str, Any]:
        name = exact_ids([record_id])
        if (name.dtype.kind == "U") != (self.ids.dtype.kind == "U"):  # 7 is absent where "7" is present
            needed = "text" if self.ids.dtype.kind == "U" else "a whole number"
            raise TypeError(f"record_id must be {needed}, as the ids of the tree, got {record_id!r}")
        one = name.tolist()[0]
        bucket, siblings = self._path(one)
        return {
            "record_id": one,
            "tree_key": self.key.hex(),
            "n_records": self.n_records,
            "bucket": bucket,
            "siblings": siblings,
        }

    def _path(self, one: int | str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the leaves of an id's bucket, and the hashes on its way to the root."""
        number = hashing.bucket_of(hashing.keys_of([one], key=self.key)[0].tobytes(), depth=self.depth)
        leaves = tuple(leaf.hex() for leaf in split(self._over.buckets[number]))
        return leaves, tuple(each.hex() for each in self._over.path(number))


def _hashed(
    X: ArrayLike,
    y: ArrayLike,
    *,
    ids: ArrayLike,
    classes: tuple[Label, ...] | None,
    weights: ArrayLike | None,
    salts: Bytes | None,
    key: bytes,
) -> tuple[Bytes, AnyArray]:
    """Return key, content and salt of each record, (n, 80), and the ids."""
    rows = _validate.real_array("X", X, ndim=2)
    n = len(rows)
    if n == 0:
        raise ValueError("X must hold at least one record, got none")
    targets = numbers = None
    if classes is None:
        targets = _validate.real_array("y", y)
        targets = targets[:, np.newaxis] if targets.ndim == 1 else targets
        if targets.ndim != 2:
            raise ValueError(f"y must have 1 or 2 dimensions, got shape {targets.shape}")
    else:
        numbers = class_numbers(y, classes=classes)
    names = exact_ids(ids)
    factors = np.ones(n) if weights is None else _validate.real_array("weights", weights, ndim=1, low=0.0)
    own = _salts(n) if salts is None else np.asarray(salts)
    answers = hashing.answer_bytes(targets, numbers, classes=classes)
    for name, length in (("y", len(answers)), ("ids", len(names)), ("weights", len(factors)), ("salts", len(own))):
        if length != n:
            raise ValueError(f"{name} must have one entry for each of {n} records, got {length}")
    if own.dtype != np.uint8 or own.shape != (n, SALT):
        raise ValueError(f"salts must be uint8 of shape {(n, SALT)}, got {own.dtype} of shape {own.shape}")
    result = np.empty((n, LEAF + SALT), dtype=np.uint8)
    result[:, :KEY] = hashing.keys_of(names.tolist(), key=key)
    result[:, KEY : KEY + CONTENT] = hashing.contents_of(rows, answers, factors, own, labelled=classes is not None)
    result[:, LEAF:] = own
    return result, names


def _salts(n: int) -> Bytes:
    return np.frombuffer(secrets.token_bytes(n * SALT), dtype=np.uint8).reshape(n, SALT)


def shows_removal(before: Leaves, after: Leaves, removed: Bytes) -> bool:
    """Return whether one tree is another without some records, from hashes alone.

    Parameters
    ----------
    before, after : Leaves
        Of both trees; compare their roots with those of the certificates.
    removed : ndarray of uint8, shape (k, 64)
        Leaves of the records that are gone.

    Returns
    -------
    bool
        True if the leaves before are those after together with the removed ones, each as often, under one secret key.

    Examples
    --------
    >>> import numpy as np
    >>> tree = RecordTree.of(np.eye(3), [1.0, 2.0, 3.0])
    >>> leaves = tree.leaves
    >>> shows_removal(leaves, tree.without([1]).leaves, leaves.values[[1]])
    True
    >>> shows_removal(leaves, tree.without([1]).leaves, leaves.values[[2]])
    False
    """
    gone = Leaves(removed, before.commitment).values
    if before.commitment != after.commitment:
        return False
    return sorted(map(bytes, before.values)) == sorted([*map(bytes, after.values), *map(bytes, gone)])
