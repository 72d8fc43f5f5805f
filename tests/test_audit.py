"""An attacker with many runs of both worlds finds no more than the exact law allows nor that more than the bound."""

import numpy as np
import pytest

from expunge.accounting import gdp_epsilon
from expunge.evaluation import audited_epsilon
from expunge.langevin import langevin_chains
from expunge.runs.ridge.bounds import tracked_mu
from expunge.runs.ridge.law import Phase, RidgeDeletion, smoothness

CHAINS = 100_000
CONFIDENCE = 0.999


@pytest.fixture(scope="module")
def worlds():
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((8, 2)), rng.standard_normal((8, 1))
    X[0] *= 1.5  # a record worth attacking: the exact epsilon at delta = 1e-3 is a little above 1
    y[0] += 1.0
    run = {"alpha": 1.0, "step_size": 1 / smoothness(X, alpha=1.0)}
    phases = [Phase(15, 0.3), Phase(1, 0.3, (0,))]

    def chains(present, seed):
        theta = None
        for k, rows in enumerate((X if present else X[1:], X[1:])):
            targets = y if present and k == 0 else y[1:]
            phase = phases[k]
            theta = langevin_chains(
                rows,
                targets,
                loss="squared",
                **run,
                noise_std=phase.noise_std,
                n_steps=phase.n_steps,
                n_chains=CHAINS,
                theta0=theta,
                seed=seed + k,
            )
        return theta.reshape(CHAINS, -1)

    deletion = RidgeDeletion(X, y, **run, deleted=[0])
    return chains(True, 100), chains(False, 200), deletion, phases


@pytest.mark.parametrize("delta", [1e-3, 1e-2])
@pytest.mark.parametrize("direction", ["pq", "qp"])
def test_audit_stays_below_exact_stays_below_shifted(worlds, direction, delta):
    p_runs, q_runs, deletion, phases = worlds
    state = deletion.run(phases)
    pair = deletion.pair(state)
    # The best linear score knows both laws: it is the log likelihood ratio for equal covariances.
    covariance = np.cov(q_runs.T)
    weight = np.linalg.solve(covariance, p_runs.mean(axis=0) - q_runs.mean(axis=0))
    scores_p, scores_q = p_runs @ weight, q_runs @ weight
    if direction == "qp":
        scores_p, scores_q = -scores_q, -scores_p
    audited = audited_epsilon(scores_p, scores_q, delta=delta, confidence=CONFIDENCE).epsilon
    exact = float(pair.epsilon(delta, direction=direction))
    delta_s = delta / 10
    mu = tracked_mu(deletion, phases, delta_s=delta_s)
    # gdp_delta(mu, eps) + e^eps delta_s <= delta, solved with e^eps bounded by its value at the answer.
    shifted = float(gdp_epsilon(mu, delta - np.exp(exact) * delta_s)) if np.exp(exact) < 10 else np.inf
    assert 0 < audited <= exact <= shifted


def test_chains_have_the_law_the_certificate_says(worlds):
    p_runs, q_runs, deletion, phases = worlds
    state = deletion.run(phases)
    basis = deletion.reference.vectors
    cov_q = basis @ np.diag(state.variance_q) @ basis.T
    cov_p = cov_q + basis @ state.covariance_difference @ basis.T
    means = {"p": state.mean_p[:, 0], "q": state.mean_p[:, 0] - (basis @ state.mean_difference)[:, 0]}
    for runs, covariance, mean in ((p_runs, cov_p, means["p"]), (q_runs, cov_q, means["q"])):
        error = (runs.mean(axis=0) - mean) / np.sqrt(np.diag(covariance) / CHAINS)
        assert np.all(np.abs(error) < 5)
        spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / CHAINS)
        assert np.all(np.abs(np.cov(runs.T) - covariance) < 5 * spread)
