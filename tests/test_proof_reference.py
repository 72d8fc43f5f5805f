"""Numbers of the references, to 60 digits, lie within enclosures computed from their inputs."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from expunge.accounting import clipped
from expunge.runs.ridge.law import Phase

pytest.importorskip("flint")
from flint import arb, arb_mat

from expunge import proof
from expunge.proof import balls
from expunge.proof.gdp import delta_ball
from expunge.proof.matrices import exact_matrix
from expunge.proof.ridge import prove_deltas
from expunge.proof.ridge_law import laws_of
from expunge.proof.ridge_shifted import _eigenvalues
from expunge.proof.roots import enclosed_root
from expunge.proof.state import Stages

GOLDEN = Path(__file__).parent / "golden"
RIDGE = json.loads((GOLDEN / "reference.json").read_text())["ridge"]
NOISE = json.loads((GOLDEN / "noise_reference.json").read_text())
RECORDS = [
    pytest.param(one, record, id=f"{i}-{record['index']}") for i, one in enumerate(RIDGE) for record in one["records"]
]


@pytest.fixture(autouse=True)
def many_bits():
    with balls.precision(256):
        yield


def contains(found: arb, text: str) -> bool:
    """Return whether a ball meets what a decimal number may stand for, half a unit of its last digit to either side."""
    digits = len(text.lower().split("e")[0].replace(".", "").replace("-", "").lstrip("0"))
    value = arb(text)
    return bool(found.overlaps(value + value * arb(0, 0.5) * arb(10) ** (1 - digits)))


def near(found: arb, value: float, relative: float) -> bool:
    """Return whether a narrow ball lies within a relative distance of a float."""
    assert found.rel_accuracy_bits() > 44
    return bool(abs(found - value) <= abs(arb(value)) * relative)


def run_of(one, record):
    gone = (record["index"],)
    phases = [Phase(one["learn_steps"], one["learn_noise_std"])]
    phases.append(Phase(one["unlearn_steps"], one["unlearn_noise_std"], gone))
    return {"alpha": one["alpha"], "step_size": one["step_size"], "phases": phases, "deleted": list(gone)}


@pytest.mark.parametrize(("one", "record"), RECORDS)
def test_every_ridge_delta_is_enclosed(one, record):
    X, Y = np.array(one["X"]), np.array(one["Y"])
    for epsilon in record["delta_pq"]:
        truth = {name: record[f"delta_{name}"][epsilon] for name in ("pq", "qp")}  # 0 stands for less than 1e-280
        claim = min(max(*truth.values(), 1e-290) * (1 + 1e-9), 1.0)
        found = prove_deltas(X, Y, **run_of(one, record), epsilon=float(epsilon), claim=claim)
        assert found.outcome == "proved", found.reason
        for name in truth:
            enclosed = getattr(found, f"delta_{name}")
            assert enclosed.lower * (1 - 1e-10) - 1e-250 <= truth[name] <= enclosed.upper * (1 + 1e-10) + 1e-250
        largest = max(found.delta_pq.upper, found.delta_qp.upper)
        assert largest < 1e-200 or largest <= max(truth.values()) * (1 + 1e-9)


@pytest.mark.parametrize(("one", "record"), RECORDS)
def test_every_ridge_divergence_eigenvalue_and_mu_is_enclosed(one, record):
    X, Y, run = np.array(one["X"]), np.array(one["Y"]), run_of(one, record)
    laws = laws_of(X, Y, **run, stages=Stages(lambda _: None))
    mixed, apart, q = laws.covariance_q * 2 - laws.covariance_p, laws.mean_p - laws.mean_q, Y.shape[1]
    # D_2 of Gaussian laws: determinants, and the distance of the means in the mixed covariance, columns apart.
    spread = mixed.det().log() + laws.covariance_p.det().log() - 2 * laws.covariance_q.det().log()
    divergence = (apart.transpose() * (mixed.inv() * apart)).trace() - q * spread / 2
    assert near(divergence, record["renyi_2_pq"], 1e-10)
    kept = exact_matrix(np.delete(X, record["index"], axis=0))
    hessian = kept.transpose() * kept + arb_mat(X.shape[1], X.shape[1], 1) * arb(one["alpha"])
    least = _eigenvalues(hessian)[0]
    assert near(least, record["m_without"], 1e-11)
    contraction = 1 - arb(one["step_size"]) * least
    assert contraction >= 1 - arb(one["step_size"]) * _eigenvalues(hessian)[1]  # the slowest direction decides
    sensitivity = [*record["residual_sensitivity_bound"], *[0.0] * one["unlearn_steps"]]
    noise = [one["learn_noise_std"]] * one["learn_steps"] + [one["unlearn_noise_std"]] * one["unlearn_steps"]
    mu = proof.shifted_mu(sensitivity, float(contraction.mid()), noise)
    assert math.isclose(mu.upper, record["shifted_mu"], rel_tol=1e-9)
    assert mu.upper <= mu.lower * (1 + 1e-15)


@pytest.mark.parametrize("case", NOISE["noisy_finetuning"], ids=lambda case: str(case["steps"]))
def test_noise_of_clipped_fine_tuning_is_enclosed(case):
    start, clip, eta, decay = (arb(case[name]) for name in ("C0", "C1", "eta", "weight_decay"))
    epsilon, delta, steps = arb(case["epsilon"]), arb(case["delta"]), case["steps"]
    kept = 1 - eta * decay
    powers = [kept**k for k in range(steps)]
    distance = 2 * start * kept**steps + 2 * eta * clip * sum(powers, arb(0))
    spread = sum((one * one for one in powers), arb(0)).sqrt()
    mu = enclosed_root(lambda x: delta_ball(x, epsilon) - delta, 0.3, increasing=True)
    sigma = distance / spread / mu
    assert sigma.rel_accuracy_bits() > 55
    assert contains(sigma, case["sigma"])
    names = {"initial_bound": "C0", "clip": "C1", "step_size": "eta", "weight_decay": "weight_decay"}
    given = {name: float(case[key]) for name, key in names.items()}
    found = clipped.noise_std(**given, n_steps=steps, epsilon=case["epsilon"], delta=float(case["delta"]))
    assert near(sigma, found, 1e-12)


def test_spending_of_a_filter_of_norms_is_enclosed_and_stops_where_it_must():
    case = NOISE["gdp_filter"]
    budget, noise, clip = (Fraction(str(case[name])) for name in ("budget_mu", "noise_multiplier", "clip"))
    for norms, barred, spent in zip(case["norms"], case["first_step_barred"], case["spent_mu"], strict=True):
        steps = [(min(Fraction(str(norm)), clip) / clip / noise) ** 2 for norm in norms]
        before = sum(steps[:barred], Fraction(0))
        assert before <= budget**2
        assert barred == len(steps) or before + steps[barred] > budget**2
        total = (arb(before.numerator) / before.denominator).sqrt()
        assert contains(total, spent)
    assert any(barred < len(norms) for norms, barred in zip(case["norms"], case["first_step_barred"], strict=True))
