"""State of a working model: the data as they now stand, parameters with and without noise, and the releases so far.

A state does not change. Every change of the data makes another, with parameters polished on the new data from the last
ones, and charges one more release.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge.certificates.residual import (
    RecordTree,
    ResidualCertificate,
    ResidualEvidence,
    ResidualModel,
    ResidualNoise,
)
from expunge.certificates.residual.agreed_noise import AGREED_CONDITION, AgreedNoise
from expunge.estimators.newton.tables import TableObjective
from expunge.runs.exact_noise import with_exact_noise
from expunge.runs.noise import Normals, os_normals, with_noise
from expunge.runs.residual import (
    InverseHessian,
    NoiseFloorError,
    Objective,
    Polished,
    RecordQuotes,
    Rows,
    group_quotes,
    polish,
    record_quotes,
)
from expunge.runs.residual.claim import BeforeAfter, before_after, release_mu, residual_allowance
from expunge.runs.residual.objective import RowWork
from expunge.runs.residual.quotes import objective_quotes

__all__ = ["Claim", "Work", "Working"]

Float64 = NDArray[np.float64]

_BLUR = 0.01  # noise on the start of a search, in units of that of a release
_FAR = 1e3  # noise from which released parameters are no place to search or to take curvatures
_FLAT = 8.0  # logits by which noise may move rows before curvatures vanish: a search then begins at 0, as a fit does
_LOOKED_AT = 64  # rows of a block


@dataclass(frozen=True)
class Claim:
    """Constants that were fixed before any record was seen: the claim, its noise and its budget.

    Attributes
    ----------
    epsilon, delta : float
        Of all releases after a deletion together.
    noise_std : float
        Of every released parameter.
    alpha : float
        Strength of the penalty.
    releases : int
        Most releases in the life of a model.
    """

    epsilon: float
    delta: float
    noise_std: float
    alpha: float
    releases: int

    @cached_property
    def mu(self) -> float:
        """Gaussian-DP parameter of one release, rounded down."""
        return release_mu(epsilon=self.epsilon, delta=self.delta, releases=self.releases)

    @cached_property
    def allowance(self) -> float:
        """Largest norm of a gradient that a release may have, rounded down."""
        return residual_allowance(alpha=self.alpha, noise_std=self.noise_std, mu=self.mu)


@dataclass(frozen=True)
class Work:
    """Work behind a release; confidential, as it depends on the records that left.

    Attributes
    ----------
    action : str
        "fit", "unlearn", "amend", "add" or "release".
    n_changed : int
        Records concerned.
    passes, refreshes : int
        Passes over the data, and inverse Hessians computed anew.
    before_root : str or None
        Root of the data before.
    before_after : BeforeAfter or None
        Guarantee against whoever saw the release before and this one; None if the data did not change.
    agreed : AgreedNoise or None
        Where the noise came from, if two parties agreed on it; no file of a model has it.
    """

    action: str
    n_changed: int
    passes: int
    refreshes: int
    before_root: str | None = None
    before_after: BeforeAfter | None = None
    agreed: AgreedNoise | None = None


@dataclass(frozen=True, eq=False)
class Working:
    """State of a working model.

    Attributes
    ----------
    claim : Claim
        Constants.
    layout : ResidualModel
        Layout of the parameters, and the classes.
    objective : Objective
        The data as they now stand, a constant column last where an intercept is fitted.
    tree : RecordTree
        Salted hashes and ids of the same records in the same order.
    theta, released : ndarray of float64, shape (q, p)
        Parameters without noise, which are private, and with.
    bound : float
        Proved bound on the gradient's norm at theta.
    release : int
        Number of the last release, from 1.
    conditions : tuple of str
        What every certificate of this model rests on.
    own_conditions : tuple of str
        What that of the last release rests on besides.
    inverse : InverseHessian or None
        Of these records at parameters released before; None where it is to be computed anew.
    gradient : ndarray of float64, shape (q, p), or None
        Of the objective at theta, as computed; None where it is not known.
    noise : ResidualNoise or None
        How the noise of the last release was drawn; None for one of a version that did not say.
    agreed : AgreedNoise or None
        Where the next release takes its noise from, instead of the operating system; no file has it.
    ledger_salt : bytes
        32 secret bytes under which ledgers tell of ids: one for the life of the model, in no proof and no evidence.
    """

    claim: Claim
    layout: ResidualModel
    objective: Objective
    tree: RecordTree
    theta: Float64
    released: Float64
    bound: float
    release: int
    conditions: tuple[str, ...] = ()
    own_conditions: tuple[str, ...] = ()
    inverse: InverseHessian | None = None
    gradient: Float64 | None = None
    noise: ResidualNoise | None = None
    agreed: AgreedNoise | None = None
    ledger_salt: bytes = field(default_factory=partial(secrets.token_bytes, 32), repr=False)

    @classmethod
    def of(
        cls,
        objective: Objective,
        tree: RecordTree,
        *,
        claim: Claim,
        layout: ResidualModel,
        conditions: tuple[str, ...],
        own_conditions: tuple[str, ...],
        normals: Normals | None = None,
    ) -> tuple[Working, Work]:
        """Return the state after the first release; with ``normals`` it is that of a seed, not of exact noise.

        Raises
        ------
        ValueError
            If the noise is below what float64 allows for these data.
        """
        found = _polished(objective, np.zeros(layout.shape), claim=claim, inverse=None)
        released, noise = _released(found.theta, claim=claim, normals=normals)
        state = cls(
            claim=claim,
            layout=layout,
            objective=objective,
            tree=tree,
            theta=found.theta,
            released=released,
            bound=found.bound,
            release=1,
            conditions=conditions,
            own_conditions=own_conditions,
            # At what is public: the parameters without noise would tell the next ones apart from those of the record.
            inverse=InverseHessian.of(objective, released if claim.noise_std < _FAR else found.theta),
            gradient=found.gradient,
            noise=noise,
        )
        return state, Work("fit", len(objective), found.passes, found.refreshes + 1)

    def changed(
        self,
        action: str,
        objective: Objective,
        tree: RecordTree,
        *,
        n_changed: int,
        gone: Rows | None,
        new: Rows | None,
    ) -> tuple[Working, Work]:
        """Return the state after a release from other data, some records of which are ``gone`` and some ``new``.

        Raises
        ------
        RuntimeError
            If the budget of releases is spent, or no parameters with so small a gradient are found.
        ValueError
            If the noise is below what float64 allows for these data.
        """
        number = self._next()
        start, inverse = self._first_step(objective, gone, new)
        found = _polished(objective, start, claim=self.claim, inverse=inverse)
        released, noise = _released(found.theta, claim=self.claim, agreed=self.agreed)
        kept = self._kept_inverse(found, objective, released)
        refreshes = found.refreshes + (kept is not None and kept is not found.inverse)
        state = replace(
            self,
            objective=objective,
            tree=tree,
            theta=found.theta,
            released=released,
            bound=found.bound,
            release=number,
            own_conditions=_own_conditions(self.agreed),
            inverse=kept,
            gradient=found.gradient,
            noise=noise,
            agreed=None,
        )
        both = before_after(
            distance=_distance_above(self, state),
            noise_std=self.claim.noise_std,
            mu=self.claim.mu,
            delta=self.claim.delta,
        )
        return state, Work(action, n_changed, found.passes, refreshes, self.tree.root, both, self.agreed)

    def again(self) -> tuple[Working, Work]:
        """Return the state after a further release of the same parameters with new noise.

        Raises
        ------
        RuntimeError
            If the budget of releases is spent.
        """
        number = self._next()
        released, noise = _released(self.theta, claim=self.claim, agreed=self.agreed)
        own = _own_conditions(self.agreed)
        state = replace(self, released=released, release=number, own_conditions=own, noise=noise, agreed=None)
        return state, Work("release", 0, 0, 0, self.tree.root, agreed=self.agreed)

    def quotes(self, positions: NDArray[np.int64]) -> RecordQuotes:
        """Return what deleting each of some records would cost."""
        if isinstance(self.objective, TableObjective):
            return objective_quotes(
                self.objective,
                self.theta,
                noise_std=self.claim.noise_std,
                mu=self.claim.mu,
                delta=self.claim.delta,
                rows=positions,
            )
        blocks = self.objective.blocks
        rows = blocks[0] if len(blocks) == 1 else self.objective.take(np.arange(len(self.objective)))
        return record_quotes(
            rows.X,
            self.theta,
            loss=self.objective.loss,
            alpha=self.claim.alpha,
            noise_std=self.claim.noise_std,
            mu=self.claim.mu,
            delta=self.claim.delta,
            targets=rows.targets,
            labels=rows.labels,
            weights=rows.weights,
            rows=positions,
        )

    def group_quotes(self, groups: Sequence[NDArray[np.int64]]) -> RecordQuotes:
        """Return what deleting each of some groups of records would cost, those of a group together."""
        claim = self.claim
        if all(len(rows) == 1 for rows in groups):
            return self.quotes(np.concatenate(groups))
        with tqdm(total=len(groups), unit="id", desc="quote", disable=None, leave=False) as bar:
            return group_quotes(
                self.objective,
                self.theta,
                groups,
                noise_std=claim.noise_std,
                mu=claim.mu,
                delta=claim.delta,
                progress=bar.update,
            )

    def without_inverse(self) -> Working:
        """Return the state without inverse Hessian and gradient, which the next change computes anew."""
        return replace(self, inverse=None, gradient=None)

    def _first_step(
        self, objective: Objective, gone: Rows | None, new: Rows | None
    ) -> tuple[Float64, InverseHessian | None]:
        """Return parameters after a Newton step from theta, whose gradient follows from the records alone, no pass."""
        inverse = self.inverse
        if gone is not None and inverse is not None:
            inverse = inverse.without(gone)
        if new is not None and inverse is not None:
            inverse = inverse.with_rows(new)
        squared = self.objective.loss == "squared"
        moved = self._moved(objective)
        if inverse is None or self.gradient is None:
            if moved > _FLAT:
                return np.zeros_like(self.theta), None
            return (self.released if self._near else self.theta), inverse
        if self._near and _BLUR * moved > _FLAT:
            return np.zeros_like(self.theta), None
        gradient = self.gradient.copy()
        for rows, sign in ((gone, -1.0), (new, 1.0)):
            if rows is not None:
                gradient += sign * self.objective.sums_of(rows, self.theta).gradient
        start = self.theta - inverse.step(gradient)
        if self._near and not squared:  # whose step leaves nothing but rounding
            # What the step leaves follows from the record, and so would all that follows: who guesses it could repeat
            # the deletion and see. It drowns in noise of its own, which costs a pass.
            start = start + _BLUR * self.claim.noise_std * os_normals(0, start.shape)
        return (start if np.isfinite(start).all() else self.theta), inverse

    @property
    def _near(self) -> bool:
        """Whether released parameters are a place to search from and to take curvatures at."""
        return self.claim.noise_std < _FAR

    def _moved(self, objective: Objective) -> float:
        """Return how many logits noise may move a row; 0 for the squared loss, whose curvature stays as it is."""
        return 0.0 if objective.loss == "squared" else self.claim.noise_std * _length(objective)

    def _kept_inverse(self, found: Polished, objective: Objective, released: Float64) -> InverseHessian | None:
        """Return the inverse that the state after a change keeps, None where the next search computes one.

        No release tells of it: the claim holds whatever came before, the way of the search included. But curvatures
        taken during a search are those at parameters without noise, and from before the next deletion these tell
        apart the record that leaves then. What is kept belongs to 0 or to parameters that were released.
        """
        if not self._near:
            return None
        anchor = found.inverse.theta
        if found.refreshes == 0 or not anchor.any() or np.array_equal(anchor, self.released):
            return found.inverse
        return InverseHessian.of(objective, released) if self._moved(objective) <= _FLAT else None

    def certificate(self, work: Work) -> ResidualCertificate:
        """Return the public certificate of the last release."""
        return ResidualCertificate.create(
            tree=self.tree,
            released=self.released,
            model=self.layout,
            loss=self.objective.loss,
            alpha=self.claim.alpha,
            noise_std=self.claim.noise_std,
            epsilon=self.claim.epsilon,
            delta=self.claim.delta,
            mu=self.claim.mu,
            releases=self.claim.releases,
            release=self.release,
            data_before=work.before_root,
            conditions=(*self.conditions, *self.own_conditions),
            noise=self.noise,
        )

    def evidence(self, work: Work, certificate: ResidualCertificate) -> ResidualEvidence:
        """Return the confidential evidence of the last release."""
        return ResidualEvidence.of(
            self.tree,
            theta=self.theta,
            residual_bound=self.bound,
            passes=work.passes,
            refreshes=work.refreshes,
            action=work.action,
            n_changed=work.n_changed,
            certificate=certificate.digest(),
            before_after=work.before_after,
            seeds=None if work.agreed is None else work.agreed.seeds,
        )

    def _next(self) -> int:
        if self.release >= self.claim.releases:
            raise RuntimeError(
                f"the budget of {self.claim.releases} releases is spent: a further one would break the claim of every "
                "deletion so far; a new fit on the data as they stand, with a larger releases=, begins another claim, "
                "and whoever sees the releases of both models learns what both claims together allow"
            )
        return self.release + 1


def _polished(objective: Objective, start: Float64, *, claim: Claim, inverse: InverseHessian | None) -> Polished:
    try:
        return polish(objective, start, target=claim.allowance, inverse=inverse)
    except NoiseFloorError as error:
        least = 1.01 * error.floor / (claim.alpha * claim.mu)
        raise ValueError(
            f"noise_std must be at least {least:.3g} for these data, where rounding alone bounds the gradient by "
            f"{error.floor:.3g}, got {claim.noise_std!r}; or scale the {objective.numbers} by a constant, or allow "
            "fewer releases"
        ) from None


class _Longest(RowWork[float]):
    """Norm of the longest of some rows of each block."""

    def of(self, rows: Rows, *, threads: int | None = None) -> float:
        some = rows.X[:: -(-len(rows) // _LOOKED_AT)]
        with np.errstate(over="ignore"):  # infinite is far
            return float(np.linalg.norm(some, axis=1).max())

    def both(self, one: float, two: float) -> float:
        return max(one, two)


def _length(objective: Objective) -> float:
    """Return the norm of the longest of some rows: it tells how far noise moves logits, and no claim rests on it."""
    return float(objective.folded(_Longest()))


def _own_conditions(agreed: AgreedNoise | None) -> tuple[str, ...]:
    return () if agreed is None else (AGREED_CONDITION,)


def _released(
    theta: Float64, *, claim: Claim, normals: Normals | None = None, agreed: AgreedNoise | None = None
) -> tuple[Float64, ResidualNoise]:
    """Return parameters with noise, and how it was drawn: exactly, unless it has to be that of a seed."""
    if agreed is not None:
        released = with_exact_noise(theta, noise_std=claim.noise_std, words=agreed.take())
        return released, ResidualNoise.of(claim.noise_std, sampler="agreed", agreement=agreed.agreement)
    if normals is None:
        released = with_exact_noise(theta, noise_std=claim.noise_std)
        return released, ResidualNoise.of(claim.noise_std, sampler="exact")
    released = with_noise(theta, noise_std=claim.noise_std, normals=normals)
    return released, ResidualNoise.of(claim.noise_std, sampler="float64")


def _distance_above(before: Working, after: Working) -> float:
    """Return at least the distance between the two optima; each is within bound / alpha of its theta."""
    with np.errstate(over="ignore"):
        # Scaled, so that squares of the smallest numbers do not vanish.
        length = math.hypot(*(after.theta - before.theta).ravel().tolist())
        apart = length * (1.0 + (after.theta.size + 8) * 2.0**-52)
        return (apart + (before.bound + after.bound) / after.claim.alpha) * (1.0 + 2.0**-50)
