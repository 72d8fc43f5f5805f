"""Verifies every kernel at the size it is timed at, then times it beside its floor and its peers. Run by gpu_check.py.

A kernel that is wrong has a row that says so and no time; the others go on. Every row is written at once, so that a run
that is cut off keeps what it has, and the next one goes on from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from gpu_store import Store
from gpu_timing import Clock, Deadline, FakeClock, OutOfTime, limits

AGAIN = 75  # exit status: the device is unusable for this process, and a new one goes on
_BROKEN = ("CUDA error", "illegal memory access", "unspecified launch failure", "device-side assert", "misaligned")


def breaks_the_device(error: Exception) -> bool:
    """Return whether nothing will run in this process any more."""
    return any(word in str(error) for word in _BROKEN)


def time_peers(peers: dict[str, Any], clock: Any, row: dict[str, Any]) -> None:
    """Add the milliseconds of others to the row; one that cannot run here says so and costs the kernel nothing."""
    for name, peer in peers.items():
        try:
            row[f"{name} ms"] = float(clock.seconds(peer, budget=1.0, most=3)) * 1e3
        except OutOfTime:  # noqa: PERF203
            return
        except Exception as error:
            if breaks_the_device(error):
                raise
            row[f"{name} cannot run"] = f"{type(error).__name__}: {error}"[:200]


def time_kernel(case: Any, clock: Any, most: dict[str, float], row: dict[str, Any]) -> None:
    """Add the times of a verified case to its row."""
    took = clock.seconds(case.run)
    row["ms"] = took * 1e3
    floors = [case.bytes / most["copy_bytes_per_s"], case.flops / most[f"{case.dtype}_gemm_flop_per_s"]]
    if max(floors) > 0.0:
        row["floor_ms"] = max(floors) * 1e3
        row["floor_is"] = "copy" if floors[0] >= floors[1] else f"{case.dtype} product"
        row["of_floor"] = max(floors) / took
    row["target"] = case.target
    row.update(case.extra(took))


def one(plan: Any, clock: Any, most: dict[str, float], row: dict[str, Any]) -> None:
    """Fill the row of one case: verified, then timed if it is right."""
    if plan.missing:
        row["not_run"] = plan.missing
        return
    begun = time.monotonic()
    case = plan.make()
    share = case.check()
    row |= {
        "verified": bool(share <= 1.0),
        "against": case.against,
        "error_of_tolerance": round(share, 6) if share < 1e6 else "huge",
    }
    row["check_seconds"] = round(time.monotonic() - begun, 3)
    if not row["verified"] or case.run is None:
        return
    if clock.fake:
        row["fake"] = True
    time_kernel(case, clock, most, row)
    time_peers(case.peers, clock, row)


def work_through(plans: Iterable[Any], on: Any, clock: Any, store: Store, deadline: Deadline) -> int:
    """Write a row for every plan that has none and that there is time for; return how many are left."""
    left = 0
    for plan in plans:
        if store.row(plan.kernel, plan.what) is not None:
            continue
        if not deadline.left() > 0.0:
            left += 1
            continue
        row: dict[str, Any] = {"kernel": plan.kernel, "what": plan.what}
        broken = False
        if not store.begins(plan.kernel, plan.what):
            store.put({**row, "failed": "ended the process each time it was tried"})
            continue
        try:
            one(plan, clock, store.payload["limits"], row)
        except OutOfTime:
            store.forget_attempt(plan.kernel, plan.what)
            left += 1
            continue
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:500]
            broken = breaks_the_device(error)
        print({name: value for name, value in row.items() if name != "against"}, flush=True)
        store.put(row)
        if broken:
            return -1
        on.tidy()
    return left


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if every row is there, 3 if time ran out first, AGAIN if the device has to be opened anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, required=True, help="folder expunge is installed in")
    parser.add_argument("--results", type=Path, required=True, help="the file")
    parser.add_argument("--gpu", required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--tick", type=float, help="dry runs: seconds that pass at every measurement")
    given = parser.parse_args(arguments)

    from gpu_device import Device, use_package

    use_package(given.site)
    from gpu_cases import plans

    store = Store(given.results, gpu=given.gpu, digest=given.digest, emulated=given.emulated)
    deadline = Deadline(given.seconds, ticking=given.tick is not None)
    on = Device(emulated=given.emulated, check_time=deadline.check)
    clock: Any = FakeClock(deadline, given.tick or 0.0) if given.emulated else Clock(deadline)
    if not store.payload["limits"]:
        store.payload["limits"] = limits(clock)
        store.write()
    left = work_through(plans(on), on, clock, store, deadline)
    return AGAIN if left < 0 else 3 if left else 0


if __name__ == "__main__":
    raise SystemExit(main())
