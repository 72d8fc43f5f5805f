"""Passes over blocks that add up: one tree, the same bits however blocks are shared out and whoever works on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

import expunge.data.blocks
from expunge._kernels.backend import one_blas_thread
from expunge.data import ArrayRecords, Constants, MappedRecords, Reading, Records
from expunge.data.blocks import Block, BlockWork
from expunge.data.folding import Fold, fold, fold_here, numbered_blocks
from expunge.runs.residual.curvature import add_hessian, hessian_of

RNG = np.random.default_rng(0)


@given(st.integers(1, 70), st.integers(0, 7))
def test_ranges_of_a_power_of_two_give_the_tree_of_all_blocks(n: int, level: int) -> None:
    def folded(names: list[str]) -> str:
        tree: Fold[str] = Fold("({} {})".format)
        for name in names:
            tree.add(name)
        return tree.total()

    leaves, size = [str(i) for i in range(n)], 1 << level
    assert folded([folded(leaves[a : a + size]) for a in range(0, n, size)]) == folded(leaves)


@dataclass(frozen=True)
class Naming(BlockWork[Any, str]):
    """The tree that is made, as text."""

    def of(self, records: Records, block: Block, given: Any, *, threads: int | None) -> str:
        return f"{block.start}{'' if given is None else given}"

    def both(self, one: str, two: str) -> str:
        return f"({one} {two})"


class Beside(Naming):
    side_by_side = True


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> ArrayRecords:
    monkeypatch.setattr(expunge.data.blocks, "rows_per_block", lambda *, n_features: 10)
    return ArrayRecords(RNG.normal(size=(65, 2)), np.arange(65))


@pytest.mark.parametrize("work", [Naming(), Beside()])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_blocks_are_worked_on_in_order_with_what_is_given_to_them(
    records: ArrayRecords, work: Naming, threads: int | None
) -> None:
    assert fold(records, work, threads=threads) == "(((0 10) (20 30)) ((40 50) 60))"
    found = fold(records, work, numbers=[0, 2, 3, 6], given=lambda number: f"-{number}", threads=threads)
    assert found == "((0-0 20-2) (30-3 60-6))"


def test_numbered_blocks_are_those_of_the_table(records: ArrayRecords) -> None:
    found = [(number, block.start) for number, block in numbered_blocks(records, [0, 1, 5])]
    assert found == [(0, 0), (1, 10), (5, 50)]


class Counting:
    """An engine that says what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Sequence[int]] = []

    def fold(
        self,
        records: Records,
        work: BlockWork[Any, Any],
        numbers: Sequence[int],
        given: Callable[[int], Any] | None,
        *,
        threads: int | None,
    ) -> Any:
        self.asked.append(list(numbers))
        return fold_here(records, work, numbers, given, threads=threads)


def test_a_table_s_engine_works_on_it_and_on_what_it_is_mapped_to(records: ArrayRecords) -> None:
    engine = Counting()

    class Mine(ArrayRecords):
        @property
        def engine(self) -> Counting:
            return engine

    mine = Mine(RNG.normal(size=(65, 2)), np.arange(65))
    mapped = MappedRecords(mine, Reading(n_features=2, constants=Constants("divide_by", ((4.0,),))))
    assert fold(mine, Naming()) == fold(mapped, Naming()) == fold(records, Naming())
    assert engine.asked == [list(range(7))] * 2


@pytest.mark.parametrize("k", [1, 3])
def test_hessians_of_blocks_have_the_same_bits_for_any_number_of_threads(k: int) -> None:
    n, p = 5000, 7
    X, roots = RNG.normal(size=(n, p)), RNG.normal(size=(n, k, k))
    curvatures = np.einsum("nab,ncb->nac", roots, roots)
    found = [hessian_of(X, curvatures, threads=threads) for threads in (1, 2, 5, None)]
    assert len({one.tobytes() for one in found}) == 1
    plain = np.einsum("nac,ni,nj->aicj", curvatures, X, X).reshape(k * p, k * p)
    np.testing.assert_allclose(found[0], plain, rtol=1e-11)
    added = np.zeros((k * p, k * p))
    for start in range(0, n, 2048):
        add_hessian(added, X[start : start + 2048], curvatures[start : start + 2048])
    np.testing.assert_allclose(found[0], added, rtol=1e-12)


def test_overlapping_threads_leave_blas_as_they_found_it() -> None:
    def blas() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before, inside, go_on = blas(), threading.Event(), threading.Event()

    def first() -> None:
        with one_blas_thread():
            inside.set()
            go_on.wait(10)

    one = threading.Thread(target=first)
    one.start()
    assert inside.wait(10)
    with one_blas_thread():
        go_on.set()
        one.join()
        assert set(blas()) == {1}  # the other has left, this one has not
    assert blas() == before
