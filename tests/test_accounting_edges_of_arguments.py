"""Ranges of arguments: what lies outside is refused by name, what lies at the end of a range is taken."""

import math

import numpy as np
import pytest

from expunge.accounting import (
    RenyiFilter,
    StepCost,
    assumed_noise_privacy_loss,
    composition_rdp,
    contraction_rdp,
    contraction_steps,
    fit_log_steps,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    langevin_steps,
    noise_sensitivity,
    predict_steps,
    privacy_loss,
    quadrature_weights,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
    weak_triangle_rdp,
)

NAN, INF = math.nan, math.inf
POSITIVE = ([0.0, -0.5, NAN, INF], [1e-3, 0.5, 3.0])
NOT_NEGATIVE = ([-1e-3, NAN, INF], [0.0, 0.5, 3.0])
DIVERGENCE = ([-1e-3, NAN], [0.0, 0.5, 3.0, INF])
ORDER = ([1.0, 0.5, NAN, INF], [1.25, 3.0])
PROBABILITY = ([-1e-3, 1.001, NAN], [0.0, 0.5, 1.0])
INSIDE = ([0.0, 1.0, -0.1, 1.5, NAN], [0.5, 1e-3])

STEPS = {"order": 2.0, "log_sobolev": 1.0, "contraction": 0.9, "noise_std": 0.3}
CHAIN = {
    "epsilon": 1.0, "delta": 0.1, "smoothness": 4.0, "strong_convexity": 1e-3, "lipschitz": 1.0, "sigma": 1.0,
    "n_records": 50, "group_size": 2, "step_size": 0.2,
}  # fmt: skip
STEP = {"noise_std": 1.0, "step_size": 0.1, "sampling_probability": 0.5, "batch_size": 2.0}
NORMS = np.array([[0.25, 0.5], [0.5, 0.25]])
NO_STEP = np.empty((1, 0), dtype=np.int64)
RUN = {**STEP, "order": 2.0, "n_steps": 4, "steps": [0, 3]}
QUIET = {name: value for name, value in RUN.items() if name != "noise_std"}


def filtered(*, order, budget, n_records, grad_norms, delta, charge_noise=1.0, charge_step=0.1, **step):
    keeper = RenyiFilter(order, budget, n_records=n_records, **step)
    keeper.charge(grad_norms, noise_std=charge_noise, step_size=charge_step)
    return keeper.epsilon(delta=delta)


def line(privacy_loss, **where):
    fit = fit_log_steps([1.0, 2.0, 4.0], [1.0, 2.0, 4.0])
    return fit.prediction_interval(privacy_loss) if where["interval"] else fit.predict(privacy_loss)


# A function, arguments that fit, and of each the values refused and the values taken.
RANGES = {
    "gdp_delta": (gdp_delta, {"mu": 1.0, "epsilon": 1.0}, {"mu": NOT_NEGATIVE, "epsilon": NOT_NEGATIVE}),
    "gdp_epsilon": (gdp_epsilon, {"mu": 1.0, "delta": 0.1}, {"mu": NOT_NEGATIVE, "delta": PROBABILITY}),
    "gdp_mu": (gdp_mu, {"epsilon": 1.0, "delta": 0.1}, {"epsilon": NOT_NEGATIVE, "delta": PROBABILITY}),
    "sampled_gaussian_rdp": (
        sampled_gaussian_rdp,
        {"order": 2.0, "noise_multiplier": 1.0, "sampling_probability": 0.5},
        {"order": ORDER, "noise_multiplier": DIVERGENCE, "sampling_probability": PROBABILITY},
    ),
    "rdp_to_epsilon": (
        rdp_to_epsilon,
        {"rdp": 0.5, "order": 2.0, "delta": 0.1},
        {"rdp": DIVERGENCE, "order": ORDER, "delta": PROBABILITY},
    ),
    "weak_triangle_rdp": (
        weak_triangle_rdp,
        {"rdp_pr": 1.0, "rdp_rq": 1.0, "order": 2.0},
        {"rdp_pr": DIVERGENCE, "rdp_rq": DIVERGENCE, "order": ORDER},
    ),
    "contraction_rdp": (
        contraction_rdp,
        {"rdp": 1.0, "n_steps": 2, **STEPS},
        {
            "rdp": DIVERGENCE,
            "order": ORDER,
            "log_sobolev": POSITIVE,
            "contraction": NOT_NEGATIVE,
            "noise_std": NOT_NEGATIVE,
            "n_steps": ([-1], [0, 1]),
        },
    ),
    "contraction_steps": (
        contraction_steps,
        {"rdp": 1.0, "target_rdp": 0.1, **STEPS},
        {
            "rdp": DIVERGENCE,
            "order": ORDER,
            "log_sobolev": POSITIVE,
            "contraction": NOT_NEGATIVE,
            "noise_std": NOT_NEGATIVE,
            "target_rdp": NOT_NEGATIVE,
        },
    ),
    "contraction_steps to epsilon": (
        contraction_steps,
        {"rdp": 1.0, "epsilon": 1.0, "delta": 0.1, **STEPS},
        {"epsilon": NOT_NEGATIVE, "delta": INSIDE},
    ),
    "predict_steps": (
        predict_steps,
        {"privacy_loss": [1.0], "target_rdp": 0.1, **STEPS},
        {"privacy_loss": ([[-1.0], [NAN]], [[0.0], [0.5], [INF]]), "order": ORDER},
    ),
    "langevin_steps": (
        langevin_steps,
        CHAIN,
        {
            "epsilon": POSITIVE,
            "delta": INSIDE,
            "smoothness": ([0.0, -1.0, NAN, INF], [0.5, 5.0]),
            "strong_convexity": ([0.0, -1.0, NAN, INF, 4.001], [0.5, 4.0]),
            "lipschitz": POSITIVE,
            "sigma": POSITIVE,
            "n_records": ([0, -1], [2, 3]),
            "group_size": ([0, -1, 51], [1, 50]),
            "step_size": ([0.0, -1.0, NAN, INF, 0.25 * (1 + 1e-14)], [0.1, 0.25, 0.25 * (1 + 4e-16)]),
        },
    ),
    "RenyiFilter": (
        filtered,
        {"order": 2.0, "budget": 1.0, "n_records": 2, "grad_norms": [0.5, 1.0], "delta": 0.1, **STEP},
        {
            "order": ORDER,
            "budget": DIVERGENCE,
            "grad_norms": ([[-1.0, 1.0], [NAN, 1.0], [1.0]], [[0.0, INF]]),
            "delta": PROBABILITY,
            "noise_std": NOT_NEGATIVE,
            "step_size": POSITIVE,
            "sampling_probability": PROBABILITY,
            "batch_size": POSITIVE,
        },
    ),
    "privacy_loss": (
        privacy_loss,
        {"grad_norms": NORMS, **RUN},
        {
            "grad_norms": ([-NORMS, NAN * NORMS, NORMS[0]], [0 * NORMS, INF * NORMS]),
            "order": ([*ORDER[0], [1.0, 2.0], [[2.0]]], [*ORDER[1], [1.25, 2.0]]),
            "noise_std": (NOT_NEGATIVE[0], [*NOT_NEGATIVE[1], [1.0], [1.0, 2.0], NORMS]),
            "step_size": (POSITIVE[0], [*POSITIVE[1], [1.0], [1.0, 2.0], NORMS]),
            "sampling_probability": PROBABILITY,
            "batch_size": POSITIVE,
            "steps": ([[0, 4], [-1, 3], [2, 2], [3, 0], [[0, 1], [3, 2]]], [[0, 1], [2, 3], [[0, 3], [1, 2]]]),
            "n_steps": ([0, -1], [4]),
        },
    ),
    "composition_rdp": (
        composition_rdp,
        {"grad_norms": NORMS, "l2_bound": 0.5, **RUN},
        {
            "grad_norms": (
                [-NORMS, NAN * NORMS, INF * NORMS, NORMS[0], NORMS[:, :0], np.full((2, 2), 0.5 * (1 + 2e-6))],
                [0 * NORMS, NORMS[:, None, :], NORMS[:1], np.full((2, 2), 0.5 * (1 + 5e-7))],
            ),
            "order": ORDER,
            "noise_std": POSITIVE,
            "step_size": POSITIVE,
            "sampling_probability": PROBABILITY,
            "batch_size": POSITIVE,
            "l2_bound": ([0.0, -1.0, NAN, INF], [0.5, 2.0]),
            "n_steps": ([0, -1], [4]),
        },
    ),
    "composition_rdp at given exponents": (
        composition_rdp,
        {"grad_norms": NORMS, "l2_bound": 0.5, **RUN, "p": 3.0},
        {"p": ([1.0, 0.5, NAN, INF, [], [[2.0]]], [1.5, [1.5, 3.0], [2.0]])},
    ),
    "noise_sensitivity": (
        noise_sensitivity,
        {"grad_norms": NORMS, "noise_levels": [0.5, 1.0], "top": [0.5], **QUIET},
        {
            "noise_levels": ([[0.0, 1.0], [-1.0, 1.0], [NAN, 1.0], [INF, 1.0], [1.0], [[1.0, 2.0]]], [[0.1, 0.5]]),
            "order": ([*ORDER[0], [2.0, 3.0]], ORDER[1]),
            "top": ([[0.0], [1.0], [NAN], [-0.1], [1.1]], [0.25, [0.01, 0.99]]),
            "grad_norms": ([NORMS[:1]], [NORMS]),
        },
    ),
    "assumed_noise_privacy_loss": (
        assumed_noise_privacy_loss,
        {"grad_norms": NORMS, "assumed_noise_std": 1.0, **QUIET},
        {"assumed_noise_std": POSITIVE, "order": ORDER},
    ),
    "StepCost": (
        StepCost,
        {"order": 2.0, "sampling_probability": 0.5},
        {"order": ORDER, "sampling_probability": PROBABILITY},
    ),
    "quadrature_weights": (
        quadrature_weights,
        {"steps": [0, 3], "n_steps": 4},
        {"steps": ([NO_STEP[0], NO_STEP, [[[0]]], 3, [1, 1], [0, 4]], [[0], [3], [[1, 1]]]), "n_steps": ([0, -1], [4])},
    ),
    "fit_log_steps": (
        fit_log_steps,
        {"privacy_loss": [1.0, 2.0, 4.0], "steps": [1.0, 2.0, 4.0], "confidence": 0.9},
        {
            "privacy_loss": (
                [[0.0, 1.0, 2.0], [-1.0, 1.0, 2.0], [INF, 1.0, 2.0], [[1.0, 2.0, 3.0]], [2.0, 2.0, 2.0]],
                [[1e-3, 1.0, 2.0]],
            ),
            "steps": ([[-1.0, 1.0, 2.0], [INF, 1.0, 2.0], [NAN, 1.0, 2.0], [[1.0, 2.0, 3.0]]], [[0.0, 0.5, 2.0]]),
            "confidence": INSIDE,
        },
    ),
    "LogFit.predict": (
        line,
        {"privacy_loss": [1.0], "interval": False},
        {"privacy_loss": ([[0.0], [-1.0], [NAN]], [[0.5], [INF], 2.0])},
    ),
    "LogFit.prediction_interval": (
        line,
        {"privacy_loss": [1.0], "interval": True},
        {"privacy_loss": ([[0.0], [-1.0], [NAN], [INF]], [[0.5], 2.0])},
    ),
}  # fmt: skip
CASES = [(name, argument) for name, (_, _, ranges) in RANGES.items() for argument in ranges]


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_a_range_ends_where_it_is_said_to(name, argument):
    function, fitting, ranges = RANGES[name]
    refused, taken = ranges[argument]
    for value in refused:
        with pytest.raises(ValueError, match=rf"^{argument} (must|is)"):
            function(**{**fitting, argument: value})
    for value in taken:
        function(**{**fitting, argument: value})


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_answers_do_not_depend_on_how_the_caller_treats_floating_point_errors(name, argument):
    function, fitting, ranges = RANGES[name]
    for value in ranges[argument][1]:
        with np.errstate(all="raise"):
            function(**{**fitting, argument: value})


@pytest.mark.parametrize("argument", ["noise_std", "step_size"])
def test_a_filter_refuses_the_noise_and_the_step_size_of_one_step(argument):
    keeper = RenyiFilter(2.0, 1.0, n_records=1, **STEP)
    for value in (NOT_NEGATIVE if argument == "noise_std" else POSITIVE)[0]:
        with pytest.raises(ValueError, match=rf"^{argument} must"):
            keeper.charge([1.0], **{argument: value})
    assert keeper.n_steps == 0
    assert keeper.spent.tolist() == [[0.0]]
