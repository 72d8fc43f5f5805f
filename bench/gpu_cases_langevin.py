"""Random words, normals and Langevin chains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from expunge import langevin
from expunge._kernels import backend
from gpu_cases import Case, Plan
from gpu_device import Device, nbytes, worst

_SAME_BITS = "the CPU's kernel, bit for bit"


def bits_differ(found: Any, expected: Any) -> float:
    """Return 0 for equal bits and infinity otherwise."""
    return 0.0 if found.cpu().numpy().tobytes() == np.ascontiguousarray(expected).tobytes() else float("inf")


def philox(on: Device, first: int, count: int, seed: int) -> Any:
    """Return Philox4x32-10 of counters (first + i, 0, 0, 0) in PyTorch's integers, shape (count, 4)."""
    low = 0xFFFFFFFF
    zero = on.torch.zeros(count, dtype=on.torch.int64, device=on.where)
    c = [on.torch.arange(first, first + count, device=on.where), zero, zero, zero]
    k = [seed & low, seed >> 32]
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57  # modulo 2^64: the words are right
        c = [(p1 >> 32 & low) ^ c[1] ^ k[0], p1 & low, (p0 >> 32 & low) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return on.torch.stack(c, 1)


def words(on: Device, blocks: int) -> Case:
    out = on.torch.zeros(blocks, 4, dtype=on.torch.uint32, device=on.where)
    run = on.direct("random_words", out, seed=1, chain=0, step=0)

    def check() -> float:
        run()
        for at in on.chunks(blocks, 8.0 * 16):
            found = out[at].view(on.torch.int32).long() & 0xFFFFFFFF
            if not bool((found == philox(on, at.start, at.stop - at.start, 1)).all()):
                return float("inf")
        return 0.0

    return Case(check, "Philox in PyTorch's integers, every word", run, bytes=nbytes(out))


def normals(on: Device, count: int, dtype: str) -> Case:
    kind = getattr(on.torch, dtype)
    z = on.empty(count, dtype=kind)
    run = on.direct("standard_normals", z, seed=1, chain=0, step=0)

    def check() -> float:
        run()
        return bits_differ(z, langevin.standard_normals(count, seed=1, dtype=np.dtype(dtype)))

    return Case(
        check, f"{_SAME_BITS}, every number", run, bytes=nbytes(z),
        peers={"torch.randn": lambda: on.torch.randn(count, dtype=kind, device=on.where)},
    )  # fmt: skip


def chains(on: Device, loss: str, n: int, p: int, steps: int, n_chains: int, **options: Any) -> Case:
    X, noise = on.normal(n, p), on.normal(n)
    y = noise if loss == "squared" else (noise > 0).long()
    settings: dict[str, Any] = {
        "alpha": 1.0, "step_size": 1e-4, "noise_std": 0.01, "n_steps": steps, "seed": 3, "dtype": np.float32,
        "loss": loss, "record": [0, steps], **options,
    }  # fmt: skip
    host_X, host_y = X.cpu().numpy(), y.cpu().numpy()

    def run() -> Any:
        return langevin.langevin_chains(X, y, n_chains=n_chains, **settings)

    def check() -> float:
        found = run()
        some = min(n_chains, 500)
        for first in sorted({0, n_chains // 2, n_chains - some}):
            few = langevin.langevin_chains(host_X, host_y, n_chains=some, first_chain=first, **settings)
            part = found[:, first : first + some].contiguous()
            if bits_differ(part, few[:, : part.shape[1]]):
                return float("inf")
        return 0.0

    def beside_the_cpu(seconds: float) -> dict[str, Any]:
        count, cpu = max(1, n_chains // 1000), 0.0
        while cpu < 0.5 and count <= n_chains:  # as many chains as half a second is made of
            start = time.perf_counter()
            langevin.langevin_chains(host_X, host_y, n_chains=count, **settings)
            cpu, done, count = time.perf_counter() - start, count, 4 * count
        cpu *= n_chains / done
        return {"cpu_seconds": cpu, "cpu_threads": backend.default_threads(), "times_the_cpu": cpu / seconds}

    share = options.get("sampling_probability", 1.0)
    flops = 2.0 * p * p * steps * n_chains if loss == "squared" else 4.0 * n * p * steps * n_chains * share
    case = Case(check, f"{_SAME_BITS}, 500 of the first, middle and last chains", run, flops=flops)
    if loss == "squared" and not on.emulated:
        case.extra = beside_the_cpu
    return case


def wide_chains(on: Device, n: int, p: int, n_chains: int) -> Case:
    X, y = on.doubles(n, p), on.doubles(n, 2)
    settings: dict[str, Any] = {
        "alpha": 1.0,
        "step_size": 1e-4,
        "noise_std": 0.01,
        "n_steps": 3,
        "seed": 3,
        "record": [0, 3],
    }

    def run() -> Any:
        return langevin.langevin_chains(X, y, n_chains=n_chains, **settings)

    def check() -> float:
        expected = langevin.langevin_chains(X.cpu().numpy(), y.cpu().numpy(), n_chains=3, **settings)
        expected = on.torch.from_numpy(expected).to(on.where)
        return worst(run()[:, :3], expected, 1e-10 * float(expected.abs().max()))

    flops = 2.0 * p * p * 2 * 3 * n_chains
    return Case(check, "the CPU's chains, three of them", run, flops=flops, dtype="float64")


def gram(on: Device, n: int, p: int, q: int) -> Case:
    gram, moment = on.empty(p, p, dtype=on.torch.float32), on.empty(q, p, dtype=on.torch.float32)
    X, targets = on.normal(n, p), on.normal(n, q)
    run = on.direct("langevin_gram", X, targets, 1.0, gram, moment)

    def check() -> float:
        run()
        x, y = X.double(), targets.double()
        share = 0.0
        for found, left, right, ridge in ((gram, x, x, 1.0), (moment, y, x, 0.0)):
            expected = left.mT @ right
            expected.diagonal().add_(ridge)
            share = max(share, worst(found, expected, 2**-23 * expected.abs() + 1e-12 * (left.abs().mT @ right.abs())))
        return share

    return Case(
        check, "PyTorch in float64 on the device, every entry", run, flops=1.0 * n * p * (p + 1 + 2 * q),
        dtype="float64", peers={"X.T @ X": lambda: X.mT @ X},
    )  # fmt: skip


def row_norms(on: Device, n: int, p: int) -> Case:
    X, out = on.normal(n, p), on.empty(n, dtype=on.torch.float32)
    run = on.direct("langevin_row_norms", X, out)

    def check() -> float:
        run()
        expected = X.double().norm(dim=1)
        return worst(out, expected, 2**-22 * expected)

    return Case(
        check, "PyTorch in float64 on the device, every row", run, bytes=nbytes(X, out),
        peers={"torch norm": lambda: X.norm(dim=1)},
    )  # fmt: skip


def tail(on: Device, n_chains: int, q: int, p: int) -> Case:
    theta, gradient = on.normal(n_chains, q, p), on.normal(n_chains, q, p)
    settings: dict[str, Any] = {"alpha": 1.0, "step_size": 1e-4, "noise_std": 0.01, "radius": 0.0, "seed": 1, "step": 0}
    run = on.direct("langevin_tail", theta, gradient, None, first_chain=0, **settings)

    def check() -> float:
        before = theta.clone()
        run()
        some = min(n_chains, 20)
        for first in sorted({0, n_chains // 2, n_chains - some}):
            at = slice(first, first + some)
            expected, steps = np.array(before[at].cpu()), np.array(gradient[at].cpu())
            on.core.langevin_tail(expected, steps, None, first_chain=first, threads=1, **settings)
            if bits_differ(theta[at], expected):
                return float("inf")
        return 0.0

    return Case(check, f"{_SAME_BITS}, 20 of the first, middle and last chains", run,
                bytes=nbytes(theta, theta, gradient))  # fmt: skip


def residuals(on: Device, n_chains: int, q: int, n: int) -> Case:
    linear, hot = on.normal(n_chains, q, n), on.normal(q, n)
    run = on.direct("langevin_residuals", linear, hot, None, loss="softmax", clip=0.0)

    def check() -> float:
        before = linear.clone()
        run()
        share = 0.0
        for at in on.chunks(n_chains, 8.0 * 4 * q * n):
            expected = on.torch.softmax(before[at].double(), 1) - hot.double()
            share = max(share, worst(linear[at], expected, 2**-20 * (1.0 + hot.double().abs())))
        return share

    return Case(check, "PyTorch in float64 on the device, every entry", run, bytes=nbytes(linear, linear))


def plans(on: Device) -> Iterator[Plan]:
    blocks, count = on.pick((2**25, 2**27), (300, 999))
    yield Plan("random_words", f"{4 * blocks} words", lambda: words(on, blocks))
    for dtype in ("float32", "float64"):
        yield Plan("standard_normals", f"{count}, {dtype}", lambda dtype=dtype: normals(on, count, dtype))
    n, p, steps, n_chains = on.pick((1000, 16, 100, 1_000_000), (30, 5, 4, 40))
    options: dict[str, Any]
    for loss, some, many, options in (
        ("squared", steps, n_chains, {}),
        ("logistic", min(steps, 10), max(n_chains // 10, 7), {}),
        ("logistic", min(steps, 10), max(n_chains // 10, 7), {"sampling_probability": 0.1}),
    ):
        what = f"{loss}, n={n}, p={p}, {some} steps, {many} chains, {options or 'full batch'}, float32"
        yield Plan(
            "langevin_chains", what,
            lambda loss=loss, some=some, many=many, options=options: chains(on, loss, n, p, some, many, **options),
        )  # fmt: skip
    n, p, n_chains = on.pick((5000, 512, 10_000), (20, 70, 4))
    yield Plan(
        "langevin_chains", f"wide, n={n}, p={p}, 3 steps, {n_chains} chains", lambda: wide_chains(on, n, p, n_chains)
    )
    rows, width, q = on.pick((20_000, 512, 10), (600, 40, 3))
    yield Plan("langevin_gram", f"{rows} x {width}", lambda: gram(on, rows, width, q))
    many, columns = on.pick((2**20, 256), (70, 33))
    yield Plan("langevin_row_norms", f"{many} x {columns}", lambda: row_norms(on, many, columns))
    c, outputs, features = on.pick((20_000, 10, 512), (5, 3, 70))
    yield Plan("langevin_tail", f"{c} chains, {outputs} x {features}", lambda: tail(on, c, outputs, features))
    soft = on.pick((1000, 10, 10_000), (4, 5, 70))
    yield Plan("langevin_residuals", f"softmax, {' x '.join(map(str, soft))}", lambda: residuals(on, *soft))
