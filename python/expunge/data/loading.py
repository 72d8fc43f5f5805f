"""Reading a data set, its targets or its ids from a file or from scikit-learn."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._types import AnyArray
from expunge._validate import real_array
from expunge.data.arrays import read_npy
from expunge.data.formats import Options, Raw, bundled, of_table, read, reading, table_in
from expunge.data.identifiers import exact_ids
from expunge.data.numbers import checked_targets, real_numbers
from expunge.data.tables import Columns, stacked

__all__ = ["BUNDLED", "Dataset", "load", "load_ids", "load_targets"]

BUNDLED = ("digits", "breast_cancer", "diabetes", "wine", "iris")
"""Names of the data sets that ship with scikit-learn."""


@dataclass(frozen=True)
class Dataset:
    """Records and targets.

    Attributes
    ----------
    X : ndarray of shape (n, d), float64
        One row per record, finite.
    y : ndarray of shape (n,) or (n, q), int64, float64 or str, or None
        Targets; int64 where the source holds whole numbers or booleans, text as it is, float64 otherwise; None if there
        are none.
    name : str
        Where they came from.
    feature_names : tuple of str, or None
        Names of the columns of ``X``, where the source names them one by one.
    ids : ndarray of shape (n,), int64, object (Python integers beyond 64 bits) or str, or None
        Who each record is about, exactly; None unless asked for.
    target_name : str or None
        Column of the targets.
    notes : tuple of str
        What a person should know about how the source was read.
    columns : Columns or None
        Columns of the table that were read; None for a file of arrays.
    weights : ndarray of float64, shape (n,), or None
        Weight of each record, >= 0; None unless asked for.
    """

    X: NDArray[np.float64]
    y: AnyArray | None
    name: str
    feature_names: tuple[str, ...] | None = None
    ids: AnyArray | None = None
    target_name: str | None = None
    notes: tuple[str, ...] = ()
    columns: Columns | None = None
    weights: NDArray[np.float64] | None = None


def load(
    source: str | os.PathLike[str],
    *,
    target: str | os.PathLike[str] | None = None,
    target_column: str | int | None = None,
    features: Sequence[str | int] | None = None,
    drop: Sequence[str | int] = (),
    id_column: str | int | None = None,
    weight_column: str | int | None = None,
    with_target: bool = True,
    header: bool | None = None,
    decimal_comma: bool = False,
    divide_by: ArrayLike = 1.0,
) -> Dataset:
    """Return the records and targets of a file or of a data set that ships with scikit-learn.

    Parameters
    ----------
    source : str or path-like
        One of ``BUNDLED``, or a file: ``.csv``, ``.tsv`` or ``.txt`` (cells between commas, semicolons, tabs or bars;
        plain or ``.gz``), ``.parquet`` (columns of numbers or of fixed-size lists of numbers; needs
        ``expunge[parquet]``), ``.npy`` (n, ...), ``.npz`` (arrays X and y, or x_train and y_train), IDX (``-ubyte`` or
        ``.idx``, plain or ``.gz``), or a CIFAR-10 python batch (or the folder of all five training batches). Axes after
        the first are flattened. Booleans count as 0 and 1.
    target : str or path-like, optional
        A second file that holds the targets. For IDX images the labels beside them are found by their usual name.
    target_column : str or int, optional
        Which column (of a table) or array (of an ``.npz``) holds the targets: a name, or a position counted from 0
        (from the end if negative). The last column that is nothing else when omitted.
    features, drop : sequence of str or int, optional
        Columns of a table to read as features, in this order; columns to leave out. All that are nothing else are
        features when ``features`` is omitted, but for the row index that pandas writes.
    id_column : str or int, optional
        Column (or array) that says who a record is about: whole numbers of any size, or text.
    weight_column : str or int, optional
        Column (or array) of the records' weights, numbers >= 0.
    with_target : bool, default True
        Whether there are targets. Without, no column is taken for them unless ``target_column`` names it.
    header : bool, optional
        Whether the first line of a text table names the columns; told from its cells when omitted.
    decimal_comma : bool, default False
        Whether numbers of a text table are written 1,5.
    divide_by : float or array-like of shape (d,), default 1.0
        Positive constants to divide X by, chosen without looking at the data: 255 for images, 16 for the digits.

    Returns
    -------
    Dataset
        ``X`` float64 and C-contiguous.

    Raises
    ------
    FileNotFoundError
        If ``source`` or ``target`` is neither a file nor a bundled name.
    ValueError
        If a file is truncated, ragged, empty, not of its format, names two columns alike, or holds NaN, infinity,
        nothing or text where numbers are needed, or if X and y differ in length; the message names the file and the
        place in it.
    ImportError
        For Parquet without pyarrow.

    Examples
    --------
    >>> data = load("iris")
    >>> data.X.shape, data.y.shape
    ((150, 4), (150,))
    """
    factor = real_array("divide_by", divide_by, low=0, open_low=True)
    options = Options(
        target_column,
        features,
        tuple(drop),
        id_column,
        with_target and target is None,
        header,
        decimal_comma,
        weight_column,
    )
    path = Path(source)
    if str(source) in BUNDLED and not path.exists():
        if target is not None or target_column is not None:
            raise ValueError(f"target and target_column do not apply to the bundled set {source}")
        with reading(path):
            raw = of_table(bundled(str(source)), options)
    else:
        raw = read(_existing("source", path), options)
    found: Any = raw.y
    if target is not None:
        found = load_targets(target, n_rows=len(raw.X))
    elif with_target and raw.y is None and target_column is None and (labels := _labels_beside(path)) is not None:
        found = load_targets(labels)
    return _checked(raw, found, str(source), factor)


def load_targets(source: str | os.PathLike[str], *, n_rows: int | None = None) -> AnyArray:
    r"""Return the targets or labels of a file that holds nothing else.

    Parameters
    ----------
    source : str or path-like
        ``.npy``, IDX, ``.parquet``, or a text table (header optional); one row per record.
    n_rows : int, optional
        Rows expected: tells whether the first line of a text table of words is a header (it is, when omitted).

    Returns
    -------
    ndarray of shape (n,) or (n, q), int64, float64 or str
        int64 where the file holds whole numbers or booleans, text as it is.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As `load`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     place = pathlib.Path(folder) / "labels.csv"
    ...     _ = place.write_text("1\n0\n")
    ...     load_targets(place).tolist()
    [1, 0]
    """
    place = _existing("target", Path(source))
    with reading(place):
        table = table_in(place, None, False, n_rows)
        if table is None:
            raw = read(place, Options(None, None, (), None, False, None, False))
            if raw.y is not None:
                raise ValueError("must hold targets only, but it holds records as well")
            y = np.asarray(raw.X)
        else:
            columns = [column.labels() for j, column in enumerate(table.columns) if j not in table.index]
            if len(columns) > 1 and any(column.dtype.kind == "U" for column in columns):
                raise ValueError(f"must hold one column of labels, got {len(columns)} columns with text")
            whole = all(column.dtype.kind in "iu" for column in columns)
            y = columns[0] if len(columns) == 1 else np.column_stack(columns) if whole else stacked(columns)
    if y.ndim not in (1, 2) or y.size == 0:
        raise ValueError(f"{place}: targets must have 1 or 2 dimensions and not be empty, got shape {y.shape}")
    return checked_targets(y, str(place))


def load_ids(source: str | os.PathLike[str], *, column: str | int | None = None, n_rows: int | None = None) -> AnyArray:
    r"""Return the ids in a file, one per row, exactly: whole numbers of any size never pass through floating point.

    Parameters
    ----------
    source : str or path-like
        A text table, ``.parquet`` or ``.npy``.
    column : str or int, optional
        Its column; may be omitted if there is only one.
    n_rows : int, optional
        Rows expected: tells whether the first line of a text table of words is a header (it is, when omitted).

    Returns
    -------
    ndarray of shape (n,), int64, object (Python integers, where one exceeds 64 bits) or str

    Raises
    ------
    FileNotFoundError, ValueError, TypeError, ImportError
        As `load`; also for ids written or stored as floating-point numbers, which may have been merged.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     place = pathlib.Path(folder) / "ids.csv"
    ...     _ = place.write_text("id\n9007199254740992\n9007199254740993\n")
    ...     load_ids(place).tolist()
    [9007199254740992, 9007199254740993]
    """
    place = _existing("ids", Path(source))
    with reading(place):
        table = table_in(place, None, False, n_rows)
        if table is not None:
            left = [j for j in range(len(table.columns)) if j not in table.index]
            if column is None and len(left) != 1:
                raise ValueError(f"has {len(left)} columns: say which one holds the ids")
            return table.columns[left[0] if column is None else table.position("column", column)].ids()
        if place.suffix.lower() != ".npy" or column is not None:
            raise ValueError("holds no column of ids: needed a text table, .parquet or .npy")
        values = read_npy(place)
        return exact_ids(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values)


def _existing(argument: str, path: Path) -> Path:
    if not path.exists():
        hint = f" (and no bundled set: {', '.join(BUNDLED)})" if argument == "source" else ""
        raise FileNotFoundError(f"{argument}: there is no file {path}{hint}")
    return path


def _labels_beside(path: Path) -> Path | None:
    """Return the labels file that goes with MNIST-style images, if it is there."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        return None
    return next((place for place in (path.with_name(name), path.with_name(f"{name}.gz")) if place.exists()), None)


def _checked(raw: Raw, y: Any, name: str, divide_by: NDArray[np.float64]) -> Dataset:
    X = np.asarray(raw.X)
    if X.ndim < 2 or X.shape[0] == 0 or math.prod(X.shape[1:]) == 0:
        raise ValueError(f"{name}: needs at least one record of at least one feature, got shape {X.shape}")
    records = real_numbers(X.reshape(len(X), -1), name, "X", "record", raw.feature_names)
    if divide_by.shape not in ((), (records.shape[1],)):
        raise ValueError(
            f"divide_by must be a number or hold one per feature ({records.shape[1]}), got shape {divide_by.shape}"
        )
    if (divide_by != 1).any():
        records /= divide_by
    if raw.ids is not None and len(raw.ids) != len(records):
        raise ValueError(f"{name}: needs one id for each of the {len(records)} records, got {len(raw.ids)}")
    if y is not None:
        y = np.asarray(y)
        if y.ndim not in (1, 2) or len(y) != len(records):
            raise ValueError(f"{name}: needs one target for each of the {len(records)} records, got shape {y.shape}")
        y = checked_targets(y, name)
    weights = None if raw.weights is None else _weights(raw.weights, name, len(records))
    return Dataset(records, y, name, raw.feature_names, raw.ids, raw.target_name, raw.notes, raw.columns, weights)


def _weights(found: AnyArray, name: str, n: int) -> NDArray[np.float64]:
    if found.shape != (n,):
        raise ValueError(f"{name}: needs one weight for each of the {n} records, got shape {found.shape}")
    weights = real_numbers(found, name, "weights", "the weight of record")
    if (weights < 0).any():
        row = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(f"{name}: weights must be >= 0, got {weights[row]:g} for record {row}")
    return weights
