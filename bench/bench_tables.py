"""Models of tables by size: seconds and peak memory of fit, quote of all, unlearn of 1,000 ids and verify.

Run ``python bench/bench_tables.py [--records N ...] [--features P ...] [--folder FOLDER] [--limit S] [--again]``. For
each number of records and features, float32 Parquet is written to the folder (a temporary one by default) and taken
away when its rows are done. A row is a route, computed residual or Langevin steps, in one process or with two workers
of Dask, in a process of its own (``table_steps.py``); both must find the same bits. A row is written to
``results/tables.json`` as soon as it is done, and one that is there is not measured again: an interrupted run goes on.
What does not fit the disk or the limit of seconds is left out by name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from timing import RESULTS, need, table, write_results

need("pyarrow", extra="parquet")

from table_files import bytes_of, write_shards  # noqa: E402

RECORDS = (100_000, 1_000_000, 3_000_000)
FEATURES = (64, 256, 768)
ROUTES = ("residual", "langevin")
KEY = ("records", "features", "route", "who")
WHO = {"one": "one process", "workers": "two workers"}


def known() -> list[dict[str, Any]]:
    """Return the rows of earlier runs."""
    with contextlib.suppress(FileNotFoundError):
        found: list[dict[str, Any]] = json.loads((RESULTS / "tables.json").read_text())["rows"]
        return found
    return []


def row_of(folder: Path, key: dict[str, Any], who: str, limit: float) -> dict[str, Any]:
    """Return what a process of its own found, or why it did not end."""
    script = Path(__file__).with_name("table_steps.py")
    command = [sys.executable, str(script), str(folder), key["route"], who]
    row: dict[str, Any] = dict(key)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            said, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # its workers too
            said, _ = child.communicate()
            row["left out"] = f"took more than {limit:g} s"
    for line in said.splitlines():
        told = json.loads(line)
        name = told.pop("step", None)
        row |= told if name is None else {f"{name}, {what}": value for what, value in told.items()}
    if child.returncode and "left out" not in row:
        raise RuntimeError(f"{' '.join(map(str, key.values()))}: failed with status {child.returncode}")
    return row | {"load": round(os.getloadavg()[0], 1)}  # of others as well, when it was measured


def rows_of(folder: Path, records: int, features: int, options: argparse.Namespace, done: list[dict[str, Any]]) -> None:
    """Measure what is missing of a size, adding to ``done``."""
    who = ["one", "workers"] if find_spec("distributed") else ["one"]
    keys = [dict(zip(KEY, (records, features, route, WHO[one]), strict=True)) for route in ROUTES for one in who]
    missing = [key for key in keys if not any(all(row[name] == key[name] for name in KEY) for row in done)]
    if not missing:
        return
    needed, free = 1.1 * bytes_of(records, features), shutil.disk_usage(folder).free
    if needed > free:
        print(f"left out: {records:,} x {features} takes {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
        return
    data = folder / f"{records}x{features}"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    try:
        write_shards(data, records, features)
        for key in missing:
            name = next(short for short, long in WHO.items() if long == key["who"])
            row = row_of(data, key, name, options.limit)
            same = [one["bits"] for one in done if all(one[part] == key[part] for part in KEY[:3]) and "bits" in one]
            assert row.get("bits") in (None, *same[:1]) or not same, f"{key}: other bits than the other way"
            done.append(row)
            print(table([row]), flush=True)
            write_results("tables", sorted(done, key=lambda one: tuple(str(one[part]).zfill(9) for part in KEY)))
    finally:
        shutil.rmtree(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=RECORDS)
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES)
    parser.add_argument("--folder", type=Path, help="Where tables are written.")
    parser.add_argument("--limit", type=float, default=3600.0, help="Seconds that a row may take.")
    parser.add_argument("--again", action="store_true", help="Measure rows anew that are there.")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        print("skipped: peaks of memory are those of Linux")
        return 77
    sizes = [(n, p) for n in options.records for p in options.features]
    done = [row for row in known() if not (options.again and (row["records"], row["features"]) in sizes)]
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for records, features in sizes:
            rows_of(folder, records, features, options, done)
    print(f"\n{table(done)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
