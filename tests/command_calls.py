"""Commands run in this process, and folders that a command which fails must leave as they were."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner, Result

from expunge.cli import main

__all__ = ["listing", "refused", "run"]


def run(*arguments: object, code: int = 0) -> Result:
    """Run a command, whose exit code must be this one; what is no error of a command is raised."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, (Exception, SystemExit)):
        raise result.exception
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def refused(*arguments: object, match: str, code: int = 2) -> None:
    """Run a command that must fail with one line, and must leave the folder as it was."""
    before = listing()
    lines = [line for line in run(*arguments, code=code).stderr.splitlines() if line.startswith(("Error", "REFUSED"))]
    assert len(lines) == 1, lines
    assert re.search(match, lines[0]), lines[0]
    assert listing() == before


def listing() -> dict[str, bytes]:
    """Return what is in all files below the folder in which commands run."""
    return {str(file): file.read_bytes() for file in sorted(Path().rglob("*")) if file.is_file()}
