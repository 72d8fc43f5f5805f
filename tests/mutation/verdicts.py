"""Verdicts kept from one run to the next, with what each depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digest_of_file(path: Path) -> str:
    """Return a digest of a file's bytes; of a file that is not there, the empty string."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def digest_of_tree(folder: Path) -> str:
    """Return a digest of all Python files of a folder but those of this tool."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if "mutation" not in path.parts:
            found.update(f"{path.relative_to(folder)} {digest_of_file(path)}\n".encode())
    return found.hexdigest()[:16]


def read_verdicts(path: Path, state: str, *, root: Path) -> dict[str, dict[str, Any]]:
    """Return the verdicts of earlier runs that still hold; a torn last line is left out.

    A kill holds while the changed file and the test file that noticed are what they were: other tests cannot undo it.
    Any other verdict holds for its own ``state`` of the project and of the options alone.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[entry.pop("key")] = entry
    now: dict[Path, str] = {}

    def same(place: Path, digest: str) -> bool:
        return now.setdefault(place, digest_of_file(place)) == digest

    def holds(entry: dict[str, Any]) -> bool:
        if entry["verdict"] != "killed":
            return bool(entry["state"] == state)
        return same(_source(root, entry["file"]), entry["source"]) and same(_test(root, entry["by"]), entry["test"])

    return {key: entry for key, entry in found.items() if holds(entry)}


def _source(root: Path, file: str) -> Path:
    return root / "python" / "expunge" / file


def _test(root: Path, killer: str) -> Path:
    return root / killer.removeprefix("import of ").partition("::")[0]


def noted(file: str, verdict: dict[str, Any], state: str, *, root: Path) -> dict[str, Any]:
    """Return a verdict with what it depends on."""
    test = digest_of_file(_test(root, verdict.get("by", "")))
    source = digest_of_file(_source(root, file))
    return {**verdict, "file": file, "source": source, "test": test, "state": state}
