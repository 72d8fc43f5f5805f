"""Everything that needs a GPU, in nine minutes: build, kernel suite, timings, compute-sanitizer, one results file.

    python3 bench/gpu_check.py

Uses the interpreter it is run with: PyTorch, NumPy, SciPy, pybind11 and scikit-build-core must be there, a CUDA toolkit
and a C++ compiler too; no network is used. Without a GPU it says so and fails, and leaves the results as they were.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
WORK = ROOT / "build" / "gpu"
SITE = WORK / "site"
LIMIT = 9 * 60.0
STARTED = time.monotonic()

# Whole-suite tests that say something of a GPU: those on memory layouts work on host arrays.
TESTS = "writes_every_output or no_items or one_item or nan_never"


def left(share: float = 1.0) -> float:
    """Return the seconds a step may take, a share of what is left."""
    return max(1.0, (LIMIT - (time.monotonic() - STARTED)) * share)


def run(name: str, command: list[str], *, share: float, **environment: str) -> tuple[bool, str]:
    """Run a step, show its last lines, and return whether it succeeded and what it said."""
    print(f"=== {name}", flush=True)
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, text=True, timeout=left(share),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        good, text = done.returncode == 0, done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        good, text = False, (output.decode(errors="replace") if isinstance(output, bytes) else output) + "\ntimed out"
    print("\n".join(text.splitlines()[-15:]))
    print(f"{'ok' if good else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
    return good, text


def gpu_name() -> str | None:
    """Return the name of the GPU, or None where there is none to use."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed for this interpreter")
        return None
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or None


def build() -> bool:
    """Install the package with its CUDA kernels into build/gpu/site, without network."""
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
               "--no-build-isolation", "--no-deps", "--target", str(SITE), ".",
               "-C", f"build-dir={WORK / 'cmake'}", "-C", "cmake.define.EXPUNGE_CUDA=ON",
               "-C", "cmake.define.CMAKE_CUDA_ARCHITECTURES=native"]  # fmt: skip
    return run("build with CUDA", command, share=0.45)[0]


def tests() -> dict[str, Any]:
    """Run the kernel suite on the GPU: the table of calls, and pytest's share of it where pytest is installed."""
    found: dict[str, Any] = {}
    good, text = run("every kernel beside the CPU's", [sys.executable, str(BENCH / "gpu_suite.py"), str(SITE)],
                     share=0.4)  # fmt: skip
    found["calls"] = {"passed": good, "compared": text.count("\nok  ") + text.startswith("ok  ")}
    needed = ("pytest", "hypothesis", "mpmath", "sklearn", "cryptography", "click", "tqdm")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"NOT RUN: the pytest suite, without {', '.join(missing)}")
        found["pytest"] = {"not_run": f"without {', '.join(missing)}"}
        return found
    common = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {"PYTHONPATH": str(SITE), "EXPUNGE_TEST_DEVICE": "cuda", "HYPOTHESIS_PROFILE": "sanitize"}
    results = [
        run(
            "pytest: oracles and laws", [*common, "tests/test_twins.py", "tests/test_cuda.py"], share=0.3, **environment
        ),
        run("pytest: the boundary", [*common, "tests/test_boundary.py", "-k", TESTS], share=0.3, **environment),
    ]
    found["pytest"] = {
        "passed": all(good for good, _ in results),
        "summary": [text.strip().splitlines()[-1] for _, text in results if text.strip()],
    }
    return found


def sanitizer() -> dict[str, Any]:
    """Run compute-sanitizer's memory and race checks on one call per kernel."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        print("NOT RUN: compute-sanitizer is not installed")
        return {"not_run": "compute-sanitizer is not installed"}
    found: dict[str, Any] = {}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, str(BENCH / "gpu_suite.py"),
                   str(SITE), "--short"]  # fmt: skip
        good, text = run(f"compute-sanitizer {check}", command, share=0.3)
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
        found[check] = {"passed": good, "summary": summary[-1] if summary else "none"}
    return found


def timings() -> dict[str, Any] | None:
    """Time the kernels; None if that failed."""
    target = WORK / "timings.json"
    target.unlink(missing_ok=True)
    seconds = str(left() * 0.7)  # the rest is compute-sanitizer's
    good, _ = run("timings", [sys.executable, str(BENCH / "gpu_timings.py"), str(SITE), str(target), seconds],
                  share=1.0)  # fmt: skip
    return json.loads(target.read_text()) if good and target.exists() else None


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as aligned text."""
    lines = [["kernel", "what", "ms", "floor ms", "floor", "of floor", "target", "others"]]
    for row in rows:
        others = [f"{key} {value:.4g}" for key, value in row.items()
                  if key not in ("kernel", "what", "ms", "floor_ms", "floor_is", "of_floor", "target")
                  and value is not None]  # fmt: skip
        lines.append(
            [row["kernel"], row["what"], f"{row['ms']:.3f}", f"{row['floor_ms']:.3f}", row["floor_is"],
             f"{row['of_floor']:.0%}", "" if row["target"] is None else f"{row['target']:.0%}", "; ".join(others)]
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def write(name: str, payload: dict[str, Any]) -> Path:
    """Write bench/results/gpu-<name>.json whole or not at all."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("nvidia-")
    target = BENCH / "results" / f"gpu-{slug}.json"
    target.parent.mkdir(exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        json.dump(payload, file, indent=1)
        file.write("\n")
    os.replace(temporary, target)
    target.chmod(0o644)
    return target


def main() -> int:
    """Return 0 only if everything ran on a GPU and passed."""
    name = gpu_name()
    if name is None:
        print("No GPU: nothing was run on one, and no result was changed.")
        return 2
    print(f"GPU: {name}")
    WORK.mkdir(parents=True, exist_ok=True)
    if not build():
        return 1
    suite = tests()
    measured = timings() if suite["calls"]["passed"] else None
    checked = sanitizer()
    if measured is None:
        print("No results were written: the kernels are wrong or could not be timed.")
        return 1
    payload = {
        "environment": {"gpu": name, "python": platform.python_version(), "architecture": platform.machine()},
        "seconds": round(time.monotonic() - STARTED),
        "suite": suite,
        "compute_sanitizer": checked,
        **measured,
    }
    print(table(measured["rows"]))
    print(f"written to {write(name, payload).relative_to(ROOT)} after {payload['seconds']} s")
    steps = [suite["calls"], suite["pytest"], *(checked.values() if "not_run" not in checked else [])]
    return 0 if all(step.get("passed", True) for step in steps) else 1


if __name__ == "__main__":
    raise SystemExit(main())
