"""Functions whose examples meet are rejected by name, with the line and the remedy; so is what no rule is known for."""

from __future__ import annotations

import re

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs expunge[jax]", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

from expunge.jax import UnsupportedFunctionError, grad_norms  # noqa: E402
from expunge.jax import _coupling as coupling  # noqa: E402
from jax_norms import assert_exact  # noqa: E402

B, T, D = 4, 3, 4  # as many features as examples: no rule may tell axes by their length


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)  # in float64, whatever JAX is told


def rows(h):
    return jnp.sin(h).sum(tuple(range(1, h.ndim)))


X, W = normal(B, T, D), normal(D, D)
KEY = 3
COUPLED = {
    "moments of the batch": lambda w, x: rows((x @ w - (x @ w).mean(0)) / (x @ w).std(0)),
    "a contrast": lambda w, x: rows(-jax.nn.log_softmax((x[:, 0] @ w) @ (x[:, 1] @ w).T)),
    "a contrast as an outer difference": lambda w, x: rows((x[:, 0] @ w)[:, None] - (x[:, 0] @ w)[None]),
    "the largest of the batch": lambda w, x: rows(x @ w / (x @ w).max(0)),
    "softmax over the batch": lambda w, x: rows(jax.nn.softmax(x @ w, 0)),
    "a norm over the batch": lambda w, x: rows(x @ w / jnp.linalg.norm(x @ w)),
    "a running sum": lambda w, x: rows(jnp.cumsum(x @ w, 0)),
    "a sort": lambda w, x: rows(jnp.sort(x @ w, 0)),
    "neighbours": lambda w, x: rows(x @ w + jnp.roll(x @ w, 1, 0)),
    "turned round": lambda w, x: rows((x @ w)[::-1]),
    "a shuffle": lambda w, x: rows((x @ w)[jnp.array([1, 2, 3, 0])]),
    "a choice of rows by the batch": lambda w, x: rows((x @ w)[jnp.argsort(x[:, 0, 0])]),
    "half of the batch twice": lambda w, x: rows(jnp.concatenate([(x @ w)[:2], (x @ w)[:2]])),
    "mixed up": lambda w, x: rows(0.5 * (x @ w) + 0.5 * jnp.concatenate([(x @ w)[2:], (x @ w)[:2]])),
    "a transpose of square rows": lambda w, x: rows((x[:, 0] @ w) + (x[:, 0] @ w).T),
    "a reshape": lambda w, x: rows((x[:, 0] @ w).reshape(2, 8).reshape(8, 2).T.reshape(B, D)),
    "a wrong reshape": lambda w, x: rows((x @ w).transpose(1, 0, 2).reshape(B, T * D)),
    "a convolution over examples": lambda w, x: rows(
        lax.conv_general_dilated(x @ w, jnp.ones((2, D, D)), (1,), "SAME", dimension_numbers=("WNC", "WIO", "WNC"))
    ),
    "a window over examples": lambda w, x: rows(
        lax.reduce_window(x @ w, -jnp.inf, lax.max, (2, 1, 1), (1, 1, 1), "SAME")
    ),
    "a recurrence over examples": lambda w, x: rows(
        lax.scan(lambda h, x: (h + jnp.tanh(x @ w), h), jnp.zeros((T, D)), x)[1]
    ),
    "a recurrence with a sum in it": lambda w, x: rows(
        lax.scan(lambda h, _: (jnp.tanh(h @ w) + h.mean(0), None), x[:, 0], None, length=2)[0]
    ),
    "a branch by all": lambda w, x: rows(lax.cond(x.sum() > 0, lambda h: h, jnp.cos, x @ w)),
    "a loop as long as all need": lambda w, x: rows(lax.while_loop(lambda h: h.sum() < 9, lambda h: h + 1, x) @ w),
    "products summed over the batch": lambda w, x: rows(x @ w @ jnp.einsum("btd,bte->de", x, x)),
    "row numbers": lambda w, x: rows(x @ w) * jnp.arange(1.0, B + 1),
    "noise for the whole batch": lambda w, x: rows((x @ w) * jax.random.normal(jax.random.key(KEY), x.shape)),
    "dropout for the whole batch": lambda w, x: rows(
        jnp.where(jax.random.bernoulli(jax.random.key(KEY), 0.5, x.shape), x @ w, 0)
    ),
    "a parameter for each row": lambda w, x: rows(x[:, 0] + w),
    "weights that are not of the batch": lambda w, x: rows(x @ w) * normal(B),
    "the wrong row of each": lambda w, x: rows((x @ w)[jnp.arange(B)[::-1], jnp.zeros(B, int)]),
    "an assignment": lambda w, x: rows((x @ w).at[0].set(0.0)),
    "a hidden derivative": lambda w, x: rows(jax.nn.relu(x @ w - (x @ w).mean(0))),
}
TOTALS = {
    "a squared sum": lambda w, x: rows(x @ w).sum() ** 2,
    "a mean over what counts": lambda w, x: (rows(x @ w) * (x[:, 0, 0] > 0)).sum() / (x[:, 0, 0] > 0).sum(),
    "a penalty beside the sum": lambda w, x: rows(x @ w).sum() + (w**2).sum(),
    "the sum and the mean of two": lambda w, x: rows(x @ w).sum() + rows(x).mean(),
    "the logarithm of a mean": lambda w, x: jnp.log(jnp.exp(rows(x @ w)).mean()),
    "a sum over more than the batch": lambda w, x: rows(x @ w).sum() / len(x) ** 2,
    "a factor that is computed": lambda w, x: rows(x @ w).sum() * jnp.exp(w[0, 0]),
}
NO_RULE = {
    "cholesky": lambda w, x: rows(jnp.linalg.cholesky(jnp.einsum("btd,bsd->bts", x @ w, x @ w) + jnp.eye(T))),
    "fft": lambda w, x: rows(jnp.fft.fft(x @ w).real),
    "scatter": lambda w, x: rows((x @ w).at[:, 0].set(0.0)),
}


@pytest.mark.parametrize("name", COUPLED)
def test_examples_that_meet_are_rejected(name):
    with pytest.raises(UnsupportedFunctionError, match=r"may mix the examples of the batch: .*one_example=True"):
        grad_norms(COUPLED[name])(W, X)


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("reduce", [jnp.sum, jnp.mean])
def test_they_are_rejected_in_a_loss_that_is_a_sum_too(name, reduce):
    with pytest.raises(UnsupportedFunctionError, match="may mix the examples of the batch"):
        grad_norms(lambda w, x: reduce(COUPLED[name](w, x)))(W, X)


@pytest.mark.parametrize("name", TOTALS)
def test_losses_that_are_no_sum_or_mean_of_losses_are_rejected(name):
    with pytest.raises(UnsupportedFunctionError, match=r"return one loss for each example, of shape\s+\(B,\)"):
        grad_norms(TOTALS[name])(W, X)


@pytest.mark.parametrize("name", NO_RULE)
def test_what_has_no_rule_is_rejected(name):
    with pytest.raises(
        UnsupportedFunctionError, match=f"{name}.*no rule says what it does to the axis of the examples"
    ):
        grad_norms(NO_RULE[name])(W, X)
    assert_exact(lambda w, x: NO_RULE[name](w, x[None])[0], W, X, one_example=True)  # and its remedy helps


def test_a_message_names_the_operation_its_shapes_and_its_line():
    with pytest.raises(UnsupportedFunctionError) as caught:
        grad_norms(lambda w, x: rows(jnp.cumsum(x @ w, 0)))(W, X)
    assert re.match(r"cumsum of shapes \(4, 3, 4\) at .*test_jax_coupling\.py:\d+", str(caught.value))


def test_every_primitive_is_rejected_once_its_rule_is_gone(monkeypatch):
    def loss(w, x):
        h = jnp.tanh(x.reshape(-1, D) @ w).reshape(-1, T, D).transpose(0, 2, 1)
        return jnp.exp(h[:, 1:].max(2)).sum(1)

    grad_norms(loss)(W, X)
    for name in ("reshape", "dot_general", "tanh", "transpose", "slice", "reduce_max", "exp", "reduce_sum"):
        with monkeypatch.context() as patch:
            patch.delitem(coupling.RULES, name)
            with pytest.raises(UnsupportedFunctionError, match=f"{name} .*no rule says"):
                grad_norms(loss)(W, X)


def test_a_batch_of_one_needs_no_proof():
    norms = grad_norms(COUPLED["a running sum"])(W, X[:1])
    np.testing.assert_allclose(norms, jnp.linalg.norm(jax.grad(lambda w: COUPLED["a running sum"](w, X[:1])[0])(W)))


def test_examples_with_keys_of_their_own_may_draw_random_numbers():
    def loss(w, x, key):
        h = jnp.tanh(x @ w)
        return (jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h, 0) * jax.random.normal(key, h.shape)).sum()

    keys = jax.random.split(jax.random.key(KEY), B)
    assert_exact(loss, W, X, keys, one_example=True)
    together = grad_norms(jax.vmap(loss, (None, 0, 0)))(W, X, keys)  # and its rules know keys of examples
    np.testing.assert_allclose(together, grad_norms(loss, one_example=True)(W, X, keys), rtol=1e-12)


def test_a_sum_over_devices_is_rejected():
    def loss(w, x):
        return lax.psum((x @ w).sum(), "devices")

    norms = jax.vmap(grad_norms(loss, one_example=True), (None, 0), axis_name="devices")
    with pytest.raises(UnsupportedFunctionError, match=r"psum.* exchanges values of examples between devices"):
        norms(W, X[:, None])
