"""Normals by (seed, chain, step, index), the same bits on every processor, and the words they are made from."""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from expunge import _validate
from expunge._kernels import backend
from expunge._types import DeviceArray, DeviceT
from expunge.langevin.arguments import MAX_CHAIN, MAX_STEP, below, float_dtype, seed_number

__all__ = ["random_words", "standard_normals"]


@overload
def random_words(
    n_blocks: int,
    *,
    seed: int,
    chain: int = ...,
    step: int = ...,
    threads: int | None = ...,
    like: None = ...,
) -> NDArray[np.uint32]: ...


@overload
def random_words(
    n_blocks: int,
    *,
    seed: int,
    chain: int = ...,
    step: int = ...,
    threads: int | None = ...,
    like: DeviceT,
) -> NDArray[np.uint32] | DeviceT: ...


def random_words(
    n_blocks: int,
    *,
    seed: int,
    chain: int = 0,
    step: int = 0,
    threads: int | None = None,
    like: DeviceArray | None = None,
) -> NDArray[np.uint32] | DeviceArray:
    """Return the Philox4x32-10 words that normals of one (seed, chain, step) are made from.

    Parameters
    ----------
    n_blocks : int
        Blocks of four words, at least 0.
    seed : int
        In [0, 2**64): the key.
    chain, step : int
        In [0, 2**56) and [0, 2**32). Block i has the counter words (i, step, chain mod 2**32, chain div 2**32).
    threads : int or None
        Most threads to use; None is the default of the process.
    like : array or None
        An array on a CUDA device: the result is made there, by its library, with the same bits.

    Returns
    -------
    ndarray of uint32, shape (n_blocks, 4)
        The same bits on every processor and for every number of threads.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or not an integer.

    Examples
    --------
    The first published test vector of the generator, key and counter zero:

    >>> [hex(word) for word in random_words(1, seed=0)[0].tolist()]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    blocks = below("n_blocks", n_blocks, 2**32 + 1, "2**32 + 1")
    place = backend.place(like=like)
    out: NDArray[Any] = place.empty((blocks, 4), "uint32")
    place.run(
        "random_words",
        out,
        seed=seed_number(seed),
        chain=below("chain", chain, MAX_CHAIN, "2**56"),
        step=below("step", step, MAX_STEP, "2**32"),
        threads=threads,
    )
    return out


@overload
def standard_normals(
    shape: int | tuple[int, ...],
    *,
    seed: int,
    chain: int = ...,
    step: int = ...,
    dtype: DTypeLike = ...,
    threads: int | None = ...,
    like: None = ...,
) -> NDArray[np.floating]: ...


@overload
def standard_normals(
    shape: int | tuple[int, ...],
    *,
    seed: int,
    chain: int = ...,
    step: int = ...,
    dtype: DTypeLike = ...,
    threads: int | None = ...,
    like: DeviceT,
) -> NDArray[np.floating] | DeviceT: ...


def standard_normals(
    shape: int | tuple[int, ...],
    *,
    seed: int,
    chain: int = 0,
    step: int = 0,
    dtype: DTypeLike = np.float64,
    threads: int | None = None,
    like: DeviceArray | None = None,
) -> NDArray[np.floating] | DeviceArray:
    """Return independent standard normals, numbered in C order, of one (seed, chain, step).

    Box-Muller on Philox words. float64 normals use 128 random bits a pair and reach 9.4 standard deviations; float32
    ones use 64 bits a pair and reach 6.7, so use float64 where a tail carries a claim.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the result; fewer than 2**33 numbers in all.
    seed : int
        In [0, 2**64).
    chain, step : int
        In [0, 2**56) and [0, 2**32); other values give independent numbers.
    dtype : dtype
        float64 or float32. The two are different streams, not roundings of one another.
    threads : int or None
        Most threads to use; None is the default of the process.
    like : array or None
        An array on a CUDA device: the result is made there, by its library, with the same bits.

    Returns
    -------
    ndarray, shape ``shape``
        The same bits on every processor and for every number of threads. A longer array starts with the shorter one.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of the wrong type.

    Examples
    --------
    >>> z = standard_normals((2, 500_000), seed=7)
    >>> bool(abs(z.mean()) < 0.005 and abs(z.std() - 1) < 0.005)
    True
    >>> bool((standard_normals(3, seed=7) == z.ravel()[:3]).all())
    True
    """
    lengths = tuple(_validate.count("shape", n) for n in (shape if isinstance(shape, tuple) else (shape,)))
    count = math.prod(lengths)
    if count >= 2**33:
        raise ValueError(f"shape must hold fewer than 2**33 numbers, got {count}")
    place = backend.place(like=like)
    out: NDArray[Any] = place.empty((count,), float_dtype(dtype).name)
    place.run(
        "standard_normals",
        out,
        seed=seed_number(seed),
        chain=below("chain", chain, MAX_CHAIN, "2**56"),
        step=below("step", step, MAX_STEP, "2**32"),
        threads=threads,
    )
    return out.reshape(lengths)
