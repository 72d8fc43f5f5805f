"""Public functions on arrays of a device: the CPU's results in arrays of the device, or a refusal that says why."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import compiled
import oracles
from emulated import DEVICES, host, put
from expunge import DeviceError
from expunge._kernels import backend
from expunge.accounting import (
    GaussianPair,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    sampled_gaussian_rdp,
    shifted_mu,
)
from expunge.langevin import langevin_chains, random_words, standard_normals

DEVICE = DEVICES[-1]
on_a_device = pytest.mark.skipif(DEVICE == "cpu", reason="build with -C cmake.define.EXPUNGE_CUDA_EMUL=ON")
RNG = np.random.default_rng(20)
MU = RNG.uniform(0.01, 3.0, size=(5, 1))
EPSILON = RNG.uniform(0.0, 4.0, size=7)
DELTA = 10.0 ** RNG.uniform(-9.0, -1.0, size=7)
ORDER = RNG.uniform(1.1, 9.0, size=7)
PAIR = GaussianPair(RNG.uniform(-0.2, 0.2, size=40), RNG.normal(size=(40, 3)) * 0.1)


def there(value):
    return put(value, DEVICE) if isinstance(value, np.ndarray) else value


def both(function, *arguments, **settings):
    """Return the result on the CPU and that of the device, which must be an array of the device."""
    ours = function(*(there(a) for a in arguments), **settings)
    assert type(ours) is type(there(np.zeros(1)))
    return function(*arguments, **settings), host(ours)


EPS = float(np.finfo(float).eps)


def spread_of_delta(mu, epsilon):
    """How far delta may move with the last bits of exp and log, relatively: the law tests/test_gdp.py holds it to."""
    ratio = epsilon / mu
    return 10 * EPS * (ratio**2 + (1 + ratio) / np.minimum(mu, 1.0) * (epsilon >= 2) + mu**2 + 60)


# The last bits of a device's exp and log differ from the CPU's: delta moves by its condition, what solves for a delta
# by as much as another delta would move it.
@on_a_device
@pytest.mark.parametrize("mu", [MU, 0.3])
def test_delta_of_device_arrays_is_that_of_the_cpu(mu):
    cpu, ours = both(gdp_delta, mu, EPSILON)
    assert ours.shape == np.shape(cpu)
    assert np.all(np.abs(ours - cpu) <= spread_of_delta(mu, EPSILON) * cpu)


@on_a_device
def test_epsilon_and_mu_of_device_arrays_are_those_of_the_cpu():
    cpu, ours = both(gdp_epsilon, MU, DELTA)
    assert ours.shape == np.shape(cpu) == (5, 7)
    moved = 2 * spread_of_delta(MU, cpu)
    assert np.all(ours <= gdp_epsilon(MU, DELTA * (1 - moved)) * (1 + 8 * EPS))
    assert np.all(ours >= gdp_epsilon(MU, np.minimum(DELTA * (1 + moved), 1.0)) * (1 - 8 * EPS))

    cpu, ours = both(gdp_mu, EPSILON, DELTA)
    assert ours.shape == np.shape(cpu) == (7,)
    moved = 2 * spread_of_delta(cpu, EPSILON)
    assert np.all(ours <= gdp_mu(EPSILON, np.minimum(DELTA * (1 + moved), 1.0)) * (1 + 8 * EPS))
    assert np.all(ours >= gdp_mu(EPSILON, DELTA * (1 - moved)) * (1 - 8 * EPS))


@on_a_device
@pytest.mark.parametrize(
    ("noise", "rate", "direction"),
    [(RNG.uniform(0.5, 9.0, size=7), 0.1, "both"), (RNG.uniform(0.5, 9.0, size=(3, 1)), 0.7, "qp")],
)
def test_divergences_of_device_arrays_are_those_of_the_cpu(noise, rate, direction):
    cpu, ours = both(sampled_gaussian_rdp, ORDER, noise, rate, direction=direction)
    assert ours.shape == np.shape(cpu)
    # Sums of positive terms; tests/test_renyi_accounting.py holds each side to 2e-13 of the truth.
    np.testing.assert_allclose(ours, cpu, rtol=4e-13)


@on_a_device
@pytest.mark.parametrize(
    "arguments",
    [
        (RNG.uniform(0, 1, (3, 2, 9)), 0.9, RNG.uniform(0.1, 1, (2, 9))),
        (RNG.uniform(0, 1, 9), 1.0, 0.3),
    ],
)
def test_shifted_bounds_of_device_arrays_have_the_bits_of_the_cpu(arguments):
    cpu, ours = both(shifted_mu, *arguments)  # sums, quotients and roots, each rounded as everywhere
    assert ours.shape == np.shape(cpu)
    np.testing.assert_array_equal(ours, cpu)


@on_a_device
def test_every_bound_of_a_device_lies_on_its_safe_side():
    """One-sided and without tolerance, whatever exp and log the device has: against 50 digits, a few of each."""
    mu, delta, epsilon = MU[:, 0], DELTA[:5], EPSILON[:5]
    for m, e, d in zip(mu, epsilon, host(gdp_delta(there(mu), there(epsilon))), strict=True):
        assert d >= oracles.gdp_delta_mpmath(m, e)
    for m, d, e in zip(mu, delta, host(gdp_epsilon(there(mu), there(delta))), strict=True):
        assert oracles.gdp_delta_mpmath(m, e) <= d
    for e, d, m in zip(epsilon, delta, host(gdp_mu(there(epsilon), there(delta))), strict=True):
        assert oracles.gdp_delta_mpmath(m, e) <= d
    order, noise = ORDER[:3], np.array([0.6, 2.0, 7.0])
    for direction in ("pq", "qp"):
        bounds = host(sampled_gaussian_rdp(there(order), there(noise), 0.1, direction=direction))
        for a, s, bound in zip(order, noise, bounds, strict=True):
            assert bound >= oracles.sampled_gaussian_rdp(a, s, 0.1, direction)
    for excess, shift in ((0.3, 0.5), (-0.2, 0.1), (1e-9, 1e-3), (2.0, 1.5)):
        pair = GaussianPair([excess], [[shift]])
        for e, d in zip(epsilon, host(pair.delta(there(epsilon), direction="pq")), strict=True):
            assert d >= oracles.hockey_stick_line(excess, shift, e)
        for d, e in zip(delta, host(pair.epsilon(there(delta), direction="pq")), strict=True):
            assert oracles.hockey_stick_line(excess, shift, e) <= d


@on_a_device
def test_what_is_out_of_range_on_a_device_is_never_private():
    bad = there(np.array([np.nan, -1.0]))
    for result in (
        gdp_delta(bad, 1.0),
        gdp_delta(1.0, bad),
        gdp_epsilon(bad, 1e-5),
        gdp_epsilon(1.0, bad),
        gdp_mu(bad, 0.1),
        sampled_gaussian_rdp(bad, 1.0, 0.1),
        sampled_gaussian_rdp(2.0, bad, 0.1),
        sampled_gaussian_rdp(2.0, 1.0, bad),
        shifted_mu(bad.reshape(2, 1), 1.0, 1.0),
        shifted_mu(there(np.array([[np.inf]])), 1.0, 1.0),
        PAIR.delta(bad),
        PAIR.epsilon(bad),
        PAIR.renyi(bad),
    ):
        assert np.isnan(host(result)).all()


@on_a_device
def test_the_streams_have_the_bits_of_the_cpu():
    like = there(np.zeros(1))
    words = random_words(1001, seed=2**63 + 9, chain=2**50 + 1, step=12, like=like)
    np.testing.assert_array_equal(host(words), random_words(1001, seed=2**63 + 9, chain=2**50 + 1, step=12))
    for dtype in (np.float64, np.float32):
        normals = standard_normals((7, 1001), seed=4, chain=3, step=2, dtype=dtype, like=like)
        assert host(normals).tobytes() == standard_normals((7, 1001), seed=4, chain=3, step=2, dtype=dtype).tobytes()


def problem(loss, n, p, q):
    X = RNG.normal(size=(n, p))
    raw = RNG.normal(size=(n, q))
    y = raw if loss == "squared" else (raw[:, 0] > 0).astype(np.int64) if loss == "logistic" else raw.argmax(axis=1)
    return X, y


@on_a_device
@pytest.mark.parametrize(
    ("loss", "p", "dtype", "extra"),
    [
        *itertools.product(
            ("squared", "logistic", "softmax"),
            (1, 7, 64),
            (np.float64, np.float32),
            ({}, {"clip": 0.5}, {"sampling_probability": 0.3}, {"radius": 0.5}),
        ),
        *(("softmax", 300, np.float32, {"sampling_probability": 0.3, "clip": 0.7, "radius": 0.5}),),
    ],
)
def test_chains_have_the_bits_of_the_cpu(loss, p, dtype, extra):
    q = 1 if loss == "logistic" else 3
    X, y = problem(loss, 37, p, q)
    X, y = X.astype(dtype), y.astype(dtype) if loss == "squared" else y
    settings = {
        "loss": loss, "alpha": 0.5, "step_size": 0.004, "noise_std": 0.1, "n_steps": 6, "n_chains": 41, "seed": 6,
        "record": [0, 3, 6], "dtype": dtype, "first_chain": 2**40, "first_step": 9,
        "n_classes": q if loss == "softmax" else None, **extra,
    }  # fmt: skip
    cpu, ours = both(langevin_chains, X, y, **settings)
    assert ours.dtype == dtype
    assert ours.tobytes() == cpu.tobytes()


@on_a_device
def test_the_start_of_chains_is_not_overwritten():
    X, y = problem("squared", 19, 70, 2)
    theta0 = RNG.normal(size=(3, 70, 2))
    start = there(theta0)
    langevin_chains(
        there(X), there(y), theta0=start, n_chains=3, alpha=0.5, step_size=0.001, noise_std=0.1, n_steps=2, seed=9
    )
    np.testing.assert_array_equal(host(start), theta0)


@on_a_device
def test_arrays_in_different_places_are_refused_by_name():
    with pytest.raises(DeviceError, match="epsilon must be an array of the same library on the same device as mu"):
        gdp_delta(there(EPSILON), EPSILON)
    with pytest.raises(DeviceError, match="y must be an array of the same library"):
        langevin_chains(there(np.ones((4, 2))), np.zeros(4), alpha=1.0, step_size=0.1, noise_std=0.1, n_steps=1, seed=0)


@on_a_device
@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda: gdp_delta(there(EPSILON.astype(np.float32)), 1.0),
            TypeError,
            "mu must have dtype float64 on a device",
        ),
        (lambda: gdp_delta(there(EPSILON), there(EPSILON[:3])), ValueError, "mu and epsilon must broadcast together"),
        (lambda: chains(X=np.ones(4)), ValueError, "X must have 2"),
        (lambda: chains(y=np.zeros(3)), ValueError, "y must have shape"),
        (lambda: chains(X=np.ones((4, 2), dtype=np.int64)), TypeError, "X must have dtype float64 or float32"),
        (lambda: chains(y=np.zeros(4, dtype=np.int64), loss="softmax"), ValueError, "n_classes is needed"),
        (lambda: chains(theta0=np.zeros((3, 1))), ValueError, "theta0 must have shape"),
    ],
)
def test_bad_device_arrays_are_named(run, error, message):
    with pytest.raises(error, match=message):
        run()


def chains(**changes):
    arguments = {"X": np.ones((4, 2)), "y": np.zeros(4), "alpha": 1.0, "step_size": 0.1, "noise_std": 0.1,
                 "n_steps": 1, "seed": 0, **changes}  # fmt: skip
    X, y = arguments.pop("X"), arguments.pop("y")
    if "theta0" in arguments:
        arguments["theta0"] = there(arguments["theta0"])
    return langevin_chains(there(X), there(y), **arguments)


class Elsewhere:
    """An array on a device of DLPack's kind."""

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return (self.kind, 0)

    def __dlpack__(self, **options):
        raise AssertionError("nothing may be exchanged before the device is known to exist")


def test_an_array_on_a_device_that_has_no_kernels_is_refused():
    with pytest.raises(DeviceError, match="must be on the CPU or on a CUDA device, got DLPack device type 10"):
        gdp_delta(Elsewhere(10), 1.0)
    if compiled.built("_cuda") is None:
        with pytest.raises(DeviceError, match="this build of expunge has no _cuda"):
            gdp_delta(Elsewhere(2), 1.0)


@pytest.mark.skipif(compiled.built("_cuda") is None, reason="this build has no CUDA kernels (EXPUNGE_CUDA=ON)")
def test_cuda_without_a_device_says_so():
    cuda = compiled.built("_cuda")
    with pytest.raises(DeviceError, match="out must be on a CUDA device, got DLPack device type 1"):
        cuda.standard_normals(np.zeros(4), seed=0, chain=0, step=0, stream=0)
    if cuda.device_count() == 0:
        with pytest.raises(DeviceError, match="need an NVIDIA GPU and its driver"):
            cuda.synchronize(stream=0)


def test_numbers_and_host_arrays_stay_on_the_host():
    assert backend.place(a=1.0, b=None, c=np.zeros(3), d=[1.0]).on_host
    assert not backend.on_device(1.0, np.zeros(3))
