"""Products of split matrices: what the parts keep, and bounds that hold where the result cancels."""

from fractions import Fraction

import numpy as np
import pytest

from expunge.data.close_products import TINY, UNIT, columns, gram, moment, norm, product, split, split_bits


def dot(left, right):
    return sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left, right, strict=True)), Fraction(0))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [10, 21, 26])
def test_parts_are_exact_and_the_low_one_is_at_most_half_a_step_of_its_own_row_or_column(axis, bits):
    values = np.random.default_rng(bits).normal(size=(6, 6)) * 10.0 ** np.linspace(-8, 8, 6)
    values = values if axis == 0 else values.T
    high, low = split(values, axis, bits)
    assert np.array_equal(high + low, values)
    _, exponent = np.frexp(np.abs(values).max(axis=axis, keepdims=True))
    step = np.ldexp(1.0, exponent - bits)
    assert np.array_equal(np.rint(high / step) * step, high)
    assert np.all(np.abs(low) <= 0.5 * step)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_products_that_cancel_are_off_by_no_more_than_their_low_parts_may_be(scale):
    """Whole numbers on the right have no low part: what is left of the left is all there is to lose."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, right = rng.normal(size=(1, 40)), np.rint(rng.normal(size=(40, 1)) * 1000.0 * max(scale, 1e-2))
        right[-1] = 1.0
        left[0, -1] = -float(dot(left[0, :-1], right[:-1, 0]))
        value, low = product(left, right)
        true = dot(left[0], right[:, 0])
        assert abs(Fraction(float(value[0, 0])) - true) <= Fraction(low) + Fraction(UNIT) * abs(true)
        assert low <= 1e-6 * UNIT * 40 * norm(left) * norm(right)


def test_sums_over_many_blocks_keep_what_each_addition_leaves():
    X = np.random.default_rng(1).normal(size=(2000, 2)) + 3.0
    true = [[dot(X[:, i], X[:, j]) for j in range(2)] for i in range(2)]
    for block in (1, 7, None):
        found = gram(X, block=block)
        off = sum((Fraction(float(found.value[i, j])) - true[i][j]) ** 2 for i in range(2) for j in range(2))
        assert float(off) ** 0.5 <= found.off
        assert found.off <= 2.1 * UNIT * norm(found.value) or block is not None


@pytest.mark.parametrize("decades", [0, 6])
@pytest.mark.parametrize("block", [1, 7, None])
def test_products_with_targets_are_off_by_hardly_more_than_one_rounding(block, decades):
    """Also where nearly all of them cancels, and between columns of very different size."""
    rng = np.random.default_rng(decades)
    X = rng.normal(size=(400, 2)) * 10.0 ** rng.uniform(-decades, decades, size=(400, 1))
    Y = (rng.normal(size=(400, 3)) + 1.0) * [1.0, 1e-9, 1e9]
    X[200:], Y[200:] = X[:200], -Y[:200] * (1.0 + 1e-12 * rng.normal(size=(200, 1)))
    for rows, targets in ((X, Y), (X[:200], Y[:200])):
        found = moment(rows, targets, block=block)
        for j in range(3):
            off = sum((Fraction(float(found.value[i, j])) - dot(rows[:, i], targets[:, j])) ** 2 for i in range(2))
            assert float(off) ** 0.5 <= found.off[j]
        plain = 400 * UNIT * norm(rows) * columns(targets)
        assert np.all(found.off <= 1.1 * UNIT * columns(found.value) + 1e-3 * plain)


@pytest.mark.parametrize(
    ("X", "Y"),
    [
        (np.rint(1e4 * np.random.default_rng(2).normal(size=(300, 1))), np.random.default_rng(3).normal(size=(300, 1))),
        (np.random.default_rng(4).normal(size=(300, 1)), np.rint(1e4 * np.random.default_rng(5).normal(size=(300, 1)))),
        (2.0 ** -np.arange(0, 300.0)[:, None], np.rint(999 * np.random.default_rng(6).normal(size=(300, 1)))),
    ],
)
def test_each_part_of_the_error_of_products_with_targets_counts(X, Y):
    """Whole numbers have no low part: what one side, or the sums alone, lose is seen without the rest."""
    rows, targets = np.concatenate([X, X]), np.concatenate([Y, -Y])
    targets[-1] += 1.0
    found = moment(rows, targets, block=16)
    off = abs(Fraction(float(found.value[0, 0])) - dot(rows[:, 0], targets[:, 0]))
    assert float(off) <= found.off[0]
    assert found.rest[0] <= 1e-6 * 600 * UNIT * norm(rows) * columns(targets)[0]


@pytest.mark.parametrize("block", [16, None])
@pytest.mark.parametrize("decades", [0, 6])
def test_sums_of_low_parts_may_be_taken_in_any_order(block, decades):
    """The bound is at least that of plain sums, each of whose additions rounds in the worst way."""
    rng = np.random.default_rng(decades)
    X = rng.normal(size=(300, 3)) * 10.0 ** rng.uniform(-decades, decades, size=(300, 1))
    worst = 0.0
    for start in range(0, 300, block or 300):
        part = X[start : start + (block or 300)]
        high, low = map(np.abs, split(part, 0, split_bits(len(part))))
        worst += len(part) * UNIT * float(np.linalg.norm(high.T @ low + low.T @ high + low.T @ low))
    found = gram(X, block=block)
    assert worst <= found.rest <= 100.0 * worst


def test_what_underflows_in_products_with_targets_is_in_the_bound():
    faint = np.full((100, 3), 2.0**-600)
    found = moment(faint, faint[:, :1])
    assert not found.value.any()
    assert (found.rest >= 300 * TINY).all()


def test_norms_of_columns_count_entries_whose_squares_underflow():
    values = np.full((50, 2), 1e-170)
    values[0, 0] = 1.0
    found = columns(values)
    assert found[1] >= np.sqrt(50.0) * 1e-170
    assert 1.0 <= found[0] <= 1.01
