"""Arrays of PyTorch and JAX on the emulated kernels: their libraries give memory, products and copies.

The libraries' own arrays lie in the computer's memory here, and only pretend to lie on a device.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from emulated import DEVICES, EXTENSION
from expunge import accounting
from expunge import grad_norms as norms
from expunge._kernels import backend, libraries
from expunge.langevin import langevin_chains, random_words, standard_normals
from expunge.runs import ridge

pytestmark = pytest.mark.skipif("cuda_emul" not in DEVICES, reason="build with -C cmake.define.EXPUNGE_CUDA_EMUL=ON")

RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.normal(size=shape)


@pytest.fixture(params=["torch", "jax"])
def there(request, monkeypatch):
    """A copy of a host array as one of the library, which claims to lie on a device."""
    library = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    if request.param == "torch":
        kind, convert = library.Tensor, lambda array: library.from_numpy(np.array(array))
        monkeypatch.setattr(libraries._Torch, "stream", lambda self: 0)
    else:
        library.config.update("jax_enable_x64", True)
        kind, convert = library.Array, importlib.import_module("jax.numpy").asarray
    plain = backend._kind
    monkeypatch.setattr(backend, "_kind", lambda value: EXTENSION if isinstance(value, kind) else plain(value))
    return convert


PAIR = accounting.GaussianPair(RNG.uniform(-0.2, 0.2, 5), normal(5, 2))
TOKENS = RNG.integers(0, 9, (5, 3))
CALLS = {
    "gdp_delta": (accounting.gdp_delta, [RNG.uniform(0.1, 2, 4), 1.0], {}),
    "shifted_mu": (accounting.shifted_mu, [RNG.uniform(0, 1, (3, 4)), RNG.uniform(0, 1, 4), 0.5], {}),
    "sampled_gaussian_rdp": (accounting.sampled_gaussian_rdp, [RNG.uniform(2, 3, 4), 1.0, 0.1], {}),
    "pair delta": (PAIR.delta, [RNG.uniform(0, 1, 5)], {}),
    "pair epsilon": (PAIR.epsilon, [10.0 ** -RNG.uniform(1, 5, 5)], {}),
    "linear": (norms.linear_grad_norms, [normal(5, 3, 4), normal(5, 3, 2)], {}),
    "linear, one position": (norms.linear_grad_norms, [normal(5, 4), normal(5, 2)], {}),
    "dots": (norms.linear_grad_dots, [normal(5, 3, 4), normal(5, 3, 2), normal(5, 6, 4), normal(5, 6, 2)], {}),
    "conv": (
        norms.conv_grad_norms,
        [normal(3, 4, 8, 8), normal(3, 6, 8, 8)],
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    ),
    "embedding": (norms.embedding_grad_norms, [TOKENS, normal(5, 3, 2)], {"padding_idx": 0}),
    "tied embedding": (
        norms.embedding_linear_grad_dots,
        [TOKENS, normal(5, 3, 2), normal(5, 3, 9), normal(5, 3, 2)],
        {},
    ),
    "layer norm": (norms.norm_layer_grad_norms, [normal(5, 3, 4), normal(5, 3, 4)], {"kind": "layer"}),
    "probe": (norms.probe_grad_norms, [normal(50, 6), normal(4, 6, 3), RNG.integers(0, 3, 50)], {}),
    "weighted probe": (
        norms.probe_grad_norms,
        [normal(50, 6), normal(4, 6, 3), normal(50, 3)],
        {"loss": "squared", "checkpoint_weights": RNG.uniform(0, 1, 4)},
    ),
    **{
        f"chains of {p} parameters": (
            langevin_chains,
            [normal(20, p), normal(20, 2)],
            {"alpha": 1.0, "step_size": 1e-3, "noise_std": 0.1, "n_steps": 3, "n_chains": 5, "seed": 0},
        )
        for p in (3, 80)
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_the_cpu_in_arrays_of_the_library(there, name):
    function, arguments, settings = CALLS[name]
    moved = [there(value) if isinstance(value, np.ndarray) else value for value in arguments]
    ours = function(*moved, **settings)
    assert type(ours) is type(there(np.zeros(1)))
    np.testing.assert_allclose(np.asarray(ours), function(*arguments, **settings), rtol=1e-12)
    for value, given in zip(moved, arguments, strict=True):
        np.testing.assert_array_equal(np.asarray(value), given)  # nobody's input is written into


def test_streams_have_the_bits_of_the_cpu(there):
    like = there(np.zeros(1))
    words, draws = random_words(9, seed=3, like=like), standard_normals(33, seed=3, like=like)
    assert type(words) is type(draws) is type(like)
    np.testing.assert_array_equal(np.asarray(words), random_words(9, seed=3))
    np.testing.assert_array_equal(np.asarray(draws), standard_normals(33, seed=3))


def test_ridge_is_quoted_from_arrays_of_the_library(there):
    X, Y = normal(30, 6), normal(30, 2)
    run = {"alpha": 1.0, "step_size": 0.01, "n_steps": 50, "noise_std": 0.1}
    law, on_host = ridge.LearningLaw(there(X), there(Y), **run), ridge.LearningLaw(X, Y, **run)
    for quotes in (ridge.exact_quotes, ridge.shifted_quotes):
        ours, expected = (quotes(place, range(30), epsilon=1.0, delta=1e-5, n_steps=5) for place in (law, on_host))
        assert type(ours.noise_std) is type(there(np.zeros(1)))
        np.testing.assert_allclose(np.asarray(ours.noise_std), expected.noise_std, rtol=1e-6)  # of the solver
