"""Networks: a backbone that no deletion changes, and a certified head on its features."""

from expunge.estimators.network.head import CertifiedHead
from expunge.estimators.network.result import UpdatedNetwork

__all__ = ["CertifiedHead", "UpdatedNetwork"]
