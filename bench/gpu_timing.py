"""Timing on a GPU by CUDA events, warm kernels and a cold cache; what the device can do at most; how long there is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

_FLUSH_BYTES = 512 * 2**20  # several times the largest L2


class OutOfTime(Exception):  # noqa: N818 (nothing is wrong)
    """Raised where work would begin that there is no time for."""


class Deadline:
    """How long there is. ``tick`` moves the clock of a dry run, where nothing takes time of its own."""

    def __init__(self, seconds: float, *, ticking: bool = False) -> None:
        self._ticks: float | None = 0.0 if ticking else None
        self._end = self.now() + seconds

    def now(self) -> float:
        """Return the time."""
        return time.monotonic() if self._ticks is None else self._ticks

    def tick(self, seconds: float) -> None:
        """Let time pass, in a dry run."""
        if self._ticks is not None:
            self._ticks += seconds

    def left(self) -> float:
        """Return the seconds that are left, below zero where it is too late."""
        return self._end - self.now()

    def check(self) -> None:
        """Raise OutOfTime if no time is left."""
        if not self.left() > 0.0:
            raise OutOfTime


def repeats_within(once: float, budget: float, most: int = 9) -> int:
    """Return how often a run is repeated that took ``once`` seconds: at least once, at most within the budget."""
    return max(1, min(most, int(budget / once) if once > 0 else most))


class Clock:
    """Medians of device time; the cache is flushed before every run."""

    fake = False

    def __init__(self, deadline: Deadline) -> None:
        import torch

        self._torch, self._deadline = torch, deadline
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def _once(self, run: Callable[[], Any]) -> float:
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Writing the buffer evicts everything, and keeps the device busy while the host prepares the launch.
        self._flush.zero_()
        self._flush.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def seconds(self, run: Callable[[], Any], *, budget: float = 2.0, most: int = 9) -> float:
        """Return the median seconds of ``run`` on the device, over as many repeats as the budget and the time allow."""
        self._deadline.check()
        begun = time.monotonic()
        self._once(run)  # warms up
        times = []
        for _ in range(repeats_within(time.monotonic() - begun, budget, most)):
            if times and not self._deadline.left() > 0.0:
                break
            times.append(self._once(run))
        return statistics.median(times)


class FakeClock:
    """Runs everything once and says that it took a second: for dry runs, whose rows are marked."""

    fake = True

    def __init__(self, deadline: Deadline, tick: float) -> None:
        self._deadline, self._tick = deadline, tick

    def seconds(self, run: Callable[[], Any], *, budget: float = 2.0, most: int = 9) -> float:
        """Run once, let ``tick`` seconds pass, and return 1."""
        del budget, most
        self._deadline.check()
        run()
        self._deadline.tick(self._tick)
        return 1.0


def limits(clock: Clock | FakeClock) -> dict[str, float]:
    """Return measured bytes/s of a copy, and flop/s of matrix products in float64, float32 and bfloat16."""
    import torch

    if clock.fake:
        return {
            "copy_bytes_per_s": 1.0,
            **{f"{name}_gemm_flop_per_s": 1.0 for name in ("float64", "float32", "bfloat16")},
        }
    source = torch.empty(2**28, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    found = {"copy_bytes_per_s": 2 * source.nbytes / clock.seconds(lambda: target.copy_(source))}
    for name, dtype, size in (("float64", torch.float64, 4096), ("float32", torch.float32, 8192),
                              ("bfloat16", torch.bfloat16, 8192)):  # fmt: skip
        a = torch.empty(size, size, dtype=dtype, device="cuda").normal_()
        b = torch.empty_like(a)
        found[f"{name}_gemm_flop_per_s"] = 2.0 * size**3 / clock.seconds(lambda a=a, b=b: torch.mm(a, a, out=b))
    return found
