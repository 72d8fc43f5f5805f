"""Tables of edge cases in docstrings say what happens."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator
from math import inf

import numpy as np
import pytest

from expunge import LangevinRidge, accounting

ROW = re.compile(r"^ *``(\w.*?)``  +(\S.*)$", re.MULTILINE)
NAMES = {
    **{name: getattr(accounting, name) for name in accounting.__all__},
    "inf": inf,
    "setting": {"order": 2.0, "log_sobolev": 1.0, "contraction": 0.5, "noise_std": 1.0},
}


def rows() -> Iterator[tuple[str, str]]:
    for name in accounting.__all__:
        text = inspect.getdoc(getattr(accounting, name)) or ""
        for table in re.findall(r"Edge case +Value\n=.*?\n(.*?)\n=", text, re.DOTALL):
            yield from ROW.findall(table)


ROWS = list(rows())


def test_functions_of_accounting_have_tables() -> None:
    assert {call.partition("(")[0] for call, _ in ROWS} >= {
        "GaussianPair", "contraction_steps", "gdp_delta", "gdp_epsilon", "gdp_mu", "rdp_to_epsilon",
        "sampled_gaussian_rdp", "shifted_mu",
    }  # fmt: skip


@pytest.mark.parametrize(("call", "value"), ROWS)
def test_edge_cases_are_as_documented(call: str, value: str) -> None:
    if value.endswith("Error"):
        with pytest.raises(ValueError, match=r"\w"):
            eval(call, dict(NAMES))
    else:
        assert eval(call, dict(NAMES)) == eval(value, {"inf": inf})


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = X @ [1.0, 2.0]
    X[5], y[5] = 0.0, 0.0
    return X, y


def learned(data: tuple[np.ndarray, np.ndarray], **changes: float) -> LangevinRidge:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LangevinRidge(
            **{"fit_intercept": False, "n_steps": 200, "noise_std": 0.01, "random_state": 0, **changes}
        ).fit(*data)


def test_edge_cases_of_quotes_are_as_documented(data: tuple[np.ndarray, np.ndarray]) -> None:
    model, target = learned(data), {"epsilon": 1.0, "delta": 1e-5}
    assert model.quote(**target, n_steps=20, rows=[5]).noise_std.tolist() == [0.0]
    assert model.quote(**target, noise_std=0.01, rows=[5]).n_steps.tolist() == [0]
    assert model.quote(**{**target, "epsilon": 3.0}, n_steps=20, rows=[3], method="shifted").noise_std.tolist() == [inf]
    assert np.isfinite(model.quote(**{**target, "epsilon": 2.3}, n_steps=20, rows=[3], method="shifted").noise_std)
    silent = learned(data, noise_std=0.0).quote(**target, n_steps=20, rows=[3])
    assert 0.0 < silent.noise_std[0] < inf
    for wrong in ([], [3, 3], [30]):
        with pytest.raises(ValueError, match="rows must"):
            model.quote(**target, n_steps=20, rows=wrong)
    for given in ({}, {"n_steps": 20, "noise_std": 0.1}):
        with pytest.raises(ValueError, match="exactly one of n_steps and noise_std"):
            model.quote(**target, **given)


def test_edge_cases_of_deletions_are_as_documented(data: tuple[np.ndarray, np.ndarray]) -> None:
    model, target = learned(data), {"epsilon": 1.0, "delta": 1e-5, "n_steps": 20}
    found = model.unlearn(5, **target)
    assert found.certificate.run.phases[-1].noise_std == 0.0
    with pytest.raises(ValueError, match="deleted before"):
        found.model.unlearn(5, **target)
    for arguments, changes, match in (
        ((range(30),), {}, "leave at least one"),
        ((3,), {"noise_std": 0.0}, "noise_std must be at least"),
        ((3,), {"delta": 0.0}, "delta must be"),
        ((3,), {"n_steps": 0}, "n_steps must be"),
        ((), {"ids": 3}, "this model has none"),
    ):
        with pytest.raises(ValueError, match=match):
            model.unlearn(*arguments, **{**target, **changes})
