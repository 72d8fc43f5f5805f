"""History of a ridge run: its data and its phases, as far as laws and costs of deletions need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.held_rows import HeldRows, RowTable, all_rows
from expunge.runs.ridge.kept_law import KeptLaw, ResumedDeletion
from expunge.runs.ridge.law import Phase, RidgeDeletion
from expunge.runs.ridge.products import Products, RowParts
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["RidgeHistory"]

Array = NDArray[np.float64]
Self = TypeVar("Self", bound="RidgeHistory")


@dataclass(frozen=True)
class RidgeHistory:
    """The data of the first fit and the run since; all of it confidential.

    Attributes
    ----------
    design : ndarray of shape (n, p), float64, or HeldRows
        Rows of the first fit as the model sees them (constant column last, if there is one). Deleted rows are zeros
        where ``law`` stands for them.
    targets : ndarray of shape (n, q), float64, or HeldRows
        Targets as the ridge loss sees them.
    alpha, step_size : float
        Constants of the first fit.
    phases : tuple of Phase
        Learning, then one phase per deletion.
    law : KeptLaw or None
        Law of the run at the end of ``phases``, in place of the deleted rows; None where nothing was deleted, and in
        models of earlier versions, which hold deleted rows.
    sums : TableSums or None
        Sums over the rows in use, where these lie in a table elsewhere; the design then holds none.
    parts : callable, or None
        Reads that table once more, while it is at hand; not part of what is stored or compared.
    """

    design: RowTable
    targets: RowTable
    alpha: float
    step_size: float
    phases: tuple[Phase, ...]
    law: KeptLaw | None = field(default=None, kw_only=True)
    sums: TableSums | None = field(default=None, kw_only=True)
    parts: RowParts | None = field(default=None, kw_only=True, repr=False, compare=False)

    @cached_property
    def products(self) -> Products:
        """X^T X and X^T Y of the first fit, formed when first asked for; not part of what is stored or compared."""
        if isinstance(self.design, HeldRows) or isinstance(self.targets, HeldRows):
            assert isinstance(self.design, HeldRows)
            assert isinstance(self.targets, HeldRows)
            assert self.sums is not None  # they come together
            return Products.of_sums(self.sums, design=self.design, targets=self.targets, parts=self.parts)
        return Products(self.design, self.targets)

    def equations(self) -> NormalEquations:
        """Return the normal equations of all rows in use."""
        if self.sums is not None:
            return NormalEquations.of_sums(self.sums, alpha=self.alpha)
        return NormalEquations.of(*self.rows("the normal equations"), alpha=self.alpha)

    def rows(self, what: str) -> tuple[Array, Array]:
        """Return design and targets, or refuse ``what`` needs them where they lie in a table."""
        return all_rows(self.design, what=what), all_rows(self.targets, what=what)

    @property
    def target_sizes(self) -> Array:
        """Norms of the targets, shape (q,)."""
        if self.sums is not None:
            return np.asarray(np.sqrt(self.sums.target_squares))
        return np.asarray(np.linalg.norm(all_rows(self.targets, what="their norm"), axis=0))

    def holding(self: Self, numbers: Sequence[int] | NDArray[np.int64], design: Array, targets: Array) -> Self:
        """Return the history of a table with some of its rows at hand."""
        gone = self.removed if self.law is not None else ()
        held = HeldRows(self.design.shape, numbers, design, gone=gone)
        return replace(self, design=held, targets=HeldRows(self.targets.shape, numbers, targets, gone=gone))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("products", "parts")} | {
            "parts": None
        }

    @property
    def removed(self) -> tuple[int, ...]:
        """Rows deleted so far, sorted."""
        return self.phases[-1].removed

    @property
    def remaining(self) -> NDArray[np.int64]:
        """Rows still in use, sorted."""
        return np.setdiff1d(np.arange(len(self.design)), np.array(self.removed, dtype=np.int64))

    @property
    def n_remaining(self) -> int:
        """Number of rows still in use."""
        return len(self.design) - len(self.removed)

    def deletion(self, deleted: Sequence[int]) -> RidgeDeletion:
        """Return the deletion of rows from this run; ``deleted`` holds every one deleted before too."""
        run: dict[str, Any] = {"alpha": self.alpha, "step_size": self.step_size, "products": self.products}
        if self.law is None:
            return RidgeDeletion(self.design, self.targets, deleted=deleted, **run)
        return ResumedDeletion(self.design, self.targets, law=self.law, past=self.phases, deleted=deleted, **run)

    def require_method(self, method: str) -> None:
        """Refuse methods that need every step of the run again, once deleted rows are gone.

        Raises
        ------
        ValueError
            Naming the method.
        """
        if self.law is not None and method != "exact":
            raise ValueError(
                f"method must be 'exact' after a deletion, got {method!r}: bounds by shifted interpolation need every "
                "step of the run, and this model no longer holds the rows deleted before; or fit again on the records "
                "that remain"
            )

    def purged(self: Self, law: KeptLaw) -> Self:
        """Return the history without its deleted rows, for which ``law``, that of the run so far, stands."""
        gone = list(self.removed)
        design, targets = (part.copy() for part in self.rows("purging"))
        design[gone], targets[gone] = 0.0, 0.0
        return replace(self, design=design, targets=targets, law=law)
