"""Kernels of `expunge.grad_norms` on arrays of JAX on the CPU: results are JAX's, with the bits of NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs expunge[jax]", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402

from expunge import grad_norms as norms  # noqa: E402

RNG = np.random.default_rng(5)


def normal(*shape):
    return RNG.normal(size=shape)


TOKENS = RNG.integers(0, 9, (5, 3))
CALLS = {
    "linear": (norms.linear_grad_norms, [normal(5, 3, 4), normal(5, 3, 2)], {}),
    "dots": (norms.linear_grad_dots, [normal(5, 3, 4), normal(5, 3, 2), normal(5, 6, 4), normal(5, 6, 2)], {}),
    "conv": (norms.conv_grad_norms, [normal(3, 4, 8, 8), normal(3, 6, 8, 8)], {"kernel_size": 3, "padding": 1}),
    "embedding": (norms.embedding_grad_norms, [TOKENS, normal(5, 3, 2)], {"padding_idx": 0}),
    "tied": (norms.embedding_linear_grad_dots, [TOKENS, normal(5, 3, 2), normal(5, 3, 9), normal(5, 3, 2)], {}),
    "layer norm": (norms.norm_layer_grad_norms, [normal(5, 3, 4), normal(5, 3, 4)], {"kind": "layer"}),
    "probe": (norms.probe_grad_norms, [normal(50, 6), normal(4, 6, 3), RNG.integers(0, 3, 50)], {}),
}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_results_are_arrays_of_jax_with_the_bits_of_the_cpu(name, x64):
    function, arguments, settings = CALLS[name]
    dtype = np.float64 if x64 else np.float32
    plain = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arguments]
    with jax.enable_x64(x64):
        given = [jnp.asarray(a) for a in plain]
        ours = function(*given, **settings)
        assert isinstance(ours, jax.Array)
        assert ours.dtype == dtype
        assert ours.committed
        assert ours.devices() == given[0].devices()
        np.testing.assert_array_equal(ours, function(*plain, **settings).astype(dtype))


def test_bfloat16_is_read_without_rounding():
    a, g = (jnp.asarray(array, jnp.bfloat16) for array in CALLS["linear"][1])
    ours = norms.linear_grad_norms(a, g)
    assert isinstance(ours, jax.Array)
    expected = norms.linear_grad_norms(np.asarray(a).astype(np.float32), np.asarray(g).astype(np.float32))
    np.testing.assert_array_equal(ours, expected.astype(np.float32))


def test_one_array_of_jax_among_others_is_enough():
    a, g = CALLS["linear"][1]
    assert isinstance(norms.linear_grad_norms(a.astype(np.float32), jnp.asarray(g, jnp.float32)), jax.Array)
    assert isinstance(norms.linear_grad_norms(a, g), np.ndarray)


def test_traced_arrays_are_refused_by_name():
    with pytest.raises(TypeError, match=r"linear_grad_norms is compiled code that JAX cannot trace: .*expunge\.jax"):
        jax.jit(norms.linear_grad_norms)(jnp.ones((2, 3)), jnp.ones((2, 4)))
