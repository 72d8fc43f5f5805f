"""Loss barriers between networks on the linear path, after weight matching."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from expunge._validate import count
from expunge.evaluation.barrier import LossBarrier, barrier_from_losses
from expunge.evaluation.networks.matching import match_weights
from expunge.evaluation.networks.permutations import PermutationSpec, permuted
from expunge.evaluation.networks.predict import as_dataset, batches, evaluating, predict
from expunge.evaluation.networks.tracing import permutation_spec

__all__ = ["loss_barrier", "pairwise_barriers", "reset_batch_norm"]


def reset_batch_norm(model: nn.Module, data: Any, *, batch_size: int = 512) -> bool:
    """Set the running statistics of batch normalisation to those of ``data``; return whether there are any.

    Interpolated weights have other activations than either end, and statistics between the ends' are wrong for them.

    Parameters
    ----------
    model : torch.nn.Module
        Its statistics change, nothing else.
    data : torch.utils.data.Dataset of (input, label), or (inputs, labels)
    batch_size : int

    Examples
    --------
    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> reset_batch_norm(model, (torch.tensor([[1.0], [3.0]]), torch.zeros(2)))
    True
    >>> model[0].running_mean.tolist()
    [2.0]
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        return False
    dataset = as_dataset(data)
    momenta = [layer.momentum for layer in layers]
    with evaluating(model), torch.no_grad():
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average over batches
            layer.training = True
        try:
            for x, _ in batches(dataset, model, batch_size):
                if len(x) > 1:
                    model(x)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    return True


def _between(a: dict[str, Tensor], b: dict[str, Tensor], t: float) -> dict[str, Tensor]:
    return {
        name: torch.lerp(tensor, b[name].to(tensor.device), t) if tensor.is_floating_point() else tensor
        for name, tensor in a.items()
    }


def loss_barrier(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Any,
    *,
    match: bool = True,
    spec: PermutationSpec | None = None,
    statistics: Any = None,
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
        If a loss is not finite, the architectures differ, or the permuted B has another loss than B: then the
        specification is wrong.

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
        if spec is None:
            spec = permutation_spec(model_a, next(batches(dataset, model_a, 2))[0])
        matching = match_weights(model_a, model_b, spec, n_starts=n_starts, seed=seed)
        before = loss(end)
        end = permuted(end, spec, matching.permutations)
        after = loss(end)
        # A change of order changes sums by their rounding; a wrong specification changes the function.
        precision = max(
            (torch.finfo(p.dtype).eps for p in model_b.parameters()), default=torch.finfo(torch.float32).eps
        )
        if not abs(after - before) <= 1e4 * precision * (1 + abs(before)):
            raise ValueError(
                f"spec must leave the function as it is: the permuted model_b has loss {after:.6g}, not {before:.6g}"
            )
    t = np.linspace(0.0, 1.0, n_points)
    losses = [loss(_between(start, end, float(at))) for at in tqdm(t, desc="loss barrier", unit="point", disable=None)]
    return barrier_from_losses(t, losses, matched=match)


def pairwise_barriers(models: Sequence[nn.Module], data: Any, **settings: Any) -> list[LossBarrier]:
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
    return [loss_barrier(a, b, data, **settings) for a, b in combinations(models, 2)]
