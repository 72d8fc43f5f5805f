"""Estimators whose deletions are certified by a computed residual: logistic, softmax and ridge models."""

from __future__ import annotations

from expunge.estimators.newton.logistic import NewtonLogisticRegression
from expunge.estimators.newton.quotes import NewtonQuote
from expunge.estimators.newton.result import Updated
from expunge.estimators.newton.ridge import NewtonRidge, NewtonRidgeClassifier

__all__ = ["NewtonLogisticRegression", "NewtonQuote", "NewtonRidge", "NewtonRidgeClassifier", "Updated"]
