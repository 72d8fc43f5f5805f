"""Per-example gradient norms on the CPU, float32: kernels and whole models beside the floors and peers of the same run.

Run ``python bench/bench_grad_norms.py [--part kernels|models] [--models mlp cnn] [--threads N] [--repeats R]``. Every
answer is checked before it is timed, and the contenders of one table run interleaved. Whole models need
``expunge[torch]``; the libraries compared with are in grad_norm_peers.py. ``--check`` exits with status 1 if a target
ratio is missed. The kernels take about two and a half minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from expunge._errors import how_to_install
from expunge._kernels import backend
from expunge.grad_norms import (
    conv_grad_norms,
    embedding_grad_norms,
    linear_grad_norms,
    probe_grad_norms,
)
from expunge.grad_norms.probe_measures import probe_measures
from timing import RESULTS, measure, table, write_results

RECORDS, FEATURES, CLASSES, CHECKPOINTS = 20_000, 512, 10, 35
PROBE_SPEEDUP, STACK_OF_PEAK = 3.0, 0.6  # targets: over NumPy's closed form; of sgemm's rate
# Examples, positions, inputs and outputs of linear layers; examples, channels, outputs and side of convolutions.
SHAPES = [
    (64, 64, 128, 128),
    (64, 256, 64, 64),
    (64, 1024, 27, 32),
    (64, 64, 576, 64),
    (16, 128, 256, 1024),
    (64, 16, 512, 512),
    (4096, 1, 512, 512),
]
IMAGES = [(64, 3, 32, 32), (64, 32, 64, 32), (64, 64, 64, 16), (64, 256, 256, 4)]
SENTENCES = 512  # of the embedding
OPACUS_SPEEDUP, GHOST_SPEEDUP = 20.0, 6.0  # over Opacus' per-sample gradients; over its ghost norms


def numpy_closed_form(X, stack, y, rows):
    """Norms of softmax residuals times norms of rows, ``rows`` records at a time, in place where NumPy can."""
    checkpoints, d, classes = stack.shape
    wide = stack[0] if checkpoints == 1 else np.ascontiguousarray(stack.transpose(1, 0, 2).reshape(d, -1))
    out = np.empty((len(X), checkpoints), dtype=X.dtype)
    for first in range(0, len(X), rows):
        x, labels = X[first : first + rows], y[first : first + rows]
        p = (x @ wide).reshape(len(x), checkpoints, classes)
        p -= p.max(axis=2, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=2, keepdims=True)
        p[np.arange(len(x)), :, labels] -= 1
        squares = np.einsum("ij,ij->i", x, x)[:, None] * np.einsum("inj,inj->in", p, p)
        np.sqrt(squares, out=out[first : first + rows])
    return out


def best_tiling(X, stack, y):
    """Return the number of rows at a time that NumPy's closed form is fastest with."""
    tilings = {str(rows): lambda rows=rows: numpy_closed_form(X, stack, y, rows) for rows in (512, 2048, 8192, len(X))}
    seconds = measure(tilings, repeats=3, awake=True)
    return int(min(seconds, key=seconds.get))


def opacus_contenders(X, weights, y, expected):
    """Opacus' two ways on a linear layer, 2,048 records at a time; none where it is not installed."""
    try:
        import torch

        from grad_norm_peers import PEERS, norms_in_chunks
    except ImportError:
        return {}
    x, labels = torch.from_numpy(X), torch.from_numpy(y)
    model = torch.nn.Linear(FEATURES, CLASSES, bias=False)
    model.weight.data = torch.from_numpy(np.ascontiguousarray(weights.T))
    contenders = {}
    for name in PEERS:
        if "opacus" not in name.lower():
            continue
        try:
            norms = PEERS[name](model)
        except ImportError:
            continue
        np.testing.assert_allclose(norms_in_chunks(norms, x[:64], labels[:64], 64).numpy(), expected[:64], rtol=1e-3)
        contenders[name] = lambda norms=norms: norms_in_chunks(norms, x, labels, 2048)
    return contenders


def check_proxies(X, stack, y, expected, threads):
    """Hold the proxies that the probe also gives, and its weighted norms, against NumPy in float64."""
    found = probe_measures(X, stack, y, threads=threads)
    logits = np.einsum("id,ndc->nic", X.astype(float), stack.astype(float), optimize=True)
    logs = log_softmax(logits, axis=2)
    own, residuals = np.take_along_axis(logs, y[None, :, None], 2)[..., 0], np.exp(logs[0])
    residuals[np.arange(len(y)), y] -= 1
    np.testing.assert_allclose(found.grad_norms, expected, rtol=1e-4)
    np.testing.assert_allclose(found.early_residuals, np.linalg.norm(residuals, axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.own_probabilities, np.exp(own).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.losses, -own[-1], rtol=1e-4, atol=1e-5)
    weighted = probe_grad_norms(X, stack, y, checkpoint_weights=np.ones(len(stack)), threads=threads)
    np.testing.assert_allclose(weighted, np.square(expected).sum(1), rtol=2e-4)


def probe_table(rng, threads, repeats):
    X = rng.standard_normal((RECORDS, FEATURES), dtype=np.float32)
    y = rng.integers(0, CLASSES, RECORDS)
    stacks = (0.05 * rng.standard_normal((CHECKPOINTS, FEATURES, CLASSES))).astype(np.float32)
    side = rng.standard_normal((1024, 1024), dtype=np.float32)
    rows: list[dict[str, Any]] = []
    targets: dict[str, tuple[float, float]] = {}
    for n in sorted({1, min(8, CHECKPOINTS), CHECKPOINTS}):
        stack = np.ascontiguousarray(stacks[:n])
        expected = numpy_closed_form(X.astype(float), stack.astype(float), y, 2048)
        tiling = best_tiling(X, stack, y)
        np.testing.assert_allclose(probe_grad_norms(X, stack, y, threads=threads), expected, rtol=1e-4)
        np.testing.assert_allclose(numpy_closed_form(X, stack, y, tiling), expected, rtol=1e-3)
        check_proxies(X, stack, y, expected, threads)
        contenders = {
            "sgemm 1024^3": lambda: side @ side,
            "copy X": X.copy,
            "read X (one column)": lambda stack=stack: X @ stack[0, :, 0],
            f"NumPy closed form, {tiling} rows": lambda stack=stack, tiling=tiling: numpy_closed_form(
                X, stack, y, tiling
            ),
            "probe": lambda stack=stack: probe_grad_norms(X, stack, y, threads=threads),
            "probe, proxies too": lambda stack=stack: probe_measures(X, stack, y, threads=threads),
            "probe, weighted": lambda stack=stack, n=n: probe_grad_norms(
                X, stack, y, checkpoint_weights=np.ones(n), threads=threads
            ),
        }
        peers = opacus_contenders(X, stack[0], y, expected[:, 0]) if n == 1 else {}
        seconds = measure(contenders | peers, repeats=repeats, awake=True)
        probe, peak = seconds["probe"], 2 * 1024**3 / seconds["sgemm 1024^3"]
        flops = 2 * RECORDS * FEATURES * CLASSES * n
        yardsticks = ("sgemm 1024^3", "copy X", "read X (one column)")
        for name, value in seconds.items():
            rate = (2 * 1024**3 if name == "sgemm 1024^3" else flops) / value
            rows.append(
                {
                    f"probe n={RECORDS} d={FEATURES} C={CLASSES}": name,
                    "checkpoints": n,
                    "ms": value * 1e3,
                    "GFLOP/s": "" if name in yardsticks[1:] else rate / 1e9,
                    "of sgemm": "" if name in yardsticks[1:] else rate / peak,
                    "over the probe": "" if name in yardsticks else value / probe,
                }
            )
        if n == 1:
            closed = seconds[f"NumPy closed form, {tiling} rows"]
            targets["NumPy's closed form / probe"] = (closed / probe, PROBE_SPEEDUP)
            for name in peers:
                wanted = GHOST_SPEEDUP if "ghost" in name.lower() else OPACUS_SPEEDUP
                targets[f"{name} / probe"] = (seconds[name] / probe, wanted)
        if n == CHECKPOINTS:
            targets["35 checkpoints of sgemm"] = (flops / probe / peak, STACK_OF_PEAK)
    return rows, targets


def stored(a, g):
    return np.linalg.norm((a.transpose(0, 2, 1) @ g).reshape(len(a), -1), axis=1)


def gram(a, g):
    return np.sqrt(np.einsum("bts,bts->b", a @ a.transpose(0, 2, 1), g @ g.transpose(0, 2, 1)))


def primitive_table(rng, threads, repeats):
    side = rng.standard_normal((1024, 1024), dtype=np.float32)
    rows = []
    for shape in SHAPES:
        examples, positions, d_in, d_out = shape
        a = rng.standard_normal((examples, positions, d_in), dtype=np.float32)
        g = rng.standard_normal((examples, positions, d_out), dtype=np.float32)
        few = slice(0, min(examples, 8))
        expected = stored(a[few].astype(float), g[few].astype(float))
        np.testing.assert_allclose(linear_grad_norms(a, g, bias=False, threads=threads)[few], expected, rtol=1e-5)
        np.testing.assert_allclose(gram(a[few], g[few]), expected, rtol=1e-3)
        contenders = {
            "sgemm": lambda side=side: side @ side,
            "fused": lambda a=a, g=g: linear_grad_norms(a, g, bias=False, threads=threads),
            "Gram": lambda a=a, g=g: gram(a, g),
        }
        if positions > 1:  # stored gradients of the last shape would take 4 GB
            contenders["stored"] = lambda a=a, g=g: stored(a, g)
        seconds = measure(contenders, repeats=repeats, awake=True)
        at_peak = 2.0 * examples * positions * d_in * d_out / (2 * 1024**3 / seconds["sgemm"])
        rows.append(
            {
                "||A^T G|| (B,T,d_in,d_out)": ",".join(map(str, shape)),
                "fused ms": seconds["fused"] * 1e3,
                "product at sgemm's rate ms": at_peak * 1e3 if positions > 1 else "",
                "NumPy product, stored ms": seconds.get("stored", float("nan")) * 1e3 if positions > 1 else "",
                "NumPy Gram ms": seconds["Gram"] * 1e3,
            }
        )
    return rows


def unfolded(x, g, kernel):
    """Norms by explicit patches, stored: what a library without a kernel does."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    patches = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    matrix = patches.transpose(0, 1, 4, 5, 2, 3).reshape(x.shape[0], x.shape[1] * kernel**2, -1)
    return np.linalg.norm((matrix @ g.reshape(*g.shape[:2], -1).transpose(0, 2, 1)).reshape(len(x), -1), axis=1)


def layer_table(rng, threads, repeats):
    side = rng.standard_normal((1024, 1024), dtype=np.float32)
    rows = []
    for examples, channels, outputs, length in IMAGES:
        x = rng.standard_normal((examples, channels, length, length), dtype=np.float32)
        g = rng.standard_normal((examples, outputs, length, length), dtype=np.float32)
        call = {"kernel_size": 3, "padding": 1, "bias": False, "threads": threads}
        np.testing.assert_allclose(conv_grad_norms(x[:4], g[:4], **call), unfolded(x[:4], g[:4], 3), rtol=1e-4)
        seconds = measure(
            {
                "sgemm": lambda: side @ side,
                "fused": lambda x=x, g=g, call=call: conv_grad_norms(x, g, **call),
                "unfold": lambda x=x, g=g: unfolded(x, g, 3),
            },
            repeats=repeats,
            awake=True,
        )
        at_peak = 2.0 * examples * length**2 * channels * 9 * outputs / (2 * 1024**3 / seconds["sgemm"])
        rows.append(
            {
                "layer": f"conv 3x3, {channels} -> {outputs}, {length}x{length}, B={examples}",
                "fused ms": seconds["fused"] * 1e3,
                "floor ms": at_peak * 1e3,
                "floor": "product at sgemm's rate",
                "NumPy ms": seconds["unfold"] * 1e3,
            }
        )
    indices, g = rng.integers(0, 1000, (SENTENCES, 64)), rng.standard_normal((SENTENCES, 64, 128), dtype=np.float32)
    found = embedding_grad_norms(indices[:8], g[:8], threads=threads)

    def scattered(indices, g):
        norms = np.empty(len(g))
        for i, (tokens, grads) in enumerate(zip(indices, g, strict=True)):
            dense = np.zeros((1000, grads.shape[1]), dtype=np.float32)
            np.add.at(dense, tokens, grads)
            norms[i] = np.linalg.norm(dense)
        return norms

    np.testing.assert_allclose(found, scattered(indices[:8], g[:8]), rtol=1e-5)
    seconds = measure(
        {
            "read": g.copy,
            "fused": lambda: embedding_grad_norms(indices, g, threads=threads),
            "scatter": lambda: scattered(indices, g),
        },
        repeats=repeats,
    )
    rows.append(
        {
            "layer": f"embedding {SENTENCES} x 64 tokens, V=1000, d=128",
            "fused ms": seconds["fused"] * 1e3,
            "floor ms": seconds["read"] * 1e3,
            "floor": "a copy of the gradients",
            "NumPy ms": seconds["scatter"] * 1e3,
        }
    )
    return rows


def kernel_part(threads: int, repeats: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    with threadpool_limits(threads):  # the same threads for NumPy's BLAS
        probe, targets = probe_table(rng, threads, repeats)
        primitive = primitive_table(rng, threads, repeats)
        layers = layer_table(rng, threads, repeats)
    goals = [
        {"target": name, "measured": value, "wanted": wanted, "met": value >= wanted}
        for name, (value, wanted) in targets.items()
    ]
    for rows in (probe, primitive, layers, goals):
        print(table(rows), end="\n\n")
    write_results("grad_norms_kernels", probe, threads=threads, primitive=primitive, layers=layers, targets=goals)
    return goals


def model_part(names: list[str], threads: int, repeats: int) -> list[dict[str, Any]]:
    import torch

    from grad_norm_models import MODELS, model_table

    rows: list[dict[str, Any]] = []
    goals: list[dict[str, Any]] = []
    for name in names or MODELS:
        more, wanted = model_table(name, threads, repeats)
        print(table(more), end="\n\n")
        print(table(wanted), end="\n\n", flush=True)
        rows += more
        goals += wanted
    path = RESULTS / "grad_norms_models.json"
    if names and path.exists():  # models not run this time keep what was measured in theirs
        before = json.loads(path.read_text())
        ran = set(names)
        rows = [row for row in before["rows"] if row["model"] not in ran] + rows
        goals = [goal for goal in before["targets"] if goal["target"].split(":")[0] not in ran] + goals
    write_results("grad_norms_models", rows, threads=threads, torch=torch.__version__, targets=goals)
    path.with_suffix(".txt").write_text(f"{table(rows)}\n\n{table(goals)}\n")
    return goals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("kernels", "models"), help="one part alone")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="these models alone")
    parser.add_argument("--threads", type=int, default=backend.default_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a target is missed")
    options = parser.parse_args()
    goals: list[dict[str, Any]] = []
    for part, run in (
        ("kernels", lambda: kernel_part(options.threads, options.repeats)),
        ("models", lambda: model_part(options.models, options.threads, options.repeats)),
    ):
        if options.part not in (None, part):
            continue
        if part == "models" and find_spec("torch") is None:
            print(f"models: skipped: need torch: {how_to_install('torch')}")
            continue
        goals += run()
    return 1 if options.check and not all(goal["met"] for goal in goals) else 0


if __name__ == "__main__":
    sys.exit(main())
