"""The exact noise and steps that deletions from a ridge run need, and what deletions from a softmax head take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import Float64
from expunge.accounting import gdp_mu
from expunge.experiments.exact.measures import leverages, ridge_influence, run_measures
from expunge.experiments.exact.settings import ExactSettings
from expunge.experiments.exact.subjects import RidgeSubject
from expunge.experiments.tables import finite
from expunge.forget_sets import random_forget_set
from expunge.runs.residual import InverseHessian, Objective, Rows, blocks_of, polish
from expunge.runs.residual.quotes import objective_quotes
from expunge.runs.ridge import ExactQuotes, exact_group_quotes, exact_quotes, shifted_group_quotes, shifted_quotes

__all__ = ["head_rows", "record_rows", "refit_rows", "set_rows"]


def _steps(quotes: ExactQuotes) -> list[int | None]:
    """Return steps, None where no number suffices."""
    return [int(one) if one >= 0 else None for one in quotes.n_steps]


def record_rows(subject: RidgeSubject, settings: ExactSettings, records: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return, for each of some records, the exact noise and steps, and the measures in closed form."""
    s, law = settings, subject.law(settings)
    goal: dict[str, Any] = {"epsilon": s.epsilon, "delta": s.delta, "threads": 1}
    noise = exact_quotes(law, records, n_steps=s.unlearn_steps, **goal)
    strict = exact_quotes(law, records, n_steps=s.unlearn_steps, **{**goal, "epsilon": s.strict_epsilon})
    steps = [exact_quotes(law, records, noise_std=level, **goal) for level in s.noise_stds]
    shifted = shifted_quotes(law, records, n_steps=s.unlearn_steps, **goal)
    moved, leverage = ridge_influence(subject, s)[records], leverages(subject.X, alpha=s.alpha)[records]
    table = [_steps(one) for one in steps]
    error = np.max([noise.error, strict.error, *(one.error for one in steps)], axis=0)
    return [
        {
            "kind": "record",
            "record": int(record),
            "noise": finite(noise.noise_std[i]),
            "strict_noise": finite(strict.noise_std[i]),
            "steps": [column[i] for column in table],
            "shifted_noise": finite(shifted.noise_std[i]),
            "influence": float(moved[i]),
            "leverage": float(leverage[i]),
            "error": finite(error[i]),
        }
        for i, record in enumerate(records)
    ]


def set_rows(subject: RidgeSubject, settings: ExactSettings, size: int) -> list[dict[str, Any]]:
    """Return the exact cost of sets of one size, beside what is made of the costs and measures of their records."""
    s, law = settings, subject.law(settings)
    goal: dict[str, Any] = {"epsilon": s.epsilon, "delta": s.delta, "threads": 1}
    losses = run_measures(subject, s, seed=0)["privacy_loss"]
    order = np.argsort(losses, kind="stable")
    starts = np.linspace(0, len(losses) - size, s.n_sets).round().astype(int)
    ranked = [np.sort(order[start : start + size]) for start in starts]
    drawn = [random_forget_set(n_records=len(losses), size=size, seed=k).indices for k in range(s.n_sets)]
    members = [*ranked, *drawn]
    noise = exact_group_quotes(law, members, n_steps=s.unlearn_steps, **goal)
    steps = [_steps(exact_group_quotes(law, members, noise_std=level, **goal)) for level in s.noise_stds]
    shifted = shifted_group_quotes(law, members, n_steps=s.unlearn_steps, **goal)
    alone = exact_quotes(law, np.unique(np.concatenate(members)), n_steps=s.unlearn_steps, **goal)
    single = np.full(len(losses), np.nan)
    single[np.unique(np.concatenate(members))] = alone.noise_std
    together, moved = ridge_influence(subject, s, members), ridge_influence(subject, s)
    return [
        {
            "kind": "set",
            "size": size,
            "chosen": "ranked" if i < s.n_sets else "random",
            "noise": finite(noise.noise_std[i]),
            "steps": [column[i] for column in steps],
            "shifted_noise": finite(shifted.noise_std[i]),
            "influence": float(together[i]),
            "sum_influence": float(moved[rows].sum()),
            "max_influence": float(moved[rows].max()),
            "sum_noise": finite(single[rows].sum()),
            "max_noise": finite(single[rows].max()),
            "sum_privacy_loss": float(losses[rows].sum()),
            "max_privacy_loss": float(losses[rows].max()),
        }
        for i, rows in enumerate(members)
    ]


def _head(subject: RidgeSubject, settings: ExactSettings) -> tuple[Objective, Float64, InverseHessian, float]:
    """Return a softmax head at its optimum, with the inverse Hessian there and the least bound that rounding allows."""
    p, q = subject.X.shape[1], subject.targets.shape[1]
    objective = Objective(blocks_of(Rows(subject.X, subject.labels)), "softmax", p, q, settings.alpha)
    found = polish(objective, np.zeros((q, p)), target=1e-6 * settings.alpha)
    sums = objective.sums(found.theta)
    gradient = float(np.linalg.norm(objective.gradient(found.theta, sums)))
    floor = sums.norm_bound(found.theta, alpha=settings.alpha) - gradient
    return objective, found.theta, InverseHessian.of(objective, found.theta), floor


def head_rows(subject: RidgeSubject, settings: ExactSettings) -> list[dict[str, Any]]:
    """Return what a softmax head tells of each record at its optimum: measures, and the quotes of its deletion."""
    s = settings
    objective, theta, _, _ = _head(subject, s)
    residuals = np.empty((len(objective), objective.n_outputs))
    objective.sums(theta, residuals=residuals)
    rows = np.arange(len(objective))
    mu = float(gdp_mu(s.epsilon, s.delta))
    quotes = objective_quotes(objective, theta, noise_std=s.head_noise_std, mu=mu, delta=s.delta, rows=rows)
    el2n = np.linalg.norm(residuals, axis=1)
    assert subject.labels is not None
    own = 1.0 + residuals[rows, subject.labels]  # residuals are probabilities minus the truth
    return [
        {
            "kind": "head",
            "record": int(i),
            "influence": float(quotes.sensitivity_estimate[i]),
            "grad_norm": float(el2n[i] * np.linalg.norm(subject.X[i])),
            "el2n": float(el2n[i]),
            "loss": float(-np.log(max(own[i], 5e-324))),
            "leverage": float(quotes.leverage_bound[i]),
            "one_step_noise_bound": finite(quotes.one_step_noise_bound[i]),
            "sensitivity_bound": finite(quotes.sensitivity_bound[i]),
            "passes_estimate": int(quotes.passes_estimate[i]),
        }
        for i in rows
    ]


def refit_rows(subject: RidgeSubject, settings: ExactSettings) -> list[dict[str, Any]]:
    """Return what the deletion of some random records from the head did take: distance, noise after a step, passes."""
    s = settings
    objective, theta, inverse, floor = _head(subject, s)
    n = len(objective)
    records = np.sort(np.random.default_rng(0).choice(n, size=min(s.n_refits, n), replace=False))
    mu = float(gdp_mu(s.epsilon, s.delta))
    rows = []
    for record in records:
        where = np.array([record])
        rest = objective.without(where)
        start = inverse.without(objective.take(where))
        worked = polish(rest, theta, target=s.alpha * s.head_noise_std * mu, inverse=start)
        best = polish(rest, worked.theta, target=8.0 * floor, inverse=worked.inverse).theta
        first = theta - (start or InverseHessian.of(rest, theta)).step(rest.gradient(theta, rest.sums(theta)))
        rows.append(
            {
                "kind": "refit",
                "record": int(record),
                "distance": float(np.linalg.norm(best - theta)),
                "one_step_noise": float(np.linalg.norm(best - first)) / mu,
                "passes": int(worked.passes),
            }
        )
    return rows
