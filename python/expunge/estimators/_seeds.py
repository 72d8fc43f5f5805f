"""Seeds of noise that is to be reproducible."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

__all__ = ["seed_of"]


def seed_of(random_state: Any) -> int | None:
    """Return a seed from a `random_state`: None for None, one draw of a generator.

    Raises
    ------
    ValueError
        If it is none of those, or no integer in [0, 2^63).
    """
    if random_state is None:
        return None
    if isinstance(random_state, (np.random.RandomState, np.random.Generator)):
        draw = random_state.randint if isinstance(random_state, np.random.RandomState) else random_state.integers
        return int(draw(0, 2**63 - 1, dtype=np.int64))
    if isinstance(random_state, Integral) and not isinstance(random_state, bool) and 0 <= int(random_state) < 2**63:
        return int(random_state)
    raise ValueError(f"random_state must be None, an integer in [0, 2^63) or a NumPy generator, got {random_state!r}")
