"""``expunge experiment``: what privacy losses predict of unlearning, from the command line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["experiment"]


@click.command()
@click.argument(
    "name", type=click.Choice(["predict", "compare", "barrier", "adaptive", "exact", "certify", "distinguish"])
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: experiment-NAME]")
@click.option(
    "--data",
    type=click.Choice(["digits", "mnist", "cifar10", "breast_cancer", "wine", "diabetes"]),
    default="digits",
    show_default=True,
    help="The last three for exact alone.",
)
@click.option("--data-folder", type=click.Path(path_type=Path), help="Where the files of mnist or cifar10 are.")
@click.option(
    "--model",
    type=click.Choice(["strided", "cnn", "mlp", "resnet18", "vit"]),
    help="Not for exact and certify.  [default: strided]",
)
@click.option(
    "--seeds", type=int, default=1, show_default=True, help="Repetitions; a larger number continues a folder."
)
@click.option(
    "--noise", "noise_stds", multiple=True, type=float, help="Noise per step, 0 for none; repeat for several levels."
)
@click.option("--epsilon", "epsilons", multiple=True, type=float, help="Target of certify; repeat for several.")
@click.option("--epochs", type=int, help="Passes of training; not for exact and certify.")
@click.option("--unlearn-epochs", type=int, help="Most passes of unlearning; not for exact and certify.")
@click.option(
    "--retrained",
    "n_retrained",
    type=int,
    help="Models retrained for each set, or a side of distinguish; not for exact and certify.",
)
@click.option(
    "--metric",
    type=click.Choice(["confidence", "accuracy", "loss"]),
    help="Of the forget set. Not for exact and certify.",
)
@click.option("--device", help="Such as cpu or cuda.  [default: a GPU when there is one]")
@click.option(
    "--workers",
    type=int,
    help="Processes of one thread each, on the CPU; they change no result.  [default: as many as cores]",
)
@click.option("--overwrite", is_flag=True, help="Discard the results in the folder.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def experiment(
    name: str,
    out: Path | None,
    data: str,
    data_folder: Path | None,
    model: str | None,
    seeds: int,
    noise_stds: tuple[float, ...],
    epsilons: tuple[float, ...],
    epochs: int | None,
    unlearn_epochs: int | None,
    n_retrained: int | None,
    metric: str | None,
    device: str | None,
    workers: int | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Run an experiment and write its results, pictures and page.

    On small networks - predict: does privacy loss predict the time to unlearn? compare: whose hardest records take
    longest to forget? barrier: do loss barriers tell forgotten from retrained? adaptive: how many steps does a
    policy by privacy loss save? distinguish: can models with and without a record be told apart? On ridge
    regression and softmax heads - exact: which measure knows the exact cost of a deletion? certify: what noise do
    certified deletions need, and what accuracy is left? One seed is a quick look. An interrupted call goes on.
    """
    from expunge.experiments import certify_preset, distinguish_preset, exact_preset, preset, run_experiment
    from expunge.experiments.runner import power_of

    of_networks = {
        "model": model, "epochs": epochs, "unlearn_epochs": unlearn_epochs, "n_retrained": n_retrained, "metric": metric
    }  # fmt: skip
    given: dict[str, Any] = {key: value for key, value in of_networks.items() if value is not None}
    without: dict[str, Any] = {"exact": exact_preset, "certify": certify_preset}
    if name in without and given:
        option = next(iter(given)).removeprefix("n_").replace("_", "-")
        raise click.UsageError(f"--{option} must be omitted for {name}, which trains no network")
    for option in ("unlearn_epochs", "metric"):
        if name == "distinguish" and option in given:
            shown = option.replace("_", "-")
            raise click.UsageError(f"--{shown} must be omitted for distinguish, which unlearns nothing")
    if epsilons and name != "certify":
        raise click.UsageError(f"--epsilon must be omitted for {name}: it is of certify alone")
    changes: dict[str, Any] = {"noise_stds": noise_stds} if noise_stds else {}
    if name == "certify" and noise_stds:
        if len(noise_stds) > 1:
            raise click.UsageError(f"--noise must be given once for certify, got {len(noise_stds)} levels")
        changes = {"noise_std": noise_stds[0]}
    if epsilons:
        changes["epsilons"] = epsilons
    place = None if data_folder is None else str(data_folder)
    make = {**without, "distinguish": distinguish_preset}.get(name, preset)
    settings: Any = make(data, data_folder=place, **given, **changes)
    folder = out or Path(f"experiment-{name}")
    power = power_of(name, settings, seeds=seeds)
    if power is not None:
        click.echo(power)
    found = run_experiment(
        name,
        settings,
        folder,
        seeds=seeds,
        device=device,
        workers=workers,
        overwrite=overwrite,
        command=shlex.join(["expunge", *sys.argv[1:]]) if sys.argv[1:2] == ["experiment"] else None,
        progress=not quiet,
    )
    words = found["words"]
    assert isinstance(words, list)
    for text in words:
        click.echo(text)
    click.echo(f"{'quick look, ' if seeds == 1 else ''}estimate: {folder / 'index.html'}")
