"""Random networks: the norms of `GradNorms` are those of single examples, or it refuses the network by name."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from random_merges import KEEP, LEADING, MERGES, MIX  # noqa: E402
from random_networks import BY_ROWS, LOSSES, OPERATIONS, WITH_PARAMETERS, outcome  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


programs = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 11)), min_size=1, max_size=7)
tame = st.lists(st.tuples(st.sampled_from(sorted(BY_ROWS)), st.integers(0, 11)), min_size=1, max_size=6)
layers = st.tuples(st.sampled_from(sorted(WITH_PARAMETERS)), st.integers(0, 11))


@given(layers, programs, layers, st.sampled_from(sorted(LOSSES)), st.sampled_from([1, 2, 3, 5]))
@settings(max_examples=max(250, settings().max_examples), suppress_health_check=list(HealthCheck))
def test_norms_of_random_networks_are_exact_or_refused(first, steps, last, loss, batch):
    outcome([first, *steps, last], loss, batch)


@given(programs, layers, st.sampled_from(sorted(LOSSES)), st.sampled_from([2, 3, 5]))
@settings(max_examples=max(60, settings().max_examples), suppress_health_check=list(HealthCheck))
def test_norms_of_random_networks_that_begin_without_a_layer(steps, last, loss, batch):
    outcome([*steps, last], loss, batch)


def test_networks_that_treat_rows_separately_are_not_refused():
    counts = Counter()

    @given(layers, tame, st.sampled_from([1, 3]))
    @settings(max_examples=max(60, settings().max_examples), suppress_health_check=list(HealthCheck))
    def count(first, steps, batch):
        if first[0] in BY_ROWS:
            counts[outcome([first, *steps], "sum of sines", batch)] += 1

    count()
    assert counts["exact"] > 4 * (counts["refused"] + counts["exact or refused"])


def inside(steps):
    """A step that merges axes, runs steps on what is merged, and takes the axes apart again."""
    return st.tuples(st.sampled_from(sorted(MERGES)), st.integers(0, 11), st.lists(steps, min_size=1, max_size=3))


plain = st.tuples(st.sampled_from(sorted(LEADING)), st.integers(0, 11))
keeping = st.tuples(st.sampled_from(sorted(KEEP)), st.integers(0, 11))
mixing = st.tuples(st.sampled_from(sorted(MIX)), st.integers(0, 11))
nested = inside(plain | inside(plain))
tame_nested = inside(keeping | inside(keeping))


@given(layers, st.lists(plain | nested, max_size=2), nested, layers, st.sampled_from(sorted(LOSSES)),
       st.sampled_from([1, 2, 3, 5]))  # fmt: skip
@settings(max_examples=max(150, settings().max_examples), suppress_health_check=list(HealthCheck))
def test_norms_of_random_networks_on_merged_axes_are_exact_or_refused(first, before, merged, last, loss, batch):
    outcome([first, *before, merged, last], loss, batch)


def test_layers_on_merged_axes_are_not_refused():
    counts = Counter()

    @given(st.lists(tame_nested, min_size=1, max_size=2), st.sampled_from([1, 3]))
    @settings(max_examples=max(60, settings().max_examples), suppress_health_check=list(HealthCheck))
    def count(steps, batch):
        counts[outcome([("linear", 3), *steps], "sum of sines", batch)] += 1

    count()
    assert counts["exact"] > 10 * (counts["refused"] + counts["exact or refused"])


def test_what_mixes_merged_rows_is_refused():
    counts = Counter()

    @given(st.sampled_from(sorted(MERGES)), st.integers(0, 11), mixing, layers)
    @settings(max_examples=max(60, settings().max_examples), suppress_health_check=list(HealthCheck))
    def count(merge, k, mix, last):
        found = outcome([("linear", 3), (merge, k, [mix]), last], "sum of sines", 3)
        if found != "invalid":
            counts[found] += 1

    count()
    assert counts["exact"] == 0
    assert counts["refused"] > 20
