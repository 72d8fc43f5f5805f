"""How much work a verification takes, estimated before any of it is done, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from expunge.accounting.ridge_shifted import n_blocks
from expunge.certificates.run import RidgeRun
from expunge.certificates.schema import VerificationError

__all__ = ["DEFAULT_BUDGET", "check_budget", "estimated_work", "stages"]

# About a minute or two of one core that does dense algebra at 10 per nanosecond.
DEFAULT_BUDGET = 1e12
# Work that may take a second or two shows where it is.
_SHOWN = 1e10
_STAGES = ("data", "assumptions", "law of the run", "claim", "model")
# What else takes time, in operations that could have been done meanwhile: measured, then rounded up.
_CALL = 5e5
_PHASE = 5e6
_QUANTILE = 3e5
_PROFILE = 5e5


def estimated_work(run: RidgeRun, *, method: str) -> float:
    """Return about how many floating-point operations the verification of a run takes.

    Linear in records; cubic in columns, times the number of different versions of the data; proportional to the number
    of phases, and to the logarithm of their steps.

    Examples
    --------
    >>> from expunge.certificates import Phase
    >>> phases = (Phase(n_steps=10**7, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
    >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
    ...                n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,))
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
        work += 3 * each
        if method == "shifted" and present:
            work += n_blocks(phase.n_steps) * (present * (p * (p + q) * 4 + _QUANTILE) + _CALL)
        previous = phase.removed
    if method == "uniform":
        work += n_blocks(run.phases[0].n_steps) * (n * (p * q * 4 + p * 4 + 50) + 10 * _CALL)
    return work


def check_budget(run: RidgeRun, *, method: str, budget: float) -> None:
    """Refuse a verification that takes more than ``budget`` operations.

    Raises
    ------
    VerificationError
        With ``field == "budget"``.
    """
    work = estimated_work(run, method=method)
    if not work <= budget:
        raise VerificationError(
            "budget",
            f"verification takes about {work:.2g} operations ({len(run.phases)} phases, {run.n_records} records, "
            f"{run.n_features} features), more than {budget:.2g}; pass a larger budget to do it all the same",
        )


@contextmanager
def stages(run: RidgeRun, *, method: str) -> Iterator[Callable[[str], None]]:
    """Yield what is called with the stage that begins: a progress bar, where a verification can take seconds.

    Examples
    --------
    >>> from expunge.certificates import Phase
    >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
    ...                n_records=3, n_features=3, n_outputs=1, phases=(Phase(n_steps=9, noise_std=0.5),), deleted=(0,))
    >>> with stages(run, method="exact") as begin:  # too little work for a bar
    ...     begin("data")
    """
    long = estimated_work(run, method=method) >= _SHOWN
    with tqdm(total=len(_STAGES), unit="stage", desc="verify", disable=None if long else True, leave=False) as bar:

        def begin(stage: str) -> None:
            bar.update(_STAGES.index(stage) - bar.n)
            bar.set_description(f"verify: {stage}")  # drawn at once

        yield begin
