"""Slow, obvious NumPy truth: one function per kernel."""

import mpmath
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


# --- accounting.rdp ----------------------------------------------------------------------------


def sampled_gaussian_rdp(order, noise_multiplier, sampling_probability, direction):
    """The integral of ratio^e against N(0, 1) to 40 digits, e = order or 1 - order, panel by panel."""
    with mpmath.workdps(40):
        a, s, q = (mpmath.mpf(float(v)) for v in (order, noise_multiplier, sampling_probability))
        power = 1 - a if direction == "qp" else a

        def integrand(z):
            return mpmath.npdf(z) * (1 - q + q * mpmath.exp(z / s - 1 / (2 * s * s))) ** power

        low = -20 - (a - 1) / s if direction == "qp" else mpmath.mpf(-20)
        high = mpmath.mpf(20) if direction == "qp" else 20 + a / s
        kink = s * mpmath.log((1 - q) / q) + 1 / (2 * s)
        cuts = {low + 2 * k for k in range(int((high - low) / 2) + 2)}
        cuts |= {kink + s * k for k in (-6, -3, -1, 0, 1, 3, 6) if low < kink + s * k < high}
        return mpmath.log(mpmath.quad(integrand, sorted(cuts), maxdegree=7)) / (a - 1)


def rdp_to_epsilon_scan(curve, delta):
    """Best epsilon over a very fine grid of orders, plain formula."""
    a = 1 + np.geomspace(1e-6, 1e9, 400_001)
    return max(np.min(curve(a) + np.log1p(-1 / a) - (np.log(delta) + np.log(a)) / (a - 1)), 0.0)


def privacy_loss_step_by_step(grad_norms, *, order, noise_std, step_size, batch_size, steps, n_steps):
    """Full batch: interpolate the cost at every training step, one by one, and add up."""
    cost = order * (step_size * grad_norms / (batch_size * noise_std)) ** 2 / 2
    return np.array([sum(np.interp(t, steps, row) for t in range(n_steps)) for row in cost])
