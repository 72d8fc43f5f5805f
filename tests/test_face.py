"""What strangers see first says the same in every place: versions, interpreters, papers."""

from __future__ import annotations

import re
from pathlib import Path

import expunge

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_has_the_version_of_the_package() -> None:
    assert re.search(r"^version: (.+)$", read("CITATION.cff"), flags=re.M)[1] == expunge.__version__


def test_the_citation_and_the_package_name_the_papers_of_the_readme() -> None:
    papers = set(re.findall(r"arXiv (\d{4}\.\d{5})", read("README.md")))
    assert len(papers) == 2
    for page in ("CITATION.cff", "pyproject.toml"):
        assert set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", read(page))) == papers


def test_wheels_workflows_and_classifiers_have_the_same_interpreters() -> None:
    project = read("pyproject.toml")
    listed = re.findall(r"Python :: (3\.\d+)\"", project)
    built = [f"3.{minor}" for minor in re.findall(r"cp3(\d+)-\*", project)]
    tested = re.findall(r"\"(3\.\d+)\"", re.search(r"python: \[(.*?)\]", read(".github/workflows/checks.yml"))[1])
    assert listed == built == tested
    assert re.search(r"requires-python = \">=(3\.\d+)\"", project)[1] == listed[0]


def test_every_page_is_on_the_site() -> None:
    contents = read("docs/contents.md")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"contents"}
    listed = {Path(name).name for name in re.findall(r"^(?:.*<)?([\w./]+)>?$", contents, flags=re.M)}
    assert pages <= listed
    assert {"README", "CONTRIBUTING", "CHANGELOG", "SECURITY"} <= listed


def test_make_targets_of_the_workflows_exist() -> None:
    targets = set(re.findall(r"^([\w./$()-]+):", read("Makefile"), flags=re.M))
    named = {name for path in (ROOT / ".github/workflows").glob("*.yml") for name in re.findall(r"run: make (\S+)",
             path.read_text(encoding="utf-8"))}  # fmt: skip
    assert named
    assert {name.replace(".venv", "$(VENV)") for name in named} <= targets


def test_the_formatter_has_one_version() -> None:
    places = ("pyproject.toml", ".pre-commit-config.yaml")
    (version,) = {found for place in places for found in re.findall(r"clang-format==([\d.]+)", read(place))}
    assert read(".clang-format").startswith(f"# clang-format {version.split('.')[0]}:")
