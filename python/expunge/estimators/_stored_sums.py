"""Sums over a table in model files: written, read, and refused where no table and no run has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._files.values import digest, whole
from expunge._types import JsonObject
from expunge.data.close_products import Gram, Moment
from expunge.data.sums_checks import Sums, check_sums
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["check", "read", "written"]

Array = NDArray[np.float64]

_ARRAYS = ("gram", "moment", "moment_rest", "target_sums", "target_squares")


def written(sums: TableSums) -> tuple[JsonObject, dict[str, Array]]:
    """Return sums as JSON values and arrays."""
    row, length = sums.longest
    header: JsonObject = {
        "n_records": sums.n_records,
        "gram_roundings": float(sums.gram.roundings).hex(),
        "gram_rest": float(sums.gram.rest).hex(),
        "longest": [int(row), float(length).hex()],
        "digest": sums.digest,
    }
    moment = sums.moment
    values = (sums.gram.value, moment.value, moment.rest, sums.target_sums, sums.target_squares)
    return header, dict(zip(_ARRAYS, values, strict=True))


def read(stored: Any, arrays: Mapping[str, Array]) -> TableSums:
    """Return sums from JSON values and arrays, which `check` has still to see.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or of the wrong kind.
    """
    gram, moment, rest, sums, squares = (arrays[name] for name in _ARRAYS)
    row, length = stored["longest"]
    return TableSums(
        whole("n_records of sums", stored["n_records"], low=1),
        Gram(gram, float.fromhex(stored["gram_roundings"]), float.fromhex(stored["gram_rest"])),
        Moment(moment, rest),
        sums,
        squares,
        (whole("longest row", row), float.fromhex(length)),
        digest("digest of sums", stored["digest"]),
    )


def check(sums: TableSums, *, columns: int, outputs: int, n_records: int, intercept: bool, classify: bool) -> None:
    """Check sums as read.

    Parameters
    ----------
    sums : TableSums
        As read.
    columns, outputs : int
        Of the model.
    n_records : int
        Records in use, as its history says.
    intercept, classify : bool
        Whether the last column is constant, and whether targets are classes.

    Raises
    ------
    ValueError
        Naming what no table and no run has.
    """
    if sums.n_records != n_records:
        raise ValueError(f"n_records of sums must be that of the history, {n_records}, got {sums.n_records}")
    found = Sums(n_records, sums.gram, sums.moment, sums.target_sums, sums.target_squares, sums.longest)
    check_sums(found, columns=columns, outputs=outputs, intercept=intercept, classify=classify)
