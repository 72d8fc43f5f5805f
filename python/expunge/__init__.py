"""Per-instance privacy and certified machine unlearning.

What forgetting one record costs, the smallest noise that certifies it, and a certificate that others can re-check.
Estimators are importable from here; privacy arithmetic is in `expunge.accounting`, kernels for many records or chains
at once in `expunge.runs.ridge` and `expunge.langevin`, claims in `expunge.certificates`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from expunge._errors import DeviceError
from expunge._former_names import FORMER_NAMES, install
from expunge._kernels.include_folder import get_include
from expunge._version import __version__

if TYPE_CHECKING:
    from expunge.certificates import Certificate, VerificationError
    from expunge.estimators import (
        CertifiedHead,
        LangevinRidge,
        LangevinRidgeClassifier,
        NewtonLogisticRegression,
        NewtonQuote,
        NewtonRidge,
        NewtonRidgeClassifier,
        NoiseWarning,
        Quote,
        ReleasedLogisticRegression,
        ReleasedRidge,
        ReleasedRidgeClassifier,
        Unlearned,
        Updated,
        UpdatedNetwork,
    )

__all__ = [
    "Certificate",
    "CertifiedHead",
    "DeviceError",
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
    "VerificationError",
    "__version__",
    "get_include",
]

# Imported when first asked for: `expunge --version` shall not wait for SciPy and scikit-learn.
_UNITS = ("accounting", "calibration", "certificates", "estimators", "langevin", "runs")

install()


def __getattr__(name: str) -> Any:
    if name in _UNITS or name in FORMER_NAMES:
        return import_module(f"expunge.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    place = "certificates" if name in ("Certificate", "VerificationError") else "estimators"
    value = globals()[name] = getattr(import_module(f"expunge.{place}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_UNITS})
