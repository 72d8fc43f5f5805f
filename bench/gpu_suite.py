"""Every CUDA kernel on the GPU beside the CPU's, on the calls of tests/kernel_calls.py. Needs no test framework.

Run by gpu_check.py; ``--short`` keeps one call per kernel, for compute-sanitizer and dry runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

EMULATED = "--emulated" in sys.argv
if not EMULATED:
    os.environ["EXPUNGE_TEST_DEVICE"] = "cuda"
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from gpu_device import use_package  # noqa: E402

# Bits that must agree: integer random words and what is made of them by single operations.
EXACT = ("random_words", "standard_normals", "langevin_")


def main() -> int:
    """Compare, print one line per call, and return the number of calls that differ."""
    use_package(Path(sys.argv[1]))
    import numpy as np

    import compiled
    import kernel_calls

    gpu, cpu = compiled.AVAILABLE["cuda_emul" if EMULATED else "cuda"], compiled.CPU
    assert kernel_calls.kernels_in_table() <= set(vars(gpu.module)), "a kernel of the table is missing on the GPU"
    labels = sorted(label for label in kernel_calls.CALLS if not compiled.on_cpu_only(label))
    if "--short" in sys.argv:
        labels = list({label.partition(":")[0]: label for label in reversed(labels)}.values())
    failures = 0
    for label in labels:
        for n in (7,) if "--short" in sys.argv else (0, 1, 37, 200):
            ours, theirs = kernel_calls.call(label, n=n), kernel_calls.call(label, n=n)
            gpu.run(ours.kernel, ours.arguments)
            cpu.run(theirs.kernel, theirs.arguments, threads=0)
            worst = 0.0
            for name in ours.outputs:
                a, b = ours.arguments[name], theirs.arguments[name]
                if label.startswith(EXACT):
                    worst = max(worst, 0.0 if a.tobytes() == b.tobytes() else np.inf)
                    continue
                assert np.array_equal(np.isnan(a), np.isnan(b)), f"{label}: NaN in other places"
                finite = np.isfinite(b)
                scale = ours.scales.get(name, float(np.abs(b[finite]).max(initial=0.0))) or 1.0
                with np.errstate(invalid="ignore"):
                    off = np.abs(a[finite].astype(float) - b[finite].astype(float))
                # Scales say where an output is less accurate than its own size; sums differ in order elsewhere.
                worst = max(worst, float(off.max(initial=0.0)) / scale / (1.0 if name in ours.scales else 10.0))
            good = worst <= 1e-12
            failures += not good
            print(f"{'ok  ' if good else 'FAIL'} {label} n={n}: {worst:.1e} of the scale")
    print(f"{failures} of the calls differ")
    return failures


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
