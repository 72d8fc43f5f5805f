"""Outputs of a network on a data set, as the arrays that the metrics take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from expunge._types import MapDataset
from expunge._validate import count
from expunge.evaluation.predictions import Predictions, predictions_from_logits

__all__ = ["as_dataset", "batches", "evaluating", "predict"]


def as_dataset(data: Any) -> Any:
    """Return ``data``, or the data set of a pair of tensors; refuses what is empty."""
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise ValueError(f"data must pair inputs with labels, got {len(data[0])} and {len(data[1])}")
        data = TensorDataset(*data)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(f"data must be a Dataset of (input, label) or a pair of tensors, got {type(data).__name__}")
    if len(data) == 0:
        raise ValueError("data must hold at least one record, got none")
    return data


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def batches(data: Any, model: nn.Module, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches in order, on the device of the model."""
    device = device_of(model)
    size = count("batch_size", batch_size, low=1)
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:  # slices, not one record at a time
        x, y = data.tensors
        for start in range(0, len(x), size):
            yield x[start : start + size].to(device), y[start : start + size].to(device)
        return
    for x, y in DataLoader(data, batch_size=size):
        yield x.to(device), y.to(device)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and restore the mode of every module afterwards."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: nn.Module, data: MapDataset, *, batch_size: int = 512) -> Predictions:
    """Return losses, logit margins and correctness of a classifier on every record, in eval mode.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits of shape (B, C); its modes are restored. Batches go to the device of its parameters.
    data : torch.utils.data.Dataset of (input, label), or (inputs, labels)
    batch_size : int

    Returns
    -------
    Predictions
        In the order of ``data``.

    Raises
    ------
    TypeError, ValueError
        If ``data`` is empty or not of pairs, or a logit is not finite.

    Examples
    --------
    >>> data = torch.eye(3), torch.tensor([0, 1, 0])
    >>> predict(torch.nn.Identity(), data).correct.tolist()
    [True, True, False]
    """
    dataset = as_dataset(data)
    logits, labels = [], []
    with evaluating(model), torch.no_grad():
        for x, y in batches(dataset, model, batch_size):
            logits.append(model(x).double().cpu())
            labels.append(y.cpu())
    return predictions_from_logits(torch.cat(logits).numpy(), torch.cat(labels).numpy())
