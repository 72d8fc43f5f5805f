"""Data sets from files in common formats, and a feature map that does not depend on the data.

Nothing here is ever centred or scaled by the data: a certificate of deletion needs features of one record that do not
depend on another. Dividing by a constant (255 for images) is allowed, and so is `random_cosine_features`.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._cifar_pickle import load_batch
from expunge._extras import how_to_install
from expunge._validate import count, number, real_array

__all__ = ["BUNDLED", "Dataset", "load", "load_targets", "random_cosine_features"]

BUNDLED = ("digits", "breast_cancer", "diabetes", "wine", "iris")
"""Names of the data sets that ship with scikit-learn."""

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_X_NAMES = ("X", "x", "data", "X_train", "x_train")
_Y_NAMES = ("y", "Y", "target", "labels", "y_train")


@dataclass(frozen=True)
class Dataset:
    """Records and targets.

    Attributes
    ----------
    X : ndarray of shape (n, d), float64
        One row per record, finite.
    y : ndarray of shape (n,) or (n, q), int64 or float64, or None
        Targets; int64 where the source holds whole numbers (class labels), float64 otherwise; None if there are none.
    name : str
        Where they came from.
    """

    X: NDArray[np.float64]
    y: NDArray[Any] | None
    name: str


def load(
    source: str | os.PathLike[str],
    *,
    target: str | os.PathLike[str] | None = None,
    target_column: str | int | None = None,
    divide_by: float = 1.0,
) -> Dataset:
    """Return the records and targets of a file or of a data set that ships with scikit-learn.

    Parameters
    ----------
    source : str or path-like
        One of ``BUNDLED``, or a file: ``.npy`` (n, ...), ``.npz`` (arrays X and y, or x_train and y_train), ``.csv``
        (comma-separated numbers, header optional), ``.parquet`` (columns of numbers or of fixed-size lists of numbers;
        needs ``expunge[parquet]``), IDX (``-ubyte`` or ``.idx``, plain or ``.gz``), or a CIFAR-10 python batch (or the
        folder of all five training batches). Axes after the first are flattened.
    target : str or path-like, optional
        A second file that holds the targets (``.npy``, IDX, or a ``.csv`` of one column). For IDX images the labels
        beside them are found by their usual name.
    target_column : str or int, optional
        Which column (``.csv``, ``.parquet``) or array (``.npz``) holds the targets: a name, or a position counted from
        0 (from the end if negative). The last column when omitted.
    divide_by : float, default 1.0
        A positive constant to divide X by, chosen without looking at the data: 255 for images, 16 for the digits.

    Returns
    -------
    Dataset
        ``X`` float64 and C-contiguous.

    Raises
    ------
    FileNotFoundError
        If ``source`` or ``target`` is neither a file nor a bundled name.
    ValueError
        If a file is truncated, ragged, empty, not of its format, or holds NaN, infinity or text where numbers are
        needed, or if X and y differ in length; the message names the file and the place in it.
    ImportError
        For Parquet without pyarrow.

    Examples
    --------
    >>> data = load("iris")
    >>> data.X.shape, data.y.shape
    ((150, 4), (150,))
    """
    divide_by = number("divide_by", divide_by, low=0, open_low=True)
    path = Path(source)
    if str(source) in BUNDLED and not path.exists():
        if target is not None or target_column is not None:
            raise ValueError(f"target and target_column do not apply to the bundled set {source}")
        X, y = _bundled(str(source))
    else:
        X, y = _read(_existing("source", path), target_column, target is not None)
        labels = _labels_beside(path) if target is None and target_column is None and y is None else None
        if target is not None or labels is not None:
            y = load_targets(labels or Path(target or ""))
    return _checked(X, y, str(source), divide_by)


def load_targets(source: str | os.PathLike[str]) -> NDArray[Any]:
    r"""Return the targets, labels or group numbers of a file that holds nothing else.

    Parameters
    ----------
    source : str or path-like
        ``.npy``, IDX, ``.parquet``, or a ``.csv`` of numbers (header optional); one row per record.

    Returns
    -------
    ndarray of shape (n,) or (n, q), int64 or float64
        int64 where the file holds whole numbers; finite.

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
    y, rest = _read(place, None, True)
    if rest is not None:
        raise ValueError(f"{place}: must hold targets only, and it holds records as well")
    y = np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim not in (1, 2) or y.size == 0:
        raise ValueError(f"{place}: targets must have 1 or 2 dimensions and not be empty, got shape {y.shape}")
    return _targets(y, str(place))


def random_cosine_features(X: ArrayLike, *, n_features: int, scale: float, seed: int) -> NDArray[np.float64]:
    """Return sqrt(2/m) cos(X W + b): random Fourier features of a Gaussian kernel, fixed before any data is seen.

    W is drawn from N(0, scale^2) and b uniformly on [0, 2 pi), both from ``seed`` alone, so the features of one record
    never depend on another, as a certificate of deletion needs. Rahimi, Recht, *Random features for large-scale kernel
    machines*, NIPS 2007.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Records, finite.
    n_features : int
        m, >= 1.
    scale : float
        Standard deviation of W's entries, > 0: the inverse width of the kernel.
    seed : int
        In [0, 2^32). The same seed gives the same W and b with every version of NumPy. The features may differ in
        their last bits between machines (matrix products do), so keep the features themselves for a certificate that
        is to be checked elsewhere.

    Returns
    -------
    ndarray of shape (n, n_features), float64
        Each entry within [-sqrt(2/m), sqrt(2/m)]. An empty X gives no rows.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> features = random_cosine_features(np.eye(3), n_features=8, scale=0.5, seed=0)
    >>> features.shape, bool(abs(features).max() <= 0.5)
    ((3, 8), True)
    """
    X = real_array("X", X, ndim=2)
    m = count("n_features", n_features, low=1)
    scale = number("scale", scale, low=0, open_low=True)
    seed = count("seed", seed)
    if seed >= 2**32:
        raise ValueError(f"seed must be < 2^32, got {seed}")
    # The legacy generator is the one whose stream NumPy promises never to change.
    random = np.random.RandomState(seed)
    weights = scale * random.standard_normal((X.shape[1], m))
    phases = random.uniform(0.0, 2 * math.pi, m)
    limit = math.sqrt(2 / m)
    features: NDArray[np.float64] = limit * np.cos(X @ weights + phases)
    return features


def _existing(argument: str, path: Path) -> Path:
    if not path.exists():
        hint = f" (and no bundled set: {', '.join(BUNDLED)})" if argument == "source" else ""
        raise FileNotFoundError(f"{argument}: there is no file {path}{hint}")
    return path


def _bundled(name: str) -> tuple[Any, Any]:
    from sklearn import datasets

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X, y


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a broken file into a ValueError that names the file."""
    try:
        yield
    except (ImportError, FileNotFoundError, PermissionError):
        raise
    except (EOFError, zipfile.BadZipFile, zlib.error, struct.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: is truncated or damaged: {error}") from None
    except MemoryError:
        raise ValueError(f"{path}: claims more data than fit in memory") from None
    except (OSError, ValueError, OverflowError, NotImplementedError, RuntimeError, csv.Error) as error:
        text = str(error)
        raise ValueError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


def _read(path: Path, target_column: str | int | None, features_only: bool) -> tuple[Any, Any]:
    """Return (X, y or None) of one file, unchecked."""
    with _reading(path):
        if path.is_dir():
            return _cifar_folder(path)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            return _csv(path, target_column, features_only)
        if suffix == ".npz":
            return _npz(path, target_column, features_only)
        if suffix in (".parquet", ".pq"):
            return _parquet(path, target_column, features_only)
        if target_column is not None:
            raise ValueError("has no columns to choose targets from: leave target_column out")
        if suffix == ".npy":
            return _npy(path), None
        data = _plain_bytes(path)
        if not data:
            raise ValueError("is empty")
        if (len(data) >= 4 and data[:2] == b"\0\0" and data[2] in _IDX_DTYPES) or re.search(r"idx|ubyte", path.name):
            return _idx(data), None
        if data[:1] == b"\x80":
            return load_batch(data)
        raise ValueError("is of no format that can be read (.npy, .npz, .csv, .parquet, IDX, CIFAR-10 batch)")


def _plain_bytes(path: Path) -> bytes:
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rb") as file:
            return file.read()
    return path.read_bytes()


def _npy(path: Path) -> NDArray[Any]:
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with path.open("rb") as file:
        try:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except (ValueError, TypeError, SyntaxError, KeyError) as error:
            raise ValueError(f"is truncated or no array of numbers: {error}") from None


def _npz(path: Path, target_column: str | int | None, features_only: bool) -> tuple[Any, Any]:
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]

        def array(name: str) -> NDArray[Any]:
            with archive.open(f"{name}.npy") as file:
                try:
                    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
                except (ValueError, TypeError, SyntaxError, KeyError) as error:
                    raise ValueError(f"array {name!r} is damaged or does not hold numbers: {error}") from None

        features = next((name for name in _X_NAMES if name in names), None)
        targets = str(target_column) if target_column is not None else next((n for n in _Y_NAMES if n in names), None)
        if features is None:
            raise ValueError(f"must hold the records as {' or '.join(_X_NAMES)}, got {', '.join(names) or 'nothing'}")
        if target_column is not None and targets not in names:
            raise ValueError(f"target_column: there is no array {targets!r}, got {', '.join(names)}")
        return array(features), None if targets is None or features_only else array(targets)


def _idx(data: bytes) -> NDArray[Any]:
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_DTYPES:
        raise ValueError(f"is no IDX file: it starts with {data[:4].hex(' ')}")
    n_dimensions = data[3]
    start = 4 + 4 * n_dimensions
    if n_dimensions == 0 or len(data) < start:
        raise ValueError("is truncated within its IDX header")
    shape = struct.unpack(f">{n_dimensions}I", data[4:start])
    dtype = np.dtype(_IDX_DTYPES[data[2]])
    needed = math.prod(shape) * dtype.itemsize
    if len(data) - start != needed:
        problem = "is truncated" if len(data) - start < needed else "holds too much"
        raise ValueError(f"{problem}: shape {shape} needs {needed} bytes after the header, got {len(data) - start}")
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)


def _labels_beside(path: Path) -> Path | None:
    """Return the labels file that goes with MNIST-style images, if it is there."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        return None
    return next((place for place in (path.with_name(name), path.with_name(f"{name}.gz")) if place.exists()), None)


def _cifar_folder(path: Path) -> tuple[Any, Any]:
    batches = sorted(path.glob("data_batch_*"))
    if not batches:
        raise ValueError("is a folder without CIFAR-10 batches (data_batch_1, ...)")
    parts = []
    for batch in batches:
        with _reading(batch):
            parts.append(load_batch(batch.read_bytes()))
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


# --- tables --------------------------------------------------------------------------------------


def _csv(path: Path, target_column: str | int | None, features_only: bool) -> tuple[Any, Any]:
    rows: list[NDArray[np.float64]] = []
    header: list[str] | None = None
    width, whole = 0, np.zeros(0, dtype=bool)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        for cells in reader:
            if not cells:
                continue
            if not width:
                width, whole = len(cells), np.ones(len(cells), dtype=bool)
                header = _header(cells, reader.line_num)
                if header is not None:
                    continue
            if len(cells) != width:
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells, the first line has {width}")
            rows.append(_numbers(cells, reader.line_num))
            if whole.any():
                whole &= [_is_whole(cell) for cell in cells]
    if not width:
        raise ValueError("is empty")
    if not rows:
        raise ValueError("holds a header and no records")
    table = np.array(rows)
    if features_only:
        return (table.astype(np.int64) if whole.all() and bool((np.abs(table) <= 2**53).all()) else table), None
    position = _column(target_column, header, width)
    y = table[:, position]
    exact = whole[position] and bool((np.abs(y) <= 2**53).all())
    return np.delete(table, position, axis=1), y.astype(np.int64) if exact else y


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdigit()


def _parsed(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _header(cells: list[str], line: int) -> list[str] | None:
    """Return the names if this first line is a header, None if it is a record; refuse what could be either."""
    names = [cell.strip() for cell in cells]
    is_name = [_parsed(name) is None for name in names]
    if not any(is_name):
        return None
    if "" in names:
        raise ValueError(f"line {line}, column {names.index('') + 1} is empty")
    # Tables written from unnamed columns count them: 0,1,2,target.
    if all(named or name == str(j) for j, (named, name) in enumerate(zip(is_name, names, strict=True))):
        return names
    j = is_name.index(True)
    raise ValueError(f"line {line} is neither a header nor numbers: column {j + 1} holds {names[j]!r}")


def _numbers(cells: list[str], line: int) -> NDArray[np.float64]:
    values = [_parsed(cell) for cell in cells]
    for j, value in enumerate(values):
        if value is None:
            what = repr(cells[j]) if cells[j].strip() else "nothing"
            raise ValueError(f"line {line}, column {j + 1} must hold a number, got {what}")
        if not math.isfinite(value):
            raise ValueError(f"line {line}, column {j + 1} must be finite, got {cells[j].strip()}")
    return np.array(values, dtype=np.float64)


def _column(target_column: str | int | None, names: list[str] | None, width: int) -> int:
    """Return the position of the target column."""
    if target_column is None:
        target_column = -1
        if width < 2:
            raise ValueError("has one column, and records need at least one beside the targets")
    if isinstance(target_column, str) and names is not None and target_column in names:
        if names.count(target_column) > 1:
            raise ValueError(f"target_column: {target_column!r} names {names.count(target_column)} columns")
        return names.index(target_column)
    try:
        position = int(target_column)
    except ValueError:
        known = f"got the columns {', '.join(names[:20])}" if names else "and the file has no header"
        raise ValueError(f"target_column: there is no column {target_column!r}, {known}") from None
    if not -width <= position < width:
        raise ValueError(f"target_column: must be within [{-width}, {width}), got {position}")
    return position % width


def _parquet(path: Path, target_column: str | int | None, features_only: bool) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"reading Parquet needs pyarrow: {how_to_install('parquet')}") from None
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    try:
        # Through a file object: a path would also be tried as a folder of partitions.
        with path.open("rb") as file:
            table = parquet.read_table(file)
    except pa.ArrowException as error:
        raise ValueError(f"is truncated or no Parquet file: {error}") from None
    names = list(table.column_names)
    if not names:
        raise ValueError("holds no columns")
    if table.num_rows == 0:
        raise ValueError("holds no records")
    position = None if features_only else _column(target_column, names, len(names))
    columns = [_parquet_column(table.column(j), names[j]) for j in range(len(names))]
    features = [column for j, column in enumerate(columns) if j != position]
    if not features:
        raise ValueError("holds targets and no features")
    X = np.hstack([column.reshape(len(column), -1) for column in features])
    return X, None if position is None else columns[position]


def _parquet_column(column: Any, name: str) -> NDArray[Any]:
    import pyarrow as pa

    if column.null_count:
        row = next(i for i, value in enumerate(column) if not value.is_valid)
        raise ValueError(f"column {name!r}, row {row} must hold a number, got nothing")
    array = column.combine_chunks()
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    width = None
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        array = array.flatten()
        if array.null_count:
            raise ValueError(f"column {name!r} must hold a number in every place of its lists, got nothing in one")
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"column {name!r} must hold numbers or fixed-size lists of numbers, got {column.type}")
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    return values if width is None else values.reshape(len(column), width)


# --- what every source must satisfy --------------------------------------------------------------


def _checked(X: Any, y: Any, name: str, divide_by: float) -> Dataset:
    X = np.asarray(X)
    if X.ndim < 2 or X.shape[0] == 0 or math.prod(X.shape[1:]) == 0:
        raise ValueError(f"{name}: needs at least one record of at least one feature, got shape {X.shape}")
    records = _real(X.reshape(len(X), -1), name, "X", "record")
    if divide_by != 1:
        records /= divide_by
    if y is None:
        return Dataset(records, None, name)
    y = np.asarray(y)
    if y.ndim not in (1, 2) or len(y) != len(records):
        raise ValueError(f"{name}: needs one target for each of the {len(records)} records, got shape {y.shape}")
    return Dataset(records, _targets(y, name), name)


def _targets(y: NDArray[Any], name: str) -> NDArray[Any]:
    if y.dtype.kind in "iub" and not (y.dtype == np.uint64 and (y >= 2**63).any()):
        return np.ascontiguousarray(y, dtype=np.int64)
    return _real(y, name, "y", "target")


def _real(array: NDArray[Any], name: str, argument: str, what: str) -> NDArray[np.float64]:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: {argument} must hold real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        values = np.array(array, dtype=np.float64, order="C")
    bad = ~np.isfinite(values)
    if bad.any():
        where = np.argwhere(bad)[0]
        place = f"{what} {where[0]}" + (f", feature {where[1]}" if len(where) > 1 else "")
        raise ValueError(f"{name}: {place} must be finite, got {values[tuple(where)]}")
    return values
