"""What is known of every record in the window at hand: norms and the values the proxies need."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.torch.training.step import Visit

__all__ = ["Collector", "is_classification"]

UNSEEN = -1


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
    a new one.
    """

    def __init__(self, n: int, dtype: np.dtype[Any]) -> None:
        self.n = n
        self.values: dict[str, NDArray[Any]] = {
            "grad_norms": np.full(n, np.nan, dtype=dtype),
            "steps": np.full(n, UNSEEN, dtype=np.int64),
            "loss": np.full(n, np.nan, dtype=dtype),
        }
        self.was_correct = np.zeros(n, dtype=bool)
        self.forgetting_events = np.zeros(n, dtype=np.int64)

    def visit(self, step: int, visit: Visit, *, training: bool = True) -> None:
        """Take what a step saw: correctness in every visit of training, the rest where norms were taken."""
        classes = is_classification(visit.output, visit.target)
        rows = visit.rows
        if classes:
            correct = (visit.output.argmax(dim=1) == visit.target).cpu().numpy()
            if training:
                self.forgetting_events[rows] += self.was_correct[rows] & ~correct
                self.was_correct[rows] = correct
        if visit.norms is None:
            return
        self.values["grad_norms"][rows] = visit.norms.cpu().numpy()
        self.values["steps"][rows] = step
        self.values["loss"][rows] = visit.losses.cpu().numpy()
        if classes:
            p_true, el2n = _of_logits(visit.output, visit.target)
            self._put("p_true", rows, p_true.cpu().numpy())
            self._put("el2n", rows, el2n.cpu().numpy())
            self._put("correct", rows, correct)

    def _put(self, name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        if name not in self.values:
            blank = False if values.dtype == bool else np.nan
            self.values[name] = np.full(self.n, blank, dtype=bool if blank is False else self.values["loss"].dtype)
        self.values[name][rows] = values

    def column(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the values as they stand."""
        return {name: values.copy() for name, values in self.values.items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything `restore` needs."""
        return {
            **{f"value_{name}": values for name, values in self.values.items()},
            "was_correct": self.was_correct,
            "forgetting_events": self.forgetting_events,
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self.values = {
            name.removeprefix("value_"): values.copy() for name, values in state.items() if name.startswith("value_")
        }
        self.was_correct = state["was_correct"].copy()
        self.forgetting_events = state["forgetting_events"].copy()


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
