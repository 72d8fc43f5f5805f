"""The group of commands, and how their errors are shown."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click

from expunge._version import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "demo": ("demo", "Forget a customer and prove it without the customer; then what each digit would take."),
    "fit": ("fit", "Learn a model that can forget from DATA."),
    "quote": ("quote", "Say what forgetting each record of MODEL would cost."),
    "unlearn": ("unlearn", "Delete records from MODEL and certify it."),
    "amend": ("amend", "Replace records of MODEL by corrected ones and certify that the old ones are forgotten."),
    "add": ("amend", "Add the records of TABLE to MODEL and certify the release."),
    "release": ("release", "Write what the last release of MODEL consists of; with --again, release once more."),
    "purge": ("purge", "Rewrite MODEL without the rows of deleted records, and overwrite the old file."),
    "verify": ("verify", "Recompute the claim of CERTIFICATE from DATA."),
    "report": ("report", "Write the page an auditor reads about the last of CERTIFICATES."),
    "show": ("show", "Print what CERTIFICATE claims, and by whom it is signed; or what a ledger holds."),
    "absence": ("absence", "Prove that no record of an id is among the data of CERTIFICATE, or check such a proof."),
    "predict": ("predicting", "Write what MODEL, working or released, predicts for each row of DATA."),
    "evaluate": ("predicting", "Say how well MODEL, working or released, predicts the targets of DATA."),
    "bounds": ("bounds", "Write the smallest and largest values of DATA's features."),
    "noise": ("agreeing", "Agree with another party on the noise of the next release, so that nobody chooses it."),
    "keygen": ("records", "Make an Ed25519 key pair to sign certificates with."),
    "ledger": ("records", "Look at the ledger of deletions."),
    "score": ("scoring", "Score every record of SOURCE."),
    "experiment": ("experiments", "Run an experiment and write its results, pictures and page."),
}
"""Command -> its module below ``expunge.cli``, and the line it has in ``expunge --help``."""


class _BadInput(click.ClickException):
    """An error made by the caller."""

    exit_code = 2


class _Group(click.Group):
    """Imports a command when it is called, and turns every error of the library into one line and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"expunge.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError) as error:
            # click's own exits are RuntimeErrors; a closed pipe is click's to handle.
            if isinstance(error, (click.exceptions.Exit, click.exceptions.Abort, BrokenPipeError)):
                raise
            raise _BadInput(one_line(error)) from None


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print the library's warnings as lines for a person, on stderr, when the command is done."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield  # a command that fails has made nothing to warn of
    for text in dict.fromkeys(" ".join(str(one.message).split()) for one in caught):
        click.echo(f"warning  {text}", err=True)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:  # not the number that the system has for it
        said = error.strerror.lower() if error.filename is None else f"{error.filename}: {error.strerror.lower()}"
    text = " ".join(said.split()).removeprefix("path: ")
    return text or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="expunge")
def main() -> None:
    """Learn models that can forget a record, and prove that they did."""
