"""``expunge absence``: a proof that nobody of an id is among the data of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from expunge._errors import counted
from expunge.cli.files import load_evidence, overwrite_option
from expunge.cli.identifiers import parse_id
from expunge.cli.options import check_ending
from expunge.cli.outputs import Outputs
from expunge.cli.records import refuse

if TYPE_CHECKING:
    from expunge.certificates.residual import AbsenceProof, ResidualCertificate

__all__ = ["absence"]


@click.command()
@click.argument("certificate", type=click.Path())
@click.argument("source", type=click.Path())
@click.option("--id", "record_id", help="Whose absence is shown; may be omitted where a proof is checked.")
@click.option("-o", "--output", type=click.Path(), help="Where the proof goes (.json).")
@click.option("--public-key", type=click.Path(), help="Whose signature of the certificate is required (PEM).")
@overwrite_option
def absence(
    certificate: str, source: str, record_id: str | None, output: str | None, public_key: str | None, overwrite: bool
) -> None:
    """Prove that no record of an id is among the data of CERTIFICATE, or check such a proof. Exit code 1 if it fails.

    SOURCE is the certificate's evidence or the working model, to make a proof for --id and write it to --output; or a
    proof (.json), to check it. Give it to the person it is about, with the certificate: to check takes nothing else.
    """
    from expunge.certificates import VerificationError, load_public_key
    from expunge.certificates.residual import AbsenceProof, ResidualCertificate

    check_ending(output, (".json",))
    given = Path(source).suffix.lower() == ".json"
    if given and output is not None:
        raise ValueError("--output goes with evidence or a working model: SOURCE is a proof already")
    if not given and record_id is None:
        raise ValueError("--id must say whose absence is to be shown")
    inputs = {"CERTIFICATE": certificate, "SOURCE": source, "--public-key": public_key}
    outputs = Outputs({"--output": output}, inputs=inputs, overwrite=overwrite)
    if outputs.begin() and output is not None:
        return
    key = None if public_key is None else load_public_key(public_key)
    claim = ResidualCertificate.load(certificate)
    try:
        claim.check_claim()
        if key is not None:
            claim.verify_signature(key)
        proof = AbsenceProof.load(source) if given else _made(claim, source, str(record_id))
        if record_id is not None and str(proof.record_id) != record_id:
            raise VerificationError("record_id", f"must be {record_id!r}, got a proof about {proof.record_id!r}")
        proof.check(claim)
    except VerificationError as error:
        refuse(error)
        return
    outputs.write({"--output": proof.to_json().encode("ascii")})
    click.echo(f"ABSENT  {proof.record_id!r} is the id of none of the {counted(claim.n_records, 'record')} certified")
    for text in proof.does_not_show:
        click.echo(f"  limits: {text}")
    if output is not None:
        click.echo(f"proof  {output}  (confidential: for the person it is about)")


def _made(claim: ResidualCertificate, source: str, record_id: str) -> AbsenceProof:
    from expunge.certificates import VerificationError
    from expunge.estimators._records import GIVEN, RecordIds

    evidence = load_evidence(source)
    if evidence.certificate != claim.digest():
        raise VerificationError(
            "evidence.certificate", f"must be the certificate's digest {claim.digest()}, got {evidence.certificate}"
        )
    known = evidence.ids.tolist()
    one = parse_id(RecordIds(tuple(known), GIVEN), record_id)
    if (found := known.count(one)) > 0:
        raise VerificationError("record_id", f"must be absent, got {one!r}, the id of {counted(found, 'record')}")
    return evidence.tree.absence(one)
