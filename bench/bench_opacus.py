"""Training steps of Opacus on the CPU, float32: its own norms, and `expunge.integrations.opacus.register`.

Run ``python bench/bench_opacus.py [--models mlp cnn text] [--threads N] [--repeats R]``; needs ``expunge[opacus]``.
Norms of both are compared with those of per-sample gradients before anything is timed, and a step without privacy,
forward and backward of the mean loss, is the yardstick.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from typing import Any

from expunge._kernels import backend
from timing import measure, need, table, write_results

need("opacus", extra="opacus")

import torch  # noqa: E402
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping  # noqa: E402
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping  # noqa: E402
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping  # noqa: E402
from torch import nn  # noqa: E402

from expunge.integrations import opacus  # noqa: E402

CLIP = 1.0
OPACUS_VERSION = __import__("opacus").__version__


class Text(nn.Module):
    """Two blocks of layer norm and two linear maps on 64 tokens, over an embedding with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 128)
        blocks = [nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128)) for _ in (0, 1)]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(128, 10)

    def forward(self, tokens):  # noqa: D102
        x = self.table(tokens)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


def mlp():
    layers = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return layers, torch.randn(512, 784)


def cnn():
    def block(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.ReLU(), nn.AvgPool2d(2))

    model = nn.Sequential(block(3, 32), block(32, 64), block(64, 64), nn.Flatten(), nn.Linear(64 * 16, 10))
    return model, torch.randn(64, 3, 32, 32)


def text():
    return Text(), torch.randint(0, 1000, (64, 64))


MODELS = {"mlp": mlp, "cnn": cnn, "text": text}


def private_step(model: Any, x: Any, y: Any, way: str) -> Any:
    """Return a training step without noise: noise costs the same in all."""
    model = copy.deepcopy(model)
    ghost = way == "ghost"
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=CLIP) if ghost else GradSampleModule(model)
    kind = DPOptimizerFastGradientClipping if ghost else DPOptimizer
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer = kind(sgd, noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=len(x))
    criterion = nn.CrossEntropyLoss()
    loss = DPLossFastGradientClipping(wrapped, optimizer, criterion) if ghost else criterion

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss(wrapped(x), y).backward()
        if ghost:
            norms = wrapped.per_sample_gradient_norms
        else:
            norms = torch.stack([p.grad_sample.flatten(1).norm(dim=1) for p in model.parameters()]).norm(dim=0)
        optimizer.step()
        return norms

    return step


def compare(name: str, repeats: int) -> tuple[list[dict[str, Any]], float]:
    torch.manual_seed(0)
    model, x = MODELS[name]()
    y = torch.randint(0, 10, (len(x),))
    plain = copy.deepcopy(model)

    def plain_step() -> None:
        plain.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(plain(x), y).backward()

    ghost, ours = private_step(model, x, y, "ghost"), private_step(model, x, y, "ghost")

    def with_kernels() -> Any:
        opacus.register()
        try:
            return ours()
        finally:
            opacus.unregister()

    per_sample = private_step(model, x, y, "hooks")
    expected = per_sample()
    for step in (ghost, with_kernels):
        torch.testing.assert_close(step(), expected, rtol=1e-3, atol=0.0)
    contenders = {
        "forward + backward, no privacy": plain_step,
        "Opacus, per-sample gradients": per_sample,
        "Opacus, ghost clipping": ghost,
        "Opacus, ghost clipping, these kernels": with_kernels,
    }
    seconds = measure(contenders, repeats=repeats)
    first = seconds["forward + backward, no privacy"]
    rows = [
        {"model": name, "examples": len(x), "step": way, "ms": value * 1e3, "over no privacy": value / first}
        for way, value in seconds.items()
    ]
    return rows, seconds["Opacus, ghost clipping"] / seconds["Opacus, ghost clipping, these kernels"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="these models alone")
    parser.add_argument("--threads", type=int, default=backend.default_threads())
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # of other libraries, on how they are used
    rows: list[dict[str, Any]] = []
    speedups: dict[str, float] = {}
    for name in options.models:
        more, speedups[name] = compare(name, options.repeats)
        print(table(more), end="\n\n", flush=True)
        rows += more
    for name, value in speedups.items():
        print(f"{name}: ghost clipping is {value:.2f} times as fast with these kernels")
    path = write_results(
        "opacus", rows, threads=options.threads, torch=torch.__version__, opacus=OPACUS_VERSION, speedups=speedups
    )
    print(f"written to {path.relative_to(path.parent.parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
