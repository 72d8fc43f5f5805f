"""Everything that needs a GPU, in nine minutes a run: build, verify and time every kernel, suites, compute-sanitizer.

    python3 bench/gpu_check.py [--seconds 540]

Uses the interpreter it is run with: PyTorch, NumPy, SciPy, pybind11 and scikit-build-core must be there, a CUDA toolkit
and a C++ compiler too; no network is used. bench/results/gpu-<name>.json is written row by row; a run that is cut off
or out of time (exit status 3) is gone on with by the same command. Without a GPU it says so and fails, and leaves the
results as they were. ``--emulated SITE`` is a dry run on the emulated kernels of an installation: its times are fakes.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from gpu_store import RESULTS, ROOT, Store, sources_digest

BENCH = ROOT / "bench"
AGAIN, OUT_OF_TIME = 75, 3
# Tests whose laws hold on any device: what is certified is checked one-sidedly there.
LAWS = (
    "test_cuda",
    "test_twins",
    "test_gdp",
    "test_gaussian_pair",
    "test_shifted",
    "test_renyi_accounting",
    "test_ridge",
)
# Of the boundary's tests, those on memory layouts work on host arrays.
BOUNDARY = "writes_every_output or no_items or one_item or nan_never"


@dataclass
class Place:
    """Where this run happens and what it may use."""

    gpu: str
    seconds: float
    work: Path
    results: Path
    emulated: Path | None = None
    tick: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def site(self) -> Path:
        """Return the folder the package is installed in."""
        return self.emulated or self.work / "site"

    def left(self, share: float = 1.0) -> float:
        """Return a share of the seconds that are left."""
        return max(1.0, (self.seconds - (time.monotonic() - self.started)) * share)

    def run(self, name: str, command: list[str], *, share: float, **environment: str) -> tuple[int | None, str]:
        """Run a step and show its last lines; return its exit status, None where time ran out, and what it said."""
        print(f"=== {name}", flush=True)
        begun = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **environment}, text=True, timeout=self.left(share),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            status, text = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            status, text = None, output.decode(errors="replace") if isinstance(output, bytes) else output
        print("\n".join(line[:200] for line in text.splitlines()[-15:]))
        said = "out of time" if status is None else "ok" if status == 0 else f"exit status {status}"
        print(f"{said} after {time.monotonic() - begun:.0f} s", flush=True)
        return status, text


def outcome(status: int | None, **found: Any) -> dict[str, Any]:
    """Return what a step found; a step that ran out of time is taken up again by the next run."""
    return {"not_run": "out of time"} if status is None else {"passed": status == 0, **found}


def gpu_name() -> str | None:
    """Return the name of the GPU, or None where there is none to use."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed for this interpreter")
        return None
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or None


def driver_version() -> int:
    """Return the CUDA version that the driver is for, as 13000 for 13.0; 0 if it does not say."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value


def toolkit_version() -> int:
    """Return the version of nvcc in the same way."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60).stdout
    except OSError:
        return 0
    found = re.search(r"release (\d+)\.(\d+)", said)
    return int(found[1]) * 1000 + int(found[2]) * 10 if found else 0


def too_old(driver: int, toolkit: int) -> str:
    """Return why kernels built with a toolkit cannot run on a driver, or nothing. The runtime is linked in."""
    if not driver or not toolkit or driver // 1000 >= toolkit // 1000:
        return ""
    return (
        f"the driver is for CUDA {driver // 1000}.{driver % 1000 // 10} and nvcc is of {toolkit // 1000}."
        f"{toolkit % 1000 // 10}: CUDACXX must name an nvcc of {driver // 1000}, or the driver must be newer"
    )


def build(place: Place, digest: str) -> bool:
    """Install the package with its CUDA kernels into the work folder, without network, unless it is there."""
    mark = place.work / "built"
    if place.site.exists() and mark.exists() and mark.read_text() == digest:
        print("=== build: these sources are built already")
        return True
    shutil.rmtree(place.site, ignore_errors=True)
    mark.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
               "--no-build-isolation", "--no-deps", "--target", str(place.site), ".",
               "-C", f"build-dir={place.work / 'cmake'}", "-C", "cmake.define.EXPUNGE_CUDA=ON",
               "-C", "cmake.define.CMAKE_CUDA_ARCHITECTURES=native"]  # fmt: skip
    good = place.run("build with CUDA", command, share=0.6)[0] == 0
    if good:
        mark.write_text(digest)
    return good


def calls(place: Place) -> dict[str, Any]:
    """Run the table of calls beside the CPU's kernels."""
    dry = ["--emulated", "--short"] if place.emulated else []
    status, text = place.run(
        "every kernel beside the CPU's", [sys.executable, str(BENCH / "gpu_suite.py"), str(place.site), *dry], share=0.4
    )
    return outcome(status, compared=len(re.findall(r"^(?:ok  |FAIL)", text, re.MULTILINE)))


def laws(place: Place) -> dict[str, Any]:
    """Run pytest's laws on the GPU, where pytest and what the tests need is installed."""
    needed = ("pytest", "hypothesis", "mpmath", "sklearn", "cryptography", "click", "tqdm")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing or place.emulated:
        reason = f"without {', '.join(missing)}" if missing else "a dry run: the tests run by themselves"
        print(f"NOT RUN: the pytest suite, {reason}")
        return {"not_run": reason}
    common = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {"PYTHONPATH": str(place.site), "EXPUNGE_TEST_DEVICE": "cuda", "HYPOTHESIS_PROFILE": "sanitize"}
    files = [f"tests/{name}.py" for name in LAWS]
    results = [
        place.run("pytest: oracles and laws", [*common, *files], share=0.5, **environment),
        place.run(
            "pytest: the boundary", [*common, "tests/test_boundary.py", "-k", BOUNDARY], share=0.5, **environment
        ),
    ]
    worst = next((status for status, _ in results if status != 0), 0)
    return outcome(worst, summary=[text.strip().splitlines()[-1] for _, text in results if text.strip()])


def sanitizer(place: Place, check: str) -> dict[str, Any]:
    """Run one of compute-sanitizer's checks on one call per kernel."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None or place.emulated:
        reason = "compute-sanitizer is not installed" if tool is None else "a dry run"
        print(f"NOT RUN: compute-sanitizer {check}: {reason}")
        return {"not_run": reason}
    command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, str(BENCH / "gpu_suite.py"),
               str(place.site), "--short"]  # fmt: skip
    status, text = place.run(f"compute-sanitizer {check}", command, share=0.6)
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    return outcome(status, summary=summary[-1] if summary else "none")


def timings(place: Place, store: Store) -> int | None:
    """Verify and time the kernels, in a new process whenever the device became unusable; return the exit status."""
    while True:
        command = [sys.executable, str(BENCH / "gpu_timings.py"), "--site", str(place.site), "--results",
                   str(store.path), "--gpu", place.gpu, "--digest", store.payload["sources"],
                   "--seconds", str(place.seconds if place.tick else place.left(0.75)),
                   *(["--emulated"] if place.emulated else []),
                   *(["--tick", str(place.tick)] if place.tick else [])]  # fmt: skip
        before = len(store.payload["rows"])
        status, _ = place.run("verified, then timed", command, share=0.85)
        store.payload = json.loads(store.path.read_text()) if store.path.exists() else store.payload
        crashed = status == AGAIN or (status is not None and status < 0)  # by a signal
        progress = len(store.payload["rows"]) > before or bool(store.payload["attempts"])
        if not (crashed and progress and place.left() > 5.0):
            return status


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as aligned text."""
    lines = [["kernel", "what", "verified", "ms", "floor ms", "of floor", "target", "others"]]
    for row in rows:
        state = "yes" if row.get("verified") else row.get("not_run") or row.get("failed") or "WRONG"
        others = [f"{key.removesuffix(' ms')} {value:.4g}" for key, value in row.items()
                  if key.endswith(" ms") and value is not None]  # fmt: skip
        numbers = [f"{row[key]:.3f}" if key in row else "" for key in ("ms", "floor_ms")]
        shares = ["" if row.get(key) is None else f"{row[key]:.0%}" for key in ("of_floor", "target")]
        others += [f"ranks {row['ranks']}"] if "ranks" in row else []
        if row.get("fake"):
            numbers, shares, others = ["fake", ""], ["", ""], []
        lines.append([row["kernel"], row["what"], state[:40], *numbers, *shares, "; ".join(others)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def results_file(folder: Path, gpu: str) -> Path:
    """Return the file of a GPU's results."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-").removeprefix("nvidia-")
    return folder / f"gpu-{slug}.json"


def verdict(store: Store, timed: int | None) -> int:
    """Return 0 if everything ran and passed, 3 if time ran out and nothing failed, 1 otherwise."""
    rows, steps = store.payload["rows"], store.payload["steps"]
    wrong = [row for row in rows if row.get("verified") is False]
    failed = [row for row in rows if "failed" in row]
    for row in (*wrong, *failed):
        print(
            f"{'WRONG' if row in wrong else 'FAILED'}: {row['kernel']}: {row['what']} {row.get('failed', '')}".rstrip()
        )
    for name, step in steps.items():
        if not step.get("passed", True):
            print(f"FAILED: {name}")
    if wrong or failed or not all(step.get("passed", True) for step in steps.values()):
        return 1
    late = timed in (None, OUT_OF_TIME) or any(step.get("not_run") == "out of time" for step in steps.values())
    if late:
        print("Time ran out: the same command goes on from here.")
    return OUT_OF_TIME if late else 0 if timed == 0 else 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=9 * 60.0, help="how long this run may take")
    parser.add_argument("--emulated", type=Path, metavar="SITE", help="dry run on the emulated kernels there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--tick", type=float, help="dry runs: seconds that pass at every measurement")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 only if everything ran on a GPU and passed."""
    given = parsed(arguments)
    work = ROOT / "build" / "gpu"
    name = "emulator" if given.emulated else gpu_name()
    if name is None:
        print("No GPU: nothing was run on one, and no result was changed.")
        return 2
    print(f"GPU: {name}")
    place = Place(name, given.seconds, work, given.results, given.emulated, given.tick)
    digest = sources_digest()
    store = Store(results_file(given.results, name), gpu=name, digest=digest, emulated=bool(given.emulated))
    if not given.emulated:
        problem = too_old(driver_version(), toolkit_version())
        if problem:
            print(f"Nothing was run: {problem}.")
            return 1
        work.mkdir(parents=True, exist_ok=True)
        if not build(place, digest):
            return 1
    store.payload["environment"] = {
        "python": platform.python_version(), "architecture": platform.machine(),
        "driver": driver_version(), "toolkit": toolkit_version(),
    }  # fmt: skip
    steps = {
        "calls": calls,
        "timings": None,
        "memcheck": lambda place: sanitizer(place, "memcheck"),
        "racecheck": lambda place: sanitizer(place, "racecheck"),
        "laws": laws,
    }
    timed: int | None = 0
    for step, run in steps.items():
        if run is None:
            timed = timings(place, store)
        elif not store.payload["steps"].get(step, {}).get("passed"):
            store.step(step, run(place) if place.left() > 2.0 else {"not_run": "out of time"})
    print(table(store.payload["rows"]))
    print(f"{len(store.payload['rows'])} rows are in {store.path}")
    return verdict(store, timed)


if __name__ == "__main__":
    raise SystemExit(main())
