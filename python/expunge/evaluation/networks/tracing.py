"""Permutation specifications read off a model: which layers share their units, followed through its operations."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from expunge.evaluation.networks.following import FIXED, Follower
from expunge.evaluation.networks.permutations import Axes, PermutationSpec
from expunge.evaluation.networks.predict import evaluating
from expunge.evaluation.networks.verification import refuse_hooks, refuse_shared_memory, verify_structure

__all__ = ["permutation_spec"]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def permutation_spec(model: nn.Module, example: Tensor) -> PermutationSpec:
    """Return which units of a model may change places, read off its operations.

    Linear layers, convolutions (depthwise ones too), Batch-, Group-, Instance-, Layer- and RMSNorm, elementwise
    functions, pooling, flattening, means, transpositions, sums and products (residual connections) are followed. Under
    GroupNorm whole norm groups change places, and units within them. Whatever is not understood, attention among it,
    leaves the units it touches in their places: less is found to permute. The result is then tested: in float64, with
    random parameters and inputs, the model must be the same function with its units in random orders.

    Parameters
    ----------
    model : torch.nn.Module
        Traceable by `torch.fx`; taken in eval mode, and not changed.
    example : Tensor
        A batch of inputs.

    Returns
    -------
    PermutationSpec
        ``pinned`` says what stays, and why.

    Raises
    ------
    ValueError
        If the model cannot be traced, a module has forward hooks or a replaced ``forward``, two parameters share
        memory, or the model with its units in another order is another function: write its specification by hand
        (`PermutationSpec.by_hand`).

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    >>> spec = permutation_spec(model, torch.zeros(1, 1, 4, 4))
    >>> spec.axes["4.weight"], spec.norm_groups
    ((None, ('0.weight', 4)), {'0.weight': 2})
    """
    refuse_hooks(model)
    refuse_shared_memory(_tensors(model))
    with evaluating(model), torch.no_grad():
        try:
            traced = fx.symbolic_trace(model)
        except Exception as error:  # whatever the model's own code raises under tracing
            raise ValueError(
                f"model must be traceable by torch.fx ({error}): give a specification by hand, PermutationSpec.by_hand"
            ) from error
        follower = Follower(traced, {id(tensor) for _, tensor in _tensors(model)})
        follower.run(example)
    groups = follower.groups
    for tensor in follower.raw:
        for axis in follower.axes.get(tensor, ()):
            if axis is not None:
                groups.pin(axis[0], "a parameter is also used outside its layer")
    for root in {groups.root(g) for g in range(len(groups.parent))}:
        if len(groups.blocks[root]) > 1:
            groups.pin(root, f"GroupNorms of {sorted(groups.blocks[root])} groups on the same units")
    spec = _collected(model, follower)
    verify_structure(model, spec, example)
    return spec


def _collected(model: nn.Module, follower: Follower) -> PermutationSpec:
    groups = follower.groups
    names: dict[int, str] = {}
    pinned: dict[str, None] = {}
    axes: dict[str, Axes] = {}
    for name, tensor in _tensors(model):
        found: list[tuple[str, int] | None] = []
        for axis in follower.axes.get(id(tensor), ()):
            root = None if axis is None else groups.root(axis[0])
            if axis is None or root is None or groups.sizes[root] < 2:
                found.append(None)
            elif groups.reason[root] is not None:
                if not str(groups.reason[root]).startswith(FIXED):
                    pinned.setdefault(f"units of {names.setdefault(root, name)}: {groups.reason[root]}")
                found.append(None)
            else:
                found.append((names.setdefault(root, name), axis[1]))
        if any(axis is not None for axis in found):
            axes[name] = tuple(found)
    free = {root: name for root, name in names.items() if groups.reason[root] is None}
    return PermutationSpec(
        axes,
        {name: groups.sizes[root] for root, name in free.items()},
        {name: next(iter(groups.blocks[root])) for root, name in free.items() if groups.blocks[root]},
        tuple(pinned),
    )
