"""Batched chains and standard normals beside NumPy, and wide chains beside their floor; answers are checked first.

Run ``python bench/bench_langevin.py``; it takes about a minute and a half on two busy cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from expunge._kernels import backend
from expunge.langevin import langevin_chains, standard_normals
from timing import measure, table, write_results

Row = dict[str, Any]


def ridge_problem(n: int, p: int, q: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], float]:
    X, y = standard_normals((n, p), seed=1), standard_normals((n, q), seed=2)
    H = X.T @ X + np.eye(p)
    return X, y, H, X.T @ y, float(1 / np.linalg.eigvalsh(H)[-1])


def bench_normals(count: int = 1 << 16, loops: int = 64) -> list[Row]:
    """Fill an array that stays in cache: what a fused step does with its normals."""
    rows = []
    for dtype in (np.float32, np.float64):
        z = standard_normals(1_000_000, seed=3, dtype=dtype)
        assert abs(z.mean()) < 0.005
        assert abs(z.std() - 1) < 0.005
        out, generator = np.empty(count, dtype=dtype), np.random.default_rng(0)

        def ours(out: NDArray[Any] = out) -> None:
            for step in range(loops):
                backend.core.standard_normals(out, seed=1, chain=0, step=step, threads=1)

        def numpy(out: NDArray[Any] = out, generator: np.random.Generator = generator) -> None:
            for _ in range(loops):
                generator.standard_normal(out=out, dtype=out.dtype)

        seconds = measure({"expunge": ours, "numpy": numpy}, repeats=15)
        rate = count * loops / seconds["expunge"]
        rows.append(
            {
                "what": f"standard normals {np.dtype(dtype)}, 1 thread",
                "expunge M/s": rate / 1e6,
                "expunge GB/s": rate * np.dtype(dtype).itemsize / 1e9,
                "numpy M/s": count * loops / seconds["numpy"] / 1e6,
                "ratio": seconds["numpy"] / seconds["expunge"],
                "target": 4.0 if dtype == np.float32 else "",
            }
        )
    return rows


def numpy_ridge(
    H: NDArray[Any], b: NDArray[Any], eta: float, tau: float, n_steps: int, n_chains: int
) -> Callable[[], NDArray[Any]]:
    """Vectorised over chains, nothing allocated inside the loop."""
    p, q = b.shape
    moment = np.ascontiguousarray(b.T)

    def run() -> NDArray[Any]:
        generator = np.random.default_rng(0)
        theta = np.zeros((n_chains, q, p))
        gradient, noise = np.empty_like(theta), np.empty_like(theta)
        for _ in range(n_steps):
            np.matmul(theta.reshape(-1, p), H, out=gradient.reshape(-1, p))
            gradient -= moment
            gradient *= eta
            theta -= gradient
            generator.standard_normal(out=noise)
            noise *= tau
            theta += noise
        return theta

    return run


def bench_small_ridge() -> list[Row]:
    n_chains, p, n_steps, tau = 1000, 16, 300, 0.1
    X, y, H, b, eta = ridge_problem(200, p, 1)
    theirs = numpy_ridge(H, b, eta, tau, n_steps, n_chains)

    def ours(threads: int | None) -> NDArray[Any]:
        return langevin_chains(
            X,
            y,
            alpha=1.0,
            step_size=eta,
            noise_std=tau,
            n_steps=n_steps,
            n_chains=n_chains,
            seed=1,
            threads=threads,
        )

    spread = theirs()[:, 0].std(axis=0) / np.sqrt(n_chains)
    assert (np.abs(theirs()[:, 0].mean(axis=0) - ours(None)[..., 0].mean(axis=0)) < 6 * np.sqrt(2) * spread).all()
    rows = []
    for threads in (1, None):
        seconds = measure({"expunge": lambda t=threads: ours(t), "numpy": theirs}, repeats=15)
        rows.append(
            {
                "what": f"ridge, 1000 chains, p=16, q=1, 300 steps, {threads or backend.default_threads()} thread(s)",
                "expunge ms": seconds["expunge"] * 1e3,
                "numpy ms": seconds["numpy"] * 1e3,
                "ratio": seconds["numpy"] / seconds["expunge"],
                "target": "" if threads else 5.0,
            }
        )
    return rows


def bench_wide_ridge() -> list[Row]:
    n_chains, p, q, n_steps, tau = 200, 256, 10, 20, 0.1
    X, y, H, b, eta = ridge_problem(500, p, q)
    theta, gradient = standard_normals((n_chains * q, p), seed=5), np.empty((n_chains * q, p))
    noise = np.empty(n_chains * q * p)
    noiseless = langevin_chains(X, y, alpha=1.0, step_size=eta, noise_std=0.0, n_steps=n_steps, seed=1)[0]
    truth = np.zeros((p, q))
    for _ in range(n_steps):
        truth -= eta * (H @ truth - b)
    np.testing.assert_allclose(noiseless, truth, rtol=0, atol=1e-12 * np.abs(truth).max())
    rows = []
    for threads in (1, backend.default_threads()):

        def ours(threads: int = threads) -> object:
            return langevin_chains(
                X,
                y,
                alpha=1.0,
                step_size=eta,
                noise_std=tau,
                n_steps=n_steps,
                n_chains=n_chains,
                seed=1,
                threads=threads,
            )

        def products(threads: int = threads) -> None:
            with threadpool_limits(threads, user_api="blas"):
                for _ in range(n_steps):
                    np.matmul(theta, H, out=gradient)

        def normals(threads: int = threads) -> None:
            for step in range(n_steps):
                backend.core.standard_normals(noise, seed=1, chain=0, step=step, threads=threads)

        theirs = numpy_ridge(H, b, eta, tau, n_steps, n_chains)
        seconds = measure({"expunge": ours, "products": products, "normals": normals, "numpy": theirs}, repeats=9)
        rows.append(
            {
                "what": f"ridge, 200 chains, p=256, q=10, 20 steps, {threads} thread(s)",
                "expunge ms": seconds["expunge"] * 1e3,
                "products ms": seconds["products"] * 1e3,
                "normals ms": seconds["normals"] * 1e3,
                "numpy ms": seconds["numpy"] * 1e3,
                "of floor": (seconds["products"] + seconds["normals"]) / seconds["expunge"],
                "target": 0.8,
            }
        )
        if threads == backend.default_threads():
            break
    return rows


def link(u: NDArray[Any]) -> NDArray[Any]:
    """Return probabilities of one output (logistic) or several (softmax)."""
    if u.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-u)))
    e = np.exp(u - u.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def clipped_chain(X: NDArray[Any], targets: NDArray[Any], n_steps: int) -> NDArray[Any]:
    """Return a chain without noise whose records' gradients are cut to norm 1, in NumPy."""
    theta = np.zeros((1, X.shape[1], targets.shape[1]))
    for _ in range(n_steps):
        residual = link(X @ theta[0]) - targets
        norms = np.linalg.norm(X, axis=1) * np.linalg.norm(residual, axis=1)
        theta[0] -= 0.002 * (X.T @ (residual * np.minimum(1, 1 / norms)[:, None]) + theta[0])
    return theta


def check_sampled(ours: Callable[..., NDArray[Any]], X: NDArray[Any], targets: NDArray[Any]) -> None:
    """Hold the mean of one sampled step of many chains against the full one, which it estimates without bias."""
    first = ours(sampling_probability=0.05, tau=0.0, n_chains=4096, n_steps=1)
    terms = X[:, :, None] * (link(np.zeros_like(targets)) - targets)[:, None, :]
    spread = 0.002 * np.sqrt(0.95 / 0.05 * np.square(terms).sum(axis=0) / len(first))
    assert (np.abs(first.mean(axis=0) + 0.002 * terms.sum(axis=0)) < 6 * spread).all()


def bench_losses() -> list[Row]:
    """Full-batch and mini-batch logistic and softmax chains beside one batched NumPy step."""
    n, p, n_chains, n_steps, tau = 500, 16, 256, 10, 0.05
    X = standard_normals((n, p), seed=1)
    scores = standard_normals((n, 4), seed=2)
    rows = []
    for loss, q in (("logistic", 1), ("softmax", 4)):
        labels = (scores[:, 0] > 0).astype(int) if q == 1 else scores.argmax(axis=1)
        targets = labels[:, None].astype(float) if q == 1 else np.eye(q)[labels]

        def numpy(
            q: int = q, targets: NDArray[Any] = targets, tau: float = tau, n_chains: int = n_chains
        ) -> NDArray[Any]:
            generator = np.random.default_rng(0)
            theta = np.zeros((n_chains, p, q))
            for _ in range(n_steps):
                u = X @ theta
                if q == 1:
                    residual = 1 / (1 + np.exp(-u)) - targets
                else:
                    e = np.exp(u - u.max(axis=2, keepdims=True))
                    residual = e / e.sum(axis=2, keepdims=True) - targets
                theta = theta - 0.002 * (X.T @ residual + theta) + tau * generator.standard_normal(theta.shape)
            return theta

        def ours(
            loss: str = loss, labels: NDArray[Any] = labels, tau: float = tau, n_chains: int = n_chains, **extra: Any
        ) -> NDArray[Any]:
            return langevin_chains(
                X,
                labels,
                loss=loss,  # type: ignore[arg-type]
                alpha=1.0,
                step_size=0.002,
                noise_std=tau,
                n_chains=n_chains,
                seed=1,
                **{"n_steps": n_steps, **extra},
            )

        np.testing.assert_allclose(ours(tau=0.0, n_chains=1), numpy(tau=0.0, n_chains=1), rtol=0, atol=1e-12)
        still = {"tau": 0.0, "n_chains": 1}
        np.testing.assert_allclose(ours(clip=1e6, **still), ours(**still), rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours(clip=1.0, **still), clipped_chain(X, targets, n_steps), rtol=0, atol=1e-12)
        check_sampled(ours, X, targets)
        seconds = measure(
            {
                "expunge": ours,
                "numpy": numpy,
                "clipped": lambda ours=ours: ours(clip=1.0),
                "sampled": lambda ours=ours: ours(sampling_probability=0.05),
            },
            repeats=9,
        )
        rows.append(
            {
                "what": f"{loss}, {n_chains} chains, n={n}, p={p}, q={q}, {n_steps} steps",
                "expunge ms": seconds["expunge"] * 1e3,
                "clipped ms": seconds["clipped"] * 1e3,
                "sampled 5% ms": seconds["sampled"] * 1e3,
                "numpy ms": seconds["numpy"] * 1e3,
                "ratio": seconds["numpy"] / seconds["expunge"],
            }
        )
    return rows


def bench_levels() -> list[Row]:
    """Repeat the normals and the small chains at every instruction set this processor has."""
    rows: list[Row] = []
    for level in ("base", "v3", "v4"):
        done = subprocess.run(
            [sys.executable, __file__, "--one-level"],
            env={**os.environ, "EXPUNGE_ISA": level},
            capture_output=True,
            text=True,
        )
        if "is not supported by this processor" in done.stderr:
            print(f"{level}: not supported by this processor, not measured")
            continue
        if done.returncode:
            raise RuntimeError(done.stderr)
        rows += [{"isa": level, **row} for row in json.loads(done.stdout)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one-level", action="store_true", help="print the rows of the current level as JSON")
    if parser.parse_args().one_level:
        print(json.dumps(bench_normals() + bench_small_ridge()))
        return
    groups = {
        "normals": bench_normals(),
        "small ridge": bench_small_ridge(),
        "wide ridge": bench_wide_ridge(),
        "other losses": bench_losses(),
        "instruction sets": bench_levels(),
    }
    for name, rows in groups.items():
        print(f"\n{name}\n{table(rows)}")
    write_results("langevin", [{"group": name, **row} for name, rows in groups.items() for row in rows])


if __name__ == "__main__":
    main()
