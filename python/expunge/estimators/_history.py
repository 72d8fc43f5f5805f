"""What a working model remembers, and the noisy steps that made it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from expunge.accounting.ridge_law import Phase
from expunge.estimators._records import RecordIds
from expunge.langevin import standard_normals

__all__ = ["History", "Normals", "noisy_steps", "os_normals", "seeded_normals"]

Array = NDArray[np.float64]
Normals = Callable[[int, tuple[int, int]], Array]

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
        What a certificate has to add to its claim.
    ids : RecordIds or None
        Ids of the rows, if the first fit had any.
    """

    design: Array
    labels: NDArray[np.generic]
    targets: Array
    alpha: float
    step_size: float
    phases: tuple[Phase, ...]
    conditions: tuple[str, ...]
    ids: RecordIds | None = None

    @property
    def removed(self) -> tuple[int, ...]:
        """Rows deleted so far, sorted."""
        return self.phases[-1].removed

    @property
    def remaining(self) -> NDArray[np.int64]:
        """Rows still in use, sorted."""
        return np.setdiff1d(np.arange(len(self.design)), np.array(self.removed, dtype=np.int64))

    def after(self, phase: Phase) -> History:
        """Return the history with one more phase."""
        return replace(self, phases=(*self.phases, phase))


def os_normals(step: int, shape: tuple[int, int]) -> Array:
    """Return standard normals drawn from the operating system's randomness; nothing is kept from which to redraw."""
    bits = np.frombuffer(os.urandom(8 * shape[0] * shape[1]), dtype="<u8")
    # Midpoints of 2^53 equal cells: symmetric, never 0 or 1.
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(special.ndtri(uniform), dtype=np.float64).reshape(shape)


def seeded_normals(seed: int) -> Normals:
    """Return a source of reproducible normals: the counter-based ones of chain 0 of the Langevin kernels."""

    def draw(step: int, shape: tuple[int, int]) -> Array:
        # The kernels number the noise of a chain output by output.
        numbers: Array = standard_normals((shape[1], shape[0]), seed=seed, chain=0, step=step)
        return numbers.T

    return draw


def noisy_steps(
    theta: Array, design: Array, targets: Array, *, alpha: float, step_size: float, phase: Phase, normals: Normals
) -> Array:
    """Return theta after ``phase.n_steps`` steps theta - eta (H theta - b) + noise_std xi on the given rows."""
    p = design.shape[1]
    gram = design.T @ design
    gram[np.diag_indices(p)] += alpha
    step = np.eye(p) - step_size * gram
    push = step_size * (design.T @ targets)
    theta = theta.copy()
    for k in range(phase.n_steps):
        theta = step @ theta + push
        if phase.noise_std > 0:
            theta += phase.noise_std * normals(k, (theta.shape[0], theta.shape[1]))
    return theta
