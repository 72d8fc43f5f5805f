"""DistributedDataParallel in a block: gradients reach parameters and are averaged as outside one."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from expunge.torch._errors import UnsupportedLayerError

__all__ = ["look_at_replicas"]


def look_at_replicas(model: nn.Module, *, param_grads: bool) -> None:
    """Refuse what replicas do with gradients that a block cannot follow, before anything is computed.

    Looks at ``model``, and at the replica whose forward pass is running, if one is.
    """
    running = DistributedDataParallel._active_ddp_module
    if running is None and not isinstance(model, DistributedDataParallel):
        return
    for replica in (model, running):
        if not isinstance(replica, DistributedDataParallel):
            continue
        if not param_grads:
            raise UnsupportedLayerError(
                "the model is a DistributedDataParallel, which waits for the gradients that param_grads=False leaves "
                "out: pass and call its module"
            )
        for setting in ("find_unused_parameters", "static_graph"):
            if getattr(replica, setting, False):
                raise UnsupportedLayerError(
                    f"the model is a DistributedDataParallel with {setting}=True, whose outputs pass through a call "
                    f"that no torch function shows: use {setting}=False, or pass and call its module"
                )
