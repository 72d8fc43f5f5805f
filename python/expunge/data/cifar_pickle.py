"""Reading CIFAR-10's pickled batches without unpickling anything: the five globals allowed are stand-ins.

A pickle is a program. The CIFAR-10 python batches need lists, bytes and one NumPy array, so every global they name is
replaced by an inert stand-in, any other is refused, and NumPy's own unpickling code is never run.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_batch"]

_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
_ARRAY_CLASS = "the name numpy.ndarray"  # a string can neither be called nor changed


class _Dtype:
    """Stand-in for a pickled dtype: its code and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stand-in for a pickled array: shape, dtype and bytes."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        _, shape, dtype, fortran, raw = self.state
        code = dtype.code.decode("ascii") if isinstance(dtype.code, bytes) else dtype.code
        order = dtype.order.decode("ascii") if isinstance(dtype.order, bytes) else dtype.order
        if code not in _DTYPES or order not in ("|", "<", ">", "=") or type(raw) is not bytes:
            raise ValueError(f"it holds an array of kind {code!r}, needed plain numbers")
        kind = np.dtype(f"{order}{code}")
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * kind.itemsize != len(raw):
            raise ValueError(f"its array of shape {shape} does not match its {len(raw)} bytes")
        return np.frombuffer(raw, dtype=kind).reshape(shape, order="F" if fortran else "C")


class _Callable:
    """Stand-in for what a pickle may call; without attributes that its BUILD instruction could change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it tries to change a global")


class _Reconstruct(_Callable):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if kind != _ARRAY_CLASS:
            raise pickle.UnpicklingError("it rebuilds something that is not a plain array")
        return _Array()


class _MakeDtype(_Callable):
    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = True) -> _Dtype:
        return _Dtype(code)


class _Encode(_Callable):
    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        # How Python 3 writes bytes in protocol 2; other codecs could inflate or transform.
        if encoding not in ("latin1", b"latin1") or not isinstance(text, (str, bytes)):
            raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
        return text.encode("latin1") if isinstance(text, str) else text


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Reconstruct()
        if (module, name) == ("numpy", "ndarray"):
            return _ARRAY_CLASS
        if (module, name) == ("numpy", "dtype"):
            return _MakeDtype()
        if (module, name) == ("_codecs", "encode"):
            return _Encode()
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, but a data set needs arrays, bytes and dicts only")


def load_batch(data: bytes) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return images (n, d) and labels (n,) of one pickled batch, or raise ValueError with what is wrong."""
    try:
        values = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except (ValueError, RecursionError):
        raise ValueError("it is not a CIFAR-10 batch") from None
    except pickle.UnpicklingError as error:
        raise ValueError(f"refused as a CIFAR-10 batch: {error}") from None
    except Exception as error:  # a broken pickle can fail in any way; nothing of it is kept
        raise ValueError(f"it is truncated or not a CIFAR-10 batch: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, needed the dict of a CIFAR-10 batch")
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in values.items()}
    images, labels = named.get("data"), named.get("labels")
    if not isinstance(images, _Array) or images.state is None or not isinstance(labels, list):
        raise ValueError("it lacks the array 'data' or the list 'labels' of a CIFAR-10 batch")
    try:
        pixels = images.array()
    except (TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"its array is malformed: {error}") from None
    if not all(type(label) is int and 0 <= label < 2**31 for label in labels):
        raise ValueError("its labels are not small whole numbers")
    return pixels, np.array(labels, dtype=np.int64)
