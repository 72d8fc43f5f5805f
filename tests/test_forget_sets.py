"""Forget sets: laws of the choice, reproducibility, files, and refusals."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge._files import FileFormatError
from expunge.forget_sets import (
    ForgetSet,
    bottom_forget_set,
    quantile_forget_set,
    random_forget_set,
    top_forget_set,
)

# Few values: ties abound.
scores_lists = st.lists(st.sampled_from([0.0, 1.0, 2.5, -3.0, math.inf]), min_size=2, max_size=30)


@st.composite
def scores_and_size(draw):
    scores = draw(scores_lists)
    return scores, draw(st.integers(1, len(scores) - 1))


@given(scores_and_size())
def test_top_and_bottom_are_the_extremes_and_ties_go_to_the_lower_number(case):
    scores, size = case
    by_top = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:size]
    by_bottom = sorted(range(len(scores)), key=lambda i: (scores[i], i))[:size]
    assert top_forget_set(scores, size=size).indices.tolist() == sorted(by_top)
    assert bottom_forget_set(scores, size=size).indices.tolist() == sorted(by_bottom)


@given(scores_and_size())
def test_top_and_the_rest_make_up_the_data(case):
    chosen = top_forget_set(case[0], size=case[1])
    assert sorted([*chosen.indices, *chosen.retained]) == list(range(len(case[0])))
    assert chosen.mask.sum() == len(chosen) == case[1]
    assert (np.flatnonzero(chosen.mask) == chosen.indices).all()


@given(st.integers(2, 60), st.integers(2, 12))
def test_quantile_bands_partition_the_data(n, bands):
    scores = np.sin(np.arange(n) * 7.1).round(1)
    edges = np.linspace(0, 1, bands + 1)
    found = []
    for low, high in itertools.pairwise(edges):
        if math.floor(low * n + 0.5) < math.floor(high * n + 0.5):
            found.append(quantile_forget_set(scores, low=low, high=high).indices)
    assert sorted(np.concatenate(found)) == list(range(n))
    largest = [scores[one].max() for one in found]
    assert largest == sorted(largest)


@given(st.integers(4, 80), st.integers(0, 5), st.data())
def test_random_sets_are_reproducible_and_nested(n, seed, data):
    small = data.draw(st.integers(1, n - 2))
    large = data.draw(st.integers(small, n - 1))
    first, again = (random_forget_set(n_records=n, size=small, seed=seed) for _ in range(2))
    assert first == again
    assert hash(first) == hash(again)
    assert set(first.indices) <= set(random_forget_set(n_records=n, size=large, seed=seed).indices)


def test_random_sets_are_uniform_and_differ_by_seed():
    hits = np.zeros(10)
    for seed in range(2000):
        hits[random_forget_set(n_records=10, size=3, seed=seed).indices] += 1
    # Binomial(2000, 0.3): standard deviation 20.5.
    assert np.abs(hits - 600).max() < 5 * 20.5


@given(st.lists(st.sampled_from("abc"), min_size=4, max_size=60), st.data())
def test_strata_keep_their_shares(labels, data):
    n = len(labels)
    size = data.draw(st.integers(1, n - 1))
    scores = np.cos(np.arange(n) * 3.3)
    labels = np.array(labels)
    sets = (
        top_forget_set(scores, size=size, labels=labels),
        bottom_forget_set(scores, size=size, labels=labels),
        random_forget_set(n_records=n, size=size, seed=1, labels=labels),
    )
    for chosen in sets:
        assert len(chosen) == size
        for label in np.unique(labels):
            share = size * (labels == label).sum() / n
            assert abs((labels[chosen.indices] == label).sum() - share) < 1
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        inside = np.isin(members, sets[0].indices)
        if inside.any() and not inside.all():
            assert scores[members[inside]].min() >= scores[members[~inside]].max()


def test_quantiles_within_classes_and_a_draw_from_the_band():
    labels = np.repeat([0, 1], 50)
    scores = np.arange(100.0)
    band = quantile_forget_set(scores, low=0.8, high=1.0, labels=labels)
    assert band.indices.tolist() == [*range(40, 50), *range(90, 100)]
    drawn = quantile_forget_set(scores, low=0.8, high=1.0, labels=labels, size=6, seed=3)
    assert drawn == quantile_forget_set(scores, low=0.8, high=1.0, labels=labels, size=6, seed=3)
    assert set(drawn.indices) < set(band.indices)
    assert (labels[drawn.indices] == 0).sum() == 3
    assert drawn.how == {
        "method": "quantile", "score": "score", "low": 0.8, "high": 1.0, "stratified": True, "size": 6, "seed": 3,
    }  # fmt: skip


def test_sizes_as_shares():
    scores = np.arange(200.0)
    assert len(top_forget_set(scores, size=0.01)) == 2
    assert len(top_forget_set(scores, size=1e-9)) == 1
    assert len(top_forget_set(scores, size=0.9999)) == 199
    assert top_forget_set(scores, size=0.05, score_name="EL2N").how == {
        "method": "top", "score": "EL2N", "stratified": False, "size": 10,
    }  # fmt: skip


def test_a_set_survives_its_file(tmp_path):
    chosen = top_forget_set(np.arange(9.0), size=3, score_name="privacy loss")
    path = tmp_path / "forget.json"
    chosen.save(path)
    loaded = ForgetSet.load(path, n_records=9)
    assert loaded == chosen
    assert loaded.how == chosen.how
    with pytest.raises(FileExistsError):
        chosen.save(path)
    ForgetSet([0], n_records=9).save(path, overwrite=True)
    assert ForgetSet.load(path).indices.tolist() == [0]
    with pytest.raises(ValueError, match="n_records"):
        ForgetSet.load(path, n_records=10)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [
        {"indices": []},
        {"indices": [9]},
        {"indices": [1, 1]},
        {"indices": [0.5]},
        {"indices": "all"},
        {"indices": list(range(9))},
        {"n_records": 2.5},
        {"version": 2},
        {"format": "something else"},
        {"how": []},
        {"extra": 1},
    ],
)
def test_files_that_hold_no_forget_set(tmp_path, change):
    content = {"format": "expunge forget set", "version": 1, "n_records": 9, "how": {}, "indices": [1, 4]}
    path = tmp_path / "forget.json"
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(FileFormatError, match=str(path)):
        ForgetSet.load(path)


@pytest.mark.parametrize(
    ("indices", "error", "words"),
    [
        ([], ValueError, "at least one"),
        (range(5), ValueError, "leave something to retain"),
        ([5], ValueError, r"within \[0, 5\)"),
        ([-1], ValueError, r"within \[0, 5\)"),
        ([2, 2], ValueError, "repeat"),
        ([1.0], TypeError, "integers"),
        ([True, False], TypeError, "integers"),
        ([[1, 2]], ValueError, "one-dimensional"),
    ],
)
def test_bad_indices_are_refused(indices, error, words):
    with pytest.raises(error, match=words):
        ForgetSet(list(indices), n_records=5)


@pytest.mark.parametrize("size", [0, 4, 5, 0.0, 1.0, math.nan, -0.1])
def test_bad_sizes_are_refused(size):
    for make in (top_forget_set, bottom_forget_set):
        with pytest.raises(ValueError, match="size"):
            make([1.0, 2.0, 3.0, 4.0], size=size)
    with pytest.raises(ValueError, match="size"):
        random_forget_set(n_records=4, size=size, seed=0)


def test_other_bad_input_is_named():
    scores = [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(ValueError, match="scores must be free of NaN"):
        top_forget_set([1.0, math.nan, 2.0], size=1)
    with pytest.raises(ValueError, match="scores"):
        top_forget_set([[1.0, 2.0]], size=1)
    with pytest.raises(ValueError, match="labels"):
        top_forget_set(scores, size=1, labels=[0, 1])
    with pytest.raises(TypeError, match="labels"):
        top_forget_set(scores, size=1, labels=[0.0, 1.0, math.nan, 1.0])
    with pytest.raises(TypeError, match="size"):
        top_forget_set(scores, size="2")
    with pytest.raises(ValueError, match="low must be below high"):
        quantile_forget_set(scores, low=0.5, high=0.5)
    with pytest.raises(ValueError, match="none of 4"):
        quantile_forget_set(scores, low=0.55, high=0.6)
    with pytest.raises(ValueError, match="leave something"):
        quantile_forget_set(scores, low=0.0, high=1.0)
    with pytest.raises(ValueError, match="seed"):
        quantile_forget_set(scores, low=0.0, high=0.5, size=1)
    with pytest.raises(ValueError, match="size"):
        quantile_forget_set(scores, low=0.0, high=0.5, size=3, seed=0)
    with pytest.raises(ValueError, match="seed"):
        random_forget_set(n_records=4, size=1, seed=-1)
    with pytest.raises(TypeError, match="how"):
        ForgetSet([1], n_records=3, how={"score": object()})
    with pytest.raises(ValueError, match="read-only"):
        ForgetSet([1], n_records=3).indices[0] = 2
