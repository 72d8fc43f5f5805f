"""Survivors that no test can notice, or need not, each with its reason; matched by content, not by line number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mutation.mutants import Mutant

PLACE = Path(__file__).with_name("justified_survivors")


@dataclass(frozen=True)
class Justified:
    """The entries of ``justified_survivors/ROOM.json``: ``file``, ``function``, ``before``, ``after`` and ``reason``.

    ``before`` and ``after`` are the changed lines without their indentation. An entry may leave ``after`` out: then
    every change of that line is meant.
    """

    entries: tuple[dict[str, str], ...]

    @classmethod
    def read(cls, path: Path = PLACE) -> Justified:
        """Read the files of a folder; an entry without a reason is rejected."""
        entries: list[dict[str, str]] = []
        for file in sorted(path.glob("*.json")):
            for entry in json.loads(file.read_text(encoding="utf-8")):
                if not {"file", "function", "before", "reason"} <= set(entry) or len(entry["reason"].split()) < 4:
                    raise ValueError(f"an entry of {file.name} needs file, function, before and a reason, got {entry}")
                entries.append(entry)
        return cls(tuple(entries))

    def reason(self, mutant: Mutant) -> str | None:
        """Return why the mutant may live, or None."""
        for entry in self.entries:
            place = (mutant.file, mutant.function, mutant.before) == (entry["file"], entry["function"], entry["before"])
            if place and mutant.after == entry.get("after", mutant.after):
                return entry["reason"]
        return None
