"""Scores of a block of records: gradient norms, privacy losses, and their common proxies. *Estimates*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import AnyArray
from expunge._validate import real_array, unmasked
from expunge.accounting import StepCost, quadrature_weights
from expunge.grad_norms.probe_measures import probe_measures
from expunge.grad_norms.proxies import PROXY_TITLES, proxies_of
from expunge.scoring.checkpoints import ProbeCheckpoints

__all__ = ["Scorer", "loss_name", "proxy_names", "score_records", "why_unscored"]

Array = NDArray[np.float64]


def loss_name(order: float) -> str:
    """Return the column name of the privacy loss at ``order``."""
    return f"privacy_loss_{order:.17g}" if float(f"{order:g}") != order else f"privacy_loss_{order:g}"


def proxy_names(loss: str) -> list[str]:
    """Return the names of the proxies that a loss allows: the C-proxy needs class probabilities."""
    return [name for name in PROXY_TITLES if name != "c_proxy" or loss != "squared"]


class Scorer:
    """Scores blocks of a dataset; what it returns for a block does not depend on earlier ones."""

    def __init__(
        self,
        probe: ProbeCheckpoints,
        *,
        orders: Sequence[float],
        dtype: np.dtype[Any],
        keep_norms: bool = False,
        threads: int | None = None,
    ) -> None:
        self.probe, self.orders, self.keep_norms, self.threads = probe, list(orders), keep_norms, threads
        self._stack = np.ascontiguousarray(probe.weights, dtype=dtype)
        self._weights = quadrature_weights(probe.steps, n_steps=probe.n_steps)
        # Tables from the start: a record's score may not depend on the size of its block.
        rate = probe.sampling_probability
        self._costs = [StepCost(order=one, sampling_probability=rate).tabulate() for one in self.orders]

    def __call__(self, X: NDArray[Any], y: NDArray[Any]) -> tuple[dict[str, Array], NDArray[np.bool_]]:
        """Return the scores of records with valid labels, by column name, and which records have none.

        A feature that is not finite, or a logit that overflows, leaves no finite norm: looking there saves reading
        every feature once more. The entries of such a record are meaningless.
        """
        probe = self.probe
        found = probe_measures(X, self._stack, y, loss=probe.loss, early=probe.early, threads=self.threads)
        norms = found.grad_norms
        unscored = np.asarray(~np.isfinite(norms).all(axis=1), dtype=np.bool_)
        if unscored.any():
            norms[unscored] = 0.0
        columns: dict[str, Array] = {}
        with np.errstate(divide="ignore"):
            scale = np.float64(probe.noise_std * probe.batch_size / probe.step_size)
        for order, cost in zip(self.orders, self._costs, strict=True):
            columns[loss_name(order)] = np.einsum("ij,j->i", cost(norms, noise_per_norm=scale), self._weights)
        proxies = proxies_of(
            norms,
            early=probe.early,
            residual_norms=found.early_residuals,
            own_probabilities=None if probe.loss == "squared" else found.own_probabilities,
            losses=found.losses,
        )
        columns.update(proxies)
        if self.keep_norms:
            columns["grad_norms"] = norms
        return columns, unscored


def why_unscored(row: NDArray[Any]) -> str:
    """Return what is wrong with the features of a record that has no score."""
    return "its logits or gradients overflow" if np.isfinite(row).all() else "a feature is missing, NaN or infinite"


def score_records(
    X: AnyArray,
    y: AnyArray,
    probe: ProbeCheckpoints,
    *,
    orders: Sequence[float] = (2.0,),
    keep_norms: bool = False,
    threads: int | None = None,
) -> dict[str, Array]:
    """Return privacy losses and proxies of records in memory.

    Parameters
    ----------
    X : ndarray of float32 or float64, shape (n, d)
        Finite features.
    y : ndarray
        Class numbers (softmax), 0 or 1 (logistic), or targets of the dtype of ``X`` (squared).
    probe : ProbeCheckpoints
        Checkpoints and training constants.
    orders : sequence of float
        Renyi orders, > 1.
    keep_norms : bool
        Also return ``grad_norms``, shape (n, N).
    threads : int, optional
        Threads of the kernels; all cores by default.

    Returns
    -------
    dict of ndarray of float64
        ``privacy_loss_<order>`` ([S25, arXiv 2505.18786], an *estimate*: see `expunge.accounting.privacy_loss`),
        ``average_grad_norm`` over checkpoints, ``el2n`` (norm of the residual) and ``grand`` (norm of the gradient) at
        the checkpoint nearest a tenth of training, ``c_proxy`` (mean probability of the true class over checkpoints;
        not for squared loss), and ``loss`` at the last checkpoint; each (n,).

    Raises
    ------
    TypeError, ValueError
        If an array has another dtype or shape, is not finite, or a label is out of range.

    Notes
    -----
    ``c_proxy``, ``el2n`` and ``loss`` come from logits of the dtype of ``X``.

    Examples
    --------
    >>> import numpy as np
    >>> probe = ProbeCheckpoints(weights=np.zeros((1, 2, 2)), steps=[0], loss="softmax", n_steps=10, noise_std=1.0,
    ...                          step_size=0.1, sampling_probability=1.0, batch_size=1.0)
    >>> scores = score_records(np.array([[3.0, 4.0]]), np.array([1]), probe)
    >>> {name: round(float(value[0]), 6) for name, value in scores.items()}["privacy_loss_2"]
    1.25
    """
    features = unmasked("X", X)
    for order in orders:
        real_array("orders", order, ndim=0, low=1.0, open_low=True)
    scorer = Scorer(probe, orders=orders, dtype=features.dtype, keep_norms=keep_norms, threads=threads)
    scores, unscored = scorer(features, unmasked("y", y))
    if unscored.any():
        row = int(unscored.argmax())
        raise ValueError(f"X must be finite and its logits too, got row {row}: {why_unscored(features[row])}")
    return scores
