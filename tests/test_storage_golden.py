"""Model files of versions 3 (a deletion's law kept), 5 (of a program) and newton-1 are read, and go on from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import expunge
from expunge.certificates import Certificate, Policy
from expunge.certificates.residual import verify

GOLDEN = Path(__file__).parent / "golden"
NEWTON = json.loads((GOLDEN / "newton-1" / "expected.json").read_text())
PROGRAM = json.loads((GOLDEN / "models-v5" / "expected.json").read_text())
LAW = json.loads((GOLDEN / "models-v3" / "expected.json").read_text())
X = np.array(NEWTON["X"])


def expected(name: str) -> tuple[Any, dict[str, Any]]:
    values = NEWTON["models"][name]
    return getattr(expunge, values["kind"]), values


def _same(found: Any, wanted: list[Any]) -> None:
    if isinstance(wanted[0], float):  # another BLAS rounds otherwise
        assert_allclose(found, wanted, rtol=1e-12)
    else:
        assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", NEWTON["models"])
def test_a_newton_model_of_the_first_format_answers_and_is_verified(name):
    cls, values = expected(name)
    model = cls.load(GOLDEN / "newton-1" / f"{name}.npz")
    assert_array_equal(model.coef_, values["coef"])
    assert_array_equal(model.intercept_, values["intercept"])
    _same(model.predict(X), values["predictions"])
    rows, y = np.delete(X, 4, axis=0), np.delete(np.array(values["y"]), 4)
    weights = np.where(y == 1, 2.0, 1.0) if name == "softmax" else None
    report = verify(model.certificate_, rows, y, evidence=model.evidence_, released=model, sample_weight=weights)
    assert report.certified
    assert model.certificate_.release == 2


@pytest.mark.parametrize("name", NEWTON["models"])
def test_a_newton_model_of_the_first_format_forgets_further_records(name):
    cls, values = expected(name)
    model = cls.load(GOLDEN / "newton-1" / f"{name}.npz")
    ids = model.ids_
    after = model.unlearn(ids[0].item()).model
    assert after.ids_.tolist() == ids[1:].tolist()
    assert after.certificate_.release == 3
    assert values["kind"] == after.certificate_.model.estimator


@pytest.mark.parametrize("name", NEWTON["models"])
def test_a_released_newton_model_of_the_first_format_answers(name):
    cls, values = expected(name)
    released = cls._released_class.load(GOLDEN / "newton-1" / f"{name}-released.npz")
    _same(released.predict(X), values["predictions"])


def test_a_kept_law_is_read_and_certifies_further_deletions():
    model = expunge.LangevinRidge.load(GOLDEN / "models-v3" / "regressor.npz")
    assert_array_equal(model.coef_, LAW["coef"])
    assert_allclose(model.predict(np.array(LAW["X"])), LAW["mean"], rtol=1e-12)
    result = model.unlearn(ids="p7", epsilon=1.0, delta=1e-3, n_steps=5)
    assert result.certificate.run.deleted == (4, 7)
    report = result.certificate.verify(np.array(LAW["X"]), np.array(LAW["y"]), result.model)
    assert report.status == "conditional"
    with pytest.raises(ValueError, match="p4"):
        model.unlearn(ids="p4", epsilon=1.0, delta=1e-3, n_steps=5)


def test_a_model_of_a_program_is_read_and_its_claims_stay_about_the_program():
    model = expunge.LangevinRidge.load(GOLDEN / "models-v5" / "regressor.npz")
    data, policy = (np.array(PROGRAM["X"]), np.array(PROGRAM["y"])), Policy(of_program=True, allow_conditional=True)
    assert model.of_program_
    assert_array_equal(model.coef_, PROGRAM["coef"])
    assert_array_equal(model.release().coef_, PROGRAM["coef"])
    assert_allclose(model.predict(data[0]), PROGRAM["mean"], rtol=1e-12)
    released = expunge.ReleasedRidge.load(GOLDEN / "models-v5" / "regressor-released.npz")
    Certificate.load(GOLDEN / "models-v5" / "certificate.json").verify(*data, released, policy=policy)
    result = model.unlearn(ids="p7", epsilon=1.0, delta=1e-3, n_steps=5)
    assert result.certificate.run.deleted == (4, 7)
    assert result.certificate.verify(*data, result.model, policy=policy).status == "conditional"
