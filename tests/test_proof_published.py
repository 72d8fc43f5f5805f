"""Published numbers lie within enclosures computed from their inputs; those of a search are proved to be what it finds.

Their code bases worked in float64, and ended searches at tolerances of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from expunge.accounting import published

pytest.importorskip("flint")
from flint import arb

from expunge import proof
from expunge.proof import balls

PUBLISHED = json.loads((Path(__file__).parent / "golden" / "published_forms.json").read_text())["pairs"]
SEARCHED = 1e-6  # relative tolerance of the published searches


@pytest.fixture(autouse=True)
def many_bits():
    with balls.precision(256):
        yield


def near(found: arb, value: float, relative: float) -> bool:
    """Return whether a narrow ball lies within a relative distance of a float."""
    assert found.rel_accuracy_bits() > 44
    return bool(abs(found - value) <= abs(arb(value)) * relative)


def numbers(config, *left_out) -> dict[str, arb]:
    """Return the numbers of a setting as balls."""
    return {
        name: number(value)
        for name, value in config.items()
        if not isinstance(value, (str, list)) and name not in left_out
    }


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


def slope(order: arb, c: dict[str, arb], steps: int) -> arb:
    """Return the derivative in the order of the epsilon after some steps, which rises with it."""
    scale = 4 * (c["S"] * c["M"]) ** 2 / (c["m"] * c["sigma"] ** 2 * c["n"] ** 2)
    decay = steps * c["m"] * c["eta"] / order
    return (-decay).exp() * scale * (1 + decay) - (1 / c["delta"]).log() / (order - 1) ** 2


def is_best(order: arb, c: dict[str, arb], steps: int) -> bool:
    return bool(slope(order * (1 - arb(SEARCHED)), c, steps) < 0 and slope(order * (1 + arb(SEARCHED)), c, steps) > 0)


@pytest.mark.parametrize("pair", of_kind("alpha*"), ids=lambda pair: pair["config"]["dataset"])
def test_published_orders_are_proved_to_be_the_best_for_their_steps(pair):
    steps = next(one["value"] for one in of_kind("K") if one["config"] == pair["config"])
    c, order = numbers(pair["config"]), arb(pair["value"])
    assert is_best(order, c, steps)
    assert not is_best(order * (1 + 3 * arb(SEARCHED)), c, steps)


def test_published_divergences_at_the_best_order_are_enclosed():
    for pair in of_kind("eps0 = RDP"):
        config = pair["config"]
        for sigma, value in zip(config["sigma"], pair["value"], strict=True):
            c = numbers(config) | {"sigma": number(sigma)}
            asked = {"epsilon": config["eps"], "delta": config["delta"], "sigma": sigma, "group_size": config["S"]}
            names = {"smoothness": "L", "strong_convexity": "m", "lipschitz": "M", "n_records": "n", "step_size": "eta"}
            asked |= {name: config[key] for name, key in names.items()}
            steps = published.langevin_steps(**asked, step_grid=10).value
            steps_enclosed({**config, "sigma": sigma, "K_step": 10}, steps)
            scale = 4 * (c["S"] * c["M"]) ** 2 / (c["m"] * c["sigma"] ** 2 * c["n"] ** 2)
            assert is_best(arb(value) / scale, c, steps)  # the divergence of learning is the order times this


@pytest.mark.parametrize("pair", of_kind("sequential K (index"), ids=lambda pair: pair["config"]["dataset"])
def test_published_sequences_of_langevin_steps_are_proved(pair):
    """Each number suffices at some order, and one less at none."""
    config, c = pair["config"], numbers(pair["config"], "eps")
    scale = 4 * (c["S_per_request"] * c["M"]) ** 2 / (c["m"] * c["sigma"] ** 2 * c["n"] ** 2)
    level, goal, per_step = (1 / c["delta"]).log(), number(config["eps"]), c["m"] * c["eta"]
    low, high = (Fraction(end) for end in config["alpha_bounds"])
    steps = pair["value"][1:]
    assert pair["value"][0] == 0

    def before(order: arb, request: int) -> arb:
        """Return what request (from 0) finds: from the start, so that no order is a ball more than once a level."""
        total = scale * order * 2**request
        for earlier in range(request):
            order_then = order * 2 ** (request - 1 - earlier)  # whose double the earlier request left
            left = (-per_step * steps[earlier] / (2 * order_then)).exp() * total
            total = (1 + arb(0.5) / (order_then - 1)) * (2 * scale * order_then + left)
        return total

    def epsilon(order: arb, request: int, count: int) -> arb:
        return (-per_step * count / order).exp() * before(order, request) + level / (order - 1)

    for request, count in enumerate(steps):
        ends = float(low) - 1, float(high) - 1
        for _ in range(3):  # each grid between the neighbours of the best order of the one before
            grid = np.geomspace(*ends, 101) + 1
            found = [epsilon(arb(float(order)), request, count) for order in grid]
            at = min(range(len(grid)), key=lambda i: float(found[i].mid()))
            ends = grid[max(at - 1, 0)] - 1, grid[min(at + 1, len(grid) - 1)] - 1
        assert found[at] <= goal
        assert least_exceeds(lambda order, r=request, k=count - 1: epsilon(order, r, k), low, high, goal)


@pytest.mark.parametrize(
    "pair",
    of_kind("sequential K in epochs"),
    ids=lambda pair: "-".join(str(pair["config"][name]) for name in ("dataset", "b", "sigma", "eps", "variant")),
)
def test_published_sequences_of_epochs_are_proved(pair):
    """Each number suffices, and one less does not: at the best order the epsilon is x + 2 sqrt(x log(1/delta))."""
    config, c = pair["config"], numbers(pair["config"])
    tight = config["variant"] == "legacy"
    batches = config["n"] // config["b"]
    kept, level = 1 - c["m"] * c["eta"], (1 / c["delta"]).log()
    apart = 2 * c["eta"] * c["M"] / (c["b"] * (1 - kept ** (1 if tight else batches)))
    spread = 2 * c["eta"] * c["sigma"] ** 2

    def epsilon(distance: arb, epochs: int, crude: bool) -> arb:
        power = kept ** (2 * epochs * batches)
        cost = distance**2 / spread * (power if crude else (1 - kept**2) * power / (1 - power))
        return cost + 2 * (cost * level).sqrt()

    distance = apart
    for request, (earlier, epochs) in enumerate(pairwise(pair["value"])):
        if request:
            distance = distance * kept ** (earlier * batches) + apart
        crude = request == 0 and not tight
        assert epsilon(distance, epochs, crude) <= c["eps"]
        assert epochs == 1 or epsilon(distance, epochs - 1, crude) > c["eps"]


@pytest.mark.parametrize("pair", of_kind("sigma for k=1"), ids=lambda pair: f"{pair['config']['b']}")
def test_published_noise_of_one_epoch_is_where_its_search_ended(pair):
    config, c = pair["config"], numbers(pair["config"])
    n, batches = c["n"], config["n"] // config["b"]
    m = number(1e-6) * n
    eta, level = 1 / (arb(0.25) + m), n.log()
    kept = (1 - m * eta) ** batches
    apart = 2 * eta / (c["b"] * (1 - kept))

    def epsilon(sigma: arb) -> arb:
        """Return the least over a = 1 + x of (2 x + 1)(x + 1) / x cost + level / x."""
        cost = (apart * kept) ** 2 / (2 * eta * sigma**2)
        return 3 * cost + 2 * (2 * cost * (level + cost)).sqrt()

    for value in pair["value"].values():
        sigma = arb(value)
        assert epsilon(sigma * (1 + arb(SEARCHED))) < c["eps"] < epsilon(sigma * (1 - arb(SEARCHED)))


def test_published_epsilons_of_clipped_fine_tuning_are_enclosed():
    order = arb(1000)
    for pair in of_kind("(eps,1e-5) printed"):
        c, value = numbers(pair["config"]), pair["value"]
        rho, delta = c["eps_renyi"], pair["config"]["delta"]
        printed = rho + (1 - 1 / order).log() - (c["delta"].log() + order.log()) / (order - 1)
        assert near(printed, value["code"], 1e-13)
        for name, factor in (("exact_gaussian_with_weight_decay", 2), ("exact_gaussian_without", 4)):
            mu = float((factor * rho).sqrt().mid())
            found = proof.gdp_epsilon(mu=mu, delta=delta)
            assert found.lower * (1 - 1e-13) <= value[name] <= found.upper * (1 + 1e-13)


def test_a_number_of_a_published_sequence_that_is_one_off_is_noticed():
    for kind, test in (
        ("sequential K (index", test_published_sequences_of_langevin_steps_are_proved),
        ("sequential K in epochs", test_published_sequences_of_epochs_are_proved),
    ):
        pair = of_kind(kind)[0]
        for off in (-1, 1):
            value = [one + off * (at == 2) for at, one in enumerate(pair["value"][:3])]
            with pytest.raises(AssertionError):
                test({**pair, "value": value})


def test_every_kind_of_published_number_is_enclosed_by_a_test_of_this_file():
    kinds = (
        "D2D output",
        "D2D steps",
        "residual budget",
        "eps0 as",
        "eps0 = RDP",
        "K",
        "alpha*",
        "sequential K (index",
    )
    kinds += ("sequential K in epochs", "sigma for k=1", "(eps,1e-5) printed")
    assert {pair["quantity"] for pair in PUBLISHED} == {p["quantity"] for kind in kinds for p in of_kind(kind)}
