"""Loss barriers between networks on the linear path, after weight matching."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from tqdm.auto import tqdm

from expunge._types import MapDataset
from expunge._validate import count
from expunge.evaluation.barrier import LossBarrier, barrier_from_losses
from expunge.evaluation.networks.matching import match_weights
from expunge.evaluation.networks.permutations import PermutationSpec, permuted
from expunge.evaluation.networks.predict import as_dataset, batches, evaluating, predict
from expunge.evaluation.networks.tracing import permutation_spec
from expunge.evaluation.networks.verification import refuse_hooks, verify_structure

_VERIFIED = 64  # records on which the permuted model must give the outputs of the model

__all__ = ["loss_barrier", "pairwise_barriers", "reset_batch_norm"]


class _Enough(Exception):  # noqa: N818 - a signal, not an error
    """The layer that is measured has seen this batch: the rest of the model need not run."""


class _Meter:
    """Mean and population variance of what enters one layer of batch normalisation, over all batches.

    While it is attached, each call of the layer is normalised by that call's own statistics.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.n_calls = 0
        self.size = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].detach().double().transpose(0, 1).flatten(1)
        size, mean = values.shape[1], values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        self._write(mean, squares / size)
        # Merged by their sizes: a batch counts by its records (Chan, Golub, LeVeque 1983).
        away, total = mean - self.mean, self.size + size
        self.squares = self.squares + squares + away.square() * (self.size * size / total)
        self.mean, self.size = self.mean + away * (size / total), total
        self.n_calls += 1

    def _write(self, mean: Tensor, variance: Tensor) -> None:
        for buffer, value in ((self.layer.running_mean, mean), (self.layer.running_var, variance)):
            if buffer is not None:
                buffer.copy_(value)

    def finish(self) -> None:
        """Write what was found over all batches; a layer that was never called keeps what it has."""
        if self.size and isinstance(self.mean, Tensor) and isinstance(self.squares, Tensor):
            self._write(self.mean, self.squares / self.size)


def reset_batch_norm(model: nn.Module, data: MapDataset, *, batch_size: int = 512) -> bool:
    """Set the running statistics of batch normalisation to those of ``data``; return whether there are any.

    Interpolated weights have other activations than either end, and statistics between the ends' are wrong for them.
    Each layer gets the mean and the population variance of its inputs over all records, every record counting once
    whatever batch it came in, with the layers before it already set. Data of several batches are run once for each
    layer, up to that layer.

    Parameters
    ----------
    model : torch.nn.Module
        Its statistics change, nothing else.
    data : torch.utils.data.Dataset of (input, label), or (inputs, labels)
    batch_size : int
        Records held at a time; no influence on the result, unless a layer is called several times in one pass.

    Raises
    ------
    ValueError
        If instance normalisation keeps running statistics: those are not reset.

    Examples
    --------
    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> reset_batch_norm(model, (torch.tensor([[1.0], [3.0], [8.0]]), torch.zeros(3)), batch_size=2)
    True
    >>> model[0].running_mean.tolist()
    [4.0]
    """
    for name, module in model.named_modules():
        if isinstance(module, _InstanceNorm) and module.running_mean is not None:
            raise ValueError(f"model must not keep running statistics of instance normalisation, as {name!r} does")
    meters = {m: _Meter(m) for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not meters:
        return False
    dataset = as_dataset(data)
    with evaluating(model), torch.no_grad():
        if len(dataset) <= count("batch_size", batch_size, low=1):  # type: ignore[arg-type]
            _measure(model, dataset, list(meters.values()), batch_size)
        else:
            for layer, n_calls in _calls(model, dataset, list(meters)).items():
                _measure(model, dataset, [meters[layer]], batch_size, stop_after=n_calls)
    return True


def _calls(model: nn.Module, dataset: Any, layers: list[_BatchNorm]) -> dict[_BatchNorm, int]:
    """How often each layer is called on two records, in the order of first calls."""
    found: dict[_BatchNorm, int] = {}

    def seen(layer: _BatchNorm, _: Any) -> None:
        found[layer] = found.get(layer, 0) + 1

    handles = [layer.register_forward_pre_hook(seen) for layer in layers]
    try:
        model(next(batches(dataset, model, 2))[0])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _measure(
    model: nn.Module, dataset: Any, meters: Sequence[_Meter], batch_size: int, *, stop_after: int | None = None
) -> None:
    def enough(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == stop_after:
            raise _Enough

    handles = [meter.layer.register_forward_pre_hook(meter) for meter in meters]
    if stop_after is not None:
        handles.append(meters[0].layer.register_forward_pre_hook(enough))
    try:
        for x, _ in batches(dataset, model, batch_size):
            calls = [0]
            with contextlib.suppress(_Enough):
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    for meter in meters:
        meter.finish()


def _between(a: dict[str, Tensor], b: dict[str, Tensor], t: float) -> dict[str, Tensor]:
    return {
        name: torch.lerp(tensor, b[name].to(tensor.device), t) if tensor.is_floating_point() else tensor
        for name, tensor in a.items()
    }


def loss_barrier(
    model_a: nn.Module,
    model_b: nn.Module,
    data: MapDataset,
    *,
    match: bool = True,
    spec: PermutationSpec | None = None,
    statistics: MapDataset | None = None,
    n_points: int = 25,
    n_starts: int = 1,
    batch_size: int = 512,
    seed: int = 0,
) -> LossBarrier:
    """Return the barrier of the mean cross-entropy on the linear path from A to B.

    max over t of loss((1-t) A + t pi(B)) - ((1-t) loss(A) + t loss(B)), pi by weight matching. An *estimate*: a better
    matching may leave less.

    Parameters
    ----------
    model_a, model_b : torch.nn.Module
        Of one architecture, returning logits; neither is changed.
    data : torch.utils.data.Dataset of (input, label), or (inputs, labels)
        Where the loss is taken.
    match : bool, default True
        Permute B's units first.
    spec : PermutationSpec, optional
        Derived from A by default (`permutation_spec`).
    statistics : data, optional
        What batch normalisation's statistics are reset to at every point, the ends included; ``data`` by default. Only
        used by models that have some.
    n_points : int, default 25
        Evenly from 0 to 1, both included.
    n_starts, seed : int
        Of `match_weights`.
    batch_size : int

    Returns
    -------
    LossBarrier

    Raises
    ------
    ValueError
        If a loss is not finite, the architectures differ, or the permuted B is another function than B (tested in
        float64 on data, and with random parameters): then the specification is wrong.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> data = torch.eye(2), torch.tensor([0, 1])
    >>> loss_barrier(model, model, data).barrier < 1e-6
    True
    """
    dataset = as_dataset(data)
    n_points = count("n_points", n_points, low=3)
    for_statistics = dataset if statistics is None else as_dataset(statistics)
    walker = copy.deepcopy(model_a)

    def loss(state: dict[str, Tensor]) -> float:
        walker.load_state_dict(state)
        reset_batch_norm(walker, for_statistics, batch_size=batch_size)
        return float(predict(walker, dataset, batch_size=batch_size).losses.mean())

    start, end = ({k: v.detach().clone() for k, v in m.state_dict().items()} for m in (model_a, model_b))
    if {k: v.shape for k, v in start.items()} != {k: v.shape for k, v in end.items()}:
        raise ValueError("model_b must have the architecture of model_a; their states differ")
    if match:
        inputs = next(batches(dataset, model_a, min(batch_size, _VERIFIED)))[0]
        if spec is None:
            spec = permutation_spec(model_a, inputs[:2])
        else:
            refuse_hooks(model_b)
            verify_structure(model_b, spec, inputs[:2])
        matching = match_weights(model_a, model_b, spec, inputs=inputs, n_starts=n_starts, seed=seed)
        end = permuted(end, spec, matching.permutations)
    t = np.linspace(0.0, 1.0, n_points)
    losses = [loss(_between(start, end, float(at))) for at in tqdm(t, desc="loss barrier", unit="point", disable=None)]
    return barrier_from_losses(t, losses, matched=match)


def pairwise_barriers(models: Sequence[nn.Module], data: MapDataset, **settings: object) -> list[LossBarrier]:
    """Return the barriers between all pairs of retrained models: the baseline of every other barrier.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        Two at least.
    data, **settings
        As `loss_barrier` takes them.

    Examples
    --------
    >>> models = [nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(3)]
    >>> len(pairwise_barriers(models, (torch.eye(2), torch.tensor([0, 1]))))
    3
    """
    if len(models) < 2:
        raise ValueError(f"models must hold at least two, got {len(models)}")
    given: dict[str, Any] = settings
    return [loss_barrier(a, b, data, **given) for a, b in combinations(models, 2)]
