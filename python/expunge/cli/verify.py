"""``expunge verify``: a certificate held against the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from expunge.cli.cluster import scheduler_option
from expunge.cli.files import load_evidence_and_model, load_model, load_network_evidence
from expunge.cli.reading import data_options, known_from
from expunge.cli.records import refuse
from expunge.cli.streaming import Streamed, read_together

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from expunge.certificates import Policy
    from expunge.certificates.network import NetworkCertificate, NetworkEvidence, NetworkReport
    from expunge.certificates.residual import ResidualCertificate, ResidualEvidence, ResidualReport
    from expunge.cli.files import Released, Working

__all__ = ["verified", "verify"]

_HOW = (
    "; give the model by --model, which knows how its table was read, or --id-column, --features, --drop, --divide-by, "
    "--bounds and --cosine-features as for fit"
)
_ALL_ROWS = "; a Langevin run is verified on the data of its fit, rows deleted since included"


@click.command()
@click.argument("certificate", type=click.Path())
@click.argument("data", nargs=-1, required=True)
@data_options
@scheduler_option
@click.option(
    "--evidence",
    type=click.Path(),
    help="The evidence of a certificate by residual or of a network; or the working model, as it has it.",
)
@click.option("--model", type=click.Path(), help="The released or working model, to be compared with the certificate.")
@click.option("--public-key", type=click.Path(), help="Whose signature is required (PEM).")
@click.option("--max-epsilon", type=float, help="Refuse a claim with a larger epsilon.")
@click.option("--max-delta", type=float, help="Refuse a claim with a larger delta.")
@click.option(
    "--allow-conditional/--no-conditional",
    default=None,
    help="Whether a claim that rests on conditions will do.  [default: unless another demand is made of the claim]",
)
@click.option(
    "--of-program",
    is_flag=True,
    help="Refuse a claim about noise of real numbers: demand one about the program that ran.",
)
@click.option(
    "--budget", type=float, help="Refuse to spend more operations than this; of Langevin runs.  [default: 1e11]"
)
@click.option("--prove", is_flag=True, help="Prove the claim in ball arithmetic too. Exit code 3: undecided.")
def verify(
    certificate: str,
    data: tuple[str, ...],
    evidence: str | None,
    model: str | None,
    public_key: str | None,
    max_epsilon: float | None,
    max_delta: float | None,
    allow_conditional: bool | None,
    of_program: bool,
    budget: float | None,
    prove: bool,
    **reading: Any,
) -> None:
    """Recompute the claim of CERTIFICATE from DATA, one or several tables. Exit code 1 if it does not hold.

    DATA of a certificate by residual are the data as they now stand: no deleted row is needed, and --evidence is. DATA
    of a network's certificate are the features of these, as its head was fitted to them. DATA of a Langevin run are
    those of fit, deleted rows included. Folders and addresses are read once, in blocks. A working or released model, by
    --model or --evidence, knows how the table of fit was read; without one, say so by the options of fit.
    """
    from expunge.certificates import Certificate, Policy, UndecidedError, VerificationError, load, load_public_key

    key = None if public_key is None else load_public_key(public_key)
    policy = None
    if max_epsilon is not None or max_delta is not None or allow_conditional is not None or of_program:
        policy = Policy(
            max_epsilon=max_epsilon,
            max_delta=max_delta,
            public_key=key,
            allow_conditional=bool(allow_conditional),
            of_program=of_program,
        )
    released = None if model is None else load_model(model, released=True)
    proof = load(certificate)
    if not isinstance(proof, Certificate):
        if budget is not None:
            raise ValueError("--budget is for Langevin runs: other certificates take one pass over the data")
        found = verified(
            proof, data, evidence, released, model=model, key=key, policy=policy, reading=reading, prove=prove
        )
        click.echo(f"VERIFIED  {found.summary()}")
        return
    if evidence is not None:
        raise ValueError("--evidence is for certificates by residual: that of a Langevin run holds everything")
    if reading["weight_column"] is not None:
        raise ValueError("--weight-column is for certificates by residual: records of a Langevin run weigh the same")
    task_of_run = "regress" if proof.run.classes is None else "classify"
    records, task = read_together(data, task=task_of_run, told=True, **_known(released), **reading)
    _check_conditions(records.conditions, proof.conditions)
    X, y = (records.table, None) if isinstance(records, Streamed) else (records.X, task.y)
    more: dict[str, Any] = {} if budget is None else {"budget": budget}
    if prove:
        if isinstance(records, Streamed):
            raise ValueError(f"{', '.join(data)}: --prove needs the records in memory: pass --in-memory")
        more["proof"] = True
    try:
        report = proof.verify(X, y, released, public_key=key, policy=policy, **more)
    except UndecidedError as error:
        _undecided(error)
    except VerificationError as error:
        remedy = _how(released) if error.field == "digests.X" else _ALL_ROWS if error.field == "run.n_records" else ""
        refuse(f"{error}{remedy}")
    else:
        click.echo(f"VERIFIED  {report.summary()}")


def _undecided(error: Exception) -> NoReturn:
    click.echo(f"UNDECIDED  {error}", err=True)
    raise click.exceptions.Exit(3) from None


def _check_conditions(of_data: tuple[str, ...], of_certificate: tuple[str, ...]) -> None:
    for condition in of_data:
        if condition not in of_certificate:
            refuse(f"conditions: must say that {condition}, as the table of constants does; it is missing")


def _known(model: Working | Released | None) -> dict[str, Any]:
    return {} if model is None else known_from(model)


def _how(reader: Working | Released | None) -> str:
    """Return how to say how the table was read, where no model that was given knows it."""
    return _HOW if reader is None or reader.reading_ is None else ""


def verified(
    proof: ResidualCertificate | NetworkCertificate,
    data: Sequence[str],
    evidence: str | None,
    released: Working | Released | None,
    *,
    model: str | None,
    key: Ed25519PublicKey | None,
    policy: Policy | None,
    reading: dict[str, Any],
    prove: bool = False,
) -> ResidualReport | NetworkReport:
    """Return the report on a certificate by residual or of a network, held against data; exit with 1 if refuted.

    With ``prove`` its claim is proved in ball arithmetic too; the exit code is 3 where that decides nothing.
    """
    from expunge.certificates import UndecidedError, VerificationError
    from expunge.certificates.network import NetworkCertificate
    from expunge.certificates.network import verify as verify_network
    from expunge.certificates.residual import verify as verify_residual
    from expunge.estimators.newton.base import NewtonModel

    place = evidence or (model if isinstance(released, NewtonModel) else None)
    if place is None:
        raise ValueError("--evidence must be given: a certificate by residual is verified with its confidential part")
    known: ResidualEvidence | NetworkEvidence
    if isinstance(proof, NetworkCertificate):
        known, reader, head = load_network_evidence(place), released, proof.head
    else:
        known, working = load_evidence_and_model(place)
        reader, head = working if released is None else released, proof
    check: Any = verify_network if isinstance(proof, NetworkCertificate) else verify_residual
    records, task = read_together(
        data,
        task="regress" if head.model.classes is None else "classify",
        told=True,
        with_weights=True,
        **_known(reader),
        **reading,
    )
    _check_conditions(records.conditions, proof.conditions)
    try:
        if policy is not None:
            policy.check(proof)
        if isinstance(records, Streamed):
            streamed: ResidualReport | NetworkReport = check(
                proof,
                records.table,
                evidence=known,
                released=released,
                sample_weight=records.weights,
                public_key=key,
                proof=prove,
            )
            return streamed
        found: ResidualReport | NetworkReport = check(
            proof,
            records.X,
            task.y,
            evidence=known,
            released=released,
            ids=records.ids,
            sample_weight=records.weights,
            public_key=key,
            proof=prove,
        )
        return found
    except UndecidedError as error:
        _undecided(error)
    except VerificationError as error:
        more = ""
        if isinstance(records, Streamed) and "additional" in str(error):
            more = "; if they were deleted, verify the table without them (purge --rewrite)"
        elif error.field.removeprefix("head.") in ("digests.data", "model.n_features"):
            more = _how(reader)
        refuse(f"{error}{more}")
        raise
