"""Kernels beside their slow twins, on the small calls of the table; the families' own tests go further."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import oracles
from kernel_calls import call

pytestmark = pytest.mark.usefixtures("target")

EPS = float(np.finfo(np.float64).eps)


def answered(label: str, n: int = 23) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments as they were, and the outputs."""
    case = call(label, n=n)
    return dict(call(label, n=n).arguments), case.run(threads=2)


def test_gdp_mu() -> None:
    given, out = answered("gdp_mu", n=2)
    expected = [oracles.gdp_mu(e, d) for e, d in zip(given["epsilon"], given["delta"], strict=True)]
    assert_allclose(out["out"], expected, rtol=1e-10)


def test_pair_epsilon() -> None:
    given, out = answered("pair_epsilon", n=1)
    shift = np.sqrt(given["squared_shift"][0])[:, None] * np.eye(1, int(given["columns"]))
    epsilon = out["out"][0]
    expected = oracles.pair_epsilon(given["excess"][0], shift, given["delta"][0], 0.999 * epsilon, 1.001 * epsilon)
    assert epsilon == pytest.approx(expected, rel=1e-9)


def test_pair_renyi() -> None:
    given, out = answered("pair_renyi")
    columns = int(given["columns"])
    for excess, squared, order, divergence in zip(
        given["excess"], given["squared_shift"], given["order"], out["out"], strict=True
    ):
        mean = np.sqrt(squared)[:, None] * np.eye(1, columns)
        first, second = (mean, np.diag(1 + excess)), (0 * mean, np.eye(len(excess)))
        expected = oracles.gaussian_renyi(second, first, order)  # the table's call asks for the swapped direction
        assert divergence == pytest.approx(expected, rel=1e-10)


def test_ridge_smallest_eigenvalues_from_below() -> None:
    given, out = answered("ridge_smallest_eigenvalues")
    expected = oracles.ridge_smallest_eigenvalues(given["eigenvalues"], given["projected"])
    rounding = 100 * EPS * given["eigenvalues"][-1]
    assert (out["out"] <= expected + rounding).all()
    assert_allclose(out["out"], expected, rtol=0, atol=rounding + 4 * given["slack"])


@pytest.mark.parametrize("outputs", [1, 3, 5])
def test_residual_leverages(outputs: int) -> None:
    given, out = answered(f"residual_leverages:{outputs}")
    expected = oracles.residual_leverages(given["X"], given["K"])
    for name, values in zip(("leverages", "squares", "norms"), expected, strict=True):
        scale = np.abs(given["K"]).max() ** 2 * given["K"][0, 0].size
        assert_allclose(out[name], values, rtol=0, atol=100 * EPS * scale)


def test_langevin_gram() -> None:
    given, out = answered("langevin_gram")
    gram, moment = oracles.langevin_gram(given["X"], given["targets"], given["alpha"])
    p = gram.shape[0]
    tolerance = 10 * len(given["X"]) * EPS * np.abs(gram).max()
    assert_allclose(out["gram"][:, :p], gram, rtol=0, atol=tolerance)
    assert_allclose(out["moment"], moment, rtol=0, atol=tolerance)
    assert not out["gram"][:, p:].any()


def test_langevin_row_norms() -> None:
    given, out = answered("langevin_row_norms")
    assert_allclose(out["out"], oracles.langevin_row_norms(given["X"]), rtol=20 * EPS)


@pytest.mark.parametrize("clip", [0.0, 0.7])
@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax"])
def test_langevin_residuals(loss: str, clip: float) -> None:
    case = call("langevin_residuals")
    arguments = {**case.arguments, "loss": loss, "clip": clip}
    if loss == "logistic":
        arguments |= {"linear": arguments["linear"][:, :1].copy(), "targets": arguments["targets"][:1].copy()}
    names = ("linear", "targets", "row_norm", "loss", "clip")
    expected = oracles.langevin_residuals(*(np.copy(arguments[n]) if n == "linear" else arguments[n] for n in names))
    case.arguments = arguments
    assert_allclose(case.run()["linear"], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("radius", [0.0, 2.0])
@pytest.mark.parametrize("with_moment", [True, False])
def test_langevin_tail(radius: float, with_moment: bool) -> None:
    case = call("langevin_tail")
    case.arguments |= {"radius": radius, "moment": case.arguments["moment"] if with_moment else None}
    given = {**case.arguments, "theta": case.arguments["theta"].copy()}
    expected = oracles.langevin_tail(given.pop("theta"), given.pop("gradient"), given.pop("moment"), **given)
    assert_allclose(case.run()["theta"], expected, rtol=1e-12, atol=1e-14)


def test_the_twins_know_an_easy_answer() -> None:
    # mu = 1, epsilon = 0: delta = 2 Phi(1/2) - 1
    delta = math.erf(0.5 / math.sqrt(2))
    assert oracles.gdp_mu(0.0, delta) == pytest.approx(1.0, rel=1e-12)
