"""Measures that people rank records by, of a ridge run: what one run shows, and what its optimum tells."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from expunge._types import Float64
from expunge.accounting import privacy_loss
from expunge.evaluation import influence
from expunge.experiments.exact.settings import ExactSettings
from expunge.experiments.exact.subjects import RidgeSubject
from expunge.grad_norms.proxies import early_checkpoint
from expunge.langevin import langevin_chains

__all__ = ["CLOSED", "NAMES", "OF_RUN", "leverages", "ridge_influence", "run_measures"]

OF_RUN = {
    "privacy_loss": "privacy loss",
    "average_grad_norm": "average gradient norm",
    "final_grad_norm": "final gradient norm",
    "grand": "GraNd",
    "el2n": "EL2N",
    "random": "random numbers",
}
CLOSED = {"leverage": "leverage", "shifted_noise": "shifted bound", "influence": "influence"}
NAMES = {**OF_RUN, **CLOSED}

_ROWS = 1024  # whose residuals at all steps are in memory at a time


def run_measures(subject: RidgeSubject, settings: ExactSettings, *, seed: int) -> dict[str, Float64]:
    """Return what one noisy run tells of each record, by the names of `OF_RUN`, each of shape (n,).

    Gradients are those of the record's own loss, ``x (x^T theta - y)``, at every step of the run; GraNd and EL2N (the
    norms of gradient and residual) are taken after a tenth of it.
    """
    s = settings
    steps = np.arange(s.n_steps)
    path = langevin_chains(
        subject.X, subject.targets, alpha=s.alpha, step_size=subject.step_size, noise_std=s.noise_std,
        n_steps=s.n_steps, seed=seed, record=np.arange(s.n_steps + 1), threads=1,
    )[:, 0]  # fmt: skip
    n, q = subject.targets.shape
    residuals = np.empty((n, s.n_steps + 1))
    flat = path.transpose(1, 0, 2).reshape(path.shape[1], -1)
    for start in range(0, n, _ROWS):
        block = slice(start, start + _ROWS)
        found = (subject.X[block] @ flat).reshape(-1, s.n_steps + 1, q) - subject.targets[block, np.newaxis]
        residuals[block] = np.linalg.norm(found, axis=2)
    norms = np.linalg.norm(subject.X, axis=1)[:, np.newaxis] * residuals
    early = early_checkpoint(steps, n_steps=s.n_steps)
    losses = privacy_loss(
        norms[:, :-1], order=s.order, noise_std=s.noise_std, step_size=subject.step_size, sampling_probability=1.0,
        batch_size=1.0, steps=steps, n_steps=s.n_steps,
    )  # fmt: skip
    return {
        "privacy_loss": np.asarray(losses),
        "average_grad_norm": norms[:, :-1].mean(axis=1),
        "final_grad_norm": norms[:, -1],
        "grand": norms[:, early],
        "el2n": residuals[:, early],
        "random": np.random.default_rng(seed).random(n),
    }


def leverages(X: Float64, *, alpha: float) -> Float64:
    """Return ``x^T (X^T X + alpha I)^-1 x`` of every row."""
    gram = X.T @ X
    gram[np.diag_indices_from(gram)] += alpha
    half = scipy.linalg.solve_triangular(scipy.linalg.cholesky(gram, lower=True), X.T, lower=True)
    return np.asarray(np.einsum("ij,ij->j", half, half))


def ridge_influence(
    subject: RidgeSubject, settings: ExactSettings, groups: list[NDArray[np.int64]] | None = None
) -> Float64:
    """Return how far the ridge optimum moves without each record, or without each group."""
    return np.asarray(influence(subject.X, subject.targets, loss="squared", alpha=settings.alpha, groups=groups))
