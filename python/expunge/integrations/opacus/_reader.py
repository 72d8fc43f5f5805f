"""Norms of a run that Opacus trains, per record and step, as per-record accounting takes them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping

from expunge import _validate
from expunge.accounting import rdp
from expunge.accounting.rdp import CompositionRDP, Estimate

__all__ = ["NormReader", "OpacusRun", "composition_rdp"]

Float64 = NDArray[np.float64]
_UNSEEN = -1


@dataclass(frozen=True, kw_only=True)
class OpacusRun:
    """Norms of every record along one run of DP-SGD. Made by `NormReader`.

    Attributes
    ----------
    grad_norms : ndarray of float64, shape (n, N)
        Norms before clipping, in N windows: that of the record's last visit so far; before its first visit, that of the
        first window that has one. For a record that no batch ever held, ``l2_bound``, which no clipped gradient
        exceeds.
    steps : ndarray of int64, shape (n, N)
        The step at which each was taken; repeated where a norm was carried on.
    n_steps : int
        Steps of the optimizer.
    never_visited : ndarray of int64
        Records that no batch held.
    l2_bound : float
        What Opacus clipped to, ``max_grad_norm``.
    noise_multiplier : float
        Noise per step over ``l2_bound``.
    sampling_probability : float
        Probability that a record is in a batch.
    status : str
        ``"estimate"``: one trajectory stands for its law.
    """

    grad_norms: Float64 = field(repr=False)
    steps: NDArray[np.int64] = field(repr=False)
    n_steps: int
    never_visited: NDArray[np.int64] = field(repr=False)
    l2_bound: float
    noise_multiplier: float
    sampling_probability: float
    status: str = "estimate"

    @property
    def clipped_norms(self) -> Float64:
        """Norms after clipping, shape (n, N)."""
        return np.minimum(self.grad_norms, self.l2_bound)

    def privacy_losses(self, *, order: ArrayLike = 2.0) -> Estimate:
        """Return the privacy loss of every record: `expunge.accounting.privacy_loss` of this run, an *estimate*.

        Parameters
        ----------
        order : float or array_like of float, shape (n_orders,)
            Renyi orders, > 1.

        Returns
        -------
        Estimate of shape (n,), or (n, n_orders)
        """
        return rdp.privacy_loss(self.clipped_norms, order=order, steps=self.steps, **self._settings())

    def _settings(self) -> dict[str, Any]:
        # Noise beside a record's own part is all that counts: learning rates, momentum and Adam come after it.
        return {
            "noise_std": self.noise_multiplier * self.l2_bound,
            "step_size": 1.0,
            "batch_size": 1.0,
            "sampling_probability": self.sampling_probability,
            "n_steps": self.n_steps,
        }


def composition_rdp(
    runs: OpacusRun | Sequence[OpacusRun], *, order: float, direction: str = "both", p: ArrayLike | None = None
) -> CompositionRDP:
    """Return the Renyi divergence of training with and without each record: `expunge.accounting.composition_rdp`.

    The bound on norms is Opacus' clipping, so it holds for every run (``bound_source="given"``).

    Parameters
    ----------
    runs : OpacusRun or sequence of them
        Independent runs on the same records from the same start, with the same settings and numbers of steps.
    order, direction, p
        As in `expunge.accounting.composition_rdp`.

    Returns
    -------
    CompositionRDP

    Raises
    ------
    ValueError
        If there is no run, or runs differ in their settings.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.integrations.opacus import OpacusRun, composition_rdp
    >>> run = OpacusRun(grad_norms=np.ones((2, 3)), steps=np.tile(np.arange(3), (2, 1)), n_steps=3,
    ...                 never_visited=np.array([], dtype=int), l2_bound=1.0, noise_multiplier=1.0,
    ...                 sampling_probability=0.5)
    >>> composition_rdp([run, run], order=2.0).bound_source
    'given'
    """
    several = [runs] if isinstance(runs, OpacusRun) else list(runs)
    if not several:
        raise ValueError("runs must hold at least one run, got none")
    first = several[0]
    for index, run in enumerate(several):
        mine, needed = (
            (r.l2_bound, r.noise_multiplier, r.sampling_probability, r.n_steps, r.grad_norms.shape)
            for r in (run, first)
        )
        if mine != needed:
            raise ValueError(
                f"runs must share l2_bound, noise_multiplier, sampling_probability, n_steps and the shape of norms, "
                f"{needed}; run {index} has {mine}"
            )
    return rdp.composition_rdp(
        np.stack([run.clipped_norms for run in several]),
        order=order,
        l2_bound=first.l2_bound,
        bound_source="given",
        direction=direction,
        p=p,
        steps=np.stack([run.steps for run in several]),
        **first._settings(),
    )


class NormReader:
    """Reads per-record gradient norms from Opacus, step by step, in your own training loop.

    Works with per-sample gradients (``grad_sample_mode="hooks"``) and with ghost clipping (``"ghost"``), virtual steps
    of ``BatchMemoryManager`` included. Call `read` with the records of a batch between ``loss.backward()`` and
    ``optimizer.step()``, and `finish` at the end.

    Parameters
    ----------
    optimizer : opacus.optimizers.DPOptimizer
        What ``PrivacyEngine.make_private`` returned. Clipping, noise and batch size must stay as they are.
    n_records : int
        Number of records of the data set.
    sampling_probability : float
        Probability that a record is in a batch: ``sample_rate`` of Opacus' data loader.
    every : int
        Steps of a window: of each record's visits in a window, the last is kept.

    Raises
    ------
    TypeError
        If the optimizer is not one of Opacus'.

    Notes
    -----
    A record's norm says how much the training depends on it. It is not private: neither norms nor what is computed
    from them may be published as they are.

    Examples
    --------
    >>> import torch, warnings
    >>> from opacus import PrivacyEngine
    >>> from expunge.integrations.opacus import NormReader
    >>> data = torch.utils.data.TensorDataset(torch.randn(20, 3), torch.randn(20, 1), torch.arange(20))
    >>> model = torch.nn.Linear(3, 1)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # of Opacus: not for production
    ...     model, optimizer, loader = PrivacyEngine().make_private(
    ...         module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), noise_multiplier=1.0,
    ...         data_loader=torch.utils.data.DataLoader(data, batch_size=5), max_grad_norm=1.0)
    ...     reader = NormReader(optimizer, n_records=20, sampling_probability=loader.sample_rate)
    ...     for x, y, rows in loader:
    ...         optimizer.zero_grad()
    ...         (model(x) - y).square().mean().backward()
    ...         reader.read(rows)
    ...         _ = optimizer.step()
    >>> run = reader.finish()
    >>> run.privacy_losses(order=2.0).shape
    (20,)
    """

    def __init__(self, optimizer: DPOptimizer, *, n_records: int, sampling_probability: float, every: int = 1) -> None:
        if not isinstance(optimizer, DPOptimizer):
            raise TypeError(f"optimizer must be a DPOptimizer of Opacus, got {type(optimizer).__name__}")
        self._optimizer = optimizer
        self._n = _validate.count("n_records", n_records, low=1)
        self._rate = _validate.number("sampling_probability", sampling_probability, low=0.0, high=1.0, open_low=True)
        self._every = _validate.count("every", every, low=1)
        self._settings = self._current()
        self._norms = np.full(self._n, np.nan)
        self._at = np.full(self._n, _UNSEEN, dtype=np.int64)
        self._columns: list[tuple[Float64, NDArray[np.int64]]] = []
        self._in_step: list[NDArray[np.int64]] = []
        self._step = 0
        self._finished = False
        self._last: dict[Any, Any] = {}  # what was read last, so that nothing is read twice
        # Opacus has one place for a hook, and its accountant may sit there.
        self._before = optimizer.step_hook
        self._hook = self._stepped
        optimizer.attach_step_hook(self._hook)

    def _current(self) -> tuple[float, float]:
        multiplier = getattr(self._optimizer, "_adjusted_noise_multiplier", self._optimizer.noise_multiplier)
        bound = self._optimizer.max_grad_norm
        if not isinstance(bound, (int, float)):
            raise TypeError(f"max_grad_norm must be one number for all parameters, got {type(bound).__name__}")
        return float(bound), float(multiplier)

    def read(self, rows: ArrayLike | torch.Tensor) -> None:
        """Take the norms of the batch that just ran backward.

        Parameters
        ----------
        rows : integer array or tensor of shape (B,)
            The batch's records, within [0, n_records), in its order; none twice in one step.

        Raises
        ------
        TypeError
            If rows are not integers.
        ValueError
            If they are out of range, repeat within a step, or are not as many as the batch has norms.
        RuntimeError
            After `finish`, or if nothing ran backward since the last call.
        """
        if self._finished:
            raise RuntimeError("read must be called before finish")
        found = np.asarray(rows.cpu() if isinstance(rows, torch.Tensor) else rows)
        if found.dtype.kind not in "iu" and found.size:
            raise TypeError(f"rows must hold integers, got dtype {found.dtype}")
        found = found.astype(np.int64)
        norms = self._norms_of_batch()
        if found.shape != norms.shape:
            raise ValueError(f"rows must have shape {norms.shape}, one per example of the batch, got {found.shape}")
        if found.size and not (found.min() >= 0 and found.max() < self._n):
            raise ValueError(f"rows must be within [0, {self._n}), got {found[(found < 0) | (found >= self._n)][0]}")
        seen, counts = np.unique(np.concatenate([*self._in_step, found]), return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"rows must not repeat within a step, got {seen[counts > 1][0]} twice")
        if not np.isfinite(norms).all():
            raise ValueError(f"gradient norms must be finite, got {norms[~np.isfinite(norms)][0]} in step {self._step}")
        self._in_step.append(found)
        self._norms[found], self._at[found] = norms, self._step

    def _norms_of_batch(self) -> Float64:
        ghost = isinstance(self._optimizer, DPOptimizerFastGradientClipping)
        squares: Any = 0.0
        for parameter in self._optimizer.params:
            sample: Any = getattr(parameter, "_norm_sample" if ghost else "grad_sample", None)
            if isinstance(sample, list):  # several batches in one step
                sample = sample[-1]
            if sample is None or self._last.get(parameter, lambda: None)() is sample:
                raise RuntimeError("read must be called once after every backward, before the optimizer's step")
            self._last[parameter] = weakref.ref(sample)
            own = sample.detach().double()
            squares = squares + (own.abs() if own.ndim == 1 else own.flatten(1).norm(dim=1)).cpu().square()
        return np.asarray(squares.sqrt().numpy(), dtype=np.float64)

    def _stepped(self, optimizer: Any) -> None:
        if self._before is not None:
            self._before(optimizer)
        if self._current() != self._settings:
            raise RuntimeError(
                f"max_grad_norm and noise_multiplier must stay as they were, {self._settings}, got {self._current()}"
            )
        self._step += 1
        self._in_step = []
        if self._step % self._every == 0:
            self._columns.append((self._norms.copy(), self._at.copy()))

    def finish(self) -> OpacusRun:
        """Return the run, and give Opacus its hook back.

        Returns
        -------
        OpacusRun

        Raises
        ------
        RuntimeError
            If the optimizer made no step, or none since the last batch was read, or `finish` was called before.
        """
        if self._finished or self._step == 0 or self._in_step:
            raise RuntimeError("finish must be called once, after a step of the optimizer for all batches read")
        self._finished = True
        if self._optimizer.step_hook == self._hook:
            self._optimizer.step_hook = self._before
        if self._step % self._every:
            self._columns.append((self._norms.copy(), self._at.copy()))
        norms = np.stack([column for column, _ in self._columns], axis=1)
        steps = np.stack([column for _, column in self._columns], axis=1)
        bound, multiplier = self._settings
        never = steps[:, -1] == _UNSEEN
        norms[never], steps[never] = bound, 0
        # Before its first visit a record has the norm of the first window with one.
        first = (steps != _UNSEEN).argmax(axis=1)
        early = steps == _UNSEEN
        norms = np.where(early, np.take_along_axis(norms, first[:, None], axis=1), norms)
        steps = np.where(early, np.take_along_axis(steps, first[:, None], axis=1), steps)
        return OpacusRun(
            grad_norms=norms,
            steps=steps,
            n_steps=self._step,
            never_visited=np.flatnonzero(never),
            l2_bound=bound,
            noise_multiplier=multiplier,
            sampling_probability=self._rate,
        )
