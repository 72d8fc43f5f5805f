"""Experiment (g): how well networks with and without a record can be told apart, beside its privacy loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import Float64
from expunge.evaluation import auc
from expunge.experiments.distinguish_pictures import plot_margins, plot_told
from expunge.experiments.settings import Settings, preset
from expunge.experiments.shared import answers_of, pilot_names, pilot_scores, run_pilot, train_accuracy
from expunge.experiments.subjects import Subject, build, load
from expunge.experiments.tables import finite, rank_correlation
from expunge.experiments.told import chance_of, largest_shown, least_told, resampled, told_apart
from expunge.experiments.work import NetworkContext, seed_of, train_together
from expunge.forget_sets import ForgetSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "LIMITS",
    "QUESTION",
    "SETTINGS",
    "TITLE",
    "TRAINS",
    "distinguish_preset",
    "findings",
    "load",
    "noise_levels",
    "parts",
    "power",
    "preparations",
    "prepare",
    "work",
]

TITLE = "Can models with and without a record be told apart?"
QUESTION = (
    "Many networks are trained with noise on all records, and as many without each of seven, chosen from low to high "
    "privacy loss of pilot runs. By the margin of the record alone, how well can the two be told apart, and do privacy "
    "loss and gradient norm rank the seven as that does?"
)
LIMITS = (
    "A lower bound from one statistic of the final model: another attack, or one that sees the training, may tell "
    "more, and 0 does not show that there is nothing. Privacy losses are about all steps.",
    "Seven records of one split, chosen by the privacy loss that they are then held against. Bounds hold at 95% for "
    "each record, not for all together; the models with the records are the same for all seven.",
    "Everything here is an estimate about these settings and certifies nothing. All rows are in results.parquet.",
)
SETTINGS = Settings
TRAINS = True
N_RECORDS, LOT = 7, 50
DELTA, CONFIDENCE = 1e-5, 0.95
_RESAMPLES = 300
_FEWEST = 8  # models a side, so that four choose and four judge
MEASURES = {"privacy_loss": "privacy loss", "average_grad_norm": "average gradient norm"}
TRUTHS = {"epsilon": "the lower bound on epsilon", "auc": "the AUC of margins"}


def distinguish_preset(
    data: str, *, model: str = "strided", data_folder: str | None = None, **changes: object
) -> Settings:
    """Return the settings the experiment has by default on a data set: few records, small networks, many of them.

    Parameters
    ----------
    data : {"digits", "mnist", "cifar10"}
        The data set.
    model, data_folder, **changes
        As of `expunge.experiments.preset`; ``n_retrained`` is the number of models a side.

    Returns
    -------
    Settings

    Raises
    ------
    TypeError, ValueError
        If a field is unknown, of the wrong kind or out of range.

    Examples
    --------
    >>> distinguish_preset("digits").n_retrained
    400
    """
    small: dict[str, Any] = {
        "n_train": 200, "n_test": 200, "batch_size": 20, "noise_stds": (0.003,), "n_retrained": 400
    }  # fmt: skip
    if model == "strided":
        small["width"] = 8
    return preset(data, model=model, data_folder=data_folder, **{**small, **changes})


def noise_levels(settings: Settings) -> tuple[float, ...]:
    """Return the one noise level."""
    return (settings.noise_std,)


def parts(settings: Settings, seed: int) -> list[str]:
    """Return the pieces of a seed, which is as many models again: lots with all records, and without each of seven."""
    _check(settings)
    lots = range(-(-settings.n_retrained // LOT))
    return [f"{side}-lot{k}" for k in lots for side in ("with", *(f"without{j}" for j in range(N_RECORDS)))]


def _check(settings: Settings) -> None:
    """Refuse settings that are good for the other experiments alone."""
    for name, low in (("n_retrained", _FEWEST), ("n_train", N_RECORDS + 1)):
        if getattr(settings, name) < low:
            raise ValueError(f"{name} must be >= {low} for distinguish, got {getattr(settings, name)}")
    if len(settings.noise_stds) != 1:
        raise ValueError(f"noise_stds must hold one level for distinguish, got {settings.noise_stds}")


def power(settings: Settings, n_seeds: int) -> str:
    """Say beforehand the largest epsilon that these models can show, and the least correlation that can be told."""
    _check(settings)
    n = n_seeds * settings.n_retrained
    most = largest_shown(n, delta=DELTA, confidence=CONFIDENCE)
    return (
        f"Power, stated beforehand: {n} models a side, half of which choose the threshold and half judge it, can show "
        f"an epsilon of {most:.2f} at most (delta {DELTA:g}, confidence {100 * CONFIDENCE:g}%), however large it is. "
        f"Of {N_RECORDS} records a rank correlation below {least_told(N_RECORDS):.2f} in size cannot be told from "
        "chance (two-sided, 5%)."
    )


def preparations(settings: Settings) -> list[list[str]]:
    """Return the work that seeds share, stage by stage."""
    return [pilot_names(settings)]


def prepare(context: NetworkContext, subject: Subject, name: str) -> None:
    """Do a piece of the work that seeds share."""
    run_pilot(context, subject, name)


def chosen(losses: Float64) -> NDArray[np.int64]:
    """Return the seven records, from the lowest privacy loss to the highest, at even ranks."""
    order = np.argsort(losses, kind="stable")
    return np.asarray(order[np.linspace(0, len(losses) - 1, N_RECORDS).round().astype(int)], dtype=np.int64)


def work(context: NetworkContext, subject: Subject, part: str, *, seed: int, noise_std: float) -> list[dict[str, Any]]:
    """Train a lot of models and keep their margins at the records in question."""
    s = context.settings
    scores = pilot_scores(context)
    records = chosen(scores["privacy_loss"])
    side, lot = part.split("-lot")
    first = LOT * int(lot)
    numbers = range(first, min(first + LOT, s.n_retrained))
    seeds = [seed_of("distinguish", seed, side, k) for k in numbers]
    models = [build(s, own).to(context.device) for own in seeds]
    point = None if side == "with" else int(side.removeprefix("without"))
    asked = records if point is None else records[[point]]
    kept = None if point is None else np.setdiff1d(np.arange(s.n_train), asked)
    train_together(
        context, subject, models, seeds=seeds, noise_std=noise_std, epochs=s.epochs, sampling="poisson",
        subsets=[kept] * len(models),
    )  # fmt: skip
    # Margins come in the order of a forget set's indices, which are sorted.
    places = np.argsort(np.argsort(asked))
    forget = ForgetSet(asked, s.n_train)
    found = answers_of(context, subject, models, forget)
    rows: list[dict[str, Any]] = [
        {
            "kind": "model", "seed": seed, "model": k, "point": point, "margins": margins[places].tolist(),
            "test_accuracy": float(tested), "train_accuracy": train_accuracy(context, subject, model),
        }
        for k, margins, tested, model in zip(numbers, found.margins, found.test_accuracy, models, strict=True)
    ]  # fmt: skip
    if seed == 0 and part == "with-lot0":
        rows += [
            {"kind": "record", "point": j, "record": int(i), **{name: float(scores[name][i]) for name in MEASURES}}
            for j, i in enumerate(records)
        ]
    return rows


# --- findings ----------------------------------------------------------------------------------------


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    models = sorted((row for row in rows if row["kind"] == "model"), key=lambda row: (row["model"], row["seed"]))
    records = sorted((row for row in rows if row["kind"] == "record"), key=lambda row: row["point"])
    present = np.array([row["margins"] for row in models if row["point"] is None])
    sides = [
        (present[:, j], np.array([row["margins"][0] for row in models if row["point"] == j]))
        for j in range(len(records))
    ]
    rng = np.random.default_rng(0)
    samples = [_measured(resampled(sides, rng)) for _ in range(_RESAMPLES)]
    truths = _measured(sides)
    table = [_record(row, side, samples, truths) for row, side in zip(records, sides, strict=True)]
    most = largest_shown(len(present), delta=DELTA, confidence=CONFIDENCE)
    agreement = [
        _agreement(np.array([row[measure] for row in records]), measure, truth, truths[truth], samples)
        for truth in TRUTHS for measure in MEASURES
    ]  # fmt: skip
    found: dict[str, Any] = {
        "models_a_side": len(present),
        "largest_shown": most,
        "least_told": least_told(len(records)),
        "delta": DELTA,
        "confidence": CONFIDENCE,
        "train_accuracy": float(np.mean([row["train_accuracy"] for row in models])),
        "test_accuracy": float(np.mean([row["test_accuracy"] for row in models])),
        "told": table,
        "agreement": agreement,
    }
    figures = {"told.png": plot_told(table, most), "margins.png": plot_margins(sides, table)}
    return {"words": _words(settings, found), **found}, figures


def _measured(sides: Sequence[tuple[Float64, Float64]]) -> dict[str, Float64]:
    return {
        "epsilon": np.array([told_apart(*one, delta=DELTA, confidence=CONFIDENCE).epsilon for one in sides]),
        "auc": np.array([auc(present, absent) for present, absent in sides]),
    }


def _interval(values: Float64) -> list[float | None]:
    known = values[np.isfinite(values)]
    return [float(one) for one in np.quantile(known, [0.025, 0.975])] if known.size else [None, None]


def _record(
    row: dict[str, Any], side: tuple[Float64, Float64], samples: list[dict[str, Float64]], truths: dict[str, Float64]
) -> dict[str, Any]:
    point, told = row["point"], told_apart(*side, delta=DELTA, confidence=CONFIDENCE)
    return {
        **{key: row[key] for key in ("point", "record", *MEASURES)},
        "epsilon": told.epsilon,
        "status": told.audit.status,
        "direction": told.direction,
        "threshold": told.audit.threshold,
        "side": told.audit.side,
        "hits": told.audit.hits,
        "false_alarms": told.audit.false_alarms,
        "judged": [told.audit.n_p, told.audit.n_q],
        "auc": float(truths["auc"][point]),
        "auc_interval": _interval(np.array([one["auc"][point] for one in samples])),
    }


def _agreement(
    measure: Float64, name: str, truth: str, values: Float64, samples: list[dict[str, Float64]]
) -> dict[str, Any]:
    """Return how a measure ranks the records beside how they were told apart, with an interval over models."""
    found = rank_correlation(measure, values)
    drawn = np.array([rank_correlation(measure, one[truth]) for one in samples])
    chance = chance_of(measure, values)
    return {
        "measure": MEASURES[name],
        "truth": TRUTHS[truth],
        "rank_correlation": finite(found),
        "interval": _interval(drawn) if math.isfinite(found) else [None, None],
        "chance": chance,
        "told": chance is not None and chance <= 0.05,
    }


def _words(s: Settings, found: dict[str, Any]) -> list[str]:
    words = [
        f"{found['models_a_side']} models a side, {s.n_train} records of {s.data}, noise {s.noise_std:g}: training "
        f"accuracy {found['train_accuracy']:.3f}, test accuracy {found['test_accuracy']:.3f}."
    ]
    for row in found["told"]:
        low, high = row["auc_interval"]
        start = f"Record {row['point'] + 1} of {len(found['told'])} (privacy loss {row['privacy_loss']:.3g}): "
        if row["epsilon"] > 0.0:
            start += f"epsilon is at least {row['epsilon']:.2f} at {100 * found['confidence']:g}%"
        else:
            start += f"no difference can be told by a threshold, where {found['largest_shown']:.2f} is the most to show"
        words.append(f"{start}; AUC of margins {row['auc']:.3f} ({low:.3f} to {high:.3f}).")
    words += [_agreement_words(row, found) for row in found["agreement"]]
    words.append("Intervals of 95% are over models, given the seven records, and not corrected for their number.")
    return words


def _agreement_words(row: dict[str, Any], found: dict[str, Any]) -> str:
    if row["rank_correlation"] is None:
        return f"{row['truth'][0].upper()}{row['truth'][1:]} is the same for all records: no ranking to agree with."
    low, high = row["interval"]
    text = (
        f"Rank correlation of {row['measure']} with {row['truth']}: {row['rank_correlation']:.2f} ({low:.2f} to "
        f"{high:.2f}); of all orders of the records {100 * row['chance']:.2g}% are as far from 0"
    )
    if row["told"]:
        return text + "."
    return f"{text}: not told from chance, where {found['least_told']:.2f} could have been."
