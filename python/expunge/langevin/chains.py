"""Many independent Langevin chains at once, on the CPU or on a device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from expunge import _validate
from expunge._kernels import backend
from expunge._kernels.backend import HOST, default_threads, one_blas_thread, thread_count
from expunge._kernels.losses import LOSSES, Loss
from expunge._validate import unmasked
from expunge.langevin.arguments import MAX_CHAIN, MAX_STEP, below, float_dtype, seed_number
from expunge.langevin.device_chains import device_problem, matmul_chains

__all__ = ["langevin_chains"]

_COMPILED_COLUMNS = 64  # up to here whole chains run in C++ without BLAS, with the same bits on every processor
_GRAM_BLOCK = 8  # columns of a Gram matrix are padded to a multiple of this for the kernel


def _as_dtype(name: str, array: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, dtype=dtype)
    if not np.isfinite(result).all():
        raise ValueError(f"{name} must be finite in {dtype}, got a value too large for it")
    return result


def _targets(y: ArrayLike, loss: str, n: int, n_classes: int | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the (n, q) targets of a loss: values, 0/1 labels, or one-hot rows."""
    if loss == "squared":
        values = _validate.real_array("y", y)
        if values.ndim not in (1, 2) or values.shape[0] != n:
            raise ValueError(f"y must have shape ({n},) or ({n}, q), got {values.shape}")
        if values.ndim == 2 and values.shape[1] == 0:
            raise ValueError(f"y must have at least one column, got shape {values.shape}")
        return _as_dtype("y", values.reshape(n, -1), dtype)
    labels = unmasked("y", y)
    if labels.shape != (n,):
        raise ValueError(f"y must have shape ({n},), got {labels.shape}")
    numbers = _validate.real_array("y", labels)
    if (numbers != np.floor(numbers)).any():
        raise ValueError(f"y must hold integer class labels for the {loss} loss")
    top = 2 if loss == "logistic" else n_classes
    if top is None:
        top = int(numbers.max()) + 1
    outside = (numbers < 0) | (numbers >= top)
    if outside.any():
        raise ValueError(f"y must hold labels in [0, {top}) for the {loss} loss, got {numbers[outside][0]:g}")
    if loss == "logistic":
        return np.ascontiguousarray(numbers.reshape(n, 1), dtype=dtype)
    return np.ascontiguousarray(np.eye(top, dtype=dtype)[numbers.astype(np.int64)])


def _schedule(name: str, value: ArrayLike, n_steps: int, dtype: np.dtype[Any], *, positive: bool) -> NDArray[Any]:
    values = _validate.real_array(name, value, low=0.0, open_low=positive)
    if values.shape not in ((), (n_steps,)):
        raise ValueError(f"{name} must be a number or have shape ({n_steps},), got {values.shape}")
    result = _as_dtype(name, np.broadcast_to(values, (n_steps,)), dtype)
    if ((result == 0) & (values != 0)).any():
        raise ValueError(f"{name} must not vanish in {dtype}, got a value too small for it")
    return result


def _bound(name: str, value: float | None, dtype: np.dtype[Any]) -> float:
    """Return a bound > 0 that is still > 0 and finite in ``dtype``, or 0.0 for None."""
    if value is None:
        return 0.0
    return _validate.number(name, value, low=float(np.finfo(dtype).tiny), high=float(np.finfo(dtype).max))


def _start(theta0: ArrayLike | None, n_chains: int, p: int, q: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if theta0 is None:
        return np.zeros((p, q), dtype=dtype)
    values = _validate.real_array("theta0", theta0)
    if values.shape == (p,) and q == 1:
        values = values.reshape(p, 1)
    if values.shape not in ((p, q), (n_chains, p, q)):
        raise ValueError(f"theta0 must have shape ({p}, {q}) or ({n_chains}, {p}, {q}), got {values.shape}")
    return _as_dtype("theta0", values, dtype)


def _recorded(record: ArrayLike | None, n_steps: int) -> NDArray[np.int64]:
    if record is None:
        return np.array([n_steps], dtype=np.int64)
    steps = unmasked("record", record)
    if steps.ndim != 1 or steps.size == 0:
        raise ValueError(f"record must be a non-empty one-dimensional sequence, got shape {steps.shape}")
    if steps.dtype.kind not in "iu":
        raise TypeError(f"record must hold integers, got dtype {steps.dtype}")
    if steps.min() < 0 or steps.max() > n_steps:
        raise ValueError(f"record must be within [0, {n_steps}], got {steps.min()} to {steps.max()}")
    if (np.diff(steps.astype(np.int64)) <= 0).any():
        raise ValueError("record must be strictly increasing")
    return np.ascontiguousarray(steps, dtype=np.int64)


def _run_blocks(blocks: list[tuple[int, int]], run: Callable[[int, int], None], threads: int) -> None:
    """Run every block of chains on its own thread; with BLAS at one thread, the thread count changes no bit."""
    workers = min(threads or default_threads(), len(blocks))
    with one_blas_thread():
        if workers == 1:
            for begin, end in blocks:
                run(begin, end)
            return
        with ThreadPoolExecutor(max_workers=workers) as pool:
            for future in [pool.submit(run, begin, end) for begin, end in blocks]:
                future.result()


def _blocks(n_chains: int, q: int, width: int, itemsize: int) -> list[tuple[int, int]]:
    """Split the chains into blocks whose (rows, width) work arrays fit a cache, whatever the thread count."""
    rows = int(min(max(n_chains * q // 16, 64), max(2**20 // (width * itemsize), 16), 512))
    size = max(rows // q, 1)
    return [(begin, min(begin + size, n_chains)) for begin in range(0, n_chains, size)]


def _matmul_chains(
    X: NDArray[Any],
    targets: NDArray[Any],
    *,
    loss: str,
    alpha: float,
    step_size: NDArray[Any],
    noise_std: NDArray[Any],
    theta0: NDArray[Any],
    record: NDArray[np.int64],
    out: NDArray[Any],
    clip: float,
    radius: float,
    row_norm: NDArray[Any] | None,
    seed: int,
    first_chain: int,
    first_step: int,
    threads: int,
) -> None:
    """Run wide full-batch chains: NumPy multiplies matrices, one fused pass does the rest of a step."""
    n, p = X.shape
    q = targets.shape[1]
    n_chains = out.shape[1]
    dtype = X.dtype
    start = np.ascontiguousarray(np.swapaxes(theta0, -1, -2))
    last = int(record[-1])
    use_gram = loss == "squared" and not clip
    gram: NDArray[Any] | None = None
    moment: NDArray[Any] | None = None
    if use_gram:
        with one_blas_thread():
            gram = X.T @ X
            gram[np.diag_indices(p)] += dtype.type(alpha)
            moment = np.ascontiguousarray((X.T @ targets).T)
    targets_by_output = np.ascontiguousarray(targets.T)

    def run(begin: int, end: int) -> None:
        size = end - begin
        theta = np.empty((size, q, p), dtype=dtype)
        theta[:] = start[begin:end] if start.ndim == 3 else start
        gradient = np.empty_like(theta)
        flat_theta, flat_gradient = theta.reshape(size * q, p), gradient.reshape(size * q, p)
        linear = None if use_gram else np.empty((size, q, n), dtype=dtype)
        row = 0
        for k in range(last + 1):
            if record[row] == k:
                out[row, begin:end] = theta.transpose(0, 2, 1)
                row += 1
            if k == last:
                break
            if gram is not None:
                np.matmul(flat_theta, gram, out=flat_gradient)
            elif linear is not None:
                np.matmul(flat_theta, X.T, out=linear.reshape(size * q, n))
                HOST.run("langevin_residuals", linear, targets_by_output, row_norm, loss=loss, clip=clip, threads=1)
                np.matmul(linear.reshape(size * q, n), X, out=flat_gradient)
            HOST.run(
                "langevin_tail",
                theta,
                gradient,
                moment,
                alpha=alpha,
                step_size=float(step_size[k]),
                noise_std=float(noise_std[k]),
                radius=radius,
                seed=seed,
                first_chain=first_chain + begin,
                step=first_step + k,
                threads=1,
            )

    _run_blocks(_blocks(n_chains, q, p if use_gram else max(n, p), dtype.itemsize), run, threads)


def langevin_chains(
    X: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float,
    step_size: ArrayLike,
    noise_std: ArrayLike,
    n_steps: int,
    seed: int,
    loss: Loss = "squared",
    n_chains: int = 1,
    n_classes: int | None = None,
    theta0: ArrayLike | None = None,
    first_chain: int = 0,
    first_step: int = 0,
    sampling_probability: float = 1.0,
    clip: float | None = None,
    radius: float | None = None,
    record: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
    threads: int | None = None,
) -> NDArray[np.floating]:
    """Run independent chains of noisy gradient steps and return their parameters.

    One step is ``theta <- theta - step_size * (sum_i g_i(theta) / s + alpha theta) + noise_std * xi``, xi ~ N(0, I),
    then the projection onto ``||theta||_2 <= radius`` (of the whole p x q parameter) if asked for. The sum runs over
    all records, or with sampling probability s < 1 over a Poisson sample drawn afresh by every chain at every step;
    the factor 1/s makes the gradient unbiased. g_i is the gradient of one record's loss, with ``clip`` scaled down
    to norm ``clip`` first; alpha theta is never clipped. The loss is the sum form plus (alpha/2) ||theta||^2.

    Parameters
    ----------
    X : array-like, shape (n, p)
        Records, finite.
    y : array-like
        Ridge: targets, shape (n,) or (n, q). Logistic: labels 0 and 1, shape (n,). Softmax: labels 0 to q - 1.
    alpha : float
        L2 penalty, >= 0.
    step_size, noise_std : float or array-like, shape (n_steps,)
        One value, or one per step; step sizes > 0, noise standard deviations >= 0.
    n_steps : int
        At least 1.
    seed : int
        In [0, 2**64).
    loss : {"squared", "logistic", "softmax"}
        Squared loss (1/2)||x theta - y||^2, logistic loss, or softmax cross-entropy. ``"ridge"``, the former name of
        the first, warns.
    n_chains : int
        At least 1.
    n_classes : int or None
        Number q of softmax classes; None takes the largest label plus one.
    theta0 : array-like or None
        Start, shape (p, q) for all chains or (n_chains, p, q), or (p,) where q = 1; None is zero.
    first_chain, first_step : int
        Numbers of the first chain and of the first step in the noise counter: use them for the second half of a batch,
        or to continue a run.
    sampling_probability : float
        In [2**-32, 1]; 1 is the full batch. A record enters with probability floor(2**32 s) / 2**32, so never more
        often than stated.
    clip : float or None
        Bound > 0 on the norm of one record's data gradient.
    radius : float or None
        Radius > 0 of the ball that the parameters are projected onto after every step.
    record : array-like of int or None
        Strictly increasing numbers of steps taken, within [0, n_steps] (0 is the start), after which the parameters
        are recorded; steps after the last of them are not run. None returns the end only.
    dtype : dtype
        float64 or float32, for the computation and the result.
    threads : int or None
        Most threads to use; None is the default of the process.

    Returns
    -------
    ndarray, shape (n_chains, p, q), or (n_recorded, n_chains, p, q) where ``record`` is given

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range, holds NaN or infinity, or has the wrong shape or type.

    Notes
    -----
    X, y and theta0 on a CUDA device (CuPy, PyTorch, JAX): the chains run there, and the result is an array of that
    library. Values on a device are not validated, to avoid a synchronisation, and softmax labels need ``n_classes``.
    The kernels there make the same sums in the same order; so far they ran on an emulator, not on a GPU.

    For p <= 64, and for mini-batches at any p, no BLAS is used: a chain has the same bits on every processor, for every
    number of threads, and in whichever batch it runs; T steps and then K more (``first_step=T``) are T + K steps. For
    wider full-batch problems matrix products go through NumPy: the bits are the same for every number of threads, but
    splitting and continuing agree only up to rounding. A step size too large for the loss diverges to infinity or NaN,
    as the mathematics says. In float32, sums over many records are made in blocks of 256.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> y = np.array([1.0, -1.0, 0.5])
    >>> theta = langevin_chains(X, y, alpha=1.0, step_size=0.1, noise_std=0.1, n_steps=50, n_chains=1000, seed=3)
    >>> theta.shape
    (1000, 2, 1)
    >>> exact = np.linalg.solve(X.T @ X + np.eye(2), X.T @ y)
    >>> bool(np.abs(theta.mean(axis=0)[:, 0] - exact).max() < 0.05)
    True
    """
    kind = float_dtype(dtype)
    if str(loss) == "ridge":  # no longer a Loss
        warnings.warn("loss='ridge' is now loss='squared'", DeprecationWarning, stacklevel=2)
        loss = "squared"
    _validate.choice("loss", loss, LOSSES)
    if n_classes is not None:
        if loss != "softmax":
            raise ValueError(f"n_classes is for the softmax loss only, got {n_classes!r} with loss {loss!r}")
        n_classes = _validate.count("n_classes", n_classes, low=1)
    chains = _validate.count("n_chains", n_chains, low=1)
    place = backend.place(X=X, y=y, theta0=theta0)
    data: NDArray[Any]
    if not place.on_host:
        data, targets, start = device_problem(
            place, X, y, theta0, loss=loss, n_classes=n_classes, n_chains=chains, dtype=kind
        )
    else:
        features = _validate.real_array("X", X, ndim=2)
        if 0 in features.shape:
            raise ValueError(f"X must have at least one row and one column, got shape {features.shape}")
        data = _as_dtype("X", features, kind)
        targets = _targets(y, loss, data.shape[0], n_classes, kind)
        start = _start(theta0, chains, data.shape[1], targets.shape[1], kind)
    (n, p), q = data.shape, targets.shape[1]
    steps = _validate.count("n_steps", n_steps, low=1)
    penalty = _validate.number("alpha", alpha, low=0.0)
    eta = _schedule("step_size", step_size, steps, kind, positive=True)
    tau = _schedule("noise_std", noise_std, steps, kind, positive=False)
    recorded = _recorded(record, steps)
    first = below("first_chain", first_chain, MAX_CHAIN, "2**56")
    first_number = below("first_step", first_step, MAX_STEP, "2**32")
    if first + chains > MAX_CHAIN:
        raise ValueError(f"first_chain + n_chains must be <= 2**56, got {first + chains}")
    if first_number + steps > MAX_STEP:
        raise ValueError(f"first_step + n_steps must be <= 2**32, got {first_number + steps}")
    probability = _validate.number("sampling_probability", sampling_probability, low=2.0**-32, high=1.0)
    bound, ball = _bound("clip", clip, kind), _bound("radius", radius, kind)
    key, workers = seed_number(seed), thread_count(threads)

    row_norm: NDArray[Any] | None = None
    if bound:
        row_norm = place.empty((n,), kind.name)
        place.run("langevin_row_norms", data, row_norm, threads=threads)
    out: NDArray[Any]
    if probability == 1.0 and p > _COMPILED_COLUMNS:
        common: dict[str, Any] = {
            "loss": loss,
            "alpha": penalty,
            "step_size": eta,
            "noise_std": tau,
            "record": recorded,
            "clip": bound,
            "radius": ball,
            "row_norm": row_norm,
            "seed": key,
            "first_chain": first,
            "first_step": first_number,
        }
        if not place.on_host:
            out = matmul_chains(place, data, targets, start, n_chains=chains, **common)
        else:
            out = np.empty((recorded.size, chains, p, q), dtype=kind)
            _matmul_chains(data, targets, theta0=start, out=out, threads=workers, **common)
        return out if record is not None else out[0]
    out = place.empty((recorded.size, chains, p, q), kind.name)
    gram: NDArray[Any] | None = None
    moment: NDArray[Any] | None = None
    if loss == "squared" and probability == 1.0 and not bound:
        gram = place.empty((p, -(-p // _GRAM_BLOCK) * _GRAM_BLOCK), kind.name)
        moment = place.empty((q, p), kind.name)
        place.run("langevin_gram", data, targets, penalty, gram, moment, threads=threads)
    place.run(
        "langevin_chains",
        data,
        targets,
        gram,
        moment,
        row_norm,
        place.asarray(eta),
        place.asarray(tau),
        start,
        place.asarray(recorded),
        out,
        loss=loss,
        alpha=penalty,
        threshold=-1 if probability == 1.0 else int(probability * 2**32),
        weight=1.0 / probability,
        clip=bound,
        radius=ball,
        seed=key,
        first_chain=first,
        first_step=first_number,
        threads=threads,
    )
    return out if record is not None else out[0]
