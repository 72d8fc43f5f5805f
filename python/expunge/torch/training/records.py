"""Records of a dataset by row: tensors in memory stay tensors, anything else is collated as a DataLoader does."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset, TensorDataset, default_collate

__all__ = ["Records"]


class Records:
    """Inputs and targets of a map-style dataset, on one device.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset, or pair of tensors
        Items are (input, target). A ``TensorDataset``, a ``Subset`` of one and a pair of tensors are indexed directly.
    device : torch.device
        Where batches go.
    """

    def __init__(self, dataset: Any, device: torch.device) -> None:
        self.device = device
        self.tensors = _tensors(dataset)
        self._dataset = dataset
        if self.tensors is not None:
            x, y = self.tensors
            if len(x) != len(y):
                raise ValueError(f"dataset must have one target per input, got {len(y)} for {len(x)}")
            self.tensors = (x.to(device), y.to(device))
            self.n = len(x)
        else:
            if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
                raise TypeError(f"dataset must have a length and items by row, got {type(dataset).__name__}")
            self.n = len(dataset)
        if self.n == 0:
            raise ValueError("dataset must hold at least one record, got none")

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of ``rows``."""
        if self.tensors is not None:
            at = torch.from_numpy(rows).to(self.device)
            x, y = self.tensors
            return x.index_select(0, at), y.index_select(0, at)
        if len(self._dataset) != self.n:
            raise ValueError(f"the dataset's length changed from {self.n} to {len(self._dataset)} during training")
        x, y = default_collate([self._dataset[int(row)] for row in rows])
        return x.to(self.device), y.to(self.device)

    def description(self) -> dict[str, Any]:
        """Return what tells this dataset from another: its length and, for tensors, a digest of their content."""
        if self.tensors is None:
            return {"n_records": self.n}
        sha = hashlib.sha256()
        for tensor in self.tensors:
            values = tensor.detach().cpu().contiguous()
            sha.update(f"{tuple(values.shape)}:{values.dtype};".encode())
            sha.update(values.view(torch.uint8).numpy().tobytes() if values.numel() else b"")
        return {"n_records": self.n, "sha256": sha.hexdigest()}


def _tensors(dataset: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(dataset, tuple) and len(dataset) == 2 and all(isinstance(part, Tensor) for part in dataset):
        return dataset
    if isinstance(dataset, TensorDataset):
        if len(dataset.tensors) != 2:
            raise ValueError(f"dataset must hold inputs and targets, got {len(dataset.tensors)} tensors")
        return dataset.tensors[0], dataset.tensors[1]
    if isinstance(dataset, Subset):
        whole = _tensors(dataset.dataset)
        if whole is not None:
            rows = torch.as_tensor(np.asarray(dataset.indices, dtype=np.int64))
            return whole[0][rows], whole[1][rows]
    return None
