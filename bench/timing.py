"""Fair timing: contenders of one table run interleaved in one process, and medians and ratios are reported.

Also what benchmarks share besides: leaving out by name what is missing, and results with where they come from.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy

import expunge
from expunge._errors import how_to_install
from expunge._kernels import backend
from expunge._kernels.machine import processor

# Threads of the contender before may still be spinning for work, OpenBLAS' for some 30 ms: they would cost the next one
# a core.
_SETTLE = 0.1
_AWAKE = 0.02

# Where others are at work too, the CPU seconds of all cores say more: EXPUNGE_BENCH_CLOCK=cpu.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = os.environ.get("EXPUNGE_BENCH_CLOCK", "wall")
if CLOCK not in CLOCKS:
    raise SystemExit(f"EXPUNGE_BENCH_CLOCK must be {' or '.join(CLOCKS)}, got {CLOCK!r}")

RESULTS = Path(__file__).parent / "results"
SKIPPED = 77  # exit status of a benchmark that lacks what it needs
MNIST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def skip(reason: str) -> NoReturn:
    """Leave a benchmark out, with a status that says so."""
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def need(package: str, *, extra: str) -> None:
    """Leave the benchmark out if a package of an extra is not installed."""
    if find_spec(package) is None:
        skip(f"needs {package}: {how_to_install(extra)}")


def mnist_folder(folder: Path) -> Path:
    """Return a folder that holds the MNIST test images; leave the benchmark out if they are not there."""
    missing = [name for name in MNIST if not (folder / name).is_file()]
    if missing:
        skip(f"needs {' and '.join(missing)} of MNIST: name their folder, as an argument or in EXPUNGE_DATA")
    return folder


def measure(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    awake: bool = False,
    clock: Callable[[], float] = CLOCKS[CLOCK],
) -> dict[str, float]:
    """Return the median seconds of each contender over ``repeats`` interleaved rounds, as `measured` times them."""
    seconds = measured(contenders, repeats=repeats, awake=awake, clock=clock)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measured(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    awake: bool = False,
    clock: Callable[[], float] = CLOCKS[CLOCK],
) -> dict[str, list[float]]:
    """Return the seconds of each contender in each of ``repeats`` interleaved rounds, after one warm-up round.

    With ``awake`` each contender also runs untimed for twenty milliseconds right before it is timed: cores that slept
    while the threads of the one before settled take milliseconds to come back, longer than a short contender. With
    ``clock=time.process_time`` the seconds are those of all cores together.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            time.sleep(_SETTLE)
            until = time.perf_counter() + _AWAKE if awake else 0.0
            while time.perf_counter() < until:
                run()
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers: the kind of processor and the versions, and the command."""
    return {
        "expunge": expunge.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "architecture": platform.machine(),
        "isa": backend.isa(),
        "threads": backend.default_threads(),
        "clock": CLOCK,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,  # of others as well
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *map(_plain, sys.argv[1:])]),
    }


def _plain(argument: str) -> str:
    """Return an argument as it goes into a file: folders are whoever's they are."""
    return "FOLDER" if os.sep in argument else argument


def write_results(name: str, rows: list[dict[str, Any]], **extra: Any) -> Path:
    """Write ``bench/results/<name>.json`` whole or not at all, say so, and return its path."""
    RESULTS.mkdir(exist_ok=True)
    payload = {"environment": environment(), **extra, "rows": rows}
    handle, temporary = tempfile.mkstemp(dir=RESULTS, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        json.dump(payload, file, indent=1)
        file.write("\n")
    target = RESULTS / f"{name}.json"
    os.replace(temporary, target)
    target.chmod(0o644)
    print(f"written to bench/results/{name}.json")
    return target


def table(rows: list[dict[str, Any]]) -> str:
    """Return ``rows`` as aligned text."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [
        [f"{row.get(c, ''):.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
