"""Fail when an object compiled for one instruction set holds a weak symbol.

The linker keeps one copy of a weak symbol (a template, an inline function). Were two levels to emit the same one, all
levels would run the copy of whichever came first: slow code at best, an illegal instruction at worst.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

WEAK = re.compile(r"^(?:[0-9a-f]+)?\s+([WVwvu]) (.+)$")


def weak_symbols(path: Path) -> list[str]:
    """Return the weak and unique-global symbols of the object file at ``path``."""
    listing = subprocess.run(["nm", "-C", str(path)], check=True, capture_output=True, text=True).stdout
    return [f"{match[1]} {match[2]}" for match in map(WEAK.match, listing.splitlines()) if match]


def main(arguments: list[str]) -> int:
    """Check the object files named, and all below the folders named."""
    objects = [path for place in map(Path, arguments) for path in (place.rglob("*.o") if place.is_dir() else [place])]
    if not objects:
        print("no object files to check")
        return 1
    found = {path: symbols for path in sorted(objects) if (symbols := weak_symbols(path))}
    for path, symbols in found.items():
        print(f"{path}: {len(symbols)} weak symbols", *symbols, sep="\n    ")
    print(f"{len(objects)} objects checked, {len(found)} with weak symbols")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
