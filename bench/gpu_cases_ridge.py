"""Quotes of ridge records: the CPU's answers for some of the records, and a histogram of the ranks that were needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from expunge.runs import ridge
from gpu_cases import Case, Plan
from gpu_device import Device, nbytes, worst

_TOLERANCE = 1e-9  # of the solver
_QUOTE_SECONDS = 3.0  # of one call that is timed
CPU = "the CPU's kernel on some of the records"


def setting(on: Device, step: float) -> Any:
    return on.core.RidgeSetting(
        step_size=step, noise_std=0.01, unlearn_steps=30.0, unlearn_noise_std=0.0, solve_steps=False, epsilon=1.0,
        log_delta=float(np.log(1e-5)), mu=0.25, tolerance=_TOLERANCE,
    )  # fmt: skip


def host(*arrays: Any) -> list[Any]:
    return [np.ascontiguousarray(array.cpu().numpy()) for array in arrays]


def apart(on: Device, found: list[Any], expected: list[Any], rtol: float) -> float:
    """Return the worst share over outputs, each by its own size."""
    share = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        truth = on.torch.from_numpy(np.array(theirs)).to(on.where)
        size = truth.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs()
        share = max(share, worst(ours, truth, rtol * (size + 1e-3 * float(size.max()))))
    return share


class Problem:
    """Records in the eigenbasis, and their residuals, which fall over the steps."""

    def __init__(self, on: Device, n: int, p: int, q: int, steps: int) -> None:
        eigenvalues = np.sort(np.random.default_rng(0).uniform(1.0, 3000.0, p))
        self.setting = setting(on, 1.0 / eigenvalues[-1])
        self.h = on.torch.from_numpy(eigenvalues).to(on.where)
        self.projected = on.doubles(n, p) / p**0.5
        decay = on.torch.logspace(0, -1, steps, dtype=on.torch.float64, device=on.where)[:, None]
        self.residuals = (on.doubles(n, steps, q) * decay * 0.3).contiguous()
        self.some = on.few(n, on.pick(256, 6))


def exact(on: Device, n: int, p: int, q: int, steps: int, rank: int) -> Case:
    given = Problem(on, n, p, q, steps)
    outs = [*(on.empty(n) for _ in range(5)), on.empty(n, dtype=on.torch.int64)]
    run = on.direct(
        "ridge_exact_quotes", given.h, given.projected, given.residuals, given.setting, rank, *outs,
    )  # fmt: skip

    def check() -> float:
        run()
        few = len(given.some)
        expected = [*np.empty((5, few)), np.empty(few, dtype=np.int64)]
        inputs = host(given.h, given.projected[given.some], given.residuals[given.some])
        on.core.ridge_exact_quotes(*inputs, given.setting, rank, *expected, threads=0)
        # The error estimate is itself made of rounding errors; the answers and ranks are not.
        kept = [0, 1, 2, 3, 5]
        return apart(on, [outs[i][given.some] for i in kept], [expected[i] for i in kept], 1e-6)

    return Case(check, CPU, run, bytes=nbytes(given.projected, given.residuals),
                extra=lambda seconds: {"seconds_per_million_records": seconds * 1e6 / n})  # fmt: skip


def comparable(excess: Any, squares: Any, rest: Any, count: Any) -> list[Any]:
    """Return of a pair what rounding leaves as it is, and whether there is one.

    Single squared shifts move where excesses nearly agree, and join the rest where an excess is zero to rounding.
    """
    return [excess.sort(1).values, squares.sum(1) + rest, (count < 0).double()]


def reduced_pairs(on: Device, n: int, p: int, q: int, steps: int, rank: int) -> Case:
    given = Problem(on, n, p, q, steps)
    outs = [on.empty(n, rank), on.empty(n, rank), on.empty(n), on.empty(n, dtype=on.torch.int64)]
    run = on.direct(
        "ridge_gaussian_pairs", given.h, given.projected, given.residuals, given.setting, rank, *outs,
    )  # fmt: skip

    def check() -> float:
        run()
        few = len(given.some)
        expected = [*np.full((2, few, rank), np.nan), np.empty(few), np.empty(few, dtype=np.int64)]
        inputs = host(given.h, given.projected[given.some], given.residuals[given.some])
        on.core.ridge_gaussian_pairs(*inputs, given.setting, rank, *expected, threads=0)
        ours = [out[given.some] for out in outs]
        return apart(on, comparable(*ours), comparable(*map(on.torch.from_numpy, expected)), 1e-6)

    return Case(check, CPU, run, bytes=nbytes(given.projected, given.residuals, *outs[:2]))


def one_reduced(on: Device, q: int, steps: int, rank: int) -> Case:
    given = Problem(on, 1, max(rank, 2), q, steps)
    difference = on.torch.eye(rank, dtype=on.torch.float64, device=on.where) * 0.1
    shift, h = on.doubles(rank, q) * 0.01, given.h[:rank].contiguous()
    outs = [*(on.empty(1) for _ in range(5)), on.empty(1, dtype=on.torch.int64)]
    run = on.direct("ridge_solve_reduced", h, difference, shift, given.setting, steps, *outs)  # fmt: skip

    def check() -> float:
        run()
        expected = [*np.empty((5, 1)), np.empty(1, dtype=np.int64)]
        on.core.ridge_solve_reduced(*host(h, difference, shift), given.setting, steps, *expected)
        return apart(on, outs[:4], expected[:4], 1e-6)

    return Case(check, "the CPU's kernel", run)


def shifted(on: Device, n: int, steps: int) -> Case:
    sensitivity, contraction = on.uniform(0.1, 0.5, n, steps), on.uniform(0.9, 0.99, n)
    value, mu = on.empty(n), on.empty(n)
    settings = (0.1, 30.0, 0.0, False, 0.3)
    run = on.direct("ridge_shifted_quotes", sensitivity, contraction, *settings, value, mu)  # fmt: skip

    def check() -> float:
        run()
        some = on.few(n)
        expected = list(np.empty((2, len(some))))
        on.core.ridge_shifted_quotes(*host(sensitivity[some], contraction[some]), *settings, *expected, threads=0)
        return apart(on, [value[some], mu[some]], expected, 1e-8)

    return Case(check, CPU, run, bytes=nbytes(sensitivity))


def lowest(on: Device, n: int, p: int) -> Case:
    given, out = Problem(on, n, p, 1, 2), on.empty(n)
    run = on.direct("ridge_smallest_eigenvalues", given.h, given.projected, 1.0, 1e-12, out)

    def check() -> float:
        run()
        x = given.projected[given.some]
        truth = on.torch.linalg.eigvalsh(on.torch.diag(given.h) - x[:, :, None] * x[:, None, :])[:, 0]
        room = 1e-12 * float(given.h[-1]) * p
        below = bool((out[given.some] <= truth + room).all())  # a lower bound
        return worst(out[given.some], truth.clamp(min=1.0), 100 * room) if below else float("inf")

    return Case(check, "PyTorch's eigvalsh in float64 on some of the records, from below", run,
                bytes=nbytes(given.projected))  # fmt: skip


class Law:
    """A run on many records, some of which are quoted: as many as a call of a few seconds has room for."""

    def __init__(self, on: Device, n: int, p: int, q: int, steps: int) -> None:
        torch = on.torch
        scale = torch.logspace(0, -1.5, p, dtype=torch.float64, device=on.where)
        X, Y = on.doubles(n, p) * scale, on.doubles(n, q)
        largest = float(torch.linalg.eigvalsh(X.mT @ X)[-1]) + 1.0
        self.settings: dict[str, Any] = {
            "alpha": 1.0, "step_size": 1.0 / largest, "n_steps": steps, "noise_std": on.pick(1e-4, 1e-2)
        }  # fmt: skip
        self.law = ridge.LearningLaw(X, Y, **self.settings)
        self.n, self.p, self.q, self.steps = n, p, q, steps
        self.on_host = ridge.LearningLaw(X.cpu().numpy(), Y.cpu().numpy(), **self.settings)

    def quotes(self, kind: str, records: Any, *, on_host: bool = False) -> Any:
        """Return quotes of the records, by the kernels under test or by the CPU's."""
        function = ridge.exact_quotes if kind == "exact" else ridge.shifted_quotes
        return function(self.on_host if on_host else self.law, records, epsilon=1.0, delta=1e-5, n_steps=30)


def public(on: Device, law: Law, kind: str, most: int) -> Case:
    count = [min(most, law.n, 1000)]

    def check() -> float:
        begun = time.monotonic()
        found = law.quotes(kind, np.arange(count[0]))
        took = time.monotonic() - begun
        # Bounded by what it takes: the time of a call grows with its records.
        if not on.emulated:
            count[0] = min(most, max(count[0], int(count[0] * _QUOTE_SECONDS / max(took, 1e-3))))
        some = on.few(min(1000, law.n), on.pick(40, 4))
        expected = law.quotes(kind, some, on_host=True)
        return apart(on, [found.noise_std[some]], [expected.noise_std], 1e-5)

    def extra(seconds: float) -> dict[str, Any]:
        found: dict[str, Any] = {"records": count[0], "seconds_per_million_records": seconds * 1e6 / count[0]}
        if kind == "exact":
            quotes = law.quotes(kind, np.arange(count[0]))
            ranks, times = on.torch.unique(quotes.rank, return_counts=True)
            found["ranks"] = {str(int(rank)): int(n) for rank, n in zip(ranks, times, strict=True)}
            found["share_solved_for"] = float((quotes.noise_std > 0).double().mean())
        return found

    against = "the public function on the CPU, 40 of the first 1000 records"
    return Case(check, against, lambda: law.quotes(kind, np.arange(count[0])), extra=extra)


def plans(on: Device) -> Iterator[Plan]:
    n, p, q, steps, rank = on.pick((20_000, 256, 10, 100, 24), (9, 12, 2, 8, 5))
    what = f"{n} records, p={p}, q={q}, {steps} steps, rank {rank}"
    yield Plan("ridge_exact_quotes", what, lambda: exact(on, n, p, q, steps, rank))
    # Too large for shared memory: in slabs of the workspace.
    large = on.pick((2000, 256, 10, 100, 128), (2, 80, 1, 4, 60))
    m, features, columns, length, high = large
    what = f"{m} records, p={features}, q={columns}, {length} steps, rank {high}"
    yield Plan("ridge_exact_quotes", what, lambda: exact(on, *large))
    yield Plan("ridge_gaussian_pairs", f"{n} records, rank {rank}", lambda: reduced_pairs(on, n, p, q, steps, rank))
    # More spectra than a batch has room for.
    wide = on.pick((30_000, 256, 1, 20, 200), (14, 12, 1, 4, 6))
    what = f"{wide[0]} records, rank {wide[-1]}, in batches"
    yield Plan("ridge_gaussian_pairs", what, lambda: reduced_pairs(on, *wide))
    yield Plan("ridge_solve_reduced", f"rank {rank}", lambda: one_reduced(on, q, steps, rank))
    many = on.pick(2**16, 70)
    yield Plan("ridge_shifted_quotes", f"{many} records, {steps} steps", lambda: shifted(on, many, steps))
    yield Plan("ridge_smallest_eigenvalues", f"{n} records, p={p}", lambda: lowest(on, n, p))
    records, width, outputs, length = on.pick((1_000_000, 256, 10, 300), (60, 6, 2, 30))
    law: list[Law] = []

    def shared() -> Law:
        if not law:
            law.append(Law(on, records, width, outputs, length))
        return law[0]

    for kind in ("exact", "shifted"):
        what = f"public function, of {records} records, p={width}, q={outputs}, {length} steps"
        yield Plan(f"ridge_{kind}_quotes", what, lambda kind=kind: public(on, shared(), kind, 50_000))
