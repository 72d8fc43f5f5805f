"""Influence of each record on the last layer of a network, its features held fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge._types import MapDataset
from expunge._validate import choice
from expunge.accounting import Estimate
from expunge.evaluation.influence import influence
from expunge.evaluation.networks.predict import as_dataset, batches, evaluating

__all__ = ["last_layer_influence"]

_MOST_JOINT = 5000  # parameters of one softmax, whose Hessian has their number squared


def last_layer_influence(
    model: nn.Module, data: MapDataset, *, alpha: float, loss: str | None = None, batch_size: int = 512
) -> Estimate:
    """Return the influence of each record on a head fitted to what the last layer of a classifier reads: an *estimate*.

    The features of all records are computed in eval mode; a head with the last layer's shape, its bias included where
    it has one, is fitted to them by Newton's method with a penalty; `expunge.evaluation.influence` of it is returned.

    Parameters
    ----------
    model : torch.nn.Module
        Returns what a ``torch.nn.Linear`` returns, logits of shape (B, C), or (B, 1) for two classes. Its modes are
        restored.
    data : torch.utils.data.Dataset of (input, label), or (inputs, labels)
        The records of training. Labels are numbers of classes.
    alpha : float
        Strength of the penalty ``alpha/2 |theta|^2`` on the head beside the *sum* of losses: the number of records
        times a weight decay beside their mean.
    loss : {"softmax", "logistic"}, optional
        One softmax, or each class against the rest. Softmax is the default up to 5,000 parameters.
    batch_size : int
        Records of a batch.

    Returns
    -------
    Estimate of shape (n,)
        In the order of ``data``.

    Raises
    ------
    TypeError, ValueError
        If ``data`` is empty or not of pairs, the model does not end in a linear layer that reads one vector a record,
        features are not finite, or an argument is out of range.
    RuntimeError
        If the head's optimum cannot be reached; the message has the remedy.

    Notes
    -----
    An estimate for three reasons: the features were learned from the record too, and are held fixed; the head is not
    the one that training ended with, but the optimum on these features; the step is of first order.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> data = torch.randn(30, 4), torch.arange(30) % 3
    >>> found = last_layer_influence(model, data, alpha=1.0)
    >>> found.shape, found.status, bool((found > 0).all())
    ((30,), 'estimate', True)
    """
    if loss is not None:
        choice("loss", loss, ("softmax", "logistic"))
    layer, features, labels = _read(model, as_dataset(data), batch_size)
    if layer.bias is not None:
        features = np.hstack([features, np.ones((len(features), 1))])
    n_classes = max(2, layer.out_features)
    joint = n_classes * features.shape[1] <= _MOST_JOINT
    if layer.out_features == 1:
        if loss == "softmax":
            raise ValueError("loss must be 'logistic' for a last layer with one output, got 'softmax'")
        joint = False
    kind = loss or ("softmax" if joint else "logistic")
    return influence(features, labels, loss=kind, alpha=alpha, n_classes=n_classes)


def _read(model: nn.Module, dataset: Any, batch_size: int) -> tuple[nn.Linear, NDArray[np.float64], NDArray[np.int64]]:
    """Return the last layer, what it reads of every record, and labels."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        calls.append((layer, inputs[0], output))

    layers: set[nn.Linear] = set()
    features, labels = [], []
    with evaluating(model):
        hooks = [one.register_forward_hook(keep) for one in model.modules() if isinstance(one, nn.Linear)]
        try:
            with torch.no_grad():
                for x, y in batches(dataset, model, batch_size):
                    calls.clear()
                    output = model(x)
                    last = next((call for call in reversed(calls) if call[2] is output), None)
                    if last is None or last[1].ndim != 2 or len(last[1]) != len(x):
                        raise ValueError(
                            "model must return what a torch.nn.Linear makes of one vector a record; this one ends in "
                            "something else: pass the features and labels to expunge.evaluation.influence"
                        )
                    layers.add(last[0])
                    features.append(last[1].double().cpu().numpy())
                    labels.append(np.asarray(y.cpu().numpy()))
        finally:
            for hook in hooks:
                hook.remove()
    if len(layers) != 1:
        raise ValueError(f"model must end in the same layer for every batch, got {len(layers)} layers")
    return layers.pop(), np.concatenate(features), np.concatenate(labels)
