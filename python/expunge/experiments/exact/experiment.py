"""Experiment (d): which measures rank records as the exact cost of their deletion does."""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge._kernels.backend import one_blas_thread
from expunge.experiments.exact.findings import findings
from expunge.experiments.exact.measures import run_measures
from expunge.experiments.exact.settings import ExactSettings
from expunge.experiments.exact.subjects import RidgeSubject, load
from expunge.experiments.exact.truth import head_rows, record_rows, refit_rows, set_rows
from expunge.experiments.work import Context

__all__ = [
    "LIMITS",
    "QUESTION",
    "SETTINGS",
    "TITLE",
    "TRAINS",
    "findings",
    "load",
    "noise_levels",
    "parts",
    "work",
]

TITLE = "Which measure knows what a deletion costs?"
QUESTION = (
    "On ridge regression learned by noisy gradient steps, the noise and the steps that each deletion needs are known "
    "exactly, without a model retrained. Measures that are used in their place are held against them: do they rank "
    "records alike, do they find the costliest, and by which law do they predict?"
)
LIMITS = (
    "Ridge regression, full batches and fixed features: nothing here was measured on a network.",
    "Costs are exact to the error shown and hold for these settings; correlations are estimates over these records, "
    "intervals those of bootstrap samples of them. Measures of a run rest on one run for each seed. All rows are in "
    "results.parquet.",
)
SETTINGS = ExactSettings
TRAINS = False
_CHUNK = 1000


def noise_levels(settings: ExactSettings) -> tuple[float, ...]:
    """Return the one noise level of learning."""
    return (settings.noise_std,)


def parts(settings: ExactSettings, seed: int) -> list[str]:
    """Return the pieces: costs do not depend on the seed, measures of a run do."""
    if seed:
        return ["measures"]
    chunks = [f"records{k}" for k in range(-(-settings.n_train // _CHUNK))]
    heads = ["head", "refits"] if settings.data != "diabetes" else []
    return [*chunks, "measures", *(f"sets{size}" for size in settings.sizes), *heads]


def work(
    context: Context[ExactSettings], subject: RidgeSubject, part: str, *, seed: int, noise_std: float
) -> list[dict[str, Any]]:
    """Compute one piece."""
    s = context.settings
    with one_blas_thread():
        if part.startswith("records"):
            start = _CHUNK * int(part.removeprefix("records"))
            return record_rows(subject, s, np.arange(start, min(start + _CHUNK, s.n_train)))
        if part.startswith("sets"):
            return set_rows(subject, s, int(part.removeprefix("sets")))
        if part == "head":
            return head_rows(subject, s)
        if part == "refits":
            return refit_rows(subject, s)
        found = run_measures(subject, s, seed=seed)
    names = list(found)
    table = np.column_stack([found[name] for name in names]).tolist()
    return [
        {"kind": "measures", "seed": seed, "record": i, **dict(zip(names, row, strict=True))}
        for i, row in enumerate(table)
    ]
