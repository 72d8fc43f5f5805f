"""``expunge unlearn``: a deletion, its certificate and its entry in the ledger."""

from __future__ import annotations

from pathlib import Path

import click

from expunge.certificates import load_private_key
from expunge.cli.files import load_model, model_digests, overwrite_option, parse_indices, ready, staged
from expunge.cli.options import check_ending, delta_option, epsilon_option, method_option
from expunge.ledger import Ledger

__all__ = ["unlearn"]


@click.command()
@click.argument("model", type=click.Path())
@click.argument("indices")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the new working model goes (.npz).")
@click.option("-c", "--certificate", required=True, type=click.Path(), help="Where the certificate goes (.json).")
@click.option("--released", type=click.Path(), help="Also write the predict-only model there (.npz).")
@epsilon_option
@delta_option
@click.option("--n-steps", type=int, default=30, show_default=True, help="Unlearning steps.")
@method_option
@click.option("--key", type=click.Path(), help="Private key (PEM) to sign the certificate with.")
@click.option("--ask-password", is_flag=True, help="Ask for the key's password.")
@click.option("--ledger", "ledger_path", type=click.Path(), help="Enter the deletion in this ledger.")
@overwrite_option
def unlearn(
    model: str,
    indices: str,
    output: str,
    certificate: str,
    released: str | None,
    epsilon: float,
    delta: float,
    n_steps: int,
    method: str,
    key: str | None,
    ask_password: bool,
    ledger_path: str | None,
    overwrite: bool,
) -> None:
    """Delete rows from MODEL and certify it; INDICES are rows of the first fit, as in 3,7,10-12."""
    for path in (output, released):
        check_ending(path, (".npz",))
    check_ending(certificate, (".json",))
    outputs = [output, certificate, released]
    ready(outputs, overwrite=overwrite)
    rows = parse_indices(indices)
    password = click.prompt("password of the key", hide_input=True).encode() if key and ask_password else None
    private_key = None if key is None else load_private_key(key, password=password)
    if ledger_path is not None and Path(ledger_path).exists():
        Ledger(ledger_path).check()
    before = load_model(model)
    result = before.unlearn(rows, epsilon=epsilon, delta=delta, n_steps=n_steps, method=method)
    proof = result.certificate if private_key is None else result.certificate.sign(private_key)
    with staged(outputs, overwrite=overwrite) as (place, proof_place, public):
        assert place is not None
        assert proof_place is not None
        result.model.save(place)
        proof.save(proof_place)
        if public is not None:
            result.model.release().save(public)
        if ledger_path is not None:
            Ledger(ledger_path).append(proof, model_before=model_digests(before)[0])
    click.echo(proof.summary())
    click.echo(f"model  {output}  (confidential: it holds the data)")
    click.echo(f"certificate  {certificate}  (confidential)")
    if released is not None:
        click.echo(f"predict-only model  {released}")
    if ledger_path is not None:
        click.echo(f"entered in  {ledger_path}")
