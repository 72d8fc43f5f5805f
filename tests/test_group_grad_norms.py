"""Norms of the summed gradients of groups of examples, against gradients that are stored and added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import oracles
from expunge import grad_norms
from expunge.grad_norms import group_grad_norms

DTYPES = [np.float32, np.float64]


def groups_of(rng: np.random.Generator, n: int) -> list[str]:
    return [f"C{i}" for i in rng.integers(0, max(1, n // 2) + 1, n)]


def check(layer: str, arrays: Any, names: Any, gradients: Any, **settings: Any) -> None:
    """Check a layer's groups against stored gradients, to the rounding of sums of products of this dtype."""
    found = group_grad_norms(*arrays, layer=layer, example_groups=names, **settings)
    assert found.ids.tolist() == sorted(set(names))
    assert found.norms.dtype == np.float64
    truth = oracles.group_norms(gradients, names)
    size = sum(float(np.linalg.norm(one)) for one in gradients)  # members may cancel
    eps = float(np.finfo(arrays[1].dtype).eps)
    assert_allclose(found.norms, truth, rtol=100 * eps, atol=100 * eps * size)
    squared = group_grad_norms(*arrays, layer=layer, example_groups=names, squared=True, **settings).norms
    assert_allclose(squared, found.norms**2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 7), shape=st.sampled_from([(), (3,), (2, 2), (9,)]), bias=st.booleans()
)
def test_linear_maps(dtype, seed, n, shape, bias):
    rng = np.random.default_rng(seed)
    a, g = (rng.normal(size=(n, *shape, d)).astype(dtype) for d in (3, 4))
    gradients = list(oracles.linear_gradients(a, g))
    if bias:
        sums = g.astype(np.float64).reshape(n, -1, 4).sum(axis=1)
        gradients = [np.vstack([one, own]) for one, own in zip(gradients, sums, strict=True)]
    check("linear", (a, g), groups_of(rng, n), gradients, bias=bias)


@pytest.mark.parametrize("padding_idx", [None, 2])
@given(seed=st.integers(0, 10**6), n=st.integers(1, 7))
def test_embeddings(padding_idx, seed, n):
    rng = np.random.default_rng(seed)
    tokens, g = rng.integers(0, 5, (n, 3)), rng.normal(size=(n, 3, 2))
    gradients = oracles.embedding_gradients(tokens, g, rows=5, padding_idx=padding_idx)
    check("embedding", (tokens, g), groups_of(rng, n), gradients, padding_idx=padding_idx)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), axes=st.integers(1, 2), kind=st.sampled_from(["layer", "rms"]))
def test_layer_norms(seed, n, axes, kind):
    rng = np.random.default_rng(seed)
    x, g = (rng.normal(size=(n, 2, 3, 4)) for _ in range(2))
    values = oracles.normalised(x, axes=tuple(range(4 - axes, 4)), centre=kind == "layer", eps=1e-5)
    positions = tuple(range(1, 4 - axes))
    weights, biases = (values * g).sum(axis=positions), g.sum(axis=positions)
    gradients = [np.stack([w, b]) if kind == "layer" else w for w, b in zip(weights, biases, strict=True)]
    check("norm_layer", (x, g), groups_of(rng, n), gradients, kind=kind, normalized_ndim=axes)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 6), normalized=st.booleans(), shape=st.sampled_from([(), (3,), (2, 3)])
)
def test_group_norm_has_the_statistics_of_single_examples(dtype, seed, n, normalized, shape):
    rng = np.random.default_rng(seed)
    x, g = (rng.normal(size=(n, 4, *shape)).astype(dtype) for _ in range(2))
    values = x.astype(np.float64)
    if not normalized:
        values = oracles.normalised(values.reshape(n, 2, -1), axes=(2,), centre=True, eps=1e-5).reshape(x.shape)
    weights, biases = ((v * g).reshape(n, 4, -1).sum(axis=2) for v in (values, np.ones_like(values)))
    gradients = [np.stack([w, b]) for w, b in zip(weights, biases, strict=True)]
    settings = {"kind": "group", "num_groups": 2, "normalized": normalized}
    check("norm_layer", (x, g), groups_of(rng, n), gradients, **settings)


@st.composite
def convolutions(draw: Any) -> Any:
    axes = draw(st.integers(1, 3))
    each = {
        "kernel": draw(st.tuples(*[st.integers(1, 3)] * axes)),
        "stride": draw(st.tuples(*[st.integers(1, 3)] * axes)),
        "dilation": draw(st.tuples(*[st.integers(1, 2)] * axes)),
        "padding": draw(st.tuples(*[st.integers(0, 2)] * axes)),
        "lengths": draw(st.tuples(*[st.integers(5, 6)] * axes)),
    }
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    return each, mode, draw(st.sampled_from([1, 2])), draw(st.integers(1, 4)), draw(st.integers(0, 10**6))


@pytest.mark.parametrize("bias", [False, True])
@given(case=convolutions())
def test_convolutions(bias, case):
    each, mode, channel_groups, n, seed = case
    rng = np.random.default_rng(seed)
    pads = [(p, p) for p in each["padding"]]
    output = [
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, p, d, k, s in zip(
            *(each[name] for name in ("lengths", "padding", "dilation", "kernel", "stride")), strict=True
        )
    ]
    x, g = rng.normal(size=(n, 2, *each["lengths"])), rng.normal(size=(n, 2, *output))
    geometry = {"kernel": each["kernel"], "stride": each["stride"], "dilation": each["dilation"]}
    gradients = oracles.conv_gradients(x, g, pads=pads, mode=mode, groups=channel_groups, **geometry)
    if bias:
        sums = g.reshape(n, 2, -1).sum(axis=2)
        gradients = [np.concatenate([w.ravel(), own]) for w, own in zip(gradients, sums, strict=True)]
    settings = {"kernel_size": each["kernel"], "stride": each["stride"], "dilation": each["dilation"], "bias": bias}
    settings |= {"padding": each["padding"], "padding_mode": mode, "groups": channel_groups}
    names = groups_of(rng, n)
    check("conv", (x, g), names, gradients, **settings)


def test_padding_by_name_is_that_of_the_kernel():
    rng = np.random.default_rng(4)
    x, g = rng.normal(size=(3, 2, 6)), rng.normal(size=(3, 2, 6))
    gradients = oracles.conv_gradients(
        x, g, kernel=(4,), stride=(1,), pads=[(1, 2)], mode="zeros", dilation=(1,), groups=1
    )
    settings = {"kernel_size": 4, "padding": "same", "bias": False}
    check("conv", (x, g), [7, 7, 3], gradients, **settings)


# --- laws ----------------------------------------------------------------------------------------

RNG = np.random.default_rng(1)
A, G = RNG.normal(size=(6, 5, 3)), RNG.normal(size=(6, 5, 2))


def test_groups_of_one_have_the_bits_of_their_examples():
    alone = grad_norms.linear_grad_norms(A, G)
    found = group_grad_norms(A, G, layer="linear", example_groups=range(6))
    assert_array_equal(found.norms, alone)
    assert found.ids.tolist() == list(range(6))


def test_the_order_of_examples_and_a_group_that_is_everything():
    groups, order = np.array([2, 0, 2, 1, 0, 2]), RNG.permutation(6)
    one = group_grad_norms(A, G, layer="linear", example_groups=groups)
    shuffled = np.ascontiguousarray(A[order]), np.ascontiguousarray(G[order])
    other = group_grad_norms(*shuffled, layer="linear", example_groups=groups[order])
    assert_allclose(other.norms, one.norms, rtol=1e-13)
    whole = group_grad_norms(A, G, layer="linear", example_groups=["all"] * 6)
    together = grad_norms.linear_grad_norms(A.reshape(1, 30, 3), G.reshape(1, 30, 2))
    assert_array_equal(whole.norms, together)


def test_parameters_apart_and_threads():
    groups = [0, 1, 0, 1, 1, 0]
    parts = group_grad_norms(A, G, layer="linear", example_groups=groups, per_parameter=True)
    assert parts.norms.shape == (2, 2)
    whole = group_grad_norms(A, G, layer="linear", example_groups=groups, threads=1)
    assert_allclose(np.hypot(*parts.norms), whole.norms, rtol=1e-13)


@pytest.mark.parametrize("kernel", ["linear", "embedding", "norm_layer", "conv"])
def test_an_empty_batch_has_no_groups(kernel):
    first = np.zeros((0, 3), dtype=np.int64) if kernel == "embedding" else np.zeros((0, 2, 3))
    second = np.zeros((0, 3, 2)) if kernel == "embedding" else np.zeros((0, 2, 3))
    settings = {"kernel_size": 1} if kernel == "conv" else {}
    found = group_grad_norms(first, second, layer=kernel, example_groups=[], **settings)
    assert found.ids.shape == found.norms.shape == (0,)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_what_no_window_sees_does_not_count(stride):
    """But for stride 1 the last pixel is beyond every window, and between those of two images."""
    x, g = (
        RNG.normal(size=(3, 1, 5)).astype(np.float32),
        RNG.normal(size=(3, 2, (5 - 2) // stride + 1)).astype(np.float32),
    )
    x[:, :, 4] = np.nan
    settings = {"kernel_size": 2, "stride": stride}
    found = group_grad_norms(x, g, layer="conv", example_groups=[0, 0, 0], **settings).norms
    alone = grad_norms.conv_grad_norms(x, g, **settings)
    assert np.isnan(found).all() == np.isnan(alone).all() == (stride == 1)


@pytest.mark.parametrize("layer", ["conv", "embedding", "norm_layer"])
def test_float32_is_summed_as_its_kernel_sums_it(layer):
    a = RNG.integers(0, 3, (8, 6)) if layer == "embedding" else RNG.normal(size=(8, 6, 5)).astype(np.float32)
    g = RNG.normal(size=(8, 6, 5)).astype(np.float32)
    settings = {"kernel_size": 1} if layer == "conv" else {}
    names = [0, 1, 1, 2, 2, 2, 2, 3]
    found = group_grad_norms(a, g, layer=layer, example_groups=names, **settings).norms
    wide = a if layer == "embedding" else a.astype(np.float64)
    truth = group_grad_norms(wide, g.astype(np.float64), layer=layer, example_groups=names, **settings).norms
    assert_allclose(found, truth, rtol=100 * np.finfo(np.float32).eps)


def test_what_is_not_finite_stays_in_its_group():
    a = A.copy()
    a[2, 0, 0] = np.nan
    found = group_grad_norms(a, G, layer="linear", example_groups=[0, 1, 0, 1, 2, 2])
    assert np.isnan(found.norms).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"layer": "probe"},
            ValueError,
            "layer must be one of 'linear', 'embedding', 'norm_layer', 'conv', got 'probe'",
        ),
        ({"layer": ["linear"]}, ValueError, "layer must be one of"),
        ({"example_groups": [0, 1]}, ValueError, "example_groups must have one entry for each of the 6 examples"),
        ({"example_groups": [0.0] * 6}, TypeError, "example_groups: "),
        ({"example_groups": [0, 1, None, 2, 3, 4]}, TypeError, "example_groups: "),
        ({"example_groups": [[0, 1, 2, 3, 4, 5]]}, ValueError, "example_groups: "),
        ({"activations": A.tolist()}, TypeError, "activations must be an array of NumPy, got list"),
        ({"activations": np.ma.masked_array(A, A > 0)}, TypeError, "activations must "),
        ({"activations": A.astype(np.float16)}, TypeError, "activations must have dtype float32 or float64"),
        ({"output_grads": G[:5]}, ValueError, "output_grads must have leading shape"),
        ({"output_grads": np.asfortranarray(G)}, ValueError, "output_grads must be C-contiguous"),
        ({"padding": 1}, TypeError, "padding is not a setting of layer='linear', which has bias, squared"),
        ({"layer": "norm_layer", "activations": A.T, "output_grads": A.T}, ValueError, "activations must be C-contig"),
        ({"layer": "conv", "activations": np.array(1.0)}, ValueError, r"activations must have shape \(B, ...\)"),
        ({"layer": "embedding"}, TypeError, "activations must hold integers"),
        (
            {"layer": "embedding", "activations": np.zeros((6, 5), int), "per_parameter": True},
            TypeError,
            "per_parameter",
        ),
        (
            {"activations": A[:0], "output_grads": G[:0], "example_groups": [], "nonsense": 1},
            TypeError,
            "nonsense is not a",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(change, error, said):
    given = {
        "layer": "linear",
        "activations": A,
        "output_grads": G,
        "example_groups": [0] * 6,
    } | change
    with pytest.raises(error, match=said):
        group_grad_norms(given.pop("activations"), given.pop("output_grads"), **given)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kernel_size": 9}, "kernel_size 9"),
        ({"kernel_size": 2}, "output_grads must have shape"),
        ({"kernel_size": 1, "padding_mode": "wrap"}, "padding_mode must be one of"),
    ],
)
def test_geometries_that_do_not_fit_are_refused(settings, said):
    x = RNG.normal(size=(3, 2, 5))
    with pytest.raises(ValueError, match=said):
        group_grad_norms(x, x, layer="conv", example_groups=[0, 0, 1], **settings)
