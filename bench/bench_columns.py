"""Readers of a file in every layout, and scoring from it, beside the fastest of other readers.

Run ``python bench/bench_columns.py [--features P ...] [--megabytes M] [--repeats R]``. The same float32 records and
labels go to a temporary folder as Parquet (fixed-size lists, lists, ``fixed_size_binary``, a column for each feature,
and lists as pyarrow writes them by default), Arrow IPC and .npy, in groups of 20,000 rows, and stay in the page cache.
``readinto`` copies the bytes of the file and is the floor. ``open_records`` yields row blocks, held against the records
before anything is timed; the others keep what they decode as it is, and columns stay columns there. Where polars and
DuckDB are not installed, they are left out. Scoring is of one linear checkpoint, from the file to the ranked result,
its scores held against those in memory; ``share`` is its rate over that of the fastest other reader of that file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from expunge.data import open_records
from expunge.scoring import ProbeCheckpoints, score_files, score_records
from timing import measure, need, table, write_results

need("pyarrow", extra="parquet")

import pyarrow as pa  # noqa: E402
import pyarrow.dataset as ds  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

GROUP, CLASSES = 20_000, 10
LAYOUTS = ("lists", "fixed lists", "default", "binary", "columns", "x.arrow", "x.npy")


def write_data(folder, X, y):
    """Write the same records in every layout; return the files by layout."""
    n, p = X.shape
    flat = pa.array(X.reshape(-1))
    fixed = pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, p), "label": y})
    offsets = pa.array(np.arange(0, X.size + 1, p, dtype=np.int64))
    binary = pa.Array.from_buffers(pa.binary(4 * p), n, [None, pa.py_buffer(X)])
    tables = {
        "lists": pa.table({"features": pa.LargeListArray.from_arrays(offsets, flat), "label": y}),
        "fixed lists": fixed,
        "default": fixed,
        "binary": pa.table({"features": binary, "label": y}),
        "columns": pa.table({**{f"f{j}": np.ascontiguousarray(X[:, j]) for j in range(p)}, "label": y}),
    }
    plain = {"compression": "none", "use_dictionary": False}
    for name, one in tables.items():
        options = {} if name == "default" else plain
        pq.write_table(one, folder / f"{name}.parquet", row_group_size=GROUP, **options)
    with pa.ipc.new_file(str(folder / "x.arrow"), fixed.schema) as writer:
        writer.write_table(fixed, max_chunksize=GROUP)
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", y)
    return {name: folder / (name if "." in name else f"{name}.parquet") for name in LAYOUTS}


def readinto(path, threads=1):
    size, step = path.stat().st_size, 1 << 22

    def share(first):
        buffer, descriptor = bytearray(step), os.open(path, os.O_RDONLY)
        for at in range(first * step, size, threads * step):
            os.preadv(descriptor, [buffer], at)
        os.close(descriptor)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))


def by_groups(path, threads):
    metadata = pq.ParquetFile(path).metadata

    def group(i):
        return pq.ParquetFile(path, metadata=metadata).read_row_group(i, use_threads=False).num_rows

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(group, range(metadata.num_row_groups)))


def by_batches(path):
    for _ in pq.ParquetFile(path).iter_batches(batch_size=8192):
        pass


def by_scanner(path):
    for _ in ds.dataset(path, format="ipc" if path.suffix == ".arrow" else "parquet").scanner().to_batches():
        pass


def by_ipc(path):
    reader = pa.ipc.open_file(str(path))
    for i in range(reader.num_record_batches):
        reader.get_batch(i)


def by_polars(path):
    import polars

    polars.read_parquet(path)


def by_duckdb(path):
    import duckdb

    connection = duckdb.connect(config={"threads": 2})
    connection.sql(f"select * from '{path}'").to_arrow_table()


def by_memmap(path):
    mapped = np.load(path, mmap_mode="r")
    for start in range(0, len(mapped), GROUP):
        np.array(mapped[start : start + GROUP])


def others(path):
    """Return other readers of a file, by name."""
    found = {"readinto": lambda: readinto(path), "readinto, two threads": lambda: readinto(path, 2)}
    if path.suffix == ".npy":
        return {**found, "numpy.load": lambda: np.load(path), "memmap": lambda: by_memmap(path)}
    found["pyarrow, scanner"] = lambda: by_scanner(path)
    if path.suffix == ".arrow":
        return {**found, "pyarrow, batches": lambda: by_ipc(path)}
    found |= {
        "pyarrow, read_table": lambda: pq.read_table(path),
        "pyarrow, batches": lambda: by_batches(path),
        "pyarrow, row groups": lambda: by_groups(path, 1),
        "pyarrow, row groups by two threads": lambda: by_groups(path, 2),
    }
    if find_spec("polars"):
        found["polars"] = lambda: by_polars(path)
    return {**found, "DuckDB": lambda: by_duckdb(path)} if find_spec("duckdb") else found


def ours(name, path, X, y, probe, truth):
    """Return our readers of a file and scoring from it, after their answers were checked."""
    if name == "binary":  # numbers to nobody but who wrote them
        return {}
    npy = {"target": path.with_name("y.npy")} if name == "x.npy" else {"target_column": "label"}
    records = open_records(path, **npy)
    at = 0
    for block in records.blocks():
        np.testing.assert_array_equal(block.X, X[at : at + len(block)])
        np.testing.assert_array_equal(block.y, y[at : at + len(block)])
        at += len(block)

    def read(threads=None):
        for _ in records.blocks(threads=threads):
            pass

    found = {"open_records": read, "open_records, one thread": lambda: read(1)}
    if name == "x.arrow":
        return found
    options = {"features": [f"f{j}" for j in range(X.shape[1])]} if name == "columns" else {}
    options |= {"labels": path.with_name("y.npy")} if name == "x.npy" else {}
    out = path.with_name("scores.parquet")

    def score():
        score_files(path, probe, out, progress=False, overwrite=True, **options)

    score()
    written = pq.read_table(out)
    for column, value in truth.items():
        np.testing.assert_array_equal(written.column(column).to_numpy(), value, err_msg=column)
    return {**found, "scoring": score}


def rates(folder, features, megabytes, repeats):
    rows = []
    n = max(1, megabytes * 2**20 // (4 * features))
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, features), dtype=np.float32), rng.integers(0, CLASSES, n)
    probe = ProbeCheckpoints(
        weights=0.05 * rng.standard_normal((1, features, CLASSES)),
        steps=[0],
        loss="softmax",
        n_steps=1000,
        noise_std=0.05,
        step_size=0.3,
        sampling_probability=0.01,
        batch_size=200.0,
    )
    truth = score_records(X, y, probe)
    for name, path in write_data(folder, X, y).items():
        other = others(path)
        contenders = {**ours(name, path, X, y, probe, truth), **other}
        if name == "x.npy":
            contenders["scoring in memory"] = lambda: score_records(X, y, probe)
        seconds = measure(contenders, repeats=repeats)
        readers = [value for one, value in seconds.items() if one in other and not one.startswith("readinto")]
        if name == "x.npy":
            readers.append(seconds["readinto"])
        rows += [
            {
                "layout": name,
                "features": features,
                "reader": reader,
                "ms": 1e3 * value,
                "rows/s": n / value,
                "GB/s": 4 * features * n / value / 1e9,
                "share": min(readers) / value,
            }
            for reader, value in seconds.items()
        ]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--megabytes", type=int, default=400, help="of features")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    pa.set_cpu_count(2)
    rows = []
    for features in options.features:
        with tempfile.TemporaryDirectory() as name:
            rows += rates(Path(name), features, options.megabytes, options.repeats)
    print(table(rows), end="\n\n")
    write_results("columns", rows, megabytes=options.megabytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
