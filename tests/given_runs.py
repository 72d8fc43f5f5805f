"""Ridge runs of given constants, without a fit, and the certificates of deletions one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.certificates import Certificate, RidgeRun, Sources
from expunge.runs.ridge.law import Phase, smoothness

GIVEN = Sources(step_size="given", noise_std="given", classes="none")


def ridge_run(**changes: Any) -> RidgeRun:
    """Return a run on three records, the rows of the unit matrix, whose constants are short numbers."""
    values: dict[str, Any] = {
        "estimator": "LangevinRidge",
        "alpha": 1.0,
        "fit_intercept": False,
        "step_size": 0.25,
        "classes": None,
        "n_records": 3,
        "n_features": 3,
        "n_outputs": 1,
        "phases": (Phase(10, 0.5), Phase(5, 1.0, (0,))),
        "deleted": (0,),
        "sources": GIVEN,
    }
    return RidgeRun(**{**values, **changes})


def run_on(X: NDArray[np.float64], *, alpha: float, step: float = 1.0, **changes: Any) -> RidgeRun:
    """Return a run on the rows of X, its step size ``step`` times the largest allowed."""
    n, p = X.shape
    size = step / smoothness(X, alpha=alpha)
    return ridge_run(alpha=alpha, step_size=size, n_records=n, n_features=p, **changes)


def certificate_of(
    n: int,
    *,
    epsilon: float = 1.0,
    rows: Sequence[int] = range(11),
    sources: Sources = GIVEN,
    seed: int = 3,
    conditions: Sequence[str] = (),
) -> Certificate:
    """Return the certificate of the n-th deletion in sequence, each of one more record."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    phases = (Phase(20, 0.5), *(Phase(5, 0.8, tuple(sorted(rows[:j]))) for j in range(1, n + 1)))
    return Certificate.create(
        X=X,
        y=y,
        model=np.full((2, 1), float(n)),
        run=run_on(X, alpha=1.0, phases=phases, deleted=tuple(sorted(rows[:n])), sources=sources),
        epsilon=epsilon,
        delta=0.2 + n / 8,
        conditions=conditions,
    )
