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
from expunge.experiments.yardsticks import YARDSTICKS, arrivals, targets, told_yardstick
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
    "as many as the hardest pilot set needed. Passes are calibrated on pilot sets of the same trained model, by a line "
    "with a margin and by an envelope, and judged on sets that had no part in that. Where a policy would give as many "
    "passes as training takes, it retrains."
)
LIMITS = (
    "The passes of the pilot sets themselves, and the models retrained without them, are a cost that both arms have: "
    "the savings come after it.",
    *NETWORK_LIMITS,
)
SETTINGS = Settings
TRAINS = True
COVERAGE = 0.9
KEPT = ("confidence", "loss", "accuracy", "mia")
# Added after the first five seeds had shown that one margin for all sets gives every set nearly what the hardest needs:
# the envelope. Later seeds had not been looked at.
POLICIES = {"line": "by the line", "envelope": "by the envelope"}
ARMS = {**POLICIES, "everybody": "as the hardest pilot set", "retrain": "retraining"}
METRICS = ("passes", "arrived", "distance", "mia_distance", "test_accuracy")
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
    """Return the findings, in numbers and words, and the pictures: for every yardstick, whichever looks best."""
    accuracy = np.mean([row["train_accuracy"] for row in rows])
    judged = settings.n_sets
    words = [
        f"At noise {settings.noise_std:g}, training accuracy {accuracy:.3f}: {judged} sets judged in each of {n_seeds} "
        f"seeds, calibrated on {2 * judged} pilot sets for a coverage of {100 * COVERAGE:.0f}%."
    ]
    arms: list[dict[str, Any]] = []
    saved: list[dict[str, Any]] = []
    requests: list[dict[str, Any]] = []
    all_given: dict[str, list[dict[str, Any]]] = {}
    for what in YARDSTICKS:
        lots = [[row for row in rows if row["seed"] == seed] for seed in range(n_seeds)]
        given = [one for lot in lots for one in _given(settings, lot, what)]
        seeds = [_seed(given, seed) for seed in range(n_seeds)]
        own = {arm: _arm(seeds, arm, what) for arm in ARMS}
        all_given[what] = given
        arms += own.values()
        requests += _requests(settings, given, what)
        words.append(_first_words(settings, what, given, own))
        for policy in POLICIES:
            gains = _savings(seeds, policy, what)
            saved.append(gains)
            words.append(_words(settings, what, given, own, gains, policy, n_seeds))
    if n_seeds > 1:
        words.append("Intervals of 95% over seeds, not corrected for their number.")
    result = {"words": words, "arms": arms, "saved": saved, "requests": requests}
    return result, {
        "passes_given.png": plot_given(all_given, settings),
        "distance_left.png": plot_left(all_given, settings),
    }


def _given(settings: Settings, rows: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the sets of one seed that are judged: passes that each arm gives them, and how they are then."""
    pilots = [row for row in rows if row["pilot"]]
    times = [np.inf if row[f"passes_{what}"] is None else row[f"passes_{what}"] for row in pilots]
    losses = [row["privacy_loss"] for row in pilots]
    rules = {
        rule: calibrate_steps(
            losses,
            times,
            most_steps=settings.unlearn_epochs,
            rule=rule,
            coverage=min(COVERAGE, len(pilots) / (len(pilots) + 1)),
        )
        for rule in POLICIES
    }
    result = []
    for row in rows:
        if row["pilot"]:
            continue
        passes = {rule: int(found.steps(row["privacy_loss"])) for rule, found in rules.items()}
        most = rules["line"].most_steps
        again = _retrained(settings, row)
        result.append(
            {
                **{key: row[key] for key in ("seed", "set", "privacy_loss")},
                "needed": row[f"passes_{what}"],
                "pilots_never": rules["line"].n_never,
                **{k: _at(settings, row, n, what) if n < settings.epochs else again for k, n in passes.items()},
                "everybody": _at(settings, row, most, what),
                "retrain": again,
            }
        )
    return result


def _at(settings: Settings, row: Mapping[str, Any], given: int, what: str) -> dict[str, Any]:
    """Return how a set is after the passes it is given, or at the next look."""
    at = int(np.searchsorted(row["passes"], given))
    needed = row[f"passes_{what}"]
    return {
        "passes": int(row["passes"][at]),
        "arrived": needed is not None and needed <= row["passes"][at],
        "distance": abs(row[f"curve_{settings.metric}"][at] - row["retrained"]),
        "mia_distance": abs(row["curve_mia"][at] - row["mia_retrained"]),
        "test_accuracy": row["curve_test_accuracy"][at],
        "retrained": False,
    }


def _retrained(settings: Settings, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of a set that is retrained without: it is where retrained models are."""
    return {
        "passes": settings.epochs, "arrived": True, "distance": 0.0, "mia_distance": 0.0,
        "test_accuracy": row["test_accuracy_retrained"], "retrained": True,
    }  # fmt: skip


def _seed(given: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    own = [one for one in given if one["seed"] == seed]
    arms = {arm: {name: float(np.mean([one[arm][name] for one in own])) for name in METRICS} for arm in ARMS}
    found: dict[str, Any] = dict(arms)
    for policy in POLICIES:
        mine, most = arms[policy], arms["everybody"]
        found[f"of_{policy}"] = {
            "of_everybody": 1.0 - mine["passes"] / most["passes"] if most["passes"] else 0.0,
            "of_retrain": 1.0 - mine["passes"] / arms["retrain"]["passes"],
            "difference": mine["arrived"] - most["arrived"],
        }
    return found


def _savings(seeds: list[dict[str, Any]], policy: str, what: str) -> dict[str, Any]:
    """Return the shares of steps that a policy saves of both other arms, and the difference of what arrived."""
    found: dict[str, Any] = {"what": what, "policy": POLICIES[policy]}
    for name in ("of_everybody", "of_retrain", "difference"):
        values = [one[f"of_{policy}"][name] for one in seeds]
        mean, low, high = mean_interval(values)
        found |= {name: mean, f"{name}_interval": [finite(low), finite(high)], f"{name}_per_seed": values}
    return found


def _arm(seeds: list[dict[str, Any]], arm: str, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {"what": what, "arm": ARMS[arm]}
    for name in METRICS:
        mean, low, high = mean_interval([one[arm][name] for one in seeds])
        found |= {name: mean, f"{name}_interval": [finite(low), finite(high)]}
    return found


def _requests(settings: Settings, given: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the sets that are judged, over seeds."""
    result = []
    for k in sorted({one["set"] for one in given}):
        own = [one for one in given if one["set"] == k]
        needed = [settings.unlearn_epochs + 1 if one["needed"] is None else one["needed"] for one in own]
        result.append(
            {
                "what": what,
                "set": k,
                "privacy_loss": own[0]["privacy_loss"],
                "needed": float(np.median(needed)),
                "never": sum(one["needed"] is None for one in own),
                **{f"given_{a}": float(np.median([one[a]["passes"] for one in own])) for a in (*POLICIES, "everybody")},
                **{f"retrained_{a}": sum(one[a]["retrained"] for one in own) for a in POLICIES},
                **{f"arrived_{a}": sum(one[a]["arrived"] for one in own) for a in (*POLICIES, "everybody")},
            }
        )
    return result


def _asks(what: str, settings: Settings) -> str:
    asks = told_yardstick(what, settings)
    return asks[0].upper() + asks[1:]


def _first_words(settings: Settings, what: str, given: list[dict[str, Any]], arms: dict[str, dict[str, Any]]) -> str:
    """Return what everybody gets who is treated as the hardest."""
    one = arms["everybody"]
    text = f"{_asks(what, settings)}: as the hardest pilot set {one['passes']:.1f} passes for each set, and "
    text += f"{_state(settings, one)}; retraining takes {settings.epochs} passes."
    never = sum(one["pilots_never"] for one in given[:: settings.n_sets])
    if never:
        text += f" {never} of {2 * len(given)} pilot sets never arrived and count as {settings.unlearn_epochs} passes."
    return text


def _words(
    settings: Settings,
    what: str,
    given: list[dict[str, Any]],
    arms: dict[str, dict[str, Any]],
    saved: dict[str, Any],
    policy: str,
    n_seeds: int,
) -> str:
    one = arms[policy]
    text = f"{_asks(what, settings)}, {POLICIES[policy]}: {one['passes']:.1f} passes a set"
    again = sum(one[policy]["retrained"] for one in given)
    if again:
        text += f" ({again} of {len(given)} retrained)"
    text += f", {_saved(saved, 'of_everybody', n_seeds)} of the hardest's passes saved and "
    text += f"{_saved(saved, 'of_retrain', n_seeds)} of retraining's; {_state(settings, one)}"
    if n_seeds > 1:
        low, high = saved["difference_interval"]
        text += f" (arrived: {100 * low:+.0f} to {100 * high:+.0f} points against the hardest's passes)"
    return text + "."


def _state(settings: Settings, one: dict[str, Any]) -> str:
    return (
        f"{100 * one['arrived']:.0f}% arrive, {settings.metric} ends {one['distance']:.3f} from the retrained mean, "
        f"AUC of membership {one['mia_distance']:.3f} from theirs, test accuracy {one['test_accuracy']:.3f}"
    )


def _saved(saved: dict[str, Any], name: str, n_seeds: int) -> str:
    mean = 100 * saved[name]
    if n_seeds == 1:
        return f"{mean:.0f}%"
    low, high = (100 * one for one in saved[f"{name}_interval"])
    return f"{mean:.0f}% ({low:.0f}% to {high:.0f}%)"
