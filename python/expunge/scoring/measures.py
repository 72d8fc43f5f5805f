"""Scores of a block of records: gradient norms, privacy losses, and the proxies people use instead. *Estimates*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._validate import real_array
from expunge.accounting import StepCost, quadrature_weights
from expunge.grad_norms import probe_grad_norms
from expunge.scoring.checkpoints import ProbeCheckpoints

__all__ = ["Scorer", "loss_name", "proxy_names", "score_records"]

Array = NDArray[np.float64]


def loss_name(order: float) -> str:
    """Return the column name of the privacy loss at ``order``."""
    return f"privacy_loss_{order:.17g}" if float(f"{order:g}") != order else f"privacy_loss_{order:g}"


def proxy_names(loss: str) -> list[str]:
    """Return the proxies there are for a loss: C-proxy needs class probabilities."""
    names = ["average_grad_norm", "el2n", "c_proxy", "grand", "loss"]
    return [name for name in names if name != "c_proxy" or loss != "squared"]


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
        # One matrix for all checkpoints: (d, N C).
        self._flat = np.ascontiguousarray(self._stack.transpose(1, 0, 2).reshape(probe.n_features, -1))
        self._weights = quadrature_weights(probe.steps, n_steps=probe.n_steps)
        # Tables from the start: a record's score may not depend on the size of its block.
        rate = probe.sampling_probability
        self._costs = [StepCost(order=one, sampling_probability=rate).tabulate() for one in self.orders]

    def __call__(self, X: NDArray[Any], y: NDArray[Any]) -> dict[str, Array]:
        """Return the scores of records with finite features and valid labels, by column name."""
        probe = self.probe
        norms = probe_grad_norms(X, self._stack, y, loss=probe.loss, threads=self.threads)
        columns: dict[str, Array] = {}
        with np.errstate(divide="ignore"):
            scale = np.float64(probe.noise_std * probe.batch_size / probe.step_size)
        for order, cost in zip(self.orders, self._costs, strict=True):
            columns[loss_name(order)] = np.einsum("ij,j->i", cost(norms, noise_per_norm=scale), self._weights)
        proxies = self._proxies(X, y, norms)
        columns.update({name: proxies[name] for name in proxy_names(probe.loss)})
        if self.keep_norms:
            columns["grad_norms"] = norms
        return columns

    def _proxies(self, X: NDArray[Any], y: NDArray[Any], norms: Array) -> dict[str, Array]:
        probe = self.probe
        logits = (X @ self._flat).reshape(X.shape[0], probe.weights.shape[0], probe.n_outputs)
        columns = {"average_grad_norm": norms.mean(axis=1)}
        early = logits[:, probe.early].astype(np.float64)
        last = logits[:, -1].astype(np.float64)
        rows = np.arange(X.shape[0])
        if probe.loss == "squared":
            targets = y.reshape(early.shape).astype(np.float64)
            columns["el2n"] = np.linalg.norm(early - targets, axis=1)
            columns["grand"] = norms[:, probe.early].copy()
            columns["loss"] = 0.5 * np.square(last - targets).sum(axis=1)
            return columns
        if probe.loss == "logistic":
            sign = np.where(y == 1, -1.0, 1.0)
            wrong = sign[:, np.newaxis] * logits[:, :, 0]  # large where the record is badly predicted
            columns["el2n"] = _sigmoid(sign * early[:, 0])
            columns["c_proxy"] = _sigmoid(-wrong).mean(axis=1, dtype=np.float64)
            columns["grand"] = norms[:, probe.early].copy()
            columns["loss"] = np.logaddexp(0.0, sign * last[:, 0])
            return columns
        logits -= logits.max(axis=2, keepdims=True)
        np.exp(logits, out=logits)
        own = logits[rows, :, y]
        columns["c_proxy"] = (own / logits.sum(axis=2)).mean(axis=1, dtype=np.float64)
        residual = _softmax(early)
        # 1 - p_y from the other classes keeps the digits of confident records.
        residual[rows, y] = 0.0
        residual[rows, y] = -residual.sum(axis=1)
        columns["el2n"] = np.linalg.norm(residual, axis=1)
        columns["grand"] = norms[:, probe.early].copy()
        last -= last[rows, y][:, np.newaxis]
        last[rows, y] = -np.inf
        columns["loss"] = np.logaddexp(0.0, _log_sum_exp(last))
        return columns


def _softmax(logits: Array) -> Array:
    result = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(result / result.sum(axis=1, keepdims=True), dtype=np.float64)


def _sigmoid(values: NDArray[Any]) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)), dtype=np.float64)


def _log_sum_exp(logits: Array) -> Array:
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, np.newaxis]).sum(axis=1)), dtype=np.float64)


def score_records(
    X: NDArray[Any],
    y: NDArray[Any],
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
        ``privacy_loss_<order>`` ([S25], an *estimate*: see `expunge.accounting.privacy_loss`), ``average_grad_norm``
        over checkpoints, ``el2n`` (norm of the residual) and ``grand`` (norm of the gradient) at the checkpoint
        nearest a tenth of training, ``c_proxy`` (mean probability of the true class over checkpoints; not for squared
        loss), and ``loss`` at the last checkpoint; each (n,).

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
    features = np.asarray(X)
    if not np.isfinite(features).all():
        raise ValueError("X must be finite")
    for order in orders:
        real_array("orders", order, ndim=0, low=1.0, open_low=True)
    scorer = Scorer(probe, orders=orders, dtype=features.dtype, keep_norms=keep_norms, threads=threads)
    return scorer(features, np.asarray(y))
