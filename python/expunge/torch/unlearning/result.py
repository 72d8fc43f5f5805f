"""Result of an unlearning run: its steps, its curve, and in plain words whether it reached the band."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from expunge._files import write_atomic
from expunge._types import JsonObject
from expunge.evaluation import UnlearningTime
from expunge.forget_sets import ForgetSet

__all__ = ["UnlearningCurve", "UnlearningRun"]


@dataclass(frozen=True, eq=False)
class UnlearningCurve:
    """Metrics along the way. *Estimates*.

    Attributes
    ----------
    steps : ndarray of int64, shape (E,)
        Steps done when the model was evaluated, from 0.
    values : dict of str to ndarray of float64, shape (E,)
        By name: ``"metric"``, the one that stops the run, and those recorded beside it.
    """

    steps: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    status: str = field(default="estimate", init=False)

    def to_dict(self) -> JsonObject:
        """Return the curve as JSON values."""
        return {
            "status": self.status,
            "steps": self.steps.tolist(),
            "values": {k: v.tolist() for k, v in self.values.items()},
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class UnlearningRun:
    """One unlearning run. Made by `unlearn`.

    Attributes
    ----------
    method : str
        One of `METHODS`.
    settings : dict
        All arguments of `unlearn`, as JSON values.
    forget : ForgetSet
        What was to be forgotten.
    n_steps : int
        Steps taken.
    curve : UnlearningCurve
        Metrics at the steps evaluated; empty without a metric.
    time : UnlearningTime or None
        When the metric reached the band, if both were given; prints in plain words.
    predicted_steps : float or None
        As given to `unlearn`.
    seconds, evaluation_seconds : float
        Wall time of the steps, and of the metrics.
    status : str
        ``"estimate"``: a metric inside a band certifies nothing. Retraining is exact by construction, and says so.
    """

    method: str
    settings: JsonObject
    forget: ForgetSet = field(repr=False)
    n_steps: int
    curve: UnlearningCurve = field(repr=False)
    time: UnlearningTime | None
    predicted_steps: float | None
    seconds: float
    evaluation_seconds: float
    status: str = "estimate"

    @property
    def reached(self) -> bool | None:
        """Whether the metric reached the band; None if there was none to reach."""
        return None if self.time is None else self.time.reached

    def summary(self) -> str:
        """Return what happened in plain words."""
        words = f"{self.method}: {self.n_steps} steps in {self.seconds:.2f} s"
        if self.predicted_steps is not None:
            words += f" ({self.predicted_steps:g} predicted)"
        if self.time is not None:
            words += f"; {self.time}"
        elif self.method != "retrain":
            words += "; no band was given, so nothing says whether this forgot"
        return f"{words}; {self.status}"

    def to_dict(self) -> JsonObject:
        """Return the run as JSON values."""
        time = None
        if self.time is not None:
            time = {**asdict(self.time), "reached": self.time.reached, "words": str(self.time)}
        predicted = self.predicted_steps
        return {
            "status": self.status,
            "method": self.method,
            "settings": self.settings,
            "forget": {"n_records": self.forget.n_records, "how": self.forget.how, "size": len(self.forget)},
            "n_steps": self.n_steps,
            "curve": self.curve.to_dict(),
            "time": time,
            "predicted_steps": predicted if predicted is None or np.isfinite(predicted) else str(predicted),
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "summary": self.summary(),
        }

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the run to a JSON file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool, default False
            Replace an existing file.

        Raises
        ------
        FileExistsError
            If the file exists and may not be replaced.
        """
        write_atomic(path, (json.dumps(self.to_dict(), allow_nan=False) + "\n").encode(), overwrite=overwrite)
