"""``expunge show``: what a certificate says, without the data."""

from __future__ import annotations

import click

from expunge.cli.records import refuse

__all__ = ["show"]


@click.command()
@click.argument("certificate", type=click.Path())
@click.option("--public-key", type=click.Path(), help="Whose signature is required (PEM).")
def show(certificate: str, public_key: str | None) -> None:
    """Print what CERTIFICATE claims, and by whom it is signed. Exit code 1 if the signature does not hold.

    The claim itself is not checked: that takes the data, see expunge verify.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from expunge.certificates import Certificate, VerificationError, load_public_key

    key = None if public_key is None else load_public_key(public_key)
    proof = Certificate.load(certificate)
    click.echo(proof.summary())
    try:
        if key is not None:
            proof.verify_signature(key)
        elif proof.signature is not None:
            proof.verify_signature(Ed25519PublicKey.from_public_bytes(bytes.fromhex(proof.signature.public_key)))
    except VerificationError as error:
        refuse(error)
    if proof.signature is None:
        click.echo("  signature  none")
    else:
        whose = "the key given" if key is not None else "the key it names; --public-key says whether it is theirs"
        click.echo(f"  signature  holds: nothing was changed since {proof.signature.public_key} signed ({whose})")
    click.echo("  not checked against data: expunge verify does that")
