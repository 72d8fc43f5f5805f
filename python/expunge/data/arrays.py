"""Files of arrays: NumPy's, IDX as of MNIST, and CIFAR-10's batches."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._files.archive import refuse_inflation
from expunge.data.cifar_pickle import load_batch

__all__ = ["is_idx", "npy_header", "read_cifar_folder", "read_idx", "read_npy", "read_npz"]

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_X_NAMES = ("X", "x", "data", "X_train", "x_train")
_Y_NAMES = ("y", "Y", "target", "labels", "y_train")


def read_npy(path: Path) -> NDArray[Any]:
    """Return the array of a ``.npy`` file; nothing is unpickled."""
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with path.open("rb") as file:
        return _array(file, path.stat().st_size, "is truncated or not an array of numbers")


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether in Fortran order, and dtype of the array in a stream, which is left where values begin."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _array(file: Any, size: int, problem: str) -> NDArray[Any]:
    """Return the array in a stream of ``size`` bytes, which its header may not exceed."""
    try:
        shape, fortran, dtype = npy_header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        needed = math.prod(shape) * dtype.itemsize
        if needed > size:
            raise ValueError(f"its header claims {needed:,} bytes, the file holds {size:,}")
        data = file.read(needed)
        if len(data) < needed:
            raise ValueError(f"its header claims {needed:,} bytes, {len(data):,} follow")
    except (ValueError, TypeError, SyntaxError, KeyError) as error:
        raise ValueError(f"{problem}: {error}") from None
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def read_npz(
    path: Path, target: str | None, ids: str | None, weights: str | None, *, with_target: bool
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
    """Return records, targets, ids and weights of an ``.npz`` file, by the names of its arrays."""
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]

        def array(name: str) -> NDArray[Any]:
            with archive.open(f"{name}.npy") as file:
                member = archive.getinfo(f"{name}.npy")
                refuse_inflation(member, name=name)
                return _array(file, member.file_size, f"array {name!r} is damaged or does not hold numbers")

        features = _first(_X_NAMES, names)
        if features is None:
            raise ValueError(f"must hold the records as {' or '.join(_X_NAMES)}, got {', '.join(names) or 'nothing'}")
        for option, name in (("target_column", target), ("id_column", ids), ("weight_column", weights)):
            if name is not None and name not in names:
                raise ValueError(f"{option}: there is no array {name!r}, got {', '.join(names)}")
        targets = target if target is not None else _first(_Y_NAMES, names) if with_target else None
        return (
            array(features),
            None if targets is None else array(targets),
            None if ids is None else array(ids),
            None if weights is None else array(weights),
        )


def _first(known: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)


def is_idx(data: bytes) -> bool:
    """Return whether the bytes start like an IDX file."""
    return len(data) >= 4 and data[:2] == b"\0\0" and data[2] in _IDX_DTYPES


def read_idx(data: bytes) -> NDArray[Any]:
    """Return the array of an IDX file's bytes."""
    if not is_idx(data):
        raise ValueError(f"is not an IDX file: it starts with {data[:4].hex(' ')}")
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


def read_cifar_folder(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images and labels of a folder of CIFAR-10's training batches, in their order."""
    batches = sorted(path.glob("data_batch_*"))
    if not batches:
        raise ValueError("is a folder without CIFAR-10 batches (data_batch_1, ...)")
    parts = [_batch(batch) for batch in batches]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _batch(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        return load_batch(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
