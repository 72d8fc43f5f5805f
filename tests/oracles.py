"""Slow, obvious NumPy truth: one function per kernel."""

import numpy as np

# --- privacy -----------------------------------------------------------------------------------

# --- ridge -------------------------------------------------------------------------------------

# --- langevin ----------------------------------------------------------------------------------

# --- accounting.ridge_law ----------------------------------------------------------------------


def ridge_run_laws(X, Y, *, alpha, step_size, phases, deleted):
    """Mean and covariance after the phases [(n_steps, noise_std, removed)], step by step: (P, Q).

    P drops the rows each phase removes; Q never has the deleted ones.
    """
    n, p = X.shape

    def law(dropped_in):
        mean, covariance = np.zeros((p, Y.shape[1])), np.zeros((p, p))
        for n_steps, noise_std, removed in phases:
            keep = [i for i in range(n) if i not in dropped_in(removed)]
            hessian = X[keep].T @ X[keep] + alpha * np.eye(p)
            for _ in range(n_steps):
                mean = mean - step_size * (hessian @ mean - X[keep].T @ Y[keep])
                step = np.eye(p) - step_size * hessian
                covariance = step @ covariance @ step + noise_std**2 * np.eye(p)
        return mean, covariance

    return law(lambda removed: set(removed)), law(lambda removed: set(deleted))


def gaussian_renyi(law_p, law_q, order):
    """Renyi divergence of N(m_P, S_P (x) I_q) from N(m_Q, S_Q (x) I_q), from the textbook formula."""
    (mean_p, cov_p), (mean_q, cov_q) = law_p, law_q
    q = mean_p.shape[1]
    blend = order * cov_q + (1 - order) * cov_p
    if np.linalg.eigvalsh(blend)[0] <= 0:
        return np.inf
    difference = mean_p - mean_q
    quadratic = 0.5 * order * np.sum(difference * np.linalg.solve(blend, difference))
    log_det = np.linalg.slogdet
    volume = log_det(blend)[1] - (1 - order) * log_det(cov_p)[1] - order * log_det(cov_q)[1]
    return quadratic - q * volume / (2 * (order - 1))
