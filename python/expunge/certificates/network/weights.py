"""The digest of a network's weights."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

__all__ = ["HasWeights", "weights_digest"]

_TAG = b"expunge-weights-digest-v1\0"


class HasWeights(Protocol):
    """A network that gives its weights and buffers by name, such as a ``torch.nn.Module``."""

    def state_dict(self) -> Mapping[str, object]:
        """Return tensors by name."""


def weights_digest(network: HasWeights | Mapping[str, object]) -> str:
    """Return the SHA-256 digest of a network's weights and buffers, as 64 hexadecimal characters.

    Parameters
    ----------
    network : torch.nn.Module, or mapping of str to tensor or array
        Any object with ``state_dict()``, or such a dictionary.

    Returns
    -------
    str
        Of names, in their order as text, kinds of numbers, shapes and values; neither device nor layout counts.

    Raises
    ------
    TypeError
        If it is neither, or an entry is no array of numbers, by name.

    Examples
    --------
    >>> import numpy as np
    >>> one = weights_digest({"weight": np.eye(2), "bias": np.zeros(2)})
    >>> one == weights_digest({"bias": np.zeros(2), "weight": np.eye(2)})
    True
    >>> one == weights_digest({"bias": np.zeros(2), "weight": np.eye(2, dtype=np.float32)})
    False
    """
    state = network.state_dict() if hasattr(network, "state_dict") else network
    if not isinstance(state, Mapping):
        raise TypeError(f"network must have a state_dict() or be one, got {type(network).__name__}")
    found = hashlib.sha256(_TAG + struct.pack("<Q", len(state)))
    for name in sorted(map(str, state)):
        kind, array = _values(name, state[name])
        for text in (name, kind):
            data = text.encode("utf-8", "surrogatepass")
            found.update(struct.pack("<Q", len(data)) + data)
        found.update(struct.pack(f"<{array.ndim + 1}Q", array.ndim, *array.shape))
        found.update(np.ascontiguousarray(array).data if array.size else b"")
    return found.hexdigest()


def _values(name: str, value: Any) -> tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Return the kind of numbers of a tensor and its values, in a kind that NumPy has, in little-endian order."""
    kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if kind == "bfloat16":
            value = value.float()  # which holds every bfloat16
        try:
            value = value.numpy()
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"network: {name} must be a dense tensor of numbers: {error}") from None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        got = type(value).__name__ if not isinstance(value, np.ndarray) else f"dtype {value.dtype}"
        raise TypeError(f"network: {name} must be a tensor of numbers, got {got}")
    return kind, value.astype(value.dtype.newbyteorder("<"), copy=False)
