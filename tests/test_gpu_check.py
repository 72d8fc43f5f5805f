"""What bench/gpu_check.py does around its measurements, on the emulator: times are fakes there and say so."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import compiled
import kernel_calls

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
sys.path.append(str(BENCH))

import gpu_check  # noqa: E402
from gpu_cases import Case, Plan  # noqa: E402
from gpu_store import RESULTS, Store, sources_digest  # noqa: E402
from gpu_timing import Deadline, FakeClock, OutOfTime, repeats_within  # noqa: E402
from gpu_timings import work_through  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

on_the_emulator = pytest.mark.skipif(
    torch is None or compiled.built("_cuda_emul") is None, reason="needs PyTorch and a build with EXPUNGE_CUDA_EMUL=ON"
)
SITE = Path(compiled.backend.__file__).resolve().parent.parent.parent
RATES = {"copy_bytes_per_s": 1e12, "float32_gemm_flop_per_s": 1e13}


def store_at(path, **changes):
    identity = {"gpu": "none", "digest": "0", "emulated": True, **changes}
    store = Store(path, **identity)
    store.payload["limits"] = RATES
    return store


class On:
    def tidy(self):
        pass


def plan(name, share=0.5, *, during=lambda: None, extra=None):
    def check():
        during()
        return share

    case = Case(check, "nothing", lambda: None, bytes=1e6, extra=extra or (lambda seconds: {}))
    return Plan("kernel", name, lambda: case)


def names(store):
    return [row["what"] for row in store.payload["rows"]]


# --- deadlines, wrong kernels, crashes ---------------------------------------------------------------


def test_a_run_that_is_out_of_time_goes_on_where_it_stopped(tmp_path):
    plans = [plan(f"case {i}") for i in range(7)]
    path = tmp_path / "gpu-none.json"
    left = []
    for _ in range(4):
        deadline = Deadline(25.0, ticking=True)
        left.append(work_through(plans, On(), FakeClock(deadline, 10.0), store_at(path), deadline))
    assert left == [4, 1, 0, 0]  # three of ten seconds each begin before the twenty-fifth
    assert names(store_at(path)) == [f"case {i}" for i in range(7)]
    assert all(row["fake"] and row["ms"] == 1000.0 for row in store_at(path).payload["rows"])


def test_time_is_looked_at_inside_a_case_too(tmp_path):
    deadline = Deadline(25.0, ticking=True)
    clock = FakeClock(deadline, 10.0)
    long = plan("long", during=lambda: [clock.seconds(lambda: None) for _ in range(5)])
    store = store_at(tmp_path / "gpu-none.json")
    assert work_through([plan("short"), long, plan("after")], On(), clock, store, deadline) == 2
    assert names(store) == ["short"]
    assert store.payload["attempts"] == {}  # out of time is no failure: it is tried again as if for the first time
    with pytest.raises(OutOfTime):
        deadline.check()


@pytest.mark.parametrize("share", [1.0000001, math.inf, math.nan])
def test_a_kernel_that_is_wrong_has_no_time_and_the_others_have(tmp_path, share):
    deadline = Deadline(1000.0, ticking=True)
    store = store_at(tmp_path / "gpu-none.json")
    plans = [plan("right"), plan("wrong", share), plan("right too", 1.0)]
    assert work_through(plans, On(), FakeClock(deadline, 1.0), store, deadline) == 0
    assert [row["verified"] for row in store.payload["rows"]] == [True, False, True]
    assert ["ms" in row for row in store.payload["rows"]] == [True, False, True]
    assert gpu_check.verdict(store, 0) == 1
    assert "WRONG" in gpu_check.table(store.payload["rows"])
    json.loads(store.path.read_text())  # whatever the error was


def test_a_case_that_fails_is_a_row_that_says_why(tmp_path):
    def fail():
        raise ValueError("workspace must hold 7")

    deadline = Deadline(1000.0, ticking=True)
    store = store_at(tmp_path / "gpu-none.json")
    late = plan("fails late", extra=lambda seconds: fail())
    plans = [plan("fails", during=fail), late, plan("right")]
    assert work_through(plans, On(), FakeClock(deadline, 1.0), store, deadline) == 0
    assert [row.get("failed") for row in store.payload["rows"]] == ["ValueError: workspace must hold 7"] * 2 + [None]
    assert gpu_check.verdict(store, 0) == 1


def test_a_peer_that_cannot_run_costs_the_kernel_nothing(tmp_path):
    def fail():
        raise ImportError("no such library")

    case = plan("kernel").make()
    case.peers = {"absent": fail, "there": lambda: None}
    deadline = Deadline(1000.0, ticking=True)
    store = store_at(tmp_path / "gpu-none.json")
    work_through([Plan("kernel", "beside others", lambda: case)], On(), FakeClock(deadline, 1.0), store, deadline)
    (row,) = store.payload["rows"]
    assert row["absent cannot run"] == "ImportError: no such library"
    assert row["ms"] == row["there ms"] == 1000.0
    assert gpu_check.verdict(store, 0) == 0


def test_a_broken_device_is_opened_anew_and_the_kernel_that_broke_it_is_named(tmp_path):
    def fault():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    deadline = Deadline(1000.0, ticking=True)
    store = store_at(tmp_path / "gpu-none.json")
    plans = [plan("faults", during=fault), plan("right")]
    assert work_through(plans, On(), FakeClock(deadline, 1.0), store, deadline) == -1
    assert work_through(plans, On(), FakeClock(deadline, 1.0), store_at(store.path), deadline) == 0
    assert names(store_at(store.path)) == ["faults", "right"]


def test_a_case_that_ends_the_process_is_tried_twice_and_then_left(tmp_path):
    class End(BaseException):
        pass

    def end():
        raise End

    path = tmp_path / "gpu-none.json"
    deadline = Deadline(1000.0, ticking=True)
    plans = [plan("before"), plan("ends", during=end), plan("after")]
    for _ in range(2):
        with pytest.raises(End):
            work_through(plans, On(), FakeClock(deadline, 1.0), store_at(path), deadline)
        assert names(store_at(path)) == ["before"]  # written before the end
    assert work_through(plans, On(), FakeClock(deadline, 1.0), store_at(path), deadline) == 0
    assert names(store_at(path)) == ["before", "ends", "after"]
    assert "ended the process" in store_at(path).payload["rows"][1]["failed"]


def test_what_was_missing_is_tried_again_and_what_was_measured_is_not(tmp_path):
    store = store_at(tmp_path / "gpu-none.json")
    deadline = Deadline(1000.0, ticking=True)
    clock = FakeClock(deadline, 1.0)
    missing = Plan("arrays of cupy", "all", lambda: None, "cupy is not installed")
    work_through([plan("first"), missing], On(), clock, store, deadline)
    assert store.payload["rows"][1]["not_run"] == "cupy is not installed"
    assert gpu_check.verdict(store, 0) == 0  # by name, and no failure

    def never():
        raise AssertionError("measured again")

    there = Plan("arrays of cupy", "all", plan("all").make)
    work_through([plan("first", during=never), there], On(), clock, store_at(store.path), deadline)
    rows = store_at(store.path).payload["rows"]
    assert [(row["kernel"], row.get("verified")) for row in rows] == [("kernel", True), ("arrays of cupy", True)]


def test_rows_of_other_sources_or_another_gpu_are_not_gone_on_with(tmp_path):
    path = tmp_path / "gpu-none.json"
    store_at(path).put({"kernel": "kernel", "what": "old"})
    assert names(store_at(path)) == ["old"]
    assert names(store_at(path, digest="1")) == names(store_at(path, gpu="other")) == []
    assert names(store_at(path)) == ["old"]  # nothing is lost until there is something new
    path.write_text(path.read_text()[:-30])
    assert names(store_at(path)) == []  # cut off by something else than us


def test_fake_times_never_lie_among_the_results():
    with pytest.raises(ValueError, match="fake times may not be written among the results"):
        store_at(RESULTS / "gpu-none.json")
    assert gpu_check.results_file(RESULTS, "NVIDIA H200 NVL").name == "gpu-h200-nvl.json"


@pytest.mark.parametrize(
    ("once", "budget", "repeats"), [(1e-4, 2.0, 9), (0.5, 2.0, 4), (1.5, 2.0, 1), (60.0, 2.0, 1), (0.0, 2.0, 9)]
)
def test_repeats_are_bounded_by_what_one_takes(once, budget, repeats):
    assert repeats_within(once, budget) == repeats


@pytest.mark.parametrize(
    ("driver", "toolkit", "says"),
    [
        (12040, 13000, "the driver is for CUDA 12.4 and nvcc is of 13.0"),
        (13000, 13010, ""),
        (13010, 12080, ""),
        (0, 13000, ""),
        (12040, 0, ""),
    ],
)
def test_a_driver_too_old_for_the_toolkit_is_named_before_anything_is_built(driver, toolkit, says):
    assert gpu_check.too_old(driver, toolkit).startswith(says)
    assert bool(gpu_check.too_old(driver, toolkit)) == bool(says)


def test_the_digest_is_that_of_the_sources():
    assert sources_digest() == sources_digest()
    assert len(sources_digest()) == 64


# --- whole dry runs ---------------------------------------------------------------------------------

BARE = """
import importlib.machinery, sys
hidden = {hidden!r}
found = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else found(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""
NOT_NEEDED = ["cryptography", "sklearn", "click", "tqdm", "threadpoolctl", "joblib", "mpmath", "hypothesis", "pytest",
              "pandas", "matplotlib", "pyarrow", "cupy", "jax", "_pytest"]  # fmt: skip


def dry_run(tmp_path, script, *arguments, code="", hidden=()):
    """Run a script of bench/ as on a machine without some packages; ``code`` runs first."""
    (tmp_path / "start").mkdir(exist_ok=True)
    (tmp_path / "start" / "sitecustomize.py").write_text(BARE.format(hidden=list(hidden)) + code)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'start'}{os.pathsep}{SITE}", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(BENCH / script), *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def timings(tmp_path, seconds, *, code="", tick=1.0):
    path = tmp_path / "results" / "gpu-emulator.json"
    done = dry_run(
        tmp_path, "gpu_timings.py", "--site", SITE, "--results", path, "--gpu", "emulator", "--digest", "0",
        "--seconds", seconds, "--emulated", "--tick", tick, code=code, hidden=["cupy", "jax"],
    )  # fmt: skip
    return done, json.loads(path.read_text())["rows"]


@on_the_emulator
def test_a_whole_dry_run_on_a_bare_machine_verifies_every_kernel_and_keeps_no_result(tmp_path):
    before = {path: path.read_bytes() for path in RESULTS.glob("gpu*")}
    done = dry_run(
        tmp_path, "gpu_check.py", "--emulated", SITE, "--results", tmp_path / "results", "--seconds", 500,
        hidden=NOT_NEEDED,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in RESULTS.glob("gpu*")} == before
    found = json.loads((tmp_path / "results" / "gpu-emulator.json").read_text())
    assert found["emulated"] is True
    assert found["steps"]["calls"] == {"passed": True, "compared": len(kernel_calls.kernels_in_table())}
    assert "without pytest, hypothesis, mpmath, sklearn, cryptography, click, tqdm" in found["steps"]["laws"]["not_run"]
    absent = {row["kernel"]: row["not_run"] for row in found["rows"] if "not_run" in row}
    assert absent == {f"arrays of {name}": f"{name} is not installed" for name in ("cupy", "jax")}
    measured = [row for row in found["rows"] if "not_run" not in row]
    assert all(row["verified"] and row["fake"] for row in measured)
    assert {row["kernel"] for row in measured} == kernel_calls.kernels_in_table()
    dtypes = {row["what"].rpartition(", ")[2] for row in measured if row["kernel"] == "linear_grad_norms"}
    assert dtypes == {"float32", "bfloat16"}


@on_the_emulator
def test_a_dry_run_out_of_time_says_so_and_the_next_one_goes_on(tmp_path):
    done, rows = timings(tmp_path, 6.0)
    assert done.returncode == 3, done.stderr
    assert 3 <= len(rows) <= 6
    again, more = timings(tmp_path, 6.0)
    assert again.returncode == 3
    assert more[: len(rows)] == rows
    assert len(more) > len(rows)


# Every output of every kernel is off by what TF32 would do, or by one where it is an integer.
WRONG = """
def spoil():
    import expunge._kernels.backend as backend, gpu_device
    def off(before, arrays):
        for array in arrays:
            if hasattr(array, "is_floating_point") and array.numel() and not torch.equal(before[id(array)], array):
                array.mul_(1.001) if array.is_floating_point() else array.view(torch.int32).add_(1)
    import torch
    run, direct = backend.DevicePlace.run, gpu_device.Device.direct
    def spoiled(self, kernel, *arguments, **settings):
        arrays = [*arguments, *settings.values()]
        before = {id(a): a.clone() for a in arrays if hasattr(a, "clone")}
        run(self, kernel, *arguments, **settings)
        off(before, arrays)
    def spoiled_direct(self, kernel, *arguments, **settings):
        inner = direct(self, kernel, *arguments, **settings)
        def call():
            before = {id(a): a.clone() for a in arguments if hasattr(a, "clone")}
            inner()
            off(before, arguments)
        return call
    backend.DevicePlace.run, gpu_device.Device.direct = spoiled, spoiled_direct
import builtins
imported = builtins.__import__
def importing(name, *rest, **named):
    module = imported(name, *rest, **named)
    if name == "gpu_cases" and not hasattr(builtins, "spoiled"):
        builtins.spoiled = True
        spoil()
    return module
builtins.__import__ = importing
"""


@on_the_emulator
def test_verification_sees_an_error_of_a_thousandth_in_any_kernel(tmp_path):
    done, rows = timings(tmp_path, 1e6, code=WRONG)
    assert done.returncode == 0, done.stderr
    missed = [f"{row['kernel']}: {row['what']}" for row in rows if row.get("verified")]
    assert missed == []
    assert not any("ms" in row for row in rows)
    assert {row["kernel"] for row in rows if row.get("verified") is False} == kernel_calls.kernels_in_table()
