"""Calls with arrays of the residual route: its estimators, its certificates and what they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge import NewtonLogisticRegression, NewtonRidge, NewtonRidgeClassifier

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
    released = logistic.release()
    for name in ("predict", "decision_function", "predict_proba"):
        calls[f"expunge.estimators.released.ReleasedLogisticRegression.{name}"] = (getattr(released, name), {"X": X})
    return calls
