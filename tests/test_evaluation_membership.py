"""Membership inference and U-LiRA: against slow twins and a well-kept library, and on data whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from expunge.evaluation import auc, membership_auc, shadow_margins, ulira


def slow_auc(positive, negative):
    return sum((p > q) + 0.5 * (p == q) for p in positive for q in negative) / (len(positive) * len(negative))


# Few distinct values, so that most pairs tie.
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(tied, tied)
def test_auc_counts_pairs_and_ties_one_half(positive, negative):
    found = auc(positive, negative)
    assert found == pytest.approx(slow_auc(positive, negative), abs=1e-14)
    labels = [1] * len(positive) + [0] * len(negative)
    assert found == pytest.approx(roc_auc_score(labels, positive + negative), abs=1e-14)
    assert auc(negative, positive) == pytest.approx(1 - found, abs=1e-14)


def test_auc_takes_infinite_scores_and_refuses_nan_and_nothing():
    assert auc([np.inf, 0.0], [-np.inf]) == 1.0
    with pytest.raises(ValueError, match="positive must be free of NaN"):
        auc([np.nan], [0.0])
    with pytest.raises(ValueError, match="negative must hold at least one"):
        auc([0.0], [])
    with pytest.raises(ValueError, match="positive must have 1 dimension"):
        auc([[0.0]], [0.0])


def test_bootstrap_is_that_of_a_loop_over_resamples():
    rng = np.random.default_rng(1)
    forget, heldout = rng.integers(0, 5, 30).astype(float), rng.integers(0, 4, 40).astype(float)
    found = membership_auc(forget, heldout, n_resamples=300, seed=7)
    again = np.random.default_rng(7)
    rows, columns = again.integers(30, size=(300, 30)), again.integers(40, size=(300, 40))
    slow = [slow_auc(forget[r], heldout[c]) for r, c in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(found.interval, np.quantile(slow, [0.025, 0.975]), rtol=0, atol=1e-12)
    assert found == membership_auc(forget, heldout, n_resamples=300, seed=7)


def test_interval_covers_the_true_auc_as_often_as_it_says():
    rng = np.random.default_rng(2)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    covered = 0
    for trial in range(200):
        found = membership_auc(rng.standard_normal(80) + 1, rng.standard_normal(120), n_resamples=400, seed=trial)
        covered += found.interval[0] <= truth <= found.interval[1]
    # Binomial(200, 0.95) leaves [179, 199] with probability 0.003; the percentile bootstrap is a little short.
    assert 176 <= covered <= 199


def test_the_reference_is_resampled_on_the_same_records():
    rng = np.random.default_rng(3)
    forget, heldout = rng.standard_normal(100) + 0.5, rng.standard_normal(100)
    same = membership_auc(forget, heldout, reference_forget=forget, reference_heldout=heldout)
    assert same.difference == 0.0
    assert same.difference_interval == (0.0, 0.0)
    # Records that are hard for both models: the difference is known better than either value.
    near = membership_auc(
        forget, heldout, reference_forget=forget - 0.1, reference_heldout=heldout + 0.02 * rng.standard_normal(100)
    )
    width = near.difference_interval[1] - near.difference_interval[0]
    assert width < 0.5 * (near.interval[1] - near.interval[0])
    with pytest.raises(ValueError, match="given together"):
        membership_auc(forget, heldout, reference_forget=forget)
    with pytest.raises(ValueError, match="lengths of forget and heldout"):
        membership_auc(forget, heldout, reference_forget=forget[1:], reference_heldout=heldout)


def slow_ulira_scores(unlearned, retrained, variance):
    """One model, one record at a time, by scipy's normal density."""

    def fit(margins, out):
        rest = np.delete(margins, out % len(margins), axis=0)
        var = rest.var(axis=0, ddof=1)
        return rest.mean(axis=0), np.full_like(var, var.mean()) if variance == "pooled" else var

    def score(attacked, out):
        (mean_u, var_u), (mean_r, var_r) = fit(unlearned, out), fit(retrained, out)
        return stats.norm.logpdf(attacked, mean_u, np.sqrt(var_u)) - stats.norm.logpdf(attacked, mean_r, np.sqrt(var_r))

    return (
        np.array([score(row, s) for s, row in enumerate(unlearned)]),
        np.array([score(row, s) for s, row in enumerate(retrained)]),
    )


@pytest.mark.parametrize("variance", ["per_record", "pooled"])
@pytest.mark.parametrize("shapes", [(8, 8), (6, 9)])
def test_ulira_is_its_slow_twin(variance, shapes):
    rng = np.random.default_rng(4)
    unlearned = rng.standard_normal((shapes[0], 12)) * rng.uniform(0.5, 2, 12) + rng.standard_normal(12)
    retrained = rng.standard_normal((shapes[1], 12)) * rng.uniform(0.5, 2, 12)
    found = ulira(unlearned, retrained, variance=variance)
    ours, theirs = slow_ulira_scores(unlearned, retrained, variance)
    np.testing.assert_allclose(found.unlearned_scores, ours, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.retrained_scores, theirs, rtol=1e-9, atol=1e-9)
    labels = np.r_[np.ones(ours.size), np.zeros(theirs.size)]
    assert found.auc == pytest.approx(roc_auc_score(labels, np.r_[ours.ravel(), theirs.ravel()]), abs=1e-12)
    assert found.accuracy == pytest.approx(((ours > 0).mean() + (theirs < 0).mean()) / 2, abs=1e-12)
    assert found.per_record_accuracy.mean() == pytest.approx(found.accuracy, abs=1e-12)


@pytest.mark.parametrize("shapes", [(6, 6), (20, 20), (12, 30)])
def test_ulira_cannot_tell_models_of_one_law(shapes):
    rng = np.random.default_rng(5)
    hardness = 3 * rng.standard_normal(40)
    values = [
        ulira(rng.standard_normal((shapes[0], 40)) + hardness, rng.standard_normal((shapes[1], 40)) + hardness).auc
        for _ in range(60)
    ]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - 0.5) < 4 * error
    assert error < 0.01


def test_ulira_comes_to_the_best_possible_attack():
    # Shift d at unit variance: the likelihood ratio's AUC is Phi(d / sqrt 2), its accuracy Phi(d / 2).
    rng = np.random.default_rng(6)
    hardness = 5 * rng.standard_normal(60)
    unlearned, retrained = rng.standard_normal((200, 60)) + hardness + 1.0, rng.standard_normal((200, 60)) + hardness
    found = ulira(unlearned, retrained)
    assert found.variance == "per_record"
    assert found.auc == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.015)
    assert found.accuracy == pytest.approx(stats.norm.cdf(0.5), abs=0.015)
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]
    # One threshold for all records sees next to nothing of it.
    assert auc(unlearned.ravel(), retrained.ravel()) < 0.6
    auc_row, accuracy_row = found.measured()
    assert (auc_row.reference, accuracy_row.reference, auc_row.status) == (0.5, 0.5, "estimate")
    assert "200 unlearned" in auc_row.note


def test_few_shadow_models_pool_their_variance_and_still_records_get_it():
    rng = np.random.default_rng(7)
    few = ulira(rng.standard_normal((5, 10)), rng.standard_normal((5, 10)))
    assert few.variance == "pooled"
    many = rng.standard_normal((2, 20, 10))
    many[:, :, 3] = 1.25  # a record whose margin never varies
    found = ulira(*many)
    assert found.variance == "per_record"
    assert np.isfinite(found.unlearned_scores).all()


def test_ulira_refuses_what_it_cannot_use():
    good = np.random.default_rng(8).standard_normal((4, 5))
    with pytest.raises(ValueError, match="vary over shadow models"):
        ulira(np.ones((4, 5)), good)
    with pytest.raises(ValueError, match=">= 3 shadow models"):
        ulira(good[:2], good)
    with pytest.raises(ValueError, match="same records"):
        ulira(good[:, :3], good)
    bad = good.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="retrained must be finite"):
        ulira(good, bad)


def test_shadow_models_get_distinct_seeds_in_order():
    seen = {"u": [], "r": []}

    def make(kind):
        def build(seed):
            seen[kind].append(seed)
            return seed

        return build

    def margins(model):
        return [float(model % 7), 1.0]

    found = shadow_margins(make("u"), make("r"), margins, n_shadows=4, seed=3)
    assert len(set(seen["u"] + seen["r"])) == 8
    assert found.unlearned[:, 0].tolist() == [s % 7 for s in seen["u"]]
    assert found.retrained[:, 0].tolist() == [s % 7 for s in seen["r"]]
    again = shadow_margins(make("u"), make("r"), margins, n_shadows=4, seed=3)
    np.testing.assert_array_equal(found.unlearned, again.unlearned)


def test_a_broken_shadow_model_is_named():
    values = iter([[1.0], [1.0], [np.nan]])
    with pytest.raises(ValueError, match="unlearned shadow model 1 must be finite"):
        shadow_margins(int, int, lambda _: next(values), n_shadows=3)
    values = iter([[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="got 2 of retrained shadow model 0"):
        shadow_margins(int, int, lambda _: next(values), n_shadows=3)
