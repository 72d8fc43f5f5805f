"""Arrays of CuPy and JAX: the same answers as PyTorch's, in the caller's own arrays. Checked, not timed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from expunge import grad_norms, langevin
from expunge.accounting import gdp_delta
from expunge.runs import ridge
from gpu_cases import Case, Plan
from gpu_device import Device, worst

Convert = Callable[[Any], Any]


def converter(name: str) -> tuple[Convert, Convert]:
    """Return what makes an array of the library from a host array, and a host array from it."""
    if name == "cupy":
        cupy = importlib.import_module("cupy")
        return cupy.asarray, cupy.asnumpy
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    return importlib.import_module("jax.numpy").asarray, np.asarray


def calls(on: Device) -> dict[str, tuple[Callable[..., Any], list[Any], dict[str, Any], float]]:
    """Return functions, host arrays, settings and the share by which products of two libraries may differ."""
    rng = np.random.default_rng(5)
    n = on.pick(5000, 12)
    chain = {"alpha": 1.0, "step_size": 1e-4, "noise_std": 0.1, "n_steps": 3, "seed": 0, "n_chains": on.pick(500, 5)}
    single = rng.normal(size=(n, 3, 40)).astype(np.float32)

    def quotes(X: Any, Y: Any) -> Any:
        law = ridge.LearningLaw(X, Y, alpha=1.0, step_size=1e-5, n_steps=20, noise_std=0.1)
        return ridge.exact_quotes(law, np.arange(10), epsilon=1.0, delta=1e-5, n_steps=5).noise_std

    return {
        "gdp_delta": (gdp_delta, [rng.uniform(0.1, 2, n), rng.uniform(0, 2, n)], {}, 0.0),
        "linear_grad_norms": (grad_norms.linear_grad_norms, [single, single[:, :, :7].copy()], {}, 0.0),
        "langevin_chains of 3 parameters": (langevin.langevin_chains, [rng.normal(size=(n, 3)), rng.normal(size=n)],
                                            chain, 0.0),
        "langevin_chains of 80 parameters": (langevin.langevin_chains, [rng.normal(size=(n, 80)), rng.normal(size=n)],
                                             chain, 1e-10),
        "probe_grad_norms": (grad_norms.probe_grad_norms,
                             [rng.normal(size=(n, 6)), rng.normal(size=(6, 3)), rng.integers(0, 3, n)], {}, 1e-10),
        "ridge_exact_quotes": (quotes, [rng.normal(size=(n, 6)), rng.normal(size=(n, 2))], {}, 1e-6),
    }  # fmt: skip


def case(on: Device, library: str, name: str) -> Case:
    function, arrays, settings, rtol = calls(on)[name]
    there, back = converter(library)

    def check() -> float:
        given = [there(array) for array in arrays]
        found = function(*given, **settings)
        if type(found) is not type(given[0]):
            return float("inf")
        expected = function(*(on.torch.from_numpy(array).to(on.where) for array in arrays), **settings)
        found = on.torch.from_numpy(np.array(back(found))).to(on.where)
        return worst(found, expected, rtol * float(expected.double().abs().max()) + 1e-300)

    return Case(check, "PyTorch's arrays")


def plans(on: Device) -> Iterator[Plan]:
    for library in ("cupy", "jax"):
        missing = "" if importlib.util.find_spec(library) else f"{library} is not installed"
        for name in calls(on) if not missing else ["all functions"]:
            yield Plan(
                f"arrays of {library}", name, lambda name=name, library=library: case(on, library, name), missing
            )
