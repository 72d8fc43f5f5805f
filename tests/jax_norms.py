"""Gradient norms of single examples by automatic differentiation, to compare those of `expunge.jax` with."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs expunge[jax]", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402

from expunge.jax import value_and_grad_norms  # noqa: E402


def batch_of_one(loss_fn):
    """Return the loss of one example, from the loss of a batch."""
    return lambda params, *example: jnp.reshape(loss_fn(params, *jax.tree.map(lambda a: a[None], example)), ())


def truth(loss_fn, params, *batch, one_example=False):
    """Return losses, and gradients of each example alone."""
    alone = loss_fn if one_example else batch_of_one(loss_fn)
    axes = (None, *(0 for _ in batch))
    whole = jax.vmap(loss_fn, axes) if one_example else loss_fn

    @jax.jit
    def both(params, *batch):
        return whole(params, *batch), jax.vmap(jax.grad(alone), axes)(params, *batch)

    return both(params, *batch)


def random_like(params, seed=0):
    """Return parameters of the same shapes, all random and in float64: zeros and ones would hide errors."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=leaf.shape) / 2) for leaf in leaves])


def assert_exact(loss_fn, params, *batch, one_example=False, reduction="sum", **settings):
    """Compare losses, summed gradients and squared norms of every parameter with automatic differentiation.

    Returns the summed gradients.
    """
    function = value_and_grad_norms(loss_fn, one_example=one_example, per_parameter=True, squared=True, **settings)
    value, grads, squares = jax.jit(function)(params, *batch)
    true_value, own = truth(loss_fn, params, *batch, one_example=one_example)
    count = len(jax.tree.leaves(batch)[0])
    paths, tree = jax.tree_util.tree_flatten_with_path(own)
    own = {jax.tree_util.keystr(path): np.asarray(grad).reshape(count, -1) for path, grad in paths}
    scale = max(float((grad**2).sum(1).max()) for grad in own.values())
    assert scale > 0
    assert jax.tree.structure(squares) == jax.tree.structure(grads) == tree
    np.testing.assert_allclose(value, true_value, rtol=1e-9, atol=1e-12)
    parts = 1 / count if reduction == "mean" else 1.0
    for name, square, grad in zip(own, jax.tree.leaves(squares), jax.tree.leaves(grads), strict=True):
        assert square.dtype == np.float64
        np.testing.assert_allclose(square, (own[name] ** 2).sum(1), rtol=1e-9, atol=1e-15 * scale, err_msg=name)
        summed = own[name].sum(0) * parts
        np.testing.assert_allclose(np.ravel(grad), summed, rtol=1e-9, atol=1e-13 * scale**0.5 * count, err_msg=name)
    return grads
