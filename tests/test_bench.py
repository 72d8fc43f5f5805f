"""``make bench`` ends: what lacks data or packages is left out by name, and only a wrong answer is a failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
SCRIPTS = {
    "right": "print('all right')",
    "absent": "from timing import need\nneed('no_such_package', extra='torch')\nimport no_such_package",
    "nodata": "from pathlib import Path\nfrom timing import mnist_folder\nmnist_folder(Path('nowhere'))",
    "wrong": "assert 1 == 2, 'the answer is wrong'",
}


def run(folder: Path, *names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "run_all.py"), "--only", *names],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("run_all.py", "timing.py"):
        shutil.copy(BENCH / name, tmp_path / name)
    for name, text in SCRIPTS.items():
        (tmp_path / f"bench_{name}.py").write_text(text)
    return tmp_path


def test_what_is_missing_is_left_out_by_name_and_is_no_failure(folder: Path) -> None:
    done = run(folder, "right", "absent", "nodata")
    assert done.returncode == 0, done.stderr
    summary = {line.split()[0]: line for line in done.stdout.split("benchmark ")[-1].splitlines()[1:] if line}
    assert "ok" in summary["bench_right"]
    assert "needs no_such_package: pip install '.[torch]' in a checkout" in summary["bench_absent"]
    assert "needs t10k-images-idx3-ubyte.gz" in summary["bench_nodata"]


def test_a_wrong_answer_is_a_failure_and_the_others_still_run(folder: Path) -> None:
    done = run(folder, "wrong", "right")
    assert done.returncode == 1
    assert "FAILED with status 1" in done.stdout
    assert "all right" in done.stdout


def test_an_unknown_clock_is_refused(folder: Path) -> None:
    done = run(folder, "absent", EXPUNGE_BENCH_CLOCK="sun")
    assert done.returncode == 1
    assert "EXPUNGE_BENCH_CLOCK must be wall or cpu, got 'sun'" in done.stderr


def test_an_unknown_benchmark_is_named(folder: Path) -> None:
    done = run(folder, "nothing")
    assert done.returncode == 2
    assert "there is no benchmark nothing" in done.stderr


def test_the_benchmarks_of_mnist_say_what_they_need(tmp_path: Path) -> None:
    done = run(BENCH, "ridge", "mnist_ridge", EXPUNGE_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped: needs t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz of MNIST") == 2


STEPS = """import json, sys, time
print(json.dumps({"step": "fit", "s": 1.0}), flush=True)
if sys.argv[2] == "langevin":
    time.sleep(60)
open(sys.argv[1] + "/../runs", "a").write(sys.argv[2] + "\\n")
print(json.dumps({"bits": sys.argv[2]}))
"""


def test_tables_by_size_go_on_from_rows_that_are_there_and_name_what_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    if not sys.platform.startswith("linux"):
        pytest.skip("peaks of memory are those of Linux")
    for name in ("bench_tables.py", "table_files.py", "timing.py"):
        shutil.copy(BENCH / name, tmp_path / name)
    (tmp_path / "table_steps.py").write_text(STEPS)
    (tmp_path / "data").mkdir()
    hidden = "import sys, runpy; sys.modules['distributed'] = None; sys.argv = sys.argv[1:]; "
    hidden += "sys.path.insert(0, '.'); runpy.run_path(sys.argv[0], run_name='__main__')"

    def tables(*more: str) -> str:
        command = ["bench_tables.py", "--folder", "data", "--features", "2", "--limit", "1.5", *more]
        done = subprocess.run(
            [sys.executable, "-c", hidden, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = tables("--records", "20")
    rows = json.loads((tmp_path / "results" / "tables.json").read_text())["rows"]
    assert [(row["route"], row.get("bits"), row.get("left out")) for row in rows] == [
        ("langevin", None, "took more than 1.5 s"),
        ("residual", "residual", None),
    ]
    assert [row["fit, s"] for row in rows] == [1.0, 1.0]
    assert (tmp_path / "data" / "runs").read_text() == "residual\n"
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["runs"]
    again = tables("--records", "20", str(10**12))
    assert "left out: 1,000,000,000,000 x 2 takes" in again
    assert "written to" in first
    assert "written to" not in again
