"""Work of verifying a ridge run, estimated before any of it is done."""

from __future__ import annotations

import math

from expunge.runs.ridge.inputs import RidgeInputs
from expunge.runs.ridge.step_blocks import n_blocks

__all__ = ["estimated_work"]

# What else takes time, in operations that could have been done meanwhile: measured, then rounded up.
_CALL = 5e5
_PHASE = 5e6
_QUANTILE = 3e5
_PROFILE = 5e5


def estimated_work(run: RidgeInputs, *, method: str) -> float:
    """Return about how many floating-point operations the verification of a run takes.

    Linear in records; cubic in columns, times the number of different versions of the data; proportional to the number
    of phases, and to the logarithm of their steps.

    Examples
    --------
    >>> from expunge.runs.ridge.law import Phase
    >>> phases = (Phase(n_steps=10**7, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
    >>> run = RidgeInputs(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
    ...                   n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,))
    >>> estimated_work(run, method="exact") < 1e8
    True
    """
    n, p, q = float(run.n_records), float(run.n_features + run.fit_intercept), float(run.n_outputs)
    m = float(len(run.deleted))
    work = n * (p + q) * 200 + 3 * n * p * p + 5 * n * p * q + 100 * p**3 + p * _PROFILE + 10 * _CALL
    previous: tuple[int, ...] | None = None
    for phase in run.phases:
        present = max(m - len(phase.removed), 0.0)
        log = math.log2(phase.n_steps + 1.0)
        each = _PHASE + 200 * m + p * p * q * 10 + p * log * 20
        if present:
            each += p * p * log * 30 + 12 * p**3 + present * p * (p + q) * 4
            if phase.removed != previous:
                each += 25 * p**3 + len(phase.removed) * p * (p + q) * 4
        if present and phase.removed:  # once more, with the law of earlier phases carried along
            each += 40 * p**3
        work += 3 * each
        if method == "shifted" and present:
            work += n_blocks(phase.n_steps) * (present * (p * (p + q) * 4 + _QUANTILE) + _CALL)
        previous = phase.removed
    if method == "uniform":
        work += n_blocks(run.phases[0].n_steps) * (n * (p * q * 4 + p * 4 + 50) + 10 * _CALL)
    return work
