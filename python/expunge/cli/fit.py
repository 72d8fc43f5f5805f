"""``expunge fit``: from data to a working model."""

from __future__ import annotations

from typing import Any

import click

from expunge.cli.files import data_options, overwrite_option, read_data, ready, staged
from expunge.cli.options import check_ending
from expunge.estimators import LangevinRidge, LangevinRidgeClassifier

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
    help="auto: whole-number targets are classes.",
)
@click.option("--alpha", type=float, default=1.0, show_default=True, help="L2 penalty.")
@click.option("--n-steps", type=int, default=300, show_default=True, help="Learning steps.")
@click.option("--noise-std", type=float, default=0.01, show_default=True, help="Noise per learning step.")
@click.option("--step-size", default="auto", show_default=True, help="A number, or auto for 1/L.")
@click.option("--no-intercept", is_flag=True, help="Fit no intercept.")
@click.option("--random-state", type=int, help="Seed; certificates are then conditional on its secrecy.")
@overwrite_option
def fit(
    data: str,
    output: str,
    released: str | None,
    task: str,
    alpha: float,
    n_steps: int,
    noise_std: float,
    step_size: str,
    no_intercept: bool,
    random_state: int | None,
    overwrite: bool,
    **reading: Any,
) -> None:
    """Learn a ridge model from DATA: a file, or the name of a set that ships with scikit-learn."""
    for path in (output, released):
        check_ending(path, (".npz",))
    ready([output, released], overwrite=overwrite)
    try:
        step: float | str = step_size if step_size == "auto" else float(step_size)
    except ValueError:
        raise ValueError(f"step_size must be a number or auto, got {step_size!r}") from None
    records, y = read_data(data, **reading)
    classify = task == "classify" or (task == "auto" and y.dtype.kind == "i" and y.ndim == 1)
    estimator = LangevinRidgeClassifier if classify else LangevinRidge
    model = estimator(
        alpha=alpha,
        n_steps=n_steps,
        noise_std=noise_std,
        step_size=step,
        fit_intercept=not no_intercept,
        random_state=random_state,
    ).fit(records.X, y)
    score = model.score(records.X, y)
    with staged([output, released], overwrite=overwrite) as (place, public):
        assert place is not None
        model.save(place)
        if public is not None:
            model.release().save(public)
    n, d = records.X.shape
    click.echo(f"learned from {n} records of {d} features in {n_steps} steps")
    click.echo(f"{'training accuracy' if classify else 'training R^2'}  {score:.3f}")
    click.echo(f"model  {output}  (confidential: it holds the data)")
    if released is not None:
        click.echo(f"predict-only model  {released}")
