"""Subjects of experiments: data sets as tensors, and networks that fit them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge import data
from expunge.experiments.settings import Settings
from expunge.torch.models import mlp, resnet18, small_cnn, small_vit

__all__ = ["Subject", "build", "load", "source_of"]

_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


@dataclass(frozen=True)
class Subject:
    """Records to train on and to test with."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        """The pair that training takes."""
        return self.x, self.y

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """The pair that testing takes."""
        return self.x_test, self.y_test

    def without(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the pair without some records."""
        kept = torch.ones(len(self.y), dtype=torch.bool)
        kept[torch.from_numpy(np.array(rows))] = False
        return self.x[kept], self.y[kept]


def source_of(name: str, data_folder: str | None) -> tuple[str | Path, float]:
    """Return where the records of images are, and what to divide their pixels by."""
    if name == "digits":
        return "digits", 16.0
    folder = Path(str(data_folder))
    if not folder.exists():
        raise FileNotFoundError(f"data_folder: there is no folder {folder}")
    if folder.is_file():
        return folder, 255.0
    if name == "cifar10" and any(folder.glob("data_batch_*")):
        return folder, 255.0
    pattern = "*images*ubyte*" if name == "mnist" else "*cifar*.npz"
    files = sorted(folder.glob(pattern), key=lambda file: ("train" not in file.name, file.name))
    if not files:
        raise FileNotFoundError(f"data_folder: {folder} holds no {name} (looked for {pattern})")
    return files[0], 255.0


def load(settings: Settings) -> Subject:
    """Return the records, split the same way for every seed."""
    source, scale = source_of(settings.data, settings.data_folder)
    found = data.load(source, divide_by=scale)
    if found.y is None:
        raise ValueError(f"data_folder: {source} has no labels beside it")
    needed = settings.n_train + settings.n_test
    if len(found.X) < needed:
        raise ValueError(f"n_train + n_test must be at most {len(found.X)}, the records of {source}, got {needed}")
    order = np.random.default_rng(0).permutation(len(found.X))[:needed]
    x = torch.from_numpy(found.X[order].astype(np.float32)).reshape(-1, *_SHAPES[settings.data])
    y = torch.from_numpy(np.asarray(found.y, dtype=np.int64)[order])
    n = settings.n_train
    return Subject(x[:n], y[:n], x[n:], y[n:])


def build(settings: Settings, seed: int) -> nn.Module:
    """Return an untrained network."""
    shape = _SHAPES[settings.data]
    if settings.model == "strided":
        return _strided(shape, settings.width, seed)
    if settings.model == "cnn":
        return small_cnn(input_shape=shape, width=settings.width, seed=seed)
    if settings.model == "mlp":
        return mlp(input_shape=shape, hidden=(settings.width,), seed=seed)
    if settings.model == "resnet18":
        return resnet18(input_shape=shape, width=settings.width, seed=seed)
    patch = 2 if shape[1] == 8 else 4
    return small_vit(input_shape=shape, patch=patch, dim=settings.width, depth=2, seed=seed)


def _strided(shape: tuple[int, int, int], width: int, seed: int) -> nn.Module:
    """Return two strided convolutions with GroupNorm and a dense layer: small, fast, and it memorises."""
    side = -(-shape[1] // 4)  # halved twice, rounded up
    norms = [nn.GroupNorm(math.gcd(4, one), one) for one in (width, 2 * width)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(shape[0], width, 3, stride=2, padding=1), norms[0], nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), norms[1], nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * width * side * side, 4 * width), nn.ReLU(), nn.Linear(4 * width, 10),
        )  # fmt: skip
