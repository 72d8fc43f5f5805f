"""Data as commands read them: the columns, their meaning, and the constants that features are divided by.

A model keeps how the table of its fit was read (`expunge.data.Reading`). Later commands read tables the same way where
nothing is said, and refuse options that say otherwise, as the numbers would mean something else.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge.data import BUNDLED, Constants, Cosines, Dataset, Reading, Task, load, read_task

__all__ = ["Records", "data_options", "known_from", "read_data", "read_records"]


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how data are read; None where nothing is said."""
    options = [
        click.option("--target", type=click.Path(), help="A second file, with the targets."),
        click.option("--target-column", help="Column or array of the targets: a name or a position [default: last]."),
        click.option("--features", multiple=True, help="Columns that are features, as in a,b,c [default: all others]."),
        click.option("--drop", multiple=True, help="Columns to leave out, as in a,b,c."),
        click.option("--id-column", help="Column of ids: whose record each row is; whole numbers or text."),
        click.option("--weight-column", help="Column of the records' weights, numbers >= 0 [default: all weigh 1]."),
        click.option(
            "--header/--no-header",
            default=None,
            help="Whether the first line of a text table names the columns [default: told from its cells].",
        ),
        click.option(
            "--decimal-comma/--decimal-point",
            default=None,
            help="Whether numbers of a text table are written 1,5 or 1.5 [default: 1.5].",
        ),
        click.option(
            "--divide-by",
            help="A constant to divide features by, or a table with columns feature and divide_by [default: 1].",
        ),
        click.option(
            "--bounds",
            type=click.Path(),
            help="A table with columns feature, low and high, known beforehand: features are scaled to [-1, 1].",
        ),
        click.option(
            "--clip/--no-clip",
            default=None,
            help="Whether a value outside its bounds counts as the nearest one [default: it is refused].",
        ),
        click.option("--cosine-features", type=int, help="Replace the features by this many random cosines."),
        click.option("--cosine-scale", type=float, help="Inverse width of the cosines [default: 1]."),
        click.option("--cosine-seed", type=int, help="Their seed [default: 0]."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Records:
    """Data as an estimator takes them.

    Attributes
    ----------
    X : ndarray of shape (n, d), float64
        Features, mapped.
    y : ndarray or None
        Targets as they were read.
    names : tuple of str, or None
        One per column of ``X``; None where there are none, or a map has replaced them.
    ids : ndarray or None
        Whose record each row is.
    notes : tuple of str
        Remarks for the user.
    conditions : tuple of str
        What certificates rest on because of how the features were mapped.
    reading : Reading
        How they were read, for the model to keep.
    weights : ndarray of float64, shape (n,), or None
        Weight of each record; None for 1.
    """

    X: NDArray[np.float64]
    y: NDArray[Any] | None
    names: tuple[str, ...] | None
    ids: NDArray[Any] | None
    notes: tuple[str, ...]
    conditions: tuple[str, ...]
    reading: Reading
    weights: NDArray[np.float64] | None = None


def read_records(
    source: str,
    *,
    known: Reading | None = None,
    names: Sequence[str] | None = None,
    with_target: bool = True,
    needs_ids: bool = False,
    with_weights: bool = False,
    **given: Any,
) -> Records:
    """Return the records of a source, their features mapped.

    Parameters
    ----------
    source : str
        A file, or the name of a bundled set.
    known : Reading, optional
        How the model's table was read: so is this one, and options that say otherwise are refused.
    names : sequence of str, optional
        Names of the model's features, where no more is known.
    with_target : bool
        Whether targets are read.
    needs_ids : bool
        Whether a table without the model's column of ids is refused.
    with_weights : bool
        Whether the model's column of weights is read.
    **given
        Options as they were typed; see `data_options`.
    """
    options = _columns_asked(source, known, names, given, with_target=with_target, with_weights=with_weights)
    data = _loaded(source, options, known, names, needs_ids=needs_ids)
    constants, conditions = _constants_given(data, given["divide_by"], given["bounds"])
    if known is None:
        constants = None if constants is not None and constants.changes_nothing else constants
        kept = constants.sealed(n_features=data.X.shape[1]) if constants is not None and conditions else constants
        reading = _reading(data, given, kept)
    else:
        reading = known
        _check_columns(source, data, known, given, with_target=with_target)
        _check_map(known, given, constants, data)
        _say(known, given, data)
        constants = None if known.constants is None else constants
    try:
        X = reading.mapped(data.X, constants=constants, names=data.feature_names)
    except ValueError as error:
        text = str(error).replace("outside='clip'", "--clip")
        raise ValueError(f"{source if given['bounds'] is None else given['bounds']}: {text}") from None
    kept_names = data.feature_names if reading.cosines is None else None
    return Records(X, data.y, kept_names, data.ids, data.notes, conditions, reading, data.weights)


def known_from(model: Any) -> dict[str, Any]:
    """Return what a model knows of how its table was read, as `read_records` takes it."""
    names = getattr(model, "feature_names_in_", None)
    return {
        "known": getattr(model, "reading_", None),
        "names": None if names is None else tuple(map(str, names)),
    }


def read_data(source: str, *, task: str = "auto", **options: Any) -> tuple[Records, Task]:
    """Return the records of a source and their targets, which must exist, read as classes or numbers."""
    records = read_records(source, **options)
    if records.y is None:
        raise ValueError(f"{source}: holds no targets; give --target or --target-column")
    return records, read_task(records.y, task=task)


# --- columns -------------------------------------------------------------------------------------


def _is_bundled(source: str) -> bool:
    return source in BUNDLED and not Path(source).exists()


def _is_table(source: str) -> bool:
    """Return whether a source is a table of columns rather than arrays."""
    if _is_bundled(source):
        return True
    path = Path(source)
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".csv", ".tsv", ".txt", ".tab", ".parquet", ".pq")) and not path.is_dir()


def _columns_asked(
    source: str,
    known: Reading | None,
    names: Sequence[str] | None,
    given: dict[str, Any],
    *,
    with_target: bool,
    with_weights: bool,
) -> dict[str, Any]:
    """Return the options of `load`: those that were typed, and else those of the fit."""
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
    table = _is_table(source)
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
        if not _is_bundled(source):  # whose targets are known
            options["target_column"] = known.target
    return options


def _loaded(
    source: str, options: dict[str, Any], known: Reading | None, names: Sequence[str] | None, *, needs_ids: bool
) -> Dataset:
    try:
        return load(source, **options)
    except ValueError as error:
        text = str(error)
        missing = "there is no column" in text or "there is no array" in text
        if known is None:
            if names is not None and "features: there is no column" in text:
                raise ValueError(f"{text}; the model was fitted with it: name others with --features") from None
            raise
        if missing and "id_column" in text and not needs_ids and options["id_column"] == known.id_column:
            return load(source, **{**options, "id_column": None})
        if missing:
            raise ValueError(f"{text}; the model was fitted with it") from None
        raise


def _check_columns(source: str, data: Dataset, known: Reading, given: dict[str, Any], *, with_target: bool) -> None:
    """Refuse columns that are not those of the fit."""
    found = data.columns
    if given["weight_column"] is not None and known.weight_column is None:
        raise ValueError("--weight-column must be omitted: the model was fitted without weights")
    if data.X.shape[1] != known.n_features:
        raise ValueError(
            f"{source}: the model takes {known.n_features} features, got {data.X.shape[1]}: choose by --features, "
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


# --- constants and map ---------------------------------------------------------------------------


def _reading(data: Dataset, given: dict[str, Any], constants: Constants | None) -> Reading:
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
        n_features=data.X.shape[1],
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


def _check_map(known: Reading, given: dict[str, Any], constants: Constants | None, data: Dataset) -> None:
    """Refuse constants and a map of the features that are not those of the fit."""
    kept, cosines = known.constants, known.cosines
    option = {"divide_by": "--divide-by", "bounds": "--bounds"}
    as_at_fit = "as the model was fitted; omit it, as the model remembers"
    if constants is not None and kept is None:
        if not constants.changes_nothing:
            raise ValueError(f"{option[constants.kind]} must be omitted: the model was fitted without")
    elif constants is not None and kept is not None:
        if constants.kind != kept.kind:
            raise ValueError(f"{option[constants.kind]} must be omitted: the model was fitted with {option[kept.kind]}")
        if not kept.same_as(constants, n_features=known.n_features):
            raise ValueError(f"{option[kept.kind]} must be {_difference(kept, constants, data)}")
    elif kept is not None and kept.values is None:
        raise ValueError(
            f"{option[kept.kind]} must be given: that of the fit was computed from the data, and is not kept"
        )
    if given["clip"] not in (None, known.clip):
        typed, how = ("--clip", "without") if given["clip"] else ("--no-clip", "with")
        raise ValueError(f"{typed} must be omitted: the model was fitted {how} clipping")
    for name, value in (
        ("cosine_features", cosines and cosines.n_features),
        ("cosine_scale", cosines and cosines.scale),
        ("cosine_seed", cosines and cosines.seed),
    ):
        if given[name] is not None and given[name] != value:
            typed = f"--{name.replace('_', '-')}"
            if cosines is None:
                raise ValueError(f"{typed} must be omitted: the model was fitted without")
            raise ValueError(f"{typed} must be {value}, {as_at_fit}; got {given[name]}")


def _difference(kept: Constants, given: Constants, data: Dataset) -> str:
    """Return where constants differ from those of the fit."""
    if kept.values is None:
        return "that of the fit, got another"
    n = data.X.shape[1]
    mine, theirs = given.rows(n_features=n), kept.rows(n_features=n)
    j = int(np.flatnonzero((mine != theirs).any(axis=1))[0])
    name = data.feature_names[j] if data.feature_names else str(j)
    shown = [" to ".join(f"{value:g}" for value in rows[j]) for rows in (theirs, mine)]
    return f"{shown[0]} for feature {name}, as at fit, got {shown[1]}: omit it, as the model remembers"


def _say(known: Reading, given: dict[str, Any], data: Dataset) -> None:
    """Print what was remembered rather than given, on one line."""
    said = []
    kept, cosines = known.constants, known.cosines
    if kept is not None and given["divide_by"] is None and given["bounds"] is None:
        if kept.kind == "bounds":
            said.append(f"features scaled to [-1, 1] by their bounds{', clipped' if known.clip else ''}")
        else:
            values = {row[0] for row in kept.values or ()}
            said.append(f"features divided by {f'{values.pop():g}' if len(values) == 1 else 'their constants'}")
    if cosines is not None and given["cosine_features"] is None:
        said.append(f"{cosines.n_features} random cosines of scale {cosines.scale:g} and seed {cosines.seed}")
    if data.ids is not None and given["id_column"] is None:
        said.append(f"ids in column {known.id_column}")
    if data.weights is not None and given["weight_column"] is None:
        said.append(f"weights in column {known.weight_column}")
    if known.decimal_comma and given["decimal_comma"] is None:
        said.append("decimal commas")
    if said:
        click.echo(f"read as for fit: {'; '.join(said)}", err=True)


def _constants_given(
    data: Dataset, divide_by: str | None, bounds: str | None
) -> tuple[Constants | None, tuple[str, ...]]:
    """Return the constants that were typed, and what certificates rest on because of these."""
    if bounds is not None:
        if divide_by is not None:
            raise ValueError("--bounds and --divide-by exclude each other, got both")
        rows, conditions = _constants(bounds, ("low", "high"), data)
        return Constants("bounds", tuple(map(tuple, rows.tolist()))), conditions
    if divide_by is None:
        return None, ()
    conditions = ()
    try:
        values = np.array([[float(divide_by)]])
    except ValueError:
        if not Path(divide_by).exists():
            raise ValueError(f"divide_by must be a number or a file that exists, got {divide_by!r}") from None
        values, conditions = _constants(divide_by, ("divide_by",), data)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"divide_by must be > 0 and finite, got {values[~(values > 0)].min(initial=np.inf):g}")
    return Constants("divide_by", tuple(map(tuple, values.tolist()))), conditions


def _constants(path: str, columns: Sequence[str], data: Dataset) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the constants of a table, one row per feature of the data in their order, by name (or position).

    Also returns what certificates rest on: a column "source" may say that a constant was computed from data.
    """
    table = load(path, features=columns, id_column="feature", with_target=False)
    assert table.ids is not None
    keys = [str(one) for one in table.ids.tolist()]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"{path}: names the feature {twice!r} twice")
    wanted = data.feature_names or tuple(map(str, range(data.X.shape[1])))
    for name in wanted:
        if name not in keys:
            raise ValueError(f"{path}: says nothing about the feature {name!r}")
    for key in keys:
        if key not in wanted:
            raise ValueError(f"{path}: names {key!r}, which is none of the features {', '.join(wanted[:20])}")
    from expunge.certificates import CONDITIONS  # imported when called: commands start without the library

    conditions = (CONDITIONS["scale"],) if _from_data(path, columns[0]) else ()
    return np.asarray(table.X[[keys.index(name) for name in wanted]]), conditions


def _from_data(path: str, column: str) -> bool:
    """Return whether a table of constants says that they, or some, were computed from data, as ``bounds`` writes."""
    try:
        sources = load(path, features=[column], id_column="feature", target_column="source").y
    except ValueError as error:
        if "there is no column" in str(error):
            return False
        raise
    return sources is not None and any(str(one).strip().lower() == "data" for one in sources.tolist())
