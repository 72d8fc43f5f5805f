"""Products of split matrices: what the parts keep, and bounds that hold where the result cancels."""

from fractions import Fraction

import numpy as np
import pytest

from expunge.data.close_products import UNIT, columns, gram, norm, product, split


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


def test_norms_of_columns_count_entries_whose_squares_underflow():
    values = np.full((50, 2), 1e-170)
    values[0, 0] = 1.0
    found = columns(values)
    assert found[1] >= np.sqrt(50.0) * 1e-170
    assert 1.0 <= found[0] <= 1.01
