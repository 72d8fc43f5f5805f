"""Digests that tie a certificate to data, records and model parameters.

Every digest is SHA-256 over a tag (so that no digest of one kind can stand for another), the number of dimensions and
the shape (unsigned 64-bit little-endian), and the values as little-endian float64 in C order. Arrays of other real
dtypes are digested by their float64 values: float32 data and the same data stored as float64 have one digest.
Minus zero differs from zero. Labels that are strings, or integers beyond 2**53 in size (which float64 would merge),
are digested as the compact ASCII JSON list of their values under a tag of their own.
"""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.data.labels import labels

__all__ = ["DataDigests", "features_digest", "model_digest", "record_digest", "targets_digest"]

_TAG = b"expunge-digest-v1:"


def _head(tag: bytes, shape: tuple[int, ...]) -> hashlib._Hash:
    return hashlib.sha256(_TAG + tag + b"\0" + struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape))


def _array_hash(tag: bytes, array: NDArray[np.float64]) -> hashlib._Hash:
    result = _head(tag, array.shape)
    result.update(np.ascontiguousarray(array, dtype="<f8").data)
    return result


def features_digest(X: ArrayLike) -> str:
    """Return the digest of the features ``X`` (n_records, n_features), as 64 hexadecimal characters.

    Raises
    ------
    TypeError, ValueError
        If ``X`` does not hold real finite numbers in two dimensions.

    Examples
    --------
    >>> features_digest([[1.0, 2.0]]) == features_digest([[1, 2]])
    True
    >>> features_digest([[1.0, 2.0]]) == features_digest([[1.0], [2.0]])
    False
    """
    return _array_hash(b"X", _validate.real_array("X", X, ndim=2)).hexdigest()


def _targets_bytes(tag: bytes, y: ArrayLike) -> bytes:
    values, numbers = labels(y)
    if numbers is not None:
        return _array_hash(tag, numbers).digest()
    text = json.dumps(values, separators=(",", ":"))
    return hashlib.sha256(_TAG + tag + b"/labels\0" + text.encode("ascii")).digest()


def targets_digest(y: ArrayLike) -> str:
    """Return the digest of targets or labels ``y`` (n_records,) or (n_records, n_outputs); (n, 1) counts as (n,).

    Raises
    ------
    TypeError, ValueError
        If ``y`` holds neither finite real numbers nor strings.

    Examples
    --------
    >>> targets_digest([0, 1]) == targets_digest([0.0, 1.0])
    True
    >>> targets_digest([0, 1]) == targets_digest(["0", "1"])
    False
    """
    return _targets_bytes(b"y", y).hex()


class DataDigests:
    """`features_digest` and `targets_digest` of a table whose rows come in parts, in order.

    Parameters
    ----------
    shape : (int, int)
        Shape of the features: all rows of them.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3), ["a", "b", "a"]
    >>> digests = DataDigests((3, 3))
    >>> digests.add(X[:2], np.array(y[:2]))
    >>> digests.add(X[2:], np.array(y[2:]))
    >>> digests.result() == (features_digest(X), targets_digest(y))
    True
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape, self._rows = shape, 0
        self._features = _head(b"X", shape)
        self._targets: hashlib._Hash | None = None
        self._texts = False

    def add(self, X: NDArray[np.floating], y: NDArray[np.generic]) -> None:
        """Add rows with their targets or labels.

        Raises
        ------
        ValueError
            If labels are integers beyond 2**53 in size, which are digested as a list of all of them.
        """
        self._features.update(np.ascontiguousarray(X, dtype="<f8").data)
        values, numbers = labels(y)
        if self._targets is None:
            self._texts = numbers is None
            if numbers is None:
                self._targets = hashlib.sha256(_TAG + b"y/labels\0[")
            else:
                self._targets = _head(b"y", (self._shape[0], *numbers.shape[1:]))
        elif self._texts:
            self._targets.update(b",")
        if self._texts:
            if not all(isinstance(one, str) for one in values):
                raise ValueError("labels of a table must be text, or numbers below 2**53 in size, got larger ones")
            text = json.dumps(values, separators=(",", ":"))
            self._targets.update(text[1:-1].encode("ascii"))
        else:
            if numbers is None:
                raise ValueError("labels of a table must be text, or numbers below 2**53 in size, got larger ones")
            self._targets.update(np.ascontiguousarray(numbers, dtype="<f8").data)
        self._rows += len(X)

    def result(self) -> tuple[str, str]:
        """Return both digests, once all rows have been added."""
        if self._rows != self._shape[0] or self._targets is None:
            raise ValueError(f"rows must be {self._shape[0]} in all, got {self._rows}")
        targets = self._targets.copy()
        if self._texts:
            targets.update(b"]")
        return self._features.hexdigest(), targets.hexdigest()


def record_digest(X: ArrayLike, y: ArrayLike, *, salt: bytes) -> str:
    """Return the salted digest of deleted records: rows ``X`` (k, n_features) with their ``y`` (k, ...).

    Anyone who holds the records and the salt can recompute it; without the salt a record cannot be found by guessing.

    Raises
    ------
    ValueError
        If the salt is not 32 bytes, or the arrays are not finite.

    Examples
    --------
    >>> one = record_digest([[1.0, 2.0]], [3.0], salt=bytes(32))
    >>> one == record_digest([[1.0, 2.0]], [3.0], salt=bytes(31) + b"1")
    False
    """
    if len(salt) != 32:
        raise ValueError(f"salt must be 32 bytes, got {len(salt)}")
    rows = _array_hash(b"record.X", _validate.real_array("X", X, ndim=2)).digest()
    return hashlib.sha256(_TAG + b"record\0" + salt + rows + _targets_bytes(b"record.y", y)).hexdigest()


def model_digest(coefficients: ArrayLike) -> str:
    """Return the digest of a linear model's parameters ``coefficients`` (n_columns, n_outputs).

    One row for each column of the design matrix - the features in their order, then the constant column if an intercept
    is fitted - and one column for each output. `expunge.certificates.coefficients_of` extracts them from a fitted
    estimator. A one-dimensional array is read as one output.

    Raises
    ------
    TypeError, ValueError
        If the parameters are not real finite numbers in one or two dimensions.

    Examples
    --------
    >>> model_digest([1.0, 2.0]) == model_digest([[1.0], [2.0]])
    True
    """
    array = _validate.real_array("coefficients", coefficients)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2:
        raise ValueError(f"coefficients must have 1 or 2 dimensions, got shape {array.shape}")
    return _array_hash(b"model", array).hexdigest()
