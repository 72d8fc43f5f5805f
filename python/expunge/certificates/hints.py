"""Hints at what may be wrong with data whose digest is not the certified one: guesses, each tried by its digest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.certificates.digest import features_digest, targets_digest
from expunge.runs.base import Run

__all__ = ["features_hint", "targets_hint"]

# Constants that features are commonly divided by.
_FACTORS = (255.0, 256.0, 16.0, 10.0, 100.0, 1000.0, 2.0)
_MOST_PERMUTED = 6
# Most numbers that all guesses together may digest: a few seconds.
_MOST_NUMBERS = 2e8


def features_hint(X: ArrayLike, needed: str, run: Run[Any], *, targets_match: bool) -> str:
    """Return what may be wrong with features whose digest is not ``needed``."""
    given = np.asarray(X)
    if given.ndim != 2 or given.dtype.kind not in "fiub":
        return ""
    shape = _shape_hint(given.shape[0], run)
    if shape:
        return shape
    if given.shape[1] != run.n_features:
        extra = " (was the constant column or the target left in, or a column dropped?)"
        return f"X has {given.shape[1]} columns, but {run.n_features} were certified{extra}"
    array = np.asarray(given, dtype=np.float64)
    spent = 0.0
    for guess, hint in _changed(array):
        spent += guess.size
        if spent > _MOST_NUMBERS:
            break
        if np.isfinite(guess).all() and features_digest(guess) == needed:
            return hint
    if targets_match:
        return (
            "y is as certified, so the rows are likely the same, in order: are the columns, and were features divided "
            "by the same constant (--divide-by)?"
        )
    return "neither X nor y match: are these the same rows, in the same order, with the same --divide-by?"


def _shape_hint(n: int, run: Run[Any]) -> str:
    if n == run.n_records - len(run.deleted):
        return f"{n} rows are what the deletion left; give the data of the first fit, deleted rows included"
    return "" if n == run.n_records else f"there are {n} rows, but {run.n_records} were certified"


def _changed(array: NDArray[np.float64]) -> Iterator[tuple[NDArray[np.float64], str]]:
    yield array[:, ::-1], "it matches with the columns reversed"
    yield array[::-1], "it matches with the rows reversed"
    yield array[::-1, ::-1], "it matches with rows and columns reversed"
    for factor in _FACTORS:
        yield array / factor, f"it matches after dividing by {factor:g}: was --divide-by the same?"
        with np.errstate(over="ignore"):  # an infinite result is no guess
            larger = array * factor
        yield larger, f"it matches after multiplying by {factor:g}: was --divide-by the same?"
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32).astype(np.float64)
    yield rounded, "it matches after rounding to float32"
    yield array[np.lexsort(array.T[::-1])], "it matches with the rows sorted: they are in another order"
    if array.shape[1] <= _MOST_PERMUTED:
        for order in itertools.permutations(range(array.shape[1])):
            yield array[:, order], f"it matches with the columns in the order {list(order)}"


def targets_hint(y: ArrayLike, needed: str, run: Run[Any]) -> str:
    """Return what may be wrong with targets whose digest is not ``needed``, the features being as certified."""
    given = np.asarray(y)
    if given.ndim not in (1, 2):
        return ""
    shape = _shape_hint(given.shape[0], run)
    if shape:
        return shape
    guesses: list[tuple[ArrayLike, str]] = [(given[::-1], "it matches with the rows reversed")]
    if given.ndim == 2:
        guesses.append((given[:, ::-1], "it matches with the columns reversed"))
    if given.dtype.kind in "iuf":
        guesses.append((given.astype(str), "it matches as text: labels were read as numbers"))
    for guess, hint in guesses:
        if targets_digest(guess) == needed:
            return hint
    if given.dtype.kind in "UO":
        try:
            numbers = given.astype(np.float64)
        except (TypeError, ValueError):
            numbers = None
        if numbers is not None and np.isfinite(numbers).all() and targets_digest(numbers) == needed:
            return "it matches as numbers: labels were read as text"
    return "X is as certified: is this the same target column, in the same units?"
