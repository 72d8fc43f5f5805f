"""Per-example gradient norms of whole PyTorch models, beside plain passes, the floor and other libraries.

Called by bench_grad_norms.py. Every contender runs at its own best number of examples a call, is compared with autograd
in float64 on one example at a time, and is timed in the same run as all others of its model.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from expunge.torch import GradNorms
from grad_norm_peers import PEERS, freeze, norms_in_chunks
from timing import measure

__all__ = ["MODELS", "model_table"]

CHECKED = 6  # examples compared with single ones
CHUNKS = (16, 64, 256, 1024, 4096)
STORED_GRADIENTS = 250_000_000  # numbers a peer may hold, whose chunk is limited to that many
SECONDS = 0.6  # a contender slower than this is timed on fewer examples

OURS, OURS_GRADS = "expunge", "expunge, .grad kept"
FORWARD, BOTH, FLOOR = "forward", "forward + backward", "floor: forward + data gradient"


class Block(nn.Module):
    """A transformer layer made of linear maps, that every library can follow."""

    def __init__(self, width: int, heads: int, bend: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.heads, self.bend = heads, bend
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm_1(x + self.out(attended))
        return self.norm_2(x + self.down(self.bend(self.up(x))))


class Classifier(nn.Module):
    """Layers, and a linear map of the mean over positions."""

    def __init__(self, width: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


def _probe() -> nn.Module:
    return nn.Linear(512, 10, bias=False)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10)),
    )


def _blocks(width: int, heads: int, layers: int) -> nn.Module:
    return Classifier(width, *(Block(width, heads) for _ in range(layers)))


def _torch_encoder(width: int, heads: int, layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
    return Classifier(width, nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))


class LastState(nn.Module):
    """An LSTM, and a linear map of its last output."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(features, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Bert(nn.Module):
    """BERT as in its paper, from modules of torch: words, positions and kinds added, layers that normalise last."""

    def __init__(self, words: int, width: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.words, self.positions, self.kinds = (nn.Embedding(n, width) for n in (words, length, 2))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Block(width, heads, F.gelu) for _ in range(layers))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, words: Tensor) -> Tensor:
        positions = torch.arange(words.shape[1])[None]
        x = self.norm(self.words(words) + self.kinds(torch.zeros_like(positions)) + self.positions(positions))
        for layer in self.layers:
            x = layer(x)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


# Name: what it is, how it is made, the shape of its inputs.
WORDS = 1000
MODELS: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = {
    "probe": ("linear, d=512, C=10, n=20000", _probe, (20_000, 512)),
    "mlp": ("784-256-256-10, n=10000", _mlp, (10_000, 784)),
    "cnn": ("3x3 convolutions 32-64-64 on 3x32x32, n=2000", _cnn, (2_000, 3, 32, 32)),
    "encoder": ("2 layers d=128, 4 heads, T=64, n=512", lambda: _blocks(128, 4, 2), (512, 64, 128)),
    "transformer": ("4 layers d=256, 4 heads, T=128, n=16", lambda: _blocks(256, 4, 4), (16, 128, 256)),
    "nn.TransformerEncoder": (
        "the same by torch's own layers",
        lambda: _torch_encoder(256, 4, 4),
        (16, 128, 256),
    ),
    "lstm": ("64 -> 128, T=64, n=512", lambda: LastState(64, 128), (512, 64, 64)),
    "bert": ("2 layers d=128, 4 heads, T=64, n=512", lambda: Bert(WORDS, 128, 4, 2, 64), (512, 64)),
}

# Times over another contender's that must not be passed.
TARGETS: dict[str, list[tuple[str, str, float]]] = {
    "mlp": [(OURS, FLOOR, 1.15), (OURS_GRADS, BOTH, 1.25)],
    "cnn": [(OURS, BOTH, 0.95), (OURS_GRADS, BOTH, 1.6)],
    "encoder": [(OURS, BOTH, 0.95), (OURS_GRADS, BOTH, 1.35)],
    "transformer": [(OURS, BOTH, 0.95), (OURS_GRADS, BOTH, 1.35)],
    "nn.TransformerEncoder": [(OURS, BOTH, 0.95), (OURS_GRADS, BOTH, 1.35)],
    "lstm": [(OURS, BOTH, 0.95), (OURS_GRADS, BOTH, 1.25)],
    "bert": [(OURS, BOTH, 0.95), (OURS_GRADS, BOTH, 1.25)],
}
PEER_TARGETS = {name: {"Opacus ghost": 1.8} for name in ("probe", "mlp", "cnn", "encoder", "transformer")}


def single_example_norms(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return norms by autograd in float64, one example at a time."""
    wide = copy.deepcopy(model).double()
    parameters = list(wide.parameters())
    rows = []
    for a, b in zip((x.double() if x.is_floating_point() else x).split(1), y.split(1), strict=True):
        grads = torch.autograd.grad(F.cross_entropy(wide(a), b, reduction="sum"), parameters)
        rows.append(math.sqrt(sum(float(g.square().sum()) for g in grads)))
    return torch.tensor(rows, dtype=torch.float64)


def contenders(model: nn.Module) -> dict[str, Callable[[Tensor, Tensor], Any]]:
    """Return the plain passes and ours, each a function of a chunk of examples."""
    frozen = copy.deepcopy(model)
    freeze(frozen)

    def forward(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            F.cross_entropy(model(x), y, reduction="sum")

    def both(x: Tensor, y: Tensor) -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y, reduction="sum").backward()

    def floor(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(frozen(x), y, reduction="sum").backward()

    def ours(x: Tensor, y: Tensor, param_grads: bool = False) -> Tensor:
        model.zero_grad(set_to_none=True)
        with GradNorms(model, param_grads=param_grads) as g:
            F.cross_entropy(model(x), y, reduction="sum").backward()
            return g.norms()

    return {
        FORWARD: forward,
        BOTH: both,
        FLOOR: floor,
        OURS: ours,
        OURS_GRADS: lambda x, y: ours(x, y, param_grads=True),
    }


def in_chunks(run: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor, chunk: int) -> None:
    for a, b in zip(x.split(chunk), y.split(chunk), strict=True):
        run(a, b)


def best_chunk(run: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor, limit: int) -> tuple[int, float]:
    """Return the number of examples a call that makes most examples a second, and the seconds of one example."""
    rates: dict[int, float] = {}
    for chunk in sorted({min(c, len(x)) for c in (*CHUNKS, len(x)) if min(c, len(x)) <= max(limit, min(CHUNKS))}):
        few = min(len(x), max(chunk, 64))
        in_chunks(run, x[:few], y[:few], chunk)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            in_chunks(run, x[:few], y[:few], chunk)
            seconds.append(time.perf_counter() - start)
        rates[chunk] = min(seconds) / few
        if rates[chunk] > 3 * min(rates.values()):
            break  # larger ones no longer fit the caches
    chunk = min(rates, key=lambda c: rates[c])
    return chunk, rates[chunk]


def peers_of(model: nn.Module, x: Tensor, y: Tensor, expected: Tensor) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the peers that give the right norms, and what the others do instead."""
    right: dict[str, Any] = {}
    others: dict[str, str] = {}
    for name, prepare in PEERS.items():
        try:
            norms = prepare(model)
            found = norms_in_chunks(norms, x, y, len(x))
        except ImportError:
            others[name] = "not installed"
            continue
        except Exception as error:  # whatever a library raises for what it cannot do
            others[name] = f"refuses: {type(error).__name__}"
            continue
        error = float((found.double() / expected - 1).abs().max())
        if error < 1e-3:
            right[name] = norms
        else:
            others[name] = f"wrong by {error:.1%}"
    return right, others


def model_table(name: str, threads: int, repeats: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of one model and its targets."""
    description, make, shape = MODELS[name]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = make()
    x = torch.randint(0, WORDS, shape) if isinstance(model, Bert) else torch.randn(*shape)
    y = torch.randint(0, 10, shape[:1])
    expected = single_example_norms(model, x[:CHECKED], y[:CHECKED])
    runs = contenders(model)
    for ours in (OURS, OURS_GRADS):
        torch.testing.assert_close(runs[ours](x[:CHECKED], y[:CHECKED]).double(), expected, rtol=1e-5, atol=0)
    right, others = peers_of(model, x[:CHECKED], y[:CHECKED], expected)
    side = torch.randn(1024, 1024)
    timed: dict[str, Callable[[], object]] = {"sgemm 1024^3": lambda: side @ side, "copy of the inputs": x.clone}
    examples: dict[str, tuple[int, int]] = {}
    limit = STORED_GRADIENTS // sum(p.numel() for p in model.parameters())
    for contender, run in (runs | right).items():
        chunk, seconds = best_chunk(run, x, y, len(x) if contender in runs else limit)
        count = min(len(x), max(chunk, math.ceil(SECONDS / seconds / chunk) * chunk))
        examples[contender] = (chunk, count)
        timed[contender] = lambda run=run, chunk=chunk, count=count: in_chunks(run, x[:count], y[:count], chunk)
    seconds = measure(timed, repeats=repeats)
    whole = {k: s * len(x) / examples[k][1] if k in examples else s for k, s in seconds.items()}
    rows: list[dict[str, Any]] = []
    for contender, value in whole.items():
        ratios = contender in examples
        rows.append(
            {
                "model": name,
                "what": contender,
                "ms": round(1e3 * value, 2),
                "examples a call": examples[contender][0] if ratios else "",
                "of forward + backward": round(value / whole[BOTH], 3) if ratios else "",
                "of the floor": round(value / whole[FLOOR], 3) if ratios else "",
                "of expunge": round(value / whole[OURS], 2) if ratios else "",
                "note": description if contender == FORWARD else "",
            }
        )
    rows.extend({"model": name, "what": peer, "note": what} for peer, what in others.items())
    goals = [
        {"target": f"{name}: {a} / {b}", "measured": round(whole[a] / whole[b], 3), "wanted": f"<= {most}",
         "met": whole[a] / whole[b] <= most}
        for a, b, most in TARGETS.get(name, [])
    ]  # fmt: skip
    for peer in right:
        least = PEER_TARGETS.get(name, {}).get(peer, 1.0)
        ratio = whole[peer] / whole[OURS]
        goals.append(
            {"target": f"{name}: {peer} / expunge", "measured": round(ratio, 2), "wanted": f">= {least}",
             "met": ratio >= least}
        )  # fmt: skip
    return rows, goals
