"""What gpu_check.py times: each kernel at a size that fills a GPU, its floor, and what others offer for the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from expunge import _backend, grad_norms, langevin, ridge
from expunge.accounting import GaussianPair, gdp_delta, gdp_epsilon, gdp_mu, sampled_gaussian_rdp, shifted_mu

Run = Callable[[], Any]


@dataclass
class Case:
    """A kernel's run, the least work it can mean, and its peers' runs on the same arrays."""

    kernel: str
    what: str
    run: Run
    bytes: float = 0.0  # read and written once
    flops: float = 0.0
    dtype: str = "float32"  # whose product rate bounds the flops
    target: float | None = None  # wanted fraction of the floor
    peers: dict[str, Run] = field(default_factory=dict)
    extra: Callable[[float], dict[str, Any]] = lambda seconds: {}


def normal(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(*shape, dtype=dtype, device="cuda")


def uniform(low: float, high: float, *shape: int) -> Any:
    return torch.rand(*shape, dtype=torch.float64, device="cuda") * (high - low) + low


def size(*arrays: Any) -> float:
    return float(sum(a.nbytes for a in arrays))


def direct(kernel: str, *arguments: Any, workspace: dict[str, int] | None = None, **settings: Any) -> Run:
    """Return a run of the compiled kernel alone; its scratch is allocated once."""
    module = _backend._device_module(2)
    if workspace is not None:
        elements = getattr(module, f"{kernel}_workspace")(**workspace)
        settings["workspace"] = torch.empty(elements, dtype=torch.float64, device="cuda")
    function = getattr(module, kernel)
    return lambda: function(*arguments, **settings, stream=torch.cuda.current_stream().cuda_stream)


def einsum_norm(a: Any, g: Any) -> Any:
    """Return ghost norms as other libraries write them: two Gram matrices and a sum."""
    return (torch.bmm(a, a.mT) * torch.bmm(g, g.mT)).sum((1, 2)).sqrt()


def product_norm(a: Any, g: Any) -> Any:
    return torch.bmm(a.mT, g).square().sum((1, 2)).sqrt()


def vmap_norm(a: Any, g: Any) -> Run:
    """Return torch.func's per-example gradient of <x W, g> and its norm."""
    weights = torch.zeros(a.shape[-1], g.shape[-1], dtype=a.dtype, device="cuda")

    def norm(x: Any, cotangent: Any) -> Any:
        gradient = torch.func.grad(lambda w: ((x @ w) * cotangent).sum())(weights)
        return gradient.square().sum().sqrt()

    return lambda: torch.func.vmap(norm, chunk_size=256)(a, g)


def grad_norm_cases() -> Iterator[Case]:
    n, d, classes = 2**20, 512, 10
    X, W = normal(n, d), normal(1, d, classes) * 0.05
    y = torch.randint(classes, (n,), device="cuda")
    logits = torch.einsum("nd,kdc->nkc", X, W).contiguous()
    out = torch.empty(n, 1, dtype=torch.float64, device="cuda")
    yield Case(
        "probe_grad_norms", f"epilogue, n={n}, d={d}, C={classes}",
        direct("probe_grad_norms", X, W, y, 0, 0.0, None, False, out, logits=logits, workspace={"checkpoints": 1}),
        bytes=size(X, logits, y, out), target=0.8,
    )  # fmt: skip
    yield Case(
        "probe_grad_norms", "with its product",
        lambda: grad_norms.probe_grad_norms(X, W[0], y), bytes=size(X, y),
        peers={"torch closed form": lambda: (
            (torch.softmax(X @ W[0], 1) - torch.nn.functional.one_hot(y, classes)).norm(dim=1) * X.norm(dim=1)
        )},
    )  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        a, g = normal(2**18, 1, 512, dtype=dtype), normal(2**18, 1, 512, dtype=dtype)
        yield Case(
            "linear_grad_norms", f"T=1, 262144 x 512 x 512, {name}",
            lambda a=a, g=g: grad_norms.linear_grad_norms(a, g, bias=False), bytes=size(a, g), target=0.8,
            peers={"einsum ghost norm": lambda a=a, g=g: einsum_norm(a, g)},
        )  # fmt: skip
        for form, b, t, d_in, d_out in (("product", 512, 1024, 256, 256), ("Gram", 1024, 64, 1024, 1024)):
            a, g = normal(b, t, d_in, dtype=dtype), normal(b, t, d_out, dtype=dtype)
            # The Gram form needs one triangle of each of its two matrices.
            flops = 2.0 * b * t * d_in * d_out if form == "product" else 1.0 * b * t * (t + 1) * (d_in + d_out)
            peers: dict[str, Run] = {
                "einsum ghost norm": lambda a=a, g=g: einsum_norm(a, g),
                "bmm and norm": lambda a=a, g=g: product_norm(a, g),
            }
            if dtype == torch.float32:
                peers["torch.func.vmap"] = vmap_norm(a, g)
            yield Case(
                "linear_grad_norms", f"{form}, B={b}, T={t}, {d_in} x {d_out}, {name}",
                lambda a=a, g=g: grad_norms.linear_grad_norms(a, g, bias=False), flops=flops, dtype=name,
                target=0.6 if form == "product" else None, peers=peers,
            )  # fmt: skip
    a1, g1, a2, g2 = (normal(1024, 128, 256) for _ in range(4))
    yield Case(
        "linear_grad_dots", "B=1024, T=128, 256 x 256", lambda: grad_norms.linear_grad_dots(a1, g1, a2, g2),
        flops=2.0 * 1024 * 128 * 128 * 512,
        peers={"two bmm": lambda: (torch.bmm(a1, a2.mT) * torch.bmm(g1, g2.mT)).sum((1, 2))},
    )  # fmt: skip
    tokens, grads = torch.randint(1000, (8192, 64), device="cuda"), normal(8192, 64, 256)
    yield Case(
        "embedding_grad_norms", "8192 x 64 tokens, d=256",
        lambda: grad_norms.embedding_grad_norms(tokens, grads), bytes=size(tokens, grads), target=0.8,
    )  # fmt: skip
    rows, columns = normal(2048, 64, 1000), normal(2048, 64, 256)
    few, few_grads = tokens[:2048].contiguous(), grads[:2048].contiguous()
    yield Case(
        "embedding_linear_grad_dots", "2048 x 64 tokens, d=256",
        lambda: grad_norms.embedding_linear_grad_dots(few, few_grads, rows, columns),
        bytes=size(few, few_grads, columns),
    )  # fmt: skip
    for kind, shape in (("layer", (8192, 64, 256)), ("rms", (8192, 64, 256)), ("group", (4096, 64, 16, 16))):
        a, g = normal(*shape), normal(*shape)
        yield Case(
            "norm_layer_grad_norms", f"{kind}, {shape}",
            lambda a=a, g=g, kind=kind: grad_norms.norm_layer_grad_norms(
                a, g, kind=kind, num_groups=8 if kind == "group" else None
            ),
            bytes=size(a, g), target=0.8,
        )  # fmt: skip
    a, g = normal(512, 64, 4096), normal(512, 64, 4096)  # rows too long for shared memory are read twice
    yield Case(
        "norm_layer_grad_norms", "layer, (512, 64, 4096)",
        lambda a=a, g=g: grad_norms.norm_layer_grad_norms(a, g), bytes=size(a, g),
    )  # fmt: skip
    a, g = normal(512, 256, 28, 28), normal(512, 256, 28, 28)
    yield Case(
        "conv_grad_norms", "depthwise, 512 x 256 x 28 x 28, 3 x 3",
        lambda a=a, g=g: grad_norms.conv_grad_norms(a, g, kernel_size=3, padding=1, groups=256), bytes=size(a, g),
    )  # fmt: skip
    a, g = normal(64, 512, 1024, dtype=torch.bfloat16), normal(64, 512, 1024, dtype=torch.bfloat16)
    yield Case(
        "linear_grad_norms", "product, B=64, T=512, 1024 x 1024, bfloat16",
        lambda a=a, g=g: grad_norms.linear_grad_norms(a, g, bias=False), flops=2.0 * 64 * 512 * 1024 * 1024,
        dtype="bfloat16", target=0.6, peers={"bmm and norm": lambda a=a, g=g: product_norm(a, g)},
    )  # fmt: skip
    images, back = normal(1024, 64, 32, 32), normal(1024, 64, 32, 32)
    unfolded = torch.nn.functional.unfold

    def unfold_norm() -> Any:
        columns = unfolded(images, 3, padding=1)
        return torch.bmm(back.flatten(2), columns.mT).square().sum((1, 2)).sqrt()

    yield Case(
        "conv_grad_norms", "1024 x 64 x 32 x 32, 3 x 3, 64 out",
        lambda: grad_norms.conv_grad_norms(images, back, kernel_size=3, padding=1, bias=False),
        flops=2.0 * 1024 * 1024 * 64 * 9 * 64, target=0.6, peers={"unfold and bmm": unfold_norm},
    )  # fmt: skip


def langevin_cases() -> Iterator[Case]:
    words = torch.empty(2**25, 4, dtype=torch.uint32, device="cuda")
    yield Case("random_words", "2^27 words", direct("random_words", words, seed=1, chain=0, step=0), bytes=size(words))
    for dtype in (torch.float32, torch.float64):
        z = torch.empty(2**27, dtype=dtype, device="cuda")
        yield Case(
            "standard_normals", f"2^27, {z.dtype}", direct("standard_normals", z, seed=1, chain=0, step=0),
            bytes=size(z), peers={"torch.randn": lambda z=z: torch.randn(2**27, dtype=z.dtype, device="cuda")},
        )  # fmt: skip
    n, p, steps, n_chains = 1000, 16, 100, 1_000_000
    X, y = normal(n, p), normal(n)
    settings: dict[str, Any] = {
        "alpha": 1.0, "step_size": 1e-4, "noise_std": 0.01, "n_steps": steps, "seed": 3, "dtype": np.float32,
    }  # fmt: skip
    host_X, host_y = X.cpu().numpy(), y.cpu().numpy()

    def beside_the_cpu(seconds: float) -> dict[str, Any]:
        fewer = n_chains // 20
        langevin.langevin_chains(host_X, host_y, n_chains=fewer, **settings)
        start = time.perf_counter()
        langevin.langevin_chains(host_X, host_y, n_chains=fewer, **settings)
        cpu = (time.perf_counter() - start) * n_chains / fewer
        return {"cpu_seconds": cpu, "cpu_threads": _backend.default_threads(), "times_the_cpu": cpu / seconds}

    yield Case(
        "langevin_chains", f"ridge, n={n}, p={p}, {steps} steps, {n_chains} chains, float32",
        lambda: langevin.langevin_chains(X, y, n_chains=n_chains, **settings),
        flops=2.0 * p * p * steps * n_chains, extra=beside_the_cpu,
    )  # fmt: skip
    labels = (y > 0).to(torch.int64)
    for options in ({}, {"sampling_probability": 0.1}):
        yield Case(
            "langevin_chains", f"logistic, n={n}, p={p}, 10 steps, 100000 chains, {options or 'full batch'}",
            lambda options=options: langevin.langevin_chains(
                X, labels, loss="logistic", n_chains=100_000, **{**settings, "n_steps": 10}, **options
            ),
            flops=4.0 * n * p * 10 * 100_000 * options.get("sampling_probability", 1.0),
        )  # fmt: skip
    gram, moment = torch.empty(512, 512, device="cuda"), torch.empty(10, 512, device="cuda")
    wide, targets = normal(20_000, 512), normal(20_000, 10)
    yield Case(
        "langevin_gram", "20000 x 512", direct("langevin_gram", wide, targets, 1.0, gram, moment),
        flops=2.0 * 20_000 * 512 * 522, dtype="float64", peers={"X.T @ X": lambda: wide.T @ wide},
    )  # fmt: skip
    many = normal(2**20, 256)
    norms = torch.empty(2**20, device="cuda")
    yield Case(
        "langevin_row_norms", "2^20 x 256", direct("langevin_row_norms", many, norms), bytes=size(many, norms),
        peers={"torch norm": lambda: many.norm(dim=1)},
    )  # fmt: skip
    theta, gradient = normal(20_000, 10, 512), normal(20_000, 10, 512)
    yield Case(
        "langevin_tail", "20000 chains, 10 x 512",
        direct("langevin_tail", theta, gradient, None, alpha=1.0, step_size=1e-4, noise_std=0.01, radius=0.0, seed=1,
               first_chain=0, step=0),
        bytes=size(theta, theta, gradient),
    )  # fmt: skip
    linear, hot = normal(1000, 10, 10_000), normal(10, 10_000)
    yield Case(
        "langevin_residuals", "softmax, 1000 x 10 x 10000",
        direct("langevin_residuals", linear, hot, None, loss="softmax", clip=0.0), bytes=size(linear, linear),
    )  # fmt: skip


def privacy_cases() -> Iterator[Case]:
    n = 2**20
    mu, epsilon, delta = uniform(0.01, 3, n), uniform(0, 5, n), 10 ** uniform(-9, -1, n)
    yield Case("gdp_delta", f"{n}", lambda: gdp_delta(mu, epsilon), bytes=size(mu, epsilon, mu))
    yield Case("gdp_epsilon", f"{n}", lambda: gdp_epsilon(mu, delta), bytes=size(mu, delta, mu))
    yield Case("gdp_mu", f"{n}", lambda: gdp_mu(epsilon, delta), bytes=size(mu, epsilon, mu))
    s, c, tau = uniform(0, 1, 2**16, 330), uniform(0.9, 1, 2**16, 330), uniform(0.1, 1, 2**16, 330)
    yield Case("shifted_mu", "65536 runs of 330 steps", lambda: shifted_mu(s, c, tau), bytes=size(s, c, tau))
    order, sigma = uniform(1.5, 32, 2**17), uniform(0.5, 10, 2**17)
    yield Case(
        "sampled_gaussian_rdp", f"{2**17}", lambda: sampled_gaussian_rdp(order, sigma, 0.01), bytes=size(order, sigma)
    )
    rng = np.random.default_rng(0)
    pair = GaussianPair(rng.uniform(-0.2, 0.2, 64), rng.normal(size=(64, 3)) * 0.1)
    few = 2**14
    for name, method, asked in (
        ("pair_delta", pair.delta, epsilon), ("pair_epsilon", pair.epsilon, delta), ("pair_renyi", pair.renyi, 1 + mu),
    ):  # fmt: skip
        yield Case(name, f"{few} x 64", lambda m=method, a=asked: m(a[:few], direction="pq"), bytes=16.0 * few)


def whole_quote_cases() -> Iterator[Case]:
    """Yield quotes of records of a run on 1,000,000 x 256: products, reduction and solve, ranks as they are chosen."""
    n, p, q, steps, quoted = 1_000_000, 256, 10, 300, 50_000
    scale = torch.logspace(0, -1.5, p, dtype=torch.float64, device="cuda")
    X, Y = normal(n, p, dtype=torch.float64) * scale, normal(n, q, dtype=torch.float64)
    largest = float(torch.linalg.eigvalsh(X.T @ X)[-1]) + 1.0
    law = ridge.LearningLaw(X, Y, alpha=1.0, step_size=1.0 / largest, n_steps=steps, noise_std=1e-4)
    rows = np.arange(quoted)
    quotes = ridge.exact_quotes(law, rows, epsilon=1.0, delta=1e-5, n_steps=30)
    solved = float((quotes.noise_std > 0).double().mean())
    yield Case(
        "ridge_exact_quotes", f"public function, {quoted} of {n} records, p={p}, q={q}, {steps} steps",
        lambda: ridge.exact_quotes(law, rows, epsilon=1.0, delta=1e-5, n_steps=30),
        flops=2.0 * quoted * p * steps * q, dtype="float64",
        extra=lambda seconds: {
            "seconds_per_million_records": seconds * 1e6 / quoted, "wanted_seconds": 60.0, "share_solved_for": solved,
            "largest_rank": int(quotes.rank.max()),
        },
    )  # fmt: skip
    yield Case(
        "ridge_shifted_quotes", f"public function, {quoted} of {n} records, p={p}, q={q}, {steps} steps",
        lambda: ridge.shifted_quotes(law, rows, epsilon=1.0, delta=1e-5, n_steps=30),
        flops=2.0 * quoted * p * steps * q, dtype="float64",
    )  # fmt: skip


def ridge_cases() -> Iterator[Case]:
    n, p, q, steps, rank = 20_000, 256, 10, 100, 24
    rng = np.random.default_rng(0)
    eigenvalues = np.sort(rng.uniform(1.0, 3000.0, p))
    step = 1.0 / eigenvalues[-1]
    setting = _backend.core.RidgeSetting(
        step_size=step, noise_std=0.01, unlearn_steps=30.0, unlearn_noise_std=0.0, solve_steps=False, epsilon=1.0,
        log_delta=float(np.log(1e-5)), mu=0.25, tolerance=1e-9,
    )  # fmt: skip
    h = torch.from_numpy(eigenvalues).cuda()
    projected = normal(n, p, dtype=torch.float64) / p**0.5
    decay = torch.logspace(0, -1, steps, dtype=torch.float64, device="cuda")[:, None]
    residuals = (normal(n, steps, q, dtype=torch.float64) * decay * 0.3).contiguous()
    outs = [torch.empty(n, dtype=torch.float64, device="cuda") for _ in range(5)]
    ranks = torch.empty(n, dtype=torch.int64, device="cuda")
    yield Case(
        "ridge_exact_quotes", f"{n} records, p={p}, q={q}, {steps} steps, rank {rank}",
        direct("ridge_exact_quotes", h, projected, residuals, setting, rank, *outs, ranks,
               workspace={"n": n, "p": p, "q": q, "rank": rank}),
        bytes=size(projected, residuals),
        extra=lambda seconds: {"seconds_per_million_records": seconds * 1e6 / n},
    )  # fmt: skip
    yield from whole_quote_cases()
    e, d2 = (torch.empty(n, rank, dtype=torch.float64, device="cuda") for _ in range(2))
    yield Case(
        "ridge_gaussian_pairs", f"{n} records, rank {rank}",
        direct("ridge_gaussian_pairs", h, projected, residuals, setting, rank, e, d2, outs[0], ranks,
               workspace={"n": n, "q": q, "rank": rank}),
        bytes=size(projected, residuals, e, d2),
    )  # fmt: skip
    difference, shift = torch.eye(rank, dtype=torch.float64, device="cuda") * 0.1, normal(rank, q, dtype=torch.float64)
    one = [out[:1] for out in outs]
    yield Case(
        "ridge_solve_reduced", f"rank {rank}",
        direct("ridge_solve_reduced", h[:rank].contiguous(), difference, shift * 0.01, setting, steps, *one, ranks[:1],
               workspace={"r": rank, "q": q}),
    )  # fmt: skip
    sensitivity, contraction = uniform(0.1, 0.5, 2**16, steps), uniform(0.9, 0.99, 2**16)
    value, mu = (torch.empty(2**16, dtype=torch.float64, device="cuda") for _ in range(2))
    yield Case(
        "ridge_shifted_quotes", f"65536 records, {steps} steps",
        direct("ridge_shifted_quotes", sensitivity, contraction, 0.1, 30.0, 0.0, False, 0.3, value, mu,
               workspace={"n": 2**16, "n_steps": steps}),
        bytes=size(sensitivity),
    )  # fmt: skip
    yield Case(
        "ridge_smallest_eigenvalues", f"{n} records, p={p}",
        direct("ridge_smallest_eigenvalues", h, projected, 1.0, 1e-12, outs[0]), bytes=size(projected),
    )  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield everything to time; arrays are made as they are reached."""
    for family in (grad_norm_cases, langevin_cases, privacy_cases, ridge_cases):
        yield from family()
