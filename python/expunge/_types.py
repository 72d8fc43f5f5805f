"""Types in public signatures: arrays on the host and on devices, values of JSON, data sets."""

from __future__ import annotations

from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnyArray", "DeviceArray", "DeviceT", "Float64", "HostArray", "HostFloats", "JsonObject", "MapDataset"]

AnyArray: TypeAlias = NDArray[np.generic]  # of one of several dtypes: labels, ids, columns of a table
Float64: TypeAlias = NDArray[np.float64]
HostFloats: TypeAlias = NDArray[np.floating]
HostArray: TypeAlias = NDArray[np.floating] | NDArray[np.integer]
JsonObject: TypeAlias = dict[str, object]  # what `json` reads and writes


class DeviceArray(Protocol):
    """An array of any library that exchanges arrays by DLPack: PyTorch, CuPy, JAX."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    def __dlpack__(self) -> object:
        """Return a capsule of DLPack."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the kind of device and its number, as DLPack counts them."""


DeviceT = TypeVar("DeviceT", bound=DeviceArray)


class MapDataset(Protocol):
    """A data set of known length whose records have numbers, such as a ``torch.utils.data.TensorDataset``."""

    def __len__(self) -> int:
        """Return the number of records."""

    def __getitem__(self, index: int, /) -> object:
        """Return one record."""
