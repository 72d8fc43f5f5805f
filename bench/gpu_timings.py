"""Times every kernel on the GPU beside its floor and its peers; writes rows as JSON. Run by gpu_check.py."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from gpu_suite import without_the_estimators


def peer_ms(clock: Any, peer: Callable[[], Any]) -> float | None:
    """Return a peer's milliseconds, or None where it does not fit into memory."""
    import torch

    try:
        return clock.seconds(peer, repeats=3, warm_up=1) * 1e3
    except torch.cuda.OutOfMemoryError:
        return None


def main() -> None:
    """Arguments: the folder expunge is installed in, the file to write, and the seconds this may take."""
    site, target, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    deadline = time.monotonic() + seconds
    without_the_estimators(site)
    import torch

    from gpu_cases import cases
    from gpu_timing import Clock, limits

    clock = Clock()
    most = limits(clock)
    rows, skipped = [], []
    for case in cases():
        if time.monotonic() > deadline:
            skipped.append(f"{case.kernel}: {case.what}")
            continue
        torch.cuda.empty_cache()
        took = clock.seconds(case.run)
        floors = [case.bytes / most["copy_bytes_per_s"]]
        floors.append(case.flops / most[f"{case.dtype}_gemm_flop_per_s"])
        floor = max(floors)
        row = {"kernel": case.kernel, "what": case.what, "ms": took * 1e3, "floor_ms": floor * 1e3}
        row["floor_is"] = "copy" if floors[0] >= floors[1] else f"{case.dtype} product"
        row["of_floor"] = floor / took
        row["target"] = case.target
        row.update(case.extra(took))
        for name, peer in case.peers.items():
            row[f"{name} ms"] = peer_ms(clock, peer)
        print(row, flush=True)
        rows.append(row)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps({"limits": most, "rows": rows, "skipped_for_time": skipped}, indent=1))
    os.replace(temporary, target)


if __name__ == "__main__":
    main()
