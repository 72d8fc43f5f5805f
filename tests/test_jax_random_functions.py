"""Random chains of operations on batches in JAX: their norms are exact, or the function is rejected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

jax = pytest.importorskip("jax", reason="the JAX backend needs expunge[jax]", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

from expunge.jax import UnsupportedFunctionError, value_and_grad_norms  # noqa: E402
from jax_norms import batch_of_one  # noqa: E402

B, T, D = 3, 3, 4  # as many positions as examples: no rule may tell axes by their length
LIMIT = 2000  # numbers in a value
OUTCOMES = {"exact": 0, "rejected": 0}


def axis_of(h, k):
    return k % h.ndim


def last(h):
    return h.shape[-1]


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():  # programs run once here
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Parameters:
    """Random parameters by the place of their use, made at the first."""

    def __init__(self, found):
        self.found, self.count = found, 0

    def __call__(self, *shape):
        name = f"p{self.count}"
        self.count += 1
        if name not in self.found:
            rng = np.random.default_rng([self.count, *shape])
            self.found[name] = rng.normal(size=shape) / max(1, shape[0]) ** 0.5
        assert self.found[name].shape == shape
        return jnp.asarray(self.found[name])


def looked_up(p, h, k):
    rows = lax.stop_gradient(jnp.abs(h) * 7).astype(int) % 5
    return p(5, 2)[rows] if k % 2 else jnp.take(p(5), rows)


def recurrent(p, h, k):
    if h.ndim != 3:
        return h
    w = p(last(h), last(h))
    h = jnp.moveaxis(h, 1, 0)
    if k % 2:
        return lax.scan(lambda c, x: (jnp.tanh(c @ w + x),) * 2, jnp.zeros_like(h[0]), h)[1].swapaxes(0, 1)
    return lax.scan(lambda c, x: (jnp.tanh(c @ w + x), None), h[0], h)[0]


def tied(p, h, k):
    w = p(last(h), 3)
    h = jnp.tanh(h @ w) @ w.T
    return h * w[:, 0] if k % 2 else h


def numbers(h):
    return lax.stop_gradient(jnp.abs(jnp.floor(3 * h))).astype(int)


def with_itself(p, h, k):
    """Return a product of rows with others of the same, over any axes."""
    rng = np.random.default_rng(k)
    axes = rng.permutation(h.ndim).tolist()
    contracted = int(rng.integers(0, h.ndim + 1))
    together = int(rng.integers(0, h.ndim - contracted + 1))
    axes = axes[:contracted], axes[contracted : contracted + together]
    return lax.dot_general(h, jnp.sin(h), ((axes[0], axes[0]), (axes[1], axes[1])))


def scattered(p, h, k):
    if h.ndim < 2:
        return h
    rows = numbers(h).reshape(len(h), -1)[:, 0]
    return (
        lambda: h.at[:, 0].multiply(2.0),
        lambda: h.at[0].set(0.0),
        lambda: jnp.zeros_like(h).at[..., 0].set(h[..., -1]),
        lambda: jax.ops.segment_sum(h, rows % 2, 2),
    )[k % 4]()


def written_over(p, h, k):
    axis = axis_of(h, k)
    part = lax.slice_in_dim(jnp.cos(h), 0, max(1, h.shape[axis] - k % 2), axis=axis)
    return lax.dynamic_update_slice_in_dim(h, part if k % 3 else jnp.ones_like(part), 0, axis)


def picked(p, h, k):
    axis = axis_of(h, k)
    n = h.shape[axis]
    return (
        lambda: jnp.take(h, jnp.array([0, n - 1, 0]), axis=axis),
        lambda: jnp.take_along_axis(h, numbers(h) % n, axis),
        lambda: jnp.take_along_axis(h, jnp.argsort(h, axis), axis),
        lambda: lax.dynamic_slice_in_dim(h, 0, max(1, n - 1), axis),
    )[k % 4]()


RULES = (
    lambda g, h: 2 * g,
    lambda g, h: g * h,
    lambda g, h: jnp.flip(g, 0),
    lambda g, h: jnp.flip(g, -1),
    lambda g, h: g - g.mean(0),
    lambda g, h: jnp.cumsum(g, -1),
    lambda g, h: jnp.clip(g, -0.3, 0.3),
    lambda g, h: g / jnp.linalg.norm(g),
    lambda g, h: g * jnp.linalg.norm(h, axis=-1, keepdims=True),
    lambda g, h: g / len(g),
)


def own_rule(p, h, k):
    function = jax.custom_vjp(lambda h: jnp.sin(h))
    function.defvjp(lambda h: (jnp.sin(h), h), lambda h, g: (RULES[k % len(RULES)](g, h),))
    return function(h)


def own_rule_of_a_weight(p, h, k):
    def total(h, g):
        return jnp.tensordot(h, g, (list(range(h.ndim - 1)),) * 2)

    rules = (
        lambda h, g, w: total(h, g),
        lambda h, g, w: w * total(jnp.tanh(h), g),
        lambda h, g, w: jnp.sign(total(h, g)),
        lambda h, g, w: total(h, g) + w,
        lambda h, g, w: total(h, jnp.sign(g)),
        lambda h, g, w: total(h, g) / len(h),
    )
    function = jax.custom_vjp(lambda h, w: h @ w)
    function.defvjp(lambda h, w: (h @ w, (h, w)), lambda kept, g: (g @ kept[1].T, rules[k % 6](kept[0], g, kept[1])))
    return function(h, p(last(h), 2))


# Steps that keep examples apart where the axis of examples is the first, and others that need not.
OPERATIONS = {
    "dense": lambda p, h, k: h @ p(last(h), 1 + k % 4) + (p(1 + k % 4) if k % 2 else 0),
    "left": lambda p, h, k: jnp.einsum("...i,ji->...j", h, p(2 + k % 3, last(h))),
    "scale": lambda p, h, k: h * p(last(h)),
    "one number": lambda p, h, k: h * p(1) + p(1)[0],
    "normalised weight": lambda p, h, k: h @ ((w := p(last(h), 3)) / jnp.linalg.norm(w)),
    "low rank": lambda p, h, k: h @ (p(last(h), 1) @ p(1, 3)),
    "tied": tied,
    "looked up": looked_up,
    "recurrent": recurrent,
    "layer norm": lambda p, h, k: (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 0.1),
    "pointwise": lambda p, h, k: (jnp.tanh, jnp.sin, jax.nn.gelu, jax.nn.softplus, jnp.abs)[k % 5](h),
    "softmax": lambda p, h, k: jax.nn.softmax(h, axis_of(h, k)),
    "sum": lambda p, h, k: h.sum(axis_of(h, k)) if h.ndim > 1 else h,
    "mean kept": lambda p, h, k: h - h.mean(axis_of(h, k), keepdims=True),
    "max": lambda p, h, k: h.max(axis_of(h, k)) if h.ndim > 1 else h,
    "cumsum": lambda p, h, k: jnp.cumsum(h, axis_of(h, k)),
    "sort": lambda p, h, k: jnp.sort(h, axis_of(h, k)),
    "turn": lambda p, h, k: jnp.flip(h, axis_of(h, k)),
    "roll": lambda p, h, k: jnp.roll(h, 1, axis_of(h, k)),
    "cut": lambda p, h, k: lax.slice_in_dim(h, 0, max(1, h.shape[axis_of(h, k)] - 1), axis=axis_of(h, k)),
    "swap": lambda p, h, k: jnp.swapaxes(h, axis_of(h, k), axis_of(h, k // 3)),
    "flatten": lambda p, h, k: h.reshape(-1, last(h)) if h.ndim > 1 else h,
    "flatten rows": lambda p, h, k: h.reshape(len(h), -1),
    "split": lambda p, h, k: h.reshape(*h.shape[:-1], last(h) // 2, 2) if last(h) % 2 == 0 else h,
    "unflatten": lambda p, h, k: h.reshape(-1, T, last(h)) if h.ndim == 2 and len(h) % T == 0 else h,
    "new axis": lambda p, h, k: jnp.expand_dims(h, k % (h.ndim + 1)),
    "join": lambda p, h, k: jnp.concatenate([h, jnp.sin(h)], axis_of(h, k)),
    "gram": lambda p, h, k: jnp.einsum("...ij,...kj->...ik", h, h) if h.ndim > 1 else h,
    "whole gram": lambda p, h, k: h @ h.T if h.ndim == 2 else h,
    "attention": lambda p, h, k: jax.nn.softmax(h @ jnp.swapaxes(h, -1, -2)) @ h if h.ndim > 1 else h,
    "outer": lambda p, h, k: h[:, None] - h[None],
    "norm of all": lambda p, h, k: h / (1 + jnp.linalg.norm(h)),
    "rows by number": lambda p, h, k: h[jnp.arange(len(h)), k % h.shape[1]] if h.ndim > 1 else h,
    "places": lambda p, h, k: (
        h + jnp.arange(h.shape[axis_of(h, k)]).reshape([-1 if a == axis_of(h, k) else 1 for a in range(h.ndim)])
    ),
    "convolution": lambda p, h, k: (
        lax.conv_general_dilated(h, p(2, last(h), 2), (1 + k % 2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        if h.ndim == 3
        else h
    ),
    "window": lambda p, h, k: lax.reduce_window(
        h, -jnp.inf, lax.max, [2 if a == axis_of(h, k) else 1 for a in range(h.ndim)], [1] * h.ndim, "SAME"
    ),
    "rematerialised": lambda p, h, k: jax.checkpoint(lambda h, w: jnp.sin(h * w))(h, p(last(h))),
    "product with itself": with_itself,
    "scattered": scattered,
    "written over": written_over,
    "picked": picked,
    "own rule": own_rule,
    "own rule of a weight": own_rule_of_a_weight,
    "mask": lambda p, h, k: jnp.where(h > 0, h, 0.1 * h),
}


def function_of(steps):
    def loss(found, x):
        p, h = Parameters(found), x
        for name, k in steps:
            if h.ndim == 0 or h.size > LIMIT:
                break
            h = OPERATIONS[name](p, h, k)
        h = jnp.sin(h * p(1)[0])
        return h.sum(tuple(range(1, h.ndim)))

    return loss


STEPS = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 11)), min_size=1, max_size=5)


@settings(max_examples=25)
@given(STEPS, st.sampled_from(["rows", "sum", "mean"]))
def test_norms_are_exact_or_the_function_is_rejected(steps, reduction):
    with jax.enable_x64(True):
        rows = function_of(steps)
        loss = {"rows": rows, "sum": lambda *a: rows(*a).sum(), "mean": lambda *a: rows(*a).mean()}[reduction]
        x = np.random.default_rng(0).normal(size=(B, T, D))
        params = {}
        alone = batch_of_one(loss)
        ours = value_and_grad_norms(loss, per_parameter=True, squared=True)

        def everything(params, x):
            found = ours(params, x)
            truth = jax.vmap(jax.value_and_grad(alone), (None, 0))(params, x)
            whole = jax.value_and_grad(lambda params: loss(params, x).sum())(params)  # what a step of training takes
            return found, truth, whole

        try:  # shapes depend on the axes that steps take: what cannot be called for one and three is no function
            jax.eval_shape(lambda x: rows(params, x), x[:1])
            if jax.eval_shape(rows, params, x).shape != (B,):
                return  # steps changed the number of rows
        except (TypeError, ValueError, AssertionError):
            return
        try:
            jax.eval_shape(ours, params, x)
        except UnsupportedFunctionError:
            OUTCOMES["rejected"] += 1
            return
        (_, sums, squares), (losses, grads), (value, whole) = jax.jit(everything)(params, x)
        together = {"rows": losses.sum(), "sum": losses.sum(), "mean": losses.mean()}[reduction]
        np.testing.assert_allclose(value, together, rtol=1e-9, atol=1e-11, err_msg=str(steps))  # none met
        scale = max(float(jnp.abs(g).max()) for g in grads.values()) ** 2
        for name, grad in grads.items():
            true = (np.asarray(grad).reshape(B, -1) ** 2).sum(1)
            np.testing.assert_allclose(squares[name], true, rtol=1e-9, atol=1e-14 * scale, err_msg=f"{name} of {steps}")
            np.testing.assert_allclose(sums[name], whole[name], rtol=1e-9, atol=1e-11 * (1 + scale), err_msg=str(steps))
        OUTCOMES["exact"] += 1


def test_both_outcomes_were_seen():
    if sum(OUTCOMES.values()):  # run with the test above
        assert min(OUTCOMES.values()) >= 3, OUTCOMES
