"""Passes over tables of records in files beside the fastest reader of each format, and a model, with peak memory.

Run ``python bench/bench_records.py [--records N] [--features P] [--repeats R]``. The same float32 records, labels and
ids go to a temporary folder (4 GB of it at the default) as .npy, Arrow IPC, and Parquet with a fixed-size list and with
a column for each feature; 1,024 records repeat, so that files are quick to make. A pass of `open_records` is held
against the sums of all columns, and timed beside readers that keep nothing: NumPy and Arrow for their own formats, and
for Parquet row groups by one and by two threads of pyarrow, batches of pyarrow, and polars where it is installed. Then,
each in a process of its own, a pass, and a fit, a deletion of 1,000 ids and its verification on the Parquet file, with
their peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from expunge.data import open_records
from timing import measure, need, table, write_results

need("pyarrow", extra="parquet")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

GROUP = 50_000
REPEATED = 1024
NAMED = {"target_column": "label", "id_column": "id"}

_CHILD = """
import json, sys, time
import numpy as np
from expunge import NewtonLogisticRegression
from expunge.certificates.residual import verify
from expunge.data import open_records

def said(name, begun):
    # Not ru_maxrss, which a process inherits from the one that starts it.
    peak = int([line for line in open("/proc/self/status") if "VmHWM" in line][0].split()[1])
    found[name] = {"seconds": time.perf_counter() - begun, "peak MiB": peak / 1024}

found, what, source = {}, sys.argv[1], json.loads(sys.argv[2])
begun = time.perf_counter()
records = open_records(source.pop("path"), **source)
said("open", begun)
if what == "pass":
    begun = time.perf_counter()
    for block in records.blocks():
        pass
    said("pass", begun)
else:
    begun = time.perf_counter()
    model = NewtonLogisticRegression(classes=[0, 1]).fit(records)
    said("fit", begun)
    begun = time.perf_counter()
    result = model.unlearn(model.ids_[:: max(2, len(model.ids_) // 1000)][:1000].tolist())
    said("unlearn 1,000", begun)
    begun = time.perf_counter()
    verify(model.certificate_, records, evidence=model.evidence_)
    said("verify", begun)
    found["unlearn 1,000"]["passes"] = result.evidence.passes
print(json.dumps(found))
"""


def write_data(folder, records, features):
    """Write the same records in every format; return the sums of the columns."""
    rng = np.random.default_rng(0)
    few = rng.standard_normal((REPEATED, features), dtype=np.float32) / np.float32(features**0.5)
    array = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=(records, features))
    labels = np.empty(records, dtype=np.int64)
    slope = rng.standard_normal(features)
    writers, total = {}, np.zeros(features)
    for start in range(0, records, GROUP):
        rows = np.arange(start, min(start + GROUP, records))
        X = few[rows % REPEATED]
        array[rows[0] : rows[-1] + 1] = X
        labels[rows] = X @ slope + 0.3 * rng.standard_normal(len(rows)) > 0
        total += X.sum(axis=0, dtype=np.float64)
        rest = {"label": labels[rows], "id": rows}
        lists = pa.table({"features": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), features), **rest})
        columns = pa.table({**{f"f{j}": X[:, j] for j in range(features)}, **rest})
        for name, part in (("lists", lists), ("columns", columns)):
            if name not in writers:
                path = folder / f"{name}.parquet"
                writers[name] = pq.ParquetWriter(path, part.schema, compression="none", use_dictionary=False)
            writers[name].write_table(part)
        if "ipc" not in writers:
            writers["ipc"] = pa.ipc.new_file(str(folder / "x.arrow"), lists.schema)
        writers["ipc"].write_table(lists)
    for writer in writers.values():
        writer.close()
    array.flush()
    np.save(folder / "y.npy", labels)
    np.save(folder / "ids.npy", np.arange(records))
    return total


def ours(folder, name):
    if name == "x.npy":
        return open_records(folder / name, target=folder / "y.npy", ids=folder / "ids.npy")
    return open_records(folder / name, **NAMED)


def one_pass(records, threads=None):
    for _ in records.blocks(threads=threads):
        pass


def by_numpy(path, features):
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        block = np.empty((16_384, features), dtype=np.float32)
        while file.readinto(block):
            pass


def by_ipc(path):
    reader = pa.ipc.open_file(str(path))
    for i in range(reader.num_record_batches):
        reader.get_batch(i).column(0).flatten().to_numpy()


def by_batches(path):
    for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(batch_size=16_384):
        batch.column(0)


def by_groups(path, threads, inner):
    metadata = pq.ParquetFile(path).metadata

    def group(i):
        return pq.ParquetFile(path, metadata=metadata, pre_buffer=False).read_row_group(i, use_threads=inner)

    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for i in range(metadata.num_row_groups):
            waiting.append(pool.submit(group, i))
            if len(waiting) > threads:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()


def by_polars(path, records):
    import polars

    for start in range(0, records, GROUP):
        polars.scan_parquet(path).slice(start, GROUP).collect()


def readers(folder, name, records, features):
    """Return other readers of a file, by name."""
    path = folder / name
    if name == "x.npy":
        return {"NumPy": lambda: by_numpy(path, features)}
    if name == "x.arrow":
        return {"pyarrow": lambda: by_ipc(path)}
    found = {
        "pyarrow, batches": lambda: by_batches(path),
        "pyarrow, row groups": lambda: by_groups(path, 1, False),
        "pyarrow, row groups, its own threads": lambda: by_groups(path, 1, True),
        "pyarrow, row groups by two threads": lambda: by_groups(path, 2, False),
    }
    return {**found, "polars": lambda: by_polars(path, records)} if find_spec("polars") else found


def rates(folder, total, records, features, repeats):
    rows = []
    for name in ("x.npy", "x.arrow", "lists.parquet", "columns.parquet"):
        mine = ours(folder, name)
        found = sum(block.X.sum(axis=0, dtype=np.float64) for block in mine.blocks())
        np.testing.assert_allclose(found, total, rtol=0, atol=1e-6 * records)
        contenders = {
            "open_records": lambda mine=mine: one_pass(mine),
            "open_records, one thread": lambda mine=mine: one_pass(mine, 1),
            **readers(folder, name, records, features),
        }
        seconds = measure(contenders, repeats=repeats)
        rows += [
            {
                "file": name,
                "reader": reader,
                "s": value,
                "records/s": records / value,
                "its time / ours": value / seconds["open_records"],
            }
            for reader, value in seconds.items()
        ]
    return rows


def in_a_process(what, folder, name):
    """Return seconds and peak memory of each step in a process of its own."""
    source = {"path": str(folder / name)}
    source |= {"target": str(folder / "y.npy"), "ids": str(folder / "ids.npy")} if name == "x.npy" else NAMED
    command = [sys.executable, "-c", _CHILD, what, json.dumps(source)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return [{"file": name, "step": step, **values} for step, values in json.loads(child.stdout).items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        total = write_data(folder, options.records, options.features)
        rows = rates(folder, total, options.records, options.features, options.repeats)
        steps = []
        if sys.platform.startswith("linux"):
            for file in ("x.npy", "x.arrow", "lists.parquet", "columns.parquet"):
                steps += in_a_process("pass", folder, file)
            steps += in_a_process("model", folder, "lists.parquet")
    for part in (rows, steps):
        print(table(part), end="\n\n")
    write_results("records", rows, steps=steps, records=options.records, features=options.features)
    return 0


if __name__ == "__main__":
    sys.exit(main())
