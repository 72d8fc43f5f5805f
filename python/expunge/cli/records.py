"""``expunge keygen`` and ``ledger``: who answers for deletions, and the book that they are entered in."""

from __future__ import annotations

from typing import NoReturn

import click

from expunge._errors import counted
from expunge.cli.files import load_model, model_digests, overwrite_option

__all__ = ["keygen", "ledger", "ledger_lines", "refuse"]


def refuse(reason: object) -> NoReturn:
    """Say why something does not hold and leave with exit code 1."""
    click.echo(f"REFUSED  {' '.join(str(reason).split())}", err=True)
    raise click.exceptions.Exit(1)


@click.command()
@click.argument("private", type=click.Path())
@click.argument("public", type=click.Path())
@click.option("--ask-password", is_flag=True, help="Ask for a password to encrypt the private key with.")
@overwrite_option
def keygen(private: str, public: str, ask_password: bool, overwrite: bool) -> None:
    """Make an Ed25519 key pair to sign certificates with: files PRIVATE and PUBLIC."""
    from expunge.certificates import generate_key_pair

    password = None
    if ask_password:
        password = click.prompt("password", hide_input=True, confirmation_prompt=True).encode()
    generate_key_pair(private, public, overwrite=overwrite, password=password)
    click.echo(f"private key  {private}  (keep it to yourself)")
    click.echo(f"public key   {public}")


@click.group()
def ledger() -> None:
    """Look at the ledger of deletions."""


@ledger.command()
@click.argument("path", type=click.Path())
def show(path: str) -> None:
    """List the deletions or releases of the ledger at PATH, what they add up to, and what is left of a budget."""
    for line in ledger_lines(path):
        click.echo(line)


def ledger_lines(path: str) -> list[str]:
    """Return what a ledger says, for a person; exit with code 1 if it is broken."""
    from expunge.ledger import Ledger, LedgerError

    book = Ledger(path)
    try:
        entries, total = book.entries(), book.total()
    except LedgerError as error:
        refuse(error)
    lines = []
    for entry in entries:
        lines.append(entry.summary())
        for request in entry.requests:
            number, date = request.number or "without a number", f" of {request.date}" if request.date else ""
            person = "" if request.id is None else f"  id {request.id[:12]}"
            lines.append(f"      request {number}{date}{person}")
    return [*lines, total.summary()]


@ledger.command()
@click.argument("path", type=click.Path())
@click.option("--head", help="Hash of the last line as noted earlier: it must still be in the chain.")
@click.option("--model", type=click.Path(), help="The model as it is now: the last entry must be about it.")
def check(path: str, head: str | None, model: str | None) -> None:
    """Check that the ledger at PATH is whole and unbroken. Exit code 1 if it is not."""
    from expunge.ledger import Ledger, LedgerError, ResidualEntry

    digests = [None] if model is None else model_digests(load_model(model, released=True))
    book = Ledger(path)
    try:
        entries = book.entries()
        last = entries[-1].model_after if entries else None
        book.check(head=head, model=last if last in digests else digests[0])
        found = book.head()
    except LedgerError as error:
        refuse(error)
        return
    by_residual = bool(entries) and isinstance(entries[-1], ResidualEntry)
    click.echo(f"UNBROKEN  {counted(len(entries), 'release' if by_residual else 'deletion')}")
    click.echo(f"head  {found}  (keep it elsewhere: --head sees lines cut from the end)")
