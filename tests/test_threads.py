"""The thread pool, seen from Python: forks, many callers, and the environment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import compiled
from expunge._kernels import backend
from expunge.accounting import GaussianPair, gdp_delta, sampled_gaussian_rdp, shifted_mu
from expunge.grad_norms import linear_grad_norms
from expunge.langevin import standard_normals
from kernel_calls import CALLS, call

KERNELS = sorted(CALLS)


def heavy(kernel: str) -> dict[str, NDArray[Any]]:
    return call(kernel, n=200).run(threads=4)


# The compiled module alone: the package around it takes seconds to import.
LOAD = """
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader("expunge._core", sys.argv[1])
core = importlib.util.module_from_spec(importlib.util.spec_from_loader("expunge._core", loader))
loader.exec_module(core)
print(core.default_threads(), core.isa())
"""


# Loads the module given by name and file, and ends while daemon threads are inside its kernels.
DAEMONS = """
import importlib.machinery, importlib.util, sys, threading
import numpy as np
loader = importlib.machinery.ExtensionFileLoader(sys.argv[1], sys.argv[2])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader(sys.argv[1], loader))
loader.exec_module(module)
place = {"threads": 2} if sys.argv[1] == "expunge._core" else {"stream": 0}
started = threading.Semaphore(0)

def work():
    out = np.empty(300_000)
    while True:
        started.release()
        module.standard_normals(out, seed=1, chain=2, step=3, **place)

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
for _ in range(8):
    started.acquire()
sys.exit(7)
"""


def subprocess_with(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + LOAD, backend.core.__file__],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_in_fork(kernel: str) -> int:
    """Fork, run the kernel with threads in the child, and return the child's exit status (signal as negative)."""
    expected = heavy(kernel)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)  # a hang ends as a failure
            outputs = heavy(kernel)
            status = 0 if all(outputs[k].tobytes() == expected[k].tobytes() for k in expected) else 2
        finally:
            os._exit(status)
    _, raw = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(raw)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_forked_child_computes_the_same_and_does_not_hang(kernel: str) -> None:
    assert run_in_fork(kernel) == 0
    heavy(kernel)  # and the parent's pool still works


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_of_a_fork_works() -> None:
    heavy(KERNELS[0])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)
            heavy(KERNELS[0])
            status = 0 if run_in_fork(KERNELS[0]) == 0 else 2
        finally:
            os._exit(status)
    _, raw = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(raw) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_another_thread_is_inside_a_kernel_does_not_hang() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            heavy(KERNELS[0])

    other = threading.Thread(target=work)
    other.start()
    try:
        statuses = [run_in_fork(KERNELS[0]) for _ in range(10)]
    finally:
        stop.set()
        other.join()
    assert statuses == [0] * 10


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_multiprocessing_by_fork_works() -> None:
    expected = heavy(KERNELS[0])
    with multiprocessing.get_context("fork").Pool(2) as workers:
        results = workers.map_async(heavy, [KERNELS[0]] * 4).get(timeout=120)
    for outputs in results:
        assert all(outputs[name].tobytes() == expected[name].tobytes() for name in expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_many_python_threads_may_call_at_once(kernel: str) -> None:
    expected = heavy(kernel)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(5):
            outputs = heavy(kernel)
            wrong.extend(name for name in expected if outputs[name].tobytes() != expected[name].tobytes())

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("name", compiled.AVAILABLE)
def test_a_process_may_end_while_daemon_threads_are_inside_kernels(name: str) -> None:
    module = compiled.AVAILABLE[name].module
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", DAEMONS, module.__name__, module.__file__],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (7, "")


def test_an_absurd_thread_count_is_bounded_and_harmless() -> None:
    expected = call(KERNELS[0], n=200).run(threads=1)
    outputs = call(KERNELS[0], n=200).run(threads=10**6)
    assert all(outputs[name].tobytes() == expected[name].tobytes() for name in expected)


@pytest.mark.parametrize("value", ["1", "3", "16"])
def test_the_environment_sets_the_number_of_threads(value: str) -> None:
    assert subprocess_with(EXPUNGE_NUM_THREADS=value).stdout.split()[0] == value


def test_an_empty_value_means_the_cores_of_this_process() -> None:
    assert int(subprocess_with(EXPUNGE_NUM_THREADS="").stdout.split()[0]) == len(os.sched_getaffinity(0))


def test_no_more_threads_than_cores_this_process_may_use() -> None:
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert subprocess_with(one, EXPUNGE_NUM_THREADS="").stdout.split()[0] == "1"


@pytest.mark.parametrize("value", ["0", "-1", "two", "2.5", "2 threads", "1e3", "99999999999999999999", "nan"])
def test_a_bad_number_of_threads_is_refused_by_name(value: str) -> None:
    done = subprocess_with(EXPUNGE_NUM_THREADS=value)
    assert done.returncode != 0
    assert "EXPUNGE_NUM_THREADS must be an integer" in done.stderr
    assert f"'{value}'" in done.stderr


@pytest.mark.parametrize("value", ["v5", "V3", "avx2", "base "])
def test_an_unknown_instruction_set_is_refused_by_name(value: str) -> None:
    done = subprocess_with(EXPUNGE_ISA=value)
    assert done.returncode != 0
    assert "EXPUNGE_ISA must be base, v3 or v4" in done.stderr


def test_an_instruction_set_can_be_forced() -> None:
    assert subprocess_with(EXPUNGE_ISA="base").stdout.split()[1] == "base"


def test_threads_really_share_the_work() -> None:
    """The kernel's wall time hides on a busy machine; threads that exist do not."""
    heavy("gdp_delta")  # several ranges, whatever ran before
    assert len(os.listdir("/proc/self/task")) > threading.active_count(), "no worker thread was started"


TAKE_THREADS = {
    "gdp_delta": lambda threads: gdp_delta(1.0, 1.0, threads=threads),
    "shifted_mu": lambda threads: shifted_mu([1.0], 0.5, 1.0, threads=threads),
    "sampled_gaussian_rdp": lambda threads: sampled_gaussian_rdp(2.0, 1.0, 0.1, threads=threads),
    "GaussianPair.epsilon": lambda threads: GaussianPair([0.1], [[0.1]]).epsilon(1e-5, threads=threads),
    "standard_normals": lambda threads: standard_normals(3, seed=0, threads=threads),
    "linear_grad_norms": lambda threads: linear_grad_norms(np.ones((2, 3)), np.ones((2, 4)), threads=threads),
}


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), (-3, ValueError), (True, TypeError), (1.5, TypeError)])
@pytest.mark.parametrize("name", TAKE_THREADS)
def test_no_kernel_takes_a_number_of_threads_that_is_none(name: str, threads: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^threads must be .*, got "):
        TAKE_THREADS[name](threads)
