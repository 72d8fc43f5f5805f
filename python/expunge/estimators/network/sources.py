"""The source of a backbone's weights, as its owner says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from expunge.certificates.network import Backbone
from expunge.runs.network import SOURCES, PrivateTraining

__all__ = ["PrivateRun", "Source", "WithMechanism", "backbone_of", "refuse_foreign_weights", "trained_records"]

_SAY = (
    "backbone must say where its weights come from: 'data-independent' (drawn without any data), 'public' (trained "
    "without these records, and named by name=), or the private run that trained it, as "
    "expunge.torch.train(..., privacy=...) returns it"
)


class WithMechanism(Protocol):
    """The privacy of a training, `expunge.torch.TrainingPrivacy` for instance."""

    @property
    def mechanism(self) -> PrivateTraining:
        """Constants of the training."""


class PrivateRun(Protocol):
    """A training run, `expunge.torch.TrainingRun` for instance."""

    @property
    def privacy(self) -> WithMechanism | None:
        """Its privacy; None if it had none."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Its settings, ``n_records`` among them."""


Source: TypeAlias = str | PrivateTraining | WithMechanism | PrivateRun


def backbone_of(
    source: Source | None, *, name: str | None, called: str, weights: str | None, batch_size: int | None
) -> Backbone:
    """Return what a certificate says of a backbone.

    Parameters
    ----------
    source : str, PrivateTraining, WithMechanism or PrivateRun
        What its owner says.
    name : str or None
        What its owner calls it; ``called`` where nothing is given and nothing public has to be named.
    weights, batch_size
        As in `Backbone`.

    Raises
    ------
    TypeError, ValueError
        If the source is not said, or nothing that this library knows; if a public one has no name, or one that is not
        printable on one line.
    """
    if name is not None and not (isinstance(name, str) and name and name.isprintable()):
        raise ValueError(f"name must be text on one line, got {name!r}")
    if isinstance(source, str):
        if source not in SOURCES or SOURCES[source]:
            raise ValueError(f"{_SAY}, got {source!r}")
        if source == "public" and name is None:
            raise ValueError("name must say which public weights these are, 'resnet18, IMAGENET1K_V1' say, got None")
        return Backbone(source, name or called, weights, batch_size)
    training = _training(source)
    return Backbone("private", name or called, weights, batch_size, training)


def _training(source: object) -> PrivateTraining:
    if isinstance(source, PrivateTraining):
        return source
    privacy = getattr(source, "privacy", source)
    if privacy is None and source is not None:
        raise ValueError(
            "backbone must be a private run, got one that was trained without privacy=: what its weights tell of a "
            "record that leaves is not bounded"
        )
    mechanism = getattr(privacy, "mechanism", None)
    if not isinstance(mechanism, PrivateTraining):
        raise TypeError(f"{_SAY}, got {type(source).__name__}")
    return mechanism


def refuse_foreign_weights(source: object, network: object) -> None:
    """Refuse a module with weights that the private run did not end with, where the run says what it ended with.

    Raises
    ------
    ValueError
        Naming a tensor.
    """
    foreign, state = getattr(source, "foreign_tensor", None), getattr(network, "state_dict", None)
    if foreign is None or state is None:
        return
    name = foreign(state())
    if name is not None:
        raise ValueError(
            f"features must have the weights that the run of backbone= ended with, got others in {name!r}: give parts "
            "of the network as it was when training ended"
        )


def trained_records(source: object) -> int | None:
    """Return how many records a run was trained with; None where that is not known."""
    settings = getattr(source, "settings", None)
    found = settings.get("n_records") if isinstance(settings, Mapping) else None
    return found if isinstance(found, int) else None
