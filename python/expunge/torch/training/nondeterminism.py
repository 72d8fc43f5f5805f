"""Differences between runs that should be the same: the implicit noise of plain SGD. An *estimate*."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from expunge._types import MapDataset
from expunge._validate import choice, count
from expunge.accounting import Estimate
from expunge.torch.training.loop import train

__all__ = ["RunToRunNoise", "run_to_run_noise"]


@dataclass(frozen=True, kw_only=True)
class RunToRunNoise:
    """Spread of the weights of repeated runs.

    Attributes
    ----------
    noise_std : Estimate
        0-d: the noise per step that a random walk would need to spread as far, ``sqrt(variance[-1] / steps[-1])``.
    steps : ndarray of int64, shape (N,)
        Steps done.
    variance : ndarray of float64, shape (N,)
        Variance between runs of one weight, averaged over weights.
    growth : float
        Slope of log variance against log steps: 1 for a random walk; below, training contracts, and above, it
        amplifies differences, and ``noise_std`` is then no noise of any single step. NaN if runs are identical.
    vary : str
        What differed between runs.
    n_runs : int
    status : str
        ``"estimate"``.
    """

    noise_std: Estimate
    steps: NDArray[np.int64]
    variance: NDArray[np.float64]
    growth: float
    vary: str
    n_runs: int
    status: str = "estimate"

    @property
    def identical(self) -> bool:
        """Whether all runs ended at the same bits."""
        return bool(self.variance[-1] == 0.0)


def run_to_run_noise(
    model: nn.Module,
    dataset: MapDataset,
    *,
    n_steps: int,
    vary: str = "batches",
    n_runs: int = 5,
    n_checkpoints: int = 10,
    thread_counts: Sequence[int] = (1, 2),
    seed: int = 0,
    **settings: object,
) -> RunToRunNoise:
    """Train the same model several times and measure how far the weights spread.

    Parameters
    ----------
    model : torch.nn.Module
        Start of every run; not changed.
    dataset : torch.utils.data.Dataset, or pair of tensors
        As in `train`.
    n_steps : int
        Length of each run.
    vary : {"batches", "threads", "nothing"}
        Another seed of the batches in every run; another number of threads, so that sums are rounded in another order;
        or the very same run, whose spread is what the hardware alone adds.
    n_runs : int
        >= 2.
    n_checkpoints : int
        Places where the spread is measured.
    thread_counts : sequence of int
        Numbers of threads that ``vary="threads"`` takes in turn.
    seed : int
        Of the first run.
    **settings
        Passed to `train`: ``step_size``, ``batch_size``, ``loss``, ``sampling``, ``alpha``, ``clip``, ``device``.

    Returns
    -------
    RunToRunNoise
        An *estimate*: batches that differ are no Gaussian noise, and the walk is assumed to be free.

    Raises
    ------
    ValueError
        If noise is asked for, whose spread would be measured instead, or an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> data = torch.randn(64, 3), torch.arange(64) % 2
    >>> same = run_to_run_noise(torch.nn.Linear(3, 2), data, n_steps=20, step_size=0.1, batch_size=8, n_runs=2,
    ...                         vary="nothing")
    >>> same.identical, same.noise_std.status
    (True, 'estimate')
    """
    choice("vary", vary, ("batches", "threads", "nothing"))
    runs = count("n_runs", n_runs, low=2)
    total = count("n_steps", n_steps, low=1)
    if settings.get("noise_std") or settings.get("temperature"):
        raise ValueError("run_to_run_noise measures runs without noise; leave noise_std and temperature out")
    counts = [count("thread_counts", one, low=1) for one in thread_counts]
    before = torch.get_num_threads()
    paths = []
    try:
        for r in range(runs):
            if vary == "threads":
                torch.set_num_threads(counts[r % len(counts)])
            paths.append(
                _path(
                    copy.deepcopy(model),
                    dataset,
                    n_steps=total,
                    n_checkpoints=n_checkpoints,
                    seed=seed + (r if vary == "batches" else 0),
                    **settings,
                )
            )
    finally:
        torch.set_num_threads(before)
    steps = paths[0][0]
    stack = np.stack([values for _, values in paths])
    # Differences first: runs with the same bits have variance 0, not a rounding error of their mean.
    variance = (stack - stack[0]).var(axis=0, ddof=1).mean(axis=1)
    some = variance > 0.0
    growth = float(np.polyfit(np.log(steps[some]), np.log(variance[some]), 1)[0]) if some.sum() >= 2 else float("nan")
    return RunToRunNoise(
        noise_std=Estimate.of(np.sqrt(variance[-1] / steps[-1])),
        steps=steps,
        variance=variance,
        growth=growth,
        vary=vary,
        n_runs=runs,
    )


def _path(model: nn.Module, dataset: MapDataset, **settings: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps done and all weights at the ends of the windows of one run."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    with tempfile.TemporaryDirectory() as folder:
        run = train(model, dataset, keep="weights", folder=folder, progress=False, **settings)
        rows = [
            torch.cat([value.double().flatten() for name, value in run.weights(k).items() if name in trained]).numpy()
            for k in range(run.marks.size)
        ]
    return run.marks, np.stack(rows)
