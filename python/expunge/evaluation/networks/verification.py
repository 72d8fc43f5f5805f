"""Test of a specification: with its units in another order, the network must be the same function."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge.evaluation.networks.permutations import PermutationSpec, permuted, random_permutations
from expunge.evaluation.networks.predict import evaluating

__all__ = ["refuse_hooks", "refuse_shared_memory", "verify_permutation", "verify_structure"]

_REMEDY = "give a specification by hand (PermutationSpec.by_hand) or compare without matching"


def refuse_hooks(model: nn.Module) -> None:
    """Raise ValueError if a module does not run the forward of its class alone: hooks are not followed."""
    registry = torch.nn.modules.module
    if registry._global_forward_hooks or registry._global_forward_pre_hooks:
        raise ValueError("forward hooks on all modules must be removed: units cannot be followed through them")
    for name, module in model.named_modules():
        who = f"module {name or 'model'!r} ({type(module).__name__})"
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(f"{who} must have no forward hooks, through which units cannot be followed: remove them")
        if "forward" in vars(module):
            raise ValueError(f"{who} must have the forward of its class, through another units cannot be followed")


def refuse_shared_memory(tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Raise ValueError if different parameters or buffers lie in one memory: moving one would move another."""
    owners: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in tensors:
        if tensor.numel() == 0:
            continue
        other, owner = owners.setdefault(tensor.untyped_storage().data_ptr(), (name, tensor))
        if owner is not tensor:
            raise ValueError(
                f"parameters and buffers must not share memory, as {other!r} and {name!r} do: use one parameter twice"
            )


def verify_structure(model: nn.Module, spec: PermutationSpec, example: Tensor, *, seed: int = 0) -> None:
    """Raise ValueError unless random permutations leave the function as it is, whatever the parameters.

    In float64, with parameters drawn anew so that no small layer, zero bias or dead unit can hide a difference, on
    random inputs of the example's shape. A model that such parameters or inputs overflow is tried with its own.
    """
    if not spec.sizes:
        return
    shaken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    inputs = example
    if example.is_floating_point():
        inputs = torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device)
    for attempt in range(3):
        _shake(shaken, generator)
        orders = random_permutations(spec, seed=seed + attempt)
        if not _same(shaken, spec, orders, inputs):
            _same(model, spec, orders, example)


def verify_permutation(
    model: nn.Module, spec: PermutationSpec, permutations: Mapping[str, NDArray[np.int64]], inputs: Tensor
) -> None:
    """Raise ValueError unless these permutations leave this model's outputs on these inputs as they are.

    In float64, where a permutation moves outputs by 1e-9 of their size at the most, however small the last layer is.
    """
    if not _same(model, spec, permutations, inputs):
        raise ValueError("model must have finite outputs on the inputs that its permutation is verified on")


def _shake(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all parameters anew, of a size that keeps signals about as large from layer to layer."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                drawn = 2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1
                if parameter.ndim > 1:
                    drawn *= math.sqrt(3 / max(parameter[0].numel(), 1))
                else:
                    drawn = 1 + drawn / 2
                parameter.copy_(drawn)


def _same(
    model: nn.Module, spec: PermutationSpec, permutations: Mapping[str, NDArray[np.int64]], inputs: Tensor
) -> bool:
    """Return whether outputs are finite, so that they could be compared; raise ValueError if they differ."""
    try:
        before, after = _outputs(model, spec, permutations, inputs, torch.float64)
        precision = torch.finfo(torch.float64).eps
    except RuntimeError:  # a model that only runs in its own precision
        before, after = _outputs(model, spec, permutations, inputs, None)
        precision = max((torch.finfo(t.dtype).eps for t in before if t.is_floating_point()), default=0.0)
    if len(before) != len(after) or not all(bool(torch.isfinite(t).all()) for t in before):
        return False
    for one, other in zip(before, after, strict=True):
        if one.numel() == 0:
            continue
        size, moved = float(one.abs().max()), float((one.double() - other.double()).abs().max())
        # Sums in another order differ by their rounding, over many layers by some thousand times that.
        if not moved <= 2**22 * precision * size:
            raise ValueError(
                "spec must leave the function as it is: with its units in another order the outputs of the model move "
                f"by up to {moved:.3g} of {size:.3g}; {_REMEDY}"
            )
    return True


def _outputs(
    model: nn.Module,
    spec: PermutationSpec,
    permutations: Mapping[str, NDArray[np.int64]],
    inputs: Tensor,
    dtype: torch.dtype | None,
) -> tuple[list[Tensor], list[Tensor]]:
    walker = copy.deepcopy(model)
    if dtype is not None:
        walker = walker.to(dtype)
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    else:
        inputs = inputs.to(next((p.dtype for p in model.parameters()), inputs.dtype))
    with evaluating(walker), torch.no_grad():
        before = list(_tensors_of(walker(inputs)))
        walker.load_state_dict(permuted(walker.state_dict(), spec, permutations))
        return before, list(_tensors_of(walker(inputs)))


def _tensors_of(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for one in output.values():
            yield from _tensors_of(one)
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _tensors_of(one)
