"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["check_ending", "delta_option", "epsilon_option", "method_option"]

epsilon_option = click.option("--epsilon", type=float, default=1.0, show_default=True, help="Privacy target.")
delta_option = click.option("--delta", type=float, default=1e-5, show_default=True, help="Privacy target.")
method_option = click.option(
    "--method",
    type=click.Choice(["exact", "shifted", "uniform"]),
    default="exact",
    show_default=True,
    help="How noise is calibrated.",
)


def check_ending(path: str | None, endings: tuple[str, ...]) -> None:
    """Refuse a path whose ending is not one of ``endings``."""
    if path is not None and Path(path).suffix.lower() not in endings:
        raise ValueError(f"{path}: must end in {', '.join(endings)}")
