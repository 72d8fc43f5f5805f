"""``expunge show``: what a certificate, its evidence, a proof about an id or a ledger says, without the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from expunge._errors import counted
from expunge._files import FileFormatError
from expunge.cli.files import load_evidence_and_model, load_network_evidence
from expunge.cli.newton import holds_no_rows
from expunge.cli.records import ledger_lines, refuse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from expunge.certificates import Certificate, ProofStatement
    from expunge.certificates.network import NetworkCertificate, NetworkEvidence
    from expunge.certificates.residual import AbsenceProof, MembershipProof, ResidualCertificate, ResidualEvidence
    from expunge.cli.files import Newton

__all__ = ["show"]


@click.command()
@click.argument("certificate", type=click.Path())
@click.option("--public-key", type=click.Path(), help="Whose signature is required (PEM).")
def show(certificate: str, public_key: str | None) -> None:
    """Print what CERTIFICATE claims, and by whom it is signed; or what a ledger holds.

    Exit code 1 if the signature does not hold, or the ledger is broken.

    The claim itself is not checked: that takes the data, see expunge verify. Evidence and working models (.npz), proofs
    about an id, statements that a claim was proved, and ledgers can be shown, too: of a ledger every entry, and what is
    left of the budget of releases.
    """
    from expunge.certificates import load_public_key

    key = None if public_key is None else load_public_key(public_key)
    lines: list[str] | None = None
    if Path(certificate).suffix.lower() == ".npz":
        lines = _archive_lines(certificate)
    elif _is_ledger(certificate):
        lines = ledger_lines(certificate)
    elif (proof := _proof(certificate)) is not None:
        lines = _proof_lines(proof)
    if lines is None:
        _certificate(_signed(certificate), key)
        return
    if key is not None:
        raise ValueError(f"--public-key is for certificates, and {certificate} is not one")
    for line in lines:
        click.echo(line)


def _certificate(
    proof: Certificate | ResidualCertificate | NetworkCertificate | ProofStatement, key: Ed25519PublicKey | None
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from expunge.certificates import VerificationError

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


def _signed(path: str) -> Certificate | ResidualCertificate | NetworkCertificate | ProofStatement:
    """Return the certificate, or the statement about one, in a file."""
    from expunge.certificates import ProofStatement, load

    return ProofStatement.load(path) if _format(path) == ProofStatement.format else load(path)


def _format(path: str) -> object:
    """Return what the JSON in a file says of its format."""
    from expunge.certificates.signed import json_values, text_of

    values = json_values(text_of(path))
    return values.get("format") if isinstance(values, dict) else None


def _is_ledger(path: str) -> bool:
    """Return whether a file begins as a ledger does."""
    try:
        with open(path, "rb") as file:
            return file.read(64).startswith(b'{"format":"expunge-ledger"')
    except OSError:  # said when it is read
        return False


def _proof(path: str) -> AbsenceProof | MembershipProof | None:
    """Return the proof in a file, or None if its format is another."""
    from expunge.certificates.residual import AbsenceProof, MembershipProof

    name = _format(path)
    if name == "expunge-absence-proof":
        return AbsenceProof.load(path)
    return MembershipProof.load(path) if name == "expunge-membership-proof" else None


def _proof_lines(proof: AbsenceProof | MembershipProof) -> list[str]:
    return [
        f"{type(proof).__name__} about {proof.record_id!r} and {counted(proof.n_records, 'record')}, root {proof.root}",
        f"  shows: {proof.shows}",
        *(f"  limits: {text}" for text in proof.does_not_show),
        "  not checked against a certificate: expunge absence does that",
    ]


def _archive_lines(path: str) -> list[str]:
    """Return what evidence or a working model says, of a head by itself or of a network."""
    try:
        return _evidence_lines(*load_evidence_and_model(path))
    except FileFormatError as error:
        try:
            return _network_lines(load_network_evidence(path))
        except FileFormatError:
            raise error from None


def _network_lines(evidence: NetworkEvidence) -> list[str]:
    return [
        f"evidence of the network's certificate {evidence.certificate} (confidential)",
        f"  backbone trained with {counted(evidence.n_trained, 'record')} of the first fit, of which "
        f"{evidence.n_deleted:,} left or were corrected",
        *_evidence_lines(evidence.head, None),
    ]


def _evidence_lines(evidence: ResidualEvidence, model: Newton | None) -> list[str]:
    both = evidence.before_after
    lines = [
        f"evidence of certificate {evidence.certificate} (confidential: it undoes the noise)",
        f"  action   {evidence.action}, {counted(evidence.n_changed, 'record')} concerned, "
        f"{counted(len(evidence.ids), 'record')} now",
        f"  work     {evidence.passes} passes over the data, {counted(evidence.refreshes, 'new inverse Hessian')}",
        f"  reached  |gradient| <= {evidence.residual_bound:.3g}",
    ]
    if both is not None:
        shown = f"{both.epsilon:.3g}" if np.isfinite(both.epsilon) else "infinite"
        lines.append(
            f"  before/after epsilon {shown}: for whoever saw the model before and after, which no claim covers"
        )
    if model is not None:
        if holds_no_rows(model):
            lines.append("  data     in a table of their own: hashes and ids of the records are here, and no row")
        done, left = model.certificate_.release, model.releases_left_
        lines.append(f"  budget   release {done:,} of {done + left:,}, {left:,} left")
    return lines
