"""Outputs of a command: bad places are refused before any work, and either all files are written or none.

When a killed command is called again, it completes what it had decided to write (`Outputs.recover`), or otherwise
begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from expunge._files import CONFIDENTIAL
from expunge._files.outputs import check_places
from expunge._files.transaction import Change, exclusive

__all__ = ["Outputs"]


class Outputs:
    """The files of one call of a command.

    Parameters
    ----------
    places : mapping of str to str or None
        What is written, by the name of its option; None is skipped.
    inputs : mapping of str to str or None
        What is read. What does not exist, such as the name of a bundled data set, is skipped.
    overwrite : bool
        Whether existing files may be replaced.
    ledger : str or None
        A ledger to be extended; it may exist in any case.
    beside : Path or None
        A file that `write` may be given besides, beside what is read.
    """

    def __init__(
        self,
        places: Mapping[str, str | None],
        *,
        inputs: Mapping[str, str | None],
        overwrite: bool,
        ledger: str | None = None,
        beside: Path | None = None,
    ) -> None:
        self.places = {name: Path(place) for name, place in places.items() if place is not None}
        self._inputs = {name: Path(place) for name, place in inputs.items() if place is not None}
        self._overwrite = overwrite
        self._ledger = None if ledger is None else Path(ledger)
        self.beside = beside
        self._word = self._word_of_call()

    @property
    def _all(self) -> dict[str, Path]:
        return self.places if self._ledger is None else {**self.places, "--ledger": self._ledger}

    @property
    def _locked(self) -> list[Path]:
        return [*self._all.values(), *(() if self.beside is None else (self.beside,))]

    def _word_of_call(self) -> str:
        """Return a digest of what the command was asked for, its files included."""
        context = click.get_current_context(silent=True)
        asked: dict[str, Any] = {} if context is None else {**context.params, "command": context.command.name}
        asked.pop("overwrite", None)
        asked["places"] = {name: os.path.abspath(place) for name, place in self._all.items()}
        for name, place in self._inputs.items():
            if os.path.isfile(place):
                status = os.stat(place)
                asked[f"file of {name}"] = [os.path.realpath(place), status.st_size, status.st_mtime_ns]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=repr).encode()).hexdigest()

    def recover(self) -> bool:
        """Refuse impossible places, complete what was begun there, and return whether this very call had begun it.

        Raises
        ------
        ValueError, OSError
            Naming the place.
        """
        for place in self._all.values():
            if not place.parent.is_dir():
                raise FileNotFoundError(f"the folder {place.parent} does not exist")
            if place.is_dir():
                raise IsADirectoryError(f"{place} is a folder, needed the name of a file")
        read = {name: place for name, place in self._inputs.items() if os.path.lexists(place)}
        check_places(outputs=self._all, inputs=read)
        for place in self._all.values():
            if not os.access(place.parent, os.W_OK):
                raise PermissionError(f"the folder {place.parent} cannot be written to")
        with exclusive(self._locked) as session:
            return self._word in session.finished

    def check_free(self) -> None:
        """Refuse to overwrite files without being asked to.

        Raises
        ------
        FileExistsError
            Naming the file.
        """
        for place in self.places.values():
            if os.path.lexists(place) and not self._overwrite:
                raise FileExistsError(f"{place} already exists; pass --overwrite to replace it")

    def begin(self) -> bool:
        """Return whether an interrupted call of the same command was just completed; if not, the way is free."""
        if self.recover():
            for place in self.places.values():
                click.echo(f"finished what an earlier call had begun  {place}")
            return True
        self.check_free()
        return False

    def write(
        self,
        contents: Mapping[str, bytes],
        *,
        modes: Mapping[str, int] | None = None,
        more: Callable[[], Sequence[Change]] = tuple,
    ) -> None:
        """Write all files, or none.

        Parameters
        ----------
        contents : mapping of str to bytes
            One for every place.
        modes : mapping of str to int, optional
            Permissions of those that are not for their owner alone.
        more : callable
            Further files, made while nobody else writes.
        """
        if not self._all:
            return
        modes = modes or {}
        with exclusive(self._locked) as session:
            self.check_free()
            changes = [
                Change(place, contents[name], replace=self._overwrite, mode=modes.get(name, CONFIDENTIAL))
                for name, place in self.places.items()
            ]
            session.commit([*changes, *more()], word=self._word)
