"""What the experiments on networks that memorise share: sets, retrained models, yardsticks, laws, power, words."""

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="experiments need expunge[torch]", exc_type=ImportError)
pytest.importorskip("pyarrow", reason="experiments need expunge[parquet]")
pytest.importorskip("matplotlib", reason="experiments need expunge[plot]")

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expunge.evaluation import time_to_unlearn
from expunge.experiments import barrier, compare, measuring, predict, work
from expunge.experiments.laws import held_out
from expunge.experiments.measuring import left_again, measure_sets
from expunge.experiments.power import detectable, detectable_words
from expunge.experiments.runner import power_of
from expunge.experiments.settings import Settings, preset
from expunge.experiments.shared import (
    answers_of,
    pilot_names,
    read_retrained,
    retrained_models,
    retrained_name,
    run_pilot,
    run_retrained,
)
from expunge.experiments.subjects import build, load
from expunge.experiments.tables import rank_correlation
from expunge.experiments.work import Context, base_model, seed_of, unlearn_many
from expunge.experiments.yardsticks import YARDSTICKS, arrivals, share_left, targets
from expunge.forget_sets import ForgetSet

TINY = Settings(
    model="mlp", width=8, n_train=160, n_test=40, epochs=3, batch_size=32, noise_stds=(0.02,), n_sets=4, set_share=0.05,
    top_share=0.05, n_pilots=1, n_retrained=3, unlearn_epochs=3, early_passes=1, patience=1, n_checkpoints=4,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def context(tmp_path):
    for part in ("trained", "shared"):
        (tmp_path / part).mkdir()
    return Context(TINY, tmp_path, "cpu")


def sets_of(*rows):
    return {f"set{k}": ForgetSet(some, n_records=TINY.n_train) for k, some in enumerate(rows)}


# --- what seeds share --------------------------------------------------------------------------------


def test_sets_are_fixed_by_pilot_runs_and_ordered_by_their_privacy_loss(context):
    subject = load(TINY)
    for name in pilot_names(TINY):
        run_pilot(context, subject, name)
    sets = list(predict._sets(context).values())
    assert [len(one) for one in sets] == [8] * 4
    assert not set(sets[0].indices) & set(sets[-1].indices)
    losses = predict.pilot_scores(context)["privacy_loss"]
    with np.load(context.folder / "shared" / "pilot0.npz") as held:
        np.testing.assert_array_equal(losses, held["privacy_loss"])  # of one pilot run
    assert (np.diff([losses[one.indices].mean() for one in sets]) > 0).all()
    assert losses[sets[0].indices].max() <= np.sort(losses)[8]
    assert losses[sets[-1].indices].min() >= np.sort(losses)[-8]
    tops = compare.chosen(context)
    assert sorted(tops) == sorted(compare.NAMES)
    scores = compare.pilot_scores(context)
    assert scores["c_proxy"][tops["c_proxy"].indices].max() <= np.sort(scores["c_proxy"])[8]
    assert scores["el2n"][tops["el2n"].indices].min() >= np.sort(scores["el2n"])[-8]


def test_retrained_models_never_saw_the_set_and_come_back_as_they_were(context):
    subject = load(TINY)
    forget = ForgetSet(range(20), n_records=TINY.n_train)
    name = retrained_name(0.02, "set0")
    run_retrained(context, subject, name, forget, noise_std=0.02, keep=True)
    before = read_retrained(context, name)
    again = answers_of(context, subject, retrained_models(context, name), forget)
    np.testing.assert_array_equal(again.losses, before.losses)
    assert before.losses.shape == (3, 20)
    assert before.test_losses.shape == (3, 40)
    assert np.ptp(before.losses, axis=0).min() > 0  # starts, batches and noise of their own
    # Other labels on the forgotten records change nothing of the training.
    subject.y[:20] = (subject.y[:20] + 1) % 10
    run_retrained(context, subject, name, forget, noise_std=0.02, keep=True)
    np.testing.assert_array_equal(read_retrained(context, name).test_losses, before.test_losses)


def test_answers_are_those_of_the_model(context):
    subject = load(TINY)
    model = build(TINY, 3)
    found = answers_of(context, subject, [model], ForgetSet([5, 9, 11], n_records=TINY.n_train))
    with torch.no_grad():
        p = torch.softmax(model(subject.x[[5, 9, 11]]).double(), 1)
    p = p[range(3), subject.y[[5, 9, 11]]].numpy()
    np.testing.assert_allclose(found.metric("confidence"), p.mean(), rtol=1e-6)
    np.testing.assert_allclose(found.metric("loss"), -np.log(p).mean(), rtol=1e-6)
    np.testing.assert_allclose(found.margins[0], np.log(p / (1 - p)), rtol=1e-5)
    wins = np.mean([[(a < b) + 0.5 * (a == b) for b in found.test_losses[0]] for a in found.losses[0]])
    assert found.metric("mia")[0] == pytest.approx(wins)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_set_unlearns_alone_as_in_company_and_only_what_is_retained(context, noise):
    subject, sets = load(TINY), sets_of(range(8), range(50, 60))
    base = base_model(context, subject, seed=0, noise_std=noise)
    start = [p.clone() for p in base.parameters()]
    seen = []

    def look(name, model, passes):
        seen.append((name, passes))
        return name == "set1" and passes == 2

    settings = {"seed": 0, "noise_std": noise, "every": 1}
    both = unlearn_many(context, subject, base, sets, look=look, **settings)
    assert seen == [("set0", 0), ("set1", 0), ("set0", 1), ("set1", 1), ("set0", 2), ("set1", 2), ("set0", 3)]
    assert all(torch.equal(a, b) for a, b in zip(start, base.parameters(), strict=True))
    subject.y[:8] = 0  # what is forgotten plays no part
    alone = unlearn_many(context, subject, base, {"set0": sets["set0"]}, look=lambda *_: False, **settings)
    pairs = zip(both["set0"].parameters(), alone["set0"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(both["set0"][1].weight, base[1].weight)


def test_batches_and_noise_are_others_after_every_look(context, monkeypatch):
    seeds, inner = [], work.train_together

    def noted(*given, **settings):
        seeds.extend(settings["seeds"])
        inner(*given, **settings)

    monkeypatch.setattr(work, "train_together", noted)
    subject, sets = load(TINY), sets_of(range(8), range(50, 60))
    base = base_model(context, subject, seed=0, noise_std=0.02)
    unlearn_many(context, subject, base, sets, seed=0, noise_std=0.02, every=1, look=lambda *_: False)
    assert len(set(seeds)) == len(seeds) == 1 + 3 * 2


def test_a_set_that_arrived_is_followed_to_the_early_look(context, monkeypatch):
    monkeypatch.setattr(measuring, "arrivals", lambda *_: dict.fromkeys(YARDSTICKS, 0))
    subject, sets = load(TINY), sets_of(range(8))
    run_retrained(context, subject, retrained_name(0.02, "set0"), sets["set0"], noise_std=0.02)
    (row,) = measure_sets(context, subject, sets, seed=0, noise_std=0.02).values()
    assert row["passes"] == [0, TINY.early_passes]
    assert len(row["margins_early"]) == 8


def test_seeds_are_the_runs_own():
    given = [("base", 0, "0.02"), ("base", 1, "0.02"), ("base", 0, "0.03"), ("unlearn", 0, "0.02", "set0", 0)]
    assert len({seed_of(*one) for one in given}) == len(given)
    assert seed_of("base", 0) == seed_of("base", 0) >= 0


def test_rows_hold_all_metrics_of_every_look(context):
    subject, sets = load(TINY), sets_of(range(8))
    run_retrained(context, subject, retrained_name(0.02, "set0"), sets["set0"], noise_std=0.02)
    (row,) = measure_sets(context, subject, sets, seed=0, noise_std=0.02).values()
    assert row["passes"] == list(range(len(row["passes"])))
    for metric in ("confidence", "loss", "accuracy", "mia"):
        assert len(row[f"curve_{metric}"]) == len(row["passes"])
    assert row["gap"] == row["curve_confidence"][0] - row["confidence_retrained"]
    assert row["share_left"] == share_left(row["before"], row["curve_confidence"][1], row["retrained"])
    bands = targets(TINY, row["before"], row["retrained_per_model"])
    assert arrivals(TINY, row["passes"], row["curve_confidence"], bands) == {
        name: row[f"passes_{name}"] for name in YARDSTICKS
    }


# --- yardsticks --------------------------------------------------------------------------------------


def test_yardsticks_by_hand():
    s = Settings(patience=2)
    bands = targets(s, 1.0, [0.40, 0.44, 0.36, 0.40])
    std = math.sqrt(2 * 0.04**2 / 3)
    assert bands["share"].high == pytest.approx(0.46)
    assert (bands["tolerance"].low, bands["tolerance"].high) == (pytest.approx(0.35), pytest.approx(0.45))
    assert (bands["band"].low, bands["band"].high) == (pytest.approx(0.4 - 2 * std), pytest.approx(0.4 + 2 * std))
    curve = [1.0, 0.455, 0.5, 0.459, 0.30, 0.43, 0.44]
    assert arrivals(s, range(7), curve, bands) == {"share": 3, "tolerance": 5, "band": 5}
    assert arrivals(s, range(3), [1.0, 0.5, 0.44], bands) == {"share": None, "tolerance": None, "band": None}
    assert share_left(1.0, 0.55, 0.4) == pytest.approx(0.25)
    assert share_left(0.4, 0.4, 0.4) is None


def test_of_a_loss_the_gap_closes_upwards():
    s = Settings(metric="loss", patience=1)
    bands = targets(s, 0.1, [1.9, 2.1])
    assert bands["share"].low == pytest.approx(1.81)
    assert arrivals(s, range(4), [0.1, 1.75, 1.85, 5.0], bands)["share"] == 2
    assert bands["tolerance"].low == pytest.approx(1.8)  # 0.2 for a loss


@given(
    before=st.floats(0, 1), mean=st.floats(0, 1), curve=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    patience=st.integers(1, 3),
)  # fmt: skip
def test_a_yardstick_is_met_where_it_says(before, mean, curve, patience):
    s = Settings(patience=patience)
    bands = targets(s, before, [mean, mean])
    met = arrivals(s, range(len(curve)), curve, bands)
    for name, found in met.items():
        inside = bands[name].holds(curve)
        stays = [k for k in range(len(curve) - patience + 1) if inside[k : k + patience].all()]
        assert found == (stays[0] if stays else None)
        assert found == time_to_unlearn(range(len(curve)), curve, bands[name], patience=patience).step


# --- laws and power ----------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["log", "linear", "power"])
def test_the_law_that_made_the_times_errs_least(law):
    x = np.geomspace(2.0, 500.0, 7)
    times = {"log": 5 + 8 * np.log(x), "linear": 3 + 0.5 * x, "power": 2 * x**0.45}[law]
    found = held_out(x, np.tile(times, (3, 1)) + np.array([[-0.01], [0.0], [0.01]]))
    assert found["best"] == law
    assert found[law] < 0.05
    assert found["told"]
    assert found["constant"] > 10 * found[law]


def test_a_set_is_predicted_from_the_others_alone():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    found = held_out(x, np.array([[1.0, 2.0, 3.0, 40.0]]))
    rest = [np.mean([2, 3, 40]), np.mean([1, 3, 40]), np.mean([1, 2, 40]), 2.0]
    assert found["constant"] == pytest.approx(np.mean(np.abs(np.subtract([1, 2, 3, 40], rest))))
    assert found["interval"] == [None, None]
    assert not found["told"]
    times = np.array([[1.0, 2.0, 3.0, math.nan], [1.0, 2.0, math.nan, 5.0]])
    assert held_out(x, times)["left_out"] == 2
    assert held_out(x, np.full((2, 4), 3.0)) is None
    rare = np.full((3, 4), math.nan)
    rare[0] = [1.0, 2.0, 3.0, 5.0]
    assert held_out(x, rare) is None
    assert held_out(x, rare[:2])["left_out"] == 4
    assert held_out(x, np.where(np.arange(4) < 3, np.arange(4.0), math.nan)[None]) is None


@pytest.mark.parametrize("n", [2, 5, 20])
def test_what_is_detectable_is_detected_four_times_in_five(n):
    shift = detectable(n, std=2.0)
    rng = np.random.default_rng(0)
    values = rng.normal(shift, 2.0, size=(40_000, n))
    p = stats.ttest_1samp(values, 0.0, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / 40_000))


def test_power_is_said_before_anything_runs():
    assert detectable(1, std=1.0) == math.inf
    assert "one seed has none" in power_of("predict", TINY, seeds=1)
    assert "too few" in power_of("predict", TINY, seeds=2)
    text = power_of("predict", preset("digits"), seeds=20)
    assert f"a mean rank correlation of {detectable(20, std=1 / math.sqrt(5)):.2g} or more" in text
    assert "20 passes" in power_of("compare", TINY, seeds=5)
    assert "0.1" in power_of("barrier", TINY, seeds=5)
    assert power_of("exact", None, seeds=3) is None
    assert detectable_words(3, std=1.0, what="it", unit="").startswith("Power, stated beforehand: 3 seeds see it of")


# --- words -------------------------------------------------------------------------------------------


def measured(**changes):
    row = {
        "seed": 0, "noise_std": 0.02, "set": 0, "measure": "random", "shared_with_privacy_loss": 1,
        "privacy_loss": 1.0, "run_privacy_loss_q05": 0.1, "run_privacy_loss_q95": 10.0, "n_forget": 5,
        "train_accuracy": 1.0, "before": 1.0, "retrained": 0.5, "retrained_std": 0.02, "gap": 0.5,
        "share_left": 0.3, "passes_share": 10, "passes_tolerance": 12, "passes_band": 14, "most_passes": 100,
        "retrained_per_model": [0.49, 0.51], "band_low": 0.4, "band_high": 0.6, "mia_retrained": 0.5,
        "passes": [0, 10], "curve_confidence": [1.0, 0.5],
        "curve_mia": [1.0, 0.6], "retrained_margins": [[0.0, 1.0], [0.1, 1.2], [0.2, 0.9], [0.3, 1.1]],
    }  # fmt: skip
    row |= changes
    rng = np.random.default_rng(row["seed"])
    row |= {f"margins_{when}": rng.normal(3.0, 1.0, 2).tolist() for when in ("before", "early", "after")}
    if row["passes_share"] is not None:
        row["passes"] = [0, row["passes_share"] or 1]
    return row


def predicted(times, *, seeds=3, **changes):
    return [
        measured(seed=seed, set=k, privacy_loss=2.0**k, gap=0.1 + 0.1 * k, **dict.fromkeys(
            (f"passes_{name}" for name in YARDSTICKS), time
        ), **changes)
        for seed in range(seeds)
        for k, time in enumerate(times(seed))
    ]  # fmt: skip


def of(found, what):
    (one,) = (one for one in found["levels"] if one["what"] == what)
    return one


def test_what_never_arrives_is_said_and_ranks_last():
    found, _ = predict.findings(TINY, predicted(lambda _: [0, 10, 10, None]), n_seeds=3)
    one = of(found, "share")
    assert one["rank_correlation_mean"] == pytest.approx(rank_correlation([1, 2, 4, 8], [0, 10, 10, 101]))
    assert (one["never_reached"], one["reached_at_once"]) == (3, 3)
    assert any("90% of the set's own gap" in text and "3 of 12 never arrived" in text for text in found["words"])
    found, _ = predict.findings(TINY, predicted(lambda _: [None] * 4), n_seeds=3)
    assert of(found, "share")["rank_correlation_mean"] is None
    assert of(found, "gap")["rank_correlation_mean"] == pytest.approx(1.0)
    assert any("the same for all sets in every seed" in text for text in found["words"])
    assert found["law_errors"] == []


def test_who_arrived_and_left_again_is_said():
    rows = predicted(lambda _: [10, 10, 20, 30], seeds=2)
    rows[0] |= {"passes": [0, 10, 20], "curve_confidence": [1.0, 0.5, 0.9]}
    rows[5] |= {"passes": [0, 10, 20], "curve_confidence": [1.0, 0.5, 0.54]}
    assert left_again(TINY, rows[0], "share")
    assert not left_again(TINY, rows[5], "share")
    assert left_again(TINY, rows[5], "band")  # 0.5 +- 0.028
    found, _ = predict.findings(TINY, rows, n_seeds=2)
    assert [of(found, name)["left_again"] for name in YARDSTICKS] == [1, 1, 2]
    assert any("; 2 of the 8 that arrived were outside again later." in text for text in found["words"])
    found, _ = predict.findings(TINY, predicted(lambda _: [None] * 4), n_seeds=3)
    assert of(found, "share")["left_again"] == 0


def test_whether_it_was_memorised_is_said():
    rows = predicted(lambda _: [1, 2, 3, 4])
    assert "memorised, training accuracy 1.000" in predict.findings(TINY, rows, n_seeds=3)[0]["words"][0]
    rows[3]["train_accuracy"] = 0.98
    assert "not all memorised" in predict.findings(TINY, rows, n_seeds=3)[0]["words"][0]


def test_a_seed_without_a_ranking_is_not_left_out():
    found, _ = predict.findings(TINY, predicted(lambda seed: [1, 2, 3, 4] if seed else [5] * 4, seeds=4), n_seeds=4)
    one = of(found, "share")
    assert one["rank_correlation_per_seed"] == [None, 1.0, 1.0, 1.0]
    assert one["rank_correlation_mean"] == pytest.approx(0.75)
    assert any("in 1 of 4 there is no ranking, which counts as 0" in text for text in found["words"])


def test_a_ranking_that_cannot_be_told_says_which_could_have_been():
    found, _ = predict.findings(TINY, predicted(lambda seed: [1, 2, 3, 4][:: 1 if seed else -1], seeds=2), n_seeds=2)
    assert any("no ranking can be told; seeds that differ so much are too few" in text for text in found["words"])
    rows = predicted(lambda seed: [1, 2, 3, 4] if seed == 3 else [2, 1, 1, 2], seeds=9)
    found, _ = predict.findings(TINY, rows, n_seeds=9)
    seen = detectable(9, std=1 / 3)
    assert any(f"no ranking can be told; a mean of {seen:.2f} could have been" in text for text in found["words"])
    found, _ = predict.findings(TINY, predicted(lambda _: [1, 2, 3, 4], seeds=1), n_seeds=1)
    assert any("one seed says nothing about chance" in text for text in found["words"])


def test_laws_are_told_apart_over_seeds():
    found, _ = predict.findings(TINY, predicted(lambda seed: [10 + seed, 20 + seed, 30, 40]), n_seeds=3)
    (one,) = (one for one in found["law_errors"] if one["what"] == "share")
    assert one["best"] == "log"
    assert any("log is best" in text for text in found["words"])


def compared(times):
    return [
        measured(seed=seed, measure=name, **{f"passes_{what}": times(name, seed) for what in YARDSTICKS})
        for name in compare.NAMES
        for seed in range(3)
    ]


def test_measures_are_compared_by_every_yardstick():
    places = {name: 40 - 10 * k for k, name in enumerate(compare.NAMES)}
    found, _ = compare.findings(TINY, compared(lambda name, seed: places[name] + seed), n_seeds=3)
    assert sum("privacy loss against" in text and "longer" in text for text in found["words"]) == 12
    assert any("mean: privacy loss 41, average gradient norm 31" in text for text in found["words"])
    assert any("12 intervals of 95%, not corrected" in text for text in found["words"])
    rows = compared(lambda name, seed: 10 + (5 * seed if name == "privacy_loss" else 5))
    found, _ = compare.findings(TINY, rows, n_seeds=3)
    seen = detectable(3, std=5.0)
    text = f"no difference can be told; one of {seen:.0f} could have been, four times in five"
    assert sum(text in words for words in found["words"]) == 12
    rows = compared(lambda name, seed: None if name == "el2n" else 7)
    found, _ = compare.findings(TINY, rows, n_seeds=3)
    assert any("never arrived: EL2N 3. They count as the maximum, 3 passes" in text for text in found["words"])


def barrier_rows(before, after, between, *, seeds=3, spread=0.0):
    t = np.linspace(0.0, 1.0, 5)
    rows = []
    for part, where in itertools.product(barrier.SETS, barrier.WHERE):
        common = {
            "set": part, "where": where, "noise_std": 0.02, "t": t.tolist(), "losses": [0.1] * 5, "at": 0.5,
            "train_accuracy": 1.0, "confidence": 0.8, "confidence_retrained": 0.5,
        }  # fmt: skip
        rows += [
            {**common, "seed": 0, "kind": "retrained", "passes": -1, "pair": k, "barrier": between + 0.01 * k}
            for k in range(3)
        ]
        for seed, (passes, height) in itertools.product(range(seeds), ((0, before), (10, after))):
            rows += [
                {
                    **common, "seed": seed, "kind": "unlearned", "passes": passes, "pair": k,
                    "barrier": height + spread * (seed - 1),
                }
                for k in range(3)
            ]  # fmt: skip
    return rows


def test_barriers_are_compared_with_those_between_retrained_models():
    found, _ = barrier.findings(TINY, barrier_rows(1.0, 0.9, 0.3), n_seeds=3)
    assert sum("stays higher than between retrained models" in text for text in found["words"]) == 4
    found, _ = barrier.findings(TINY, barrier_rows(1.0, 0.1, 0.3), n_seeds=3)
    assert sum("lower than between retrained models" in text for text in found["words"]) == 4
    found, _ = barrier.findings(TINY, barrier_rows(1.0, 0.31, 0.3, spread=0.1), n_seeds=3)
    assert sum("No difference can be told; one of" in text for text in found["words"]) == 4
    found, _ = barrier.findings(TINY, barrier_rows(1.0, 0.31, 0.3, seeds=1), n_seeds=1)
    assert sum("One seed says nothing about chance" in text for text in found["words"]) == 4


def test_an_interval_knows_of_seeds_and_of_retrained_models():
    rng = np.random.default_rng(1)
    # Models and seeds each have an effect of their own; pairs of retrained models have the effects of both.
    covered = 0
    for _ in range(400):
        of_seeds, of_models = rng.normal(size=6), rng.normal(size=6)
        after = of_seeds[:, None] + of_models[None]
        first, second = np.triu_indices(6, 1)
        _, low, high = barrier.difference(after, of_models[first] + of_models[second])
        covered += low <= 0.0 <= high
    assert covered / 400 > 0.93
    assert barrier.difference(np.zeros((1, 4)), np.zeros(6)) is None
    assert barrier.difference(np.zeros((4, 2)), np.zeros(1)) is None
    assert barrier.difference(np.full((3, 3), 2.0), np.zeros(3))[0] == 2.0
