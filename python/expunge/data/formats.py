"""Formats of data files: the reader of each, and the unchecked contents that it returns."""

from __future__ import annotations

import contextlib
import csv
import gzip
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from expunge.data.arrays import is_idx, read_cifar_folder, read_idx, read_npy, read_npz
from expunge.data.cifar_pickle import load_batch
from expunge.data.delimited import read_delimited
from expunge.data.identifiers import exact_ids
from expunge.data.parquet import read_parquet
from expunge.data.tables import ArrayColumn, Column, Columns, Table, choose, stacked

__all__ = ["Options", "Raw", "bundled", "of_table", "read", "reading", "table_in"]

_TEXT = (".csv", ".tsv", ".txt", ".tab")


@dataclass(frozen=True)
class Raw:
    """Contents of a file, unchecked."""

    X: Any
    y: Any
    feature_names: tuple[str, ...] | None = None
    ids: Any = None
    target_name: str | None = None
    notes: tuple[str, ...] = ()
    columns: Columns | None = None
    weights: Any = None


@dataclass(frozen=True)
class Options:
    """Options of `load` that say how a file is read."""

    target_column: str | int | None
    features: Sequence[str | int] | None
    drop: tuple[str | int, ...]
    id_column: str | int | None
    with_target: bool
    header: bool | None
    decimal_comma: bool
    weight_column: str | int | None = None


def bundled(name: str) -> Table:
    """Return a data set that ships with scikit-learn as a table."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    columns: list[Column] = [ArrayColumn(np.ascontiguousarray(values)) for values in bunch.data.T]
    return Table([*columns, ArrayColumn(bunch.target)], (*map(str, bunch.feature_names), "target"))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a broken file into a ValueError that names the file."""
    try:
        yield
    except (ImportError, FileNotFoundError, PermissionError):
        raise
    except (EOFError, zipfile.BadZipFile, zlib.error, struct.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: is truncated or damaged: {error}") from None
    except MemoryError:
        raise ValueError(f"{path}: claims more data than fit in memory") from None
    except (OSError, ValueError, TypeError, OverflowError, NotImplementedError, RuntimeError, csv.Error) as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def table_in(path: Path, header: bool | None, decimal_comma: bool, n_rows: int | None = None) -> Table | None:
    """Return the table of a file, or None if it is a file of arrays."""
    name = path.name.lower()
    if path.is_dir():
        return None
    if name.endswith((".parquet", ".pq")):
        return read_parquet(path)
    if not name.removesuffix(".gz").endswith(_TEXT):
        return None
    data = _plain_bytes(path)
    table = read_delimited(data, path, header=header, decimal_comma=decimal_comma)
    if header is None and n_rows is not None and table.names is not None and len(table.columns[0]) == n_rows - 1:
        return read_delimited(data, path, header=False, decimal_comma=decimal_comma)
    return table


def read(path: Path, options: Options) -> Raw:
    """Return the contents of a file of any format."""
    with reading(path):
        table = table_in(path, options.header, options.decimal_comma)
        if table is not None:
            return of_table(table, options)
        if options.features is not None or options.drop:
            raise ValueError("has no named columns: features and drop apply to .csv, .tsv, .txt and .parquet")
        if path.is_dir():
            return Raw(*read_cifar_folder(path))
        suffix = path.suffix.lower()
        if suffix == ".npz":
            target = None if options.target_column is None else str(options.target_column)
            ids = None if options.id_column is None else str(options.id_column)
            weights = None if options.weight_column is None else str(options.weight_column)
            X, y, who, factors = read_npz(path, target, ids, weights, with_target=options.with_target)
            return Raw(X, y, ids=None if who is None else exact_ids(who), weights=factors)
        if options.target_column is not None:
            raise ValueError("has no columns to choose targets from: leave target_column out")
        if options.id_column is not None:
            raise ValueError("has no columns to choose ids from: leave id_column out")
        if options.weight_column is not None:
            raise ValueError("has no columns to choose weights from: leave weight_column out")
        if suffix == ".npy":
            return Raw(read_npy(path), None)
        data = _plain_bytes(path)
        if not data:
            raise ValueError("is empty")
        if is_idx(data) or re.search(r"idx|ubyte", path.name):
            return Raw(read_idx(data), None)
        if data[:1] == b"\x80":
            return Raw(*load_batch(data))
        raise ValueError("is in no readable format (.csv, .tsv, .txt, .parquet, .npy, .npz, IDX, CIFAR-10 batch)")


def of_table(table: Table, options: Options) -> Raw:
    """Return the columns of a table that are asked for."""
    chosen = choose(
        table,
        features=options.features,
        drop=options.drop,
        target_column=options.target_column,
        id_column=options.id_column,
        weight_column=options.weight_column,
        with_target=options.with_target,
    )
    bar = tqdm(chosen.features, desc="read", unit="column", leave=False, disable=None if table.large else True)
    columns = [table.columns[j].numbers() for j in bar]
    names = None
    if table.names is not None and all(column.ndim == 1 for column in columns):
        names = tuple(table.names[j] for j in chosen.features)
    target = chosen.target
    return Raw(
        stacked(columns),
        None if target is None else table.columns[target].labels(),
        names,
        None if chosen.ids is None else table.columns[chosen.ids].ids(),
        None if target is None or table.names is None else table.names[target],
        chosen.notes,
        Columns.of(table, chosen),
        None if chosen.weights is None else table.columns[chosen.weights].numbers(),
    )


def _plain_bytes(path: Path) -> bytes:
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rb") as file:
            return file.read()
    return path.read_bytes()
