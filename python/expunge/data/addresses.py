"""Files of a table, wherever they lie: paths, folders of shards, hive folders, file systems of pyarrow and fsspec.

Each file is known by its size and the time of its last change, so that one that changed between passes is found out.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote

from expunge._errors import how_to_install

__all__ = ["File", "find_files", "is_pattern"]

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class File:
    """A file as it was when it was found.

    Attributes
    ----------
    name : str
        Path or address.
    size : int
        Bytes.
    changed : int or None
        Time of the last change in nanoseconds, where the file system tells.
    filesystem : object
        A file system of pyarrow; None for local files.
    keys : tuple of (str, str)
        Columns that hive folders hold in their names, ``year=2026``.
    """

    name: str
    size: int
    changed: int | None
    filesystem: Any = None
    keys: tuple[tuple[str, str], ...] = ()

    @property
    def suffix(self) -> str:
        """Ending of the name, in small letters."""
        return PurePosixPath(self.name.replace(os.sep, "/")).suffix.lower()

    def open(self) -> BinaryIO:
        """Return an open stream with random access."""
        if self.filesystem is None:
            return open(self.name, "rb")
        stream: BinaryIO = self.filesystem.open_input_file(self.name)
        return stream

    def arrow(self) -> Any:
        """Return an open file of pyarrow, which is read without Python's lock."""
        import pyarrow as pa

        return pa.OSFile(self.name) if self.filesystem is None else self.open()

    def require_unchanged(self) -> None:
        """Refuse a file that is missing, or whose size or time of change are not what they were.

        Raises
        ------
        FileNotFoundError, ValueError
            Naming the file.
        """
        now = _state(self.name, self.filesystem)
        if now is None:
            raise FileNotFoundError(f"{self.name} is missing: it was there when the table was opened")
        if now[0] != self.size:
            raise ValueError(
                f"{self.name} has changed since the table was opened: {now[0]:,} bytes, {self.size:,} then; open it "
                "again"
            )
        if now[1] != self.changed:
            raise ValueError(f"{self.name} has been written to since the table was opened; open it again")


def _state(name: str, filesystem: Any) -> tuple[int, int | None] | None:
    """Return size and time of change of a file, None if there is none."""
    if filesystem is None:
        try:
            found = os.stat(name)
        except FileNotFoundError:
            return None
        return found.st_size, found.st_mtime_ns
    info = filesystem.get_file_info(name)
    return (info.size, info.mtime_ns) if info.is_file else None


def find_files(
    source: str | os.PathLike[str], *, kinds: Sequence[str], filesystem: object = None, argument: str = "source"
) -> list[File]:
    """Return the file of that name, or all shards of a folder or pattern (of one kind) in the order of their names.

    Names that begin with a dot or an underscore are what other programs leave behind or are still writing: no data.

    Parameters
    ----------
    source : path-like
        A path; a pattern of local files, ``year=*/part-*.parquet``; an address such as ``s3://bucket/folder``; with
        ``filesystem``, a path there.
    kinds : sequence of str
        Endings that are read.
    filesystem : pyarrow.fs.FileSystem or fsspec file system, optional
        Where it lies.
    argument : str
        Name of the argument, for messages.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, or something that is no shard: omitting it silently could omit data.
    ImportError
        If an address needs a library that is not installed.
    """
    where, path = _located(os.fspath(source), filesystem)
    if where is None:
        if Path(path).is_dir():
            return _shards(path, *_local_files(Path(path)), kinds, argument)
        if is_pattern(path):
            return _matching(path, kinds, argument)
    else:
        from pyarrow import fs

        info = where.get_file_info(path)
        if info.type == fs.FileType.Directory:
            found = where.get_file_info(fs.FileSelector(path, recursive=True))
            files = [File(one.path, one.size, one.mtime_ns, where) for one in found if one.is_file]
            folders = [one.path for one in found if not one.is_file]
            return _shards(path, files, folders, kinds, argument)
    state = _state(path, where)
    if state is None:
        raise FileNotFoundError(f"{argument}: there is no file {source}")
    file = File(path, *state, where)
    if file.suffix not in kinds:
        raise ValueError(f"{argument} must be a file or a folder of {', '.join(kinds)}, got {source}")
    return [file]


def is_pattern(source: str) -> bool:
    """Return whether a source is a pattern of local files, and not the name of one."""
    return "://" not in source and glob.has_magic(source) and not os.path.lexists(source)


def _matching(pattern: str, kinds: Sequence[str], argument: str) -> list[File]:
    """Return the files of a pattern, with the columns that folders below its first ``*`` name."""
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise FileNotFoundError(f"{argument}: there is no file {pattern}")
    inside = next((name for name in found if os.path.isdir(name)), None)
    if inside is not None:
        raise ValueError(
            f"{argument} must be a pattern of files, got {pattern}, which the folder {inside} matches: end it in "
            f"/*{kinds[0]}"
        )
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    files = [File(name, *(_state(name, None) or (0, None))) for name in found]
    return _shards(str(Path(*parts[:fixed])), files, [], kinds, argument)


def _located(source: str, filesystem: Any) -> tuple[Any, str]:
    """Return the file system, None for the local one, and the path there."""
    if filesystem is None and "://" not in source:
        return None, source
    try:
        from pyarrow import ArrowInvalid, fs
    except ImportError:
        raise ImportError(f"reading {source} needs pyarrow: {how_to_install('parquet')}") from None
    if filesystem is None:
        try:
            found, path = fs.FileSystem.from_uri(source)
        except ArrowInvalid:
            try:
                from fsspec.core import url_to_fs
            except ImportError:
                raise ImportError(f"source {source} needs fsspec and its file system: pip install fsspec") from None
            other, path = url_to_fs(source)
            found = fs.PyFileSystem(fs.FSSpecHandler(other))
        return (None if isinstance(found, fs.LocalFileSystem) else found), path
    if isinstance(filesystem, fs.FileSystem):
        return (None if isinstance(filesystem, fs.LocalFileSystem) else filesystem), source
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), source


def _local_files(folder: Path) -> tuple[list[File], list[str]]:
    found: list[File] = []
    inside: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        inside += [os.path.join(place, name) for name in folders]
        for name in names:
            path = os.path.join(place, name)
            state = _state(path, None)
            found.append(File(path, *(state or (0, None))))
    return found, inside


def _shards(folder: str, files: list[File], folders: list[str], kinds: Sequence[str], argument: str) -> list[File]:
    """Return the files that are data, sorted, with the columns that folders name."""

    def parts_of(name: str) -> tuple[str, ...]:
        return PurePosixPath(name.replace(os.sep, "/")).relative_to(folder.replace(os.sep, "/")).parts

    def hidden(parts: tuple[str, ...]) -> bool:
        return any(part.startswith((".", "_")) for part in parts)

    kept = sorted(((parts_of(file.name), file) for file in files), key=lambda one: one[0])
    kept = [(parts, file) for parts, file in kept if not hidden(parts)]
    found = {file.suffix for _, file in kept} & set(kinds)
    if len(found) != 1:
        names = " and of ".join(sorted(found)) or "none of these"
        raise ValueError(
            f"{argument} must be a folder of shards of one kind ({', '.join(kinds)}), got {folder} with files of "
            f"{names}"
        )
    strange = ["/".join(one) for one in map(parts_of, folders) if "=" not in one[-1] and not hidden(one)]
    strange += [
        "/".join(parts)
        for parts, file in kept
        if file.suffix not in found or not all("=" in part for part in parts[:-1])
    ]
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise ValueError(
            f"{argument} {folder} holds what is not a {next(iter(found))} shard: {', '.join(strange[:5])}{more}; move "
            "it away, or begin its name with an underscore to leave it out"
        )
    result = [File(file.name, file.size, file.changed, file.filesystem, _keys(parts)) for parts, file in kept]
    for file in result:
        if [key for key, _ in file.keys] != [key for key, _ in result[0].keys]:
            raise ValueError(
                f"{argument}: all shards of {folder} must lie in folders that name the same columns, got "
                f"{result[0].name} and {file.name}"
            )
        if any(value == _NO_VALUE for _, value in file.keys):
            raise ValueError(f"{file.name}: its folder names no value ({_NO_VALUE}): missing values are refused")
    return result


def _keys(parts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in parts[:-1]]
    return tuple((unquote(key), unquote(value)) for key, _, value in pairs)
