"""What gpu_check.py verifies and times: each kernel at a size that fills a GPU, its truth, its floor, and its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpu_device import Device, Run


@dataclass
class Case:
    """A kernel's run on given arrays, what says that its results are right, and the least work it can mean."""

    check: Callable[[], float]  # runs the kernel; the worst error as a share of its tolerance, 1 still passes
    against: str  # what it is compared with
    run: Run | None = None  # what is timed; None for what is only checked
    bytes: float = 0.0  # read and written once
    flops: float = 0.0
    dtype: str = "float32"  # whose product rate bounds the flops
    target: float | None = None  # wanted fraction of the floor
    peers: dict[str, Run] = field(default_factory=dict)
    extra: Callable[[float], dict[str, Any]] = lambda seconds: {}


@dataclass
class Plan:
    """A case by name; its arrays are made when its turn comes."""

    kernel: str
    what: str
    make: Callable[[], Case]
    missing: str = ""  # why it cannot run here


def plans(on: Device) -> Iterator[Plan]:
    """Yield everything there is to verify and time."""
    import gpu_cases_gradients
    import gpu_cases_langevin
    import gpu_cases_layers
    import gpu_cases_libraries
    import gpu_cases_privacy
    import gpu_cases_recurrent
    import gpu_cases_residual
    import gpu_cases_ridge

    for family in (
        gpu_cases_gradients,
        gpu_cases_layers,
        gpu_cases_recurrent,
        gpu_cases_langevin,
        gpu_cases_privacy,
        gpu_cases_residual,
        gpu_cases_ridge,
        gpu_cases_libraries,
    ):
        yield from family.plans(on)
