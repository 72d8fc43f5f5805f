"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from expunge.runs.methods import METHODS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "ask_password_option",
    "check_ending",
    "delta_option",
    "epsilon_option",
    "given_options",
    "key_option",
    "method_option",
    "refuse_given",
    "signing_key",
]

epsilon_option = click.option("--epsilon", type=float, default=1.0, show_default=True, help="Privacy target.")
delta_option = click.option("--delta", type=float, default=1e-5, show_default=True, help="Privacy target.")
method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    default=METHODS[0],
    show_default=True,
    help="How noise is calibrated.",
)


key_option = click.option("--key", type=click.Path(), help="Private key (PEM) to sign the certificate with.")
ask_password_option = click.option("--ask-password", is_flag=True, help="Ask for the key's password.")


def signing_key(path: str | None, *, ask_password: bool) -> Ed25519PrivateKey | None:
    """Return the private key in a file, after asking for its password if need be; None where there is no file."""
    from expunge.certificates import load_private_key

    password = click.prompt("password of the key", hide_input=True).encode() if path and ask_password else None
    return None if path is None else load_private_key(path, password=password)


def given_options(names: Iterable[str]) -> list[str]:
    """Return which of a command's parameters were given rather than left at their defaults, as they are typed."""
    context = click.get_current_context()
    typed = {one.name: max(one.opts, key=len) for one in context.command.params}
    return [typed[name] for name in names if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)]


def refuse_given(names: Iterable[str], reason: str) -> None:
    """Refuse parameters of a command that were given where they mean nothing."""
    for option in given_options(names):
        raise ValueError(f"{option} {reason}")


def check_ending(path: str | None, endings: tuple[str, ...]) -> None:
    """Refuse a path whose ending is not one of ``endings``."""
    if path is not None and Path(path).suffix.lower() not in endings:
        raise ValueError(f"{path}: must end in {', '.join(endings)}")
