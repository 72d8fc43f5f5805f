"""What collecting per-record norms costs a training run: the same steps with ``collect="batch"`` and without.

Run ``python bench/bench_training.py [--threads N] [--repeats R]``; needs ``expunge[torch]``. An MLP 784-256-256-10 in
float32 on 4,096 synthetic records, eight epochs. Two schedules: windows of two epochs, in which only the steps of some
record's last visit are measured, and windows of half an epoch, in which every step is. The weights must come out alike
before anything is timed.
"""

from __future__ import annotations

import argparse
from typing import Any

from timing import measure, need, table, write_results

need("torch", extra="torch")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from expunge.torch import train  # noqa: E402

SCHEDULES = {"windows of two epochs": 4, "windows of half an epoch": 16}  # windows of the run
N_RECORDS, EPOCHS = 4_096, 8


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def run(batch_size: int, windows: int, sampling: str, noise_std: float, repeats: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N_RECORDS, 784, generator=generator)
    y = torch.randint(0, 10, (N_RECORDS,), generator=generator)
    n_steps = EPOCHS * N_RECORDS // batch_size

    def trained(collect: str) -> nn.Module:
        model = mlp()
        train(
            model, (x, y), step_size=0.1, batch_size=batch_size, n_steps=n_steps, n_checkpoints=windows,
            collect=collect, sampling=sampling, noise_std=noise_std, progress=False,
        )  # fmt: skip
        return model

    for one, other in zip(trained("none").parameters(), trained("batch").parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    seconds = measure({"none": lambda: trained("none"), "batch": lambda: trained("batch")}, repeats=repeats)
    return {
        "steps": n_steps,
        "ms/step plain": round(1e3 * seconds["none"] / n_steps, 3),
        "ms/step collecting": round(1e3 * seconds["batch"] / n_steps, 3),
        "extra %": round(100 * (seconds["batch"] / seconds["none"] - 1), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for batch_size in arguments.batch_sizes:
        for name, windows in SCHEDULES.items():
            settings: dict[str, Any] = {"sampling": "shuffle", "noise_std": 0.001}
            row = {"batch_size": batch_size, **settings, "schedule": name}
            rows.append({**row, **run(batch_size, windows, repeats=arguments.repeats, **settings)})
    print(table(rows))
    write_results("training", rows, threads=arguments.threads, torch=torch.__version__)


if __name__ == "__main__":
    main()
