"""The group of commands, and what becomes of their errors."""

from __future__ import annotations

from typing import Any

import click

from expunge import __version__
from expunge.cli.demo import demo
from expunge.cli.experiments import experiment
from expunge.cli.fit import fit
from expunge.cli.quote import quote
from expunge.cli.records import keygen, ledger, verify
from expunge.cli.scoring import score
from expunge.cli.unlearn import unlearn

__all__ = ["main"]


class _BadInput(click.ClickException):
    """An error of the caller's."""

    exit_code = 2


class _Group(click.Group):
    """Turns every error of the library into one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError) as error:
            # click's own exits are RuntimeErrors; a closed pipe is click's to handle.
            if isinstance(error, (click.exceptions.Exit, click.exceptions.Abort, BrokenPipeError)):
                raise
            raise _BadInput(one_line(error)) from None


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    text = " ".join(str(error).split()).removeprefix("path: ")
    return text or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="expunge")
def main() -> None:
    """Learn ridge models that can forget a record, and prove that they did."""


for command in (demo, fit, quote, unlearn, verify, keygen, ledger, score, experiment):
    main.add_command(command)
