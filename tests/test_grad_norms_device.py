"""Gradient norms on a device: shapes that choose its own kernels, and what those say of values nobody looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest

import oracles
from compiled import AVAILABLE
from emulated import DEVICES, Array, host, put
from expunge._errors import DeviceError
from expunge.grad_norms import (
    conv_grad_norms,
    embedding_grad_norms,
    embedding_linear_grad_dots,
    linear_grad_dots,
    linear_grad_norms,
    norm_layer_grad_norms,
    probe_grad_norms,
)
from kernel_calls import call as kernel_call

try:
    import torch
except ImportError:
    torch = None

pytestmark = pytest.mark.skipif("cuda_emul" not in DEVICES, reason="build with EXPUNGE_CUDA_EMUL=ON")

DEVICE = "cuda_emul"
EPS32 = float(np.finfo(np.float32).eps)


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def there(*arrays):
    return [put(array, DEVICE) for array in arrays]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 1100, 27, 32),  # few tiles, many terms: the terms are split over blocks
        (1, 260, 2080, 2080),  # as many tiles as fill a device: the largest ones, and second sums in shared memory
        (300, 3, 60, 90),  # tiles of many examples, larger than the matrices
        (3, 20, 33, 257),  # rows of odd length: nothing is aligned
        (265, 3, 125, 62),  # tiles higher than wide
        (133, 258, 200, 40),  # those, with second sums
        (1, 1, 3000, 5000),  # one position and long rows: a block for each
    ],
)
def test_every_choice_of_tiles_gives_the_norms(dtype, shape):
    examples, positions, d_in, d_out = shape
    rng = np.random.default_rng(0)
    a, g = normal(rng, (examples, positions, d_in), dtype), normal(rng, (examples, positions, d_out), dtype)
    found = host(linear_grad_norms(*there(a, g)))
    expected = oracles.linear_grad_norms(a, g, bias=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_sums_of_many_float32_terms_keep_their_digits():
    """Equal terms round the same way: without a second sum the error would grow with their number."""
    a, g = np.full((1, 5000, 40), 0.1, dtype=np.float32), np.full((1, 5000, 40), 0.3, dtype=np.float32)
    expected = 5000 * 40 * float(np.float32(0.1)) * float(np.float32(0.3))
    for examples in (1, 40):  # split terms, and terms of one block
        same = [np.repeat(array, examples, axis=0) for array in (a, g)]
        found = host(linear_grad_norms(*there(*same), bias=False))
        np.testing.assert_allclose(found, expected, rtol=32 * EPS32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_examples_are_sorted_in_memory(dtype):
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 50, (2, 2100))
    g = normal(rng, (2, 2100, 5), dtype)
    stored = oracles.embedding_gradients(indices, g, rows=50, padding_idx=7)
    found = host(embedding_grad_norms(*there(indices, g), padding_idx=7, squared=True))
    np.testing.assert_allclose(found, np.sum(stored**2, axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3), (40, 5), (70, 130), (33, 300)])
@pytest.mark.parametrize("squared", [False, True])
def test_many_short_examples_are_finished_where_they_are_sorted(dtype, shape, squared):
    rng = np.random.default_rng(1)
    length, width = shape
    indices, g = rng.integers(0, 9, (265, length)), normal(rng, (265, length, width), dtype)
    indices[3], indices[4, 0] = 7, -1  # nothing but padding; no row of a table
    found = host(embedding_grad_norms(*there(indices, g), padding_idx=7, squared=squared))
    few = [host(embedding_grad_norms(*there(indices[at], g[at]), padding_idx=7, squared=squared))
           for at in (slice(0, 200), slice(200, None))]  # fmt: skip
    np.testing.assert_allclose(found, np.concatenate(few), rtol=1e-14)
    indices[4] = 7
    stored = oracles.embedding_gradients(indices, g, rows=9, padding_idx=7)
    expected = np.sum(stored**2, axis=(1, 2)) ** (1 if squared else 0.5)
    expected[4] = np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[3] == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize(
    "shape",
    [(2, 130, 33), (2, 19, 300), (1, 9, 500), (1, 70, 768), (1, 40, 1024), (1, 3, 1501), (1, 2, 2047), (2, 3, 2500),
     (1, 2, 6100), (3, 1, 1)],
)  # fmt: skip
def test_normalising_rows_short_and_long(dtype, kind, shape):
    """A tile holds 16, 8, 5, 3, 2 or 1 rows, with one to eight warps a row; longer rows are kept or read again."""
    rng = np.random.default_rng(2)
    x, g = normal(rng, shape, dtype), normal(rng, shape, dtype)
    x_hat = oracles.normalised(x, axes=-1, centre=kind == "layer", eps=1e-5)
    products, grads = x_hat * g, g.astype(float)
    expected = np.sum(products.sum(1) ** 2 + grads.sum(1) ** 2, axis=1)
    scale = shape[1] * np.sum((np.abs(products) + np.abs(grads)) ** 2, axis=(1, 2))
    found = host(norm_layer_grad_norms(*there(x, g), kind=kind, bias=True, squared=True))
    assert np.all(np.abs(found - expected) <= 1e-12 * scale)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
def test_group_statistics_do_not_cancel_far_from_zero(offset):
    """They are summed in one pass about an element of the group; values near it subtract without rounding."""
    rng = np.random.default_rng(3)
    x, g = offset + rng.standard_normal((3, 6, 50)), rng.standard_normal((3, 6, 50))
    groups = x.astype(np.longdouble).reshape(3, 2, -1)
    groups = groups - groups.mean(axis=2, keepdims=True)
    hat = (groups / np.sqrt(np.mean(groups**2, axis=2, keepdims=True) + 1e-5)).reshape(x.shape)
    expected = np.sqrt(np.sum(np.sum(hat * g, axis=2) ** 2 + np.sum(g, axis=2) ** 2, axis=1)).astype(float)
    found = host(norm_layer_grad_norms(*there(x, g), kind="group", num_groups=2))
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_the_same_bits_come_out_again():
    rng = np.random.default_rng(4)
    a, g = (np.ones((5, 20, 70)) + 1e-9 * rng.standard_normal((5, 20, 70)) for _ in range(2))
    runs = [host(linear_grad_norms(*there(a, g - g.mean(1, keepdims=True)))) for _ in range(2)]
    assert runs[0].tobytes() == runs[1].tobytes()


@pytest.mark.parametrize("n", [0, 1, 9])
def test_records_are_taken_some_at_a_time(monkeypatch, n):
    rng = np.random.default_rng(5)
    X, W, y = rng.standard_normal((n, 4)), rng.standard_normal((3, 4, 5)), rng.integers(0, 5, n)
    weights = rng.uniform(size=3)
    monkeypatch.setattr("expunge.grad_norms.probe_arrays._LOGITS", 3 * 5 * 2)
    for options in ({}, {"alpha": 0.1}, {"checkpoint_weights": weights}):
        found = host(probe_grad_norms(*there(X, W, y), **options))
        np.testing.assert_allclose(found, probe_grad_norms(X, W, y, **options), rtol=1e-12)


# --- values that nobody looked at ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "name", "value", "where"),
    [
        ("embedding_linear_grad_dots", "indices", -1, 1),
        ("embedding_linear_grad_dots", "indices", 7, 1),
        ("embedding_grad_norms", "indices", -1, 1),
        ("probe_grad_norms:softmax", "y", -1, 1),
        ("probe_grad_norms:softmax", "y", 3, 1),
        ("probe_grad_norms:logistic-weighted", "y", 2, 1),
        ("conv_grad_norms", "pad_maps", -2, None),
        ("conv_grad_norms", "pad_maps", 6, None),
        ("conv_grad_norms", "position_offsets", -1, None),
        ("conv_grad_norms", "position_offsets", 48, None),
        ("conv_grad_norms", "feature_offsets", -1, None),
        ("conv_grad_norms", "feature_offsets", 96, None),
        ("conv_grad_norms:valid", "feature_offsets", 2**31 - 1, None),
    ],
)
def test_what_leads_outside_an_array_is_nan_and_reads_nothing(kernel, name, value, where):
    case = kernel_call(kernel)
    array = case.arguments[name]
    if where is None:
        array.flat[-1] = value
    else:
        array[where] = value
    AVAILABLE[DEVICE].run(case.kernel, case.arguments)
    bad = np.isnan(case.arguments["out"]).reshape(len(case.arguments["out"]), -1)
    expected = np.zeros(len(bad), dtype=bool)
    expected[slice(None) if where is None else where] = True
    assert (bad.all(axis=1) == expected).all()
    assert (bad.any(axis=1) == expected).all()


@pytest.mark.parametrize("classes", [2, 3, 10, 40, 1000])
@pytest.mark.parametrize("sure", [0.0, 30.0, 300.0, 700.0])
def test_float32_norms_of_probes_keep_their_digits_however_small_they_are(classes, sure):
    """Sums in float32, one factor in float64: the relative error does not grow where the label is all but certain."""
    rng = np.random.default_rng(8)
    X = np.eye(classes, dtype=np.float32)[rng.integers(classes, size=20)]
    weights = rng.normal(size=(classes, classes)).astype(np.float32) * 3
    y = rng.integers(classes, size=20)
    weights[X.argmax(axis=1), y] += np.float32(sure)
    found = host(probe_grad_norms(*there(X, weights, y)))
    logits = weights[X.argmax(axis=1)].astype(np.longdouble)
    mine = np.take_along_axis(logits, y[:, None], axis=1)
    others = np.exp(logits - mine) * (np.arange(classes) != y[:, None])
    p = others / (1 + others.sum(axis=1, keepdims=True))
    expected = np.sqrt((p**2).sum(axis=1) + p.sum(axis=1) ** 2)
    assert np.all(np.abs(found / expected - 1) <= (classes / 32 + 16) * 2.0**-24)


def test_float32_norms_of_probes_at_the_ends_of_the_range():
    def norm(logits, label):
        weights = np.array([logits], dtype=np.float32)
        return float(host(probe_grad_norms(*there(np.ones((1, 1), dtype=np.float32), weights, np.array([label]))))[0])

    assert norm([3e38, -3e38, 0], 0) == 0.0
    assert norm([3e38, -3e38, 0], 1) == pytest.approx(math.sqrt(2), rel=1e-6)
    for bad in (math.inf, -math.inf, math.nan):
        assert all(math.isnan(norm([0, 1, bad], label)) for label in range(3))


# --- types ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch is None, reason="NumPy has no bfloat16; torch is not installed")
@pytest.mark.parametrize(
    ("shape", "bias"),
    [
        ((3, 1, 50, 41), True),
        ((3, 7, 9, 5), False),
        ((2, 20, 200, 210), True),  # the Gram form
        ((2, 300, 40, 70), True),
        ((280, 3, 90, 70), False),  # tensor cores
        ((1, 258, 2080, 2080), True),  # with second sums
        ((300, 19, 121, 115), False),  # rows of odd length are not copied sixteen bytes at a time
    ],
)
def test_bfloat16_factors_are_multiplied_exactly(shape, bias):
    """Products of two such numbers fit float32, so only sums round: on tensor cores as elsewhere."""
    examples, positions, d_in, d_out = shape
    torch.manual_seed(0)
    a = torch.randn(examples, positions, d_in, dtype=torch.bfloat16)
    g = torch.randn(examples, positions, d_out, dtype=torch.bfloat16)
    module, out = AVAILABLE[DEVICE].module, torch.full((examples,), math.nan, dtype=torch.float64)
    doubles = module.linear_grad_norms_workspace(a, g, bias, False, out)
    scratch = torch.full((doubles,), math.nan, dtype=torch.float64)
    module.linear_grad_norms(a, g, bias, False, out, workspace=scratch, stream=0)
    expected = oracles.linear_grad_norms(a.double().numpy(), g.double().numpy(), bias=bias)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5)


@pytest.mark.skipif(torch is None, reason="NumPy has no bfloat16; torch is not installed")
def test_sums_of_tensor_cores_drift_no_further_than_their_block_allows():
    """Every step cuts digits off on the same side here: a second sum takes over after 256 terms on the emulator."""
    terms, width = 514, 1100  # at least 264 tiles, which fill a device
    module = AVAILABLE[DEVICE].module
    torch.manual_seed(1)
    a, g = (torch.rand(4, terms, width).bfloat16() for _ in range(2))  # no two terms cancel
    out = torch.full((4,), math.nan, dtype=torch.float64)
    doubles = module.linear_grad_norms_workspace(a, g, False, False, out)
    scratch = torch.full((doubles,), math.nan, dtype=torch.float64)
    module.linear_grad_norms(a, g, False, False, out, workspace=scratch, stream=0)
    expected = np.linalg.norm(a.double().mT.numpy() @ g.double().numpy(), axis=(1, 2))
    drift = 1 - out.numpy() / expected
    assert np.all(drift > 0)
    assert np.all(drift <= 9 * 256 / 8 * 2.0**-23 + 3 * 2.0**-24)


def test_results_are_the_callers_arrays():
    a, g = there(np.ones((2, 3, 4)), np.ones((2, 3, 5)))
    assert isinstance(linear_grad_norms(a, g), Array)
    assert isinstance(linear_grad_dots(a, g, a, g), Array)
    tokens, width = there(np.zeros((2, 3), dtype=np.int32), np.ones((2, 3, 1)))
    assert isinstance(embedding_grad_norms(tokens, g), Array)
    assert host(embedding_linear_grad_dots(tokens, width, g, width)).tolist() == [9.0, 9.0]


def test_arrays_of_one_call_lie_together():
    a, g = np.ones((2, 3, 4)), np.ones((2, 3, 5))
    with pytest.raises(DeviceError, match="activations must be an array of the same library"):
        linear_grad_norms(a, put(g, DEVICE))
    with pytest.raises(TypeError, match="output_grads must have the dtype of activations, float64, got float32"):
        linear_grad_norms(*there(a, g.astype(np.float32)))
    with pytest.raises(TypeError, match="activations must have dtype float32 or float64 or bfloat16"):
        linear_grad_norms(*there(a.astype(np.float16), g.astype(np.float16)))
    with pytest.raises(TypeError, match="indices must hold integers"):
        embedding_grad_norms(*there(np.zeros((2, 3)), g))
    with pytest.raises(ValueError, match="output_grads must have shape"):
        conv_grad_norms(*there(a, g), kernel_size=1)
