"""Gradient norms of probes and linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gpu_references as truth
from expunge import grad_norms
from gpu_cases import Case, Plan
from gpu_device import Device, Run, nbytes, worst

_TRUTH = "PyTorch in float64 on the device, every example"


def einsum_norm(a: Any, g: Any) -> Any:
    """Return ghost norms as other libraries write them: two Gram matrices and a sum."""
    return ((a @ a.mT) * (g @ g.mT)).sum((1, 2)).sqrt()


def product_norm(a: Any, g: Any) -> Any:
    return (a.mT @ g).square().sum((1, 2)).sqrt()


def vmap_norm(on: Device, a: Any, g: Any) -> Run:
    """Return torch.func's per-example gradient of <x W, g> and its norm."""
    torch = on.torch
    weights = torch.zeros(a.shape[-1], g.shape[-1], dtype=a.dtype, device=on.where)

    def norm(x: Any, cotangent: Any) -> Any:
        gradient = torch.func.grad(lambda w: ((x @ w) * cotangent).sum())(weights)
        return gradient.square().sum().sqrt()

    return lambda: torch.func.vmap(norm, chunk_size=256)(a, g)


def probe_epilogue(on: Device, n: int, d: int, classes: int) -> Case:
    X, W = on.normal(n, d), on.normal(1, d, classes) * 0.05
    y, out = on.integers(classes, n), on.empty(n, 1)
    logits = (X @ W[0]).reshape(n, 1, classes)
    run = on.direct("probe_grad_norms", X, W, y, "softmax", 0.0, None, False, out, logits=logits)

    def check() -> float:
        run()
        expected, tolerance = truth.probe_norms(on, X, W[0], y, logits[:, 0])
        return worst(out[:, 0], expected, tolerance)

    return Case(check, _TRUTH, run, bytes=nbytes(X, logits, y, out), target=0.8)


def probe_whole(on: Device, n: int, d: int, classes: int) -> Case:
    X, W, y = on.normal(n, d), on.normal(d, classes) * 0.05, on.integers(classes, n)
    softmax, one_hot = on.torch.softmax, on.torch.nn.functional.one_hot
    return Case(
        lambda: worst(grad_norms.probe_grad_norms(X, W, y).reshape(n), *truth.probe_norms(on, X, W, y)),
        _TRUTH, lambda: grad_norms.probe_grad_norms(X, W, y), bytes=nbytes(X, y),
        peers={"torch closed form": lambda: (softmax(X @ W, 1) - one_hot(y, classes)).norm(dim=1) * X.norm(dim=1)},
    )  # fmt: skip


def linear(on: Device, shape: tuple[int, int, int, int], dtype: str, form: str) -> Case:
    b, t, d_in, d_out = shape
    kind = getattr(on.torch, dtype)
    a, g = on.normal(b, t, d_in, dtype=kind), on.normal(b, t, d_out, dtype=kind)
    peers: dict[str, Run] = {"einsum ghost norm": lambda: einsum_norm(a, g)}
    if form != "outer":
        peers["bmm and norm"] = lambda: product_norm(a, g)
    if form != "outer" and dtype == "float32":
        peers["torch.func.vmap"] = vmap_norm(on, a, g)
    # The Gram form needs one triangle of each of its two matrices.
    flops = {"outer": 0.0, "product": 2.0 * b * t * d_in * d_out, "Gram": 1.0 * b * t * (t + 1) * (d_in + d_out)}[form]
    return Case(
        lambda: worst(grad_norms.linear_grad_norms(a, g, bias=False), *truth.linear_norms(on, a, g)),
        _TRUTH, lambda: grad_norms.linear_grad_norms(a, g, bias=False), bytes=nbytes(a, g), flops=flops, dtype=dtype,
        target={"outer": 0.8, "product": 0.6, "Gram": None}[form], peers=peers,
    )  # fmt: skip


def dots(on: Device, b: int, t: int, d: int) -> Case:
    a1, g1, a2, g2 = (on.normal(b, t, d) for _ in range(4))
    return Case(
        lambda: worst(grad_norms.linear_grad_dots(a1, g1, a2, g2), *truth.linear_dots(on, a1, g1, a2, g2)),
        _TRUTH, lambda: grad_norms.linear_grad_dots(a1, g1, a2, g2), flops=2.0 * b * t * t * 2 * d,
        peers={"two bmm": lambda: ((a1 @ a2.mT) * (g1 @ g2.mT)).sum((1, 2))},
    )  # fmt: skip


def plans(on: Device) -> Iterator[Plan]:
    n, d, classes = on.pick((2**20, 512, 10), (50, 40, 10))
    yield Plan("probe_grad_norms", f"epilogue, n={n}, d={d}, C={classes}", lambda: probe_epilogue(on, n, d, classes))
    yield Plan("probe_grad_norms", "with its product", lambda: probe_whole(on, n, d, classes))
    for dtype in ("float32", "bfloat16"):
        shapes = on.pick(
            {"outer": (2**18, 1, 512, 512), "product": (512, 1024, 256, 256), "Gram": (1024, 64, 1024, 1024)},
            {"outer": (40, 1, 96, 80), "product": (2, 300, 128, 96), "Gram": (3, 10, 90, 100)},
        )
        for form, shape in shapes.items():
            what = f"{form}, B={shape[0]}, T={shape[1]}, {shape[2]} x {shape[3]}, {dtype}"
            yield Plan(
                "linear_grad_norms", what, lambda shape=shape, dtype=dtype, form=form: linear(on, shape, dtype, form)
            )
    shape = on.pick((64, 512, 1024, 1024), (1, 40, 1056, 2080))  # enough tiles of tensor cores on the emulator too
    what = f"product, B={shape[0]}, T={shape[1]}, {shape[2]} x {shape[3]}, bfloat16"
    yield Plan("linear_grad_norms", what, lambda: linear(on, shape, "bfloat16", "product"))
    many = on.pick((32, 4096, 512, 512), (1, 1100, 40, 64))  # terms enough for second sums, and for splits
    what = f"product, B={many[0]}, T={many[1]}, {many[2]} x {many[3]}"
    for dtype in ("float32", "bfloat16"):
        yield Plan("linear_grad_norms", f"{what}, {dtype}", lambda dtype=dtype: linear(on, many, dtype, "product"))
    b, t, width = on.pick((1024, 128, 256), (3, 20, 70))
    yield Plan("linear_grad_dots", f"B={b}, T={t}, {width} x {width}", lambda: dots(on, b, t, width))
