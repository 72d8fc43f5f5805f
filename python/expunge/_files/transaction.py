"""Several files that take their names together: killed at any instant, either all are written or none is.

Every file is written under a temporary name beside its destination. Then a journal that lists them all takes its own
name, and that decides: before it nothing has happened, after it everything will. Whoever next opens one of the folders
completes what a journal began, and removes temporary files that no journal mentions.

The first file's folder holds the journal; other folders hold a note that says where it is, so that the files there are
kept as long as the journal exists. Folders are locked throughout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge._files import CONFIDENTIAL, FileFormatError, parse_json, sync_folder

try:
    import fcntl
except ImportError:  # not a POSIX system: files still take their names together, but two writers are not kept apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["Change", "Session", "exclusive"]

_NAME = re.compile(r"\.expunge-(?P<token>[0-9a-f]{32})(?:\.journal|-[0-9]+\.new)")
_BINARY = getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class Change:
    """A file to be written.

    Attributes
    ----------
    path : path-like
        Its name.
    data : bytes
        Its whole content.
    replace : bool
        Whether it may replace an existing file.
    mode : int
        Its permission bits, before the process's umask.
    """

    path: str | os.PathLike[str]
    data: bytes
    replace: bool = False
    mode: int = CONFIDENTIAL


@dataclass
class Session:
    """Locked folders, in which no transaction is unfinished.

    Attributes
    ----------
    finished : list of str
        Transactions that were completed when the session began, by the ``word`` given to `commit`.
    """

    finished: list[str] = field(default_factory=list)

    def commit(self, changes: Sequence[Change], *, word: str = "") -> None:
        """Write files so that all take their names or none does.

        Parameters
        ----------
        changes : sequence of Change
            With different paths, within the folders of this session.
        word : str
            Entry of `finished` if a later session completes this transaction.

        Raises
        ------
        FileExistsError
            If a file exists that may not be replaced.
        OSError
            If a file cannot be written. Before the journal exists nothing has changed; after that the next session
            completes the rest.
        """
        token = secrets.token_hex(16)
        entries: list[dict[str, Any]] = []
        made: list[Path] = []
        home = Path(os.path.realpath(Path(changes[0].path).parent))
        journal = home / f".expunge-{token}.journal"
        try:
            for number, change in enumerate(changes):
                folder = Path(os.path.realpath(Path(change.path).parent))
                final, temporary = folder / Path(change.path).name, folder / f".expunge-{token}-{number}.new"
                if os.path.lexists(final) and not change.replace:
                    raise FileExistsError(f"path: {change.path} already exists")
                if final.is_symlink():
                    raise ValueError(f"path: {change.path} is a symbolic link to {os.path.realpath(final)}")
                if os.path.lexists(final) and not final.is_file():
                    raise ValueError(f"path: {change.path} must be the name of a file")
                made.append(temporary)
                _write(temporary, change.data)
                entries.append(
                    {
                        "final": str(final),
                        "temporary": str(temporary),
                        "digest": hashlib.sha256(change.data).hexdigest(),
                        "before": _file_digest(final),
                        "mode": change.mode & ~_umask(),
                    }
                )
            folders = sorted(_folders(entries) - {home})
            for folder in folders:
                made.append(folder / journal.name)
                _write_whole(folder / journal.name, {"journal": str(journal)}, made)
            for folder in (*folders, home):
                sync_folder(folder)
            _write_whole(journal, {"word": word, "changes": entries}, made)
        except BaseException:
            for path in (journal, *reversed(made)):  # the journal first: without it the others mean nothing
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise
        sync_folder(home)
        _finish(journal, entries)


@contextlib.contextmanager
def exclusive(places: Iterable[str | os.PathLike[str]]) -> Iterator[Session]:
    """Lock the folders of some paths, complete what was begun there, and remove what was abandoned.

    Parameters
    ----------
    places : iterable of path-like
        Files to be written; their folders must exist.

    Yields
    ------
    Session

    Raises
    ------
    FileFormatError
        If an unfinished transaction cannot be completed, because one of its files has changed since.
    """
    finals = {Path(os.path.realpath(Path(place).parent)) / Path(place).name for place in places}
    folders = {final.parent for final in finals}
    while True:
        with _locked(folders) as locked:
            found = _journals(folders)
            more = {folder for journal in found for folder in _folders(journal.entries)} - folders
            if not more:
                session = Session()
                for journal in found:
                    _end(journal, finals, session)
                if locked:
                    _clear(folders)
                yield session
                return
        folders |= more


@dataclass(frozen=True)
class _Journal:
    path: Path
    word: str
    entries: list[dict[str, Any]]


def _end(journal: _Journal, finals: set[Path], session: Session) -> None:
    try:
        whole = _finish(journal.path, journal.entries)
    except FileFormatError:
        if finals & {Path(entry["final"]) for entry in journal.entries}:
            raise  # somebody else's trouble otherwise
        return
    if whole:
        session.finished.append(journal.word)


def _finish(journal: Path, entries: list[dict[str, Any]]) -> bool:
    """Give every file of a journal its name; repeated after a kill, it continues where it stopped.

    Returns whether all files are still as they were written.
    """
    now = [_file_digest(Path(entry["final"])) for entry in entries]
    left = [entry for entry in entries if os.path.lexists(entry["temporary"])]
    for found, entry in zip(now, entries, strict=True):
        if entry in left:
            changed = found not in (entry["before"], entry["digest"]) or not _is_whole(entry)
        else:  # renamed already; if that does not show while others wait, it was lost
            changed = bool(left) and found == entry["before"] != entry["digest"]
        if changed:
            raise FileFormatError(
                f"an interrupted command left {journal}, and {entry['final']} or its temporary file has changed since: "
                f"put it back, or remove {journal} to give up what was begun"
            )
    for entry in left:
        os.chmod(entry["temporary"], entry["mode"])
        os.replace(entry["temporary"], entry["final"])
    folders = _folders(entries)
    for folder in folders:
        sync_folder(folder)
    for folder in sorted(folders - {journal.parent}):
        _remove(folder / journal.name)
    # Last of all: as long as it stands, the same command knows that it has been done.
    _remove(journal)
    return all(entry in left or found == entry["digest"] for found, entry in zip(now, entries, strict=True))


def _is_whole(entry: dict[str, Any]) -> bool:
    return bool(_file_digest(Path(entry["temporary"])) == entry["digest"])


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _folders(entries: Iterable[dict[str, Any]]) -> set[Path]:
    return {Path(entry["final"]).parent for entry in entries}


def _journals(folders: Iterable[Path]) -> list[_Journal]:
    """Return the journals in some folders, and those that notes there point to.

    In folders that are not locked yet a journal may be completed at any time; then nothing is found in it.
    """
    found: dict[Path, _Journal] = {}
    for path in _own(folders, ".journal"):
        content = _content(path)
        place = Path(content["journal"]) if "journal" in content else path
        if "journal" in content:
            if not _is_own(place):
                continue  # completed, or never written: the note is removed
            content = _content(place)
        if content:
            found[place] = _Journal(place, content["word"], content["changes"])
    return [found[path] for path in sorted(found)]


def _clear(folders: Iterable[Path]) -> None:
    """Remove temporary files and notes that no journal mentions."""
    standing = {journal.path.name for journal in _journals(folders)}
    for path in _own(folders, ""):
        match = _NAME.fullmatch(path.name)
        if match and f".expunge-{match['token']}.journal" not in standing:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _own(folders: Iterable[Path], ending: str) -> list[Path]:
    """Return the files in some folders that this module made; those of other users are ignored."""
    found = []
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _NAME.fullmatch(entry.name) and entry.name.endswith(ending)]
            found += [folder / name for name in names if _is_own(folder / name)]
    return sorted(found)


def _is_own(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == getattr(os, "geteuid", lambda: status.st_uid)()


def _write_whole(path: Path, content: dict[str, Any], made: list[Path]) -> None:
    """Write a journal or a note; under its own name it is whole."""
    text = json.dumps(content)
    data = json.dumps({"content": text, "digest": hashlib.sha256(text.encode("ascii")).hexdigest()})
    waiting = path.with_name(path.name.replace(".journal", "-0000.new"))
    made.append(waiting)
    _write(waiting, data.encode("ascii"))
    os.replace(waiting, path)


def _content(path: Path) -> dict[str, Any]:
    try:
        outer = parse_json(path.read_bytes().decode("ascii"), what=f"journal {path}")
        text = outer["content"]
        if hashlib.sha256(text.encode("ascii")).hexdigest() != outer["digest"]:
            raise ValueError("its digest does not match")
        inner: dict[str, Any] = json.loads(text)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is damaged ({error}): remove it to give up what was begun") from None
    return inner


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY, CONFIDENTIAL)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path.parent)  # a full disk: which one
        raise
    finally:
        os.close(descriptor)


def _file_digest(path: Path) -> str | None:
    """Return the digest of a file, None if there is none; a link counts as a file of its own."""
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            return f"link to {os.readlink(path)}"
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(2**20):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


@contextlib.contextmanager
def _locked(folders: Iterable[Path]) -> Iterator[bool]:
    """Lock folders, always in the same order; yields whether all of them could be locked."""
    with contextlib.ExitStack() as stack:
        complete = fcntl is not None
        seen = set()
        for folder in sorted(folders) if fcntl is not None else ():
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) in seen:
                continue  # one folder by two names: a second lock would wait for the first
            seen.add((status.st_dev, status.st_ino))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                complete = False  # a file system without locks
        yield complete
