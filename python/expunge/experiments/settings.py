"""Experiment settings and defaults: what is trained, forgotten and measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from expunge._types import JsonObject
from expunge._validate import choice, count, number

__all__ = ["Settings", "preset"]

DATA = ("digits", "mnist", "cifar10")
MODELS = ("cnn", "mlp", "resnet18", "vit")
METRICS = ("confidence", "accuracy", "loss")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a result depends on, seeds aside.

    Attributes
    ----------
    data, model : str
        ``"digits"``, ``"mnist"`` or ``"cifar10"``; ``"cnn"``, ``"mlp"``, ``"resnet18"`` or ``"vit"``.
    data_folder : str or None
        Where the files are; None for the digits.
    n_train, n_test : int
        Records to train on and to test with.
    width : int
        Channels of the first layer (cnn, resnet18), hidden units (mlp) or dimension (vit).
    epochs, batch_size, step_size, alpha
        Of training, as in `expunge.torch.train`.
    noise_stds : tuple of float
        Noise levels per step: all of them for predict, the middle one for the others.
    order : float
        Renyi order of privacy losses.
    n_sets, set_share
        Forget sets of the first experiment, from low to high privacy loss, and the share of the records in each.
    top_share : float
        Share of the records in the sets of the others.
    n_retrained : int
        Retrained models per forget set, >= 2: their spread is the band.
    unlearn_epochs, evaluate_every, patience
        Most passes over the retained records; steps between evaluations; evaluations in a row that must be inside.
    metric : str
        Of the forget set: mean probability of the true class (``"confidence"``), ``"accuracy"`` or ``"loss"``.
    tolerance : float
        Least half width of the band.
    n_checkpoints : int
        Windows of training from which privacy losses are estimated.
    """

    data: str = "digits"
    data_folder: str | None = None
    model: str = "cnn"
    n_train: int = 1000
    n_test: int = 500
    width: int = 8
    epochs: int = 14
    batch_size: int = 100
    step_size: float = 0.4
    alpha: float = 1e-4
    noise_stds: tuple[float, ...] = (0.004, 0.008, 0.012)
    order: float = 2.0
    n_sets: int = 5
    set_share: float = 0.02
    top_share: float = 0.01
    n_retrained: int = 3
    unlearn_epochs: int = 15
    evaluate_every: int = 3
    patience: int = 3
    metric: str = "confidence"
    tolerance: float = 0.01
    n_checkpoints: int = 35

    def __post_init__(self) -> None:
        choice("data", self.data, DATA)
        choice("model", self.model, MODELS)
        choice("metric", self.metric, METRICS)
        if (self.data == "digits") != (self.data_folder is None):
            raise ValueError(f"data_folder must be given for mnist and cifar10 alone, got {self.data_folder!r}")
        for name in (
            "n_test", "width", "epochs", "batch_size", "unlearn_epochs", "evaluate_every", "patience", "n_checkpoints"
        ):  # fmt: skip
            count(name, getattr(self, name), low=1)
        count("n_sets", self.n_sets, low=3)
        count("n_retrained", self.n_retrained, low=2)
        count("n_train", self.n_train, low=2 * self.batch_size)
        number("order", self.order, low=1.0, open_low=True)
        number("tolerance", self.tolerance, low=0.0)
        for name in ("set_share", "top_share"):
            number(name, getattr(self, name), low=0.0, high=0.5, open_low=True)
        if self.n_sets * self.set_share > 1.0:
            raise ValueError(f"n_sets * set_share must be <= 1, got {self.n_sets} * {self.set_share}")
        object.__setattr__(self, "noise_stds", tuple(float(one) for one in self.noise_stds))
        if not self.noise_stds:
            raise ValueError("noise_stds must hold at least one level, got none")
        for one in self.noise_stds:
            number("noise_stds", one, low=0.0, open_low=True)

    @property
    def noise_std(self) -> float:
        """The middle level."""
        return sorted(self.noise_stds)[len(self.noise_stds) // 2]

    def to_dict(self) -> JsonObject:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "noise_stds": list(self.noise_stds)}


_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {
        "n_train": 5000, "n_test": 1000, "width": 8, "epochs": 12, "unlearn_epochs": 6, "evaluate_every": 10,
        "n_sets": 6,
    },
    "cifar10": {
        "n_train": 4068, "n_test": 1000, "width": 16, "epochs": 25, "unlearn_epochs": 10, "evaluate_every": 10,
        "n_sets": 6,
    },
}  # fmt: skip
_WIDTHS = {"cnn": None, "mlp": 64, "resnet18": 16, "vit": 32}


def preset(data: str, *, model: str = "cnn", data_folder: str | None = None, **changes: object) -> Settings:
    """Return the settings an experiment has by default on a data set.

    Parameters
    ----------
    data : {"digits", "mnist", "cifar10"}
        The data set.
    model : {"cnn", "mlp", "resnet18", "vit"}
        The network.
    data_folder : str, optional
        Where the files are.
    **changes
        Fields of `Settings` to override.

    Examples
    --------
    >>> preset("digits", epochs=3).epochs
    3
    """
    choice("data", data, DATA)
    choice("model", model, MODELS)
    values = {**_PRESETS[data], **({} if _WIDTHS[model] is None else {"width": _WIDTHS[model]}), **changes}
    return Settings(data=data, model=model, data_folder=data_folder, **values)
