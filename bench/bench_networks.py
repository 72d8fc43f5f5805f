"""Networks that forget: accuracy of certified heads on two backbones, and what both claim. MNIST, 8,000 records.

Random convolutions, which no data touched, with a softmax head; and a network trained with differential privacy, its
own accuracy beside that of a head on its features. Times nothing; checks that both certificates hold.
Run ``python bench/bench_networks.py FOLDER``, FOLDER being that of the MNIST test images; EXPUNGE_DATA can name it.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

import numpy as np

import timing
from bench_ridge import DATA

timing.need("torch", extra="torch")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from expunge import CertifiedHead, NewtonLogisticRegression  # noqa: E402
from expunge.certificates.network import verify  # noqa: E402
from expunge.torch import Privacy, train  # noqa: E402

LEARNED = 8000  # records; the others are to test with
# Chosen by the accuracy of ridge heads on 1,500 of the records learned, learning from the others.
FILTERS, SIDE, POOL, THRESHOLD = 20, 5, 5, 0.5
HIDDEN, STEPS, STEP_SIZE = 256, 60, 12.0
PRIVACY = Privacy(epsilon=2.0, delta=1e-5, clip=1.0)
CONVOLUTION = {"alpha": 0.01, "noise_std": 0.01}
PRIVATE = {"alpha": 1.0, "noise_std": 0.01}
FORGOTTEN = 10


class Constant(nn.Module):
    """Division by a constant, and flattening: rows come out with norms of about 1."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return rows of numbers."""
        return x.flatten(1) / self.divisor


def mnist(folder: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Return images (n, 1, 28, 28) within [0, 1] and labels."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{name}.gz").read_bytes())[skip:], np.uint8)
        for name, skip in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
    )
    return torch.tensor(pixels.reshape(-1, 1, 28, 28) / np.float32(255)), labels.astype(np.int64)


def convolutions() -> nn.Module:
    """Return random filters of norm 1 and mean 0, ReLU above random thresholds, and averages of a coarse grid."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(1, FILTERS, SIDE, padding=SIDE // 2)
    with torch.no_grad():
        filters = torch.randn(FILTERS, SIDE * SIDE, generator=generator)
        filters -= filters.mean(dim=1, keepdim=True)
        layer.weight.copy_((filters / filters.norm(dim=1, keepdim=True)).reshape(layer.weight.shape))
        layer.bias.copy_(-THRESHOLD * torch.rand(FILTERS, generator=generator))
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(POOL), Constant(1.0)).eval()


def row(name: str, model: CertifiedHead, data: tuple[Any, np.ndarray], **more: float) -> dict[str, Any]:
    """Return accuracy and claims of a network before and after deletions, whose certificates it checks."""
    images, labels = data
    test = images[LEARNED:], labels[LEARNED:]
    one = model.unlearn([0])
    left = one.model.unlearn(np.arange(1, FORGOTTEN))
    for result in (one, left):
        kept = labels[:LEARNED][result.model.ids_]
        verify(result.certificate, result.model.features_, kept, evidence=result.evidence, backbone=model.features)
    features, theta = model.transform(test[0]), model.head_.evidence_.theta
    without_noise = np.argmax(features @ theta[:, :-1].T + theta[:, -1], axis=1)
    return {
        "network": name,
        **more,
        "features": model.features_.shape[1],
        "accuracy": model.head_.score(features, test[1]),
        "without noise": float(np.mean(without_noise == test[1])),
        "after deletions": left.model.score(*test),
        "epsilon, 1 record": one.certificate.epsilon,
        f"epsilon, {FORGOTTEN} records": left.certificate.epsilon,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder of the MNIST test images")
    images, labels = mnist(timing.mnist_folder(parser.parse_args().data))
    learned = images[:LEARNED], labels[:LEARNED]

    def head(settings: dict[str, float]) -> NewtonLogisticRegression:
        return NewtonLogisticRegression(classes=range(10), multi_class="softmax", **settings)

    fixed = CertifiedHead(convolutions(), head(CONVOLUTION), backbone="data-independent", name="random convolutions")
    rows = [row("random convolutions + head", fixed.fit(*learned), (images, labels))]

    torch.manual_seed(0)
    hidden = [nn.Flatten(), nn.Linear(784, HIDDEN), nn.Tanh(), Constant(HIDDEN**0.5)]
    network = nn.Sequential(*hidden, nn.Linear(HIDDEN, 10))
    run = train(network, (learned[0], torch.tensor(learned[1])), step_size=STEP_SIZE, batch_size=LEARNED, n_steps=STEPS,
                privacy=PRIVACY, collect="none")  # fmt: skip
    assert run.privacy is not None
    with torch.no_grad():
        own = float((network(images[LEARNED:]).argmax(1).numpy() == labels[LEARNED:]).mean())
    private = CertifiedHead(network[:4].eval(), head(PRIVATE), backbone=run, name="private network")
    more = {"network alone": own, "epsilon of the network": run.privacy.epsilon}
    rows.append(row("private network + head", private.fit(*learned), (images, labels), **more))

    for one in rows:
        print(timing.table([{"": name, "value": value} for name, value in one.items()]), "\n")
    timing.write_results("networks", rows, mu_of_the_network=run.privacy.mu)


if __name__ == "__main__":
    main()
