"""Permutations of a network: units that may change places together, and states with their units in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["PermutationSpec", "Permutations", "permuted", "random_permutations"]

Permutations = Mapping[str, NDArray[np.int64]]
Axes = tuple["tuple[str, int] | None", ...]


@dataclass(frozen=True)
class PermutationSpec:
    """Axes of tensors that a permutation of units moves.

    Attributes
    ----------
    axes : dict of str to tuple
        By the name of a parameter or buffer, one entry per axis: None, or (group of units, width). A unit takes
        ``width`` neighbouring places on that axis: more than one behind a flattened feature map.
    sizes : dict of str to int
        Units of each group.
    norm_groups : dict of str to int
        GroupNorm groups that a permutation of the units must map onto one another.
    pinned : tuple of str
        Where units were left in their places, and why.
    """

    axes: dict[str, Axes]
    sizes: dict[str, int]
    norm_groups: dict[str, int] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()

    @classmethod
    def by_hand(
        cls,
        model: nn.Module,
        axes: Mapping[str, Sequence[str | tuple[str, int] | None]],
        *,
        norm_groups: Mapping[str, int] | None = None,
    ) -> PermutationSpec:
        """Return a specification written by hand.

        Parameters
        ----------
        model : torch.nn.Module
            For the names and sizes of its parameters and buffers.
        axes : mapping of str to sequence
            Per axis None, a group's name, or (name, width). Tensors not named are never moved.
        norm_groups : mapping of str to int, optional
            GroupNorm groups by group of units.

        Raises
        ------
        ValueError
            If a name is unknown or sizes disagree.

        Examples
        --------
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> axes = {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h")}
        >>> PermutationSpec.by_hand(model, axes).sizes
        {'h': 4}
        """
        state = model.state_dict()
        full: dict[str, Axes] = {}
        sizes: dict[str, int] = {}
        for name, given in axes.items():
            if name not in state:
                raise ValueError(f"axes must name parameters or buffers of the model, got {name!r}")
            one = tuple(
                (axis, 1) if isinstance(axis, str) else axis if axis is None else cast("tuple[str, int]", tuple(axis))
                for axis in given
            )
            if len(one) != state[name].ndim:
                raise ValueError(f"axes[{name!r}] must have {state[name].ndim} entries, got {len(one)}")
            full[name] = one
            for axis, length in zip(one, state[name].shape, strict=True):
                if axis is None:
                    continue
                group, width = axis
                if length % width or sizes.setdefault(group, length // width) != length // width:
                    raise ValueError(
                        f"axes[{name!r}] gives {group!r} {length / width:g} units, elsewhere it has {sizes.get(group)}"
                    )
        blocks = {group: n for group, n in dict(norm_groups or {}).items() if n > 1}
        for group, n in blocks.items():
            if group not in sizes or sizes[group] % n:
                raise ValueError(f"norm_groups[{group!r}] must divide its units, got {n} of {sizes.get(group, 0)}")
        return cls(full, sizes, blocks)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless ``state`` has the tensors of this specification, in its sizes."""
        for name, axes in self.axes.items():
            if name not in state:
                raise ValueError(f"state must hold {name!r}, as the specification does")
            sizes = [None if axis is None else self.sizes[axis[0]] * axis[1] for axis in axes]
            shape = tuple(state[name].shape)
            if len(shape) != len(sizes) or any(s not in (None, n) for s, n in zip(sizes, shape, strict=True)):
                raise ValueError(f"state[{name!r}] must have the shape of the specification, got {shape}")


def _places(permutation: NDArray[np.int64], width: int) -> Tensor:
    if width == 1:
        return torch.from_numpy(permutation)
    return torch.from_numpy((permutation[:, np.newaxis] * width + np.arange(width)).ravel())


def moved(tensor: Tensor, axes: Axes, permutations: Permutations, *, but: int | None = None) -> Tensor:
    """Return ``tensor`` with every axis (but one) in its new order."""
    for place, axis in enumerate(axes):
        if axis is not None and place != but and axis[0] in permutations:
            tensor = tensor.index_select(place, _places(permutations[axis[0]], axis[1]).to(tensor.device))
    return tensor


def permuted(state: Mapping[str, Tensor], spec: PermutationSpec, permutations: Permutations) -> dict[str, Tensor]:
    """Return a state with its units in another order: the same function, if the specification is right.

    Parameters
    ----------
    state : mapping of str to Tensor
        A model's ``state_dict()``.
    spec : PermutationSpec
    permutations : mapping of str to ndarray of int
        By group: unit k of the result is unit ``permutation[k]`` of ``state``. A group not there stays.

    Returns
    -------
    dict of str to Tensor
        New tensors where something moved.

    Raises
    ------
    ValueError
        If an array is not a permutation, tears GroupNorm groups apart, or the state has other shapes.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> axes = {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h")}
    >>> spec = PermutationSpec.by_hand(model, axes)
    >>> other = permuted(model.state_dict(), spec, {"h": np.array([1, 0])})
    >>> bool((other["0.bias"] == model[0].bias.flip(0)).all())
    True
    """
    spec.check(state)
    checked = {}
    for group, given in permutations.items():
        if group not in spec.sizes:
            raise ValueError(f"permutations must name groups of the specification, got {group!r}")
        size = spec.sizes[group]
        order = np.asarray(given)
        if (
            order.shape != (size,)
            or order.dtype.kind not in "iu"
            or not np.array_equal(np.sort(order), np.arange(size))
        ):
            raise ValueError(f"permutations[{group!r}] must be a permutation of {size} units")
        blocks = spec.norm_groups.get(group, 1)
        of_block = (order // (size // blocks)).reshape(blocks, -1)
        if (of_block != of_block[:, :1]).any():
            raise ValueError(f"permutations[{group!r}] must keep the {blocks} groups of GroupNorm together")
        checked[group] = order.astype(np.int64)
    return {name: moved(tensor, spec.axes.get(name, ()), checked) for name, tensor in state.items()}


def random_permutations(spec: PermutationSpec, *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return a random permutation of every group, GroupNorm groups kept together."""
    rng = np.random.default_rng(seed)
    found = {}
    for group, size in spec.sizes.items():
        blocks = spec.norm_groups.get(group, 1)
        units = np.arange(size).reshape(blocks, -1)[rng.permutation(blocks)]
        found[group] = np.concatenate([rng.permutation(row) for row in units]).astype(np.int64)
    return found
