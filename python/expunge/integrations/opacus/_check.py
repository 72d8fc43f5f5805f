"""Opacus' norms of one batch compared with exact ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from expunge import _validate
from expunge.torch import GradNorms

__all__ = ["check"]


def check(module: nn.Module, losses: Callable[..., Tensor], *inputs: object, tolerance: float = 1e-3) -> None:
    """Raise unless Opacus' ghost norms of one batch are the gradient norms of its examples.

    Opacus sees what goes in and out of layers. A parameter used anywhere else is missing from its norms without an
    error, its examples are clipped too little, and the noise does not protect them. Norms are compared with those of
    `expunge.torch.GradNorms`, which follows parameters through every operation and rejects what it does not understand.

    Parameters
    ----------
    module : opacus.grad_sample.GradSampleModuleFastGradientClipping
        The wrapped model, in training mode. Gradients, random numbers and hooks are left as they were.
    losses : callable
        Takes the output of the model and gives the losses of the examples, shape (B,).
    *inputs
        What the model is called with; a few examples suffice.
    tolerance : float
        Largest relative difference of a norm.

    Raises
    ------
    TypeError
        If the module is not one that Opacus wrapped for ghost clipping.
    ValueError
        Naming the parameters whose norms are wrong; or if there are no examples, or not one loss for each.

    Examples
    --------
    >>> import torch
    >>> from opacus.grad_sample import GradSampleModuleFastGradientClipping
    >>> from expunge.integrations import opacus
    >>> model = GradSampleModuleFastGradientClipping(torch.nn.Linear(3, 2))
    >>> inputs = torch.ones(4, 3, requires_grad=True)  # torch warns of hooks where no input requires grad
    >>> opacus.check(model, lambda output: output.square().sum(1), inputs)
    """
    if not isinstance(module, GradSampleModuleFastGradientClipping):
        raise TypeError(
            f"module must be a GradSampleModuleFastGradientClipping of Opacus (grad_sample_mode='ghost'), got "
            f"{type(module).__name__}"
        )
    limit = _validate.number("tolerance", tolerance, low=0.0)
    model = module._module
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: (p.grad, getattr(p, "_norm_sample", None)) for name, p in names.items()}
    try:
        for p in names.values():
            p.grad = None
        with torch.random.fork_rng():
            loss = losses(module(*inputs))
            if loss.ndim != 1 or not len(loss):
                raise ValueError(
                    f"losses must give one number for each of some examples, got shape {tuple(loss.shape)}"
                )
            (loss.mean() if module.loss_reduction == "mean" else loss.sum()).backward()
        ghost: dict[str, Any] = {name: getattr(p, "_norm_sample", None) for name, p in names.items()}
        missing = [name for name, norms in ghost.items() if norms is None]
        if missing:
            raise ValueError(f"Opacus has no norms of {', '.join(missing)}: no layer that it sees uses them")
        exact = _exact_norms(module, losses, inputs)
    finally:
        for name, p in names.items():
            p.grad, sample = before[name]
            p.__dict__.pop("_norm_sample", None)
            if sample is not None:  # of a backward pass whose step is still to come
                p._norm_sample = sample
            p._forward_counter = 0  # what Opacus leaves behind where it refuses a model
        for layer in model.modules():
            layer.__dict__.pop("activations", None)
            layer.__dict__.pop("max_batch_len", None)
    whole = torch.stack(list(exact.values())).double().norm(dim=0).clamp(min=1e-300)  # of all parameters together
    differences = {name: (ghost[name].double() - norms.double()).abs() / whole for name, norms in exact.items()}
    wrong = {name: off.max().item() for name, off in differences.items() if not bool((off <= limit).all())}
    if wrong:
        listed = ", ".join(f"{name} by {off:.1%} of the norm" for name, off in wrong.items())
        raise ValueError(
            f"Opacus' norms are not those of the gradients: {listed}. A parameter may be used outside its layer, or by "
            "a layer whose norms are wrong: see expunge.integrations.opacus.register"
        )


def _exact_norms(module: Any, losses: Any, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Return the norms by parameter, with Opacus' hooks out of the way."""
    module.remove_hooks()
    try:
        with torch.random.fork_rng(), GradNorms(module._module) as g:
            losses(module._module(*inputs)).sum().backward()
            found: dict[str, Tensor] = g.norms(per_layer=True)
            return found
    finally:
        module.add_hooks(
            loss_reduction=module.loss_reduction, batch_first=module.batch_first, force_functorch=module.force_functorch
        )
