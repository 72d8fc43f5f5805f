"""Name of the machine that a number comes from: its kind of processor, nothing more."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["processor"]


def processor() -> str:
    """Return the processor's model as the operating system calls it, or its architecture.

    Examples
    --------
    >>> len(processor()) > 0
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*models[:1], platform.processor(), platform.machine()]), "unknown")
