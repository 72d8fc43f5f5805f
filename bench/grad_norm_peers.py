"""Other libraries' per-example gradient norms, for comparison: each peer takes a model and gives a function of (x, y).

``PEERS[name](model)`` wraps a copy of the model once and returns ``norms(x, y)``: the norms of the gradients of each
example's cross-entropy, shape (B,). A peer whose library is not installed raises ImportError, one that cannot do the
model raises what its library raises. README.md has the line that installs them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F  # noqa: N812

__all__ = ["PEERS", "freeze", "norms_in_chunks"]

Norms = Callable[[Tensor, Tensor], Tensor]


def norms_in_chunks(norms: Norms, x: Tensor, y: Tensor, chunk: int) -> Tensor:
    """Return the norms of all examples, ``chunk`` of them at a time."""
    return torch.cat([norms(a, b) for a, b in zip(x.split(chunk), y.split(chunk), strict=True)])


def freeze(model: nn.Module) -> None:
    """Let a model compute no gradient but those of activations that parameters feed: no weights, not the input's."""

    def begin(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not first.requires_grad:
            first.requires_grad_()

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            # It is one module, whose gradients begin inside: at its in-projection, which a bias is nearly free to say.
            module.in_proj_bias.requires_grad_(True)
        elif isinstance(module, nn.RNNBase):  # the same: they begin at the gates of every step
            module.bias_ih_l0.requires_grad_(True)
        elif next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(begin)


def _summed_loss(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="sum")


def _vmap(model: nn.Module) -> Norms:
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
        return _summed_loss(functional_call(model, weights, (a[None],)), b[None])

    def one(weights: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
        return sum(g.square().sum() for g in grad(loss)(weights, a, b).values()).sqrt()

    batched = vmap(one, in_dims=(None, 0, 0))
    return lambda x, y: batched(parameters, x, y)


def _opacus_per_sample(model: nn.Module) -> Norms:
    from opacus.grad_sample import GradSampleModule

    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")

    def norms(x: Tensor, y: Tensor) -> Tensor:
        _summed_loss(wrapped(x), y).backward()
        total = sum(p.grad_sample.flatten(1).square().sum(1) for p in wrapped.parameters())
        for p in wrapped.parameters():
            p.grad = p.grad_sample = None
        return total.sqrt()

    return norms


def _opacus_ghost(model: nn.Module) -> Norms:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        copy.deepcopy(model), loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )

    def norms(x: Tensor, y: Tensor) -> Tensor:
        _summed_loss(wrapped(x), y).backward()
        found = wrapped.get_norm_sample()
        for p in wrapped.parameters():
            p.grad = p._norm_sample = None
        return found.detach()

    return norms


def _backpack(model: nn.Module) -> Norms:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    wrapped = extend(copy.deepcopy(model))
    loss = extend(nn.CrossEntropyLoss(reduction="sum"))

    def norms(x: Tensor, y: Tensor) -> Tensor:
        with backpack(BatchL2Grad()):
            loss(wrapped(x), y).backward()
        total = sum(p.batch_l2 for p in wrapped.parameters())
        for p in wrapped.parameters():
            p.grad = p.batch_l2 = None
        return total.sqrt()

    return norms


def _fastdp(model: nn.Module) -> Norms:
    """Its norm samplers at the layers' outputs, weights frozen: all that its engine does short of clipping."""
    from fastDP.supported_layers_grad_samplers import _supported_layers_norm_sample_AND_clipping as samplers

    wrapped = copy.deepcopy(model)
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    freeze(wrapped)

    def sample(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        inputs = args[0].detach()
        norms_of, _ = samplers[type(layer)]
        output.register_hook(lambda g: norms_of(layer, inputs, g.detach(), "MixGhostClip"))

    for layer in wrapped.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            if type(layer) not in samplers:
                raise NotImplementedError(f"{type(layer).__name__} is not supported")
            layer.register_forward_hook(sample)

    def norms(x: Tensor, y: Tensor) -> Tensor:
        _summed_loss(wrapped(x), y).backward()
        found = torch.stack([p.norm_sample for p in parameters]).norm(dim=0)
        for p in parameters:
            p.norm_sample = p.grad_sample = None
        return found

    return norms


def _quiet(build: Callable[[nn.Module], Norms]) -> Callable[[nn.Module], Norms]:
    """Silence other libraries' warnings about how they are used."""

    def built(model: nn.Module) -> Norms:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            norms = build(model)

        def quiet(x: Tensor, y: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return norms(x, y)

        return quiet

    return built


PEERS: dict[str, Callable[[nn.Module], Norms]] = {
    "torch.func.vmap": _quiet(_vmap),
    "Opacus per-sample": _quiet(_opacus_per_sample),
    "Opacus ghost": _quiet(_opacus_ghost),
    "BackPACK": _quiet(_backpack),
    "fastDP": _quiet(_fastdp),
}
