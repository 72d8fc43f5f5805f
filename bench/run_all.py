"""Runs every benchmark, leaves out by name what lacks data or packages, and ends with a summary.

Run ``python bench/run_all.py``; ``--only NAME`` (``ridge`` for ``bench_ridge.py``) runs some of them. The exit status
is 1 if a benchmark failed: an answer was wrong, or it broke. Left out is not failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from timing import SKIPPED, table

HERE = Path(__file__).parent


def run(script: Path) -> dict[str, str]:
    """Run one benchmark, passing on what it prints, and return its line of the summary."""
    print(f"\n=== {script.name}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    skipped = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if "skipped: " in line:
            skipped.append(line.strip())
    status = process.wait()
    what = {0: "ok", SKIPPED: "skipped"}.get(status, f"FAILED with status {status}")
    reason = "; ".join(line.removeprefix("skipped: ") for line in skipped)
    return {"benchmark": script.stem, "result": what, "seconds": f"{time.monotonic() - start:.0f}", "left out": reason}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone")
    names = parser.parse_args().only
    scripts = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    unknown = [name for name in names or () if name not in scripts]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(scripts)}")
    rows = [run(script) for name, script in scripts.items() if not names or name in names]
    print(f"\n{table(rows)}")
    return 1 if any(row["result"].startswith("FAILED") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
