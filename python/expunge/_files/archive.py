"""Arrays from ``.npz`` archives: declared sizes are checked against the file's own before memory is allocated."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from expunge._files import FileFormatError

__all__ = ["read_arrays", "refuse_inflation"]

_CHUNK = 2**20
_LARGE, _RATIO = 2**30, 100
_PARSERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(
    path: str | os.PathLike[str], *, what: str, max_bytes: int, max_members: int = 64, max_ratio: int = 1
) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name; nothing is unpickled.

    Parameters
    ----------
    path : path-like
        The file.
    what : str
        What it is, for the errors.
    max_bytes : int
        Most bytes that all arrays together may take.
    max_members : int, default 64
        Largest number of arrays.
    max_ratio : int, default 1
        How many times the file's own size its arrays may take: 1 refuses compression.

    Returns
    -------
    dict of str to ndarray
        Of booleans, integers, floats or text, in native byte order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If it is not such an archive, is damaged, or declares more than it holds or than is allowed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "zeros.npz"
    ...     np.savez_compressed(file, zeros=np.zeros(100_000))
    ...     read_arrays(file, what="model", max_bytes=2**20)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    expunge._files.FileFormatError: ...declares 800128 bytes of arrays, more than its own ... can hold
    """
    try:
        if not os.path.isfile(path):
            raise FileNotFoundError if not os.path.lexists(path) else FileFormatError("it is not a regular file")
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _members(archive, os.fstat(file.fileno()).st_size, max_bytes, max_members, max_ratio)
    except FileNotFoundError:
        raise FileNotFoundError(f"path: there is no {what} at {path}") from None
    except FileFormatError as error:
        raise FileFormatError(f"path: the {what} at {path} {error}") from None
    except (
        OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, OverflowError, MemoryError, RecursionError,
        NotImplementedError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise FileFormatError(f"path: the {what} at {path} is truncated or damaged: {error}") from None


def refuse_inflation(member: zipfile.ZipInfo, *, name: str) -> None:
    """Refuse a compressed array that takes far more memory than its part of the file.

    Raises
    ------
    FileFormatError
        If it takes more than a GiB, and more than 100 times its compressed size.
    """
    if member.file_size > max(_LARGE, _RATIO * member.compress_size):
        raise FileFormatError(
            f"array {name!r} would take {member.file_size:,} bytes out of {member.compress_size:,}: "
            "if that is correct, save it uncompressed (numpy.savez)"
        )


def _members(
    archive: zipfile.ZipFile, size: int, max_bytes: int, max_members: int, max_ratio: int
) -> dict[str, NDArray[Any]]:
    members = archive.infolist()
    names = [member.filename.removesuffix(".npy") for member in members]
    if len(members) > max_members:
        raise FileFormatError(f"holds {len(members)} arrays, more than {max_members}")
    if len(set(names)) < len(names):
        raise FileFormatError(f"holds an array twice: {next(n for n in names if names.count(n) > 1)!r}")
    declared = sum(member.file_size for member in members)
    if declared > size * max_ratio:
        raise FileFormatError(f"declares {declared} bytes of arrays, more than its own {size} can hold")
    if declared > max_bytes:
        raise FileFormatError(f"declares {declared} bytes of arrays, more than the {max_bytes} that are read")
    result = {}
    for name, member in zip(names, members, strict=True):
        with archive.open(member) as stream:
            result[name] = _array(name, stream, member.file_size)
    return result


def _array(name: str, stream: IO[bytes], size: int) -> NDArray[Any]:
    version = np.lib.format.read_magic(stream)
    if version not in _PARSERS:
        raise FileFormatError(f"holds {name!r} in version {version} of NumPy's format, needed (1, 0) or (2, 0)")
    shape, fortran, dtype = _PARSERS[version](stream)
    if dtype.kind not in "biufU":
        raise FileFormatError(f"holds {name!r} of dtype {dtype}, needed numbers or text")
    length = size - stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != length:
        raise FileFormatError(f"declares shape {shape} of {dtype} for {name!r}, and holds {length} bytes of it")
    data = np.empty(length, dtype=np.uint8)
    filled = 0
    while chunk := stream.read(_CHUNK):  # to the end, where the archive's checksum is compared
        data[filled : filled + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        filled += len(chunk)
    if filled != length:
        raise FileFormatError(f"ends within {name!r}")
    values = data.view(dtype).reshape(shape[::-1] if fortran else shape)
    values = values.T if fortran else values
    return values.astype(dtype.newbyteorder("="), copy=False)
