"""Gaussian poisons: noise added to the records to be forgotten before training, to measure what is left of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import Dataset

from expunge._types import MapDataset
from expunge._validate import count, number, row_indices
from expunge.evaluation.gus import GaussianUnlearningScore, gaussian_unlearning_score
from expunge.evaluation.networks.predict import as_dataset, device_of, evaluating

__all__ = ["PoisonedDataset", "poison_scores"]


class PoisonedDataset(Dataset[Any]):
    """A data set whose records to be forgotten carry fixed Gaussian noise.

    Record i of ``indices`` is x_i + xi_i, always with the same xi_i ~ N(0, sigma^2 I): it depends on ``seed`` and i
    alone, not on the order of access, and `poison` returns it. Other records are as they were.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset of (input, label), or (inputs, labels)
        Inputs are floating-point tensors.
    indices : array-like of int
        Records to poison: the forget set. Distinct.
    sigma : float
        Standard deviation of the noise, > 0, in the units of the inputs.
    seed : int

    Raises
    ------
    TypeError, ValueError
        If an index is outside the data or twice there, or the inputs are not floating-point.

    Examples
    --------
    >>> data = PoisonedDataset((torch.zeros(4, 2), torch.arange(4)), [1, 3], sigma=0.5, seed=7)
    >>> bool(torch.equal(data[3][0], data.poison(3))), data[0][0].tolist()
    (True, [0.0, 0.0])
    """

    def __init__(self, dataset: MapDataset, indices: ArrayLike, *, sigma: float, seed: int) -> None:
        self.clean = as_dataset(dataset)
        self.indices = row_indices("indices", indices, len(self))
        self.sigma = number("sigma", sigma, low=0, open_low=True)
        self.seed = count("seed", seed)
        if self.seed >= 2**63:
            raise ValueError(f"seed must be < 2^63, got {seed}")
        self._poisoned = frozenset(self.indices.tolist())
        x = self.clean[int(self.indices[0])][0]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"dataset must give floating-point tensors, got {getattr(x, 'dtype', type(x).__name__)}")

    def __len__(self) -> int:
        size: int = len(self.clean)  # type: ignore[arg-type]
        return size

    def __getitem__(self, index: int) -> Any:
        """Return record ``index``, poisoned if it is to be forgotten."""
        place = int(index)
        place += len(self) if place < 0 else 0
        x, y = self.clean[place][:2]
        return (x + self.poison(place), y) if place in self._poisoned else (x, y)

    def poison(self, record: int) -> Tensor:
        """Return the noise of a record to be forgotten, of the shape and dtype of its input."""
        place = int(record)
        if place not in self._poisoned:
            raise ValueError(f"record must be one of the poisoned, got {place}")
        x = self.clean[place][0]
        stream = np.random.Generator(np.random.Philox(key=np.array([self.seed, place], dtype=np.uint64)))
        noise = self.sigma * stream.standard_normal(tuple(x.shape))
        return torch.from_numpy(np.asarray(noise)).to(x.dtype)


def poison_scores(
    model: nn.Module, data: PoisonedDataset, *, batch_size: int = 256, confidence: float = 0.95
) -> GaussianUnlearningScore:
    """Return the Gaussian Unlearning Score of a classifier on its poisoned records.

    Gradients of the cross-entropy with respect to the input are taken at the clean records, in eval mode: at the
    poisoned ones they would depend on the noise even in a model that never saw it.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits; examples must not interact. In float64 more of the gradients of a sure model are non-zero.
    data : PoisonedDataset
        That the original model was trained on.
    batch_size : int
    confidence : float, default 0.95

    Returns
    -------
    GaussianUnlearningScore
        One score per record of ``data.indices``, in that order.

    Raises
    ------
    ValueError
        If every gradient is zero or one is not finite.

    Examples
    --------
    >>> data = PoisonedDataset((torch.zeros(40, 3), torch.zeros(40, dtype=torch.int64)), range(40), sigma=1.0, seed=1)
    >>> poison_scores(torch.nn.Linear(3, 2), data).n_used
    40
    """
    if not isinstance(data, PoisonedDataset):
        raise TypeError(f"data must be a PoisonedDataset, got {type(data).__name__}")
    size = count("batch_size", batch_size, low=1)
    device = device_of(model)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    poisons, gradients = [], []
    with evaluating(model), torch.enable_grad():
        for start in range(0, len(data.indices), size):
            rows = data.indices[start : start + size].tolist()
            records = [data.clean[row] for row in rows]
            x = torch.stack([record[0] for record in records]).to(device, dtype).requires_grad_()
            y = torch.as_tensor([int(record[1]) for record in records], device=device)
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
            gradients.append(gradient.double().cpu())
            poisons.append(torch.stack([data.poison(row).double() for row in rows]))
    return gaussian_unlearning_score(
        torch.cat(poisons).numpy(), torch.cat(gradients).numpy(), sigma=data.sigma, confidence=confidence
    )
