"""Slow, obvious NumPy truth: one function per kernel."""

import numpy as np

# --- privacy -----------------------------------------------------------------------------------

# --- ridge -------------------------------------------------------------------------------------

# --- langevin ----------------------------------------------------------------------------------


def philox4x32(counter, key):
    """Philox4x32-10 on Python integers: four words from four counter words and two key words."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def stream_words(n_blocks, seed, chain, step, purpose=0):
    """Words of the blocks of one (seed, chain, step), shape (n_blocks, 4)."""
    key = (seed & 0xFFFFFFFF, seed >> 32)
    high = (chain >> 32) | (purpose << 24)
    words = [philox4x32((i, step, chain & 0xFFFFFFFF, high), key) for i in range(n_blocks)]
    return np.array(words, dtype=np.uint64).reshape(n_blocks, 4)


def normals(count, seed, chain, step, dtype=np.float64):
    """Box-Muller with NumPy's own functions in extended precision where the platform has it."""
    wide = np.longdouble
    if np.dtype(dtype) == np.float64:
        w = stream_words(-(-count // 2), seed, chain, step)
        u = (((w[:, 1] << np.uint64(32)) | w[:, 0] | np.uint64(1)).astype(wide)) / wide(2) ** 64
        turn = ((w[:, 3] << np.uint64(32)) | w[:, 2]).astype(wide) / wide(2) ** 64
    else:
        w = stream_words(-(-count // 4), seed, chain, step)
        u = (w[:, 0::2].ravel().astype(wide) + wide(0.5)) / wide(2) ** 32
        turn = w[:, 1::2].ravel().astype(wide) / wide(2) ** 32
    radius, angle = np.sqrt(-2 * np.log(u)), 8 * np.arctan(wide(1)) * turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count].astype(np.float64)


def langevin_chain(
    X,
    targets,
    *,
    loss,
    alpha,
    step_size,
    noise_std,
    seed,
    chain,
    theta0,
    first_step=0,
    sampling_probability=1.0,
    clip=None,
    radius=None,
    dtype=np.float64,
):
    """One chain, one record at a time, in float64; the path of parameters, shape (n_steps + 1, p, q)."""
    n, p = X.shape
    q = targets.shape[1]
    theta = np.array(theta0, dtype=np.float64)
    path = [theta]
    for k, (eta, tau) in enumerate(zip(step_size, noise_std, strict=True)):
        step = first_step + k
        taken = np.ones(n, dtype=bool)
        if sampling_probability < 1:
            words = stream_words(-(-n // 4), seed, chain, step, purpose=1).ravel()[:n]
            taken = words < np.uint64(int(sampling_probability * 2**32))
        gradient = np.zeros((p, q))
        for x, target in zip(X[taken], targets[taken], strict=True):
            u = x @ theta
            if loss == "ridge":
                residual = u - target
            elif loss == "logistic":
                residual = 1 / (1 + np.exp(-u)) - target
            else:
                e = np.exp(u - u.max())
                residual = e / e.sum() - target
            g = np.outer(x, residual)
            if clip is not None and np.linalg.norm(g) > clip:
                g *= clip / np.linalg.norm(g)
            gradient += g / sampling_probability
        xi = normals(p * q, seed, chain, step, dtype).reshape(q, p).T
        theta = theta - eta * (gradient + alpha * theta) + tau * xi
        if radius is not None and np.linalg.norm(theta) > radius:
            theta = theta * (radius / np.linalg.norm(theta))
        path.append(theta)
    return np.array(path)


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
