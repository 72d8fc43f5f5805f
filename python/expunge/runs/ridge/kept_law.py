"""The law of a run so far in place of its deleted rows, and later deletions certified from it.

A later deletion compares P, the law of the true run, with Q, the law of the run that never saw any of the deleted rows.
Q is made of what remains. P is a Gaussian whose next phases are affine maps made of what remains, so that its mean and
its covariance at the end of the phases so far are all that is needed of the rows deleted before. Both laws are then
known apart and are subtracted: the roundings of both count in full, not only those of their difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.accounting.noise_floor import noise_floor
from expunge.data.close_products import MARGIN, TINY, UNIT, columns, norm, sum_error
from expunge.runs.ridge.held_rows import RowTable
from expunge.runs.ridge.law import LawPair, Phase, RidgeDeletion
from expunge.runs.ridge.rounding import Frame, LawErrors, Norms

__all__ = ["KeptLaw", "ResumedDeletion", "carried"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class KeptLaw:
    """Law of a run at the end of its phases so far, with proved bounds on its rounding.

    Each of the q columns of the parameters is Gaussian, independent of the others, with its own mean and one
    covariance. The law is made of all rows, deleted ones included: with the rows that remain it says much about them.

    Attributes
    ----------
    mean : ndarray of shape (p, q), float64
        Mean of the parameters.
    covariance : ndarray of shape (p, p), float64
        Covariance of each column.
    mean_error : ndarray of shape (q,), float64
        Bounds on the norms of the errors of the columns of ``mean``.
    covariance_error : float
        Bound on the Frobenius norm of the error of ``covariance``.
    """

    mean: Array
    covariance: Array
    mean_error: Array
    covariance_error: float

    @classmethod
    def of(cls, deletion: RidgeDeletion, state: LawPair) -> KeptLaw:
        """Return P of two laws."""
        errors, vectors = state.proved_errors(), deletion.reference.vectors
        inner = np.diag(state.variance_q) + state.covariance_difference
        with np.errstate(all="ignore"):  # bounds that overflow are refused with the pair
            turned, error = _turned(vectors, inner, deletion.reference.frame)
            error += norm(errors.covariance_q) + norm(errors.covariance_difference) + UNIT * norm(inner)
            error += 0.0 if errors.further is None else errors.further.scaled(1.0)[1]
        return cls(state.mean_p, turned, MARGIN * errors.mean_p, MARGIN * error)


def _turned(vectors: Array, inner: Array, frame: Frame) -> tuple[Array, float]:
    """Return V M V^T, symmetric, and a bound on the Frobenius norm of its error: V is off an orthonormal frame."""
    p = len(inner)
    turned = vectors @ inner @ vectors.T
    # Two products, each of rows with p terms, and the mean of an entry and its mirror.
    each = 2.0 * frame.apart * (1.0 + frame.apart) + 2.5 * math.sqrt(p) * sum_error(p) + 2.0 * UNIT
    return 0.5 * (turned + turned.T), MARGIN * each * norm(inner) + 8.0 * p * p * TINY


class ResumedDeletion(RidgeDeletion):
    """Deletion of some rows from a run that holds the law of its phases so far in place of rows deleted before.

    Parameters
    ----------
    design, targets : ndarray
        As for `RidgeDeletion`; rows deleted before are zeros.
    law : KeptLaw
        P at the end of ``past``.
    past : sequence of Phase
        The phases so far.
    deleted : sequence of int
        All rows the reference run never saw: those to be deleted, and every one deleted before.
    run
        As for `RidgeDeletion`: alpha, step_size, products.
    """

    def __init__(
        self,
        design: RowTable,
        targets: RowTable,
        *,
        law: KeptLaw,
        past: Sequence[Phase],
        deleted: Sequence[int],
        **run: Any,
    ) -> None:
        super().__init__(design, targets, deleted=deleted, **run)
        self.law, self.past = law, tuple(past)
        for phase in self.past:
            self.present(phase)  # refuses rows that are not among the deleted

    @cached_property
    def resumed(self) -> LawPair:
        """Both laws at the end of the phases so far."""
        known = self.start
        for phase in self.past:  # neither run holds the deleted rows: both laws are Q
            known = self.advance(known, Phase(phase.n_steps, phase.noise_std, self.deleted))
        law, errors = self.law, known.proved_errors()
        vectors, frame = self.reference.vectors, self.reference.frame
        p, sums = len(vectors), sum_error(len(vectors))
        with np.errstate(all="ignore"):  # what is infinite or NaN is refused with the pair
            apart = law.mean - known.mean_p
            turned = frame.apart + 2.0 * math.sqrt(p) * sums
            mean_off = law.mean_error + errors.mean_p + (UNIT + turned) * columns(apart) + 4.0 * p * TINY
            inner, covariance_off = _turned(vectors.T, law.covariance, frame)
            covariance_off += law.covariance_error + 2.0 * UNIT * norm(inner)
            difference = inner - np.diag(known.variance_q)
            rounded = 2.0 * UNIT * np.diag(known.variance_q)
            further = Norms(MARGIN * mean_off, MARGIN * covariance_off, np.ones(p))
        return LawPair(
            law.mean,
            vectors.T @ apart,
            known.variance_q,
            difference,
            known.n_steps,
            LawErrors(
                law.mean_error,
                np.zeros_like(apart),
                errors.covariance_q,
                MARGIN * (errors.covariance_q + rounded),
                further,
            ),
        )

    def begin(self, phases: Sequence[Phase]) -> tuple[LawPair, int]:
        """Return both laws at the end of the phases so far, which ``phases`` must begin with, and their number."""
        if tuple(phases[: len(self.past)]) != self.past:
            raise ValueError(f"phases must begin with the {len(self.past)} whose law is kept, got others")
        return self.resumed, len(self.past)

    def floors(self, phases: Sequence[Phase]) -> tuple[float, ...]:
        """Return the least noise of each phase that is noise.

        Of the phases so far only the reference run is looked at: the true one was when it made them.
        """
        _, done = self.begin(phases)
        mean_p, mean_q = self.law.mean, np.zeros_like(self.law.mean)
        result = []
        for i, phase in enumerate(phases):
            end_q = self._noise_free(self.reference, mean_q, phase.n_steps)
            if i < done:
                result.append(noise_floor(mean_q, mean_q, end_q, end_q))
            else:
                own = self.reference if self.present(phase).size == 0 else self.basis(phase.removed)
                end_p = self._noise_free(own, mean_p, phase.n_steps)
                result.append(noise_floor(mean_p, mean_q, end_p, end_q))
                mean_p = end_p
            mean_q = end_q
        return tuple(result)

    def is_nothing(self) -> bool:
        """Return whether the rows to be deleted leave no trace: zeros stand for rows that were none."""
        return False


def carried(deletion: RidgeDeletion, phases: Sequence[Phase]) -> ResumedDeletion:
    """Return a deletion with the law of all phases but the last kept from one to the next, as models carry it along.

    After many deletions its bounds on rounding are the smaller ones: they add up, where those of differences multiply.

    Parameters
    ----------
    deletion : RidgeDeletion
        With all rows of the first fit.
    phases : sequence of Phase
        The run, learning first.
    """
    data = deletion.design, deletion.targets
    run: dict[str, Any] = {name: getattr(deletion, name) for name in ("alpha", "step_size", "products")}
    learning = RidgeDeletion(*data, deleted=(), **run)
    past, law = tuple(phases[:1]), KeptLaw.of(learning, learning.run(phases[:1]))
    for phase in phases[1:]:
        if phase.removed == deletion.deleted:
            break
        # P alone is asked for: the other run starts here, from zero.
        step = ResumedDeletion(*data, law=law, past=(), deleted=phase.removed, **run)
        past, law = (*past, phase), KeptLaw.of(step, step.run((phase,)))
    return ResumedDeletion(*data, law=law, past=past, deleted=deletion.deleted, **run)
