"""Customers who do not exist: a table as people have it, made by a fixed seed, with bounds that are no secret."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.data.reading import Constants, Reading
from expunge.data.scaling import ConstantScaler
from expunge.data.writing import csv_bytes

__all__ = ["BOUNDS", "CLASSES", "READING", "Customers", "bounds_table", "customers"]

CLASSES = ("no", "yes")
BOUNDS = {
    "age": (18, 95),
    "months": (0, 120),
    "visits": (0, 30),
    "spent": (0, 600),
    "complaints": (0, 5),
    "member": (0, 1),
}
"""Smallest and largest value of each feature that the shop allows: known before any customer is."""

READING = Reading(
    n_features=len(BOUNDS),
    n_columns=len(BOUNDS) + 2,
    features=tuple(BOUNDS),
    target="renewed",
    id_column="customer_id",
    constants=Constants("bounds", tuple((float(low), float(high)) for low, high in BOUNDS.values())),
)
"""How a table of customers is read, as ``expunge fit`` would keep it."""


@dataclass(frozen=True)
class Customers:
    """Customers, whether they renewed, and whose row each is.

    Attributes
    ----------
    ids : ndarray of str, shape (n,)
        "C-10000" and up.
    values : ndarray of float64, shape (n, 6)
        Features in their own units, in the order of `BOUNDS`.
    renewed : ndarray of str, shape (n,)
        "yes" or "no".
    """

    ids: NDArray[np.str_]
    values: NDArray[np.float64]
    renewed: NDArray[np.str_]

    @property
    def scaled(self) -> NDArray[np.float64]:
        """Features scaled to [-1, 1] by their bounds."""
        low, high = np.array(list(BOUNDS.values()), dtype=np.float64).T
        return np.asarray(ConstantScaler(low, high).fit_transform(self.values))

    def without(self, customer: str) -> Customers:
        """Return the others."""
        left = self.ids != customer
        return Customers(self.ids[left], self.values[left], self.renewed[left])

    def table(self) -> bytes:
        """Return the content of a CSV file."""
        rows = zip(self.ids.tolist(), *self.values.T.tolist(), self.renewed.tolist(), strict=True)
        return csv_bytes(["customer_id", *BOUNDS, "renewed"], rows)


def customers(n: int, *, seed: int) -> Customers:
    """Return ``n`` customers; the same for the same seed."""
    random = np.random.default_rng(seed)
    age = np.clip(random.normal(46, 17, n).round(), 18, 95)
    months = np.clip(random.gamma(1.6, 22.0, n).round(), 0, 120)
    member = (random.random(n) < 0.25 + 0.3 * (months > 24)).astype(np.float64)
    visits = np.clip(random.poisson(4 + 5 * member), 0, 30).astype(np.float64)
    spent = np.clip((visits * random.gamma(3.0, 7.0, n)).round(2), 0, 600)
    complaints = np.clip(random.poisson(0.5, n), 0, 5).astype(np.float64)
    score = 0.25 * (visits - 6) + 0.006 * (spent - 120) + 0.9 * member - 1.1 * complaints + 0.02 * (months - 30)
    renewed = np.where(random.random(n) < 1 / (1 + np.exp(-score)), "yes", "no")
    ids = np.array([f"C-{10_000 + i}" for i in range(n)])
    return Customers(ids, np.column_stack([age, months, visits, spent, complaints, member]), renewed)


def bounds_table() -> bytes:
    """Return the bounds as the content of a CSV file that ``--bounds`` takes."""
    return csv_bytes(["feature", "low", "high"], [[name, *limits] for name, limits in BOUNDS.items()])
