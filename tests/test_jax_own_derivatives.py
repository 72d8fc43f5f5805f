"""Functions with rules of differentiation of their own: exact if the rule keeps examples apart, rejected if not."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs expunge[jax]", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

from expunge.jax import UnsupportedFunctionError, grad_norms  # noqa: E402
from jax_norms import assert_exact  # noqa: E402

B, T, D = 4, 3, 4  # as many features as examples: no rule may tell axes by their length


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():  # programs run once here
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)  # in float64, whatever JAX is told


def rows(h):
    return jnp.sin(h).sum(tuple(range(1, h.ndim)))


X, W = normal(B, T, D), normal(D, D)


def backward(rule, values=lambda h: h * 1.0):
    """Return a function of rows whose cotangents go through a rule."""
    function = jax.custom_vjp(values)
    function.defvjp(lambda h: (values(h), h), lambda h, g: (rule(g, h),))
    return lambda w, x: rows(function(x @ w))


def forward(rule, values=jnp.sin):
    """Return a function of rows whose tangents go through a rule."""
    function = jax.custom_jvp(values)
    function.defjvp(lambda p, t: (values(*p), rule(t[0], p[0])))
    return lambda w, x: rows(function(x @ w))


def product(rule):
    """Return a product whose weight gets what a rule makes of inputs and cotangents."""
    function = jax.custom_vjp(lambda x, w: x @ w)
    function.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, rule(*kept, g)))
    return lambda w, x: rows(function(x, w))


def of_parameters(rule):
    """Return a product whose weight alone goes through a rule."""
    function = jax.custom_vjp(lambda w: w * 1.0)
    function.defvjp(lambda w: (w * 1.0, w), lambda w, g: (rule(g, w),))
    return lambda w, x: rows(x @ function(w))


def total(x, g):
    return jnp.einsum("btd,bte->de", x, g)


def statistics_kept():
    function = jax.custom_vjp(lambda h: h * 2.0)
    function.defvjp(lambda h: (h * 2.0, h.mean(0)), lambda mean, g: (g * mean,))
    return lambda w, x: rows(function(x @ w))


def other_values():
    function = jax.custom_vjp(lambda h: h * 1.0)
    function.defvjp(lambda h: (h - h.mean(0), None), lambda _, g: (g,))
    return lambda w, x: rows(function(x @ w))


def in_a_loop():
    function = jax.custom_vjp(lambda h: h * 1.0)
    function.defvjp(lambda h: (h, None), lambda _, g: (g[::-1],))
    return lambda w, x: rows(lax.scan(lambda h, _: (jnp.tanh(function(h @ w)), None), x, None, length=2)[0])


def inside_another():
    inner = jax.custom_vjp(lambda h: h * 1.0)
    inner.defvjp(lambda h: (h, None), lambda _, g: (g - g.mean(0),))
    outer = jax.custom_jvp(lambda h: inner(h))
    outer.defjvp(lambda p, t: (jnp.sin(p[0]), t[0] * jnp.roll(p[0], 1, 0)))
    return lambda w, x: rows(outer(x @ w))


MIXING = {
    "a mean over the batch": backward(lambda g, h: jnp.broadcast_to(g.mean(0), g.shape)),
    "less the mean over the batch": backward(lambda g, h: g - g.mean(0)),
    "the norm of the batch": backward(lambda g, h: g / jnp.linalg.norm(g)),
    "clipped by the norm of the batch": backward(lambda g, h: g * jnp.minimum(1.0, 1 / jnp.linalg.norm(g))),
    "clipped by the norm of the values": backward(lambda g, h: g / jnp.maximum(1.0, jnp.linalg.norm(h))),
    "a running sum": backward(lambda g, h: jnp.cumsum(g, 0)),
    "turned round": backward(lambda g, h: g[::-1]),
    "neighbours": backward(lambda g, h: jnp.roll(g, 1, 0)),
    "the first example's": backward(lambda g, h: jnp.broadcast_to(g[:1], g.shape)),
    "numbers of the rows": backward(lambda g, h: g * jnp.arange(1.0, B + 1)[:, None, None]),
    "a sort": backward(lambda g, h: jnp.sort(g, 0)),
    "sorted by the values": backward(lambda g, h: g[jnp.argsort(h[:, 0, 0])]),
    "swapped axes": backward(lambda g, h: g + g[:, :1].transpose(2, 1, 0)),
    "a branch by all": backward(lambda g, h: lax.cond(g.sum() > 0, lambda g: g, jnp.negative, g)),
    "a product over the batch": backward(lambda g, h: jnp.einsum("btd,cte,cse->bsd", g, g, h)),
    "what the forward pass keeps": statistics_kept(),
    "values of the forward pass": other_values(),
    "a rule in a loop": in_a_loop(),
    "a rule for a rule": inside_another(),
    "tangents less their mean": forward(lambda t, h: t - t.mean(0)),
    "tangents by the norm of the values": forward(lambda t, h: t * jnp.linalg.norm(h)),
    "tangents of neighbours": forward(lambda t, h: jnp.roll(t, 1, 0) * jnp.cos(h)),
    "tangents of swapped axes": forward(lambda t, h: t.swapaxes(0, 2)),
    "the inverse of a sum": product(lambda x, w, g: 1 / total(x, g)),
    "a clipped sum": product(lambda x, w, g: total(x, g) / jnp.maximum(1.0, jnp.linalg.norm(total(x, g)))),
    "the sign of a sum": product(lambda x, w, g: jnp.sign(total(x, g))),
    "a sum and a decay": product(lambda x, w, g: total(x, g) + 0.1 * w),
    "a product of sums": product(lambda x, w, g: total(x, x) @ total(x, g)),
    "one example's share": product(lambda x, w, g: x[0].T @ g[0]),
    "the largest share": product(lambda x, w, g: jnp.einsum("btd,bte->bde", x, g).max(0)),
    "a gradient that nobody gives": product(lambda x, w, g: jnp.ones_like(w)),
    "a rounded sum": product(lambda x, w, g: total(x, g).astype(int).astype(float)),
    "a clipped weight": of_parameters(lambda g, w: g / jnp.maximum(1.0, jnp.linalg.norm(g))),
    "signs of a weight's gradient": of_parameters(lambda g, w: jnp.sign(g)),
    "decay of a weight": of_parameters(lambda g, w: g + 0.1 * w),
}
SIZED = {
    "a mean instead of a sum": product(lambda x, w, g: total(x, g) / len(x)),
    "a share of the batch": backward(lambda g, h: g / len(g)),
    "tangents by the size": forward(lambda t, h: t * float(len(t))),
    "a mean for a weight": product(lambda x, w, g: jnp.einsum("btd,bte->bde", x, g).mean(0)),
    "values by the size": lambda w, x: rows(x @ w) * len(x),
    "a power of the size": lambda w, x: jnp.sin(x @ w).sum((1, 2)) ** len(x),
    "a penalty shared out": lambda w, x: rows(x @ w) + (w**2).sum() / len(x),
    "a function of several": lambda w, x: jnp.tanh(rows(x @ w)) if len(x) > 1 else rows(x @ w),
    "as often as examples": lambda w, x: rows(x @ w) * 0.9 ** sum(1 for _ in range(len(x))),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_rule_that_mixes_examples_is_rejected(name):
    with pytest.raises(
        UnsupportedFunctionError,
        match=r"custom_[jv][vj]p(_call)? .*may mix the examples of the batch: .*one_example=True",
    ):
        grad_norms(MIXING[name])(W, X)
    with pytest.raises(UnsupportedFunctionError, match="may mix the examples"):
        grad_norms(lambda w, x: MIXING[name](w, x).mean())(W, X)


def test_a_mean_over_as_many_positions_excuses_no_number_of_examples():
    shared_out = jax.custom_vjp(lambda x, w: x @ w)
    shared_out.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, total(kept[0], g) / len(kept[0])))
    with pytest.raises(UnsupportedFunctionError, match=r"number 3 in loss_fn.* changes with the number of examples"):
        grad_norms(lambda w, x: jnp.sin(shared_out(x, w)).sum((0, 2)).mean())(W, X[:T])  # T positions, T examples


@pytest.mark.parametrize("name", SIZED)
def test_numbers_that_change_with_the_batch_are_rejected(name):
    with pytest.raises(UnsupportedFunctionError, match="changes with the number of examples"):
        grad_norms(SIZED[name])(W, X)
    with pytest.raises(UnsupportedFunctionError, match="changes with the number of examples"):
        grad_norms(lambda w, x: SIZED[name](w, x).mean())(W, X)


def straight_through():
    rounded = jax.custom_vjp(lambda h: jnp.round(h))
    rounded.defvjp(lambda h: (jnp.round(h), None), lambda _, g: (g,))
    return lambda w, x: rows(rounded(3 * (x @ w)))


def constant_values():
    function = jax.custom_vjp(lambda h: jnp.ones_like(h))
    function.defvjp(lambda h: (jnp.ones_like(h), h), lambda h, g: (g * h,))
    return lambda w, x: rows(function(x @ w) * x)


def looked_up():
    table = jax.custom_vjp(lambda w, t: w[t])

    def back(kept, g):
        shape, t = kept
        return jnp.zeros(shape.shape).at[t].add(g), None

    table.defvjp(lambda w, t: (w[t], (w, t)), back)
    return lambda w, x: rows(table(w, jnp.abs(x * 2).astype(int) % D))


def picked():  # what each example picks of its own row
    pick = jax.custom_vjp(lambda h, t: jnp.take_along_axis(h, t, -1))

    def back(kept, g):
        h, t = kept
        return jax.vjp(lambda h: jnp.take_along_axis(h, t, -1, mode="clip"), h)[1](g)[0], None

    pick.defvjp(lambda h, t: (jnp.take_along_axis(h, t, -1), (h, t)), back)
    return lambda w, x: rows(pick(x @ w, jnp.abs(x[..., :2] * 2).astype(int) % D))


def convolved():
    def values(x, w):
        return lax.conv_general_dilated(x, w[None], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    function = jax.custom_vjp(values)
    function.defvjp(lambda x, w: (values(x, w), (x, w)), lambda kept, g: jax.vjp(values, *kept)[1](g))
    return lambda w, x: rows(function(x, w))


def cross_entropy_of_its_own():
    def values(logits, t):
        return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, t[..., None], -1)[..., 0]

    function = jax.custom_vjp(values)
    function.defvjp(
        lambda z, t: (values(z, t), (z, t)),
        lambda kept, g: ((jax.nn.softmax(kept[0]) - jax.nn.one_hot(kept[1], D)) * g[..., None], None),
    )
    return lambda w, x: function(x @ w, jnp.argmax(x, -1)).sum(1)


def recurrent():
    def values(x, w):
        return lax.scan(lambda h, x: (jnp.tanh(h @ w + x), None), jnp.zeros(x[:, 0].shape), x.swapaxes(0, 1))[0]

    function = jax.custom_vjp(values)
    function.defvjp(lambda x, w: (values(x, w), (x, w)), lambda kept, g: jax.vjp(values, *kept)[1](g))
    return lambda w, x: rows(function(x, w))


def written_in_a_loop():  # a weight's gradient, added up position by position
    function = jax.custom_vjp(lambda x, w: x @ w)

    def back(kept, g):
        x, w = kept
        sums, _ = lax.scan(
            lambda s, pair: (s + pair[0].T @ pair[1], None), jnp.zeros(w.shape), (x.swapaxes(0, 1), g.swapaxes(0, 1))
        )
        return g @ w.T, sums

    function.defvjp(lambda x, w: (x @ w, (x, w)), back)
    return lambda w, x: rows(function(x, w))


def several_results():
    function = jax.custom_vjp(lambda x, w: (x @ w, w * 2))
    function.defvjp(
        lambda x, w: ((x @ w, w * 2), (x, w)), lambda kept, g: (g[0] @ kept[1].T, total(kept[0], g[0]) + 2 * g[1])
    )

    def loss(w, x):
        y, z = function(x, w)
        return rows(y @ z)

    return loss


APART = {
    "straight through": straight_through(),
    "a reversed gradient": backward(lambda g, h: -0.5 * g),
    "no gradient": lambda w, x: backward(lambda g, h: jnp.zeros_like(g))(w, x) + rows(x @ w),
    "a constant gradient": backward(lambda g, h: jnp.ones_like(g)),
    "values that are all one": constant_values(),
    "clipped for each example": backward(
        lambda g, h: g * jnp.minimum(1.0, 1 / jnp.linalg.norm(g.reshape(len(g), -1), axis=1))[:, None, None]
    ),
    "clipped numbers": backward(lambda g, h: jnp.clip(g, -0.3, 0.3)),
    "a running sum over positions": backward(lambda g, h: jnp.cumsum(g[:, ::-1], 1)),
    "tangents of one's own": forward(lambda t, h: t * jnp.cos(h) * 2),
    "tangents less their mean over features": forward(lambda t, h: t - t.mean(-1, keepdims=True)),
    "twice the gradient of a weight": product(lambda x, w, g: 2 * total(x, g)),
    "a sum over joined axes": product(lambda x, w, g: x.reshape(-1, D).T @ g.reshape(-1, D)),
    "a sum of shares": product(lambda x, w, g: jnp.einsum("btd,bte->bde", x, jnp.tanh(g)).sum(0)),
    "shares that are clipped": product(lambda x, w, g: jnp.clip(jnp.einsum("btd,bte->bde", x, g), -1, 1).sum(0)),
    "a sum that a mask cuts": product(lambda x, w, g: jnp.where(w > 0, total(x, g), 0.0)),
    "a sum that is padded": product(lambda x, w, g: jnp.pad(total(x[..., 1:], g), ((1, 0), (0, 0)))),
    "a preconditioned sum": product(lambda x, w, g: w @ total(x, g) + total(x, g)[::-1] / (1 + w**2)),
    "a scaled weight": of_parameters(lambda g, w: g * w),
    "looked-up rows": looked_up(),
    "picked numbers": picked(),
    "a convolution": convolved(),
    "a loss": cross_entropy_of_its_own(),
    "a recurrence": recurrent(),
    "a gradient added up in a loop": written_in_a_loop(),
    "two results": several_results(),
    "a loop around one": lambda w, x: rows(lax.scan(lambda h, _: (jax.nn.relu(h @ w) + x, None), x, None, length=2)[0]),
    "a checkpoint around one": lambda w, x: rows(jax.checkpoint(lambda x: jax.nn.silu(x @ w))(x)),
}
OF_JAX = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "mish": jax.nn.mish,
    "softmax": jax.nn.softmax,
    "softmax over positions": lambda h: jax.nn.softmax(h, 1),
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": lambda h: jax.nn.logsumexp(h, -1),
    "logaddexp": lambda h: jnp.logaddexp(h, h[:, :1]),
    "sinc": jnp.sinc,
    "xlogy": lambda h: jax.scipy.special.xlogy(h**2 + 1, h**2 + 2),
    "norm": lambda h: jnp.linalg.norm(h, axis=-1),
    "standardize": jax.nn.standardize,
    "glu": jax.nn.glu,
    "attention": lambda h: jax.nn.dot_product_attention(h[:, :, None], h[:, :, None], h[:, :, None]),
}
NOT_LINEAR = (
    "a constant gradient",
    "clipped for each example",
    "clipped numbers",
    "a sum of shares",
    "shares that are clipped",
)


@pytest.mark.parametrize("name", APART)
def test_a_rule_that_keeps_examples_apart_is_exact(name):
    loss = APART[name]
    grads = assert_exact(loss, W, X)
    whole = jax.jit(jax.grad(lambda w: loss(w, X).sum()))(W)  # what a step of training takes
    np.testing.assert_allclose(grads, whole, rtol=1e-9, atol=1e-12)
    mean = grad_norms(lambda w, x: loss(w, x).mean())
    if name in NOT_LINEAR:  # the gradient of a mean is not the mean of gradients
        with pytest.raises(
            UnsupportedFunctionError, match=r"custom_vjp_call.* is not linear .* return one loss for each"
        ):
            mean(W, X)
    else:
        jax.eval_shape(mean, W, X)


@pytest.mark.parametrize("name", OF_JAX)
def test_functions_of_jax_with_rules_of_their_own_are_exact(name):
    assert_exact(lambda w, x: rows(OF_JAX[name](x @ w)), W, X)


@pytest.mark.parametrize(
    "name", ["safe_softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels", "huber_loss"]
)
def test_losses_of_optax_are_exact(name):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    labels = jax.nn.softmax(normal(B, T, D, seed=1))
    given = jnp.argmax(labels, -1) if "integer" in name else labels
    assert_exact(lambda w, x, y: getattr(optax.losses, name)(x @ w, y).reshape(len(x), -1).sum(1), W, X, given)


def test_what_equinox_wraps_is_exact():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")

    @eqx.filter_custom_vjp
    def scaled(h, w):
        return h @ w

    scaled.def_fwd(lambda perturbed, h, w: (h @ w, None))
    scaled.def_bwd(lambda kept, g, perturbed, h, w: g @ w.T * 2)
    assert_exact(lambda w, x: rows(scaled(x @ w, jnp.eye(D) + 1)), W, X)
    assert_exact(lambda w, x: rows(eqx.filter_checkpoint(lambda x: jax.nn.gelu(x @ w))(x)), W, X)


def test_a_loss_of_one_example_needs_no_proof_of_its_rules():
    mixing = MIXING["the norm of the batch"]
    assert_exact(lambda w, x: mixing(w, x[None])[0], W, X, one_example=True)


def test_a_rule_that_cannot_be_traced_is_named():
    def back(_, g):
        raise NotImplementedError("no gradient yet")

    function = jax.custom_vjp(lambda h: h)
    function.defvjp(lambda h: (h, None), back)
    with pytest.raises(UnsupportedFunctionError, match=r"custom_vjp_call.* cannot be traced: no gradient yet"):
        grad_norms(lambda w, x: rows(function(x @ w)))(W, X)
