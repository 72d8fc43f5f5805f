"""Data as commands read them: the columns, their meaning, and the constants that features are divided by.

A model keeps how the table of its fit was read (`expunge.data.Reading`). Later commands read tables the same way where
nothing is said, and refuse options that say otherwise, as the numbers would mean something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge.cli.columns import Found, check_columns, columns_asked, is_table, reading_of, with_columns
from expunge.cli.constants import check_map, constants_given, say_remembered
from expunge.data import Constants, Reading, Task, load, read_task

__all__ = ["Records", "data_options", "how_read", "known_from", "read_data", "read_records"]


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
        click.option(
            "--stream/--in-memory",
            default=None,
            help="Whether rows stay where they lie and are read in blocks [default: of folders and addresses].",
        ),
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
    options = columns_asked(
        source, known, names, given, table=is_table(source), with_target=with_target, with_weights=with_weights
    )
    data = with_columns(lambda some: load(source, **some), options, known, names, needs_ids=needs_ids)
    reading, constants, conditions = how_read(source, Found.of(data), known, given, with_target=with_target)
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


def how_read(
    source: str, data: Found, known: Reading | None, given: dict[str, Any], *, with_target: bool
) -> tuple[Reading, Constants | None, tuple[str, ...]]:
    """Return how a source is read, constants that the reading does not keep, and what certificates rest on.

    Options that say otherwise than ``known``, the reading of the fit, are refused, and what it remembers is printed.
    """
    constants, conditions = constants_given(data, given["divide_by"], given["bounds"])
    if known is None:
        constants = None if constants is not None and constants.changes_nothing else constants
        kept = constants.sealed(n_features=data.n_features) if constants is not None and conditions else constants
        return reading_of(data, given, kept), constants, conditions
    check_columns(source, data, known, given, with_target=with_target)
    check_map(known, given, constants, data)
    say_remembered(known, given, data)
    return known, None if known.constants is None else constants, conditions
