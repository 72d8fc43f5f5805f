"""Exact standard normals as pairs of float64 numbers, from whatever words are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import oracles
from expunge._kernels import backend
from expunge.runs import exact_noise
from expunge.runs.exact_noise import exact_normals, grid_exponent, with_exact_noise
from test_noise import LEAST_P, NO, PLUS, UP, X0, source, words_of

ERROR = Fraction(1, 2**97)
YES = 2**31  # a first number that answers a question of chance exp(-1/2) with yes


def ran(words: np.ndarray, n: int) -> tuple[list[tuple[float, float]], int, int]:
    """Return the kernel's pairs, the words it used, and why it ended."""
    hi, lo, progress = np.zeros(n), np.zeros(n), np.zeros(3, dtype=np.int64)
    backend.core.exact_normals(words, hi, lo, progress)
    done, used, ended = progress.tolist()
    return list(zip(hi[:done].tolist(), lo[:done].tolist(), strict=True)), used, ended


def given_words(k: int, digits: tuple[int, ...], sign: int = PLUS) -> np.ndarray:
    """Return words of the normal with this whole part and these digits of its fraction, and further ones."""
    start = [YES] * k + NO + [YES] * (k * (k - 1)) + [digits[0]] + [UP] * (k + 1) + [sign]
    return np.array([*start, *digits[1:], *words_of(7, 20).tolist()], dtype=np.uint32)


def checked(words: np.ndarray) -> tuple[float, float, list[int]]:
    """Return the pair that comes of words, and why the kernel ended; it is that of the twin, and as near as it says."""
    found, _, ended = ran(words, 1)
    pairs, ((least, most),), _ = oracles.exact_normals(words, 1)
    hi, lo = exact_normals(1, words=source(words))
    assert [(hi[0], lo[0])] == pairs
    assert found == (pairs if ended == 0 else [])
    middle = Fraction(float(hi[0])) + Fraction(float(lo[0]))
    assert max(middle - least, most - middle) <= ERROR
    assert oracles.nearest_float64(least) == oracles.nearest_float64(most) == hi[0]
    return float(hi[0]), float(lo[0]), ended


# --- the kernel and its twin -------------------------------------------------------------------


def test_thousands_of_numbers_are_those_of_the_twin():
    words = words_of(1, 80_000)
    found, used, ended = ran(words, 3000)
    pairs, enclosures, expected_used = oracles.exact_normals(words, 3000)
    assert (found, used, ended) == (pairs, expected_used, 0)
    for (hi, lo), (least, most) in zip(found, enclosures, strict=True):
        middle = Fraction(hi) + Fraction(lo)
        assert most - least == 2 * ERROR
        assert middle == (least + most) / 2
        assert oracles.nearest_float64(middle) == hi
        assert abs(lo) <= math.ulp(hi) / 2


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 10**9),
    size=st.floats(-20, 12),
    noise_std=st.floats(1e-200, 1e200),
)
def test_the_same_words_are_the_same_normal_as_that_of_a_release(seed, size, noise_std):
    """Rounding theta + noise_std (hi + lo) leads to the released cell wherever the error cannot matter."""
    words, theta = words_of(seed, 1000), float(noise_std * 10.0**size)
    released = with_exact_noise(np.array([theta]), noise_std=noise_std, words=source(words))
    hi, lo = exact_normals(1, words=source(words))
    cell = Fraction(2) ** grid_exponent(noise_std)
    at = (Fraction(theta) + Fraction(noise_std) * (Fraction(float(hi[0])) + Fraction(float(lo[0])))) / cell
    off = Fraction(noise_std) * ERROR / cell
    around = {math.floor(at + by + Fraction(1, 2)) for by in (-off, off)}
    assert Fraction(float(released[0])) / cell in around
    assert len(around) == 1 or abs(at % 1 - Fraction(1, 2)) <= off


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 10**9),
    size=st.floats(-20, 11.5),
    share=st.floats(-0.49, 0.49),
    noise_std=st.floats(1e-200, 1e200),
)
def test_a_release_of_a_sum_counts_both_numbers(seed, size, share, noise_std):
    """Rounding theta + rest + noise_std (hi + lo) leads to the released cell wherever the error cannot matter."""
    words, theta = words_of(seed, 1000), float(noise_std * 10.0**size)
    rest = share * math.ulp(theta)
    released = with_exact_noise(np.array([theta]), rest=np.array([rest]), noise_std=noise_std, words=source(words))
    hi, lo = exact_normals(1, words=source(words))
    cell = Fraction(2) ** grid_exponent(noise_std)
    normal = Fraction(float(hi[0])) + Fraction(float(lo[0]))
    at = (Fraction(theta) + Fraction(rest) + Fraction(noise_std) * normal) / cell
    off = Fraction(noise_std) * ERROR / cell + Fraction(2) ** -53
    around = {math.floor(at + by + Fraction(1, 2)) for by in (-off, off)}
    assert Fraction(float(released[0])) / cell in around
    assert len(around) == 1 or abs(at % 1 - Fraction(1, 2)) <= off


def test_the_rest_of_a_sum_is_seen_where_parameters_are_large():
    theta, rest = np.full(500, 1e11), np.full(500, 0.4 * math.ulp(1e11))  # 0.05 multiples of the grid
    words = words_of(3, 20_000)
    alone = with_exact_noise(theta, noise_std=1.0, words=source(words))
    same = with_exact_noise(theta, rest=0.0 * rest, noise_std=1.0, words=source(words))
    moved = with_exact_noise(theta, rest=rest, noise_std=1.0, words=source(words))
    np.testing.assert_array_equal(alone, same)
    assert {0.0, 2.0**-12} == set((moved - alone).tolist())


@pytest.mark.parametrize(
    ("theta", "rest", "said"),
    [
        ([1.0], [0.0, 0.0], "rest must have the shape of theta"),
        ([1.0], [math.nan], "rest must be finite"),
        ([1.0], [1e-15], "rest must be what theta was rounded by"),
        ([0.0], [1e-30], "rest must be what theta was rounded by"),
        ([math.inf], [0.0], "theta must be finite"),
        ([1e300], [0.0], "noise_std must be at least"),
        ([2.0**42], [0.0], "noise_std must be at least"),
    ],
)
def test_sums_that_cannot_be_released_are_refused(theta, rest, said):
    with pytest.raises(ValueError, match=said):
        with_exact_noise(np.array(theta), rest=np.array(rest), noise_std=1.0)


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 7, 8, 31, 255])
def test_every_whole_part_fits_two_numbers(k, sign):
    for digits in ((X0, 0, 0), (X0, 2**32 - 1, 2**32 - 1), (2**32 - 9, 17, 5), (3, 2**31, 12345)):
        hi, _, ended = checked(given_words(k, digits, sign))
        assert ended == 0 or digits == (X0, 0, 0)
        assert k <= abs(hi) <= k + 1
        assert math.copysign(1, hi) == (-1 if sign else 1)


@pytest.mark.parametrize("k", [256, 300])
def test_whole_parts_that_the_kernel_leaves_are_as_near(k):
    """The chance of one is below 2^-47000; the words are chosen."""
    hi, _, ended = checked(given_words(k, (X0, 1, 2, 3)))
    assert ended == 2
    assert math.floor(hi) == k


@pytest.mark.parametrize("third", [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
@pytest.mark.parametrize("k", [0, 1, 5, 200])
def test_borders_between_float64_numbers_are_decided_by_further_digits(k, third):
    """The border above the float64 k + 1/2 and that below, and digits on either side of each."""
    half_ulp = Fraction(math.ulp(k + 0.5)) / 2
    hard = 0
    for border in (Fraction(1, 2) + half_ulp, Fraction(1, 2) + 3 * half_ulp):
        for off in (-2, -1, 0, 1):
            all_digits = int(border * 2**96) + off
            digits = tuple(all_digits >> shift & (2**32 - 1) for shift in (64, 32, 0))
            hi, lo, ended = checked(
                np.insert(given_words(k, digits)[:-20], len(given_words(k, digits)) - 20, [third, 9])
            )
            hard += ended == 2
            # The last float64 below the border, or the first above.
            assert (hi > k + border) == (off >= 0)
            assert abs(abs(Fraction(lo)) - half_ulp) < Fraction(1, 2**90)
    assert hard == 4


@pytest.mark.parametrize("digits", [(0, 5, 6, 7), (0, 0, 5, 6, 7), (0, 0, 0, 0, 5, 6, 7), (1, 0, 0, 2**31)])
def test_numbers_next_to_zero_have_all_their_digits(digits):
    """The pair's error is absolute, yet hi is the nearest float64 of any size."""
    words = np.array([*NO, digits[0], UP, PLUS, *digits[1:], *words_of(7, 20).tolist()], dtype=np.uint32)
    hi, _, _ = checked(words)
    exact = sum(Fraction(digit, 2 ** (32 * i)) for i, digit in enumerate(digits, 1))
    assert abs(Fraction(hi) - exact) <= exact / 2**50


@pytest.mark.parametrize(
    "words",
    [
        [2**31 - 1, 2**31 - 1, 7, 8, X0, UP, PLUS, 5, 6],  # in exp(-1/2)
        [*NO, X0, X0, 1000, 9, PLUS, 5, 6],  # with x, whose second digit is 1000 or 9
        [*NO, X0, X0, 3, 3, 3, 4, 9, 9, PLUS, 5, 6],
        [*NO, X0, 2**29, 0, X0, 4, 9, UP, *NO, X0, UP, PLUS, 5, 6],  # in a step by x
    ],
)
def test_equal_digits_are_told_apart_by_further_ones(words):
    followed = np.array(words + words_of(3, 300).tolist(), dtype=np.uint32)
    assert checked(followed)[2] == 2
    hi, lo = exact_normals(4, words=source(followed))
    assert list(zip(hi, lo, strict=True)) == oracles.exact_normals(followed, 4)[0]


@pytest.mark.parametrize("n", [0, 1, 7, 18, 40, 200])
def test_words_that_do_not_suffice_end_the_call_behind_the_last_whole_number(n):
    found, used, ended = ran(words_of(1, n), 30)
    assert ended == 1
    assert used <= n
    assert (found, used) == oracles.exact_normals(words_of(1, 2000), len(found))[::2]
    # The next number takes more words than were left.
    assert oracles.exact_normals(words_of(1, 2000), len(found) + 1)[2] > n


def test_words_left_over_are_used_before_new_ones(monkeypatch):
    """In pieces, in chunks or at once: the joined words decide all."""
    words = words_of(8, 6000)
    expected = oracles.exact_normals(words, 200)[0]

    def pieces(size: int) -> Callable[[int], np.ndarray]:
        given = iter([words[i : i + size] for i in range(0, len(words), size)])
        return lambda n: next(given)

    for size in (1, 3, 50, 6000):
        assert list(zip(*exact_normals(200, words=pieces(size)), strict=True)) == expected
    asked = []
    monkeypatch.setattr(exact_noise, "_CHUNK", 16)
    given = iter(words)
    hi, lo = exact_normals(200, words=lambda n: asked.append(n) or np.fromiter(given, dtype=np.uint32, count=n))
    assert list(zip(hi, lo, strict=True)) == expected
    assert max(asked) == 16 * 21 + 64
    assert len(asked) > 8


# --- the law -----------------------------------------------------------------------------------


def drawn(n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return exact_normals(n, words=lambda count: rng.integers(0, 2**32, count, dtype=np.uint32))


def test_numbers_have_the_chances_of_a_normal():
    hi, _ = drawn(1_000_000, seed=11)
    assert stats.kstest(hi, "norm").pvalue > LEAST_P
    edges = np.linspace(-5, 5, 1001)
    chances = np.diff(special.ndtr(edges))
    counts = np.histogram(hi, edges)[0]
    kept = len(hi) * chances > 10
    counts = np.append(counts[kept], len(hi) - counts[kept].sum())
    chances = np.append(chances[kept], 1 - chances[kept].sum())
    assert stats.chisquare(counts, len(hi) * chances).pvalue > LEAST_P


def test_what_is_left_is_uniform():
    """Between neighbours of float64 a normal is: lo of all sizes, independent of hi and of its last bit."""
    hi, lo = drawn(400_000, seed=12)
    left = lo / np.spacing(np.abs(hi)) + 0.5
    assert stats.kstest(left, "uniform").pvalue > LEAST_P
    even = np.frombuffer(hi.tobytes(), dtype=np.uint64) % 2 == 0
    assert stats.binomtest(int(even.sum()), len(hi), 0.5).pvalue > LEAST_P
    assert stats.kstest(left[even], "uniform").pvalue > LEAST_P
    assert abs(np.corrcoef(left, hi)[0, 1]) < 5 / math.sqrt(len(hi))


def test_the_slow_way_draws_the_same_law():
    rng = np.random.default_rng(13)
    stream = exact_noise._Source(np.zeros(0, dtype=np.uint32), lambda n: rng.integers(0, 2**32, n, dtype=np.uint32))
    pairs = np.array([exact_noise._pair(stream) for _ in range(10_000)])
    assert stats.kstest(pairs[:, 0], "norm").pvalue > LEAST_P
    assert stats.kstest(pairs[:, 1] / np.spacing(np.abs(pairs[:, 0])) + 0.5, "uniform").pvalue > LEAST_P


def test_neighbours_are_independent():
    hi, _ = drawn(400_000, seed=14)
    for values in (hi, np.abs(hi)):
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / math.sqrt(len(values))


# --- the call ----------------------------------------------------------------------------------


def test_words_are_of_the_operating_system_and_fresh(monkeypatch):
    asked = []
    real = exact_noise.os.urandom
    monkeypatch.setattr(exact_noise.os, "urandom", lambda size: asked.append(size) or real(size))
    one, other = (exact_normals(50)[0] for _ in range(2))
    assert len(np.intersect1d(one, other)) == 0
    assert sum(asked) >= 2 * 4 * 19 * 50


def test_many_numbers_show_how_far_they_are(monkeypatch, capsys):
    """The bar counts up to all of them, and changes none."""
    words = words_of(9, 40 * 50)
    expected = oracles.exact_normals(words, 50)[0]
    seen = []
    from tqdm.auto import tqdm

    real = tqdm.update
    monkeypatch.setattr(tqdm, "update", lambda self, by: seen.append(by) or real(self, by))
    monkeypatch.setattr(exact_noise, "_MANY", 50)
    monkeypatch.setattr(exact_noise, "_CHUNK", 7)
    given = iter(words)
    hi, lo = exact_normals(50, words=lambda n: np.fromiter(given, dtype=np.uint32, count=n))
    assert list(zip(hi, lo, strict=True)) == expected
    assert sum(seen) == 50
    assert len(seen) > 3


def test_none_and_numbers_that_are_none():
    hi, lo = exact_normals(0)
    assert hi.shape == lo.shape == (0,)
    for bad in (-1, 2.5, "3"):
        with pytest.raises((ValueError, TypeError), match="n must be"):
            exact_normals(bad)


GOOD = {
    "words": np.zeros(9, dtype=np.uint32),
    "hi": np.zeros(2),
    "lo": np.zeros(2),
    "progress": np.zeros(3, dtype=np.int64),
}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"words": np.zeros(9, dtype=np.int64)}, TypeError, "words must have dtype uint32"),
        ({"words": np.zeros((3, 3), dtype=np.uint32)}, ValueError, "words must have"),
        ({"hi": np.zeros(2, dtype=np.float32)}, TypeError, "hi must have dtype float64"),
        ({"hi": np.zeros(4)[::2]}, ValueError, "hi must be C-contiguous"),
        ({"lo": np.zeros(3)}, ValueError, "lo must have length 2"),
        ({"lo": np.zeros(2, dtype=np.int64)}, TypeError, "lo must have dtype float64"),
        ({"progress": np.zeros(2, dtype=np.int64)}, ValueError, "progress must have length 3"),
    ],
)
def test_memory_that_does_not_fit_is_refused(changes, error, match):
    with pytest.raises(error, match=match):
        backend.core.exact_normals(*{**GOOD, **changes}.values())


def test_outputs_that_share_memory_are_refused():
    shared = np.zeros(2)
    with pytest.raises(ValueError, match="memory"):
        backend.core.exact_normals(GOOD["words"], shared, shared, GOOD["progress"])
