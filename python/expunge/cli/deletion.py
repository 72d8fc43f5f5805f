"""``expunge fit``, ``quote`` and ``unlearn``: from data to a deletion."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np

from expunge._files import write_atomic
from expunge.certificates import load_private_key
from expunge.cli.files import (
    data_options,
    load_model,
    model_digests,
    overwrite_option,
    parse_indices,
    read_data,
    ready,
    staged,
)
from expunge.datasets import load_targets
from expunge.estimators import LangevinRidge, LangevinRidgeClassifier, Quote
from expunge.ledger import Ledger
from expunge.plotting import plot_noise

__all__ = ["fit", "quote", "save_quote", "unlearn"]

_METHODS = click.Choice(["exact", "shifted", "uniform"])
_epsilon = click.option("--epsilon", type=float, default=1.0, show_default=True, help="Privacy target.")
_delta = click.option("--delta", type=float, default=1e-5, show_default=True, help="Privacy target.")
_method = click.option("--method", type=_METHODS, default="exact", show_default=True, help="How noise is calibrated.")


def save_quote(quote: Quote, path: str | Path, *, overwrite: bool) -> None:
    """Write a quote as Parquet, JSON or a picture, by the ending of its name."""
    ending = Path(path).suffix.lower()
    if ending == ".parquet":
        quote.to_parquet(path, overwrite=overwrite)
    elif ending in (".png", ".svg", ".pdf"):
        plot_noise([quote], path=path, overwrite=overwrite)
    else:
        write_atomic(path, quote_json(quote).encode(), overwrite=overwrite)


def quote_json(quote: Quote) -> str:
    """Return a quote as JSON text: what was asked for, and one object per record or group."""

    def plain(value: Any) -> Any:
        # JSON has no infinity: null says that no noise (or no steps) reaches the target.
        return value.item() if not isinstance(value.item(), float) or np.isfinite(value) else None

    columns = {
        quote.unit: quote.indices,
        "noise_std": quote.noise_std,
        "n_steps": quote.n_steps,
        "mu": quote.mu,
        "epsilon": quote.epsilon,
        "error": quote.error,
        "certified": quote.certified,
    }
    values = {
        "format": "expunge-quote",
        "version": 1,
        "method": quote.method,
        "status": quote.status,
        "epsilon": quote.target_epsilon,
        "delta": quote.target_delta,
        f"{quote.unit}s": [
            {name: plain(value) for name, value in zip(columns, row, strict=True)}
            for row in zip(*columns.values(), strict=True)
        ],
    }
    return json.dumps(values, allow_nan=False) + "\n"


def _check_ending(path: str | None, endings: tuple[str, ...]) -> None:
    if path is not None and Path(path).suffix.lower() not in endings:
        raise ValueError(f"{path}: must end in {', '.join(endings)}")


def _check_extras(paths: tuple[str, ...]) -> None:
    """Miss an optional package before the work, not after it."""
    for path in paths:
        package, extra = ("pyarrow", "parquet") if path.lower().endswith(".parquet") else ("matplotlib", "plot")
        if not path.lower().endswith(".json") and find_spec(package) is None:
            raise ImportError(f"writing {path} needs {package}: pip install 'expunge[{extra}]'")


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
        _check_ending(path, (".npz",))
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


@click.command()
@click.argument("model", type=click.Path())
@_epsilon
@_delta
@click.option("--n-steps", type=int, help="Unlearning steps [default: 30]; the least noise is quoted.")
@click.option("--noise-std", type=float, help="Noise per unlearning step instead; the fewest steps are quoted.")
@_method
@click.option("--indices", help="Rows of the first fit, as in 3,7,10-12 [default: all that remain].")
@click.option("--groups", type=click.Path(), help="File with one group number per row; groups are quoted together.")
@click.option("-o", "--output", "outputs", multiple=True, type=click.Path(), help="A .parquet, .json or .png file.")
@overwrite_option
def quote(
    model: str,
    epsilon: float,
    delta: float,
    n_steps: int | None,
    noise_std: float | None,
    method: str,
    indices: str | None,
    groups: str | None,
    outputs: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Say what forgetting each record of MODEL would cost."""
    for path in outputs:
        _check_ending(path, (".parquet", ".json", ".png", ".svg", ".pdf"))
    _check_extras(outputs)
    ready(outputs, overwrite=overwrite)
    rows = parse_indices(indices)
    ids = None if groups is None else load_targets(groups)
    found = load_model(model).quote(
        epsilon=epsilon,
        delta=delta,
        n_steps=30 if n_steps is None and noise_std is None else n_steps,
        noise_std=noise_std,
        method=method,
        indices=rows,
        groups=ids,
    )
    with staged(outputs, overwrite=overwrite) as places:
        for path, place in zip(outputs, places, strict=True):
            # The ending decides the format, and the temporary name must keep it.
            assert place is not None
            named = place.with_name(place.name + Path(path).suffix)
            save_quote(found, named, overwrite=False)
            named.replace(place)
    for line in _quote_lines(found, fixed_noise=noise_std is not None):
        click.echo(line)
    for path in outputs:
        click.echo(f"written  {path}")


def _quote_lines(found: Quote, *, fixed_noise: bool) -> list[str]:
    values = found.n_steps if fixed_noise else found.noise_std
    what = "unlearning steps" if fixed_noise else "noise per step"
    low, middle, high = (f"{value:.4g}" for value in np.quantile(values, [0.05, 0.5, 0.95], method="higher"))
    error = f", relative error up to {found.error.max():.1g}" if found.status == "estimate" else ""
    lines = [
        f"{len(found)} {found.unit}s, method {found.method} ({found.status}{error})",
        f"{what}  5% {low}   median {middle}   95% {high}",
    ]
    if (free := int((values == 0).sum())) > 0:
        lines.append(f"{free} need nothing: the learning noise hides them already")
    if (lost := int((~np.isfinite(found.noise_std)).sum())) > 0:
        lines.append(f"{lost} cannot be hidden by any noise at this target")
    return lines


@click.command()
@click.argument("model", type=click.Path())
@click.argument("indices")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the new working model goes (.npz).")
@click.option("-c", "--certificate", required=True, type=click.Path(), help="Where the certificate goes (.json).")
@click.option("--released", type=click.Path(), help="Also write the predict-only model there (.npz).")
@_epsilon
@_delta
@click.option("--n-steps", type=int, default=30, show_default=True, help="Unlearning steps.")
@_method
@click.option("--key", type=click.Path(), help="Private key (PEM) to sign the certificate with.")
@click.option("--ask-password", is_flag=True, help="Ask for the key's password.")
@click.option("--ledger", "ledger_path", type=click.Path(), help="Enter the deletion in this ledger.")
@overwrite_option
def unlearn(
    model: str,
    indices: str,
    output: str,
    certificate: str,
    released: str | None,
    epsilon: float,
    delta: float,
    n_steps: int,
    method: str,
    key: str | None,
    ask_password: bool,
    ledger_path: str | None,
    overwrite: bool,
) -> None:
    """Delete rows from MODEL and certify it; INDICES are rows of the first fit, as in 3,7,10-12."""
    for path in (output, released):
        _check_ending(path, (".npz",))
    _check_ending(certificate, (".json",))
    outputs = [output, certificate, released]
    ready(outputs, overwrite=overwrite)
    rows = parse_indices(indices)
    password = click.prompt("password of the key", hide_input=True).encode() if key and ask_password else None
    private_key = None if key is None else load_private_key(key, password=password)
    if ledger_path is not None and Path(ledger_path).exists():
        Ledger(ledger_path).check()
    before = load_model(model)
    result = before.unlearn(rows, epsilon=epsilon, delta=delta, n_steps=n_steps, method=method)
    proof = result.certificate if private_key is None else result.certificate.sign(private_key)
    with staged(outputs, overwrite=overwrite) as (place, proof_place, public):
        assert place is not None
        assert proof_place is not None
        result.model.save(place)
        proof.save(proof_place)
        if public is not None:
            result.model.release().save(public)
        if ledger_path is not None:
            Ledger(ledger_path).append(proof, model_before=model_digests(before)[0])
    click.echo(proof.summary())
    click.echo(f"model  {output}  (confidential: it holds the data)")
    click.echo(f"certificate  {certificate}  (confidential)")
    if released is not None:
        click.echo(f"predict-only model  {released}")
    if ledger_path is not None:
        click.echo(f"entered in  {ledger_path}")
