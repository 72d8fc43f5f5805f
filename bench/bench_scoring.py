"""Scoring of a dataset on disk beside scoring in memory and the Parquet reader alone, with peak memory at n and 10 n.

Run ``python bench/bench_scoring.py [--records N] [--repeats R]``. The data (plain-encoded float32 fixed-size lists, 512
features, 10 classes) go to a temporary folder, 4 GB of it, and are read once before anything is timed. Scores in memory
are checked against NumPy's closed form, those on disk against those in memory; then the contenders run interleaved.
``--check`` exits with status 1 if a target is missed. It takes about five minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from expunge.grad_norms import probe_grad_norms
from expunge.scoring import ProbeCheckpoints, score_files, score_records
from timing import measure, need, table, write_results

need("pyarrow", extra="parquet")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

FEATURES, CLASSES, GROUP = 512, 10, 20_000
STREAMING_OF_MEMORY, STREAMING_OF_READER = 0.7, 0.8  # targets at 35 and at one checkpoint
BYTES_A_RECORD = 16

_CHILD = """
import sys
from expunge.scoring import ProbeCheckpoints, score_files
score_files(sys.argv[1], ProbeCheckpoints.load(sys.argv[2]), sys.argv[3], progress=False)
print([line for line in open("/proc/self/status") if "VmHWM" in line][0].split()[1])
"""


def write_data(path, records):
    """Write row groups of GROUP records; they repeat, so that large files are quick to make."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((min(GROUP, records), FEATURES), dtype=np.float32)
    y = rng.integers(0, CLASSES, len(X))
    part = pa.table({"features": pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), FEATURES), "label": y})
    with pq.ParquetWriter(path, part.schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, records, GROUP):
            writer.write_table(part.slice(0, min(GROUP, records - start)))
    copies = -(-records // GROUP)
    return np.tile(X, (copies, 1))[:records], np.tile(y, copies)[:records]


def make_probe(checkpoints):
    rng = np.random.default_rng(1)
    return ProbeCheckpoints(
        weights=0.05 * rng.standard_normal((checkpoints, FEATURES, CLASSES)),
        steps=np.linspace(0, 999, checkpoints).astype(int),
        loss="softmax",
        n_steps=1000,
        noise_std=0.05,
        step_size=0.3,
        sampling_probability=0.01,
        batch_size=200.0,
    )


def read_only(path):
    for _ in pq.ParquetFile(path).iter_batches(batch_size=8192, columns=["features", "label"]):
        pass


def check_scores(scores, X, stack, y):
    """Hold the norms and the loss of the first records against NumPy in float64."""
    logs = log_softmax(np.einsum("id,ndc->nic", X, stack, optimize=True), axis=2)
    residuals = np.exp(logs)
    residuals[:, np.arange(len(y)), y] -= 1
    norms = np.linalg.norm(X, axis=1) * np.linalg.norm(residuals, axis=2)
    np.testing.assert_allclose(scores["average_grad_norm"][: len(y)], norms.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(scores["loss"][: len(y)], -logs[-1, np.arange(len(y)), y], rtol=1e-4, atol=1e-5)


def rates(folder, records, repeats):
    X, y = write_data(folder / "data.parquet", records)
    source, out = folder / "data.parquet", folder / "scores.parquet"
    rows, ratios = [], {}
    for checkpoints in (1, 35):
        probe = make_probe(checkpoints)
        stack = probe.weights.astype(np.float32)
        score_files(source, probe, out, progress=False, overwrite=True)
        scores = score_records(X, y, probe)
        check_scores(scores, X[:2000].astype(float), stack.astype(float), y[:2000])
        written = pq.read_table(out)
        for name, value in scores.items():
            np.testing.assert_array_equal(written.column(name).to_numpy(), value, err_msg=name)
        seconds = measure(
            {
                "gradient norms in memory": lambda X=X, stack=stack, y=y: probe_grad_norms(X, stack, y),
                "scoring in memory": lambda X=X, y=y, probe=probe: score_records(X, y, probe),
                "Parquet reader alone": lambda: read_only(source),
                "scoring from disk": lambda probe=probe: score_files(
                    source, probe, out, progress=False, overwrite=True
                ),
            },
            repeats=repeats,
        )
        disk = seconds["scoring from disk"]
        rows += [
            {
                "checkpoints": checkpoints,
                f"{records:,} records, d={FEATURES}, C={CLASSES}": name,
                "ms": value * 1e3,
                "records/s": records / value,
                "streaming / it": value / disk,
            }
            for name, value in seconds.items()
        ]
        ratios[checkpoints] = {name: value / disk for name, value in seconds.items()}
    return rows, {
        "35 checkpoints: streaming / in memory": (ratios[35]["scoring in memory"], STREAMING_OF_MEMORY),
        "1 checkpoint: streaming / Parquet reader": (ratios[1]["Parquet reader alone"], STREAMING_OF_READER),
    }


def peak_memory(folder, records):
    """Peak resident bytes of a process of its own that scores so many records with 35 checkpoints."""
    write_data(folder / "data.parquet", records)
    make_probe(35).save(folder / "probe.npz", overwrite=True)
    names = (folder / "data.parquet", folder / "probe.npz", folder / f"scores-{records}.parquet")
    child = subprocess.run([sys.executable, "-c", _CHILD, *map(str, names)], capture_output=True, text=True, check=True)
    return int(child.stdout) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a target is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows, targets = rates(Path(name), options.records, options.repeats)
        memory = []
        if sys.platform.startswith("linux"):
            sizes = (options.records, 10 * options.records)
            memory = [{"records": n, "peak MiB": peak_memory(Path(name), n) / 2**20} for n in sizes]
            grown = (memory[1]["peak MiB"] - memory[0]["peak MiB"]) * 2**20 / (sizes[1] - sizes[0])
            memory[1]["bytes a record more"] = grown
    goals = [
        {"target": name, "measured": value, "wanted": wanted, "met": value >= wanted}
        for name, (value, wanted) in targets.items()
    ]
    if memory:
        goals.append(
            {
                "target": "peak memory, bytes a record, at most",
                "measured": grown,
                "wanted": BYTES_A_RECORD,
                "met": grown <= BYTES_A_RECORD,
            }
        )
    for part in (rows, memory, goals):
        print(table(part), end="\n\n")
    write_results("scoring", rows, memory=memory, targets=goals)
    return 1 if options.check and not all(goal["met"] for goal in goals) else 0


if __name__ == "__main__":
    sys.exit(main())
