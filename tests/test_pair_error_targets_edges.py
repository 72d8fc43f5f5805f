"""Epsilons of near laws for no targets at all."""

import numpy as np

from expunge.accounting.pair_error import Nearness, near_epsilon


def test_no_targets_have_an_empty_array_of_epsilons_and_the_profile_is_not_asked():
    def unasked(epsilon):
        raise AssertionError("the profile of no epsilons was asked")

    found = near_epsilon(Nearness.of(1e-3, 1e-2, 1.0), unasked, lambda delta: np.zeros(delta.shape), np.zeros(0))
    assert found.shape == (0,)
