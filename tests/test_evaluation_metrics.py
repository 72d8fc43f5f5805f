"""Definitions, bands, reports, times to unlearn, Gaussian scores, barriers from losses, and the audit."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import log_softmax

from absent import run_without
from expunge.evaluation import (
    METRICS,
    Band,
    Measured,
    Predictions,
    Report,
    audited_epsilon,
    barrier_from_losses,
    barrier_verdict,
    gaussian_unlearning_score,
    predictions_from_logits,
    proportion_interval,
    reference_band,
    time_to_unlearn,
    unlearning_report,
)


def test_every_metric_is_defined_once_and_the_documentation_says_the_same(root):
    text = (root / "docs" / "evaluation.md").read_text()
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.direction in ("reference", "higher", "lower")
        cells = [metric.name, metric.definition, metric.reference, metric.interval, metric.caveat]
        assert all(cells)
        for cell in cells:
            assert cell.replace("|", "\\|") in text, f"docs/evaluation.md lacks {cell!r} of {name}"


def test_the_array_metrics_need_no_torch():
    code = """
import expunge.evaluation, expunge.evaluation.plots
try:
    import expunge.evaluation.networks
except ImportError as error:
    print(error)
"""
    result = run_without("torch", code)
    assert result.returncode == 0, result.stderr
    wanted = "expunge.evaluation.networks needs PyTorch: pip install '.[torch]' in a checkout of Expunge"
    assert result.stdout.strip() == wanted


def test_predictions_are_those_of_softmax():
    rng = np.random.default_rng(0)
    logits, labels = 4 * rng.standard_normal((50, 6)), rng.integers(0, 6, 50)
    found = predictions_from_logits(logits, labels)
    log_p = log_softmax(logits, axis=1)[np.arange(50), labels]
    np.testing.assert_allclose(found.losses, -log_p, rtol=1e-12, atol=1e-14)
    slow = [row[y] - max(v for j, v in enumerate(row) if j != y) for row, y in zip(logits, labels, strict=True)]
    np.testing.assert_array_equal(found.margins, slow)
    np.testing.assert_array_equal(found.correct, logits.argmax(1) == labels)


def test_sure_predictions_keep_their_small_losses():
    found = predictions_from_logits([[0.0, -600.0], [0.0, 800.0], [1.0, 1.0]], [0, 0, 0])
    assert found.losses[0] == pytest.approx(math.exp(-600), rel=1e-12)
    assert (found.losses[1], found.margins[1]) == (800.0, -800.0)
    assert not found.correct[2]  # a tie is nobody's


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        ([[0.0, np.nan]], [0], ValueError, "logits must be finite"),
        ([[0.0, 1.0]], [2], ValueError, "labels must be within"),
        ([[0.0, 1.0]], [-1], ValueError, "labels must be within"),
        ([[0.0, 1.0]], [0.0], TypeError, "labels must hold integers"),
        ([[0.0]], [0], ValueError, "C >= 2"),
        (np.zeros((0, 3)), np.zeros(0, int), ValueError, "n >= 1"),
    ],
)
def test_bad_logits_are_refused(logits, labels, error, message):
    with pytest.raises(error, match=message):
        predictions_from_logits(logits, labels)


def test_bands_follow_their_rule():
    values = [0.8, 0.9, 0.85, 0.87]
    band = reference_band(values, k=3)
    assert band.low == pytest.approx(np.mean(values) - 3 * np.std(values, ddof=1))
    assert band.high == pytest.approx(np.mean(values) + 3 * np.std(values, ddof=1))
    spread = reference_band(values, method="range")
    assert (spread.low, spread.high, spread.n_models) == (0.8, 0.9, 4)
    assert bool(spread.holds(0.8))
    assert spread.holds([0.8, 0.9, 0.79, np.nan]).tolist() == [True, True, False, False]
    wide = reference_band(values, method="range", tolerance=0.2)
    assert wide.low == pytest.approx(np.mean(values) - 0.2)
    with pytest.raises(ValueError, match="at least 2 retrained"):
        reference_band([0.8])
    with pytest.raises(ValueError, match="one number per retrained"):
        reference_band([])
    with pytest.raises(ValueError, match="values must be finite"):
        reference_band([0.8, np.nan])


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_prediction_band_holds_one_more_model_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    drawn = rng.standard_normal((2000, n + 1))
    held = [bool(reference_band(row[:n], method="prediction", confidence=0.9).holds(row[n])) for row in drawn]
    assert abs(np.mean(held) - 0.9) < 4 * np.sqrt(0.09 / 2000)
    if n == 3:
        plain = [bool(reference_band(row[:n]).holds(row[n])) for row in drawn]
        assert abs(np.mean(plain) - 0.77) < 0.04


curves = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(curves, st.floats(0, 1), st.floats(0, 1))
def test_time_to_unlearn_is_the_start_of_the_last_stay(values, a, b):
    band = Band(min(a, b), max(a, b), (a + b) / 2, 2, "range")
    steps = 5 * np.arange(len(values)) + 2
    found = time_to_unlearn(steps, values, band)
    inside = [band.low <= v <= band.high for v in values]
    starts = [k for k in range(len(values)) if all(inside[k:])]
    assert found.step == (int(steps[starts[0]]) if starts else None)
    assert found.reached == bool(starts)
    assert found.first_entry == (int(steps[inside.index(True)]) if any(inside) else None)
    if found.step is not None and found.previous is not None:
        assert not inside[starts[0] - 1]
    text = str(found)
    assert ("never reached" in text) == (not found.reached)
    row = found.measured()
    assert math.isinf(row.value) == (not found.reached)
    json.dumps(row.to_dict(), allow_nan=False)


def test_what_was_never_reached_is_said_in_plain_words():
    band = reference_band([0.80, 0.84], method="range")
    never = time_to_unlearn([0, 10], [1.0, 0.9], band, metric="UA")
    assert "never reached: UA does not enter" in str(never)
    assert "at the last recorded step, 10, it is 0.9, 0.06 above the band" in str(never)
    left = time_to_unlearn([0, 10, 20], [1.0, 0.82, 0.7], band, metric="UA")
    assert "enters the band" in str(left)
    assert "but does not stay" in str(left)
    assert "0.1 below the band" in str(left)
    short = str(time_to_unlearn([0, 5], [0.81, 0.82], band, patience=9))
    assert "but for too few recordings" in short
    assert "does not stay" not in short
    assert "nothing to forget" in str(time_to_unlearn([0, 10], [0.81, 0.82], band))
    assert "never" in str(Report((never.measured(),)))


def test_patience_counts_recordings_in_a_row():
    band = Band(0.0, 1.0, 0.5, 2, "range")
    values = [2.0, 0.5, 2.0, 0.5, 0.5, 0.5, 2.0]
    steps = np.arange(7)
    assert time_to_unlearn(steps, values, band, patience=1).step == 1
    assert time_to_unlearn(steps, values, band, patience=3).step == 3
    assert time_to_unlearn(steps, values, band, patience=4).step is None
    assert time_to_unlearn(steps, values, band).step is None


@given(curves, st.integers(1, 4))
def test_with_patience_the_words_say_whether_the_curve_left(values, patience):
    band = Band(0.25, 0.75, 0.5, 2, "range")
    steps = 5 * np.arange(len(values)) + 2
    found = time_to_unlearn(steps, values, band, metric="UA", patience=patience)
    inside = [0.25 <= v <= 0.75 for v in values]
    starts = [k for k in range(len(values) - patience + 1) if all(inside[k : k + patience])]
    assert found.step == (int(steps[starts[0]]) if starts else None)
    outside = [int(steps[k]) for k in range(starts[0], len(values)) if not inside[k]] if starts else []
    assert found.left == (outside[0] if outside else None)
    text, stayed = str(found), bool(starts) and not outside
    assert ("from step" in text or "nothing to forget" in text) == stayed
    if outside:
        assert f"does not stay: it left at step {outside[0]}; at the last recorded step, {steps[-1]}, it is" in text
    assert found.measured().note == text
    assert (found.step is None) == text.startswith("never reached")


def test_a_stay_that_ended_is_said():
    band = Band(0.0, 1.0, 0.5, 2, "range")
    brief = time_to_unlearn([0, 5, 10, 15], [2.0, 0.5, 2.0, 2.0], band, metric="UA", patience=1)
    assert (brief.step, brief.left) == (5, 10)
    assert str(brief) == (
        "UA comes inside the band of retrained models [0, 1] (range) at step 5 (outside at step 0) for the one "
        "recording that patience asks for, but does not stay: it left at step 10; at the last recorded step, 15, it is "
        "2, 1 above the band"
    )
    assert "nothing to forget" not in str(time_to_unlearn([0, 5], [0.5, 2.0], band, patience=1))


def test_bad_curves_are_refused():
    band = Band(0.0, 1.0, 0.5, 2, "range")
    with pytest.raises(ValueError, match="steps must be >= 0 and increase"):
        time_to_unlearn([3, 3], [0.0, 0.0], band)
    with pytest.raises(ValueError, match="values must be finite"):
        time_to_unlearn([0, 1], [0.0, np.nan], band)
    with pytest.raises(ValueError, match="one length"):
        time_to_unlearn([0, 1], [0.0], band)
    with pytest.raises(TypeError, match="steps must hold integers"):
        time_to_unlearn([0.5], [0.0], band)
    with pytest.raises(TypeError, match="band must be a Band"):
        time_to_unlearn([0], [0.0], (0, 1))


@given(st.integers(1, 60), st.data())
def test_proportion_interval_holds_the_share_and_its_tails(n, data):
    k = data.draw(st.integers(0, n))
    low, high = proportion_interval(successes=k, trials=n)
    exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def model_outputs(seed, forget):
    def one(n, shift, stream):
        rng = np.random.default_rng([seed, stream])
        labels = np.arange(n) % 4
        return predictions_from_logits(rng.standard_normal((n, 4)) + shift * np.eye(4)[labels], labels)

    return {"forget": one(60, forget, 0), "retain": one(200, 4.0, 1), "test": one(100, 2.0, 2)}


def test_a_model_that_remembers_is_outside_the_band_and_a_retrained_one_is_inside():
    retrained = [model_outputs(s, 2.0) for s in range(6)]
    original = unlearning_report(model_outputs(100, 5.0), retrained=retrained, title="original")
    again = unlearning_report(model_outputs(101, 2.0), retrained=retrained, k=3.0)
    for name in ("UA", "MIA loss", "MIA margin"):
        assert original[name].in_band is False
        assert again[name].in_band is True
        assert original[name].distance > again[name].distance
    text = str(original)
    assert text.startswith("original (estimates)")
    assert "outside" in text
    loaded = json.loads(original.to_json())
    assert loaded["status"] == "estimate"
    assert [row["metric"] for row in loaded["measured"]] == ["UA", "RA", "TA", "MIA loss", "MIA margin"]
    assert loaded["measured"][0]["definition"] == METRICS["UA"].definition


def test_one_retrained_model_is_a_reference_without_a_band():
    report = unlearning_report(model_outputs(0, 3.0), retrained=[model_outputs(1, 2.0)])
    assert report["UA"].reference is not None
    assert report["UA"].band is None
    assert report["UA"].in_band is None
    with pytest.raises(KeyError, match="there is no 'GUS'"):
        report["GUS"]
    wide = unlearning_report(model_outputs(0, 3.0), retrained=[model_outputs(1, 2.0)], tolerance=0.5)
    assert wide["UA"].in_band is True


def test_reports_refuse_missing_sets_and_other_records():
    good = model_outputs(0, 3.0)
    with pytest.raises(ValueError, match="model must hold Predictions"):
        unlearning_report({"forget": good["forget"]})
    with pytest.raises(ValueError, match=r"retrained\[0\]\['forget'\] must hold the 60 records"):
        unlearning_report(good, retrained=[{**good, "forget": good["test"]}])
    with pytest.raises(ValueError, match="UA must be free of NaN"):
        Measured(METRICS["UA"], math.nan)
    with pytest.raises(ValueError, match="one length"):
        Predictions(np.zeros(2), np.zeros(3), np.zeros(2, bool))


def test_gaussian_scores_are_standard_normal_when_forgotten():
    rng = np.random.default_rng(1)
    n_rejected = 0
    for _ in range(300):
        found = gaussian_unlearning_score(
            0.3 * rng.standard_normal((40, 3, 5)), rng.gamma(0.3, 1, (40, 3, 5)), sigma=0.3
        )
        n_rejected += found.p_mean < 0.05
        assert found.n_used == 40
    assert 4 <= n_rejected <= 29  # Binomial(300, 0.05) leaves it with probability 5e-4


def test_gaussian_scores_are_their_definition_and_find_a_dependence():
    rng = np.random.default_rng(2)
    xi, noise = 0.5 * rng.standard_normal((200, 30)), rng.standard_normal((200, 30))
    g = noise - xi
    found = gaussian_unlearning_score(xi, g, sigma=0.5)
    slow = [a @ b / (0.5 * np.sqrt(b @ b)) for a, b in zip(xi, g, strict=True)]
    np.testing.assert_allclose(found.scores, slow, rtol=1e-12)
    assert found.mean < 0
    assert found.p_mean < 1e-6
    assert found.p_distribution < 1e-6
    assert found.interval[1] < 0
    assert "still depends" in str(found)
    assert found.measured().value == found.mean
    # Whatever the size of the gradient, also where its square underflows.
    tiny = gaussian_unlearning_score(xi, 1e-300 * g, sigma=0.5)
    np.testing.assert_allclose(tiny.scores, found.scores, rtol=1e-12)


def test_zero_gradients_never_pass_for_forgotten():
    rng = np.random.default_rng(3)
    xi, g = rng.standard_normal((20, 4)), rng.standard_normal((20, 4))
    g[:5] = 0
    found = gaussian_unlearning_score(xi, g, sigma=1.0)
    assert np.isnan(found.scores[:5]).all()
    assert (found.n_used, found.n_zero) == (15, 5)
    assert "5 records have no gradient" in str(found)
    assert found.mean == pytest.approx(found.scores[5:].mean())
    with pytest.raises(ValueError, match="neither memory nor forgetting"):
        gaussian_unlearning_score(xi, np.zeros_like(g), sigma=1.0)
    with pytest.raises(ValueError, match="gradients must be finite"):
        gaussian_unlearning_score(xi, np.full_like(g, np.nan), sigma=1.0)
    with pytest.raises(ValueError, match="one shape"):
        gaussian_unlearning_score(xi, g[:, :2], sigma=1.0)
    with pytest.raises(ValueError, match="sigma must be > 0"):
        gaussian_unlearning_score(xi, g, sigma=0.0)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=25))
def test_barrier_is_never_negative_and_ignores_the_slope(losses):
    t = np.linspace(0, 1, len(losses))
    found = barrier_from_losses(t, losses)
    assert found.barrier >= 0
    tilted = barrier_from_losses(t, np.asarray(losses) + 3 * t - 1)
    assert tilted.barrier == pytest.approx(found.barrier, abs=1e-12)


def test_a_convex_path_has_no_barrier_and_bad_paths_are_refused():
    t = np.linspace(0, 1, 25)
    assert barrier_from_losses(t, (t - 0.3) ** 2).barrier == 0
    with pytest.raises(ValueError, match="losses must be finite"):
        barrier_from_losses(t, np.where(t == 0.5, np.nan, t))
    with pytest.raises(ValueError, match="increase from 0 to 1"):
        barrier_from_losses(t[1:], t[1:])
    high, low = barrier_from_losses([0, 0.5, 1], [0, 1, 0]), barrier_from_losses([0, 0.5, 1], [0, 0.25, 0])
    assert "no higher" in barrier_verdict(low, baseline=[low])
    assert "no higher" in barrier_verdict(high, baseline=[low], tolerance=0.8)
    assert "no higher" in barrier_verdict(high, baseline=[low] * 40, tolerance=0.8)
    with pytest.raises(ValueError, match="matched as the barrier is"):
        barrier_verdict(high, baseline=[barrier_from_losses([0, 0.5, 1], [0, 1, 0], matched=True)])
    row = high.measured(baseline=[low, low])
    assert (row.value, row.reference, row.in_band) == (1.0, 0.25, False)
    assert "by chance in 33% of cases" in row.note
    assert "2 pairs of retrained models" in str(row.band)


def of_height(value):
    return barrier_from_losses([0, 0.5, 1], [0, value, 0])


@pytest.mark.parametrize("n_pairs", [1, 3, 10, 18, 19, 45])
def test_exchangeable_barriers_stay_high_in_no_more_than_5_percent_of_cases(n_pairs):
    rng = np.random.default_rng(n_pairs)
    drawn = rng.exponential(size=(1000, n_pairs + 1))
    said = [barrier_verdict(of_height(row[0]), baseline=[of_height(v) for v in row[1:]]) for row in drawn]
    n_high = sum("stays high" in text for text in said)
    if n_pairs < 19:
        assert n_high == 0
        # The chance is said with the verdict, and is the share of cases in which such a barrier is found.
        highest = [text for text in said if "above" in text]
        assert all(f"by chance in {100 / (n_pairs + 1):.2g}% of cases" in text for text in highest)
        assert stats.binomtest(len(highest), 1000, 1 / (n_pairs + 1)).pvalue > 1e-4
    else:
        ranks = (n_pairs + 1) // 20
        assert stats.binomtest(n_high, 1000, ranks / (n_pairs + 1)).pvalue > 1e-4
        assert all("by chance in" in text for text in said if "stays high" in text)


def test_audit_stays_below_the_truth_and_finds_something():
    # N(0.5, 1) against N(0, 1) is exactly 0.5-GDP.
    from expunge.accounting import gdp_epsilon

    rng = np.random.default_rng(4)
    exact = float(gdp_epsilon(0.5, 1e-2))
    below = [
        audited_epsilon(rng.standard_normal(4000) + 0.5, rng.standard_normal(4000), delta=1e-2, confidence=0.9)
        for _ in range(50)
    ]
    assert sum(a.epsilon > exact for a in below) <= 5
    assert np.mean([a.epsilon for a in below]) > 0.3 * exact
    mirrored = audited_epsilon(rng.standard_normal(4000) - 0.5, rng.standard_normal(4000), delta=1e-2)
    assert mirrored.side == "below"
    nothing = audited_epsilon(rng.standard_normal(4000), rng.standard_normal(4000), delta=1e-2)
    assert nothing.epsilon < 0.2
    assert nothing.status == "estimate"
    with pytest.raises(ValueError, match="at least 4 runs"):
        audited_epsilon([0.0], [0.0] * 4, delta=0.1)
    with pytest.raises(ValueError, match="runs_p must be free of NaN"):
        audited_epsilon([np.nan] * 4, [0.0] * 4, delta=0.1)
