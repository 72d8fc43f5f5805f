"""CPU seconds and memory of the proof of one ridge deletion in ball arithmetic, by the number of features.

Random records of unit length, ten one-hot targets, 300 steps of learning and 30 of unlearning: the laws, their
whitening and the privacy profile, on one thread. Needs the extra ``proof``. Work grows with the cube of the features.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import timing

COLUMNS, LEARN, UNLEARN, DELETED = 10, 300, 30, 5


def proof_of(n_features: int, n_records: int) -> dict[str, Any]:
    """Return what the proof of one deletion took, as a row."""
    from expunge.proof.ridge import prove_deltas
    from expunge.runs.ridge.law import Phase, smoothness

    rng = np.random.default_rng(0)
    X = np.maximum(rng.normal(size=(n_records, n_features)).astype(np.float32).astype(float), 0)
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-3)
    targets = np.eye(COLUMNS)[rng.integers(0, COLUMNS, n_records)]
    phases = (Phase(LEARN, 0.02), Phase(UNLEARN, 0.02, (DELETED,)))
    run: dict[str, Any] = {"alpha": 1.0, "step_size": 0.9 / smoothness(X, alpha=1.0), "phases": phases}
    start = time.process_time()
    with threadpool_limits(1):
        found = prove_deltas(X, targets, **run, deleted=[DELETED], epsilon=1.0, claim=0.99)
    assert found.proved, found.reason
    return {
        "features": n_features,
        "records": n_records,
        "cpu seconds": round(time.process_time() - start, 1),
        "peak GB": round(_peak(), 2),
        "bits": found.bits,
        "delta(Q|P) from": found.delta_qp.lower_text,
        "to": found.delta_qp.upper_text,
    }


def _peak() -> float:
    """Return the peak memory of this process so far, in GB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[64, 256], help="in this order, smallest first")
    parser.add_argument("--records", type=int, default=8000)
    given = parser.parse_args()
    timing.need("flint", extra="proof")
    rows = [proof_of(features, given.records) for features in given.features]
    print(timing.table(rows))
    timing.write_results("proof", rows, steps=[LEARN, UNLEARN], columns=COLUMNS)


if __name__ == "__main__":
    main()
