"""Passes on two worker processes of Dask beside two threads of one process: statistics, gradients, quotes and scores.

Run ``python bench/bench_distributed.py [--records N] [--features P] [--repeats R]``. Float32 records lie in four
Parquet shards in a temporary folder (1 GB at the default); 1,024 records repeat, so that they are quick to make. What
the workers find must have the bits of one process before anything is timed. Seconds are medians of interleaved rounds;
processor seconds are those of the process that calls and of the workers together, which say more where others are at
work too. Starting the workers is not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from expunge import NewtonLogisticRegression
from expunge.data import RidgeStatistics, open_records
from expunge.runs.residual import gradient_sums
from expunge.scoring import ProbeCheckpoints, score_files
from timing import measure, need, table, write_results

need("pyarrow", extra="parquet")
need("distributed", extra="distributed")

from expunge.distributed import Dask  # noqa: E402
from table_files import NAMED, write_shards  # noqa: E402


def steps(folder: Path, outputs: Path, cluster: Dask, features: int) -> dict[str, tuple[Callable[[], Any], ...]]:
    """Return what is compared: of one process, and of the workers, with what must have the same bits."""
    here = open_records(folder, **NAMED)
    there = cluster.open_records(folder, **NAMED)
    theta = np.linspace(-1, 1, features)[None]
    models = [NewtonLogisticRegression(classes=[0, 1], random_state=0).fit(here) for _ in range(2)]
    models[1].attach(there)
    rng = np.random.default_rng(1)
    probe = ProbeCheckpoints(
        weights=rng.normal(size=(2, features, 2)), steps=[0, 4], loss="softmax", n_steps=10, noise_std=0.1,
        step_size=0.5, sampling_probability=0.1, batch_size=8.0,
    )  # fmt: skip

    def statistics(records: Any) -> bytes:
        found = RidgeStatistics.of(records, classes=[0, 1])
        return found.gram().value.tobytes() + found.moment().value.tobytes() + found.digest.encode()

    def gradient(records: Any) -> bytes:
        return gradient_sums(records, theta, loss="logistic").gradient.tobytes()

    def quotes(model: Any) -> bytes:
        return model.quote().costs.sensitivity_bound.tobytes()

    def scores(name: str, engine: Dask | None) -> bytes:
        place = outputs / f"{name}.parquet"
        score_files(folder, probe, place, record_id="id", engine=engine, progress=False, overwrite=True)
        return place.read_bytes()

    return {
        "statistics": (lambda: statistics(here), lambda: statistics(there)),
        "gradient": (lambda: gradient(here), lambda: gradient(there)),
        "quotes": (lambda: quotes(models[0]), lambda: quotes(models[1])),
        "scores": (lambda: scores("here", None), lambda: scores("there", cluster)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=["statistics", "gradient", "quotes", "scores"])
    options = parser.parse_args()
    os.environ["EXPUNGE_NUM_THREADS"] = "2"
    with tempfile.TemporaryDirectory() as name:
        folder, outputs = Path(name) / "data", Path(name) / "outputs"
        folder.mkdir()
        outputs.mkdir()
        write_shards(folder, options.records, options.features)
        rows = []
        with Dask("local:2") as cluster:
            client = cluster._engine._client

            def processors() -> float:
                return time.process_time() + sum(client.run(time.process_time).values())

            for step, (here, there) in steps(folder, outputs, cluster, options.features).items():
                if options.only and step not in options.only:
                    continue
                assert here() == there(), f"{step}: the workers find other bits"
                both = {"threads": here, "workers": there}
                seconds = measure(both, repeats=options.repeats, clock=time.perf_counter)
                spent = measure(both, repeats=options.repeats, clock=processors)
                rows.append(
                    {
                        "pass": step,
                        "two threads, s": seconds["threads"],
                        "two workers, s": seconds["workers"],
                        "ratio": seconds["workers"] / seconds["threads"],
                        "two threads, processor s": spent["threads"],
                        "two workers, processor s": spent["workers"],
                        "processor ratio": spent["workers"] / spent["threads"],
                    }
                )
                print(table(rows[-1:]), flush=True)
    print(f"\n{table(rows)}")
    if not options.only:
        write_results("distributed", rows, records=options.records, features=options.features)
    return 0


if __name__ == "__main__":
    sys.exit(main())
