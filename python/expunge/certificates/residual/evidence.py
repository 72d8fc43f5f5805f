"""Evidence of a certificate by residual: the parameters without noise, the salts, and what it took. Confidential."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._files import FileFormatError, parse_json, write_atomic
from expunge._files.archive import read_arrays
from expunge._files.sealed import is_sealed, sealed
from expunge._types import AnyArray
from expunge.certificates.residual.agreed_noise import SEED_BYTES, NoiseSeed
from expunge.certificates.residual.hashing import CONTENT, SALT
from expunge.certificates.residual.tree import RecordTree
from expunge.certificates.schema import CertificateError, check
from expunge.data.identifiers import exact_ids
from expunge.runs.residual.claim import BeforeAfter

__all__ = ["ACTIONS", "ResidualEvidence"]

Self = TypeVar("Self", bound="ResidualEvidence")
Bytes = NDArray[np.uint8]

FORMAT, VERSION = "expunge-residual-evidence", 1
ACTIONS = ("fit", "unlearn", "amend", "add", "release")
_MAX_BYTES = 2**36
_ARRAYS = {
    "facts": "U", "theta": "f", "residual_bound": "f", "tree_key": "u", "salts": "u", "contents": "u", "ids": "iU",
    "seeds": "u",
}  # fmt: skip
_OPTIONAL = ("seeds",)
_HEX: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_FACTS: dict[str, Any] = {
    "format": {"const": FORMAT},
    "version": {"const": VERSION},
    "certificate": _HEX,
    "action": {"enum": list(ACTIONS)},
    "n_changed": {"type": "integer", "minimum": 0},
    "passes": {"type": "integer", "minimum": 0},
    "refreshes": {"type": "integer", "minimum": 0},
    "before_after": {
        "type": ["object", "null"],
        "additionalProperties": False,
        "required": ["mu", "epsilon"],
        "properties": {name: {"type": ["number", "null"], "minimum": 0} for name in ("mu", "epsilon")},
    },
    "ids_are": {"enum": ["numbers", "text"]},
}
_FACTS_SCHEMA = {
    "type": "object", "additionalProperties": False, "required": list(_FACTS), "properties": _FACTS,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ResidualEvidence:
    """Confidential part of a verification: all that it needs besides the data. It undoes the release's noise.

    Make one with `of`, which takes salts and ids from the tree of the data.

    Attributes
    ----------
    theta : ndarray of float64, shape (n_outputs, n_columns)
        Parameters without noise, the constant column last.
    residual_bound : float
        Proved bound on the norm of the gradient there.
    passes, refreshes : int
        Passes over the data, and refreshes of the preconditioner, that it took.
    action : {"fit", "unlearn", "amend", "add", "release"}
        What was done.
    n_changed : int
        Records that the action changed.
    certificate : str
        Digest of the certificate that this is the evidence of.
    tree_key : bytes
        Secret key of the tree, 32 bytes.
    salts, contents : ndarray of uint8, shapes (n_records, 16) and (n_records, 32)
        Salt and content hash of each record that is now among the data.
    ids : ndarray of shape (n_records,)
        Their ids, in the order of the salts.
    before_after : BeforeAfter or None
        Measured guarantee against whoever saw the release before and this one; None where none came before.
    seeds : tuple of two NoiseSeed, or None
        Seeds of noise that two parties agreed on; None of other noise. Working models do not keep them.

    Raises
    ------
    CertificateError
        On construction, naming the field that is wrong.
    """

    theta: NDArray[np.float64]
    residual_bound: float
    passes: int
    refreshes: int
    action: str
    n_changed: int
    certificate: str
    tree_key: bytes
    salts: Bytes
    contents: Bytes
    ids: AnyArray
    before_after: BeforeAfter | None = None
    seeds: tuple[NoiseSeed, NoiseSeed] | None = None

    def __post_init__(self) -> None:
        try:
            theta = _validate.real_array("theta", self.theta, ndim=2).copy()
            bound = _validate.number("residual_bound", self.residual_bound, low=0.0)
            names = exact_ids(self.ids)
        except (TypeError, ValueError) as error:
            name, _, rest = str(error).partition(" ")
            raise CertificateError(name, rest) from None
        object.__setattr__(self, "theta", theta)
        object.__setattr__(self, "residual_bound", bound)
        object.__setattr__(self, "ids", names)
        for name in ("passes", "refreshes", "n_changed"):
            object.__setattr__(self, name, _plain_count(name, getattr(self, name)))
        if not isinstance(self.tree_key, bytes) or len(self.tree_key) != 32:
            raise CertificateError("tree_key", "must be 32 bytes")
        for name, width in (("salts", SALT), ("contents", CONTENT)):
            array = np.asarray(getattr(self, name))
            if array.dtype != np.uint8 or array.shape != (len(names), width):
                needed = (len(names), width)
                raise CertificateError(name, f"must be uint8 of shape {needed}, got {array.dtype} of {array.shape}")
        if len(names) == 0:
            raise CertificateError("ids", "must name at least one record, got none")
        if self.before_after is not None:
            both = BeforeAfter(*self.before_after)
            if not (both.mu >= 0 and both.epsilon >= 0):  # infinite is allowed, NaN is not
                raise CertificateError("before_after", f"must be two numbers of at least 0, got {both!r}")
            object.__setattr__(self, "before_after", both)
        check(self._facts(), _FACTS_SCHEMA, what="evidence")

    @classmethod
    def of(
        cls: type[Self],
        tree: RecordTree,
        *,
        theta: ArrayLike,
        residual_bound: float,
        passes: int,
        refreshes: int,
        action: str,
        n_changed: int,
        certificate: str,
        before_after: BeforeAfter | None = None,
        seeds: tuple[NoiseSeed, NoiseSeed] | None = None,
    ) -> Self:
        """Return the evidence of a certificate, with the salts, hashes and ids of the tree of its data.

        Parameters
        ----------
        tree : RecordTree
            Of the data as they now stand.
        theta, residual_bound, passes, refreshes, action, n_changed, certificate, before_after, seeds
            As the attributes.

        Raises
        ------
        CertificateError
            Naming the field that is wrong.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge.certificates.residual import RecordTree, ResidualEvidence
        >>> evidence = ResidualEvidence.of(RecordTree.of(np.eye(2), [0.0, 1.0]), theta=np.zeros((1, 2)),
        ...     residual_bound=1e-9, passes=3, refreshes=0, action="fit", n_changed=2, certificate="0" * 64)
        >>> evidence.salts.shape
        (2, 16)
        """
        return cls(
            theta=np.asarray(theta),
            residual_bound=residual_bound,
            passes=passes,
            refreshes=refreshes,
            action=action,
            n_changed=n_changed,
            certificate=certificate,
            tree_key=tree.key,
            salts=tree.salts,
            contents=tree.contents,
            ids=tree.ids,
            before_after=before_after,
            seeds=seeds,
        )

    @property
    def tree(self) -> RecordTree:
        """Tree of the data that this is the evidence of, which proves that an id is among them or is not."""
        return RecordTree.of_hashes(ids=self.ids, key=self.tree_key, contents=self.contents, salts=self.salts)

    def _facts(self) -> dict[str, Any]:
        both = self.before_after
        finite = None if both is None else {"mu": _finite(both.mu), "epsilon": _finite(both.epsilon)}
        return {
            "format": FORMAT,
            "version": VERSION,
            "certificate": self.certificate,
            "action": self.action,
            "n_changed": self.n_changed,
            "passes": self.passes,
            "refreshes": self.refreshes,
            "before_after": finite,
            "ids_are": "text" if self.ids.dtype.kind == "U" else "numbers",
        }

    def to_arrays(self) -> dict[str, AnyArray]:
        """Return everything as arrays by name, of plain dtypes; `of_arrays` reads them."""
        big = self.ids.dtype.kind == "O"  # integers beyond 64 bits travel as text
        arrays: dict[str, AnyArray] = {
            "facts": np.array(json.dumps(self._facts(), allow_nan=False)),
            "theta": self.theta,
            "residual_bound": np.array(self.residual_bound),
            "tree_key": np.frombuffer(self.tree_key, dtype=np.uint8),
            "salts": self.salts,
            "contents": self.contents,
            "ids": np.array([str(one) for one in self.ids]) if big else self.ids,
        }
        if self.seeds is not None:
            arrays["seeds"] = np.frombuffer(b"".join(seed.value for seed in self.seeds), dtype=np.uint8).reshape(2, -1)
        return arrays

    def to_bytes(self) -> bytes:
        """Return the content of the file: an ``.npz`` archive without pickles that carries its own digest."""
        plain: dict[str, Any] = self.to_arrays()
        buffer = io.BytesIO()
        np.savez(buffer, **plain)  # of plain dtypes: nothing is pickled
        return sealed(buffer.getvalue())

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the evidence, whole or not at all, readable by its owner only.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is False.
        """
        write_atomic(path, self.to_bytes(), overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Return the evidence in a file; nothing is unpickled.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If it is no such archive, or its bytes do not match its digest.
        CertificateError
            Naming the field that is missing or wrong.
        """
        arrays = read_arrays(path, what="evidence", max_bytes=_MAX_BYTES)
        try:
            if not is_sealed(path):
                raise FileFormatError("carries no digest of its own: something else wrote it")
        except FileFormatError as error:
            raise FileFormatError(f"path: the evidence at {path} {error}") from None
        return cls.of_arrays(arrays)

    @classmethod
    def of_arrays(cls: type[Self], given: dict[str, AnyArray]) -> Self:
        """Return the evidence of arrays that `to_arrays` gave.

        Raises
        ------
        CertificateError
            Naming the field that is missing or wrong.
        """
        arrays: dict[str, Any] = dict(given)
        for name, kinds in _ARRAYS.items():
            if name not in arrays and name in _OPTIONAL:
                continue
            if name not in arrays:
                raise CertificateError(name, "is missing in the evidence")
            if arrays[name].dtype.kind not in kinds:
                raise CertificateError(name, f"must be of another kind than {arrays[name].dtype}")
        for name in sorted(set(arrays) - set(_ARRAYS)):
            raise CertificateError(name, f"is no array of the evidence; it has {', '.join(_ARRAYS)}")
        for name in ("facts", "residual_bound"):
            if arrays[name].ndim:
                raise CertificateError(name, f"must be a single value, got shape {arrays[name].shape}")
        try:
            facts = parse_json(str(arrays["facts"]), what="evidence")
        except FileFormatError as error:
            raise CertificateError("facts", str(error)) from None
        check(facts, _FACTS_SCHEMA, what="evidence")
        ids = arrays["ids"]
        if (facts["ids_are"] == "text") != (ids.dtype.kind == "U"):
            if ids.dtype.kind != "U":
                raise CertificateError("ids", "must be text, as the facts say")
            ids = _whole(ids)
        both = facts["before_after"]
        return cls(
            theta=arrays["theta"],
            residual_bound=float(arrays["residual_bound"]),
            passes=facts["passes"],
            refreshes=facts["refreshes"],
            action=facts["action"],
            n_changed=facts["n_changed"],
            certificate=facts["certificate"],
            tree_key=arrays["tree_key"].tobytes(),
            salts=arrays["salts"],
            contents=arrays["contents"],
            ids=ids,
            before_after=None if both is None else BeforeAfter(_number(both["mu"]), _number(both["epsilon"])),
            seeds=None if "seeds" not in arrays else _seeds(arrays["seeds"]),
        )


def _seeds(array: NDArray[Any]) -> tuple[NoiseSeed, NoiseSeed]:
    if array.dtype != np.uint8 or array.shape != (2, SEED_BYTES):
        needed = (2, SEED_BYTES)
        raise CertificateError("seeds", f"must be uint8 of shape {needed}, got {array.dtype} of {array.shape}")
    return NoiseSeed(array[0].tobytes()), NoiseSeed(array[1].tobytes())


def _whole(ids: AnyArray) -> AnyArray:
    try:
        return exact_ids([int(str(one)) for one in ids.tolist()])
    except ValueError:
        raise CertificateError("ids", "must be whole numbers, as the facts say") from None


def _plain_count(name: str, value: Any) -> int:
    try:
        return _validate.count(name, value)
    except (TypeError, ValueError) as error:
        raise CertificateError(name, str(error).removeprefix(f"{name} ")) from None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float | None) -> float:
    return float("inf") if value is None else float(value)
