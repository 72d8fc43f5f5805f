"""``expunge fit``: from data to a working model."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import click

from expunge.cli.cluster import scheduler_option
from expunge.cli.entering import check_new
from expunge.cli.files import overwrite_option
from expunge.cli.newton import outputs_of
from expunge.cli.options import (
    ask_password_option,
    delta_option,
    epsilon_option,
    given_options,
    key_option,
    refuse_given,
    signing_key,
)
from expunge.cli.reading import data_options
from expunge.cli.streaming import read_data_or_table

if TYPE_CHECKING:
    from expunge.data import Task

__all__ = ["fit"]

MODELS = ("auto", "logistic", "softmax", "ridge", "langevin-ridge")
_LANGEVIN_ONLY = ("n_steps", "step_size", "norm_bound", "n_bound", "of_program")
_RESIDUAL_ONLY = ("certificate", "evidence", "epsilon", "delta", "releases", "key", "ask_password", "ledger_path")


@click.command()
@click.argument("data")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the working model goes (.npz).")
@click.option("-c", "--certificate", type=click.Path(), help="Where the certificate of the release goes (.json).")
@click.option("--evidence", type=click.Path(), help="Where its confidential evidence goes (.npz).")
@click.option("--released", type=click.Path(), help="Also write the predict-only model there (.npz).")
@data_options
@scheduler_option
@click.option(
    "--model",
    "kind",
    type=click.Choice(MODELS),
    default="auto",
    show_default=True,
    help="auto: logistic or softmax for classes, ridge for a number; langevin-ridge where its options are given.",
)
@click.option(
    "--task",
    type=click.Choice(["auto", "classify", "regress"]),
    default="auto",
    show_default=True,
    help="auto: text, booleans and whole numbers in few values are classes; certificates then rest on that reading.",
)
@click.option("--classes", help="All classes there can be, as in a,b,c, known beforehand [default: those in the data].")
@click.option("--alpha", type=float, default=1.0, show_default=True, help="L2 penalty, of the intercept too.")
@click.option(
    "--noise-std",
    type=float,
    default=0.01,
    show_default=True,
    help="Noise of every released parameter; of langevin-ridge, of every learning step.",
)
@epsilon_option
@delta_option
@click.option("--releases", type=int, default=10_000, show_default=True, help="Most releases in the life of the model.")
@click.option("--n-steps", type=int, default=300, show_default=True, help="langevin-ridge: learning steps.")
@click.option(
    "--step-size",
    default="auto",
    show_default=True,
    help="langevin-ridge: a number; auto for 1/L of the data; bounded for 1/(n_bound norm_bound^2 + alpha).",
)
@click.option("--norm-bound", type=float, help="With bounded: no row's norm exceeds this (the constant 1 included).")
@click.option("--n-bound", type=int, help="With bounded: there are no more records than this.")
@click.option(
    "--of-program/--no-of-program",
    default=None,
    help="langevin-ridge: bound the rounding of its steps, for certificates about the program that ran. By default of "
    "records in memory, without --random-state.",
)
@click.option("--no-intercept", is_flag=True, help="Fit no intercept.")
@click.option("--random-state", type=int, help="Seed; certificates are then conditional on its secrecy.")
@key_option
@ask_password_option
@click.option("--ledger", "ledger_path", type=click.Path(), help="Begin this ledger with the first release.")
@overwrite_option
def fit(
    data: str,
    output: str,
    certificate: str | None,
    evidence: str | None,
    released: str | None,
    kind: str,
    task: str,
    classes: str | None,
    key: str | None,
    ask_password: bool,
    ledger_path: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Learn a model that can forget from DATA: a file, a folder or an address, or a set that ships with scikit-learn.

    Rows of folders of shards and of addresses such as s3://bucket/folder (of files, with --stream) stay where they lie:
    they are read in blocks, and the model keeps hashes and ids of them.

    The release is certified with a public claim. It is plain "certified" only if no constant was computed from the
    data: give --classes for classes, or --task regress for a number. Claim, noise and number of releases are fixed now.

    --model langevin-ridge learns by noisy steps, whose certificates are per record and confidential; it also needs
    --step-size, a number or bounded.
    """
    outputs = outputs_of(
        output=output,
        certificate=certificate,
        evidence=evidence,
        released=released,
        inputs={"DATA": data, "--target": options["target"], "--bounds": options["bounds"], "--key": key},
        overwrite=overwrite,
        ledger=ledger_path,
    )
    if outputs.begin():
        return
    langevin = _is_langevin(kind)
    if langevin and options["weight_column"] is not None:
        raise ValueError("--weight-column is not for --model langevin-ridge, whose records all weigh the same")
    if kind in ("logistic", "softmax") and task == "regress":
        raise ValueError(f"--task must be classify for --model {kind}, got regress")
    names = ("alpha", "noise_std", "epsilon", "delta", "releases", *_LANGEVIN_ONLY, "no_intercept", "random_state")
    settings = {name: options.pop(name) for name in names}
    if ledger_path is not None:
        check_new(ledger_path)
    records, found = read_data_or_table(data, task=task, **options)
    if kind in ("logistic", "softmax") and not found.classify:
        raise ValueError(f"--model {kind} needs classes, but y was read as a number: pass --task classify if it is not")
    given = None if classes is None else _classes(classes, found)
    # One record can decide how the others are read; where classes are given or needed, the other reading is refused.
    decided = task != "auto" or classes is not None or kind in ("logistic", "softmax")
    conditions = records.conditions if decided else (*records.conditions, "task")
    for note in (*records.notes, found.sentence):
        click.echo(note)
    if langevin:
        from expunge.cli.fit_langevin import fit_langevin

        fit_langevin(
            records, found, data=data, classes=given, conditions=conditions, settings=settings, outputs=outputs
        )
        return
    from expunge.cli.fit_newton import fit_newton

    private_key = signing_key(key, ask_password=ask_password)
    fit_newton(
        records,
        found,
        kind=kind,
        classes=given,
        conditions=conditions,
        settings=settings,
        outputs=outputs,
        key=private_key,
        ledger=ledger_path,
    )


def _is_langevin(kind: str) -> bool:
    """Return whether a Langevin model is meant: by name, or by an option that only it has."""
    if kind == "langevin-ridge":
        refuse_given(_RESIDUAL_ONLY, "is not for --model langevin-ridge: its deletions say epsilon, delta and the rest")
        return True
    given = given_options(_LANGEVIN_ONLY)
    if kind != "auto":
        refuse_given(_LANGEVIN_ONLY, f"is for --model langevin-ridge, got --model {kind}")
    if given:
        other = given_options(_RESIDUAL_ONLY)
        if other:
            raise ValueError(
                f"{given[0]} is for --model langevin-ridge, {other[0]} for the others: say which by --model"
            )
        click.echo(f"model langevin-ridge, as {given[0]} is given")
    return bool(given)


def _classes(text: str, found: Task) -> list[Any]:
    """Return the classes of ``a,b,c``, of the kind that the labels are."""
    if not found.classify:
        raise ValueError("--classes needs classes, but the targets are a number: pass --task classify as well")
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]
    if found.y.dtype.kind == "U":
        return names
    try:
        return [int(name) for name in names]
    except ValueError:
        raise ValueError(f"classes must be whole numbers, as the labels are, got {text!r}") from None
