"""The mutation tester finds what it should: planted survivors live, everything else is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.justified import Justified
from mutation.mutants import mutants, thinned
from mutation.rooms import ROOMS
from mutation.verdicts import noted, read_verdicts
from mutation.workshop import Baseline, Workshop

TESTS = Path(__file__).resolve().parent
SOURCES = TESTS.parent / "python" / "expunge"

SMALL = '''
"""A package of one function."""

SLACK = 1e-9


def capped(x, *, limit=10):
    """Return x, at most limit."""
    if not x >= 0:
        raise ValueError("x must be at least 0")
    return min(x, limit) * (1 + SLACK)


def unseen(x):
    return x + 1
'''
WATCHFUL = """
import pytest
from expunge.small import capped

def test_capped():
    assert capped(3) == 3 * (1 + 1e-9)
    assert capped(11) == 10 * (1 + 1e-9)
    assert capped(0) == 0
    with pytest.raises(ValueError):
        capped(-1)
"""
CHILD = """
import sys, json
from pathlib import Path
from mutation.mutants import mutants, thinned
from mutation.workshop import Workshop, measure, trees

root = Path(sys.argv[1])
text = (root / "python/expunge/small.py").read_text()
with trees(root, root, 1) as copies:
    baseline = measure(copies[0], ["tests/test_small.py"], ["small.py"])
    found = [(m.change, m.function, v["verdict"]) for m, v in Workshop(copies, baseline).run(mutants("small.py", text))]
    unchanged = (copies[0] / "python/expunge/small.py").read_text() == text
print(json.dumps({"found": found, "failed": baseline.failed, "unchanged": unchanged}))
"""


def changes(text: str) -> set[tuple[str, str]]:
    return {(mutant.change, mutant.after) for mutant in mutants("a.py", text)}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_planted_survivors_live_and_all_others_are_killed(tmp_path: Path) -> None:
    package = tmp_path / "python" / "expunge"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "small.py").write_text(SMALL)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_small.py").write_text(WATCHFUL)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n')
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["failed"] == []
    assert answer["unchanged"]
    verdicts = {(change, function): verdict for change, function, verdict in answer["found"]}
    assert verdicts["+ -> -", "unseen"] == "survived"
    assert {function for (_, function), verdict in verdicts.items() if verdict != "killed"} == {"unseen"}
    for change in ("not removed", ">= -> >", ">= -> <", "raise removed", "min -> max", "1 -> 2", "10 -> 11"):
        assert verdicts[change, "capped"] == "killed"
    assert verdicts["1e-9 -> 0.0", ""] == "killed"


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ("f(x < y)", "< -> <=", "f(x <= y)"),
        ("f(x < y)", "< -> >=", "f(x >= y)"),
        ("f((a) - (b))", "- -> +", "f((a) + (b))"),
        ("x *= 2", "*= -> /=", "x /= 2"),
        ("x = a and b", "and -> or", "x = a or b"),
        ("x = a is not b", "is not -> is", "x = a is b"),
        ("x = not a", "not removed", "x = (a)"),
        ("x = -a", "- removed", "x = (a)"),
        ("x = True", "True -> False", "x = False"),
        ("x = 1e-12", "1e-12 -> 0.0", "x = 0.0"),
        ("x = np.maximum(a, b)", "maximum -> minimum", "x = np.minimum(a, b)"),
        ("x = np.nextafter(a, np.inf)", "inf -> -inf", "x = np.nextafter(a, (-np.inf))"),
        ("x = np.nextafter(a, np.inf)", "nextafter(x) -> x", "x = (a)"),
        ("x = f(a, b=1, c=2)", "b= dropped", "x = f(a, c=2)"),
        ("x = f(a, b=1, c=2)", "c= dropped", "x = f(a, b=1)"),
        ("check(a)", "call of check removed", "pass"),
        ("raise ValueError('no')", "raise removed", "pass"),
        ("def f(): return x", "return None", "def f(): return None"),
        ("x = 'é' if a < b else c", "< -> <=", "x = 'é' if a <= b else c"),
    ],
)
def test_each_change_is_made_in_its_place(before: str, change: str, after: str) -> None:
    assert (change, after) in changes(before)


def test_text_for_people_and_for_type_checkers_is_left_alone() -> None:
    text = '"""Doc 1."""\nimport a\n__all__ = ["b"]\nx: Literal[1]\n\n\n@f(1)\ndef g(): ...\n'
    assert changes(text) == set()
    assert changes("x = f(a, stacklevel=2)") == set()
    assert changes("raise ValueError('a', 1)") == {("raise removed", "pass")}


def test_the_killers_of_neighbours_run_first_then_the_quickest_within_the_seconds_given() -> None:
    mutant = next(mutants("a.py", "def f():\n    return x < y\n"))
    seconds = {"slow": 5.0, "quick": 0.1, "middle": 1.0, "elsewhere": 0.0}
    baseline = Baseline(seconds, {"a.py:2": ["middle", "quick", "slow"]}, [])
    assert Workshop([], baseline).tests_of(mutant) == ["quick", "middle", "slow"]
    assert Workshop([], baseline, seconds=1.1).tests_of(mutant) == ["quick", "middle"]
    work = Workshop([], baseline, seconds=0.01)
    assert work.tests_of(mutant) == ["quick"]
    work.killers["a.py", "g"]["middle"] += 1
    assert work.tests_of(mutant) == ["quick"]
    work.killers["a.py", "f"]["slow"] += 1
    assert work.tests_of(mutant) == ["slow"]


def test_a_mutant_is_named_by_content() -> None:
    source = "x = a < b\ny = a < b\n"
    keys = [mutant.key for mutant in mutants("a.py", source)]
    moved = [mutant.key for mutant in mutants("a.py", "\n\nz = 'a'\n" + source)]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(moved)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_sources_and_tests(room: str) -> None:
    for pattern in ROOMS[room].sources:
        assert list(SOURCES.glob(pattern)), pattern
    for pattern in ROOMS[room].tests:
        assert list(TESTS.glob(pattern)), pattern


def test_every_justified_survivor_is_still_a_mutant() -> None:
    kept = Justified.read()
    assert kept.entries
    found = {
        file: list(mutants(file, (SOURCES / file).read_text(encoding="utf-8")))
        for file in {entry["file"] for entry in kept.entries}
    }
    stale = [e for e in kept.entries if not any(Justified((e,)).reason(mutant) for mutant in found[e["file"]])]
    assert stale == []


def test_a_kill_is_kept_until_its_source_or_its_test_changes_and_a_survivor_until_anything_does(tmp_path: Path) -> None:
    source, test = tmp_path / "python/expunge/small.py", tmp_path / "tests/test_small.py"
    for path, text in ((source, SMALL), (test, WATCHFUL)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    kill = {"verdict": "killed", "by": "tests/test_small.py::test_capped"}
    late, lived = {"verdict": "killed", "by": "time limit"}, {"verdict": "survived"}
    notes = tmp_path / "verdicts.jsonl"
    entries = {
        name: noted("small.py", v, "old", root=tmp_path) for name, v in zip("abc", (kill, late, lived), strict=True)
    }
    notes.write_text(
        "".join(json.dumps({"key": name, **entry}) + "\n" for name, entry in entries.items()) + '{"key": "d", "ver'
    )

    def kept(state: str) -> set[str]:
        return set(read_verdicts(notes, state, root=tmp_path))

    assert kept("old") == {"a", "b", "c"}
    assert kept("new") == {"a", "b"}
    test.write_text(WATCHFUL + "\n")
    assert kept("new") == {"b"}
    test.write_text(WATCHFUL)
    assert kept("new") == {"a", "b"}
    source.write_text(SMALL + "\n")
    assert kept("new") == set()


def test_a_baseline_is_the_sum_of_its_files() -> None:
    whole = Baseline({"a.py::x": 1.0, "b.py::y": 2.0}, {"s.py:3": ["a.py::x", "b.py::y"]}, ["b.py::z", "b.py"])
    parts = whole.by_file(["a.py", "b.py", "c.py"])
    assert parts["b.py"] == Baseline({"b.py::y": 2.0}, {"s.py:3": ["b.py::y"]}, ["b.py::z", "b.py"])
    assert Baseline.joined(parts.values()) == whole


def test_at_most_so_many_changes_of_a_line_are_tried_whatever_the_other_lines_hold() -> None:
    found = list(mutants("small.py", SMALL))
    chosen = thinned(found, 1, 0)
    assert {m.line for m in chosen} == {m.line for m in found}
    assert len({m.line for m in chosen}) == len(chosen)
    assert len({tuple(thinned(found, 1, seed)) for seed in range(20)}) > 1
    moved = list(mutants("small.py", "\n" + SMALL))
    assert {m.key for m in thinned(moved, 1, 0)} == {m.key for m in chosen}


def test_a_survivor_without_a_reason_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "room.json").write_text(
        json.dumps([{"file": "a.py", "function": "f", "before": "x", "reason": "fine"}])
    )
    with pytest.raises(ValueError, match="needs file, function, before and a reason"):
        Justified.read(tmp_path)
