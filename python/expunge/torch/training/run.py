"""Values that a training run collected, and what follows from them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from expunge._types import AnyArray, JsonObject
from expunge._validate import number
from expunge.accounting import Estimate, privacy_loss
from expunge.grad_norms.proxies import early_checkpoint, proxies_of
from expunge.torch.training.budgets import BudgetedPrivacy, privacy_of
from expunge.torch.training.collector import UNSEEN
from expunge.torch.training.folder import RunFolder
from expunge.torch.training.privacy import TrainingPrivacy

__all__ = ["TrainingRun", "assemble", "digests_of"]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Norms and proxies of every record along one training run. Made by `train`, by an integration, or read by `load`.

    Attributes
    ----------
    settings : dict
        All arguments of `train`, as JSON values; for other loops, what was read from them.
    columns : dict of str to ndarray, shape (n, N)
        By name: ``grad_norms`` (before clipping), ``steps`` (when each was taken), ``loss``, and for classification
        ``p_true``, ``el2n`` and ``correct``. Empty if nothing was collected.
    carried : ndarray of bool, shape (n, N)
        Where a record was not visited in a window, so that its values are those of its last visit (before the first
        visit: of the first).
    marks : ndarray of int64, shape (N,)
        Windows: the steps done at their ends. Checkpoints: the steps done before them.
    forgetting_events : ndarray of int64, shape (n,)
        How often a record went from correct to wrong between two visits; 0 without classes.
    never_visited : ndarray of int64
        Records that were in no batch; their norms are those at the final weights, or NaN where another library
        trained.
    train_seconds, collect_seconds : float
        Wall time of all steps, and of the extra passes of ``collect="checkpoint"``.
    final_tensors : frozenset of str
        SHA-256 of each weight and buffer at the end of a private run; empty for other runs.
    account : dict of str to ndarray
        Of a run with `RecordBudgets`: ``spent`` and ``barred_at`` (`BudgetedPrivacy`); empty for others.
    status : str
        ``"estimate"``: one trajectory stands for its law.
    """

    settings: JsonObject
    columns: dict[str, AnyArray] = field(repr=False)
    carried: NDArray[np.bool_] = field(repr=False)
    marks: NDArray[np.int64] = field(repr=False)
    forgetting_events: NDArray[np.int64] = field(repr=False)
    never_visited: NDArray[np.int64] = field(repr=False)
    train_seconds: float
    collect_seconds: float
    folder: RunFolder | None = field(default=None, repr=False)
    final_tensors: frozenset[str] = field(default=frozenset(), repr=False)
    account: dict[str, AnyArray] = field(default_factory=dict, repr=False)
    status: str = "estimate"

    def _told(self, name: str) -> Any:
        return self.settings[name]

    @property
    def n_records(self) -> int:
        """Number of records trained on."""
        return int(self._told("n_records"))

    @property
    def n_steps(self) -> int:
        """Number of training steps."""
        return int(self._told("n_steps"))

    @property
    def collect(self) -> str:
        """How norms were collected: ``"batch"``, ``"checkpoint"`` or ``"none"``."""
        return str(self._told("collect"))

    @property
    def grad_norms(self) -> NDArray[np.floating]:
        """Norms before clipping, shape (n, N)."""
        return self._column("grad_norms")

    @property
    def steps(self) -> NDArray[np.int64]:
        """Step at which each norm was taken, shape (n, N)."""
        return self._column("steps")

    @property
    def n_carried(self) -> NDArray[np.int64]:
        """Records in each window whose values are carried, shape (N,)."""
        return np.asarray(self.carried.sum(axis=0), dtype=np.int64)

    @property
    def sampling_probability(self) -> float:
        """Probability that a record is in a batch."""
        return min(1.0, float(self._told("batch_size")) / self.n_records)

    @property
    def privacy(self) -> TrainingPrivacy | BudgetedPrivacy | None:
        """Differential privacy of the run's weights, if it was trained with ``privacy=``; None otherwise."""
        values = self.settings.get("privacy")
        if not isinstance(values, dict):
            return None
        return privacy_of(values, self.account) if "budgets" in values else TrainingPrivacy.from_dict(values)

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self.columns:
            raise ValueError(f"this run has no {name}: it was trained with collect={self.collect!r}")
        return self.columns[name]

    def privacy_losses(self, *, order: ArrayLike = 2.0, assumed_noise_std: float | None = None) -> Estimate:
        """Return the privacy loss of every record, from the norms along the run: an *estimate* [S25]_.

        Parameters
        ----------
        order : float or array_like of float, shape (n_orders,)
            Renyi orders, > 1.
        assumed_noise_std : float, optional
            Noise per step that training is assumed to have had where it had none: plain SGD has no finite privacy loss
            of its own, and what comes out is an estimate under that assumption. `run_to_run_noise` measures one.

        Returns
        -------
        Estimate of shape (n,), or (n, n_orders)

        Raises
        ------
        ValueError
            If the run had no noise and none is assumed, or had noise and some is assumed too; if it collected no norms,
            or none for some record; or if it kept budgets, and so knows what every record spent.

        Notes
        -----
        ``P_i(a) = sum over t of rho_i(theta_t; a)`` with rho the divergence of the sampled Gaussian, both directions,
        taken between a record's own steps by the rule of `expunge.accounting.quadrature_weights`. With
        ``sampling="shuffle"`` the sampling probability stands for batches that are not Poisson's.

        References
        ----------
        .. [S25] Sepahvand et al., Leveraging per-instance privacy for machine unlearning (2025), arXiv:2505.18786.
        """
        if self.account:
            raise ValueError(
                "privacy_losses are for runs without budgets: this one charged every step, see privacy.spent, which "
                "leaves out the steps that a barred record took no part in"
            )
        norms = np.asarray(self.grad_norms, dtype=np.float64)
        unknown = int(np.isnan(norms).any(axis=1).sum())
        if unknown:
            raise ValueError(
                f"{unknown} records have no norm, since no step that was measured held them (never_visited): measure "
                "more steps"
            )
        if self._told("clip") is not None:
            norms = np.minimum(norms, self._told("clip"))
        return privacy_loss(
            norms,
            order=order,
            noise_std=self._noise(assumed_noise_std),
            step_size=self._told("step_size"),
            sampling_probability=self.sampling_probability,
            batch_size=self._told("batch_size"),
            steps=self.steps,
            n_steps=self.n_steps,
        )

    def _noise(self, assumed: float | None) -> float:
        own = float(self._told("noise_std"))
        if own > 0.0:
            if assumed is not None:
                raise ValueError(f"assumed_noise_std is for runs without noise; this one had noise_std = {own:g}")
            return own
        if assumed is None:
            raise ValueError(
                "assumed_noise_std is needed: this run had no noise, so its privacy loss is infinite unless some "
                "implicit noise is assumed"
            )
        return number("assumed_noise_std", assumed, low=0.0, open_low=True)

    def proxies(self) -> dict[str, NDArray[np.float64]]:
        """Return what privacy loss is compared with, one value per record, by name.

        Returns
        -------
        dict of str to ndarray of float64, shape (n,)
            ``average_grad_norm`` over columns; ``grand`` (norm) and, for classification, ``el2n`` nearest a tenth of
            training; ``c_proxy``, the mean probability of the true class over columns; ``loss`` in the last column,
            where it was collected; ``forgetting_events``.
        """
        early = early_checkpoint(self.marks, n_steps=self.n_steps) if self.marks.size else 0
        columns = self.columns
        found = proxies_of(
            np.asarray(self.grad_norms, dtype=np.float64),
            early=early,
            residual_norms=columns["el2n"][:, early] if "el2n" in columns else None,
            own_probabilities=columns.get("p_true"),
            losses=columns["loss"][:, -1] if "loss" in columns else None,
        )
        if "p_true" in columns:
            found["forgetting_events"] = self.forgetting_events.astype(np.float64)
        return found

    def weights(self, index: int) -> dict[str, Tensor]:
        """Return the state dict kept at column ``index``; needs a folder and ``keep="weights"`` or ``"both"``."""
        if self.folder is None or self._told("keep") not in ("weights", "both"):
            raise ValueError(f"weights were not kept: keep={self.settings['keep']!r}, folder={self.folder!r}")
        return self.folder.read_weights(range(self.marks.size)[index])

    def foreign_tensor(self, weights: Mapping[str, Tensor]) -> str | None:
        """Return the name of a tensor that a private run did not end with, None if it ended with all of them.

        Parameters
        ----------
        weights : mapping of str to Tensor
            The state dict of a part of the network, or of all of it; names do not count.

        Raises
        ------
        ValueError
            If it is not known what the run ended with.
        """
        if not self.final_tensors:
            raise ValueError("final_tensors: it is not known what this run ended with, which private runs of train say")
        return next((name for name, one in weights.items() if tensor_digest(one) not in self.final_tensors), None)

    def final_weights(self) -> dict[str, Tensor]:
        """Return the state dict at the end of training, read from the run's folder."""
        if self.folder is None:
            raise ValueError("the run was not given a folder: its final weights are those of the model it trained")
        return self.folder.read_final()

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TrainingRun:
        """Read a finished run.

        Raises
        ------
        FileNotFoundError, FileFormatError
            If there is no run in the folder, or a file of it is missing or damaged.
        ValueError
            If the run is not finished.
        """
        place = RunFolder(folder)
        saved = place.read()
        if not saved.get("finished"):
            raise ValueError(f"folder: the run in {place.path} is not finished; train with resume=True")
        marks = np.asarray(saved["marks"], dtype=np.int64)
        collected = saved["settings"]["collect"] != "none"
        columns = [place.read_arrays(str(k)) for k in range(marks.size)] if collected else []
        made = assemble(saved["settings"], columns, marks, {**saved, **place.read_arrays("summary")}, place)
        return made if made.privacy is None else replace(made, final_tensors=digests_of(place.read_final()))


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's kind of numbers, shape and bytes."""
    dense = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{dense.dtype} {tuple(dense.shape)} ".encode("ascii"))
    found.update(dense.reshape(-1).view(torch.uint8).numpy().data if dense.numel() else b"")
    return found.hexdigest()


def digests_of(weights: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the digests of the tensors of a state dict."""
    return frozenset(map(tensor_digest, weights.values()))


def assemble(
    settings: dict[str, Any],
    columns: list[dict[str, AnyArray]],
    marks: NDArray[np.int64],
    summary: dict[str, Any],
    folder: RunFolder | None,
) -> TrainingRun:
    """Put columns together: mark carried values, and give records their first values before they were first seen."""
    n = settings["n_records"]
    stacked: dict[str, AnyArray] = {}
    carried = np.zeros((n, len(columns)), dtype=bool)
    if columns:
        names = columns[-1].keys()
        blank = {name: np.zeros_like(columns[-1][name]) for name in names}
        stacked = {name: np.stack([column.get(name, blank[name]) for column in columns], axis=1) for name in names}
        steps = stacked["steps"]
        unseen = steps == UNSEEN
        carried = unseen.copy()
        carried[:, 1:] |= steps[:, 1:] == steps[:, :-1]
        first = (~unseen).argmax(axis=1)
        for values in stacked.values():
            values[unseen] = np.broadcast_to(values[np.arange(n), first][:, None], values.shape)[unseen]
    return TrainingRun(
        settings=settings,
        columns=stacked,
        carried=carried,
        marks=marks,
        forgetting_events=np.asarray(summary["forgetting_events"], dtype=np.int64),
        never_visited=np.asarray(summary["never_visited"], dtype=np.int64),
        train_seconds=float(summary["train_seconds"]),
        collect_seconds=float(summary["collect_seconds"]),
        folder=folder,
        account={name: summary[name] for name in ("spent", "barred_at") if name in summary},
    )
