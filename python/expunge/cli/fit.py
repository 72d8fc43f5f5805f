"""``expunge fit``: from data to a working model."""

from __future__ import annotations

import csv
import warnings
from typing import Any

import click
import numpy as np

from expunge._files import PUBLIC
from expunge._wording import counted
from expunge.cli.files import overwrite_option
from expunge.cli.options import check_ending
from expunge.cli.outputs import Outputs
from expunge.cli.reading import data_options, read_data
from expunge.datasets import Task

__all__ = ["fit"]


@click.command()
@click.argument("data")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the working model goes (.npz).")
@click.option("--released", type=click.Path(), help="Also write the predict-only model there (.npz).")
@data_options
@click.option(
    "--task",
    type=click.Choice(["auto", "classify", "regress"]),
    default="auto",
    show_default=True,
    help="auto: text, booleans and whole numbers in few values are classes; certificates then rest on that reading.",
)
@click.option("--classes", help="All classes there can be, as in a,b,c, known beforehand [default: those in the data].")
@click.option("--alpha", type=float, default=1.0, show_default=True, help="L2 penalty.")
@click.option("--n-steps", type=int, default=300, show_default=True, help="Learning steps.")
@click.option("--noise-std", type=float, default=0.01, show_default=True, help="Noise per learning step.")
@click.option(
    "--step-size",
    default="auto",
    show_default=True,
    help="A number; auto for 1/L of the data; bounded for 1/(n_bound norm_bound^2 + alpha).",
)
@click.option("--norm-bound", type=float, help="With bounded: no row's norm exceeds this (the constant 1 included).")
@click.option("--n-bound", type=int, help="With bounded: there are no more records than this.")
@click.option("--no-intercept", is_flag=True, help="Fit no intercept.")
@click.option("--random-state", type=int, help="Seed; certificates are then conditional on its secrecy.")
@overwrite_option
def fit(
    data: str,
    output: str,
    released: str | None,
    task: str,
    classes: str | None,
    alpha: float,
    n_steps: int,
    noise_std: float,
    step_size: str,
    norm_bound: float | None,
    n_bound: int | None,
    no_intercept: bool,
    random_state: int | None,
    overwrite: bool,
    **reading: Any,
) -> None:
    """Learn a ridge model from DATA: a file, or the name of a set that ships with scikit-learn.

    A certificate is plain "certified" only if no constant of the run was computed from the data: give --step-size (a
    number, or bounded), and --classes for a classifier or --task regress for a number.
    """
    from expunge.estimators import LangevinRidge, LangevinRidgeClassifier, NoiseWarning
    from expunge.estimators._storage import released_bytes, working_bytes

    for path in (output, released):
        check_ending(path, (".npz",))
    outputs = Outputs(
        {"--output": output, "--released": released},
        inputs={"DATA": data, "--target": reading["target"], "--bounds": reading["bounds"]},
        overwrite=overwrite,
    )
    if outputs.begin():
        return
    try:
        step: float | str = step_size if step_size in ("auto", "bounded") else float(step_size)
    except ValueError:
        raise ValueError(f"step_size must be a number or auto (or bounded), got {step_size!r}") from None
    records, found = read_data(data, task=task, **reading)
    constants: dict[str, Any] = {"norm_bound": norm_bound, "n_bound": n_bound}
    if classes is not None:
        constants["classes"] = _classes(classes, found)
    # One record can decide how the others are read; classes that are given leave one reading, and refuse the other.
    conditions = (*records.conditions, "task") if task == "auto" and classes is None else records.conditions
    estimator = LangevinRidgeClassifier if found.classify else LangevinRidge
    for note in (*records.notes, found.sentence):
        click.echo(note)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NoiseWarning)
        model = estimator(
            alpha=alpha,
            n_steps=n_steps,
            noise_std=noise_std,
            step_size=step,
            fit_intercept=not no_intercept,
            random_state=random_state,
            **{name: value for name, value in constants.items() if value is not None},
        ).fit(records.X, found.y, record_ids=records.ids, conditions=conditions)
    for one in caught:
        click.echo(f"warning  {_as_options(one.message, data)}", err=True)
    score = model.score(records.X, found.y)
    if records.names is not None:
        # As if fitted with a table: predict and evaluate find their columns by name.
        model.feature_names_in_ = np.array(records.names, dtype=object)
    contents = {"--output": working_bytes(model)}
    if released is not None:
        contents["--released"] = released_bytes(model.release())
    outputs.write(contents, modes={"--released": PUBLIC})
    n, d = records.X.shape
    people = "" if records.ids is None else f" about {counted(len(set(records.ids.tolist())), 'id')}"
    click.echo(f"learned from {counted(n, 'record')}{people} of {counted(d, 'feature')} in {counted(n_steps, 'step')}")
    click.echo(f"{'training accuracy' if found.classify else 'training R^2'}  {score:.3f}")
    for condition in model.conditions_:
        click.echo(f"certificates will be conditional: {condition}")
    click.echo(f"model  {output}  (confidential: it holds the data)")
    if released is not None:
        click.echo(f"predict-only model  {released}")


def _as_options(warning: Any, data: str) -> str:
    """Return a warning with its remedy in the words of this command."""
    from expunge.estimators import NoiseWarning

    text = " ".join(str(warning).split())
    if not isinstance(warning, NoiseWarning) or (not warning.settings and warning.bounds is None):
        return text
    options = [f"--{name.replace('_', '-')} {value}" for name, value in warning.settings.items()]
    if warning.bounds is not None:
        options.insert(0, f"--bounds (expunge bounds {data} writes a draft; put the bounds you know in their place)")
    return f"{text.partition('; with ')[0]}; try {' '.join(options)}"


def _classes(text: str, found: Task) -> list[Any]:
    """Return the classes of ``a,b,c``, of the kind that the labels are."""
    if not found.classify:
        raise ValueError("--classes need classes, and the targets are a number: pass --task classify as well")
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]
    if found.y.dtype.kind == "U":
        return names
    try:
        return [int(name) for name in names]
    except ValueError:
        raise ValueError(f"classes must be whole numbers, as the labels are, got {text!r}") from None
