"""Proofs of certificates of ridge runs: both deltas enclosed in ball arithmetic, from the data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from flint import arb, arb_mat, ctx
from tqdm.auto import tqdm

from expunge.proof.balls import ball, enclosure, precision, versions, zero
from expunge.proof.contour import EVALUATIONS
from expunge.proof.coordinates import Coordinates
from expunge.proof.matrices import DiagonalPair, diagonal_pair
from expunge.proof.profile import delta_ball
from expunge.proof.ridge_law import Laws, kept_phases, laws_of, state_of
from expunge.proof.ridge_shifted import shifted_bound
from expunge.proof.state import Stages
from expunge.runs.enclosures import Enclosure, Proof
from expunge.runs.ridge.held_rows import RowTable
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.products import RowParts
from expunge.runs.ridge.run import RidgeProblem, RidgeRun

__all__ = ["prove_bound", "prove_deltas", "prove_ridge"]

# Precision of each attempt, and how often its whitening is refined.
ATTEMPTS = ((192, 2), (384, 4))
_PROFILE_BITS = 80


class _Near(NamedTuple):
    """How far a law is from the one that stands for it: Frobenius norm, length of the mean, both whitened."""

    spread: arb
    length: arb

    def loss(self, level: arb, columns: int) -> arb | None:
        """Return an s at which the delta between the two is at most e^-level, in both directions; None if too far."""
        room = 1 - self.spread
        if not self.spread < 0.25:
            return None
        spread, length = (self.spread / room).upper(), (self.length / room.sqrt()).upper()
        slope = length * length + columns * spread * spread / 2
        if slope.is_zero():
            return zero()
        above = (level / slope).sqrt()
        if not spread.is_zero():
            above = above.min(1 / (2 * spread))
        above = above.lower()
        return level / above + (above + 1) * slope


class _StandIn(NamedTuple):
    """Laws N(0, I) and N(d, I + diag e) near whitened ones: coordinates, bounds on the rests, least variance."""

    coordinates: Coordinates
    off_diagonal: arb
    shift: arb
    least: arb


def _stand_in(pair: DiagonalPair, apart: arb_mat) -> _StandIn:
    """Return exact coordinates for a nearly diagonal pair; what is faint is left to the bounds on the rests."""
    columns = apart.ncols()
    excess, squares = [], []
    # What is below the bound on what is off the diagonal anyway is left to it.
    faint = pair.off_diagonal.max(arb(2) ** (16 - int(ctx.prec) // 2)).upper()
    lost, shift_off, least = zero(), zero(), arb(1)
    for i, value in enumerate(pair.values):
        row = [apart[i, j] for j in range(columns)]
        centre = [one.mid() for one in row]
        kept = value
        if abs(value) < faint:
            lost, kept = lost + value * value, zero()
        if all(abs(one) < faint for one in centre):
            centre = [zero()] * columns
        if not kept.is_zero() or not all(one.is_zero() for one in centre):
            excess.append(kept)
            squares.append(sum((one * one for one in centre), zero()))
            least = least.min(1 + kept)
        rests = [one - two for one, two in zip(row, centre, strict=True)]
        shift_off += sum((one * one for one in rests), zero())  # a power of a ball around 0 would not be finite
    # The diagonal has balls of its own around the values, so norms add, not squares. Squares of balls around 0 may seem
    # negative.
    off = pair.off_diagonal + lost.nonnegative_part().sqrt()
    return _StandIn(Coordinates(excess, squares, columns), off, shift_off.nonnegative_part().sqrt(), least)


def _bounds(laws: Laws, epsilon: float, claim: float, refinements: int) -> tuple[arb, arb, dict[str, float]]:
    """Return balls that contain both deltas, and the sizes of what separates the laws from their stand-ins."""
    pair = diagonal_pair(laws.covariance_q, laws.covariance_p - laws.covariance_q, refinements=refinements)
    apart = pair.transform * (laws.mean_p - laws.mean_q)
    coordinates, off, shift_off, least = _stand_in(pair, apart)
    columns = coordinates.columns
    defects = {
        "whitening": enclosure(pair.whitening).upper,
        "off_diagonal": enclosure(off).upper,
        "shift": enclosure(shift_off).upper,
    }
    whole = arb(0, 0.5) + 0.5
    if not least > 0:
        return whole, whole, defects
    level = ball(epsilon) - ball(claim).log() + 100
    loss_q = _Near(pair.whitening, zero()).loss(level, columns)
    loss_p = _Near((pair.whitening + off) / least, shift_off / least.sqrt()).loss(level, columns)
    if loss_p is None or loss_q is None:
        return whole, whole, defects
    loss = (loss_p + loss_q).upper()
    defects["loss"] = enclosure(loss).upper
    # Exact numbers on either side of epsilon: a ball there would keep the integral from converging.
    nearer, farther = (ball(epsilon) - loss).lower(), (ball(epsilon) + loss).upper()
    rest = (-level).exp()
    found = []
    for direction in ("pq", "qp"):
        turned = coordinates.in_direction(direction)
        most, least_delta = (delta_ball(turned, at, bits=_PROFILE_BITS) for at in (nearer, farther))
        if not (most.is_finite() and least_delta.is_finite()):
            raise ArithmeticError(
                f"the integral of the privacy profile did not converge within {EVALUATIONS} evaluations: nothing is "
                "known of the deltas"
            )
        upper = loss.exp() * (most.upper() + ball(epsilon).exp() * rest) + rest
        lower = (-loss).exp() * (least_delta.lower() - rest) - (ball(epsilon) + loss).exp() * rest
        found.append(lower.lower().union(upper.upper()))
    return found[0], found[1], defects


def _outcome(pq: Enclosure, qp: Enclosure, claim: float) -> tuple[str, str]:
    for direction, found in (("delta(P|Q)", pq), ("delta(Q|P)", qp)):
        if found.lower > claim:
            return "refuted", f"{direction} is at least {found.lower!r}, claimed {claim!r}"
    wide = [name for name, found in (("delta(P|Q)", pq), ("delta(Q|P)", qp)) if not found.upper <= claim]
    if wide:
        worst = max((pq, qp), key=lambda one: one.upper)
        return (
            "undecided",
            f"{' and '.join(wide)} may exceed {claim!r}: enclosed by {worst.lower!r} and {worst.upper!r}",
        )
    return "proved", ""


def prove_deltas(
    design: RowTable,
    targets: RowTable,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    epsilon: float,
    claim: float,
    parts: RowParts | None = None,
    attempts: Sequence[tuple[int, int]] | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Proof:
    """Return enclosures of both deltas of a deletion, with as much precision as it takes to decide a claim.

    Parameters
    ----------
    design, targets : ndarray of float64, or HeldRows, shapes (n, p) and (n, q)
        Rows of the first fit as the model sees them, deleted rows included.
    alpha, step_size, phases, deleted
        The run, as `expunge.runs.ridge.deletion_pair` takes it.
    epsilon, claim : float
        Both deltas at epsilon are held against the claim, without tolerance.
    parts : callable, optional
        Reads all rows with their targets in one pass, where they lie in a table; asked once an attempt.
    attempts : sequence of (bits, refinements)
        Precisions to try in turn; 192 and 384 bits if omitted.
    state : path-like, optional
        Folder that keeps the stages of the laws, so that a proof that was interrupted goes on where it stopped: made if
        it does not exist, and removed when the proof has ended. Confidential: it holds the products of the data.

    Raises
    ------
    ValueError
        If no phase has noise; or if the state is of another proof, damaged, or others can write it.
    """
    kept = kept_phases(phases, deleted)
    run: dict[str, Any] = {"alpha": alpha, "step_size": step_size, "phases": kept, "deleted": deleted, "parts": parts}

    kept_state = None if state is None else state_of(state, design, targets, **run)

    def compute(refinements: int, begin: Callable[[str], None]) -> _Found:
        laws = laws_of(design, targets, **run, stages=Stages(begin, kept_state))
        begin("whitening and profile")
        pq, qp, defects = _bounds(laws, epsilon, claim, refinements)
        return _Found(pq, qp, defects, {})

    work = design.shape[1] ** 2 * (len(design) + design.shape[1] * 40.0)
    found = _attempted(compute, claim, ATTEMPTS if attempts is None else attempts, shown=work > 1e7)
    if kept_state is not None:
        kept_state.clear()
    return found


def prove_bound(
    design: RowTable,
    targets: RowTable,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    epsilon: float,
    delta_s: float,
    claim: float,
    parts: RowParts | None = None,
) -> Proof:
    """Return enclosures of both deltas of the bound by shifted interpolation, by the deleted rows' own sensitivities.

    Parameters
    ----------
    design, targets, alpha, step_size, phases, deleted, epsilon, claim, parts
        As for `prove_deltas`.
    delta_s : float
        Probability with which bounds on residuals may fail.

    Raises
    ------
    ValueError
        If no phase has noise.
    """
    kept = kept_phases(phases, deleted)
    if not any(phase.noise_std for phase in kept):
        raise ValueError("noise_std must be > 0 in at least one phase: without noise there is no guarantee")
    run: dict[str, Any] = {"alpha": alpha, "step_size": step_size, "phases": kept, "deleted": deleted, "parts": parts}

    def compute(refinements: int, begin: Callable[[str], None]) -> _Found:
        found = shifted_bound(design, targets, **run, epsilon=epsilon, delta_s=delta_s, begin=begin)
        more = {"mu": enclosure(found.mu, low=0.0), "contraction": enclosure(found.contraction, low=0.0)}
        return _Found(found.delta_pq, found.delta_qp, {}, more)

    return _attempted(compute, claim, ATTEMPTS, shown=sum(phase.n_steps for phase in kept) * design.shape[1] ** 2 > 1e6)


class _Found(NamedTuple):
    """Balls that contain both deltas, and the sizes of the proof."""

    delta_pq: arb
    delta_qp: arb
    defects: dict[str, float]
    enclosures: dict[str, Enclosure]


def _attempted(
    compute: Callable[[int, Callable[[str], None]], _Found],
    claim: float,
    attempts: Sequence[tuple[int, int]],
    *,
    shown: bool,
) -> Proof:
    """Return the proof of a claim by what ``compute`` encloses, with as much precision as it takes to decide it."""
    started = time.perf_counter()
    unknown = Enclosure(0.0, 1.0, "0", "1", attempts[0][0])
    proof = Proof(unknown, unknown, claim, "undecided", "", attempts[0][0], 0.0)
    with tqdm(desc="proof", unit="stage", disable=None if shown else True, leave=False) as bar:
        for bits, refinements in attempts:
            with precision(bits):
                reason, found = "", None
                pq = qp = unknown
                try:
                    found = compute(refinements, _beginning(bar, bits))
                    pq, qp = (enclosure(one, low=0.0, high=1.0) for one in found[:2])
                except ZeroDivisionError:
                    reason = "the step cannot be inverted: alpha is too small beside the data for the precision tried"
                except ArithmeticError as error:
                    reason = str(error)
                outcome, why = _outcome(pq, qp, claim)
                seconds = time.perf_counter() - started
                more = ({}, {}) if found is None else (found.defects, found.enclosures)
                proof = Proof(pq, qp, claim, outcome, reason or why, bits, seconds, *more, versions())
            if outcome != "undecided":
                break
    return proof


def _beginning(bar: tqdm[object], bits: int) -> Callable[[str], None]:
    def begin(stage: str) -> None:
        bar.set_description(f"proof, {bits} bits: {stage}")
        bar.update()

    return begin


def prove_ridge(
    run: RidgeRun,
    problem: RidgeProblem,
    *,
    epsilon: float,
    delta: float,
    method: str,
    delta_s: float | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Proof:
    """Return the proof of a claim about a ridge run, from its record and the data of its first fit.

    Parameters
    ----------
    run : RidgeRun
        The run.
    problem : RidgeProblem
        The run beside its data, arrays or a table, whose assumptions have been checked.
    epsilon, delta : float
        The claim.
    method : {"exact", "shifted", "uniform"}
        What is enclosed: the deltas of the laws themselves; or those of the bound by shifted interpolation with the
        deleted rows' own sensitivities. That of the method "uniform", by the worst rows of all, is never smaller.
    delta_s : float or None
        Failure probability of the claim's bounds on residuals, for the methods that have one.
    state : path-like, optional
        As for `prove_deltas`; for the method "exact" alone.

    Raises
    ------
    ValueError
        If the method has a delta_s and it is None, or keeps no state and one is given.
    """
    deletion = problem.deletion
    given: dict[str, Any] = {name: getattr(run, name) for name in ("alpha", "step_size", "phases", "deleted")}
    given |= {"epsilon": epsilon, "claim": delta, "parts": partial(deletion.products.parts, what="a proof")}
    if method == "exact":
        return prove_deltas(deletion.design, deletion.targets, **given, state=state)
    if state is not None:
        raise ValueError(f"state must be omitted for method {method!r}, which keeps none, got {state}")
    if delta_s is None:
        raise ValueError(f"delta_s must be given for method {method!r}, got None")
    return prove_bound(deletion.design, deletion.targets, **given, delta_s=delta_s)
