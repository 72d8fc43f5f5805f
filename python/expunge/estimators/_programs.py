"""Langevin models whose releases are private as the program that ran: their steps, their noise, their record."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.data.exact_products import Pair
from expunge.estimators._history import History
from expunge.runs.exact_noise import with_exact_noise
from expunge.runs.ridge.chain import ExactEquations
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.program import LARGEST_PRODUCT, Program, error_bound, largest_bound

__all__ = ["begun", "claims_program", "of_laws", "program_of", "release_of", "steps_of"]

Array = NDArray[np.float64]

_LAWS = 1.0 - 1e-3  # of delta; rounding may take the rest


def of_laws(history: History, delta: float) -> float:
    """Return what of delta is for the laws over the real numbers: all but what a program's rounding may take."""
    return delta if history.program is None else _LAWS * delta


def claims_program(asked: bool | None, history: History, *, seed: int | None) -> bool:
    """Return whether the claims of a fit are about its program: by default, unless from a seed or sums of a table.

    Raises
    ------
    TypeError
        If it was asked for by anything but True, False and None.
    """
    if asked is None:
        return seed is None and history.sums is None
    if not isinstance(asked, (bool, np.bool_)):
        raise TypeError(f"of_program must be True, False or None, got {asked!r}")
    return bool(asked)


def begun(history: History, *, seed: int | None) -> History:
    """Return the history of a first fit, not yet run, as that of a program; or refuse it.

    Raises
    ------
    ValueError
        If the noise is that of a seed, the step size lets errors grow, or nothing bounds the rounding of the run.
    """
    if seed is not None:
        raise ValueError(f"random_state must be None with of_program=True: noise of a seed is not drawn, got {seed!r}")
    try:
        return _bounded(history)
    except ValueError as error:
        raise ValueError(
            f"{error}; or fit with of_program=False (--no-of-program), for claims about real numbers"
        ) from None


def _bounded(history: History) -> History:
    products: Products = history.products
    largest = largest_bound(products.gram.value) + products.gram.off + history.alpha
    if not history.step_size * largest <= LARGEST_PRODUCT:
        raise ValueError(
            f"step_size must be at most {LARGEST_PRODUCT / largest!r} for a claim about the program that ran, got "
            f"{history.step_size!r}"
        )
    bound = Program.bound_on(history.rows("a program")[1])
    error_bound(history.phases, step_size=history.step_size, alpha=history.alpha, targets=bound, **_sizes(history))
    return history.as_program(bound)


def steps_of(history: History, theta: Pair, phase: Phase) -> Pair:
    """Return theta after a phase's steps on the rows that it keeps, within the bound of the program."""
    design, targets = history.rows("the steps of a program")
    keep = np.setdiff1d(np.arange(len(design)), np.array(phase.removed, dtype=np.int64))
    equations = ExactEquations.of(design[keep], targets[keep], alpha=history.alpha)
    return equations.steps(theta, step_size=history.step_size, phase=phase)


def program_of(history: History, *, epsilon: float, delta: float) -> Program | None:
    """Return the record of the program that made a run, None where nothing is claimed of it; or refuse it.

    Raises
    ------
    ValueError
        If no phase had noise, or rounding takes more than a thousandth of delta.
    """
    if history.program is None:
        return None
    run: dict[str, Any] = {"step_size": history.step_size, "alpha": history.alpha, "targets": history.program}
    found = Program.of(history.phases, **run, **_sizes(history))
    most = (1.0 - _LAWS) * (1.0 - 1e-6) * delta
    if not (share := found.share(epsilon=epsilon)) <= most:
        needed = share / (1.0 - _LAWS)
        name, least, got = ("delta", f"at least {needed:.3g}", delta) if needed < 1.0 else ("epsilon", "less", epsilon)
        raise ValueError(
            f"{name} must be {least} for a claim about the program that ran, of whose delta rounding takes "
            f"{share:.3g}, got {got!r}; or take more noise, or fit with of_program=False (--no-of-program)"
        )
    return found


def release_of(theta: Pair, program: Program) -> Array:
    """Return what is released in place of parameters: with fresh noise, on the grid."""
    return with_exact_noise(theta.hi, rest=theta.lo, noise_std=program.release_noise)


def _sizes(history: History) -> dict[str, int]:
    (n, p), q = history.design.shape, history.targets.shape[1]
    return {"n": n, "p": p, "q": q}
