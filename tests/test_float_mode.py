"""Bounds do not depend on the floating-point mode of the calling thread: what is not 0 is never claimed to be."""

from contextlib import contextmanager

import numpy as np
import pytest

from expunge._kernels.backend import FLUSHING, IEEE_MODE, exchange_float_mode
from expunge.accounting import (
    GaussianPair,
    RenyiFilter,
    contraction_rdp,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    langevin_steps,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
    shifted_mu,
    weak_triangle_rdp,
)

TINY = float(np.finfo(float).tiny)
pytestmark = pytest.mark.skipif(not FLUSHING, reason="this processor's flush mode is not known")

# Each returns a positive number that float64 holds only as a subnormal one.
SUBNORMAL = {
    "gdp_delta": lambda threads: gdp_delta(np.full(1000, 1.0), 38.0, threads=threads),
    "gdp_epsilon": lambda threads: gdp_epsilon(1e-310, 1e-315, threads=threads),
    "small mu": lambda threads: gdp_delta(1e-310, 0.0, threads=threads),
    "pair": lambda threads: GaussianPair([0.0], [[1.0]]).delta(np.full(100, 38.4), threads=threads),
    "pair renyi": lambda threads: GaussianPair([1e-320], [[0.0]]).renyi(1.5, threads=threads),
    "shifted": lambda threads: shifted_mu([1e-310], 1.0, [1.0], threads=threads),
    "contraction": lambda threads: contraction_rdp(
        1e-300, order=2.0, log_sobolev=1.0, contraction=0.1, noise_std=1.0, n_steps=12
    )[-1],
    "weak triangle": lambda threads: weak_triangle_rdp(0.0, 1e-310, order=2.0),
}

# Ordinary results: the same bits in every mode.
NORMAL = {
    "gdp_delta": lambda: gdp_delta([1e-310, 1.0], [0.0, 3.0])[1],
    "gdp_mu": lambda: gdp_mu(1.0, 1e-5),
    "pair": lambda: GaussianPair([0.1, -1e-320], [[1e-170], [0.2]]).delta(0.5),
    "pair epsilon": lambda: GaussianPair([0.1], [[0.2]]).epsilon(1e-200),
    "sampled": lambda: sampled_gaussian_rdp(3.3, 2.0, 0.01),
    "to epsilon": lambda: rdp_to_epsilon([0.1, 0.5], [2.0, 10.0], 1e-5),
    "steps": lambda: langevin_steps(
        epsilon=1.0,
        delta=1e-4,
        smoothness=1.0,
        strong_convexity=0.1,
        lipschitz=1.0,
        sigma=0.05,
        n_records=1000,
        step_size=1.0,
    ),
}


@contextmanager
def mode(value):
    before = exchange_float_mode(value)
    try:
        yield
    finally:
        exchange_float_mode(before)


def flushing():
    return mode(IEEE_MODE | FLUSHING)


def test_the_mode_really_flushes():
    with flushing():
        product = float(np.multiply(np.float64(1e-200), np.float64(1e-115)))
    assert product == 0.0
    assert np.multiply(np.float64(1e-200), np.float64(1e-115)) > 0.0


@pytest.mark.parametrize("name", SUBNORMAL)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_positive_bound_is_never_flushed_to_zero(name, threads):
    usual = np.max(SUBNORMAL[name](threads))
    assert 0.0 < usual < TINY or (name == "shifted" and usual == TINY), usual  # never below the normal range
    with flushing():
        found = SUBNORMAL[name](threads)
        seen = bool(np.all(found > 0.0))
    assert seen
    assert np.all(np.asarray(found) == TINY)


@pytest.mark.parametrize("name", NORMAL)
@pytest.mark.parametrize("bits", [FLUSHING, 0x2000, 0x4000, 0x6000])  # flushing; rounding down, up, to zero
def test_ordinary_bounds_have_the_same_bits_in_every_mode(name, bits):
    usual = NORMAL[name]()
    with mode(IEEE_MODE | (bits if IEEE_MODE == 0x1F80 else FLUSHING)):
        found = NORMAL[name]()
    assert found == usual


def test_the_mode_is_given_back():
    with flushing():
        gdp_delta(1.0, 1.0, threads=2)
        contraction_rdp(1.0, order=2.0, log_sobolev=1.0, contraction=0.1, noise_std=1.0, n_steps=2)
        with pytest.raises(ValueError, match="order"):
            contraction_rdp(1.0, order=1.0, log_sobolev=1.0, contraction=0.1, noise_std=1.0, n_steps=2)
        inside = exchange_float_mode(IEEE_MODE | FLUSHING)
    assert inside & FLUSHING == FLUSHING


def test_a_filter_adds_up_in_every_mode():
    step = {"noise_std": 1.0, "step_size": 0.1, "sampling_probability": 0.5, "batch_size": 1.0}
    with flushing():
        keeper = RenyiFilter(2.0, 1e-312, n_records=2, **step)
        allowed = keeper.charge([0.0, 1e-3])
    assert allowed.tolist() == [True, False]


def test_torch_flushing_denormals():
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this build of torch cannot flush")
    try:
        delta = gdp_delta(1.0, 38.0)
        positive = delta > 0.0
    finally:
        torch.set_flush_denormal(False)
    assert positive
    assert delta >= gdp_delta(1.0, 38.0)
