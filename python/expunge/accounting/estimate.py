"""Array type of results that no theorem certifies."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate"]


class Estimate(np.ndarray[Any, np.dtype[np.float64]]):
    """A float64 array whose values are *estimates*: useful to rank and to plan with, never to certify.

    An ordinary array otherwise; what is computed from it keeps the label.

    Attributes
    ----------
    status : str
        Always ``"estimate"``.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import Estimate
    >>> (2 * Estimate.of(np.array([0.5, 1.0]))).status
    'estimate'
    """

    status: ClassVar[str] = "estimate"

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Estimate:
        """Return a view of ``values`` that carries the label."""
        return np.asarray(values, dtype=np.float64).view(cls)
