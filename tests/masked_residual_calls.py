"""Calls with arrays of the residual route: its estimators, its certificates and what they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge import CertifiedHead, NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier
from expunge.accounting import PrivateTraining

__all__ = ["newton_calls"]

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=12)
LABELS = np.arange(12) % 2
IDS = np.arange(100, 112)
WEIGHTS = np.full(12, 2.0)
N = "expunge.estimators.newton"


def newton_calls() -> dict[str, Any]:
    """Return each public method with arrays that it accepts, by the names of its arguments."""
    logistic = NewtonLogisticRegression(classes=[0, 1]).fit(X, LABELS, IDS)
    ridge = NewtonRidge().fit(X, Y, IDS)
    classifier = NewtonRidgeClassifier(classes=[0, 1]).fit(X, LABELS, IDS)
    calls: dict[str, Any] = {}
    for module, model, answers in (("logistic", logistic, LABELS), ("ridge", ridge, Y), ("ridge", classifier, LABELS)):
        name = f"{N}.{module}.{type(model).__name__}"
        one = {"sample_weight": WEIGHTS[:1], "X": X[:1], "y": answers[:1]}
        calls |= {
            f"{name}.fit": (type(model)().fit, {"X": X, "y": answers, "record_ids": IDS, "sample_weight": WEIGHTS}),
            f"{name}.predict": (model.predict, {"X": X}),
            f"{name}.score": (model.score, {"X": X, "y": answers, "sample_weight": WEIGHTS}),
            f"{name}.quote ids": (model.quote, {"ids": IDS[:2]}),
            f"{name}.quote rows": (lambda rows, model=model: model.quote(rows=rows), {"rows": [0, 1]}),
            f"{name}.unlearn ids": (model.unlearn, {"ids": IDS[:2]}),
            f"{name}.unlearn rows": (lambda rows, model=model: model.unlearn(rows=rows), {"rows": [0, 1]}),
            f"{name}.amend ids": (model.amend, {"ids": IDS[:1], **one}),
            f"{name}.amend rows": (
                lambda rows, model=model, y=answers[:1]: model.amend(rows=rows, y=y),
                {"rows": [0]},
            ),
            f"{name}.add": (model.add, {"record_ids": np.array([7]), **one}),
        }
    for name in ("decision_function", "predict_proba", "predict_log_proba"):
        calls[f"{N}.logistic.NewtonLogisticRegression.{name}"] = (getattr(logistic, name), {"X": X})
    calls[f"{N}.ridge.NewtonRidgeClassifier.decision_function"] = (classifier.decision_function, {"X": X})
    for cls, module in ((NewtonLogisticRegression, "logistic"), (NewtonRidgeClassifier, "ridge")):
        calls[f"{N}.{module}.{cls.__name__}.__init__"] = (
            lambda classes, cls=cls: cls(classes=classes).fit(X, LABELS),
            {"classes": np.arange(2)},
        )
    calls |= network_calls(NewtonLogisticRegression(classes=[0, 1]))
    released = logistic.release()
    for name in ("predict", "decision_function", "predict_proba"):
        calls[f"expunge.estimators.released.ReleasedLogisticRegression.{name}"] = (getattr(released, name), {"X": X})
    return calls


def network_calls(head: NewtonLogisticRegression) -> dict[str, Any]:
    """Return the methods of a network with arrays that they accept."""
    training = PrivateTraining(
        clip=1.0, noise_multiplier=9.0, sampling_probability=1.0, n_steps=9, accountant="gdp", room=0.0, seeded=False
    )
    name = "expunge.estimators.network.head.CertifiedHead"
    model = CertifiedHead(np.cos, head, backbone=training).fit(X, LABELS, IDS)
    one = {"sample_weight": WEIGHTS[:1], "X": X[:1], "y": LABELS[:1]}
    every = {"X": X, "y": LABELS, "sample_weight": WEIGHTS}
    return {
        f"{name}.fit": (
            CertifiedHead(np.cos, head, backbone=training).fit,
            {**every, "record_ids": IDS, "in_backbone": LABELS == 0},
        ),
        **{
            f"{name}.{method}": (getattr(model, method), {"X": X})
            for method in ("transform", "predict", "predict_proba", "decision_function")
        },
        f"{name}.score": (model.score, every),
        f"{name}.quote ids": (model.quote, {"ids": IDS[:2]}),
        f"{name}.quote rows": (lambda rows: model.quote(rows=rows), {"rows": [0, 1]}),
        f"{name}.unlearn ids": (model.unlearn, {"ids": IDS[:2]}),
        f"{name}.unlearn rows": (lambda rows: model.unlearn(rows=rows), {"rows": [0, 1]}),
        f"{name}.amend ids": (model.amend, {"ids": IDS[:1], **one}),
        f"{name}.amend rows": (lambda rows: model.amend(rows=rows, y=LABELS[:1]), {"rows": [0]}),
        f"{name}.add": (model.add, {"record_ids": np.array([7]), **one}),
    }
