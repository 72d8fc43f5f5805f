"""Timing on a GPU: CUDA events, warm kernels, a cold L2 cache; and what the device can do at most."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

_FLUSH_BYTES = 512 * 2**20  # several times the largest L2


class Clock:
    """Medians of device time; the cache is flushed before every run."""

    def __init__(self) -> None:
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def seconds(self, run: Callable[[], Any], *, repeats: int = 9, warm_up: int = 2) -> float:
        """Return the median seconds of ``run`` on the device."""
        for _ in range(warm_up):
            run()
        times = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            # Writing the buffer evicts everything, and keeps the device busy while the host prepares the launch.
            self._flush.zero_()
            self._flush.zero_()
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e-3)
        return statistics.median(times)


def _copy_rate(clock: Clock) -> float:
    source = torch.empty(2**28, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / clock.seconds(lambda: target.copy_(source))


def limits(clock: Clock) -> dict[str, float]:
    """Return measured bytes/s of a copy, and flop/s of matrix products in float64, float32 and bfloat16."""
    found = {"copy_bytes_per_s": _copy_rate(clock)}
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, dtype, size in (("float64", torch.float64, 4096), ("float32", torch.float32, 8192),
                              ("bfloat16", torch.bfloat16, 8192)):  # fmt: skip
        a = torch.empty(size, size, dtype=dtype, device="cuda").normal_()
        b = torch.empty_like(a)
        found[f"{name}_gemm_flop_per_s"] = 2.0 * size**3 / clock.seconds(lambda a=a, b=b: torch.mm(a, a, out=b))
    return found
