"""Settings of the experiment on exact costs, and their defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from expunge._types import JsonObject
from expunge._validate import choice, count, number

__all__ = ["ExactSettings", "exact_preset"]

IMAGES = ("mnist", "cifar10")
DATA = ("digits", *IMAGES, "breast_cancer", "wine", "diabetes")


@dataclass(frozen=True, kw_only=True)
class ExactSettings:
    """Everything a result depends on, seeds aside. Defaults are those of the digits.

    Attributes
    ----------
    data : str
        ``"digits"``, ``"mnist"``, ``"cifar10"`` (images behind fixed random features) or one of scikit-learn's tables,
        ``"breast_cancer"``, ``"wine"``, ``"diabetes"`` (columns scaled to mean 0 and variance 1 / width, and a
        constant column).
    data_folder : str or None
        Where the files are; None for data that ship with scikit-learn.
    n_train : int
        Records: the first of the data.
    n_features : int
        Random features of images; not used for tables.
    alpha : float
        Penalty, in the sum form.
    n_steps, noise_std : int, float
        Learning steps from zero, and the noise of each.
    unlearn_steps : int
        Steps for which the exact noise is asked.
    noise_stds : tuple of float
        Noise per unlearning step for which the exact number of steps is asked.
    epsilon, delta : float
        The target of every deletion.
    strict_epsilon : float
        A stricter target for which the exact noise is asked as well: the noise of learning then suffices for fewer.
    order : float
        Renyi order of privacy losses.
    top_share : float
        Share of the records that are called the top.
    set_sizes : tuple of int
        Records in a set that leaves together; sizes above a quarter of the records are left out.
    n_sets : int
        Sets of each size from low to high privacy loss, and as many random ones.
    head_noise_std : float
        Noise of the released softmax heads.
    n_refits : int
        Records without which heads are fitted again.
    n_resamples : int
        Of the records, for intervals.
    """

    data: str = "digits"
    data_folder: str | None = None
    n_train: int = 1797
    n_features: int = 256
    alpha: float = 1.0
    n_steps: int = 300
    noise_std: float = 0.01
    unlearn_steps: int = 30
    noise_stds: tuple[float, ...] = (0.001, 0.003, 0.01)
    epsilon: float = 1.0
    strict_epsilon: float = 0.1
    delta: float = 1e-5
    order: float = 2.0
    top_share: float = 0.01
    set_sizes: tuple[int, ...] = (20, 50)
    n_sets: int = 20
    head_noise_std: float = 0.01
    n_refits: int = 200
    n_resamples: int = 1000

    def __post_init__(self) -> None:
        choice("data", self.data, DATA)
        if (self.data in IMAGES) != (self.data_folder is not None):
            raise ValueError(f"data_folder must be given for mnist and cifar10 alone, got {self.data_folder!r}")
        for name, low in (("n_train", 20), ("n_features", 1), ("n_steps", 10), ("unlearn_steps", 1), ("n_sets", 3),
                          ("n_refits", 3), ("n_resamples", 100)):  # fmt: skip
            count(name, getattr(self, name), low=low)
        for name in ("alpha", "noise_std", "head_noise_std", "epsilon", "strict_epsilon"):
            number(name, getattr(self, name), low=0.0, open_low=True)
        number("delta", self.delta, low=0.0, high=1.0, open_low=True, open_high=True)
        number("order", self.order, low=1.0, open_low=True)
        number("top_share", self.top_share, low=0.0, high=0.5, open_low=True)
        object.__setattr__(self, "noise_stds", tuple(sorted(float(one) for one in self.noise_stds)))
        object.__setattr__(self, "set_sizes", tuple(self.set_sizes))
        if not self.noise_stds:
            raise ValueError("noise_stds must hold at least one level, got none")
        for one in self.noise_stds:
            number("noise_stds", one, low=0.0, open_low=True)
        for size in self.set_sizes:
            count("set_sizes", size, low=2)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of sets that these records allow."""
        return tuple(size for size in self.set_sizes if 4 * size <= self.n_train)

    @property
    def n_top(self) -> int:
        """Number of records that are called the top."""
        return max(1, round(self.top_share * self.n_train))

    def to_dict(self) -> JsonObject:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "noise_stds": list(self.noise_stds), "set_sizes": list(self.set_sizes)}


_RECORDS = {"digits": 1797, "mnist": 8000, "cifar10": 5085, "breast_cancer": 569, "wine": 178, "diabetes": 442}


def exact_preset(data: str, *, data_folder: str | None = None, **changes: object) -> ExactSettings:
    """Return the settings the experiment on exact costs has by default on a data set.

    Parameters
    ----------
    data : {"digits", "mnist", "cifar10", "breast_cancer", "wine", "diabetes"}
        The data set.
    data_folder : str, optional
        Where the files of mnist or cifar10 are.
    **changes
        Fields of `ExactSettings` to override.

    Returns
    -------
    ExactSettings

    Raises
    ------
    TypeError, ValueError
        If a field is unknown, of the wrong kind or out of range.

    Examples
    --------
    >>> exact_preset("wine").n_train, exact_preset("wine").sizes
    (178, (20,))
    """
    choice("data", data, DATA)
    values: dict[str, Any] = {"n_train": _RECORDS[data], **changes}
    return ExactSettings(data=data, data_folder=data_folder, **values)
