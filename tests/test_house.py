"""What CONTRIBUTING and the READMEs say of the repository itself is true of it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen"
NUMBERS = dict(enumerate(_WORDS.split(" ")))
FOLDERS = (".ci", "bench", "cmake", "csrc", "docs", "python", "tests")
SUFFIXES = {"", ".cpp", ".cu", ".cuh", ".hpp", ".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ".cmake"}


def text_files() -> list[Path]:
    """Return the text files that people write, but for Python's (ruff sees to those) and the changelog."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    kept = [path for path in found if path.is_file() and path.suffix in SUFFIXES]
    skipped = {"__pycache__", "results", "golden", ".git", "LICENSE", "CHANGELOG.md"}
    return sorted(path for path in kept if not skipped & set(path.relative_to(ROOT).parts))


def test_lines_end_at_120() -> None:
    files = text_files()
    assert {".cpp", ".cu", ".md", ""} <= {path.suffix for path in files}
    long = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            table = path.suffix == ".md" and line.startswith("|")
            if len(line) > 120 and not table and " " in line.strip():
                long.append(f"{path.relative_to(ROOT)}:{number}: {len(line)}")
    assert not long, "\n".join(long)


def test_docstrings_say_what_a_thing_is() -> None:
    wrong = []
    for path in sorted((ROOT / "python").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                first = (ast.get_docstring(node) or "").partition(" ")[0]
                wrong += (
                    [f"{path.name}: {getattr(node, 'name', 'module')}"] if first in ("What", "Where", "Which") else []
                )
    assert not wrong


def test_the_places_of_a_stem_are_as_many_as_said_and_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = re.search(r"^One stem, (\w+) places\.", text, flags=re.M)
    assert said
    rows = text[said.end() :].split("\n| --- | --- |\n")[1].split("\n\n")[0].splitlines()
    assert NUMBERS[len(rows)] == said[1]
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row.split("|")[1])
        assert (ROOT / first).exists(), first
        for other in others:  # a name alone lies beside the first
            assert (ROOT / other).exists() or (ROOT / first).with_name(other).exists(), other


def test_the_readme_counts_its_lines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    heading, block = re.search(r"^## (\w+) lines\n+```python\n(.*?)```", text, flags=re.S | re.M).groups()
    assert NUMBERS[sum(bool(line.strip()) for line in block.splitlines())] == heading.lower()


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_results_say_where_they_come_from(path: Path) -> None:
    if path.stem.startswith("gpu"):
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"expunge", "numpy", "python", "architecture", "isa", "threads"} <= found["environment"].keys()


def test_numbers_of_the_readme_are_those_of_their_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = json.loads((ROOT / "bench" / "results" / "mnist_ridge.json").read_text(encoding="utf-8"))
    assert f"({found['accuracy_before']:.3f} before)" in text
    rows = re.findall(r"^\| the [^|]+\| ([\d.]+) \| ([\d.]+) \|$", text, flags=re.M)
    assert rows == [(f"{row['median_noise_std']:.3f}", f"{row['accuracy']:.3f}") for row in found["rows"]]


def test_times_of_programs_are_those_of_their_results() -> None:
    page = " ".join((ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8").split())
    rows = json.loads((ROOT / "bench" / "results" / "programs.json").read_text(encoding="utf-8"))["rows"]
    found = {(row["columns"], row["step"]): row for row in rows}
    for columns in (256, 768):
        fit = found[columns, "fit"]
        for of in ("program", "real numbers"):
            assert f"{fit[f'{of}, s']:.2g} s" in page
    assert (
        " and ".join(f"{found[columns, 'unlearn']['ratio']:.1f}" for columns in (256, 768)) + " times as long" in page
    )


@pytest.mark.parametrize("name", ["predict", "compare", "barrier"])
def test_the_page_of_results_says_what_its_commands_said(name: str) -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    found = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    for words in found["words"]:
        assert " ".join(words.split()) in page
    assert found["command"] in page
    for value in found["environment"].values():
        assert str(value) in page
    assert found["status"] == "estimate"


def test_packages_show_no_advice_among_their_names() -> None:
    shown = [path for path in (ROOT / "python").rglob("__init__.py") if "import how_to_install\n" in path.read_text()]
    assert not shown
