"""Data as commands read them: the columns, their meaning, and the constants that features are divided by.

The options given to ``fit`` must be given again to ``verify``, ``predict`` and ``evaluate``: a model knows the names
of its features, but not what they were divided by.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge.data import Dataset, Task, load, random_cosine_features, read_task

__all__ = ["Records", "data_options", "read_data", "read_records"]


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how data are read."""
    options = [
        click.option("--target", type=click.Path(), help="A second file, with the targets."),
        click.option("--target-column", help="Column or array of the targets: a name or a position [default: last]."),
        click.option("--features", multiple=True, help="Columns that are features, as in a,b,c [default: all others]."),
        click.option("--drop", multiple=True, help="Columns to leave out, as in a,b,c."),
        click.option("--id-column", help="Column of ids: whose record each row is; whole numbers or text."),
        click.option("--no-header", is_flag=True, help="The first line of a text table is a record."),
        click.option("--decimal-comma", is_flag=True, help="Numbers of a text table are written 1,5."),
        click.option(
            "--divide-by",
            default="1",
            show_default=True,
            help="A constant to divide features by, or a table with columns feature and divide_by.",
        ),
        click.option(
            "--bounds",
            type=click.Path(),
            help="A table with columns feature, low and high, known beforehand: features are scaled to [-1, 1].",
        ),
        click.option("--clip", is_flag=True, help="Take the nearest bound for a value outside its bounds."),
        click.option("--cosine-features", type=int, help="Replace the features by this many random cosines."),
        click.option(
            "--cosine-scale", type=float, default=1.0, show_default=True, help="Inverse width of the cosines."
        ),
        click.option("--cosine-seed", type=int, default=0, show_default=True, help="Their seed."),
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
    """

    X: NDArray[np.float64]
    y: NDArray[Any] | None
    names: tuple[str, ...] | None
    ids: NDArray[Any] | None
    notes: tuple[str, ...]
    conditions: tuple[str, ...]


def read_records(source: str, *, with_target: bool = True, names: Sequence[str] | None = None, **given: Any) -> Records:
    """Return the records of a source, their features mapped; ``names`` are the features unless options say others."""
    options = dict(given)
    columns = _listed(options["features"])
    if columns is None and names is not None and _has_names(source):
        try:
            return read_records(source, with_target=with_target, **{**options, "features": tuple(map(_quoted, names))})
        except ValueError as error:
            if "features: there is no column" not in str(error):
                raise
            raise ValueError(f"{error}; the model was fitted with it: name others with --features") from None
    data = load(
        source,
        target=options["target"],
        target_column=options["target_column"],
        features=columns,
        drop=_listed(options["drop"]) or (),
        id_column=options["id_column"],
        with_target=with_target,
        header=False if options["no_header"] else None,
        decimal_comma=options["decimal_comma"],
    )
    X, conditions = _mapped(data, options["divide_by"], options["bounds"], clip=options["clip"])
    kept = data.feature_names
    if options["cosine_features"] is not None:
        X = random_cosine_features(
            X, n_features=options["cosine_features"], scale=options["cosine_scale"], seed=options["cosine_seed"]
        )
        kept = None
    return Records(X, data.y, kept, data.ids, data.notes, conditions)


def read_data(source: str, *, task: str = "auto", **options: Any) -> tuple[Records, Task]:
    """Return the records of a source and their targets, which must exist, read as classes or numbers."""
    records = read_records(source, **options)
    if records.y is None:
        raise ValueError(f"{source}: holds no targets; give --target or --target-column")
    return records, read_task(records.y, task=task)


def _has_names(source: str) -> bool:
    return Path(source).suffix.lower() not in (".npy", ".npz") and not Path(source).is_dir()


def _listed(texts: Sequence[str]) -> list[str] | None:
    """Return the columns of ``a,b,c``; a name with a comma must be quoted."""
    if not texts:
        return None
    return [name.strip() for text in texts for name in next(csv.reader([text], skipinitialspace=True))]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _mapped(
    data: Dataset, divide_by: str, bounds: str | None, *, clip: bool
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the features divided by or scaled with constants, and what certificates rest on because of these."""
    if bounds is None:
        if clip:
            raise ValueError("--clip needs --bounds")
        divisor, conditions = _divisor(data, divide_by)
        return data.X / divisor, conditions
    if divide_by != "1":
        raise ValueError("--bounds and --divide-by exclude each other, got both")
    from expunge.data.scaling import ConstantScaler

    constants, conditions = _constants(bounds, ("low", "high"), data)
    scaler = ConstantScaler(constants[:, 0], constants[:, 1], outside="clip" if clip else "refuse")
    try:
        X = scaler.fit_transform(data.X)
    except ValueError as error:
        text = str(error).replace("outside='clip'", "--clip")
        for j, name in enumerate(data.feature_names or ()):
            text = text.replace(f"feature {j}:", f"feature {name}:")
        raise ValueError(f"{bounds}: {text}") from None
    return np.asarray(X), conditions


def _divisor(data: Dataset, text: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    conditions: tuple[str, ...] = ()
    try:
        values = np.array(float(text))
    except ValueError:
        if not Path(text).exists():
            raise ValueError(f"divide_by must be a number or a file that exists, got {text!r}") from None
        table, conditions = _constants(text, ("divide_by",), data)
        values = table[:, 0]
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"divide_by must be > 0 and finite, got {values[~(values > 0)].min(initial=np.inf):g}")
    return values, conditions


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
