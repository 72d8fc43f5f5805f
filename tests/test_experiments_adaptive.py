"""Experiment (e) on rows that are made up: passes given, steps saved, what arrives, and what is said of it."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="experiments need expunge[torch]", exc_type=ImportError)
pytest.importorskip("matplotlib", reason="experiments need expunge[plot]")

from expunge.experiments import adaptive
from expunge.experiments.settings import Settings

SETTINGS = Settings(n_sets=3, epochs=15, unlearn_epochs=20, early_passes=5, patience=1)


def rows_of(needed, *, seed=0, never=()):
    """Return rows of sets that arrive by every yardstick after the passes given, and from whose gap a tenth is left."""
    rows = []
    for k, passes in enumerate(needed):
        there = None if k in never else passes
        curve = np.where(np.arange(21) >= (99 if there is None else there), 0.51, 0.9)
        rows.append(
            {
                "seed": seed, "noise_std": 0.003, "set": k, "pilot": adaptive.is_pilot(k), "n_forget": 5,
                "privacy_loss": float(2.0**k), "train_accuracy": 1.0, "retrained": 0.5, "mia_retrained": 0.5,
                "test_accuracy_retrained": 0.9, "most_passes": 20, "passes": list(range(21)),
                "curve_confidence": curve.tolist(), "curve_mia": (curve + 0.05).tolist(),
                "curve_test_accuracy": [0.8] * 21,
                **{f"passes_{name}": there for name in ("share", "tolerance", "band")},
            }
        )  # fmt: skip
    return rows


def test_two_sets_calibrate_for_each_that_is_judged():
    assert [k for k in range(9) if not adaptive.is_pilot(k)] == [1, 4, 7]
    assert adaptive._n_sets(SETTINGS) == 9


def test_savings_by_hand():
    """Pilots 0, 2, 3, 5, 6, 8 need 0, 0, 4, 4, 8, 10 passes; sets 1, 4, 7 are judged, and need 0, 5, 9."""
    rows = rows_of([0, 0, 0, 4, 5, 4, 8, 9, 10])
    found, figures = adaptive.findings(SETTINGS, rows, n_seeds=1)
    assert set(figures) == {"passes_given.png", "distance_left.png"}
    for what in ("share", "tolerance", "band"):
        arms = {one["arm"]: one for one in found["arms"] if one["what"] == what}
        envelope, everybody = arms["by the envelope"], arms["as the hardest pilot set"]
        # Up to the next pilot set above: sets 2, 5 and 8.
        assert envelope["passes"] == pytest.approx((0 + 4 + 10) / 3)
        assert envelope["arrived"] == pytest.approx(2 / 3)  # 4 given, 5 needed
        assert envelope["distance"] == pytest.approx((0.01 + 0.4 + 0.01) / 3)
        assert envelope["mia_distance"] == pytest.approx((0.06 + 0.45 + 0.06) / 3)
        assert (everybody["passes"], everybody["arrived"]) == (10.0, 1.0)
        assert (arms["retraining"]["passes"], arms["retraining"]["distance"]) == (15.0, 0.0)
        saved = {one["policy"]: one for one in found["saved"] if one["what"] == what}
        assert saved["by the envelope"]["of_everybody"] == pytest.approx(1 - 14 / 30)
        assert saved["by the envelope"]["of_retrain"] == pytest.approx(1 - 14 / 45)
        assert saved["by the envelope"]["difference"] == pytest.approx(-1 / 3)
        # The line gives as many as the hardest pilot set at most, and covers more.
        assert 0.0 <= saved["by the line"]["of_everybody"] < saved["by the envelope"]["of_everybody"]
        assert saved["by the line"]["difference"] >= saved["by the envelope"]["difference"]
    assert [one["set"] for one in found["requests"]] == [1, 4, 7] * 3
    assert any(
        "53% of the hardest's passes saved and 69% of retraining's; 67% arrive" in text for text in found["words"]
    )


def test_judged_sets_calibrate_nothing():
    one, _ = adaptive.findings(SETTINGS, rows_of([0, 0, 0, 4, 5, 4, 8, 9, 10]), n_seeds=1)
    other, _ = adaptive.findings(SETTINGS, rows_of([0, 20, 0, 4, 20, 4, 8, 20, 10]), n_seeds=1)
    assert [arm["passes"] for arm in one["arms"]] == [arm["passes"] for arm in other["arms"]]
    assert [arm["arrived"] for arm in one["arms"]] != [arm["arrived"] for arm in other["arms"]]


def test_what_would_take_as_long_as_training_is_retrained():
    rows = rows_of([0, 0, 0, 4, 5, 4, 18, 17, 19], never=(8,))
    found, _ = adaptive.findings(SETTINGS, rows, n_seeds=1)
    arms = {one["arm"]: one for one in found["arms"] if one["what"] == "share"}
    assert arms["as the hardest pilot set"]["passes"] == 20.0  # a pilot set that never arrived counts as the most
    assert arms["by the envelope"]["passes"] == pytest.approx((0 + 4 + 15) / 3)
    assert [one["retrained_envelope"] for one in found["requests"][:3]] == [0, 0, 1]
    assert any("1 of 6 pilot sets never arrived" in text for text in found["words"])


def test_intervals_are_over_seeds():
    rows = [row for seed in range(3) for row in rows_of([0, 0, 0, 4, 4, 4, 8, 8, 10 + seed], seed=seed)]
    found, _ = adaptive.findings(SETTINGS, rows, n_seeds=3)
    (saved,) = (one for one in found["saved"] if (one["what"], one["policy"]) == ("share", "by the envelope"))
    shares = [1 - (4 + most) / (3 * most) for most in (10, 11, 12)]
    np.testing.assert_allclose(saved["of_everybody_per_seed"], shares)
    low, high = saved["of_everybody_interval"]
    assert saved["of_everybody"] == pytest.approx(np.mean(shares))
    assert low < saved["of_everybody"] < high
