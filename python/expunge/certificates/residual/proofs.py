"""Proofs about one id: that a model's data hold no record of it, or that they hold some.

A proof is the bucket that the id belongs to, with the hashes on its way to the root, and the tree's secret key, without
which nobody could tell that the id belongs to this bucket. The root commits to that key.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from expunge import _validate
from expunge._files import FileFormatError, parse_json, read_text, write_atomic
from expunge._types import JsonObject
from expunge.certificates.residual import hashing
from expunge.certificates.residual.hashing import KEY, LEAF, SALT
from expunge.certificates.schema import CertificateError, VerificationError, check
from expunge.data.identifiers import whole_id
from expunge.runs.residual.answers import Label, class_numbers

__all__ = ["AbsenceProof", "MembershipProof", "other_form"]

Self = TypeVar("Self", bound="_Proof")

_HEX = re.compile("(?:[0-9a-f]{2})*")
_SHOWS_1 = (
    "The data whose root this is hold no record with this id: all records of the bucket that the id belongs to are "
    "here, and none is of it."
)
_GUESSES = "It holds the tree's secret key: its holder can test guesses of the ids of the other records in this bucket."

_OF_ANY_ABSENCE = (
    "That the root is that of the data a model was made of: verifying the certificate on the data shows that.",
    "Anything about copies kept elsewhere.",
    _GUESSES,
)
_DOES_NOT_SHOW_1 = (
    "That the same content was not entered again under another id, or under the same one written otherwise: 7 and "
    '"7" are different ids.',
    *_OF_ANY_ABSENCE,
)


def other_form(record_id: int | str) -> int | str | None:
    """Return the id of the other kind that is written alike, "7" for 7 and 7 for "7"; None for other text."""
    return whole_id(record_id) if isinstance(record_id, str) else str(record_id)


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
        check(values, self._schema_of(values), what="proof")
        for prefix, one, bucket, siblings in self._parts():
            if len(siblings) != (needed := hashing.depth_of(self.n_records)):
                raise CertificateError(
                    f"{prefix}siblings", f"must be {needed} for {self.n_records} records, got {len(siblings)}"
                )
            if any(a >= b for a, b in pairwise(bucket)):
                raise CertificateError(f"{prefix}bucket", "must be sorted, without a leaf twice")
            number = hashing.bucket_of(self._key(one), depth=len(siblings))
            for leaf in bucket:
                if hashing.bucket_of(bytes.fromhex(leaf), depth=len(siblings)) != number:
                    raise CertificateError(
                        f"{prefix}bucket", f"must hold leaves of bucket {number} alone, got {leaf[:16]}..."
                    )

    def _parts(self) -> list[tuple[str, int | str, tuple[str, ...], tuple[str, ...]]]:
        """Return the forms of the id that this is about, each with its bucket and way, and how their fields begin."""
        return [("", self.record_id, self.bucket, self.siblings)]

    @classmethod
    def _schema_of(cls, values: JsonObject) -> JsonObject:
        """Return the schema of a proof of the version that values name."""
        return cls.schema()

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
        check(values, cls._schema_of(values if isinstance(values, dict) else {}), what="proof")
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

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
        return self._root(self.record_id, self.bucket, self.siblings)

    def _root(self, one: int | str, bucket: tuple[str, ...], siblings: tuple[str, ...]) -> str:
        number = hashing.bucket_of(self._key(one), depth=len(siblings))
        found = hashing.bucket_hash(bytes.fromhex("".join(bucket)))
        for level, sibling in enumerate(siblings):
            other = bytes.fromhex(sibling)
            found = hashing.node_hash(other, found) if number >> level & 1 else hashing.node_hash(found, other)
        commitment = hashing.key_commitment(bytes.fromhex(self.tree_key))
        return hashing.root_hash(found, n_records=self.n_records, commitment=commitment).hex()

    def _key(self, one: int | str) -> bytes:
        return bytes(hashing.keys_of([one], key=bytes.fromhex(self.tree_key))[0])

    def _mine(self, one: int | str, bucket: tuple[str, ...]) -> list[str]:
        mine = self._key(one).hex()
        return [leaf for leaf in bucket if leaf.startswith(mine)]

    def _check_root(self, against: str | _Certificate) -> None:
        root = against if isinstance(against, str) else against.digests.data
        for _, one, bucket, siblings in self._parts():
            if (found := self._root(one, bucket, siblings)) != root:
                raise VerificationError("root", f"must be that of the data, {root}, got {found}")


@dataclass(frozen=True)
class AbsenceProof(_Proof):
    """A proof that no record of an id is among the data of a model; `RecordTree.absence` makes one.

    7 and "7" are different ids, and the ids of a model are of one kind. So that nobody is told that 7 is absent where
    "7" is present, the proof is about both.

    Attributes
    ----------
    record_id : int or str
        The id.
    tree_key : str
        Secret key of the tree, 64 hexadecimal characters.
    n_records : int
        Records of the tree.
    bucket : tuple of str
        Leaves of the bucket that the id belongs to, as hexadecimal text.
    siblings : tuple of str
        Hashes on the way to the root, lowest first.
    twin_bucket, twin_siblings : tuple of str, or None
        The same of the id of the other kind, "7" of 7 and 7 of "7"; None where there is none: "customer 7" is text.
    version : int
        2; proofs of version 1 are read, and are about one kind alone.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format.
    """

    twin_bucket: tuple[str, ...] | None = None
    twin_siblings: tuple[str, ...] | None = None
    version: int = 2

    shows: ClassVar[str] = (
        "The data whose root this is hold no record with this id, neither as a whole number nor as text: all records "
        "of the buckets that the id belongs to are here, and none is of it."
    )
    does_not_show: ClassVar[tuple[str, ...]] = (
        "That the same content was not entered again under another id, or under the same one written otherwise, as "
        '"007" for 7.',
        *_OF_ANY_ABSENCE,
    )
    _format: ClassVar[str] = "expunge-absence-proof"

    def __post_init__(self) -> None:
        for name in ("twin_bucket", "twin_siblings"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.version == 1:
            object.__setattr__(self, "shows", _SHOWS_1)
            object.__setattr__(self, "does_not_show", _DOES_NOT_SHOW_1)
        needed = self.version != 1 and other_form(self.record_id) is not None
        for name in ("twin_bucket", "twin_siblings"):
            if (getattr(self, name) is not None) != needed:
                which = "given for" if needed else f"null in version {self.version} for"
                raise CertificateError(name, f"must be {which} the id {self.record_id!r}")
        super().__post_init__()
        for prefix, one, bucket, _ in self._parts():
            if self._mine(one, bucket):
                raise CertificateError(f"{prefix}bucket", f"must hold no record with the id {one!r}, got one")

    def _parts(self) -> list[tuple[str, int | str, tuple[str, ...], tuple[str, ...]]]:
        parts, other = super()._parts(), other_form(self.record_id)
        if self.twin_bucket is not None and self.twin_siblings is not None and other is not None:
            parts.append(("twin_", other, self.twin_bucket, self.twin_siblings))
        return parts

    @classmethod
    def schema(cls) -> JsonObject:
        """Return the JSON schema of `to_dict`."""
        result: dict[str, Any] = super().schema()
        result["properties"]["version"] = {"const": 2}
        for name, length in (("twin_bucket", LEAF), ("twin_siblings", 32)):
            result["properties"][name] = {**_hexes(length), "type": ["array", "null"]}
            result["required"].append(name)
        return result

    @classmethod
    def _schema_of(cls, values: JsonObject) -> JsonObject:
        if values.get("version") != 1 or isinstance(values["version"], bool):
            return cls.schema()
        result: dict[str, Any] = super().schema()
        result["properties"]["shows"] = {"const": _SHOWS_1}
        result["properties"]["does_not_show"] = {"const": list(_DOES_NOT_SHOW_1)}
        return result

    def to_dict(self) -> JsonObject:
        """Return the proof as JSON values, in the order of the schema."""
        found = {**super().to_dict(), "version": self.version}
        if self.version == 1:
            return found
        twins = {"twin_bucket": self.twin_bucket, "twin_siblings": self.twin_siblings}
        return {**found, **{name: None if one is None else list(one) for name, one in twins.items()}}

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
        found = len(self._mine(self.record_id, self.bucket))
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
        known = {leaf[2 * KEY :] for leaf in self._mine(self.record_id, self.bucket)}
        for text in self.salts:
            salt = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)[np.newaxis, :]
            if (
                hashing.contents_of(values, answer, factor, salt, labelled=classes is not None)[0].tobytes().hex()
                in known
            ):
                return True
        return False
