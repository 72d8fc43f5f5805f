"""What the worst case over all records is not defined for, and rows that change no eigenvalue."""

import numpy as np
import pytest

from expunge.runs.ridge.bounds import UniformBound
from expunge.runs.ridge.law import Phase, smoothness
from expunge.runs.ridge.secular import smallest_eigenvalues

LEARN = Phase(20, 0.2)


@pytest.mark.parametrize(
    "phases",
    [[Phase(20, 0.3)], [Phase(21, 0.2), Phase(5, 0.1, (0,))], [LEARN, Phase(5, 0.1, (0,)), Phase(5, 0.1, (0, 1))]],
)
def test_the_worst_case_is_refused_for_another_learning_and_for_a_second_deletion(phases):
    X, Y = np.random.default_rng(0).normal(size=(9, 3)), np.ones((9, 1))
    worst = UniformBound(X, Y, alpha=0.1, step_size=0.5 / smoothness(X, alpha=0.1), learning=LEARN, delta_s=1e-6)
    with pytest.raises(ValueError, match="learning and one unlearning phase"):
        worst.mu(phases)


def test_a_row_of_zeros_leaves_the_smallest_eigenvalue_as_it_is():
    found = smallest_eigenvalues(np.array([1.0, 2.0]), np.zeros((1, 2)), floor=0.1, square=0.0)
    assert 1.0 - 1e-11 <= found[0] <= 1.0
