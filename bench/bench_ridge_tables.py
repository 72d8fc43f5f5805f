"""Ridge models made from statistics: seconds and matrix factorizations of each step, by number of columns.

Run ``python bench/bench_ridge_tables.py [--columns P ...] [--repeats R]``. 4 P float32 records of P - 1 features lie in
memory. The noise that a deletion takes is held against that of a model of the same records in memory, and the
certificate is verified on the table, first. Factorizations of matrices of P columns (eigenproblems and Cholesky) are
counted in a run that is not timed. The work of each is of the order of P^3; so is that of the products beside them.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import linalg

from expunge import LangevinRidge
from expunge.data import RidgeStatistics, open_records
from expunge.estimators import NoiseWarning
from timing import measure, table, write_results

COLUMNS = (512, 1024, 2048)
QUOTED = 100
SETTINGS = {"n_steps": 100, "noise_std": 1e-4}
TARGET = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 10}
FACTORIZATIONS = ("eigh", "eigvalsh", "cho_factor", "cholesky")


@contextmanager
def counted(columns: int) -> Iterator[list[str]]:
    """Count factorizations of matrices of this many columns."""
    found: list[str] = []
    plain = {name: getattr(linalg, name) for name in FACTORIZATIONS}

    def counting(name: str) -> Callable[..., Any]:
        def factor(matrix: Any, *more: Any, **options: Any) -> Any:
            if len(matrix) == columns:
                found.append(name)
            return plain[name](matrix, *more, **options)

        return factor

    for name in FACTORIZATIONS:
        setattr(linalg, name, counting(name))
    try:
        yield found
    finally:
        for name in FACTORIZATIONS:
            setattr(linalg, name, plain[name])


def rows_of(columns: int, *, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each step."""
    rng = np.random.default_rng(columns)
    X = rng.normal(size=(4 * columns, columns - 1)).astype(np.float32)
    y = X @ rng.normal(size=columns - 1) / np.sqrt(columns) + rng.normal(size=len(X))
    records = open_records(X, target=y)
    statistics = RidgeStatistics.of(records)
    model = LangevinRidge(**SETTINGS).fit_statistics(statistics)
    first = model.unlearn(table=records, rows=7, **TARGET)
    other = LangevinRidge(**SETTINGS).fit(X, y, of_program=False)
    noise = [one.certificate.run.phases[-1].noise_std for one in (first, other.unlearn(rows=7, **TARGET))]
    assert abs(noise[0] / noise[1] - 1) < 1e-6, f"a deletion takes noise {noise[0]} of a table and {noise[1]} of arrays"
    second = first.model.unlearn(table=records, rows=8, **TARGET)

    def quoted() -> object:
        model._law_cache = None  # as the first time
        return model.quote(records, rows=np.arange(min(QUOTED, len(X))), **TARGET)

    steps: dict[str, Callable[[], object]] = {
        "statistics": lambda: RidgeStatistics.of(records),
        "fit_statistics": lambda: LangevinRidge(**SETTINGS).fit_statistics(statistics),
        f"quote of {QUOTED}": quoted,
        "unlearn": lambda: model.unlearn(table=records, rows=7, **TARGET),
        "verify": lambda: first.certificate.verify(records, model=first.model, budget=np.inf),
        "unlearn again": lambda: first.model.unlearn(table=records, rows=8, **TARGET),
        "verify again": lambda: second.certificate.verify(records, model=second.model, budget=np.inf),
        "fit in memory": lambda: LangevinRidge(**SETTINGS).fit(X, y, of_program=False),
        "unlearn in memory": lambda: other.unlearn(rows=7, **TARGET),
        "verify in memory": lambda: first.certificate.verify(X, y, first.model, budget=np.inf),
    }
    counts = {}
    for name, step in steps.items():
        with counted(columns) as found:
            step()
        counts[name] = len(found)
    seconds = measure(steps, repeats=repeats)
    return [{"columns": columns, "step": name, "s": seconds[name], "factorizations": counts[name]} for name in steps]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=COLUMNS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)  # the noise of a single record's deletion is of no interest here
        for columns in options.columns:
            rows += rows_of(columns, repeats=options.repeats)
    print(table(rows))
    write_results("ridge_tables", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
