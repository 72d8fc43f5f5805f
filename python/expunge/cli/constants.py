"""Constants that features are divided by or scaled with, and the map that follows: as typed, and as at the fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge.cli.columns import Found
from expunge.data import Constants, Reading, load

__all__ = ["check_map", "constants_given", "say_remembered"]


def check_map(known: Reading, given: dict[str, Any], constants: Constants | None, data: Found) -> None:
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


def _difference(kept: Constants, given: Constants, data: Found) -> str:
    """Return where constants differ from those of the fit."""
    if kept.values is None:
        return "that of the fit, got another"
    n = data.n_features
    mine, theirs = given.rows(n_features=n), kept.rows(n_features=n)
    j = int(np.flatnonzero((mine != theirs).any(axis=1))[0])
    name = data.feature_names[j] if data.feature_names else str(j)
    shown = [" to ".join(f"{value:g}" for value in rows[j]) for rows in (theirs, mine)]
    return f"{shown[0]} for feature {name}, as at fit, got {shown[1]}: omit it, as the model remembers"


def say_remembered(known: Reading, given: dict[str, Any], data: Found) -> None:
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
    if data.has_ids and given["id_column"] is None:
        said.append(f"ids in column {known.id_column}")
    if data.has_weights and given["weight_column"] is None:
        said.append(f"weights in column {known.weight_column}")
    if known.decimal_comma and given["decimal_comma"] is None:
        said.append("decimal commas")
    if said:
        click.echo(f"read as for fit: {'; '.join(said)}", err=True)


def constants_given(data: Found, divide_by: str | None, bounds: str | None) -> tuple[Constants | None, tuple[str, ...]]:
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


def _constants(path: str, columns: Sequence[str], data: Found) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the constants of a table, one row per feature of the data in their order, by name (or position).

    Also returns what certificates rest on: a column "source" may say that a constant was computed from data.
    """
    table = load(path, features=columns, id_column="feature", with_target=False)
    assert table.ids is not None
    keys = [str(one) for one in table.ids.tolist()]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"{path}: names the feature {twice!r} twice")
    wanted = data.feature_names or tuple(map(str, range(data.n_features)))
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
