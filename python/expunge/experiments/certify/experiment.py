"""Experiment (f): the noise of certified deletions by difficulty, and the accuracy that it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge._kernels.backend import one_blas_thread
from expunge._types import Float64
from expunge.accounting import gdp_mu
from expunge.experiments.certify.accuracy import Learned, expected_accuracy
from expunge.experiments.certify.findings import ROUTES, findings
from expunge.experiments.certify.settings import CertifySettings
from expunge.experiments.exact.subjects import RidgeSubject
from expunge.experiments.exact.subjects import load as load_all
from expunge.experiments.power import detectable_words
from expunge.experiments.tables import finite
from expunge.experiments.work import Context
from expunge.runs.residual import record_quotes
from expunge.runs.ridge import LearningLaw, exact_quotes, shifted_quotes

__all__ = [
    "LIMITS",
    "QUESTION",
    "SETTINGS",
    "TITLE",
    "TRAINS",
    "findings",
    "load",
    "noise_levels",
    "parts",
    "power",
    "work",
]

TITLE = "What does a certified deletion cost, record by record?"
QUESTION = (
    "A deletion from a ridge classifier by noisy steps can be certified with the noise that its own record needs, by "
    "the exact laws or by a bound on its sensitivity, or with the noise that the worst record needs; a Newton step "
    "needs noise of its own. How much noise does each route ask of easy and of hard records, and how much accuracy "
    "is left?"
)
LIMITS = (
    "Ridge regression on one-hot targets, full batches and fixed features: nothing here was measured on a network.",
    "Noise that is chosen for a record tells something of the record; certificates are about what is released, with "
    "that noise given. The noise of the residual route is on released parameters, that of the others in every step, "
    "so that the accuracies are what can be compared.",
    "Splits are of the same records, and intervals over them are not those of new data. Shifted, uniform and residual "
    "noise is certified, exact noise an estimate with a tolerance of 1e-7, relatively, accuracy an expectation over "
    "the known law of the release, in closed form, on these test records.",
)
SETTINGS = CertifySettings
TRAINS = False


def noise_levels(settings: CertifySettings) -> tuple[float, ...]:
    """Return the one noise level of learning."""
    return (settings.noise_std,)


def parts(settings: CertifySettings, seed: int) -> list[str]:
    """Return the pieces of a seed, which is a split of the records."""
    return ["split"]


def power(settings: CertifySettings, n_seeds: int) -> str:
    """Say beforehand which mean difference of accuracies these splits can see."""
    return detectable_words(
        n_seeds, std=settings.assumed_accuracy_std, what="a mean difference of accuracies", unit="", most=1.0
    )


def load(settings: CertifySettings) -> RidgeSubject:
    """Return all records, to learn from and to test with, as features."""
    return load_all(settings.of_all)


def work(
    context: Context[CertifySettings], subject: RidgeSubject, part: str, *, seed: int, noise_std: float
) -> list[dict[str, Any]]:
    """Quote every record of a split by every route, and take the accuracies of some of them."""
    s = context.settings
    assert subject.labels is not None  # of images
    order = np.random.default_rng(seed).permutation(len(subject.labels))
    train, test = order[: s.n_train], order[s.n_train : s.n_train + s.n_test]
    X, targets = np.ascontiguousarray(subject.X[train]), np.ascontiguousarray(subject.targets[train])
    X_test, labels = subject.X[test], subject.labels[test]
    with one_blas_thread():
        step_size = 1.0 / (float(np.linalg.eigvalsh(X.T @ X)[-1]) + s.alpha)
        run: dict[str, Any] = {
            "alpha": s.alpha, "step_size": step_size, "n_steps": s.n_steps, "noise_std": s.noise_std
        }  # fmt: skip
        law, learned = LearningLaw(X, targets, **run), Learned.of(X, targets, **run)
        found = noises(s, law, np.arange(s.n_train), epsilon=s.epsilon)
        # Records that need no noise are told apart by the bound on their sensitivity.
        ranked = np.lexsort((found["shifted"], found["exact"]))
        rank = np.empty(s.n_train, dtype=np.int64)
        rank[ranked] = np.arange(s.n_train)
        places = np.linspace(0, s.n_train - 1, s.n_points).round().astype(int)
        chosen = ranked[places]
        rows: list[dict[str, Any]] = [
            {
                "kind": "record", "seed": seed, "record": int(train[i]), "rank": int(rank[i]),
                **{route: finite(found[route][i]) for route in ROUTES},
            }
            for i in range(s.n_train)
        ]  # fmt: skip
        rows.append({"kind": "split", "seed": seed, "before": expected_accuracy(*learned.scores(X_test), labels)})
        after = [learned.without(int(i), n_steps=s.unlearn_steps) for i in chosen]
        for epsilon in s.epsilons:
            asked = noises(s, law, chosen, epsilon=epsilon)
            for k, one in enumerate(after):
                ways = {route: one.optimum_scores if route == "residual" else one.scores for route in ROUTES}
                known = [route for route in ROUTES if np.isfinite(asked[route][k])]
                scores = {route: ways[route](X_test, noise_std=float(asked[route][k])) for route in known}
                rows.append(
                    {
                        "kind": "accuracy", "seed": seed, "point": k, "record": int(train[chosen[k]]),
                        "rank": int(places[k]), "epsilon": epsilon,
                        **{route: finite(asked[route][k]) for route in ROUTES},
                        **{
                            f"accuracy_{route}": expected_accuracy(*scores[route], labels) if route in scores else None
                            for route in ROUTES
                        },
                    }
                )  # fmt: skip
    return rows


def noises(
    settings: CertifySettings, law: LearningLaw, records: np.ndarray[Any, np.dtype[np.int64]], *, epsilon: float
) -> dict[str, Float64]:
    """Return the noise that each route asks of some records, by the names of `ROUTES`, each of shape (m,).

    Infinite where a route can certify nothing, 0 where the noise of learning suffices.
    """
    s = settings
    goal: dict[str, Any] = {"epsilon": epsilon, "delta": s.delta, "n_steps": s.unlearn_steps, "threads": 1}
    X, targets = law.design, law.targets
    hessian = X.T @ X
    hessian[np.diag_indices_from(hessian)] += s.alpha
    residual = record_quotes(
        X, np.linalg.solve(hessian, X.T @ targets).T, loss="squared", alpha=s.alpha, noise_std=s.noise_std,
        mu=float(gdp_mu(epsilon, s.delta)), delta=s.delta, targets=targets, rows=records, threads=1,
    )  # fmt: skip
    return {
        "uniform": shifted_quotes(law, records, uniform=True, **goal).noise_std,
        "shifted": shifted_quotes(law, records, **goal).noise_std,
        "exact": exact_quotes(law, records, **goal).noise_std,
        "residual": residual.one_step_noise_bound,
    }
