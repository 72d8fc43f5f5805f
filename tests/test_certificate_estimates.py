"""A certificate that says estimate: it can be made, is told as one everywhere, and verifies nowhere."""

import numpy as np
import pytest

import oracles
from expunge.certificates import Certificate, Policy, RidgeRun, Sources, VerificationError
from expunge.runs.ridge.law import Phase


def test_an_estimate_is_made_kept_and_shown_as_one_and_certifies_nothing(tmp_path):
    X, y = np.eye(3), np.ones((3, 1))
    run = RidgeRun(
        estimator="LangevinRidge",
        alpha=1.0,
        fit_intercept=False,
        step_size=0.25,
        classes=None,
        n_records=3,
        n_features=3,
        n_outputs=1,
        phases=(Phase(10, 0.5), Phase(5, 1.0, (0,))),
        deleted=(0,),
        sources=Sources(step_size="given", noise_std="given", classes="none"),
    )
    model = oracles.ridge_run(X, y, run, np.random.default_rng(1))
    estimate = Certificate.create(X=X, y=y, model=model, run=run, epsilon=2.0, delta=0.5, status="estimate")
    assert estimate.status == estimate.standing().status == "estimate"
    assert estimate.summary().startswith("estimate: ")
    estimate.save(tmp_path / "estimate.json")
    assert Certificate.load(tmp_path / "estimate.json") == estimate
    for policy in (None, Policy(allow_conditional=True)):
        with pytest.raises(VerificationError, match="an estimate certifies nothing") as caught:
            estimate.verify(X, y, policy=policy)
        assert caught.value.field == "status"
    with pytest.raises(VerificationError, match="an estimate certifies nothing") as caught:
        Policy().check(estimate)
    assert caught.value.field == "policy.allow_conditional"
