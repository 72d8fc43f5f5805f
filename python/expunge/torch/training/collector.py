"""Norms of every record in the current window, and the values that the proxies need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.torch.training.step import Visit

__all__ = ["Collector", "is_classification"]

UNSEEN = -1
MOST_HELD = 1 << 20


def is_classification(output: Any, target: Tensor) -> bool:
    """Return whether outputs are logits of classes and targets class numbers."""
    return (
        isinstance(output, Tensor)
        and output.ndim == 2
        and output.shape[1] >= 2
        and target.ndim == 1
        and not target.is_floating_point()
        and target.dtype != torch.bool
    )


class Collector:
    """Last known values of every record.

    A record that a window does not visit keeps what it had, its step included: that is how a carried value is told from
    a new one. Visits are processed many at a time, since a step is often shorter than the work it causes.
    """

    def __init__(self, n: int, dtype: np.dtype[Any]) -> None:
        self.n = n
        self._values: dict[str, NDArray[Any]] = {
            "grad_norms": np.full(n, np.nan, dtype=dtype),
            "steps": np.full(n, UNSEEN, dtype=np.int64),
            "loss": np.full(n, np.nan, dtype=dtype),
        }
        self._was_correct = np.zeros(n, dtype=bool)
        self._forgetting_events = np.zeros(n, dtype=np.int64)
        self._waiting: list[tuple[int, Visit, bool]] = []
        self._held = 0  # numbers in the outputs that wait

    def visit(self, step: int, visit: Visit, *, training: bool = True) -> None:
        """Take what a step saw: correctness in every visit of training, the rest where norms were taken."""
        if not is_classification(visit.output, visit.target):
            visit.output = None
            if visit.norms is None:
                return
        self._waiting.append((step, visit, training))
        self._held += visit.rows.size if visit.output is None else visit.output.numel()
        if self._held > MOST_HELD:
            self._work_off()

    def _work_off(self) -> None:
        waiting, self._waiting, self._held = self._waiting, [], 0
        with_logits = [visit for _, visit, _ in waiting if visit.output is not None]
        if with_logits:
            logits, target = _joined(v.output for v in with_logits), _joined(v.target for v in with_logits)
            correct = (logits.argmax(dim=1) == target).cpu().numpy()
            end = np.cumsum([v.rows.size for v in with_logits])
            right = {id(v): part for v, part in zip(with_logits, np.split(correct, end[:-1]), strict=True)}
            for _, visit, training in waiting:
                if training and visit.output is not None:
                    rows, now = visit.rows, right[id(visit)]
                    self._forgetting_events[rows] += self._was_correct[rows] & ~now
                    self._was_correct[rows] = now
        measured = [(step, visit) for step, visit, _ in waiting if visit.norms is not None]
        if not measured:
            return
        # A record seen twice: the later visit is written last.
        rows = np.concatenate([visit.rows for _, visit in measured])
        self._values["steps"][rows] = np.repeat([step for step, _ in measured], [v.rows.size for _, v in measured])
        self._values["grad_norms"][rows] = _joined(v.norms for _, v in measured).cpu().numpy()
        self._values["loss"][rows] = _joined(v.losses for _, v in measured).cpu().numpy()
        classes = [visit for _, visit in measured if visit.output is not None]
        if classes:
            rows = np.concatenate([visit.rows for visit in classes])
            p_true, el2n = _of_logits(_joined(v.output for v in classes), _joined(v.target for v in classes))
            self._put("p_true", rows, p_true.cpu().numpy())
            self._put("el2n", rows, el2n.cpu().numpy())
            self._put("correct", rows, np.concatenate([right[id(visit)] for visit in classes]))

    def _put(self, name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        if name not in self._values:
            blank = False if values.dtype == bool else np.nan
            self._values[name] = np.full(self.n, blank, dtype=bool if blank is False else self._values["loss"].dtype)
        self._values[name][rows] = values

    def never_visited(self) -> NDArray[np.int64]:
        """Return the records without a norm so far."""
        self._work_off()
        return np.flatnonzero(self._values["steps"] == UNSEEN)

    def forgetting_events(self) -> NDArray[np.int64]:
        """Return how often every record was wrong after it had been right, visit by visit."""
        self._work_off()
        return self._forgetting_events

    def column(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the values as they stand."""
        self._work_off()
        return {name: values.copy() for name, values in self._values.items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything `restore` needs."""
        self._work_off()
        return {
            **{f"value_{name}": values for name, values in self._values.items()},
            "was_correct": self._was_correct,
            "forgetting_events": self._forgetting_events,
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self._values = {
            name.removeprefix("value_"): values.copy() for name, values in state.items() if name.startswith("value_")
        }
        self._was_correct = state["was_correct"].copy()
        self._forgetting_events = state["forgetting_events"].copy()


def _joined(parts: Iterable[Any]) -> Tensor:
    return torch.cat(list(parts))


@torch.no_grad()
def _of_logits(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of the true class and the norm of the residual, EL2N."""
    probabilities = logits.softmax(dim=1)
    at = target[:, None]
    p_true = probabilities.gather(1, at)[:, 0]
    # 1 - p_y from the other classes keeps the digits of confident records.
    residual = probabilities.scatter(1, at, 0.0)
    el2n = (residual.square().sum(dim=1) + residual.sum(dim=1).square()).sqrt()
    return p_true, el2n
