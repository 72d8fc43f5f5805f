"""Files that are whole or absent: written under a temporary name, read with errors that say what is wrong."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

__all__ = [
    "CONFIDENTIAL",
    "PUBLIC",
    "FileFormatError",
    "parse_json",
    "read_json",
    "read_text",
    "sync_folder",
    "write_atomic",
]

# Permission bits of new files, before the process's umask.
CONFIDENTIAL, PUBLIC = 0o600, 0o666


class FileFormatError(ValueError):
    """A file is truncated, of the wrong kind, or holds something that its format forbids."""


def write_atomic(
    path: str | os.PathLike[str], data: bytes, *, overwrite: bool = False, mode: int = CONFIDENTIAL
) -> None:
    """Write ``data`` to ``path`` so that the file is either whole or untouched.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and then take the name in one step.
    A failure before that leaves neither a new file nor a changed one.

    Parameters
    ----------
    path : path-like
        Path of the file; its folder must exist.
    data : bytes
        The whole content.
    overwrite : bool, default=False
        Replace an existing file. Otherwise an existing file is an error, even one that appears in the meantime.
    mode : int, default=0o600
        Permission bits of the new file, before the process's umask; those of a replaced file are ignored. The default
        keeps others out, since almost everything this library writes reveals something about single records.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is False.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    ValueError
        If ``path`` is a symbolic link or anything else that is not a file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "a.txt"
    ...     write_atomic(file, b"whole")
    ...     file.read_bytes()
    b'whole'
    """
    target = Path(path)
    refusal = f"path: {target} already exists; pass overwrite=True to replace it"
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(refusal)
    if target.is_symlink():
        raise ValueError(f"path: {target} is a symbolic link to {os.path.realpath(target)}; name the file itself")
    if os.path.lexists(target) and not target.is_file():
        raise ValueError(f"path: {target} must be the name of a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: the folder {target.parent} does not exist")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _take_name(temporary, target, overwrite, refusal)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(target.parent)


def _take_name(temporary: Path, target: Path, overwrite: bool, refusal: str) -> None:
    if overwrite:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)  # unlike a rename, a link fails if the name was taken meanwhile
    except FileExistsError:
        raise FileExistsError(refusal) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(refusal) from None
        os.replace(temporary, target)


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: names reach it only so; where folders cannot be opened there is nothing to do."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_text(path: str | os.PathLike[str], *, what: str) -> str:
    """Return the UTF-8 text of a file; ``what`` names it in the errors.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty or not UTF-8.

    Examples
    --------
    >>> read_text("/nowhere/at/all.json", what="certificate")
    Traceback (most recent call last):
    ...
    FileNotFoundError: path: there is no certificate at /nowhere/at/all.json
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"path: there is no {what} at {path}") from None
    if not data:
        raise FileFormatError(f"path: the {what} at {path} is empty")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"path: the {what} at {path} is not UTF-8 text (byte {error.start})") from None


def parse_json(text: str, *, what: str, allow_nan: bool = False) -> Any:
    """Return the value of a JSON text, strictly: no duplicate keys, no NaN or infinity, nothing after it.

    Parameters
    ----------
    text : str
        The JSON text.
    what : str
        What the text is, for the errors.
    allow_nan : bool, default=False
        Let the literals NaN and Infinity, and numbers too large for float64, through as floats, for a caller that
        refuses them by the name of their field.

    Raises
    ------
    FileFormatError
        Saying what is wrong and on which line.

    Examples
    --------
    >>> parse_json('{"a": 1, "a": 2}', what="certificate")
    Traceback (most recent call last):
    ...
    expunge._files.FileFormatError: the certificate holds the key 'a' twice
    """

    def number(literal: str) -> float:
        value = float(literal)
        if not (allow_nan or math.isfinite(value)):
            raise FileFormatError(f"the {what} holds {literal}; every number must be finite")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise FileFormatError(f"the {what} holds the key {key!r} twice")
            result[key] = value
        return result

    try:
        return json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise FileFormatError(
            f"the {what} is truncated or not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except FileFormatError:
        raise
    except (RecursionError, ValueError) as error:  # nested too deeply, or an integer of thousands of digits
        raise FileFormatError(f"the {what} is not JSON that can be read: {error}") from None


def read_json(path: str | os.PathLike[str], *, what: str) -> Any:
    """Return the value of a JSON file, as strictly as `parse_json`.

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_text` and `parse_json` do.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "a.json"
    ...     write_atomic(file, b'{"alpha": 1.0}')
    ...     read_json(file, what="model")
    {'alpha': 1.0}
    """
    return parse_json(read_text(path, what=what), what=f"{what} at {path}")
