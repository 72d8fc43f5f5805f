"""What a working model remembers of its data and its run."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from expunge.accounting.ridge_law import Phase
from expunge.certificates.constants import Sources
from expunge.estimators._records import RecordIds

__all__ = ["SEED_CONDITION", "History"]

Array = NDArray[np.float64]

SEED_CONDITION = "learning seed known to whoever set it"


@dataclass(frozen=True)
class History:
    """The data of the first fit and the run since: everything a further certificate needs, and all of it confidential.

    Attributes
    ----------
    design : ndarray of shape (n, p), float64
        Rows of the first fit as the model sees them (constant column last, if there is one); deleted rows included.
    labels : ndarray of shape (n,) or (n, q)
        ``y`` as given to the first fit.
    targets : ndarray of shape (n, q), float64
        What the ridge loss sees.
    step_size, alpha : float
        Constants of the first fit.
    phases : tuple of Phase
        Learning, then one phase per deletion.
    conditions : tuple of str
        What a certificate has to add to its claim, besides what ``sources`` say: a known seed, and what ``fit`` was
        told.
    ids : RecordIds or None
        Ids of the rows, if the first fit had any.
    sources : Sources
        Where the constants come from: that of the noise is the weakest of the deletions so far.
    salt : bytes
        32 secret bytes under which ledgers tell of ids; the same for every model of this run.
    """

    design: Array
    labels: NDArray[np.generic]
    targets: Array
    alpha: float
    step_size: float
    phases: tuple[Phase, ...]
    conditions: tuple[str, ...]
    ids: RecordIds | None = None
    sources: Sources = field(default_factory=Sources)
    salt: bytes = field(default_factory=partial(secrets.token_bytes, 32), repr=False)

    @property
    def removed(self) -> tuple[int, ...]:
        """Rows deleted so far, sorted."""
        return self.phases[-1].removed

    @property
    def remaining(self) -> NDArray[np.int64]:
        """Rows still in use, sorted."""
        return np.setdiff1d(np.arange(len(self.design)), np.array(self.removed, dtype=np.int64))

    @property
    def rests_on(self) -> tuple[str, ...]:
        """Everything that a certificate of this run rests on."""
        return tuple(dict.fromkeys((*self.sources.conditions(), *self.conditions)))

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
