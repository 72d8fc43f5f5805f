"""Features of records, computed by a frozen backbone: once, from each record alone, with checks that it is frozen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from expunge import _validate
from expunge.certificates.network.weights import HasWeights, weights_digest

__all__ = ["Features", "FrozenBackbone", "RecordRows"]

Float64 = NDArray[np.float64]
Features: TypeAlias = Callable[..., object] | HasWeights
RecordRows: TypeAlias = ArrayLike | Sequence[object]

_COMPARED = 3  # records that are computed again
# Differences that rounding makes, relative to a record's largest feature, by the kind of numbers.
_SAME = {"float64": 1e-9, "float32": 1e-4}
_LOOSEST = 2e-2


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """A backbone that turns records into features; None in place of one takes features as they are.

    Attributes
    ----------
    features : torch.nn.Module, callable or None
        The backbone.
    """

    features: Features | None

    def __post_init__(self) -> None:
        if self.features is not None and not callable(self.features):
            raise TypeError(
                "features must be a torch.nn.Module, a function of arrays, or None for arrays that are features, got "
                f"{type(self.features).__name__}"
            )

    @property
    def called(self) -> str:
        """Name of its class or function."""
        if self.features is None:
            return "features as given"
        return str(getattr(self.features, "__qualname__", type(self.features).__qualname__))

    def weights(self) -> str | None:
        """Return the digest of its weights; None for a function, or features as given."""
        network: Any = self.features
        return weights_digest(network) if hasattr(network, "state_dict") else None

    def of(self, X: RecordRows, *, batch_size: int, name: str = "X") -> Float64:
        """Return features (n, d) of n records, those of each computed with at most ``batch_size - 1`` others.

        Raises
        ------
        TypeError, ValueError
            If the backbone is not frozen: a module in training mode, or features of a record that change from call to
            call or with its batch; or if what it returns are not finite numbers, a row for each record.
        """
        _validate.refuse_masks(name, X)
        if self.features is None:
            return _validate.real_array(name, X, ndim=2)
        n = _length(name, X)
        if n == 0:
            raise ValueError(f"{name} must hold at least one record, got none")
        self._refuse_training_mode()
        self._refuse_unseen()
        before = self.weights()
        rows: Float64 | None = None
        kind = ""
        with tqdm(total=n, unit="record", desc="features", disable=None, leave=False, delay=1) as bar:
            for start in range(0, n, batch_size):
                some, kind = self._call(X, range(start, min(start + batch_size, n)), name=name)
                if rows is None:
                    rows = np.empty((n, some.shape[1]))
                if some.shape[1] != rows.shape[1]:
                    raise ValueError(
                        f"features must have one length, got {some.shape[1]} for record {start} and {rows.shape[1]} "
                        "for those before"
                    )
                rows[start : start + len(some)] = some
                bar.update(len(some))
        assert rows is not None  # there is a record
        self._compare(X, rows, kind, batch_size=batch_size, name=name)
        if self.weights() != before:
            raise ValueError(
                "features: a forward pass changed its weights or buffers, so that what one record gets may tell of "
                "others: use layers that keep no statistics"
            )
        return rows

    def _refuse_training_mode(self) -> None:
        network: Any = self.features
        for name, part in network.named_modules() if _is_module(network) else ():
            if part.training:
                raise ValueError(
                    f"features must be in evaluation mode, got its part {name or 'itself'!r} ({type(part).__name__}) "
                    "in training mode, where batch normalisation mixes records and dropout draws: call features.eval()"
                )

    def _refuse_unseen(self) -> None:
        """Refuse tensors that the digest of the weights does not see."""
        network: Any = self.features
        torch: Any = sys.modules.get("torch")
        for name, part in network.named_modules() if _is_module(network) else ():
            plain = [key for key, value in vars(part).items() if isinstance(value, torch.Tensor)]
            for key in (*plain, *sorted(part._non_persistent_buffers_set)):
                raise ValueError(
                    "features must have all tensors in their state_dict(), of which the digest of the weights is made, "
                    f"got {key!r} of its part {name or 'itself'!r} ({type(part).__name__}) beside it: make it a "
                    f"parameter, or register_buffer({key!r}, ...)"
                )

    def _call(self, X: RecordRows, rows: Sequence[int], *, name: str) -> tuple[Float64, str]:
        """Return features of some records, and the kind of numbers they were computed in."""
        network: Any = self.features
        part = _rows(X, rows)
        found: Any = _through(network, part) if _is_module(network) else network(part)
        kind = _kind_of(network if _is_module(network) else found)
        if hasattr(found, "detach"):
            found = found.detach().cpu()
            found = (found.double() if found.is_floating_point() else found).numpy()
        else:
            _validate.refuse_masks("features of the backbone", found)
            found = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
        if found.ndim != 2 or len(found) != len(rows):
            raise ValueError(
                f"features must give an array of shape ({len(rows)}, d) for {len(rows)} records, got "
                f"{tuple(found.shape)}: end a module by torch.nn.Flatten()"
            )
        if found.dtype.kind not in "biuf":
            raise TypeError(f"features must give real numbers, got {found.dtype}")
        finite = np.isfinite(found).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"features of record {rows[int(np.argmin(finite))]} of {name} must be finite, got NaN or infinity"
            )
        return np.asarray(found, dtype=np.float64), kind

    def _compare(self, X: RecordRows, found: Float64, kind: str, *, batch_size: int, name: str) -> None:
        """Compute a few records again: alone, and beside another record."""
        tolerance = _SAME.get(kind, _LOOSEST)
        n = len(found)
        for i in dict.fromkeys((0, n // 2, n - 1)[:_COMPARED]):
            ways = [("alone", [i])]
            if batch_size > 1 and n > 1:
                ways.append(
                    ("beside another record", [i, (i + n // 3 + 1) % n if (i + n // 3 + 1) % n != i else i - 1])
                )
            for way, rows in ways:
                again = self._call(X, rows, name=name)[0][0]
                if again.shape != found[i].shape:
                    raise ValueError(f"features must have one length, got {len(again)} for record {i} {way}")
                apart = float(np.abs(again - found[i]).max(initial=0.0))
                if not apart <= tolerance * float(np.abs(found[i]).max(initial=0.0)):
                    raise ValueError(
                        f"features of record {i} must be a function of that record alone, got a difference of "
                        f"{apart:.3g} when they were computed again {way}: it draws random numbers (dropout), mixes "
                        "records (batch normalisation by the batch), or keeps something from call to call"
                    )


def _is_module(features: object) -> bool:
    torch: Any = sys.modules.get("torch")  # whoever made a module has imported it
    return torch is not None and isinstance(features, torch.nn.Module)


def _kind_of(source: Any) -> str:
    """Return the kind of numbers of an array, or the shortest of those that a module computes in."""
    parts = source.state_dict().values() if _is_module(source) else [source]
    kinds = {str(getattr(one, "dtype", "")).removeprefix("torch.") for one in parts}
    return next((kind for kind in ("bfloat16", "float16", "float32") if kind in kinds), "float64")


def _through(module: Any, rows: Any) -> Any:
    """Return what a module makes of records, on its own device and in its own kind of numbers."""
    torch: Any = sys.modules["torch"]
    first = next((one for one in module.state_dict().values() if one.is_floating_point()), None)
    tensor = rows if isinstance(rows, torch.Tensor) else torch.from_numpy(np.array(rows)) if _numeric(rows) else rows
    if isinstance(tensor, torch.Tensor) and first is not None:
        tensor = tensor.to(first.device)
        if tensor.is_floating_point():
            tensor = tensor.to(first.dtype)
    with torch.no_grad():
        return module(tensor)


def _numeric(rows: Any) -> bool:
    return np.asarray(rows).dtype.kind in "biuf"


def _length(name: str, X: Any) -> int:
    if isinstance(X, (str, bytes)) or not (hasattr(X, "shape") or hasattr(X, "__len__")):
        raise TypeError(f"{name} must be an array, a tensor or a list of records, got {type(X).__name__}")
    if hasattr(X, "shape"):
        if not len(X.shape):
            raise ValueError(f"{name} must have a record in each row, got a single value")
        return int(X.shape[0])
    return len(X)


def _rows(X: Any, rows: Sequence[int]) -> Any:
    """Return some rows of an array, a tensor, a table of pandas or a list."""
    if hasattr(X, "iloc"):
        return X.iloc[list(rows)]
    if hasattr(X, "shape"):
        return X[rows.start : rows.stop] if isinstance(rows, range) else X[list(rows)]
    return [X[i] for i in rows]
