"""Columns of tables as commands read them: those that were asked for, and those of the fit."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from expunge.data import BUNDLED, Constants, Cosines, Dataset, Reading
from expunge.data.tables import Columns

__all__ = ["Found", "check_columns", "columns_asked", "is_table", "reading_of", "with_columns"]

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """Columns that were found in a source.

    Attributes
    ----------
    n_features : int
    feature_names : tuple of str, or None
        Names of the features, where the source names them one by one.
    columns : Columns or None
        Columns of a table; None for arrays.
    has_ids, has_weights : bool
    """

    n_features: int
    feature_names: tuple[str, ...] | None
    columns: Columns | None
    has_ids: bool
    has_weights: bool

    @classmethod
    def of(cls, data: Dataset) -> Found:
        """Return what was found in a data set in memory."""
        return cls(data.X.shape[1], data.feature_names, data.columns, data.ids is not None, data.weights is not None)


def is_bundled(source: str) -> bool:
    return source in BUNDLED and not Path(source).exists()


def is_table(source: str) -> bool:
    """Return whether a source is a table of columns rather than arrays."""
    if is_bundled(source):
        return True
    path = Path(source)
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".csv", ".tsv", ".txt", ".tab", ".parquet", ".pq")) and not path.is_dir()


def columns_asked(
    source: str,
    known: Reading | None,
    names: Sequence[str] | None,
    given: dict[str, Any],
    *,
    table: bool,
    with_target: bool,
    with_weights: bool,
) -> dict[str, Any]:
    """Return the options of `load`: those that were typed, and else those of the fit.

    ``table`` says whether the source has columns, rather than arrays.
    """
    features = _listed(given["features"])
    options: dict[str, Any] = {
        "target": given["target"],
        "target_column": given["target_column"],
        "features": features,
        "drop": _listed(given["drop"]) or (),
        "id_column": given["id_column"],
        "weight_column": given["weight_column"],
        "with_target": with_target,
        "header": given["header"],
        "decimal_comma": bool(given["decimal_comma"]),
    }
    if known is None:
        if features is None and names is not None and table:
            options["features"] = list(names)
        return options
    if options["header"] is None:
        options["header"] = known.header
    if given["decimal_comma"] is None:
        options["decimal_comma"] = known.decimal_comma
    named_arrays = known.features is None and Path(source).suffix.lower() == ".npz"
    if not named_arrays and not (table and known.features is not None):
        return options  # columns of a table mean nothing to arrays, nor the other way round
    if options["id_column"] is None:
        options["id_column"] = known.id_column
    if options["weight_column"] is None and with_weights:
        options["weight_column"] = known.weight_column
    if features is None:
        options["features"] = None if known.features is None else list(known.features)
    if with_target and given["target"] is None and given["target_column"] is None:
        if known.target_apart and table:
            raise ValueError(f"{source}: --target must name the file of the targets, which had a file of their own")
        if not is_bundled(source):  # whose targets are known
            options["target_column"] = known.target
    return options


def with_columns(
    read: Callable[[dict[str, Any]], T],
    options: dict[str, Any],
    known: Reading | None,
    names: Sequence[str] | None,
    *,
    needs_ids: bool,
) -> T:
    """Return what ``read`` makes of options; columns of the fit that are missing are refused, or done without."""
    try:
        return read(options)
    except ValueError as error:
        text = str(error)
        missing = "there is no column" in text or "there is no array" in text
        if known is None:
            if names is not None and "features: there is no column" in text:
                raise ValueError(f"{text}; the model was fitted with it: name others with --features") from None
            raise
        if missing and "id_column" in text and not needs_ids and options["id_column"] == known.id_column:
            return read({**options, "id_column": None})
        if missing:
            raise ValueError(f"{text}; the model was fitted with it") from None
        raise


def check_columns(source: str, data: Found, known: Reading, given: dict[str, Any], *, with_target: bool) -> None:
    """Refuse columns that are not those of the fit."""
    found = data.columns
    if given["weight_column"] is not None and known.weight_column is None:
        raise ValueError("--weight-column must be omitted: the model was fitted without weights")
    if data.n_features != known.n_features:
        raise ValueError(
            f"{source}: the model takes {known.n_features} features, got {data.n_features}: choose by --features, "
            "--drop, --target-column"
        )
    if found is None or known.features is None:
        return
    if known.named and found.names is None:
        return  # a table without a header, whose columns were named by position
    if not known.named and found.n_columns != known.n_columns:
        n = known.n_columns or 0
        if with_target or known.target != n - 1 or found.n_columns != n - 1:
            raise ValueError(
                f"{source}: must have {n} columns, as the table of the fit, whose columns have no names; got "
                f"{found.n_columns}"
            )

    def told(position: int | None) -> str | int | None:
        return found.told(position) if known.named else position

    features = tuple(map(told, found.features))
    if features != known.features:
        pairs = list(zip_longest(known.features, features))
        wrong = next(i for i, (theirs, mine) in enumerate(pairs) if theirs != mine)
        raise ValueError(
            f"{source}: --features must be those of the fit in their order, {pairs[wrong][0]!r} as number {wrong + 1}, "
            f"got {pairs[wrong][1]!r}: omit --features, or rename the columns"
        )
    asked = [
        ("--id-column", given["id_column"], told(found.ids), known.id_column),
        ("--weight-column", given["weight_column"], told(found.weights), known.weight_column),
    ]
    if with_target:
        asked.append(("--target-column", given["target_column"], told(found.target), known.target))
    for option, typed, mine, theirs in asked:
        if typed is not None and theirs is not None and mine != theirs:
            raise ValueError(
                f"{source}: {option} must be {theirs!r}, as at fit, got {mine!r}: omit it, or rename the column"
            )


def _listed(texts: Sequence[str]) -> list[str] | None:
    """Return the columns of ``a,b,c``; a name with a comma must be quoted."""
    if not texts:
        return None
    return [name.strip() for text in texts for name in next(csv.reader([text], skipinitialspace=True))]


def reading_of(data: Found, given: dict[str, Any], constants: Constants | None) -> Reading:
    """Return how the table of a fit was read."""
    columns, cosines = data.columns, None
    if given["clip"] and (constants is None or constants.kind != "bounds"):
        raise ValueError("--clip needs --bounds")
    if given["cosine_features"] is not None:
        scale, seed = given["cosine_scale"], given["cosine_seed"]
        cosines = Cosines(given["cosine_features"], 1.0 if scale is None else scale, 0 if seed is None else seed)
    elif given["cosine_scale"] is not None or given["cosine_seed"] is not None:
        raise ValueError("--cosine-scale and --cosine-seed need --cosine-features")
    return Reading(
        n_features=data.n_features,
        n_columns=None if columns is None else columns.n_columns,
        features=None
        if columns is None
        else tuple(one for one in map(columns.told, columns.features) if one is not None),
        target=given["target_column"] if columns is None else columns.told(columns.target),
        target_apart=given["target"] is not None,
        id_column=given["id_column"] if columns is None else columns.told(columns.ids),
        weight_column=given["weight_column"] if columns is None else columns.told(columns.weights),
        header=False if columns is not None and columns.names is None else None,
        decimal_comma=bool(given["decimal_comma"]),
        constants=constants,
        clip=bool(given["clip"]),
        cosines=cosines,
    )
