"""Privacy arithmetic: answers on the safe side of the truth, and the CPU's to the last digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from expunge.accounting import GaussianPair, gdp_delta, gdp_epsilon, gdp_mu, sampled_gaussian_rdp, shifted_mu
from gpu_cases import Case, Plan
from gpu_device import Device, Run, nbytes, worst


def like_the_cpu(on: Device, function: Callable[..., Any], *arrays: Any, rtol: float, **settings: Any) -> float:
    """Return how far some results lie from the CPU's, which are held to 50 digits by the tests."""
    some = on.few(len(arrays[0]))
    here = [array[some].cpu().numpy() if hasattr(array, "cpu") else array for array in arrays]
    expected = on.torch.from_numpy(np.asarray(function(*here, **settings))).to(on.where)
    return worst(function(*arrays, **settings)[some], expected, rtol * expected.abs() + 1e-300)


def above(bound: Any, value: Any) -> float:
    """Return 0 if bounds are nowhere below values, and infinity otherwise."""
    return 0.0 if bool((bound >= value).all()) else float("inf")


def plain_delta(on: Device, mu: Any, epsilon: Any) -> Any:
    """Return delta of Gaussian DP by the textbook formula, which loses digits where its two terms cancel."""
    log_tail = on.torch.special.log_ndtr
    return log_tail(mu / 2 - epsilon / mu).exp() - (epsilon + log_tail(-mu / 2 - epsilon / mu)).exp()


def gaussian_dp(on: Device, n: int) -> dict[str, Case]:
    mu, epsilon, delta = on.uniform(0.01, 3, n), on.uniform(0, 5, n), 10 ** on.uniform(-9, -1, n)
    cpu = "the CPU on 256 of them"

    def of_delta() -> float:
        plain, found = plain_delta(on, mu, epsilon), gdp_delta(mu, epsilon)
        return max(worst(found, plain, 1e-12 + 1e-9 * plain), like_the_cpu(on, gdp_delta, mu, epsilon, rtol=2e-10))

    def of_epsilon() -> float:
        return max(above(delta, gdp_delta(mu, gdp_epsilon(mu, delta))),
                   like_the_cpu(on, gdp_epsilon, mu, delta, rtol=1e-9))  # fmt: skip

    def of_mu() -> float:
        return max(above(delta, gdp_delta(gdp_mu(epsilon, delta), epsilon)),
                   like_the_cpu(on, gdp_mu, epsilon, delta, rtol=1e-9))  # fmt: skip

    bytes_moved = nbytes(mu, epsilon, mu)
    proved = f"its own delta, which it proves, every one; {cpu}"
    return {
        "gdp_delta": Case(of_delta, f"PyTorch's log_ndtr in float64, every one; {cpu}", lambda: gdp_delta(mu, epsilon),
                          bytes=bytes_moved),
        "gdp_epsilon": Case(of_epsilon, proved, lambda: gdp_epsilon(mu, delta), bytes=bytes_moved),
        "gdp_mu": Case(of_mu, proved, lambda: gdp_mu(epsilon, delta), bytes=bytes_moved),
    }  # fmt: skip


def shifted(on: Device, runs: int, steps: int) -> Case:
    s, c, tau = on.uniform(0, 1, runs, steps), on.uniform(0.9, 1, runs, steps), on.uniform(0.1, 1, runs, steps)
    return Case(
        lambda: like_the_cpu(on, shifted_mu, s, c, tau, rtol=1e-15), "the CPU on 256 runs",
        lambda: shifted_mu(s, c, tau), bytes=nbytes(s, c, tau),
    )  # fmt: skip


def rdp(on: Device, n: int) -> Case:
    order, sigma = on.uniform(1.5, 32, n), on.uniform(0.5, 10, n)

    def check() -> float:
        found = sampled_gaussian_rdp(order, sigma, 0.01)
        return max(above(order / (2 * sigma**2) * (1 + 1e-12), found), above(found, found * 0.0),
                   like_the_cpu(on, sampled_gaussian_rdp, order, sigma, 0.01, rtol=1e-11))  # fmt: skip

    return Case(check, "the Gaussian mechanism without sampling, every one; the CPU on 256",
                lambda: sampled_gaussian_rdp(order, sigma, 0.01), bytes=nbytes(order, sigma))  # fmt: skip


def pairs(on: Device, n: int, m: int) -> dict[str, Case]:
    rng = np.random.default_rng(0)
    pair = GaussianPair(rng.uniform(-0.2, 0.2, m), rng.normal(size=(m, 3)) * 0.1)
    epsilon, delta, order = on.uniform(0, 3, n), 10 ** on.uniform(-9, -1, n), on.uniform(1.01, 4, n)

    def case(method: Callable[..., Any], asked: Any, proof: Callable[[], float], against: str) -> Case:
        run: Run = lambda: method(asked, direction="pq")  # noqa: E731
        return Case(lambda: max(proof(), like_the_cpu(on, method, asked, rtol=1e-8, direction="pq")),
                    f"{against}the CPU on 256 of them", run, bytes=16.0 * n)  # fmt: skip

    def proved() -> float:
        return above(delta, pair.delta(pair.epsilon(delta, direction="pq"), direction="pq"))

    return {
        "pair_delta": case(pair.delta, epsilon, lambda: 0.0, ""),
        "pair_epsilon": case(pair.epsilon, delta, proved, "its own delta, which it proves, every one; "),
        "pair_renyi": case(pair.renyi, order, lambda: 0.0, ""),
    }


def plans(on: Device) -> Iterator[Plan]:
    n = on.pick(2**20, 20)
    for kernel in ("gdp_delta", "gdp_epsilon", "gdp_mu"):
        yield Plan(kernel, f"{n}", lambda kernel=kernel: gaussian_dp(on, n)[kernel])
    runs, steps = on.pick((2**16, 330), (7, 12))
    yield Plan("shifted_mu", f"{runs} runs of {steps} steps", lambda: shifted(on, runs, steps))
    many = on.pick(2**17, 9)
    yield Plan("sampled_gaussian_rdp", f"{many}", lambda: rdp(on, many))
    few, m = on.pick((2**14, 64), (6, 40))
    for kernel in ("pair_delta", "pair_epsilon", "pair_renyi"):
        yield Plan(kernel, f"{few} x {m}", lambda kernel=kernel: pairs(on, few, m)[kernel])
