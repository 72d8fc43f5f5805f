"""Noise that two parties agree on: ``expunge noise seed`` and ``agree``, and the options of changes that use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from expunge.cli.files import load_model, overwrite_option

if TYPE_CHECKING:
    from expunge.cli.files import Newton

__all__ = ["agreed_noise_options", "noise", "places_of_noise", "with_noise_of"]

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def noise() -> None:
    """Agree with another party on the noise of the next release, so that nobody chooses it.

    Both make a seed and tell its commitment; agree writes down both and the release that they are for. Then the other
    party gives its seed to whoever changes the model, with --agreement and --seed, who never gives away the own one but
    to those who verify with the evidence.
    """


@noise.command()
@click.argument("path", type=click.Path())
def seed(path: str) -> None:
    """Make a new seed, in the new file PATH, and print its commitment."""
    from expunge.certificates.residual import NoiseSeed

    made = NoiseSeed.new()
    made.save(path)
    click.echo(f"seed        {path}  (keep it to yourself; for one release)")
    click.echo(f"commitment  {made.commitment}")


@noise.command()
@click.argument("model", type=click.Path())
@click.argument("ours")
@click.argument("theirs")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the agreement goes (.json).")
@overwrite_option
def agree(model: str, ours: str, theirs: str, output: str, overwrite: bool) -> None:
    """Write down the commitments OURS and THEIRS to seeds for the next release of MODEL.

    Both parties keep the file before any seed is told.
    """
    from expunge.certificates.residual import NoiseAgreement

    before = _newton(model)
    made = NoiseAgreement((ours, theirs), before.certificate_.digest(), before.certificate_.release + 1)
    made.save(output, overwrite=overwrite)
    click.echo(f"agreement  {output}  on release {made.release} after certificate {made.certificate}")


def agreed_noise_options(command: Command) -> Command:
    """Add the options that say which seeds the noise of a release comes from."""
    for option in (
        click.option(
            "--seed", "seeds", multiple=True, type=click.Path(), help="A seed that was committed to: give both."
        ),
        click.option("--agreement", type=click.Path(), help="Draw the noise from the two seeds that it is on."),
    ):
        command = option(command)
    return command


def places_of_noise(agreement: str | None, seeds: tuple[str, ...]) -> dict[str, str | None]:
    """Return the files that these options name, which no output may be."""
    return {"--agreement": agreement, **{f"--seed {place}": place for place in seeds}}


def with_noise_of(before: Newton, *, agreement: str | None, seeds: tuple[str, ...], evidence: str | None) -> Newton:
    """Return a model whose next release takes its noise from the seeds, if any are given."""
    from expunge.certificates.residual import NoiseAgreement, NoiseSeed

    if agreement is None and not seeds:
        return before
    if agreement is None or len(seeds) != 2:
        raise ValueError(
            f"--agreement goes with two --seed, got {len(seeds)}{'' if agreement else ' and no agreement'}"
        )
    if evidence is None:
        raise ValueError(
            "--evidence must be given with --agreement: nothing else keeps what the noise is verified with"
        )
    one, other = (NoiseSeed.load(place) for place in seeds)
    return before.with_agreed_noise(NoiseAgreement.load(agreement).noise(one, other))


def _newton(path: str) -> Newton:
    from expunge.estimators.newton.base import NewtonModel

    model = load_model(path)
    if not isinstance(model, NewtonModel):
        raise ValueError(f"{path}: the noise of a {type(model).__name__} cannot be agreed on: it is part of every step")
    return model
