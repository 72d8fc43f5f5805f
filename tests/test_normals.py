"""Random words and standard normals: known answers, laws of the streams, and their distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import oracles
from emulated import host, on_every_device, put
from expunge.langevin import random_words, standard_normals

DTYPES = [np.float64, np.float32]


def tolerance(truth, dtype):
    """Error of whole pairs of normals: a few units of the radius and of the angle times it, and what u does to it.

    Near 1, u rounds by a quarter of a unit, which moves the radius sqrt(-2 log u) by that over the radius.
    """
    radius = np.repeat(np.hypot(truth[0::2], truth[1::2]), 2)
    return np.finfo(dtype).eps * (8 + 0.25 / radius)


seeds = st.integers(0, 2**64 - 1)
chain_numbers = st.integers(0, 2**56 - 1)
step_numbers = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_oracle_gives_the_published_words(counter, key, words):
    assert tuple(oracles.philox4x32(counter, key)) == words


@on_every_device
@given(seed=seeds, chain=chain_numbers, step=step_numbers, n_blocks=st.integers(0, 40))
def test_words_are_those_of_the_oracle(device, seed, chain, step, n_blocks):
    ours = host(random_words(n_blocks, seed=seed, chain=chain, step=step, like=put(0.0, device)))
    np.testing.assert_array_equal(ours, oracles.stream_words(n_blocks, seed, chain, step))


@on_every_device
@given(seed=seeds, chain=chain_numbers, step=step_numbers, count=st.integers(0, 131), dtype=st.sampled_from(DTYPES))
def test_normals_are_those_of_the_oracle(device, seed, chain, step, count, dtype):
    ours = host(standard_normals(count, seed=seed, chain=chain, step=step, dtype=dtype, like=put(0.0, device)))
    truth = oracles.normals(count + count % 2, seed, chain, step, dtype)
    assert ours.dtype == dtype
    assert (np.abs(ours - truth[:count]) <= tolerance(truth, dtype)[:count]).all()


@on_every_device
@given(seed=seeds, short=st.integers(0, 300), more=st.integers(0, 300), dtype=st.sampled_from(DTYPES))
def test_longer_array_starts_with_the_shorter(device, seed, short, more, dtype):
    like = put(0.0, device)
    long = host(standard_normals(short + more, seed=seed, dtype=dtype, like=like))
    np.testing.assert_array_equal(long[:short], host(standard_normals(short, seed=seed, dtype=dtype, like=like)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 16383, 16384, 16385, 100_003])
def test_thread_count_changes_no_bit(dtype, count):
    one = standard_normals(count, seed=5, dtype=dtype, threads=1)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(standard_normals(count, seed=5, dtype=dtype, threads=threads), one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments(dtype):
    n = 4_000_000
    z = standard_normals(n, seed=11, dtype=dtype).astype(np.float64)
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs((z**power).mean() - mean) < 5 * np.sqrt(variance / n), power


@pytest.mark.parametrize("dtype", DTYPES)
def test_kolmogorov_smirnov_of_both_halves_of_a_pair(dtype):
    z = standard_normals(600_000, seed=13, dtype=dtype).astype(np.float64)
    for half in (z[0::2], z[1::2]):
        assert stats.kstest(half, "norm").pvalue > 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_tail_counts(dtype):
    n, parts = 5_000_000, 6
    counts = dict.fromkeys((3.0, 4.0, 5.0), 0)
    for part in range(parts):
        z = np.abs(standard_normals(n, seed=17, step=part, dtype=dtype))
        for bound in counts:
            counts[bound] += int((z > bound).sum())
    for bound, seen in counts.items():
        expected = 2 * stats.norm.sf(bound) * n * parts
        assert abs(seen - expected) < 5 * np.sqrt(expected), (bound, seen, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_streams_are_uncorrelated(dtype):
    n = 200_000
    first = standard_normals(n, seed=1, chain=2, step=3, dtype=dtype).astype(np.float64)
    for other in ({"seed": 2, "chain": 2, "step": 3}, {"seed": 1, "chain": 3, "step": 3}, {"seed": 1, "chain": 2}):
        z = standard_normals(n, dtype=dtype, **other).astype(np.float64)
        assert abs((first * z).mean()) < 5 / np.sqrt(n)
    assert abs((first[1:] * first[:-1]).mean()) < 5 / np.sqrt(n)
    assert abs((first[1:] ** 2 * first[:-1] ** 2).mean() - 1) < 5 * np.sqrt(8 / n)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"seed": 1.0}, TypeError, "seed"),
        ({"seed": 1, "chain": 2**56}, ValueError, "chain"),
        ({"seed": 1, "step": 2**32}, ValueError, "step"),
        ({"seed": 1, "dtype": np.float16}, TypeError, "dtype"),
        ({"seed": 1, "threads": 0}, ValueError, "threads"),
        ({"shape": -1, "seed": 1}, ValueError, "shape"),
    ],
)
def test_bad_arguments_are_named(arguments, error, named):
    with pytest.raises(error, match=named):
        standard_normals(**{"shape": 3, **arguments})
