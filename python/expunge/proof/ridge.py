"""The proof of an exact certificate of a ridge run: both deltas enclosed in ball arithmetic, from the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from flint import arb, arb_mat, ctx
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from expunge.proof.balls import ball, enclosure, precision, versions, zero
from expunge.proof.contour import EVALUATIONS
from expunge.proof.coordinates import Coordinates
from expunge.proof.matrices import DiagonalPair, diagonal_pair
from expunge.proof.profile import delta_ball
from expunge.proof.ridge_law import Laws, kept_phases, laws_of
from expunge.runs.enclosures import Enclosure, Proof
from expunge.runs.ridge.inputs import design_of, targets_of
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.run import RidgeRun

__all__ = ["prove_deltas", "prove_ridge"]

Array = NDArray[np.float64]
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
    design: Array,
    targets: Array,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    epsilon: float,
    claim: float,
    attempts: Sequence[tuple[int, int]] | None = None,
) -> Proof:
    """Return enclosures of both deltas of a deletion, with as much precision as it takes to decide a claim.

    Parameters
    ----------
    design, targets : ndarray of float64, shapes (n, p) and (n, q)
        Rows of the first fit as the model sees them, deleted rows included.
    alpha, step_size, phases, deleted
        The run, as `expunge.runs.ridge.deletion_pair` takes it.
    epsilon, claim : float
        Both deltas at epsilon are held against the claim, without tolerance.
    attempts : sequence of (bits, refinements)
        Precisions to try in turn; 192 and 384 bits if omitted.

    Raises
    ------
    ValueError
        If no phase has noise.
    """
    attempts = ATTEMPTS if attempts is None else attempts
    started = time.perf_counter()
    kept = kept_phases(phases, deleted)
    unknown = Enclosure(0.0, 1.0, "0", "1", attempts[0][0])
    proof = Proof(unknown, unknown, claim, "undecided", "", attempts[0][0], 0.0)
    work = design.shape[1] ** 2 * (len(design) + design.shape[1] * 40.0)
    with tqdm(desc="proof", unit="stage", disable=None if work > 1e7 else True, leave=False) as bar:
        for bits, refinements in attempts:
            with precision(bits):
                reason, defects = "", dict[str, float]()
                pq = qp = unknown
                try:
                    begin = _beginning(bar, bits)
                    run = {"alpha": alpha, "step_size": step_size}
                    laws = laws_of(design, targets, **run, phases=kept, deleted=deleted, begin=begin)
                    begin("whitening and profile")
                    balls = _bounds(laws, epsilon, claim, refinements)
                    pq, qp = (enclosure(one, low=0.0, high=1.0) for one in balls[:2])
                    defects = balls[2]
                except ZeroDivisionError:
                    reason = "the step cannot be inverted: alpha is too small beside the data for the precision tried"
                except ArithmeticError as error:
                    reason = str(error)
                outcome, why = _outcome(pq, qp, claim)
                seconds = time.perf_counter() - started
                proof = Proof(pq, qp, claim, outcome, reason or why, bits, seconds, defects, {}, versions())
            if outcome != "undecided":
                break
    return proof


def _beginning(bar: tqdm[object], bits: int) -> Callable[[str], None]:
    def begin(stage: str) -> None:
        bar.set_description(f"proof, {bits} bits: {stage}")
        bar.update()

    return begin


def prove_ridge(run: RidgeRun, X: ArrayLike, y: ArrayLike, *, epsilon: float, delta: float, method: str) -> Proof:
    """Return the proof of a claim about a ridge run, from its record and the data of its first fit.

    Parameters
    ----------
    run : RidgeRun
        The run, whose assumptions have been checked.
    X, y : array_like
        The data of the first fit.
    epsilon, delta : float
        The claim.
    method : str
        Must be ``"exact"``.

    Raises
    ------
    ValueError
        For another method.
    """
    if method != "exact":
        raise ValueError(f"proof needs method 'exact', got {method!r}: bounds by other methods are not proved yet")
    design = design_of(X, fit_intercept=run.fit_intercept)
    targets = targets_of(y, classes=run.classes)
    return prove_deltas(
        design,
        np.ascontiguousarray(targets, dtype=np.float64),
        alpha=run.alpha,
        step_size=run.step_size,
        phases=run.phases,
        deleted=run.deleted,
        epsilon=epsilon,
        claim=delta,
    )
