"""Gradient norms of embeddings, normalising layers and convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gpu_references as truth
from expunge import grad_norms
from gpu_cases import Case, Plan
from gpu_device import Device, Run, nbytes, worst

_TRUTH = "PyTorch in float64 on the device, every example"


def embedding(on: Device, n: int, length: int, width: int, rows: int) -> Case:
    tokens, grads = on.integers(rows, n, length), on.normal(n, length, width)
    return Case(
        lambda: worst(grad_norms.embedding_grad_norms(tokens, grads), *truth.embedding_norms(on, tokens, grads, rows)),
        _TRUTH, lambda: grad_norms.embedding_grad_norms(tokens, grads), bytes=nbytes(tokens, grads), target=0.8,
    )  # fmt: skip


def tied(on: Device, n: int, length: int, width: int, rows: int) -> Case:
    tokens, grads = on.integers(rows, n, length), on.normal(n, length, width)
    factors, columns = on.normal(n, length, rows), on.normal(n, length, width)
    given = tokens, grads, factors, columns
    return Case(
        lambda: worst(grad_norms.embedding_linear_grad_dots(*given), *truth.tied_dots(on, *given)),
        _TRUTH, lambda: grad_norms.embedding_linear_grad_dots(*given), bytes=nbytes(tokens, grads, columns),
    )  # fmt: skip


def normalising(on: Device, kind: Any, shape: tuple[int, ...], *, target: float | None) -> Case:
    a, g = on.normal(*shape), on.normal(*shape)
    groups = 8 if kind == "group" else None

    def run() -> Any:
        return grad_norms.norm_layer_grad_norms(a, g, kind=kind, num_groups=groups)

    return Case(
        lambda: worst(run(), *truth.normalising_norms(on, a, g, kind, groups)), _TRUTH, run, bytes=nbytes(a, g),
        target=target,
    )  # fmt: skip


def conv(on: Device, n: int, channels: int, out: int, side: int, groups: int, *, bias: bool) -> Case:
    a, g = on.normal(n, channels, side, side), on.normal(n, out, side, side)
    settings: dict[str, Any] = {"kernel_size": 3, "padding": 1, "groups": groups, "bias": bias}

    def unfolded() -> Any:
        columns = on.torch.nn.functional.unfold(a, 3, padding=1)
        return (g.flatten(2) @ columns.mT).square().sum((1, 2)).sqrt()

    peers: dict[str, Run] = {"unfold and bmm": unfolded} if groups == 1 else {}
    return Case(
        lambda: worst(
            grad_norms.conv_grad_norms(a, g, **settings), *truth.conv_norms(on, a, g, 3, 1, groups, bias=bias)
        ),
        _TRUTH, lambda: grad_norms.conv_grad_norms(a, g, **settings), bytes=nbytes(a, g),
        flops=2.0 * n * side**2 * channels // groups * 9 * out if groups == 1 else 0.0,
        target=0.6 if groups == 1 else None, peers=peers,
    )  # fmt: skip


def plans(on: Device) -> Iterator[Plan]:
    for n, length, width in on.pick([(8192, 64, 256), (256, 4096, 128)], [(20, 12, 40), (2, 2100, 5)]):
        what = f"{n} x {length} tokens, d={width}"
        yield Plan("embedding_grad_norms", what, lambda n=n, t=length, d=width: embedding(on, n, t, d, 1000))
    few, length, width = on.pick((2048, 64, 256), (3, 9, 20))
    what = f"{few} x {length} tokens, d={width}"
    yield Plan("embedding_linear_grad_dots", what, lambda: tied(on, few, length, width, on.pick(1000, 30)))
    kinds = on.pick(
        {"layer": (8192, 64, 256), "rms": (8192, 64, 256), "group": (4096, 64, 16, 16)},
        {"layer": (4, 20, 40), "rms": (4, 130, 33), "group": (3, 16, 5, 5)},
    )
    for kind, shape in kinds.items():
        yield Plan(
            "norm_layer_grad_norms", f"{kind}, {shape}",
            lambda kind=kind, shape=shape: normalising(on, kind, shape, target=0.8),
        )  # fmt: skip
    # Long rows are shared by several warps, those too long for shared memory read twice; few examples of many positions
    # take several blocks each.
    for shape in on.pick(
        [(2048, 64, 1024), (512, 64, 4096), (8, 8192, 512)], [(1, 9, 768), (2, 3, 2500), (1, 400, 70)]
    ):
        yield Plan(
            "norm_layer_grad_norms", f"layer, {shape}", lambda shape=shape: normalising(on, "layer", shape, target=None)
        )
    n, channels, side = on.pick((512, 256, 28), (2, 24, 7))
    yield Plan(
        "conv_grad_norms", f"depthwise, {n} x {channels} x {side} x {side}, 3 x 3",
        lambda: conv(on, n, channels, channels, side, channels, bias=True),
    )  # fmt: skip
    for m, ins, outs, edge in on.pick([(1024, 64, 64, 32), (256, 128, 256, 16)], [(2, 8, 64, 12), (1, 16, 130, 6)]):
        yield Plan(
            "conv_grad_norms", f"{m} x {ins} x {edge} x {edge}, 3 x 3, {outs} out",
            lambda m=m, ins=ins, outs=outs, edge=edge: conv(on, m, ins, outs, edge, 1, bias=False),
        )  # fmt: skip
