"""``expunge verify``, ``keygen`` and ``ledger``: what is left to check after a deletion."""

from __future__ import annotations

from typing import Any

import click

from expunge._wording import counted
from expunge.cli.files import load_model, model_digests, overwrite_option
from expunge.cli.reading import data_options, read_data

__all__ = ["keygen", "ledger", "refuse", "verify"]


def refuse(reason: object) -> None:
    """Say why something does not hold and leave with exit code 1."""
    click.echo(f"REFUSED  {' '.join(str(reason).split())}", err=True)
    raise click.exceptions.Exit(1)


@click.command()
@click.argument("certificate", type=click.Path())
@click.argument("data")
@data_options
@click.option("--model", type=click.Path(), help="The released or working model, to be compared with the certificate.")
@click.option("--public-key", type=click.Path(), help="Whose signature is required (PEM).")
@click.option("--max-epsilon", type=float, help="Refuse a claim with a larger epsilon.")
@click.option("--max-delta", type=float, help="Refuse a claim with a larger delta.")
@click.option(
    "--allow-conditional/--no-conditional",
    default=None,
    help="Whether a claim that rests on conditions will do.  [default: unless --max-epsilon or --max-delta is given]",
)
@click.option("--budget", type=float, help="Refuse to spend more operations than this.  [default: 1e11]")
def verify(
    certificate: str,
    data: str,
    model: str | None,
    public_key: str | None,
    max_epsilon: float | None,
    max_delta: float | None,
    allow_conditional: bool | None,
    budget: float | None,
    **reading: Any,
) -> None:
    """Recompute the claim of CERTIFICATE from DATA, deleted rows included. Exit code 1 if it does not hold.

    DATA and the options that say how it is read are those of fit.
    """
    from expunge.certificates import Certificate, Policy, VerificationError, load_public_key

    key = None if public_key is None else load_public_key(public_key)
    policy = None
    if max_epsilon is not None or max_delta is not None or allow_conditional is not None:
        policy = Policy(
            max_epsilon=max_epsilon, max_delta=max_delta, public_key=key, allow_conditional=bool(allow_conditional)
        )
    released = None if model is None else load_model(model, released=True)
    proof = Certificate.load(certificate)
    records, task = read_data(data, task="regress" if proof.run.classes is None else "classify", **reading)
    for condition in records.conditions:
        if condition not in proof.conditions:
            refuse(f"conditions: must say that {condition}, as the table of constants does; it is missing")
    more = {} if budget is None else {"budget": budget}
    try:
        report = proof.verify(records.X, task.y, released, public_key=key, policy=policy, **more)
    except VerificationError as error:
        how = "; say --id-column, --features, --drop, --divide-by, --bounds and --cosine-features as at fit"
        refuse(f"{error}{how if error.field == 'digests.X' else ''}")
    else:
        click.echo(f"VERIFIED  {report.summary()}")


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
    """List the deletions of the ledger at PATH and what they add up to."""
    from expunge.ledger import Ledger, LedgerError

    book = Ledger(path)
    try:
        entries, total = book.entries(), book.total()
    except LedgerError as error:
        refuse(error)
        return
    for entry in entries:
        click.echo(
            f"{entry.entry:4d}  {entry.time}  record {entry.record[:12]}  gone {entry.n_deleted}  "
            f"epsilon {entry.epsilon:g}  delta {entry.delta:g}  {entry.method}, {entry.status}"
        )
        for request in entry.requests:
            number, date = request.number or "without a number", f" of {request.date}" if request.date else ""
            person = "" if request.id is None else f"  id {request.id[:12]}"
            click.echo(f"      request {number}{date}{person}")
    click.echo(total.summary())


@ledger.command()
@click.argument("path", type=click.Path())
@click.option("--head", help="Hash of the last line as noted earlier: it must still be in the chain.")
@click.option("--model", type=click.Path(), help="The model as it is now: the last entry must be about it.")
def check(path: str, head: str | None, model: str | None) -> None:
    """Check that the ledger at PATH is whole and unbroken. Exit code 1 if it is not."""
    from expunge.ledger import Ledger, LedgerError

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
    click.echo(f"UNBROKEN  {counted(len(entries), 'deletion')}")
    click.echo(f"head  {found}  (keep it elsewhere: --head sees lines cut from the end)")
