"""The unlearning engine: a method, steps, a metric on the way, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm import tqdm

from expunge._types import MapDataset
from expunge._validate import choice, count, number
from expunge.evaluation import Band, UnlearningTime, time_to_unlearn
from expunge.forget_sets import ForgetSet
from expunge.torch._arguments import noise_per_step, place_of, require_loss, require_model
from expunge.torch.training.records import Records
from expunge.torch.training.sampling import stream_seed
from expunge.torch.training.step import Loss, cross_entropy
from expunge.torch.unlearning.result import UnlearningCurve, UnlearningRun
from expunge.torch.unlearning.walk import Walk, evaluating, now

__all__ = ["METHODS", "Settings", "unlearn"]

METHODS = ("retrain", "fine_tune", "noisy_fine_tune", "gradient_ascent", "neg_grad_plus")

Metric = Callable[[nn.Module], float]


def unlearn(
    model: nn.Module,
    dataset: MapDataset,
    forget: ForgetSet | ArrayLike,
    *,
    method: str,
    step_size: float,
    batch_size: int,
    n_steps: int | None = None,
    epochs: int | None = None,
    loss: Loss = cross_entropy,
    sampling: str = "shuffle",
    noise_std: float | None = None,
    temperature: float | None = None,
    clip: float | None = None,
    alpha: float = 0.0,
    ascent_weight: float = 1.0,
    initial_state: Mapping[str, Tensor] | None = None,
    metric: Metric | None = None,
    band: Band | None = None,
    record: Mapping[str, Metric] | None = None,
    evaluate_every: int = 10,
    patience: int = 1,
    stop: bool = True,
    predicted_steps: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> UnlearningRun:
    """Unlearn a forget set in place, and say when a metric reached the band of retrained models.

    Parameters
    ----------
    model : torch.nn.Module
        Trained on the whole of ``dataset``; steps are taken in the mode it is in.
    dataset : torch.utils.data.Dataset, or pair of tensors
        What it was trained on, forgotten records included, as `train` takes it.
    forget : ForgetSet, or array_like of int
        What to forget.
    method : {"retrain", "fine_tune", "noisy_fine_tune", "gradient_ascent", "neg_grad_plus"}
        Train again on the retained records from ``initial_state``, which forgets exactly; SGD on the retained records;
        the same with noise; ascent of the loss of the forgotten records; or descent on the retained and, times
        ``ascent_weight``, ascent on the forgotten records (NegGrad+ [K23]_).
    step_size, batch_size, n_steps, epochs, loss, sampling, clip, alpha, device
        As in `train`; an epoch is a pass over the records the method reads, of the retained ones if there are two
        kinds. A clipped gradient is that of a record's contribution, ``ascent_weight`` included. ``n_steps`` is the
        most steps that are taken.
    noise_std, temperature : float, optional
        As in `train`: needed, > 0, for "noisy_fine_tune"; optional for "retrain"; rejected otherwise.
    ascent_weight : float
        > 0, for "neg_grad_plus".
    initial_state : mapping, optional
        State dict to retrain from; needed for "retrain" alone.
    metric : callable, optional
        ``metric(model)`` -> a finite number, at the start, every ``evaluate_every`` steps, and at the end. The model's
        mode is put back and its random state kept, so that evaluating changes no step.
    band : Band, optional
        The band of retrained models by that metric (`expunge.evaluation.reference_band`).
    record : mapping of str to callable, optional
        Further metrics to record at the same steps.
    evaluate_every : int
        Steps between evaluations.
    patience : int
        Evaluations in a row inside the band that count as having reached it.
    stop : bool
        Stop once the band is reached; otherwise take all steps.
    predicted_steps : float, optional
        A prediction to keep with the result (`predict_steps`, `LogFit.predict`).
    seed : int
        Of batches, noise and dropout. Noise has a stream of its own, so that a reused seed never repeats training's.
        Retraining is exactly `train` on the retained records with this seed.
    progress : bool
        Show a bar, on a terminal.

    Returns
    -------
    UnlearningRun
        An *estimate* unless retrained: `UnlearningRun.summary` says in words whether the band was reached.

    Raises
    ------
    NonFiniteLossError
        If a loss, or at the end a weight, is not finite: with the step and the records of its batch. Gradient ascent
        gets there if it runs for long.
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, the forget set is empty, the whole dataset or of another
        one, or a metric is not finite.

    References
    ----------
    .. [K23] Kurmanji et al., Towards unbounded machine unlearning (2023), arXiv:2302.09880, section 4.

    Examples
    --------
    >>> import torch
    >>> from expunge.evaluation import reference_band
    >>> from expunge.torch import train, unlearn
    >>> _ = torch.manual_seed(0)
    >>> x, model = torch.randn(64, 5), torch.nn.Linear(5, 2)
    >>> y = (x[:, 0] > 0).long()
    >>> _ = train(model, (x, y), step_size=0.5, batch_size=16, epochs=20)
    >>> def forget_loss(model):
    ...     return float(torch.nn.functional.cross_entropy(model(x[:8]), y[:8]).detach())
    >>> run = unlearn(model, (x, y), range(8), method="noisy_fine_tune", step_size=0.5, batch_size=16, n_steps=60,
    ...               noise_std=0.01, metric=forget_loss, band=reference_band([0.0, 1.0], method="range"))
    >>> run.n_steps, run.reached, run.status
    (0, True, 'estimate')
    """
    method = choice("method", method, METHODS)
    settings = Settings.of(
        model, dataset, forget, method=method, step_size=step_size, batch_size=batch_size, loss=loss,
        sampling=sampling, noise_std=noise_std, temperature=temperature, clip=clip, alpha=alpha,
        ascent_weight=ascent_weight, seed=seed, device=device,
    )  # fmt: skip
    most = settings.most_steps(n_steps, epochs)
    if (method == "retrain") != (initial_state is not None):
        raise ValueError("initial_state must be given for method 'retrain', and for no other")
    every, patience = count("evaluate_every", evaluate_every, low=1), count("patience", patience, low=1)
    if band is not None and not isinstance(band, Band):
        raise TypeError(f"band must be a Band (see expunge.evaluation.reference_band), got {type(band).__name__}")
    if band is not None and metric is None:
        raise ValueError("metric must be given with band, got None")
    metrics = dict(record or {})
    if "metric" in metrics:
        raise ValueError("record must not hold the name 'metric'")
    if metric is not None:
        metrics = {"metric": metric, **metrics}
    if predicted_steps is not None:
        predicted_steps = number("predicted_steps", predicted_steps, low=0.0, allow_infinite=True)
    if initial_state is not None:
        model.load_state_dict(initial_state)
    walk, place = settings.walk(), settings.records.device
    curve, reached = _Curve(metrics, band, patience), None
    seconds = 0.0
    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        tqdm(total=most, unit="step", desc=method, disable=None if progress else True) as bar,
    ):
        reached = curve.evaluate(model, 0, place)
        while walk.n_taken < most and not (stop and reached is not None and reached.reached):
            started = now(place)
            taken = min(every - walk.n_taken % every, most - walk.n_taken)
            for _ in range(taken):
                walk.take()
            seconds += now(place) - started
            bar.update(taken)
            walk.check_weights()
            reached = curve.evaluate(model, walk.n_taken, place)
    return UnlearningRun(
        method=method,
        settings={
            **settings.described, "most_steps": most, "evaluate_every": every, "patience": patience, "stop": bool(stop)
        },
        forget=settings.forget,
        n_steps=walk.n_taken,
        curve=curve.finished(),
        time=reached,
        predicted_steps=predicted_steps,
        seconds=seconds,
        evaluation_seconds=curve.seconds,
        status="exact by construction" if method == "retrain" else "estimate",
    )  # fmt: skip


@dataclass
class Settings:
    """Checked arguments that all runs share."""

    model: nn.Module
    records: Records
    forget: ForgetSet
    method: str
    loss: Loss
    described: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        dataset: MapDataset,
        forget: ForgetSet | ArrayLike,
        *,
        method: str,
        loss: Loss,
        noise_std: float | None,
        temperature: float | None,
        device: torch.device | str | None,
        **given: Any,
    ) -> Settings:
        """Check the arguments and put the model where it is to run."""
        require_model(model)
        require_loss(loss)
        records = Records(dataset, place_of(model, device))
        if isinstance(forget, ForgetSet) and forget.n_records != records.n:
            raise ValueError(f"forget is a set of {forget.n_records} records, but the dataset holds {records.n}")
        chosen = forget if isinstance(forget, ForgetSet) else ForgetSet(np.asarray(forget), n_records=records.n)
        step_size = number("step_size", given["step_size"], low=0.0, open_low=True)
        noise = noise_per_step(noise_std, temperature, step_size=step_size)
        if method == "noisy_fine_tune" and not noise > 0.0:
            raise ValueError(f"noise_std or temperature must be > 0 for {method!r}, got noise_std={noise:g}")
        if noise > 0.0 and method not in ("noisy_fine_tune", "retrain"):
            raise ValueError(f"noise_std and temperature must not be given for {method!r}, got noise_std={noise:g}")
        described = {
            "n_records": records.n,
            "step_size": step_size,
            "batch_size": count("batch_size", given["batch_size"], low=1),
            "sampling": choice("sampling", given["sampling"], ("poisson", "shuffle")),
            "noise_std": noise,
            "clip": None if given["clip"] is None else number("clip", given["clip"], low=0.0, open_low=True),
            "alpha": number("alpha", given["alpha"], low=0.0),
            "ascent_weight": number("ascent_weight", given["ascent_weight"], low=0.0, open_low=True),
            "seed": count("seed", given["seed"]),
        }
        model.to(records.device)
        return cls(model, records, chosen, method, loss, described)

    def most_steps(self, n_steps: int | None, epochs: int | None) -> int:
        """Return the number of steps that n_steps or epochs give."""
        if (n_steps is None) == (epochs is None):
            raise ValueError(f"give n_steps or epochs, got n_steps={n_steps!r} and epochs={epochs!r}")
        if n_steps is not None:
            return count("n_steps", n_steps, low=1)
        read = len(self.forget) if self.method == "gradient_ascent" else self.records.n - len(self.forget)
        return count("epochs", epochs, low=1) * -(-read // min(int(self.described["batch_size"]), read))

    def walk(self) -> Walk:
        """Return the steps of the method."""
        d, ascent = self.described, self.method == "gradient_ascent"
        # Fine-tuning with the seed of training must not add training's noise a second time.
        fresh = d["seed"] if self.method == "retrain" else stream_seed(d["seed"], f"unlearn {self.method}", 0)
        return Walk(
            self.model, self.records, loss=self.loss, descend=None if ascent else self.forget.retained,
            ascend=self.forget.indices if ascent or self.method == "neg_grad_plus" else None,
            ascent_weight=1.0 if ascent else d["ascent_weight"], step_size=d["step_size"], batch_size=d["batch_size"],
            sampling=d["sampling"], noise_std=d["noise_std"], clip=d["clip"], alpha=d["alpha"], seed=fresh,
        )  # fmt: skip


@dataclass
class _Curve:
    """Metrics at the steps evaluated so far."""

    metrics: dict[str, Metric]
    band: Band | None
    patience: int
    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def evaluate(self, model: nn.Module, step: int, device: torch.device) -> UnlearningTime | None:
        """Take all metrics; return whether the band is reached."""
        if not self.metrics:
            return None
        started = now(device)
        self.steps.append(step)
        for name, metric in self.metrics.items():
            with evaluating(model, device):
                value = float(metric(model))
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value} after step {step}")
            self.values.setdefault(name, []).append(value)
        self.seconds += now(device) - started
        if self.band is None:
            return None
        return time_to_unlearn(self.steps, self.values["metric"], self.band, patience=self.patience)

    def finished(self) -> UnlearningCurve:
        """Return the curve as arrays."""
        return UnlearningCurve(
            np.array(self.steps, dtype=np.int64), {name: np.array(found) for name, found in self.values.items()}
        )
