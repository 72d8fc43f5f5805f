"""scikit-learn estimators that learn, quote and unlearn."""

from expunge.estimators.noise_warning import NoiseWarning
from expunge.estimators.quotes import Quote
from expunge.estimators.released import ReleasedRidge, ReleasedRidgeClassifier
from expunge.estimators.ridge import LangevinRidge, LangevinRidgeClassifier, Unlearned

__all__ = [
    "LangevinRidge",
    "LangevinRidgeClassifier",
    "NoiseWarning",
    "Quote",
    "ReleasedRidge",
    "ReleasedRidgeClassifier",
    "Unlearned",
]
