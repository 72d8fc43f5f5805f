"""Per-instance privacy and certified machine unlearning.

What forgetting one record costs, the smallest noise that certifies it, and a certificate that others can re-check.
Estimators are importable from here; privacy arithmetic is in `expunge.accounting`, kernels for many records or chains
at once in `expunge.ridge` and `expunge.langevin`, claims in `expunge.certificates`.
"""

from expunge._errors import DeviceError
from expunge._version import __version__
from expunge.certificates import Certificate, VerificationError
from expunge.estimators import (
    LangevinRidge,
    LangevinRidgeClassifier,
    Quote,
    ReleasedRidge,
    ReleasedRidgeClassifier,
    Unlearned,
)

__all__ = [
    "Certificate",
    "DeviceError",
    "LangevinRidge",
    "LangevinRidgeClassifier",
    "Quote",
    "ReleasedRidge",
    "ReleasedRidgeClassifier",
    "Unlearned",
    "VerificationError",
    "__version__",
]
