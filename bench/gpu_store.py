"""One results file, written whole after every row: what was measured survives whatever ends the run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
_SOURCES = ("csrc/**/*", "cmake/*", "CMakeLists.txt", "python/expunge/**/*.py", "bench/gpu_*.py")
_MOST_ATTEMPTS = 2  # of a case that ends the process


def sources_digest() -> str:
    """Return a digest of everything a measurement depends on in this checkout."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _SOURCES for path in ROOT.glob(pattern) if path.is_file()}):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Store:
    """Rows and steps by name, for one GPU and one state of the sources."""

    def __init__(self, path: Path, *, gpu: str, digest: str, emulated: bool) -> None:
        if emulated and RESULTS in path.resolve().parents:
            raise ValueError(f"fake times may not be written among the results, got {path}")
        self.path = path
        identity = {"gpu": gpu, "sources": digest, "emulated": emulated}
        self.payload: dict[str, Any] = {**identity, "rows": [], "steps": {}, "attempts": {}, "limits": {}}
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            found = {}
        if all(found.get(name) == value for name, value in identity.items()):
            self.payload.update(found)

    def write(self) -> None:
        """Write the file whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            json.dump(self.payload, file, indent=1)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, self.path)

    def row(self, kernel: str, what: str) -> dict[str, Any] | None:
        """Return a row that was written before."""
        for row in self.payload["rows"]:
            if (row["kernel"], row["what"]) == (kernel, what) and "not_run" not in row:
                found: dict[str, Any] = row
                return found
        return None

    def begins(self, kernel: str, what: str) -> bool:
        """Note that a case begins; false if it has ended the process too often to be tried again."""
        name = f"{kernel}: {what}"
        count = self.payload["attempts"].get(name, 0) + 1
        self.payload["attempts"][name] = count
        self.write()
        return bool(count <= _MOST_ATTEMPTS)

    def put(self, row: dict[str, Any]) -> None:
        """Add a row, in the place of one that was not run, and write."""
        name = row["kernel"], row["what"]
        self.payload["rows"] = [old for old in self.payload["rows"] if (old["kernel"], old["what"]) != name] + [row]
        self.payload["attempts"].pop(f"{row['kernel']}: {row['what']}", None)
        self.write()

    def forget_attempt(self, kernel: str, what: str) -> None:
        """Forget that a case began: one that there was no time for has not failed."""
        self.payload["attempts"].pop(f"{kernel}: {what}", None)
        self.write()

    def step(self, name: str, found: dict[str, Any]) -> None:
        """Set what a step of the check found and write."""
        self.payload["steps"][name] = found
        self.write()
