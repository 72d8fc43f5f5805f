"""Passes over rows: a gradient with a proved bound, and leverages. PyTorch in float64 on the device, sum by sum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpu_cases import Case, Plan
from gpu_device import Device, nbytes, worst

_UNIT = 2.0**-53
# Of sums of up to 2^18 numbers in another order, as a share of the sum of their sizes: more roundings than there are.
_TOLERANCE = 1e-10
LEVERAGE_TARGET = 0.8  # of the memory's rate
TARGETS = {1: 0.8, 10: 0.7}  # by outputs: of the memory's rate; of the lesser of that and the products' rate


class Rows:
    """Random rows, parameters and answers, and what a pass over them must find."""

    def __init__(self, on: Device, loss: str, n: int, p: int, q: int) -> None:
        self.on, self.loss, self.q = on, loss, q
        self.X, self.theta = on.doubles(n, p), on.doubles(q, p) / p**0.5
        self.targets = on.doubles(n, q) if loss == "squared" else None
        self.labels = None if loss == "squared" else on.integers(max(q, 2), n)
        self.answers = self.labels if self.targets is None else self.targets

    def residuals(self) -> tuple[Any, Any, Any, Any]:
        """Return residuals (n, q), losses, right answers and bounds on the residuals' errors (n)."""
        torch, logits = self.on.torch, self.X @ self.theta.mT
        p = self.X.shape[1]
        of_logits = (p + 1) * _UNIT * self.X.norm(dim=1) * self.theta.norm()
        if self.loss == "squared":
            r = logits - self.targets
            return r, r.square().sum(1) / 2, torch.zeros_like(of_logits), of_logits + 4 * _UNIT * r.norm(dim=1)
        if self.loss == "logistic":
            sign = 1.0 - 2.0 * self.labels.double()  # -1 where the answer is 1
            margin = sign * logits[:, 0]
            r = (sign * margin.sigmoid())[:, None]
            right = ((logits[:, 0] > 0) == (self.labels == 1)).double()
            return r, torch.nn.functional.softplus(margin), right, of_logits / 4 + 10 * _UNIT * r.norm(dim=1)
        r = logits.softmax(1) - torch.nn.functional.one_hot(self.labels, self.q)
        losses = torch.nn.functional.cross_entropy(logits, self.labels, reduction="none")
        right = (logits.argmax(1) == self.labels).double()
        return r, losses, right, of_logits / 2 + (self.q + 14) * _UNIT

    def share(self, weights: Any, gradient: Any, sums: Any, residuals: Any) -> float:
        """Return the worst error of what a pass found, as a share of its tolerance."""
        torch = self.on.torch
        r, losses, right, errors = self.residuals()
        norms, factors = self.X.norm(dim=1), torch.ones_like(errors) if weights is None else weights
        weighted = r * factors[:, None]
        share = worst(gradient, weighted.mT @ self.X, _TOLERANCE * (weighted.abs().mT @ self.X.abs()))
        parts = norms * errors * factors, norms * factors * (r.norm(dim=1) + errors), losses * factors, right
        expected = torch.stack([part.sum() for part in parts])
        share = max(share, worst(sums, expected, _TOLERANCE * expected))
        if residuals is None:
            return share
        return max(share, worst(residuals, weighted, _TOLERANCE * factors[:, None] * (1.0 + r.abs())))


def residual_pass(on: Device, loss: str, n: int, p: int, q: int) -> Case:
    rows = Rows(on, loss, n, p, q)
    gradient, sums, residuals, weights = on.empty(q, p), on.empty(4), on.empty(n, q), on.uniform(0.5, 2.0, n)

    def over(given: Any, wanted: Any) -> Any:
        arrays = rows.X, rows.targets, rows.labels, given, rows.theta, gradient, sums, wanted
        return on.direct("residual_pass", *arrays, loss=loss)

    run = over(None, None)

    def check() -> float:
        share = 0.0
        for call, given, wanted in ((over(weights, residuals), weights, residuals), (run, None, None)):
            gradient.fill_(float("nan"))
            sums.fill_(float("nan"))
            call()
            share = max(share, rows.share(given, gradient, sums, wanted))
        return share

    def two_products() -> Any:
        logits = rows.X @ rows.theta.mT
        if loss == "squared":
            return (logits - rows.targets).mT @ rows.X
        if loss == "logistic":
            return (logits.sigmoid() - rows.labels[:, None]).mT @ rows.X
        return (logits.softmax(1) - on.torch.nn.functional.one_hot(rows.labels, q)).mT @ rows.X

    return Case(
        check, "PyTorch in float64 on the device, every entry and sum", run,
        bytes=nbytes(rows.X, rows.answers, rows.theta, gradient), flops=4.0 * n * p * q, dtype="float64",
        target=TARGETS[q], peers={"two products in PyTorch, no bound": two_products},
    )  # fmt: skip


def residual_leverages(on: Device, n: int, p: int, q: int) -> Case:
    X, K = on.doubles(n, p), on.doubles(n, q, q, p)
    outs = on.empty(n, q, q), on.empty(n, q, q), on.empty(n)
    run = on.direct("residual_leverages", X, K, *outs)

    def products(X: Any, K: Any) -> tuple[Any, Any, Any]:
        solutions = K.reshape(n, q, q * p)
        leverages = (K @ X[:, None, :, None])[..., 0]
        return leverages, solutions @ solutions.mT, X.square().sum(1)

    def check() -> float:
        for out in outs:
            out.fill_(float("nan"))
        run()
        pairs = zip(outs, products(X, K), products(X.abs(), K.abs()), strict=True)
        return max(worst(out, expected, _TOLERANCE * sizes) for out, expected, sizes in pairs)

    return Case(
        check, "PyTorch in float64 on the device, every product", run, bytes=nbytes(X, K, *outs),
        flops=2.0 * n * p * (q * q + q * q * (q + 1) / 2 + 1), dtype="float64",
        target=LEVERAGE_TARGET if q == 1 else None, peers={"three products in PyTorch": lambda: products(X, K)},
    )  # fmt: skip


def plans(on: Device) -> Iterator[Plan]:
    n, p = on.pick((2**18, 768), (1100, 13))  # rows for every range; two ranges on the emulator
    for loss, q in (("squared", 1), ("logistic", 1), ("softmax", 10)):
        what = f"{loss}, n={n}, p={p}, outputs {q}, float64"
        yield Plan("residual_pass", what, lambda loss=loss, q=q: residual_pass(on, loss, n, p, q))
    for shape in on.pick(((2**18, 768, 1), (2**10, 128, 10)), ((1100, 13, 1), (70, 13, 3))):
        what = "n={}, p={}, outputs {}, float64".format(*shape)
        yield Plan("residual_leverages", what, lambda shape=shape: residual_leverages(on, *shape))
