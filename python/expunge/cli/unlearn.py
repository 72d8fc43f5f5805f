"""``expunge unlearn``: a deletion, its certificate and its entry in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from expunge._files import PUBLIC
from expunge._files.transaction import Change
from expunge.cli.agreeing import agreed_noise_options, places_of_noise, with_noise_of
from expunge.cli.attaching import attach_data, data_option, places_of, say_rows_left, wanted_of_table
from expunge.cli.cluster import scheduler_option
from expunge.cli.entering import check_next, is_entered, is_signed
from expunge.cli.files import load_model, model_digests, overwrite_option
from expunge.cli.langevin_tables import holding, say_rows_stay, table_of, whom_of_table
from expunge.cli.newton import Records, Wanted, apply, holds_no_rows, outputs_of, records_of, say_release
from expunge.cli.options import (
    ask_password_option,
    delta_option,
    epsilon_option,
    key_option,
    method_option,
    refuse_given,
    signing_key,
)
from expunge.cli.outputs import Outputs
from expunge.cli.reading import data_options
from expunge.cli.succession import branch_option

if TYPE_CHECKING:
    from expunge.certificates import Certificate
    from expunge.cli.files import Newton
    from expunge.cli.requests import Whom
    from expunge.estimators import Updated

__all__ = ["unlearn"]

_MODELS = ("--output", "--released")
_LANGEVIN_ONLY = ("epsilon", "delta", "n_steps", "noise_std", "noise_grid", "method", "last_of_class", "max_loss")


@click.command()
@click.argument("model", type=click.Path())
@click.argument("indices", required=False)
@click.option("--id", "ids", multiple=True, help="Whom to delete, all rows of an id together; repeat for several.")
@click.option("--requests", type=click.Path(), help="Table of requests: a column of ids; request, date if present.")
@click.option("--request-id-column", help="Its column of ids.  [default: as of fit; id, record_id or customer_id]")
@click.option("--rows", help="Rows of the first fit, as in 3,7,10-12, while they are known.")
@click.option("--request", "number", help="Number under which the request is filed, for the ledger.")
@click.option("--request-date", "date", help="When it was made, as in 2026-03-01, for the ledger.")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the new working model goes (.npz).")
@click.option("-c", "--certificate", required=True, type=click.Path(), help="Where the certificate goes (.json).")
@click.option(
    "--evidence", type=click.Path(), help="Where the confidential evidence goes (.npz); not of Langevin models."
)
@click.option("--released", type=click.Path(), help="Also write the predict-only model there (.npz).")
@epsilon_option
@delta_option
@click.option("--n-steps", type=int, default=30, show_default=True, help="Unlearning steps.")
@click.option("--noise-std", type=float, help="Noise per step, fixed beforehand; refused if it does not suffice.")
@click.option("--noise-grid", help="Least sufficient noise of a public grid: powers (of 2^(1/4)), or 0.1,0.2,0.5.")
@method_option
@click.option("--last-of-class", type=click.Choice(["refuse", "conditional"]), default="refuse", show_default=True,
              help="What to do where no record of a class is left.")  # fmt: skip
@click.option("--max-loss", type=float, help="Refuse if forgetting costs more training accuracy or R^2 than this.")
@key_option
@ask_password_option
@click.option("--ledger", "ledger_path", type=click.Path(), help="Enter the deletion in this ledger.")
@branch_option
@overwrite_option
@agreed_noise_options
@data_option
@data_options
@scheduler_option
def unlearn(
    model: str,
    indices: str | None,
    ids: tuple[str, ...],
    requests: str | None,
    request_id_column: str | None,
    rows: str | None,
    number: str | None,
    date: str | None,
    output: str,
    certificate: str,
    evidence: str | None,
    released: str | None,
    epsilon: float,
    delta: float,
    n_steps: int,
    noise_std: float | None,
    noise_grid: str | None,
    method: str,
    last_of_class: str,
    max_loss: float | None,
    key: str | None,
    ask_password: bool,
    ledger_path: str | None,
    branch: bool,
    overwrite: bool,
    agreement: str | None,
    seeds: tuple[str, ...],
    data: tuple[str, ...],
    **reading: Any,
) -> None:
    """Delete records from MODEL and certify it.

    Say whom by --id, by a file of --requests, or by --rows of the first fit, as in 3,7,10-12. INDICES are rows too,
    where the model has no ids. Repeat an interrupted call unchanged: it finishes what was begun.

    Claim and noise of a model by computed residual were fixed by fit. Options from --epsilon to --max-loss are those of
    Langevin models.

    A model of a table has no rows: --data names the table, which is read as at fit, or as the options from --target on
    say. Its rows stay there until you write it without them. That of a Langevin model is in the order of the fit.
    """
    from expunge.certificates import Certificate, load
    from expunge.certificates.residual import ResidualCertificate
    from expunge.cli.requests import read_whom
    from expunge.estimators._storage import released_bytes, working_bytes
    from expunge.estimators.newton.base import NewtonModel
    from expunge.ledger import Ledger

    outputs = outputs_of(
        output=output,
        certificate=certificate,
        evidence=evidence,
        released=released,
        inputs={
            **{"MODEL": model, "--key": key, "--requests": requests},
            **{f"--data {place}": place for place in data},
            **places_of_noise(agreement, seeds),
            **{name: reading[name.lstrip("-")] for name in ("--target", "--bounds")},
        },
        overwrite=overwrite,
        ledger=ledger_path,
    )
    if outputs.recover():
        click.echo("finished what an earlier call had begun")
        finished = load(certificate)
        if isinstance(finished, Certificate):
            _say(finished, load_model(output), output, certificate, released, ledger_path)
        else:
            say_release(ResidualCertificate.load(certificate), outputs, ledger=ledger_path)
        return
    before = load_model(model)
    asked: dict[str, Any] = {
        "indices": indices,
        "rows": rows,
        "ids": ids,
        "requests": requests,
        "id_column": request_id_column,
        "number": number,
        "date": date,
    }
    if isinstance(before, NewtonModel):
        refuse_given(
            _LANGEVIN_ONLY, f"is for Langevin models: claim and noise of this {type(before).__name__} were fixed by fit"
        )
        attach_data(before, model, data, reading, by_position=indices is not None or rows is not None)
        before = with_noise_of(before, agreement=agreement, seeds=seeds, evidence=evidence)
        wanted, left = _wanted(before, **asked)
        private_key = signing_key(key, ask_password=ask_password)
        apply(
            before,
            wanted,
            model=model,
            branch=branch,
            outputs=outputs,
            key=private_key,
            ledger=ledger_path,
            overwrite=overwrite,
        )
        if left:
            say_rows_left(*left)
        return
    table = table_of(before, model, data, reading)
    refuse_given(
        ("evidence", "branch", "agreement", "seeds"),
        f"is not for a {type(before).__name__}: its certificate holds everything",
    )
    made = all(place.is_file() for place in outputs.places.values())
    whom = read_whom(before, **asked) if table is None else whom_of_table(before, table, find=made, **asked)
    settings: dict[str, Any] = {"epsilon": epsilon, "delta": delta, "n_steps": n_steps, "method": method}
    private_key = signing_key(key, ask_password=ask_password)
    public_key = None if private_key is None else private_key.public_key()
    noise = (noise_std, _grid(noise_grid))
    repeated = made and (ledger_path is not None or not overwrite)
    if repeated and _is_done(outputs, before, whom, settings, noise, public_key, ledger_path):
        click.echo("done already: the files are those of this deletion")
        _say(Certificate.load(certificate), load_model(output), output, certificate, released, ledger_path)
        return
    outputs.check_free()
    if ledger_path is not None and Path(ledger_path).exists():
        check_next(ledger_path, before)
    result = before.unlearn(
        **whom.named,
        **settings,
        noise_std=noise_std,
        noise_grid=noise[1],
        last_of_class=last_of_class,
        max_loss=max_loss,
        table=table,
    )
    proof = result.certificate if private_key is None else result.certificate.sign(private_key)

    def entry() -> list[Change]:
        if ledger_path is None:
            return []
        content, _ = Ledger(ledger_path).extended(
            proof, model_before=model_digests(before)[0], requests=whom.requests, salt=before.ledger_salt_
        )
        return [Change(ledger_path, content, replace=True)]

    contents = {"--output": working_bytes(result.model), "--certificate": proof.to_json().encode("ascii")}
    if released is not None:
        contents["--released"] = released_bytes(result.model.release())
    outputs.write(contents, modes={"--released": PUBLIC}, more=entry)
    _say(proof, result.model, output, certificate, released, ledger_path)
    kind = "accuracy" if hasattr(before, "classes_") and table is None else "R^2"  # accuracy needs the rows
    click.echo(
        f"training {kind} on the records that remain: before {result.before:.3f}, after {result.after:.3f}, "
        f"without noise {result.noise_free:.3f}"
    )
    if table is not None:
        say_rows_stay(before, result.model, table)


def _wanted(before: Newton, **asked: Any) -> tuple[Wanted, tuple[list[str], int] | None]:
    """Return the deletion that a command was asked for, of a Newton model, and the rows that a table still has then."""
    from expunge.cli.requests import read_whom_now

    whom = read_whom_now(before, **asked)
    rows = np.array(whom.rows, dtype=np.int64)

    def make() -> Updated[Any]:
        return before.unlearn(rows=rows)

    if holds_no_rows(before):
        wanted = wanted_of_table(before, "unlearn", make, gone=rows, requests=whom.requests)
        return wanted, (places_of(before, rows), len(rows))
    now = records_of(before)
    left = Records(np.delete(now.ids, rows), now.rows.without(rows))
    return Wanted("unlearn", make, left.are_of, whom.requests), None


def _say(
    proof: Certificate, model: Any, output: str, certificate: str, released: str | None, ledger_path: str | None
) -> None:
    click.echo(proof.summary())
    click.echo(f"model  {output}  (confidential: {holding(model)})")
    click.echo(f"certificate  {certificate}  (confidential)")
    if released is not None:
        click.echo(f"predict-only model  {released}")
    if ledger_path is not None:
        click.echo(f"entered in  {ledger_path}")


def _grid(text: str | None) -> str | list[float] | None:
    if text is None or text == "powers":
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"noise_grid must be powers, or numbers as in 0.1,0.2,0.5, got {text!r}") from None


def _is_done(
    outputs: Outputs,
    before: Any,
    whom: Whom,
    settings: dict[str, Any],
    noise: tuple[float | None, str | list[float] | None],
    public_key: Any,
    ledger_path: str | None,
) -> bool:
    """Return whether the files, which are all there, are those of this very deletion, done by an earlier call."""
    from expunge.certificates import Certificate, RidgeRun

    history = before._require_history()
    try:
        proof = Certificate.load(outputs.places["--certificate"])
        models = [load_model(str(place), released=True) for name, place in outputs.places.items() if name in _MODELS]
        working = load_model(str(outputs.places["--output"]))
    except (ValueError, OSError):
        return False
    run, digests = proof.run, proof.digests
    if not isinstance(run, RidgeRun):
        return False
    asked = (settings["epsilon"], settings["delta"], settings["method"], settings["n_steps"])
    return (
        asked == (proof.epsilon, proof.delta, proof.method, run.phases[-1].n_steps)
        and _is_noise_asked(*noise, working, before)
        and run.deleted == tuple(sorted({*history.removed, *whom.rows}))
        and working.ledger_salt_ == before.ledger_salt_
        and run.phases[:-1] == history.phases
        and (digests.X, digests.y) == _digests_of_fit(before, working)
        and all(digests.model in model_digests(one) for one in models)
        and is_signed(proof, public_key)
        and (ledger_path is None or is_entered(proof, before, whom.requests, ledger_path))
    )


def _digests_of_fit(before: Any, working: Any) -> tuple[str, str] | None:
    """Return the digests of the data of the fit; of a table those that its first deletion found."""
    history = before._require_history()
    if history.sums is not None and history.digests is None:
        found: tuple[str, str] | None = working._require_history().digests
        return found
    digests: tuple[str, str] = history.digests_of_fit(before.n_features_in_)
    return digests


def _is_noise_asked(noise_std: float | None, noise_grid: str | list[float] | None, working: Any, before: Any) -> bool:
    """Return whether the last phase has the noise that a call would give it."""
    before, after = before._require_history(), working._require_history()
    source = "data" if noise_std is None and noise_grid is None else "given" if noise_grid is None else "grid"
    phase = after.phases[-1]
    expected = before.after(phase, noise_source=source).sources
    return noise_std in (None, phase.noise_std) and after.sources == expected
