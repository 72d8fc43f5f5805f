"""Numbers of the references, to 60 digits or as published, lie within enclosures computed from their inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
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
PUBLISHED = json.loads((GOLDEN / "published_forms.json").read_text())["pairs"]
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


def of_kind(start):
    found = [pair for pair in PUBLISHED if pair["quantity"].startswith(start)]
    assert found, start
    return found


def number(value) -> arb:
    return arb(float(value))


def test_published_noise_of_descent_to_delete_and_how_its_steps_grow_are_enclosed():
    """The code bases worked in float64."""
    for pair in of_kind("D2D output sigma"):
        c = {name: number(value) for name, value in pair["config"].items() if name != "dataset"}
        rate = ((c["L"] - c["m"]) / (c["L"] + c["m"])) ** pair["config"]["I"]
        level = (1 / c["delta"]).log()
        room = (level + c["eps"]).sqrt() - level.sqrt()
        sigma = 4 * arb(2).sqrt() * c["M"] * rate / (c["m"] * c["n"] * (1 - rate) * room)
        assert near(sigma, pair["value"], 1e-11)
    for pair in of_kind("D2D steps"):
        c = {name: number(value) for name, value in pair["config"].items() if not isinstance(value, str)}
        rate = -((c["L"] - c["m"]) / (c["L"] + c["m"])).log()
        later = [((4 * c["d"] * i / c["delta"]).log().log() / rate).ceil() for i in range(1, len(pair["value"]) + 1)]
        assert all(one.is_exact() for one in later)
        rises = [int(b.unique_fmpz()) - int(later[0].unique_fmpz()) for b in later]
        assert rises == [value - pair["value"][0] for value in pair["value"]]


def test_published_epsilons_and_budgets_in_closed_form_are_enclosed():
    for pair in of_kind("residual budget"):
        c = {name: number(value) for name, value in pair["config"].items()}
        budget = c["sigma"] * c["eps"] / (2 * (arb(1.5) / c["delta"]).log()).sqrt()
        assert near(budget, pair["value"], 1e-13)
    for pair in of_kind("eps0 as"):
        c = {name: number(value) for name, value in pair["config"].items() if not isinstance(value, (str, list))}
        for sigma, value in zip(pair["config"]["sigma"], pair["value"], strict=True):
            slope = 4 * (c["S"] * c["M"]) ** 2 / (c["m"] * number(sigma) ** 2 * c["n"] ** 2)
            level = (1 / c["delta"]).log()
            least = slope + 2 * (slope * level).sqrt()  # at the order 1 + sqrt(level / slope), within (1, 1e4]
            assert 1 + (level / slope).sqrt() < 10_000
            assert near(least, value, 1e-10)


def least_exceeds(function: Callable[[arb], arb], low: Fraction, high: Fraction, level: arb, depth: int = 60) -> bool:
    """Return whether a function of orders is proved to exceed a level everywhere between two."""
    ends = [arb(one.numerator) / one.denominator for one in (low, high)]
    if function(ends[0].union(ends[1])) > level:
        return True
    middle = (low + high) / 2
    if depth == 0 or function(arb(middle.numerator) / middle.denominator) <= level:
        return False
    halves = (low, middle), (middle, high)
    return all(least_exceeds(function, *half, level, depth - 1) for half in halves)


def steps_enclosed(config, value, **change):
    """Check that steps suffice at some order, and that the number before on the grid does at none."""
    c = {name: number(one) for name, one in {**config, **change}.items() if not isinstance(one, (str, list))}
    low, high = (Fraction(end) for end in config.get("alpha_bounds", (1.0, 1e4)))
    level = (1 / c["delta"]).log()

    def epsilon(order, steps):
        learned = 4 * order * (c["S"] * c["M"]) ** 2 / (c["m"] * c["sigma"] ** 2 * c["n"] ** 2)
        return (-steps * c["m"] * c["eta"] / order).exp() * learned + level / (order - 1)

    orders = np.geomspace(float(low) - 1 if low > 1 else 1e-3, float(high) - 1, 4000) + 1
    assert any(epsilon(arb(float(one)), value) <= c["eps"] for one in orders)
    if value > 1:
        first = max(low, Fraction(1) + Fraction(1, 1000))  # below it the last term alone is above eps
        assert level * 1000 > c["eps"]
        before = value - config["K_step"]
        assert least_exceeds(lambda order: epsilon(order, before), first, high, c["eps"])


@pytest.mark.parametrize("pair", of_kind("K"), ids=lambda pair: f"{pair['quantity'][:8]}-{pair['config']['dataset']}")
def test_published_numbers_of_langevin_steps_are_proved(pair):
    config, value = pair["config"], pair["value"]
    if pair["quantity"].startswith("K(S)"):
        for size, one in zip(config["S"], value, strict=True):
            steps_enclosed({**config, "S": size}, one)
    elif pair["quantity"].startswith("K(eps)"):
        for epsilon, one in zip(config["eps"], value, strict=True):
            steps_enclosed({**config, "eps": epsilon}, one)
    else:
        steps_enclosed(config, value)


def test_a_published_number_that_is_one_step_off_is_noticed():
    pair = of_kind("K")[0]
    for wrong in (pair["value"] - pair["config"]["K_step"], pair["value"] + pair["config"]["K_step"]):
        with pytest.raises(AssertionError):
            steps_enclosed(pair["config"], wrong)
