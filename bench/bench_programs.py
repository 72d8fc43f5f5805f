"""Langevin runs whose claims are about the program, beside those about real numbers: seconds, and how far they are off.

Run ``python bench/bench_programs.py [--columns P ...] [--records N] [--repeats R]``. A fit and a deletion of one record
of each kind, of ten outputs. Before they are timed, the certificate is verified as one about the program, and the noise
of both kinds' deletions is held against each other.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np

from expunge import LangevinRidge, NoiseWarning
from expunge.certificates import Policy
from timing import measure, table, write_results

COLUMNS = (64, 256, 768)
OUTPUTS = 10
LEARNING, DELETION = {"n_steps": 300, "noise_std": 0.01, "fit_intercept": False}, {"n_steps": 30}
CLAIM = {"epsilon": 1.0, "delta": 1e-5}
WHOSE = {"real numbers": False, "program": True}


def rows_of(columns: int, *, records: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row for the fit and one for the deletion."""
    rng = np.random.default_rng(columns)
    X = rng.normal(size=(records, columns))
    Y = X @ rng.normal(size=(columns, OUTPUTS)) / np.sqrt(columns) + rng.normal(size=(records, OUTPUTS))
    models = {name: LangevinRidge(**LEARNING).fit(X, Y, of_program=whose) for name, whose in WHOSE.items()}
    deletions = {name: model.unlearn(0, **CLAIM, **DELETION).certificate for name, model in models.items()}
    result = models["program"].unlearn(0, **CLAIM, **DELETION)
    policy = Policy(of_program=True, allow_conditional=True)
    result.certificate.verify(X, Y, result.model, policy=policy)
    noise = {name: one.run.phases[-1].noise_std for name, one in deletions.items()}
    assert 1 - 1e-9 <= noise["program"] / noise["real numbers"] <= 1 + 2e-3, f"deletions take noise {noise}"
    steps: dict[str, dict[str, Any]] = {
        "fit": {
            name: lambda w=whose: LangevinRidge(**LEARNING).fit(X, Y, of_program=w) for name, whose in WHOSE.items()
        },
        "unlearn": {name: lambda m=model: m.unlearn(0, **CLAIM, **DELETION) for name, model in models.items()},
    }
    rows = []
    for step, contenders in steps.items():
        seconds = measure(contenders, repeats=repeats)
        ratio = seconds["program"] / seconds["real numbers"]
        own = {f"{name}, s": seconds[name] for name in WHOSE}
        rows.append({"columns": columns, "outputs": OUTPUTS, "records": records, "step": step, **own, "ratio": ratio})
    program = result.certificate.run.program
    assert program is not None
    return [row | {"distance": program.distance} for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=COLUMNS)
    parser.add_argument("--records", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)  # the accuracy is of no interest here
        for columns in options.columns:
            rows += rows_of(columns, records=options.records, repeats=options.repeats)
    print(table(rows))
    write_results("programs", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
