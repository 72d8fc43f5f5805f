"""The commands that README and docs tell people to type, as they stand there.

A fenced block of ``sh``, ``console`` or ``python`` is run, in the order of its page, in one scratch folder and (Python)
one namespace per page. A comment on the line above the fence says otherwise::

    <!-- needs torch, matplotlib -->              run where these modules are installed
    <!-- not run: compiles for four minutes -->   not run, and why; its commands are checked as all others are

In a ``console`` block, lines that begin with ``$ `` are run, and the others are what they print (not compared).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"sh", "console", "python"}
PLAIN = {"{toctree}", "text", "json", "csv"}
PROGRAMS = ("expunge", "make", "python", "pip", "bash", ".venv/bin/python", ".venv/bin/pip", "cmake")

_FENCE = re.compile(
    r"(?:^<!--[ ]*(?P<comment>[^\n]*?)[ ]*-->\n+)?^[ ]*```(?P<language>[^\n`]*)\n(?P<body>.*?)^[ ]*```[ ]*$",
    flags=re.S | re.M,
)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, line, language, text, the modules it needs, and why it is not run (if it is not)."""

    page: str
    line: int
    language: str
    text: str
    needs: tuple[str, ...]
    not_run: str | None
    comment: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return the pages that tell people what to type."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8") if text is None else text
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    found = []
    for match in _FENCE.finditer(text):
        comment = match["comment"] or ""
        needs = tuple(comment.removeprefix("needs ").replace(",", " ").split()) if comment.startswith("needs ") else ()
        reason = comment.removeprefix("not run:").strip() if comment.startswith("not run") else None
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(Block(name, line, match["language"].strip(), match["body"], needs, reason, comment))
    return found


def commands(text: str, language: str) -> Iterator[list[str]]:
    """Yield the words of every command of a block, without the assignments before it."""
    if language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:&&|\|\|?|;)\s", line):
            words = part.split() if "$(" in part else shlex.split(part, comments=True)
            while words and re.match(r"^[A-Z_]+=", words[0]):
                words = words[1:]
            if words:
                yield words


def inline_code(page: Path) -> list[str]:
    """Return the code within the sentences of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in _INLINE.findall(text)]


def said(page: Path) -> list[list[str]]:
    """Return the words of every command on a page, in blocks and in sentences."""
    found = [words for block in blocks(page) if block.language in ("sh", "console") for words in
             commands(block.text, block.language)]  # fmt: skip
    for code in inline_code(page):
        if code.split(" ")[0] in PROGRAMS and " " in code:
            found += list(commands(code, "sh"))
    return found
