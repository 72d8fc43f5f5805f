"""Arguments, results and errors of the transformations of `expunge.jax`."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs expunge[jax]", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402
from jax.extend.core import jaxprs_in_params  # noqa: E402

from absent import run_without  # noqa: E402
from expunge.jax import GradNormMismatchError, UnsupportedFunctionError, grad_norms, value_and_grad_norms  # noqa: E402
from expunge.jax import _passes as passes  # noqa: E402
from expunge.jax import _sites as sites  # noqa: E402
from jax_norms import assert_exact, truth  # noqa: E402

B, T, D = 5, 3, 4


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)  # in float64, whatever JAX is told


def loss(params, x):
    return jnp.sin(jnp.tanh(x @ params["w"]) * params["s"] + params["b"]).sum((1, 2))


PARAMS = {"w": normal(D, 6), "s": normal(6), "b": normal(6)}
X = normal(B, T, D)


def squares(params=PARAMS, x=X, loss=loss):
    _, own = truth(loss, params, x)
    return jax.tree.map(lambda g: (np.asarray(g).reshape(len(x), -1) ** 2).sum(1), own)


def test_results_have_the_shapes_that_were_asked_for():
    expected = squares()
    norms = grad_norms(loss)(PARAMS, X)
    assert isinstance(norms, jax.Array)
    np.testing.assert_allclose(norms, sum(expected.values()) ** 0.5, rtol=1e-12)
    np.testing.assert_allclose(grad_norms(loss, squared=True)(PARAMS, X), sum(expected.values()), rtol=1e-12)
    each = grad_norms(loss, per_parameter=True)(PARAMS, X)
    assert each.keys() == PARAMS.keys()
    for name, norm in each.items():
        np.testing.assert_allclose(norm, expected[name] ** 0.5, rtol=1e-12)


def test_they_are_the_same_under_jit_and_without_and_move_nothing_to_the_host():
    outside = grad_norms(loss)(PARAMS, X)
    params, x = jax.tree.map(jnp.asarray, (PARAMS, X))
    with jax.transfer_guard("disallow"):
        compiled = jax.jit(grad_norms(loss))(params, x)
    np.testing.assert_allclose(compiled, outside, rtol=1e-12)
    assert "callback" not in str(jax.make_jaxpr(grad_norms(loss))(PARAMS, X))


def test_a_training_step_uses_norms_gradients_and_loss():
    def step(params, x):
        value, grads, norms = value_and_grad_norms(lambda p, x: loss(p, x).mean())(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value, norms

    after, value, norms = jax.jit(step)(PARAMS, X)
    expected, grads = jax.value_and_grad(lambda p: loss(p, X).mean())(PARAMS)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for name in PARAMS:
        np.testing.assert_allclose(after[name], PARAMS[name] - 0.1 * grads[name], rtol=1e-12)
    np.testing.assert_allclose(norms, sum(squares().values()) ** 0.5, rtol=1e-12)


def test_axes_of_examples_lie_where_they_are_said_to():
    def turned(params, x, scale):
        return loss(params, jnp.moveaxis(x["x"], 1, 0)) * scale

    given = {"x": jnp.moveaxis(X, 0, 1)}
    norms = grad_norms(turned, in_axes=({"x": 1}, None))(PARAMS, given, jnp.asarray(2.0))
    np.testing.assert_allclose(norms, 2 * sum(squares().values()) ** 0.5, rtol=1e-12)
    last = grad_norms(turned, in_axes=({"x": -2}, None))(PARAMS, given, 2.0)
    np.testing.assert_allclose(last, norms)


def test_one_example_is_called_without_the_axis():
    def one(params, x):
        assert x.shape == (T, D)
        return loss(params, x[None])[0]

    assert_exact(one, PARAMS, X, one_example=True)
    norms = grad_norms(one, one_example=True, in_axes=1)(PARAMS, jnp.moveaxis(X, 0, 1))
    np.testing.assert_allclose(norms, sum(squares().values()) ** 0.5, rtol=1e-12)


def test_parameters_that_are_integers_or_unused_have_no_gradient():
    params = {**PARAMS, "count": jnp.arange(3), "idle": normal(2)}
    _, grads, norms = value_and_grad_norms(loss, per_parameter=True)(params, X)
    for name in ("count", "idle"):
        assert not norms[name].any()
        assert norms[name].shape == (B,)
        assert not grads[name].any()
        assert grads[name].dtype == params[name].dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_norms_of_low_precision_are_in_float32(dtype):
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), PARAMS)
    x = jnp.asarray(X, dtype)
    exact = squares(jax.tree.map(lambda a: a.astype(float), params), x.astype(float))
    for function in (grad_norms(loss), jax.jit(grad_norms(loss))):
        norms = function(params, x)
        assert norms.dtype == jnp.float32
        np.testing.assert_allclose(norms, sum(exact.values()) ** 0.5, rtol=8 * float(jnp.finfo(dtype).eps))


def test_sums_of_bfloat16_gradients_are_not_rounded_to_bfloat16():
    # 300 positions whose inputs and gradients are one: a sum of squares that bfloat16 would stop counting at 256
    params, x = jnp.ones((1, 1), jnp.bfloat16), jnp.ones((2, 300, 1), jnp.bfloat16)
    norms = grad_norms(lambda w, x: (x @ w).sum((1, 2)))(params, x)
    np.testing.assert_array_equal(norms, [300.0, 300.0])


def test_master_weights_in_float32_with_computation_in_bfloat16():
    params = jax.tree.map(jnp.float32, PARAMS)

    def mixed(params, x):
        return loss(jax.tree.map(lambda a: a.astype(jnp.bfloat16), params), x.astype(jnp.bfloat16))

    norms = jax.jit(grad_norms(mixed))(params, jnp.float32(X))
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, sum(squares().values()) ** 0.5, rtol=0.05)


def test_gram_matrices_whose_terms_cancel_give_way_to_gradients():
    # Two positions with the same inputs and opposite gradients: the sum is 1e-3 of either, its square 1e-6.
    x = jnp.repeat(normal(B, 1, 40), 2, 1).astype(jnp.float32)
    w = normal(40, 40).astype(jnp.float32)
    signs = jnp.asarray([1.0, -1.0 + 1e-3], jnp.float32)[:, None]
    norms = jax.jit(grad_norms(lambda w, x: ((x @ w) * signs).sum((1, 2))))(w, x)
    expected = np.float64(signs.sum()) * 40**0.5 * np.linalg.norm(np.float64(x[:, 0]), axis=1)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


@pytest.mark.parametrize("budget", [1, 40, 1000])
def test_chunks_of_examples_change_nothing(budget, monkeypatch):
    monkeypatch.setattr(passes, "BUDGET", budget)
    monkeypatch.setattr(sites, "BUDGET", budget)

    def several(p, t):
        h = p["table"][t] * p["s"]
        h = h @ p["w"]
        return (jnp.sin(h @ p["w"]) ** 2).sum((1, 2)) + (p["v"] / jnp.linalg.norm(p["v"]) * h[:, 0]).sum(1)

    params = {"table": normal(7, D), "s": normal(D), "w": normal(D, D), "v": normal(D)}
    assert_exact(several, params, jnp.asarray(np.random.default_rng(0).integers(0, 7, (B, T))))


def test_products_and_tables_are_not_formed_for_every_example():
    # A weight and a table of a million numbers each, 64 examples: gradients of all would take 512 MB.
    def tied(p, t):
        return jnp.tanh(p["table"][t] @ p["w"] @ p["table"].T).sum((1, 2))

    def largest(jaxpr):
        sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
        inner = [
            largest(sub) for eqn in jaxpr.eqns if eqn.primitive.name != "cond" for sub in jaxprs_in_params(eqn.params)
        ]
        return max([*sizes, *inner, 0])

    shape = jax.ShapeDtypeStruct((4000, 250), jnp.float32), jax.ShapeDtypeStruct((250, 250), jnp.float32)
    tokens = jax.ShapeDtypeStruct((64, 8), jnp.int32)
    traced = jax.make_jaxpr(grad_norms(tied))({"table": shape[0], "w": shape[1]}, tokens)
    assert largest(traced.jaxpr) <= 64 * 8 * 4000


def test_check_passes_what_is_right_and_finds_what_is_not(monkeypatch):
    norms = grad_norms(loss, check=True)(PARAMS, X)
    np.testing.assert_allclose(norms, grad_norms(loss, check=B)(PARAMS, X))
    single = grad_norms(lambda p, x: loss(p, x[None])[0], one_example=True, check=True)(PARAMS, X)
    np.testing.assert_allclose(norms, single)

    def by_size(params, x):
        losses = loss(params, x)
        return losses if len(x) == 1 else losses + losses

    with pytest.raises(GradNormMismatchError, match="another function of a batch of one"):
        grad_norms(by_size, check=True)(PARAMS, X)
    monkeypatch.setattr(sites.Dense, "squares", lambda self: sites.Squares(jnp.ones(B)))
    with pytest.raises(
        GradNormMismatchError, match=r"params\['w'\]: the gradient of example \d has norm 1 in the batch"
    ):
        grad_norms(loss, check=True)(PARAMS, X)


def test_check_is_refused_under_jit():
    with pytest.raises(ValueError, match=r"check compares numbers, which are not there yet under jax\.jit"):
        jax.jit(grad_norms(loss, check=True))(PARAMS, X)


REFUSED = {
    "no function": (lambda: grad_norms(3), TypeError, "loss_fn must be a function, got int"),
    "a negative check": (lambda: grad_norms(loss, check=-1), ValueError, "check must be >= 0, got -1"),
    "no batch": (lambda: grad_norms(loss)(PARAMS), ValueError, "a batch must be given behind params"),
    "no parameters": (lambda: grad_norms(loss)({"k": jnp.arange(3)}, X), ValueError, "at least one array of floating"),
    "a function among parameters": (
        lambda: grad_norms(loss)({**PARAMS, "f": jnp.tanh}, X),
        TypeError,
        r"params\['f'\] must be an array, got .*: keep what is no array out of the arguments",
    ),
    "complex parameters": (
        lambda: grad_norms(loss)({**PARAMS, "w": PARAMS["w"] + 0j}, X),
        TypeError,
        r"params\['w'\] must be real, got dtype complex128",
    ),
    "a number as a batch": (
        lambda: grad_norms(loss)(PARAMS, 3.0),
        ValueError,
        r"batch\[0\] has shape \(\) and no axis 0",
    ),
    "other sizes": (
        lambda: grad_norms(loss)(PARAMS, X, X[:2]),
        ValueError,
        r"same number of examples: batch\[0\] has 5, batch\[1\] has 2",
    ),
    "no examples": (lambda: grad_norms(loss)(PARAMS, X[:0]), ValueError, "at least one example"),
    "no axis": (lambda: grad_norms(loss, in_axes=None)(PARAMS, X), ValueError, "at least one array, got None for all"),
    "too many axes": (
        lambda: grad_norms(loss, in_axes=(0, 0))(PARAMS, X),
        ValueError,
        "each of the 1 arguments .* got 2",
    ),
    "other axes": (
        lambda: grad_norms(loss, in_axes=({"x": 0},))(PARAMS, X),
        ValueError,
        "in the structure of the batch",
    ),
    "an axis that is no integer": (
        lambda: grad_norms(loss, in_axes=0.5)(PARAMS, X),
        TypeError,
        "integers and None, got 0.5",
    ),
    "two results": (
        lambda: grad_norms(lambda p, x: (loss(p, x),) * 2)(PARAMS, X),
        TypeError,
        "return one array, got tuple",
    ),
    "losses by position": (
        lambda: grad_norms(lambda p, x: (x @ p["w"]).sum(2))(PARAMS, X),
        ValueError,
        r"of shape \(\) or \(5,\); got \(5, 3\)",
    ),
    "losses of one example": (
        lambda: grad_norms(lambda p, x: x @ p["s"][:D], one_example=True)(PARAMS, X),
        ValueError,
        r"must return one loss, of shape \(\); got \(3,\)",
    ),
    "an integer loss": (
        lambda: grad_norms(lambda p, x: x.argmax(1))(PARAMS, X[..., 0]),
        TypeError,
        "got dtype int64",
    ),
    "a loss without the batch": (
        lambda: grad_norms(lambda p, x: p["b"].sum())(PARAMS, X),
        UnsupportedFunctionError,
        "the loss does not depend on the batch",
    ),
    "a while loop": (
        lambda: grad_norms(
            lambda p, x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] @ p["w"]), (0, x))[1].sum((1, 2))
        )({"w": normal(D, D)}, X),
        UnsupportedFunctionError,
        "while.* uses parameters, and JAX has no gradient of it: use jax.lax.scan",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()


def test_a_missing_extra_is_named():
    result = run_without("jax", "import expunge.jax")
    assert result.returncode
    assert "ImportError: expunge.jax needs JAX: pip install '.[jax]' in a checkout of Expunge" in result.stderr
