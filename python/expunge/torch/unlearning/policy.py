"""A policy that chooses for each request what to do: the cheapest that gives what is asked for, never less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import choice, number, plain_array, row_indices
from expunge.torch.training.run import TrainingRun
from expunge.torch.unlearning.calibration import StepCalibration
from expunge.torch.unlearning.plan import GUARANTEES, UnlearningChoice, UnlearningOption, UnlearningPlan

__all__ = ["UnlearningPolicy"]

_NONE = "none"


class _Claim(Protocol):
    @property
    def epsilon(self) -> float: ...


class _Quote(Protocol):
    @property
    def passes(self) -> NDArray[np.int64]: ...


class _Certificate(Protocol):
    @property
    def status(self) -> str: ...

    @property
    def delta(self) -> float: ...


class Head(Protocol):
    """A certified head on features of the run's network: `expunge.CertifiedHead`, fitted."""

    @property
    def certificate_(self) -> _Certificate:
        """Certificate of its last release."""

    @property
    def ids_(self) -> NDArray[Any]:
        """Ids of the records it has."""

    @property
    def releases_left_(self) -> int:
        """Releases that its budget allows."""

    def claim_after(self, *, n_more: int) -> _Claim:
        """Return the claim once so many more records have left."""

    def quote(self, ids: ArrayLike | None = None) -> _Quote:
        """Return what deletions take."""


class UnlearningPolicy:
    """Chooses how to answer requests to forget records of a training run.

    Parameters
    ----------
    run : TrainingRun
        Of `expunge.torch.train`.
    head : CertifiedHead, optional
        A fitted head on features of the run's network: what is released is then backbone and head.
    calibration : StepCalibration, optional
        Of fine-tuning, by privacy losses of this order and noise (`calibrate_steps`).
    ids : array_like of shape (n_records,), optional
        Ids under which the head knows the records of the run; their row numbers by default.
    order, assumed_noise_std
        As `TrainingRun.privacy_losses`; those that the calibration was made with.
    n_left : int
        Records that have left before, on which claims of a private run are counted.

    Notes
    -----
    Denied by default: a request for a certificate is never met by an estimate or a conditional claim, and retraining
    meets every request. Claims count all records of the plan up to the request. A plan is about the model that the run
    ended with: once a request was answered by fine-tuning or retraining, make another with the model that resulted.

    Examples
    --------
    >>> import torch
    >>> from expunge.torch import UnlearningPolicy, calibrate_steps, train
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 5), torch.arange(64) % 2
    >>> run = train(torch.nn.Linear(5, 2), (x, y), step_size=0.1, batch_size=16, epochs=20, noise_std=0.01)
    >>> pilots = calibrate_steps([1.0, 2.0, 4.0, 8.0, 16.0], [1, 3, 4, 8, 9], most_steps=50, coverage=0.8)
    >>> policy = UnlearningPolicy(run, calibration=pilots)
    >>> [policy.plan([[3, 4]], guarantee=asked).choices[0].chosen.name for asked in ("estimate", "certified")]
    ['fine_tune', 'retrain']
    """

    def __init__(
        self,
        run: TrainingRun,
        *,
        head: Head | None = None,
        calibration: StepCalibration | None = None,
        ids: ArrayLike | None = None,
        order: float = 2.0,
        assumed_noise_std: float | None = None,
        n_left: int = 0,
    ) -> None:
        if not isinstance(run, TrainingRun):
            raise TypeError(f"run must be a TrainingRun, got {type(run).__name__}")
        if calibration is not None and not isinstance(calibration, StepCalibration):
            raise TypeError(f"calibration must be a StepCalibration, got {type(calibration).__name__}")
        if head is not None and not hasattr(head, "claim_after"):
            raise TypeError(f"head must be a CertifiedHead, got {type(head).__name__}")
        self.run, self.head, self.calibration = run, head, calibration
        self.ids = np.arange(run.n_records) if ids is None else plain_array("ids", ids)
        if self.ids.shape != (run.n_records,):
            raise ValueError(f"ids must have shape ({run.n_records},), got {self.ids.shape}")
        if isinstance(n_left, bool) or not isinstance(n_left, (int, np.integer)) or n_left < 0:
            raise ValueError(f"n_left must be an integer >= 0, got {n_left!r}")
        self.n_left = int(n_left)
        self._losses: NDArray[np.float64] | None = None
        self._no_losses = "no calibration was given"
        if calibration is not None:
            try:
                found = run.privacy_losses(order=number("order", order), assumed_noise_std=assumed_noise_std)
                self._losses = np.asarray(found, dtype=np.float64)
            except ValueError as error:  # what the run lacks is the reason why this option is closed
                self._no_losses = f"the run has no privacy losses: {error}"

    def plan(
        self,
        requests: Sequence[ArrayLike],
        *,
        guarantee: str = "certified",
        epsilon: float | None = None,
        delta: float | None = None,
    ) -> UnlearningPlan:
        """Choose for each request, in the order given.

        Parameters
        ----------
        requests : sequence of array_like of int
            Rows of the dataset to forget together, each record once.
        guarantee : {"certified", "conditional", "estimate", "exact by construction"}
            Least standing of what is done.
        epsilon, delta : float, optional
            Of a claim; both needed for "certified" and "conditional" to be met by anything but retraining.

        Returns
        -------
        UnlearningPlan

        Raises
        ------
        TypeError, ValueError
            If a request is empty, names a record twice or one that another names, or an argument is out of range.
        """
        asked = choice("guarantee", guarantee, GUARANTEES)
        if (epsilon is None) != (delta is None):
            raise ValueError(f"epsilon and delta must be given together, got {epsilon!r} and {delta!r}")
        if epsilon is not None and delta is not None:
            epsilon = number("epsilon", epsilon, low=0.0)
            delta = number("delta", delta, low=0.0, high=1.0)
        rows = [row_indices("requests", one, self.run.n_records) for one in requests]
        if not rows:
            raise ValueError("requests must hold at least one request, got none")
        values, times = np.unique(np.concatenate(rows), return_counts=True)
        if (times > 1).any():
            raise ValueError(f"requests must name a record once, got record {values[times > 1][0]} in two")
        if values.size == self.run.n_records:
            raise ValueError("requests must leave a record, got all of them")
        choices, gone = [], 0
        for request in rows:
            gone += request.size
            options = tuple(
                _judged(one, asked, epsilon, delta)
                for one in (
                    self._release(gone, delta), self._head(request, gone), self._fine_tune(request), self._retrain(gone)
                )
            )  # fmt: skip
            chosen = min((one for one in options if one.meets), key=lambda one: float(one.passes or 0.0))
            loss = None if self._losses is None else float(self._losses[request].mean())
            choices.append(UnlearningChoice(request=request, privacy_loss=loss, options=options, chosen=chosen))
        return UnlearningPlan(
            guarantee=asked, epsilon=epsilon, delta=delta, choices=tuple(choices), retrain_passes=self._passes(
                self.run.n_steps
            ),
        )  # fmt: skip

    def _passes(self, n_steps: int, n_gone: int = 0) -> float:
        return n_steps * float(self.run.settings["batch_size"]) / (self.run.n_records - n_gone)  # type: ignore[arg-type]

    def _release(self, gone: int, delta: float | None) -> UnlearningOption:
        private = self.run.privacy
        if private is None:
            return UnlearningOption(
                name="release", status=_NONE, gradient_steps=0, passes=0.0,
                reason="the run was trained without privacy=, and its weights hold what is to be forgotten",
            )  # fmt: skip
        at = delta if delta is not None else getattr(private, "delta", None)
        if at is None:
            return UnlearningOption(
                name="release", status=_NONE, gradient_steps=0, passes=0.0,
                reason="no delta was asked for, at which the run's budgets have an epsilon",
            )  # fmt: skip
        size = self.n_left + gone
        return UnlearningOption(
            name="release", status=private.status, epsilon=private.group_epsilon(size=size, delta=at), delta=at,
            gradient_steps=0, passes=0.0, reason=f"the privacy of the training, for {size} records together",
        )  # fmt: skip

    def _head(self, request: NDArray[np.int64], gone: int) -> UnlearningOption:
        if self.head is None:
            return UnlearningOption(name="head", status=_NONE, reason="no head was given")
        ids = self.ids[request]
        missing = ids[~np.isin(ids, self.head.ids_)]
        if missing.size:
            return UnlearningOption(name="head", status=_NONE, reason=f"the head has no record {missing[0]!r}")
        if self.head.releases_left_ < 1:
            return UnlearningOption(name="head", status=_NONE, reason="the head's budget of releases is spent")
        try:
            claim = self.head.claim_after(n_more=gone)
        except ValueError as error:
            return UnlearningOption(name="head", status=_NONE, reason=f"no finite epsilon is left: {error}")
        passes = float(np.max(self.head.quote(ids).passes))
        certificate = self.head.certificate_
        return UnlearningOption(
            name="head", status=certificate.status, epsilon=claim.epsilon, delta=certificate.delta, gradient_steps=0,
            passes=passes, reason="the certificate of backbone and head, for all records that will have left",
        )  # fmt: skip

    def _fine_tune(self, request: NDArray[np.int64]) -> UnlearningOption:
        if self.calibration is None or self._losses is None:
            return UnlearningOption(name="fine_tune", status=_NONE, reason=self._no_losses)
        loss = float(self._losses[request].mean())
        if not loss > 0.0:
            return UnlearningOption(name="fine_tune", status=_NONE, reason=f"the privacy loss is {loss:g}")
        steps = int(self.calibration.steps(loss))
        return UnlearningOption(
            name="fine_tune", status="estimate", gradient_steps=steps, passes=self._passes(steps, request.size),
            reason=f"calibrated on {self.calibration.n_pilots} pilot sets; certifies nothing",
        )  # fmt: skip

    def _retrain(self, gone: int) -> UnlearningOption:
        n_steps = self.run.n_steps
        return UnlearningOption(
            name="retrain", status=GUARANTEES[-1], epsilon=0.0, delta=0.0, gradient_steps=n_steps,
            passes=self._passes(n_steps, min(gone, self.run.n_records - 1)), reason="never saw the records",
        )  # fmt: skip


def _judged(one: UnlearningOption, asked: str, epsilon: float | None, delta: float | None) -> UnlearningOption:
    """Return the option with whether it gives what is asked for; what is not proved not to fall short, does."""
    if one.name == "retrain":
        return _with(one, meets=True, reason=one.reason)
    if one.status == _NONE or not one.possible:
        return one
    if one.status not in GUARANTEES or GUARANTEES.index(one.status) < GUARANTEES.index(asked):
        return _with(one, meets=False, reason=f"{one.status}, where {asked} was asked for")
    if one.epsilon is None or one.delta is None:
        meets = one.status == "estimate" == asked and epsilon is None
        return _with(one, meets=meets, reason=one.reason if meets else "claims no epsilon, and one was asked for")
    if epsilon is None or delta is None:
        return _with(one, meets=False, reason=f"epsilon = {one.epsilon:g}, and none was asked for that it could meet")
    if one.epsilon <= epsilon and one.delta <= delta:
        return _with(one, meets=True, reason=one.reason)
    words = f"({one.epsilon:g}, {one.delta:g}), where ({epsilon:g}, {delta:g}) was asked for"
    return _with(one, meets=False, reason=words)


def _with(one: UnlearningOption, *, meets: bool, reason: str) -> UnlearningOption:
    return UnlearningOption(**{**asdict(one), "meets": meets, "reason": reason})
