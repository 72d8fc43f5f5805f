"""scikit-learn estimators that learn, quote and unlearn."""

from expunge.estimators.quotes import Quote
from expunge.estimators.released import ReleasedRidge, ReleasedRidgeClassifier
from expunge.estimators.ridge import LangevinRidge, LangevinRidgeClassifier, Unlearned

__all__ = [
    "LangevinRidge",
    "LangevinRidgeClassifier",
    "Quote",
    "ReleasedRidge",
    "ReleasedRidgeClassifier",
    "Unlearned",
]
