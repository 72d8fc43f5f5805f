"""One small valid call per compiled kernel: what the boundary, thread and instruction-set tests vary."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import compiled
from expunge._kernels import backend

# What calls run on unless they are told: tests exchange it (fixture `target`).
target: Any = compiled.CPU

# Names in the compiled module that are questions or settings, not kernels.
# Kernels for files, secrets and many networks are on no device: tests/test_columns.py, tests/test_noise.py and
# tests/test_ensemble.py have their boundary.
HOST_ALONE = {"rows_of_columns", "plain_page", "rounded_normals", "exact_normals", "network_gradients"}
QUESTIONS = {"isa", "default_threads", "exchange_thread_team", "residual_depth"} | HOST_ALONE


def kernel_names() -> set[str]:
    """Return the names of all kernels the compiled module exports."""
    exported = {name for name in vars(backend.core) if not name.startswith("_")}
    return {name for name in exported if inspect.isbuiltin(getattr(backend.core, name))} - QUESTIONS


def refuses_nan(outputs: dict[str, NDArray[Any]]) -> bool:
    """Return whether no output could be read as private: all NaN or infinite."""
    return all(bool((np.isnan(out) | (out == np.inf)).all()) for out in outputs.values() if out.dtype.kind == "f")


@dataclass
class KernelCall:
    """A valid call: every argument by name, without ``threads``."""

    kernel: str
    arguments: dict[str, Any]
    outputs: tuple[str, ...]
    # Outputs that are read as well: they may not start as garbage, and a NaN in them counts as one in an input.
    read_outputs: tuple[str, ...] = ()
    nan_is_refused: Callable[[dict[str, NDArray[Any]]], bool] = refuses_nan
    # (argument, axis) whose length nothing else fixes; arguments that may be None.
    free: tuple[tuple[str, int], ...] = ()
    optional: tuple[str, ...] = ()
    # A dtype (or rank) that one array chooses for all is missed in the others: the error may name any of them.
    one_chooses_for_all: bool = False
    # Scale an output is measured on between instruction sets, where it is not the output's own.
    scales: dict[str, float] = field(default_factory=dict)
    # Arrays for which one dimension less is a valid meaning too.
    one_rank_less: tuple[str, ...] = ()
    # Arrays whose being float32 or float64 nothing else fixes.
    either_float: tuple[str, ...] = ()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the array arguments by name."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, np.ndarray)}

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Return the array arguments the kernel only reads."""
        return {name: value for name, value in self.arrays().items() if name not in self.outputs}

    def replaced(self, **changes: Any) -> KernelCall:
        """Return a deep copy with some arguments exchanged."""
        other = copy.copy(self)
        other.arguments = {
            name: changes[name] if name in changes else (value.copy() if isinstance(value, np.ndarray) else value)
            for name, value in self.arguments.items()
        }
        return other

    def run(self, *, threads: int = 1) -> dict[str, NDArray[Any]]:
        """Call the kernel and return its outputs by name."""
        target.run(self.kernel, self.arguments, threads=threads)
        return {name: self.arguments[name] for name in self.outputs}


Builder = Callable[[np.random.Generator, int], KernelCall]

# Kernel name, or "kernel:variant" -> a valid call on n items (n may be 0).
CALLS: dict[str, Builder] = {}


def entry(label: str) -> Callable[[Builder], Builder]:
    """Put a builder into the table under ``label``."""

    def add(builder: Builder) -> Builder:
        CALLS[label] = builder
        return builder

    return add


def kernels_in_table() -> set[str]:
    """Return the kernels that have at least one call."""
    return {label.split(":")[0] for label in CALLS}


def call(label: str, *, n: int = 37, seed: int = 0) -> KernelCall:
    """Return the table's call on ``n`` items."""
    return CALLS[label](np.random.default_rng(seed), n)


# --- residual ---------------------------------------------------------------------------------


def _residual_pass(loss: str, outputs: int) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        rows, p = 40 * n, 13  # several ranges of rows
        X, theta = rng.standard_normal((rows, p)), rng.standard_normal((outputs, p)) / 4
        labelled = loss != "squared"
        arguments = {
            "X": X,
            "targets": None if labelled else rng.standard_normal((rows, outputs)),
            "labels": rng.integers(0, max(outputs, 2), size=rows) if labelled else None,
            "weights": rng.uniform(0.5, 2.0, size=rows),
            "theta": theta,
            "gradient": np.zeros((outputs, p)),
            "sums": np.zeros(4),
            "residuals": np.zeros((rows, outputs)),
            "loss": loss,
        }
        scale = float(np.abs(X).sum() * 8.0)
        return KernelCall(
            "residual_pass",
            arguments,
            ("gradient", "sums", "residuals"),
            nan_is_refused=lambda outputs: bool(np.isnan(outputs["sums"][:2]).any()),
            free=(("theta", 0),) if labelled else (),
            optional=("weights", "residuals"),
            scales={"gradient": scale, "sums": scale, "residuals": 64.0},
        )

    return build


for _loss, _outputs in (("squared", 2), ("logistic", 1), ("logistic", 3), ("softmax", 7)):
    entry(f"residual_pass:{_loss}{_outputs}")(_residual_pass(_loss, _outputs))


def _residual_leverages(outputs: int) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        p = 19
        K = rng.standard_normal((n, outputs, outputs, p))
        arguments = {
            "X": rng.standard_normal((n, p)),
            "K": K,
            "leverages": np.zeros((n, outputs, outputs)),
            "squares": np.zeros((n, outputs, outputs)),
            "norms": np.zeros(n),
        }
        scale = float(np.abs(K).sum() + 1.0) * 8.0
        return KernelCall(
            "residual_leverages",
            arguments,
            ("leverages", "squares", "norms"),
            nan_is_refused=lambda outputs: any(bool(np.isnan(out).any()) for out in outputs.values()),
            scales=dict.fromkeys(("leverages", "squares", "norms"), scale),
        )

    return build


for _outputs in (1, 3, 5):
    entry(f"residual_leverages:{_outputs}")(_residual_leverages(_outputs))


# --- privacy -----------------------------------------------------------------------------------


def _elementwise(kernel: str, first: str, second: str) -> None:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        draw = {
            "mu": lambda size: np.exp(rng.uniform(np.log(1e-3), np.log(10.0), size)),
            "epsilon": lambda size: rng.uniform(0.0, 5.0, size),
            "delta": lambda size: np.exp(rng.uniform(np.log(1e-12), np.log(0.1), size)),
        }
        size = 20 * n  # several ranges of the binding's grain
        arguments = {first: draw[first](size), second: draw[second](size), "out": np.zeros(size)}
        return KernelCall(kernel, arguments, ("out",))

    entry(kernel)(build)


_elementwise("gdp_delta", "mu", "epsilon")
_elementwise("gdp_epsilon", "mu", "delta")
_elementwise("gdp_mu", "epsilon", "delta")


@entry("shifted_mu")
def _shifted_mu(rng: np.random.Generator, n: int) -> KernelCall:
    return KernelCall(
        "shifted_mu",
        {
            "sensitivity": rng.uniform(0.0, 1.0, size=(n, 11)),
            "contraction": rng.uniform(0.5, 1.0, size=(n, 11)),
            "noise_std": rng.uniform(0.1, 1.0, size=(n, 11)),
            "out": np.zeros(n),
        },
        ("out",),
    )


@entry("sampled_gaussian_rdp")
def _sampled_gaussian_rdp(rng: np.random.Generator, n: int) -> KernelCall:
    return KernelCall(
        "sampled_gaussian_rdp",
        {
            "order": rng.uniform(1.1, 20.0, size=n),
            "noise_multiplier": rng.uniform(0.5, 20.0, size=n),
            "sampling_probability": rng.uniform(0.01, 0.9, size=n),
            "reverse": False,
            "out": np.zeros(n),
        },
        ("out",),
    )


def _pair(kernel: str, what: str, outputs: tuple[str, ...]) -> None:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        asked = {
            "epsilon": rng.uniform(0.0, 3.0, size=n),
            "delta": np.exp(rng.uniform(np.log(1e-9), np.log(1e-2), size=n)),
            "order": rng.uniform(1.1, 3.0, size=n),
        }
        arguments: dict[str, Any] = {
            "excess": rng.uniform(-0.2, 0.2, size=(n, 5)),
            "squared_shift": rng.uniform(0.0, 0.1, size=(n, 5)),
            "columns": 2.0,
            what: asked[what],
            "swapped": kernel == "pair_renyi",
        }
        return KernelCall(
            kernel,
            {**arguments, **{name: np.zeros(n) for name in outputs}},
            outputs,
            nan_is_refused=lambda out: bool((~(out[outputs[0]] < (1.0 if what == "epsilon" else np.inf))).all()),
        )

    entry(kernel)(build)


_pair("pair_delta", "epsilon", ("delta", "error", "converged"))
_pair("pair_epsilon", "delta", ("out",))
_pair("pair_renyi", "order", ("out",))


# --- ridge -------------------------------------------------------------------------------------


def _ridge_problem(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Return a small ridge run: spectrum, projected records, and mean residuals along learning."""
    p, q, steps, alpha = 6, 2, 9, 1.0
    X = rng.normal(size=(max(n, 40), p))
    Y = rng.normal(size=(max(n, 40), q))
    h, V = np.linalg.eigh(X.T @ X + alpha * np.eye(p))
    step_size = 1.0 / h[-1]
    theta = np.zeros((p, q))
    residuals = np.empty((n, steps, q))
    for k in range(steps):
        residuals[:, k] = X[:n] @ theta - Y[:n]
        theta = theta - step_size * (X.T @ (X @ theta - Y) + alpha * theta)
    return {
        "eigenvalues": h,
        "projected": np.ascontiguousarray((X @ V)[:n]),
        "residuals": residuals,
        "setting": _ridge_setting(step_size),
    }


def _ridge_setting(step_size: float) -> Any:
    return backend.core.RidgeSetting(
        step_size=step_size,
        noise_std=0.1,
        unlearn_steps=3.0,
        unlearn_noise_std=0.0,
        solve_steps=False,
        epsilon=1.0,
        log_delta=float(np.log(1e-5)),
        mu=0.25,
        tolerance=1e-9,
    )


def _quote_outputs(n: int) -> dict[str, NDArray[Any]]:
    names = ("value", "epsilon_out", "log_delta_pq", "log_delta_qp", "error")
    return {**{name: np.zeros(n) for name in names}, "rank_out": np.zeros(n, dtype=np.int64)}


def _quote_is_no_promise(outputs: dict[str, NDArray[Any]]) -> bool:
    """NaN or infinite noise, and no delta below one."""
    value, pq, qp = outputs["value"], outputs["log_delta_pq"], outputs["log_delta_qp"]
    return bool((~np.isfinite(value)).all() and (~(pq < 0)).all() and (~(qp < 0)).all())


@entry("ridge_exact_quotes")
def _ridge_exact_quotes(rng: np.random.Generator, n: int) -> KernelCall:
    outputs = _quote_outputs(n)
    return KernelCall(
        "ridge_exact_quotes",
        {**_ridge_problem(rng, n), "rank": 0, **outputs},
        tuple(outputs),
        nan_is_refused=_quote_is_no_promise,
        scales={"error": 1.0},  # relative to the value
        free=(("residuals", 1), ("residuals", 2)),
    )


@entry("ridge_gaussian_pairs")
def _ridge_gaussian_pairs(rng: np.random.Generator, n: int) -> KernelCall:
    outputs = {
        "excess_variance": np.zeros((n, 6)),
        "squared_shift": np.zeros((n, 6)),
        "rest": np.zeros(n),
        "count": np.zeros(n, dtype=np.int64),
    }
    return KernelCall(
        "ridge_gaussian_pairs",
        {**_ridge_problem(rng, n), "rank": 6, **outputs},
        tuple(outputs),
        nan_is_refused=lambda out: bool((out["count"] < 0).all()),
        scales={"rest": 1.0},  # beside the squared shifts
        free=(("residuals", 1), ("residuals", 2)),
    )


@entry("ridge_solve_reduced")
def _ridge_solve_reduced(rng: np.random.Generator, n: int) -> KernelCall:
    del n  # one group at a time
    h = np.sort(rng.uniform(1.0, 9.0, size=5))
    half = rng.normal(size=(5, 2)) * 0.3
    outputs = _quote_outputs(1)
    return KernelCall(
        "ridge_solve_reduced",
        {
            "eigenvalues": h,
            "difference": half @ half.T,
            "shift": rng.normal(size=(5, 2)) * 0.01,
            "setting": _ridge_setting(0.1),
            "n_steps": 9,
            **outputs,
        },
        tuple(outputs),
        nan_is_refused=_quote_is_no_promise,
        scales={"error": 1.0},  # relative to the value
        free=(("shift", 1),),
    )


@entry("ridge_shifted_quotes")
def _ridge_shifted_quotes(rng: np.random.Generator, n: int) -> KernelCall:
    return KernelCall(
        "ridge_shifted_quotes",
        {
            "sensitivity": rng.uniform(0.1, 0.5, size=(n, 9)),
            "contraction": rng.uniform(0.8, 0.99, size=n),
            "noise_std": 0.1,
            "unlearn_steps": 3.0,
            "unlearn_noise_std": 0.0,
            "solve_steps": False,
            "mu_limit": 0.3,
            "value": np.zeros(n),
            "mu": np.zeros(n),
        },
        ("value", "mu"),
        free=(("sensitivity", 1),),
    )


@entry("ridge_smallest_eigenvalues")
def _ridge_smallest_eigenvalues(rng: np.random.Generator, n: int) -> KernelCall:
    problem = _ridge_problem(rng, n)
    return KernelCall(
        "ridge_smallest_eigenvalues",
        {
            "eigenvalues": problem["eigenvalues"],
            "projected": problem["projected"],
            "floor": 1.0,
            "slack": 1e-12,
            "out": np.zeros(n),
        },
        ("out",),
    )


# --- langevin ----------------------------------------------------------------------------------


@entry("random_words")
def _random_words(rng: np.random.Generator, n: int) -> KernelCall:
    del rng
    return KernelCall(
        "random_words",
        {"out": np.zeros((997 * n, 4), dtype=np.uint32), "seed": 5, "chain": 2**40 + 1, "step": 3},
        ("out",),
        free=(("out", 0),),
    )


def _standard_normals(dtype: str) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        del rng
        return KernelCall(
            "standard_normals",
            {"out": np.zeros(997 * n, dtype=dtype), "seed": 5, "chain": 2**40 + 1, "step": 3},
            ("out",),
            free=(("out", 0),),
            one_chooses_for_all=True,
            either_float=("out",),
        )

    return build


entry("standard_normals")(_standard_normals("float64"))
entry("standard_normals:float32")(_standard_normals("float32"))


@entry("langevin_gram")
def _langevin_gram(rng: np.random.Generator, n: int) -> KernelCall:
    p, q = 5, 2
    return KernelCall(
        "langevin_gram",
        {
            "X": rng.normal(size=(n, p)),
            "targets": rng.normal(size=(n, q)),
            "alpha": 1.0,
            "gram": np.zeros((p, 8)),
            "moment": np.zeros((q, p)),
        },
        ("gram", "moment"),
        nan_is_refused=lambda out: bool(np.isnan(out["gram"][:, :p]).all() or np.isnan(out["moment"]).all()),
        one_chooses_for_all=True,
    )


@entry("langevin_row_norms")
def _langevin_row_norms(rng: np.random.Generator, n: int) -> KernelCall:
    return KernelCall(
        "langevin_row_norms",
        {"X": rng.normal(size=(n, 7)), "out": np.zeros(n)},
        ("out",),
        free=(("X", 1),),
        one_chooses_for_all=True,
    )


def _chains(loss: str, dtype: str, **options: Any) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        rows, p, steps = 23, 5, 6
        q = 1 if loss == "logistic" else 3
        X = rng.normal(size=(rows, p)).astype(dtype)
        targets = rng.normal(size=(rows, q)) if loss == "squared" else rng.integers(0, 2, size=(rows, q))
        targets = targets.astype(dtype)
        arguments: dict[str, Any] = {
            "X": X,
            "targets": targets,
            "gram": None,
            "moment": None,
            "row_norm": np.linalg.norm(X, axis=1).astype(dtype) if "clip" in options else None,
            "step_size": np.full(steps, 0.01, dtype=dtype),
            "noise_std": np.full(steps, 0.1, dtype=dtype),
            "theta0": rng.normal(size=(n, p, q)).astype(dtype),
            "record": np.array([2, 6], dtype=np.int64),
            "out": np.zeros((2, n, p, q), dtype=dtype),
            "loss": loss,
            "alpha": 1.0,
            "threshold": -1,
            "weight": 1.0,
            "clip": 0.0,
            "radius": 0.0,
            "seed": 5,
            "first_chain": 0,
            "first_step": 0,
        }
        arguments.update(options)
        return KernelCall(
            "langevin_chains",
            arguments,
            ("out",),
            optional=("gram", "moment", "row_norm"),
            one_chooses_for_all=True,
            one_rank_less=("theta0",),
        )

    return build


entry("langevin_chains")(_chains("squared", "float64"))
entry("langevin_chains:logistic")(_chains("logistic", "float64", clip=0.7, radius=2.0))
entry("langevin_chains:softmax")(_chains("softmax", "float32", threshold=2**31, weight=2.0))


@entry("langevin_tail")
def _langevin_tail(rng: np.random.Generator, n: int) -> KernelCall:
    return KernelCall(
        "langevin_tail",
        {
            "theta": rng.normal(size=(n, 2, 7)),
            "gradient": rng.normal(size=(n, 2, 7)),
            "moment": rng.normal(size=(2, 7)),
            "alpha": 1.0,
            "step_size": 0.01,
            "noise_std": 0.1,
            "radius": 2.0,
            "seed": 5,
            "first_chain": 0,
            "step": 3,
        },
        ("theta",),
        read_outputs=("theta",),
        optional=("moment",),
        one_chooses_for_all=True,
    )


@entry("langevin_residuals")
def _langevin_residuals(rng: np.random.Generator, n: int) -> KernelCall:
    return KernelCall(
        "langevin_residuals",
        {
            "linear": rng.normal(size=(n, 3, 11)),
            "targets": rng.normal(size=(3, 11)),
            "row_norm": rng.uniform(0.5, 2.0, size=11),
            "loss": "squared",
            "clip": 0.7,
        },
        ("linear",),
        read_outputs=("linear",),
        free=(("linear", 0),),
        optional=("row_norm",),
        one_chooses_for_all=True,
    )


# --- grad_norms --------------------------------------------------------------------------------

DTYPES = ("float64", "float32")


def _label(kernel: str, *variants: str) -> str:
    """Return the label of a variant; float64 is the one without a name."""
    return ":".join(
        [kernel, "-".join(named)] if (named := [v for v in variants if v not in ("", "float64")]) else [kernel]
    )


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    return rng.normal(size=shape).astype(dtype)


def _sizes(*arrays: NDArray[Any]) -> float:
    """Return the product of the arrays' norms for the example where it is largest."""
    squares = [np.sum(a.astype(float) ** 2, axis=tuple(range(1, a.ndim))) for a in arrays]
    return float(np.sqrt(np.prod(squares, axis=0)).max(initial=0.0))


def _gradients_call(
    kernel: str,
    arguments: dict[str, Any],
    sized: tuple[str, ...],
    free: tuple[tuple[str, int], ...] = (),
    **options: Any,
) -> KernelCall:
    """Return the call; outputs are float64, but sums of float32 products have that dtype's rounding."""
    factors = [arguments[name] for name in sized]
    single = factors[0].dtype == np.float32
    return KernelCall(
        kernel,
        arguments,
        ("out",),
        free=free,
        one_chooses_for_all=True,
        scales={"out": _sizes(*factors) * 2.0**29} if single else {},
        **options,
    )


# One position (an outer product), few wide ones (the Gram form) and many narrow ones (the product).
def _linear_grad_norms(dtype: str, positions: int, d_in: int, d_out: int) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        arguments = {
            "activations": _normal(rng, (n, positions, d_in), dtype),
            "output_grads": _normal(rng, (n, positions, d_out), dtype),
            "bias": True,
            "squared": False,
            "out": np.zeros(n),
        }
        sized = ("activations", "output_grads")
        return _gradients_call("linear_grad_norms", arguments, sized, (("activations", 2), ("output_grads", 2)))

    return build


def _linear_grad_dots(dtype: str) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        arguments = {
            "activations_1": _normal(rng, (n, 5, 19), dtype),
            "output_grads_1": _normal(rng, (n, 5, 11), dtype),
            "activations_2": _normal(rng, (n, 3, 19), dtype),
            "output_grads_2": _normal(rng, (n, 3, 11), dtype),
            "out": np.zeros(n),
        }
        return _gradients_call("linear_grad_dots", arguments, tuple(arguments)[:4])

    return build


def _embedding_grad_norms(dtype: str) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        arguments = {
            "indices": rng.integers(0, 7, size=(n, 12)),
            "output_grads": _normal(rng, (n, 12, 9), dtype),
            "padding_idx": 3,
            "squared": False,
            "out": np.zeros(n),
        }
        return _gradients_call(
            "embedding_grad_norms", arguments, ("output_grads",), (("output_grads", 2),), either_float=("output_grads",)
        )

    return build


def _embedding_linear_grad_dots(dtype: str) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        arguments = {
            "indices": rng.integers(0, 7, size=(n, 12)),
            "embedding_grads": _normal(rng, (n, 12, 9), dtype),
            "row_factors": _normal(rng, (n, 4, 7), dtype),
            "column_factors": _normal(rng, (n, 4, 9), dtype),
            "padding_idx": 3,
            "out": np.zeros(n),
        }
        sized = ("embedding_grads", "row_factors", "column_factors")
        return _gradients_call("embedding_linear_grad_dots", arguments, sized, (("row_factors", 2),))

    return build


def _conv_grad_norms(dtype: str, padded: bool) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        # A 3 x 3 kernel over 2 groups of 2 channels; one ring of zeros around the image if padded.
        height, width = (4, 6) if padded else (6, 8)
        columns, rows = 8, 6
        corner = np.arange(3)[:, None] * columns + np.arange(3)
        positions = np.arange(rows - 2)[:, None] * columns + np.arange(columns - 2)
        ring = [np.array([0]), np.r_[-1, np.arange(4), -1], np.r_[-1, np.arange(6), -1]]
        arguments = {
            "activations": _normal(rng, (n, 4, 1, height, width), dtype),
            "output_grads": _normal(rng, (n, 6, positions.size), dtype),
            "groups": 2,
            "padded": np.array([1, rows, columns], dtype=np.int64),
            "pad_maps": np.concatenate(ring).astype(np.int32) if padded else None,
            "position_offsets": positions.ravel().astype(np.int32),
            "feature_offsets": (np.arange(2)[:, None] * rows * columns + corner.ravel()).ravel().astype(np.int32),
            "bias": True,
            "squared": False,
            "out": np.zeros(n),
        }
        free = tuple(("activations", axis) for axis in (2, 3, 4)) if padded else ()  # a map may leave pixels out
        sized = ("activations", "output_grads")
        return _gradients_call("conv_grad_norms", arguments, sized, free, optional=("pad_maps",))

    return build


def _norm_layer_grad_norms(dtype: str, kind: int, normalized: bool) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        arguments = {
            "activations": _normal(rng, (n, 6, 10), dtype),
            "output_grads": _normal(rng, (n, 6, 10), dtype),
            "kind": kind,
            "n_groups": 3 if kind == 2 else 1,
            "eps": 1e-5,
            "normalized": normalized,
            "weight": True,
            "bias": kind != 1,
            "squared": False,
            "out": np.zeros(n),
        }
        return _gradients_call("norm_layer_grad_norms", arguments, ("activations", "output_grads"))

    return build


def _probe_grad_norms(
    dtype: str, loss: str, checkpoints: int, weighted: bool, alpha: float, proxies: bool = False
) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        d, classes, size = 13, 1 if loss == "logistic" else 3, 7 * n  # several tiles of rows
        y = rng.integers(0, max(classes, 2), size=size) if loss != "squared" else _normal(rng, (size, classes), dtype)
        arguments = {
            "X": _normal(rng, (size, d), dtype),
            "weights": _normal(rng, (checkpoints, d, classes), dtype),
            "y": y,
            "loss": loss,
            "alpha": alpha,
            "checkpoint_weights": rng.uniform(size=checkpoints) if weighted else None,
            "squared": False,
            "out": np.zeros(size if weighted else (size, checkpoints)),
        }
        free = (("weights", 2),) if loss == "softmax" else ()  # more classes than labels that occur
        if proxies:
            arguments |= {"proxies": np.zeros((size, 3)), "early": checkpoints - 1}
        case = _gradients_call("probe_grad_norms", arguments, ("X",), free, optional=("checkpoint_weights", "proxies"))
        if case.scales:  # residuals are differences of logits, each as large as both factors
            scale = _sizes(arguments["X"]) * (1.0 + _sizes(arguments["X"]) * float(np.abs(arguments["weights"]).max()))
            case.scales["out"] = 2.0**29 * (checkpoints * scale**2 if weighted else scale)
            case.scales |= {"proxies": 2.0**29 * checkpoints * scale**2} if proxies else {}
        case.outputs += ("proxies",) if proxies else ()
        return case

    return build


CELLS = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}  # in the order of the kernels' numbers; gates of each


def recurrent_call(
    rng: np.random.Generator,
    cell: str,
    shape: tuple[int, int, int],
    dtype: str,
    *,
    bias: bool = True,
    backwards: bool = False,
) -> KernelCall:
    """Return a call of ``recurrent_states`` on (sequences, steps, width), outputs of zeros."""
    n, steps, width = shape
    rows, lstm = CELLS[cell] * width, cell == "lstm"
    arguments = {
        "gates": _normal(rng, (n, steps, rows), dtype),
        "weight": _normal(rng, (rows, width), dtype) / np.sqrt(width).astype(dtype),
        "bias": _normal(rng, (rows,), dtype) if bias else None,
        "hidden": _normal(rng, (n, width), dtype),
        "cells": _normal(rng, (n, width), dtype) if lstm else None,
        "before": np.zeros((n, steps, width), dtype),
        "outputs": np.zeros((steps, n, width), dtype),
        "kept": np.zeros((n, steps, width), dtype) if CELLS[cell] > 1 else None,
        "cell": list(CELLS).index(cell),
        "backwards": backwards,
    }
    outputs = tuple(name for name in ("gates", "before", "outputs", "kept") if arguments[name] is not None)
    return KernelCall(
        "recurrent_states", arguments, outputs, read_outputs=("gates",), one_chooses_for_all=True,
        optional=("bias", "cells", "kept"), nan_is_refused=lambda found: bool(np.isnan(found["outputs"]).all()),
    )  # fmt: skip


def recurrent_grads_call(rng: np.random.Generator, states: KernelCall) -> KernelCall:
    """Return the call of ``recurrent_grads`` after a call of ``recurrent_states`` that was made."""
    given = states.arguments
    cell, dtype = list(CELLS)[given["cell"]], given["gates"].dtype.name
    n, steps, width = given["before"].shape
    lstm, gru = cell == "lstm", cell == "gru"
    arguments = {
        "output_grads": _normal(rng, (n, steps, width), dtype),
        "gates": given["gates"],
        "weight": given["weight"],
        "before": given["before"] if gru else None,
        "cells": given["cells"],
        "kept": given["kept"],
        "gate_grads": np.zeros(given["gates"].shape, dtype),
        "state_gate_grads": np.zeros(given["gates"].shape, dtype) if gru else None,
        "hidden_grads": _normal(rng, (n, width), dtype),
        "cell_grads": _normal(rng, (n, width), dtype) if lstm else None,
        "cell": given["cell"],
        "backwards": given["backwards"],
    }
    names = ("gate_grads", "state_gate_grads", "hidden_grads", "cell_grads")
    return KernelCall(
        "recurrent_grads", arguments, tuple(name for name in names if arguments[name] is not None),
        read_outputs=("hidden_grads", "cell_grads") if lstm else ("hidden_grads",), one_chooses_for_all=True,
        optional=("before", "cells", "kept", "state_gate_grads", "cell_grads"),
        nan_is_refused=lambda found: bool(np.isnan(found["hidden_grads"]).all()),
    )  # fmt: skip


def _recurrent(cell: str, dtype: str) -> Builder:
    return lambda rng, n: recurrent_call(rng, cell, (n, 3, 9), dtype, backwards=cell == "gru")


def _recurrent_grads(cell: str, dtype: str) -> Builder:
    def build(rng: np.random.Generator, n: int) -> KernelCall:
        states = recurrent_call(rng, cell, (n, 3, 9), dtype, backwards=cell == "gru")
        compiled.CPU.run("recurrent_states", states.arguments)
        return recurrent_grads_call(rng, states)

    return build


for _dtype in DTYPES:
    for _cell in CELLS:
        _name = "" if _cell == "lstm" else _cell
        entry(_label("recurrent_states", _name, _dtype))(_recurrent(_cell, _dtype))
        entry(_label("recurrent_grads", _name, _dtype))(_recurrent_grads(_cell, _dtype))
    for _name, _shape in {"": (4, 9, 7), "row": (1, 33, 21), "gram": (3, 40, 50)}.items():
        entry(_label("linear_grad_norms", _name, _dtype))(_linear_grad_norms(_dtype, *_shape))
    entry(_label("linear_grad_dots", _dtype))(_linear_grad_dots(_dtype))
    entry(_label("embedding_grad_norms", _dtype))(_embedding_grad_norms(_dtype))
    entry(_label("embedding_linear_grad_dots", _dtype))(_embedding_linear_grad_dots(_dtype))
    for _name, _padded in {"": True, "valid": False}.items():
        entry(_label("conv_grad_norms", _name, _dtype))(_conv_grad_norms(_dtype, _padded))
    for _kind, _name in enumerate(("layer", "rms", "group")):
        entry(_label("norm_layer_grad_norms", _name, _dtype))(_norm_layer_grad_norms(_dtype, _kind, False))
    entry(_label("norm_layer_grad_norms", "normalized", _dtype))(_norm_layer_grad_norms(_dtype, 0, True))
    for _loss in ("softmax", "logistic", "squared"):
        entry(_label("probe_grad_norms", _loss, _dtype))(_probe_grad_norms(_dtype, _loss, 2, False, 0.0))
        entry(_label("probe_grad_norms", _loss, "proxies", _dtype))(
            _probe_grad_norms(_dtype, _loss, 5, False, 0.0, proxies=True)
        )
        entry(_label("probe_grad_norms", _loss, "weighted", _dtype))(_probe_grad_norms(_dtype, _loss, 9, True, 0.1))
