"""Claims of certificates, by the kind of their run: which of them can be proved, and their proofs."""

from __future__ import annotations

import math
import os
from typing import Any

from expunge.proof.ridge import prove_ridge
from expunge.runs.base import Problem, Run, RunError
from expunge.runs.enclosures import Proof
from expunge.runs.ridge.run import RidgeProblem, RidgeRun

__all__ = ["prove_claim", "refuse_unproved"]


def refuse_unproved(run: Run[Any]) -> None:
    """Refuse a proof that cannot be had, before any work is done.

    Raises
    ------
    ValueError
        If claims about runs of this kind are not proved.
    """
    if not isinstance(run, RidgeRun):
        raise ValueError(f"proof must be False for runs of kind {run.kind!r}: it is of ridge runs")


def prove_claim(
    run: Run[Any],
    problem: Problem,
    *,
    epsilon: float,
    delta: float,
    method: str,
    delta_s: float | None,
    state: str | os.PathLike[str] | None = None,
) -> Proof:
    """Return the proof of a claim about a run beside the data of its first fit, whose assumptions have been checked.

    Where the claim is about the program that ran, what its rounding takes of delta is set apart first: the enclosures
    are those of the run over the real numbers. ``state`` is a folder that keeps the laws of the method "exact" while
    the proof goes on.

    Raises
    ------
    ValueError
        As `refuse_unproved`.
    """
    refuse_unproved(run)
    assert isinstance(run, RidgeRun)
    assert isinstance(problem, RidgeProblem)
    if (share := run.program_share(epsilon=epsilon)) > 0:  # the rest is for the run over the real numbers
        delta = math.nextafter(delta - share, -math.inf)
        if not delta > (delta_s or 0.0):
            raise RunError("claim.delta", f"must exceed the {share!r} that the program's rounding takes")
    return prove_ridge(run, problem, epsilon=epsilon, delta=delta, method=method, delta_s=delta_s, state=state)
