"""Fair timing: contenders of one table run interleaved in one process, and medians and ratios are reported."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import expunge
from expunge import _backend

# Threads of the contender before may still be spinning for work; they would cost the next one a core.
_SETTLE = 0.02

RESULTS = Path(__file__).parent / "results"


def measure(
    contenders: Mapping[str, Callable[[], object]], *, repeats: int = 7, awake: bool = False
) -> dict[str, float]:
    """Return the median seconds of each contender over ``repeats`` interleaved rounds, after one warm-up round.

    With ``awake`` each contender also runs once, untimed, right before it is timed: cores that slept while the threads
    of the one before settled take milliseconds to come back, as long as a short contender itself.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            time.sleep(_SETTLE)
            if awake:
                run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers; nothing that identifies a machine."""
    return {
        "expunge": expunge.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "architecture": platform.machine(),
        "isa": _backend.isa(),
        "threads": _backend.default_threads(),
    }


def write_results(name: str, rows: list[dict[str, Any]], **extra: Any) -> Path:
    """Write ``bench/results/<name>.json`` whole or not at all, and return its path."""
    RESULTS.mkdir(exist_ok=True)
    payload = {"environment": environment(), **extra, "rows": rows}
    handle, temporary = tempfile.mkstemp(dir=RESULTS, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        json.dump(payload, file, indent=1)
        file.write("\n")
    target = RESULTS / f"{name}.json"
    os.replace(temporary, target)
    target.chmod(0o644)
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
