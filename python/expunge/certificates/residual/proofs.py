"""Proofs about one id: that a model's data hold no record of it, or that they hold some.

A proof is the bucket that the id belongs to, with the hashes on its way to the root, and the tree's secret key, without
which nobody could tell that the id belongs to this bucket. The root commits to that key.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from expunge import _validate
from expunge._files import FileFormatError, parse_json, read_text, write_atomic
from expunge._types import JsonObject
from expunge.certificates.residual import hashing
from expunge.certificates.residual.hashing import KEY, LEAF, SALT
from expunge.certificates.schema import CertificateError, VerificationError, check
from expunge.runs.residual.answers import Label, class_numbers

__all__ = ["AbsenceProof", "MembershipProof"]

Self = TypeVar("Self", bound="_Proof")

_HEX = re.compile("(?:[0-9a-f]{2})*")
_GUESSES = "It holds the tree's secret key: its holder can test guesses of the ids of the other records in this bucket."


class _DataDigests(Protocol):
    @property
    def data(self) -> str:
        """Root of the data."""


class _Certificate(Protocol):
    @property
    def digests(self) -> _DataDigests:
        """Digests of a certificate."""


def _hexes(length: int) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", "pattern": f"^[0-9a-f]{{{2 * length}}}$"}}


@dataclass(frozen=True)
class _Proof:
    """A bucket and its way to the root, common to both kinds of proofs."""

    record_id: int | str
    tree_key: str
    n_records: int
    bucket: tuple[str, ...]
    siblings: tuple[str, ...]

    shows: ClassVar[str]
    does_not_show: ClassVar[tuple[str, ...]]
    _format: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bucket", tuple(self.bucket))
        object.__setattr__(self, "siblings", tuple(self.siblings))
        values: dict[str, Any] = self.to_dict()
        check(values, self.schema(), what="proof")
        if len(self.siblings) != hashing.depth_of(self.n_records):
            needed = hashing.depth_of(self.n_records)
            raise CertificateError(
                "siblings", f"must be {needed} for {self.n_records} records, got {len(self.siblings)}"
            )
        if any(a >= b for a, b in zip(self.bucket, self.bucket[1:], strict=False)):
            raise CertificateError("bucket", "must be sorted, without a leaf twice")
        number = hashing.bucket_of(self._key(), depth=len(self.siblings))
        for leaf in self.bucket:
            if hashing.bucket_of(bytes.fromhex(leaf), depth=len(self.siblings)) != number:
                raise CertificateError("bucket", f"must hold leaves of bucket {number} alone, got {leaf[:16]}...")

    @classmethod
    def schema(cls) -> JsonObject:
        """Return the JSON schema of `to_dict`."""
        properties: dict[str, Any] = {
            "format": {"const": cls._format},
            "version": {"const": 1},
            "record_id": {"type": ["string", "integer"], "minLength": 1},
            "tree_key": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "n_records": {"type": "integer", "minimum": 1, "maximum": 2**48},
            "bucket": _hexes(LEAF),
            "siblings": _hexes(32),
            "shows": {"const": cls.shows},
            "does_not_show": {"const": list(cls.does_not_show)},
        }
        return {
            "type": "object",
            "additionalProperties": False,
            "required": list(properties),
            "properties": properties,
        }

    def to_dict(self) -> JsonObject:
        """Return the proof as JSON values, in the order of the schema."""
        return {
            "format": self._format,
            "version": 1,
            "record_id": self.record_id,
            "tree_key": self.tree_key,
            "n_records": self.n_records,
            "bucket": list(self.bucket),
            "siblings": list(self.siblings),
            "shows": self.shows,
            "does_not_show": list(self.does_not_show),
        }

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Return the proof in a JSON text.

        Raises
        ------
        CertificateError
            Naming the field that breaks the format.
        """
        try:
            values = parse_json(text, what="proof", allow_nan=True)
        except FileFormatError as error:
            raise CertificateError("json", str(error)) from None
        if isinstance(values, dict) and values.get("format") != cls._format:
            raise CertificateError("format", f"must be {cls._format!r}, got {values.get('format')!r}")
        check(values, cls.schema(), what="proof")
        fixed = ("format", "version", "shows", "does_not_show")
        return cls(**{name: value for name, value in values.items() if name not in fixed})

    def to_json(self) -> str:
        """Return the proof as JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the proof, readable by its owner only: it names an id, and lets others be tested.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is False.
        """
        write_atomic(path, self.to_json().encode("ascii"), overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Return the proof in a file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CertificateError
            As `from_json`.
        """
        try:
            return cls.from_json(read_text(path, what="proof"))
        except FileFormatError as error:
            raise CertificateError("json", str(error)) from None

    @property
    def root(self) -> str:
        """Root of the tree that this proof is about, computed from it."""
        number = hashing.bucket_of(self._key(), depth=len(self.siblings))
        found = hashing.bucket_hash(bytes.fromhex("".join(self.bucket)))
        for level, sibling in enumerate(self.siblings):
            other = bytes.fromhex(sibling)
            found = hashing.node_hash(other, found) if number >> level & 1 else hashing.node_hash(found, other)
        commitment = hashing.key_commitment(bytes.fromhex(self.tree_key))
        return hashing.root_hash(found, n_records=self.n_records, commitment=commitment).hex()

    def _key(self) -> bytes:
        return bytes(hashing.keys_of([self.record_id], key=bytes.fromhex(self.tree_key))[0])

    def _mine(self) -> list[str]:
        mine = self._key().hex()
        return [leaf for leaf in self.bucket if leaf.startswith(mine)]

    def _check_root(self, against: str | _Certificate) -> None:
        root = against if isinstance(against, str) else against.digests.data
        if self.root != root:
            raise VerificationError("root", f"must be that of the data, {root}, got {self.root}")


@dataclass(frozen=True)
class AbsenceProof(_Proof):
    """A proof that no record of an id is among the data of a model; `RecordTree.absence` makes one.

    Attributes
    ----------
    record_id : int or str
        The id; 7 and "7" are different ids.
    tree_key : str
        Secret key of the tree, 64 hexadecimal characters.
    n_records : int
        Records of the tree.
    bucket : tuple of str
        Leaves of the bucket that the id belongs to, as hexadecimal text.
    siblings : tuple of str
        Hashes on the way to the root, lowest first.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format.
    """

    shows: ClassVar[str] = (
        "The data whose root this is hold no record with this id: all records of the bucket that the id belongs to are "
        "here, and none is of it."
    )
    does_not_show: ClassVar[tuple[str, ...]] = (
        "That the same content was not entered again under another id, or under the same one written otherwise: 7 and "
        '"7" are different ids.',
        "That the root is that of the data a model was made of: verifying the certificate on the data shows that.",
        "Anything about copies kept elsewhere.",
        _GUESSES,
    )
    _format: ClassVar[str] = "expunge-absence-proof"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._mine():
            raise CertificateError("bucket", f"must hold no record with the id {self.record_id!r}, got one")

    def check(self, against: str | _Certificate) -> None:
        """Check the proof against a root, or against a certificate, whose ``digests.data`` is one.

        Raises
        ------
        VerificationError
            With ``field == "root"``, if it is about other data.
        """
        self._check_root(against)


@dataclass(frozen=True)
class MembershipProof(_Proof):
    """A proof that records of an id are among the data of a model; `RecordTree.membership` makes one.

    Attributes
    ----------
    record_id, tree_key, n_records, bucket, siblings
        As in `AbsenceProof`.
    salts : tuple of str
        Salts of the id's records, with which `holds` recognises their content.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format.
    """

    salts: tuple[str, ...] = ()

    shows: ClassVar[str] = "The data whose root this is hold records with this id, as many as there are salts here."
    does_not_show: ClassVar[tuple[str, ...]] = (
        "What the records hold, but to whoever knows their content and compares it.",
        "That the root is that of the data a model was made of: verifying the certificate on the data shows that.",
        _GUESSES,
    )
    _format: ClassVar[str] = "expunge-membership-proof"

    def __post_init__(self) -> None:
        object.__setattr__(self, "salts", tuple(self.salts))
        super().__post_init__()
        found = len(self._mine())
        if found == 0:
            raise CertificateError("bucket", f"must hold a record with the id {self.record_id!r}, got none")
        if len(self.salts) != found:
            raise CertificateError("salts", f"must be {found}, one for each record of the id, got {len(self.salts)}")

    @classmethod
    def schema(cls) -> JsonObject:
        """Return the JSON schema of `to_dict`."""
        result: dict[str, Any] = super().schema()
        result["properties"]["salts"] = _hexes(SALT)
        result["required"].append("salts")
        return result

    def to_dict(self) -> JsonObject:
        """Return the proof as JSON values, in the order of the schema."""
        return {**super().to_dict(), "salts": list(self.salts)}

    def check(self, against: str | _Certificate) -> None:
        """Check the proof against a root, or against a certificate, whose ``digests.data`` is one.

        Raises
        ------
        VerificationError
            With ``field == "root"``, if it is about other data.
        """
        self._check_root(against)

    def holds(
        self, row: ArrayLike, y: ArrayLike, *, classes: tuple[Label, ...] | None = None, weight: float = 1.0
    ) -> bool:
        """Return whether one of the id's records is this row (n_features,) with this answer and weight.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape.
        """
        values = _validate.real_array("row", row, ndim=1)[np.newaxis, :]
        targets = None if classes is not None else _validate.real_array("y", y).reshape(1, -1)
        numbers = None if classes is None else class_numbers(np.asarray(y).reshape(1), classes=classes)
        answer = hashing.answer_bytes(targets, numbers, classes=classes)
        factor = np.array([_validate.number("weight", weight, low=0.0)])
        known = {leaf[2 * KEY :] for leaf in self._mine()}
        for text in self.salts:
            salt = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)[np.newaxis, :]
            if (
                hashing.contents_of(values, answer, factor, salt, labelled=classes is not None)[0].tobytes().hex()
                in known
            ):
                return True
        return False
