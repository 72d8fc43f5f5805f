"""Training of many small networks at once: each as if it were trained alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event, Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm.auto import tqdm

from expunge._types import JsonObject, MapDataset
from expunge._validate import count, row_indices
from expunge.torch._arguments import place_of, require_model
from expunge.torch.ensemble.group import Data, Group, Member, put
from expunge.torch.ensemble.plan import NotUnderstoodError, Plan, plan_of
from expunge.torch.training.errors import NonFiniteLossError
from expunge.torch.training.loop import train
from expunge.torch.training.records import Records
from expunge.torch.training.settings import settings_of
from expunge.torch.training.step import Loss, cross_entropy

__all__ = ["EnsembleRun", "train_many"]


@dataclass(frozen=True, kw_only=True)
class EnsembleRun:
    """How an ensemble was trained. Made by `train_many`.

    Attributes
    ----------
    settings : dict
        Arguments as JSON values.
    seeds : tuple of int
        Of the members.
    n_steps : tuple of int
        Steps of each member; fewer were taken by those that failed.
    failures : dict of int to NonFiniteLossError
        Members whose loss or weights became NaN or infinite, with what `train` would have raised. Their models have the
        weights before the step that would have used it.
    one_by_one : str or None
        Why the members were trained one after the other; None if they were trained together.
    group_sizes : tuple of int
        Members that were trained at once.
    train_seconds : float
        Wall time.
    status : str
        ``"estimate"``: networks drawn by seeds stand for their law.
    """

    settings: JsonObject
    seeds: tuple[int, ...]
    n_steps: tuple[int, ...]
    failures: dict[int, NonFiniteLossError] = field(repr=False)
    one_by_one: str | None
    group_sizes: tuple[int, ...]
    train_seconds: float
    status: str = "estimate"

    def __str__(self) -> str:
        how = "together" if self.one_by_one is None else f"one by one, since {self.one_by_one}"
        failed = f"; {len(self.failures)} failed: {', '.join(map(str, self.failures))}" if self.failures else ""
        return f"{len(self.seeds)} models trained {how} in {self.train_seconds:.1f} s{failed} ({self.status})"


def train_many(
    models: Sequence[nn.Module],
    dataset: MapDataset,
    *,
    seeds: Sequence[int],
    subsets: Sequence[ArrayLike | None] | None = None,
    step_size: float,
    batch_size: int,
    n_steps: int | None = None,
    epochs: int | None = None,
    loss: Loss = cross_entropy,
    sampling: str = "poisson",
    noise_std: float | None = None,
    temperature: float | None = None,
    alpha: float = 0.0,
    memory_bytes: int = 1 << 30,
    threads: int | None = None,
    progress: bool = True,
) -> EnsembleRun:
    """Train many small networks in place, each as `train` would alone with its seed and records, to rounding.

    Start, batches and noise of a member are those that `train` gives it, whatever the others do.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        Members, of one architecture and different objects, with the weights that each starts from.
    dataset : torch.utils.data.Dataset, or pair of tensors
        Records of all members.
    seeds : sequence of int
        One per member, >= 0: of its batches and noise.
    subsets : sequence of (array_like of int, or None), optional
        For each member the rows it is trained on; None is all of them. Retrained models leave out a forget set.
    step_size, batch_size, n_steps, epochs, loss, sampling, noise_std, temperature, alpha
        As in `train`, the same for all members.
    memory_bytes : int
        Most memory for the weights of members trained at once; larger ensembles are trained in groups.
    threads : int, optional
        Threads that share the members; as many as PyTorch uses by default. Weights do not depend on it.
    progress : bool
        Show a bar, on a terminal.

    Returns
    -------
    EnsembleRun
        With the members that diverged, by number: the others are as without them.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, a model is given twice, seeds or subsets are not one per
        model, or not even one member fits into the memory.

    Notes
    -----
    Members are trained together, by a compiled kernel, where they are chains of ``Conv2d``, ``Linear``, ``GroupNorm``,
    ``LayerNorm`` (of vectors), ``ReLU``, ``MaxPool2d`` and ``Flatten`` on the CPU in float32 or float64, the loss is
    cross-entropy and the data are tensors. Gradients of a first batch are compared with PyTorch's. All other models
    are trained one after the other by `train`; `EnsembleRun.one_by_one` says why. There is no clipping, no
    differential privacy, no collecting and no folder to resume from: `train` has those.

    Examples
    --------
    >>> import torch
    >>> from expunge.torch.models import mlp
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 5), torch.arange(64) % 2
    >>> models = [mlp(input_shape=5, n_classes=2, hidden=(8,), seed=k) for k in range(4)]
    >>> run = train_many(models, (x, y), seeds=range(4), step_size=0.1, batch_size=16, epochs=5, noise_std=0.01)
    >>> run.one_by_one, run.n_steps, run.failures
    (None, (20, 20, 20, 20), {})
    """
    models = _checked_models(models)
    seeds = _one_each("seeds", seeds, len(models))
    own_seeds = tuple(count("seeds", seed) for seed in seeds)
    records = Records(dataset, torch.device("cpu"))
    rows = _rows(subsets, len(models), records.n)
    given = {
        "step_size": step_size, "batch_size": batch_size, "n_steps": n_steps, "epochs": epochs, "sampling": sampling,
        "noise_std": noise_std, "temperature": temperature, "alpha": alpha,
    }  # fmt: skip
    settings = [
        settings_of(
            n=records.n if subset is None else subset.size, loss=loss, seed=seed, clip=None, privacy=None,
            n_checkpoints=1, spacing="even", collect="none", keep="norms", parameters=[], **given,
        )
        for subset, seed in zip(rows, own_seeds, strict=True)
    ]  # fmt: skip
    memory = count("memory_bytes", memory_bytes, low=1)
    n_threads = torch.get_num_threads() if threads is None else count("threads", threads, low=1)
    steps = tuple(int(one["n_steps"]) for one in settings)
    failures: dict[int, NonFiniteLossError] = {}
    started, reason = time.perf_counter(), None
    with tqdm(total=sum(steps), unit="step", desc="train_many", disable=None if progress else True) as bar:
        members = [Member(*one) for one in zip(range(len(models)), models, rows, settings, strict=True)]
        try:
            plan = _common_plan(models, records, loss)
            sizes = _group_sizes(len(models), plan, memory)
            # Members of a group that take equally long leave no threads idle at its end.
            members.sort(key=lambda member: (member.n_steps, member.number))
            ends = np.cumsum([0, *sizes])
            groups = [members[low:high] for low, high in pairwise(ends)]
            data = Data(plan, *_tensors(records))
            for some in groups:
                Group(plan, data, some[:1], stop=Event()).check()
        except NotUnderstoodError as error:
            reason, sizes = str(error), (1,) * len(models)
            failures = _one_by_one(members, dataset, records, loss, given, bar)
        else:
            failures = _together(plan, data, groups, n_threads, bar)
    return EnsembleRun(
        settings={
            name: settings[0][name] for name in ("step_size", "batch_size", "sampling", "noise_std", "alpha", "loss")
        },
        seeds=own_seeds,
        n_steps=steps,
        failures=dict(sorted(failures.items())),
        one_by_one=reason,
        group_sizes=sizes,
        train_seconds=time.perf_counter() - started,
    )


def _checked_models(models: Any) -> list[nn.Module]:
    if isinstance(models, nn.Module) or not isinstance(models, Sequence):
        raise TypeError(f"models must be a sequence of torch.nn.Module, got {type(models).__name__}")
    for model in models:
        require_model(model)
    if not models:
        raise ValueError("models must hold at least one model, got none")
    held: dict[int, int] = {}
    for k, model in enumerate(models):
        for parameter in model.parameters():
            if held.setdefault(id(parameter), k) != k:
                raise ValueError(f"models must share no parameters: models {held[id(parameter)]} and {k} do")
    return list(models)


def _one_each(name: str, values: Any, n: int) -> list[Any]:
    try:
        found = list(values)
    except TypeError:
        raise TypeError(f"{name} must be a sequence, got {type(values).__name__}") from None
    if len(found) != n:
        raise ValueError(f"{name} must have one entry per model, {n}, got {len(found)}")
    return found


def _rows(subsets: Any, n_models: int, n_records: int) -> list[NDArray[np.int64] | None]:
    """Return the rows of each member, checked."""
    if subsets is None:
        return [None] * n_models
    given = _one_each("subsets", subsets, n_models)
    return [None if rows is None else row_indices(f"subsets[{k}]", rows, n_records) for k, rows in enumerate(given)]


def _common_plan(models: list[nn.Module], records: Records, loss: Loss) -> Plan:
    """Return the plan of all members.

    Raises
    ------
    NotUnderstoodError
        If they cannot be trained together.
    """
    if loss is not cross_entropy:
        raise NotUnderstoodError("the loss is not the cross-entropy that train has by default")
    x, y = _tensors(records)
    plan = plan_of(models[0], tuple(x.shape[1:]))
    for k, model in enumerate(models[1:], 1):
        if plan_of(model, tuple(x.shape[1:])) != plan:
            raise NotUnderstoodError(f"model {k} has other layers than model 0")
    if x.dtype != plan.tensors[0][2]:
        raise NotUnderstoodError(f"inputs have dtype {x.dtype} and parameters {plan.tensors[0][2]}")
    if y.ndim != 1 or y.dtype != torch.int64:
        raise NotUnderstoodError("targets are not class numbers, shape (n,), of int64")
    return plan


def _tensors(records: Records) -> tuple[Tensor, Tensor]:
    if records.tensors is None:
        raise NotUnderstoodError("the dataset is not tensors in memory")
    return records.tensors


def _group_sizes(n: int, plan: Plan, memory: int) -> tuple[int, ...]:
    """Return how many members are trained at once, in groups as equal as can be."""
    entries = sum(int(np.prod(shape)) for _, shape, _ in plan.tensors)
    each = 3 * entries * plan.tensors[0][2].itemsize  # weights, gradients, and what they end with
    if each > memory:
        raise ValueError(f"memory_bytes must be at least {each}, what one member needs, got {memory}")
    n_groups = -(-n // (memory // each))
    return tuple(n // n_groups + (k < n % n_groups) for k in range(n_groups))


def _together(
    plan: Plan, data: Data, groups: list[list[Member]], threads: int, bar: Any
) -> dict[int, NonFiniteLossError]:
    """Train groups of members, each on threads that share it; return the errors of members that diverged."""
    failures: dict[int, NonFiniteLossError] = {}
    stop, lock = Event(), Lock()

    def tick(steps: int) -> None:
        with lock:
            bar.update(steps)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for members in groups:
                # No thread waits for another, and PyTorch's own threads stay out of it: they spin.
                parts = [members[k::threads] for k in range(min(threads, len(members)))]
                jobs = [pool.submit(Group(plan, data, part, stop=stop).train, tick) for part in parts]
                for done in [job.result() for job in jobs]:
                    failures |= done.failures
                    for member, weights in done.ended:
                        put(member, weights)
        except BaseException:
            stop.set()
            raise
    return failures


def _one_by_one(
    members: list[Member], dataset: MapDataset, records: Records, loss: Loss, given: dict[str, Any], bar: Any
) -> dict[int, NonFiniteLossError]:
    """Train members one after the other; return the errors of those that diverged."""
    failures: dict[int, NonFiniteLossError] = {}
    for member in members:
        data: Any = dataset
        if member.rows is not None:
            at = torch.from_numpy(member.rows)
            data = Subset(dataset, member.rows.tolist()) if records.tensors is None else tuple(  # type: ignore[arg-type]
                part[at] for part in records.tensors
            )  # fmt: skip
        try:
            train(
                member.model, data, loss=loss, collect="none", seed=member.settings["seed"], progress=False,
                device=place_of(member.model, None), **given,
            )  # fmt: skip
        except NonFiniteLossError as error:
            failures[member.number] = error
        bar.update(member.n_steps)
    return failures
