"""Noise of releases: exact normals, rounded to a grid without an error, from whatever words are given."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import oracles
from expunge._kernels import backend
from expunge.runs import exact_noise
from expunge.runs.exact_noise import grid_exponent, with_exact_noise

LEAST_P = 1e-6


def words_of(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)


def source(words: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return a source that answers the first request with ``words``, and later ones with further words."""
    answers, rest = iter([words]), np.random.default_rng(99)

    def answer(n: int) -> np.ndarray:
        first = next(answers, None)
        return rest.integers(0, 2**32, n, dtype=np.uint32) if first is None else first

    return answer


def ran(words: np.ndarray, theta: np.ndarray, noise_std: float) -> tuple[list[int], int, int]:
    """Return the kernel's cells, the words it used, and why it ended."""
    cells, progress = np.zeros(len(theta), dtype=np.int64), np.zeros(3, dtype=np.int64)
    scale = int(np.ldexp(np.frexp(noise_std)[0], 53))
    backend.core.rounded_normals(words, theta, cells, progress, scale=scale, exponent=grid_exponent(noise_std))
    done, used, ended = progress.tolist()
    return cells[:done].tolist(), used, ended


# --- the kernel and its twin -------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    noise_std=st.floats(1e-250, 1e250),
    sizes=st.lists(st.floats(-320, 12), min_size=1, max_size=8),
)
def test_the_kernel_rounds_as_fractions_do(seed, noise_std, sizes):
    """Parameters from far below the last bit that counts to far above the noise, of both signs."""
    sign = np.random.default_rng(seed).choice([-1.0, 1.0], len(sizes))
    with np.errstate(under="ignore"):
        theta = sign * noise_std * 10.0 ** np.array(sizes)
    words = words_of(seed, 400 * len(sizes))
    cells, used, ended = ran(words, theta, noise_std)
    assert (cells, used) == oracles.rounded_normals(words, theta[: len(cells)], noise_std, grid_exponent(noise_std))
    assert ended == (0 if len(cells) == len(theta) else 2)
    assert len(cells) == len(theta) or abs(theta[len(cells)]) > 2.0**49 * noise_std


@pytest.mark.parametrize("noise_std", [1.0, 0.3, 5e-309, 1e300])
def test_a_thousand_numbers_are_those_of_the_twin(noise_std):
    rng = np.random.default_rng(5)
    theta = rng.standard_normal(1000) * noise_std * 10.0 ** rng.uniform(-20, 5, 1000)
    words = words_of(6, 30_000)
    cells, used, ended = ran(words, theta, noise_std)
    assert ended == 0
    assert (cells, used) == oracles.rounded_normals(words, theta, noise_std, grid_exponent(noise_std))


@pytest.mark.parametrize("n", [0, 1, 7, 18, 40, 200])
def test_words_that_do_not_suffice_end_the_call_behind_the_last_whole_number(n):
    theta = np.linspace(-3, 3, 30)
    cells, used, ended = ran(words_of(1, n), theta, 0.5)
    assert ended == 1
    assert used <= n
    assert (cells, used) == oracles.rounded_normals(words_of(1, 2000), theta[: len(cells)], 0.5, grid_exponent(0.5))
    # The next number takes more words than were left.
    assert oracles.rounded_normals(words_of(1, 2000), theta[: len(cells) + 1], 0.5, grid_exponent(0.5))[1] > n


# Words by which a draw goes on: the whole part is 0 (a first number above 1/2 answers yes, and 2^31 - 1 with
# a larger one after it no); x; its run ends at a larger number; the sign; the second digit of x.
NO, X0, UP, PLUS = [2**31 - 1, 2**32 - 1], 2**30, 2**32 - 1, 0


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("plain", [*NO, X0, UP, PLUS, 5]),
        ("equal digits in exp(-1/2)", [2**31 - 1, 2**31 - 1, 7, 8, X0, UP, PLUS, 5]),
        ("equal digits twice", [2**31 - 1, 2**31 - 1, 7, 7, 1, 2, X0, UP, PLUS, 5]),
        ("equal digits with x", [*NO, X0, X0, 1000, 9, PLUS, 5, 6]),
        ("equal digits with x, below", [*NO, X0, X0, 3, 9, 1, UP, *NO, X0, UP, PLUS, 5]),
        ("a step by x, equal digits", [*NO, X0, 2**29, 0, X0, 4, 9, UP, *NO, X0, UP, PLUS, 5]),
    ],
)
def test_equal_digits_are_told_apart_by_further_ones(case, words):
    """The kernel leaves such numbers to its caller, who goes on from the same words."""
    followed = np.array(words + words_of(3, 300).tolist(), dtype=np.uint32)
    theta = np.array([0.25, -1.5, 2.0])
    expected, used = oracles.rounded_normals(followed, theta, 1.0, -12)
    cells, _, ended = ran(followed, theta, 1.0)
    assert (ended, len(cells)) == ((0, 3) if case == "plain" else (2, 0))
    found = with_exact_noise(theta, noise_std=1.0, words=source(followed))
    assert (found * 4096).tolist() == expected
    assert used < len(followed)


@pytest.mark.parametrize(
    ("digits", "sign", "more", "cell"),
    [
        ((2**31 + 2**19, 0), PLUS, [1, 5], 2049),  # x = 1/2 + 2^-13 and a little: 2048.5 cells and a little
        ((2**31 + 2**19 - 1, 2**32 - 1), PLUS, [2**32 - 1, 5], 2048),
        ((2**31 + 2**19, 0), 1, [0, 0, 9], -2049),
        ((2**31 + 2**19 - 1, 2**32 - 1), 1, [2**32 - 1, 2**32 - 1, 5], -2048),
    ],
)
def test_borders_of_cells_are_decided_from_both_sides(digits, sign, more, cell):
    """A border is the place of one number of the grid or of the next, never of a third."""
    words = np.array([*NO, digits[0], UP, sign, digits[1], *more, *words_of(4, 50).tolist()], dtype=np.uint32)
    expected, _ = oracles.rounded_normals(words, np.zeros(1), 1.0, -12)
    assert expected == [cell]
    cells, _, ended = ran(words, np.zeros(1), 1.0)
    assert cells == expected or ended == 2
    assert with_exact_noise(np.zeros(1), noise_std=1.0, words=source(words)).tolist() == [cell / 4096]


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("theta", [0.0, -0.3712, 41.7, 1e-17])
def test_digits_that_leave_both_sides_of_a_border_possible_are_not_enough(theta, sign):
    """The kernel leaves a fraction that a border lies in, and further digits decide; beside it, it decides itself."""
    noise_std, exponent = 0.3, grid_exponent(0.3)
    cell, way = Fraction(2) ** exponent, Fraction(noise_std) * (-1) ** sign
    border = (math.floor((Fraction(theta) + way / 2) / cell) + Fraction(1, 2)) * cell
    at = (border - Fraction(theta)) / way * 2**64
    below = math.floor(at)
    third = math.floor((at - below) * 2**32)  # the next digit of the border itself
    centre = np.array([theta])
    for digits, last, kernel_decides in (
        (below, third - 1, False),
        (below, third + 1, False),
        (below - 1, 0, True),
        (below + 1, 0, True),
    ):
        words = np.array([*NO, digits >> 32, UP, sign, digits % 2**32, last, 7], dtype=np.uint32)
        expected, _ = oracles.rounded_normals(words, centre, noise_std, exponent)
        beyond = (digits, last) > (below, third)  # the fraction is, and with its sign the sum is above the border
        assert expected[0] == math.floor(border / cell) + (beyond != bool(sign))
        cells, _, ended = ran(words, centre, noise_std)
        assert (cells, ended) == ((expected, 0) if kernel_decides else ([], 2))
        found = with_exact_noise(centre, noise_std=noise_std, words=source(words))
        assert found.tolist() == [float(expected[0] * cell)]


def test_words_that_favour_the_first_numbers_are_drawn_again():
    """6 does not divide 2^32: with k = 2 the last four words are no answers."""
    yes = 2**31
    start = [yes, yes, *NO, yes, yes, X0, 2**29]
    for word in range(2**32 - 6, 2**32):
        words = np.array([*start, word, 8, UP, *words_of(9, 300).tolist()], dtype=np.uint32)
        cells, used, _ = ran(words, np.zeros(2), 1.0)
        assert (cells, used) == oracles.rounded_normals(words, np.zeros(2), 1.0, -12)


def test_words_left_over_are_used_before_new_ones():
    """Thrown away, they would favour numbers that take few words: the joined source decides all."""
    words = words_of(8, 4000)
    theta = np.zeros(100)
    whole = (with_exact_noise(theta, noise_std=1.0, words=source(words)) * 4096).tolist()
    for size in (1, 3, 50):
        pieces = iter([words[i : i + size] for i in range(0, len(words), size)])
        assert (
            with_exact_noise(theta, noise_std=1.0, words=lambda n, pieces=pieces: next(pieces)) * 4096
        ).tolist() == whole


# --- the law -----------------------------------------------------------------------------------


def drawn(n: int, *, noise_std: float, seed: int, theta: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    words = lambda count: rng.integers(0, 2**32, count, dtype=np.uint32)  # noqa: E731
    return with_exact_noise(np.full(n, theta), noise_std=noise_std, words=words)


@pytest.mark.parametrize(("noise_std", "theta"), [(1.0, 0.0), (0.7, 3.0), (1e-8, 1.25)])
def test_cells_have_the_chances_of_a_rounded_normal(noise_std, theta):
    """Chi-square over cells of the grid itself near the middle, and over hundredths of a deviation everywhere."""
    n = 1_000_000
    step = 2.0 ** grid_exponent(noise_std)
    values = drawn(n, noise_std=noise_std, seed=11, theta=theta)
    cells = np.rint(values / step).astype(np.int64)
    assert np.array_equal(cells * step, values)
    centre = round(theta / step)
    for width, most in ((1, 200), (41, 400)):
        edges = centre + width * np.arange(-most, most + 1) - width // 2
        chances = np.diff(special.ndtr(((edges - 0.5) * step - theta) / noise_std))
        counts = np.histogram(cells, np.append(edges[:-1], edges[-1]) - 0.5)[0]
        kept = n * chances > 10
        counts, chances = counts[kept], chances[kept]
        counts, chances = np.append(counts, n - counts.sum()), np.append(chances, 1 - chances.sum())
        assert stats.chisquare(counts, n * chances).pvalue > LEAST_P
    # Rounding moves the distribution function by half a cell at most, 1e-4 of a deviation: far below 1/sqrt(n).
    assert stats.kstest((values - theta) / noise_std, "norm").pvalue > LEAST_P


def test_the_slow_way_draws_the_same_law():
    """Numbers that equal digits lead to are drawn by other code: all of them, by themselves."""
    rng = np.random.default_rng(12)
    stream = exact_noise._Source(np.zeros(0, dtype=np.uint32), lambda n: rng.integers(0, 2**32, n, dtype=np.uint32))
    values = [exact_noise._rounded(0.0, 1.0, -12, stream) / 4096 for _ in range(20_000)]
    assert stats.kstest(values, "norm").pvalue > LEAST_P


def test_one_number_out_of_many_is_favoured_by_none():
    """3 does not divide 2^32: words of the last, shorter stretch are drawn again."""
    answers = iter([2**32 - 1, 2**32 - 2, 6])
    stream = exact_noise._Source(np.zeros(0, dtype=np.uint32), lambda n: np.array([next(answers)], dtype=np.uint32))
    assert stream.one_of(3) == 2  # of the second: 2^32 - 1 would begin a stretch
    assert stream.one_of(3) == 0
    wide = iter([1, 7])
    stream = exact_noise._Source(np.zeros(0, dtype=np.uint32), lambda n: np.array([next(wide)], dtype=np.uint32))
    assert stream.one_of(2**40) == 2**32 + 7


def test_signs_and_neighbours_are_independent():
    values = drawn(400_000, noise_std=1.0, seed=13)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / math.sqrt(len(values))
    assert abs(np.sign(values).mean()) < 5 / math.sqrt(len(values))
    assert abs(np.corrcoef(np.abs(values[:-1]), np.abs(values[1:]))[0, 1]) < 5 / math.sqrt(len(values))


# --- releases ----------------------------------------------------------------------------------


def test_noise_is_of_the_operating_system_and_fresh(monkeypatch):
    asked = []
    real = exact_noise.os.urandom
    monkeypatch.setattr(exact_noise.os, "urandom", lambda size: asked.append(size) or real(size))
    one, other = (with_exact_noise(np.zeros((3, 50)), noise_std=1.0) for _ in range(2))
    assert one.shape == (3, 50)
    assert not np.array_equal(one, other)
    assert sum(asked) >= 2 * 4 * 150


def test_no_float_is_computed_between_words_and_cells():
    """The kernels' sources have integers alone; parameters come in, and normals go out, by their bits."""
    folder = Path(__file__).parents[1] / "csrc" / "noise"
    for name, doubles in (("noise_math.hpp", 0), ("noise.cpp", 1), ("pairs.cpp", 4)):
        code = "\n".join(line.split("//")[0] for line in (folder / name).read_text().splitlines())
        assert len(re.findall(r"\bdouble\b", code)) == doubles  # never cast to, and no other variable
        assert not re.search(r"\bfloat\b|<double>", code)


@pytest.mark.parametrize(
    ("theta", "noise_std", "match"),
    [
        (np.nan, 1.0, "theta must be finite"),
        (np.inf, 1.0, "theta must be finite"),
        (0.0, 1e-321, "noise_std must be at least"),
        (1e13, 1.0, r"noise_std must be at least 9.*beside parameters"),
        (1e300, 1.0, r"noise_std must be at least 9.*beside parameters"),
        (1e300, 1e-300, r"noise_std must be at least 9.*beside parameters"),
        (-1.7e308, 1.0, "noise_std must be at least"),
    ],
)
def test_what_float64_does_not_hold_is_refused(theta, noise_std, match):
    with pytest.raises(ValueError, match=match):
        with_exact_noise(np.full((1, 1), theta), noise_std=noise_std)


def test_noise_beyond_float64_is_refused():
    with pytest.raises(ValueError, match="noise_std must be smaller"):
        with_exact_noise(np.full(50, 1.7e308), noise_std=1e307)


def test_refusals_follow_from_the_release_alone():
    """A parameter at the limit is released or refused by its noise: the limit is one of 2^53 cells for the sum."""
    limit = 2.0**53 * 2.0**-12

    def released(seed):
        try:
            return drawn(1, noise_std=1.0, seed=seed, theta=limit)[0]
        except ValueError:
            return None

    found = [released(seed) for seed in range(40)]
    assert None in found
    assert all(value is None or value <= limit for value in found)
    assert len(set(found)) > 10


@pytest.mark.parametrize("noise_std", [1.0, 0.1, 1e-9, 2.0**-1062, 5e-320 * 2**13, 1e200])
def test_releases_lie_on_the_grid(noise_std):
    values = with_exact_noise(np.linspace(-5, 5, 60).reshape(3, 20) * noise_std, noise_std=noise_std)
    exponent = grid_exponent(noise_std)
    assert noise_std / 8192 < 2.0**exponent <= noise_std / 4096
    cells = np.ldexp(values, -exponent)
    assert np.array_equal(np.rint(cells), cells)
    assert np.abs(values).max() < 14 * noise_std


# --- the boundary ------------------------------------------------------------------------------


GOOD = {
    "words": np.zeros(9, dtype=np.uint32),
    "theta": np.zeros(2),
    "cells": np.zeros(2, dtype=np.int64),
    "progress": np.zeros(3, dtype=np.int64),
}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"words": np.zeros(9, dtype=np.int64)}, TypeError, "words must have dtype uint32"),
        ({"words": np.zeros((3, 3), dtype=np.uint32)}, ValueError, "words must have"),
        ({"theta": np.zeros(2, dtype=np.float32)}, TypeError, "theta must have dtype float64"),
        ({"theta": np.zeros(4)[::2]}, ValueError, "theta must be C-contiguous"),
        ({"cells": np.zeros(3, dtype=np.int64)}, ValueError, "cells must have length 2"),
        ({"cells": np.zeros(2)}, TypeError, "cells must have dtype int64"),
        ({"progress": np.zeros(2, dtype=np.int64)}, ValueError, "progress must have length 3"),
        ({"scale": 2**52 - 1}, ValueError, "scale must be from 2.52"),
        ({"scale": 2**53}, ValueError, "scale must be from 2.52"),
        ({"scale": 2.0**52}, TypeError, "scale must be an integer"),
        ({"exponent": -1075}, ValueError, "exponent must be from -1074"),
        ({"exponent": 1024}, ValueError, "exponent must be from -1074"),
    ],
)
def test_memory_and_numbers_that_do_not_fit_are_refused(changes, error, match):
    given = {**GOOD, "scale": 2**52, "exponent": -12, **changes}
    settings = {name: given.pop(name) for name in ("scale", "exponent")}
    with pytest.raises(error, match=match):
        backend.core.rounded_normals(*given.values(), **settings)


def test_outputs_that_share_memory_are_refused():
    shared = np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="memory"):
        backend.core.rounded_normals(GOOD["words"], np.zeros(3), shared, shared, scale=2**52, exponent=-12)
