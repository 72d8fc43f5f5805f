"""Noise without an error: parameters with Gaussian noise, rounded to a grid exactly, and exact normals by themselves.

The first make a release that is the theorem's, as the program that ran. The multiple of the grid next to ``theta +
noise_std Z`` is found from random words by comparisons and integers alone, so its law is that of an exact normal Z,
rounded: whatever holds for the one holds for the other. Steps of a chain need Z itself, which the same algorithm
delivers as two float64 numbers. The compiled kernels do what the first digits decide; what they do not is drawn here,
from the same words and with as many digits as it takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge._kernels import backend

__all__ = ["CELLS", "MOST_CELLS", "Words", "exact_normals", "grid_exponent", "os_words", "with_exact_noise"]

Array = NDArray[np.float64]
Words = NDArray[np.uint32]

MOST_CELLS = 2**53  # every whole number up to here is a float64
CELLS = 12  # binary digits of the grid's cells to a standard deviation, which is 2^12 to 2^13 of them
_DIGIT = 32  # bits of a word
_LEAST_EXPONENT = -1074  # of float64
_HARD = 2
_WORDS_OF_ONE = 20  # on average 18.5
_WORDS_OF_PAIR = 21  # one more
_CHUNK = 1 << 14  # normals whose words are drawn at once, and stay in a cache
_MANY = 1 << 23  # normals that take seconds


def os_words(n: int) -> Words:
    """Return random words of 32 bits from the operating system; nothing is kept to draw them again from."""
    return np.frombuffer(os.urandom(4 * n), dtype=np.uint32)


def grid_exponent(noise_std: float) -> int:
    """Return the exponent of the power of two that releases with such noise are multiples of.

    Raises
    ------
    ValueError
        If the noise is so small that float64 has no such grid.

    Examples
    --------
    >>> grid_exponent(1.0), grid_exponent(0.01)
    (-12, -19)
    """
    exponent = int(np.frexp(float(noise_std))[1]) - 1 - CELLS
    if exponent < _LEAST_EXPONENT:
        raise ValueError(f"noise_std must be at least {2.0 ** (_LEAST_EXPONENT + CELLS)!r}, got {noise_std!r}")
    return exponent


def with_exact_noise(
    theta: Array, *, noise_std: float, rest: Array | None = None, words: Callable[[int], Words] = os_words
) -> Array:
    """Return parameters with exact Gaussian noise, rounded to the nearest multiples of a grid.

    Parameters
    ----------
    theta : ndarray of float64, any shape
        Parameters without noise; every one counts as the number it is.
    noise_std : float
        Standard deviation of the noise, > 0.
    rest : ndarray of float64, shape of theta, optional
        What each parameter was rounded by: adding it changes none of them. What counts as the parameter then is within
        2^-53 multiples of the grid, and twice the smallest normal number, of the sum.
    words : callable, default os_words
        Returns so many independent, uniform words of 32 bits.

    Returns
    -------
    ndarray of float64, shape of theta
        Multiples of a power of two between ``noise_std / 8192`` and ``noise_std / 4096``: each that next to ``theta +
        noise_std Z``, with its probability for an exact standard normal Z, independent of the others.

    Raises
    ------
    ValueError
        If a parameter is not finite, or ``rest`` more than its rounding; if float64 does not hold so little noise, or
        not beside so large parameters. The last follows from what would have been released, and tells no more than
        that.

    Notes
    -----
    C. Karney, *Sampling exactly from the normal distribution*, ACM TOMS 42 (2016), algorithm N, on digits of 32 bits.
    Rounding is decided by intervals of integers; both ends have to agree. ``docs/guarantees.md`` has what follows.
    How many words are drawn, and so the time, depends on the noise, but for chances below 2^-28 a number not on theta.

    Examples
    --------
    >>> import numpy as np
    >>> noisy = with_exact_noise(np.full((2, 3), 1 / 3), noise_std=0.25)
    >>> noisy.shape, bool((noisy * 2**14 == np.rint(noisy * 2**14)).all())
    ((2, 3), True)
    """
    if rest is not None:
        return _with_rest(theta, rest, noise_std, words)
    exponent = grid_exponent(noise_std)
    centres = np.ascontiguousarray(_validate.real_array("theta", theta)).ravel()
    scale = int(np.ldexp(np.frexp(float(noise_std))[0], 53))
    cells = np.empty(centres.size, dtype=np.int64)
    progress = np.zeros(3, dtype=np.int64)
    at_once = _WORDS_OF_ONE, centres.size

    def run(drawn: Words, done: int) -> None:
        backend.HOST.run(
            "rounded_normals", drawn, centres[done:], cells[done:], progress, scale=scale, exponent=exponent
        )

    def draw(source: _Source, i: int) -> None:
        number = _rounded(float(centres[i]), noise_std, exponent, source)
        if abs(number) > MOST_CELLS:
            _refuse(number, exponent, noise_std)
        cells[i] = number

    for _ in _filled(centres.size, progress, words, at_once, run, draw):
        pass
    largest = max(int(cells.max(initial=0)), -int(cells.min(initial=0)))
    if largest > MOST_CELLS:
        _refuse(largest, exponent, noise_std)
    with np.errstate(over="ignore"):
        released = np.ldexp(cells.astype(np.float64), exponent).reshape(np.shape(theta))
    if not np.isfinite(released).all():
        raise ValueError(f"noise_std must be smaller for float64 to hold parameters with it, got {noise_std!r}")
    return released


def _with_rest(theta: Array, rest: Array, noise_std: float, words: Callable[[int], Words]) -> Array:
    """Return the release of a sum: of its distance to the nearest multiple, which is exact but for the rest."""
    exponent = grid_exponent(noise_std)
    theta, rest = _validate.real_array("theta", theta), _validate.real_array("rest", rest)
    if theta.shape != rest.shape:
        raise ValueError(f"rest must have the shape of theta, {theta.shape}, got {rest.shape}")
    if not np.array_equal(theta + rest, theta):
        raise ValueError("rest must be what theta was rounded by: it changes theta when added")
    with np.errstate(over="ignore", under="ignore"):
        base = np.rint(np.ldexp(theta, -exponent))
        near = theta - np.where(np.isfinite(base), np.ldexp(base, exponent), theta)
        moved = with_exact_noise(near + rest, noise_std=noise_std, words=words)
        cells = base + np.ldexp(moved, -exponent)
    largest = float(np.abs(cells).max(initial=0.0))
    if not largest < MOST_CELLS:  # the sum may have been rounded to it
        _refuse(int(min(largest, np.finfo(np.float64).max)), exponent, noise_std)
    with np.errstate(over="ignore"):
        released: Array = np.ldexp(cells, exponent)
    if not np.isfinite(released).all():
        raise ValueError(f"noise_std must be smaller for float64 to hold parameters with it, got {noise_std!r}")
    return released


def exact_normals(n: int, *, words: Callable[[int], Words] = os_words) -> tuple[Array, Array]:
    """Return independent, exact standard normals, each as the sum of two float64 numbers.

    Parameters
    ----------
    n : int
        How many, at least 0.
    words : callable, default os_words
        Returns so many independent, uniform words of 32 bits. They are used in their order; those that are left over
        go on to the next number, and what is left behind the last one is not kept.

    Returns
    -------
    hi : ndarray of float64, shape (n,)
        The float64 nearest to each standard normal Z: exactly Z rounded, as a law too.
    lo : ndarray of float64, shape (n,)
        What is left of Z: ``|Z - (hi + lo)| <= 2**-97``, and hi is the float64 nearest to the sum of the two.

    Raises
    ------
    ValueError
        If n is negative.

    Notes
    -----
    C. Karney, *Sampling exactly from the normal distribution*, ACM TOMS 42 (2016), algorithm N, on digits of 32 bits.
    Of Z's fraction three digits are looked at, which leave an interval of 2^-96; hi + lo is its middle, without an
    error. Both ends of the interval have to have the same nearest float64; if not, a chance of 2^-40 or so, or if the
    comparisons that made Z looked at more digits, the interval is that of as many as it takes, and lo is rounded as
    well, by less than 2^-98. (The bound would be ``2**-106 * abs(Z)`` beyond 512, where Z is with a chance below
    2^-180000.)

    Examples
    --------
    >>> import numpy as np
    >>> hi, lo = exact_normals(1000)
    >>> hi.shape, bool((hi + lo == hi).all()), bool((np.abs(lo) <= np.spacing(np.abs(hi)) / 2).all())
    ((1000,), True, True)
    """
    n = _validate.count("n", n)
    hi, lo, progress = np.empty(n), np.empty(n), np.zeros(3, dtype=np.int64)

    def run(drawn: Words, done: int) -> None:
        backend.HOST.run("exact_normals", drawn, hi[done:], lo[done:], progress)

    def draw(source: _Source, i: int) -> None:
        hi[i], lo[i] = _pair(source)

    filled = _filled(n, progress, words, (_WORDS_OF_PAIR, _CHUNK), run, draw)
    if n >= _MANY:
        _watch(filled, n)
    else:
        for _ in filled:
            pass
    return hi, lo


def _filled(
    n: int,
    progress: NDArray[np.int64],
    words: Callable[[int], Words],
    at_once: tuple[int, int],
    run: Callable[[Words, int], None],
    draw: Callable[[_Source, int], None],
) -> Iterator[int]:
    """Make n numbers by a kernel, ``run(words, done)``, and by ``draw(source, i)`` where it ends; yield how many are.

    ``at_once`` says how many words a number takes, and for how many numbers they are drawn together.
    """
    of_one, together = at_once
    drawn, at, done = words(of_one * min(n, together) + 64), 0, 0
    while done < n:
        run(drawn[at:], done)
        numbers, used, ended = progress.tolist()
        done, at = done + numbers, at + used
        yield done
        if done == n:
            break
        if ended == _HARD:
            source = _Source(drawn[at:], words)
            draw(source, done)
            drawn, at, done = source.rest(), 0, done + 1
        else:
            # What is left belongs to the next number: to throw it away would favour those that take few words.
            drawn, at = np.concatenate([drawn[at:], words(of_one * min(n - done, together) + 64)]), 0


def _watch(filled: Iterator[int], n: int) -> None:
    from tqdm.auto import tqdm  # runs are read and checked without progress bars

    with tqdm(total=n, desc="normals", unit="number", unit_scale=True, delay=1, disable=None, leave=False) as bar:
        shown = 0
        for done in filled:
            bar.update(done - shown)
            shown = done


def _refuse(number: int, exponent: int, noise_std: float) -> None:
    least = Fraction(abs(number)) * Fraction(2) ** (exponent + CELLS + 1) / MOST_CELLS
    needed = f"{1.01 * float(least):.3g}" if least < Fraction(1e308) else "1e308"
    raise ValueError(
        f"noise_std must be at least {needed} for float64 to hold it beside parameters of these data, got {noise_std!r}"
    )


class _Source:
    """Random words one by one; new ones are drawn where these do not suffice."""

    def __init__(self, words: Words, draw: Callable[[int], Words]) -> None:
        self._words, self._draw, self._at = words, draw, 0

    def next(self) -> int:
        if self._at == len(self._words):
            self._words, self._at = self._draw(64), 0
        self._at += 1
        return int(self._words[self._at - 1])

    def rest(self) -> Words:
        return self._words[self._at :]

    def one_of(self, m: int) -> int:
        """Return one of 0, ..., m - 1, each with the same chance."""
        while True:
            word, words = self.next(), 2**_DIGIT
            while words < m:
                word, words = word << _DIGIT | self.next(), words << _DIGIT
            if word < words - words % m:
                return word % m


class _Uniform:
    """A number from (0, 1): the digits that were looked at so far."""

    def __init__(self, source: _Source) -> None:
        self._source, self.digits = source, [source.next()]

    def digit(self, i: int) -> int:
        while len(self.digits) <= i:
            self.digits.append(self._source.next())
        return self.digits[i]

    def below(self, other: _Uniform) -> bool:
        i = 0
        while self.digit(i) == other.digit(i):
            i += 1
        return self.digit(i) < other.digit(i)


def _falls(source: _Source, last: _Uniform, k: int | None = None) -> bool:
    """Return whether a run of falling numbers after ``last`` has an even length; a step may be one of chance."""
    even, first = True, last
    while (found := _Uniform(source)).below(last):
        if k is not None:
            side = source.one_of(2 * k + 2)  # below (2 k + x) / (2 k + 2) or not
            if side == 2 * k + 1 or (side == 2 * k and not _Uniform(source).below(first)):
                break
        last, even = found, not even
    return even


def _half_exponential(source: _Source) -> bool:
    """Return True with chance ``exp(-1/2)``."""
    first = _Uniform(source)
    return first.digit(0) >= 2 ** (_DIGIT - 1) or not _falls(source, first)


def _normal(source: _Source) -> tuple[bool, int, _Uniform]:
    """Return the sign, whole part and fraction of an exact normal's absolute value; True is negative."""
    while True:
        k = 0
        while _half_exponential(source):
            k += 1
        if not all(_half_exponential(source) for _ in range(k * (k - 1))):
            continue
        x = _Uniform(source)
        if all(_falls(source, x, k) for _ in range(k + 1)):
            return bool(source.next() & 1), k, x


def _rounded(theta: float, noise_std: float, exponent: int, source: _Source) -> int:
    """Return the whole number of cells next to theta plus a normal."""
    cell = Fraction(2) ** exponent
    centre, std = Fraction(theta) / cell + Fraction(1, 2), Fraction(noise_std) / cell
    negative, k, x = _normal(source)
    sign = -1 if negative else 1
    for ends in _enclosures(k, x, 2):
        one, other = (centre + sign * std * end for end in ends)
        if one // 1 == other // 1:
            break
    return int(one // 1)


def _pair(source: _Source) -> tuple[float, float]:
    """Return the float64 nearest to a normal, and what is left."""
    negative, k, x = _normal(source)
    sign = -1 if negative else 1
    # Three digits behind a larger whole part are more than two float64 numbers hold.
    for least, most in _enclosures(k, x, 3 if k < 256 else 4):
        hi = float(least)
        if hi == float(most):
            break
    return sign * hi, sign * float((least + most) / 2 - Fraction(hi))


def _enclosures(k: int, x: _Uniform, n: int) -> Iterator[tuple[Fraction, Fraction]]:
    """Yield between which numbers k + x lies by the digits looked at, n of them at least, then by one more each."""
    while True:
        x.digit(n - 1)
        n = len(x.digits)
        digits = sum(digit << (_DIGIT * (n - 1 - i)) for i, digit in enumerate(x.digits))
        unit = 2 ** (_DIGIT * n)
        yield k + Fraction(digits, unit), k + Fraction(digits + 1, unit)
        n += 1
