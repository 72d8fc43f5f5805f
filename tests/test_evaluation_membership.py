"""Membership inference and U-LiRA: against slow twins and a well-kept library, and on data whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from expunge.evaluation import (
    auc,
    membership_auc,
    predictions_from_logits,
    shadow_margins,
    ulira,
    unlearning_report,
)
from expunge.evaluation.intervals import placements


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


@given(tied, tied)
def test_placements_are_shares_of_pairs(positive, negative):
    found = placements(np.array(positive), np.array(negative))
    outcomes = np.array([[(p > q) + 0.5 * (p == q) for q in negative] for p in positive])
    np.testing.assert_allclose(found.positive, outcomes.mean(1), atol=1e-14)
    np.testing.assert_allclose(found.negative, outcomes.mean(0), atol=1e-14)
    value = outcomes.mean()
    if 0 < value < 1:
        assert found.spread == pytest.approx(outcomes.var() / (value * (1 - value)), abs=1e-12)
    else:
        assert found.spread == 1


@given(tied, tied, st.floats(0.5, 0.999))
def test_the_interval_holds_the_value_has_width_and_grows_with_confidence(positive, negative, confidence):
    found = membership_auc(positive, negative, confidence=confidence)
    low, high = found.interval
    assert 0 <= low <= found.value <= high <= 1
    if found.value in (0, 1):
        assert high - low > 0.01
    if min(len(positive), len(negative)) == 1:
        assert (low, high) == (0, 1)
    wider = membership_auc(positive, negative, confidence=(1 + confidence) / 2).interval
    assert wider[0] <= low <= high <= wider[1]
    mirrored = membership_auc(negative, positive, confidence=confidence).interval
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_interval_solves_its_equation():
    # Newcombe's method 5 where DeLong's variance is smaller, by its polynomial written out.
    rng = np.random.default_rng(1)
    forget, heldout = rng.standard_normal(30) + 2, rng.standard_normal(40)
    found = placements(forget, heldout)
    n, m = 30, 40
    a, b = found.positive.var(ddof=1) / n, found.negative.var(ddof=1) / m
    t = stats.t.ppf(0.975, (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1)))

    def hanley_mcneil(x):
        q1, q2 = x / (2 - x), 2 * x * x / (1 + x)
        return (x * (1 - x) + (n + m - 2) / 2 * (q1 - x * x) + (n + m - 2) / 2 * (q2 - x * x)) / (n * m)

    squared = max(stats.norm.ppf(0.975) ** 2, t**2 * (a + b) / hanley_mcneil(found.value))
    for edge in membership_auc(forget, heldout).interval:
        assert (found.value - edge) ** 2 == pytest.approx(squared * hanley_mcneil(edge), rel=1e-9)


LAWS = {
    "normal": (lambda rng, n: rng.standard_normal(n), 1.0),
    "heavy ties": (lambda rng, n: np.round(rng.standard_normal(n)), 1.0),
    "twice the spread": (lambda rng, n: rng.standard_normal(n), 2.0),
}


def true_auc(law, shift, spread):
    if law != "heavy ties":
        return stats.norm.cdf(shift / np.hypot(1, spread))
    levels = np.arange(-15, 20)
    mass_p, mass_q = (np.diff(stats.norm.cdf(np.append(levels - 0.5, np.inf), d)) for d in (shift, 0.0))
    return float(mass_p @ (np.cumsum(mass_q) - 0.5 * mass_q))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("sizes", [(20, 20), (50, 50), (100, 100), (20, 100)])
def test_interval_covers_the_true_auc_as_often_as_it_says(law, sizes):
    draw, spread = LAWS[law]
    trials = 300
    for k, aim in enumerate((0.5, 0.8, 0.96, 0.99)):
        rng = np.random.default_rng([k, *sizes])
        shift = stats.norm.ppf(aim) * np.hypot(1, spread)
        covered = 0
        for _ in range(trials):
            scores = (shift + spread * rng.standard_normal(sizes[0]), draw(rng, sizes[1]))
            if law == "heavy ties":
                scores = np.round(scores[0]), scores[1]
            low, high = membership_auc(*scores).interval
            covered += low <= true_auc(law, shift, spread) <= high
        # 93% at least, up to the error of 300 trials; never so wide that all hold it where the AUC is not near 1.
        assert stats.binomtest(covered, trials, 0.93, alternative="less").pvalue > 0.002, (law, sizes, aim, covered)
        assert covered < trials or aim > 0.9


@pytest.mark.parametrize("aim", [0.7, 0.96])
def test_interval_of_the_difference_covers(aim):
    rng = np.random.default_rng(3)
    shift, trials, covered = np.sqrt(2) * stats.norm.ppf(aim), 300, 0
    for _ in range(trials):
        hardness = rng.standard_normal(80)
        ours, theirs = (np.sqrt(0.7) * hardness + np.sqrt(0.3) * rng.standard_normal(80) for _ in range(2))
        ours[:40] += shift
        theirs[:40] += 0.8 * shift
        found = membership_auc(ours[:40], ours[40:], reference_forget=theirs[:40], reference_heldout=theirs[40:])
        truth = aim - stats.norm.cdf(0.8 * shift / np.sqrt(2))
        covered += found.difference_interval[0] <= truth <= found.difference_interval[1]
    assert stats.binomtest(covered, trials, 0.93, alternative="less").pvalue > 0.002
    assert stats.binomtest(covered, trials, 0.985, alternative="greater").pvalue > 0.002


def test_two_perfect_aucs_differ_by_an_interval_with_width():
    found = membership_auc([3.0, 4.0, 5.0], [1.0, 2.0], reference_forget=[9.0, 8.0, 7.0], reference_heldout=[1.0, 2.0])
    assert found.difference == 0
    assert found.difference_interval[0] < -0.1 < 0.1 < found.difference_interval[1]


def test_the_reference_is_compared_on_the_same_records():
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


def slow_ulira_scores(fitted, tested, variance):
    """Fits and scores spelled out, by scipy's normal density."""

    def fit(margins):
        var = margins.var(axis=0, ddof=1)
        return margins.mean(axis=0), np.full_like(var, var.mean()) if variance == "pooled" else var

    (mean_u, var_u), (mean_r, var_r) = (fit(margins) for margins in fitted)

    def score(row):
        return stats.norm.logpdf(row, mean_u, np.sqrt(var_u)) - stats.norm.logpdf(row, mean_r, np.sqrt(var_r))

    return tuple(score(rows) for rows in tested)


@pytest.mark.parametrize("variance", ["per_record", "pooled"])
@pytest.mark.parametrize("shapes", [(8, 8), (6, 9)])
def test_ulira_is_its_slow_twin(variance, shapes):
    rng = np.random.default_rng(4)
    unlearned = rng.standard_normal((shapes[0], 12)) * rng.uniform(0.5, 2, 12) + rng.standard_normal(12)
    retrained = rng.standard_normal((shapes[1], 12)) * rng.uniform(0.5, 2, 12)
    found = ulira(unlearned, retrained, variance=variance)
    half = [size // 2 for size in shapes]
    fitted, tested = [unlearned[: half[0]], retrained[: half[1]]], [unlearned[half[0] :], retrained[half[1] :]]
    ours, theirs = slow_ulira_scores(fitted, tested, variance)
    assert found.n_fitted == tuple(half)
    np.testing.assert_allclose(found.unlearned_scores, ours, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.retrained_scores, theirs, rtol=1e-9, atol=1e-9)
    labels = np.r_[np.ones(ours.size), np.zeros(theirs.size)]
    assert found.auc == pytest.approx(roc_auc_score(labels, np.r_[ours.ravel(), theirs.ravel()]), abs=1e-12)
    assert found.accuracy == pytest.approx(((ours > 0).mean() + (theirs < 0).mean()) / 2, abs=1e-12)
    assert found.per_record_accuracy.mean() == pytest.approx(found.accuracy, abs=1e-12)


def shadow_rows(rng, n_models, n, shared, shift=0.0):
    """Margins of which a share of the variance is the model's own, the same on all its records."""
    own, common = rng.standard_normal((n_models, n)), rng.standard_normal((n_models, 1))
    return np.sqrt(1 - shared) * own + np.sqrt(shared) * common + shift


def covers(found, truth, which):
    low, high = getattr(found, f"{which}_interval")
    return low <= truth <= high


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("n_models", [4, 8, 16, 64])
def test_under_equal_laws_ulira_is_unbiased_and_its_intervals_cover(n_models, shared):
    rng = np.random.default_rng([n_models, int(100 * shared)])
    hardness, trials = 3 * rng.standard_normal(20), 400
    found = [ulira(*(shadow_rows(rng, n_models, 20, shared) + hardness for _ in range(2))) for _ in range(trials)]
    for which in ("auc", "accuracy"):
        values = np.array([getattr(one, which) for one in found])
        assert abs(values.mean() - 0.5) < 4 * values.std(ddof=1) / np.sqrt(trials)
        n_covered = sum(covers(one, 0.5, which) for one in found)
        # From 16 models of each kind between 93% and 97%, up to the error of 400 trials; with fewer rather more.
        assert stats.binomtest(n_covered, trials, 0.93, alternative="less").pvalue > 0.002, (which, n_covered)
        if n_models >= 16:
            assert stats.binomtest(n_covered, trials, 0.97, alternative="greater").pvalue > 0.002, (which, n_covered)


@pytest.mark.parametrize(("n_models", "n"), [(3, 1), (16, 1), (3, 20), (6, 1)])
def test_ulira_is_unbiased_also_with_one_record_and_with_three_models(n_models, n):
    rng = np.random.default_rng([n_models, n])
    found = [ulira(*rng.standard_normal((2, n_models, n))) for _ in range(800)]
    for which in ("auc", "accuracy"):
        values = np.array([getattr(one, which) for one in found])
        assert abs(values.mean() - 0.5) < 3.5 * values.std(ddof=1) / np.sqrt(values.size)
        assert sum(covers(one, 0.5, which) for one in found) > 0.93 * values.size
    if n_models == 3:
        assert found[0].auc_interval == found[0].accuracy_interval == (0, 1)
        assert "too few models were tested for an interval" in found[0].measured()[0].note


@pytest.mark.parametrize("shift", [1.2, 3.3])
@pytest.mark.parametrize(("n_models", "shared"), [(8, 0.95), (32, 0.5)])
def test_ulira_covers_what_the_fitted_attack_does_on_further_models(n_models, shared, shift):
    rng = np.random.default_rng([n_models, int(10 * shift)])
    trials, n, further, n_covered = 120, 10, 200, 0
    for _ in range(trials):
        fitted = [shadow_rows(rng, n_models // 2, n, shared, d) for d in (shift, 0.0)]
        tested = [shadow_rows(rng, n_models // 2, n, shared, d) for d in (shift, 0.0)]
        more = [shadow_rows(rng, further, n, shared, d) for d in (shift, 0.0)]
        variance = "pooled" if n_models < 16 else "per_record"
        found = ulira(*(np.r_[f, t] for f, t in zip(fitted, tested, strict=True)), variance=variance)
        scores = slow_ulira_scores(fitted, more, variance)
        n_covered += covers(found, auc(scores[0].ravel(), scores[1].ravel()), "auc")
    assert stats.binomtest(n_covered, trials, 0.93, alternative="less").pvalue > 0.002, n_covered


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


@pytest.mark.parametrize("name", ["n_resamples", "seed"])
def test_settings_of_the_former_bootstrap_warn_and_change_nothing(name):
    rng = np.random.default_rng(0)
    forget, heldout = rng.standard_normal(20), rng.standard_normal(20)
    margins = rng.standard_normal((2, 6, 4))
    predictions = predictions_from_logits(rng.standard_normal((20, 3)), np.arange(20) % 3)
    sets = dict.fromkeys(("forget", "retain", "test"), predictions)
    plain = membership_auc(forget, heldout), ulira(*margins), unlearning_report(sets)
    with pytest.warns(FutureWarning, match=f"{name} changes nothing") as seen:
        warned = (
            membership_auc(forget, heldout, **{name: 7}),
            ulira(*margins, **{name: 7}),
            unlearning_report(sets, **{name: 7}),
        )
    assert [one.filename for one in seen] == [__file__] * 3  # once a call, and at the caller's line
    assert warned[0] == plain[0]
    assert warned[1].auc_interval == plain[1].auc_interval
    assert warned[2].to_json() == plain[2].to_json()
