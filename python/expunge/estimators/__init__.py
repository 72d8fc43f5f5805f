"""scikit-learn estimators that learn, quote and unlearn."""

from expunge.estimators.network import CertifiedHead, UpdatedNetwork
from expunge.estimators.newton import (
    NewtonLogisticRegression,
    NewtonQuote,
    NewtonRidge,
    NewtonRidgeClassifier,
    Updated,
)
from expunge.estimators.noise_warning import NoiseWarning
from expunge.estimators.quotes import Quote
from expunge.estimators.released import ReleasedLogisticRegression, ReleasedRidge, ReleasedRidgeClassifier
from expunge.estimators.ridge import LangevinRidge, LangevinRidgeClassifier, Unlearned

__all__ = [
    "CertifiedHead",
    "LangevinRidge",
    "LangevinRidgeClassifier",
    "NewtonLogisticRegression",
    "NewtonQuote",
    "NewtonRidge",
    "NewtonRidgeClassifier",
    "NoiseWarning",
    "Quote",
    "ReleasedLogisticRegression",
    "ReleasedRidge",
    "ReleasedRidgeClassifier",
    "Unlearned",
    "Updated",
    "UpdatedNetwork",
]
