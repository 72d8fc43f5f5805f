"""``expunge report``: the page an auditor reads."""

from __future__ import annotations

from typing import Any

import click

from expunge.cli.files import load_model, overwrite_option
from expunge.cli.options import check_ending, given_options
from expunge.cli.outputs import Outputs
from expunge.cli.reading import data_options
from expunge.cli.records import refuse
from expunge.cli.verify import Checks, load_statement, verified

__all__ = ["report"]


@click.command()
@click.argument("certificates", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the page goes (.html).")
@click.option("--ledger", "ledger_path", type=click.Path(), help="The model's ledger: requests, releases, budget left.")
@click.option("--data", help="The data as they now stand: the last certificate is verified on them.")
@click.option("--evidence", type=click.Path(), help="With --data: its evidence, or the working model, as it has it.")
@click.option("--model", type=click.Path(), help="With --data: the released or working model.")
@click.option("--stated", type=click.Path(), help="With --data: a statement that the claim was proved.")
@click.option("--public-key", type=click.Path(), help="Whose signature is required (PEM).")
@data_options
@overwrite_option
def report(
    certificates: tuple[str, ...],
    output: str,
    ledger_path: str | None,
    data: str | None,
    evidence: str | None,
    model: str | None,
    stated: str | None,
    public_key: str | None,
    overwrite: bool,
    **reading: Any,
) -> None:
    """Write the page an auditor reads about the last of CERTIFICATES.

    One HTML file that loads nothing. CERTIFICATES are by residual or of a network, of one model, in the order of their
    releases. With --data the last is verified, and the page says so; exit code 1 if it does not hold.
    """
    from expunge.certificates import Certificate, VerificationError, load, load_public_key, network, residual
    from expunge.certificates.network import NetworkCertificate, NetworkReport
    from expunge.certificates.residual import ResidualCertificate, ResidualReport
    from expunge.ledger import Ledger, LedgerError, ResidualEntry

    check_ending(output, (".html", ".htm"))
    named = {f"CERTIFICATES {place}": place for place in certificates}
    inputs = {"--data": data, "--evidence": evidence, "--model": model, "--ledger": ledger_path, "--stated": stated}
    inputs |= {"--public-key": public_key, "--target": reading["target"], "--bounds": reading["bounds"]}
    outputs = Outputs({"--output": output}, inputs={**named, **inputs}, overwrite=overwrite)
    if outputs.begin():
        return
    if data is None:
        for option in given_options(("evidence", "model", "stated", *reading)):
            raise ValueError(f"{option} goes with --data: without the data nothing is verified")
    key = None if public_key is None else load_public_key(public_key)
    proofs: list[ResidualCertificate | NetworkCertificate] = []
    for place in certificates:
        proof = load(place)
        if isinstance(proof, Certificate):
            raise ValueError(f"{place}: is of a Langevin run, of which there is no page: expunge show prints it")
        proofs.append(proof)
    found = None
    if data is not None:
        released = None if model is None else load_model(model, released=True)
        checks = Checks(key=key, statement=None if stated is None else load_statement(stated))
        found = verified(proofs[-1], [data], evidence, released, model=model, reading=reading, checks=checks)
    try:
        if key is not None:
            for one in proofs:
                one.verify_signature(key)
        entries = () if ledger_path is None else Ledger(ledger_path).entries()
        if not all(isinstance(one, ResidualEntry) for one in entries):
            raise ValueError(f"{ledger_path}: must be the ledger of a model by computed residual, got a Langevin run's")
        lines = [one for one in entries if isinstance(one, ResidualEntry)]
        networks = [one for one in proofs if isinstance(one, NetworkCertificate)]
        heads = [one for one in proofs if isinstance(one, ResidualCertificate)]
        if networks and heads:
            raise ValueError("CERTIFICATES must be of one model, got some of a network and some of a head by itself")
        if networks:
            of_network = found if isinstance(found, NetworkReport) else None
            page = network.page_of(networks, entries=lines, report=of_network)
        else:
            page = residual.page_of(heads, entries=lines, report=found if isinstance(found, ResidualReport) else None)
    except (VerificationError, LedgerError) as error:
        refuse(error)
        return
    outputs.write({"--output": page.encode("utf-8")})
    click.echo(f"page  {output}  (confidential where it holds the ledger; print it from a browser)")
