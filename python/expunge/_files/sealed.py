"""Zip files (``.pt``, ``.npz``) that carry the SHA-256 of their own bytes in the archive's comment.

The digest is in the file, so that both are replaced in one step; PyTorch and NumPy read such files like any other.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

from expunge._files import FileFormatError

__all__ = ["is_sealed", "read_sealed", "sealed"]

_LABEL = b"sha256 "
_COMMENT = len(_LABEL) + 64
_END, _END_SIZE = b"PK\x05\x06", 22  # the last record of a zip file without a comment


def sealed(data: bytes) -> bytes:
    """Return a zip archive with the digest of its bytes as its comment.

    Raises
    ------
    ValueError
        If ``data`` is not a zip archive, or already has a comment.

    Examples
    --------
    >>> import io, zipfile
    >>> buffer = io.BytesIO()
    >>> zipfile.ZipFile(buffer, "w").close()
    >>> zipfile.ZipFile(io.BytesIO(sealed(buffer.getvalue()))).comment[:15]
    b'sha256 8739c76e'
    """
    if data[-_END_SIZE : -_END_SIZE + 4] != _END or data[-2:] != b"\0\0":
        raise ValueError("data must be a zip archive without a comment")
    return data[:-2] + _COMMENT.to_bytes(2, "little") + _LABEL + hashlib.sha256(data).hexdigest().encode()


def read_sealed(path: Path) -> bytes:
    """Return the bytes of a file that `sealed` made, after comparing them with their digest.

    A file without a digest, as earlier versions wrote, is returned with a `UserWarning`.

    Raises
    ------
    FileFormatError
        If the file is missing, truncated or was changed after it was written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileFormatError(f"folder: {path} is missing") from None
    if data[-_END_SIZE : -_END_SIZE + 4] == _END and data[-2:] == b"\0\0":
        warnings.warn(f"{path} carries no digest (an earlier version wrote it): damage goes unnoticed", stacklevel=3)
        return data
    body, comment = data[:-_COMMENT], data[-_COMMENT:]
    original = body[:-2] + b"\0\0"
    if body[-2:] != _COMMENT.to_bytes(2, "little") or comment != _LABEL + hashlib.sha256(original).hexdigest().encode():
        raise FileFormatError(f"folder: {path} is truncated or damaged: its bytes do not match its digest")
    return data


def is_sealed(path: str | os.PathLike[str]) -> bool:
    """Return whether a file carries a digest, after comparing it with the file's bytes, which are read piece by piece.

    Raises
    ------
    FileFormatError
        If the bytes do not match the digest.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _COMMENT - 2, 0))
        end = file.read()
        if end[:2] != _COMMENT.to_bytes(2, "little") or not end[2:].startswith(_LABEL):
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - _COMMENT - 2
        while left and (chunk := file.read(min(left, 2**20))):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")
    if end[2:] != _LABEL + digest.hexdigest().encode():
        raise FileFormatError("is damaged: its bytes do not match its digest")
    return True
