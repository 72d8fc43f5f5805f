"""The training loop."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from expunge._types import MapDataset
from expunge._validate import number
from expunge.torch._arguments import place_of, require_model
from expunge.torch._gradient_norms import GradNorms
from expunge.torch.training.budgets import BudgetKeeper, RecordBudgets
from expunge.torch.training.collector import Collector
from expunge.torch.training.errors import NonFiniteLossError
from expunge.torch.training.folder import RunFolder, describe_model
from expunge.torch.training.privacy import Privacy
from expunge.torch.training.records import Records
from expunge.torch.training.run import TrainingRun, assemble, digests_of
from expunge.torch.training.sampling import Batches, stream_seed
from expunge.torch.training.schedule import checkpoint_steps, window_ends
from expunge.torch.training.settings import settings_of
from expunge.torch.training.step import (
    Loss,
    Step,
    Visit,
    check_finite,
    cross_entropy,
    per_record_losses,
    seed_randomness,
)
from expunge.torch.training.watch import Watch

__all__ = ["train"]


def train(
    model: nn.Module,
    dataset: MapDataset,
    *,
    step_size: float,
    batch_size: int,
    n_steps: int | None = None,
    epochs: int | None = None,
    loss: Loss = cross_entropy,
    sampling: str = "poisson",
    noise_std: float | None = None,
    temperature: float | None = None,
    clip: float | None = None,
    privacy: Privacy | RecordBudgets | None = None,
    alpha: float = 0.0,
    n_checkpoints: int = 35,
    spacing: str = "even",
    collect: str = "batch",
    keep: str = "norms",
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    save_seconds: float = 60.0,
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TrainingRun:
    """Train a model in place by (noisy) SGD, and collect every record's gradient norms along the way.

    ``theta <- theta - step_size (sum over the batch of g_i / batch_size + alpha theta) + noise_std xi`` with a constant
    ``batch_size``, whatever the size of the batch drawn.

    Parameters
    ----------
    model : torch.nn.Module
        Its examples must not interact. Trained in the mode it is in; its dropout follows ``seed``.
    dataset : torch.utils.data.Dataset, or pair of tensors
        Items are (input, target). Tensors in memory are indexed directly.
    step_size : float
        > 0.
    batch_size : int
        Within [1, n].
    n_steps, epochs : int
        Exactly one of them; an epoch is ``ceil(n / batch_size)`` steps.
    loss : callable
        ``loss(output, target)`` -> one value per record, shape (B,). Cross-entropy by default.
    sampling : {"poisson", "shuffle"}
        Each record joins each batch with probability ``batch_size / n``; or all are visited once per epoch.
    noise_std, temperature : float, optional
        At most one of them: the noise per step, or the Langevin temperature, ``noise_std = sqrt(2 step_size)
        temperature``. None, or 0, is plain SGD.
    clip : float, optional
        Largest norm of a record's data gradient, by two backward passes (ghost clipping).
    privacy : Privacy or RecordBudgets, optional
        Differential privacy that the weights are to have: sets ``clip`` and ``noise_std``, and needs Poisson batches,
        which full ones are (``batch_size`` of all records). `RecordBudgets` keeps a budget for each record, needs full
        batches, and leaves records out of steps that they have no budget for.
    alpha : float
        L2 regularisation, >= 0.
    n_checkpoints : int
        Number N of windows or checkpoints; fewer if there are fewer steps.
    spacing : {"even", "geometric"}
        How they are spread over the steps.
    collect : {"batch", "checkpoint", "none"}
        ``"batch"``: in each window a record's norm is that of its last visit, taken in that step's own backward pass.
        ``"checkpoint"``: all records at the same weights, an extra pass each, timed.
    keep : {"norms", "weights", "both"}
        What is kept at those places. Weights need a folder; they still contain every record. ``"weights"`` collects
        nothing else.
    folder : path-like, optional
        Where the run is kept, and continued from.
    resume : bool
        Go on with the run in the folder if there is one, to the same bits on the same machine and thread count.
    overwrite : bool
        Replace a run in the folder.
    save_seconds : float
        The state is saved at the end of every window, and after this many seconds.
    seed : int, optional
        Of batches, noise and dropout, each a function of the seed and the step alone. 0 by default; with ``privacy``
        one that the operating system draws, which is kept for `resume` until the run ends, and then nowhere.
    device : torch.device or str, optional
        Where to train; where the model is by default.
    progress : bool
        Show a bar, on a terminal.

    Returns
    -------
    TrainingRun
        With `TrainingRun.privacy_losses` and `TrainingRun.proxies`: *estimates*; and with `TrainingRun.privacy`.

    Raises
    ------
    NonFiniteLossError
        If a loss is NaN or infinite: with the step and its batch. What was saved before stays.
    UnsupportedLayerError
        As `GradNorms`: batch normalisation in training mode, for one.
    FileExistsError
        If the folder holds something and neither ``resume`` nor ``overwrite`` is given.
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, or the run to go on with is of another model, dataset
        (its length, or its tensors) or setting.

    Notes
    -----
    In ``"batch"`` mode a record that a window does not visit carries its last norm and is counted
    (`TrainingRun.n_carried`); steps that are no record's last visit in their window cost nothing extra. A record never
    visited at all is measured at the final weights and listed.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 5), torch.arange(64) % 2
    >>> run = train(torch.nn.Linear(5, 2), (x, y), step_size=0.1, batch_size=16, epochs=20, noise_std=0.01,
    ...             n_checkpoints=5)
    >>> run.grad_norms.shape, run.privacy_losses(order=2.0).status
    ((64, 5), 'estimate')
    """
    require_model(model)
    place = place_of(model, device)
    records = Records(dataset, place)
    settings = settings_of(
        n=records.n, step_size=step_size, batch_size=batch_size, n_steps=n_steps, epochs=epochs, sampling=sampling,
        noise_std=noise_std, temperature=temperature, clip=clip, alpha=alpha, n_checkpoints=n_checkpoints,
        spacing=spacing, collect=collect, keep=keep, seed=seed, loss=loss, privacy=privacy,
        parameters=[p for p in model.parameters() if p.requires_grad],
    )  # fmt: skip
    if keep != "norms" and folder is None:
        raise ValueError(f"keep={keep!r} needs a folder to keep weights in")
    if settings["collect"] != "none" or settings["clip"] is not None:
        with GradNorms(model):  # refuses what it can refuse now, before anything is written
            pass
    model.to(place)
    description = {"model": describe_model(model), "dataset": records.description(), "settings": settings}
    store = None if folder is None else RunFolder(folder)
    saved = None if store is None else store.begin(description, resume=resume, overwrite=overwrite)
    if store is not None and saved is not None and saved.get("finished"):
        model.load_state_dict(store.read_final())
        return TrainingRun.load(store.path)
    loop = _Loop(model, records, settings, loss, store, number("save_seconds", save_seconds, low=0.0))
    if store is not None and saved is not None:
        loop.restore(store)
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            return loop.run(description, progress=progress)
        finally:
            loop.step.close()


@dataclass
class _Loop:
    """One run under way."""

    model: nn.Module
    records: Records
    settings: dict[str, Any]
    loss: Loss
    store: RunFolder | None
    save_seconds: float
    columns: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    start: int = 0
    column: int = 0
    train_seconds: float = 0.0
    collect_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.watch = None if self.settings["privacy"] is None else Watch(self.model, self.loss)
        self.keeper = self._budgets()
        self._with_seed(self.settings["seed"] if self.settings["seed"] is not None else secrets.randbits(128))
        self._collecting()

    def _budgets(self) -> BudgetKeeper | None:
        s = self.settings
        if s["privacy"] is None or "budgets" not in s["privacy"]:
            return None
        return BudgetKeeper(
            s["privacy"], n=self.records.n, noise_std=s["noise_std"], step_size=s["step_size"],
            batch_size=s["batch_size"],
        )  # fmt: skip

    def _with_seed(self, seed: int) -> None:
        """Take batches and noise from this seed."""
        s, self.seed = self.settings, seed
        self.batches = Batches(self.records.n, batch_size=s["batch_size"], sampling=s["sampling"], seed=seed)
        self.step = Step(
            self.model, loss=self.loss, step_size=s["step_size"], batch_size=s["batch_size"],
            noise_std=s["noise_std"], alpha=s["alpha"], clip=s["clip"], seed=seed, watch=self.watch,
            keeper=self.keeper,
        )  # fmt: skip

    def _collecting(self) -> None:
        s = self.settings
        double = any(p.dtype == torch.float64 for p in self.step.parameters)
        self.collector = Collector(self.records.n, np.dtype(np.float64 if double else np.float32))
        self.by_checkpoint = s["collect"] == "checkpoint"
        if self.by_checkpoint:
            self.marks = checkpoint_steps(n_steps=s["n_steps"], n_checkpoints=s["n_checkpoints"], spacing=s["spacing"])
        else:
            self.marks = window_ends(n_steps=s["n_steps"], n_windows=s["n_checkpoints"], spacing=s["spacing"])
        self.last_visits = np.empty(0, dtype=np.int64)
        self.began = self.saved_at = 0.0

    def restore(self, store: RunFolder) -> None:
        """Go on where the folder's state is."""
        state = store.read_state()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.collector.restore(state["arrays"])
        if self.keeper is not None:
            self.keeper.restore(state["arrays"])
        self.start, self.column = state["step"], state["column"]
        if "secret" in state:
            self._with_seed(int(state["secret"], 16))
        self.train_seconds, self.collect_seconds = state["train_seconds"], state["collect_seconds"]
        if self.settings["collect"] != "none":
            self.columns = [store.read_arrays(str(k)) for k in range(self.column)]

    def run(self, description: dict[str, Any], *, progress: bool) -> TrainingRun:
        """Take the remaining steps."""
        n_steps, before = self.settings["n_steps"], (self.train_seconds, self.collect_seconds)
        self.began = self.saved_at = time.perf_counter()
        bar = tqdm(total=n_steps, initial=self.start, unit="step", disable=None if progress else True)
        with bar:
            self._prepare(self.start)
            for t in range(self.start, n_steps):
                if self.by_checkpoint and self.column < self.marks.size and t == self.marks[self.column]:
                    self._measure_all(t)
                    self._close_column()
                    self._save(t, before)
                self._take(t)
                if not self.by_checkpoint and t + 1 == self.marks[self.column]:
                    if t + 1 == n_steps:
                        never = self._measure_unseen(t)
                    self._close_column()
                    if t + 1 < n_steps:
                        self._prepare(t + 1)
                        self._save(t + 1, before)
                elif time.perf_counter() - self.saved_at > self.save_seconds:
                    self._save(t + 1, before)
                bar.update()
        if self.by_checkpoint:
            never = np.empty(0, dtype=np.int64)
        return self._finish(description, never, before)

    def _prepare(self, t: int) -> None:
        """Find out which steps of the window that step ``t`` is in are some record's last visit."""
        if self.settings["collect"] == "batch":
            start = int(self.marks[self.column - 1]) if self.column else 0
            self.last_visits = self.batches.last_visits(start, int(self.marks[self.column]))

    def _take(self, t: int) -> None:
        rows = self.batches(t) if self.keeper is None else self.keeper.rows(self.batches(t))
        norms = self.settings["collect"] == "batch" and bool((self.last_visits[rows] == t).any())
        x, y = self.records.batch(rows) if rows.size else (torch.empty(0), torch.empty(0))
        visit = self.step(t, rows, x, y, norms=norms)
        if visit is not None and self.settings["collect"] != "none":
            # Clipping found them, but another visit of the window is the last, unless a record is barred here.
            if not norms and not (self.keeper is not None and bool((self.keeper.barred_at == t).any())):
                visit.norms = None
            self.collector.visit(t, visit)

    def _measure(self, t: int, rows: NDArray[np.int64]) -> None:
        """Take norms of ``rows`` at the weights as they are."""
        seed_randomness(stream_seed(self.seed, "measure", t))
        self.step.close()
        size = max(self.settings["batch_size"], 256)
        for low in range(0, rows.size, size):
            some = rows[low : low + size]
            x, y = self.records.batch(some)
            with GradNorms(self.model, param_grads=False, threads=torch.get_num_threads()) as g:
                output = self.model(x)
                losses = per_record_losses(self.loss, output, y, some.size)
                losses.sum().backward()
                norms = g.norms()
            visit = Visit.detached(some, output, y, losses, norms)
            check_finite(visit.losses, step=t, rows=some)
            self.collector.visit(t, visit, training=False)

    def _measure_all(self, t: int) -> None:
        started = time.perf_counter()
        self._measure(t, np.arange(self.records.n))
        self.collect_seconds += time.perf_counter() - started

    def _measure_unseen(self, t: int) -> NDArray[np.int64]:
        if self.settings["collect"] == "none":
            return np.empty(0, dtype=np.int64)
        never = self.collector.never_visited()
        self._measure(t, never)
        return never

    def _close_column(self) -> None:
        if self.settings["collect"] != "none":
            values = self.collector.column()
            self.columns.append(values)
            if self.store is not None:
                self.store.write_arrays(str(self.column), values)
        if self.store is not None and self.settings["keep"] != "norms":
            self.store.write_weights(self.column, self.model)
        self.column += 1

    def _clock(self, before: tuple[float, float]) -> None:
        total = time.perf_counter() - self.began
        self.train_seconds = before[0] + total - (self.collect_seconds - before[1])

    def _save(self, step: int, before: tuple[float, float]) -> None:
        if self.store is None:
            return
        self._clock(before)
        numbers: dict[str, Any] = {
            "step": step,
            "column": self.column,
            "train_seconds": self.train_seconds,
            "collect_seconds": self.collect_seconds,
        }
        if self.settings["seed"] is None:
            numbers["secret"] = f"{self.seed:x}"
        kept = {} if self.keeper is None else self.keeper.state()
        self.store.write_state(self.model, numbers, {**self.collector.state(), **kept})
        self.saved_at = time.perf_counter()

    def _finish(
        self, description: dict[str, Any], never: NDArray[np.int64], before: tuple[float, float]
    ) -> TrainingRun:
        if self.watch is not None:
            self.watch.look_at_still()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NonFiniteLossError(
                    step=self.settings["n_steps"] - 1,
                    batch=tuple(self.batches(self.settings["n_steps"] - 1).tolist()),
                    records=(),
                ) from ValueError(f"the last step left {name} not finite")
        self._clock(before)
        summary = {"forgetting_events": self.collector.forgetting_events(), "never_visited": never}
        if self.keeper is not None:
            summary |= self.keeper.account()
        numbers = {
            "train_seconds": self.train_seconds,
            "collect_seconds": self.collect_seconds,
            "marks": self.marks.tolist(),
        }
        if self.store is not None:
            self.store.write_arrays("summary", summary)
            self.store.finish({**description, **numbers}, self.model)
        run = assemble(self.settings, self.columns, self.marks, {**numbers, **summary}, self.store)
        return run if run.privacy is None else replace(run, final_tensors=digests_of(self.model.state_dict()))
