"""``expunge verify``: a certificate held against the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from expunge.cli.cluster import scheduler_option
from expunge.cli.files import load_evidence_and_model, load_model, load_network_evidence, overwrite_option
from expunge.cli.options import ask_password_option, check_ending, signing_key
from expunge.cli.outputs import Outputs
from expunge.cli.reading import data_options, known_from
from expunge.cli.records import refuse
from expunge.cli.streaming import Streamed, read_together

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from expunge.certificates import Certificate, Policy, ProofStatement, VerificationReport
    from expunge.certificates.network import NetworkCertificate, NetworkEvidence, NetworkReport
    from expunge.certificates.residual import ResidualCertificate, ResidualEvidence, ResidualReport
    from expunge.cli.files import Released, Working

__all__ = ["Checks", "load_statement", "verified", "verify"]

_HOW = (
    "; give the model by --model, which knows how its table was read, or --id-column, --features, --drop, --divide-by, "
    "--bounds and --cosine-features as for fit"
)
_NOT_OF_NETWORKS = "is for certificates of Langevin runs and by residual: of a network's nothing is stated"
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
@click.option("--keep", type=click.Path(), help="With --prove: where a statement of what was proved goes (.json).")
@click.option("--key", type=click.Path(), help="With --keep: private key (PEM) to sign the statement with.")
@ask_password_option
@click.option("--state", type=click.Path(), help="With --prove: folder of an interrupted proof, to go on where it was.")
@click.option("--stated", type=click.Path(), help="A statement that the claim was proved; --prove is held against it.")
@overwrite_option
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
    keep: str | None,
    key: str | None,
    ask_password: bool,
    state: str | None,
    stated: str | None,
    overwrite: bool,
    **reading: Any,
) -> None:
    """Recompute the claim of CERTIFICATE from DATA, one or several tables. Exit code 1 if it does not hold.

    DATA of a certificate by residual are the data as they now stand: no deleted row is needed, and --evidence is. DATA
    of a network's certificate are the features of these, as its head was fitted to them. DATA of a Langevin run are
    those of fit, deleted rows included. Folders and addresses are read once, in blocks. A working or released model, by
    --model or --evidence, knows how the table of fit was read; without one, say so by the options of fit.

    What --keep writes says that the claim was proved, with the enclosures: it is worth what whoever made it is worth,
    until --prove --stated holds a new proof against it.
    """
    from expunge.certificates import Certificate, Policy, ProofStatement, load, load_public_key
    from expunge.certificates.network import NetworkCertificate, NetworkReport

    for option, value in (("--keep", keep), ("--state", state)):
        if value is not None and not prove:
            raise ValueError(f"{option} goes with --prove: without it nothing is proved")
    if key is not None and keep is None:
        raise ValueError("--key goes with --keep: it signs the statement that is written")
    check_ending(keep, (".json",))
    inputs = {"CERTIFICATE": certificate, "--evidence": evidence, "--model": model, "--public-key": public_key}
    inputs |= {"--key": key, "--stated": stated, **{f"DATA {place}": place for place in data}}
    outputs = Outputs({"--keep": keep}, inputs=inputs, overwrite=overwrite)
    if outputs.begin() and keep is not None:
        return
    signer = signing_key(key, ask_password=ask_password)
    known = None if public_key is None else load_public_key(public_key)
    policy = None
    if max_epsilon is not None or max_delta is not None or allow_conditional is not None or of_program:
        policy = Policy(
            max_epsilon=max_epsilon,
            max_delta=max_delta,
            public_key=known,
            allow_conditional=bool(allow_conditional),
            of_program=of_program,
        )
    released = None if model is None else load_model(model, released=True)
    claim = load(certificate)
    checks = Checks(key=known, policy=policy, prove=prove, statement=None if stated is None else load_statement(stated))
    if isinstance(claim, Certificate):
        if evidence is not None:
            raise ValueError("--evidence is for certificates by residual: that of a Langevin run holds everything")
        report: VerificationReport | ResidualReport | NetworkReport = _verified_run(
            claim, data, released, checks, budget=budget, state=state, reading=reading
        )
    else:
        for option, given in (("--budget", budget), ("--state", state)):
            if given is not None:
                raise ValueError(f"{option} is for Langevin runs: other certificates take one pass over the data")
        if keep is not None and isinstance(claim, NetworkCertificate):
            raise ValueError(f"--keep {_NOT_OF_NETWORKS}")
        report = verified(claim, data, evidence, released, model=model, reading=reading, checks=checks)
    click.echo(f"VERIFIED  {report.summary()}")
    if keep is not None:
        assert not isinstance(report, NetworkReport)  # refused above
        statement = ProofStatement.of(claim, report)
        statement = statement if signer is None else statement.sign(signer)
        outputs.write({"--keep": statement.to_json().encode("ascii")})
        click.echo(f"statement  {keep}  (confidential; it proves nothing by itself: --prove --stated {keep} does)")


class Checks(NamedTuple):
    """Checks of a verification besides the recomputation: key, policy, proof, and a statement that there was one."""

    key: Ed25519PublicKey | None = None
    policy: Policy | None = None
    prove: bool = False
    statement: ProofStatement | None = None


def load_statement(path: str) -> ProofStatement:
    """Return the statement in a file."""
    from expunge.certificates import ProofStatement

    return ProofStatement.load(path)


def _verified_run(
    claim: Certificate,
    data: Sequence[str],
    released: Working | Released | None,
    checks: Checks,
    *,
    budget: float | None,
    state: str | None,
    reading: dict[str, Any],
) -> VerificationReport:
    """Return the report on a certificate of a Langevin run; exit with code 1 if refuted, 3 if undecided."""
    from expunge.certificates import UndecidedError, VerificationError

    if reading["weight_column"] is not None:
        raise ValueError("--weight-column is for certificates by residual: records of a Langevin run weigh the same")
    task_of_run = "regress" if claim.run.classes is None else "classify"
    records, task = read_together(data, task=task_of_run, told=True, **_known(released), **reading)
    _check_conditions(records.conditions, claim.conditions)
    X, y = (records.table, None) if isinstance(records, Streamed) else (records.X, task.y)
    more: dict[str, Any] = {} if budget is None else {"budget": budget}
    if checks.prove:
        if isinstance(records, Streamed):
            raise ValueError(f"{', '.join(data)}: --prove needs the records in memory: pass --in-memory")
        more |= {"proof": True, "state": state}
    try:
        return claim.verify(
            X, y, released, public_key=checks.key, policy=checks.policy, statement=checks.statement, **more
        )
    except UndecidedError as error:
        _undecided(error)
    except VerificationError as error:
        remedy = _how(released) if error.field == "digests.X" else _ALL_ROWS if error.field == "run.n_records" else ""
        refuse(f"{error}{remedy}")
        raise


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
    reading: dict[str, Any],
    checks: Checks,
) -> ResidualReport | NetworkReport:
    """Return the report on a certificate by residual or of a network, held against data; exit with 1 if refuted.

    Where its claim is proved in ball arithmetic too, the exit code is 3 if that decides nothing.
    """
    from expunge.certificates import UndecidedError, VerificationError
    from expunge.certificates.network import NetworkCertificate
    from expunge.certificates.network import verify as verify_network
    from expunge.certificates.residual import verify as verify_residual
    from expunge.estimators.newton.base import NewtonModel

    if checks.statement is not None and isinstance(proof, NetworkCertificate):
        raise ValueError(f"--stated {_NOT_OF_NETWORKS}")
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
    given: dict[str, Any] = {"public_key": checks.key, "proof": checks.prove}
    if checks.statement is not None:
        given["statement"] = checks.statement
    try:
        if checks.policy is not None:
            checks.policy.check(proof)
        if isinstance(records, Streamed):
            streamed: ResidualReport | NetworkReport = check(
                proof,
                records.table,
                evidence=known,
                released=released,
                sample_weight=records.weights,
                **given,
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
            **given,
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
