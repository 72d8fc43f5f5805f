"""Per-example gradient norms: against stored gradients, against autograd, and the laws they obey."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compiled
import oracles
from emulated import at, on_every_device
from expunge.grad_norms import (
    conv_grad_norms,
    embedding_grad_norms,
    embedding_linear_grad_dots,
    linear_grad_dots,
    linear_grad_norms,
    norm_layer_grad_norms,
    probe_grad_norms,
)
from expunge.grad_norms.probe_measures import probe_measures
from kernel_calls import call as kernel_call

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="compares with torch autograd; torch is not installed")

EPS32 = float(np.finfo(np.float32).eps)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])
thread_counts = st.sampled_from([1, 2, 3])


def tolerance(activations, output_grads):
    """What rounding may do to a norm: relative, and in float32 relative to the product of the factors' norms."""
    if activations.dtype == np.float64:
        return 1e-12, np.zeros(activations.shape[0])
    sizes = [np.sqrt(np.sum(x.astype(float) ** 2, axis=tuple(range(1, x.ndim)))) for x in (activations, output_grads)]
    return 1e-5, EPS32 * math.sqrt(math.prod(output_grads.shape[1:-1])) * sizes[0] * sizes[1]


def assert_norms(found, expected, activations, output_grads):
    relative, absolute = tolerance(activations, output_grads)
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert np.all(np.abs(found - expected) <= relative * np.abs(expected) + absolute)


def normal(rng, shape, dtype, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(dtype)


# --- linear -------------------------------------------------------------------------------------


@on_every_device
@given(
    seeds,
    dtypes,
    st.integers(0, 4),
    st.sampled_from([(), (1,), (3,), (17,), (2, 5), (0,), (300,), (2, 3, 2)]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    thread_counts,
)
def test_linear_norms_are_those_of_stored_gradients(device, seed, dtype, examples, leading, d_in, d_out, bias, threads):
    rng = np.random.default_rng(seed)
    a = normal(rng, (examples, *leading, d_in), dtype)
    g = normal(rng, (examples, *leading, d_out), dtype, 1e-3)
    expected = (
        oracles.linear_grad_norms(a.reshape(examples, math.prod(leading), d_in), g, bias=bias) if examples else []
    )
    assert_norms(
        at(device, linear_grad_norms)(a, g, bias=bias, threads=threads), np.asarray(expected, dtype=float), a, g
    )


@on_every_device
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positions", [1, 5, 40])
def test_parameters_apart_add_up_to_all(dtype, positions, device):
    rng = np.random.default_rng(12)
    a, g = normal(rng, (3, positions, 90), dtype), normal(rng, (3, positions, 70), dtype)
    x, out = normal(rng, (3, 4, positions + 2), dtype), normal(rng, (3, 6, positions), dtype)
    same = normal(rng, (3, positions, 90), dtype)
    channels = normal(rng, (3, 4, positions + 2), dtype)
    for function, arrays, settings in (
        (linear_grad_norms, (a, g), {}),
        (conv_grad_norms, (x, out), {"kernel_size": 3, "groups": 2}),
        (norm_layer_grad_norms, (a, same), {"kind": "layer"}),
        (norm_layer_grad_norms, (x, channels), {"kind": "group", "num_groups": 2}),
    ):
        norms = at(device, function)
        weight, bias = norms(*arrays, **settings, squared=True, per_parameter=True)
        np.testing.assert_allclose(weight + bias, norms(*arrays, **settings, squared=True), rtol=1e-14)
        np.testing.assert_array_equal(weight, norms(*arrays, **settings, bias=False, squared=True))


@on_every_device
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 300, 200), (33, 128, 129), (5, 64, 64), (2, 9, 500), (257, 1100, 400)])
def test_gram_form_agrees_with_stored_gradients(dtype, shape, device):
    positions, d_in, d_out = shape
    assert positions * (d_in + d_out) < d_in * d_out  # these take the Gram form, as do some more
    rng = np.random.default_rng(1)
    a, g = normal(rng, (2, positions, d_in), dtype), normal(rng, (2, positions, d_out), dtype)
    assert_norms(at(device, linear_grad_norms)(a, g), oracles.linear_grad_norms(a, g, bias=True), a, g)


@on_every_device
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-6])
def test_cancelling_gradients_keep_the_digits_of_the_product(dtype, spread, device):
    rng = np.random.default_rng(2)
    positions, width = 16, 256  # far on the Gram side of the rule
    a = (1 + spread * rng.standard_normal((4, positions, width))).astype(dtype)
    g = rng.standard_normal((4, positions, width))
    g = (g - g.mean(axis=1, keepdims=True)).astype(dtype)
    exact = np.einsum("btj,btk->bjk", a.astype(np.longdouble), g.astype(np.longdouble), optimize=False)
    expected = np.sqrt(np.sum(exact**2, axis=(1, 2))).astype(np.float64)
    found = at(device, linear_grad_norms)(a, g, bias=False)
    sizes = np.linalg.norm(a.astype(float), axis=(1, 2)) * np.linalg.norm(g.astype(float), axis=(1, 2))
    assert np.all(np.abs(found - expected) <= 4 * np.finfo(dtype).eps * sizes)


@on_every_device
@given(seeds, dtypes, st.sampled_from([(1, 1), (1, 6), (7, 4), (20, 260)]), st.integers(1, 60), st.integers(1, 60))
def test_linear_dots_are_those_of_stored_gradients(device, seed, dtype, positions, d_in, d_out):
    rng = np.random.default_rng(seed)
    a1, a2 = (normal(rng, (2, t, d_in), dtype) for t in positions)
    g1, g2 = (normal(rng, (2, t, d_out), dtype) for t in positions)
    expected = np.sum(oracles.linear_gradients(a1, g1) * oracles.linear_gradients(a2, g2), axis=(1, 2))
    found = at(device, linear_grad_dots)(a1, g1, a2, g2)
    # Each gradient rounds as its norm may; the other one multiplies that.
    sizes = [oracles.linear_grad_norms(a, g, bias=False) for a, g in ((a1, g1), (a2, g2))]
    errors = [
        relative * size + absolute
        for size, (relative, absolute) in zip(sizes, (tolerance(a1, g1), tolerance(a2, g2)), strict=True)
    ]
    assert np.all(np.abs(found - expected) <= errors[0] * sizes[1] + errors[1] * (sizes[0] + errors[0]))


@on_every_device
@pytest.mark.parametrize("positions", [(3, 5), (300, 40)])
def test_norm_of_two_uses_is_the_norms_and_twice_the_dot(positions, device):
    rng = np.random.default_rng(3)
    a1, a2 = (rng.standard_normal((3, t, 90)) for t in positions)
    g1, g2 = (rng.standard_normal((3, t, 110)) for t in positions)
    together = at(device, linear_grad_norms)(
        np.concatenate([a1, a2], 1), np.concatenate([g1, g2], 1), bias=False, squared=True
    )
    parts = at(device, linear_grad_norms)(a1, g1, bias=False, squared=True) + at(device, linear_grad_norms)(
        a2, g2, bias=False, squared=True
    )
    np.testing.assert_allclose(parts + 2 * at(device, linear_grad_dots)(a1, g1, a2, g2), together, rtol=1e-11)


@on_every_device
@pytest.mark.parametrize("positions", [1, 4, 90])
@pytest.mark.parametrize("exponent", [-100, -60, 60, 100])
def test_norms_scale_by_powers_of_two_without_under_or_overflow(positions, exponent, device):
    rng = np.random.default_rng(4)
    a, g = normal(rng, (3, positions, 40), np.float32), normal(rng, (3, positions, 50), np.float32)
    tiny = np.ldexp(np.float32(1), exponent)
    reference = at(device, linear_grad_norms)(a, g, bias=False)
    np.testing.assert_allclose(
        at(device, linear_grad_norms)(a, tiny * g, bias=False), reference * float(tiny), rtol=1e-6
    )


@on_every_device
@pytest.mark.parametrize("exponents", [(-74, 0), (-74, -74), (-70, 40), (40, -40, 0), (62, -62), (-50, 10, 30), (-20,)])
@pytest.mark.parametrize("lift", [0, -60, 20])
def test_positions_of_very_different_sizes_all_count(exponents, lift, device):
    """Large inputs with small gradients and the reverse: products of pairs leave float32 where the norm does not."""
    rng = np.random.default_rng(5)
    scale = np.ldexp(1.0, np.resize(exponents, 20))[:, None]
    a = (normal(rng, (2, 20, 130), np.float64) * scale).astype(np.float32)
    g = (normal(rng, (2, 20, 140), np.float64) / scale * np.ldexp(1.0, lift)).astype(np.float32)
    expected = oracles.linear_grad_norms(a, g, bias=False)
    np.testing.assert_allclose(at(device, linear_grad_norms)(a, g, bias=False), expected, rtol=1e-5)


# --- embeddings ---------------------------------------------------------------------------------


@on_every_device
@given(seeds, dtypes, st.integers(1, 40), st.integers(1, 130), st.integers(1, 12), st.booleans(), thread_counts)
def test_repeated_tokens_are_summed_before_squaring(device, seed, dtype, tokens, width, rows, padded, threads):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, rows, (3, tokens))
    g = normal(rng, (3, tokens, width), dtype)
    padding_idx = 0 if padded else None
    stored = oracles.embedding_gradients(indices, g, rows=rows, padding_idx=padding_idx)
    found = at(device, embedding_grad_norms)(indices, g, padding_idx=padding_idx, squared=True, threads=threads)
    np.testing.assert_allclose(found, np.sum(stored**2, axis=(1, 2)), rtol=1e-12)


@on_every_device
@given(seeds, dtypes, st.integers(1, 30), st.integers(1, 300), st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_tied_embedding_cross_term_is_that_of_stored_gradients(
    device, seed, dtype, tokens, positions, width, rows, padded
):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, rows, (2, tokens))
    g = normal(rng, (2, tokens, width), dtype)
    factors = normal(rng, (2, positions, rows), dtype), normal(rng, (2, positions, width), dtype)
    padding_idx = 0 if padded else None
    table = oracles.embedding_gradients(indices, g, rows=rows, padding_idx=padding_idx)
    linear = oracles.linear_gradients(*factors)
    sizes = np.linalg.norm(table, axis=(1, 2)) * np.linalg.norm(linear, axis=(1, 2))
    found = at(device, embedding_linear_grad_dots)(indices, g, *factors, padding_idx=padding_idx)
    limit = (1e-5 if dtype == np.float32 else 1e-12) * sizes * math.sqrt(positions)
    assert np.all(np.abs(found - np.sum(table * linear, axis=(1, 2))) <= limit)


@on_every_device
def test_padding_token_hides_its_gradients_even_nan(device):
    indices, g = np.array([[1, 0, 2]]), np.array([[[3.0], [np.nan], [4.0]]])
    assert at(device, embedding_grad_norms)(indices, g, padding_idx=0) == 5.0
    assert at(device, embedding_linear_grad_dots)(indices, g, np.eye(3)[None], np.ones((1, 3, 1)), padding_idx=0) == 7.0
    assert np.isnan(at(device, embedding_grad_norms)(indices, g)).all()


# --- convolutions -------------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    """A geometry that fits, as keyword arguments, with image and output shapes."""
    axes = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    per_axis = st.tuples(*[st.integers(1, 3)] * axes)
    kernel, stride, dilation = draw(per_axis), draw(per_axis), draw(per_axis)
    padding = draw(st.tuples(*[st.integers(0, 2)] * axes))
    extra = draw(st.tuples(*[st.integers(1, 7 if axes < 3 else 3)] * axes))
    lengths = tuple(
        max(d * (k - 1) + e - 2 * p, p + 1, 1) for k, d, p, e in zip(kernel, dilation, padding, extra, strict=True)
    )
    output = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(lengths, padding, dilation, kernel, stride, strict=True)
    )
    channels = groups * draw(st.integers(1, 4)), groups * draw(st.sampled_from([1, 2, 3, 9, 17]))
    arguments = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "padding_mode": mode,
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    return arguments, (2, channels[0], *lengths), (2, channels[1], *output)


def conv_oracle(x, g, arguments):
    return oracles.conv_grad_norms(
        x,
        g,
        kernel=arguments["kernel_size"],
        stride=arguments["stride"],
        pads=[(p, p) for p in arguments["padding"]],
        mode=arguments["padding_mode"],
        dilation=arguments["dilation"],
        groups=arguments["groups"],
        bias=arguments["bias"],
    )


@on_every_device
@given(seeds, dtypes, convolutions(), thread_counts)
def test_conv_norms_are_those_of_stored_gradients(device, seed, dtype, convolution, threads):
    arguments, image_shape, output_shape = convolution
    rng = np.random.default_rng(seed)
    x, g = normal(rng, image_shape, dtype), normal(rng, output_shape, dtype)
    found = at(device, conv_grad_norms)(x, g, **arguments, threads=threads)
    expected = conv_oracle(x, g, arguments)
    limit = (1e-5 if dtype == np.float32 else 1e-12) * expected
    if dtype == np.float32:
        sizes = np.linalg.norm(x.reshape(2, -1), axis=1) * np.linalg.norm(g.reshape(2, -1), axis=1)
        limit = limit + EPS32 * math.sqrt(math.prod(output_shape[2:]) * math.prod(arguments["kernel_size"])) * sizes
    assert np.all(np.abs(found - expected) <= limit)


@on_every_device
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(30, 40, 3), (3, 20, 20), (64, 64, 5)])
def test_conv_norms_on_both_sides_of_the_gram_rule(dtype, size, device):
    channels, outputs, length = size
    rng = np.random.default_rng(5)
    x, g = normal(rng, (1, channels, length, length), dtype), normal(rng, (1, outputs, length, length), dtype)
    arguments = {
        "kernel_size": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "padding_mode": "zeros",
        "dilation": (1, 1),
        "groups": 1,
        "bias": True,
    }
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(at(device, conv_grad_norms)(x, g, **arguments), conv_oracle(x, g, arguments), rtol=rtol)


@on_every_device
def test_same_padding_is_explicit_padding(device):
    rng = np.random.default_rng(6)
    x, g = rng.standard_normal((2, 3, 9)), rng.standard_normal((2, 4, 9))
    same = at(device, conv_grad_norms)(x, g, kernel_size=3, padding="same", dilation=2)
    np.testing.assert_array_equal(same, at(device, conv_grad_norms)(x, g, kernel_size=3, padding=2, dilation=2))
    even = at(device, conv_grad_norms)(x, g, kernel_size=4, padding="same")
    shifted = np.pad(x, [(0, 0), (0, 0), (1, 2)])
    np.testing.assert_allclose(
        even, at(device, conv_grad_norms)(shifted, g, kernel_size=4, padding="valid"), rtol=1e-14
    )


@on_every_device
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 0), (2, 3, 0, 4), (2, 3, 4, 0), (2, 3, 0, 0), (2, 3, 2, 0, 2)])
def test_images_without_pixels_are_all_padding(shape, dtype, device):
    """Every patch is zero, so that the weight's gradient is, and the bias's is not."""
    axes = len(shape) - 2
    g = normal(np.random.default_rng(1), (2, 4, *(n + 4 - 2 for n in shape[2:])), dtype)
    weight, bias = at(device, conv_grad_norms)(
        np.zeros(shape, dtype), g, kernel_size=3, padding=(2,) * axes, per_parameter=True
    )
    np.testing.assert_array_equal(weight, 0.0)
    np.testing.assert_allclose(
        bias, np.sqrt(np.sum(g.reshape(2, 4, -1).sum(axis=2, dtype=float) ** 2, axis=1)), rtol=1e-6
    )


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_there_is_no_pixel_to_pad_an_image_without_pixels_with(mode):
    with pytest.raises(ValueError, match=r"^padding must be .* length"):
        conv_grad_norms(np.zeros((1, 2, 0)), np.zeros((1, 2, 2)), kernel_size=3, padding=2, padding_mode=mode)


def patches_of(images, padded, maps, positions, features):
    """(B, channels * features, positions) values that the kernel looks up, one group."""
    flat = np.zeros((*images.shape[:2], *padded))
    for at_d, at_h, at_w in np.ndindex(*padded):
        source = maps[0][at_d], maps[1][at_h], maps[2][at_w]
        if min(source) >= 0:
            flat[:, :, at_d, at_h, at_w] = images[(slice(None), slice(None), *source)]
    return flat.reshape(images.shape[0], -1)[:, features[:, None] + positions]


@on_every_device
@given(seeds, dtypes, st.lists(st.integers(0, 5), min_size=3, max_size=3), st.sampled_from([1, 2, 3, 24, 50]))
def test_any_map_of_the_padding_is_looked_up(device, seed, dtype, source, outputs):
    """Rows that the map crops, shuffles, repeats or leaves out altogether, images without pixels among them."""
    rng = np.random.default_rng(seed)
    channels, padded = 2, [int(n) for n in rng.integers(1, 8, 3)]
    images = normal(rng, (2, channels, *source), dtype)
    maps = [
        np.clip(rng.integers(-3, max(n, 1), length), -1, n - 1).astype(np.int32)
        for n, length in zip(source, padded, strict=True)
    ]
    if rng.random() < 0.3 and padded[2] >= source[2]:  # the ends of a whole row, but not its middle
        maps[2][: source[2]] = np.arange(source[2])
        maps[2][1 : source[2] - 1] = -1
    plane = math.prod(padded)
    features = np.sort(rng.choice(plane * channels, size=rng.integers(0, plane) // channels * channels, replace=False))
    last = int(features.max(initial=0))
    positions = np.sort(rng.choice(plane * channels - last, size=rng.integers(0, plane * channels - last + 1)))
    positions = np.unique(positions)
    g = normal(rng, (2, outputs, positions.size), dtype)
    out = np.full(2, np.nan)
    compiled.AVAILABLE[device].run(
        "conv_grad_norms",
        {
            "activations": images,
            "output_grads": g,
            "groups": 1,
            "padded": np.array(padded, dtype=np.int64),
            "pad_maps": np.concatenate(maps),
            "position_offsets": positions.astype(np.int32),
            "feature_offsets": features.astype(np.int32),
            "bias": False,
            "squared": False,
            "out": out,
        },
    )
    patches = patches_of(images.astype(float), padded, maps, positions, features)
    expected = np.sqrt(np.sum(np.einsum("bfp,bcp->bfc", patches, g.astype(float)) ** 2, axis=(1, 2)))
    sizes = np.sqrt(np.sum(patches**2, axis=(1, 2)) * np.sum(g.astype(float) ** 2, axis=(1, 2)))
    assert np.all(np.abs(out - expected) <= (1e-5 if dtype == np.float32 else 1e-12) * sizes)


def test_positions_that_do_not_increase_are_refused():
    case = kernel_call("conv_grad_norms")
    offsets = case.arguments["position_offsets"]
    offsets[4:6] = offsets[[5, 4]]
    with pytest.raises(ValueError, match=r"^position_offsets must increase"):
        case.run()


def test_channels_that_no_memory_stands_behind_are_refused():
    """Images without rows: 2**29 channels of them are no bytes, and their padded planes would be 200 GB."""
    case = kernel_call("conv_grad_norms", n=1)
    case.arguments["pad_maps"][1:7] = -1
    case.arguments |= {"activations": np.empty((1, 2**29, 1, 0, 6)), "feature_offsets": np.zeros(0, dtype=np.int32)}
    with pytest.raises(ValueError, match=r"^padded must have fewer than 2\*\*31 entries in all channels of a group"):
        case.run()


@pytest.mark.parametrize("n_groups", [0, -1, 4])
def test_values_that_are_normalised_already_are_in_no_groups(n_groups):
    case = kernel_call("norm_layer_grad_norms:group").replaced(normalized=True)
    np.testing.assert_array_equal(case.replaced(n_groups=n_groups).run()["out"], case.run()["out"])


# --- normalising layers ---------------------------------------------------------------------------


@on_every_device
@given(seeds, dtypes, st.sampled_from(["layer", "rms"]), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_layer_and_rms_norm_parameters(device, seed, dtype, kind, positions, width, bias):
    rng = np.random.default_rng(seed)
    x, g = normal(rng, (3, positions, width), dtype), normal(rng, (3, positions, width), dtype)
    x_hat = oracles.normalised(x, axes=-1, centre=kind == "layer", eps=1e-3)
    g64 = g.astype(np.float64)
    expected = np.sum(np.sum(x_hat * g64, axis=1) ** 2, axis=1) + bias * np.sum(np.sum(g64, axis=1) ** 2, axis=1)
    scale = np.sum((np.abs(x_hat * g64) + bias * np.abs(g64)) ** 2, axis=(1, 2)) * positions
    found = at(device, norm_layer_grad_norms)(x, g, kind=kind, eps=1e-3, bias=bias, squared=True)
    assert np.all(np.abs(found - expected) <= 1e-12 * scale)
    if dtype == np.float64:
        again = at(device, norm_layer_grad_norms)(x_hat, g, kind=kind, normalized=True, bias=bias, squared=True)
        assert np.all(np.abs(again - expected) <= 1e-12 * scale)


@on_every_device
@given(seeds, dtypes, st.integers(1, 3), st.integers(1, 4), st.integers(1, 30))
def test_group_norm_parameters(device, seed, dtype, groups, per_group, size):
    rng = np.random.default_rng(seed)
    shape = (2, groups * per_group, size)
    x, g = normal(rng, shape, dtype), normal(rng, shape, dtype)
    x_hat = oracles.normalised(x.reshape(2, groups, -1), axes=-1, centre=True, eps=1e-3).reshape(shape)
    g64 = g.astype(np.float64)
    expected = np.sum(np.sum(x_hat * g64, axis=2) ** 2 + np.sum(g64, axis=2) ** 2, axis=1)
    scale = np.sum((np.abs(x_hat * g64) + np.abs(g64)) ** 2, axis=(1, 2)) * size
    found = at(device, norm_layer_grad_norms)(x, g, kind="group", num_groups=groups, eps=1e-3, squared=True)
    assert np.all(np.abs(found - expected) <= 1e-12 * scale)


# --- linear probes --------------------------------------------------------------------------------


def probe_norms(X, stack, y, loss, alpha):
    stored = [oracles.probe_gradients(X, weights, y, loss=loss, alpha=alpha) for weights in stack]
    return np.stack([np.linalg.norm(gradients, axis=(1, 2)) for gradients in stored], axis=1)


@on_every_device
@given(
    seeds,
    dtypes,
    st.sampled_from(["softmax", "logistic", "squared"]),
    st.integers(0, 60),
    st.sampled_from([1, 7, 40, 300, 530]),
    st.integers(2, 13),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3]),
    thread_counts,
)
def test_probe_norms_are_those_of_stored_gradients(
    device, seed, dtype, loss, n, d, classes, n_checkpoints, alpha, threads
):
    rng = np.random.default_rng(seed)
    classes = 1 if loss == "logistic" else classes
    X = normal(rng, (n, d), dtype)
    stack = normal(rng, (n_checkpoints, d, classes), dtype, 1 / math.sqrt(d))
    y = rng.integers(0, max(classes, 2), n) if loss != "squared" else normal(rng, (n, classes), dtype)
    expected = probe_norms(X, stack, y, loss, alpha)
    found = at(device, probe_grad_norms)(X, stack, y, loss=loss, alpha=alpha, threads=threads)
    # Rounding of a logit moves the residual by as much, whatever the residual is.
    unit = np.finfo(dtype).eps * (1 + np.linalg.norm(X.astype(float), axis=1, keepdims=True))
    limit = (1e-5 if dtype == np.float32 else 1e-12) * expected
    if loss == "squared" or alpha:
        limit = limit + 8 * unit * np.linalg.norm(X.astype(float), axis=1, keepdims=True) * math.sqrt(classes)
    assert found.shape == expected.shape
    assert np.all(np.abs(found - expected) <= limit)
    factors = rng.uniform(size=n_checkpoints)
    weighted = at(device, probe_grad_norms)(
        X, stack, y, loss=loss, alpha=alpha, checkpoint_weights=factors, threads=threads
    )
    np.testing.assert_allclose(weighted, found**2 @ factors, rtol=1e-13)
    one = at(device, probe_grad_norms)(X, stack[0], y, loss=loss, alpha=alpha, squared=True)
    np.testing.assert_allclose(
        one, found[:, 0] ** 2, rtol=1e-5 if dtype == np.float32 else 1e-11, atol=1e-6 * (alpha > 0)
    )


@on_every_device
@pytest.mark.parametrize("n_checkpoints", [1, 40])
@pytest.mark.parametrize("gap", [5.0, 40.0, 100.0, 300.0])
def test_confident_records_keep_their_digits(gap, n_checkpoints, device):
    weights = np.zeros((n_checkpoints, 1, 3))
    weights[:, 0, 1] = gap
    p = math.exp(-gap) / (1 + 2 * math.exp(-gap))  # of each of the other two classes
    found = at(device, probe_grad_norms)(np.array([[1.0]]), weights, np.array([1]))
    np.testing.assert_allclose(found[0], math.sqrt(6) * p, rtol=1e-13)
    wrong = at(device, probe_grad_norms)(np.array([[1.0]]), weights, np.array([0]))
    np.testing.assert_allclose(wrong[0], math.sqrt((1 - p) ** 2 + p**2 + (1 - 2 * p) ** 2), rtol=1e-13)
    logistic = at(device, probe_grad_norms)(
        np.array([[1.0]]), weights[:, :, 1:2].copy(), np.array([1]), loss="logistic"
    )
    np.testing.assert_allclose(logistic[0], 1 / (1 + math.exp(gap)), rtol=1e-13)


@on_every_device
@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared"])
def test_decayed_gradient_near_its_zero_is_formed_entry_by_entry(loss, device):
    # One record at its own optimum: x r^T + alpha W is zero there and tiny beside its terms nearby.
    rng = np.random.default_rng(7)
    x, alpha = rng.standard_normal((1, 20)), 0.25
    classes = 1 if loss == "logistic" else 3
    y = np.array([1]) if loss != "squared" else rng.standard_normal((1, classes))
    weights = np.zeros((20, classes))
    for _ in range(4000):
        weights -= 0.02 * oracles.probe_gradients(x, weights, y, loss=loss, alpha=alpha)[0]
    weights *= 1 + 1e-9
    expected = probe_norms(x, weights[None], y, loss, alpha)[:, 0]
    assert expected < 1e-7 * alpha * np.linalg.norm(weights)
    found = at(device, probe_grad_norms)(x, weights, y, loss=loss, alpha=alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@on_every_device
def test_many_columns_are_taken_in_groups(device):
    rng = np.random.default_rng(8)
    X, stack = rng.standard_normal((50, 30)), 0.2 * rng.standard_normal((3, 30, 600))
    y = rng.integers(0, 600, 50)
    np.testing.assert_allclose(
        at(device, probe_grad_norms)(X, stack, y), probe_norms(X, stack, y, "softmax", 0), rtol=1e-12
    )


@on_every_device
@pytest.mark.parametrize("columns", [2, 64])
def test_float32_records_of_extreme_size_keep_their_norms(columns, device):
    rng = np.random.default_rng(9)
    X = normal(rng, (4, 33), np.float32) * np.array([[1e-30], [1e-20], [1e18], [1e30]], dtype=np.float32)
    weights = np.zeros((33, columns), dtype=np.float32)
    found = at(device, probe_grad_norms)(X, weights, np.zeros(4, dtype=int))
    residual = math.sqrt((columns - 1) / columns**2 + (1 - 1 / columns) ** 2)
    np.testing.assert_allclose(found, residual * np.linalg.norm(X.astype(float), axis=1), rtol=1e-6)


@given(
    seeds,
    dtypes,
    st.sampled_from(["softmax", "logistic", "squared"]),
    st.integers(0, 60),
    st.sampled_from([1, 40, 530]),
    st.integers(2, 13),
    st.integers(1, 5),
)
def test_probe_measures_are_the_plain_formulas(seed, dtype, loss, n, d, classes, n_checkpoints):
    rng = np.random.default_rng(seed)
    classes = 1 if loss == "logistic" else classes
    X = normal(rng, (n, d), dtype)
    stack = normal(rng, (n_checkpoints, d, classes), dtype, 1 / math.sqrt(d))
    y = rng.integers(0, max(classes, 2), n) if loss != "squared" else normal(rng, (n, classes), dtype)
    early = n_checkpoints // 2
    found = probe_measures(X, stack, y, loss=loss, early=early)
    assert np.array_equal(found.grad_norms, probe_grad_norms(X, stack, y, loss=loss))
    expected = oracles.probe_proxies(X, stack, y, loss=loss, early=early)
    # A logit is off by eps times its terms, and everything here moves no faster than logits (squares: times residuals).
    unit = np.finfo(dtype).eps * math.sqrt(d) * (1 + np.linalg.norm(X.astype(float), axis=1)) * (1 + classes)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    for name, truth, grows in (
        ("early_residuals", expected[:, 0], 1.0),
        ("own_probabilities", expected[:, 1], 1.0),
        ("losses", expected[:, 2], 1.0 + np.sqrt(2 * expected[:, 2])),
    ):
        if loss == "squared" and name == "own_probabilities":
            assert np.isnan(found.own_probabilities).all()
            continue
        assert np.all(np.abs(getattr(found, name) - truth) <= rtol * truth + 8 * unit * grows), name


@pytest.mark.parametrize("columns", [3, 40])
def test_probe_measures_at_the_ends_of_the_range(columns):
    stack = np.zeros((1, 1, columns))
    stack[0, 0, 1] = 1.0
    X = np.array([[40.0], [-800.0], [np.nan], [np.inf], [1e150]])
    found = probe_measures(X, stack, np.ones(5, dtype=int))
    sure, wrong = (columns - 1) * math.exp(-40.0), 800.0 + math.log(columns - 1)
    np.testing.assert_allclose(found.losses[:2], [sure, wrong], rtol=1e-13)
    np.testing.assert_allclose(found.own_probabilities[:2], [1.0, 0.0], atol=1e-14)
    np.testing.assert_allclose(
        found.early_residuals[0], math.sqrt((columns - 1) * columns) * math.exp(-40.0), rtol=1e-13
    )
    assert np.isfinite(found.grad_norms[:, 0]).tolist() == [True, True, False, False, True]
    for field in (found.losses, found.early_residuals):
        assert np.isfinite(field).tolist() == [True, True, False, False, True]
    for bad in ({"early": 1}, {"early": -1}):
        with pytest.raises(ValueError, match="early"):
            probe_measures(X, stack, np.ones(5, dtype=int), **bad)
    with pytest.raises(ValueError, match="weights must have shape"):
        probe_measures(X, stack[0], np.ones(5, dtype=int))


# --- what holds for all -----------------------------------------------------------------------------


def every_kernel(dtype, threads=None):
    """Results of every kernel on one set of inputs, large enough for several ranges."""
    rng = np.random.default_rng(10)
    a, g = normal(rng, (70, 60, 60), dtype), normal(rng, (70, 60, 70), dtype)
    wide_a, wide_g = normal(rng, (20, 20, 200), dtype), normal(rng, (20, 20, 210), dtype)
    x, out = normal(rng, (40, 6, 20, 20), dtype), normal(rng, (40, 8, 20, 20), dtype)
    indices, e = rng.integers(0, 20, (90, 50)), normal(rng, (90, 50, 40), dtype)
    rows = normal(rng, (90, 12, 20), dtype)
    columns = normal(rng, (90, 12, 40), dtype)
    X, W = normal(rng, (3000, 70), dtype), normal(rng, (4, 70, 9), dtype, 0.1)
    y = rng.integers(0, 9, 3000)
    same = {"threads": threads}
    return {
        "product": linear_grad_norms(a, g, **same),
        "gram": linear_grad_norms(wide_a, wide_g, **same),
        "rank one": linear_grad_norms(a[:, 0].copy(), g[:, 0].copy(), **same),
        "dots": linear_grad_dots(a, g, a[:, ::-1].copy(), g, **same),
        "conv": conv_grad_norms(x, out, kernel_size=3, padding=1, groups=2, **same),
        "embedding": embedding_grad_norms(indices, e, **same),
        "tied": embedding_linear_grad_dots(indices, e, rows, columns, **same),
        "layer": norm_layer_grad_norms(a, a[::-1].copy(), **same),
        "group": norm_layer_grad_norms(x, x[::-1].copy(), kind="group", num_groups=3, **same),
        "probe": probe_grad_norms(X, W, y, alpha=0.01, **same),
        "narrow probe": probe_grad_norms(X, W[0], y, **same),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_for_every_thread_count(dtype):
    alone = every_kernel(dtype, threads=1)
    for threads in (2, 3, 8):
        for name, found in every_kernel(dtype, threads=threads).items():
            np.testing.assert_array_equal(found, alone[name], err_msg=name)


def test_instruction_sets_agree(tmp_path):
    """Every level that this processor has, in float64, to 1e-12 of the largest result."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport numpy as np\nimport test_grad_norms\n"
        "np.savez(sys.argv[2], **test_grad_norms.every_kernel(np.float64))\n"
    )
    here = every_kernel(np.float64)
    ran = 0
    for level in ("base", "v3", "v4"):
        target = tmp_path / f"{level}.npz"
        command = [sys.executable, str(script), os.path.dirname(__file__), str(target)]
        done = subprocess.run(command, env={**os.environ, "EXPUNGE_ISA": level}, capture_output=True, text=True)
        if done.returncode != 0:
            assert "is not supported by this processor" in done.stderr, done.stderr
            continue
        ran += 1
        with np.load(target) as found:
            for name, values in here.items():
                assert np.max(np.abs(found[name] - values)) <= 1e-12 * np.max(np.abs(values)), (level, name)
    assert ran >= 1


@on_every_device
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 5, 7), (9, 5, 7), (3, 70, 80)])
def test_bad_values_reach_their_own_norm_and_no_other(poison, dtype, shape, device):
    positions, d_in, d_out = shape
    rng = np.random.default_rng(11)
    a, g = normal(rng, (5, positions, d_in), dtype), normal(rng, (5, positions, d_out), dtype)
    clean = at(device, linear_grad_norms)(a, g)
    for array in (a, g):
        broken = array.copy()
        broken[2, -1, -1] = poison
        found = at(device, linear_grad_norms)(broken if array is a else a, broken if array is g else g)
        assert not np.isfinite(found[2])
        np.testing.assert_array_equal(np.delete(found, 2), np.delete(clean, 2))


@on_every_device
def test_bad_values_in_other_layers(device):
    rng = np.random.default_rng(12)
    x, g = rng.standard_normal((3, 2, 8)), rng.standard_normal((3, 4, 8))
    x[1, 0, 3] = np.nan
    assert list(np.isnan(at(device, conv_grad_norms)(x, g, kernel_size=3, padding=1))) == [False, True, False]
    assert list(np.isnan(at(device, norm_layer_grad_norms)(x, x))) == [False, True, False]
    assert list(np.isnan(at(device, norm_layer_grad_norms)(x, x, kind="group", num_groups=2))) == [False, True, False]
    assert list(np.isnan(at(device, embedding_grad_norms)(np.zeros((3, 2), dtype=int), x))) == [False, True, False]
    for loss, classes in (("softmax", 3), ("softmax", 30), ("logistic", 1), ("squared", 3), ("squared", 30)):
        X, y = rng.standard_normal((3, 5)), np.array([0, 1, 0])
        X[1, 2] = np.nan
        targets = np.zeros((3, classes)) if loss == "squared" else y
        for alpha in (0, 1):
            found = at(device, probe_grad_norms)(X, np.ones((5, classes)), targets, loss=loss, alpha=alpha)
            assert list(np.isnan(found)) == [False, True, False]


@on_every_device
def test_nothing_in_gives_nothing_out(device):
    assert at(device, linear_grad_norms)(np.zeros((0, 3)), np.zeros((0, 2))).shape == (0,)
    assert at(device, linear_grad_norms)(np.zeros((2, 0, 3)), np.zeros((2, 0, 2))).tolist() == [0.0, 0.0]
    assert at(device, linear_grad_dots)(
        *(np.zeros((2, t, d)) for t, d in ((0, 3), (0, 4), (5, 3), (5, 4)))
    ).tolist() == [0.0, 0.0]
    assert at(device, embedding_grad_norms)(np.zeros((2, 0), dtype=int), np.zeros((2, 0, 4))).tolist() == [0.0, 0.0]
    assert at(device, conv_grad_norms)(np.zeros((0, 2, 5)), np.zeros((0, 2, 3)), kernel_size=3).shape == (0,)
    assert at(device, probe_grad_norms)(np.zeros((0, 3)), np.zeros((4, 3, 2)), np.zeros(0, dtype=int)).shape == (0, 4)
    assert at(device, probe_grad_norms)(np.zeros((2, 3)), np.zeros((0, 3, 2)), np.zeros(2, dtype=int)).shape == (2, 0)


def test_read_only_inputs_are_read():
    a = np.ones((2, 3))
    a.setflags(write=False)
    assert linear_grad_norms(a, a, bias=False).tolist() == [pytest.approx(3.0)] * 2


A, G, X3 = np.zeros((2, 4, 3)), np.zeros((2, 4, 5)), np.zeros((2, 3, 6))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: linear_grad_norms(A.astype(int), G),
            TypeError,
            "activations must have dtype float32 or float64, got int",
        ),
        (
            lambda: linear_grad_norms(A, G.astype(np.float32)),
            TypeError,
            "output_grads must have the dtype of activations",
        ),
        (lambda: linear_grad_norms(A[:, ::2], G[:, :2]), ValueError, "activations must be C-contiguous"),
        (
            lambda: linear_grad_norms(A, np.zeros((2, 3, 5))),
            ValueError,
            r"output_grads must have leading shape \(2, 4\)",
        ),
        (lambda: linear_grad_norms(np.zeros(3), G), ValueError, "activations must have shape"),
        (lambda: linear_grad_norms(A, G, threads=0), ValueError, "threads must be >= 1, got 0"),
        (lambda: linear_grad_dots(A, G, A, A), ValueError, "output_grads_2 must have width 5"),
        (lambda: linear_grad_dots(A, G, G, A), ValueError, "activations_2 must have width 3"),
        (lambda: linear_grad_dots(A, G, A[:1], G[:1]), ValueError, "activations_2 must have 2 examples"),
        (lambda: embedding_grad_norms(np.zeros((2, 4)), G), TypeError, "indices must hold integers"),
        (lambda: embedding_grad_norms(np.full((2, 4), -1), G), ValueError, "indices must be >= 0, got -1"),
        (lambda: embedding_grad_norms(np.zeros((2, 3), int), G), ValueError, "output_grads must have leading shape"),
        (
            lambda: embedding_grad_norms(np.zeros((2, 4), int), G, padding_idx=1.0),
            TypeError,
            "padding_idx must be an int",
        ),
        (
            lambda: embedding_linear_grad_dots(np.full((2, 4), 3), G, A, G),
            ValueError,
            "indices must be below 3, got 3",
        ),
        (lambda: conv_grad_norms(X3, X3, kernel_size=3), ValueError, r"output_grads must have shape \(2, C_out, 4\)"),
        (lambda: conv_grad_norms(X3, X3, kernel_size=7), ValueError, "kernel_size 7 with dilation 1 must fit"),
        (lambda: conv_grad_norms(X3, X3, kernel_size=1, groups=2), ValueError, "groups must divide the 3 channels"),
        (lambda: conv_grad_norms(X3, G[:, :, :6], kernel_size=1, groups=3), ValueError, "output_grads must"),
        (lambda: conv_grad_norms(X3, X3, kernel_size=3, padding="full"), ValueError, "padding must be one of"),
        (lambda: conv_grad_norms(X3, X3, kernel_size=3, padding="same", stride=2), ValueError, "padding 'same' needs"),
        (
            lambda: conv_grad_norms(X3, X3, kernel_size=3, padding_mode="wrap"),
            ValueError,
            "padding_mode must be one of",
        ),
        (
            lambda: conv_grad_norms(X3, X3, kernel_size=3, padding=6, padding_mode="reflect"),
            ValueError,
            "padding must be below the length 6",
        ),
        (lambda: conv_grad_norms(X3, X3, kernel_size=(3, 3)), ValueError, "kernel_size must be one int or 1 of them"),
        (lambda: conv_grad_norms(A[0], A[0], kernel_size=3), ValueError, "activations must have shape"),
        (lambda: norm_layer_grad_norms(X3, A), ValueError, r"output_grads must have shape \(2, 3, 6\)"),
        (lambda: norm_layer_grad_norms(X3, X3, kind="batch"), ValueError, "kind must be one of"),
        (lambda: norm_layer_grad_norms(X3, X3, kind="group"), ValueError, "num_groups must be given"),
        (lambda: norm_layer_grad_norms(X3, X3, kind="group", num_groups=2), ValueError, "num_groups must divide"),
        (lambda: norm_layer_grad_norms(X3, X3, normalized_ndim=3), ValueError, "normalized_ndim must be at most 2"),
        (lambda: norm_layer_grad_norms(X3, X3, eps=np.nan), ValueError, "eps must be finite"),
        (lambda: probe_grad_norms(A, G, [0]), ValueError, "X must have shape"),
        (lambda: probe_grad_norms(A[0], G[0], [0] * 4), ValueError, r"weights must have shape \(N, 3, C\)"),
        (
            lambda: probe_grad_norms(A[0], np.ones((3, 5)), [0, 1, 5, 0]),
            ValueError,
            r"y must be within \[0, 5\).*got 5",
        ),
        (lambda: probe_grad_norms(A[0], np.ones((3, 5)), np.zeros(4)), TypeError, "y must hold integers"),
        (lambda: probe_grad_norms(A[0], np.ones((3, 5)), [0]), ValueError, r"y must have shape \(4,\)"),
        (lambda: probe_grad_norms(A[0], np.ones((3, 1)), [0] * 4), ValueError, "weights must have C >= 2"),
        (
            lambda: probe_grad_norms(A[0], np.ones((3, 5)), [0] * 4, loss="logistic"),
            ValueError,
            "weights must have C = 1",
        ),
        (lambda: probe_grad_norms(A[0], np.ones((3, 5)), [0] * 4, loss="hinge"), ValueError, "loss must be one of"),
        (lambda: probe_grad_norms(A[0], np.ones((3, 5)), [0] * 4, alpha=-1), ValueError, "alpha must be >= 0"),
        (
            lambda: probe_grad_norms(A[0], np.ones((3, 5)), [0] * 4, checkpoint_weights=[1.0, 2.0]),
            ValueError,
            "checkpoint_weights must have length 1, got 2",
        ),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("kernel", "name", "value"),
    [
        ("embedding_linear_grad_dots", "indices", -1),
        ("embedding_linear_grad_dots", "indices", 7),
        ("probe_grad_norms:softmax", "y", -1),
        ("probe_grad_norms:softmax", "y", 3),
        ("probe_grad_norms:logistic", "y", 2),
        ("conv_grad_norms", "pad_maps", -2),
        ("conv_grad_norms", "pad_maps", 6),
        ("conv_grad_norms", "padded", -1),
        ("conv_grad_norms", "padded", 2**40),
        ("conv_grad_norms", "position_offsets", -1),
        ("conv_grad_norms", "position_offsets", 48),
        ("conv_grad_norms", "feature_offsets", -1),
        ("conv_grad_norms", "feature_offsets", 96),
    ],
)
def test_kernels_refuse_what_would_lead_outside_an_array(kernel, name, value):
    case = kernel_call(kernel)
    case.arguments[name].flat[-1] = value
    with pytest.raises(ValueError, match=name):
        case.run()
    assert not case.arguments["out"].any()


@pytest.mark.parametrize(
    ("kernel", "name", "value"),
    [
        ("conv_grad_norms", "groups", 0),
        ("conv_grad_norms", "groups", 3),
        ("conv_grad_norms", "groups", 4),
        ("norm_layer_grad_norms:group", "n_groups", 0),
        ("norm_layer_grad_norms:group", "n_groups", 4),
        ("norm_layer_grad_norms:layer", "kind", 3),
        ("probe_grad_norms:softmax", "loss", "hinge"),
    ],
)
def test_kernels_refuse_settings_that_do_not_divide_or_exist(kernel, name, value):
    case = kernel_call(kernel)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        case.replaced(**{name: value}).run()


def test_a_convolution_without_padding_reads_its_whole_image():
    with pytest.raises(ValueError, match="padded must be the spatial shape"):
        kernel_call("conv_grad_norms").replaced(pad_maps=None).run()


# --- autograd, one example at a time -----------------------------------------------------------------


def autograd_norms(module, inputs, output_grads):
    """Norm of the gradients of `module`'s parameters for every example, by backward passes of batch size 1."""
    norms = []
    for x, g in zip(inputs, output_grads, strict=True):
        module.zero_grad()
        module(x[None]).backward(g[None])
        norms.append(math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in module.parameters())))
    return np.array(norms)


@needs_torch
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_equal_autograd(dtype, bias):
    torch.manual_seed(0)
    nn = torch.nn
    cases = [
        (nn.Linear(7, 5, bias=bias), (7,), linear_grad_norms, {"bias": bias}),
        (nn.Linear(30, 40, bias=bias), (3, 4, 30), linear_grad_norms, {"bias": bias}),
        (nn.Linear(90, 80, bias=bias), (9, 90), linear_grad_norms, {"bias": bias}),
        (nn.LayerNorm((4, 6), bias=bias), (3, 4, 6), norm_layer_grad_norms, {"normalized_ndim": 2, "bias": bias}),
        (nn.RMSNorm(6, eps=1e-5), (3, 6), norm_layer_grad_norms, {"kind": "rms"}),
        (nn.GroupNorm(2, 6), (6, 3, 5), norm_layer_grad_norms, {"kind": "group", "num_groups": 2}),
    ]
    convolutions = [
        (nn.Conv1d, (4, 11), {"kernel_size": 3, "stride": 2, "padding": 1, "padding_mode": "circular"}),
        (nn.Conv1d, (4, 12), {"kernel_size": 4, "padding": "same", "groups": 2}),
        (nn.Conv2d, (4, 9, 8), {"kernel_size": (3, 2), "stride": (1, 2), "dilation": (2, 1), "padding": (2, 1)}),
        (nn.Conv2d, (6, 9, 8), {"kernel_size": 3, "padding": 2, "padding_mode": "reflect", "groups": 3}),
        (nn.Conv2d, (6, 7, 10), {"kernel_size": 3, "padding": 1, "groups": 6}),
        (nn.Conv3d, (4, 4, 5, 6), {"kernel_size": 2, "padding": 1, "padding_mode": "replicate"}),
    ]
    for layer, shape, arguments in convolutions:
        module = layer(shape[0], 12, **arguments, bias=bias)
        cases.append((module, shape, conv_grad_norms, {**arguments, "bias": bias}))
    for module, shape, function, arguments in cases:
        double = module.double()
        x = torch.randn(3, *shape, dtype=torch.float64).to(torch.float32).double()
        g = torch.randn(double(x).shape, dtype=torch.float64).to(torch.float32).double()
        expected = autograd_norms(double, x, g)
        found = function(x.numpy().astype(dtype), g.numpy().astype(dtype), **arguments)
        np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-12, err_msg=str(module))


@needs_torch
def test_embedding_equals_autograd():
    torch.manual_seed(0)
    module = torch.nn.Embedding(9, 20, padding_idx=3).double()
    indices, g = torch.randint(0, 9, (4, 15)), torch.randn(4, 15, 20, dtype=torch.float64)
    expected = autograd_norms(module, indices, g)
    np.testing.assert_allclose(embedding_grad_norms(indices.numpy(), g.numpy(), padding_idx=3), expected, rtol=1e-12)
