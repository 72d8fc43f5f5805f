"""Settings of the experiment on noise and accuracy, and their defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from expunge._types import JsonObject
from expunge._validate import choice, count, number
from expunge.experiments.exact.settings import ExactSettings

__all__ = ["CertifySettings", "certify_preset"]

DATA = ("digits", "mnist", "cifar10")


@dataclass(frozen=True, kw_only=True)
class CertifySettings:
    """Everything a result depends on, seeds aside. Defaults are those of the digits.

    Attributes
    ----------
    data : str
        ``"digits"``, ``"mnist"`` or ``"cifar10"``, behind the fixed random features of `ExactSettings`.
    data_folder : str or None
        Where the files are; None for the digits.
    n_train, n_test : int
        Records to learn from and to test with, drawn anew for each seed from the first ``n_train + n_test``.
    n_features : int
        Random features.
    alpha : float
        Penalty, in the sum form.
    n_steps, noise_std : int, float
        Learning steps from zero, and the noise of each.
    unlearn_steps : int
        Steps of every deletion, for which noise is asked.
    epsilon, delta : float
        The target for which every record is quoted.
    epsilons : tuple of float
        Targets at which accuracy is taken, with the same delta.
    n_points : int
        Records from the easiest to the hardest that are followed over ``epsilons``.
    assumed_accuracy_std : float
        Standard deviation over splits of a difference of accuracies, assumed for the power stated beforehand.
    """

    data: str = "digits"
    data_folder: str | None = None
    n_train: int = 1400
    n_test: int = 397
    n_features: int = 256
    alpha: float = 1.0
    n_steps: int = 300
    noise_std: float = 0.01
    unlearn_steps: int = 30
    epsilon: float = 1.0
    delta: float = 1e-5
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)
    n_points: int = 7
    assumed_accuracy_std: float = 0.01

    def __post_init__(self) -> None:
        choice("data", self.data, DATA)
        if (self.data == "digits") != (self.data_folder is None):
            raise ValueError(f"data_folder must be given for mnist and cifar10 alone, got {self.data_folder!r}")
        for name, low in (("n_test", 1), ("n_features", 1), ("n_steps", 10), ("unlearn_steps", 1), ("n_points", 3)):
            count(name, getattr(self, name), low=low)
        count("n_train", self.n_train, low=max(20, self.n_points))
        for name in ("alpha", "noise_std", "epsilon", "assumed_accuracy_std"):
            number(name, getattr(self, name), low=0.0, open_low=True)
        number("delta", self.delta, low=0.0, high=1.0, open_low=True, open_high=True)
        object.__setattr__(self, "epsilons", tuple(sorted({float(one) for one in self.epsilons})))
        if not self.epsilons:
            raise ValueError("epsilons must hold at least one target, got none")
        for one in self.epsilons:
            number("epsilons", one, low=0.0, open_low=True)

    @property
    def of_all(self) -> ExactSettings:
        """The settings by which all records, of both parts, are loaded."""
        return ExactSettings(
            data=self.data, data_folder=self.data_folder, n_train=self.n_train + self.n_test,
            n_features=self.n_features, alpha=self.alpha,
        )  # fmt: skip

    def to_dict(self) -> JsonObject:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "epsilons": list(self.epsilons)}


_RECORDS = {"digits": (1400, 397), "mnist": (8000, 2000), "cifar10": (4085, 1000)}


def certify_preset(data: str, *, data_folder: str | None = None, **changes: object) -> CertifySettings:
    """Return the settings the experiment on noise and accuracy has by default on a data set.

    Parameters
    ----------
    data : {"digits", "mnist", "cifar10"}
        The data set.
    data_folder : str, optional
        Where the files of mnist or cifar10 are.
    **changes
        Fields of `CertifySettings` to override.

    Returns
    -------
    CertifySettings

    Raises
    ------
    TypeError, ValueError
        If a field is unknown, of the wrong kind or out of range.

    Examples
    --------
    >>> certify_preset("digits", epsilons=(1.0, 0.5)).epsilons
    (0.5, 1.0)
    """
    choice("data", data, DATA)
    n_train, n_test = _RECORDS[data]
    values: dict[str, Any] = {"n_train": n_train, "n_test": n_test, **changes}
    return CertifySettings(data=data, data_folder=data_folder, **values)
