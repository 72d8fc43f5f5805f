"""Experiment (e): steps that a policy by privacy loss saves, against as many for every set as the hardest needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from expunge.experiments.adaptive_pictures import plot_given, plot_left
from expunge.experiments.power import detectable_words
from expunge.experiments.settings import Settings
from expunge.experiments.shared import (
    answers_of,
    pilot_names,
    pilot_scores,
    read_retrained,
    retrained_name,
    run_pilot,
    run_retrained,
    train_accuracy,
)
from expunge.experiments.subjects import Subject, load
from expunge.experiments.tables import finite, mean_interval
from expunge.experiments.work import NETWORK_LIMITS, NetworkContext, base_model, unlearn_many
from expunge.experiments.yardsticks import arrivals, targets, told_yardstick
from expunge.forget_sets import ForgetSet, quantile_forget_set
from expunge.torch import calibrate_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ARMS",
    "COVERAGE",
    "LIMITS",
    "QUESTION",
    "SETTINGS",
    "TITLE",
    "TRAINS",
    "YARDSTICK",
    "findings",
    "load",
    "noise_levels",
    "parts",
    "power",
    "preparations",
    "prepare",
    "work",
]

TITLE = "How many steps does a policy by privacy loss save?"
QUESTION = (
    "Each set is unlearned by fine-tuning for as many passes as its privacy loss calls for, or, in the other arm, for "
    "as many as the hardest pilot set needed. Passes are calibrated on pilot sets of the same trained model, and "
    "judged on sets that had no part in that."
)
LIMITS = (
    "The passes of the pilot sets themselves, and the models retrained without them, are a cost that both arms have: "
    "the savings come after it.",
    *NETWORK_LIMITS,
)
SETTINGS = Settings
TRAINS = True
COVERAGE = 0.9
YARDSTICK = "share"  # fixed before anything was measured
KEPT = ("confidence", "loss", "accuracy", "mia")
ARMS = {"policy": "by privacy loss", "everybody": "as the hardest pilot set"}
_STD = 0.2  # of the share saved over seeds, assumed for the power that is stated beforehand


def noise_levels(settings: Settings) -> tuple[float, ...]:
    """Return the one noise level."""
    return (settings.noise_std,)


def parts(settings: Settings, seed: int) -> list[str]:
    """Return the pieces of a run: all sets are unlearned together."""
    return ["sets"]


def power(settings: Settings, n_seeds: int) -> str:
    """Say beforehand which mean share of steps these seeds can see."""
    return detectable_words(n_seeds, std=_STD, what="a mean share of steps saved", unit="", most=1.0)


def preparations(settings: Settings) -> list[list[str]]:
    """Return the work that seeds share, stage by stage."""
    return [
        pilot_names(settings),
        [retrained_name(settings.noise_std, f"request{k}") for k in range(_n_sets(settings))],
    ]


def prepare(context: NetworkContext, subject: Subject, name: str) -> None:
    """Do a piece of the work that seeds share."""
    if name.startswith("pilot"):
        return run_pilot(context, subject, name)
    noise = context.settings.noise_std
    (forget,) = (one for part, one in _sets(context).items() if retrained_name(noise, part) == name)
    return run_retrained(context, subject, name, forget, noise_std=noise)


def _n_sets(settings: Settings) -> int:
    """Return the number of sets: two pilot sets for each that is judged."""
    return 3 * settings.n_sets


def is_pilot(k: int) -> bool:
    """Return whether a set calibrates; the others, the middle one of every three by privacy loss, are judged."""
    return k % 3 != 1


def _sets(context: NetworkContext) -> dict[str, ForgetSet]:
    """Return sets of low to high privacy loss that share no record where there is room for that."""
    s, losses = context.settings, pilot_scores(context)["privacy_loss"]
    n = _n_sets(s)
    share = min(s.set_share, 0.9 / n)
    lows = [k / (n - 1) * (1.0 - share) for k in range(n)]
    return {
        f"request{k}": quantile_forget_set(losses, low=low, high=min(1.0, low + share), score_name="privacy_loss")
        for k, low in enumerate(lows)
    }


def work(context: NetworkContext, subject: Subject, part: str, *, seed: int, noise_std: float) -> list[dict[str, Any]]:
    """Follow all sets on one trained model for all passes: both arms are points on the same curves."""
    s, sets = context.settings, _sets(context)
    losses = pilot_scores(context)["privacy_loss"]
    base = base_model(context, subject, seed=seed, noise_std=noise_std)
    trained = train_accuracy(context, subject, base)
    rows: dict[str, dict[str, Any]] = {}
    bands = {}

    def look(name: str, model: nn.Module, passes: int) -> bool:
        found = answers_of(context, subject, [model], sets[name])
        now = {metric: float(found.metric(metric)[0]) for metric in KEPT}
        if passes == 0:
            others = read_retrained(context, retrained_name(noise_std, name))
            values = others.metric(s.metric)
            bands[name] = targets(s, now[s.metric], values)
            k = int(name.removeprefix("request"))
            rows[name] = {
                "seed": seed,
                "noise_std": noise_std,
                "set": k,
                "pilot": is_pilot(k),
                "n_forget": len(sets[name]),
                "privacy_loss": float(losses[sets[name].indices].mean()),
                "train_accuracy": trained,
                "retrained": float(values.mean()),
                "mia_retrained": float(others.metric("mia").mean()),
                "test_accuracy_retrained": float(others.test_accuracy.mean()),
                "most_passes": s.unlearn_epochs,
                "passes": [],
                **{f"curve_{metric}": [] for metric in KEPT},
                "curve_test_accuracy": [],
            }
        row = rows[name]
        row["passes"].append(passes)
        row["curve_test_accuracy"].append(float(found.test_accuracy[0]))
        for metric in KEPT:
            row[f"curve_{metric}"].append(now[metric])
        met = arrivals(s, row["passes"], row[f"curve_{s.metric}"], bands[name])
        row |= {f"passes_{yardstick}": when for yardstick, when in met.items()}
        return False

    unlearn_many(context, subject, base, sets, seed=seed, noise_std=noise_std, every=s.evaluate_every, look=look)
    return list(rows.values())


# --- findings ----------------------------------------------------------------------------------------


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    given = [one for seed in range(n_seeds) for one in _given(settings, [row for row in rows if row["seed"] == seed])]
    seeds = [_seed(given, seed) for seed in range(n_seeds)]
    arms = [_arm(seeds, arm) for arm in ARMS]
    saved = mean_interval([one["saved"] for one in seeds])
    gap = mean_interval([one["policy"]["arrived"] - one["everybody"]["arrived"] for one in seeds])
    result = {
        "words": _words(settings, given, seeds, arms, saved, gap),
        "arms": arms,
        "saved": saved[0],
        "saved_interval": [finite(saved[1]), finite(saved[2])],
        "saved_per_seed": [one["saved"] for one in seeds],
        "arrived_difference_interval": [finite(gap[1]), finite(gap[2])],
        "requests": _requests(settings, given),
    }
    return result, {"passes_given.png": plot_given(given, settings), "gap_left.png": plot_left(given, settings)}


def _given(settings: Settings, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sets of one seed that are judged: passes that each arm gives them, and how they are then."""
    pilots = [row for row in rows if row["pilot"]]
    times = [np.inf if row[f"passes_{YARDSTICK}"] is None else row[f"passes_{YARDSTICK}"] for row in pilots]
    found = calibrate_steps(
        [row["privacy_loss"] for row in pilots],
        times,
        most_steps=settings.unlearn_epochs,
        coverage=min(COVERAGE, len(pilots) / (len(pilots) + 1)),
    )
    judged = [row for row in rows if not row["pilot"]]
    result = []
    for row in judged:
        passes = {"policy": int(found.steps(row["privacy_loss"])), "everybody": found.most_steps}
        result.append(
            {
                **{key: row[key] for key in ("seed", "set", "privacy_loss", "train_accuracy")},
                "needed": row[f"passes_{YARDSTICK}"],
                "pilots_never": found.n_never,
                **{arm: _at(settings, row, given) for arm, given in passes.items()},
            }
        )
    return result


def _at(settings: Settings, row: Mapping[str, Any], given: int) -> dict[str, Any]:
    """Return what a set is like after the passes it is given, or at the next look."""
    at = int(np.searchsorted(row["passes"], given))
    now, before = row[f"curve_{settings.metric}"][at], row[f"curve_{settings.metric}"][0]
    gap = before - row["retrained"]
    needed = row[f"passes_{YARDSTICK}"]
    return {
        "passes": int(row["passes"][at]),
        "arrived": needed is not None and needed <= row["passes"][at],
        "left": 0.0 if gap == 0.0 else (now - row["retrained"]) / gap,
        "distance": abs(now - row["retrained"]),
        "mia_distance": abs(row["curve_mia"][at] - row["mia_retrained"]),
        "test_accuracy": row["curve_test_accuracy"][at],
    }


METRICS = ("passes", "arrived", "left", "distance", "mia_distance", "test_accuracy")


def _seed(given: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    own = [one for one in given if one["seed"] == seed]
    arms = {arm: {name: float(np.mean([one[arm][name] for one in own])) for name in METRICS} for arm in ARMS}
    most = arms["everybody"]["passes"]
    return {"saved": 1.0 - arms["policy"]["passes"] / most if most else 0.0, **arms}


def _arm(seeds: list[dict[str, Any]], arm: str) -> dict[str, Any]:
    found: dict[str, Any] = {"arm": ARMS[arm]}
    for name in METRICS:
        mean, low, high = mean_interval([one[arm][name] for one in seeds])
        found |= {name: mean, f"{name}_interval": [finite(low), finite(high)]}
    return found


def _requests(settings: Settings, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sets that are judged, over seeds."""
    result = []
    for k in sorted({one["set"] for one in given}):
        own = [one for one in given if one["set"] == k]
        needed = [settings.unlearn_epochs + 1 if one["needed"] is None else one["needed"] for one in own]
        result.append(
            {
                "set": k,
                "privacy_loss": own[0]["privacy_loss"],
                "needed": float(np.median(needed)),
                **{f"given_{arm}": float(np.median([one[arm]["passes"] for one in own])) for arm in ARMS},
                **{f"arrived_{arm}": float(np.mean([one[arm]["arrived"] for one in own])) for arm in ARMS},
            }
        )
    return result


def _words(
    settings: Settings,
    given: list[dict[str, Any]],
    seeds: list[dict[str, Any]],
    arms: list[dict[str, Any]],
    saved: tuple[float, float, float],
    gap: tuple[float, float, float],
) -> list[str]:
    policy, everybody = arms
    n = len(seeds)
    accuracy = np.mean([one["train_accuracy"] for one in given])
    judged = len(given) // n
    words = [
        f"At noise {settings.noise_std:g}, training accuracy {accuracy:.3f}: {judged} sets judged in each of {n} "
        f"seeds, calibrated on {2 * judged} pilot sets; asked: {told_yardstick(YARDSTICK, settings)}."
    ]
    text = f"Steps saved: {100 * saved[0]:.0f}%"
    if n > 1:
        text += f" (95% interval over {n} seeds: {100 * saved[1]:.0f}% to {100 * saved[2]:.0f}%)"
        if saved[1] > 0.0:
            text += "; the policy saves steps"
        else:
            text += "; that the policy saves steps cannot be told"
    words.append(
        text + f": {policy['passes']:.1f} passes a set by privacy loss, {everybody['passes']:.1f} as the hardest "
        "pilot set."
    )
    text = (
        f"Sets that arrived: {100 * policy['arrived']:.0f}% by privacy loss, {100 * everybody['arrived']:.0f}% with "
        "passes of the hardest"
    )
    if n > 1:
        text += f" (difference over seeds {100 * gap[1]:+.0f} to {100 * gap[2]:+.0f} points)"
    words.append(text + f"; {100 * COVERAGE:.0f}% were calibrated for.")
    words.append(
        f"At the end, by privacy loss and with passes of the hardest: {settings.metric} {policy['distance']:.3f} and "
        f"{everybody['distance']:.3f} from the retrained mean, AUC of membership {policy['mia_distance']:.3f} and "
        f"{everybody['mia_distance']:.3f} from theirs, test accuracy {policy['test_accuracy']:.3f} and "
        f"{everybody['test_accuracy']:.3f}."
    )
    never = sum(one["pilots_never"] for one in given[::judged])
    if never:
        words.append(
            f"Pilot sets that never arrived count as {settings.unlearn_epochs} passes: {never} of {2 * judged * n}."
        )
    return words
