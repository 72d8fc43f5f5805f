"""Steps on a table in a process of its own, as bench_tables.py runs them: a line of JSON for each, as it is done.

Run ``python bench/table_steps.py FOLDER residual|langevin one|workers``. Peaks are those of a step alone, of this
process and of the largest worker; what two workers have to find to the bit comes last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from expunge import LangevinRidgeClassifier, NewtonLogisticRegression
from expunge.certificates.residual import verify
from expunge.data import RidgeStatistics, open_records
from expunge.estimators import NoiseWarning
from table_files import NAMED

TARGET = {"epsilon": 1.0, "delta": 1e-5}
DELETED = 1000


def forget_peak() -> None:
    """Have the kernel count the peak of this process from now on."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak() -> float:
    """Return the peak of this process in MiB: not ru_maxrss, which it inherits from the one that starts it."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024


@contextlib.contextmanager
def table_of(folder: str, who: str) -> Iterator[tuple[Any, Callable[[Callable[[], Any]], list[Any]]]]:
    """Yield the table, and how something is asked of every worker."""
    if who == "one":
        yield open_records(folder, **NAMED), lambda ask: []
        return
    from expunge.distributed import Dask

    with Dask("local:2") as cluster:
        client = cluster._engine._client
        yield cluster.open_records(folder, **NAMED), lambda ask: list(client.run(ask).values())


def main() -> int:
    folder, route, who = sys.argv[1:]
    bits = hashlib.sha256()
    sys.path.insert(0, os.path.dirname(__file__))  # workers import this file by its name
    with table_of(folder, who) as (records, ask):

        def timed(name: str, step: Callable[[], Any]) -> Any:
            forget_peak()
            ask(forget_peak)
            begun = time.perf_counter()
            found = step()
            told = {"step": name, "s": time.perf_counter() - begun, "peak MiB": peak()}
            workers = ask(peak)
            print(json.dumps(told | ({"worker's peak MiB": max(workers)} if workers else {})), flush=True)
            return found

        gone = np.linspace(0, records.n_records - 1, DELETED).astype(np.int64)
        if route == "residual":
            model = timed("fit", lambda: NewtonLogisticRegression(classes=[0, 1], random_state=0).fit(records))
            quote = timed("quote", model.quote)
            bits.update(quote.costs.sensitivity_bound.tobytes())
            result = timed("unlearn", lambda: model.unlearn(gone.tolist()))
            assert result.model._state.tree.n_records == records.n_records - DELETED
            timed("verify", lambda: verify(model.certificate_, records, evidence=model.evidence_))
        else:
            settings = {"n_steps": 300, "noise_std": 1e-4, "random_state": 0}

            def fit() -> LangevinRidgeClassifier:
                statistics = RidgeStatistics.of(records, classes=[0, 1])
                return LangevinRidgeClassifier(**settings).fit_statistics(statistics)

            model = timed("fit", fit)
            quote = timed("quote", lambda: model.quote(records, n_steps=30, **TARGET))
            bits.update(quote.noise_std.tobytes())
            result = timed("unlearn", lambda: model.unlearn(table=records, ids=gone.tolist(), n_steps=30, **TARGET))
            assert len(result.certificate.run.deleted) == DELETED
            timed("verify", lambda: result.certificate.verify(records, model=result.model, budget=np.inf))
        bits.update(np.ascontiguousarray(model.coef_).tobytes())
    print(json.dumps({"bits": bits.hexdigest()[:16]}), flush=True)
    return 0


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)  # what noise costs is of no interest here
        sys.exit(main())
