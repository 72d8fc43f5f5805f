"""Experiment settings and defaults: what is trained, forgotten and measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from expunge._types import JsonObject
from expunge._validate import choice, count, number

__all__ = ["Settings", "preset"]

DATA = ("digits", "mnist", "cifar10")
MODELS = ("strided", "cnn", "mlp", "resnet18", "vit")
METRICS = ("confidence", "accuracy", "loss")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a result depends on, seeds aside.

    Attributes
    ----------
    data, model : str
        ``"digits"``, ``"mnist"`` or ``"cifar10"``; ``"strided"`` (two strided convolutions with GroupNorm and a dense
        layer), ``"cnn"``, ``"mlp"``, ``"resnet18"`` or ``"vit"``.
    data_folder : str or None
        Where the files are; None for the digits.
    n_train, n_test : int
        Records to train on and to test with.
    width : int
        Channels of the first layer (strided, cnn, resnet18), hidden units (mlp) or dimension (vit).
    epochs, batch_size, step_size, alpha
        Of training, as in `expunge.torch.train`: long enough to memorise.
    noise_stds : tuple of float
        Noise levels per step, 0 for SGD without noise: all of them for predict, `noise_std` for the others.
    order : float
        Renyi order of privacy losses.
    n_pilots : int
        Runs whose mean scores choose the forget sets, before anything is measured and for all seeds and levels.
    n_sets, set_share
        Forget sets of predict, from low to high privacy loss, and the share of the records in each.
    top_share : float
        Share of the records in the sets of the others.
    n_retrained : int
        Retrained models per forget set and noise level, >= 2, that all seeds share.
    unlearn_epochs, evaluate_every, patience
        Most passes over the retained records; passes between looks; looks in a row that count as having arrived.
    metric : str
        Of the forget set, by which times are taken: mean probability of the true class (``"confidence"``),
        ``"accuracy"`` or ``"loss"``. All are kept.
    gap_share : float
        Share of a set's own gap, between trained and retrained, that is to be closed; in (0, 1).
    tolerance : float or None
        Distance to the mean of retrained models that is near enough for every set; 0.05 by default, 0.2 for the loss.
    least_half_width : float
        Least half width of the band of retrained models.
    early_passes : int
        Passes after which the share of the gap that is left is compared.
    n_checkpoints : int
        Windows of training from which privacy losses are estimated.
    assumed_passes_std, assumed_barrier_std : float
        Standard deviations over seeds that power is stated with beforehand: of the difference of two measures' passes,
        and of a mean barrier.
    """

    data: str = "digits"
    data_folder: str | None = None
    model: str = "strided"
    n_train: int = 1000
    n_test: int = 300
    width: int = 16
    epochs: int = 60
    batch_size: int = 50
    step_size: float = 0.1
    alpha: float = 1e-4
    noise_stds: tuple[float, ...] = (0.0, 0.001, 0.003, 0.006, 0.01)
    order: float = 2.0
    n_pilots: int = 3
    n_sets: int = 6
    set_share: float = 0.05
    top_share: float = 0.05
    n_retrained: int = 4
    unlearn_epochs: int = 400
    evaluate_every: int = 1
    patience: int = 3
    metric: str = "confidence"
    gap_share: float = 0.9
    tolerance: float | None = None
    least_half_width: float = 0.01
    early_passes: int = 20
    n_checkpoints: int = 40
    assumed_passes_std: float = 20.0
    assumed_barrier_std: float = 0.1

    def __post_init__(self) -> None:
        choice("data", self.data, DATA)
        choice("model", self.model, MODELS)
        choice("metric", self.metric, METRICS)
        if (self.data == "digits") != (self.data_folder is None):
            raise ValueError(f"data_folder must be given for mnist and cifar10 alone, got {self.data_folder!r}")
        for name in (
            "n_test", "width", "epochs", "batch_size", "n_pilots", "unlearn_epochs", "evaluate_every", "patience",
            "early_passes", "n_checkpoints",
        ):  # fmt: skip
            count(name, getattr(self, name), low=1)
        count("n_sets", self.n_sets, low=3)
        count("n_retrained", self.n_retrained, low=2)
        count("n_train", self.n_train, low=2 * self.batch_size)
        number("order", self.order, low=1.0, open_low=True)
        if self.tolerance is not None:
            number("tolerance", self.tolerance, low=0.0, open_low=True)
        number("least_half_width", self.least_half_width, low=0.0)
        number("gap_share", self.gap_share, low=0.0, high=1.0, open_low=True, open_high=True)
        for name in ("assumed_passes_std", "assumed_barrier_std"):
            number(name, getattr(self, name), low=0.0, open_low=True)
        for name in ("set_share", "top_share"):
            number(name, getattr(self, name), low=0.0, high=0.5, open_low=True)
        if self.n_sets * self.set_share > 1.0:
            raise ValueError(f"n_sets * set_share must be <= 1, got {self.n_sets} * {self.set_share}")
        for name, high in (("evaluate_every", self.unlearn_epochs), ("early_passes", self.unlearn_epochs)):
            if getattr(self, name) > high or self.early_passes % self.evaluate_every:
                raise ValueError(
                    f"early_passes must be a multiple of evaluate_every, and both at most unlearn_epochs, got "
                    f"{self.early_passes}, {self.evaluate_every} and {self.unlearn_epochs}"
                )
        object.__setattr__(self, "noise_stds", tuple(float(one) for one in self.noise_stds))
        for one in self.noise_stds:
            number("noise_stds", one, low=0.0)
        if not any(self.noise_stds):
            raise ValueError(
                "noise_stds must hold a level > 0, at which forget sets are chosen: without noise privacy losses are "
                f"infinite; got {self.noise_stds}"
            )

    @property
    def noise_std(self) -> float:
        """The middle one of the levels above 0, the lower of two: of compare and barrier, and of the pilot runs."""
        levels = sorted(one for one in self.noise_stds if one > 0.0)
        return levels[(len(levels) - 1) // 2]

    @property
    def near(self) -> float:
        """Distance to the mean of retrained models that is near enough."""
        return self.tolerance if self.tolerance is not None else 0.2 if self.metric == "loss" else 0.05

    def to_dict(self) -> JsonObject:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "noise_stds": list(self.noise_stds)}


# Digits are easy: an eighth of the passes shows as much, in minutes.
_PRESETS: dict[str, dict[str, Any]] = {"digits": {"unlearn_epochs": 50}, "mnist": {}, "cifar10": {}}
_WIDTHS = {"strided": 16, "cnn": 8, "mlp": 64, "resnet18": 16, "vit": 32}


def preset(data: str, *, model: str = "strided", data_folder: str | None = None, **changes: object) -> Settings:
    """Return the settings an experiment has by default on a data set.

    Parameters
    ----------
    data : {"digits", "mnist", "cifar10"}
        The data set.
    model : {"strided", "cnn", "mlp", "resnet18", "vit"}
        The network.
    data_folder : str, optional
        Where the files are.
    **changes
        Fields of `Settings` to override. With fewer ``unlearn_epochs`` than ``early_passes`` has by default, the early
        look is at the last of them.

    Examples
    --------
    >>> preset("digits", epochs=3).epochs
    3
    >>> preset("digits", unlearn_epochs=5).early_passes
    5
    """
    choice("data", data, DATA)
    choice("model", model, MODELS)
    values = {**_PRESETS[data], "width": _WIDTHS[model], **changes}
    most, every = values.get("unlearn_epochs"), values.get("evaluate_every", 1)
    if "early_passes" not in values and isinstance(most, int) and isinstance(every, int) and 0 < every <= most:
        values["early_passes"] = min(Settings.early_passes, most - most % every)
    return Settings(data=data, model=model, data_folder=data_folder, **values)
