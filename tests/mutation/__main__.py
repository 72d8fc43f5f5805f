"""Break the package one line at a time, run the tests that run the line, report the changes none of them notices."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import math
import os
import platform
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mutation.justified import Justified
from mutation.mutants import Mutant, mutants, thinned
from mutation.report import Outcome, write_report
from mutation.rooms import ROOMS
from mutation.verdicts import digest_of_file, digest_of_tree, noted, read_verdicts
from mutation.workshop import Baseline, Workshop, measure, preload, trees

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "python" / "expunge"


def changed_lines(base: str) -> dict[str, set[int]]:
    """Return the lines of each source file that differ from the commit ``base``."""
    diff = subprocess.run(
        ["git", "diff", "-U0", base, "--", "python/expunge"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, set[int]] = {}
    file = ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            file = line.removeprefix("+++ b/python/expunge/")
        elif match := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            start, count = int(match[1]), int(match[2] or 1)
            found.setdefault(file, set()).update(range(start, start + count))
    return found


def all_mutants(room: str) -> list[Mutant]:
    """Return every mutant of a room, in the order of files and lines."""
    files = sorted({path for pattern in ROOMS[room].sources for path in SOURCES.glob(pattern)})
    return [m for path in files for m in mutants(str(path.relative_to(SOURCES)), path.read_text(encoding="utf-8"))]


def test_arguments(room: str, only: list[str] | None) -> list[str]:
    """Return what pytest is told to run for a room: its test files, and the examples of its own modules."""
    files = sorted({path for pattern in only or ROOMS[room].tests for path in (ROOT / "tests").glob(pattern)})
    sources = sorted({path for pattern in ROOMS[room].sources for path in SOURCES.glob(pattern)})
    return [f"tests/{path.name}" for path in files] + [f"python/expunge/{p.relative_to(SOURCES)}" for p in sources]


def package_folder() -> Path:
    """Return the folder of the package whose compiled modules are used, without importing it."""
    found = importlib.util.find_spec("expunge")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("expunge is not installed: run 'make test' first, or 'pip install .'")
    for place in found.submodule_search_locations:
        if list(Path(place).glob("_core*.so")):
            return Path(place)
    raise SystemExit("expunge is installed without its compiled module: pip install .")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("--room", action="append", choices=sorted(ROOMS), help="may be repeated; all where left out")
    parser.add_argument("--file", nargs="+", help="only sources whose path below python/expunge has one of these in it")
    parser.add_argument(
        "--sample", type=int, help="this many mutants of each room, drawn by --seed; all where left out"
    )
    parser.add_argument(
        "--per-line", type=int, metavar="N", help="at most this many mutants of one line, drawn by --seed"
    )
    parser.add_argument("--tests", nargs="+", metavar="PATTERN", help="these test files alone, instead of the room's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="no more tests of one change than take this long"
    )
    parser.add_argument("--changed-lines", metavar="COMMIT", help="only lines that differ from this commit")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutation", help="verdicts and report go here")
    parser.add_argument("--fresh", action="store_true", help="forget the verdicts of a run that was stopped")
    parser.add_argument("--list", action="store_true", help="count the mutants, run nothing")
    return parser.parse_args()


def choose(room: str, chosen: argparse.Namespace) -> tuple[list[Mutant], int]:
    """Return the mutants of a room that are tried, and how many there are."""
    found = all_mutants(room)
    total = len(found)
    if chosen.file:
        found = [m for m in found if any(part in m.file for part in chosen.file)]
    if chosen.changed_lines:
        lines = changed_lines(chosen.changed_lines)
        found = [m for m in found if m.line in lines.get(m.file, ())]
    if chosen.per_line is not None:
        found = thinned(found, chosen.per_line, chosen.seed)
    if chosen.sample is not None and chosen.sample < len(found):
        keys = {m.key for m in random.Random(chosen.seed).sample(sorted(found, key=lambda m: m.key), chosen.sample)}
        found = [m for m in found if m.key in keys]
    return found, total


def main() -> int:
    chosen = options()
    picked = {room: choose(room, chosen) for room in chosen.room or sorted(ROOMS)}
    for room, (found, total) in picked.items():
        print(f"{room}: {len(found)} of {total} mutants")
    if chosen.list:
        return 0
    package = package_folder()
    preload()
    chosen.out.mkdir(parents=True, exist_ok=True)
    tests = {"tests": chosen.tests, "seconds": chosen.seconds, "state": digest_of_tree(ROOT / "tests")}
    package_state = digest_of_tree(SOURCES)
    state = hashlib.sha256(f"{package_state} {tests}".encode()).hexdigest()[:16]
    notes = chosen.out / "verdicts.jsonl"
    if chosen.fresh:
        notes.unlink(missing_ok=True)
    known = read_verdicts(notes, state, root=ROOT)
    stopped = False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with trees(ROOT, package, max(1, chosen.jobs)) as copies, notes.open("a") as file:
        try:
            for room, (found, _) in picked.items():
                left = [m for m in found if m.key not in known]
                if left:
                    baseline = _baseline(room, package_state, copies[0], chosen)
                    work = Workshop(list(copies), baseline, seconds=chosen.seconds)
                    for mutant, verdict in tqdm(work.run(left), total=len(left), desc=room):
                        known[mutant.key] = verdict
                        file.write(
                            json.dumps({"key": mutant.key, **noted(mutant.file, verdict, state, root=ROOT)}) + "\n"
                        )
                        file.flush()
        except KeyboardInterrupt:
            stopped = True
    outcomes = [
        Outcome(room, total, [(m, known[m.key]) for m in found if m.key in known])
        for room, (found, total) in picked.items()
    ]
    how = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "state": state,
        "per_line": chosen.per_line,
        "sample": chosen.sample,
        "seed": chosen.seed if chosen.sample is not None or chosen.per_line is not None else None,
        "file": " ".join(chosen.file) if chosen.file else None,
        "tests": " ".join(chosen.tests) if chosen.tests else None,
        "seconds": chosen.seconds if chosen.seconds < math.inf else None,
        "changed_lines": chosen.changed_lines,
        "stopped": "before its end" if stopped else None,
    }
    originals = {m.file: (SOURCES / m.file).read_text(encoding="utf-8") for o in outcomes for m, _ in o.verdicts}
    left = write_report(chosen.out, how, outcomes, Justified.read(), originals)
    print((chosen.out / "report.txt").read_text())
    return 1 if left or stopped else 0


def _baseline(room: str, package_state: str, tree: Path, chosen: argparse.Namespace) -> Baseline:
    """Return what the room's tests do on the unchanged package; only test files that have changed are run again."""
    path = chosen.out / f"lines-{room}-{package_state}.json"
    wanted = test_arguments(room, chosen.tests)
    shared = [p for p in sorted((ROOT / "tests").glob("*.py")) if not p.name.startswith("test_")]
    helpers = " ".join(digest_of_file(p) for p in shared)
    digests = {name: f"{digest_of_file(ROOT / name)} {helpers}" for name in wanted}
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    fresh = [name for name in wanted if known.get(name, {}).get("digest") != digests[name]]
    if fresh:
        print(f"{room}: running {len(fresh)} files of tests on the unchanged package", flush=True)
        files = {str(p.relative_to(SOURCES)) for pattern in ROOMS[room].sources for p in SOURCES.glob(pattern)}
        for name, part in measure(tree, fresh, sorted(files)).by_file(fresh).items():
            known[name] = {"digest": digests[name], "baseline": [part.seconds, part.lines, part.failed]}
        path.write_text(json.dumps(known))
    baseline = Baseline.joined([Baseline(*known[name]["baseline"]) for name in wanted])
    if broken := [test for test in baseline.failed if test in baseline.seconds or "::" in test]:
        some = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        print(f"{room}: {len(broken)} tests fail or are skipped without any change and are left out: {some}")
    return baseline


if __name__ == "__main__":
    sys.exit(main())
