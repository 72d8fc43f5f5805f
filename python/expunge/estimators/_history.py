"""History of a working model: its run, whose records it was learned from, and what its certificates rest on."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from expunge.certificates import features_digest, targets_digest
from expunge.data.constants import Sources
from expunge.estimators._records import RecordIds
from expunge.runs.ridge.held_rows import HeldRows
from expunge.runs.ridge.history import RidgeHistory
from expunge.runs.ridge.kept_law import KeptLaw
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["History"]


@dataclass(frozen=True)
class History(RidgeHistory):
    """The data of the first fit and the run since: everything a further certificate needs, and all of it confidential.

    Attributes
    ----------
    design, targets, alpha, step_size, phases
        As in `RidgeHistory`.
    labels : ndarray of shape (n,) or (n, q)
        ``y`` as given to the first fit; where the rows deleted before are gone, a label of no record stands for theirs.
    conditions : tuple of str
        What a certificate has to add to its claim, besides what ``sources`` say: a known seed, and what ``fit`` was
        told.
    ids : RecordIds or None
        Ids of the rows, if the first fit had any.
    sources : Sources
        Where the constants come from: that of the noise is the weakest of the deletions so far.
    salt : bytes
        32 secret bytes under which ledgers tell of ids; the same for every model of this run.
    program : float or None
        Bound on the norm of the first fit's targets, if every step so far was that of `expunge.runs.ridge.chain`.
    digests : tuple of str, or None
        Those of the features and targets of the first fit, for the certificates of models that no longer hold them.
    """

    labels: NDArray[np.generic]
    conditions: tuple[str, ...]
    ids: RecordIds | None = None
    sources: Sources = field(default_factory=Sources)
    salt: bytes = field(default_factory=partial(secrets.token_bytes, 32), repr=False)
    digests: tuple[str, str] | None = None
    program: float | None = None

    def as_program(self, targets: float) -> History:
        """Return the history of a run whose steps are those of the program; ``targets`` bounds the targets' norm."""
        return replace(self, program=targets)

    @property
    def rests_on(self) -> tuple[str, ...]:
        """Everything that a certificate of this run rests on."""
        return tuple(dict.fromkeys((*self.sources.conditions(), *self.conditions)))

    def digests_of_fit(self, n_features: int) -> tuple[str, str]:
        """Return the digests of the features and the targets of the first fit."""
        if self.digests is not None:
            return self.digests
        design, _ = self.rows("a digest")
        return features_digest(design[:, :n_features]), targets_digest(self.labels)

    def without_deleted(self, law: KeptLaw, *, n_features: int) -> History:
        """Return the history without the deleted rows, their labels and ids: ``law`` and digests stand for them."""
        gone = list(self.removed)
        labels = self.labels.copy()
        labels[gone] = 0.0 if labels.dtype.kind == "f" and not self.classify else labels[self.remaining[0]]
        ids = None if self.ids is None else self.ids.without(gone)
        return replace(self.purged(law), labels=labels, ids=ids, digests=self.digests_of_fit(n_features))

    def without_rows(self, law: KeptLaw, sums: TableSums) -> History:
        """Return the history of a table without the deleted rows, over whose other rows ``sums`` are; ids are its own.

        The certificate's digests stay those of the first fit.
        """
        design, targets = (
            HeldRows(self.design.shape, gone=self.removed),
            HeldRows(self.targets.shape, gone=self.removed),
        )
        return replace(self, design=design, targets=targets, law=law, sums=sums, parts=None)

    @property
    def classify(self) -> bool:
        """Whether targets are classes."""
        return self.sources.classes != "none"

    def after(self, phase: Phase, *, noise_source: str, condition: str | None = None) -> History:
        """Return the history with one more phase, whose noise comes from ``noise_source``."""
        weakest = max(self.sources.noise_std, noise_source, key=("given", "grid", "data").index)
        conditions = self.conditions if condition in (None, *self.conditions) else (*self.conditions, str(condition))
        return replace(
            self,
            phases=(*self.phases, phase),
            sources=replace(self.sources, noise_std=weakest),
            conditions=conditions,
        )
