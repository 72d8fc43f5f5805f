"""Every instruction set gives the same numbers, up to 1e-12 of the scale of the result."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernel_calls import CALLS, call

# The child runs the same table of calls in the same environment, but for the level.
CHILD = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from kernel_calls import CALLS, call
results = {name: call(name, n=101).run() for name in CALLS}
sys.stdout.buffer.write(pickle.dumps(results))
"""


def results_at(level: str) -> dict[str, dict[str, Any]] | None:
    """Return every kernel's outputs at the level, or None where this processor or build lacks it."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent)],
        env={**os.environ, "EXPUNGE_ISA": level},
        capture_output=True,
        timeout=300,
    )
    if b"is not supported by this processor" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.mark.parametrize("level", ["base", "v3", "v4"])
def test_levels_agree(level: str) -> None:
    theirs = results_at(level)
    if theirs is None:
        pytest.skip(f"EXPUNGE_ISA={level} is not supported here")
    for kernel in CALLS:
        case = call(kernel, n=101)
        ours = case.run()
        for name, value in ours.items():
            other = theirs[kernel][name]
            scale = case.scales.get(name, np.abs(value[np.isfinite(value)]).max(initial=0.0))
            tolerance = scale * (1e-12 if value.dtype != np.float32 else 1e-12 * 2.0**29)
            np.testing.assert_allclose(other, value, rtol=0, atol=tolerance, err_msg=f"{kernel}.{name} at {level}")
