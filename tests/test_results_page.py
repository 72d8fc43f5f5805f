"""Tables of docs/results.md are the numbers of the findings beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "results.md").read_text(encoding="utf-8")
LINES = set(PAGE.splitlines())


def findings(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def two(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def passes(value: float) -> str:
    return "> 200" if value > 200 else f"{value:g}"


def spread(values: list[float], digits: int) -> str:
    middle, low, high = (f"{one:.{digits}f}" for one in values)
    return f"{middle} ({low} to {high})"


def test_rankings_and_sets_of_networks_are_those_found() -> None:
    found = findings("predict")
    for one in found["levels"]:
        low, high = map(two, one["rank_correlation_interval"])
        never = "" if one["never_reached"] is None else f"{one['never_reached']} of {one['n_runs']}"
        seeds = ", ".join(map(two, one["rank_correlation_per_seed"]))
        wanted = (one["noise_std"], one["asks"], two(one["rank_correlation_mean"]), f"{low} to {high}", seeds, never)
        assert row(*wanted) in LINES
    for one in found["forget_sets"]:
        level, loss = one["noise_std"], f"{one['privacy_loss']:,.0f}"
        retrained = f"{two(one['retrained'])} +- {two(one['retrained_std'])}"
        times = [passes(one[f"passes_{name}"]) for name in ("share", "tolerance", "band")]
        attack = ", ".join(two(one[f"mia_{when}"]) for when in ("before", "after", "retrained"))
        numbers = two(one["trained"]), retrained, two(one["gap"]), two(one["share_left"])
        assert row(level, loss, *numbers, *times, attack) in LINES
        assert row(level, loss, *(spread(one[f"ulira_{when}"], 2) for when in ("before", "early", "after"))) in LINES


@pytest.mark.parametrize(
    ("name", "shown", "n"), [("mnist", "MNIST", 8000), ("cifar10", "CIFAR-10", 4085), ("digits", "digits", 1400)]
)
def test_noise_and_gains_of_routes_are_those_found(name: str, shown: str, n: int) -> None:
    found = findings(f"certify_{name}")
    assert found["command"] in PAGE
    for one in found["routes"]:
        sizes = (one["easiest"], one["median"], one["hardest"])
        noise = ["below 1e-10" if 0 < size < 1e-10 else f"{size:.2g}" for size in sizes]
        none = f"{one['need_none']:.0f}", f"{one['need_next_to_none']:.0f}"
        assert row(f"{shown} ({n})", one["route"], one["status"], *noise, *none) in LINES
    at_one = [one for one in found["gains"] if one["epsilon"] == 1.0]
    gains = [spread([100 * x for x in (one["gain"], *one["interval"])], 1) for one in at_one]
    (line,) = (
        line for line in LINES if line.startswith(f"| {shown} | ") and line.endswith(f" | {' | '.join(gains)} |")
    )
    points = {one["point"]: one for one in found["points"] if one["epsilon"] == 1.0}
    left = [spread([points[k]["accuracy_exact"], *points[k]["accuracy_exact_interval"]], 3) for k in (0, 3, 6)]
    (uniform,) = (one for one in found["uniform"] if one["epsilon"] == 1.0)
    assert line.split(" | ")[2:6] == [*left, spread([uniform["accuracy"], *uniform["interval"]], 3)]
    before = re.match(r"\| [\w-]+ \| ([\d.]+) ", line)
    assert before
    assert before[1] == re.search(r"before any deletion ([\d.]+)", " ".join(found["words"]))[1]  # type: ignore[index]


def test_how_models_were_told_apart_is_as_found() -> None:
    found = findings("distinguish_cifar10")
    assert found["command"] in PAGE
    for one in found["told"]:
        n, m = one["judged"]
        assert n == m
        rates = f"{one['hits']} and {one['false_alarms']} of {n} ({one['direction']})"
        sizes = f"{one['privacy_loss']:.3g}", f"{one['average_grad_norm']:.2f}", f"{one['epsilon']:.2f}"
        assert row(one["point"] + 1, *sizes, rates, spread([one["auc"], *one["auc_interval"]], 3)) in LINES
    for one in found["agreement"]:
        ranks = spread([one["rank_correlation"], *one["interval"]], 2)
        assert row(one["measure"], one["truth"], ranks, f"{100 * one['chance']:.2g}%") in LINES
        assert not one["told"]
    assert f"epsilon of {found['largest_shown']:.2f} at most" in PAGE
