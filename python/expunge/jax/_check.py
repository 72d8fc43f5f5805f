"""Gradients of a few examples compared with automatic differentiation of each alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expunge.jax._arguments import Arguments
from expunge.jax._errors import GradNormMismatchError
from expunge.jax._passes import Passed

__all__ = ["compare"]


def compare(
    function: Callable[..., Any], arguments: Arguments, passed: Passed, reduction: str, *, keep: bool, examples: int
) -> None:
    """Compare losses and squared norms with those of some examples alone, picked at random.

    Raises
    ------
    GradNormMismatchError
        If they differ.
    ValueError
        Under a transformation, where numbers are not known yet.
    """
    values = (*arguments.parameters, *arguments.batch, passed.losses)
    if any(isinstance(value, jax.core.Tracer) for value in values):
        raise ValueError("check compares numbers, which are not there yet under jax.jit: check once outside of it")
    eps = max(float(jnp.finfo(arguments.parameters[k].dtype).eps) for k in arguments.followed)
    tolerance = 20 * max(eps, float(jnp.finfo(passed.losses.dtype).eps)) ** 0.6
    losses = np.asarray(passed.losses, np.float64)
    if keep:
        whole = np.asarray(arguments.called(function, arguments.parameters, arguments.batch), np.float64)
        ours = {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction if whole.shape == () else "none"]
        if not np.allclose(whole, ours, rtol=0.0, atol=tolerance * (np.abs(losses).max() * whole.size + 1e-300)):
            raise GradNormMismatchError(
                f"the losses of the examples alone are {ours!r} and those of the batch {whole!r}: examples interact, "
                "or loss_fn is another function of a batch of one"
            )
    picked = np.random.default_rng().choice(arguments.size, min(examples, arguments.size), replace=False)
    names = [jax.tree_util.keystr(path) for path, _ in _paths(arguments)]
    for example in sorted(int(i) for i in picked):
        own = arguments.example(example, keep=keep)

        def alone(floating: list[Any], own: list[Any] = own) -> Any:
            parameters = list(arguments.parameters)
            for k, array in zip(arguments.followed, floating, strict=True):
                parameters[k] = array
            return jnp.reshape(arguments.called(function, parameters, own), ())

        grads = jax.grad(alone)([arguments.parameters[k] for k in arguments.followed])
        truth = [float(np.linalg.norm(np.asarray(grad, np.float64))) for grad in grads]
        found = [0.0 if (s := passed.squares[k]) is None else float(s[example]) ** 0.5 for k in arguments.followed]
        scale = max(*truth, *found)
        for k, a, b in zip(arguments.followed, found, truth, strict=True):
            if not abs(a - b) <= tolerance * scale:
                raise GradNormMismatchError(
                    f"params{names[k]}: the gradient of example {example} has norm {a:.6g} in the batch and {b:.6g} "
                    "alone. Please report functions for which this happens"
                )


def _paths(arguments: Arguments) -> list[Any]:
    tree = jax.tree.unflatten(arguments.parameter_tree, arguments.parameters)
    return jax.tree_util.tree_flatten_with_path(tree)[0]
