"""Profiles and data shared by every test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import compiled
import kernel_calls

ROOT = Path(__file__).resolve().parent.parent

# derandomize: the same examples on every run and machine, so that a failure is never a matter of luck.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "sanitize", derandomize=True, deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", derandomize=False, deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Tests that run kernels closely: repeated under sanitizers and at every instruction set (marker `kernels`).
KERNEL_FILES = {
    "test_boundary",
    "test_c_interface",
    "test_columns",
    "test_cuda",
    "test_float_mode",
    "test_gaussian_pair",
    "test_gdp",
    "test_grad_norms",
    "test_grad_norms_device",
    "test_isa",
    "test_langevin",
    "test_noise",
    "test_normals",
    "test_recurrent",
    "test_renyi_accounting",
    "test_residual_gradients",
    "test_ridge",
    "test_ridge_faint",
    "test_shifted",
    "test_threads",
    "test_twins",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the files above, and those on the emulator."""
    for item in items:
        if item.path.stem in KERNEL_FILES:
            item.add_marker(pytest.mark.kernels)
        device = item.callspec.params.get("device") if hasattr(item, "callspec") else None
        if device in ("cuda_emul", "cuda"):
            item.add_marker(device)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Collect no docstrings of test files: where a file cannot be imported, that would skip it instead of failing."""
    found = yield
    return [collector for collector in found if not type(collector).__name__.startswith("Doctest")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that use the fixture `target` on everything kernels can run on here, `cpu_only` ones on the CPU."""
    if "target" in metafunc.fixturenames:
        names = ["cpu"] if metafunc.definition.get_closest_marker("cpu_only") else list(compiled.AVAILABLE)
        marks = {"cuda_emul": pytest.mark.cuda_emul, "cuda": pytest.mark.cuda}
        metafunc.parametrize("target", [pytest.param(n, marks=marks.get(n, ())) for n in names], indirect=True)


@pytest.fixture
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let `kernel_calls` run on the CPU kernels, or on the emulated CUDA kernels where they are built."""
    chosen = compiled.AVAILABLE.get(request.param, compiled.CPU)
    label = getattr(request.node, "callspec", None)
    if chosen.name != "cpu" and label and compiled.on_cpu_only(str(label.params.get("kernel", ""))):
        pytest.skip("made by the CPU kernel alone")
    monkeypatch.setattr(kernel_calls, "target", chosen)
    return chosen


@pytest.fixture
def threads_of_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], list[Any]]:
    """Return a function that makes a call and returns the threads with which it runs the kernel of a name."""
    from expunge._kernels import backend

    def threads_of(kernel: str, call: Callable[[], object]) -> list[Any]:
        plain, seen = getattr(backend.core, kernel), []

        def noted(*arguments: Any, threads: Any, **settings: Any) -> Any:
            seen.append(threads)
            return plain(*arguments, threads=threads, **settings)

        monkeypatch.setattr(backend.core, kernel, noted)
        call()
        return seen

    return threads_of


def pytest_report_header() -> str:
    """Say what is under test: the installed package, at which instruction set and thread count."""
    import expunge
    from expunge._kernels import backend

    place = Path(expunge.__file__).parent
    kernels = ", ".join(compiled.AVAILABLE)
    if "cuda_emul" not in compiled.AVAILABLE:
        kernels += " (not cuda_emul: build with EXPUNGE_CUDA_EMUL=ON)"
    return (
        f"expunge {expunge.__version__} at {place}, isa {backend.isa()}, {backend.default_threads()} threads; "
        f"kernels of {kernels}"
    )


@pytest.fixture(scope="module")
def one_torch_thread() -> Generator[None, None, None]:
    """Let PyTorch use one thread: small operations lose by more, the more so beside other processes."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the larger data sets; skips the test where they are not at hand."""
    place = Path(os.environ.get("EXPUNGE_DATA", ROOT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip("larger data sets not found: set EXPUNGE_DATA to their folder")
    return place


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """Return the independently computed numbers the library is tested against."""
    return json.loads((ROOT / "tests" / "golden" / "reference.json").read_text())
