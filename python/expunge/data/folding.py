"""Passes over a table whose results add up: one fixed binary tree over its blocks, whoever works on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from expunge._kernels.backend import default_threads
from expunge.data.blocks import Block, BlockWork, Records

__all__ = ["Fold", "fold", "fold_here", "numbered_blocks"]

Result = TypeVar("Result")


class Fold(Generic[Result]):
    """Results of consecutive blocks, combined in a binary tree over their numbers: the same bits however they come.

    It keeps one result of a level at most, as a binary counter does. Blocks may also come in ranges of one power of
    two, the last of which may be shorter, each folded by itself: the result has the same bits.

    Parameters
    ----------
    both : callable
        Combines the results of two neighbours.

    Examples
    --------
    >>> blocks, ranges = Fold("({} {})".format), Fold("({} {})".format)
    >>> for name in "abcde":
    ...     blocks.add(name)
    >>> for name in ("(a b)", "(c d)", "e"):
    ...     ranges.add(name)
    >>> blocks.total() == ranges.total(), ranges.total()
    (True, '(((a b) (c d)) e)')
    """

    def __init__(self, both: Callable[[Result, Result], Result]) -> None:
        self._both = both
        self._nodes: list[tuple[int, Result]] = []

    def add(self, result: Result) -> None:
        """Take the result of the next block."""
        level = 0
        while self._nodes and self._nodes[-1][0] == level:
            result = self._both(self._nodes.pop()[1], result)
            level += 1
        self._nodes.append((level, result))

    def total(self) -> Result:
        """Return the result of all blocks, of which there is at least one."""
        *others, (_, total) = self._nodes
        for _, node in reversed(others):
            total = self._both(node, total)
        return total


def fold(
    records: Records,
    work: BlockWork[Any, Result],
    *,
    numbers: Sequence[int] | None = None,
    given: Callable[[int], Any] | None = None,
    threads: int | None = None,
) -> Result:
    """Return the results of blocks of a table combined, worked on by its engine or by the threads of this process.

    Parameters
    ----------
    records : Records
        The table.
    work : BlockWork
        What is done with each block.
    numbers : sequence of int, optional
        Blocks, at least one, in order; by default all.
    given : callable, optional
        Returns what ``work`` is given beside the block of a number; asked in order, when it is needed.
    threads : int, optional
        Most cores of this process to use; all by default.
    """
    every = range(records.n_blocks) if numbers is None else numbers
    engine = records.engine
    if engine is None:
        return fold_here(records, work, every, given, threads=threads)
    return engine.fold(records, work, every, given, threads=threads)


def fold_here(
    records: Records,
    work: BlockWork[Any, Result],
    numbers: Sequence[int],
    given: Callable[[int], Any] | None,
    *,
    threads: int | None,
) -> Result:
    """Return what `fold` does, by the threads of this process."""
    tree = Fold(work.both)
    blocks = numbered_blocks(records, numbers, threads=threads)
    count = (default_threads() if threads is None else threads) if work.side_by_side else 1
    if count == 1:
        for number, block in blocks:
            tree.add(work.of(records, block, None if given is None else given(number), threads=threads))
        return tree.total()
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[Result]] = deque()
        for number, block in blocks:
            waiting.append(pool.submit(work.of, records, block, None if given is None else given(number), threads=1))
            if len(waiting) >= count:
                tree.add(waiting.popleft().result())
        for one in waiting:
            tree.add(one.result())
    return tree.total()


def numbered_blocks(
    records: Records, numbers: Sequence[int], *, threads: int | None = None
) -> Iterator[tuple[int, Block]]:
    """Yield blocks with their numbers; those that follow one another are read ahead."""
    begin = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            continue
        run = range(numbers[begin], numbers[end - 1] + 1)
        yield from zip(run, records.blocks(start=run.start, stop=run.stop, threads=threads), strict=True)
        begin = end
