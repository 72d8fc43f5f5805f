"""What a run found, as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutation.justified import Justified
from mutation.mutants import Mutant


@dataclass(frozen=True)
class Outcome:
    """The verdicts of one room, and how many mutants it has."""

    room: str
    total: int
    verdicts: list[tuple[Mutant, dict[str, Any]]]


def write_report(
    out: Path, how: dict[str, Any], outcomes: list[Outcome], justified: Justified, originals: dict[str, str]
) -> int:
    """Write ``report.json`` and ``report.txt``, and return how many survivors have no reason to live."""
    rooms: list[dict[str, Any]] = []
    survivors: list[dict[str, Any]] = []
    for outcome in outcomes:
        counts = Counter(verdict["verdict"] for _, verdict in outcome.verdicts)
        lived = [mutant for mutant, verdict in outcome.verdicts if verdict["verdict"] != "killed"]
        survivors += [
            {
                "room": outcome.room,
                "place": f"python/expunge/{mutant.file}:{mutant.line}",
                "function": mutant.function,
                "change": mutant.change,
                "before": mutant.before,
                "after": mutant.after,
                "reason": justified.reason(mutant),
                "diff": mutant.diff(originals[mutant.file]),
            }
            for mutant in lived
        ]
        rooms.append(
            {
                "room": outcome.room,
                "mutants": outcome.total,
                "tried": len(outcome.verdicts),
                "killed": counts["killed"],
                "justified": sum(justified.reason(m) is not None for m in lived),
                "survived": sum(justified.reason(m) is None for m in lived),
            }
        )
    left = [s for s in survivors if s["reason"] is None]
    payload = {"how": how, "rooms": rooms, "survivors": survivors}
    (out / "report.json").write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    (out / "report.txt").write_text(_text(how, rooms, survivors), encoding="utf-8")
    return len(left)


def _text(how: dict[str, Any], rooms: list[dict[str, Any]], survivors: list[dict[str, Any]]) -> str:
    lines = ["Mutation run: " + ", ".join(f"{k} {v}" for k, v in how.items() if v is not None), ""]
    lines.append(f"{'room':<14}{'mutants':>9}{'tried':>8}{'killed':>8}{'justified':>11}{'survived':>10}")
    lines += [
        f"{room['room']:<14}{room['mutants']:>9}{room['tried']:>8}{room['killed']:>8}"
        f"{room['justified']:>11}{room['survived']:>10}"
        for room in rooms
    ]
    for title, kept in (("Survivors", False), ("Justified survivors", True)):
        chosen = [s for s in survivors if (s["reason"] is not None) == kept]
        if chosen:
            lines += ["", f"{title}:"]
        for survivor in chosen:
            lines.append(f"\n{survivor['place']} in {survivor['function'] or 'the module'}: {survivor['change']}")
            if kept:
                lines.append(f"  because {survivor['reason']}")
            lines += [f"  {line}" for line in survivor["diff"].splitlines()[2:]]
    return "\n".join(lines) + "\n"
