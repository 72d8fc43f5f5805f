"""What README and docs tell people to type works as written; what they name exists."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import documented
from documented import COMMANDS, PLAIN, PROGRAMS, ROOT, Block, blocks, inline_code, pages, said
from expunge.cli import main

PAGES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]
MINUTES = 5
# Commands run in another folder, where relative entries would name nothing.
_GIVEN = os.environ.get("PYTHONPATH", "").split(os.pathsep)
PYTHONPATH = os.pathsep.join(str(Path(entry).resolve()) for entry in _GIVEN if entry)


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in COMMANDS and block.not_run is None]


def run_shell(block: Block, folder: Path) -> None:
    text = block.text
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    script = folder / ".bin" / "expunge"  # of the package under test, also where it is not installed
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from expunge.cli import main; main()" "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": PYTHONPATH, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
    )
    assert done.returncode == 0, f"{block}:\n{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page.values[0])])
def test_the_commands_of_a_page_run_as_written(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    left_out = []
    for block in runnable(page):
        missing = [module for module in block.needs if importlib.util.find_spec(module) is None]
        if missing:
            left_out.append(f"{block} needs {', '.join(missing)}")
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        else:
            run_shell(block, tmp_path)
    if len(left_out) == len(runnable(page)):
        pytest.skip("; ".join(left_out))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is_and_why_it_is_not_run(page: Path) -> None:
    for block in blocks(page):
        assert block.language in COMMANDS | PLAIN, f"{block}: a fence needs a language of {sorted(COMMANDS | PLAIN)}"
        if block.language in PLAIN:
            first = block.text.split()[0] if block.text.split() else ""
            assert first not in PROGRAMS, f"{block}: a command is not {block.language}"
        if block.comment.startswith("not run"):
            assert re.match(r"not run: \S+ \S+ \S+", block.comment), f"{block}: say in a few words why it is not run"


def option_names(command: click.Command) -> set[str]:
    return {name for param in command.params for name in [*param.opts, *param.secondary_opts]} | {"--help", "-h"}


def check_expunge(words: list[str]) -> str | None:
    """Return what is wrong with a call of the command line, by its own word on its commands and options."""
    command: click.Command = main
    rest = words[1:]
    known = option_names(main) | {"--version"}
    context = click.Context(main)
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        if re.search(r"\||^[A-Z]+$", rest[0]):
            names, rest = rest[0].split("|"), rest[1:]
            missing = [n for n in names if not n.isupper() and command.get_command(context, n) is None]
            return f"no command {missing}" if missing else None
        found = command.get_command(context, rest[0])
        if found is None:
            return f"there is no command {rest[0]!r}"
        command, rest = found, rest[1:]
        known |= option_names(command)
    for word in rest:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in known:
            return f"there is no option {name} of {command.name}"
    return None


def check_command(words: list[str]) -> str | None:
    """Return what is wrong with a command, as far as can be told without running it."""
    program, *rest = words
    if program == "expunge":
        return check_expunge(words)
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
        missing = [word for word in rest if re.fullmatch(r"[a-z-]+", word) and word not in targets]
        return f"the Makefile has no {missing}" if missing else None
    if program.endswith("pip") or rest[:2] == ["-m", "pip"]:
        text = (ROOT / "pyproject.toml").read_text()
        for extra in re.findall(r"\.\[([a-z,]+)\]", " ".join(rest)):
            missing = [name for name in extra.split(",") if not re.search(rf"^{name} = \[", text, flags=re.M)]
            if missing:
                return f"there is no extra {missing}"
        return "expunge is on no package index" if any(word.startswith("expunge") for word in rest) else None
    if program in ("bash", "python") or program.endswith("/python"):
        scripts = [word for word in rest if re.search(r"\.py$|^\.ci/", word)]
        missing = [script for script in scripts if not (ROOT / script).is_file() and "/" in script]
        return f"there is no {missing}" if missing else None
    return None


@pytest.mark.parametrize("page", PAGES)
def test_commands_targets_options_and_scripts_exist(page: Path) -> None:
    wrong = [f"{' '.join(words)}: {fault}" for words in said(page) if (fault := check_command(words))]
    assert not wrong, "\n".join(wrong)


def resolve(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: Any = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:]:
                if not hasattr(found, part) and part not in getattr(found, "__dataclass_fields__", {}):
                    return False
                found = getattr(found, part, None)
            return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_of_the_library_exists(page: Path) -> None:
    torch = importlib.util.find_spec("torch") is not None
    others = ("lightning", "opacus", "transformers")
    absent = tuple(f"expunge.integrations.{name}" for name in others if importlib.util.find_spec(name) is None)
    absent += () if importlib.util.find_spec("distributed") else ("expunge.distributed",)
    absent += () if importlib.util.find_spec("jax") else ("expunge.jax",)
    names = {m[0] for code in inline_code(page) for m in [re.match(r"expunge(\.[A-Za-z_]\w*)+", code)] if m}
    needs_torch = re.compile(r"expunge\.(torch|experiments|evaluation\.networks)\b")
    compiled = re.compile(r"expunge\._(core|cuda)")
    missing = [
        n
        for n in sorted(names)
        if not compiled.match(n) and (torch or not needs_torch.match(n)) and not n.startswith(absent) and not resolve(n)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        if "://" in place:
            continue
        file = (page.parent / place) if place else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name} links to {target}, which is no heading"


# --- the checks themselves ------------------------------------------------------------------------------


def test_blocks_are_read_with_their_marks() -> None:
    text = "a\n<!-- not run: takes an hour -->\n```sh\nmake x\n```\n"
    text += "<!-- needs torch, numpy -->\n```python\n1\n```\n```\n2\n```\n"
    found = blocks(ROOT / "x.md", text)
    assert [(b.language, b.needs, b.not_run, b.line) for b in found] == [
        ("sh", (), "takes an hour", 3),
        ("python", ("torch", "numpy"), None, 7),
        ("", (), None, 10),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "expunge fitt data.npz",
        "expunge fit data.npz --no-such-option 3",
        "expunge ledger nothing",
        "make nothing",
        "python bench/nothing.py",
        "pip install 'expunge[torch]'",
        "pip install '.[nothing]'",
        "X=1 .venv/bin/python bench/nothing.py",
        "make test && make nothing",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    assert any(check_command(words) for words in documented.commands(line, "sh"))


@pytest.mark.parametrize(
    "line",
    [
        "expunge fit data.npz model.npz --overwrite",
        "make test PYTHON=python3",
        "bash .ci/run",
        "pip install '.[torch,plot]'",
        "python bench/bench_ridge.py",
    ],
)
def test_a_right_command_is_left_alone(line: str) -> None:
    checked = [check_command(words) for words in documented.commands(line, "sh")]
    assert checked
    assert not any(checked)


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    block = Block("x.md", 1, "sh", "false | true\necho on\n", (), None, "")
    with pytest.raises(AssertionError, match=r"x\.md:1"):
        run_shell(block, tmp_path)
