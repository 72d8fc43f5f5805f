"""Langevin chains on a device: the data as the kernels take them, and wide full batches by the library's products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._kernels.backend import DevicePlace

__all__ = ["device_problem", "matmul_chains"]

_WORK_ELEMENTS = 2**26  # of one work array of wide chains; more chains take turns


def _floating(place: DevicePlace, name: str, array: Any, dtype: np.dtype[Any]) -> Any:
    if place.library.dtype(array) not in ("float64", "float32"):
        raise TypeError(f"{name} must have dtype float64 or float32 on a device, got {place.library.dtype(array)}")
    return place.library.cast(array, dtype.name) if place.library.dtype(array) != dtype.name else array


def device_problem(
    place: DevicePlace,
    X: Any,
    y: Any,
    theta0: Any,
    *,
    loss: str,
    n_classes: int | None,
    n_chains: int,
    dtype: np.dtype[Any],
) -> tuple[Any, Any, Any]:
    """Return (n, p) data, (n, q) targets and the start on the device; shapes are checked, values are not."""
    library = place.library
    if len(X.shape) != 2:
        raise ValueError(f"X must have 2 dimension(s), got shape {tuple(X.shape)}")
    n, p = (int(length) for length in X.shape)
    if n == 0 or p == 0:
        raise ValueError(f"X must have at least one row and one column, got shape {(n, p)}")
    data = library.contiguous(_floating(place, "X", X, dtype), (n, p))
    shape = tuple(int(length) for length in y.shape)
    if loss == "squared":
        if len(shape) not in (1, 2) or shape[0] != n or shape[-1] == 0:
            raise ValueError(f"y must have shape ({n},) or ({n}, q), got {shape}")
        q = 1 if len(shape) == 1 else shape[1]
        targets = library.contiguous(_floating(place, "y", y, dtype).reshape(n, q), (n, q))
    else:
        if shape != (n,):
            raise ValueError(f"y must have shape ({n},), got {shape}")
        if loss == "logistic":
            targets = library.contiguous(library.cast(y, dtype.name).reshape(n, 1), (n, 1))
        elif n_classes is None:
            raise ValueError(
                "n_classes is needed for labels on a device: finding the largest would wait for the device"
            )
        else:
            classes = library.asarray(np.arange(n_classes, dtype=np.int64))
            targets = library.contiguous(library.cast(y.reshape(n, 1) == classes, dtype.name), (n, n_classes))
    q = int(targets.shape[1])
    if theta0 is None:
        return data, targets, library.asarray(np.zeros((p, q), dtype=dtype))
    start_shape = tuple(int(length) for length in theta0.shape)
    if start_shape == (p,) and q == 1:
        theta0, start_shape = theta0.reshape(p, 1), (p, 1)
    if start_shape not in ((p, q), (n_chains, p, q)):
        raise ValueError(f"theta0 must have shape ({p}, {q}) or ({n_chains}, {p}, {q}), got {start_shape}")
    return data, targets, library.contiguous(_floating(place, "theta0", theta0, dtype), start_shape)


def matmul_chains(
    place: DevicePlace,
    X: Any,
    targets: Any,
    start: Any,
    *,
    loss: str,
    alpha: float,
    step_size: NDArray[Any],
    noise_std: NDArray[Any],
    record: NDArray[np.int64],
    n_chains: int,
    clip: float,
    radius: float,
    row_norm: Any,
    seed: int,
    first_chain: int,
    first_step: int,
) -> Any:
    """Run wide full-batch chains: the library multiplies matrices, one fused pass does the rest of a step."""
    library = place.library
    n, p = (int(length) for length in X.shape)
    q = int(targets.shape[1])
    dtype = library.dtype(X)
    X_T = library.contiguous(library.transposed(X, (1, 0)), (p, n))
    targets_by_output = library.contiguous(library.transposed(targets, (1, 0)), (q, n))
    gram = moment = None
    if loss == "squared" and not clip:
        gram = library.product(X_T, X) + library.asarray(alpha * np.eye(p, dtype=dtype))
        moment = library.contiguous(library.transposed(library.product(X_T, targets), (1, 0)), (q, p))
    by_output = library.transposed(start, (0, 2, 1) if len(start.shape) == 3 else (1, 0))
    size = min(n_chains, max(1, _WORK_ELEMENTS // (q * (p if gram is not None else max(n, p)))))
    blocks = []
    for begin in range(0, n_chains, size):
        count = min(size, n_chains - begin)
        mine = by_output[begin : begin + count] if len(by_output.shape) == 3 else by_output
        theta = place.written_here(library.contiguous(mine, (count, q, p)) * 1)  # a copy: it is updated in place
        recorded, row = [], 0
        for k in range(int(record[-1]) + 1):
            if record[row] == k:
                recorded.append(library.transposed(theta, (0, 2, 1)) * 1)
                row += 1
            if row == len(record):
                break
            flat = theta.reshape(count * q, p)
            if gram is not None:
                gradient = library.product(flat, gram)
            else:
                linear = library.product(flat, X_T).reshape(count, q, n)
                linear = place.written_here(library.contiguous(linear, (count, q, n)))
                place.run("langevin_residuals", linear, targets_by_output, row_norm, loss=loss, clip=clip)
                gradient = library.product(linear.reshape(count * q, n), X)
            place.run(
                "langevin_tail",
                theta,
                library.contiguous(gradient.reshape(count, q, p), (count, q, p)),
                moment,
                alpha=alpha,
                step_size=float(step_size[k]),
                noise_std=float(noise_std[k]),
                radius=radius,
                seed=seed,
                first_chain=first_chain + begin,
                step=first_step + k,
            )
        blocks.append(library.stack(recorded))
    whole = blocks[0] if len(blocks) == 1 else library.concatenate(blocks, 1)
    return library.contiguous(whole, (len(record), n_chains, p, q))
