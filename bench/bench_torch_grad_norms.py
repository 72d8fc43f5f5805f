"""Per-example gradient norms of PyTorch models on the CPU, float32, beside plain passes of the same run.

Run ``python bench/bench_torch_grad_norms.py [--threads N] [--repeats R] [--scale S]``; needs ``expunge[torch]``. The
floor of any exact method is the forward pass with the gradients of the data only. Norms are checked against
``torch.func`` before anything is timed.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F  # noqa: N812

from expunge.torch import GradNorms
from timing import measure, table, write_results


def encoder(width: int, heads: int, layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
    stack = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    return nn.Sequential(stack, nn.Flatten(), nn.LazyLinear(10))


def models(scale: float) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    def n(count: int) -> int:
        return max(8, int(count * scale))

    mlp = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    cnn = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10)),
    )
    return {
        "probe": (nn.Linear(512, 10, bias=False), torch.randn(n(20_000), 512)),
        "mlp": (mlp, torch.randn(n(10_000), 784)),
        "cnn": (cnn, torch.randn(n(2_000), 3, 32, 32)),
        "encoder": (encoder(128, 4, 2), torch.randn(n(512), 64, 128)),
        "transformer": (encoder(256, 4, 4), torch.randn(16, 128, 256)),
    }


def run(model: nn.Module, x: torch.Tensor, repeats: int) -> dict[str, Any]:
    y = torch.randint(0, 10, (len(x),))
    model(x[:2])

    def both() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y, reduction="sum").backward()

    def floor() -> None:
        model.requires_grad_(False)
        output = model(x.detach().requires_grad_())  # a first layer's data gradient is a little more than the floor
        F.cross_entropy(output, y, reduction="sum").backward()
        model.requires_grad_(True)

    def ours(param_grads: bool) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        with GradNorms(model, param_grads=param_grads) as g:
            F.cross_entropy(model(x), y, reduction="sum").backward()
            return g.norms()

    def one(parameters: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, parameters, (a[None],)), b[None])

    chosen = slice(0, 8)
    found = vmap(grad(one), in_dims=(None, 0, 0))(
        {k: p.detach() for k, p in model.named_parameters()}, x[chosen], y[chosen]
    )
    expected = sum(v.flatten(1).double().square().sum(1) for v in found.values()) ** 0.5
    torch.testing.assert_close(ours(False)[chosen].double(), expected, rtol=1e-4, atol=0)
    seconds = measure(
        {"both": both, "floor": floor, "norms": lambda: ours(False), "norms and .grad": lambda: ours(True)},
        repeats=repeats,
    )
    return {"examples": len(x), **{f"{k} ms": round(1e3 * s, 2) for k, s in seconds.items()}} | {
        "norms/floor": round(seconds["norms"] / seconds["floor"], 2),
        "norms/both": round(seconds["norms"] / seconds["both"], 2),
        "with .grad/both": round(seconds["norms and .grad"] / seconds["both"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of examples")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = []
    for name, (model, x) in models(arguments.scale).items():
        rows.append({"model": name, **run(model, x, arguments.repeats)})
    print(table(rows))
    print(
        write_results(
            "torch_grad_norms", rows, threads=arguments.threads, scale=arguments.scale, torch=torch.__version__
        )
    )


if __name__ == "__main__":
    main()
