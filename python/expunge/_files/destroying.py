"""Files whose old bytes are overwritten in place, as far as the disk lets a program do that.

A file system that copies on write, a solid-state disk that levels wear, a snapshot or a backup keeps old blocks
wherever it likes: what is overwritten here is what the file system shows under the file, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from expunge._files import sync_folder

__all__ = ["destroy", "overwriting"]

_CHUNK = 1 << 20
_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def overwriting(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let the body give the name of a file to another file, then overwrite the bytes of the old one.

    Where the body fails, or the process is killed in it, the old file is as it was. Killed after it, the old bytes may
    be left on the disk without a name.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a link, not a file, or has other names, whose content would go too; or if the body left it in place.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from expunge._files import write_atomic
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "a"
    ...     file.write_bytes(b"secret")
    ...     with overwriting(file):
    ...         write_atomic(file, b"public", overwrite=True)
    ...     file.read_bytes()
    6
    b'public'
    """
    place = Path(path)
    descriptor = _opened(place)
    try:
        yield
        old = os.fstat(descriptor)
        if os.path.lexists(place) and os.path.samestat(os.lstat(place), old):
            raise ValueError(f"path: {place} must have been replaced before its old bytes are overwritten")
        _overwrite(descriptor, old.st_size)
    finally:
        os.close(descriptor)


def destroy(path: str | os.PathLike[str]) -> None:
    """Overwrite a file in place and remove it.

    Raises
    ------
    FileNotFoundError, ValueError
        As `overwriting`.
    """
    place = Path(path)
    descriptor = _opened(place)
    try:
        _overwrite(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    os.unlink(place)
    sync_folder(place.parent)


def _opened(place: Path) -> int:
    if place.is_symlink():
        raise ValueError(f"path: {place} is a symbolic link to {os.path.realpath(place)}; name the file itself")
    try:
        descriptor = os.open(place, _FLAGS)
    except IsADirectoryError:
        raise ValueError(f"path: {place} must be the name of a file") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            raise ValueError(f"path: {place} must be the only name of its file, got {status.st_nlink} names: see ls -i")
        raise ValueError(f"path: {place} must be the name of a file")
    return descriptor


def _overwrite(descriptor: int, size: int) -> None:
    """Write random bytes over all of a file, flush them, and cut it to nothing."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    left = size
    while left > 0:
        view = memoryview(secrets.token_bytes(min(left, _CHUNK)))
        left -= len(view)
        while view:
            view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
    os.ftruncate(descriptor, 0)
    os.fsync(descriptor)
