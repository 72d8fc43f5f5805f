"""Forget sets: the records that an unlearning experiment deletes, chosen by any score and stored with the reason.

A score is one number per record: a privacy loss, an average gradient norm, GraNd, EL2N, the C-proxy, a loss, a count of
forgetting events, an influence (`expunge.evaluation.influence`). Ties go to the lower record number, so that the same
scores give the same set everywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._files import FileFormatError, read_json, write_atomic
from expunge._types import JsonObject
from expunge._validate import count, number, real_array, row_indices, unmasked

__all__ = ["ForgetSet", "bottom_forget_set", "quantile_forget_set", "random_forget_set", "top_forget_set"]

Indices = NDArray[np.int64]

_FORMAT, _VERSION = "expunge forget set", 1
_FIELDS = {"format", "version", "n_records", "how", "indices"}


@dataclass(frozen=True, eq=False)
class ForgetSet:
    """Records to forget, and how they were chosen.

    Parameters
    ----------
    indices : array_like of int, shape (m,)
        Distinct record numbers within [0, n_records): at least one, and not all. Kept in ascending order.
    n_records : int
        Number of records of the data set they belong to.
    how : dict, optional
        What made the set, of JSON values; the functions of this module fill it in.

    Raises
    ------
    TypeError
        If the indices are not integers, or ``how`` holds what JSON cannot.
    ValueError
        If the set is empty or everything, repeats a record, or names one outside the data.

    Examples
    --------
    >>> from expunge.forget_sets import ForgetSet
    >>> chosen = ForgetSet([4, 1], n_records=6)
    >>> chosen.indices.tolist(), chosen.retained.tolist(), len(chosen)
    ([1, 4], [0, 2, 3, 5], 2)
    """

    indices: Indices
    n_records: int
    how: JsonObject = field(default_factory=lambda: {"method": "given"})

    def __post_init__(self) -> None:
        n = count("n_records", self.n_records, low=1)
        chosen = np.sort(row_indices("indices", self.indices, n))
        if chosen.size == n:
            raise ValueError(f"indices must leave something to retain, got all {n} records")
        chosen.flags.writeable = False
        try:
            how = json.loads(json.dumps(self.how, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(f"how must hold JSON values, got {self.how!r}: {error}") from None
        if not isinstance(how, dict):
            raise TypeError(f"how must be a dict, got {type(self.how).__name__}")
        object.__setattr__(self, "indices", chosen)
        object.__setattr__(self, "n_records", n)
        object.__setattr__(self, "how", how)

    def __len__(self) -> int:
        return int(self.indices.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ForgetSet):
            return NotImplemented
        return self.n_records == other.n_records and np.array_equal(self.indices, other.indices)

    def __hash__(self) -> int:
        return hash((self.n_records, self.indices.tobytes()))

    def __repr__(self) -> str:
        return f"ForgetSet({len(self)} of {self.n_records} records, how={self.how})"

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True for the records to forget, shape (n_records,)."""
        mask = np.zeros(self.n_records, dtype=np.bool_)
        mask[self.indices] = True
        return mask

    @property
    def retained(self) -> Indices:
        """The other records, ascending."""
        return np.flatnonzero(~self.mask).astype(np.int64)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the set to a JSON file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool, default False
            Replace an existing file.

        Raises
        ------
        FileExistsError
            If the file exists and may not be replaced.
        """
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "n_records": self.n_records,
            "how": self.how,
            "indices": self.indices.tolist(),
        }
        write_atomic(path, (json.dumps(content) + "\n").encode(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, n_records: int | None = None) -> ForgetSet:
        """Read a set that `save` wrote.

        Parameters
        ----------
        path : path-like
            The file.
        n_records : int, optional
            Length of the data set it is to be used with.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If it holds no forget set.
        ValueError
            If it belongs to data of another length.
        """
        content = read_json(path, what="forget set")
        if not isinstance(content, dict) or content.get("format") != _FORMAT or set(content) != _FIELDS:
            raise FileFormatError(f"path: {path} does not hold a forget set")
        if content["version"] != _VERSION:
            raise FileFormatError(f"path: {path} has version {content['version']!r}, this library reads {_VERSION}")
        try:
            loaded = cls(content["indices"], n_records=content["n_records"], how=content["how"])
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"path: {path} does not hold a valid forget set: {error}") from None
        if n_records is not None and loaded.n_records != count("n_records", n_records, low=1):
            raise ValueError(f"n_records: the set at {path} is of {loaded.n_records} records, got {n_records}")
        return loaded


def top_forget_set(
    scores: ArrayLike, *, size: int | float, labels: ArrayLike | None = None, score_name: str = "score"
) -> ForgetSet:
    """Return the records of highest score.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        One score per record; may be infinite, not NaN.
    size : int or float
        Number of records, or their share, within (0, 1), rounded to at least one record.
    labels : array_like, shape (n,), optional
        Classes: the set then holds each in its share of the data (largest remainders), chosen within the class.
    score_name : str
        What the score is; recorded.

    Returns
    -------
    ForgetSet

    Raises
    ------
    TypeError
        If the scores are not numbers, or the size neither an int nor a float.
    ValueError
        If a score is NaN, the size is 0 or everything, or the labels do not fit.

    Examples
    --------
    >>> from expunge.forget_sets import top_forget_set
    >>> top_forget_set([0.2, 0.9, 0.9, 0.1], size=1).indices.tolist()
    [1]
    >>> top_forget_set([0.2, 0.9, 0.8, 0.1], size=0.5, labels=[0, 1, 1, 0]).indices.tolist()
    [0, 1]
    """
    return _by_rank("top", scores, size, labels, score_name)


def bottom_forget_set(
    scores: ArrayLike, *, size: int | float, labels: ArrayLike | None = None, score_name: str = "score"
) -> ForgetSet:
    """Return the records of lowest score; otherwise as `top_forget_set`.

    Parameters
    ----------
    scores, size, labels, score_name
        As in `top_forget_set`.

    Returns
    -------
    ForgetSet

    Raises
    ------
    TypeError, ValueError
        As `top_forget_set`.

    Examples
    --------
    >>> from expunge.forget_sets import bottom_forget_set
    >>> bottom_forget_set([0.2, 0.9, 0.9, 0.1], size=2).indices.tolist()
    [0, 3]
    """
    return _by_rank("bottom", scores, size, labels, score_name)


def quantile_forget_set(
    scores: ArrayLike,
    *,
    low: float,
    high: float,
    size: int | float | None = None,
    seed: int | None = None,
    labels: ArrayLike | None = None,
    score_name: str = "score",
) -> ForgetSet:
    """Return records whose rank lies between two quantiles: all of them, or a random choice.

    Parameters
    ----------
    scores, labels, score_name
        As in `top_forget_set`. With labels, quantiles are those within each class.
    low, high : float
        Quantiles, 0 <= low < high <= 1: of n records in ascending order those at ``round(low n) .. round(high n) - 1``.
    size : int or float, optional
        Draw so many of them, or such a share of all n, without replacement.
    seed : int, optional
        Of the draw, >= 0; needed with ``size``.

    Returns
    -------
    ForgetSet

    Raises
    ------
    TypeError, ValueError
        As `top_forget_set`; also if the band holds no record or fewer than ``size``.

    Examples
    --------
    >>> from expunge.forget_sets import quantile_forget_set
    >>> quantile_forget_set([5.0, 1.0, 4.0, 2.0, 3.0], low=0.4, high=0.8).indices.tolist()
    [2, 4]
    """
    values = _scores(scores)
    bottom = number("low", low, low=0.0, high=1.0)
    top = number("high", high, low=0.0, high=1.0)
    if not bottom < top:
        raise ValueError(f"low must be below high, got {low} and {high}")
    groups = _groups(labels, values.size)
    bands = []
    for members in groups:
        ranked = members[np.argsort(values[members], kind="stable")]
        bands.append(ranked[_round(bottom * members.size) : _round(top * members.size)])
    if not sum(band.size for band in bands):
        raise ValueError(f"low and high must have records between them, got none of {values.size} in [{low}, {high})")
    how = {"method": "quantile", "score": score_name, "low": bottom, "high": top, "stratified": labels is not None}
    if size is not None:
        if seed is None:
            raise ValueError("seed must be given with size, got None")
        generator = np.random.default_rng(count("seed", seed))
        wanted = _shares(_size(size, values.size), [members.size for members in groups])
        for band, share in zip(bands, wanted, strict=True):
            if share > band.size:
                raise ValueError(f"size must be at most the records between the quantiles ({band.size}), got {share}")
        bands = [generator.permutation(band)[:share] for band, share in zip(bands, wanted, strict=True)]
        how.update(size=int(sum(wanted)), seed=seed)
    return ForgetSet(np.concatenate(bands), n_records=values.size, how=how)


def random_forget_set(*, n_records: int, size: int | float, seed: int, labels: ArrayLike | None = None) -> ForgetSet:
    """Return a uniformly random set; of two sizes with one seed the smaller set lies within the larger.

    Parameters
    ----------
    n_records : int
        Number of records of the data set.
    size, labels
        As in `top_forget_set`. Nesting is that of the class sizes when labels are given.
    seed : int
        >= 0.

    Returns
    -------
    ForgetSet

    Raises
    ------
    TypeError, ValueError
        As `top_forget_set`.

    Examples
    --------
    >>> from expunge.forget_sets import random_forget_set
    >>> small, large = (set(random_forget_set(n_records=50, size=s, seed=1).indices) for s in (5, 20))
    >>> len(small), small < large
    (5, True)
    """
    n = count("n_records", n_records, low=1)
    generator = np.random.default_rng(count("seed", seed))
    how = {"method": "random", "seed": seed, "stratified": labels is not None}
    return _choose(_groups(labels, n), n, size, generator.permutation, how)


def _by_rank(method: str, scores: ArrayLike, size: int | float, labels: ArrayLike | None, name: str) -> ForgetSet:
    values = _scores(scores)
    keys = -values if method == "top" else values

    def ranked(members: Indices) -> Indices:
        return members[np.argsort(keys[members], kind="stable")]

    how = {"method": method, "score": name, "stratified": labels is not None}
    return _choose(_groups(labels, values.size), values.size, size, ranked, how)


def _choose(
    groups: list[Indices], n: int, size: int | float, ranked: Callable[[Indices], Indices], how: dict[str, Any]
) -> ForgetSet:
    wanted = _size(size, n)
    shares = _shares(wanted, [members.size for members in groups])
    chosen = [ranked(members)[:share] for members, share in zip(groups, shares, strict=True)]
    return ForgetSet(np.concatenate(chosen), n_records=n, how={**how, "size": wanted})


def _scores(scores: ArrayLike) -> NDArray[np.float64]:
    values = real_array("scores", scores, ndim=1, allow_infinite=True)
    if values.size < 2:
        raise ValueError(f"scores must be those of at least two records, got {values.size}")
    return values


def _round(value: float) -> int:
    return int(np.floor(value + 0.5))


def _size(size: int | float, n: int) -> int:
    """Return the number of records asked for, checked."""
    if isinstance(size, (float, np.floating)):
        share = number("size", size, low=0.0, high=1.0, open_low=True, open_high=True)
        return min(max(_round(share * n), 1), n - 1)
    wanted = count("size", size, low=1)
    if wanted >= n:
        raise ValueError(f"size must leave something to retain: below {n}, got {wanted}")
    return wanted


def _groups(labels: ArrayLike | None, n: int) -> list[Indices]:
    """Return the members of each class, ascending; one group without labels."""
    if labels is None:
        return [np.arange(n, dtype=np.int64)]
    classes = unmasked("labels", labels)
    if classes.shape != (n,):
        raise ValueError(f"labels must hold one class per record ({n}), got shape {classes.shape}")
    if classes.dtype.kind not in "iubUS":
        raise TypeError(f"labels must be integers, booleans or strings, got dtype {classes.dtype}")
    _, inverse = np.unique(classes, return_inverse=True)
    return [np.flatnonzero(inverse == k).astype(np.int64) for k in range(int(inverse.max()) + 1)]


def _shares(total: int, sizes: list[int]) -> list[int]:
    """Return how many of each class make ``total``: largest remainders, ties to the class that sorts first."""
    n = sum(sizes)
    whole = [total * size // n for size in sizes]
    left = [total * size % n for size in sizes]  # integers: no tie is a matter of rounding
    for k in sorted(range(len(sizes)), key=lambda k: (-left[k], k))[: total - sum(whole)]:
        whole[k] += 1
    return whole
