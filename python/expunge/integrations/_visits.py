"""Records that a training loop of another library saw, step by step, and the run that they make."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge._validate import count
from expunge.torch import TrainingRun
from expunge.torch.training.collector import UNSEEN
from expunge.torch.training.run import assemble
from expunge.torch.training.schedule import window_ends

__all__ = ["Visits"]

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


class Visits:
    """Norms of what records added to the gradients of steps.

    A step's gradient is the sum of what its records add to it, whatever the loss is divided by. Times the (constant)
    number of records of a step this is the g_i of `expunge.torch.train`, whose steps add up g_i / batch_size.

    Parameters
    ----------
    n_records : int
        Number of records.
    batch_size : int
        Records of a whole step: of all its batches, on all processes.
    n_processes : int
        Processes whose gradients are averaged.
    every : int
        Steps 0, every, 2 every, ... are measured.
    n_windows : int
        Columns of the run.
    source : str
        What trains.
    """

    def __init__(
        self, *, n_records: int, batch_size: int, n_processes: int, every: int, n_windows: int, source: str
    ) -> None:
        self.n_records, self.batch_size, self.n_processes = n_records, batch_size, n_processes
        self.every, self.n_windows, self.source = every, n_windows, source
        self._step: list[tuple[Int64, Float64]] = []  # of the step under way
        self._visits: list[tuple[int, Int64, Float64]] = []
        self._wide = False

    def measures(self, step: int) -> bool:
        """Return whether the norms of a step are wanted."""
        return step % self.every == 0

    def take(self, records: Any, norms: Tensor) -> None:
        """Take the norms of what the records of one batch added to the gradient of this process.

        Raises
        ------
        TypeError, ValueError
            If records are not integers within [0, n_records), one for each norm.
        """
        rows = rows_of(records, n_records=self.n_records, batch=len(norms))
        found = norms.detach().double().cpu().numpy() * (self.batch_size / self.n_processes)
        self._wide |= norms.dtype == torch.float64
        self._step.append((rows, found))

    def step_ended(self, step: int, *, skipped: bool = False) -> None:
        """Keep what was taken in a step, or drop it if the optimizer skipped the step.

        Raises
        ------
        ValueError
            If a norm is not finite.
        """
        taken, self._step = self._step, []
        if not taken or skipped:
            return
        rows, norms = (np.concatenate(part) for part in zip(*taken, strict=True))
        if not np.isfinite(norms).all():
            raise ValueError(
                f"gradient norms must be finite, got {norms[~np.isfinite(norms)][0]} for record "
                f"{rows[~np.isfinite(norms)][0]} in step {step}"
            )
        self._visits.append((step, rows, norms))

    def run(self, *, n_steps: int) -> TrainingRun:
        """Return the run; on all processes at once where there are several."""
        if n_steps < 1:
            raise ValueError("a run needs at least one step of the optimizer, got none")
        steps, rows, norms = self._of_all_processes()
        # A record that is in a step twice adds at most the sum of both.
        keys, places = np.unique(steps * self.n_records + rows, return_inverse=True)
        sums = np.bincount(places, weights=norms, minlength=keys.size)
        steps, rows = np.divmod(keys, self.n_records)
        n_windows = min(self.n_windows, -(-n_steps // self.every))
        marks = window_ends(n_steps=n_steps, n_windows=n_windows, spacing="even")
        columns = []
        now = {
            "grad_norms": np.full(self.n_records, np.nan, dtype=np.float64 if self._wide else np.float32),
            "steps": np.full(self.n_records, UNSEEN, dtype=np.int64),
        }
        start = 0
        for end in np.searchsorted(steps, marks):
            some = slice(start, int(end))
            now["grad_norms"][rows[some]], now["steps"][rows[some]] = sums[some], steps[some]  # the last of a record
            columns.append({name: values.copy() for name, values in now.items()})
            start = int(end)
        summary = {
            "forgetting_events": np.zeros(self.n_records, dtype=np.int64),
            "never_visited": np.flatnonzero(now["steps"] == UNSEEN),
            "train_seconds": np.nan,
            "collect_seconds": np.nan,
        }
        return assemble(self._settings(n_steps), columns, marks, summary, None)

    def _of_all_processes(self) -> tuple[Int64, Int64, Float64]:
        parts = [self._visits]
        if self.n_processes > 1:
            everywhere: list[Any] = [None] * self.n_processes
            torch.distributed.all_gather_object(everywhere, (self._visits, self._wide))
            parts = [visits for visits, _ in everywhere]
            self._wide = any(wide for _, wide in everywhere)
        visits = [visit for part in parts for visit in part]
        nothing = np.empty(0, dtype=np.int64)
        return (
            np.concatenate([nothing, *(np.full(rows.size, step, dtype=np.int64) for step, rows, _ in visits)]),
            np.concatenate([nothing, *(rows for _, rows, _ in visits)]),
            np.concatenate([np.empty(0), *(norms for _, _, norms in visits)]),
        )

    def _settings(self, n_steps: int) -> dict[str, Any]:
        # Noise is that of a step's gradient, so that learning rates and optimizers come after it.
        return {
            "n_records": self.n_records, "n_steps": n_steps, "step_size": 1.0, "batch_size": self.batch_size,
            "sampling": "shuffle", "noise_std": 0.0, "clip": None, "alpha": 0.0, "n_checkpoints": self.n_windows,
            "spacing": "even", "collect": "batch", "keep": "norms", "every": self.every, "loss": self.source,
        }  # fmt: skip


def rows_of(records: Any, *, n_records: int, batch: int) -> Int64:
    """Return the ids of a batch's records, checked."""
    found = np.asarray(records.detach().cpu() if isinstance(records, Tensor) else records)
    if found.dtype.kind not in "iu":
        raise TypeError(f"record ids must be integers from 0 to {n_records - 1}, got dtype {found.dtype}")
    if found.shape != (batch,):
        raise ValueError(f"record ids must have shape ({batch},), one per example of the batch, got {found.shape}")
    outside = (found < 0) | (found >= n_records)
    if outside.any():
        raise ValueError(
            f"record ids must be within [0, {n_records}), got {found[outside][0]}: number the records from 0, or give "
            "a larger n_records"
        )
    return found.astype(np.int64)


def number_of_records(given: int | None, dataset: Any) -> int:
    """Return the number of records, that of the data set if none is given."""
    if given is not None:
        return count("n_records", given, low=1)
    if not hasattr(dataset, "__len__"):
        raise ValueError(f"n_records must be given, since a {type(dataset).__name__} has no length")
    return len(dataset)
