"""Unlearning by predicted steps: each part of the forget set is done when its prediction says so. *Estimates*."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from tqdm import tqdm

from expunge._files import write_atomic
from expunge._types import JsonObject, MapDataset
from expunge._validate import count, real_array
from expunge.evaluation import Band
from expunge.forget_sets import ForgetSet
from expunge.torch.training.step import Loss, cross_entropy
from expunge.torch.unlearning.engine import Settings
from expunge.torch.unlearning.walk import evaluating, now

__all__ = ["AdaptiveRun", "ForgetBin", "unlearn_adaptively"]


@dataclass(frozen=True, eq=False)
class ForgetBin:
    """Records that are predicted to need about the same number of steps.

    Attributes
    ----------
    indices : ndarray of int64
        Their numbers in the dataset, ascending.
    predicted_steps : float
        The largest prediction among them, rounded up to a whole step; possibly infinite.
    finished_step : int or None
        The step at which the bin was dropped; None if the run ended before.
    value : float or None
        The metric on the bin when it was dropped, or at the end of the run.
    inside : bool or None
        Whether that value was inside the band; None without one.
    """

    indices: NDArray[np.int64]
    predicted_steps: float
    finished_step: int | None
    value: float | None
    inside: bool | None

    def to_dict(self) -> JsonObject:
        """Return the bin as JSON values; an infinite prediction is ``"inf"``."""
        steps = self.predicted_steps
        return {
            **asdict(self),
            "indices": self.indices.tolist(),
            "predicted_steps": steps if math.isfinite(steps) else "inf",
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptiveRun:
    """One adaptive run. Made by `unlearn_adaptively`.

    Attributes
    ----------
    settings : dict
        All arguments, as JSON values.
    forget : ForgetSet
        What was to be forgotten.
    bins : tuple of ForgetBin
        In the order of their predictions.
    finished_step : ndarray of float64, shape (m,)
        For every record of ``forget.indices``: the step at which it was done; infinite if the run ended before.
    n_steps : int
        Steps taken.
    seconds : float
        Wall time of the steps.
    status : str
        ``"estimate"``.
    """

    settings: JsonObject
    forget: ForgetSet = field(repr=False)
    bins: tuple[ForgetBin, ...] = field(repr=False)
    finished_step: NDArray[np.float64] = field(repr=False)
    n_steps: int
    seconds: float
    status: str = "estimate"

    @property
    def finished(self) -> bool:
        """Whether every bin was done."""
        return all(one.finished_step is not None for one in self.bins)

    def summary(self) -> str:
        """Return what happened in plain words."""
        words = f"adaptive: {self.n_steps} steps in {self.seconds:.2f} s for {len(self.bins)} bins"
        left = [one for one in self.bins if one.finished_step is None]
        if left:
            records = sum(one.indices.size for one in left)
            words += f"; not finished: {len(left)} bins, {records} records, are predicted to need more steps"
        outside = [one for one in self.bins if one.inside is False]
        if outside:
            records = sum(one.indices.size for one in outside)
            words += f"; the prediction fell short: {len(outside)} bins, {records} records, ended outside the band"
        return words + "; estimate: the model has one noise level per step, whatever bins were dropped"

    def to_dict(self) -> JsonObject:
        """Return the run as JSON values."""
        return {
            "status": self.status,
            "settings": self.settings,
            "forget": {"n_records": self.forget.n_records, "how": self.forget.how, "size": len(self.forget)},
            "bins": [one.to_dict() for one in self.bins],
            "n_steps": self.n_steps,
            "seconds": self.seconds,
            "finished": self.finished,
            "summary": self.summary(),
        }

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the run to a JSON file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool, default False
            Replace an existing file.

        Raises
        ------
        FileExistsError
            If the file exists and may not be replaced.
        """
        write_atomic(path, (json.dumps(self.to_dict(), allow_nan=False) + "\n").encode(), overwrite=overwrite)


def unlearn_adaptively(
    model: nn.Module,
    dataset: MapDataset,
    forget: ForgetSet | ArrayLike,
    predicted_steps: ArrayLike,
    *,
    step_size: float,
    batch_size: int,
    noise_std: float | None = None,
    temperature: float | None = None,
    n_bins: int = 5,
    max_steps: int | None = None,
    loss: Loss = cross_entropy,
    sampling: str = "shuffle",
    clip: float | None = None,
    alpha: float = 0.0,
    metric: Callable[[nn.Module, NDArray[np.int64]], float] | None = None,
    band: Band | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> AdaptiveRun:
    """Fine-tune noisily on the retained records, and drop each part of the forget set when its prediction is up.

    Parameters
    ----------
    model, dataset, forget
        As in `unlearn`.
    predicted_steps : array_like of float, shape (m,)
        Steps each forgotten record is predicted to need, >= 0, in ascending order of record number (that of
        `ForgetSet.indices`): from `predict_steps` or `LogFit.predict`. May be infinite with ``max_steps``.
    step_size, batch_size, noise_std, temperature, loss, sampling, clip, alpha, seed, device, progress
        As in `unlearn` with method "noisy_fine_tune".
    n_bins : int
        Most bins: of about equal size, by prediction; records of equal prediction stay together.
    max_steps : int, optional
        Most steps; bins predicted to need more are reported as not finished. By default the largest prediction.
    metric : callable, optional
        ``metric(model, rows)`` -> a finite number for the records of a bin, taken when the bin is dropped, and at the
        end for those that were not.
    band : Band, optional
        The band of retrained models by that metric, to check the prediction with.

    Returns
    -------
    AdaptiveRun
        Which record was done at which step, as an *estimate*: one model has one noise level per step, records done
        early stay in the model that goes on, and dropping them saves no step that a harder record needs.

    Raises
    ------
    NonFiniteLossError, TypeError, ValueError
        As `unlearn`; also if the predictions are NaN, negative, not one per record, or infinite without ``max_steps``.

    Examples
    --------
    >>> import torch
    >>> from expunge.torch import unlearn_adaptively
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 5), torch.arange(64) % 2
    >>> run = unlearn_adaptively(torch.nn.Linear(5, 2), (x, y), [3, 1, 2], [4.0, 9.0, 4.0], step_size=0.1,
    ...                          batch_size=16, noise_std=0.01, n_bins=2)
    >>> run.finished_step.tolist(), run.n_steps, run.status
    ([4.0, 9.0, 4.0], 9, 'estimate')
    """
    settings = Settings.of(
        model, dataset, forget, method="noisy_fine_tune", step_size=step_size, batch_size=batch_size, loss=loss,
        sampling=sampling, noise_std=noise_std, temperature=temperature, clip=clip, alpha=alpha, ascent_weight=1.0,
        seed=seed, device=device,
    )  # fmt: skip
    chosen = settings.forget
    predicted = real_array("predicted_steps", predicted_steps, ndim=1, low=0.0, allow_infinite=True)
    if predicted.size != len(chosen):
        raise ValueError(f"predicted_steps must hold one per forgotten record ({len(chosen)}), got {predicted.size}")
    if max_steps is None and np.isinf(predicted).any():
        raise ValueError("predicted_steps holds infinity: give max_steps, or leave out records that cannot be done")
    if band is not None and (metric is None or not isinstance(band, Band)):
        raise ValueError(f"band must be a Band given with a metric, got {type(band).__name__} and {metric!r}")
    groups = _bins(np.ceil(predicted), count("n_bins", n_bins, low=1))
    needed = [float(np.ceil(predicted[group]).max()) for group in groups]
    most = max(needed) if max_steps is None else min(max(needed), count("max_steps", max_steps))
    walk, place, bins, seconds = settings.walk(), settings.records.device, [], 0.0

    def finish(group: NDArray[np.int64], steps: float, at: int | None) -> ForgetBin:
        rows = chosen.indices[group]
        value, inside = None, None
        if metric is not None:
            with evaluating(model, place):
                value = float(metric(model, rows))
            if not math.isfinite(value):
                raise ValueError(f"metric must be finite, got {value} after step {walk.n_taken}")
            inside = None if band is None else bool(band.holds(value))
        return ForgetBin(rows, steps, at, value, inside)

    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        tqdm(total=int(most), unit="step", desc="adaptive", disable=None if progress else True) as bar,
    ):
        for group, steps in zip(groups, needed, strict=True):
            started, before = now(place), walk.n_taken
            while walk.n_taken < min(steps, most):
                walk.take()
            seconds += now(place) - started
            bar.update(walk.n_taken - before)
            walk.check_weights()
            bins.append(finish(group, steps, walk.n_taken if steps <= most else None))
    done = np.full(len(chosen), np.inf)
    for group, one in zip(groups, bins, strict=True):
        if one.finished_step is not None:
            done[group] = one.finished_step
    return AdaptiveRun(
        settings={**settings.described, "n_bins": len(bins), "max_steps": max_steps},
        forget=chosen,
        bins=tuple(bins),
        finished_step=done,
        n_steps=walk.n_taken,
        seconds=seconds,
    )


def _bins(predicted: NDArray[np.float64], n_bins: int) -> list[NDArray[np.int64]]:
    """Return places of records in bins of about equal size by prediction; equal predictions are never torn apart."""
    _, inverse, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    # The level's middle decides: rank from 0 to 1, cut into equal parts.
    middle = (np.cumsum(counts) - 0.5 * counts) / predicted.size
    part = np.minimum((middle * n_bins).astype(np.int64), n_bins - 1)[inverse.reshape(-1)]
    return [np.flatnonzero(part == k).astype(np.int64) for k in np.unique(part)]
