"""``expunge release``: the last release of a model written out, or a further one with new noise."""

from __future__ import annotations

from typing import Any

import click

from expunge._files import PUBLIC
from expunge.cli.agreeing import agreed_noise_options, places_of_noise, with_noise_of
from expunge.cli.attaching import attach_data, data_option, wanted_of_table
from expunge.cli.files import load_model, overwrite_option
from expunge.cli.newton import Wanted, apply, holds_no_rows, outputs_of, records_of, say_release
from expunge.cli.options import ask_password_option, given_options, key_option, signing_key
from expunge.cli.reading import data_options
from expunge.cli.succession import branch_option

__all__ = ["release"]


@click.command()
@click.argument("model", type=click.Path())
@click.option("--again", is_flag=True, help="Release the same parameters with new noise, which charges the budget.")
@click.option("-o", "--output", type=click.Path(), help="With --again: where the new working model goes (.npz).")
@click.option("-c", "--certificate", type=click.Path(), help="Where the certificate goes (.json).")
@click.option("--evidence", type=click.Path(), help="Where the confidential evidence goes (.npz).")
@click.option("--released", type=click.Path(), help="Where the predict-only model goes (.npz).")
@key_option
@ask_password_option
@click.option("--ledger", "ledger_path", type=click.Path(), help="With --again: enter the release in this ledger.")
@branch_option
@overwrite_option
@agreed_noise_options
@data_option
@data_options
def release(
    model: str,
    again: bool,
    output: str | None,
    certificate: str | None,
    evidence: str | None,
    released: str | None,
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
    """Write what the last release of MODEL consists of; with --again, release once more.

    Without --again nothing is drawn and nothing charged: predict-only model, certificate and evidence are those that
    the model already has. With it the parameters get new noise, under the next number of the budget: who sees both
    releases learns more, and the claim covers that. Go on from the new working model.
    """
    from expunge.certificates.residual import ResidualCertificate
    from expunge.estimators._storage import released_bytes
    from expunge.estimators.newton.base import NewtonModel

    if again and (output is None or certificate is None):
        raise ValueError("--again needs --output and --certificate: the next change goes on from the new working model")
    if not again:
        names = ("output", "key", "ask_password", "ledger_path", "branch", "agreement", "seeds", "data", *reading)
        for option in given_options(names):
            raise ValueError(f"{option} goes with --again: without it nothing is released anew")
        if certificate is None and evidence is None and released is None:
            raise ValueError("say what to write: --released, --certificate or --evidence; or --again")
    outputs = outputs_of(
        output=output,
        certificate=certificate,
        evidence=evidence,
        released=released,
        inputs={
            "MODEL": model,
            "--key": key,
            **places_of_noise(agreement, seeds),
            **{f"--data {place}": place for place in data},
        },
        overwrite=overwrite,
        ledger=ledger_path,
    )
    if outputs.recover():
        click.echo("finished what an earlier call had begun")
        if again:
            say_release(ResidualCertificate.load(str(certificate)), outputs, ledger=ledger_path)
        return
    before = load_model(model)
    if isinstance(before, NewtonModel):
        if again:
            attach_data(before, model, data, reading)
            before = with_noise_of(before, agreement=agreement, seeds=seeds, evidence=evidence)
            if holds_no_rows(before):
                wanted = wanted_of_table(before, "release", before.release_again)
            else:
                wanted = Wanted("release", before.release_again, records_of(before).are_of)
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
            return
        contents = {
            "--certificate": before.certificate_.to_json().encode("ascii"),
            "--evidence": before.evidence_.to_bytes(),
            "--released": released_bytes(before.release()),
        }
    else:
        if again or certificate is not None or evidence is not None:
            raise ValueError(
                f"{model}: a {type(before).__name__} can only write --released: its certificates come with deletions"
            )
        contents = {"--released": released_bytes(before.release())}
    outputs.check_free()
    outputs.write(
        {name: contents[name] for name in outputs.places}, modes={"--certificate": PUBLIC, "--released": PUBLIC}
    )
    for name, place in outputs.places.items():
        click.echo(
            f"{name.lstrip('-')}  {place}{'  (confidential: it undoes the noise)' if name == '--evidence' else ''}"
        )
