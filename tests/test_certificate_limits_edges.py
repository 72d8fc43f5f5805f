"""Verification where numbers end: a budget without limit, parameters whose law leaves the range of float64."""

import numpy as np
import pytest

import oracles
from expunge.certificates import Certificate, VerificationError
from expunge.runs.ridge.law import Phase, RidgeDeletion
from given_runs import run_on


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(11)
    X, y = rng.normal(size=(14, 3)), rng.normal(size=(14, 1))
    return X, y, run_on(X, alpha=1.5, step=0.9, phases=(Phase(6, 0.3), Phase(3, 0.3, (4,))), deleted=(4,))


def test_a_budget_may_be_without_limit_and_is_never_negative(case):
    X, y, run = case
    model = oracles.ridge_run(X, y, run, np.random.default_rng(1))
    certificate = Certificate.create(X=X, y=y, model=model, run=run, epsilon=2.0, delta=0.5)
    assert certificate.verify(X, y, budget=float("inf")).certified
    with pytest.raises(VerificationError) as caught:
        certificate.verify(X, y, budget=0)
    assert caught.value.field == "budget"
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="budget must be"):
            certificate.verify(X, y, budget=bad)


def test_parameters_whose_distance_overflows_are_refused_as_a_model(case):
    X, y, run = case
    vectors = RidgeDeletion(X, y, alpha=run.alpha, step_size=run.step_size, deleted=(4,)).reference.vectors
    far = 1.7e308 * np.sign(vectors[:, [0]])
    with pytest.raises(VerificationError, match="its law under the run cannot be computed") as caught:
        Certificate.create(X=X, y=y, model=far, run=run, epsilon=2.0, delta=0.5)
    assert caught.value.field == "model"
