"""Linear-probe checkpoints of one training run, and the constants their privacy losses need."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._files import FileFormatError, write_atomic
from expunge._files.archive import read_arrays
from expunge._validate import choice, count, number, unmasked
from expunge.accounting import quadrature_weights
from expunge.grad_norms.proxies import early_checkpoint

__all__ = ["ProbeCheckpoints"]

LOSSES = ("softmax", "logistic", "squared")
_VERSION = 1
# A file may take no more memory than this, nor this many times its own size.
_MAX_BYTES, _MAX_RATIO = 2**40, 100
_FIELDS = ("weights", "steps", "loss", "n_steps", "noise_std", "step_size", "sampling_probability", "batch_size")


@dataclass(frozen=True, kw_only=True)
class ProbeCheckpoints:
    """The parameters of a linear model at N steps of noisy SGD.

    Parameters
    ----------
    weights : array_like of float, shape (N, d, C)
        Finite. No intercept of its own: a constant feature is a row of the weights.
    steps : array_like of int, shape (N,)
        Step of each checkpoint, strictly increasing within [0, n_steps).
    loss : {"softmax", "logistic", "squared"}
        Loss of a record, as in `expunge.grad_norms.probe_grad_norms`; logistic and C = 1 go together.
    n_steps : int
        Steps of the whole training run.
    noise_std, step_size : float
        Noise standard deviation per step, >= 0, and step size, > 0.
    sampling_probability : float
        Poisson rate of the batches, within [0, 1]; 1 is full batch.
    batch_size : float
        The constant the gradient sum is divided by, > 0; 1 for the sum form.

    Raises
    ------
    ValueError
        If a value is NaN or out of range, or a shape does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> probe = ProbeCheckpoints(weights=np.zeros((2, 3, 4)), steps=[0, 50], loss="softmax", n_steps=100,
    ...                          noise_std=0.1, step_size=0.5, sampling_probability=0.01, batch_size=64.0)
    >>> probe.n_features, probe.n_outputs
    (3, 4)
    """

    weights: NDArray[np.float64] = field(repr=False)
    steps: NDArray[np.int64]
    loss: str
    n_steps: int
    noise_std: float
    step_size: float
    sampling_probability: float
    batch_size: float

    def __init__(
        self,
        *,
        weights: ArrayLike,
        steps: ArrayLike,
        loss: str,
        n_steps: int,
        noise_std: float,
        step_size: float,
        sampling_probability: float,
        batch_size: float,
    ) -> None:
        stack = unmasked("weights", weights)
        if stack.dtype.kind not in "fiu":
            raise TypeError(f"weights must hold real numbers, got dtype {stack.dtype}")
        stack = np.ascontiguousarray(stack, dtype=np.float64)
        if stack.ndim != 3 or 0 in stack.shape:
            raise ValueError(f"weights must have shape (N, d, C), none of them 0, got {stack.shape}")
        if not np.isfinite(stack).all():
            raise ValueError("weights must be finite")
        choice("loss", loss, LOSSES)
        if loss == "logistic" and stack.shape[2] != 1:
            raise ValueError(f"weights must have one output for the logistic loss, got shape {stack.shape}")
        if loss == "softmax" and stack.shape[2] < 2:
            raise ValueError(f"weights must have at least two outputs for the softmax loss, got shape {stack.shape}")
        at = np.array(unmasked("steps", steps))
        if quadrature_weights(at, n_steps=n_steps).size != stack.shape[0]:
            raise ValueError(f"steps must hold one step per checkpoint ({stack.shape[0]}), got {at.size}")
        at = at.astype(np.int64)
        stack.flags.writeable = at.flags.writeable = False
        put = object.__setattr__
        put(self, "weights", stack)
        put(self, "steps", at)
        put(self, "loss", loss)
        put(self, "n_steps", count("n_steps", n_steps, low=1))
        put(self, "noise_std", number("noise_std", noise_std, low=0.0))
        put(self, "step_size", number("step_size", step_size, low=0.0, open_low=True))
        put(self, "sampling_probability", number("sampling_probability", sampling_probability, low=0.0, high=1.0))
        put(self, "batch_size", number("batch_size", batch_size, low=0.0, open_low=True))

    @property
    def n_features(self) -> int:
        """Length d of a record's features."""
        return int(self.weights.shape[1])

    @property
    def n_outputs(self) -> int:
        """Outputs C of the model."""
        return int(self.weights.shape[2])

    @property
    def early(self) -> int:
        """Index of the checkpoint nearest a tenth of training, where EL2N and GraNd are taken."""
        return early_checkpoint(self.steps, n_steps=self.n_steps)

    def digest(self) -> str:
        """Return a SHA-256 over all values, in hexadecimal."""
        sha = hashlib.sha256()
        for name in _FIELDS:
            value = np.asarray(getattr(self, name))
            value = value.astype(value.dtype.newbyteorder("<")) if value.dtype.kind in "if" else value
            sha.update(f"{name}:{value.shape}:{value.dtype.str};".encode())
            sha.update(str(value).encode() if value.dtype.kind == "U" else value.tobytes())
        return sha.hexdigest()

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write an ``.npz`` file that `load` reads, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, expunge_probe_checkpoints=_VERSION, **{name: getattr(self, name) for name in _FIELDS})
        write_atomic(path, buffer.getvalue(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProbeCheckpoints:
        """Read an ``.npz`` file with one array per parameter; no pickles.

        Parameters
        ----------
        path : path-like
            Written by `save`, or by ``numpy.savez`` with the names of the parameters.

        Returns
        -------
        ProbeCheckpoints

        Raises
        ------
        FileFormatError
            If the file is truncated, misses an array, or has an unknown version.
        ValueError
            If a value in it is refused.
        """
        file = Path(path)
        try:
            values = read_arrays(file, what="file of checkpoints", max_bytes=_MAX_BYTES, max_ratio=_MAX_RATIO)
        except FileFormatError as error:
            raise FileFormatError(f"{file} is not a whole .npz file of checkpoints ({error})") from None
        missing = [name for name in _FIELDS if name not in values]
        if missing:
            raise FileFormatError(f"{file} must hold {', '.join(_FIELDS)}; {', '.join(missing)} is missing")
        version = int(values.get("expunge_probe_checkpoints", np.array(_VERSION)).reshape(-1)[0])
        if version != _VERSION:
            raise FileFormatError(f"{file} has version {version}, this library reads {_VERSION}")
        for name in _FIELDS[2:]:
            if values[name].shape != ():
                raise FileFormatError(f"{file}: {name} must be a single value, got shape {values[name].shape}")
        scalars = {name: values[name].item() for name in _FIELDS[2:]}
        return cls(weights=values["weights"], steps=values["steps"], **scalars)
