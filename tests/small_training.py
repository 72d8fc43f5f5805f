"""Networks of a few units and the data they learn: enough to train, to unlearn, and to compare weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def data(n: int = 60, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return normal inputs (n, d) in float64 and labels (n,) that can be learned from them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return x, (x[:, :classes] + 0.5 * torch.randn(n, classes, dtype=torch.float64, generator=generator)).argmax(1)


def network(seed: int = 0, d: int = 6, classes: int = 3, dropout: float = 0.0) -> nn.Module:
    """Return a network of one hidden layer in float64, the same for the same seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, classes)).double()


def weights_of(model: nn.Module) -> Tensor:
    """Return a copy of all parameters, one after the other."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model in float64 with every parameter and statistic drawn anew, so that no symmetry is left."""
    model = model.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, dtype=torch.float64, generator=generator)
                tensor.copy_(drawn + 0.5 if "var" in name else drawn - 0.5)
    return model
