"""Every benchmark runs from end to end at small sizes: it checks its answers, times them and writes its results.

The times mean nothing here, and the results go to a folder of the test.
"""

from __future__ import annotations

import gzip
import importlib
import json
import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
SCRIPTS = sorted(path.stem for path in BENCH.glob("bench_*.py"))
PARTS = {
    "bench_before_after": ("before_after", ["FOLDER"]),
    "bench_columns": ("columns", ["--features", "64", "--megabytes", "1", "--repeats", "1"]),
    "bench_deletion": ("deletion", ["FOLDER", "--repeats", "1"]),
    "bench_distributed": ("distributed", ["--records", "400", "--features", "4", "--repeats", "1"]),
    "bench_ensemble": (
        "ensemble",
        ["--members", "3", "--steps", "2", "--repeats", "1", "--threads", "1", "--models", "digits CNN"],
    ),
    "bench_grad_norms": ("grad_norms_kernels", ["--part", "kernels", "--repeats", "1"]),
    "bench_group_norms": ("group_norms", ["--repeats", "1"]),
    "bench_jax": ("jax", ["--models", "mlp", "--repeats", "1"]),
    "bench_langevin": ("langevin", []),
    "bench_mnist_ridge": ("mnist_ridge", ["FOLDER"]),
    "bench_networks": ("networks", ["FOLDER"]),
    "bench_noise": ("noise", ["--draws", "20000", "--repeats", "1"]),
    "bench_opacus": ("opacus", ["--models", "mlp", "--repeats", "1", "--threads", "1"]),
    "bench_privacy": ("privacy", []),
    "bench_programs": ("programs", ["--columns", "5", "--records", "60", "--repeats", "1"]),
    "bench_proof": ("proof", ["--features", "4", "--records", "60"]),
    "bench_records": ("records", ["--records", "300", "--features", "5", "--repeats", "1"]),
    "bench_residual": ("residual", ["--repeats", "1", "--threads", "1"]),
    "bench_residual_bounds": ("residual_bounds", []),
    "bench_residual_noise": ("residual_noise", ["FOLDER"]),
    "bench_ridge": ("ridge", ["FOLDER", "--records", "300", "--repeats", "1"]),
    "bench_ridge_tables": ("ridge_tables", ["--columns", "16", "--repeats", "1"]),
    "bench_scoring": ("scoring", ["--records", "300", "--repeats", "1"]),
    "bench_tables": ("tables", ["--records", "3000", "--features", "4", "--limit", "200"]),
    "bench_training": ("training", ["--repeats", "1", "--batch-sizes", "128", "--threads", "1"]),
}
NEEDS = {
    "bench_columns": "pyarrow",
    "bench_distributed": "distributed",
    "bench_ensemble": "torch",
    "bench_records": "pyarrow",
    "bench_scoring": "pyarrow",
    "bench_tables": "distributed",
    "bench_training": "torch",
    "bench_before_after": "matplotlib",
    "bench_networks": "torch",
    "bench_mnist_ridge": "matplotlib",
    "bench_opacus": "opacus",
    "bench_proof": "flint",
    "bench_jax": "jax",
}
# Benchmarks of noise and bounds, which time nothing, one that times whole processes, and one without a contender.
TIMELESS = (
    "bench_before_after",
    "bench_mnist_ridge",
    "bench_proof",
    "bench_networks",
    "bench_residual_bounds",
    "bench_residual_noise",
    "bench_tables",
)
# Constants of a script, small.
SIZES: dict[str, dict[str, Any]] = {
    "bench_before_after": {"NOISE": [1e-6, 1.0], "DELETIONS": 2},
    "bench_columns": {"GROUP": 1000},
    "bench_deletion": {"RECORDS": 120, "FEATURES": 5, "SPEEDS": [(300, 9, 1.0)], "LANGEVIN_STEPS": (3,)},
    "bench_ensemble": {"N_RECORDS": 200},
    "bench_grad_norms": {
        "RECORDS": 300,
        "CHECKPOINTS": 3,
        "SHAPES": [(4, 4, 8, 8), (8, 1, 16, 16)],
        "IMAGES": [(4, 3, 4, 6)],
        "SENTENCES": 16,
    },
    "bench_group_norms": {"SHAPES": [(8, 2, 3, 4)], "SIZES": (1, 0)},
    "bench_mnist_ridge": {"LEARNED": 300, "RUNS": 2},
    "bench_networks": {"LEARNED": 300, "FILTERS": 2, "HIDDEN": 6, "STEPS": 4, "FORGOTTEN": 3},
    "bench_noise": {"CASES": [(0.7, 0.3)], "SIZES": [100], "RUNS": [(3, 2, 4)]},
    "bench_privacy": {"SIZE": 500, "ROWS": 20, "PAIRS": 40},
    "bench_records": {"GROUP": 100, "REPEATED": 64},
    "bench_residual": {"SHAPES": [(300, 9, 1), (300, 9, 10)], "QUOTES": [(300, 9)], "SIDE": 64, "LONG": 4096},
    "bench_residual_bounds": {"PROBLEMS": 12, "EXACT_EVERY": 6},
    "bench_residual_noise": {"RECORDS": 120, "FEATURES": 5, "ROWS": {1: 50, 10: 20}},
    "bench_scoring": {"GROUP": 100},
    "bench_training": {"N_RECORDS": 512, "EPOCHS": 2},
}


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Return a folder with files like those of MNIST, of 400 images."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (400, 28, 28), np.uint8), rng.integers(0, 10, 400).astype(np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return tmp_path


def test_every_script_is_run_here() -> None:
    assert list(PARTS) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_checks_times_and_writes(
    script: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script in NEEDS and find_spec(NEEDS[script]) is None:
        pytest.skip(f"{script} needs {NEEDS[script]}")
    monkeypatch.syspath_prepend(str(BENCH))
    name, arguments = PARTS[script]
    monkeypatch.setenv("EXPUNGE_NUM_THREADS", "2")  # a script may set it
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *(str(digits) if a == "FOLDER" else a for a in arguments)])
    timing = importlib.import_module("timing")
    monkeypatch.setattr(timing, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(timing, "_SETTLE", 0.0)
    measured, counts = timing.measured, []

    def once(contenders: Any, *, repeats: int = 7, awake: bool = False, **more: Any) -> dict[str, list[float]]:
        counts.append(len(contenders))
        return measured(contenders, repeats=1, awake=False, **more)

    monkeypatch.setattr(timing, "measured", once)  # `measure` looks it up there
    module = importlib.import_module(script)
    if hasattr(module, "measured"):
        monkeypatch.setattr(module, "measured", once)
    for constant, value in SIZES.get(script, {}).items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, value)
    if script == "bench_langevin":  # one process for each instruction set, at full size
        monkeypatch.setattr(module, "bench_levels", list)
    assert not module.main()
    written = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert written["rows"]
    assert written["environment"]["command"].startswith(f"python bench/{script}.py")
    assert {"processor", "threads", "isa", "numpy", "clock"} <= written["environment"].keys()
    if script not in TIMELESS:
        assert counts
        assert all(count > 1 for count in counts), "a contender was timed alone"
