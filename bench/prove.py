"""Thousands of random and adversarial problems: no float64 number that is certified is provably wrong.

Every answer - deltas in both directions, epsilons, mu, Renyi divergences, the noise that a search or a quote finds - is
held against an enclosure in ball arithmetic (`proof_problems.py`). Run ``make prove``, or ``python bench/prove.py
--problems 100``; it needs the extra ``proof``. An interrupted run goes on where it stopped, if started again with the
same seed. Exit status 1: a number was wrong; what failed is printed, and run again alone by ``--only NUMBER``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

import timing

BUILD = Path(__file__).resolve().parent.parent / "build"


def outcome_of(seed: int, number: int) -> dict[str, Any]:
    """Return what became of one problem, as JSON values."""
    import proof_problems

    began = time.perf_counter()
    kind, checks, refused = proof_problems.checks_of(seed, number)
    slack = [one.value / one.low - 1 for one in checks if 0 < one.low < math.inf and one.value < math.inf and one.known]
    return {
        "number": number,
        "kind": kind,
        "checks": len(checks),
        "known": sum(one.known for one in checks),
        "wrong": [list(one[:4]) for one in checks if one.wrong],
        "slack": slack,
        "refused": refused,
        "seconds": time.perf_counter() - began,
    }


def done_before(state: Path, seed: int) -> dict[int, dict[str, Any]]:
    """Return the outcomes that an interrupted run wrote, without a last line that was cut off."""
    done: dict[int, dict[str, Any]] = {}
    if state.exists():
        for line in state.read_text().splitlines():
            try:
                one = json.loads(line)
            except json.JSONDecodeError:
                continue
            if one["seed"] == seed:
                done[one["number"]] = one
    return done


def summary(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each kind of problem."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in outcomes:
        kinds[one["kind"]].append(one)
    rows = []
    for kind, some in sorted(kinds.items()):
        slack = sorted(value for one in some for value in one["slack"])
        rows.append(
            {
                "kind": kind,
                "problems": len(some),
                "refused": sum(bool(one["refused"]) for one in some),
                "numbers": sum(one["checks"] for one in some),
                "enclosed to 1e-6": sum(one["known"] for one in some),
                "wrong": sum(len(one["wrong"]) for one in some),
                "median slack": statistics.median(slack) if slack else None,
                "seconds a problem": round(statistics.mean(one["seconds"] for one in some), 4),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="print the checks of this problem alone")
    parser.add_argument("--state", type=Path, help="where outcomes are kept until all are known")
    parser.add_argument("--write", action="store_true", help="write bench/results/prove.json")
    given = parser.parse_args()
    timing.need("flint", extra="proof")
    if given.only is not None:
        import proof_problems

        kind, checks, refused = proof_problems.checks_of(given.seed, given.only)
        print(kind, refused)
        print(*checks, sep="\n")
        return int(any(one.wrong for one in checks))
    state = given.state or BUILD / f"prove-{given.seed}.jsonl"
    state.parent.mkdir(exist_ok=True)
    done = done_before(state, given.seed)
    wanted = range(given.problems)
    with threadpool_limits(1), state.open("a") as file:
        for number in tqdm([n for n in wanted if n not in done], desc="prove", unit="problem"):
            one = {"seed": given.seed, **outcome_of(given.seed, number)}
            file.write(json.dumps(one) + "\n")
            file.flush()
            done[number] = one
            for wrong in one["wrong"]:
                tqdm.write(f"WRONG: problem {number} ({one['kind']}): {wrong}", file=sys.stderr)
    outcomes = [done[number] for number in wanted]
    rows = summary(outcomes)
    print(timing.table(rows))
    failures = [one for one in outcomes if one["wrong"]]
    print(f"{len(failures)} of {given.problems} problems have a number that is provably wrong")
    if given.write:
        timing.write_results(
            "prove",
            rows,
            problems=given.problems,
            seed=given.seed,
            failures=[{"number": one["number"], "kind": one["kind"], "wrong": one["wrong"]} for one in failures],
            seconds=round(sum(one["seconds"] for one in outcomes), 1),
        )
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
