"""Many small networks trained at once, beside one process a core that trains them one after the other.

Run ``python bench/bench_ensemble.py [--members M] [--steps N] [--threads T] [--repeats R]``; needs ``expunge[torch]``.
Noisy SGD of convolutional networks in float32 on 1,000 synthetic images, by `train_many` on T threads and by `train` in
T processes of one thread. Members must come out as trained alone before anything is timed. Times are of one step of one
model on all cores together; with ``EXPUNGE_BENCH_CLOCK=cpu``, processor time, that of the processes included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from timing import CLOCK, measured, need, table, write_results

need("torch", extra="torch")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from expunge.torch import train, train_many  # noqa: E402
from expunge.torch.models import mlp, small_cnn  # noqa: E402

N_RECORDS = 1_000


def strided(seed: int) -> nn.Module:
    """Return two strided convolutions with GroupNorm and a dense layer of 64, for images of 3 x 32 x 32."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(4, 32),
        nn.ReLU(), nn.Flatten(), nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


# Name -> network by seed, shape of an image, batch size.
MODELS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, int, int], int]] = {
    "digits CNN": (lambda seed: small_cnn(input_shape=(1, 8, 8), width=8, seed=seed), (1, 8, 8), 100),
    "MLP 784-64-10": (lambda seed: mlp(input_shape=(1, 28, 28), hidden=(64,), seed=seed), (1, 28, 28), 100),
    "strided CNN": (strided, (3, 32, 32), 50),
    "CIFAR CNN, pooled": (lambda seed: small_cnn(input_shape=(3, 32, 32), seed=seed), (3, 32, 32), 50),
}


def data(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N_RECORDS, *shape, generator=generator)
    return x, torch.randint(0, 10, (N_RECORDS,), generator=generator)


def settings_of(name: str, steps: int, noise_std: float) -> dict[str, Any]:
    return {
        "step_size": 0.1, "batch_size": MODELS[name][2], "n_steps": steps, "noise_std": noise_std, "progress": False,
    }  # fmt: skip


def alone(name: str, seed: int, steps: int, noise_std: float) -> nn.Module:
    model = MODELS[name][0](seed)
    train(model, data(MODELS[name][1]), collect="none", seed=seed, **settings_of(name, steps, noise_std))
    return model


def one_after_the_other(name: str, n_models: int, steps: int, noise_std: float) -> float:
    """Train models in this process; return the processor seconds it took."""
    torch.set_num_threads(1)
    began = time.process_time()
    for seed in range(n_models):
        alone(name, seed, steps, noise_std)
    return time.process_time() - began


def together(name: str, members: int, steps: int, noise_std: float, threads: int) -> list[nn.Module]:
    models = [MODELS[name][0](seed) for seed in range(members)]
    settings = settings_of(name, steps, noise_std)
    run = train_many(models, data(MODELS[name][1]), seeds=range(members), threads=threads, **settings)
    if run.one_by_one is not None or run.failures:
        raise SystemExit(f"{name}: {run}")
    return models


def run(name: str, arguments: argparse.Namespace, noise_std: float, pool: ProcessPoolExecutor) -> dict[str, Any]:
    members, steps, threads = arguments.members, arguments.steps, arguments.threads
    for seed, model in enumerate(together(name, min(members, 2), 3, noise_std, threads)):
        for one, other in zip(model.parameters(), alone(name, seed, 3, noise_std).parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    each = max(1, members // 8)  # models of a process: enough that they take longer than a time slice
    spent = [0.0]

    def processes() -> None:
        jobs = [pool.submit(one_after_the_other, name, each, steps, noise_std) for _ in range(threads)]
        spent[0] += sum(job.result() for job in jobs)

    def clock() -> float:
        return time.process_time() + spent[0] if CLOCK == "cpu" else time.perf_counter()

    seconds = measured(
        {"processes": processes, "together": lambda: together(name, members, steps, noise_std, threads)},
        repeats=arguments.repeats,
        clock=clock,
    )
    apart = np.array(seconds["processes"]) / (steps * each * threads)
    joint = np.array(seconds["together"]) / (steps * members)
    ratios = apart / joint
    return {
        "model": name,
        "parameters": sum(p.numel() for p in MODELS[name][0](0).parameters()),
        "batch_size": MODELS[name][2],
        "noise_std": noise_std,
        "members": members,
        "ms/step one by one": round(1e3 * float(np.median(apart)), 3),
        "ms/step together": round(1e3 * float(np.median(joint)), 3),
        "times as fast": round(float(np.median(ratios)), 2),
        "least, most": [round(float(ratios.min()), 2), round(float(ratios.max()), 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    with ProcessPoolExecutor(arguments.threads, mp_context=get_context("spawn")) as pool:
        for name in arguments.models:
            for noise_std in (0.0, 0.003):
                rows.append(run(name, arguments, noise_std, pool))
                print(table(rows[-1:]))
    write_results("ensemble", rows, threads=arguments.threads, torch=torch.__version__)


if __name__ == "__main__":
    main()
